//! Connecting by URL.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use fabric_core::{Dsn, Fabric, Result};
use futures_core::future::BoxFuture;

use crate::registry::Registry;

/// Connects to the backend that the scheme of `url` names.
///
/// The call is a future with setters: `connect(url).source("planner").await`. Nothing happens
/// before it is first polled. Which URLs there are, and with which options, say the pages of the
/// backends.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> fabric::Result<()> {
/// let fabric = fabric::connect("memory://orders?max_age=1h").source("planner").await?;
/// assert_eq!(fabric.info().scheme, "memory");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Config` for a URL that is none, a scheme that nobody answers, or an option that the backend
/// does not know; `Connect`, `Unauthorized` and `Timeout` from the backend.
///
/// # Cancel safety
/// Dropped midway, no connection stays behind.
pub fn connect(url: impl AsRef<str>) -> Connect {
    Connect::to(Dsn::parse(url.as_ref()))
}

/// A connection in the making; see [`connect`].
#[must_use = "a connection is made when this is awaited"]
pub struct Connect(Stage);

enum Stage {
    Start(Box<Spec>),
    Running(BoxFuture<'static, Result<Fabric>>),
}

#[derive(Debug)]
struct Spec {
    dsn: Result<Dsn>,
    source: Option<String>,
    max_in_flight: Option<usize>,
    registry: Registry,
}

impl Connect {
    pub(crate) fn to(dsn: Result<Dsn>) -> Self {
        let registry = Registry::builtin();
        let spec = Spec { dsn, source: None, max_in_flight: None, registry };
        Self(Stage::Start(Box::new(spec)))
    }

    /// Sets who publishes events that name nobody.
    pub fn source(self, source: impl Into<String>) -> Self {
        self.with(|spec| spec.source = Some(source.into()))
    }

    /// Sets how many events one `publish_all` keeps unconfirmed.
    pub fn max_in_flight(self, events: usize) -> Self {
        self.with(|spec| spec.max_in_flight = Some(events))
    }

    /// Chooses from these backends instead of [`Registry::builtin`].
    pub fn registry(self, registry: Registry) -> Self {
        self.with(|spec| spec.registry = registry)
    }

    fn with(mut self, set: impl FnOnce(&mut Spec)) -> Self {
        if let Stage::Start(spec) = &mut self.0 {
            set(spec);
        }
        self
    }
}

impl Spec {
    fn start(&mut self) -> BoxFuture<'static, Result<Fabric>> {
        let connecting = self.dsn.clone().and_then(|dsn| self.registry.connect(dsn));
        let (source, max_in_flight) = (self.source.take(), self.max_in_flight);
        Box::pin(async move {
            let connected = async {
                let mut fabric = Fabric::from_shared(connecting?.await?);
                if let Some(events) = max_in_flight {
                    fabric = fabric.with_max_in_flight(events);
                }
                match source {
                    Some(source) => fabric.with_source(&source),
                    None => Ok(fabric),
                }
            };
            connected.await.map_err(|error| error.with_operation("connect"))
        })
    }
}

impl Future for Connect {
    type Output = Result<Fabric>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Stage::Start(spec) = &mut self.0 {
            self.0 = Stage::Running(spec.start());
        }
        match &mut self.0 {
            Stage::Running(running) => running.as_mut().poll(cx),
            Stage::Start(_) => Poll::Pending,
        }
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Stage::Start(spec) => f.debug_tuple("Connect").field(spec).finish(),
            Stage::Running(_) => f.write_str("Connect"),
        }
    }
}
