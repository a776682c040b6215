//! A week of real earthquakes, from end to end.
//!
//! ```text
//! cargo run -p fabric --example quickstart [URL]      memory:// unless given
//! ```
//!
//! Every record is published on `quake.<type>.<band>`. A plain subscriber counts them all. A group
//! of three members shares the strong ones; one of them crashes and the others take its work over.
//! Records without a magnitude become dead letters. What was published after half way is read once
//! more. The table at the end holds what was expected beside what was seen; where they differ, the
//! exit code says so. What a backend cannot do is printed as unsupported.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

mod census;
mod quakes;
mod replay;
mod report;
mod shift;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use fabric::{Cursor, Event, EventId, Fabric, Result, Timestamp};
use futures_util::{StreamExt as _, stream};

use quakes::Record;
use report::{Report, Step, section};

/// Nothing here takes long; what has not come by then will not come.
const WATCHDOG: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let mut report = Report::default();
    if let Err(error) = quickstart(&url, &mut report).await {
        eprintln!("\nerror: {error:#}");
        return ExitCode::FAILURE;
    }
    report.print();
    if report.is_as_expected() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One run: brokers keep what earlier ones left, so source and group are this run's own.
struct Run {
    fabric: Fabric,
    source: String,
    group: String,
    records: Vec<Record>,
}

async fn quickstart(url: &str, report: &mut Report) -> Result<()> {
    let id = EventId::generate().to_string();
    let run = &id[id.len() - 6..];
    let source = format!("quickstart-{run}");
    let fabric = fabric::connect(url).source(&source).await?;
    println!("Event Fabric quickstart on {} ({})", fabric.info().name, fabric.info().server);
    let run = Run { fabric, source, group: format!("alert-{run}"), records: quakes::load() };

    // Both readers are there before the first event.
    let census = census::open(&run, report).await?;
    let shift = shift::open(&run, report).await?;
    let half_way = publish(&run, report).await?;
    if let Some(census) = census {
        census.finish(&run, report).await?;
    }
    if let Some(shift) = shift {
        shift.finish(&run, report).await?;
    }
    replay::from(half_way, &run, report).await?;
    shift::clear_away(&run).await;
    run.fabric.close(Duration::from_secs(5)).await
}

/// A moment, as a time and as the places that each topic had reached.
struct HalfWay {
    time: Timestamp,
    cursor: Cursor,
}

async fn publish(run: &Run, report: &mut Report) -> Result<HalfWay> {
    section("Publishing");
    let made_up = run.records.iter().filter(|record| record.quake.mag.is_none()).count();
    println!("  {} quakes of one week, {made_up} made-up records", run.records.len() - made_up);

    let (first, second) = run.records.split_at(run.records.len() / 2);
    let begun = Instant::now();
    let mut cursor = Cursor::new();
    let mut confirmed = publish_part(run, first, &mut cursor).await?;
    println!("  {confirmed} confirmed: this is half way");
    // A moment of silence, so that a broker with a coarse clock can tell before from after.
    tokio::time::sleep(2 * run.fabric.capabilities().time_granularity).await;
    let half_way = HalfWay { time: Timestamp::now(), cursor: cursor.clone() };
    tokio::time::sleep(2 * run.fabric.capabilities().time_granularity).await;
    confirmed += publish_part(run, second, &mut cursor).await?;
    println!("  {confirmed} confirmed, {:.1?} after the first", begun.elapsed());
    report.check(Step::Published, run.records.len(), confirmed);
    Ok(half_way)
}

/// Publishes many at a time, and notes which place each topic has reached.
async fn publish_part(run: &Run, records: &[Record], cursor: &mut Cursor) -> Result<usize> {
    let events = records.iter().map(|Record { json, quake }| {
        Event::to(quake.topic()).id(&quake.id).time(quake.time).payload(*json)
    });
    let mut receipts = run.fabric.publish_all(stream::iter(events)).in_flight(256);
    let mut confirmed = 0;
    while let Some(receipt) = receipts.next().await {
        if let Some(position) = &receipt?.position {
            cursor.advance(position);
        }
        confirmed += 1;
    }
    Ok(confirmed)
}
