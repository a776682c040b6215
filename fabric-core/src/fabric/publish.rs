//! Publishing: one event, many, awaited or pipelined.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_core::future::BoxFuture;
use smallvec::smallvec;
use tokio::task::coop;
use tokio::time::Sleep;

use super::{Fabric, Shared};
use crate::batch::{Batch, Confirms, Outcomes, Receipt, SubmitOptions, only};
use crate::capabilities::{Ability, Capabilities};
use crate::event::{Event, IntoEvent, Priority};
use crate::position::Position;
use crate::time::far_future;
use crate::{Error, ErrorKind, Result};

impl Fabric {
    /// Publishes one event and resolves once it is confirmed.
    ///
    /// The call is a future with setters: `publish(event).timeout(limit).await`. Nothing happens
    /// before it is first polled.
    ///
    /// # Errors
    /// With `retry()` `Never` or `Safe` the event was certainly not accepted: `InvalidTopic`,
    /// `InvalidEvent`, `TooLarge`, `Unsupported`, `Full`, `Closed`, `Codec`. With `Ambiguous`
    /// nobody knows: `Timeout`, `Connect`, `Backend`.
    ///
    /// # Cancel safety
    /// Dropped after the first poll, the event may or may not have been accepted.
    pub fn publish(&self, event: impl IntoEvent) -> Publish {
        Publish(Sending::new(&self.shared, event.into_event()))
    }

    /// Hands one event over and resolves with its confirm, for pipelining: events submitted one
    /// after the other keep their order.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), for what is known before the event is handed over.
    ///
    /// # Cancel safety
    /// Dropped after the first poll, the event may or may not have been handed over. Dropping the
    /// confirm abandons the answer, not the event.
    pub fn submit(&self, event: impl IntoEvent) -> Submit {
        Submit(Sending::new(&self.shared, event.into_event()))
    }

    /// Publishes a stream, pipelined; yields one result per event, in input order.
    ///
    /// Items may be results, so that an import hands its own errors through.
    ///
    /// # Cancel safety
    /// Dropping the stream abandons the answers of what was submitted, and what was not is not.
    pub fn publish_all<S>(&self, events: S) -> PublishAll<S>
    where
        S: Stream<Item: IntoEvent>,
    {
        PublishAll {
            fabric: self.clone(),
            events: Some(Box::pin(events)),
            in_flight: self.shared.max_in_flight,
            submitting: None,
            waiting: VecDeque::new(),
        }
    }
}

impl Shared {
    /// Refuses what this stack cannot do with `event`, before anything is sent.
    fn check(&self, event: &Event, options: Option<&SubmitOptions>) -> Result<()> {
        if event.topic().is_reserved() {
            return Err(Error::new(
                ErrorKind::InvalidTopic,
                format!(
                    "`{}` is reserved: topics under `dlq.`, `_reply.` and `_fabric.` are written by Fabric alone",
                    event.topic()
                ),
            )
            .with("topic", event.topic()));
        }
        let capabilities = self.backend.capabilities();
        let refuse = |ability| capabilities.demand(ability, &self.backend.info().name);
        if options.is_some_and(|options| options.expect_last.is_some()) {
            refuse(Ability::ExpectLast)?;
        }
        if options.is_some_and(|options| options.transient) {
            refuse(Ability::Transient)?;
        }
        self.check_size(event, &capabilities)?;
        if event.is_plain() {
            return Ok(());
        }
        if event.ttl().is_some() {
            refuse(Ability::Ttl)?;
        }
        if event.has_due() {
            refuse(Ability::Delay)?;
        }
        if event.priority() != Priority::Normal {
            refuse(Ability::Priority)?;
        }
        Ok(())
    }

    fn check_size(&self, event: &Event, capabilities: &Capabilities) -> Result<()> {
        let too_large = |what: &str, have: usize, limit: usize| {
            Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the {what} take {have} bytes, `{}` takes {limit}",
                    self.backend.info().name
                ),
            )
            .with("topic", event.topic())
        };
        if let (Some(limit), Some(len)) = (capabilities.max_payload, event.payload().known_len())
            && len > limit
        {
            return Err(too_large("payload's contents", len, limit));
        }
        if let Some(limit) = capabilities.max_headers
            && event.headers_size() > limit
        {
            return Err(too_large("headers", event.headers_size(), limit));
        }
        Ok(())
    }
}

