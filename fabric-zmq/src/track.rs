//! What a subscriber has seen of each publisher, and hence what it has missed. Pure.
//!
//! Events are numbered per publisher and topic, so a gap is a loss, whatever the subscriber filters.
//! A reader that came later than the last event that was seen does not know whether the gap was
//! before it: time is counted in messages, and a reader is told of a gap only where it was there.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::sequence::REPEATS;

/// Who sent something: the bytes of a UUID.
pub(crate) type Sender = [u8; 16];

/// The place of one message among all that this client received.
pub(crate) type Tick = u64;

/// What an event's number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is the next one, or the first that is seen.
    Next,
    /// It came before.
    Duplicate,
    /// As many are missing before it; whoever reads since before the tick has lost them.
    Gap(u64, Tick),
}

/// What was seen of one topic, by publisher.
#[derive(Debug, Default)]
pub(crate) struct Track(SmallVec<[(Sender, u64, Tick); 1]>);

/// What was seen of the publishers themselves.
#[derive(Debug, Default)]
pub(crate) struct Publishers {
    known: HashMap<Sender, Publisher, RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Publisher {
    /// When its first heartbeat came, if that was seen.
    born: Option<Tick>,
    /// The number of its last heartbeat.
    number: u64,
    /// When its last heartbeats came, the newest first, as far as none is missing between.
    beats: [Option<Tick>; REPEATS],
}

/// The most publishers that are remembered.
const MAX_PUBLISHERS: usize = 16_384;
/// The most publishers of one topic that are remembered.
const MAX_PER_TOPIC: usize = 1024;

impl Publishers {
    /// When a publisher's first heartbeat came, if it was seen.
    pub(crate) fn born(&self, sender: &Sender) -> Option<Tick> {
        self.known.get(sender)?.born
    }

    /// Takes a heartbeat, and returns when the one came up to which its entries reach back.
    pub(crate) fn beat(&mut self, sender: Sender, number: u64, now: Tick) -> Option<Tick> {
        let known = self.known.get(&sender).copied();
        if known.is_none() && self.known.len() >= MAX_PUBLISHERS {
            // The one that was silent for longest has gone, most likely.
            let oldest = self.known.iter().min_by_key(|(_, it)| it.beats[0]).map(|(it, _)| *it);
            oldest.map(|oldest| self.known.remove(&oldest));
        }
        let born = known.map_or_else(|| (number == 0).then_some(now), |publisher| publisher.born);
        let next = known.filter(|publisher| publisher.number + 1 == number);
        let mut beats = next.map_or([None; REPEATS], |publisher| publisher.beats);
        let reach = beats[REPEATS - 1].or_else(|| born.filter(|_| next.is_some()));
        beats.rotate_right(1);
        beats[0] = Some(now);
        self.known.insert(sender, Publisher { born, number, beats });
        reach.filter(|_| next.is_some())
    }
}

impl Track {
    /// Takes an event's number. `born` is when its publisher appeared, if that was seen.
    pub(crate) fn event(
        &mut self,
        sender: &Sender,
        sequence: u64,
        now: Tick,
        born: impl FnOnce() -> Option<Tick>,
    ) -> Seen {
        if sequence == 0 {
            return Seen::Next;
        }
        let Some((_, last, tick)) = self.0.iter_mut().find(|(known, ..)| known == sender) else {
            self.add(*sender, sequence, now);
            return match (sequence - 1, born()) {
                (missed @ 1.., Some(born)) => Seen::Gap(missed, born),
                _ => Seen::Next,
            };
        };
        if sequence <= *last {
            return Seen::Duplicate;
        }
        let seen = match sequence - *last - 1 {
            0 => Seen::Next,
            missed => Seen::Gap(missed, *tick),
        };
        (*last, *tick) = (sequence, now);
        seen
    }

