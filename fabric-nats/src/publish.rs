//! Publishing: a window of events that are handed over and not confirmed.
//!
//! Events are sent in the order in which they were submitted, each with an id by which the server
//! recognises it. When the connection breaks, or the server does not answer, everything from the first
//! unconfirmed event on is sent again, in order: what had arrived is recognised, so that nothing is
//! lost, stored twice or overtaken.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subject};
use bytes::Bytes;
use fabric_core::{
    Batch, Confirms, Error, ErrorKind, Event, ExpectedLast, Outcomes, Position, Receipt, Result,
    RetryClass,
};
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

use crate::config::NatsConfig;
use crate::confirm::{self, Answer};
use crate::connection::{Backoff, Epoch, State as LinkState, lacking};
use crate::error::{self, ApiError, Failure};
use crate::hub::{Hub, at_once};
use crate::text::numbered;
use crate::wire::{Outgoing, Route, Writer};

/// How long the server may take to confirm before what is unconfirmed is sent again.
const ANSWER: Duration = Duration::from_secs(5);
/// How often it is looked whether anything waits for too long.
const LOOK: Duration = Duration::from_millis(250);
/// Bytes per permit of the bound on bytes.
const UNIT: usize = 1024;

/// Events that are handed over and not confirmed.
pub(crate) struct Window {
    state: Mutex<State>,
    room: Semaphore,
    bytes: Semaphore,
    most_events: usize,
    most_units: usize,
    /// Rings when the sender has something to do.
    work: Notify,
}

#[derive(Default)]
struct State {
    /// The number of the first slot.
    base: u64,
    slots: VecDeque<Slot>,
    /// The number of the first event that this connection has not sent.
    next: u64,
    epoch: Option<Arc<Epoch>>,
    /// What the server answers to: this and the number.
    inbox: String,
    /// Nothing is sent before this: the server said that it cannot.
    paused: Option<Instant>,
    flushers: Vec<(u64, oneshot::Sender<()>)>,
    ended: Option<Error>,
}

/// One event on its way.
struct Slot {
    event: Event,
    route: Route,
    stream: usize,
    units: u32,
    born: Instant,
    sent: Option<Instant>,
    done: bool,
    answer: Option<oneshot::Sender<Result<Receipt>>>,
}

/// What the server answers to a publish.
#[derive(Debug, Deserialize)]
struct Reply {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    error: Option<ApiError>,
}

/// An event that is ready to be sent.
struct Ready {
    event: Event,
    route: Route,
    stream: usize,
    outgoing: Outgoing,
}

impl Window {
    pub(crate) fn new(config: &NatsConfig) -> Self {
        let most_units = config.in_flight_bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Self {
            state: Mutex::default(),
            room: Semaphore::new(config.in_flight),
            bytes: Semaphore::new(most_units),
            most_events: config.in_flight,
            most_units,
            work: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn units(&self, payload: usize) -> u32 {
        // What is larger than the bound passes alone.
        u32::try_from((payload / UNIT + 1).min(self.most_units)).unwrap_or(u32::MAX)
    }

    /// How many events are not confirmed.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.most_events.saturating_sub(self.room.available_permits())
    }
}

impl Hub {
    /// Hands the batch over if that takes no waiting; else gives it back.
    pub(crate) fn try_publish(
        self: &Arc<Self>,
        batch: Batch,
        route: impl Fn(&Event) -> Route,
    ) -> Result<Confirms, Batch> {
        let window = &self.window;
        if self.is_closing() {
            return Err(batch);
        }
        if batch.events.is_empty() {
            return Ok(self.flush());
        }
        if !self.line.is_free() || batch.events.len() > window.most_events {
            return Err(batch);
        }
        let units: u32 =
            batch.events.iter().map(|event| window.units(event.payload().size())).sum();
        let Ok(count) = u32::try_from(batch.events.len()) else { return Err(batch) };
        let Ok(room) = window.room.try_acquire_many(count) else { return Err(batch) };
        let Ok(bytes) = window.bytes.try_acquire_many(units) else { return Err(batch) };
        room.forget();
        bytes.forget();
        let Batch { events, options, now } = batch;
        let expected = options.and_then(|options| options.expect_last);
        let mut answers = events.into_iter().map(|event| {
            let route = route(&event);
            self.hand_over(event, route, expected.as_ref(), now.instant)
        });
        if count > 1 {
            return Ok(confirm::each(answers.collect()));
        }
        Ok(answers.next().map_or_else(|| confirm::each(Vec::new()), confirm::one))
    }

