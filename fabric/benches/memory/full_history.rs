//! Publishing where the history is full and the oldest goes, against an empty one.

use fabric_core::Fabric;
use fabric_memory::MemoryConfig;
use tokio::runtime::Runtime;

use crate::support::{
    Key, Metric, Options, Report, Result, Span, Stopwatch, expect_count, in_turn,
};
use crate::world::{TOPIC, memory, on, runtime};

/// As many as are kept.
const HISTORY: u64 = 65_536;
const KEY: Key = Key { path: "full_history", mode: "untyped", size: 64 };

pub(crate) fn bench(options: &Options, report: &mut Report) -> Result<()> {
    let runtime = runtime(1)?;
    let full = of(&runtime, 2 * HISTORY)?;
    let n = options.scaled(HISTORY * 3 / 4);
    let pairs = in_turn(
        options.rounds(),
        || on(&runtime, publish(full.clone(), n)),
        || {
            let empty = of(&runtime, 1)?;
            on(&runtime, publish(empty, n))
        },
    )?;
    let kept = runtime.block_on(full.admin()?.topic(&*TOPIC))?.events;
    expect_count("full_history", HISTORY, kept)?;
    report.add(KEY, Metric::NsPerEvent, &pairs.compare(Span::cpu_ns_per_event), Some(0.9));
    Ok(())
}

/// A fabric after `published` events.
fn of(runtime: &Runtime, published: u64) -> Result<Fabric> {
    let fabric = memory(MemoryConfig::new().with_max_events(HISTORY as usize))?;
    on(runtime, publish(fabric.clone(), published))?;
    Ok(fabric)
}

async fn publish(fabric: Fabric, n: u64) -> Result<Span> {
    let payload = [7; KEY.size as usize];
    let watch = Stopwatch::start();
    for _ in 0..n {
        let payload = bytes::Bytes::copy_from_slice(&payload);
        fabric.publish(fabric_core::Event::to(&*TOPIC).payload(payload)).await?;
    }
    Ok(watch.stop(n))
}
