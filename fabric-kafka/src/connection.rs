//! The link to the brokers: what is asked of them, and whether they answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread::Thread;
use std::time::Duration;

use fabric_core::{
    BackendInfo, Error, ErrorKind, EventId, NoticeKind, NoticeSender, Result, Topic,
};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use crate::config::KafkaConfig;
use crate::definition::Log;
use crate::discovery::{Catalogue, TopicMeta};
use crate::error::{NAME, from_code, from_kafka};
use crate::names::{Names, collision};
use crate::publish::Publisher;
use crate::subscribe::Open;
use crate::sys;

/// The largest batch that a broker takes unless it says otherwise.
const DEFAULT_LIMIT: usize = 1_048_588;
/// How many topics are described in one request.
const DESCRIBED_AT_ONCE: usize = 1000;

/// One client of the brokers, shared by all that it does.
pub(crate) struct Connection {
    pub(crate) config: KafkaConfig,
    pub(crate) names: Names,
    pub(crate) info: BackendInfo,
    pub(crate) notices: NoticeSender,
    pub(crate) publisher: Publisher,
    pub(crate) log: Log,
    /// The largest batch that the broker takes, and how many partitions it gives a topic.
    pub(crate) limit: usize,
    pub(crate) default_partitions: u32,
    tools: BaseConsumer<LinkContext>,
    admin: AdminClient<LinkContext>,
    link: Arc<Link>,
    catalogue: RwLock<Arc<Catalogue>>,
    open: Mutex<Vec<Weak<dyn Open>>>,
    /// How many want to hear of new topics.
    watchers: AtomicUsize,
    closed: AtomicBool,
    monitor: Mutex<Option<Thread>>,
}

/// What the client library says about the link, from whichever of its threads.
#[derive(Debug, Default)]
pub(crate) struct Link {
    down: AtomicBool,
    /// What it said last that matters.
    last: Mutex<Option<Error>>,
    monitor: Mutex<Option<Thread>>,
}

impl Link {
    fn note(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let error = from_code(code).with("reason", reason);
        let refused = error.kind() == ErrorKind::Unauthorized || code == Code::SSL;
        if refused || code == Code::AllBrokersDown {
            let mut last = lock(&self.last);
            // That nobody is there says less than why.
            if refused || last.as_ref().is_none_or(|l| l.kind() != ErrorKind::Unauthorized) {
                *last = Some(error);
            }
            drop(last);
            self.down.store(true, Ordering::SeqCst);
            if let Some(monitor) = &*lock(&self.monitor) {
                monitor.unpark();
            }
        }
    }

    /// The error of a call that failed: why the link is down, if that is known.
    fn explain(&self, error: Error) -> Error {
        match &*lock(&self.last) {
            Some(last) if matches!(error.kind(), ErrorKind::Connect | ErrorKind::Timeout) => {
                match last.kind() {
                    ErrorKind::Unauthorized | ErrorKind::Connect => last.clone(),
                    _ => error,
                }
            }
            _ => error,
        }
    }
}

/// What the client library calls, for every client but the producers and the members of groups.
#[derive(Clone, Debug)]
pub(crate) struct LinkContext(pub(crate) Arc<Link>);

impl ClientContext for LinkContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(&error, reason);
    }
}

impl ConsumerContext for LinkContext {}

/// A line of the client library.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::warn!(target: "librdkafka", facility, "{text}"),
        _ => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

