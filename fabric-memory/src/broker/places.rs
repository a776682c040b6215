//! Where readers begin, and reading once more what is kept.

use std::sync::Arc;

use fabric_core::clock::Now;
use fabric_core::{Chunk, Error, ErrorKind, Event, Pattern, Patterns, Position, Start, Topic};

use super::group::is_expired;
use super::stream::Stream;
use super::{Broker, Result};
use crate::bug::Bug;

impl Broker {
    /// The numbers at which a reader of `patterns` begins, by topic.
    pub(super) fn places(
        &mut self,
        patterns: &Patterns,
        start: &Start,
        now: Now,
    ) -> Result<Vec<(usize, u64)>> {
        let matching = self.matching(patterns);
        for index in &matching {
            self.drop_aged(*index, &now);
        }
        let skip_one = u64::from(self.has_bug(Bug::NewSkipsFirst));
        let mut places = Vec::new();
        match start {
            Start::New => {
                for index in matching {
                    places.push((index, self.streams.peek(index).next() + skip_one));
                }
            }
            Start::All => {
                for index in matching {
                    places.push((index, self.streams.peek(index).first()));
                }
            }
            Start::LastPerTopic => {
                for index in matching {
                    let stream = self.streams.peek(index);
                    places.push((index, last_or_next(stream)));
                }
            }
            Start::Last => {
                let newest = matching
                    .iter()
                    .copied()
                    .filter(|index| self.streams.peek(*index).len() > 0)
                    .max_by_key(|index| self.streams.peek(*index).last_push);
                for index in matching {
                    let stream = self.streams.peek(index);
                    let from =
                        if Some(index) == newest { last_or_next(stream) } else { stream.next() };
                    places.push((index, from));
                }
            }
            Start::Time(time) => {
                for index in matching {
                    places.push((index, self.streams.peek(index).number_at(*time)));
                }
            }
            Start::At(position) | Start::After(position) => {
                let from = self.number_of(position)?;
                let from = from + u64::from(matches!(start, Start::After(_)));
                for index in matching {
                    let stream = self.streams.peek(index);
                    let own = stream.topic == position.topic;
                    places.push((index, if own { from } else { stream.next() }));
                }
            }
            Start::Resume(cursor) => {
                for position in cursor.iter().filter(|position| patterns.matches(&position.topic)) {
                    self.number_of(position)?;
                }
                for index in matching {
                    let stream = self.streams.peek(index);
                    let from = cursor
                        .get(&stream.topic, None)
                        .map_or_else(|| stream.first(), |position| position.offset as u64 + 1);
                    places.push((index, from));
                }
            }
            other => {
                return Err(Error::unsupported(format_args!("a start at {other:?}"), "memory"));
            }
        }
        Ok(places)
    }

    /// The topics that `patterns` match, the oldest first.
    pub(super) fn matching(&self, patterns: &Patterns) -> Vec<usize> {
        let mut matching: Vec<usize> = if patterns.iter().all(Pattern::is_literal) {
            let topics = patterns.iter().filter_map(Pattern::as_topic);
            topics.filter_map(|topic| self.by_name.get(&topic).copied()).collect()
        } else {
            let matches = |(topic, _): &(&Topic, &usize)| patterns.matches(topic);
            self.by_name.iter().filter(matches).map(|(_, index)| *index).collect()
        };
        matching.sort_unstable();
        matching
    }

    /// The number behind a position, if it is one of this life of the topic.
    pub(super) fn number_of(&self, position: &Position) -> Result<u64> {
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::NotFound, format!("the position `{position}` is {why}"))
                .with("topic", &position.topic))
        };
        let Some(index) = self.by_name.get(&position.topic) else {
            return refuse("in a topic that does not exist");
        };
        let stream = self.streams.peek(*index);
        if position.incarnation != stream.incarnation || position.partition.is_some() {
            return refuse("of another life of the topic: the stream was made anew since");
        }
        match u64::try_from(position.offset) {
            Ok(number) if number < stream.next() => Ok(number),
            _ => refuse("beyond the topic's last event"),
        }
    }

    /// The finite ranges of a replay: topic, first number, end.
    pub(crate) fn ranges(
        &mut self,
        patterns: &Patterns,
        start: &Start,
        end: &fabric_core::End,
        now: Now,
    ) -> Result<Vec<(usize, u64, u64)>> {
        let places = self.places(patterns, start, now)?;
        let miss_last = u64::from(self.has_bug(Bug::ReplayMissesLast));
        let mut ranges = Vec::new();
        for (index, from) in places {
            let stream = self.streams.peek(index);
            let until = match end {
                fabric_core::End::Time(time) => stream.number_at(*time),
                fabric_core::End::At(position) if position.topic == stream.topic => {
                    self.number_of(position)? + 1
                }
                _ => stream.next(),
            };
            let (from, until) = (from.max(stream.first()), until.saturating_sub(miss_last));
            if from < until {
                ranges.push((index, from, until));
            }
        }
        // Topic by topic would do; by the time of their first event reads better.
        ranges.sort_by_key(|(index, from, _)| {
            let stream = self.streams.stream(*index);
            stream
                .segment_of(*from)
                .map(|segment| segment.events[(*from - segment.base) as usize].time())
        });
        Ok(ranges)
    }

    /// Up to a chunk of a replay's range, and where to go on; how many were gone.
    pub(crate) fn read(
        &mut self,
        index: usize,
        from: u64,
        until: u64,
        most: usize,
        now: Now,
    ) -> Read {
        let stream = self.streams.stream(index);
        let incarnation = stream.incarnation;
        let missed = stream.first().min(until).saturating_sub(from);
        let mut from = from + missed;
        loop {
            let segment = match stream.segment_of(from) {
                Some(segment) if from < until => segment,
                _ => return Read { chunk: None, next: until, missed },
            };
            let at = (from - segment.base) as usize;
            let len = ((until - from) as usize).min(segment.events.len() - at).min(most);
            let fresh = |event: &&Event| !is_expired(event, now.wall);
            let run = segment.events[at..at + len].iter().take_while(fresh).count();
            if run == 0 {
                from += 1;
                continue;
            }
            let chunk = Chunk::new(Arc::clone(&segment.events), at, run, now.wall)
                .with_places(fabric_core::Places::Run { incarnation, first: from })
                .with_attempt(1);
            return Read { chunk: Some(Arc::new(chunk)), next: from + run as u64, missed };
        }
    }
}

/// A step of a replay.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) chunk: Option<Arc<Chunk>>,
    pub(crate) next: u64,
    pub(crate) missed: u64,
}

fn last_or_next(stream: &Stream) -> u64 {
    if stream.len() > 0 { stream.next() - 1 } else { stream.next() }
}
