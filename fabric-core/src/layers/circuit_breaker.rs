//! Failing at once while the backend is in trouble.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::way::{Way, groups_by_way};
use crate::backend::{Backend, DynGroups, SharedBackend};
use crate::batch::{Batch, Confirms, Outcomes};
use crate::health::{Health, HealthStatus};
use crate::layer::Layer;
use crate::notice::{NoticeKind, NoticeSender, Notices};
use crate::{Error, ErrorKind, Result, RetryClass};

/// Fails publishes at once while the backend is in trouble, instead of letting each find out.
///
/// ```text
///             enough failures                 the pause is over
///   closed -------------------> open --------------------------> half open
///     ^                          ^                               |      |
///     |                          |         the probe failed      |      |
///     |                          +-------------------------------+      |
///     +-----------------------------------------------------------------+
///                               the probe succeeded
/// ```
///
/// * Closed, all goes through. It opens after [`failures`](Self::failures) failed publishes in a
///   row, or when [`ratio`](Self::ratio) of those within a window failed.
/// * Open, a publish fails with `Connect`, `Safe`: nothing was sent.
/// * After [`pause`](Self::pause) one publish goes through as a probe, while the others still
///   fail. It decides whether the breaker closes or opens again.
///
/// What counts as a failure is trouble of the backend or on the way: `Connect`, `Timeout`,
/// `Backend`. Where a backend refuses an event, it works. A batch counts once, and fails with its
/// first event that does. A confirm that nobody awaits counts for nothing.
///
/// [`state`](Self::state) tells what it does; [`Fabric::notices`](crate::Fabric::notices) says when
/// it opens and closes, and a health check that would be up is degraded while it is not closed.
/// The state belongs to the value: clones of it, and all fabrics it was added to, share it.
///
/// It belongs outside [`Timeout`](super::Timeout), so that what hangs counts as a failure, and
/// inside [`PublishRetry`](super::PublishRetry), whose pauses then bridge the time until the
/// probe. Outside of it a publish would count once, however often it was tried.
///
/// ```
/// use std::time::Duration;
/// use fabric_core::layers::CircuitBreaker;
/// # fn example(fabric: fabric_core::Fabric) -> fabric_core::Result<fabric_core::Fabric> {
/// let breaker = CircuitBreaker::new().failures(5).pause(Duration::from_secs(10));
/// let fabric = fabric.layer(breaker.clone())?;
/// println!("{:?}", breaker.state());
/// # Ok(fabric)
/// # }
/// ```
///
/// # Errors
/// Adding it fails with `Config` for zero failures, a share that is not above 0 and at most 1, or
/// a window or a pause of no time.
#[derive(Clone)]
#[must_use = "a layer does nothing before it is added"]
pub struct CircuitBreaker {
    rule: Rule,
    shared: Arc<Shared>,
}

/// What a circuit breaker does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CircuitState {
    /// All goes through.
    Closed,
    /// Publishes fail at once.
    Open,
    /// The next publish probes, or one does already.
    HalfOpen,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    failures: u32,
    ratio: Option<Ratio>,
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Ratio {
    share: f64,
    window: Duration,
    least: u32,
}

impl CircuitBreaker {
    /// Opens after five failures in a row, for ten seconds.
    pub fn new() -> Self {
        let rule = Rule { failures: 5, ratio: None, pause: Duration::from_secs(10) };
        Self { rule, shared: Arc::default() }
    }

    /// Sets how many failures in a row open it.
    pub const fn failures(mut self, in_a_row: u32) -> Self {
        self.rule.failures = in_a_row;
        self
    }

    /// Opens it too where that share of the publishes within `window` failed, once there were at
    /// least `least` of them.
    pub const fn ratio(mut self, share: f64, window: Duration, least: u32) -> Self {
        self.rule.ratio = Some(Ratio { share, window, least });
        self
    }

    /// Sets how long it stays open before a publish probes.
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.rule.pause = pause;
        self
    }

    /// What it does now.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        match &self.shared.lock().phase {
            Phase::Closed => CircuitState::Closed,
            Phase::Open { until, .. } if Instant::now() < *until => CircuitState::Open,
            Phase::Open { .. } | Phase::Probing { .. } => CircuitState::HalfOpen,
        }
    }

    fn validate(&self) -> Result<()> {
        let refuse = |text: &str| Err(Error::new(ErrorKind::Config, text));
        let Rule { failures, ratio, pause } = self.rule;
        if failures == 0 || pause.is_zero() {
            return refuse("a circuit breaker opens after at least one failure and for some time");
        }
        if let Some(Ratio { share, window, .. }) = ratio
            && (!(share > 0.0 && share <= 1.0) || window.is_zero())
        {
            return refuse(
                "the ratio of a circuit breaker is above 0 and at most 1, over some time",
            );
        }
        Ok(())
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("rule", &self.rule)
            .field("state", &self.state())
            .finish()
    }
}

