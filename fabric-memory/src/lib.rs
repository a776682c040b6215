//! Event Fabric inside one process.
mod config;

pub use config::{MemoryConfig, SCHEMES};
