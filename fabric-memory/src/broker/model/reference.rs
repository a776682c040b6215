//! What a broker is to do, said with plain lists: nothing here is fast or shares code with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fabric_core::{GroupDefinition, Patterns, Priority, Timestamp, Topic, WhenFull};

use crate::config::MemoryConfig;

/// `Err` says how the broker differs from what it is to do.
pub(super) type Verdict<T = ()> = Result<T, String>;
/// Where an event lies: in which topic, or in the group's own inbox, under which number.
pub(super) type Key = (usize, u64);

/// The place of a group's inbox among topics.
pub(super) const INBOX: usize = usize::MAX;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}
pub(super) use ensure;

/// What does not change about an event.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub(super) priority: Priority,
    pub(super) expires: Option<Timestamp>,
    pub(super) bytes: usize,
}

/// One topic.
#[derive(Debug)]
pub(super) struct TopicModel {
    pub(super) name: Topic,
    /// Which event each number is, and when it was stored.
    pub(super) stored: Vec<(usize, Timestamp)>,
    /// The oldest number that is kept.
    pub(super) first: u64,
    /// What is not due yet.
    pub(super) scheduled: Vec<Later>,
    /// Counts what was stored anywhere: which topic has the newest event.
    last: u64,
}

/// An event that is not due yet.
#[derive(Debug)]
pub(super) struct Later {
    due: Timestamp,
    order: u64,
    pub(super) event: usize,
}

impl TopicModel {
    pub(super) fn next(&self) -> u64 {
        self.stored.len() as u64
    }

    pub(super) fn kept(&self) -> usize {
        (self.next() - self.first) as usize
    }
}

/// How many events a reader is told that it missed.
///
/// Whether a reader misses an event that had expired is the broker's choice, hence a range.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lag {
    least: u64,
    most: u64,
    told: u64,
}

impl Lag {
    pub(super) fn missed(&mut self, expired: bool) {
        self.least += u64::from(!expired);
        self.most += 1;
    }

    fn add_all(&mut self, count: u64) {
        self.least += count;
        self.most += count;
    }

    fn tell(&mut self, count: u64) -> Verdict {
        self.told += count;
        ensure!(count > 0, "a lag of nothing is told");
        ensure!(self.told <= self.most, "too much lag is told: {self:?}");
        Ok(())
    }

    pub(super) fn is_told(&self) -> bool {
        self.told >= self.least
    }
}

/// Where a reader begins in each topic that it reads.
pub(super) type Begin = Vec<(usize, u64)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    New,
    /// Given back before anybody saw it.
    First,
    Retry,
}

#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub(super) chunk: usize,
    pub(super) bit: u32,
    pub(super) member: usize,
    /// The lease ends between these.
    pub(super) earliest: Timestamp,
    pub(super) latest: Timestamp,
    pub(super) exact: bool,
    pub(super) handed: bool,
    /// The user let go of it without a word.
    pub(super) dropped: bool,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    Free(Queue),
    Delayed(Timestamp),
    Held(Hold),
    /// Given back, but the broker has not heard of it yet.
    Returning {
        chunk: usize,
        member: usize,
    },
}

/// An event that a group has not settled.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) event: usize,
    /// How often it was handed out before.
    pub(super) attempts: u32,
    pub(super) state: State,
}

/// Whose turn it is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Critical,
    High,
    First,
    Flow,
    Low,
}

#[derive(Debug)]
pub(super) struct GroupModel {
    pub(super) definition: GroupDefinition,
    pub(super) when_full: WhenFull,
    pub(super) items: BTreeMap<Key, Item>,
    /// Where it began to read each topic that it reads.
    began: BTreeMap<usize, u64>,
    pub(super) inbox: u64,
    pub(super) inbox_first: u64,
    pub(super) lag: Lag,
    /// Whether the last chunk in the flow came again, if there was a choice.
    chose_retry: Option<bool>,
}

#[derive(Debug)]
pub(super) struct PlainModel {
    pub(super) patterns: Patterns,
    pub(super) when_full: WhenFull,
    pub(super) bound: Option<u64>,
    pub(super) unread: BTreeSet<Key>,
    /// How many of `unread` it will never get, as it was told.
    dropped: u64,
    pub(super) lag: Lag,
}

impl PlainModel {
    pub(super) fn is_strict(&self) -> bool {
        self.bound.is_some() && self.when_full != WhenFull::DropOldest
    }

