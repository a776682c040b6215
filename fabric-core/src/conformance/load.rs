//! Publishers and groups at work while harm is done, and the verdict on it all.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::actors::Publisher;
use super::check::Check;
use super::failure::{Failure, Verdict, ensure};
use super::history::{History, Op, Record, Stage};
use super::trial::Trial;
use crate::capabilities::Ability;
use crate::delivery::Delivery;
use crate::fabric::Fabric;
use crate::group::Group;
use crate::pattern::Pattern;
use crate::subscription::Subscription;
use crate::topic::Topic;
use crate::{Result, RetryClass};

/// How many members each group has, and how many topics there are.
const MEMBERS: usize = 3;
const TOPICS: usize = 6;

/// More errors than any outage gives reason for.
const MANY_ERRORS: u64 = 2000;

/// How long a publisher waits after a failure.
const PAUSE: Duration = Duration::from_millis(20);

/// What is at work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) publishers: usize,
    /// How long each publisher waits between its events.
    pub(super) pace: Duration,
    /// How large the payloads are, at least.
    pub(super) size: usize,
    /// How long a publish may take, if that is bounded.
    pub(super) limit: Option<Duration>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { publishers: 20, pace: Duration::from_millis(5), size: 0, limit: None }
    }
}

/// Opens a client, by whatever way the harm is done on.
pub(super) type Open<'a> = &'a (dyn Fn() -> BoxFuture<'a, Result<Fabric>> + Send + Sync);

/// Publishers, two groups of three members, and what they have seen.
pub(super) struct Load {
    board: Arc<Board>,
    clients: Vec<Fabric>,
    publishers: Vec<JoinHandle<()>>,
    members: Vec<JoinHandle<Option<Subscription>>>,
    setup: Setup,
    pattern: Pattern,
    patience: Duration,
}

/// What all of them share.
struct Board {
    history: History,
    groups: [Group; 2],
    topics: Vec<Topic>,
    size: usize,
    patience: Duration,
    tally: Mutex<Tally>,
    changed: watch::Sender<()>,
    publishing: watch::Sender<bool>,
    reading: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Tally {
    /// The number of each value, as they were begun.
    begun: HashMap<Arc<str>, u64>,
    confirmed: HashSet<Arc<str>>,
    refused: u64,
    unknown: u64,
    seen: [HashSet<Arc<str>>; 2],
    twice: u64,
    /// From which number on values are fresh, how many fresh ones were confirmed, and seen.
    mark: u64,
    fresh: u64,
    fresh_seen: [u64; 2],
    errors: u64,
    last_error: Option<String>,
    /// What no outage excuses.
    faults: Vec<String>,
}

impl Load {
    /// Lets everybody begin: two clients publish, three have one member of each group.
    pub(super) async fn begin(t: &Trial, setup: Setup, open: Open<'_>) -> Verdict<Self> {
        let timing = t.timing();
        let board = Arc::new(Board {
            history: t.history().clone(),
            groups: [t.group("g0"), t.group("g1")],
            topics: (0..TOPICS).map(|n| t.topic(&format!("load.t{n}"))).collect(),
            size: setup.size,
            patience: timing.patience,
            tally: Mutex::default(),
            changed: watch::Sender::new(()),
            publishing: watch::Sender::new(true),
            reading: watch::Sender::new(true),
        });
        let mut load = Self {
            board,
            clients: Vec::new(),
            publishers: Vec::new(),
            members: Vec::new(),
            setup,
            pattern: Pattern::new(t.pattern("load.*"))?,
            patience: timing.patience,
        };
        for n in 0..MEMBERS {
            let client = t.within("connecting", open()).await??;
            for audience in 0..2 {
                let group = &load.board.groups[audience];
                let mut join = client.subscribe(&load.pattern).group(group);
                if t.can(Ability::Lease) {
                    join = join.ack_wait(t.ack_wait());
                }
                let subscription = t.within("joining", join).await??;
                let member = Member {
                    board: Arc::clone(&load.board),
                    audience,
                    actor: format!("g{audience}m{n}").into(),
                    name: group.as_str().into(),
                };
                load.members.push(tokio::spawn(member.work(subscription)));
            }
            load.clients.push(client);
        }
        for n in 0..2 {
            let client = t.within("connecting", open()).await??;
            for p in (n..setup.publishers).step_by(2) {
                let publisher = t.publisher(&client, &format!("p{p}"));
                let topic = load.board.topics[p % TOPICS].clone();
                let board = Arc::clone(&load.board);
                // Not all in step: whatever happens, somebody is in the middle of something.
                let late = setup.pace.mul_f64(p as f64 / setup.publishers as f64);
                load.publishers.push(tokio::spawn(async move {
                    sleep(late).await;
                    board.publish(publisher, topic, setup).await;
                }));
            }
            load.clients.push(client);
        }
        load.goes_on().await?;
        Ok(load)
    }

    /// The groups.
    pub(super) fn groups(&self) -> &[Group; 2] {
        &self.board.groups
    }

    /// What they read.
    pub(super) const fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Waits until `count` events were confirmed since the beginning.
    #[track_caller]
    pub(super) fn confirmed(&self, count: usize) -> impl Future<Output = Verdict> + Send + '_ {
        self.until("publishing goes on", move |tally| tally.confirmed.len() >= count)
    }

    /// How many publishes failed, or nobody knows of.
    pub(super) fn failed(&self) -> u64 {
        let tally = self.board.tally();
        tally.refused + tally.unknown
    }

    /// Waits until publishes fail.
    #[track_caller]
    pub(super) fn fails(&self, more: u64) -> impl Future<Output = Verdict> + Send + '_ {
        let before = self.failed();
        self.until("publishes fail", move |tally| tally.refused + tally.unknown >= before + more)
    }

    /// Waits until events that are published from now on are confirmed, and reach both groups.
    #[track_caller]
    pub(super) fn goes_on(&self) -> impl Future<Output = Verdict> + Send + '_ {
        let enough = self.setup.publishers as u64;
        self.board.change(|tally| {
            tally.mark = tally.begun.len() as u64;
            tally.fresh = 0;
            tally.fresh_seen = [0; 2];
        });
        self.until("everything goes on", move |tally| {
            tally.fresh >= enough && tally.fresh_seen.iter().all(|seen| *seen >= enough)
        })
    }

    /// Writes down what a member in another process has received.
    pub(super) fn absorb(&self, audience: usize, actor: &str, received: &[String]) {
        let (actor, name) = (Arc::from(actor), Arc::from(self.board.groups[audience].as_str()));
        for value in received {
            let value = Arc::from(value.as_str());
            let line = Record::new(&actor, Op::Receive, Stage::Ok, &value, &self.board.topics[0]);
            self.board.history.add(Record { audience: Some(Arc::clone(&name)), ..line });
            self.board.change(|tally| tally.see(audience, &value));
        }
    }

    /// Ends publishing, drains until every confirmed event was seen by both groups or that has taken
    /// too long, and judges.
    pub(super) async fn end(self) -> Verdict<String> {
        self.board.publishing.send_replace(false);
        let until = Instant::now() + 2 * self.patience;
        for publisher in self.publishers {
            let ended = timeout_at(until, publisher).await;
            let ended = ended.map_err(|_| Failure::new("a publish does not resolve"))?;
            ended.map_err(|panic| Failure::new(format!("a publisher failed: {panic}")))?;
        }
        // The total is bounded, not the pauses: a trickle is no excuse.
        let drained = self.board.until(3 * self.patience, |tally| {
            tally.seen.iter().all(|seen| tally.confirmed.is_subset(seen))
        });
        let drained = drained.await;
        self.board.reading.send_replace(false);
        let until = Instant::now() + 2 * self.patience;
        for member in self.members {
            let ended = timeout_at(until, member).await;
            let ended = ended.map_err(|_| Failure::new("a member does not end"))?;
            let left = ended.map_err(|panic| Failure::new(format!("a member failed: {panic}")))?;
            if let Some(subscription) = left {
                let closed = timeout_at(until, subscription.close()).await;
                closed.map_err(|_| Failure::new("a subscription does not close"))??;
            }
        }
        let summary = self.board.tally().to_string();
        let judge = || -> Verdict {
            let tally = self.board.tally();
            ensure!(tally.faults.is_empty(), "{}", tally.faults.join("; "));
            drop(tally);
            for group in &self.board.groups {
                let check = Check::new(self.board.history.records(), group.as_str());
                check.nothing_lost()?.nothing_unexpected()?;
            }
            ensure!(drained, "not everything was drained in time");
            Ok(())
        };
        judge().map_err(|failure| failure.after(&summary))?;
        for client in self.clients {
            let closed = timeout(2 * self.patience, client.close(self.patience)).await;
            closed.map_err(|_| Failure::new("a client does not close"))??;
        }
        Ok(summary)
    }

    #[track_caller]
    fn until<'a>(
        &'a self,
        what: &'static str,
        holds: impl Fn(&Tally) -> bool + Send + 'a,
    ) -> impl Future<Output = Verdict> + Send + 'a {
        let at = std::panic::Location::caller();
        async move {
            if self.board.until(self.patience, holds).await {
                return Ok(());
            }
            let text = format!("waited {:?} until {what}: {}", self.patience, self.board.tally());
            Err(Failure::at(text, at))
        }
    }
}

