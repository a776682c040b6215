//! Metrics by the facade crate `metrics`: the names of Event Fabric and those of OpenTelemetry.

mod meter;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Label, Recorder};
use futures_util::StreamExt as _;
use smallvec::SmallVec;
use tokio::time::Instant;

use self::meter::Meter;
use super::semconv::System;
use super::way::{Way, groups_by_way, requests};
use crate::backend::{Backend, DynGroups, DynRequestReply, RequestReplyBackend, SharedBackend};
use crate::batch::{Batch, Confirms, Outcomes};
use crate::capabilities::Ability;
use crate::chunk::Chunk;
use crate::event::Event;
use crate::fabric::Fabric;
use crate::group::Group;
use crate::layer::Layer;
use crate::notice::{NoticeKind, Notices};
use crate::options::SubscribeOptions;
use crate::patterns::{IntoPatterns, Patterns};
use crate::request::{Requests, RespondOptions};
use crate::subscription::{Source, Subscription};
use crate::topic::Topic;
use crate::watch::{Asked, Place, Watch, Work};
use crate::{Error, ErrorKind, Result};

/// Counts and times what passes, for whatever recorder of the crate `metrics` is installed.
///
/// | name | kind | labels | what |
/// |---|---|---|---|
/// | `fabric_messages_published_total` | counter | `backend`, `topic`* | events confirmed |
/// | `fabric_publish_errors_total` | counter | `backend`, `error_type` | events that were not |
/// | `fabric_publish_retries_total` | counter | `backend` | events sent again by [`PublishRetry`](super::PublishRetry) |
/// | `fabric_messages_received_total` | counter | `backend`, `group`, `topic`* | deliveries |
/// | `fabric_message_latency_seconds` | histogram | `backend`, `group`, `topic`* | from the event's time to its arrival |
/// | `fabric_redeliveries_total` | counter | `backend`, `group` | deliveries that were not the first |
/// | `fabric_missed_total` | counter | `backend`, `group` | events lost to slowness or retention |
/// | `fabric_settlements_total` | counter | `backend`, `group`, `outcome`, `error_type` | acks, nacks, rejects |
/// | `fabric_handler_errors_total` | counter | `backend`, `group`, `topic`* | tries that failed, and without a try nacks with an error and rejects |
/// | `fabric_dead_letters_total` | counter | `backend`, `group`, `reason` | dead letters kept |
/// | `fabric_subscriptions` | gauge | `backend` | open subscriptions |
/// | `fabric_connected` | gauge | `backend` | 1 while connected, else 0 |
/// | `fabric_reconnects_total` | counter | `backend` | connections that were restored |
/// | `fabric_circuit_opened_total` | counter | `backend` | times that a breaker opened |
/// | `fabric_queue_depth` | gauge | `backend`, `group` | what a group has still to do, see [`measure`](Self::measure) |
/// | `fabric_dead_letters` | gauge | `backend`, `group` | dead letters that are kept, see [`measure`](Self::measure) |
/// | `fabric.client.pending.events` | gauge | `messaging.system` | events that are unconfirmed |
/// | `messaging.client.operation.duration` | histogram | by OpenTelemetry | sending, settling, requests |
/// | `messaging.process.duration` | histogram | by OpenTelemetry | handlers, by consumers or [`Delivery::process`](crate::Delivery::process) |
/// | `messaging.client.sent.messages` | counter | by OpenTelemetry | attempts to send |
/// | `messaging.client.consumed.messages` | counter | by OpenTelemetry | deliveries |
///
/// Labels have few values: a topic shows only where [`topics`](Self::topics) asks for it, and as
/// the pattern that it matches. Deliveries are counted when they arrive in this process, a chunk at
/// a time. Where nobody awaits a confirm, the event counts as sent and not as published.
///
/// Handles are made when the layer is added and when a subscription opens, so **install the
/// recorder first**, or [give one](Self::with_recorder). From then on an event costs a few atomic
/// operations, and those of the recorder.
///
/// It belongs outside of everything but tracing, so that an event counts once, however often it is
/// tried, and times are those that the program waits.
///
/// ```
/// use fabric_core::layers::Metrics;
/// # fn example(fabric: fabric_core::Fabric) -> fabric_core::Result<fabric_core::Fabric> {
/// fabric.layer(Metrics::new().topics(["orders.*", "plan.*.step_ready"])?)
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a layer does nothing before it is added"]
pub struct Metrics {
    topics: Option<Patterns>,
    meter: Meter,
}

