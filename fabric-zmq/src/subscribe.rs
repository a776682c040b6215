//! Subscribing: one socket for all subscriptions of a client, read by one task.
//!
//! The socket has to be entered for libzmq to answer a new connection with the subscriptions, so it
//! is read whether or not anybody reads a subscription; what waits too long is dropped and counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fabric_core::wire::Reader as Decoder;
use fabric_core::wire::block::{self, Block, Kind, Stamp};
use fabric_core::{Error, ErrorKind, Event, Pattern, PatternTrie, Patterns, Result, Topic};
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;
use zmq::Socket;

use crate::control;
use crate::error::{closed, from_zmq};
use crate::parts::{COPIED, Parts, taken};
use crate::queue::{Bound, Queue, Wakes};
use crate::request::Requested;
use crate::sequence::entries;
use crate::sys::Part;
use crate::track::{Publishers, Seen, Sender, Tick, Track};

/// How many messages are taken before others have their turn.
const TURN: usize = 256;

/// The subscribing side of a client.
pub(crate) struct Receiver {
    socket: Mutex<Option<Socket>>,
    table: Mutex<Table>,
    /// How many of those on the other side are connected.
    links: AtomicUsize,
    /// The driver has something to look at.
    pub(crate) poke: Notify,
    pub(crate) counts: Counts,
    max_topics: usize,
    raw: bool,
    own: Sender,
    /// Where requests go whose responder has just left.
    astray: mpsc::Sender<Astray>,
}

/// A request for a responder that is no longer here, as it came.
#[derive(Debug)]
pub(crate) struct Astray {
    pub(crate) block: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// What was received, and what was wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    /// Messages that are none of ours.
    pub(crate) foreign: AtomicU64,
    /// Answers for which nobody waited any longer.
    pub(crate) late: AtomicU64,
}

struct Table {
    trie: PatternTrie<u64>,
    queues: HashMap<u64, Arc<Queue>, RandomState>,
    next: u64,
    topics: HashMap<Vec<u8>, Heard, RandomState>,
    publishers: Publishers,
    tick: Tick,
    generation: u64,
    decoder: Decoder,
    markers: HashMap<Uuid, Marker, RandomState>,
    answers: HashMap<u64, oneshot::Sender<Result<Event>>, RandomState>,
    responders: HashMap<Uuid, mpsc::Sender<Requested>, RandomState>,
}

/// What is known of a topic.
struct Heard {
    topic: Topic,
    readers: SmallVec<[Arc<Queue>; 1]>,
    /// Of which state of the subscriptions `readers` is.
    generation: u64,
    track: Track,
}

/// Somebody waits for a subscription to arrive.
struct Marker {
    from: HashSet<Sender, RandomState>,
    queue: Option<Arc<Queue>>,
    done: Option<oneshot::Sender<()>>,
}

impl Receiver {
    pub(crate) fn new(
        own: Sender,
        max_topics: usize,
        raw: bool,
        socket: Socket,
        astray: mpsc::Sender<Astray>,
    ) -> Self {
        let table = Table {
            trie: PatternTrie::new(),
            queues: HashMap::default(),
            next: 0,
            topics: HashMap::default(),
            publishers: Publishers::default(),
            tick: 1,
            generation: 0,
            decoder: Decoder::new(block::STYLE),
            markers: HashMap::default(),
            answers: HashMap::default(),
            responders: HashMap::default(),
        };
        Self {
            socket: Mutex::new(Some(socket)),
            table: Mutex::new(table),
            links: AtomicUsize::new(0),
            poke: Notify::new(),
            counts: Counts::default(),
            max_topics,
            raw,
            own,
            astray,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls into the socket.
    pub(crate) fn with_socket<T>(&self, call: impl FnOnce(&Socket) -> zmq::Result<T>) -> Result<T> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(socket) = socket.as_ref() else { return Err(closed()) };
        call(socket).map_err(|error| from_zmq(error, "subscribing"))
    }

    /// As [`with_socket`](Self::with_socket), for what takes libzmq's signal along: the driver looks
    /// whether it was meant for something that came.
    pub(crate) fn rewire<T>(&self, call: impl FnOnce(&Socket) -> zmq::Result<T>) -> Result<T> {
        let done = self.with_socket(call);
        self.poke.notify_one();
        done
    }

    /// Takes the socket away: nothing is received any more, and every subscription ends, after what
    /// waits for it.
    pub(crate) fn take_socket(&self) -> Option<Socket> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut table = self.table();
        table.markers.clear();
        table.answers.clear();
        table.responders.clear();
        let queues: Vec<_> = table.queues.values().cloned().collect();
        drop(table);
        for queue in queues {
            queue.end();
        }
        socket
    }