    /// Hands the batch over, waiting for room.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        batch: Batch,
        route: impl Fn(&Event) -> Route + Send + Sync,
    ) -> Result<Confirms> {
        self.check_open()?;
        if batch.events.is_empty() {
            return Ok(self.flush());
        }
        let deadline = batch.deadline();
        let Batch { events, options, .. } = batch;
        let expected = options.and_then(|options| options.expect_last);
        let turn = self.line.join(deadline).await;
        let mut answers = Vec::with_capacity(events.len());
        for event in events {
            let there = match &turn {
                None => Err(full(&event)),
                Some(_) => self.wait_for_room(&event, deadline).await,
            };
            let route = route(&event);
            answers.push(match there {
                Ok(()) => self.hand_over(event, route, expected.as_ref(), Instant::now()),
                Err(error) => Answer::Known(Err(error)),
            });
        }
        Ok(confirm::each(answers))
    }

    /// Takes room for one event, which then is the event's.
    async fn wait_for_room(&self, event: &Event, deadline: Option<Instant>) -> Result<()> {
        let units = self.window.units(event.payload().size());
        let room = async {
            let room = self.window.room.acquire().await;
            let bytes = self.window.bytes.acquire_many(units).await;
            match (room, bytes) {
                (Ok(room), Ok(bytes)) => {
                    room.forget();
                    bytes.forget();
                    Ok(())
                }
                _ => Err(error::closed()),
            }
        };
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            there = room => there,
            _ = closed.wait_for(|closed| *closed) => Err(error::closed()),
            () = sleep_until(deadline) => Err(full(event)),
        }
    }

    /// Puts one event, for which there is room, into the window, and sends it if it is its turn.
    fn hand_over(
        &self,
        mut event: Event,
        mut route: Route,
        expected: Option<&ExpectedLast>,
        now: Instant,
    ) -> Answer {
        let units = self.window.units(event.payload().size());
        let ready = (|| {
            // The codec runs once, however often the event is sent.
            if event.payload().as_bytes().is_none() {
                let bytes = event.payload().bytes()?;
                event.set_payload(bytes);
            }
            let (stream, subject) = self.target(&event, &route)?;
            if let Some(expected) = expected {
                route.expected = Some(self.expected(expected, &event, stream)?);
            }
            let outgoing = self.writer().write(&event, &route, subject)?;
            self.check_size(&event, &outgoing)?;
            Ok((stream, outgoing))
        })();
        let (stream, outgoing) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                self.window.give_room(1, units);
                return Answer::Known(Err(error));
            }
        };
        match self.window.push(Ready { event, route, stream, outgoing }, units, now) {
            Ok(answer) => Answer::Coming(answer),
            Err(error) => {
                self.window.give_room(1, units);
                Answer::Known(Err(error))
            }
        }
    }

    /// Where an event goes: the stream and the subject.
    fn target(&self, event: &Event, route: &Route) -> Result<(usize, Subject)> {
        match &route.to {
            Some(group) => Ok((self.layout.home, self.layout.inbox(group, event.topic()).into())),
            None => self.targets.place(&self.layout, event.topic()),
        }
    }

    fn writer(&self) -> Writer<'_> {
        Writer {
            layout: &self.layout,
            profile: self.config.profile,
            abilities: self.abilities(),
            kept: true,
            drafts: &self.drafts[0],
        }
    }

    fn expected(&self, expected: &ExpectedLast, event: &Event, stream: usize) -> Result<u64> {
        // The server says 0 for a subject of which it keeps nothing.
        let ExpectedLast::At(expected) = expected else { return Ok(0) };
        let fits = expected.topic == *event.topic() && expected.incarnation == self.life(stream);
        match u64::try_from(expected.offset) {
            Ok(offset) if fits => Ok(offset),
            _ => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "the position `{expected}` is not one of `{}` as it is now; read on and decide \
                     again",
                    event.topic()
                ),
            )
            .with_backend("nats")),
        }
    }

    fn check_size(&self, event: &Event, outgoing: &Outgoing) -> Result<()> {
        let most = self.abilities().max_message;
        let size = outgoing.payload.len() + outgoing.headers.as_ref().map_or(0, size_of_headers);
        if most > 0 && size > most {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("headers and payload take {size} bytes together, the server takes {most}"),
            )
            .with("topic", event.topic()));
        }
        Ok(())
    }

    /// Resolves when everything handed over before is confirmed or failed.
    pub(crate) fn flush(&self) -> Confirms {
        let (done, flushed) = oneshot::channel();
        {
            let mut state = self.window.lock();
            let end = state.base + state.slots.len() as u64;
            if state.slots.is_empty() {
                return Confirms::ready(Outcomes::each([]));
            }
            state.flushers.push((end, done));
        }
        Confirms::pending(async move {
            // The window ends with every event answered.
            let _ = flushed.await;
            Outcomes::each([])
        })
    }

    /// Sends, hears the answers and sends again, until the client is dropped.
    pub(crate) async fn run_window(self: Arc<Self>) {
        let mut states = self.link.watch();
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                LinkState::Closed => return self.window.end(&error::closed()),
                LinkState::Up(epoch) if !epoch.is_gone() => {
                    self.serve(&epoch).await;
                    self.window.detach();
                }
                LinkState::Up(_) | LinkState::Down => {}
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() {
                    return self.window.end(&error::closed());
                },
                () = tokio::time::sleep(LOOK) => {}
            }
            self.window.give_up_on_the_old(self.config.confirm_timeout);
        }
    }

    /// Serves the window over one connection, as long as it lasts.
    async fn serve(&self, epoch: &Arc<Epoch>) {
        let inbox = format!("{}.", epoch.client.new_inbox());
        let Ok(mut answers) = epoch.client.subscribe(format!("{inbox}*")).await else { return };
        // Before anything is sent, so that no answer is missed.
        let mut denied = epoch.denied();
        self.window.attach(epoch, inbox, self);
        let mut pauses = Backoff::new(self.config.reconnect_max);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let resume = self.window.paused();
            tokio::select! {
                biased;
                answer = answers.next() => match answer {
                    None => return,
                    Some(first) => {
                        let more = std::iter::from_fn(|| at_once(answers.next()).flatten());
                        let all = std::iter::once(first).chain(more.take(63));
                        if self.window.hear(all, self, &mut pauses) {
                            pauses = Backoff::new(self.config.reconnect_max);
                        }
                    }
                },
                () = epoch.gone() => return,
                () = self.window.work.notified() => {
                    // The connection's queue was full: it has room again once it was flushed.
                    if epoch.client.flush().await.is_err() {
                        return;
                    }
                    self.window.send_rest(self);
                }
                () = sleep_until(resume) => {
                    match self.ensure_streams(epoch).await {
                        Ok(()) => {}
                        Err(error) if error.retry() != RetryClass::Never => {
                            self.window.pause(pauses.next());
                            continue;
                        }
                        Err(error) => self.window.fail_all(&error),
                    }
                    self.window.send_again(self);
                }
                Ok(()) = denied.changed() => {
                    let subjects = denied.borrow_and_update().clone();
                    self.window.fail_denied(&subjects, self);
                }
                _ = look.tick() => {
                    self.window.give_up_on_the_old(self.config.confirm_timeout);
                    if self.window.is_unanswered() {
                        self.window.send_again(self);
                    }
                }
            }
        }
    }
}

