//! Faults on purpose, for tests of programs.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use fastrand::Rng;
use smallvec::SmallVec;
use tokio::time::{Sleep, sleep};

use super::way::{Way, groups_by_way};
use crate::backend::{Backend, DynGroups, SharedBackend};
use crate::batch::{Batch, Confirms, Outcomes, Receipt};
use crate::capabilities::{Ability, Capabilities, Support};
use crate::chunk::{Chunk, Nack, Places, Settled, Settler};
use crate::layer::Layer;
use crate::options::SubscribeOptions;
use crate::subscription::{Source, Subscription};
use crate::watch::{Answered, Asked, Place, SharedWatch, Together, Watch, Work};
use crate::{Error, ErrorKind, Result, RetryClass};

/// Injects faults, so that a program's tests can show that it stands them.
///
/// Each fault has a probability of its own and a random sequence of its own, drawn from the seed:
/// the same calls in the same order meet the same faults, and one more fault does not move the
/// others. On tokio's paused clock and one thread a whole test repeats exactly.
///
/// | | what happens | what is seen |
/// |---|---|---|
/// | [`refuse`](Self::refuse) | a publish is not sent | `Connect`, safe |
/// | [`lose_publishes`](Self::lose_publishes) | it is lost on the way | `Timeout`, ambiguous |
/// | [`lose_confirms`](Self::lose_confirms) | it arrives, its answer is lost | `Timeout`, ambiguous |
/// | [`delay_publishes`](Self::delay_publishes) | it is handed over late | backpressure |
/// | [`drop_deliveries`](Self::drop_deliveries) | a delivery is lost | a group: it comes again; else `Lagged` |
/// | [`duplicate`](Self::duplicate) | a delivery comes twice | twice the same attempt |
/// | [`reorder`](Self::reorder) | a delivery comes after the next | no order is claimed |
/// | [`delay_deliveries`](Self::delay_deliveries) | deliveries stall | later |
/// | [`lose_acks`](Self::lose_acks) | an ack does not reach the broker | `Ok`; it comes again |
/// | [`fail_acks`](Self::fail_acks) | an ack cannot be sent | `Connect`; try again |
///
/// The second copy of a duplicate has nothing to settle with the broker: whatever becomes of it,
/// the first decides. [`heal`](Self::heal) ends all faults. Requests and replays pass untouched.
///
/// It belongs next to the backend: it plays a bad network, and everything outside of it has to
/// cope.
///
/// ```
/// use fabric_core::layers::Faults;
/// # fn example(fabric: fabric_core::Fabric) -> fabric_core::Result<fabric_core::Fabric> {
/// fabric.layer(Faults::seeded(42).duplicate(0.1).lose_acks(0.1))
/// # }
/// ```
///
/// # Errors
/// Adding it fails with `Config` for a probability that is not between 0 and 1, and with
/// `Unsupported` for lost deliveries or acks where an event that its holder does not settle would
/// not come again.
#[derive(Clone)]
#[must_use = "a layer does nothing before it is added"]
pub struct Faults {
    odds: [f64; KINDS],
    longest: [Duration; KINDS],
    shared: Arc<Shared>,
}

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A publish that was not sent.
    Refused,
    /// A publish that was lost on the way.
    LostPublish,
    /// A publish that arrived, whose answer was lost.
    LostConfirm,
    /// A publish that was handed over late.
    DelayedPublish,
    /// A delivery that was lost.
    DroppedDelivery,
    /// A delivery that came twice.
    Duplicate,
    /// A delivery that came after the next.
    Reordered,
    /// A delivery that came late.
    DelayedDelivery,
    /// An ack that did not reach the broker.
    LostAck,
    /// An ack that could not be sent.
    FailedAck,
}

const KINDS: usize = 10;

struct Shared {
    healed: AtomicBool,
    dice: [Mutex<Rng>; KINDS],
    injected: [AtomicU64; KINDS],
}

impl Faults {
    /// No faults yet; what is added is drawn from `seed`.
    pub fn seeded(seed: u64) -> Self {
        let mut seeds = Rng::with_seed(seed);
        let dice = std::array::from_fn(|_| Mutex::new(seeds.fork()));
        let shared = Shared { healed: AtomicBool::new(false), dice, injected: Default::default() };
        Self { odds: [0.0; KINDS], longest: [Duration::ZERO; KINDS], shared: Arc::new(shared) }
    }

    /// A publish is not sent: `Connect`, certainly not accepted.
    pub const fn refuse(self, probability: f64) -> Self {
        self.with(Fault::Refused, probability)
    }

