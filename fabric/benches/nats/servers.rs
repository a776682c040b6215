//! The servers that are measured on.

use std::env;

use fabric_brokers::nats::{Cluster, Options, Server};

use crate::support::Result;

/// Takes a payload of 1 MiB with its headers.
const MAX_PAYLOAD: &str = "max_payload: 8MB";
const OWN_MAX: u64 = 8 << 20;

/// What a server takes unless it is configured.
const DEFAULT_MAX: u64 = 1 << 20;

/// One server, a cluster of three, or what runs at `FABRIC_TEST_NATS_URL`.
#[derive(Debug)]
pub(crate) struct Servers {
    nodes: u32,
    url: String,
    max_payload: u64,
    /// They end with this.
    _server: Option<Server>,
    _cluster: Option<Cluster>,
}

impl Servers {
    /// Starts them; nothing where the running one is not of that size.
    pub(crate) fn start(nodes: u32) -> Result<Option<Self>> {
        if let Ok(url) = env::var("FABRIC_TEST_NATS_URL") {
            let found =
                Self { nodes, url, max_payload: DEFAULT_MAX, _server: None, _cluster: None };
            return Ok((nodes == 1).then_some(found));
        }
        let options = Options::new().setting(MAX_PAYLOAD);
        let (server, cluster) = match nodes {
            1 => (Some(Server::start(options)?), None),
            _ => (None, Some(Cluster::start(nodes as usize, &options)?)),
        };
        let url = server.as_ref().map(Server::url).or_else(|| cluster.as_ref().map(Cluster::url));
        let url = url.ok_or("no server was started")?;
        Ok(Some(Self { nodes, url, max_payload: OWN_MAX, _server: server, _cluster: cluster }))
    }

    pub(crate) const fn nodes(&self) -> u32 {
        self.nodes
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The largest payload with headers, in bytes.
    pub(crate) const fn max_payload(&self) -> u64 {
        self.max_payload
    }
}
