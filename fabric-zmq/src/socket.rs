//! Sockets with the options that every one of ours has.

use std::time::Duration;

use fabric_core::Result;
use zmq::{Context, Socket, SocketType};

use crate::error::from_zmq;

/// What sockets are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// The most messages that wait for one connection.
    pub(crate) hwm: i32,
    /// The largest frame that is taken; one more byte ends the connection that brought it.
    pub(crate) max_frame: i64,
    /// How long a connection may be silent.
    pub(crate) link_timeout: Duration,
    /// The shortest and the longest wait before a connection is tried again.
    pub(crate) reconnect: (Duration, Duration),
}

impl Tuning {
    /// A new socket.
    pub(crate) fn open(&self, context: &Context, kind: SocketType) -> Result<Socket> {
        let wrap = |error| from_zmq(error, "opening a socket");
        let socket = context.socket(kind).map_err(wrap)?;
        socket.set_sndhwm(self.hwm).map_err(wrap)?;
        socket.set_rcvhwm(self.hwm).map_err(wrap)?;
        socket.set_maxmsgsize(self.max_frame).map_err(wrap)?;
        socket.set_linger(0).map_err(wrap)?;
        socket.set_reconnect_ivl(millis(self.reconnect.0)).map_err(wrap)?;
        socket.set_reconnect_ivl_max(millis(self.reconnect.1)).map_err(wrap)?;
        // Asked three times within the time that a silent connection is given.
        socket.set_heartbeat_ivl(millis(self.link_timeout / 3).max(1)).map_err(wrap)?;
        socket.set_heartbeat_timeout(millis(self.link_timeout)).map_err(wrap)?;
        socket.set_tcp_keepalive(1).map_err(wrap)?;
        socket.set_tcp_keepalive_idle(30).map_err(wrap)?;
        socket.set_tcp_keepalive_intvl(10).map_err(wrap)?;
        Ok(socket)
    }
}

/// A duration as libzmq takes it.
pub(crate) fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
