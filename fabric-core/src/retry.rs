//! When, and how often, something is tried again.

use std::sync::Arc;
use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// How often something is tried unless told otherwise.
const DEFAULT_ATTEMPTS: u32 = 5;

/// The longest pause of an exponential policy unless told otherwise.
const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(30);

/// A policy: the pauses between tries, and when to give up.
///
/// ```
/// use std::time::Duration;
/// use fabric_core::Retry;
///
/// let retry = Retry::fixed(Duration::from_secs(1)).max_attempts(3);
/// assert_eq!(retry.delay(1, Duration::ZERO, 0.5), Some(Duration::from_secs(1)));
/// assert_eq!(retry.delay(3, Duration::ZERO, 0.5), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a policy does nothing by itself"]
pub struct Retry {
    delays: Delays,
    max_attempts: u32,
    max_elapsed: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Delays {
    Fixed(Duration),
    Exponential { first: Duration, max: Duration },
    List(Arc<[Duration]>),
}

impl Retry {
    /// The same pause every time; five tries in all unless told otherwise.
    pub const fn fixed(delay: Duration) -> Self {
        Self::new(Delays::Fixed(delay), DEFAULT_ATTEMPTS)
    }

    /// Pauses up to `first`, then up to twice that, and so on to thirty seconds, each drawn anew
    /// between nothing and its bound, so that those who failed together do not come back together.
    /// Five tries in all unless told otherwise.
    pub const fn exponential(first: Duration) -> Self {
        Self::new(Delays::Exponential { first, max: DEFAULT_MAX_DELAY }, DEFAULT_ATTEMPTS)
    }

    /// These pauses, one after the other; one try more than there are pauses.
    pub fn list(delays: impl IntoIterator<Item = Duration>) -> Self {
        let delays: Arc<[Duration]> = delays.into_iter().collect();
        let attempts = u32::try_from(delays.len()).unwrap_or(u32::MAX).saturating_add(1);
        Self::new(Delays::List(delays), attempts)
    }

    /// One try and no more.
    pub const fn never() -> Self {
        Self::new(Delays::Fixed(Duration::ZERO), 1)
    }

    const fn new(delays: Delays, max_attempts: u32) -> Self {
        Self { delays, max_attempts, max_elapsed: None }
    }

    /// Sets how often it is tried in all, the first time included. A list that is shorter repeats
    /// its last pause.
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets how long after the first try began the last one may begin.
    pub const fn max_elapsed(mut self, time: Duration) -> Self {
        self.max_elapsed = Some(time);
        self
    }

    /// Sets the longest pause of an exponential policy.
    pub const fn max_delay(mut self, longest: Duration) -> Self {
        if let Delays::Exponential { max, .. } = &mut self.delays {
            *max = longest;
        }
        self
    }

    /// How often it is tried in all.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.max_attempts
    }

    /// The pause after `failed` tries, `elapsed` after the first began; `None` to give up.
    ///
    /// `roll` is a random number between 0 and 1 for policies that draw theirs.
    #[must_use]
    pub fn delay(&self, failed: u32, elapsed: Duration, roll: f64) -> Option<Duration> {
        if failed >= self.max_attempts {
            return None;
        }
        let nth = failed.saturating_sub(1);
        let delay = match &self.delays {
            Delays::Fixed(delay) => *delay,
            Delays::Exponential { first, max } => {
                let bound = first.saturating_mul(2_u32.saturating_pow(nth)).min(*max);
                bound.mul_f64(roll.clamp(0.0, 1.0))
            }
            Delays::List(delays) => {
                *delays.get(nth as usize).or(delays.last()).unwrap_or(&Duration::ZERO)
            }
        };
        let late = self.max_elapsed.is_some_and(|most| elapsed.saturating_add(delay) > most);
        (!late).then_some(delay)
    }

    /// Refuses a policy that would not try even once.
    ///
    /// # Errors
    /// `Config`.
    pub fn validate(&self) -> Result<()> {
        if self.max_attempts == 0 {
            return Err(Error::new(
                ErrorKind::Config,
                "a retry of zero attempts would never try at all; 1 means no retry",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_exponential_policy_doubles_its_bound_up_to_the_longest_pause() {
        let retry = Retry::exponential(SECOND).max_attempts(9).max_delay(SECOND * 5);
        let bounds: Vec<_> = (1..9).filter_map(|n| retry.delay(n, Duration::ZERO, 1.0)).collect();
        assert_eq!(bounds, [1, 2, 4, 5, 5, 5, 5, 5].map(|n| SECOND * n));
        assert_eq!(retry.delay(3, Duration::ZERO, 0.25), Some(SECOND));
        assert_eq!(retry.delay(3, Duration::ZERO, 0.0), Some(Duration::ZERO));
        let endless = Retry::exponential(SECOND).max_attempts(u32::MAX);
        assert_eq!(endless.delay(4_000_000, Duration::ZERO, 1.0), Some(DEFAULT_MAX_DELAY));
    }

    #[test]
    fn a_list_ends_with_its_last_pause_unless_more_tries_are_asked_for() {
        let retry = Retry::list([SECOND, SECOND * 3]);
        let pauses = |retry: &Retry| -> Vec<_> {
            (1..5).map_while(|n| retry.delay(n, Duration::ZERO, 0.5)).collect()
        };
        assert_eq!(pauses(&retry), [SECOND, SECOND * 3]);
        assert_eq!(pauses(&retry.max_attempts(4)), [SECOND, SECOND * 3, SECOND * 3]);
        assert_eq!(pauses(&Retry::list([])), []);
    }

    #[test]
    fn the_last_try_begins_within_the_total_time() {
        let retry = Retry::fixed(SECOND).max_elapsed(SECOND * 3);
        assert_eq!(retry.delay(1, SECOND * 2, 0.0), Some(SECOND));
        assert_eq!(retry.delay(1, SECOND * 3, 0.0), None);
    }

    #[test]
    fn zero_attempts_are_refused() {
        assert!(Retry::never().validate().is_ok());
        let error = Retry::fixed(SECOND).max_attempts(0).validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
