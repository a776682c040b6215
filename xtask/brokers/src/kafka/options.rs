//! How a broker is set up.

use std::net::SocketAddr;

/// What a broker is started with. By default: one node that is broker and controller, quick to start,
/// to join and to come back.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    pub(super) advertise: Option<SocketAddr>,
    pub(super) settings: Vec<(String, String)>,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { advertise: None, settings: Vec::new() }
    }

    /// Tells clients to come here, as to a proxy, and [`Server::url`](super::Server::url) too.
    #[must_use]
    pub const fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// With one of the broker's settings, which replaces ours of that name.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}
