//! Pulling: requests that stay open at the server, and what it answers to them.
//!
//! Each request asks for so many events and lasts for a while; the server says when one ends, and
//! that it is alive while nothing comes. After a connection broke it knows nothing of the requests any
//! more: they are made anew.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use fabric_core::{Error, ErrorKind, EventId, Patterns, Position, Result, Start, Topic};
use futures_core::future::BoxFuture;
use futures_util::{FutureExt as _, Stream as _, StreamExt as _};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::api::{Action, ConsumerConfig};
use crate::connection::{Backoff, Epoch, after};
use crate::error;
use crate::group::begin;
use crate::hub::{Hub, at_once};
use crate::layout::Filter;
use crate::read::Sent;

/// How long a request stays open.
const OPEN: Duration = Duration::from_secs(30);
/// How often the server says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// When a server that says nothing is given up: two missed heartbeats, and some.
const SILENCE: Duration = Duration::from_secs(11);
/// How many events are asked for ahead at first: a member that takes few leaves the rest to others.
const AHEAD: usize = 32;
/// How many bytes are asked for ahead, and how many make a chunk: what lies in memory for long is not
/// used again by what comes next.
const BYTES_AHEAD: usize = 4 << 20;
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// How many at most; the bound on what a subscription holds is its own.
const MOST_AHEAD: usize = 64 * 1024;
/// How long nothing has to come before nothing is believed to be on its way.
const QUIET: Duration = Duration::from_millis(20);
/// How long a consumer of one subscription outlives it.
const OUTLIVES: Duration = Duration::from_secs(300);

/// Events of one consumer, as they are pulled.
pub(crate) struct Pull {
    hub: Arc<Hub>,
    pub(crate) stream: usize,
    source: Origin,
    wire: Wire,
    /// Requests are not repeated before this, since the last one ended at once.
    pause: Option<Pin<Box<Sleep>>>,
    pauses: Backoff,
    /// What went wrong along the way.
    troubles: VecDeque<Error>,
    /// How many events are asked for ahead: few at first, and more while they are used up.
    ahead: usize,
    /// The last look brought events, and somebody looks again.
    used: bool,
    /// How many bytes an event has, as far as one can say.
    size: usize,
}

/// Whose consumer it is.
enum Origin {
    /// A group's, by its name.
    Group(String),
    /// This subscription's own: without acks, made anew wherever anything is missing.
    Own(Box<Own>),
}

struct Own {
    filter: Filter,
    start: Start,
    name: String,
    /// The last event that was received, or the last there was when the consumer was made.
    last: u64,
    /// How many events the consumer handed out.
    number: u64,
    life: u64,
    /// How many events it still has.
    pending: u64,
}

enum Wire {
    Idle,
    Opening(BoxFuture<'static, Result<Opened>>),
    Open(Box<Open>),
    /// The server does not know the consumer any more; the subscription has the say.
    Gone,
}

struct Opened {
    open: Open,
    made: Option<Made>,
}

/// A consumer that was made for this subscription.
struct Made {
    name: String,
    last: u64,
    life: u64,
    pending: u64,
    missed: u64,
}

struct Open {
    epoch: Arc<Epoch>,
    /// Where the numbers begin in the subjects of its acks, once one has come.
    numbers: usize,
    inbox: String,
    next: String,
    messages: Subscriber,
    /// How many events the server may still send.
    wanted: usize,
    silence: Pin<Box<Sleep>>,
}

/// Events as they came, with what the server says of each.
#[derive(Default)]
pub(crate) struct Arrived {
    pub(crate) messages: Vec<Message>,
    pub(crate) sents: Vec<Sent>,
}

impl Arrived {
    pub(crate) const fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

/// What one look at the server brought.
pub(crate) enum Pulled {
    /// Something to hand out.
    Events,
    /// The consumer is gone.
    Gone,
    /// Something to tell.
    Trouble(Error),
}

impl Pull {
    /// Of a group's consumer.
    pub(crate) fn of_group(hub: &Arc<Hub>, stream: usize, group: &str) -> Self {
        Self::new(hub, stream, Origin::Group(group.to_owned()))
    }

