//! Real brokers for tests, and tools that do them harm.
//!
//! A broker is a child process of its own with a free port and a temporary folder:
//!
//! ```no_run
//! use fabric_brokers::nats;
//!
//! let server = nats::Server::start(nats::Options::new())?;
//! println!("{}", server.url());
//! server.process().kill();
//! server.process().start()?; // the port and the data that it had
//! # Ok::<(), fabric_brokers::Error>(())
//! ```
//!
//! **Programs** are taken from a variable, else from the PATH, else they are installed into a cache
//! under `target/`, which is said on standard error. A program that can be neither found nor installed
//! is an [`Error`] that says what to do.
//!
//! **A broker never outlives the process that started it**, whatever ends that one: a small shell
//! waits for a pipe to close and then kills the broker and removes its folder. `Drop` does the same
//! earlier.
//!
//! Every call blocks; none needs a runtime. With feature `conformance` there are the tools that the
//! conformance suite asks its harness for, over all of this.

mod broker;
mod cache;
#[cfg(feature = "security")]
mod certificates;
#[cfg(feature = "conformance")]
pub mod conformance;
mod disk;
mod error;
mod folder;
mod install;
pub mod kafka;
pub mod nats;
mod port;
mod process;
mod proxy;
pub mod zmq;

pub use broker::Broker;
#[cfg(feature = "security")]
pub use certificates::Certificates;
pub use disk::Disk;
pub use error::{Error, Result};
pub use folder::Folder;
pub use install::BuildNeed;
pub use port::Port;
pub use process::{Launch, Process, Ready};
pub use proxy::{Proxy, Slowness, Way};
