//! Requests: asked of a topic, answered by one responder.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

use crate::event::{Event, IntoEvent};
use crate::group::Group;
use crate::patterns::Patterns;
use crate::typed::{Typed, TypedRequest};
use crate::{Error, ErrorKind, Result};

/// What a responder is asked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RespondOptions {
    /// The topics it answers.
    pub patterns: Patterns,
    /// Responders of one name share the requests; each request is answered by one of them.
    pub name: Group,
}

impl RespondOptions {
    /// Answers `patterns` as one of the responders called `name`.
    #[must_use]
    pub const fn new(patterns: Patterns, name: Group) -> Self {
        Self { patterns, name }
    }
}

/// What answers one request, implemented by a backend.
pub trait Replier: Send + 'static {
    /// Sends the answer, or the failure, to whoever asked.
    fn reply(self: Box<Self>, answer: Result<Event, String>) -> BoxFuture<'static, Result<()>>;
}

/// A request that waits for its answer. Dropping it leaves the caller to its timeout.
#[must_use = "a request that is dropped is never answered"]
pub struct Request {
    event: Event,
    replier: Box<dyn Replier>,
}

impl Request {
    /// A request and what answers it.
    pub fn new(event: Event, replier: impl Replier) -> Self {
        Self { event, replier: Box::new(replier) }
    }

    /// The request and what answers it, for layers.
    #[must_use]
    pub fn into_parts(self) -> (Event, Box<dyn Replier>) {
        (self.event, self.replier)
    }

    /// The request itself.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Answers it. The reply gets the request's conversation and its id as the cause, and the
    /// request's topic unless it is typed or names another.
    ///
    /// # Errors
    /// Whatever building the reply brought; `Timeout` if the caller has gone.
    ///
    /// # Cancel safety
    /// The answer may or may not have been sent.
    pub async fn reply(self, reply: impl IntoEvent) -> Result<()> {
        let mut reply = Event::of(reply).build()?;
        if reply.causation_id().is_none() {
            reply = Event::of(reply).caused_by(&self.event).build()?;
        }
        self.replier.reply(Ok(reply)).await
    }

    /// Tells the caller that the responder failed, and why: it gets `Remote`.
    ///
    /// # Errors
    /// `Timeout` if the caller has gone.
    ///
    /// # Cancel safety
    /// The failure may or may not have been sent.
    pub async fn fail(self, why: impl fmt::Display) -> Result<()> {
        self.replier.reply(Err(why.to_string())).await
    }
}

impl Deref for Request {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("event", &self.event).finish_non_exhaustive()
    }
}

/// A stream of requests to answer. Dropping it takes the responder away.
pub struct Requests(BoxStream<'static, Result<Request>>);

impl Requests {
    /// From a backend's stream.
    #[must_use]
    pub fn new(requests: impl Stream<Item = Result<Request>> + Send + 'static) -> Self {
        Self(Box::pin(requests))
    }

    /// The next request; `None` once the responder is closed.
    ///
    /// # Errors
    /// An item may be an error; the next may be fine.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Result<Request>> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }
}

impl Stream for Requests {
    type Item = Result<Request>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Requests")
    }
}

/// What can be asked: an event, answered by an event, or a typed request, answered by its reply.
pub trait IntoRequest {
    /// What the answer is read as.
    type Reply: Send + 'static;

    /// The request as an event.
    ///
    /// # Errors
    /// Whatever building it brought.
    fn into_request(self) -> Result<Event>;

    /// Reads the answer.
    ///
    /// # Errors
    /// `Codec` if the answer is not of that type.
    fn read_reply(reply: Event) -> Result<Self::Reply>;
}

impl IntoRequest for Event {
    type Reply = Self;

    fn into_request(self) -> Result<Self> {
        Ok(self)
    }

    fn read_reply(reply: Self) -> Result<Self> {
        Ok(reply)
    }
}

impl IntoRequest for crate::event::EventBuilder {
    type Reply = Event;

    fn into_request(self) -> Result<Event> {
        self.into_event()
    }

    fn read_reply(reply: Event) -> Result<Event> {
        Ok(reply)
    }
}

impl<T: TypedRequest> IntoRequest for T {
    type Reply = Typed<T::Reply>;

    fn into_request(self) -> Result<Event> {
        self.into_event()
    }

    fn read_reply(reply: Event) -> Result<Typed<T::Reply>> {
        reply.decode()
    }
}

/// The error of a responder, as its caller gets it: for backends.
#[must_use]
pub fn remote_error(why: &str) -> Error {
    Error::new(ErrorKind::Remote, format!("the responder failed: {why}"))
}