    /// Of a consumer of one's own, which is made here.
    ///
    /// # Errors
    /// `NotFound` for a position, `Unauthorized`, `Connect`, `Timeout`.
    pub(crate) async fn own(
        hub: &Arc<Hub>,
        patterns: &Patterns,
        filter: Filter,
        start: &Start,
    ) -> Result<Self> {
        let epoch = hub.link.up_soon().await?;
        let start = hub.exact_start(&epoch, patterns, &filter, start).await?;
        let stream = filter.stream;
        let life = hub.life(stream);
        let own = Own { filter, start, name: String::new(), last: 0, number: 0, life, pending: 0 };
        let opened = open_own(Arc::clone(hub), own.request()).await?;
        let mut pull = Self::new(hub, stream, Origin::Own(Box::new(own)));
        pull.opened(opened);
        Ok(pull)
    }

    fn new(hub: &Arc<Hub>, stream: usize, source: Origin) -> Self {
        Self {
            hub: Arc::clone(hub),
            stream,
            source,
            wire: Wire::Idle,
            pause: None,
            pauses: Backoff::new(Duration::from_secs(1)),
            troubles: VecDeque::new(),
            ahead: AHEAD,
            used: false,
            size: 1,
        }
    }

    /// Whether this subscription's own consumer handed out everything up to this event.
    pub(crate) fn is_read_up_to(&self, end: u64) -> bool {
        match &self.source {
            Origin::Own(own) => own.last >= end || own.pending == 0,
            Origin::Group(_) => false,
        }
    }

    /// Whether there is an inbox to look into.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.wire, Wire::Open(_))
    }

    /// How many events the server may still send.
    pub(crate) fn wanted(&self) -> usize {
        match &self.wire {
            Wire::Open(open) => open.wanted,
            _ => 0,
        }
    }

    /// Forgets the inbox with what lies in it.
    pub(crate) fn give_up(&mut self) {
        if !matches!(self.wire, Wire::Opening(_)) {
            self.wire = Wire::Idle;
        }
    }

    /// Takes up to `most` events into `events`, and asks the server for as many as there is room
    /// for.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        most: usize,
        events: &mut Arrived,
    ) -> Poll<Pulled> {
        if std::mem::take(&mut self.used) {
            self.ahead = (self.ahead * 2).min(MOST_AHEAD);
        }
        loop {
            if let Some(trouble) = self.troubles.pop_front() {
                return Poll::Ready(Pulled::Trouble(trouble));
            }
            match &mut self.wire {
                Wire::Gone => return Poll::Ready(Pulled::Gone),
                Wire::Idle => {
                    if let Some(pause) = &mut self.pause {
                        std::task::ready!(pause.as_mut().poll(cx));
                        self.pause = None;
                    }
                    self.wire = Wire::Opening(self.reopen());
                }
                Wire::Opening(opening) => match std::task::ready!(opening.as_mut().poll(cx)) {
                    Ok(opened) => self.opened(opened),
                    Err(error) if error.retry() == fabric_core::RetryClass::Never => {
                        self.wire = Wire::Gone;
                        return Poll::Ready(Pulled::Trouble(error));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the subscription cannot be restored yet");
                        self.wait();
                        self.wire = Wire::Idle;
                    }
                },
                Wire::Open(_) => match self.poll_open(cx, room, most, events) {
                    Poll::Pending if events.is_empty() => return Poll::Pending,
                    Poll::Pending | Poll::Ready(true) if !events.is_empty() => {
                        self.pauses = Backoff::new(Duration::from_secs(1));
                        self.used = true;
                        return Poll::Ready(Pulled::Events);
                    }
                    _ => {}
                },
            }
        }
    }

