//! What a connection is told: servers, credentials, streams, bounds.

use std::path::PathBuf;
use std::time::Duration;

use fabric_core::{Dsn, DsnOptions, Error, ErrorKind, Host, Prefix, Result, Secret};
use serde::{Deserialize, Serialize};

/// The DSN schemes of this backend: `tls` is `nats` with TLS required.
pub const SCHEMES: &[&str] = &["nats", "tls"];

/// The port of a server that names none.
const PORT: u16 = 4222;

/// What carries events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// Streams that keep events, with groups, history and confirms.
    #[default]
    JetStream,
    /// NATS alone: whoever is there gets a copy, and nothing is kept.
    Core,
}

/// How events lie on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Profile {
    /// CloudEvents in binary mode: attributes as headers, the payload as it is.
    #[default]
    Binary,
    /// CloudEvents in structured mode: one JSON object.
    Structured,
    /// The payload alone, for programs that know nothing of events.
    Raw,
}

/// Where a stream keeps its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Storage {
    /// On disk.
    #[default]
    File,
    /// In memory: gone with the server.
    Memory,
}

/// What a stream does at its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Discard {
    /// It drops its oldest events.
    #[default]
    Old,
    /// It refuses new ones: a publish is `Full`.
    New,
}

/// A stream by name, and the first levels of the topics that it keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRoots {
    /// Its name on the server.
    pub name: String,
    /// The first levels of its topics.
    pub roots: Vec<String>,
}

/// How to connect, and what with. Every field but the servers has a default; `docs/nats.md` lists
/// the options of the URL.
///
/// ```
/// use fabric_nats::NatsConfig;
/// let config = NatsConfig::new(["localhost:4222"]).with_prefix(fabric_core::Prefix::new("staging")?);
/// assert_eq!(config.prefix.as_ref().map(|prefix| prefix.as_str()), Some("staging"));
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NatsConfig {
    /// Servers as `host:port`; others of their cluster are found by themselves.
    pub servers: Vec<String>,
    /// What carries events. Default: JetStream.
    pub mode: Mode,
    /// How events lie on the wire. Default: CloudEvents in binary mode.
    pub profile: Profile,
    /// Sets all names apart from those of others on the server. Default `fabric`; none where
    /// `streams` are listed.
    pub prefix: Option<Prefix>,
    /// Streams by name and roots. Default: one stream that is called like the prefix.
    pub streams: Vec<StreamRoots>,
    /// Whether streams that are not there are made. Default: yes.
    pub create: bool,
    /// Whether streams that are there with other settings are changed to these. Default: no.
    pub alter: bool,
    /// Where made streams keep events. Default: on disk.
    pub storage: Storage,
    /// On how many servers of a cluster. Default 1.
    pub replicas: usize,
    /// The most events of a made stream. Default: no limit.
    pub max_events: Option<u64>,
    /// The most bytes of a made stream. Default: no limit.
    pub max_bytes: Option<u64>,
    /// The most events of one topic. Default: no limit.
    pub max_events_per_topic: Option<u64>,
    /// How long a made stream keeps an event. Default: no limit.
    pub max_age: Option<Duration>,
    /// What a made stream does at its limits. Default: it drops its oldest events.
    pub discard: Discard,
    /// How long the same source, id and topic is recognised as a duplicate. Default 2 min.
    pub dedup_window: Duration,
    /// The JetStream domain, if it is another than the server's own.
    pub domain: Option<String>,
    /// Whether TLS is required. Default: if the server asks for it.
    pub tls: bool,
    /// Whether TLS begins before the server's greeting. Default: no.
    pub tls_first: bool,
    /// Certificates to trust, as a PEM file. Default: those of the system. The file is read at each
    /// connection, so that it can be renewed.
    pub tls_ca: Option<PathBuf>,
    /// The client's certificate, as a PEM file; read at each connection.
    pub tls_cert: Option<PathBuf>,
    /// The client's key, as a PEM file; read at each connection.
    pub tls_key: Option<PathBuf>,
    /// The user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// A token instead of user and password.
    pub token: Option<Secret>,
    /// The seed of an NKey.
    pub nkey: Option<Secret>,
    /// A file with the seed of an NKey; read at each connection.
    pub nkey_file: Option<PathBuf>,
    /// A credentials file, a JWT and the seed of its NKey; read at each connection.
    pub credentials: Option<PathBuf>,
    /// What the client calls itself. Default `fabric`.
    pub name: Option<String>,
    /// Whether other servers of the cluster are found by themselves. Default: yes.
    pub discover: bool,
    /// Whether connecting waits for a server that is not there yet. Default: no, it fails.
    pub wait: bool,
    /// How long one attempt to connect may take. Default 5 s.
    pub connect_timeout: Duration,
    /// The longest pause between attempts to reconnect. Default 2 s.
    pub reconnect_max: Duration,
    /// How often an idle connection is tried; it is given up when three in a row bring no answer.
    /// Default 3 s.
    pub ping_interval: Duration,
    /// How long the server may take to answer about streams and groups. Default 5 s.
    pub request_timeout: Duration,
    /// How long an event may stay unconfirmed, through outages, before its publish is `Timeout`.
    /// Default 30 s.
    pub confirm_timeout: Duration,
    /// The most events that are handed over and not confirmed. Default 1024.
    pub in_flight: usize,
    /// The most bytes of their payloads. Default 16 MiB.
    pub in_flight_bytes: usize,
    /// The most events that one subscription holds unsettled. Default 256.
    pub prefetch: usize,
    /// How much longer than `ack_wait` the server waits before it hands an event out again: the
    /// client refuses at `ack_wait`, since the server would take a stale ack. Default 1 s.
    pub grace: Duration,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            mode: Mode::default(),
            profile: Profile::default(),
            prefix: None,
            streams: Vec::new(),
            create: true,
            alter: false,
            storage: Storage::default(),
            replicas: 1,
            max_events: None,
            max_bytes: None,
            max_events_per_topic: None,
            max_age: None,
            discard: Discard::default(),
            dedup_window: Duration::from_secs(120),
            domain: None,
            tls: false,
            tls_first: false,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            user: None,
            password: None,
            token: None,
            nkey: None,
            nkey_file: None,
            credentials: None,
            name: None,
            discover: true,
            wait: false,
            connect_timeout: Duration::from_secs(5),
            reconnect_max: Duration::from_secs(2),
            ping_interval: Duration::from_secs(3),
            request_timeout: Duration::from_secs(5),
            confirm_timeout: Duration::from_secs(30),
            in_flight: 1024,
            in_flight_bytes: 16 << 20,
            prefetch: 256,
            grace: Duration::from_secs(1),
        }
    }
}

