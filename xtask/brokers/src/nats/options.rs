//! How a server is set up.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Access;
use crate::Disk;

/// What a server is started with. By default: JetStream, and nobody has to say who they are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    pub(super) jetstream: bool,
    pub(super) advertise: Option<SocketAddr>,
    pub(super) access: Access,
    pub(super) tls: Option<String>,
    pub(super) disk: Option<Arc<Disk>>,
    pub(super) settings: Vec<String>,
    pub(super) version: Option<&'static str>,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            jetstream: true,
            advertise: None,
            access: Access::Open,
            tls: None,
            disk: None,
            settings: Vec::new(),
            version: None,
        }
    }

    /// Without JetStream.
    #[must_use]
    pub const fn without_jetstream(mut self) -> Self {
        self.jetstream = false;
        self
    }

    /// Tells clients to come here, as to a proxy, and [`Server::url`](super::Server::url) too.
    #[must_use]
    pub const fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// Lets only those in who may come.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Speaks TLS with these certificates; clients have to show theirs where `verify` says so.
    #[cfg(feature = "security")]
    #[must_use]
    pub fn tls(mut self, certificates: &crate::Certificates, verify: bool) -> Self {
        let file = |path: std::path::PathBuf| path.display().to_string();
        self.tls = Some(format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: {verify}, timeout: 5 }}",
            file(certificates.server()),
            file(certificates.server_key()),
            file(certificates.authority()),
        ));
        self
    }

    /// Keeps its streams on this disk.
    #[must_use]
    pub fn disk(mut self, disk: Arc<Disk>) -> Self {
        self.disk = Some(disk);
        self
    }

    /// With one more line in the server's configuration file, such as `max_payload: 4MB`.
    #[must_use]
    pub fn setting(mut self, line: impl Into<String>) -> Self {
        self.settings.push(line.into());
        self
    }

    /// Of exactly this version, such as `2.10.26`, whatever is on the PATH.
    #[must_use]
    pub const fn version(mut self, version: &'static str) -> Self {
        self.version = Some(version);
        self
    }

    /// The configuration of a server that listens on `address` and keeps its streams in `data`.
    pub(super) fn configuration(&self, address: SocketAddr, data: &str) -> String {
        let mut text = format!("listen: \"{address}\"\nmax_connections: 64K\n");
        // Writing to a `String` cannot fail.
        if self.jetstream {
            let _ = writeln!(text, "jetstream {{ store_dir: \"{data}\" }}");
        }
        if let Some(address) = self.advertise {
            let _ = writeln!(text, "client_advertise: \"{address}\"");
        }
        if let Some(tls) = &self.tls {
            let _ = writeln!(text, "{tls}");
        }
        text.push_str(&self.access.configuration());
        for line in &self.settings {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
