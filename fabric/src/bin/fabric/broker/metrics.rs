//! What a broker counts, in Prometheus' text format.

use std::fmt::Write as _;

use fabric::zmq::broker::BrokerStats;

/// Writes every figure.
pub(super) fn write(stats: &BrokerStats, hwm: usize) -> String {
    let mut out = String::new();
    let counters = [
        ("messages", "Messages taken from publishers", stats.messages),
        ("events", "Events in them", stats.events),
        ("bytes", "Bytes in them", stats.bytes),
        ("control_messages", "Messages of Fabric's own among them", stats.control),
        ("foreign_messages", "Messages that are none of ours", stats.foreign),
        ("linked_messages", "Messages that came from linked brokers", stats.linked),
        ("duplicate_messages", "Messages that had come by another way", stats.duplicates),
        ("requests", "Requests that were routed to a responder", stats.requests),
        ("unanswered_requests", "Requests that nobody answers", stats.unanswered),
        ("refused_connections", "Connections that were not let in", stats.refused),
    ];
    for (name, help, value) in counters {
        family(&mut out, &format!("{name}_total"), help, "counter");
        line(&mut out, &format!("{name}_total"), None, value as f64);
    }
    let gauges = [
        ("uptime_seconds", "For how long it has run", stats.uptime.as_secs_f64()),
        ("publishers", "Publishers that are connected", stats.publishers as f64),
        ("subscribers", "Subscribers that are connected", stats.subscribers as f64),
        ("subscriptions", "Subscriptions that are in force", stats.subscriptions as f64),
        ("responders", "Patterns with a responder", stats.responders as f64),
        ("high_water_mark", "The most messages that wait for one connection", hwm as f64),
    ];
    for (name, help, value) in gauges {
        family(&mut out, name, help, "gauge");
        line(&mut out, name, None, value);
    }
    let topics = &stats.topics;
    family(&mut out, "topic_events_total", "Events by topic; none: all others", "counter");
    topics.iter().for_each(|it| {
        line(&mut out, "topic_events_total", Some(&it.topic), it.events as f64);
    });
    family(&mut out, "topic_bytes_total", "Bytes by topic", "counter");
    topics.iter().for_each(|it| {
        line(&mut out, "topic_bytes_total", Some(&it.topic), it.bytes as f64);
    });
    family(&mut out, "topic_events_per_second", "Events in a second, of late", "gauge");
    topics.iter().for_each(|it| {
        line(&mut out, "topic_events_per_second", Some(&it.topic), it.rate);
    });
    out
}

// Writing to a `String` cannot fail.

fn family(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP fabric_broker_{name} {help}.");
    let _ = writeln!(out, "# TYPE fabric_broker_{name} {kind}");
}

fn line(out: &mut String, name: &str, topic: Option<&str>, value: f64) {
    let _ = match topic {
        Some(topic) => {
            let topic = topic.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            writeln!(out, "fabric_broker_{name}{{topic=\"{topic}\"}} {value}")
        }
        None => writeln!(out, "fabric_broker_{name} {value}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let text = write(&BrokerStats::default(), 10);
        assert!(text.contains("\nfabric_broker_high_water_mark 10\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').unwrap();
            assert!(name.starts_with("fabric_broker_") && value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
