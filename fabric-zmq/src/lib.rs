//! Event Fabric over ZeroMQ: live events in microseconds, every loss counted, and the broker that
//! makes it so.
//!
//! Publishers and subscribers connect to a [`broker`] of this crate, which is also the program
//! `fabric broker zmq`; or to each other, without one. Nothing is kept: an event reaches those who
//! subscribe when it is published. What does not reach them, whether a queue was full, a link broke
//! or the broker was restarted, is told to each subscription as `Lagged`, where it is missing.
//! `docs/zmq.md` says what can be lost, and how it is seen.
//!
//! ```no_run
//! use fabric_core::{Dsn, Event, Fabric};
//! use fabric_zmq::Zmq;
//!
//! # #[tokio::main] async fn main() -> fabric_core::Result<()> {
//! let fabric = Fabric::new(Zmq::connect(Dsn::parse("zmq+tcp://robot:5555,5556")?).await?);
//! let mut poses = fabric.subscribe("arm.*.pose").await?;
//! fabric.publish(Event::to("arm.left.pose").text("[0.1, 0.2]")).await?;
//! println!("{}", poses.recv().await.unwrap()?.text()?);
//! # Ok(()) }
//! ```

mod backend;
pub mod broker;
mod config;
mod connection;
mod control;
mod curve;
mod discover;
mod error;
mod monitor;
mod parts;
mod publish;
mod queue;
mod ready;
mod request;
mod sequence;
mod socket;
mod subscribe;
mod sys;
mod track;

pub use backend::Zmq;
pub use config::{BrokerAddress, Discovery, SCHEMES, Topology, ZmqConfig};
pub use curve::{ClientKeys, Key, KeyPair, is_supported as is_curve_supported};
/// The client library beneath, for what this crate does not offer.
pub use zmq as client;
