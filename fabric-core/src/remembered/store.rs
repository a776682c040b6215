//! Where remembered subscriptions are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_core::future::BoxFuture;

use super::RememberedSubscription;
use crate::Result;

/// Where remembered subscriptions are kept: a folder, a table, a key of a configuration service.
///
/// What `save` and `remove` have said `Ok` to survives whatever the store is meant to survive. A
/// store never takes what it cannot read for nothing: it answers with an error and overwrites
/// nothing. A call whose future was dropped midway may have happened or not, and must not overtake
/// a later one.
pub trait StateStore: fmt::Debug + Send + Sync + 'static {
    /// Everything that is kept, in any order.
    fn load(&self) -> BoxFuture<'_, Result<Vec<RememberedSubscription>>>;
    /// Keeps one in place of the one of the same name; the others stay as they are.
    fn save<'a>(&'a self, subscription: &'a RememberedSubscription) -> BoxFuture<'a, Result<()>>;
    /// Removes one; whether it was there.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>>;
}

impl<S: StateStore + ?Sized> StateStore for Arc<S> {
    fn load(&self) -> BoxFuture<'_, Result<Vec<RememberedSubscription>>> {
        (**self).load()
    }

    fn save<'a>(&'a self, subscription: &'a RememberedSubscription) -> BoxFuture<'a, Result<()>> {
        (**self).save(subscription)
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        (**self).remove(name)
    }
}

/// A store inside the process, for tests and for fabrics that come and go while the program lives.
/// Clones share what is kept.
#[derive(Clone, Default)]
pub struct MemoryState(Arc<Mutex<BTreeMap<String, RememberedSubscription>>>);

impl MemoryState {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, RememberedSubscription>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for MemoryState {
    fn load(&self) -> BoxFuture<'_, Result<Vec<RememberedSubscription>>> {
        Box::pin(async { Ok(self.lock().values().cloned().collect()) })
    }

    fn save<'a>(&'a self, subscription: &'a RememberedSubscription) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            self.lock().insert(subscription.name.clone(), subscription.clone());
            Ok(())
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async { Ok(self.lock().remove(name).is_some()) })
    }
}

impl fmt::Debug for MemoryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryState").field("subscriptions", &self.lock().len()).finish()
    }
}