    fn waiting(&self) -> u64 {
        self.unread.len() as u64 - self.dropped
    }

    fn is_full(&self) -> bool {
        self.bound.is_some_and(|bound| self.waiting() >= bound)
    }
}

/// Why events are no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// So many more events of so many bytes were to be stored in a topic.
    Room(usize, usize, usize),
    Trim(usize),
    None,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) max_events: usize,
    pub(super) max_bytes: usize,
    pub(super) max_age: Option<Duration>,
    pub(super) facts: Vec<Fact>,
    pub(super) topics: Vec<TopicModel>,
    pub(super) groups: Vec<Option<GroupModel>>,
    pub(super) plains: BTreeMap<usize, PlainModel>,
    pushes: u64,
}

impl Model {
    pub(super) fn new(topics: &[Topic], groups: usize, config: &MemoryConfig) -> Self {
        let topic = |name: &Topic| TopicModel {
            name: name.clone(),
            stored: Vec::new(),
            first: 0,
            scheduled: Vec::new(),
            last: 0,
        };
        Self {
            max_events: config.max_events,
            max_bytes: config.max_bytes,
            max_age: config.max_age,
            facts: Vec::new(),
            topics: topics.iter().map(topic).collect(),
            groups: (0..groups).map(|_| None).collect(),
            plains: BTreeMap::new(),
            pushes: 0,
        }
    }

    /// The most events that are dropped together.
    pub(super) fn segment(&self) -> u64 {
        (self.max_events / 8).clamp(1, 64) as u64
    }

    fn is_expired(&self, event: usize, now: Timestamp) -> bool {
        self.facts[event].expires.is_some_and(|at| now >= at)
    }

    // ---- storing ----

    /// An event is stored: every reader has it to get. Returns its number.
    pub(super) fn push(&mut self, topic: usize, event: usize, at: Timestamp) -> u64 {
        self.pushes += 1;
        let stream = &mut self.topics[topic];
        let number = stream.next();
        let at = stream.stored.last().map_or(at, |(_, last)| at.max(*last));
        stream.stored.push((event, at));
        stream.last = self.pushes;
        for group in self.groups.iter_mut().flatten() {
            if group.definition.patterns.matches(&stream.name) {
                let state = State::Free(Queue::New);
                group.items.insert((topic, number), Item { event, attempts: 0, state });
                group.began.entry(topic).or_insert(number);
            }
        }
        for plain in self.plains.values_mut() {
            if plain.patterns.matches(&stream.name) {
                if plain.when_full == WhenFull::DropNewest && plain.is_full() {
                    plain.lag.missed(false);
                } else {
                    plain.unread.insert((topic, number));
                }
            }
        }
        number
    }

    /// An event that was not due is kept for later.
    pub(super) fn schedule(&mut self, topic: usize, event: usize, due: Timestamp) {
        self.pushes += 1;
        self.topics[topic].scheduled.push(Later { due, order: self.pushes, event });
    }

    /// What is due is stored, what was given back for a while is free.
    pub(super) fn pass(&mut self, now: Timestamp) {
        let mut due = Vec::new();
        for (topic, stream) in self.topics.iter_mut().enumerate() {
            let ripe = stream.scheduled.extract_if(.., |later| later.due <= now);
            due.extend(ripe.map(|later| (later.due, later.order, topic, later.event)));
        }
        due.sort_unstable();
        for (_, _, topic, event) in due {
            self.push(topic, event, now);
        }
        for group in self.groups.iter_mut().flatten() {
            for item in group.items.values_mut() {
                if let State::Delayed(until) = item.state
                    && until <= now
                {
                    item.state = State::Free(Queue::Retry);
                }
            }
        }
    }

    /// Nothing that is published is kept: every reader learns of it.
    pub(super) fn drop_newest(&mut self, topic: usize) {
        let name = &self.topics[topic].name;
        for group in self.groups.iter_mut().flatten() {
            if group.definition.patterns.matches(name) {
                group.lag.missed(false);
            }
        }
        for plain in self.plains.values_mut() {
            if plain.patterns.matches(name) {
                plain.lag.missed(false);
            }
        }
    }

