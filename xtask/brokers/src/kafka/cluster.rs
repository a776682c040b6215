//! Brokers that are one.

use std::thread;

use super::Options;
use super::node::{Node, Ports};
use crate::broker::Broker;
use crate::{Error, Process, Proxy, Result};

/// A running cluster; dropping it ends it and removes its data.
///
/// Topics have three replicas, or as many as there are brokers, and a write that is confirmed is on
/// all but one of them.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    addresses: Vec<String>,
}

impl Cluster {
    /// Starts `size` brokers and waits until all take connections.
    ///
    /// # Errors
    /// If there is no Java or no Kafka, or they do not start or find each other.
    pub fn start(size: usize, options: &Options) -> Result<Self> {
        Self::with(&vec![options.clone(); size])
    }

    /// As many as there are proxies, each behind one: clients hear of the proxies alone.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn behind<'a>(
        proxies: impl IntoIterator<Item = &'a Proxy>,
        options: &Options,
    ) -> Result<Self> {
        let proxies: Vec<&Proxy> = proxies.into_iter().collect();
        let each = |proxy: &&Proxy| options.clone().advertise(proxy.address());
        let ports = proxies.iter().map(|_| Ports::reserve()).collect::<Result<Vec<_>>>()?;
        for (proxy, ports) in proxies.iter().zip(&ports) {
            proxy.lead_to(ports.clients.address());
        }
        Self::on(ports, &proxies.iter().map(each).collect::<Vec<_>>())
    }

    fn with(options: &[Options]) -> Result<Self> {
        let ports = options.iter().map(|_| Ports::reserve()).collect::<Result<Vec<_>>>()?;
        Self::on(ports, options)
    }

    fn on(ports: Vec<Ports>, options: &[Options]) -> Result<Self> {
        let program = super::program()?;
        let voters: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(n, ports)| format!("{}@{}", n + 1, ports.controller.address()))
            .collect();
        let (voters, size) = (voters.join(","), options.len());
        let addresses = ports
            .iter()
            .zip(options)
            .map(|(ports, options)| options.advertise.unwrap_or_else(|| ports.clients.address()))
            .map(|address| address.to_string())
            .collect();
        // Each on a thread of its own: one that waits for the others must not keep them waiting.
        let nodes = thread::scope(|scope| {
            let (program, voters) = (&program, &voters);
            let starting: Vec<_> = options
                .iter()
                .zip(ports)
                .enumerate()
                .map(|(n, (options, ports))| {
                    let options = replicated(options.clone(), size);
                    scope
                        .spawn(move || Node::start(&options, program.clone(), ports, n + 1, voters))
                })
                .collect();
            let started = starting.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Error::new("starting a broker failed")))
            });
            started.collect::<Result<Vec<_>>>()
        })?;
        Ok(Self { nodes, addresses })
    }

    /// What to connect to: every broker.
    #[must_use]
    pub fn url(&self) -> String {
        format!("kafka://{}", self.addresses.join(","))
    }
}

impl Broker for Cluster {
    fn processes(&self) -> Vec<&Process> {
        self.nodes.iter().map(|node| &node.process).collect()
    }

    fn wipe(&self) -> Result<()> {
        self.nodes.iter().for_each(|node| node.process.kill());
        self.nodes.iter().try_for_each(Node::forget)?;
        thread::scope(|scope| {
            let starting: Vec<_> =
                self.nodes.iter().map(|node| scope.spawn(|| node.process.start())).collect();
            starting.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(Error::new("starting a broker failed")))
            })
        })
    }
}

/// What several brokers do with a topic.
fn replicated(options: Options, size: usize) -> Options {
    let (copies, least) = (size.min(3).to_string(), (size.min(3) - 1).max(1).to_string());
    let mut all = options;
    for name in [
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "share.coordinator.state.topic.replication.factor",
    ] {
        all = all.default_setting(name, &copies);
    }
    for name in ["min.insync.replicas", "transaction.state.log.min.isr"] {
        all = all.default_setting(name, &least);
    }
    // One that is stopped hands over first.
    all.default_setting("controlled.shutdown.enable", "true")
}
