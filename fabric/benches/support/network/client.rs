//! What an arm can do.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::support::Result;

/// How many events each arm keeps unconfirmed.
pub(crate) const IN_FLIGHT: usize = 256;

/// How many events each reader keeps unsettled.
pub(crate) const PREFETCH: usize = 256;

pub(crate) type Working<'a, T> = BoxFuture<'a, Result<T>>;

/// What is to be moved in a round.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) topic: &'static str,
    /// The payload of each event: a clone shares its bytes.
    pub(crate) payload: Bytes,
    pub(crate) events: u64,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At the first event that is kept.
    First,
    /// At what comes next.
    New,
}

/// One arm's connection.
pub(crate) trait Client: Send + Sync {
    /// The process whose CPU time counts, if it is not this one.
    fn measured(&self) -> Option<u32> {
        None
    }

    /// Publishes all events, [`IN_FLIGHT`] at a time; resolves once the last is confirmed, or is on
    /// its way where nothing confirms.
    fn publish<'a>(&'a self, work: &'a Work) -> Working<'a, ()>;

    /// Publishes one event and waits for its confirm.
    fn publish_one<'a>(&'a self, work: &'a Work) -> Working<'a, ()>;

    /// Opens a reader, which gets all that is published from then on.
    fn read(&self, topic: &'static str, begin: Begin) -> Working<'_, Box<dyn Reader>>;

    /// Forgets what is kept of a topic.
    fn clear(&self, topic: &'static str) -> Working<'_, ()>;

    /// Answers requests until it is dropped.
    fn serve(&self, topic: &'static str) -> Working<'_, Serving>;

    /// Asks and waits for the answer.
    fn ask<'a>(&'a self, work: &'a Work) -> Working<'a, ()>;
}

/// A reader that looks at each event and settles it where that can be done.
pub(crate) trait Reader: Send {
    /// Reads `events` events.
    fn take(&mut self, events: u64) -> Working<'_, ()>;

    /// Leaves nothing behind.
    fn close(self: Box<Self>) -> Working<'static, ()>;
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Serving(tokio::task::JoinHandle<()>);

impl Serving {
    pub(crate) fn spawn(task: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        Self(tokio::spawn(async {
            // Who asks only sees that nobody answers.
            if let Err(failure) = task.await {
                eprintln!("the responder ended: {failure}");
            }
        }))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}
