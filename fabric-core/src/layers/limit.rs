//! Bounds on how many events leave per second, and how many are unconfirmed at a time.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::future::{FutureExt as _, Shared, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::way::{Way, groups_by_way, requests};
use crate::backend::{Backend, DynGroups, DynRequestReply, RequestReplyBackend, SharedBackend};
use crate::batch::{Batch, Confirms, Outcomes};
use crate::event::Event;
use crate::layer::Layer;
use crate::request::{Requests, RespondOptions};
use crate::time::far_future;
use crate::{Error, ErrorKind, Result};

/// Bounds how many events leave per second and how many are unconfirmed at a time.
///
/// * [`rate`](Self::rate): so many events per second, evenly. [`burst`](Self::burst) says how many
///   may leave at once after a pause.
/// * [`in_flight`](Self::in_flight): at most so many events are handed over and not yet confirmed.
///   An event whose confirm was dropped counts until its answer is there.
///
/// Whoever finds no room waits in line, first come, first served, until its `deadline`, and gets
/// `Full` then: certainly not accepted. `try_submit` gives the batch back where it would have to
/// wait or somebody waits already. A batch is never split: one that is larger than a bound leaves
/// when nothing else is in flight and the whole burst is there; the rate makes up for it
/// afterwards. A request counts as one event, until it is answered. A flush passes.
///
/// The bounds belong to the value: one that is added to two fabrics bounds them together.
///
/// It belongs next to the backend: inside [`Timeout`](super::Timeout), which then bounds the wait
/// in line as well, inside [`PublishRetry`](super::PublishRetry), so that repetitions count, and
/// inside [`Batching`](super::Batching), so that the next batch fills while this one waits.
///
/// ```
/// use fabric_core::layers::Limit;
/// # fn example(fabric: fabric_core::Fabric) -> fabric_core::Result<fabric_core::Fabric> {
/// fabric.layer(Limit::new().rate(500.0).burst(50).in_flight(1024))
/// # }
/// ```
///
/// # Errors
/// Adding it fails with `Config` where it has no bound, a bound of zero, or a rate that is not a
/// number above zero.
#[derive(Clone, Debug, Default)]
#[must_use = "a layer does nothing before it is added"]
pub struct Limit {
    rate: Option<f64>,
    burst: Option<usize>,
    in_flight: Option<usize>,
    line: Arc<Line>,
}

impl Limit {
    /// No bound yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most that many events per second.
    pub const fn rate(mut self, events_per_second: f64) -> Self {
        self.rate = Some(events_per_second);
        self
    }

    /// Lets that many events leave at once after a pause; what the rate allows in ten
    /// milliseconds unless set, and at least one.
    pub const fn burst(mut self, events: usize) -> Self {
        self.burst = Some(events);
        self
    }

    /// At most that many events unconfirmed.
    pub const fn in_flight(mut self, events: usize) -> Self {
        self.in_flight = Some(events);
        self
    }

    /// How many events are unconfirmed now; zero where nothing bounds them.
    #[must_use]
    pub fn unconfirmed(&self) -> usize {
        self.line.taken.load(Ordering::Acquire)
    }

    fn validate(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::new(ErrorKind::Config, text));
        if let Some(rate) = self.rate
            && !(rate.is_finite() && rate > 0.0)
        {
            return refuse(format!("a rate of {rate} events per second lets nothing through"));
        }
        if self.burst == Some(0) || self.in_flight == Some(0) {
            return refuse("a limit of zero events lets nothing through".to_owned());
        }
        if self.rate.is_none() && self.in_flight.is_none() {
            return refuse("a limit needs a rate or a number of events in flight".to_owned());
        }
        Ok(())
    }

    fn bucket(&self) -> Option<Bucket> {
        let rate = self.rate?;
        let ten_milliseconds = ((rate / 100.0) as usize).max(1);
        Some(Bucket { rate, burst: self.burst.unwrap_or(ten_milliseconds) })
    }
}

impl Layer for Limit {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        self.validate()?;
        let bucket = self.bucket();
        Ok(Arc::new(Limited { inner, bucket, most: self.in_flight, line: Arc::clone(&self.line) }))
    }
}

/// A token bucket that remembers only when it will be full.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: f64,
    burst: usize,
}

