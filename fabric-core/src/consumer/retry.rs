//! When a failed try is made again, and for how long.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// How often and after which waits a failed event is tried again.
///
/// ```
/// use fabric_core::Retry;
/// use std::time::Duration;
/// let retry = Retry::exponential(Duration::from_millis(100)).max_attempts(5);
/// assert!(retry.validate().is_ok());
/// assert!(Retry::fixed(Duration::from_secs(1)).max_attempts(0).validate().is_err());
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Retry {
    waits: Waits,
    max_attempts: u32,
    in_place: Duration,
}

#[derive(Clone, Debug, PartialEq)]
enum Waits {
    Fixed(Duration),
    Exponential { first: Duration, factor: f64, cap: Duration, jitter: bool },
    List(Vec<Duration>),
}

/// Waits no longer than this are spent holding the event; longer ones give it back.
const IN_PLACE: Duration = Duration::from_secs(1);

impl Retry {
    /// No second try: a failure is final.
    pub fn none() -> Self {
        Self::new(Waits::List(Vec::new()), 1)
    }

    /// The same wait before every try, five tries in all unless told otherwise.
    pub fn fixed(wait: Duration) -> Self {
        Self::new(Waits::Fixed(wait), 5)
    }

    /// Twice the wait each time, from `first`, at most five minutes, with full jitter; five tries
    /// in all unless told otherwise.
    pub fn exponential(first: Duration) -> Self {
        let cap = Duration::from_secs(300);
        Self::new(Waits::Exponential { first, factor: 2.0, cap, jitter: true }, 5)
    }

    /// These waits, one after the other; one try more than there are waits.
    pub fn list(waits: impl IntoIterator<Item = Duration>) -> Self {
        let waits: Vec<_> = waits.into_iter().collect();
        let attempts = u32::try_from(waits.len()).unwrap_or(u32::MAX).saturating_add(1);
        Self::new(Waits::List(waits), attempts)
    }

    /// Tries without end, for events that must not become dead letters.
    pub const fn forever(mut self) -> Self {
        self.max_attempts = u32::MAX;
        self
    }

    /// Sets how often an event is tried in all; afterwards it is a dead letter.
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the factor between waits of an exponential policy.
    pub fn factor(mut self, by: f64) -> Self {
        if let Waits::Exponential { factor, .. } = &mut self.waits {
            *factor = by;
        }
        self
    }

    /// Sets the longest wait of an exponential policy.
    pub fn cap(mut self, longest: Duration) -> Self {
        if let Waits::Exponential { cap, .. } = &mut self.waits {
            *cap = longest;
        }
        self
    }

    /// Waits exactly, not a random part of the time: for tests.
    pub fn without_jitter(mut self) -> Self {
        if let Waits::Exponential { jitter, .. } = &mut self.waits {
            *jitter = false;
        }
        self
    }

    /// Waits no longer than this are spent holding the event; longer ones give it back to the
    /// group. One second unless told otherwise. Under `ordered_by_key` every wait holds it.
    pub const fn in_place_up_to(mut self, longest: Duration) -> Self {
        self.in_place = longest;
        self
    }

    /// Refuses policies that cannot be followed.
    ///
    /// # Errors
    /// `Config`, naming the setting.
    pub fn validate(&self) -> Result<()> {
        let refuse = |text: &str| Err(Error::new(ErrorKind::Config, text));
        if self.max_attempts == 0 {
            return refuse(
                "a retry of zero attempts would never handle anything: `max_attempts` is at least 1",
            );
        }
        match &self.waits {
            Waits::Exponential { factor, .. } if !factor.is_finite() || *factor < 1.0 => {
                refuse("the `factor` of an exponential retry is at least 1")
            }
            Waits::Exponential { first, cap, .. } if first > cap => {
                refuse("the `cap` of an exponential retry is shorter than its first wait")
            }
            _ => Ok(()),
        }
    }