impl Connection {
    /// Connects: resolves once a broker has answered.
    ///
    /// # Errors
    /// `Config`, `Connect`, `Unauthorized`, `Timeout`.
    ///
    /// # Cancel safety
    /// Nothing stays behind.
    pub(crate) async fn open(mut config: KafkaConfig) -> Result<Arc<Self>> {
        config.validate()?;
        let generated = || format!("fabric-{}", EventId::generate());
        let client_id = config.client_id.clone().unwrap_or_else(generated);
        config.client_id = Some(client_id.clone());
        let info = BackendInfo::new(NAME, NAME)
            .with_server(config.servers.join(","))
            .with_client_id(client_id.clone());
        let link = Arc::new(Link::default());
        let mut client = config.client();
        // Nothing is ever committed under this name.
        client.set("group.id", format!("_fabric-{client_id}")).set("enable.auto.commit", "false");
        let made = tokio::task::spawn_blocking({
            let (link, within) = (Arc::clone(&link), config.connect_timeout);
            move || -> Result<_> {
                let context = || LinkContext(Arc::clone(&link));
                let kafka = |error: KafkaError| link.explain(from_kafka(&error));
                let tools: BaseConsumer<LinkContext> =
                    client.create_with_context(context()).map_err(kafka)?;
                client.remove("group.id").remove("enable.auto.commit");
                let admin: AdminClient<LinkContext> =
                    client.create_with_context(context()).map_err(kafka)?;
                let node = reach(&tools, &link, within)?;
                Ok((tools, admin, node))
            }
        });
        let (tools, admin, node) = made.await.map_err(panicked)??;
        let (limit, default_partitions) =
            broker_settings(&admin, node, config.connect_timeout).await;
        let names = Names::new(config.prefix.clone());
        let connection = Arc::new(Self {
            publisher: Publisher::new(&config, Arc::clone(&link)),
            log: Log::new(&config, &names, Arc::clone(&link)),
            names,
            info,
            notices: NoticeSender::new(),
            limit,
            default_partitions,
            tools,
            admin,
            link,
            catalogue: RwLock::default(),
            open: Mutex::default(),
            watchers: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            monitor: Mutex::default(),
            config,
        });
        connection.blocking(|connection| connection.refresh()).await?;
        connection.watch_link()?;
        connection.notices.send(NoticeKind::Connected);
        Ok(connection)
    }

