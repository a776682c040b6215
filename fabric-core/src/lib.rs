//! The contract of Event Fabric.

#[cfg(feature = "config")]
mod config;
mod dsn;
mod error;
mod secret;

#[cfg(feature = "config")]
pub use config::Config;
pub use dsn::{Dsn, DsnOptions, Host, OptionValue, parse_bytes, parse_duration};
pub use error::{Error, ErrorKind, Result, RetryClass};
pub use secret::Secret;
