//! Publishing again what was not accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashSet;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::way::{Way, groups_by_way};
use crate::backend::{Backend, DynGroups, SharedBackend};
use crate::batch::{Batch, Confirms, Outcomes, Receipt, SubmitOptions};
use crate::capabilities::{Ability, Capabilities};
use crate::consumer::Retry;
use crate::event::Event;
use crate::layer::Layer;
use crate::{Error, Result, RetryClass};

/// Publishes again what was not accepted, by a [`Retry`] policy.
///
/// Tried again is what was certainly not accepted (`retry()` is `Safe`), and, where the stack
/// deduplicates ([`Ability::Dedup`]), what may have been (`Ambiguous`): the id travels with each
/// try, so that it is stored once. Everything else fails at once. Each event of a batch is looked
/// at by itself, and only those that failed are sent again. An event that was ambiguous once stays
/// ambiguous, whatever its last try answered. With an expected last position ambiguous events are
/// left alone: the first try may be the very event that the second finds in its way.
///
/// # Order
/// Where the stack claims an order, a retried event must not land behind a later one. So a submit
/// resolves only when the outcome of its events is final, retries included: one publisher waits,
/// others do not wait for it. A lone publisher that pipelines therefore goes from confirm to
/// confirm, with whole batches if [`Batching`](super::Batching) is outside this layer, which is
/// the place for it. Inside one batch an event whose follower on the same topic was accepted is
/// not tried again, but fails: its place is taken.
///
/// [`pipelined`](Self::pipelined) trades the order for throughput: batches are handed over while
/// earlier ones are being retried, and the stack stops claiming an order. A retry then happens
/// while somebody awaits the confirm; an abandoned confirm is not retried.
///
/// # Place
/// Outside [`Timeout`](super::Timeout), so that each try has its limit, and outside
/// [`CircuitBreaker`](super::CircuitBreaker), so that the pauses give the breaker time to close.
/// The `deadline` of a call ends the retries as well.
///
/// ```
/// use std::time::Duration;
/// use fabric_core::{Retry, layers::PublishRetry};
/// # fn example(fabric: fabric_core::Fabric) -> fabric_core::Result<fabric_core::Fabric> {
/// let policy = Retry::exponential(Duration::from_millis(50)).max_attempts(6);
/// fabric.layer(PublishRetry::new(policy))
/// # }
/// ```
///
/// # Errors
/// Adding it fails with `Config` where the policy allows no attempt.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing before it is added"]
pub struct PublishRetry {
    policy: Retry,
    within: Option<Duration>,
    pipelined: bool,
    retried: Arc<AtomicU64>,
}

impl PublishRetry {
    /// Tries again by `policy`.
    pub fn new(policy: Retry) -> Self {
        Self { policy, within: None, pipelined: false, retried: Arc::default() }
    }

    /// Begins no try later than that after the first.
    pub const fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// Does not hold back what comes after an event that is being retried; the stack claims no
    /// order any more.
    pub const fn pipelined(mut self) -> Self {
        self.pipelined = true;
        self
    }

    /// How many times an event was sent again, over all fabrics that this layer was added to.
    #[must_use]
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }
}

impl From<Retry> for PublishRetry {
    fn from(policy: Retry) -> Self {
        Self::new(policy)
    }
}

impl Layer for PublishRetry {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        self.policy.validate()?;
        Ok(Arc::new(Retrying { inner, layer: self.clone() }))
    }
}

#[derive(Debug)]
struct Retrying {
    inner: SharedBackend,
    layer: PublishRetry,
}

const ORDERS: &[Ability] =
    &[Ability::OrderTopic, Ability::OrderKey, Ability::OrderKeyAcrossMembers];

impl Retrying {
    fn keeps_order(&self) -> bool {
        let claimed = self.inner.capabilities();
        !self.layer.pipelined && ORDERS.iter().any(|order| claimed.can(*order))
    }

    async fn send(&self, way: Way, batch: Batch) -> Result<Confirms> {
        if batch.events.is_empty() {
            return way.submit(&self.inner, batch).await;
        }
        let keeps_order = self.keeps_order();
        let job = self.job(&batch, way, keeps_order);
        let first = job.way.submit(&self.inner, batch).await;
        if let Err(error) = &first
            && !job.is_worth_it(error)
        {
            return first;
        }
        if keeps_order {
            return Ok(Confirms::ready(job.run(first).await));
        }
        Ok(Confirms::pending(job.run(first)))
    }

