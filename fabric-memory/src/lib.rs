//! Event Fabric inside one process: the reference backend, real and complete.

mod backend;
mod broker;
mod bug;
mod care;
mod client;
mod config;
mod instance;
mod publish;
mod request;
mod settle;
mod subscribe;
#[cfg(feature = "testing")]
pub mod testing;

pub use backend::Memory;
#[cfg(feature = "seeded-bugs")]
pub use bug::Bug;
pub use config::{MemoryConfig, SCHEMES};
