//! The connection: one client of the library per life of the link, and a supervisor that makes the
//! next one.
//!
//! The library's own client would reconnect by itself, and then send what it still had in its queue
//! before anything that was lost on the way: later events would overtake earlier ones, and acks of
//! leases that ended meanwhile would be sent. So each client here lives as long as its connection
//! does and no longer: it is sealed once it is connected, and its credentials are refused if it asks
//! for them again.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_nats::{AuthError, Client, ConnectOptions, Event, ServerInfo};
use fabric_core::{Error, ErrorKind, NoticeKind, NoticeSender, Result};
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use crate::api::{self, Api};
use crate::asking::Asking;
use crate::auth;
use crate::config::{MOST_IN_FLIGHT, NatsConfig};
use crate::error::{self, Failure};

/// The first pause between attempts to reconnect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How many messages one subscription of the library's client holds unread.
const UNREAD: usize = 128 * 1024;
/// How many of the last denials are remembered.
const DENIALS: usize = 64;

/// One life of the link.
pub(crate) struct Epoch {
    pub(crate) number: u64,
    pub(crate) client: Client,
    pub(crate) api: Api,
    pub(crate) info: ServerInfo,
    watcher: Arc<Watcher>,
    asking: OnceCell<Arc<Asking>>,
}

/// What a client tells about itself.
struct Watcher {
    sealed: AtomicBool,
    gone: watch::Sender<bool>,
    /// The same, for those who look at each event.
    is_gone: AtomicBool,
    /// Subjects to which the user lacks the right.
    denied: watch::Sender<Vec<String>>,
    complaint: Mutex<Option<Error>>,
    notices: NoticeSender,
    /// Those who ask hear of denials too.
    asking: OnceLock<Weak<Asking>>,
}

/// Where the link stands.
#[derive(Clone)]
pub(crate) enum State {
    Down,
    Up(Arc<Epoch>),
    Closed,
}

/// The link: the present connection, if there is one.
pub(crate) struct Link {
    pub(crate) config: Arc<NatsConfig>,
    pub(crate) notices: NoticeSender,
    state: watch::Sender<State>,
    /// Servers that the cluster told of.
    discovered: Mutex<Vec<String>>,
    numbers: AtomicU64,
}

impl Link {
    pub(crate) fn new(config: Arc<NatsConfig>) -> Self {
        Self {
            config,
            notices: NoticeSender::new(),
            state: watch::Sender::new(State::Down),
            discovered: Mutex::default(),
            numbers: AtomicU64::new(0),
        }
    }