    /// Who may refuse one more event of so many bytes in the topic, and how.
    pub(super) fn in_the_way(&self, topic: usize, bytes: usize) -> Vec<WhenFull> {
        let stream = &self.topics[topic];
        let mut policies = Vec::new();
        for plain in self.plains.values() {
            if plain.is_strict() && plain.patterns.matches(&stream.name) && plain.is_full() {
                policies.push(plain.when_full);
            }
        }
        if self.excess(topic, 1, bytes) == 0 {
            return policies;
        }
        let end = stream.first + self.segment();
        for group in self.groups.iter().flatten() {
            let mut oldest = group.items.range((topic, stream.first)..(topic, end));
            if oldest.next().is_some() {
                policies.push(group.when_full);
            }
        }
        for plain in self.plains.values() {
            if plain.unread.range((topic, stream.first)..(topic, end)).next().is_some() {
                policies.push(plain.when_full);
            }
        }
        if stream.kept() == 0 || self.is_kept(topic) {
            policies.push(WhenFull::Block);
        }
        policies.retain(|policy| *policy != WhenFull::DropOldest);
        policies
    }

    /// How many of the oldest events leave room for so many more, or all where none do.
    fn excess(&self, topic: usize, events: usize, bytes: usize) -> usize {
        let stream = &self.topics[topic];
        let size = |event: usize| self.facts[event].bytes;
        let later: usize = stream.scheduled.iter().map(|later| size(later.event)).sum();
        let kept = &stream.stored[stream.first as usize..];
        let mut count = kept.len() + stream.scheduled.len() + events;
        let mut sum = kept.iter().map(|(event, _)| size(*event)).sum::<usize>() + later + bytes;
        let mut excess = 0;
        while excess < kept.len() && (count > self.max_events || sum > self.max_bytes) {
            count -= 1;
            sum -= size(kept[excess].0);
            excess += 1;
        }
        excess + usize::from(count > self.max_events || sum > self.max_bytes)
    }

    /// Whether these are dead letters that no group has read.
    fn is_kept(&self, topic: usize) -> bool {
        let stream = &self.topics[topic];
        let reads =
            |group: &GroupModel| group.began.get(&topic).is_some_and(|n| *n <= stream.first);
        stream.name.is_reserved() && !self.groups.iter().flatten().any(reads)
    }

    /// The topic keeps nothing before `first` any more.
    pub(super) fn evict(
        &mut self,
        topic: usize,
        first: u64,
        cause: Cause,
        now: Timestamp,
    ) -> Verdict {
        let stream = &self.topics[topic];
        let old = stream.first;
        if first == old {
            return Ok(());
        }
        ensure!(first > old && first <= stream.next(), "{}: from {old} to {first}", stream.name);
        let trimmed = cause == Cause::Trim(topic);
        if let Cause::Room(at, events, bytes) = cause
            && self.max_age.is_none()
        {
            let wanted = self.excess(topic, events, bytes);
            let dropped = (first - old) as usize;
            ensure!(at == topic, "{} is evicted for another topic", stream.name);
            ensure!(
                dropped < wanted + self.segment() as usize,
                "{dropped} are evicted from {} for {wanted}",
                stream.name
            );
        }
        ensure!(
            trimmed || self.max_age.is_some() || matches!(cause, Cause::Room(..)),
            "{} is evicted without a reason",
            stream.name
        );
        ensure!(trimmed || !self.is_kept(topic), "dead letters are evicted that nobody has read");
        let gone: Vec<u64> = (old..first).collect();
        for number in gone {
            let (event, stored) = self.topics[topic].stored[number as usize];
            let expired = self.is_expired(event, now);
            let aged = self.max_age.is_some_and(|age| now.saturating_since(stored) > age);
            let key = (topic, number);
            for (n, group) in self.groups.iter_mut().enumerate() {
                let Some(group) = group else { continue };
                let Some(item) = group.items.get(&key) else { continue };
                let may = trimmed || expired || group.when_full == WhenFull::DropOldest;
                ensure!(may, "{key:?} is evicted, and group {n} has not settled it: {item:?}");
                // What a member has it keeps.
                if matches!(item.state, State::Free(_) | State::Delayed(_)) {
                    group.items.remove(&key);
                    group.lag.missed(expired);
                }
            }
            for (n, plain) in &mut self.plains {
                if plain.unread.remove(&key) {
                    let may = trimmed || aged || expired || plain.when_full == WhenFull::DropOldest;
                    ensure!(may, "{key:?} is evicted, and plain {n} has not read it");
                    plain.lag.missed(expired);
                }
            }
        }
        self.topics[topic].first = first;
        Ok(())
    }

    // ---- groups ----

