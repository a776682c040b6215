//! What a subscription and a replay are asked for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::group::Group;
use crate::patterns::Patterns;
use crate::position::{Position, Start};
use crate::time::Timestamp;
use crate::{Error, ErrorKind, Result};

/// What happens where a queue is at its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WhenFull {
    /// The publisher waits, then gets `Full`.
    Block,
    /// The oldest event that was not read yet is dropped; the reader sees `Lagged`.
    DropOldest,
    /// What is published is not kept for this reader; it sees `Lagged`.
    DropNewest,
    /// The publisher gets `Full` at once.
    Fail,
}

/// What an ack's `Ok` means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AckMode {
    /// A live connection took it; a broker that is killed may bring the last ones back.
    #[default]
    Sent,
    /// The broker answered.
    Confirmed,
}

/// What a subscription is asked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// What it reads.
    pub patterns: Patterns,
    /// The group it shares events with; none: a copy of each event.
    pub group: Option<Group>,
    /// The group is a live one: at most once, nothing to settle.
    pub live_group: bool,
    /// Give the group these patterns if it has others.
    pub redefine_group: bool,
    /// Where to begin; unless told otherwise as the group has it stored, else new.
    pub start: Option<Start>,
    /// How long a delivery may stay unsettled; unless told otherwise as the group has it stored.
    pub ack_wait: Option<Duration>,
    /// What an ack's `Ok` means.
    pub ack_mode: AckMode,
    /// After how many deliveries an event becomes a dead letter; as stored, else never.
    pub max_deliver: Option<u32>,
    /// The most events that the subscription holds unsettled; without a group: unread.
    pub prefetch: Option<usize>,
    /// What happens where its queue is at its bound.
    pub when_full: Option<WhenFull>,
}

impl SubscribeOptions {
    /// The patterns and nothing else.
    #[must_use]
    pub const fn new(patterns: Patterns) -> Self {
        Self {
            patterns,
            group: None,
            live_group: false,
            redefine_group: false,
            start: None,
            ack_wait: None,
            ack_mode: AckMode::Sent,
            max_deliver: None,
            prefetch: None,
            when_full: None,
        }
    }

    /// The group whose definition is stored, if it is a durable one.
    #[must_use]
    pub fn durable_group(&self) -> Option<&Group> {
        self.group.as_ref().filter(|_| !self.live_group)
    }
}

/// The default of `ack_wait`.
pub const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);

/// What is stored with a group: its name is its identity, this is what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupDefinition {
    /// What it reads.
    pub patterns: Patterns,
    /// Where it began.
    pub start: Start,
    /// How long a delivery may stay unsettled.
    pub ack_wait: Duration,
    /// After how many deliveries an event becomes a dead letter; never if there is none.
    pub max_deliver: Option<u32>,
}

impl GroupDefinition {
    /// A group that reads `patterns` from now on, with the default lease and no delivery limit.
    #[must_use]
    pub const fn new(patterns: Patterns) -> Self {
        Self { patterns, start: Start::New, ack_wait: DEFAULT_ACK_WAIT, max_deliver: None }
    }

    /// Sets where it begins.
    #[must_use]
    pub fn with_start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Sets how long a delivery may stay unsettled.
    #[must_use]
    pub const fn with_ack_wait(mut self, ack_wait: Duration) -> Self {
        self.ack_wait = ack_wait;
        self
    }

    /// Sets after how many deliveries an event becomes a dead letter.
    #[must_use]
    pub const fn with_max_deliver(mut self, max_deliver: u32) -> Self {
        self.max_deliver = Some(max_deliver);
        self
    }

    /// The definition that `options` ask for, with defaults for what they leave out.
    #[must_use]
    pub fn of(options: &SubscribeOptions) -> Self {
        Self {
            patterns: options.patterns.clone(),
            start: options.start.clone().unwrap_or(Start::New),
            ack_wait: options.ack_wait.unwrap_or(DEFAULT_ACK_WAIT),
            max_deliver: options.max_deliver,
        }
    }

    /// Whether somebody may join this group with `options`; what they leave out is as stored.
    ///
    /// Patterns are not compared where the options say to redefine them.
    ///
    /// # Errors
    /// `GroupMismatch`, with both values and the way out.
    pub fn admit(&self, group: &Group, options: &SubscribeOptions) -> Result<()> {
        let mismatch = |what: &str, stored: String, asked: String, out: &str| {
            Error::new(
                ErrorKind::GroupMismatch,
                format!("the group `{group}` exists with {what} {stored}, not {asked}; {out}"),
            )
            .with("group", group)
        };
        if !options.redefine_group && options.patterns != self.patterns {
            return Err(mismatch(
                "patterns",
                format!("[{}]", self.patterns),
                format!("[{}]", options.patterns),
                "join with those, use another name, or ask for `redefine_group()`",
            ));
        }
        let leave_out = "leave the option out, or delete the group first";
        if let Some(asked) = options.ack_wait.filter(|asked| *asked != self.ack_wait) {
            let stored = format!("{:?}", self.ack_wait);
            return Err(mismatch("ack_wait", stored, format!("{asked:?}"), leave_out));
        }
        if let Some(asked) = options.max_deliver.filter(|asked| Some(*asked) != self.max_deliver) {
            let stored = self.max_deliver.map_or_else(|| "no limit".to_owned(), |n| n.to_string());
            return Err(mismatch("max_deliver", stored, asked.to_string(), leave_out));
        }
        if let Some(asked) = options.start.as_ref().filter(|asked| **asked != self.start) {
            let stored = format!("{:?}", self.start);
            return Err(mismatch("start", stored, format!("{asked:?}"), leave_out));
        }
        Ok(())
    }
}

/// Where a replay ends, beside the end of what was kept when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// With the last event that was kept when the replay began.
    Kept,
    /// Before the first event stored later than this.
    Time(Timestamp),
    /// With the event at this position, in its topic.
    At(Position),
}

impl From<Timestamp> for End {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

impl From<Position> for End {
    fn from(position: Position) -> Self {
        Self::At(position)
    }
}

/// What a replay is asked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReplayOptions {
    /// What it reads.
    pub patterns: Patterns,
    /// Where it begins.
    pub start: Start,
    /// Where it ends.
    pub end: End,
    /// The most events it yields.
    pub limit: Option<u64>,
}

impl ReplayOptions {
    /// Everything that is kept.
    #[must_use]
    pub const fn new(patterns: Patterns) -> Self {
        Self { patterns, start: Start::All, end: End::Kept, limit: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patterns::IntoPatterns as _;

    #[test]
    fn a_join_that_differs_is_refused_with_both_values() {
        let group = Group::new("workers").unwrap();
        let patterns = |list: &[&str]| list.into_patterns().unwrap();
        let stored = GroupDefinition::new(patterns(&["a.*", "b"])).with_max_deliver(3);
        let mut options = SubscribeOptions::new(patterns(&["b", "a.*"]));
        assert!(stored.admit(&group, &options).is_ok());
        options.ack_wait = Some(Duration::from_secs(1));
        let error = stored.admit(&group, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GroupMismatch);
        assert!(error.to_string().contains("30s, not 1s"), "{error}");
        options = SubscribeOptions::new(patterns(&["c"]));
        let error = stored.admit(&group, &options).unwrap_err().to_string();
        assert!(error.contains("[a.*,b]") && error.contains("[c]"), "{error}");
        options.redefine_group = true;
        assert!(stored.admit(&group, &options).is_ok());
        options.max_deliver = Some(4);
        assert!(stored.admit(&group, &options).is_err());
    }
}
