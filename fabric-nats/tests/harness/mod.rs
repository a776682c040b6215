//! How the suite reaches a server: the one that a variable names, else one of its own; and for cases
//! that do harm, one that is the case's alone.

mod own;
mod rights;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use fabric_core::conformance::{
    BrokerCtl, Case, ChildCtl, DiskCtl, FaultCtl, Harness, RightsCtl, Timing, Tool,
};
use fabric_core::{Fabric, Result};

use own::Own;
use support::{connect, dial};

/// A server that all cases share, or one of the case's own.
pub(crate) struct NatsHarness {
    options: &'static str,
    nodes: usize,
    own: Option<Own>,
    /// Everything is done by a user who may do no more than the page lists.
    limited: bool,
}

/// How long the tests' streams recognise a duplicate.
const WINDOW: Duration = Duration::from_secs(1);

#[allow(dead_code, reason = "each test takes what it needs")]
impl NatsHarness {
    pub(crate) const fn jetstream() -> Self {
        Self { options: "prefix=ef-test&dedup_window=1s", nodes: 1, own: None, limited: false }
    }

    pub(crate) const fn core() -> Self {
        Self { options: "mode=core&prefix=ef-core", nodes: 1, own: None, limited: false }
    }

    /// As a user with the rights that the page lists, and no others.
    pub(crate) const fn least_rights() -> Self {
        Self { options: "prefix=fabric&dedup_window=1s", nodes: 1, own: None, limited: true }
    }

    /// Three servers, which are the case's own.
    pub(crate) const fn of_three_servers() -> Self {
        Self { options: "prefix=ef-three&replicas=3", nodes: 3, own: None, limited: false }
    }
}

/// Whether a case does harm, so that nobody else may be on its server.
fn does_harm(case: &Case) -> bool {
    let harm = [Tool::Broker, Tool::Fault, Tool::Children, Tool::Disk, Tool::Rights];
    case.tools.iter().any(|tool| harm.contains(tool))
}

impl Harness for NatsHarness {
    async fn open(&self) -> Result<Fabric> {
        match &self.own {
            Some(own) => own::connect(&own.url).await,
            None if self.limited => dial(&rights::url(self.options)).await,
            None => connect(self.options).await,
        }
    }

    fn prepare(&mut self, case: &Case) {
        if does_harm(case) && !self.limited {
            // The window has to be longer than any outage.
            let options = match self.options.split_once("&dedup_window") {
                Some((options, _)) => options,
                None => self.options,
            };
            self.own = Some(Own::for_case(case, options, self.nodes));
        }
    }

    fn timing(&self) -> Timing {
        match &self.own {
            // Servers start and stop, and others build beside us.
            Some(_) => Timing::default().with_patience(Duration::from_secs(30)),
            None => Timing::default(),
        }
    }

    fn dedup_window(&self) -> Option<Duration> {
        Some(WINDOW)
    }

    fn broker(&self) -> Option<&dyn BrokerCtl> {
        self.own.as_ref().map(|own| &*own.broker)
    }

    fn fault(&self) -> Option<&dyn FaultCtl> {
        self.own.as_ref().map(Own::fault)
    }

    fn children(&self) -> Option<&dyn ChildCtl> {
        self.own.as_ref().map(Own::children)
    }

    fn disk(&self) -> Option<&dyn DiskCtl> {
        self.own.as_ref()?.disk.as_ref().map(|disk| disk as _)
    }

    fn rights(&self) -> Option<&dyn RightsCtl> {
        self.own.as_ref()?.rights.as_ref().map(|rights| rights as _)
    }

    fn without(&self, case: &Case) -> Option<&'static str> {
        if self.limited {
            return Some("harm does not depend on rights: the other runs have it");
        }
        case.tools.iter().find_map(|tool| match tool {
            Tool::TopicBound => Some("a stream bounds its topics together, and drops what is old"),
            Tool::Disk | Tool::Rights if self.nodes > 1 => Some("shown on one server"),
            _ => None,
        })
    }
}
