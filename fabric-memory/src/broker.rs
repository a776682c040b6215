//! The broker: topics, groups, plain subscriptions and timers. Synchronous and pure: time is a
//! parameter, and who is to be woken is an answer.

mod dedup;
mod group;
mod groups;
#[cfg(test)]
mod model;
mod places;
mod plain;
mod publishing;
mod slots;
mod stream;
mod track;
mod wheel;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use fabric_core::clock::Now;
use fabric_core::{
    Chunk, Error, ErrorKind, Event, Group, PatternTrie, Patterns, Start, SubscribeOptions, Topic,
    TopicInfo, Trim, WhenFull,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;
use tokio::time::Instant;

use self::dedup::Dedup;
use self::group::GroupState;
pub(crate) use self::group::MemberFlags;
pub(crate) use self::groups::Member;
use self::plain::Plain;
use self::publishing::Recent;
pub(crate) use self::publishing::{Blocked, Stored};
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

/// What a stopping client's deliveries still hold.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<(usize, u64, HashSet<u64>)>);
