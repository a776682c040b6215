//! Which topics there are: the broker's own patterns are too slow, so we ask and match ourselves.

use std::collections::HashMap;
use std::sync::Arc;

use fabric_core::{Patterns, Topic};

use crate::names::{Names, folded};
use crate::sys::Described;

/// One topic as it is on the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicMeta {
    /// Its name there.
    pub(crate) name: String,
    /// Its name here; none for what is not this fabric's.
    pub(crate) topic: Option<Topic>,
    /// Which life of the name it is.
    pub(crate) id: u64,
    /// How many partitions it has.
    pub(crate) partitions: i32,
}

/// The topics that there were when the broker was last asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    topics: HashMap<String, Arc<TopicMeta>>,
    folded: HashMap<String, String>,
}

impl Catalogue {
    /// What the broker described.
    pub(crate) fn new(described: impl IntoIterator<Item = Described>, names: &Names) -> Self {
        let mut catalogue = Self::default();
        for Described { name, id, partitions } in described {
            catalogue.folded.insert(folded(&name), name.clone());
            let topic = names.parse(&name);
            let meta = TopicMeta { name: name.clone(), topic, id, partitions };
            catalogue.topics.insert(name, Arc::new(meta));
        }
        catalogue
    }

    /// The topic of this name on the broker.
    pub(crate) fn topic(&self, name: &str) -> Option<&Arc<TopicMeta>> {
        self.topics.get(name)
    }

    /// The topic that the broker would take this one for.
    pub(crate) fn twin(&self, name: &str) -> Option<&str> {
        let twin = self.folded.get(&folded(name))?;
        (twin != name).then_some(twin)
    }

    /// The topics that match.
    pub(crate) fn matching<'a>(
        &'a self,
        patterns: &'a Patterns,
    ) -> impl Iterator<Item = &'a Arc<TopicMeta>> {
        self.topics
            .values()
            .filter(move |meta| meta.topic.as_ref().is_some_and(|topic| patterns.matches(topic)))
    }

    /// Every topic.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<TopicMeta>> {
        self.topics.values()
    }

    /// Whether a topic for users' events has more than one partition, so that there is no order
    /// over all of it.
    pub(crate) fn has_partitioned(&self) -> bool {
        let mut own = self
            .topics
            .values()
            .filter(|meta| meta.topic.as_ref().is_some_and(|topic| !topic.is_reserved()));
        own.any(|meta| meta.partitions > 1)
    }
}

#[cfg(test)]
mod tests {
    use fabric_core::IntoPatterns as _;

    use super::*;

    fn catalogue(names: &[(&str, i32)]) -> Catalogue {
        let described = names.iter().map(|(name, partitions)| Described {
            name: (*name).to_owned(),
            id: 1,
            partitions: *partitions,
        });
        Catalogue::new(described, &Names::new(None))
    }

    #[test]
    fn topics_are_matched_and_those_of_others_are_not_seen() {
        let catalogue = catalogue(&[
            ("orders.created", 1),
            ("orders.eu.created", 1),
            ("dlq.g", 3),
            ("__consumer_offsets", 50),
            ("not a topic", 1),
        ]);
        let matching = |pattern: &str| {
            let patterns = pattern.into_patterns().unwrap();
            let mut names: Vec<_> =
                catalogue.matching(&patterns).map(|meta| meta.name.clone()).collect();
            names.sort();
            names
        };
        assert_eq!(matching("orders.*"), ["orders.created"]);
        assert_eq!(matching("#"), ["orders.created", "orders.eu.created"]);
        assert_eq!(matching("dlq.*"), ["dlq.g"]);
        assert!(!catalogue.has_partitioned(), "dead letters and the broker's own do not count");
    }

    #[test]
    fn a_topic_that_folds_with_another_is_known() {
        let catalogue = catalogue(&[("a_b.c", 2)]);
        assert_eq!(catalogue.twin("a.b_c"), Some("a_b.c"));
        assert_eq!(catalogue.twin("a_b.c"), None);
        assert!(catalogue.has_partitioned());
    }
}
