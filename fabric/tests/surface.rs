//! What a user writes: the programs that the design was found by, compiled and run on memory.

#![cfg(all(feature = "memory", feature = "json", feature = "derive"))]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fabric::layers::{self, Hooks};
use fabric::{
    ConsumerBuilder, Context, DeadLetterReason, Error, ErrorKind, Event, Fabric, HandlerError,
    HandlerResult, Position, Result, Retry, RetryClass, Start, Timestamp, Topic, Typed, TypedEvent,
    Unmatched, jsonl,
};
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

async fn memory() -> Fabric {
    fabric::connect("memory://").await.expect("memory is always there")
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    cents: u32,
}

/// Program 1: publish with options, receive as a stream.
#[tokio::test(start_paused = true)]
async fn publish_with_options_and_receive_as_a_stream() -> Result<()> {
    let fabric = memory().await;
    let mut orders = fabric.subscribe("orders.*").await?;
    let event = Event::to("orders.created")
        .id("o-42")
        .key("c-7")
        .ttl(secs(600))
        .delay(secs(5))
        .header("tenant", "acme")
        .json(&Order { cents: 700 });
    let before = Timestamp::now();
    let receipt = fabric.publish(event).timeout(secs(2)).await?;
    assert!(!receipt.duplicate);

    let mut texts = Vec::new();
    while let Some(delivery) = orders.next().await {
        let delivery = delivery?;
        assert_eq!(delivery.id().to_string(), "o-42");
        assert_eq!((delivery.key(), delivery.header("TENANT")), (Some("c-7"), Some("acme")));
        assert!(Timestamp::now() >= before.saturating_add(secs(5)));
        assert_eq!(delivery.json::<Order>()?, Order { cents: 700 });
        texts.push(delivery.text()?.into_owned());
        fabric.close(secs(1)).await?;
    }
    assert_eq!(texts, [r#"{"cents":700}"#]);
    Ok(())
}

/// Program 2: many, pipelined, each with one of three outcomes.
#[tokio::test]
async fn publish_many_and_tell_the_outcomes_apart() -> Result<()> {
    let fabric = memory().await;
    let topics = ["a", "b", "not a topic", "c"];
    let events = stream::iter(topics).map(|topic| Event::to(topic).text("x"));
    let mut results = fabric.publish_all(events).in_flight(1024).enumerate();
    let (mut kept, mut unknown, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    while let Some((n, result)) = results.next().await {
        match result {
            Ok(receipt) => kept.push((n, receipt.position.is_some())),
            Err(error) if error.retry() == RetryClass::Ambiguous => unknown.push(n),
            Err(error) => refused.push((n, error.kind())),
        }
    }
    assert_eq!(kept, [(0, true), (1, true), (3, true)]);
    assert_eq!(refused, [(2, ErrorKind::InvalidTopic)]);
    assert!(unknown.is_empty());
    Ok(())
}

/// What is kept is exported as lines of JSON, and imported elsewhere as it was.
#[tokio::test]
async fn history_is_exported_and_imported() -> Result<()> {
    let (here, there) = (memory().await, memory().await);
    for n in 0..3 {
        let order = Order { cents: n };
        here.publish(Event::to("orders.created").id(n.to_string()).key("c").json(&order)).await?;
    }
    let mut lines = Vec::new();
    let written = jsonl::write(&mut here.replay("orders.*").await?, &mut lines).await?;
    assert_eq!(written, 3);

    let mut results = there.publish_all(jsonl::read(lines.as_slice()));
    while let Some(result) = results.next().await {
        result?;
    }
    let (mut sent, mut came) = (here.replay("#").await?, there.replay("#").await?);
    for _ in 0..3 {
        let (sent, came) = (sent.recv().await.unwrap()?, came.recv().await.unwrap()?);
        assert_eq!(
            (sent.id(), sent.time(), sent.source()),
            (came.id(), came.time(), came.source())
        );
        assert_eq!((sent.key(), sent.text()?), (came.key(), came.text()?));
    }
    assert!(came.recv().await.is_none());
    Ok(())
}

/// An import hands its own errors through.
#[tokio::test]
async fn publish_all_takes_results() -> Result<()> {
    let fabric = memory().await;
    let lines = ["1", "two", "3"].map(|line| {
        let number: u32 = line.parse().map_err(|_| Error::new(ErrorKind::Codec, "not a number"))?;
        Ok(Event::to("numbers").text(number.to_string()))
    });
    let results: Vec<_> = fabric.publish_all(stream::iter(lines)).collect().await;
    let kinds: Vec<_> = results.iter().map(|it| it.as_ref().err().map(Error::kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::Codec), None]);
    Ok(())
}

/// A typed event written by hand, whose codec is not to be run inside a process.
#[derive(Debug, PartialEq)]
struct ByHand {
    plan: String,
    step: u32,
}

impl TypedEvent for ByHand {
    const TYPE: &'static str = "plan.step_ready";
    const VERSION: u32 = 2;
    const PATTERN: &'static str = "plan.*.step_ready";
    const CONTENT_TYPE: &'static str = "text/plain";

    fn topic(&self) -> Result<Topic> {
        Topic::new(format!("plan.{}.step_ready", self.plan))
    }

    fn key(&self) -> Option<String> {
        Some(self.plan.clone())
    }

    fn encode(&self) -> Result<Bytes> {
        panic!("nothing is serialized inside a process")
    }

    fn decode(_: &[u8]) -> Result<Self> {
        panic!("nothing is deserialized inside a process")
    }
}

#[tokio::test]
async fn a_typed_event_arrives_as_the_same_value_and_no_serializer_runs() -> Result<()> {
    let fabric = memory().await;
    let mut plain = fabric.subscribe(ByHand::PATTERN).await?;
    let mut group = fabric.subscribe(ByHand::PATTERN).group("planner").await?;
    let sent = Arc::new(ByHand { plan: "p".to_owned(), step: 1 });
    fabric.publish(Arc::clone(&sent)).await?;
    fabric.publish(ByHand { plan: "p".to_owned(), step: 2 }).await?;
    fabric.publish(Event::of(ByHand { plan: "q".to_owned(), step: 3 }).ttl(secs(60))).await?;

    for readers in [&mut plain, &mut group] {
        for step in 1..=3 {
            let delivery = readers.recv().await.unwrap()?;
            let ready: Typed<ByHand> = delivery.decode()?;
            assert_eq!(ready.step, step);
            assert_eq!((ready.event().event_type(), ready.event().version()), (ByHand::TYPE, 2));
            assert_eq!(delivery.key(), Some(ready.plan.as_str()));
            if step == 1 {
                assert!(Arc::ptr_eq(&ready.into_arc(), &sent));
            }
            delivery.ack().await?;
        }
    }
    // History holds the value too.
    let mut kept = fabric.replay("plan.p.*").await?;
    assert!(Arc::ptr_eq(&kept.recv().await.unwrap()?.decode::<ByHand>()?.into_arc(), &sent));
    Ok(())
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "plan.{plan}.step_ready", version = 2, key = "plan")]
struct StepReady {
    plan: String,
    step: u32,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "plan.{plan}.step_done", key = "plan")]
