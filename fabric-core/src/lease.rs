//! Leases that a client holds, or judges, by its own clock; time is a parameter.
//!
//! A broker whose leases the client cannot ask about, or that has none at all, leaves it to the
//! client to know when a delivery stops being its own. [`Leases`] says for each delivery until when
//! it is held, as chunks and bits; [`Pulse`] says whether the clock that decides so ran in time:
//! a process that hung must not believe in leases that ended while it did.
//!
//! ```
//! use std::time::Duration;
//! use fabric_core::lease::Leases;
//! use tokio::time::Instant;
//!
//! let (mut leases, start) = (Leases::new(Duration::from_secs(30)), Instant::now());
//! leases.grant(7, 0b11, start);
//! assert_eq!(leases.extend(7, 0b01, start + Duration::from_secs(20)), 0b01);
//! assert_eq!(leases.ended(start + Duration::from_secs(30)), [(7, 0b10)]);
//! assert_eq!(leases.held(7, start + Duration::from_secs(49)), 0b01);
//! ```

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::time::far_future;

/// Until when deliveries are held: chunks by their [`token`](crate::Chunk::token), and the bits in
/// them.
///
/// All leases last equally long and begin almost in the order of time, so that they end in the order
/// in which they began: hardly anything is ever sorted.
#[derive(Debug)]
pub struct Leases {
    wait: Duration,
    chunks: HashMap<u64, SmallVec<[Span; 1]>, RandomState>,
    queue: VecDeque<(Instant, u64)>,
}

/// Deliveries of one chunk whose leases end together.
#[derive(Clone, Copy, Debug)]
struct Span {
    until: Instant,
    mask: u64,
}

impl Leases {
    /// Leases of `wait` each.
    #[must_use]
    pub fn new(wait: Duration) -> Self {
        let chunks = HashMap::with_hasher(RandomState::default());
        Self { wait, chunks, queue: VecDeque::new() }
    }

    /// How long a lease lasts.
    #[must_use]
    pub const fn wait(&self) -> Duration {
        self.wait
    }

    /// Begins leases on the deliveries in `mask`, at a time that may have been a while ago.
    pub fn grant(&mut self, chunk: u64, mask: u64, since: Instant) {
        if mask == 0 {
            return;
        }
        let until = since.checked_add(self.wait).unwrap_or_else(|| far_future(since));
        let late = self.queue.iter().rev().take_while(|(other, _)| *other > until).count();
        self.queue.insert(self.queue.len() - late, (until, chunk));
        self.chunks.entry(chunk).or_default().push(Span { until, mask });
    }

    /// Begins the leases in `mask` anew; returns those that were still held, and are.
    pub fn extend(&mut self, chunk: u64, mask: u64, now: Instant) -> u64 {
        let held = self.held(chunk, now) & mask;
        if held != 0 {
            self.take(chunk, held);
            self.grant(chunk, held, now);
        }
        held
    }

    /// Which deliveries of a chunk are held.
    #[must_use]
    pub fn held(&self, chunk: u64, now: Instant) -> u64 {
        self.fold(chunk, |span| now < span.until)
    }

    /// Which deliveries of a chunk are in the second half of their leases, or beyond: those for
    /// which asking the broker may be worth its while.
    #[must_use]
    pub fn aged(&self, chunk: u64, now: Instant) -> u64 {
        let half = self.wait / 2;
        self.fold(chunk, |span| now.checked_add(half).is_none_or(|then| then >= span.until))
    }

    /// Ends leases whose deliveries were settled; returns those that there were.
    pub fn release(&mut self, chunk: u64, mask: u64) -> u64 {
        let known = self.fold(chunk, |_| true) & mask;
        self.take(chunk, known);
        known
    }

    /// Takes out what has ended by `now`: chunks and bits.
    pub fn ended(&mut self, now: Instant) -> Vec<(u64, u64)> {
        let mut ended = Vec::new();
        while let Some((until, chunk)) = self.queue.front().copied()
            && until <= now
        {
            self.queue.pop_front();
            let mask = self.fold(chunk, |span| span.until <= now);
            if mask != 0 {
                self.take(chunk, mask);
                ended.push((chunk, mask));
            }
        }
        self.shrink();
        ended
    }

