//! The backend: one client of a NATS server or cluster.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fabric_core::{
    Ability, Backend, BackendInfo, Batch, Capabilities, Confirms, Dsn, DynAdmin, DynGroups,
    DynReplay, DynRequestReply, Error, ErrorKind, Health, NoticeKind, Notices, Result,
    SubscribeOptions, Subscription, Support,
};
use tokio::time::Instant;

use crate::config::{Mode, NatsConfig, Profile};
use crate::connection::{Epoch, State, after};
use crate::error;
use crate::hub::{Hub, Task};
use crate::streams::Abilities;
use crate::wire::Route;

/// Event Fabric over NATS: one client. Clones are the same client.
#[derive(Clone)]
pub struct Nats {
    inner: Arc<Inner>,
}

struct Inner {
    hub: Arc<Hub>,
    info: BackendInfo,
    raw: tokio::sync::OnceCell<async_nats::Client>,
    _tasks: Vec<Task>,
}

/// Keeps a callback of [`Nats::on_notice`]; dropping it ends that.
#[derive(Debug)]
#[must_use = "the callback ends with this"]
pub struct Listener(#[expect(dead_code, reason = "it is held for its end")] Task);

/// What an event's headers take at most beside those of the user.
const ENVELOPE: usize = 16 << 10;

/// How long a round trip may take that is made whatever the deadline says.
const ROUND_TRIP: Duration = Duration::from_millis(200);

/// What JetStream cannot do.
const LACKS: &[Ability] = &[
    Ability::LiveGroups,
    Ability::OrderKeyAcrossMembers,
    Ability::Priority,
    Ability::Transient,
    Ability::WhenFullBlock,
    Ability::WhenFullDropOldest,
    Ability::WhenFullDropNewest,
    Ability::WhenFullFail,
];

/// What NATS alone can do.
const LIVE: &[Ability] = &[
    Ability::FanOut,
    Ability::LiveGroups,
    Ability::OrderTopic,
    Ability::Transient,
    Ability::RequestReply,
    Ability::NoResponders,
    Ability::AutoCreate,
];

impl Nats {
    /// Connects as `dsn` says.
    ///
    /// # Errors
    /// As [`NatsConfig`] reads the DSN, and as [`open`](Self::open).
    ///
    /// # Cancel safety
    /// Streams may have been made; no connection stays behind.
    pub async fn connect(dsn: Dsn) -> Result<Self> {
        Self::open(NatsConfig::try_from(&dsn)?).await
    }

    /// Connects, and sees to it that the streams are there.
    ///
    /// # Errors
    /// `Config`, `Connect`, `Unauthorized`, `Unsupported` where JetStream is not enabled,
    /// `AlreadyExists` where a stream is in the way, `NotFound` where one may not be made.
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    pub async fn open(config: NatsConfig) -> Result<Self> {
        config.validate()?;
        let hub = Arc::new(Hub::new(config));
        let restore = {
            let hub = Arc::clone(&hub);
            move |epoch: Arc<Epoch>| {
                let hub = Arc::clone(&hub);
                async move { hub.restore(&epoch).await }
            }
        };
        let epoch = if hub.config.wait {
            hub.link.redial(&restore).await
        } else {
            let epoch = hub.link.dial().await?;
            hub.restore(&epoch).await?;
            epoch
        };
        let info = BackendInfo::new("nats", "nats")
            .with_server(hub.config.servers.join(","))
            .with_client_id(format!("{}/{}", epoch.info.server_name, epoch.info.client_id));
        hub.link.set(State::Up(Arc::clone(&epoch)));
        hub.link.notices.send(NoticeKind::Connected);
        let mut tasks = Vec::new();
        let supervised = Arc::clone(&hub);
        tasks.push(Task::spawn(async move { supervised.link.supervise(epoch, restore).await }));
        if hub.config.mode == Mode::JetStream {
            tasks.push(Task::spawn(Arc::clone(&hub).run_window()));
        }
        let raw = tokio::sync::OnceCell::new();
        Ok(Self { inner: Arc::new(Inner { hub, info, raw, _tasks: tasks }) })
    }

    /// The client library's own client, on a connection of its own with the same credentials, which
    /// reconnects by itself; made at the first call.
    ///
    /// # Errors
    /// `Connect`, `Unauthorized`.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn client(&self) -> Result<async_nats::Client> {
        let client = self.inner.raw.get_or_try_init(|| self.inner.hub.link.dial_raw()).await?;
        Ok(client.clone())
    }

    /// The client library's own way to JetStream, over [`client`](Self::client).
    ///
    /// # Errors
    /// As [`client`](Self::client).
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn jetstream(&self) -> Result<async_nats::jetstream::Context> {
        let client = self.client().await?;
        Ok(match &self.inner.hub.config.domain {
            Some(domain) => async_nats::jetstream::with_domain(client, domain),
            None => async_nats::jetstream::new(client),
        })
    }

    /// Calls `tell` with each notice from now on, until the fabric closes or the guard is dropped.
    pub fn on_notice(&self, tell: impl Fn(fabric_core::Notice) + Send + 'static) -> Listener {
        let mut notices = Backend::notices(self);
        Listener(Task::spawn(async move {
            while let Some(notice) = futures_util::StreamExt::next(&mut notices).await {
                tell(notice);
            }
        }))
    }

    /// The hub, unless it is closed.
    ///
    /// # Errors
    /// `Closed`.
    pub(crate) fn open_hub(&self) -> Result<&Arc<Hub>> {
        self.inner.hub.check_open()?;
        Ok(&self.inner.hub)
    }

    fn is_live(&self) -> bool {
        self.inner.hub.config.mode == Mode::Core
    }
}

