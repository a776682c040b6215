//! The ZeroMQ backend beside libzmq, in the same run: `cargo xtask bench zmq`.
//!
//! The raw arm sends the same three frames for each event, from where it publishes, with room for
//! all; each of its readers has a thread that reads them and hands events over by a channel. Both
//! go through the same broker, or through none. The path `broker` holds Fabric's broker, which
//! counts, beside libzmq's own `zmq_proxy`, each in a process of its own, whose CPU time it is.
#![expect(clippy::print_stdout, reason = "a bench prints its results")]
#![allow(dead_code, unreachable_pub, reason = "what benches share is not all used by each")]

mod broker;
mod envelope;
#[path = "../support/network/mod.rs"]
mod network;
mod raw;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::Arc;

use fabric_brokers::Folder;

use crate::broker::{Broker, Kind};
use crate::envelope::Carries;
use crate::network::{Arm, Arms, Child, Client, FabricArm, Herd, SIZES, Style, Suite, peaks};
use crate::raw::{Endpoints, HWM, Net, Peers, ZmqRaw};
use crate::support::{Options, Report, Result};

/// Events of a full round of each size.
const EVENTS: [u64; 4] = [60_000, 60_000, 2000, 64];
const ONE_BY_ONE: u64 = 5000;

/// What the paths of eight have.
const MANY: usize = 8;

/// Names of ways to use ZeroMQ, between processes.
const BROKER: &str = "broker";
const PEERS: &str = "peers";

/// The least that `profile=raw` may reach of the bare arm.
const LEAST_OF_BARE: f64 = 0.9;

/// The least that our broker may reach of `zmq_proxy`.
const LEAST_OF_PROXY: f64 = 0.9;

fn main() -> ExitCode {
    network::main("zmq", run, |role| match role.split_once(' ') {
        Some(("serve", kind)) => broker::play(kind),
        _ => Child::play(role, connect_child),
    })
}

fn run(options: &Options, report: &mut Report) -> Result<()> {
    let broker = Broker::start(Kind::Fabric)?;
    let through = Way { name: BROKER, url: broker.ends().url() };
    paths(options, report, &through, ["default", "raw_profile"])?;
    let folder = Folder::new("zmq")?;
    let direct = Way { name: PEERS, url: folder.path().display().to_string() };
    paths(options, report, &direct, ["peers", "peers_raw_profile"])?;
    brokers(options, report, &broker)?;
    peaks(options, report, ("default", BROKER), 1, &through.url)
}

/// How clients meet.
struct Way {
    name: &'static str,
    /// The broker's URL, or the folder in which peers find each other.
    url: String,
}