    /// Does what blocks where it blocks nobody.
    ///
    /// # Errors
    /// Whatever the work brought.
    ///
    /// # Cancel safety
    /// The work goes on to its end.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&connection)).await.map_err(panicked)?
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) { Err(closed()) } else { Ok(()) }
    }

    /// Closes it; whether it was open.
    pub(crate) fn shut(&self) -> bool {
        let was_open = !self.closed.swap(true, Ordering::SeqCst);
        if let Some(monitor) = &*lock(&self.monitor) {
            monitor.unpark();
        }
        was_open
    }

    /// The link, for further clients of the library.
    pub(crate) const fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// An error of the client library, and what is known about the link.
    pub(crate) fn explain(&self, error: &KafkaError) -> Error {
        self.link.explain(from_kafka(error))
    }

    // What there is.

    /// The topics that there were when the broker was last asked.
    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the broker which topics there are. Blocks.
    ///
    /// # Errors
    /// `Connect`, `Timeout`, `Unauthorized`.
    pub(crate) fn refresh(&self) -> Result<Arc<Catalogue>> {
        let within = self.config.connect_timeout;
        let metadata =
            self.tools.fetch_metadata(None, within).map_err(|error| self.explain(&error))?;
        let names: Vec<&str> = metadata
            .topics()
            .iter()
            .map(rdkafka::metadata::MetadataTopic::name)
            .filter(|name| self.names.parse(name).is_some())
            .collect();
        let mut described = Vec::with_capacity(names.len());
        for some in names.chunks(DESCRIBED_AT_ONCE) {
            let client = self.admin.inner();
            let found = sys::describe_topics(client, some, within);
            described.extend(found.map_err(|error| self.explain(&error))?);
        }
        let catalogue = Arc::new(Catalogue::new(described, &self.names));
        *self.catalogue.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&catalogue);
        self.publisher.compare(&catalogue);
        Ok(catalogue)
    }

    /// One topic as it is now. Blocks.
    ///
    /// # Errors
    /// `NotFound`, and as [`refresh`](Self::refresh).
    pub(crate) fn describe(&self, name: &str) -> Result<Arc<TopicMeta>> {
        let within = self.config.connect_timeout;
        let described = sys::describe_topics(self.admin.inner(), &[name], within)
            .map_err(|error| self.explain(&error))?;
        let catalogue = Catalogue::new(described, &self.names);
        catalogue.topic(name).cloned().ok_or_else(|| absent(name))
    }

    /// What every partition of `topics` answers to `asked`: an end, a beginning, or the first event
    /// at a time in milliseconds. Blocks.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub(crate) fn offsets<'a>(
        &self,
        topics: impl IntoIterator<Item = &'a Arc<TopicMeta>>,
        asked: Asked,
    ) -> Result<HashMap<String, Vec<i64>>> {
        let topics: Vec<&Arc<TopicMeta>> = topics.into_iter().collect();
        let until = std::time::Instant::now() + self.config.connect_timeout;
        loop {
            let error = match self.offsets_now(&topics, asked) {
                Ok(answers) => return Ok(answers),
                Err(error) => error,
            };
            // The partitions of a topic that was just made have no leaders yet, or others by now.
            let passing = matches!(error.kind(), ErrorKind::Connect | ErrorKind::NotFound);
            if !passing || std::time::Instant::now() >= until || self.check_open().is_err() {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn offsets_now(
        &self,
        topics: &[&Arc<TopicMeta>],
        asked: Asked,
    ) -> Result<HashMap<String, Vec<i64>>> {
        let mut list = TopicPartitionList::new();
        let mut answers = HashMap::new();
        let asked = match asked {
            Asked::End => Offset::End,
            Asked::Beginning => Offset::Beginning,
            Asked::Time(millis) => Offset::Offset(millis.max(0)),
        };
        for meta in topics {
            answers.insert(meta.name.clone(), vec![0; meta.partitions.max(0) as usize]);
            for partition in 0..meta.partitions {
                list.add_partition_offset(&meta.name, partition, asked)
                    .map_err(|error| from_kafka(&error))?;
            }
        }
        if answers.is_empty() {
            return Ok(answers);
        }
        let found = self
            .tools
            .offsets_for_times(list, self.config.connect_timeout)
            .map_err(|error| self.explain(&error))?;
        for element in found.elements() {
            element.error().map_err(|error| from_kafka(&error))?;
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                // No event is as late.
                _ => -1,
            };
            if let Some(offsets) = answers.get_mut(element.topic())
                && let Some(place) = offsets.get_mut(element.partition() as usize)
            {
                *place = offset;
            }
        }
        Ok(answers)
    }

    /// How many members a group has, as the broker sees it. Blocks.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub(crate) fn members(&self, group: &str) -> Result<u64> {
        let found = self.tools.fetch_group_list(Some(group), self.config.connect_timeout);
        match found {
            Ok(list) => {
                let of_it = list.groups().iter().filter(|one| one.name() == group);
                Ok(of_it.map(|one| one.members().len() as u64).sum())
            }
            Err(error) => match self.explain(&error) {
                error if error.kind() == ErrorKind::NotFound => Ok(0),
                error => Err(error),
            },
        }
    }

    // What is made and unmade.

    /// Makes the topics called `names` that do not exist.
    ///
    /// # Errors
    /// `InvalidTopic`, `Config`, `Unauthorized`, `Connect`, `Timeout`.
    ///
    /// # Cancel safety
    /// Some may have been made.
    pub(crate) async fn create(&self, names: &[String]) -> Result<()> {
        let partitions = self.config.partitions.map_or(-1, |count| count as i32);
        let replication = self.config.replication.map_or(-1, i32::from);
        let kept = self.config.retention.map(|kept| kept.as_millis().to_string());
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                let topic = self.names.parse(name);
                let own = topic.as_ref().is_none_or(Topic::is_reserved);
                let log = *name == self.names.definitions();
                let count = if log { 1 } else { partitions };
                let new = NewTopic::new(name, count, TopicReplication::Fixed(replication))
                    // A start by time is by the time at which an event was stored.
                    .set("message.timestamp.type", "LogAppendTime");
                match &kept {
                    // What waits for a group, dead letters and definitions are kept until somebody
                    // takes them away.
                    _ if own => new
                        .set("retention.ms", "-1")
                        .set("retention.bytes", "-1")
                        .set("cleanup.policy", "delete"),
                    Some(kept) => new.set("retention.ms", kept),
                    None => new,
                }
            })
            .collect();
        let made = self.admin.create_topics(&topics, &self.admin_options());
        for result in made.await.map_err(|error| self.explain(&error))? {
            match result {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(from_code(code).with("topic", name)),
            }
        }
        Ok(())
    }

    /// Makes one topic if it is not there, and tells how it is.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    ///
    /// # Cancel safety
    /// It may have been made.
    pub(crate) async fn ensure(self: &Arc<Self>, name: &str) -> Result<Arc<TopicMeta>> {
        if let Some(meta) = self.catalogue().topic(name) {
            return Ok(Arc::clone(meta));
        }
        let (created, name) = (self.create(&[name.to_owned()]).await, name.to_owned());
        if let Err(error) = created {
            if error.kind() != ErrorKind::InvalidTopic {
                return Err(error);
            }
            return self.blocking(move |connection| Err(connection.name_twin(&name, error))).await;
        }
        self.blocking(move |connection| connection.await_topic(&name)).await
    }

    /// The refusal of a name, with the topic that the broker takes it for. Blocks.
    fn name_twin(&self, name: &str, refused: Error) -> Error {
        let catalogue = self.refresh().unwrap_or_else(|_| self.catalogue());
        match (self.names.parse(name), catalogue.twin(name)) {
            (Some(topic), Some(twin)) => collision(&topic, twin),
            _ => refused,
        }
    }

    /// Waits until a topic that was made is known to the broker that answers.
    pub(crate) fn await_topic(&self, name: &str) -> Result<Arc<TopicMeta>> {
        let until = std::time::Instant::now() + self.config.connect_timeout;
        loop {
            match self.describe(name) {
                Err(error)
                    if error.kind() == ErrorKind::NotFound && std::time::Instant::now() < until =>
                {
                    // The broker that made it tells the others; there is nothing to wait on.
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(meta) => {
                    self.look_again();
                    return Ok(meta);
                }
                error => return error,
            }
        }
    }

    /// Removes topics; those that are not there are no error.
    ///
    /// # Errors
    /// `Unauthorized`, `Connect`, `Timeout`.
    ///
    /// # Cancel safety
    /// Some may be gone.
    pub(crate) async fn remove(&self, names: &[String]) -> Result<()> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let removed = self.admin.delete_topics(&names, &self.admin_options());
        for result in removed.await.map_err(|error| self.explain(&error))? {
            match result {
                Ok(_) | Err((_, Code::UnknownTopicOrPartition | Code::UnknownTopic)) => {}
                Err((name, code)) => return Err(from_code(code).with("topic", name)),
            }
        }
        Ok(())
    }

    /// Forgets a group's commits, if it has no members.
    ///
    /// # Cancel safety
    /// They may be gone.
    pub(crate) async fn forget(&self, group: &str) {
        // What stays says which life of the group it belongs to, so that nobody believes it.
        let _ = self.admin.delete_groups(&[group], &self.admin_options()).await;
    }

    /// Drops the events below `offsets`.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    ///
    /// # Cancel safety
    /// Some may be gone.
    pub(crate) async fn trim(&self, offsets: &TopicPartitionList) -> Result<()> {
        let trimmed = self.admin.delete_records(offsets, &self.admin_options()).await;
        let trimmed = trimmed.map_err(|error| self.explain(&error))?;
        for element in trimmed.elements() {
            element.error().map_err(|error| from_kafka(&error))?;
        }
        Ok(())
    }

    /// The largest batch that a topic takes.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(crate) async fn topic_limit(&self, name: &str) -> usize {
        let asked = [ResourceSpecifier::Topic(name)];
        let found = self.admin.describe_configs(&asked, &self.admin_options()).await;
        // Who may not ask takes the broker's own.
        let found = found.ok().and_then(|list| list.into_iter().next()?.ok());
        found.and_then(|found| number(&found, "max.message.bytes")).unwrap_or(self.limit)
    }

    fn admin_options(&self) -> AdminOptions {
        let within = Some(self.config.connect_timeout);
        AdminOptions::new().request_timeout(within).operation_timeout(within)
    }

    // Who is there.

    /// Remembers an open subscription.
    pub(crate) fn enlist(&self, open: Weak<dyn Open>) {
        let mut list = lock(&self.open);
        list.retain(|open| open.strong_count() > 0);
        list.push(open);
    }

    /// Every open subscription.
    pub(crate) fn subscriptions(&self) -> Vec<Arc<dyn Open>> {
        lock(&self.open).iter().filter_map(Weak::upgrade).collect()
    }

    /// Counts one who wants to hear of new topics until it is dropped.
    pub(crate) fn watch(self: &Arc<Self>) -> Watcher {
        self.watchers.fetch_add(1, Ordering::SeqCst);
        self.wake_monitor();
        Watcher(Arc::downgrade(self))
    }

    /// Has the monitor look now.
    pub(crate) fn look_again(&self) {
        self.wake_monitor();
    }

    fn wake_monitor(&self) {
        if let Some(monitor) = &*lock(&self.monitor) {
            monitor.unpark();
        }
    }

    /// Looks after the link and the topics, in a thread that ends with the connection.
    fn watch_link(self: &Arc<Self>) -> Result<()> {
        let weak = Arc::downgrade(self);
        let interval = self.config.discovery;
        let spawned = std::thread::Builder::new().name("kafka-monitor".into()).spawn(move || {
            let mut told = false;
            loop {
                std::thread::park_timeout(interval);
                let Some(connection) = weak.upgrade() else { return };
                if connection.check_open().is_err() {
                    return;
                }
                connection.look(&mut told);
            }
        });
        let thread = spawned.map_err(no_thread)?.thread().clone();
        *lock(&self.link.monitor) = Some(thread.clone());
        *lock(&self.monitor) = Some(thread);
        Ok(())
    }

    fn look(&self, told: &mut bool) {
        let down = self.link.down.load(Ordering::SeqCst);
        if !down && self.watchers.load(Ordering::SeqCst) == 0 {
            return;
        }
        match self.refresh() {
            Ok(_) => {
                self.link.down.store(false, Ordering::SeqCst);
                *lock(&self.link.last) = None;
                if std::mem::take(told) {
                    self.notices.send(NoticeKind::Restored);
                }
                let subscriptions = self.subscriptions();
                if subscriptions.iter().any(|open| open.is_member()) {
                    // What others changed about the groups; not to know is no harm.
                    let _ = self.log.read(self, |_| ());
                }
                for open in subscriptions {
                    open.look();
                }
            }
            Err(error) if self.check_open().is_ok() => {
                if !std::mem::replace(told, true) {
                    self.notices.send(NoticeKind::Lost { error });
                }
            }
            Err(_) => {}
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shut();
    }
}

