//! What only Kafka has: foreign records, limits of topics, partitions, transactions, other consumers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::HashSet;
use std::env;
use std::time::Duration;

use fabric_core::{
    Ability, Dsn, Event, EventId, Fabric, Nack, Position, Result, RetryClass, Start, Subscription,
    Topic,
};
use fabric_core::{DeadLetterReason, ErrorKind};
use fabric_kafka::Kafka;
use fabric_kafka::client::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use fabric_kafka::client::client::DefaultClientContext;
use fabric_kafka::client::consumer::{BaseConsumer, Consumer as _};
use fabric_kafka::client::message::{Header, Headers as _, Message as _, OwnedHeaders};
use fabric_kafka::client::producer::{
    BaseProducer, BaseRecord, FutureProducer, FutureRecord, Producer as _,
};
use fabric_kafka::client::{ClientConfig, Offset, TopicPartitionList};
use futures_util::StreamExt as _;

/// Nothing here takes as long.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A broker, and a prefix that nobody else has.
struct World {
    url: String,
    prefix: String,
}

impl World {
    fn new() -> Self {
        let shared = || fabric_brokers::kafka::shared().unwrap().url();
        let url = env::var("FABRIC_TEST_KAFKA_URL").unwrap_or_else(|_| shared());
        let id = EventId::generate().to_string().replace('-', "");
        Self { url, prefix: format!("k{}", &id[8..32]) }
    }

    async fn connect(&self, options: &str) -> Fabric {
        self.try_connect(options).await.unwrap()
    }

    async fn try_connect(&self, options: &str) -> Result<Fabric> {
        let discovery = if options.contains("discovery") { "" } else { "&discovery=200ms" };
        let dsn = format!("{}?prefix={}{discovery}{options}", self.url, self.prefix);
        Ok(Fabric::new(Kafka::connect(Dsn::parse(&dsn)?).await?))
    }

    fn name(&self, topic: &str) -> String {
        format!("{}.{topic}", self.prefix)
    }

    fn raw(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.url.trim_start_matches("kafka://"));
        config
    }

    async fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.raw().create().unwrap();
        let name = self.name(topic);
        let new = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
        let made = admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
        assert!(made[0].is_ok(), "{made:?}");
    }

    async fn produce(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> (i32, i64) {
        let producer: FutureProducer = self.raw().create().unwrap();
        let name = self.name(topic);
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&name);
        record.key = key;
        record.payload = value;
        let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header { key, value: Some(*value) })
        });
        let sent = producer.send(record.headers(headers), WATCHDOG).await.unwrap();
        (sent.partition, sent.offset)
    }
}

async fn next(subscription: &mut Subscription) -> Result<fabric_core::Delivery> {
    let next = tokio::time::timeout(WATCHDOG, subscription.recv()).await;
    next.expect("nothing came").expect("the subscription ended")
}

