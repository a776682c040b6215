//! What a broker is told.

use std::time::Duration;

use fabric_core::Result;
use serde::{Deserialize, Serialize};

use crate::curve::{self, Key, KeyPair};
use crate::error::config as refuse;

/// Where a broker listens, whom it lets in, and its bounds. Every field but the addresses has a
/// default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BrokerConfig {
    /// Where publishers connect: `tcp://*:5556`; `*` as the port takes any free one.
    pub frontend: String,
    /// Where subscribers connect: `tcp://*:5555`.
    pub backend: String,
    /// Where other brokers connect, if they may: `tcp://*:5557`.
    #[serde(default)]
    pub link_bind: Option<String>,
    /// The brokers that this one is linked with, by their `link_bind`.
    #[serde(default)]
    pub links: Vec<String>,
    /// The most messages that wait for one connection; beyond it a subscriber loses what comes.
    /// Default 10 000.
    #[serde(default = "hwm")]
    pub hwm: usize,
    /// The largest frame in bytes; a connection that brings a larger one is closed. Default 8 MiB.
    #[serde(default = "max_message")]
    pub max_message: usize,
    /// The most connections on either side. Default: as many as the system allows.
    #[serde(default)]
    pub max_connections: Option<usize>,
    /// How long a connection may be silent; it is asked three times as often. Default 900 ms.
    #[serde(default = "link_timeout")]
    pub link_timeout: Duration,
    /// How many topics are counted each for itself. Default 10 000.
    #[serde(default = "max_topics")]
    pub max_topics: usize,
    /// How many threads libzmq has for I/O. Default 1; one for each gigabyte in a second.
    #[serde(default = "io_threads")]
    pub io_threads: i32,
    /// The broker's keys: with them only clients that know its public key get in.
    #[serde(skip)]
    pub keys: Option<KeyPair>,
    /// The clients that may connect, by their public keys; everybody who knows the broker's, if the
    /// list is empty.
    #[serde(skip)]
    pub allow: Vec<Key>,
}

const fn hwm() -> usize {
    10_000
}

const fn max_message() -> usize {
    8 << 20
}

const fn link_timeout() -> Duration {
    Duration::from_millis(900)
}

const fn max_topics() -> usize {
    10_000
}

const fn io_threads() -> i32 {
    1
}

impl BrokerConfig {
    /// A broker for publishers at `frontend` and subscribers at `backend`.
    #[must_use]
    pub fn new(frontend: impl Into<String>, backend: impl Into<String>) -> Self {
        Self {
            frontend: frontend.into(),
            backend: backend.into(),
            link_bind: None,
            links: Vec::new(),
            hwm: hwm(),
            max_message: max_message(),
            max_connections: None,
            link_timeout: link_timeout(),
            max_topics: max_topics(),
            io_threads: io_threads(),
            keys: None,
            allow: Vec::new(),
        }
    }

    fabric_core::setters! {
        /// Sets where other brokers connect.
        with_link_bind link_bind: Option<String>;
        /// Sets the brokers that this one is linked with.
        with_links links: Vec<String>;
        /// Sets the most messages that wait for one connection.
        with_hwm hwm: usize;
        /// Sets the largest frame in bytes.
        with_max_message max_message: usize;
        /// Sets the most connections on either side.
        with_max_connections max_connections: Option<usize>;
        /// Sets how long a connection may be silent.
        with_link_timeout link_timeout: Duration;
        /// Sets how many topics are counted each for itself.
        with_max_topics max_topics: usize;
        /// Sets how many threads libzmq has for I/O.
        with_io_threads io_threads: i32;
        /// Sets the broker's keys.
        with_keys keys: Option<KeyPair>;
        /// Sets the clients that may connect.
        with_allow allow: Vec<Key>;
    }

    /// Refuses what no broker could work with.
    ///
    /// # Errors
    /// `Config`, naming the field; `Unsupported` for keys that this libzmq cannot use.
    pub fn validate(&self) -> Result<()> {
        if i32::try_from(self.hwm).is_err() || self.hwm == 0 {
            return Err(refuse(format!("`hwm` is {}; 1 to {} is meant", self.hwm, i32::MAX)));
        }
        if self.max_message < 1024 {
            return Err(refuse("`max_message` has to be at least 1024 bytes"));
        }
        if self.link_timeout.as_millis() < 3 {
            return Err(refuse("`link_timeout` has to be at least 3 ms"));
        }
        if self.io_threads < 1 {
            return Err(refuse("`io_threads` has to be at least 1"));
        }
        if self.max_connections == Some(0) {
            return Err(refuse("`max_connections` is 0; leave it out for no limit"));
        }
        if self.frontend == self.backend && !self.frontend.ends_with('*') {
            return Err(refuse("`frontend` and `backend` are the same address"));
        }
        if self.keys.is_none() && !self.allow.is_empty() {
            return Err(refuse("a list of clients that may connect needs the broker's keys"));
        }
        if self.keys.is_some() {
            curve::check_support()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fabric_core::ErrorKind;

    use super::*;

    #[test]
    fn what_no_broker_could_work_with_is_refused() {
        let good = || BrokerConfig::new("tcp://*:5556", "tcp://*:5555");
        assert!(good().validate().is_ok());
        let bad = [
            good().with_hwm(0),
            good().with_max_message(1),
            good().with_link_timeout(Duration::ZERO),
            good().with_io_threads(0),
            good().with_max_connections(Some(0)),
            good().with_allow(vec![Key::from_bytes([0; 32])]),
            BrokerConfig::new("tcp://*:5555", "tcp://*:5555"),
        ];
        for config in bad {
            assert_eq!(config.validate().unwrap_err().kind(), ErrorKind::Config, "{config:?}");
        }
    }
}
