//! A broker with clients around it, driven step by step, and compared with the model after each.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fabric_core::clock::{Now, wall_at};
use fabric_core::{
    Batch, Chunk, Cursor, Delivery, Error, ErrorKind, Event, ExpectedLast, Group, GroupDefinition,
    IntoPatterns, Nack, Outcomes, Patterns, Position, Priority, Receipt, Result, Settled, Settler,
    Source, Start, SubmitOptions, SubscribeOptions, Subscription, Timestamp, Topic, Trim, WhenFull,
};
use futures_core::Stream as _;
use tokio::time::Instant;

use super::reference::{
    Begins, Cause, Fact, INBOX, Key, Model, State, TopicModel, Verdict, ensure,
};
use super::{Op, Setup, Starts};
use crate::broker::{Broker, Held, Member, MemberFlags, Polled, Wakers, kept_size};
use crate::bug::Bug;
use crate::publish::{Line, store_in_turn, try_batch};

pub(super) const TOPICS: [&str; 4] = ["a.b", "a.c", "b", "dlq.g0"];
const GROUPS: usize = 3;
const PATTERNS: [&[&str]; 8] = [
    &["a.b"],
    &["a.*"],
    &["#"],
    &["b"],
    &["a.b", "b"],
    &[">"],
    &["dlq.g0"],
    &["a.c", "dlq.*", "a.#"],
];
const POLICIES: [WhenFull; 4] =
    [WhenFull::Block, WhenFull::DropOldest, WhenFull::Fail, WhenFull::DropNewest];
const PREFETCH: [Option<usize>; 6] = [None, Some(1), Some(2), Some(3), Some(5), Some(16)];
const PRIORITIES: [Priority; 8] = [
    Priority::Normal,
    Priority::Normal,
    Priority::Normal,
    Priority::Normal,
    Priority::Normal,
    Priority::Low,
    Priority::High,
    Priority::Critical,
];
/// Leases, by group; a sixteenth of them is a whole number of milliseconds.
const WAITS: [Duration; GROUPS] =
    [Duration::from_millis(1600), Duration::from_millis(160), Duration::from_millis(1600)];
const DEDUP_WINDOW: Duration = Duration::from_secs(2);
const MAX_AGE: Duration = Duration::from_secs(2);
/// Room for a dozen events.
const MAX_BYTES: usize = 4096;
const LIMIT: usize = 1 << 20;

/// What a settler has to tell the broker, where telling it at once is not the only way.
enum Call {
    Settled(Member, Arc<Chunk>),
    Nack(Member, Arc<Chunk>, u64, Nack),
    Dropped(Member, Arc<Chunk>, u64),
}

/// What readers and settlers share.
struct Stage {
    broker: Broker,
    now: Now,
    polled: Vec<Seen>,
    calls: VecDeque<Call>,
}

enum Seen {
    Chunk(Arc<Chunk>),
    Lagged(u64),
    Gone,
    End,
    Pending,
}

type Shared = Arc<Mutex<Stage>>;

fn lock(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Works on the broker after time has passed, then wakes whoever is to be woken.
fn at<R>(stage: &Mutex<Stage>, work: impl FnOnce(&mut Broker, Now, &mut Wakers) -> R) -> R {
    let mut wakers = Wakers::new();
    let result = {
        let stage = &mut *lock(stage);
        stage.broker.advance(&stage.now, &mut wakers);
        work(&mut stage.broker, stage.now, &mut wakers)
    };
    wakers.into_iter().for_each(Waker::wake);
    result
}

/// A task that only notes that it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Flag {
    fn is_woken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy)]
enum Place {
    Plain(usize),
    Member(Member),
}

/// A reader as `subscribe.rs` has it, but for the clock.
struct Tap {
    stage: Shared,
    place: Option<Place>,
}

impl Tap {
    fn leave(&mut self) {
        match self.place.take() {
            Some(Place::Plain(index)) => {
                at(&self.stage, |broker, _, wakers| broker.unsubscribe(index, wakers));
            }
            Some(Place::Member(member)) => {
                at(&self.stage, |broker, _, wakers| broker.leave(member, wakers));
            }
            None => {}
        }
    }
}

impl Source for Tap {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let Some(place) = self.place else { return Poll::Ready(None) };
        let polled = at(&self.stage, |broker, now, wakers| match place {
            Place::Plain(index) => broker.poll_plain(index, now, cx.waker(), wakers),
            Place::Member(member) => broker.poll_group(member, now, cx.waker(), wakers),
        });
        let (seen, answer) = match polled {
            Polled::Chunk(chunk) => (Seen::Chunk(Arc::clone(&chunk)), Poll::Ready(Some(Ok(chunk)))),
            Polled::Error(error) => {
                (Seen::Lagged(error.missed().unwrap_or(0)), Poll::Ready(Some(Err(error))))
            }
            Polled::Gone(error) => {
                self.place = None;
                (Seen::Gone, Poll::Ready(Some(Err(error))))
            }
            Polled::End => (Seen::End, Poll::Ready(None)),
            Polled::Pending => (Seen::Pending, Poll::Pending),
        };
        lock(&self.stage).polled.push(seen);
        if matches!(answer, Poll::Ready(None)) {
            self.leave();
        }
        answer
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.leave();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A settler as `settle.rs` has it; what it tells the broker may be late.
struct Recorder {
    stage: Weak<Mutex<Stage>>,
    member: Member,
    flags: Arc<MemberFlags>,
}

impl Recorder {
    fn record(&self, call: Call) -> Settled {
        if let Some(stage) = self.stage.upgrade() {
            lock(&stage).calls.push_back(call);
        }
        Settled::Done(Ok(()))
    }
}

impl Settler for Recorder {
    fn ack(&self, chunk: &Arc<Chunk>, _: u64, complete: bool) -> Settled {
        if complete || self.flags.is_awaited() {
            return self.record(Call::Settled(self.member, Arc::clone(chunk)));
        }
        Settled::Done(Ok(()))
    }

    fn nack(&self, chunk: &Arc<Chunk>, mask: u64, nack: &Nack) -> Settled {
        self.record(Call::Nack(self.member, Arc::clone(chunk), mask, nack.clone()))
    }

    fn progress(&self, chunk: &Arc<Chunk>, mask: u64) -> Settled {
        let Some(stage) = self.stage.upgrade() else { return Settled::Done(Ok(())) };
        let extended = at(&stage, |broker, now, _| broker.progress(self.member, chunk, mask, now));
        let stale = || Error::new(ErrorKind::StaleAck, "the lease ended");
        Settled::Done(extended.then_some(()).ok_or_else(stale))
    }

