//! Who acts in a case: publishers, readers, and crews of readers. What they do is written down.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::check::Check;
use super::failure::{Failure, Verdict, ensure, ensure_eq};
use super::harness::Timing;
use super::history::{History, Op, Record, Stage};
use crate::batch::Receipt;
use crate::chunk::Nack;
use crate::delivery::Delivery;
use crate::event::{Event, EventBuilder};
use crate::fabric::{Confirm, Fabric};
use crate::subscription::Subscription;
use crate::topic::Topic;
use crate::{Error, Result, RetryClass};

/// Somebody who publishes events that nobody else does, one after the other.
#[derive(Debug)]
pub struct Publisher {
    fabric: Fabric,
    history: History,
    run: Arc<str>,
    name: Arc<str>,
    next: u64,
}

/// An event to be published, and what tells it apart.
#[derive(Clone, Debug)]
#[must_use = "a draft is sent by `publish`"]
pub struct Draft {
    /// What its payload and its id are: run, publisher and number.
    pub value: Arc<str>,
    /// Where it goes.
    pub topic: Topic,
    /// The event.
    pub event: EventBuilder,
    key: Option<Arc<str>>,
}

impl Draft {
    /// The same with more of the envelope.
    pub fn with(mut self, change: impl FnOnce(EventBuilder) -> EventBuilder) -> Self {
        self.event = change(self.event);
        self
    }

    /// The event with id and time, and the draft that publishes exactly this.
    ///
    /// # Errors
    /// Whatever building it brought.
    pub fn fixed(self) -> Result<(Self, Event)> {
        let event = self.event.clone().build()?;
        let draft = Self { event: Event::of(event.clone()), ..self };
        Ok((draft, event))
    }

    /// The same under a key.
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.into());
        self.with(|event| event.key(key))
    }
}

impl Publisher {
    pub(crate) fn new(fabric: Fabric, history: History, run: &Arc<str>, name: &str) -> Self {
        Self { fabric, history, run: Arc::clone(run), name: name.into(), next: 0 }
    }

    /// The next event, for `topic`.
    pub fn draft(&mut self, topic: &Topic) -> Draft {
        let value: Arc<str> = format!("{}|{}|{}", self.run, self.name, self.next).into();
        self.next += 1;
        let event = Event::to(topic).id(&value).text(&*value);
        Draft { value, topic: topic.clone(), event, key: None }
    }

    /// Publishes and writes down what became of it.
    ///
    /// # Errors
    /// As [`Fabric::publish`].
    ///
    /// # Cancel safety
    /// Dropped midway, the history says that nobody knows.
    pub async fn publish(&self, draft: Draft) -> Result<Receipt> {
        self.write(&draft, Stage::Invoke, None);
        let Draft { event, .. } = draft.clone();
        let result = self.fabric.publish(event).await;
        self.conclude(&draft, &result);
        result
    }

    /// As [`publish`](Self::publish), and not for longer than `limit`.
    pub(super) async fn publish_within(&self, draft: Draft, limit: Duration) -> Result<Receipt> {
        self.write(&draft, Stage::Invoke, None);
        let Draft { event, .. } = draft.clone();
        let result = self.fabric.publish(event).timeout(limit).await;
        self.conclude(&draft, &result);
        result
    }

    /// Hands an event over and writes down that it was begun.
    ///
    /// # Errors
    /// As [`Fabric::submit`].
    ///
    /// # Cancel safety
    /// Dropped midway, the history says that nobody knows.
    pub async fn submit(&self, draft: Draft) -> Result<(Draft, Confirm)> {
        self.write(&draft, Stage::Invoke, None);
        match self.fabric.submit(draft.event.clone()).await {
            Ok(confirm) => Ok((draft, confirm)),
            Err(error) => {
                self.conclude(&draft, &Err(error.clone()));
                Err(error)
            }
        }
    }

    /// Writes down that a draft is published by other means.
    pub fn begin(&self, draft: &Draft) {
        self.write(draft, Stage::Invoke, None);
    }

