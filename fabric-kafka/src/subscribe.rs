//! Subscriptions without a group: every partition from a fixed offset, in a thread of their own.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use fabric_core::clock::Now;
use fabric_core::wire::Reader;
use fabric_core::{
    Chunk, Error, ErrorKind, Event, MAX_CHUNK, NoticeKind, Patterns, Places, Position, Result,
    Source, Start, SubscribeOptions, Subscription, Timestamp, Topic,
};
use futures_core::future::BoxFuture;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::connection::{Asked, Connection, LinkContext, Watcher, learn, no_thread};
use crate::discovery::TopicMeta;
use crate::error::{NAME, from_code, from_kafka};
use crate::feed::{Feed, SILENT};
use crate::places::Offsets;
use crate::record::{STYLE, decode};
use crate::schedule::Schedule;

/// How many events that are not due yet a subscription holds back before it reads no further.
const MAX_DELAYED: usize = 10_000;

/// An open subscription, as its connection knows it.
pub(crate) trait Open: Send + Sync {
    /// The broker was asked which topics there are.
    fn look(&self);

    /// The definitions of groups were read.
    fn compare(&self) {}

    /// Whether it is a member of a group.
    fn is_member(&self) -> bool {
        false
    }

    /// Ends it: what is held may be settled until then.
    fn close(self: Arc<Self>, until: Instant) -> BoxFuture<'static, Result<()>>;
}

/// A subscription without a group, as user and reader share it.
struct Plain {
    feed: Feed,
}

