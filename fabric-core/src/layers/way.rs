//! The two ways in which events leave: to their topics, or to one group alone.

use crate::Result;
use crate::backend::{Backend as _, SharedBackend};
use crate::batch::{Batch, Confirms};
use crate::group::Group;
use crate::time::Timestamp;
use crate::{Error, backend};

/// Where a batch goes, so that a layer treats `submit` and `send_to` alike.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    Topics,
    Group { group: Group, not_before: Option<Timestamp>, attempt: u32 },
}

impl Way {
    /// Hands `batch` to `inner`.
    pub(crate) async fn submit(&self, inner: &SharedBackend, batch: Batch) -> Result<Confirms> {
        match self {
            Self::Topics => match inner.try_submit(batch) {
                Ok(confirms) => Ok(confirms),
                Err(batch) => inner.submit(batch).await,
            },
            Self::Group { group, not_before, attempt } => {
                groups(inner)?.send_to(group, batch, *not_before, *attempt).await
            }
        }
    }
}

/// The groups of `inner`.
///
/// # Errors
/// `Unsupported`, where there are none.
pub(crate) fn groups(inner: &SharedBackend) -> Result<&dyn backend::DynGroups> {
    inner.groups().ok_or_else(|| Error::unsupported("durable groups", &inner.info().name))
}

/// The requests of `inner`.
///
/// # Errors
/// `Unsupported`, where there are none.
pub(crate) fn requests(inner: &SharedBackend) -> Result<&dyn backend::DynRequestReply> {
    inner.request_reply().ok_or_else(|| Error::unsupported("request and reply", &inner.info().name))
}

/// Implements the groups of a layer that has `inner` and `send(&self, Way, Batch)`: all is passed
/// on, and what goes to one group alone is treated as what goes to topics.
macro_rules! groups_by_way {
    ($layer:ty) => {
        #[deny(clippy::missing_trait_methods)]
        impl $crate::GroupsBackend for $layer {
            async fn define(
                &self,
                group: &$crate::Group,
                definition: $crate::GroupDefinition,
            ) -> $crate::Result<()> {
                $crate::layers::way::groups(&self.inner)?.define(group, definition).await
            }

            async fn redefine(
                &self,
                group: &$crate::Group,
                patterns: $crate::Patterns,
            ) -> $crate::Result<()> {
                $crate::layers::way::groups(&self.inner)?.redefine(group, patterns).await
            }

            async fn reset(
                &self,
                group: &$crate::Group,
                start: $crate::Start,
            ) -> $crate::Result<()> {
                $crate::layers::way::groups(&self.inner)?.reset(group, start).await
            }

            async fn delete(&self, group: &$crate::Group) -> $crate::Result<()> {
                $crate::layers::way::groups(&self.inner)?.delete(group).await
            }

            async fn list(&self) -> $crate::Result<Vec<$crate::Group>> {
                $crate::layers::way::groups(&self.inner)?.list().await
            }

            async fn info(&self, group: &$crate::Group) -> $crate::Result<$crate::GroupInfo> {
                $crate::layers::way::groups(&self.inner)?.info(group).await
            }

            async fn send_to(
                &self,
                group: &$crate::Group,
                batch: $crate::Batch,
                not_before: Option<$crate::Timestamp>,
                attempt: u32,
            ) -> $crate::Result<$crate::Confirms> {
                let group = group.clone();
                let way = $crate::layers::way::Way::Group { group, not_before, attempt };
                self.send(way, batch).await
            }
        }
    };
}
pub(crate) use groups_by_way;
