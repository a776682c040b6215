//! Hooks: the easy way to write a layer.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::StreamExt as _;
use smallvec::SmallVec;

use crate::backend::{
    Backend, DynAdmin, DynGroups, DynReplay, DynRequestReply, GroupsBackend, ReplayBackend,
    RequestReplyBackend, SharedBackend,
};
use crate::batch::{Batch, Confirms, Outcomes, Receipt};
use crate::capabilities::Capabilities;
use crate::chunk::{DeliveryInfo, Settlement};
use crate::event::Event;
use crate::group::Group;
use crate::health::Health;
use crate::info::{BackendInfo, GroupInfo};
use crate::layer::Layer;
use crate::notice::Notices;
use crate::options::{GroupDefinition, ReplayOptions, SubscribeOptions};
use crate::patterns::Patterns;
use crate::payload::caught;
use crate::position::Start;
use crate::request::{Replier, Request, Requests, RespondOptions};
use crate::subscription::Subscription;
use crate::time::Timestamp;
use crate::{Error, ErrorKind, Result};

/// What a layer made by [`hooks`] does with the events that pass. Each method does nothing unless
/// it is written.
///
/// ```
/// use fabric_core::layers::{self, Hooks};
/// use fabric_core::{Event, Fabric, Result};
///
/// struct Tenant(String);
///
/// impl Hooks for Tenant {
///     fn publish(&self, event: &mut Event) -> Result<()> {
///         event.set_header("tenant", &self.0)
///     }
/// }
///
/// fn with_tenant(fabric: Fabric) -> Result<Fabric> {
///     fabric.layer(layers::hooks(Tenant("acme".into())))
/// }
/// ```
///
/// The methods run where the event passes, on the caller's task: they are quick and do not block.
/// One that panics fails for that event alone.
pub trait Hooks: Send + Sync + 'static {
    /// Before an event is handed over: published, sent to one group, asked as a request or given
    /// as a reply.
    ///
    /// It may run twice for one event where the backend has no room at once; the event is then as
    /// it came. What is to be counted is counted in [`published`](Self::published).
    ///
    /// # Errors
    /// The event's own outcome; the others of its batch go on. A dead letter for which it fails is
    /// kept as it is, since nothing may be lost.
    fn publish(&self, event: &mut Event) -> Result<()> {
        let _ = event;
        Ok(())
    }

    /// Once the outcome of a publish is known, with the event as `publish` left it.
    ///
    /// It is not called for requests and replies, nor where nobody waits for the outcome any more.
    fn published(&self, event: &Event, result: &Result<Receipt>) {
        let _ = (event, result);
    }

    /// Before an event is handed out: delivered, replayed, received as a request or as a reply.
    ///
    /// # Errors
    /// In a group the event becomes a dead letter; without one it is an error in the stream, which
    /// goes on. A dead letter for which it fails is handed out as it is.
    fn deliver(&self, event: &mut Event, info: &DeliveryInfo) -> Result<()> {
        let _ = (event, info);
        Ok(())
    }

    /// Once a delivery of a group was settled, with the event as `deliver` left it. The nack of the
    /// last attempt is a `Reject`, and so is whatever else became a dead letter.
    fn settled(&self, event: &Event, info: &DeliveryInfo, settlement: Settlement) {
        let _ = (event, info, settlement);
    }
}

impl<H: Hooks + ?Sized> Hooks for Arc<H> {
    fn publish(&self, event: &mut Event) -> Result<()> {
        (**self).publish(event)
    }

    fn published(&self, event: &Event, result: &Result<Receipt>) {
        (**self).published(event, result);
    }

    fn deliver(&self, event: &mut Event, info: &DeliveryInfo) -> Result<()> {
        (**self).deliver(event, info)
    }

    fn settled(&self, event: &Event, info: &DeliveryInfo, settlement: Settlement) {
        (**self).settled(event, info, settlement);
    }
}

