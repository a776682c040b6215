//! Subscribing and replaying: options are checked before any I/O.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Call, Fabric, group_named};
use crate::capabilities::{Ability, Capabilities};
use crate::dead_letter::DeadLetterOffice;
use crate::options::{AckMode, End, ReplayOptions, SubscribeOptions, WhenFull};
use crate::patterns::{IntoPatterns, Patterns};
use crate::position::{Position, Start};
use crate::subscription::{Replay, Subscription};
use crate::{Error, ErrorKind, Result};

impl Fabric {
    /// Opens a subscription; resolves once the broker has it, so that what is published
    /// afterwards arrives.
    ///
    /// The call is a future with setters: `subscribe("orders.*").group("billing").await`.
    ///
    /// # Errors
    /// `InvalidTopic`, `Unsupported` for an option that this stack cannot honour, `GroupMismatch`,
    /// `Config` for options that contradict each other, `Closed`, `Connect`.
    ///
    /// # Cancel safety
    /// A group may have been made; no member stays behind.
    pub fn subscribe(&self, patterns: impl IntoPatterns) -> Subscribe {
        let options = patterns.into_patterns().map(SubscribeOptions::new);
        Subscribe(Call::new(Spec { fabric: self.clone(), options }))
    }

    /// Reads what is kept as a finite stream, which ends where the history ended when it began.
    ///
    /// # Errors
    /// `InvalidTopic`, `Unsupported` where no history is kept, `NotFound` for a position of
    /// another stream, `Closed`.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub fn replay(&self, patterns: impl IntoPatterns) -> ReplayRequest {
        let options = patterns.into_patterns().map(ReplayOptions::new);
        ReplayRequest(Call::new(Spec { fabric: self.clone(), options }))
    }

    pub(crate) async fn open(self, options: Result<SubscribeOptions>) -> Result<Subscription> {
        let describe = |error| self.describe(error, "subscribe");
        let options = options.map_err(describe)?;
        check(&options, &self.capabilities(), &self.info().name).map_err(describe)?;
        let listing = self.shared.open.enlist(&options);
        let group = options.durable_group().cloned();
        let mut subscription = self.shared.backend.subscribe(options).await.map_err(describe)?;
        let office = group.map(|group| {
            let max_deliver = subscription.definition().and_then(|stored| stored.max_deliver);
            Arc::new(DeadLetterOffice::new(
                Arc::clone(&self.shared.backend),
                &group,
                max_deliver,
                self.shared.notices.clone(),
                Arc::clone(&self.shared.stats),
            ))
        });
        subscription.attach(office, Arc::clone(&self.shared.stats), listing);
        Ok(subscription)
    }

    async fn open_replay(self, options: Result<ReplayOptions>) -> Result<Replay> {
        let describe = |error| self.describe(error, "replay");
        let options = options.map_err(describe)?;
        let (capabilities, name) = (self.capabilities(), &self.info().name);
        capabilities.demand(Ability::Replay, name).map_err(describe)?;
        // What is kept from its oldest event on is what a replay is; only another start is more.
        if options.start != Start::All {
            check_start(&options.start, &capabilities, name).map_err(describe)?;
        }
        check_place(&options.start, &options.patterns).map_err(describe)?;
        if options.start == Start::New {
            return Err(describe(Error::new(
                ErrorKind::Config,
                "a replay from `new` would be empty; use `subscribe` for what is still to come",
            )));
        }
        let Some(replay) = self.shared.backend.replay() else {
            return Err(describe(Error::unsupported("replay", name)));
        };
        replay.replay(options).await.map(Replay::new).map_err(describe)
    }
}

/// Refuses options that this stack cannot honour or that contradict each other.
fn check(options: &SubscribeOptions, capabilities: &Capabilities, backend: &str) -> Result<()> {
    let demand = |ability| capabilities.demand(ability, backend);
    let contradiction = |text: &str| Err(Error::new(ErrorKind::Config, text));
    let grouped = options.durable_group().is_some();
    match (&options.group, options.live_group) {
        (None, _) => demand(Ability::FanOut)?,
        (Some(_), true) => demand(Ability::LiveGroups)?,
        (Some(_), false) => demand(Ability::Groups)?,
    }
    if !grouped {
        let only_groups = [
            ("ack_wait", options.ack_wait.is_some()),
            ("max_deliver", options.max_deliver.is_some()),
            ("ack_mode", options.ack_mode != AckMode::Sent),
            ("redefine_group", options.redefine_group),
        ];
        if let Some((option, _)) = only_groups.iter().find(|(_, given)| *given) {
            return contradiction(&format!(
                "`{option}` needs a durable group: without one there is nothing to settle"
            ));
        }
    }
    if options.redefine_group {
        demand(Ability::GroupRedefine)?;
    }
    if options.ack_wait == Some(Duration::ZERO) {
        return contradiction("an `ack_wait` of zero would end every lease at once");
    }
    if options.max_deliver == Some(0) {
        return contradiction("a `max_deliver` of zero would deliver nothing");
    }
    if options.prefetch == Some(0) {
        return contradiction("a `prefetch` of zero would deliver nothing");
    }
    if options.ack_wait.is_some() {
        demand(Ability::Lease)?;
    }
    if options.max_deliver.is_some() {
        demand(Ability::Attempts)?;
        demand(Ability::DeadLetters)?;
    }
    if options.ack_mode == AckMode::Confirmed {
        demand(Ability::AckConfirmed)?;
    }
    if options.prefetch.is_some() {
        demand(Ability::Prefetch)?;
    }
    if let Some(when_full) = options.when_full {
        demand(match when_full {
            WhenFull::Block => Ability::WhenFullBlock,
            WhenFull::DropOldest => Ability::WhenFullDropOldest,
            WhenFull::DropNewest => Ability::WhenFullDropNewest,
            WhenFull::Fail => Ability::WhenFullFail,
        })?;
    }
    if let Some(start) = &options.start {
        check_start(start, capabilities, backend)?;
        check_place(start, &options.patterns)?;
    }
    Ok(())
}

