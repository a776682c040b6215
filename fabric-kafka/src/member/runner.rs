//! The thread of one member: it alone speaks to the client library.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use fabric_core::clock::{Now, instant_at};
use fabric_core::lease::{Beat, Pulse};
use fabric_core::wire::Reader;
use fabric_core::{
    Chunk, Error, ErrorKind, Event, MAX_CHUNK, NoticeKind, Places, Position, Result, Settler,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::context::{At, Happened, MemberContext};
use super::hold::{Hold, Item};
use super::{Member, gone, moved};
use crate::config::RetryMode;
use crate::connection::{Asked, LinkContext, learn, lock, no_thread};
use crate::definition::{Known, Place};
use crate::discovery::TopicMeta;
use crate::error::{NAME, from_code, from_kafka};
use crate::feed::SILENT;
use crate::progress::{MAX_SPAN, Progress};
use crate::record::{Copied, STYLE, decode};
use crate::settle::{MemberSettler, bucket};
use crate::sys;
use crate::watermark::Track;

/// A published event that is due later than this waits in a topic of the group's, not in memory.
const KEEP: Duration = Duration::from_secs(5);
/// How many events that are not due a member keeps in memory.
const MAX_WAITING: usize = 10_000;
/// Without room for so long a member stops the flow of its partitions, so that it hears what else
/// there is.
const STALL: Duration = Duration::from_millis(500);
/// How long one question of a member may keep it from everything else; it is asked again.
const ONE_ANSWER: Duration = Duration::from_secs(1);
/// How long the commit of a partition that moves is tried.
const LAST_COMMIT: Duration = Duration::from_secs(5);
/// How long a commit that failed waits for the next.
const COMMIT_BACKOFF: Duration = Duration::from_millis(50);

pub(super) struct Runner {
    member: Arc<Member>,
    consumer: BaseConsumer<MemberContext>,
    runtime: Handle,
    joined: Option<oneshot::Sender<Result<()>>>,
    reader: Reader,
    /// The topics that were asked for.
    topics: Vec<String>,
    /// There are others to ask for, as soon as the group has taken us in.
    unasked: bool,
    /// Partitions that were given and are not taken yet.
    given: Vec<At>,
    /// Whether an assignment has to be answered, be it empty.
    asked: bool,
    /// What the library was told to read: always all that the group gave, or neither would ever let
    /// go of the rest.
    assigned: HashSet<At>,
    /// Partitions among those whose topic is not known yet: nothing that comes of them counts.
    blind: Vec<At>,
    /// Partitions that are wanted back.
    wanted: Vec<At>,
    /// What is known of a lane beside what it holds.
    about: HashMap<u32, About>,
    /// The lane of the last record.
    last: Option<(String, i32, u32)>,
    commit: Commit,
    /// What happened while a commit was waited for.
    later: VecDeque<Happened>,
    pulse: Pulse,
    tick: Duration,
    starving_since: Option<Instant>,
    stopped: bool,
    /// A lease ended while the user was not reading: when, and how often it had asked.
    silent: Option<(Instant, u64)>,
    away_since: Option<u64>,
    /// What was known of the group when this looked last.
    known: Arc<Known>,
    /// The revision at which the place of the lanes was set.
    origin: u64,
    return_wanted: bool,
    refused: Option<Code>,
}

/// The topic of a lane.
struct About {
    meta: Arc<TopicMeta>,
    /// It holds what is for this group alone.
    waits: bool,
    paused: bool,
}

#[derive(Default)]
struct Commit {
    flying: Option<Vec<(u32, u64)>>,
    not_before: Option<Instant>,
    /// Whether the last answer was an error.
    failed: bool,
    /// How many answers are still to come that were given up.
    unheard: usize,
}

impl Runner {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Config`, `Backend`.
    pub(super) fn spawn(
        member: &Arc<Member>,
        joined: oneshot::Sender<Result<()>>,
        runtime: Handle,
    ) -> Result<()> {
        let connection = &member.connection;
        let mut config = connection.config.client();
        let session = connection.config.session_timeout.as_millis();
        config
            .set("group.id", connection.names.group(&member.group))
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session.to_string())
            .set("heartbeat.interval.ms", (session / 12).clamp(100, 3000).to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("fetch.error.backoff.ms", "50")
            // Partitions that join wait for the request that is under way.
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", "16384");
        if let Some(instance) = &connection.config.instance {
            config.set("group.instance.id", format!("{instance}-{}", member.group));
        }
        let context = MemberContext::new(LinkContext(Arc::clone(connection.link())));
        let mut consumer: BaseConsumer<MemberContext> =
            config.create_with_context(context).map_err(|error| from_kafka(&error))?;
        let woken = Arc::downgrade(member);
        consumer.set_nonempty_callback(move || {
            if let Some(member) = woken.upgrade() {
                member.feed.wake_reader();
            }
        });
        let ack_wait = member.definition().map_or(Duration::from_secs(1), |d| d.ack_wait);
        let tick = (ack_wait / 20).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let grace = connection.config.session_timeout / 2;
        let known = member.known();
        let mut runner = Self {
            member: Arc::clone(member),
            consumer,
            runtime,
            joined: Some(joined),
            reader: Reader::new(STYLE),
            topics: Vec::new(),
            unasked: false,
            given: Vec::new(),
            asked: false,
            assigned: HashSet::new(),
            blind: Vec::new(),
            wanted: Vec::new(),
            about: HashMap::new(),
            last: None,
            commit: Commit::default(),
            later: VecDeque::new(),
            pulse: Pulse::new(tick, grace, Instant::now(), SystemTime::now()),
            tick,
            starving_since: None,
            stopped: false,
            silent: None,
            away_since: None,
            origin: known.origin,
            known,
            return_wanted: false,
            refused: None,
        };
        runner.subscribe()?;
        let thread = std::thread::Builder::new()
            .name("kafka-member".into())
            .spawn(move || runner.run())
            .map_err(no_thread)?;
        member.feed.set_reader(thread.thread().clone());
        thread.thread().unpark();
        Ok(())
    }

    fn run(mut self) {
        let ended = loop {
            if self.is_over() {
                break Ok(());
            }
            match self.turn() {
                Ok(true) => {}
                Ok(false) => {
                    // Whoever settles from here on wakes us.
                    self.member.feed.starve();
                    std::thread::park_timeout(self.pause());
                }
                Err(error) => break Err(error),
            }
        };
        self.depart();
        let member = Arc::clone(&self.member);
        lock(&member.hold).clear(moved);
        if let Some(joined) = self.joined.take() {
            let _ = joined.send(Err(ended.clone().err().unwrap_or_else(crate::connection::closed)));
        }
        self.consumer.context().close();
        // Says good-bye to the group.
        drop(self);
        member.feed.end(ended.err());
        member.ended.send_replace(true);
    }

    /// Whether there is nothing left to do.
    fn is_over(&self) -> bool {
        let member = &self.member;
        member.abandoned.load(Ordering::SeqCst)
            || member.is_leaving() && lock(&member.hold).with_users(None) == 0
    }

    /// One round; whether the next should follow at once.
    fn turn(&mut self) -> Result<bool> {
        if self.member.feed.take_look() {
            self.look()?;
        }
        let now = Instant::now();
        if now >= self.pulse.next() {
            self.beat(now)?;
        }
        if let Some(polls) = self.away_since {
            let waits = self.member.feed.asked().0 == polls;
            // Whoever asks again before all was taken back keeps it, and nobody reads it.
            if waits || self.asked || !self.assigned.is_empty() {
                let _ = self.consumer.poll(Duration::ZERO);
                self.serve()?;
                self.give_back(now);
                return Ok(false);
            }
            self.come_back()?;
        }
        let read = self.read()?;
        self.serve()?;
        self.give_back(now);
        self.commit(now);
        Ok(read)
    }

    /// How long to wait if nobody wakes us.
    fn pause(&self) -> Duration {
        let (hold, now) = (lock(&self.member.hold), Instant::now());
        let commits = hold.is_dirty() && self.commit.flying.is_none();
        let commit = commits.then(|| self.commit.not_before.unwrap_or(now));
        let times = [Some(self.pulse.next()), hold.waiting.next(), hold.next_lease(), commit];
        let next = times.into_iter().flatten().min().unwrap_or(now);
        // A lease that was let go, or an event without room, has a time that has passed.
        let least = if commits { Duration::ZERO } else { Duration::from_millis(1) };
        next.saturating_duration_since(now).clamp(least, Duration::from_secs(1))
    }

    // Topics.

    /// Asks for the topics that the group reads.
    fn subscribe(&mut self) -> Result<()> {
        let connection = &self.member.connection;
        let catalogue = connection.catalogue();
        let waiting = connection.names.waiting(&self.member.group);
        let mut topics: Vec<String> = catalogue
            .iter()
            .filter(|meta| meta.topic.as_ref().is_some_and(|topic| self.known.reads(topic)))
            .map(|meta| meta.name.clone())
            .chain(waiting.into_iter().filter(|name| catalogue.topic(name).is_some()))
            .collect();
        topics.sort();
        self.unasked = false;
        if topics == self.topics || topics.is_empty() {
            return Ok(());
        }
        if !self.topics.is_empty() {
            // The library ends the process if its topics change while it has not joined and does not
            // know all of them.
            if !sys::has_joined(self.consumer.client()) {
                self.unasked = true;
                return Ok(());
            }
            let mut fresh = TopicPartitionList::new();
            for name in topics.iter().filter(|name| !self.topics.contains(name)) {
                fresh.add_partition(name, 0);
            }
            learn(&self.consumer, &fresh, connection.config.connect_timeout);
        }
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        self.consumer.subscribe(&names).map_err(|error| from_kafka(&error))?;
        self.topics = topics;
        Ok(())
    }

    /// The topics or the definition may have changed.
    fn look(&mut self) -> Result<()> {
        self.known = self.member.known();
        if self.known.definition.is_none() {
            return Err(gone(&self.member.group));
        }
        if self.known.origin != self.origin {
            self.origin = self.known.origin;
            self.move_lanes(|_| true)?;
        }
        self.move_reborn()?;
        self.open_eyes()?;
        if self.away_since.is_none() && !self.member.is_leaving() {
            self.subscribe()?;
        }
        Ok(())
    }

    /// Partitions whose topic is known by now are taken as if they had just been given.
    fn open_eyes(&mut self) -> Result<()> {
        let catalogue = self.member.connection.catalogue();
        let blind = std::mem::take(&mut self.blind);
        let (known, blind) =
            blind.into_iter().partition(|(name, _)| catalogue.topic(name).is_some());
        self.blind = blind;
        let known: Vec<At> = known;
        if known.is_empty() || self.away_since.is_some() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for place in &known {
            self.assigned.remove(place);
            list.add_partition(&place.0, place.1);
        }
        self.consumer.incremental_unassign(&list).map_err(|error| from_kafka(&error))?;
        self.given.extend(known);
        self.asked = true;
        Ok(())
    }

    /// Topics that were made anew are read from their beginning.
    fn move_reborn(&mut self) -> Result<()> {
        let catalogue = self.member.connection.catalogue();
        let mut reborn = Vec::new();
        for (id, about) in &mut self.about {
            if let Some(meta) = catalogue.topic(&about.meta.name).filter(|m| m.id != about.meta.id)
            {
                about.meta = Arc::clone(meta);
                reborn.push(*id);
            }
        }
        if reborn.is_empty() { Ok(()) } else { self.move_lanes(|id| reborn.contains(&id)) }
    }

    /// Reads lanes from where the group's place is now; what was held of them is lost.
    fn move_lanes(&mut self, which: impl Fn(u32) -> bool) -> Result<()> {
        let known = Arc::clone(&self.known);
        let mut moved = TopicPartitionList::new();
        {
            let mut hold = lock(&self.member.hold);
            let lanes: Vec<u32> = hold.lanes.keys().copied().filter(|id| which(*id)).collect();
            for id in lanes {
                hold.revoke_all(Some(id));
                let (Some(lane), Some(about)) = (hold.lanes.get_mut(&id), self.about.get_mut(&id))
                else {
                    continue;
                };
                if lane.revoked.is_some() {
                    continue;
                }
                let first = first(&known, about, lane.partition);
                lane.id = about.meta.id;
                lane.track = Track::new(first);
                lane.dirty = true;
                about.paused = false;
                moved
                    .add_partition_offset(&lane.name, lane.partition, from(first))
                    .map_err(|error| from_kafka(&error))?;
            }
        }
        self.reposition(&moved)
    }

    fn reposition(&self, places: &TopicPartitionList) -> Result<()> {
        if places.count() == 0 {
            return Ok(());
        }
        self.consumer
            .incremental_unassign(places)
            .and_then(|()| self.consumer.incremental_assign(places))
            .map_err(|error| from_kafka(&error))?;
        if !self.stopped {
            self.flow_again(places);
        }
        Ok(())
    }

    /// Has the library read partitions that may have been stopped before.
    fn flow_again(&self, places: &TopicPartitionList) {
        if places.count() > 0
            && let Err(error) = self.consumer.resume(places)
        {
            tracing::debug!(%error, "letting partitions flow");
        }
    }

    // Time.

    fn beat(&mut self, now: Instant) -> Result<()> {
        let beat = self.pulse.beat(now, SystemTime::now());
        let member = Arc::clone(&self.member);
        if let Beat::Late(late) = beat {
            // The group may have given our partitions to others while we stood still.
            tracing::warn!(?late, group = %member.group, "the process stood still; the group is joined anew");
            self.go_away();
            self.away_since = Some(u64::MAX);
            return Ok(());
        }
        if self.unasked && self.away_since.is_none() && !member.is_leaving() {
            self.subscribe()?;
        }
        let (polls, asking) = member.feed.asked();
        let ended = {
            let mut hold = lock(&member.hold);
            hold.begin_leases(now);
            hold.end_leases(now)
        };
        if ended && !asking {
            self.silent.get_or_insert((now, polls));
        }
        if let Some((since, then)) = self.silent {
            let patience =
                (self.tick * 10).clamp(Duration::from_millis(200), Duration::from_secs(5));
            if polls != then || member.is_leaving() {
                self.silent = None;
            } else if now.saturating_duration_since(since) >= patience {
                self.silent = None;
                self.go_away();
                self.away_since = Some(polls);
            }
        }
        Ok(())
    }

    /// This thread has waited for the broker since then: that is no standing still.
    fn has_waited(&mut self, since: Instant) {
        let now = Instant::now();
        if now.saturating_duration_since(since) > self.tick {
            let grace = self.member.connection.config.session_timeout / 2;
            self.pulse = Pulse::new(self.tick, grace, now, SystemTime::now());
        }
    }

    /// Gives every partition to others: the user does not read.
    fn go_away(&mut self) {
        self.depart();
        lock(&self.member.hold).clear(moved);
        self.member.feed.clear();
        self.forget_lanes();
        self.take_blindly();
        self.consumer.unsubscribe();
        self.topics.clear();
        self.member.away.store(true, Ordering::SeqCst);
    }

    fn come_back(&mut self) -> Result<()> {
        self.away_since = None;
        self.member.away.store(false, Ordering::SeqCst);
        self.subscribe()
    }

    fn forget_lanes(&mut self) {
        self.about.clear();
        self.last = None;
        self.commit.unheard += usize::from(self.commit.flying.take().is_some());
        self.starving_since = None;
        self.stopped = false;
    }

    // Partitions.

    /// Deals with what the client library told.
    fn serve(&mut self) -> Result<()> {
        while let Some(happened) = self.later.pop_front().or_else(|| self.consumer.context().next())
        {
            match happened {
                Happened::Assigned(places) => {
                    self.asked = true;
                    self.given.extend(places);
                }
                Happened::Revoked(places) => self.revoked(places),
                Happened::Committed(answer) => self.hear_commit(answer),
            }
        }
        if self.asked && self.away_since.is_some() {
            self.take_blindly();
        } else if self.asked {
            self.take_partitions()?;
        }
        Ok(())
    }

    /// Answers an assignment whose partitions are given back at once.
    fn take_blindly(&mut self) {
        let mut places = TopicPartitionList::new();
        self.blind.clear();
        for (name, partition) in self.given.drain(..) {
            places.add_partition(&name, partition);
            self.assigned.insert((name, partition));
        }
        if std::mem::take(&mut self.asked)
            && let Err(error) = self.consumer.incremental_assign(&places)
        {
            tracing::warn!(%error, group = %self.member.group, "taking partitions");
        }
    }

    fn revoked(&mut self, places: Vec<At>) {
        self.given.retain(|place| !places.contains(place));
        self.blind.retain(|place| !places.contains(place));
        let lost = self.consumer.assignment_lost();
        let until = Instant::now() + self.member.connection.config.handover;
        let mut hold = lock(&self.member.hold);
        for (name, partition) in &places {
            let Some(id) = hold.lane_at(name, *partition) else { continue };
            if lost {
                hold.drop_lane(id, moved);
                self.about.remove(&id);
                continue;
            }
            hold.revoke_unseen(Some(id));
            if let Some(lane) = hold.lanes.get_mut(&id) {
                lane.revoked = Some(until);
                lane.dirty = true;
            }
        }
        drop(hold);
        self.last = None;
        self.wanted.extend(places);
        self.return_wanted = true;
    }

    /// Lets partitions go that are wanted back, once nothing of them is held.
    fn give_back(&mut self, now: Instant) {
        if !self.return_wanted {
            return;
        }
        let ready: Vec<u32> = {
            let hold = lock(&self.member.hold);
            let mut waits = false;
            let of_it = hold.lanes.iter().filter(|(_, lane)| lane.revoked.is_some());
            let ready = of_it
                .filter(|(id, lane)| {
                    let free = hold.with_users(Some(**id)) == 0
                        || lane.revoked.is_some_and(|until| now >= until);
                    waits |= !free;
                    free
                })
                .map(|(id, _)| *id)
                .collect();
            if waits {
                return;
            }
            ready
        };
        let began = Instant::now();
        self.commit_now(&ready);
        self.has_waited(began);
        let mut hold = lock(&self.member.hold);
        for id in ready {
            hold.drop_lane(id, moved);
            self.about.remove(&id);
        }
        drop(hold);
        let mut list = TopicPartitionList::new();
        for place in self.wanted.drain(..) {
            // What was never taken cannot be let go, and the library would keep all of it.
            if self.assigned.remove(&place) {
                list.add_partition(&place.0, place.1);
            }
        }
        self.return_wanted = false;
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            tracing::debug!(%error, "letting partitions go");
        }
    }

    /// Takes the partitions that the group gave, each from where the group is in it.
    fn take_partitions(&mut self) -> Result<()> {
        let connection = Arc::clone(&self.member.connection);
        let within = connection.config.connect_timeout;
        let began = Instant::now();
        let mut asked = TopicPartitionList::new();
        for (name, partition) in &self.given {
            asked.add_partition(name, *partition);
        }
        let mut committed = HashMap::new();
        if asked.count() > 0 {
            let found = match self.consumer.committed_offsets(asked, within.min(ONE_ANSWER)) {
                Ok(found) => found,
                Err(error) => {
                    // The coordinator is asked again in the next round.
                    tracing::debug!(%error, "asking where the group is");
                    std::thread::sleep(COMMIT_BACKOFF);
                    self.has_waited(began);
                    return Ok(());
                }
            };
            for element in found.elements() {
                if let (Ok(()), Offset::Offset(at)) = (element.error(), element.offset()) {
                    let place = (element.topic().to_owned(), element.partition());
                    committed.insert(place, (at, element.metadata().to_owned()));
                }
            }
        }
        let mut catalogue = connection.catalogue();
        if self.given.iter().any(|(name, _)| catalogue.topic(name).is_none()) {
            catalogue = connection.refresh().unwrap_or(catalogue);
        }
        let known = Arc::clone(&self.known);
        let metas: Vec<Arc<TopicMeta>> =
            self.given.iter().filter_map(|(name, _)| catalogue.topic(name).cloned()).collect();
        // To begin at a number takes the library no time of its own, unlike to begin at the beginning.
        let begins = connection.offsets(&metas, Asked::Beginning).unwrap_or_default();
        let mut places = TopicPartitionList::new();
        for (name, partition) in std::mem::take(&mut self.given) {
            // One that vanished meanwhile is taken away again soon, or is there again.
            let Some(meta) = catalogue.topic(&name).cloned() else {
                places.add_partition(&name, partition);
                self.blind.push((name, partition));
                continue;
            };
            let waits = !meta.topic.as_ref().is_some_and(|topic| known.reads(topic));
            let about = About { meta, waits, paused: false };
            let found = committed.remove(&(name.clone(), partition));
            let progress = found.and_then(|(at, text)| match Progress::decode(at, &text) {
                Some(progress) if progress.origin == known.origin => Some(progress),
                // Of an earlier life of the group, or from before its place was moved.
                Some(_) => None,
                // Somebody moved the group by the broker's own tools.
                None => Some(Progress::at(known.origin, at)),
            });
            let begin = begins.get(&name).and_then(|all| all.get(partition as usize)).copied();
            let track = match &progress {
                Some(progress) => Track::resume(progress),
                None => match (first(&known, &about, partition), begin) {
                    // All that is left of a topic that is younger than the group.
                    (0, Some(begin)) => Track::new(begin),
                    (first, _) => Track::new(first),
                },
            };
            let start = match (progress, begin) {
                (None, None) => from(track.next()),
                _ => Offset::Offset(track.next()),
            };
            places
                .add_partition_offset(&name, partition, start)
                .map_err(|error| from_kafka(&error))?;
            let id = lock(&self.member.hold).take_lane(name, partition, about.meta.id, track);
            self.about.insert(id, about);
        }
        self.asked = false;
        if self.stopped {
            // What is new flows with the rest.
            self.starving_since = None;
            self.stopped = false;
            let list = self.lane_list(|about| !about.paused);
            self.consumer.resume(&list).map_err(|error| from_kafka(&error))?;
        }
        // The library looks for the leaders of new topics once a second, unless it knows them already.
        learn(&self.consumer, &places, within);
        for element in places.elements() {
            self.assigned.insert((element.topic().to_owned(), element.partition()));
        }
        if let Err(error) = self.consumer.incremental_assign(&places) {
            tracing::warn!(%error, group = %self.member.group, "taking partitions");
        }
        self.flow_again(&places);
        self.has_waited(began);
        if let Some(joined) = self.joined.take() {
            let _ = joined.send(Ok(()));
        }
        if self.unasked { self.subscribe() } else { Ok(()) }
    }

    // Events.

    /// Reads and hands out; whether there may be more at once.
    fn read(&mut self) -> Result<bool> {
        let member = Arc::clone(&self.member);
        let now = Now::read();
        let mut items = Vec::new();
        let mut room = {
            let mut hold = lock(&member.hold);
            let mut room = member.prefetch.saturating_sub(hold.held());
            while room > 0
                && items.len() < MAX_CHUNK
                && let Some(item) = hold.waiting.pop(now.instant)
            {
                room -= 1;
                items.push(item);
            }
            room
        };
        let full =
            room == 0 || lock(&member.hold).waiting.len() >= MAX_WAITING || member.is_leaving();
        self.flow(full, now.instant)?;
        // Before the next record: one that was given back in place may have to come first.
        self.bound_spans()?;
        let (mut empty, mut silent) = (full, 0);
        let mut far = Vec::new();
        while !empty && room > 0 && items.len() < MAX_CHUNK {
            let Self { consumer, reader, about, last, known, .. } = self;
            match consumer.poll(Duration::ZERO) {
                None => {
                    silent += 1;
                    empty = silent == SILENT;
                }
                Some(Ok(record)) => match take(&member, known, about, last, reader, &record) {
                    None => {}
                    Some((item, None)) => {
                        room = room.saturating_sub(1);
                        items.push(item);
                    }
                    Some((item, Some(due))) => {
                        let late = due.saturating_duration_since(now.instant) > KEEP;
                        if late && about.get(&item.lane).is_some_and(|about| !about.waits) {
                            far.push((item, due));
                        } else {
                            lock(&member.hold).waiting.push(due, item);
                        }
                    }
                },
                Some(Err(error)) => self.trouble(&error)?,
            }
        }
        self.hear()?;
        if !far.is_empty() {
            self.put_off(far);
        }
        let any = !items.is_empty();
        self.hand_out(items, now);
        Ok(any || !empty)
    }

    /// Serves the library without taking events, while its partitions are stopped.
    fn hear(&mut self) -> Result<()> {
        let member = Arc::clone(&self.member);
        let mut silent = 0;
        while self.stopped && silent < SILENT {
            let Self { consumer, reader, about, last, known, .. } = self;
            match consumer.poll(Duration::ZERO) {
                None => silent += 1,
                // On its way before the flow stopped.
                Some(Ok(record)) => {
                    if let Some((item, due)) = take(&member, known, about, last, reader, &record) {
                        let due = due.unwrap_or_else(Instant::now);
                        lock(&member.hold).waiting.push(due, item);
                    }
                }
                Some(Err(error)) => self.trouble(&error)?,
            }
        }
        Ok(())
    }

    /// Stops the flow where there is no room for long, and lets it go on when there is.
    fn flow(&mut self, full: bool, now: Instant) -> Result<()> {
        if !full {
            self.starving_since = None;
            if std::mem::take(&mut self.stopped) {
                let list = self.lane_list(|about| !about.paused);
                self.consumer.resume(&list).map_err(|error| from_kafka(&error))?;
            }
            return Ok(());
        }
        let since = *self.starving_since.get_or_insert(now);
        if !self.stopped && now.saturating_duration_since(since) >= STALL {
            let list = self.lane_list(|_| true);
            self.consumer.pause(&list).map_err(|error| from_kafka(&error))?;
            self.stopped = true;
        }
        Ok(())
    }

    fn lane_list(&self, which: impl Fn(&About) -> bool) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        let hold = lock(&self.member.hold);
        for (id, lane) in &hold.lanes {
            if self.about.get(id).is_some_and(&which) {
                list.add_partition(&lane.name, lane.partition);
            }
        }
        list
    }

    /// Stops partitions that are too far ahead of what is settled, or that wait for an event which is
    /// to come again first.
    fn bound_spans(&mut self) -> Result<()> {
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        {
            let hold = lock(&self.member.hold);
            let in_place = self.member.retry() == RetryMode::InPlace;
            for (id, lane) in &hold.lanes {
                let Some(about) = self.about.get_mut(id) else { continue };
                let far = lane.track.span() >= MAX_SPAN;
                let near = lane.track.span() < MAX_SPAN / 2;
                let blocked = in_place && hold.waiting.iter().any(|item| item.lane == *id);
                if !about.paused && (far || blocked) {
                    about.paused = true;
                    pause.add_partition(&lane.name, lane.partition);
                } else if about.paused && near && !blocked {
                    about.paused = false;
                    resume.add_partition(&lane.name, lane.partition);
                }
            }
        }
        if pause.count() > 0 {
            self.consumer.pause(&pause).map_err(|error| from_kafka(&error))?;
        }
        if resume.count() > 0 && !self.stopped {
            self.consumer.resume(&resume).map_err(|error| from_kafka(&error))?;
        }
        Ok(())
    }

    /// Copies events that are not due for long to where they wait, and settles them here.
    fn put_off(&mut self, far: Vec<(Item, Instant)>) {
        let member = Arc::clone(&self.member);
        let connection = &member.connection;
        let names = connection.names.waiting(&member.group);
        for (item, due) in far {
            let wall = item.event.deliver_at();
            let delay = due.saturating_duration_since(Instant::now());
            let (attempt, origin) = (item.attempt, item.position.clone());
            let copied = Copied { attempt, due: wall, origin };
            let kept = self.runtime.block_on(async {
                let name = &names[bucket(delay)];
                let confirms =
                    connection.publisher.copy(connection, name, [(&item.event, copied)]).await?;
                confirms.await.into_vec().into_iter().collect::<Result<Vec<_>>>()
            });
            let mut hold = lock(&member.hold);
            match kept {
                Ok(_) => {
                    if let Some(lane) = hold.lanes.get_mut(&item.lane) {
                        lane.track.settle(item.offset);
                        lane.dirty = true;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "an event that is not due waits in memory");
                    hold.waiting.push(due, item);
                }
            }
        }
    }

    fn hand_out(&self, items: Vec<Item>, now: Now) {
        let member = &self.member;
        let mut items = items.into_iter().peekable();
        while let Some(first) = items.next() {
            let (lane, placed) = (first.lane, first.position.is_some());
            let mut run = vec![first];
            while let Some(next) =
                items.next_if(|next| next.lane == lane && next.position.is_some() == placed)
            {
                run.push(next);
            }
            let mut hold = lock(&member.hold);
            if hold.lanes.get(&lane).is_none_or(|lane| lane.revoked.is_some())
                || member.is_leaving()
            {
                // It is left for the partition's next owner.
                continue;
            }
            let len = run.len();
            let (mut events, mut places) = (Vec::with_capacity(len), Vec::with_capacity(len));
            let (mut attempts, mut offsets) = (Vec::with_capacity(len), Vec::with_capacity(len));
            let mut faults = Vec::new();
            for (n, item) in run.into_iter().enumerate() {
                events.push(item.event);
                places.extend(item.position);
                attempts.push(item.attempt);
                offsets.push(item.offset);
                faults.extend(item.fault.map(|fault| (n, fault)));
            }
            let settler: Arc<dyn Settler> = Arc::new(MemberSettler(Arc::clone(member)));
            let mut chunk = Chunk::new(Arc::new(events), 0, len, now.wall)
                .with_settler(member.group.clone(), settler)
                .with_token(hold.chunk_token());
            chunk = match attempts.iter().all(|attempt| *attempt == 1) {
                true => chunk.with_attempt(1),
                false => chunk.with_attempts(attempts.into_boxed_slice()),
            };
            if placed {
                chunk = chunk.with_places(Places::Each(places.into_boxed_slice()));
            }
            for (n, fault) in &faults {
                chunk = chunk.with_fault(*n, fault.clone());
            }
            let chunk = Arc::new(chunk);
            hold.hand_out(&chunk, lane, offsets.into_boxed_slice(), faults);
            drop(hold);
            member.feed.push(Ok(chunk));
        }
    }

    // Trouble.

    fn trouble(&mut self, error: &KafkaError) -> Result<()> {
        let Some(code) = error.rdkafka_error_code() else { return Ok(()) };
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => self.catch_up(),
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId => {
                self.member.connection.look_again();
                Ok(())
            }
            // It was not polled for too long: the library has left the group and joins anew.
            Code::PollExceeded => Ok(()),
            _ => {
                let known = from_code(code);
                let final_ = matches!(
                    known.kind(),
                    ErrorKind::GroupMismatch | ErrorKind::Unauthorized | ErrorKind::Config
                ) || matches!(error, KafkaError::MessageConsumptionFatal(_));
                if !final_ {
                    tracing::debug!(%error, "reading on after an error");
                    return Ok(());
                }
                let known = known.with("group", &self.member.group);
                if self.joined.is_some() || matches!(error, KafkaError::MessageConsumptionFatal(_))
                {
                    return Err(known);
                }
                // The library goes on trying; the user hears of it once.
                if self.refused.replace(code) != Some(code) {
                    self.member.feed.push(Err(known));
                }
                Ok(())
            }
        }
    }

    /// Goes on with the oldest events that are left where the next were dropped, and says how many.
    fn catch_up(&mut self) -> Result<()> {
        let connection = Arc::clone(&self.member.connection);
        let metas: Vec<Arc<TopicMeta>> =
            self.about.values().map(|about| Arc::clone(&about.meta)).collect();
        let begins = match connection.offsets(&metas, Asked::Beginning) {
            Ok(begins) => begins,
            Err(error) => {
                tracing::debug!(%error, "asking what is left");
                return Ok(());
            }
        };
        let (mut missed, mut moved) = (0, TopicPartitionList::new());
        {
            let mut hold = lock(&self.member.hold);
            for lane in hold.lanes.values_mut() {
                let begin = begins.get(&lane.name).and_then(|all| all.get(lane.partition as usize));
                let Some(begin) = begin.copied().filter(|begin| lane.track.next() < *begin) else {
                    continue;
                };
                missed += (begin - lane.track.next()).unsigned_abs();
                lane.track.pass_over(begin);
                lane.dirty = true;
                moved
                    .add_partition_offset(&lane.name, lane.partition, Offset::Offset(begin))
                    .map_err(|error| from_kafka(&error))?;
            }
        }
        self.reposition(&moved)?;
        if missed > 0 {
            let group = Some(self.member.group.clone());
            connection.notices.send(NoticeKind::Lagging { group, missed });
            self.member.feed.push(Err(Error::lagged(missed).with_backend(NAME)));
        }
        Ok(())
    }

    // Commits.

    fn commit(&mut self, now: Instant) {
        if self.commit.flying.is_some() || self.commit.not_before.is_some_and(|at| now < at) {
            return;
        }
        let list = {
            let mut hold = lock(&self.member.hold);
            if !hold.is_dirty() {
                return;
            }
            let dirty = hold.take_dirty(self.origin);
            let list = list_of(&hold, &dirty);
            self.commit.flying = Some(dirty.iter().map(|(id, seq, _)| (*id, *seq)).collect());
            list
        };
        self.commit.not_before = Some(now + self.member.connection.config.commit_interval);
        if let Err(error) = sys::commit(self.consumer.client(), &list) {
            self.committed(Err(error));
        }
    }

    /// An answer came, perhaps to a commit that nobody waits for any more.
    fn hear_commit(&mut self, answer: rdkafka::error::KafkaResult<()>) {
        match self.commit.unheard.checked_sub(1) {
            Some(left) => self.commit.unheard = left,
            None => self.committed(answer),
        }
    }

    fn committed(&mut self, answer: rdkafka::error::KafkaResult<()>) {
        let Some(lanes) = self.commit.flying.take() else { return };
        let answer = answer.map_err(|error| from_kafka(&error));
        if let Err(error) = &answer {
            tracing::debug!(%error, "a commit is tried again");
            self.commit.not_before = Some(Instant::now() + COMMIT_BACKOFF);
            self.commit.failed = true;
        }
        lock(&self.member.hold).committed(&lanes, answer.as_ref().copied());
    }

    /// Commits and waits for the answer, in a partition's last moment; what a broker that does not
    /// answer leaves open is repeated.
    fn commit_now(&mut self, lanes: &[u32]) {
        let until = Instant::now() + LAST_COMMIT;
        self.await_commit(until);
        while Instant::now() < until {
            let (list, sent) = {
                let mut hold = lock(&self.member.hold);
                let sent = hold.take(lanes, self.origin);
                let list = list_of(&hold, &sent);
                (list, sent.iter().map(|(id, seq, _)| (*id, *seq)).collect())
            };
            if list.count() == 0 {
                return;
            }
            self.commit.flying = Some(sent);
            self.commit.failed = false;
            if let Err(error) = sys::commit(self.consumer.client(), &list) {
                self.committed(Err(error));
            }
            self.await_commit(until);
            if !self.commit.failed {
                return;
            }
            std::thread::sleep(COMMIT_BACKOFF);
        }
    }

    /// Waits for the answer to a commit that is under way.
    fn await_commit(&mut self, until: Instant) {
        let member = Arc::clone(&self.member);
        while self.commit.flying.is_some() && Instant::now() < until {
            let Self { consumer, reader, about, last, known, .. } = self;
            if let Some(Ok(record)) = consumer.poll(Duration::from_millis(5))
                && let Some((item, due)) = take(&member, known, about, last, reader, &record)
            {
                let due = due.unwrap_or_else(Instant::now);
                lock(&member.hold).waiting.push(due, item);
            }
            while let Some(happened) = self.consumer.context().next() {
                match happened {
                    Happened::Committed(answer) => self.hear_commit(answer),
                    // It has its turn.
                    other => self.later.push_back(other),
                }
            }
        }
        if self.commit.flying.is_some() {
            self.commit.unheard += 1;
            self.committed(Err(KafkaError::ConsumerCommit(Code::RequestTimedOut)));
        }
    }

    /// Commits everything before the member leaves.
    fn depart(&mut self) {
        let lanes: Vec<u32> = {
            let mut hold = lock(&self.member.hold);
            hold.revoke_all(None);
            hold.lanes.keys().copied().collect()
        };
        self.commit_now(&lanes);
    }
}

/// Where a lane begins that was never committed.
fn first(known: &Known, about: &About, partition: i32) -> i64 {
    let place = Place { name: &about.meta.name, id: about.meta.id, partition };
    match &about.meta.topic {
        Some(topic) if !about.waits => known.first(topic, &place),
        _ => known.first_waiting(&place),
    }
}

/// The offset to begin with; the very first may be gone already.
const fn from(first: i64) -> Offset {
    if first == 0 { Offset::Beginning } else { Offset::Offset(first) }
}

fn list_of(hold: &Hold, progress: &[(u32, u64, Progress)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (id, _, progress) in progress {
        let Some(lane) = hold.lanes.get(id) else { continue };
        let mut element = list.add_partition(&lane.name, lane.partition);
        let set = element.set_offset(Offset::Offset(progress.watermark));
        if let Err(error) = set {
            tracing::warn!(%error, "an offset that is none");
        }
        element.set_metadata(progress.encode());
    }
    list
}

/// What a record says, if its group wants it; and when it is due, if it is not.
fn take(
    member: &Member,
    known: &Known,
    about: &HashMap<u32, About>,
    last: &mut Option<(String, i32, u32)>,
    reader: &mut Reader,
    record: &BorrowedMessage<'_>,
) -> Option<(Item, Option<Instant>)> {
    let (name, partition, offset) = (record.topic(), record.partition(), record.offset());
    let mut hold = lock(&member.hold);
    // What was cached may be a lane of before; a record that is passed over here is lost.
    let same = last.as_ref().filter(|last| last.1 == partition && last.0 == name).map(|l| l.2);
    let id = match same.filter(|id| hold.lanes.contains_key(id)) {
        Some(id) => id,
        None => {
            let id = hold.lane_at(name, partition)?;
            *last = Some((name.to_owned(), partition, id));
            id
        }
    };
    let (lane, about) = (hold.lanes.get_mut(&id)?, about.get(&id)?);
    if lane.revoked.is_some() {
        return None;
    }
    let Some(tries) = lane.track.read(offset) else {
        lane.dirty = true;
        return None;
    };
    let topic = about.meta.topic.as_ref()?;
    if !about.waits {
        let place = Place { name, id: lane.id, partition };
        if !known.wants(topic, &place, offset) {
            lane.track.settle(offset);
            lane.dirty = true;
            return None;
        }
    }
    drop(hold);
    let decoded = decode(reader, topic, record);
    let received = decoded.received;
    let position = if about.waits {
        decoded.origin
    } else {
        let place = Position::new(topic.clone(), about.meta.id, offset as u128);
        Some(place.with_partition(partition as u32))
    };
    let attempt = received.attempt.unwrap_or(1).saturating_add(tries);
    let due = received.event.deliver_at().map(instant_at).filter(|due| *due > Instant::now());
    let event: Event = received.event;
    let item = Item { lane: id, offset, event, position, attempt, fault: received.fault };
    Some((item, due))
}