impl Board {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally());
        self.changed.send_replace(());
    }

    async fn until(&self, time: Duration, holds: impl Fn(&Tally) -> bool) -> bool {
        let until = Instant::now() + time;
        let mut changed = self.changed.subscribe();
        loop {
            if holds(&self.tally()) {
                return true;
            }
            if !self.tally().faults.is_empty()
                || timeout_at(until, changed.changed()).await.is_err()
            {
                return false;
            }
        }
    }

    async fn publish(self: Arc<Self>, mut publisher: Publisher, topic: Topic, setup: Setup) {
        let Setup { pace, limit, .. } = setup;
        let go_on = self.publishing.subscribe();
        while *go_on.borrow() {
            let draft = publisher.draft(&topic);
            let value = Arc::clone(&draft.value);
            let draft = draft.with(|event| event.bytes(body(&value, self.size)));
            self.change(|tally| {
                let number = tally.begun.len() as u64;
                tally.begun.insert(Arc::clone(&value), number);
            });
            // An outage does not last that long: what waits longer waits for ever.
            let sent = match limit {
                Some(limit) => Ok(publisher.publish_within(draft, limit).await),
                None => timeout(2 * self.patience, publisher.publish(draft)).await,
            };
            let failed = !matches!(sent, Ok(Ok(_)));
            self.change(|tally| match sent {
                Ok(Ok(_)) => tally.confirm(value),
                Ok(Err(error)) => {
                    tally.last_error = Some(format!("a publish answered: {error:#}"));
                    match error.retry() {
                        RetryClass::Ambiguous => tally.unknown += 1,
                        RetryClass::Safe => tally.refused += 1,
                        RetryClass::Never => {
                            tally.faults.push(format!("an outage is no reason: {error:#}"));
                        }
                    }
                }
                Err(_) => tally.faults.push(format!("the publish of {value} does not resolve")),
            });
            sleep(if failed { PAUSE.max(pace) } else { pace }).await;
        }
    }
}

