//! Bounds that a user sets, and what is counted: batches, connections, late answers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::time::Duration;

use fabric_core::{ErrorKind, Event, Fabric};
use fabric_zmq::broker::{Broker, BrokerConfig, BrokerStats};
use fabric_zmq::{Zmq, ZmqConfig};
use support::Stopped;

const WATCHDOG: Duration = Duration::from_secs(60);

async fn open(config: ZmqConfig) -> Fabric {
    Fabric::new(Zmq::open(config).await.unwrap())
}

/// What the broker counts, once it is as it should be.
async fn counted(
    broker: &Broker,
    right: impl Fn(&BrokerStats) -> bool + Send + Sync,
) -> BrokerStats {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let looking = async {
        loop {
            let stats = broker.stats();
            if right(&stats) {
                return stats;
            }
            looks.tick().await;
        }
    };
    let found = tokio::time::timeout(WATCHDOG, looking).await;
    found.unwrap_or_else(|_| panic!("{:?}", broker.stats()))
}

/// Events of one topic that come within the linger share messages, up to the bound, in order; a flush
/// sends what waits.
#[tokio::test(flavor = "multi_thread")]
async fn small_events_share_messages() {
    support::watch::this_test();
    let broker = support::broker();
    let config = ZmqConfig::brokers([broker.address()]).with_linger(WATCHDOG).with_batch_count(10);
    let fabric = open(config).await;
    let mut events = fabric.subscribe("batch.*").await.unwrap();
    for n in 0..95 {
        fabric.publish(Event::to("batch.a").text(n.to_string())).await.unwrap();
    }
    fabric.flush().await.unwrap();
    for n in 0..95 {
        let event = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap();
        assert_eq!(event.unwrap().unwrap().text().unwrap(), n.to_string());
    }
    let stats = counted(&broker, |stats| stats.events == 95).await;
    assert_eq!(stats.messages - stats.control, 10, "{stats:?}");
}

/// One more connection than allowed is not let in, and counted, however often it tries; when another
/// has left, it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_lets_in_as_many_as_it_was_told() {
    support::watch::this_test();
    let config = BrokerConfig::new("tcp://127.0.0.1:*", "tcp://127.0.0.1:*");
    let broker = Broker::start(&config.with_max_connections(Some(2))).unwrap();
    let config = ZmqConfig::brokers([broker.address()]).with_connect_timeout(WATCHDOG);
    let (first, second) = (open(config.clone()).await, open(config.clone()).await);
    counted(&broker, |stats| stats.publishers == 2 && stats.subscribers == 2).await;
    let impatient = config.clone().with_connect_timeout(Duration::from_secs(1));
    for _ in 0..2 {
        let refused = broker.stats().refused;
        let error = Zmq::open(impatient.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
        assert!(error.to_string().contains("--max-connections"), "{error}");
        counted(&broker, |stats| stats.refused > refused).await;
    }
    // Those who were refused are not taken for others that have left.
    counted(&broker, |stats| stats.publishers == 2 && stats.subscribers == 2).await;
    for fabric in [&first, &second] {
        assert!(fabric.health().await.is_up());
    }
    first.close(Duration::from_secs(1)).await.unwrap();
    let third = open(config).await;
    assert!(third.health().await.is_up());
}

/// A client whose subscription is not read holds in memory what it was told to, and no more; later it
/// tells exactly what it dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_stays_within_its_bound_in_memory() {
    // As by default: large beside what a process needs for itself, its threads and their allocator.
    const BYTES: usize = 64 << 20;
    const HWM: usize = 100;
    const EVENT: usize = 32 << 10;
    const ALL: u64 = 10_000;
    support::watch::this_test();
    let broker = support::broker();
    let stopped = Stopped::start(&broker.address(), BYTES, HWM);
    let config = ZmqConfig::brokers([broker.address()]);
    let (sender, reader) = (open(config.clone()).await, open(config).await);
    let mut pace = reader.subscribe("stopped").await.unwrap();
    let before = stopped.resident();
    let mut most = 0;
    for n in 0..ALL {
        sender.publish(Event::to("stopped").bytes(vec![1; EVENT])).await.unwrap();
        if n % 50 == 49 {
            // At the pace of one who reads, so that the broker has no need to drop.
            for _ in 0..50 {
                let event = tokio::time::timeout(WATCHDOG, pace.recv()).await.unwrap();
                let _ = event.unwrap().unwrap();
            }
            most = most.max(stopped.resident().saturating_sub(before));
        }
    }
    // What waits for the subscription, and in the socket.
    let bound = (BYTES + HWM * EVENT) as u64;
    assert!(most <= bound + bound / 10, "the client grew by {most} bytes, {bound} are the bound");
    assert!(ALL * EVENT as u64 > 4 * bound, "too little was sent to tell");
    let (received, missed) = stopped.read(ALL);
    assert_eq!(received + missed, ALL);
    assert!(missed > 0, "nothing had to be dropped, which was no test");
}

/// An answer that comes after its request gave up is dropped, and counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_counted() {
    support::watch::this_test();
    let broker = support::broker();
    let fabric = open(ZmqConfig::brokers([broker.address()])).await;
    let mut requests = fabric.responder("slow").serve("ask").await.unwrap();
    let asking = fabric.request(Event::to("ask").text("?")).timeout(Duration::from_millis(200));
    let error = asking.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let request = tokio::time::timeout(WATCHDOG, requests.recv()).await.unwrap();
    request.unwrap().unwrap().reply(Event::to("ask").text("!")).await.unwrap();
    let seen = async {
        while fabric.health().await.details["late answers"] != "1" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WATCHDOG, seen).await.unwrap();
}
