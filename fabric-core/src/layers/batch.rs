//! Gathering single events into batches.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::future::{FutureExt as _, Shared};
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::way::Way;
use crate::backend::{Backend, SharedBackend};
use crate::batch::{Batch, Confirms, Outcomes, SubmitOptions};
use crate::event::Event;
use crate::layer::Layer;
use crate::{Error, ErrorKind, Result};

/// Gathers single events into batches.
///
/// A batch is handed over when it has [`max_events`](Self::max_events) or
/// [`max_bytes`](Self::max_bytes), when its first event has waited for [`linger`](Self::linger),
/// or when somebody flushes or closes the fabric. While one batch is being handed over the next
/// gathers, so that batches grow by themselves where the backend is slow, also with no linger.
///
/// Each event keeps its own outcome, and events keep their order. A batch that somebody submits is
/// not split; one that is too large for the rest of a gathered batch starts the next. A publish
/// with an expected last position goes alone. What is sent to one group alone is not gathered.
///
/// No task runs in the background: a batch is driven by whoever awaits one of its confirms, by the
/// next submit, a flush or a close. An event whose confirm nobody awaits leaves with one of those.
/// A confirm that is awaited comes after the linger and the backend's own time at the latest.
/// Dropping a confirm abandons the answer, not the event.
///
/// Where each event had a deadline of its own, the batch has the latest.
///
/// It belongs outside [`PublishRetry`](super::PublishRetry) and [`Limit`](super::Limit): while they
/// hold one batch back the next fills. Layers that look at single events, such as those that
/// encrypt or check them, belong outside of it.
///
/// ```
/// use std::time::Duration;
/// use fabric_core::layers::Batching;
/// # fn example(fabric: fabric_core::Fabric) -> fabric_core::Result<fabric_core::Fabric> {
/// fabric.layer(Batching::new().max_events(500).linger(Duration::from_millis(5)))
/// # }
/// ```
///
/// # Errors
/// Adding it fails with `Config` where a batch may hold nothing.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing before it is added"]
pub struct Batching {
    max_events: usize,
    max_bytes: usize,
    linger: Duration,
}

impl Batching {
    /// Up to 256 events or 256 KiB, and no linger: an event that nobody precedes leaves as soon as
    /// it is awaited.
    pub const fn new() -> Self {
        Self { max_events: 256, max_bytes: 256 * 1024, linger: Duration::ZERO }
    }

    /// Sets how many events make a batch full.
    pub const fn max_events(mut self, events: usize) -> Self {
        self.max_events = events;
        self
    }

    /// Sets how many bytes, as held in memory, make a batch full.
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets how long the first event of a batch waits for others; timers tell milliseconds apart.
    pub const fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }
}

impl Default for Batching {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer for Batching {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        if self.max_events == 0 || self.max_bytes == 0 {
            return Err(Error::new(
                ErrorKind::Config,
                "a batch of at most zero events or bytes could hold nothing",
            ));
        }
        let line = tokio::sync::Mutex::default();
        Ok(Arc::new(Gathering { inner, rule: self.clone(), line, desk: Mutex::default() }))
    }
}

#[derive(Debug)]
struct Gathering {
    inner: SharedBackend,
    rule: Batching,
    /// Held by whoever adds to a batch or waits to do so: first come, first served.
    line: tokio::sync::Mutex<()>,
    desk: Mutex<Desk>,
}

/// Resolves once a batch was handed over, or could not be. Whoever awaits it drives it.
type HandedOver = Shared<BoxFuture<'static, ()>>;
/// Resolves with the outcomes of a batch.
type Answers = Shared<BoxFuture<'static, Arc<Result<Outcomes>>>>;

/// What lies on the desk: the batch that gathers, and the way of the newest to the backend, which
/// the next one follows.
#[derive(Default)]
struct Desk {
    open: Option<Lot>,
    newest: Option<HandedOver>,
}

/// A batch that gathers.
struct Lot {
    contents: Arc<Mutex<Contents>>,
    /// Rings when it is to go.
    go: Arc<Notify>,
    handed_over: HandedOver,
    answers: Answers,
}

struct Contents {
    /// None once it has gone.
    events: Option<SmallVec<[Event; 1]>>,
    bytes: usize,
    options: Option<Box<SubmitOptions>>,
}

impl Contents {
    fn is_transient(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.transient)
    }
}

