//! A backend for the tests of layers: it answers as the test says and notes what reached it.

use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Backend, BackendInfo, Batch, Capabilities, Confirms, DynAdmin, DynGroups, DynReplay,
    DynRequestReply, Error, ErrorKind, Event, GroupDefinition, GroupInfo, GroupsBackend, Health,
    NoticeSender, Notices, Outcomes, Receipt, RequestReplyBackend, Requests, RespondOptions,
    Result, RetryClass, SharedBackend, Start, SubscribeOptions, Subscription, Support, Timestamp,
};
use crate::{Group, Layer, Patterns};

/// How the probe answers one batch.
pub(super) struct Answer {
    /// How long there is no room.
    room: Duration,
    /// What stage one answers.
    taken: Result<()>,
    /// How long the confirms take.
    confirm: Duration,
    /// The outcome of each event; the last one is that of all further events.
    outcomes: Vec<Result<Receipt>>,
}

impl Answer {
    /// Confirmed at once.
    pub(super) fn ok() -> Self {
        Self {
            room: Duration::ZERO,
            taken: Ok(()),
            confirm: Duration::ZERO,
            outcomes: vec![Ok(Receipt::ACCEPTED)],
        }
    }

    /// None of the events is taken.
    pub(super) fn refused(error: Error) -> Self {
        Self { taken: Err(error), ..Self::ok() }
    }

    /// Each event its own outcome.
    pub(super) fn each(outcomes: impl IntoIterator<Item = Result<Receipt>>) -> Self {
        Self { outcomes: outcomes.into_iter().collect(), ..Self::ok() }
    }

    /// There is no room before that time has passed.
    pub(super) fn room_after(mut self, room: Duration) -> Self {
        self.room = room;
        self
    }

    /// The confirms come after that time.
    pub(super) fn confirmed_after(mut self, confirm: Duration) -> Self {
        self.confirm = confirm;
        self
    }

    pub(super) fn never_confirmed(self) -> Self {
        self.confirmed_after(Duration::MAX)
    }
}

/// An error that says that nothing was accepted.
pub(super) fn safe() -> Error {
    Error::new(ErrorKind::Connect, "the link is cut")
}

/// An error that leaves open whether anything was accepted.
pub(super) fn ambiguous() -> Error {
    Error::new(ErrorKind::Timeout, "nobody answers")
}

/// An error that trying again does not mend.
pub(super) fn hopeless() -> Error {
    Error::new(ErrorKind::Unauthorized, "no right to publish").with_retry(RetryClass::Never)
}

type Script = Box<dyn FnMut(usize, &Batch) -> Answer + Send>;

/// One batch that reached the probe.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) after: Duration,
    pub(super) texts: Vec<String>,
    pub(super) group: Option<Group>,
}

#[derive(Clone)]
pub(super) struct Probe(Arc<State>);

struct State {
    info: BackendInfo,
    capabilities: Mutex<Capabilities>,
    began: Instant,
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    notices: NoticeSender,
    closed: Mutex<bool>,
}

impl Probe {
    /// Answers the n-th batch (from 0) as `script` says.
    pub(super) fn new(script: impl FnMut(usize, &Batch) -> Answer + Send + 'static) -> Self {
        Self(Arc::new(State {
            info: BackendInfo::new("probe", "probe"),
            capabilities: Mutex::new(Capabilities::all(Support::Native)),
            began: Instant::now(),
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            notices: NoticeSender::new(),
            closed: Mutex::new(false),
        }))
    }

    pub(super) fn with_capabilities(self, capabilities: Capabilities) -> Self {
        *lock(&self.0.capabilities) = capabilities;
        self
    }

    /// A fabric over the probe and `layer`.
    pub(super) fn under(&self, layer: impl Layer) -> crate::Fabric {
        crate::Fabric::new(self.clone()).layer(layer).unwrap()
    }

    pub(super) fn shared(&self) -> SharedBackend {
        Arc::new(self.clone())
    }

    /// What reached it, in order.
    pub(super) fn seen(&self) -> Vec<Seen> {
        lock(&self.0.seen).clone()
    }

    /// The payloads that reached it, in order.
    pub(super) fn texts(&self) -> Vec<String> {
        self.seen().into_iter().flat_map(|seen| seen.texts).collect()
    }

    pub(super) fn notices(&self) -> &NoticeSender {
        &self.0.notices
    }

    fn answer(&self, batch: &Batch, group: Option<&Group>) -> Answer {
        let mut seen = lock(&self.0.seen);
        let n = seen.len();
        seen.push(Seen {
            after: self.0.began.elapsed(),
            texts: batch.events.iter().map(|event| event.text().unwrap().into_owned()).collect(),
            group: group.cloned(),
        });
        drop(seen);
        (lock(&self.0.script))(n, batch)
    }

    async fn take(&self, batch: Batch, group: Option<&Group>) -> Result<Confirms> {
        if *lock(&self.0.closed) {
            return Err(Error::new(ErrorKind::Closed, "closed"));
        }
        if batch.events.is_empty() {
            return Ok(Confirms::ready(Outcomes::each([])));
        }
        let answer = self.answer(&batch, group);
        wait(answer.room).await;
        answer.taken?;
        Ok(confirms(answer.outcomes, answer.confirm, batch.events.len()))
    }
}

fn confirms(outcomes: Vec<Result<Receipt>>, after: Duration, count: usize) -> Confirms {
    let each = move |n: usize| outcomes[n.min(outcomes.len() - 1)].clone();
    let outcomes = Outcomes::each((0..count).map(each));
    if after.is_zero() {
        return Confirms::ready(outcomes);
    }
    Confirms::pending(async move {
        wait(after).await;
        outcomes
    })
}

async fn wait(time: Duration) {
    match time {
        Duration::ZERO => {}
        Duration::MAX => pending().await,
        time => tokio::time::sleep(time).await,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl Backend for Probe {
    fn info(&self) -> &BackendInfo {
        &self.0.info
    }

    fn capabilities(&self) -> Capabilities {
        *lock(&self.0.capabilities)
    }

    fn notices(&self) -> Notices {
        self.0.notices.listen()
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        Err(batch)
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.take(batch, None).await
    }

    async fn subscribe(&self, _: SubscribeOptions) -> Result<Subscription> {
        pending().await
    }

    fn replay(&self) -> Option<&dyn DynReplay> {
        None
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
        pending().await
    }

    async fn close(&self, _: Duration) -> Result<()> {
        *lock(&self.0.closed) = true;
        Ok(())
    }
}

impl RequestReplyBackend for Probe {
    async fn request(&self, _: Event, _: Duration) -> Result<Event> {
        pending().await
    }

    async fn respond(&self, _: RespondOptions) -> Result<Requests> {
        pending().await
    }
}

impl GroupsBackend for Probe {
    async fn define(&self, _: &Group, _: GroupDefinition) -> Result<()> {
        pending().await
    }

    async fn redefine(&self, _: &Group, _: Patterns) -> Result<()> {
        pending().await
    }

    async fn reset(&self, _: &Group, _: Start) -> Result<()> {
        pending().await
    }

    async fn delete(&self, _: &Group) -> Result<()> {
        pending().await
    }

    async fn list(&self) -> Result<Vec<Group>> {
        Ok(Vec::new())
    }

    async fn info(&self, _: &Group) -> Result<GroupInfo> {
        pending().await
    }

    async fn send_to(
        &self,
        group: &Group,
        batch: Batch,
        _: Option<Timestamp>,
        _: u32,
    ) -> Result<Confirms> {
        self.take(batch, Some(group)).await
    }
}
