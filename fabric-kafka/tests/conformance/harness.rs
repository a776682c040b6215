//! A broker for the suite: one for all cases, and one of its own for each that does it harm.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use fabric_brokers::Proxy;
use fabric_brokers::conformance::{Control, Link};
use fabric_brokers::kafka::{Options, Server, shared};
use fabric_core::conformance::{
    BrokerCtl, Case, ChildCtl, Copies, FaultCtl, Harness, Timing, Tool,
};
use fabric_core::{Dsn, EventId, Fabric, Result};
use fabric_kafka::Kafka;

const URL: &str = "FABRIC_TEST_KAFKA_URL";
/// What the topics of a case begin with, for its children.
const PREFIX: &str = "FABRIC_TEST_KAFKA_PREFIX";

pub(crate) struct KafkaHarness {
    partitions: u32,
    prefix: String,
    url: String,
    broker: Option<Control<Server>>,
    fault: Option<Link>,
    children: Copies,
}

impl KafkaHarness {
    /// Topics of one partition.
    pub(crate) fn new() -> Self {
        Self::with(1)
    }

    /// Topics of several partitions.
    pub(crate) fn partitioned() -> Self {
        Self::with(4)
    }

    fn with(partitions: u32) -> Self {
        // Each case sees nothing but its own.
        let fresh = || format!("t{}", &EventId::generate().to_string().replace('-', "")[8..32]);
        let prefix = env::var(PREFIX).unwrap_or_else(|_| fresh());
        // A child is told both, and prepares nothing.
        let url = env::var(URL).unwrap_or_default();
        let children = Copies::new();
        Self { partitions, prefix, url, broker: None, fault: None, children }
    }

    /// A broker of this case's own, behind a proxy.
    fn own(&mut self) {
        let proxy = Arc::new(Proxy::new().unwrap());
        let options = Options::new().advertise(proxy.address());
        let server = Arc::new(Server::start(options).unwrap());
        proxy.lead_to(server.address());
        self.url = server.url();
        let dsn = self.dsn();
        self.fault = Some(Link::new([proxy], move || connect(dsn.clone())));
        self.broker = Some(Control::new(server));
    }

    fn dsn(&self) -> String {
        let Self { url, prefix, partitions, .. } = self;
        let joined = if url.contains('?') { '&' } else { '?' };
        format!(
            "{url}{joined}prefix={prefix}&partitions={partitions}&discovery=200ms&idle_timeout=25s\
             &request_timeout=4s"
        )
    }
}

async fn connect(dsn: String) -> Result<Fabric> {
    Ok(Fabric::new(Kafka::connect(Dsn::parse(&dsn)?).await?))
}

impl Harness for KafkaHarness {
    fn prepare(&mut self, case: &Case) {
        let harmful = [Tool::Broker, Tool::Fault];
        let harms = case.tools.iter().any(|tool| harmful.contains(tool));
        if harms && self.partitions == 1 && env::var(PREFIX).is_err() {
            self.own();
        } else {
            self.url = env::var(URL).unwrap_or_else(|_| shared().unwrap().url());
        }
        let children = std::mem::take(&mut self.children);
        self.children = children.with_env(URL, &self.url).with_env(PREFIX, &self.prefix);
    }

    async fn open(&self) -> Result<Fabric> {
        connect(self.dsn()).await
    }

    fn timing(&self) -> Timing {
        Timing::default()
            // A topic that comes into being is found, and its partitions shared out among members.
            .with_quiet(Duration::from_secs(1))
            // Longer than that: a case may gather for as long as it waits for nothing.
            .with_ack_wait(Duration::from_millis(1500))
            // Longer than it takes a client to give an answer up.
            .with_outage(Duration::from_secs(5))
            .with_patience(Duration::from_secs(40))
            .with_watchdog(Duration::from_secs(300))
    }

    fn broker(&self) -> Option<&dyn BrokerCtl> {
        self.broker.as_ref().map(|broker| broker as &dyn BrokerCtl)
    }

    fn fault(&self) -> Option<&dyn FaultCtl> {
        self.fault.as_ref().map(|fault| fault as &dyn FaultCtl)
    }

    fn children(&self) -> Option<&dyn ChildCtl> {
        Some(&self.children)
    }

    fn without(&self, case: &Case) -> Option<&'static str> {
        let lacks = |tool| case.tools.contains(&tool);
        match case {
            _ if self.partitions > 1 && (lacks(Tool::Broker) || lacks(Tool::Fault)) => {
                Some("the cases with faults run with topics of one partition")
            }
            _ if lacks(Tool::TopicBound) => Some(
                "a topic is bounded by the broker's retention alone, which looks every few minutes",
            ),
            _ if lacks(Tool::Disk) => {
                Some("Kafka has no answer to a full disk: it halts the broker")
            }
            _ if lacks(Tool::Rights) => {
                Some("there is no broker with users and access rules for the suite yet")
            }
            _ if lacks(Tool::DedupWindow) => Some("Kafka recognises no ids"),
            _ => None,
        }
    }
}
