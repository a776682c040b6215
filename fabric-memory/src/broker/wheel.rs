//! A hierarchical timing wheel: constant time to set a timer, exact to the nanosecond.

use std::time::Duration;

use tokio::time::Instant;

/// Six bits a level.
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 6;
/// A tick is 2^20 ns, about a millisecond; timers within one tick are told apart exactly.
const TICK_BITS: u32 = 20;

/// Timers that yield a `T` each when their time has come.
#[derive(Debug)]
pub(crate) struct Wheel<T> {
    base: Instant,
    /// The tick up to which everything was yielded.
    tick: u64,
    levels: Vec<Level<T>>,
    len: usize,
    /// The earliest timer, or earlier.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Level<T> {
    occupied: u64,
    slots: Vec<Vec<Timer<T>>>,
}

#[derive(Debug)]
struct Timer<T> {
    at: u64,
    value: T,
}

impl<T> Wheel<T> {
    pub(crate) fn new(now: Instant) -> Self {
        let level = || Level { occupied: 0, slots: (0..SLOTS).map(|_| Vec::new()).collect() };
        Self {
            base: now,
            tick: 0,
            levels: (0..LEVELS).map(|_| level()).collect(),
            len: 0,
            next: None,
        }
    }

    /// Yields `value` from `at` on.
    pub(crate) fn set(&mut self, at: Instant, value: T) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
        let at = self.nanos(at);
        self.len += 1;
        self.insert(Timer { at, value });
    }

    /// Whether nothing is due at `now`; a comparison.
    #[inline]
    pub(crate) fn is_quiet(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now < next)
    }

    /// When to look again.
    #[inline]
    pub(crate) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Everything that is due at `now`, earliest first.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<T> {
        if self.is_quiet(now) {
            return Vec::new();
        }
        let now = self.nanos(now);
        let mut due = Vec::new();
        let target = now >> TICK_BITS;
        while let Some((level, slot)) = self.first_slot() {
            if self.slot_start(level, slot) > target {
                break;
            }
            let timers = std::mem::take(&mut self.levels[level].slots[slot]);
            self.levels[level].occupied &= !(1 << slot);
            // What is above the lowest level moves down; what is below either fires or stays.
            self.tick = self.tick.max(self.slot_start(level, slot).min(target));
            let mut later = Vec::new();
            for timer in timers {
                if timer.at <= now { due.push(timer) } else { later.push(timer) }
            }
            let stuck = level == 0 && !later.is_empty();
            later.into_iter().for_each(|timer| self.insert(timer));
            if stuck {
                break;
            }
        }
        self.tick = self.tick.max(target);
        self.len -= due.len();
        self.next = self.earliest().map(|at| self.base + Duration::from_nanos(at));
        due.sort_by_key(|timer| timer.at);
        due.into_iter().map(|timer| timer.value).collect()
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
    }

    fn insert(&mut self, timer: Timer<T>) {
        let tick = (timer.at >> TICK_BITS).max(self.tick);
        let differs = (tick ^ self.tick) | (SLOTS as u64 - 1);
        let level = ((63 - differs.leading_zeros()) / BITS) as usize;
        // Beyond two years it waits on the last level's last slot and is looked at again then.
        let (level, slot) = if level < LEVELS {
            (level, (tick >> (BITS * level as u32)) as usize % SLOTS)
        } else {
            (LEVELS - 1, SLOTS - 1)
        };
        self.levels[level].occupied |= 1 << slot;
        self.levels[level].slots[slot].push(timer);
    }

    /// The occupied slot whose timers come first: all of a level come before those above it.
    fn first_slot(&self) -> Option<(usize, usize)> {
        self.levels.iter().enumerate().find_map(|(level, entry)| {
            (entry.occupied != 0).then(|| (level, entry.occupied.trailing_zeros() as usize))
        })
    }

    fn slot_start(&self, level: usize, slot: usize) -> u64 {
        let shift = BITS * level as u32;
        let above = self.tick >> (shift + BITS) << (shift + BITS);
        above | (slot as u64) << shift
    }

    fn earliest(&self) -> Option<u64> {
        let (level, slot) = self.first_slot()?;
        self.levels[level].slots[slot].iter().map(|timer| timer.at).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a sorted list: the same timers, at the same steps, in the same order.
        #[test]
        fn timers_fire_exactly_and_in_order(
            steps in proptest::collection::vec(
                (proptest::collection::vec(0u64..1 << 44, 0..4), 0u64..1 << 42), 1..40),
        ) {
            let base = Instant::now();
            let at = |nanos: u64| base + Duration::from_nanos(nanos);
            let mut wheel = Wheel::new(base);
            let mut list: Vec<(u64, usize)> = Vec::new();
            let (mut now, mut count) = (0, 0);
            for (timers, pass) in steps {
                for nanos in timers {
                    // Small and large distances alike.
                    let due = now + (nanos >> (nanos % 44));
                    wheel.set(at(due), (due, count));
                    list.push((due, count));
                    count += 1;
                }
                prop_assert!(list.iter().all(|(due, _)| wheel.next().unwrap() <= at(*due)));
                now += pass >> (pass % 42);
                let mut expected: Vec<_> = list.extract_if(.., |(due, _)| *due <= now).collect();
                expected.sort_by_key(|(due, _)| *due);
                let fired = wheel.take_due(at(now));
                let times = |timers: &[(u64, usize)]| timers.iter().map(|t| t.0).collect::<Vec<_>>();
                prop_assert_eq!(times(&fired), times(&expected));
                prop_assert!(wheel.is_quiet(at(now)));
                prop_assert_eq!(wheel.len, list.len());
            }
        }
    }

    #[test]
    fn a_timer_decades_away_waits() {
        let base = Instant::now();
        let mut wheel = Wheel::new(base);
        let years = |n: u64| base + Duration::from_secs(n * 365 * 86_400);
        wheel.set(years(20), "later");
        assert!(wheel.take_due(years(19)).is_empty());
        assert_eq!(wheel.take_due(years(20)), ["later"]);
    }
}
