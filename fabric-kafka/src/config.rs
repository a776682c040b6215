//! What a client is told: where the brokers are, how topics are made, how groups behave.

use std::path::PathBuf;
use std::time::Duration;

use fabric_core::{Dsn, Error, ErrorKind, Prefix, Result, Secret};
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::error::NAME;

/// The DSN schemes of this backend.
pub const SCHEMES: &[&str] = &["kafka"];

/// How a client shows who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Security {
    /// SASL PLAIN: the password as it is; for TLS only.
    Plain,
    /// SASL SCRAM with SHA-256.
    ScramSha256,
    /// SASL SCRAM with SHA-512, the default.
    #[default]
    ScramSha512,
}

impl Security {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// How batches are compressed on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Compression {
    /// Not at all, the default.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How a group's event comes again after a nack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RetryMode {
    /// As a copy in a topic of the group's own: others flow meanwhile, whichever member is free
    /// takes it, and its attempts outlive every crash. It may come behind later events of its key.
    #[default]
    Topic,
    /// From where it lies: nothing later of its partition is handed out before it. Its attempts are
    /// kept with the group's place, so that a crash may forget the last one.
    InPlace,
}

/// Where the brokers are and how to behave there. Every field has a default but the first.
///
/// DSN: `kafka://user:password@host:9092,host:9092`, `kafka+tls://…` for TLS. Options: `prefix`,
/// `client_id`, `sasl`, `ca`, `certificate`, `key`, `create_topics`, `partitions`, `replication`,
/// `retention`, `linger`, `compression`, `max_in_flight`, `queue_bytes`, `publish_timeout`,
/// `connect_timeout`, `request_timeout`, `idle_timeout`, `discovery`, `prefetch`, `session_timeout`,
/// `commit_interval`, `handover`, `retry`, `instance`.
///
/// ```
/// use fabric_kafka::KafkaConfig;
/// let config = KafkaConfig::new(["localhost:9092"]).with_partitions(Some(12));
/// assert_eq!(config.partitions, Some(12));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KafkaConfig {
    /// `host:port` of the brokers to begin with.
    pub servers: Vec<String>,
    /// The user; none: no SASL.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// How the user shows who it is. Default SCRAM-SHA-512.
    pub sasl: Security,
    /// Whether links are encrypted. Default: no.
    pub tls: bool,
    /// A file with the certificates to trust; default: the system's.
    pub ca: Option<PathBuf>,
    /// A file with the client's own certificate, for TLS on both sides.
    pub certificate: Option<PathBuf>,
    /// A file with the key of that certificate.
    pub key: Option<PathBuf>,
    /// What everything on the broker begins with; none: nothing.
    pub prefix: Option<Prefix>,
    /// What the client calls itself; default: a name of its own.
    pub client_id: Option<String>,
    /// Whether a topic is made by the first event. Default: yes.
    pub create_topics: bool,
    /// How many partitions a topic is made with; default: as the broker says.
    pub partitions: Option<u32>,
    /// How many replicas a topic is made with; default: as the broker says.
    pub replication: Option<u16>,
    /// How long a topic that is made keeps events; default: as the broker says.
    pub retention: Option<Duration>,
    /// How long an event waits for others to share a request with. Default: not at all.
    pub linger: Duration,
    /// How batches are compressed. Default: not at all.
    pub compression: Compression,
    /// The most events that are not confirmed yet; publishers wait then. Default 16 384.
    pub max_in_flight: usize,
    /// The most bytes of such events. Default 64 MiB.
    pub queue_bytes: u64,
    /// For how long an event is tried before its publish fails. Default 2 min.
    pub publish_timeout: Duration,
    /// How long connecting, and any call that asks the broker, may take. Default 5 s.
    pub connect_timeout: Duration,
    /// After what a request that the broker does not answer is given up, and its connection with it.
    /// Default 30 s.
    pub request_timeout: Duration,
    /// After what a connection that is not used is closed; default: as the broker says.
    pub idle_timeout: Option<Duration>,
    /// Within what new topics are found. Default 1 s.
    pub discovery: Duration,
    /// The most events that a subscription holds unsettled, without a group unread. Default 1024.
    pub prefetch: usize,
    /// After what a silent member counts as dead. Default 6 s.
    pub session_timeout: Duration,
    /// The least time between two commits of one member. Default 10 ms.
    pub commit_interval: Duration,
    /// How long a partition that moves to another member waits for what is held of it. Default 60 s.
    pub handover: Duration,
    /// How a nacked event comes again. Default: by a topic of the group's.
    pub retry: RetryMode,
    /// A name by which members that restart take up their partitions again, without a rebalance:
    /// static membership. Default: none.
    pub instance: Option<String>,
}