impl Hub {
    /// Sees to it that a new connection serves.
    async fn restore(&self, epoch: &Epoch) -> Result<()> {
        match self.config.mode {
            Mode::JetStream => self.ensure_streams(epoch).await,
            Mode::Core => {
                let max_message = epoch.info.max_payload;
                self.set_abilities(Abilities { max_message, ..Abilities::default() });
                Ok(())
            }
        }
    }

    /// What a client of this configuration can do where the server and its streams can do this.
    pub(crate) fn capabilities(&self, abilities: &Abilities) -> Capabilities {
        let payload = abilities.max_message.saturating_sub(ENVELOPE.min(abilities.max_message / 4));
        let headers = fabric_core::header::MAX_TOTAL_LEN.min(abilities.max_message / 2);
        let limits =
            Capabilities::NONE.with_max_payload(Some(payload)).with_max_headers(Some(headers));
        if self.config.mode == Mode::Core {
            return limits
                .with_all(LIVE, Support::Native)
                .with(Ability::Ttl, self.carried(Support::Emulated));
        }
        let native = |there: bool| if there { Support::Native } else { Support::No };
        let ttl = if abilities.ttl { Support::Native } else { Support::Emulated };
        let dedup = abilities.dedup && self.config.profile != Profile::Raw;
        let all = Capabilities::all(Support::Native)
            .with_all(LACKS, Support::No)
            .with(Ability::Durable, native(self.config.storage == crate::config::Storage::File))
            .with(Ability::Ttl, self.carried(ttl))
            .with(Ability::Delay, native(abilities.due))
            .with(Ability::Dedup, native(dedup));
        all.with_max_payload(limits.max_payload).with_max_headers(limits.max_headers)
    }

    /// What the profile does not carry nobody can have.
    fn carried(&self, level: Support) -> Support {
        if self.config.profile == Profile::Raw { Support::No } else { level }
    }
}

impl Backend for Nats {
    fn info(&self) -> &BackendInfo {
        &self.inner.info
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.hub.claims()
    }

