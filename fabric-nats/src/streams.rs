//! Streams: made where they are not there, checked where they are, and never altered unasked.

use std::collections::HashMap;
use std::time::Duration;

use fabric_core::{Error, ErrorKind, Result};

use crate::api::{StreamConfig, StreamInfo};
use crate::config::{Discard, NatsConfig, Storage};
use crate::connection::Epoch;
use crate::hub::Hub;
use crate::layout::{StreamSpec, contains};

/// How long a dead letter is recognised at least: longer than most leases.
const LETTERS_WINDOW: Duration = Duration::from_secs(3600);

/// The oldest server with consumers of several filters; older ones take them for none.
const OLDEST: (u64, u64) = (2, 10);

/// What the server and its streams can do beside keeping events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// Events leave the stream when their time is over.
    pub(crate) ttl: bool,
    /// Events wait until they are due.
    pub(crate) due: bool,
    /// The same id is recognised.
    pub(crate) dedup: bool,
    /// What fits into one message, headers and payload together.
    pub(crate) max_message: usize,
}

impl Hub {
    /// Sees to it that every stream is there; notes which life of each it is.
    ///
    /// # Errors
    /// `Unsupported` where JetStream is not enabled, `NotFound` where a stream is missing and may
    /// not be made, `AlreadyExists` where one is in the way, `Unauthorized`, `Connect`, `Timeout`.
    pub(crate) async fn ensure_streams(&self, epoch: &Epoch) -> Result<()> {
        if !epoch.info.jetstream {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "JetStream is not enabled on this server: enable it in the server's \
                 configuration, or connect with `mode=core`, which keeps nothing",
            )
            .with_backend("nats"));
        }
        if !epoch.is_at_least(OLDEST.0, OLDEST.1) {
            let version = &epoch.info.version;
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the server is of version {version}, which is too old for groups: update it to \
                     {}.{} or later, or connect with `mode=core`, which keeps nothing",
                    OLDEST.0, OLDEST.1
                ),
            )
            .with_backend("nats"));
        }
        let mut abilities =
            Abilities { ttl: true, due: true, dedup: true, max_message: epoch.info.max_payload };
        for (n, spec) in self.layout.streams.iter().enumerate() {
            let info = self.ensure_stream(epoch, spec).await?;
            self.set_life(n, info.incarnation());
            if spec.unlimited {
                continue;
            }
            abilities.ttl &= info.config.allow_msg_ttl;
            abilities.due &= info.config.allow_msg_schedules && n == self.layout.home;
            abilities.dedup &= info.config.duplicate_window > 0;
            if let Ok(most @ 1..) = usize::try_from(info.config.max_msg_size) {
                abilities.max_message = abilities.max_message.min(most);
            }
        }
        self.set_abilities(abilities);
        Ok(())
    }

    async fn ensure_stream(&self, epoch: &Epoch, spec: &StreamSpec) -> Result<StreamInfo> {
        let (api, name) = (&epoch.api, spec.name.as_str());
        let describe = |error: Error| error.with("stream", name);
        let subject = |verb: &str| format!("{}.STREAM.{verb}.{name}", api.root);
        let found = epoch.allowed(&subject("INFO"), api.stream(name)).await;
        let info = match found {
            Ok(info) => info,
            Err(error) if error.kind() == ErrorKind::NotFound && self.config.create => {
                let config = wanted(&self.config, spec, epoch);
                match epoch.allowed(&subject("CREATE"), api.create_stream(&config)).await {
                    Ok(info) => return Ok(info),
                    // Somebody else was faster.
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        api.stream(name).await.map_err(|_| describe(error))?
                    }
                    Err(error) => return Err(describe(error)),
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(describe(Error::new(
                    ErrorKind::NotFound,
                    format!("the stream `{name}` is not there, and `create=false` says not to make it"),
                )
                .with_backend("nats")));
            }
            Err(error) => return Err(describe(error)),
        };
        let info = if self.config.alter {
            self.altered(epoch, spec, info).await.map_err(describe)?
        } else {
            info
        };
        usable(spec, &info.config).map_err(describe)?;
        Ok(info)
    }

    /// The stream as it is wanted, where it is not already.
    async fn altered(
        &self,
        epoch: &Epoch,
        spec: &StreamSpec,
        info: StreamInfo,
    ) -> Result<StreamInfo> {
        let asked = wanted(&self.config, spec, epoch);
        let mut config = info.config.clone();
        for subject in &asked.subjects {
            if !config.subjects.iter().any(|known| contains(known, subject)) {
                config.subjects.push(subject.clone());
            }
        }
        config.max_msgs = asked.max_msgs;
        config.max_bytes = asked.max_bytes;
        config.max_age = asked.max_age;
        config.max_msgs_per_subject = asked.max_msgs_per_subject;
        config.discard = asked.discard;
        config.num_replicas = asked.num_replicas;
        config.duplicate_window = asked.duplicate_window;
        config.allow_msg_ttl |= asked.allow_msg_ttl;
        config.allow_msg_schedules |= asked.allow_msg_schedules;
        if config == info.config {
            return Ok(info);
        }
        epoch.api.update_stream(&config).await
    }
}