    /// Writes down what became of a draft that was submitted or published by other means.
    pub fn conclude(&self, draft: &Draft, result: &Result<Receipt>) {
        let (stage, position) = match result {
            Ok(receipt) => (Stage::Ok, receipt.position.clone()),
            Err(error) if error.retry() == RetryClass::Ambiguous => (Stage::Info, None),
            Err(_) => (Stage::Fail, None),
        };
        self.write(draft, stage, position);
    }

    /// Publishes one plain event, which has to be accepted.
    ///
    /// # Errors
    /// If it is not.
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub async fn send(&mut self, topic: &Topic) -> Verdict<Receipt> {
        let draft = self.draft(topic);
        Ok(self.publish(draft).await?)
    }

    /// Publishes `count` plain events one after the other.
    ///
    /// # Errors
    /// If one is not accepted.
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub async fn send_many(&mut self, topic: &Topic, count: usize) -> Verdict {
        for _ in 0..count {
            self.send(topic).await?;
        }
        Ok(())
    }

    /// Submits `count` plain events in line and awaits their confirms afterwards.
    ///
    /// # Errors
    /// If one is not accepted.
    ///
    /// # Cancel safety
    /// As [`submit`](Self::submit).
    pub async fn pipeline(&mut self, topic: &Topic, count: usize) -> Verdict {
        let mut confirms = Vec::with_capacity(count);
        for _ in 0..count {
            let draft = self.draft(topic);
            confirms.push(self.submit(draft).await?);
        }
        for (draft, confirm) in confirms {
            let result = confirm.await;
            self.conclude(&draft, &result);
            result?;
        }
        Ok(())
    }

    fn write(&self, draft: &Draft, stage: Stage, position: Option<crate::Position>) {
        let record = Record::new(&self.name, Op::Publish, stage, &draft.value, &draft.topic);
        self.history.add(Record { key: draft.key.clone(), position, ..record });
    }
}

/// How many lines a history has at most: more than any case writes where all is well.
const MAX_LINES: usize = 200_000;

/// Somebody who reads one subscription for an audience.
pub struct Reader {
    subscription: Subscription,
    history: History,
    names: [Arc<str>; 2],
    timing: Timing,
    audience: Arc<str>,
    actor: Arc<str>,
    foreign: u64,
}

impl Reader {
    pub(crate) fn new(
        subscription: Subscription,
        history: History,
        names: [Arc<str>; 2],
        timing: Timing,
        audience: &str,
        actor: &str,
    ) -> Self {
        let (audience, actor) = (audience.into(), actor.into());
        Self { subscription, history, names, timing, audience, actor, foreign: 0 }
    }

    /// The next delivery of this case.
    ///
    /// # Errors
    /// If none comes in time, the subscription ends, or it yields an error.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    #[expect(clippy::should_implement_trait, reason = "it waits, and may fail")]
    #[track_caller]
    pub fn next(&mut self) -> impl Future<Output = Verdict<Delivery>> + Send {
        let at = Location::caller();
        async move {
            match self.item(at).await? {
                Some(Ok(delivery)) => Ok(delivery),
                Some(Err(error)) => {
                    Err(Failure::at(format!("{} got an error: {error:#}", self.actor), at))
                }
                None => Err(Failure::at(format!("the subscription of {} ended", self.actor), at)),
            }
        }
    }

    /// The next item of the stream, its end included.
    ///
    /// # Errors
    /// If none comes in time.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    #[track_caller]
    pub fn next_item(&mut self) -> impl Future<Output = Verdict<Option<Result<Delivery>>>> + Send {
        self.item(Location::caller())
    }

    /// The next item, which has to be an error.
    ///
    /// # Errors
    /// If it is a delivery or the end, or none comes in time.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    #[track_caller]
    pub fn next_error(&mut self) -> impl Future<Output = Verdict<Error>> + Send {
        let at = Location::caller();
        async move {
            match self.item(at).await? {
                Some(Err(error)) => Ok(error),
                Some(Ok(delivery)) => {
                    let got = self.value_of(&delivery);
                    Err(Failure::at(format!("{} got {got}, not an error", self.actor), at))
                }
                None => Err(Failure::at(format!("the subscription of {} ended", self.actor), at)),
            }
        }
    }

