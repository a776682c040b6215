//! What libzmq tells about a socket's connections.

use zmq::{Context, Socket, SocketType};

use crate::error::from_zmq;

/// One thing that happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Both sides have agreed: what is sent arrives.
    Up,
    /// It is gone, whether it stood or not; by the system's number for it.
    Down(u32),
    /// Somebody came, and the two have not agreed yet; by the system's number for the connection.
    Accepted(u32),
    /// Somebody is there, but the two did not agree.
    Refused(Refusal),
    /// Nobody is there yet.
    Retried,
}

/// Why two sides did not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Whoever decides who may connect has refused it: for its keys, or since there are too many.
    Door,
    /// The two sides speak different security mechanisms, or keys do not fit.
    Security,
    /// The other side does not speak ZeroMQ, or has a socket that fits to no such client.
    Protocol,
    /// The other side closed before it said why.
    Unknown,
}

/// `ZMQ_PROTOCOL_ERROR_ZMTP_KEY_EXCHANGE`, `_CRYPTOGRAPHIC` and `_MECHANISM_MISMATCH`.
const SECURITY: [u32; 3] = [0x1000_0003, 0x1100_0001, 0x1100_0002];

/// What is watched: only what [`Link`] tells of.
const WATCHED: u32 = zmq_sys::ZMQ_EVENT_HANDSHAKE_SUCCEEDED
    | zmq_sys::ZMQ_EVENT_DISCONNECTED
    | zmq_sys::ZMQ_EVENT_ACCEPTED
    | zmq_sys::ZMQ_EVENT_CONNECT_RETRIED
    | zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_AUTH
    | zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;

/// How many of them may wait to be read. Beyond that libzmq's thread would wait too, and with it all
/// that it carries.
const WAITING: i32 = 100_000;

/// A monitor of one socket, to be read until there is nothing left.
pub(crate) struct Monitor {
    pub(crate) socket: Socket,
}

impl Monitor {
    /// Begins to watch `socket`.
    pub(crate) fn attach(context: &Context, socket: &Socket) -> fabric_core::Result<Self> {
        let address = format!("inproc://monitor-{}", uuid::Uuid::from_u128(fastrand::u128(..)));
        let wrap = |error| from_zmq(error, "watching a socket");
        socket.monitor(&address, WATCHED as i32).map_err(wrap)?;
        let pair = context.socket(SocketType::PAIR).map_err(wrap)?;
        pair.set_linger(0).map_err(wrap)?;
        pair.set_rcvhwm(WAITING).map_err(wrap)?;
        pair.connect(&address).map_err(wrap)?;
        Ok(Self { socket: pair })
    }

    /// The next event and the endpoint that it concerns, if there is one now.
    pub(crate) fn next(&self) -> Option<(Link, String)> {
        loop {
            let event = self.socket.recv_bytes(zmq::DONTWAIT).ok()?;
            let endpoint = self.socket.recv_bytes(zmq::DONTWAIT).ok()?;
            let endpoint = String::from_utf8_lossy(&endpoint).into_owned();
            if let Some(link) = read(&event) {
                return Some((link, endpoint));
            }
        }
    }
}

fn read(event: &[u8]) -> Option<Link> {
    let number = u32::from(u16::from_ne_bytes([*event.first()?, *event.get(1)?]));
    let value = u32::from_ne_bytes(event.get(2..6)?.try_into().ok()?);
    match number {
        zmq_sys::ZMQ_EVENT_HANDSHAKE_SUCCEEDED => Some(Link::Up),
        zmq_sys::ZMQ_EVENT_DISCONNECTED => Some(Link::Down(value)),
        zmq_sys::ZMQ_EVENT_ACCEPTED => Some(Link::Accepted(value)),
        zmq_sys::ZMQ_EVENT_CONNECT_RETRIED => Some(Link::Retried),
        zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_AUTH => Some(Link::Refused(Refusal::Door)),
        zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL => {
            let security = SECURITY.contains(&value);
            let refusal = if security { Refusal::Security } else { Refusal::Protocol };
            Some(Link::Refused(refusal))
        }
        zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL => Some(Link::Refused(Refusal::Unknown)),
        _ => None,
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Monitor")
    }
}
