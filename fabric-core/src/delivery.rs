//! A delivery: a received event, its context and its settlement by value.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::capabilities::Ability;
use crate::chunk::{Chunk, DeliveryInfo, Nack, Settled, Settlement, stale};
use crate::dead_letter::{DeadLetterOffice, DeadLetterReason};
use crate::event::Event;
use crate::group::Group;
use crate::position::Position;
use crate::time::Timestamp;
use crate::watch::{Asked, Works};
use crate::{Error, Result};

/// A received event.
///
/// In a group it is settled by [`ack`](Self::ack), [`nack`](Self::nack) or
/// [`reject`](Self::reject), each of which consumes it. Dropping it settles nothing: the event
/// comes again after the lease, and [`Fabric::stats`](crate::Fabric::stats) counts it. Without a
/// group there is nothing to settle: `ack` answers `Ok`, the others `Unsupported`.
#[must_use = "a delivery that is dropped without a settlement comes again"]
pub struct Delivery {
    chunk: Arc<Chunk>,
    index: u32,
    open: Open,
}

/// Whether a delivery is still to be settled. As wide as the number beside it: with padding a
/// delivery would be moved byte by byte.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Open {
    No,
    Yes,
}

impl From<bool> for Open {
    fn from(open: bool) -> Self {
        if open { Self::Yes } else { Self::No }
    }
}

impl Delivery {
    pub(crate) const fn new(chunk: Arc<Chunk>, index: u32) -> Self {
        Self { chunk, index, open: Open::Yes }
    }

