//! Deliveries and batches of them: who may settle what, once.

use std::collections::HashMap;
use std::time::Duration;

use fabric_core::{
    Delivery, DeliveryBatch, Error, ErrorKind, Fabric, Nack, Result, RetryClass, Subscription,
};
use futures_util::FutureExt as _;
use proptest::prelude::*;

use crate::tiny::{Tiny, chunk, event, ids};

fn cut() -> Result<()> {
    Err(Error::new(ErrorKind::Connect, "the link is cut"))
}

async fn group(tiny: &Tiny) -> (Fabric, Subscription) {
    let fabric = tiny.fabric();
    let deliveries = fabric.subscribe("#").group("g").await.unwrap();
    tiny.log();
    (fabric, deliveries)
}

async fn next(deliveries: &mut Subscription) -> Delivery {
    deliveries.recv().await.unwrap().unwrap()
}

async fn batch(deliveries: &mut Subscription, max: usize) -> DeliveryBatch {
    deliveries.recv_batch(max, Duration::ZERO).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_settlement_that_failed_gives_the_delivery_back_to_try_again() {
    for waits in [false, true] {
        let tiny = Tiny::new();
        tiny.deliver([Ok(chunk(["1", "2"]))]);
        let (fabric, mut deliveries) = group(&tiny).await;
        let (one, two) = (next(&mut deliveries).await, next(&mut deliveries).await);
        if waits {
            tiny.hold_settlements().notify_one();
        }
        tiny.settle_with([cut()]);
        let failed = one.ack().await.unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Connect);
        assert_eq!(failed.to_string(), "ack: the link is cut (topic: a.b, id: 1, group: g)");
        assert!(failed.delivery.is_live());
        if waits {
            tiny.hold_settlements().notify_one();
        }
        failed.delivery.nack(Duration::from_secs(2)).await.unwrap();
        if waits {
            tiny.hold_settlements().notify_one();
        }
        two.ack().await.unwrap();
        assert_eq!(tiny.log(), ["ack (failed) 1", "nack after 2s 1", "ack all 2"]);
        assert_eq!(fabric.stats().dropped_deliveries, 0);
    }
}

#[tokio::test]
async fn nothing_happens_before_a_settlement_is_polled() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1"]))]);
    let (fabric, mut deliveries) = group(&tiny).await;
    drop(next(&mut deliveries).await.ack());
    assert_eq!(tiny.log(), ["dropped 1"]);
    assert_eq!(fabric.stats().dropped_deliveries, 1);
}

#[tokio::test]
async fn a_settlement_that_is_dropped_under_way_is_not_begun_again() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1"]))]);
    let (fabric, mut deliveries) = group(&tiny).await;
    tiny.hold_settlements();
    let mut settling = next(&mut deliveries).await.ack();
    assert!((&mut settling).now_or_never().is_none());
    drop(settling);
    // Whether the broker heard of it is open: the event is neither dropped nor free.
    assert_eq!(tiny.log(), Vec::<String>::new());
    assert_eq!(fabric.stats().dropped_deliveries, 0);
    assert_eq!(tiny.chunk(0).closed(), 1);
}

#[tokio::test]
async fn what_comes_after_the_lease_moved_is_stale_and_never_reaches_the_broker() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1", "2", "3", "4"]))]);
    let (fabric, mut deliveries) = group(&tiny).await;
    let (one, two) = (next(&mut deliveries).await, next(&mut deliveries).await);
    let (three, four) = (next(&mut deliveries).await, next(&mut deliveries).await);
    assert!(one.is_live() && one.lost().now_or_never().is_none());
    one.progress().await.unwrap();
    {
        let mut lost = std::pin::pin!(one.lost());
        assert!(lost.as_mut().now_or_never().is_none());
        assert_eq!(tiny.chunk(0).revoke(0b1111), 0b1111);
        assert!(lost.now_or_never().is_some());
    }
    assert_eq!(tiny.chunk(0).revoke(0b1111), 0);
    assert!(!one.is_live());
    assert_eq!(one.progress().await.unwrap_err().kind(), ErrorKind::StaleAck);
    for settled in [
        one.ack().await.map_err(Error::from),
        two.nack(Nack::now()).await.map_err(Error::from),
        three.reject("never").await.map_err(Error::from),
    ] {
        let error = settled.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::StaleAck, RetryClass::Never));
    }
    drop(four);
    assert_eq!(tiny.log(), ["progress 1"]);
    let stats = fabric.stats();
    assert_eq!((stats.stale_settlements, stats.dropped_deliveries), (3, 0));
}

