//! The name of a group.

use std::sync::Arc;

use crate::Result;
use crate::name::{Rules, impl_name};

/// The validated name of a group: one level, at most 64 bytes, cheap to clone.
///
/// A group is the consumers that share the work of one durable subscription. Its name is
/// its identity.
///
/// ```
/// use fabric_core::Group;
///
/// let group = Group::new("billing")?;
/// assert_eq!(group.as_str(), "billing");
/// assert!(Group::new("billing.eu").is_err());
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Group(Arc<str>);

impl Group {
    /// The most bytes that a group's name has.
    pub const MAX_BYTES: usize = 64;

    /// Makes the group's name out of text that follows the rules: `[A-Za-z0-9_-]+`.
    ///
    /// # Errors
    ///
    /// [`InvalidTopic`](crate::ErrorKind::InvalidTopic) where it breaks a rule; the message says
    /// which one, and at which byte.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        RULES.check(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl_name!(Group, "the name of a group");

const RULES: Rules =
    Rules { noun: "group", max_bytes: Group::MAX_BYTES, max_levels: 1, wildcards: false };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_group_is_one_level_of_at_most_64_bytes() {
        let longest = "g".repeat(64);
        for good in ["g", "billing", "A-1_z", "_fabric", longest.as_str()] {
            assert_eq!(Group::new(good).unwrap(), good);
        }
        let too_long = "g".repeat(65);
        for bad in ["", ".", "a.b", "*", "a b", "é", too_long.as_str()] {
            assert_eq!(Group::new(bad).unwrap_err().kind(), ErrorKind::InvalidTopic, "{bad:?}");
        }
    }

    #[test]
    fn serde_validates() {
        let group: Group = serde_json::from_str(r#""billing""#).unwrap();
        assert_eq!(serde_json::to_string(&group).unwrap(), r#""billing""#);
        let error = serde_json::from_str::<Group>(r#""a.b""#).unwrap_err();
        assert!(error.to_string().contains("a group is one level"), "{error}");
    }
}