impl Metrics {
    /// Without topics in the labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the label `topic`: the first of these patterns that the event's topic matches, else
    /// `other`.
    ///
    /// # Errors
    /// `InvalidTopic` for a pattern that is none.
    pub fn topics(mut self, patterns: impl IntoPatterns) -> Result<Self> {
        self.topics = Some(patterns.into_patterns()?);
        Ok(self)
    }

    /// Tells `recorder`, whichever is installed: where a program has several.
    pub fn with_recorder(mut self, recorder: impl Recorder + Send + Sync + 'static) -> Self {
        self.meter = Meter::of(recorder);
        self
    }

    /// Asks how much each group has still to do, and sets `fabric_queue_depth` and
    /// `fabric_dead_letters` to it: to be called before each scrape, or on a timer.
    ///
    /// # Errors
    /// `Unsupported` where groups cannot be listed and asked, `Closed`, `Connect`.
    ///
    /// # Cancel safety
    /// Some gauges may have been set.
    pub async fn measure(&self, fabric: &Fabric) -> Result<()> {
        let groups = fabric.groups()?;
        for group in groups.list().await? {
            let labels = vec![
                Label::new("backend", fabric.info().name.clone()),
                Label::new("group", group.to_string()),
            ];
            let info = match groups.info(&group).await {
                Ok(info) => info,
                // It was deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let depth = (info.undelivered() + info.pending()) as f64;
            self.meter.gauge("fabric_queue_depth", labels.clone()).set(depth);
            if fabric.capabilities().can(Ability::DeadLetters)
                && let Ok(count) = fabric.dead_letters(&group).count().await
            {
                self.meter.gauge("fabric_dead_letters", labels).set(count as f64);
            }
        }
        Ok(())
    }
}

impl Layer for Metrics {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        self.meter.describe();
        let names = Arc::new(Names::new(&inner.info().name, self.clone()));
        let sending = Arc::new(Sending::new(&names));
        let tap = Arc::new(Tap::new(&names));
        tap.listen(inner.notices());
        let open = names.meter.gauge("fabric_subscriptions", names.backend());
        Ok(Arc::new(Metered { inner, names, sending, tap, open }))
    }
}

/// What every metric of one stack is labelled with.
#[derive(Debug)]
struct Names {
    backend: String,
    system: System,
    topics: Option<Patterns>,
    meter: Meter,
}

impl Names {
    fn new(backend: &str, metrics: Metrics) -> Self {
        let Metrics { topics, meter } = metrics;
        Self { backend: backend.to_owned(), system: System::of(backend), topics, meter }
    }

    fn counters(&self, labels: &[Label], name: &'static str) -> Box<[Counter]> {
        self.by_topic(labels, |labels| self.meter.counter(name, labels))
    }

    fn histograms(&self, labels: &[Label], name: &'static str) -> Box<[Histogram]> {
        self.by_topic(labels, |labels| self.meter.histogram(name, labels))
    }

    fn backend(&self) -> Vec<Label> {
        vec![Label::new("backend", self.backend.clone())]
    }

    fn group(&self, group: Option<&Group>) -> Vec<Label> {
        let mut labels = self.backend();
        labels.push(Label::new("group", group.map(ToString::to_string).unwrap_or_default()));
        labels
    }

    /// The labels of one operation, as OpenTelemetry names them.
    fn operation(&self, name: &'static str, kind: &'static str) -> Vec<Label> {
        vec![
            Label::new("messaging.system", self.system.name.clone()),
            Label::new("messaging.operation.name", name),
            Label::new("messaging.operation.type", kind),
        ]
    }

    /// One handle for each value of the label `topic`.
    fn by_topic<H>(&self, labels: &[Label], make: impl Fn(Vec<Label>) -> H) -> Box<[H]> {
        let Some(topics) = &self.topics else { return Box::new([make(labels.to_vec())]) };
        let values = topics.iter().map(|pattern| pattern.as_str().to_owned());
        let all = values.chain(["other".to_owned()]).map(|topic| {
            let mut labels = labels.to_vec();
            labels.push(Label::new("topic", topic));
            make(labels)
        });
        all.collect()
    }

