//! Which topics a subscription wants: names with wildcards.

use std::sync::Arc;

use crate::name::{self, Levels, MAX_LEVELS, Rules, impl_name};
use crate::{Result, Topic};

/// A validated topic in which levels may be wildcards, cheap to clone.
///
/// | wildcard | stands for | where |
/// |---|---|---|
/// | `*` | exactly one level | anywhere |
/// | `#` | zero or more levels | anywhere |
/// | `>` | one or more levels | last only |
///
/// A wildcard is a whole level, and the limits are those of a [`Topic`]: 16 levels, 200 bytes. A
/// pattern whose *first* level is a wildcard never matches a reserved topic (`dlq.…`, `_reply.…`,
/// `_fabric.…`); one that names the first level does.
///
/// ```
/// use fabric_core::{Pattern, Topic};
///
/// let market = Pattern::new("events.market.>")?;
/// assert!(market.matches(&Topic::new("events.market.eu.open")?));
/// assert!(!market.matches(&Topic::new("events.market")?));
///
/// let dead = Topic::new("dlq.billing")?;
/// assert!(!Pattern::new("#")?.matches(&dead));
/// assert!(Pattern::new("dlq.*")?.matches(&dead));
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// The most bytes that a pattern has.
    pub const MAX_BYTES: usize = Topic::MAX_BYTES;

    /// The most levels that a pattern has.
    pub const MAX_LEVELS: usize = MAX_LEVELS;

    /// Makes a pattern out of text that follows the rules.
    ///
    /// # Errors
    ///
    /// [`InvalidTopic`](crate::ErrorKind::InvalidTopic) where it breaks a rule; the message says
    /// which one, and at which byte.
    pub fn new(pattern: impl AsRef<str>) -> Result<Self> {
        let pattern = pattern.as_ref();
        RULES.check(pattern)?;
        Ok(Self(Arc::from(pattern)))
    }

    /// Returns the pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the levels, wildcards among them, from the first to the last.
    #[must_use]
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.0.split('.')
    }

    /// Whether it has no wildcard: it matches the topic of the same text and no other.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !name::has_wildcard(&self.0)
    }

    /// Returns the one topic that a literal pattern matches, without copying the text.
    ///
    /// ```
    /// use fabric_core::{Pattern, Topic};
    ///
    /// assert_eq!(Pattern::new("a.b")?.as_topic(), Some(Topic::new("a.b")?));
    /// assert_eq!(Pattern::new("a.*")?.as_topic(), None);
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    #[must_use]
    pub fn as_topic(&self) -> Option<Topic> {
        self.is_literal().then(|| Topic::from_valid(Arc::clone(&self.0)))
    }

    /// Returns the levels before the first wildcard: all of a literal pattern, `""` where the first
    /// level is a wildcard.
    ///
    /// Every topic that matches starts with these levels.
    ///
    /// ```
    /// use fabric_core::Pattern;
    ///
    /// assert_eq!(Pattern::new("orders.eu.*.created")?.literal_prefix(), "orders.eu");
    /// assert_eq!(Pattern::new("#.created")?.literal_prefix(), "");
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        match self.0.find(['*', '#', '>']) {
            // The byte before a wildcard is the dot that joins it to its predecessor.
            Some(wildcard) => &self.0[..wildcard.saturating_sub(1)],
            None => &self.0,
        }
    }

    /// Whether `topic` matches, without allocating and in at most levels × levels steps, however
    /// many wildcards there are.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        self.matches_str(topic.as_str())
    }

    /// Whether the topic of this text matches.
    ///
    /// The text is not checked again: the answer for one that is no topic means nothing.
    #[must_use]
    pub fn matches_str(&self, topic: &str) -> bool {
        let wild_start = self.0.starts_with(['*', '#', '>']);
        !(wild_start && name::is_reserved(topic)) && levels_match(&self.0, topic)
    }
}

impl_name!(Pattern, "a pattern of topics");

impl From<Topic> for Pattern {
    fn from(topic: Topic) -> Self {
        Self(topic.into_shared())
    }
}

impl From<&Topic> for Pattern {
    fn from(topic: &Topic) -> Self {
        Self::from(topic.clone())
    }
}

/// What can become a pattern: text, which is checked, a topic or a pattern.
pub trait IntoPattern {
    /// Makes the pattern; what is valid already is not checked again.
    ///
    /// # Errors
    ///
    /// [`InvalidTopic`](crate::ErrorKind::InvalidTopic) where text breaks a rule for patterns.
    fn into_pattern(self) -> Result<Pattern>;
}

impl IntoPattern for Pattern {
    fn into_pattern(self) -> Result<Pattern> {
        Ok(self)
    }
}

impl IntoPattern for &Pattern {
    fn into_pattern(self) -> Result<Pattern> {
        Ok(self.clone())
    }
}

impl IntoPattern for Topic {
    fn into_pattern(self) -> Result<Pattern> {
        Ok(self.into())
    }
}

impl IntoPattern for &Topic {
    fn into_pattern(self) -> Result<Pattern> {
        Ok(self.into())
    }
}

