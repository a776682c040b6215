//! The line of those who publish: who waits comes before who does not.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Who waits to publish, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Line {
    waiting: AtomicUsize,
    turn: Mutex<()>,
}

/// The first place in the line, until it is dropped.
#[derive(Debug)]
pub(crate) struct First<'a> {
    _turn: MutexGuard<'a, ()>,
    _waiting: Waiting<'a>,
}

impl Line {
    /// Whether nobody waits, so that nobody would be overtaken.
    pub(crate) fn is_free(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// Waits until it is one's turn; `None` where that takes longer than until `deadline`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the line.
    pub(crate) async fn join(&self, deadline: Option<Instant>) -> Option<First<'_>> {
        let waiting = Waiting::new(&self.waiting);
        let turn = self.turn.lock();
        let turn = match deadline {
            None => turn.await,
            Some(deadline) => tokio::time::timeout_at(deadline, turn).await.ok()?,
        };
        Some(First { _turn: turn, _waiting: waiting })
    }
}

/// One in the line; counts while it lives.
#[derive(Debug)]
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_after_the_other_and_who_gives_up_leaves() {
        let line = Line::default();
        assert!(line.is_free());
        let first = line.join(None).await.unwrap();
        assert!(!line.is_free());
        let soon = Instant::now() + Duration::from_millis(10);
        assert!(line.join(Some(soon)).await.is_none());
        drop(first);
        assert!(line.is_free());
        assert!(line.join(Some(Instant::now() + Duration::from_secs(30))).await.is_some());
    }
}