    /// The event, to keep.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.chunk.events()[self.index as usize]
    }

    /// How often the event was handed out, from 1; 0 where nobody counts.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.chunk.attempt(self.index as usize)
    }

    /// Whether it was handed out before.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.attempt() > 1
    }

    /// Where the event lies, if anything keeps it.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.chunk.position(self.index as usize)
    }

    /// The group it was handed to.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        self.chunk.group()
    }

    /// When this process received it.
    #[must_use]
    pub fn received_at(&self) -> Timestamp {
        self.chunk.received()
    }

    /// All of the context at once.
    #[must_use]
    pub fn info(&self) -> DeliveryInfo {
        self.chunk.info(self.index as usize)
    }

    /// What the backend itself keeps of the deliveries that arrived together with this one, if it
    /// is a `T`, and this one's number among them. A backend's crate says what there is.
    #[must_use]
    pub fn handle<T: std::any::Any + Send + Sync>(&self) -> Option<(&T, usize)> {
        Some((self.chunk.handle()?, self.index as usize))
    }

    /// Whether the lease still holds, as far as this process knows.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.chunk.closed() & self.mask() == 0
    }

    /// Resolves when the lease has ended and the event belongs to somebody else.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn lost(&self) {
        self.chunk.lost(self.mask()).await;
    }

    /// Settles the event as done.
    ///
    /// # Errors
    /// [`SettleError`], which holds the delivery to try again: `StaleAck` after the lease moved,
    /// `Closed` after the fabric closed, or what the broker answered.
    ///
    /// # Cancel safety
    /// Nothing happens before the first poll. Dropped later, the ack may or may not have been
    /// sent; if not, the event comes again.
    pub fn ack(self) -> Settling<Self> {
        Settling::new(self, Verdict::Ack, Self::settle)
    }

    /// Gives the event back; others flow meanwhile.
    ///
    /// # Errors
    /// As [`ack`](Self::ack); `Unsupported` without a group. The nack of the last attempt that the
    /// group allows keeps a dead letter and fails where that cannot be kept.
    ///
    /// # Cancel safety
    /// As [`ack`](Self::ack).
    pub fn nack(self, nack: impl Into<Nack>) -> Settling<Self> {
        Settling::new(self, Verdict::Nack(Box::new(nack.into())), Self::settle)
    }

    /// Sends the event to the group's dead letters, with the reason: first the copy is confirmed,
    /// then the original is settled.
    ///
    /// # Errors
    /// As [`ack`](Self::ack); `Unsupported` without a group or dead letters.
    ///
    /// # Cancel safety
    /// Dropped midway, the dead letter may be there and the event come again: at least one copy,
    /// never none.
    pub fn reject(self, reason: impl fmt::Display) -> Settling<Self> {
        Settling::new(self, Verdict::Reject(reason.to_string().into()), Self::settle)
    }

    /// Does `work` on the event in the sight of the layers: they time it, and put it in a span that
    /// is current while it runs. Consumers do this by themselves.
    ///
    /// # Errors
    /// Whatever the work answers.
    ///
    /// # Cancel safety
    /// As the work; the layers see that it was given up.
    pub async fn process<T, E: fmt::Display>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        self.begin_work().run(work).await
    }

    pub(crate) fn begin_work(&self) -> Works {
        Works::begin(&[(&self.chunk, self.index as usize)])
    }

    /// As [`begin_work`](Self::begin_work), for several at once.
    pub(crate) fn begin_works(deliveries: &[Self]) -> Works {
        let places = deliveries.iter().map(|one| (&one.chunk, one.index as usize));
        Works::begin(&places.collect::<Vec<_>>())
    }

    /// Begins the lease anew: the work goes on.
    ///
    /// # Errors
    /// `StaleAck` after the lease moved; `Unsupported` where leases cannot be extended.
    ///
    /// # Cancel safety
    /// The lease may or may not have been extended.
    pub async fn progress(&self) -> Result<()> {
        if !self.chunk.has_settler() {
            return Err(nothing_to_settle("extending a lease"));
        }
        if let Some(office) = self.chunk.office() {
            office.demand(Ability::Extend)?;
        }
        self.lease().extend().await
    }

    /// The hold on the event, apart from its settlement.
    pub(crate) fn lease(&self) -> Lease {
        Lease { chunk: Arc::clone(&self.chunk), index: self.index }
    }

    /// Sends the event to the dead letters for a reason of the consumer's.
    pub(crate) fn bury(
        self,
        reason: DeadLetterReason,
        error: String,
        attempts: u32,
    ) -> Settling<Self> {
        Settling::new(self, Verdict::Bury(Box::new((reason, error, attempts))), Self::settle)
    }

    pub(crate) const fn chunk(&self) -> &Arc<Chunk> {
        &self.chunk
    }

    pub(crate) const fn index(&self) -> u32 {
        self.index
    }

    /// Whether a layer watches what is done with it.
    pub(crate) fn is_watched(&self) -> bool {
        !self.chunk.is_unwatched()
    }

    /// As [`ack`](Self::ack) where that takes no waiting; else how it goes on.
    pub(crate) fn ack_at_once(mut self) -> std::result::Result<Spent, Settling<Self>> {
        match self.chunk.ack_bare(self.mask()) {
            Some(Settled::Done(Ok(()))) => {
                self.open = Open::No;
                Ok(Spent(self))
            }
            Some(settled) => Err(Settling(Stage::Pending(self.after_ack(settled)))),
            None => Err(self.ack()),
        }
    }

    /// The way of an ack that was claimed and is under way, or failed.
    fn after_ack(mut self, settled: Settled) -> BoxFuture<'static, (Self, Result<()>)> {
        Box::pin(async move {
            let result = match settled {
                Settled::Done(result) => result,
                Settled::Pending(pending) => pending.await,
            };
            let result = result.map_err(|error| {
                self.chunk.unclaim(self.mask());
                self.describe(error.with_operation("ack"))
            });
            self.open = result.is_err().into();
            (self, result)
        })
    }

    pub(crate) fn put_into(mut self, batch: &mut DeliveryBatch) {
        self.open = Open::No;
        batch.push(&self.chunk, self.index);
    }

    const fn mask(&self) -> u64 {
        1 << self.index
    }
}

impl Deref for Delivery {
    type Target = Event;

    fn deref(&self) -> &Event {
        self.event()
    }
}

