//! JetStream's own requests: what is asked and what is answered, as far as it is needed here.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{Client, Request};
use fabric_core::{Error, ErrorKind, Result, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::error::{self, ApiError, Failure};

/// How long the answer to a look may take before it is asked for once more.
const TRY: Duration = Duration::from_secs(2);

/// The way to JetStream of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) client: Client,
    pub(crate) root: String,
    pub(crate) timeout: Duration,
}

/// The root of JetStream's subjects in a domain.
pub(crate) fn root(domain: Option<&str>) -> String {
    domain.map_or_else(|| "$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"))
}

/// A stream as the server tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StreamInfo {
    pub(crate) config: StreamConfig,
    pub(crate) created: Timestamp,
    pub(crate) state: StreamState,
    #[serde(default)]
    pub(crate) total: usize,
    #[serde(default)]
    pub(crate) offset: usize,
}

impl StreamInfo {
    /// Which life of the stream it is.
    pub(crate) fn incarnation(&self) -> u64 {
        self.created.as_nanos().unsigned_abs()
    }
}

/// A stream's settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StreamConfig {
    pub(crate) name: String,
    pub(crate) subjects: Vec<String>,
    pub(crate) retention: String,
    pub(crate) max_consumers: i64,
    pub(crate) max_msgs: i64,
    pub(crate) max_bytes: i64,
    pub(crate) max_age: u64,
    pub(crate) max_msgs_per_subject: i64,
    pub(crate) max_msg_size: i64,
    pub(crate) discard: String,
    pub(crate) storage: String,
    pub(crate) num_replicas: usize,
    pub(crate) duplicate_window: u64,
    pub(crate) allow_direct: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) allow_msg_ttl: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) allow_msg_schedules: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_ack: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) sealed: bool,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub(crate) metadata: HashMap<String, String>,
    /// What is not needed here, so that a change leaves it as it was.
    #[serde(flatten)]
    pub(crate) rest: HashMap<String, Value>,
}

impl StreamConfig {
    /// Whether it drops events that groups may not have read.
    pub(crate) fn forgets(&self) -> bool {
        let limits = [self.max_msgs, self.max_bytes, self.max_msgs_per_subject];
        (self.discard == "old" && limits.iter().any(|limit| *limit > 0)) || self.max_age > 0
    }
}

/// What a stream holds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamState {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) subjects: HashMap<String, u64>,
}

/// A consumer's settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConsumerConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) durable_name: Option<String>,
    pub(crate) deliver_policy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) opt_start_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) opt_start_time: Option<Timestamp>,
    pub(crate) ack_policy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ack_wait: Option<u64>,
    pub(crate) max_deliver: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) filter_subject: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) filter_subjects: Vec<String>,
    pub(crate) replay_policy: String,
    pub(crate) max_ack_pending: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inactive_threshold: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) mem_storage: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) headers_only: bool,
    pub(crate) num_replicas: usize,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub(crate) metadata: HashMap<String, String>,
}

/// A place in a stream and in a consumer.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Sequences {
    pub(crate) stream_seq: u64,
}

/// A consumer as the server tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ConsumerInfo {
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    pub(crate) config: ConsumerConfig,
    pub(crate) delivered: Sequences,
    pub(crate) ack_floor: Sequences,
    #[serde(default)]
    pub(crate) num_ack_pending: u64,
    #[serde(default)]
    pub(crate) num_pending: u64,
}

/// A stored event, without its contents.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StoredMessage {
    pub(crate) subject: String,
    pub(crate) seq: u64,
    pub(crate) time: Timestamp,
}

/// How a consumer is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// It must not be there with other settings.
    Create,
    /// It must be there.
    Update,
}

impl Api {
    pub(crate) async fn stream(&self, name: &str) -> Result<StreamInfo> {
        self.look(&format!("STREAM.INFO.{name}")).await
    }

    /// A stream with how many events lie at each subject that `filter` matches.
    pub(crate) async fn subjects(&self, name: &str, filter: &str) -> Result<HashMap<String, u64>> {
        let subject = format!("STREAM.INFO.{name}");
        let mut all = HashMap::new();
        loop {
            let ask = serde_json::json!({ "subjects_filter": filter, "offset": all.len() });
            let info: StreamInfo = self.ask(&subject, &ask).await?;
            let count = info.state.subjects.len();
            all.extend(info.state.subjects);
            if count == 0 || info.offset + count >= info.total {
                return Ok(all);
            }
        }
    }

    pub(crate) async fn create_stream(&self, config: &StreamConfig) -> Result<StreamInfo> {
        self.ask(&format!("STREAM.CREATE.{}", config.name), config).await
    }

    pub(crate) async fn update_stream(&self, config: &StreamConfig) -> Result<StreamInfo> {
        self.ask(&format!("STREAM.UPDATE.{}", config.name), config).await
    }

    /// Drops events; returns how many.
    pub(crate) async fn purge(&self, name: &str, what: &Value) -> Result<u64> {
        #[derive(Deserialize)]
        struct Purged {
            purged: u64,
        }
        let purged: Purged = self.ask(&format!("STREAM.PURGE.{name}"), what).await?;
        Ok(purged.purged)
    }

