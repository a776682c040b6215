//! M8: what metrics and spans say of a backend.

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, InMemorySpanExporterBuilder, SdkTracerProvider, SpanData,
};

use crate::capabilities::Ability;
use crate::chunk::Nack;
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::conformance::trial::Trial;
use crate::delivery::Delivery;
use crate::layers::semconv::System;
use crate::layers::{Metrics, Tracing};

/// Everything that was recorded.
struct Exporters {
    spans: InMemorySpanExporter,
    provider: SdkTracerProvider,
    metrics: Snapshotter,
}

impl Exporters {
    /// Exporters, and the layers that feed them.
    fn new() -> (Self, Metrics, Tracing) {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let spans = InMemorySpanExporterBuilder::new().build();
        let provider = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
        let tracing = Tracing::new().with_tracer(provider.tracer("conformance"));
        let metrics = Metrics::new().with_recorder(recorder);
        (Self { spans, provider, metrics: snapshotter }, metrics, tracing)
    }

    /// The spans that have ended, by name.
    fn spans(&self) -> Verdict<BTreeMap<String, Vec<SpanData>>> {
        let flushed = self.provider.force_flush().and_then(|()| self.spans.get_finished_spans());
        let mut named: BTreeMap<String, Vec<SpanData>> = BTreeMap::new();
        for span in flushed.map_err(|error| Failure::new(error.to_string()))? {
            named.entry(span.name.to_string()).or_default().push(span);
        }
        Ok(named)
    }

    /// Counters and gauges by name, all labels together; every label that there is.
    fn metrics(&self) -> (BTreeMap<String, f64>, Vec<(String, String)>) {
        let (mut sums, mut labels) = (BTreeMap::new(), Vec::new());
        for (key, _, _, value) in self.metrics.snapshot().into_vec() {
            let key = key.key();
            labels.extend(key.labels().map(|l| (l.key().to_owned(), l.value().to_owned())));
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(values) => values.len() as f64,
            };
            *sums.entry(key.name().to_owned()).or_default() += value;
        }
        (sums, labels)
    }
}

fn attribute(span: &SpanData, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
    found.map(|attribute| attribute.value.to_string()).unwrap_or_default()
}

/// M8: spans and counters say what happened, by the names of the conventions, and no more: nothing
/// for what only waits in the process, nothing in labels that has many values.
pub async fn telemetry_says_what_happened(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("telemetry"), t.group("g"));
    let (exporters, metrics, tracing) = Exporters::new();
    let fabric = t.another().await?.layer(metrics)?.layer(tracing)?;
    let system = System::of(&fabric.info().name);
    let mut reader = t.reader(fabric.subscribe(&topic).group(&group).await?, &group, "m");
    let mut publisher = t.publisher(&fabric, "p");
    publisher.send_many(&topic, 10).await?;
    let first = reader.next().await?;
    let waiting = exporters.spans()?;
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
    spans_are_right(&exporters.spans()?, &system, topic.as_str(), group.as_str())?;
    let (sums, labels) = exporters.metrics();
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
    spans: &BTreeMap<String, Vec<SpanData>>,
    system: &System,
    topic: &str,
    group: &str,
) -> Verdict {
    let of = |operation: &str| spans.get(&format!("{operation} {topic}")).map_or(&[][..], |s| s);
    let (sent, processed) = (of(system.send), of(system.process));
    ensure_eq!(sent.len(), 10, "spans of publishing");
    ensure_eq!(processed.len(), 12, "spans of processing");
    for span in sent {
        ensure_eq!(span.span_kind, SpanKind::Producer, "the kind of a publish");
        ensure_eq!(attribute(span, "messaging.system"), system.name, "its system");
        ensure_eq!(attribute(span, "messaging.operation.type"), "send", "its type");
        ensure_eq!(attribute(span, "messaging.destination.name"), topic, "its destination");
        ensure!(!attribute(span, "messaging.message.id").is_empty(), "it names no event");
        ensure_eq!(attribute(span, "messaging.batch.message_count"), "", "its batch");
    }
    for span in processed {
        ensure_eq!(span.span_kind, SpanKind::Consumer, "the kind of processing");
        ensure_eq!(attribute(span, "messaging.consumer.group.name"), group, "its group");
        // It continues the trace of the publish, which travelled with the event.
        let creation = sent.iter().find(|sent| sent.span_context.span_id() == span.parent_span_id);
        let creation = creation.ok_or_else(|| Failure::new("the trace did not travel"))?;
        let (of, from) = (span.span_context.trace_id(), creation.span_context.trace_id());
        ensure_eq!(of, from, "the trace of processing");
        let id = attribute(creation, "messaging.message.id");
        ensure_eq!(attribute(span, "messaging.message.id"), id, "its event");
    }
    let failed = processed.iter().filter(|span| attribute(span, "error.type") == "_OTHER");
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
            ensure_eq!(span.span_kind, SpanKind::Client, "the kind of a settlement");
            ensure_eq!(attribute(span, "messaging.operation.type"), "settle", "its type");
            let linked = span.links.iter().any(|link| {
                sent.iter().any(|sent| sent.span_context.span_id() == link.span_context.span_id())
            });
            ensure!(linked, "a settlement is not linked to the event");
        }
    }
    Ok(())
}
