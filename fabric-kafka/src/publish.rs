//! Publishing: handed to the client library in order, within a bound, and answered by its reports.

mod answers;
mod room;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use fabric_core::{
    Batch, Confirms, Error, ErrorKind, Event, NoticeKind, Outcomes, Position, Receipt, Result,
    RetryClass, Topic,
};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer,
};
use rdkafka::{ClientConfig, Message as _};
use serde::Serialize;
use tokio::time::Instant;

use crate::config::KafkaConfig;
use crate::connection::{Connection, Link, LinkContext, absent, closed, lock, log};
use crate::discovery::{Catalogue, TopicMeta};
use crate::error::{NAME, from_kafka};
use crate::names::collision;
use crate::record::{Copied, Encoded, encode, encode_copy};
use crate::sys::{Persisted, persisted};
use answers::Answers;
use room::{Room, Share};

/// The largest batch that the client library gathers by itself.
const BATCH: usize = 1_000_000;

type Producer = ThreadedProducer<Reports>;

/// What publishes, for one client.
pub(crate) struct Publisher {
    config: KafkaConfig,
    link: Arc<Link>,
    room: Arc<Room>,
    targets: RwLock<HashMap<Topic, Arc<Target>>>,
    /// By the largest batch that the topics behind it take.
    producers: Arc<Mutex<HashMap<usize, Arc<Producer>>>>,
    /// How many submits wait.
    waiting: AtomicUsize,
}

/// Where the events of one topic go.
pub(crate) struct Target {
    name: String,
    topic: Topic,
    id: u64,
    limit: usize,
    producer: Arc<Producer>,
}

/// What comes back with a report.
pub(crate) struct Ticket {
    answers: Arc<Answers>,
    index: u32,
    topic: Topic,
    id: u64,
    share: Share,
}

