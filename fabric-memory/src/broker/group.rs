//! A durable group: places in topics, what members hold, what waits to come again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use fabric_core::clock::far_future;
use fabric_core::{
    Chunk, Error, Event, Group, GroupDefinition, MAX_CHUNK, Nack, Places, Priority, Settler,
    Timestamp, WhenFull,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::slots::Slots;
use super::stream::Stream;
use super::track::Tracks;
use super::{Polled, Streams, Timer, Wakers};
use crate::bug::Bug;

/// A lease is looked at this often while its holder has not been handed everything, so that each
/// delivery's time runs from when it was handed out.
const SWEEPS_PER_LEASE: u32 = 16;

/// A place in a group's books: which of its topics, which number.
type Place = (usize, u64);

/// What a member's settler reads without the broker's lock.
#[derive(Debug, Default)]
pub(crate) struct MemberFlags {
    /// It waits for credit: the next settlement wakes it.
    pub(crate) starved: AtomicBool,
    /// Its client is closing: each settlement is looked at.
    pub(crate) closing: AtomicBool,
}

impl MemberFlags {
    /// Whether somebody waits to hear of each settlement.
    pub(crate) fn is_awaited(&self) -> bool {
        self.starved.load(Ordering::SeqCst) || self.closing.load(Ordering::SeqCst)
    }
}

/// Somebody who takes deliveries for the group.
pub(crate) struct Member {
    pub(crate) client: u64,
    prefetch: usize,
    /// What it holds, or more: the sum of what its chunks count for. Settled deliveries are taken
    /// off with the last of their chunk, or when it matters.
    holds: usize,
    chunks: Vec<u64>,
    waker: Option<Waker>,
    /// It is in the group's list of those who wait.
    parked: bool,
    pub(crate) flags: Arc<MemberFlags>,
    settler: Option<Arc<dyn Settler>>,
    /// It takes no more.
    leaving: bool,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("client", &self.client).field("holds", &self.holds).finish()
    }
}

/// Deliveries that a member has.
#[derive(Debug)]
struct Outstanding {
    chunk: Arc<Chunk>,
    member: usize,
    /// How many of its deliveries the member's `holds` counts.
    counted: usize,
    /// Nobody holds it any more but by its deliveries.
    orphaned: bool,
    slot: usize,
    first: u64,
    attempts: u32,
    /// Until when each set of deliveries is leased.
    leases: SmallVec<[(u64, Instant); 2]>,
    /// Deliveries that were handed to the user, as far as was looked.
    seen: u64,
    /// Deliveries that were dropped without a settlement.
    abandoned: u64,
}

impl Outstanding {
    /// What is not settled: somebody has it, or is about to give it back.
    fn open(&self) -> u64 {
        self.chunk.full_mask() & !self.chunk.settled()
    }

    /// The oldest number that is not settled, of those from `kept` on.
    fn oldest(&self, kept: u64) -> Option<u64> {
        let gone = kept.saturating_sub(self.first);
        let open = self.open().checked_shr(u32::try_from(gone).ok()?)?;
        (open != 0).then(|| self.first + gone + u64::from(open.trailing_zeros()))
    }

    /// Leases what was handed out since the last look for `wait` from `now`.
    fn look(&mut self, now: Instant, wait: Duration) {
        let handed = self.chunk.handed().min(MAX_CHUNK as u32);
        let mask = if handed == 0 { 0 } else { u64::MAX >> (64 - handed) };
        let fresh = mask & !self.seen;
        if fresh != 0 {
            self.lease(fresh, after(now, wait));
            self.seen |= mask;
        }
    }

    fn lease(&mut self, mask: u64, until: Instant) {
        self.leases.retain(|(bits, _)| {
            *bits &= !mask;
            *bits != 0
        });
        self.leases.push((mask, until));
    }
}

/// An event past the cursor that nobody holds and that is not settled.
#[derive(Clone, Copy, Debug)]
struct Held {
    attempts: u32,
    queue: Queue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Critical,
    High,
    /// Its member left or let the lease end: its turn is before everything newer, so that a
    /// successor goes on in order.
    First,
    /// Given back by its holder: in turn with what is new, so that others flow.
    Retry,
    Low,
    /// Not before a timer rings.
    Delayed,
}

const QUEUES: usize = 5;

