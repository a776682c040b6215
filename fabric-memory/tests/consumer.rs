//! Consumers on memory, on virtual time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

#[allow(dead_code, reason = "the suite uses the rest")]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fabric_core::layers::Metrics;
use fabric_core::{
    Ability, Consumer, ConsumerEvent, ConsumerState, Context, ErrorKind, Event, Fabric, Gather,
    HandlerError, HandlerResult, KillSwitch, MemoryDedup, Result, Retry, Topic, Typed, TypedEvent,
    Unmatched, Verdict,
};
use fabric_memory::{Memory, MemoryConfig};
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn fabric() -> Fabric {
    Fabric::new(Memory::new(MemoryConfig::new()).unwrap())
}

fn event(n: usize) -> fabric_core::EventBuilder {
    Event::to("work.item").id(n.to_string()).text(n.to_string())
}

/// What handlers saw, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    #[expect(clippy::needless_pass_by_value, reason = "lines are written where they are made")]
    fn add(&self, line: impl ToString) {
        self.0.lock().unwrap().push(line.to_string());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

async fn settled(fabric: &Fabric, group: &str) {
    loop {
        let info = fabric.groups().unwrap().info(group).await.unwrap();
        if info.undelivered() + info.pending() == 0 {
            return;
        }
        sleep(MILLI).await;
    }
}

async fn letters(fabric: &Fabric, group: &str) -> Vec<Event> {
    fabric.dead_letters(group).list(1000).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_succeeds_settles_its_event() {
    let fabric = fabric();
    let log = Log::default();
    let consumer = fabric
        .consumer("g")
        .state(log.clone())
        .on_pattern("work.*", async |event: Event, cx: Context<Log>| {
            cx.state().add(event.id());
            Ok(())
        })
        .start()
        .await
        .unwrap();
    for n in 0..100 {
        fabric.publish(event(n)).await.unwrap();
    }
    settled(&fabric, "g").await;
    assert_eq!(log.lines(), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(consumer.status().handled, 100);
    consumer.drain().await.unwrap();
}

/// Workers use contexts again: one that a handler kept stays that of its own event.
#[tokio::test(start_paused = true)]
async fn a_context_that_is_kept_stays_that_of_its_event() {
    type Kept = Arc<Mutex<Vec<(Event, Context<Contexts>)>>>;
    #[derive(Clone, Default)]
    struct Contexts(Kept);

    let fabric = fabric();
    let kept = Contexts::default();
    let consumer = fabric
        .consumer("g")
        .state(kept.clone())
        .on_pattern("work.*", async |event: Event, cx: Context<Contexts>| {
            // Every third is kept, some of them from a second try.
            let number: usize = event.id().to_string().parse().unwrap();
            if number % 6 == 3 && cx.attempt() == 1 {
                return Err(HandlerError::transient("once more"));
            }
            if number.is_multiple_of(3) {
                cx.state().0.lock().unwrap().push((event, cx.clone()));
            }
            Ok(())
        })
        .retry(Retry::fixed(MILLI).max_attempts(2))
        .start()
        .await
        .unwrap();
    for n in 0..100 {
        fabric.publish(event(n)).await.unwrap();
    }
    settled(&fabric, "g").await;
    let kept = std::mem::take(&mut *kept.0.lock().unwrap());
    assert_eq!(kept.len(), 34);
    for (event, cx) in kept {
        let number: u64 = event.id().to_string().parse().unwrap();
        let tries = if number % 6 == 3 { 2 } else { 1 };
        let position = cx.position().unwrap();
        assert_eq!((position.offset, cx.attempt()), (u128::from(number), tries));
        // Its event is settled: there is no lease to extend.
        assert_eq!(cx.progress().await.unwrap_err().kind(), ErrorKind::StaleAck);
    }
    consumer.drain().await.unwrap();
}

/// A handler that never waits counts as running while it runs, and is counted when it is done.
#[tokio::test(start_paused = true)]
async fn a_handler_that_is_done_at_once_is_counted_as_others_are() {
    let fabric = fabric();
    let own: Arc<std::sync::OnceLock<Consumer>> = Arc::default();
    let log = Log::default();
    let (seen, noted) = (Arc::clone(&own), log.clone());
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", async move |_: Event, _: Context| {
            let status = seen.get().unwrap().status();
            noted.add(format!("{} runs, {} done", status.running, status.handled));
            Ok(())
        })
        .start()
        .await
        .unwrap();
    own.set(consumer).unwrap();
    for n in 0..3 {
        fabric.publish(event(n)).await.unwrap();
    }
    settled(&fabric, "g").await;
    assert_eq!(log.lines(), ["1 runs, 0 done", "1 runs, 1 done", "1 runs, 2 done"]);
    let status = own.get().unwrap().status();
    assert_eq!((status.running, status.handled), (0, 3));
}

/// Hangs, panics, errs, succeeds: four calls, each with a fresh deadline.
#[tokio::test(start_paused = true)]
async fn a_try_is_bounded_its_panic_caught_and_made_again() {
    let fabric = fabric();
    let began = Instant::now();
    let log = Log::default();
    let consumer = fabric
        .consumer("g")
        .state(log.clone())
        .on_pattern("work.*", move |_: Event, cx: Context<Log>| async move {
            cx.state().add(format!("{}@{}", cx.attempt(), began.elapsed().as_millis()));
            match cx.attempt() {
                1 => std::future::pending::<HandlerResult>().await,
                2 => panic!("out of ideas"),
                3 => Err(HandlerError::transient("broken arm")),
                _ => Ok(()),
            }
        })
        .timeout(MILLI * 50)
        .retry(Retry::exponential(MILLI * 100).without_jitter())
        .start()
        .await
        .unwrap();
    let mut events = consumer.events();
    assert!(matches!(events.next().await, Some(ConsumerEvent::Started)));
    fabric.publish(event(1)).await.unwrap();
    settled(&fabric, "g").await;
    assert_eq!(log.lines(), ["1@0", "2@150", "3@350", "4@750"]);
    let mut errors = Vec::new();
    while let Some(ConsumerEvent::HandlerFailed { error, .. }) = events.next().await {
        errors.push(error);
        if errors.len() == 3 {
            break;
        }
    }
    assert!(errors[0].contains("50ms") && errors[1].contains("out of ideas"), "{errors:?}");
    assert_eq!(errors[2], "broken arm");
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_event_is_one_dead_letter_and_harms_no_neighbour() {
    let fabric = fabric();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let _consumer = fabric
        .consumer("g")
        .on_pattern("work.*", move |event: Event, _| {
            let counted = Arc::clone(&counted);
            async move {
                if event.id() == "1" {
                    counted.fetch_add(1, Ordering::SeqCst);
                    return Err(HandlerError::transient("it is one"));
                }
                Ok(())
            }
        })
        .retry(Retry::fixed(SECOND * 3).max_attempts(3))
        .start()
        .await
        .unwrap();
    for n in 0..3 {
        fabric.publish(event(n).key("k").header("tenant", "acme")).await.unwrap();
    }
    settled(&fabric, "g").await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let letters = letters(&fabric, "g").await;
    assert_eq!(letters.len(), 1);
    let (event, letter) = (&letters[0], letters[0].dead_letter().unwrap());
    assert_eq!(
        (event.header("tenant"), event.key(), event.text().unwrap().as_ref()),
        (Some("acme"), Some("k"), "1")
    );
    assert_eq!(
        (letter.attempts, letter.reason.as_str(), letter.error.as_str()),
        (3, "max_deliver", "it is one")
    );
    assert_eq!(letter.topic.as_str(), "work.item");
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_not_tried_again() {
    let fabric = fabric();
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", async |_: Event, _| Err::<(), _>(HandlerError::permanent("never")))
        .start()
        .await
        .unwrap();
    fabric.publish(event(1)).await.unwrap();
    settled(&fabric, "g").await;
    assert_eq!((consumer.status().failed, consumer.status().dead_letters), (1, 1));
    assert_eq!(letters(&fabric, "g").await[0].dead_letter().unwrap().reason.as_str(), "rejected");
}

/// A redriven letter reaches the group that failed and no other, and counts how often.
#[tokio::test(start_paused = true)]
async fn redriving_reaches_the_failed_group_alone() {
    let fabric = fabric();
    let log = Log::default();
    let start = |group: &'static str, ok: bool| {
        let log = log.clone();
        fabric
            .consumer(group)
            .on_pattern("work.*", move |event: Event, cx: Context| {
                let log = log.clone();
                async move {
                    log.add(format!("{group} {} {}", event.id(), cx.attempt()));
                    if ok { Ok(()) } else { Err(HandlerError::permanent("no")) }
                }
            })
            .start()
    };
    let failing = start("bad", false).await.unwrap();
    let _other = start("good", true).await.unwrap();
    for n in 0..5 {
        fabric.publish(event(n)).await.unwrap();
    }
    settled(&fabric, "bad").await;
    settled(&fabric, "good").await;
    let dead = fabric.dead_letters("bad");
    assert_eq!(dead.count().await.unwrap(), 5);
    let shown = dead.show("3").await.unwrap().unwrap();
    assert_eq!((shown.id().to_string(), shown.dead_letter().unwrap().attempts), ("3".into(), 1));
    assert!(dead.show("nobody").await.unwrap().is_none());
    assert_eq!(dead.count().await.unwrap(), 5, "a look takes nothing away");
    failing.drain().await.unwrap();
    let before = log.lines().len();
    let repaired = start("bad", true).await.unwrap();
    assert_eq!(dead.redrive().only(|event| event.id() == "3").await.unwrap(), 1);
    settled(&fabric, "bad").await;
    assert_eq!(log.lines()[before..], ["bad 3 1"]);
    assert_eq!(dead.count().await.unwrap(), 4);
    assert_eq!(dead.redrive().limit(3).await.unwrap(), 3);
    settled(&fabric, "bad").await;
    repaired.drain().await.unwrap();
    let _failing = start("bad", false).await.unwrap();
    assert_eq!(dead.redrive().await.unwrap(), 1);
    settled(&fabric, "bad").await;
    let letters = dead.list(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].dead_letter().unwrap().redriven, 1);
    assert_eq!(dead.purge().await.unwrap(), 1);
    assert_eq!(dead.count().await.unwrap(), 0);
}

/// 16 keys, random work, concurrency 8: per key one after the other, keys side by side, also when
/// handlers fail.
#[tokio::test(start_paused = true)]
async fn a_key_keeps_its_order_at_any_concurrency_and_across_retries() {
    let fabric = fabric();
    let seen: Arc<Mutex<BTreeMap<String, Vec<usize>>>> = Arc::default();
    let running: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let most = Arc::new(AtomicUsize::new(0));
    let (log, busy, peak) = (Arc::clone(&seen), Arc::clone(&running), Arc::clone(&most));
    let mut rng = fastrand::Rng::with_seed(7);
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", move |event: Event, cx: Context| {
            let (log, busy, peak) = (Arc::clone(&log), Arc::clone(&busy), Arc::clone(&peak));
            let (work, fails) = (rng.u64(0..20), rng.u8(..) < 60);
            async move {
                let key = event.key().unwrap().to_owned();
                assert!(busy.lock().unwrap().insert(key.clone()), "two of {key} at once");
                peak.fetch_max(busy.lock().unwrap().len(), Ordering::SeqCst);
                sleep(MILLI * work as u32).await;
                busy.lock().unwrap().remove(&key);
                if fails && cx.attempt() < 3 {
                    return Err(HandlerError::transient("again"));
                }
                let n: usize = event.text()?.parse()?;
                log.lock().unwrap().entry(key).or_default().push(n);
                Ok(())
            }
        })
        .concurrency(8)
        .ordered_by_key()
        .retry(Retry::fixed(MILLI * 30).max_attempts(5))
        .start()
        .await
        .unwrap();
    for n in 0..800 {
        fabric.publish(event(n).key((n % 16).to_string())).await.unwrap();
    }
    settled(&fabric, "g").await;
    for (key, numbers) in seen.lock().unwrap().iter() {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
        assert_eq!(numbers.len(), 50);
    }
    let peak = most.load(Ordering::SeqCst);
    assert!((2..=8).contains(&peak), "{peak}");
    assert!(consumer.status().retried > 0);
}

