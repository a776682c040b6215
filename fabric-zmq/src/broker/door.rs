//! Who is let in: libzmq asks by the protocol ZAP (ZeroMQ RFC 27), the broker answers.

use std::collections::HashSet;
use std::time::Instant;

use fabric_core::Result;
use zmq::{Context, DONTWAIT, Socket, SocketType};

use super::config::BrokerConfig;
use super::side::Side;
use crate::curve::Key;
use crate::error::from_zmq;

/// What the two sides call themselves when they ask: publishers', subscribers'.
const DOMAINS: [&str; 2] = ["frontend", "backend"];

/// Answers whether a connection may come in.
pub(super) struct Door {
    pub(super) socket: Socket,
    allow: HashSet<Key>,
    keys: bool,
    max: Option<usize>,
}

impl Door {
    /// A door, where anything is to be asked.
    pub(super) fn open(context: &Context, config: &BrokerConfig) -> Result<Option<Self>> {
        if config.keys.is_none() && config.max_connections.is_none() {
            return Ok(None);
        }
        let wrap = |error| from_zmq(error, "asking who may connect");
        let socket = context.socket(SocketType::REP).map_err(wrap)?;
        socket.set_linger(0).map_err(wrap)?;
        socket.bind("inproc://zeromq.zap.01").map_err(wrap)?;
        Ok(Some(Self {
            socket,
            allow: config.allow.iter().copied().collect(),
            keys: config.keys.is_some(),
            max: config.max_connections,
        }))
    }

    /// Tells the sockets of the two sides that they are to ask here.
    pub(super) fn guard(sockets: [&Socket; 2]) -> Result<()> {
        for (socket, domain) in sockets.into_iter().zip(DOMAINS) {
            let wrap = |error| from_zmq(error, "asking who may connect");
            socket.set_zap_domain(domain).map_err(wrap)?;
        }
        Ok(())
    }

    /// Answers those who ask now; returns how many were refused.
    pub(super) fn answer(&self, sides: &mut [Side; 2], now: Instant) -> u64 {
        let mut refused = 0;
        while let Ok(question) = self.socket.recv_multipart(DONTWAIT) {
            let part = |n: usize| question.get(n).map_or(&[][..], |part| &part[..]);
            let side = usize::from(part(2) == DOMAINS[1].as_bytes());
            let taken = usize::try_from(sides[side].taken(now)).unwrap_or(usize::MAX);
            let verdict = self.judge(part(5), part(6), taken);
            if verdict.is_ok() {
                sides[side].let_in(now);
            }
            let (code, text) = match &verdict {
                Ok(()) => ("200", "OK"),
                Err((_, why)) => ("400", *why),
            };
            if let Err((fingerprint, why)) = &verdict {
                refused += 1;
                let address = String::from_utf8_lossy(part(3)).into_owned();
                tracing::warn!(address, fingerprint, why, "a connection is refused");
            }
            let answer: [&[u8]; 6] = [b"1.0", part(1), code.as_bytes(), text.as_bytes(), b"", b""];
            let _ = self.socket.send_multipart(answer, DONTWAIT);
        }
        refused
    }

    fn judge(
        &self,
        mechanism: &[u8],
        key: &[u8],
        taken: usize,
    ) -> std::result::Result<(), (String, &'static str)> {
        let key = <[u8; 32]>::try_from(key).map(Key::from_bytes).ok();
        let fingerprint = || key.as_ref().map_or_else(|| "none".to_owned(), Key::fingerprint);
        if self.max.is_some_and(|max| taken >= max) {
            return Err((fingerprint(), "there are too many connections"));
        }
        if !self.keys {
            return Ok(());
        }
        if mechanism != b"CURVE" {
            return Err((fingerprint(), "it does not use keys"));
        }
        match key {
            Some(key) if self.allow.is_empty() || self.allow.contains(&key) => Ok(()),
            _ => Err((fingerprint(), "its key is not in the list")),
        }
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}
