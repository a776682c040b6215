//! The NATS backend beside async-nats, in the same run: `cargo xtask bench nats`.
//!
//! The raw arm writes and reads the six headers that an event has, under names that are made once,
//! with `Nats-Msg-Id` among them; its acks are sent and not waited for, as fabric's are.
#![expect(clippy::print_stdout, reason = "a bench prints its results")]
#![allow(dead_code, unreachable_pub, reason = "what benches share is not all used by each")]

mod core_raw;
mod envelope;
mod jetstream_raw;
#[path = "../support/network/mod.rs"]
mod network;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::Arc;

use crate::core_raw::CoreRaw;
use crate::envelope::Carries;
use crate::jetstream_raw::JetStreamRaw;
use crate::network::{
    Arm, Arms, Child, Client, FabricArm, IN_FLIGHT, PREFETCH, SIZES, Style, Suite, peaks,
};
use crate::servers::Servers;
use crate::support::{Options, Report, Result};

/// Names of ways to use NATS, between processes.
const JETSTREAM: &str = "jetstream";
const CORE: &str = "core";

/// Events of a full round of each size.
const EVENTS: [u64; 4] = [20_000, 20_000, 2000, 128];
const CORE_EVENTS: [u64; 4] = [60_000, 60_000, 4000, 128];
const ONE_BY_ONE: u64 = 3000;

fn main() -> ExitCode {
    network::main("nats", run, |role| Child::play(role, connect_child))
}

fn run(options: &Options, report: &mut Report) -> Result<()> {
    for nodes in [1, 3] {
        let Some(servers) = Servers::start(nodes)? else { continue };
        report.on_nodes(nodes);
        jetstream(options, report, &servers)?;
        if nodes == 1 {
            core(options, report, &servers)?;
            peaks(options, report, ("default", JETSTREAM), nodes, servers.url())?;
            peaks(options, report, ("core", CORE), nodes, servers.url())?;
        }
    }
    Ok(())
}

fn jetstream(options: &Options, report: &mut Report, servers: &Servers) -> Result<()> {
    let mut suite = Suite::new(options, report)?;
    let arms = arms(&suite, servers, JETSTREAM, (["default", "raw_profile"], 0.90))?;
    for (size, events) in sizes(options, servers, EVENTS) {
        suite.publish(&arms, size, events)?;
        suite.consume(&arms, size, events)?;
        suite.end_to_end(&arms, size, events)?;
    }
    for size in one_by_one(options, servers) {
        suite.publish_latency(&arms, size, ONE_BY_ONE)?;
        suite.end_to_end_latency(&arms, size, ONE_BY_ONE)?;
    }
    Ok(())
}

fn core(options: &Options, report: &mut Report, servers: &Servers) -> Result<()> {
    let mut suite = Suite::new(options, report)?;
    let arms = arms(&suite, servers, CORE, (["core", "core_raw_profile"], 0.85))?;
    for (size, events) in sizes(options, servers, CORE_EVENTS) {
        suite.end_to_end(&arms, size, events)?;
        suite.request(&arms, size, events / 3)?;
    }
    for size in one_by_one(options, servers) {
        suite.end_to_end_latency(&arms, size, ONE_BY_ONE)?;
        suite.request_latency(&arms, size, ONE_BY_ONE)?;
    }
    Ok(())
}

/// Sizes with events of a round, without those that the server does not take.
fn sizes(options: &Options, servers: &Servers, events: [u64; 4]) -> Vec<(u64, u64)> {
    let few = if options.quick && servers.nodes() > 1 { 1 } else { SIZES.len() };
    let all = SIZES.into_iter().zip(events).take(few);
    all.filter(|(size, _)| *size < servers.max_payload()).collect()
}

fn one_by_one(options: &Options, servers: &Servers) -> Vec<u64> {
    let few = if options.quick { 1 } else { SIZES.len() };
    SIZES.into_iter().take(few).filter(|size| *size < servers.max_payload()).collect()
}

fn arms(
    suite: &Suite<'_>,
    servers: &Servers,
    way: &'static str,
    (modes, least_of_bare): ([&'static str; 2], f64),
) -> Result<Arms> {
    let mut clients = Vec::new();
    for arm in suite.arms() {
        let (url, nodes) = (servers.url().to_owned(), servers.nodes());
        clients.push((arm, suite.on(async move { connect(arm, way, nodes, &url).await })?));
    }
    Ok(Arms { modes, least_of_bare, clients })
}

async fn connect_child(child: Child) -> Result<Arc<dyn Client>> {
    connect(child.arm, &child.way, child.nodes, &child.url).await
}

async fn connect(arm: Arm, way: &str, nodes: u32, url: &str) -> Result<Arc<dyn Client>> {
    let client: Arc<dyn Client> = match (way, arm) {
        (JETSTREAM, Arm::Fabric | Arm::Profile) => {
            let profile = if arm == Arm::Profile { "raw" } else { "binary" };
            let url = format!(
                "{url}?prefix=bench-{}&profile={profile}&replicas={nodes}\
                 &in_flight={IN_FLIGHT}&in_flight_bytes={IN_FLIGHT}MiB&prefetch={PREFETCH}",
                arm.name()
            );
            Arc::new(FabricArm::connect(&url, Style::Group).await?)
        }
        (JETSTREAM, Arm::Raw) => Arc::new(JetStreamRaw::connect(url, nodes, Carries::Event).await?),
        (JETSTREAM, Arm::Bare) => {
            Arc::new(JetStreamRaw::connect(url, nodes, Carries::Payload).await?)
        }
        (CORE, Arm::Fabric | Arm::Profile) => {
            let profile = if arm == Arm::Profile { "raw" } else { "binary" };
            let url = format!("{url}?mode=core&prefix=bench-core-{}&profile={profile}", arm.name());
            Arc::new(FabricArm::connect(&url, Style::Plain).await?)
        }
        (CORE, Arm::Raw) => Arc::new(CoreRaw::connect(url, Carries::Event).await?),
        (CORE, Arm::Bare) => Arc::new(CoreRaw::connect(url, Carries::Payload).await?),
        _ => return Err(format!("no such way to use NATS: {way}").into()),
    };
    Ok(client)
}