    /// What `work` does with the present connection, if there is one.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&Epoch) -> R) -> Option<R> {
        match &*self.state.borrow() {
            State::Up(epoch) if !epoch.is_gone() => Some(work(epoch)),
            _ => None,
        }
    }

    /// The present connection.
    pub(crate) fn now(&self) -> Option<Arc<Epoch>> {
        match &*self.state.borrow() {
            State::Up(epoch) if !epoch.is_gone() => Some(Arc::clone(epoch)),
            _ => None,
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The present connection, or the next.
    ///
    /// # Errors
    /// `Closed`.
    pub(crate) async fn up(&self) -> Result<Arc<Epoch>> {
        let mut states = self.state.subscribe();
        loop {
            match &*states.borrow_and_update() {
                State::Up(epoch) if !epoch.is_gone() => return Ok(Arc::clone(epoch)),
                State::Closed => return Err(error::closed()),
                State::Up(_) | State::Down => {}
            }
            if states.changed().await.is_err() {
                return Err(error::closed());
            }
        }
    }

    /// The present connection, or the next if it comes soon.
    ///
    /// # Errors
    /// `Closed`, `Connect`.
    pub(crate) async fn up_soon(&self) -> Result<Arc<Epoch>> {
        let limit = self.config.request_timeout;
        tokio::time::timeout(limit, self.up()).await.unwrap_or_else(|_| Err(error::disconnected()))
    }

    pub(crate) fn set(&self, state: State) {
        self.state.send_if_modified(|known| {
            // What is closed stays closed.
            let open = !matches!(known, State::Closed);
            if open {
                *known = state;
            }
            open
        });
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.state.borrow(), State::Closed)
    }

    /// Connects to the first server that answers.
    ///
    /// # Errors
    /// What the last one said.
    pub(crate) async fn dial(&self) -> Result<Arc<Epoch>> {
        let mut servers = self.config.servers.clone();
        let known = self.discovered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        servers.extend(known);
        servers.dedup();
        fastrand::shuffle(&mut servers);
        let mut last = error::disconnected();
        for server in servers {
            match self.dial_one(&server).await {
                Ok(epoch) => return Ok(epoch),
                Err(error) => last = error.with("server", server),
            }
        }
        Err(last)
    }

    async fn dial_one(&self, server: &str) -> Result<Arc<Epoch>> {
        let watcher = Arc::new(Watcher {
            sealed: AtomicBool::new(false),
            gone: watch::Sender::new(false),
            is_gone: AtomicBool::new(false),
            denied: watch::Sender::new(Vec::new()),
            complaint: Mutex::new(None),
            notices: self.notices.clone(),
            asking: OnceLock::new(),
        });
        let options = self.options(&watcher);
        let scheme = if self.config.tls { "tls" } else { "nats" };
        let dialled = async_nats::connect_with_options(format!("{scheme}://{server}"), options);
        // The library has no limit of its own on resolving names and on TLS.
        let limit = self.config.connect_timeout * 2;
        let client = match tokio::time::timeout(limit, dialled).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(error::from(&Failure::Connect(&error))),
            Err(_) => {
                return Err(Error::new(ErrorKind::Connect, "the server does not answer")
                    .with_backend("nats"));
            }
        };
        watcher.sealed.store(true, Ordering::SeqCst);
        let info = client.server_info();
        if self.config.discover {
            let mut known = self.discovered.lock().unwrap_or_else(PoisonError::into_inner);
            known.clone_from(&info.connect_urls);
        }
        let api = Api {
            client: client.clone(),
            root: api::root(self.config.domain.as_deref()),
            timeout: self.config.request_timeout,
        };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Arc::new(Epoch { number, client, api, info, watcher, asking: OnceCell::new() }))
    }

    /// A client of the library's own, which reconnects by itself.
    ///
    /// # Errors
    /// `Connect`, `Unauthorized`.
    pub(crate) async fn dial_raw(&self) -> Result<Client> {
        let config = Arc::clone(&self.config);
        let options = ConnectOptions::with_auth_callback(move |nonce| {
            let config = Arc::clone(&config);
            async move { auth::answer(&config, &nonce).await.map_err(AuthError::new) }
        });
        let scheme = if self.config.tls { "tls" } else { "nats" };
        let servers: Vec<async_nats::ServerAddr> = self
            .config
            .servers
            .iter()
            .filter_map(|server| format!("{scheme}://{server}").parse().ok())
            .collect();
        let dialled = async_nats::connect_with_options(servers, self.common(options)).await;
        dialled.map_err(|error| error::from(&Failure::Connect(&error)))
    }

    /// What every client of this configuration has.
    fn common(&self, options: ConnectOptions) -> ConnectOptions {
        let config = &self.config;
        let mut options = options
            .name(config.name.as_deref().unwrap_or("fabric"))
            .require_tls(config.tls)
            .ping_interval(config.ping_interval)
            .connection_timeout(config.connect_timeout)
            .request_timeout(Some(config.request_timeout));
        if config.tls_first {
            options = options.tls_first();
        }
        if let Some(ca) = &config.tls_ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        options
    }

    fn options(&self, watcher: &Arc<Watcher>) -> ConnectOptions {
        let config = Arc::clone(&self.config);
        let sealed = Arc::clone(watcher);
        let options = ConnectOptions::with_auth_callback(move |nonce| {
            let (config, sealed) = (Arc::clone(&config), Arc::clone(&sealed));
            async move {
                if sealed.sealed.load(Ordering::SeqCst) {
                    return Err(AuthError::new("this client lives for one connection"));
                }
                auth::answer(&config, &nonce).await.map_err(AuthError::new)
            }
        });
        let told = Arc::clone(watcher);
        self.common(options)
            .max_reconnects(1)
            .ignore_discovered_servers()
            .skip_subject_validation(true)
            .client_capacity(MOST_IN_FLIGHT.min(self.config.in_flight) + 8192)
            .subscription_capacity(UNREAD)
            .event_callback(move |event| {
                let told = Arc::clone(&told);
                async move { told.hear(&event) }
            })
    }

    /// Keeps the link up until it is closed: each time it breaks it is made anew, and `restore` has
    /// the say whether it serves.
    pub(crate) async fn supervise<R, F>(&self, mut epoch: Arc<Epoch>, restore: R)
    where
        R: Fn(Arc<Epoch>) -> F + Send + Sync,
        F: Future<Output = Result<()>> + Send,
    {
        loop {
            epoch.gone().await;
            self.set(State::Down);
            if self.is_closed() {
                return;
            }
            self.notices.send(NoticeKind::Lost { error: epoch.complaint() });
            epoch = self.redial(&restore).await;
            self.set(State::Up(Arc::clone(&epoch)));
            self.notices.send(NoticeKind::Restored);
        }
    }

    /// Tries until a connection stands and serves.
    pub(crate) async fn redial<R, F>(&self, restore: &R) -> Arc<Epoch>
    where
        R: Fn(Arc<Epoch>) -> F + Send + Sync,
        F: Future<Output = Result<()>> + Send,
    {
        let mut pause = Backoff::new(self.config.reconnect_max);
        let mut is_told = false;
        loop {
            tokio::time::sleep(pause.next()).await;
            let restored = match self.dial().await {
                Ok(epoch) => restore(Arc::clone(&epoch)).await.map(|()| epoch),
                Err(error) => Err(error),
            };
            match restored {
                Ok(epoch) => return epoch,
                // That is no outage, and waiting does not mend it: somebody has to know.
                Err(error) if error.kind() == ErrorKind::Unauthorized && !is_told => {
                    is_told = true;
                    self.notices.send(NoticeKind::Lost { error });
                }
                Err(error) => tracing::debug!(%error, "no connection yet"),
            }
        }
    }
}

