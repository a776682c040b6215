//! Idempotency: an event that was handled within the window is not handled again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_core::future::BoxFuture;
use hashbrown::HashMap;
use tokio::time::Instant;

use crate::Result;
use crate::event::Event;

/// What a store says when somebody wants to handle an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the caller's, until it is completed, released or the hold ends.
    Claimed,
    /// It was handled within the window.
    Done,
    /// Somebody handles it right now.
    Busy,
}

/// Where a consumer notes what it has handled.
///
/// A claim is made before the handler runs and completed after it succeeded, so that a crash
/// between the two repeats the event and two members never run it at once.
pub trait DedupStore: Send + Sync + 'static {
    /// Claims `key` for at most `hold`.
    fn claim<'a>(&'a self, key: &'a str, hold: Duration) -> BoxFuture<'a, Result<Claim>>;
    /// Marks `key` as handled for `window`.
    fn complete<'a>(&'a self, key: &'a str, window: Duration) -> BoxFuture<'a, Result<()>>;
    /// Gives the claim on `key` back: the handler failed.
    fn release<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// A store inside the process, bounded by the number of keys: the oldest are forgotten first.
pub struct MemoryDedup {
    max: usize,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    known: HashMap<Arc<str>, Entry, RandomState>,
    order: VecDeque<(Arc<str>, u64)>,
    serial: u64,
}

struct Entry {
    done: bool,
    until: Instant,
    serial: u64,
}

impl MemoryDedup {
    /// A store of at most `max` keys.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max: max.max(1), keys: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn set(&mut self, key: &str, done: bool, until: Instant, now: Instant, max: usize) {
        self.serial += 1;
        let (key, serial) = (Arc::<str>::from(key), self.serial);
        self.order.push_back((Arc::clone(&key), serial));
        self.known.insert(key, Entry { done, until, serial });
        while let Some((oldest, serial)) = self.order.front() {
            let current = self.known.get(oldest).filter(|entry| entry.serial == *serial);
            let over = current.is_none_or(|entry| entry.until <= now);
            if !over && self.known.len() <= max {
                break;
            }
            if current.is_some() {
                self.known.remove(oldest);
            }
            self.order.pop_front();
        }
    }
}

impl DedupStore for MemoryDedup {
    fn claim<'a>(&'a self, key: &'a str, hold: Duration) -> BoxFuture<'a, Result<Claim>> {
        let now = Instant::now();
        let mut keys = self.lock();
        let known = keys.known.get(key).filter(|entry| entry.until > now).map(|entry| entry.done);
        let claim = match known {
            Some(true) => Claim::Done,
            Some(false) => Claim::Busy,
            None => {
                keys.set(key, false, now + hold, now, self.max);
                Claim::Claimed
            }
        };
        Box::pin(std::future::ready(Ok(claim)))
    }

    fn complete<'a>(&'a self, key: &'a str, window: Duration) -> BoxFuture<'a, Result<()>> {
        let now = Instant::now();
        self.lock().set(key, true, now + window, now, self.max);
        Box::pin(std::future::ready(Ok(())))
    }

    fn release<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        let mut keys = self.lock();
        if keys.known.get(key).is_some_and(|entry| !entry.done) {
            keys.known.remove(key);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

impl fmt::Debug for MemoryDedup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDedup").field("max", &self.max).finish_non_exhaustive()
    }
}

/// What names an event in the store.
pub(crate) type KeyOf = Arc<dyn Fn(&Event) -> String + Send + Sync>;

pub(crate) struct Dedup {
    pub(crate) store: Arc<dyn DedupStore>,
    pub(crate) window: Duration,
    pub(crate) key: KeyOf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_exclusive_ends_and_is_completed() {
        let store = MemoryDedup::new(100);
        let second = Duration::from_secs(1);
        assert_eq!(store.claim("a", second).await.unwrap(), Claim::Claimed);
        assert_eq!(store.claim("a", second).await.unwrap(), Claim::Busy);
        tokio::time::advance(second).await;
        assert_eq!(store.claim("a", second).await.unwrap(), Claim::Claimed);
        store.release("a").await.unwrap();
        assert_eq!(store.claim("a", second).await.unwrap(), Claim::Claimed);
        store.complete("a", second * 10).await.unwrap();
        store.release("a").await.unwrap();
        assert_eq!(store.claim("a", second).await.unwrap(), Claim::Done);
        tokio::time::advance(second * 10).await;
        assert_eq!(store.claim("a", second).await.unwrap(), Claim::Claimed);
    }

    #[tokio::test]
    async fn the_store_is_bounded() {
        let store = MemoryDedup::new(10);
        for n in 0..1000 {
            store.complete(&n.to_string(), Duration::from_secs(60)).await.unwrap();
        }
        let keys = store.lock();
        assert!(keys.known.len() <= 10 && keys.order.len() <= 11);
    }
}
