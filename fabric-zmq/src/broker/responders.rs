//! Who answers what: known from subscriptions, which end with their connection.

use std::time::{Duration, Instant};

use fabric_core::{Pattern, PatternTrie};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use uuid::Uuid;

use crate::control::Registration;

/// How long what another broker told is believed.
const BELIEVED: Duration = Duration::from_secs(3);

/// The responders of this broker, and what others told of theirs.
#[derive(Default)]
pub(super) struct Responders {
    trie: PatternTrie<Uuid>,
    known: HashMap<Uuid, Known, RandomState>,
    elsewhere: HashMap<Uuid, (Vec<Pattern>, Instant), RandomState>,
    turn: usize,
    /// They changed since the others were told.
    pub(super) changed: bool,
}

struct Known {
    registration: Registration,
    patterns: usize,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To a responder, under this topic.
    Here(String),
    /// To another broker.
    There(Uuid),
}

impl Responders {
    pub(super) fn add(&mut self, registration: Registration) {
        let id = registration.id;
        self.trie.insert(&registration.pattern, id);
        self.known
            .entry(id)
            .and_modify(|known| known.patterns += 1)
            .or_insert(Known { registration, patterns: 1 });
        self.changed = true;
    }

    pub(super) fn remove(&mut self, registration: &Registration) {
        if !self.trie.remove(&registration.pattern, &registration.id) {
            return;
        }
        self.changed = true;
        if let Some(known) = self.known.get_mut(&registration.id) {
            known.patterns -= 1;
            if known.patterns == 0 {
                self.known.remove(&registration.id);
            }
        }
    }

    /// How many patterns are registered.
    pub(super) fn len(&self) -> usize {
        self.trie.len()
    }

    /// Who answers a request on this topic: each of those who can in turn, those here first.
    pub(super) fn find(&mut self, topic: &str, now: Option<Instant>) -> Option<Way> {
        let mut able = Vec::new();
        self.trie.for_each_match(topic, |id| able.push(*id));
        able.sort_unstable();
        able.dedup();
        self.turn = self.turn.wrapping_add(1);
        if !able.is_empty() {
            let known = self.known.get(&able[self.turn % able.len()])?;
            return Some(Way::Here(known.registration.address()));
        }
        let now = now?;
        self.elsewhere
            .iter()
            .find(|(_, (patterns, since))| {
                now - *since < BELIEVED && patterns.iter().any(|it| it.matches_str(topic))
            })
            .map(|(broker, _)| Way::There(*broker))
    }

    /// The patterns that are answered here, one a line, for other brokers.
    pub(super) fn write(&mut self) -> String {
        self.changed = false;
        let mut patterns: Vec<&str> =
            self.known.values().map(|it| it.registration.pattern.as_str()).collect();
        patterns.sort_unstable();
        patterns.dedup();
        patterns.join("\n")
    }

    /// What another broker tells of its own.
    pub(super) fn told(&mut self, broker: Uuid, list: &str, now: Instant) {
        let patterns = list.lines().filter_map(|line| Pattern::new(line).ok()).collect();
        self.elsewhere.retain(|_, (_, since)| now - *since < BELIEVED);
        self.elsewhere.insert(broker, (patterns, now));
    }
}

#[cfg(test)]
mod tests {
    use fabric_core::Group;

    use super::*;

    fn registration(id: u128, pattern: &str) -> Registration {
        Registration {
            client: Uuid::from_u128(9),
            id: Uuid::from_u128(id),
            name: Group::new("n").unwrap(),
            pattern: Pattern::new(pattern).unwrap(),
        }
    }

    #[test]
    fn those_who_can_take_turns_and_the_gone_get_nothing() {
        let mut responders = Responders::default();
        let now = Instant::now();
        assert_eq!(responders.find("a", Some(now)), None);
        responders.add(registration(1, "a"));
        responders.add(registration(2, "#"));
        let ways: Vec<_> = (0..4).map(|_| responders.find("a", Some(now)).unwrap()).collect();
        assert_ne!(ways[0], ways[1]);
        assert_eq!(ways[0], ways[2]);
        responders.remove(&registration(1, "a"));
        responders.remove(&registration(1, "a"));
        let left = Way::Here(registration(2, "#").address());
        assert_eq!(responders.find("a", Some(now)), Some(left));
        responders.remove(&registration(2, "#"));
        assert_eq!((responders.find("a", Some(now)), responders.len()), (None, 0));
    }

    #[test]
    fn what_another_broker_tells_is_believed_for_a_while() {
        let mut responders = Responders::default();
        let now = Instant::now();
        let there = Uuid::from_u128(5);
        responders.told(there, "a.*\nb\n..\n", now);
        assert_eq!(responders.find("a.x", Some(now)), Some(Way::There(there)));
        assert_eq!(responders.find("c", Some(now)), None);
        assert_eq!(responders.find("b", None), None, "a request goes by one link at most");
        assert_eq!(responders.find("b", Some(now + BELIEVED)), None);
    }
}