impl Epoch {
    pub(crate) fn is_gone(&self) -> bool {
        self.watcher.is_gone.load(Ordering::Acquire)
    }

    /// Resolves when the connection is gone.
    pub(crate) async fn gone(&self) {
        // The sender lives as long as this does.
        let _ = self.watcher.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// Gives the connection up.
    pub(crate) fn abandon(&self) {
        self.watcher.end();
    }

    /// What is asked over this connection, from the first request on; answers that come late are
    /// counted in `late`.
    ///
    /// # Errors
    /// `Connect`.
    pub(crate) async fn asking(&self, late: &Arc<AtomicU64>) -> Result<&Asking> {
        let begin = async || {
            let asking = Arc::new(Asking::begin(&self.client, Arc::clone(late)).await?);
            let _ = self.watcher.asking.set(Arc::downgrade(&asking));
            Ok(asking)
        };
        self.asking.get_or_try_init(begin).await.map(|asking| &**asking)
    }

    /// Looks for answers that came while nobody waited for any.
    pub(crate) fn look_for_late_answers(&self) {
        if let Some(asking) = self.asking.get() {
            asking.look();
        }
    }

    /// Subjects to which the user lacks the right, as far as the server complained.
    pub(crate) fn denied(&self) -> watch::Receiver<Vec<String>> {
        self.watcher.denied.subscribe()
    }

    /// What `work` brings, unless the server says that the user lacks the right to `subject`.
    ///
    /// # Errors
    /// `Unauthorized`.
    pub(crate) async fn allowed<T>(
        &self,
        subject: &str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let mut denied = self.denied();
        tokio::select! {
            biased;
            Ok(_) = denied.wait_for(|all| all.iter().any(|denied| denied == subject)) => {
                Err(lacking(subject))
            }
            done = work => done,
        }
    }

    /// Resolves when the server has dealt with all that was sent before.
    ///
    /// # Errors
    /// `Connect`, `Timeout`.
    pub(crate) async fn round_trip(&self, subject: &str) -> Result<()> {
        use async_nats::RequestErrorKind as K;
        let asked = async {
            match self.client.request(subject.to_owned(), bytes::Bytes::new()).await {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == K::NoResponders => Ok(()),
                Err(error) => Err(error::from(&Failure::Request(error.kind()))),
            }
        };
        match self.allowed(subject, asked).await {
            Err(error) if error.kind() == ErrorKind::Unauthorized => Ok(()),
            done => done,
        }
    }

    /// Whether the server is at least of this version.
    pub(crate) fn is_at_least(&self, major: u64, minor: u64) -> bool {
        at_least(&self.info.version, major, minor)
    }

    fn complaint(&self) -> Error {
        let said = self.watcher.complaint.lock().unwrap_or_else(PoisonError::into_inner).take();
        said.unwrap_or_else(|| {
            Error::new(ErrorKind::Connect, "the connection broke").with_backend("nats")
        })
    }
}

impl Watcher {
    fn end(&self) {
        self.is_gone.store(true, Ordering::Release);
        self.gone.send_replace(true);
    }

