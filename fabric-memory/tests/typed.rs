//! Typed events from publisher to subscriber: the same value inside the process, bytes at its edge.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fabric_core::{
    Context, ErrorKind, Event, Fabric, HandlerError, HandlerResult, Priority, Typed, TypedEvent,
};
use fabric_memory::{Memory, MemoryConfig};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(topic = "plan.{plan}.step_ready", version = 2, key = "plan", crate = "fabric_core")]
struct StepReady {
    plan: String,
    step: u32,
}

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(topic = "plan.{plan}.step_done", crate = "fabric_core")]
struct StepDone {
    plan: String,
    step: u32,
}

/// Neither written nor read without a panic.
#[derive(Debug, Event)]
#[event(topic = "fragile", crate = "fabric_core")]
struct Fragile(u8);

impl Serialize for Fragile {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("nobody asked for bytes of {}", self.0)
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("nobody asked for a value")
    }
}

fn fabric() -> Fabric {
    Fabric::new(Memory::new(MemoryConfig::new()).expect("memory opens"))
}

fn ready(step: u32) -> StepReady {
    StepReady { plan: "p-7".to_owned(), step }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_gets_the_publishers_own_value() {
    let fabric = fabric();
    let mut plain = fabric.subscribe(StepReady::PATTERN).await.unwrap();
    let mut group = fabric.subscribe("plan.#").group("g").await.unwrap();
    let value = Arc::new(ready(3));
    fabric.publish(Arc::clone(&value)).await.unwrap();

    for subscription in [&mut plain, &mut group] {
        let delivery = subscription.recv().await.unwrap().unwrap();
        assert_eq!(delivery.topic(), &"plan.p-7.step_ready");
        assert_eq!((delivery.event_type(), delivery.version()), ("plan.step_ready", 2));
        assert_eq!(delivery.key(), Some("p-7"));
        let typed: Typed<StepReady> = delivery.decode().unwrap();
        assert_eq!(typed.event().id(), delivery.id());
        assert!(Arc::ptr_eq(&typed.into_arc(), &value));
        delivery.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_passes_without_a_serializer_and_its_panic_harms_one_reader() {
    let fabric = fabric();
    let mut group = fabric.subscribe("fragile").group("g").await.unwrap();
    fabric.publish(Fragile(1)).await.unwrap();
    let receipts =
        [fabric.submit(Fragile(2)).await.unwrap(), fabric.submit(Fragile(3)).await.unwrap()];
    for receipt in receipts {
        receipt.await.unwrap();
    }
    for n in 1..=3 {
        let delivery = group.recv().await.unwrap().unwrap();
        assert_eq!(delivery.decode::<Fragile>().unwrap().0, n);
        let error = delivery.payload().bytes().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec);
        let said = format!("panicked: nobody asked for bytes of {n}");
        assert!(error.message().ends_with(&said), "{error}");
        delivery.ack().await.unwrap();
    }

    fabric.publish(Event::to("fragile").text("7")).await.unwrap();
    let delivery = group.recv().await.unwrap().unwrap();
    let error = delivery.decode::<Fragile>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert_eq!(error.message(), "the codec of `fragile` panicked: nobody asked for a value");
    delivery.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_bytes_gets_the_encoded_form_and_bytes_become_a_value() {
    let fabric = fabric();
    let mut subscription = fabric.subscribe("plan.#").await.unwrap();
    fabric.publish(ready(3)).await.unwrap();
    let delivery = subscription.recv().await.unwrap().unwrap();
    assert_eq!(delivery.content_type(), "application/json");
    assert_eq!(delivery.text().unwrap(), r#"{"plan":"p-7","step":3}"#);

    let event = Event::to("plan.p-8.step_ready").text(r#"{"plan":"p-8","step":4}"#);
    fabric.publish(event).await.unwrap();
    let delivery = subscription.recv().await.unwrap().unwrap();
    let typed = delivery.decode::<StepReady>().unwrap();
    assert_eq!((typed.plan.as_str(), typed.step), ("p-8", 4));
}

#[tokio::test(start_paused = true)]
async fn another_shape_or_a_newer_version_is_refused_with_the_place() {
    let fabric = fabric();
    let mut subscription = fabric.subscribe("#").await.unwrap();
    let mut refused = async |event: fabric_core::EventBuilder| {
        fabric.publish(event).await.unwrap();
        let delivery = subscription.recv().await.unwrap().unwrap();
        delivery.decode::<StepReady>().unwrap_err()
    };

    let error = refused(Event::to("plan.p.step_ready").id("e-1").text("{\n  \"plan\": 7}")).await;
    assert_eq!(error.kind(), ErrorKind::Codec);
    let why = "the payload cannot be read as JSON: invalid type: integer `7`, expected a string";
    assert_eq!(error.message(), why);
    assert_eq!((error.context("line"), error.context("column")), (Some("2"), Some("11")));
    assert_eq!(error.context("type"), Some("plan.step_ready"));
    assert_eq!(error.context("topic"), Some("plan.p.step_ready"));
    assert_eq!(error.context("id"), Some("e-1"));

    let newer = Event::of(ready(3)).version(3).text(r#"{"plan":"p","step":3}"#);
    let error = refused(newer).await;
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert_eq!(error.message(), "version 3 is newer than 2, the one known here");

    // A value of another type is read through its bytes: the shape decides.
    fabric.publish(StepDone { plan: "p".to_owned(), step: 9 }).await.unwrap();
    let done = subscription.recv().await.unwrap().unwrap();
    assert_eq!(done.decode::<StepReady>().unwrap().step, 9);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_makes_no_topic_is_refused_before_it_is_sent() {
    let fabric = fabric();
    let mut subscription = fabric.subscribe("#").await.unwrap();
    for plan in ["a.b", "", "*", "a b"] {
        let value = StepReady { plan: plan.to_owned(), step: 1 };
        let error = fabric.publish(value).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTopic);
        let start = format!("the field `plan` of `StepReady` is {plan:?}");
        assert!(error.message().starts_with(&start), "{error}");
    }
    fabric.publish(ready(1)).await.unwrap();
    let first = subscription.recv().await.unwrap().unwrap();
    assert_eq!(first.topic(), &"plan.p-7.step_ready");
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "alarm", priority = "critical", ttl = "10s", crate = "fabric_core")]
struct Alarm(u8);

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "alarm", event_type = "calm", priority = "low", crate = "fabric_core")]
struct Calm(u8);

#[tokio::test(start_paused = true)]
async fn a_type_brings_its_priority_and_its_time_to_live() {
    let fabric = fabric();
    let mut group = fabric.subscribe("alarm").group("g").await.unwrap();
    fabric.publish(Calm(1)).await.unwrap();
    fabric.publish(Event::to("alarm").text("2")).await.unwrap();
    fabric.publish(Alarm(3)).await.unwrap();
    for (text, priority) in
        [("3", Priority::Critical), ("2", Priority::Normal), ("1", Priority::Low)]
    {
        let delivery = group.recv().await.unwrap().unwrap();
        assert_eq!((delivery.text().unwrap().as_ref(), delivery.priority()), (text, priority));
        delivery.ack().await.unwrap();
    }

    fabric.publish(Alarm(4)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    fabric.publish(Calm(5)).await.unwrap();
    let next = group.recv().await.unwrap().unwrap();
    assert_eq!(next.text().unwrap(), "5", "the alarm was too old");
}

#[tokio::test(start_paused = true)]
async fn a_handler_takes_its_type_and_returns_another() {
    let fabric = fabric();
    let mut done = fabric.subscribe(StepDone::PATTERN).await.unwrap();
    async fn step(ready: Typed<StepReady>, cx: Context<AtomicUsize>) -> HandlerResult<StepDone> {
        cx.state().fetch_add(1, Ordering::Relaxed);
        Ok(StepDone { plan: ready.plan.clone(), step: ready.step })
    }
    let service = fabric.consumer("planner").state(AtomicUsize::new(0)).on(step);
    let consumer = service.start().await.unwrap();
    for n in 0..10 {
        fabric.publish(ready(n)).await.unwrap();
    }
    for n in 0..10 {
        let delivery = done.recv().await.unwrap().unwrap();
        assert_eq!(delivery.topic(), &"plan.p-7.step_done");
        assert_eq!(delivery.decode::<StepDone>().unwrap().step, n);
    }
    consumer.drain().await.unwrap();
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "quotes.{symbol}", event_type = "get_quote", reply = Quote, crate = "fabric_core")]
struct GetQuote {
    symbol: String,
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(topic = "quotes", crate = "fabric_core")]
struct Quote {
    cents: u64,
}

fn quote(symbol: &str) -> GetQuote {
    GetQuote { symbol: symbol.to_owned() }
}

#[tokio::test(start_paused = true)]
async fn a_typed_request_is_answered_by_its_type() {
    let fabric = fabric();
    let error = fabric.request(quote("ACME")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoResponders);

    let answer = async |ask: Typed<GetQuote>, _: Context| match ask.symbol.as_str() {
        "ACME" => Ok(Quote { cents: 7 }),
        other => Err(HandlerError::permanent(format!("no price for {other}"))),
    };
    let responder = fabric.responder("pricing").on(answer).start().await.unwrap();
    let quoted = fabric.request(quote("ACME")).timeout(Duration::from_secs(1)).await.unwrap();
    assert_eq!(quoted.cents, 7);
    assert!(quoted.event().causation_id().is_some());

    let error = fabric.request(quote("NONE")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(error.message().contains("no price for NONE"), "{error}");
    responder.drain(Duration::from_secs(1)).await.unwrap();
}

/// On topics with fields too, one by one, in batches and as requests.
#[tokio::test(start_paused = true)]
async fn an_event_of_no_type_reaches_the_handler_of_its_topic() {
    let fabric = fabric();
    let consumer = fabric
        .consumer("g")
        .on(async |ready: Typed<StepReady>, _: Context| {
            Ok(StepDone { plan: ready.plan.clone(), step: ready.step })
        })
        .start()
        .await
        .unwrap();
    let batches = fabric
        .consumer("batches")
        .on_batch(fabric_core::Gather::up_to(9), async |all: Vec<Typed<StepReady>>, _: Context| {
            assert_eq!((all.len(), all[0].step), (1, 4));
            Ok(())
        })
        .start()
        .await
        .unwrap();
    let mut done = fabric.subscribe(StepDone::PATTERN).await.unwrap();
    let event = Event::to("plan.p-8.step_ready").text(r#"{"plan":"p-8","step":4}"#);
    fabric.publish(event).await.unwrap();
    let output = done.recv().await.unwrap().unwrap().decode::<StepDone>().unwrap();
    assert_eq!((output.plan.as_str(), output.step), ("p-8", 4));
    consumer.drain().await.unwrap();
    batches.drain().await.unwrap();
    // What it cannot read is a dead letter, with what the decoder said.
    let _strict = fabric
        .consumer("g")
        .on(async |_: Typed<StepReady>, _: Context| Ok(()))
        .start()
        .await
        .unwrap();
    let mut letters = fabric.subscribe("dlq.g").await.unwrap();
    fabric.publish(Event::to("plan.p-9.step_ready").text("no json")).await.unwrap();
    let letter = letters.recv().await.unwrap().unwrap();
    let error = &letter.dead_letter().unwrap().error;
    assert!(error.contains("line: 1, column: 2"), "{error}");
}

/// Publishes once more when it is dropped, as a value with an owner elsewhere may.
struct Echo(Fabric);

impl TypedEvent for Echo {
    const TYPE: &'static str = "echo";
    const VERSION: u32 = 1;
    const PATTERN: &'static str = "echo";
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn topic(&self) -> fabric_core::Result<fabric_core::Topic> {
        fabric_core::Topic::new("echo")
    }

    fn key(&self) -> Option<String> {
        None
    }

    fn encode(&self) -> fabric_core::Result<bytes::Bytes> {
        Ok(bytes::Bytes::new())
    }

    fn decode(_: &[u8]) -> fabric_core::Result<Self> {
        Err(fabric_core::Error::new(ErrorKind::Codec, "an echo is never read from bytes"))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        use futures_util::FutureExt as _;
        let published = self.0.publish(Event::to("dropped").text("echo")).now_or_never();
        assert!(published.is_some_and(|result| result.is_ok()), "memory answers at once");
        assert!(self.0.admin().is_ok());
    }
}

/// Retention drops values without a lock: they may use the fabric in turn.
#[test]
fn a_value_that_is_dropped_may_use_the_fabric() {
    let (tell, told) = std::sync::mpsc::channel();
    // On a thread of its own: one that waits for itself cannot be woken by a timer.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let published = runtime.block_on(echoes());
        let _ = tell.send(published);
    });
    let published = told.recv_timeout(Duration::from_secs(60)).expect("a value waits for a lock");
    assert_eq!(published, 1000);
}

/// How many values were dropped, of a thousand of which the topic keeps few.
async fn echoes() -> u64 {
    let fabric = Fabric::new(Memory::new(MemoryConfig::new().with_max_events(64)).unwrap());
    for _ in 0..1000 {
        fabric.publish(Arc::new(Echo(fabric.clone()))).await.unwrap();
    }
    fabric.admin().unwrap().purge("echo").await.unwrap();
    fabric.admin().unwrap().topic("dropped").await.unwrap().published
}