    pub(super) fn group(&mut self, group: usize) -> Verdict<&mut GroupModel> {
        self.groups[group].as_mut().ok_or_else(|| format!("group {group} does not exist"))
    }

    /// A group reads from these places on.
    pub(super) fn define(
        &mut self,
        group: usize,
        definition: GroupDefinition,
        when_full: WhenFull,
        begin: &Begin,
    ) {
        self.groups[group] = Some(GroupModel {
            definition,
            when_full,
            items: BTreeMap::new(),
            began: BTreeMap::new(),
            inbox: 0,
            inbox_first: 0,
            lag: Lag::default(),
            chose_retry: None,
        });
        self.begin(group, begin);
    }

    fn begin(&mut self, group: usize, begin: &Begin) {
        let Some(state) = self.groups[group].as_mut() else { return };
        for (topic, from) in begin {
            let stream = &self.topics[*topic];
            state.lag.add_all(stream.first.saturating_sub(*from));
            state.began.entry(*topic).or_insert(*from);
            for number in stream.first.max(*from)..stream.next() {
                let (event, _) = stream.stored[number as usize];
                let item = Item { event, attempts: 0, state: State::Free(Queue::New) };
                state.items.insert((*topic, number), item);
            }
        }
    }

    /// A group has other patterns: topics that are new to it begin at new.
    pub(super) fn redefine(&mut self, group: usize, patterns: &Patterns, exists: &[bool]) {
        let begin = self.places(patterns, &Begins::New, exists);
        let Some(state) = self.groups[group].as_mut() else { return };
        state.definition.patterns = patterns.clone();
        state.began.retain(|topic, _| begin.iter().any(|(of, _)| of == topic));
        for (topic, from) in begin {
            state.began.entry(topic).or_insert(from);
        }
    }

    /// The group's place is moved: it has nothing but what lies there.
    pub(super) fn reset(&mut self, group: usize, begin: &Begin) {
        if let Some(state) = self.groups[group].as_mut() {
            state.items.clear();
            state.inbox_first = state.inbox;
            state.lag = Lag::default();
            state.chose_retry = None;
        }
        self.begin(group, begin);
    }

    /// An event is put into the group's own inbox.
    pub(super) fn send(
        &mut self,
        group: usize,
        event: usize,
        attempt: u32,
        until: Option<Timestamp>,
    ) -> Verdict {
        let state = self.group(group)?;
        let item = Item {
            event,
            attempts: attempt.saturating_sub(1),
            state: until.map_or(State::Free(Queue::First), State::Delayed),
        };
        state.items.insert((INBOX, state.inbox), item);
        state.inbox += 1;
        Ok(())
    }

    fn turn(&self, item: &Item) -> Option<Turn> {
        let State::Free(queue) = item.state else { return None };
        Some(match (self.facts[item.event].priority, queue) {
            (Priority::Critical, _) => Turn::Critical,
            (Priority::High, _) => Turn::High,
            (Priority::Low, _) => Turn::Low,
            (Priority::Normal, Queue::First) => Turn::First,
            (Priority::Normal, Queue::New | Queue::Retry) => Turn::Flow,
        })
    }

    /// How many deliveries the member has.
    pub(super) fn holds(&self, group: usize, member: usize) -> usize {
        let of = |item: &&Item| match &item.state {
            State::Held(hold) => hold.member == member,
            State::Returning { member: of, .. } => *of == member,
            _ => false,
        };
        self.groups[group].iter().flat_map(|g| g.items.values()).filter(of).count()
    }

    /// Whether there is something to tell or to give to a member that may have more.
    pub(super) fn has_something(
        &self,
        group: usize,
        member: usize,
        prefetch: usize,
        now: Timestamp,
    ) -> bool {
        let Some(state) = &self.groups[group] else { return true };
        let free =
            |item: &Item| matches!(item.state, State::Free(_)) && !self.is_expired(item.event, now);
        !state.lag.is_told()
            || (state.items.values().any(free) && self.holds(group, member) < prefetch)
    }