/// A layer of `mine`. An `Arc` of hooks is hooks too, for who wants to look at their state.
pub fn hooks<H: Hooks>(mine: H) -> impl Layer {
    let hooks = Called { hooks: Arc::new(mine), name: std::any::type_name::<H>() };
    move |inner| -> Result<SharedBackend> {
        Ok(Arc::new(Hooked { inner, hooks: hooks.clone(), fast: FastPath::default() }))
    }
}

/// Hooks, and how they are called: a panic harms one event, and a dead letter passes in any case.
#[derive(Clone)]
struct Called {
    hooks: Arc<dyn Hooks>,
    name: &'static str,
}

impl Called {
    fn publish(&self, event: &mut Event) -> Result<()> {
        self.change(event, |hooks, event| hooks.publish(event))
    }

    fn deliver(&self, event: &mut Event, info: &DeliveryInfo) -> Result<()> {
        self.change(event, |hooks, event| hooks.deliver(event, info))
    }

    fn change(
        &self,
        event: &mut Event,
        hook: impl FnOnce(&dyn Hooks, &mut Event) -> Result<()>,
    ) -> Result<()> {
        let kept = event.is_kept_letter().then(|| event.clone());
        let changed = caught(|| format!("the hook `{}`", self.name), || hook(&*self.hooks, event));
        match (changed, kept) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(kept)) => {
                *event = kept;
                Ok(())
            }
            (Err(error), None) => Err(error.with("topic", event.topic()).with("id", event.id())),
        }
    }

    fn published(&self, event: &Event, result: &Result<Receipt>) {
        self.tell(|hooks| hooks.published(event, result));
    }

    fn settled(&self, event: &Event, info: &DeliveryInfo, settlement: Settlement) {
        self.tell(|hooks| hooks.settled(event, info, settlement));
    }

    /// What has happened has happened: a panic changes nothing about it.
    fn tell(&self, tell: impl FnOnce(&dyn Hooks)) {
        let told = caught(
            || format!("the hook `{}`", self.name),
            || {
                tell(&*self.hooks);
                Ok(())
            },
        );
        if let Err(error) = told {
            tracing::error!(%error, "a hook that observes failed");
        }
    }

    /// The same deliveries behind the hooks.
    fn deliveries(&self, subscription: Subscription) -> Subscription {
        let (deliver, settled) = (self.clone(), self.clone());
        subscription.map_events_observed(
            move |event, info| deliver.deliver(event, info),
            move |event, info, settlement| settled.settled(event, info, settlement),
        )
    }
}

struct Hooked {
    inner: SharedBackend,
    hooks: Called,
    fast: FastPath,
}

impl Hooked {
    /// Takes out of `batch` what the hook refuses.
    fn prepare(&self, batch: &mut Batch) -> Handed {
        let mut refused = Vec::new();
        let mut index = 0;
        batch.events.retain(|event| {
            let taken = self.hooks.publish(event);
            index += 1;
            match taken {
                Ok(()) => true,
                Err(error) => {
                    refused.push((index - 1, event.clone(), error));
                    false
                }
            }
        });
        Handed { hooks: self.hooks.clone(), taken: batch.events.clone(), refused }
    }

    /// Runs the hooks over a batch and hands on what they leave of it.
    async fn hand_over<F>(
        &self,
        mut batch: Batch,
        submit: impl FnOnce(Batch) -> F + Send,
    ) -> Result<Confirms>
    where
        F: Future<Output = Result<Confirms>> + Send,
    {
        if batch.events.is_empty() {
            return submit(batch).await;
        }
        let handed = self.prepare(&mut batch);
        if batch.events.is_empty() {
            return Ok(handed.confirm(Confirms::ready(Outcomes::each([]))));
        }
        match submit(batch).await {
            Ok(confirms) => Ok(handed.confirm(confirms)),
            Err(error) => {
                handed.failed(&error);
                Err(error)
            }
        }
    }
}

/// What became of a batch: the events that went on, and those that the hook refused, by index.
struct Handed {
    hooks: Called,
    taken: SmallVec<[Event; 1]>,
    refused: Vec<(usize, Event, Error)>,
}

