//! The whole suite on memory through each layer, and through all of them in the recommended order.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod harness;

use std::time::Duration;

use fabric_core::layers::{
    Batching, CircuitBreaker, Faults, Hooks, Limit, Metrics, PublishRetry, Timeout, Tracing, hooks,
};
use fabric_core::testing::Recorder;
use fabric_core::{DeliveryInfo, Event, Fabric, Result, Retry};

use self::harness::MemoryHarness;

const MILLI: Duration = Duration::from_millis(1);
/// Longer than any case lets a publish wait.
const LONG: Duration = Duration::from_secs(300);

/// Hooks that change every event on its way out and in, so that nothing is passed by unseen.
struct Marks;

const MARK: &str = "marked";

impl Hooks for Marks {
    fn publish(&self, event: &mut Event) -> Result<()> {
        let correlation = event.correlation_id().is_none();
        event.set_header(MARK, if correlation { "1" } else { "2" })
    }

    fn deliver(&self, event: &mut Event, _: &DeliveryInfo) -> Result<()> {
        event.remove_header(MARK);
        Ok(())
    }
}

/// Retries that end within the time that the suite allows a refusal on virtual time.
fn retries() -> PublishRetry {
    PublishRetry::new(Retry::fixed(MILLI * 10).max_attempts(3))
}

fn retry(fabric: Fabric) -> Result<Fabric> {
    fabric.layer(retries())
}

fn limit(fabric: Fabric) -> Result<Fabric> {
    fabric.layer(Limit::new().rate(1_000_000.0).in_flight(100_000))
}

fn batching(fabric: Fabric) -> Result<Fabric> {
    fabric.layer(Batching::new().max_events(16))
}

fn breaker(fabric: Fabric) -> Result<Fabric> {
    fabric.layer(CircuitBreaker::new().failures(5))
}

fn all(fabric: Fabric) -> Result<Fabric> {
    let fabric = fabric.layer(Recorder::new())?.layer(Faults::seeded(1))?;
    let fabric = breaker(limit(fabric)?.layer(Timeout::new(LONG))?)?;
    let fabric = batching(retry(fabric)?)?;
    fabric.layer(hooks(Marks))?.layer(Metrics::new())?.layer(Tracing::new())
}

macro_rules! through {
    ($($module:ident: $add:expr;)+) => {
        $(mod $module {
            use super::*;

            fabric_core::conformance!(paused, MemoryHarness::new().behind($add));
        })+
    };
}

through! {
    a_timeout: |fabric| fabric.layer(Timeout::new(LONG));
    retries: retry;
    pipelined_retries: |fabric| fabric.layer(retries().pipelined());
    a_limit: limit;
    a_circuit_breaker: breaker;
    batching_at_once: batching;
    batching_with_a_linger: |fabric| {
        fabric.layer(Batching::new().max_events(16).linger(MILLI * 5))
    };
    faults_that_never_strike: |fabric| fabric.layer(Faults::seeded(1));
    hooks_that_change_events: |fabric| fabric.layer(hooks(Marks));
    metrics: |fabric| fabric.layer(Metrics::new());
    tracing: |fabric| fabric.layer(Tracing::new());
    a_recorder: |fabric| fabric.layer(Recorder::new());
    all_layers: all;
}