impl Queue {
    /// The queue of a priority; `usual` where it is the usual one.
    fn of(priority: Priority, usual: Self) -> Self {
        match priority {
            Priority::Critical => Self::Critical,
            Priority::High => Self::High,
            Priority::Normal => usual,
            Priority::Low => Self::Low,
        }
    }
}

pub(crate) struct GroupState {
    pub(crate) name: Group,
    pub(crate) definition: GroupDefinition,
    pub(crate) when_full: WhenFull,
    pub(crate) tracks: Tracks,
    /// The slot of the group's own inbox.
    pub(crate) inbox: Option<usize>,
    /// Counts incarnations of a name, so that late settlements of another are told apart.
    pub(crate) serial: u64,
    /// Counts these and resets, so that late timers are told apart.
    pub(crate) epoch: u64,
    held: BTreeMap<Place, Held>,
    queues: [BTreeSet<Place>; QUEUES],
    outstanding: HashMap<u64, Outstanding, RandomState>,
    next_chunk: u64,
    members: Slots<Member>,
    /// How many of them take deliveries.
    takers: usize,
    /// Members that wait, or did.
    parked: Vec<usize>,
    pub(crate) lagged: u64,
    sweep_at: Option<Instant>,
    /// Expired events were passed over, so that there may be room for publishers.
    pub(crate) skipped: bool,
    /// Whose turn it is where both wait: what comes again, or what is new.
    retry_next: bool,
    /// The topic from which something came again last.
    last_retry: Place,
}

impl fmt::Debug for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupState")
            .field("name", &self.name)
            .field("held", &self.held.len())
            .field("outstanding", &self.outstanding.len())
            .finish_non_exhaustive()
    }
}

impl GroupState {
    pub(crate) fn new(
        name: Group,
        definition: GroupDefinition,
        when_full: WhenFull,
        serial: u64,
    ) -> Self {
        Self {
            name,
            definition,
            when_full,
            tracks: Tracks::default(),
            inbox: None,
            serial,
            epoch: serial,
            held: BTreeMap::new(),
            queues: Default::default(),
            outstanding: HashMap::default(),
            next_chunk: 0,
            members: Slots::new(),
            takers: 0,
            parked: Vec::new(),
            lagged: 0,
            sweep_at: None,
            skipped: false,
            retry_next: false,
            last_retry: (0, 0),
        }
    }

    pub(crate) fn join(&mut self, client: u64, prefetch: usize, flags: Arc<MemberFlags>) -> usize {
        let member = Member {
            client,
            prefetch,
            holds: 0,
            chunks: Vec::new(),
            waker: None,
            parked: false,
            flags,
            settler: None,
            leaving: false,
        };
        self.takers += 1;
        self.members.add(member)
    }

    pub(crate) fn set_settler(&mut self, member: usize, settler: Arc<dyn Settler>) {
        if let Some(member) = self.member(member) {
            member.settler = Some(settler);
        }
    }

    fn member(&mut self, member: usize) -> Option<&mut Member> {
        self.members.get_mut(member)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().map(|(_, member)| member)
    }

    pub(crate) fn members_of(&self, client: u64) -> Vec<usize> {
        let mine = self.members.iter().filter(|(_, member)| member.client == client);
        mine.map(|(index, _)| index).collect()
    }

    /// Wakes every member that waits: one alone might be busy elsewhere while others are idle.
    pub(crate) fn wake(&mut self, wakers: &mut Wakers) {
        for index in self.parked.drain(..) {
            if let Some(member) = self.members.get_mut(index) {
                member.parked = false;
                wakers.extend(member.waker.take());
            }
        }
    }

    /// An event came into the topic at `slot`.
    pub(crate) fn announce(
        &mut self,
        slot: usize,
        number: u64,
        priority: Priority,
        wakers: &mut Wakers,
    ) {
        if self.tracks.list[slot].until.is_some() {
            return;
        }
        if priority > Priority::Normal {
            self.hold((slot, number), 0, Queue::of(priority, Queue::First));
        }
        self.tracks.make_ready(slot);
        self.wake(wakers);
    }