    /// The end of the stream, perhaps after an error that says `Closed`.
    ///
    /// # Errors
    /// If something else comes, or nothing.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    #[track_caller]
    pub fn end(&mut self) -> impl Future<Output = Verdict> + Send {
        let at = Location::caller();
        async move {
            loop {
                match self.item(at).await? {
                    None => return Ok(()),
                    Some(Err(error)) if error.kind() == crate::ErrorKind::Closed => {}
                    Some(other) => {
                        let text = format!("{} got {other:?}, not the end", self.actor);
                        return Err(Failure::at(text, at));
                    }
                }
            }
        }
    }

    /// The next `count` deliveries, unsettled.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    /// What was taken is dropped unsettled.
    #[track_caller]
    pub fn take(&mut self, count: usize) -> impl Future<Output = Verdict<Vec<Delivery>>> + Send {
        let at = Location::caller();
        async move {
            let mut taken = Vec::with_capacity(count);
            while taken.len() < count {
                match self.item(at).await {
                    Ok(Some(Ok(delivery))) => taken.push(delivery),
                    Ok(end) => {
                        let text = format!("{end:?} after {} of {count}", taken.len());
                        return Err(Failure::at(text, at));
                    }
                    Err(late) => {
                        return Err(late.after(format!("after {} of {count}", taken.len())));
                    }
                }
            }
            Ok(taken)
        }
    }

    /// The next `count` deliveries, each acked.
    ///
    /// # Errors
    /// As [`next`](Self::next), or if an ack fails.
    ///
    /// # Cancel safety
    /// As [`take`](Self::take).
    #[track_caller]
    pub fn ack_many(&mut self, count: usize) -> impl Future<Output = Verdict> + Send {
        let at = Location::caller();
        async move {
            for n in 0..count {
                match self.item(at).await.map_err(|late| late.after(format!("{n} of {count}")))? {
                    Some(Ok(delivery)) => self.ack(delivery).await?,
                    end => return Err(Failure::at(format!("{end:?} after {n} of {count}"), at)),
                }
            }
            Ok(())
        }
    }

    /// Acks everything until nothing has come for as long as the harness's timing says.
    ///
    /// # Errors
    /// If the stream yields an error or ends, or an ack fails.
    ///
    /// # Cancel safety
    /// As [`take`](Self::take).
    #[track_caller]
    pub fn drain(&mut self) -> impl Future<Output = Verdict<usize>> + Send {
        let (at, quiet) = (Location::caller(), self.timing.quiet);
        async move {
            let mut count = 0;
            loop {
                let until = Instant::now() + quiet;
                match self.item_until(until).await {
                    None => return Ok(count),
                    Some(Some(Ok(delivery))) => self.ack(delivery).await?,
                    Some(end) => return Err(Failure::at(format!("{end:?} while draining"), at)),
                }
                count += 1;
            }
        }
    }

    /// Acks everything until all that was accepted so far has come, and nothing more comes: after an
    /// outage, in which nothing may come for long. What is missing in the end, the checks say.
    ///
    /// # Errors
    /// If the stream yields an error or ends, or an ack fails.
    ///
    /// # Cancel safety
    /// As [`take`](Self::take).
    #[track_caller]
    pub fn catch_up(&mut self) -> impl Future<Output = Verdict> + Send {
        let at = Location::caller();
        async move {
            let until = Instant::now() + 2 * self.timing.patience;
            loop {
                self.drain().await.map_err(|failure| failure.seen_at(at))?;
                let check = Check::new(self.history.records(), &self.audience);
                if check.lost().is_empty() || Instant::now() > until {
                    return Ok(());
                }
            }
        }
    }

    /// The next item, if one comes soon.
    pub(super) async fn soon(&mut self) -> Option<Option<Result<Delivery>>> {
        self.item_until(Instant::now() + Duration::from_millis(100)).await
    }

