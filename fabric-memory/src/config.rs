//! What a memory instance is told: bounds, windows and policies.

use std::time::Duration;

use fabric_core::{Dsn, Error, ErrorKind, Result, WhenFull};
use serde::{Deserialize, Serialize};

/// The DSN schemes of this backend.
pub const SCHEMES: &[&str] = &["memory"];

/// The bounds and policies of one memory instance. Every field has a default.
///
/// DSN: `memory://` is private to the fabric; `memory://orders` names an instance, so that two
/// connects in one process meet. Options: `max_events`, `max_bytes`, `max_age`, `max_payload`,
/// `max_topics`, `prefetch`, `when_full`, `full_wait`, `dedup_window`, `dedup_max`.
///
/// ```
/// use fabric_memory::MemoryConfig;
/// let config = MemoryConfig::new().with_max_events(1000);
/// assert_eq!(config.max_events, 1000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// The name of the instance; private if there is none.
    pub name: Option<String>,
    /// The most events kept per topic. Default 65 536.
    pub max_events: usize,
    /// The most bytes kept per topic, envelopes included. Default 64 MiB.
    pub max_bytes: usize,
    /// How long an event that every group has settled is kept. Default: until the other bounds.
    pub max_age: Option<Duration>,
    /// The largest payload in bytes. Default 16 MiB.
    pub max_payload: usize,
    /// The most topics. Default 1 048 576.
    pub max_topics: usize,
    /// The most events that one subscription of a group holds unsettled. Default 256.
    pub prefetch: usize,
    /// What happens where a group has not settled the oldest event of a full topic. Default: the
    /// publisher waits.
    pub when_full: WhenFull,
    /// How long a publisher waits for room before it gets `Full`. Default 10 s.
    pub full_wait: Duration,
    /// How long the same source, id and topic is recognised as a duplicate. Default: not at all.
    pub dedup_window: Option<Duration>,
    /// The most ids that the window remembers; older ones are forgotten. Default 1 048 576.
    pub dedup_max: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            name: None,
            max_events: 65_536,
            max_bytes: 64 << 20,
            max_age: None,
            max_payload: 16 << 20,
            max_topics: 1 << 20,
            prefetch: 256,
            when_full: WhenFull::Block,
            full_wait: Duration::from_secs(10),
            dedup_window: None,
            dedup_max: 1 << 20,
        }
    }
}

impl MemoryConfig {
    /// The defaults: private, 65 536 events or 64 MiB per topic.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the instance, so that others in this process meet it.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    fabric_core::setters! {
        /// Sets the most events kept per topic.
        with_max_events max_events: usize;
        /// Sets the most bytes kept per topic.
        with_max_bytes max_bytes: usize;
        /// Sets how long a settled event is kept.
        with_max_age max_age: Option<Duration>;
        /// Sets the largest payload in bytes.
        with_max_payload max_payload: usize;
        /// Sets the most topics.
        with_max_topics max_topics: usize;
        /// Sets the most events that one subscription of a group holds unsettled.
        with_prefetch prefetch: usize;
        /// Sets what happens where a group holds the oldest event of a full topic.
        with_when_full when_full: WhenFull;
        /// Sets how long a publisher waits for room.
        with_full_wait full_wait: Duration;
        /// Sets how long a duplicate is recognised.
        with_dedup_window dedup_window: Option<Duration>;
        /// Sets the most ids that the window remembers.
        with_dedup_max dedup_max: usize;
    }

    /// Refuses bounds with which nothing could be published.
    ///
    /// # Errors
    /// `Config`, naming the field.
    pub fn validate(&self) -> Result<()> {
        let bounds = [
            ("max_events", self.max_events),
            ("max_bytes", self.max_bytes),
            ("max_payload", self.max_payload),
            ("max_topics", self.max_topics),
            ("prefetch", self.prefetch),
            ("dedup_max", self.dedup_max),
        ];
        if let Some((field, _)) = bounds.iter().find(|(_, value)| *value == 0) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("`{field}` is 0; at least 1 is needed"),
            )
            .with_backend("memory"));
        }
        Ok(())
    }
}

impl TryFrom<&Dsn> for MemoryConfig {
    type Error = Error;

    fn try_from(dsn: &Dsn) -> Result<Self> {
        let refuse = |text: String| Error::new(ErrorKind::Config, text).with_backend("memory");
        if dsn.scheme() != "memory" || dsn.transport().is_some() {
            return Err(refuse(format!("`{}` is not `memory`", dsn.full_scheme())));
        }
        if dsn.user().is_some() || dsn.password().is_some() {
            return Err(refuse("`memory` takes no user or password".to_owned()));
        }
        if !matches!(dsn.path(), "" | "/") {
            return Err(refuse(format!("`memory` takes no path, not `{}`", dsn.path())));
        }
        let mut config = Self::default();
        match dsn.hosts() {
            [] => {}
            [host] if host.port.is_none() => config.name = Some(host.name.clone()),
            _ => return Err(refuse("`memory` takes one name, as in `memory://orders`".to_owned())),
        }
        let mut options = dsn.options();
        options.set("max_events", &mut config.max_events)?;
        options.set_bytes("max_bytes", &mut config.max_bytes)?;
        options.set_bytes("max_payload", &mut config.max_payload)?;
        options.set("max_age", &mut config.max_age)?;
        options.set("max_topics", &mut config.max_topics)?;
        options.set("prefetch", &mut config.prefetch)?;
        let policies = [
            ("block", WhenFull::Block),
            ("drop_oldest", WhenFull::DropOldest),
            ("drop_newest", WhenFull::DropNewest),
            ("fail", WhenFull::Fail),
        ];
        options.set_enum("when_full", &mut config.when_full, &policies)?;
        options.set("full_wait", &mut config.full_wait)?;
        options.set("dedup_window", &mut config.dedup_window)?;
        options.set("dedup_max", &mut config.dedup_max)?;
        options.finish()?;
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dsn: &str) -> Result<MemoryConfig> {
        MemoryConfig::try_from(&Dsn::parse(dsn)?)
    }

    #[test]
    fn every_option_is_read() {
        let config = read(
            "memory://orders?max_events=5&max_bytes=1MiB&max_age=1h&max_payload=2kB&max_topics=7\
             &prefetch=9&when_full=drop_oldest&full_wait=1s&dedup_window=2m&dedup_max=10",
        )
        .unwrap();
        let expected = MemoryConfig::new()
            .with_name("orders")
            .with_max_events(5)
            .with_max_bytes(1 << 20)
            .with_max_age(Some(Duration::from_secs(3600)))
            .with_max_payload(2000)
            .with_max_topics(7)
            .with_prefetch(9)
            .with_when_full(WhenFull::DropOldest)
            .with_full_wait(Duration::from_secs(1))
            .with_dedup_window(Some(Duration::from_secs(120)))
            .with_dedup_max(10);
        assert_eq!(config, expected);
        assert_eq!(read("memory://").unwrap(), MemoryConfig::default());
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_named() {
        for (dsn, named) in [
            ("memory://?max_event=5", "max_events"),
            ("memory://?max_events=0", "max_events"),
            ("memory://?when_full=maybe", "drop_oldest"),
            ("memory://a,b", "one name"),
            ("memory://a:1", "one name"),
            ("memory://user:pw@a", "no user"),
            ("memory://a/b", "no path"),
            ("redis://a", "redis"),
        ] {
            let error = read(dsn).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{dsn}");
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
