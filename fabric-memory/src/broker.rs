//! The broker: topics, groups, plain subscriptions and timers. Synchronous and pure: time is a
//! parameter, and who is to be woken is an answer.

mod dedup;
mod group;
#[cfg(test)]
mod model;
mod plain;
mod slots;
mod stream;
mod track;
mod wheel;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use fabric_core::clock::Now;
use fabric_core::{
    Chunk, Error, ErrorKind, Event, Group, GroupDefinition, GroupInfo, Nack, Pattern, PatternTrie,
    Patterns, Position, Priority, Settler, Start, SubscribeOptions, Topic, TopicInfo, TopicLag,
    Trim, WhenFull,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;
use tokio::time::Instant;

use self::dedup::Dedup;
pub(crate) use self::group::MemberFlags;
use self::group::{GroupState, is_expired};
use self::plain::Plain;
use self::slots::Slots;
pub(crate) use self::stream::kept_size;
use self::stream::{Bounds, Segment, Spare, Stream};
use self::wheel::Wheel;
use crate::bug::Bug;
use crate::config::MemoryConfig;

/// Whoever is to be woken once the lock is free.
pub(crate) type Wakers = SmallVec<[Waker; 4]>;
pub(crate) type Timers = Wheel<Timer>;
type Result<T, E = Error> = std::result::Result<T, E>;

/// What a subscription gets when it asks for more.
#[derive(Debug)]
pub(crate) enum Polled {
    Chunk(Arc<Chunk>),
    /// Something to tell; the subscription goes on.
    Error(Error),
    /// It is over, and why.
    Gone(Error),
    End,
    /// Nothing now; the waker is kept.
    Pending,
}

/// What a timer stands for.
#[derive(Debug)]
pub(crate) enum Timer {
    Sweep { group: Group, epoch: u64 },
    Return { group: Group, epoch: u64, slot: usize, number: u64 },
    Due { topic: usize, event: Box<Event>, bytes: usize },
}

/// Every topic's events, and the inboxes of groups.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    list: Vec<Stream>,
    /// How many events were stored.
    pushes: u64,
    /// Segments that are no stream's any more, each with its stream's place and life.
    dropped: Vec<Dropped>,
    bug: Option<Bug>,
}

/// A segment that retention let go of; whoever works on the broker drops it, without the lock.
#[derive(Debug)]
pub(crate) struct Dropped {
    index: usize,
    incarnation: u64,
    segment: Segment,
    /// Handles on the topic's name that its stream had to spare.
    handles: Vec<Topic>,
}

/// What is left of a segment.
#[derive(Debug)]
pub(crate) struct Left {
    index: usize,
    incarnation: u64,
    spare: Spare,
}

impl Dropped {
    /// Drops the events; what is left is of use to their stream.
    pub(crate) fn clear(self) -> Option<Left> {
        let Self { index, incarnation, segment, handles } = self;
        segment.recycle(handles).map(|spare| Left { index, incarnation, spare })
    }
}

impl Streams {
    /// The stream at `index`, to which something is added now.
    fn newest(&mut self, index: usize) -> &mut Stream {
        self.pushes += 1;
        let stream = &mut self.list[index];
        stream.last_push = self.pushes;
        stream
    }

    fn stream(&mut self, index: usize) -> &mut Stream {
        &mut self.list[index]
    }

    fn peek(&self, index: usize) -> &Stream {
        &self.list[index]
    }

    fn drop_oldest(&mut self, index: usize) {
        let stream = &mut self.list[index];
        if let Some(segment) = stream.take_oldest() {
            let (incarnation, handles) = (stream.incarnation, stream.take_handles());
            self.dropped.push(Dropped { index, incarnation, segment, handles });
        }
    }

    fn drop_before(&mut self, index: usize, number: u64) {
        let Self { list, dropped, .. } = self;
        let stream = &mut list[index];
        let incarnation = stream.incarnation;
        stream.forget_before(number, |segment| {
            dropped.push(Dropped { index, incarnation, segment, handles: Vec::new() });
        });
    }

    #[inline]
    fn has_bug(&self, bug: Bug) -> bool {
        cfg!(feature = "seeded-bugs") && self.bug == Some(bug)
    }
}

/// Who reads a topic and who waits to publish to it.
#[derive(Debug, Default)]
struct Readers {
    groups: SmallVec<[(usize, usize); 2]>,
    plains: SmallVec<[(usize, usize); 2]>,
    /// Plain subscriptions that a publisher has to ask first.
    strict: usize,
    waiting: VecDeque<(u64, Option<Waker>)>,
}

impl Readers {
    /// Lets the publisher whose turn it is try again.
    fn wake_publisher(&mut self, wakers: &mut Wakers) {
        if let Some((_, waker)) = self.waiting.front_mut() {
            wakers.extend(waker.take());
        }
    }
}

/// A reader of either kind, as the trie of patterns knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Group(usize),
    Plain(usize),
}

/// What stands in the way of a publish.
#[derive(Debug)]
pub(crate) struct Blocked {
    pub(crate) policy: WhenFull,
    pub(crate) topic: Topic,
    pub(crate) group: Option<Group>,
}

impl Blocked {
    /// The error of a publisher that waits no longer.
    pub(crate) fn error(&self) -> Error {
        let error = match &self.group {
            Some(group) => Error::new(
                ErrorKind::Full,
                format!(
                    "`{}` is full of events that the group `{group}` has not settled; let it \
                     catch up, raise the bounds, or delete the group",
                    self.topic
                ),
            )
            .with("group", group),
            None if self.topic.as_str().starts_with("dlq.") => Error::new(
                ErrorKind::Full,
                format!(
                    "`{}` is full of dead letters; redrive or purge them (`dead_letters`, or the \
                     topic's `purge`), or raise the bounds",
                    self.topic
                ),
            ),
            None => Error::new(
                ErrorKind::Full,
                format!(
                    "`{}` is full of events that a subscriber has not read or that are not due yet",
                    self.topic
                ),
            ),
        };
        error.with("topic", &self.topic)
    }
}

/// How a publish of one event ended.
#[derive(Debug)]
pub(crate) enum Stored {
    At(u64),
    /// It waits for its time.
    Scheduled,
}

pub(crate) struct Broker {
    config: MemoryConfig,
    bounds: Bounds,
    streams: Streams,
    readers: Vec<Readers>,
    /// Where inboxes of groups were that are deleted.
    free_streams: Vec<usize>,
    by_name: HashMap<Topic, usize, RandomState>,
    recent: Recent,
    groups: Slots<GroupState>,
    by_group: HashMap<Group, usize, RandomState>,
    plains: Slots<Plain>,
    patterns: PatternTrie<Reader>,
    timers: Timers,
    /// How many publishers wait, in all topics.
    waiting: usize,
    dedup: Option<Dedup>,
    next_serial: u64,
    last_topic: Option<(Topic, usize)>,
    /// The last life that a stream began; random at first, so that positions of another process
    /// are refused.
    incarnation: u64,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("topics", &self.by_name.len())
            .field("groups", &self.by_group.len())
            .finish_non_exhaustive()
    }
}

