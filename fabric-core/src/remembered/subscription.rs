//! What is remembered of a subscription.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::group::Group;
use crate::options::{AckMode, SubscribeOptions, WhenFull};
use crate::patterns::{IntoPatterns, Patterns};
use crate::position::{Cursor, Start};
use crate::{Error, ErrorKind, Result};

/// The most bytes that the name of a remembered subscription has.
const MAX_NAME: usize = 256;

/// What is remembered of a subscription: what was asked for, and how far it was read.
///
/// ```
/// use fabric_core::{Group, RememberedSubscription, Start};
///
/// let audit = RememberedSubscription::new("audit", ["orders.*", "users.#"])?.with_start(Start::All);
/// let billing = RememberedSubscription::new("billing", "orders.*")?
///     .with_group(Group::new("billing")?)
///     .with_max_deliver(5);
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RememberedSubscription {
    /// Its name in the store: 1 to 256 bytes without control characters.
    pub name: String,
    /// What it reads.
    pub patterns: Patterns,
    /// The group it shares events with; none: a copy of each event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// The group is a live one: at most once, nothing to settle.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub live_group: bool,
    /// Where it begins while it has no cursor; unless told otherwise as the group has it stored,
    /// else new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// How long a delivery may stay unsettled; unless told otherwise as the group has it stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_wait: Option<Duration>,
    /// What an ack's `Ok` means.
    #[serde(default)]
    pub ack_mode: AckMode,
    /// After how many deliveries an event becomes a dead letter; as stored, else never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_deliver: Option<u32>,
    /// The most events that it holds unsettled; without a group: unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<usize>,
    /// What happens where its queue is at its bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_full: Option<WhenFull>,
    /// How far it was read, without a group. None: nothing was noted. Empty: every topic begins
    /// with its oldest event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
}

impl RememberedSubscription {
    /// The patterns under a name and nothing else.
    ///
    /// # Errors
    /// `InvalidTopic` for the patterns, `Config` for the name.
    pub fn new(name: impl Into<String>, patterns: impl IntoPatterns) -> Result<Self> {
        let new = Self {
            name: name.into(),
            patterns: patterns.into_patterns()?,
            group: None,
            live_group: false,
            start: None,
            ack_wait: None,
            ack_mode: AckMode::default(),
            max_deliver: None,
            prefetch: None,
            when_full: None,
            cursor: None,
        };
        new.validate()?;
        Ok(new)
    }

    /// Shares events with the other members of a durable group.
    #[must_use]
    pub fn with_group(mut self, group: Group) -> Self {
        self.group = Some(group);
        self.live_group = false;
        self
    }

    /// Shares events with whoever is there, at most once, with nothing to settle.
    #[must_use]
    pub fn with_live_group(mut self, group: Group) -> Self {
        self.group = Some(group);
        self.live_group = true;
        self
    }

    /// Sets where it begins while it has no cursor.
    #[must_use]
    pub fn with_start(mut self, start: impl Into<Start>) -> Self {
        self.start = Some(start.into());
        self
    }

    /// Sets how long a delivery may stay unsettled.
    #[must_use]
    pub const fn with_ack_wait(mut self, wait: Duration) -> Self {
        self.ack_wait = Some(wait);
        self
    }

    /// Sets what an ack's `Ok` means.
    #[must_use]
    pub const fn with_ack_mode(mut self, mode: AckMode) -> Self {
        self.ack_mode = mode;
        self
    }

    /// Sets after how many deliveries an event becomes a dead letter.
    #[must_use]
    pub const fn with_max_deliver(mut self, times: u32) -> Self {
        self.max_deliver = Some(times);
        self
    }

    /// Sets the most events held unsettled; without a group: unread.
    #[must_use]
    pub const fn with_prefetch(mut self, events: usize) -> Self {
        self.prefetch = Some(events);
        self
    }

    /// Sets what happens where its queue is at its bound.
    #[must_use]
    pub const fn with_when_full(mut self, policy: WhenFull) -> Self {
        self.when_full = Some(policy);
        self
    }

    /// Sets how far it was read.
    #[must_use]
    pub fn with_cursor(mut self, cursor: Cursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Refuses what no subscription can be made of.
    pub(super) fn validate(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::new(ErrorKind::Config, text));
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return refuse(format!(
                "the name {name:?} is not 1 to {MAX_NAME} bytes without control characters"
            ));
        }
        match &self.group {
            Some(group) if self.cursor.is_some() => refuse(format!(
                "`{name}` has a cursor and the group `{group}`, which keeps its own place: leave one out"
            )),
            None if self.live_group => refuse(format!("`{name}` is a live group without a name")),
            _ => Ok(()),
        }
    }

    /// What the backend is asked for: behind the cursor if there is one.
    pub(super) fn options(&self) -> SubscribeOptions {
        let mut options = SubscribeOptions::new(self.patterns.clone());
        options.group.clone_from(&self.group);
        options.live_group = self.live_group;
        options.start = match &self.cursor {
            Some(cursor) => Some(Start::Resume(cursor.clone())),
            None => self.start.clone(),
        };
        options.ack_wait = self.ack_wait;
        options.ack_mode = self.ack_mode;
        options.max_deliver = self.max_deliver;
        options.prefetch = self.prefetch;
        options.when_full = self.when_full;
        options
    }
}
