//! The handle that users hold: convenience, checks and error context, written once.

mod care;
mod letters;
mod publish;
mod request;
mod subscribe;

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::future::BoxFuture;

pub use care::{Admin, Groups};
pub use letters::{DeadLetters, Redrive};
pub use publish::{Confirm, Publish, PublishAll, Submit};
pub use request::{AskFor, ResponderBuilder};
pub use subscribe::{ReplayRequest, Subscribe};

use crate::backend::{Backend, SharedBackend};
use crate::batch::Batch;
use crate::capabilities::Capabilities;
use crate::event::Stamp;
use crate::group::Group;
use crate::health::Health;
use crate::info::{BackendInfo, SubscriptionInfo};
use crate::layer::Layer;
use crate::notice::{NoticeKind, NoticeSender, Notices};
use crate::options::SubscribeOptions;
use crate::stats::{Stats, StatsSnapshot};
use crate::time::Timestamp;
use crate::{Error, ErrorKind, Result};

/// How long [`Fabric::scope`] lets work finish.
pub const SCOPE_DEADLINE: Duration = Duration::from_secs(30);

/// A connection to one transport, with its layers: publish, subscribe, ask, look after.
///
/// Clones share everything. Dropping the last one closes the connection without waiting; call
/// [`close`](Self::close) to let work finish.
#[derive(Clone)]
pub struct Fabric {
    shared: Arc<Shared>,
}

struct Shared {
    backend: SharedBackend,
    stamp: Stamp,
    max_in_flight: usize,
    notices: NoticeSender,
    stats: Arc<Stats>,
    open: Arc<Open>,
}

/// How many events `publish_all` keeps unconfirmed unless told otherwise.
pub const DEFAULT_IN_FLIGHT: usize = 256;

impl Fabric {
    /// A fabric over `backend`.
    pub fn new(backend: impl Backend) -> Self {
        Self::from_shared(Arc::new(backend))
    }

    /// A fabric over a backend that is shared already.
    #[must_use]
    pub fn from_shared(backend: SharedBackend) -> Self {
        Self {
            shared: Arc::new(Shared {
                backend,
                stamp: Stamp::default(),
                max_in_flight: DEFAULT_IN_FLIGHT,
                notices: NoticeSender::new(),
                stats: Arc::default(),
                open: Arc::default(),
            }),
        }
    }

    /// The same with `source` for events that name none.
    ///
    /// # Errors
    /// `InvalidEvent` if it is empty, too long or holds a control character.
    pub fn with_source(self, source: &str) -> Result<Self> {
        if source.is_empty() || source.len() > 1024 || source.chars().any(char::is_control) {
            return Err(Error::new(
                ErrorKind::InvalidEvent,
                format!("the source {source:?} is not 1 to 1024 bytes without control characters"),
            ));
        }
        Ok(self.change(|shared| shared.stamp = Stamp::new(Some(source))))
    }

    /// The same with another bound on the unconfirmed events of one `publish_all`.
    #[must_use]
    pub fn with_max_in_flight(self, events: usize) -> Self {
        self.change(|shared| shared.max_in_flight = events.max(1))
    }

    /// The same behind one more layer, which becomes the outermost.
    ///
    /// # Errors
    /// What the layer says where this stack lacks what it needs.
    #[expect(clippy::needless_pass_by_value, reason = "a layer is handed over")]
    pub fn layer(self, layer: impl Layer) -> Result<Self> {
        let backend = layer.layer(Arc::clone(&self.shared.backend))?;
        Ok(self.change(|shared| shared.backend = backend))
    }

    fn change(self, change: impl FnOnce(&mut Shared)) -> Self {
        let old = &self.shared;
        let mut shared = Shared {
            backend: Arc::clone(&old.backend),
            stamp: old.stamp.clone(),
            max_in_flight: old.max_in_flight,
            notices: old.notices.clone(),
            stats: Arc::clone(&old.stats),
            open: Arc::clone(&old.open),
        };
        change(&mut shared);
        Self { shared: Arc::new(shared) }
    }

    /// Refuses unless this stack can do at least what `least` can: for the start of a program.
    ///
    /// # Errors
    /// `Unsupported`, naming the first ability or limit that is missing.
    pub fn require(&self, least: Capabilities) -> Result<()> {
        self.capabilities()
            .satisfy(&least, &self.info().name)
            .map_err(|error| error.with_operation("require"))
    }

