//! Subscriptions over JetStream: members of groups, and readers of their own.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use async_nats::Message;
use fabric_core::{
    Chunk, Error, ErrorKind, Event, Group, MAX_CHUNK, NoticeKind, Places, Position, Result, Source,
    Start, SubscribeOptions, Subscription,
};
use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use tokio::time::Instant;

use crate::group::{Joined, Selection};
use crate::hub::{Hub, at_once};
use crate::member::Member;
use crate::overrun::{self, Told};
use crate::pull::{Arrived, Inbox, Pull, Pulled};
use crate::read::{Decoder, Kept, Sent};
use crate::seen::Part;
use crate::wire::Messages;

impl Hub {
    /// Opens a subscription.
    pub(crate) async fn open(self: &Arc<Self>, options: SubscribeOptions) -> Result<Subscription> {
        self.check_open()?;
        match options.durable_group().cloned() {
            Some(group) => self.open_member(&group, &options).await,
            None => self.open_plain(&options).await,
        }
    }

    async fn open_member(
        self: &Arc<Self>,
        group: &Group,
        options: &SubscribeOptions,
    ) -> Result<Subscription> {
        let joined = self.join(group, options).await?;
        let prefetch = options.prefetch.unwrap_or(self.config.prefetch);
        let definition = joined.definition.clone();
        let member = Member::new(self, group, options.ack_mode, prefetch, definition.ack_wait);
        self.announce(&member).await?;
        let pulls = pulls(self, &joined, group);
        let selection = joined.selection.clone();
        let epoch = self.link.up_soon().await?;
        let (streams, mut told) = (joined.streams(), Told::default());
        let missed = self.overrun(&epoch, group, &streams, &mut told).await?.missed;
        let held = Held { member: Arc::clone(&member), joined };
        let mut reader = Reader::new(self, pulls, selection, prefetch, Some(held));
        if missed > 0 {
            reader.lag(missed);
        }
        let reader = Arc::new(Mutex::new(reader));
        member.read_by(&reader);
        member.watch(overrun::watch(Arc::clone(self), Arc::downgrade(&member), told));
        Ok(Subscription::from_source(SharedReader(reader)).with_definition(definition))
    }

    async fn open_plain(self: &Arc<Self>, options: &SubscribeOptions) -> Result<Subscription> {
        let start = options.start.clone().unwrap_or(Start::New);
        let epoch = self.link.up_soon().await?;
        self.check_places(&epoch, &start).await?;
        let mut pulls = Vec::new();
        for filter in self.layout.filters(&options.patterns, None)? {
            pulls.push(Pull::own(self, &options.patterns, filter, &start).await?);
        }
        let prefetch = options.prefetch.unwrap_or(self.config.prefetch);
        let selection = Selection::new(options.patterns.clone(), Some(&start));
        Ok(Subscription::from_source(Reader::new(self, pulls, selection, prefetch, None)))
    }
}

fn pulls(hub: &Arc<Hub>, joined: &Joined, group: &Group) -> Vec<Pull> {
    joined.parts.iter().map(|part| Pull::of_group(hub, part.stream, group.as_str())).collect()
}

/// Events that came together.
struct Came {
    /// Of which stream.
    stream: usize,
    arrived: Arrived,
    /// When they came, or a little earlier.
    since: Instant,
}

/// What makes a reader a member.
struct Held {
    member: Arc<Member>,
    joined: Joined,
}

/// What reads for a subscription.
pub(crate) struct Reader {
    hub: Arc<Hub>,
    pulls: Vec<Pull>,
    turn: usize,
    decoder: Decoder,
    selection: Selection,
    prefetch: usize,
    held: Option<Held>,
    /// A look at what the group is now, and the events that wait for it.
    looking: Option<BoxFuture<'static, Result<Selection>>>,
    waiting: VecDeque<Came>,
    /// The last event for which the group was looked at again.
    seen_last: Option<u64>,
    recovering: Option<BoxFuture<'static, Result<Joined>>>,
    troubles: VecDeque<Error>,
    /// What came while nobody looked.
    ready: VecDeque<Arc<Chunk>>,
    /// Somebody waits for the next event.
    parked: bool,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
    leaving: Option<BoxFuture<'static, ()>>,
    over: bool,
}

