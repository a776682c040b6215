//! A bound on how long each call may take.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::way::{Way, groups, requests};
use crate::backend::{
    AdminBackend, Backend, DynAdmin, DynGroups, DynReplay, DynRequestReply, GroupsBackend,
    ReplayBackend, RequestReplyBackend, SharedBackend,
};
use crate::batch::{Batch, Confirms, Outcomes};
use crate::event::Event;
use crate::group::Group;
use crate::health::Health;
use crate::info::{GroupInfo, TopicInfo, Trim};
use crate::layer::Layer;
use crate::options::{GroupDefinition, ReplayOptions, SubscribeOptions};
use crate::patterns::Patterns;
use crate::position::Start;
use crate::request::{Requests, RespondOptions};
use crate::subscription::Subscription;
use crate::time::Timestamp;
use crate::topic::Topic;
use crate::{Error, ErrorKind, Result, RetryClass};

/// Bounds how long each call may take.
///
/// * A publish is confirmed within the limit, counted from the moment it reaches this layer, or
///   fails. The backend is told the limit, so that it can answer by itself that there was no room
///   (`Full`: certainly not accepted). Where it does not, and for confirms that do not come, nobody
///   knows what became of the events: `Timeout`, ambiguous, for each of them.
/// * `subscribe`, `replay`, `respond` and the care of groups and topics fail with `Timeout`; a
///   health check says `Down`; a request waits no longer than the limit, also where it asked to.
/// * Not bounded are reading, settling, a flush, which lasts as long as the confirms that it waits
///   for, and `close`, which has a deadline of its own.
///
/// It belongs inside [`PublishRetry`](super::PublishRetry) and
/// [`CircuitBreaker`](super::CircuitBreaker), so that each try is bounded and a try that hangs
/// counts as a failure. The other way round one limit would span all tries and their pauses, and
/// cut off the last try whatever its chances. Outside [`Limit`](super::Limit) it bounds the wait
/// for a place as well.
///
/// ```
/// use std::time::Duration;
/// use fabric_core::layers::Timeout;
/// # fn example(fabric: fabric_core::Fabric) -> fabric_core::Result<fabric_core::Fabric> {
/// let limit = Timeout::new(Duration::from_secs(5)).health(Duration::from_secs(1));
/// fabric.layer(limit)
/// # }
/// ```
///
/// # Errors
/// Adding it fails with `Config` where a limit is zero.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing before it is added"]
pub struct Timeout {
    publish: Duration,
    subscribe: Duration,
    request: Duration,
    care: Duration,
    health: Duration,
}

impl Timeout {
    /// One limit for every call.
    pub const fn new(limit: Duration) -> Self {
        Self { publish: limit, subscribe: limit, request: limit, care: limit, health: limit }
    }

    /// Sets the limit of publishes, from the call to the confirm.
    pub const fn publish(mut self, limit: Duration) -> Self {
        self.publish = limit;
        self
    }

    /// Sets the limit of opening a subscription, a replay or a responder.
    pub const fn subscribe(mut self, limit: Duration) -> Self {
        self.subscribe = limit;
        self
    }

    /// Sets the longest that a request may wait for its answer.
    pub const fn request(mut self, limit: Duration) -> Self {
        self.request = limit;
        self
    }

    /// Sets the limit of calls that look after groups and topics.
    pub const fn care(mut self, limit: Duration) -> Self {
        self.care = limit;
        self
    }

    /// Sets the limit of health checks.
    pub const fn health(mut self, limit: Duration) -> Self {
        self.health = limit;
        self
    }
}

impl Layer for Timeout {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        let limits = [self.publish, self.subscribe, self.request, self.care, self.health];
        if limits.contains(&Duration::ZERO) {
            return Err(Error::new(
                ErrorKind::Config,
                "a timeout of zero would fail every call; leave the layer out to wait for ever",
            ));
        }
        Ok(std::sync::Arc::new(Bounded { inner, limits: self.clone() }))
    }
}

#[derive(Debug)]
struct Bounded {
    inner: SharedBackend,
    limits: Timeout,
}