    fn dropped(&self, chunk: &Arc<Chunk>, mask: u64) {
        drop(self.record(Call::Dropped(self.member, Arc::clone(chunk), mask)));
    }
}

/// Where a group's inbox begins and how long it is.
fn inbox(broker: &Broker, group: &Group) -> (u64, u64) {
    let state = broker.state(group);
    let track = state.and_then(|state| Some(&state.tracks.list[state.inbox?]));
    track.map_or((0, 0), |track| {
        let stream = broker.streams.peek(track.stream);
        (stream.first(), stream.len() as u64)
    })
}

fn size(events: &[Event]) -> usize {
    events.iter().map(kept_size).sum()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seating {
    Taken,
    /// Its client has stopped.
    Stopped,
    Left,
}

/// Somebody with a subscription.
struct Seat {
    id: usize,
    client: u64,
    /// Which group, and which life of it; none without a group.
    group: Option<(usize, u64)>,
    plain: Option<usize>,
    member: Option<Member>,
    prefetch: usize,
    subscription: Subscription,
    flag: Arc<Flag>,
    /// It got `Pending` last.
    parked: bool,
    /// The chunk from which it is being handed deliveries.
    current: Option<usize>,
}

/// A chunk that a member got.
struct Taken {
    id: usize,
    chunk: Arc<Chunk>,
    group: usize,
    life: u64,
    seat: usize,
    keys: Vec<Key>,
    /// The bits of which the model knows that they are closed.
    closed: u64,
    /// Its client was closed: everything is taken back.
    reclaimed: bool,
}

/// A delivery that a user has.
struct Hand {
    delivery: Delivery,
    chunk: usize,
    bit: u32,
}

/// A publisher that could not publish at once.
struct Publisher {
    events: VecDeque<Event>,
    options: SubmitOptions,
    line: Line,
    flag: Arc<Flag>,
}

pub(super) struct World {
    stage: Shared,
    model: Model,
    config: crate::MemoryConfig,
    start: Instant,
    topics: Vec<Topic>,
    names: Vec<Group>,
    patterns: Vec<Patterns>,
    exists: Vec<bool>,
    incarnations: Vec<Option<u64>>,
    lives: Vec<u64>,
    seats: Vec<Seat>,
    /// What became of each seat, by id.
    seatings: Vec<Seating>,
    chunks: Vec<Taken>,
    next_chunk: usize,
    hands: Vec<Hand>,
    publishers: Vec<Publisher>,
    /// Stopped clients and what they held.
    stopped: Vec<(Held, Vec<usize>)>,
    clients: [u64; 2],
    next_client: u64,
    /// Which topic each event is for, by its number.
    sent: Vec<usize>,
    /// What was stored lately: id, topic, when and where.
    window: Vec<(String, usize, Timestamp, Option<Position>)>,
    setup: Setup,
}

impl World {
    pub(super) fn new(setup: &Setup, bug: Option<Bug>) -> Self {
        let mut config = crate::MemoryConfig::new().with_max_events(setup.max_events);
        config.prefetch = setup.prefetch;
        config.when_full = POLICIES[setup.when_full % POLICIES.len()];
        config.dedup_window = setup.dedup.then_some(DEDUP_WINDOW);
        config.max_bytes = if setup.bytes { MAX_BYTES } else { config.max_bytes };
        config.max_age = setup.age.then_some(MAX_AGE);
        // Far from the real clock, which must not decide what has expired.
        let start = Instant::now() + Duration::from_secs(86_400);
        let now = Now { instant: start, wall: wall_at(start) };
        let topics: Vec<Topic> = TOPICS.iter().map(|name| Topic::new(name).unwrap()).collect();
        let model = Model::new(&topics, GROUPS, &config);
        let broker = Broker::new(config.clone(), bug, now);
        Self {
            stage: Arc::new(Mutex::new(Stage {
                broker,
                now,
                polled: Vec::new(),
                calls: VecDeque::new(),
            })),
            model,
            config,
            start,
            exists: vec![false; topics.len()],
            incarnations: vec![None; topics.len()],
            topics,
            names: (0..GROUPS).map(|n| Group::new(format!("g{n}")).unwrap()).collect(),
            patterns: PATTERNS.iter().map(|list| list.into_patterns().unwrap()).collect(),
            lives: vec![0; GROUPS],
            seats: Vec::new(),
            seatings: Vec::new(),
            chunks: Vec::new(),
            next_chunk: 0,
            hands: Vec::new(),
            publishers: Vec::new(),
            stopped: Vec::new(),
            clients: [0, 1],
            next_client: 2,
            sent: Vec::new(),
            window: Vec::new(),
            setup: setup.clone(),
        }
    }

    fn now(&self) -> Now {
        lock(&self.stage).now
    }

    fn wall(&self) -> Timestamp {
        self.now().wall
    }

    /// One step, and what must hold after it.
    pub(super) fn step(&mut self, op: &Op) -> Verdict {
        self.perform(op)?;
        self.observe(Cause::None)?;
        self.check()
    }

    fn perform(&mut self, op: &Op) -> Verdict {
        match *op {
            Op::Publish { topic, priority, ttl, delay, id, last, late } => {
                self.publish_one(topic.into(), priority, ttl, delay, id, last, late)
            }
            Op::Batch { topic, count, mixed, priority } => {
                self.publish_batch(topic.into(), count.into(), mixed, priority)
            }
            Op::Run { publisher } => self.run_one(publisher.into()),
            Op::GiveUp { publisher } => self.give_up(publisher.into()),
            Op::Define { group, patterns, start } => self.define(group, patterns, start),
            Op::Join { group, patterns, start, prefetch, policy, client, redefine } => {
                self.join(group, patterns, start, prefetch, policy, client, redefine)
            }
            Op::Mismatch { group } => self.mismatch(group),
            Op::Leave { seat } => self.leave(seat.into()),
            Op::Receive { seat, count } => self.receive_some(seat.into(), count.into()),
            Op::Ack { hand, count, late } => self.ack(hand.into(), count.into(), late),
            Op::Nack { hand, delay, late } => self.nack(hand.into(), delay, late),
            Op::Reject { hand } => self.reject(hand.into()),
            Op::Drop { hand, late } => self.drop_hand(hand.into(), late),
            Op::Progress { hand } => self.progress(hand.into()),
            Op::Tell { call } => self.tell(call.into()),
            Op::Redefine { group, patterns } => self.redefine(group, patterns),
            Op::Reset { group, start } => self.reset(group, start),
            Op::Delete { group } => self.delete(group),
            Op::Send { group, count, delay, attempt, priority } => {
                self.send(group, count.into(), delay, attempt, priority)
            }
            Op::Subscribe { patterns, start, policy, bound, client } => {
                self.subscribe(patterns, start, policy, bound, client)
            }
            Op::Trim { topic, how } => self.trim(topic.into(), how),
            Op::Stop { client } => self.stop(client),
            Op::TakeBack => self.take_back(),
            Op::Pass { time, lazy } => self.pass(time, lazy),
        }
    }

    // ---- publishing ----

    fn event(&mut self, topic: usize, priority: u8, ttl: u8, id: Option<u8>, now: Now) -> Event {
        let number = self.sent.len();
        self.sent.push(topic);
        let mut event = Event::to(&self.topics[topic]).time(now.wall).text(number.to_string());
        event = match id {
            Some(id) => event.id(format!("id{id}")),
            None => event.id(number.to_string()),
        };
        let priority = PRIORITIES[usize::from(priority) % PRIORITIES.len()];
        event = event.priority(priority);
        let ttl = match ttl % 8 {
            5 => Some(Duration::from_millis(30)),
            6 => Some(Duration::from_millis(700)),
            7 => Some(Duration::from_secs(3)),
            _ => None,
        };
        if let Some(ttl) = ttl.filter(|_| self.setup.ttl) {
            event = event.ttl(ttl);
        }
        let event = event.build().unwrap();
        self.note(&event);
        event
    }

    fn note(&mut self, event: &Event) {
        let (expires, bytes) = (event.expires_at(), kept_size(event));
        self.model.facts.push(Fact { priority: event.priority(), expires, bytes });
    }

    #[expect(clippy::too_many_arguments, reason = "as many as the step has")]
    fn publish_one(
        &mut self,
        topic: usize,
        priority: u8,
        ttl: u8,
        delay: u8,
        id: u8,
        last: u8,
        late: bool,
    ) -> Verdict {
        let topic = topic % TOPICS.len();
        let mut now = self.now();
        if late && !self.setup.dedup && now.instant >= self.start + Duration::from_millis(3) {
            // Its publisher read the clock, and others were faster.
            now.instant -= Duration::from_millis(3);
            now.wall = wall_at(now.instant);
        }
        let id = (self.setup.dedup && id % 4 == 3).then_some(id / 4 % 3);
        let mut event = self.event(topic, priority, ttl, id, now);
        let delay = match delay % 12 {
            8 => Some(Duration::from_millis(1)),
            9 => Some(Duration::from_millis(50)),
            10 => Some(Duration::from_millis(900)),
            11 => Some(Duration::from_secs(3)),
            _ => None,
        };
        if let Some(delay) = delay {
            event = Event::of(event).deliver_at(now.wall.saturating_add(delay)).build().unwrap();
            if let Some(fact) = self.model.facts.last_mut() {
                fact.bytes = kept_size(&event);
            }
        }
        let mut options = SubmitOptions::default();
        if let (1 | 2, Some(incarnation)) = (last % 8, self.incarnations[topic]) {
            let next = self.model.topics[topic].next();
            let number = next.saturating_sub(u64::from(last % 8));
            let place = Position::new(self.topics[topic].clone(), incarnation, number.into());
            options.expect_last = Some(place.into());
        }
        if last % 8 == 3 {
            options.expect_last = Some(ExpectedLast::Nothing);
        }
        self.submit(&[event], &options, now)?;
        // What was due between its clock and ours is due at once.
        self.reach(self.now().instant, true)
    }

    fn publish_batch(&mut self, topic: usize, count: usize, mixed: bool, priority: u8) -> Verdict {
        let now = self.now();
        let events: Vec<Event> = (0..2 + count % 11)
            .map(|n| {
                let topic = (topic + if mixed { n } else { 0 }) % TOPICS.len();
                self.event(topic, if n % 3 == 1 { priority } else { 0 }, 0, None, now)
            })
            .collect();
        self.submit(&events, &SubmitOptions::default(), now)
    }

    fn submit(&mut self, events: &[Event], options: &SubmitOptions, now: Now) -> Verdict {
        let asked = Some(Box::new(options.clone()));
        let batch = Batch { events: events.iter().cloned().collect(), options: asked, now };
        let tried = {
            let mut wakers = Wakers::new();
            let tried = {
                let stage = &mut *lock(&self.stage);
                stage.broker.advance(&now, &mut wakers);
                try_batch(&mut stage.broker, &mut wakers, batch, LIMIT)
            };
            wakers.into_iter().for_each(Waker::wake);
            tried
        };
        let topic = self.topic_of(&events[0]);
        match tried {
            Ok(confirms) => {
                let outcomes = confirms.try_ready().map_err(|_| "confirms that are not ready")?;
                self.judge_all(events, options, outcomes, now, topic)
            }
            Err(batch) => {
                self.observe(Cause::Room(topic, events.len(), size(events)))?;
                let flag = Arc::new(Flag::default());
                let mut publisher = Publisher {
                    events: batch.events.into_iter().collect(),
                    options: options.clone(),
                    line: Line::default(),
                    flag,
                };
                self.run(&mut publisher, now)?;
                if !publisher.events.is_empty() {
                    self.publishers.push(publisher);
                }
                Ok(())
            }
        }
    }

    fn topic_of(&self, event: &Event) -> usize {
        self.topics.iter().position(|topic| topic == event.topic()).unwrap()
    }

    fn judge_all(
        &mut self,
        events: &[Event],
        options: &SubmitOptions,
        outcomes: Outcomes,
        now: Now,
        topic: usize,
    ) -> Verdict {
        let outcomes = outcomes.into_vec();
        ensure!(outcomes.len() == events.len(), "{} outcomes", outcomes.len());
        self.observe_evictions(Cause::Room(topic, events.len(), size(events)))?;
        for (event, outcome) in events.iter().zip(outcomes) {
            self.judge(event, options, outcome, now)?;
        }
        Ok(())
    }

    /// Whether the answer to a publisher is right.
    fn judge(
        &mut self,
        event: &Event,
        options: &SubmitOptions,
        outcome: Result<Receipt>,
        now: Now,
    ) -> Verdict {
        let topic = self.topic_of(event);
        self.exists[topic] = true;
        let number: usize = event.text().unwrap().parse().unwrap();
        let name = &self.topics[topic];
        let known = {
            let broker = &lock(&self.stage).broker;
            broker.by_name.get(name).map(|index| broker.streams.peek(*index).incarnation)
        };
        ensure!(self.incarnations[topic].is_none_or(|old| Some(old) == known), "another life");
        self.incarnations[topic] = known;
        let incarnation = known.ok_or("a topic that is not there")?;
        let mine = |(id, of, at, _): &&(String, usize, Timestamp, Option<Position>)| {
            let age = now.wall.saturating_since(*at);
            *of == topic && *id == event.id().to_string() && age < DEDUP_WINDOW
        };
        let twin = self.window.iter().rfind(mine).filter(|_| self.setup.dedup).cloned();
        if let Some((.., position)) = twin {
            let receipt = outcome.map_err(|error| format!("a duplicate is refused: {error}"))?;
            ensure!(receipt.duplicate, "a duplicate is stored");
            ensure!(receipt.position == position, "a duplicate of {:?}", receipt.position);
            return Ok(());
        }
        let stream = &self.model.topics[topic];
        let last = stream.next().checked_sub(1);
        let holds = match &options.expect_last {
            None => true,
            Some(ExpectedLast::Nothing) => stream.kept() == 0,
            Some(ExpectedLast::At(position)) => Some(position.offset as u64) == last,
        };
        if !holds {
            let kind = outcome.map_err(|error| error.kind());
            ensure!(
                kind == Err(ErrorKind::AlreadyExists),
                "{:?} is not {last:?}: {kind:?}",
                options.expect_last
            );
            return Ok(());
        }
        let policies = self.model.in_the_way(topic, kept_size(event));
        let receipt = match outcome {
            Ok(receipt) => receipt,
            Err(error) => {
                ensure!(error.kind() == ErrorKind::Full, "{error}");
                ensure!(policies.contains(&WhenFull::Fail), "refused, but {policies:?}: {error}");
                return Ok(());
            }
        };
        ensure!(!receipt.duplicate, "{number} is no duplicate");
        if receipt.routed == Some(false) {
            ensure!(policies.contains(&WhenFull::DropNewest), "dropped, but {policies:?}");
            self.model.drop_newest(topic);
            return Ok(());
        }
        let strict = self.model.plains.values().any(|plain| {
            plain.patterns.matches(&self.topics[topic])
                && matches!(plain.when_full, WhenFull::Block | WhenFull::Fail)
                && plain.bound.is_some_and(|bound| plain.unread.len() as u64 >= bound)
        });
        ensure!(!strict || self.setup.ttl, "stored beyond the bound of a subscription");
        let due = event.deliver_at().filter(|due| *due > now.wall);
        let position = match due {
            Some(due) => {
                self.model.schedule(topic, number, due);
                None
            }
            None => {
                let offset = self.model.push(topic, number, now.wall);
                Some(Position::new(self.topics[topic].clone(), incarnation, offset.into()))
            }
        };
        ensure!(receipt.position == position, "stored at {:?}, not {position:?}", receipt.position);
        if self.setup.dedup {
            self.window.push((event.id().to_string(), topic, now.wall, position));
        }
        let stream = &self.model.topics[topic];
        ensure!(
            stream.kept() + stream.scheduled.len() <= self.setup.max_events,
            "{} keeps {} and {} more",
            stream.name,
            stream.kept(),
            stream.scheduled.len()
        );
        Ok(())
    }

    /// A publisher stores what it can, event by event.
    fn run(&mut self, publisher: &mut Publisher, stamped: Now) -> Verdict {
        publisher.flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&publisher.flag));
        while let Some(event) = publisher.events.pop_front() {
            let now = stamped;
            let topic = self.topic_of(&event);
            let copy = event.clone();
            let Publisher { options, line, .. } = publisher;
            let mut wakers = Wakers::new();
            let tried = {
                let stage = &mut *lock(&self.stage);
                stage.broker.advance(&now, &mut wakers);
                let broker = &mut stage.broker;
                let expected = options.expect_last.as_ref();
                let tried =
                    store_in_turn(broker, &mut wakers, event, expected, LIMIT, now, line, &waker);
                if tried.is_err() {
                    line.leave(broker, &mut wakers);
                }
                tried
            };
            wakers.into_iter().for_each(Waker::wake);
            self.exists[topic] = true;
            let bytes = kept_size(&copy);
            self.observe(Cause::Room(topic, 1, bytes))?;
            let outcome = match tried {
                Ok(Ok(receipt)) => Ok(receipt),
                Ok(Err(back)) => {
                    publisher.events.push_front(back);
                    let waits = {
                        let broker = &lock(&self.stage).broker;
                        let index = broker.by_name[&self.topics[topic]];
                        broker.readers[index].waiting.len() > 1
                    };
                    let policies = self.model.in_the_way(topic, bytes);
                    ensure!(
                        waits || policies.contains(&WhenFull::Block),
                        "a publisher waits, but {policies:?}"
                    );
                    return Ok(());
                }
                Err(error) => Err(error),
            };
            let options = publisher.options.clone();
            self.judge(&copy, &options, outcome, now)?;
        }
        Ok(())
    }

