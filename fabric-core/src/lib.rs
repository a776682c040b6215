//! The contract of Event Fabric.

mod dsn;
mod error;
mod secret;

pub use dsn::{Dsn, DsnOptions, Host, OptionValue, parse_bytes, parse_duration};
pub use error::{Error, ErrorKind, Result, RetryClass};
pub use secret::Secret;