    /// A member gets these events.
    #[expect(clippy::too_many_arguments, reason = "everything that is known of a chunk")]
    pub(super) fn picked(
        &mut self,
        group: usize,
        member: usize,
        prefetch: usize,
        chunk: usize,
        keys: &[Key],
        attempt: u32,
        now: Timestamp,
    ) -> Verdict {
        let holds = self.holds(group, member);
        ensure!(
            holds + keys.len() <= prefetch,
            "member {member} has {holds} and gets {}, more than {prefetch}",
            keys.len()
        );
        let Some(state) = &self.groups[group] else { return Err("the group is deleted".into()) };
        let free: Vec<(Key, &Item, Turn)> = state
            .items
            .iter()
            .filter(|(_, item)| !self.is_expired(item.event, now))
            .filter_map(|(key, item)| Some((*key, item, self.turn(item)?)))
            .collect();
        let (topic, first) = keys[0];
        let Some((_, item, turn)) = free.iter().find(|(key, ..)| *key == keys[0]) else {
            return Err(format!("{:?} is not free: {:?}", keys[0], state.items.get(&keys[0])));
        };
        let State::Free(queue) = item.state else { return Err("unreachable".into()) };
        let best = free.iter().map(|(.., turn)| *turn).min();
        ensure!(best == Some(*turn), "a turn of {turn:?}, and {best:?} waits");
        let same = |other: &(Key, &Item, Turn)| {
            other.2 == *turn
                && (*turn != Turn::Flow || matches!(other.1.state, State::Free(q) if q == queue))
        };
        if let Some((before, ..)) =
            free.iter().find(|other| same(other) && other.0.0 == topic && other.0.1 < first)
        {
            return Err(format!("{:?} comes before {before:?}", keys[0]));
        }
        let is_retry = queue == Queue::Retry;
        let choice = *turn == Turn::Flow
            && free.iter().any(|(_, item, turn)| {
                *turn == Turn::Flow
                    && matches!(item.state, State::Free(q) if (q == Queue::Retry) != is_retry)
            });
        ensure!(
            !choice || state.chose_retry != Some(is_retry),
            "new events and those that come again do not take turns"
        );
        for (bit, key) in keys.iter().enumerate().skip(1) {
            ensure!(*key == (topic, first + bit as u64), "{key:?} follows {:?}", keys[0]);
            let found = free.iter().find(|(known, ..)| known == key);
            let fits = found.is_some_and(|(_, item, turn)| {
                *turn == Turn::Flow && matches!(item.state, State::Free(Queue::New))
            });
            ensure!(fits && queue == Queue::New, "{key:?} is not next: {:?}", state.items.get(key));
        }
        let wait = state.definition.ack_wait;
        let Some(state) = self.groups[group].as_mut() else { return Ok(()) };
        state.chose_retry = choice.then_some(is_retry);
        for (bit, key) in (0..).zip(keys) {
            let Some(item) = state.items.get_mut(key) else { continue };
            ensure!(item.attempts + 1 == attempt, "{key:?} is attempt {attempt}: {item:?}");
            let end = now.saturating_add(wait);
            item.state = State::Held(Hold {
                chunk,
                bit,
                member,
                earliest: end,
                latest: end,
                exact: bit == 0,
                handed: false,
                dropped: false,
            });
        }
        Ok(())
    }

    /// The item that `chunk` has at `key`.
    pub(super) fn held(&mut self, group: usize, key: Key, chunk: usize) -> Option<&mut Hold> {
        match &mut self.groups[group].as_mut()?.items.get_mut(&key)?.state {
            State::Held(hold) if hold.chunk == chunk => Some(hold),
            _ => None,
        }
    }

    /// A delivery reaches the user.
    pub(super) fn handed(
        &mut self,
        group: usize,
        key: Key,
        chunk: usize,
        now: Timestamp,
    ) -> Verdict {
        let wait = self.group(group)?.definition.ack_wait;
        let Some(hold) = self.held(group, key, chunk) else {
            return Err(format!("{key:?} is handed out by one who has it no longer"));
        };
        ensure!(!hold.handed, "{key:?} is handed out twice");
        hold.handed = true;
        if hold.bit > 0 {
            hold.earliest = now.saturating_add(wait);
            hold.latest = hold.earliest.saturating_add(wait / 16);
        }
        Ok(())
    }

    /// The broker took a delivery back.
    pub(super) fn revoked(
        &mut self,
        group: usize,
        key: Key,
        chunk: usize,
        may: bool,
        now: Timestamp,
    ) -> Verdict {
        let Some(hold) = self.held(group, key, chunk).map(|hold| hold.clone()) else {
            // The group was reset.
            return Ok(());
        };
        ensure!(may || now >= hold.earliest, "{key:?} is taken back too early: {hold:?} at {now}");
        let first = self.first(group, key);
        let event = self.group(group)?.items[&key].event;
        let expired = self.is_expired(event, now);
        let state = self.group(group)?;
        let Some(item) = state.items.get_mut(&key) else { return Ok(()) };
        item.attempts += u32::from(hold.handed);
        item.state = State::Free(Queue::First);
        if key.1 < first {
            state.items.remove(&key);
            state.lag.missed(expired);
        }
        Ok(())
    }

