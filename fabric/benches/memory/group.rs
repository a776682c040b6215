//! Eight publishers, eight members of one group that ack, against a shared async-channel.

use std::sync::Arc;

use fabric_core::{Event, Fabric};
use fabric_memory::MemoryConfig;
use tokio::task::{JoinHandle, JoinSet, spawn};

use crate::support::{
    Key, Metric, Options, Report, Result, Span, Stopwatch, expect_count, in_turn,
};
use crate::world::{
    CHANNEL, Payloads, TOPIC, Tally, expect_clean, finished, look_at, memory, on, runtime,
};

const MANY: u64 = 8;
const SIZES: [(u64, u64); 2] = [(64, 400_000), (1 << 10, 300_000)];

pub(crate) fn bench(options: &Options, report: &mut Report) -> Result<()> {
    for workers in options.workers() {
        let runtime = runtime(workers)?;
        for (size, events) in SIZES {
            let fabric = memory(MemoryConfig::new())?;
            let (n, payloads) = (options.scaled(events) / MANY, Payloads::of(size));
            let pairs = in_turn(
                options.rounds(),
                || on(&runtime, over_fabric(fabric.clone(), n, payloads.clone())),
                || on(&runtime, over_channel(n, payloads.clone())),
            )?;
            expect_clean(&fabric)?;
            let key = Key { path: "group8", mode: "untyped", size };
            let throughput = pairs.compare(Span::events_per_second);
            if workers == 1 {
                let budget = (size == 64).then_some(0.5);
                report.add(key, Metric::Throughput, &throughput, budget);
                report.add(key, Metric::CpuPerEvent, &pairs.compare(Span::cpu_ns_per_event), None);
            } else {
                report.aside(key, "(2 workers)", Metric::Throughput, &throughput);
            }
        }
    }
    Ok(())
}

/// `n` events from each of the publishers.
async fn over_fabric(fabric: Fabric, n: u64, payloads: Payloads) -> Result<Span> {
    let tally = Arc::new(Tally::default());
    let mut subscriptions = Vec::new();
    for _ in 0..MANY {
        subscriptions.push(fabric.subscribe(TOPIC.clone()).group("workers").await?);
    }
    let watch = Stopwatch::start();
    let mut members: JoinSet<Result<()>> = JoinSet::new();
    for mut subscription in subscriptions {
        let tally = Arc::clone(&tally);
        members.spawn(async move {
            let mut own = 0;
            loop {
                let next = tally.count(&mut own, subscription.recv()).await;
                let delivery = next.ok_or("the subscription ended")??;
                look_at(&delivery);
                delivery.ack().await?;
            }
        });
    }
    let publishers = (0..MANY).map(|_| {
        let (fabric, payloads) = (fabric.clone(), payloads.clone());
        spawn(async move {
            for _ in 0..n {
                fabric.publish(payloads.event()).await?;
            }
            Ok(())
        })
    });
    finish(publishers.collect(), members, &tally, n * MANY, watch).await
}

async fn over_channel(n: u64, payloads: Payloads) -> Result<Span> {
    let tally = Arc::new(Tally::default());
    let (sender, receiver) = async_channel::bounded::<Arc<Event>>(CHANNEL);
    let watch = Stopwatch::start();
    let mut members: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..MANY {
        let (tally, receiver) = (Arc::clone(&tally), receiver.clone());
        members.spawn(async move {
            let mut own = 0;
            loop {
                look_at(&*tally.count(&mut own, receiver.recv()).await?);
            }
        });
    }
    let publishers = (0..MANY).map(|_| {
        let (sender, payloads) = (sender.clone(), payloads.clone());
        spawn(async move {
            for _ in 0..n {
                sender.send(Arc::new(payloads.event().build()?)).await?;
            }
            Ok(())
        })
    });
    finish(publishers.collect(), members, &tally, n * MANY, watch).await
}

/// Waits until everything was published and taken.
async fn finish(
    publishers: Vec<JoinHandle<Result<()>>>,
    mut members: JoinSet<Result<()>>,
    tally: &Tally,
    total: u64,
    watch: Stopwatch,
) -> Result<Span> {
    for publisher in publishers {
        finished(publisher).await?;
    }
    let seen = tokio::select! {
        seen = tally.reached(total) => seen,
        // Members end only where something failed.
        Some(failed) = members.join_next() => return Err(failed?.err().unwrap_or_else(|| "no end".into())),
    };
    let span = watch.stop(total);
    members.shutdown().await;
    expect_count("group8", total, seen)?;
    Ok(span)
}
