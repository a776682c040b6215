//! One client: its two sockets, the tasks that drive them, and whom they are connected to.
//!
//! libzmq wants each socket entered by one thread at a time, and entered at all if it is to answer.
//! A thread of its own per socket would do that, and cost every event a hop to it and one back. So
//! the sockets lie behind a lock: a publisher
//! sends in its own task, without a hop, and one task per socket waits for libzmq's signal as any
//! other I/O of tokio does and takes what has come. `tmq` does the same, but owns its socket: a
//! publisher would wait for a task that reads the subscriptions, and neither options nor the monitor
//! are reached through it. Hence this crate drives `zmq` itself.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fabric_core::{Batch, Confirms, Error, ErrorKind, NoticeKind, NoticeSender, Result};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;
use zmq::{Context, SocketType};

use crate::config::{BrokerAddress, Topology, ZmqConfig};
use crate::control;
use crate::curve;
use crate::discover;
use crate::error::{closed, config as refuse, from_zmq};
use crate::monitor::{Link, Monitor, Refusal};
use crate::publish::{Heard, Publisher};
use crate::queue::Queue;
use crate::ready::Ready;
use crate::socket::{Tuning, millis};
use crate::subscribe::{Astray, Receiver};
use crate::sys::{self, PublishOption};

/// How long a client without a broker waits for those that it does not reach.
const GATHER: Duration = Duration::from_secs(1);

/// A client of brokers or of its peers.
pub(crate) struct Client {
    pub(crate) config: ZmqConfig,
    pub(crate) publisher: Publisher,
    pub(crate) receiver: Receiver,
    pub(crate) notices: NoticeSender,
    /// Where this client listens, if it does.
    own: Option<String>,
    context: Mutex<Option<Context>>,
    sides: Mutex<Sides>,
    changed: Notify,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
    /// Whether markers are answered: by a broker of Fabric's, always; by others never.
    marked: AtomicBool,
    numbers: AtomicU64,
}

/// What is known of those on the other side.
#[derive(Default)]
struct Sides {
    /// The brokers, or the peers with the same endpoint twice.
    known: Vec<BrokerAddress>,
    /// The backends that are connected.
    up: HashSet<String>,
    /// The frontend that events go to, and whether it is connected.
    frontend: Option<(String, bool)>,
    /// Peers that have subscribed here, by their endpoint.
    heard: HashSet<String>,
    /// Why connections were refused lately.
    refused: HashMap<String, Refusal>,
    /// Whether it ever stood.
    stood: bool,
    lost: bool,
}

/// What keeps a client connected; the last one gone closes it without waiting.
#[derive(Clone)]
pub(crate) struct Held(Arc<Guard>);

struct Guard(Arc<Client>);

