//! Memory under a subscriber that stopped reading, against the configured bound.
//!
//! There is no raw side: `raw` is the bound. A peak is measured in a child process of its own.

use std::sync::Arc;
use std::time::Duration;

use fabric_core::{ErrorKind, Event, Fabric};
use fabric_memory::MemoryConfig;
use tokio::sync::mpsc;

use crate::support::{
    Compared, Key, Metric, Options, Report, Result, peak_of_child, resident, say_peak,
};
use crate::world::{CHANNEL, memory, on, runtime};

/// The bound of the stalled topic in bytes.
const BOUND: u64 = 64 << 20;
const SIZES: [u64; 4] = [64, 1 << 10, 64 << 10, 1 << 20];
/// What is within a bound: a tenth more.
const WITHIN: f64 = 1.0 / 1.1;
/// Events of the run that nobody stalls.
const FLOW: u64 = 200_000;

pub(crate) fn bench(options: &Options, report: &mut Report) -> Result<()> {
    let sizes = if options.smoke { &SIZES[2..3] } else { &SIZES[..] };
    for size in sizes {
        let key = |mode| Key { path: "stalled", mode, size: *size };
        for (mode, reader) in [("untyped", "group"), ("plain", "plain")] {
            let peak = peak_of_child(&format!("{reader} {size}"))?;
            let got = Compared::once(peak as f64, BOUND as f64);
            report.add(key(mode), Metric::PeakMemory, &got, Some(WITHIN));
        }
    }
    let peak = |side: &str| peak_of_child(&format!("flow {side}")).map(|bytes| bytes as f64);
    let got = Compared::once(peak("fabric")?, peak("raw")?);
    report.add(Key { path: "1to1", mode: "untyped", size: 64 }, Metric::PeakMemory, &got, None);
    Ok(())
}

/// What a child process does: `group SIZE`, `plain SIZE`, `flow fabric` or `flow raw`.
pub(crate) fn play(role: &str) -> Result<()> {
    let runtime = runtime(1)?;
    let peak = match role.split_once(' ') {
        Some(("flow", "fabric")) => on(&runtime, flow(memory(MemoryConfig::new())?))?,
        Some(("flow", "raw")) => on(&runtime, flow_of_channel())?,
        Some((reader, size)) => {
            let config = MemoryConfig::new()
                .with_max_bytes(BOUND as usize)
                .with_max_events(1 << 24)
                .with_full_wait(Duration::from_millis(1));
            on(&runtime, stall(memory(config)?, reader == "group", size.parse()?))?
        }
        None => return Err(format!("no such role: {role}").into()),
    };
    say_peak(peak);
    Ok(())
}

/// Publishes more than the bound while a subscriber holds its first delivery.
async fn stall(fabric: Fabric, grouped: bool, size: usize) -> Result<u64> {
    let subscribe = fabric.subscribe("stalled.topic");
    let mut stalled = if grouped { subscribe.group("stalled").await? } else { subscribe.await? };
    let publish = || {
        // As users write it: the topic as text, the payload their own.
        let payload = vec![7_u8; size];
        fabric.publish(Event::to("stalled.topic").payload(payload))
    };
    publish().await?;
    let held = stalled.recv().await.ok_or("the subscription ended")??;
    let before = resident()?;
    let mut peak = 0;
    let mut refused = 0;
    for n in 0..3 * BOUND / size as u64 {
        match publish().await {
            Ok(_) => {}
            Err(error) if grouped && error.kind() == ErrorKind::Full => refused += 1,
            Err(error) => return Err(error.into()),
        }
        if n % 512 == 0 || refused > 0 || size > 4096 {
            peak = peak.max(resident()?);
        }
        if refused > 20 {
            break;
        }
    }
    if grouped && refused == 0 {
        return Err("the bound was never reached".into());
    }
    drop(held);
    Ok(peak.saturating_sub(before))
}

/// The peak of a run in which nobody stalls; the history is kept.
async fn flow(fabric: Fabric) -> Result<u64> {
    let before = resident()?;
    let mut subscription = fabric.subscribe("flow").group("workers").await?;
    let mut peak = 0;
    for n in 0..FLOW {
        fabric.publish(Event::to("flow").payload(vec![7_u8; 64])).await?;
        let delivery = subscription.recv().await.ok_or("the subscription ended")??;
        delivery.ack().await?;
        if n % 1024 == 0 {
            peak = peak.max(resident()?);
        }
    }
    Ok(peak.saturating_sub(before))
}

async fn flow_of_channel() -> Result<u64> {
    let before = resident()?;
    let (sender, mut receiver) = mpsc::channel::<Arc<Event>>(CHANNEL);
    let mut peak = 0;
    for n in 0..FLOW {
        sender.send(Arc::new(Event::to("flow").payload(vec![7_u8; 64]).build()?)).await?;
        drop(receiver.recv().await.ok_or("the channel closed")?);
        if n % 1024 == 0 {
            peak = peak.max(resident()?);
        }
    }
    // A page at least, so that there is something to divide by.
    Ok(peak.saturating_sub(before).max(4096))
}