    /// A publisher that was woken goes on.
    fn run_one(&mut self, publisher: usize) -> Verdict {
        let woken: Vec<usize> =
            (0..self.publishers.len()).filter(|n| self.publishers[*n].flag.is_woken()).collect();
        if woken.is_empty() {
            return Ok(());
        }
        let mut publisher = self.publishers.remove(woken[publisher % woken.len()]);
        let now = self.now();
        self.run(&mut publisher, now)?;
        if !publisher.events.is_empty() {
            self.publishers.push(publisher);
        }
        Ok(())
    }

    fn give_up(&mut self, publisher: usize) -> Verdict {
        if !self.publishers.is_empty() {
            let mut publisher = self.publishers.remove(publisher % self.publishers.len());
            at(&self.stage, |broker, _, wakers| publisher.line.leave(broker, wakers));
        }
        Ok(())
    }

    // ---- groups ----

    fn begins(&self, start: Starts, patterns: &Patterns) -> (Start, Begins) {
        let now = self.wall();
        match start {
            Starts::New => (Start::New, Begins::New),
            Starts::All => (Start::All, Begins::All),
            Starts::Last => (Start::Last, Begins::Last),
            Starts::LastPerTopic => (Start::LastPerTopic, Begins::LastPerTopic),
            Starts::Ago(millis) => {
                let time = now.saturating_sub(Duration::from_millis(u64::from(millis)));
                (Start::Time(time), Begins::Time(time))
            }
            Starts::At(topic, back) | Starts::After(topic, back) => {
                let topic = usize::from(topic) % TOPICS.len();
                let next = self.model.topics[topic].next();
                let Some(incarnation) = self.incarnations[topic].filter(|_| next > 0) else {
                    return (Start::New, Begins::New);
                };
                let number = next - 1 - u64::from(back) % next;
                let name = self.topics[topic].clone();
                let position = Position::new(name, incarnation, number.into());
                if matches!(start, Starts::At(..)) {
                    (Start::At(position), Begins::Number(topic, number))
                } else if patterns.matches(&self.topics[topic]) && back % 2 == 0 {
                    let cursor: Cursor = [position].into_iter().collect();
                    (Start::Resume(cursor), Begins::Resume(topic, number + 1))
                } else {
                    (Start::After(position), Begins::Number(topic, number + 1))
                }
            }
        }
    }

