//! Handlers: plain async functions of an event and a context.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Duration;

use super::runner::{Runner, runner};
use crate::chunk::Chunk;
use crate::delivery::{Delivery, Lease};
use crate::event::{Event, IntoEvent};
use crate::fabric::Fabric;
use crate::group::Group;
use crate::position::Position;
use crate::typed::{Typed, TypedEvent};
use crate::{Error, Result};

/// What a handler returns: outputs to publish before the input is settled, or why it failed.
pub type HandlerResult<O = ()> = std::result::Result<O, HandlerError>;

/// Why a handler failed. Any error becomes a transient one by `?`.
pub struct HandlerError {
    cause: Box<dyn StdError + Send + Sync>,
    permanent: bool,
    retry_after: Option<Duration>,
}

impl HandlerError {
    /// A failure that another try may mend.
    pub fn transient(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { cause: cause.into(), permanent: false, retry_after: None }
    }

    /// A failure that no other try can mend: the event becomes a dead letter.
    pub fn permanent(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { cause: cause.into(), permanent: true, retry_after: None }
    }

    /// Asks for the next try after `wait`, whatever the policy's own wait is.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Whether no other try can mend it.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// The wait that the handler asked for.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same as a boxed error, for code between handler and consumer that passes boxed errors
    /// on: `?` and `into()` give this very error back, with its class and its wait.
    ///
    /// ```
    /// use fabric_core::HandlerError;
    ///
    /// let passed_on = HandlerError::permanent("a step of no plan").into_boxed();
    /// assert_eq!(passed_on.to_string(), "a step of no plan");
    /// assert!(HandlerError::from(passed_on).is_permanent());
    /// ```
    #[must_use]
    pub fn into_boxed(self) -> Box<dyn StdError + Send + Sync> {
        Box::new(Boxed(self))
    }

    /// The error and its causes, as one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.cause.to_string();
        let mut source = self.cause.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for HandlerError {
    fn from(cause: E) -> Self {
        match cause.into().downcast::<Boxed>() {
            Ok(boxed) => boxed.0,
            Err(cause) => Self::transient(cause),
        }
    }
}

/// A handler's error on its way through code that knows only boxed errors.
#[derive(Debug)]
struct Boxed(HandlerError);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.cause, f)
    }
}

impl StdError for Boxed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.source()
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = if self.permanent { "permanent" } else { "transient" };
        write!(f, "{class}: {}", self.chain())
    }
}

/// The events that a handler returned.
pub type Outputs = Vec<Result<Event>>;

/// What a handler may return: nothing, an event, a typed event, several, perhaps none, pairs.
pub trait IntoOutputs: Send + 'static {
    /// Adds the events to `outputs`.
    fn into_outputs(self, outputs: &mut Outputs);
}

impl IntoOutputs for () {
    fn into_outputs(self, _: &mut Outputs) {}
}

impl<E: IntoEvent + Send + 'static> IntoOutputs for E {
    fn into_outputs(self, outputs: &mut Outputs) {
        outputs.push(self.into_event());
    }
}

impl<O: IntoOutputs> IntoOutputs for Vec<O> {
    fn into_outputs(self, outputs: &mut Outputs) {
        self.into_iter().for_each(|output| output.into_outputs(outputs));
    }
}

impl<O: IntoOutputs> IntoOutputs for Option<O> {
    fn into_outputs(self, outputs: &mut Outputs) {
        if let Some(output) = self {
            output.into_outputs(outputs);
        }
    }
}

impl<A: IntoOutputs, B: IntoOutputs> IntoOutputs for (A, B) {
    fn into_outputs(self, outputs: &mut Outputs) {
        self.0.into_outputs(outputs);
        self.1.into_outputs(outputs);
    }
}

/// What a handler knows beside the event. Cheap to clone.
pub struct Context<S = ()>(Arc<Known<S>>);

/// What a context knows. It serves one try after the other: those of one chunk differ in two
/// numbers, so that a new one costs no count of a handle up and down.
struct Known<S> {
    shared: Arc<Shared<S>>,
    chunk: Option<Arc<Chunk>>,
    /// The delivery's place in the chunk, and below it which try this is.
    which: AtomicU64,
}

/// What all handlers of one consumer share.
pub(crate) struct Shared<S> {
    pub(crate) state: S,
    pub(crate) fabric: Fabric,
    pub(crate) group: Group,
    pub(crate) draining: AtomicBool,
}

