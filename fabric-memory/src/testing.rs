//! A fabric for tests of services: memory, seeded faults, a record of all that happened.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use fabric_core::layers::Faults;
use fabric_core::testing::{Published, Recorder, Seeded, Step, seed};
use fabric_core::{Event, Fabric, Group, GroupInfo, Result, TypedEvent};
use tokio::time::{Instant, timeout};

use crate::{Memory, MemoryConfig};

/// For how long nothing has to happen before [`TestFabric::settled`] gives up, by tokio's clock.
const PATIENCE: Duration = Duration::from_secs(7 * 86_400);
/// The same by a clock that nobody pauses.
const REAL_PATIENCE: Duration = Duration::from_secs(30);
/// How often it looks where nothing happens.
const LOOK: Duration = Duration::from_secs(60);
/// How many steps a failing test shows.
const TAIL: usize = 40;

/// A memory fabric for the test of a service: it is a [`Fabric`], with faults that can be asked for
/// and a record of all that happened.
///
/// Put it on paused time (`#[tokio::test(start_paused = true)]`): retries of minutes take no time
/// then, and the same [seed](Self::seed) brings the same run. A test that fails prints the seed and
/// what happened last.
///
/// ```
/// use fabric_core::{Event, Fabric, HandlerResult, Typed, TypedEvent};
/// use fabric_memory::testing::TestFabric;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[event(topic = "order.{id}.placed", crate = "fabric_core")]
/// struct Placed { id: u32 }
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[event(topic = "order.{id}.paid", crate = "fabric_core")]
/// struct Paid { id: u32 }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
/// let fabric = TestFabric::new();
/// // The service lives in a bad network; the test does not.
/// let faulty = fabric.faulty(fabric.faults().duplicate(0.2).lose_acks(0.2).refuse(0.1));
/// let service = faulty
///     .consumer("billing")
///     .on(async |order: Typed<Placed>, _| Ok(Paid { id: order.id }))
///     .start()
///     .await?;
/// for id in 0..50 {
///     fabric.publish(Placed { id }).await?;
/// }
/// fabric.settled().await;
/// for id in 0..50 {
///     fabric.published::<Paid>().with(|paid| paid.id == id).at_least(1);
/// }
/// assert!(fabric.dead("billing").is_empty());
/// # Ok::<(), fabric_core::Error>(()) }).unwrap();
/// ```
pub struct TestFabric {
    fabric: Fabric,
    memory: Memory,
    recorder: Recorder,
    seeded: Seeded,
}

impl TestFabric {
    /// With the seed that the environment variable `FABRIC_TEST_SEED` names, else a random one.
    ///
    /// # Panics
    /// If the variable is set to something that is no number.
    #[must_use]
    pub fn new() -> Self {
        Self::seeded(seed())
    }