    /// What this stack can do, after its layers.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.shared.backend.capabilities()
    }

    /// What it is connected to.
    #[must_use]
    pub fn info(&self) -> &BackendInfo {
        self.shared.backend.info()
    }

    /// What it tells about itself from now on.
    #[must_use]
    pub fn notices(&self) -> Notices {
        self.shared.backend.notices().and(self.shared.notices.listen())
    }

    /// Counts of what is rare and worth knowing.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        self.shared.stats.snapshot()
    }

    /// The subscriptions of this fabric that are open.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<SubscriptionInfo> {
        self.shared.open.lock().clone()
    }

    /// The stack below, for layers and for tests of backends.
    #[must_use]
    pub fn backend(&self) -> &SharedBackend {
        &self.shared.backend
    }

    /// Whether the backend can do its work now, how quickly it answered, and why not.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn health(&self) -> Health {
        self.shared.backend.health().await
    }

    /// Resolves when everything submitted before it is confirmed or failed.
    ///
    /// # Errors
    /// `Closed`, or what kept the backend from flushing.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn flush(&self) -> Result<()> {
        let confirms = self
            .shared
            .backend
            .submit(Batch::flush())
            .await
            .map_err(|error| self.describe(error, "flush"))?;
        confirms.await;
        Ok(())
    }

    /// Stops intake, lets deliveries settle and publishes confirm `within` that time, and gives
    /// the rest back. Afterwards everything answers `Closed`. Once more is `Ok` at once.
    ///
    /// # Errors
    /// `Timeout` where something had to be left: unconfirmed events are ambiguous then, unsettled
    /// ones come again.
    ///
    /// # Cancel safety
    /// Intake stays stopped; the rest is as after the deadline.
    pub async fn close(&self, within: Duration) -> Result<()> {
        self.shared.backend.close(within).await.map_err(|error| self.describe(error, "close"))
    }

    /// Runs `work` and closes the fabric afterwards, whatever came of it.
    ///
    /// # Errors
    /// As [`close`](Self::close); what `work` returned is lost then.
    ///
    /// # Cancel safety
    /// Dropped midway the fabric is not closed by this call.
    pub async fn scope<R>(self, work: impl AsyncFnOnce(Self) -> R) -> Result<R> {
        let result = work(self.clone()).await;
        self.close(SCOPE_DEADLINE).await?;
        Ok(result)
    }

    /// Tells whoever listens to this fabric.
    pub(crate) fn tell(&self, notice: NoticeKind) {
        self.shared.notices.send(notice);
    }

    fn describe(&self, error: Error, operation: &'static str) -> Error {
        error.with_operation(operation).with_backend(&self.info().name)
    }
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fabric").field("info", self.info()).finish_non_exhaustive()
    }
}

/// The subscriptions that are open.
#[derive(Default)]
struct Open {
    next: AtomicU64,
    list: Mutex<Vec<SubscriptionInfo>>,
}

impl Open {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SubscriptionInfo>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enlist(self: &Arc<Self>, options: &SubscribeOptions) -> Listing {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().push(SubscriptionInfo {
            id,
            patterns: options.patterns.clone(),
            group: options.group.clone(),
            since: Timestamp::now(),
        });
        Listing { open: Arc::clone(self), id }
    }
}

/// An entry in the list of open subscriptions; dropping it takes it off.
pub(crate) struct Listing {
    open: Arc<Open>,
    id: u64,
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.open.lock().retain(|info| info.id != self.id);
    }
}

/// A call that is put together first and runs when it is polled.
enum Call<S, T> {
    Ready(Option<S>),
    Running(BoxFuture<'static, T>),
}

impl<S: Unpin, T> Call<S, T> {
    const fn new(spec: S) -> Self {
        Self::Ready(Some(spec))
    }

    fn spec(&mut self, set: impl FnOnce(&mut S)) {
        if let Self::Ready(Some(spec)) = self {
            set(spec);
        }
    }

    fn poll<F>(&mut self, cx: &mut Context<'_>, start: impl FnOnce(S) -> F) -> Poll<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        if let Self::Ready(spec) = self
            && let Some(spec) = spec.take()
        {
            *self = Self::Running(Box::pin(start(spec)));
        }
        match self {
            Self::Running(running) => Pin::new(running).poll(cx),
            Self::Ready(_) => Poll::Pending,
        }
    }
}

/// A group's name, checked where the call is made.
pub(crate) fn group_named(name: impl AsRef<str>) -> Result<Group> {
    Group::new(name)
}