impl<S> Context<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>, delivery: Option<&Delivery>, attempt: u32) -> Self {
        let (chunk, index) = delivery
            .map_or((None, 0), |delivery| (Some(Arc::clone(delivery.chunk())), delivery.index()));
        let which = AtomicU64::new(which(index, attempt));
        Self(Arc::new(Known { shared, chunk, which }))
    }

    /// Makes this the context of another try, unless somebody else has it still.
    pub(crate) fn renew(&mut self, delivery: &Delivery, attempt: u32) -> bool {
        if Arc::strong_count(&self.0) != 1 {
            return false;
        }
        // Whoever had it has read what was there.
        fence(Ordering::Acquire);
        if self.0.chunk.as_ref().is_none_or(|chunk| !Arc::ptr_eq(chunk, delivery.chunk())) {
            let Some(known) = Arc::get_mut(&mut self.0) else { return false };
            known.chunk = Some(Arc::clone(delivery.chunk()));
        }
        self.0.which.store(which(delivery.index(), attempt), Ordering::Relaxed);
        true
    }

    /// The same of no delivery, unless somebody else has it still.
    pub(crate) fn blank(mut self) -> Option<Self> {
        Arc::get_mut(&mut self.0)?.chunk = None;
        Some(self)
    }

    fn lease(&self) -> Option<Lease> {
        let index = (self.0.which.load(Ordering::Relaxed) >> 32) as u32;
        self.0.chunk.as_ref().map(|chunk| Lease::new(Arc::clone(chunk), index))
    }

    /// The state that the consumer was given.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.0.shared.state
    }

    /// The fabric that the event came from.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.0.shared.fabric
    }

    /// The consumer's group; for a responder its name.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.0.shared.group
    }

    /// How often this event was tried, this try included, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.which.load(Ordering::Relaxed) as u32
    }

    /// Where the event lies, if anything keeps it.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.lease()?.position()
    }

    /// Whether the consumer takes no new work: a long handler may want to come to an end.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.0.shared.draining.load(Ordering::Acquire)
    }

    /// Begins the event's lease anew. The consumer does so itself while a handler runs.
    ///
    /// # Errors
    /// `StaleAck` after the lease moved; the handler is cancelled then anyway.
    ///
    /// # Cancel safety
    /// The lease may or may not have been extended.
    pub fn progress(&self) -> impl Future<Output = Result<()>> + Send + use<S> {
        let lease = self.lease();
        async move {
            match lease {
                Some(lease) => lease.extend().await,
                None => Ok(()),
            }
        }
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("group", self.group())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

const fn which(index: u32, attempt: u32) -> u64 {
    (index as u64) << 32 | attempt as u64
}

/// A handler of one kind of event, whatever its type.
pub(crate) trait Handle<S>: Send + Sync {
    /// What runs it for one worker.
    fn runner(self: Arc<Self>) -> Box<dyn Runner<S>>;

    /// What the handler is called in warnings.
    fn name(&self) -> &'static str;
}

/// A handler of typed events.
pub(crate) struct TypedHandler<T, F>(F, PhantomData<fn(T)>);

impl<T, F> TypedHandler<T, F> {
    pub(crate) const fn new(handler: F) -> Self {
        Self(handler, PhantomData)
    }
}

impl<S, T, F, Fut, O> Handle<S> for TypedHandler<T, F>
where
    S: Send + Sync + 'static,
    T: TypedEvent,
    F: FnOnce(Typed<T>, Context<S>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult<O>> + Send + 'static,
    O: IntoOutputs,
{
    fn runner(self: Arc<Self>) -> Box<dyn Runner<S>> {
        runner(Event::decode::<T>, move |typed, context| (self.0.clone())(typed, context))
    }

    fn name(&self) -> &'static str {
        std::any::type_name::<F>()
    }
}

/// A handler of events as they are.
pub(crate) struct EventHandler<F>(pub(crate) F);

impl<S, F, Fut, O> Handle<S> for EventHandler<F>
where
    S: Send + Sync + 'static,
    F: FnOnce(Event, Context<S>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult<O>> + Send + 'static,
    O: IntoOutputs,
{
    fn runner(self: Arc<Self>) -> Box<dyn Runner<S>> {
        let read = |event: &Event| Ok(event.clone());
        runner(read, move |event, context| (self.0.clone())(event, context))
    }

    fn name(&self) -> &'static str {
        std::any::type_name::<F>()
    }
}

/// What a caught panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    said.map_or_else(
        || "the handler panicked".to_owned(),
        |said| format!("the handler panicked: {said}"),
    )
}

/// The dead-letter text of an event that its handler cannot read.
pub(crate) fn unreadable(error: &Error) -> String {
    format!("{error:#}")
}
