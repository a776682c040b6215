//! How the suite reaches a server: the one that a variable names, else one of its own.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use fabric_brokers::conformance::{Control, Link};
use fabric_brokers::nats::{Options, Server};
use fabric_brokers::{Proxy, nats};
use fabric_core::conformance::{
    BrokerCtl, Case, ChildCtl, Copies, FaultCtl, Harness, Timing, Tool,
};
use fabric_core::{Dsn, Fabric, Result};
use fabric_nats::Nats;

/// Where a running server is, for whoever has one, and for copies of this program.
const URL: &str = "FABRIC_TEST_NATS_URL";

/// A server for one case: shared where the case does it no harm, else one of its own.
pub(crate) struct NatsHarness {
    options: &'static str,
    own: Option<Own>,
}

/// A server that a case may harm, and the tools to do so.
struct Own {
    url: String,
    control: Control<Server>,
    link: Link,
    children: Copies,
}

/// How long the tests' streams recognise a duplicate.
const WINDOW: Duration = Duration::from_secs(1);

impl NatsHarness {
    pub(crate) const fn jetstream() -> Self {
        Self { options: "prefix=ef-test&dedup_window=1s", own: None }
    }

    pub(crate) const fn core() -> Self {
        Self { options: "mode=core&prefix=ef-core", own: None }
    }
}

impl Own {
    fn start(options: &'static str) -> Self {
        let proxy = Arc::new(Proxy::new().unwrap());
        // Clients that learn of the server's address learn of the proxy's.
        let server = Server::start(Options::new().advertise(proxy.address())).unwrap();
        proxy.lead_to(server.address());
        let direct = format!("nats://{}", server.address());
        // Through faults a duplicate has to be recognised for longer than they last.
        let options = options.replace("dedup_window=1s", "dedup_window=2m");
        let query = format!("{options}&discover=false");
        let (url, through) =
            (format!("{direct}?{query}"), format!("nats://{}?{query}", proxy.address()));
        let link = Link::new([proxy], move || {
            let through = through.clone();
            async move { dial(&through).await }
        });
        let children = Copies::new().with_env(URL, direct);
        Self { url, control: Control::new(Arc::new(server)), link, children }
    }
}

/// The server's address.
pub(crate) fn url() -> String {
    env::var(URL).unwrap_or_else(|_| nats::shared().unwrap().url())
}

/// A client of the shared server with these options.
pub(crate) async fn connect(options: &str) -> Result<Fabric> {
    dial(&format!("{}?{options}", url())).await
}

async fn dial(url: &str) -> Result<Fabric> {
    Ok(Fabric::new(Nats::connect(Dsn::parse(url)?).await?))
}

impl Harness for NatsHarness {
    async fn open(&self) -> Result<Fabric> {
        match &self.own {
            Some(own) => dial(&own.url).await,
            None => connect(self.options).await,
        }
    }

    fn prepare(&mut self, case: &Case) {
        let harm = [Tool::Broker, Tool::Fault, Tool::Children];
        if case.tools.iter().any(|tool| harm.contains(tool)) {
            self.own = Some(Own::start(self.options));
        }
    }

    fn timing(&self) -> Timing {
        match &self.own {
            Some(_) => Timing::default().with_patience(Duration::from_secs(45)),
            None => Timing::default(),
        }
    }

    fn dedup_window(&self) -> Option<Duration> {
        Some(WINDOW)
    }

    fn broker(&self) -> Option<&dyn BrokerCtl> {
        self.own.as_ref().map(|own| &own.control as _)
    }

    fn fault(&self) -> Option<&dyn FaultCtl> {
        self.own.as_ref().map(|own| &own.link as _)
    }

    fn children(&self) -> Option<&dyn ChildCtl> {
        self.own.as_ref().map(|own| &own.children as _)
    }

    fn without(&self, case: &Case) -> Option<&'static str> {
        let lacks = |tool| case.tools.contains(&tool);
        if lacks(Tool::Disk) || lacks(Tool::Rights) {
            return Some("this server has neither a small disk nor users");
        }
        lacks(Tool::TopicBound).then_some("the streams of these tests have no bounds")
    }
}
