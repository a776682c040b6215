//! Notices: what a fabric tells about itself, to whoever listens.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::Error;
use crate::group::Group;
use crate::position::Position;
use crate::time::Timestamp;
use crate::topic::Topic;

/// How many notices a listener that does not read keeps; older ones are dropped and counted.
const BOUND: usize = 256;

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NoticeKind {
    /// The first connection stands.
    Connected,
    /// The connection is gone; attempts to restore it go on.
    Lost {
        /// What broke it.
        error: Error,
    },
    /// The connection, its topology and its subscriptions stand again.
    Restored,
    /// A group that the server had lost was made anew and starts at the first event that is left.
    GroupRecreated {
        /// Which one.
        group: Group,
    },
    /// A reader lost events to retention or to its own slowness.
    Lagging {
        /// Its group, if it has one.
        group: Option<Group>,
        /// How many it missed.
        missed: u64,
    },
    /// A remembered subscription was in a stream that is gone; the topic begins with the oldest
    /// event that is kept.
    PlaceLost {
        /// The subscription's name.
        name: String,
        /// Where it was.
        position: Position,
    },
    /// A publish found a queue at its bound.
    Full {
        /// Where.
        topic: Topic,
        /// The group that holds the events, if one does.
        group: Option<Group>,
    },
    /// An event became a dead letter.
    DeadLettered {
        /// Of which group.
        group: Group,
        /// Where it had been published.
        topic: Topic,
    },
    /// A dead letter could not be kept; its event stays where it was and comes again.
    DeadLetterFailed {
        /// Of which group.
        group: Group,
        /// Why.
        error: Error,
    },
    /// A circuit breaker opened: publishes fail at once until a probe succeeds.
    CircuitOpened {
        /// The failure that opened it.
        error: Error,
    },
    /// A circuit breaker closed: publishes go through again.
    CircuitClosed,
    /// Nothing more will come.
    Closed,
    /// This listener read too slowly and lost notices.
    Missed {
        /// How many.
        count: u64,
    },
}

/// One thing that happened, and when.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Notice {
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: NoticeKind,
}

/// Where a backend says its notices. Clones speak to the same listeners.
#[derive(Clone, Default)]
pub struct NoticeSender(Arc<Mutex<Vec<Weak<Mutex<Inbox>>>>>);

#[derive(Default)]
struct Inbox {
    queue: VecDeque<Notice>,
    missed: u64,
    closed: bool,
    waker: Option<Waker>,
}

impl NoticeSender {
    /// With no listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells every listener. `Closed` ends their streams.
    pub fn send(&self, kind: NoticeKind) {
        let notice = Notice { time: Timestamp::now(), kind };
        let mut inboxes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inboxes.retain(|inbox| {
            let Some(inbox) = inbox.upgrade() else { return false };
            let waker = {
                let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
                inbox.push(notice.clone());
                inbox.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
            true
        });
    }

    /// A listener, from now on.
    #[must_use]
    pub fn listen(&self) -> Notices {
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&inbox));
        Notices { inbox, _sender: self.clone(), other: None }
    }
}

impl Inbox {
    fn push(&mut self, notice: Notice) {
        self.closed |= matches!(notice.kind, NoticeKind::Closed);
        if self.queue.len() == BOUND {
            self.queue.pop_front();
            self.missed += 1;
        }
        self.queue.push_back(notice);
    }
}

impl fmt::Debug for NoticeSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoticeSender")
    }
}

/// A stream of notices. It keeps the last 256 for a listener that does not read.
///
/// Reading is cancel safe: a notice is lost only where [`NoticeKind::Missed`] says so.
pub struct Notices {
    inbox: Arc<Mutex<Inbox>>,
    _sender: NoticeSender,
    other: Option<Box<Self>>,
}

impl Notices {
    /// Both at once; they end when the first does.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.other = Some(Box::new(match self.other.take() {
            Some(mine) => mine.and(other),
            None => other,
        }));
        self
    }

    /// The notice that is there already, if one is.
    pub fn try_next(&mut self) -> Option<Notice> {
        self.try_own().or_else(|| self.other.as_mut()?.try_next())
    }

    fn try_own(&mut self) -> Option<Notice> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut inbox.missed) {
            0 => inbox.queue.pop_front(),
            count => Some(Notice { time: Timestamp::now(), kind: NoticeKind::Missed { count } }),
        }
    }
}

impl Stream for Notices {
    type Item = Notice;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        if let Some(notice) = self.try_next() {
            return Poll::Ready(Some(notice));
        }
        if let Some(other) = &mut self.other
            && let Poll::Ready(Some(notice)) = Pin::new(other.as_mut()).poll_next(cx)
        {
            return Poll::Ready(Some(notice));
        }
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if !inbox.queue.is_empty() {
            return Poll::Ready(inbox.queue.pop_front());
        }
        if inbox.closed {
            return Poll::Ready(None);
        }
        inbox.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notices")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_slow_listener_is_told_how_much_it_missed() {
        let sender = NoticeSender::new();
        let mut notices = sender.listen();
        for _ in 0..BOUND + 7 {
            sender.send(NoticeKind::Restored);
        }
        sender.send(NoticeKind::Closed);
        assert!(matches!(notices.next().await.unwrap().kind, NoticeKind::Missed { count: 8 }));
        assert_eq!(notices.count().await, BOUND);
    }
}
