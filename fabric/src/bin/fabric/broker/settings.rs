//! What a broker is told: by flags, else the environment, else a file, else as by default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use fabric::zmq::broker::BrokerConfig;
use fabric::zmq::{Key, KeyPair};
use fabric::{Error, ErrorKind, Result, parse_bytes, parse_duration};
use fabric_core::Config;

/// The broker of ZeroMQ.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ZmqArgs {
    /// Where publishers connect [default: tcp://*:5556]
    #[arg(long, env = "AGI_FABRIC_BROKER_FRONTEND", value_name = "ENDPOINT")]
    frontend: Option<String>,
    /// Where subscribers connect [default: tcp://*:5555]
    #[arg(long, env = "AGI_FABRIC_BROKER_BACKEND", value_name = "ENDPOINT")]
    backend: Option<String>,
    /// Where /healthz, /readyz and /metrics are served, such as 127.0.0.1:9090 [default: nowhere]
    #[arg(long, env = "AGI_FABRIC_BROKER_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,
    /// Where other brokers connect [default: nowhere]
    #[arg(long, env = "AGI_FABRIC_BROKER_LINK_BIND", value_name = "ENDPOINT")]
    link_bind: Option<String>,
    /// A broker to link with, by its --link-bind; several with commas
    #[arg(long, env = "AGI_FABRIC_BROKER_LINK", value_name = "ENDPOINT", value_delimiter = ',')]
    link: Vec<String>,
    /// The most messages that wait for one connection [default: 10000]
    #[arg(long, env = "AGI_FABRIC_BROKER_HWM", value_name = "COUNT")]
    hwm: Option<String>,
    /// The largest frame, such as 8MiB; whoever sends a larger one is cut off [default: 8MiB]
    #[arg(long, env = "AGI_FABRIC_BROKER_MAX_MESSAGE", value_name = "BYTES")]
    max_message: Option<String>,
    /// The most connections on either side [default: no limit]
    #[arg(long, env = "AGI_FABRIC_BROKER_MAX_CONNECTIONS", value_name = "COUNT")]
    max_connections: Option<String>,
    /// How long a connection may be silent [default: 900ms]
    #[arg(long, env = "AGI_FABRIC_BROKER_LINK_TIMEOUT", value_name = "TIME")]
    link_timeout: Option<String>,
    /// How many topics are counted each for itself [default: 10000]
    #[arg(long, env = "AGI_FABRIC_BROKER_MAX_TOPICS", value_name = "COUNT")]
    max_topics: Option<String>,
    /// How many threads do I/O [default: 1]
    #[arg(long, env = "AGI_FABRIC_BROKER_IO_THREADS", value_name = "COUNT")]
    io_threads: Option<String>,
    /// How long a stop may take to carry what publishers have sent already [default: 5s]
    #[arg(long, env = "AGI_FABRIC_BROKER_DRAIN", value_name = "TIME")]
    drain: Option<String>,
    /// The broker's keys, as --generate-keys prints them: only clients that know them get in
    #[arg(long, env = "AGI_FABRIC_BROKER_KEYS", value_name = "FILE")]
    keys: Option<PathBuf>,
    /// The public key of a client that may connect; several with commas [default: any]
    #[arg(long, env = "AGI_FABRIC_BROKER_ALLOW", value_name = "KEY", value_delimiter = ',')]
    allow: Vec<String>,
    /// A file with these settings under `broker:`
    #[arg(long, env = "AGI_FABRIC_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints a new pair of keys and ends
    #[arg(long)]
    pub(super) generate_keys: bool,
}

/// The same, read.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) broker: BrokerConfig,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) drain: Duration,
}

/// The keys of the file's section, which are those of the flags.
const KEYS: [&str; 14] = [
    "frontend",
    "backend",
    "admin",
    "link_bind",
    "link",
    "hwm",
    "max_message",
    "max_connections",
    "link_timeout",
    "max_topics",
    "io_threads",
    "drain",
    "keys",
    "allow",
];