impl Held {
    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.0.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Client {
    /// Connects: resolves once an event that is published arrives.
    pub(crate) async fn connect(config: ZmqConfig) -> Result<Held> {
        config.validate()?;
        if config.curve.is_some() {
            curve::check_support()?;
        }
        let mut known = others(&config).await?;
        let context = Context::new();
        let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
        let own = own_endpoint(&config, id)?;
        if let Some(own) = own.as_ref().filter(|own| !known.iter().any(|it| it.backend == **own)) {
            known.push(BrokerAddress { backend: own.clone(), frontend: own.clone() });
        }
        let tuning = tuning(&config);
        let wrap = |error| from_zmq(error, "opening a socket");

        let mut publishing = tuning.open(&context, SocketType::XPUB)?;
        let option = match own {
            // That a broker wants everything is told once, however often it comes back, and taken
            // back when the last one that does has gone.
            None => PublishOption::NoDrop,
            Some(_) => PublishOption::Verbose,
        };
        sys::switch_on(&mut publishing, option).map_err(wrap)?;
        let receiving = tuning.open(&context, SocketType::SUB)?;
        if let Some(keys) = &config.curve {
            keys.prove(&receiving)?;
            match own {
                None => keys.prove(&publishing)?,
                Some(_) => keys.own().serve(&publishing)?,
            }
        }
        let monitors =
            (Monitor::attach(&context, &publishing)?, Monitor::attach(&context, &receiving)?);
        let signals = (Ready::of(&publishing)?, Ready::of(&receiving)?);
        let watches = (Ready::of(&monitors.0.socket)?, Ready::of(&monitors.1.socket)?);

        if let Some(own) = &own {
            let text = format!("listening on {own}");
            publishing.bind(own).map_err(|error| from_zmq(error, &text))?;
        }
        if !config.raw {
            receiving.set_subscribe(control::HEARTBEAT.as_bytes()).map_err(wrap)?;
            for (prefix, end) in [(control::REPLY, ""), (control::DO, ".")] {
                let mine = format!("{}{end}", control::numbered(prefix, id));
                receiving.set_subscribe(mine.as_bytes()).map_err(wrap)?;
            }
        }
        if let Some(own) = &own {
            let node = format!("{}{id}/{own}", control::NODE);
            receiving.set_subscribe(node.as_bytes()).map_err(wrap)?;
        }

        let notices = NoticeSender::new();
        let (astray, stray) = mpsc::channel(64);
        let sender = *id.as_bytes();
        let client = Arc::new(Self {
            publisher: Publisher::new(id, own.is_none(), &config, publishing, notices.clone()),
            receiver: Receiver::new(sender, config.max_topics, config.raw, receiving, astray),
            notices,
            own: own.clone(),
            context: Mutex::new(Some(context)),
            sides: Mutex::default(),
            changed: Notify::new(),
            tasks: Mutex::default(),
            closed: AtomicBool::new(false),
            marked: AtomicBool::new(true),
            numbers: AtomicU64::new(1),
            config,
        });
        let held = Held(Arc::new(Guard(Arc::clone(&client))));
        client.spawn(Arc::clone(&client).drive_publisher(signals.0));
        client.spawn(Arc::clone(&client).drive_receiver(signals.1));
        client.spawn(Arc::clone(&client).watch(monitors.0, watches.0, Side::Publishing));
        client.spawn(Arc::clone(&client).watch(monitors.1, watches.1, Side::Receiving));
        client.spawn(Arc::clone(&client).send_on(stray));
        client.learn(known)?;
        if discover::goes_on(&client.config) {
            client.spawn(Arc::clone(&client).keep_discovering());
        }
        match own {
            None => client.meet_broker().await?,
            Some(_) => client.meet_peers().await?,
        }
        client.sides().stood = true;
        client.notices.send(NoticeKind::Connected);
        Ok(held)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(task);
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    fn sides(&self) -> MutexGuard<'_, Sides> {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    /// A number that no other request of this client has.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if self.closed.load(Ordering::Acquire) {
            return Err(batch);
        }
        self.publisher.try_submit(batch)
    }