    /// Takes out everything: what a client that cannot know any more has to give up.
    pub fn end_all(&mut self) -> Vec<(u64, u64)> {
        self.queue.clear();
        let masks = self.chunks.drain();
        masks.map(|(chunk, spans)| (chunk, spans.iter().fold(0, |all, s| all | s.mask))).collect()
    }

    /// When the next lease may end; what was released meanwhile makes it too early, never too late.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.queue.front().map(|(until, _)| *until)
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn fold(&self, chunk: u64, wanted: impl Fn(&Span) -> bool) -> u64 {
        let spans = self.chunks.get(&chunk).into_iter().flatten();
        spans.filter(|span| wanted(span)).fold(0, |all, span| all | span.mask)
    }

    fn take(&mut self, chunk: u64, mask: u64) {
        if let Some(spans) = self.chunks.get_mut(&chunk) {
            spans.retain(|span| {
                span.mask &= !mask;
                span.mask != 0
            });
            if spans.is_empty() {
                self.chunks.remove(&chunk);
            }
        }
        self.shrink();
    }

    /// Drops entries of the queue that nothing belongs to, so that it stays as small as what is
    /// held, at a constant cost per grant.
    fn shrink(&mut self) {
        let chunks = &self.chunks;
        let empty = |(_, chunk): &(Instant, u64)| !chunks.contains_key(chunk);
        while self.queue.front().is_some_and(empty) {
            self.queue.pop_front();
        }
        if self.queue.len() > 64 && self.queue.len() > 8 * chunks.len() {
            self.queue.retain(|entry| {
                let spans = chunks.get(&entry.1).into_iter().flatten();
                spans.into_iter().any(|span| span.until == entry.0)
            });
        }
    }
}

/// Whether the clock of a client ticked in time: it beats each `period`, and a beat that comes more
/// than `grace` too late tells that the process, or its machine, stood still.
///
/// It looks at both clocks: the monotonic one stands still while a machine sleeps, and the one on
/// the wall is set now and then. Where either jumped, the answer is [`Beat::Late`]; what that costs
/// is a redelivery.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    period: Duration,
    grace: Duration,
    last: (Instant, SystemTime),
}

/// What a beat of a [`Pulse`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The clock ran in time.
    InTime,
    /// It came so much later than it should have.
    Late(Duration),
}

impl Pulse {
    /// A pulse that beats each `period` and may be late by `grace`.
    #[must_use]
    pub const fn new(period: Duration, grace: Duration, now: Instant, wall: SystemTime) -> Self {
        Self { period, grace, last: (now, wall) }
    }

    /// When it has to beat next.
    #[must_use]
    pub fn next(&self) -> Instant {
        let last = self.last.0;
        last.checked_add(self.period).unwrap_or_else(|| far_future(last))
    }

    /// Beats.
    pub fn beat(&mut self, now: Instant, wall: SystemTime) -> Beat {
        let monotonic = now.saturating_duration_since(self.last.0);
        let on_the_wall = wall.duration_since(self.last.1).unwrap_or_default();
        self.last = (now, wall);
        let late = monotonic.max(on_the_wall).saturating_sub(self.period);
        if late > self.grace { Beat::Late(late) } else { Beat::InTime }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const WAIT: Duration = Duration::from_millis(100);

    #[test]
    fn the_second_half_of_a_lease_is_told() {
        let start = Instant::now();
        let mut leases = Leases::new(WAIT);
        leases.grant(1, 0b1, start);
        assert_eq!(leases.aged(1, start + WAIT / 2 - Duration::from_millis(1)), 0);
        assert_eq!(leases.aged(1, start + WAIT / 2), 0b1);
        assert_eq!(leases.extend(1, 0b1, start + WAIT), 0, "what has ended is not extended");
        assert_eq!(leases.ended(start + WAIT), [(1, 0b1)]);
        assert!(leases.is_empty() && leases.next().is_none());
    }

    #[test]
    fn a_clock_that_stood_still_is_late_on_either_clock() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let second = Duration::from_secs(1);
        let pulse = Pulse::new(second, second / 2, start, wall);
        assert_eq!(pulse.next(), start + second);
        let table = [
            (second, second, Beat::InTime),
            (second * 3 / 2, second, Beat::InTime),
            (second * 4, second, Beat::Late(second * 3)),
            (second, second * 3600, Beat::Late(second * 3599)),
        ];
        for (monotonic, on_the_wall, expected) in table {
            let mut pulse = pulse;
            assert_eq!(pulse.beat(start + monotonic, wall + on_the_wall), expected);
        }
        let mut pulse = pulse;
        assert_eq!(pulse.beat(start + second, wall - second), Beat::InTime, "a clock set back");
    }

