//! One node: broker and controller in one JVM.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Options, Program};
use crate::broker::remove;
use crate::install::run;
use crate::{Folder, Launch, Port, Process, Ready, Result};

/// What every cluster is called: it has no meaning, and so formatting need not make one up.
const CLUSTER: &str = "ZmFicmljLWJyb2tlcnMtMQ";

/// The ports of a node, which are there before it is.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) clients: Port,
    pub(super) controller: Port,
    pub(super) secure: Port,
    /// Brokers talk to each other here, so that harm done to the links of clients is theirs alone.
    internal: Port,
}

impl Ports {
    pub(super) fn reserve() -> Result<Self> {
        let (clients, controller) = (Port::reserve()?, Port::reserve()?);
        Ok(Self { clients, controller, secure: Port::reserve()?, internal: Port::reserve()? })
    }
}

/// A running node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) process: Process,
    pub(super) ports: Ports,
    program: Program,
    scram: Vec<String>,
}

impl Node {
    /// Starts node `id` of a cluster whose controllers are `voters`.
    pub(super) fn start(
        options: &Options,
        program: Program,
        ports: Ports,
        id: usize,
        voters: &str,
    ) -> Result<Self> {
        let folder = Folder::new("kafka")?;
        let text = settings(options, &ports, id, voters, &folder.path().join("data"));
        let file = folder.write("server.properties", text)?;
        let logging = folder.write("log4j2.properties", LOGGING)?;
        let scram = options.scram();
        format(&program, &file, &scram)?;
        let launch = Launch::new(program.java(), Ready::Says("Kafka Server started"))
            .arg(format!("-Dlog4j2.configurationFile={}", logging.display()))
            .args(program.class("kafka.Kafka"))
            .arg(file);
        Ok(Self { process: Process::new(launch, folder)?, ports, program, scram })
    }

    /// Replaces its data by those of a new node; it must not run.
    pub(super) fn forget(&self) -> Result<()> {
        let folder: PathBuf = self.process.folder().to_owned();
        remove(&folder.join("data"))?;
        format(&self.program, &folder.join("server.properties"), &self.scram)
    }
}

/// Writes what a new data folder has to contain.
fn format(program: &Program, settings: &Path, scram: &[String]) -> Result<()> {
    let mut command = Command::new(program.java());
    command.args(program.class("kafka.tools.StorageTool"));
    command.args(["format", "-t", CLUSTER, "-c"]).arg(settings);
    for user in scram {
        command.args(["--add-scram", user]);
    }
    run(&mut command).map(|_| ())
}

fn settings(options: &Options, ports: &Ports, id: usize, voters: &str, data: &Path) -> String {
    let (clients, controller) = (ports.clients.address(), ports.controller.address());
    let secure = options.is_secure().then(|| ports.secure.address());
    let listener = |address: SocketAddr| format!(",SECURE://{address}");
    let secure = secure.map_or_else(String::new, listener);
    let others = format!(",INTERNAL://{}{secure}", ports.internal.address());
    let advertise = options.advertise.unwrap_or(clients);
    let mut all: Vec<(String, String)> = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", id.to_string()),
        ("controller.quorum.voters", voters.to_owned()),
        ("listeners", format!("PLAINTEXT://{clients},CONTROLLER://{controller}{others}")),
        ("advertised.listeners", format!("PLAINTEXT://{advertise}{others}")),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("inter.broker.listener.name", "INTERNAL".to_owned()),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL"
                .to_owned(),
        ),
        ("log.dirs", data.display().to_string()),
    ]
    .into_iter()
    .chain(QUICK.iter().map(|(name, value)| (*name, (*value).to_owned())))
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    for (name, value) in &options.settings {
        all.retain(|(known, _)| known != name);
        all.push((name.clone(), value.clone()));
    }
    all.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// What makes one node quick to start, groups quick to join, and a killed broker quick to come back.
const QUICK: &[(&str, &str)] = &[
    ("broker.heartbeat.interval.ms", "500"),
    ("broker.session.timeout.ms", "2000"),
    ("controlled.shutdown.enable", "false"),
    ("group.consumer.min.session.timeout.ms", "1000"),
    ("group.consumer.min.heartbeat.interval.ms", "200"),
    ("group.consumer.heartbeat.interval.ms", "1000"),
    ("group.consumer.session.timeout.ms", "6000"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "1000"),
    ("log.cleaner.dedupe.buffer.size", "2097152"),
    ("log.cleaner.threads", "1"),
    ("num.io.threads", "4"),
    ("num.network.threads", "2"),
    ("num.partitions", "1"),
    ("offsets.topic.num.partitions", "1"),
    ("offsets.topic.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("transaction.state.log.num.partitions", "1"),
    ("transaction.state.log.replication.factor", "1"),
];

/// Warnings, and the line that says that it is ready.
const LOGGING: &str = "\
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
appender.out.name = out
appender.out.type = Console
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %m (%c)%n
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_setting_replaces_ours() {
        let ports = Ports::reserve().unwrap();
        let options = Options::new().setting("num.partitions", "3");
        let text = settings(&options, &ports, 1, "1@x", Path::new("data"));
        let lines: Vec<&str> =
            text.lines().filter(|line| line.starts_with("num.partitions")).collect();
        assert_eq!(lines, ["num.partitions=3"]);
        assert!(text.contains("offsets.topic.num.partitions=1"));
    }

    #[test]
    fn what_is_advertised_is_not_where_it_listens() {
        let ports = Ports::reserve().unwrap();
        let options = Options::new().advertise("127.0.0.1:2".parse().unwrap());
        let text = settings(&options, &ports, 2, "1@x", Path::new("data"));
        assert!(text.contains("\nadvertised.listeners=PLAINTEXT://127.0.0.1:2,"), "{text}");
        let listens = format!("\nlisteners=PLAINTEXT://{},", ports.clients.address());
        assert!(text.contains(&listens) && text.contains("node.id=2\n"), "{text}");
    }
}
