//! `fabric broker`.

#[cfg(feature = "zmq")]
mod admin;
#[cfg(feature = "zmq")]
mod metrics;
#[cfg(feature = "zmq")]
mod settings;
#[cfg(feature = "zmq")]
mod zmq;

use clap::Subcommand;
use fabric::Result;

/// Which broker.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The broker of ZeroMQ: publishers on one side, subscribers on the other.
    #[cfg(feature = "zmq")]
    Zmq(Box<settings::ZmqArgs>),
    /// The broker of ZeroMQ, which this program was built without.
    #[cfg(not(feature = "zmq"))]
    Zmq,
}

pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        #[cfg(feature = "zmq")]
        Command::Zmq(args) => zmq::run(&args),
        #[cfg(not(feature = "zmq"))]
        Command::Zmq => Err(fabric::Error::new(
            fabric::ErrorKind::Unsupported,
            "this program was built without the feature `zmq`: install it with `--features cli,zmq`",
        )),
    }
}
