//! Backends of one's own, connected by URL.

#![cfg(feature = "memory")]

use fabric::memory::{Memory, MemoryConfig};
use fabric::{Backend, Dsn, Error, ErrorKind, Event, Registry, Result, connect};

/// A backend of our own: the memory of another name.
async fn mine(dsn: Dsn) -> Result<impl Backend> {
    let mut options = dsn.options();
    let max_events = options.take("keep")?.unwrap_or(100);
    options.finish()?;
    Memory::new(MemoryConfig::new().with_max_events(max_events))
}

async fn broken(_: Dsn) -> Result<Memory> {
    Err(Error::new(ErrorKind::Connect, "this one never answers").with_backend("broken"))
}

#[tokio::test]
async fn a_scheme_of_ones_own_is_connected_to() {
    let registry = Registry::builtin().with(&["mine", "OURS"], mine);
    assert_eq!(registry.schemes(), ["memory", "mine", "ours"]);
    for url in ["mine://a?keep=5", "MINE://a", "mine+tcp://a", "ours://", "memory://"] {
        let fabric = connect(url).registry(registry.clone()).await.expect(url);
        let mut events = fabric.subscribe("#").await.unwrap();
        fabric.publish(Event::to("a").text(url)).await.unwrap();
        assert_eq!(events.recv().await.unwrap().unwrap().text().unwrap(), url);
    }
    let error = connect("mine://?kept=5").registry(registry).await.expect_err("no such option");
    assert!(error.to_string().contains("keep"), "{error}");
}

#[tokio::test]
async fn the_backend_added_last_answers_and_a_transport_comes_before_all() {
    let registry = Registry::builtin().with(&["memory"], broken).with(&["memory+own"], mine);
    let error = connect("memory://").registry(registry.clone()).await.expect_err("it is broken");
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Connect, Some("connect")));
    connect("memory+own://").registry(registry.clone()).await.unwrap();
    let registry = registry.with(&["memory"], mine);
    connect("memory://").registry(registry).await.unwrap();
}

#[tokio::test]
async fn an_unknown_scheme_is_told_which_ones_there_are() {
    let registry = Registry::empty().with(&["mine"], mine);
    let error = connect("yours://").registry(registry.clone()).await.expect_err("unknown");
    assert!(error.to_string().contains("there is `mine://`"), "{error}");
    assert_eq!(format!("{registry:?}"), r#"Registry(["mine"])"#);
}
