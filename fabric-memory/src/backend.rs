//! The backend: one client of an instance.

use std::sync::Arc;
use std::time::Duration;

use fabric_core::clock::Now;
use fabric_core::{
    Ability, Backend, BackendInfo, Batch, Capabilities, Confirms, Dsn, DynAdmin, DynGroups,
    DynReplay, DynRequestReply, Error, ErrorKind, Event, Health, NoticeKind, Notices,
    ReplayBackend, ReplayOptions, RequestReplyBackend, Requests, RespondOptions, Result,
    SubscribeOptions, Subscription, Support,
};
use tokio::time::Instant;

use crate::bug::Bug;
use crate::client::Client;
use crate::config::MemoryConfig;
use crate::instance::Instance;

/// Event Fabric inside one process: a client of a memory instance.
///
/// Clones are the same client; another connect to the same name is another one. An instance lives
/// as long as one of its clients.
#[derive(Clone, Debug)]
pub struct Memory {
    client: Arc<Client>,
    info: Arc<BackendInfo>,
    capabilities: Capabilities,
}

/// What memory cannot do: nothing outlives the process, and keys are ordered by one member only.
const LACKS: &[Ability] =
    &[Ability::Durable, Ability::OrderKeyAcrossMembers, Ability::LiveGroups, Ability::Transient];

impl Memory {
    /// A client of the instance that `config` names, or of a private one.
    ///
    /// ```
    /// use fabric_core::Fabric;
    /// use fabric_memory::{Memory, MemoryConfig};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> fabric_core::Result<()> {
    /// let fabric = Fabric::new(Memory::new(MemoryConfig::new())?);
    /// let mut orders = fabric.subscribe("orders.*").await?;
    /// fabric.publish(fabric_core::Event::to("orders.created").text("one")).await?;
    /// assert_eq!(orders.recv().await.unwrap()?.text()?, "one");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Config` for a bound of zero, or where the named instance exists with other options.
    pub fn new(config: MemoryConfig) -> Result<Self> {
        Self::build(config, None)
    }

    /// A client of the instance that `dsn` names.
    ///
    /// # Errors
    /// As [`MemoryConfig`] reads the DSN, and as [`new`](Self::new).
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    #[expect(clippy::unused_async, reason = "every backend connects like this")]
    pub async fn connect(dsn: Dsn) -> Result<Self> {
        Self::new(MemoryConfig::try_from(&dsn)?)
    }

    /// A private instance with a bug, to show that a test catches it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[cfg(feature = "seeded-bugs")]
    pub fn with_bug(config: MemoryConfig, bug: Bug) -> Result<Self> {
        Self::build(config, Some(bug))
    }

    /// Another client of the same instance.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::of(Client::new(Arc::clone(&self.client.instance)))
    }

    fn build(config: MemoryConfig, bug: Option<Bug>) -> Result<Self> {
        let instance = match config.name.clone() {
            Some(name) => Instance::named(&name, &config, bug)?,
            None => Instance::private(config, bug)?,
        };
        Ok(Self::of(Client::new(instance)))
    }

    fn of(client: Arc<Client>) -> Self {
        let config = &client.instance.config;
        let info = Arc::new(info(config, &client));
        let capabilities = capabilities(config);
        Self { client, info, capabilities }
    }

    pub(crate) const fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

fn info(config: &MemoryConfig, client: &Client) -> BackendInfo {
    BackendInfo::new("memory", "memory")
        .with_server(config.name.as_deref().unwrap_or("private"))
        .with_client_id(client.id.to_string())
}

fn capabilities(config: &MemoryConfig) -> Capabilities {
    let dedup = if config.dedup_window.is_some() { Support::Native } else { Support::No };
    Capabilities::all(Support::Native)
        .with_all(LACKS, Support::No)
        .with(Ability::Dedup, dedup)
        .with_max_payload(Some(config.max_payload))
        .with_max_headers(Some(fabric_core::header::MAX_TOTAL_LEN))
}

impl Backend for Memory {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn notices(&self) -> Notices {
        self.client.notices.listen()
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        self.client.try_publish(batch)
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.client.publish(batch).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        self.client.open(&options)
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        Some(self)
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        Some(self)
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        Some(self)
    }

    fn admin(&self) -> Option<&dyn DynAdmin> {
        Some(self)
    }

    async fn health(&self) -> Health {
        let began = std::time::Instant::now();
        if self.client.is_closed() {
            return Health::down(began.elapsed(), "this fabric is closed");
        }
        let figures = self.client.instance.lock().figures();
        figures
            .into_iter()
            .fold(Health::up(began.elapsed()), |health, (name, value)| health.with(name, value))
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        if !self.client.close() {
            return Ok(());
        }
        let until = Instant::now() + deadline;
        let client = &self.client;
        let held = client.instance.with(|broker, wakers| broker.stop_client(client.id, wakers));
        client.end_responders();
        let left = loop {
            let settled = client.settled.notified();
            let mut settled = std::pin::pin!(settled);
            settled.as_mut().enable();
            let left = client.instance.lock().count_held(&held);
            if left == 0 || tokio::time::timeout_at(until, settled).await.is_err() {
                break client.instance.lock().count_held(&held);
            }
        };
        let now = Now::read();
        client.instance.at(now, |broker, wakers| broker.take_back(&held, wakers));
        client.notices.send(NoticeKind::Closed);
        if left > 0 {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("{left} deliveries were not settled within {deadline:?}; they come again"),
            ));
        }
        Ok(())
    }
}

impl ReplayBackend for Memory {
    async fn replay(&self, options: ReplayOptions) -> Result<Subscription> {
        self.client.open_replay(&options)
    }
}

impl RequestReplyBackend for Memory {
    async fn request(&self, request: Event, timeout: Duration) -> Result<Event> {
        self.client.ask(request, timeout).await
    }

    async fn respond(&self, options: RespondOptions) -> Result<Requests> {
        self.client.answer(options)
    }
}