    /// How many of those on the other side are connected.
    pub(crate) fn links(&self) -> usize {
        self.links.load(Ordering::Acquire)
    }

    /// How many are connected now; fewer may be enough for a marker that is waited for.
    pub(crate) fn set_links(&self, links: usize) {
        self.links.store(links, Ordering::Release);
        let mut table = self.table();
        let tick = table.tick;
        table.markers.values_mut().for_each(|marker| marker.settle(links, tick));
    }

    /// Adds a queue; nothing is subscribed to yet.
    pub(crate) fn add(
        &self,
        patterns: &Patterns,
        bound: Bound,
        skip: Vec<(Topic, u64)>,
    ) -> (u64, Arc<Queue>) {
        let queue = Arc::new(Queue::new(patterns.clone(), bound, skip));
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        for pattern in patterns.iter() {
            table.trie.insert(pattern, id);
        }
        table.queues.insert(id, Arc::clone(&queue));
        table.generation += 1;
        (id, queue)
    }

    /// Takes a queue out and its subscriptions back.
    pub(crate) fn remove(&self, id: u64) {
        let mut table = self.table();
        let Some(queue) = table.queues.remove(&id) else { return };
        for pattern in queue.patterns.iter() {
            table.trie.remove(pattern, &id);
        }
        table.generation += 1;
        drop(table);
        queue.end();
        let _ = self.with_socket(|socket| {
            queue.patterns.iter().try_for_each(|it| socket.set_unsubscribe(prefix(it)))
        });
    }

    /// Subscribes to the beginnings of all that the patterns match.
    pub(crate) fn ask_for(&self, patterns: &Patterns) -> Result<()> {
        self.with_socket(|socket| {
            patterns.iter().try_for_each(|it| socket.set_subscribe(prefix(it)))
        })
    }

    /// Asks for a marker: what was subscribed to before is in force once it comes.
    pub(crate) fn mark(&self, number: Uuid, queue: Option<Arc<Queue>>) -> oneshot::Receiver<()> {
        let (done, waiting) = oneshot::channel();
        let marker = Marker { from: HashSet::default(), queue, done: Some(done) };
        self.table().markers.insert(number, marker);
        waiting
    }

    /// Nobody waits for this marker any longer.
    pub(crate) fn unmark(&self, number: Uuid) {
        self.table().markers.remove(&number);
    }

    /// Somebody waits for the answer with this number.
    pub(crate) fn await_answer(&self, number: u64) -> oneshot::Receiver<Result<Event>> {
        let (answer, waiting) = oneshot::channel();
        self.table().answers.insert(number, answer);
        waiting
    }

    /// Nobody waits for this answer any longer.
    pub(crate) fn forget_answer(&self, number: u64) {
        self.table().answers.remove(&number);
    }

    /// Requests for this responder go there.
    pub(crate) fn add_responder(&self, id: Uuid, requests: mpsc::Sender<Requested>) {
        self.table().responders.insert(id, requests);
    }

    /// No more requests for this responder.
    pub(crate) fn remove_responder(&self, id: Uuid) {
        self.table().responders.remove(&id);
    }

    /// Takes what has come, up to a turn's worth; says whether there may be more.
    pub(crate) fn drive(&self) -> bool {
        // Dropped after the locks.
        let mut wakes = Wakes::default();
        let mut parts = Parts::new();
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(socket) = socket.as_mut() else { return false };
        let mut table = self.table();
        for _ in 0..TURN {
            if !parts.receive(socket) {
                return false;
            }
            table.tick += 1;
            self.dispatch(&mut table, &mut parts, &mut wakes);
        }
        true
    }

    fn dispatch(&self, table: &mut Table, parts: &mut Parts, wakes: &mut Wakes) {
        let count = parts.count();
        let (topic, blocks, payload) = parts.split();
        let expected = if self.raw { 2 } else { 3 };
        let control = count == 3 && topic_is_control(topic);
        if !control && count != expected {
            let text = format!("a message of {count} frames is no event");
            return self.foreign(table, topic, &codec(text), wakes);
        }
        if control {
            return self.control(table, topic, blocks, payload, wakes);
        }
        if self.raw {
            return self.raw(table, topic, payload, wakes);
        }
        if let Err(error) = self.events(table, topic, blocks, payload, wakes) {
            self.foreign(table, topic, &error, wakes);
        }
    }

