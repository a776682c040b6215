//! What a transport implements, and the optional families beside it.

mod erased;

use std::fmt;
use std::future::Future;
use std::time::Duration;

pub use erased::{DynAdmin, DynBackend, DynGroups, DynReplay, DynRequestReply, SharedBackend};

use crate::Result;
use crate::batch::{Batch, Confirms};
use crate::capabilities::Capabilities;
use crate::event::Event;
use crate::group::Group;
use crate::health::Health;
use crate::info::{BackendInfo, GroupInfo, TopicInfo, Trim};
use crate::notice::Notices;
use crate::options::{GroupDefinition, ReplayOptions, SubscribeOptions};
use crate::patterns::Patterns;
use crate::position::Start;
use crate::request::{Requests, RespondOptions};
use crate::subscription::Subscription;
use crate::time::Timestamp;
use crate::topic::Topic;

/// A transport, or a layer over one. No method has a default: what an implementation cannot do it
/// says where it is asked.
///
/// [`Fabric`](crate::Fabric) checks options against [`capabilities`](Self::capabilities) before it
/// calls, and stamps events with id and time.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Who it is. No secrets.
    fn info(&self) -> &BackendInfo;

    /// What it can do now.
    fn capabilities(&self) -> Capabilities;

    /// A listener to what would tell the user about it.
    fn notices(&self) -> Notices;

    /// The synchronous fast path of [`submit`](Self::submit).
    ///
    /// It gives the batch back where it would have to wait, or where a `submit` to the same place
    /// waits already, so that nobody is overtaken. A backend without a fast path writes
    /// `Err(batch)`.
    ///
    /// # Errors
    /// The batch.
    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch>;

    /// Takes the events over, in order; resolves when there is room for them. Confirms come later.
    ///
    /// * Batches of one publisher, each submitted after the former resolved, keep their order.
    /// * An empty batch is a flush.
    /// * Nothing of a batch is lost silently: each event has one outcome.
    ///
    /// # Errors
    /// `Closed`, where none of the events was taken. What concerns single events is in the confirms.
    ///
    /// # Cancel safety
    /// Dropped before it resolved, any first part of the batch may have been taken.
    fn submit(&self, batch: Batch) -> impl Future<Output = Result<Confirms>> + Send;

    /// Opens a subscription; resolves once the broker has it, so that what is published afterwards
    /// arrives, also on topics that come into being later.
    ///
    /// * Without a group every subscription gets a copy, and there is nothing to settle.
    /// * A durable group is made with its definition, or joined where the definition admits
    ///   ([`GroupDefinition::admit`]).
    ///
    /// # Errors
    /// `GroupMismatch`, `Closed`, `Connect`, `Unauthorized`, `Timeout`.
    ///
    /// # Cancel safety
    /// A group may have been made; no member stays behind.
    fn subscribe(
        &self,
        options: SubscribeOptions,
    ) -> impl Future<Output = Result<Subscription>> + Send;

    /// History, if it is kept.
    fn replay(&self) -> Option<&dyn DynReplay>;

    /// Requests and their answers, if it can carry them.
    fn request_reply(&self) -> Option<&dyn DynRequestReply>;

    /// The care of groups, if it has durable ones.
    fn groups(&self) -> Option<&dyn DynGroups>;

    /// The care of topics, if it has any to care for.
    fn admin(&self) -> Option<&dyn DynAdmin>;

    /// Whether it can do its work now.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    fn health(&self) -> impl Future<Output = Health> + Send;

    /// Stops intake, sends acks and confirms until `deadline`, gives the rest back. Once more is
    /// `Ok` at once.
    ///
    /// # Errors
    /// `Timeout` where something had to be left.
    ///
    /// # Cancel safety
    /// Intake stays stopped; what was not sent is as after the deadline.
    fn close(&self, deadline: Duration) -> impl Future<Output = Result<()>> + Send;
}

