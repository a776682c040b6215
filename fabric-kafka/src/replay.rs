//! Replay: partition after partition, up to where each ended when it began.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fabric_core::wire::Reader;
use fabric_core::{
    Chunk, End, Error, ErrorKind, Event, MAX_CHUNK, Places, Position, ReplayOptions, Result,
    Source, Subscription, Timestamp, Topic,
};
use futures_core::future::BoxFuture;
use rdkafka::Message as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::time::Instant;

use crate::connection::{Asked, Connection, no_thread};
use crate::error::NAME;
use crate::feed::Feed;
use crate::record::{STYLE, decode};
use crate::subscribe::Open;

/// A stretch of one partition.
struct Range {
    name: String,
    topic: Topic,
    id: u64,
    partition: i32,
    from: i64,
    end: i64,
}

impl Connection {
    /// Reads what is kept.
    ///
    /// # Errors
    /// `NotFound` for a position, `Connect`, `Timeout`, `Unauthorized`, `Closed`.
    ///
    /// # Cancel safety
    /// Nothing stays behind.
    pub(crate) async fn replay(self: &Arc<Self>, options: ReplayOptions) -> Result<Subscription> {
        self.check_open()?;
        let shared = Arc::new(History { feed: Feed::default() });
        let open: Arc<dyn Open> = Arc::clone(&shared) as Arc<dyn Open>;
        self.enlist(Arc::downgrade(&open));
        let (history, bound) = (Arc::clone(&shared), self.config.prefetch);
        self.blocking(move |connection| {
            let ranges = connection.ranges(&options)?;
            let connection = Arc::clone(connection);
            let left = options.limit.unwrap_or(u64::MAX);
            let thread = std::thread::Builder::new()
                .name("kafka-replay".into())
                .spawn({
                    let history = Arc::clone(&history);
                    move || {
                        let last = read(&connection, &history, ranges, left, bound).err();
                        history.feed.end(last);
                    }
                })
                .map_err(no_thread)?;
            history.feed.set_reader(thread.thread().clone());
            thread.thread().unpark();
            Ok(())
        })
        .await?;
        Ok(Subscription::from_source(ReplaySource(shared)))
    }

    /// What to read. Blocks.
    fn ranges(&self, options: &ReplayOptions) -> Result<Vec<Range>> {
        let catalogue = self.refresh()?;
        let topics: Vec<_> = catalogue.matching(&options.patterns).cloned().collect();
        let begins = self.offsets(&topics, Asked::Beginning)?;
        let mut ends = self.offsets(&topics, Asked::End)?;
        let starts = self.resolve(&catalogue, &options.patterns, &options.start)?;
        match &options.end {
            End::Kept => {}
            End::Time(time) => {
                let millis = time.as_millis().saturating_add(1);
                for (name, offsets) in self.offsets(&topics, Asked::Time(millis))? {
                    let Some(ends) = ends.get_mut(&name) else { continue };
                    for (end, offset) in ends.iter_mut().zip(offsets).filter(|(_, at)| *at >= 0) {
                        *end = offset.min(*end);
                    }
                }
            }
            End::At(position) => {
                let start = fabric_core::Start::After(position.clone());
                let at = self.resolve(&catalogue, &options.patterns, &start)?;
                ends.extend(at);
            }
            other => return Err(Error::unsupported(format_args!("an end at {other:?}"), NAME)),
        }
        let mut ranges = Vec::new();
        for meta in topics {
            let Some(topic) = &meta.topic else { continue };
            for partition in 0..meta.partitions {
                let at = partition as usize;
                let from = starts[&meta.name][at].max(begins[&meta.name][at]);
                let end = ends[&meta.name][at];
                if from < end {
                    let (name, topic, id) = (meta.name.clone(), topic.clone(), meta.id);
                    ranges.push(Range { name, topic, id, partition, from, end });
                }
            }
        }
        ranges.sort_by(|a, b| (&a.name, a.partition).cmp(&(&b.name, b.partition)));
        Ok(ranges)
    }
}

struct History {
    feed: Feed,
}

impl Open for History {
    fn look(&self) {}

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, Result<()>> {
        self.feed.stop();
        self.feed.clear();
        self.feed.end(None);
        Box::pin(std::future::ready(Ok(())))
    }
}

struct ReplaySource(Arc<History>);

impl Source for ReplaySource {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let next = self.0.feed.poll(cx);
        if next.is_ready() {
            self.0.feed.nourish();
        }
        next
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.feed.stop();
        Poll::Ready(Ok(()))
    }
}