impl NatsConfig {
    /// The defaults, for these servers as `host:port`.
    #[must_use]
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        Self { servers: servers.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    fabric_core::setters! {
        /// Sets what carries events.
        with_mode mode: Mode;
        /// Sets how events lie on the wire.
        with_profile profile: Profile;
        /// Sets whether streams that are not there are made.
        with_create create: bool;
        /// Sets whether streams that are there with other settings are changed to these.
        with_alter alter: bool;
        /// Sets where made streams keep events.
        with_storage storage: Storage;
        /// Sets on how many servers of a cluster a made stream lies.
        with_replicas replicas: usize;
        /// Sets the most events of a made stream.
        with_max_events max_events: Option<u64>;
        /// Sets the most bytes of a made stream.
        with_max_bytes max_bytes: Option<u64>;
        /// Sets the most events of one topic.
        with_max_events_per_topic max_events_per_topic: Option<u64>;
        /// Sets how long a made stream keeps an event.
        with_max_age max_age: Option<Duration>;
        /// Sets what a made stream does at its limits.
        with_discard discard: Discard;
        /// Sets how long a duplicate is recognised.
        with_dedup_window dedup_window: Duration;
        /// Sets whether TLS is required.
        with_tls tls: bool;
        /// Sets whether TLS begins before the server's greeting.
        with_tls_first tls_first: bool;
        /// Sets whether other servers of the cluster are found by themselves.
        with_discover discover: bool;
        /// Sets whether connecting waits for a server that is not there yet.
        with_wait wait: bool;
        /// Sets how long one attempt to connect may take.
        with_connect_timeout connect_timeout: Duration;
        /// Sets the longest pause between attempts to reconnect.
        with_reconnect_max reconnect_max: Duration;
        /// Sets how often an idle connection is tried.
        with_ping_interval ping_interval: Duration;
        /// Sets how long the server may take to answer about streams and groups.
        with_request_timeout request_timeout: Duration;
        /// Sets how long an event may stay unconfirmed.
        with_confirm_timeout confirm_timeout: Duration;
        /// Sets the most events that are not confirmed.
        with_in_flight in_flight: usize;
        /// Sets the most bytes of their payloads.
        with_in_flight_bytes in_flight_bytes: usize;
        /// Sets the most events that one subscription holds unsettled.
        with_prefetch prefetch: usize;
        /// Sets how much longer than `ack_wait` the server waits.
        with_grace grace: Duration;
        /// Sets what sets all names apart from those of others.
        with_prefix into prefix: Prefix;
        /// Sets the JetStream domain.
        with_domain into domain: String;
        /// Sets the certificates to trust, as a PEM file.
        with_tls_ca into tls_ca: PathBuf;
        /// Sets the client's certificate, as a PEM file.
        with_tls_cert into tls_cert: PathBuf;
        /// Sets the client's key, as a PEM file.
        with_tls_key into tls_key: PathBuf;
        /// Sets the user.
        with_user into user: String;
        /// Sets the user's password.
        with_password into password: Secret;
        /// Sets a token.
        with_token into token: Secret;
        /// Sets the seed of an NKey.
        with_nkey into nkey: Secret;
        /// Sets a file with the seed of an NKey.
        with_nkey_file into nkey_file: PathBuf;
        /// Sets a credentials file.
        with_credentials into credentials: PathBuf;
        /// Sets what the client calls itself.
        with_name into name: String;
    }

    /// Adds a stream by name and the first levels of the topics that it keeps.
    #[must_use]
    pub fn with_stream<S: Into<String>>(
        mut self,
        name: impl Into<String>,
        roots: impl IntoIterator<Item = S>,
    ) -> Self {
        let roots = roots.into_iter().map(Into::into).collect();
        self.streams.push(StreamRoots { name: name.into(), roots });
        self
    }

    /// Refuses what no server would take, before one is asked.
    ///
    /// # Errors
    /// `Config`, naming the option.
    pub fn validate(&self) -> Result<()> {
        if self.servers.is_empty() {
            return Err(refuse("`nats` needs a server, as in `nats://localhost:4222`"));
        }
        let bounds = [
            ("in_flight", self.in_flight),
            ("in_flight_bytes", self.in_flight_bytes),
            ("prefetch", self.prefetch),
            ("replicas", self.replicas),
        ];
        if let Some((field, _)) = bounds.iter().find(|(_, value)| *value == 0) {
            return Err(refuse(format!("`{field}` is 0; at least 1 is needed")));
        }
        if self.in_flight > MOST_IN_FLIGHT {
            return Err(refuse(format!("`in_flight` is more than {MOST_IN_FLIGHT}")));
        }
        if self.prefix.as_ref().is_some_and(|prefix| prefix.as_str().starts_with('_')) {
            return Err(refuse("a prefix that begins with `_` may be one of the server's own"));
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(refuse("`tls_cert` and `tls_key` go together"));
        }
        if self.ping_interval.is_zero() {
            return Err(refuse("a `ping_interval` of zero would give every connection up"));
        }
        let ways = [
            self.user.is_some() || self.password.is_some(),
            self.token.is_some(),
            self.nkey.is_some() || self.nkey_file.is_some(),
            self.credentials.is_some(),
        ];
        if ways.iter().filter(|given| **given).count() > 1 {
            return Err(refuse(
                "give one of user and password, a token, an NKey, or a credentials file",
            ));
        }
        for stream in &self.streams {
            if stream.name.is_empty() || stream.name.contains([' ', '.', '*', '>', '/', '\\']) {
                return Err(refuse(format!("`{}` is no name of a stream", stream.name)));
            }
            let legal = |root: &String| {
                fabric_core::Topic::new(root).is_ok_and(|topic| !topic.is_reserved())
                    && !root.contains('.')
            };
            if stream.roots.is_empty() || !stream.roots.iter().all(legal) {
                return Err(refuse(format!(
                    "the roots of the stream `{}` are not one level each, or reserved",
                    stream.name
                )));
            }
        }
        let mut roots: Vec<&String> = self.streams.iter().flat_map(|s| &s.roots).collect();
        roots.sort_unstable();
        if let Some(twice) = roots.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(refuse(format!("two streams have the root `{}`", twice[0])));
        }
        Ok(())
    }
}

