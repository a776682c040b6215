//! Several patterns at once: what a subscription or a group reads.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, ErrorKind, IntoPattern, Pattern, Result, Topic};

/// A set of patterns, never empty, sorted by text and without duplicates; cheap to clone.
///
/// A topic matches the set if it matches any of its patterns. Sets made of the same patterns in
/// another order are equal. As text the patterns are joined by commas; serde sees a list.
///
/// ```
/// use fabric_core::{IntoPatterns, Patterns, Topic};
///
/// let patterns = ["orders.*", "audit.#", "orders.*"].into_patterns()?;
/// assert_eq!(patterns.to_string(), "audit.#,orders.*");
/// assert_eq!(patterns, "orders.*,audit.#".parse::<Patterns>()?);
/// assert!(patterns.matches(&Topic::new("audit")?));
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Patterns(Arc<[Pattern]>);

impl Patterns {
    /// Makes a set of these patterns.
    ///
    /// # Errors
    ///
    /// [`InvalidTopic`](ErrorKind::InvalidTopic) where there is none.
    pub fn new(patterns: impl IntoIterator<Item = Pattern>) -> Result<Self> {
        let mut patterns: Vec<_> = patterns.into_iter().collect();
        if patterns.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidTopic,
                "the list of patterns is empty; name at least one, such as `#` for everything",
            ));
        }
        patterns.sort_unstable();
        patterns.dedup();
        Ok(Self(Arc::from(patterns)))
    }

    /// Returns the patterns in the order of their text.
    #[must_use]
    pub fn as_slice(&self) -> &[Pattern] {
        &self.0
    }

    /// Returns the patterns in the order of their text.
    pub fn iter(&self) -> std::slice::Iter<'_, Pattern> {
        self.0.iter()
    }

    /// Whether `topic` matches any of them.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        self.iter().any(|pattern| pattern.matches(topic))
    }

    /// Whether the topic of this text matches any of them; see [`Pattern::matches_str`].
    #[must_use]
    pub fn matches_str(&self, topic: &str) -> bool {
        self.iter().any(|pattern| pattern.matches_str(topic))
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, pattern) in self.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{pattern}")?;
        }
        Ok(())
    }
}

impl FromStr for Patterns {
    type Err = Error;

    fn from_str(patterns: &str) -> Result<Self> {
        collect(patterns.split(','))
    }
}

impl From<Pattern> for Patterns {
    fn from(pattern: Pattern) -> Self {
        Self(Arc::from([pattern]))
    }
}

impl From<Topic> for Patterns {
    fn from(topic: Topic) -> Self {
        Self::from(Pattern::from(topic))
    }
}

impl<'a> IntoIterator for &'a Patterns {
    type Item = &'a Pattern;
    type IntoIter = std::slice::Iter<'a, Pattern>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Serialize for Patterns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let patterns = Vec::<Pattern>::deserialize(deserializer)?;
        Self::new(patterns).map_err(serde::de::Error::custom)
    }
}

/// What can become a set of patterns: one of whatever is [`IntoPattern`], or an array, slice or
/// vector of it.
///
/// ```
/// use fabric_core::{IntoPatterns, Topic};
///
/// assert_eq!("orders.*".into_patterns()?.as_slice().len(), 1);
/// assert_eq!(["orders.*", "audit.#"].into_patterns()?.as_slice().len(), 2);
/// assert_eq!(vec![Topic::new("orders.created")?].into_patterns()?.as_slice().len(), 1);
/// assert!(Vec::<String>::new().into_patterns().is_err());
/// # Ok::<(), fabric_core::Error>(())
/// ```
pub trait IntoPatterns {
    /// Makes the set.
    ///
    /// # Errors
    ///
    /// [`InvalidTopic`](ErrorKind::InvalidTopic) where text breaks a rule for patterns, or the list
    /// is empty.
    fn into_patterns(self) -> Result<Patterns>;
}

impl<T: IntoPattern> IntoPatterns for T {
    fn into_patterns(self) -> Result<Patterns> {
        self.into_pattern().map(Patterns::from)
    }
}