    /// With this seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::with(MemoryConfig::new(), seed)
    }

    /// Over memory as `config` wants it, for tests at its bounds.
    ///
    /// # Panics
    /// If the configuration cannot be.
    #[must_use]
    #[track_caller]
    pub fn with(config: MemoryConfig, seed: u64) -> Self {
        let memory = Memory::new(config).unwrap_or_else(|error| panic!("{error:#}"));
        let recorder = Recorder::new();
        let fabric = recorded(memory.clone(), &recorder);
        Self { fabric, memory, recorder, seeded: Seeded::new(seed) }
    }

    /// The seed of this run.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seeded.seed()
    }

    /// No faults yet; what is added is drawn from the seed of this run.
    pub fn faults(&self) -> Faults {
        Faults::seeded(self.seed())
    }

    /// Another client of the same memory, in a bad network: what a service under test is given.
    ///
    /// # Panics
    /// If a fault's probability is not between 0 and 1.
    #[must_use]
    #[track_caller]
    pub fn faulty(&self, faults: Faults) -> Fabric {
        self.another().layer(faults).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Another client of the same memory.
    #[must_use]
    pub fn another(&self) -> Fabric {
        recorded(self.memory.another(), &self.recorder)
    }

    /// Resolves once no group has anything left to do: all that was published was handled, by every
    /// group that wanted it, and so were the outputs. Events that become due later do not count.
    ///
    /// On paused time minutes of retries pass in no time.
    ///
    /// # Panics
    /// If a group has something to do and nothing happens for a week of tokio's time or half a
    /// minute of real time: it has no member, or they hang. The message says which.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn settled(&self) {
        let (mut since, mut really) = (Instant::now(), std::time::Instant::now());
        loop {
            let steps = self.recorder.len();
            let next = self.recorder.changed();
            let busy = self.busy().await;
            if busy.is_empty() {
                return;
            }
            let waited = timeout(LOOK, next).await;
            if waited.is_ok() || self.recorder.len() > steps {
                (since, really) = (Instant::now(), std::time::Instant::now());
            }
            let hangs = since.elapsed() > PATIENCE || really.elapsed() > REAL_PATIENCE;
            assert!(!hangs, "nothing happens any more, and there is work left:{}", list(&busy));
        }
    }

    /// The events of type `T` that were published and kept, dead letters and redriven ones aside.
    ///
    /// # Panics
    /// If one of them cannot be read as a `T`.
    #[track_caller]
    pub fn published<T: TypedEvent>(&self) -> Published<T> {
        self.recorder.published()
    }

    /// The events on topics that match `pattern` that were published and kept.
    ///
    /// # Panics
    /// If it is no pattern.
    #[must_use]
    #[track_caller]
    pub fn published_on(&self, pattern: impl AsRef<str>) -> Vec<Event> {
        self.recorder.published_on(pattern)
    }

    /// Every dead letter that `group` ever had, redriven or purged since or not.
    ///
    /// # Panics
    /// If it is no group.
    #[must_use]
    #[track_caller]
    pub fn dead(&self, group: impl AsRef<str>) -> Vec<Event> {
        self.recorder.dead(group)
    }

    /// How often handlers of `group` tried the event `id`; where nobody said that a handler works
    /// on it, how often it was handed out.
    ///
    /// # Panics
    /// If it is no group.
    #[must_use]
    #[track_caller]
    pub fn attempts(&self, id: impl AsRef<str>, group: impl AsRef<str>) -> u32 {
        self.recorder.attempts(id, group)
    }

    /// Everything that happened so far, in order.
    #[must_use]
    pub fn history(&self) -> Vec<Step> {
        self.recorder.steps()
    }

    /// The groups that have something left to do.
    async fn busy(&self) -> Vec<GroupInfo> {
        let groups = expect(self.fabric.groups());
        let mut busy = Vec::new();
        for group in expect(groups.list().await) {
            // One may have been deleted meanwhile; those that keep a place among dead letters are
            // nobody's work.
            if let Ok(info) = groups.info(&group).await
                && !is_keeper(&info)
                && info.undelivered() + info.pending() > 0
            {
                busy.push(info);
            }
        }
        busy
    }
}

fn expect<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("the fabric under test: {error:#}"))
}

/// A group that reads dead letters alone and has no member now.
fn is_keeper(info: &GroupInfo) -> bool {
    let letters = |pattern: &fabric_core::Pattern| pattern.as_str().starts_with("dlq.");
    info.members == 0 && info.definition.patterns.iter().all(letters)
}

fn recorded(memory: Memory, recorder: &Recorder) -> Fabric {
    expect(Fabric::new(memory).layer(recorder.clone()))
}

fn list(busy: &[GroupInfo]) -> String {
    let line = |info: &GroupInfo| {
        let (group, members): (&Group, u64) = (&info.group, info.members);
        let (new, held) = (info.undelivered(), info.pending());
        format!("\n  `{group}`, {members} members: {new} events not delivered, {held} not settled")
    };
    busy.iter().map(line).collect()
}

impl Default for TestFabric {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for TestFabric {
    type Target = Fabric;

    fn deref(&self) -> &Fabric {
        &self.fabric
    }
}

impl Drop for TestFabric {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what happened last:\n{}", self.recorder.tail(TAIL));
        }
    }
}

impl fmt::Debug for TestFabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestFabric")
            .field("seed", &self.seed())
            .field("recorder", &self.recorder)
            .finish_non_exhaustive()
    }
}
