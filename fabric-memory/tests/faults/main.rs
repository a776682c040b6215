//! The suite's cases with faults, on memory behind a line that plays a broker and a link that fail:
//! they hold where the client does what it should, and each flaw of a client is caught.
//!
//! Real brokers are the proof for backends; this is the proof of the cases.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod line;
mod remote;

use std::sync::Arc;
use std::time::Duration;

use fabric_core::conformance::{
    Arm, BrokerCtl, Case, ChildCtl, Clock, DiskCtl, FaultCtl, Harness, RightsCtl, Timing, Tool,
    cases,
};
use fabric_core::{Fabric, Result};
use fabric_memory::{Memory, MemoryConfig};

use line::{Flaw, Line, Tools};

/// Memory at the other end of a line.
struct RemoteHarness {
    tools: Tools,
}

impl RemoteHarness {
    fn new(flaw: Option<Flaw>) -> Self {
        let memory = Memory::new(MemoryConfig::new().with_max_events(65_536)).unwrap();
        Self { tools: Tools(Arc::new(Line::new(memory, flaw))) }
    }
}

impl Harness for RemoteHarness {
    async fn open(&self) -> Result<Fabric> {
        self.tools.0.connect().await
    }

    fn timing(&self) -> Timing {
        Timing::default().with_load(600).with_watchdog(Duration::from_secs(3600))
    }

    fn broker(&self) -> Option<&dyn BrokerCtl> {
        Some(&self.tools)
    }

    fn fault(&self) -> Option<&dyn FaultCtl> {
        Some(&self.tools)
    }

    fn children(&self) -> Option<&dyn ChildCtl> {
        Some(&self.tools)
    }

    fn disk(&self) -> Option<&dyn DiskCtl> {
        Some(&self.tools)
    }

    fn rights(&self) -> Option<&dyn RightsCtl> {
        Some(&self.tools)
    }
}

/// The cases that need somebody who does harm.
fn with_harm() -> impl Iterator<Item = &'static Case> {
    let harm = [Tool::Broker, Tool::Fault, Tool::Children, Tool::Disk, Tool::Rights];
    cases().iter().filter(move |case| case.tools.iter().any(|tool| harm.contains(tool)))
}

fn run(case: &'static Case, flaw: Option<Flaw>) -> Result<Arm, String> {
    case.run(Clock::Paused, move || RemoteHarness::new(flaw))
}

#[test]
fn a_client_that_does_what_it_should_passes_every_case_with_faults() {
    let failures: Vec<String> = with_harm()
        .filter_map(|case| match run(case, None) {
            Ok(Arm::Held) => None,
            other => Some(format!("{case}: {other:?}")),
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(with_harm().count() >= 18, "the cases with faults are gone");
}

#[test]
fn every_flaw_of_a_client_is_caught_by_the_case_that_is_there_for_it() {
    let free: Vec<String> = Flaw::ALL
        .iter()
        .filter_map(|(flaw, id)| {
            let case = cases().iter().find(|case| case.id == *id).unwrap();
            match run(case, Some(*flaw)) {
                Err(_) => None,
                Ok(arm) => Some(format!("{flaw:?} is not caught by {case}: {arm:?}")),
            }
        })
        .collect();
    assert!(free.is_empty(), "{}", free.join("\n"));
}