impl Broker {
    pub(crate) fn new(config: MemoryConfig, bug: Option<Bug>, now: Now) -> Self {
        let bounds =
            Bounds { events: config.max_events, bytes: config.max_bytes, age: config.max_age };
        let dedup = config.dedup_window.map(|window| Dedup::new(window, config.dedup_max));
        Self {
            bounds,
            streams: Streams { list: Vec::new(), pushes: 0, dropped: Vec::new(), bug },
            readers: Vec::new(),
            free_streams: Vec::new(),
            by_name: HashMap::default(),
            recent: Recent::default(),
            groups: Slots::new(),
            by_group: HashMap::default(),
            plains: Slots::new(),
            patterns: PatternTrie::new(),
            timers: Wheel::new(now.instant),
            waiting: 0,
            dedup,
            next_serial: 0,
            last_topic: None,
            incarnation: now.wall.as_nanos().unsigned_abs() ^ fastrand::u64(..) << 20,
            config,
        }
    }

    pub(crate) fn has_bug(&self, bug: Bug) -> bool {
        self.streams.has_bug(bug)
    }

    /// What retention let go of since this was asked last.
    #[inline]
    pub(crate) fn take_dropped(&mut self) -> Vec<Dropped> {
        std::mem::take(&mut self.streams.dropped)
    }

    /// Uses again what is left of something dropped, if its stream is still there.
    pub(crate) fn reuse(&mut self, left: Left) {
        if let Some(stream) = self.streams.list.get_mut(left.index)
            && stream.incarnation == left.incarnation
        {
            stream.reuse(left.spare);
        }
    }

    /// Lets time pass: leases end, delays are over.
    #[inline]
    pub(crate) fn advance(&mut self, now: &Now, wakers: &mut Wakers) {
        if !self.timers.is_quiet(now.instant) {
            self.ring(now, wakers);
        }
    }

