//! Batch handlers: several events in one call, a verdict for each.

use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::handler::{Context, HandlerError, HandlerResult, panic_text};
use super::routes::Takes;
use crate::event::Event;
use crate::typed::{Typed, TypedEvent};
use crate::{Error, ErrorKind, Result};

/// How many events are gathered for one call of a batch handler.
///
/// ```
/// use fabric_core::Gather;
/// use std::time::Duration;
/// let gather = Gather::up_to(100).bytes(1 << 20).within(Duration::from_millis(50));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Gather {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) within: Duration,
}

impl Gather {
    /// At most so many events; what is there goes at once unless [`within`](Self::within) is set.
    pub const fn up_to(events: usize) -> Self {
        Self { events, bytes: usize::MAX, within: Duration::ZERO }
    }

    /// No further event once so many bytes of payload and headers are gathered.
    pub const fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Waits so long for further events after the first.
    pub const fn within(mut self, linger: Duration) -> Self {
        self.within = linger;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.events == 0 || self.bytes == 0 {
            return Err(Error::new(
                ErrorKind::Config,
                "a batch of zero events or bytes would never be handled",
            ));
        }
        Ok(())
    }
}

/// What becomes of one event of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is done.
    Ack,
    /// It failed and is tried again, as the retry policy says.
    Retry(String),
    /// It goes to the dead letters, with the reason.
    Reject(String),
}

/// What a batch handler may return: nothing, for all done, or a verdict for each event.
pub trait IntoVerdicts: Send + 'static {
    /// The verdicts, in the order of the events; none for all done.
    fn into_verdicts(self) -> Option<Vec<Verdict>>;
}

impl IntoVerdicts for () {
    fn into_verdicts(self) -> Option<Vec<Verdict>> {
        None
    }
}

impl IntoVerdicts for Vec<Verdict> {
    fn into_verdicts(self) -> Option<Vec<Verdict>> {
        Some(self)
    }
}

/// A batch handler's try: verdicts for those that could be read, or why all of them failed.
pub(crate) type BatchTry = BoxFuture<'static, HandlerResult<Option<Vec<Verdict>>>>;

/// The handler's future, and what kept each event from being read.
pub(crate) type Begun = (HandlerResult<BatchTry>, Vec<Option<Error>>);

/// A handler of batches, whatever its type.
pub(crate) trait HandleBatch<S>: Send + Sync {
    /// Begins a try with the events that can be read.
    fn call(&self, events: &[Event], context: Context<S>) -> Begun;

    /// What the handler is called in warnings.
    fn name(&self) -> &'static str;
}

pub(crate) struct TypedBatch<T, F>(F, PhantomData<fn(T)>);

impl<T, F> TypedBatch<T, F> {
    pub(crate) const fn new(handler: F) -> Self {
        Self(handler, PhantomData)
    }
}

impl<S, T, F, Fut, V> HandleBatch<S> for TypedBatch<T, F>
where
    S: Send + Sync + 'static,
    T: TypedEvent,
    F: FnOnce(Vec<Typed<T>>, Context<S>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult<V>> + Send + 'static,
    V: IntoVerdicts,
{
    fn call(&self, events: &[Event], context: Context<S>) -> Begun {
        let mut typed = Vec::with_capacity(events.len());
        let mut faults = Vec::with_capacity(events.len());
        for event in events {
            match event.decode::<T>() {
                Ok(value) => {
                    typed.push(value);
                    faults.push(None);
                }
                Err(error) => faults.push(Some(error)),
            }
        }
        let begun = catch_unwind(AssertUnwindSafe(|| (self.0.clone())(typed, context)));
        let future =
            begun.map_err(|panic| HandlerError::transient(panic_text(&*panic))).map(|future| {
                let future: BatchTry = Box::pin(async move { Ok(future.await?.into_verdicts()) });
                future
            });
        (future, faults)
    }

    fn name(&self) -> &'static str {
        std::any::type_name::<F>()
    }
}

/// The one handler of a batch consumer.
pub(crate) struct BatchRoute<S> {
    pub(crate) gather: Gather,
    pub(crate) takes: Takes,
    pub(crate) handler: Arc<dyn HandleBatch<S>>,
}