    fn define(&mut self, group: u8, patterns: u8, start: Starts) -> Verdict {
        let group = usize::from(group) % GROUPS;
        let patterns = self.patterns[usize::from(patterns) % PATTERNS.len()].clone();
        let (start, begins) = self.begins(start, &patterns);
        let definition =
            GroupDefinition::new(patterns.clone()).with_start(start).with_ack_wait(WAITS[group]);
        let name = self.names[group].clone();
        let copy = definition.clone();
        let defined =
            at(&self.stage, |broker, now, wakers| broker.define_group(&name, copy, now, wakers));
        self.observe_evictions(Cause::None)?;
        match (&self.model.groups[group], defined) {
            (Some(known), Ok(())) => {
                ensure!(known.definition == definition, "defined as another");
            }
            (Some(known), Err(error)) => {
                ensure!(known.definition != definition, "{error}");
                ensure!(error.kind() == ErrorKind::GroupMismatch, "{error}");
            }
            (None, Err(error)) => return Err(format!("not defined: {error}")),
            (None, Ok(())) => {
                let begin = self.model.places(&patterns, &begins, &self.exists);
                self.lives[group] += 1;
                self.model.define(group, definition, self.config.when_full, &begin);
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "as many as the step has")]
    fn join(
        &mut self,
        group: u8,
        patterns: u8,
        start: Starts,
        prefetch: u8,
        policy: u8,
        client: u8,
        redefine: bool,
    ) -> Verdict {
        let group = usize::from(group) % GROUPS;
        let asked = self.patterns[usize::from(patterns) % PATTERNS.len()].clone();
        let stored = self.model.groups[group].as_ref().map(|g| g.definition.patterns.clone());
        let mut options = SubscribeOptions::new(match &stored {
            Some(stored) if !redefine => stored.clone(),
            _ => asked,
        });
        let (start, begins) = self.begins(start, &options.patterns);
        options.group = Some(self.names[group].clone());
        options.redefine_group = redefine;
        options.ack_wait = Some(WAITS[group]);
        options.start = stored.is_none().then_some(start);
        options.when_full = POLICIES.get(usize::from(policy) % 12).copied();
        options.prefetch = PREFETCH[usize::from(prefetch) % PREFETCH.len()];
        let flags = Arc::new(MemberFlags::default());
        let client = self.clients[usize::from(client) % 2];
        let joined = at(&self.stage, |broker, now, wakers| {
            let index = broker.admit(&options, now, wakers)?;
            let member = broker.join(index, client, options.prefetch, Arc::clone(&flags));
            let stage = Arc::downgrade(&self.stage);
            broker.set_settler(member, Arc::new(Recorder { stage, member, flags }));
            Ok::<_, Error>(member)
        });
        let member = joined.map_err(|error| format!("not joined: {error}"))?;
        self.observe_evictions(Cause::None)?;
        match &mut self.model.groups[group] {
            Some(state) => {
                if let Some(policy) = options.when_full {
                    state.when_full = policy;
                }
                self.model.redefine(group, &options.patterns, &self.exists);
            }
            None => {
                let begin = self.model.places(&options.patterns, &begins, &self.exists);
                self.lives[group] += 1;
                let when_full = options.when_full.unwrap_or(self.config.when_full);
                self.model.define(group, GroupDefinition::of(&options), when_full, &begin);
            }
        }
        let prefetch = options.prefetch.unwrap_or(self.config.prefetch);
        let life = self.lives[group];
        self.sit(client, Some((group, life)), prefetch, Place::Member(member));
        Ok(())
    }

    fn sit(&mut self, client: u64, group: Option<(usize, u64)>, prefetch: usize, place: Place) {
        let tap = Tap { stage: Arc::clone(&self.stage), place: Some(place) };
        let id = self.seatings.len();
        self.seatings.push(Seating::Taken);
        self.seats.push(Seat {
            id,
            client,
            group,
            plain: if let Place::Plain(index) = place { Some(index) } else { None },
            member: if let Place::Member(member) = place { Some(member) } else { None },
            prefetch,
            subscription: Subscription::from_source(tap),
            flag: Arc::new(Flag::default()),
            parked: false,
            current: None,
        });
    }

    /// Joining as what the group is not.
    fn mismatch(&mut self, group: u8) -> Verdict {
        let group = usize::from(group) % GROUPS;
        let Some(state) = &self.model.groups[group] else { return Ok(()) };
        let mut options = SubscribeOptions::new(state.definition.patterns.clone());
        options.group = Some(self.names[group].clone());
        options.ack_wait = Some(Duration::from_secs(7));
        let admitted = at(&self.stage, |broker, now, wakers| broker.admit(&options, now, wakers));
        let kind = admitted.map_err(|error| error.kind());
        ensure!(kind == Err(ErrorKind::GroupMismatch), "admitted as another: {kind:?}");
        Ok(())
    }

    fn leave(&mut self, seat: usize) -> Verdict {
        if !self.seats.is_empty() {
            let seat = self.seats.remove(seat % self.seats.len());
            self.stand_up(seat);
        }
        Ok(())
    }

    fn stand_up(&mut self, seat: Seat) {
        self.seatings[seat.id] = Seating::Left;
        if seat.group.is_none() {
            self.model.plains.remove(&seat.id);
        }
        drop(seat.subscription);
    }

    fn receive_some(&mut self, seat: usize, count: usize) -> Verdict {
        if self.seats.is_empty() {
            return Ok(());
        }
        let seat = seat % self.seats.len();
        for _ in 0..1 + count % 8 {
            if !self.receive(seat)? {
                break;
            }
        }
        Ok(())
    }

    /// One delivery for the seat at `index`; whether it may get more.
    fn receive(&mut self, index: usize) -> Verdict<bool> {
        let seat = &mut self.seats[index];
        seat.flag = Arc::new(Flag::default());
        seat.parked = false;
        let waker = Waker::from(Arc::clone(&seat.flag));
        let mut cx = Context::from_waker(&waker);
        let polled = Pin::new(&mut seat.subscription).poll_next(&mut cx);
        let seen = std::mem::take(&mut lock(&self.stage).polled);
        for seen in seen {
            self.saw(index, seen)?;
        }
        match polled {
            Poll::Ready(Some(Ok(delivery))) => {
                self.take(index, delivery)?;
                Ok(true)
            }
            Poll::Ready(Some(Err(_))) => Ok(true),
            Poll::Ready(None) => {
                let seat = self.seats.remove(index);
                self.stand_up(seat);
                Ok(false)
            }
            Poll::Pending => {
                self.seats[index].parked = true;
                Ok(false)
            }
        }
    }

    /// What the broker gave to a seat.
    fn saw(&mut self, index: usize, seen: Seen) -> Verdict {
        let now = self.wall();
        let seat = &mut self.seats[index];
        let (id, prefetch) = (seat.id, seat.prefetch);
        seat.current = None;
        let stopped = self.seatings[id] != Seating::Taken;
        if seat.group.is_none() {
            self.model.asked(id);
        }
        let seat = &self.seats[index];
        let alive = seat.group.filter(|(group, life)| {
            self.lives[*group] == *life && self.model.groups[*group].is_some()
        });
        match (seen, seat.group) {
            (Seen::Chunk(chunk), Some((group, life))) => {
                ensure!(alive.is_some() && !stopped, "a chunk for one who has gone");
                let (keys, attempt) = self.keys_of(group, &chunk)?;
                let taken = self.next_chunk;
                self.next_chunk += 1;
                self.model.picked(group, id, prefetch, taken, &keys, attempt, now)?;
                self.seats[index].current = Some(taken);
                self.chunks.push(Taken {
                    id: taken,
                    chunk,
                    group,
                    life,
                    seat: id,
                    keys,
                    closed: 0,
                    reclaimed: false,
                });
            }
            (Seen::Chunk(chunk), None) => {
                ensure!(!stopped, "a chunk for one who has gone");
                let (keys, attempt) = self.keys_of(INBOX, &chunk)?;
                ensure!(attempt == 1, "attempt {attempt} without a group");
                self.model.read(id, &keys, now)?;
            }
            (Seen::Lagged(count), Some((group, _))) => {
                ensure!(alive.is_some() && !stopped, "a lag for one who has gone");
                self.model.told_group(group, count)?;
            }
            (Seen::Lagged(count), None) => self.model.told_plain(id, count)?,
            (Seen::Gone, group) => ensure!(group.is_some() && alive.is_none(), "gone"),
            (Seen::End, _) => ensure!(stopped, "the end of one who is there"),
            (Seen::Pending, Some((group, _))) => {
                ensure!(alive.is_some() && !stopped, "nothing for one who has gone");
                let missed = self.model.has_something(group, id, prefetch, now);
                ensure!(
                    !missed,
                    "nothing for member {id}, and something is there: {:?}",
                    self.model.groups[group]
                );
                self.model.nothing_for(group);
            }
            (Seen::Pending, None) => {
                ensure!(!stopped, "nothing for one who has gone");
                self.jumped(index)?;
                self.model.nothing_to_read(id, now)?;
            }
        }
        self.jumped(index)
    }

    /// What a plain subscription with a bound jumped over.
    fn jumped(&mut self, index: usize) -> Verdict {
        let Some(plain) = self.seats[index].plain else { return Ok(()) };
        let now = self.wall();
        let cursors: Vec<(Topic, u64)> = {
            let broker = &lock(&self.stage).broker;
            let Some(state) = &broker.plains[plain] else { return Ok(()) };
            let tracks = state.tracks.list.iter();
            tracks.map(|t| (broker.streams.peek(t.stream).topic.clone(), t.cursor)).collect()
        };
        for (topic, cursor) in cursors {
            let topic = self.topics.iter().position(|known| *known == topic).unwrap();
            self.model.jumped(self.seats[index].id, topic, cursor, now)?;
        }
        Ok(())
    }

    /// Where the events of a chunk lie, and their attempt.
    fn keys_of(&self, group: usize, chunk: &Chunk) -> Verdict<(Vec<Key>, u32)> {
        let mut keys = Vec::new();
        let attempt = chunk.info(0).attempt;
        for (n, event) in chunk.events().iter().enumerate() {
            let info = chunk.info(n);
            ensure!(info.attempt == attempt, "attempts differ");
            let number: usize = event.text().unwrap().parse().unwrap();
            let topic = self.topic_of(event);
            let key = match info.position {
                Some(position) => {
                    let right = position.topic == self.topics[topic]
                        && Some(position.incarnation) == self.incarnations[topic];
                    ensure!(right, "{number} lies at {position}");
                    let key = (topic, position.offset as u64);
                    let there = self.model.topics[topic].stored.get(key.1 as usize);
                    ensure!(
                        there.is_some_and(|(event, _)| *event == number),
                        "{number} lies at {position}, where {there:?} does"
                    );
                    key
                }
                None => {
                    let state = self.model.groups.get(group).and_then(Option::as_ref);
                    let mut items = state.into_iter().flat_map(|state| &state.items);
                    let found = items.find(|(key, item)| key.0 == INBOX && item.event == number);
                    *found.ok_or_else(|| format!("{number} was not sent to group {group}"))?.0
                }
            };
            keys.push(key);
        }
        Ok((keys, attempt))
    }

    /// A delivery reached the user.
    fn take(&mut self, index: usize, delivery: Delivery) -> Verdict {
        let seat = &mut self.seats[index];
        let Some((group, life)) = seat.group else {
            return Ok(());
        };
        let Some(current) = seat.current else { return Err("a delivery from nowhere".into()) };
        let taken = self.chunks.iter().find(|taken| taken.id == current);
        let Some(taken) = taken else {
            return Err("a delivery from a chunk that is closed".into());
        };
        let bit = taken.chunk.handed() - 1;
        let key = taken.keys[bit as usize];
        ensure!(taken.life == life && delivery.attempt() > 0, "a delivery of another life");
        if bit + 1 == taken.chunk.len() as u32 {
            seat.current = None;
        }
        let now = self.wall();
        self.model.handed(group, key, current, now)?;
        self.hands.push(Hand { delivery, chunk: current, bit });
        Ok(())
    }

    // ---- settling ----

    fn poll<T>(future: impl Future<Output = T>) -> Verdict<T> {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Ok(value),
            Poll::Pending => Err("a settlement waits".to_owned()),
        }
    }

