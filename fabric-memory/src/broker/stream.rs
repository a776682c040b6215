//! One topic's events: sealed segments that readers share, and an open one that grows.
//!
//! A segment is sealed when it is long or heavy enough or when a reader reaches it. From then on
//! it never changes, so that deliveries point into it; retention drops whole segments.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fabric_core::{Event, Position, Priority, Timestamp, Topic};

/// The most events in a segment.
const SEGMENT: usize = 64;

/// Events that never change any more.
#[derive(Debug)]
pub(crate) struct Segment {
    /// The number of the first.
    pub(crate) base: u64,
    pub(crate) events: Arc<Vec<Event>>,
    /// When each was stored.
    stored: Vec<Timestamp>,
    bytes: usize,
    /// Whether any has a priority other than normal.
    pub(crate) mixed: bool,
    /// Whether any expires.
    pub(crate) expires: bool,
}

impl Segment {
    pub(crate) fn end(&self) -> u64 {
        self.base + self.events.len() as u64
    }

    /// Drops the events, unless somebody holds them still, and keeps the lists, and in `topics` up
    /// to a segment's handles on the topic's name.
    pub(crate) fn recycle(self, mut topics: Vec<Topic>) -> Option<Spare> {
        let mut events = Arc::into_inner(self.events)?;
        // They left the cache long ago. Looking at all of them first fetches them side by side;
        // dropping alone waits for one after the other.
        events.iter().for_each(|event| event.payload().touch());
        let lacking = SEGMENT.saturating_sub(topics.len());
        topics.extend(events.drain(..).take(lacking).map(Event::into_topic));
        let mut stored = self.stored;
        stored.clear();
        Some(Spare { events, stored, topics })
    }
}

/// What is left of a segment whose events are gone.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    events: Vec<Event>,
    stored: Vec<Timestamp>,
    topics: Vec<Topic>,
}

/// Bytes that an event takes where it is kept, with the time at which it was stored.
pub(crate) fn kept_size(event: &Event) -> usize {
    event.size_in_memory() + size_of::<Timestamp>()
}

/// The bounds of one topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Option<Duration>,
}

/// The events of one topic, from `first` to `next`.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) topic: Topic,
    pub(crate) incarnation: u64,
    bounds: Bounds,
    segment: usize,
    sealed: VecDeque<Segment>,
    open: Vec<Event>,
    open_stored: Vec<Timestamp>,
    open_bytes: usize,
    open_mixed: bool,
    open_expires: bool,
    /// What is left of a dropped segment, for the next.
    spare: Spare,
    first: u64,
    next: u64,
    bytes: usize,
    /// Events accepted but not due yet; they count against the bounds.
    pub(crate) scheduled: usize,
    pub(crate) scheduled_bytes: usize,
    last_time: Option<Timestamp>,
    /// Counts on through all topics: which of them has the newest event.
    pub(crate) last_push: u64,
}

impl Stream {
    pub(crate) fn new(topic: Topic, incarnation: u64, bounds: Bounds) -> Self {
        Self {
            topic,
            incarnation,
            bounds,
            segment: SEGMENT.min(bounds.events / 8).max(1),
            sealed: VecDeque::new(),
            open: Vec::new(),
            open_stored: Vec::new(),
            open_bytes: 0,
            open_mixed: false,
            open_expires: false,
            spare: Spare::default(),
            first: 0,
            next: 0,
            bytes: 0,
            scheduled: 0,
            scheduled_bytes: 0,
            last_time: None,
            last_push: 0,
        }
    }

    /// The number of the oldest event that is kept.
    pub(crate) const fn first(&self) -> u64 {
        self.first
    }

    /// The number that the next event gets.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    pub(crate) const fn len(&self) -> usize {
        (self.next - self.first) as usize
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn last_time(&self) -> Option<Timestamp> {
        self.last_time
    }

    pub(crate) fn position(&self, number: u64) -> Position {
        Position::new(self.topic.clone(), self.incarnation, u128::from(number))
    }

