//! Topics that are known to be and hold nothing: the server forgets a subject with its last event.

use std::collections::{HashSet, VecDeque};

use fabric_core::Topic;

/// How many are remembered.
const BOUND: usize = 4096;

/// The last topics that this client emptied.
#[derive(Debug, Default)]
pub(crate) struct Purged {
    known: HashSet<Topic>,
    order: VecDeque<Topic>,
}

impl Purged {
    pub(crate) fn insert(&mut self, topic: &Topic) {
        if !self.known.insert(topic.clone()) {
            return;
        }
        self.order.push_back(topic.clone());
        if self.order.len() > BOUND
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, topic: &Topic) -> bool {
        self.known.contains(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_last_are_remembered() {
        let topic = |n: usize| Topic::new(format!("t{n}")).unwrap();
        let mut purged = Purged::default();
        (0..BOUND + 10).for_each(|n| purged.insert(&topic(n)));
        (0..3).for_each(|_| purged.insert(&topic(BOUND)));
        assert!(!purged.contains(&topic(9)) && purged.contains(&topic(10)));
        assert_eq!((purged.known.len(), purged.order.len()), (BOUND, BOUND));
    }
}
