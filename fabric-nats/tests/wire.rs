//! What lies on the wire, read and written by the client library alone: golden vectors.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use fabric_core::{Delivery, ErrorKind, Event, Fabric, Start, Subscription, Timestamp};
use fabric_nats::client::{Client, HeaderMap, Message};
use futures_util::StreamExt as _;

/// What nothing may take longer than.
const WATCHDOG: Duration = Duration::from_secs(30);

async fn raw() -> Client {
    fabric_nats::client::connect(support::url()).await.unwrap()
}

async fn fabric(prefix: &str, options: &str) -> Fabric {
    support::connect(&format!("prefix={prefix}{options}")).await.unwrap()
}

async fn next(subscription: &mut Subscription) -> fabric_core::Result<Delivery> {
    tokio::time::timeout(WATCHDOG, subscription.recv()).await.unwrap().unwrap()
}

/// What a subscriber that knows nothing of Fabric sees of one publish.
async fn seen(fabric: &Fabric, subject: &str, event: Event) -> Message {
    let client = raw().await;
    let mut messages = client.subscribe(subject.to_owned()).await.unwrap();
    client.flush().await.unwrap();
    // The server has the subscription once it answered something behind it.
    let _ = client.request("wire.nobody", "".into()).await;
    fabric.publish(event).await.unwrap();
    tokio::time::timeout(WATCHDOG, messages.next()).await.unwrap().unwrap()
}

fn headers(message: &Message) -> BTreeMap<String, String> {
    let headers = message.headers.iter().flat_map(HeaderMap::iter);
    headers.map(|(name, values)| (name.to_string(), values[0].to_string())).collect()
}

