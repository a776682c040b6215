//! A subscription: a stream of deliveries over whatever source a backend has.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use crate::chunk::{Chunk, DeliveryInfo, Observer, Settlement, Settler};
use crate::dead_letter::{DeadLetterOffice, DeadLetterReason};
use crate::delivery::{Delivery, DeliveryBatch, Spent, bury_now};
use crate::event::Event;
use crate::fabric::Listing;
use crate::group::Group;
use crate::options::GroupDefinition;
use crate::stats::Stats;
use crate::time::{Timestamp, far_future};
use crate::{Error, ErrorKind, Result};

/// How many deliveries of one chunk cost a task as much of its budget as one wait does.
const DELIVERIES_PER_UNIT: u32 = 16;

/// Where a subscription's deliveries come from, implemented by a backend.
///
/// Dropping a source leaves its group; what it had not handed out comes again at once.
pub trait Source: Send + 'static {
    /// The next chunk; `None` once nothing more will come.
    ///
    /// An `Err` does not end the source unless its kind is `Closed`.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>>;

    /// Leaves: sends what is settled, gives back what was not handed out.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
}

/// A stream of deliveries.
///
/// It yields `Err` for what went wrong along the way, such as `Lagged` or an event that could not
/// be read, and goes on; it ends after `None`. Dropping it leaves the group: what was not handed
/// out comes again at once, what was handed out can still be settled.
pub struct Subscription {
    source: Option<Box<dyn Source>>,
    current: Option<Arc<Chunk>>,
    next: u32,
    /// Whether each delivery of the current chunk that is still open is handed out as it came.
    plain: bool,
    /// Deliveries that `recv_batch` took and has not returned yet.
    gathered: DeliveryBatch,
    /// Since when `recv_batch` gathers, and what wakes it when it has done so for long enough.
    linger: Option<(Instant, Pin<Box<Sleep>>)>,
    /// An error that is returned once the deliveries before it were.
    held: VecDeque<Error>,
    definition: Option<GroupDefinition>,
    office: Option<Arc<DeadLetterOffice>>,
    burials: FuturesUnordered<BoxFuture<'static, Result<()>>>,
    stats: Option<Arc<Stats>>,
    listing: Option<Listing>,
}

impl Subscription {
    /// From a backend's own source.
    #[must_use]
    pub fn from_source(source: impl Source) -> Self {
        Self {
            source: Some(Box::new(source)),
            current: None,
            next: 0,
            plain: false,
            gathered: DeliveryBatch::default(),
            linger: None,
            held: VecDeque::new(),
            definition: None,
            office: None,
            burials: FuturesUnordered::new(),
            stats: None,
            listing: None,
        }
    }

    /// From a stream of events with nothing to settle.
    #[must_use]
    pub fn live(events: impl Stream<Item = Result<Event>> + Send + 'static) -> Self {
        let chunks = events.map(|event| event.map(|event| Arc::new(Chunk::one(event))));
        Self::from_source(StreamSource(Box::pin(chunks)))
    }

    /// From a stream of chunks of a group, and what settles them.
    #[must_use]
    pub fn group(
        chunks: impl Stream<Item = Result<Chunk>> + Send + 'static,
        group: Group,
        settler: Arc<dyn Settler>,
    ) -> Self {
        let chunks = chunks.map(move |chunk| {
            chunk.map(|c| Arc::new(c.with_settler(group.clone(), Arc::clone(&settler))))
        });
        Self::from_source(StreamSource(Box::pin(chunks)))
    }

    /// Says what is stored with the group that it joined.
    #[must_use]
    pub fn with_definition(mut self, definition: GroupDefinition) -> Self {
        self.definition = Some(definition);
        self
    }

    /// What is stored with the group that it joined; none without a group.
    #[must_use]
    pub fn definition(&self) -> Option<&GroupDefinition> {
        self.definition.as_ref()
    }

    /// The same deliveries with each event changed on the way, for layers.
    ///
    /// An event for which `change` fails goes to the dead letters in a group, and is an error in
    /// the stream without one.
    #[must_use]
    pub fn map_events(
        mut self,
        change: impl Fn(&mut Event, &DeliveryInfo) -> Result<()> + Send + 'static,
    ) -> Self {
        if let Some(inner) = self.source.take() {
            self.source = Some(Box::new(MapSource { inner, change, settled: None }));
        }
        self
    }

    /// As [`map_events`](Self::map_events), and calls `settled` once for each event that was
    /// settled, with the event as `change` left it.
    #[must_use]
    pub fn map_events_observed(
        mut self,
        change: impl Fn(&mut Event, &DeliveryInfo) -> Result<()> + Send + 'static,
        settled: impl Fn(&Event, &DeliveryInfo, Settlement) + Send + Sync + 'static,
    ) -> Self {
        if let Some(inner) = self.source.take() {
            let settled: Option<Observer> = Some(Arc::new(settled));
            self.source = Some(Box::new(MapSource { inner, change, settled }));
        }
        self
    }

