//! What is particular to memory: bounds, instances, leases on virtual time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use fabric_core::{ErrorKind, Event, Fabric, Nack, Start, WhenFull};
use fabric_memory::{Memory, MemoryConfig};

fn fabric(config: MemoryConfig) -> Fabric {
    Fabric::new(Memory::new(config).unwrap())
}

fn event(n: usize) -> Event {
    Event::to("a.b").id(n.to_string()).text(n.to_string()).build().unwrap()
}

async fn next_id(subscription: &mut fabric_core::Subscription) -> String {
    let delivery = subscription.recv().await.unwrap().unwrap();
    let id = delivery.id().to_string();
    delivery.ack().await.unwrap();
    id
}

#[tokio::test(start_paused = true)]
async fn a_group_gets_every_event_once_and_in_order() {
    let fabric = fabric(MemoryConfig::new());
    let mut group = fabric.subscribe("a.*").group("g").await.unwrap();
    for n in 0..500 {
        fabric.publish(event(n)).await.unwrap();
    }
    for n in 0..500 {
        assert_eq!(next_id(&mut group).await, n.to_string());
    }
    let info = fabric.groups().unwrap().info("g").await.unwrap();
    assert_eq!((info.undelivered(), info.pending()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_exactly_when_it_should() {
    let fabric = fabric(MemoryConfig::new());
    let wait = Duration::from_secs(3);
    let mut group = fabric.subscribe("a.b").group("g").ack_wait(wait).await.unwrap();
    fabric.publish(event(1)).await.unwrap();
    let began = tokio::time::Instant::now();
    let first = group.recv().await.unwrap().unwrap();
    let second = group.recv().await.unwrap().unwrap();
    assert_eq!(began.elapsed(), wait);
    assert_eq!((first.attempt(), second.attempt()), (1, 2));
    assert!(!first.is_live() && second.is_live());
    let refused = first.ack().await.unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::StaleAck);
    second.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delayed_nack_comes_back_on_time_and_others_flow() {
    let fabric = fabric(MemoryConfig::new());
    let mut group = fabric.subscribe("a.b").group("g").await.unwrap();
    for n in 0..3 {
        fabric.publish(event(n)).await.unwrap();
    }
    let began = tokio::time::Instant::now();
    let first = group.recv().await.unwrap().unwrap();
    first.nack(Nack::after(Duration::from_millis(1500))).await.unwrap();
    assert_eq!(next_id(&mut group).await, "1");
    assert_eq!(next_id(&mut group).await, "2");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(next_id(&mut group).await, "0");
    assert_eq!(began.elapsed(), Duration::from_millis(1500));
}

#[tokio::test(start_paused = true)]
async fn waits_without_end_do_not_overflow() {
    let fabric = fabric(MemoryConfig::new().with_full_wait(Duration::MAX));
    let mut group = fabric.subscribe("a.b").group("g").ack_wait(Duration::MAX).await.unwrap();
    for n in 0..3 {
        fabric.publish(event(n)).await.unwrap();
    }
    let first = group.recv().await.unwrap().unwrap();
    first.nack(Nack::after(Duration::MAX)).await.unwrap();
    let second = group.recv().await.unwrap().unwrap();
    second.progress().await.unwrap();
    tokio::time::advance(Duration::from_secs(86_400)).await;
    second.ack().await.unwrap();
    assert_eq!(next_id(&mut group).await, "2");
    let info = fabric.groups().unwrap().info("g").await.unwrap();
    assert_eq!((info.undelivered(), info.pending()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_nack_is_not_lost_where_it_is_the_first_to_see_that_the_lease_is_over() {
    let fabric = fabric(MemoryConfig::new());
    let wait = Duration::from_secs(3);
    let mut group = fabric.subscribe("a.b").group("g").ack_wait(wait).await.unwrap();
    fabric.publish(event(1)).await.unwrap();
    let first = group.recv().await.unwrap().unwrap();
    tokio::time::advance(2 * wait).await;
    first.nack(Nack::now()).await.unwrap();
    let again = group.recv().await.unwrap().unwrap();
    assert_eq!((again.id().to_string(), again.attempt()), ("1".to_owned(), 2));
    again.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_topic_makes_its_publisher_wait_and_names_the_group() {
    let config = MemoryConfig::new().with_max_events(10).with_full_wait(Duration::from_secs(1));
    let fabric = fabric(config);
    let mut group = fabric.subscribe("a.b").group("slow").await.unwrap();
    for n in 0..10 {
        fabric.publish(event(n)).await.unwrap();
    }
    let error = fabric.publish(event(10)).await.unwrap_err();
    assert_eq!((error.kind(), error.context("group")), (ErrorKind::Full, Some("slow")));
    let waiting = tokio::spawn(fabric.publish(event(11)));
    tokio::task::yield_now().await;
    assert_eq!(next_id(&mut group).await, "0");
    waiting.await.unwrap().unwrap();
    let mut rest = Vec::new();
    for _ in 0..10 {
        rest.push(next_id(&mut group).await);
    }
    assert_eq!(rest.last().unwrap(), "11");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_oldest_is_counted_exactly() {
    let fabric = fabric(MemoryConfig::new().with_max_events(10));
    let options = |name: &str| fabric.subscribe("a.b").group(name).when_full(WhenFull::DropOldest);
    let mut group = options("g").await.unwrap();
    let mut plain = fabric.subscribe("a.b").await.unwrap();
    for n in 0..25 {
        fabric.publish(event(n)).await.unwrap();
    }
    for subscription in [&mut group, &mut plain] {
        let error = subscription.recv().await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.missed()), (ErrorKind::Lagged, Some(15)));
        assert_eq!(next_id(subscription).await, "15");
    }
}

#[tokio::test]
async fn instances_of_one_name_meet_and_refuse_other_options() {
    let config = MemoryConfig::new().with_name("meeting-place").with_max_events(7);
    let one = fabric(config.clone());
    let two = fabric(MemoryConfig::new().with_name("meeting-place"));
    let mut subscription = two.subscribe("a.b").await.unwrap();
    one.publish(event(1)).await.unwrap();
    assert_eq!(next_id(&mut subscription).await, "1");
    let error = Memory::new(config.with_max_events(8)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn closing_gives_back_what_was_not_handed_out_and_waits_for_what_was() {
    let memory = Memory::new(MemoryConfig::new()).unwrap();
    let (one, two) = (Fabric::new(memory.clone()), Fabric::new(memory.another()));
    let mut first = one.subscribe("a.b").group("g").await.unwrap();
    for n in 0..5 {
        one.publish(event(n)).await.unwrap();
    }
    let held = first.recv().await.unwrap().unwrap();
    let closing = tokio::spawn(async move { one.close(Duration::from_secs(9)).await });
    let mut second = two.subscribe("a.b").group("g").await.unwrap();
    for n in 1..5 {
        assert_eq!(next_id(&mut second).await, n.to_string());
    }
    held.ack().await.unwrap();
    closing.await.unwrap().unwrap();
    assert!(first.recv().await.is_none());
    let info = two.groups().unwrap().info("g").await.unwrap();
    assert_eq!((info.undelivered(), info.pending()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_event_is_a_dead_letter_with_its_envelope_untouched() {
    let fabric = fabric(MemoryConfig::new());
    let mut group = fabric.subscribe("a.b").group("g").max_deliver(2).await.unwrap();
    for n in 0..2 {
        fabric.publish(event(n)).await.unwrap();
    }
    group.recv().await.unwrap().unwrap().reject("no magnitude").await.unwrap();
    for _ in 0..2 {
        let delivery = group.recv().await.unwrap().unwrap();
        delivery.nack(Nack::now().because("broken arm")).await.unwrap();
    }
    let mut letters = fabric.replay("dlq.g").start_at(Start::All).await.unwrap();
    let first = letters.recv().await.unwrap().unwrap();
    let letter = first.dead_letter().unwrap();
    assert_eq!((letter.reason.as_str(), letter.error.as_str()), ("rejected", "no magnitude"));
    assert_eq!((first.id().to_string().as_str(), letter.topic.as_str()), ("0", "a.b"));
    let second = letters.recv().await.unwrap().unwrap();
    let letter = second.dead_letter().unwrap();
    assert_eq!((letter.reason.as_str(), letter.attempts), ("max_deliver", 2));
    assert_eq!(letter.error, "broken arm");
    assert!(letters.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_full_topic_of_dead_letters_says_how_to_make_room() {
    let fabric = fabric(MemoryConfig::new().with_max_events(8));
    let mut group = fabric.subscribe("a.b").group("g").await.unwrap();
    let mut last = None;
    for n in 0..9 {
        fabric.publish(event(n)).await.unwrap();
        let delivery = group.recv().await.unwrap().unwrap();
        last = delivery.reject("no good").await.err();
    }
    let error = last.expect("the ninth finds no room").error;
    assert_eq!(error.kind(), ErrorKind::Full);
    let text = error.to_string();
    for part in ["`dlq.g`", "dead letters", "purge", "redrive"] {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
    assert_eq!(fabric.dead_letters("g").purge().await.unwrap(), 8);
    let again = group.recv().await.unwrap().unwrap();
    again.reject("no good").await.unwrap();
}