struct StepDone {
    plan: String,
    step: u32,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "arm.stop")]
struct Stop {
    why: String,
}

/// The state of program 3: an arm that is out of order at first.
#[derive(Clone, Default)]
struct App {
    failures_left: Arc<AtomicU32>,
    stopped: Arc<Mutex<Vec<String>>>,
}

impl App {
    fn step(&self, _: u32) -> std::io::Result<()> {
        let left = &self.failures_left;
        match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Err(std::io::Error::other("the arm is out of order")),
            Err(_) => Ok(()),
        }
    }

    fn stop(&self, why: &str) -> std::io::Result<()> {
        self.stopped.lock().expect("nobody panics with it").push(why.to_owned());
        Ok(())
    }
}

async fn step_ready(ready: Typed<StepReady>, cx: Context<App>) -> HandlerResult<StepDone> {
    if ready.plan == "none" {
        return Err(HandlerError::permanent("a step of no plan"));
    }
    cx.state().step(ready.step)?;
    Ok(StepDone { plan: ready.plan.clone(), step: ready.step })
}

fn planner(fabric: &Fabric, app: App) -> ConsumerBuilder<App> {
    fabric
        .consumer("planner")
        .state(app)
        .on(step_ready)
        .on(async |stop: Typed<Stop>, cx: Context<App>| {
            cx.state().stop(&stop.why)?;
            Ok(())
        })
        .unmatched(Unmatched::Reject)
        .concurrency(16)
        .ordered_by_key()
        .retry(Retry::fixed(secs(1)).max_attempts(5))
}

