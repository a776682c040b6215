//! M8: what metrics and spans say of a backend.

use std::collections::BTreeMap;

use opentelemetry::trace::SpanKind;

use crate::capabilities::Ability;
use crate::chunk::Nack;
use crate::conformance::exporters::{Ended, Metered, Spans};
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::conformance::trial::Trial;
use crate::delivery::Delivery;
use crate::layers::semconv::System;
use crate::layers::{Metrics, Tracing};

/// M8: spans and counters say what happened, by the names of the conventions, and no more: nothing
/// for what only waits in the process, nothing in labels that has many values.
pub async fn telemetry_says_what_happened(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("telemetry"), t.group("g"));
    let (metered, spans) = (Metered::default(), Spans::default());
    let metrics = Metrics::new().with_recorder(metered.clone());
    let tracing = Tracing::new().with_tracer(spans.clone());
    let fabric = t.another().await?.layer(metrics)?.layer(tracing)?;
    let system = System::of(&fabric.info().name);
    let mut reader = t.reader(fabric.subscribe(&topic).group(&group).await?, &group, "m");
    let mut publisher = t.publisher(&fabric, "p");
    publisher.send_many(&topic, 10).await?;
    let first = reader.next().await?;
    let waiting = spans.look();
    ensure!(!waiting.contains_key(&format!("{} {topic}", system.process)), "a span of waiting");

    // Ten events, two of which are given back once and one of which fails for good.
    let mut deliveries = vec![first];
    deliveries.extend(reader.take(9).await?);
    for (n, delivery) in deliveries.into_iter().enumerate() {
        let works = work_on(&delivery, n < 3).await;
        match n {
            0 | 1 => reader.nack(delivery, Nack::now().because("on purpose")).await?,
            2 => reader.reject(delivery, "on purpose").await?,
            _ => reader.ack(delivery).await?,
        }
        ensure_eq!(works.is_err(), n < 3, "whether the work failed");
    }
    for delivery in reader.take(2).await? {
        work_on(&delivery, false).await.ok();
        reader.ack(delivery).await?;
    }
    reader.quiet().await?;
    spans_are_right(&spans.look(), &system, topic.as_str(), group.as_str())?;
    let (sums, labels) = metered.look();
    for (name, value) in [
        ("fabric_messages_published_total", 10.0),
        ("fabric_messages_received_total", 12.0),
        ("fabric_settlements_total", 12.0),
        ("fabric_handler_errors_total", 3.0),
        ("fabric_dead_letters_total", 1.0),
        ("fabric_subscriptions", 1.0),
        ("fabric.client.pending.events", 0.0),
        ("messaging.client.sent.messages", 11.0),
        ("messaging.client.consumed.messages", 12.0),
        ("messaging.process.duration", 12.0),
    ] {
        ensure_eq!(sums.get(name).copied().unwrap_or_default(), value, "the metric `{name}`");
    }
    if t.can(Ability::Attempts) {
        let again = sums.get("fabric_redeliveries_total").copied().unwrap_or_default();
        ensure_eq!(again, 2.0, "the metric `fabric_redeliveries_total`");
    }
    let many = labels.iter().find(|(_, value)| value.contains(t.root()));
    ensure!(many.is_none(), "a label has many values: {many:?}");
    Ok(())
}

async fn work_on(delivery: &Delivery, fails: bool) -> Result<(), String> {
    let work = async { if fails { Err("on purpose".to_owned()) } else { Ok(()) } };
    delivery.process(work).await
}

fn spans_are_right(
    spans: &BTreeMap<String, Vec<Ended>>,
    system: &System,
    topic: &str,
    group: &str,
) -> Verdict {
    let of = |operation: &str| spans.get(&format!("{operation} {topic}")).map_or(&[][..], |s| s);
    let (sent, processed) = (of(system.send), of(system.process));
    ensure_eq!(sent.len(), 10, "spans of publishing");
    ensure_eq!(processed.len(), 12, "spans of processing");
    for span in sent {
        ensure_eq!(span.kind, SpanKind::Producer, "the kind of a publish");
        ensure_eq!(span.attribute("messaging.system"), system.name, "its system");
        ensure_eq!(span.attribute("messaging.operation.type"), "send", "its type");
        ensure_eq!(span.attribute("messaging.destination.name"), topic, "its destination");
        ensure!(!span.attribute("messaging.message.id").is_empty(), "it names no event");
        ensure_eq!(span.attribute("messaging.batch.message_count"), "", "its batch");
    }
    for span in processed {
        ensure_eq!(span.kind, SpanKind::Consumer, "the kind of processing");
        ensure_eq!(span.attribute("messaging.consumer.group.name"), group, "its group");
        // It continues the trace of the publish, which travelled with the event.
        let creation = sent.iter().find(|sent| sent.context.span_id() == span.parent);
        let creation = creation.ok_or_else(|| Failure::new("the trace did not travel"))?;
        let (of, from) = (span.context.trace_id(), creation.context.trace_id());
        ensure_eq!(of, from, "the trace of processing");
        let id = creation.attribute("messaging.message.id");
        ensure_eq!(span.attribute("messaging.message.id"), id, "its event");
    }
    let failed = processed.iter().filter(|span| span.attribute("error.type") == "_OTHER");
    ensure_eq!(failed.count(), 3, "spans of work that failed");
    // Backends have their own words for settlements, which may be the same.
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for (operation, count) in [(system.ack, 9), (system.nack, 2), (system.reject, 1)] {
        *expected.entry(operation).or_default() += count;
    }
    for (operation, count) in expected {
        let settled = of(operation);
        ensure_eq!(settled.len(), count, "spans of `{operation}`");
        for span in settled {
            ensure_eq!(span.kind, SpanKind::Client, "the kind of a settlement");
            ensure_eq!(span.attribute("messaging.operation.type"), "settle", "its type");
            let linked = span
                .links
                .iter()
                .any(|link| sent.iter().any(|sent| sent.context.span_id() == link.span_id()));
            ensure!(linked, "a settlement is not linked to the event");
        }
    }
    Ok(())
}
