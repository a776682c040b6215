//! The boxed twins of the traits in `backend`: the only place that boxes their futures.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::{AdminBackend, Backend, GroupsBackend, ReplayBackend, RequestReplyBackend};
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

/// A backend or layer behind a pointer, as fabrics and layers hold it. It is a [`Backend`] itself.
pub type SharedBackend = Arc<dyn DynBackend>;

type Boxed<'a, T> = BoxFuture<'a, Result<T>>;

/// [`Backend`] with boxed futures. Implemented for every backend; do not implement it yourself.
pub trait DynBackend: fmt::Debug + Send + Sync + 'static {
    /// As [`Backend::info`].
    fn info(&self) -> &BackendInfo;
    /// As [`Backend::capabilities`].
    fn capabilities(&self) -> Capabilities;
    /// As [`Backend::notices`].
    fn notices(&self) -> Notices;
    /// As [`Backend::try_submit`].
    ///
    /// # Errors
    /// The batch.
    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch>;
    /// As [`Backend::submit`].
    fn submit(&self, batch: Batch) -> Boxed<'_, Confirms>;
    /// As [`Backend::subscribe`].
    fn subscribe(&self, options: SubscribeOptions) -> Boxed<'_, Subscription>;
    /// As [`Backend::replay`].
    fn replay(&self) -> Option<&dyn DynReplay>;
    /// As [`Backend::request_reply`].
    fn request_reply(&self) -> Option<&dyn DynRequestReply>;
    /// As [`Backend::groups`].
    fn groups(&self) -> Option<&dyn DynGroups>;
    /// As [`Backend::admin`].
    fn admin(&self) -> Option<&dyn DynAdmin>;
    /// As [`Backend::health`].
    fn health(&self) -> BoxFuture<'_, Health>;
    /// As [`Backend::close`].
    fn close(&self, deadline: Duration) -> Boxed<'_, ()>;
}

impl<B: Backend> DynBackend for B {
    fn info(&self) -> &BackendInfo {
        Backend::info(self)
    }

    fn capabilities(&self) -> Capabilities {
        Backend::capabilities(self)
    }

    fn notices(&self) -> Notices {
        Backend::notices(self)
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        Backend::try_submit(self, batch)
    }

    fn submit(&self, batch: Batch) -> Boxed<'_, Confirms> {
        Box::pin(Backend::submit(self, batch))
    }

    fn subscribe(&self, options: SubscribeOptions) -> Boxed<'_, Subscription> {
        Box::pin(Backend::subscribe(self, options))
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        Backend::replay(self)
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        Backend::request_reply(self)
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        Backend::groups(self)
    }

    fn admin(&self) -> Option<&dyn DynAdmin> {
        Backend::admin(self)
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(Backend::health(self))
    }

    fn close(&self, deadline: Duration) -> Boxed<'_, ()> {
        Box::pin(Backend::close(self, deadline))
    }
}

impl Backend for SharedBackend {
    fn info(&self) -> &BackendInfo {
        (**self).info()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn notices(&self) -> Notices {
        (**self).notices()
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        (**self).try_submit(batch)
    }

    fn submit(&self, batch: Batch) -> impl Future<Output = Result<Confirms>> + Send {
        (**self).submit(batch)
    }

    fn subscribe(
        &self,
        options: SubscribeOptions,
    ) -> impl Future<Output = Result<Subscription>> + Send {
        (**self).subscribe(options)
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        (**self).replay()
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        (**self).request_reply()
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        (**self).groups()
    }

    fn admin(&self) -> Option<&dyn DynAdmin> {
        (**self).admin()
    }

    fn health(&self) -> impl Future<Output = Health> + Send {
        (**self).health()
    }

    fn close(&self, deadline: Duration) -> impl Future<Output = Result<()>> + Send {
        (**self).close(deadline)
    }
}

/// [`ReplayBackend`] with boxed futures.
pub trait DynReplay: Send + Sync {
    /// As [`ReplayBackend::replay`].
    fn replay(&self, options: ReplayOptions) -> Boxed<'_, Subscription>;
}

impl<B: ReplayBackend> DynReplay for B {
    fn replay(&self, options: ReplayOptions) -> Boxed<'_, Subscription> {
        Box::pin(ReplayBackend::replay(self, options))
    }
}

/// [`RequestReplyBackend`] with boxed futures.
pub trait DynRequestReply: Send + Sync {
    /// As [`RequestReplyBackend::request`].
    fn request(&self, request: Event, timeout: Duration) -> Boxed<'_, Event>;
    /// As [`RequestReplyBackend::respond`].
    fn respond(&self, options: RespondOptions) -> Boxed<'_, Requests>;
}

