//! Everything malformed that a user can hand in, in one table: a typed error that names the value,
//! the place and the rule, before anything is sent, and with no effect on anything else.

#![cfg(all(feature = "memory", feature = "config"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use fabric::{
    Config, Error, ErrorKind, Event, EventBuilder, Fabric, Result, RetryClass, TraceContext,
};

/// What was handed in, the kind of the error, and words that its text has to have.
type Row<T> = (T, ErrorKind, &'static [&'static str]);

fn check<T>(what: &str, result: Result<T>, kind: ErrorKind, says: &[&str]) {
    let Err(error) = result else { panic!("{what} was accepted") };
    let text = format!("{error:#}");
    assert_eq!(error.kind(), kind, "{what}: {text}");
    assert_eq!(error.retry(), RetryClass::Never, "{what}: {text}");
    assert!(!text.contains('\n'), "{what}: more than one line: {text:?}");
    for part in says {
        assert!(text.contains(part), "{what}: {text:?} does not say {part:?}");
    }
}

async fn memory() -> Fabric {
    fabric::connect("memory://?max_payload=1KiB").await.unwrap()
}

/// Bad events among good ones: each is refused by itself, and only the good ones arrive.
#[tokio::test]
async fn a_bad_event_is_named_and_nothing_else_is_affected() {
    let to = |topic: &str| Event::to(topic.to_owned()).text("x");
    let long = "x".repeat(65);
    let large = "v".repeat(70_000);
    let rows: Vec<Row<EventBuilder>> = vec![
        (to(""), ErrorKind::InvalidTopic, &["\"\"", "0 bytes", "1 to 200"]),
        (to("a..b"), ErrorKind::InvalidTopic, &["\"a..b\"", "level 2", "byte 2"]),
        (to("a.b c"), ErrorKind::InvalidTopic, &["\"a.b c\"", "' '", "byte 3"]),
        (to("a.*"), ErrorKind::InvalidTopic, &["\"a.*\"", "wildcard"]),
        (to("straße"), ErrorKind::InvalidTopic, &["'ß'", "byte 4"]),
        (to(&["l"; 17].join(".")), ErrorKind::InvalidTopic, &["level 17", "16"]),
        (to(&"t".repeat(201)), ErrorKind::InvalidTopic, &["201 bytes", "200"]),
        (to("dlq.g"), ErrorKind::InvalidTopic, &["`dlq.g`", "reserved"]),
        (to("_fabric.to.g"), ErrorKind::InvalidTopic, &["`_fabric.to.g`", "reserved"]),
        (to("a").id(""), ErrorKind::InvalidEvent, &["id", "not empty"]),
        (to("a").id("i".repeat(256)), ErrorKind::InvalidEvent, &["256 bytes", "255"]),
        (to("a").id("x\ny"), ErrorKind::InvalidEvent, &["\\n", "byte 1"]),
        (to("a").source(""), ErrorKind::InvalidEvent, &["source"]),
        (to("a").key("k\0"), ErrorKind::InvalidEvent, &["key", "\\0"]),
        (to("a").content_type("a\rb"), ErrorKind::InvalidEvent, &["content type", "\\r"]),
        (to("a").ttl(std::time::Duration::ZERO), ErrorKind::InvalidEvent, &["time to live"]),
        (to("a").header("", "v"), ErrorKind::InvalidEvent, &["header name", "empty"]),
        (to("a").header("né", "v"), ErrorKind::InvalidEvent, &["'é'", "byte 1"]),
        (to("a").header("a b", "v"), ErrorKind::InvalidEvent, &["\"a b\"", "' '", "byte 1"]),
        (to("a").header(&long, "v"), ErrorKind::InvalidEvent, &["65 bytes", "64"]),
        (to("a").header("Nats-Msg-Id", "v"), ErrorKind::InvalidEvent, &["Nats-Msg-Id", "reserved"]),
        (to("a").header("ce-id", "v"), ErrorKind::InvalidEvent, &["ce-id", "reserved"]),
        (to("a").header("h", "a\r\nb"), ErrorKind::InvalidEvent, &["`h`", "\\r", "byte 1"]),
        (to("a").header("h", "a\0"), ErrorKind::InvalidEvent, &["`h`", "\\0", "byte 1"]),
        (to("a").header("h", &large), ErrorKind::TooLarge, &["65536"]),
        (to("a").bytes(vec![0xff; 1025]), ErrorKind::TooLarge, &["1025 bytes", "1024", "memory"]),
    ];
    let fabric = memory().await;
    let mut all = fabric.subscribe("#").await.unwrap();
    let bad = rows.len();
    for (n, (event, kind, says)) in rows.into_iter().enumerate() {
        let what = format!("event {n}");
        check(&what, fabric.publish(event.clone()).await, kind, says);
        check(&what, fabric.submit(event).await, kind, says);
        fabric.publish(Event::to("good").text(n.to_string())).await.unwrap();
    }
    for n in 0..bad {
        assert_eq!(all.recv().await.unwrap().unwrap().text().unwrap(), n.to_string());
    }
    let topics = fabric.admin().unwrap().topics("#").await.unwrap();
    assert_eq!(topics.len(), 1, "a refused event made a topic: {topics:?}");
}

