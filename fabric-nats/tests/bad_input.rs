//! What others put in the way: each is a typed error that says what to do, and the neighbours' events
//! flow.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::time::Duration;

use fabric_brokers::nats::{Options, Server};
use fabric_core::{
    Ability, DeadLetterReason, Delivery, Dsn, Error, ErrorKind, Event, Fabric, RetryClass, Start,
    Subscription, Support,
};
use fabric_nats::Nats;
use fabric_nats::client::jetstream::{self, consumer, stream};
use fabric_nats::client::{Client, HeaderMap};

/// What nothing may take longer than.
const WATCHDOG: Duration = Duration::from_secs(30);

async fn raw() -> Client {
    fabric_nats::client::connect(support::url()).await.unwrap()
}

async fn next(subscription: &mut Subscription) -> fabric_core::Result<Delivery> {
    tokio::time::timeout(WATCHDOG, subscription.recv()).await.unwrap().unwrap()
}

async fn refused(options: &str) -> Error {
    support::connect(options).await.map(drop).unwrap_err()
}

/// Publishes what is no event between two that are.
async fn with_strangers(fabric: &Fabric, prefix: &str) {
    let client = raw().await;
    fabric.publish(Event::to("in.a").id("before").text("x")).await.unwrap();
    client.publish(format!("{prefix}.in.a"), "no headers at all".into()).await.unwrap();
    let mut broken = HeaderMap::new();
    broken.insert("ce-specversion", "1.0");
    broken.insert("ce-id", "broken");
    broken.insert("ce-source", "s");
    broken.insert("ce-type", "t");
    broken.insert("ce-time", "yesterday");
    client.publish_with_headers(format!("{prefix}.in.a"), broken, "x".into()).await.unwrap();
    client.publish(format!("{prefix}.in.schön"), "no topic".into()).await.unwrap();
    client.flush().await.unwrap();
    // What the raw client sent has been stored once something behind it was answered.
    let _ = client.request("bad.nobody", "".into()).await;
    fabric.publish(Event::to("in.a").id("after").text("x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_a_dead_letter_and_its_neighbours_flow() {
    let fabric = support::connect("prefix=bad-group").await.unwrap();
    let mut events = fabric.subscribe("in.*").group("g").max_deliver(3).await.unwrap();
    with_strangers(&fabric, "bad-group").await;
    for id in ["before", "after"] {
        let delivery = next(&mut events).await.unwrap();
        assert_eq!(delivery.id().to_string(), id);
        delivery.ack().await.unwrap();
    }
    let letters = fabric.dead_letters("g");
    tokio::time::timeout(WATCHDOG, async {
        // Letters are sent by whoever reads on.
        while letters.count().await.unwrap() < 3 {
            let _ = tokio::time::timeout(Duration::from_millis(50), events.recv()).await;
        }
    })
    .await
    .unwrap();
    let letters = letters.list(10).await.unwrap();
    for (letter, said) in letters.iter().zip(["ce-specversion", "yesterday", "schön"]) {
        let dead = letter.dead_letter().unwrap();
        assert_eq!(dead.reason, DeadLetterReason::Decode);
        assert!(dead.error.contains(said), "{}", dead.error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_group_it_is_an_error_in_the_stream() {
    let fabric = support::connect("prefix=bad-plain").await.unwrap();
    let mut events = fabric.subscribe("in.*").await.unwrap();
    with_strangers(&fabric, "bad-plain").await;
    assert_eq!(next(&mut events).await.unwrap().id().to_string(), "before");
    for _ in 0..3 {
        let error = next(&mut events).await.map(drop).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Closed, "{error}");
    }
    assert_eq!(next(&mut events).await.unwrap().id().to_string(), "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_keeps_half_of_it_is_refused() {
    let context = jetstream::new(raw().await);
    let subjects = vec!["half.>".to_owned()];
    let config = stream::Config { name: "half".to_owned(), subjects, ..stream::Config::default() };
    context.create_stream(config).await.unwrap();
    let error = refused("prefix=half").await;
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("alter=true"), "{error}");
    let fabric = support::connect("prefix=half&alter=true").await.unwrap();
    fabric.publish(Event::to("a").text("x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_stream_on_the_same_subjects_is_refused() {
    let context = jetstream::new(raw().await);
    let subjects = vec!["taken.orders".to_owned()];
    let config =
        stream::Config { name: "THEIRS".to_owned(), subjects, ..stream::Config::default() };
    context.create_stream(config).await.unwrap();
    let error = refused("prefix=taken").await;
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("another `prefix`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_streams_are_used_as_they_are() {
    let context = jetstream::new(raw().await);
    let subjects = vec!["listed-a".to_owned(), "listed-a.>".to_owned()];
    let config =
        stream::Config { name: "LISTED".to_owned(), subjects, ..stream::Config::default() };
    let mut made = context.create_stream(config).await.unwrap();
    let before = made.info().await.unwrap().config.clone();
    let streams = "streams=LISTED:listed-a,OTHER:listed-b";
    let fabric = support::connect(streams).await.unwrap();
    let mut events = fabric.subscribe("#").group("g").await.unwrap();
    for topic in ["listed-a.x", "listed-b", "listed-b.y"] {
        fabric.publish(Event::to(topic).text(topic)).await.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut events).await.unwrap();
        seen.push(delivery.topic().to_string());
        delivery.ack().await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, ["listed-a.x", "listed-b", "listed-b.y"]);
    assert_eq!(made.info().await.unwrap().config, before);
    // Topics that no stream keeps are told by name, before anything is sent.
    for error in [
        fabric.publish(Event::to("elsewhere.x").text("x")).await.map(drop).unwrap_err(),
        fabric.subscribe("elsewhere.*").await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("`LISTED` keeps listed-a"), "{error}");
    }
    // This stream neither schedules events nor ends their time.
    assert!(!fabric.capabilities().can(Ability::Delay));
    assert_eq!(fabric.capabilities().level(Ability::Ttl), Support::Emulated);
    let delayed = Event::to("listed-a.x").delay(Duration::from_secs(1)).text("x");
    assert_eq!(fabric.publish(delayed).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_consumer_is_told_apart() {
    let fabric = support::connect("prefix=bad-name").await.unwrap();
    let context = jetstream::new(raw().await);
    let stream = context.get_stream("bad-name").await.unwrap();
    let config = consumer::pull::Config {
        durable_name: Some("theirs".to_owned()),
        ..consumer::pull::Config::default()
    };
    stream.create_consumer(config).await.unwrap();
    let error = fabric.subscribe("a").group("theirs").await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GroupMismatch);
    assert!(error.to_string().contains("somebody else"), "{error}");
    let mut others = fabric.subscribe("a").group("ours").start_at(Start::All).await.unwrap();
    fabric.publish(Event::to("a").text("x")).await.unwrap();
    next(&mut others).await.unwrap().ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_may_not_be_made_is_not_found() {
    let error = refused("prefix=not-made&create=false").await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("`not-made`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_goes_and_may_not_be_made_again_ends_what_needs_it() {
    support::connect("prefix=gone").await.unwrap();
    let fabric = support::connect("prefix=gone&create=false").await.unwrap();
    let mut events = fabric.subscribe("a").group("g").await.unwrap();
    let context = jetstream::new(raw().await);
    context.delete_stream("gone").await.unwrap();
    let error = fabric.publish(Event::to("a").text("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, RetryClass::Safe), "{error}");
    assert!(error.to_string().contains("`create=false`"), "{error}");
    let error = next(&mut events).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(events.recv().await.is_none(), "it is over");
    for error in [
        fabric.subscribe("a").await.map(drop).unwrap_err(),
        fabric.subscribe("a").group("h").await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert!(context.get_stream("gone").await.is_err(), "nobody made it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_jetstream_says_so() {
    let server = Server::start(Options::new().without_jetstream()).unwrap();
    let connect = async |options: &str| {
        Nats::connect(Dsn::parse(&format!("{}{options}", server.url())).unwrap()).await
    };
    let error = connect("").await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("mode=core"), "{error}");
    let fabric = Fabric::new(connect("?mode=core").await.unwrap());
    let mut events = fabric.subscribe("a").await.unwrap();
    fabric.publish(Event::to("a").text("x")).await.unwrap();
    assert_eq!(next(&mut events).await.unwrap().text().unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_told_what_retention_took_from_it() {
    let fabric = support::connect("prefix=bad-lag&max_events=5").await.unwrap();
    fabric.subscribe("a").group("g").await.unwrap().close().await.unwrap();
    for n in 0..20 {
        fabric.publish(Event::to("a").text(n.to_string())).await.unwrap();
    }
    let mut events = fabric.subscribe("a").group("g").await.unwrap();
    let error = next(&mut events).await.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.missed()), (ErrorKind::Lagged, Some(15)));
    for n in 15..20 {
        let delivery = next(&mut events).await.unwrap();
        assert_eq!(delivery.text().unwrap(), n.to_string());
        delivery.ack().await.unwrap();
    }
    // Whoever has read everything missed nothing.
    events.close().await.unwrap();
    fabric.publish(Event::to("a").text("20")).await.unwrap();
    let mut events = fabric.subscribe("a").group("g").await.unwrap();
    assert_eq!(next(&mut events).await.unwrap().text().unwrap(), "20");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_says_so() {
    let full = support::connect("prefix=bad-full&max_events=5&discard=new").await.unwrap();
    for _ in 0..5 {
        full.publish(Event::to("a").text("x")).await.unwrap();
    }
    let error = full.publish(Event::to("a").text("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(error.retry(), RetryClass::Safe, "{error}");
    // What is refused at once cannot be kept back: the server has not both.
    assert!(!full.capabilities().can(Ability::Delay));
}
