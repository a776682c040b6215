//! NATS servers.

mod options;
mod program;
mod server;

pub use options::Options;
pub use program::program;
pub use server::{Server, shared};
