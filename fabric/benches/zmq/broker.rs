//! A broker in a process of its own, which ends with this one.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use fabric::zmq::broker::{Broker as FabricBroker, BrokerConfig};
use fabric::zmq::client::{Context, SocketType, proxy};

use crate::raw::{Endpoints, HWM};
use crate::support::{ROLE, Result};

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Fabric's, which answers a subscription with a marker.
    Fabric,
    /// libzmq's `zmq_proxy`, through which publishers hear who subscribes.
    Proxy,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Fabric => "fabric",
            Self::Proxy => "proxy",
        }
    }
}

/// A broker that runs.
#[derive(Debug)]
pub(crate) struct Broker {
    kind: Kind,
    child: Child,
    ends: Endpoints,
    /// It ends when this closes.
    _stay: Option<ChildStdin>,
}

impl Broker {
    pub(crate) fn start(kind: Kind) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(ROLE, format!("serve {}", kind.name()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let said = child.stdout.take().ok_or("a child without output")?;
        BufReader::new(said).read_line(&mut line)?;
        let ends = line.trim().split_once(' ').ok_or("the broker did not start")?;
        let ends = Endpoints { frontend: ends.0.to_owned(), backend: ends.1.to_owned() };
        Ok(Self { kind, _stay: child.stdin.take(), child, ends })
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) const fn ends(&self) -> &Endpoints {
        &self.ends
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // What was asked to end may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the child process does: it serves until nobody holds its input open.
pub(crate) fn play(kind: &str) -> Result<()> {
    const ANYWHERE: &str = "tcp://127.0.0.1:*";
    if kind == Kind::Fabric.name() {
        let config = BrokerConfig::new(ANYWHERE, ANYWHERE).with_hwm(HWM as usize);
        let broker = FabricBroker::start(&config)?;
        let address = broker.address();
        println!("{} {}", address.frontend, address.backend);
        stay()?;
        drop(broker);
        return Ok(());
    }
    let context = Context::new();
    let (frontend, backend) =
        (context.socket(SocketType::XSUB)?, context.socket(SocketType::XPUB)?);
    for socket in [&frontend, &backend] {
        socket.set_sndhwm(HWM)?;
        socket.set_rcvhwm(HWM)?;
        socket.bind(ANYWHERE)?;
    }
    let end = |socket: &fabric::zmq::client::Socket| -> Result<String> {
        socket.get_last_endpoint()?.map_err(|_| "an endpoint is no text".into())
    };
    println!("{} {}", end(&frontend)?, end(&backend)?);
    // It never returns; the process ends with this function.
    thread::spawn(move || proxy(&frontend, &backend));
    stay()
}

fn stay() -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
