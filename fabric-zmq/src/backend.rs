//! The backend: one client of a broker, or one of several peers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fabric_core::{
    Ability, Backend, BackendInfo, Batch, Capabilities, Confirms, Dsn, DynAdmin, DynGroups,
    DynReplay, DynRequestReply, Error, Event, Health, Notices, RequestReplyBackend, Requests,
    RespondOptions, Result, SubscribeOptions, Subscription, Support, WhenFull,
};

use crate::config::{Topology, ZmqConfig};
use crate::connection::{Client, Held};
use crate::queue::{Bound, Drops, Reading};

/// Event Fabric over ZeroMQ. Clones are the same client.
#[derive(Clone, Debug)]
pub struct Zmq {
    held: Held,
    info: Arc<BackendInfo>,
    capabilities: Capabilities,
}

/// What one client can do, with a broker or without.
const ABILITIES: &[Ability] = &[Ability::FanOut, Ability::OrderTopic, Ability::AutoCreate];
/// What holds while the client lives.
const BY_THE_CLIENT: &[Ability] =
    &[Ability::Ttl, Ability::Prefetch, Ability::WhenFullDropOldest, Ability::WhenFullDropNewest];
/// What the broker adds.
const BY_THE_BROKER: &[Ability] = &[Ability::RequestReply, Ability::NoResponders];

/// How long a health check waits for an answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

impl Zmq {
    /// Connects as `config` says. It resolves once an event that is published arrives.
    ///
    /// # Errors
    /// `Config`; `Connect` where nobody answers in time, `Unauthorized` where keys are asked for,
    /// `Unsupported` where keys are given and this libzmq has no CURVE; `AlreadyExists` where the
    /// own address is taken.
    ///
    /// # Cancel safety
    /// Dropped before it resolved, nothing stays behind.
    pub async fn open(config: ZmqConfig) -> Result<Self> {
        let info = BackendInfo::new("zmq", "zmq").with_server(config.server());
        let capabilities = capabilities(&config);
        let held = Client::connect(config).await?;
        let info = Arc::new(info.with_client_id(held.client().publisher.id.to_string()));
        Ok(Self { held, info, capabilities })
    }

    /// Connects as `dsn` says.
    ///
    /// # Errors
    /// As [`ZmqConfig`] reads the DSN, and as [`open`](Self::open).
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub async fn connect(dsn: Dsn) -> Result<Self> {
        Self::open(ZmqConfig::try_from(&dsn)?).await
    }

    fn client(&self) -> &Arc<Client> {
        self.held.client()
    }

    fn bound(&self, options: &SubscribeOptions) -> Result<Bound> {
        let config = &self.client().config;
        let drops = match options.when_full.unwrap_or(config.when_full) {
            WhenFull::DropOldest => Drops::Oldest,
            WhenFull::DropNewest => Drops::Newest,
            _ => return Err(Error::unsupported("making publishers wait for a subscriber", "zmq")),
        };
        let events = options.prefetch.unwrap_or(config.prefetch).max(1);
        Ok(Bound { events, bytes: config.queue_bytes, drops })
    }
}

fn capabilities(config: &ZmqConfig) -> Capabilities {
    let mut capabilities = Capabilities::NONE
        .with_all(ABILITIES, Support::Native)
        .with_all(BY_THE_CLIENT, Support::Emulated)
        .with_max_payload(Some(config.max_payload))
        .with_max_headers(Some(fabric_core::header::MAX_TOTAL_LEN));
    if config.raw {
        capabilities = capabilities.without(Ability::Ttl);
    } else if matches!(config.topology, Topology::Brokers { .. }) {
        capabilities = capabilities.with_all(BY_THE_BROKER, Support::Native);
    }
    capabilities
}

impl Backend for Zmq {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn notices(&self) -> Notices {
        self.client().notices.listen()
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        self.client().try_submit(batch)
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.client().submit(batch).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        let client = self.client();
        client.check_open()?;
        if options.group.is_some() {
            return Err(Error::unsupported("groups", "zmq"));
        }
        let bound = self.bound(&options)?;
        let skip = client.publisher.sent_before(&options.patterns);
        let (id, queue) = client.receiver.add(&options.patterns, bound, skip);
        let held = self.held.clone();
        let leave = move || held.client().receiver.remove(id);
        let notices = client.notices.clone();
        let source = Reading { queue: Arc::clone(&queue), notices, leave };
        client.receiver.ask_for(&options.patterns)?;
        client.barrier(Some(queue), client.config.connect_timeout).await?;
        Ok(Subscription::from_source(source))
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        None
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        self.capabilities.can(Ability::RequestReply).then_some(self as &dyn DynRequestReply)
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        None
    }

    fn admin(&self) -> Option<&dyn DynAdmin> {
        None
    }

    async fn health(&self) -> Health {
        let client = self.client();
        let began = Instant::now();
        if client.check_open().is_err() {
            return Health::down(began.elapsed(), "this fabric is closed");
        }
        let answered = match client.receiver.links() {
            0 => Err("nobody is connected".to_owned()),
            _ => client.barrier(None, HEALTH_TIMEOUT).await.map_err(|error| error.to_string()),
        };
        let latency = began.elapsed();
        let (up, known, frontend) = client.connected();
        let health = match answered {
            Err(reason) => Health::down(latency, reason),
            Ok(()) if up < known => {
                Health::degraded(latency, format!("{up} of {known} are connected"))
            }
            Ok(()) => Health::up(latency),
        };
        let counts = &client.receiver.counts;
        let figure = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        health
            .with("connected", format!("{up} of {known}"))
            .with("publishes to", frontend.unwrap_or_else(|| "its subscribers".to_owned()))
            .with("published", figure(&client.publisher.sent))
            .with("received", figure(&counts.received))
            .with("lost", figure(&counts.lost))
            .with("dropped", figure(&counts.dropped))
            .with("duplicates", figure(&counts.duplicates))
            .with("foreign", figure(&counts.foreign))
            .with("late answers", figure(&counts.late))
            .with("topics counted", client.publisher.topics())
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.client().close(deadline).await
    }
}

impl RequestReplyBackend for Zmq {
    async fn request(&self, request: Event, timeout: Duration) -> Result<Event> {
        self.client().ask(request, timeout).await
    }

    async fn respond(&self, options: RespondOptions) -> Result<Requests> {
        self.held.answer(options).await
    }
}
