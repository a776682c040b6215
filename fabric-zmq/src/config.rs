//! What a client is told: where the others are, bounds and times.

use std::path::PathBuf;
use std::time::Duration;

use fabric_core::{Dsn, Error, Host, Result, Secret, WhenFull};
use serde::{Deserialize, Serialize};

use crate::curve::{ClientKeys, Key};
use crate::error::config as refuse;

/// The DSN schemes of this backend.
pub const SCHEMES: &[&str] = &["zmq"];

/// Where one broker listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "a broker has these two sides")]
pub struct BrokerAddress {
    /// Where subscribers connect: `tcp://host:5555`.
    pub backend: String,
    /// Where publishers connect: `tcp://host:5556`.
    pub frontend: String,
}

/// How the list of brokers is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Discovery {
    /// As given.
    #[default]
    List,
    /// Every address that the names in the list have, asked again from time to time.
    Dns,
    /// The healthy instances of a service that Consul knows.
    Consul {
        /// Where Consul's HTTP API answers: `host:8500`.
        address: String,
        /// The service: each instance's port is the subscribers', and its metadata `frontend` the
        /// publishers' (else the next port).
        service: String,
    },
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Topology {
    /// One broker or several.
    Brokers {
        /// Where they listen.
        brokers: Vec<BrokerAddress>,
        /// How more of them are found.
        discovery: Discovery,
    },
    /// No broker: every client listens, and connects to the others.
    Peers {
        /// Where this client listens: `tcp://host:port`. Others reach it under this name.
        bind: String,
        /// Where the others listen.
        peers: Vec<String>,
    },
    /// No broker, all on one machine: every client listens in this folder, and finds the others
    /// there.
    Folder {
        /// The folder.
        folder: PathBuf,
    },
}

/// What a client of ZeroMQ is told. Every field but the topology has a default.
///
/// DSN: `zmq+tcp://host:5555,5556` is one broker, with the port for subscribers and the one for
/// publishers (the next one if it is left out); more brokers follow after commas.
/// `zmq+ipc:///run/fabric/broker` is a broker at `broker.sub` and `broker.pub`. Without a broker:
/// `zmq+tcp://a:6000,b:6000?mode=peers&bind=a:6000`, `zmq+ipc:///run/fabric?mode=peers`.
///
/// ```
/// use fabric_core::Dsn;
/// use fabric_zmq::ZmqConfig;
///
/// let config = ZmqConfig::try_from(&Dsn::parse("zmq+tcp://robot:5555,5556?hwm=500")?)?;
/// assert_eq!(config.hwm, 500);
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ZmqConfig {
    /// Who is on the other side.
    pub topology: Topology,
    /// The most messages that wait for one connection, on either side. Default 10 000.
    #[serde(default = "defaults::hwm")]
    pub hwm: usize,
    /// The most events that wait for one subscription that is not read. Default 65 536.
    #[serde(default = "defaults::prefetch")]
    pub prefetch: usize,
    /// The most bytes that wait for one subscription that is not read. Default 64 MiB.
    #[serde(default = "defaults::queue_bytes")]
    pub queue_bytes: usize,
    /// What goes where a subscription's queue is full: `DropOldest` or `DropNewest`. Default: the
    /// oldest.
    #[serde(default = "defaults::when_full")]
    pub when_full: WhenFull,
    /// The largest payload in bytes. Default 4 MiB.
    #[serde(default = "defaults::max_payload")]
    pub max_payload: usize,
    /// The most events of one topic in one message. Default 256.
    #[serde(default = "defaults::batch_count")]
    pub batch_count: usize,
    /// How large a message may grow by putting events together. Default 64 KiB.
    #[serde(default = "defaults::batch_bytes")]
    pub batch_bytes: usize,
    /// How long an event waits for others of its topic, to share a message. Default: not at all.
    #[serde(default)]
    pub linger: Duration,
    /// How often a publisher tells its last sequences. Default 1 s.
    #[serde(default = "defaults::heartbeat")]
    pub heartbeat: Duration,
    /// How long a connection may be silent before it is taken for dead; it is asked three times as
    /// often. Default 900 ms.
    #[serde(default = "defaults::link_timeout")]
    pub link_timeout: Duration,
    /// The shortest and the longest wait before a connection is tried again. Default 50 ms, 500 ms.
    #[serde(default = "defaults::reconnect")]
    pub reconnect: (Duration, Duration),
    /// How long connecting, and each subscribe, may take. Default 5 s.
    #[serde(default = "defaults::connect_timeout")]
    pub connect_timeout: Duration,
    /// How long a publisher waits for room before it gets `Full`. Default 10 s.
    #[serde(default = "defaults::full_wait")]
    pub full_wait: Duration,
    /// How often discovery asks again. Default 10 s.
    #[serde(default = "defaults::discover_interval")]
    pub discover_interval: Duration,
    /// The most topics whose events are counted, as publisher, and the most that are remembered, as
    /// subscriber. Default 100 000.
    #[serde(default = "defaults::max_topics")]
    pub max_topics: usize,
    /// The payload alone, in two frames: for programs that know nothing of events. Default: no.
    #[serde(default)]
    pub raw: bool,
    /// The keys of CURVE; without them nothing is encrypted.
    #[serde(skip)]
    pub curve: Option<ClientKeys>,
}

