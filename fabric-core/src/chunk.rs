//! Chunks: up to 64 deliveries that travel and settle together.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::sync::Notify;

use crate::dead_letter::DeadLetterOffice;
use crate::event::Event;
use crate::group::Group;
use crate::position::Position;
use crate::time::Timestamp;
use crate::watch::SharedWatch;
use crate::{Error, ErrorKind, Result};

/// The most deliveries in one chunk: one bit each.
pub const MAX_CHUNK: usize = 64;

/// How a settlement goes on after the delivery was claimed.
pub enum Settled {
    /// It is done.
    Done(Result<()>),
    /// It is under way. Dropping the future leaves open whether the broker hears of it.
    Pending(BoxFuture<'static, Result<()>>),
}

impl fmt::Debug for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(result) => f.debug_tuple("Done").field(result).finish(),
            Self::Pending(_) => f.write_str("Pending"),
        }
    }
}

/// What settles the deliveries of one subscription, implemented by its backend.
///
/// Core has claimed the deliveries in `mask` (bit n is the chunk's delivery n) before it calls, so
/// none is settled twice; where a call fails it gives the claim back.
pub trait Settler: Send + Sync + 'static {
    /// They are done. `complete` says that the chunk has no open delivery left.
    fn ack(&self, chunk: &Arc<Chunk>, mask: u64, complete: bool) -> Settled;
    /// They come again, after `delay` where one is given.
    fn nack(&self, chunk: &Arc<Chunk>, mask: u64, nack: &Nack) -> Settled;
    /// Their leases begin anew. Nothing was claimed.
    fn progress(&self, chunk: &Arc<Chunk>, mask: u64) -> Settled;
    /// They were dropped without a settlement. Nothing was claimed.
    fn dropped(&self, chunk: &Arc<Chunk>, mask: u64);
}

/// How an event is given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Nack {
    /// How long it stays away; at once if there is none.
    pub delay: Option<Duration>,
    /// Why, for the dead letter that it may become.
    pub error: Option<String>,
}

impl Nack {
    /// To come again at once.
    #[must_use]
    pub const fn now() -> Self {
        Self { delay: None, error: None }
    }

    /// To come again after `delay`.
    #[must_use]
    pub const fn after(delay: Duration) -> Self {
        Self { delay: Some(delay), error: None }
    }

    /// Says why, for the dead letter that it may become.
    #[must_use]
    pub fn because(mut self, error: impl fmt::Display) -> Self {
        self.error = Some(error.to_string());
        self
    }
}

impl From<Duration> for Nack {
    fn from(delay: Duration) -> Self {
        Self::after(delay)
    }
}

/// Where the events of a chunk lie in their streams.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Places {
    /// Nowhere: nothing keeps them.
    None,
    /// One behind the other in the only partition of their topic.
    Run {
        /// Which life of the stream.
        incarnation: u64,
        /// The offset of the first.
        first: u64,
    },
    /// Each for itself.
    Each(Box<[Position]>),
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It comes again.
    Nack,
    /// It is a dead letter.
    Reject,
}

/// Who hears of settlements: a layer, with the event as it left that layer.
pub(crate) type Observer = Arc<dyn Fn(&Event, &DeliveryInfo, Settlement) + Send + Sync>;

/// What the broker says about a delivery, beside the event.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeliveryInfo {
    /// How often the event was handed out, from 1; 0 where nobody counts.
    pub attempt: u32,
    /// Where it lies.
    pub position: Option<Position>,
    /// The group it was handed to.
    pub group: Option<Group>,
    /// When this process received it.
    pub received: Timestamp,
}

/// Up to 64 deliveries: a range of events that may be shared with a backend's own store, and one
/// bit each that says whether it was settled or lost.
pub struct Chunk {
    events: Arc<Vec<Event>>,
    start: u32,
    len: u32,
    places: Places,
    attempt: u32,
    attempts: Option<Box<[u32]>>,
    faults: Option<Box<[Option<Error>]>>,
    received: Timestamp,
    token: u64,
    handle: Option<Arc<dyn Any + Send + Sync>>,
    group: Option<Group>,
    settler: Option<Arc<dyn Settler>>,
    closed: AtomicU64,
    /// Claimed to be given back, and the backend has not taken them back yet.
    returning: AtomicU64,
    /// Whose last try failed, where somebody watches the work on them.
    #[cfg(feature = "metrics")]
    failed: AtomicU64,
    handed: AtomicU32,
    lost: OnceLock<Notify>,
    office: OnceLock<Arc<DeadLetterOffice>>,
    base: Option<Arc<Self>>,
    observer: Option<Observer>,
    /// The bits of deliveries that are not handed out here.
    hidden: u64,
    watch: Option<SharedWatch>,
}