impl AsRef<Event> for Delivery {
    fn as_ref(&self) -> &Event {
        self.event()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.open == Open::Yes && self.chunk.has_settler() {
            drop_unsettled(&self.chunk, self.mask());
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("event", self.event())
            .field("attempt", &self.attempt())
            .field("group", &self.group())
            .finish_non_exhaustive()
    }
}

/// Several deliveries that settle together; at most as many as were asked for.
#[derive(Default)]
#[must_use = "deliveries that are dropped without a settlement come again"]
pub struct DeliveryBatch {
    parts: Vec<Part>,
    len: usize,
}

struct Part {
    chunk: Arc<Chunk>,
    mask: u64,
}

impl DeliveryBatch {
    pub(crate) fn push(&mut self, chunk: &Arc<Chunk>, index: u32) {
        self.len += 1;
        match self.parts.last_mut() {
            Some(part) if Arc::ptr_eq(&part.chunk, chunk) => part.mask |= 1 << index,
            _ => self.parts.push(Part { chunk: Arc::clone(chunk), mask: 1 << index }),
        }
    }

    /// The deliveries in `mask`, none of which it has.
    pub(crate) fn push_all(&mut self, chunk: &Arc<Chunk>, mask: u64) {
        self.len += mask.count_ones() as usize;
        match self.parts.last_mut() {
            _ if mask == 0 => {}
            Some(part) if Arc::ptr_eq(&part.chunk, chunk) => part.mask |= mask,
            _ => self.parts.push(Part { chunk: Arc::clone(chunk), mask }),
        }
    }

    /// The first `max` deliveries, and the others.
    pub(crate) fn split(mut self, max: usize) -> (Self, Self) {
        if self.len <= max {
            return (self, Self::default());
        }
        let (mut first, mut rest) = (Self::default(), Self::default());
        for part in std::mem::take(&mut self.parts) {
            for n in bits(part.mask) {
                let side = if first.len < max { &mut first } else { &mut rest };
                side.push(&part.chunk, n);
            }
        }
        (first, rest)
    }

    /// How many deliveries it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The events, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Event> {
        self.parts.iter().flat_map(|part| bits(part.mask).map(|n| &part.chunk.events()[n as usize]))
    }

    /// The context of each delivery, in order.
    pub fn infos(&self) -> impl Iterator<Item = DeliveryInfo> + '_ {
        self.parts.iter().flat_map(|part| bits(part.mask).map(|n| part.chunk.info(n as usize)))
    }

    /// The deliveries that `belongs` says yes to, and the others.
    pub fn partition(mut self, mut belongs: impl FnMut(&Event) -> bool) -> (Self, Self) {
        let (mut yes, mut no) = (Self::default(), Self::default());
        for part in std::mem::take(&mut self.parts) {
            for n in bits(part.mask) {
                let side =
                    if belongs(&part.chunk.events()[n as usize]) { &mut yes } else { &mut no };
                side.push(&part.chunk, n);
            }
        }
        (yes, no)
    }

    /// The deliveries one by one.
    #[must_use]
    pub fn into_deliveries(mut self) -> Vec<Delivery> {
        let parts = std::mem::take(&mut self.parts);
        parts
            .iter()
            .flat_map(|part| bits(part.mask).map(|n| Delivery::new(Arc::clone(&part.chunk), n)))
            .collect()
    }

    /// Settles all of them as done.
    ///
    /// # Errors
    /// [`SettleError`] with those that could not be settled; the others are.
    ///
    /// # Cancel safety
    /// As [`Delivery::ack`], each for itself.
    pub fn ack(self) -> Settling<Self> {
        Settling::new(self, Verdict::Ack, Self::settle)
    }

    /// Gives all of them back.
    ///
    /// # Errors
    /// As [`Delivery::nack`], with those that could not be settled.
    ///
    /// # Cancel safety
    /// As [`Delivery::ack`], each for itself.
    pub fn nack(self, nack: impl Into<Nack>) -> Settling<Self> {
        Settling::new(self, Verdict::Nack(Box::new(nack.into())), Self::settle)
    }

    /// Sends all of them to the group's dead letters.
    ///
    /// # Errors
    /// As [`Delivery::reject`], with those that could not be settled.
    ///
    /// # Cancel safety
    /// As [`Delivery::reject`], each for itself.
    pub fn reject(self, reason: impl fmt::Display) -> Settling<Self> {
        Settling::new(self, Verdict::Reject(reason.to_string().into()), Self::settle)
    }
}

