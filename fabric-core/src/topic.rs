//! The name that an event is published under.

use std::sync::Arc;

use crate::name::{self, MAX_LEVELS, Rules, impl_name};
use crate::{Group, Result};

/// A validated dotted name such as `orders.eu.created`, cheap to clone.
///
/// A topic has 1 to 16 levels joined by `.`, each `[A-Za-z0-9_-]+`, and at most 200 bytes. The
/// first levels `dlq`, `_reply` and `_fabric` are reserved: they are valid, and no wildcard reaches
/// them from the first level of a [`Pattern`](crate::Pattern).
///
/// Clones share one string, and equality looks at the pointer before the text. The hash is that of
/// the text, so a map keyed by topics is searched by `&str`.
///
/// ```
/// use fabric_core::Topic;
///
/// let topic = Topic::new("orders.eu.created")?;
/// assert_eq!(topic.levels().collect::<Vec<_>>(), ["orders", "eu", "created"]);
///
/// let error = Topic::new("orders..created").unwrap_err();
/// assert_eq!(
///     error.message(),
///     "the topic \"orders..created\" has an empty level 2 at byte 7; no level is empty"
/// );
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The most bytes that a topic has.
    pub const MAX_BYTES: usize = 200;

    /// The most levels that a topic has.
    pub const MAX_LEVELS: usize = MAX_LEVELS;

    /// Makes a topic out of text that follows the rules.
    ///
    /// # Errors
    ///
    /// [`InvalidTopic`](crate::ErrorKind::InvalidTopic) where it breaks a rule; the message says
    /// which one, and at which byte.
    pub fn new(topic: impl AsRef<str>) -> Result<Self> {
        let topic = topic.as_ref();
        RULES.check(topic)?;
        Ok(Self(Arc::from(topic)))
    }

    /// Returns the topic of the dead letters of `group`: `dlq.<group>`.
    ///
    /// ```
    /// use fabric_core::{Group, Topic};
    ///
    /// let topic = Topic::dead_letters(&Group::new("billing")?);
    /// assert_eq!(topic, "dlq.billing");
    /// assert!(topic.is_reserved());
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    #[must_use]
    pub fn dead_letters(group: &Group) -> Self {
        Self(Arc::from(format!("dlq.{group}")))
    }

    /// Returns the topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the levels from the first to the last.
    #[must_use]
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.0.split('.')
    }

    /// Whether the first level is `dlq`, `_reply` or `_fabric`.
    ///
    /// ```
    /// use fabric_core::Topic;
    ///
    /// assert!(Topic::new("dlq.billing")?.is_reserved());
    /// assert!(!Topic::new("dlq-old.billing")?.is_reserved());
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        name::is_reserved(&self.0)
    }

    /// Whether both are clones of one topic: true means equal, false says nothing.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The shared text of a topic that is known to follow the rules.
    pub(crate) fn from_valid(topic: Arc<str>) -> Self {
        debug_assert!(RULES.check(&topic).is_ok(), "{topic:?} is not a topic");
        Self(topic)
    }

    /// The shared text.
    pub(crate) fn into_shared(self) -> Arc<str> {
        self.0
    }
}

impl_name!(Topic, "a topic");

/// What can become a topic: text, which is checked, or a topic.
pub trait IntoTopic {
    /// Makes the topic; one that is a [`Topic`] already is not checked again.
    ///
    /// # Errors
    ///
    /// [`InvalidTopic`](crate::ErrorKind::InvalidTopic) where text breaks a rule for topics.
    fn into_topic(self) -> Result<Topic>;
}

impl IntoTopic for Topic {
    fn into_topic(self) -> Result<Topic> {
        Ok(self)
    }
}

impl IntoTopic for &Topic {
    fn into_topic(self) -> Result<Topic> {
        Ok(self.clone())
    }
}

impl IntoTopic for &str {
    fn into_topic(self) -> Result<Topic> {
        Topic::new(self)
    }
}

impl IntoTopic for String {
    fn into_topic(self) -> Result<Topic> {
        Topic::new(self)
    }
}

impl IntoTopic for &String {
    fn into_topic(self) -> Result<Topic> {
        Topic::new(self)
    }
}