macro_rules! setters {
    ($($(#[doc = $doc:literal])+ $setter:ident $field:ident: $type:ty;)+) => {
        $($(#[doc = $doc])+
        #[must_use]
        pub fn $setter(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        })+
    };
}

impl KafkaConfig {
    /// A client of the brokers at `servers`, with the defaults.
    #[must_use]
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            user: None,
            password: None,
            sasl: Security::default(),
            tls: false,
            ca: None,
            certificate: None,
            key: None,
            prefix: None,
            client_id: None,
            create_topics: true,
            partitions: None,
            replication: None,
            retention: None,
            linger: Duration::ZERO,
            compression: Compression::None,
            max_in_flight: 16_384,
            queue_bytes: 64 << 20,
            publish_timeout: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            idle_timeout: None,
            discovery: Duration::from_secs(1),
            prefetch: 1024,
            session_timeout: Duration::from_secs(6),
            commit_interval: Duration::from_millis(10),
            handover: Duration::from_secs(60),
            retry: RetryMode::default(),
            instance: None,
        }
    }

    /// Sets user and password.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self.password = Some(Secret::new(password));
        self
    }

    setters! {
        /// Sets how the user shows who it is.
        with_sasl sasl: Security;
        /// Sets whether links are encrypted.
        with_tls tls: bool;
        /// Sets the file with the certificates to trust.
        with_ca ca: Option<PathBuf>;
        /// Sets the file with the client's own certificate.
        with_certificate certificate: Option<PathBuf>;
        /// Sets the file with the key of that certificate.
        with_key key: Option<PathBuf>;
        /// Sets what everything on the broker begins with.
        with_prefix prefix: Option<Prefix>;
        /// Sets what the client calls itself.
        with_client_id client_id: Option<String>;
        /// Sets whether a topic is made by the first event.
        with_create_topics create_topics: bool;
        /// Sets how many partitions a topic is made with.
        with_partitions partitions: Option<u32>;
        /// Sets how many replicas a topic is made with.
        with_replication replication: Option<u16>;
        /// Sets how long a topic that is made keeps events.
        with_retention retention: Option<Duration>;
        /// Sets how long an event waits for others to share a request with.
        with_linger linger: Duration;
        /// Sets how batches are compressed.
        with_compression compression: Compression;
        /// Sets the most events that are not confirmed yet.
        with_max_in_flight max_in_flight: usize;
        /// Sets the most bytes of such events.
        with_queue_bytes queue_bytes: u64;
        /// Sets for how long an event is tried.
        with_publish_timeout publish_timeout: Duration;
        /// Sets how long connecting may take.
        with_connect_timeout connect_timeout: Duration;
        /// Sets after what a request that is not answered is given up.
        with_request_timeout request_timeout: Duration;
        /// Sets after what a connection that is not used is closed.
        with_idle_timeout idle_timeout: Option<Duration>;
        /// Sets within what new topics are found.
        with_discovery discovery: Duration;
        /// Sets the most events that a subscription holds.
        with_prefetch prefetch: usize;
        /// Sets after what a silent member counts as dead.
        with_session_timeout session_timeout: Duration;
        /// Sets the least time between two commits.
        with_commit_interval commit_interval: Duration;
        /// Sets how long a moving partition waits for what is held of it.
        with_handover handover: Duration;
        /// Sets how a nacked event comes again.
        with_retry retry: RetryMode;
        /// Sets the name for static membership.
        with_instance instance: Option<String>;
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// `Config`, naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.servers.is_empty() {
            return Err(refuse("no broker is named, as in `kafka://localhost:9092`"));
        }
        let zero = [
            ("partitions", self.partitions == Some(0)),
            ("replication", self.replication == Some(0)),
            ("max_in_flight", self.max_in_flight == 0),
            ("queue_bytes", self.queue_bytes == 0),
            ("publish_timeout", self.publish_timeout < Duration::from_millis(1)),
            ("connect_timeout", self.connect_timeout < Duration::from_millis(1)),
            ("request_timeout", self.request_timeout < Duration::from_millis(10)),
            ("discovery", self.discovery < Duration::from_millis(1)),
            ("prefetch", self.prefetch == 0),
            ("session_timeout", self.session_timeout < Duration::from_millis(1)),
        ];
        if let Some((field, _)) = zero.iter().find(|(_, zero)| *zero) {
            return Err(refuse(format!("`{field}` is 0")));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err(refuse("`certificate` and `key` belong together"));
        }
        if !self.tls && (self.ca.is_some() || self.certificate.is_some()) {
            return Err(refuse("`ca` and `certificate` are for `kafka+tls://`"));
        }
        Ok(())
    }

    /// What every client of the library is made with.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        let protocol = match (self.tls, self.user.is_some()) {
            (false, false) => "PLAINTEXT",
            (true, false) => "SSL",
            (false, true) => "SASL_PLAINTEXT",
            (true, true) => "SASL_SSL",
        };
        let within = |least, most| self.request_timeout.as_millis().clamp(least, most);
        config
            .set("bootstrap.servers", self.servers.join(","))
            .set("security.protocol", protocol)
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", within(10, 300_000).to_string())
            .set("socket.connection.setup.timeout.ms", within(1000, 30_000).to_string())
            .set("allow.auto.create.topics", "false");
        if let Some(idle) = self.idle_timeout {
            config.set("connections.max.idle.ms", idle.as_millis().to_string());
        }
        if let Some(client_id) = &self.client_id {
            config.set("client.id", client_id);
        }
        if let Some(user) = &self.user {
            config.set("sasl.mechanism", self.sasl.as_str()).set("sasl.username", user);
            if let Some(password) = &self.password {
                config.set("sasl.password", password.reveal());
            }
        }
        let files = [
            ("ssl.ca.location", &self.ca),
            ("ssl.certificate.location", &self.certificate),
            ("ssl.key.location", &self.key),
        ];
        for (key, file) in files {
            if let Some(file) = file {
                config.set(key, file.display().to_string());
            }
        }
        config
    }
}