    fn notices(&self) -> Notices {
        self.inner.hub.link.notices.listen()
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        match self.is_live() {
            true => self.inner.hub.try_publish_live(batch),
            false => self.inner.hub.try_publish(batch, Route::of),
        }
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        match self.is_live() {
            true => self.inner.hub.publish_live(batch).await,
            false => self.inner.hub.publish(batch, Route::of).await,
        }
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        match self.is_live() {
            true => self.inner.hub.open_live(&options).await,
            false => self.inner.hub.open(options).await,
        }
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        (!self.is_live()).then_some(self)
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        Some(self)
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        (!self.is_live()).then_some(self)
    }

    fn admin(&self) -> Option<&dyn DynAdmin> {
        (!self.is_live()).then_some(self)
    }

    async fn health(&self) -> Health {
        let began = Instant::now();
        let hub = &self.inner.hub;
        if hub.is_closing() {
            return Health::down(began.elapsed(), "this fabric is closed");
        }
        let Some(epoch) = hub.link.now() else {
            return Health::down(began.elapsed(), error::disconnected().to_string());
        };
        let asked = match hub.config.mode {
            Mode::Core => epoch.round_trip(&hub.layout.sync()).await.map(|()| None),
            Mode::JetStream => epoch.api.stream(hub.home()).await.map(Some),
        };
        let took = began.elapsed();
        epoch.look_for_late_answers();
        match asked {
            Err(error) => Health::down(took, format!("{error:#}")),
            Ok(stream) => {
                let health = Health::up(took)
                    .with("server", &epoch.info.server_name)
                    .with("version", &epoch.info.version)
                    .with("connections", epoch.number)
                    .with("unconfirmed", hub.window.unconfirmed())
                    .with("late answers", hub.late.load(Ordering::Relaxed));
                match stream {
                    None => health,
                    Some(info) => {
                        health.with("events", info.state.messages).with("bytes", info.state.bytes)
                    }
                }
            }
        }
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        let hub = &self.inner.hub;
        if !hub.begin_close() {
            return Ok(());
        }
        let until = after(deadline);
        let left = hub.settle_members(until).await;
        let unconfirmed = hub.flush_window(until).await;
        if let Some(epoch) = hub.link.now() {
            // What was sent last, acks among it, has arrived once something behind it was answered.
            let patience = until.max(after(ROUND_TRIP));
            let sync = hub.layout.sync();
            let _ = tokio::time::timeout_at(patience, epoch.round_trip(&sync)).await;
        }
        hub.window.end(&error::closed());
        hub.link.set(State::Closed);
        hub.link.notices.send(NoticeKind::Closed);
        if left + unconfirmed > 0 {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "{left} deliveries were not settled and {unconfirmed} events not confirmed \
                     within {deadline:?}; the former come again, the latter may have been accepted"
                ),
            ));
        }
        Ok(())
    }
}

impl Hub {
    /// Lets what was handed out be settled, and gives the rest back; returns how many were left.
    async fn settle_members(&self, until: Instant) -> usize {
        let members = self.members();
        let leaving = futures_util::future::join_all(members.iter().map(|member| member.leave()));
        let _ = tokio::time::timeout_at(until.max(after(ROUND_TRIP)), leaving).await;
        let mut left = 0;
        for member in members {
            loop {
                let settled = member.settled.notified();
                tokio::pin!(settled);
                settled.as_mut().enable();
                if member.open() == 0 || tokio::time::timeout_at(until, settled).await.is_err() {
                    break;
                }
            }
            left += member.open();
            member.give_back(&member.take_back(true));
        }
        left
    }

    /// Waits for confirms; returns how many were left.
    async fn flush_window(&self, until: Instant) -> usize {
        // One that was let in just before may be handed over only now.
        while self.window.unconfirmed() > 0 {
            if tokio::time::timeout_at(until, self.flush()).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        self.window.unconfirmed()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.begin_close();
        self.hub.window.end(&error::closed());
        self.hub.link.set(State::Closed);
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("hub", &self.inner.hub).finish_non_exhaustive()
    }
}
