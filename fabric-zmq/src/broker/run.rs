//! The loop of the broker.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fabric_core::Result;
use fabric_core::wire::Known;
use fabric_core::wire::block::{self, Block, Kind, Stamp};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;
use uuid::Uuid;
use zmq::{Context, DONTWAIT, PollEvents, PollItem, Socket, SocketType};

use super::config::BrokerConfig;
use super::counts::{Counts, Shared};
use super::door::Door;
use super::responders::{Responders, Way};
use super::side::Side;
use crate::config::BrokerAddress;
use crate::control::{self, Registration};
use crate::error::from_zmq;
use crate::parts::Parts;
use crate::publish::send_frames;
use crate::socket::{Tuning, millis};
use crate::sys::{self, PublishOption};
use crate::track::{Seen, Track};

/// How many messages are taken from one socket before the others have their turn.
const TURN: usize = 1000;
/// How often the loop turns when there is nothing to do.
const IDLE: Duration = Duration::from_millis(100);
/// For how long publishers have to be silent before a stop believes that they are done.
const SILENCE: Duration = Duration::from_millis(50);
/// How often linked brokers are told who answers what here.
const LINK_BEAT: Duration = Duration::from_secs(1);

/// What the loop is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// To end within this time.
    Stop(Duration),
}

impl Command {
    pub(super) fn write(self) -> [u8; 8] {
        let Self::Stop(deadline) = self;
        u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).to_le_bytes()
    }

    fn read(bytes: &[u8]) -> Self {
        let millis = bytes.try_into().map_or(0, u64::from_le_bytes);
        Self::Stop(Duration::from_millis(millis))
    }
}

/// The broker, inside its thread.
pub(super) struct Run {
    id: Uuid,
    frontend: Socket,
    backend: Socket,
    links: Option<Links>,
    control: Socket,
    door: Option<Door>,
    /// Publishers', subscribers'.
    sides: [Side; 2],
    address: BrokerAddress,
    link_address: Option<String>,
    counts: Counts,
    responders: Responders,
    shared: Arc<Shared>,
    stop: Option<Stop>,
    spoken: Instant,
    /// The sockets' signals: frontend, backend, and those that are looked at when they signal.
    signals: SmallVec<[RawFd; 8]>,
    /// One of the others has signalled, and when they are looked at anyway.
    look: Cell<bool>,
    next_look: Instant,
}

/// The sockets that link brokers, and what came by them.
struct Links {
    /// Others read from here what this broker's own publishers send.
    out: Socket,
    /// What others' publishers send.
    into: Socket,
    tracks: HashMap<Vec<u8>, Track, RandomState>,
    max_topics: usize,
    tick: u64,
    told: Instant,
}

/// A stop that was asked for.
#[derive(Clone, Copy)]
struct Stop {
    asked: Instant,
    until: Instant,
    /// Whether publishers were cut off already.
    cut: bool,
}

/// Where a message came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Publisher,
    Link,
}

impl Run {
    /// Opens and binds everything.
    pub(super) fn prepare(
        context: &Context,
        config: &BrokerConfig,
        control: Socket,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let wrap = |error| from_zmq(error, "starting the broker");
        let tuning = Tuning {
            hwm: i32::try_from(config.hwm).unwrap_or(i32::MAX),
            max_frame: i64::try_from(config.max_message).unwrap_or(i64::MAX),
            link_timeout: config.link_timeout,
            reconnect: (Duration::from_millis(50), Duration::from_millis(500)),
        };
        let frontend = tuning.open(context, SocketType::XSUB)?;
        let mut backend = tuning.open(context, SocketType::XPUB)?;
        sys::switch_on(&mut backend, PublishOption::Verbose).map_err(wrap)?;
        let door = Door::open(context, config)?;
        if door.is_some() {
            Door::guard([&frontend, &backend])?;
        }
        if let Some(keys) = &config.keys {
            keys.serve(&frontend)?;
            keys.serve(&backend)?;
        }
        let sides = [Side::watch(context, &frontend)?, Side::watch(context, &backend)?];
        let address = BrokerAddress {
            backend: bind(&backend, &config.backend)?,
            frontend: bind(&frontend, &config.frontend)?,
        };
        // Publishers send everything: who wants what is decided here.
        frontend.send(&b"\x01"[..], 0).map_err(wrap)?;
        let now = Instant::now();
        let mut link_address = None;
        let links = if config.link_bind.is_some() || !config.links.is_empty() {
            let mut out = tuning.open(context, SocketType::XPUB)?;
            sys::switch_on(&mut out, PublishOption::Verbose).map_err(wrap)?;
            if let Some(at) = &config.link_bind {
                link_address = Some(bind(&out, at)?);
            }
            let into = tuning.open(context, SocketType::SUB)?;
            into.set_subscribe(b"").map_err(wrap)?;
            for other in &config.links {
                let text = format!("linking with {other}");
                into.connect(other).map_err(|error| from_zmq(error, &text))?;
            }
            let max_topics = config.max_topics;
            let tracks = HashMap::default();
            Some(Links { out, into, tracks, max_topics, tick: 0, told: now })
        } else {
            None
        };
        let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
        let others = [&control, &sides[0].monitor.socket, &sides[1].monitor.socket];
        let linked = links.iter().flat_map(|links| [&links.into, &links.out]);
        let signals = [&frontend, &backend]
            .into_iter()
            .chain(others)
            .chain(door.iter().map(|door| &door.socket))
            .chain(linked)
            .map(|socket| socket.get_fd().map_err(wrap))
            .collect::<Result<_>>()?;
        Ok(Self {
            id,
            frontend,
            backend,
            links,
            control,
            door,
            sides,
            address,
            link_address,
            counts: Counts::new(config.max_topics),
            responders: Responders::default(),
            shared,
            stop: None,
            spoken: now,
            signals,
            look: Cell::new(true),
            next_look: now,
        })
    }