impl TryFrom<&Dsn> for KafkaConfig {
    type Error = Error;

    fn try_from(dsn: &Dsn) -> Result<Self> {
        let tls = match (dsn.scheme(), dsn.transport()) {
            ("kafka", None) => false,
            ("kafka", Some("tls")) => true,
            _ => return Err(refuse(format!("`{}` is not `kafka`", dsn.full_scheme()))),
        };
        if !matches!(dsn.path(), "" | "/") {
            let text = format!("`kafka` takes no path, not `{}`; use `prefix=`", dsn.path());
            return Err(refuse(text));
        }
        let servers = dsn.hosts().iter().map(|host| match host.name.contains(':') {
            true => format!("[{}]:{}", host.name, host.port_or(9092)),
            false => format!("{}:{}", host.name, host.port_or(9092)),
        });
        let mut config = Self::new(servers).with_tls(tls);
        config.user = dsn.user().map(str::to_owned);
        config.password = dsn.password().cloned();
        let mut options = dsn.options();
        macro_rules! take {
            ($take:ident $($field:ident)+) => {
                $(if let Some(value) = options.$take(stringify!($field))? {
                    config.$field = value;
                })+
            };
        }
        take!(take create_topics max_in_flight prefetch);
        take!(take_bytes queue_bytes);
        take!(take_duration linger publish_timeout connect_timeout request_timeout discovery
            session_timeout commit_interval handover);
        config.partitions = options.take("partitions")?;
        config.replication = options.take("replication")?;
        config.retention = options.take_duration("retention")?;
        config.idle_timeout = options.take_duration("idle_timeout")?;
        config.client_id = options.take::<String>("client_id")?;
        config.instance = options.take::<String>("instance")?;
        config.ca = options.take::<String>("ca")?.map(PathBuf::from);
        config.certificate = options.take::<String>("certificate")?.map(PathBuf::from);
        config.key = options.take::<String>("key")?.map(PathBuf::from);
        config.prefix = options.take::<String>("prefix")?.map(Prefix::new).transpose()?;
        let sasl = [
            ("plain", Security::Plain),
            ("scram-sha-256", Security::ScramSha256),
            ("scram-sha-512", Security::ScramSha512),
        ];
        config.sasl = options.take_enum("sasl", &sasl)?.unwrap_or(config.sasl);
        let codecs = [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ]
        .map(|codec| (codec.as_str(), codec));
        config.compression = options.take_enum("compression", &codecs)?.unwrap_or_default();
        let retry = [("topic", RetryMode::Topic), ("in_place", RetryMode::InPlace)];
        config.retry = options.take_enum("retry", &retry)?.unwrap_or_default();
        options.finish()?;
        config.validate()?;
        Ok(config)
    }
}