    /// The same subscription over a source that wraps its own, for layers.
    #[must_use]
    pub fn map_source<S: Source>(mut self, wrap: impl FnOnce(Box<dyn Source>) -> S) -> Self {
        self.source = self.source.take().map(|inner| Box::new(wrap(inner)) as Box<dyn Source>);
        self
    }

    /// The next delivery; `None` once the subscription has ended.
    ///
    /// # Errors
    /// An item may be an error, `Lagged` or an event that could not be read; the next may be fine.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: a delivery is returned by exactly one call.
    pub async fn recv(&mut self) -> Option<Result<Delivery>> {
        std::future::poll_fn(|cx| self.poll_delivery(cx)).await
    }

    /// At least one delivery and at most `max`: what is there, and what comes within `linger`.
    /// `None` once the subscription has ended.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), once the deliveries before the error were returned.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: what it had gathered is returned by the next call.
    pub async fn recv_batch(
        &mut self,
        max: usize,
        linger: Duration,
    ) -> Option<Result<DeliveryBatch>> {
        let max = max.max(1);
        std::future::poll_fn(|cx| self.poll_batch(cx, max, linger)).await
    }

    /// Leaves: sends what is settled and gives back what was not handed out. Deliveries that are
    /// still held can be settled until their leases end.
    ///
    /// # Errors
    /// What the broker answered; the subscription is over all the same.
    ///
    /// # Cancel safety
    /// Dropped midway it is as if the subscription had been dropped.
    pub async fn close(mut self) -> Result<()> {
        // Events on their way to the dead letters get there first.
        while let Some(buried) = self.burials.next().await {
            drop(buried);
        }
        std::mem::take(&mut self.gathered).give_back().await;
        let Some(mut source) = self.source.take() else { return Ok(()) };
        self.current = None;
        std::future::poll_fn(|cx| source.poll_close(cx)).await
    }

    pub(crate) fn attach(
        &mut self,
        office: Option<Arc<DeadLetterOffice>>,
        stats: Arc<Stats>,
        listing: Listing,
    ) {
        self.office = office;
        self.stats = Some(stats);
        self.listing = Some(listing);
    }

    /// Makes `error` the first item.
    pub(crate) fn begin_with(&mut self, error: Error) {
        self.held.push_front(error);
    }

    /// As [`recv`](Self::recv), for whoever settled `spent` and has no more use for it.
    pub(crate) fn poll_after(
        &mut self,
        spent: &mut Option<Spent>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Delivery>>> {
        if let Some((chunk, index)) = self.next_plain()
            && let Some(spent) = spent.take_if(|spent| spent.is_of(chunk))
        {
            chunk.hand_out(index + 1);
            if index + 1 < chunk.len() as u32 {
                self.next += 1;
            } else {
                (self.current, self.next) = (None, 0);
            }
            return Poll::Ready(Some(Ok(spent.renew(index))));
        }
        self.poll_delivery(cx)
    }

    pub(crate) fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        if let Some((chunk, index)) = self.take_plain() {
            return Poll::Ready(Some(Ok(Delivery::new(chunk, index))));
        }
        if !self.gathered.is_empty() {
            let mut held = std::mem::take(&mut self.gathered).into_deliveries().into_iter();
            let first = held.next();
            for delivery in held {
                delivery.put_into(&mut self.gathered);
            }
            if self.gathered.is_empty() {
                self.linger = None;
            }
            if let Some(first) = first {
                return Poll::Ready(Some(Ok(first)));
            }
        }
        // The deliveries of a chunk are there already. Were each to cost as much of the task's
        // budget as a publish does, a backlog would never shrink while its publisher goes on.
        let budget = match self.next.is_multiple_of(DELIVERIES_PER_UNIT) {
            true => Some(ready!(coop::poll_proceed(cx))),
            false => None,
        };
        let next = self.poll_index(cx);
        if let (Some(budget), true) = (budget, next.is_ready()) {
            budget.made_progress();
        }
        next.map(|next| next.map(|next| next.map(|(chunk, index)| Delivery::new(chunk, index))))
    }

    /// The next delivery where it is one more of a chunk whose first was handed out.
    #[inline]
    fn next_plain(&self) -> Option<(&Arc<Chunk>, u32)> {
        let index = self.next;
        if !self.plain || index.is_multiple_of(DELIVERIES_PER_UNIT) || !self.gathered.is_empty() {
            return None;
        }
        let chunk = self.current.as_ref().filter(|chunk| chunk.closed() & 1 << index == 0)?;
        Some((chunk, index))
    }

