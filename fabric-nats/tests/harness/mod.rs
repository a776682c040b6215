//! How the suite reaches a server: the one that a variable names, else one of its own; and for cases
//! that do harm, one that is the case's alone.

mod own;

use std::env;
use std::time::Duration;

use fabric_core::conformance::{
    BrokerCtl, Case, ChildCtl, DiskCtl, FaultCtl, Harness, Timing, Tool,
};
use fabric_core::{Dsn, Fabric, Result};
use fabric_nats::Nats;

use own::Own;

/// A server that all cases share, or one of the case's own.
pub(crate) struct NatsHarness {
    options: &'static str,
    nodes: usize,
    own: Option<Own>,
}

/// How long the tests' streams recognise a duplicate.
const WINDOW: Duration = Duration::from_secs(1);

#[allow(dead_code, reason = "each test takes what it needs")]
impl NatsHarness {
    pub(crate) const fn jetstream() -> Self {
        Self { options: "prefix=ef-test&dedup_window=1s", nodes: 1, own: None }
    }

    pub(crate) const fn core() -> Self {
        Self { options: "mode=core&prefix=ef-core", nodes: 1, own: None }
    }

    /// Three servers, which are the case's own.
    pub(crate) const fn of_three_servers() -> Self {
        Self { options: "prefix=ef-three&replicas=3", nodes: 3, own: None }
    }
}

/// The server's address.
pub(crate) fn url() -> String {
    env::var("FABRIC_TEST_NATS_URL")
        .unwrap_or_else(|_| fabric_brokers::nats::shared().unwrap().url())
}

/// A client of the server with these options.
pub(crate) async fn connect(options: &str) -> Result<Fabric> {
    let dsn = Dsn::parse(&format!("{}?{options}", url()))?;
    Ok(Fabric::new(Nats::connect(dsn).await?))
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
            None => connect(self.options).await,
        }
    }

    fn prepare(&mut self, case: &Case) {
        if does_harm(case) {
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

    fn without(&self, case: &Case) -> Option<&'static str> {
        case.tools.iter().find_map(|tool| match tool {
            Tool::TopicBound => Some("a stream bounds its topics together, and drops what is old"),
            Tool::Disk if self.nodes > 1 => Some("shown on one server"),
            Tool::Rights => Some("everybody may do everything on the servers of these tests"),
            _ => None,
        })
    }
}