fn paths(
    options: &Options,
    report: &mut Report,
    way: &Way,
    modes: [&'static str; 2],
) -> Result<()> {
    let mut suite = Suite::new(options, report)?;
    let one = Flock::connect(&suite, way, 1)?.arms(modes, |flock| {
        let only: Arc<dyn Client> = Arc::clone(&flock[0]);
        only
    });
    for (size, events) in SIZES.into_iter().zip(EVENTS) {
        suite.end_to_end(&one, size, events)?;
    }
    let few = if options.quick { 1 } else { SIZES.len() };
    for size in SIZES.into_iter().take(few) {
        suite.end_to_end_latency(&one, size, ONE_BY_ONE)?;
    }
    drop(one);
    if !options.wants("fan_out8") && !options.wants("fan_in8") {
        return Ok(());
    }
    let flock = Flock::connect(&suite, way, 1 + MANY)?;
    let herd = |publishers: &[Arc<dyn Client>], readers: &[Arc<dyn Client>]| -> Arc<dyn Client> {
        Arc::new(Herd { publishers: publishers.to_vec(), readers: readers.to_vec() })
    };
    let out = flock.arms(modes, |clients| herd(&clients[..1], &clients[1..]));
    let into = flock.arms(modes, |clients| herd(&clients[1..], &clients[..1]));
    for (path, herds) in [("fan_out8", out), ("fan_in8", into)] {
        for (size, events) in SIZES.into_iter().zip(EVENTS) {
            suite.through(&herds, path, size, events / MANY as u64)?;
        }
    }
    Ok(())
}

/// Both brokers under the same raw clients.
fn brokers(options: &Options, report: &mut Report, ours: &Broker) -> Result<()> {
    if !options.wants("broker") {
        return Ok(());
    }
    let theirs = Broker::start(Kind::Proxy)?;
    let mut suite = Suite::new(options, report)?;
    let mut clients: Vec<(Arm, Arc<dyn Client>)> = Vec::new();
    for (arm, broker) in [(Arm::Fabric, ours), (Arm::Raw, &theirs)] {
        let net = Net::Broker(broker.kind(), broker.ends().clone());
        clients
            .push((arm, Arc::new(ZmqRaw::connect(net, Carries::Event)?.measuring(broker.pid()))));
    }
    let arms = Arms { modes: ["default", "raw_profile"], least_of_bare: LEAST_OF_BARE, clients };
    for (size, events) in SIZES.into_iter().zip(EVENTS) {
        suite.through_at_least(&arms, ("broker", LEAST_OF_PROXY), size, events)?;
    }
    Ok(())
}

/// So many clients of each arm, which meet each other.
struct Flock(Vec<(Arm, Vec<Arc<dyn Client>>)>);

impl Flock {
    fn connect(suite: &Suite<'_>, way: &Way, many: usize) -> Result<Self> {
        let mut all = Vec::new();
        for arm in suite.arms() {
            let (name, url) = (way.name, way.url.clone());
            all.push((arm, suite.on(async move { connect(arm, name, &url, many).await })?));
        }
        Ok(Self(all))
    }

    /// One client of each arm, made of those that are there.
    fn arms(
        &self,
        modes: [&'static str; 2],
        make: impl Fn(&[Arc<dyn Client>]) -> Arc<dyn Client>,
    ) -> Arms {
        let clients = self.0.iter().map(|(arm, clients)| (*arm, make(clients))).collect();
        Arms { modes, least_of_bare: LEAST_OF_BARE, clients }
    }
}

async fn connect_child(child: Child) -> Result<Arc<dyn Client>> {
    let clients = connect(child.arm, &child.way, &child.url, 1).await?;
    clients.into_iter().next().ok_or_else(|| "nobody is connected".into())
}

async fn connect(arm: Arm, way: &str, url: &str, many: usize) -> Result<Vec<Arc<dyn Client>>> {
    let folder = format!("{url}/{}-{many}", arm.name());
    if way == PEERS {
        std::fs::create_dir_all(&folder)?;
    }
    let mut clients: Vec<Arc<dyn Client>> = Vec::new();
    let peers = Peers::default();
    for number in 0..many {
        clients.push(match arm {
            Arm::Fabric | Arm::Profile => {
                let profile = if arm == Arm::Profile { "&profile=raw" } else { "" };
                let at = match way {
                    PEERS => format!("zmq+ipc://{folder}?mode=peers"),
                    _ => format!("{url}?mode=broker"),
                };
                let url = format!("{at}{profile}&hwm={HWM}&prefetch={HWM}&queue_bytes=1GiB");
                Arc::new(FabricArm::connect(&url, Style::Plain).await?)
            }
            Arm::Raw | Arm::Bare => {
                let carries = if arm == Arm::Raw { Carries::Event } else { Carries::Payload };
                let net = match way {
                    PEERS => {
                        let own = format!("ipc://{folder}/{number}");
                        Net::Peers { own, peers: Arc::clone(&peers) }
                    }
                    _ => Net::Broker(Kind::Fabric, Endpoints::of(url)?),
                };
                Arc::new(ZmqRaw::connect(net, carries)?)
            }
        });
    }
    Ok(clients)
}
