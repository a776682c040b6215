//! The consumer runtime beside a loop by hand over the same subscription, in the same run.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use fabric_core::{Context, Delivery, Event, Fabric, Subscription, Typed};
use fabric_memory::MemoryConfig;
use futures_util::StreamExt as _;
use tokio::task::{spawn, yield_now};

use crate::support::{
    Compared, Key, Metric, Options, Report, Result, Span, Stopwatch, in_turn, resident,
};
use crate::world::{
    Beat, Payloads, TOPIC, Tally, expect_clean, finished, look_at, memory, on, runtime,
};

const PATH: &str = "consumer";
const EVENTS: u64 = 200_000;
const SIZE: u64 = 64;

/// Keys that are alive at the same time.
const KEYS: u64 = 10_000;
/// How often all of them come to life and go idle again.
const WAVES: usize = 6;

type Bench = fn(&Options, &mut Report) -> Result<()>;

pub(crate) fn bench(options: &Options, report: &mut Report) -> Result<()> {
    let benches: [(&str, Bench); 3] = [
        ("consumer one handler", one_handler),
        ("consumer many handlers", many_handlers),
        ("consumer many keys", many_keys),
    ];
    let mut wanted = benches.iter().filter(|(name, _)| options.wants(name));
    wanted.try_for_each(|(_, bench)| bench(options, report))
}

/// What every handler does: it is given a typed event, and waits once where several run.
async fn handle(beat: Typed<Beat>, waits: bool) {
    black_box(beat.0[0]);
    if waits {
        yield_now().await;
    }
}

/// Publishes, and lets whoever there is handle it.
async fn publish(fabric: Fabric, n: u64) -> Result<()> {
    for _ in 0..n {
        fabric.publish(Arc::new(Beat([7; 64]))).await?;
    }
    Ok(())
}

/// One round of a consumer with `concurrency`.
async fn by_runtime(fabric: Fabric, n: u64, concurrency: usize) -> Result<Span> {
    let tally = Arc::new(Tally::default());
    let consumer = fabric
        .consumer("workers")
        .state(Arc::clone(&tally))
        .on(async move |beat: Typed<Beat>, cx: Context<Arc<Tally>>| {
            handle(beat, concurrency > 1).await;
            cx.state().add(1);
            Ok(())
        })
        .concurrency(concurrency)
        .start()
        .await?;
    let watch = Stopwatch::start();
    finished(spawn(publish(fabric, n))).await?;
    let seen = tally.reached(n).await;
    let span = watch.stop(n);
    consumer.drain().await?;
    crate::support::expect_count(PATH, n, seen)?;
    Ok(span)
}

/// One round of a loop by hand.
async fn by_hand(fabric: Fabric, n: u64, concurrency: usize) -> Result<Span> {
    let tally = Arc::new(Tally::default());
    let subscription = fabric.subscribe(TOPIC.clone()).group("workers").await?;
    let watch = Stopwatch::start();
    let counted = Arc::clone(&tally);
    let worker = match concurrency {
        1 => spawn(one_by_one(subscription, counted)),
        _ => spawn(side_by_side(subscription, counted, concurrency)),
    };
    finished(spawn(publish(fabric, n))).await?;
    let seen = tally.reached(n).await;
    let span = watch.stop(n);
    worker.abort();
    // It holds nothing any more: what was counted was acked.
    drop(worker.await);
    crate::support::expect_count(PATH, n, seen)?;
    Ok(span)
}

async fn one_by_one(mut subscription: Subscription, tally: Arc<Tally>) -> Result<()> {
    while let Some(delivery) = subscription.recv().await {
        settle(delivery?, &tally, false).await?;
    }
    Ok(())
}

async fn side_by_side(subscription: Subscription, tally: Arc<Tally>, many: usize) -> Result<()> {
    let work = async |delivery: fabric_core::Result<Delivery>| {
        let delivery = delivery.expect("memory does not fail");
        settle(delivery, &tally, true).await.expect("memory does not fail");
    };
    subscription.for_each_concurrent(many, work).await;
    Ok(())
}

async fn settle(delivery: Delivery, tally: &Tally, waits: bool) -> Result<()> {
    handle(delivery.decode::<Beat>()?, waits).await;
    delivery.ack().await?;
    tally.add(1);
    Ok(())
}

fn one_handler(options: &Options, report: &mut Report) -> Result<()> {
    compare("concurrency1", 1, options, report)
}

fn many_handlers(options: &Options, report: &mut Report) -> Result<()> {
    compare("concurrency16", 16, options, report)
}

fn compare(
    mode: &'static str,
    concurrency: usize,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let key = Key { path: PATH, mode, size: SIZE };
    let (runtime, fabric) = (runtime(1)?, memory(MemoryConfig::new())?);
    let n = options.scaled(EVENTS);
    let pairs = in_turn(
        options.rounds(),
        || on(&runtime, by_runtime(fabric.clone(), n, concurrency)),
        || on(&runtime, by_hand(fabric.clone(), n, concurrency)),
    )?;
    expect_clean(&fabric)?;
    report.add(key, Metric::Throughput, &pairs.compare(Span::events_per_second), Some(0.9));
    report.add(key, Metric::CpuPerEvent, &pairs.compare(Span::cpu_ns_per_event), None);
    Ok(())
}

/// Memory after many keys have come to life and gone idle again and again, each time others, beside
/// memory after the first time.
fn many_keys(options: &Options, report: &mut Report) -> Result<()> {
    let key = Key { path: PATH, mode: "10000 keys", size: SIZE };
    let waves = if options.smoke { 2 } else { WAVES };
    let (first, last) = on(&runtime(1)?, keys_come_and_go(waves))?;
    let compared = Compared::once(last as f64, first as f64);
    report.add(key, Metric::PeakMemory, &compared, Some(0.9));
    Ok(())
}

async fn keys_come_and_go(waves: usize) -> Result<(u64, u64)> {
    let fabric = memory(MemoryConfig::new().with_max_events(20_000))?;
    let tally = Arc::new(Tally::default());
    let consumer = fabric
        .consumer("workers")
        .state(Arc::clone(&tally))
        .on_pattern(TOPIC.as_str(), async |event: Event, cx: Context<Arc<Tally>>| {
            look_at(&event);
            cx.state().add(1);
            Ok(())
        })
        .concurrency(16)
        .prefetch(2 * KEYS as usize)
        .ordered_by_key()
        .start()
        .await?;
    // While it is paused all keys of a wave gather.
    let payloads = Payloads::of(SIZE);
    let mut marks = Vec::new();
    for wave in 0..waves as u64 {
        consumer.pause();
        for n in 0..KEYS {
            let event = payloads.event().key(format!("a key that is worth its name {wave} {n}"));
            fabric.publish(event).await?;
        }
        consumer.resume();
        tally.reached((wave + 1) * KEYS).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        marks.push(resident()?);
    }
    consumer.drain().await?;
    let first = marks.first().copied().unwrap_or_default();
    Ok((first, marks.last().copied().unwrap_or_default()))
}