/// Reading what is kept as a finite stream.
pub trait ReplayBackend: Send + Sync {
    /// Everything that `options` select of what is kept now, in order within each topic.
    ///
    /// # Errors
    /// `NotFound` for a position of another stream, `Closed`.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    fn replay(&self, options: ReplayOptions) -> impl Future<Output = Result<Subscription>> + Send;
}

/// Requests and their answers.
pub trait RequestReplyBackend: Send + Sync {
    /// Sends `request` and resolves with its answer.
    ///
    /// # Errors
    /// `NoResponders`, `Timeout`, `Remote`, `Closed`.
    ///
    /// # Cancel safety
    /// The request may have been sent; a late answer is dropped and counted.
    fn request(
        &self,
        request: Event,
        timeout: Duration,
    ) -> impl Future<Output = Result<Event>> + Send;

    /// Registers a responder; resolves once requests reach it.
    ///
    /// # Errors
    /// `Closed`, `Connect`.
    ///
    /// # Cancel safety
    /// No responder stays behind.
    fn respond(&self, options: RespondOptions) -> impl Future<Output = Result<Requests>> + Send;
}

/// The care of durable groups. Each method is an ability of its own.
///
/// # Cancel safety
/// A dropped call may or may not have taken effect, and never by half.
pub trait GroupsBackend: Send + Sync {
    /// Makes a group without joining it. The same definition once more is `Ok`.
    ///
    /// # Errors
    /// `GroupMismatch`.
    fn define(
        &self,
        group: &Group,
        definition: GroupDefinition,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Gives a group other patterns and keeps its place: added ones start at new, what removed
    /// ones had queued is still delivered.
    ///
    /// # Errors
    /// `NotFound`.
    fn redefine(
        &self,
        group: &Group,
        patterns: Patterns,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Moves a group's place. What its members hold is lost to them.
    ///
    /// # Errors
    /// `NotFound`, for the group or the position.
    fn reset(&self, group: &Group, start: Start) -> impl Future<Output = Result<()>> + Send;

    /// Deletes a group with its place and definition. Its members' subscriptions end with
    /// `NotFound`.
    ///
    /// # Errors
    /// `NotFound`.
    fn delete(&self, group: &Group) -> impl Future<Output = Result<()>> + Send;

    /// Every group.
    ///
    /// # Errors
    /// `Closed`, `Connect`.
    fn list(&self) -> impl Future<Output = Result<Vec<Group>>> + Send;

    /// Definition, members and lag.
    ///
    /// # Errors
    /// `NotFound`.
    fn info(&self, group: &Group) -> impl Future<Output = Result<GroupInfo>> + Send;

    /// Delivers events to this group alone, under their own topics, not before `not_before`,
    /// counting on from `attempt`.
    ///
    /// # Errors
    /// `NotFound`, `Closed`.
    fn send_to(
        &self,
        group: &Group,
        batch: Batch,
        not_before: Option<Timestamp>,
        attempt: u32,
    ) -> impl Future<Output = Result<Confirms>> + Send;
}

/// The care of topics. Each method is an ability of its own.
///
/// # Cancel safety
/// A dropped call may or may not have taken effect.
pub trait AdminBackend: Send + Sync {
    /// Every topic that matches, with its figures.
    ///
    /// # Errors
    /// `Closed`, `Connect`.
    fn topics(&self, patterns: Patterns) -> impl Future<Output = Result<Vec<TopicInfo>>> + Send;

    /// One topic's figures.
    ///
    /// # Errors
    /// `NotFound`.
    fn topic(&self, topic: &Topic) -> impl Future<Output = Result<TopicInfo>> + Send;

    /// Drops every event of a topic, also those that groups have not settled. Returns how many.
    ///
    /// # Errors
    /// `NotFound`.
    fn purge(&self, topic: &Topic) -> impl Future<Output = Result<u64>> + Send;

    /// Drops a topic's oldest events, also those that groups have not settled. Returns how many.
    ///
    /// # Errors
    /// `NotFound`, for the topic or the position.
    fn trim(&self, topic: &Topic, trim: Trim) -> impl Future<Output = Result<u64>> + Send;
}