impl Bucket {
    /// When `count` events may leave, given when the bucket will be full.
    fn due(self, full_at: Option<Instant>, count: usize) -> Option<Instant> {
        let spare = self.burst - count.min(self.burst);
        full_at.map(|at| at.checked_sub(self.time(spare)).unwrap_or(at))
    }

    /// When the bucket will be full after `count` events left at `now`.
    fn take(self, full_at: Option<Instant>, count: usize, now: Instant) -> Instant {
        let full_at = full_at.map_or(now, |at| at.max(now));
        full_at.checked_add(self.time(count)).unwrap_or_else(|| far_future(now))
    }

    fn time(self, events: usize) -> Duration {
        Duration::try_from_secs_f64(events as f64 / self.rate).unwrap_or(Duration::MAX)
    }
}

/// An answer that several can wait for, and bring about by waiting.
type Answer = Shared<BoxFuture<'static, Arc<Outcomes>>>;

/// Those who wait, in order, and what they wait for.
#[derive(Default)]
struct Line {
    /// Held by whoever is at the head.
    head: tokio::sync::Mutex<Head>,
    /// How many events are unconfirmed.
    taken: AtomicUsize,
    /// Answers that the head does not know of yet.
    fresh: Mutex<Vec<Answer>>,
    /// Tells the head that one of the two has changed.
    changed: Notify,
}

#[derive(Default)]
struct Head {
    /// When the bucket will be full.
    full_at: Option<Instant>,
    /// The answers that are still to come: while nobody else polls them, the head does.
    unanswered: FuturesUnordered<Answer>,
}

impl Line {
    /// Places for `count` events, if there are any now.
    fn take(self: &Arc<Self>, count: usize, most: Option<usize>) -> Option<Places> {
        let Some(most) = most else {
            return Some(Places { line: Arc::clone(self), count: 0 });
        };
        // A batch larger than the bound goes alone.
        let count = count.min(most);
        let more = |taken: usize| (taken + count <= most).then_some(taken + count);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Places { line: Arc::clone(self), count })
    }

    fn fresh(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Head {
    /// Learns of new answers, and forgets those that are there.
    fn tidy(&mut self, line: &Line) {
        self.unanswered.extend(line.fresh().drain(..));
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(_)) = self.unanswered.poll_next_unpin(&mut cx) {}
    }

    /// Resolves when a place may have become free, and helps to bring that about.
    async fn change(&mut self, line: &Line) {
        let changed = pin!(line.changed.notified());
        match self.unanswered.is_empty() {
            true => changed.await,
            false => drop(select(changed, self.unanswered.next()).await),
        }
    }
}

/// The places of events that are not confirmed; dropping it frees them.
struct Places {
    line: Arc<Line>,
    count: usize,
}

impl Drop for Places {
    fn drop(&mut self) {
        if self.count > 0 {
            self.line.taken.fetch_sub(self.count, Ordering::AcqRel);
            self.line.changed.notify_one();
        }
    }
}

impl Places {
    /// The same confirms; once they are there the places are free.
    fn until(self, confirms: Confirms) -> Confirms {
        if self.count == 0 {
            return confirms;
        }
        let pending = match confirms.try_ready() {
            Ok(outcomes) => return Confirms::ready(outcomes),
            Err(pending) => pending,
        };
        let line = Arc::clone(&self.line);
        let answer = async move {
            let outcomes = pending.await;
            drop(self);
            Arc::new(outcomes)
        };
        let answer = answer.boxed().shared();
        line.fresh().push(answer.clone());
        line.changed.notify_one();
        Confirms::pending(async move { Arc::unwrap_or_clone(answer.await) })
    }
}

#[derive(Debug)]
struct Limited {
    inner: SharedBackend,
    bucket: Option<Bucket>,
    most: Option<usize>,
    line: Arc<Line>,
}

impl Limited {
    /// Waits in line until `count` events may leave.
    async fn admit(&self, count: usize, deadline: Option<Instant>) -> Result<Places> {
        let deadline = deadline.unwrap_or_else(|| far_future(Instant::now()));
        let late = |what| move |_| full(what);
        let in_line = timeout_at(deadline, self.line.head.lock()).await;
        let mut head = in_line.map_err(late("others in line"))?;
        let places = loop {
            head.tidy(&self.line);
            if let Some(places) = self.line.take(count, self.most) {
                break places;
            }
            let changed = timeout_at(deadline, head.change(&self.line)).await;
            changed.map_err(late("the confirms of earlier events"))?;
        };
        if let Some(bucket) = self.bucket {
            if let Some(due) = bucket.due(head.full_at, count) {
                if due > deadline {
                    return Err(full("the rate to allow it"));
                }
                sleep_until(due).await;
            }
            head.full_at = Some(bucket.take(head.full_at, count, Instant::now()));
        }
        Ok(places)
    }

