//! The contract of Event Fabric.

mod error;
mod group;
mod name;
mod pattern;
mod patterns;
mod prefix;
mod topic;
mod trie;

pub use error::{Error, ErrorKind, Result, RetryClass};
pub use group::Group;
pub use pattern::{IntoPattern, Pattern};
pub use patterns::{IntoPatterns, Patterns};
pub use prefix::Prefix;
pub use topic::{IntoTopic, Topic};
pub use trie::PatternTrie;
