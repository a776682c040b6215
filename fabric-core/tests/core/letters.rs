//! Dead letters: the copy is confirmed before the original is settled, whatever goes wrong.

use std::sync::Arc;
use std::time::Duration;

use fabric_core::{
    Chunk, DeadLetterReason, Error, ErrorKind, Event, Fabric, MAX_ERROR_LEN, Nack, NoticeKind,
    Places, Receipt, Subscription, Timestamp,
};
use futures_util::FutureExt as _;

use crate::tiny::{Tiny, chunk, ids};

const SECOND: Duration = Duration::from_secs(1);

async fn group(tiny: &Tiny, max_deliver: u32) -> (Fabric, Subscription) {
    let fabric = tiny.fabric();
    let deliveries = fabric.subscribe("#").group("g").max_deliver(max_deliver).await.unwrap();
    tiny.log();
    (fabric, deliveries)
}

/// Lets the subscription do what it does by itself.
async fn idle(deliveries: &mut Subscription) {
    for _ in 0..8 {
        assert!(deliveries.recv().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
}

fn full() -> Error {
    Error::new(ErrorKind::Full, "no room for letters")
}

#[tokio::test]
async fn the_letter_is_confirmed_before_the_event_is_settled() {
    let tiny = Tiny::new().confirming_later();
    tiny.deliver([Ok(chunk(["1", "2"]))]);
    let (fabric, mut deliveries) = group(&tiny, 5).await;
    let one = deliveries.recv().await.unwrap().unwrap();
    let mut rejecting = one.reject("never");
    assert!((&mut rejecting).now_or_never().is_none());
    assert_eq!(tiny.log(), ["submit dlq.g 1"]);
    tiny.confirm(1);
    rejecting.await.unwrap();
    assert_eq!(tiny.log(), ["ack 1"]);
    assert_eq!(fabric.stats().dead_letters, 1);
}

#[tokio::test]
async fn a_letter_is_the_event_as_it_was_with_a_note() {
    let tiny = Tiny::new();
    let original = Event::to("a.b")
        .id("7")
        .source("shop")
        .event_type("order")
        .key("c-7")
        .header("tenant", "acme")
        .extension("dataref", "s3://b/k")
        .text("payload")
        .build()
        .unwrap();
    let position: fabric_core::Position = "a.b@1:42".parse().unwrap();
    let stored = Chunk::new(Arc::new(vec![original.clone()]), 0, 1, Timestamp::now())
        .with_attempt(3)
        .with_places(Places::Each(Box::new([position.clone()])));
    tiny.deliver([Ok(stored)]);
    let (fabric, mut deliveries) = group(&tiny, 5).await;
    let mut notices = fabric.notices();
    let delivery = deliveries.recv().await.unwrap().unwrap();
    let received = delivery.received_at();
    delivery.reject("no such customer").await.unwrap();
    let letter = tiny.published().remove(0);
    assert_eq!(letter.topic(), "dlq.g");
    assert_eq!((letter.id(), letter.time()), (original.id(), original.time()));
    assert_eq!((letter.source(), letter.event_type()), ("shop", "order"));
    assert_eq!((letter.key(), letter.header("tenant")), (Some("c-7"), Some("acme")));
    assert_eq!(letter.extension("dataref"), Some("s3://b/k"));
    assert_eq!(letter.text().unwrap(), "payload");
    let note = letter.dead_letter().unwrap();
    assert_eq!((note.group.as_str(), note.reason), ("g", DeadLetterReason::Rejected));
    assert_eq!((note.error.as_str(), note.attempts), ("no such customer", 3));
    assert_eq!((&note.topic, note.position.as_ref()), (original.topic(), Some(&position)));
    assert_eq!((note.first, note.redriven), (received, 0));
    // Two letters of one event at different places are two letters.
    assert!(letter.dedup_key().contains("a.b@1:42"));
    let notice = notices.try_next().unwrap().kind;
    assert!(
        matches!(notice, NoticeKind::DeadLettered { group, topic } if group == "g" && topic == "a.b")
    );
}

#[tokio::test]
async fn a_letter_that_is_not_kept_leaves_the_event_unsettled() {
    let mut answers = vec![Ok(Receipt::ACCEPTED), Err(full())].into_iter();
    let tiny = Tiny::new().answering(move |_| answers.next_back().unwrap());
    tiny.deliver([Ok(chunk(["1"]))]);
    let (fabric, mut deliveries) = group(&tiny, 5).await;
    let mut notices = fabric.notices();
    let one = deliveries.recv().await.unwrap().unwrap();
    let failed = one.reject("never").await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Full);
    assert_eq!(failed.error.context("group"), Some("g"));
    assert_eq!(tiny.log(), ["submit dlq.g 1"]);
    let notice = notices.try_next().unwrap().kind;
    assert!(
        matches!(notice, NoticeKind::DeadLetterFailed { error, .. } if error.kind() == ErrorKind::Full)
    );
    assert_eq!(fabric.stats().dead_letters, 0);
    // It is still there to be tried again.
    failed.delivery.reject("never").await.unwrap();
    assert_eq!(tiny.log(), ["submit dlq.g 1", "ack all 1"]);
}

#[tokio::test]
async fn a_letter_that_nobody_confirmed_is_not_kept() {
    let tiny = Tiny::new().forgetful();
    tiny.deliver([Ok(chunk(["1"]))]);
    let (_fabric, mut deliveries) = group(&tiny, 5).await;
    let one = deliveries.recv().await.unwrap().unwrap();
    let failed = one.reject("never").await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Backend);
    assert_eq!(tiny.log(), ["submit dlq.g 1"]);
}

