//! What holds back new work: a rate limit and a kill switch.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{Error, ErrorKind, Result};

/// Pauses a consumer when too many of its last tries failed; after a while one event probes
/// whether work can go on.
///
/// ```
/// use fabric_core::KillSwitch;
/// use std::time::Duration;
/// let switch = KillSwitch::new().after(10).ratio(0.5).pause(Duration::from_secs(30));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct KillSwitch {
    window: usize,
    ratio: f64,
    pause: Duration,
}

impl KillSwitch {
    /// Trips when half of the last ten tries failed, for thirty seconds.
    pub const fn new() -> Self {
        Self { window: 10, ratio: 0.5, pause: Duration::from_secs(30) }
    }

    /// Sets over how many of the last tries failures are counted.
    pub const fn after(mut self, tries: usize) -> Self {
        self.window = tries;
        self
    }

    /// Sets the share of failures that trips it, above 0 and at most 1.
    pub const fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets how long it waits before one event probes.
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |text: &str| Err(Error::new(ErrorKind::Config, text));
        if self.window == 0 {
            return refuse("a kill switch over zero tries would never trip: `after` is at least 1");
        }
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            return refuse("the `ratio` of a kill switch is above 0 and at most 1");
        }
        Ok(())
    }
}

impl Default for KillSwitch {
    fn default() -> Self {
        Self::new()
    }
}

/// What a kill switch does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Go,
    /// Go, and all depends on how it ends; the number tells probes apart.
    Probe(u64),
    Until(Instant),
    /// Somebody else probes.
    Wait,
}

#[derive(Debug)]
pub(crate) struct Switch {
    rule: KillSwitch,
    state: Mutex<State>,
    probes: AtomicU64,
    pub(crate) changed: Notify,
}

#[derive(Debug)]
enum State {
    Closed(VecDeque<bool>),
    Open(Instant),
    Probing(u64),
}

/// Leave to try an event. A probe that ends without having tried one hands its turn on.
#[derive(Debug)]
pub(crate) struct Pass<'a>(Option<(&'a Switch, u64)>);

impl<'a> Pass<'a> {
    /// Nothing depends on how it ends.
    pub(crate) const FREE: Self = Self(None);

    pub(crate) const fn probe(switch: &'a Switch, number: u64) -> Self {
        Self(Some((switch, number)))
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let Some((switch, number)) = self.0 {
            switch.unprobed(number, Instant::now());
        }
    }
}

impl Switch {
    pub(crate) fn new(rule: KillSwitch) -> Self {
        let state = Mutex::new(State::Closed(VecDeque::new()));
        Self { rule, state, probes: AtomicU64::new(0), changed: Notify::new() }
    }

    pub(crate) fn admit(&self, now: Instant) -> Admission {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Closed(_) => Admission::Go,
            State::Probing(_) => Admission::Wait,
            State::Open(until) if now < *until => Admission::Until(*until),
            State::Open(_) => {
                let number = self.probes.fetch_add(1, Ordering::Relaxed);
                *state = State::Probing(number);
                Admission::Probe(number)
            }
        }
    }

    /// Whether it holds work back.
    pub(crate) fn is_tripped(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(*state, State::Closed(_))
    }

    /// A probe found nothing to try: the next may.
    fn unprobed(&self, number: u64, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Probing(probe) if probe == number) {
            *state = State::Open(now);
            self.changed.notify_waiters();
        }
    }

    /// Notes how a try ended; `Some(true)` if that tripped the switch, `Some(false)` if it closed.
    pub(crate) fn note(&self, ok: bool, now: Instant) -> Option<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match &mut *state {
            State::Open(_) => return None,
            State::Probing(_) if ok => State::Closed(VecDeque::new()),
            State::Probing(_) => State::Open(now + self.rule.pause),
            State::Closed(last) => {
                last.push_back(ok);
                if last.len() > self.rule.window {
                    last.pop_front();
                }
                let failed = last.iter().filter(|ok| !**ok).count();
                if last.len() < self.rule.window
                    || (failed as f64) < self.rule.ratio * last.len() as f64
                {
                    return None;
                }
                State::Open(now + self.rule.pause)
            }
        };
        let tripped = matches!(next, State::Open(_));
        *state = next;
        self.changed.notify_waiters();
        Some(tripped)
    }
}

/// At most so many starts a second, with a burst of one second's worth.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: f64,
    next: Mutex<Option<(Instant, f64)>>,
}

impl Rate {
    pub(crate) const fn new(per_second: f64) -> Self {
        Self { per_second, next: Mutex::new(None) }
    }

    /// Takes a token; `Err` says when to come again.
    pub(crate) fn take(&self, now: Instant) -> Result<(), Instant> {
        let mut bucket = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let burst = self.per_second.max(1.0);
        let (last, tokens) = bucket.unwrap_or((now, burst));
        let refill = now.saturating_duration_since(last).as_secs_f64() * self.per_second;
        let tokens = (tokens + refill).min(burst);
        if tokens >= 1.0 {
            *bucket = Some((now, tokens - 1.0));
            return Ok(());
        }
        *bucket = Some((now, tokens));
        Err(now + Duration::from_secs_f64((1.0 - tokens) / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_trips_probes_and_closes() {
        let now = Instant::now();
        let pause = Duration::from_secs(5);
        let switch = Switch::new(KillSwitch::new().after(4).ratio(0.5).pause(pause));
        for (ok, expected) in [(true, None), (false, None), (true, None), (false, Some(true))] {
            assert_eq!(switch.note(ok, now), expected);
        }
        assert_eq!(switch.admit(now), Admission::Until(now + pause));
        assert_eq!(switch.admit(now + pause), Admission::Probe(0));
        assert_eq!(switch.admit(now + pause), Admission::Wait);
        assert_eq!(switch.note(false, now + pause), Some(true));
        assert_eq!(switch.admit(now + pause * 2), Admission::Probe(1));
        assert_eq!(switch.note(true, now + pause * 2), Some(false));
        assert_eq!(switch.admit(now + pause * 2), Admission::Go);
    }

    #[test]
    fn a_probe_that_tried_nothing_hands_its_turn_on() {
        let now = Instant::now();
        let switch = Switch::new(KillSwitch::new().after(1).pause(Duration::ZERO));
        assert_eq!(switch.note(false, now), Some(true));
        let Admission::Probe(first) = switch.admit(now) else { panic!("no probe") };
        drop(Pass::probe(&switch, first));
        let Admission::Probe(second) = switch.admit(Instant::now()) else { panic!("no probe") };
        // The turn of one that is over already is nobody's to hand on.
        drop(Pass::probe(&switch, first));
        assert_eq!(switch.admit(now), Admission::Wait);
        assert_eq!(switch.note(true, now), Some(false));
        drop(Pass::probe(&switch, second));
        assert_eq!(switch.admit(now), Admission::Go);
    }

    #[test]
    fn a_rate_allows_a_burst_and_then_its_pace() {
        let now = Instant::now();
        let rate = Rate::new(10.0);
        assert!((0..10).all(|_| rate.take(now).is_ok()));
        let later = rate.take(now).unwrap_err();
        assert_eq!(later.duration_since(now).as_millis(), 100);
        assert!(rate.take(later + Duration::from_micros(1)).is_ok());
        assert!(rate.take(later + Duration::from_micros(1)).is_err());
    }
}