    pub(crate) async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.check_open()?;
        self.publisher.submit(batch).await
    }

    /// Resolves once everything that was subscribed to is in force with everybody connected.
    pub(crate) async fn barrier(&self, queue: Option<Arc<Queue>>, within: Duration) -> Result<()> {
        let number = Uuid::from_u128(fastrand::u128(..));
        if self.config.raw && !self.marked.load(Ordering::Acquire) {
            // A broker that knows nothing of events sends no marker.
            if let Some(queue) = queue {
                queue.begin(0);
            }
            return Ok(());
        }
        let topic = control::numbered(control::SYNC, number);
        let done = self.receiver.mark(number, queue);
        let _taken_back = TakenBack { client: self, number, topic: &topic };
        self.receiver.with_socket(|socket| socket.set_subscribe(topic.as_bytes()))?;
        match tokio::time::timeout(within, done).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(self.unreachable("the subscription was not answered", within)),
        }
    }

    /// Waits until a broker hears what is published and answers subscriptions.
    async fn meet_broker(&self) -> Result<()> {
        let within = self.config.connect_timeout;
        let until = Instant::now() + within;
        if self.config.raw {
            return self.meet_any_broker(until).await;
        }
        if tokio::time::timeout_at(until, self.heard()).await.is_err() {
            return Err(self.unreachable("nobody takes events", within));
        }
        let left = until.saturating_duration_since(Instant::now());
        self.barrier(None, left.max(Duration::from_millis(1))).await
    }

    /// Resolves once whoever has to hear everything does.
    async fn heard(&self) {
        loop {
            let room = self.publisher.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            if self.publisher.is_heard() {
                return;
            }
            room.await;
        }
    }

    /// With the raw profile the broker may be one that answers nothing: then a connection has to do,
    /// and nobody can tell when a subscription is in force.
    async fn meet_any_broker(&self, until: Instant) -> Result<()> {
        let within = until.saturating_duration_since(Instant::now());
        let connected = async {
            loop {
                let changed = self.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if self.receiver.links() > 0 {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout_at(until, connected).await.is_err() {
            return Err(self.unreachable("nobody takes events", within));
        }
        let ours = async {
            self.barrier(None, within).await?;
            self.heard().await;
            Ok::<_, Error>(())
        };
        let patience = GATHER.min(within / 2);
        let answered = tokio::time::timeout(patience, ours).await;
        self.marked.store(matches!(answered, Ok(Ok(()))), Ordering::Release);
        Ok(())
    }

    /// Waits until the peers that can be reached have subscribed here, and so has this client there.
    async fn meet_peers(&self) -> Result<()> {
        let within = self.config.connect_timeout;
        let until = Instant::now() + GATHER.min(within);
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let sides = self.sides();
                // Counted, since libzmq tells of an address and the list may hold a name.
                let all = sides.known.len();
                if sides.up.len() >= all && sides.heard.len() >= all {
                    break;
                }
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                break;
            }
        }
        self.barrier(None, within).await
    }

    /// Why nobody answers, as far as that is known.
    fn unreachable(&self, what: &str, within: Duration) -> Error {
        let sides = self.sides();
        let server = self.config.server();
        let refused = sides.refused.iter().next().map(|(at, refusal)| (at.clone(), *refusal));
        let connected = !sides.up.is_empty();
        drop(sides);
        let error = |kind, text: String| Error::new(kind, text).with_backend("zmq");
        match refused {
            Some((at, Refusal::Door)) if self.config.curve.is_none() => error(
                ErrorKind::Connect,
                format!("{at} lets nobody in any more: it has as many connections as it may have (`--max-connections`)"),
            ),
            Some((at, Refusal::Door)) => error(
                ErrorKind::Unauthorized,
                format!("{at} does not let this client in: its key is not in the list (`--allow`), or there are too many connections; the log of the broker says which"),
            ),
            Some((at, Refusal::Security)) => error(
                ErrorKind::Unauthorized,
                format!("{at} refuses this client: it asks for keys (CURVE) that were not given or are not allowed"),
            ),
            Some((at, Refusal::Unknown)) if self.config.curve.is_some() => error(
                ErrorKind::Unauthorized,
                format!("{at} closes the connection: `server_key` is not its key, or this client's key is not allowed"),
            ),
            Some((at, Refusal::Protocol | Refusal::Unknown)) => error(
                ErrorKind::Connect,
                format!("what answers at {at} is no broker of ZeroMQ, or listens there for the other side"),
            ),
            None if connected => error(
                ErrorKind::Timeout,
                format!("{what} within {within:?}, though {server} is connected; a broker that is no Fabric broker does not answer: use `profile=raw` there"),
            )
            .with_retry(fabric_core::RetryClass::Safe),
            None => error(
                ErrorKind::Connect,
                format!("{what} within {within:?}: nobody listens at {server}; start a broker there: `fabric broker zmq`"),
            ),
        }
    }

    async fn drive_publisher(self: Arc<Self>, ready: Ready) {
        let mut beat = tokio::time::interval(self.config.heartbeat);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut again = None;
        let mut beats = false;
        loop {
            let (heard, due) = self.publisher.drive(std::mem::take(&mut beats));
            for Heard::Node(id, endpoint) in heard {
                self.meet(id, endpoint);
            }
            if let Some(due) = due {
                again = Some(again.map_or(due, |again: Instant| again.min(due)));
            }
            let wait = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                signal = ready.wait() => if signal.is_err() { return },
                () = self.publisher.poke.notified() => {
                    // It was used a moment ago: what came with that is looked at a little later.
                    let soon = Instant::now() + Duration::from_millis(1);
                    again = Some(again.map_or(soon, |again| again.min(soon)));
                }
                () = wait => again = None,
                _ = beat.tick() => beats = true,
            }
        }
    }

    async fn drive_receiver(self: Arc<Self>, ready: Ready) {
        loop {
            while self.receiver.drive() {
                tokio::task::yield_now().await;
            }
            tokio::select! {
                signal = ready.wait() => if signal.is_err() { return },
                () = self.receiver.poke.notified() => {}
            }
        }
    }

    /// Requests whose responder left while they were on their way go back to the broker.
    async fn send_on(self: Arc<Self>, mut stray: mpsc::Receiver<Astray>) {
        while let Some(Astray { block, payload }) = stray.recv().await {
            let _ = self.publisher.pass_on(control::REQUEST, &block, &payload);
        }
    }

    async fn watch(self: Arc<Self>, monitor: Monitor, ready: Ready, side: Side) {
        loop {
            while let Some((link, endpoint)) = monitor.next() {
                tracing::debug!(?side, ?link, endpoint, "a connection changed");
                self.happened(side, link, endpoint);
            }
            if ready.wait().await.is_err() {
                return;
            }
        }
    }

    fn happened(self: &Arc<Self>, side: Side, link: Link, endpoint: String) {
        let mut sides = self.sides();
        match (side, link) {
            (_, Link::Refused(refusal)) => {
                sides.refused.insert(endpoint, refusal);
            }
            (Side::Receiving, Link::Up) => {
                sides.refused.remove(&endpoint);
                sides.up.insert(endpoint);
                self.receiver.set_links(sides.up.len());
                let back = sides.stood && std::mem::take(&mut sides.lost);
                let listed = sides.stood;
                drop(sides);
                if listed {
                    self.catch_up(back);
                }
                self.elect();
            }
            (Side::Receiving, Link::Down(_)) => {
                if !sides.up.remove(&endpoint) {
                    // It was let in and closed again before the two had agreed.
                    sides.refused.entry(endpoint.clone()).or_insert(Refusal::Unknown);
                }
                self.forget_the_gone(&mut sides);
                self.receiver.set_links(sides.up.len());
                let lost =
                    sides.stood && sides.up.is_empty() && !std::mem::replace(&mut sides.lost, true);
                drop(sides);
                if lost && !self.closed.load(Ordering::Acquire) {
                    let text = format!("the connection to {endpoint} is gone; it is tried again");
                    let error = Error::new(ErrorKind::Connect, text).with_backend("zmq");
                    self.notices.send(NoticeKind::Lost { error });
                }
            }
            (Side::Publishing, Link::Up) => {
                sides.refused.remove(&endpoint);
                if let Some((_, up)) = &mut sides.frontend {
                    *up = true;
                }
                drop(sides);
                self.publisher.tell_everything();
            }
            (Side::Publishing, Link::Down(_) | Link::Retried) => {
                let only = sides.known.len() == 1;
                let current = sides.frontend.as_mut().filter(|(at, _)| only || *at == endpoint);
                // What is still told of one that was left does not concern the present one.
                let Some((_, up)) = current else { return };
                let stood = std::mem::take(up);
                if link != Link::Retried && !stood {
                    sides.refused.entry(endpoint).or_insert(Refusal::Unknown);
                }
                drop(sides);
                self.elect();
            }
            _ => {}
        }
        self.changed.notify_waiters();
    }

    /// In a folder a peer that left has taken its socket along: it does not come back there.
    fn forget_the_gone(&self, sides: &mut Sides) {
        if !matches!(self.config.topology, Topology::Folder { .. }) {
            return;
        }
        let Sides { known, up, heard, .. } = sides;
        known.retain(|peer| {
            let path = peer.backend.strip_prefix("ipc://");
            if up.contains(&peer.backend) || path.is_none_or(|path| Path::new(path).exists()) {
                return true;
            }
            heard.remove(&peer.backend);
            let _ = self.receiver.rewire(|socket| socket.disconnect(&peer.backend));
            false
        });
    }

    /// After a connection came back: what was missed is asked for, and the user is told.
    fn catch_up(self: &Arc<Self>, back: bool) {
        if self.config.raw {
            if back {
                self.notices.send(NoticeKind::Restored);
            }
            return;
        }
        let client = Arc::clone(self);
        self.spawn(async move {
            if client.barrier(None, client.config.connect_timeout).await.is_ok() {
                let list = control::numbered(control::LIST, Uuid::from_u128(fastrand::u128(..)));
                let _ = client.receiver.with_socket(|socket| {
                    socket.set_subscribe(list.as_bytes())?;
                    socket.set_unsubscribe(list.as_bytes())
                });
                if back {
                    client.notices.send(NoticeKind::Restored);
                }
            } else if back {
                client.sides().lost = true;
            }
        });
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
    }

    /// Connects to those that are not connected yet, and leaves those that are gone.
    pub(crate) fn learn(&self, known: Vec<BrokerAddress>) -> Result<()> {
        let mut sides = self.sides();
        for gone in sides.known.iter().filter(|old| !known.contains(old)) {
            let _ = self.receiver.rewire(|socket| socket.disconnect(&gone.backend));
        }
        let new: Vec<_> = known.iter().filter(|it| !sides.known.contains(it)).cloned().collect();
        sides.known = known;
        for broker in &new {
            self.receiver
                .rewire(|socket| socket.connect(&broker.backend))
                .map_err(|error| error.with("endpoint", &broker.backend))?;
        }
        let brokered = matches!(self.config.topology, Topology::Brokers { .. });
        let left = match &sides.frontend {
            Some((frontend, _)) => !sides.known.iter().any(|it| it.frontend == *frontend),
            None => true,
        };
        if brokered
            && left
            && let Some(first) = sides.known.first().cloned()
        {
            self.go_to(&mut sides, &first.frontend)?;
        }
        Ok(())
    }

    /// Takes events to another broker, where theirs does not answer and that one does.
    fn elect(&self) {
        let mut sides = self.sides();
        let Some((frontend, false)) = sides.frontend.clone() else { return };
        let better = sides
            .known
            .iter()
            .find(|it| it.frontend != frontend && sides.up.contains(&it.backend))
            .map(|it| it.frontend.clone());
        if let Some(better) = better {
            tracing::info!(from = frontend, to = better, "events go to another broker");
            if let Err(error) = self.go_to(&mut sides, &better) {
                tracing::warn!(%error, "the other broker is not connected to");
            }
        }
    }

    fn go_to(&self, sides: &mut Sides, frontend: &str) -> Result<()> {
        let old = sides.frontend.replace((frontend.to_owned(), false));
        let connected = self.publisher.with_socket(|socket| {
            if let Some((old, _)) = &old {
                let _ = socket.disconnect(old);
            }
            socket.connect(frontend)
        });
        self.publisher.poke.notify_one();
        match connected {
            Some(Err(error)) => Err(from_zmq(error, &format!("connecting to {frontend}"))),
            _ => Ok(()),
        }
    }

    /// A peer has subscribed here: this client subscribes there.
    fn meet(&self, id: Uuid, endpoint: String) {
        let mut sides = self.sides();
        if id != self.publisher.id && !sides.known.iter().any(|it| it.backend == endpoint) {
            let address = BrokerAddress { backend: endpoint.clone(), frontend: endpoint.clone() };
            sides.known.push(address);
            let _ = self.receiver.rewire(|socket| socket.connect(&endpoint));
        }
        sides.heard.insert(endpoint);
        drop(sides);
        self.publisher.tell_everything();
        self.changed.notify_waiters();
    }

    async fn keep_discovering(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.config.discover_interval).await;
            match others(&self.config).await {
                Ok(known) if !known.is_empty() => {
                    if let Err(error) = self.learn(known) {
                        tracing::warn!(%error, "a broker that was found is not connected to");
                    }
                }
                Ok(_) => tracing::warn!("discovery finds no broker; those known are kept"),
                Err(error) => tracing::warn!(%error, "discovery fails; those known are kept"),
            }
        }
    }

    /// The brokers or peers that are connected, and the one that events go to.
    pub(crate) fn connected(&self) -> (usize, usize, Option<String>) {
        let mut sides = self.sides();
        self.forget_the_gone(&mut sides);
        let frontend = sides.frontend.clone().filter(|(_, up)| *up).map(|(it, _)| it);
        (sides.up.len(), sides.known.len(), frontend)
    }

    /// Stops, sends what was taken until `deadline`, and lets go of everything.
    pub(crate) async fn close(&self, deadline: Duration) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let until = Instant::now() + deadline;
        let flushed = tokio::time::timeout_at(until, self.publisher.submit(Batch::new([]))).await;
        let flushed = matches!(flushed, Ok(Ok(_)));
        let (context, tasks) = self.let_go(until.saturating_duration_since(Instant::now()));
        let mut late = !flushed;
        // Each holds something of the context; an error is what ending one looks like.
        for task in tasks {
            let _ = tokio::time::timeout_at(until, task).await;
        }
        if let Some(context) = context {
            // The last handle of a context waits for what is still to be sent.
            let ended = tokio::task::spawn_blocking(move || drop(context));
            late |= ended.await.is_err() || Instant::now() >= until;
        }
        self.notices.send(NoticeKind::Closed);
        if late {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("not every event was sent within {deadline:?}; the broker takes none"),
            )
            .with_backend("zmq"));
        }
        Ok(())
    }

    fn abandon(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            drop(self.let_go(Duration::ZERO));
            self.notices.send(NoticeKind::Closed);
        }
    }

    /// Ends the tasks and closes the sockets; the context is what waits for the rest, once the tasks
    /// have ended.
    fn let_go(&self, linger: Duration) -> (Option<Context>, Vec<JoinHandle<()>>) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(JoinHandle::abort);
        if let Some(socket) = self.publisher.take_socket() {
            let _ = socket.set_linger(millis(linger));
        }
        drop(self.receiver.take_socket());
        if let (Topology::Folder { .. }, Some(own)) = (&self.config.topology, &self.own)
            && let Some(path) = own.strip_prefix("ipc://")
        {
            // libzmq leaves it there.
            let _ = std::fs::remove_file(path);
        }
        (self.context.lock().unwrap_or_else(PoisonError::into_inner).take(), tasks)
    }
}

