//! What workers count: each for itself, so that none waits for another, and all together.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one worker does and has done. Its worker alone writes.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    /// Odd while a handler is being polled.
    polls: AtomicU64,
    /// Which of the plan's routes; one beyond them is the fallback, [`BATCH`] the batch handler.
    route: AtomicUsize,
    /// Whether it works on an event, or on a batch.
    working: AtomicBool,
    handled: AtomicU64,
}

/// The route of the batch handler.
pub(crate) const BATCH: usize = usize::MAX;

impl Busy {
    /// The poll that goes on, if one does: its number and its route.
    pub(crate) fn poll(&self) -> Option<(u64, usize)> {
        let polls = self.polls.load(Ordering::Relaxed);
        (polls % 2 == 1).then(|| (polls, self.route.load(Ordering::Relaxed)))
    }

    pub(crate) fn enter(&self, route: usize) {
        self.route.store(route, Ordering::Relaxed);
        add(&self.polls, 1);
    }

    pub(crate) fn leave(&self) {
        add(&self.polls, 1);
    }

    /// Says whether it works on an event.
    pub(crate) fn works(&self, works: bool) {
        self.working.store(works, Ordering::Relaxed);
    }

    /// So many events more were handled.
    pub(crate) fn handled(&self, events: u64) {
        add(&self.handled, events);
    }

    fn is_working(&self) -> bool {
        self.working.load(Ordering::Relaxed) || self.poll().is_some()
    }
}

/// As `fetch_add` of a counter that one thread writes at a time, without its price.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// All workers of a consumer.
#[derive(Debug, Default)]
pub(crate) struct Workforce(Mutex<Members>);

#[derive(Debug, Default)]
struct Members {
    present: Vec<Arc<Busy>>,
    /// What those handled that are gone.
    handled: u64,
}

impl Workforce {
    /// Counts a worker in until what this returns is dropped.
    pub(crate) fn join(&self, busy: &Arc<Busy>) -> Joined<'_> {
        self.lock().present.push(Arc::clone(busy));
        Joined { workforce: self, busy: Arc::clone(busy) }
    }

    /// How many of them work now.
    pub(crate) fn working(&self) -> usize {
        self.lock().present.iter().filter(|busy| busy.is_working()).count()
    }

    /// How many events were handled.
    pub(crate) fn handled(&self) -> u64 {
        let members = self.lock();
        let now = members.present.iter().map(|busy| busy.handled.load(Ordering::Relaxed));
        now.fold(members.handled, u64::wrapping_add)
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker that is counted.
pub(crate) struct Joined<'a> {
    workforce: &'a Workforce,
    busy: Arc<Busy>,
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let mut members = self.workforce.lock();
        members.present.retain(|busy| !Arc::ptr_eq(busy, &self.busy));
        members.handled += self.busy.handled.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_counted_outlives_them() {
        let workforce = Workforce::default();
        let (one, other) = (Arc::new(Busy::default()), Arc::new(Busy::default()));
        let here = workforce.join(&one);
        one.handled(2);
        {
            let _there = workforce.join(&other);
            other.handled(3);
            other.works(true);
            one.enter(0);
            assert_eq!((workforce.working(), workforce.handled()), (2, 5));
            one.leave();
            assert_eq!(workforce.working(), 1);
        }
        assert_eq!((workforce.working(), workforce.handled()), (0, 5));
        drop(here);
        assert_eq!(workforce.handled(), 5);
    }
}
