//! Ports that nobody else takes, also while the server on one of them is down.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::{env, process};

use crate::{Error, Result};

/// Below the range from which the system takes the ports of clients: one that is free for a moment,
/// because its server restarts, must not become somebody's source port.
const FIRST: u16 = 15_000;
const COUNT: u16 = 15_000;

/// A port of 127.0.0.1 that belongs to whoever holds this.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked as long as it is open, which ends with the process at the latest.
    _claim: File,
}

impl Port {
    /// A port on which nobody listens and that no other process has reserved in this way.
    ///
    /// # Errors
    /// If there is none.
    pub fn reserve() -> Result<Self> {
        let claims = env::temp_dir().join("fabric-ports");
        fs::create_dir_all(&claims)
            .map_err(|error| Error::new(format!("cannot make {}: {error}", claims.display())))?;
        // Processes begin in different places, so that they seldom meet.
        let begin = (process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
        let numbers = (0..COUNT).map(|n| FIRST + (begin + n) % COUNT);
        for number in numbers {
            let path = claims.join(number.to_string());
            let file = File::options().create(true).truncate(false).write(true).open(path);
            let Ok(claim) = file else { continue };
            if claim.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
            {
                return Ok(Self { number, _claim: claim });
            }
        }
        Err(Error::new("no port is free on 127.0.0.1"))
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// It with 127.0.0.1.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_reserved_port_is_not_given_twice() {
        let ports: Vec<Port> = (0..20).map(|_| Port::reserve().unwrap()).collect();
        let numbers: HashSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
    }

    #[test]
    fn a_port_on_which_somebody_listens_is_not_given() {
        let port = Port::reserve().unwrap();
        let listener = TcpListener::bind(port.address()).unwrap();
        let number = port.number();
        drop(port);
        let ports: Vec<Port> = (0..20).map(|_| Port::reserve().unwrap()).collect();
        assert!(ports.iter().all(|port| port.number() != number));
        drop(listener);
    }
}