impl Gathering {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        lock(&self.desk)
    }

    /// Whether `batch` does not mix with others.
    fn goes_alone(&self, batch: &Batch) -> bool {
        batch.expect_last().is_some()
            || batch.events.len() > self.rule.max_events
            || batch.size() > self.rule.max_bytes
    }

    /// Adds `batch` to what gathers; where it does not fit, what gathers is told to go.
    fn add(&self, batch: Batch) -> Result<Confirms, Batch> {
        let mut desk = self.desk();
        let desk = &mut *desk;
        let lot = match &mut desk.open {
            Some(lot) if lock(&lot.contents).events.is_some() => lot,
            open => open.insert(self.begin(&batch, &mut desk.newest)),
        };
        let added = lot.add(batch, &self.rule);
        if !matches!(added, Ok((_, false))) {
            lot.go.notify_one();
        }
        let (confirms, full) = added?;
        if full {
            // On its way at once, as far as that takes no waiting.
            let handed_over = lot.handed_over.clone();
            let _ = handed_over.now_or_never();
        }
        Ok(confirms)
    }

    /// An empty batch that follows the newest on its way.
    fn begin(&self, first: &Batch, newest: &mut Option<HandedOver>) -> Lot {
        let options = first.options.clone();
        let events = Some(SmallVec::new());
        let contents = Arc::new(Mutex::new(Contents { events, bytes: 0, options }));
        let go = Arc::new(Notify::new());
        let submitted = Arc::new(Mutex::new(None));
        let linger = (!self.rule.linger.is_zero()).then(|| first.now.instant + self.rule.linger);
        let handed_over = hand_over(
            Arc::clone(&self.inner),
            Arc::clone(&contents),
            Arc::clone(&go),
            linger,
            newest.take(),
            Arc::clone(&submitted),
        );
        let handed_over = handed_over.boxed().shared();
        *newest = Some(handed_over.clone());
        let before = handed_over.clone();
        let answers = async move {
            before.await;
            let submitted = lock(&submitted).take();
            Arc::new(match submitted {
                Some(Ok(confirms)) => Ok(confirms.await),
                Some(Err(error)) => Err(error),
                None => Err(lost()),
            })
        };
        Lot { contents, go, handed_over, answers: answers.boxed().shared() }
    }

    /// Sends what gathers on its way, and resolves once all is handed over.
    async fn drain(&self) {
        let newest = {
            let desk = self.desk();
            if let Some(lot) = &desk.open {
                lot.go.notify_one();
            }
            desk.newest.clone()
        };
        if let Some(newest) = newest {
            newest.await;
        }
    }

    fn is_drained(&self) -> bool {
        self.desk().newest.as_ref().is_none_or(|newest| newest.peek().is_some())
    }
}

impl Lot {
    /// Adds a batch if it fits; tells whether the lot is full then.
    fn add(&self, batch: Batch, rule: &Batching) -> Result<(Confirms, bool), Batch> {
        let mut contents = lock(&self.contents);
        let contents = &mut *contents;
        let (count, bytes) = (batch.events.len(), batch.size());
        let Some(gathered) = &contents.events else { return Err(batch) };
        let from = gathered.len();
        let fits = from == 0
            || (from + count <= rule.max_events
                && contents.bytes + bytes <= rule.max_bytes
                && contents.is_transient() == batch.is_transient());
        if !fits {
            return Err(batch);
        }
        let deadline = batch.deadline();
        contents.events.get_or_insert_default().extend(batch.events);
        contents.bytes += bytes;
        if let Some(options) = &mut contents.options {
            let both = options.deadline.zip(deadline);
            options.deadline = both.map(|(one, other)| one.max(other));
        }
        let answers = self.answers.clone();
        let confirms = Confirms::pending(async move { part(&*answers.await, from, count) });
        let full = from + count >= rule.max_events || contents.bytes >= rule.max_bytes;
        Ok((confirms, full))
    }
}

/// The way of one batch to the backend.
async fn hand_over(
    inner: SharedBackend,
    contents: Arc<Mutex<Contents>>,
    go: Arc<Notify>,
    linger: Option<Instant>,
    before: Option<HandedOver>,
    submitted: Arc<Mutex<Option<Result<Confirms>>>>,
) {
    if let Some(until) = linger {
        let _ = timeout_at(until, go.notified()).await;
    }
    if let Some(before) = before {
        before.await;
    }
    // What came until now goes along.
    let batch = {
        let mut contents = lock(&contents);
        let events = contents.events.take().unwrap_or_default();
        Batch::again(events, contents.options.clone())
    };
    let result = Way::Topics.submit(&inner, batch).await;
    *lock(&submitted) = Some(result);
}

