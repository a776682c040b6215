//! A backend of a few lines: it answers as the test says and notes what reached it, in order.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use fabric_core::{
    Backend, BackendInfo, Batch, Capabilities, Chunk, Confirms, DynAdmin, DynGroups, DynReplay,
    DynRequestReply, Error, ErrorKind, Event, Fabric, Group, GroupDefinition, GroupInfo,
    GroupsBackend, Health, Nack, NoticeSender, Notices, Outcomes, Patterns, Receipt, ReplayBackend,
    ReplayOptions, Replier, Request, RequestReplyBackend, Requests, RespondOptions, Result,
    Settled, Settler, Source, Start, SubscribeOptions, Subscription, Support, Timestamp,
};
use futures_core::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use tokio::sync::{Notify, Semaphore};

/// Answers one event.
type Outcome = Box<dyn FnMut(&Event) -> Result<Receipt> + Send>;

#[derive(Clone)]
pub(crate) struct Tiny(Arc<State>);

struct State {
    info: BackendInfo,
    capabilities: Mutex<Capabilities>,
    log: Mutex<Vec<String>>,
    /// What reached it, as it came.
    published: Mutex<Vec<Event>>,
    outcome: Mutex<Outcome>,
    /// Whether the synchronous path is there.
    fast: AtomicBool,
    /// A permit for each event that may be handed over.
    room: Semaphore,
    /// A permit for each batch that is confirmed; as many as anybody wants at first.
    confirming: Arc<Semaphore>,
    /// What subscriptions, replays and responders deliver next.
    feed: Mutex<Feed>,
    /// How the next settlements are answered, then `Ok`.
    settling: Mutex<VecDeque<Result<()>>>,
    /// Settlements wait until they are let go.
    held: Mutex<Option<Arc<Notify>>>,
    requests: Mutex<Vec<Request>>,
    /// It confirms no event of those it took.
    forgetful: AtomicBool,
}

#[derive(Default)]
struct Feed {
    items: VecDeque<Result<Chunk>>,
    /// What was delivered to a group.
    handed: Vec<Arc<Chunk>>,
    ended: bool,
    waker: Option<Waker>,
}

impl Tiny {
    /// It can do everything and confirms every event at once.
    pub(crate) fn new() -> Self {
        Self(Arc::new(State {
            info: BackendInfo::new("tiny", "tiny"),
            capabilities: Mutex::new(Capabilities::all(Support::Native)),
            log: Mutex::default(),
            published: Mutex::default(),
            outcome: Mutex::new(Box::new(|_| Ok(Receipt::ACCEPTED))),
            fast: AtomicBool::new(true),
            room: Semaphore::new(Semaphore::MAX_PERMITS),
            confirming: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            feed: Mutex::default(),
            settling: Mutex::default(),
            held: Mutex::default(),
            requests: Mutex::default(),
            forgetful: AtomicBool::new(false),
        }))
    }

    pub(crate) fn fabric(&self) -> Fabric {
        Fabric::new(self.clone())
    }

    pub(crate) fn can(self, capabilities: Capabilities) -> Self {
        *lock(&self.0.capabilities) = capabilities;
        self
    }

    /// Without a synchronous path.
    pub(crate) fn slow(self) -> Self {
        self.0.fast.store(false, Ordering::SeqCst);
        self
    }

    /// With room for so many events, until more is made.
    pub(crate) fn with_room(self, events: usize) -> Self {
        self.0.room.forget_permits(Semaphore::MAX_PERMITS);
        self.make_room(events);
        self
    }

    pub(crate) fn make_room(&self, events: usize) {
        self.0.room.add_permits(events);
    }

    /// With confirms that come when they are allowed to.
    pub(crate) fn confirming_later(self) -> Self {
        self.0.confirming.forget_permits(Semaphore::MAX_PERMITS);
        self
    }

    pub(crate) fn confirm(&self, batches: usize) {
        self.0.confirming.add_permits(batches);
    }

    pub(crate) fn answering(
        self,
        outcome: impl FnMut(&Event) -> Result<Receipt> + Send + 'static,
    ) -> Self {
        *lock(&self.0.outcome) = Box::new(outcome);
        self
    }

    /// What subscriptions, replays and responders yield next.
    pub(crate) fn deliver(&self, items: impl IntoIterator<Item = Result<Chunk>>) -> &Self {
        let mut feed = lock(&self.0.feed);
        feed.items.extend(items);
        if let Some(waker) = feed.waker.take() {
            waker.wake();
        }
        self
    }

    /// Subscriptions end with what they deliver.
    pub(crate) fn ending(self) -> Self {
        lock(&self.0.feed).ended = true;
        self
    }

    /// The `n`-th chunk that a group got, as the backend holds it.
    pub(crate) fn chunk(&self, n: usize) -> Arc<Chunk> {
        Arc::clone(&lock(&self.0.feed).handed[n])
    }

    pub(crate) fn try_chunk(&self, n: usize) -> Option<Arc<Chunk>> {
        lock(&self.0.feed).handed.get(n).cloned()
    }

