//! The suite on a backend that is none of ours: the one of the example, by what this crate exports.

#![cfg(feature = "conformance")]

#[path = "../examples/custom_backend.rs"]
#[expect(dead_code, reason = "an example is a program of its own")]
mod custom_backend;

use std::time::Duration;

use custom_backend::Loopback;
use fabric::conformance::{Case, Harness, Timing};
use fabric::{Event, Fabric, Result};
use tokio::sync::broadcast::Sender;

/// One channel, and any number of clients.
struct LoopbackHarness(Sender<Event>);

impl Harness for LoopbackHarness {
    async fn open(&self) -> Result<Fabric> {
        Ok(Fabric::new(Loopback::new(&self.0)))
    }

    fn timing(&self) -> Timing {
        Timing::default().with_exact(true).with_watchdog(Duration::from_secs(3600))
    }

    fn without(&self, _: &Case) -> Option<&'static str> {
        Some("there is no broker beside the channel, and it keeps nothing")
    }
}

fabric::conformance!(paused, LoopbackHarness(Sender::new(65_536)));