    #[test]
    fn the_queue_stays_as_small_as_what_is_held() {
        let start = Instant::now();
        let mut leases = Leases::new(Duration::from_secs(3600));
        leases.grant(0, 0b1, start);
        for n in 1..10_000u64 {
            leases.grant(n, u64::MAX, start + Duration::from_millis(n));
            leases.release(n, u64::MAX);
            leases.extend(0, 0b1, start + Duration::from_millis(n));
        }
        assert!(leases.queue.len() <= 128, "{} entries for one lease", leases.queue.len());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Grant(u64, u64, u64),
        Extend(u64, u64),
        Release(u64, u64),
        Pass(u64),
        EndAll,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..4u64, 1..16u64, 0..50u64).prop_map(|(chunk, mask, ago)| Step::Grant(chunk, mask, ago)),
            2 => (0..4u64, 1..16u64).prop_map(|(chunk, mask)| Step::Extend(chunk, mask)),
            2 => (0..4u64, 1..16u64).prop_map(|(chunk, mask)| Step::Release(chunk, mask)),
            4 => (0..60u64).prop_map(Step::Pass),
            1 => Just(Step::EndAll),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Each delivery by itself, with the time at which its lease ends, is what all of it means.
        #[test]
        fn leases_are_those_of_each_delivery_by_itself(steps in steps()) {
            let start = Instant::now();
            let at = |millis: u64| start + Duration::from_millis(millis);
            let (mut leases, mut model) = (Leases::new(WAIT), BTreeMap::new());
            let mut now = 0u64;
            let bits = |mask: u64| (0..4u64).filter(move |bit| mask & (1 << bit) != 0);
            for step in steps {
                match step {
                    Step::Grant(chunk, mask, ago) => {
                        // A backend grants a delivery once.
                        let free = bits(mask).filter(|bit| !model.contains_key(&(chunk, *bit)));
                        let free = free.fold(0, |all, bit| all | 1 << bit);
                        let since = now.saturating_sub(ago);
                        leases.grant(chunk, free, at(since));
                        bits(free).for_each(|bit| { model.insert((chunk, bit), since + 100); });
                    }
                    Step::Extend(chunk, mask) => {
                        let held = leases.extend(chunk, mask, at(now));
                        for bit in bits(mask) {
                            let alive = model.get(&(chunk, bit)).is_some_and(|end| now < *end);
                            prop_assert_eq!(held & 1 << bit != 0, alive);
                            if alive {
                                model.insert((chunk, bit), now + 100);
                            }
                        }
                    }
                    Step::Release(chunk, mask) => {
                        let known = leases.release(chunk, mask);
                        for bit in bits(mask) {
                            let there = model.remove(&(chunk, bit)).is_some();
                            prop_assert_eq!(known & 1 << bit != 0, there);
                        }
                    }
                    Step::Pass(millis) => {
                        now += millis;
                        prop_assert!(leases.next().is_some() || model.is_empty());
                        let mut ended = BTreeMap::new();
                        for (chunk, mask) in leases.ended(at(now)) {
                            *ended.entry(chunk).or_insert(0) |= mask;
                        }
                        let mut expected = BTreeMap::new();
                        model.retain(|(chunk, bit), end| {
                            if *end <= now {
                                *expected.entry(*chunk).or_insert(0) |= 1 << *bit;
                            }
                            *end > now
                        });
                        prop_assert_eq!(ended, expected);
                    }
                    Step::EndAll => {
                        let all: u32 = leases.end_all().iter().map(|(_, m)| m.count_ones()).sum();
                        prop_assert_eq!(all as usize, model.len());
                        model.clear();
                    }
                }
                for chunk in 0..4 {
                    let held = leases.held(chunk, at(now));
                    for bit in 0..4 {
                        let alive = model.get(&(chunk, bit)).is_some_and(|end| now < *end);
                        prop_assert_eq!(held & 1 << bit != 0, alive);
                    }
                }
                if let Some(first) = model.values().min() {
                    prop_assert!(leases.next().is_some_and(|next| next <= at(*first)));
                }
            }
        }
    }
}
