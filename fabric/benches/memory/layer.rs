//! What a layer costs: a publish, a receive and an ack through it, beside the same without it.

use std::time::Duration;

use fabric_core::layers::{Metrics, PublishRetry, Tracing};
use fabric_core::{Fabric, Retry};
use fabric_memory::MemoryConfig;
use metrics_util::debugging::DebuggingRecorder;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::task::spawn;

use crate::support::{Key, Metric, Options, Report, Result, Span, Stopwatch, in_turn};
use crate::world::{Payloads, TOPIC, expect_clean, finished, look_at, memory, on, runtime};

const PATH: &str = "layer";
const EVENTS: u64 = 200_000;
const SIZE: u64 = 64;

type Add = fn(Fabric) -> Result<Fabric>;

fn retry(fabric: Fabric) -> Result<Fabric> {
    Ok(fabric.layer(PublishRetry::new(Retry::fixed(Duration::from_secs(1))))?)
}

/// For a recorder that counts and keeps what histograms are given, as an exporter would.
fn metrics(fabric: Fabric) -> Result<Fabric> {
    Ok(fabric.layer(Metrics::new().with_recorder(DebuggingRecorder::new()))?)
}

/// Spans that are all sampled and go nowhere.
fn tracing(fabric: Fabric) -> Result<Fabric> {
    let provider = SdkTracerProvider::builder().build();
    Ok(fabric.layer(Tracing::new().with_tracer(provider.tracer("bench")))?)
}

pub(crate) fn bench(options: &Options, report: &mut Report) -> Result<()> {
    let layers: [(&'static str, Add); 3] =
        [("retry", retry), ("metrics", metrics), ("tracing", tracing)];
    for (mode, add) in layers {
        let key = Key { path: PATH, mode, size: SIZE };
        let runtime = runtime(1)?;
        let plain = memory(MemoryConfig::new())?;
        let layered = add(memory(MemoryConfig::new())?)?;
        let n = options.scaled(EVENTS);
        let pairs = in_turn(
            options.rounds(),
            || on(&runtime, round(layered.clone(), n)),
            || on(&runtime, round(plain.clone(), n)),
        )?;
        expect_clean(&plain)?;
        expect_clean(&layered)?;
        let compared = pairs.compare(Span::cpu_ns_per_event);
        report.add(key, Metric::NsPerEvent, &compared, None);
        println!("         the layer `{mode}` costs {:.0} ns per event", {
            compared.sides.fabric - compared.sides.raw
        });
    }
    Ok(())
}

async fn round(fabric: Fabric, n: u64) -> Result<Span> {
    let mut subscription = fabric.subscribe(TOPIC.clone()).group("workers").await?;
    let watch = Stopwatch::start();
    let consumer = spawn(async move {
        for _ in 0..n {
            let delivery = subscription.recv().await.ok_or("the subscription ended")??;
            look_at(&delivery);
            delivery.ack().await?;
        }
        Ok(())
    });
    let payloads = Payloads::of(SIZE);
    let publisher = spawn(async move {
        for _ in 0..n {
            fabric.publish(payloads.event()).await?;
        }
        Ok(())
    });
    finished(publisher).await?;
    finished(consumer).await?;
    Ok(watch.stop(n))
}