    /// The way of nearly every delivery.
    #[inline]
    fn take_plain(&mut self) -> Option<Place> {
        let (chunk, index) = self.next_plain()?;
        chunk.hand_out(index + 1);
        if index + 1 < chunk.len() as u32 {
            let chunk = Arc::clone(chunk);
            self.next += 1;
            return Some((chunk, index));
        }
        self.next = 0;
        Some((self.current.take()?, index))
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        linger: Duration,
    ) -> Poll<Option<Result<DeliveryBatch>>> {
        let budget = ready!(coop::poll_proceed(cx));
        let batch = ready!(self.poll_gather(cx, max, linger));
        self.linger = None;
        budget.made_progress();
        Poll::Ready(batch)
    }

    fn poll_gather(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        linger: Duration,
    ) -> Poll<Option<Result<DeliveryBatch>>> {
        while self.gathered.len() < max {
            if self.gather_run(max) {
                continue;
            }
            match self.poll_index(cx) {
                Poll::Ready(Some(Ok((chunk, index)))) => self.gathered.push(&chunk, index),
                Poll::Ready(end) if self.gathered.is_empty() => {
                    return Poll::Ready(end.map(|end| end.map(|_| DeliveryBatch::default())));
                }
                Poll::Ready(end) => {
                    self.held.extend(end.and_then(Result::err));
                    break;
                }
                Poll::Pending if self.gathered.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.poll_linger(cx, linger));
                    break;
                }
            }
        }
        let (batch, rest) = std::mem::take(&mut self.gathered).split(max);
        self.gathered = rest;
        Poll::Ready(Some(Ok(batch)))
    }

    /// Takes what is left of the current chunk as a whole, up to `max`, where each of it would be
    /// handed out.
    fn gather_run(&mut self, max: usize) -> bool {
        let Some(chunk) = self.current.as_ref().filter(|chunk| chunk.is_plain()) else {
            return false;
        };
        let (from, len) = (self.next, chunk.len() as u32);
        let count = ((max - self.gathered.len()) as u32).min(len - from);
        let mask = chunk.full_mask() >> (len - count) << from;
        chunk.hand_out(from + count);
        let open = if chunk.has_settler() { mask & !chunk.closed() } else { mask };
        if from + count < len {
            self.next += count;
            self.gathered.push_all(chunk, open);
        } else if let Some(chunk) = self.current.take() {
            self.next = 0;
            self.gathered.push_all(&chunk, open);
        }
        true
    }

    /// Resolves when it was gathered for as long as this call wants; a call that was dropped may
    /// have begun it and wanted otherwise.
    fn poll_linger(&mut self, cx: &mut Context<'_>, linger: Duration) -> Poll<()> {
        if linger.is_zero() {
            return Poll::Ready(());
        }
        let now = Instant::now();
        let until = |since: Instant| since.checked_add(linger).unwrap_or_else(|| far_future(now));
        let (since, sleep) = self
            .linger
            .get_or_insert_with(|| (now, Box::pin(tokio::time::sleep_until(until(now)))));
        let until = until(*since);
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        sleep.as_mut().poll(cx)
    }

    /// The next open place in a chunk.
    fn poll_index(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Place>>> {
        if let Some(error) = self.held.pop_front() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut taken = 0;
        loop {
            if taken == MAX_TAKEN {
                // Others have their turn also while nothing here is fit to be handed out.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(chunk) = &self.current {
                let index = self.next;
                if index + 1 >= chunk.len() as u32 {
                    self.next = 0;
                } else {
                    self.next += 1;
                }
                let chunk = if self.next == 0 {
                    let Some(chunk) = self.current.take() else { continue };
                    chunk
                } else {
                    Arc::clone(chunk)
                };
                chunk.hand_out(index + 1);
                match self.admit(&chunk, index) {
                    Admitted::HandOut => return Poll::Ready(Some(Ok((chunk, index)))),
                    Admitted::Fault(error) => return Poll::Ready(Some(Err(error))),
                    Admitted::Taken => {
                        taken += 1;
                        continue;
                    }
                }
            }
            while let Poll::Ready(Some(_)) = self.burials.poll_next_unpin(cx) {}
            let Some(source) = &mut self.source else {
                if !self.burials.is_empty() {
                    return Poll::Pending;
                }
                self.listing = None;
                return Poll::Ready(None);
            };
            match ready!(source.poll_chunk(cx)) {
                Some(Ok(chunk)) => {
                    if let Some(office) = &self.office {
                        chunk.set_office(office);
                    }
                    self.next = 0;
                    self.plain = chunk.is_bare() && chunk.is_plain();
                    self.current = Some(chunk);
                }
                Some(Err(error)) => {
                    if let (Some(stats), Some(missed)) = (&self.stats, error.missed()) {
                        stats.add_missed(missed);
                    }
                    if error.kind() == ErrorKind::Closed {
                        self.source = None;
                    }
                    return Poll::Ready(Some(Err(error)));
                }
                // A source is not asked again after its end.
                None => self.source = None,
            }
        }
    }

    /// Decides what becomes of one delivery before the user sees it.
    fn admit(&mut self, chunk: &Arc<Chunk>, index: u32) -> Admitted {
        let mask = 1 << index;
        let n = index as usize;
        if chunk.is_hidden(n) {
            return Admitted::Taken;
        }
        // It may have expired while it waited here.
        if chunk.events()[n].expires_at().is_some_and(|at| Timestamp::now() >= at) {
            self.burials.extend(chunk.expire(mask));
            return Admitted::Taken;
        }
        if !chunk.has_settler() {
            return chunk
                .fault(n)
                .map_or(Admitted::HandOut, |fault| Admitted::Fault(fault.clone()));
        }
        if chunk.closed() & mask != 0 {
            return Admitted::Taken;
        }
        let attempt = chunk.attempt(n);
        if attempt > 1
            && let Some(stats) = &self.stats
        {
            stats.add_redeliveries(1);
        }
        let Some(office) = self.office.as_ref().filter(|office| office.keeps_letters()) else {
            return chunk
                .fault(n)
                .map_or(Admitted::HandOut, |fault| Admitted::Fault(fault.clone()));
        };
        let (reason, error) = if let Some(fault) = chunk.fault(n) {
            (DeadLetterOffice::reason_of(fault), format!("{fault:#}"))
        } else if office.is_beyond(attempt) {
            let tries = attempt - 1;
            let text = format!("delivered {tries} times without being settled");
            (DeadLetterReason::MaxDeliver, text)
        } else {
            return Admitted::HandOut;
        };
        let (chunk, office) = (Arc::clone(chunk), Arc::clone(office));
        self.burials.push(Box::pin(async move {
            let buried = bury_now(&chunk, mask, &office, reason, error, 0).await;
            if buried.is_err() {
                // Nobody holds it: the backend says when it comes again.
                chunk.release(mask);
            }
            buried
        }));
        Admitted::Taken
    }
}