impl Bounded {
    async fn send(&self, way: Way, mut batch: Batch) -> Result<Confirms> {
        let count = batch.events.len();
        if count == 0 {
            return way.submit(&self.inner, batch).await;
        }
        let limit = self.limits.publish;
        let due = Instant::now() + limit;
        hasten(&mut batch, due);
        // A little later than the deadline that the backend was told: its own answer knows more.
        let cut = due + limit / 10;
        let Ok(submitted) = timeout_at(cut, way.submit(&self.inner, batch)).await else {
            return Err(late("the events were not handed over", limit, MAYBE));
        };
        submitted.map(|confirms| bound(confirms, count, limit, due))
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match tokio::time::timeout(limit, call).await {
            Ok(result) => result,
            // What these calls do can be done twice.
            Err(_) => Err(late("no answer", limit, "").with_retry(RetryClass::Safe)),
        }
    }
}

/// Moves the deadline of `batch` forward to `due`.
fn hasten(batch: &mut Batch, due: Instant) {
    let options = batch.options.get_or_insert_default();
    options.deadline = Some(options.deadline.map_or(due, |deadline| deadline.min(due)));
}

/// The same confirms; where they do not come by `due`, nobody knows.
fn bound(confirms: Confirms, count: usize, limit: Duration, due: Instant) -> Confirms {
    let pending = match confirms.try_ready() {
        Ok(outcomes) => return Confirms::ready(outcomes),
        Err(pending) => pending,
    };
    Confirms::pending(async move {
        match timeout_at(due, pending).await {
            Ok(outcomes) => outcomes,
            Err(_) => Outcomes::failed(count, &late("no confirm of the events", limit, MAYBE)),
        }
    })
}

const MAYBE: &str = "; they may have been accepted";

