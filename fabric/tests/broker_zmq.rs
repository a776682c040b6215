//! `fabric broker zmq` as an operator would try it: start, look, stop, mistakes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fabric::zmq::client::{Context, SocketType};
use fabric::{Ability, ErrorKind, Event};

/// Far more than anything here takes.
const WATCHDOG: Duration = Duration::from_secs(30);

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fabric"));
    command.args(["broker", "zmq"]).args(args).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A port that was free a moment ago.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A broker that runs; it ends with the test.
struct Running {
    child: Child,
    ports: [u16; 3],
}

impl Running {
    fn start(more: &[&str]) -> Self {
        let ports = [port(), port(), port()];
        let [backend, frontend, admin] = ports;
        let at = |port: u16| format!("tcp://127.0.0.1:{port}");
        let mut command = program(&["--backend", &at(backend), "--frontend", &at(frontend)]);
        command.args(["--admin", &format!("127.0.0.1:{admin}"), "--log-format", "json"]);
        let mut child = command.args(more).spawn().unwrap();
        // It says when it listens, one JSON object a line; the rest is read so that it never waits.
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut listens = false;
        while !listens {
            let line = log.next().expect("it ended without listening").unwrap();
            assert!(line.starts_with('{'), "not structured: {line}");
            listens = line.contains("the administration listens");
        }
        std::thread::spawn(move || log.for_each(drop));
        Self { child, ports }
    }

    fn url(&self) -> String {
        format!("zmq+tcp://127.0.0.1:{},{}", self.ports[0], self.ports[1])
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[2])).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that has to end by itself, within the watchdog.
fn ended(mut child: Child) -> Output {
    let (over, done) = std::sync::mpsc::channel();
    let id = child.id().to_string();
    std::thread::spawn(move || {
        if done.recv_timeout(WATCHDOG).is_err() {
            let _ = Command::new("kill").args(["-KILL", &id]).status();
        }
    });
    let mut output =
        Output { status: child.wait().unwrap(), stdout: Vec::new(), stderr: Vec::new() };
    over.send(()).unwrap();
    child.stdout.take().unwrap().read_to_end(&mut output.stdout).unwrap();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut output.stderr).unwrap();
    }
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn it_carries_counts_and_stops_when_asked() {
    for signal in ["-TERM", "-INT"] {
        let mut broker = Running::start(&[]);
        assert_eq!(broker.get("/healthz"), (200, "ok\n".to_owned()));
        assert_eq!(broker.get("/readyz").0, 200);
        assert_eq!(broker.get("/elsewhere").0, 404);

        let fabric = fabric::connect(broker.url()).await.unwrap();
        let mut events = fabric.subscribe("orders.*").await.unwrap();
        for n in 0..10 {
            fabric.publish(Event::to("orders.created").text(n.to_string())).await.unwrap();
        }
        for n in 0..10 {
            let event = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap();
            assert_eq!(event.unwrap().unwrap().text().unwrap(), n.to_string());
        }
        let sample = "fabric_broker_topic_events_total{topic=\"orders.created\"} 10";
        let counted = || broker.get("/metrics").1.contains(sample);
        let mut tries = 0;
        while !counted() {
            tries += 1;
            assert!(tries < 300, "{}", broker.get("/metrics").1);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let metrics = broker.get("/metrics").1;
        for sample in ["fabric_broker_publishers 1", "fabric_broker_subscribers 1"] {
            assert!(metrics.contains(sample), "{sample} is missing in {metrics}");
        }

        broker.signal(signal);
        let status = tokio::task::block_in_place(|| broker.child.wait()).unwrap();
        assert!(status.success(), "after {signal} it ended with {status}");
    }
}

/// What a publisher had sent before the stop arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_carries_what_was_sent() {
    let broker = Running::start(&[]);
    let sender = fabric::connect(broker.url()).await.unwrap();
    let reader = fabric::connect(broker.url()).await.unwrap();
    let mut events = reader.subscribe("load").await.unwrap();
    for n in 0..5000 {
        sender.publish(Event::to("load").text(n.to_string())).await.unwrap();
    }
    // Flushed out of the publisher, and on its way.
    sender.close(WATCHDOG).await.unwrap();
    broker.signal("-TERM");
    for n in 0..5000 {
        let event = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap();
        assert_eq!(event.unwrap().text().unwrap(), n.to_string());
    }
}