    pub(super) fn address(&self) -> BrokerAddress {
        self.address.clone()
    }

    pub(super) fn link_address(&self) -> Option<String> {
        self.link_address.clone()
    }

    /// Turns until it is told to stop.
    pub(super) fn until_stopped(mut self) {
        // Whether everything was taken: only then does libzmq signal what comes.
        let mut drained = true;
        let mut parts = Parts::new();
        let end = loop {
            let now = Instant::now();
            self.cut_off(now, drained);
            if let Some(Stop { until, cut, .. }) = self.stop
                && (now >= until || cut && now - self.spoken > SILENCE)
            {
                self.shared.drained.store(now < until, Ordering::Release);
                break until;
            }
            let nap = if self.stop.is_some() { Duration::from_millis(5) } else { IDLE };
            if drained {
                self.wait(nap);
            }
            // Subscriptions first: what is published after one is answered has to find it.
            drained = self.hear();
            drained &= self.carry(&mut parts);
            drained &= self.carry_links(&mut parts);
            self.look_around();
        };
        let linger = millis(end.saturating_duration_since(Instant::now()));
        let _ = self.backend.set_linger(linger);
        if let Some(links) = &self.links {
            let _ = links.out.set_linger(linger);
        }
        self.counts.show(&self.shared, Instant::now(), true);
        self.shared.running.store(false, Ordering::Release);
        tracing::info!(messages = self.counts.stats.messages, "the broker has stopped");
    }

    /// Waits for the signals of all sockets at once. Asking libzmq for the state of each would cost a
    /// system call a socket, every time.
    fn wait(&self, most: Duration) {
        let mut items: SmallVec<[_; 8]> = SmallVec::new();
        items.extend(self.signals.iter().map(|fd| PollItem::from_fd(*fd, PollEvents::POLLIN)));
        // An interrupted wait is one that ended early.
        let _ = zmq::poll(&mut items, i64::from(millis(most)));
        self.look.set(self.look.get() || items[2..].iter().any(PollItem::is_readable));
    }

    /// Takes subscriptions, and does what some of them ask for; says whether those were all.
    fn hear(&mut self) -> bool {
        for _ in 0..TURN {
            let Ok(frame) = self.backend.recv_bytes(DONTWAIT) else { return true };
            let Some((&first, subscription)) = frame.split_first() else { continue };
            let on = first == 1;
            if !subscription.starts_with(b"_fabric.") {
                let count = &mut self.counts.stats.subscriptions;
                *count = if on { *count + 1 } else { count.saturating_sub(1) };
            } else if let Some(number) = control::number(subscription, control::SYNC) {
                if on {
                    self.mark(number);
                }
            } else if subscription.starts_with(control::LIST.as_bytes()) {
                if on {
                    self.ask_publishers(subscription);
                }
            } else if let Some(registration) = Registration::read(subscription) {
                match on {
                    true => self.responders.add(registration),
                    false => self.responders.remove(&registration),
                }
                self.counts.stats.responders = self.responders.len() as u64;
            }
        }
        false
    }

    /// Tells a subscriber that what it had subscribed to before is in force.
    fn mark(&self, number: Uuid) {
        let topic = control::numbered(control::SYNC, number);
        self.say(&self.backend, &topic, (Kind::Marker, 0), &[]);
    }

