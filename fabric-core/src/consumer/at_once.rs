//! The straight way of an event: received, handled and acked without a wait. Whatever else comes
//! up goes on in `run.rs`, from where it is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Task, Poll};

use tokio::sync::watch;

use super::handler::{Handle, HandlerError, panic_text};
use super::run::{Control, Engine, Plan};
use super::runner::{Outcome, Worker};
use crate::delivery::{Delivery, Settling};
use crate::event::Event;

/// Why a worker left the straight way.
pub(super) enum AtOnce {
    /// There is no event now.
    Nothing,
    /// It may have been told something else to do.
    Changed,
    /// There will be no more events.
    Over,
    /// An event is handled, and its ack takes a wait.
    Acking(Settling<Delivery>),
    /// The first try of an event began.
    Began(Delivery, Began),
    /// An event whose try has more to it.
    Received(Delivery),
}

/// A first try, by the handler of one route: how it ended, if it did.
pub(super) struct Began {
    pub(super) route: usize,
    pub(super) ended: Option<Outcome>,
}

impl<S> Plan<S> {
    /// Whether nothing lies between an event and its handler.
    pub(super) const fn is_straight(&self) -> bool {
        self.batch.is_none()
            && self.dedup.is_none()
            && self.rate.is_none()
            && self.switch.is_none()
            && !self.ordered
    }
}

impl<S: Send + Sync + 'static> Engine<S> {
    /// Works on one event after the other for as long as none of them takes a wait.
    pub(super) fn at_once(
        &self,
        worker: &mut Worker<S>,
        control: &watch::Receiver<Control>,
        cx: &mut Task<'_>,
    ) -> AtOnce {
        let mut spent = None;
        loop {
            if control.has_changed().unwrap_or(true) {
                return AtOnce::Changed;
            }
            let Some(next) = self.inbox.try_next(spent.take()) else { return AtOnce::Nothing };
            let delivery = match self.sort(next) {
                Some(Some(delivery)) => delivery,
                Some(None) => return AtOnce::Over,
                None => continue,
            };
            if !delivery.is_live() {
                self.counters.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let found = self.usual_handler_of(worker, &delivery);
            let Some((route, handler)) = found.filter(|_| !delivery.is_watched()) else {
                return AtOnce::Received(delivery);
            };
            let attempt =
                delivery.attempt().max(1).saturating_add(self.tries_before(delivery.id()));
            let context = worker.context(&self.shared, &delivery, attempt);
            let (busy, runner) = worker.runner(route, handler);
            busy.enter(route);
            let tried = catch_unwind(AssertUnwindSafe(|| {
                runner.begin(delivery.event(), context).map(|()| runner.poll(cx))
            }));
            busy.leave();
            let ended = match tried {
                Ok(Ok(Poll::Pending)) => None,
                Ok(Ok(Poll::Ready(Ok(outputs)))) if outputs.is_empty() => {
                    busy.handled(1);
                    match delivery.ack_at_once() {
                        Ok(settled) => spent = Some(settled),
                        Err(settling) => return AtOnce::Acking(settling),
                    }
                    continue;
                }
                Ok(Ok(Poll::Ready(ended))) => Some(Outcome::from(Ok(ended))),
                Ok(Err(error)) => Some(Outcome::Unreadable(error)),
                Err(panic) => {
                    runner.end();
                    Some(Outcome::Failed(HandlerError::transient(panic_text(&*panic))))
                }
            };
            return AtOnce::Began(delivery, Began { route, ended });
        }
    }

    /// As [`handler_of`](Self::handler_of), without a search where the topic is the last one's.
    fn usual_handler_of(
        &self,
        worker: &mut Worker<S>,
        event: &Event,
    ) -> Option<(usize, &Arc<dyn Handle<S>>)> {
        if !event.is_plain() {
            return self.handler_of(event);
        }
        if let Some((topic, route)) = &worker.usual
            && topic.same_as(event.topic())
        {
            return Some((*route, self.handler(*route)?));
        }
        let (route, handler) = self.handler_of(event)?;
        worker.usual = Some((event.topic().clone(), route));
        Some((route, handler))
    }
}
