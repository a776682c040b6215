//! Tower services as handlers.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, future::Future};

use tower_service::Service;

use super::handler::{Context, Handle, HandlerError, IntoOutputs};
use super::routes::Takes;
use super::runner::{Runner, runner};
use super::{ConsumerBuilder, Route};
use crate::event::Event;
use crate::pattern::Pattern;
use crate::typed::{Typed, TypedEvent};

/// What a [`tower`](https://docs.rs/tower) service is called with: a typed event and its context.
///
/// It derefs to the value.
pub struct Incoming<T, S = ()> {
    /// The value and its envelope.
    pub event: Typed<T>,
    /// What a handler knows beside the event.
    pub context: Context<S>,
}

impl<T, S> Deref for Incoming<T, S> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.event
    }
}

impl<T, S> Clone for Incoming<T, S> {
    fn clone(&self) -> Self {
        Self { event: self.event.clone(), context: self.context.clone() }
    }
}

impl<T: fmt::Debug, S> fmt::Debug for Incoming<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("event", &self.event)
            .field("context", &self.context)
            .finish()
    }
}

impl<S: Send + Sync + 'static> ConsumerBuilder<S> {
    /// Handles events of type `T` with a [`tower`](https://docs.rs/tower) service, and with whatever
    /// tower layers are around it.
    ///
    /// Each try takes a clone of the service, waits until that clone is ready and calls it once.
    /// What the layers are to share between tries has to be shared by their clones: a concurrency
    /// limit is; a rate limit, which is not `Clone`, stands behind a `Buffer`. Waiting for readiness
    /// is part of the try: the consumer's own `timeout` covers it, and the lease is kept meanwhile.
    ///
    /// A middleware that calls its inner service from a future does the same with the one that it
    /// polled: it puts a clone in its place and moves the ready one into the future
    /// (`let ready = std::mem::replace(&mut self.inner, clone)`), because a clone may not be ready.
    ///
    /// The service's error is a [`HandlerError`] or becomes a transient one. To say more through
    /// layers that box errors, a service fails with [`HandlerError::into_boxed`].
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use std::future::{Ready, ready};
    /// use std::task::{Context, Poll};
    ///
    /// use fabric_core::{Consumer, Fabric, Incoming, Result, TypedEvent};
    ///
    /// #[derive(Clone)]
    /// struct Print;
    ///
    /// impl<T: TypedEvent> tower_service::Service<Incoming<T>> for Print {
    ///     type Response = ();
    ///     type Error = Infallible;
    ///     type Future = Ready<Result<(), Infallible>>;
    ///
    ///     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
    ///         Poll::Ready(Ok(()))
    ///     }
    ///
    ///     fn call(&mut self, incoming: Incoming<T>) -> Self::Future {
    ///         println!("{} try {}", incoming.event.event().id(), incoming.context.attempt());
    ///         ready(Ok(()))
    ///     }
    /// }
    ///
    /// async fn start<T: TypedEvent>(fabric: Fabric) -> Result<Consumer> {
    ///     fabric.consumer("printer").on_service::<T, _>(Print).start().await
    /// }
    /// ```
    pub fn on_service<T, Svc>(mut self, service: Svc) -> Self
    where
        T: TypedEvent,
        Svc: Service<Incoming<T, S>> + Clone + Send + 'static,
        Svc::Response: IntoOutputs,
        Svc::Error: Into<HandlerError>,
        Svc::Future: Send + 'static,
    {
        match Pattern::new(T::PATTERN) {
            Ok(pattern) => self.routes.push(Route {
                takes: Takes::typed(pattern, T::TYPE),
                handler: Arc::new(ServiceHandler {
                    service: Mutex::new(service),
                    event: PhantomData::<fn(T)>,
                }),
            }),
            Err(error) => self.refuse(error),
        }
        self
    }
}

/// A service behind a lock that is held for a clone only: tower asks for no `Sync`.
struct ServiceHandler<T, Svc> {
    service: Mutex<Svc>,
    event: PhantomData<fn(T)>,
}

impl<S, T, Svc> Handle<S> for ServiceHandler<T, Svc>
where
    S: Send + Sync + 'static,
    T: TypedEvent,
    Svc: Service<Incoming<T, S>> + Clone + Send + 'static,
    Svc::Response: IntoOutputs,
    Svc::Error: Into<HandlerError>,
    Svc::Future: Future + Send + 'static,
{
    fn runner(self: Arc<Self>) -> Box<dyn Runner<S>> {
        runner(Event::decode::<T>, move |event, context| {
            let incoming = Incoming { event, context };
            let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move {
                poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
                service.call(incoming).await.map_err(Into::into)
            }
        })
    }

    fn name(&self) -> &'static str {
        std::any::type_name::<Svc>()
    }
}
