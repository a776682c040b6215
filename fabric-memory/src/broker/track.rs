//! How far one reader is in each of its topics.

use std::collections::VecDeque;

use fabric_core::Event;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Streams;
use super::stream::{Segment, Stream};

/// One reader's place in one topic.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) stream: usize,
    /// The first number that was for this reader since it came to the topic.
    pub(crate) began: u64,
    /// The next number to look at.
    pub(crate) cursor: u64,
    /// Everything before it is settled, as far as was looked; for a group.
    pub(crate) settled: u64,
    /// Where reading ends, once a redefinition took the topic away.
    pub(crate) until: Option<u64>,
    /// Ranges that are not for this reader.
    skips: VecDeque<(u64, u64)>,
    ready: bool,
}

impl Track {
    /// The end of what may be read.
    pub(crate) fn limit(&self, stream: &Stream) -> u64 {
        self.until.unwrap_or(u64::MAX).min(stream.next())
    }

    /// Jumps over what is not for this reader and what is gone. Returns how many were gone.
    pub(crate) fn settle_cursor(&mut self, stream: &Stream) -> u64 {
        let mut missed = 0;
        loop {
            while self.skips.front().is_some_and(|(_, end)| *end <= self.cursor) {
                self.skips.pop_front();
            }
            match self.skips.front() {
                Some((start, end)) if *start <= self.cursor => self.cursor = *end,
                next => {
                    let first = stream.first().min(self.limit(stream));
                    if self.cursor >= first {
                        return missed;
                    }
                    let stop = next.map_or(first, |(start, _)| first.min(*start));
                    missed += stop - self.cursor;
                    self.cursor = stop;
                }
            }
        }
    }

    /// Begins anew at `cursor`, to read up to `until`.
    pub(crate) fn restart(&mut self, cursor: u64, until: Option<u64>) {
        (self.cursor, self.until, self.settled) = (cursor, until, 0);
        self.skips.clear();
    }

    /// Leaves `start..end` out.
    pub(crate) fn skip(&mut self, start: u64, end: u64) {
        match self.skips.back_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.skips.push_back((start, end)),
        }
    }

    /// Where the next range to leave out begins.
    pub(crate) fn next_skip(&self) -> u64 {
        self.skips.front().map_or(u64::MAX, |(start, _)| *start)
    }

    /// What is to be read between `from` and `end`: the ranges that are not left out.
    pub(crate) fn spans(&self, from: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        let skips = self.skips.iter().copied().chain([(u64::MAX, u64::MAX)]);
        skips
            .scan(from, move |at, (start, after)| {
                let span = (*at, start.min(end));
                *at = after.max(*at);
                Some(span)
            })
            .filter(|(start, end)| start < end)
    }

    /// The next number to look at that is kept and not left out, or where the topic ends.
    pub(crate) fn unread(&self, stream: &Stream) -> u64 {
        let from = self.cursor.max(stream.first());
        let mut spans = self.spans(from, self.limit(stream));
        spans.next().map_or_else(|| stream.next(), |(start, _)| start)
    }

    /// How many events are still to be looked at.
    pub(crate) fn backlog(&self, stream: &Stream) -> u64 {
        let from = self.cursor.max(stream.first());
        self.spans(from, self.limit(stream)).map(|(start, end)| end - start).sum()
    }
}

/// What a reader reads next: where, from which number on, how many that are not left out, and the
/// segment in which it lies.
#[derive(Debug)]
pub(crate) struct Next<'a> {
    pub(crate) slot: usize,
    pub(crate) first: u64,
    pub(crate) available: usize,
    pub(crate) segment: &'a Segment,
}

impl Next<'_> {
    /// Its events in this segment, no more than `most`.
    pub(crate) fn events(&self, most: usize) -> &[Event] {
        let from = (self.first - self.segment.base) as usize;
        let count = most.min(self.available).min(self.segment.events.len() - from);
        &self.segment.events[from..from + count]
    }
}

