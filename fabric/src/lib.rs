#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "config")]
mod config;
mod connect;
pub mod global;
#[cfg(doctest)]
mod misuse;
mod registry;
mod shutdown;

#[doc(inline)]
pub use fabric_core::*;

#[cfg(feature = "config")]
pub use config::Config;
pub use connect::{Connect, connect};
pub use registry::Registry;
pub use shutdown::{Shutdown, shutdown_signal};

#[cfg(feature = "memory")]
pub mod memory {
    //! The backend inside one process: `memory://` and `memory://name`.
    #[doc(inline)]
    pub use fabric_memory::*;
}

#[cfg(feature = "zmq")]
pub mod zmq {
    //! The backend over ZeroMQ: `zmq+tcp://host:5555,5556` and `zmq+ipc:///path`; and its broker.
    #[doc(inline)]
    pub use fabric_zmq::*;
}

#[cfg(feature = "testing")]
pub mod testing {
    //! Tests of services on virtual time: a memory fabric with seeded faults, a record of all that
    //! happened, and assertions over it. The page `docs/testing.md` shows how.
    #[doc(inline)]
    pub use fabric_core::testing::*;
    #[doc(inline)]
    pub use fabric_memory::testing::*;
}

#[cfg(feature = "nats")]
pub mod nats {
    //! The backend over NATS: `nats://host`, JetStream or, with `mode=core`, NATS alone.
    #[doc(inline)]
    pub use fabric_nats::*;
}

#[cfg(feature = "kafka")]
pub mod kafka {
    //! The backend over Apache Kafka: `kafka://host:9092`.
    #[doc(inline)]
    pub use fabric_kafka::*;
}

/// The pages whose examples are tested with this crate.
#[cfg(all(doctest, feature = "config", feature = "memory"))]
mod pages {
    #[doc = include_str!("../../docs/backends.md")]
    mod backends {}
    #[doc = include_str!("../../docs/configuration.md")]
    mod configuration {}
    #[doc = include_str!("../../docs/consumers.md")]
    #[cfg(all(feature = "json", feature = "derive"))]
    mod consumers {}
    #[doc = include_str!("../../docs/layers.md")]
    mod layers {}
    #[doc = include_str!("../../docs/memory.md")]
    mod memory {}
    #[doc = include_str!("../../docs/zmq.md")]
    mod zmq {}
    #[doc = include_str!("../../docs/kafka.md")]
    mod kafka {}
}

/// The page about tests, which needs more features than the others.
#[cfg(all(doctest, feature = "testing", feature = "json", feature = "derive"))]
#[doc = include_str!("../../docs/testing.md")]
mod page_testing {}
