//! What runs a handler: a place for its future that one try after the other uses, the events and
//! contexts that go in, and what watches over its polls.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, ready};

use futures_core::future::BoxFuture;

use super::busy::Busy;
use super::handler::{
    Context, Handle, HandlerError, HandlerResult, IntoOutputs, Outputs, Shared, panic_text,
};
use crate::delivery::Delivery;
use crate::event::Event;
use crate::topic::Topic;
use crate::watch::Works;
use crate::{Error, Result};

/// Runs one handler for one worker, one try at a time.
pub(crate) trait Runner<S>: Send {
    /// Begins a try.
    ///
    /// # Errors
    /// What the decoder said where the event is not of the handler's type.
    fn begin(&mut self, event: &Event, context: Context<S>) -> Result<()>;

    /// Goes on with the try that began.
    fn poll(&mut self, cx: &mut Task<'_>) -> Poll<HandlerResult<Outputs>>;

    /// Drops what is left of the try.
    fn end(&mut self);
}

/// A runner whose tries read an event, and call the handler with what they read.
pub(crate) fn runner<S, I, Fut, O>(
    read: fn(&Event) -> Result<I>,
    call: impl Fn(I, Context<S>) -> Fut + Send + 'static,
) -> Box<dyn Runner<S>>
where
    S: 'static,
    I: 'static,
    Fut: Future<Output = HandlerResult<O>> + Send + 'static,
    O: IntoOutputs,
{
    Box::new(Reused { read, call, future: Box::pin(None) })
}

/// A runner that allocated the place of its futures once.
struct Reused<I, C, Fut> {
    read: fn(&Event) -> Result<I>,
    call: C,
    future: Pin<Box<Option<Fut>>>,
}

impl<S, I, C, Fut, O> Runner<S> for Reused<I, C, Fut>
where
    C: Fn(I, Context<S>) -> Fut + Send,
    Fut: Future<Output = HandlerResult<O>> + Send,
    O: IntoOutputs,
{
    fn begin(&mut self, event: &Event, context: Context<S>) -> Result<()> {
        let read = (self.read)(event)?;
        // Made where it is to lie: a handler's future may be large.
        self.future.set(Some((self.call)(read, context)));
        Ok(())
    }

    fn poll(&mut self, cx: &mut Task<'_>) -> Poll<HandlerResult<Outputs>> {
        let Some(future) = self.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let ended = ready!(future.poll(cx));
        self.future.set(None);
        Poll::Ready(ended.map(|output| {
            let mut outputs = Outputs::new();
            output.into_outputs(&mut outputs);
            outputs
        }))
    }

    fn end(&mut self) {
        self.future.set(None);
    }
}

/// How a try ended.
pub(crate) enum Outcome {
    Done(Outputs),
    Failed(HandlerError),
    /// The event cannot be read as the handler's type.
    Unreadable(Error),
    /// The lease ended: the event belongs to another.
    Lost,
}

impl From<Caught<HandlerResult<Outputs>>> for Outcome {
    fn from(ended: Caught<HandlerResult<Outputs>>) -> Self {
        match ended {
            Ok(Ok(outputs)) => Self::Done(outputs),
            Ok(Err(failure)) => Self::Failed(failure),
            Err(panic) => Self::Failed(HandlerError::transient(panic_text(&*panic))),
        }
    }
}

/// What code of the user's returned, or the panic that ended it.
pub(crate) type Caught<R> = Result<R, Box<dyn Any + Send>>;

/// What one worker has for itself: a runner per handler, and the context that they are given.
pub(crate) struct Worker<S> {
    pub(crate) busy: Arc<Busy>,
    /// By route; one beyond them is the fallback.
    runners: Vec<Option<Box<dyn Runner<S>>>>,
    context: Option<Context<S>>,
    /// Which route the events of the last topic took that say no type.
    pub(crate) usual: Option<(Topic, usize)>,
}

impl<S: Send + Sync + 'static> Worker<S> {
    pub(crate) const fn new(busy: Arc<Busy>) -> Self {
        Self { busy, runners: Vec::new(), context: None, usual: None }
    }

    /// The runner of a route's handler, made with its first event, and what watches it.
    pub(crate) fn runner(
        &mut self,
        route: usize,
        handler: &Arc<dyn Handle<S>>,
    ) -> (&Busy, &mut (dyn Runner<S> + 'static)) {
        if self.runners.len() <= route {
            self.runners.resize_with(route + 1, || None);
        }
        let runner = self.runners[route].get_or_insert_with(|| Arc::clone(handler).runner());
        (&self.busy, &mut **runner)
    }

    /// The context of one try. A handler that keeps it has it for itself from then on.
    pub(crate) fn context(
        &mut self,
        shared: &Arc<Shared<S>>,
        delivery: &Delivery,
        attempt: u32,
    ) -> Context<S> {
        if let Some(context) = &mut self.context
            && context.renew(delivery, attempt)
        {
            return context.clone();
        }
        let context = Context::new(Arc::clone(shared), Some(delivery), attempt);
        self.context.insert(context).clone()
    }

    /// Lets go of the last event, where it may be long until the next.
    pub(crate) fn rest(&mut self) {
        self.context = self.context.take().and_then(Context::blank);
    }
}

/// A try under way. Dropped before its end it drops what is left of the handler's future.
pub(crate) enum Trying<'a, S> {
    Bare(Begun<'a, S>),
    /// In the sight of the layers.
    Watched(BoxFuture<'a, HandlerResult<Outputs>>),
}

impl<'a, S: 'static> Trying<'a, S> {
    /// Goes on with what `runner` has begun, in the sight of the layers; its outputs belong to the
    /// trace that they made of it.
    pub(crate) fn new(works: Works, runner: &'a mut dyn Runner<S>) -> Self {
        let begun = Begun(runner);
        if works.is_empty() {
            return Self::Bare(begun);
        }
        Self::Watched(Box::pin(async move {
            let origin = works.origin();
            let mut outputs = works.run(begun).await?;
            for output in outputs.iter_mut().flatten() {
                if let (Some(origin), None) = (&origin, output.trace()) {
                    output.set_trace(origin.clone());
                }
            }
            Ok(outputs)
        }))
    }
}

impl<S> Future for Trying<'_, S> {
    type Output = HandlerResult<Outputs>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Bare(begun) => Pin::new(begun).poll(cx),
            Self::Watched(future) => future.as_mut().poll(cx),
        }
    }
}

/// A runner that has a try to end.
pub(crate) struct Begun<'a, S>(&'a mut dyn Runner<S>);

impl<S> Future for Begun<'_, S> {
    type Output = HandlerResult<Outputs>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

impl<S> Drop for Begun<'_, S> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A handler whose panics are caught and whose polls are watched.
pub(crate) struct Guarded<'a, F> {
    pub(crate) future: F,
    pub(crate) busy: &'a Busy,
    pub(crate) route: usize,
    pub(crate) name: &'static str,
}

impl<F: Future + Unpin> Future for Guarded<'_, F> {
    type Output = Caught<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.busy.enter(this.route);
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.future).poll(cx)));
        this.busy.leave();
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(Ok(result)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}