impl Drop for DeliveryBatch {
    fn drop(&mut self) {
        for part in &self.parts {
            if part.chunk.has_settler() {
                drop_unsettled(&part.chunk, part.mask);
            }
        }
    }
}

impl fmt::Debug for DeliveryBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A delivery that was settled. The next one of its chunk takes its place, which is cheaper than to
/// count one handle on the chunk down and another up.
pub(crate) struct Spent(Delivery);

impl Spent {
    pub(crate) fn is_of(&self, chunk: &Arc<Chunk>) -> bool {
        Arc::ptr_eq(&self.0.chunk, chunk)
    }

    /// The delivery at `index` of the same chunk.
    pub(crate) fn renew(mut self, index: u32) -> Delivery {
        (self.0.index, self.0.open) = (index, Open::Yes);
        self.0
    }
}

/// A hold on an event for as long as its lease lasts, apart from the right to settle it.
#[derive(Clone)]
pub(crate) struct Lease {
    chunk: Arc<Chunk>,
    index: u32,
}

impl Lease {
    pub(crate) const fn new(chunk: Arc<Chunk>, index: u32) -> Self {
        Self { chunk, index }
    }

    pub(crate) fn position(&self) -> Option<Position> {
        self.chunk.position(self.index as usize)
    }

    /// As [`Delivery::progress`].
    pub(crate) async fn extend(&self) -> Result<()> {
        let mask = 1 << self.index;
        if !self.chunk.has_settler() {
            return Ok(());
        }
        if self.chunk.closed() & mask != 0 {
            return Err(stale());
        }
        match self.chunk.settle_with(|settler, chunk| settler.progress(chunk, mask)) {
            Settled::Done(result) => result,
            Settled::Pending(pending) => pending.await,
        }
    }

    /// As [`Delivery::lost`].
    pub(crate) async fn lost(&self) {
        self.chunk.lost(1 << self.index).await;
    }
}

fn drop_unsettled(chunk: &Arc<Chunk>, mask: u64) {
    let released = chunk.release(mask);
    if let Some(office) = chunk.office() {
        office.stats().add_dropped(u64::from(released.count_ones()));
    }
}

fn bits(mut mask: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let bit = mask.trailing_zeros();
            mask &= mask - 1;
            bit
        })
    })
}

/// A settlement that failed, with the delivery to try again.
pub struct SettleError<D = Delivery> {
    /// What failed.
    pub error: Error,
    /// What could not be settled.
    pub delivery: D,
}

impl<D> fmt::Debug for SettleError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<D> fmt::Display for SettleError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<D> std::error::Error for SettleError<D> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl<D> From<SettleError<D>> for Error {
    fn from(failed: SettleError<D>) -> Self {
        failed.error
    }
}

/// What becomes of deliveries. Small, since nearly all of them are acked.
#[derive(Clone)]
enum Verdict {
    Ack,
    Nack(Box<Nack>),
    Reject(Box<str>),
    Bury(Box<(DeadLetterReason, String, u32)>),
}

impl Verdict {
    const fn operation(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Nack(_) => "nack",
            Self::Reject(_) | Self::Bury(..) => "reject",
        }
    }

    /// Those of a part that become dead letters: each is kept by itself.
    fn buries(&self, part: &Part) -> u64 {
        match self {
            Self::Ack => 0,
            Self::Nack(_) => {
                let last = bits(part.mask).filter(|n| is_last(&part.chunk, 1 << n));
                last.fold(0, |mask, n| mask | 1 << n)
            }
            Self::Reject(_) | Self::Bury(..) => part.mask,
        }
    }

    const fn asked(&self) -> Asked<'_> {
        match self {
            Self::Ack => Asked::Ack,
            Self::Nack(nack) => Asked::Nack(nack),
            Self::Reject(_) | Self::Bury(..) => Asked::Reject,
        }
    }

    /// Refuses what the stack cannot do, before anything is claimed.
    fn check(&self, office: &DeadLetterOffice) -> Result<()> {
        match self {
            Self::Ack => Ok(()),
            Self::Nack(nack) => {
                office.demand(Ability::Nack)?;
                nack.delay.map_or(Ok(()), |_| office.demand(Ability::NackDelay))
            }
            Self::Reject(_) | Self::Bury(..) => office.demand(Ability::DeadLetters),
        }
    }
}