    fn job(&self, batch: &Batch, way: Way, keeps_order: bool) -> Job {
        Job {
            inner: Arc::clone(&self.inner),
            layer: self.layer.clone(),
            way,
            events: batch.events.clone(),
            options: batch.options.clone(),
            began: Instant::now(),
            dedup: self.inner.capabilities().can(Ability::Dedup),
            keeps_order,
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Retrying {
    crate::forward!(self.inner: info, notices, subscribe, replay, request_reply, admin, health, close);

    fn capabilities(&self) -> Capabilities {
        let claimed = self.inner.capabilities();
        if self.layer.pipelined { claimed.with_all(ORDERS, crate::Support::No) } else { claimed }
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if batch.events.is_empty() {
            return self.inner.try_submit(batch);
        }
        if self.keeps_order() {
            // What is handed over here could be overtaken before it is known to have failed.
            return Err(batch);
        }
        let job = self.job(&batch, Way::Topics, false);
        let confirms = self.inner.try_submit(batch)?;
        Ok(match confirms.try_ready() {
            Ok(outcomes) if outcomes.failures().next().is_none() => Confirms::ready(outcomes),
            Ok(outcomes) => Confirms::pending(job.run(Ok(Confirms::ready(outcomes)))),
            Err(pending) => Confirms::pending(job.run(Ok(pending))),
        })
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.send(Way::Topics, batch).await
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        self.inner.groups().is_some().then_some(self)
    }
}

groups_by_way!(Retrying);

/// One batch until each of its events is accepted or given up.
struct Job {
    inner: SharedBackend,
    layer: PublishRetry,
    way: Way,
    events: SmallVec<[Event; 1]>,
    options: Option<Box<SubmitOptions>>,
    began: Instant,
    dedup: bool,
    keeps_order: bool,
}

/// What is known of one event.
#[derive(Clone)]
struct Fate {
    outcome: Result<Receipt>,
    /// Whether any try so far may have been accepted.
    ambiguous: bool,
    attempts: u32,
}

impl Job {
    async fn run(self, first: Result<Confirms>) -> Outcomes {
        let mut answers = answers(first, self.events.len()).await;
        if answers.failures().next().is_none() {
            return answers;
        }
        let unknown = Fate { outcome: Ok(Receipt::ACCEPTED), ambiguous: false, attempts: 0 };
        let mut fates = vec![unknown; self.events.len()];
        let mut sent: Vec<usize> = (0..self.events.len()).collect();
        for attempt in 1.. {
            for (nth, &index) in sent.iter().enumerate() {
                if let Some(outcome) = answers.get(nth) {
                    fates[index].learn(outcome, attempt);
                }
            }
            sent = self.worth_another_try(&fates, &sent);
            let Some(pause) = self.pause(attempt, sent.is_empty()) else { break };
            tokio::time::sleep(pause).await;
            let events = sent.iter().map(|&index| self.events[index].clone()).collect();
            self.count(sent.len() as u64);
            let batch = Batch::again(events, self.options.clone());
            answers = self::answers(self.way.submit(&self.inner, batch).await, sent.len()).await;
        }
        Outcomes::each(fates.into_iter().map(Fate::verdict))
    }

    /// Those of `sent` that are to be sent again, in order.
    fn worth_another_try(&self, fates: &[Fate], sent: &[usize]) -> Vec<usize> {
        let failed = |index: &usize| match &fates[*index].outcome {
            Ok(_) => false,
            Err(error) => self.is_worth_it(error),
        };
        let mut again: Vec<usize> = sent.iter().copied().filter(failed).collect();
        if self.keeps_order && fates.len() > 1 {
            let mut last = fates.len();
            let mut taken = HashSet::<_, foldhash::fast::RandomState>::default();
            for place in (0..again.len()).rev() {
                let index = again[place];
                let followers = (index + 1..last).filter(|&n| fates[n].outcome.is_ok());
                taken.extend(followers.map(|n| self.events[n].topic()));
                last = index;
                if taken.contains(self.events[index].topic()) {
                    again.remove(place);
                }
            }
        }
        again
    }

    fn is_worth_it(&self, error: &Error) -> bool {
        match error.retry() {
            RetryClass::Safe => true,
            RetryClass::Ambiguous => self.dedup && !self.expects_last(),
            RetryClass::Never => false,
        }
    }

    fn count(&self, retried: u64) {
        self.layer.retried.fetch_add(retried, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        metrics::counter!(
            "fabric_publish_retries_total",
            "backend" => self.inner.info().name.clone()
        )
        .increment(retried);
    }

    fn expects_last(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.expect_last.is_some())
    }

    /// How long to wait before the next try; `None` to give up.
    fn pause(&self, attempt: u32, done: bool) -> Option<Duration> {
        if done {
            return None;
        }
        let pause = self.layer.policy.next(attempt)?;
        let next = Instant::now() + pause;
        let deadline = self.options.as_ref().and_then(|options| options.deadline);
        let in_time = deadline.is_none_or(|deadline| next < deadline)
            && self.layer.within.is_none_or(|within| next <= self.began + within);
        in_time.then_some(pause)
    }
}

async fn answers(submitted: Result<Confirms>, count: usize) -> Outcomes {
    match submitted {
        Ok(confirms) => confirms.await,
        Err(error) => Outcomes::failed(count, &error),
    }
}

impl Fate {
    fn learn(&mut self, outcome: Result<Receipt>, attempt: u32) {
        self.attempts = attempt;
        self.ambiguous |= matches!(&outcome, Err(e) if e.retry() == RetryClass::Ambiguous);
        self.outcome = outcome;
    }

    fn verdict(self) -> Result<Receipt> {
        let Self { outcome, ambiguous, attempts } = self;
        outcome.map_err(|error| {
            let error = if ambiguous { error.with_retry(RetryClass::Ambiguous) } else { error };
            if attempts > 1 { error.with("attempts", attempts) } else { error }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::{Answer, Probe, ambiguous, hopeless, safe};
    use super::*;
    use crate::{ErrorKind, Fabric, Support};

    const SECOND: Duration = Duration::from_secs(1);

    fn event(topic: &str, text: &str) -> Event {
        Event::to(topic).text(text).build().unwrap()
    }

    fn every_second(attempts: u32) -> PublishRetry {
        PublishRetry::new(Retry::fixed(SECOND).max_attempts(attempts))
    }

    /// Fails the first batches with these errors, then accepts.
    fn failing(errors: impl IntoIterator<Item = Error>) -> Probe {
        let mut errors: Vec<Error> = errors.into_iter().collect();
        errors.reverse();
        Probe::new(move |_, _| match errors.pop() {
            Some(error) => Answer::each([Err(error)]),
            None => Answer::ok(),
        })
    }

    async fn submit(fabric: &Fabric, events: &[(&str, &str)]) -> Outcomes {
        let batch = Batch::new(events.iter().map(|(topic, text)| event(topic, text)));
        fabric.backend().submit(batch).await.unwrap().await
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_accepted_is_sent_again_by_the_policy() {
        let probe = failing([safe(), safe()]);
        let layer = every_second(3);
        let fabric = probe.under(layer.clone());
        fabric.publish(event("a", "x")).await.unwrap();
        let times: Vec<_> = probe.seen().iter().map(|seen| seen.after.as_secs()).collect();
        assert_eq!((times, layer.retried()), (vec![0, 1, 2], 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_was_not_taken_is_sent_again() {
        let probe = Probe::new(|n, _| match n {
            0 => Answer::refused(safe()),
            _ => Answer::ok(),
        });
        probe.under(every_second(2)).publish(event("a", "x")).await.unwrap();
        assert_eq!(probe.seen().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_error_says_how_often_it_was_tried() {
        let probe = failing(std::iter::repeat_n(safe(), 9));
        let error = probe.under(every_second(3)).publish(event("a", "x")).await.unwrap_err();
        assert_eq!((error.kind(), error.context("attempts")), (ErrorKind::Connect, Some("3")));
        assert_eq!(probe.seen().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_succeed_is_not_tried_again() {
        let probe = failing([hopeless()]);
        let error = probe.under(every_second(3)).publish(event("a", "x")).await.unwrap_err();
        assert_eq!((error.kind(), probe.seen().len()), (ErrorKind::Unauthorized, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ambiguous_event_needs_deduplication() {
        let without = Capabilities::all(Support::Native).without(Ability::Dedup);
        let probe = failing([ambiguous()]).with_capabilities(without);
        let error = probe.under(every_second(3)).publish(event("a", "x")).await.unwrap_err();
        assert_eq!((error.retry(), probe.seen().len()), (RetryClass::Ambiguous, 1));

        let probe = failing([ambiguous()]);
        let fabric = probe.under(every_second(3));
        fabric.publish(event("a", "x")).await.unwrap();
        assert_eq!(probe.seen().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ambiguous_event_with_an_expected_position_is_left_alone() {
        let probe = failing([ambiguous()]);
        let fabric = probe.under(every_second(3));
        let position = crate::Position::new(crate::Topic::new("a").unwrap(), 1, 7);
        let error = fabric.publish(event("a", "x")).expect_last(position).await.unwrap_err();
        assert_eq!((error.retry(), probe.seen().len()), (RetryClass::Ambiguous, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn once_ambiguous_is_ambiguous_for_good() {
        let probe = failing([ambiguous(), safe(), hopeless()]);
        let error = probe.under(every_second(5)).publish(event("a", "x")).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unauthorized, RetryClass::Ambiguous));
        let probe = failing([ambiguous(), safe()]);
        let error = probe.under(every_second(2)).publish(event("a", "x")).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Connect, RetryClass::Ambiguous));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_failed_events_of_a_batch_are_sent_again() {
        let mixed = || [Ok(Receipt::ACCEPTED), Err(safe()), Err(hopeless()), Err(safe())];
        let probe = Probe::new(move |n, _| match n {
            0 => Answer::each(mixed()),
            _ => Answer::ok(),
        });
        let fabric = probe.under(every_second(3));
        let events = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "4")];
        let outcomes = submit(&fabric, &events).await;
        assert_eq!(outcomes.failures().map(|(n, _)| n).collect::<Vec<_>>(), [2]);
        assert_eq!(probe.seen()[1].texts, ["2", "4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_whose_follower_was_accepted_lost_its_place() {
        let outcomes = || [Err(safe()), Err(safe()), Ok(Receipt::ACCEPTED), Err(safe())];
        let probe = Probe::new(move |n, _| match n {
            0 => Answer::each(outcomes()),
            _ => Answer::ok(),
        });
        let events = [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")];
        let outcomes = submit(&probe.under(every_second(3)), &events).await;
        assert_eq!(outcomes.failures().map(|(n, _)| n).collect::<Vec<_>>(), [0]);
        assert_eq!(probe.seen()[1].texts, ["2", "4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_event_does_not_overtake_one_that_is_being_retried() {
        let answer = |n| match n {
            0 => Answer::each([Err(safe())]).confirmed_after(SECOND),
            _ => Answer::ok().confirmed_after(SECOND),
        };
        let probe = Probe::new(move |n, _| answer(n));
        let fabric = probe.under(every_second(3));
        let first = fabric.submit(event("a", "1")).await.unwrap();
        let second = fabric.submit(event("a", "2")).await.unwrap();
        second.await.unwrap();
        first.await.unwrap();
        assert_eq!(probe.texts(), ["1", "1", "2"]);
        assert!(fabric.capabilities().can(Ability::OrderTopic));

        let probe = Probe::new(move |n, _| answer(n));
        let fabric = probe.under(every_second(3).pipelined());
        let first = fabric.submit(event("a", "1")).await.unwrap();
        let second = fabric.submit(event("a", "2")).await.unwrap();
        first.await.unwrap();
        second.await.unwrap();
        assert_eq!(probe.texts(), ["1", "2", "1"]);
        assert!(!fabric.capabilities().can(Ability::OrderTopic));
    }

    #[tokio::test(start_paused = true)]
    async fn one_publisher_does_not_wait_for_another() {
        let probe = Probe::new(|n, _| match n {
            0 => Answer::each([Err(safe())]),
            _ => Answer::ok(),
        });
        let fabric = probe.under(every_second(3));
        let (one, two) =
            tokio::join!(fabric.publish(event("a", "1")), fabric.publish(event("a", "2")));
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(probe.texts(), ["1", "2", "1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_of_the_call_ends_the_retries() {
        let probe = failing(std::iter::repeat_n(safe(), 99));
        let fabric = probe.under(every_second(50));
        let publish = fabric.publish(event("a", "x")).timeout(SECOND * 3);
        assert_eq!(publish.await.unwrap_err().kind(), ErrorKind::Connect);
        assert_eq!(probe.seen().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_try_begins_within_the_total_time() {
        let probe = failing(std::iter::repeat_n(safe(), 99));
        let fabric = probe.under(every_second(50).within(SECOND * 3));
        fabric.publish(event("a", "x")).await.unwrap_err();
        assert_eq!(probe.seen().last().unwrap().after, SECOND * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_to_one_group_is_retried_too() {
        let probe = failing([safe()]);
        let fabric = probe.under(every_second(2));
        let sent = fabric.groups().unwrap().send_to("g", event("a", "x"), None, 1).await.unwrap();
        assert_eq!(sent.await.failures().count(), 0);
        assert!(probe.seen().iter().all(|seen| seen.group.as_ref().unwrap() == "g"));
        fabric.flush().await.unwrap();
        assert_eq!(probe.seen().len(), 2);
    }

    #[tokio::test]
    async fn a_policy_without_attempts_is_refused() {
        let layer = every_second(0);
        let error = layer.layer(failing([]).shared()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