    /// One stored event: `{"seq": 5}`, `{"last_by_subj": ".."}`, `{"seq": 1, "next_by_subj": ".."}`.
    pub(crate) async fn message(&self, name: &str, which: &Value) -> Result<Option<StoredMessage>> {
        #[derive(Deserialize)]
        struct Found {
            message: StoredMessage,
        }
        match self.ask::<Found>(&format!("STREAM.MSG.GET.{name}"), which).await {
            Ok(found) => Ok(Some(found.message)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn make_consumer(
        &self,
        stream: &str,
        config: &ConsumerConfig,
        action: Action,
    ) -> Result<ConsumerInfo> {
        let name = config.name.as_deref().unwrap_or_default();
        let ask = serde_json::json!({ "stream_name": stream, "config": config, "action": action });
        self.ask(&format!("CONSUMER.CREATE.{stream}.{name}"), &ask).await
    }

    pub(crate) async fn consumer(&self, stream: &str, name: &str) -> Result<ConsumerInfo> {
        self.look(&format!("CONSUMER.INFO.{stream}.{name}")).await
    }

    pub(crate) async fn delete_consumer(&self, stream: &str, name: &str) -> Result<()> {
        self.ask::<Value>(&format!("CONSUMER.DELETE.{stream}.{name}"), &()).await.map(drop)
    }

    /// Every consumer of a stream.
    pub(crate) async fn consumers(&self, stream: &str) -> Result<Vec<ConsumerInfo>> {
        #[derive(Deserialize)]
        struct Page {
            total: usize,
            #[serde(default)]
            consumers: Option<Vec<ConsumerInfo>>,
        }
        let mut all = Vec::new();
        loop {
            let ask = serde_json::json!({ "offset": all.len() });
            let page: Page = self.ask(&format!("CONSUMER.LIST.{stream}"), &ask).await?;
            let found = page.consumers.unwrap_or_default();
            let done = found.is_empty();
            all.extend(found);
            if done || all.len() >= page.total {
                return Ok(all);
            }
        }
    }

    /// Where a pull for a consumer goes.
    pub(crate) fn next(&self, stream: &str, consumer: &str) -> String {
        format!("{}.CONSUMER.MSG.NEXT.{stream}.{consumer}", self.root)
    }

    /// Asks what changes nothing, and once more where no answer comes: while a cluster chooses who
    /// answers, nobody does.
    async fn look<T: DeserializeOwned>(&self, what: &str) -> Result<T> {
        let began = Instant::now();
        let tries = Self { timeout: self.timeout.min(TRY), ..self.clone() };
        loop {
            match tries.ask(what, &()).await {
                Err(error)
                    if error.kind() == ErrorKind::Timeout && began.elapsed() < self.timeout => {}
                answer => return answer,
            }
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        with: &(impl Serialize + Sync),
    ) -> Result<T> {
        #[derive(Deserialize)]
        struct Refusal {
            error: ApiError,
        }
        let describe = |error: Error| error.with("asked", what);
        let body = serde_json::to_vec(with).map_err(|error| describe(unreadable(error)))?;
        let body = if body == b"null" { Vec::new() } else { body };
        let request = Request::new().payload(body.into()).timeout(Some(self.timeout));
        let subject = format!("{}.{what}", self.root);
        let answer = self.client.send_request(subject, request).await;
        let answer =
            answer.map_err(|error| describe(error::from(&Failure::Request(error.kind()))))?;
        if let Ok(refusal) = serde_json::from_slice::<Refusal>(&answer.payload) {
            return Err(describe(error::from(&Failure::Api(&refusal.error))));
        }
        serde_json::from_slice(&answer.payload).map_err(|error| describe(unreadable(error)))
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Backend, "what JetStream said cannot be read")
        .with_backend("nats")
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_and_written_back_as_it_was() {
        let json = r#"{"config":{"name":"S","subjects":["a.>"],"retention":"limits",
            "max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msgs_per_subject":-1,
            "max_msg_size":-1,"discard":"old","storage":"file","num_replicas":1,
            "duplicate_window":120000000000,"allow_direct":true,"mirror_direct":false,
            "consumer_limits":{},"compression":"s2"},"created":"2026-01-01T00:00:00.000000001Z",
            "state":{"messages":1,"bytes":2,"first_seq":3,"last_seq":4,"first_ts":"x"}}"#;
        let info: StreamInfo = serde_json::from_str(json).unwrap();
        assert_eq!((info.config.name.as_str(), info.state.last_seq), ("S", 4));
        assert_eq!(info.incarnation() % 10, 1);
        let written = serde_json::to_value(&info.config).unwrap();
        assert_eq!(written["compression"], "s2");
        assert_eq!(written["max_msgs"], -1);
    }

    #[test]
    fn a_domain_has_a_root_of_its_own() {
        assert_eq!(root(None), "$JS.API");
        assert_eq!(root(Some("hub")), "$JS.hub.API");
    }
}