impl IntoPatterns for Patterns {
    fn into_patterns(self) -> Result<Patterns> {
        Ok(self)
    }
}

impl IntoPatterns for &Patterns {
    fn into_patterns(self) -> Result<Patterns> {
        Ok(self.clone())
    }
}

impl<T: IntoPattern, const N: usize> IntoPatterns for [T; N] {
    fn into_patterns(self) -> Result<Patterns> {
        collect(self)
    }
}

impl<T: IntoPattern + Clone, const N: usize> IntoPatterns for &[T; N] {
    fn into_patterns(self) -> Result<Patterns> {
        collect(self.iter().cloned())
    }
}

impl<T: IntoPattern + Clone> IntoPatterns for &[T] {
    fn into_patterns(self) -> Result<Patterns> {
        collect(self.iter().cloned())
    }
}

impl<T: IntoPattern> IntoPatterns for Vec<T> {
    fn into_patterns(self) -> Result<Patterns> {
        collect(self)
    }
}

impl<T: IntoPattern + Clone> IntoPatterns for &Vec<T> {
    fn into_patterns(self) -> Result<Patterns> {
        self.as_slice().into_patterns()
    }
}

fn collect<T: IntoPattern>(patterns: impl IntoIterator<Item = T>) -> Result<Patterns> {
    let patterns: Vec<_> = patterns.into_iter().map(T::into_pattern).collect::<Result<_>>()?;
    Patterns::new(patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_two_words_wide() {
        assert_eq!(size_of::<Patterns>(), 16);
    }

    #[test]
    fn patterns_are_a_set() {
        let patterns = ["b.*", "a", "b.*"].into_patterns().unwrap();
        assert_eq!(patterns.to_string(), "a,b.*");
        assert_eq!(patterns, vec!["a", "b.*"].into_patterns().unwrap());
        assert_ne!(patterns, "a".into_patterns().unwrap());
        assert!(patterns.matches(&Topic::new("b.c").unwrap()));
        assert!(patterns.matches(&Topic::new("a").unwrap()));
        assert!(!patterns.matches(&Topic::new("b").unwrap()));
        assert_eq!(patterns.to_string().parse::<Patterns>().unwrap(), patterns);
    }

    #[test]
    fn every_form_becomes_patterns() {
        let topic = Topic::new("a").unwrap();
        let pattern = Pattern::new("a").unwrap();
        let patterns = Patterns::from(pattern.clone());
        let forms = [
            "a".into_patterns(),
            String::from("a").into_patterns(),
            (&String::from("a")).into_patterns(),
            (&topic).into_patterns(),
            topic.clone().into_patterns(),
            (&pattern).into_patterns(),
            pattern.clone().into_patterns(),
            (&patterns).into_patterns(),
            patterns.clone().into_patterns(),
            ["a", "a"].into_patterns(),
            (&["a"]).into_patterns(),
            ["a"].as_slice().into_patterns(),
            vec![topic].into_patterns(),
            (&vec![pattern]).into_patterns(),
        ];
        for form in forms {
            assert_eq!(form.unwrap(), patterns);
        }
    }

    #[test]
    fn no_pattern_and_a_bad_one_are_refused() {
        let refused = [
            <[&str; 0]>::default().into_patterns(),
            Vec::<Topic>::new().into_patterns(),
            ["a", "a..b"].into_patterns(),
            "a,b".into_patterns(),
            "".parse(),
            "a,".parse(),
        ];
        for patterns in refused {
            assert_eq!(patterns.unwrap_err().kind(), ErrorKind::InvalidTopic);
        }
    }

    #[test]
    fn serde_validates() {
        let patterns: Patterns = serde_json::from_str(r##"["b.#","a","a"]"##).unwrap();
        assert_eq!(serde_json::to_string(&patterns).unwrap(), r##"["a","b.#"]"##);
        assert!(serde_json::from_str::<Patterns>("[]").is_err());
        assert!(serde_json::from_str::<Patterns>(r#"["a.>.b"]"#).is_err());
    }
}