/// One reader's places.
#[derive(Debug, Default)]
pub(crate) struct Tracks {
    pub(crate) list: Vec<Track>,
    by_stream: HashMap<usize, usize, RandomState>,
    ready: VecDeque<usize>,
}

impl Tracks {
    /// The slot of `stream`, new at `cursor` if there was none.
    pub(crate) fn add(&mut self, stream: usize, cursor: u64) -> usize {
        let slot = self.list.len();
        self.list.push(Track {
            stream,
            began: cursor,
            cursor,
            settled: 0,
            until: None,
            skips: VecDeque::new(),
            ready: false,
        });
        self.by_stream.insert(stream, slot);
        self.make_ready(slot);
        slot
    }

    pub(crate) fn slot_of(&self, stream: usize) -> Option<usize> {
        self.by_stream.get(&stream).copied()
    }

    /// Says that there may be something to read in `slot`.
    pub(crate) fn make_ready(&mut self, slot: usize) {
        let track = &mut self.list[slot];
        if !track.ready {
            track.ready = true;
            self.ready.push_back(slot);
        }
    }

    /// The slot whose turn it is.
    fn front(&self) -> Option<usize> {
        self.ready.front().copied()
    }

    /// What is next in the slot whose turn it is; slots with nothing to read lose their turn. Adds
    /// what was gone to `lagged`.
    pub(crate) fn next<'a>(
        &mut self,
        streams: &'a mut Streams,
        lagged: &mut u64,
    ) -> Option<Next<'a>> {
        loop {
            let slot = self.front()?;
            let track = &mut self.list[slot];
            let index = track.stream;
            let stream = streams.stream(index);
            *lagged += track.settle_cursor(stream);
            let end = track.limit(stream);
            let limit = end.min(track.next_skip());
            let first = track.cursor;
            if first < limit && stream.segment_of(first).is_some() {
                let available = (limit - first) as usize;
                let segment = streams.stream(index).segment_of(first)?;
                return Some(Next { slot, first, available, segment });
            }
            if first >= end || first < limit {
                self.exhaust_front();
            }
        }
    }

    /// Takes `count` of what is next; another slot has its turn where one waits.
    pub(crate) fn take(&mut self, slot: usize, count: usize) {
        self.list[slot].cursor += count as u64;
        if self.ready.len() > 1 {
            self.rotate();
        }
    }

    /// Takes the front slot off: there is nothing to read in it.
    fn exhaust_front(&mut self) {
        if let Some(slot) = self.ready.pop_front() {
            self.list[slot].ready = false;
        }
    }

    /// Lets the next slot have its turn.
    fn rotate(&mut self) {
        if let Some(slot) = self.ready.pop_front() {
            self.ready.push_back(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use fabric_core::{Timestamp, Topic};

    use super::super::stream::Bounds;
    use super::*;

    #[test]
    fn skipped_events_are_jumped_over_and_lost_ones_counted() {
        let bounds = Bounds { events: 8, bytes: 1 << 20, age: None };
        let mut stream = Stream::new(Topic::new("a").unwrap(), 0, bounds);
        for _ in 0..10 {
            stream.push(Event::to("a").build().unwrap(), 1, Timestamp::now());
        }
        let mut tracks = Tracks::default();
        let slot = tracks.add(0, 0);
        let track = &mut tracks.list[slot];
        track.skip(2, 4);
        track.skip(4, 5);
        assert_eq!(track.backlog(&stream), 7);
        stream.forget_before(3, drop);
        assert_eq!(track.settle_cursor(&stream), 2);
        assert_eq!((track.cursor, track.backlog(&stream)), (5, 5));
        stream.forget_before(7, drop);
        assert_eq!(track.settle_cursor(&stream), 2);
        track.until = Some(8);
        assert_eq!((track.cursor, track.backlog(&stream)), (7, 1));
    }
}
