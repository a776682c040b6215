//! What the tests run on: a broker of this crate, or a folder in which peers meet.

#![allow(dead_code, reason = "each test takes what it needs")]

pub(crate) mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use fabric_brokers::conformance::{Control, Link};
use fabric_brokers::{Broker as Child, Launch, Port, Process, Proxy, Ready};
use fabric_core::conformance::{BrokerCtl, Case, FaultCtl, Harness, Tool};
use fabric_core::{Fabric, Result};
use fabric_zmq::broker::{Broker, BrokerConfig};
use fabric_zmq::{BrokerAddress, Topology, Zmq, ZmqConfig};

/// Clients of one broker inside this process; where the broker itself is the victim, of one in a
/// process of its own, with proxies before it.
pub(crate) struct Brokered {
    config: ZmqConfig,
    inside: Option<Broker>,
    control: Option<Control<Server>>,
    link: Option<Link>,
}

impl Brokered {
    pub(crate) fn new() -> Self {
        let broker = broker();
        let config = ZmqConfig::brokers([broker.address()]);
        Self { config, inside: Some(broker), control: None, link: None }
    }

    /// With the tools that do harm.
    pub(crate) fn fragile() -> Self {
        let server = Arc::new(Server::start());
        let proxies =
            server.ports.each_ref().map(|port| Arc::new(Proxy::to(port.address()).unwrap()));
        let through = address(proxies.each_ref().map(|proxy| proxy.address()));
        let link = Link::new(proxies, move || {
            let config = ZmqConfig::brokers([through.clone()]);
            async move { Ok(Fabric::new(Zmq::open(config).await?)) }
        });
        let config = ZmqConfig::brokers([server.address()]);
        Self { config, inside: None, control: Some(Control::new(server)), link: Some(link) }
    }
}

/// A broker on free ports of this machine.
pub(crate) fn broker() -> Broker {
    Broker::start(&BrokerConfig::new("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")).unwrap()
}

/// Looks until it is so; [`watch`] ends what never is.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < std::time::Duration::from_secs(60), "{what}: not after a minute");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Where a broker is, by backend and frontend.
fn address([backend, frontend]: [SocketAddr; 2]) -> BrokerAddress {
    BrokerAddress { backend: format!("tcp://{backend}"), frontend: format!("tcp://{frontend}") }
}

/// A broker in a process of its own: this very test program, told to be one.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    ports: [Port; 2],
}

const AS_BROKER: &str = "FABRIC_ZMQ_TEST_BROKER";

impl Server {
    pub(crate) fn start() -> Self {
        Self::with_hwm(10_000)
    }

    pub(crate) fn with_hwm(hwm: usize) -> Self {
        let ports = [Port::reserve().unwrap(), Port::reserve().unwrap()];
        let at = ports.each_ref().map(|port| port.address().to_string()).join(",");
        let launch = Launch::new(std::env::current_exe().unwrap(), Ready::Says("it listens"))
            .args(["--exact", "support::the_program_as_a_broker", "--nocapture"])
            .env(AS_BROKER, format!("{at},{hwm}"));
        let folder = fabric_brokers::Folder::new("zmq").unwrap();
        Self { process: Process::new(launch, folder).unwrap(), ports }
    }

    pub(crate) fn address(&self) -> BrokerAddress {
        address(self.ports.each_ref().map(Port::address))
    }

    /// How many bytes of memory it holds.
    pub(crate) fn resident(&self) -> u64 {
        resident(&self.process)
    }

    /// Lets it hang; it does when this returns.
    pub(crate) fn hang(&self) {
        self.process.pause();
        let tasks = format!("/proc/{}/task", self.process.id().unwrap());
        until("the broker hangs", || {
            std::fs::read_dir(&tasks).unwrap().all(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
                stat.is_ok_and(|stat| stat.rsplit_once(") ").unwrap().1.starts_with('T'))
            })
        });
    }

    /// Waits until as many bytes of publishers lie at its door, which it has not read.
    pub(crate) fn unread(&self, bytes: usize) {
        let own = format!(":{:04X}", self.ports[1].number());
        until("what was sent lies at the broker's door", || {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let queued = table.lines().skip(1).filter_map(|line| {
                let mut fields = line.split_ascii_whitespace().skip(1);
                let local = fields.next()?;
                let (_, unread) = fields.nth(2)?.split_once(':')?;
                local.ends_with(&own).then(|| usize::from_str_radix(unread, 16).unwrap())
            });
            queued.sum::<usize>() >= bytes
        });
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }
}

impl Child for Server {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn wipe(&self) -> fabric_brokers::Result<()> {
        self.process.kill();
        self.process.start()
    }
}

/// Not a test of its own: what [`Server`] starts.
#[test]
fn the_program_as_a_broker() {
    let Ok(at) = std::env::var(AS_BROKER) else { return };
    let mut parts = at.split(',');
    let mut next = || parts.next().unwrap();
    let (backend, frontend) = (next(), next());
    let config = BrokerConfig::new(format!("tcp://{frontend}"), format!("tcp://{backend}"))
        .with_hwm(next().parse().unwrap());
    let broker = Broker::start(&config).unwrap();
    println!("it listens");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let kind = tokio::signal::unix::SignalKind::terminate();
        tokio::signal::unix::signal(kind).unwrap().recv().await;
    });
    broker.stop(std::time::Duration::from_secs(1)).unwrap();
}