impl Open for Plain {
    fn look(&self) {
        self.feed.look();
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, Result<()>> {
        self.feed.stop();
        self.feed.clear();
        self.feed.end(None);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Connection {
    /// Opens a subscription without a group.
    ///
    /// # Errors
    /// `NotFound` for a position, `Connect`, `Timeout`, `Unauthorized`, `Closed`.
    ///
    /// # Cancel safety
    /// Nothing stays behind.
    pub(crate) async fn subscribe(
        self: &Arc<Self>,
        options: SubscribeOptions,
    ) -> Result<Subscription> {
        let SubscribeOptions { patterns, start, prefetch, .. } = options;
        let start = start.unwrap_or(Start::New);
        let bound = prefetch.unwrap_or(self.config.prefetch);
        let watcher = self.watch();
        let plain = Arc::new(Plain { feed: Feed::default() });
        let shared = Arc::clone(&plain);
        let begun = self.blocking(move |connection| {
            let catalogue = connection.refresh()?;
            let offsets = connection.resolve(&catalogue, &patterns, &start)?;
            let not_before = match start {
                Start::Time(time) => Some(time.as_millis()),
                _ => None,
            };
            let mut reading = Reading::begin(connection, shared, patterns, bound, not_before)?;
            reading.take_up(&catalogue, Some(&offsets))?;
            reading.spawn()
        });
        let source = PlainSource { plain, thread: Some(begun.await?), _watcher: watcher };
        self.check_open()?;
        let open: Arc<dyn Open> = Arc::clone(&source.plain) as Arc<dyn Open>;
        self.enlist(Arc::downgrade(&open));
        Ok(Subscription::from_source(source))
    }
}

struct PlainSource {
    plain: Arc<Plain>,
    thread: Option<JoinHandle<()>>,
    _watcher: Watcher,
}

impl Source for PlainSource {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let next = self.plain.feed.poll(cx);
        if next.is_ready() {
            self.plain.feed.nourish();
        }
        next
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.plain.feed.stop();
        Poll::Ready(Ok(()))
    }
}

impl Drop for PlainSource {
    fn drop(&mut self) {
        // The thread ends by itself; nobody has to wait for it.
        self.plain.feed.stop();
        drop(self.thread.take());
    }
}

/// One partition that is read.
struct Lane {
    topic: Topic,
    id: u64,
    next: i64,
}

/// What reads, in its thread.
struct Reading {
    connection: Arc<Connection>,
    plain: Arc<Plain>,
    consumer: BaseConsumer<LinkContext>,
    patterns: Patterns,
    bound: usize,
    /// Nothing that was stored before, in milliseconds.
    not_before: Option<i64>,
    lanes: HashMap<String, Vec<Lane>>,
    reader: Reader,
    delayed: Schedule<Item, Instant>,
}

/// One event on its way.
struct Item {
    event: Event,
    place: Position,
    fault: Option<Error>,
}

impl Reading {
    fn begin(
        connection: &Arc<Connection>,
        plain: Arc<Plain>,
        patterns: Patterns,
        bound: usize,
        not_before: Option<i64>,
    ) -> Result<Self> {
        let context = LinkContext(Arc::clone(connection.link()));
        let mut consumer: BaseConsumer<LinkContext> = connection
            .reader_config()
            .create_with_context(context)
            .map_err(|error| from_kafka(&error))?;
        let woken = Arc::clone(&plain);
        consumer.set_nonempty_callback(move || woken.feed.wake_reader());
        Ok(Self {
            connection: Arc::clone(connection),
            plain,
            consumer,
            patterns,
            bound,
            not_before,
            lanes: HashMap::new(),
            reader: Reader::new(STYLE),
            delayed: Schedule::new(),
        })
    }

    fn spawn(mut self) -> Result<JoinHandle<()>> {
        let plain = Arc::clone(&self.plain);
        let thread = std::thread::Builder::new()
            .name("kafka-reader".into())
            .spawn(move || self.run())
            .map_err(no_thread)?;
        plain.feed.set_reader(thread.thread().clone());
        // It may have parked before it was known.
        thread.thread().unpark();
        Ok(thread)
    }

    fn run(&mut self) {
        while !self.plain.feed.is_stopped() && self.connection.check_open().is_ok() {
            if self.plain.feed.take_look() {
                let catalogue = self.connection.catalogue();
                if let Err(error) = self.take_up(&catalogue, None) {
                    self.plain.feed.push(Err(error));
                }
            }
            let more = self.step();
            if !more {
                std::thread::park_timeout(self.pause());
            }
        }
        self.plain.feed.end(None);
    }

    /// How long to wait if nobody wakes us.
    fn pause(&self) -> Duration {
        const LONGEST: Duration = Duration::from_millis(500);
        let due = self.delayed.next().map(|due| due.saturating_duration_since(Instant::now()));
        due.unwrap_or(LONGEST).min(LONGEST)
    }

    /// Reads some; whether there may be more.
    fn step(&mut self) -> bool {
        let mut items = Vec::new();
        let now = Now::read();
        while items.len() < MAX_CHUNK
            && let Some(item) = self.delayed.pop(now.instant)
        {
            items.push(item);
        }
        let (mut empty, mut silent) = (false, 0);
        if self.plain.feed.unread() >= self.bound {
            self.plain.feed.starve();
            empty = self.plain.feed.unread() >= self.bound;
        }
        let room = self.bound.saturating_sub(self.plain.feed.unread()).min(MAX_CHUNK);
        while !empty && items.len() < room && self.delayed.len() < MAX_DELAYED {
            // Borrowed apart, since a record borrows the consumer.
            let Self { consumer, lanes, reader, not_before, delayed, .. } = self;
            match consumer.poll(Duration::ZERO) {
                None => {
                    silent += 1;
                    empty = silent == SILENT;
                }
                Some(Ok(record)) => {
                    if let Some(item) = take(lanes, reader, *not_before, &record) {
                        match item.event.deliver_at().filter(|due| *due > now.wall) {
                            Some(due) => delayed.push(fabric_core::clock::instant_at(due), item),
                            None => items.push(item),
                        }
                    }
                }
                Some(Err(error)) => self.trouble(&error),
            }
        }
        if !items.is_empty() {
            self.plain.feed.push(Ok(Arc::new(chunk(items, now.wall))));
            return true;
        }
        !empty
    }

    /// Reads the topics that came, and those that were made anew, from their beginning; at first
    /// from where the subscription begins.
    fn take_up(
        &mut self,
        catalogue: &crate::discovery::Catalogue,
        first: Option<&Offsets>,
    ) -> Result<()> {
        let mut places = TopicPartitionList::new();
        let mut gone = TopicPartitionList::new();
        let topics: Vec<Arc<TopicMeta>> = catalogue.matching(&self.patterns).cloned().collect();
        let is_known = |meta: &&Arc<TopicMeta>| {
            let lanes = self.lanes.get(&meta.name);
            lanes.is_some_and(|all| {
                all.len() as i32 >= meta.partitions && all.first().is_some_and(|l| l.id == meta.id)
            })
        };
        let fresh = topics.iter().filter(|meta| first.is_none() && !is_known(meta));
        // To begin at a number takes the library no time of its own, unlike to begin at the beginning.
        let begins = self.connection.offsets(fresh, Asked::Beginning).unwrap_or_default();
        for meta in topics {
            let Some(topic) = meta.topic.clone() else { continue };
            let lanes = self.lanes.entry(meta.name.clone()).or_default();
            if lanes.first().is_some_and(|lane| lane.id != meta.id) {
                for partition in 0..lanes.len() {
                    gone.add_partition(&meta.name, partition as i32);
                }
                lanes.clear();
            }
            for partition in lanes.len()..meta.partitions.max(0) as usize {
                let known = first.unwrap_or(&begins).get(&meta.name);
                let known = known.and_then(|offsets| offsets.get(partition));
                let next = known.copied();
                lanes.push(Lane { topic: topic.clone(), id: meta.id, next: next.unwrap_or(0) });
                let offset = next.map_or(Offset::Beginning, Offset::Offset);
                places
                    .add_partition_offset(&meta.name, partition as i32, offset)
                    .map_err(|error| from_kafka(&error))?;
            }
        }
        if gone.count() > 0 {
            self.consumer.incremental_unassign(&gone).map_err(|error| from_kafka(&error))?;
        }
        if places.count() > 0 {
            learn(&self.consumer, &places, self.connection.config.connect_timeout);
            self.consumer.incremental_assign(&places).map_err(|error| from_kafka(&error))?;
        }
        Ok(())
    }

    fn trouble(&mut self, error: &KafkaError) {
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                if let Err(error) = self.catch_up() {
                    self.plain.feed.push(Err(error));
                }
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId) => {
                self.connection.look_again();
            }
            Some(code) if from_code(code).kind() == ErrorKind::Unauthorized => {
                self.plain.feed.push(Err(from_code(code)));
            }
            // The library goes on by itself.
            _ => tracing::debug!(%error, "reading on after an error"),
        }
    }

