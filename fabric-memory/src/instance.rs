//! An instance: a broker behind its lock, met by name inside a process.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;

use fabric_core::clock::Now;
use fabric_core::{Error, ErrorKind, Result};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::broker::{Broker, Dropped, Wakers};
use crate::bug::Bug;
use crate::config::MemoryConfig;
use crate::request::Responders;

/// What all clients of one name share.
pub(crate) struct Instance {
    pub(crate) config: MemoryConfig,
    broker: Mutex<Broker>,
    pub(crate) responders: Mutex<Responders>,
    bug: Option<Bug>,
}

impl Instance {
    pub(crate) fn private(config: MemoryConfig, bug: Option<Bug>) -> Result<Arc<Self>> {
        config.validate()?;
        Ok(Arc::new(Self {
            broker: Mutex::new(Broker::new(config.clone(), bug, Now::read())),
            responders: Mutex::default(),
            config,
            bug,
        }))
    }

    /// The instance of that name, made if nobody holds it.
    pub(crate) fn named(name: &str, config: &MemoryConfig, bug: Option<Bug>) -> Result<Arc<Self>> {
        static NAMED: OnceLock<Mutex<HashMap<String, Weak<Instance>, RandomState>>> =
            OnceLock::new();
        let named = NAMED.get_or_init(Mutex::default);
        let mut named = named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = named.get(name).and_then(Weak::upgrade) {
            let unasked = MemoryConfig::new().with_name(name);
            if *config != known.config && *config != unasked {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "`memory://{name}` exists in this process with other options; connect with \
                         the same ones, with none, or under another name"
                    ),
                ));
            }
            return Ok(known);
        }
        let instance = Self::private(config.clone(), bug)?;
        named.retain(|_, instance| instance.strong_count() > 0);
        named.insert(name.to_owned(), Arc::downgrade(&instance));
        Ok(instance)
    }

    /// Works on the broker. Afterwards, without the lock, wakes whoever is to be woken and drops
    /// what retention let go of: a value that is dropped may use the fabric in turn.
    #[inline]
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Broker, &mut Wakers) -> R) -> R {
        let mut wakers = Wakers::new();
        let mut broker = self.lock();
        let result = work(&mut broker, &mut wakers);
        let dropped = broker.take_dropped();
        drop(broker);
        if !wakers.is_empty() {
            wakers.into_iter().for_each(Waker::wake);
        }
        if !dropped.is_empty() {
            self.clear_away(dropped);
        }
        result
    }

    #[cold]
    fn clear_away(&self, dropped: Vec<Dropped>) {
        let left = dropped.into_iter().filter_map(Dropped::clear).last();
        if let Some(left) = left {
            self.lock().reuse(left);
        }
    }

    /// As [`with`](Self::with), after letting time pass.
    pub(crate) fn at<R>(&self, now: Now, work: impl FnOnce(&mut Broker, &mut Wakers) -> R) -> R {
        self.with(|broker, wakers| {
            broker.advance(&now, wakers);
            work(broker, wakers)
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_bug(&self, bug: Bug) -> bool {
        cfg!(feature = "seeded-bugs") && self.bug == Some(bug)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("config", &self.config).finish_non_exhaustive()
    }
}
