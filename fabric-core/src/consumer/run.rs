//! The runtime of a consumer: workers that receive, try, publish outputs and settle.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::future::{Either, select};
use hashbrown::HashMap;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until};

use super::at_once::{AtOnce, Began};
use super::batch::{BatchRoute, Verdict};
use super::busy::{BATCH, Busy, Workforce};
use super::dedup::{Claim, Dedup};
use super::gate::{Admission, Pass, Rate, Switch};
use super::handler::{
    Context, Handle, HandlerError, HandlerResult, Outputs, Shared, panic_text, unreadable,
};
use super::inbox::{Inbox, Next};
use super::retry::Retry;
use super::routes::route;
use super::runner::{Guarded, Outcome, Trying, Worker};
use super::status::{ConsumerEvent, EventSender};
use super::{Route, Unmatched};
use crate::chunk::Nack;
use crate::dead_letter::{DeadLetterOffice, DeadLetterReason};
use crate::delivery::{Delivery, DeliveryBatch};
use crate::event::Event;
use crate::fabric::Fabric;
use crate::id::EventId;
use crate::subscription::Subscription;
use crate::watch::Works;
use crate::{Error, ErrorKind, Result};

/// How many events' tries in place are remembered while they are away.
const REMEMBERED: usize = 10_000;
/// How long a worker waits for a probe of the kill switch before it looks again.
const SWITCH_LOOK: Duration = Duration::from_millis(50);
/// How long an event that another member handles stays away.
const BUSY_WAIT: Duration = Duration::from_millis(500);

/// What the workers are told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) phase: Phase,
    pub(crate) paused: bool,
    pub(crate) concurrency: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    /// No new work; what runs finishes.
    Draining,
    /// Everything is dropped.
    Stopping,
}

/// How one consumer works: fixed once it runs.
pub(crate) struct Plan<S> {
    pub(crate) routes: Vec<Route<S>>,
    pub(crate) batch: Option<BatchRoute<S>>,
    pub(crate) fallback: Option<Arc<dyn Handle<S>>>,
    pub(crate) unmatched: Unmatched,
    pub(crate) retry: Retry,
    pub(crate) timeout: Option<Duration>,
    pub(crate) ordered: bool,
    pub(crate) dedup: Option<Dedup>,
    pub(crate) rate: Option<Rate>,
    pub(crate) switch: Option<Switch>,
    pub(crate) outputs: Fabric,
    pub(crate) ack_wait: Duration,
}

/// What the workers of one consumer share.
pub(crate) struct Engine<S> {
    pub(crate) plan: Plan<S>,
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) inbox: Inbox,
    /// Events that wait for an earlier one of their key.
    lanes: Mutex<HashMap<Arc<str>, VecDeque<Delivery>, RandomState>>,
    /// Whether there are any in `tried`.
    has_tried: AtomicBool,
    /// Tries in place of events that were given back since.
    tried: Mutex<(HashMap<EventId, u32, RandomState>, VecDeque<EventId>)>,
    pub(crate) workforce: Workforce,
    pub(crate) counters: Counters,
    pub(crate) events: EventSender,
    pub(crate) ended: Mutex<Option<Error>>,
    /// How many workers there are that will take more work.
    alive: AtomicUsize,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) failed: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) blocked: AtomicU64,
}

