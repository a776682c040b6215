//! Apache Kafka brokers.

mod cluster;
mod node;
mod options;
mod program;
mod server;

pub use cluster::Cluster;
pub use options::Options;
pub use program::{Program, program};
pub use server::{Server, shared};