    /// The broker hears that a delivery is given back.
    pub(super) fn returned(
        &mut self,
        group: usize,
        key: Key,
        chunk: usize,
        until: Option<Timestamp>,
        now: Timestamp,
    ) {
        let first = self.first(group, key);
        let Some(state) = self.groups[group].as_mut() else { return };
        let Some(item) = state.items.get_mut(&key) else { return };
        if !matches!(item.state, State::Returning { chunk: of, .. } if of == chunk) {
            return;
        }
        item.attempts += 1;
        item.state = until.map_or(State::Free(Queue::Retry), State::Delayed);
        if key.1 < first {
            let event = item.event;
            state.items.remove(&key);
            let expired = self.is_expired(event, now);
            if let Some(state) = self.groups[group].as_mut() {
                state.lag.missed(expired);
            }
        }
    }

    fn first(&self, group: usize, (topic, _): Key) -> u64 {
        match topic {
            INBOX => self.groups[group].as_ref().map_or(0, |state| state.inbox_first),
            topic => self.topics[topic].first,
        }
    }

    /// The group's events in one place that nobody got, and those that somebody has or that come
    /// again: at least and at most.
    pub(super) fn lag_of(&self, group: usize, topic: usize, now: Timestamp) -> [(u64, u64); 2] {
        let mut counts = [(0, 0); 2];
        let Some(state) = &self.groups[group] else { return counts };
        for (_, item) in state.items.range((topic, 0)..=(topic, u64::MAX)) {
            let waits = matches!(item.state, State::Free(_) | State::Delayed(_));
            let which = usize::from(!waits || item.attempts > 0);
            counts[which].0 += u64::from(!waits || !self.is_expired(item.event, now));
            counts[which].1 += 1;
        }
        counts
    }

    pub(super) fn told_group(&mut self, group: usize, count: u64) -> Verdict {
        let state = self.group(group)?;
        state.chose_retry = None;
        state.lag.tell(count)
    }

    pub(super) fn nothing_for(&mut self, group: usize) {
        if let Some(state) = self.groups[group].as_mut() {
            state.chose_retry = None;
        }
    }

    /// Whether nothing is left to deliver or to settle.
    pub(super) fn is_drained(&self, group: usize, now: Timestamp) -> bool {
        let Some(state) = &self.groups[group] else { return true };
        state
            .items
            .values()
            .all(|item| matches!(item.state, State::Free(_)) && self.is_expired(item.event, now))
    }

    // ---- plain subscriptions ----

    pub(super) fn subscribe(
        &mut self,
        plain: usize,
        patterns: Patterns,
        when_full: WhenFull,
        bound: Option<usize>,
        begin: &Begin,
    ) {
        let mut state = PlainModel {
            patterns,
            when_full,
            bound: bound.map(|bound| bound as u64),
            unread: BTreeSet::new(),
            dropped: 0,
            lag: Lag::default(),
        };
        for (topic, from) in begin {
            let stream = &self.topics[*topic];
            state.lag.add_all(stream.first.saturating_sub(*from));
            state.unread.extend((stream.first.max(*from)..stream.next()).map(|n| (*topic, n)));
        }
        self.plains.insert(plain, state);
    }

    /// A plain subscription asks for more: what is beyond its bound is gone.
    pub(super) fn asked(&mut self, plain: usize) {
        let Some(state) = self.plains.get_mut(&plain) else { return };
        if let (Some(bound), WhenFull::DropOldest) = (state.bound, state.when_full) {
            let excess = state.waiting().saturating_sub(bound);
            state.dropped += excess;
            state.lag.add_all(excess);
        }
    }

    pub(super) fn told_plain(&mut self, plain: usize, count: u64) -> Verdict {
        let state = self.plains.get_mut(&plain).ok_or("a plain subscription that is gone")?;
        state.lag.tell(count)
    }