impl Handed {
    fn confirm(self, confirms: Confirms) -> Confirms {
        confirms.map(move |outcomes| self.merge(outcomes))
    }

    /// One outcome for each event of the batch as it came.
    fn merge(self, outcomes: Outcomes) -> Outcomes {
        let answer = |n| outcomes.get(n).unwrap_or_else(unanswered);
        if self.refused.is_empty() {
            for (n, event) in self.taken.iter().enumerate() {
                self.hooks.published(event, &answer(n));
            }
            return outcomes;
        }
        let mut refused = self.refused.into_iter().peekable();
        let mut taken = self.taken.iter().enumerate();
        let mut merged = Vec::with_capacity(refused.len() + taken.len());
        loop {
            let result = match refused.next_if(|(index, ..)| *index == merged.len()) {
                Some((_, event, error)) => {
                    let result = Err(error);
                    self.hooks.published(&event, &result);
                    result
                }
                None => {
                    let Some((n, event)) = taken.next() else { break };
                    let result = answer(n);
                    self.hooks.published(event, &result);
                    result
                }
            };
            merged.push(result);
        }
        Outcomes::each(merged)
    }

    /// None of the events was taken.
    fn failed(self, error: &Error) {
        let refused = Err(error.clone());
        self.taken.iter().for_each(|event| self.hooks.published(event, &refused));
        for (_, event, error) in self.refused {
            self.hooks.published(&event, &Err(error));
        }
    }
}

fn unanswered() -> Result<Receipt> {
    Err(Error::new(ErrorKind::Backend, "the backend confirmed fewer events than it was given"))
}

/// How often the fast path is tried: less and less where it is never open, since each try that
/// fails runs the hooks in vain.
#[derive(Default)]
struct FastPath {
    /// How many tries to leave out.
    pause: AtomicU32,
    /// How many were left out the last time.
    length: AtomicU32,
}

impl FastPath {
    const LONGEST: u32 = 64;

    fn is_open(&self) -> bool {
        let less = |pause: u32| pause.checked_sub(1);
        self.pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err()
    }

    fn worked(&self) {
        self.length.store(0, Ordering::Relaxed);
    }