/// Program 3: a service of handlers, as a value that tests assemble too.
#[tokio::test(start_paused = true)]
async fn a_service_handles_retries_rejects_and_drains() -> Result<()> {
    let fabric = memory().await;
    let mut done = fabric.subscribe(StepDone::PATTERN).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let app = App { failures_left: Arc::new(AtomicU32::new(3)), ..App::default() };
    let service = tokio::spawn(planner(&fabric, app.clone()).run_until(stopped));
    // The group is there when the service is, and what was published before is not for it.
    while fabric.groups()?.info("planner").await.is_err() {
        tokio::task::yield_now().await;
    }
    fabric.publish(Stop { why: "lunch".to_owned() }).await?;
    for step in 0..10 {
        fabric.publish(StepReady { plan: "p".to_owned(), step }).await?;
    }
    fabric.publish(StepReady { plan: "none".to_owned(), step: 0 }).await?;
    for step in 0..10 {
        let step_done: Typed<StepDone> = done.recv().await.unwrap()?.decode()?;
        assert_eq!((step_done.plan.as_str(), step_done.step), ("p", step), "in order, by key");
    }
    drop(stop);
    service.await.unwrap()?;
    assert_eq!(*app.stopped.lock().unwrap(), ["lunch"]);
    let letters = fabric.dead_letters("planner").list(10).await?;
    assert_eq!(letters.len(), 1);
    let letter = letters[0].dead_letter().unwrap();
    assert_eq!(
        (letter.reason, letter.error.as_str()),
        (DeadLetterReason::Rejected, "a step of no plan")
    );
    Ok(())
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "quote.get", reply = Quote)]
struct GetQuote {
    symbol: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "quote.price")]
struct Quote {
    cents: u8,
}

/// Program 4: a request, its answer, and the ways in which there is none.
#[tokio::test(start_paused = true)]
async fn requests_are_answered_or_fail_for_a_reason() -> Result<()> {
    let fabric = memory().await;
    assert_eq!(quote(&fabric, "ACME").await?, "nobody is there");

    let pricing =
        fabric.responder("pricing").on(async |ask: Typed<GetQuote>, _| match ask.symbol.as_str() {
            "FREE" => Err(HandlerError::permanent("nothing is free")),
            "SLOW" => std::future::pending().await,
            _ => Ok(Quote { cents: 7 }),
        });
    let _pricing = pricing.start().await?;
    assert_eq!(quote(&fabric, "ACME").await?, "7 cents");
    let error = quote(&fabric, "FREE").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(error.to_string().contains("nothing is free"), "{error}");
    assert_eq!(quote(&fabric, "SLOW").await.unwrap_err().kind(), ErrorKind::Timeout);
    Ok(())
}

async fn quote(fabric: &Fabric, symbol: &str) -> Result<String> {
    match fabric.request(GetQuote { symbol: symbol.to_owned() }).timeout(secs(1)).await {
        Ok(quote) => Ok(format!("{} cents", quote.cents)),
        Err(error) if error.kind() == ErrorKind::NoResponders => Ok("nobody is there".to_owned()),
        Err(error) => Err(error),
    }
}