    pub(super) fn read(&mut self, plain: usize, keys: &[Key], now: Timestamp) -> Verdict {
        for key in keys {
            let event = self.topics[key.0].stored[key.1 as usize].0;
            ensure!(!self.is_expired(event, now), "{key:?} has expired");
            let Some(state) = self.plains.get(&plain) else { return Ok(()) };
            ensure!(state.unread.contains(key), "{key:?} was read or is none of its own");
            self.jumped(plain, key.0, key.1, now)?;
            if let Some(state) = self.plains.get_mut(&plain) {
                state.unread.remove(key);
            }
        }
        Ok(())
    }

    /// A plain subscription is past these: they had expired, or it was told that they are gone.
    pub(super) fn jumped(
        &mut self,
        plain: usize,
        topic: usize,
        cursor: u64,
        now: Timestamp,
    ) -> Verdict {
        let Some(state) = self.plains.get(&plain) else { return Ok(()) };
        let before: Vec<Key> = state.unread.range((topic, 0)..(topic, cursor)).copied().collect();
        for key in before {
            let event = self.topics[key.0].stored[key.1 as usize].0;
            let expired = self.is_expired(event, now);
            let Some(state) = self.plains.get_mut(&plain) else { return Ok(()) };
            ensure!(expired || state.dropped > 0, "{cursor} of {topic} comes before {key:?}");
            state.dropped -= u64::from(!expired);
            state.unread.remove(&key);
        }
        Ok(())
    }

    /// A plain subscription got nothing: what it has not read has expired or was dropped.
    pub(super) fn nothing_to_read(&mut self, plain: usize, now: Timestamp) -> Verdict {
        let Some(state) = self.plains.get(&plain) else { return Ok(()) };
        ensure!(state.lag.is_told(), "plain {plain} is not told what it missed: {:?}", state.lag);
        let unread = state
            .unread
            .iter()
            .filter(|key| !self.is_expired(self.topics[key.0].stored[key.1 as usize].0, now));
        let (count, dropped) = (unread.count() as u64, state.dropped);
        ensure!(count <= dropped, "plain {plain} waits, and {count} are unread");
        if let Some(state) = self.plains.get_mut(&plain) {
            state.unread.clear();
            state.dropped = 0;
        }
        Ok(())
    }

    /// Whether a plain subscription has something to be told or to read.
    pub(super) fn is_behind(&self, plain: usize, now: Timestamp) -> bool {
        self.plains.get(&plain).is_some_and(|state| {
            let fresh =
                |key: &&Key| !self.is_expired(self.topics[key.0].stored[key.1 as usize].0, now);
            !state.lag.is_told() || state.unread.iter().filter(fresh).count() as u64 > state.dropped
        })
    }

    // ---- where readers begin ----

    /// The topics that `patterns` match and that are there.
    fn matching(&self, patterns: &Patterns, exists: &[bool]) -> Vec<usize> {
        (0..self.topics.len())
            .filter(|n| exists[*n] && patterns.matches(&self.topics[*n].name))
            .collect()
    }

    pub(super) fn places(&self, patterns: &Patterns, start: &Begins, exists: &[bool]) -> Begin {
        let matching = self.matching(patterns, exists);
        let kept = |n: &&usize| self.topics[**n].kept() > 0;
        let newest = matching.iter().filter(kept).max_by_key(|n| self.topics[**n].last).copied();
        let from = |topic: usize| {
            let stream = &self.topics[topic];
            let last = if stream.kept() > 0 { stream.next() - 1 } else { stream.next() };
            match start {
                Begins::New => stream.next(),
                Begins::All => stream.first,
                Begins::Last if Some(topic) == newest => last,
                Begins::Last => stream.next(),
                Begins::LastPerTopic => last,
                Begins::Time(time) => {
                    let late = |(_, at): &(usize, Timestamp)| at >= time;
                    let found = stream.stored.iter().position(late);
                    found.map_or_else(|| stream.next(), |n| (n as u64).max(stream.first))
                }
                Begins::Number(of, number) if *of == topic => *number,
                Begins::Resume(of, number) if *of == topic => *number,
                Begins::Resume(..) => stream.first,
                Begins::Number(..) => stream.next(),
            }
        };
        matching.iter().map(|topic| (*topic, from(*topic))).collect()
    }
}

/// A start as the model knows it.
#[derive(Clone, Debug)]
pub(super) enum Begins {
    New,
    All,
    Last,
    LastPerTopic,
    Time(Timestamp),
    /// In one topic there, in others at new.
    Number(usize, u64),
    /// In one topic there, in others at the oldest.
    Resume(usize, u64),
}