    /// Takes note of urgent events that were there before the group read the topic.
    pub(crate) fn survey(&mut self, slot: usize, stream: &mut Stream) {
        let mut number = self.tracks.list[slot].cursor.max(stream.first());
        while let Some(segment) = stream.segment_of(number) {
            let end = segment.end();
            if segment.mixed {
                let urgent: Vec<_> = (number..end)
                    .map(|n| (n, segment.events[(n - segment.base) as usize].priority()))
                    .filter(|(_, priority)| *priority > Priority::Normal)
                    .collect();
                for (n, priority) in urgent {
                    self.hold((slot, n), 0, Queue::of(priority, Queue::First));
                }
            }
            number = end;
        }
    }

    fn hold(&mut self, place: Place, attempts: u32, queue: Queue) {
        if let Some(old) = self.held.insert(place, Held { attempts, queue })
            && old.queue != Queue::Delayed
        {
            self.queues[old.queue as usize].remove(&place);
        }
        if queue != Queue::Delayed {
            self.queues[queue as usize].insert(place);
        }
    }

    fn release(&mut self, place: Place) -> Option<Held> {
        let held = self.held.remove(&place)?;
        if held.queue != Queue::Delayed {
            self.queues[held.queue as usize].remove(&place);
        }
        Some(held)
    }

    /// The next chunk for `member`.
    pub(crate) fn poll(
        &mut self,
        member: usize,
        streams: &mut Streams,
        now: Instant,
        wall: Timestamp,
        waker: &Waker,
        timers: &mut super::Timers,
    ) -> Polled {
        if self.member(member).is_none_or(|member| member.leaving) {
            return Polled::End;
        }
        if self.lagged > 0 && !streams.has_bug(Bug::LagNotReported) {
            return Polled::Error(
                Error::lagged(std::mem::take(&mut self.lagged)).with("group", &self.name),
            );
        }
        let credit = self.credit(member);
        let credit = if streams.has_bug(Bug::PrefetchIgnored) { MAX_CHUNK } else { credit };
        if credit > 0
            && let Some((slot, first, len, attempts)) = self.pick(streams, credit, wall)
        {
            return Polled::Chunk(
                self.hand_over(member, streams, slot, first, len, attempts, now, wall, timers),
            );
        }
        if self.lagged > 0 && !streams.has_bug(Bug::LagNotReported) {
            return Polled::Error(
                Error::lagged(std::mem::take(&mut self.lagged)).with("group", &self.name),
            );
        }
        if let Some(state) = self.members.get_mut(member) {
            match &mut state.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            if !std::mem::replace(&mut state.parked, true) {
                self.parked.push(member);
            }
        }
        Polled::Pending
    }

    /// How many more deliveries `member` may hold. Where it comes out as none, the next settlement
    /// wakes the member.
    fn credit(&mut self, index: usize) -> usize {
        let Some(member) = self.members[index].as_mut() else { return 0 };
        if member.holds < member.prefetch {
            return member.prefetch - member.holds;
        }
        // The settler looks at this flag after it has set its bits, and we at the bits after the
        // flag: one of us sees the other.
        member.flags.starved.store(true, Ordering::SeqCst);
        let chunks = std::mem::take(&mut member.chunks);
        let mut holds = 0;
        let mut kept = Vec::with_capacity(chunks.len());
        for serial in chunks {
            let Some(entry) = self.outstanding.get_mut(&serial) else { continue };
            entry.counted = entry.open().count_ones() as usize;
            holds += entry.counted;
            if entry.counted == 0 {
                self.outstanding.remove(&serial);
            } else {
                kept.push(serial);
            }
        }
        let Some(member) = self.members[index].as_mut() else { return 0 };
        member.chunks = kept;
        member.holds = holds;
        let credit = member.prefetch.saturating_sub(holds);
        if credit > 0 {
            member.flags.starved.store(false, Ordering::SeqCst);
        }
        credit
    }

    /// What is next: topic, first number, how many, how often tried so far.
    fn pick(
        &mut self,
        streams: &mut Streams,
        credit: usize,
        wall: Timestamp,
    ) -> Option<(usize, u64, usize, u32)> {
        for queue in [Queue::Critical, Queue::High, Queue::First] {
            if let Some(place) = self.pick_held(queue, streams, wall) {
                return Some(place);
            }
        }
        self.retry_next = !self.retry_next;
        let (first, second): (Pick, Pick) = if self.retry_next {
            (Self::pick_retry, Self::pick_new)
        } else {
            (Self::pick_new, Self::pick_retry)
        };
        first(self, streams, credit, wall)
            .or_else(|| second(self, streams, credit, wall))
            .or_else(|| self.pick_held(Queue::Low, streams, wall))
    }

