//! The broker: publishers on one side, subscribers on the other, and what `zmq_proxy` cannot do.
//!
//! It answers a subscriber when its subscription is in force, routes a request to one responder or
//! says that there is none, counts, keeps connections out that it should, and is linked with others
//! of its kind. It is a loop on one thread over sockets of libzmq; nothing is kept.
//!
//! ```
//! use fabric_core::{Event, Fabric};
//! use fabric_zmq::broker::{Broker, BrokerConfig};
//! use fabric_zmq::{Zmq, ZmqConfig};
//!
//! # #[tokio::main] async fn main() -> fabric_core::Result<()> {
//! let broker = Broker::start(&BrokerConfig::new("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"))?;
//! let fabric = Fabric::new(Zmq::open(ZmqConfig::brokers([broker.address()])).await?);
//! let mut events = fabric.subscribe("a.*").await?;
//! fabric.publish(Event::to("a.b").text("one")).await?;
//! assert_eq!(events.recv().await.unwrap()?.text()?, "one");
//! broker.stop(std::time::Duration::from_secs(1))?;
//! # Ok(()) }
//! ```

mod config;
mod counts;
mod door;
mod responders;
mod run;
mod side;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fabric_core::{Error, ErrorKind, Result};
use zmq::{Context, Socket, SocketType};

pub use config::BrokerConfig;
use counts::Shared;
pub use counts::{BrokerStats, TopicStats};
use run::{Command, Run};

use crate::config::BrokerAddress;
use crate::error::from_zmq;

/// A broker that runs. Dropping it stops it without waiting for what is under way.
#[derive(Debug)]
pub struct Broker {
    address: BrokerAddress,
    link_address: Option<String>,
    shared: Arc<Shared>,
    control: Mutex<Control>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Control(Socket);

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Broker {
    /// Listens, and begins to carry events.
    ///
    /// # Errors
    /// `AlreadyExists` where an address is taken, `Config` where one cannot be used, `Unsupported`
    /// where keys are given and this libzmq has no CURVE.
    pub fn start(config: &BrokerConfig) -> Result<Self> {
        config.validate()?;
        let wrap = |error| from_zmq(error, "starting the broker");
        let context = Context::new();
        context.set_io_threads(config.io_threads).map_err(wrap)?;
        let shared = Arc::new(Shared::new());
        let inside = context.socket(SocketType::PAIR).map_err(wrap)?;
        inside.bind("inproc://control").map_err(wrap)?;
        let outside = context.socket(SocketType::PAIR).map_err(wrap)?;
        outside.set_linger(0).map_err(wrap)?;
        outside.connect("inproc://control").map_err(wrap)?;
        let run = Run::prepare(&context, config, inside, Arc::clone(&shared))?;
        let (address, link_address) = (run.address(), run.link_address());
        let thread = std::thread::Builder::new()
            .name("fabric-broker".to_owned())
            .spawn(move || {
                run.until_stopped();
                // The last handle waits until what is under way was sent, or its time is over.
                drop(context);
            })
            .map_err(|error| {
                Error::new(ErrorKind::Backend, format!("the broker gets no thread: {error}"))
            })?;
        tracing::info!(
            backend = address.backend,
            frontend = address.frontend,
            "the broker listens"
        );
        Ok(Self {
            address,
            link_address,
            shared,
            control: Mutex::new(Control(outside)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Where clients connect, with the ports that were found for `*`.
    #[must_use]
    pub fn address(&self) -> BrokerAddress {
        self.address.clone()
    }

    /// Where other brokers connect, if they may.
    #[must_use]
    pub fn link_address(&self) -> Option<&str> {
        self.link_address.as_deref()
    }

    /// What it has done so far, as of a moment ago.
    #[must_use]
    pub fn stats(&self) -> BrokerStats {
        self.shared.snapshot()
    }

    /// Whether its loop turns, and how long ago it last did.
    #[must_use]
    pub fn is_alive(&self) -> (bool, Duration) {
        let idle = self.shared.idle();
        (self.shared.running.load(Ordering::Acquire) && idle < Duration::from_secs(5), idle)
    }

    /// Whether it takes new connections: not any more once it is asked to stop.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_alive().0 && !self.shared.stopping.load(Ordering::Acquire)
    }

    /// Carries what publishers have sent already, cuts them off, gives subscribers what waits for them,
    /// and ends within `deadline`.
    ///
    /// # Errors
    /// `Timeout` where something may not have been carried; `Backend` where the loop had failed.
    pub fn stop(&self, deadline: Duration) -> Result<()> {
        let Some(thread) = self.take_thread() else { return Ok(()) };
        let began = Instant::now();
        self.send(Command::Stop(deadline));
        let ended = thread.join();
        if ended.is_err() {
            return Err(Error::new(ErrorKind::Backend, "the loop of the broker had failed"));
        }
        if self.shared.drained.load(Ordering::Acquire) && began.elapsed() <= deadline * 2 {
            return Ok(());
        }
        let text = format!("publishers still sent after {deadline:?}; the rest was left");
        Err(Error::new(ErrorKind::Timeout, text))
    }

    fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn send(&self, command: Command) {
        self.shared.stopping.store(true, Ordering::Release);
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = control.0.send(&command.write()[..], zmq::DONTWAIT);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(thread) = self.take_thread() {
            self.send(Command::Stop(Duration::ZERO));
            let _ = thread.join();
        }
    }
}