    fn hand(&mut self, hand: usize) -> Option<Hand> {
        (!self.hands.is_empty()).then(|| self.hands.remove(hand % self.hands.len()))
    }

    /// The group and key of a delivery, if its holder still has it, as the model knows it.
    fn lease(&mut self, chunk: usize, bit: u32) -> Option<(usize, Key)> {
        let taken = self.chunks.iter().find(|taken| taken.id == chunk)?;
        let (group, key) = (taken.group, taken.keys[bit as usize]);
        if self.lives[group] != taken.life {
            return None;
        }
        self.model.held(group, key, chunk).map(|_| (group, key))
    }

    fn close_bit(&mut self, chunk: usize, bit: u32) {
        if let Some(taken) = self.chunks.iter_mut().find(|taken| taken.id == chunk) {
            taken.closed |= 1 << bit;
        }
    }

    fn ack(&mut self, hand: usize, count: usize, late: bool) -> Verdict {
        for _ in 0..1 + count % 8 {
            let Some(hand) = self.hand(hand) else { break };
            self.ack_hand(hand)?;
        }
        if late { Ok(()) } else { self.tell_all() }
    }

    fn ack_hand(&mut self, Hand { delivery, chunk, bit }: Hand) -> Verdict {
        let lease = self.lease(chunk, bit);
        match (Self::poll(delivery.ack())?, lease) {
            (Ok(()), Some((group, key))) => {
                self.model.group(group)?.items.remove(&key);
                self.close_bit(chunk, bit);
            }
            (Ok(()), None) => return Err("an ack after the lease moved is taken".into()),
            (Err(stale), None) => {
                ensure!(stale.error.kind() == ErrorKind::StaleAck, "{}", stale.error);
            }
            (Err(refused), Some(lease)) => {
                return Err(format!("the ack of {lease:?} is refused: {refused}"));
            }
        }
        Ok(())
    }

    fn nack(&mut self, hand: usize, delay: u8, late: bool) -> Verdict {
        let Some(Hand { delivery, chunk, bit }) = self.hand(hand) else { return Ok(()) };
        let nack = match delay % 6 {
            0..=2 => Nack::now(),
            3 => Nack::after(Duration::from_millis(5)),
            4 => Nack::after(Duration::from_millis(500)),
            _ => Nack::after(Duration::from_secs(4)),
        };
        let lease = self.lease(chunk, bit);
        match (Self::poll(delivery.nack(nack))?, lease) {
            (Ok(()), Some((group, key))) => {
                let items = &mut self.model.group(group)?.items;
                if let Some(item) = items.get_mut(&key)
                    && let State::Held(hold) = &item.state
                {
                    item.state = State::Returning { chunk, member: hold.member };
                }
                self.close_bit(chunk, bit);
            }
            (Ok(()), None) => return Err("a nack after the lease moved is taken".into()),
            (Err(stale), None) => {
                ensure!(stale.error.kind() == ErrorKind::StaleAck, "{}", stale.error);
            }
            (Err(refused), Some(lease)) => {
                return Err(format!("the nack of {lease:?} is refused: {refused}"));
            }
        }
        if late { Ok(()) } else { self.tell_all() }
    }

