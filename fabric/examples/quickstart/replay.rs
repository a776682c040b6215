//! Reading what is kept once more, from a moment on.

use std::collections::HashSet;

use fabric::{EventId, Result, Start};

use crate::report::{Report, Step, section};
use crate::{HalfWay, Run};

pub(crate) async fn from(half_way: HalfWay, run: &Run, report: &mut Report) -> Result<()> {
    section("Replay from half way");
    let second_half = run.records.len() - run.records.len() / 2;
    let by_time = (Step::ReplayedByTime, "its time", half_way.time.into());
    let by_place = (Step::ReplayedByPlace, "the places reached", half_way.cursor.into());
    for (step, from, start) in [by_time, by_place] {
        if report.can(step, &run.fabric) {
            let seen = count(run, start).await?;
            println!("  from {from}: {seen} events");
            report.check(step, second_half, seen);
        } else {
            println!("  from {from}: unsupported");
        }
    }
    Ok(())
}

/// How many events of the second half, and of no other, come again from `start` on.
async fn count(run: &Run, start: Start) -> Result<usize> {
    let mut kept = run.fabric.replay("quake.#").start_at(start).await?;
    let mut ids = HashSet::<EventId>::new();
    while let Some(event) = kept.recv().await {
        let event = event?;
        if event.source() == run.source {
            ids.insert(event.id().clone());
        }
    }
    Ok(ids.len())
}
