//! What lets bytes through, or not: one for all connections of a proxy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Slowness, Way};

/// Decides what gets through and when; whoever has to wait, waits here.
#[derive(Debug, Default)]
pub(super) struct Toll {
    rules: Mutex<Rules>,
    changed: Condvar,
    bytes: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    to_broker: bool,
    to_client: bool,
    refuse: bool,
    closed: bool,
    slowness: Slowness,
}

impl Rules {
    const fn holds(&self, way: Way) -> bool {
        match way {
            Way::Both => self.to_broker || self.to_client,
            Way::ToBroker => self.to_broker,
            Way::ToClient => self.to_client,
        }
    }
}

impl Toll {
    pub(super) fn swallow(&self, way: Way) {
        self.change(|rules| {
            rules.to_broker |= way != Way::ToClient;
            rules.to_client |= way != Way::ToBroker;
        });
    }

    pub(super) fn slow(&self, slowness: Slowness) {
        self.change(|rules| rules.slowness = slowness);
    }

    pub(super) fn refuse(&self) {
        self.change(|rules| rules.refuse = true);
    }

    pub(super) fn heal(&self) {
        self.change(|rules| *rules = Rules { closed: rules.closed, ..Rules::default() });
    }

    pub(super) fn close(&self) {
        self.change(|rules| rules.closed = true);
    }

    pub(super) fn is_refusing(&self) -> bool {
        self.lock().refuse
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn slowness(&self) -> Slowness {
        self.lock().slowness
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Wakes whoever waits, to see whether its connection is still open.
    pub(super) fn wake(&self) {
        self.change(|_| {});
    }

    /// Waits until `due`, and as long as nothing gets through this way; false if `is_open` turns so.
    pub(super) fn wait(&self, way: Way, due: Instant, is_open: impl Fn() -> bool) -> bool {
        let mut rules = self.lock();
        loop {
            let now = Instant::now();
            if !is_open() || rules.closed {
                return false;
            }
            rules = if rules.holds(way) {
                self.changed.wait(rules).unwrap_or_else(PoisonError::into_inner)
            } else if now < due && rules.slowness != Slowness::default() {
                let waited = self.changed.wait_timeout(rules, due - now);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                return true;
            };
        }
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slowness {
    /// How long a chunk takes, `chance` being a number of 0 to 1 that is its own.
    pub(super) fn delay(&self, chance: f64) -> Duration {
        let jitter = self.jitter.mul_f64(chance * 2.0);
        (self.latency + jitter).saturating_sub(self.jitter)
    }

    /// How long the line is busy with so many bytes.
    pub(super) fn busy(&self, bytes: usize) -> Duration {
        match self.bytes_per_second {
            Some(rate) => Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64),
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn jitter_is_more_or_less_than_the_latency() {
        let slow = Slowness::default().latency(millis(200), millis(50));
        assert_eq!(slow.delay(0.0), millis(150));
        assert_eq!(slow.delay(0.5), millis(200));
        assert_eq!(slow.delay(1.0), millis(250));
        let more = Slowness::default().latency(millis(10), millis(50));
        assert_eq!(more.delay(0.0), millis(0));
        assert_eq!(Slowness::default().delay(0.7), millis(0));
    }

    #[test]
    fn a_narrow_line_is_busy_for_as_long_as_the_bytes_take() {
        let narrow = Slowness::default().bytes_per_second(64 * 1024);
        assert_eq!(narrow.busy(16 * 1024), millis(250));
        assert_eq!(Slowness::default().busy(1 << 20), millis(0));
    }

    #[test]
    fn one_way_holds_and_the_other_does_not() {
        let toll = Toll::default();
        toll.swallow(Way::ToClient);
        assert!(toll.wait(Way::ToBroker, Instant::now(), || true));
        assert!(!toll.wait(Way::ToClient, Instant::now(), || false));
        toll.heal();
        assert!(toll.wait(Way::ToClient, Instant::now(), || true));
    }
}