/// Which socket a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Publishing,
    Receiving,
}

/// Takes a marker's subscription back, also where nobody waits for it any longer.
struct TakenBack<'a> {
    client: &'a Client,
    number: Uuid,
    topic: &'a str,
}

impl Drop for TakenBack<'_> {
    fn drop(&mut self) {
        self.client.receiver.unmark(self.number);
        let topic = self.topic.as_bytes();
        let _ = self.client.receiver.with_socket(|socket| socket.set_unsubscribe(topic));
    }
}

fn tuning(config: &ZmqConfig) -> Tuning {
    let frame = config.max_payload.max(2 * config.batch_bytes + config.max_payload.min(1 << 16));
    let frame = frame.max(fabric_core::wire::block::MAX_LEN + config.batch_bytes);
    Tuning {
        // Checked to fit when the configuration was.
        hwm: i32::try_from(config.hwm).unwrap_or(i32::MAX),
        max_frame: i64::try_from(frame).unwrap_or(i64::MAX),
        link_timeout: config.link_timeout,
        reconnect: config.reconnect,
    }
}

/// Where this client listens, if it does.
fn own_endpoint(config: &ZmqConfig, id: Uuid) -> Result<Option<String>> {
    match &config.topology {
        Topology::Brokers { .. } => Ok(None),
        Topology::Peers { bind, .. } => Ok(Some(bind.clone())),
        Topology::Folder { folder } => {
            let path = folder.join(format!("{}.ipc", id.simple()));
            let path = path.display().to_string();
            if path.len() > 100 {
                return Err(refuse(format!("the path `{path}` is too long for a socket")));
            }
            Ok(Some(format!("ipc://{path}")))
        }
    }
}

/// The brokers, or the peers with this client among them.
async fn others(config: &ZmqConfig) -> Result<Vec<BrokerAddress>> {
    let peer = |at: String| BrokerAddress { backend: at.clone(), frontend: at };
    match &config.topology {
        Topology::Brokers { brokers, discovery } => discover::brokers(brokers, discovery).await,
        Topology::Peers { bind, peers } => {
            let mut list = vec![peer(bind.clone())];
            list.extend(peers.iter().filter(|it| *it != bind).cloned().map(peer));
            Ok(list)
        }
        Topology::Folder { folder } => {
            Ok(discover::folder(folder)?.into_iter().map(peer).collect())
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("publisher", &self.publisher).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.client().fmt(f)
    }
}