impl Publisher {
    pub(crate) fn new(config: &KafkaConfig, link: Arc<Link>) -> Self {
        Self {
            config: config.clone(),
            link,
            room: Arc::new(Room::new(config.max_in_flight, config.queue_bytes)),
            targets: RwLock::default(),
            producers: Arc::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Hands a batch over if that takes no waiting.
    pub(crate) fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if batch.events.is_empty() || self.waiting.load(Ordering::SeqCst) > 0 {
            return Err(batch);
        }
        if let [event] = batch.events.as_slice() {
            let Some(target) = self.target(event.topic()) else { return Err(batch) };
            let Some(share) = self.room.try_take(event.size_in_memory()) else { return Err(batch) };
            let answers = Answers::new(1);
            self.hand_over(&target, encode(event), share, &answers, 0);
            return Ok(Answers::confirms(answers));
        }
        let targets: Option<Vec<_>> =
            batch.events.iter().map(|event| self.target(event.topic())).collect();
        let Some(targets) = targets else { return Err(batch) };
        let sizes = batch.events.iter().map(Event::size_in_memory);
        let Some(shares) = self.room.try_take_all(sizes) else { return Err(batch) };
        let answers = Answers::new(batch.events.len());
        for (index, ((event, target), share)) in
            batch.events.iter().zip(targets).zip(shares).enumerate()
        {
            self.hand_over(&target, encode(event), share, &answers, index);
        }
        Ok(Answers::confirms(answers))
    }

    /// Hands a batch over, waiting for its topics to be there and for room.
    pub(crate) async fn submit(
        &self,
        connection: &Arc<Connection>,
        batch: Batch,
    ) -> Result<Confirms> {
        connection.check_open()?;
        if batch.events.is_empty() {
            let room = Arc::clone(&self.room);
            return Ok(Confirms::pending(async move {
                room.emptied().await;
                Outcomes::each([])
            }));
        }
        let _waiting = Waiting::begin(&self.waiting);
        let deadline = batch.deadline();
        let answers = Answers::new(batch.events.len());
        for (index, event) in batch.events.iter().enumerate() {
            match self.prepared(connection, event, deadline).await {
                Ok((target, share)) => {
                    // Whoever closed meanwhile waits for no more than was handed over before.
                    match connection.check_open() {
                        Ok(()) => self.hand_over(&target, encode(event), share, &answers, index),
                        Err(error) => answers.set(index, Err(error)),
                    }
                }
                Err(error) => answers.set(index, Err(error.with("topic", event.topic()))),
            }
        }
        Ok(Answers::confirms(answers))
    }

    async fn prepared(
        &self,
        connection: &Arc<Connection>,
        event: &Event,
        deadline: Option<Instant>,
    ) -> Result<(Arc<Target>, Share)> {
        let preparing = async {
            let target = self.find(connection, event.topic()).await?;
            let size = event.size_in_memory();
            let share = match self.room.try_take(size) {
                Some(share) => share,
                None => {
                    let topic = event.topic().clone();
                    connection.notices.send(NoticeKind::Full { topic, group: None });
                    self.room.take(size).await?
                }
            };
            Ok((target, share))
        };
        match deadline {
            None => preparing.await,
            Some(deadline) => {
                let late = || {
                    Err(Error::new(
                        ErrorKind::Full,
                        "there was no room for the event among those that are not confirmed yet",
                    )
                    .with_backend(NAME))
                };
                tokio::time::timeout_at(deadline, preparing).await.unwrap_or_else(|_| late())
            }
        }
    }

    /// Copies events into a topic of one group's own, to wait there.
    ///
    /// # Errors
    /// `Closed`, and as making a topic.
    ///
    /// # Cancel safety
    /// Any first part of the events may have been taken.
    pub(crate) async fn copy(
        &self,
        connection: &Arc<Connection>,
        name: &str,
        copies: impl IntoIterator<Item = (&Event, Copied)> + Send,
    ) -> Result<Confirms> {
        let meta = connection.ensure(name).await?;
        let copies: Vec<(&Event, Copied)> = copies.into_iter().collect();
        let answers = Answers::new(copies.len());
        let topic = meta.topic.clone().ok_or_else(|| absent(name))?;
        let target = self.target_of(connection, topic, &meta).await?;
        for (index, (event, copied)) in copies.iter().enumerate() {
            let share = self.room.take(event.size_in_memory()).await?;
            self.hand_over(&target, encode_copy(event, copied), share, &answers, index);
        }
        Ok(Answers::confirms(answers))
    }

    /// Writes a record that is no event, and waits until it is kept.
    ///
    /// # Errors
    /// As a publish.
    ///
    /// # Cancel safety
    /// It may have been written.
    pub(crate) async fn write(
        &self,
        connection: &Arc<Connection>,
        name: &str,
        record: &(impl Serialize + Sync),
    ) -> Result<()> {
        let meta = connection.ensure(name).await?;
        let topic = meta.topic.clone().ok_or_else(|| absent(name))?;
        let target = self.target_of(connection, topic, &meta).await?;
        let json = serde_json::to_vec(record).map_err(|error| {
            Error::new(ErrorKind::Codec, "a definition could not be written").with_source(error)
        })?;
        let size = json.len() + 128;
        let share = self.room.take(size).await?;
        let answers = Answers::new(1);
        let headers = rdkafka::message::OwnedHeaders::new();
        let encoded = Encoded { key: None, value: json.into(), headers, size };
        self.hand_over(&target, Ok(encoded), share, &answers, 0);
        let outcome = Answers::confirms(answers).await.into_vec().pop();
        outcome.unwrap_or_else(|| Err(closed())).map(drop)
    }

    /// Forgets the topics that are others than they were.
    pub(crate) fn compare(&self, catalogue: &Catalogue) {
        let is_same = |target: &Target| {
            catalogue.topic(&target.name).is_some_and(|meta| meta.id == target.id)
        };
        let all_same = self.read_targets().values().all(|target| is_same(target));
        if !all_same {
            self.write_targets().retain(|_, target| is_same(target));
        }
    }

    /// Waits until everything is answered; what is not by `deadline` is given up.
    ///
    /// # Errors
    /// `Timeout` where something was given up.
    ///
    /// # Cancel safety
    /// As after the deadline, save that answers come later.
    pub(crate) async fn close(&self, deadline: Instant) -> Result<()> {
        let emptied = tokio::time::timeout_at(deadline, self.room.emptied()).await;
        let producers: Vec<_> = lock(&self.producers).values().cloned().collect();
        let left = emptied.is_err();
        if left {
            for producer in &producers {
                producer.purge(PurgeConfig::default().queue().inflight());
            }
            // The reports of what was purged come by the thread that polls.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.room.emptied()).await;
        }
        self.room.shut();
        lock(&self.producers).clear();
        self.write_targets().clear();
        // Ending a client of the library waits for its threads.
        let _ = tokio::task::spawn_blocking(move || drop(producers)).await;
        if left {
            let text = "some events were not confirmed in time; nobody knows of them";
            return Err(Error::new(ErrorKind::Timeout, text).with_backend(NAME));
        }
        Ok(())
    }

    // Targets.

    fn target(&self, topic: &Topic) -> Option<Arc<Target>> {
        self.read_targets().get(topic).cloned()
    }

    /// The target for a topic, which is made if it is not there.
    async fn find(&self, connection: &Arc<Connection>, topic: &Topic) -> Result<Arc<Target>> {
        if let Some(target) = self.target(topic) {
            return Ok(target);
        }
        let name = connection.names.topic(topic)?;
        if let Some(twin) = connection.catalogue().twin(&name) {
            return Err(collision(topic, twin));
        }
        let meta = if connection.config.create_topics || topic.is_reserved() {
            match connection.catalogue().topic(&name) {
                Some(meta) => Arc::clone(meta),
                None => connection.ensure(&name).await?,
            }
        } else {
            connection.blocking(move |connection| connection.describe(&name)).await?
        };
        let target = self.target_of(connection, topic.clone(), &meta).await?;
        self.write_targets().insert(topic.clone(), Arc::clone(&target));
        Ok(target)
    }

    async fn target_of(
        &self,
        connection: &Arc<Connection>,
        topic: Topic,
        meta: &TopicMeta,
    ) -> Result<Arc<Target>> {
        if let Some(target) = self.target(&topic).filter(|target| target.id == meta.id) {
            return Ok(target);
        }
        let limit = connection.topic_limit(&meta.name).await;
        let producer = self.producer(limit)?;
        let (learning, name) = (Arc::clone(&producer), meta.name.clone());
        connection
            .blocking(move |connection| {
                // The library looks for the leaders of new topics once a second, unless it knows them.
                let within = connection.config.connect_timeout;
                let found = learning.client().fetch_metadata(Some(&name), within);
                found.map(drop).map_err(|error| connection.explain(&error))
            })
            .await?;
        let target =
            Target { name: meta.name.clone(), topic: topic.clone(), id: meta.id, limit, producer };
        let target = Arc::new(target);
        self.write_targets().insert(topic, Arc::clone(&target));
        Ok(target)
    }

    fn read_targets(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Topic, Arc<Target>>> {
        self.targets.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_targets(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Topic, Arc<Target>>> {
        self.targets.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The producer whose batches fit topics of this limit.
    fn producer(&self, limit: usize) -> Result<Arc<Producer>> {
        let mut producers = lock(&self.producers);
        if let Some(producer) = producers.get(&limit) {
            return Ok(Arc::clone(producer));
        }
        let config = producer_config(&self.config, limit, self.room.bytes());
        let reports =
            Reports { link: LinkContext(Arc::clone(&self.link)), room: Arc::clone(&self.room) };
        let made: Producer =
            config.create_with_context(reports).map_err(|error| from_kafka(&error))?;
        let made = Arc::new(made);
        producers.insert(limit, Arc::clone(&made));
        Ok(made)
    }

    /// A producer that failed for good is replaced by the next publish.
    fn replace(&self, target: &Target) {
        lock(&self.producers).retain(|_, producer| !Arc::ptr_eq(producer, &target.producer));
        self.write_targets().retain(|_, other| !Arc::ptr_eq(&other.producer, &target.producer));
    }

    fn hand_over(
        &self,
        target: &Target,
        encoded: Result<Encoded>,
        share: Share,
        answers: &Arc<Answers>,
        index: usize,
    ) {
        let ticket = Box::new(Ticket {
            answers: Arc::clone(answers),
            index: index as u32,
            topic: target.topic.clone(),
            id: target.id,
            share,
        });
        let encoded = match encoded {
            Ok(encoded) if encoded.size > target.limit => {
                let (size, limit) = (encoded.size, target.limit);
                let text = format!("the event takes {size} bytes, the topic takes {limit}");
                let error = Error::new(ErrorKind::TooLarge, text).with_backend(NAME);
                return self.refuse(*ticket, error);
            }
            Ok(encoded) => encoded,
            Err(error) => return self.refuse(*ticket, error),
        };
        let value: &[u8] = &encoded.value;
        let mut record = BaseRecord::with_opaque_to(&target.name, ticket)
            .payload(value)
            .headers(encoded.headers);
        if let Some(key) = &encoded.key {
            record = record.key(key.as_bytes());
        }
        if let Err((error, record)) = target.producer.send(record) {
            if error.rdkafka_error_code() == Some(Code::Fatal)
                || target.producer.client().fatal_error().is_some()
            {
                self.replace(target);
            }
            let error = from_kafka(&error);
            let retry = match error.retry() {
                RetryClass::Ambiguous => RetryClass::Safe,
                known => known,
            };
            self.refuse(*record.delivery_opaque, error.with_retry(retry));
        }
    }

    fn refuse(&self, ticket: Ticket, error: Error) {
        let Ticket { answers, index, topic, share, .. } = ticket;
        self.room.give_back(share);
        answers.set(index as usize, Err(error.with("topic", topic)));
    }
}

fn producer_config(config: &KafkaConfig, limit: usize, queue_bytes: u64) -> ClientConfig {
    let mut producer = config.client();
    // The room bounds what is queued; the library's own bounds lie above it.
    let kbytes = (queue_bytes / 512).clamp(1024, 2_097_151);
    let linger = config.linger.as_micros() as f64 / 1000.0;
    producer
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("compression.type", config.compression.as_str())
        .set("linger.ms", linger.to_string())
        .set("delivery.timeout.ms", config.publish_timeout.as_millis().to_string())
        .set("batch.size", BATCH.min(limit).to_string())
        .set("message.max.bytes", limit.max(1000).to_string())
        .set("queue.buffering.max.messages", (config.max_in_flight * 2).to_string())
        .set("queue.buffering.max.kbytes", kbytes.to_string());
    producer
}

/// Counts one submit that may wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the producers call.
pub(crate) struct Reports {
    link: LinkContext,
    room: Arc<Room>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.link.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, report: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let outcome = match report {
            Ok(record) => Ok(stored(&ticket, record.partition(), record.offset())),
            Err((error, record)) => outcome(error, persisted(record), || {
                stored(&ticket, record.partition(), record.offset())
            }),
        };
        let outcome = outcome.map_err(|error| error.with("topic", &ticket.topic));
        let Ticket { answers, index, share, .. } = *ticket;
        self.room.give_back(share);
        answers.set(index as usize, outcome);
    }
}

fn stored(ticket: &Ticket, partition: i32, offset: i64) -> Receipt {
    // Of a batch that was sent twice the broker tells no place.
    let (Ok(partition), Ok(offset)) = (u32::try_from(partition), u128::try_from(offset)) else {
        return Receipt::ACCEPTED.with_routed(true);
    };
    let position = Position::new(ticket.topic.clone(), ticket.id, offset);
    Receipt::stored(position.with_partition(partition))
}

/// One of three outcomes: the error tells why, the status tells what is known.
fn outcome(
    error: &KafkaError,
    status: Persisted,
    stored: impl FnOnce() -> Receipt,
) -> Result<Receipt> {
    let error = from_kafka(error);
    match status {
        Persisted::Yes => Ok(stored()),
        Persisted::Perhaps => Err(error.with_retry(RetryClass::Ambiguous)),
        Persisted::No if error.retry() == RetryClass::Ambiguous => {
            Err(error.with_retry(RetryClass::Safe))
        }
        Persisted::No => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_decides_what_is_known_and_not_the_error() {
        let table = [
            (Code::MessageTimedOut, Persisted::No, Some(RetryClass::Safe)),
            (Code::MessageTimedOut, Persisted::Perhaps, Some(RetryClass::Ambiguous)),
            (Code::MessageTimedOut, Persisted::Yes, None),
            (Code::MessageSizeTooLarge, Persisted::No, Some(RetryClass::Never)),
            (Code::PurgeInflight, Persisted::Perhaps, Some(RetryClass::Ambiguous)),
            (Code::PurgeQueue, Persisted::No, Some(RetryClass::Never)),
            (Code::NotEnoughReplicasAfterAppend, Persisted::Perhaps, Some(RetryClass::Ambiguous)),
        ];
        for (code, status, expected) in table {
            let error = KafkaError::MessageProduction(code);
            let outcome = outcome(&error, status, || Receipt::ACCEPTED);
            assert_eq!(outcome.err().map(|error| error.retry()), expected, "{code:?} {status:?}");
        }
    }

    #[test]
    fn a_batch_never_grows_past_what_the_topic_takes() {
        let config = KafkaConfig::new(["localhost:9092"]);
        for (limit, batch) in [(5_000, "5000"), (1_048_588, "1000000")] {
            let producer = producer_config(&config, limit, 1 << 26);
            assert_eq!(producer.get("batch.size"), Some(batch));
            assert_eq!(producer.get("message.max.bytes"), Some(limit.to_string().as_str()));
        }
    }
}