/// A settlement under way: a future of `Ok(())` or a [`SettleError`] that holds the delivery.
///
/// Nothing happens before it is first polled.
#[must_use = "a settlement happens when it is awaited"]
pub struct Settling<D>(Stage<D>);

enum Stage<D> {
    Start(D, Verdict, fn(D, Verdict) -> Progress<D>),
    Pending(BoxFuture<'static, (D, Result<()>)>),
    Over,
}

/// A settlement after its first step.
enum Progress<D> {
    Done(std::result::Result<(), SettleError<D>>),
    Pending(BoxFuture<'static, (D, Result<()>)>),
}

impl<D> Settling<D> {
    const fn new(subject: D, verdict: Verdict, settle: fn(D, Verdict) -> Progress<D>) -> Self {
        Self(Stage::Start(subject, verdict, settle))
    }
}

impl<D> Unpin for Settling<D> {}

impl<D> Settling<D> {
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), SettleError<D>>> {
        let mut pending = match std::mem::replace(&mut self.0, Stage::Over) {
            Stage::Over => return Poll::Pending,
            Stage::Pending(pending) => pending,
            Stage::Start(subject, verdict, settle) => match settle(subject, verdict) {
                Progress::Done(result) => return Poll::Ready(result),
                Progress::Pending(pending) => pending,
            },
        };
        match pending.as_mut().poll(cx) {
            Poll::Ready((delivery, result)) => {
                Poll::Ready(result.map_err(|error| SettleError { error, delivery }))
            }
            Poll::Pending => {
                self.0 = Stage::Pending(pending);
                Poll::Pending
            }
        }
    }
}

impl Settling<Delivery> {
    fn await_ack(&mut self, settled: Settled) {
        if let Stage::Start(delivery, ..) = std::mem::replace(&mut self.0, Stage::Over) {
            self.0 = Stage::Pending(delivery.after_ack(settled));
        }
    }
}

impl Future for Settling<Delivery> {
    type Output = std::result::Result<(), SettleError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The way of nearly every ack: the delivery stays where it lies.
        if let Stage::Start(delivery, Verdict::Ack, _) = &mut self.0
            && let Some(settled) = delivery.chunk.ack_bare(delivery.mask())
        {
            if let Settled::Done(Ok(())) = settled {
                delivery.open = Open::No;
                self.0 = Stage::Over;
                return Poll::Ready(Ok(()));
            }
            self.await_ack(settled);
        }
        self.advance(cx)
    }
}

impl Future for Settling<DeliveryBatch> {
    type Output = std::result::Result<(), SettleError<DeliveryBatch>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.advance(cx)
    }
}

impl<D> fmt::Debug for Settling<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Stage::Start(_, verdict, _) => f.write_str(verdict.operation()),
            Stage::Pending(_) => f.write_str("Settling"),
            Stage::Over => f.write_str("settled"),
        }
    }
}

impl Delivery {
    fn settle(mut self, verdict: Verdict) -> Progress<Self> {
        let mask = self.mask();
        match settle_part(&self.chunk, mask, verdict) {
            PartProgress::Done(Ok(())) => {
                self.open = Open::No;
                Progress::Done(Ok(()))
            }
            PartProgress::Done(Err(failed)) => {
                let error = self.describe(failed.error);
                Progress::Done(Err(SettleError { error, delivery: self }))
            }
            PartProgress::Pending(pending) => Progress::Pending(Box::pin(async move {
                let result = pending.await.map_err(|failed| self.describe(failed.error));
                self.open = result.is_err().into();
                (self, result)
            })),
        }
    }
}

