//! One event at a time, there and back: publish, receive and ack, publish the answer.

use std::sync::Arc;
use std::time::Instant;

use fabric_core::{Event, Fabric, Subscription};
use fabric_memory::MemoryConfig;
use tokio::sync::mpsc;
use tokio::task::spawn;

use crate::support::{Key, Metric, Options, Report, Result, in_turn, quantile};
use crate::world::{Payloads, expect_clean, finished, look_at, memory, on, runtime};

const KEY: Key = Key { path: "1to1", mode: "untyped", size: 64 };
const EVENTS: u64 = 60_000;

pub(crate) fn bench(options: &Options, report: &mut Report) -> Result<()> {
    let runtime = runtime(1)?;
    let fabric = memory(MemoryConfig::new())?;
    let n = options.scaled(EVENTS);
    let pairs = in_turn(
        options.rounds(),
        || on(&runtime, over_fabric(fabric.clone(), n)),
        || on(&runtime, over_channels(n)),
    )?;
    expect_clean(&fabric)?;
    report.add(KEY, Metric::LatencyP50, &pairs.compare(|round| round[0]), None);
    report.add(KEY, Metric::LatencyP99, &pairs.compare(|round| round[1]), None);
    report.add(KEY, Metric::LatencyP999, &pairs.compare(|round| round[2]), None);
    Ok(())
}

/// p50, p99 and p99.9 in nanoseconds.
fn quantiles(mut samples: Vec<f64>) -> [f64; 3] {
    [0.5, 0.99, 0.999].map(|part| quantile(&mut samples, part))
}

async fn over_fabric(fabric: Fabric, n: u64) -> Result<[f64; 3]> {
    let payloads = Payloads::of(64);
    let mut pings = fabric.subscribe("ping").group("server").await?;
    let mut pongs = fabric.subscribe("pong").group("client").await?;
    let (ping, pong) = (payloads.event_to("ping")?, payloads.event_to("pong")?);
    let server = fabric.clone();
    let server = spawn(async move {
        for _ in 0..n {
            take(&mut pings).await?;
            server.publish(pong()).await?;
        }
        Ok(())
    });
    let mut samples = Vec::with_capacity(n as usize);
    for _ in 0..n {
        let began = Instant::now();
        fabric.publish(ping()).await?;
        take(&mut pongs).await?;
        samples.push(began.elapsed().as_nanos() as f64);
    }
    finished(server).await?;
    Ok(quantiles(samples))
}

async fn take(subscription: &mut Subscription) -> Result<()> {
    let delivery = subscription.recv().await.ok_or("the subscription ended")??;
    look_at(&delivery);
    delivery.ack().await?;
    Ok(())
}

async fn over_channels(n: u64) -> Result<[f64; 3]> {
    let payloads = Payloads::of(64);
    let (to_server, mut pings) = mpsc::channel::<Arc<Event>>(1);
    let (to_client, mut pongs) = mpsc::channel::<Arc<Event>>(1);
    let (ping, pong) = (payloads.event_to("ping")?, payloads.event_to("pong")?);
    let server = spawn(async move {
        for _ in 0..n {
            look_at(&*pings.recv().await.ok_or("the channel closed")?);
            to_client.send(Arc::new(pong().build()?)).await?;
        }
        Ok(())
    });
    let mut samples = Vec::with_capacity(n as usize);
    for _ in 0..n {
        let began = Instant::now();
        to_server.send(Arc::new(ping().build()?)).await?;
        look_at(&*pongs.recv().await.ok_or("the channel closed")?);
        samples.push(began.elapsed().as_nanos() as f64);
    }
    finished(server).await?;
    Ok(quantiles(samples))
}
