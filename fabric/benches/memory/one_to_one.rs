//! One publisher, one consumer in a group that acks, against a bounded mpsc of the same `Arc`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use fabric_core::{Batch, Event, Fabric, IntoEvent};
use fabric_memory::MemoryConfig;
use tokio::sync::mpsc;
use tokio::task::{coop, spawn};

use crate::support::{Key, Metric, Options, Report, Result, Span, Stopwatch, in_turn};
use crate::world::{
    Beat, CHANNEL, Payloads, TOPIC, expect_clean, expect_empty, finished, look_at, memory, on,
    runtime,
};

const PATH: &str = "1to1";
const BATCH: usize = 64;

/// Size, events of a full round.
const SIZES: [(u64, u64); 4] =
    [(64, 400_000), (1 << 10, 300_000), (64 << 10, 20_000), (1 << 20, 1500)];

pub(crate) fn bench(options: &Options, report: &mut Report) -> Result<()> {
    for workers in options.workers() {
        let bench = Bench { workers, options, runtime: runtime(workers)? };
        for (size, events) in SIZES.iter().take(if workers == 1 { SIZES.len() } else { 1 }) {
            if options.wants("1to1 untyped") {
                bench.untyped(*size, *events, report)?;
            }
            if *size == 64 && options.wants("1to1 typed") {
                bench.typed(*events, report)?;
            }
            if *size <= 1 << 10 && options.wants("1to1 batch64") {
                bench.batches(*size, *events, report)?;
            }
        }
    }
    Ok(())
}

struct Bench<'a> {
    workers: usize,
    options: &'a Options,
    runtime: tokio::runtime::Runtime,
}

impl Bench<'_> {
    fn untyped(&self, size: u64, events: u64, report: &mut Report) -> Result<()> {
        let key = Key { path: PATH, mode: "untyped", size };
        let payloads = Payloads::of(size);
        let make = move || payloads.event();
        self.compare(key, 0.5, events, report, move |fabric, n| one_by_one(fabric, n, make.clone()))
    }

    fn typed(&self, events: u64, report: &mut Report) -> Result<()> {
        let key = Key { path: PATH, mode: "typed", size: 64 };
        let fabric = memory(MemoryConfig::new())?;
        let n = self.options.scaled(events);
        let pairs = in_turn(
            self.options.rounds(),
            || on(&self.runtime, typed(fabric.clone(), n)),
            || on(&self.runtime, typed_channel(n)),
        )?;
        expect_clean(&fabric)?;
        self.print(key, Some(0.5), &pairs, report);
        Ok(())
    }

    fn batches(&self, size: u64, events: u64, report: &mut Report) -> Result<()> {
        let key = Key { path: PATH, mode: "batch64", size };
        let payloads = Payloads::of(size);
        self.compare(key, 2.0, events, report, move |fabric, n| {
            batches(fabric, n, payloads.clone())
        })
    }

    /// Runs `round` against the channel of untyped events.
    fn compare<F>(
        &self,
        key: Key,
        budget: f64,
        events: u64,
        report: &mut Report,
        round: impl Fn(Fabric, u64) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<Span>> + Send + 'static,
    {
        let fabric = memory(MemoryConfig::new())?;
        let n = self.options.scaled(events);
        let payloads = Payloads::of(key.size);
        let pairs = in_turn(
            self.options.rounds(),
            || on(&self.runtime, round(fabric.clone(), n)),
            || on(&self.runtime, channel(n, payloads.clone())),
        )?;
        expect_clean(&fabric)?;
        self.print(key, (key.size == 64).then_some(budget), &pairs, report);
        Ok(())
    }

    fn print(
        &self,
        key: Key,
        budget: Option<f64>,
        pairs: &crate::support::Pairs<Span>,
        report: &mut Report,
    ) {
        let throughput = pairs.compare(Span::events_per_second);
        if self.workers > 1 {
            report.aside(key, "(2 workers)", Metric::Throughput, &throughput);
            return;
        }
        report.add(key, Metric::Throughput, &throughput, budget);
        report.add(key, Metric::CpuPerEvent, &pairs.compare(Span::cpu_ns_per_event), None);
    }
}

