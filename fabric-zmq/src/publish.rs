//! Publishing: events become messages, in order, within a bound.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fabric_core::wire::block::{self, Kind, Stamp};
use fabric_core::{
    Batch, Confirms, Error, ErrorKind, Event, NoticeKind, NoticeSender, Outcomes, Patterns,
    Receipt, Result, RetryClass, Topic,
};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;
use zmq::{DONTWAIT, SNDMORE, Socket};

use crate::config::ZmqConfig;
use crate::control;
use crate::error::{closed, from_zmq, full};
use crate::sequence::Sequences;

/// How long a publisher that waits for room relies on being woken: the signal may have been taken
/// by another call into the same socket.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The publishing side of a client.
pub(crate) struct Publisher {
    pub(crate) id: Uuid,
    /// Whether a broker is on the other side, so that nothing may be dropped here.
    brokered: bool,
    raw: bool,
    max_payload: usize,
    batch_count: usize,
    batch_bytes: usize,
    linger: Duration,
    full_wait: Duration,
    state: Mutex<State>,
    turn: tokio::sync::Mutex<()>,
    /// Room may have come, or a first subscription.
    pub(crate) room: Notify,
    /// The driver has something to look at.
    pub(crate) poke: Notify,
    notices: NoticeSender,
    pub(crate) sent: AtomicU64,
}

struct State {
    socket: Option<Socket>,
    /// Whether a broker is there, which subscribes to everything.
    everything: bool,
    sequences: Sequences,
    block: Vec<u8>,
    payload: Vec<u8>,
    open: Option<Open>,
    /// Something was sent since the driver looked.
    touched: bool,
    /// Somebody asked for a heartbeat that lists everything.
    list: bool,
}

/// Events of one topic that wait for others.
struct Open {
    topic: Topic,
    blocks: Vec<u8>,
    payloads: Vec<u8>,
    count: u64,
    since: Instant,
}

/// What a subscription frame meant to somebody else than the publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A client without a broker that is itself a publisher, at an endpoint.
    Node(Uuid, String),
}

/// How far a batch got.
enum Step {
    Done,
    Full,
}