impl Settings {
    /// Puts together what the flags, the environment and the file say.
    pub(crate) fn of(args: &ZmqArgs) -> Result<Self> {
        let mut file = match &args.config {
            Some(path) => Config::section(path, "broker")?,
            None => BTreeMap::new(),
        };
        if let Some(unknown) = file.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(refuse(format!(
                "unknown key `{unknown}` under `broker:`; known are {}",
                KEYS.join(", ")
            )));
        }
        let mut text = |flag: &Option<String>, key: &str| {
            let beside = file.remove(key);
            flag.clone().or(beside).filter(|text| !text.is_empty())
        };
        let either = |it: Option<String>, default: &str| it.unwrap_or_else(|| default.to_owned());
        let frontend = either(text(&args.frontend, "frontend"), "tcp://*:5556");
        let backend = either(text(&args.backend, "backend"), "tcp://*:5555");
        let mut broker = BrokerConfig::new(frontend, backend);
        broker.link_bind = text(&args.link_bind, "link_bind");
        let list = |flag: &[String], beside: Option<String>| -> Vec<String> {
            let beside = beside.unwrap_or_default();
            let given: Vec<&str> = match flag {
                [] => beside.split(',').collect(),
                given => given.iter().map(String::as_str).collect(),
            };
            given.iter().map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()).collect()
        };
        broker.links = list(&args.link, text(&None, "link"));
        if let Some(hwm) = text(&args.hwm, "hwm") {
            broker.hwm = number("hwm", &hwm)?;
        }
        if let Some(bytes) = text(&args.max_message, "max_message") {
            let bytes = parse_bytes(&bytes).map_err(|error| named("max_message", &error))?;
            broker.max_message =
                usize::try_from(bytes).map_err(|_| refuse("`max_message` is too large"))?;
        }
        if let Some(most) = text(&args.max_connections, "max_connections") {
            broker.max_connections = Some(number("max_connections", &most)?);
        }
        if let Some(time) = text(&args.link_timeout, "link_timeout") {
            broker.link_timeout = duration("link_timeout", &time)?;
        }
        if let Some(most) = text(&args.max_topics, "max_topics") {
            broker.max_topics = number("max_topics", &most)?;
        }
        if let Some(threads) = text(&args.io_threads, "io_threads") {
            broker.io_threads = number("io_threads", &threads)?;
        }
        let keys = args.keys.as_ref().map(|path| path.display().to_string());
        broker.keys = text(&keys, "keys").map(|path| read_keys(Path::new(&path))).transpose()?;
        let allow = list(&args.allow, text(&None, "allow"));
        broker.allow = allow.iter().map(|key| Key::parse(key)).collect::<Result<_>>()?;
        let admin = text(&args.admin, "admin").map(|at| address(&at)).transpose()?;
        let drain = text(&args.drain, "drain");
        let drain = drain.map_or(Ok(Duration::from_secs(5)), |time| duration("drain", &time))?;
        broker.validate()?;
        Ok(Self { broker, admin, drain })
    }
}

/// A new pair of keys, in the form that [`read_keys`] reads.
pub(crate) fn new_keys() -> Result<String> {
    let pair = KeyPair::generate()?;
    Ok(format!("public: {}\nsecret: {}\n", pair.public(), pair.secret().reveal()))
}

fn read_keys(path: &Path) -> Result<KeyPair> {
    let wrap =
        |why: String| refuse(format!("the keys in `{}` cannot be used: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrap(error.to_string()))?;
    let half = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        let missing = || wrap(format!("there is no line `{name} …`, as --generate-keys prints it"));
        line.map(str::trim).ok_or_else(missing)
    };
    KeyPair::new(Key::parse(half("public:")?)?, half("secret:")?.into())
}

fn address(text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        refuse(format!("`admin` is an address and a port, such as `127.0.0.1:9090`, not `{text}`"))
    })
}

fn number<T: std::str::FromStr>(key: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| refuse(format!("`{key}` is a whole number, not `{text}`")))
}

fn duration(key: &str, text: &str) -> Result<Duration> {
    parse_duration(text).map_err(|error| named(key, &error))
}

fn named(key: &str, error: &dyn std::fmt::Display) -> Error {
    refuse(format!("`{key}`: {error}"))
}

fn refuse(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let path = std::env::temp_dir().join(format!("fabric-broker-{}.yaml", std::process::id()));
        std::fs::write(
            &path,
            "broker:\n  frontend: tcp://*:7001\n  hwm: 50\n  max_message: 1MiB\n  drain: 2s\n  \
             link: tcp://a:1, tcp://b:2\n",
        )
        .unwrap();
        let args = ZmqArgs {
            config: Some(path.clone()),
            hwm: Some("60".to_owned()),
            admin: Some("127.0.0.1:9090".to_owned()),
            ..ZmqArgs::default()
        };
        let settings = Settings::of(&args);
        std::fs::remove_file(&path).unwrap();
        let settings = settings.unwrap();
        let broker = &settings.broker;
        assert_eq!((&*broker.frontend, &*broker.backend), ("tcp://*:7001", "tcp://*:5555"));
        assert_eq!((broker.hwm, broker.max_message), (60, 1 << 20));
        assert_eq!(broker.links, ["tcp://a:1", "tcp://b:2"]);
        assert_eq!(settings.drain, Duration::from_secs(2));
        assert!(settings.admin.is_some());
    }

    #[test]
    fn mistakes_are_named() {
        let with = |change: fn(&mut ZmqArgs)| {
            let mut args = ZmqArgs::default();
            change(&mut args);
            Settings::of(&args).unwrap_err().to_string()
        };
        assert!(with(|args| args.hwm = Some("many".to_owned())).contains("`hwm`"));
        assert!(with(|args| args.admin = Some("9090".to_owned())).contains("127.0.0.1:9090"));
        assert!(with(|args| args.drain = Some("5".to_owned())).contains("`drain`"));
        assert!(with(|args| args.keys = Some("/nowhere".into())).contains("/nowhere"));
        assert!(with(|args| args.allow = vec!["x".to_owned()]).contains("key"));
        assert!(with(|args| args.config = Some("/nowhere".into())).contains("/nowhere"));
    }

    #[test]
    fn the_file_that_comes_along_can_be_used() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/fabric_config.yaml");
        let args = ZmqArgs { config: Some(path.clone()), ..ZmqArgs::default() };
        let settings = Settings::of(&args).unwrap();
        assert_eq!(settings.broker.frontend, "tcp://*:5556");
        assert!(settings.admin.is_some());
        Config::from_file(&path).unwrap();
    }
}
