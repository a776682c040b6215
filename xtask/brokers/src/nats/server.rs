//! One server.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;

use super::Options;
use crate::broker::{Broker, remove};
use crate::{Error, Folder, Launch, Port, Process, Ready, Result};

/// A running server; dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Server {
    options: Options,
    process: Process,
    port: Port,
}

impl Server {
    /// Starts one and waits until it takes connections.
    ///
    /// # Errors
    /// If there is no program, or it does not start.
    pub fn start(options: Options) -> Result<Self> {
        let (folder, port) = (Folder::new("nats")?, Port::reserve()?);
        let data = folder.path().join("data");
        let text = configuration(&options, &port, &data.display().to_string());
        let file = folder.write("nats.conf", text)?;
        let ready = Ready::Greets(port.address(), "INFO ");
        let launch = Launch::new(super::program()?, ready).arg("--config").arg(file);
        Ok(Self { options, process: Process::new(launch, folder)?, port })
    }

    /// What to connect to: the address that it advertises, else its own.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.options.advertise.unwrap_or_else(|| self.address()))
    }

    /// Where it listens itself.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Stops, kills, pauses and starts it.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }
}

impl Broker for Server {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn wipe(&self) -> Result<()> {
        self.process.kill();
        remove(&self.process.folder().join("data"))?;
        self.process.start()
    }
}

/// A server with the defaults, for all tests of this process that do it no harm.
///
/// It is started by whoever asks first and ends with the process.
///
/// # Errors
/// If it cannot be started; whoever asks next tries again.
pub fn shared() -> Result<&'static Server> {
    static SHARED: Mutex<Option<&'static Server>> = Mutex::new(None);
    let mut shared = SHARED.lock().map_err(|_| Error::new("starting the shared server failed"))?;
    if let Some(server) = *shared {
        return Ok(server);
    }
    let server = Box::leak(Box::new(Server::start(Options::new())?));
    Ok(shared.insert(server))
}

fn configuration(options: &Options, port: &Port, data: &str) -> String {
    let mut text = format!("listen: \"{}\"\nmax_connections: 64K\n", port.address());
    // Writing to a `String` cannot fail.
    if options.jetstream {
        let _ = writeln!(text, "jetstream {{ store_dir: \"{data}\" }}");
    }
    if let Some(address) = options.advertise {
        let _ = writeln!(text, "client_advertise: \"{address}\"");
    }
    for line in &options.settings {
        let _ = writeln!(text, "{line}");
    }
    text
}
