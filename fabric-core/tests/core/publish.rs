//! Publishing: what a timeout means, in which order results come, how many are under way.

use std::time::Duration;

use fabric_core::{Error, ErrorKind, Event, Receipt, Result, RetryClass, Timestamp};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::Instant;

use crate::tiny::{Tiny, event, ids};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_timeout_before_there_is_room_says_that_nothing_was_accepted() {
    let tiny = Tiny::new().with_room(0);
    let began = Instant::now();
    let error = tiny.fabric().publish(event("1")).timeout(SECOND).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Full, RetryClass::Safe));
    assert_eq!((error.operation(), error.backend()), (Some("publish"), Some("tiny")));
    assert_eq!(began.elapsed(), SECOND);
    assert!(tiny.published().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_before_the_answer_says_that_nobody_knows() {
    for tiny in [Tiny::new().confirming_later(), Tiny::new().confirming_later().slow()] {
        let began = Instant::now();
        let error = tiny.fabric().publish(event("1")).timeout(SECOND).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, RetryClass::Ambiguous));
        assert_eq!(began.elapsed(), SECOND);
        assert_eq!(ids(&tiny.published()), ["1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_timeout_covers_the_wait_for_room_and_for_the_answer() {
    let tiny = Tiny::new().with_room(0).confirming_later();
    let room = tiny.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SECOND).await;
        room.make_room(1);
    });
    let began = Instant::now();
    let error = tiny.fabric().publish(event("1")).timeout(SECOND * 3).await.unwrap_err();
    assert_eq!((error.retry(), began.elapsed()), (RetryClass::Ambiguous, SECOND * 3));
}

#[tokio::test(start_paused = true)]
async fn the_longest_timeout_is_no_timeout() {
    for tiny in [Tiny::new(), Tiny::new().slow(), Tiny::new().confirming_later()] {
        let publish = tiny.fabric().publish(event("1")).timeout(Duration::MAX);
        let confirm = tiny.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SECOND * 86_400).await;
            confirm.confirm(1);
        });
        publish.await.unwrap();
    }
}

#[tokio::test]
async fn an_event_of_which_the_backend_says_nothing_may_have_been_accepted() {
    let tiny = Tiny::new().forgetful();
    let fabric = tiny.fabric();
    let error = fabric.publish(event("1")).await.unwrap_err();
    assert_eq!(error.retry(), RetryClass::Ambiguous);
    let error = fabric.submit(event("2")).await.unwrap().await.unwrap_err();
    assert_eq!(error.retry(), RetryClass::Ambiguous);
}

#[tokio::test]
async fn nothing_is_sent_before_the_first_poll() {
    let tiny = Tiny::new();
    drop(tiny.fabric().publish(event("1")));
    drop(tiny.fabric().submit(event("2")));
    drop(tiny.fabric().publish_all(stream::iter([event("3")])));
    assert!(tiny.log().is_empty());
}

#[tokio::test]
async fn dropping_a_confirm_abandons_the_answer_and_not_the_event() {
    let tiny = Tiny::new().confirming_later();
    let fabric = tiny.fabric();
    drop(fabric.submit(event("1")).await.unwrap());
    drop(fabric.submit(event("2")).await.unwrap());
    assert_eq!(ids(&tiny.published()), ["1", "2"]);
}

#[tokio::test]
async fn an_event_is_stamped_when_it_is_published() {
    let tiny = Tiny::new();
    let fabric = tiny.fabric().with_source("shop").unwrap();
    fabric.publish(Event::to("a.b").text("x")).await.unwrap();
    let time: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
    fabric.publish(Event::to("a.b").id("7").source("me").time(time).text("x")).await.unwrap();
    let published = tiny.published();
    assert!(published[0].id().as_uuid().is_some() && published[0].source() == "shop");
    assert_eq!((published[1].source(), published[1].time()), ("me", time));
}

#[tokio::test]
async fn results_come_in_the_order_of_the_input_whatever_became_of_each() {
    let tiny = Tiny::new().answering(|event| match event.id().to_string().parse::<u32>() {
        Ok(n) if n % 3 == 0 => Err(Error::new(ErrorKind::Full, format!("no room for {n}"))),
        _ => Ok(Receipt::ACCEPTED),
    });
    for tiny in [tiny.clone(), tiny.slow()] {
        let events = stream::iter((0..40).map(|n| match n % 10 {
            7 => Err(Error::new(ErrorKind::Codec, format!("{n} is no event"))),
            8 => Event::to("dlq.g").id(n.to_string()).build(),
            _ => Ok(event(&n.to_string())),
        }));
        let results: Vec<Result<Receipt>> = tiny.fabric().publish_all(events).collect().await;
        assert_eq!(results.len(), 40);
        for (n, result) in results.into_iter().enumerate() {
            let kind = result.err().map(|error| error.kind());
            let expected = match n {
                n if n % 10 == 7 => Some(ErrorKind::Codec),
                n if n % 10 == 8 => Some(ErrorKind::InvalidTopic),
                n if n % 3 == 0 => Some(ErrorKind::Full),
                _ => None,
            };
            assert_eq!(kind, expected, "{n}");
        }
    }
}

#[tokio::test]
async fn no_more_than_the_bound_are_under_way() {
    for slow in [false, true] {
        let tiny = Tiny::new().confirming_later();
        let tiny = if slow { tiny.slow() } else { tiny };
        let events = stream::iter((0..9).map(|n| event(&n.to_string())));
        let mut results = tiny.fabric().publish_all(events).in_flight(3);
        for step in 0..7 {
            assert!(results.next().now_or_never().is_none());
            assert_eq!(tiny.published().len(), step + 3);
            tiny.confirm(1);
            results.next().await.unwrap().unwrap();
        }
        tiny.confirm(2);
        assert_eq!(results.collect::<Vec<_>>().await.len(), 2);
        let expected: Vec<_> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(ids(&tiny.published()), expected);
    }
}

#[tokio::test]
async fn a_stream_that_waits_is_read_again_when_it_goes_on() {
    let tiny = Tiny::new();
    let (sender, mut events) = tokio::sync::mpsc::channel(1);
    let events = stream::poll_fn(move |cx| events.poll_recv(cx));
    let mut results = tiny.fabric().publish_all(events);
    tokio::spawn(async move {
        for n in 0..5 {
            tokio::task::yield_now().await;
            sender.send(event(&n.to_string())).await.unwrap();
        }
    });
    let mut count = 0;
    while let Some(result) = results.next().await {
        result.unwrap();
        count += 1;
    }
    assert_eq!(count, 5);
}

#[tokio::test]
async fn a_flush_waits_for_what_was_submitted_and_a_closed_fabric_says_so() {
    let tiny = Tiny::new();
    let fabric = tiny.fabric();
    fabric.publish(event("1")).await.unwrap();
    fabric.flush().await.unwrap();
    fabric.close(SECOND).await.unwrap();
    assert_eq!(tiny.log(), ["submit a.b 1", "flush", "close"]);
    let error = fabric.publish(event("2")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Closed, RetryClass::Never));
}
