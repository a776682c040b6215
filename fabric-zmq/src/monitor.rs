//! What libzmq tells about a socket's connections.

use zmq::{Context, Socket, SocketEvent, SocketType};

use crate::error::from_zmq;

/// One thing that happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Both sides have agreed: what is sent arrives.
    Up,
    /// It stood and is gone.
    Down,
    /// Somebody was let in, before the two have agreed.
    Accepted,
    /// Somebody is there, but the two did not agree.
    Refused(Refusal),
    /// Nobody is there yet.
    Retried,
}

/// Why two sides did not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The other side speaks another security mechanism, or refuses these keys.
    Security,
    /// The other side does not speak ZeroMQ, or has a socket that fits to no such client.
    Protocol,
    /// The other side closed before it said why.
    Unknown,
}

/// `ZMQ_PROTOCOL_ERROR_ZMTP_KEY_EXCHANGE`, `_CRYPTOGRAPHIC` and `_MECHANISM_MISMATCH`.
const SECURITY: [u32; 3] = [0x1000_0003, 0x1100_0001, 0x1100_0002];

/// A monitor of one socket, to be read until there is nothing left.
pub(crate) struct Monitor {
    pub(crate) socket: Socket,
}

impl Monitor {
    /// Begins to watch `socket`.
    pub(crate) fn attach(context: &Context, socket: &Socket) -> fabric_core::Result<Self> {
        let address = format!("inproc://monitor-{}", uuid::Uuid::from_u128(fastrand::u128(..)));
        let wrap = |error| from_zmq(error, "watching a socket");
        socket.monitor(&address, i32::from(SocketEvent::ALL.to_raw())).map_err(wrap)?;
        let pair = context.socket(SocketType::PAIR).map_err(wrap)?;
        pair.set_linger(0).map_err(wrap)?;
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
        zmq_sys::ZMQ_EVENT_DISCONNECTED => Some(Link::Down),
        zmq_sys::ZMQ_EVENT_ACCEPTED => Some(Link::Accepted),
        zmq_sys::ZMQ_EVENT_CONNECT_RETRIED => Some(Link::Retried),
        zmq_sys::ZMQ_EVENT_HANDSHAKE_FAILED_AUTH => Some(Link::Refused(Refusal::Security)),
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