    /// `true` once there is something to hand out, `false` after the wire changed.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        most: usize,
        events: &mut Arrived,
    ) -> Poll<bool> {
        if let Some(pause) = &mut self.pause
            && pause.as_mut().poll(cx).is_ready()
        {
            self.pause = None;
        }
        self.ask(room.saturating_sub(events.len()));
        let changed = self.take_in(cx, most, events);
        if !changed && !events.is_empty() {
            self.ask(room.saturating_sub(events.len()));
        }
        if changed || !events.is_empty() {
            return Poll::Ready(!events.is_empty());
        }
        let Wire::Open(open) = &mut self.wire else { return Poll::Ready(false) };
        if open.wanted > 0 && open.silence.as_mut().poll(cx).is_ready() {
            tracing::debug!("the server missed its heartbeats");
            self.wire = Wire::Idle;
            return Poll::Ready(false);
        }
        Poll::Pending
    }

    /// Takes what has arrived, up to `most` events; whether the wire changed meanwhile.
    fn take_in(&mut self, cx: &mut Context<'_>, most: usize, events: &mut Arrived) -> bool {
        let (mut bytes, mut heard) = (0, false);
        while events.len() < most && bytes < CHUNK_BYTES {
            let Wire::Open(open) = &mut self.wire else { return true };
            let message = match Pin::new(&mut open.messages).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => {
                    self.wire = Wire::Idle;
                    return true;
                }
                Poll::Ready(Some(message)) => message,
            };
            heard = true;
            if let Some(status) = message.status {
                if self.hear(status, &message) {
                    return true;
                }
                continue;
            }
            open.wanted = open.wanted.saturating_sub(1);
            bytes += message.length;
            self.size = (self.size * 7 + message.length) / 8 + 1;
            let numbers = &mut open.numbers;
            let sent = message.reply.as_deref().and_then(|reply| Sent::parse_at(reply, numbers));
            let Some(sent) = sent else { continue };
            if !self.follows(sent) {
                // Something was lost on the way: the consumer begins behind the last event.
                self.wire = Wire::Idle;
                return true;
            }
            events.messages.push(message);
            events.sents.push(sent);
        }
        if let (true, Wire::Open(open)) = (heard, &mut self.wire) {
            open.silence.as_mut().reset(after(SILENCE));
        }
        false
    }

    /// Whether the event is the next of this subscription's own consumer.
    fn follows(&mut self, sent: Sent) -> bool {
        let Origin::Own(own) = &mut self.source else { return true };
        if sent.number != own.number + 1 {
            return false;
        }
        own.number += 1;
        own.last = sent.stored;
        own.pending = sent.pending;
        true
    }

    /// Asks for more, once enough of what was asked for has come.
    fn ask(&mut self, room: usize) {
        if self.pause.is_some() {
            return;
        }
        let Wire::Open(open) = &mut self.wire else { return };
        let room = room.min(self.ahead).min((BYTES_AHEAD / self.size).max(2));
        let free = room.saturating_sub(open.wanted);
        if free == 0 || (open.wanted > 0 && free < room.div_ceil(2)) {
            return;
        }
        let request = request(free);
        let reply = open.inbox.clone();
        let sent = at_once(open.epoch.client.publish_with_reply(open.next.clone(), reply, request));
        match sent {
            Some(Ok(())) => {
                open.wanted += free;
                open.silence.as_mut().reset(after(SILENCE));
            }
            Some(Err(_)) => self.wire = Wire::Idle,
            // The connection's queue is full; it is tried again with the next event.
            None => self.wait(),
        }
    }

    /// Takes what the server says about a request; whether the wire changed.
    fn hear(&mut self, status: StatusCode, message: &Message) -> bool {
        let said = message.description.as_deref().unwrap_or_default().to_ascii_lowercase();
        let Wire::Open(open) = &mut self.wire else { return true };
        match status.as_u16() {
            // It is alive.
            100 => false,
            503 => {
                self.wire = Wire::Gone;
                self.wait();
                true
            }
            409 if said.contains("consumer deleted") => {
                self.wire = Wire::Gone;
                true
            }
            409 if said.contains("consumer is push based") => {
                self.wire = Wire::Gone;
                self.troubles.push_back(
                    Error::new(
                        ErrorKind::GroupMismatch,
                        "the consumer of this name pushes: it was made by somebody else; use another \
                         name for the group",
                    )
                    .with_backend("nats"),
                );
                true
            }
            code => {
                // The request ended: with time, by a move of the consumer, or since it asked too much.
                open.wanted -= left(message).unwrap_or(open.wanted).min(open.wanted);
                if code != 408 && code != 404 {
                    tracing::debug!(code, said, "a request for events ended");
                    self.wait();
                }
                false
            }
        }
    }

    fn wait(&mut self) {
        let pause = self.pauses.next();
        self.pause = Some(Box::pin(sleep_until(Instant::now() + pause)));
    }

    /// Begins anew: the consumer is there again.
    pub(crate) fn begin_anew(&mut self) {
        self.wire = Wire::Idle;
    }

    fn reopen(&self) -> BoxFuture<'static, Result<Opened>> {
        let hub = Arc::clone(&self.hub);
        match &self.source {
            Origin::Group(name) => {
                let (stream, name) = (self.stream, name.clone());
                async move {
                    let open = open_inbox(&hub, stream, &name).await?;
                    Ok(Opened { open, made: None })
                }
                .boxed()
            }
            Origin::Own(own) => open_own(hub, own.again()).boxed(),
        }
    }

    fn opened(&mut self, opened: Opened) {
        if let (Origin::Own(own), Some(made)) = (&mut self.source, opened.made) {
            own.name = made.name;
            own.last = made.last;
            own.number = 0;
            own.life = made.life;
            own.pending = made.pending;
            if made.missed > 0 {
                self.troubles.push_back(Error::lagged(made.missed));
            }
        }
        self.wire = Wire::Open(Box::new(opened.open));
    }

    /// The inbox, to be emptied; nothing more is asked for.
    pub(crate) fn drain(&mut self) -> Option<Inbox> {
        match std::mem::replace(&mut self.wire, Wire::Idle) {
            Wire::Open(open) => {
                let Open { epoch, messages, wanted, .. } = *open;
                Some(Inbox { epoch, messages, wanted, sync: self.hub.layout.sync() })
            }
            _ => None,
        }
    }

    /// Takes the consumer of this subscription's own away.
    pub(crate) fn forget(&mut self) {
        if let (Wire::Open(open), Origin::Own(own)) = (&self.wire, &self.source) {
            let (api, name) = (&open.epoch.api, &self.hub.layout.streams[self.stream].name);
            let subject = format!("{}.CONSUMER.DELETE.{name}.{}", api.root, own.name);
            // Where this does not arrive, the server forgets it after a while.
            let _ = at_once(api.client.publish(subject, Bytes::new()));
        }
        self.wire = Wire::Idle;
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.forget();
    }
}