impl Reader {
    fn new(
        hub: &Arc<Hub>,
        pulls: Vec<Pull>,
        selection: Selection,
        prefetch: usize,
        held: Option<Held>,
    ) -> Self {
        let mut closed = hub.closed.subscribe();
        Self {
            hub: Arc::clone(hub),
            pulls,
            turn: 0,
            decoder: Decoder::new(hub.config.profile),
            selection,
            prefetch,
            held,
            looking: None,
            waiting: VecDeque::new(),
            seen_last: None,
            recovering: None,
            troubles: VecDeque::new(),
            ready: VecDeque::new(),
            parked: false,
            closed: Box::pin(async move {
                let _ = closed.wait_for(|closed| *closed).await;
            }),
            leaving: None,
            over: false,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        loop {
            if let Some(trouble) = self.troubles.pop_front() {
                return Poll::Ready(Some(Err(trouble)));
            }
            if self.over {
                return Poll::Ready(None);
            }
            if self.hub.is_closing() || self.closed.as_mut().poll(cx).is_ready() {
                self.leave();
                continue;
            }
            ready!(self.poll_group(cx));
            if let Some(chunk) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(chunk)));
            }
            if let Some(chunk) = self.waiting_chunk() {
                return Poll::Ready(Some(Ok(chunk)));
            }
            if self.over || !self.troubles.is_empty() {
                continue;
            }
            if self.looking.is_some() {
                // The events that were looked at again are looked at with what is known now.
                continue;
            }
            if let Some(chunk) = ready!(self.poll_pulls(cx)) {
                return Poll::Ready(Some(Ok(chunk)));
            }
        }
    }

    /// Deals with what happened to the group; pending while that takes time.
    fn poll_group(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(held) = &mut self.held else { return Poll::Ready(()) };
        held.member.waker.register(cx.waker());
        if held.member.take_suspect() {
            self.pulls.iter_mut().for_each(Pull::give_up);
            self.waiting.clear();
        }
        if held.member.take_renewed() && self.recovering.is_none() {
            self.recover();
        }
        if let Some(recovering) = &mut self.recovering {
            let joined = ready!(recovering.as_mut().poll(cx));
            self.recovering = None;
            match joined {
                Ok(joined) => self.rejoin(joined),
                Err(error) => self.fail(error),
            }
        }
        if let Some(looking) = &mut self.looking {
            let seen = ready!(looking.as_mut().poll(cx));
            self.looking = None;
            match seen {
                Ok(selection) => self.select(selection),
                Err(error) if error.kind() == ErrorKind::NotFound => self.recover(),
                // What cannot be looked at comes again.
                Err(_) => self.give_back_waiting(),
            }
        }
        Poll::Ready(())
    }

    fn select(&mut self, selection: Selection) {
        self.selection = selection;
        self.decoder.forget_matches();
    }

    fn recover(&mut self) {
        let Some(held) = &self.held else { return };
        let (hub, member, known) =
            (Arc::clone(&self.hub), Arc::clone(&held.member), held.joined.clone());
        self.recovering = Some(async move { hub.recover(&member, &known).await }.boxed());
    }

    fn rejoin(&mut self, joined: Joined) {
        let Some(held) = &mut self.held else { return };
        if joined.created != held.joined.created {
            // Another consumer: what is held belongs to one that is gone.
            held.member.revoke_all();
            held.member.take_suspect();
            self.waiting.clear();
        }
        let group = held.member.group().clone();
        self.select(joined.selection.clone());
        let Some(held) = &mut self.held else { return };
        if joined.streams() == held.joined.streams() {
            self.pulls.iter_mut().for_each(Pull::begin_anew);
        } else {
            self.pulls = pulls(&self.hub, &joined, &group);
        }
        held.joined = joined;
    }

    fn poll_pulls(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arc<Chunk>>> {
        let count = self.pulls.len();
        for _ in 0..count {
            self.turn = (self.turn + 1) % count;
            let room = self.room(self.turn);
            let mut arrived = Arrived::default();
            let pull = &mut self.pulls[self.turn];
            match pull.poll(cx, room, MAX_CHUNK, &mut arrived) {
                Poll::Pending => continue,
                Poll::Ready(Pulled::Events) => {
                    let came = Came { stream: pull.stream, arrived, since: Instant::now() };
                    self.waiting.push_back(came);
                    return Poll::Ready(self.waiting_chunk());
                }
                Poll::Ready(Pulled::Gone) if self.held.is_some() => {
                    if self.recovering.is_none() {
                        self.recover();
                    }
                }
                Poll::Ready(Pulled::Gone) => self.pulls[self.turn].begin_anew(),
                Poll::Ready(Pulled::Trouble(error)) if error.kind() == ErrorKind::Lagged => {
                    self.lag(error.missed().unwrap_or(0));
                }
                Poll::Ready(Pulled::Trouble(error)) => self.fail(error),
            }
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// The streams that it reads.
    pub(crate) fn streams(&self) -> Vec<usize> {
        self.held.as_ref().map(|held| held.joined.streams()).unwrap_or_default()
    }

    /// Tells that events were lost to retention.
    pub(crate) fn lag(&mut self, missed: u64) {
        let group = self.held.as_ref().map(|held| held.member.group().clone());
        self.hub.link.notices.send(NoticeKind::Lagging { group, missed });
        // As long as nobody looks, one sum is enough.
        let untold = match self.troubles.back() {
            Some(last) if last.kind() == ErrorKind::Lagged => self.troubles.pop_back(),
            _ => None,
        };
        let before = untold.and_then(|error| error.missed()).unwrap_or(0);
        self.troubles.push_back(Error::lagged(before + missed));
    }

    /// Called by the member's clock. While nobody polls, the leases of what arrives begin all the
    /// same, with the last beat; and where a lease `ended` unsettled, the member is stuck: what it
    /// asked for is left to others until somebody polls again.
    pub(crate) fn look_after(&mut self, last_beat: Instant, ended: bool) {
        if self.parked || self.over || self.looking.is_some() || self.recovering.is_some() {
            return;
        }
        if ended {
            let inboxes: Vec<Inbox> = self.pulls.iter_mut().filter_map(Pull::drain).collect();
            self.give_back_inboxes(inboxes);
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        for part in 0..self.pulls.len() {
            let mut arrived = Arrived::default();
            // There is no room as far as this goes: nothing is asked for.
            if self.pulls[part].is_open()
                && let Poll::Ready(Pulled::Events) =
                    self.pulls[part].poll(&mut cx, 0, MAX_CHUNK, &mut arrived)
            {
                let stream = self.pulls[part].stream;
                self.waiting.push_back(Came { stream, arrived, since: last_beat });
            }
        }
        while let Some(chunk) = self.waiting_chunk() {
            self.ready.push_back(chunk);
        }
    }

    fn give_back_inboxes(&self, inboxes: Vec<Inbox>) {
        let hub = Arc::clone(&self.hub);
        self.hub.finish(
            async move {
                for inbox in inboxes {
                    inbox.emptied().await.iter().for_each(|message| nak(&hub, message));
                }
            }
            .boxed(),
        );
    }

    /// How many events this part may have asked for.
    fn room(&self, part: usize) -> usize {
        let others: usize = self.pulls.iter().map(Pull::wanted).sum();
        let own = self.pulls[part].wanted();
        match &self.held {
            None => self.prefetch,
            Some(held) => {
                let room = held.member.room();
                if room < held.member.prefetch() {
                    held.member.starve();
                }
                // Where several streams are read each has a request of its own.
                let share = room.saturating_sub(others - own).max(usize::from(own == 0));
                if room == 0 { 0 } else { share.max(own.min(room)) }
            }
        }
    }

    /// The chunk of what has waited longest, unless that has to be looked at again first.
    fn waiting_chunk(&mut self) -> Option<Arc<Chunk>> {
        while self.looking.is_none()
            && let Some(came) = self.waiting.pop_front()
        {
            let last = came.arrived.sents.last().map(|sent| sent.stored);
            let strangers = self.has_strangers(&came);
            if strangers
                && self.seen_last != last
                && let Some(group) = self.held.as_ref().map(|held| held.member.group().clone())
            {
                // Either the server hands out more than the patterns say, or they are others by now.
                self.seen_last = last;
                let hub = Arc::clone(&self.hub);
                self.waiting.push_front(came);
                self.looking = Some(async move { hub.look_again(&group).await }.boxed());
                return None;
            }
            let came = if strangers { self.sorted_out(came) } else { came };
            let chunk = self.chunk(came);
            if chunk.is_some() {
                return chunk;
            }
        }
        None
    }

    fn has_strangers(&mut self, came: &Came) -> bool {
        let Arrived { messages, sents } = &came.arrived;
        messages
            .iter()
            .zip(sents)
            .any(|(message, sent)| self.is_stranger(came.stream, message, sent))
    }

    /// What is left without the events that are not for this subscription.
    fn sorted_out(&mut self, came: Came) -> Came {
        let Came { stream, arrived, since } = came;
        let mut left = Arrived::default();
        for (message, sent) in arrived.messages.into_iter().zip(arrived.sents) {
            if self.is_stranger(stream, &message, &sent) {
                self.pass_over(&message);
            } else {
                left.messages.push(message);
                left.sents.push(sent);
            }
        }
        Came { stream, arrived: left, since }
    }

    fn chunk(&mut self, came: Came) -> Option<Arc<Chunk>> {
        let Came { stream, arrived: Arrived { messages, sents }, since } = came;
        if messages.is_empty() {
            return None;
        }
        let received = fabric_core::clock::wall_at(since);
        let life = self.hub.life(stream);
        let count = messages.len();
        let mut events: Vec<Event> = Vec::with_capacity(count);
        let mut attempts = Vec::with_capacity(count);
        let mut faults = Vec::new();
        for (message, sent) in messages.iter().zip(&sents) {
            let kept = Kept { life, stored: sent.stored };
            let read = self.decoder.read(&self.hub.layout, message, Some(kept), received);
            if let Some(fault) = read.fault {
                faults.push((events.len(), fault));
            }
            attempts.push(read.attempt.saturating_add(sent.delivered.saturating_sub(1)));
            events.push(read.event);
        }
        let places = laid(&events, life, &sents);
        let mut chunk = Chunk::new(Arc::new(events), 0, count, received)
            .with_places(places)
            .with_handle(Arc::new(Messages(messages)));
        chunk = match &self.held {
            None => chunk,
            Some(_) if attempts.iter().all(|attempt| *attempt == 1) => chunk.with_attempt(1),
            Some(_) => chunk.with_attempts(attempts.into()),
        };
        for (n, fault) in faults {
            chunk = chunk.with_fault(n, fault);
        }
        Some(match &self.held {
            Some(held) => {
                held.member.note_backlog(sents.last().is_some_and(|sent| sent.pending > 0));
                held.member.take_in(chunk, since)
            }
            None => Arc::new(chunk),
        })
    }

    /// Whether an event is none of those that were asked for.
    fn is_stranger(&mut self, stream: usize, message: &Message, sent: &Sent) -> bool {
        let seen = self.decoder.look(&self.hub.layout, &message.subject);
        match seen.part {
            Part::Inbox => false,
            Part::Foreign => true,
            // What is on a subject that is no topic goes to the dead letters.
            Part::Events if seen.fault.is_some() => false,
            Part::Events => match self.selection.always() {
                Some(patterns) => !seen.matches(patterns),
                None => {
                    let name = &self.hub.layout.streams[stream].name;
                    let life = self.hub.life(stream);
                    !self.selection.wants(&seen.topic, name, life, sent.stored)
                }
            },
        }
    }

    /// Settles an event that is not for this subscription.
    fn pass_over(&self, message: &Message) {
        if self.held.is_none() {
            return;
        }
        if let (Some(epoch), Some(reply)) = (self.hub.link.now(), message.reply.clone()) {
            let payload = bytes::Bytes::from_static(b"+ACK");
            // Where it does not arrive, the event comes again and is passed over again.
            let _ = at_once(epoch.client.publish(reply, payload));
        }
    }

    fn give_back_waiting(&mut self) {
        for came in std::mem::take(&mut self.waiting) {
            came.arrived.messages.iter().for_each(|message| nak(&self.hub, message));
        }
    }

    fn fail(&mut self, error: Error) {
        self.leave();
        if let Some(held) = &self.held {
            held.member.revoke_all();
        }
        self.troubles.push_back(error);
    }

    /// Leaves: what nobody has comes again at once. That takes a round trip, which a future does.
    pub(crate) fn leave(&mut self) {
        if self.over {
            return;
        }
        self.over = true;
        let Some(held) = &self.held else {
            self.pulls.clear();
            return;
        };
        let member = Arc::clone(&held.member);
        let unseen = member.withdraw();
        let waiting = std::mem::take(&mut self.waiting);
        let waiting: Vec<Message> =
            waiting.into_iter().flat_map(|came| came.arrived.messages).collect();
        self.ready.clear();
        let inboxes: Vec<Inbox> = self.pulls.iter_mut().filter_map(Pull::drain).collect();
        let hub = Arc::clone(&self.hub);
        self.leaving = Some(
            async move {
                let mut messages = waiting;
                for inbox in inboxes {
                    messages.extend(inbox.emptied().await);
                }
                // The server has no request of this member's any more to which it could give the
                // same events again.
                messages.iter().for_each(|message| nak(&hub, message));
                member.give_back(&unseen);
            }
            .boxed(),
        );
    }

    /// What is left to be done after it left.
    pub(crate) fn take_leaving(&mut self) -> Option<BoxFuture<'static, ()>> {
        self.leaving.take()
    }
}

impl Source for Reader {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let next = self.poll_next(cx);
        self.parked = next.is_pending();
        next
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.leave();
        if let Some(leaving) = &mut self.leaving {
            ready!(leaving.as_mut().poll(cx));
            self.leaving = None;
        }
        Poll::Ready(Ok(()))
    }
}

/// A member's reader, which its clock looks after too.
struct SharedReader(Arc<Mutex<Reader>>);

impl Source for SharedReader {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_chunk(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_close(cx)
    }
}

impl Drop for SharedReader {
    fn drop(&mut self) {
        // The member's clock may look at it for a moment more.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).leave();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.leave();
        if let Some(leaving) = self.leaving.take() {
            self.hub.finish(leaving);
        }
    }
}

fn nak(hub: &Hub, message: &Message) {
    let Some(reply) = message.reply.clone().filter(|_| message.status.is_none()) else { return };
    if let Some(epoch) = hub.link.now() {
        let payload = bytes::Bytes::from_static(b"-NAK");
        // Where it does not arrive, the event comes again when the server's lease ends.
        let _ = at_once(epoch.client.publish(reply, payload));
    }
}

/// Where events lie: as neighbours, if they are.
fn laid(events: &[Event], life: u64, sents: &[Sent]) -> Places {
    let first = sents.first().map_or(0, |sent| sent.stored);
    if sents.iter().zip(first..).all(|(sent, stored)| sent.stored == stored) {
        return Places::Run { incarnation: life, first };
    }
    let each = events
        .iter()
        .zip(sents)
        .map(|(event, sent)| Position::new(event.topic().clone(), life, u128::from(sent.stored)));
    Places::Each(each.collect())
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("pulls", &self.pulls).finish_non_exhaustive()
    }
}