#[tokio::test(start_paused = true)]
async fn outputs_are_confirmed_before_the_input_is_settled() {
    // The outputs' topic is full: their publish fails, and the input is tried again.
    let config = MemoryConfig::new().with_max_events(2).with_full_wait(MILLI * 10);
    let fabric = Fabric::new(Memory::new(config).unwrap());
    let mut out = fabric.subscribe("out.*").group("sink").await.unwrap();
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", async |event: Event, _| {
            let output = |n: u8| Event::to("out.done").id(format!("{}-{n}", event.id()));
            Ok((output(1), Some(vec![output(2), output(3)])))
        })
        .retry(Retry::fixed(MILLI * 100).forever())
        .start()
        .await
        .unwrap();
    fabric.publish(event(1)).await.unwrap();
    sleep(SECOND).await;
    let info = fabric.groups().unwrap().info("g").await.unwrap();
    assert_eq!(info.pending(), 1, "the input is not settled while its third output has no room");
    assert!(consumer.status().failed > 0);
    let mut seen = BTreeSet::new();
    while seen.len() < 3 {
        let delivery = out.recv().await.unwrap().unwrap();
        assert_eq!(delivery.causation_id().unwrap(), &"1");
        seen.insert(delivery.id().to_string());
        delivery.ack().await.unwrap();
    }
    // What is repeated is drained, so that the last try fits.
    while fabric.groups().unwrap().info("g").await.unwrap().pending() > 0 {
        if let Ok(Some(delivery)) = tokio::time::timeout(MILLI, out.recv()).await {
            delivery.unwrap().ack().await.unwrap();
        }
    }
    assert_eq!(consumer.status().handled, 1);
}