#[test]
fn a_bad_traceparent_is_named() {
    check("a traceparent", TraceContext::new("00-xyz"), ErrorKind::InvalidEvent, &["`00-xyz`"]);
}

#[tokio::test]
async fn a_bad_pattern_or_group_is_named_and_opens_nothing() {
    let fabric = memory().await;
    let patterns: [Row<&str>; 6] = [
        ("", ErrorKind::InvalidTopic, &["0 bytes"]),
        ("a.b*", ErrorKind::InvalidTopic, &["\"a.b*\"", "byte 3"]),
        (">.a", ErrorKind::InvalidTopic, &["\">.a\"", "last"]),
        ("a..#", ErrorKind::InvalidTopic, &["\"a..#\"", "level 2"]),
        ("a b", ErrorKind::InvalidTopic, &["' '", "byte 1"]),
        ("ä", ErrorKind::InvalidTopic, &["'ä'", "byte 0"]),
    ];
    for (pattern, kind, says) in patterns {
        check(pattern, fabric.subscribe(pattern).await, kind, says);
        check(pattern, fabric.replay(pattern).await, kind, says);
    }
    let groups: [Row<&str>; 3] = [
        ("", ErrorKind::InvalidTopic, &["group"]),
        ("a.b", ErrorKind::InvalidTopic, &["\"a.b\"", "group"]),
        ("a b", ErrorKind::InvalidTopic, &["\"a b\"", "' '"]),
    ];
    for (group, kind, says) in groups {
        check(group, fabric.subscribe("a").group(group).await, kind, says);
    }
    assert!(fabric.subscriptions().is_empty());
    assert!(fabric.groups().unwrap().list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bad_url_is_named_and_connects_nothing() {
    let rows: [Row<&str>; 10] = [
        ("", ErrorKind::Config, &["byte 0", "://"]),
        ("memory", ErrorKind::Config, &["memory", "://"]),
        ("nothing://x", ErrorKind::Config, &["nothing", "memory"]),
        ("memory://?max_event=7", ErrorKind::Config, &["max_event", "max_events"]),
        ("memory://?max_events=many", ErrorKind::Config, &["max_events", "many"]),
        ("memory://?max_events=0", ErrorKind::Config, &["max_events", "0"]),
        ("memory://?max_age=5", ErrorKind::Config, &["max_age", "5", "unit"]),
        ("memory://?max_events=1&max_events=2", ErrorKind::Config, &["max_events", "twice"]),
        ("memory://user:secret@orders", ErrorKind::Config, &["memory", "user"]),
        ("memory://a%zz", ErrorKind::Config, &["'%'", "byte 10", "host"]),
    ];
    for (url, kind, says) in rows {
        let connected = fabric::connect(url).await;
        if let Err(error) = &connected {
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        check(url, connected, kind, says);
    }
}

#[test]
fn a_bad_config_is_named_with_its_line() {
    let rows: [Row<&str>; 6] = [
        ("url: memory://\nsorce: x\n", ErrorKind::Config, &["sorce", "source", "line 2"]),
        ("url: memory://\nurl: memory://\n", ErrorKind::Config, &["url", "line 2"]),
        ("source: x\n", ErrorKind::Config, &["url"]),
        ("url: [memory]\n", ErrorKind::Config, &["line 1"]),
        ("url: memory://\nmax_in_flight: 0\n", ErrorKind::Config, &["max_in_flight", "line 2"]),
        ("url: ${NO_SUCH_VARIABLE_IN_HERE}\n", ErrorKind::Config, &["NO_SUCH_VARIABLE_IN_HERE"]),
    ];
    for (yaml, kind, says) in rows {
        check(yaml, Config::from_yaml(yaml), kind, says);
    }
    let variables: [Row<(&str, &str)>; 2] = [
        (("FABRIC_URLL", "memory://"), ErrorKind::Config, &["FABRIC_URLL", "FABRIC_URL"]),
        (("FABRIC_MAX_IN_FLIGHT", "some"), ErrorKind::Config, &["FABRIC_MAX_IN_FLIGHT", "some"]),
    ];
    for ((name, value), kind, says) in variables {
        let variables = [("FABRIC_URL", "memory://"), (name, value)];
        check(name, Config::from_vars("FABRIC", variables), kind, says);
    }
}

/// A queue that is full does what its policy says, and says how many it cost.
#[tokio::test]
async fn a_full_queue_names_who_holds_it_up() {
    let fabric = fabric::connect("memory://?max_events=8&full_wait=1ms").await.unwrap();
    let work = fabric.subscribe("jobs").group("slow").await.unwrap();
    let mut refused: Option<Error> = None;
    for n in 0..16 {
        refused = fabric.publish(Event::to("jobs").text(n.to_string())).await.err().or(refused);
    }
    let error = refused.expect("nothing was refused");
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Full, RetryClass::Safe));
    assert_eq!((error.context("group"), error.context("topic")), (Some("slow"), Some("jobs")));
    drop(work);
}
