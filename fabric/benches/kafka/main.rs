//! The Kafka backend beside rdkafka, in the same run: `cargo xtask bench kafka`.
//!
//! The raw arm writes and reads the five headers that an event has; its producer is idempotent and
//! waits for as long as fabric's does, and its consumer commits as often. librdkafka has threads of
//! its own, which the CPU time has in it, in every arm. There is no `profile=raw` here, so that the
//! bare arm only shows what the headers cost.
#![expect(clippy::print_stdout, reason = "a bench prints its results")]
#![allow(dead_code, unreachable_pub, reason = "what benches share is not all used by each")]

mod brokers;
mod envelope;
#[path = "../support/network/mod.rs"]
mod network;
mod raw;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::Arc;

use crate::brokers::Brokers;
use crate::envelope::Carries;
use crate::network::{
    Arm, Arms, Child, Client, FabricArm, IN_FLIGHT, PREFETCH, SIZES, Style, Suite, peaks,
};
use crate::raw::KafkaRaw;
use crate::support::{Options, Report, Result};

/// Events of a full round of each size.
const EVENTS: [u64; 4] = [40_000, 40_000, 2000, 128];
const ONE_BY_ONE: u64 = 1000;

fn main() -> ExitCode {
    network::main("kafka", run, |role| Child::play(role, connect_child))
}

fn run(options: &Options, report: &mut Report) -> Result<()> {
    for nodes in [1, 3] {
        let Some(brokers) = Brokers::start(nodes)? else { continue };
        report.on_nodes(nodes);
        paths(options, report, &brokers)?;
        if nodes == 1 {
            peaks(options, report, ("default", "log"), nodes, brokers.url())?;
        }
    }
    Ok(())
}

fn paths(options: &Options, report: &mut Report, brokers: &Brokers) -> Result<()> {
    let mut suite = Suite::new(options, report)?;
    let mut clients = Vec::new();
    for arm in suite.arms().into_iter().filter(|arm| *arm != Arm::Profile) {
        let (url, nodes) = (brokers.url().to_owned(), brokers.nodes());
        clients.push((arm, suite.on(async move { connect(arm, nodes, &url).await })?));
    }
    let arms = Arms { modes: ["default", "raw_profile"], least_of_bare: 0.90, clients };
    let few = if options.quick && brokers.nodes() > 1 { 1 } else { SIZES.len() };
    for (size, events) in SIZES.into_iter().zip(EVENTS).take(few) {
        suite.publish(&arms, size, events)?;
        suite.consume(&arms, size, events)?;
        suite.end_to_end(&arms, size, events)?;
    }
    let few = if options.quick { 1 } else { SIZES.len() };
    for size in SIZES.into_iter().take(few) {
        suite.publish_latency(&arms, size, ONE_BY_ONE)?;
        suite.end_to_end_latency(&arms, size, ONE_BY_ONE)?;
    }
    Ok(())
}

async fn connect_child(child: Child) -> Result<Arc<dyn Client>> {
    connect(child.arm, child.nodes, &child.url).await
}

async fn connect(arm: Arm, nodes: u32, url: &str) -> Result<Arc<dyn Client>> {
    let client: Arc<dyn Client> = match arm {
        Arm::Fabric => {
            let url = format!(
                "{url}?prefix=bench&partitions=1&replication={nodes}\
                 &max_in_flight={IN_FLIGHT}&prefetch={PREFETCH}"
            );
            Arc::new(FabricArm::connect(&url, Style::Group).await?)
        }
        Arm::Raw => Arc::new(KafkaRaw::connect(url, nodes, Carries::Event)?),
        Arm::Bare => Arc::new(KafkaRaw::connect(url, nodes, Carries::Payload)?),
        Arm::Profile => return Err("this backend has no `profile=raw`".into()),
    };
    Ok(client)
}