/// Who reads for a group.
struct Member {
    board: Arc<Board>,
    audience: usize,
    actor: Arc<str>,
    name: Arc<str>,
}

impl Member {
    /// Acks everything until it is told to stop; returns what is then still open.
    async fn work(self, mut subscription: Subscription) -> Option<Subscription> {
        let mut reading = self.board.reading.subscribe();
        loop {
            let item = tokio::select! {
                biased;
                _ = reading.wait_for(|reading| !*reading) => return Some(subscription),
                item = subscription.recv() => item,
            };
            match item {
                Some(Ok(delivery)) => self.take(delivery).await,
                Some(Err(error)) => self.board.change(|tally| {
                    tally.errors += 1;
                    tally.last_error = Some(format!("{} got: {error:#}", self.actor));
                    if tally.errors == MANY_ERRORS {
                        tally.faults.push(format!("errors without an end, such as {error:#}"));
                    }
                }),
                None => {
                    let ended = format!("the subscription of {} ended", self.actor);
                    self.board.change(|tally| tally.faults.push(ended));
                    return None;
                }
            }
        }
    }

    async fn take(&self, delivery: Delivery) {
        let value: Arc<str> = delivery.id().to_string().into();
        let line = |op, stage| Record::of(&self.actor, &self.name, op, stage, &value, &delivery);
        self.board.history.add(line(Op::Receive, Stage::Ok));
        let whole =
            delivery.payload().bytes().is_ok_and(|have| have == body(&value, self.board.size));
        self.board.change(|tally| {
            tally.see(self.audience, &value);
            if !whole {
                tally.faults.push(format!("{value} arrived with another payload"));
            }
        });
        let failed = line(Op::Ack, Stage::Fail);
        match timeout(2 * self.board.patience, delivery.ack()).await {
            Ok(Ok(())) => {}
            // It comes again.
            Ok(Err(_)) => self.board.history.add(failed),
            Err(_) => {
                let text = format!("the ack of {value} does not resolve");
                self.board.change(|tally| tally.faults.push(text));
            }
        }
    }
}

