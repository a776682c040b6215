//! Servers that are too old for what is asked of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use fabric_brokers::nats::{Options, Server};
use fabric_core::{Ability, Dsn, ErrorKind, Event, Fabric, Support};
use fabric_nats::Nats;

/// What nothing may take longer than.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Something that greets as a server of `version` does, and answers pings.
fn greeting(version: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let info = format!(
        r#"INFO {{"server_id":"S","server_name":"s","version":"{version}","proto":1,"go":"go1",
        "host":"127.0.0.1","port":{},"headers":true,"max_payload":1048576,"jetstream":true}}"#,
        address.port()
    );
    let info = info.replace('\n', "") + "\r\n";
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let info = info.clone();
            thread::spawn(move || answer(stream, &info));
        }
    });
    address
}

/// Until the client goes.
fn answer(mut stream: TcpStream, info: &str) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    if stream.write_all(info.as_bytes()).is_err() {
        return;
    }
    for line in lines.map_while(Result::ok) {
        if line.starts_with("PING") && stream.write_all(b"PONG\r\n").is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_without_filters_for_groups_is_refused() {
    let server = greeting("2.9.10");
    let connect = async |options: &str| {
        let dsn = Dsn::parse(&format!("nats://{server}{options}")).unwrap();
        tokio::time::timeout(WATCHDOG, Nats::connect(dsn)).await.unwrap()
    };
    let error = connect("").await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    for said in ["2.9.10", "2.10 or later", "mode=core"] {
        assert!(error.to_string().contains(said), "{error}");
    }
    connect("?mode=core").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_neither_delays_nor_ends_events_says_so() {
    let server = Server::start(Options::new().version("2.10.26")).unwrap();
    let fabric = Fabric::new(Nats::connect(Dsn::parse(&server.url()).unwrap()).await.unwrap());
    assert!(!fabric.capabilities().can(Ability::Delay));
    assert_eq!(fabric.capabilities().level(Ability::Ttl), Support::Emulated);
    let mut events = fabric.subscribe("a.#").group("g").await.unwrap();
    let delayed = Event::to("a").delay(Duration::from_secs(1)).text("x");
    let error = fabric.publish(delayed).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    // The neighbours' events flow.
    let mortal = Event::to("a.b").ttl(Duration::from_secs(600)).text("y");
    fabric.publish(mortal).await.unwrap();
    let delivery = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(delivery.text().unwrap(), "y");
    delivery.ack().await.unwrap();
}