/// A subscriber in a process of its own that does not read until it is told to: this very test program.
#[derive(Debug)]
pub(crate) struct Stopped(Process);

const AS_READER: &str = "FABRIC_ZMQ_TEST_READER";

impl Stopped {
    /// It holds at most so many bytes of `stopped`, and so many messages in its socket.
    pub(crate) fn start(broker: &BrokerAddress, bytes: usize, hwm: usize) -> Self {
        let BrokerAddress { backend, frontend } = broker;
        let launch = Launch::new(std::env::current_exe().unwrap(), Ready::Says("it subscribes"))
            .args(["--exact", "support::the_program_as_a_reader", "--nocapture"])
            .env(AS_READER, format!("{backend},{frontend},{bytes},{hwm}"));
        let folder = fabric_brokers::Folder::new("zmq").unwrap();
        Self(Process::new(launch, folder).unwrap())
    }

    /// How many bytes of memory it holds.
    pub(crate) fn resident(&self) -> u64 {
        resident(&self.0)
    }

    /// Lets it read until it has accounted for `all`; how many it received, and missed.
    pub(crate) fn read(&self, all: u64) -> (u64, u64) {
        std::fs::write(self.0.folder().join("read"), all.to_string()).unwrap();
        let said = || {
            let log = self.0.log();
            let (_, said) = log.split_once("received ")?;
            let (received, missed) = said.split_once('\n')?.0.split_once(" missed ")?;
            Some((received.parse().unwrap(), missed.parse().unwrap()))
        };
        until("it has read", || said().is_some());
        said().unwrap()
    }
}

/// Not a test of its own: what [`Stopped`] starts.
#[test]
fn the_program_as_a_reader() {
    let Ok(told) = std::env::var(AS_READER) else { return };
    let parts: Vec<&str> = told.split(',').collect();
    let broker = BrokerAddress { backend: parts[0].to_owned(), frontend: parts[1].to_owned() };
    let config = ZmqConfig::brokers([broker])
        .with_queue_bytes(parts[2].parse().unwrap())
        .with_hwm(parts[3].parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let fabric = Fabric::new(Zmq::open(config).await.unwrap());
        let mut events = fabric.subscribe("stopped").await.unwrap();
        println!("it subscribes");
        let all = loop {
            match std::fs::read_to_string("read") {
                Ok(all) if !all.is_empty() => break all.parse::<u64>().unwrap(),
                _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        };
        let (mut received, mut missed) = (0, 0);
        while received + missed < all {
            match events.recv().await.unwrap() {
                Ok(_) => received += 1,
                Err(error) => missed += error.missed().unwrap(),
            }
        }
        println!("received {received} missed {missed}");
    });
}

/// How many bytes of memory a process holds.
fn resident(process: &Process) -> u64 {
    let id = process.id().unwrap();
    let pages = std::fs::read_to_string(format!("/proc/{id}/statm")).unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

impl Harness for Brokered {
    async fn open(&self) -> Result<Fabric> {
        Ok(Fabric::new(Zmq::open(self.config.clone()).await?))
    }

    fn broker(&self) -> Option<&dyn BrokerCtl> {
        self.control.as_ref().map(|control| control as &dyn BrokerCtl)
    }

    fn fault(&self) -> Option<&dyn FaultCtl> {
        self.link.as_ref().map(|link| link as &dyn FaultCtl)
    }

    fn without(&self, case: &Case) -> Option<&'static str> {
        case.tools.iter().find_map(|tool| match tool {
            Tool::TopicBound | Tool::DedupWindow => Some("no topic keeps anything"),
            Tool::Rights => Some("a key is looked at when a client connects, not later"),
            Tool::Disk => Some("a broker writes nothing"),
            _ => None,
        })
    }
}

/// Peers that meet in a folder of their own.
pub(crate) struct Peers {
    folder: Folder,
}

impl Peers {
    pub(crate) fn new() -> Self {
        Self { folder: Folder::new() }
    }
}

impl Harness for Peers {
    async fn open(&self) -> Result<Fabric> {
        let topology = Topology::Folder { folder: self.folder.0.clone() };
        Ok(Fabric::new(Zmq::open(ZmqConfig::of(topology)).await?))
    }

    fn without(&self, case: &Case) -> Option<&'static str> {
        case.tools.iter().find_map(|tool| match tool {
            Tool::TopicBound | Tool::DedupWindow => Some("no topic keeps anything"),
            Tool::Broker | Tool::Disk => Some("there is no broker"),
            Tool::Fault => Some("nothing lies between two peers in a folder"),
            Tool::Rights => Some("whoever may read the folder may read everything"),
            _ => None,
        })
    }
}

/// A folder that is removed in the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let name = format!("fz-{:08x}", fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
