//! What the metrics layer tells a recorder.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::HashMap;
use std::time::Duration;

use fabric_core::layers::{Faults, Metrics, PublishRetry};
use fabric_core::{Backend, Batch, Capabilities, Confirms, SharedBackend, forward};
use fabric_core::{Event, Fabric, Nack, NoticeKind, NoticeSender, Notices, Result, Retry};
use fabric_memory::{Memory, MemoryConfig};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// One recorder per test: its thread is the only one.
struct Recorded {
    snapshotter: Snapshotter,
    _guard: metrics::LocalRecorderGuard<'static>,
}

impl Recorded {
    fn new() -> Self {
        let recorder = Box::leak(Box::new(DebuggingRecorder::new()));
        let snapshotter = recorder.snapshotter();
        Self { snapshotter, _guard: metrics::set_default_local_recorder(recorder) }
    }

    /// What was recorded since the last look, as `name{label=value,…}`; histograms by count, gauges
    /// by how far they moved.
    fn look(&self) -> Values {
        let all = self.snapshotter.snapshot().into_vec();
        let entries = all.into_iter().map(|(key, _, _, value)| {
            let key = key.key();
            let labels: Vec<_> =
                key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(values) => values.len() as f64,
            };
            (format!("{}{{{}}}", key.name(), labels.join(",")), value)
        });
        Values(entries.collect())
    }
}

struct Values(HashMap<String, f64>);

impl Values {
    #[track_caller]
    fn are(&self, expected: &[(&str, f64)]) {
        for (name, value) in expected {
            assert_eq!(self.0.get(*name), Some(value), "{name} in {:#?}", self.0);
        }
    }
}

fn memory() -> Fabric {
    Fabric::new(Memory::new(MemoryConfig::new()).unwrap())
}

