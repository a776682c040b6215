//! One broker.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use super::{Options, Program};
use crate::broker::{Broker, remove};
use crate::install::run;
use crate::{Error, Folder, Launch, Port, Process, Ready, Result};

/// What every cluster is called: it has no meaning, and so formatting need not make one up.
const CLUSTER: &str = "ZmFicmljLWJyb2tlcnMtMQ";

/// A running broker; dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Server {
    options: Options,
    process: Process,
    port: Port,
    _controller: Port,
}

impl Server {
    /// Starts one and waits until it takes connections.
    ///
    /// # Errors
    /// If there is no Java or no Kafka, or it does not start.
    pub fn start(options: Options) -> Result<Self> {
        let program = super::program()?;
        let (folder, port, controller) =
            (Folder::new("kafka")?, Port::reserve()?, Port::reserve()?);
        let data = folder.path().join("data");
        let text = settings(&options, port.address(), controller.address(), &data);
        let file = folder.write("server.properties", text)?;
        let logging = folder.write("log4j2.properties", LOGGING)?;
        format(&program, &file)?;
        let launch = Launch::new(program.java(), Ready::Says("Kafka Server started"))
            .arg(format!("-Dlog4j2.configurationFile={}", logging.display()))
            .args(program.class("kafka.Kafka"))
            .arg(file);
        let process = Process::new(launch, folder)?;
        Ok(Self { options, process, port, _controller: controller })
    }

    /// What to connect to: the address that it advertises, else its own.
    #[must_use]
    pub fn url(&self) -> String {
        format!("kafka://{}", self.options.advertise.unwrap_or_else(|| self.address()))
    }

    /// Where it listens itself.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Stops, kills, pauses and starts it.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }
}

impl Broker for Server {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn wipe(&self) -> Result<()> {
        self.process.kill();
        let folder = self.process.folder();
        remove(&folder.join("data"))?;
        format(&super::program()?, &folder.join("server.properties"))?;
        self.process.start()
    }
}

/// A broker with the defaults, for all tests of this process that do it no harm.
///
/// It is started by whoever asks first and ends with the process.
///
/// # Errors
/// If it cannot be started; whoever asks next tries again.
pub fn shared() -> Result<&'static Server> {
    static SHARED: Mutex<Option<&'static Server>> = Mutex::new(None);
    let mut shared = SHARED.lock().map_err(|_| Error::new("starting the shared broker failed"))?;
    if let Some(server) = *shared {
        return Ok(server);
    }
    let server = Box::leak(Box::new(Server::start(Options::new())?));
    Ok(shared.insert(server))
}

/// Writes what a new data folder has to contain.
fn format(program: &Program, settings: &Path) -> Result<()> {
    let mut command = Command::new(program.java());
    command.args(program.class("kafka.tools.StorageTool"));
    command.args(["format", "-t", CLUSTER, "-c"]).arg(settings);
    run(&mut command).map(|_| ())
}

fn settings(options: &Options, port: SocketAddr, controller: SocketAddr, data: &Path) -> String {
    let advertise = options.advertise.unwrap_or(port);
    let mut all: Vec<(String, String)> = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", "1".to_owned()),
        ("controller.quorum.voters", format!("1@{controller}")),
        ("listeners", format!("PLAINTEXT://{port},CONTROLLER://{controller}")),
        ("advertised.listeners", format!("PLAINTEXT://{advertise}")),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("log.dirs", data.display().to_string()),
    ]
    .into_iter()
    .chain(QUICK.iter().map(|(name, value)| (*name, (*value).to_owned())))
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    all.retain(|(name, _)| !options.settings.iter().any(|(given, _)| given == name));
    all.extend(options.settings.iter().cloned());
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
        let port: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let options = Options::new().setting("num.partitions", "3");
        let text = settings(&options, port, port, Path::new("data"));
        let lines: Vec<&str> =
            text.lines().filter(|line| line.starts_with("num.partitions")).collect();
        assert_eq!(lines, ["num.partitions=3"]);
        assert!(text.contains("offsets.topic.num.partitions=1"));
    }

    #[test]
    fn what_is_advertised_is_not_where_it_listens() {
        let port: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let options = Options::new().advertise("127.0.0.1:2".parse().unwrap());
        let text = settings(&options, port, port, Path::new("data"));
        assert!(text.contains("\nadvertised.listeners=PLAINTEXT://127.0.0.1:2\n"), "{text}");
        assert!(text.contains("\nlisteners=PLAINTEXT://127.0.0.1:1,"), "{text}");
    }
}
