//! The tools of the conformance suite, over real brokers.
//!
//! A harness holds them and hands them out:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use fabric_brokers::conformance::{Control, Link};
//! use fabric_brokers::{Proxy, nats};
//! use fabric_core::conformance::{BrokerCtl, Copies, FaultCtl};
//! # fn tools<F>(connect: impl Fn(String) -> F + Send + Sync + 'static) -> fabric_brokers::Result<()>
//! # where F: Future<Output = fabric_core::Result<fabric_core::Fabric>> + Send + 'static {
//!
//! let proxy = Arc::new(Proxy::new()?);
//! let server = Arc::new(nats::Server::start(nats::Options::new().advertise(proxy.address()))?);
//! proxy.lead_to(server.address());
//!
//! let url = format!("nats://{}", proxy.address());
//! let broker = Control::new(Arc::clone(&server)); // for `Harness::broker`
//! let fault = Link::new([proxy], move || connect(url.clone())); // for `Harness::fault`
//! let children = Copies::new().with_env("FABRIC_TEST_NATS_URL", server.url());
//! # Ok(())
//! # }
//! ```

mod control;
mod link;

pub use control::Control;
pub use link::Link;

use fabric_core::{Error, ErrorKind};
use futures_core::future::BoxFuture;

/// Does something that blocks where that harms nobody.
fn blocking<'a>(
    act: impl FnOnce() -> crate::Result<()> + Send + 'static,
) -> BoxFuture<'a, fabric_core::Result<()>> {
    let acting = tokio::task::spawn_blocking(act);
    Box::pin(async move {
        let done = acting.await.map_err(|panic| failed(&panic))?;
        done.map_err(|error| failed(&error))
    })
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Backend, format!("a tool failed: {error}"))
}