    /// Passes on that every publisher is to tell of all its topics.
    fn ask_publishers(&self, subscription: &[u8]) {
        for first in [1, 0] {
            let mut frame = vec![first];
            frame.extend_from_slice(subscription);
            let _ = self.frontend.send(frame, DONTWAIT);
        }
    }

    /// Says something of the broker's own.
    fn say(&self, socket: &Socket, topic: &str, (kind, sequence): (Kind, u64), payload: &[u8]) {
        let mut bytes = Vec::with_capacity(block::PREAMBLE);
        let stamp = Stamp { kind, publisher: *self.id.as_bytes(), sequence };
        if block::write_bare(&mut bytes, stamp, payload.len()).is_ok() {
            let _ = send_frames(socket, topic, &bytes, payload);
        }
    }

    /// Carries what publishers send; says whether that was all there is.
    fn carry(&mut self, parts: &mut Parts) -> bool {
        for n in 0..TURN {
            if !parts.receive(&mut self.frontend) {
                return true;
            }
            if n == 0 {
                self.spoken = Instant::now();
            }
            self.counts.stats.messages += 1;
            self.carry_one(parts, From::Publisher);
        }
        false
    }

    fn carry_links(&mut self, parts: &mut Parts) -> bool {
        let mut drained = false;
        for _ in 0..TURN {
            let Some(links) = &mut self.links else { return true };
            if !parts.receive(&mut links.into) {
                drained = true;
                break;
            }
            self.counts.stats.linked += 1;
            self.carry_one(parts, From::Link);
        }
        let Some(links) = &self.links else { return true };
        while let Ok(frame) = links.out.recv_bytes(DONTWAIT) {
            if frame.first() == Some(&1) && frame[1..].starts_with(control::LIST.as_bytes()) {
                self.ask_publishers(&frame[1..]);
            }
        }
        drained
    }

    /// Carries one message.
    fn carry_one(&mut self, parts: &mut Parts, from: From) {
        let count = parts.count();
        if !(2..=3).contains(&count) {
            // None of ours has one frame or so many; nobody could read it.
            self.counts.stats.foreign += 1;
            return;
        }
        let bytes = parts.len() as u64;
        self.counts.stats.bytes += bytes;
        let topic = parts.topic();
        if topic.first() == Some(&b'_')
            && (topic.starts_with(b"_fabric.") || topic.starts_with(b"_reply."))
        {
            self.counts.stats.control += 1;
            if count == 3 {
                self.control(parts, from);
            }
            return;
        }
        let events = match count {
            3 => count_blocks(parts.blocks()),
            // The payload alone, by a program that knows nothing of events.
            _ => Some(1),
        };
        let Some(events) = events else {
            // It is carried all the same: whoever reads it is told that it is no event.
            self.counts.stats.foreign += 1;
            self.forward(parts, from);
            return;
        };
        if self.links.is_some() && count == 3 && self.came_before(topic, parts.blocks()) {
            self.counts.stats.duplicates += 1;
            return;
        }
        self.counts.stats.events += events;
        let counts = self.counts.topic(topic);
        counts.events += events;
        counts.bytes += bytes;
        self.forward(parts, from);
    }

    /// To this broker's subscribers, and what its own publishers sent to linked brokers.
    fn forward(&mut self, parts: &mut Parts, from: From) {
        if let (Some(links), From::Publisher) = (&self.links, from) {
            let _ = parts.send_copy(&links.out);
        }
        // A subscriber whose queue is full loses it, and sees that by the sequences.
        let _ = parts.send(&mut self.backend);
    }

    /// Whether the first event of a message came already, by another way.
    fn came_before(&mut self, topic: &[u8], blocks: &[u8]) -> bool {
        let Some(links) = &mut self.links else { return false };
        links.tick += 1;
        if links.tracks.len() >= links.max_topics && !links.tracks.contains_key(topic) {
            return false;
        }
        let track = links.tracks.entry_ref(topic).or_default();
        let mut rest = blocks;
        let mut before = false;
        while let Ok((block, behind)) = Block::parse(rest) {
            let Stamp { publisher, sequence, .. } = block.stamp();
            before |= track.event(&publisher, sequence, links.tick, || None) == Seen::Duplicate;
            rest = behind;
        }
        before
    }

