//! The backend: one client of the brokers.

use std::sync::Arc;
use std::time::Duration;

use fabric_core::{
    Ability, Backend, BackendInfo, Batch, Capabilities, Confirms, Dsn, DynAdmin, DynGroups,
    DynReplay, DynRequestReply, ErrorKind, Health, NoticeKind, Notices, ReplayBackend,
    ReplayOptions, Result, SubscribeOptions, Subscription, Support,
};
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::config::KafkaConfig;
use crate::connection::{Connection, closed};

/// Event Fabric over Apache Kafka: a client of its brokers. Clones are the same client.
#[derive(Clone, Debug)]
pub struct Kafka {
    connection: Arc<Connection>,
}

/// What the brokers keep.
const NATIVE: &[Ability] = &[
    Ability::Persist,
    Ability::Durable,
    Ability::FanOut,
    Ability::Groups,
    Ability::DeadLetters,
    Ability::Confirm,
    Ability::AckConfirmed,
    Ability::OrderKey,
    Ability::OrderKeyAcrossMembers,
    Ability::StartAll,
    Ability::StartLast,
    Ability::StartLastPerTopic,
    Ability::StartTime,
    Ability::StartPosition,
    Ability::Replay,
    Ability::GroupDefine,
    Ability::GroupRedefine,
    Ability::GroupReset,
    Ability::GroupDelete,
    Ability::GroupList,
    Ability::GroupInfo,
    Ability::GroupSend,
    Ability::TopicList,
    Ability::TopicInfo,
    Ability::Purge,
    Ability::Trim,
];

/// What this client does in their place.
const EMULATED: &[Ability] = &[
    Ability::Nack,
    Ability::NackDelay,
    Ability::Lease,
    Ability::Extend,
    Ability::Attempts,
    Ability::Ttl,
    Ability::Delay,
    Ability::Prefetch,
];

/// How many bytes of headers an event may have.
const MAX_HEADERS: usize = 32 * 1024;
/// What an event takes beside its payload, at most.
const MAX_ENVELOPE: usize = MAX_HEADERS + 8 * 1024;

impl Kafka {
    /// Connects as `config` says; resolves once a broker has answered.
    ///
    /// # Errors
    /// `Config`, `Connect`, `Unauthorized`, `Timeout`.
    ///
    /// # Cancel safety
    /// Nothing stays behind.
    pub async fn new(config: KafkaConfig) -> Result<Self> {
        Ok(Self { connection: Connection::open(config).await? })
    }

    /// Connects to the brokers that `dsn` names.
    ///
    /// # Errors
    /// As [`KafkaConfig`] reads the DSN, and as [`new`](Self::new).
    ///
    /// # Cancel safety
    /// As [`new`](Self::new).
    pub async fn connect(dsn: Dsn) -> Result<Self> {
        Self::new(KafkaConfig::try_from(&dsn)?).await
    }

    pub(crate) const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Backend for Kafka {
    fn info(&self) -> &BackendInfo {
        &self.connection.info
    }

    fn capabilities(&self) -> Capabilities {
        let connection = &self.connection;
        let partitions = connection.config.partitions.unwrap_or(connection.default_partitions);
        // Over several partitions there is no order.
        let one_each = partitions == 1 && !connection.catalogue().has_partitioned();
        let order = if one_each { Support::Native } else { Support::No };
        let create = connection.config.create_topics;
        let create = if create { Support::Native } else { Support::No };
        let payload = connection.limit.saturating_sub(MAX_ENVELOPE);
        Capabilities::NONE
            .with_all(NATIVE, Support::Native)
            .with_all(EMULATED, Support::Emulated)
            .with(Ability::OrderTopic, order)
            .with(Ability::AutoCreate, create)
            .with_max_payload(Some(payload))
            .with_max_headers(Some(MAX_HEADERS))
            .with_time_granularity(Duration::from_millis(1))
    }

    fn notices(&self) -> Notices {
        self.connection.notices.listen()
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if self.connection.check_open().is_err() {
            return Err(batch);
        }
        self.connection.publisher.try_submit(batch)
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.connection.publisher.submit(&self.connection, batch).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        self.connection.check_open()?;
        self.connection.join(options).await
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        Some(self)
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        None
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        Some(self)
    }

    fn admin(&self) -> Option<&dyn DynAdmin> {
        Some(self)
    }

    async fn health(&self) -> Health {
        let began = std::time::Instant::now();
        if self.connection.check_open().is_err() {
            return Health::down(began.elapsed(), closed().message());
        }
        match self.connection.blocking(|connection| connection.refresh()).await {
            Ok(catalogue) => {
                let topics = catalogue.iter().count();
                Health::up(began.elapsed()).with("topics", topics)
            }
            Err(error) => Health::down(began.elapsed(), format!("{error:#}")),
        }
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        if !self.connection.shut() {
            return Ok(());
        }
        let now = Instant::now();
        let until =
            now.checked_add(deadline).unwrap_or_else(|| fabric_core::clock::far_future(now));
        let subscriptions = self.connection.subscriptions();
        let left = join_all(subscriptions.into_iter().map(|open| open.close(until))).await;
        let published = self.connection.publisher.close(until).await;
        self.connection.notices.send(NoticeKind::Closed);
        let failed = left.into_iter().chain([published]).find_map(Result::err);
        match failed {
            Some(error) if error.kind() == ErrorKind::Timeout => Err(error),
            _ => Ok(()),
        }
    }
}

impl ReplayBackend for Kafka {
    async fn replay(&self, options: ReplayOptions) -> Result<Subscription> {
        self.connection.replay(options).await
    }
}
