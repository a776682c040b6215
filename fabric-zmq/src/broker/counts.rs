//! What a broker counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use serde::Serialize;

/// What a broker has done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BrokerStats {
    /// For how long it has run.
    pub uptime: Duration,
    /// Messages taken from publishers.
    pub messages: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Messages of Fabric's own among them: heartbeats, requests, answers.
    pub control: u64,
    /// Messages that are none of ours.
    pub foreign: u64,
    /// Messages that came by links with other brokers.
    pub linked: u64,
    /// Messages that had come before, by another way.
    pub duplicates: u64,
    /// Requests that were routed to a responder.
    pub requests: u64,
    /// Requests that nobody answers.
    pub unanswered: u64,
    /// Publishers that are connected.
    pub publishers: u64,
    /// Subscribers that are connected.
    pub subscribers: u64,
    /// Subscriptions that are in force.
    pub subscriptions: u64,
    /// Patterns for which a responder is registered.
    pub responders: u64,
    /// Connections that were not let in.
    pub refused: u64,
    /// The topics, the busiest first.
    pub topics: Vec<TopicStats>,
}

/// What came on one topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TopicStats {
    /// The topic; empty for all those together that are not counted each for itself.
    pub topic: String,
    /// Its events.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Events in a second, of late.
    pub rate: f64,
}

/// The loop's own counts; nobody else reads them.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) stats: BrokerStats,
    /// By name, the place in `topics`.
    places: HashMap<Vec<u8>, usize, RandomState>,
    topics: Vec<(Vec<u8>, Topic)>,
    /// The topic that came last: the next is the same, often enough.
    last: usize,
    others: Topic,
    max_topics: usize,
    began: Instant,
    looked: Instant,
}

/// One topic's counts.
#[derive(Debug, Default)]
pub(super) struct Topic {
    pub(super) events: u64,
    pub(super) bytes: u64,
    before: u64,
    rate: f64,
}

/// How long a rate is measured over.
const RATE: Duration = Duration::from_secs(1);
/// The most topics that a snapshot tells of.
const SHOWN: usize = 1000;

impl Counts {
    pub(super) fn new(max_topics: usize) -> Self {
        let now = Instant::now();
        Self {
            stats: BrokerStats::default(),
            places: HashMap::default(),
            topics: Vec::new(),
            last: 0,
            others: Topic::default(),
            max_topics,
            began: now,
            looked: now,
        }
    }

    /// The counts of a topic.
    pub(super) fn topic(&mut self, name: &[u8]) -> &mut Topic {
        let is_last = self.topics.get(self.last).is_some_and(|(last, _)| last == name);
        if !is_last {
            let place = match self.places.entry_ref(name) {
                EntryRef::Occupied(known) => *known.get(),
                EntryRef::Vacant(_) if self.topics.len() >= self.max_topics => {
                    return &mut self.others;
                }
                EntryRef::Vacant(new) => {
                    self.topics.push((name.to_owned(), Topic::default()));
                    *new.insert(self.topics.len() - 1)
                }
            };
            self.last = place;
        }
        &mut self.topics[self.last].1
    }

    /// Gives others a look, where the last one was long enough ago.
    pub(super) fn show(&mut self, shared: &Shared, now: Instant, anyway: bool) {
        let elapsed = now - self.looked;
        if elapsed < RATE && !anyway {
            return;
        }
        self.looked = now;
        let mut topics: Vec<TopicStats> = Vec::with_capacity(self.topics.len().min(SHOWN) + 1);
        let named = self.topics.iter_mut().map(|(name, topic)| (&name[..], topic));
        for (name, topic) in named.chain([(&b""[..], &mut self.others)]) {
            if elapsed >= RATE {
                topic.rate = (topic.events - topic.before) as f64 / elapsed.as_secs_f64();
                topic.before = topic.events;
            }
            if topic.events > 0 {
                topics.push(TopicStats {
                    topic: String::from_utf8_lossy(name).into_owned(),
                    events: topic.events,
                    bytes: topic.bytes,
                    rate: topic.rate,
                });
            }
        }
        topics.sort_by(|a, b| b.events.cmp(&a.events).then_with(|| a.topic.cmp(&b.topic)));
        topics.truncate(SHOWN);
        let stats = BrokerStats { uptime: now - self.began, topics, ..self.stats.clone() };
        *shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

/// What the loop shows to others.
#[derive(Debug)]
pub(super) struct Shared {
    stats: Mutex<BrokerStats>,
    began: Instant,
    /// When the loop last turned, in milliseconds since it began.
    turned: AtomicU64,
    pub(super) running: AtomicBool,
    pub(super) stopping: AtomicBool,
    pub(super) drained: AtomicBool,
    /// Somebody wants a look now.
    pub(super) asked: AtomicBool,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            stats: Mutex::default(),
            began: Instant::now(),
            turned: AtomicU64::new(0),
            running: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            asked: AtomicBool::new(false),
        }
    }

    pub(super) fn turn(&self, now: Instant) {
        let millis = u64::try_from((now - self.began).as_millis()).unwrap_or(u64::MAX);
        self.turned.store(millis, Ordering::Release);
    }

    pub(super) fn idle(&self) -> Duration {
        let turned = Duration::from_millis(self.turned.load(Ordering::Acquire));
        self.began.elapsed().saturating_sub(turned)
    }

    pub(super) fn snapshot(&self) -> BrokerStats {
        self.asked.store(true, Ordering::Release);
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_beyond_the_bound_are_counted_together() {
        let mut counts = Counts::new(2);
        for (n, topic) in ["a", "b", "c", "d", "a"].into_iter().enumerate() {
            let topic = counts.topic(topic.as_bytes());
            topic.events += 1;
            topic.bytes += n as u64;
        }
        let shared = Shared::new();
        counts.show(&shared, Instant::now() + RATE, false);
        let stats = shared.snapshot();
        let listed: Vec<_> =
            stats.topics.iter().map(|it| (it.topic.as_str(), it.events, it.bytes)).collect();
        assert_eq!(listed, [("", 2, 5), ("a", 2, 4), ("b", 1, 1)]);
        assert!(stats.topics[0].rate > 0.0);
    }
}