impl IntoPattern for &str {
    fn into_pattern(self) -> Result<Pattern> {
        Pattern::new(self)
    }
}

impl IntoPattern for String {
    fn into_pattern(self) -> Result<Pattern> {
        Pattern::new(self)
    }
}

impl IntoPattern for &String {
    fn into_pattern(self) -> Result<Pattern> {
        Pattern::new(self)
    }
}

/// The greedy search: after a mismatch only the last `#` takes one level more, since what an
/// earlier one could take, the last one can take too.
fn levels_match(pattern: &str, topic: &str) -> bool {
    let (mut pattern, mut topic) = (Levels::of(pattern), Levels::of(topic));
    let mut retry: Option<(Levels<'_>, Levels<'_>)> = None;
    loop {
        let untaken = topic;
        match (pattern.next(), topic.next()) {
            (Some("#"), _) if pattern.is_empty() => return true,
            (Some("#"), _) => {
                topic = untaken;
                retry = Some((pattern, untaken));
            }
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            // The topic ended first: another split would leave even less of it.
            (Some(_), None) => return false,
            (Some(_) | None, Some(_)) => {
                let Some((after, from)) = &mut retry else {
                    return false;
                };
                from.next();
                (pattern, topic) = (*after, *from);
            }
        }
    }
}