fn text(event: &str) -> Event {
    Event::to("orders.created").text(event.to_owned()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_a_dead_letter_in_a_group_and_an_error_without_one() {
    let world = World::new();
    let fabric = world.connect("").await;
    world.create("orders.created", 1, &[]).await;
    let mut plain = fabric.subscribe("orders.created").await.unwrap();
    let mut group = fabric.subscribe("orders.created").group("g").await.unwrap();
    let mut letters = fabric.subscribe("dlq.g").await.unwrap();
    world.produce("orders.created", Some(&[0xff, 0]), Some(b"no headers"), &[]).await;
    world.produce("orders.created", None, None, &[]).await;
    fabric.publish(text("good")).await.unwrap();
    for part in ["ce_specversion", "tombstone"] {
        let error = next(&mut plain).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(next(&mut plain).await.unwrap().text().unwrap(), "good");
    let delivery = next(&mut group).await.unwrap();
    assert_eq!(delivery.text().unwrap(), "good");
    delivery.ack().await.unwrap();
    // A subscription that nobody asks does nothing.
    let reading = tokio::spawn(async move { group.recv().await.map(drop) });
    // Each becomes a letter on its own: nothing says which comes first.
    let mut bodies: Vec<String> = Vec::new();
    for _ in 0..2 {
        let letter = next(&mut letters).await.unwrap();
        assert_eq!(letter.dead_letter().unwrap().reason, DeadLetterReason::Decode);
        bodies.push(letter.text().unwrap().into());
    }
    bodies.sort_unstable();
    assert_eq!(bodies, ["", "no headers"]);
    reading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_a_cloud_event_in_binary_mode_both_ways() {
    let world = World::new();
    let fabric = world.connect("").await;
    world.create("orders.created", 1, &[]).await;
    let mut plain = fabric.subscribe("orders.created").await.unwrap();
    let foreign = [
        ("ce_specversion", "1.0"),
        ("ce_id", "o-1"),
        ("ce_source", "/shop"),
        ("ce_type", "com.example.order"),
        ("ce_time", "2026-01-01T00:00:00Z"),
        ("ce_partitionkey", "c-7"),
        ("ce_myext", "kept"),
        ("content-type", "application/xml"),
        ("tenant", "acme"),
    ];
    world.produce("orders.created", Some(b"c-7"), Some(b"<x/>"), &foreign).await;
    let event = next(&mut plain).await.unwrap();
    assert_eq!((event.id().to_string().as_str(), event.source()), ("o-1", "/shop"));
    assert_eq!((event.event_type(), event.key()), ("com.example.order", Some("c-7")));
    assert_eq!((event.content_type(), event.header("tenant")), ("application/xml", Some("acme")));
    assert_eq!((event.extension("myext"), &*event.text().unwrap()), (Some("kept"), "<x/>"));
    // What was received is written as it came.
    let again = Event::of(event.event().clone()).build().unwrap();
    fabric.publish(again).await.unwrap();
    fabric
        .publish(Event::to("orders.created").id("e").source("s").bytes(Vec::new()))
        .await
        .unwrap();
    let consumer: BaseConsumer =
        world.raw().set("group.id", "raw").set("enable.auto.commit", "false").create().unwrap();
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(&world.name("orders.created"), 0, Offset::Offset(1)).unwrap();
    consumer.assign(&place).unwrap();
    let record = consumer.poll(WATCHDOG).unwrap().unwrap();
    let written: HashSet<(String, String)> = record
        .headers()
        .unwrap()
        .iter()
        .map(|h| (h.key.to_owned(), String::from_utf8(h.value.unwrap().to_vec()).unwrap()))
        .collect();
    let expected: HashSet<(String, String)> =
        foreign.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(written, expected);
    assert_eq!((record.key(), record.payload()), (Some(&b"c-7"[..]), Some(&b"<x/>"[..])));
    let record = consumer.poll(WATCHDOG).unwrap().unwrap();
    assert_eq!(record.payload(), Some(&[][..]), "an empty payload is no tombstone");
    assert_eq!(record.key(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_too_large_for_its_topic_harms_no_neighbour() {
    let world = World::new();
    let fabric = world.connect("&linger=50ms").await;
    world.create("orders.created", 1, &[("max.message.bytes", "5000")]).await;
    let sizes = (0..40).map(|n| if n == 20 { 6000 } else { 1000 });
    let events = sizes.map(|size| Event::to("orders.created").bytes(vec![7; size]));
    let events = futures_util::stream::iter(events.collect::<Vec<_>>());
    let results: Vec<Result<_>> = fabric.publish_all(events).collect().await;
    for (n, result) in results.iter().enumerate() {
        match result {
            Err(error) => assert_eq!((n, error.kind()), (20, ErrorKind::TooLarge), "{error}"),
            Ok(_) => assert_ne!(n, 20),
        }
    }
    assert_eq!(fabric.admin().unwrap().topic("orders.created").await.unwrap().events, 39);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_the_broker_cannot_tell_apart_are_refused_and_named() {
    let world = World::new();
    let fabric = world.connect("").await;
    fabric.publish(Event::to("a_b.c").text("x")).await.unwrap();
    // Another client, which has not seen the other topic yet.
    for fabric in [fabric, world.connect("").await] {
        let error = fabric.publish(Event::to("a.b_c").text("x")).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidTopic, RetryClass::Never));
        let text = error.to_string();
        assert!(text.contains("`a.b_c`") && text.contains("a_b.c`"), "{text}");
    }
    let unprefixed = Fabric::new(Kafka::connect(Dsn::parse(&world.url).unwrap()).await.unwrap());
    let own = unprefixed.publish(Event::to("__consumer_offsets").text("x")).await.unwrap_err();
    assert_eq!(own.kind(), ErrorKind::InvalidTopic);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_creation_an_absent_topic_is_not_found() {
    let world = World::new();
    let fabric = world.connect("&create_topics=false").await;
    assert!(!fabric.capabilities().can(Ability::AutoCreate));
    let error = fabric.publish(text("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, RetryClass::Never));
    let mut plain = fabric.subscribe("orders.*").await.unwrap();
    world.create("orders.created", 1, &[]).await;
    fabric.publish(text("there")).await.unwrap();
    assert_eq!(next(&mut plain).await.unwrap().text().unwrap(), "there");
}

#[tokio::test(flavor = "multi_thread")]
async fn order_over_a_topic_is_claimed_only_without_partitions() {
    let world = World::new();
    let fabric = world.connect("").await;
    assert!(fabric.capabilities().can(Ability::OrderTopic));
    world.create("orders.created", 3, &[]).await;
    fabric.health().await;
    assert!(!fabric.capabilities().can(Ability::OrderTopic));
    assert!(fabric.capabilities().can(Ability::OrderKey));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_chooses_its_partition_as_it_does_in_java() {
    let world = World::new();
    let fabric = world.connect("").await;
    world.create("orders.created", 7, &[]).await;
    // Murmur2 as in Apache Kafka's own tests.
    let known = [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("abc", 479_470_107),
    ];
    for (key, hash) in known {
        let receipt = fabric.publish(Event::of(text("x")).key(key)).await.unwrap();
        let partition = receipt.position.unwrap().partition.unwrap();
        assert_eq!(partition, (hash as u32 & 0x7fff_ffff) % 7, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_without_a_partition_are_spares() {
    let world = World::new();
    let fabric = world.connect("").await;
    world.create("orders.created", 1, &[]).await;
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(fabric.subscribe("orders.created").group("g").await.unwrap());
    }
    for n in 0..10 {
        fabric.publish(text(&n.to_string())).await.unwrap();
    }
    let mut got = Vec::new();
    // Whoever has some leaves after three; a spare takes over.
    while !members.is_empty() {
        let all = members.iter_mut().map(|member| Box::pin(member.recv()));
        let first = tokio::time::timeout(WATCHDOG, futures_util::future::select_all(all)).await;
        let (delivery, busy, _) = first.expect("nobody takes over");
        let mut delivery = delivery.unwrap().unwrap();
        let mut member = members.swap_remove(busy);
        let last = members.is_empty();
        for _ in 0..if last { 4 } else { 3 } {
            got.push(delivery.text().unwrap().into_owned());
            delivery.ack().await.unwrap();
            if got.len() == 10 || (!last && got.len() % 3 == 0) {
                break;
            }
            delivery = next(&mut member).await.unwrap();
        }
        member.close().await.unwrap();
    }
    assert_eq!(got, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_other_consumers_is_told_apart() {
    let world = World::new();
    let fabric = world.connect("").await;
    world.create("orders.created", 1, &[]).await;
    let name = world.name("orders.created");
    let other: BaseConsumer = world
        .raw()
        .set("group.id", world.name("g"))
        .set("partition.assignment.strategy", "range")
        .create()
        .unwrap();
    other.subscribe(&[&name]).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let polling = std::thread::spawn(move || {
        while stopped.try_recv().is_err() {
            let _ = other.poll(Duration::from_millis(50));
        }
    });
    let joined = loop {
        // Until the other one is a member.
        let list: BaseConsumer = world.raw().create().unwrap();
        let group = world.name("g");
        let found = list.fetch_group_list(Some(&group), WATCHDOG).unwrap();
        if found.groups().iter().any(|g| g.state() == "Stable" && !g.members().is_empty()) {
            break fabric.subscribe("orders.created").group("g").await;
        }
        tokio::task::yield_now().await;
    };
    let error = joined.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GroupMismatch, "{error:#}");
    assert!(error.to_string().contains("another kind"), "{error}");
    stop.send(()).unwrap();
    polling.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_nothing_later_comes_before_what_was_given_back() {
    let world = World::new();
    let fabric = world.connect("&retry=in_place").await;
    world.create("orders.created", 1, &[]).await;
    let mut member = fabric.subscribe("orders.created").group("g").prefetch(1).await.unwrap();
    for n in 0..3 {
        fabric.publish(text(&n.to_string())).await.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        let delivery = next(&mut member).await.unwrap();
        seen.push((delivery.text().unwrap().into_owned(), delivery.attempt()));
        if delivery.text().unwrap() == "1" && delivery.attempt() < 3 {
            delivery.nack(Nack::after(Duration::from_millis(100))).await.unwrap();
        } else {
            delivery.ack().await.unwrap();
        }
    }
    let expected = [("0", 1), ("1", 1), ("1", 2), ("1", 3), ("2", 1)];
    assert_eq!(seen, expected.map(|(text, attempt)| (text.to_owned(), attempt)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_ends_behind_the_marks_of_transactions() {
    let world = World::new();
    let fabric = world.connect("").await;
    world.create("orders.created", 1, &[]).await;
    fabric.publish(text("before")).await.unwrap();
    let producer: BaseProducer =
        world.raw().set("transactional.id", world.name("tx")).create().unwrap();
    let name = world.name("orders.created");
    let producer = tokio::task::spawn_blocking(move || {
        producer.init_transactions(WATCHDOG).unwrap();
        for commit in [true, false] {
            producer.begin_transaction().unwrap();
            let headers = ["ce_specversion", "ce_id", "ce_source", "ce_type"]
                .iter()
                .zip(["1.0", "1", "s", "t"]);
            let headers = headers.fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header { key, value: Some(value) })
            });
            let body = if commit { "committed" } else { "aborted" };
            let record = BaseRecord::<(), str>::to(&name).payload(body).headers(headers);
            producer.send(record).map_err(|(error, _)| error).unwrap();
            producer.flush(WATCHDOG).unwrap();
            if commit {
                producer.commit_transaction(WATCHDOG).unwrap();
            } else {
                producer.abort_transaction(WATCHDOG).unwrap();
            }
        }
    });
    producer.await.unwrap();
    let mut replay = fabric.replay("orders.created").await.unwrap();
    let mut read = Vec::new();
    while let Some(delivery) = tokio::time::timeout(WATCHDOG, replay.recv()).await.unwrap() {
        read.push(delivery.unwrap().text().unwrap().into_owned());
    }
    assert_eq!(read, ["before", "committed"]);
    let mut last = fabric.subscribe("orders.created").start_at(Start::Last).await.unwrap();
    assert_eq!(next(&mut last).await.unwrap().text().unwrap(), "committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_names_the_partition_and_the_life_of_its_topic() {
    let world = World::new();
    let fabric = world.connect("").await;
    world.create("orders.created", 2, &[]).await;
    let receipt = fabric.publish(Event::of(text("x")).key("k")).await.unwrap();
    let position = receipt.position.unwrap();
    assert!(position.partition.is_some());
    let admin: AdminClient<DefaultClientContext> = world.raw().create().unwrap();
    let name = world.name("orders.created");
    admin.delete_topics(&[&name], &AdminOptions::new()).await.unwrap();
    loop {
        let info = fabric.admin().unwrap().topic("orders.created").await;
        if info.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            break;
        }
        tokio::task::yield_now().await;
    }
    world.create("orders.created", 2, &[]).await;
    fabric.health().await;
    let again = fabric.publish(Event::of(text("y")).key("k")).await.unwrap().position.unwrap();
    assert_ne!(again.incarnation, position.incarnation);
    let stale = fabric.subscribe("orders.created").start_at(Start::At(position)).await;
    assert_eq!(stale.unwrap_err().kind(), ErrorKind::NotFound);
    let elsewhere = Position::new(Topic::new("orders.created").unwrap(), again.incarnation, 0);
    let beyond = elsewhere.with_partition(9);
    let none = fabric.subscribe("orders.created").start_at(Start::At(beyond)).await;
    assert_eq!(none.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_come_into_being_while_a_member_joins_are_read_whole() {
    let world = World::new();
    let fabric = world.connect("&discovery=10ms").await;
    for round in 0..3 {
        let publishing = async {
            for n in 0..30 {
                let topic = format!("new.r{round}.t{n}");
                fabric.publish(Event::to(topic).text("x")).await.unwrap();
            }
        };
        let reading = async {
            let (pattern, group) = (format!("new.r{round}.*"), format!("g{round}"));
            let member = fabric.subscribe(pattern.as_str()).group(group.as_str());
            let mut member = member.start_at(Start::All).await.unwrap();
            for _ in 0..30 {
                next(&mut member).await.unwrap().ack().await.unwrap();
            }
        };
        tokio::join!(publishing, reading);
    }
    fabric.close(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_stopped_flows_again_when_it_comes_back() {
    let world = World::new();
    let fabric = world.connect("").await;
    let join = || fabric.subscribe("orders.created").group("g").ack_wait(Duration::from_secs(1));
    let mut slow = join().prefetch(2).await.unwrap();
    for n in 0..10 {
        fabric.publish(text(&n.to_string())).await.unwrap();
    }
    // It holds all that it may, so that its partition is stopped, and then does not read at all, so
    // that its partition goes to another.
    let held = [next(&mut slow).await.unwrap(), next(&mut slow).await.unwrap()];
    let mut other = join().await.unwrap();
    let mut left: HashSet<String> = (0..10).map(|n| n.to_string()).collect();
    while !left.is_empty() {
        let delivery = next(&mut other).await.unwrap();
        left.remove(&*delivery.text().unwrap());
        delivery.ack().await.unwrap();
    }
    drop(held);
    other.close().await.unwrap();
    fabric.publish(text("back")).await.unwrap();
    let back = next(&mut slow).await.unwrap();
    assert_eq!(back.text().unwrap(), "back");
    back.ack().await.unwrap();
    slow.close().await.unwrap();
}