impl Window {
    /// Puts an event at the end, and sends it if everything before it was sent.
    fn push(
        &self,
        ready: Ready,
        units: u32,
        now: Instant,
    ) -> Result<oneshot::Receiver<Result<Receipt>>> {
        let Ready { event, route, stream, outgoing } = ready;
        let (answer, answered) = oneshot::channel();
        let mut state = self.lock();
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        let number = state.base + state.slots.len() as u64;
        state.slots.push_back(Slot {
            event,
            route,
            stream,
            units,
            born: now,
            sent: None,
            done: false,
            answer: Some(answer),
        });
        if state.next == number && state.paused.is_none() && !state.send(number, outgoing, now) {
            self.work.notify_one();
        }
        self.clear(&mut state);
        Ok(answered)
    }

    /// A new connection: everything that is not confirmed is sent on it, in order.
    fn attach(&self, epoch: &Arc<Epoch>, inbox: String, hub: &Hub) {
        {
            let mut state = self.lock();
            state.epoch = Some(Arc::clone(epoch));
            state.inbox = inbox;
            state.paused = None;
        }
        self.send_again(hub);
    }

    fn detach(&self) {
        self.lock().epoch = None;
    }

    /// Sends everything that is not confirmed once more.
    fn send_again(&self, hub: &Hub) {
        {
            let mut state = self.lock();
            state.paused = None;
            state.next = state.base;
        }
        self.send_rest(hub);
    }