#[tokio::test]
async fn a_batch_settles_what_it_can_and_gives_back_the_rest() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1", "2", "3"]))]);
    let (fabric, mut deliveries) = group(&tiny).await;
    let three = batch(&mut deliveries, 3).await;
    tiny.chunk(0).revoke(0b010);
    let failed = three.ack().await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::StaleAck);
    assert_eq!(failed.error.context("group"), Some("g"));
    assert_eq!((ids(failed.delivery.iter()), failed.delivery.len()), (vec!["2".to_owned()], 1));
    drop(failed);
    assert_eq!(tiny.log(), ["ack all 1,3"]);
    let stats = fabric.stats();
    assert_eq!((stats.stale_settlements, stats.dropped_deliveries), (1, 0));
}

#[tokio::test]
async fn a_batch_over_several_chunks_fails_for_the_chunk_that_failed() {
    for waits in [false, true] {
        let tiny = Tiny::new();
        tiny.deliver([Ok(chunk(["1", "2"])), Ok(chunk(["3"])), Ok(chunk(["4", "5"]))]);
        let (_fabric, mut deliveries) = group(&tiny).await;
        let all = batch(&mut deliveries, 4).await;
        assert_eq!(ids(all.iter()), ["1", "2", "3", "4"]);
        if waits {
            let held = tiny.hold_settlements();
            tokio::spawn(async move {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                    held.notify_one();
                }
            });
        }
        tiny.settle_with([Ok(()), cut(), Ok(())]);
        let failed = all.nack(Nack::after(Duration::from_secs(1))).await.unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::Connect);
        assert_eq!(ids(failed.delivery.iter()), ["3"]);
        let mut log = tiny.log();
        log.sort();
        assert_eq!(log, ["nack after 1s (failed) 3", "nack after 1s 1,2", "nack after 1s 4"]);
        drop(failed);
        assert_eq!(tiny.log(), ["dropped 3"]);
    }
}

#[tokio::test]
async fn the_settlements_of_a_batch_wait_at_the_same_time() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1"])), Ok(chunk(["2"])), Ok(chunk(["3"]))]);
    let (_fabric, mut deliveries) = group(&tiny).await;
    let held = tiny.hold_settlements();
    let mut settling = batch(&mut deliveries, 3).await.ack();
    assert!((&mut settling).now_or_never().is_none());
    // All three wait for the one answer.
    held.notify_waiters();
    settling.await.unwrap();
    assert_eq!(tiny.log().len(), 3);
}

#[tokio::test]
async fn a_batch_whose_settlement_is_dropped_forgets_nothing() {
    let tiny = Tiny::new().confirming_later();
    tiny.deliver([Ok(chunk(["1", "2"])), Ok(chunk(["3"]))]);
    let (fabric, mut deliveries) = group(&tiny).await;
    let mut settling = batch(&mut deliveries, 3).await.reject("never");
    assert!((&mut settling).now_or_never().is_none());
    tiny.confirm(1);
    assert!((&mut settling).now_or_never().is_none());
    drop(settling);
    // The first is settled; the second's letter may be there; both others come again.
    let log = ["submit dlq.g 1", "ack 1", "submit dlq.g 2", "dropped 2", "dropped 3"];
    assert_eq!(tiny.log(), log);
    assert_eq!(fabric.stats().dropped_deliveries, 2);
}

#[tokio::test]
async fn a_nacked_batch_buries_those_at_their_last_attempt_and_gives_back_the_others() {
    let tiny = Tiny::new();
    let attempts = Box::from([1, 3, 2, 4]);
    tiny.deliver([Ok(chunk(["1", "2", "3", "4"]).with_attempts(attempts))]);
    let fabric = tiny.fabric();
    let mut deliveries = fabric.subscribe("#").group("g").max_deliver(4).await.unwrap();
    tiny.log();
    batch(&mut deliveries, 4).await.nack(Nack::now().because("tired")).await.unwrap();
    assert_eq!(tiny.log(), ["nack 1,2,3", "submit dlq.g 4", "ack all 4"]);
    assert_eq!(tiny.published()[0].dead_letter().unwrap().error, "tired");
}

#[tokio::test]
async fn a_partition_settles_each_side_by_itself() {
    let tiny = Tiny::new();
    tiny.deliver([Ok(chunk(["1", "2"])), Ok(chunk(["3", "4"]))]);
    let (_fabric, mut deliveries) = group(&tiny).await;
    let (odd, even) = batch(&mut deliveries, 4)
        .await
        .partition(|event| event.text().unwrap().parse::<u32>().unwrap() % 2 == 1);
    assert_eq!(
        (ids(odd.iter()), ids(even.iter())),
        (vec!["1".into(), "3".into()], vec!["2".into(), "4".into()])
    );
    odd.ack().await.unwrap();
    drop(even);
    assert_eq!(tiny.log(), ["ack 1", "ack 3", "dropped 2", "dropped 4"]);
}