    /// Which of these handles is that of `topic`.
    fn slot(&self, topic: &Topic) -> usize {
        let Some(topics) = &self.topics else { return 0 };
        let matching = topics.iter().position(|pattern| pattern.matches(topic));
        matching.unwrap_or_else(|| topics.iter().len())
    }
}

fn with(mut labels: Vec<Label>, key: &'static str, value: impl Into<String>) -> Vec<Label> {
    labels.push(Label::new(key, value.into()));
    labels
}

const DURATION: &str = "messaging.client.operation.duration";
const SENT: &str = "messaging.client.sent.messages";

/// What OpenTelemetry calls an error that has no name of its own.
const OTHER: &str = "_OTHER";

/// Handles that are made when a label's value first shows up; few values do.
struct Rare<H>(Mutex<Vec<(&'static str, H)>>);

impl<H: Clone> Rare<H> {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn get(&self, value: &'static str, make: impl FnOnce() -> H) -> H {
        let mut known = lock(&self.0);
        if let Some((_, handle)) = known.iter().find(|(of, _)| *of == value) {
            return handle.clone();
        }
        let handle = make();
        known.push((value, handle.clone()));
        handle
    }
}

/// The handles of one operation: how long it takes, by how it ends.
struct Timed {
    name: &'static str,
    meter: Meter,
    labels: Vec<Label>,
    ok: Histogram,
    failed: Rare<Histogram>,
}

impl Timed {
    fn new(meter: &Meter, name: &'static str, labels: Vec<Label>) -> Self {
        let ok = meter.histogram(name, labels.clone());
        Self { name, meter: meter.clone(), labels, ok, failed: Rare::new() }
    }

    fn record(&self, took: Duration, error: Option<&Error>) {
        self.record_as(took, error.map(|error| error.kind().as_str()));
    }

    fn record_as(&self, took: Duration, error: Option<&'static str>) {
        let Some(error) = error else { return self.ok.record(took) };
        let labels = || with(self.labels.clone(), "error.type", error);
        let make = || self.meter.histogram(self.name, labels());
        self.failed.get(error, make).record(took);
    }
}

/// The handles of publishing and asking.
struct Sending {
    names: Arc<Names>,
    published: Box<[Counter]>,
    errors: Rare<Counter>,
    sent: Counter,
    sent_failed: Rare<Counter>,
    timed: Timed,
    asked: Timed,
    pending: Gauge,
}

impl Sending {
    fn new(names: &Arc<Names>) -> Self {
        let labels = names.operation(names.system.send, "send");
        let system = names.system.name.clone();
        Self {
            published: names.counters(&names.backend(), "fabric_messages_published_total"),
            errors: Rare::new(),
            sent: names.meter.counter(SENT, labels.clone()),
            sent_failed: Rare::new(),
            timed: Timed::new(&names.meter, DURATION, labels),
            asked: Timed::new(&names.meter, DURATION, names.operation("request", "send")),
            pending: names.meter.gauge(
                "fabric.client.pending.events",
                vec![Label::new("messaging.system", system)],
            ),
            names: Arc::clone(names),
        }
    }

    fn failed(&self, count: u64, error: &Error) {
        let kind = error.kind().as_str();
        let label = |labels, key| with(labels, key, kind);
        let errors = || {
            let labels = label(self.names.backend(), "error_type");
            self.names.meter.counter("fabric_publish_errors_total", labels)
        };
        self.errors.get(kind, errors).increment(count);
        let sent = || {
            let labels = self.names.operation(self.names.system.send, "send");
            self.names.meter.counter(SENT, label(labels, "error.type"))
        };
        self.sent_failed.get(kind, sent).increment(count);
    }
}

/// One batch on its way. Dropped without an answer it was sent, and nobody knows more.
struct OnItsWay {
    sending: Arc<Sending>,
    /// The place of each event's topic among the handles.
    slots: SmallVec<[u16; 4]>,
    letters: SmallVec<[(usize, [Label; 2]); 0]>,
    count: usize,
    began: Instant,
    open: bool,
}

impl OnItsWay {
    fn new(sending: &Arc<Sending>, batch: &Batch) -> Self {
        let slot = |event: &Event| sending.names.slot(event.topic()) as u16;
        let slots = match &sending.names.topics {
            Some(_) => batch.events.iter().map(slot).collect(),
            None => SmallVec::new(),
        };
        let letter = |(n, event): (usize, &Event)| {
            let letter = event.dead_letter().filter(|_| event.topic().is_reserved())?;
            let group = Label::new("group", letter.group.to_string());
            Some((n, [group, Label::new("reason", letter.reason.as_str())]))
        };
        let letters = batch.events.iter().enumerate().filter_map(letter).collect();
        let count = batch.events.len();
        sending.pending.increment(count as f64);
        let sending = Arc::clone(sending);
        Self { sending, slots, letters, count, began: Instant::now(), open: true }
    }

    fn failed(mut self, error: &Error) {
        self.open = false;
        self.sending.timed.record(self.began.elapsed(), Some(error));
        self.sending.failed(self.count as u64, error);
    }

    fn watch(self, confirms: Confirms) -> Confirms {
        confirms.map(|outcomes| {
            self.confirmed(&outcomes);
            outcomes
        })
    }

    fn confirmed(mut self, outcomes: &Outcomes) {
        self.open = false;
        let sending = &self.sending;
        let mut failed: SmallVec<[usize; 8]> = SmallVec::new();
        for (n, error) in outcomes.failures() {
            failed.push(n);
            sending.failed(1, error);
        }
        let first = outcomes.failures().next().map(|(_, error)| error);
        sending.timed.record(self.began.elapsed(), first);
        sending.sent.increment((self.count - failed.len().min(self.count)) as u64);
        let is_ok = |n: &usize| !failed.contains(n);
        for (_, labels) in self.letters.iter().filter(|(n, _)| is_ok(n)) {
            let labels = [sending.names.backend(), labels.to_vec()].concat();
            sending.names.meter.counter("fabric_dead_letters_total", labels).increment(1);
        }
        // A dead letter is no publish of the program's.
        let own = |n: &usize| is_ok(n) && self.letters.iter().all(|(letter, _)| letter != n);
        let published = (0..self.count).filter(own);
        match self.slots.is_empty() {
            true => sending.published[0].increment(published.count() as u64),
            false => {
                published.for_each(|n| sending.published[self.slots[n] as usize].increment(1));
            }
        }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.sending.pending.decrement(self.count as f64);
        if self.open {
            self.sending.sent.increment(self.count as u64);
        }
    }
}

/// The handles of one subscription.
struct Receiving {
    names: Arc<Names>,
    labels: Vec<Label>,
    received: Box<[Counter]>,
    latency: Box<[Histogram]>,
    handler_errors: Arc<[Counter]>,
    redeliveries: Counter,
    missed: Counter,
    consumed: Counter,
    processed: Arc<Timed>,
    settled: [Settling; 3],
}

/// The handles of one kind of settlement.
struct Settling {
    outcome: &'static str,
    ok: Counter,
    failed: Rare<Counter>,
    timed: Timed,
}

impl Receiving {
    fn new(names: &Arc<Names>, group: Option<&Group>) -> Self {
        let labels = names.group(group);
        let in_group = |labels| match group {
            Some(group) => with(labels, "messaging.consumer.group.name", group.as_str()),
            None => labels,
        };
        let system = &names.system;
        let settling = |outcome, operation| Settling {
            outcome,
            ok: names.meter.counter(SETTLED, with(labels.clone(), "outcome", outcome)),
            failed: Rare::new(),
            timed: Timed::new(
                &names.meter,
                DURATION,
                in_group(names.operation(operation, "settle")),
            ),
        };
        let consumed = in_group(names.operation(system.process, "process"));
        let process = [
            Label::new("messaging.system", system.name.clone()),
            Label::new("messaging.operation.name", system.process),
        ];
        let processed =
            Timed::new(&names.meter, "messaging.process.duration", in_group(process.to_vec()));
        Self {
            received: names.counters(&labels, "fabric_messages_received_total"),
            latency: names.histograms(&labels, "fabric_message_latency_seconds"),
            handler_errors: names.counters(&labels, "fabric_handler_errors_total").into(),
            redeliveries: names.meter.counter("fabric_redeliveries_total", labels.clone()),
            missed: names.meter.counter("fabric_missed_total", labels.clone()),
            consumed: names.meter.counter("messaging.client.consumed.messages", consumed),
            processed: Arc::new(processed),
            settled: [
                settling("ack", system.ack),
                settling("nack", system.nack),
                settling("reject", system.reject),
            ],
            labels,
            names: Arc::clone(names),
        }
    }

    fn arrived(&self, chunk: &Chunk) {
        let mut redelivered = 0;
        let mut count = 0;
        let by_topic = self.names.topics.is_some();
        for (n, event) in chunk.events().iter().enumerate().filter(|(n, _)| !chunk.is_hidden(*n)) {
            count += 1;
            redelivered += u64::from(chunk.attempt(n) > 1);
            let slot = if by_topic { self.names.slot(event.topic()) } else { 0 };
            self.latency[slot].record(chunk.received().saturating_since(event.time()));
            if by_topic {
                self.received[slot].increment(1);
            }
        }
        if !by_topic {
            self.received[0].increment(count);
        }
        self.consumed.increment(count);
        if redelivered > 0 {
            self.redeliveries.increment(redelivered);
        }
    }
}

const SETTLED: &str = "fabric_settlements_total";

impl Watch for Receiving {
    fn begin(&self, deliveries: &[Place<'_>]) -> Option<Box<dyn Work>> {
        let of = |(chunk, n): &Place<'_>| {
            chunk.note_failed(1 << n, false);
            (Arc::clone(chunk), *n, self.names.slot(chunk.events()[*n].topic()))
        };
        Some(Box::new(Processing {
            timed: Arc::clone(&self.processed),
            errors: Arc::clone(&self.handler_errors),
            deliveries: deliveries.iter().map(of).collect(),
            began: Instant::now(),
            ended: false,
        }))
    }

    fn after(
        &self,
        chunk: &Chunk,
        mask: u64,
        asked: Asked<'_>,
        began: Instant,
        result: &Result<()>,
    ) {
        let (which, is_error) = match asked {
            Asked::Ack => (0, false),
            Asked::Nack(nack) => (1, nack.error.is_some()),
            Asked::Reject => (2, true),
        };
        let count = u64::from(mask.count_ones());
        let settled = &self.settled[which];
        settled.timed.record(began.elapsed(), result.as_ref().err());
        match result {
            Ok(()) => settled.ok.increment(count),
            Err(error) => {
                let kind = error.kind().as_str();
                let make = || {
                    let labels = with(self.labels.clone(), "outcome", settled.outcome);
                    self.names.meter.counter(SETTLED, with(labels, "error_type", kind))
                };
                settled.failed.get(kind, make).increment(count);
            }
        }
        if is_error && result.is_ok() {
            // A try that was seen to fail counts already.
            let mask = mask & !chunk.failed();
            let events = chunk.events().iter().enumerate();
            for (_, event) in events.filter(|(n, _)| mask & 1 << n != 0) {
                self.handler_errors[self.names.slot(event.topic())].increment(1);
            }
        }
    }
}

/// Work on a delivery, timed.
struct Processing {
    timed: Arc<Timed>,
    errors: Arc<[Counter]>,
    /// Each with its place in its chunk, and its topic's among the handles.
    deliveries: SmallVec<[(Arc<Chunk>, usize, usize); 1]>,
    began: Instant,
    ended: bool,
}

impl Work for Processing {
    fn end(mut self: Box<Self>, error: Option<&dyn fmt::Display>) {
        self.ended = true;
        if error.is_some() {
            for (chunk, n, slot) in &self.deliveries {
                chunk.note_failed(1 << n, true);
                self.errors[*slot].increment(1);
            }
        }
        // What a handler calls its errors is its own; OpenTelemetry wants few values.
        self.timed.record_as(self.began.elapsed(), error.map(|_| OTHER));
    }
}

impl Drop for Processing {
    fn drop(&mut self) {
        if !self.ended {
            self.timed.record_as(self.began.elapsed(), Some("cancelled"));
        }
    }
}

/// Deliveries on their way through the metrics.
struct MeteredSource {
    inner: Box<dyn Source>,
    receiving: Arc<Receiving>,
    open: Gauge,
}

impl Source for MeteredSource {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let next = ready!(self.inner.poll_chunk(cx));
        Poll::Ready(match next {
            Some(Ok(chunk)) => {
                self.receiving.arrived(&chunk);
                let shown = chunk.full_mask();
                let watch = Arc::clone(&self.receiving);
                Some(Ok(Arc::new(Chunk::view(chunk, shown).with_watch(watch))))
            }
            Some(Err(error)) => {
                self.receiving.missed.increment(error.missed().unwrap_or(0));
                Some(Err(error))
            }
            None => None,
        })
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.inner.poll_close(cx)
    }
}

impl Drop for MeteredSource {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

/// Listens to the notices of the backend without a task: it is woken by whoever says one.
struct Tap {
    notices: Mutex<Option<Notices>>,
    connected: Gauge,
    reconnects: Counter,
    circuits: Counter,
}

impl Tap {
    fn new(names: &Names) -> Self {
        Self {
            notices: Mutex::new(None),
            connected: names.meter.gauge("fabric_connected", names.backend()),
            reconnects: names.meter.counter("fabric_reconnects_total", names.backend()),
            circuits: names.meter.counter("fabric_circuit_opened_total", names.backend()),
        }
    }

    /// A stack that has never said that it lost its connection has one.
    fn listen(self: &Arc<Self>, notices: Notices) {
        self.connected.set(1.0);
        *lock(&self.notices) = Some(notices);
        Arc::clone(self).wake();
    }

    fn note(&self, kind: &NoticeKind) {
        match kind {
            NoticeKind::Connected => self.connected.set(1.0),
            NoticeKind::Restored => {
                self.connected.set(1.0);
                self.reconnects.increment(1);
            }
            NoticeKind::Lost { .. } | NoticeKind::Closed => self.connected.set(0.0),
            NoticeKind::CircuitOpened { .. } => self.circuits.increment(1),
            _ => {}
        }
    }
}

impl Wake for Tap {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let mut cx = Context::from_waker(&waker);
        let mut listening = lock(&self.notices);
        let Some(notices) = listening.as_mut() else { return };
        loop {
            match notices.poll_next_unpin(&mut cx) {
                Poll::Ready(Some(notice)) => self.note(&notice.kind),
                Poll::Ready(None) => {
                    *listening = None;
                    return;
                }
                Poll::Pending => return,
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Metered {
    inner: SharedBackend,
    names: Arc<Names>,
    sending: Arc<Sending>,
    tap: Arc<Tap>,
    open: Gauge,
}

impl Metered {
    async fn send(&self, way: Way, batch: Batch) -> Result<Confirms> {
        if batch.events.is_empty() {
            return way.submit(&self.inner, batch).await;
        }
        let on_its_way = OnItsWay::new(&self.sending, &batch);
        match way.submit(&self.inner, batch).await {
            Ok(confirms) => Ok(on_its_way.watch(confirms)),
            Err(error) => {
                on_its_way.failed(&error);
                Err(error)
            }
        }
    }

    fn meter(&self, subscription: Subscription, group: Option<&Group>) -> Subscription {
        let receiving = Arc::new(Receiving::new(&self.names, group));
        let open = self.open.clone();
        open.increment(1.0);
        subscription.map_source(|inner| MeteredSource { inner, receiving, open })
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        // The notices hold a waker that holds the tap.
        lock(&self.tap.notices).take();
    }
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered")
            .field("inner", &self.inner)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Metered {
    crate::forward!(self.inner: info, capabilities, notices, replay, admin, health, close);

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if batch.events.is_empty() {
            return self.inner.try_submit(batch);
        }
        let mut on_its_way = OnItsWay::new(&self.sending, &batch);
        match self.inner.try_submit(batch) {
            Ok(confirms) => Ok(on_its_way.watch(confirms)),
            Err(batch) => {
                // It has not been sent yet.
                on_its_way.open = false;
                Err(batch)
            }
        }
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.send(Way::Topics, batch).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        let group = options.group.clone();
        let subscription = self.inner.subscribe(options).await?;
        Ok(self.meter(subscription, group.as_ref()))
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        self.inner.request_reply().is_some().then_some(self)
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        self.inner.groups().is_some().then_some(self)
    }
}

groups_by_way!(Metered);

#[deny(clippy::missing_trait_methods)]
impl RequestReplyBackend for Metered {
    async fn request(&self, request: Event, timeout: Duration) -> Result<Event> {
        let began = Instant::now();
        let answer = requests(&self.inner)?.request(request, timeout).await;
        self.sending.asked.record(began.elapsed(), answer.as_ref().err());
        answer
    }

    async fn respond(&self, options: RespondOptions) -> Result<Requests> {
        requests(&self.inner)?.respond(options).await
    }
}