const RULES: Rules = Rules {
    noun: "topic",
    max_bytes: Topic::MAX_BYTES,
    max_levels: Topic::MAX_LEVELS,
    wildcards: false,
};

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};
    use std::hash::BuildHasher;

    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_topic_is_two_words_wide() {
        assert_eq!(size_of::<Topic>(), 16);
        assert_eq!(size_of::<Option<Topic>>(), 16);
    }

    #[test]
    fn good_names() {
        let sixteen = ["l"; 16].join(".");
        let longest = format!("{}.{}", "a".repeat(99), "b".repeat(100));
        for good in ["a", "A-Z_09", "orders.created", "dlq.x", "_reply", "-", &sixteen, &longest] {
            let topic = Topic::new(good).unwrap();
            assert_eq!(topic, good);
            assert_eq!(topic.levels().collect::<Vec<_>>().join("."), good);
        }
    }

    #[test]
    fn bad_names() {
        let seventeen = ["l"; 17].join(".");
        let too_long = "a".repeat(201);
        let table = [
            ("", "has 0 bytes"),
            (".", "empty level 1 at byte 0"),
            ("a.", "empty level 2 at byte 2"),
            (".a", "empty level 1 at byte 0"),
            ("a..b", "empty level 2 at byte 2"),
            ("a b", "' ' at byte 1 in level 1"),
            ("a.b/c", "'/' at byte 3 in level 2"),
            ("a.*", "'*' at byte 2 in level 2; a wildcard"),
            ("#", "'#' at byte 0 in level 1; a wildcard"),
            ("a.>", "'>' at byte 2 in level 2; a wildcard"),
            ("straße", "'ß' at byte 4 in level 1"),
            ("a\0", "'\\0' at byte 1 in level 1"),
            (&seventeen, "level 17 at byte 32"),
            (&too_long, "has 201 bytes"),
        ];
        for (bad, why) in table {
            let error = Topic::new(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidTopic);
            assert!(error.message().contains(why), "{bad:?}: {error}");
        }
    }

    #[test]
    fn reserved_is_the_whole_first_level() {
        for reserved in ["dlq", "dlq.billing", "_reply.x.y", "_fabric", "_fabric.to.g"] {
            assert!(Topic::new(reserved).unwrap().is_reserved(), "{reserved}");
        }
        for free in ["dlqs", "dlq-a.b", "a.dlq", "_replys.x", "_", "_fabrics", "DLQ.x", "d"] {
            assert!(!Topic::new(free).unwrap().is_reserved(), "{free}");
        }
    }

    #[test]
    fn the_dead_letters_of_the_longest_group_are_a_topic() {
        let group = Group::new("g".repeat(Group::MAX_BYTES)).unwrap();
        let topic = Topic::dead_letters(&group);
        assert_eq!(Topic::new(topic.as_str()).unwrap(), topic);
    }

    #[test]
    fn clones_are_the_same_and_equal_text_is_equal() {
        let topic = Topic::new("a.b").unwrap();
        let twin = Topic::new("a.b").unwrap();
        assert!(topic.same_as(&topic.clone()));
        assert!(!topic.same_as(&twin));
        assert_eq!(topic, twin);
        assert_ne!(topic, Topic::new("a.c").unwrap());
    }

    #[test]
    fn a_map_of_topics_is_searched_by_text() {
        let topic = Topic::new("a.b").unwrap();
        let map = HashMap::from([(topic.clone(), 7)]);
        assert_eq!(map.get("a.b"), Some(&7));
        let state = std::hash::RandomState::new();
        assert_eq!(state.hash_one(&topic), state.hash_one("a.b"));
        assert!(BTreeSet::from([topic]).contains("a.b"));
    }

    #[test]
    fn serde_validates() {
        let topic: Topic = serde_json::from_str(r#""a.b""#).unwrap();
        assert_eq!(serde_json::to_string(&topic).unwrap(), r#""a.b""#);
        assert!(serde_json::from_str::<Topic>(r#""a.*""#).is_err());
        assert!(serde_json::from_str::<Topic>("7").is_err());
    }

    #[test]
    fn text_and_topics_become_topics() {
        let topic = Topic::new("a.b").unwrap();
        assert!((&topic).into_topic().unwrap().same_as(&topic));
        assert!(topic.clone().into_topic().unwrap().same_as(&topic));
        assert_eq!("a.b".into_topic().unwrap(), topic);
        assert_eq!(String::from("a.b").into_topic().unwrap(), topic);
        assert_eq!((&String::from("a.b")).into_topic().unwrap(), topic);
        assert_eq!("a.*".into_topic().unwrap_err().kind(), ErrorKind::InvalidTopic);
    }

    /// The rules once more, in the plainest words.
    fn is_topic(text: &str) -> bool {
        let levels: Vec<&str> = text.split('.').collect();
        let word = |c: char| matches!(c, 'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '-');
        text.len() <= 200
            && levels.len() <= 16
            && levels.iter().all(|level| !level.is_empty() && level.chars().all(word))
    }

    proptest! {
        #[test]
        fn text_is_a_topic_that_displays_the_same_or_refused(
            text in prop_oneof![".*", "[a.*#>-]{0,40}", "([a-z_-]{1,14}\\.){0,17}[a-z]{1,3}"],
        ) {
            match Topic::new(&text) {
                Ok(topic) => {
                    prop_assert!(is_topic(&text));
                    prop_assert_eq!(topic.to_string(), text);
                }
                Err(error) => {
                    prop_assert!(!is_topic(&text), "{}", error);
                    prop_assert_eq!(error.kind(), ErrorKind::InvalidTopic);
                }
            }
        }
    }
}