    /// A dead letter, as core keeps it: first the copy, then the ack.
    fn reject(&mut self, hand: usize) -> Verdict {
        let Some(hand) = self.hand(hand) else { return Ok(()) };
        let now = self.now();
        let letter = self.event(3, 0, 0, None, now);
        self.submit(&[letter], &SubmitOptions::default(), now)?;
        self.observe(Cause::None)?;
        self.ack_hand(hand)?;
        self.tell_all()
    }

    fn drop_hand(&mut self, hand: usize, late: bool) -> Verdict {
        drop(self.hand(hand));
        if late { Ok(()) } else { self.tell_all() }
    }

    fn progress(&mut self, hand: usize) -> Verdict {
        if self.hands.is_empty() {
            return Ok(());
        }
        let hand = hand % self.hands.len();
        let (chunk, bit) = (self.hands[hand].chunk, self.hands[hand].bit);
        let lease = self.lease(chunk, bit);
        let extended = Self::poll(self.hands[hand].delivery.progress())?;
        let now = self.wall();
        match (extended, lease) {
            (Ok(()), Some((group, key))) => {
                let end = now.saturating_add(WAITS[group]);
                if let Some(hold) = self.model.held(group, key, chunk) {
                    (hold.earliest, hold.latest, hold.exact) = (end, end, true);
                }
                Ok(())
            }
            (Err(stale), None) if stale.kind() == ErrorKind::StaleAck => Ok(()),
            (extended, lease) => Err(format!("progress of {lease:?}: {extended:?}")),
        }
    }

    fn tell_all(&mut self) -> Verdict {
        while !lock(&self.stage).calls.is_empty() {
            self.tell(0)?;
        }
        Ok(())
    }

    /// The broker hears of one settlement.
    fn tell(&mut self, call: usize) -> Verdict {
        let call = {
            let calls = &mut lock(&self.stage).calls;
            if calls.is_empty() {
                return Ok(());
            }
            let call = call % calls.len();
            calls.remove(call)
        };
        let now = self.wall();
        match call {
            Some(Call::Settled(member, chunk)) => {
                at(&self.stage, |broker, _, wakers| broker.settled(member, &chunk, wakers));
            }
            Some(Call::Nack(member, chunk, mask, nack)) => {
                at(&self.stage, |broker, now, wakers| {
                    broker.nack(member, &chunk, mask, &nack, now, wakers);
                });
                self.observe(Cause::None)?;
                let until = nack.delay.map(|delay| now.saturating_add(delay));
                for (group, key, id) in self.deliveries(&chunk, mask) {
                    self.model.returned(group, key, id, until, now);
                }
            }
            Some(Call::Dropped(member, chunk, mask)) => {
                at(&self.stage, |broker, _, wakers| {
                    broker.dropped(member, &chunk, mask, wakers);
                });
                for (group, key, id) in self.deliveries(&chunk, mask) {
                    if let Some(hold) = self.model.held(group, key, id) {
                        hold.dropped = true;
                    }
                }
            }
            None => {}
        }
        self.observe(Cause::None)
    }

    fn deliveries(&self, chunk: &Arc<Chunk>, mask: u64) -> Vec<(usize, Key, usize)> {
        let taken = self.chunks.iter().find(|taken| Arc::ptr_eq(&taken.chunk, chunk));
        let Some(taken) = taken.filter(|taken| self.lives[taken.group] == taken.life) else {
            return Vec::new();
        };
        (0..taken.keys.len())
            .filter(|bit| mask & 1 << bit != 0)
            .map(|bit| (taken.group, taken.keys[bit], taken.id))
            .collect()
    }

    // ---- the care of groups and topics ----

    fn redefine(&mut self, group: u8, patterns: u8) -> Verdict {
        let group = usize::from(group) % GROUPS;
        let patterns = self.patterns[usize::from(patterns) % PATTERNS.len()].clone();
        let (name, copy) = (&self.names[group], patterns.clone());
        let done = at(&self.stage, |broker, _, wakers| broker.redefine(name, &copy, wakers));
        self.check_found(group, done.map_err(|error| error.kind()))?;
        self.model.redefine(group, &patterns, &self.exists);
        Ok(())
    }

    fn check_found<T>(&self, group: usize, done: Result<T, ErrorKind>) -> Verdict {
        match (done, self.model.groups[group].is_some()) {
            (Ok(_), true) | (Err(ErrorKind::NotFound), false) => Ok(()),
            (done, exists) => Err(format!("{:?}, and exists: {exists}", done.err())),
        }
    }

    fn reset(&mut self, group: u8, start: Starts) -> Verdict {
        let group = usize::from(group) % GROUPS;
        let Some(state) = &self.model.groups[group] else { return Ok(()) };
        let patterns = state.definition.patterns.clone();
        let (start, begins) = self.begins(start, &patterns);
        let name = &self.names[group];
        let done = at(&self.stage, |broker, now, wakers| broker.reset(name, &start, now, wakers));
        done.map_err(|error| format!("not reset: {error}"))?;
        // What members held is lost to them, whatever was told of it before.
        self.observe_evictions(Cause::None)?;
        let begin = self.model.places(&patterns, &begins, &self.exists);
        self.model.reset(group, &begin);
        self.check_forgotten(group)
    }

    /// Nobody can settle anything of the group any more.
    fn check_forgotten(&mut self, group: usize) -> Verdict {
        let life = self.lives[group];
        for taken in self.chunks.iter_mut().filter(|c| c.group == group && c.life == life) {
            let open = taken.chunk.full_mask() & !taken.chunk.closed();
            ensure!(open == 0, "chunk {} is still open: {open:b}", taken.id);
            taken.closed = taken.chunk.full_mask();
        }
        Ok(())
    }

    fn delete(&mut self, group: u8) -> Verdict {
        let group = usize::from(group) % GROUPS;
        let name = &self.names[group];
        let done = at(&self.stage, |broker, _, wakers| broker.delete(name, wakers));
        self.check_found(group, done.map_err(|error| error.kind()))?;
        if self.model.groups[group].take().is_some() {
            self.check_forgotten(group)?;
            self.lives[group] += 1;
        }
        Ok(())
    }

    fn send(&mut self, group: u8, count: usize, delay: u8, attempt: u8, priority: u8) -> Verdict {
        let group = usize::from(group) % GROUPS;
        let now = self.now();
        let delay = match delay % 6 {
            4 => Some(Duration::from_millis(20)),
            5 => Some(Duration::from_secs(2)),
            _ => None,
        };
        let due = delay.map(|delay| now.instant + delay);
        let attempt = u32::from(attempt % 4);
        for _ in 0..1 + count % 3 {
            let event = self.event(1, priority, 0, None, now);
            let number = self.sent.len() - 1;
            let name = &self.names[group];
            let sent = at(&self.stage, |broker, now, wakers| {
                let inbox = broker.inbox(name)?;
                let bytes = kept_size(&event);
                let room = broker.make_room(inbox, 1, bytes, &now, wakers);
                if room.is_ok() {
                    broker.send(name, inbox, event, due, attempt, now, wakers);
                }
                Ok(room.map_err(|blocked| blocked.policy))
            });
            let room = sent.as_ref().map(|_| ()).map_err(|error: &Error| error.kind());
            self.check_found(group, room)?;
            self.observe_inbox(group)?;
            let Ok(room) = sent else { continue };
            let Some(state) = &self.model.groups[group] else { continue };
            match room {
                Ok(()) => {
                    let until = delay.map(|delay| now.wall.saturating_add(delay));
                    self.model.send(group, number, attempt, until)?;
                }
                Err(policy) => {
                    let kept = state.items.range((INBOX, 0)..).next();
                    let oldest = kept.map_or(u64::MAX, |(key, _)| key.1);
                    let first = self.inbox_first(group);
                    ensure!(
                        policy == state.when_full && oldest < first + self.model.segment(),
                        "the inbox is full: {policy:?}, {oldest} of {first}"
                    );
                }
            }
        }
        Ok(())
    }

    fn inbox_first(&self, group: usize) -> u64 {
        inbox(&lock(&self.stage).broker, &self.names[group]).0
    }

    /// What the inbox lost for room.
    fn observe_inbox(&mut self, group: usize) -> Verdict {
        let first = self.inbox_first(group);
        let Some(state) = self.model.groups[group].as_mut() else { return Ok(()) };
        let gone: Vec<Key> =
            state.items.range((INBOX, 0)..(INBOX, first)).map(|(k, _)| *k).collect();
        for key in gone {
            let free = matches!(state.items[&key].state, State::Free(_) | State::Delayed(_));
            ensure!(state.when_full == WhenFull::DropOldest, "{key:?} is evicted from the inbox");
            if free {
                state.items.remove(&key);
                state.lag.missed(false);
            }
        }
        state.inbox_first = state.inbox_first.max(first);
        Ok(())
    }

