//! How a server is set up.

use std::net::SocketAddr;

/// What a server is started with. By default: JetStream, one node, nobody has to say who they are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    pub(super) jetstream: bool,
    pub(super) advertise: Option<SocketAddr>,
    pub(super) settings: Vec<String>,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { jetstream: true, advertise: None, settings: Vec::new() }
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

    /// With one more line in the server's configuration file, such as `max_payload: 4MB`.
    #[must_use]
    pub fn setting(mut self, line: impl Into<String>) -> Self {
        self.settings.push(line.into());
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