impl Drop for ReplaySource {
    fn drop(&mut self) {
        self.0.feed.stop();
    }
}

fn read(
    connection: &Arc<Connection>,
    history: &History,
    ranges: Vec<Range>,
    mut left: u64,
    bound: usize,
) -> Result<()> {
    let mut reader = Reader::new(STYLE);
    for range in ranges {
        if left == 0 {
            break;
        }
        read_one(connection, history, &range, &mut left, bound, &mut reader)?;
    }
    Ok(())
}

fn read_one(
    connection: &Arc<Connection>,
    history: &History,
    range: &Range,
    left: &mut u64,
    bound: usize,
    reader: &mut Reader,
) -> Result<()> {
    let mut consumer = connection.finite_reader(&range.name, range.partition, range.from)?;
    let (mut next, mut batch) = (range.from, Batch::default());
    let mut silent = std::time::Instant::now();
    while next < range.end && *left > 0 {
        if history.feed.is_stopped() || connection.check_open().is_err() {
            return Ok(());
        }
        if history.feed.unread() >= bound {
            batch.flush(history);
            history.feed.starve();
            if history.feed.unread() >= bound {
                std::thread::park_timeout(Duration::from_millis(500));
            }
            silent = std::time::Instant::now();
            continue;
        }
        let wait =
            if batch.events.is_empty() { Duration::from_millis(100) } else { Duration::ZERO };
        match consumer.poll(wait) {
            Some(Ok(record)) => {
                silent = std::time::Instant::now();
                if record.offset() < next {
                    continue;
                }
                if record.offset() >= range.end {
                    break;
                }
                next = record.offset() + 1;
                let received = decode(reader, &range.topic, &record).received;
                let now = Timestamp::now();
                // Neither what is dead nor what is not due belongs to the past.
                if received.event.expires_at().is_some_and(|at| at <= now)
                    || received.event.deliver_at().is_some_and(|at| at > now)
                {
                    continue;
                }
                let place = Position::new(range.topic.clone(), range.id, record.offset() as u128);
                let place = place.with_partition(range.partition as u32);
                batch.push(received.event, place, received.fault);
                *left -= 1;
                if batch.events.len() == MAX_CHUNK {
                    batch.flush(history);
                }
            }
            // Everything below the end was read: what is between belongs to nobody.
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                    let meta = connection.describe(&range.name)?;
                    if meta.id != range.id {
                        batch.flush(history);
                        return Err(gone(range));
                    }
                    let begins = connection.offsets([&meta], Asked::Beginning)?;
                    let begin = begins[&range.name][range.partition as usize];
                    batch.flush(history);
                    if begin > next {
                        let missed = begin.min(range.end) - next;
                        let lagged = Error::lagged(missed.unsigned_abs()).with_backend(NAME);
                        history.feed.push(Err(lagged));
                        next = begin;
                    }
                    drop(consumer);
                    consumer = connection.finite_reader(&range.name, range.partition, next)?;
                }
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId) => {
                    batch.flush(history);
                    return Err(gone(range));
                }
                _ => {}
            },
            None if !batch.events.is_empty() => batch.flush(history),
            None => {
                // A broker that went away comes back; one that is silent for long is told.
                if silent.elapsed() > 4 * connection.config.connect_timeout {
                    let text = format!("`{}` could not be read on in time", range.name);
                    return Err(Error::new(ErrorKind::Timeout, text).with_backend(NAME));
                }
            }
        }
    }
    batch.flush(history);
    Ok(())
}

fn gone(range: &Range) -> Error {
    let text = format!("the topic `{}` was removed during its replay", range.topic);
    Error::new(ErrorKind::NotFound, text).with_backend(NAME)
}

/// Events on their way.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    places: Vec<Position>,
    faults: Vec<(usize, Error)>,
}

impl Batch {
    fn push(&mut self, event: Event, place: Position, fault: Option<Error>) {
        self.faults.extend(fault.map(|fault| (self.events.len(), fault)));
        self.events.push(event);
        self.places.push(place);
    }

    fn flush(&mut self, history: &History) {
        let Self { events, places, faults } = std::mem::take(self);
        if events.is_empty() {
            return;
        }
        let len = events.len();
        let chunk = Chunk::new(Arc::new(events), 0, len, Timestamp::now())
            .with_places(Places::Each(places.into_boxed_slice()));
        let chunk = faults.into_iter().fold(chunk, |chunk, (n, fault)| chunk.with_fault(n, fault));
        history.feed.push(Ok(Arc::new(chunk)));
    }
}