fn event(topic: &str) -> Event {
    Event::to(topic).text("x").build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn events_are_counted_where_they_leave_arrive_and_are_settled() {
    let recorded = Recorded::new();
    let fabric = memory().layer(Metrics::new().topics(["orders.*"]).unwrap()).unwrap();
    let mut group = fabric.subscribe("#").group("g").max_deliver(2).await.unwrap();
    fabric.publish(event("orders.made")).await.unwrap();
    fabric.publish(event("orders.paid")).await.unwrap();
    fabric.publish(event("rare")).await.unwrap();
    group.recv().await.unwrap().unwrap().ack().await.unwrap();
    let failed = group.recv().await.unwrap().unwrap();
    failed.nack(Nack::now().because("no money")).await.unwrap();
    let again = group.recv().await.unwrap().unwrap();
    again.nack(Nack::now().because("no money")).await.unwrap();
    group.recv().await.unwrap().unwrap().reject("no use").await.unwrap();
    recorded.look().are(&[
        ("fabric_messages_published_total{backend=memory,topic=orders.*}", 2.0),
        ("fabric_messages_published_total{backend=memory,topic=other}", 1.0),
        ("fabric_messages_received_total{backend=memory,group=g,topic=orders.*}", 3.0),
        ("fabric_messages_received_total{backend=memory,group=g,topic=other}", 1.0),
        ("fabric_message_latency_seconds{backend=memory,group=g,topic=orders.*}", 3.0),
        ("fabric_redeliveries_total{backend=memory,group=g}", 1.0),
        ("fabric_settlements_total{backend=memory,group=g,outcome=ack}", 1.0),
        ("fabric_settlements_total{backend=memory,group=g,outcome=nack}", 2.0),
        ("fabric_settlements_total{backend=memory,group=g,outcome=reject}", 1.0),
        ("fabric_handler_errors_total{backend=memory,group=g,topic=orders.*}", 2.0),
        ("fabric_handler_errors_total{backend=memory,group=g,topic=other}", 1.0),
        ("fabric_dead_letters_total{backend=memory,group=g,reason=rejected}", 1.0),
        ("fabric_dead_letters_total{backend=memory,group=g,reason=max_deliver}", 1.0),
        ("fabric_subscriptions{backend=memory}", 1.0),
        ("fabric.client.pending.events{messaging.system=memory}", 0.0),
        (
            "messaging.client.sent.messages{messaging.system=memory,\
             messaging.operation.name=publish,messaging.operation.type=send}",
            5.0,
        ),
        (
            "messaging.client.consumed.messages{messaging.system=memory,\
             messaging.operation.name=process,messaging.operation.type=process,\
             messaging.consumer.group.name=g}",
            4.0,
        ),
        (
            "messaging.client.operation.duration{messaging.system=memory,\
             messaging.operation.name=ack,messaging.operation.type=settle,\
             messaging.consumer.group.name=g}",
            1.0,
        ),
    ]);
    drop(group);
    recorded.look().are(&[("fabric_subscriptions{backend=memory}", -1.0)]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_counted_by_its_kind() {
    let recorded = Recorded::new();
    let fabric = memory().layer(Faults::seeded(1).refuse(1.0)).unwrap();
    let fabric = fabric.layer(PublishRetry::new(Retry::fixed(Duration::ZERO).max_attempts(3)));
    let fabric = fabric.unwrap().layer(Metrics::new()).unwrap();
    fabric.publish(event("a")).await.unwrap_err();
    recorded.look().are(&[
        ("fabric_publish_errors_total{backend=memory,error_type=connect}", 1.0),
        ("fabric_publish_retries_total{backend=memory}", 2.0),
        ("fabric_messages_published_total{backend=memory}", 0.0),
        ("fabric.client.pending.events{messaging.system=memory}", 0.0),
        (
            "messaging.client.operation.duration{messaging.system=memory,\
             messaging.operation.name=publish,messaging.operation.type=send,error.type=connect}",
            1.0,
        ),
    ]);
    let closed = memory().layer(Metrics::new()).unwrap();
    closed.close(Duration::ZERO).await.unwrap();
    closed.publish(event("a")).await.unwrap_err();
    recorded.look().are(&[
        ("fabric_publish_errors_total{backend=memory,error_type=closed}", 1.0),
        ("fabric_connected{backend=memory}", 0.0),
    ]);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_confirm_was_sent_and_is_not_pending() {
    let recorded = Recorded::new();
    let slow = Faults::seeded(1).delay_publishes(1.0, Duration::from_secs(1));
    let fabric = memory().layer(slow).unwrap();
    let batching = fabric_core::layers::Batching::new();
    let fabric = fabric.layer(batching).unwrap().layer(Metrics::new()).unwrap();
    let confirm = fabric.submit(event("a")).await.unwrap();
    recorded.look().are(&[("fabric.client.pending.events{messaging.system=memory}", 1.0)]);
    drop(confirm);
    recorded.look().are(&[
        ("fabric.client.pending.events{messaging.system=memory}", -1.0),
        ("fabric_messages_published_total{backend=memory}", 0.0),
        (
            "messaging.client.sent.messages{messaging.system=memory,\
             messaging.operation.name=publish,messaging.operation.type=send}",
            1.0,
        ),
    ]);
}

#[tokio::test(start_paused = true)]
async fn the_depth_of_each_group_is_measured_when_asked() {
    let recorded = Recorded::new();
    let metrics = Metrics::new();
    let fabric = memory().layer(metrics.clone()).unwrap();
    let mut group = fabric.subscribe("a").group("g").await.unwrap();
    for _ in 0..5 {
        fabric.publish(event("a")).await.unwrap();
    }
    group.recv().await.unwrap().unwrap().ack().await.unwrap();
    group.recv().await.unwrap().unwrap().reject("no use").await.unwrap();
    metrics.measure(&fabric).await.unwrap();
    recorded.look().are(&[
        ("fabric_queue_depth{backend=memory,group=g}", 3.0),
        ("fabric_dead_letters{backend=memory,group=g}", 1.0),
    ]);
}

/// Memory with notices of its own.
#[derive(Debug)]
struct Shaky {
    inner: SharedBackend,
    notices: NoticeSender,
}

impl Backend for Shaky {
    fn notices(&self) -> Notices {
        self.notices.listen()
    }

    forward!(self.inner: info, capabilities, try_submit, submit, subscribe, replay, request_reply);
    forward!(self.inner: groups, admin, health, close);
}

#[tokio::test(start_paused = true)]
async fn reconnects_are_counted_as_they_happen() {
    let recorded = Recorded::new();
    let notices = NoticeSender::new();
    let said = notices.clone();
    let shaky = move |inner: SharedBackend| -> Result<SharedBackend> {
        Ok(std::sync::Arc::new(Shaky { inner, notices: said.clone() }))
    };
    let fabric = memory().layer(shaky).unwrap().layer(Metrics::new()).unwrap();
    let error = fabric_core::Error::new(fabric_core::ErrorKind::Connect, "cut");
    notices.send(NoticeKind::Lost { error: error.clone() });
    recorded.look().are(&[("fabric_connected{backend=memory}", 0.0)]);
    notices.send(NoticeKind::Restored);
    notices.send(NoticeKind::Lost { error });
    notices.send(NoticeKind::Restored);
    recorded.look().are(&[
        ("fabric_connected{backend=memory}", 1.0),
        ("fabric_reconnects_total{backend=memory}", 2.0),
    ]);
    // A stack that is gone does not listen any more.
    drop(fabric);
    notices.send(NoticeKind::Restored);
}

#[tokio::test(start_paused = true)]
async fn work_is_timed_by_consumers_and_by_hand() {
    let recorded = Recorded::new();
    let fabric = memory().layer(Metrics::new()).unwrap();
    let mut group = fabric.subscribe("a").group("g").await.unwrap();
    for _ in 0..3 {
        fabric.publish(event("a")).await.unwrap();
    }
    for n in 0..3 {
        let delivery = group.recv().await.unwrap().unwrap();
        let work = async { if n == 0 { Err("no") } else { Ok(()) } };
        assert_eq!(delivery.process(work).await.is_err(), n == 0);
        delivery.ack().await.unwrap();
    }
    let delivery = fabric.subscribe("a").await.unwrap();
    drop(delivery);
    recorded.look().are(&[
        (
            "messaging.process.duration{messaging.system=memory,\
             messaging.operation.name=process,messaging.consumer.group.name=g}",
            2.0,
        ),
        (
            "messaging.process.duration{messaging.system=memory,\
             messaging.operation.name=process,messaging.consumer.group.name=g,error.type=_OTHER}",
            1.0,
        ),
    ]);
}

#[tokio::test(start_paused = true)]
async fn without_a_recorder_nothing_happens() {
    let fabric = memory().layer(Metrics::new()).unwrap();
    fabric.backend().submit(Batch::one(event("a"))).await.map(drop::<Confirms>).unwrap();
    assert_ne!(fabric.capabilities(), Capabilities::NONE);
    assert!(Metrics::new().topics("a..b").is_err());
}

/// Also those whose next try follows in place, and each once: not again where it is given back.
#[tokio::test(start_paused = true)]
async fn every_try_that_fails_is_counted_once() {
    let recorded = Recorded::new();
    let fabric = memory().layer(Metrics::new()).unwrap();
    let waits = [Duration::from_millis(1), Duration::from_secs(60), Duration::from_millis(1)];
    let consumer = fabric
        .consumer("g")
        .on_pattern("a", async |_: Event, _: fabric_core::Context| {
            Err::<(), _>(fabric_core::HandlerError::transient("no"))
        })
        .retry(Retry::list(waits))
        .start()
        .await
        .unwrap();
    let mut letters = fabric.subscribe("dlq.g").await.unwrap();
    fabric.publish(event("a")).await.unwrap();
    drop(letters.recv().await.unwrap().unwrap());
    consumer.drain().await.unwrap();
    recorded.look().are(&[
        ("fabric_handler_errors_total{backend=memory,group=g}", 4.0),
        ("fabric_settlements_total{backend=memory,group=g,outcome=nack}", 1.0),
        ("fabric_settlements_total{backend=memory,group=g,outcome=reject}", 1.0),
    ]);
}