fn event() -> Event {
    Event::to("orders.created")
        .id("o 1")
        .source("shop/ä%")
        .time("2026-01-02T03:04:05.006Z".parse::<Timestamp>().unwrap())
        .event_type("order")
        .key("k")
        .header("tenant", "ac me")
        .extension("dataref", "s3://b/k")
        .json(&serde_json::json!({"n": 1}))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_cloudevents_in_binary_mode() {
    let fabric = fabric("wire-binary", "").await;
    let message = seen(&fabric, "wire-binary.orders.created", event()).await;
    assert_eq!(&message.payload[..], br#"{"n":1}"#);
    let expected = [
        ("Nats-Msg-Id", "shop/ä%25 o%201 orders.created"),
        ("ce-dataref", "s3://b/k"),
        ("ce-id", "o%201"),
        ("ce-partitionkey", "k"),
        ("ce-source", "shop/%C3%A4%25"),
        ("ce-specversion", "1.0"),
        ("ce-time", "2026-01-02T03:04:05.006Z"),
        ("ce-type", "order"),
        ("tenant", "ac me"),
    ];
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(headers(&message), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudevents_of_others_are_read() {
    let fabric = fabric("wire-read", "").await;
    let mut events = fabric.subscribe("orders.*").group("readers").await.unwrap();
    let client = raw().await;
    let mut binary = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("CE-ID", "caf%C3%A9"),
        ("ce-source", "elsewhere"),
        ("ce-type", "order"),
        ("ce-datacontenttype", "text/plain"),
        ("ce-myextension", "kept"),
        ("Some-Header", "too"),
    ] {
        binary.insert(name, value);
    }
    let publish = |headers: HeaderMap, payload: &'static str| {
        client.publish_with_headers("wire-read.orders.created", headers, payload.into())
    };
    publish(binary, "two chairs").await.unwrap();
    let mut structured = HeaderMap::new();
    structured.insert("Content-Type", "application/cloudevents+json; charset=UTF-8");
    let json = r#"{"specversion":"1.0","id":"s1","source":"x","type":"t","data":{"n":2}}"#;
    publish(structured, json).await.unwrap();
    client.flush().await.unwrap();

    let first = next(&mut events).await.unwrap();
    assert_eq!((first.id().to_string().as_str(), first.source()), ("café", "elsewhere"));
    assert_eq!((first.event_type(), first.content_type()), ("order", "text/plain"));
    assert_eq!(first.extension("myextension"), Some("kept"));
    assert_eq!(first.header("some-header"), Some("too"));
    assert_eq!(first.text().unwrap(), "two chairs");
    let raw = fabric_nats::raw_message(&first).unwrap();
    assert_eq!(raw.subject.as_str(), "wire-read.orders.created");
    first.ack().await.unwrap();
    let second = next(&mut events).await.unwrap();
    assert_eq!(
        (second.id().to_string().as_str(), second.text().unwrap()),
        ("s1", r#"{"n":2}"#.into())
    );
    second.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn structured_mode_is_one_json_object() {
    let fabric = fabric("wire-json", "&profile=structured").await;
    let mut events = fabric.subscribe("orders.*").await.unwrap();
    let message = seen(&fabric, "wire-json.orders.created", event()).await;
    let names: Vec<String> = headers(&message).into_keys().collect();
    assert_eq!(names, ["Nats-Msg-Id", "content-type"]);
    let json: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!((&json["id"], &json["data"]["n"]), (&"o 1".into(), &1.into()));
    let read = next(&mut events).await.unwrap();
    assert_eq!((read.key(), read.header("tenant")), (Some("k"), Some("ac me")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_raw_profile_is_the_payload_alone() {
    let fabric = fabric("wire-raw", "&profile=raw").await;
    let mut events = fabric.subscribe("sensors.>").group("readers").await.unwrap();
    let plain = Event::to("sensors.attic").text("21").build().unwrap();
    let message = seen(&fabric, "wire-raw.sensors.attic", plain).await;
    assert!(headers(&message).is_empty(), "{:?}", headers(&message));
    assert_eq!(&message.payload[..], b"21");
    let client = raw().await;
    client.publish("wire-raw.sensors.cellar", "12".into()).await.unwrap();
    client.flush().await.unwrap();
    // Its id follows from its place: everybody reads the same one.
    let mut others = fabric.subscribe("sensors.>").start_at(Start::All).await.unwrap();
    let mut ids = Vec::new();
    for (topic, text) in [("sensors.attic", "21"), ("sensors.cellar", "12")] {
        let delivery = next(&mut events).await.unwrap();
        assert_eq!((delivery.topic().as_str(), delivery.text().unwrap()), (topic, text.into()));
        assert_eq!(delivery.id(), next(&mut others).await.unwrap().id());
        assert_eq!(delivery.id().as_uuid().unwrap().get_version_num(), 8);
        ids.push(delivery.id().clone());
        delivery.ack().await.unwrap();
    }
    assert_ne!(ids[0], ids[1]);
    let with_header = Event::to("sensors.attic").header("a", "b").text("x");
    let error = fabric.publish(with_header).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("headers"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_answers_pass_in_the_raw_profile() {
    let fabric = fabric("wire-ask", "&profile=raw&mode=core").await;
    let mut requests = fabric.responder("r").serve("sum").await.unwrap();
    let answering = tokio::spawn(async move {
        while let Some(Ok(request)) = requests.recv().await {
            request.reply(Event::to("sum").text("3")).await.unwrap();
        }
    });
    let asked = fabric.request(Event::to("sum").text("1+2"));
    let answer = tokio::time::timeout(WATCHDOG, asked).await.unwrap().unwrap();
    assert_eq!(answer.text().unwrap(), "3");
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_own_ways_are_reachable() {
    let dsn = format!("{}?prefix=wire-own", support::url());
    let dsn = fabric_core::Dsn::parse(&dsn).unwrap();
    let nats = fabric_nats::Nats::connect(dsn).await.unwrap();
    let mut stream = nats.jetstream().await.unwrap().get_stream("wire-own").await.unwrap();
    assert_eq!(stream.info().await.unwrap().config.name, "wire-own");
    assert!(nats.client().await.unwrap().server_info().jetstream);
}