impl Layer for CircuitBreaker {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        self.validate()?;
        Ok(Arc::new(Broken { inner, breaker: self.clone() }))
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    notices: NoticeSender,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Counts phases, so that an answer from an earlier one changes nothing.
    era: u64,
    failed_in_a_row: u32,
    window: Window,
}

#[derive(Default)]
enum Phase {
    #[default]
    Closed,
    Open {
        until: Instant,
        cause: Error,
    },
    Probing {
        cause: Error,
    },
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many publishes there were of late, and how many failed, by tenths of the window.
#[derive(Default)]
struct Window {
    tenths: [(u32, u32); 10],
    current: usize,
    since: Option<Instant>,
}

impl Window {
    /// Notes one more; returns how many there are now, and how many of them failed.
    fn note(&mut self, failed: bool, window: Duration, now: Instant) -> (u32, u32) {
        let tenth = (window / 10).max(Duration::from_nanos(1));
        let mut since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_nanos() / tenth.as_nanos();
        if passed >= 10 {
            *self = Self::default();
            since = now;
        } else {
            for _ in 0..passed {
                self.current = (self.current + 1) % 10;
                self.tenths[self.current] = (0, 0);
                since += tenth;
            }
        }
        self.since = Some(since);
        let slot = &mut self.tenths[self.current];
        slot.0 += 1;
        slot.1 += u32::from(failed);
        self.tenths.iter().fold((0, 0), |sum, slot| (sum.0 + slot.0, sum.1 + slot.1))
    }
}

impl CircuitBreaker {
    /// Lets one publish through, or says why not.
    fn admit(&self) -> Result<Ticket> {
        let ticket = |era, probe| Ticket { breaker: self.clone(), era, probe, noted: false };
        let mut state = self.shared.lock();
        let (cause, left) = match &state.phase {
            Phase::Closed => return Ok(ticket(state.era, false)),
            Phase::Probing { cause } => (cause, Duration::ZERO),
            Phase::Open { until, cause } => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    state.phase = Phase::Probing { cause: cause.clone() };
                    return Ok(ticket(state.era, true));
                }
                (cause, left)
            }
        };
        Err(open(cause, left))
    }

    fn note(&self, ticket: &Ticket, failure: Option<&Error>) {
        let mut state = self.shared.lock();
        if state.era != ticket.era {
            return;
        }
        let now = Instant::now();
        match (failure, ticket.probe) {
            (Some(error), true) => self.open(state, error, now),
            (None, true) => {
                *state = State { era: state.era + 1, ..State::default() };
                drop(state);
                self.shared.notices.send(NoticeKind::CircuitClosed);
            }
            (failure, false) => {
                if self.is_too_much(&mut state, failure.is_some(), now)
                    && let Some(error) = failure
                {
                    self.open(state, error, now);
                }
            }
        }
    }

    fn is_too_much(&self, state: &mut State, failed: bool, now: Instant) -> bool {
        state.failed_in_a_row = if failed { state.failed_in_a_row + 1 } else { 0 };
        let share = self.rule.ratio.is_some_and(|ratio| {
            let (all, failed) = state.window.note(failed, ratio.window, now);
            all >= ratio.least && f64::from(failed) >= ratio.share * f64::from(all)
        });
        share || state.failed_in_a_row >= self.rule.failures
    }

    fn open(&self, mut state: MutexGuard<'_, State>, error: &Error, now: Instant) {
        let phase = Phase::Open { until: now + self.rule.pause, cause: error.clone() };
        *state = State { phase, era: state.era + 1, ..State::default() };
        drop(state);
        self.shared.notices.send(NoticeKind::CircuitOpened { error: error.clone() });
    }
}

/// The error of a publish that the breaker did not let through.
fn open(cause: &Error, left: Duration) -> Error {
    let next = if left.is_zero() {
        "a probe is under way".to_owned()
    } else {
        format!("the next try is let through in {left:?}")
    };
    Error::new(ErrorKind::Connect, format!("the circuit breaker is open after failures: {next}"))
        .with_retry(RetryClass::Safe)
        .with("layer", "circuit_breaker")
        .with_source(cause.clone())
}