impl<B: RequestReplyBackend> DynRequestReply for B {
    fn request(&self, request: Event, timeout: Duration) -> Boxed<'_, Event> {
        Box::pin(RequestReplyBackend::request(self, request, timeout))
    }

    fn respond(&self, options: RespondOptions) -> Boxed<'_, Requests> {
        Box::pin(RequestReplyBackend::respond(self, options))
    }
}

/// [`GroupsBackend`] with boxed futures.
pub trait DynGroups: Send + Sync {
    /// As [`GroupsBackend::define`].
    fn define<'a>(&'a self, group: &'a Group, definition: GroupDefinition) -> Boxed<'a, ()>;
    /// As [`GroupsBackend::redefine`].
    fn redefine<'a>(&'a self, group: &'a Group, patterns: Patterns) -> Boxed<'a, ()>;
    /// As [`GroupsBackend::reset`].
    fn reset<'a>(&'a self, group: &'a Group, start: Start) -> Boxed<'a, ()>;
    /// As [`GroupsBackend::delete`].
    fn delete<'a>(&'a self, group: &'a Group) -> Boxed<'a, ()>;
    /// As [`GroupsBackend::list`].
    fn list(&self) -> Boxed<'_, Vec<Group>>;
    /// As [`GroupsBackend::info`].
    fn info<'a>(&'a self, group: &'a Group) -> Boxed<'a, GroupInfo>;
    /// As [`GroupsBackend::send_to`].
    fn send_to<'a>(
        &'a self,
        group: &'a Group,
        batch: Batch,
        not_before: Option<Timestamp>,
        attempt: u32,
    ) -> Boxed<'a, Confirms>;
}

impl<B: GroupsBackend> DynGroups for B {
    fn define<'a>(&'a self, group: &'a Group, definition: GroupDefinition) -> Boxed<'a, ()> {
        Box::pin(GroupsBackend::define(self, group, definition))
    }

    fn redefine<'a>(&'a self, group: &'a Group, patterns: Patterns) -> Boxed<'a, ()> {
        Box::pin(GroupsBackend::redefine(self, group, patterns))
    }

    fn reset<'a>(&'a self, group: &'a Group, start: Start) -> Boxed<'a, ()> {
        Box::pin(GroupsBackend::reset(self, group, start))
    }

    fn delete<'a>(&'a self, group: &'a Group) -> Boxed<'a, ()> {
        Box::pin(GroupsBackend::delete(self, group))
    }

    fn list(&self) -> Boxed<'_, Vec<Group>> {
        Box::pin(GroupsBackend::list(self))
    }

    fn info<'a>(&'a self, group: &'a Group) -> Boxed<'a, GroupInfo> {
        Box::pin(GroupsBackend::info(self, group))
    }

    fn send_to<'a>(
        &'a self,
        group: &'a Group,
        batch: Batch,
        not_before: Option<Timestamp>,
        attempt: u32,
    ) -> Boxed<'a, Confirms> {
        Box::pin(GroupsBackend::send_to(self, group, batch, not_before, attempt))
    }
}

/// [`AdminBackend`] with boxed futures.
pub trait DynAdmin: Send + Sync {
    /// As [`AdminBackend::topics`].
    fn topics(&self, patterns: Patterns) -> Boxed<'_, Vec<TopicInfo>>;
    /// As [`AdminBackend::topic`].
    fn topic<'a>(&'a self, topic: &'a Topic) -> Boxed<'a, TopicInfo>;
    /// As [`AdminBackend::purge`].
    fn purge<'a>(&'a self, topic: &'a Topic) -> Boxed<'a, u64>;
    /// As [`AdminBackend::trim`].
    fn trim<'a>(&'a self, topic: &'a Topic, trim: Trim) -> Boxed<'a, u64>;
}

impl<B: AdminBackend> DynAdmin for B {
    fn topics(&self, patterns: Patterns) -> Boxed<'_, Vec<TopicInfo>> {
        Box::pin(AdminBackend::topics(self, patterns))
    }

    fn topic<'a>(&'a self, topic: &'a Topic) -> Boxed<'a, TopicInfo> {
        Box::pin(AdminBackend::topic(self, topic))
    }

    fn purge<'a>(&'a self, topic: &'a Topic) -> Boxed<'a, u64> {
        Box::pin(AdminBackend::purge(self, topic))
    }

    fn trim<'a>(&'a self, topic: &'a Topic, trim: Trim) -> Boxed<'a, u64> {
        Box::pin(AdminBackend::trim(self, topic, trim))
    }
}