    /// Makes sure that nothing of this case comes for as long as the harness's timing says.
    ///
    /// # Errors
    /// What came.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    #[track_caller]
    pub fn quiet(&mut self) -> impl Future<Output = Verdict> + Send {
        let time = self.timing.quiet;
        self.quiet_for(time)
    }

    /// Makes sure that nothing of this case comes for `time`.
    ///
    /// # Errors
    /// What came.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    #[track_caller]
    pub fn quiet_for(&mut self, time: Duration) -> impl Future<Output = Verdict> + Send {
        let at = Location::caller();
        async move {
            let since = Instant::now();
            let Some(item) = self.item_until(since + time).await else { return Ok(()) };
            let came = match item {
                None => "the end".to_owned(),
                Some(Err(error)) => format!("the error {error:#}"),
                Some(Ok(delivery)) => {
                    format!("{} (attempt {})", self.value_of(&delivery), delivery.attempt())
                }
            };
            let text = format!(
                "{} had to get nothing for {time:?} and got {came} after {:?}",
                self.actor,
                since.elapsed()
            );
            Err(Failure::at(text, at))
        }
    }

    /// Acks and writes it down.
    ///
    /// # Errors
    /// What the ack answered.
    ///
    /// # Cancel safety
    /// As [`Delivery::ack`].
    #[track_caller]
    pub fn ack(&self, delivery: Delivery) -> impl Future<Output = Verdict> + Send + use<> {
        let (line, at) = (self.line(Op::Ack, &delivery), Location::caller());
        async move { line.write(delivery.ack().await, at) }
    }

    /// Nacks and writes it down.
    ///
    /// # Errors
    /// What the nack answered.
    ///
    /// # Cancel safety
    /// As [`Delivery::nack`].
    #[track_caller]
    pub fn nack<N: Into<Nack>>(
        &self,
        delivery: Delivery,
        nack: N,
    ) -> impl Future<Output = Verdict> + Send + use<N> {
        let (line, at) = (self.line(Op::Nack, &delivery), Location::caller());
        let nack = nack.into();
        async move { line.write(delivery.nack(nack).await, at) }
    }

    /// Rejects and writes it down.
    ///
    /// # Errors
    /// What the reject answered.
    ///
    /// # Cancel safety
    /// As [`Delivery::reject`].
    #[track_caller]
    pub fn reject(
        &self,
        delivery: Delivery,
        reason: &str,
    ) -> impl Future<Output = Verdict> + Send + use<> {
        let (line, at) = (self.line(Op::Reject, &delivery), Location::caller());
        let settling = delivery.reject(reason);
        async move { line.write(settling.await, at) }
    }

    /// What tells the delivery's event apart.
    #[must_use]
    pub fn value_of(&self, delivery: &Delivery) -> Arc<str> {
        match delivery.text() {
            Ok(text) if text.starts_with(&*self.names[0]) => (&*text).into(),
            _ => delivery.id().to_string().into(),
        }
    }

    /// For whom it reads.
    #[must_use]
    pub fn audience(&self) -> Arc<str> {
        Arc::clone(&self.audience)
    }

    /// How many events came that are none of this case's.
    #[must_use]
    pub const fn foreign(&self) -> u64 {
        self.foreign
    }

    /// The subscription itself.
    pub const fn subscription(&mut self) -> &mut Subscription {
        &mut self.subscription
    }

    /// Leaves.
    ///
    /// # Errors
    /// What the broker answered.
    ///
    /// # Cancel safety
    /// As [`Subscription::close`].
    pub async fn close(self) -> Verdict {
        Ok(self.subscription.close().await?)
    }