    fn subscribe(
        &mut self,
        patterns: u8,
        start: Starts,
        policy: u8,
        bound: u8,
        client: u8,
    ) -> Verdict {
        let patterns = self.patterns[usize::from(patterns) % PATTERNS.len()].clone();
        let (start, begins) = self.begins(start, &patterns);
        let mut options = SubscribeOptions::new(patterns.clone());
        options.start = Some(start);
        options.when_full = POLICIES.get(usize::from(policy) % 8).copied();
        let bound = PREFETCH[usize::from(bound) % PREFETCH.len()];
        options.prefetch = bound.filter(|_| !self.setup.ttl);
        let client = self.clients[usize::from(client) % 2];
        let index = at(&self.stage, |broker, now, _| broker.subscribe(client, &options, now));
        let index = index.map_err(|error| format!("not subscribed: {error}"))?;
        self.observe_evictions(Cause::None)?;
        let begin = self.model.places(&patterns, &begins, &self.exists);
        let id = self.seatings.len();
        let when_full = options.when_full.unwrap_or(WhenFull::DropOldest);
        self.model.subscribe(id, patterns, when_full, options.prefetch, &begin);
        self.sit(client, None, 0, Place::Plain(index));
        Ok(())
    }

    fn trim(&mut self, topic: usize, how: u8) -> Verdict {
        let topic = topic % TOPICS.len();
        let name = self.topics[topic].clone();
        let stream = &self.model.topics[topic];
        let (first, next) = (stream.first, stream.next());
        let now = self.wall();
        let (trim, before) = match (how % 4, self.incarnations[topic]) {
            (1, _) => {
                let keep = u64::from(how / 4 % 5);
                (Some(Trim::Keep(keep)), next.saturating_sub(keep))
            }
            (2, Some(incarnation)) if next > 0 => {
                let number = u64::from(how / 4) % next;
                let position = Position::new(name.clone(), incarnation, number.into());
                (Some(Trim::Before(position)), number)
            }
            (3, _) => {
                let time = now.saturating_sub(Duration::from_millis(u64::from(how) * 4));
                let begins = Begins::Time(time);
                let all = self.patterns[usize::from(topic == 3) * 4 + 2].clone();
                let places = self.model.places(&all, &begins, &[true; TOPICS.len()]);
                let found = places.iter().find(|(of, _)| *of == topic).map(|(_, from)| *from);
                (Some(Trim::Older(time)), found.unwrap_or(next))
            }
            _ => (None, next),
        };
        let done = at(&self.stage, |broker, _, wakers| broker.trim(&name, trim.as_ref(), wakers));
        let expected = if self.exists[topic] {
            Ok(before.saturating_sub(first))
        } else {
            Err(ErrorKind::NotFound)
        };
        let done = done.map_err(|error| error.kind());
        ensure!(done == expected, "trimmed {done:?}, not {expected:?}");
        self.observe(Cause::Trim(topic))
    }

    // ---- clients ----

    fn stop(&mut self, client: u8) -> Verdict {
        let which = usize::from(client) % 2;
        let client = self.clients[which];
        self.clients[which] = self.next_client;
        self.next_client += 1;
        let held = at(&self.stage, |broker, _, wakers| broker.stop_client(client, wakers));
        let mut chunks = Vec::new();
        for seat in self.seats.iter().filter(|seat| seat.client == client) {
            self.seatings[seat.id] = Seating::Stopped;
            self.model.plains.remove(&seat.id);
            chunks.extend(self.chunks.iter().filter(|c| c.seat == seat.id).map(|c| c.id));
        }
        self.observe(Cause::None)?;
        self.stopped.push((held, chunks));
        self.count_held()
    }

    /// As many are open as those who close wait for.
    fn count_held(&self) -> Verdict {
        for (held, chunks) in &self.stopped {
            let of = |chunk: &usize| chunks.contains(chunk);
            let items = self.model.groups.iter().flatten().flat_map(|g| g.items.values());
            let open = items.filter(|item| match &item.state {
                State::Held(hold) => of(&hold.chunk),
                State::Returning { chunk, .. } => of(chunk),
                _ => false,
            });
            let (open, counted) = (open.count(), lock(&self.stage).broker.count_held(held));
            ensure!(open == counted, "{counted} are held, not {open}");
        }
        Ok(())
    }

    fn take_back(&mut self) -> Verdict {
        let Some((held, chunks)) = self.stopped.pop() else { return Ok(()) };
        at(&self.stage, |broker, _, wakers| broker.take_back(&held, wakers));
        for taken in &mut self.chunks {
            taken.reclaimed |= chunks.contains(&taken.id);
        }
        Ok(())
    }

    // ---- time ----

    fn pass(&mut self, time: u8, lazy: bool) -> Verdict {
        let millis = [0, 1, 3, 10, 25, 70, 100, 160, 400, 800, 1600, 2500];
        let millis = millis[usize::from(time) % millis.len()];
        self.pass_for(Duration::from_millis(millis), lazy)
    }

    fn pass_for(&mut self, time: Duration, lazy: bool) -> Verdict {
        let target = self.now().instant + time;
        let mut steps = 0;
        loop {
            if lazy {
                break;
            }
            let next = lock(&self.stage).broker.next_event();
            let Some(next) = next.filter(|next| *next <= target) else { break };
            // As readers' timers ring.
            self.reach(next.max(self.now().instant), false)?;
            steps += 1;
            ensure!(steps < 5000, "timers ring without end");
        }
        self.reach(target, lazy)
    }

    fn reach(&mut self, instant: Instant, lazy: bool) -> Verdict {
        let now = Now { instant, wall: wall_at(instant) };
        lock(&self.stage).now = now;
        at(&self.stage, |_, _, _| ());
        if lazy {
            for (n, group) in self.model.groups.iter_mut().enumerate() {
                let items = group.iter_mut().flat_map(|group| group.items.values_mut());
                for item in items {
                    if let State::Held(hold) = &mut item.state
                        && hold.handed
                        && !hold.exact
                    {
                        // It is looked at only now.
                        hold.latest = hold.latest.max(now.wall.saturating_add(WAITS[n]));
                    }
                }
            }
        }
        self.observe(Cause::None)?;
        self.model.pass(now.wall);
        for group in self.model.groups.iter().flatten() {
            for (key, item) in &group.items {
                if let State::Held(hold) = &item.state {
                    let over = hold.latest <= now.wall;
                    ensure!(!over, "the lease on {key:?} does not end: {hold:?} at {}", now.wall);
                }
            }
        }
        Ok(())
    }

    // ---- what must hold ----

    /// Notes what the broker did by itself, and whether it might.
    fn observe(&mut self, cause: Cause) -> Verdict {
        self.observe_revoked()?;
        self.observe_evictions(cause)
    }

    fn observe_evictions(&mut self, cause: Cause) -> Verdict {
        let now = self.wall();
        let firsts: Vec<u64> = {
            let broker = &lock(&self.stage).broker;
            let first = |topic: &Topic| {
                broker.by_name.get(topic).map_or(0, |index| broker.streams.peek(*index).first())
            };
            self.topics.iter().map(first).collect()
        };
        for (topic, first) in firsts.into_iter().enumerate() {
            self.model.evict(topic, first, cause, now)?;
        }
        Ok(())
    }

    fn observe_revoked(&mut self) -> Verdict {
        let now = self.wall();
        for taken in &mut self.chunks {
            let revoked = taken.chunk.closed() & !taken.closed;
            taken.closed |= revoked;
            if self.lives[taken.group] != taken.life {
                continue;
            }
            let seating = self.seatings[taken.seat];
            for (bit, key) in taken.keys.iter().enumerate() {
                let hold = self.model.held(taken.group, *key, taken.id).map(|hold| hold.clone());
                let back = hold.as_ref().is_some_and(|hold| !hold.handed || hold.dropped);
                let may = taken.reclaimed || (seating != Seating::Taken && back);
                if revoked & 1 << bit != 0 {
                    self.model.revoked(taken.group, *key, taken.id, may, now)?;
                } else if let Some(hold) = hold {
                    let must = taken.reclaimed
                        || (seating == Seating::Left && back)
                        || (seating == Seating::Stopped && !hold.handed);
                    ensure!(!must, "{key:?} stays with one who has gone: {hold:?}");
                }
            }
        }
        self.chunks.retain(|taken| {
            taken.closed != taken.chunk.full_mask() || Arc::strong_count(&taken.chunk) > 1
        });
        Ok(())
    }