/// How many deliveries that nobody may see one poll passes over.
const MAX_TAKEN: usize = 256;

/// One delivery of a chunk.
type Place = (Arc<Chunk>, u32);

enum Admitted {
    HandOut,
    Fault(Error),
    Taken,
}

impl Stream for Subscription {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(cx)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("definition", &self.definition)
            .field("ended", &self.source.is_none())
            .finish_non_exhaustive()
    }
}

type ChunkStream = Pin<Box<dyn Stream<Item = Result<Arc<Chunk>>> + Send>>;

struct StreamSource(ChunkStream);

impl Source for StreamSource {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        self.0.as_mut().poll_next(cx)
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct MapSource<F> {
    inner: Box<dyn Source>,
    change: F,
    settled: Option<Observer>,
}

impl<F> Source for MapSource<F>
where
    F: Fn(&mut Event, &DeliveryInfo) -> Result<()> + Send + 'static,
{
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let Some(chunk) = ready!(self.inner.poll_chunk(cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(chunk.map(|base| {
            let mut events = base.events().to_vec();
            let mut faults = Vec::new();
            for (n, event) in events.iter_mut().enumerate() {
                if base.fault(n).is_none()
                    && let Err(error) = (self.change)(event, &base.info(n))
                {
                    // What could not be read goes on as it came.
                    *event = base.events()[n].clone();
                    faults.push((n, error));
                }
            }
            let chunk = Chunk::mapped(base, events).with_observer(self.settled.clone());
            Arc::new(faults.into_iter().fold(chunk, |chunk, (n, error)| chunk.with_fault(n, error)))
        })))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.inner.poll_close(cx)
    }
}

/// A finite stream of what is kept, with nothing to settle.
///
/// Reading is cancel safe: an event is returned by exactly one call.
#[derive(Debug)]
pub struct Replay(Subscription);

impl Replay {
    pub(crate) const fn new(events: Subscription) -> Self {
        Self(events)
    }

    /// The next event with its position; `None` at the end.
    ///
    /// # Errors
    /// An item may be an error, `Lagged` where retention overtook the replay; the next may be fine.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Result<Delivery>> {
        self.0.recv().await
    }
}

impl Stream for Replay {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_delivery(cx)
    }
}
