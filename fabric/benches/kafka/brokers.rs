//! The brokers that are measured on.

use std::env;

use fabric_brokers::kafka::{Cluster, Options, Server};

use crate::support::Result;

/// Takes a payload of 1 MiB with its headers.
const LARGEST: &str = "8388608";

/// One broker, a cluster of three, or what runs at `FABRIC_TEST_KAFKA_URL`.
#[derive(Debug)]
pub(crate) struct Brokers {
    nodes: u32,
    url: String,
    /// They end with this.
    _server: Option<Server>,
    _cluster: Option<Cluster>,
}

impl Brokers {
    /// Starts them; nothing where the running one is not of that size.
    pub(crate) fn start(nodes: u32) -> Result<Option<Self>> {
        if let Ok(url) = env::var("FABRIC_TEST_KAFKA_URL") {
            let found = Self { nodes, url, _server: None, _cluster: None };
            return Ok((nodes == 1).then_some(found));
        }
        let options = Options::new()
            .setting("message.max.bytes", LARGEST)
            .setting("replica.fetch.max.bytes", LARGEST);
        let (server, cluster) = match nodes {
            1 => (Some(Server::start(options)?), None),
            _ => (None, Some(Cluster::start(nodes as usize, &options)?)),
        };
        let url = server.as_ref().map(Server::url).or_else(|| cluster.as_ref().map(Cluster::url));
        let url = url.ok_or("no broker was started")?;
        Ok(Some(Self { nodes, url, _server: server, _cluster: cluster }))
    }

    pub(crate) const fn nodes(&self) -> u32 {
        self.nodes
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}
