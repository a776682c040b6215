//! A recorder of metrics and a tracer that keep what they are told, to be looked at.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ::metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags,
    TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue};

/// Counters and gauges by their key, histograms by how much they were given.
#[derive(Clone, Default)]
pub(crate) struct Metered(Arc<Mutex<BTreeMap<Key, Value>>>);

#[derive(Clone)]
enum Value {
    Count(Arc<AtomicU64>),
    Level(Arc<AtomicU64>),
}

impl Metered {
    /// The sum of each name over all labels, and every label that there is.
    pub(crate) fn look(&self) -> (BTreeMap<String, f64>, Vec<(String, String)>) {
        let (mut sums, mut labels) = (BTreeMap::<String, f64>::new(), Vec::new());
        for (key, value) in lock(&self.0).iter() {
            labels.extend(key.labels().map(|l| (l.key().to_owned(), l.value().to_owned())));
            *sums.entry(key.name().to_owned()).or_default() += match value {
                Value::Count(count) => count.load(Ordering::SeqCst) as f64,
                Value::Level(level) => f64::from_bits(level.load(Ordering::SeqCst)),
            };
        }
        (sums, labels)
    }

    fn cell(&self, key: &Key, make: fn(Arc<AtomicU64>) -> Value) -> Arc<AtomicU64> {
        let mut all = lock(&self.0);
        let value = all.entry(key.clone()).or_insert_with(|| make(Arc::default()));
        let (Value::Count(cell) | Value::Level(cell)) = value;
        Arc::clone(cell)
    }
}

impl Recorder for Metered {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key, Value::Count))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key, Value::Level))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Times(self.cell(key, Value::Count))))
    }
}

/// How often a histogram was told something.
struct Times(Arc<AtomicU64>);

impl HistogramFn for Times {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A span that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) context: SpanContext,
    pub(crate) parent: SpanId,
    pub(crate) links: Vec<SpanContext>,
    attributes: Vec<KeyValue>,
}

impl Ended {
    /// The attribute `key` as text, empty if there is none.
    pub(crate) fn attribute(&self, key: &str) -> String {
        let found = self.attributes.iter().rev().find(|attribute| attribute.key.as_str() == key);
        found.map(|attribute| attribute.value.to_string()).unwrap_or_default()
    }
}

/// Keeps the spans that have ended.
#[derive(Clone, Default)]
pub(crate) struct Spans(Arc<Mutex<Vec<Ended>>>);

impl Spans {
    /// The spans that have ended, by name.
    pub(crate) fn look(&self) -> BTreeMap<String, Vec<Ended>> {
        let mut named: BTreeMap<String, Vec<Ended>> = BTreeMap::new();
        for span in lock(&self.0).iter() {
            named.entry(span.name.clone()).or_default().push(span.clone());
        }
        named
    }
}

impl Tracer for Spans {
    type Span = Open;

    fn build_with_context(&self, builder: SpanBuilder, parent: &Context) -> Open {
        let parent = parent.span().span_context().clone();
        let trace = match parent.is_valid() {
            true => parent.trace_id(),
            false => TraceId::from(fastrand::u128(1..)),
        };
        let id = SpanId::from(fastrand::u64(1..));
        let links = builder.links.as_deref().unwrap_or_default().iter();
        let of = Ended {
            name: builder.name.into_owned(),
            kind: builder.span_kind.unwrap_or(SpanKind::Internal),
            context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent: if parent.is_valid() { parent.span_id() } else { SpanId::INVALID },
            links: links.map(|link| link.span_context.clone()).collect(),
            attributes: builder.attributes.unwrap_or_default(),
        };
        Open { of, spans: self.clone(), is_open: true }
    }
}

/// A span that has not ended.
pub(crate) struct Open {
    of: Ended,
    spans: Spans,
    is_open: bool,
}

impl Span for Open {
    fn add_event_with_timestamp<T>(&mut self, _: T, _: SystemTime, _: Vec<KeyValue>)
    where
        T: Into<Cow<'static, str>>,
    {
    }

    fn span_context(&self) -> &SpanContext {
        &self.of.context
    }

    fn is_recording(&self) -> bool {
        self.is_open
    }

    fn set_attribute(&mut self, attribute: KeyValue) {
        self.of.attributes.push(attribute);
    }

    fn set_status(&mut self, _: Status) {}

    fn update_name<T>(&mut self, name: T)
    where
        T: Into<Cow<'static, str>>,
    {
        self.of.name = name.into().into_owned();
    }

    fn add_link(&mut self, context: SpanContext, _: Vec<KeyValue>) {
        self.of.links.push(context);
    }

    fn end_with_timestamp(&mut self, _: SystemTime) {
        if std::mem::take(&mut self.is_open) {
            lock(&self.spans.0).push(self.of.clone());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