/// The outcomes of `count` events of a batch.
fn part(outcomes: &Result<Outcomes>, from: usize, count: usize) -> Outcomes {
    match outcomes {
        Ok(outcomes) if (from, count) == (0, outcomes.len()) => outcomes.clone(),
        Ok(outcomes) => {
            let each = (from..from + count).map(|n| outcomes.get(n));
            Outcomes::each(each.map(|outcome| outcome.unwrap_or_else(|| Err(lost()))))
        }
        Err(error) => Outcomes::failed(count, error),
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Backend, "the backend gave fewer answers than the batch had events")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("gathers", &self.open.is_some()).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Gathering {
    crate::forward!(self.inner: info, capabilities, notices, subscribe, replay, request_reply);
    crate::forward!(self.inner: groups, admin, health);

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        let Ok(_turn) = self.line.try_lock() else { return Err(batch) };
        if batch.events.is_empty() {
            return if self.is_drained() { self.inner.try_submit(batch) } else { Err(batch) };
        }
        if self.goes_alone(&batch) {
            return Err(batch);
        }
        self.add(batch)
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        let turn = self.line.lock().await;
        if batch.events.is_empty() {
            self.drain().await;
            drop(turn);
            return self.inner.submit(batch).await;
        }
        if self.goes_alone(&batch) {
            self.drain().await;
            return Way::Topics.submit(&self.inner, batch).await;
        }
        let mut batch = batch;
        loop {
            match self.add(batch) {
                Ok(confirms) => return Ok(confirms),
                Err(back) => batch = back,
            }
            self.drain().await;
        }
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        let drained = timeout_at(until, async {
            let _turn = self.line.lock().await;
            self.drain().await;
        });
        let drained = drained.await;
        let closed = self.inner.close(until.saturating_duration_since(Instant::now())).await;
        if drained.is_err() {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("gathered events were not handed over within {deadline:?}"),
            ));
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::{Answer, Probe, hopeless, safe};
    use super::*;
    use crate::{Fabric, Position, Receipt, Topic};

    const SECOND: Duration = Duration::from_secs(1);

    fn event(text: impl ToString + Copy) -> Event {
        Event::to("a.b").text(text.to_string()).build().unwrap()
    }

    fn confirming() -> Probe {
        Probe::new(|_, _| Answer::ok())
    }

    /// The batches that arrived, each as its payloads joined.
    fn batches(probe: &Probe) -> Vec<String> {
        probe.seen().iter().map(|seen| seen.texts.concat()).collect()
    }

    async fn submit(fabric: &Fabric, texts: &[&str]) -> Confirms {
        let batch = Batch::new(texts.iter().map(event));
        match fabric.backend().try_submit(batch) {
            Ok(confirms) => confirms,
            Err(batch) => fabric.backend().submit(batch).await.unwrap(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_goes_when_it_has_enough_events() {
        let probe = confirming();
        let fabric = probe.under(Batching::new().max_events(3).linger(SECOND));
        let publishes = (0..7).map(|n| fabric.publish(event(n)));
        let results = futures_util::future::join_all(publishes).await;
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(batches(&probe), ["012", "345", "6"]);
        assert_eq!(probe.seen().last().unwrap().after, SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_goes_when_it_has_enough_bytes() {
        let probe = confirming();
        let size = Batch::one(event("x")).size();
        let fabric = probe.under(Batching::new().max_bytes(size * 2 + 1).linger(SECOND));
        let publishes =
            ["a", "b", "c", "large enough to go alone", "d"].map(|t| fabric.publish(event(t)));
        let results = futures_util::future::join_all(publishes).await;
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(batches(&probe), ["ab", "c", "large enough to go alone", "d"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lone_event_goes_after_the_linger() {
        let probe = confirming();
        let fabric = probe.under(Batching::new().linger(SECOND));
        fabric.publish(event("x")).await.unwrap();
        assert_eq!(probe.seen()[0].after, SECOND);
        let fabric = probe.under(Batching::new());
        fabric.publish(event("y")).await.unwrap();
        assert_eq!(probe.seen()[1].after, SECOND, "at once without a linger");
    }

    #[tokio::test(start_paused = true)]
    async fn each_event_has_its_own_outcome() {
        let place = |n| Position::new(Topic::new("a.b").unwrap(), 1, n);
        let outcomes =
            move || [Ok(Receipt::stored(place(7))), Err(hopeless()), Ok(Receipt::stored(place(8)))];
        let probe = Probe::new(move |_, _| Answer::each(outcomes()));
        let fabric = probe.under(Batching::new().linger(SECOND));
        let (one, pair) = (submit(&fabric, &["1"]).await, submit(&fabric, &["2", "3"]).await);
        let (pair, one) = tokio::join!(pair, one);
        assert_eq!(one.get(0).unwrap().unwrap().position, Some(place(7)));
        assert_eq!(pair.failures().map(|(n, _)| n).collect::<Vec<_>>(), [0]);
        assert_eq!(pair.get(1).unwrap().unwrap().position, Some(place(8)));
        assert_eq!(probe.seen().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_not_taken_fails_each_of_its_events() {
        let probe = Probe::new(|_, _| Answer::refused(safe()));
        let fabric = probe.under(Batching::new().linger(SECOND));
        let (one, two) = tokio::join!(fabric.publish(event(1)), fabric.publish(event(2)));
        assert_eq!(one.unwrap_err().kind(), ErrorKind::Connect);
        assert_eq!(two.unwrap_err().kind(), ErrorKind::Connect);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_sends_what_gathered() {
        let probe = confirming();
        let fabric = probe.under(Batching::new().linger(SECOND * 60));
        drop(fabric.submit(event("abandoned")).await.unwrap());
        let confirm = fabric.submit(event("!")).await.unwrap();
        fabric.flush().await.unwrap();
        assert_eq!(batches(&probe), ["abandoned!"]);
        assert_eq!(probe.seen()[0].after, Duration::ZERO);
        confirm.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn closing_sends_what_gathered() {
        let probe = confirming();
        let fabric = probe.under(Batching::new().linger(SECOND * 60));
        let confirm = fabric.submit(event("x")).await.unwrap();
        fabric.close(SECOND).await.unwrap();
        confirm.await.unwrap();
        assert_eq!(batches(&probe), ["x"]);
        assert_eq!(fabric.publish(event("y")).await.unwrap_err().kind(), ErrorKind::Closed);

        let probe = Probe::new(|_, _| Answer::ok().room_after(Duration::MAX));
        let fabric = probe.under(Batching::new());
        let _confirm = fabric.submit(event("x")).await.unwrap();
        assert_eq!(fabric.close(SECOND).await.unwrap_err().kind(), ErrorKind::Timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_batch_gathers_while_one_is_handed_over_and_order_stays() {
        let probe = Probe::new(|_, _| Answer::ok().room_after(SECOND));
        let fabric = probe.under(Batching::new().max_events(4));
        let mut confirms = Vec::new();
        for n in 0..13 {
            confirms.push(fabric.submit(event(n % 10)).await.unwrap());
        }
        for confirm in confirms {
            confirm.await.unwrap();
        }
        assert_eq!(batches(&probe), ["0123", "4567", "8901", "2"]);
        let times: Vec<_> = probe.seen().iter().map(|seen| seen.after.as_secs()).collect();
        assert_eq!(times, [0, 1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn confirms_that_nobody_awaits_hold_nobody_up() {
        let probe = Probe::new(|_, _| Answer::ok().room_after(SECOND).confirmed_after(SECOND));
        let fabric = probe.under(Batching::new().max_events(2));
        for n in 0..7 {
            drop(fabric.submit(event(n)).await.unwrap());
        }
        fabric.publish(event(7)).await.unwrap();
        assert_eq!(probe.texts().concat(), "01234567");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_mix_goes_alone_and_in_order() {
        let probe = confirming();
        let fabric = probe.under(Batching::new().max_events(3).linger(SECOND));
        let first = fabric.submit(event(1)).await.unwrap();
        let place = Position::new(Topic::new("a.b").unwrap(), 1, 7);
        let second = fabric.submit(event(2)).expect_last(place).await.unwrap();
        let third = fabric.submit(event(3)).await.unwrap();
        let fourth = fabric.submit(event(4)).transient().await.unwrap();
        let many = submit(&fabric, &["5", "6", "7", "8"]).await;
        for confirm in [first, second, third, fourth] {
            confirm.await.unwrap();
        }
        assert_eq!(many.await.len(), 4);
        assert_eq!(batches(&probe), ["1", "2", "3", "4", "5678"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fabric_that_is_dropped_lets_go_of_its_backend() {
        let probe = confirming();
        let backend = probe.shared();
        let layered = Batching::new().linger(SECOND).layer(Arc::clone(&backend)).unwrap();
        drop(layered.try_submit(Batch::one(event(1))).unwrap());
        drop(layered);
        assert_eq!(Arc::strong_count(&backend), 1);
        let layered = Batching::new().linger(SECOND).layer(backend).unwrap();
        let confirms = layered.try_submit(Batch::one(event(2))).unwrap();
        drop(layered);
        assert_eq!(confirms.await.failures().count(), 0);
        assert_eq!(batches(&probe), ["2"]);
    }

    #[tokio::test]
    async fn a_batch_of_nothing_is_refused() {
        for rule in [Batching::new().max_events(0), Batching::new().max_bytes(0)] {
            let error = rule.layer(confirming().shared()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }
}
