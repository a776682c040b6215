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

    /// Resolves when something may have changed since everything was taken; fails when the socket is
    /// closed.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        // A loop over readiness alone would never let others run: it costs nothing of a task's budget.
        tokio::task::coop::consume_budget().await;
        let mut ready = self.0.readable().await?;
        // Where libzmq signals by a pair of sockets, as the one that comes with the binding does, the
        // signal of a closed socket is ready for ever, and cannot be cleared.
        if ready.ready().is_read_closed() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zmq::{Context, DONTWAIT, SocketType};

    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(60);

    /// A task that waits for the signals of a socket that was closed neither spins nor stands in the
    /// way of others, not even of its own end.
    #[tokio::test]
    async fn a_socket_that_is_closed_holds_nobody_up() {
        let context = Context::new();
        let socket = context.socket(SocketType::PAIR).unwrap();
        let ready = Ready::of(&socket).unwrap();
        let waiting = tokio::spawn(async move { while ready.wait().await.is_ok() {} });
        drop((socket, context));
        // With eventfd nothing is signalled, and it waits; either way it can be ended.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        let ended = tokio::time::timeout(WATCHDOG, waiting).await.unwrap();
        assert!(ended.is_ok() || ended.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn what_comes_is_signalled() {
        let context = Context::new();
        let [one, other] = [(), ()].map(|()| context.socket(SocketType::PAIR).unwrap());
        one.bind("inproc://signal").unwrap();
        other.connect("inproc://signal").unwrap();
        let ready = Ready::of(&one).unwrap();
        for n in 0..3 {
            other.send(&[n][..], 0).unwrap();
            let got = async {
                loop {
                    match one.recv_bytes(DONTWAIT) {
                        Ok(bytes) => break bytes,
                        Err(_) => ready.wait().await.unwrap(),
                    }
                }
            };
            assert_eq!(tokio::time::timeout(WATCHDOG, got).await.unwrap(), [n]);
        }
    }
}