/// What a consumer of one's own is asked for.
struct OwnRequest {
    filter: Filter,
    start: Start,
    /// Behind this event of this life of the stream, where it was read before.
    after: Option<(u64, u64)>,
    old: String,
}

impl Own {
    fn request(&self) -> OwnRequest {
        let (filter, start) = (self.filter.clone(), self.start.clone());
        OwnRequest { filter, start, after: None, old: String::new() }
    }

    fn again(&self) -> OwnRequest {
        OwnRequest { after: Some((self.life, self.last)), old: self.name.clone(), ..self.request() }
    }
}

/// An inbox that is given up.
pub(crate) struct Inbox {
    epoch: Arc<Epoch>,
    messages: Subscriber,
    wanted: usize,
    sync: String,
}

impl Inbox {
    /// Everything that is in it, or on its way to it.
    ///
    /// The library lets go of a subscription before what was on its way has arrived. So that arrives
    /// first: as much as was asked for, or until the server has answered and sends nothing more. It
    /// hands events out beside its answers, so that these alone tell nothing.
    pub(crate) async fn emptied(mut self) -> Vec<Message> {
        let mut came = Vec::new();
        // A connection that is gone sends nothing more either.
        let _ = self.epoch.round_trip(&self.sync).await;
        while self.wanted > 0 {
            match tokio::time::timeout(QUIET, self.messages.next()).await {
                Err(_) => break,
                Ok(None) => return came,
                Ok(Some(message)) => {
                    self.wanted -= usize::from(message.status.is_none());
                    came.push(message);
                }
            }
        }
        if self.messages.drain().await.is_ok() {
            while let Some(message) = self.messages.next().await {
                came.push(message);
            }
        }
        came
    }
}