    /// It confirms no event of those it takes.
    pub(crate) fn forgetful(self) -> Self {
        self.0.forgetful.store(true, Ordering::SeqCst);
        self
    }

    /// What the next settlements are answered.
    pub(crate) fn settle_with(&self, answers: impl IntoIterator<Item = Result<()>>) -> &Self {
        lock(&self.0.settling).extend(answers);
        self
    }

    /// Lets settlements wait until the notify.
    pub(crate) fn hold_settlements(&self) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        *lock(&self.0.held) = Some(Arc::clone(&notify));
        notify
    }

    pub(crate) fn ask(&self, request: Request) -> &Self {
        lock(&self.0.requests).push(request);
        self
    }

    /// What happened since the last look.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0.log))
    }

    pub(crate) fn published(&self) -> Vec<Event> {
        lock(&self.0.published).clone()
    }

    fn note(&self, text: impl Into<String>) {
        lock(&self.0.log).push(text.into());
    }

    fn take(&self, batch: Batch, to: &str) -> Confirms {
        for event in &batch.events {
            self.note(format!("submit {} {}{to}", event.topic(), event.id()));
        }
        lock(&self.0.published).extend(batch.events.iter().cloned());
        if batch.events.is_empty() {
            self.note("flush");
            return Confirms::ready(Outcomes::each([]));
        }
        if self.0.forgetful.load(Ordering::SeqCst) {
            return Confirms::ready(Outcomes::each([]));
        }
        if self.0.confirming.try_acquire().map(tokio::sync::SemaphorePermit::forget).is_ok() {
            let mut outcome = lock(&self.0.outcome);
            return batch.confirm(&mut *outcome);
        }
        let this = self.clone();
        Confirms::pending(async move {
            if let Ok(permit) = this.0.confirming.acquire().await {
                permit.forget();
            }
            let mut outcome = lock(&this.0.outcome);
            Outcomes::each(batch.events.iter().map(&mut *outcome))
        })
    }

    fn next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk>>> {
        let mut feed = lock(&self.0.feed);
        match feed.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if feed.ended => Poll::Ready(None),
            None => {
                feed.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn stream(&self) -> impl futures_core::Stream<Item = Result<Event>> + Send + 'static {
        let this = self.clone();
        stream::poll_fn(move |cx| this.next(cx)).flat_map(|chunk| {
            stream::iter(match chunk {
                Ok(chunk) => chunk.events().iter().cloned().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        })
    }
}

/// What a member of a group gets.
struct Member {
    tiny: Tiny,
    group: Group,
    ended: bool,
}

impl Source for Member {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        assert!(!self.ended, "a source is not asked again after its end");
        let Some(chunk) = ready!(self.tiny.next(cx)) else {
            self.ended = true;
            return Poll::Ready(None);
        };
        Poll::Ready(Some(chunk.map(|chunk| {
            let settler = Arc::new(self.tiny.clone());
            let chunk = Arc::new(chunk.with_settler(self.group.clone(), settler));
            lock(&self.tiny.0.feed).handed.push(Arc::clone(&chunk));
            chunk
        })))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.tiny.note("leave");
        Poll::Ready(Ok(()))
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Tiny {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tiny")
    }
}

impl Backend for Tiny {
    fn info(&self) -> &BackendInfo {
        &self.0.info
    }

    fn capabilities(&self) -> Capabilities {
        *lock(&self.0.capabilities)
    }

    fn notices(&self) -> Notices {
        NoticeSender::new().listen()
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        let room = u32::try_from(batch.events.len()).unwrap();
        if !self.0.fast.load(Ordering::SeqCst) {
            return Err(batch);
        }
        match self.0.room.try_acquire_many(room) {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(batch),
        }
        Ok(self.take(batch, ""))
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        let room = u32::try_from(batch.events.len()).unwrap();
        let deadline = batch
            .deadline()
            .unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(86_400));
        match tokio::time::timeout_at(deadline, self.0.room.acquire_many(room)).await {
            Ok(Ok(permit)) => permit.forget(),
            Ok(Err(_)) => return Err(Error::new(ErrorKind::Closed, "tiny is closed")),
            Err(_) => {
                let full = || Err(Error::new(ErrorKind::Full, "tiny is full"));
                return Ok(batch.confirm(|_| full()));
            }
        }
        Ok(self.take(batch, ""))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        self.note(format!("subscribe {}", options.patterns));
        let Some(group) = options.durable_group().cloned() else {
            return Ok(Subscription::live(self.stream()));
        };
        let member = Member { tiny: self.clone(), group, ended: false };
        Ok(Subscription::from_source(member).with_definition(GroupDefinition::of(&options)))
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        Some(self)
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        Some(self)
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        Some(self)
    }

    fn admin(&self) -> Option<&dyn DynAdmin> {
        None
    }

    async fn health(&self) -> Health {
        Health::up(Duration::ZERO)
    }

    async fn close(&self, _: Duration) -> Result<()> {
        self.note("close");
        self.0.room.close();
        Ok(())
    }
}

impl ReplayBackend for Tiny {
    async fn replay(&self, options: ReplayOptions) -> Result<Subscription> {
        self.note(format!("replay {}", options.patterns));
        Ok(Subscription::live(self.stream()))
    }
}

impl RequestReplyBackend for Tiny {
    /// The answer is the request, with what it was asked as a header.
    async fn request(&self, mut request: Event, _: Duration) -> Result<Event> {
        self.note(format!("request {}", request.topic()));
        let asked = format!("{:?}", request.headers());
        request.set_header("asked", asked.replace('"', ""))?;
        Ok(request)
    }

    async fn respond(&self, _: RespondOptions) -> Result<Requests> {
        let requests = std::mem::take(&mut *lock(&self.0.requests));
        Ok(Requests::new(stream::iter(requests.into_iter().map(Ok))))
    }
}

/// Keeps the answer to one request.
#[derive(Clone, Default)]
pub(crate) struct Answer(Arc<Mutex<Option<Result<Event, String>>>>);

impl Answer {
    pub(crate) fn get(&self) -> Option<Result<Event, String>> {
        lock(&self.0).clone()
    }
}

impl Replier for Answer {
    fn reply(self: Box<Self>, answer: Result<Event, String>) -> BoxFuture<'static, Result<()>> {
        *lock(&self.0) = Some(answer);
        Box::pin(async { Ok(()) })
    }
}

