//! Receiving one by one and in batches: what lingers, what goes wrong in between, what is dropped.

use std::time::Duration;

use fabric_core::{Chunk, Error, ErrorKind, Event, Fabric, Subscription, Timestamp};
use futures_util::{FutureExt as _, StreamExt as _};
use proptest::prelude::*;
use tokio::time::Instant;

use crate::tiny::{Tiny, chunk, event, ids};

const SECOND: Duration = Duration::from_secs(1);

async fn plain(tiny: &Tiny) -> (Fabric, Subscription) {
    let fabric = tiny.fabric();
    let deliveries = fabric.subscribe("#").await.unwrap();
    (fabric, deliveries)
}

async fn batch(deliveries: &mut Subscription, max: usize, linger: Duration) -> Vec<String> {
    let batch = deliveries.recv_batch(max, linger).await.unwrap().unwrap();
    assert_eq!(batch.len(), batch.iter().count());
    ids(batch.iter())
}

/// Delivers one event a second from now on.
fn one_a_second(tiny: &Tiny, count: u32) {
    let tiny = tiny.clone();
    tokio::spawn(async move {
        for n in 1..=count {
            tokio::time::sleep(SECOND).await;
            tiny.deliver([Ok(chunk([n.to_string().as_str()]))]);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_full_does_not_wait() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1", "2", "3"]))]);
    let (_fabric, mut deliveries) = plain(&tiny).await;
    let began = Instant::now();
    assert_eq!(batch(&mut deliveries, 2, Duration::MAX).await, ["1", "2"]);
    assert_eq!(batch(&mut deliveries, 2, Duration::ZERO).await, ["3"]);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_batch_lingers_from_its_first_event_on() {
    let tiny = Tiny::new();
    let (_fabric, mut deliveries) = plain(&tiny).await;
    one_a_second(&tiny, 9);
    let began = Instant::now();
    let some = batch(&mut deliveries, 9, SECOND * 2 + SECOND / 2).await;
    assert_eq!((some, began.elapsed()), (vec!["1".into(), "2".into(), "3".into()], SECOND * 7 / 2));
    // The next one begins to linger anew.
    let some = batch(&mut deliveries, 9, SECOND / 2).await;
    assert_eq!((some, began.elapsed()), (vec!["4".into()], SECOND * 9 / 2));
    // One that is full before that does not.
    let some = batch(&mut deliveries, 2, Duration::MAX).await;
    assert_eq!((some, began.elapsed()), (vec!["5".into(), "6".into()], SECOND * 6));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_what_it_gathered_to_the_next() {
    let tiny = Tiny::new();
    let (_fabric, mut deliveries) = plain(&tiny).await;
    one_a_second(&tiny, 9);
    let began = Instant::now();
    let long = deliveries.recv_batch(9, SECOND * 3600);
    assert!(tokio::time::timeout(SECOND * 5 / 2, long).await.is_err());
    // The next call wants less patience, counted from the first event.
    let some = batch(&mut deliveries, 9, SECOND * 9 / 4).await;
    let expected = vec!["1".into(), "2".into(), "3".into()];
    assert_eq!((some, began.elapsed()), (expected, SECOND * 13 / 4));

    let long = deliveries.recv_batch(9, SECOND * 3600);
    assert!(tokio::time::timeout(SECOND * 2, long).await.is_err());
    assert_eq!(deliveries.recv().await.unwrap().unwrap().id(), &"4");
    assert_eq!(deliveries.recv().await.unwrap().unwrap().id(), &"5");
    assert_eq!(began.elapsed(), SECOND * 21 / 4);
    // Nothing of the dropped call is left: this one lingers from its own first event on.
    let some = batch(&mut deliveries, 9, SECOND * 3 / 2).await;
    assert_eq!((some, began.elapsed()), (vec!["6".into(), "7".into()], SECOND * 15 / 2));

    // What was gathered for a large batch fits a small one.
    let long = deliveries.recv_batch(9, SECOND * 3600);
    assert!(tokio::time::timeout(SECOND * 2, long).await.is_err());
    assert_eq!(batch(&mut deliveries, 1, SECOND).await, ["8"]);
    assert_eq!(deliveries.next().await.unwrap().unwrap().id(), &"9");
}

#[tokio::test]
async fn an_error_comes_after_what_came_before_it() {
    let tiny = Tiny::new().ending();
    tiny.deliver([
        Ok(chunk(["1", "2"])),
        Err(Error::lagged(7)),
        Ok(chunk(["3"])),
        Err(Error::new(ErrorKind::Closed, "the group was deleted")),
        Ok(chunk(["4"])),
    ]);
    let (fabric, mut deliveries) = plain(&tiny).await;
    assert_eq!(batch(&mut deliveries, 9, SECOND).await, ["1", "2"]);
    let error = deliveries.recv_batch(9, SECOND).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.missed()), (ErrorKind::Lagged, Some(7)));
    assert_eq!(fabric.stats().missed, 7);
    assert_eq!(batch(&mut deliveries, 9, SECOND).await, ["3"]);
    // The error that ends the stream is not lost with it.
    let error = deliveries.recv_batch(9, SECOND).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(deliveries.recv_batch(9, SECOND).await.is_none());
    assert!(deliveries.recv().await.is_none());
    assert_eq!(fabric.subscriptions().len(), 0);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_keeps_its_place() {
    let tiny = Tiny::new();
    let fault = || Error::new(ErrorKind::Codec, "this is no event");
    let fabric = tiny.fabric();
    let faulty = chunk(["1", "2", "3", "4"]).with_fault(1, fault()).with_fault(3, fault());
    let mut deliveries = Subscription::from_source(One(Some(faulty)));
    assert_eq!(batch(&mut deliveries, 9, SECOND).await, ["1"]);
    assert_eq!(deliveries.recv().await.unwrap().unwrap_err().kind(), ErrorKind::Codec);
    assert_eq!(batch(&mut deliveries, 9, SECOND).await, ["3"]);
    let error = deliveries.recv_batch(9, SECOND).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(deliveries.recv_batch(9, SECOND).await.is_none());
    drop(fabric);
}

/// A source of one chunk.
struct One(Option<Chunk>);

impl fabric_core::Source for One {
    fn poll_chunk(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<fabric_core::Result<std::sync::Arc<Chunk>>>> {
        std::task::Poll::Ready(self.0.take().map(|chunk| Ok(chunk.into())))
    }

    fn poll_close(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<fabric_core::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_expired_while_it_waited_is_not_handed_out() {
    let tiny = Tiny::new();
    let short = Event::to("a.b").id("2").ttl(SECOND).text("").build().unwrap();
    let events = std::sync::Arc::new(vec![event("1"), short, event("3")]);
    tiny.deliver([Ok(Chunk::new(events, 0, 3, Timestamp::now()))]);
    let fabric = tiny.fabric();
    let mut deliveries = fabric.subscribe("#").group("g").await.unwrap();
    assert_eq!(deliveries.recv().await.unwrap().unwrap().id(), &"1");
    tokio::time::advance(SECOND).await;
    assert_eq!(deliveries.recv().await.unwrap().unwrap().id(), &"3");
    // It is over for the group, too.
    assert!(tiny.log().contains(&"ack 2".to_owned()));
}

#[tokio::test]
async fn leaving_gives_back_what_was_gathered_and_not_returned() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1", "2"]).with_attempt(9))]);
    let fabric = tiny.fabric();
    let mut deliveries = fabric.subscribe("#").group("g").max_deliver(9).await.unwrap();
    assert!(deliveries.recv_batch(3, SECOND).now_or_never().is_none());
    tiny.log();
    deliveries.close().await.unwrap();
    // At its last attempt, too: nobody tried it.
    assert_eq!(tiny.log(), ["nack 1,2", "leave"]);
    assert_eq!(fabric.stats().dropped_deliveries, 0);
    assert_eq!(fabric.subscriptions().len(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(usize),
    Fail,
    Batch { max: usize, polls: usize },
    One { polls: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..5_usize).prop_map(Step::Deliver),
        1 => Just(Step::Fail),
        4 => (1..6_usize, 0..3_usize).prop_map(|(max, polls)| Step::Batch { max, polls }),
        2 => (0..3_usize).prop_map(|polls| Step::One { polls }),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Calls are dropped after any number of polls: every event and every error still comes out
    /// exactly once, in order.
    #[test]
    fn dropping_a_call_loses_nothing_and_changes_no_order(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let tiny = Tiny::new();
            let (_fabric, mut deliveries) = plain(&tiny).await;
            let (mut sent, mut got) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Deliver(count) => {
                        let events: Vec<_> = (0..count)
                            .map(|n| event(&(sent.len() + n).to_string()))
                            .collect();
                        sent.extend(ids(&events));
                        let chunk = Chunk::new(events.into(), 0, count, Timestamp::now());
                        tiny.deliver([Ok(chunk)]);
                    }
                    Step::Fail => {
                        sent.push(format!("lagged {}", sent.len()));
                        tiny.deliver([Err(Error::lagged(sent.len() as u64 - 1))]);
                    }
                    Step::Batch { max, polls } => {
                        let mut call = Box::pin(deliveries.recv_batch(max, SECOND));
                        for _ in 0..polls {
                            if let Some(batch) = call.as_mut().now_or_never() {
                                match batch.unwrap() {
                                    Ok(batch) => {
                                        assert!((1..=max).contains(&batch.len()));
                                        got.extend(ids(batch.iter()));
                                    }
                                    Err(error) => got.push(format!("lagged {}", error.missed().unwrap())),
                                }
                                break;
                            }
                        }
                    }
                    Step::One { polls } => {
                        let mut call = Box::pin(deliveries.recv());
                        for _ in 0..polls {
                            if let Some(one) = call.as_mut().now_or_never() {
                                match one.unwrap() {
                                    Ok(one) => got.push(one.id().to_string()),
                                    Err(error) => got.push(format!("lagged {}", error.missed().unwrap())),
                                }
                                break;
                            }
                        }
                    }
                }
            }
            let tiny = tiny.ending();
            tiny.deliver([]);
            while let Some(batch) = deliveries.recv_batch(3, SECOND).await {
                match batch {
                    Ok(batch) => got.extend(ids(batch.iter())),
                    Err(error) => got.push(format!("lagged {}", error.missed().unwrap())),
                }
            }
            assert_eq!(got, sent);
        });
    }
}