mod defaults {
    use std::time::Duration;

    use fabric_core::WhenFull;

    macro_rules! defaults {
        ($($name:ident: $type:ty = $value:expr;)+) => {
            $(pub(super) const fn $name() -> $type { $value })+
        };
    }

    defaults! {
        hwm: usize = 10_000;
        prefetch: usize = 65_536;
        queue_bytes: usize = 64 << 20;
        when_full: WhenFull = WhenFull::DropOldest;
        max_payload: usize = 4 << 20;
        batch_count: usize = 256;
        batch_bytes: usize = 64 << 10;
        heartbeat: Duration = Duration::from_secs(1);
        link_timeout: Duration = Duration::from_millis(900);
        reconnect: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
        connect_timeout: Duration = Duration::from_secs(5);
        full_wait: Duration = Duration::from_secs(10);
        discover_interval: Duration = Duration::from_secs(10);
        max_topics: usize = 100_000;
    }
}

impl ZmqConfig {
    /// Clients of these brokers.
    #[must_use]
    pub fn brokers(brokers: impl IntoIterator<Item = BrokerAddress>) -> Self {
        let brokers = brokers.into_iter().collect();
        Self::of(Topology::Brokers { brokers, discovery: Discovery::List })
    }

    /// A client that is told `topology`, and the defaults otherwise.
    #[must_use]
    pub const fn of(topology: Topology) -> Self {
        Self {
            topology,
            hwm: defaults::hwm(),
            prefetch: defaults::prefetch(),
            queue_bytes: defaults::queue_bytes(),
            when_full: defaults::when_full(),
            max_payload: defaults::max_payload(),
            batch_count: defaults::batch_count(),
            batch_bytes: defaults::batch_bytes(),
            linger: Duration::ZERO,
            heartbeat: defaults::heartbeat(),
            link_timeout: defaults::link_timeout(),
            reconnect: defaults::reconnect(),
            connect_timeout: defaults::connect_timeout(),
            full_wait: defaults::full_wait(),
            discover_interval: defaults::discover_interval(),
            max_topics: defaults::max_topics(),
            raw: false,
            curve: None,
        }
    }

    fabric_core::setters! {
        /// Sets the most messages that wait for one connection.
        with_hwm hwm: usize;
        /// Sets the most events that wait for one subscription.
        with_prefetch prefetch: usize;
        /// Sets the most bytes that wait for one subscription.
        with_queue_bytes queue_bytes: usize;
        /// Sets what goes where a subscription's queue is full.
        with_when_full when_full: WhenFull;
        /// Sets the largest payload in bytes.
        with_max_payload max_payload: usize;
        /// Sets the most events in one message.
        with_batch_count batch_count: usize;
        /// Sets how large a message may grow by putting events together.
        with_batch_bytes batch_bytes: usize;
        /// Sets how long an event waits for others of its topic.
        with_linger linger: Duration;
        /// Sets how often a publisher tells its last sequences.
        with_heartbeat heartbeat: Duration;
        /// Sets how long a connection may be silent.
        with_link_timeout link_timeout: Duration;
        /// Sets the shortest and the longest wait before a connection is tried again.
        with_reconnect reconnect: (Duration, Duration);
        /// Sets how long connecting, and each subscribe, may take.
        with_connect_timeout connect_timeout: Duration;
        /// Sets how long a publisher waits for room.
        with_full_wait full_wait: Duration;
        /// Sets how often discovery asks again.
        with_discover_interval discover_interval: Duration;
        /// Sets the most topics that are counted.
        with_max_topics max_topics: usize;
        /// Sets whether the payload travels alone.
        with_raw raw: bool;
        /// Sets the keys of CURVE.
        with_curve curve: Option<ClientKeys>;
    }

