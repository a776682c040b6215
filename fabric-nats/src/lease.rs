//! The leases on one chunk: looked at for each ack, without a lock and mostly without the exact
//! clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{LAG, rough};

/// Until when the deliveries of a chunk are held, and which of them still are.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) token: u64,
    full: u64,
    until: Instant,
    /// The same by the rough clock, less what that may be behind.
    roughly: Option<Duration>,
    /// Those that were settled, or whose leases ended.
    gone: AtomicU64,
    /// Those whose leases began anew: until when, the member's book says.
    extended: AtomicU64,
}

impl Lease {
    /// Leases of `wait` on the deliveries in `full`, which arrived at `since`.
    pub(crate) fn new(token: u64, full: u64, since: Instant, wait: Duration) -> Self {
        let until =
            since.checked_add(wait).unwrap_or_else(|| fabric_core::clock::far_future(since));
        let left = until.saturating_duration_since(Instant::now());
        let roughly = rough().and_then(|now| now.checked_add(left)?.checked_sub(LAG));
        let (gone, extended) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { token, full, until, roughly, gone, extended }
    }

    /// Whether leases that were never extended last.
    pub(crate) fn lasts(&self) -> bool {
        match (self.roughly, rough()) {
            (Some(until), Some(now)) if now < until => true,
            // Near the end, the exact clock decides.
            _ => Instant::now() < self.until,
        }
    }

    /// Whether all of `mask` is neither settled nor given up.
    pub(crate) fn is_open(&self, mask: u64) -> bool {
        self.gone.load(Ordering::SeqCst) & mask == 0
    }

    /// Ends leases; returns those that there were.
    pub(crate) fn take(&self, mask: u64) -> u64 {
        mask & self.full & !self.gone.fetch_or(mask, Ordering::SeqCst)
    }

    /// Those that there are.
    pub(crate) fn open(&self) -> u64 {
        self.full & !self.gone.load(Ordering::SeqCst)
    }

    /// Those in `mask` that were extended.
    pub(crate) fn extended(&self, mask: u64) -> u64 {
        self.extended.load(Ordering::Acquire) & mask
    }

    pub(crate) fn extend(&self, mask: u64) {
        self.extended.fetch_or(mask, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_taken_once() {
        let lease = Lease::new(1, 0b111, Instant::now(), Duration::from_secs(30));
        assert!(lease.lasts() && lease.is_open(0b111));
        assert_eq!((lease.take(0b11), lease.take(0b1111)), (0b11, 0b100));
        assert!(!lease.is_open(0b100));
        assert_eq!(lease.open(), 0);
    }

    #[test]
    fn the_exact_clock_decides_near_the_end() {
        let short = Duration::from_millis(20);
        let lease = Lease::new(1, 1, Instant::now(), short);
        let ended = Lease::new(2, 1, Instant::now().checked_sub(short).unwrap(), short);
        assert!(!ended.lasts());
        while lease.lasts() {
            assert!(Instant::now() <= lease.until + short, "it ends by itself");
        }
        assert!(Instant::now() >= lease.until);
    }

    #[test]
    fn a_lease_without_an_end_has_none() {
        assert!(Lease::new(1, 1, Instant::now(), Duration::MAX).lasts());
    }
}
