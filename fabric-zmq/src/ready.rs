//! Waiting for a socket of libzmq on tokio.
//!
//! libzmq signals through a descriptor that something *may* have changed, once: whoever is woken has
//! to take everything there is, until the socket answers `EAGAIN`, before waiting again.

use std::io;
use std::os::fd::OwnedFd;

use fabric_core::{Error, ErrorKind, Result};
use tokio::io::unix::AsyncFd;

use crate::error::from_zmq;
use crate::sys;

/// A socket's signal.
#[derive(Debug)]
pub(crate) struct Ready(AsyncFd<OwnedFd>);

impl Ready {
    /// The signal of `socket`, on the runtime that this is called in.
    pub(crate) fn of(socket: &zmq::Socket) -> Result<Self> {
        let fd = socket.get_fd().map_err(|error| from_zmq(error, "the signal of a socket"))?;
        sys::listen_to(socket, fd).map(Self).map_err(|error| {
            let text = format!("tokio does not take the signal of a socket: {error}");
            Error::new(ErrorKind::Backend, text).with_backend("zmq")
        })
    }

    /// Resolves when something may have changed since everything was taken.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