    /// A message of Fabric's own.
    fn control(&mut self, parts: &mut Parts, from: From) {
        let (topic, block, payload) = (parts.topic(), parts.blocks(), parts.payload());
        if topic == control::REQUEST.as_bytes() {
            self.route(block, payload, from);
            return;
        }
        if let Some(rest) = topic.strip_prefix(control::LINK.as_bytes()) {
            match (from, rest) {
                (From::Link, []) => {
                    if let Ok((block, _)) = Block::parse(block) {
                        let broker = Uuid::from_bytes(block.stamp().publisher);
                        let list = String::from_utf8_lossy(payload);
                        self.responders.told(broker, &list, Instant::now());
                    }
                }
                (From::Link, [b'.', number @ ..])
                    if Uuid::try_parse_ascii(number).ok() == Some(self.id) =>
                {
                    self.route(block, payload, from);
                }
                _ => {}
            }
            return;
        }
        self.forward(parts, from);
    }

    /// A request goes to one responder, here or at a linked broker, or comes back.
    fn route(&mut self, second: &[u8], third: &[u8], from: From) {
        let Ok((block, _)) = Block::parse(second) else {
            self.counts.stats.foreign += 1;
            return;
        };
        let stamp = block.stamp();
        let topic = block.find(Known::Topic).and_then(|topic| std::str::from_utf8(topic).ok());
        let now = (from == From::Publisher).then(Instant::now);
        let way = topic.and_then(|topic| self.responders.find(topic, now));
        match way {
            Some(Way::Here(address)) => {
                self.counts.stats.requests += 1;
                let _ = send_frames(&self.backend, &address, second, third);
            }
            Some(Way::There(broker)) => {
                self.counts.stats.requests += 1;
                let topic = format!("{}.{broker}", control::LINK);
                if let Some(links) = &self.links {
                    let _ = send_frames(&links.out, &topic, second, third);
                }
            }
            None => {
                self.counts.stats.unanswered += 1;
                let caller = Uuid::from_bytes(stamp.publisher);
                let topic = control::numbered(control::REPLY, caller);
                let kind = (Kind::NoResponders, stamp.sequence);
                self.say(&self.backend, &topic, kind, &[]);
                if let (Some(links), From::Link) = (&self.links, from) {
                    self.say(&links.out, &topic, kind, &[]);
                }
            }
        }
    }

    /// Connections, questions at the door, the others, the clock.
    fn look_around(&mut self) {
        let now = Instant::now();
        self.shared.turn(now);
        let asked = self.shared.asked.swap(false, Ordering::AcqRel);
        self.counts.show(&self.shared, now, asked);
        if !self.look.replace(false) && now < self.next_look && !self.responders.changed {
            return;
        }
        self.next_look = now + IDLE;
        let stats = &mut self.counts.stats;
        stats.refused += self.sides.iter_mut().map(Side::look).sum::<u64>();
        if let Some(door) = &self.door {
            stats.refused += door.answer(&mut self.sides, now);
        }
        stats.publishers = self.sides[0].connected();
        stats.subscribers = self.sides[1].connected();
        if let Some(links) = &mut self.links
            && (self.responders.changed || now - links.told > LINK_BEAT)
        {
            links.told = now;
            let list = self.responders.write();
            if let Some(links) = &self.links {
                self.say(&links.out, control::LINK, (Kind::Marker, 0), list.as_bytes());
            }
        }
        if self.stop.is_none()
            && let Ok(command) = self.control.recv_bytes(DONTWAIT)
        {
            let Command::Stop(deadline) = Command::read(&command);
            self.stop = Some(Stop { asked: now, until: now + deadline, cut: false });
            self.spoken = now;
        }
    }

    /// Cuts publishers off once what they had sent when the stop was asked for was taken: what they
    /// send later goes to another broker, or is told to be missing. Subscribers stay, to get the rest.
    fn cut_off(&mut self, now: Instant, drained: bool) {
        if let Some(stop) = &mut self.stop
            && drained
            && !stop.cut
            && now - stop.asked > SILENCE
        {
            stop.cut = true;
            let _ = self.frontend.unbind(&self.address.frontend);
        }
    }
}

/// How many blocks there are one behind the other; `None` if they are none.
fn count_blocks(mut bytes: &[u8]) -> Option<u64> {
    let mut count = 0;
    while !bytes.is_empty() {
        bytes = Block::parse(bytes).ok()?.1;
        count += 1;
    }
    (count > 0).then_some(count)
}

/// Listens, and says where: with the port that was found for `*`.
fn bind(socket: &Socket, endpoint: &str) -> Result<String> {
    let text = format!("listening on {endpoint}");
    socket.bind(endpoint).map_err(|error| from_zmq(error, &text))?;
    let bound = socket.get_last_endpoint().map_err(|error| from_zmq(error, &text))?;
    Ok(bound.unwrap_or_else(|_| endpoint.to_owned()))
}