async fn open_own(hub: Arc<Hub>, ask: OwnRequest) -> Result<Opened> {
    let epoch = hub.link.up().await?;
    let stream = ask.filter.stream;
    let name = hub.layout.streams[stream].name.clone();
    let mut start = ask.start;
    let mut missed = 0;
    if let Some((life, last)) = ask.after {
        hub.ensure_streams(&epoch).await?;
        let info = epoch.api.stream(&name).await?;
        start = if info.incarnation() == life {
            missed = info.state.first_seq.saturating_sub(last + 1);
            let topic = Topic::new("next")?;
            Start::After(Position::new(topic, life, u128::from(last)))
        } else {
            // Another life of the stream: everything in it is news.
            Start::All
        };
        if !ask.old.is_empty() {
            let _ = epoch.api.delete_consumer(&name, &ask.old).await;
        }
    }
    let consumer = format!("fabric-{}", EventId::generate());
    let mut config = ConsumerConfig {
        name: Some(consumer.clone()),
        ack_policy: "none".to_owned(),
        max_deliver: -1,
        filter_subjects: ask.filter.subjects,
        replay_policy: "instant".to_owned(),
        inactive_threshold: u64::try_from(OUTLIVES.as_nanos()).ok(),
        mem_storage: true,
        num_replicas: 1,
        ..ConsumerConfig::default()
    };
    begin(&mut config, &start);
    let subject = format!("{}.CONSUMER.CREATE.{name}.{consumer}", epoch.api.root);
    let made = epoch.api.make_consumer(&name, &config, Action::Create);
    let info = epoch.allowed(&subject, made).await?;
    let life = hub.life(stream);
    let (last, pending) = (info.delivered.stream_seq, info.num_pending);
    let made = Made { name: consumer.clone(), last, life, pending, missed };
    let open = inbox_on(&epoch, &name, &consumer).await?;
    Ok(Opened { open, made: Some(made) })
}

async fn open_inbox(hub: &Hub, stream: usize, consumer: &str) -> Result<Open> {
    let epoch = hub.link.up().await?;
    inbox_on(&epoch, &hub.layout.streams[stream].name, consumer).await
}

async fn inbox_on(epoch: &Arc<Epoch>, stream: &str, consumer: &str) -> Result<Open> {
    let inbox = epoch.client.new_inbox();
    let messages = epoch.client.subscribe(inbox.clone()).await;
    let messages = messages.map_err(|_| error::disconnected())?;
    Ok(Open {
        epoch: Arc::clone(epoch),
        numbers: 0,
        inbox,
        next: epoch.api.next(stream, consumer),
        messages,
        wanted: 0,
        silence: Box::pin(sleep_until(after(SILENCE))),
    })
}

fn request(batch: usize) -> Bytes {
    let (expires, heartbeat) = (OPEN.as_nanos(), HEARTBEAT.as_nanos());
    format!("{{\"batch\":{batch},\"expires\":{expires},\"idle_heartbeat\":{heartbeat}}}")
        .into_bytes()
        .into()
}

/// How much of a request was left when it ended.
fn left(message: &Message) -> Option<usize> {
    let headers: &HeaderMap = message.headers.as_ref()?;
    headers.get("Nats-Pending-Messages")?.as_str().parse().ok()
}

impl fmt::Debug for Pull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pull").field("stream", &self.stream).finish_non_exhaustive()
    }
}