/// A stream as this configuration would make it.
fn wanted(config: &NatsConfig, spec: &StreamSpec, epoch: &Epoch) -> StreamConfig {
    let limit = |most: Option<u64>| most.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1);
    let limited = !spec.unlimited;
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let discard = match (limited, config.discard) {
        (true, Discard::Old) => "old",
        (false, _) | (true, Discard::New) => "new",
    };
    let storage = match config.storage {
        Storage::File => "file",
        Storage::Memory => "memory",
    };
    let max_age = config.max_age.filter(|_| limited).map_or(0, nanos);
    // A letter whose original was not settled comes again when that does.
    let window =
        if limited { config.dedup_window } else { config.dedup_window.max(LETTERS_WINDOW) };
    let mut window = nanos(window);
    if max_age > 0 {
        window = window.min(max_age);
    }
    StreamConfig {
        name: spec.name.clone(),
        subjects: spec.subjects.clone(),
        retention: "limits".to_owned(),
        max_consumers: -1,
        max_msgs: limit(config.max_events.filter(|_| limited)),
        max_bytes: limit(config.max_bytes.filter(|_| limited)),
        max_msgs_per_subject: limit(config.max_events_per_topic.filter(|_| limited)),
        max_age,
        max_msg_size: -1,
        discard: discard.to_owned(),
        storage: storage.to_owned(),
        num_replicas: config.replicas,
        duplicate_window: window,
        allow_direct: true,
        allow_msg_ttl: limited && epoch.is_at_least(2, 11),
        // The server refuses schedules in a stream that refuses new events.
        allow_msg_schedules: limited
            && !spec.listed
            && config.discard == Discard::Old
            && epoch.is_at_least(2, 12),
        metadata: HashMap::from([("fabric.v".to_owned(), "1".to_owned())]),
        ..StreamConfig::default()
    }
}

/// Whether a stream that is there serves.
fn usable(spec: &StreamSpec, config: &StreamConfig) -> Result<()> {
    let refuse =
        |text: String| Err(Error::new(ErrorKind::AlreadyExists, text).with_backend("nats"));
    let missing: Vec<&str> = spec
        .subjects
        .iter()
        .filter(|subject| !config.subjects.iter().any(|known| contains(known, subject)))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        return refuse(format!(
            "the stream `{}` is there and keeps {} only; it has to keep {} too: add that, or \
             connect with `alter=true`",
            spec.name,
            config.subjects.join(", "),
            missing.join(", "),
        ));
    }
    if config.no_ack {
        return refuse(format!("the stream `{}` has `no_ack`: it confirms nothing", spec.name));
    }
    if config.sealed {
        return refuse(format!("the stream `{}` is sealed: it takes nothing any more", spec.name));
    }
    if config.retention != "limits" {
        return refuse(format!(
            "the stream `{}` has the retention `{}`: groups would take events from each other; \
             it needs `limits`",
            spec.name, config.retention
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> StreamSpec {
        StreamSpec {
            name: "S".to_owned(),
            subjects: vec!["a".to_owned(), "a.>".to_owned()],
            listed: true,
            unlimited: false,
        }
    }

    #[test]
    fn a_stream_that_keeps_half_of_it_is_refused_and_says_what_is_missing() {
        let mut config = StreamConfig {
            name: "S".to_owned(),
            subjects: vec!["a.>".to_owned()],
            retention: "limits".to_owned(),
            ..StreamConfig::default()
        };
        let error = usable(&spec(), &config).unwrap_err();
        assert!(error.to_string().contains("has to keep a too"), "{error}");
        config.subjects.push("a".to_owned());
        usable(&spec(), &config).unwrap();
        config.retention = "workqueue".to_owned();
        assert!(usable(&spec(), &config).unwrap_err().to_string().contains("workqueue"));
        config.retention = "limits".to_owned();
        config.no_ack = true;
        assert!(usable(&spec(), &config).is_err());
    }
}