    /// Sends what this connection has not sent yet.
    fn send_rest(&self, hub: &Hub) {
        let (writer, now) = (hub.writer(), Instant::now());
        let mut state = self.lock();
        while state.paused.is_none() {
            let number = state.next;
            let Some(slot) = state.slot(number) else { break };
            if slot.done {
                state.next += 1;
                continue;
            }
            let written = hub
                .target(&slot.event, &slot.route)
                .and_then(|(_, subject)| writer.write(&slot.event, &slot.route, subject));
            match written {
                Ok(outgoing) => {
                    if !state.send(number, outgoing, now) {
                        self.work.notify_one();
                        break;
                    }
                }
                Err(error) => {
                    state.next += 1;
                    self.settle(&mut state, number, Err(error));
                }
            }
        }
        self.clear(&mut state);
    }

    /// Takes the server's answers; whether all of them were good.
    fn hear(
        &self,
        answers: impl Iterator<Item = Message>,
        hub: &Hub,
        pauses: &mut Backoff,
    ) -> bool {
        let mut state = self.lock();
        let mut good = true;
        for message in answers {
            let number = message.subject.rsplit('.').next().and_then(|text| text.parse().ok());
            let Some(number) = number else { continue };
            let Some(slot) = state.slot(number).filter(|slot| !slot.done) else { continue };
            match read(&message, slot, hub) {
                Err(error) if is_passing(&error) => {
                    good = false;
                    let pause = Instant::now() + pauses.next();
                    state.paused.get_or_insert(pause);
                }
                result => self.settle(&mut state, number, result),
            }
        }
        self.clear(&mut state);
        good
    }

    fn pause(&self, time: Duration) {
        self.lock().paused = Some(Instant::now() + time);
    }

    fn paused(&self) -> Option<Instant> {
        self.lock().paused
    }

    /// Whether the oldest event that was sent has had no answer for too long.
    fn is_unanswered(&self) -> bool {
        let state = self.lock();
        let first = state.slots.iter().find(|slot| !slot.done);
        state.paused.is_none()
            && first.and_then(|slot| slot.sent).is_some_and(|sent| sent.elapsed() > ANSWER)
    }

    /// Ends the wait for events that nobody confirmed in time.
    fn give_up_on_the_old(&self, limit: Duration) {
        let mut state = self.lock();
        let old = |slot: &Slot| !slot.done && slot.born.elapsed() > limit;
        let overdue = state.slots.iter().take_while(|slot| slot.done || old(slot)).count();
        for number in (state.base..).take(overdue) {
            let sent = state.slot(number).and_then(|slot| slot.sent).is_some();
            let error = if sent {
                Error::new(
                    ErrorKind::Timeout,
                    format!("the server did not confirm within {limit:?}"),
                )
            } else {
                error::disconnected().with("waited", format!("{limit:?}"))
            };
            self.settle(&mut state, number, Err(error));
        }
        self.clear(&mut state);
    }

    fn fail_denied(&self, subjects: &[String], hub: &Hub) {
        let mut state = self.lock();
        for number in (state.base..).take(state.slots.len()) {
            let Some(slot) = state.slot(number).filter(|slot| !slot.done) else { continue };
            let subject = match &slot.route.to {
                Some(group) => hub.layout.inbox(group, slot.event.topic()),
                None => hub.layout.subject(slot.event.topic()),
            };
            if subjects.contains(&subject) {
                self.settle(&mut state, number, Err(lacking(&subject)));
            }
        }
        self.clear(&mut state);
    }

    fn fail_all(&self, error: &Error) {
        let mut state = self.lock();
        for number in (state.base..).take(state.slots.len()) {
            self.settle(&mut state, number, Err(error.clone().with_retry(RetryClass::Safe)));
        }
        self.clear(&mut state);
    }

    /// Answers everything that is left: what was sent may have been accepted.
    pub(crate) fn end(&self, error: &Error) {
        let mut state = self.lock();
        state.ended = Some(error.clone());
        for number in (state.base..).take(state.slots.len()) {
            let sent = state.slot(number).and_then(|slot| slot.sent).is_some();
            let error = if sent {
                Error::new(ErrorKind::Timeout, "the fabric was closed before the server confirmed")
            } else {
                error.clone()
            };
            self.settle(&mut state, number, Err(error));
        }
        self.clear(&mut state);
        self.room.close();
        self.bytes.close();
    }