/// More unconfirmed events than this a client's queue does not take.
pub(crate) const MOST_IN_FLIGHT: usize = 65_536;

fn refuse(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, text).with_backend("nats")
}

impl TryFrom<&Dsn> for NatsConfig {
    type Error = Error;

    fn try_from(dsn: &Dsn) -> Result<Self> {
        let mut config = Self::default();
        match (dsn.scheme(), dsn.transport()) {
            ("nats", None) => {}
            ("nats", Some("tls")) | ("tls", None) => config.tls = true,
            _ => return Err(refuse(format!("`{}` is not `nats` or `tls`", dsn.full_scheme()))),
        }
        if !matches!(dsn.path(), "" | "/") {
            return Err(refuse(format!("`nats` takes no path, not `{}`", dsn.path())));
        }
        config.servers = dsn.hosts().iter().map(server).collect();
        match (dsn.user(), dsn.password()) {
            (Some(token), None) => config.token = Some(Secret::new(token)),
            (user, password) => {
                config.user = user.map(ToOwned::to_owned);
                config.password = password.cloned();
            }
        }
        let mut options = dsn.options();
        config.read_streams(&mut options)?;
        config.read_security(&mut options)?;
        config.read_times_and_bounds(&mut options)?;
        options.finish()?;
        config.validate()?;
        Ok(config)
    }
}

