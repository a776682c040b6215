//! Connecting as a file or the environment says.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use fabric_core::Result;

use crate::connect::Connect;

/// What is needed to connect, from a YAML file, from the environment or from code: the
/// [`fabric_core::Config`] of the same fields, which this crate can [`connect`](Self::connect).
///
/// ```
/// use fabric::Config;
///
/// # #[tokio::main]
/// # async fn main() -> fabric::Result<()> {
/// let config = Config::from_yaml("{ url: memory://, source: planner, options: { max_age: 1h } }")?;
/// let fabric = config.connect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Config(fabric_core::Config);

impl Config {
    /// A configuration with this URL and nothing else.
    pub fn new(url: impl Into<String>) -> Self {
        Self(fabric_core::Config::new(url))
    }

    /// Reads a YAML file; it blocks for as long as the file system takes.
    ///
    /// # Errors
    /// `Config`, as [`fabric_core::Config::from_file`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        fabric_core::Config::from_file(path).map(Self)
    }

    /// Reads YAML.
    ///
    /// # Errors
    /// `Config`, as [`fabric_core::Config::from_yaml`].
    pub fn from_yaml(text: &str) -> Result<Self> {
        fabric_core::Config::from_yaml(text).map(Self)
    }

    /// Reads the environment: `<PREFIX>_URL`, `<PREFIX>_SOURCE`, `<PREFIX>_MAX_IN_FLIGHT` and
    /// `<PREFIX>_OPTION_<KEY>`.
    ///
    /// # Errors
    /// `Config`, as [`fabric_core::Config::from_env`].
    pub fn from_env(prefix: &str) -> Result<Self> {
        fabric_core::Config::from_env(prefix).map(Self)
    }

    /// Reads variables from elsewhere, such as a parsed `.env` file.
    ///
    /// # Errors
    /// `Config`, as [`fabric_core::Config::from_vars`].
    pub fn from_vars<K, V>(
        prefix: &str,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self>
    where
        K: Into<String>,
        V: Into<String>,
    {
        fabric_core::Config::from_vars(prefix, variables).map(Self)
    }

    /// Sets the source that events are published as.
    #[must_use]
    pub fn with_source(self, source: impl Into<String>) -> Self {
        Self(self.0.with_source(source))
    }

    /// Sets how many events may be unconfirmed at once; at least 1.
    #[must_use]
    pub fn with_max_in_flight(self, events: usize) -> Self {
        Self(self.0.with_max_in_flight(events))
    }

    /// Sets an option of the backend, in the place of the value it has here.
    #[must_use]
    pub fn with_option(self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        Self(self.0.with_option(key, value))
    }

    /// Connects. The call is a future with setters, as [`connect`](crate::connect), and what they
    /// set comes before what stands here.
    ///
    /// # Errors
    /// As [`connect`](crate::connect).
    ///
    /// # Cancel safety
    /// As [`connect`](crate::connect).
    pub fn connect(&self) -> Connect {
        let mut connect = Connect::to(self.0.dsn());
        if let Some(source) = &self.0.source {
            connect = connect.source(source);
        }
        if let Some(events) = self.0.max_in_flight {
            connect = connect.max_in_flight(events);
        }
        connect
    }
}

impl Deref for Config {
    type Target = fabric_core::Config;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Config {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl From<fabric_core::Config> for Config {
    fn from(config: fabric_core::Config) -> Self {
        Self(config)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
