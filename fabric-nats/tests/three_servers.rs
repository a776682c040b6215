//! The whole suite on three servers that are one, with every event on all of them. The cases that do
//! harm have servers of their own, in `cluster.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::sync::OnceLock;
use std::time::Duration;

use fabric_brokers::nats::{Cluster, Options};
use fabric_core::conformance::{Case, Harness, Timing};
use fabric_core::{Dsn, Fabric, Result};
use fabric_nats::Nats;

/// Three servers that all cases share.
struct ThreeServers;

/// How long the tests' streams recognise a duplicate.
const WINDOW: Duration = Duration::from_secs(1);

impl Harness for ThreeServers {
    async fn open(&self) -> Result<Fabric> {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        let cluster = CLUSTER.get_or_init(|| Cluster::start(3, &Options::new()).unwrap());
        let options = "prefix=ef-suite&replicas=3&dedup_window=1s&request_timeout=20s";
        let dsn = Dsn::parse(&format!("{}?{options}", cluster.url()))?;
        Ok(Fabric::new(Nats::connect(dsn).await?))
    }

    fn timing(&self) -> Timing {
        // A group is made by a vote, and three servers share this machine.
        Timing::default().with_patience(Duration::from_secs(45)).with_slack(Duration::from_secs(1))
    }

    fn dedup_window(&self) -> Option<Duration> {
        Some(WINDOW)
    }

    fn without(&self, _: &Case) -> Option<&'static str> {
        Some("servers that all cases share are not harmed; see `cluster.rs`")
    }
}

fabric_core::conformance!(ThreeServers);