    /// Whether `events` more of `bytes` fit without dropping anything.
    pub(crate) const fn has_room(&self, events: usize, bytes: usize) -> bool {
        self.len() + self.scheduled + events <= self.bounds.events
            && self.bytes + self.scheduled_bytes + bytes <= self.bounds.bytes
    }

    /// Whether so many bytes fit into an empty topic.
    pub(crate) const fn can_ever_hold(&self, bytes: usize) -> bool {
        bytes <= self.bounds.bytes
    }

    pub(crate) fn push(&mut self, event: Event, bytes: usize, now: Timestamp) -> u64 {
        let now = self.in_order(now);
        if self.open.is_empty() && self.open.capacity() == 0 {
            // As long as the last one was: one in lockstep with a reader, many before it.
            let hint = self.sealed.back().map_or(4, |last| last.events.len().next_power_of_two());
            let capacity = hint.min(self.segment);
            if self.spare.events.capacity() == capacity {
                self.open = std::mem::take(&mut self.spare.events);
                self.open_stored = std::mem::take(&mut self.spare.stored);
            } else {
                self.open.reserve_exact(capacity);
                self.open_stored.reserve_exact(capacity);
            }
        }
        self.open_mixed |= event.priority() != Priority::Normal;
        self.open_expires |= event.ttl().is_some();
        self.open.push(event);
        self.open_stored.push(now);
        self.open_bytes += bytes;
        self.bytes += bytes;
        self.last_time = Some(now);
        let number = self.next;
        self.next += 1;
        if self.open.len() >= self.segment || self.open_bytes >= self.bounds.bytes / 16 {
            self.seal();
        }
        number
    }

    /// The time of an event that is stored now: its publisher may have read the clock before others
    /// that were faster.
    fn in_order(&self, now: Timestamp) -> Timestamp {
        self.last_time.map_or(now, |last| last.max(now))
    }