/// What to ask the partitions of topics for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    /// The next offset.
    End,
    /// The first offset that is kept.
    Beginning,
    /// The first event stored then or later, in milliseconds; -1 where there is none.
    Time(i64),
}

/// Somebody who wants to hear of new topics.
#[derive(Debug)]
pub(crate) struct Watcher(Weak<Connection>);

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(connection) = self.0.upgrade() {
            connection.watchers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Waits until a broker answers; says which. What is refused is refused at once.
fn reach(tools: &BaseConsumer<LinkContext>, link: &Link, within: Duration) -> Result<i32> {
    let until = std::time::Instant::now() + within;
    loop {
        // Serves what the library has to say.
        let _ = tools.poll(Duration::ZERO);
        let refused = lock(&link.last).clone();
        if let Some(refused) = refused.filter(|e| e.kind() == ErrorKind::Unauthorized) {
            return Err(refused);
        }
        let left = until.saturating_duration_since(std::time::Instant::now());
        let step = left.min(Duration::from_millis(500)).max(Duration::from_millis(1));
        match tools.fetch_metadata(Some("_fabric.groups"), step) {
            Ok(metadata) => return Ok(metadata.orig_broker_id()),
            Err(error) if left.is_zero() => {
                let _ = tools.poll(Duration::ZERO);
                return Err(match link.explain(from_kafka(&error)) {
                    error if error.kind() == ErrorKind::Timeout => Error::new(
                        ErrorKind::Connect,
                        format!("no broker answered within {within:?}"),
                    )
                    .with_backend(NAME)
                    .with_source(error),
                    error => error,
                });
            }
            Err(_) => {}
        }
    }
}

/// The largest batch that a broker takes, and how many partitions it gives a topic.
async fn broker_settings(
    admin: &AdminClient<LinkContext>,
    node: i32,
    within: Duration,
) -> (usize, u32) {
    let asked = [ResourceSpecifier::Broker(node)];
    let options = AdminOptions::new().request_timeout(Some(within));
    let found = admin.describe_configs(&asked, &options).await;
    let found = found.ok().and_then(|list| list.into_iter().next()?.ok());
    let limit = found.as_ref().and_then(|found| number(found, "message.max.bytes"));
    let partitions = found.as_ref().and_then(|found| number(found, "num.partitions"));
    let partitions = partitions.and_then(|count| u32::try_from(count).ok());
    // Who may not ask has to take the defaults for true.
    (limit.unwrap_or(DEFAULT_LIMIT), partitions.unwrap_or(1))
}

/// Has a client of the library learn the leaders of the topics in `list`, which it would look for once
/// a second only. Blocks; what fails is looked for later.
pub(crate) fn learn<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
    within: Duration,
) {
    const FEW: usize = 8;
    let elements = list.elements();
    let names: std::collections::BTreeSet<&str> = elements.iter().map(|e| e.topic()).collect();
    let learnt = if names.len() > FEW {
        consumer.fetch_metadata(None, within).map(drop)
    } else {
        names.into_iter().try_for_each(|name| consumer.fetch_metadata(Some(name), within).map(drop))
    };
    if let Err(error) = learnt {
        tracing::debug!(%error, "looking for the leaders of topics");
    }
}

fn number(resource: &ConfigResource, name: &str) -> Option<usize> {
    resource.get(name)?.value.as_ref()?.parse().ok()
}

pub(crate) fn absent(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no topic `{name}` on the broker"))
        .with_backend(NAME)
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "this fabric is closed").with_backend(NAME)
}

pub(crate) fn no_thread(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Backend, "no thread could be started")
        .with_backend(NAME)
        .with_source(error)
}

fn panicked(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Closed, "what asked the broker panicked")
        .with_backend(NAME)
        .with_source(error)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