    /// A publish is lost on the way, and nobody can tell: `Timeout`, ambiguous.
    pub const fn lose_publishes(self, probability: f64) -> Self {
        self.with(Fault::LostPublish, probability)
    }

    /// A publish arrives, but its answer is lost: `Timeout`, ambiguous.
    pub const fn lose_confirms(self, probability: f64) -> Self {
        self.with(Fault::LostConfirm, probability)
    }

    /// A batch is handed over up to `longest` late, in order.
    pub const fn delay_publishes(self, probability: f64, longest: Duration) -> Self {
        self.with_delay(Fault::DelayedPublish, probability, longest)
    }

    /// A delivery does not arrive. In a group it comes again when its lease has ended; without one
    /// it is missed, and the subscription says so.
    pub const fn drop_deliveries(self, probability: f64) -> Self {
        self.with(Fault::DroppedDelivery, probability)
    }

    /// A delivery arrives twice.
    pub const fn duplicate(self, probability: f64) -> Self {
        self.with(Fault::Duplicate, probability)
    }

    /// A delivery arrives after the next one, where there is one already. The stack stops claiming
    /// an order.
    pub const fn reorder(self, probability: f64) -> Self {
        self.with(Fault::Reordered, probability)
    }

    /// A delivery arrives up to `longest` late, and those behind it wait.
    pub const fn delay_deliveries(self, probability: f64, longest: Duration) -> Self {
        self.with_delay(Fault::DelayedDelivery, probability, longest)
    }

    /// An ack is answered with `Ok` and does not reach the broker: the event comes again.
    pub const fn lose_acks(self, probability: f64) -> Self {
        self.with(Fault::LostAck, probability)
    }

    /// An ack fails with `Connect` and does not reach the broker; it can be tried again.
    pub const fn fail_acks(self, probability: f64) -> Self {
        self.with(Fault::FailedAck, probability)
    }

    /// Ends all faults of this value and its clones, for good.
    pub fn heal(&self) {
        self.shared.healed.store(true, Ordering::Release);
    }

    /// How often a kind of fault was injected so far.
    #[must_use]
    pub fn injected(&self, fault: Fault) -> u64 {
        self.shared.injected[fault as usize].load(Ordering::Acquire)
    }

    const fn with(mut self, fault: Fault, probability: f64) -> Self {
        self.odds[fault as usize] = probability;
        self
    }

    const fn with_delay(mut self, fault: Fault, probability: f64, longest: Duration) -> Self {
        self.longest[fault as usize] = longest;
        self.with(fault, probability)
    }

    fn has_any(&self, faults: &[Fault]) -> bool {
        let healed = self.shared.healed.load(Ordering::Acquire);
        !healed && faults.iter().any(|fault| self.odds[*fault as usize] > 0.0)
    }

    /// Whether this fault happens now.
    fn strikes(&self, fault: Fault) -> bool {
        if !self.has_any(&[fault]) {
            return false;
        }
        let n = fault as usize;
        let rolled = self.shared.dice[n].lock().unwrap_or_else(PoisonError::into_inner).f64();
        let strikes = rolled < self.odds[n];
        if strikes {
            self.shared.injected[n].fetch_add(1, Ordering::AcqRel);
        }
        strikes
    }

    /// How long this fault delays now, if it does.
    fn delay(&self, fault: Fault) -> Option<Duration> {
        let strikes = self.strikes(fault);
        strikes.then(|| {
            let dice = self.shared.dice[fault as usize].lock();
            let part = dice.unwrap_or_else(PoisonError::into_inner).f64();
            self.longest[fault as usize].mul_f64(part)
        })
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("odds", &self.odds).finish_non_exhaustive()
    }
}

const ON_PUBLISH: &[Fault] =
    &[Fault::Refused, Fault::LostPublish, Fault::LostConfirm, Fault::DelayedPublish];
const ON_ACK: &[Fault] = &[Fault::LostAck, Fault::FailedAck];
const ON_DELIVERY: &[Fault] =
    &[Fault::DroppedDelivery, Fault::Duplicate, Fault::Reordered, Fault::DelayedDelivery];
const ORDERS: &[Ability] =
    &[Ability::OrderTopic, Ability::OrderKey, Ability::OrderKeyAcrossMembers];

