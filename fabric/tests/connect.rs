//! Connecting by URL: what is refused, and how it is said.

#![cfg(feature = "memory")]

use fabric::{ErrorKind, Event, Registry, connect};

#[tokio::test]
async fn what_cannot_be_connected_to_is_refused_with_the_way_out() {
    // Each URL, and what the error has to name.
    let table: &[(&str, &[&str])] = &[
        ("", &["no `://`"]),
        ("localhost:4222", &["no `://`"]),
        ("memory://?max_event=5", &["max_event", "max_events"]),
        ("memory://a/b", &["no path"]),
        ("memory+tcp://a", &["memory+tcp"]),
        ("memroy://", &["`memroy://`", "`memory://`", "Registry::with"]),
        ("http://example.org", &["`http://`", "Registry::with"]),
        ("redis://localhost", &["`redis://`", "`memory://`", "`redis` is not in this version"]),
        ("rediss://localhost", &["`redis` is not in this version"]),
        #[cfg(not(feature = "nats"))]
        ("nats://localhost", &["the feature `nats`"]),
        #[cfg(not(feature = "nats"))]
        ("tls://localhost", &["`tls://`", "the feature `nats`"]),
        #[cfg(not(feature = "nats"))]
        ("nats+tls://localhost", &["`nats+tls://`", "the feature `nats`"]),
        ("amqp://localhost", &["`amqp` is not in this version"]),
        ("amqps://localhost", &["`amqp` is not in this version"]),
        #[cfg(not(feature = "kafka"))]
        ("kafka://a:9092,b:9092", &["the feature `kafka`"]),
        #[cfg(not(feature = "zmq"))]
        ("zmq+tcp://localhost:5555", &["`zmq+tcp://`", "the feature `zmq`"]),
        #[cfg(not(feature = "zmq"))]
        ("zmq+ipc:///run/fabric", &["the feature `zmq`"]),
        ("ucx://localhost", &["`ucx` is not in this version"]),
    ];
    for (url, named) in table {
        let error = connect(url).await.expect_err(url);
        assert_eq!(
            (error.kind(), error.operation()),
            (ErrorKind::Config, Some("connect")),
            "{url}"
        );
        for part in *named {
            assert!(error.to_string().contains(part), "{url}: {error}");
        }
    }
}

#[tokio::test]
async fn an_error_names_no_secret() {
    for url in ["redis://ann:swordfish@localhost", "unknown://swordfish@localhost?token=swordfish"]
    {
        let error = connect(url).await.expect_err(url);
        let shown = format!("{error} {error:?} {error:#} {:?}", connect(url));
        assert!(!shown.contains("swordfish"), "{shown}");
    }
}

#[tokio::test]
async fn a_registry_without_backends_says_so() {
    let error = connect("memory://").registry(Registry::empty()).await.expect_err("it is empty");
    assert!(error.to_string().contains("built with none"), "{error}");
    assert!(error.to_string().contains("the feature `memory`"), "{error}");
}

#[tokio::test]
async fn the_source_is_that_of_events_that_name_none() {
    let fabric = connect("memory://").source("planner").max_in_flight(1).await.unwrap();
    let mut events = fabric.subscribe("#").await.unwrap();
    fabric.publish(Event::to("a")).await.unwrap();
    fabric.publish(Event::to("a").source("other")).await.unwrap();
    for source in ["planner", "other"] {
        assert_eq!(events.recv().await.unwrap().unwrap().source(), source);
    }
    let error = connect("memory://").source("").await.expect_err("it is empty");
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
}

#[tokio::test]
async fn a_named_memory_is_met_by_all_in_the_process_and_a_private_one_by_nobody() {
    let name = "memory://a_named_memory_is_met";
    let (one, other) = (connect(name).await.unwrap(), connect(name).await.unwrap());
    let private = connect("memory://").await.unwrap();
    let mut events = other.subscribe("#").await.unwrap();
    private.publish(Event::to("a").text("nobody")).await.unwrap();
    one.publish(Event::to("a").text("the other")).await.unwrap();
    assert_eq!(events.recv().await.unwrap().unwrap().text().unwrap(), "the other");
}