/// The right to one publish. Dropped without an answer it leaves all as it was.
struct Ticket {
    breaker: CircuitBreaker,
    era: u64,
    probe: bool,
    noted: bool,
}

impl Ticket {
    fn note(mut self, failure: Option<&Error>) {
        self.noted = true;
        self.breaker.note(&self, failure);
    }

    fn watch(self, confirms: Confirms) -> Confirms {
        confirms.map(move |outcomes| {
            let failure = outcomes.failures().find(|(_, error)| is_trouble(error));
            self.note(failure.map(|(_, error)| error));
            outcomes
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.probe || self.noted {
            return;
        }
        let mut state = self.breaker.shared.lock();
        if state.era == self.era
            && let Phase::Probing { cause } = &state.phase
        {
            // The next publish may probe at once.
            state.phase = Phase::Open { until: Instant::now(), cause: cause.clone() };
        }
    }
}

/// Whether an error tells of trouble with the backend, not with the event.
fn is_trouble(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connect | ErrorKind::Timeout | ErrorKind::Backend)
}

#[derive(Debug)]
struct Broken {
    inner: SharedBackend,
    breaker: CircuitBreaker,
}

impl Broken {
    async fn send(&self, way: Way, batch: Batch) -> Result<Confirms> {
        if batch.events.is_empty() {
            return way.submit(&self.inner, batch).await;
        }
        let ticket = self.breaker.admit()?;
        match way.submit(&self.inner, batch).await {
            Ok(confirms) => Ok(ticket.watch(confirms)),
            Err(error) => {
                ticket.note(is_trouble(&error).then_some(&error));
                Err(error)
            }
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Broken {
    crate::forward!(self.inner: info, capabilities, subscribe, replay, request_reply, admin, close);

    fn notices(&self) -> Notices {
        self.inner.notices().and(self.breaker.shared.notices.listen())
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if batch.events.is_empty() {
            return self.inner.try_submit(batch);
        }
        match self.breaker.admit() {
            Ok(ticket) => self.inner.try_submit(batch).map(|confirms| ticket.watch(confirms)),
            Err(error) => Ok(Confirms::ready(Outcomes::failed(batch.events.len(), &error))),
        }
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.send(Way::Topics, batch).await
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        self.inner.groups().is_some().then_some(self)
    }

    async fn health(&self) -> Health {
        let mut health = self.inner.health().await;
        let state = self.breaker.state();
        if state != CircuitState::Closed {
            if health.status == HealthStatus::Up {
                health.status = HealthStatus::Degraded;
                health.reason = Some("the circuit breaker is not closed".to_owned());
            }
            health = health.with("circuit_breaker", format!("{state:?}"));
        }
        health
    }
}

groups_by_way!(Broken);

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::super::probe::{Answer, Probe, ambiguous, hopeless, safe};
    use super::*;
    use crate::Event;

    const SECOND: Duration = Duration::from_secs(1);

    fn event() -> Event {
        Event::to("a.b").text("x").build().unwrap()
    }

    /// Answers one batch after the other; at the end it accepts everything.
    fn answering(errors: impl IntoIterator<Item = Option<Error>>) -> Probe {
        let mut errors: Vec<_> = errors.into_iter().collect();
        errors.reverse();
        Probe::new(move |_, _| match errors.pop().flatten() {
            Some(error) => Answer::each([Err(error)]),
            None => Answer::ok(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_fails_at_once_probes_and_closes() {
        let probe = answering([Some(safe()), Some(ambiguous()), Some(safe())]);
        let breaker = CircuitBreaker::new().failures(2).pause(SECOND * 5);
        let fabric = probe.under(breaker.clone());
        let mut notices = fabric.notices();
        for _ in 0..2 {
            fabric.publish(event()).await.unwrap_err();
        }
        assert_eq!(breaker.state(), CircuitState::Open);
        let error = fabric.publish(event()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Connect, RetryClass::Safe));
        assert!(error.to_string().contains("the circuit breaker is open"), "{error}");
        assert!(format!("{error:#}").contains("nobody answers"), "{error:#}");
        assert_eq!(probe.seen().len(), 2);

        tokio::time::sleep(SECOND * 5).await;
        assert_eq!(breaker.state(), CircuitState::HalfOpen);
        fabric.publish(event()).await.unwrap_err();
        assert_eq!((breaker.state(), probe.seen().len()), (CircuitState::Open, 3));
        tokio::time::sleep(SECOND * 5).await;
        fabric.publish(event()).await.unwrap();
        assert_eq!(breaker.state(), CircuitState::Closed);
        fabric.publish(event()).await.unwrap();
        let mut told = Vec::new();
        while let Some(notice) = notices.try_next() {
            told.push(matches!(notice.kind, NoticeKind::CircuitOpened { .. }));
        }
        assert_eq!(told, [true, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_in_between_starts_the_count_anew() {
        let errors = [Some(safe()), None, Some(safe()), Some(hopeless()), Some(safe())];
        let probe = answering(errors);
        let breaker = CircuitBreaker::new().failures(2);
        let fabric = probe.under(breaker.clone());
        for _ in 0..5 {
            let _ = fabric.publish(event()).await;
        }
        assert_eq!(breaker.state(), CircuitState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_failures_within_the_window_opens_it() {
        let breaker = CircuitBreaker::new().failures(99).ratio(0.5, SECOND * 10, 4);
        let alternating = (0..99).map(|n| (n % 2 == 0).then(safe));
        let fabric = answering(alternating.clone()).under(breaker.clone());
        for n in 0..4 {
            assert_eq!(breaker.state(), CircuitState::Closed, "after {n}");
            let _ = fabric.publish(event()).await;
        }
        let _ = fabric.publish(event()).await;
        assert_eq!(breaker.state(), CircuitState::Open);

        let breaker = CircuitBreaker::new().failures(99).ratio(0.5, SECOND * 10, 4);
        let fabric = answering(alternating).under(breaker.clone());
        for _ in 0..20 {
            let _ = fabric.publish(event()).await;
            tokio::time::sleep(SECOND * 4).await;
        }
        assert_eq!(breaker.state(), CircuitState::Closed, "three are in the window at a time");
    }

    #[tokio::test(start_paused = true)]
    async fn one_probes_while_the_others_fail() {
        let probe = Probe::new(|n, _| match n {
            0 => Answer::refused(safe()),
            1 => Answer::ok().room_after(SECOND),
            _ => Answer::ok().confirmed_after(SECOND),
        });
        let breaker = CircuitBreaker::new().failures(1).pause(SECOND);
        let fabric = probe.under(breaker.clone());
        fabric.publish(event()).await.unwrap_err();
        tokio::time::sleep(SECOND).await;
        // A probe that is given up makes way for the next.
        let given_up = tokio::time::timeout(SECOND / 2, fabric.publish(event())).await;
        assert!(given_up.is_err());
        let (probing, other) = tokio::join!(fabric.publish(event()), fabric.publish(event()));
        probing.unwrap();
        assert_eq!(other.unwrap_err().kind(), ErrorKind::Connect);
        assert_eq!(breaker.state(), CircuitState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_from_before_it_opened_changes_nothing() {
        let probe = Probe::new(|n, _| match n {
            0 => Answer::ok().confirmed_after(SECOND * 3),
            _ => Answer::each([Err(safe())]),
        });
        let breaker = CircuitBreaker::new().failures(1).pause(SECOND * 60);
        let fabric = probe.under(breaker.clone());
        let early = fabric.submit(event()).await.unwrap();
        fabric.publish(event()).await.unwrap_err();
        early.await.unwrap();
        assert_eq!(breaker.state(), CircuitState::Open);
        fabric.flush().await.unwrap();
        let groups = fabric.groups().unwrap();
        let error = groups.send_to("g", event(), None, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect);
    }

    #[tokio::test(start_paused = true)]
    async fn notices_of_the_backend_pass() {
        let probe = answering([]);
        let mut notices = probe.under(CircuitBreaker::new()).notices();
        probe.notices().send(NoticeKind::Restored);
        assert!(matches!(notices.next().await.unwrap().kind, NoticeKind::Restored));
    }

    #[tokio::test]
    async fn rules_that_make_no_sense_are_refused() {
        for breaker in [
            CircuitBreaker::new().failures(0),
            CircuitBreaker::new().pause(Duration::ZERO),
            CircuitBreaker::new().ratio(0.0, SECOND, 1),
            CircuitBreaker::new().ratio(f64::NAN, SECOND, 1),
            CircuitBreaker::new().ratio(0.5, Duration::ZERO, 1),
        ] {
            let error = breaker.layer(answering([]).shared()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }
}