#[tokio::test]
async fn without_a_group_there_is_nothing_to_settle() {
    let tiny = Tiny::new();
    tiny.deliver(["1", "2", "3"].map(|id| Ok(chunk([id]))));
    let fabric = tiny.fabric();
    let mut deliveries = fabric.subscribe("#").await.unwrap();
    let (one, two) = (next(&mut deliveries).await, next(&mut deliveries).await);
    assert_eq!(one.progress().await.unwrap_err().kind(), ErrorKind::Unsupported);
    one.ack().await.unwrap();
    let failed = two.nack(Nack::now()).await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        failed.delivery.reject("no").await.unwrap_err().error.kind(),
        ErrorKind::Unsupported
    );
    drop(next(&mut deliveries).await);
    assert_eq!(tiny.log(), ["subscribe #"]);
    assert_eq!(fabric.stats().dropped_deliveries, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Take(usize),
    Ack(usize),
    Nack(usize),
    Reject(usize),
    Drop(usize),
    Revoke(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..9_usize).prop_map(Step::Take),
        (0..4_usize).prop_map(Step::Ack),
        (0..4_usize).prop_map(Step::Nack),
        (0..4_usize).prop_map(Step::Reject),
        (0..4_usize).prop_map(Step::Drop),
        any::<u64>().prop_map(Step::Revoke),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is tried, fails, is tried again and dropped: each event is settled at most once,
    /// never after it was revoked, and what was not settled is dropped exactly once.
    #[test]
    fn each_delivery_is_settled_or_dropped_once(
        sizes in prop::collection::vec(1..7_usize, 1..6),
        steps in steps(),
        failures in prop::collection::vec(any::<bool>(), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let tiny = Tiny::new();
            let mut id = 0;
            let mut total = HashMap::new();
            tiny.deliver(sizes.iter().map(|size| {
                let events = (0..*size).map(|_| { id += 1; event(&id.to_string()) }).collect();
                for n in 0..*size {
                    total.insert((id - size + n + 1).to_string(), 0);
                }
                Ok(fabric_core::Chunk::new(std::sync::Arc::new(events), 0, *size, fabric_core::Timestamp::now()))
            }));
            let tiny = tiny.ending();
            let (fabric, mut deliveries) = group(&tiny).await;
            tiny.settle_with(failures.into_iter().map(|fails| if fails { cut() } else { Ok(()) }));
            let mut held: Vec<DeliveryBatch> = Vec::new();
            let mut revoked = std::collections::HashSet::new();
            let mut chunks = 0;
            for step in steps {
                let slot = |n: usize| (!held.is_empty()).then(|| n % held.len());
                let (at, step) = match step {
                    Step::Take(max) => {
                        if let Some(Ok(batch)) = deliveries.recv_batch(max, Duration::ZERO).await {
                            held.push(batch);
                        }
                        continue;
                    }
                    Step::Revoke(mask) => {
                        chunks = sizes.len().min(chunks + 1);
                        for n in 0..chunks {
                            if let Some(chunk) = tiny.try_chunk(n) {
                                let bits = chunk.revoke(mask & chunk.full_mask());
                                let events = chunk.events().iter().enumerate();
                                let lost = events.filter(|(n, _)| bits & 1 << n != 0);
                                revoked.extend(lost.map(|(_, event)| event.id().to_string()));
                            }
                        }
                        continue;
                    }
                    Step::Ack(n) | Step::Nack(n) | Step::Reject(n) | Step::Drop(n) => (slot(n), step),
                };
                let Some(at) = at else { continue };
                let batch = held.swap_remove(at);
                let failed = match step {
                    Step::Ack(_) => batch.ack().await.err(),
                    Step::Nack(_) => batch.nack(Nack::now()).await.err(),
                    Step::Reject(_) => batch.reject("no").await.err(),
                    _ => None,
                };
                if let Some(failed) = failed {
                    assert!(!failed.delivery.is_empty() && failed.delivery.len() == failed.delivery.iter().count());
                    held.push(failed.delivery);
                }
            }
            drop(held);
            drop(deliveries);
            let (mut settled, mut dropped) = (total.clone(), total);
            for line in tiny.log() {
                let (what, list) = line.rsplit_once(' ').unwrap();
                if what.starts_with("submit") {
                    continue;
                }
                for id in list.split(',') {
                    if what == "dropped" {
                        *dropped.get_mut(id).unwrap() += 1;
                    } else if !what.ends_with("(failed)") {
                        assert!(!revoked.contains(id), "{id} was settled after it was revoked");
                        *settled.get_mut(id).unwrap() += 1;
                    }
                }
            }
            let mut count = 0;
            for (id, settled) in settled {
                let dropped = dropped[&id];
                count += dropped;
                // What was never taken is neither.
                assert!(settled + dropped <= 1, "{id}: settled {settled} times, dropped {dropped}");
                assert!(settled == 0 || !revoked.contains(&id));
            }
            assert_eq!(fabric.stats().dropped_deliveries, count);
        });
    }
}
