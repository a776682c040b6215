//! The subscription of a consumer, from which all its workers take.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::Result;
use crate::delivery::{Delivery, Spent};
use crate::subscription::Subscription;

/// What a worker gets: a delivery, an error along the way, or the end.
pub(crate) type Next = Option<Result<Delivery>>;

/// One subscription for many workers. What is there is taken at once; where nothing is, one of them
/// waits for it, and the others for their turn.
pub(crate) struct Inbox {
    state: Mutex<State>,
    turn: tokio::sync::Mutex<()>,
}

struct State {
    subscription: Option<Subscription>,
    /// Somebody will be woken; nobody else may poll in its place.
    waiting: bool,
}

impl State {
    fn poll(&mut self, spent: &mut Option<Spent>, cx: &mut Context<'_>) -> Poll<Next> {
        match &mut self.subscription {
            Some(subscription) => subscription.poll_after(spent, cx),
            None => Poll::Ready(None),
        }
    }
}

impl Inbox {
    pub(crate) fn new(subscription: Subscription) -> Self {
        let state = State { subscription: Some(subscription), waiting: false };
        Self { state: Mutex::new(state), turn: tokio::sync::Mutex::new(()) }
    }

    /// What is there, if anything is and nobody waits for it, for a worker that has no more use for
    /// what it settled before.
    pub(crate) fn try_next(&self, mut spent: Option<Spent>) -> Option<Next> {
        // What is not used is dropped after the lock.
        let mut state = self.lock();
        if state.waiting {
            return None;
        }
        // Whoever has to wait polls again, to be woken.
        match state.poll(&mut spent, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        }
    }

    /// Waits for what comes next.
    pub(crate) async fn next(&self) -> Next {
        let _turn = self.turn.lock().await;
        let _waiting = Waiting(self);
        poll_fn(|cx| {
            let mut state = self.lock();
            let next = state.poll(&mut None, cx);
            state.waiting = next.is_pending();
            next
        })
        .await
    }

    /// Takes the subscription away: there is nothing more.
    pub(crate) fn take(&self) -> Option<Subscription> {
        self.lock().subscription.take()
    }

    /// Whether there is nothing more.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().subscription.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits, or no longer does.
struct Waiting<'a>(&'a Inbox);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting = false;
    }
}
