//! What was read and waits for the user, and who is to be woken.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::Thread;

use fabric_core::{Chunk, Error, Result};

use crate::connection::lock;

/// After so many polls that bring nothing there is nothing: one that served something else, such as a
/// log line or an answer to a commit, looks the same.
pub(crate) const SILENT: u32 = 4;

/// Chunks on their way from the thread that reads to the user.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    state: Mutex<State>,
    /// The thread that reads, to be woken.
    reader: Mutex<Option<Thread>>,
    /// The reader waits until the user takes something.
    starving: AtomicBool,
    /// Whoever reads has to end.
    stop: AtomicBool,
    /// Something outside has changed.
    look: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Result<Arc<Chunk>>>,
    /// How many events the chunks in it have.
    unread: usize,
    waker: Option<Waker>,
    ended: bool,
    /// The user asked and got nothing yet.
    asking: bool,
    /// How often the user asked.
    polls: u64,
}

impl Feed {
    pub(crate) fn set_reader(&self, thread: Thread) {
        *lock(&self.reader) = Some(thread);
    }

    /// Wakes the thread that reads.
    pub(crate) fn wake_reader(&self) {
        if let Some(reader) = &*lock(&self.reader) {
            reader.unpark();
        }
    }

    /// Tells the reader to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake_reader();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Tells the reader that something outside has changed.
    pub(crate) fn look(&self) {
        self.look.store(true, Ordering::SeqCst);
        self.wake_reader();
    }

    /// Whether something outside has changed since this was asked last.
    pub(crate) fn take_look(&self) -> bool {
        self.look.swap(false, Ordering::SeqCst)
    }

    /// Hands a chunk or an error over.
    pub(crate) fn push(&self, item: Result<Arc<Chunk>>) {
        let waker = {
            let mut state = lock(&self.state);
            if state.ended {
                return;
            }
            state.unread += item.as_ref().map_or(0, |chunk| chunk.len());
            state.waiting.push_back(item);
            state.asking = false;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Nothing more comes; what is there can still be taken.
    pub(crate) fn end(&self, last: Option<Error>) {
        if let Some(error) = last {
            self.push(Err(error));
        }
        let waker = {
            let mut state = lock(&self.state);
            state.ended = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Drops what was not taken.
    pub(crate) fn clear(&self) {
        let mut state = lock(&self.state);
        state.waiting.retain(Result::is_err);
        state.unread = 0;
    }

    /// How many events wait for the user.
    pub(crate) fn unread(&self) -> usize {
        lock(&self.state).unread
    }

    /// How often the user has asked, and whether it waits now.
    pub(crate) fn asked(&self) -> (u64, bool) {
        let state = lock(&self.state);
        (state.polls, state.asking)
    }

    /// The reader has no room: it is woken when there is some.
    pub(crate) fn starve(&self) {
        self.starving.store(true, Ordering::SeqCst);
    }

    /// There is room again.
    pub(crate) fn nourish(&self) {
        if self.starving.load(Ordering::SeqCst) && self.starving.swap(false, Ordering::SeqCst) {
            self.wake_reader();
        }
    }

    /// The next that the user gets.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let mut state = lock(&self.state);
        state.polls += 1;
        while let Some(item) = state.waiting.pop_front() {
            state.unread -= item.as_ref().map_or(0, |chunk| chunk.len());
            // Taken back before the user saw any of it.
            if item.as_ref().is_ok_and(|chunk| chunk.closed() == chunk.full_mask()) {
                continue;
            }
            state.asking = false;
            return Poll::Ready(Some(item));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.asking = true;
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