    fn settle(&self, state: &mut State, number: u64, result: Result<Receipt>) {
        let Some(slot) = state.slot_mut(number).filter(|slot| !slot.done) else { return };
        slot.done = true;
        let units = slot.units;
        if let Some(answer) = slot.answer.take() {
            // Nobody may be there to hear it.
            let _ = answer.send(result);
        }
        self.give_room(1, units);
    }

    /// Takes out what is done from the front on.
    fn clear(&self, state: &mut State) {
        while state.slots.front().is_some_and(|slot| slot.done) {
            state.slots.pop_front();
            state.base += 1;
        }
        state.next = state.next.max(state.base);
        let base = state.base;
        let mut n = 0;
        while n < state.flushers.len() {
            if state.flushers[n].0 <= base {
                let _ = state.flushers.swap_remove(n).1.send(());
            } else {
                n += 1;
            }
        }
    }

    fn give_room(&self, events: usize, units: u32) {
        self.room.add_permits(events);
        self.bytes.add_permits(units as usize);
    }
}

impl State {
    fn slot(&self, number: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(number.checked_sub(self.base)?).ok()?)
    }

    fn slot_mut(&mut self, number: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(number.checked_sub(self.base)?).ok()?)
    }

    /// Sends one event; `false` where the connection's queue is full. Without a connection it waits
    /// for the next.
    fn send(&mut self, number: u64, outgoing: Outgoing, now: Instant) -> bool {
        let Some(epoch) = self.epoch.clone() else { return true };
        let reply = numbered(&self.inbox, number).into();
        let Outgoing { subject, headers, payload } = outgoing;
        let Some(handed) = hand(&epoch, subject, reply, headers, payload) else { return false };
        // One that cannot be handed over has lost its connection: the next one sends it.
        if handed.is_ok() {
            self.next = number + 1;
            if let Some(slot) = self.slot_mut(number) {
                slot.sent = Some(now);
            }
        }
        true
    }
}

/// Hands a message to the connection's queue; `None` where that is full.
fn hand(
    epoch: &Epoch,
    subject: Subject,
    reply: Subject,
    headers: Option<HeaderMap>,
    payload: Bytes,
) -> Option<Result<(), async_nats::PublishError>> {
    let client = &epoch.client;
    match headers {
        Some(headers) => {
            at_once(client.publish_with_reply_and_headers(subject, reply, headers, payload))
        }
        None => at_once(client.publish_with_reply(subject, reply, payload)),
    }
}

/// What the server says about one event.
fn read(message: &Message, slot: &Slot, hub: &Hub) -> Result<Receipt> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(Error::new(
            ErrorKind::Connect,
            "no stream takes this subject just now: it was deleted, or its leader moves",
        )
        .with_backend("nats"));
    }
    let answer: Reply = serde_json::from_slice(&message.payload).map_err(|error| {
        Error::new(ErrorKind::Backend, "the server's confirm cannot be read")
            .with_backend("nats")
            .with_source(error)
    })?;
    if let Some(refusal) = &answer.error {
        let error = error::from(&Failure::Api(refusal)).with("topic", slot.event.topic());
        return Err(error);
    }
    let delayed = slot.route.due.is_some() || slot.route.to.is_some();
    let position = (!delayed).then(|| {
        let life = hub.life(slot.stream);
        Position::new(slot.event.topic().clone(), life, u128::from(answer.seq))
    });
    let receipt = match (answer.duplicate, position) {
        (true, position) => Receipt::duplicate_of(position),
        (false, Some(position)) => Receipt::stored(position),
        (false, None) => Receipt::ACCEPTED.with_routed(true),
    };
    Ok(receipt)
}

/// Whether trying again soon may help, so that the publisher need not hear of it.
fn is_passing(error: &Error) -> bool {
    error.kind() == ErrorKind::Connect
}

fn full(event: &Event) -> Error {
    Error::new(
        ErrorKind::Full,
        "as many events are unconfirmed as `in_flight` allows, and the server confirms none",
    )
    .with("topic", event.topic())
}

fn size_of_headers(headers: &HeaderMap) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| name.len() + value.as_str().len() + 4)
    });
    // The version line, and the empty one at the end.
    12 + lines.sum::<usize>()
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("unconfirmed", &self.unconfirmed()).finish_non_exhaustive()
    }
}
