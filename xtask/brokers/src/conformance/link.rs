//! `FaultCtl` over proxies.

use std::fmt;
use std::future::{Future, ready};
use std::sync::Arc;

use fabric_core::conformance::{Fault, FaultCtl, Links, Way};
use fabric_core::{Fabric, Result};
use futures_core::future::BoxFuture;

use super::failed;
use crate::{Proxy, Slowness};

type Open = dyn Fn() -> BoxFuture<'static, Result<Fabric>> + Send + Sync;

/// Breaks the links that lead through proxies: one for each address that a client connects to.
pub struct Link {
    proxies: Vec<Arc<Proxy>>,
    open: Box<Open>,
}

impl Link {
    /// Over these proxies; `open` connects a client through them.
    pub fn new<F>(
        proxies: impl IntoIterator<Item = Arc<Proxy>>,
        open: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Fabric>> + Send + 'static,
    {
        let open = move || Box::pin(open()) as BoxFuture<'static, _>;
        Self { proxies: proxies.into_iter().collect(), open: Box::new(open) }
    }

    fn harm(&self, fault: Fault) -> Result<()> {
        for proxy in &self.proxies {
            match fault {
                Fault::Reset => proxy.reset(),
                Fault::Refuse => proxy.refuse(),
                Fault::Swallow(Way::Both) => proxy.swallow(crate::Way::Both),
                Fault::Swallow(Way::ToBroker) => proxy.swallow(crate::Way::ToBroker),
                Fault::Swallow(Way::ToClient) => proxy.swallow(crate::Way::ToClient),
                Fault::Slow { latency, jitter, bytes_per_second, slice } => {
                    proxy.slow(Slowness { latency, jitter, bytes_per_second, slice });
                }
                Fault::CutAfter(bytes) => proxy.cut_after(bytes),
                other => return Err(failed(&format!("a proxy cannot do {other:?}"))),
            }
        }
        Ok(())
    }
}

impl FaultCtl for Link {
    fn open(&self) -> BoxFuture<'_, Result<Fabric>> {
        (self.open)()
    }

    fn inflict(&self, fault: Fault) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(self.harm(fault)))
    }

    fn heal(&self) -> BoxFuture<'_, Result<()>> {
        for proxy in &self.proxies {
            proxy.heal();
        }
        Box::pin(ready(Ok(())))
    }

    fn links(&self) -> Links {
        let sum = |count: fn(&Proxy) -> u64| self.proxies.iter().map(|proxy| count(proxy)).sum();
        let open = self.proxies.iter().map(|proxy| proxy.open()).sum();
        Links::new(open, sum(Proxy::opened), sum(Proxy::bytes))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("proxies", &self.proxies).finish_non_exhaustive()
    }
}
