//! NATS servers.

mod access;
mod cluster;
#[cfg(feature = "security")]
mod operator;
mod options;
mod program;
mod server;

pub use access::{Access, User};
pub use cluster::Cluster;
#[cfg(feature = "security")]
pub use operator::Operator;
pub use options::Options;
pub use program::program;
pub use server::{Server, shared};