impl Layer for Faults {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        if let Some(bad) = self.odds.iter().find(|odds| !(0.0..=1.0).contains(*odds)) {
            let text = format!("a fault's probability is between 0 and 1, not {bad}");
            return Err(Error::new(ErrorKind::Config, text));
        }
        let capabilities = inner.capabilities();
        if self.has_any(&[Fault::LostAck, Fault::DroppedDelivery])
            && capabilities.can(Ability::Groups)
            && !capabilities.can(Ability::Lease)
        {
            return Err(Error::unsupported(
                "a lease on each delivery, which lost deliveries and acks of the faults layer need",
                &inner.info().name,
            )
            .with("ability", Ability::Lease));
        }
        Ok(Arc::new(Faulty { inner, faults: self.clone() }))
    }
}

#[derive(Debug)]
struct Faulty {
    inner: SharedBackend,
    faults: Faults,
}

impl Faulty {
    async fn send(&self, way: Way, batch: Batch) -> Result<Confirms> {
        if batch.events.is_empty() || !self.faults.has_any(ON_PUBLISH) {
            return way.submit(&self.inner, batch).await;
        }
        if let Some(delay) = self.faults.delay(Fault::DelayedPublish) {
            sleep(delay).await;
        }
        let count = batch.events.len();
        let mut failed: SmallVec<[Option<Error>; 1]> = SmallVec::new();
        let mut arrived: SmallVec<[usize; 1]> = SmallVec::new();
        let mut batch = batch;
        batch.events = std::mem::take(&mut batch.events)
            .into_iter()
            .enumerate()
            .filter_map(|(n, event)| {
                let (fault, arrives) = self.fault_of_publish();
                failed.push(fault);
                arrives.then(|| {
                    arrived.push(n);
                    event
                })
            })
            .collect();
        let confirms = if batch.events.is_empty() {
            Confirms::ready(Outcomes::each([]))
        } else {
            way.submit(&self.inner, batch).await?
        };
        Ok(confirms.map(move |outcomes| {
            let mut results: Vec<Result<Receipt>> = vec![Ok(Receipt::ACCEPTED); count];
            for (nth, n) in arrived.into_iter().enumerate() {
                results[n] = outcomes.get(nth).unwrap_or(Ok(Receipt::ACCEPTED));
            }
            let merged = results.into_iter().zip(failed);
            Outcomes::each(merged.map(|(result, fault)| fault.map_or(result, Err)))
        }))
    }

    /// The error of one event, if it fails, and whether it arrives all the same.
    fn fault_of_publish(&self) -> (Option<Error>, bool) {
        if self.faults.strikes(Fault::Refused) {
            return (Some(refused("publish")), false);
        }
        if self.faults.strikes(Fault::LostPublish) {
            return (Some(unanswered()), false);
        }
        let lost = self.faults.strikes(Fault::LostConfirm);
        (lost.then(unanswered), true)
    }
}

fn refused(what: &str) -> Error {
    Error::new(ErrorKind::Connect, format!("an injected fault: the {what} was not sent"))
        .with_retry(RetryClass::Safe)
        .with("layer", "faults")
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Timeout, "an injected fault: the answer was lost; nobody knows")
        .with("layer", "faults")
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Faulty {
    crate::forward!(self.inner: info, notices, replay, request_reply, admin, health, close);

    fn capabilities(&self) -> Capabilities {
        let capabilities = self.inner.capabilities();
        // What is claimed does not change with the healing.
        match self.faults.odds[Fault::Reordered as usize] > 0.0 {
            true => capabilities.with_all(ORDERS, Support::No),
            false => capabilities,
        }
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if batch.events.is_empty() || !self.faults.has_any(ON_PUBLISH) {
            return self.inner.try_submit(batch);
        }
        Err(batch)
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.send(Way::Topics, batch).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        let faults = self.faults.clone();
        let subscription = self.inner.subscribe(options).await?;
        if !faults.has_any(ON_DELIVERY) && !faults.has_any(ON_ACK) {
            return Ok(subscription);
        }
        Ok(subscription.map_source(|inner| FaultySource {
            inner,
            acks: Arc::new(FaultyAcks(faults.clone())),
            faults,
            ready: VecDeque::new(),
            held: None,
            timer: None,
        }))
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        self.inner.groups().is_some().then_some(self)
    }
}

groups_by_way!(Faulty);

/// Deliveries on their way through the faults.
struct FaultySource {
    inner: Box<dyn Source>,
    faults: Faults,
    acks: SharedWatch,
    ready: VecDeque<Item>,
    /// A delivery that comes after the next.
    held: Option<Arc<Chunk>>,
    timer: Option<Pin<Box<Sleep>>>,
}

enum Item {
    Chunk(Arc<Chunk>),
    Error(Error),
    Pause(Duration),
}