    /// Refuses what nothing could be done with.
    ///
    /// # Errors
    /// `Config`, naming the field.
    pub fn validate(&self) -> Result<()> {
        let bounds = [
            ("hwm", self.hwm),
            ("prefetch", self.prefetch),
            ("queue_bytes", self.queue_bytes),
            ("max_payload", self.max_payload),
            ("batch_count", self.batch_count),
            ("batch_bytes", self.batch_bytes),
            ("max_topics", self.max_topics),
        ];
        if let Some((field, _)) = bounds.iter().find(|(_, value)| *value == 0) {
            return Err(refuse(format!("`{field}` is 0; at least 1 is needed")));
        }
        if i32::try_from(self.hwm).is_err() {
            return Err(refuse(format!("`hwm` is {}; at most {} fit", self.hwm, i32::MAX)));
        }
        if u32::try_from(self.max_payload).is_err() {
            return Err(refuse("`max_payload` has to be less than 4 GiB"));
        }
        let times = [
            ("heartbeat", self.heartbeat),
            ("link_timeout", self.link_timeout),
            ("reconnect", self.reconnect.0),
            ("connect_timeout", self.connect_timeout),
            ("discover_interval", self.discover_interval),
        ];
        if let Some((field, _)) = times.iter().find(|(_, time)| time.as_millis() == 0) {
            return Err(refuse(format!("`{field}` is 0; at least a millisecond is needed")));
        }
        if !matches!(self.when_full, WhenFull::DropOldest | WhenFull::DropNewest) {
            return Err(Error::unsupported(
                "waiting for a subscriber that does not read; `when_full` is `drop_oldest` or \
                 `drop_newest`",
                "zmq",
            ));
        }
        match &self.topology {
            Topology::Brokers { brokers, discovery: Discovery::List | Discovery::Dns }
                if brokers.is_empty() =>
            {
                Err(refuse("there is no broker; name one: `zmq+tcp://host:5555,5556`"))
            }
            _ => Ok(()),
        }
    }

    /// Where it connects or listens, for people.
    pub(crate) fn server(&self) -> String {
        match &self.topology {
            Topology::Brokers { brokers, discovery } => {
                let list: Vec<&str> = brokers.iter().map(|it| it.backend.as_str()).collect();
                match discovery {
                    Discovery::Consul { address, service } => {
                        format!("{service} as Consul at {address} says")
                    }
                    _ => list.join(","),
                }
            }
            Topology::Peers { bind, .. } => bind.clone(),
            Topology::Folder { folder } => format!("ipc://{}", folder.display()),
        }
    }
}

/// The hosts of a DSN as brokers: a second port of the same host is its frontend.
fn brokers(hosts: &[Host]) -> Vec<BrokerAddress> {
    let mut brokers = Vec::new();
    let mut hosts = hosts.iter().peekable();
    while let Some(host) = hosts.next() {
        let backend = host.port_or(5555);
        let second = hosts.next_if(|next| next.name == host.name && next.port.is_some());
        let frontend = second.and_then(|it| it.port).unwrap_or_else(|| backend.wrapping_add(1));
        let at = |port: u16| format!("tcp://{}", Host::new(host.name.clone(), Some(port)));
        brokers.push(BrokerAddress { backend: at(backend), frontend: at(frontend) });
    }
    brokers
}

/// How a DSN names an address: `host:port`, or with its scheme.
fn endpoint(text: &str) -> String {
    if text.contains("://") { text.to_owned() } else { format!("tcp://{text}") }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Broker,
    Peers,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    List,
    Dns,
    Consul,
}

impl TryFrom<&Dsn> for ZmqConfig {
    type Error = Error;