    /// When something happens by itself.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn ring(&mut self, now: &Now, wakers: &mut Wakers) {
        for timer in self.timers.take_due(now.instant) {
            match timer {
                Timer::Sweep { group, epoch } => {
                    if let Some(index) = self.group_of(&group, epoch)
                        && let Some(state) = self.groups[index].as_mut()
                    {
                        state.sweep(now.instant, &self.streams, &mut self.timers, wakers);
                    }
                }
                Timer::Return { group, epoch, slot, number } => {
                    if let Some(index) = self.group_of(&group, epoch)
                        && let Some(state) = self.groups[index].as_mut()
                    {
                        state.ring(slot, number, &self.streams, wakers);
                    }
                }
                Timer::Due { topic, event, bytes } => {
                    let stream = self.streams.stream(topic);
                    stream.scheduled -= 1;
                    stream.scheduled_bytes -= bytes;
                    self.push(topic, *event, bytes, now, wakers);
                    // Until now nothing could be dropped for it.
                    self.wake_publisher(topic, wakers);
                }
            }
        }
    }

    /// The group for which a timer was set.
    fn group_of(&self, name: &Group, epoch: u64) -> Option<usize> {
        let index = *self.by_group.get(name)?;
        self.groups[index].as_ref().filter(|state| state.epoch == epoch).map(|_| index)
    }

    // ---- publishing ----

    /// The topic's index; it comes into being with its first event.
    #[inline]
    pub(crate) fn topic(&mut self, topic: &Topic) -> Result<usize> {
        // Publishers mostly go on with the topic they used last, and with the same handle on it.
        if let Some((last, index)) = &self.last_topic
            && last.same_as(topic)
        {
            return Ok(*index);
        }
        if let Some(index) = self.by_name.get(topic).copied() {
            self.last_topic = Some((topic.clone(), index));
            return Ok(index);
        }
        self.new_topic(topic)
    }

    fn new_topic(&mut self, topic: &Topic) -> Result<usize> {
        if self.by_name.len() >= self.config.max_topics {
            return Err(Error::new(
                ErrorKind::Full,
                format!("there are {} topics already; raise `max_topics`", self.by_name.len()),
            )
            .with_retry(fabric_core::RetryClass::Never)
            .with("topic", topic));
        }
        let index = self.new_stream(topic.clone());
        self.by_name.insert(topic.clone(), index);
        let mut found: Vec<Reader> = Vec::new();
        self.patterns.for_each_match(topic.as_str(), |reader| {
            if !found.contains(reader) {
                found.push(*reader);
            }
        });
        if self.has_bug(Bug::PatternTooWide) && !topic.is_reserved() {
            found.extend((0..self.groups.len()).map(Reader::Group));
        }
        let from = u64::from(self.has_bug(Bug::NewTopicSkipsFirst));
        for reader in found {
            self.attach(reader, index, from);
        }
        Ok(index)
    }

    /// As [`topic`](Self::topic), by the address of the name where publishers hold on to it. An
    /// event that brought its own name along shares the topic's from now on.
    #[inline]
    pub(crate) fn topic_of(&mut self, event: &mut Event) -> Result<usize> {
        if let Some(index) = self.recent.find(event.topic()) {
            return Ok(index);
        }
        let index = self.topic(event.topic())?;
        let own = event.share_topic(self.streams.peek(index).topic.clone());
        self.recent.note(own, index);
        Ok(index)
    }

    fn new_stream(&mut self, topic: Topic) -> usize {
        self.incarnation = self.incarnation.wrapping_add(1);
        // Dead letters are kept until somebody deals with them.
        let keep = topic.is_reserved();
        let bounds = if keep { Bounds { age: None, ..self.bounds } } else { self.bounds };
        let stream = Stream::new(topic, self.incarnation, bounds);
        if let Some(index) = self.free_streams.pop() {
            self.streams.list[index] = stream;
            self.readers[index] = Readers::default();
            return index;
        }
        self.streams.list.push(stream);
        self.readers.push(Readers::default());
        self.readers.len() - 1
    }

    /// Lets `reader` read the topic at `index` from number `from` on.
    fn attach(&mut self, reader: Reader, index: usize, from: u64) {
        let missed = self.streams.peek(index).first().saturating_sub(from);
        let from = from + missed;
        match reader {
            Reader::Group(group) => {
                if let Some(state) = self.groups[group].as_mut()
                    && state.tracks.slot_of(index).is_none()
                {
                    let slot = state.tracks.add(index, from);
                    state.lagged += missed;
                    self.readers[index].groups.push((group, slot));
                    state.survey(slot, self.streams.stream(index));
                }
            }
            Reader::Plain(plain) => {
                if let Some(state) = self.plains[plain].as_mut() {
                    let slot = state.tracks.add(index, from);
                    state.lagged += missed;
                    self.readers[index].plains.push((plain, slot));
                    self.readers[index].strict += usize::from(state.is_strict());
                }
            }
        }
    }

    /// Whether somebody waits to publish to the topic.
    pub(crate) fn has_waiting(&self, index: usize) -> bool {
        !self.readers[index].waiting.is_empty()
    }

    /// Makes room for `events` more of `bytes`; says what stands in the way.
    pub(crate) fn make_room(
        &mut self,
        index: usize,
        events: usize,
        bytes: usize,
        now: &Now,
        wakers: &mut Wakers,
    ) -> Result<(), Blocked> {
        self.drop_aged(index, now);
        loop {
            if self.readers[index].strict > 0 {
                self.ask_strict(index)?;
            }
            if self.streams.peek(index).has_room(events, bytes) {
                return Ok(());
            }
            self.evict_one(index, wakers)?;
        }
    }

    /// Whether a plain subscription with a bound of its own stands in the way.
    fn ask_strict(&self, index: usize) -> Result<(), Blocked> {
        for (plain, _) in &self.readers[index].plains {
            if let Some(state) = &self.plains[*plain]
                && state.is_strict()
                && state.when_full != WhenFull::DropNewest
                && state.bound.is_some_and(|bound| state.backlog(&self.streams) >= bound as u64)
            {
                let topic = self.streams.peek(index).topic.clone();
                return Err(Blocked { policy: state.when_full, topic, group: None });
            }
        }
        Ok(())
    }

    /// Drops the oldest segment of a topic, if its readers let go of it.
    fn evict_one(&mut self, index: usize, wakers: &mut Wakers) -> Result<(), Blocked> {
        let blind = self.has_bug(Bug::EvictUnsettled);
        let topic = self.streams.peek(index).topic.clone();
        let Some((first, end)) = self.streams.stream(index).oldest() else {
            return Err(Blocked { policy: WhenFull::Block, topic, group: None });
        };
        let stream = self.streams.peek(index);
        let has_read = |(group, slot): &(usize, usize)| {
            let state = self.groups[*group].as_ref();
            let track = state.map(|state| &state.tracks.list[*slot]);
            track.is_some_and(|track| track.began <= first && track.until.is_none())
        };
        if stream.topic.is_reserved() && !self.readers[index].groups.iter().any(has_read) {
            // Dead letters stay until somebody settles, trims or purges them.
            return Err(Blocked { policy: WhenFull::Block, topic, group: None });
        }
        let mut behind: SmallVec<[(usize, usize); 2]> = SmallVec::new();
        for (group, slot) in &self.readers[index].groups {
            let Some(state) = self.groups[*group].as_mut() else { continue };
            if blind || state.has_settled(*slot, end, stream) {
                continue;
            }
            if state.when_full != WhenFull::DropOldest {
                let group = Some(state.name.clone());
                return Err(Blocked { policy: state.when_full, topic, group });
            }
            behind.push((*group, *slot));
        }
        for (plain, slot) in &self.readers[index].plains {
            let Some(state) = &self.plains[*plain] else { continue };
            if state.when_full != WhenFull::DropOldest
                && state.tracks.list[*slot].unread(stream) < end
            {
                return Err(Blocked { policy: state.when_full, topic, group: None });
            }
        }
        for (group, slot) in behind {
            if let Some(state) = self.groups[group].as_mut() {
                state.evict(slot, end, self.streams.peek(index));
                state.lag(0, wakers);
            }
        }
        self.streams.drop_oldest(index);
        if blind {
            // The bug: readers do not learn of it.
            let first = self.streams.peek(index).first();
            for (group, slot) in &self.readers[index].groups {
                if let Some(state) = self.groups[*group].as_mut() {
                    let track = &mut state.tracks.list[*slot];
                    track.cursor = track.cursor.max(first);
                }
            }
        }
        Ok(())
    }

    /// Drops what is older than the bound on age and settled.
    fn drop_aged(&mut self, index: usize, now: &Now) {
        while self.streams.peek(index).is_oldest_aged(now.wall) {
            let Some((_, end)) = self.streams.stream(index).oldest() else { return };
            let stream = self.streams.peek(index);
            let groups = &mut self.groups;
            let has_settled = |(group, slot): &(usize, usize)| {
                groups[*group].as_mut().is_none_or(|state| state.has_settled(*slot, end, stream))
            };
            if !self.readers[index].groups.iter().all(has_settled) {
                return;
            }
            self.streams.drop_oldest(index);
        }
    }

    /// The event is not kept, as a reader's policy says: every reader learns of it.
    pub(crate) fn drop_newest(&mut self, index: usize, wakers: &mut Wakers) {
        for (group, slot) in &self.readers[index].groups {
            if let Some(state) = self.groups[*group].as_mut()
                && state.tracks.list[*slot].until.is_none()
            {
                state.lag(1, wakers);
            }
        }
        for (plain, _) in &self.readers[index].plains {
            if let Some(state) = self.plains[*plain].as_mut() {
                state.lagged += 1;
                state.wake(wakers);
            }
        }
    }

    /// Whether a plain subscription has to be asked before each event.
    pub(crate) fn is_strict(&self, index: usize) -> bool {
        self.readers[index].strict > 0
    }

    /// The name of a topic and which life of it this is.
    #[inline]
    pub(crate) fn life_of(&mut self, index: usize) -> (Topic, u64) {
        let stream = self.streams.stream(index);
        (stream.topic_handle(), stream.incarnation)
    }

    /// The position of event `number`.
    pub(crate) fn position(&self, index: usize, number: u64) -> Position {
        self.streams.peek(index).position(number)
    }

    /// The most bytes of one topic.
    pub(crate) const fn max_bytes(&self) -> usize {
        self.bounds.bytes
    }

    /// Whether an event so large fits at all.
    pub(crate) fn can_ever_hold(&self, index: usize, bytes: usize) -> bool {
        self.streams.peek(index).can_ever_hold(bytes)
    }

    /// Whether the same was stored within the window.
    pub(crate) fn find_duplicate(&mut self, event: &Event, now: &Now) -> Option<Option<Position>> {
        if self.has_bug(Bug::DedupIgnored) {
            return None;
        }
        self.dedup.as_mut()?.find(&event.dedup_key(), now.instant)
    }

    /// Whether the topic's last event is the one expected.
    pub(crate) fn check_last(&self, index: usize, expected: &Position) -> Result<()> {
        if self.has_bug(Bug::ExpectLastIgnored) {
            return Ok(());
        }
        let stream = self.streams.peek(index);
        let last = (stream.next() > 0).then(|| stream.position(stream.next() - 1));
        if last.as_ref() == Some(expected) {
            return Ok(());
        }
        let actual = last.map_or_else(|| "none".to_owned(), |last| last.to_string());
        Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "the last event of `{}` is {actual}, not {expected}; read on and decide again",
                stream.topic
            ),
        )
        .with("expected", expected)
        .with("last", actual))
    }

    /// Stores one event of `bytes` for which there is room.
    pub(crate) fn store(
        &mut self,
        index: usize,
        event: Event,
        bytes: usize,
        now: &Now,
        wakers: &mut Wakers,
    ) -> Stored {
        let key = self.dedup.is_some().then(|| event.dedup_key());
        let due = event.deliver_at().filter(|due| *due > now.wall);
        if let Some(due) = due.filter(|_| !self.has_bug(Bug::DelayIgnored)) {
            let stream = self.streams.stream(index);
            stream.scheduled += 1;
            stream.scheduled_bytes += bytes;
            let at = now.instant + due.saturating_since(now.wall);
            self.timers.set(at, Timer::Due { topic: index, event: Box::new(event), bytes });
            if let (Some(key), Some(dedup)) = (key, &mut self.dedup) {
                dedup.note(key, None, now.instant);
            }
            return Stored::Scheduled;
        }
        let number = self.push(index, event, bytes, now, wakers);
        if let (Some(key), Some(dedup)) = (key, &mut self.dedup) {
            let position = self.streams.peek(index).position(number);
            dedup.note(key, Some(position), now.instant);
        }
        Stored::At(number)
    }

    /// Whether a batch may go by [`store_all`](Self::store_all).
    pub(crate) const fn takes_batches(&self) -> bool {
        self.dedup.is_none()
    }

    /// Stores a batch of one topic for which there is room, none of it delayed. Returns the number
    /// of the first.
    pub(crate) fn store_all(
        &mut self,
        index: usize,
        events: Vec<Event>,
        bytes: usize,
        now: &Now,
        wakers: &mut Wakers,
    ) -> u64 {
        let count = events.len() as u64;
        let urgent: SmallVec<[(u64, Priority); 4]> = (0..)
            .zip(&events)
            .filter(|(_, event)| event.priority() > Priority::Normal)
            .map(|(n, event)| (n, event.priority()))
            .collect();
        let first = self.streams.newest(index).push_all(events, bytes, now.wall);
        for (n, priority) in urgent {
            self.announce(index, first + n, priority, wakers);
        }
        self.announce(index, first, Priority::Normal, wakers);
        self.skip_strict(index, first, first + count);
        first
    }

    fn push(
        &mut self,
        index: usize,
        event: Event,
        bytes: usize,
        now: &Now,
        wakers: &mut Wakers,
    ) -> u64 {
        let priority = event.priority();
        let number = self.streams.newest(index).push(event, bytes, now.wall);
        if cfg!(feature = "seeded-bugs") && self.has_bug(Bug::Reorder) {
            self.streams.stream(index).swap_last_two();
        }
        self.announce(index, number, priority, wakers);
        self.skip_strict(index, number, number + 1);
        number
    }

    fn announce(&mut self, index: usize, number: u64, priority: Priority, wakers: &mut Wakers) {
        let readers = &self.readers[index];
        let priority =
            if self.streams.has_bug(Bug::PriorityIgnored) { Priority::Normal } else { priority };
        for (group, slot) in &readers.groups {
            if let Some(state) = self.groups[*group].as_mut() {
                state.announce(*slot, number, priority, wakers);
            }
        }
        for (plain, slot) in &readers.plains {
            if let Some(state) = self.plains[*plain].as_mut() {
                state.tracks.make_ready(*slot);
                state.wake(wakers);
            }
        }
    }

    /// Leaves new events out for plain subscriptions that are full and drop the newest.
    fn skip_strict(&mut self, index: usize, first: u64, end: u64) {
        if self.readers[index].strict == 0 {
            return;
        }
        for (plain, slot) in &self.readers[index].plains {
            if let Some(state) = self.plains[*plain].as_mut()
                && state.when_full == WhenFull::DropNewest
                && let Some(bound) = state.bound
            {
                let excess =
                    state.backlog(&self.streams).saturating_sub(bound as u64).min(end - first);
                if excess > 0 {
                    state.tracks.list[*slot].skip(end - excess, end);
                    state.lagged += excess;
                }
            }
        }
    }

    /// Queues a publisher for the topic.
    pub(crate) fn wait(&mut self, index: usize, ticket: u64, waker: &Waker) {
        let waiting = &mut self.readers[index].waiting;
        // Tickets are taken where they are queued: they only grow.
        match waiting.binary_search_by_key(&ticket, |(known, _)| *known) {
            Ok(at) => waiting[at].1 = Some(waker.clone()),
            Err(at) => {
                waiting.insert(at, (ticket, Some(waker.clone())));
                self.waiting += 1;
            }
        }
    }

    /// Whether it is this publisher's turn.
    pub(crate) fn is_turn(&self, index: usize, ticket: u64) -> bool {
        self.readers[index].waiting.front().is_none_or(|(first, _)| *first == ticket)
    }

    /// Takes a publisher off the queue; the next has its turn.
    pub(crate) fn wait_no_more(&mut self, index: usize, ticket: u64, wakers: &mut Wakers) {
        let waiting = &mut self.readers[index].waiting;
        if let Ok(at) = waiting.binary_search_by_key(&ticket, |(known, _)| *known) {
            waiting.remove(at);
            self.waiting -= 1;
            self.wake_publisher(index, wakers);
        }
    }

    fn wake_publisher(&mut self, index: usize, wakers: &mut Wakers) {
        self.readers[index].wake_publisher(wakers);
    }

    /// Lets publishers to every topic of a reader try again.
    fn wake_publishers_of(&mut self, reader: Reader, wakers: &mut Wakers) {
        if self.waiting == 0 {
            return;
        }
        let tracks = match reader {
            Reader::Group(index) => self.groups[index].as_ref().map(|state| &state.tracks),
            Reader::Plain(index) => self.plains[index].as_ref().map(|state| &state.tracks),
        };
        for track in tracks.into_iter().flat_map(|tracks| &tracks.list) {
            self.readers[track.stream].wake_publisher(wakers);
        }
    }

    /// A number that nobody else has: for a place in a queue of publishers, or a group's life.
    pub(crate) const fn ticket(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    // ---- plain subscriptions ----

    pub(crate) fn subscribe(
        &mut self,
        client: u64,
        options: &SubscribeOptions,
        now: Now,
    ) -> Result<usize> {
        let start = options.start.clone().unwrap_or(Start::New);
        let places = self.places(&options.patterns, &start, now)?;
        let when_full = options.when_full.unwrap_or(WhenFull::DropOldest);
        let plain = Plain::new(client, options.patterns.clone(), when_full, options.prefetch);
        let index = self.plains.add(plain);
        for pattern in &options.patterns {
            self.patterns.insert(pattern, Reader::Plain(index));
        }
        for (topic, from) in places {
            self.attach(Reader::Plain(index), topic, from);
        }
        Ok(index)
    }

    pub(crate) fn poll_plain(
        &mut self,
        index: usize,
        now: Now,
        waker: &Waker,
        wakers: &mut Wakers,
    ) -> Polled {
        let Some(plain) = self.plains[index].as_mut() else { return Polled::End };
        let polled = plain.poll(&mut self.streams, now.wall, waker);
        if plain.when_full != WhenFull::DropOldest {
            // It may have passed over expired events even where it got nothing.
            self.wake_publishers_of(Reader::Plain(index), wakers);
        }
        polled
    }

    pub(crate) fn unsubscribe(&mut self, index: usize, wakers: &mut Wakers) {
        self.detach(index, wakers);
        self.plains.take(index);
    }

    /// Nobody waits any more for a subscription that takes no more.
    fn detach(&mut self, index: usize, wakers: &mut Wakers) {
        let Some(plain) = self.plains[index].as_mut().filter(|plain| !plain.stopped) else {
            return;
        };
        plain.stopped = true;
        plain.wake(wakers);
        let strict = usize::from(plain.is_strict());
        for pattern in &plain.patterns {
            self.patterns.remove(pattern, &Reader::Plain(index));
        }
        for track in std::mem::take(&mut plain.tracks).list {
            let readers = &mut self.readers[track.stream];
            readers.plains.retain(|(known, _)| *known != index);
            readers.strict -= strict;
            readers.wake_publisher(wakers);
        }
    }

    // ---- where readers begin ----

    /// The numbers at which a reader of `patterns` begins, by topic.
    fn places(
        &mut self,
        patterns: &Patterns,
        start: &Start,
        now: Now,
    ) -> Result<Vec<(usize, u64)>> {
        let matching = self.matching(patterns);
        for index in &matching {
            self.drop_aged(*index, &now);
        }
        let skip_one = u64::from(self.has_bug(Bug::NewSkipsFirst));
        let mut places = Vec::new();
        match start {
            Start::New => {
                for index in matching {
                    places.push((index, self.streams.peek(index).next() + skip_one));
                }
            }
            Start::All => {
                for index in matching {
                    places.push((index, self.streams.peek(index).first()));
                }
            }
            Start::LastPerTopic => {
                for index in matching {
                    let stream = self.streams.peek(index);
                    places.push((index, last_or_next(stream)));
                }
            }
            Start::Last => {
                let newest = matching
                    .iter()
                    .copied()
                    .filter(|index| self.streams.peek(*index).len() > 0)
                    .max_by_key(|index| self.streams.peek(*index).last_push);
                for index in matching {
                    let stream = self.streams.peek(index);
                    let from =
                        if Some(index) == newest { last_or_next(stream) } else { stream.next() };
                    places.push((index, from));
                }
            }
            Start::Time(time) => {
                for index in matching {
                    places.push((index, self.streams.peek(index).number_at(*time)));
                }
            }
            Start::At(position) | Start::After(position) => {
                let from = self.number_of(position)?;
                let from = from + u64::from(matches!(start, Start::After(_)));
                for index in matching {
                    let stream = self.streams.peek(index);
                    let own = stream.topic == position.topic;
                    places.push((index, if own { from } else { stream.next() }));
                }
            }
            Start::Resume(cursor) => {
                for position in cursor.iter().filter(|position| patterns.matches(&position.topic)) {
                    self.number_of(position)?;
                }
                for index in matching {
                    let stream = self.streams.peek(index);
                    let from = cursor
                        .get(&stream.topic, None)
                        .map_or_else(|| stream.first(), |position| position.offset as u64 + 1);
                    places.push((index, from));
                }
            }
            other => {
                return Err(Error::unsupported(format_args!("a start at {other:?}"), "memory"));
            }
        }
        Ok(places)
    }

    /// The topics that `patterns` match, the oldest first.
    fn matching(&self, patterns: &Patterns) -> Vec<usize> {
        let mut matching: Vec<usize> = if patterns.iter().all(Pattern::is_literal) {
            let topics = patterns.iter().filter_map(Pattern::as_topic);
            topics.filter_map(|topic| self.by_name.get(&topic).copied()).collect()
        } else {
            let matches = |(topic, _): &(&Topic, &usize)| patterns.matches(topic);
            self.by_name.iter().filter(matches).map(|(_, index)| *index).collect()
        };
        matching.sort_unstable();
        matching
    }

    /// The number behind a position, if it is one of this life of the topic.
    fn number_of(&self, position: &Position) -> Result<u64> {
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::NotFound, format!("the position `{position}` is {why}"))
                .with("topic", &position.topic))
        };
        let Some(index) = self.by_name.get(&position.topic) else {
            return refuse("in a topic that does not exist");
        };
        let stream = self.streams.peek(*index);
        if position.incarnation != stream.incarnation || position.partition.is_some() {
            return refuse("of another life of the topic: the stream was made anew since");
        }
        match u64::try_from(position.offset) {
            Ok(number) if number < stream.next() => Ok(number),
            _ => refuse("beyond the topic's last event"),
        }
    }

    // ---- replay ----

    /// The finite ranges of a replay: topic, first number, end.
    pub(crate) fn ranges(
        &mut self,
        patterns: &Patterns,
        start: &Start,
        end: &fabric_core::End,
        now: Now,
    ) -> Result<Vec<(usize, u64, u64)>> {
        let places = self.places(patterns, start, now)?;
        let miss_last = u64::from(self.has_bug(Bug::ReplayMissesLast));
        let mut ranges = Vec::new();
        for (index, from) in places {
            let stream = self.streams.peek(index);
            let until = match end {
                fabric_core::End::Time(time) => stream.number_at(*time),
                fabric_core::End::At(position) if position.topic == stream.topic => {
                    self.number_of(position)? + 1
                }
                _ => stream.next(),
            };
            let (from, until) = (from.max(stream.first()), until.saturating_sub(miss_last));
            if from < until {
                ranges.push((index, from, until));
            }
        }
        // Topic by topic would do; by the time of their first event reads better.
        ranges.sort_by_key(|(index, from, _)| {
            let stream = self.streams.stream(*index);
            stream
                .segment_of(*from)
                .map(|segment| segment.events[(*from - segment.base) as usize].time())
        });
        Ok(ranges)
    }

    /// Up to a chunk of a replay's range, and where to go on; how many were gone.
    pub(crate) fn read(
        &mut self,
        index: usize,
        from: u64,
        until: u64,
        most: usize,
        now: Now,
    ) -> Read {
        let stream = self.streams.stream(index);
        let incarnation = stream.incarnation;
        let missed = stream.first().min(until).saturating_sub(from);
        let mut from = from + missed;
        loop {
            let segment = match stream.segment_of(from) {
                Some(segment) if from < until => segment,
                _ => return Read { chunk: None, next: until, missed },
            };
            let at = (from - segment.base) as usize;
            let len = ((until - from) as usize).min(segment.events.len() - at).min(most);
            let fresh = |event: &&Event| !is_expired(event, now.wall);
            let run = segment.events[at..at + len].iter().take_while(fresh).count();
            if run == 0 {
                from += 1;
                continue;
            }
            let chunk = Chunk::new(Arc::clone(&segment.events), at, run, now.wall)
                .with_places(fabric_core::Places::Run { incarnation, first: from })
                .with_attempt(1);
            return Read { chunk: Some(Arc::new(chunk)), next: from + run as u64, missed };
        }
    }

    // ---- groups ----

    /// Makes the group, or checks that it may be joined as `options` say.
    pub(crate) fn admit(
        &mut self,
        options: &SubscribeOptions,
        now: Now,
        wakers: &mut Wakers,
    ) -> Result<usize> {
        let Some(name) = options.durable_group().cloned() else {
            return Err(Error::new(ErrorKind::Config, "a durable group has a name"));
        };
        let lenient = self.has_bug(Bug::MismatchAccepted);
        if let Some(index) = self.by_group.get(&name).copied() {
            if let Some(state) = self.groups[index].as_mut() {
                if !lenient {
                    state.definition.admit(&name, options)?;
                }
                if let Some(policy) = options.when_full
                    && state.when_full != policy
                {
                    state.when_full = policy;
                    // What blocked before may be dropped now.
                    self.wake_publishers_of(Reader::Group(index), wakers);
                }
            }
            if options.redefine_group {
                self.redefine(&name, &options.patterns, wakers)?;
            }
            if self.has_bug(Bug::GroupForgetsPlace)
                && self.groups[index].as_ref().is_some_and(|state| state.members().count() == 0)
            {
                self.reset(&name, &Start::New, now, wakers)?;
            }
            return Ok(index);
        }
        let when_full = options.when_full.unwrap_or(self.config.when_full);
        self.define(&name, GroupDefinition::of(options), when_full, now, wakers)
    }

    pub(crate) fn define_group(
        &mut self,
        name: &Group,
        definition: GroupDefinition,
        now: Now,
        wakers: &mut Wakers,
    ) -> Result<()> {
        if let Some(state) = self.state(name) {
            if state.definition == definition {
                return Ok(());
            }
            return Err(Error::new(
                ErrorKind::GroupMismatch,
                format!(
                    "the group `{name}` exists as {:?}, not {definition:?}; redefine or delete it first",
                    state.definition
                ),
            ));
        }
        self.define(name, definition, self.config.when_full, now, wakers).map(drop)
    }

    fn define(
        &mut self,
        name: &Group,
        definition: GroupDefinition,
        when_full: WhenFull,
        now: Now,
        wakers: &mut Wakers,
    ) -> Result<usize> {
        let places = self.places(&definition.patterns, &definition.start, now)?;
        let patterns = definition.patterns.clone();
        let state = GroupState::new(name.clone(), definition, when_full, self.ticket());
        let index = self.groups.add(state);
        self.by_group.insert(name.clone(), index);
        for pattern in &patterns {
            self.patterns.insert(pattern, Reader::Group(index));
        }
        for (topic, from) in places {
            self.attach(Reader::Group(index), topic, from);
        }
        // Dead letters have a reader now that may let go of them.
        self.wake_publishers_of(Reader::Group(index), wakers);
        Ok(index)
    }

    pub(crate) fn join(
        &mut self,
        group: usize,
        client: u64,
        prefetch: Option<usize>,
        flags: Arc<MemberFlags>,
    ) -> Member {
        let prefetch = prefetch.unwrap_or(self.config.prefetch);
        match self.groups[group].as_mut() {
            Some(state) => {
                Member { group, serial: state.serial, index: state.join(client, prefetch, flags) }
            }
            None => Member { group, serial: 0, index: 0 },
        }
    }

    pub(crate) fn set_settler(&mut self, member: Member, settler: Arc<dyn Settler>) {
        if let Some(state) = self.of(member) {
            state.set_settler(member.index, settler);
        }
    }

    pub(crate) fn definition(&self, group: usize) -> Option<GroupDefinition> {
        self.groups[group].as_ref().map(|state| state.definition.clone())
    }

    fn of(&mut self, member: Member) -> Option<&mut GroupState> {
        self.groups.get_mut(member.group).filter(|state| state.serial == member.serial)
    }

    fn state(&self, name: &Group) -> Option<&GroupState> {
        self.groups[*self.by_group.get(name)?].as_ref()
    }

    fn group_index(&self, name: &Group) -> Result<usize> {
        self.by_group.get(name).copied().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no group `{name}`"))
                .with("group", name)
        })
    }

    pub(crate) fn poll_group(
        &mut self,
        member: Member,
        now: Now,
        waker: &Waker,
        wakers: &mut Wakers,
    ) -> Polled {
        let state = self.groups.get_mut(member.group);
        match state.filter(|state| state.serial == member.serial) {
            Some(state) => {
                let polled = state.poll(
                    member.index,
                    &mut self.streams,
                    now.instant,
                    now.wall,
                    waker,
                    &mut self.timers,
                );
                if std::mem::take(&mut state.skipped) {
                    self.wake_publishers_of(Reader::Group(member.group), wakers);
                }
                polled
            }
            None => Polled::Gone(Error::new(ErrorKind::NotFound, "the group was deleted")),
        }
    }

    /// A chunk was settled, or somebody waits to hear of it.
    pub(crate) fn settled(&mut self, member: Member, chunk: &Chunk, wakers: &mut Wakers) {
        if self.has_bug(Bug::AckLost) {
            let mask = chunk.full_mask();
            if let Some(state) = self.groups.get_mut(member.group) {
                let now = Instant::now();
                state.nack(chunk, mask, &Nack::now(), now, &self.streams, &mut self.timers, wakers);
            }
            return;
        }
        let Some(state) = self.of(member) else { return };
        match state.settled(chunk, wakers) {
            Some(stream) => self.wake_publisher(stream, wakers),
            // Somebody saw that it was settled before we were told.
            None => self.wake_publishers_of(Reader::Group(member.group), wakers),
        }
    }

    pub(crate) fn nack(
        &mut self,
        member: Member,
        chunk: &Chunk,
        mask: u64,
        nack: &Nack,
        now: Now,
        wakers: &mut Wakers,
    ) {
        let state = self.groups.get_mut(member.group);
        if let Some(state) = state.filter(|state| state.serial == member.serial) {
            state.nack(chunk, mask, nack, now.instant, &self.streams, &mut self.timers, wakers);
        }
    }

    pub(crate) fn progress(&mut self, member: Member, chunk: &Chunk, mask: u64, now: Now) -> bool {
        if self.has_bug(Bug::ProgressIgnored) {
            return true;
        }
        self.of(member).is_some_and(|state| state.progress(chunk, mask, now.instant))
    }

    pub(crate) fn dropped(
        &mut self,
        member: Member,
        chunk: &Chunk,
        mask: u64,
        wakers: &mut Wakers,
    ) {
        let state = self.groups.get_mut(member.group);
        if let Some(state) = state.filter(|state| state.serial == member.serial) {
            state.dropped(chunk, mask, &self.streams, wakers);
        }
    }

    pub(crate) fn leave(&mut self, member: Member, wakers: &mut Wakers) {
        let state = self.groups.get_mut(member.group);
        if let Some(state) = state.filter(|state| state.serial == member.serial) {
            state.leave(member.index, &self.streams, wakers);
        }
    }

    pub(crate) fn redefine(
        &mut self,
        name: &Group,
        patterns: &Patterns,
        wakers: &mut Wakers,
    ) -> Result<()> {
        let index = self.group_index(name)?;
        let drops = self.has_bug(Bug::RedefineDropsBacklog);
        let Some(state) = self.groups[index].as_mut() else { return Ok(()) };
        let old = std::mem::replace(&mut state.definition.patterns, patterns.clone());
        for pattern in &old {
            self.patterns.remove(pattern, &Reader::Group(index));
        }
        for pattern in patterns {
            self.patterns.insert(pattern, Reader::Group(index));
        }
        let (were, are) = (self.matching(&old), self.matching(patterns));
        for at in were.iter().chain(&are).copied().collect::<BTreeSet<usize>>() {
            let (was, is) = (were.binary_search(&at).is_ok(), are.binary_search(&at).is_ok());
            let next = self.streams.peek(at).next();
            let Some(state) = self.groups[index].as_mut() else { continue };
            match (state.tracks.slot_of(at), was, is) {
                (Some(slot), true, false) => {
                    // What was queued is still delivered.
                    let track = &mut state.tracks.list[slot];
                    track.until = Some(next);
                    if drops {
                        track.cursor = next;
                    }
                }
                (Some(slot), false, true) => {
                    let track = &mut state.tracks.list[slot];
                    if let Some(until) = track.until.take() {
                        track.skip(until, next);
                        track.began = next;
                    }
                }
                (None, _, true) => self.attach(Reader::Group(index), at, next),
                _ => {}
            }
        }
        if let Some(state) = self.groups[index].as_mut() {
            state.wake(wakers);
        }
        Ok(())
    }

    pub(crate) fn reset(
        &mut self,
        name: &Group,
        start: &Start,
        now: Now,
        wakers: &mut Wakers,
    ) -> Result<()> {
        let index = self.group_index(name)?;
        let patterns = match self.state(name) {
            Some(state) => state.definition.patterns.clone(),
            None => return Ok(()),
        };
        let places = self.places(&patterns, start, now)?;
        let epoch = self.ticket();
        let Some(state) = self.groups[index].as_mut() else { return Ok(()) };
        state.forget(epoch);
        // What removed patterns had queued is gone as well, and so is the inbox.
        for (slot, track) in state.tracks.list.iter_mut().enumerate() {
            let next = self.streams.peek(track.stream).next();
            track.restart(next, (state.inbox != Some(slot)).then_some(next));
        }
        for (topic, from) in places {
            if let Some(state) = self.groups[index].as_mut()
                && let Some(slot) = state.tracks.slot_of(topic)
            {
                let first = self.streams.peek(topic).first();
                state.tracks.list[slot].restart(from.max(first), None);
                state.lagged += first.saturating_sub(from);
                state.tracks.make_ready(slot);
                state.survey(slot, self.streams.stream(topic));
            } else {
                self.attach(Reader::Group(index), topic, from);
            }
        }
        self.wake_publishers_of(Reader::Group(index), wakers);
        if let Some(state) = self.groups[index].as_mut() {
            state.wake(wakers);
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, name: &Group, wakers: &mut Wakers) -> Result<()> {
        let index = self.group_index(name)?;
        self.by_group.remove(name);
        let Some(mut state) = self.groups.take(index) else { return Ok(()) };
        state.forget(self.ticket());
        state.wake(wakers);
        for pattern in &state.definition.patterns {
            self.patterns.remove(pattern, &Reader::Group(index));
        }
        for track in &state.tracks.list {
            self.readers[track.stream].groups.retain(|(known, _)| *known != index);
            self.wake_publisher(track.stream, wakers);
        }
        if let Some(inbox) = state.inbox {
            let inbox = state.tracks.list[inbox].stream;
            self.streams.drop_before(inbox, u64::MAX);
            self.free_streams.push(inbox);
        }
        Ok(())
    }

    pub(crate) fn group_names(&self) -> Vec<Group> {
        let mut names: Vec<Group> = self.by_group.keys().cloned().collect();
        names.sort();
        names
    }

    pub(crate) fn group_info(&self, name: &Group) -> Result<GroupInfo> {
        let index = self.group_index(name)?;
        let Some(state) = &self.groups[index] else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no group `{name}`")));
        };
        let mut lag: Vec<TopicLag> = (0..state.tracks.list.len())
            .map(|slot| {
                let stream = self.streams.peek(state.tracks.list[slot].stream);
                let (undelivered, pending) = state.lag_of(slot, stream);
                TopicLag::new(stream.topic.clone(), undelivered, pending)
            })
            .filter(|lag| {
                !lag.topic.as_str().starts_with("_fabric.") || lag.undelivered + lag.pending > 0
            })
            .collect();
        lag.sort_by(|a, b| a.topic.cmp(&b.topic));
        let members = state.members().count() as u64;
        Ok(GroupInfo::new(name.clone(), state.definition.clone(), members, lag))
    }

    /// The index of a group's inbox, made with its first event.
    pub(crate) fn inbox(&mut self, name: &Group) -> Result<usize> {
        let index = self.group_index(name)?;
        if let Some(state) = &self.groups[index]
            && let Some(slot) = state.inbox
        {
            return Ok(state.tracks.list[slot].stream);
        }
        let topic = Topic::new(format!("_fabric.to.{name}"))?;
        let stream = self.new_stream(topic);
        if let Some(state) = self.groups[index].as_mut() {
            let slot = state.tracks.add(stream, 0);
            state.inbox = Some(slot);
            self.readers[stream].groups.push((index, slot));
        }
        if self.has_bug(Bug::InboxLeaks) {
            for other in 0..self.groups.len() {
                if other != index {
                    self.attach(Reader::Group(other), stream, 0);
                }
            }
        }
        Ok(stream)
    }

    /// Puts an event for which there is room into a group's inbox.
    #[expect(clippy::too_many_arguments, reason = "what a delivery to one group consists of")]
    pub(crate) fn send(
        &mut self,
        name: &Group,
        inbox: usize,
        event: Event,
        at: Option<Instant>,
        attempt: u32,
        now: Now,
        wakers: &mut Wakers,
    ) {
        let (bytes, priority) = (kept_size(&event), event.priority());
        let number = self.streams.stream(inbox).push(event, bytes, now.wall);
        let leaks = self.has_bug(Bug::InboxLeaks);
        if let Ok(index) = self.group_index(name)
            && let Some(state) = self.groups[index].as_mut()
            && let Some(slot) = state.inbox
        {
            // It is not read in turn but held with its own attempt number and time.
            state.tracks.list[slot].cursor = number + 1;
            let attempts = attempt.saturating_sub(1);
            state.put(slot, number, priority, attempts, at, &mut self.timers);
            state.wake(wakers);
        }
        if leaks {
            self.announce(inbox, number, Priority::Normal, wakers);
        }
    }

    // ---- topics ----

    pub(crate) fn topics(&mut self, patterns: &Patterns, now: Now) -> Vec<TopicInfo> {
        let topics = self.matching(patterns);
        let mut infos: Vec<TopicInfo> =
            topics.into_iter().map(|index| self.info(index, now)).collect();
        infos.sort_by(|a, b| a.topic.cmp(&b.topic));
        infos
    }

    pub(crate) fn topic_info(&mut self, topic: &Topic, now: Now) -> Result<TopicInfo> {
        let index = self.existing(topic)?;
        Ok(self.info(index, now))
    }

    fn existing(&self, topic: &Topic) -> Result<usize> {
        self.by_name.get(topic).copied().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no topic `{topic}`"))
                .with("topic", topic)
        })
    }

    fn info(&mut self, index: usize, now: Now) -> TopicInfo {
        self.drop_aged(index, &now);
        let stream = self.streams.peek(index);
        let readers = &self.readers[index];
        let mut info = TopicInfo::new(stream.topic.clone());
        info.events = stream.len() as u64;
        info.bytes = stream.bytes() as u64;
        info.published = stream.next();
        info.first = (stream.len() > 0).then(|| stream.position(stream.first()));
        info.last = (stream.len() > 0).then(|| stream.position(stream.next() - 1));
        info.last_time = stream.last_time();
        info.readers = (readers.groups.len() + readers.plains.len()) as u64;
        info
    }

    /// Drops a topic's oldest events for everybody. Returns how many.
    pub(crate) fn trim(
        &mut self,
        topic: &Topic,
        trim: Option<&Trim>,
        wakers: &mut Wakers,
    ) -> Result<u64> {
        let index = self.existing(topic)?;
        let stream = self.streams.peek(index);
        let before = match trim {
            None => stream.next(),
            Some(Trim::Before(position)) => {
                if position.topic != *topic {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("the position `{position}` is not in `{topic}`"),
                    ));
                }
                self.number_of(position)?
            }
            Some(Trim::Older(time)) => stream.number_at(*time),
            Some(Trim::Keep(count)) => stream.next().saturating_sub(*count),
            Some(other) => return Err(Error::unsupported(format_args!("{other:?}"), "memory")),
        };
        let had = stream.len();
        for (group, slot) in self.readers[index].groups.clone() {
            if let Some(state) = self.groups[group].as_mut() {
                state.evict(slot, before, self.streams.peek(index));
                state.lag(0, wakers);
            }
        }
        self.streams.drop_before(index, before);
        self.wake_publisher(index, wakers);
        if self.waiting > 0 {
            // A bound of a subscription's own counts the events of all its topics.
            for (plain, _) in self.readers[index].plains.clone() {
                self.wake_publishers_of(Reader::Plain(plain), wakers);
            }
        }
        Ok((had - self.streams.peek(index).len()) as u64)
    }

    // ---- clients ----

    /// A client stops: its subscriptions end, what was not handed out goes back.
    pub(crate) fn stop_client(&mut self, client: u64, wakers: &mut Wakers) -> Held {
        let mut held = Held::default();
        let mine = self.plains.iter().filter(|(_, plain)| plain.client == client);
        for index in mine.map(|(index, _)| index).collect::<Vec<usize>>() {
            self.detach(index, wakers);
        }
        for index in 0..self.groups.len() {
            let Some(state) = self.groups[index].as_mut() else { continue };
            for member in state.members_of(client) {
                state.stop(member, &self.streams, wakers);
            }
            for member in state.members().filter(|member| member.client == client) {
                member.flags.closing.store(true, std::sync::atomic::Ordering::SeqCst);
            }
            let chunks = state.chunks_of(client);
            if !chunks.is_empty() {
                held.0.push((index, state.serial, chunks));
            }
        }
        held
    }

    /// How many deliveries are still open.
    pub(crate) fn count_held(&self, held: &Held) -> usize {
        held.0
            .iter()
            .filter_map(|(group, serial, chunks)| {
                let state = self.groups[*group].as_ref().filter(|state| state.serial == *serial)?;
                Some(state.held_by(chunks))
            })
            .sum()
    }

    /// Takes what is still open back.
    pub(crate) fn take_back(&mut self, held: &Held, wakers: &mut Wakers) {
        for (group, serial, chunks) in &held.0 {
            if let Some(state) =
                self.groups[*group].as_mut().filter(|state| state.serial == *serial)
            {
                state.take_back(chunks, &self.streams, wakers);
            }
        }
    }

    /// Figures for a health check.
    pub(crate) fn figures(&self) -> [(&'static str, usize); 4] {
        let kept = self.streams.list.iter().map(Stream::len).sum();
        let plains = self.plains.iter().count();
        [
            ("topics", self.by_name.len()),
            ("groups", self.by_group.len()),
            ("subscriptions", plains),
            ("events", kept),
        ]
    }
}