impl FaultySource {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                self.timer = None;
            }
            match self.ready.pop_front() {
                Some(Item::Chunk(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                Some(Item::Error(error)) => return Poll::Ready(Some(Err(error))),
                Some(Item::Pause(pause)) => self.timer = Some(Box::pin(sleep(pause))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Takes a chunk apart as the faults want it.
    fn disturb(&mut self, chunk: &Arc<Chunk>) {
        let mut run = 0;
        for n in 0..chunk.len() {
            let bit = 1 << n;
            if self.faults.strikes(Fault::DroppedDelivery) {
                if chunk.group().is_none() {
                    self.show(chunk, &mut run);
                    self.ready.push_back(Item::Error(Error::lagged(1)));
                }
                continue;
            }
            if let Some(pause) = self.faults.delay(Fault::DelayedDelivery) {
                self.show(chunk, &mut run);
                self.ready.push_back(Item::Pause(pause));
            }
            if self.held.is_none() && self.faults.strikes(Fault::Reordered) {
                self.show(chunk, &mut run);
                self.held = Some(self.view(chunk, bit));
                continue;
            }
            run |= bit;
            if chunk.fault(n).is_none() && self.faults.strikes(Fault::Duplicate) {
                self.show(chunk, &mut run);
                self.ready.push_back(Item::Chunk(Arc::new(duplicate(chunk, n))));
            }
            if self.held.is_some() {
                self.show(chunk, &mut run);
                self.release();
            }
        }
        self.show(chunk, &mut run);
    }

    /// Hands out the deliveries in `run`, and begins a new one.
    fn show(&mut self, chunk: &Arc<Chunk>, run: &mut u64) {
        let run = std::mem::take(run);
        if run != 0 {
            let view = self.view(chunk, run);
            self.ready.push_back(Item::Chunk(view));
        }
    }

    fn release(&mut self) {
        self.ready.extend(self.held.take().map(Item::Chunk));
    }

    fn view(&self, chunk: &Arc<Chunk>, shown: u64) -> Arc<Chunk> {
        if shown == chunk.full_mask() && !self.faults.has_any(ON_ACK) {
            return Arc::clone(chunk);
        }
        let view = Chunk::view(Arc::clone(chunk), shown);
        Arc::new(view.with_watch(Arc::clone(&self.acks)))
    }
}

impl Source for FaultySource {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        loop {
            if let Some(item) = ready!(self.poll_ready(cx)) {
                return Poll::Ready(Some(item));
            }
            match self.inner.poll_chunk(cx) {
                Poll::Ready(Some(Ok(chunk))) => self.disturb(&chunk),
                Poll::Ready(Some(Err(error))) => {
                    self.release();
                    self.ready.push_back(Item::Error(error));
                }
                end if self.held.is_none() => return end,
                // Nothing is there to overtake it.
                _ => self.release(),
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.inner.poll_close(cx)
    }
}

/// A second copy of one delivery, with nothing to settle with the broker.
fn duplicate(chunk: &Chunk, n: usize) -> Chunk {
    let info = chunk.info(n);
    let watches: Vec<SharedWatch> = chunk.watches().map(Arc::clone).collect();
    let copy = Chunk::new(Arc::new(vec![chunk.events()[n].clone()]), 0, 1, info.received)
        .with_attempt(info.attempt)
        .with_places(info.position.map_or(Places::None, |place| Places::Each(Box::new([place]))))
        .with_watch(Arc::new(WorkOnly(watches)));
    match info.group {
        Some(group) => copy.with_settler(group, Arc::new(NothingToSettle)),
        None => copy,
    }
}

/// The layers further in see the work on a second copy; there is no settlement to see.
struct WorkOnly(Vec<SharedWatch>);

impl Watch for WorkOnly {
    fn begin(&self, deliveries: &[Place<'_>]) -> Option<Box<dyn Work>> {
        Together::of(self.0.iter().filter_map(|watch| watch.begin(deliveries)))
    }
}

struct NothingToSettle;

impl Settler for NothingToSettle {
    fn ack(&self, _: &Arc<Chunk>, _: u64, _: bool) -> Settled {
        Settled::Done(Ok(()))
    }

    fn nack(&self, _: &Arc<Chunk>, _: u64, _: &Nack) -> Settled {
        Settled::Done(Ok(()))
    }

    fn progress(&self, _: &Arc<Chunk>, _: u64) -> Settled {
        Settled::Done(Ok(()))
    }

    fn dropped(&self, _: &Arc<Chunk>, _: u64) {}
}

struct FaultyAcks(Faults);

impl Watch for FaultyAcks {
    fn before(&self, _: &Chunk, mask: u64, asked: Asked<'_>) -> Option<Answered> {
        if !matches!(asked, Asked::Ack) {
            return None;
        }
        if self.0.strikes(Fault::FailedAck) {
            return Some(Answered { mask, result: Err(refused("ack")) });
        }
        let bits = (0..64).map(|n| 1 << n).filter(|bit| mask & bit != 0);
        let lost = bits.filter(|_| self.0.strikes(Fault::LostAck)).fold(0, |lost, bit| lost | bit);
        (lost != 0).then_some(Answered { mask: lost, result: Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::{Answer, Probe};
    use tokio::time::Instant;

    use super::*;
    use crate::Event;

    fn events(count: usize) -> Batch {
        Batch::new((0..count).map(|n| Event::to("a.b").text(n.to_string()).build().unwrap()))
    }

    async fn outcomes(probe: &Probe, faults: &Faults, count: usize) -> Vec<Result<Receipt>> {
        let fabric = probe.under(faults.clone());
        fabric.backend().submit(events(count)).await.unwrap().await.into_vec()
    }

    fn probe() -> Probe {
        Probe::new(|_, _| Answer::ok())
    }

    fn how_many(results: &[Result<Receipt>], retry: RetryClass) -> usize {
        results.iter().filter(|r| matches!(r, Err(error) if error.retry() == retry)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn each_publish_meets_its_own_fault() {
        let probe = probe();
        let faults = Faults::seeded(7).refuse(0.2).lose_publishes(0.2).lose_confirms(0.2);
        let results = outcomes(&probe, &faults, 1000).await;
        let refused = faults.injected(Fault::Refused) as usize;
        let lost = faults.injected(Fault::LostPublish) as usize;
        let unanswered = faults.injected(Fault::LostConfirm) as usize;
        assert_eq!(how_many(&results, RetryClass::Safe), refused);
        assert_eq!(how_many(&results, RetryClass::Ambiguous), lost + unanswered);
        assert_eq!(probe.texts().len(), 1000 - refused - lost);
        assert!((150..250).contains(&refused), "{refused}");
        // What certainly did not arrive did not.
        for (n, result) in results.iter().enumerate() {
            match result {
                Ok(_) => assert!(probe.texts().contains(&n.to_string())),
                Err(error) if error.retry() == RetryClass::Safe => {
                    assert!(!probe.texts().contains(&n.to_string()));
                }
                Err(_) => {}
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_brings_the_same_faults_and_another_fault_does_not_move_them() {
        let failed = async |faults: Faults| -> Vec<bool> {
            let results = outcomes(&probe(), &faults, 200).await;
            results.iter().map(|r| matches!(r, Err(e) if e.retry() == RetryClass::Safe)).collect()
        };
        let first = failed(Faults::seeded(42).refuse(0.3)).await;
        assert_eq!(failed(Faults::seeded(42).refuse(0.3)).await, first);
        assert_eq!(failed(Faults::seeded(42).refuse(0.3).lose_confirms(0.5)).await, first);
        assert_ne!(failed(Faults::seeded(43).refuse(0.3)).await, first);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_keep_the_order_and_healing_ends_all() {
        let probe = probe();
        let longest = Duration::from_secs(10);
        let faults = Faults::seeded(1).delay_publishes(1.0, longest).refuse(1.0);
        let fabric = probe.under(faults.clone());
        let began = Instant::now();
        let event = || Event::to("a.b").text("x");
        assert_eq!(fabric.publish(event()).await.unwrap_err().kind(), ErrorKind::Connect);
        assert!(!began.elapsed().is_zero() && began.elapsed() <= longest);
        faults.heal();
        let healed = Instant::now();
        fabric.publish(event()).await.unwrap();
        fabric.flush().await.unwrap();
        assert_eq!(healed.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused() {
        for bad in [-0.1, 1.1, f64::NAN] {
            let error = Faults::seeded(1).refuse(bad).layer(probe().shared()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
        }
        let without = Capabilities::all(Support::Native).without(Ability::Lease);
        let layer = Faults::seeded(1).lose_acks(0.1);
        let error = layer.layer(probe().with_capabilities(without).shared()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("probe") && error.to_string().contains("faults"));
    }

    #[tokio::test]
    async fn no_order_is_claimed_where_deliveries_are_reordered() {
        let fabric = probe().under(Faults::seeded(1).reorder(0.1));
        assert!(!fabric.capabilities().can(Ability::OrderKey));
        assert!(probe().under(Faults::seeded(1).refuse(0.1)).capabilities().can(Ability::OrderKey));
    }
}
