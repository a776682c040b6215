//! Consumers: handlers run over a group's subscription, with retries, dead letters and drain.
//!
//! A consumer owns its tasks: one for each concurrent handler and one that watches over them. They
//! end with [`Consumer::drain`], [`Consumer::stop`] or when the [`Consumer`] is dropped.

mod at_once;
mod batch;
mod busy;
mod dedup;
mod gate;
mod handler;
mod inbox;
mod responder;
mod retry;
mod routes;
mod run;
mod runner;
#[cfg(feature = "tower")]
mod service;
mod status;
mod supervise;

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::watch;

pub use batch::{Gather, IntoVerdicts, Verdict};
pub use dedup::{Claim, DedupStore, MemoryDedup};
pub use gate::KillSwitch;
pub use handler::{Context, HandlerError, HandlerResult, IntoOutputs, Outputs};
pub use responder::{Responder, ResponderService};
pub use retry::Retry;
#[cfg(feature = "tower")]
pub use service::Incoming;
pub use status::{ConsumerEvent, ConsumerEvents, ConsumerState, ConsumerStatus};

use self::batch::{BatchRoute, TypedBatch};
use self::dedup::{Dedup, KeyOf};
use self::gate::{Rate, Switch};
use self::handler::{EventHandler, Handle, Shared, TypedHandler};
use self::routes::Takes;
use self::run::{Control, Engine, Phase, Plan};
use self::status::EventSender;
use self::supervise::supervise;
use crate::capabilities::Ability;
use crate::event::Event;
use crate::fabric::Fabric;
use crate::group::Group;
use crate::options::DEFAULT_ACK_WAIT;
use crate::pattern::Pattern;
use crate::patterns::{IntoPatterns, Patterns};
use crate::position::Start;
use crate::typed::{Typed, TypedEvent};
use crate::{Error, ErrorKind, Result};

/// The most handlers of one consumer that run at once.
const MAX_CONCURRENCY: usize = 4096;
/// How long running handlers get to finish unless told otherwise.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// What becomes of an event that no handler takes. It is never silently acked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unmatched {
    /// It is given back, and retried as failed events are: another member may know it.
    #[default]
    Nack,
    /// It goes to the dead letters at once.
    Reject,
}

/// A handler and the events it takes.
pub(crate) struct Route<S> {
    takes: Takes,
    handler: Arc<dyn Handle<S>>,
}

impl Fabric {
    /// Begins a consumer of the group `name`: handlers are added, then it is started.
    pub fn consumer(&self, name: impl AsRef<str>) -> ConsumerBuilder {
        ConsumerBuilder {
            fabric: self.clone(),
            group: Group::new(name),
            state: (),
            routes: Vec::new(),
            batch: None,
            fallback: None,
            patterns: None,
            options: Options::default(),
            error: None,
        }
    }
}

/// A consumer in the making; see [`Fabric::consumer`].
#[must_use = "a consumer takes work once it has been started"]
pub struct ConsumerBuilder<S = ()> {
    fabric: Fabric,
    group: Result<Group>,
    state: S,
    routes: Vec<Route<S>>,
    batch: Option<BatchRoute<S>>,
    fallback: Option<Arc<dyn Handle<S>>>,
    patterns: Option<Patterns>,
    options: Options,
    error: Option<Error>,
}

struct Options {
    unmatched: Unmatched,
    redefine: bool,
    start: Option<Start>,
    concurrency: usize,
    ordered: bool,
    retry: Retry,
    timeout: Option<Duration>,
    ack_wait: Option<Duration>,
    prefetch: Option<usize>,
    outputs: Option<Fabric>,
    drain_within: Duration,
    dedup: Option<Dedup>,
    rate: Option<f64>,
    switch: Option<KillSwitch>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            unmatched: Unmatched::default(),
            redefine: false,
            start: None,
            concurrency: 1,
            ordered: false,
            retry: Retry::default(),
            timeout: None,
            ack_wait: None,
            prefetch: None,
            outputs: None,
            drain_within: DRAIN_WITHIN,
            dedup: None,
            rate: None,
            switch: None,
        }
    }
}

