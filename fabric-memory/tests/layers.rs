//! The layers of core, over memory: each by itself and all at once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

#[allow(dead_code, reason = "the suite uses the rest")]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fabric_core::layers::{
    Batching, CircuitBreaker, Fault, Faults, Hooks, Limit, Metrics, PublishRetry, Timeout, Tracing,
    hooks,
};
use fabric_core::testing::Recorder;
use fabric_core::{Ability, Delivery, ErrorKind, Event, Fabric, Layer, Nack, Retry, Subscription};
use fabric_memory::{Memory, MemoryConfig};
use harness::without::without;

const SECOND: Duration = Duration::from_secs(1);

fn fabric() -> Fabric {
    Fabric::new(Memory::new(MemoryConfig::new().with_dedup_window(Some(SECOND * 3600))).unwrap())
}

fn event(n: usize) -> Event {
    Event::to("a.b").id(n.to_string()).text(n.to_string()).build().unwrap()
}

async fn next(subscription: &mut Subscription) -> Delivery {
    let received = tokio::time::timeout(SECOND * 600, subscription.recv()).await;
    received.expect("a delivery comes").unwrap().unwrap()
}

/// What every layer lets through: events, copies, groups, settlements, requests, care, close.
async fn works(fabric: Fabric) {
    let mut plain = fabric.subscribe("a.*").await.unwrap();
    let mut group = fabric.subscribe("a.*").group("g").ack_wait(SECOND * 9).await.unwrap();
    let publishes = (0..100).map(|n| fabric.publish(event(n)));
    for result in futures_util::future::join_all(publishes).await {
        result.unwrap();
    }
    let mut confirms = Vec::new();
    for n in 100..200 {
        confirms.push(fabric.submit(event(n)).await.unwrap());
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
    fabric.flush().await.unwrap();
    for n in 0..200 {
        assert_eq!(next(&mut plain).await.text().unwrap(), n.to_string());
        let delivery = next(&mut group).await;
        assert_eq!((delivery.text().unwrap().as_ref(), delivery.attempt()), (&*n.to_string(), 1));
        delivery.ack().await.unwrap();
    }
    fabric.publish(event(200)).await.unwrap();
    next(&mut group).await.nack(Nack::after(SECOND)).await.unwrap();
    let again = next(&mut group).await;
    assert_eq!(again.attempt(), 2);
    again.reject("no use").await.unwrap();
    let care = fabric.groups().unwrap();
    let info = care.info("g").await.unwrap();
    assert_eq!((info.undelivered(), info.pending()), (0, 0));
    let sent = care.send_to("g", event(201), None, 7).await.unwrap().await;
    assert_eq!(sent.failures().count(), 0);
    let alone = next(&mut group).await;
    assert_eq!(alone.attempt(), 7);
    alone.ack().await.unwrap();
    assert!(care.list().await.unwrap().iter().any(|group| group == "g"));
    assert_eq!(fabric.dead_letters("g").count().await.unwrap(), 1);
    let mut replay = fabric.replay("a.b").limit(3).await.unwrap();
    assert_eq!(replay.recv().await.unwrap().unwrap().text().unwrap(), "0");
    assert!(fabric.admin().unwrap().topic("a.b").await.unwrap().events > 0);
    asks(&fabric).await;
    assert!(fabric.health().await.is_up());
    fabric.close(SECOND).await.unwrap();
    assert_eq!(fabric.publish(event(300)).await.unwrap_err().kind(), ErrorKind::Closed);
}

async fn asks(fabric: &Fabric) {
    let mut requests = fabric.responder("r").serve("ask.*").await.unwrap();
    let question = Event::to("ask.name").text("?").build().unwrap();
    let (answer, ()) = tokio::join!(fabric.request(question), async {
        let request = requests.recv().await.unwrap().unwrap();
        request.reply(Event::to("ask.name").text("!")).await.unwrap();
    });
    assert_eq!(answer.unwrap().text().unwrap(), "!");
}

fn with(layer: impl Layer) -> Fabric {
    fabric().layer(layer).unwrap()
}

fn retry() -> PublishRetry {
    PublishRetry::new(Retry::fixed(SECOND).max_attempts(9))
}

#[tokio::test(start_paused = true)]
async fn memory_works_behind_a_timeout() {
    works(with(Timeout::new(SECOND * 5))).await;
}

#[tokio::test(start_paused = true)]
async fn memory_works_behind_retries() {
    works(with(retry())).await;
    works(with(retry().pipelined())).await;
}

#[tokio::test(start_paused = true)]
async fn memory_works_behind_a_limit() {
    works(with(Limit::new().rate(1000.0).in_flight(7))).await;
}

#[tokio::test(start_paused = true)]
async fn memory_works_behind_a_circuit_breaker() {
    works(with(CircuitBreaker::new())).await;
}

#[tokio::test(start_paused = true)]
async fn memory_works_behind_batching() {
    works(with(Batching::new().max_events(7))).await;
    works(with(Batching::new().max_events(7).linger(Duration::from_millis(5)))).await;
}

#[tokio::test(start_paused = true)]
async fn memory_works_behind_faults_that_never_strike() {
    works(with(Faults::seeded(1))).await;
}

#[tokio::test(start_paused = true)]
async fn memory_works_behind_metrics() {
    works(with(Metrics::new())).await;
    works(with(Metrics::new().topics("a.*").unwrap())).await;
}

#[tokio::test(start_paused = true)]
async fn memory_works_behind_tracing() {
    works(with(Tracing::new())).await;
}

/// All layers in the recommended order.
fn all(faults: Faults) -> Fabric {
    let fabric = fabric().layer(faults).unwrap();
    let fabric = fabric.layer(Limit::new().rate(10_000.0).in_flight(64)).unwrap();
    let fabric = fabric.layer(Timeout::new(SECOND * 5)).unwrap();
    let fabric = fabric.layer(CircuitBreaker::new().failures(20)).unwrap();
    let fabric = fabric.layer(retry()).unwrap();
    let fabric = fabric.layer(Batching::new().max_events(16)).unwrap();
    fabric.layer(Metrics::new()).unwrap().layer(Tracing::new()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn memory_works_behind_all_layers() {
    works(all(Faults::seeded(1))).await;
}

/// Reads a group until each of `count` events was acked with an answer that counts; returns how
/// often each arrived.
async fn drain(fabric: &Fabric, group: &mut Subscription, count: usize) -> BTreeMap<String, usize> {
    let mut arrived = BTreeMap::new();
    loop {
        let delivery = next(group).await;
        *arrived.entry(delivery.text().unwrap().into_owned()).or_default() += 1;
        let mut settling = delivery.ack().await;
        while let Err(failed) = settling {
            assert_eq!(failed.error.kind(), ErrorKind::Connect);
            settling = failed.delivery.ack().await;
        }
        if arrived.len() == count {
            let info = fabric.groups().unwrap().info("g").await.unwrap();
            if (info.undelivered(), info.pending()) == (0, 0) {
                return arrived;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_whatever_the_faults() {
    for seed in 0..20 {
        let faults = Faults::seeded(seed)
            .refuse(0.1)
            .lose_publishes(0.1)
            .lose_confirms(0.1)
            .delay_publishes(0.1, SECOND)
            .drop_deliveries(0.1)
            .duplicate(0.1)
            .reorder(0.1)
            .delay_deliveries(0.1, SECOND)
            .lose_acks(0.1)
            .fail_acks(0.1);
        let fabric = all(faults.clone());
        let mut group = fabric.subscribe("a.*").group("g").ack_wait(SECOND * 3).await.unwrap();
        let publishes = (0..200).map(|n| fabric.publish(event(n)));
        for result in futures_util::future::join_all(publishes).await {
            result.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        }
        let arrived = drain(&fabric, &mut group, 200).await;
        assert!(arrived.values().any(|times| *times > 1), "seed {seed}");
        let kinds = [
            Fault::Refused,
            Fault::LostPublish,
            Fault::LostConfirm,
            Fault::DroppedDelivery,
            Fault::Duplicate,
            Fault::Reordered,
            Fault::LostAck,
            Fault::FailedAck,
        ];
        for fault in kinds {
            assert!(faults.injected(fault) > 0, "seed {seed}: {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_ack_brings_the_event_again_after_its_lease() {
    let fabric = with(Faults::seeded(1).lose_acks(1.0));
    let mut group = fabric.subscribe("a.b").group("g").ack_wait(SECOND * 3).await.unwrap();
    fabric.publish(event(1)).await.unwrap();
    let began = tokio::time::Instant::now();
    next(&mut group).await.ack().await.unwrap();
    let again = next(&mut group).await;
    assert_eq!((again.attempt(), began.elapsed()), (2, SECOND * 3));
}

#[tokio::test(start_paused = true)]
async fn a_failed_ack_can_be_tried_again() {
    let faults = Faults::seeded(1).fail_acks(1.0);
    let fabric = with(faults.clone());
    let mut group = fabric.subscribe("a.b").group("g").await.unwrap();
    fabric.publish(event(1)).await.unwrap();
    let failed = next(&mut group).await.ack().await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Connect);
    faults.heal();
    failed.delivery.ack().await.unwrap();
    assert_eq!(fabric.groups().unwrap().info("g").await.unwrap().pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_delivery_comes_again_in_a_group_and_is_missed_without_one() {
    let faults = Faults::seeded(1).drop_deliveries(1.0);
    let fabric = with(faults.clone());
    let mut plain = fabric.subscribe("a.b").await.unwrap();
    let mut group = fabric.subscribe("a.b").group("g").ack_wait(SECOND * 3).await.unwrap();
    fabric.publish(event(1)).await.unwrap();
    let error = plain.recv().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.missed()), (ErrorKind::Lagged, Some(1)));
    let nothing = tokio::time::timeout(SECOND, group.recv()).await;
    assert!(nothing.is_err());
    faults.heal();
    let delivery = next(&mut group).await;
    assert_eq!(delivery.attempt(), 2);
    delivery.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_settles_nothing() {
    let fabric = with(Faults::seeded(1).duplicate(1.0));
    let mut group = fabric.subscribe("a.b").group("g").await.unwrap();
    fabric.publish(event(1)).await.unwrap();
    let (first, second) = (next(&mut group).await, next(&mut group).await);
    assert_eq!((first.attempt(), second.attempt()), (1, 1));
    assert_eq!((first.position(), first.id()), (second.position(), second.id()));
    second.ack().await.unwrap();
    assert_eq!(fabric.groups().unwrap().info("g").await.unwrap().pending(), 1);
    first.ack().await.unwrap();
    assert_eq!(fabric.groups().unwrap().info("g").await.unwrap().pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn reordering_loses_nothing() {
    let faults = Faults::seeded(3).reorder(0.3);
    let fabric = with(faults.clone());
    assert!(!fabric.capabilities().can(Ability::OrderTopic));
    let mut plain = fabric.subscribe("a.b").await.unwrap();
    for n in 0..100 {
        fabric.publish(event(n)).await.unwrap();
    }
    let mut got = Vec::new();
    for _ in 0..100 {
        got.push(next(&mut plain).await.text().unwrap().parse::<usize>().unwrap());
    }
    assert!(!got.is_sorted() && faults.injected(Fault::Reordered) > 0);
    assert_eq!(got.iter().copied().collect::<BTreeSet<_>>().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn the_order_survives_retries_behind_batches() {
    let faults = Faults::seeded(5).refuse(0.3);
    let fabric = fabric().layer(faults).unwrap();
    let fabric = fabric.layer(retry()).unwrap().layer(Batching::new().max_events(1)).unwrap();
    let mut plain = fabric.subscribe("a.b").await.unwrap();
    let mut confirms = Vec::new();
    for n in 0..100 {
        confirms.push(fabric.submit(event(n)).await.unwrap());
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(next(&mut plain).await.text().unwrap(), n.to_string());
    }
}

/// What a layer needs of the stack below it.
fn needs() -> Vec<(&'static str, Box<dyn Layer>, &'static [Ability])> {
    struct Nothing;
    impl Hooks for Nothing {}
    let lease: &[Ability] = &[Ability::Lease];
    vec![
        ("timeout", Box::new(Timeout::new(SECOND)), &[]),
        ("retry", Box::new(retry()), &[]),
        ("pipelined retry", Box::new(retry().pipelined()), &[]),
        ("limit", Box::new(Limit::new().rate(10.0).in_flight(7)), &[]),
        ("circuit breaker", Box::new(CircuitBreaker::new()), &[]),
        ("batching", Box::new(Batching::new()), &[]),
        ("hooks", Box::new(hooks(Nothing)), &[]),
        ("metrics", Box::new(Metrics::new()), &[]),
        ("tracing", Box::new(Tracing::new()), &[]),
        ("recorder", Box::new(Recorder::new()), &[]),
        ("no faults", Box::new(Faults::seeded(1)), &[]),
        ("refused publishes", Box::new(Faults::seeded(1).refuse(0.0).reorder(0.5)), &[]),
        ("lost acks", Box::new(Faults::seeded(1).lose_acks(0.5)), lease),
        ("lost deliveries", Box::new(Faults::seeded(1).drop_deliveries(0.5)), lease),
    ]
}

/// One ability after the other is taken away: a layer that needs it refuses when it is added, naming
/// it and the backend, and every other layer is added and lets publishes through.
#[tokio::test(start_paused = true)]
async fn a_layer_refuses_a_stack_on_which_it_cannot_do_its_work() {
    for (name, layer, needs) in needs() {
        for &ability in Ability::ALL {
            let below = fabric().layer(without(vec![ability])).unwrap();
            let lacks = |needed: &Ability| !below.capabilities().can(*needed);
            // Where there are no groups nothing of theirs can be lost.
            let spared = !below.capabilities().can(Ability::Groups);
            let missing = needs.iter().find(|needed| lacks(needed) && !spared);
            let added = below.clone().layer(|inner| layer.layer(inner));
            match (missing, added) {
                (None, Ok(fabric)) => {
                    fabric.publish(event(1)).await.unwrap();
                    assert!(!fabric.capabilities().can(ability), "{name} claims {ability}");
                }
                (Some(missing), Err(error)) => {
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    let text = error.to_string();
                    assert!(text.contains(missing.as_str()) && text.contains("memory"), "{text}");
                }
                (missing, added) => {
                    panic!("{name} without {ability}: needs {missing:?}, {:?}", added.err());
                }
            }
        }
    }
}
