//! The prefix of everything that one fabric owns on a shared broker.

use std::sync::Arc;

use crate::Result;
use crate::name::{Rules, impl_name};

/// A validated prefix that sets one fabric's names on a broker apart from all others: one level,
/// at most 32 bytes, cheap to clone.
///
/// A prefix is never empty; no prefix is `None`.
///
/// ```
/// use fabric_core::Prefix;
///
/// let prefix = Prefix::new("staging")?;
/// assert_eq!(prefix.as_str(), "staging");
/// assert!(Prefix::new("").is_err());
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// The most bytes that a prefix has.
    pub const MAX_BYTES: usize = 32;

    /// Makes a prefix out of text that follows the rules: `[A-Za-z0-9_-]+`.
    ///
    /// # Errors
    ///
    /// [`InvalidTopic`](crate::ErrorKind::InvalidTopic) where it breaks a rule; the message says
    /// which one, and at which byte.
    pub fn new(prefix: impl AsRef<str>) -> Result<Self> {
        let prefix = prefix.as_ref();
        RULES.check(prefix)?;
        Ok(Self(Arc::from(prefix)))
    }

    /// Returns the prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl_name!(Prefix, "a prefix of one level");

const RULES: Rules =
    Rules { noun: "prefix", max_bytes: Prefix::MAX_BYTES, max_levels: 1, wildcards: false };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_prefix_is_one_level_of_at_most_32_bytes() {
        let longest = "p".repeat(32);
        for good in ["p", "ef-test_1", longest.as_str()] {
            assert_eq!(Prefix::new(good).unwrap(), good);
        }
        let too_long = "p".repeat(33);
        for bad in ["", "a.", "a.b", "#", "a/b", too_long.as_str()] {
            assert_eq!(Prefix::new(bad).unwrap_err().kind(), ErrorKind::InvalidTopic, "{bad:?}");
        }
    }
}