const RULES: Rules = Rules {
    noun: "pattern",
    max_bytes: Pattern::MAX_BYTES,
    max_levels: Pattern::MAX_LEVELS,
    wildcards: true,
};

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_pattern_is_two_words_wide() {
        assert_eq!(size_of::<Pattern>(), 16);
    }

    #[test]
    fn good_patterns() {
        let sixteen = ["#"; 16].join(".");
        for good in ["a", "*", "#", ">", "a.*.b", "#.a.#", "a.>", "#.>", "*.*", "dlq.*", &sixteen] {
            assert_eq!(Pattern::new(good).unwrap(), good);
        }
    }

    #[test]
    fn bad_patterns() {
        let seventeen = ["#"; 17].join(".");
        let too_long = format!("{}.#", "a".repeat(199));
        let table = [
            ("", "has 0 bytes"),
            ("*.", "empty level 2"),
            ("a.b*", "'*' at byte 3 in level 2; a wildcard is a level"),
            ("**", "'*' at byte 0 in level 1; a wildcard is a level"),
            ("#a", "'#' at byte 0 in level 1; a wildcard is a level"),
            (">.a", "'>' at byte 0 in level 1; `>` stands last only"),
            ("a.>.>", "'>' at byte 2 in level 2; `>` stands last only"),
            ("a.>>", "'>' at byte 2 in level 2; a wildcard is a level"),
            ("a,b", "',' at byte 1 in level 1"),
            (&seventeen, "level 17"),
            (&too_long, "has 201 bytes"),
        ];
        for (bad, why) in table {
            let error = Pattern::new(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidTopic);
            assert!(error.message().contains(why), "{bad:?}: {error}");
        }
    }

    #[test]
    fn what_matches_and_what_does_not() {
        let table = [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.b", "a", false),
            ("a", "a.b", false),
            ("a", "ab", false),
            ("*", "a", true),
            ("*", "a.b", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.c", false),
            ("a.*", "a.b.c", false),
            ("#", "a", true),
            ("#", "a.b.c", true),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("a.#", "ab", false),
            ("#.c", "c", true),
            ("#.c", "a.b.c", true),
            ("#.c", "c.b", false),
            ("a.#.c", "a.c", true),
            ("a.#.c", "a.c.b.c", true),
            ("#.a.#.b.#", "x.b.a.x.b", true),
            ("#.a.#.b.#", "x.b.x.a.x", false),
            ("#.*", "a", true),
            ("#.*.#.*", "a", false),
            (">", "a", true),
            (">", "a.b", true),
            ("events.market.>", "events.market.eu", true),
            ("events.market.>", "events.market.eu.open", true),
            ("events.market.>", "events.market", false),
            ("events.market.>", "events.markets.eu", false),
            ("#.>", "a", true),
            ("a.#.>", "a", false),
            ("*.>", "a", false),
        ];
        for (pattern, topic, expected) in table {
            assert_eq!(matches(pattern, topic), expected, "{pattern} on {topic}");
        }
    }

    #[test]
    fn a_wildcard_in_the_first_level_never_matches_a_reserved_topic() {
        for topic in ["dlq", "dlq.x", "_reply.x", "_fabric", "_fabric.x"] {
            let first = topic.split('.').next().unwrap();
            for wild in ["#", ">", "*", "*.x", "*.#", "#.x", "#.*", "#.dlq.#", "#.>"] {
                assert!(!matches(wild, topic), "{wild} on {topic}");
            }
            assert!(matches(topic, topic));
            assert!(matches(&format!("{first}.#"), topic));
            assert_eq!(matches(&format!("{first}.*"), topic), topic.contains('.'));
            assert_eq!(matches(&format!("{first}.>"), topic), topic.contains('.'));
        }
        assert!(matches("*.x", "dlqs.x"));
        assert!(matches("#.dlq", "a.dlq"));
    }

    #[test]
    fn sixteen_levels_of_hostile_wildcards_end() {
        // A search that tries every split takes years for these.
        let topic = format!("{}b", "a.".repeat(15));
        assert!(!matches(&format!("{}c", "#.a.".repeat(7)), &topic));
        assert!(matches(&format!("{}b", "#.a.".repeat(7)), &topic));
        assert!(!matches(&format!("{}c", "#.*.".repeat(7)), &topic));
        assert!(!matches(&format!("{}a", "#.".repeat(15)), &topic));
    }

    #[test]
    fn a_literal_is_a_topic() {
        let topic = Topic::new("a.b").unwrap();
        let pattern = Pattern::from(&topic);
        assert!(pattern.is_literal());
        assert!(pattern.as_topic().unwrap().same_as(&topic));
        for wild in ["*", "a.#", "a.>"] {
            let pattern = Pattern::new(wild).unwrap();
            assert!(!pattern.is_literal());
            assert_eq!(pattern.as_topic(), None);
        }
    }

    #[test]
    fn the_literal_prefix_is_of_whole_levels() {
        let table = [("a.b", "a.b"), ("*", ""), ("#.a", ""), ("a.>", "a"), ("a.b.*.c.#", "a.b")];
        for (pattern, prefix) in table {
            assert_eq!(Pattern::new(pattern).unwrap().literal_prefix(), prefix);
        }
    }

    #[test]
    fn serde_validates() {
        let pattern: Pattern = serde_json::from_str(r##""b.#""##).unwrap();
        assert_eq!(serde_json::to_string(&pattern).unwrap(), r##""b.#""##);
        assert!(serde_json::from_str::<Pattern>(r#""a.>.b""#).is_err());
    }

    fn matches(pattern: &str, topic: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(&Topic::new(topic).unwrap())
    }

    /// The definition, word by word, and exponential.
    pub(crate) fn by_definition(pattern: &str, topic: &str) -> bool {
        fn levels(pattern: &[&str], topic: &[&str]) -> bool {
            let Some((first, rest)) = pattern.split_first() else {
                return topic.is_empty();
            };
            match *first {
                "#" => (0..=topic.len()).any(|taken| levels(rest, &topic[taken..])),
                ">" => !topic.is_empty(),
                "*" => !topic.is_empty() && levels(rest, &topic[1..]),
                level => topic.first() == Some(&level) && levels(rest, &topic[1..]),
            }
        }
        let pattern: Vec<_> = pattern.split('.').collect();
        let topic: Vec<_> = topic.split('.').collect();
        let hidden = ["dlq", "_reply", "_fabric"].contains(&topic[0])
            && ["*", "#", ">"].contains(&pattern[0]);
        !hidden && levels(&pattern, &topic)
    }

    /// Topics over few words, so that they meet the patterns.
    pub(crate) fn any_topic() -> impl Strategy<Value = String> {
        let level = select(&["a", "b", "c", "ab", "a", "b", "dlq", "_reply"]);
        prop::collection::vec(level, 1..=9).prop_map(|levels| levels.join("."))
    }

    /// Patterns over the same words.
    pub(crate) fn any_pattern() -> impl Strategy<Value = String> {
        let level = select(&["a", "b", "c", "ab", "dlq", "*", "*", "#", "#", "#"]);
        let last = select(&["a", "b", "*", "#", ">", "dlq"]);
        (prop::collection::vec(level, 0..=7), last).prop_map(|(mut levels, last)| {
            levels.push(last);
            levels.join(".")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn matching_follows_the_definition(pattern in any_pattern(), topic in any_topic()) {
            prop_assert_eq!(matches(&pattern, &topic), by_definition(&pattern, &topic));
        }

        #[test]
        fn what_matches_starts_with_the_literal_prefix(
            pattern in any_pattern(),
            topic in any_topic(),
        ) {
            let parsed = Pattern::new(&pattern).unwrap();
            let prefix = parsed.literal_prefix();
            prop_assert_eq!(prefix == pattern, parsed.is_literal());
            if matches(&pattern, &topic) && !prefix.is_empty() {
                let rest = topic.strip_prefix(prefix);
                prop_assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
            }
        }

        #[test]
        fn text_is_a_pattern_that_displays_the_same_or_refused(
            text in prop_oneof![".*", "[a.*#>-]{0,12}", "((#|\\*|[a-z]{1,14})\\.){0,17}[>a]"],
        ) {
            match Pattern::new(&text) {
                Ok(pattern) => {
                    prop_assert_eq!(pattern.to_string(), &*text);
                    prop_assert_eq!(pattern.is_literal(), Topic::new(&text).is_ok());
                }
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::InvalidTopic);
                    // Without its wildcards, it is no topic either, or a wildcard is misplaced.
                    let plain = text.replace(['*', '#', '>'], "w");
                    let misplaced = text.split('.').rev().enumerate().any(|(from_end, level)| {
                        name::has_wildcard(level)
                            && (level.len() > 1 || (level == ">" && from_end > 0))
                    });
                    prop_assert!(misplaced || Topic::new(plain).is_err(), "{}", error);
                }
            }
        }
    }
}
