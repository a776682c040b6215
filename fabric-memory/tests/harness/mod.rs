//! What memory brings to the conformance suite: clients of one instance, on virtual time.

#[allow(dead_code, reason = "each test takes what it needs")]
pub(crate) mod without;

use std::time::Duration;

use fabric_core::conformance::{Case, Harness, Timing, Tool};
use fabric_core::{Fabric, Result};
use fabric_memory::{Memory, MemoryConfig};

/// A private instance of memory; every client of one harness is a client of it.
pub(crate) struct MemoryHarness {
    pub(crate) memory: Memory,
    dedup: Option<Duration>,
    layers: fn(Fabric) -> Result<Fabric>,
}

/// How many events a topic keeps: enough for every case, few enough to be filled.
const MAX_EVENTS: usize = 8192;

/// The configuration that the suite runs on.
pub(crate) fn config() -> MemoryConfig {
    MemoryConfig::new().with_max_events(MAX_EVENTS)
}

/// The window of the variant that recognises duplicates.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

#[allow(dead_code, reason = "each test takes what it needs")]
impl MemoryHarness {
    /// An instance without a deduplication window, as by default.
    pub(crate) fn new() -> Self {
        Self::over(Memory::new(config()).unwrap(), None)
    }

    /// An instance that recognises duplicates.
    pub(crate) fn deduplicating() -> Self {
        let config = config().with_dedup_window(Some(WINDOW));
        Self::over(Memory::new(config).unwrap(), Some(WINDOW))
    }

    /// A given instance.
    pub(crate) fn over(memory: Memory, dedup: Option<Duration>) -> Self {
        Self { memory, dedup, layers: Ok }
    }

    /// The same with every client behind these layers.
    pub(crate) fn behind(self, layers: fn(Fabric) -> Result<Fabric>) -> Self {
        Self { layers, ..self }
    }
}

impl Harness for MemoryHarness {
    async fn open(&self) -> Result<Fabric> {
        (self.layers)(Fabric::new(self.memory.another()))
    }

    fn timing(&self) -> Timing {
        Timing::default()
            .with_exact(true)
            .with_slack(Duration::from_millis(100))
            .with_watchdog(Duration::from_secs(3600))
    }

    fn topic_bound(&self) -> Option<usize> {
        Some(MAX_EVENTS)
    }

    fn dedup_window(&self) -> Option<Duration> {
        self.dedup
    }

    fn without(&self, case: &Case) -> Option<&'static str> {
        case.tools.iter().find_map(|tool| match tool {
            Tool::Broker => Some("the broker is this process"),
            Tool::Fault => Some("nothing lies between a client and the broker"),
            Tool::Children => Some("no other process reaches an instance"),
            Tool::Disk => Some("nothing is kept on a disk"),
            Tool::Rights => Some("whoever has the instance may do anything"),
            _ => None,
        })
    }
}
