//! `BrokerCtl` over processes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fabric_core::Result;
use fabric_core::conformance::BrokerCtl;
use futures_core::future::BoxFuture;

use super::blocking;
use crate::{Broker, Process};

/// Stops, kills, pauses and wipes a broker. Of several nodes, one at a time goes down, each in turn.
pub struct Control<B> {
    broker: Arc<B>,
    turn: AtomicUsize,
}

impl<B: Broker> Control<B> {
    /// Over `broker`.
    #[must_use]
    pub const fn new(broker: Arc<B>) -> Self {
        Self { broker, turn: AtomicUsize::new(0) }
    }

    /// Does something to the node whose turn it is.
    fn to_one(&self, act: impl Fn(&Process) + Send + 'static) -> BoxFuture<'_, Result<()>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let broker = Arc::clone(&self.broker);
        blocking(move || {
            let nodes = broker.processes();
            act(nodes[turn % nodes.len()]);
            Ok(())
        })
    }
}

impl<B: Broker> BrokerCtl for Control<B> {
    fn nodes(&self) -> usize {
        self.broker.processes().len()
    }

    fn stop(&self) -> BoxFuture<'_, Result<()>> {
        self.to_one(Process::stop)
    }

    fn kill(&self) -> BoxFuture<'_, Result<()>> {
        self.to_one(Process::kill)
    }

    fn start(&self) -> BoxFuture<'_, Result<()>> {
        let broker = Arc::clone(&self.broker);
        blocking(move || {
            broker.processes().into_iter().try_for_each(Process::start)?;
            broker.until_ready()
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<()>> {
        self.to_one(Process::pause)
    }

    fn resume(&self) -> BoxFuture<'_, Result<()>> {
        let broker = Arc::clone(&self.broker);
        blocking(move || {
            broker.processes().into_iter().for_each(Process::resume);
            Ok(())
        })
    }

    fn wipe(&self) -> BoxFuture<'_, Result<()>> {
        let broker = Arc::clone(&self.broker);
        blocking(move || broker.wipe())
    }
}

impl<B> fmt::Debug for Control<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("turn", &self.turn).finish_non_exhaustive()
    }
}
