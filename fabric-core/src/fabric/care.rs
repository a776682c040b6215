//! The care of groups and topics: each call is an ability of its own.

use super::Fabric;
use crate::backend::{DynAdmin, DynGroups};
use crate::batch::{Batch, Confirms};
use crate::capabilities::Ability;
use crate::event::{Event, IntoEvent};
use crate::group::Group;
use crate::info::{GroupInfo, TopicInfo, Trim};
use crate::options::GroupDefinition;
use crate::patterns::IntoPatterns;
use crate::position::Start;
use crate::time::Timestamp;
use crate::topic::{IntoTopic, Topic};
use crate::{Error, ErrorKind, Result};

impl Fabric {
    /// The care of durable groups.
    ///
    /// # Errors
    /// `Unsupported` where this stack has none.
    pub fn groups(&self) -> Result<Groups<'_>> {
        let missing = || Error::unsupported("durable groups", &self.info().name);
        let inner = self.shared.backend.groups().ok_or_else(missing)?;
        Ok(Groups { fabric: self, inner })
    }

    /// The care of topics.
    ///
    /// # Errors
    /// `Unsupported` where this stack keeps none.
    pub fn admin(&self) -> Result<Admin<'_>> {
        let missing = || Error::unsupported("the care of topics", &self.info().name);
        let inner = self.shared.backend.admin().ok_or_else(missing)?;
        Ok(Admin { fabric: self, inner })
    }

    fn demand(&self, ability: Ability, operation: &'static str) -> Result<()> {
        let demanded = self.capabilities().demand(ability, &self.info().name);
        demanded.map_err(|error| self.describe(error, operation))
    }
}

/// The care of durable groups; see [`Fabric::groups`].
pub struct Groups<'a> {
    fabric: &'a Fabric,
    inner: &'a dyn DynGroups,
}

impl Groups<'_> {
    /// Makes a group without joining it, so that it keeps events from now on. The same definition
    /// once more is `Ok`.
    ///
    /// # Errors
    /// `InvalidTopic` for the name, `GroupMismatch`, `Unsupported`.
    ///
    /// # Cancel safety
    /// The group may or may not have been made.
    pub async fn define(&self, group: impl AsRef<str>, definition: GroupDefinition) -> Result<()> {
        let group = self.begin(group, Ability::GroupDefine, "define_group")?;
        self.inner.define(&group, definition).await.map_err(self.describe("define_group", &group))
    }

    /// Gives a group other patterns and keeps its place.
    ///
    /// # Errors
    /// `InvalidTopic`, `NotFound`, `Unsupported`.
    ///
    /// # Cancel safety
    /// The patterns are the old ones or the new ones.
    pub async fn redefine(
        &self,
        group: impl AsRef<str>,
        patterns: impl IntoPatterns,
    ) -> Result<()> {
        let group = self.begin(group, Ability::GroupRedefine, "redefine_group")?;
        let patterns = patterns.into_patterns()?;
        self.inner.redefine(&group, patterns).await.map_err(self.describe("redefine_group", &group))
    }

    /// Moves a group's place. What its members hold is lost to them.
    ///
    /// # Errors
    /// `InvalidTopic`, `NotFound` for the group or the position, `Unsupported`.
    ///
    /// # Cancel safety
    /// The group may or may not have been moved.
    pub async fn reset(&self, group: impl AsRef<str>, start: impl Into<Start>) -> Result<()> {
        let group = self.begin(group, Ability::GroupReset, "reset_group")?;
        self.inner.reset(&group, start.into()).await.map_err(self.describe("reset_group", &group))
    }

    /// Deletes a group with its place and definition. Its members' subscriptions end with
    /// `NotFound`.
    ///
    /// # Errors
    /// `InvalidTopic`, `NotFound`, `Unsupported`.
    ///
    /// # Cancel safety
    /// The group may or may not have been deleted.
    pub async fn delete(&self, group: impl AsRef<str>) -> Result<()> {
        let group = self.begin(group, Ability::GroupDelete, "delete_group")?;
        self.inner.delete(&group).await.map_err(self.describe("delete_group", &group))
    }

    /// Every group.
    ///
    /// # Errors
    /// `Unsupported`, `Closed`, `Connect`.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn list(&self) -> Result<Vec<Group>> {
        self.fabric.demand(Ability::GroupList, "list_groups")?;
        self.inner.list().await.map_err(|error| self.fabric.describe(error, "list_groups"))
    }

    /// A group's definition, members and lag.
    ///
    /// # Errors
    /// `InvalidTopic`, `NotFound`, `Unsupported`.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn info(&self, group: impl AsRef<str>) -> Result<GroupInfo> {
        let group = self.begin(group, Ability::GroupInfo, "group_info")?;
        self.inner.info(&group).await.map_err(self.describe("group_info", &group))
    }

    /// Delivers one event to this group alone, under the event's own topic, not before
    /// `not_before`. The first delivery has the attempt number `attempt`.
    ///
    /// # Errors
    /// `InvalidTopic`, `NotFound`, `Unsupported`, and as [`Fabric::publish`].
    ///
    /// # Cancel safety
    /// The event may or may not have been accepted.
    pub async fn send_to(
        &self,
        group: impl AsRef<str>,
        event: impl IntoEvent,
        not_before: Option<Timestamp>,
        attempt: u32,
    ) -> Result<Confirms> {
        let group = self.begin(group, Ability::GroupSend, "send_to_group")?;
        let event = event.into_event()?;
        self.check_inbox(&event)?;
        let batch = Batch::stamped(smallvec::smallvec![event], &self.fabric.shared.stamp);
        self.inner
            .send_to(&group, batch, not_before, attempt.max(1))
            .await
            .map_err(self.describe("send_to_group", &group))
    }

    fn check_inbox(&self, event: &Event) -> Result<()> {
        if event.topic().is_reserved() {
            let text = format!("`{}` is reserved for Fabric itself", event.topic());
            return Err(Error::new(ErrorKind::InvalidTopic, text));
        }
        Ok(())
    }

    fn begin(
        &self,
        group: impl AsRef<str>,
        ability: Ability,
        operation: &'static str,
    ) -> Result<Group> {
        self.fabric.demand(ability, operation)?;
        Group::new(group).map_err(|error| self.fabric.describe(error, operation))
    }

    fn describe(&self, operation: &'static str, group: &Group) -> impl FnOnce(Error) -> Error {
        let (fabric, group) = (self.fabric.clone(), group.clone());
        move |error| fabric.describe(error, operation).with("group", group)
    }
}