    fn failed(&self) {
        let length = (self.length.load(Ordering::Relaxed) * 2 + 1).min(Self::LONGEST);
        self.length.store(length, Ordering::Relaxed);
        self.pause.store(length, Ordering::Relaxed);
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Hooked {
    fn try_submit(&self, mut batch: Batch) -> Result<Confirms, Batch> {
        if batch.events.is_empty() {
            return self.inner.try_submit(batch);
        }
        if !self.fast.is_open() {
            return Err(batch);
        }
        let before = batch.events.clone();
        let handed = self.prepare(&mut batch);
        if batch.events.is_empty() {
            return Ok(handed.confirm(Confirms::ready(Outcomes::each([]))));
        }
        match self.inner.try_submit(batch) {
            Ok(confirms) => {
                self.fast.worked();
                Ok(handed.confirm(confirms))
            }
            // Whoever submits it now runs the hooks on the events as they came.
            Err(mut batch) => {
                self.fast.failed();
                batch.events = before;
                Err(batch)
            }
        }
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.hand_over(batch, |batch| self.inner.submit(batch)).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        let subscription = self.inner.subscribe(options).await?;
        Ok(self.hooks.deliveries(subscription))
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        self.inner.replay().map(|_| self as &dyn DynReplay)
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        self.inner.request_reply().map(|_| self as &dyn DynRequestReply)
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        self.inner.groups().map(|_| self as &dyn DynGroups)
    }

    fn info(&self) -> &BackendInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn notices(&self) -> Notices {
        self.inner.notices()
    }

    fn admin(&self) -> Option<&dyn DynAdmin> {
        self.inner.admin()
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.inner.close(deadline).await
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooked")
            .field("hooks", &self.hooks.name)
            .field("inner", &self.inner)
            .finish()
    }
}

#[deny(clippy::missing_trait_methods)]
impl ReplayBackend for Hooked {
    async fn replay(&self, options: ReplayOptions) -> Result<Subscription> {
        let Some(inner) = self.inner.replay() else { return Err(self.lacks("replay")) };
        Ok(self.hooks.deliveries(inner.replay(options).await?))
    }
}

#[deny(clippy::missing_trait_methods)]
impl RequestReplyBackend for Hooked {
    async fn request(&self, mut request: Event, timeout: Duration) -> Result<Event> {
        let Some(inner) = self.inner.request_reply() else { return Err(self.lacks(REQUESTS)) };
        self.hooks.publish(&mut request)?;
        let mut reply = inner.request(request, timeout).await?;
        self.hooks.deliver(&mut reply, &received_now())?;
        Ok(reply)
    }

    async fn respond(&self, options: RespondOptions) -> Result<Requests> {
        let Some(inner) = self.inner.request_reply() else { return Err(self.lacks(REQUESTS)) };
        let requests = inner.respond(options).await?;
        let hooks = self.hooks.clone();
        Ok(Requests::new(requests.then(move |request| receive(hooks.clone(), request))))
    }
}

/// Hands a request to the hook; where that fails the caller hears of it.
async fn receive(hooks: Called, request: Result<Request>) -> Result<Request> {
    let (mut event, replier) = request?.into_parts();
    match hooks.deliver(&mut event, &received_now()) {
        Ok(()) => Ok(Request::new(event, HookedReplier { hooks, replier })),
        Err(error) => {
            // The caller may be gone; the error that counts is the hook's.
            let _ = replier.reply(Err(format!("{error:#}"))).await;
            Err(error)
        }
    }
}

struct HookedReplier {
    hooks: Called,
    replier: Box<dyn Replier>,
}

impl Replier for HookedReplier {
    fn reply(self: Box<Self>, answer: Result<Event, String>) -> BoxFuture<'static, Result<()>> {
        let mut event = match answer {
            Ok(event) => event,
            Err(why) => return self.replier.reply(Err(why)),
        };
        match self.hooks.publish(&mut event) {
            Ok(()) => self.replier.reply(Ok(event)),
            Err(error) => Box::pin(async move {
                let _ = self.replier.reply(Err(format!("{error:#}"))).await;
                Err(error)
            }),
        }
    }
}

fn received_now() -> DeliveryInfo {
    DeliveryInfo { attempt: 0, position: None, group: None, received: Timestamp::now() }
}

#[deny(clippy::missing_trait_methods)]
impl GroupsBackend for Hooked {
    async fn define(&self, group: &Group, definition: GroupDefinition) -> Result<()> {
        self.inner_groups()?.define(group, definition).await
    }

    async fn redefine(&self, group: &Group, patterns: Patterns) -> Result<()> {
        self.inner_groups()?.redefine(group, patterns).await
    }

    async fn reset(&self, group: &Group, start: Start) -> Result<()> {
        self.inner_groups()?.reset(group, start).await
    }

    async fn delete(&self, group: &Group) -> Result<()> {
        self.inner_groups()?.delete(group).await
    }

    async fn list(&self) -> Result<Vec<Group>> {
        self.inner_groups()?.list().await
    }

    async fn info(&self, group: &Group) -> Result<GroupInfo> {
        self.inner_groups()?.info(group).await
    }

    async fn send_to(
        &self,
        group: &Group,
        batch: Batch,
        not_before: Option<Timestamp>,
        attempt: u32,
    ) -> Result<Confirms> {
        let inner = self.inner_groups()?;
        self.hand_over(batch, |batch| inner.send_to(group, batch, not_before, attempt)).await
    }
}

const REQUESTS: &str = "request and reply";

impl Hooked {
    fn inner_groups(&self) -> Result<&dyn DynGroups> {
        self.inner.groups().ok_or_else(|| self.lacks("durable groups"))
    }

    fn lacks(&self, what: &str) -> Error {
        Error::unsupported(what, &self.inner.info().name)
    }
}
