//! One server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::Options;
use crate::broker::{Broker, remove};
use crate::{Error, Folder, Launch, Port, Process, Proxy, Ready, Result};

/// How long a server may take to read its configuration again.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Server {
    options: Mutex<Options>,
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
        let data = options.data(&folder);
        let text = options.configuration(port.address(), &data.display().to_string());
        let file = folder.write("nats.conf", text)?;
        let ready = Ready::Greets(port.address(), "INFO ");
        let program = match options.version {
            Some(version) => super::program::of_version(version)?,
            None => super::program()?,
        };
        let mut launch = Launch::new(program, ready).arg("--config").arg(file);
        if let Some(disk) = &options.disk {
            launch = launch.through(disk.prefix());
        }
        Ok(Self { options: Mutex::new(options), process: Process::new(launch, folder)?, port })
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
        format!("nats://{}", self.options().advertise.unwrap_or_else(|| self.address()))
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

    /// Lets it go on with other options, without a restart: users and their rights, certificates.
    /// Those whose access ends are cut off.
    ///
    /// # Errors
    /// If the configuration cannot be written, or the server does not take it.
    pub fn reload(&self, change: impl FnOnce(Options) -> Options) -> Result<()> {
        let options = change(self.options());
        let folder = self.process.folder();
        let data = options.data(folder);
        let text = options.configuration(self.address(), &data.display().to_string());
        let path = folder.join("nats.conf");
        std::fs::write(&path, text)
            .map_err(|error| Error::new(format!("cannot write {}: {error}", path.display())))?;
        *self.lock() = options;
        let reloads = || self.process.log().matches("Reloaded server configuration").count();
        let (before, since) = (reloads(), Instant::now());
        self.process.reload();
        while reloads() == before {
            if since.elapsed() > PATIENCE {
                let log = self.process.log();
                let last = log.lines().last().unwrap_or_default();
                return Err(Error::new(format!("the server does not take its settings: {last}")));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Removes its data; it must not run.
    pub(super) fn forget(&self) -> Result<()> {
        match &self.options().disk {
            Some(disk) => disk.empty(),
            None => remove(&self.process.folder().join("data")),
        }
    }

    fn options(&self) -> Options {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Options> {
        self.options.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Options {
    /// Where its streams are, as the server sees it.
    fn data(&self, folder: impl AsRef<std::path::Path>) -> PathBuf {
        let own = || folder.as_ref().join("data");
        self.disk.as_ref().map_or_else(own, |disk| disk.path().to_owned())
    }
}

impl Broker for Server {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn wipe(&self) -> Result<()> {
        self.process.kill();
        self.forget()?;
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
