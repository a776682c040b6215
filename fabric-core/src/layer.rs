//! Layers: values that wrap one backend in another.
//!
//! ```text
//!            fabric.layer(a)?.layer(b)?
//!
//!            publish, subscribe, acks          deliveries, confirms
//!                     |                                ^
//!            +--------v--------------------------------|--------+
//!            |                    b                              |
//!            |   +----v--------------------------------|----+    |
//!            |   |                a                         |    |
//!            |   |   +-v-------------------------------|-+  |    |
//!            |   |   |           backend                 |  |    |
//!            |   |   +-----------------------------------+  |    |
//!            |   +------------------------------------------+    |
//!            +---------------------------------------------------+
//! ```
//!
//! The layer that was added last is the outermost: a publish and an ack meet it first, a delivery
//! and a confirm last.
//!
//! # In which order
//! ```text
//!   outermost   tracing            spans of what the program sees, pauses and retries included
//!               metrics            counts each event once, however often it is tried
//!               hooks, schema      look at events as the program knows them
//!               compression        makes them smaller ...
//!               encryption         ... while that still helps
//!               claim check        puts aside what is large even so
//!               batching           gathers; the next batch fills while one waits further in
//!               retry              tries again what those below report as not accepted
//!               circuit breaker    fails at once, which the retries bridge with their pauses
//!               timeout            bounds each try, and what hangs counts for the breaker
//!               limit              bounds what leaves, repetitions included
//!               faults             plays a bad network that all others have to stand
//!   innermost   backend
//! ```
//!
//! The other way round most pairs still work, but mean something else: a timeout outside the retry
//! spans all tries; a breaker outside of it sees a publish fail once, however often it was tried;
//! a limit outside of it does not see the repetitions; batching inside of it retries event by
//! event; encryption inside of it encrypts every try anew. Each layer's own page says where it
//! belongs and why.
//!
//! ```
//! use std::time::Duration;
//! use fabric_core::layers::{Batching, CircuitBreaker, Limit, PublishRetry, Timeout};
//! use fabric_core::{Fabric, Result, Retry};
//!
//! fn hardened(fabric: Fabric) -> Result<Fabric> {
//!     fabric
//!         .layer(Limit::new().in_flight(1024))?
//!         .layer(Timeout::new(Duration::from_secs(5)))?
//!         .layer(CircuitBreaker::new())?
//!         .layer(PublishRetry::new(Retry::exponential(Duration::from_millis(50))))?
//!         .layer(Batching::new())
//! }
//! ```

use crate::Result;
use crate::backend::SharedBackend;

/// A value that wraps one backend in another. Its state belongs to the value: the same layer
/// added twice shares it.
pub trait Layer {
    /// Wraps `inner`.
    ///
    /// # Errors
    /// `Unsupported` where `inner` lacks what the layer needs, naming both.
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend>;
}

impl<F: Fn(SharedBackend) -> Result<SharedBackend>> Layer for F {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        self(inner)
    }
}

/// Writes methods of [`Backend`](crate::Backend) that only pass the call on: for layers that change
/// a few and name what they forward.
///
/// ```
/// use fabric_core::{Backend, Batch, Capabilities, Confirms, Result, SharedBackend, forward};
///
/// #[derive(Debug)]
/// struct Quiet { inner: SharedBackend }
///
/// impl Backend for Quiet {
///     fn capabilities(&self) -> Capabilities { self.inner.capabilities() }
///     forward!(self.inner: info, notices, try_submit, submit, subscribe, replay, request_reply,
///         groups, admin, health, close);
/// }
/// ```
#[macro_export]
macro_rules! forward {
    ($self:ident . $inner:ident : $($method:ident),+ $(,)?) => {
        $($crate::forward!(@ $inner $method);)+
    };
    (@ $inner:ident info) => {
        fn info(&self) -> &$crate::BackendInfo { $crate::DynBackend::info(&*self.$inner) }
    };
    (@ $inner:ident capabilities) => {
        fn capabilities(&self) -> $crate::Capabilities {
            $crate::DynBackend::capabilities(&*self.$inner)
        }
    };
    (@ $inner:ident notices) => {
        fn notices(&self) -> $crate::Notices { $crate::DynBackend::notices(&*self.$inner) }
    };
    (@ $inner:ident try_submit) => {
        fn try_submit(
            &self,
            batch: $crate::Batch,
        ) -> ::std::result::Result<$crate::Confirms, $crate::Batch> {
            $crate::DynBackend::try_submit(&*self.$inner, batch)
        }
    };
    (@ $inner:ident submit) => {
        fn submit(
            &self,
            batch: $crate::Batch,
        ) -> impl ::std::future::Future<Output = $crate::Result<$crate::Confirms>> + Send {
            $crate::DynBackend::submit(&*self.$inner, batch)
        }
    };
    (@ $inner:ident subscribe) => {
        fn subscribe(
            &self,
            options: $crate::SubscribeOptions,
        ) -> impl ::std::future::Future<Output = $crate::Result<$crate::Subscription>> + Send {
            $crate::DynBackend::subscribe(&*self.$inner, options)
        }
    };
    (@ $inner:ident replay) => {
        fn replay(&self) -> ::std::option::Option<&dyn $crate::DynReplay> {
            $crate::DynBackend::replay(&*self.$inner)
        }
    };
    (@ $inner:ident request_reply) => {
        fn request_reply(&self) -> ::std::option::Option<&dyn $crate::DynRequestReply> {
            $crate::DynBackend::request_reply(&*self.$inner)
        }
    };
    (@ $inner:ident groups) => {
        fn groups(&self) -> ::std::option::Option<&dyn $crate::DynGroups> {
            $crate::DynBackend::groups(&*self.$inner)
        }
    };
    (@ $inner:ident admin) => {
        fn admin(&self) -> ::std::option::Option<&dyn $crate::DynAdmin> {
            $crate::DynBackend::admin(&*self.$inner)
        }
    };
    (@ $inner:ident health) => {
        fn health(&self) -> impl ::std::future::Future<Output = $crate::Health> + Send {
            $crate::DynBackend::health(&*self.$inner)
        }
    };
    (@ $inner:ident close) => {
        fn close(
            &self,
            deadline: ::std::time::Duration,
        ) -> impl ::std::future::Future<Output = $crate::Result<()>> + Send {
            $crate::DynBackend::close(&*self.$inner, deadline)
        }
    };
}
