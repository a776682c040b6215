//! What layers see of the deliveries that passed them: the work on them, and their settlement.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::Result;
use crate::chunk::{Chunk, Nack};
use crate::event::TraceContext;

/// A settlement that somebody asks for, as a layer sees it pass.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked<'a> {
    Ack,
    #[cfg_attr(not(feature = "metrics"), allow(dead_code, reason = "only metrics look inside"))]
    Nack(&'a Nack),
    /// To the dead letters.
    Reject,
}

/// Deliveries whose settlement a layer answers itself; it does not reach the broker.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) mask: u64,
    pub(crate) result: Result<()>,
}

/// A delivery: a chunk, and the place in it.
pub(crate) type Place<'a> = (&'a Arc<Chunk>, usize);

/// What a layer does about deliveries that it handed out.
pub(crate) trait Watch: Send + Sync + 'static {
    /// Before a settlement goes on: what the layer answers itself, for all of them or some.
    fn before(&self, _chunk: &Chunk, _mask: u64, _asked: Asked<'_>) -> Option<Answered> {
        None
    }

    /// Once the answer to a settlement is there.
    fn after(
        &self,
        _chunk: &Chunk,
        _mask: u64,
        _asked: Asked<'_>,
        _began: Instant,
        _result: &Result<()>,
    ) {
    }

    /// Somebody begins to work on deliveries, on one or on several at once.
    fn begin(&self, _deliveries: &[Place<'_>]) -> Option<Box<dyn Work>> {
        None
    }
}

/// A piece of work on deliveries. Dropped before its end it was given up.
pub(crate) trait Work: Send {
    /// Runs one step of it.
    fn step(&mut self, step: &mut dyn FnMut()) {
        step();
    }

    /// The trace to which its effects belong.
    fn origin(&self) -> Option<TraceContext> {
        None
    }

    /// It is done, or failed.
    fn end(self: Box<Self>, error: Option<&dyn fmt::Display>);
}

/// What several layers see of a piece of work, as one.
pub(crate) struct Together(Vec<Box<dyn Work>>);

impl Together {
    /// None where nobody watches.
    pub(crate) fn of(works: impl Iterator<Item = Box<dyn Work>>) -> Option<Box<dyn Work>> {
        let works: Vec<_> = works.collect();
        if works.is_empty() { None } else { Some(Box::new(Self(works))) }
    }
}

impl Work for Together {
    fn step(&mut self, step: &mut dyn FnMut()) {
        nest(&mut self.0, step);
    }

    fn origin(&self) -> Option<TraceContext> {
        self.0.iter().find_map(|work| work.origin())
    }

    fn end(self: Box<Self>, error: Option<&dyn fmt::Display>) {
        self.0.into_iter().rev().for_each(|work| work.end(error));
    }
}

/// A piece of work as all layers see it, the outermost first.
#[derive(Default)]
pub(crate) struct Works(SmallVec<[Box<dyn Work>; 2]>);

impl Works {
    /// Tells the layers that somebody begins to work on these deliveries of one subscription.
    pub(crate) fn begin(deliveries: &[Place<'_>]) -> Self {
        let watches = deliveries.first().into_iter().flat_map(|(chunk, _)| chunk.watches());
        Self(watches.filter_map(|watch| watch.begin(deliveries)).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The trace to which the effects of the work belong.
    pub(crate) fn origin(&self) -> Option<TraceContext> {
        self.0.iter().find_map(|work| work.origin())
    }

    /// Does the work in their sight.
    pub(crate) async fn run<T, E: fmt::Display>(
        mut self,
        work: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        if self.is_empty() {
            return work.await;
        }
        let mut work = pin!(work);
        let result = poll_fn(|cx| {
            let mut polled = Poll::Pending;
            nest(&mut self.0, &mut || polled = work.as_mut().poll(cx));
            polled
        })
        .await;
        for seen in self.0.into_iter().rev() {
            seen.end(result.as_ref().err().map(|error| error as &dyn fmt::Display));
        }
        result
    }
}

/// Runs one step inside all of `works`.
fn nest(works: &mut [Box<dyn Work>], step: &mut dyn FnMut()) {
    match works.split_first_mut() {
        None => step(),
        Some((outer, inner)) => outer.step(&mut || nest(inner, step)),
    }
}

/// Shared by the chunks of one subscription.
pub(crate) type SharedWatch = Arc<dyn Watch>;