impl Publisher {
    pub(crate) fn new(
        id: Uuid,
        brokered: bool,
        config: &ZmqConfig,
        socket: Socket,
        notices: NoticeSender,
    ) -> Self {
        let state = State {
            socket: Some(socket),
            everything: false,
            sequences: Sequences::new(config.max_topics),
            block: Vec::new(),
            payload: Vec::new(),
            open: None,
            touched: false,
            list: true,
        };
        Self {
            id,
            brokered,
            raw: config.raw,
            max_payload: config.max_payload,
            batch_count: config.batch_count,
            batch_bytes: config.batch_bytes,
            linger: config.linger,
            full_wait: config.full_wait,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            room: Notify::new(),
            poke: Notify::new(),
            notices,
            sent: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls into the socket, unless it is closed.
    pub(crate) fn with_socket<T>(&self, call: impl FnOnce(&Socket) -> T) -> Option<T> {
        self.lock().socket.as_ref().map(call)
    }

    /// Takes the socket away: nothing is sent any more.
    pub(crate) fn take_socket(&self) -> Option<Socket> {
        let socket = self.lock().socket.take();
        self.room.notify_waiters();
        socket
    }

    /// Whether whoever has to hear everything does.
    pub(crate) fn is_heard(&self) -> bool {
        !self.brokered || self.lock().everything
    }

    /// How many topics are counted.
    pub(crate) fn topics(&self) -> usize {
        self.lock().sequences.len()
    }

    /// What this publisher has sent already of topics that match.
    pub(crate) fn sent_before(&self, patterns: &Patterns) -> Vec<(Topic, u64)> {
        self.lock().sequences.matching(patterns)
    }

    pub(crate) fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if batch.events.len() > 1 {
            return Err(batch);
        }
        let Ok(_turn) = self.turn.try_lock() else { return Err(batch) };
        let mut state = self.lock();
        if state.socket.is_none() {
            return Err(batch);
        }
        let Some(event) = batch.events.first() else {
            return match self.flush(&mut state) {
                Ok(Step::Done) => Ok(Confirms::ready(Outcomes::each([]))),
                _ => Err(batch),
            };
        };
        match self.send_one(&mut state, event) {
            Ok(Step::Full) => Err(batch),
            Ok(Step::Done) => Ok(Confirms::ready(Outcomes::one(Ok(Receipt::ACCEPTED)))),
            Err(error) => Ok(Confirms::ready(Outcomes::one(Err(error)))),
        }
    }

    pub(crate) async fn submit(&self, batch: Batch) -> Result<Confirms> {
        let now = Instant::now();
        let until = batch.deadline().unwrap_or_else(|| now + self.full_wait);
        let Ok(_turn) = tokio::time::timeout_at(until, self.turn.lock()).await else {
            let error = full("others wait for room already");
            return Ok(Confirms::ready(Outcomes::failed(batch.events.len(), &error)));
        };
        let mut outcomes = Vec::with_capacity(batch.events.len());
        let mut told = false;
        loop {
            let room = self.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            if let Step::Done = self.send_from(&batch.events, &mut outcomes)? {
                return Ok(Confirms::ready(Outcomes::each(outcomes)));
            }
            if let (false, Some(event)) = (told, batch.events.get(outcomes.len())) {
                told = true;
                let topic = event.topic().clone();
                self.notices.send(NoticeKind::Full { topic, group: None });
            }
            let now = Instant::now();
            if now >= until {
                let error = self.no_room();
                outcomes.resize_with(batch.events.len(), || Err(error.clone()));
                return Ok(Confirms::ready(Outcomes::each(outcomes)));
            }
            let look_again = until.min(now + LOOK_AGAIN);
            let _ = tokio::time::timeout_at(look_again, room).await;
        }
    }

    fn no_room(&self) -> Error {
        match self.is_heard() {
            true => full("the queue to the broker is full: it takes no events, or not fast enough"),
            false => full("no broker is connected: it is down, or does not answer"),
        }
    }

    /// Sends what is left of a batch, as far as there is room.
    fn send_from(&self, events: &[Event], outcomes: &mut Vec<Result<Receipt>>) -> Result<Step> {
        let mut state = self.lock();
        if state.socket.is_none() {
            return Err(closed());
        }
        if events.is_empty() {
            return self.flush(&mut state);
        }
        while outcomes.len() < events.len() {
            let rest = &events[outcomes.len()..];
            let run = if self.linger.is_zero() && !self.raw { self.run(rest) } else { 1 };
            let sent = match run {
                0 | 1 => self.send_one(&mut state, &rest[0]),
                run => self.send_run(&mut state, &rest[..run]),
            };
            match sent {
                Ok(Step::Full) => return Ok(Step::Full),
                Ok(Step::Done) => {
                    outcomes.extend((0..run.max(1)).map(|_| Ok(Receipt::ACCEPTED)));
                }
                Err(error) if run > 1 => {
                    // One of them cannot be sent: which one is found out one by one.
                    drop(error);
                    match self.send_one(&mut state, &rest[0]) {
                        Ok(Step::Full) => return Ok(Step::Full),
                        Ok(Step::Done) => outcomes.push(Ok(Receipt::ACCEPTED)),
                        Err(error) => outcomes.push(Err(error)),
                    }
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        Ok(Step::Done)
    }

    /// How many of the first events fit in one message.
    fn run(&self, events: &[Event]) -> usize {
        let topic = events[0].topic();
        let mut bytes = 0;
        let fits = |event: &&Event| {
            bytes += event.payload().known_len().unwrap_or(self.batch_bytes) + 256;
            event.topic() == topic && bytes <= self.batch_bytes
        };
        events.iter().take(self.batch_count).take_while(fits).count()
    }

    fn send_one(&self, state: &mut State, event: &Event) -> Result<Step> {
        let payload = self.payload(event)?;
        let payload = match &payload {
            Some(bytes) => bytes,
            None => event.payload().as_bytes().unwrap_or_default(),
        };
        if self.raw {
            return self.send_raw(state, event, payload);
        }
        if !self.linger.is_zero() {
            return self.gather(state, event, payload);
        }
        let sequence = state.sequences.next(event.topic());
        state.block.clear();
        block::write(&mut state.block, self.stamp(sequence), event, payload.len())?;
        let step = self.send(state, event.topic(), None, Some(payload))?;
        if let Step::Done = step {
            state.sequences.sent(event.topic(), 1);
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        Ok(step)
    }

    /// Sends events of one topic in one message; nothing is sent if one of them cannot be.
    fn send_run(&self, state: &mut State, events: &[Event]) -> Result<Step> {
        let topic = events[0].topic();
        let first = state.sequences.next(topic);
        state.block.clear();
        state.payload.clear();
        for (n, event) in (0_u64..).zip(events) {
            let payload = self.payload(event)?;
            let payload = match &payload {
                Some(bytes) => bytes,
                None => event.payload().as_bytes().unwrap_or_default(),
            };
            let sequence = if first == 0 { 0 } else { first + n };
            block::write(&mut state.block, self.stamp(sequence), event, payload.len())?;
            state.payload.extend_from_slice(payload);
        }
        let step = self.send(state, topic, None, None)?;
        if let Step::Done = step {
            state.sequences.sent(topic, events.len() as u64);
            self.sent.fetch_add(events.len() as u64, Ordering::Relaxed);
        }
        Ok(step)
    }

    /// Puts an event with others of its topic.
    fn gather(&self, state: &mut State, event: &Event, payload: &[u8]) -> Result<Step> {
        let topic = event.topic();
        let goes_with = |open: &Open| {
            open.topic == *topic
                && open.count < self.batch_count as u64
                && open.payloads.len() + open.blocks.len() + payload.len() < self.batch_bytes
        };
        if !state.open.as_ref().is_some_and(goes_with)
            && let Step::Full = self.flush(state)?
        {
            return Ok(Step::Full);
        }
        let sequence = state.sequences.next(topic);
        let open = state.open.get_or_insert_with(|| Open {
            topic: topic.clone(),
            blocks: Vec::new(),
            payloads: Vec::new(),
            count: 0,
            since: Instant::now(),
        });
        block::write(&mut open.blocks, self.stamp(sequence), event, payload.len())?;
        open.payloads.extend_from_slice(payload);
        open.count += 1;
        if open.count == 1 {
            self.poke.notify_one();
        }
        state.sequences.sent(topic, 1);
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(Step::Done)
    }

    /// Sends what was put together.
    fn flush(&self, state: &mut State) -> Result<Step> {
        let Some(open) = state.open.take() else { return Ok(Step::Done) };
        let sent = self.send(state, &open.topic, Some((&open.blocks, &open.payloads)), None);
        if !matches!(sent, Ok(Step::Done)) {
            state.open = Some(open);
        }
        sent
    }

    fn send_raw(&self, state: &mut State, event: &Event, payload: &[u8]) -> Result<Step> {
        refuse_what_raw_loses(event)?;
        if !self.may_send(state) {
            return Ok(Step::Full);
        }
        let Some(socket) = &state.socket else { return Err(closed()) };
        match socket.send(event.topic().as_str().as_bytes(), DONTWAIT | SNDMORE) {
            Err(zmq::Error::EAGAIN) => return Ok(Step::Full),
            sent => sent.map_err(|error| from_zmq(error, "sending"))?,
        }
        socket.send(payload, DONTWAIT).map_err(unknown)?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.touch(state);
        Ok(Step::Done)
    }

    /// Sends one message: from the scratch space unless told otherwise.
    fn send(
        &self,
        state: &mut State,
        topic: &Topic,
        parts: Option<(&[u8], &[u8])>,
        payload: Option<&[u8]>,
    ) -> Result<Step> {
        if !self.may_send(state) {
            return Ok(Step::Full);
        }
        let Some(socket) = &state.socket else { return Err(closed()) };
        let (block, held) = parts.unwrap_or((&state.block, &state.payload));
        match socket.send(topic.as_str().as_bytes(), DONTWAIT | SNDMORE) {
            Err(zmq::Error::EAGAIN) => return Ok(Step::Full),
            sent => sent.map_err(|error| from_zmq(error, "sending"))?,
        }
        // The bound is looked at with the first frame, the others belong to it.
        socket.send(block, DONTWAIT | SNDMORE).map_err(unknown)?;
        socket.send(payload.unwrap_or(held), DONTWAIT).map_err(unknown)?;
        self.touch(state);
        Ok(Step::Done)
    }

    /// Without a broker nobody is waited for; with one, what is sent before it is there is lost.
    fn may_send(&self, state: &State) -> bool {
        !self.brokered || self.raw || state.everything
    }

    /// Sending may take a signal that the driver waits for: it looks a little later.
    fn touch(&self, state: &mut State) {
        if !state.touched {
            state.touched = true;
            self.poke.notify_one();
        }
    }

    /// The bytes of a payload that is none yet; its size is checked in either case.
    fn payload(&self, event: &Event) -> Result<Option<Bytes>> {
        let encoded = match event.payload().as_bytes() {
            Some(_) => None,
            None => Some(event.payload().bytes()?),
        };
        let len = match &encoded {
            Some(bytes) => bytes.len(),
            None => event.payload().as_bytes().map_or(0, <[u8]>::len),
        };
        if len > self.max_payload {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the payload has {len} bytes; `max_payload` is {}", self.max_payload),
            ));
        }
        Ok(encoded)
    }

    const fn stamp(&self, sequence: u64) -> Stamp {
        Stamp { kind: Kind::Event, publisher: *self.id.as_bytes(), sequence }
    }

    /// Sends a message of Fabric's own; says whether there was room.
    pub(crate) fn send_control(
        &self,
        topic: &str,
        kind: Kind,
        sequence: u64,
        event: Option<&Event>,
        payload: &[u8],
    ) -> Result<bool> {
        let mut block = Vec::with_capacity(256);
        let stamp = Stamp { kind, publisher: *self.id.as_bytes(), sequence };
        match event {
            Some(event) => block::write_elsewhere(&mut block, stamp, event, payload.len())?,
            None => block::write_bare(&mut block, stamp, payload.len())?,
        }
        self.pass_on(topic, &block, payload)
    }

    /// Sends a message as it came; says whether there was room.
    pub(crate) fn pass_on(&self, topic: &str, block: &[u8], payload: &[u8]) -> Result<bool> {
        let mut state = self.lock();
        let Some(socket) = &state.socket else { return Err(closed()) };
        if !self.may_send(&state) {
            return Ok(false);
        }
        match send_frames(socket, topic, block, payload) {
            Ok(()) => {
                self.touch(&mut state);
                Ok(true)
            }
            Err(zmq::Error::EAGAIN) => Ok(false),
            Err(error) => Err(from_zmq(error, "sending")),
        }
    }

    /// As [`send_control`](Self::send_control), and waits for room.
    pub(crate) async fn send_control_until(
        &self,
        until: Instant,
        topic: &str,
        (kind, sequence): (Kind, u64),
        event: Option<&Event>,
        payload: &[u8],
    ) -> Result<()> {
        loop {
            let room = self.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            if self.send_control(topic, kind, sequence, event, payload)? {
                return Ok(());
            }
            let now = Instant::now();
            if now >= until {
                return Err(self.no_room());
            }
            let _ = tokio::time::timeout_at(until.min(now + LOOK_AGAIN), room).await;
        }
    }

    /// The driver's turn: takes subscriptions, sends what waited long enough, beats.
    ///
    /// Returns what others have to hear, and when to come again.
    pub(crate) fn drive(&self, beat: bool) -> (Vec<Heard>, Option<Instant>) {
        let mut state = self.lock();
        let heard = self.listen(&mut state);
        let mut again = state.touched.then(|| Instant::now() + LOOK_AGAIN);
        state.touched = false;
        if let Some(open) = &state.open {
            let due = open.since + self.linger;
            if due <= Instant::now() {
                let _ = self.flush(&mut state);
            }
            if state.open.is_some() {
                let due = due.max(Instant::now() + Duration::from_micros(100));
                again = Some(again.map_or(due, |again| again.min(due)));
            }
        }
        if beat || std::mem::take(&mut state.list) {
            self.beat(&mut state);
        }
        drop(state);
        self.room.notify_waiters();
        (heard, again)
    }

    /// A connection came back: what was told while it was gone is told again.
    pub(crate) fn tell_everything(&self) {
        let mut state = self.lock();
        state.sequences.list_all();
        state.list = true;
        drop(state);
        self.poke.notify_one();
    }

    fn beat(&self, state: &mut State) {
        if self.raw || !self.may_send(state) || !state.sequences.is_due() {
            return;
        }
        // What waits for others is counted already: it goes first.
        if !matches!(self.flush(state), Ok(Step::Done)) {
            return;
        }
        let State { socket: Some(socket), sequences, block, payload, .. } = state else { return };
        block.clear();
        payload.clear();
        let number = sequences.write(payload, self.max_payload);
        let stamp =
            Stamp { kind: Kind::Heartbeat, publisher: *self.id.as_bytes(), sequence: number };
        if block::write_bare(block, stamp, payload.len()).is_ok()
            && send_frames(socket, control::HEARTBEAT, block, payload).is_ok()
        {
            sequences.told();
        }
    }

    /// Reads the subscriptions that have come.
    fn listen(&self, state: &mut State) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            let Some(socket) = &state.socket else { return heard };
            let Ok(frame) = socket.recv_bytes(DONTWAIT) else { return heard };
            let Some((&first, subscription)) = frame.split_first() else { continue };
            match (first, subscription) {
                (1, []) => state.everything = true,
                (0, []) => state.everything = false,
                (1, it) if it.starts_with(control::LIST.as_bytes()) => {
                    state.sequences.list_all();
                    state.list = true;
                }
                (1, it) if !self.brokered => heard.extend(self.hear(socket, it)),
                _ => {}
            }
        }
    }

    /// Without a broker a publisher answers its subscribers itself.
    fn hear(&self, socket: &Socket, subscription: &[u8]) -> Option<Heard> {
        if let Some(number) = control::number(subscription, control::SYNC) {
            let mut block = Vec::with_capacity(block::PREAMBLE);
            let stamp = Stamp { kind: Kind::Marker, publisher: *self.id.as_bytes(), sequence: 0 };
            let topic = control::numbered(control::SYNC, number);
            if block::write_bare(&mut block, stamp, 0).is_ok() {
                let _ = send_frames(socket, &topic, &block, &[]);
            }
            return None;
        }
        let text = std::str::from_utf8(subscription).ok()?.strip_prefix(control::NODE)?;
        let (id, endpoint) = text.split_once('/')?;
        Some(Heard::Node(Uuid::try_parse(id).ok()?, endpoint.to_owned()))
    }
}

/// Sends one message of three frames.
pub(crate) fn send_frames(
    socket: &Socket,
    topic: &str,
    block: &[u8],
    payload: &[u8],
) -> zmq::Result<()> {
    socket.send(topic.as_bytes(), DONTWAIT | SNDMORE)?;
    socket.send(block, DONTWAIT | SNDMORE)?;
    socket.send(payload, DONTWAIT)
}

/// A message broke off in the middle.
fn unknown(error: zmq::Error) -> Error {
    from_zmq(error, "sending the rest of a message").with_retry(RetryClass::Ambiguous)
}

/// Refuses an event of which `profile=raw` would lose something.
fn refuse_what_raw_loses(event: &Event) -> Result<()> {
    let lost = [
        (event.event_type() != event.topic().as_str(), "a type"),
        (!event.headers().is_empty(), "headers"),
        (event.extensions().len() != 0, "extensions"),
        (event.key().is_some(), "a key"),
        (event.correlation_id().is_some(), "a conversation"),
        (event.causation_id().is_some(), "a cause"),
        (event.trace().is_some(), "a trace"),
        (event.ttl().is_some(), "a time to live"),
        (event.version() != 1, "a version"),
        (event.dead_letter().is_some(), "what is noted with a dead letter"),
    ];
    match lost.iter().find(|(there, _)| *there) {
        None => Ok(()),
        Some((_, what)) => {
            let what = format!("{what} with `profile=raw`, which carries the payload alone");
            Err(Error::unsupported(what, "zmq"))
        }
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("id", &self.id).finish_non_exhaustive()
    }
}
