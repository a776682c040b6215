//! A subscription without a group: a copy of each event, and its own place.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use fabric_core::{Chunk, Error, Event, MAX_CHUNK, Patterns, Places, Timestamp, WhenFull};

use super::group::is_expired;
use super::track::Tracks;
use super::{Polled, Streams, Wakers};
use crate::bug::Bug;

pub(crate) struct Plain {
    pub(crate) client: u64,
    pub(crate) patterns: Patterns,
    pub(crate) when_full: WhenFull,
    /// The most events that may wait for it.
    pub(crate) bound: Option<usize>,
    pub(crate) tracks: Tracks,
    pub(crate) lagged: u64,
    /// It takes no more.
    pub(crate) stopped: bool,
    waker: Option<Waker>,
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain").field("patterns", &self.patterns).finish_non_exhaustive()
    }
}

impl Plain {
    pub(crate) fn new(
        client: u64,
        patterns: Patterns,
        when_full: WhenFull,
        bound: Option<usize>,
    ) -> Self {
        Self {
            client,
            patterns,
            when_full,
            bound,
            tracks: Tracks::default(),
            lagged: 0,
            stopped: false,
            waker: None,
        }
    }

    /// Whether a publisher has to ask before it publishes.
    pub(crate) const fn is_strict(&self) -> bool {
        self.bound.is_some() && !matches!(self.when_full, WhenFull::DropOldest)
    }

    pub(crate) fn wake(&mut self, wakers: &mut Wakers) {
        // Not `extend`: it costs more than all else that nearly every event does here.
        if let Some(waker) = self.waker.take() {
            wakers.push(waker);
        }
    }

    /// How many events wait for it in all topics.
    pub(crate) fn backlog(&self, streams: &Streams) -> u64 {
        let tracks = &self.tracks.list;
        tracks.iter().map(|track| track.backlog(streams.peek(track.stream))).sum()
    }

    pub(crate) fn poll(&mut self, streams: &mut Streams, wall: Timestamp, waker: &Waker) -> Polled {
        if self.stopped {
            return Polled::End;
        }
        if let (Some(bound), WhenFull::DropOldest) = (self.bound, self.when_full) {
            self.drop_beyond(bound as u64, streams);
        }
        let chunk = self.pick(streams, wall);
        // What was missed is told before what comes after it.
        if self.lagged > 0 && !streams.has_bug(Bug::LagNotReported) {
            if let Some((slot, first, _)) = chunk {
                let track = &mut self.tracks.list[slot];
                track.cursor = first;
                self.tracks.make_ready(slot);
            }
            return Polled::Error(Error::lagged(std::mem::take(&mut self.lagged)));
        }
        if let Some((slot, first, len)) = chunk {
            let off = u64::from(streams.has_bug(Bug::WrongPosition));
            let stream = streams.stream(self.tracks.list[slot].stream);
            let incarnation = stream.incarnation;
            if let Some(segment) = stream.segment_of(first) {
                let from = (first - segment.base) as usize;
                let chunk = Chunk::new(Arc::clone(&segment.events), from, len, wall)
                    .with_places(Places::Run { incarnation, first: first + off })
                    .with_attempt(1);
                return Polled::Chunk(Arc::new(chunk));
            }
        }
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        Polled::Pending
    }

    fn pick(&mut self, streams: &mut Streams, wall: Timestamp) -> Option<(usize, u64, usize)> {
        while let Some(next) = self.tracks.next(streams, &mut self.lagged) {
            let (slot, first, events) = (next.slot, next.first, next.events(MAX_CHUNK));
            let fresh = |event: &&Event| !is_expired(event, wall);
            let run = if next.segment.expires {
                events.iter().take_while(fresh).count()
            } else {
                events.len()
            };
            if run > 0 {
                self.tracks.take(slot, run);
                return Some((slot, first, run));
            }
            self.tracks.list[slot].cursor += 1;
        }
        None
    }

    /// Jumps over the oldest so that no more than `bound` wait.
    fn drop_beyond(&mut self, bound: u64, streams: &Streams) {
        let mut excess = self.backlog(streams).saturating_sub(bound);
        for track in &mut self.tracks.list {
            if excess == 0 {
                return;
            }
            let stream = streams.peek(track.stream);
            self.lagged += track.settle_cursor(stream);
            let drop = track.backlog(stream).min(excess);
            for _ in 0..drop {
                track.cursor += 1;
                // A range that is left out anyway is no loss.
                self.lagged += track.settle_cursor(stream);
            }
            self.lagged += drop;
            excess -= drop;
        }
    }
}
