//! Where metrics go: to the recorder that is installed, or to one that was given.

use std::fmt;
use std::sync::Arc;

use ::metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit,
};

const METADATA: Metadata<'static> =
    Metadata::new("fabric", Level::INFO, Some("fabric_core::layers::metrics"));

/// What makes the handles of metrics.
#[derive(Clone, Default)]
pub(super) struct Meter(Option<Arc<dyn Recorder + Send + Sync>>);

impl Meter {
    /// Of this recorder, whichever is installed.
    pub(super) fn of(recorder: impl Recorder + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(recorder)))
    }

    pub(super) fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        let key = Key::from_parts(name, labels);
        self.with(|recorder| recorder.register_counter(&key, &METADATA))
    }

    pub(super) fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        let key = Key::from_parts(name, labels);
        self.with(|recorder| recorder.register_gauge(&key, &METADATA))
    }

    pub(super) fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        let key = Key::from_parts(name, labels);
        self.with(|recorder| recorder.register_histogram(&key, &METADATA))
    }

    /// Tells the recorder what the names mean.
    pub(super) fn describe(&self) {
        self.with(|recorder| {
            for (name, what) in COUNTERS {
                recorder.describe_counter(KeyName::from(*name), None, SharedString::from(*what));
            }
            for (name, what) in GAUGES {
                recorder.describe_gauge(KeyName::from(*name), None, SharedString::from(*what));
            }
            for (name, what) in HISTOGRAMS {
                let (name, what) = (KeyName::from(*name), SharedString::from(*what));
                recorder.describe_histogram(name, Some(Unit::Seconds), what);
            }
        });
    }

    fn with<T>(&self, tell: impl FnOnce(&dyn Recorder) -> T) -> T {
        match &self.0 {
            Some(recorder) => tell(&**recorder),
            None => ::metrics::with_recorder(|recorder| tell(recorder)),
        }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "given" } else { "installed" })
    }
}

const COUNTERS: &[(&str, &str)] = &[
    ("fabric_messages_published_total", "Events confirmed"),
    ("fabric_publish_errors_total", "Events that were not confirmed"),
    ("fabric_publish_retries_total", "Events that were sent again"),
    ("fabric_messages_received_total", "Deliveries that arrived"),
    ("fabric_redeliveries_total", "Deliveries that were not the first"),
    ("fabric_missed_total", "Events lost to slowness or retention"),
    ("fabric_settlements_total", "Deliveries acked, nacked and rejected"),
    ("fabric_handler_errors_total", "Deliveries that failed in a handler"),
    ("fabric_dead_letters_total", "Dead letters kept"),
    ("fabric_reconnects_total", "Connections that were restored"),
    ("fabric_circuit_opened_total", "Times that a circuit breaker opened"),
    ("messaging.client.sent.messages", "Events that a producer attempted to send"),
    ("messaging.client.consumed.messages", "Events delivered to a consumer"),
];

const GAUGES: &[(&str, &str)] = &[
    ("fabric_subscriptions", "Open subscriptions"),
    ("fabric_connected", "Whether the connection stands"),
    ("fabric_queue_depth", "Events that a group has still to do"),
    ("fabric_dead_letters", "Dead letters of a group that are kept"),
    ("fabric.client.pending.events", "Events that are unconfirmed"),
];

const HISTOGRAMS: &[(&str, &str)] = &[
    ("fabric_message_latency_seconds", "From an event's time to its arrival"),
    ("messaging.client.operation.duration", "Duration of messaging operations"),
    ("messaging.process.duration", "Duration of processing deliveries"),
];