fn late(what: &str, limit: Duration, consequence: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("{what} within the limit of {limit:?}{consequence}"))
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Bounded {
    crate::forward!(self.inner: info, capabilities, notices, close);

    fn try_submit(&self, mut batch: Batch) -> Result<Confirms, Batch> {
        let (count, limit, asked) = (batch.events.len(), self.limits.publish, batch.deadline());
        if count == 0 {
            return self.inner.try_submit(batch);
        }
        let due = batch.now.instant + limit;
        hasten(&mut batch, due);
        match self.inner.try_submit(batch) {
            Ok(confirms) => Ok(bound(confirms, count, limit, due)),
            Err(mut batch) => {
                batch.options.get_or_insert_default().deadline = asked;
                Err(batch)
            }
        }
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.send(Way::Topics, batch).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        self.within(self.limits.subscribe, self.inner.subscribe(options)).await
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        self.inner.replay().is_some().then_some(self)
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        self.inner.request_reply().is_some().then_some(self)
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        self.inner.groups().is_some().then_some(self)
    }

    fn admin(&self) -> Option<&dyn DynAdmin> {
        self.inner.admin().is_some().then_some(self)
    }

    async fn health(&self) -> Health {
        let limit = self.limits.health;
        match tokio::time::timeout(limit, self.inner.health()).await {
            Ok(health) => health,
            Err(_) => Health::down(limit, format!("no answer within {limit:?}")),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl ReplayBackend for Bounded {
    async fn replay(&self, options: ReplayOptions) -> Result<Subscription> {
        let unsupported = || Error::unsupported("replay", &self.inner.info().name);
        let family = self.inner.replay().ok_or_else(unsupported)?;
        self.within(self.limits.subscribe, family.replay(options)).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl RequestReplyBackend for Bounded {
    async fn request(&self, request: Event, timeout: Duration) -> Result<Event> {
        let timeout = timeout.min(self.limits.request);
        let asked = requests(&self.inner)?.request(request, timeout);
        match tokio::time::timeout(timeout + timeout / 10, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(late("no answer", timeout, "")),
        }
    }

    async fn respond(&self, options: RespondOptions) -> Result<Requests> {
        self.within(self.limits.subscribe, requests(&self.inner)?.respond(options)).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl GroupsBackend for Bounded {
    async fn define(&self, group: &Group, definition: GroupDefinition) -> Result<()> {
        self.within(self.limits.care, groups(&self.inner)?.define(group, definition)).await
    }

    async fn redefine(&self, group: &Group, patterns: Patterns) -> Result<()> {
        self.within(self.limits.care, groups(&self.inner)?.redefine(group, patterns)).await
    }

    async fn reset(&self, group: &Group, start: Start) -> Result<()> {
        self.within(self.limits.care, groups(&self.inner)?.reset(group, start)).await
    }

    async fn delete(&self, group: &Group) -> Result<()> {
        self.within(self.limits.care, groups(&self.inner)?.delete(group)).await
    }

    async fn list(&self) -> Result<Vec<Group>> {
        self.within(self.limits.care, groups(&self.inner)?.list()).await
    }

    async fn info(&self, group: &Group) -> Result<GroupInfo> {
        self.within(self.limits.care, groups(&self.inner)?.info(group)).await
    }

    async fn send_to(
        &self,
        group: &Group,
        batch: Batch,
        not_before: Option<Timestamp>,
        attempt: u32,
    ) -> Result<Confirms> {
        self.send(Way::Group { group: group.clone(), not_before, attempt }, batch).await
    }
}

impl Bounded {
    fn inner_admin(&self) -> Result<&dyn DynAdmin> {
        let unsupported = || Error::unsupported("the care of topics", &self.inner.info().name);
        self.inner.admin().ok_or_else(unsupported)
    }
}

#[deny(clippy::missing_trait_methods)]
impl AdminBackend for Bounded {
    async fn topics(&self, patterns: Patterns) -> Result<Vec<TopicInfo>> {
        self.within(self.limits.care, self.inner_admin()?.topics(patterns)).await
    }

    async fn topic(&self, topic: &Topic) -> Result<TopicInfo> {
        self.within(self.limits.care, self.inner_admin()?.topic(topic)).await
    }

    async fn purge(&self, topic: &Topic) -> Result<u64> {
        self.within(self.limits.care, self.inner_admin()?.purge(topic)).await
    }

    async fn trim(&self, topic: &Topic, trim: Trim) -> Result<u64> {
        self.within(self.limits.care, self.inner_admin()?.trim(topic, trim)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::{Answer, Probe};
    use super::*;
    use crate::{HealthStatus, Receipt};

    const SECOND: Duration = Duration::from_secs(1);

    fn event() -> Event {
        Event::to("a.b").text("x").build().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_confirm_that_does_not_come_is_ambiguous() {
        let probe = Probe::new(|_, _| Answer::ok().never_confirmed());
        let fabric = probe.under(Timeout::new(SECOND));
        let began = Instant::now();
        let error = fabric.publish(event()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, RetryClass::Ambiguous));
        assert_eq!(began.elapsed(), SECOND);
        let batch = Batch::new([event(), event()]);
        let outcomes = fabric.backend().submit(batch).await.unwrap().await;
        assert_eq!(outcomes.failures().count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_is_told_the_limit_and_cut_off_if_it_does_not_keep_it() {
        let probe = Probe::new(|_, batch| {
            let limit = batch.deadline().unwrap() - Instant::now();
            assert_eq!(limit, SECOND);
            let full = Error::new(ErrorKind::Full, "no room");
            Answer::refused(full).room_after(limit)
        });
        let error = probe.under(Timeout::new(SECOND)).publish(event()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Full, RetryClass::Safe));

        let probe = Probe::new(|_, _| Answer::ok().room_after(Duration::MAX));
        let error = probe.under(Timeout::new(SECOND)).publish(event()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, RetryClass::Ambiguous));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_is_passed_on() {
        let probe = Probe::new(|_, _| Answer::ok().confirmed_after(SECOND / 2));
        let fabric = probe.under(Timeout::new(SECOND));
        assert_eq!(fabric.publish(event()).await.unwrap(), Receipt::ACCEPTED);
        fabric.flush().await.unwrap();
        let sent = fabric.groups().unwrap().send_to("g", event(), None, 1).await.unwrap();
        assert_eq!(sent.await.failures().count(), 0);
        assert_eq!(probe.seen()[1].group.as_ref().unwrap(), "g");
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_call_has_its_limit() {
        let probe = Probe::new(|_, _| Answer::ok());
        let limits =
            Timeout::new(SECOND).subscribe(SECOND * 2).request(SECOND * 3).care(SECOND * 4);
        let fabric = probe.under(limits.health(SECOND * 5));
        let began = Instant::now();
        let error = fabric.subscribe("a.*").await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, RetryClass::Safe));
        assert_eq!(began.elapsed(), SECOND * 2);
        let error = fabric.request(event()).timeout(SECOND * 60).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let error = fabric.groups().unwrap().delete("g").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(fabric.health().await.status, HealthStatus::Down);
        assert_eq!(began.elapsed(), SECOND * 2 + SECOND * 33 / 10 + SECOND * 9);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_refused() {
        let probe = Probe::new(|_, _| Answer::ok());
        let layer = Timeout::new(SECOND).health(Duration::ZERO);
        let error = crate::Fabric::new(probe).layer(layer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
