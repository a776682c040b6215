//! How the suite reaches a server: the one that a variable names, else one of its own.

use std::env;
use std::time::Duration;

use fabric_core::conformance::{Case, Harness};
use fabric_core::{Dsn, Fabric, Result};
use fabric_nats::Nats;

/// A server that the suite uses and does no harm.
pub(crate) struct NatsHarness {
    options: &'static str,
}

/// How long the tests' streams recognise a duplicate.
const WINDOW: Duration = Duration::from_secs(1);

impl NatsHarness {
    pub(crate) const fn jetstream() -> Self {
        Self { options: "prefix=ef-test&dedup_window=1s" }
    }

    pub(crate) const fn core() -> Self {
        Self { options: "mode=core&prefix=ef-core" }
    }
}

/// The server's address.
pub(crate) fn url() -> String {
    env::var("FABRIC_TEST_NATS_URL")
        .unwrap_or_else(|_| fabric_brokers::nats::shared().unwrap().url())
}

/// A client of the server with these options.
pub(crate) async fn connect(options: &str) -> Result<Fabric> {
    let dsn = Dsn::parse(&format!("{}?{options}", url()))?;
    Ok(Fabric::new(Nats::connect(dsn).await?))
}

impl Harness for NatsHarness {
    async fn open(&self) -> Result<Fabric> {
        connect(self.options).await
    }

    fn dedup_window(&self) -> Option<Duration> {
        Some(WINDOW)
    }

    fn without(&self, _: &Case) -> Option<&'static str> {
        Some("a server that all cases share is not harmed; the cases with faults have their own")
    }
}
