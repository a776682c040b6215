//! One broker.

use std::net::SocketAddr;
use std::sync::Mutex;

use super::Options;
use super::node::{Node, Ports};
use crate::broker::Broker;
use crate::{Error, Process, Proxy, Result};

/// A running broker; dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Server {
    advertise: Option<SocketAddr>,
    node: Node,
}

impl Server {
    /// Starts one and waits until it takes connections.
    ///
    /// # Errors
    /// If there is no Java or no Kafka, or it does not start.
    #[expect(clippy::needless_pass_by_value, reason = "as other brokers take them")]
    pub fn start(options: Options) -> Result<Self> {
        let (program, ports) = (super::program()?, Ports::reserve()?);
        let voters = format!("1@{}", ports.controller.address());
        let node = Node::start(&options, program, ports, 1, &voters)?;
        Ok(Self { advertise: options.advertise, node })
    }

    /// One behind a proxy: clients hear of the proxy alone.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn behind(proxy: &Proxy, options: Options) -> Result<Self> {
        let server = Self::start(options.advertise(proxy.address()))?;
        proxy.lead_to(server.address());
        Ok(server)
    }

    /// What to connect to: the address that it advertises, else its own.
    #[must_use]
    pub fn url(&self) -> String {
        format!("kafka://{}", self.advertise.unwrap_or_else(|| self.address()))
    }

    /// Where it listens itself.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.node.ports.clients.address()
    }

    /// Where it listens for TLS and SASL, if its options say who may come.
    #[must_use]
    pub fn secure_address(&self) -> SocketAddr {
        self.node.ports.secure.address()
    }

    /// Stops, kills, pauses and starts it.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.node.process
    }
}

impl Broker for Server {
    fn processes(&self) -> Vec<&Process> {
        vec![self.process()]
    }

    fn wipe(&self) -> Result<()> {
        self.process().kill();
        self.node.forget()?;
        self.process().start()
    }
}

/// A broker with the defaults, for all tests of this process that do it no harm.
///
/// It is started by whoever asks first and ends with the process.
///
/// # Errors
/// If it cannot be started; whoever asks next tries again.
pub fn shared() -> Result<&'static Server> {
    static SHARED: Mutex<Option<&'static Server>> = Mutex::new(None);
    let mut shared = SHARED.lock().map_err(|_| Error::new("starting the shared broker failed"))?;
    if let Some(server) = *shared {
        return Ok(server);
    }
    let server = Box::leak(Box::new(Server::start(Options::new())?));
    Ok(shared.insert(server))
}