impl std::fmt::Debug for Groups<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Groups")
    }
}

/// The care of topics; see [`Fabric::admin`].
pub struct Admin<'a> {
    fabric: &'a Fabric,
    inner: &'a dyn DynAdmin,
}

impl Admin<'_> {
    /// Every topic that matches, with its figures. Reserved topics need to be named.
    ///
    /// # Errors
    /// `InvalidTopic`, `Unsupported`, `Closed`, `Connect`.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn topics(&self, patterns: impl IntoPatterns) -> Result<Vec<TopicInfo>> {
        self.fabric.demand(Ability::TopicList, "list_topics")?;
        let patterns = patterns.into_patterns()?;
        let listed = self.inner.topics(patterns).await;
        listed.map_err(|error| self.fabric.describe(error, "list_topics"))
    }

    /// One topic's figures.
    ///
    /// # Errors
    /// `InvalidTopic`, `NotFound`, `Unsupported`.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn topic(&self, topic: impl IntoTopic) -> Result<TopicInfo> {
        let topic = self.begin(topic, Ability::TopicInfo, "topic_info")?;
        self.inner.topic(&topic).await.map_err(self.describe("topic_info", &topic))
    }

    /// Drops every event of a topic, also those that groups have not settled. Returns how many.
    ///
    /// # Errors
    /// `InvalidTopic`, `NotFound`, `Unsupported`.
    ///
    /// # Cancel safety
    /// The topic may or may not have been emptied.
    pub async fn purge(&self, topic: impl IntoTopic) -> Result<u64> {
        let topic = self.begin(topic, Ability::Purge, "purge")?;
        self.inner.purge(&topic).await.map_err(self.describe("purge", &topic))
    }

    /// Drops a topic's oldest events, also those that groups have not settled. Returns how many.
    ///
    /// # Errors
    /// `InvalidTopic`, `NotFound` for the topic or the position, `Unsupported`.
    ///
    /// # Cancel safety
    /// The topic may or may not have been trimmed.
    pub async fn trim(&self, topic: impl IntoTopic, trim: Trim) -> Result<u64> {
        let topic = self.begin(topic, Ability::Trim, "trim")?;
        self.inner.trim(&topic, trim).await.map_err(self.describe("trim", &topic))
    }

    fn begin(
        &self,
        topic: impl IntoTopic,
        ability: Ability,
        operation: &'static str,
    ) -> Result<Topic> {
        self.fabric.demand(ability, operation)?;
        topic.into_topic().map_err(|error| self.fabric.describe(error, operation))
    }

    fn describe(&self, operation: &'static str, topic: &Topic) -> impl FnOnce(Error) -> Error {
        let (fabric, topic) = (self.fabric.clone(), topic.clone());
        move |error| fabric.describe(error, operation).with("topic", topic)
    }
}

impl std::fmt::Debug for Admin<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}
