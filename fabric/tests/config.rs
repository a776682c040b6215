//! Connecting as a file or the environment says, without a further import.

#![cfg(all(feature = "memory", feature = "config"))]

use std::path::PathBuf;

use fabric::{ErrorKind, Event, Fabric};

/// A file of this test alone, gone afterwards.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).expect("the folder for tests can be written to");
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn source_of(fabric: &Fabric) -> String {
    let mut events = fabric.subscribe("#").await.expect("memory is open");
    fabric.publish(Event::to("a")).await.expect("memory has room");
    let event = events.recv().await.expect("memory is open");
    event.expect("it was published").source().to_owned()
}

#[tokio::test]
async fn a_file_connects() {
    let file = File::new(
        "a_file_connects.yaml",
        "fabric:\n  url: memory://\n  source: planner\n  options:\n    max_payload: 10B\n",
    );
    let fabric = fabric::Config::from_file(&file.0).unwrap().connect().await.unwrap();
    assert_eq!(source_of(&fabric).await, "planner");
    assert_eq!(fabric.capabilities().max_payload, Some(10));

    let config = fabric::Config::from_file(&file.0).unwrap().with_source("other");
    assert_eq!(source_of(&config.connect().await.unwrap()).await, "other");
    assert_eq!(source_of(&config.connect().source("third").await.unwrap()).await, "third");
    assert_eq!(config.url, "memory://", "the fields are those of the core");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let file = File::new("a_file_that_cannot_be_used.yaml", "url: memory://\nsourec: planner\n");
    let error = fabric::Config::from_file(&file.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    for part in ["a_file_that_cannot_be_used.yaml", "line 2", "sourec", "source"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(fabric::Config::from_file("no_such_file.yaml").is_err());
}

#[tokio::test]
async fn the_environment_connects() {
    let variables = [("ORDERS_URL", "memory://"), ("ORDERS_SOURCE", "planner")];
    let config = fabric::Config::from_vars("ORDERS", variables).unwrap();
    assert_eq!(source_of(&config.connect().await.unwrap()).await, "planner");
    // No test may set variables, as others read them meanwhile; this one nobody has.
    let error = fabric::Config::from_env("FABRIC_TEST_NOBODY_HAS_THIS").unwrap_err();
    assert!(error.to_string().contains("FABRIC_TEST_NOBODY_HAS_THIS_URL"), "{error}");
}

#[tokio::test]
async fn what_the_backend_does_not_know_is_refused_on_connecting() {
    let config = fabric::Config::new("memory://").with_option("max_event", 5);
    let error = config.connect().await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Config, Some("connect")));
    let error = fabric::Config::new("memory").connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}