    fn hear(&self, event: &Event) {
        match event {
            Event::Disconnected | Event::Closed => self.end(),
            Event::ServerError(complaint) => {
                if let async_nats::ServerError::Other(said) = complaint
                    && let Some(subject) = error::denied(said)
                {
                    tracing::warn!(subject, "the user lacks a right");
                    self.denied.send_modify(|all| {
                        if all.len() == DENIALS {
                            all.remove(0);
                        }
                        all.push(subject.to_owned());
                    });
                    if let Some(asking) = self.asking.get().and_then(Weak::upgrade) {
                        asking.refuse(subject);
                    }
                    return;
                }
                let error = error::from(&Failure::Server(complaint));
                *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            Event::SlowConsumer(_) => {
                self.notices.send(NoticeKind::Lagging { group: None, missed: 1 });
            }
            _ => {}
        }
    }
}

/// The error of a user who lacks a right.
pub(crate) fn lacking(subject: &str) -> Error {
    Error::new(
        ErrorKind::Unauthorized,
        format!("the user lacks the right to `{subject}`; docs/nats.md lists the rights"),
    )
    .with_backend("nats")
}

/// Pauses that double, with jitter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    pub(crate) const fn new(most: Duration) -> Self {
        Self { next: FIRST_PAUSE, most }
    }

    /// The next pause: somewhere between half of it and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next.min(self.most);
        self.next = (self.next * 2).min(self.most);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// When something that waits `limit` from now has waited for long enough.
pub(crate) fn after(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit).unwrap_or_else(|| fabric_core::clock::far_future(now))
}

fn at_least(version: &str, major: u64, minor: u64) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(a)), Some(Ok(b))) => (a, b) >= (major, minor),
        _ => false,
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoch").field("number", &self.number).finish_non_exhaustive()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = self.now().map(|epoch| epoch.number);
        f.debug_struct("Link").field("servers", &self.config.servers).field("up", &up).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = Backoff::new(Duration::from_millis(300));
        for most in [50, 100, 200, 300, 300] {
            let pause = pauses.next();
            let most = Duration::from_millis(most);
            assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(at_least("2.15.1", 2, 12) && at_least("v3.0.0", 2, 12));
        assert!(!at_least("2.9.25", 2, 12) && !at_least("dev", 2, 0));
    }
}