impl<S: Send + Sync + 'static> Engine<S> {
    pub(crate) fn new(
        plan: Plan<S>,
        shared: Arc<Shared<S>>,
        subscription: Subscription,
        events: EventSender,
    ) -> Self {
        Self {
            plan,
            shared,
            inbox: Inbox::new(subscription),
            lanes: Mutex::default(),
            has_tried: AtomicBool::new(false),
            tried: Mutex::default(),
            workforce: Workforce::default(),
            counters: Counters::default(),
            events,
            ended: Mutex::default(),
            alive: AtomicUsize::new(0),
        }
    }

    /// A worker panicked outside of a handler: a key or a store of the user's did. Its event comes
    /// again with its lease, and another worker takes its place.
    pub(crate) fn died(&self, died: &JoinError) {
        let text = format!("a worker of `{}` died: {died}", self.shared.group);
        tracing::error!("{text}");
        self.events.send(ConsumerEvent::Trouble { error: Error::new(ErrorKind::Backend, text) });
    }

    /// What a handler is called in warnings.
    pub(crate) fn name_of(&self, route: usize) -> &'static str {
        match (&self.plan.batch, self.plan.routes.get(route)) {
            (Some(batch), _) if route == BATCH => batch.handler.name(),
            (_, Some(route)) => route.handler.name(),
            _ => "the fallback handler",
        }
    }

    /// Whether a worker ends because there are more than are wanted.
    fn retires(&self, wanted: usize) -> bool {
        let fewer = |alive: usize| (alive > wanted).then(|| alive - 1);
        self.alive.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok()
    }

    /// Works until the consumer drains, has too many workers or its subscription ends.
    pub(crate) async fn work(
        self: Arc<Self>,
        busy: Arc<Busy>,
        mut control: watch::Receiver<Control>,
    ) {
        self.alive.fetch_add(1, Ordering::SeqCst);
        let alive = Decrement(&self.alive);
        let _joined = self.workforce.join(&busy);
        let mut worker = Worker::new(busy);
        // Whoever waited for a change has seen it, and this loop has not.
        let mut look = true;
        loop {
            if std::mem::take(&mut look) || control.has_changed().unwrap_or(true) {
                let now = *control.borrow_and_update();
                if now.phase != Phase::Running {
                    return;
                }
                if self.retires(now.concurrency) {
                    // It does not count any more.
                    std::mem::forget(alive);
                    return;
                }
                if now.paused {
                    if control.changed().await.is_err() {
                        return;
                    }
                    look = true;
                    continue;
                }
            }
            look = self.plan.ordered;
            let Some(_pass) = self.admitted(&mut control).await else {
                look = true;
                continue;
            };
            if let Some(batch) = &self.plan.batch {
                match self.receive_unless_changed(&mut control).await {
                    None => look = true,
                    Some(None) => return,
                    Some(Some(first)) => {
                        let deliveries = self.gather(batch, first).await;
                        worker.busy.works(true);
                        self.run_batch(&worker.busy, batch, deliveries).await;
                        worker.busy.works(false);
                    }
                }
                continue;
            }
            let received = if self.plan.is_straight() {
                match poll_fn(|cx| Poll::Ready(self.at_once(&mut worker, &control, cx))).await {
                    AtOnce::Nothing => None,
                    AtOnce::Changed => continue,
                    AtOnce::Over => return,
                    AtOnce::Acking(settling) => {
                        self.settled(settling.await);
                        continue;
                    }
                    AtOnce::Began(delivery, began) => {
                        let began = Some(began);
                        worker.busy.works(true);
                        self.try_until_settled(&mut worker, delivery, began, &mut control).await;
                        worker.busy.works(false);
                        continue;
                    }
                    AtOnce::Received(delivery) => Some(Some(delivery)),
                }
            } else {
                self.receive_now()
            };
            let received = match received {
                Some(received) => Some(received),
                None => {
                    worker.rest();
                    self.receive_unless_changed(&mut control).await
                }
            };
            match received {
                None => look = true,
                Some(None) => return,
                Some(Some(delivery)) => {
                    worker.busy.works(true);
                    self.run(&mut worker, delivery, &mut control).await;
                    worker.busy.works(false);
                }
            }
        }
    }

    /// The next event to work on; `None` where the control changed meanwhile.
    async fn receive_unless_changed(
        &self,
        control: &mut watch::Receiver<Control>,
    ) -> Option<Option<Delivery>> {
        let changed = pin!(control.changed());
        let receive = pin!(self.receive());
        match select(receive, changed).await {
            Either::Left((received, _)) => Some(received),
            Either::Right(_) => None,
        }
    }

    /// Waits for the rate limit and the kill switch; `None` where the control changed meanwhile.
    async fn admitted(&self, control: &mut watch::Receiver<Control>) -> Option<Pass<'_>> {
        if self.plan.switch.is_none() && self.plan.rate.is_none() {
            return Some(Pass::FREE);
        }
        loop {
            let until = match self.ask_switch() {
                Ok(pass) => match self.plan.rate.as_ref().map(|rate| rate.take(Instant::now())) {
                    Some(Err(until)) => until,
                    Some(Ok(())) | None => return Some(pass),
                },
                Err(until) => until,
            };
            let changed = pin!(self.switch_changed());
            let sleep = pin!(sleep_until(until));
            let slept = select(changed, sleep);
            if let Either::Left(_) = select(pin!(control.changed()), slept).await {
                return None;
            }
        }
    }

    /// Leave to try an event now, or when to ask again.
    fn ask_switch(&self) -> Result<Pass<'_>, Instant> {
        let Some(switch) = &self.plan.switch else { return Ok(Pass::FREE) };
        let now = Instant::now();
        match switch.admit(now) {
            Admission::Go => Ok(Pass::FREE),
            Admission::Probe(number) => Ok(Pass::probe(switch, number)),
            Admission::Until(until) => Err(until),
            // Whoever probes may have ended between the question and the wait.
            Admission::Wait => Err(now + SWITCH_LOOK),
        }
    }

    async fn switch_changed(&self) {
        match &self.plan.switch {
            Some(switch) => switch.changed.notified().await,
            None => std::future::pending().await,
        }
    }

    /// What comes within the linger after the first event of a batch.
    async fn gather(&self, batch: &BatchRoute<S>, first: Delivery) -> Vec<Delivery> {
        let until = Instant::now() + batch.gather.within;
        let mut bytes = first.size_in_memory();
        let mut gathered = vec![first];
        while gathered.len() < batch.gather.events && bytes < batch.gather.bytes {
            let receive = pin!(self.receive());
            match select(receive, pin!(sleep_until(until))).await {
                Either::Left((Some(delivery), _)) => {
                    bytes += delivery.size_in_memory();
                    gathered.push(delivery);
                }
                Either::Left((None, _)) | Either::Right(_) => break,
            }
        }
        gathered
    }

    /// Handles a batch: each event is settled by its own verdict.
    async fn run_batch(&self, busy: &Busy, batch: &BatchRoute<S>, deliveries: Vec<Delivery>) {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for delivery in deliveries {
            let side = if batch.takes.fits(&delivery) { &mut ours } else { &mut others };
            side.push(delivery);
        }
        for delivery in others {
            self.unmatched(delivery).await;
        }
        if ours.is_empty() {
            return;
        }
        let events: Vec<Event> = ours.iter().map(|delivery| delivery.event().clone()).collect();
        let attempt = ours.iter().map(|delivery| delivery.attempt()).max().unwrap_or(1).max(1);
        let context = Context::new(Arc::clone(&self.shared), None, attempt);
        let (begun, faults) = batch.handler.call(&events, context);
        let leases: Vec<_> = ours.iter().map(Delivery::lease).collect();
        let ended = match begun {
            Err(error) => Err(error),
            Ok(future) => {
                let works = Delivery::begin_works(&ours);
                let future = if works.is_empty() { future } else { Box::pin(works.run(future)) };
                self.wait_for_batch(busy, batch, future, &leases).await
            }
        };
        let read = faults.iter().filter(|fault| fault.is_none()).count();
        let verdicts = match ended {
            Ok(None) => vec![Verdict::Ack; read],
            Ok(Some(verdicts)) if verdicts.len() == read => verdicts,
            Ok(Some(verdicts)) => {
                let text =
                    format!("the handler gave {} verdicts for {read} events", verdicts.len());
                vec![Verdict::Retry(text); read]
            }
            Err(error) if error.is_permanent() => vec![Verdict::Reject(error.chain()); read],
            Err(error) => vec![Verdict::Retry(error.chain()); read],
        };
        let mut verdicts = verdicts.into_iter();
        let mut done = DeliveryBatch::default();
        let mut failed = Vec::new();
        for (delivery, fault) in ours.into_iter().zip(faults) {
            match fault {
                Some(error) => {
                    let (reason, attempt) =
                        (DeadLetterOffice::reason_of(&error), delivery.attempt());
                    self.bury(delivery, reason, unreadable(&error), attempt).await;
                }
                None => match verdicts.next().unwrap_or(Verdict::Ack) {
                    Verdict::Ack => delivery.put_into(&mut done),
                    verdict => failed.push((delivery, verdict)),
                },
            }
        }
        self.ack_all(busy, done).await;
        for (delivery, verdict) in failed {
            self.settle_as(delivery, verdict).await;
        }
    }

    /// Acks together what was handled together.
    async fn ack_all(&self, busy: &Busy, done: DeliveryBatch) {
        if done.is_empty() {
            return;
        }
        for _ in 0..done.len() {
            self.note(true);
        }
        busy.handled(done.len() as u64);
        if let Err(failed) = done.ack().await {
            if failed.error.kind() == ErrorKind::StaleAck {
                let lost = failed.delivery.len() as u64;
                self.counters.lost.fetch_add(lost, Ordering::Relaxed);
            }
            self.events.send(ConsumerEvent::Trouble { error: failed.error });
        }
    }

    async fn settle_as(&self, delivery: Delivery, verdict: Verdict) {
        let attempt = delivery.attempt().max(1);
        self.note(false);
        match verdict {
            Verdict::Ack => self.settled(delivery.ack().await),
            Verdict::Reject(reason) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                self.bury(delivery, DeadLetterReason::Rejected, reason, attempt).await;
            }
            Verdict::Retry(error) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                match self.plan.retry.next(attempt) {
                    Some(wait) => {
                        self.counters.retried.fetch_add(1, Ordering::Relaxed);
                        self.settled(delivery.nack(Nack::after(wait).because(error)).await);
                    }
                    None => self.bury(delivery, DeadLetterReason::MaxDeliver, error, attempt).await,
                }
            }
        }
    }

    /// Waits for a batch handler, its time bounded, its panic caught, all leases kept alive.
    async fn wait_for_batch(
        &self,
        busy: &Busy,
        batch: &BatchRoute<S>,
        future: super::batch::BatchTry,
        leases: &[crate::delivery::Lease],
    ) -> HandlerResult<Option<Vec<Verdict>>> {
        let name = batch.handler.name();
        let mut guarded = Guarded { future, busy, route: BATCH, name };
        let deadline = self.plan.timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let wake = Instant::now() + self.plan.ack_wait / 3;
            let at = deadline.map_or(wake, |deadline| deadline.min(wake));
            match select(&mut guarded, pin!(sleep_until(at))).await {
                Either::Left((Ok(ended), _)) => return ended,
                Either::Left((Err(panic), _)) => {
                    return Err(HandlerError::transient(panic_text(&*panic)));
                }
                Either::Right(_) if Some(at) == deadline => {
                    let timeout = self.plan.timeout.unwrap_or_default();
                    let text = format!("`{name}` did not finish within {timeout:?}");
                    return Err(HandlerError::transient(text));
                }
                Either::Right(_) => {
                    for lease in leases {
                        // One that ended is found out when its event is settled.
                        let _ = lease.extend().await;
                    }
                }
            }
        }
    }

    /// The next event to work on. Events behind another of their key are laid aside.
    async fn receive(&self) -> Option<Delivery> {
        loop {
            let next = match self.inbox.try_next(None) {
                Some(next) => next,
                None => self.inbox.next().await,
            };
            if let Some(received) = self.sort(next) {
                return received;
            }
        }
    }

    /// The same where it is there already.
    fn receive_now(&self) -> Option<Option<Delivery>> {
        loop {
            let next = self.inbox.try_next(None)?;
            if let Some(received) = self.sort(next) {
                return Some(received);
            }
        }
    }

    /// What a worker has to do about what came: work on it, end, or, if nothing, ask for the next.
    pub(super) fn sort(&self, next: Next) -> Option<Option<Delivery>> {
        match next {
            Some(Ok(delivery)) => self.lay_aside(delivery).map(Some),
            Some(Err(error)) => {
                let over = matches!(error.kind(), ErrorKind::Closed | ErrorKind::NotFound);
                self.events.send(ConsumerEvent::Trouble { error: error.clone() });
                if !over {
                    return None;
                }
                self.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                drop(self.inbox.take());
                Some(None)
            }
            None => {
                drop(self.inbox.take());
                Some(None)
            }
        }
    }

    fn lay_aside(&self, delivery: Delivery) -> Option<Delivery> {
        if !self.plan.ordered {
            return Some(delivery);
        }
        let Some(key) = delivery.key() else { return Some(delivery) };
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        match lanes.get_mut(key) {
            Some(lane) => {
                lane.push_back(delivery);
                None
            }
            None => {
                lanes.insert(Arc::from(key), VecDeque::new());
                Some(delivery)
            }
        }
    }

    /// Works on an event, and under order by key on those that came behind it meanwhile.
    async fn run(
        &self,
        worker: &mut Worker<S>,
        delivery: Delivery,
        control: &mut watch::Receiver<Control>,
    ) {
        let key: Option<Arc<str>> =
            if self.plan.ordered { delivery.key().map(Arc::from) } else { None };
        let Some(key) = key else { return self.process(worker, delivery, control).await };
        let mut lane = Lane { engine: self, key: Some(key) };
        let mut next = Some(delivery);
        let mut _pass = Pass::FREE;
        while let Some(delivery) = next.take() {
            self.process(worker, delivery, control).await;
            if lane.is_waiting() {
                match self.leave_for_next(control).await {
                    Some(pass) => _pass = pass,
                    None => return,
                }
            }
            next = lane.next(control.borrow().phase == Phase::Running);
        }
    }

    /// Leave to go on with a lane; `None` where the consumer ends.
    async fn leave_for_next(&self, control: &mut watch::Receiver<Control>) -> Option<Pass<'_>> {
        loop {
            let now = *control.borrow_and_update();
            if now.phase != Phase::Running {
                return None;
            }
            if now.paused {
                control.changed().await.ok()?;
            } else if let Some(pass) = self.admitted(control).await {
                return Some(pass);
            }
        }
    }

    /// The leases of events that wait in lanes go on while they wait.
    pub(crate) async fn extend_waiting(&self) {
        let leases: Vec<_> = {
            let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.values().flatten().map(Delivery::lease).collect()
        };
        for lease in leases {
            // A lease that ended is found out when the event's turn comes.
            let _ = lease.extend().await;
        }
    }

    async fn process(
        &self,
        worker: &mut Worker<S>,
        delivery: Delivery,
        control: &mut watch::Receiver<Control>,
    ) {
        if !delivery.is_live() {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Some(dedup) = &self.plan.dedup else {
            self.try_until_settled(worker, delivery, None, control).await;
            return;
        };
        let key = (dedup.key)(&delivery);
        let hold = self.plan.ack_wait.max(self.plan.timeout.unwrap_or_default());
        match dedup.store.claim(&key, hold).await {
            Ok(Claim::Claimed) => {}
            Ok(Claim::Done) => {
                self.counters.duplicates.fetch_add(1, Ordering::Relaxed);
                self.settled(delivery.ack().await);
                return;
            }
            Ok(Claim::Busy) => {
                self.settled(
                    delivery
                        .nack(Nack::after(BUSY_WAIT).because("another member handles it"))
                        .await,
                );
                return;
            }
            Err(error) => {
                self.settled(delivery.nack(Nack::after(BUSY_WAIT).because(error)).await);
                return;
            }
        }
        let mut claim = ClaimGuard { dedup, key: Some(key) };
        let handled = self.try_until_settled(worker, delivery, None, control).await;
        claim.finish(handled).await;
    }

    /// Tries until the event is settled one way or the other, on from its first try where that
    /// began; whether its handler succeeded.
    async fn try_until_settled(
        &self,
        worker: &mut Worker<S>,
        delivery: Delivery,
        mut began: Option<Began>,
        control: &mut watch::Receiver<Control>,
    ) -> bool {
        let found = match &began {
            Some(began) => self.handler(began.route).map(|handler| (began.route, handler)),
            None => self.handler_of(&delivery),
        };
        let Some((route, handler)) = found else {
            self.unmatched(delivery).await;
            return false;
        };
        let before = self.tries_before(delivery.id());
        let mut tries = 0;
        let mut _pass = Pass::FREE;
        loop {
            tries += 1;
            let attempt =
                (delivery.attempt().max(1) - 1).saturating_add(before).saturating_add(tries);
            let tried = match began.take() {
                Some(Began { ended: Some(outcome), .. }) => outcome,
                Some(_) => self.resume(worker, route, handler, &delivery).await,
                None => self.attempt(worker, route, handler, &delivery, attempt).await,
            };
            let outcome = match tried {
                Outcome::Done(outputs) if outputs.is_empty() => {
                    self.done(&worker.busy, delivery).await;
                    return true;
                }
                Outcome::Done(outputs) => match self.publish(outputs, &delivery).await {
                    Ok(()) => {
                        self.done(&worker.busy, delivery).await;
                        return true;
                    }
                    Err(error) => Outcome::Failed(HandlerError::transient(
                        error.with("output_of", delivery.id()),
                    )),
                },
                other => other,
            };
            let failure = match outcome {
                Outcome::Done(_) | Outcome::Lost => {
                    self.counters.lost.fetch_add(1, Ordering::Relaxed);
                    return false;
                }
                Outcome::Unreadable(error) => {
                    let reason = DeadLetterOffice::reason_of(&error);
                    self.bury(delivery, reason, unreadable(&error), attempt).await;
                    return false;
                }
                Outcome::Failed(failure) => failure,
            };
            self.note(false);
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
            self.events.send(ConsumerEvent::HandlerFailed {
                topic: delivery.topic().clone(),
                id: delivery.id().clone(),
                attempt,
                error: failure.chain(),
            });
            let wait = self.plan.retry.next(attempt).map(|wait| failure.wait().unwrap_or(wait));
            let Some(wait) = wait.filter(|_| !failure.is_permanent()) else {
                let reason = if failure.is_permanent() {
                    DeadLetterReason::Rejected
                } else {
                    DeadLetterReason::MaxDeliver
                };
                self.bury(delivery, reason, failure.chain(), attempt).await;
                return false;
            };
            self.counters.retried.fetch_add(1, Ordering::Relaxed);
            let holds = self.plan.ordered || self.plan.retry.holds(wait);
            let held = match holds && self.hold(&delivery, wait, control).await {
                true => self.hold_back(&delivery, control).await,
                false => None,
            };
            let Some(pass) = held else {
                return self.give_back(delivery, wait, &failure, before + tries - 1).await;
            };
            _pass = pass;
            if !delivery.is_live() {
                self.counters.lost.fetch_add(1, Ordering::Relaxed);
                return false;
            }
        }
    }

    /// The event is handled, and its outputs are kept.
    async fn done(&self, busy: &Busy, delivery: Delivery) {
        self.note(true);
        busy.handled(1);
        self.settled(delivery.ack().await);
    }

    /// Gives a failed event back to come again after `wait`.
    async fn give_back(
        &self,
        delivery: Delivery,
        wait: Duration,
        failure: &HandlerError,
        tries: u32,
    ) -> bool {
        // Unsettled it comes again where it was; a nack would put it behind its successors.
        if !self.plan.ordered {
            // The broker counts this delivery's tries as one.
            self.remember(delivery.id(), tries);
            let nack = Nack {
                delay: Some(wait).filter(|wait| !wait.is_zero()),
                error: Some(failure.chain()),
            };
            self.settled(delivery.nack(nack).await);
        }
        false
    }

    /// Holds an event for as long as the kill switch holds work back; `None` where the consumer
    /// ends meanwhile.
    async fn hold_back(
        &self,
        delivery: &Delivery,
        control: &mut watch::Receiver<Control>,
    ) -> Option<Pass<'_>> {
        loop {
            match self.ask_switch() {
                Ok(pass) => return Some(pass),
                Err(_) if !delivery.is_live() => return Some(Pass::FREE),
                Err(until) => {
                    let wait = until.saturating_duration_since(Instant::now());
                    if !self.hold(delivery, wait, control).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Holds an event while it waits for its next try, and while its consumer is paused; `false`
    /// where the consumer ends meanwhile.
    async fn hold(
        &self,
        delivery: &Delivery,
        wait: Duration,
        control: &mut watch::Receiver<Control>,
    ) -> bool {
        let until = Instant::now() + wait;
        let lease = delivery.lease();
        let extend = self.plan.ack_wait / 3;
        let mut control = control.clone();
        loop {
            let Control { phase, paused, .. } = *control.borrow_and_update();
            let now = Instant::now();
            match (phase, now >= until) {
                (Phase::Running, true) if !paused => return true,
                (Phase::Running, _) => {}
                (Phase::Draining | Phase::Stopping, _) => return false,
            }
            let wake = if now < until { until.min(now + extend) } else { now + extend };
            let changed = pin!(control.changed());
            match select(pin!(sleep_until(wake)), changed).await {
                Either::Left(_) if wake == until => {}
                Either::Left(_) => {
                    if lease.extend().await.is_err() {
                        return true;
                    }
                }
                Either::Right((Err(_), _)) => return false,
                Either::Right(_) => {}
            }
        }
    }

    /// One try: decoded, bounded in time, its panic caught, its lease kept alive.
    async fn attempt(
        &self,
        worker: &mut Worker<S>,
        route: usize,
        handler: &Arc<dyn Handle<S>>,
        delivery: &Delivery,
        attempt: u32,
    ) -> Outcome {
        let context = worker.context(&self.shared, delivery, attempt);
        let (busy, runner) = worker.runner(route, handler);
        let begun = catch_unwind(AssertUnwindSafe(|| runner.begin(delivery.event(), context)));
        match begun {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Outcome::Unreadable(error),
            Err(panic) => return Outcome::Failed(HandlerError::transient(panic_text(&*panic))),
        }
        let future = Trying::new(delivery.begin_work(), runner);
        let mut guarded = Guarded { future, busy, route, name: handler.name() };
        // Most handlers are done at once or after one wait: no timer is made before the first.
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut guarded).poll(cx))).await;
        match first {
            Poll::Ready(ended) => ended.into(),
            Poll::Pending => self.wait_for(guarded, delivery).await,
        }
    }

    /// Goes on with a try that began, and waits.
    async fn resume(
        &self,
        worker: &mut Worker<S>,
        route: usize,
        handler: &Arc<dyn Handle<S>>,
        delivery: &Delivery,
    ) -> Outcome {
        let (busy, runner) = worker.runner(route, handler);
        let future = Trying::new(Works::default(), runner);
        self.wait_for(Guarded { future, busy, route, name: handler.name() }, delivery).await
    }

    async fn wait_for(
        &self,
        mut guarded: Guarded<'_, Trying<'_, S>>,
        delivery: &Delivery,
    ) -> Outcome {
        let began = Instant::now();
        let lease = delivery.lease();
        let deadline = self.plan.timeout.map(|timeout| began + timeout);
        let extend = self.plan.ack_wait / 3;
        let mut lost = pin!(lease.lost());
        let mut wake = began + extend;
        loop {
            let at = deadline.map_or(wake, |deadline| deadline.min(wake));
            let timer = pin!(sleep_until(at));
            let (is_lost, is_late) = match select(&mut guarded, select(lost.as_mut(), timer)).await
            {
                Either::Left((ended, _)) => return ended.into(),
                Either::Right((Either::Left(_), _)) => (true, false),
                Either::Right((Either::Right(_), _)) => (false, Some(at) == deadline),
            };
            match (is_lost, is_late) {
                (true, _) => return Outcome::Lost,
                (false, true) => {
                    let timeout = self.plan.timeout.unwrap_or_default();
                    let text = format!("`{}` did not finish within {timeout:?}", guarded.name);
                    return Outcome::Failed(HandlerError::transient(text));
                }
                (false, false) => {
                    if lease.extend().await.is_err_and(|error| error.kind() == ErrorKind::StaleAck)
                    {
                        return Outcome::Lost;
                    }
                    wake = Instant::now() + extend;
                }
            }
        }
    }

    /// Publishes the outputs, all confirmed before the input is settled.
    async fn publish(&self, outputs: Outputs, input: &Event) -> Result<()> {
        let inheriting = |output: Result<Event>| {
            let mut output = output?;
            output.inherit(input);
            Ok::<_, Error>(output)
        };
        let several = outputs.len() > 1;
        let mut confirms = Vec::new();
        for output in outputs {
            let output = inheriting(output)?;
            match several {
                true => confirms.push(self.plan.outputs.submit(output).await?),
                false => return self.plan.outputs.publish(output).await.map(drop),
            }
        }
        for confirm in confirms {
            confirm.await?;
        }
        Ok(())
    }

    /// The handler that takes an event, and its route; one beyond them is the fallback.
    pub(super) fn handler_of(&self, event: &Event) -> Option<(usize, &Arc<dyn Handle<S>>)> {
        let routes = &self.plan.routes;
        let found = route(routes.iter().map(|route| &route.takes), event);
        let route = found.unwrap_or(routes.len());
        Some((route, self.handler(route)?))
    }

    /// The handler of a route.
    pub(super) fn handler(&self, route: usize) -> Option<&Arc<dyn Handle<S>>> {
        match self.plan.routes.get(route) {
            Some(route) => Some(&route.handler),
            None => self.plan.fallback.as_ref(),
        }
    }

    /// Nothing handles this kind of event: never silently acked.
    async fn unmatched(&self, delivery: Delivery) {
        let text = format!(
            "no handler of `{}` takes events of type `{}` on `{}`",
            self.shared.group,
            delivery.event_type(),
            delivery.topic()
        );
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        self.events.send(ConsumerEvent::Unmatched {
            topic: delivery.topic().clone(),
            event_type: delivery.event_type().to_owned(),
        });
        match self.plan.unmatched {
            Unmatched::Reject => {
                let attempt = delivery.attempt();
                self.bury(delivery, DeadLetterReason::Rejected, text, attempt).await;
            }
            Unmatched::Nack => {
                let attempt = delivery.attempt().max(1);
                match self.plan.retry.next(attempt) {
                    Some(wait) => {
                        self.settled(delivery.nack(Nack::after(wait).because(text)).await);
                    }
                    None => self.bury(delivery, DeadLetterReason::MaxDeliver, text, attempt).await,
                }
            }
        }
    }

    /// Makes a dead letter; where that fails the event stays with the group and comes again.
    async fn bury(
        &self,
        delivery: Delivery,
        reason: DeadLetterReason,
        text: String,
        attempts: u32,
    ) {
        match delivery.bury(reason, text, attempts).await {
            Ok(()) => {
                self.counters.dead.fetch_add(1, Ordering::Relaxed);
            }
            Err(failed) if failed.error.kind() == ErrorKind::StaleAck => {
                self.counters.lost.fetch_add(1, Ordering::Relaxed);
            }
            // Unsettled, the event comes again with its lease.
            Err(failed) => self.events.send(ConsumerEvent::Trouble { error: failed.error }),
        }
    }

    pub(super) fn settled<D>(
        &self,
        result: std::result::Result<(), crate::delivery::SettleError<D>>,
    ) {
        if let Err(failed) = result {
            if failed.error.kind() == ErrorKind::StaleAck {
                self.counters.lost.fetch_add(1, Ordering::Relaxed);
            }
            self.events.send(ConsumerEvent::Trouble { error: failed.error });
        }
    }

    fn note(&self, ok: bool) {
        let Some(switch) = &self.plan.switch else { return };
        match switch.note(ok, Instant::now()) {
            Some(true) => self.events.send(ConsumerEvent::Tripped),
            Some(false) => self.events.send(ConsumerEvent::Closed),
            None => {}
        }
    }

    pub(super) fn tries_before(&self, id: &EventId) -> u32 {
        if !self.has_tried.load(Ordering::Acquire) {
            return 0;
        }
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.0.get(id).copied().unwrap_or(0)
    }

    fn remember(&self, id: &EventId, tries: u32) {
        if tries == 0 {
            return;
        }
        self.has_tried.store(true, Ordering::Release);
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.0.insert(id.clone(), tries).is_none() {
            tried.1.push_back(id.clone());
            if tried.1.len() > REMEMBERED
                && let Some(oldest) = tried.1.pop_front()
            {
                tried.0.remove(&oldest);
            }
        }
    }
}