/// Each start is an ability of its own.
fn check_start(start: &Start, capabilities: &Capabilities, backend: &str) -> Result<()> {
    let ability = match start {
        Start::New => return Ok(()),
        Start::All => Ability::StartAll,
        Start::Last => Ability::StartLast,
        Start::LastPerTopic => Ability::StartLastPerTopic,
        Start::Time(_) => Ability::StartTime,
        Start::At(_) | Start::After(_) | Start::Resume(_) => Ability::StartPosition,
    };
    capabilities.demand(ability, backend)
}

/// A position belongs to one topic, which the patterns must match.
fn check_place(start: &Start, patterns: &Patterns) -> Result<()> {
    let outside = |position: &Position| {
        Error::new(
            ErrorKind::Config,
            format!("the position `{position}` lies in a topic that [{patterns}] does not match"),
        )
    };
    match start {
        Start::At(position) | Start::After(position) if !patterns.matches(&position.topic) => {
            Err(outside(position))
        }
        _ => Ok(()),
    }
}

struct Spec<O> {
    fabric: Fabric,
    options: Result<O>,
}

impl<O> Spec<O> {
    fn set(&mut self, set: impl FnOnce(&mut O) -> Result<()>) {
        if let Ok(options) = &mut self.options
            && let Err(error) = set(options)
        {
            self.options = Err(error);
        }
    }
}

/// A subscription in the making; see [`Fabric::subscribe`].
#[must_use = "a subscription is opened when this is awaited"]
pub struct Subscribe(Call<Spec<SubscribeOptions>, Result<Subscription>>);

impl Subscribe {
    /// Shares events with the other members of a durable group: each is settled or comes again.
    pub fn group(self, name: impl AsRef<str>) -> Self {
        self.with(|options| {
            options.group = Some(group_named(name)?);
            options.live_group = false;
            Ok(())
        })
    }

    /// Shares events with whoever is there, at most once, with nothing to settle.
    pub fn live_group(self, name: impl AsRef<str>) -> Self {
        self.with(|options| {
            options.group = Some(group_named(name)?);
            options.live_group = true;
            Ok(())
        })
    }

    /// Gives the group these patterns if it has others, and keeps its place.
    pub fn redefine_group(self) -> Self {
        self.with(|options| {
            options.redefine_group = true;
            Ok(())
        })
    }

    /// Sets where it begins: a [`Start`], a timestamp or a cursor.
    pub fn start_at(self, start: impl Into<Start>) -> Self {
        self.with(|options| {
            options.start = Some(start.into());
            Ok(())
        })
    }

    /// Sets how long a delivery may stay unsettled.
    pub fn ack_wait(self, wait: Duration) -> Self {
        self.with(|options| {
            options.ack_wait = Some(wait);
            Ok(())
        })
    }

    /// Sets what an ack's `Ok` means.
    pub fn ack_mode(self, mode: AckMode) -> Self {
        self.with(|options| {
            options.ack_mode = mode;
            Ok(())
        })
    }

    /// Sets after how many deliveries an event becomes a dead letter.
    pub fn max_deliver(self, times: u32) -> Self {
        self.with(|options| {
            options.max_deliver = Some(times);
            Ok(())
        })
    }

    /// Sets the most events held unsettled; without a group: unread.
    pub fn prefetch(self, events: usize) -> Self {
        self.with(|options| {
            options.prefetch = Some(events);
            Ok(())
        })
    }

    /// Sets what happens where its queue is at its bound.
    pub fn when_full(self, policy: WhenFull) -> Self {
        self.with(|options| {
            options.when_full = Some(policy);
            Ok(())
        })
    }

    fn with(mut self, set: impl FnOnce(&mut SubscribeOptions) -> Result<()>) -> Self {
        self.0.spec(|spec| spec.set(set));
        self
    }
}

impl Future for Subscribe {
    type Output = Result<Subscription>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, |spec| spec.fabric.open(spec.options))
    }
}

impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscribe")
    }
}

/// A replay in the making; see [`Fabric::replay`].
#[must_use = "a replay is opened when this is awaited"]
pub struct ReplayRequest(Call<Spec<ReplayOptions>, Result<Replay>>);

impl ReplayRequest {
    /// Sets where it begins: a [`Start`], a timestamp or a cursor.
    pub fn start_at(self, start: impl Into<Start>) -> Self {
        self.with(|options| options.start = start.into())
    }

    /// Sets where it ends: before a time, or with a position.
    pub fn end_at(self, end: impl Into<End>) -> Self {
        self.with(|options| options.end = end.into())
    }

    /// Sets the most events it yields.
    pub fn limit(self, events: u64) -> Self {
        self.with(|options| options.limit = Some(events))
    }

    fn with(mut self, set: impl FnOnce(&mut ReplayOptions)) -> Self {
        self.0.spec(|spec| {
            spec.set(|options| {
                set(options);
                Ok(())
            });
        });
        self
    }
}

impl Future for ReplayRequest {
    type Output = Result<Replay>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, |spec| spec.fabric.open_replay(spec.options))
    }
}

impl fmt::Debug for ReplayRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplayRequest")
    }
}