    /// Writes down a delivery that came another way, by `recv_batch` for example.
    pub fn note(&self, event: &Event, info: &crate::DeliveryInfo) {
        let value: Arc<str> = match event.text() {
            Ok(text) if text.starts_with(&*self.names[0]) => (&*text).into(),
            _ => event.id().to_string().into(),
        };
        let record = Record::new(&self.actor, Op::Receive, Stage::Ok, &value, event.topic());
        self.history.add(Record {
            audience: Some(Arc::clone(&self.audience)),
            key: event.key().map(Arc::from),
            position: info.position.clone(),
            attempt: info.attempt,
            ..record
        });
    }

    async fn item(&mut self, at: &'static Location<'static>) -> Verdict<Option<Result<Delivery>>> {
        let patience = self.timing.patience;
        match self.item_until(Instant::now() + patience).await {
            Some(item) => Ok(item),
            None => Err(Failure::at(format!("{} got nothing for {patience:?}", self.actor), at)),
        }
    }

    /// The next item of this case, if one comes in time.
    async fn item_until(&mut self, until: Instant) -> Option<Option<Result<Delivery>>> {
        timeout_at(until, self.ours()).await.ok()
    }

    /// The next item of this case. What is foreign is settled and counted.
    async fn ours(&mut self) -> Option<Result<Delivery>> {
        loop {
            if self.history.len() > MAX_LINES {
                let text = format!("{} gets deliveries without an end", self.actor);
                return Some(Err(Error::new(crate::ErrorKind::Backend, text)));
            }
            match self.subscription.recv().await {
                Some(Ok(delivery)) if !self.is_ours(&delivery) => {
                    self.foreign += 1;
                    let _ = delivery.ack().await;
                }
                Some(Ok(delivery)) => {
                    self.history.add(self.record(Op::Receive, &delivery));
                    return Some(Ok(delivery));
                }
                other => return other,
            }
        }
    }

    fn is_ours(&self, delivery: &Delivery) -> bool {
        let topic = delivery.topic().as_str();
        self.names.iter().any(|name| topic.contains(&**name))
    }

    fn record(&self, op: Op, delivery: &Delivery) -> Record {
        let value = self.value_of(delivery);
        Record::of(&self.actor, &self.audience, op, Stage::Ok, &value, delivery)
    }

    fn line(&self, op: Op, delivery: &Delivery) -> Line {
        Line { history: self.history.clone(), record: self.record(op, delivery) }
    }
}

/// A line of the history that waits for its outcome.
struct Line {
    history: History,
    record: Record,
}

impl Line {
    fn write(
        self,
        result: Result<(), crate::SettleError>,
        at: &'static Location<'static>,
    ) -> Verdict {
        let stage = if result.is_ok() { Stage::Ok } else { Stage::Fail };
        let (op, value) = (self.record.op, Arc::clone(&self.record.value));
        self.history.add(Record { stage, time: crate::Timestamp::now(), ..self.record });
        result.map_err(|failed| {
            Failure::at(format!("{op:?} of {value} answered: {:#}", failed.error), at)
        })
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("actor", &self.actor).finish_non_exhaustive()
    }
}

/// Readers that run by themselves and ack everything.
pub struct Crew {
    members: Vec<Hand>,
    report: mpsc::UnboundedSender<Verdict<Arc<str>>>,
    reports: mpsc::UnboundedReceiver<Verdict<Arc<str>>>,
    seen: HashSet<Arc<str>>,
    patience: Duration,
}

struct Hand {
    stop: watch::Sender<bool>,
    /// None once it was recalled.
    task: Option<JoinHandle<Reader>>,
}

impl Crew {
    /// Nobody yet.
    #[must_use]
    pub fn new(timing: &Timing) -> Self {
        let (report, reports) = mpsc::unbounded_channel();
        let patience = timing.patience;
        Self { members: Vec::new(), report, reports, seen: HashSet::new(), patience }
    }

    /// Lets one more read and ack; returns its number.
    pub fn hire(&mut self, reader: Reader) -> usize {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(work(reader, stopped, self.report.clone()));
        self.members.push(Hand { stop, task: Some(task) });
        self.members.len() - 1
    }