    /// For a seeded bug: the last two events change places.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn swap_last_two(&mut self) {
        if let [.., a, b] = self.open.as_mut_slice() {
            std::mem::swap(a, b);
        }
    }

    #[cfg(not(feature = "seeded-bugs"))]
    pub(crate) const fn swap_last_two(&mut self) {}

    /// Takes a whole batch over as a segment, without copying. Returns the number of the first.
    pub(crate) fn push_all(&mut self, events: Vec<Event>, bytes: usize, now: Timestamp) -> u64 {
        let first = self.next;
        if events.len() > self.segment || bytes > self.bounds.bytes / 16 {
            for event in events {
                let bytes = kept_size(&event);
                self.push(event, bytes, now);
            }
            return first;
        }
        self.seal();
        let now = self.in_order(now);
        self.next += events.len() as u64;
        self.bytes += bytes;
        self.last_time = Some(now);
        let mixed = events.iter().any(|event| event.priority() != Priority::Normal);
        let expires = events.iter().any(|event| event.ttl().is_some());
        let stored = vec![now; events.len()];
        self.sealed.push_back(Segment {
            base: first,
            events: Arc::new(events),
            stored,
            bytes,
            mixed,
            expires,
        });
        first
    }

    pub(crate) fn seal(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let mut events = std::mem::take(&mut self.open);
        if events.len() <= events.capacity() / 2 {
            events.shrink_to_fit();
            self.open_stored.shrink_to_fit();
        }
        let base = self.next - events.len() as u64;
        self.sealed.push_back(Segment {
            base,
            events: Arc::new(events),
            stored: std::mem::take(&mut self.open_stored),
            bytes: std::mem::take(&mut self.open_bytes),
            mixed: std::mem::take(&mut self.open_mixed),
            expires: std::mem::take(&mut self.open_expires),
        });
    }

    /// The segment with event `number`, sealed if it was open.
    pub(crate) fn segment_of(&mut self, number: u64) -> Option<&Segment> {
        if number < self.first || number >= self.next {
            return None;
        }
        if number >= self.next - self.open.len() as u64 {
            self.seal();
        }
        self.sealed.get(self.sealed_at(number))
    }

    /// Where the sealed segment with event `number` is.
    fn sealed_at(&self, number: u64) -> usize {
        // By where they begin alone: what they hold left the cache long ago.
        let newest = self.sealed.back().is_some_and(|last| number >= last.base);
        let after = if newest {
            self.sealed.len()
        } else {
            self.sealed.partition_point(|segment| segment.base <= number)
        };
        after.saturating_sub(1)
    }

    /// How urgent event `number` is, if it is kept.
    pub(crate) fn priority_at(&self, number: u64) -> Option<Priority> {
        if number < self.first || number >= self.next {
            return None;
        }
        let open = self.next - self.open.len() as u64;
        if number >= open {
            return self.open.get((number - open) as usize).map(Event::priority);
        }
        let segment = self.sealed.get(self.sealed_at(number))?;
        if !segment.mixed {
            return Some(Priority::Normal);
        }
        segment.events.get((number - segment.base) as usize).map(Event::priority)
    }

    /// How many of the events `from..end` that are kept are urgent.
    pub(crate) fn urgent_in(&self, from: u64, end: u64) -> u64 {
        let urgent = |events: &[Event], base: u64| {
            let after = base + events.len() as u64;
            let (from, end) = (from.clamp(base, after), end.clamp(base, after));
            let range = &events[(from - base) as usize..(end.max(from) - base) as usize];
            range.iter().filter(|event| event.priority() > Priority::Normal).count() as u64
        };
        let from = from.max(self.first);
        let from_sealed = self.sealed.partition_point(|segment| segment.end() <= from);
        let sealed = self.sealed.range(from_sealed..);
        let sealed = sealed.take_while(|segment| segment.base < end).filter(|s| s.mixed);
        let open = self.next - self.open.len() as u64;
        sealed.map(|segment| urgent(&segment.events, segment.base)).sum::<u64>()
            + if self.open_mixed { urgent(&self.open, open) } else { 0 }
    }

    /// The first of the events `from..end` that is kept and not urgent.
    pub(crate) fn first_usual(&self, from: u64, end: u64) -> Option<u64> {
        let urgent = |n: &u64| self.priority_at(*n).is_some_and(|p| p > Priority::Normal);
        (from.max(self.first)..end.min(self.next)).find(|number| !urgent(number))
    }

    /// Where the oldest segment begins and ends.
    pub(crate) fn oldest(&mut self) -> Option<(u64, u64)> {
        if self.sealed.is_empty() {
            self.seal();
        }
        self.sealed.front().map(|segment| (segment.base.max(self.first), segment.end()))
    }

    /// Whether the oldest segment is older than the bound on age.
    pub(crate) fn is_oldest_aged(&self, now: Timestamp) -> bool {
        let Some(age) = self.bounds.age else { return false };
        let stored = self.sealed.front().map_or(&self.open_stored, |segment| &segment.stored);
        stored.last().is_some_and(|last| now.saturating_since(*last) > age)
    }

    /// Takes the oldest segment out, to be dropped where that disturbs nobody: what events carry
    /// is their publishers' own, and may do anything when it is dropped.
    #[must_use]
    pub(crate) fn take_oldest(&mut self) -> Option<Segment> {
        if self.sealed.is_empty() {
            self.seal();
        }
        let segment = self.sealed.pop_front()?;
        self.first = segment.end();
        self.bytes -= segment.bytes;
        Some(segment)
    }

    /// Forgets everything before `number`, which may lie within a segment; hands the segments that
    /// are gone to `dropped`.
    pub(crate) fn forget_before(&mut self, number: u64, mut dropped: impl FnMut(Segment)) {
        let number = number.min(self.next);
        while let Some((_, end)) = self.oldest()
            && end <= number
            && let Some(segment) = self.take_oldest()
        {
            dropped(segment);
        }
        if number > self.first
            && let Some(segment) = self.sealed.front_mut()
        {
            let dropped = (number - segment.base) as usize;
            let bytes: usize = segment.events[(self.first - segment.base) as usize..dropped]
                .iter()
                .map(kept_size)
                .sum();
            segment.bytes -= bytes;
            self.bytes -= bytes;
            self.first = number;
        }
    }

    /// The handles on the topic's name that nobody used yet.
    pub(crate) fn take_handles(&mut self) -> Vec<Topic> {
        std::mem::take(&mut self.spare.topics)
    }

    /// Uses what is left of a segment again.
    pub(crate) fn reuse(&mut self, spare: Spare) {
        self.spare = spare;
    }

    /// A handle on the topic's name, one that a dropped event had where there is one: counting one
    /// handle up and another down costs more than all else that a receipt does.
    pub(crate) fn topic_handle(&mut self) -> Topic {
        self.spare.topics.pop().unwrap_or_else(|| self.topic.clone())
    }

    /// The first event stored at `time` or later.
    pub(crate) fn number_at(&self, time: Timestamp) -> u64 {
        let before = |stored: &[Timestamp]| stored.partition_point(|at| *at < time);
        for segment in &self.sealed {
            let skipped = before(&segment.stored);
            if skipped < segment.stored.len() {
                return (segment.base + skipped as u64).max(self.first);
            }
        }
        self.next - (self.open.len() - before(&self.open_stored)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(events: usize) -> Stream {
        let bounds = Bounds { events, bytes: 1 << 20, age: None };
        Stream::new(Topic::new("a").unwrap(), 7, bounds)
    }

    fn event(n: u64) -> Event {
        Event::to("a").id(n.to_string()).build().unwrap()
    }

    #[test]
    fn events_keep_their_numbers_through_sealing_and_dropping() {
        let mut stream = stream(1000);
        for n in 0..200 {
            assert_eq!(stream.push(event(n), 100, Timestamp::from_millis(n as i64)), n);
        }
        stream.push_all((200..230).map(event).collect(), 3000, Timestamp::from_millis(200));
        for n in [0, 63, 64, 199, 200, 229] {
            let segment = stream.segment_of(n).unwrap();
            assert_eq!(*segment.events[(n - segment.base) as usize].id(), *n.to_string());
        }
        assert_eq!((stream.len(), stream.bytes()), (230, 23_000));
        assert_eq!(stream.take_oldest().map(|segment| segment.end()), Some(64));
        assert_eq!((stream.first(), stream.len()), (64, 166));
        stream.forget_before(70, drop);
        assert_eq!((stream.first(), stream.len()), (70, 160));
        assert!(stream.segment_of(69).is_none() && stream.segment_of(70).is_some());
        assert_eq!(stream.number_at(Timestamp::from_millis(100)), 100);
        assert_eq!(stream.number_at(Timestamp::from_millis(0)), 70);
        assert_eq!(stream.number_at(Timestamp::from_millis(201)), 230);
        assert_eq!(stream.urgent_in(0, 1000), 0);
        stream.forget_before(1000, drop);
        assert_eq!((stream.len(), stream.first(), stream.next()), (0, 230, 230));
    }

    #[test]
    fn urgent_events_are_counted_in_every_segment() {
        let mut stream = stream(32);
        for n in 0..14u64 {
            let priority = if n % 3 == 0 { Priority::High } else { Priority::Low };
            let event = Event::of(event(n)).priority(priority).build().unwrap();
            stream.push(event, 100, Timestamp::from_millis(0));
        }
        for (from, end) in [(0, 14), (1, 3), (3, 4), (2, 13), (12, 14), (13, 13), (5, 100)] {
            let expected = (from..end.min(14)).filter(|n| n % 3 == 0).count() as u64;
            assert_eq!(stream.urgent_in(from, end), expected, "{from}..{end}");
        }
    }
}
