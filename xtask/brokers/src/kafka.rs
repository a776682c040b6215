//! Apache Kafka brokers.

mod options;
mod program;
mod server;

pub use options::Options;
pub use program::{Program, program};
pub use server::{Server, shared};
