//! What is settled in one partition: a log knows one number, we know each event.
//!
//! The watermark is the offset below which everything is settled. What was settled above it is known
//! by itself, so that a member which takes the partition over passes over it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::progress::Progress;

/// The events of one partition from the watermark on.
#[derive(Debug)]
pub(crate) struct Track {
    /// Those that were read, by offset; the first is open.
    read: VecDeque<Entry>,
    /// The next offset to read.
    next: i64,
    /// Settled by a predecessor and not read yet.
    settled: BTreeSet<i64>,
    /// How often a predecessor tried those that are not read yet.
    tries: BTreeMap<i64, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: i64,
    tries: u32,
    done: bool,
}

impl Track {
    /// Nothing read yet; the first to read is `next`.
    pub(crate) const fn new(next: i64) -> Self {
        Self { read: VecDeque::new(), next, settled: BTreeSet::new(), tries: BTreeMap::new() }
    }

    /// Goes on where a predecessor was.
    pub(crate) fn resume(progress: &Progress) -> Self {
        let settled = progress.settled.iter().copied().collect();
        let tries = progress.tries.iter().copied().collect();
        Self { settled, tries, ..Self::new(progress.watermark) }
    }

    /// Takes the event at `offset` in. How often it was tried; none if it was settled, or read
    /// already.
    pub(crate) fn read(&mut self, offset: i64) -> Option<u32> {
        if offset < self.next {
            return None;
        }
        self.next = offset + 1;
        let done = self.settled.remove(&offset);
        let tries = self.tries.remove(&offset).unwrap_or(0);
        // What lies in a hole is never read.
        self.settled.retain(|known| *known > offset);
        self.tries.retain(|known, _| *known > offset);
        if !done || !self.read.is_empty() {
            self.read.push_back(Entry { offset, tries, done });
        }
        (!done).then_some(tries)
    }

    /// Settles the event at `offset`; whether it was open.
    pub(crate) fn settle(&mut self, offset: i64) -> bool {
        let Some(entry) = self.entry(offset).filter(|entry| !entry.done) else { return false };
        entry.done = true;
        while self.read.front().is_some_and(|entry| entry.done) {
            self.read.pop_front();
        }
        true
    }

    /// Everything below `offset` that was not read is gone.
    pub(crate) fn pass_over(&mut self, offset: i64) {
        self.next = self.next.max(offset);
        self.settled.retain(|known| *known >= offset);
        self.tries.retain(|known, _| *known >= offset);
    }

    /// Counts one more try of the open event at `offset`.
    pub(crate) fn tried(&mut self, offset: i64) {
        if let Some(entry) = self.entry(offset) {
            entry.tries += 1;
        }
    }

    /// Everything below is settled.
    pub(crate) fn watermark(&self) -> i64 {
        self.read.front().map_or(self.next, |entry| entry.offset)
    }

    /// The next offset to read.
    pub(crate) const fn next(&self) -> i64 {
        self.next
    }

    /// How far reading is ahead of the watermark.
    pub(crate) fn span(&self) -> u64 {
        self.next.saturating_sub(self.watermark()).unsigned_abs()
    }

    /// What a successor has to know.
    pub(crate) fn progress(&self, origin: u64) -> Progress {
        let done = self.read.iter().filter(|entry| entry.done).map(|entry| entry.offset);
        let tried = self.read.iter().filter(|entry| !entry.done && entry.tries > 0);
        let tried = tried.map(|entry| (entry.offset, entry.tries));
        Progress {
            origin,
            watermark: self.watermark(),
            next: self.next,
            settled: done.chain(self.settled.iter().copied()).collect(),
            tries: tried
                .chain(self.tries.iter().map(|(offset, tries)| (*offset, *tries)))
                .collect(),
        }
    }

    fn entry(&mut self, offset: i64) -> Option<&mut Entry> {
        let at = self.read.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        self.read.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_that_is_held_stops_the_watermark_and_nothing_else() {
        let mut track = Track::new(10);
        (10..15).for_each(|offset| assert_eq!(track.read(offset), Some(0)));
        (11..15).for_each(|offset| assert!(track.settle(offset)));
        assert_eq!((track.watermark(), track.next(), track.span()), (10, 15, 5));
        assert!(track.settle(10) && !track.settle(10));
        assert_eq!((track.watermark(), track.span()), (15, 0));
    }

    proptest! {
        /// Whatever order events are settled in, with holes in the log and members that take over in
        /// between: each is handed out until it is settled, never after, and the watermark is the
        /// first that is open.
        #[test]
        fn nothing_is_lost_or_repeated_over_takeovers(
            holes in prop::collection::btree_set(0..60i64, 0..20),
            steps in prop::collection::vec((0..60i64, 0..4u8), 1..200),
        ) {
            let log: Vec<i64> = (0..60).filter(|offset| !holes.contains(offset)).collect();
            let mut open: BTreeSet<i64> = log.iter().copied().collect();
            let mut tries: BTreeMap<i64, u32> = BTreeMap::new();
            let mut track = Track::new(0);
            let mut given = BTreeSet::new();
            for (offset, step) in steps {
                match step {
                    // The next event is read.
                    0 | 1 => {
                        let next = log.iter().copied().find(|offset| *offset >= track.next());
                        if let Some(next) = next {
                            let read = track.read(next);
                            prop_assert_eq!(read.is_some(), open.contains(&next));
                            if let Some(read) = read {
                                prop_assert_eq!(read, tries.get(&next).copied().unwrap_or(0));
                                given.insert(next);
                            }
                        }
                    }
                    2 if given.contains(&offset) => {
                        prop_assert!(track.settle(offset));
                        given.remove(&offset);
                        open.remove(&offset);
                        tries.remove(&offset);
                    }
                    2 => prop_assert!(!track.settle(offset)),
                    // Another member takes over.
                    _ => {
                        if given.contains(&offset) {
                            track.tried(offset);
                            *tries.entry(offset).or_default() += 1;
                        }
                        let told = track.progress(7);
                        let text = told.encode();
                        let understood = Progress::decode(told.watermark, &text).unwrap();
                        prop_assert_eq!(&understood, &told);
                        track = Track::resume(&understood);
                        given.clear();
                    }
                }
                let first = open.iter().next().copied().unwrap_or(i64::MAX);
                prop_assert!(track.watermark() <= first.max(track.next()));
                let below = open.range(..track.watermark()).next();
                prop_assert_eq!(below, None, "an open event lies below the watermark");
            }
        }
    }
}