fn refuse(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, text).with_backend(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dsn: &str) -> Result<KafkaConfig> {
        KafkaConfig::try_from(&Dsn::parse(dsn)?)
    }

    #[test]
    fn every_option_is_read() {
        let config = read(
            "kafka+tls://u:p%40@a:1,b,[::1]:2?prefix=x&client_id=me&sasl=plain&ca=/ca&certificate=/c\
             &key=/k&create_topics=false&partitions=3&replication=2&retention=1h&linger=5ms\
             &compression=zstd&max_in_flight=7&queue_bytes=1MiB&publish_timeout=9s\
             &connect_timeout=8s&request_timeout=7s&idle_timeout=4m&discovery=2s&prefetch=11&session_timeout=10s&commit_interval=1s\
             &handover=3s&retry=in_place&instance=one",
        )
        .unwrap();
        let secs = Duration::from_secs;
        let expected = KafkaConfig::new(["a:1", "b:9092", "[::1]:2"])
            .with_user("u", "p@")
            .with_tls(true)
            .with_prefix(Some(Prefix::new("x").unwrap()))
            .with_client_id(Some("me".into()))
            .with_sasl(Security::Plain)
            .with_ca(Some("/ca".into()))
            .with_certificate(Some("/c".into()))
            .with_key(Some("/k".into()))
            .with_create_topics(false)
            .with_partitions(Some(3))
            .with_replication(Some(2))
            .with_retention(Some(secs(3600)))
            .with_linger(Duration::from_millis(5))
            .with_compression(Compression::Zstd)
            .with_max_in_flight(7)
            .with_queue_bytes(1 << 20)
            .with_publish_timeout(secs(9))
            .with_connect_timeout(secs(8))
            .with_request_timeout(secs(7))
            .with_idle_timeout(Some(secs(240)))
            .with_discovery(secs(2))
            .with_prefetch(11)
            .with_session_timeout(secs(10))
            .with_commit_interval(secs(1))
            .with_handover(secs(3))
            .with_retry(RetryMode::InPlace)
            .with_instance(Some("one".into()));
        assert_eq!(config, expected);
        assert!(!format!("{config:?}").contains("p@"), "a password prints");
        assert_eq!(read("kafka://a").unwrap(), KafkaConfig::new(["a:9092"]));
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_named() {
        for (dsn, named) in [
            ("kafka://a?partition=3", "partitions"),
            ("kafka://a?partitions=0", "partitions"),
            ("kafka://a?sasl=kerberos", "scram-sha-256"),
            ("kafka://a?compression=rar", "zstd"),
            ("kafka://a?ca=/x", "kafka+tls"),
            ("kafka+tls://a?key=/x", "belong together"),
            ("kafka://", "no broker"),
            ("kafka://a/b", "no path"),
            ("kafka+udp://a", "kafka+udp"),
        ] {
            let error = read(dsn).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{dsn}: {error}");
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
