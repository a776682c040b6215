//! The deduplication window: ids seen lately, forgotten by age and by number.

use std::collections::VecDeque;
use std::time::Duration;

use fabric_core::Position;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tokio::time::Instant;

/// What was stored lately, by its deduplication key.
#[derive(Debug)]
pub(crate) struct Dedup {
    window: Duration,
    max: usize,
    seen: HashMap<String, Option<Position>, RandomState>,
    order: VecDeque<(Instant, String)>,
}

impl Dedup {
    pub(crate) fn new(window: Duration, max: usize) -> Self {
        Self { window, max, seen: HashMap::default(), order: VecDeque::new() }
    }

    /// Where the same event was stored within the window, if it was.
    pub(crate) fn find(&mut self, key: &str, now: Instant) -> Option<Option<Position>> {
        self.forget(now);
        self.seen.get(key).cloned()
    }

    pub(crate) fn note(&mut self, key: String, position: Option<Position>, now: Instant) {
        if self.order.len() == self.max
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back((now, key.clone()));
        self.seen.insert(key, position);
    }

    fn forget(&mut self, now: Instant) {
        while let Some((seen, key)) = self.order.front()
            && now.saturating_duration_since(*seen) >= self.window
        {
            self.seen.remove(key);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_ends_and_is_bounded() {
        let start = Instant::now();
        let mut dedup = Dedup::new(Duration::from_secs(10), 2);
        dedup.note("a".to_owned(), None, start);
        assert!(dedup.find("a", start + Duration::from_secs(9)).is_some());
        assert!(dedup.find("a", start + Duration::from_secs(10)).is_none());
        for key in ["b", "c", "d"] {
            dedup.note(key.to_owned(), None, start + Duration::from_secs(10));
        }
        let now = start + Duration::from_secs(11);
        assert!(dedup.find("b", now).is_none() && dedup.find("d", now).is_some());
    }
}
