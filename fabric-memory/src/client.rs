//! One client of an instance: what it opened, and whether it is closed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fabric_core::{Error, ErrorKind, NoticeSender, Result};
use tokio::sync::Notify;

use crate::instance::Instance;

pub(crate) struct Client {
    pub(crate) instance: Arc<Instance>,
    pub(crate) id: u64,
    closed: AtomicBool,
    pub(crate) notices: NoticeSender,
    /// Rings when a delivery of a closing client is settled.
    pub(crate) settled: Notify,
    /// Rings when the client closes.
    pub(crate) closing: Notify,
}

impl Client {
    pub(crate) fn new(instance: Arc<Instance>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            instance,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            closed: AtomicBool::new(false),
            notices: NoticeSender::new(),
            settled: Notify::new(),
            closing: Notify::new(),
        })
    }

    /// # Errors
    /// `Closed`.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closed() {
            return Err(Error::new(ErrorKind::Closed, "this fabric is closed; connect again")
                .with_backend("memory"));
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Marks it as closed; `false` if it was already.
    pub(crate) fn close(&self) -> bool {
        let first = !self.closed.swap(true, Ordering::AcqRel);
        if first {
            self.closing.notify_waiters();
        }
        first
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id).field("closed", &self.is_closed()).finish()
    }
}