impl NatsConfig {
    fn read_streams(&mut self, options: &mut DsnOptions<'_>) -> Result<()> {
        let modes = [("jetstream", Mode::JetStream), ("core", Mode::Core)];
        options.set_enum("mode", &mut self.mode, &modes)?;
        let profiles = [
            ("binary", Profile::Binary),
            ("structured", Profile::Structured),
            ("raw", Profile::Raw),
        ];
        options.set_enum("profile", &mut self.profile, &profiles)?;
        let prefix = |text: &str| Prefix::new(text).map_err(|error| error.message().to_owned());
        self.prefix = options.take_with("prefix", prefix)?;
        self.streams = options.take_with("streams", read_roots)?.unwrap_or_default();
        options.set("create", &mut self.create)?;
        options.set("alter", &mut self.alter)?;
        let storages = [("file", Storage::File), ("memory", Storage::Memory)];
        options.set_enum("storage", &mut self.storage, &storages)?;
        options.set("replicas", &mut self.replicas)?;
        options.set("max_events", &mut self.max_events)?;
        self.max_bytes = options.take_bytes("max_bytes")?;
        options.set("max_events_per_topic", &mut self.max_events_per_topic)?;
        options.set("max_age", &mut self.max_age)?;
        let discards = [("old", Discard::Old), ("new", Discard::New)];
        options.set_enum("discard", &mut self.discard, &discards)?;
        options.set("dedup_window", &mut self.dedup_window)?;
        options.set("domain", &mut self.domain)
    }

    fn read_security(&mut self, options: &mut DsnOptions<'_>) -> Result<()> {
        options.set("tls_first", &mut self.tls_first)?;
        options.set("tls_ca", &mut self.tls_ca)?;
        options.set("tls_cert", &mut self.tls_cert)?;
        options.set("tls_key", &mut self.tls_key)?;
        options.set("token", &mut self.token)?;
        options.set("nkey", &mut self.nkey)?;
        options.set("nkey_file", &mut self.nkey_file)?;
        options.set("credentials", &mut self.credentials)?;
        options.set("name", &mut self.name)
    }

    fn read_times_and_bounds(&mut self, options: &mut DsnOptions<'_>) -> Result<()> {
        options.set("discover", &mut self.discover)?;
        options.set("wait", &mut self.wait)?;
        options.set("connect_timeout", &mut self.connect_timeout)?;
        options.set("reconnect_max", &mut self.reconnect_max)?;
        options.set("ping_interval", &mut self.ping_interval)?;
        options.set("request_timeout", &mut self.request_timeout)?;
        options.set("confirm_timeout", &mut self.confirm_timeout)?;
        options.set("grace", &mut self.grace)?;
        options.set("in_flight", &mut self.in_flight)?;
        options.set_bytes("in_flight_bytes", &mut self.in_flight_bytes)?;
        options.set("prefetch", &mut self.prefetch)
    }
}

/// A host of the URL, with the port that it means.
fn server(host: &Host) -> String {
    Host::new(host.name.as_str(), Some(host.port.unwrap_or(PORT))).to_string()
}