impl ConsumerBuilder<()> {
    /// Gives all handlers `state` to share. Comes before the handlers.
    pub fn state<S: Send + Sync + 'static>(self, state: S) -> ConsumerBuilder<S> {
        let misplaced = !self.routes.is_empty() || self.fallback.is_some() || self.batch.is_some();
        let late = || {
            Error::new(
                ErrorKind::Config,
                "`state` comes before the handlers, which are to share it",
            )
        };
        ConsumerBuilder {
            fabric: self.fabric,
            group: self.group,
            state,
            routes: Vec::new(),
            batch: None,
            fallback: None,
            patterns: self.patterns,
            options: self.options,
            error: self.error.or_else(|| misplaced.then(late)),
        }
    }
}

impl<S: Send + Sync + 'static> ConsumerBuilder<S> {
    /// Handles events of type `T`: those that say so, and on its topics those that say no type,
    /// unless another handler takes them as they are.
    ///
    /// Where several handlers fit an event, the first takes it.
    pub fn on<T, F, Fut, O>(mut self, handler: F) -> Self
    where
        T: TypedEvent,
        F: FnOnce(Typed<T>, Context<S>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult<O>> + Send + 'static,
        O: IntoOutputs,
    {
        match Pattern::new(T::PATTERN) {
            Ok(pattern) => self.routes.push(Route {
                takes: Takes::typed(pattern, T::TYPE),
                handler: Arc::new(TypedHandler::new(handler)),
            }),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Handles events on topics that match `pattern`, whatever their type.
    pub fn on_pattern<F, Fut, O>(mut self, pattern: impl AsRef<str>, handler: F) -> Self
    where
        F: FnOnce(Event, Context<S>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult<O>> + Send + 'static,
        O: IntoOutputs,
    {
        match Pattern::new(pattern.as_ref()) {
            Ok(pattern) => {
                let handler = Arc::new(EventHandler(handler));
                self.routes.push(Route { takes: Takes::any(pattern), handler });
            }
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Handles events of type `T` several at a time. Such a consumer has this one handler.
    ///
    /// The handler returns `Ok(())` where all are done, or a [`Verdict`] for each; its error fails
    /// all of them. Events that cannot be read go to the dead letters and not to the handler.
    pub fn on_batch<T, F, Fut, V>(mut self, gather: Gather, handler: F) -> Self
    where
        T: TypedEvent,
        F: FnOnce(Vec<Typed<T>>, Context<S>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult<V>> + Send + 'static,
        V: IntoVerdicts,
    {
        if self.batch.is_some() {
            self.refuse(Error::new(ErrorKind::Config, "a consumer has one batch handler"));
        }
        match Pattern::new(T::PATTERN).and_then(|pattern| gather.validate().map(|()| pattern)) {
            Ok(pattern) => {
                let handler = Arc::new(TypedBatch::new(handler));
                let takes = Takes::typed(pattern, T::TYPE);
                self.batch = Some(BatchRoute { gather, takes, handler });
            }
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Handles what no other handler takes.
    pub fn otherwise<F, Fut, O>(mut self, handler: F) -> Self
    where
        F: FnOnce(Event, Context<S>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult<O>> + Send + 'static,
        O: IntoOutputs,
    {
        self.fallback = Some(Arc::new(EventHandler(handler)));
        self
    }

    /// Sets what becomes of events that no handler takes.
    pub const fn unmatched(mut self, unmatched: Unmatched) -> Self {
        self.options.unmatched = unmatched;
        self
    }

    /// Fixes the group's patterns, so that adding a handler does not change its definition.
    /// Otherwise they are the union of the handlers'.
    pub fn subscribe(mut self, patterns: impl IntoPatterns) -> Self {
        match patterns.into_patterns() {
            Ok(patterns) => self.patterns = Some(patterns),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Gives the group these patterns if it has others, and keeps its place.
    pub const fn redefine_group(mut self) -> Self {
        self.options.redefine = true;
        self
    }

    /// Sets where the group begins if it is new.
    pub fn start_at(mut self, start: impl Into<Start>) -> Self {
        self.options.start = Some(start.into());
        self
    }

    /// Runs at most so many handlers at once; one unless told otherwise.
    pub const fn concurrency(mut self, handlers: usize) -> Self {
        self.options.concurrency = handlers;
        self
    }

    /// Works on events of one key one after the other, at any concurrency; retries hold the key.
    pub const fn ordered_by_key(mut self) -> Self {
        self.options.ordered = true;
        self
    }

    /// Sets when and how often a failed event is tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.options.retry = retry;
        self
    }

    /// Ends each try after `limit`; it counts as failed then.
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    /// Sets how long the broker lets an event unsettled; the consumer extends it while it works.
    pub const fn ack_wait(mut self, wait: Duration) -> Self {
        self.options.ack_wait = Some(wait);
        self
    }

    /// Sets the most events held unsettled.
    pub const fn prefetch(mut self, events: usize) -> Self {
        self.options.prefetch = Some(events);
        self
    }

    /// Publishes outputs to another fabric: a bridge.
    pub fn outputs_to(mut self, fabric: &Fabric) -> Self {
        self.options.outputs = Some(fabric.clone());
        self
    }

    /// Sets how long running handlers get to finish when the consumer drains; 30 s unless told
    /// otherwise.
    pub const fn drain_within(mut self, limit: Duration) -> Self {
        self.options.drain_within = limit;
        self
    }

    /// Handles no event twice within `window`, by source and id.
    pub fn dedup(self, store: impl DedupStore, window: Duration) -> Self {
        self.dedup_by(store, window, |event| format!("{}\n{}", event.source(), event.id()))
    }

    /// Handles no event twice within `window`, by a key of the user's.
    pub fn dedup_by(
        mut self,
        store: impl DedupStore,
        window: Duration,
        key: impl Fn(&Event) -> String + Send + Sync + 'static,
    ) -> Self {
        let key: KeyOf = Arc::new(key);
        self.options.dedup = Some(Dedup { store: Arc::new(store), window, key });
        self
    }

    /// Starts at most so many handlers a second.
    pub const fn rate_limit(mut self, per_second: f64) -> Self {
        self.options.rate = Some(per_second);
        self
    }

    /// Pauses when too many tries fail.
    pub const fn kill_switch(mut self, switch: KillSwitch) -> Self {
        self.options.switch = Some(switch);
        self
    }

    /// Joins the group and begins to work.
    ///
    /// # Errors
    /// `Config` for settings that contradict each other, naming both; and as
    /// [`Fabric::subscribe`].
    ///
    /// # Cancel safety
    /// The group may have been made; nothing runs.
    pub async fn start(self) -> Result<Consumer> {
        let Self { fabric, group, state, routes, batch, fallback, patterns, options, error } = self;
        let describe =
            |error: Error| error.with_operation("start_consumer").with_backend(&fabric.info().name);
        if let Some(error) = error {
            return Err(describe(error));
        }
        let group = group.map_err(describe)?;
        let describe = |error: Error| describe(error).with("group", &group);
        options.validate(&fabric).map_err(describe)?;
        let alone =
            routes.is_empty() && fallback.is_none() && !options.ordered && options.dedup.is_none();
        if batch.is_some() && !alone {
            return Err(describe(Error::new(
                ErrorKind::Config,
                "`on_batch` goes with no other handler, nor with `ordered_by_key` or `dedup`",
            )));
        }
        let patterns = match patterns {
            Some(patterns) => patterns,
            None => Patterns::new(
                routes
                    .iter()
                    .map(|route| &route.takes)
                    .chain(batch.as_ref().map(|batch| &batch.takes))
                    .map(|takes| takes.pattern().clone()),
            )
            .map_err(|_| {
                describe(Error::new(
                    ErrorKind::Config,
                    "a consumer has at least one handler; one with `otherwise` alone names its patterns by `subscribe`",
                ))
            })?,
        };
        let mut subscribe = fabric.subscribe(patterns).group(&group);
        if options.redefine {
            subscribe = subscribe.redefine_group();
        }
        if let Some(start) = options.start {
            subscribe = subscribe.start_at(start);
        }
        if let Some(wait) = options.ack_wait {
            subscribe = subscribe.ack_wait(wait);
        }
        if let Some(events) = options.prefetch {
            subscribe = subscribe.prefetch(events);
        }
        let subscription = subscribe.await?;
        let ack_wait = subscription.definition().map_or(DEFAULT_ACK_WAIT, |stored| stored.ack_wait);
        let plan = Plan {
            routes,
            batch,
            fallback,
            unmatched: options.unmatched,
            retry: options.retry,
            timeout: options.timeout,
            ordered: options.ordered,
            dedup: options.dedup,
            rate: options.rate.map(Rate::new),
            switch: options.switch.map(Switch::new),
            outputs: options.outputs.unwrap_or_else(|| fabric.clone()),
            ack_wait,
        };
        let shared = Arc::new(Shared {
            state,
            fabric: fabric.clone(),
            group: group.clone(),
            draining: AtomicBool::new(false),
        });
        let events = EventSender::new();
        let engine = Arc::new(Engine::new(plan, shared, subscription, events.clone()));
        let (control, watched) = watch::channel(Control {
            phase: Phase::Running,
            paused: false,
            concurrency: options.concurrency,
        });
        let (done, ended) = watch::channel(None);
        let status = {
            let engine = Arc::clone(&engine);
            Box::new(move || Counted::of(&engine))
        };
        tokio::spawn(supervise(engine, watched, done, options.drain_within));
        events.send(ConsumerEvent::Started);
        Ok(Consumer { group, control, ended, events, status })
    }

    /// Starts, works until `signal` resolves, and drains. A signal that comes before the group was joined
    /// ends it as well: nothing was begun then.
    ///
    /// # Errors
    /// As [`start`](Self::start), [`Consumer::join`] and [`Consumer::drain`].
    ///
    /// # Cancel safety
    /// Dropped midway everything stops at once: what was held comes again.
    pub async fn run_until(self, signal: impl Future) -> Result<()> {
        let mut signal = pin!(signal);
        let consumer = match select(signal.as_mut(), pin!(self.start())).await {
            Either::Left(_) => return Ok(()),
            Either::Right((consumer, _)) => consumer?,
        };
        {
            let join = pin!(consumer.join());
            if let Either::Right((ended, _)) = select(signal, join).await {
                return ended;
            }
        }
        consumer.drain().await
    }

    fn refuse(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }
}

impl<S> fmt::Debug for ConsumerBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Options {
    /// Refuses settings that contradict each other, naming both.
    fn validate(&self, fabric: &Fabric) -> Result<()> {
        let refuse = |text: String| Err(Error::new(ErrorKind::Config, text));
        self.retry.validate()?;
        if !(1..=MAX_CONCURRENCY).contains(&self.concurrency) {
            return refuse(format!(
                "`concurrency` is 1 to {MAX_CONCURRENCY}, not {}",
                self.concurrency
            ));
        }
        if let Some(switch) = &self.switch {
            switch.validate()?;
        }
        if let Some(rate) = self.rate.filter(|rate| !rate.is_finite() || *rate <= 0.0) {
            return refuse(format!("`rate_limit` is above 0 events a second, not {rate}"));
        }
        if self.timeout == Some(Duration::ZERO) {
            return refuse("a `timeout` of zero would fail every try".to_owned());
        }
        let wait = self.ack_wait.unwrap_or(DEFAULT_ACK_WAIT);
        let hold = self.retry.longest_hold(self.ordered);
        let (setting, time) = match self.timeout {
            Some(timeout) if timeout > wait => ("timeout", timeout),
            _ if self.ordered => ("retry` under `ordered_by_key", hold),
            _ => ("in_place_up_to", hold),
        };
        if time > wait && !fabric.capabilities().can(Ability::Extend) {
            return refuse(format!(
                "`{setting}` ({time:?}) is longer than `ack_wait` ({wait:?}), which `{}` cannot extend",
                fabric.info().name
            ));
        }
        if let Some(prefetch) = self.prefetch.filter(|prefetch| *prefetch < self.concurrency) {
            return refuse(format!(
                "`prefetch` ({prefetch}) is smaller than `concurrency` ({}), which could never be reached",
                self.concurrency
            ));
        }
        Ok(())
    }
}

/// A consumer at work. Dropping it stops it at once; [`drain`](Self::drain) lets it finish.
pub struct Consumer {
    group: Group,
    control: watch::Sender<Control>,
    ended: watch::Receiver<Option<Result<()>>>,
    events: EventSender,
    status: Box<dyn Fn() -> Counted + Send + Sync>,
}

impl Consumer {
    /// The group it works for.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// What it does and what it has done.
    #[must_use]
    pub fn status(&self) -> ConsumerStatus {
        let (control, counted) = (*self.control.borrow(), (self.status)());
        let state = match control.phase {
            _ if self.ended.borrow().is_some() => ConsumerState::Stopped,
            Phase::Running if control.paused => ConsumerState::Paused,
            Phase::Running if counted.tripped => ConsumerState::Tripped,
            Phase::Running => ConsumerState::Running,
            Phase::Draining | Phase::Stopping => ConsumerState::Draining,
        };
        counted.status(state, control.concurrency)
    }

    /// What happens to it: for the first who asks since it was started, later from now on.
    ///
    /// A listener that does not read misses what is older than the newest 1024, and is told.
    #[must_use]
    pub fn events(&self) -> ConsumerEvents {
        self.events.listen()
    }

    /// Starts no more handlers until [`resume`](Self::resume).
    pub fn pause(&self) {
        if self.set(|control| !std::mem::replace(&mut control.paused, true)) {
            self.events.send(ConsumerEvent::Paused);
        }
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) {
        if self.set(|control| std::mem::replace(&mut control.paused, false)) {
            self.events.send(ConsumerEvent::Resumed);
        }
    }

    /// Changes how many handlers may run at once; what runs goes on.
    ///
    /// # Errors
    /// `Config` if it is zero or more than 4096.
    pub fn set_concurrency(&self, handlers: usize) -> Result<()> {
        if !(1..=MAX_CONCURRENCY).contains(&handlers) {
            let text = format!("`concurrency` is 1 to {MAX_CONCURRENCY}, not {handlers}");
            return Err(Error::new(ErrorKind::Config, text));
        }
        self.set(|control| std::mem::replace(&mut control.concurrency, handlers) != handlers);
        Ok(())
    }

    /// Takes no new work, lets running handlers finish within the time it was built with, sends
    /// their outputs and acks, and ends.
    ///
    /// # Errors
    /// `Timeout` where handlers had to be stopped: their events come again. As [`join`](Self::join).
    ///
    /// # Cancel safety
    /// Draining goes on; the consumer is dropped when it has ended.
    pub async fn drain(self) -> Result<()> {
        self.set(|control| {
            let running = control.phase == Phase::Running;
            control.phase = control.phase.max(Phase::Draining);
            running
        });
        self.join().await
    }

    /// Stops at once: running handlers are dropped, and their events are neither acked nor counted
    /// as failed; they come again.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    ///
    /// # Cancel safety
    /// Stopping goes on.
    pub async fn stop(self) -> Result<()> {
        self.set(|control| {
            std::mem::replace(&mut control.phase, Phase::Stopping) != Phase::Stopping
        });
        self.join().await
    }

    /// Resolves when the consumer has ended, by whatever cause.
    ///
    /// # Errors
    /// What ended it, such as `NotFound` for a group that was deleted; `Timeout` from a drain that
    /// had to stop handlers.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn join(&self) -> Result<()> {
        let mut ended = self.ended.clone();
        let result = match ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone(),
            Err(_) => None,
        };
        result.unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Closed,
                "the consumer's runtime was shut down while it worked",
            ))
        })
    }

    fn set(&self, change: impl FnOnce(&mut Control) -> bool) -> bool {
        self.control.send_if_modified(change)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.control.send_if_modified(|control| {
            let running = control.phase == Phase::Running;
            if running {
                control.phase = Phase::Stopping;
            }
            running
        });
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", &self.group)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// A reading of the counters.
struct Counted {
    tripped: bool,
    running: usize,
    counts: [u64; 7],
}

impl Counted {
    fn of<S>(engine: &Engine<S>) -> Self {
        let counters = &engine.counters;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            tripped: engine.plan.switch.as_ref().is_some_and(Switch::is_tripped),
            running: engine.workforce.working(),
            counts: [
                engine.workforce.handled(),
                read(&counters.failed),
                read(&counters.retried),
                read(&counters.dead),
                read(&counters.lost),
                read(&counters.duplicates),
                read(&counters.blocked),
            ],
        }
    }

    const fn status(&self, state: ConsumerState, concurrency: usize) -> ConsumerStatus {
        let [handled, failed, retried, dead_letters, lost, duplicates, blocked] = self.counts;
        ConsumerStatus {
            state,
            running: self.running,
            concurrency,
            handled,
            failed,
            retried,
            dead_letters,
            lost,
            duplicates,
            blocked,
        }
    }
}