#[tokio::test]
async fn an_event_nobody_holds_whose_letter_is_not_kept_is_told_to_the_backend() {
    let tiny = Tiny::new().answering(|_| Err(full()));
    let fault = Error::new(ErrorKind::Schema, "no `id`");
    tiny.deliver([Ok(chunk(["1", "2"]).with_fault(0, fault))]);
    let (fabric, mut deliveries) = group(&tiny, 5).await;
    assert_eq!(deliveries.recv().await.unwrap().unwrap().id(), &"2");
    tiny.log();
    idle(&mut deliveries).await;
    assert_eq!(tiny.log(), ["submit dlq.g 1", "dropped 1"]);
    assert_eq!(fabric.stats().dropped_deliveries, 1);
}

#[tokio::test]
async fn what_was_delivered_too_often_is_a_letter_before_anybody_sees_it() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1", "2", "3"]).with_attempts(Box::from([3, 4, 2])))]);
    let (fabric, mut deliveries) = group(&tiny, 3).await;
    let batch = deliveries.recv_batch(9, Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(ids(batch.iter()), ["1", "3"]);
    idle(&mut deliveries).await;
    assert_eq!(tiny.log(), ["submit dlq.g 2", "ack 2"]);
    let note = tiny.published()[0].dead_letter().unwrap().clone();
    assert_eq!((note.reason, note.attempts), (DeadLetterReason::MaxDeliver, 4));
    assert_eq!(note.error, "delivered 3 times without being settled");
    batch.ack().await.unwrap();
    let stats = fabric.stats();
    assert_eq!((stats.dead_letters, stats.redeliveries), (1, 3));
}

