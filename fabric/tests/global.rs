//! The fabric of the whole process. One test, since there is one process.

#![cfg(feature = "memory")]

use std::time::Duration;

use fabric::{ErrorKind, Event, connect, global};

#[tokio::test]
async fn a_process_has_one_fabric_from_init_to_shutdown() {
    let within = Duration::from_secs(1);
    let error = global::get().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("global::init"), "{error}");
    global::shutdown(within).await.unwrap();

    global::init(connect("memory://").source("first").await.unwrap()).unwrap();
    let error = global::init(connect("memory://").await.unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);

    let here = global::get().unwrap();
    let mut events = here.subscribe("#").await.unwrap();
    let elsewhere = tokio::spawn(async { global::get()?.publish(Event::to("a")).await });
    elsewhere.await.unwrap().unwrap();
    assert_eq!(events.recv().await.unwrap().unwrap().source(), "first");

    global::shutdown(within).await.unwrap();
    assert_eq!(global::get().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(here.publish(Event::to("a")).await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(events.recv().await.is_none_or(|end| end.is_err()), "its subscriptions have ended");
    global::shutdown(within).await.unwrap();

    global::init(connect("memory://").await.unwrap()).unwrap();
    global::get().unwrap().publish(Event::to("a")).await.unwrap();
    global::shutdown(within).await.unwrap();
}