    async fn send(&self, way: Way, batch: Batch) -> Result<Confirms> {
        if batch.events.is_empty() {
            return way.submit(&self.inner, batch).await;
        }
        let places = self.admit(batch.events.len(), batch.deadline()).await?;
        Ok(places.until(way.submit(&self.inner, batch).await?))
    }
}

fn full(what: &str) -> Error {
    Error::new(ErrorKind::Full, format!("no room in time: it waited for {what}"))
        .with("layer", "limit")
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Limited {
    crate::forward!(self.inner: info, capabilities, notices, subscribe, replay, admin, health, close);

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        let (count, now) = (batch.events.len(), batch.now.instant);
        if count == 0 {
            return self.inner.try_submit(batch);
        }
        let Ok(mut head) = self.line.head.try_lock() else { return Err(batch) };
        let due = self.bucket.and_then(|bucket| bucket.due(head.full_at, count));
        if due.is_some_and(|due| due > now) {
            return Err(batch);
        }
        head.tidy(&self.line);
        let Some(places) = self.line.take(count, self.most) else { return Err(batch) };
        let confirms = self.inner.try_submit(batch)?;
        if let Some(bucket) = self.bucket {
            head.full_at = Some(bucket.take(head.full_at, count, now));
        }
        Ok(places.until(confirms))
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.send(Way::Topics, batch).await
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        self.inner.request_reply().is_some().then_some(self)
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        self.inner.groups().is_some().then_some(self)
    }
}

groups_by_way!(Limited);

#[deny(clippy::missing_trait_methods)]
impl RequestReplyBackend for Limited {
    async fn request(&self, request: Event, timeout: Duration) -> Result<Event> {
        let until = Instant::now() + timeout;
        let _place = self.admit(1, Some(until)).await?;
        let left = until.saturating_duration_since(Instant::now());
        requests(&self.inner)?.request(request, left).await
    }