impl Delivery {
    fn describe(&self, error: Error) -> Error {
        let error = error.with("topic", self.topic()).with("id", self.id());
        match self.group() {
            Some(group) => error.with("group", group),
            None => error,
        }
    }
}

impl DeliveryBatch {
    fn settle(mut self, verdict: Verdict) -> Progress<Self> {
        if let Verdict::Ack = verdict
            && let [part] = self.parts.as_slice()
        {
            let mask = part.mask;
            match settle_part(&part.chunk, mask, Verdict::Ack) {
                PartProgress::Done(Ok(())) => {
                    self.parts.clear();
                    return Progress::Done(Ok(()));
                }
                PartProgress::Done(Err(failed)) => {
                    let error = self.note(0, mask, Err(failed)).unwrap_or_else(stale);
                    return Progress::Done(Err(SettleError { error, delivery: self }));
                }
                PartProgress::Pending(pending) => {
                    return Progress::Pending(Box::pin(async move {
                        let error = self.note(0, mask, pending.await);
                        (self, error.map_or(Ok(()), Err))
                    }));
                }
            }
        }
        Progress::Pending(Box::pin(async move {
            let error = self.settle_parts(&verdict).await;
            self.parts.retain(|part| part.mask != 0);
            (self, error.map_or(Ok(()), Err))
        }))
    }

    /// Settles everything, what can go together at the same time; returns the first error. What is
    /// settled leaves the batch at once, so that nothing is forgotten where this is dropped.
    async fn settle_parts(&mut self, verdict: &Verdict) -> Option<Error> {
        let mut first = None;
        let mut waiting = FuturesUnordered::new();
        for n in 0..self.parts.len() {
            let part = &self.parts[n];
            let mask = part.mask & !verdict.buries(part);
            if mask == 0 {
                continue;
            }
            match settle_part(&part.chunk, mask, verdict.clone()) {
                PartProgress::Done(result) => {
                    let error = self.note(n, mask, result);
                    first = first.or(error);
                }
                PartProgress::Pending(pending) => {
                    waiting.push(async move { (n, mask, pending.await) });
                }
            }
        }
        while let Some((n, mask, result)) = waiting.next().await {
            let error = self.note(n, mask, result);
            first = first.or(error);
        }
        drop(waiting);
        // Dead letters are kept one by one, in order.
        for n in 0..self.parts.len() {
            let chunk = Arc::clone(&self.parts[n].chunk);
            for bit in bits(self.parts[n].mask & verdict.buries(&self.parts[n])) {
                let result = match settle_part(&chunk, 1 << bit, verdict.clone()) {
                    PartProgress::Done(result) => result,
                    PartProgress::Pending(pending) => pending.await,
                };
                let error = self.note(n, 1 << bit, result);
                first = first.or(error);
            }
        }
        first
    }

    /// Notes what became of `mask` in part `n`: what is settled leaves the batch.
    fn note(&mut self, n: usize, mask: u64, result: Outcome) -> Option<Error> {
        let (left, error) = match result {
            Ok(()) => (0, None),
            Err(failed) => (failed.left, Some(failed.error)),
        };
        let part = &mut self.parts[n];
        let settled = part.mask & mask & !left;
        part.mask &= !settled;
        self.len -= settled.count_ones() as usize;
        let group = part.chunk.group();
        error.map(|error| match group {
            Some(group) => error.with("group", group),
            None => error,
        })
    }

    /// Gives all of them back at once, as if they had not been handed out.
    pub(crate) async fn give_back(mut self) {
        for n in 0..self.parts.len() {
            let (chunk, mask) = (Arc::clone(&self.parts[n].chunk), self.parts[n].mask);
            let refused = |office: &Arc<DeadLetterOffice>| office.demand(Ability::Nack).is_err();
            if !chunk.has_settler() || chunk.office().is_some_and(refused) {
                continue;
            }
            let returned = claimed(&chunk, mask, Settlement::Nack, |chunk, mask, _| {
                chunk.settle_with(|settler, chunk| settler.nack(chunk, mask, &Nack::now()))
            });
            let result = match returned {
                PartProgress::Done(result) => result,
                PartProgress::Pending(pending) => pending.await,
            };
            // What cannot be given back is dropped with the batch.
            self.note(n, mask, result);
        }
    }
}

