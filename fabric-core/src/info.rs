//! What admin calls answer: topics, groups and the fabric's own subscriptions.

use serde::Serialize;

use crate::group::Group;
use crate::options::GroupDefinition;
use crate::patterns::Patterns;
use crate::position::Position;
use crate::time::Timestamp;
use crate::topic::Topic;

/// What a backend is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackendInfo {
    /// Its name: `memory`, `nats`, …
    pub name: String,
    /// The scheme of its DSN.
    pub scheme: String,
    /// Where it is connected to, without secrets.
    pub server: String,
    /// What this client calls itself there.
    pub client_id: String,
}

impl BackendInfo {
    /// A backend called `name` that `scheme` selects.
    #[must_use]
    pub fn new(name: &str, scheme: &str) -> Self {
        Self {
            name: name.to_owned(),
            scheme: scheme.to_owned(),
            server: String::new(),
            client_id: String::new(),
        }
    }

    /// Sets where it is connected to; must hold no secret.
    #[must_use]
    pub fn with_server(mut self, server: impl Into<String>) -> Self {
        self.server = server.into();
        self
    }

    /// Sets what this client calls itself.
    #[must_use]
    pub fn with_client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub topic: Topic,
    /// How many events are kept.
    pub events: u64,
    /// How many bytes they take, as the backend counts; 0 where it does not tell.
    pub bytes: u64,
    /// How many were ever published, as far as the backend knows.
    pub published: u64,
    /// The oldest that is kept.
    pub first: Option<Position>,
    /// The newest.
    pub last: Option<Position>,
    /// When the newest was stored.
    pub last_time: Option<Timestamp>,
    /// How many subscriptions and groups read it.
    pub readers: u64,
}

impl TopicInfo {
    /// An empty topic.
    #[must_use]
    pub const fn new(topic: Topic) -> Self {
        Self {
            topic,
            events: 0,
            bytes: 0,
            published: 0,
            first: None,
            last: None,
            last_time: None,
            readers: 0,
        }
    }
}

/// How far one group is behind in one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TopicLag {
    /// The topic.
    pub topic: Topic,
    /// Events that no member got yet.
    pub undelivered: u64,
    /// Events that members hold or that wait to come again.
    pub pending: u64,
}

impl TopicLag {
    /// The lag of one topic.
    #[must_use]
    pub const fn new(topic: Topic, undelivered: u64, pending: u64) -> Self {
        Self { topic, undelivered, pending }
    }
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub group: Group,
    /// What is stored with it.
    pub definition: GroupDefinition,
    /// How many members are attached.
    pub members: u64,
    /// How far it is behind, by topic.
    pub lag: Vec<TopicLag>,
}

impl GroupInfo {
    /// A group of `members`.
    #[must_use]
    pub const fn new(
        group: Group,
        definition: GroupDefinition,
        members: u64,
        lag: Vec<TopicLag>,
    ) -> Self {
        Self { group, definition, members, lag }
    }

    /// Events that members hold or that wait to come again.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.lag.iter().map(|lag| lag.pending).sum()
    }

    /// Events that no member got yet.
    #[must_use]
    pub fn undelivered(&self) -> u64 {
        self.lag.iter().map(|lag| lag.undelivered).sum()
    }
}

/// One subscription of this fabric that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SubscriptionInfo {
    /// A number, unique in this fabric.
    pub id: u64,
    /// What it reads.
    pub patterns: Patterns,
    /// The group it shares events with.
    pub group: Option<Group>,
    /// When it was opened.
    pub since: Timestamp,
}

/// Which of a topic's oldest events to drop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trim {
    /// Those before this position.
    Before(Position),
    /// Those stored before this time.
    Older(Timestamp),
    /// All but this many.
    Keep(u64),
}