/// `ORDERS:orders+returns,METRICS:metrics`.
fn read_roots(text: &str) -> Result<Vec<StreamRoots>, String> {
    let stream = |part: &str| {
        let (name, roots) = part
            .split_once(':')
            .ok_or("streams with their roots, as in `ORDERS:orders+returns,METRICS:metrics`")?;
        let roots = roots.split('+').map(ToOwned::to_owned).collect();
        Ok(StreamRoots { name: name.to_owned(), roots })
    };
    text.split(',').map(stream).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dsn: &str) -> Result<NatsConfig> {
        NatsConfig::try_from(&Dsn::parse(dsn)?)
    }

    #[test]
    fn every_option_is_read() {
        let config = read(
            "nats://a,b:5222?mode=core&profile=raw&prefix=p&streams=S:x+y,T:z&create=false\
             &alter=true&storage=memory&replicas=3&max_events=5&max_bytes=1MiB\
             &max_events_per_topic=7&max_age=1h&discard=new&dedup_window=1s&domain=hub\
             &tls_first=true&tls_ca=ca.pem&tls_cert=c.pem&tls_key=k.pem&credentials=u.creds\
             &name=me&discover=false&wait=true&connect_timeout=1s&reconnect_max=3s\
             &ping_interval=4s&request_timeout=6s&confirm_timeout=7s&in_flight=8\
             &in_flight_bytes=9kB&prefetch=10&grace=2s",
        )
        .unwrap();
        let seconds = Duration::from_secs;
        let expected = NatsConfig::new(["a:4222", "b:5222"])
            .with_mode(Mode::Core)
            .with_profile(Profile::Raw)
            .with_prefix(Prefix::new("p").unwrap())
            .with_stream("S", ["x", "y"])
            .with_stream("T", ["z"])
            .with_create(false)
            .with_alter(true)
            .with_storage(Storage::Memory)
            .with_replicas(3)
            .with_max_events(Some(5))
            .with_max_bytes(Some(1 << 20))
            .with_max_events_per_topic(Some(7))
            .with_max_age(Some(seconds(3600)))
            .with_discard(Discard::New)
            .with_dedup_window(seconds(1))
            .with_domain("hub")
            .with_tls_first(true)
            .with_tls_ca("ca.pem")
            .with_tls_cert("c.pem")
            .with_tls_key("k.pem")
            .with_credentials("u.creds")
            .with_name("me")
            .with_discover(false)
            .with_wait(true)
            .with_connect_timeout(seconds(1))
            .with_reconnect_max(seconds(3))
            .with_ping_interval(seconds(4))
            .with_request_timeout(seconds(6))
            .with_confirm_timeout(seconds(7))
            .with_in_flight(8)
            .with_in_flight_bytes(9000)
            .with_prefetch(10)
            .with_grace(seconds(2));
        assert_eq!(config, expected);
        assert_eq!(read("nats://a").unwrap(), NatsConfig::new(["a:4222"]));
    }

    #[test]
    fn credentials_are_read_and_never_shown() {
        let config = read("tls://me:hunter2@a").unwrap();
        assert!(config.tls);
        assert_eq!(config.user.as_deref(), Some("me"));
        assert!(!format!("{config:?}").contains("hunter2"));
        let config = read("nats+tls://s3cr3t@a").unwrap();
        assert!(config.tls && config.user.is_none());
        assert_eq!(config.token.as_ref().map(Secret::reveal), Some("s3cr3t"));
        assert!(!format!("{config:?}").contains("s3cr3t"));
        let config = read("nats://a?nkey=SUABC").unwrap();
        assert!(!format!("{config:?}").contains("SUABC"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_named() {
        for (dsn, named) in [
            ("nats://a?prefetched=5", "prefetch"),
            ("nats://a?in_flight=0", "in_flight"),
            ("nats://a?mode=both", "jetstream"),
            ("nats://a?prefix=_x", "prefix"),
            ("nats://a?streams=S", "ORDERS:orders"),
            ("nats://a?streams=S:a.b", "one level"),
            ("nats://a?streams=S:dlq", "reserved"),
            ("nats://a?streams=S:x,T:x", "root `x`"),
            ("nats://a?streams=S.T:x", "no name"),
            ("nats://a/b", "no path"),
            ("nats://", "needs a server"),
            ("nats://u:p@a?token=t", "one of"),
            ("nats://a?tls_cert=x", "go together"),
            ("redis://a", "redis"),
        ] {
            let error = read(dsn).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{dsn}");
            assert!(error.to_string().contains(named), "{dsn}: {error}");
        }
    }
}