    /// Takes a heartbeat's entry: what is missing, and since before which tick one has to read to
    /// have lost it. `before` is when the heartbeat came that `from` was told in, or an earlier one.
    pub(crate) fn told(
        &mut self,
        sender: &Sender,
        (from, to): (u64, u64),
        now: Tick,
        before: Option<Tick>,
    ) -> SmallVec<[(u64, Tick); 2]> {
        let mut lost = SmallVec::new();
        let Some((_, last, tick)) = self.0.iter_mut().find(|(known, ..)| known == sender) else {
            self.add(*sender, to, now);
            if let (Some(before), missed @ 1..) = (before, to.saturating_sub(from)) {
                lost.push((missed, before));
            }
            return lost;
        };
        if to <= *last {
            return lost;
        }
        lost.push((to - *last, *tick));
        (*last, *tick) = (to, now);
        lost
    }

    fn add(&mut self, sender: Sender, last: u64, now: Tick) {
        if self.0.len() >= MAX_PER_TOPIC {
            let oldest = self.0.iter().enumerate().min_by_key(|(_, it)| it.2).map(|(n, _)| n);
            oldest.map(|oldest| self.0.swap_remove(oldest));
        }
        self.0.push((sender, last, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Sender = [1; 16];
    const Q: Sender = [2; 16];

    #[test]
    fn gaps_are_counted_by_publisher() {
        let mut track = Track::default();
        let none = || None;
        assert_eq!(track.event(&P, 5, 1, none), Seen::Next, "what was before is not owed");
        assert_eq!(track.event(&P, 6, 2, none), Seen::Next);
        assert_eq!(track.event(&Q, 1, 3, none), Seen::Next);
        assert_eq!(track.event(&P, 10, 4, none), Seen::Gap(3, 2));
        assert_eq!(track.event(&P, 8, 5, none), Seen::Duplicate);
        assert_eq!(track.event(&Q, 2, 6, none), Seen::Next);
        assert_eq!(track.event(&P, 0, 7, none), Seen::Next, "uncounted");
    }

    #[test]
    fn the_first_events_of_a_publisher_that_was_seen_to_appear_are_owed() {
        let mut publishers = Publishers::default();
        assert_eq!(publishers.beat(P, 0, 7), None);
        let mut track = Track::default();
        assert_eq!(track.event(&P, 4, 9, || publishers.born(&P)), Seen::Gap(3, 7));
        assert_eq!(publishers.beat(Q, 3, 10), None);
        assert_eq!(track.event(&Q, 4, 11, || publishers.born(&Q)), Seen::Next);
    }

    #[test]
    fn a_heartbeat_tells_of_a_lost_tail() {
        let mut publishers = Publishers::default();
        publishers.beat(P, 4, 1);
        let mut track = Track::default();
        track.event(&P, 5, 2, || None);
        let before = publishers.beat(P, 5, 3);
        assert_eq!(track.told(&P, (5, 9), 3, before).as_slice(), [(4, 2)]);
        assert!(track.told(&P, (5, 9), 4, before).is_empty(), "told once");
        assert_eq!(track.event(&P, 10, 5, || None), Seen::Next);
    }

    #[test]
    fn a_heartbeat_tells_of_a_topic_of_which_nothing_came() {
        let mut publishers = Publishers::default();
        for (number, now) in [(3, 8), (4, 10), (5, 12)] {
            assert_eq!(publishers.beat(P, number, now), None, "nobody knows how far it reaches");
        }
        let mut track = Track::default();
        let before = publishers.beat(P, 6, 20);
        assert_eq!(track.told(&P, (2, 9), 20, before).as_slice(), [(7, 8)]);
        // After a heartbeat that was lost itself nobody knows since when.
        let mut track = Track::default();
        let before = publishers.beat(P, 9, 30);
        assert!(track.told(&P, (2, 9), 30, before).is_empty());
    }

    #[test]
    fn memory_has_a_bound() {
        let mut track = Track::default();
        let mut publishers = Publishers::default();
        for n in 0..20_000_u32 {
            let mut sender = [0; 16];
            sender[..4].copy_from_slice(&n.to_le_bytes());
            track.event(&sender, 1, u64::from(n), || None);
            publishers.beat(sender, 0, u64::from(n));
        }
        assert_eq!(track.0.len(), MAX_PER_TOPIC);
        assert_eq!(publishers.known.len(), MAX_PUBLISHERS);
    }
}