impl Chunk {
    /// The events `start..start + len` of `events`, with nothing to settle.
    ///
    /// # Panics
    /// If the range is empty, longer than [`MAX_CHUNK`] or outside `events`.
    #[must_use]
    pub fn new(events: Arc<Vec<Event>>, start: usize, len: usize, received: Timestamp) -> Self {
        assert!((1..=MAX_CHUNK).contains(&len) && start + len <= events.len());
        Self {
            events,
            start: start as u32,
            len: len as u32,
            places: Places::None,
            attempt: 0,
            attempts: None,
            faults: None,
            received,
            token: 0,
            handle: None,
            group: None,
            settler: None,
            closed: AtomicU64::new(0),
            returning: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            failed: AtomicU64::new(0),
            handed: AtomicU32::new(0),
            lost: OnceLock::new(),
            office: OnceLock::new(),
            base: None,
            observer: None,
            hidden: 0,
            watch: None,
        }
    }

    /// One event.
    #[must_use]
    pub fn one(event: Event) -> Self {
        Self::new(Arc::new(vec![event]), 0, 1, Timestamp::now())
    }

    /// Sets where the events lie.
    #[must_use]
    pub fn with_places(mut self, places: Places) -> Self {
        self.places = places;
        self
    }

    /// Sets what settles them, for a group.
    #[must_use]
    pub fn with_settler(mut self, group: Group, settler: Arc<dyn Settler>) -> Self {
        self.group = Some(group);
        self.settler = Some(settler);
        self
    }

    /// Sets one attempt number for all.
    #[must_use]
    pub const fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Sets the attempt number of each.
    #[must_use]
    pub fn with_attempts(mut self, attempts: Box<[u32]>) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Marks the event at `index` as one that cannot be read: a dead letter in a group, an error
    /// in the stream without one.
    #[must_use]
    pub fn with_fault(mut self, index: usize, fault: Error) -> Self {
        let len = self.len();
        let faults = self.faults.get_or_insert_with(|| vec![None; len].into_boxed_slice());
        faults[index] = Some(fault);
        self
    }

    /// Sets the backend's own name for the chunk.
    #[must_use]
    pub const fn with_token(mut self, token: u64) -> Self {
        self.token = token;
        self
    }

    /// Keeps what the backend itself has of the deliveries: what it settles them by, and what a user
    /// may want to see of them by [`Delivery::handle`](crate::Delivery::handle).
    #[must_use]
    pub fn with_handle(mut self, handle: Arc<impl Any + Send + Sync>) -> Self {
        self.handle = Some(handle);
        self
    }

    /// The same deliveries with other events; what settles one settles the other.
    ///
    /// # Panics
    /// If there are not as many events as before.
    #[must_use]
    pub fn mapped(base: Arc<Self>, events: Vec<Event>) -> Self {
        assert_eq!(events.len(), base.len());
        let len = base.len();
        let received = base.received;
        Self { base: Some(base), ..Self::new(Arc::new(events), 0, len, received) }
    }

    /// Sets who hears of the settlements.
    pub(crate) fn with_observer(mut self, observer: Option<Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// The same deliveries, of which only those in `shown` are handed out.
    pub(crate) fn view(base: Arc<Self>, shown: u64) -> Self {
        let (events, start, len) = (Arc::clone(&base.events), base.start, base.len);
        let view = Self::new(events, start as usize, len as usize, base.received);
        Self { hidden: !shown, base: Some(base), ..view }
    }

    /// Sets who watches what becomes of the deliveries.
    pub(crate) fn with_watch(mut self, watch: SharedWatch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Those who watch what becomes of the deliveries, the outermost first.
    pub(crate) fn watches(&self) -> impl Iterator<Item = &SharedWatch> {
        let layers = std::iter::successors(Some(self), |chunk| chunk.base.as_deref());
        layers.filter_map(|chunk| chunk.watch.as_ref())
    }

    /// Whether no layer lies between that could watch.
    pub(crate) const fn is_unwatched(&self) -> bool {
        self.base.is_none() && self.watch.is_none()
    }

    /// Whether the delivery at `index` is handed out elsewhere, if at all.
    pub(crate) fn is_hidden(&self, index: usize) -> bool {
        self.hidden & 1 << index != 0 || self.base.as_ref().is_some_and(|b| b.is_hidden(index))
    }

    /// How many deliveries it has.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a chunk is never empty")]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// The events, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events[self.start as usize..(self.start + self.len) as usize]
    }

    /// The bits of all its deliveries.
    #[must_use]
    pub const fn full_mask(&self) -> u64 {
        u64::MAX >> (MAX_CHUNK as u32 - self.len)
    }

    /// The backend's own name for the chunk.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.base().token
    }