impl Tally {
    fn confirm(&mut self, value: Arc<str>) {
        self.fresh += u64::from(self.is_fresh(&value));
        self.confirmed.insert(value);
    }

    fn see(&mut self, audience: usize, value: &Arc<str>) {
        if self.seen[audience].insert(Arc::clone(value)) {
            self.fresh_seen[audience] += u64::from(self.is_fresh(value));
        } else {
            self.twice += 1;
        }
    }

    fn is_fresh(&self, value: &Arc<str>) -> bool {
        self.begun.get(value).is_some_and(|number| *number >= self.mark)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { confirmed, refused, unknown, seen, twice, errors, .. } = self;
        let [one, two] = seen.each_ref().map(HashSet::len);
        write!(
            f,
            "{} confirmed, {refused} refused, {unknown} unknown; {one} and {two} received, {twice} \
             of them again; {errors} errors in subscriptions",
            confirmed.len()
        )?;
        match &self.last_error {
            Some(error) => write!(f, "; the last error: {error}"),
            None => Ok(()),
        }
    }
}

/// What the event `value` carries: nobody can mix up two of them, or cut one short, unseen.
fn body(value: &str, size: usize) -> Bytes {
    let mut bytes = value.as_bytes().to_vec();
    let mut word = value.bytes().fold(1_u64, |word, byte| {
        (word ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17)
    });
    while bytes.len() < size {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_differ_wherever_they_are_looked_at() {
        let (one, two) = (body("r|p|1", 4096), body("r|p|2", 4096));
        assert_eq!(one, body("r|p|1", 4096));
        for at in (8..4000).step_by(64) {
            assert_ne!(one[at..at + 32], two[at..at + 32], "at {at}");
        }
        assert_eq!(&body("r|p|1", 0)[..], b"r|p|1");
    }

    #[test]
    fn only_what_was_begun_after_the_mark_is_fresh() {
        let mut tally = Tally::default();
        let values: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).to_vec();
        for (number, value) in values.iter().enumerate() {
            tally.begun.insert(Arc::clone(value), number as u64);
        }
        tally.mark = 2;
        for value in &values {
            tally.confirm(Arc::clone(value));
            tally.see(1, value);
            tally.see(1, value);
        }
        assert_eq!((tally.fresh, tally.fresh_seen, tally.twice), (1, [0, 1], 3));
        assert_eq!(tally.confirmed.len(), 3);
    }
}