impl GroupsBackend for Tiny {
    async fn define(&self, group: &Group, _: GroupDefinition) -> Result<()> {
        self.note(format!("define {group}"));
        Ok(())
    }

    async fn redefine(&self, group: &Group, _: Patterns) -> Result<()> {
        self.note(format!("redefine {group}"));
        Ok(())
    }

    async fn reset(&self, group: &Group, _: Start) -> Result<()> {
        self.note(format!("reset {group}"));
        Ok(())
    }

    async fn delete(&self, group: &Group) -> Result<()> {
        self.note(format!("delete {group}"));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Group>> {
        Ok(vec![Group::new("g")?])
    }

    async fn info(&self, group: &Group) -> Result<GroupInfo> {
        let definition = GroupDefinition::new(fabric_core::IntoPatterns::into_patterns("#")?);
        Ok(GroupInfo::new(group.clone(), definition, 1, Vec::new()))
    }

    async fn send_to(
        &self,
        group: &Group,
        batch: Batch,
        _: Option<Timestamp>,
        attempt: u32,
    ) -> Result<Confirms> {
        Ok(self.take(batch, &format!(" to {group} attempt {attempt}")))
    }
}

impl Tiny {
    fn settle(&self, what: &str, chunk: &Chunk, mask: u64) -> Settled {
        let ids = chunk.events().iter().enumerate().filter(|(n, _)| mask & 1 << n != 0);
        let ids: Vec<_> = ids.map(|(_, event)| event.id().to_string()).collect();
        let answer = lock(&self.0.settling).pop_front().unwrap_or(Ok(()));
        let failed = if answer.is_err() { " (failed)" } else { "" };
        let text = format!("{what}{failed} {}", ids.join(","));
        let held = lock(&self.0.held).clone();
        let Some(held) = held else {
            self.note(text);
            return Settled::Done(answer);
        };
        let this = self.clone();
        Settled::Pending(Box::pin(async move {
            held.notified().await;
            this.note(text);
            answer
        }))
    }
}

impl Settler for Tiny {
    fn ack(&self, chunk: &Arc<Chunk>, mask: u64, complete: bool) -> Settled {
        self.settle(if complete { "ack all" } else { "ack" }, chunk, mask)
    }

    fn nack(&self, chunk: &Arc<Chunk>, mask: u64, nack: &Nack) -> Settled {
        let delay = nack.delay.map(|delay| format!(" after {delay:?}")).unwrap_or_default();
        self.settle(&format!("nack{delay}"), chunk, mask)
    }

    fn progress(&self, chunk: &Arc<Chunk>, mask: u64) -> Settled {
        self.settle("progress", chunk, mask)
    }

    fn dropped(&self, chunk: &Arc<Chunk>, mask: u64) {
        let ids = chunk.events().iter().enumerate().filter(|(n, _)| mask & 1 << n != 0);
        let ids: Vec<_> = ids.map(|(_, event)| event.id().to_string()).collect();
        self.note(format!("dropped {}", ids.join(",")));
    }
}

/// An event called `id` on `a.b`.
pub(crate) fn event(id: &str) -> Event {
    Event::to("a.b").id(id).text(id).build().unwrap()
}

/// A chunk of events, tried for the first time.
pub(crate) fn chunk<const N: usize>(ids: [&str; N]) -> Chunk {
    let events: Vec<Event> = ids.into_iter().map(event).collect();
    Chunk::new(Arc::new(events), 0, N, Timestamp::now()).with_attempt(1)
}

/// The ids of some events.
pub(crate) fn ids<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<String> {
    events.into_iter().map(|event| event.id().to_string()).collect()
}