/// One event on its way: checked, handed over, confirmed.
struct Sending {
    shared: Arc<Shared>,
    event: Option<Result<Event>>,
    /// What most calls do not ask for.
    rare: Option<Box<Rare>>,
    state: State,
}

#[derive(Default)]
struct Rare {
    options: SubmitOptions,
    timeout: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
}

enum State {
    Start,
    Submitting(BoxFuture<'static, Result<Confirms>>),
    Confirming(BoxFuture<'static, Outcomes>),
}

impl Sending {
    #[inline]
    fn new(shared: &Arc<Shared>, event: Result<Event>) -> Self {
        Self { shared: Arc::clone(shared), event: Some(event), rare: None, state: State::Start }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Checks the event and hands it over; the confirms where that took no waiting.
    #[inline]
    fn begin(&mut self) -> Result<Option<Confirms>> {
        let Some(event) = self.event.take() else { return Ok(None) };
        let event = event?;
        self.shared.check(&event, self.rare.as_ref().map(|rare| &rare.options))?;
        let mut batch = Batch::stamped(smallvec![event], &self.shared.stamp);
        if let Some(rare) = &mut self.rare {
            rare.options.deadline = rare.timeout.map(|timeout| {
                let now = batch.now.instant;
                now.checked_add(timeout).unwrap_or_else(|| far_future(now))
            });
            batch.options = Some(Box::new(rare.options.clone()));
        }
        match self.shared.backend.try_submit(batch) {
            Ok(confirms) => Ok(Some(confirms)),
            Err(batch) => {
                if let Some(at) = batch.deadline() {
                    self.rare().timer = Some(Box::pin(tokio::time::sleep_until(at)));
                }
                let shared = Arc::clone(&self.shared);
                let submitting = async move { shared.backend.submit(batch).await };
                self.state = State::Submitting(Box::pin(submitting));
                Ok(None)
            }
        }
    }

    /// Hands the event over and resolves with its confirms.
    #[inline]
    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Confirms>> {
        if let State::Start = self.state {
            ready!(coop::poll_proceed(cx)).made_progress();
            match self.begin() {
                Ok(Some(confirms)) => return Poll::Ready(Ok(confirms)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let State::Submitting(submitting) = &mut self.state else { return Poll::Pending };
        match submitting.as_mut().poll(cx) {
            Poll::Ready(confirms) => {
                self.state = State::Start;
                Poll::Ready(confirms)
            }
            Poll::Pending => self.poll_timer(cx).map(Err),
        }
    }

    #[inline]
    fn poll_receipt(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        if !matches!(self.state, State::Confirming(_)) {
            let confirms = ready!(self.poll_submit(cx))?;
            match confirms.try_one() {
                Ok(result) => return Poll::Ready(result),
                Err(pending) => self.state = State::Confirming(pending),
            }
            if let Some(rare) = &mut self.rare
                && let (Some(timeout), None) = (rare.timeout, &rare.timer)
            {
                rare.timer = Some(Box::pin(tokio::time::sleep(timeout)));
            }
        }
        let State::Confirming(confirms) = &mut self.state else { return Poll::Pending };
        match confirms.as_mut().poll(cx) {
            Poll::Ready(outcomes) => Poll::Ready(only(Some(outcomes))),
            Poll::Pending => self.poll_timer(cx).map(Err),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(rare) = &mut self.rare else { return Poll::Pending };
        let Some(timer) = &mut rare.timer else { return Poll::Pending };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Error::new(
            ErrorKind::Timeout,
            format!(
                "no answer within {:?}; the event may have been accepted",
                rare.timeout.unwrap_or_default()
            ),
        ))
    }

    #[cold]
    fn describe(&self, error: Error, operation: &'static str) -> Error {
        error.with_operation(operation).with_backend(&self.shared.backend.info().name)
    }
}

macro_rules! setters {
    ($name:ident) => {
        impl $name {
            /// Waits no longer than `timeout` for room and for the answer.
            ///
            /// Where the wait for room ends it, the event was certainly not accepted (`Full`);
            /// afterwards nobody knows (`Timeout`).
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.0.rare().timeout = Some(timeout);
                self
            }

            /// Stores the event only if the topic's last event is the one at `position`.
            pub fn expect_last(mut self, position: Position) -> Self {
                self.0.rare().options.expect_last = Some(position);
                self
            }

            /// Need not survive the broker's death.
            pub fn transient(mut self) -> Self {
                self.0.rare().options.transient = true;
                self
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("event", &self.0.event)
                    .finish_non_exhaustive()
            }
        }
    };
}

/// A publish under way; see [`Fabric::publish`].
#[must_use = "an event is published when this is awaited"]
pub struct Publish(Sending);
setters!(Publish);

impl Future for Publish {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        match ready!(self.0.poll_receipt(cx)) {
            Ok(receipt) => Poll::Ready(Ok(receipt)),
            Err(error) => Poll::Ready(Err(self.0.describe(error, "publish"))),
        }
    }
}

/// A submit under way; see [`Fabric::submit`].
#[must_use = "an event is submitted when this is awaited"]
pub struct Submit(Sending);
setters!(Submit);

impl Future for Submit {
    type Output = Result<Confirm>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Confirm>> {
        match ready!(self.0.poll_submit(cx)) {
            Ok(confirms) => {
                Poll::Ready(Ok(Confirm { confirms, shared: Arc::clone(&self.0.shared) }))
            }
            Err(error) => Poll::Ready(Err(self.0.describe(error, "submit"))),
        }
    }
}

/// The answer to come for one submitted event. Dropping it abandons the answer, not the event.
#[must_use = "a submitted event is confirmed by awaiting this"]
pub struct Confirm {
    confirms: Confirms,
    shared: Arc<Shared>,
}

impl Future for Confirm {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        let outcomes = ready!(Pin::new(&mut self.confirms).poll(cx));
        let result = only(Some(outcomes));
        let name = &self.shared.backend.info().name;
        Poll::Ready(result.map_err(|error| error.with_operation("submit").with_backend(name)))
    }
}

impl fmt::Debug for Confirm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Confirm")
    }
}

/// A stream of results; see [`Fabric::publish_all`].
#[must_use = "events are published as this stream is read"]
pub struct PublishAll<S> {
    fabric: Fabric,
    events: Option<Pin<Box<S>>>,
    in_flight: usize,
    submitting: Option<Submit>,
    waiting: VecDeque<Answer>,
}

enum Answer {
    Known(Result<Receipt>),
    Pending(Confirm),
}

impl<S> PublishAll<S> {
    /// At most this many events unconfirmed at a time.
    pub fn in_flight(mut self, events: usize) -> Self {
        self.in_flight = events.max(1);
        self
    }
}

impl<S: Stream<Item: IntoEvent>> PublishAll<S> {
    /// Submits while there is room; `true` once it waits for nothing but confirms.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            if let Some(submitting) = &mut self.submitting {
                match Pin::new(submitting).poll(cx) {
                    Poll::Pending => return false,
                    Poll::Ready(Ok(confirm)) => self.waiting.push_back(Answer::Pending(confirm)),
                    Poll::Ready(Err(error)) => self.waiting.push_back(Answer::Known(Err(error))),
                }
                self.submitting = None;
            }
            if self.waiting.len() >= self.in_flight {
                return true;
            }
            let Some(events) = &mut self.events else { return true };
            match events.as_mut().poll_next(cx) {
                Poll::Pending => return false,
                Poll::Ready(None) => self.events = None,
                Poll::Ready(Some(event)) => self.submitting = Some(self.fabric.submit(event)),
            }
        }
    }
}

impl<S: Stream<Item: IntoEvent>> Stream for PublishAll<S> {
    type Item = Result<Receipt>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let filled = this.poll_fill(cx);
        let answer = match this.waiting.front_mut() {
            None if filled && this.events.is_none() => return Poll::Ready(None),
            None => return Poll::Pending,
            Some(Answer::Pending(confirm)) => ready!(Pin::new(confirm).poll(cx)),
            Some(Answer::Known(_)) => match this.waiting.pop_front() {
                Some(Answer::Known(result)) => return Poll::Ready(Some(result)),
                _ => return Poll::Pending,
            },
        };
        this.waiting.pop_front();
        Poll::Ready(Some(answer))
    }
}

impl<S> fmt::Debug for PublishAll<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishAll")
            .field("unconfirmed", &self.waiting.len())
            .finish_non_exhaustive()
    }
}