/// Deliveries that could not be settled, and why.
#[derive(Clone, Debug)]
struct Failed {
    error: Error,
    left: u64,
}

impl Failed {
    fn all(mask: u64) -> impl FnOnce(Error) -> Self {
        move |error| Self { error, left: mask }
    }
}

type Outcome = Result<(), Failed>;

/// Both: the first error, and all that is left.
fn both(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Err(one), Err(other)) => Err(Failed { error: one.error, left: one.left | other.left }),
        (one, other) => one.and(other),
    }
}

enum PartProgress {
    Done(Outcome),
    Pending(BoxFuture<'static, Outcome>),
}

/// Settles the deliveries in `mask` of one chunk.
fn settle_part(chunk: &Arc<Chunk>, mask: u64, verdict: Verdict) -> PartProgress {
    if chunk.watches().next().is_some() && chunk.has_settler() {
        return settle_watched(chunk, mask, verdict);
    }
    settle_unwatched(chunk, mask, verdict)
}

/// As `settle_part`, past the layers that watch, the outermost first.
fn settle_watched(chunk: &Arc<Chunk>, mask: u64, verdict: Verdict) -> PartProgress {
    let began = Instant::now();
    let (mut left, mut answered, mut passed) = (mask, Ok(()), 0);
    for watch in chunk.watches() {
        passed += 1;
        if let Some(answer) = watch.before(chunk, left, verdict.asked()) {
            left &= !answer.mask;
            answered = both(answered, answer.result.map_err(Failed::all(answer.mask)));
            if left == 0 {
                break;
            }
        }
    }
    let settled = match left {
        0 => PartProgress::Done(Ok(())),
        left => settle_unwatched(chunk, left, verdict.clone()),
    };
    let watched = Arc::clone(chunk);
    let tell = move |result: Outcome| {
        let result = both(answered, result);
        let told = result.clone().map_err(|failed| failed.error);
        for watch in watched.watches().take(passed) {
            watch.after(&watched, mask, verdict.asked(), began, &told);
        }
        result
    };
    match settled {
        PartProgress::Done(result) => PartProgress::Done(tell(result)),
        PartProgress::Pending(pending) => {
            PartProgress::Pending(Box::pin(async move { tell(pending.await) }))
        }
    }
}

fn settle_unwatched(chunk: &Arc<Chunk>, mask: u64, verdict: Verdict) -> PartProgress {
    let operation = verdict.operation();
    let refuse = |what| PartProgress::Done(Err(Failed::all(mask)(nothing_to_settle(what))));
    if !chunk.has_settler() {
        return match verdict {
            Verdict::Ack => PartProgress::Done(Ok(())),
            Verdict::Nack(_) => refuse("nack"),
            Verdict::Reject(_) | Verdict::Bury(..) => refuse("reject"),
        };
    }
    if let Some(office) = chunk.office()
        && let Err(error) = verdict.check(office)
    {
        return PartProgress::Done(Err(Failed::all(mask)(error))).of(operation);
    }
    let (reason, error, attempts) = match verdict {
        Verdict::Ack => {
            return claimed(chunk, mask, Settlement::Ack, |chunk, mask, complete| {
                chunk.settle_with(|settler, chunk| settler.ack(chunk, mask, complete))
            })
            .of(operation);
        }
        Verdict::Nack(nack) if !is_last(chunk, mask) => {
            return claimed(chunk, mask, Settlement::Nack, |chunk, mask, _| {
                chunk.settle_with(|settler, chunk| settler.nack(chunk, mask, &nack))
            })
            .of(operation);
        }
        Verdict::Nack(nack) => {
            let error = nack.error.unwrap_or_else(|| "given back without a reason".to_owned());
            (DeadLetterReason::MaxDeliver, error, 0)
        }
        Verdict::Reject(reason) => (DeadLetterReason::Rejected, reason.into_string(), 0),
        Verdict::Bury(letter) => *letter,
    };
    match chunk.office() {
        Some(office) => {
            bury(chunk, mask, Arc::clone(office), reason, error, attempts).of(operation)
        }
        None => refuse("dead letters").of(operation),
    }
}

/// Whether giving back the delivery in `mask` is the last straw.
fn is_last(chunk: &Chunk, mask: u64) -> bool {
    let attempt = chunk.attempt(mask.trailing_zeros() as usize);
    chunk.office().is_some_and(|office| office.is_last(attempt))
}

impl PartProgress {
    /// The same with the operation in its error.
    fn of(self, operation: &'static str) -> Self {
        let name = move |failed: Failed| Failed {
            error: failed.error.with_operation(operation),
            ..failed
        };
        match self {
            Self::Done(result) => Self::Done(result.map_err(name)),
            Self::Pending(pending) => {
                Self::Pending(Box::pin(async move { pending.await.map_err(name) }))
            }
        }
    }
}

/// Claims the deliveries, settles them, and gives the claim back where that failed.
fn claimed(
    chunk: &Arc<Chunk>,
    mask: u64,
    settlement: Settlement,
    settle: impl FnOnce(&Arc<Chunk>, u64, bool) -> Settled,
) -> PartProgress {
    let (open, complete) = match settlement {
        Settlement::Nack => chunk.claim_to_return(mask),
        _ => chunk.claim(mask),
    };
    let moved = mask & !open;
    if moved != 0
        && let Some(office) = chunk.office()
    {
        office.stats().add_stale(u64::from(moved.count_ones()));
    }
    if open == 0 {
        return PartProgress::Done(Err(Failed { error: stale(), left: mask }));
    }
    let finish = move |chunk: &Chunk, result: Result<()>| match result {
        Ok(()) => {
            chunk.observe(open, settlement);
            if moved == 0 { Ok(()) } else { Err(Failed { error: stale(), left: moved }) }
        }
        Err(error) => {
            chunk.unclaim(open);
            Err(Failed { error, left: mask })
        }
    };
    match settle(chunk, open, complete) {
        Settled::Done(result) => PartProgress::Done(finish(chunk, result)),
        Settled::Pending(pending) => {
            let chunk = Arc::clone(chunk);
            PartProgress::Pending(Box::pin(async move { finish(&chunk, pending.await) }))
        }
    }
}

/// Keeps one delivery as a dead letter, then settles it.
fn bury(
    chunk: &Arc<Chunk>,
    mask: u64,
    office: Arc<DeadLetterOffice>,
    reason: DeadLetterReason,
    error: String,
    attempts: u32,
) -> PartProgress {
    if chunk.closed() & mask != 0 {
        office.stats().add_stale(1);
        return PartProgress::Done(Err(Failed { error: stale(), left: mask }));
    }
    let chunk = Arc::clone(chunk);
    PartProgress::Pending(Box::pin(async move {
        let buried = bury_now(&chunk, mask, &office, reason, error, attempts).await;
        buried.map_err(Failed::all(mask))
    }))
}

/// As `bury`, for events that were never handed out.
pub(crate) async fn bury_now(
    chunk: &Arc<Chunk>,
    mask: u64,
    office: &Arc<DeadLetterOffice>,
    reason: DeadLetterReason,
    error: String,
    attempts: u32,
) -> Result<()> {
    let index = mask.trailing_zeros() as usize;
    let mut info = chunk.info(index);
    info.attempt = info.attempt.max(attempts);
    office.keep(chunk.events()[index].clone(), info, reason, error).await?;
    let settled = claimed(chunk, mask, Settlement::Reject, |chunk, mask, complete| {
        chunk.settle_with(|settler, chunk| settler.ack(chunk, mask, complete))
    });
    let result = match settled {
        PartProgress::Done(result) => result,
        PartProgress::Pending(pending) => pending.await,
    };
    result.map_err(|failed| failed.error)
}

fn nothing_to_settle(what: &str) -> Error {
    Error::new(
        crate::ErrorKind::Unsupported,
        format!("there is no {what} without a group: nothing is kept for this subscription"),
    )
}