    fn check(&mut self) -> Verdict {
        self.check_wakers()?;
        self.check_topics()?;
        self.check_groups()?;
        self.count_held()
    }

    /// Nobody sleeps who has something to do.
    fn check_wakers(&mut self) -> Verdict {
        let now = self.wall();
        for seat in self.seats.iter().filter(|seat| seat.parked && !seat.flag.is_woken()) {
            let id = seat.id;
            match seat.group {
                _ if self.seatings[id] != Seating::Taken => {
                    return Err(format!("{id} sleeps, and its client has stopped"));
                }
                // The broker has yet to hear of what makes room for it.
                Some(_) if self.has_untold(seat.member) => {}
                Some((group, life)) => {
                    let gone = self.lives[group] != life;
                    let waits = gone || self.model.has_something(group, id, seat.prefetch, now);
                    ensure!(!waits, "member {id} sleeps, and something is there");
                }
                None => {
                    ensure!(!self.model.is_behind(id, now), "plain {id} sleeps, and is behind");
                }
            }
        }
        // Room that comes by age alone wakes nobody.
        if self.setup.age || !lock(&self.stage).calls.is_empty() {
            return Ok(());
        }
        for topic in 0..self.topics.len() {
            let bytes = self.check_room(topic)?;
            self.observe_evictions(Cause::Room(topic, 1, bytes))?;
        }
        Ok(())
    }

    /// Whether settlements of a member have not reached the broker.
    fn has_untold(&self, member: Option<Member>) -> bool {
        let same =
            |of: &Member| member.is_some_and(|m| m.serial == of.serial && m.index == of.index);
        lock(&self.stage).calls.iter().any(|call| match call {
            Call::Settled(of, _) | Call::Nack(of, ..) | Call::Dropped(of, ..) => same(of),
        })
    }

    /// Whoever is first in line to publish and sleeps has no room.
    fn check_room(&self, topic: usize) -> Verdict<usize> {
        let stage = &mut *lock(&self.stage);
        let broker = &mut stage.broker;
        let name = &self.topics[topic];
        let Some(index) = broker.by_name.get(name).copied() else { return Ok(0) };
        let Some((ticket, Some(_))) = broker.readers[index].waiting.front() else { return Ok(0) };
        let mut waiting = self.publishers.iter();
        let first = waiting.find(|publisher| publisher.line.ticket() == Some((index, *ticket)));
        let event = first.and_then(|publisher| publisher.events.front());
        let bytes = event.map_or(0, kept_size);
        let room = broker.make_room(index, 1, bytes, &stage.now, &mut Wakers::new());
        ensure!(room.is_err(), "a publisher to {name} waits, and there is room");
        Ok(bytes)
    }

    fn check_topics(&self) -> Verdict {
        let broker = &lock(&self.stage).broker;
        for (n, topic) in self.model.topics.iter().enumerate() {
            let index = broker.by_name.get(&topic.name).copied();
            ensure!(index.is_some() == self.exists[n], "{} is there: {index:?}", topic.name);
            let Some(index) = index else { continue };
            let stream = broker.streams.peek(index);
            let bytes: usize = topic.stored[topic.first as usize..]
                .iter()
                .map(|(event, _)| self.model.facts[*event].bytes)
                .sum();
            let later = topic.scheduled.iter().map(|later| self.model.facts[later.event].bytes);
            let expected = (topic.next(), topic.kept(), bytes);
            let found = (stream.next(), stream.len(), stream.bytes());
            ensure!(found == expected, "{}: {found:?}, not {expected:?}", topic.name);
            let expected = (topic.scheduled.len(), later.sum::<usize>());
            let found = (stream.scheduled, stream.scheduled_bytes);
            ensure!(found == expected, "{} has {found:?} to come, not {expected:?}", topic.name);
            let waiting = broker.readers[index].waiting.len();
            let to = |p: &&Publisher| p.events.front().is_some_and(|e| *e.topic() == topic.name);
            let expected = self.publishers.iter().filter(to).count();
            ensure!(waiting == expected, "{waiting} publishers wait, not {expected}");
        }
        Ok(())
    }

    /// What is told of each group is what the model knows.
    fn check_groups(&self) -> Verdict {
        let now = self.wall();
        let broker = &lock(&self.stage).broker;
        for (group, name) in self.names.iter().enumerate() {
            let info = broker.group_info(name);
            let Some(state) = &self.model.groups[group] else {
                ensure!(info.is_err(), "{name} is there");
                continue;
            };
            let info = info.map_err(|error| error.to_string())?;
            ensure!(info.definition == state.definition, "{name} is {:?}", info.definition);
            let seated = |seat: &&Seat| seat.group == Some((group, self.lives[group]));
            let members = self.seats.iter().filter(seated).count() as u64;
            ensure!(info.members == members, "{name} has {} members, not {members}", info.members);
            for topic in (0..self.topics.len()).chain([INBOX]) {
                let [fresh, pending] = self.model.lag_of(group, topic, now);
                let inbox = format!("_fabric.to.{name}");
                let at = self.topics.get(topic).map_or(inbox.as_str(), Topic::as_str);
                let found = info.lag.iter().find(|lag| lag.topic.as_str() == at);
                let (undelivered, held) = found.map_or((0, 0), |l| (l.undelivered, l.pending));
                ensure!(
                    (fresh.0..=fresh.1).contains(&undelivered)
                        && (pending.0..=pending.1).contains(&held),
                    "{name} has {undelivered} and {held} in {at}, not {fresh:?} and {pending:?}"
                );
            }
        }
        Ok(())
    }

    // ---- the end ----

    /// Everything is received and settled, and nothing is left over.
    pub(super) fn drain(&mut self) -> Verdict {
        self.tell_all()?;
        while !self.stopped.is_empty() {
            self.take_back()?;
            self.observe(Cause::None)?;
        }
        for group in 0..GROUPS {
            let life = self.lives[group];
            let seated = self.seats.iter().any(|seat| {
                seat.group == Some((group, life)) && self.seatings[seat.id] == Seating::Taken
            });
            if self.model.groups[group].is_some() && !seated {
                self.join(group as u8, 0, Starts::New, 0, 11, 0, false)?;
            }
        }
        let mut rounds = 0;
        loop {
            let mut seat = 0;
            while seat < self.seats.len() {
                let count = self.seats.len();
                while seat < self.seats.len() && self.receive(seat)? {}
                seat += usize::from(self.seats.len() == count);
            }
            let some = !self.hands.is_empty();
            while !self.hands.is_empty() {
                self.ack(0, 7, false)?;
            }
            for _ in 0..self.publishers.len() {
                self.run_one(0)?;
                if rounds > 20 {
                    // Dead letters without a reader stay until somebody deals with them.
                    self.give_up(0)?;
                }
            }
            if some {
                continue;
            }
            self.step(&Op::Pass { time: 9, lazy: false })?;
            let now = self.wall();
            let waiting = self.model.topics.iter().any(|topic| !topic.scheduled.is_empty());
            let done = (0..GROUPS).all(|group| self.model.is_drained(group, now));
            if done && !waiting && self.publishers.is_empty() {
                break;
            }
            rounds += 1;
            ensure!(rounds < 60, "it does not come to an end: {:?}", self.model.groups);
        }
        for seat in 0..self.seats.len() {
            while self.receive(seat)? {}
        }
        // Later than any timer.
        self.pass_for(Duration::from_secs(10), false)?;
        self.check()?;
        self.check_nothing_left()
    }

    fn check_nothing_left(&mut self) -> Verdict {
        let stage = &mut *lock(&self.stage);
        ensure!(stage.broker.next_event().is_none(), "timers are left");
        let figures = stage.broker.figures();
        let inboxes = (0..GROUPS).filter(|g| self.model.groups[*g].is_some());
        let inboxes: u64 = inboxes.map(|g| inbox(&stage.broker, &self.names[g]).1).sum();
        let kept: usize = self.model.topics.iter().map(TopicModel::kept).sum();
        let expected = ("events", kept + inboxes as usize);
        ensure!(figures[3] == expected, "{figures:?}, not {expected:?}");
        for (_, state) in stage.broker.groups.iter() {
            state.check_empty().map_err(|left| format!("{}: {left}", state.name))?;
        }
        for group in self.model.groups.iter().flatten() {
            ensure!(group.lag.is_told(), "a lag is never told: {:?}", group.lag);
        }
        Ok(())
    }
}