    async fn respond(&self, options: RespondOptions) -> Result<Requests> {
        requests(&self.inner)?.respond(options).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::{Answer as Reply, Probe, ambiguous};
    use super::*;
    use crate::{Fabric, RetryClass};

    const SECOND: Duration = Duration::from_secs(1);

    fn event(n: impl ToString + Copy) -> Event {
        Event::to("a.b").text(n.to_string()).build().unwrap()
    }

    fn confirming(after: Duration) -> Probe {
        Probe::new(move |_, _| Reply::ok().confirmed_after(after))
    }

    fn millis(probe: &Probe) -> Vec<u128> {
        probe.seen().iter().map(|seen| seen.after.as_millis()).collect()
    }

    async fn submit(fabric: &Fabric, count: usize) -> Confirms {
        let batch = Batch::new((0..count).map(event));
        match fabric.backend().try_submit(batch) {
            Ok(confirms) => confirms,
            Err(batch) => fabric.backend().submit(batch).await.unwrap(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_leave_at_the_rate_after_the_burst() {
        let probe = confirming(Duration::ZERO);
        let fabric = probe.under(Limit::new().rate(10.0).burst(3));
        for n in 0..6 {
            fabric.publish(event(n)).await.unwrap();
        }
        assert_eq!(millis(&probe), [0, 0, 0, 100, 200, 300]);
        tokio::time::sleep(SECOND * 9).await;
        for n in 0..4 {
            fabric.publish(event(n)).await.unwrap();
        }
        assert_eq!(millis(&probe)[6..], [9300, 9300, 9300, 9400]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_beyond_the_burst_is_made_up_for_afterwards() {
        let probe = confirming(Duration::ZERO);
        let fabric = probe.under(Limit::new().rate(10.0).burst(3));
        drop(submit(&fabric, 10).await);
        drop(submit(&fabric, 1).await);
        assert_eq!(millis(&probe), [0, 800]);
    }

    #[tokio::test(start_paused = true)]
    async fn unconfirmed_events_are_bounded_also_where_nobody_polls_their_confirms() {
        let probe = confirming(SECOND);
        let limit = Limit::new().in_flight(2);
        let fabric = probe.under(limit.clone());
        let mut confirms = Vec::new();
        for n in 0..6 {
            confirms.push(fabric.submit(event(n)).await.unwrap());
            assert!(limit.unconfirmed() <= 2);
        }
        assert_eq!(millis(&probe), [0, 0, 1000, 1000, 2000, 2000]);
        for confirm in confirms {
            confirm.await.unwrap();
        }
        assert_eq!(limit.unconfirmed(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_confirm_counts_until_its_answer_is_there() {
        let probe = confirming(SECOND);
        let fabric = probe.under(Limit::new().in_flight(1));
        drop(fabric.submit(event(0)).await.unwrap());
        fabric.publish(event(1)).await.unwrap();
        assert_eq!(millis(&probe), [0, 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_not_overtaken() {
        let probe = confirming(SECOND);
        let fabric = probe.under(Limit::new().in_flight(4));
        let first = submit(&fabric, 3).await;
        let backend = Arc::clone(fabric.backend());
        let large =
            tokio::spawn(async move { backend.submit(Batch::new([event(1), event(2)])).await });
        tokio::task::yield_now().await;
        assert!(fabric.backend().try_submit(Batch::one(event("small"))).is_err());
        let _ = first.await;
        let _ = large.await.unwrap().unwrap().await;
        assert_eq!(millis(&probe), [0, 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_beyond_the_bound_goes_alone() {
        let probe = confirming(SECOND);
        let fabric = probe.under(Limit::new().in_flight(2));
        let first = submit(&fabric, 1).await;
        let large = submit(&fabric, 5).await;
        let last = submit(&fabric, 1).await;
        let _ = (first.await, large.await, last.await);
        assert_eq!(millis(&probe), [0, 1000, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_with_a_safe_refusal() {
        let probe = Probe::new(|_, _| Reply::ok().never_confirmed());
        let fabric = probe.under(Limit::new().in_flight(1));
        let _held = fabric.submit(event(0)).await.unwrap();
        let batch = || {
            let mut batch = Batch::one(event(1));
            batch.options.get_or_insert_default().deadline = Some(Instant::now() + SECOND);
            batch
        };
        let error = fabric.backend().submit(batch()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Full, RetryClass::Safe));
        let fabric = probe.under(Limit::new().rate(0.1));
        drop(submit(&fabric, 1).await);
        let error = fabric.backend().submit(batch()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Full, RetryClass::Safe));
    }

    #[tokio::test(start_paused = true)]
    async fn places_come_back_from_failures_and_cancelled_calls() {
        let probe = Probe::new(|n, _| match n {
            0 => Reply::refused(ambiguous()),
            1 => Reply::ok().room_after(SECOND),
            _ => Reply::ok(),
        });
        let limit = Limit::new().in_flight(1);
        let fabric = probe.under(limit.clone());
        assert!(fabric.publish(event(0)).await.is_err());
        let cancelled = tokio::time::timeout(SECOND / 2, fabric.publish(event(1))).await;
        assert!(cancelled.is_err());
        assert_eq!(limit.unconfirmed(), 0);
        fabric.publish(event(2)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_value_bounds_all_that_it_was_added_to() {
        let probe = confirming(Duration::ZERO);
        let limit = Limit::new().rate(1.0);
        let (one, two) = (probe.under(limit.clone()), probe.under(limit));
        one.publish(event(0)).await.unwrap();
        two.publish(event(1)).await.unwrap();
        one.flush().await.unwrap();
        let sent = one.groups().unwrap().send_to("g", event(2), None, 1).await.unwrap();
        assert_eq!(sent.await.failures().count(), 0);
        assert_eq!(millis(&probe), [0, 1000, 2000]);
    }

    #[tokio::test]
    async fn bounds_that_let_nothing_through_are_refused() {
        let probe = confirming(Duration::ZERO);
        for limit in [
            Limit::new(),
            Limit::new().rate(0.0),
            Limit::new().rate(f64::NAN),
            Limit::new().rate(1.0).burst(0),
            Limit::new().in_flight(0),
        ] {
            let error = limit.layer(probe.shared()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }
}
