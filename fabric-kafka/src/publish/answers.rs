//! The answers to one batch, as its events' reports come in.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use fabric_core::{Confirms, Outcomes, Receipt, Result};
use smallvec::SmallVec;

use crate::connection::lock;

/// One answer per event, and who waits for the last of them.
pub(crate) struct Answers(Mutex<State>);

struct State {
    results: SmallVec<[Option<Result<Receipt>>; 1]>,
    left: usize,
    waker: Option<Waker>,
}

impl Answers {
    /// None yet of `count`.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        let results = (0..count).map(|_| None).collect();
        Arc::new(Self(Mutex::new(State { results, left: count, waker: None })))
    }

    /// The answer to the event at `index`.
    pub(crate) fn set(&self, index: usize, result: Result<Receipt>) {
        let waker = {
            let mut state = lock(&self.0);
            let Some(place) = state.results.get_mut(index) else { return };
            if place.replace(result).is_none() {
                state.left -= 1;
            }
            if state.left == 0 { state.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A future of all of them.
    pub(crate) fn confirms(answers: Arc<Self>) -> Confirms {
        Confirms::pending(Waiting(answers))
    }
}

struct Waiting(Arc<Answers>);

impl Future for Waiting {
    type Output = Outcomes;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcomes> {
        let mut state = lock(&self.0.0);
        if state.left > 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Outcomes::each(state.results.drain(..).flatten()))
    }
}
