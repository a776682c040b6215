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
use smallvec::SmallVec;
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use super::{Fabric, Shared};
use crate::batch::{Batch, Confirms, ExpectedLast, Receipt, SubmitOptions};
use crate::capabilities::{Ability, Capabilities};
use crate::event::{Event, IntoEvent, Priority, Stamp};
use crate::position::Position;
use crate::time::{Now, far_future};
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
    #[inline(always)]
    pub fn publish(&self, event: impl IntoEvent) -> Publish {
        Publish(Sending::new(&self.shared, event.into_event(), Operation::Publish))
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
        Submit(Sending::new(&self.shared, event.into_event(), Operation::Submit))
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
        if options.is_none() && event.is_plain() && event.payload().known_len().is_none() {
            return Ok(());
        }
        let capabilities = self.backend.capabilities();
        let refuse = |ability| capabilities.demand(ability, &self.backend.info().name);
        if let Some(options) = options {
            if options.expect_last.is_some() {
                refuse(Ability::ExpectLast)?;
            }
            if options.transient {
                refuse(Ability::Transient)?;
            }
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
///
/// It is moved around several times before it is polled, so that it is small: what few calls ask
/// for or come to lies behind a pointer.
struct Sending {
    shared: Arc<Shared>,
    event: Option<Result<Event>>,
    rest: Option<Box<Rest>>,
    operation: Operation,
}

#[derive(Clone, Copy)]
enum Operation {
    Publish,
    Submit,
}

/// What a call asks for beside the event, and how far it is where that takes time.
#[derive(Default)]
struct Rest {
    options: SubmitOptions,
    timeout: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    submitting: Option<BoxFuture<'static, Result<Confirms>>>,
    confirming: Option<Confirms>,
}

impl Sending {
    #[inline(always)]
    fn new(shared: &Arc<Shared>, event: Result<Event>, operation: Operation) -> Self {
        Self { shared: Arc::clone(shared), event: Some(event), rest: None, operation }
    }

    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// Hands the event over where it was not yet; `known` takes confirms that came at once.
    ///
    /// Nothing here moves the batch or the answer: moving what was just written costs as much as
    /// an atomic operation.
    #[inline(always)]
    fn start<R>(
        &mut self,
        known: impl FnOnce(&mut Self, Confirms) -> Option<Result<R>>,
    ) -> Option<Result<R>> {
        let checked = match self.event.as_ref()? {
            Ok(event) => self.shared.check(event, self.rest.as_ref().map(|rest| &rest.options)),
            Err(_) => Ok(()),
        };
        let event = match checked.and(self.event.take()?) {
            Ok(event) => event,
            Err(error) => return Some(Err(self.describe(error))),
        };
        let batch = Rest::batch(self.rest.as_deref_mut(), event, &self.shared.stamp);
        match self.shared.backend.try_submit(batch) {
            Ok(confirms) => known(self, confirms),
            Err(batch) => {
                self.wait(batch);
                None
            }
        }
    }

    /// The way of a batch that has to wait for room.
    #[cold]
    fn wait(&mut self, batch: Batch) {
        let shared = Arc::clone(&self.shared);
        let rest = self.rest();
        rest.timer = batch.deadline().map(|at| Box::pin(tokio::time::sleep_until(at)));
        rest.submitting = Some(Box::pin(async move { shared.backend.submit(batch).await }));
    }

    /// The way of an answer that is still to come, or is not the usual one.
    #[cold]
    fn confirm(&mut self, confirms: Confirms) {
        let rest = self.rest();
        rest.confirming = Some(confirms);
        if let (Some(timeout), None) = (rest.timeout, &rest.timer) {
            rest.timer = Some(Box::pin(tokio::time::sleep(timeout)));
        }
    }

    /// Resolves once the event is handed over.
    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Confirms>> {
        let Some(rest) = &mut self.rest else { return Poll::Pending };
        let Some(submitting) = &mut rest.submitting else { return Poll::Pending };
        let Poll::Ready(confirms) = submitting.as_mut().poll(cx) else {
            return self.poll_timer(cx).map(Err);
        };
        rest.submitting = None;
        Poll::Ready(confirms.map_err(|error| self.describe(error)))
    }

    #[cold]
    fn poll_confirm(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        if self.rest.as_ref().is_some_and(|rest| rest.submitting.is_some()) {
            match ready!(self.poll_submit(cx)) {
                Ok(confirms) => self.confirm(confirms),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let Some(rest) = &mut self.rest else { return Poll::Pending };
        let Some(confirming) = &mut rest.confirming else { return Poll::Pending };
        let Poll::Ready(outcomes) = Pin::new(confirming).poll(cx) else {
            return self.poll_timer(cx).map(Err);
        };
        rest.confirming = None;
        Poll::Ready(outcomes.sole().map_err(|error| self.describe(error)))
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(rest) = &mut self.rest else { return Poll::Pending };
        let Some(timer) = &mut rest.timer else { return Poll::Pending };
        ready!(timer.as_mut().poll(cx));
        let timeout = rest.timeout.unwrap_or_default();
        Poll::Ready(self.describe(Error::new(
            ErrorKind::Timeout,
            format!("no answer within {timeout:?}; the event may have been accepted"),
        )))
    }

    #[cold]
    fn describe(&self, error: Error) -> Error {
        let operation = match self.operation {
            Operation::Publish => "publish",
            Operation::Submit => "submit",
        };
        error.with_operation(operation).with_backend(&self.shared.backend.info().name)
    }
}

impl Rest {
    /// A batch of `event` with what was asked for.
    #[inline(never)]
    fn batch(rest: Option<&mut Self>, event: Event, stamp: &Stamp) -> Batch {
        let now = Now::read();
        let mut batch = Batch {
            options: rest.map(|rest| Box::new(rest.options(now.instant))),
            now,
            events: SmallVec::from_buf([event]),
        };
        // Where it lies now: to move what was just written costs more than to write it.
        batch.stamp(stamp);
        batch
    }

    fn options(&mut self, now: Instant) -> SubmitOptions {
        let later = |timeout| now.checked_add(timeout).unwrap_or_else(|| far_future(now));
        let deadline = self.timeout.map(later);
        SubmitOptions { deadline, ..std::mem::take(&mut self.options) }
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
                self.0.rest().timeout = Some(timeout);
                self
            }

            /// Stores the event only if the topic's last event is the one at `position`.
            ///
            /// Where it is another, the answer is `AlreadyExists`: read on and decide again.
            pub fn expect_last(mut self, position: Position) -> Self {
                self.0.rest().options.expect_last = Some(ExpectedLast::At(position));
                self
            }

            /// Stores the event only if no event is kept in the topic: of many that begin one, one does.
            ///
            /// Where one is, the answer is `AlreadyExists`.
            pub fn expect_empty(mut self) -> Self {
                self.0.rest().options.expect_last = Some(ExpectedLast::Nothing);
                self
            }

            /// Need not survive the broker's death.
            pub fn transient(mut self) -> Self {
                self.0.rest().options.transient = true;
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
        let budget = ready!(coop::poll_proceed(cx));
        let receipt = self.0.start(|sending, confirms| match confirms.try_stored() {
            Ok(receipt) => Some(Ok(receipt)),
            Err(confirms) => {
                sending.confirm(confirms);
                None
            }
        });
        let receipt = receipt.map_or_else(|| self.0.poll_confirm(cx), Poll::Ready);
        if receipt.is_ready() {
            budget.made_progress();
        }
        receipt
    }
}

/// A submit under way; see [`Fabric::submit`].
#[must_use = "an event is submitted when this is awaited"]
pub struct Submit(Sending);
setters!(Submit);

impl Future for Submit {
    type Output = Result<Confirm>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Confirm>> {
        let budget = ready!(coop::poll_proceed(cx));
        let submitted = self.0.start(|_, confirms| Some(Ok(confirms)));
        let submitted = submitted.map_or_else(|| self.0.poll_submit(cx), Poll::Ready);
        if submitted.is_ready() {
            budget.made_progress();
        }
        let shared = &self.0.shared;
        submitted.map_ok(|confirms| Confirm { confirms, shared: Arc::clone(shared) })
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
        let result = outcomes.sole();
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