async fn slow(fabric: &Fabric, work: Duration, drain: Duration, log: &Log) -> Consumer {
    fabric
        .consumer("g")
        .state(log.clone())
        .on_pattern("work.*", move |event: Event, cx: Context<Log>| async move {
            cx.state().add(format!("start {}", event.id()));
            sleep(work).await;
            cx.state().add(format!("end {} {}", event.id(), cx.draining()));
            Ok(())
        })
        .concurrency(8)
        .drain_within(drain)
        .start()
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn draining_finishes_what_runs_and_leaves_the_rest_to_others() {
    let fabric = fabric();
    let log = Log::default();
    let consumer = slow(&fabric, SECOND, SECOND * 5, &log).await;
    for n in 0..20 {
        fabric.publish(event(n)).await.unwrap();
    }
    sleep(MILLI * 100).await;
    assert_eq!(consumer.status().running, 8);
    let began = Instant::now();
    consumer.drain().await.unwrap();
    assert_eq!(began.elapsed(), MILLI * 900);
    let lines = log.lines();
    assert_eq!(lines.iter().filter(|line| line.ends_with("true")).count(), 8);
    assert_eq!(lines.iter().filter(|line| line.starts_with("start")).count(), 8);
    let info = fabric.groups().unwrap().info("g").await.unwrap();
    assert_eq!((info.undelivered() + info.pending(), info.members), (12, 0));
    let again = Log::default();
    let _next = slow(&fabric, MILLI, SECOND, &again).await;
    settled(&fabric, "g").await;
    assert_eq!(again.lines().iter().filter(|line| line.starts_with("start")).count(), 12);
}

#[tokio::test(start_paused = true)]
async fn a_forced_stop_neither_acks_nor_fails() {
    let fabric = fabric();
    let log = Log::default();
    let consumer = slow(&fabric, SECOND * 60, MILLI * 200, &log).await;
    for n in 0..8 {
        fabric.publish(event(n)).await.unwrap();
    }
    sleep(MILLI * 10).await;
    let mut events = consumer.events();
    let error = consumer.drain().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    while let Some(event) = events.next().await {
        assert!(!matches!(event, ConsumerEvent::HandlerFailed { .. }));
    }
    let again = Log::default();
    let _next = slow(&fabric, MILLI, SECOND, &again).await;
    settled(&fabric, "g").await;
    assert_eq!(again.lines().iter().filter(|line| line.starts_with("start")).count(), 8);
    assert!(letters(&fabric, "g").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn concurrency_changes_while_it_runs_and_holds_no_more_than_its_prefetch() {
    let fabric = fabric();
    let running = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (count, hold) = (Arc::clone(&running), Arc::clone(&gate));
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", move |_: Event, _| {
            let (count, hold) = (Arc::clone(&count), Arc::clone(&hold));
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                hold.acquire().await?.forget();
                count.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .concurrency(4)
        .prefetch(16)
        .start()
        .await
        .unwrap();
    for n in 0..200 {
        fabric.publish(event(n)).await.unwrap();
    }
    sleep(MILLI).await;
    assert_eq!(running.load(Ordering::SeqCst), 4);
    assert!(fabric.groups().unwrap().info("g").await.unwrap().pending() <= 16);
    consumer.set_concurrency(8).unwrap();
    sleep(MILLI).await;
    assert_eq!(running.load(Ordering::SeqCst), 8);
    consumer.set_concurrency(2).unwrap();
    gate.add_permits(8);
    sleep(MILLI).await;
    assert_eq!(running.load(Ordering::SeqCst), 2);
    gate.add_permits(1000);
    settled(&fabric, "g").await;
    assert_eq!(consumer.status().handled, 200);
}

#[tokio::test(start_paused = true)]
async fn a_lease_goes_on_while_a_handler_works_or_waits() {
    let fabric = fabric();
    let log = Log::default();
    let consumer = fabric
        .consumer("g")
        .state(log.clone())
        .on_pattern("work.*", async |event: Event, cx: Context<Log>| {
            cx.state().add(format!("{} {}", event.id(), cx.attempt()));
            sleep(SECOND * 10).await;
            Ok(())
        })
        .ack_wait(SECOND)
        .ordered_by_key()
        .concurrency(2)
        .start()
        .await
        .unwrap();
    for n in 0..4 {
        fabric.publish(event(n).key("same")).await.unwrap();
    }
    settled(&fabric, "g").await;
    assert_eq!(log.lines(), ["0 1", "1 1", "2 1", "3 1"]);
    assert_eq!(consumer.status().lost, 0);
}

#[tokio::test(start_paused = true)]
async fn a_kill_switch_pauses_and_a_probe_closes_it() {
    let fabric = fabric();
    let healthy = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ok = Arc::clone(&healthy);
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", move |_: Event, _| {
            let ok = ok.load(Ordering::SeqCst);
            async move { if ok { Ok(()) } else { Err(HandlerError::transient("down")) } }
        })
        .retry(Retry::fixed(SECOND * 2).forever())
        .kill_switch(KillSwitch::new().after(10).ratio(0.5).pause(SECOND * 30))
        .start()
        .await
        .unwrap();
    let mut events = consumer.events();
    for n in 0..100 {
        fabric.publish(event(n)).await.unwrap();
    }
    sleep(SECOND * 29).await;
    assert_eq!(consumer.status().failed, 10, "nothing is tried while it is tripped");
    sleep(SECOND * 20).await;
    assert_eq!(consumer.status().failed, 11, "one event probes");
    healthy.store(true, Ordering::SeqCst);
    settled(&fabric, "g").await;
    assert_eq!(consumer.status().handled, 100);
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            ConsumerEvent::Tripped => seen.push("tripped"),
            ConsumerEvent::Closed => {
                seen.push("closed");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(seen, ["tripped", "tripped", "closed"]);
}

#[tokio::test(start_paused = true)]
async fn a_paused_consumer_starts_nothing() {
    let fabric = fabric();
    let log = Log::default();
    let consumer = slow(&fabric, MILLI, SECOND, &log).await;
    consumer.pause();
    sleep(MILLI).await;
    for n in 0..5 {
        fabric.publish(event(n)).await.unwrap();
    }
    sleep(SECOND).await;
    assert_eq!((log.lines().len(), consumer.status().state), (0, ConsumerState::Paused));
    consumer.resume();
    settled(&fabric, "g").await;
    assert_eq!(consumer.status().handled, 5);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_is_kept() {
    let fabric = fabric();
    let log = Log::default();
    let began = Instant::now();
    let _consumer = fabric
        .consumer("g")
        .state(log.clone())
        .on_pattern("work.*", move |_: Event, cx: Context<Log>| async move {
            cx.state().add(began.elapsed().as_secs());
            Ok(())
        })
        .rate_limit(10.0)
        .start()
        .await
        .unwrap();
    for n in 0..40 {
        fabric.publish(event(n)).await.unwrap();
    }
    settled(&fabric, "g").await;
    assert!(began.elapsed() >= SECOND * 3, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_handled_once_and_a_failed_one_again() {
    let fabric = fabric();
    let log = Log::default();
    let consumer = fabric
        .consumer("g")
        .state(log.clone())
        .on_pattern("work.*", async |event: Event, cx: Context<Log>| {
            cx.state().add(format!("{} {}", event.id(), cx.attempt()));
            sleep(MILLI * 10).await;
            if event.id() == "2" && cx.attempt() == 1 { Err("once".into()) } else { Ok(()) }
        })
        .concurrency(4)
        .retry(Retry::fixed(SECOND * 5))
        .dedup(MemoryDedup::new(1000), SECOND * 60)
        .start()
        .await
        .unwrap();
    for n in [1, 1, 2, 1, 2] {
        fabric.publish(event(n)).await.unwrap();
    }
    settled(&fabric, "g").await;
    let lines = log.lines();
    assert_eq!(lines.iter().filter(|line| line.starts_with("1 ")).count(), 1, "{lines:?}");
    assert!(lines.iter().filter(|line| line.starts_with("2 ")).count() >= 2, "{lines:?}");
    assert_eq!((consumer.status().handled, consumer.status().duplicates), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn an_event_without_handler_is_never_silently_acked() {
    let fabric = fabric();
    let build = |unmatched| {
        fabric
            .consumer(format!("g-{unmatched:?}").to_lowercase())
            .on_pattern("work.known", async |_: Event, _| Ok(()))
            .subscribe("work.*")
            .retry(Retry::fixed(SECOND).max_attempts(2))
            .unmatched(unmatched)
    };
    let _nacks = build(Unmatched::Nack).start().await.unwrap();
    let _rejects = build(Unmatched::Reject).start().await.unwrap();
    fabric.publish(event(1)).await.unwrap();
    for (group, attempts) in [("g-nack", 2), ("g-reject", 1)] {
        settled(&fabric, group).await;
        let letters = letters(&fabric, group).await;
        let letter = letters[0].dead_letter().unwrap();
        assert_eq!(letter.attempts, attempts);
        assert!(letter.error.contains("no handler") && letter.error.contains("work.item"));
    }
}

#[tokio::test(start_paused = true)]
async fn settings_that_contradict_each_other_are_refused_by_name() {
    let fabric = fabric();
    let build = || fabric.consumer("g").on_pattern("work.*", async |_: Event, _| Ok(()));
    let refused = [
        (build().concurrency(0), "concurrency"),
        (build().concurrency(8).prefetch(4), "prefetch"),
        (build().retry(Retry::fixed(SECOND).max_attempts(0)), "max_attempts"),
        (build().timeout(Duration::ZERO), "timeout"),
        (build().rate_limit(0.0), "rate_limit"),
        (build().kill_switch(KillSwitch::new().ratio(2.0)), "ratio"),
        (build().on_pattern("a..b", async |_: Event, _| Ok(())), "a..b"),
        (fabric.consumer("g"), "handler"),
        (fabric.consumer("no good").on_pattern("a", async |_: Event, _| Ok(())), "no good"),
    ];
    for (builder, named) in refused {
        let error = builder.start().await.unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
    assert!(fabric.groups().unwrap().list().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_group_ends_its_consumer_with_the_reason() {
    let fabric = fabric();
    let log = Log::default();
    let consumer = slow(&fabric, MILLI, SECOND, &log).await;
    fabric.groups().unwrap().delete("g").await.unwrap();
    assert_eq!(consumer.join().await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(consumer.status().state, ConsumerState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_cannot_change_what_the_next_one_sees() {
    let fabric = fabric();
    let log = Log::default();
    let _consumer = fabric
        .consumer("g")
        .state(log.clone())
        .on_pattern("work.*", async |mut event: Event, cx: Context<Log>| {
            cx.state().add(format!("{:?} {}", event.header("note"), event.text()?));
            event.set_header("note", "changed")?;
            event.set_payload("changed");
            if cx.attempt() == 1 { Err("again".into()) } else { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    fabric.publish(event(1).header("note", "kept")).await.unwrap();
    settled(&fabric, "g").await;
    assert_eq!(log.lines(), [r#"Some("kept") 1"#; 2]);
}

#[derive(Debug)]
struct Number(u64);

impl TypedEvent for Number {
    const TYPE: &'static str = "work.number";
    const VERSION: u32 = 1;
    const PATTERN: &'static str = "work.number";
    const CONTENT_TYPE: &'static str = "text/plain";

    fn topic(&self) -> Result<Topic> {
        Topic::new("work.number")
    }

    fn key(&self) -> Option<String> {
        None
    }

    fn encode(&self) -> Result<bytes::Bytes> {
        Ok(self.0.to_string().into())
    }

    fn decode(payload: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(payload);
        text.parse().map(Self).map_err(|error| {
            fabric_core::Error::new(ErrorKind::Codec, format!("`{text}` is no number: {error}"))
        })
    }
}

/// By count, by linger; a verdict for each event; what cannot be read harms no neighbour.
#[tokio::test(start_paused = true)]
async fn a_batch_handler_gives_each_event_its_verdict() {
    let fabric = fabric();
    let log = Log::default();
    let consumer = fabric
        .consumer("g")
        .state(log.clone())
        .on_batch(
            Gather::up_to(4).within(MILLI * 50),
            async |numbers: Vec<Typed<Number>>, cx: Context<Log>| {
                cx.state().add(format!("{:?}", numbers.iter().map(|n| n.0).collect::<Vec<_>>()));
                Ok(numbers
                    .iter()
                    .map(|n| match n.0 {
                        3 if n.event().header("fixed").is_none() && cx.attempt() == 1 => {
                            Verdict::Retry("later".to_owned())
                        }
                        5 => Verdict::Reject("five".to_owned()),
                        _ => Verdict::Ack,
                    })
                    .collect::<Vec<_>>())
            },
        )
        .retry(Retry::fixed(SECOND))
        .start()
        .await
        .unwrap();
    for n in 1..=3 {
        fabric.publish(Number(n)).await.unwrap();
    }
    fabric.publish(Event::to("work.number").text("four")).await.unwrap();
    for n in 5..=6 {
        fabric.publish(Number(n)).await.unwrap();
    }
    settled(&fabric, "g").await;
    assert_eq!(log.lines(), ["[1, 2, 3]", "[5, 6]", "[3]"]);
    assert_eq!((consumer.status().handled, consumer.status().dead_letters), (4, 2));
    let letters = letters(&fabric, "g").await;
    let texts: Vec<_> = letters.iter().map(|event| &event.dead_letter().unwrap().error).collect();
    assert!(texts[0].contains("`four` is no number") && texts[1] == "five", "{texts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_responder_answers_fails_and_survives_its_panics() {
    struct Ask(u64);
    impl TypedEvent for Ask {
        const TYPE: &'static str = "ask";
        const VERSION: u32 = 1;
        const PATTERN: &'static str = "ask.*";
        const CONTENT_TYPE: &'static str = "text/plain";

        fn topic(&self) -> Result<Topic> {
            Topic::new("ask.number")
        }

        fn key(&self) -> Option<String> {
            None
        }

        fn encode(&self) -> Result<bytes::Bytes> {
            Ok(self.0.to_string().into())
        }

        fn decode(payload: &[u8]) -> Result<Self> {
            Number::decode(payload).map(|number| Self(number.0))
        }
    }
    impl fabric_core::TypedRequest for Ask {
        type Reply = Number;
    }

    let fabric = fabric();
    let error = fabric.request(Ask(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoResponders);
    let responder = fabric
        .responder("twice")
        .on(async |ask: Typed<Ask>, _| match ask.0 {
            7 => panic!("unlucky"),
            8 => Err(HandlerError::permanent("eight is enough")),
            n => {
                sleep(SECOND).await;
                Ok(Number(n * 2))
            }
        })
        .start()
        .await
        .unwrap();
    let began = Instant::now();
    let asks = (10..20).map(|n| fabric.request(Ask(n)));
    let replies = futures_util::future::join_all(asks).await;
    let replies: Vec<u64> = replies.into_iter().map(|reply| reply.unwrap().0).collect();
    assert_eq!(replies, (10..20).map(|n| n * 2).collect::<Vec<_>>());
    assert_eq!(began.elapsed(), SECOND, "ten requests were worked on side by side");
    for (n, said) in [(7, "unlucky"), (8, "eight is enough")] {
        let error = fabric.request(Ask(n)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote);
        assert!(error.to_string().contains(said), "{error}");
    }
    let late = fabric.request(Ask(1)).timeout(MILLI * 10).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    responder.drain(SECOND * 5).await.unwrap();
    assert_eq!(fabric.request(Ask(1)).await.unwrap_err().kind(), ErrorKind::NoResponders);
}

/// Also events that are held for a short wait count, and burn none of their tries meanwhile.
#[tokio::test(start_paused = true)]
async fn a_tripped_kill_switch_holds_back_retries_in_place() {
    let fabric = fabric();
    let healthy = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ok = Arc::clone(&healthy);
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", move |_: Event, _| {
            let ok = ok.load(Ordering::SeqCst);
            async move { if ok { Ok(()) } else { Err(HandlerError::transient("down")) } }
        })
        .concurrency(2)
        .retry(Retry::fixed(MILLI * 10).max_attempts(6))
        .kill_switch(KillSwitch::new().after(4).pause(SECOND * 60))
        .start()
        .await
        .unwrap();
    for n in 0..20 {
        fabric.publish(event(n)).await.unwrap();
    }
    sleep(SECOND * 59).await;
    let status = consumer.status();
    assert_eq!((status.failed, status.state), (4, ConsumerState::Tripped));
    healthy.store(true, Ordering::SeqCst);
    settled(&fabric, "g").await;
    let status = consumer.status();
    assert_eq!((status.handled, status.dead_letters), (20, 0));
    assert_eq!(status.state, ConsumerState::Running);
}

/// An event that its probe cannot try, because nobody handles its kind, does not end all work.
#[tokio::test(start_paused = true)]
async fn a_probe_that_tried_nothing_leaves_its_turn_to_the_next() {
    let fabric = fabric();
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", async |event: Event, _: Context| {
            if event.id() == "0" { Err(HandlerError::permanent("no")) } else { Ok(()) }
        })
        .subscribe("#")
        .unmatched(Unmatched::Reject)
        .kill_switch(KillSwitch::new().after(1).ratio(1.0).pause(SECOND))
        .start()
        .await
        .unwrap();
    fabric.publish(event(0)).await.unwrap();
    fabric.publish(Event::to("strange").text("x")).await.unwrap();
    fabric.publish(event(1)).await.unwrap();
    settled(&fabric, "g").await;
    assert_eq!((consumer.status().handled, consumer.status().dead_letters), (1, 2));
}

/// What panics outside of the handler costs a worker, which is replaced.
#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_is_replaced() {
    let fabric = fabric();
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panics);
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", async |_: Event, _: Context| Ok(()))
        .ack_wait(SECOND)
        .dedup_by(MemoryDedup::new(100), SECOND, move |event| {
            let first = event.id() == "3" && counted.fetch_add(1, Ordering::SeqCst) == 0;
            assert!(!first, "no key on purpose");
            event.id().to_string()
        })
        .start()
        .await
        .unwrap();
    let mut events = consumer.events();
    for n in 0..10 {
        fabric.publish(event(n)).await.unwrap();
    }
    settled(&fabric, "g").await;
    assert_eq!((consumer.status().handled, panics.load(Ordering::SeqCst)), (10, 2));
    consumer.drain().await.unwrap();
    let mut troubles = Vec::new();
    while let Some(event) = events.next().await {
        if let ConsumerEvent::Trouble { error } = event {
            troubles.push(error.to_string());
        }
    }
    assert!(troubles.iter().any(|text| text.contains("no key on purpose")), "{troubles:?}");
}

/// Two settings that disagree are named, both of them.
#[tokio::test(start_paused = true)]
async fn settings_that_disagree_are_both_named() {
    let plain = fabric();
    let stiff = fabric().layer(harness::without::without(vec![Ability::Extend])).unwrap();
    let build = |fabric: &Fabric| {
        fabric.consumer("g").on_pattern("work.*", async |_: Event, _: Context| Ok(()))
    };
    let hour = SECOND * 3600;
    let refused = [
        (build(&plain).concurrency(8).prefetch(4), ["prefetch", "concurrency"]),
        (build(&stiff).timeout(SECOND * 9).ack_wait(SECOND * 5), ["timeout", "ack_wait"]),
        (build(&stiff).timeout(SECOND * 31), ["timeout", "ack_wait"]),
        (
            build(&stiff).retry(Retry::fixed(hour).in_place_up_to(hour)),
            ["in_place_up_to", "ack_wait"],
        ),
        (build(&stiff).retry(Retry::fixed(hour)).ordered_by_key(), ["ordered_by_key", "ack_wait"]),
        (
            build(&plain)
                .ordered_by_key()
                .on_batch(Gather::up_to(9), async |_: Vec<Typed<Number>>, _: Context| Ok(())),
            ["on_batch", "ordered_by_key"],
        ),
    ];
    for (builder, named) in refused {
        let error = builder.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        for setting in named {
            assert!(error.to_string().contains(setting), "{setting}: {error}");
        }
    }
    // With a lease that can be extended none of it is a contradiction.
    build(&plain).timeout(hour).ack_wait(SECOND).start().await.unwrap();
    build(&stiff).timeout(SECOND * 29).start().await.unwrap();
}

/// A batch ends at its bytes too, and what was handled together is acked together.
#[tokio::test(start_paused = true)]
async fn a_batch_ends_at_its_bytes_and_is_acked_as_one() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let fabric = fabric().layer(Metrics::new().with_recorder(recorder)).unwrap();
    let log = Log::default();
    let consumer = fabric
        .consumer("g")
        .state(log.clone())
        .on_batch(
            Gather::up_to(100).bytes(350_000).within(SECOND),
            async |numbers: Vec<Typed<Number>>, cx: Context<Log>| {
                cx.state().add(numbers.len());
                Ok(())
            },
        )
        .start()
        .await
        .unwrap();
    // The fourth reaches the bound.
    for n in 0..8 {
        let text = format!("{}{n}", "0".repeat(100_000));
        fabric.publish(Event::to("work.number").text(text)).await.unwrap();
    }
    settled(&fabric, "g").await;
    assert_eq!(log.lines(), ["4", "4"]);
    assert_eq!(consumer.status().handled, 8);
    let acks = snapshotter.snapshot().into_vec().into_iter().find_map(|(key, _, _, value)| {
        let of_ack = key.key().labels().any(|label| label.value() == "ack");
        let metrics_util::debugging::DebugValue::Histogram(times) = value else { return None };
        of_ack.then_some(times.len())
    });
    assert_eq!(acks, Some(2), "one settlement for each batch");
}

/// On real threads and real time: the one thing here that a paused clock cannot show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_is_named() {
    async fn blocks(_: Event, _: Context) -> HandlerResult {
        std::thread::sleep(SECOND * 4);
        Ok(())
    }
    let fabric = fabric();
    let consumer = fabric.consumer("g").on_pattern("work.*", blocks).start().await.unwrap();
    let mut events = consumer.events();
    fabric.publish(event(1)).await.unwrap();
    let named = tokio::time::timeout(SECOND * 60, async {
        loop {
            if let Some(ConsumerEvent::Blocked { handler }) = events.next().await {
                return handler;
            }
        }
    });
    let named = named.await.expect("the watch sees it");
    assert!(named.contains("blocks"), "{named}");
    assert!(consumer.status().blocked > 0);
    consumer.drain().await.unwrap();
}

/// While what was sent back fails again at once, a redrive sends each letter once and ends.
#[tokio::test(start_paused = true)]
async fn a_redrive_ends_though_all_of_it_fails_again() {
    let fabric = fabric();
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", async |_: Event, _: Context| {
            Err::<(), _>(HandlerError::permanent("no"))
        })
        .start()
        .await
        .unwrap();
    for n in 0..50 {
        fabric.publish(event(n)).await.unwrap();
    }
    settled(&fabric, "g").await;
    let dead = fabric.dead_letters("g");
    assert_eq!(dead.redrive().await.unwrap(), 50);
    settled(&fabric, "g").await;
    let letters = letters(&fabric, "g").await;
    assert_eq!((letters.len(), consumer.status().dead_letters), (50, 100));
    assert!(letters.iter().all(|event| event.dead_letter().unwrap().redriven == 1));
}

/// Dropped at any point, a redrive loses no letter: each is in the dead letters, or came again.
#[tokio::test(start_paused = true)]
async fn a_redrive_that_is_killed_midway_loses_no_letter() {
    for polls in 0..40 {
        let fabric = fabric();
        let mut member = fabric.subscribe("work.*").group("g").await.unwrap();
        for n in 0..5 {
            fabric.publish(event(n)).await.unwrap();
            member.recv().await.unwrap().unwrap().reject("no").await.unwrap();
        }
        let dead = fabric.dead_letters("g");
        let mut redrive = Box::pin(dead.redrive());
        for _ in 0..polls {
            if futures_util::poll!(&mut redrive).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(redrive);
        let mut seen = BTreeSet::new();
        while let Ok(Some(delivery)) = tokio::time::timeout(MILLI, member.recv()).await {
            let delivery = delivery.unwrap();
            seen.insert(delivery.id().to_string());
            delivery.ack().await.unwrap();
        }
        // What the dead call held comes back to the letters with its lease.
        sleep(SECOND * 60).await;
        seen.extend(letters(&fabric, "g").await.iter().map(|event| event.id().to_string()));
        assert_eq!(seen.len(), 5, "after {polls} polls: {seen:?}");
    }
}