    fn try_from(dsn: &Dsn) -> Result<Self> {
        let ipc = match (dsn.scheme(), dsn.transport()) {
            ("zmq", None | Some("tcp")) => false,
            ("zmq", Some("ipc")) => true,
            _ => {
                let scheme = dsn.full_scheme();
                return Err(refuse(format!("`{scheme}` is none of `zmq+tcp` and `zmq+ipc`")));
            }
        };
        if dsn.user().is_some() || dsn.password().is_some() {
            return Err(refuse(
                "`zmq` takes no user or password; keys are `server_key`, `public_key` and \
                 `secret_key`",
            ));
        }
        let mut options = dsn.options();
        let modes = [("broker", Mode::Broker), ("peers", Mode::Peers)];
        let mode = options.take_enum("mode", &modes)?.unwrap_or(Mode::Broker);
        let bind: Option<String> = options.take("bind")?;
        let ways = [("list", Found::List), ("dns", Found::Dns), ("consul", Found::Consul)];
        let found = options.take_enum("discover", &ways)?.unwrap_or(Found::List);
        let path = dsn.path().trim_start_matches('/');
        if bind.is_some() && (ipc || mode == Mode::Broker) {
            return Err(options.refuse("bind", "it goes with `zmq+tcp` and `mode=peers`"));
        }
        if found != Found::List && (ipc || mode == Mode::Peers) {
            return Err(options.refuse("discover", "it goes with `zmq+tcp` and brokers"));
        }
        let topology = match (ipc, mode, found) {
            (true, ..) if path.is_empty() || !dsn.hosts().is_empty() => {
                return Err(refuse(
                    "`zmq+ipc` takes a path and no host, as in `zmq+ipc:///run/fabric/broker`",
                ));
            }
            (true, Mode::Peers, _) => Topology::Folder { folder: PathBuf::from(dsn.path()) },
            (true, Mode::Broker, _) => {
                let at = |side: &str| format!("ipc://{}.{side}", dsn.path());
                let brokers = vec![BrokerAddress { backend: at("sub"), frontend: at("pub") }];
                Topology::Brokers { brokers, discovery: Discovery::List }
            }
            (false, _, Found::Consul) => {
                let [consul] = dsn.hosts() else {
                    return Err(refuse("with `discover=consul` the one host is Consul's"));
                };
                if path.is_empty() {
                    return Err(refuse(
                        "with `discover=consul` the path is the service: `zmq+tcp://consul:8500/fabric`",
                    ));
                }
                let address =
                    Host::new(consul.name.clone(), Some(consul.port_or(8500))).to_string();
                let discovery = Discovery::Consul { address, service: path.to_owned() };
                Topology::Brokers { brokers: Vec::new(), discovery }
            }
            (false, ..) if !path.is_empty() => {
                return Err(refuse(format!("`zmq+tcp` takes no path, not `{path}`")));
            }
            (false, Mode::Broker, found) => Topology::Brokers {
                brokers: brokers(dsn.hosts()),
                discovery: if found == Found::Dns { Discovery::Dns } else { Discovery::List },
            },
            (false, Mode::Peers, _) => {
                let Some(bind) = bind else {
                    return Err(refuse(
                        "`mode=peers` needs `bind`, the address under which the others reach this \
                         client",
                    ));
                };
                let at = |host: &Host| {
                    format!("tcp://{}", Host::new(host.name.clone(), Some(host.port_or(5555))))
                };
                Topology::Peers {
                    bind: endpoint(&bind),
                    peers: dsn.hosts().iter().map(at).collect(),
                }
            }
        };
        let mut config = Self::of(topology);
        options.set("hwm", &mut config.hwm)?;
        options.set("prefetch", &mut config.prefetch)?;
        options.set("batch_count", &mut config.batch_count)?;
        options.set("max_topics", &mut config.max_topics)?;
        options.set_bytes("queue_bytes", &mut config.queue_bytes)?;
        options.set_bytes("max_payload", &mut config.max_payload)?;
        options.set_bytes("batch_bytes", &mut config.batch_bytes)?;
        options.set("linger", &mut config.linger)?;
        options.set("heartbeat", &mut config.heartbeat)?;
        options.set("link_timeout", &mut config.link_timeout)?;
        options.set("reconnect_min", &mut config.reconnect.0)?;
        options.set("reconnect_max", &mut config.reconnect.1)?;
        options.set("connect_timeout", &mut config.connect_timeout)?;
        options.set("full_wait", &mut config.full_wait)?;
        options.set("discover_interval", &mut config.discover_interval)?;
        let policies =
            [("drop_oldest", WhenFull::DropOldest), ("drop_newest", WhenFull::DropNewest)];
        options.set_enum("when_full", &mut config.when_full, &policies)?;
        options.set_enum("profile", &mut config.raw, &[("raw", true)])?;
        let server_key: Option<String> = options.take("server_key")?;
        let public_key: Option<String> = options.take("public_key")?;
        let secret_key: Option<Secret> = options.take("secret_key")?;
        config.curve = match (server_key, public_key, secret_key) {
            (None, None, None) => None,
            (Some(server), Some(public), Some(secret)) => {
                let keys = (Key::parse(&server)?, Key::parse(&public)?);
                Some(ClientKeys::new(keys.0, keys.1, secret)?)
            }
            _ => {
                return Err(refuse(
                    "CURVE takes `server_key`, `public_key` and `secret_key` together",
                ));
            }
        };
        options.finish()?;
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use fabric_core::ErrorKind;

    use super::*;

    fn read(dsn: &str) -> Result<ZmqConfig> {
        ZmqConfig::try_from(&Dsn::parse(dsn)?)
    }

    fn broker(backend: &str, frontend: &str) -> BrokerAddress {
        BrokerAddress { backend: backend.to_owned(), frontend: frontend.to_owned() }
    }

    #[test]
    fn brokers_are_hosts_with_one_port_or_two() {
        let list = |dsn: &str| match read(dsn).unwrap().topology {
            Topology::Brokers { brokers, .. } => brokers,
            other => panic!("{other:?}"),
        };
        let one = broker("tcp://a:5555", "tcp://a:5556");
        assert_eq!(list("zmq+tcp://a"), std::slice::from_ref(&one));
        assert_eq!(list("zmq://a:5555,5556"), std::slice::from_ref(&one));
        let two = broker("tcp://b:7000", "tcp://b:7001");
        assert_eq!(list("zmq+tcp://a:5555,5556,b:7000"), [one.clone(), two.clone()]);
        assert_eq!(list("zmq+tcp://a,b:7000,7001"), [one, two]);
        let ipc = broker("ipc:///run/x.sub", "ipc:///run/x.pub");
        assert_eq!(list("zmq+ipc:///run/x"), [ipc]);
    }

    #[test]
    fn every_option_is_read() {
        let config = read(
            "zmq+tcp://a?hwm=5&prefetch=6&queue_bytes=1MiB&when_full=drop_newest&max_payload=2kB\
             &batch_count=7&batch_bytes=8kB&linger=1ms&heartbeat=2s&link_timeout=3s\
             &reconnect_min=10ms&reconnect_max=20ms&connect_timeout=4s&full_wait=5s\
             &discover=dns&discover_interval=6s&max_topics=8&profile=raw",
        )
        .unwrap();
        let seconds = Duration::from_secs;
        let millis = Duration::from_millis;
        let mut expected = ZmqConfig::brokers([broker("tcp://a:5555", "tcp://a:5556")])
            .with_hwm(5)
            .with_prefetch(6)
            .with_queue_bytes(1 << 20)
            .with_when_full(WhenFull::DropNewest)
            .with_max_payload(2000)
            .with_batch_count(7)
            .with_batch_bytes(8000)
            .with_linger(millis(1))
            .with_heartbeat(seconds(2))
            .with_link_timeout(seconds(3))
            .with_reconnect((millis(10), millis(20)))
            .with_connect_timeout(seconds(4))
            .with_full_wait(seconds(5))
            .with_discover_interval(seconds(6))
            .with_max_topics(8)
            .with_raw(true);
        if let Topology::Brokers { discovery, .. } = &mut expected.topology {
            *discovery = Discovery::Dns;
        }
        assert_eq!(config, expected);
    }

    #[test]
    fn peers_and_folders_are_read() {
        let peers = read("zmq+tcp://a:6000,b:6001?mode=peers&bind=a:6000").unwrap();
        let expected = Topology::Peers {
            bind: "tcp://a:6000".to_owned(),
            peers: vec!["tcp://a:6000".to_owned(), "tcp://b:6001".to_owned()],
        };
        assert_eq!(peers.topology, expected);
        let folder = read("zmq+ipc:///run/fabric?mode=peers").unwrap();
        assert_eq!(folder.topology, Topology::Folder { folder: PathBuf::from("/run/fabric") });
        let consul = read("zmq+tcp://consul/fabric?discover=consul").unwrap();
        let discovery =
            Discovery::Consul { address: "consul:8500".to_owned(), service: "fabric".to_owned() };
        assert_eq!(consul.topology, Topology::Brokers { brokers: Vec::new(), discovery });
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_way_out() {
        let table = [
            ("zmq+udp://a", "zmq+tcp"),
            ("zmq+tcp://", "no broker"),
            ("zmq+tcp://u:p@a", "secret_key"),
            ("zmq+tcp://a/path", "no path"),
            ("zmq+ipc://a/path", "no host"),
            ("zmq+tcp://a?mode=peers", "bind"),
            ("zmq+tcp://a?bind=b", "bind"),
            ("zmq+tcp://a?hwm=0", "hwm"),
            ("zmq+tcp://a?heartbeat=0ms", "heartbeat"),
            ("zmq+tcp://a?hwn=1", "hwm"),
            ("zmq+tcp://a?when_full=block", "drop_oldest"),
            ("zmq+tcp://a?server_key=x", "together"),
            ("zmq+tcp://a,b/x?discover=consul", "Consul"),
        ];
        for (dsn, expected) in table {
            let error = read(dsn).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{dsn}");
            assert!(error.to_string().contains(expected), "{dsn}: {error}");
        }
    }
}
