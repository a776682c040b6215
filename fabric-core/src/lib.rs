//! The contract of Event Fabric.

mod error;

pub use error::{Error, ErrorKind, Result, RetryClass};