    /// Goes on with the oldest events that are left where the next were dropped, and says how many.
    fn catch_up(&mut self) -> Result<()> {
        let catalogue = self.connection.refresh()?;
        let topics: Vec<Arc<TopicMeta>> =
            self.lanes.keys().filter_map(|name| catalogue.topic(name).cloned()).collect();
        let begins = self.connection.offsets(&topics, Asked::Beginning)?;
        let (mut missed, mut moved) = (0, TopicPartitionList::new());
        for (name, lanes) in &mut self.lanes {
            let Some(begins) = begins.get(name) else { continue };
            for (partition, (lane, begin)) in lanes.iter_mut().zip(begins).enumerate() {
                if lane.next < *begin {
                    missed += (begin - lane.next).unsigned_abs();
                    lane.next = *begin;
                    moved
                        .add_partition_offset(name, partition as i32, Offset::Offset(*begin))
                        .map_err(|error| from_kafka(&error))?;
                }
            }
        }
        if moved.count() > 0 {
            self.consumer.incremental_unassign(&moved).map_err(|error| from_kafka(&error))?;
            self.consumer.incremental_assign(&moved).map_err(|error| from_kafka(&error))?;
        }
        if missed > 0 {
            self.connection.notices.send(NoticeKind::Lagging { group: None, missed });
            self.plain.feed.push(Err(Error::lagged(missed).with_backend(NAME)));
        }
        Ok(())
    }
}

/// What a record says, if it is wanted.
fn take(
    lanes: &mut HashMap<String, Vec<Lane>>,
    reader: &mut Reader,
    not_before: Option<i64>,
    record: &BorrowedMessage<'_>,
) -> Option<Item> {
    let lane = lanes.get_mut(record.topic())?.get_mut(record.partition() as usize)?;
    if record.offset() < lane.next {
        return None;
    }
    lane.next = record.offset() + 1;
    if not_before.is_some_and(|time| record.timestamp().to_millis().is_some_and(|at| at < time)) {
        return None;
    }
    let place = Position::new(lane.topic.clone(), lane.id, record.offset() as u128)
        .with_partition(record.partition() as u32);
    let received = decode(reader, &lane.topic, record).received;
    Some(Item { event: received.event, place, fault: received.fault })
}

fn chunk(items: Vec<Item>, now: Timestamp) -> Chunk {
    let len = items.len();
    let (mut events, mut places, mut faults) =
        (Vec::with_capacity(len), Vec::with_capacity(len), Vec::new());
    for (n, item) in items.into_iter().enumerate() {
        events.push(item.event);
        places.push(item.place);
        faults.extend(item.fault.map(|fault| (n, fault)));
    }
    let chunk = Chunk::new(Arc::new(events), 0, len, now)
        .with_places(Places::Each(places.into_boxed_slice()));
    faults.into_iter().fold(chunk, |chunk, (n, fault)| chunk.with_fault(n, fault))
}