    /// The events of one message.
    fn events(
        &self,
        table: &mut Table,
        topic: &[u8],
        blocks: &[u8],
        payload: &mut Part,
        wakes: &mut Wakes,
    ) -> Result<()> {
        let Table { topics, decoder, publishers, trie, queues, generation, tick, .. } = table;
        let heard = heard(topics, topic, self.max_topics)?;
        heard.refresh(trie, queues, *generation);
        if heard.readers.is_empty() {
            return Ok(());
        }
        check(blocks, payload.len())?;
        let mut payload = Payloads::of(payload);
        let mut rest = blocks;
        while !rest.is_empty() {
            let (block, behind) = Block::parse(rest)?;
            rest = behind;
            let bytes = payload.take(block.payload_len(), rest.is_empty())?;
            let stamp = block.stamp();
            let born = || publishers.born(&stamp.publisher);
            match heard.track.event(&stamp.publisher, stamp.sequence, *tick, born) {
                Seen::Next => {}
                Seen::Gap(missed, since) => heard.lose(missed, since, &self.counts, wakes),
                Seen::Duplicate => {
                    self.counts.duplicates.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
            let received = block.event(decoder, &heard.topic, bytes);
            let fault = received.fault.or_else(|| {
                (received.event.topic() != &heard.topic)
                    .then(|| codec("the event names another topic than its message".to_owned()))
            });
            self.counts.received.fetch_add(1, Ordering::Relaxed);
            let own = stamp.publisher == self.own;
            let wants = |queue: &&Arc<Queue>| !own || !queue.skips(&heard.topic, stamp.sequence);
            let mut readers = heard.readers.iter().filter(wants).peekable();
            let (mut event, mut fault) = (Some(received.event), fault);
            while let Some(queue) = readers.next() {
                // The last reader gets the event itself.
                let (event, fault) = match readers.peek() {
                    Some(_) => (event.clone(), fault.clone()),
                    None => (event.take(), fault.take()),
                };
                if let Some(event) = event
                    && queue.push(event, fault, wakes)
                {
                    self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// A message of two frames, by a program that knows nothing of events.
    fn raw(&self, table: &mut Table, topic: &[u8], payload: &mut Part, wakes: &mut Wakes) {
        let Table { topics, trie, queues, generation, .. } = table;
        let Ok(heard) = heard(topics, topic, self.max_topics) else {
            self.counts.foreign.fetch_add(1, Ordering::Relaxed);
            return;
        };
        heard.refresh(trie, queues, *generation);
        let Some((last, others)) = heard.readers.split_last() else { return };
        let Ok(event) = Event::to(&heard.topic).bytes(taken(payload)).build() else { return };
        self.counts.received.fetch_add(1, Ordering::Relaxed);
        let mut dropped = 0;
        for queue in others {
            dropped += u64::from(queue.push(event.clone(), None, wakes));
        }
        dropped += u64::from(last.push(event, None, wakes));
        if dropped > 0 {
            self.counts.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
    }

    /// A message of Fabric's own.
    fn control(
        &self,
        table: &mut Table,
        topic: &[u8],
        whole: &[u8],
        payload: &mut Part,
        wakes: &mut Wakes,
    ) {
        let Ok((block, _)) = Block::parse(whole) else {
            self.counts.foreign.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let stamp = block.stamp();
        match stamp.kind {
            Kind::Marker => {
                let Some(number) = control::number(topic, control::SYNC) else { return };
                let tick = table.tick;
                if let Some(marker) = table.markers.get_mut(&number) {
                    marker.from.insert(stamp.publisher);
                    marker.settle(self.links(), tick);
                }
            }
            Kind::Heartbeat => {
                self.heartbeat(table, stamp, payload.bytes(), wakes);
            }
            Kind::Reply | Kind::Failure | Kind::NoResponders => {
                if control::number(topic, control::REPLY) != Some(Uuid::from_bytes(self.own)) {
                    return;
                }
                let Some(answer) = table.answers.remove(&stamp.sequence) else {
                    self.counts.late.fetch_add(1, Ordering::Relaxed);
                    return;
                };
                let _ = answer.send(self.answer(table, &block, payload));
            }
            Kind::Request => {
                let own = Uuid::from_bytes(self.own);
                let Some((client, responder)) = control::addressee(topic) else { return };
                if client != own {
                    return;
                }
                let Some(requests) = table.responders.get(&responder) else {
                    let stray = Astray { block: whole.to_vec(), payload: payload.bytes().to_vec() };
                    let _ = self.astray.try_send(stray);
                    return;
                };
                let Ok(topic) = Topic::new(control::REQUEST) else { return };
                let received = block.event(&mut table.decoder, &topic, taken(payload));
                let event = match received.fault {
                    Some(fault) => Err(fault),
                    None => Ok(received.event),
                };
                let caller = Uuid::from_bytes(stamp.publisher);
                // Where too many wait already, the caller runs into its timeout.
                let _ = requests.try_send(Requested { caller, number: stamp.sequence, event });
            }
            _ => {
                self.counts.foreign.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn answer(&self, table: &mut Table, block: &Block<'_>, payload: &mut Part) -> Result<Event> {
        match block.stamp().kind {
            Kind::Failure => {
                Err(fabric_core::remote_error(&String::from_utf8_lossy(payload.bytes())))
            }
            Kind::NoResponders => {
                Err(Error::new(ErrorKind::NoResponders, "nobody answers requests on this topic"))
            }
            _ => {
                let topic = Topic::new("_reply")?;
                let received = block.event(&mut table.decoder, &topic, taken(payload));
                match received.fault {
                    Some(fault) => Err(fault),
                    None => Ok(received.event),
                }
            }
        }
    }

    fn heartbeat(&self, table: &mut Table, stamp: Stamp, payload: &[u8], wakes: &mut Wakes) {
        let Stamp { publisher: sender, sequence: number, .. } = stamp;
        let Table { topics, publishers, trie, queues, generation, tick, .. } = table;
        let before = publishers.beat(sender, number, *tick);
        for entry in entries(payload) {
            let known = topics.contains_key(entry.topic);
            let Ok(heard) = heard(topics, entry.topic, self.max_topics) else { continue };
            heard.refresh(trie, queues, *generation);
            if heard.readers.is_empty() {
                if !known {
                    topics.remove(entry.topic);
                }
                continue;
            }
            let reach = before.or_else(|| publishers.born(&sender).filter(|_| entry.from == 0));
            for (missed, since) in heard.track.told(&sender, (entry.from, entry.to), *tick, reach) {
                heard.lose(missed, since, &self.counts, wakes);
            }
        }
    }

    /// Something that is no event: those who would have got it hear of it.
    fn foreign(&self, table: &mut Table, topic: &[u8], error: &Error, wakes: &mut Wakes) {
        self.counts.foreign.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%error, "a message that is no event");
        let Table { topics, trie, queues, generation, .. } = table;
        let Ok(heard) = heard(topics, topic, self.max_topics) else { return };
        heard.refresh(trie, queues, *generation);
        for queue in &heard.readers {
            queue.push_error(error.clone().with("topic", &heard.topic), wakes);
        }
    }
}

impl Marker {
    /// Tells whoever waits, once everybody who is connected has answered.
    fn settle(&mut self, links: usize, tick: Tick) {
        if self.from.is_empty() || self.from.len() < links {
            return;
        }
        if let Some(done) = self.done.take() {
            if let Some(queue) = &self.queue {
                queue.begin(tick);
            }
            let _ = done.send(());
        }
    }
}

impl Heard {
    /// Looks up who reads, if the subscriptions have changed.
    fn refresh(
        &mut self,
        trie: &PatternTrie<u64>,
        queues: &HashMap<u64, Arc<Queue>, RandomState>,
        generation: u64,
    ) {
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        let mut ids: SmallVec<[u64; 8]> = SmallVec::new();
        trie.for_each_match(self.topic.as_str(), |id| ids.push(*id));
        ids.sort_unstable();
        ids.dedup();
        self.readers = ids.iter().filter_map(|id| queues.get(id).cloned()).collect();
    }

    /// Tells those who read since before `since` that as many are lost.
    fn lose(&self, missed: u64, since: Tick, counts: &Counts, wakes: &mut Wakes) {
        let mut told = false;
        for queue in self.readers.iter().filter(|queue| queue.reads_since(since)) {
            queue.lose(missed, wakes);
            told = true;
        }
        if told {
            counts.lost.fetch_add(missed, Ordering::Relaxed);
        }
    }
}

/// What is known of a topic; where too many are, those that nobody reads are forgotten, then any.
fn heard<'a>(
    topics: &'a mut HashMap<Vec<u8>, Heard, RandomState>,
    name: &[u8],
    max: usize,
) -> Result<&'a mut Heard> {
    if topics.len() > max && !topics.contains_key(name) {
        topics.retain(|_, heard| !heard.readers.is_empty());
        if topics.len() > max {
            let mut keep = false;
            topics.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }
    // Looked up by reference: a topic that is known costs no allocation.
    match topics.entry_ref(name) {
        hashbrown::hash_map::EntryRef::Occupied(known) => Ok(known.into_mut()),
        hashbrown::hash_map::EntryRef::Vacant(new) => {
            let text = std::str::from_utf8(name)
                .map_err(|_| codec("the topic of a message is no text".to_owned()))?;
            let topic = Topic::new(text)?;
            Ok(new.insert(Heard {
                topic,
                readers: SmallVec::new(),
                generation: u64::MAX,
                track: Track::default(),
            }))
        }
    }
}

/// The payloads of the events of one message, one behind the other.
enum Payloads<'a> {
    Small { bytes: &'a [u8] },
    Shared { bytes: Bytes },
}

impl<'a> Payloads<'a> {
    fn of(bytes: &'a mut Part) -> Self {
        if bytes.len() <= COPIED {
            return Self::Small { bytes: bytes.bytes() };
        }
        Self::Shared { bytes: taken(bytes) }
    }

    fn take(&mut self, len: usize, last: bool) -> Result<Bytes> {
        let missing = || codec("the payload of an event is cut off".to_owned());
        match self {
            Self::Small { bytes } => {
                let (taken, rest) = bytes.split_at_checked(len).ok_or_else(missing)?;
                *bytes = rest;
                Ok(Bytes::copy_from_slice(taken))
            }
            Self::Shared { bytes } if bytes.len() < len => Err(missing()),
            Self::Shared { bytes } if last && bytes.len() == len => Ok(std::mem::take(bytes)),
            // A small one does not keep a large buffer alive.
            Self::Shared { bytes } if len <= COPIED => {
                let taken = bytes.split_to(len);
                Ok(Bytes::copy_from_slice(&taken))
            }
            Self::Shared { bytes } => Ok(bytes.split_to(len)),
        }
    }
}

/// Looks at all blocks before the first event is handed out: a message is taken as a whole or not.
fn check(blocks: &[u8], payload: usize) -> Result<()> {
    let (mut rest, mut spoken) = (blocks, 0_usize);
    if rest.is_empty() {
        return Err(codec("a message has no header block".to_owned()));
    }
    while !rest.is_empty() {
        let (block, behind) = Block::parse(rest)?;
        let kind = block.stamp().kind;
        if kind != Kind::Event {
            return Err(codec(format!("a block of kind {kind:?} is no event")));
        }
        spoken = spoken.saturating_add(block.payload_len());
        rest = behind;
    }
    if spoken == payload {
        return Ok(());
    }
    Err(codec(format!("a message has {payload} bytes of payload where its blocks say {spoken}")))
}

/// The longest beginning that every topic has which the pattern matches.
pub(crate) fn prefix(pattern: &Pattern) -> &[u8] {
    let literal = pattern.literal_prefix();
    let text = pattern.as_str();
    let end = match text.as_bytes().get(literal.len() + 1) {
        // `a.#` matches `a` too; any other wildcard wants a level, so the dot belongs to it.
        Some(b'#') | None => literal.len(),
        Some(_) if literal.is_empty() => 0,
        Some(_) => literal.len() + 1,
    };
    &text.as_bytes()[..end]
}

fn topic_is_control(topic: &[u8]) -> bool {
    topic.first() == Some(&b'_')
        && (topic.starts_with(b"_fabric.") || topic.starts_with(b"_reply."))
}

fn codec(text: String) -> Error {
    Error::new(ErrorKind::Codec, text)
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("counts", &self.counts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_the_longest_that_holds_for_all() {
        let table = [
            ("a.b", "a.b"),
            ("a.*", "a."),
            ("a.>", "a."),
            ("a.#", "a"),
            ("a.*.c", "a."),
            ("a.#.c", "a"),
            ("*", ""),
            ("#", ""),
            (">", ""),
            ("*.b", ""),
            ("#.b", ""),
        ];
        for (pattern, expected) in table {
            let pattern = Pattern::new(pattern).unwrap();
            assert_eq!(prefix(&pattern), expected.as_bytes(), "{pattern}");
        }
    }

    #[test]
    fn payloads_are_cut_where_the_blocks_say() {
        for size in [10, COPIED + 10] {
            let bytes: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let small = Payloads::Small { bytes: &bytes };
            let shared = Payloads::Shared { bytes: Bytes::copy_from_slice(&bytes) };
            for mut payloads in [small, shared] {
                assert_eq!(payloads.take(3, false).unwrap(), bytes[..3]);
                assert!(payloads.take(size, true).is_err());
                assert_eq!(payloads.take(size - 3, true).unwrap(), bytes[3..]);
                assert!(payloads.take(usize::MAX, true).is_err());
            }
        }
    }
}
