//! One run of one case: names of its own, clients, a history, patience.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::time::Instant;

use super::actors::{Publisher, Reader};
use super::check::Check;
use super::failure::{Failure, Verdict, ensure};
use super::harness::{
    BrokerCtl, Child, ChildJob, DiskCtl, DynHarness, FaultCtl, RightsCtl, Timing, Tool,
};
use super::history::History;
use crate::capabilities::{Ability, Capabilities};
use crate::fabric::Fabric;
use crate::group::Group;
use crate::subscription::Subscription;
use crate::topic::Topic;
use crate::{Error, ErrorKind};

/// What a case is given: names that nobody else has, clients of one broker, and a history.
pub struct Trial {
    harness: Arc<dyn DynHarness>,
    test: Option<&'static str>,
    fabric: Fabric,
    timing: Timing,
    root: Arc<str>,
    crowd: Arc<str>,
    history: History,
    opened: Mutex<Vec<Fabric>>,
    groups: Mutex<Vec<Group>>,
}

impl Trial {
    /// Opens the first client.
    pub(crate) async fn begin(
        harness: Arc<dyn DynHarness>,
        test: Option<&'static str>,
        history: History,
    ) -> Verdict<Self> {
        let fabric = harness.open().await?;
        let (root, crowd) = (harness.fresh_topic(), harness.fresh_group());
        Topic::new(&root)?;
        Group::new(&crowd)?;
        let (root, crowd) = (Arc::from(root), Arc::from(crowd));
        history.know([Arc::clone(&root), Arc::clone(&crowd)]);
        Ok(Self {
            timing: harness.timing(),
            opened: Mutex::new(vec![fabric.clone()]),
            harness,
            test,
            fabric,
            root,
            crowd,
            history,
            groups: Mutex::default(),
        })
    }

    /// Closes every client and deletes the groups; what that brings is not the case's concern.
    pub(crate) async fn end(self) {
        let groups = std::mem::take(&mut *lock(&self.groups));
        if self.can(Ability::GroupDelete)
            && let Ok(fabric) = self.harness.open().await
        {
            for group in groups {
                if let Ok(care) = fabric.groups() {
                    let _ = care.delete(&group).await;
                }
            }
            lock(&self.opened).push(fabric);
        }
        let opened = std::mem::take(&mut *lock(&self.opened));
        for fabric in opened {
            let _ = fabric.close(Duration::ZERO).await;
        }
    }