    /// What the backend itself keeps of the deliveries, if it is a `T`.
    #[must_use]
    pub fn handle<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.base().handle.as_ref()?.downcast_ref()
    }

    /// The bits that are settled or lost.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.base().closed.load(Ordering::SeqCst)
    }

    /// The bits that are settled or lost for good. Those that a nack has claimed are not, before
    /// the backend has said that it [took them back](Self::returned).
    ///
    /// For a backend that looks at the bits on its own: between a nack's claim and its call of
    /// [`Settler::nack`] the event must not pass for settled.
    #[must_use]
    pub fn settled(&self) -> u64 {
        let base = self.base();
        // Bits are returning before they are closed.
        let closed = base.closed.load(Ordering::SeqCst);
        closed & !base.returning.load(Ordering::SeqCst)
    }

    /// Says that the backend took the nacked deliveries in `mask` back: they are settled as far as
    /// this chunk goes.
    pub fn returned(&self, mask: u64) {
        self.base().returning.fetch_and(!mask, Ordering::SeqCst);
    }

    /// Notes whether the last try of the deliveries in `mask` failed.
    #[cfg(feature = "metrics")]
    pub(crate) fn note_failed(&self, mask: u64, failed: bool) {
        let noted = &self.base().failed;
        match failed {
            true => noted.fetch_or(mask, Ordering::AcqRel),
            false => noted.fetch_and(!mask, Ordering::AcqRel),
        };
    }

    /// The deliveries whose last try failed, as far as somebody noted it.
    #[cfg(feature = "metrics")]
    pub(crate) fn failed(&self) -> u64 {
        self.base().failed.load(Ordering::Acquire)
    }

    /// How many of the first deliveries were handed to the user.
    #[must_use]
    pub fn handed(&self) -> u32 {
        self.base().handed.load(Ordering::Acquire)
    }

    /// Takes the deliveries in `mask` back from their holder: what it settles from now on is stale.
    /// Returns the bits that were still open, which are the caller's now.
    pub fn revoke(&self, mask: u64) -> u64 {
        let base = self.base();
        let before = base.closed.fetch_or(mask, Ordering::SeqCst);
        let revoked = mask & !before;
        if revoked != 0
            && let Some(lost) = base.lost.get()
        {
            lost.notify_waiters();
        }
        revoked
    }

    /// What is known of the delivery at `index`, beside the event.
    #[must_use]
    pub fn info(&self, index: usize) -> DeliveryInfo {
        let base = self.base();
        DeliveryInfo {
            attempt: base.attempt(index),
            position: base.position(index),
            group: base.group.clone(),
            received: base.received,
        }
    }

    pub(crate) fn position(&self, index: usize) -> Option<Position> {
        let base = self.base();
        match &base.places {
            Places::None => None,
            Places::Run { incarnation, first } => {
                let topic = base.events()[index].topic().clone();
                Some(Position::new(topic, *incarnation, u128::from(*first) + index as u128))
            }
            Places::Each(each) => each.get(index).cloned(),
        }
    }

    pub(crate) fn attempt(&self, index: usize) -> u32 {
        let base = self.base();
        base.attempts.as_ref().map_or(base.attempt, |each| each[index])
    }

    pub(crate) fn group(&self) -> Option<&Group> {
        self.base().group.as_ref()
    }

    pub(crate) fn received(&self) -> Timestamp {
        self.received
    }

    pub(crate) fn fault(&self, index: usize) -> Option<&Error> {
        let own = self.faults.as_ref().and_then(|faults| faults[index].as_ref());
        own.or_else(|| self.base.as_ref().and_then(|base| base.fault(index)))
    }

    /// Whether each of its deliveries is a first attempt at an event that can be read.
    pub(crate) fn is_plain(&self) -> bool {
        let base = self.base();
        base.attempt <= 1 && base.attempts.is_none() && self.all_can_be_read()
    }

    /// Whether no layer lies between, and none of its events expires.
    pub(crate) fn is_bare(&self) -> bool {
        self.base.is_none() && self.events().iter().all(|event| event.ttl().is_none())
    }

    fn all_can_be_read(&self) -> bool {
        self.faults.is_none() && self.base.as_ref().is_none_or(|base| base.all_can_be_read())
    }

    pub(crate) fn hand_out(&self, count: u32) {
        match &self.base {
            // Whoever holds the chunk itself is the only one, and goes from the first to the last.
            None => self.handed.store(count, Ordering::Release),
            // Views of one chunk may be handed out in any order.
            Some(base) => _ = base.base().handed.fetch_max(count, Ordering::AcqRel),
        }
    }

    /// Claims the one delivery in `mask` and acks it, where it is open and no layer looks on; else
    /// nothing has happened.
    #[inline]
    pub(crate) fn ack_bare(self: &Arc<Self>, mask: u64) -> Option<Settled> {
        if self.base.is_some() || self.watch.is_some() || self.observer.is_some() {
            return None;
        }
        let settler = self.settler.as_deref()?;
        let (open, complete) = self.claim(mask);
        (open == mask).then(|| settler.ack(self, mask, complete))
    }

    pub(crate) fn has_settler(&self) -> bool {
        self.base().settler.is_some()
    }

    pub(crate) fn set_office(&self, office: &Arc<DeadLetterOffice>) {
        // The innermost of several fabrics over one stack keeps the letters.
        let _ = self.base().office.set(Arc::clone(office));
    }

    pub(crate) fn office(&self) -> Option<&Arc<DeadLetterOffice>> {
        self.base().office.get()
    }

    /// Claims the open deliveries in `mask`; `Err` holds those that were not open any more.
    pub(crate) fn claim(&self, mask: u64) -> (u64, bool) {
        let base = self.base();
        let before = base.closed.fetch_or(mask, Ordering::SeqCst);
        (mask & !before, before | mask == base.full_mask())
    }

    /// As [`claim`](Self::claim), to give the deliveries back.
    pub(crate) fn claim_to_return(&self, mask: u64) -> (u64, bool) {
        self.base().returning.fetch_or(mask, Ordering::SeqCst);
        let (open, complete) = self.claim(mask);
        self.returned(mask & !open);
        (open, complete)
    }

    /// Settles deliveries that nobody may see any more. What cannot be settled comes again, and is
    /// expired then too.
    pub(crate) fn expire(self: &Arc<Self>, mask: u64) -> Option<BoxFuture<'static, Result<()>>> {
        let (open, complete) = self.claim(mask);
        if open == 0 {
            return None;
        }
        match self.settle_with(|settler, chunk| settler.ack(chunk, open, complete)) {
            Settled::Done(_) => None,
            Settled::Pending(pending) => Some(pending),
        }
    }

    /// Tells every layer what became of the deliveries in `mask`, the innermost first.
    pub(crate) fn observe(&self, mask: u64, settlement: Settlement) {
        if let Some(base) = &self.base {
            base.observe(mask, settlement);
        }
        if let Some(observer) = &self.observer {
            for n in (0..self.len()).filter(|n| mask & 1 << n != 0) {
                observer(&self.events()[n], &self.info(n), settlement);
            }
        }
    }

    /// Tells the backend which of the deliveries in `mask` nobody holds any more; returns them.
    pub(crate) fn release(self: &Arc<Self>, mask: u64) -> u64 {
        let open = mask & !self.closed();
        if open != 0 {
            self.settle_with(|settler, chunk| {
                settler.dropped(chunk, open);
                Settled::Done(Ok(()))
            });
        }
        open
    }

    /// Gives a claim back after a settlement failed.
    pub(crate) fn unclaim(&self, mask: u64) {
        let base = self.base();
        base.closed.fetch_and(!mask, Ordering::SeqCst);
        base.returning.fetch_and(!mask, Ordering::SeqCst);
    }

    pub(crate) fn settle_with(
        self: &Arc<Self>,
        call: impl FnOnce(&dyn Settler, &Arc<Self>) -> Settled,
    ) -> Settled {
        let base = self.base.as_ref().map_or(self, |base| base.innermost());
        match &base.settler {
            Some(settler) => call(settler.as_ref(), base),
            None => Settled::Done(Ok(())),
        }
    }

    pub(crate) async fn lost(&self, mask: u64) {
        let base = self.base();
        let notify = base.lost.get_or_init(Notify::new);
        loop {
            let notified = notify.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            if base.closed.load(Ordering::Acquire) & mask != 0 {
                return;
            }
            notified.await;
        }
    }

    fn base(&self) -> &Self {
        match &self.base {
            None => self,
            Some(base) => base.base(),
        }
    }

    fn innermost(self: &Arc<Self>) -> &Arc<Self> {
        self.base.as_ref().map_or(self, |base| base.innermost())
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("len", &self.len)
            .field("places", &self.places)
            .field("group", &self.group())
            .field("closed", &format_args!("{:b}", self.closed()))
            .finish_non_exhaustive()
    }
}

/// The error of a settlement that came after the lease had moved.
pub(crate) fn stale() -> Error {
    Error::new(
        ErrorKind::StaleAck,
        "the lease on this delivery ended before it was settled; the event belongs to another by now",
    )
}