    /// What follows a failure of try number `attempt`, from 1: the wait before the next one.
    pub(crate) fn next(&self, attempt: u32) -> Option<Duration> {
        if attempt >= self.max_attempts {
            return None;
        }
        let n = attempt.saturating_sub(1);
        Some(match &self.waits {
            Waits::Fixed(wait) => *wait,
            Waits::List(waits) => {
                let n = usize::try_from(n).unwrap_or(usize::MAX);
                waits.get(n).or_else(|| waits.last()).copied().unwrap_or_default()
            }
            Waits::Exponential { first, factor, cap, jitter } => {
                let power = factor.powi(i32::try_from(n).unwrap_or(i32::MAX));
                let wait = first.as_secs_f64() * power;
                let wait =
                    if wait < cap.as_secs_f64() { Duration::from_secs_f64(wait) } else { *cap };
                if *jitter { wait.mul_f64(fastrand::f64()) } else { wait }
            }
        })
    }

    pub(crate) fn holds(&self, wait: Duration) -> bool {
        wait <= self.in_place
    }

    /// The longest that an event is held between two tries, where it is not given back; `all` says
    /// that none is.
    pub(crate) fn longest_hold(&self, all: bool) -> Duration {
        let longest = match &self.waits {
            _ if self.max_attempts <= 1 => Duration::ZERO,
            Waits::Fixed(wait) => *wait,
            Waits::Exponential { cap, .. } => *cap,
            Waits::List(waits) => waits.iter().copied().max().unwrap_or_default(),
        };
        if all { longest } else { longest.min(self.in_place) }
    }

    const fn new(waits: Waits, max_attempts: u32) -> Self {
        Self { waits, max_attempts, in_place: IN_PLACE }
    }
}

impl Default for Retry {
    /// Five tries, with exponential waits from 100 ms.
    fn default() -> Self {
        Self::exponential(Duration::from_millis(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_follow_the_policy_and_end() {
        let waits = |retry: &Retry| (1..).map_while(|n| retry.next(n)).collect::<Vec<_>>();
        assert_eq!(waits(&Retry::fixed(SECOND).max_attempts(3)), [SECOND; 2]);
        assert_eq!(waits(&Retry::list([SECOND, SECOND * 5])), [SECOND, SECOND * 5]);
        assert!(waits(&Retry::none()).is_empty());
        let exponential = Retry::exponential(SECOND)
            .factor(3.0)
            .cap(SECOND * 10)
            .max_attempts(5)
            .without_jitter();
        assert_eq!(waits(&exponential), [SECOND, SECOND * 3, SECOND * 9, SECOND * 10]);
        assert_eq!(exponential.forever().next(u32::MAX - 1), Some(SECOND * 10));
    }

    #[test]
    fn an_event_is_held_no_longer_than_the_policy_says() {
        let hour = SECOND * 3600;
        assert_eq!(Retry::fixed(hour).longest_hold(true), hour);
        assert_eq!(Retry::fixed(hour).longest_hold(false), SECOND);
        assert_eq!(Retry::fixed(hour).in_place_up_to(SECOND * 9).longest_hold(false), SECOND * 9);
        assert_eq!(Retry::exponential(SECOND).cap(SECOND * 60).longest_hold(true), SECOND * 60);
        assert_eq!(Retry::list([SECOND, hour, SECOND]).longest_hold(true), hour);
        assert_eq!(Retry::none().longest_hold(true), Duration::ZERO);
    }

    #[test]
    fn jitter_stays_within_the_wait() {
        let retry = Retry::exponential(SECOND);
        let waits: Vec<_> = (0..100).filter_map(|_| retry.next(1)).collect();
        assert!(waits.iter().all(|wait| *wait <= SECOND));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let exponential = || Retry::exponential(SECOND);
        for bad in [
            exponential().max_attempts(0),
            exponential().factor(0.5),
            exponential().cap(SECOND / 2),
        ] {
            assert_eq!(bad.validate().unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
