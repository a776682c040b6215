//! One publisher, eight subscriptions that get a copy each, against tokio's broadcast.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fabric_core::{Event, Fabric};
use fabric_memory::MemoryConfig;
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, spawn, yield_now};

use crate::support::{Key, Metric, Options, Report, Result, Span, Stopwatch, in_turn};
use crate::world::{
    CHANNEL, Payloads, TOPIC, expect_clean, finished, look_at, memory, on, runtime,
};

const READERS: usize = 8;
const SIZES: [(u64, u64); 2] = [(64, 150_000), (1 << 10, 100_000)];

pub(crate) fn bench(options: &Options, report: &mut Report) -> Result<()> {
    for workers in options.workers() {
        let runtime = runtime(workers)?;
        for (size, events) in SIZES {
            let fabric = memory(MemoryConfig::new())?;
            let (n, payloads) = (options.scaled(events), Payloads::of(size));
            let pairs = in_turn(
                options.rounds(),
                || on(&runtime, over_fabric(fabric.clone(), n, payloads.clone())),
                || on(&runtime, over_broadcast(n, payloads.clone())),
            )?;
            expect_clean(&fabric)?;
            let key = Key { path: "1to8", mode: "untyped", size };
            let throughput = pairs.compare(Span::events_per_second);
            if workers == 1 {
                let budget = (size == 64).then_some(1.0);
                report.add(key, Metric::Throughput, &throughput, budget);
                report.add(key, Metric::CpuPerEvent, &pairs.compare(Span::cpu_ns_per_event), None);
            } else {
                report.aside(key, "(2 workers)", Metric::Throughput, &throughput);
            }
        }
    }
    Ok(())
}

/// Keeps the publisher from outrunning the slowest reader, on both sides alike: neither would
/// wait by itself.
#[derive(Debug, Default)]
struct Pace {
    seen: [Padded; READERS],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl Pace {
    fn read(&self, reader: usize, count: u64) {
        self.seen[reader].0.store(count, Ordering::Release);
    }

    async fn keep(&self, published: u64) {
        if !published.is_multiple_of(64) {
            return;
        }
        let slowest = || self.seen.iter().map(|seen| seen.0.load(Ordering::Acquire)).min();
        while slowest().is_some_and(|slowest| published - slowest > CHANNEL as u64 / 2) {
            yield_now().await;
        }
    }
}

async fn over_fabric(fabric: Fabric, n: u64, payloads: Payloads) -> Result<Span> {
    let pace = Arc::new(Pace::default());
    let mut subscriptions = Vec::new();
    for _ in 0..READERS {
        subscriptions.push(fabric.subscribe(TOPIC.clone()).await?);
    }
    let watch = Stopwatch::start();
    let readers = subscriptions.into_iter().enumerate().map(|(reader, mut subscription)| {
        let pace = Arc::clone(&pace);
        spawn(async move {
            for seen in 1..=n {
                let delivery = subscription.recv().await.ok_or("the subscription ended")??;
                look_at(&delivery);
                drop(delivery);
                pace.read(reader, seen);
            }
            Ok(())
        })
    });
    let readers: Vec<JoinHandle<Result<()>>> = readers.collect();
    let publisher = spawn(async move {
        for published in 1..=n {
            fabric.publish(payloads.event()).await?;
            pace.keep(published).await;
        }
        Ok(())
    });
    finished(publisher).await?;
    for reader in readers {
        finished(reader).await?;
    }
    Ok(watch.stop(n))
}

async fn over_broadcast(n: u64, payloads: Payloads) -> Result<Span> {
    let pace = Arc::new(Pace::default());
    let (sender, _) = broadcast::channel::<Arc<Event>>(CHANNEL);
    let watch = Stopwatch::start();
    let receivers: Vec<_> = (0..READERS).map(|_| sender.subscribe()).collect();
    let readers = receivers.into_iter().enumerate().map(|(reader, mut receiver)| {
        let pace = Arc::clone(&pace);
        spawn(async move {
            for seen in 1..=n {
                look_at(&*receiver.recv().await?);
                pace.read(reader, seen);
            }
            Ok(())
        })
    });
    let readers: Vec<JoinHandle<Result<()>>> = readers.collect();
    let publisher = spawn(async move {
        for published in 1..=n {
            sender.send(Arc::new(payloads.event().build()?))?;
            pace.keep(published).await;
        }
        Ok(())
    });
    finished(publisher).await?;
    for reader in readers {
        finished(reader).await?;
    }
    Ok(watch.stop(n))
}
