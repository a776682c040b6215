//! A publisher's counts per topic, and the heartbeats that tell of them. Pure.

use fabric_core::{Patterns, Topic};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// For how many heartbeats a change is told, since one may be lost.
pub(crate) const REPEATS: usize = 3;

/// One line of a heartbeat: a topic's count when it was listed before, and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) topic: &'a [u8],
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What a publisher has sent so far.
#[derive(Debug)]
pub(crate) struct Sequences {
    counts: HashMap<Topic, Count, RandomState>,
    max_topics: usize,
    /// The topics that changed, for each of the last heartbeats, the newest first.
    recent: [Vec<Topic>; REPEATS],
    beat: u64,
    list_all: bool,
}

#[derive(Debug)]
struct Count {
    last: u64,
    /// The counts at the last heartbeats, the newest first.
    listed: [u64; REPEATS],
    /// The interval in which it changed last.
    changed: u64,
}

impl Sequences {
    pub(crate) fn new(max_topics: usize) -> Self {
        Self {
            counts: HashMap::default(),
            max_topics,
            recent: Default::default(),
            beat: 0,
            list_all: true,
        }
    }

    /// The number of the topic's next event; 0, uncounted, beyond the bound on topics.
    pub(crate) fn next(&self, topic: &Topic) -> u64 {
        match self.counts.get(topic) {
            Some(count) => count.last + 1,
            None if self.counts.len() < self.max_topics => 1,
            None => 0,
        }
    }

    /// `count` events of the topic were sent, from [`next`](Self::next) on.
    pub(crate) fn sent(&mut self, topic: &Topic, count: u64) {
        let beat = self.beat;
        if let Some(entry) = self.counts.get_mut(topic) {
            if entry.changed != beat {
                entry.changed = beat;
                self.recent[0].push(topic.clone());
            }
            entry.last += count;
        } else if self.counts.len() < self.max_topics {
            self.recent[0].push(topic.clone());
            let entry = Count { last: count, listed: [0; REPEATS], changed: beat };
            self.counts.insert(topic.clone(), entry);
        }
    }

    /// The next heartbeat tells of every topic.
    pub(crate) fn list_all(&mut self) {
        self.list_all = true;
    }

    /// Whether the next heartbeat would have anything to tell.
    pub(crate) fn is_due(&self) -> bool {
        self.list_all || self.recent.iter().any(|topics| !topics.is_empty())
    }

    /// Writes the next heartbeat's entries to `out`, and returns its number. It counts as told
    /// once [`told`](Self::told) says so.
    pub(crate) fn write(&self, out: &mut Vec<u8>, max_bytes: usize) -> u64 {
        let mut put = |topic: &Topic, count: &Count| {
            let text = topic.as_str().as_bytes();
            if out.len() + text.len() + 17 <= max_bytes {
                // A topic has at most 200 bytes.
                out.push(text.len() as u8);
                out.extend_from_slice(text);
                out.extend_from_slice(&count.listed[REPEATS - 1].to_le_bytes());
                out.extend_from_slice(&count.last.to_le_bytes());
            }
        };
        if self.list_all {
            self.counts.iter().for_each(|(topic, count)| put(topic, count));
        } else {
            for (age, topics) in self.recent.iter().enumerate() {
                for topic in topics {
                    let Some(count) = self.counts.get(topic) else { continue };
                    // One that changed again is among the newer ones.
                    if count.changed + age as u64 == self.beat {
                        put(topic, count);
                    }
                }
            }
        }
        self.beat
    }

    /// The heartbeat was sent: the next interval begins.
    pub(crate) fn told(&mut self) {
        let Self { counts, recent, beat, .. } = self;
        for (age, topics) in recent.iter().enumerate() {
            for topic in topics {
                // One that changed again is among the newer ones.
                let Some(count) = counts.get_mut(topic) else { continue };
                if count.changed + age as u64 == *beat {
                    count.listed.rotate_right(1);
                    count.listed[0] = count.last;
                }
            }
        }
        recent.rotate_right(1);
        recent[0].clear();
        self.beat += 1;
        self.list_all = false;
    }

    /// The topics that match, with how many were sent.
    pub(crate) fn matching(&self, patterns: &Patterns) -> Vec<(Topic, u64)> {
        let matching = self.counts.iter().filter(|(topic, _)| patterns.matches(topic));
        matching.map(|(topic, count)| (topic.clone(), count.last)).collect()
    }

    /// How many topics are counted.
    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }
}

/// The entries of a heartbeat, up to the first that is cut off.
pub(crate) fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first()?;
        let (topic, rest) = rest.split_at_checked(usize::from(*len))?;
        let (from, rest) = rest.split_first_chunk::<8>()?;
        let (to, rest) = rest.split_first_chunk::<8>()?;
        bytes = rest;
        Some(Entry { topic, from: u64::from_le_bytes(*from), to: u64::from_le_bytes(*to) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(sequences: &mut Sequences) -> Vec<(String, u64, u64)> {
        let mut out = Vec::new();
        sequences.write(&mut out, 1 << 20);
        sequences.told();
        let text = |topic: &[u8]| String::from_utf8(topic.to_vec()).unwrap();
        let mut list: Vec<_> =
            entries(&out).map(|entry| (text(entry.topic), entry.from, entry.to)).collect();
        list.sort();
        list
    }

    #[test]
    fn a_change_is_told_three_times_and_then_no_more() {
        let mut sequences = Sequences::new(10);
        let topic = Topic::new("a.b").unwrap();
        assert!(beat(&mut sequences).is_empty());
        for n in 1..=5 {
            assert_eq!(sequences.next(&topic), n);
            sequences.sent(&topic, 1);
        }
        for _ in 0..3 {
            assert!(sequences.is_due());
            assert_eq!(beat(&mut sequences), [("a.b".to_owned(), 0, 5)]);
        }
        assert!(!sequences.is_due());
        assert!(beat(&mut sequences).is_empty());
        sequences.list_all();
        assert!(sequences.is_due());
        assert_eq!(beat(&mut sequences).len(), 1);
    }

    #[test]
    fn an_entry_reaches_back_over_the_heartbeats_that_it_repeats() {
        let mut sequences = Sequences::new(10);
        let topic = Topic::new("a").unwrap();
        let mut before = Vec::new();
        for n in 0..10_u64 {
            sequences.sent(&topic, 1);
            let list = beat(&mut sequences);
            assert_eq!(list, [("a".to_owned(), n.saturating_sub(2), n + 1)]);
            before.push(n);
        }
    }

    #[test]
    fn a_topic_beyond_the_bound_is_not_counted() {
        let mut sequences = Sequences::new(1);
        sequences.sent(&Topic::new("a").unwrap(), 1);
        let other = Topic::new("b").unwrap();
        assert_eq!(sequences.next(&other), 0);
        sequences.sent(&other, 1);
        assert_eq!((sequences.next(&other), sequences.len()), (0, 1));
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let mut sequences = Sequences::new(10);
        sequences.sent(&Topic::new("a").unwrap(), 1);
        let mut out = Vec::new();
        sequences.write(&mut out, 1 << 20);
        for len in 0..out.len() {
            assert_eq!(entries(&out[..len]).count(), 0);
        }
    }
}
