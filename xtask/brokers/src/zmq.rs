//! The broker of ZeroMQ: our own, `fabric broker zmq`.

use std::path::PathBuf;

use crate::broker::Broker;
use crate::{Folder, Launch, Port, Process, Ready, Result};

/// A running broker; dropping it ends it.
#[derive(Debug)]
pub struct Server {
    process: Process,
    backend: Port,
    frontend: Port,
}

impl Server {
    /// Starts one of the program `fabric`, built with the features `cli` and `zmq`, and waits until it
    /// takes connections.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(program: impl Into<PathBuf>) -> Result<Self> {
        let (backend, frontend) = (Port::reserve()?, Port::reserve()?);
        let at = |port: &Port| format!("tcp://{}", port.address());
        let launch = Launch::new(program, Ready::Says("the broker listens"))
            .args(["broker", "zmq", "--backend"])
            .arg(at(&backend))
            .arg("--frontend")
            .arg(at(&frontend));
        let process = Process::new(launch, Folder::new("zmq")?)?;
        Ok(Self { process, backend, frontend })
    }

    /// What to connect to.
    #[must_use]
    pub fn url(&self) -> String {
        let (backend, frontend) = (self.backend.address(), self.frontend.address().port());
        format!("zmq+tcp://{backend},{frontend}")
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
        self.process.start()
    }
}