    /// The first client.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// One more client of the same broker.
    ///
    /// # Errors
    /// Whatever connecting brought.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn another(&self) -> Verdict<Fabric> {
        let fabric = self.harness.open().await?;
        lock(&self.opened).push(fabric.clone());
        Ok(fabric)
    }

    /// A client that the caller closes.
    pub(super) fn open(&self) -> BoxFuture<'_, crate::Result<Fabric>> {
        self.harness.open()
    }

    /// One more client, which nobody but the case holds: dropping it is a crash.
    ///
    /// # Errors
    /// Whatever connecting brought.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn stray(&self) -> Verdict<Fabric> {
        Ok(self.harness.open().await?)
    }

    /// What the stack claims.
    #[must_use]
    pub fn caps(&self) -> Capabilities {
        self.fabric.capabilities()
    }

    /// Whether it claims `ability`.
    #[must_use]
    pub fn can(&self, ability: Ability) -> bool {
        self.caps().can(ability)
    }

    /// How long things take here.
    #[must_use]
    pub const fn timing(&self) -> &Timing {
        &self.timing
    }

    /// The lease that cases ask for.
    #[must_use]
    pub const fn ack_wait(&self) -> Duration {
        self.timing.ack_wait
    }

    /// A topic of this case: `name` below its own first level.
    ///
    /// # Panics
    /// If that is no topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> Topic {
        let topic = Topic::new(format!("{}.{name}", self.root));
        topic.unwrap_or_else(|error| panic!("a case uses a bad name: {error}"))
    }

    /// The text of a pattern below this case's own first level.
    #[must_use]
    pub fn pattern(&self, pattern: &str) -> String {
        format!("{}.{pattern}", self.root)
    }

    /// The first level of this case's topics.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// A group of this case.
    ///
    /// # Panics
    /// If `name` is no word for one.
    #[must_use]
    pub fn group(&self, name: &str) -> Group {
        let group = Group::new(format!("{}-{name}", self.crowd));
        let group = group.unwrap_or_else(|error| panic!("a case uses a bad name: {error}"));
        let mut groups = lock(&self.groups);
        if !groups.contains(&group) {
            groups.push(group.clone());
        }
        group
    }

    /// What happened so far.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// What `audience` got so far of what was published so far.
    #[must_use]
    pub fn check(&self, audience: impl AsRef<str>) -> Check {
        Check::new(self.history.records(), audience.as_ref())
    }

    /// Somebody who publishes, and whose publishes are written down.
    #[must_use]
    pub fn publisher(&self, fabric: &Fabric, name: &str) -> Publisher {
        Publisher::new(fabric.clone(), self.history.clone(), &self.root, name)
    }

    /// Somebody who reads for `audience`, and whose receipts are written down.
    #[must_use]
    pub fn reader(
        &self,
        subscription: Subscription,
        audience: impl AsRef<str>,
        name: &str,
    ) -> Reader {
        let names = [Arc::clone(&self.root), Arc::clone(&self.crowd)];
        let (history, timing) = (self.history.clone(), self.timing);
        Reader::new(subscription, history, names, timing, audience.as_ref(), name)
    }

    /// What starts and stops the broker.
    ///
    /// # Errors
    /// If the harness has no such tool.
    #[track_caller]
    pub fn broker(&self) -> Verdict<&dyn BrokerCtl> {
        self.harness.broker().ok_or_else(|| Failure::new("there is no control of the broker"))
    }

    /// What does harm to the link.
    ///
    /// # Errors
    /// If the harness has no such tool.
    #[track_caller]
    pub fn fault(&self) -> Verdict<&dyn FaultCtl> {
        self.harness.fault().ok_or_else(|| Failure::new("there is no fault proxy"))
    }

    /// Starts a consumer in a process of its own.
    ///
    /// # Errors
    /// If the harness has no such tool, or it could not be started in time.
    ///
    /// # Cancel safety
    /// Dropped midway, the child is killed.
    pub async fn child(&self, mut job: ChildJob) -> Verdict<Box<dyn Child>> {
        let children = self.harness.children();
        let children = children.ok_or_else(|| Failure::new("there are no child processes"))?;
        job.test = self.test.map(str::to_owned);
        Ok(self.within("starting a child", children.start(&job)).await??)
    }

    /// What fills the broker's disk.
    ///
    /// # Errors
    /// If the harness has no such tool.
    #[track_caller]
    pub fn disk(&self) -> Verdict<&dyn DiskCtl> {
        self.harness.disk().ok_or_else(|| Failure::new("there is no disk to fill"))
    }

    /// What takes a client's rights.
    ///
    /// # Errors
    /// If the harness has no such tool.
    #[track_caller]
    pub fn rights(&self) -> Verdict<&dyn RightsCtl> {
        self.harness.rights().ok_or_else(|| Failure::new("there are no rights to take"))
    }

    /// How many unsettled events fill a topic.
    ///
    /// # Errors
    /// If the harness does not say.
    #[track_caller]
    pub fn topic_bound(&self) -> Verdict<usize> {
        self.harness.topic_bound().ok_or_else(|| Failure::new("there is no bound on topics"))
    }

    /// For how long the same id is recognised.
    ///
    /// # Errors
    /// If the harness does not say.
    #[track_caller]
    pub fn dedup_window(&self) -> Verdict<Duration> {
        self.harness.dedup_window().ok_or_else(|| Failure::new("there is no window to wait for"))
    }

    pub(crate) fn has(&self, tool: Tool) -> bool {
        match tool {
            Tool::Broker => self.harness.broker().is_some(),
            Tool::Fault => self.harness.fault().is_some(),
            Tool::Children => self.harness.children().is_some(),
            Tool::Disk => self.harness.disk().is_some(),
            Tool::Rights => self.harness.rights().is_some(),
            Tool::TopicBound => self.harness.topic_bound().is_some(),
            Tool::DedupWindow => self.harness.dedup_window().is_some(),
        }
    }

    pub(crate) fn harness(&self) -> &dyn DynHarness {
        &*self.harness
    }

    /// Lets time pass that is itself under test.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn wait(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// What `future` brings, which must not take for ever.
    ///
    /// # Errors
    /// If it takes longer than the harness's patience.
    ///
    /// # Cancel safety
    /// That of `future`.
    #[track_caller]
    pub fn within<F: Future + Send>(
        &self,
        what: &'static str,
        future: F,
    ) -> impl Future<Output = Verdict<F::Output>> + Send
    where
        F::Output: Send,
    {
        let (patience, at) = (self.timing.patience, std::panic::Location::caller());
        async move {
            tokio::time::timeout(patience, future)
                .await
                .map_err(|_| Failure::at(format!("{what} did not resolve within {patience:?}"), at))
        }
    }

    /// Fails unless `least` has passed since `since`, and no more than `most` and the slack; in real
    /// time ten times as much.
    ///
    /// # Errors
    /// How long it was.
    #[track_caller]
    pub fn timed(&self, since: Instant, least: Duration, most: Duration) -> Verdict {
        let took = since.elapsed();
        let factor = if self.timing.exact { 1 } else { 10 };
        let most = (most + self.timing.slack) * factor;
        ensure!(took >= least, "it took {took:?}, at least {least:?} had to pass");
        ensure!(took <= most, "it took {took:?}, no more than {most:?} was allowed");
        Ok(())
    }

    /// Refuses as the unclaimed arm expects: for abilities without a call of their own.
    ///
    /// # Errors
    /// If `require` does not refuse.
    #[track_caller]
    pub(crate) fn lacks(&self, ability: Ability) -> Verdict<Error> {
        use crate::capabilities::Support;
        let least = Capabilities::NONE.with(ability, Support::Emulated);
        super::failure::refused(self.fabric.require(least), ErrorKind::Unsupported)
    }
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trial").field("fabric", &self.fabric).field("root", &self.root).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
