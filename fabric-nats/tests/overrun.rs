//! Retention that runs over groups: who is there is told, and goes on with what is left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::time::Duration;

use fabric_core::{Delivery, Error, ErrorKind, Event, Fabric, NoticeKind, Subscription};
use futures_util::StreamExt as _;

/// What nothing may take longer than.
const WATCHDOG: Duration = Duration::from_secs(60);

async fn next(subscription: &mut Subscription) -> fabric_core::Result<Delivery> {
    tokio::time::timeout(WATCHDOG, subscription.recv()).await.unwrap().unwrap()
}

async fn publish(fabric: &Fabric, numbers: std::ops::Range<usize>) {
    for n in numbers {
        fabric.publish(Event::to("a").text(n.to_string())).await.unwrap();
    }
}

/// Reads errors until they say that so many events were missed.
async fn told(subscription: &mut Subscription, missed: u64) {
    let mut sum = 0;
    while sum < missed {
        let error: Error = next(subscription).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lagged, "{error}");
        sum += error.missed().unwrap();
    }
    assert_eq!(sum, missed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_overtaken_while_it_works_is_told() {
    let fabric = support::connect("prefix=overrun&max_events=20").await.unwrap();
    let mut notices = fabric.notices();
    let mut events = fabric.subscribe("a").group("g").prefetch(10).await.unwrap();
    publish(&fabric, 0..10).await;
    let mut held = Vec::new();
    for n in 0..10 {
        let delivery = next(&mut events).await.unwrap();
        assert_eq!(delivery.text().unwrap(), n.to_string());
        held.push(delivery);
    }
    // It has no room for more, and of what follows the stream keeps the last twenty.
    publish(&fabric, 10..100).await;
    told(&mut events, 70).await;
    for delivery in held {
        delivery.ack().await.unwrap();
    }
    for n in 80..100 {
        let delivery = next(&mut events).await.unwrap();
        assert_eq!(delivery.text().unwrap(), n.to_string());
        delivery.ack().await.unwrap();
    }
    assert_eq!(fabric.stats().missed, 70);
    let mut noted = 0;
    while noted < 70 {
        let notice = tokio::time::timeout(WATCHDOG, notices.next()).await.unwrap().unwrap();
        if let NoticeKind::Lagging { group, missed } = notice.kind {
            assert_eq!(group.unwrap().as_str(), "g");
            noted += missed;
        }
    }
    assert_eq!(noted, 70);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_has_read_may_go_without_a_word() {
    let fabric = support::connect("prefix=overrun-read&max_events=20").await.unwrap();
    let mut events = fabric.subscribe("a").group("g").prefetch(10).await.unwrap();
    for round in 0..10 {
        publish(&fabric, round * 20..(round + 1) * 20).await;
        for _ in 0..20 {
            next(&mut events).await.unwrap().ack().await.unwrap();
        }
    }
    assert_eq!(fabric.stats().missed, 0);
}