struct Decrement<'a>(&'a AtomicUsize);

impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A key whose events are worked on one after the other. Dropping it lets go of what waits.
struct Lane<'a, S> {
    engine: &'a Engine<S>,
    key: Option<Arc<str>>,
}

impl<S> Lane<'_, S> {
    /// Whether an event of the key waits.
    fn is_waiting(&self) -> bool {
        let Some(key) = &self.key else { return false };
        let lanes = self.engine.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.get(key).is_some_and(|lane| !lane.is_empty())
    }

    /// The next event of the key; the lane ends where there is none or work is over.
    fn next(&mut self, running: bool) -> Option<Delivery> {
        let key = self.key.clone()?;
        let mut lanes = self.engine.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let next = lanes.get_mut(&*key).and_then(VecDeque::pop_front).filter(|_| running);
        let dropped = if next.is_none() { lanes.remove(&*key) } else { None };
        if next.is_none() {
            // From here on the key may be another worker's.
            self.key = None;
        }
        drop(lanes);
        drop(dropped);
        next
    }
}

impl<S> Drop for Lane<'_, S> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let mut lanes = self.engine.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            let dropped = lanes.remove(&*key);
            drop(lanes);
            drop(dropped);
        }
    }
}

/// A claim in the store of handled events; dropped unfinished it ends with its hold.
struct ClaimGuard<'a> {
    dedup: &'a Dedup,
    key: Option<String>,
}

impl ClaimGuard<'_> {
    async fn finish(&mut self, handled: bool) {
        let Some(key) = self.key.take() else { return };
        let done = if handled {
            self.dedup.store.complete(&key, self.dedup.window).await
        } else {
            self.dedup.store.release(&key).await
        };
        if let Err(error) = done {
            tracing::warn!(%error, key, "the store of handled events did not take a note");
        }
    }
}