/// An untyped request is answered by an event.
#[tokio::test]
async fn an_untyped_request_gets_an_event() -> Result<()> {
    let fabric = memory().await;
    let mut requests = fabric.responder("echo").serve("echo.>").await?;
    tokio::spawn(async move {
        while let Some(Ok(request)) = requests.recv().await {
            let answer = request.text()?.to_uppercase();
            request.reply(Event::to("echo.answer").text(answer)).await?;
        }
        Ok::<(), Error>(())
    });
    let request = Event::to("echo.loud").id("q-1").text("hello").build()?;
    let reply = fabric.request(request).await?;
    assert_eq!(reply.text()?, "HELLO");
    assert_eq!(reply.causation_id().map(ToString::to_string).as_deref(), Some("q-1"));
    Ok(())
}

/// Program 5: a layer of one method.
struct Tenant(String);

impl Hooks for Tenant {
    fn publish(&self, event: &mut Event) -> Result<()> {
        event.set_header("tenant", &self.0)
    }
}

#[tokio::test]
async fn hooks_make_a_layer() -> Result<()> {
    let fabric = memory().await.layer(layers::hooks(Tenant("acme".into())))?;
    let mut events = fabric.subscribe("#").await?;
    fabric.publish(Event::to("a").header("tenant", "other")).await?;
    fabric.publish(StepReady { plan: "p".to_owned(), step: 1 }).await?;
    for _ in 0..2 {
        assert_eq!(events.recv().await.unwrap()?.header("tenant"), Some("acme"));
    }
    Ok(())
}

/// Each call is a future that can be sent to another task, joined and buffered.
#[tokio::test]
async fn every_call_can_be_spawned_joined_and_buffered() -> Result<()> {
    let fabric = memory().await;
    let event = || Event::to("a.b").text("x");

    tokio::spawn(fabric.publish(event()).timeout(secs(2))).await.unwrap()?;
    tokio::spawn(fabric.submit(event())).await.unwrap()?.await?;
    let confirm = fabric.submit(event()).await?;
    tokio::spawn(confirm).await.unwrap()?;
    let mut plain = tokio::spawn(fabric.subscribe("a.*")).await.unwrap()?;
    let group = fabric.subscribe(["a.*", "b.#"]).group("g").start_at(Start::All).prefetch(9);
    let mut group = tokio::spawn(group).await.unwrap()?;
    let replay = tokio::spawn(fabric.replay("a.*").limit(2)).await.unwrap()?;
    assert_eq!(tokio::spawn(replay.count()).await.unwrap(), 2);
    tokio::spawn(fabric::connect("memory://")).await.unwrap()?;

    let receipts = join_all((0..4).map(|_| fabric.publish(event()))).await;
    assert!(receipts.iter().all(Result::is_ok));
    let buffered = stream::iter(0..4).map(|_| fabric.publish(event())).buffered(2);
    assert_eq!(buffered.filter(|it| std::future::ready(it.is_ok())).count().await, 4);
    let all = fabric.publish_all(stream::iter((0..4).map(move |_| event())));
    assert_eq!(tokio::spawn(all.count()).await.unwrap(), 4);

    let scoped = memory().await.scope(async |fabric| fabric.publish(Event::to("a")).await);
    tokio::spawn(scoped).await.unwrap()??;

    let read = tokio::spawn(async move {
        for _ in 0..12 {
            plain.recv().await.unwrap()?.ack().await?;
        }
        let mut left = 15;
        while left > 0 {
            let batch = group.recv_batch(left, secs(0)).await.unwrap()?;
            left -= batch.len();
            batch.ack().await?;
        }
        group.close().await
    });
    read.await.unwrap()?;
    tokio::spawn(async move {
        fabric.flush().await?;
        assert!(fabric.health().await.is_up());
        assert_eq!(fabric.groups()?.info("g").await?.pending(), 0);
        let last = fabric.admin()?.topic("a.b").await?.last;
        assert!(last.is_some_and(|Position { topic, .. }| topic == "a.b"));
        fabric.close(secs(1)).await
    })
    .await
    .unwrap()
}