#[tokio::test]
async fn the_nack_of_the_last_attempt_is_a_letter_at_once() {
    let tiny = Tiny::new();
    tiny.deliver([
        Ok(chunk(["1"]).with_attempt(2)),
        Ok(chunk(["2"]).with_attempt(3)),
        Ok(chunk(["3"]).with_attempt(3)),
    ]);
    let (_fabric, mut deliveries) = group(&tiny, 3).await;
    for nack in [Nack::now(), Nack::after(SECOND).because("the disk is full"), Nack::now()] {
        deliveries.recv().await.unwrap().unwrap().nack(nack).await.unwrap();
    }
    assert_eq!(
        tiny.log(),
        ["nack 1", "submit dlq.g 2", "ack all 2", "submit dlq.g 3", "ack all 3"]
    );
    let notes =
        tiny.published().into_iter().map(|letter| letter.dead_letter().unwrap().error.clone());
    assert_eq!(notes.collect::<Vec<_>>(), ["the disk is full", "given back without a reason"]);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_a_letter_with_the_reason() {
    let tiny = Tiny::new();
    let kinds = [ErrorKind::Schema, ErrorKind::Crypto, ErrorKind::Codec];
    let faulty = ["1", "2", "3"].into_iter().zip(kinds).map(|(id, kind)| {
        let fault = Error::new(kind, "bad").with_source(std::io::Error::other("worse"));
        Ok(chunk([id]).with_fault(0, fault))
    });
    tiny.deliver(faulty);
    let (_fabric, mut deliveries) = group(&tiny, 5).await;
    idle(&mut deliveries).await;
    let notes = tiny.published().into_iter().map(|letter| {
        let note = letter.dead_letter().unwrap();
        (note.reason.as_str(), note.error.clone())
    });
    let bad = || "bad: worse".to_owned();
    let expected = [("schema", bad()), ("decrypt", bad()), ("decode", bad())];
    assert_eq!(notes.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_long_error_is_cut_between_characters() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1"]))]);
    let (_fabric, mut deliveries) = group(&tiny, 5).await;
    let long = format!("x{}", "ä".repeat(MAX_ERROR_LEN));
    deliveries.recv().await.unwrap().unwrap().reject(&long).await.unwrap();
    let note = tiny.published()[0].dead_letter().unwrap().error.clone();
    assert_eq!(note.len(), MAX_ERROR_LEN - 1);
    assert!(long.starts_with(&note));
}

#[tokio::test(start_paused = true)]
async fn a_letter_does_not_expire_where_it_is_kept() {
    let tiny = Tiny::new();
    let short = Event::to("a.b").id("1").ttl(SECOND).text("").build().unwrap();
    assert_eq!(short.expires_at(), Some(short.time().saturating_add(SECOND)));
    tiny.deliver([Ok(Chunk::one(short))]);
    let (fabric, mut deliveries) = group(&tiny, 5).await;
    deliveries.recv().await.unwrap().unwrap().reject("never").await.unwrap();
    tokio::time::advance(SECOND * 9).await;
    let letter = tiny.published().remove(0);
    assert_eq!((letter.ttl(), letter.expires_at()), (Some(SECOND), None));
    tiny.deliver([Ok(Chunk::one(letter))]);
    let mut letters = fabric.subscribe("dlq.g").group("keeper").await.unwrap();
    assert_eq!(letters.recv().await.unwrap().unwrap().id(), &"1");
}

#[tokio::test]
async fn a_subscription_that_ends_keeps_its_letters_first() {
    let tiny = Tiny::new().confirming_later().ending();
    tiny.deliver([Ok(chunk(["1"]).with_attempt(9))]);
    let (_fabric, mut deliveries) = group(&tiny, 3).await;
    // Its source has ended and is not asked again.
    for _ in 0..3 {
        assert!(deliveries.recv().now_or_never().is_none());
    }
    tiny.confirm(1);
    assert!(deliveries.recv().await.is_none());
    assert_eq!(tiny.log(), ["submit dlq.g 1", "ack all 1"]);
}

#[tokio::test]
async fn leaving_waits_for_the_letters_under_way() {
    let tiny = Tiny::new().confirming_later();
    tiny.deliver([Ok(chunk(["1"]).with_attempt(9))]);
    let (_fabric, mut deliveries) = group(&tiny, 3).await;
    assert!(deliveries.recv().now_or_never().is_none());
    let mut closing = Box::pin(deliveries.close());
    assert!(closing.as_mut().now_or_never().is_none());
    tiny.confirm(1);
    closing.await.unwrap();
    assert_eq!(tiny.log(), ["submit dlq.g 1", "ack all 1", "leave"]);
}

#[tokio::test]
async fn a_lease_that_ends_while_the_letter_is_kept_makes_the_settlement_stale() {
    let tiny = Tiny::new().confirming_later();
    tiny.deliver([Ok(chunk(["1"]))]);
    let (_fabric, mut deliveries) = group(&tiny, 3).await;
    let mut rejecting = deliveries.recv().await.unwrap().unwrap().reject("never");
    assert!((&mut rejecting).now_or_never().is_none());
    assert_eq!(tiny.chunk(0).revoke(1), 1);
    tiny.confirm(1);
    assert_eq!(rejecting.await.unwrap_err().error.kind(), ErrorKind::StaleAck);
    // The event comes again; its letter has an id of its own to be known by.
    assert_eq!(tiny.log(), ["submit dlq.g 1"]);
}

#[tokio::test]
async fn without_dead_letters_a_fault_is_an_error_and_a_reject_is_refused() {
    let fault = Error::new(ErrorKind::Codec, "bad");
    let capabilities = Tiny::new().fabric().capabilities();
    let tiny = Tiny::new().can(capabilities.without(fabric_core::Ability::DeadLetters));
    tiny.deliver([Ok(chunk(["1", "2"]).with_fault(0, fault))]);
    let fabric = tiny.fabric();
    let mut deliveries = fabric.subscribe("#").group("g").await.unwrap();
    assert_eq!(deliveries.recv().await.unwrap().unwrap_err().kind(), ErrorKind::Codec);
    let two = deliveries.recv().await.unwrap().unwrap();
    let failed = two.reject("never").await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
    failed.delivery.ack().await.unwrap();
}
