//! Where the server is, and clients of it.

use std::env;

use fabric_brokers::nats;
use fabric_core::{Dsn, Fabric, Result};
use fabric_nats::Nats;

/// The address of the server that tests share, which they do no harm.
pub(crate) fn url() -> String {
    env::var("FABRIC_TEST_NATS_URL").unwrap_or_else(|_| nats::shared().unwrap().url())
}

/// A client of the shared server with these options.
pub(crate) async fn connect(options: &str) -> Result<Fabric> {
    dial(&format!("{}?{options}", url())).await
}

/// A client of any server.
pub(crate) async fn dial(url: &str) -> Result<Fabric> {
    Ok(Fabric::new(Nats::connect(Dsn::parse(url)?).await?))
}