/// The names under which topics were published to lately, found by where they lie in memory. Each
/// is held, so that an address stands for one name.
#[derive(Debug)]
struct Recent([Option<(Topic, usize)>; RECENT]);

const RECENT: usize = 64;

impl Recent {
    #[inline]
    fn find(&self, topic: &Topic) -> Option<usize> {
        let (known, index) = self.0[Self::place(topic)].as_ref()?;
        known.same_as(topic).then_some(*index)
    }

    fn note(&mut self, topic: Topic, index: usize) {
        let place = Self::place(&topic);
        self.0[place] = Some((topic, index));
    }

    #[inline]
    fn place(topic: &Topic) -> usize {
        // Shared text is aligned to sixteen bytes and takes at least twice that.
        (topic.as_str().as_ptr().addr() >> 5) % RECENT
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self([const { None }; RECENT])
    }
}

/// A member of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    group: usize,
    serial: u64,
    index: usize,
}

/// What a stopping client's deliveries still hold.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<(usize, u64, HashSet<u64>)>);

/// A step of a replay.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) chunk: Option<Arc<Chunk>>,
    pub(crate) next: u64,
    pub(crate) missed: u64,
}

fn last_or_next(stream: &Stream) -> u64 {
    if stream.len() > 0 { stream.next() - 1 } else { stream.next() }
}
