//! Asking and answering.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Call, Fabric, group_named};
use crate::Result;
use crate::capabilities::Ability;
use crate::event::Event;
use crate::group::Group;
use crate::patterns::IntoPatterns;
use crate::request::{IntoRequest, Requests, RespondOptions};
use crate::time::Now;
use crate::{Error, ErrorKind};

/// How long a request waits for its answer unless told otherwise.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

impl Fabric {
    /// Asks, and resolves with the one answer: typed for a typed request, an event for an event.
    ///
    /// # Errors
    /// `NoResponders` where the stack can tell that nobody answers, else `Timeout`; `Remote` if
    /// the responder failed, and why; `Codec` if the answer is not of the expected type.
    ///
    /// # Cancel safety
    /// The request may have been sent; a late answer is dropped and counted.
    pub fn request<R: IntoRequest>(&self, request: R) -> AskFor<R> {
        let timeout = DEFAULT_REQUEST_TIMEOUT;
        AskFor(Call::new(Ask { fabric: self.clone(), event: request.into_request(), timeout }))
    }

    /// Starts a responder called `name`: responders of one name share the requests.
    pub fn responder(&self, name: impl AsRef<str>) -> ResponderBuilder {
        ResponderBuilder { fabric: self.clone(), name: group_named(name) }
    }

    async fn ask(self, event: Result<Event>, timeout: Duration) -> Result<Event> {
        let describe = |error| self.describe(error, "request");
        let mut event = event.map_err(describe)?;
        event.stamp(Now::read(), &self.shared.stamp);
        let name = &self.info().name;
        let capabilities = self.capabilities();
        capabilities.demand(Ability::RequestReply, name).map_err(describe)?;
        if event.topic().is_reserved() {
            return Err(describe(Error::new(
                ErrorKind::InvalidTopic,
                format!("`{}` is reserved for Fabric itself", event.topic()),
            )));
        }
        if let (Some(limit), Some(len)) = (capabilities.max_payload, event.payload().known_len())
            && len > limit
        {
            let text = format!("the request takes {len} bytes, `{name}` takes {limit}");
            return Err(describe(Error::new(ErrorKind::TooLarge, text)));
        }
        let Some(family) = self.shared.backend.request_reply() else {
            return Err(describe(Error::unsupported("request and reply", name)));
        };
        family.request(event, timeout).await.map_err(describe)
    }
}

struct Ask {
    fabric: Fabric,
    event: Result<Event>,
    timeout: Duration,
}

/// A request under way; see [`Fabric::request`].
#[must_use = "a request is sent when this is awaited"]
pub struct AskFor<R: IntoRequest>(Call<Ask, Result<R::Reply>>);

impl<R: IntoRequest> AskFor<R> {
    /// Waits no longer than `timeout` for the answer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.spec(|ask| ask.timeout = timeout);
        self
    }
}

impl<R: IntoRequest> Future for AskFor<R> {
    type Output = Result<R::Reply>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, |ask| async move {
            let reply = ask.fabric.ask(ask.event, ask.timeout).await?;
            R::read_reply(reply).map_err(|error| error.with_operation("request"))
        })
    }
}

impl<R: IntoRequest> fmt::Debug for AskFor<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskFor")
    }
}

/// A responder in the making; see [`Fabric::responder`].
#[derive(Debug)]
#[must_use = "a responder answers once it has been started"]
pub struct ResponderBuilder {
    fabric: Fabric,
    name: Result<Group>,
}

impl ResponderBuilder {
    pub(crate) fn into_parts(self) -> (Fabric, Result<Group>) {
        (self.fabric, self.name)
    }

    /// Registers for the requests on `patterns`; resolves once they reach it. Each is answered by
    /// [`Request::reply`](crate::Request::reply).
    ///
    /// # Errors
    /// `InvalidTopic`, `Unsupported` where the stack has no requests, `Closed`.
    ///
    /// # Cancel safety
    /// No responder stays behind.
    pub async fn serve(self, patterns: impl IntoPatterns) -> Result<Requests> {
        let Self { fabric, name } = self;
        let describe = |error| fabric.describe(error, "respond");
        let options = RespondOptions::new(
            patterns.into_patterns().map_err(describe)?,
            name.map_err(describe)?,
        );
        let backend = &fabric.info().name;
        fabric.capabilities().demand(Ability::RequestReply, backend).map_err(describe)?;
        let Some(family) = fabric.shared.backend.request_reply() else {
            return Err(describe(Error::unsupported("request and reply", backend)));
        };
        family.respond(options).await.map_err(describe)
    }
}