    fn pick_retry(
        &mut self,
        streams: &mut Streams,
        _: usize,
        wall: Timestamp,
    ) -> Option<(usize, u64, usize, u32)> {
        self.pick_held(Queue::Retry, streams, wall)
    }

    /// The next event of a queue; topics take turns.
    fn pick_held(
        &mut self,
        queue: Queue,
        streams: &mut Streams,
        wall: Timestamp,
    ) -> Option<(usize, u64, usize, u32)> {
        loop {
            let waiting = &self.queues[queue as usize];
            let after = (self.last_retry.0 + 1, 0);
            let place = *waiting.range(after..).next().or_else(|| waiting.first())?;
            self.last_retry = place;
            let held = self.release(place)?;
            let (slot, number) = place;
            let stream = streams.stream(self.tracks.list[slot].stream);
            match event_at(stream, number) {
                None => self.lagged += 1,
                Some(event) if is_expired(event, wall) => self.skipped = true,
                Some(_) => return Some((slot, number, 1, held.attempts)),
            }
        }
    }

    /// The next run of events that nobody got yet.
    fn pick_new(
        &mut self,
        streams: &mut Streams,
        credit: usize,
        wall: Timestamp,
    ) -> Option<(usize, u64, usize, u32)> {
        let members = self.takers.max(1);
        let ignore_priority = streams.has_bug(Bug::PriorityIgnored);
        while let Some(next) = self.tracks.next(streams, &mut self.lagged) {
            let (slot, first, segment) = (next.slot, next.first, next.segment);
            let share = next.available.div_ceil(members).min(credit).min(MAX_CHUNK);
            let events = next.events(share);
            let plain = !segment.mixed || ignore_priority;
            let takes = |event: &&Event| {
                (plain || event.priority() == Priority::Normal) && !is_expired(event, wall)
            };
            let run = if plain && !segment.expires {
                events.len()
            } else {
                events.iter().take_while(takes).count()
            };
            if run > 0 {
                self.tracks.take(slot, run);
                return Some((slot, first, run, 0));
            }
            let (priority, expired) = (events[0].priority(), is_expired(&events[0], wall));
            self.tracks.list[slot].cursor += 1;
            self.skipped |= expired;
            if priority == Priority::Low && !expired {
                self.hold((slot, first), 0, Queue::Low);
            }
        }
        None
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `poll`, split off to be read alone")]
    fn hand_over(
        &mut self,
        member: usize,
        streams: &mut Streams,
        slot: usize,
        first: u64,
        len: usize,
        attempts: u32,
        now: Instant,
        wall: Timestamp,
        timers: &mut super::Timers,
    ) -> Arc<Chunk> {
        let bug = |bug| streams.has_bug(bug);
        let attempt = if bug(Bug::AttemptNotCounted) { 1 } else { attempts + 1 };
        let off = u64::from(bug(Bug::WrongPosition));
        let copy = bug(Bug::CopyWithinGroup);
        let inbox = self.inbox == Some(slot);
        let stream = streams.stream(self.tracks.list[slot].stream);
        let incarnation = stream.incarnation;
        let (events, base) = match stream.segment_of(first) {
            Some(segment) => (Arc::clone(&segment.events), segment.base),
            None => unreachable!("what was picked is kept"),
        };
        let serial = self.next_chunk;
        self.next_chunk += 1;
        let places =
            if inbox { Places::None } else { Places::Run { incarnation, first: first + off } };
        let mut chunk = Chunk::new(events, (first - base) as usize, len, wall)
            .with_places(places)
            .with_attempt(attempt)
            .with_token(serial);
        if let Some(settler) = self.member(member).and_then(|member| member.settler.clone()) {
            chunk = chunk.with_settler(self.name.clone(), settler);
        }
        let chunk = Arc::new(chunk);
        let wait = self.definition.ack_wait;
        let mut outstanding = Outstanding {
            chunk: Arc::clone(&chunk),
            member,
            counted: len,
            orphaned: false,
            slot,
            first,
            attempts,
            leases: SmallVec::new(),
            seen: 0,
            abandoned: 0,
        };
        // The first is handed out at once; the others have as long to be so.
        let rest = chunk.full_mask() & !1;
        outstanding.lease(1, after(now, wait));
        outstanding.seen = 1;
        if rest != 0 {
            outstanding.lease(rest, after(now, wait));
        }
        self.outstanding.insert(serial, outstanding);
        if let Some(member) = self.member(member) {
            member.holds += len;
            member.chunks.push(serial);
        }
        if copy && attempts == 0 && self.members().count() > 1 {
            // The bug: the place goes back, so that the next member gets the same again.
            for n in first..first + len as u64 {
                if !self.held.contains_key(&(slot, n)) {
                    self.hold((slot, n), 1, Queue::First);
                }
            }
        }
        let at = after(now, if len == 1 { wait } else { wait / SWEEPS_PER_LEASE });
        self.arm_sweep(at, timers);
        chunk
    }

    fn arm_sweep(&mut self, at: Instant, timers: &mut super::Timers) {
        if self.sweep_at.is_none_or(|known| at < known) {
            self.sweep_at = Some(at);
            timers.set(at, Timer::Sweep { group: self.name.clone(), epoch: self.epoch });
        }
    }

    /// Looks at every lease: what ended comes again.
    pub(crate) fn sweep(
        &mut self,
        now: Instant,
        streams: &Streams,
        timers: &mut super::Timers,
        wakers: &mut Wakers,
    ) {
        if self.sweep_at.is_some_and(|at| at > now) {
            return;
        }
        self.sweep_at = None;
        if streams.has_bug(Bug::LeaseNeverEnds) {
            return;
        }
        let wait = self.definition.ack_wait;
        let soon = after(now, wait / SWEEPS_PER_LEASE);
        let early = if streams.has_bug(Bug::LeaseEndsEarly) { wait / 2 } else { Duration::ZERO };
        let mut next: Option<Instant> = None;
        let mut ended: Vec<(usize, u64, u32, bool)> = Vec::new();
        let mut closed: Vec<u64> = Vec::new();
        for (serial, entry) in &mut self.outstanding {
            entry.look(now, wait);
            let open = entry.open();
            if open == 0 {
                closed.push(*serial);
                continue;
            }
            let over: u64 = entry
                .leases
                .iter()
                .filter(|(_, until)| *until <= now + early)
                .fold(0, |all, (mask, _)| all | mask);
            let revoked = if streams.has_bug(Bug::StaleAckAccepted) {
                over & open
            } else {
                entry.chunk.revoke(over & open)
            };
            for bit in bits(revoked) {
                let handed = entry.seen & 1 << bit != 0;
                ended.push((entry.slot, entry.first + u64::from(bit), entry.attempts, handed));
            }
            entry.leases.retain(|(mask, _)| {
                *mask &= !over;
                *mask != 0
            });
            if entry.open() == 0 {
                closed.push(*serial);
                continue;
            }
            let first = entry.leases.iter().map(|(_, until)| *until - early).min();
            let unseen = open & !entry.seen & !over != 0;
            let look =
                if unseen { Some(first.map_or(soon, |first| first.min(soon))) } else { first };
            next = next.into_iter().chain(look).min();
        }
        closed.into_iter().for_each(|serial| self.close(serial));
        for (slot, number, attempts, handed) in ended {
            let attempts = if handed { attempts + 1 } else { attempts };
            self.come_again(slot, number, attempts, Queue::First, streams);
        }
        if let Some(at) = next {
            self.arm_sweep(at, timers);
        }
        self.wake(wakers);
    }

    /// Puts an event back into the queue of its urgency.
    fn come_again(
        &mut self,
        slot: usize,
        number: u64,
        attempts: u32,
        queue: Queue,
        streams: &Streams,
    ) {
        let stream = streams.peek(self.tracks.list[slot].stream);
        if number < stream.first() {
            self.lagged += 1;
            return;
        }
        let priority = stream.priority_at(number).unwrap_or_default();
        self.hold((slot, number), attempts, Queue::of(priority, queue));
    }

    /// Members settled what `chunk` had, all of it.
    pub(crate) fn settled(&mut self, chunk: &Chunk, wakers: &mut Wakers) -> Option<usize> {
        let serial = chunk.token();
        let mut stream = None;
        let mut of = None;
        if let Some(entry) = self.outstanding.get(&serial) {
            stream = Some(self.tracks.list[entry.slot].stream);
            of = Some(entry.member);
            if entry.open() == 0 {
                self.close(serial);
            }
        }
        if let Some(member) = of.and_then(|of| self.member(of))
            && member.flags.starved.swap(false, Ordering::SeqCst)
            && let Some(waker) = member.waker.take()
        {
            wakers.push(waker);
        }
        stream
    }

    /// Nothing of a chunk is open any more.
    fn close(&mut self, serial: u64) {
        let Some(entry) = self.outstanding.remove(&serial) else { return };
        if !entry.orphaned
            && let Some(member) = self.member(entry.member)
        {
            member.holds -= entry.counted;
            if let Some(at) = member.chunks.iter().position(|known| *known == serial) {
                member.chunks.swap_remove(at);
            }
        }
    }

    /// Gives `mask` of `chunk` back.
    #[expect(clippy::too_many_arguments, reason = "the parts of the broker that a nack touches")]
    pub(crate) fn nack(
        &mut self,
        chunk: &Chunk,
        mask: u64,
        nack: &Nack,
        now: Instant,
        streams: &Streams,
        timers: &mut super::Timers,
        wakers: &mut Wakers,
    ) {
        let serial = chunk.token();
        let Some(entry) = self.outstanding.get(&serial) else { return };
        let (slot, first, attempts) = (entry.slot, entry.first, entry.attempts);
        if streams.has_bug(Bug::DropNack) {
            chunk.returned(mask);
            self.settled(chunk, wakers);
            return;
        }
        let delay =
            nack.delay.filter(|delay| !delay.is_zero() && !streams.has_bug(Bug::NackIgnoresDelay));
        let kept = streams.peek(self.tracks.list[slot].stream).first();
        for bit in bits(mask) {
            let number = first + u64::from(bit);
            match delay {
                Some(delay) if number >= kept => {
                    self.put_off((slot, number), attempts + 1, after(now, delay), timers);
                }
                _ => self.come_again(slot, number, attempts + 1, Queue::Retry, streams),
            }
        }
        chunk.returned(mask);
        self.settled(chunk, wakers);
        if delay.is_none() || self.lagged > 0 {
            self.wake(wakers);
        }
    }

    /// A delayed event's time has come.
    pub(crate) fn ring(
        &mut self,
        slot: usize,
        number: u64,
        streams: &Streams,
        wakers: &mut Wakers,
    ) {
        if let Some(held) = self.held.get(&(slot, number)).copied()
            && held.queue == Queue::Delayed
        {
            self.release((slot, number));
            self.come_again(slot, number, held.attempts, Queue::Retry, streams);
            self.wake(wakers);
        }
    }

    /// Holds an event that is not read in turn, back until `at` where there is one.
    pub(crate) fn put(
        &mut self,
        slot: usize,
        number: u64,
        priority: Priority,
        attempts: u32,
        at: Option<Instant>,
        timers: &mut super::Timers,
    ) {
        match at {
            None => self.hold((slot, number), attempts, Queue::of(priority, Queue::First)),
            Some(at) => self.put_off((slot, number), attempts, at, timers),
        }
    }

    /// Nobody gets the event before `at`.
    fn put_off(&mut self, place: Place, attempts: u32, at: Instant, timers: &mut super::Timers) {
        self.hold(place, attempts, Queue::Delayed);
        let (group, epoch, (slot, number)) = (self.name.clone(), self.epoch, place);
        timers.set(at, Timer::Return { group, epoch, slot, number });
    }

    /// Begins the leases of `mask` anew.
    pub(crate) fn progress(&mut self, chunk: &Chunk, mask: u64, now: Instant) -> bool {
        let wait = self.definition.ack_wait;
        let Some(entry) = self.outstanding.get_mut(&chunk.token()) else { return false };
        entry.look(now, wait);
        if chunk.closed() & mask != 0 {
            return false;
        }
        entry.lease(mask, after(now, wait));
        true
    }

    /// Deliveries were dropped unsettled: they come again with their lease, or at once where their
    /// member has gone.
    pub(crate) fn dropped(
        &mut self,
        chunk: &Chunk,
        mask: u64,
        streams: &Streams,
        wakers: &mut Wakers,
    ) {
        let Some(entry) = self.outstanding.get_mut(&chunk.token()) else { return };
        entry.abandoned |= mask;
        if entry.orphaned {
            self.give_back(chunk.token(), mask, streams, wakers);
        }
    }

    /// Takes `mask` of a chunk back and puts it into the queues.
    fn give_back(&mut self, serial: u64, mask: u64, streams: &Streams, wakers: &mut Wakers) {
        let Some(entry) = self.outstanding.get(&serial) else { return };
        let revoked = entry.chunk.revoke(mask);
        let (slot, first, attempts) = (entry.slot, entry.first, entry.attempts);
        let handed = entry.chunk.handed();
        if entry.open() == 0 {
            self.close(serial);
        }
        for bit in bits(revoked) {
            let number = first + u64::from(bit);
            if bit < handed {
                self.come_again(slot, number, attempts + 1, Queue::First, streams);
            } else if !streams.has_bug(Bug::LoseOnLeave) {
                self.come_again(slot, number, attempts, Queue::First, streams);
            }
        }
        if revoked != 0 {
            self.wake(wakers);
        }
    }

    /// A member takes no more: what was not handed out goes back at once, what was stays leased to
    /// the deliveries that hold it.
    pub(crate) fn stop(&mut self, index: usize, streams: &Streams, wakers: &mut Wakers) {
        let Some(member) = self.member(index) else { return };
        let was_taker = !std::mem::replace(&mut member.leaving, true);
        wakers.extend(member.waker.take());
        let chunks = member.chunks.clone();
        self.takers -= usize::from(was_taker);
        for serial in chunks {
            let Some(entry) = self.outstanding.get(&serial) else { continue };
            let handed = entry.chunk.handed();
            let unseen = if handed >= 64 { 0 } else { u64::MAX << handed };
            let back = (unseen & entry.chunk.full_mask()) | entry.abandoned;
            self.give_back(serial, back, streams, wakers);
        }
    }

    /// A member has gone.
    pub(crate) fn leave(&mut self, index: usize, streams: &Streams, wakers: &mut Wakers) {
        self.stop(index, streams, wakers);
        let Some(member) = self.members.take(index) else { return };
        for serial in member.chunks {
            if let Some(entry) = self.outstanding.get_mut(&serial) {
                entry.orphaned = true;
                // Closing may still have to wait for what it holds.
                entry.member = index;
            }
        }
        self.wake(wakers);
    }

    /// How many deliveries the chunks named by `of` still hold open.
    pub(crate) fn held_by(&self, chunks: &HashSet<u64>) -> usize {
        let open = |serial: &u64| self.outstanding.get(serial).map_or(0, Outstanding::open);
        chunks.iter().map(|serial| open(serial).count_ones() as usize).sum()
    }

    /// The chunks that members of `client` hold.
    pub(crate) fn chunks_of(&self, client: u64) -> HashSet<u64> {
        let members = self.members().filter(|member| member.client == client);
        members.flat_map(|member| member.chunks.iter().copied()).collect()
    }

    /// Takes everything in these chunks back.
    pub(crate) fn take_back(
        &mut self,
        chunks: &HashSet<u64>,
        streams: &Streams,
        wakers: &mut Wakers,
    ) {
        for serial in chunks {
            let all = self.outstanding.get(serial).map_or(0, |entry| entry.chunk.full_mask());
            self.give_back(*serial, all, streams, wakers);
        }
    }

    /// Takes back everything and forgets what was held: the group was reset or deleted.
    pub(crate) fn forget(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.sweep_at = None;
        for entry in self.outstanding.values() {
            entry.chunk.revoke(entry.chunk.full_mask());
        }
        self.outstanding.clear();
        self.held.clear();
        self.queues = Default::default();
        for member in self.members.iter_mut() {
            member.holds = 0;
            member.chunks.clear();
        }
        self.lagged = 0;
    }

    /// Whether everything before `end` in the topic at `slot` is settled.
    pub(crate) fn has_settled(&mut self, slot: usize, end: u64, stream: &Stream) -> bool {
        if !self.look_settled(slot, end, stream) {
            return false;
        }
        // Urgent events that are settled are behind the cursor now, and no loss when they go.
        let track = &mut self.tracks.list[slot];
        track.cursor = track.cursor.max(end.min(track.limit(stream)));
        true
    }

    fn look_settled(&mut self, slot: usize, end: u64, stream: &Stream) -> bool {
        let track = &self.tracks.list[slot];
        if track.settled >= end {
            return true;
        }
        // Urgent events are delivered ahead of the cursor: those that are not are held.
        let from = track.settled.max(track.cursor).max(stream.first());
        let unread = track
            .spans(from, track.limit(stream))
            .find_map(|(start, end)| stream.first_usual(start, end))
            .unwrap_or_else(|| stream.next());
        let held = self.held.range((slot, 0)..(slot + 1, 0)).next().map(|((_, number), _)| *number);
        let oldest = held.map_or(unread, |held| held.min(unread));
        if oldest < end {
            return false;
        }
        let first = stream.first();
        let out = self.outstanding.values().filter(|entry| entry.slot == slot);
        let settled = out.filter_map(|entry| entry.oldest(first)).fold(oldest, u64::min);
        self.tracks.list[slot].settled = settled;
        settled >= end
    }

    /// Loses everything before `end` in the topic at `slot`.
    pub(crate) fn evict(&mut self, slot: usize, end: u64, stream: &Stream) {
        let gone: Vec<Place> =
            self.held.range((slot, 0)..(slot, end)).map(|(place, _)| *place).collect();
        for place in gone {
            self.release(place);
            self.lagged += 1;
        }
        let track = &mut self.tracks.list[slot];
        let limit = end.min(track.limit(stream));
        // Urgent ones ahead of the cursor were held and counted above, or somebody got them.
        self.lagged += track
            .spans(track.cursor, limit)
            .map(|(start, end)| end - start - stream.urgent_in(start, end))
            .sum::<u64>();
        track.cursor = track.cursor.max(limit);
    }

    /// Tells the members that they missed `count` events.
    pub(crate) fn lag(&mut self, count: u64, wakers: &mut Wakers) {
        self.lagged += count;
        self.wake(wakers);
    }

    /// How many events of the topic at `slot` nobody got yet, and how many are held or wait.
    pub(crate) fn lag_of(&self, slot: usize, stream: &Stream) -> (u64, u64) {
        let fresh = |held: &Held| held.attempts == 0;
        let waiting: Vec<&Held> =
            self.held.range((slot, 0)..(slot + 1, 0)).map(|(_, held)| held).collect();
        let out: u64 = self
            .outstanding
            .values()
            .filter(|entry| entry.slot == slot)
            .map(|entry| u64::from(entry.open().count_ones()))
            .sum();
        // Urgent events ahead of the cursor are held as long as nobody got them.
        let track = &self.tracks.list[slot];
        let from = track.cursor.max(stream.first());
        let ahead: u64 = track
            .spans(from, track.limit(stream))
            .map(|(start, end)| end - start - stream.urgent_in(start, end))
            .sum();
        let fresh_held = waiting.iter().filter(|held| fresh(held)).count() as u64;
        (ahead + fresh_held, out + waiting.len() as u64 - fresh_held)
    }
}

#[cfg(test)]
impl GroupState {
    /// Whether nothing is held, waits or is counted; `Err` says what.
    pub(crate) fn check_empty(&self) -> Result<(), String> {
        let queues: usize = self.queues.iter().map(BTreeSet::len).sum();
        let members: Vec<_> = self.members().map(|m| (m.holds, m.chunks.len())).collect();
        let left = (self.held.len(), queues, self.outstanding.len());
        if left == (0, 0, 0) && members.iter().all(|of| *of == (0, 0)) {
            return Ok(());
        }
        Err(format!("held, queued, outstanding: {left:?}; by members: {members:?}"))
    }
}

type Pick = fn(&mut GroupState, &mut Streams, usize, Timestamp) -> Option<(usize, u64, usize, u32)>;

/// The moment `wait` later; a wait without end is far away.
fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| far_future(now))
}

fn event_at(stream: &mut Stream, number: u64) -> Option<&Event> {
    let segment = stream.segment_of(number)?;
    segment.events.get((number - segment.base) as usize)
}

pub(crate) fn is_expired(event: &Event, now: Timestamp) -> bool {
    event.expires_at().is_some_and(|at| now >= at)
}

pub(crate) fn bits(mut mask: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let bit = mask.trailing_zeros();
            mask &= mask - 1;
            bit
        })
    })
}