/// `publish`, `recv` and `ack`, one after the other.
async fn one_by_one<E: IntoEvent>(
    fabric: Fabric,
    n: u64,
    make: impl Fn() -> E + Send + 'static,
) -> Result<Span> {
    let mut subscription = fabric.subscribe(TOPIC.clone()).group("workers").await?;
    let watch = Stopwatch::start();
    let consumer = spawn(async move {
        for _ in 0..n {
            let delivery = subscription.recv().await.ok_or("the subscription ended")??;
            look_at(&delivery);
            delivery.ack().await?;
        }
        Ok(subscription)
    });
    let publisher = spawn(async move {
        for _ in 0..n {
            fabric.publish(make()).await?;
        }
        Ok(())
    });
    finished(publisher).await?;
    let mut subscription = finished(consumer).await?;
    let span = watch.stop(n);
    expect_empty(&mut subscription).await?;
    Ok(span)
}

async fn channel(n: u64, payloads: Payloads) -> Result<Span> {
    let (sender, mut receiver) = mpsc::channel::<Arc<Event>>(CHANNEL);
    let watch = Stopwatch::start();
    let consumer = spawn(async move {
        for _ in 0..n {
            look_at(&*receiver.recv().await.ok_or("the channel closed")?);
        }
        Ok(())
    });
    let publisher = spawn(async move {
        for _ in 0..n {
            sender.send(Arc::new(payloads.event().build()?)).await?;
        }
        Ok(())
    });
    finished(publisher).await?;
    finished(consumer).await?;
    Ok(watch.stop(n))
}

async fn typed(fabric: Fabric, n: u64) -> Result<Span> {
    let mut subscription = fabric.subscribe(TOPIC.clone()).group("workers").await?;
    let watch = Stopwatch::start();
    let consumer = spawn(async move {
        for _ in 0..n {
            let delivery = subscription.recv().await.ok_or("the subscription ended")??;
            let beat = delivery.payload().peek_value::<Beat>().ok_or("it is another type")?;
            black_box(beat.0[0]);
            delivery.ack().await?;
        }
        Ok(subscription)
    });
    let publisher = spawn(async move {
        for _ in 0..n {
            fabric.publish(Arc::new(Beat([7; 64]))).await?;
        }
        Ok(())
    });
    finished(publisher).await?;
    let mut subscription = finished(consumer).await?;
    let span = watch.stop(n);
    expect_empty(&mut subscription).await?;
    Ok(span)
}

async fn typed_channel(n: u64) -> Result<Span> {
    let (sender, mut receiver) = mpsc::channel::<Arc<Beat>>(CHANNEL);
    let watch = Stopwatch::start();
    let consumer = spawn(async move {
        for _ in 0..n {
            black_box(receiver.recv().await.ok_or("the channel closed")?.0[0]);
        }
        Ok(())
    });
    let publisher = spawn(async move {
        for _ in 0..n {
            sender.send(Arc::new(Beat([7; 64]))).await?;
        }
        Ok(())
    });
    finished(publisher).await?;
    finished(consumer).await?;
    Ok(watch.stop(n))
}

/// Batches of 64, published, received and acked as such.
async fn batches(fabric: Fabric, n: u64, payloads: Payloads) -> Result<Span> {
    let mut subscription = fabric.subscribe(TOPIC.clone()).group("workers").await?;
    let watch = Stopwatch::start();
    let consumer = spawn(async move {
        let mut seen = 0;
        while seen < n {
            let batch = subscription
                .recv_batch(BATCH, Duration::ZERO)
                .await
                .ok_or("the subscription ended")??;
            batch.iter().for_each(look_at);
            seen += batch.len() as u64;
            batch.ack().await?;
        }
        crate::support::expect_count(PATH, n, seen)?;
        Ok(subscription)
    });
    let publisher = spawn(async move {
        for _ in 0..n / BATCH as u64 {
            let events = (0..BATCH).map(|_| payloads.event().into_event());
            submit(&fabric, events.collect::<fabric_core::Result<Vec<_>>>()?).await?;
        }
        Ok(())
    });
    finished(publisher).await?;
    let mut subscription = finished(consumer).await?;
    let span = watch.stop(n);
    expect_empty(&mut subscription).await?;
    Ok(span)
}

async fn submit(fabric: &Fabric, events: Vec<Event>) -> Result<()> {
    coop::consume_budget().await;
    let confirms = match fabric.backend().try_submit(Batch::new(events)) {
        Ok(confirms) => confirms,
        Err(batch) => fabric.backend().submit(batch).await?,
    };
    for result in confirms.await.iter() {
        result?;
    }
    Ok(())
}
