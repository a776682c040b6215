//! What a consumer tells about itself: its status now, and what happens to it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_core::stream::BoxStream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::Error;
use crate::id::EventId;
use crate::topic::Topic;

/// How many events a listener that does not read keeps.
const BOUND: usize = 1024;

/// What happened to a consumer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConsumerEvent {
    /// It takes work.
    Started,
    /// It was paused by its owner.
    Paused,
    /// It goes on.
    Resumed,
    /// Too many tries failed: it waits before one event probes.
    Tripped,
    /// A probe succeeded: it goes on.
    Closed,
    /// It takes no new work.
    Draining,
    /// Nothing runs any more.
    Stopped,
    /// A handler failed, panicked or ran out of time.
    HandlerFailed {
        /// The event's topic.
        topic: Topic,
        /// The event's id.
        id: EventId,
        /// Which try it was.
        attempt: u32,
        /// The error and its causes.
        error: String,
    },
    /// No handler takes this kind of event.
    Unmatched {
        /// The event's topic.
        topic: Topic,
        /// The event's type.
        event_type: String,
    },
    /// A handler has kept its thread busy for a second or more without yielding.
    Blocked {
        /// Which one.
        handler: &'static str,
    },
    /// Something along the way failed, such as a settlement or a dead letter.
    Trouble {
        /// What.
        error: Error,
    },
    /// This listener read too slowly and missed some.
    Missed {
        /// How many.
        count: u64,
    },
}

/// Counts and state of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// What it does.
    pub state: ConsumerState,
    /// Handlers that run now.
    pub running: usize,
    /// At most so many run at once.
    pub concurrency: usize,
    /// Events that were handled and settled.
    pub handled: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Tries that were made again.
    pub retried: u64,
    /// Events that became dead letters.
    pub dead_letters: u64,
    /// Events that went to another because their lease ended.
    pub lost: u64,
    /// Events that had been handled before.
    pub duplicates: u64,
    /// How often a handler kept its thread busy for a second or more.
    pub blocked: u64,
}

/// What a consumer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerState {
    /// It takes work.
    Running,
    /// Its owner paused it.
    Paused,
    /// Too many tries failed: it waits until one event may probe, or that event is being tried.
    Tripped,
    /// What runs finishes.
    Draining,
    /// Nothing runs any more.
    Stopped,
}

/// A stream of what happens to a consumer; it ends when the consumer has.
pub struct ConsumerEvents(BoxStream<'static, ConsumerEvent>);

impl Stream for ConsumerEvents {
    type Item = ConsumerEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConsumerEvent>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for ConsumerEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsumerEvents")
    }
}

#[derive(Clone, Debug)]
pub(crate) struct EventSender {
    sender: broadcast::Sender<ConsumerEvent>,
    /// Has heard all since the beginning, for the first who listens.
    first: Arc<Mutex<Option<broadcast::Receiver<ConsumerEvent>>>>,
}

impl EventSender {
    pub(crate) fn new() -> Self {
        let (sender, first) = broadcast::channel(BOUND);
        Self { sender, first: Arc::new(Mutex::new(Some(first))) }
    }

    pub(crate) fn send(&self, event: ConsumerEvent) {
        // Nobody listening is fine.
        let _ = self.sender.send(event);
    }

    pub(crate) fn listen(&self) -> ConsumerEvents {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let receiver = first.unwrap_or_else(|| self.sender.subscribe());
        let events = futures_util::stream::unfold(Some(receiver), async |events| {
            let mut events = events?;
            match events.recv().await {
                Ok(event @ ConsumerEvent::Stopped) => Some((event, None)),
                Ok(event) => Some((event, Some(events))),
                Err(RecvError::Lagged(count)) => {
                    Some((ConsumerEvent::Missed { count }, Some(events)))
                }
                Err(RecvError::Closed) => None,
            }
        });
        ConsumerEvents(Box::pin(events))
    }
}
