//! One clock: wall-clock timestamps that follow tokio's clock, so that paused tests are exact.

mod rfc3339;

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use crate::{Error, ErrorKind, Result};

/// A moment in UTC with nanoseconds, between the years 1677 and 2262.
///
/// ```
/// use fabric_core::Timestamp;
/// let t: Timestamp = "2018-01-31T01:49:59.650Z".parse()?;
/// assert_eq!(t.to_string(), "2018-01-31T01:49:59.65Z");
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The first representable moment; also what an event that was never stamped carries.
    pub const MIN: Self = Self(i64::MIN);

    /// The time now, by the clock that tokio's timers run on.
    ///
    /// The wall clock is read once per process; from then on time advances with the monotonic
    /// clock, and stands still where tokio's clock is paused.
    #[must_use]
    pub fn now() -> Self {
        Now::read().wall
    }

    /// From nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From milliseconds since the Unix epoch; out of range is clamped.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The moment `duration` later; out of range is clamped.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// The moment `duration` earlier; out of range is clamped.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        let nanos = i128::from(self.0) - i128::from(earlier.0);
        Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let epoch = Self(0);
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => epoch.saturating_add(since),
            Err(before) => epoch.saturating_sub(before.duration()),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let nanos = Duration::from_nanos(time.0.unsigned_abs());
        if time.0 < 0 { UNIX_EPOCH - nanos } else { UNIX_EPOCH + nanos }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{}ns", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads RFC 3339 with any offset.
    fn from_str(text: &str) -> Result<Self> {
        if let Some(time) = Self::read_usual(text) {
            return Ok(time);
        }
        let refuse = |why: String| {
            Error::new(
                ErrorKind::InvalidEvent,
                format!("`{text}` is not a time as in `2018-01-31T01:49:59.650Z`: {why}"),
            )
        };
        let time: jiff::Timestamp = text.parse().map_err(|e: jiff::Error| refuse(e.to_string()))?;
        let nanos = i64::try_from(time.as_nanosecond())
            .map_err(|_| refuse("the year is not between 1677 and 2262".to_owned()))?;
        Ok(Self(nanos))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One reading of the clock, as a monotonic instant and as a time of day that agree.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For timers, leases and windows.
    pub instant: Instant,
    /// For events and people.
    pub wall: Timestamp,
}

impl Now {
    /// Reads the clock once.
    #[must_use]
    pub fn read() -> Self {
        let instant = Instant::now();
        Self { instant, wall: wall_at(instant) }
    }
}

/// The time of day at `instant`.
#[must_use]
pub fn wall_at(instant: Instant) -> Timestamp {
    let (anchor, wall) = anchor();
    match instant.checked_duration_since(anchor) {
        // In one word: the time of a process is no matter of centuries.
        Some(later) => {
            let seconds = i64::try_from(later.as_secs()).unwrap_or(i64::MAX);
            let nanos = seconds.saturating_mul(1_000_000_000);
            let nanos = nanos.saturating_add(i64::from(later.subsec_nanos()));
            Timestamp(wall.0.saturating_add(nanos))
        }
        None => wall.saturating_sub(anchor.duration_since(instant)),
    }
}

/// The instant at which the time of day is `wall`; the present for times before the process began.
#[must_use]
pub fn instant_at(wall: Timestamp) -> Instant {
    let (anchor, at) = anchor();
    anchor.checked_add(wall.saturating_since(at)).unwrap_or_else(|| far_future(anchor))
}

/// Thirty years on: later than any timer fires.
#[must_use]
pub fn far_future(from: Instant) -> Instant {
    from + Duration::from_secs(30 * 365 * 86_400)
}

fn anchor() -> (Instant, Timestamp) {
    static ANCHOR: OnceLock<(Instant, Timestamp)> = OnceLock::new();
    *ANCHOR.get_or_init(|| (Instant::now(), SystemTime::now().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wall_clock_follows_the_paused_clock() {
        let before = Timestamp::now();
        assert_eq!(Timestamp::now(), before);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(Timestamp::now().saturating_since(before), Duration::from_secs(90));
        assert_eq!(wall_at(instant_at(Timestamp::now())), Timestamp::now());
    }

    #[test]
    fn times_with_offsets_are_read_and_bad_ones_are_named() {
        let t: Timestamp = "2026-01-01T02:00:00.5+02:00".parse().unwrap();
        assert_eq!(t.to_string(), "2026-01-01T00:00:00.5Z");
        for bad in ["", "yesterday", "2026-13-01T00:00:00Z", "3000-01-01T00:00:00Z"] {
            let error = bad.parse::<Timestamp>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidEvent);
            assert!(error.to_string().contains(bad));
        }
    }
}