/// A publisher that goes on does not keep a broker from stopping, and all that had been taken before is
/// carried.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_ends_well() {
    let mut broker = Running::start(&["--drain", "20s"]);
    let sender = fabric::connect(broker.url()).await.unwrap();
    let reader = fabric::connect(broker.url()).await.unwrap();
    let mut events = reader.subscribe("load").await.unwrap();
    let (taken, mut count) = tokio::sync::watch::channel(0_u64);
    let sending = tokio::spawn(async move {
        for n in 0.. {
            if sender.publish(Event::to("load").text(n.to_string())).await.is_err() {
                break;
            }
            taken.send_replace(n + 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    tokio::time::timeout(WATCHDOG, count.wait_for(|it| *it >= 100)).await.unwrap().unwrap();
    broker.signal("-TERM");
    let before = *count.borrow();
    for n in 0..before {
        let event = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap();
        assert_eq!(event.unwrap().text().unwrap(), n.to_string());
    }
    let status = tokio::task::block_in_place(|| broker.child.wait()).unwrap();
    assert!(status.success(), "it ended with {status}");
    sending.abort();
}

/// While it stops it says that it is no longer ready, to whoever asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stops_says_that_it_is_not_ready() {
    let mut broker = Running::start(&["--drain", "5s"]);
    // A subscriber that does not read is waited for, up to the bound.
    let context = Context::new();
    let stuck = context.socket(SocketType::SUB).unwrap();
    stuck.set_rcvhwm(1).unwrap();
    stuck.set_linger(0).unwrap();
    stuck.connect(&format!("tcp://127.0.0.1:{}", broker.ports[0])).unwrap();
    stuck.set_subscribe(b"").unwrap();
    let sender = fabric::connect(broker.url()).await.unwrap();
    // A subscription of its own, behind the other's: when it is in force, so is that.
    let mut pace = sender.subscribe("flood").await.unwrap();
    for _ in 0..400 {
        sender.publish(Event::to("flood").bytes(vec![0; 64 << 10])).await.unwrap();
        let _ = tokio::time::timeout(WATCHDOG, pace.recv()).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(broker.get("/readyz"), (200, "ready\n".to_owned()));
    broker.signal("-TERM");
    let mut tries = 0;
    while broker.get("/readyz").0 != 503 {
        tries += 1;
        assert!(tries < 300, "it does not say that it stops");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = tokio::task::block_in_place(|| broker.child.wait()).unwrap();
    assert!(status.code().is_some(), "it ended with {status}");
}

#[test]
fn mistakes_are_told_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("tcp://{}", taken.local_addr().unwrap());
    let table = [
        (vec!["--frontend", &at, "--backend", "tcp://127.0.0.1:*"], "listens there already"),
        (vec!["--frontend", "tcp://127.0.0.1:*", "--backend", "nonsense"], "endpoint"),
        (vec!["--hwm", "lots"], "`hwm`"),
        (vec!["--admin", "9090"], "127.0.0.1:9090"),
        (vec!["--config", "/nowhere/fabric.yaml"], "/nowhere/fabric.yaml"),
        (vec!["--frontent", "x"], "--frontend"),
    ];
    for (args, expected) in table {
        let output = ended(program(&args).spawn().unwrap());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{args:?} was accepted");
        assert!(said.contains(expected), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
    }
}

#[test]
fn the_environment_is_heard() {
    let mut command = program(&[]);
    let output = ended(command.env("AGI_FABRIC_BROKER_HWM", "lots").spawn().unwrap());
    assert!(String::from_utf8(output.stderr).unwrap().contains("`hwm`"));
}

/// The quickstart's own steps, as far as this transport has them: the others are refused.
#[tokio::test]
async fn what_it_cannot_do_is_refused_at_once() {
    let broker = Running::start(&[]);
    let fabric = fabric::connect(broker.url()).await.unwrap();
    assert!(!fabric.capabilities().can(Ability::Groups));
    let error = fabric.subscribe("a").group("g").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(fabric.replay("a").await.is_err());
}

#[test]
fn keys_are_made_where_they_can_be_used() {
    let output = ended(program(&["--generate-keys"]).spawn().unwrap());
    if fabric::zmq::is_curve_supported() {
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("public: ") && said.contains("secret: "));
    } else {
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("without CURVE"), "{said}");
    }
}