    /// Waits until the crew has seen `count` different values.
    ///
    /// # Errors
    /// If nothing new comes in time, or a member failed.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    #[track_caller]
    pub fn until(&mut self, count: usize) -> impl Future<Output = Verdict> + Send {
        let at = Location::caller();
        async move {
            while self.seen.len() < count {
                let Ok(report) = timeout(self.patience, self.reports.recv()).await else {
                    let (have, patience) = (self.seen.len(), self.patience);
                    let text = format!("{have} of {count} came, and nothing more for {patience:?}");
                    return Err(Failure::at(text, at));
                };
                if let Some(value) = report {
                    self.seen.insert(value?);
                }
            }
            Ok(())
        }
    }

    /// Takes member `number` out of its work, with its subscription still open.
    ///
    /// # Errors
    /// If it panicked.
    ///
    /// # Cancel safety
    /// The member stops all the same.
    pub async fn recall(&mut self, number: usize) -> Verdict<Reader> {
        let gone = || Failure::new(format!("there is no member {number}"));
        let hand = self.members.get_mut(number).ok_or_else(gone)?;
        hand.stop.send_replace(true);
        let task = hand.task.take().ok_or_else(gone)?;
        task.await.map_err(|panic| Failure::new(format!("a member failed: {panic}")))
    }

    /// Stops everybody who still works and closes their subscriptions.
    ///
    /// # Errors
    /// What a member reported or a close answered.
    ///
    /// # Cancel safety
    /// Members that were not reached go on.
    pub async fn dismiss(mut self) -> Verdict {
        for hand in self.members.drain(..) {
            hand.stop.send_replace(true);
            let Some(task) = hand.task else { continue };
            let reader = task.await;
            reader
                .map_err(|panic| Failure::new(format!("a member failed: {panic}")))?
                .close()
                .await?;
        }
        while let Ok(report) = self.reports.try_recv() {
            report?;
        }
        Ok(())
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

async fn work(
    mut reader: Reader,
    mut stopped: watch::Receiver<bool>,
    report: mpsc::UnboundedSender<Verdict<Arc<str>>>,
) -> Reader {
    loop {
        let item = tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => return reader,
            item = reader.ours() => item,
        };
        let seen = match item {
            Some(Ok(delivery)) => {
                let value = reader.value_of(&delivery);
                reader.ack(delivery).await.map(|()| value)
            }
            Some(Err(error)) => Err(error.into()),
            None => return reader,
        };
        if report.send(seen).is_err() {
            return reader;
        }
    }
}

/// Whether two events are the same to whoever receives them.
///
/// # Errors
/// The first field that differs.
#[track_caller]
pub fn same_event(have: &Event, want: &Event) -> Verdict {
    ensure_eq!(have.id(), want.id(), "the id");
    ensure_eq!(have.topic(), want.topic(), "the topic");
    same_content(have, want)
}

/// As [`same_event`], for events that may lie under another topic.
///
/// # Errors
/// The first field that differs.
#[track_caller]
pub fn same_content(have: &Event, want: &Event) -> Verdict {
    ensure_eq!(have.id(), want.id(), "the id");
    ensure_eq!(have.source(), want.source(), "the source");
    ensure_eq!(have.event_type(), want.event_type(), "the event type");
    ensure_eq!(have.time(), want.time(), "the time");
    ensure_eq!(have.version(), want.version(), "the version");
    ensure_eq!(have.correlation_id(), want.correlation_id(), "the correlation id");
    ensure_eq!(have.causation_id(), want.causation_id(), "the causation id");
    ensure_eq!(have.trace(), want.trace(), "the trace context");
    ensure_eq!(have.priority(), want.priority(), "the priority");
    ensure_eq!(have.ttl(), want.ttl(), "the time to live");
    ensure_eq!(have.key(), want.key(), "the key");
    ensure_eq!(have.content_type(), want.content_type(), "the content type");
    ensure_eq!(have.headers(), want.headers(), "the headers");
    let (have, want) = (have.payload().bytes()?, want.payload().bytes()?);
    ensure!(have == want, "the payload differs: {} bytes, not {}", have.len(), want.len());
    Ok(())
}
