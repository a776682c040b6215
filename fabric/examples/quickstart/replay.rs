//! Reading what is kept once more, from a moment on.

use std::collections::HashSet;

use fabric::{Result, Start};

use crate::report::{Report, Step, section};
use crate::{HalfWay, Run};

pub(crate) async fn from(half_way: HalfWay, run: &Run, report: &mut Report) -> Result<()> {
    section("Replay from half way");
    let second_half: HashSet<&str> =
        run.records[run.records.len() / 2..].iter().map(|record| &*record.quake.id).collect();
    let by_time = (Step::ReplayedByTime, "its time", half_way.time.into());
    let by_place = (Step::ReplayedByPlace, "the places reached", half_way.cursor.into());
    for (step, from, start) in [by_time, by_place] {
        if report.can(step, &run.fabric) {
            let ids = read(run, start).await?;
            let (of_it, before): (Vec<_>, Vec<_>) =
                ids.iter().partition(|id| second_half.contains(id.as_str()));
            println!("  from {from}: {} events, {} from before", of_it.len(), before.len());
            // Half way as a place is exact; as a time it may begin earlier by the broker's clock.
            let seen = match step {
                Step::ReplayedByPlace => ids.len(),
                _ => of_it.len(),
            };
            report.check(step, second_half.len(), seen);
        } else {
            println!("  from {from}: unsupported");
        }
    }
    Ok(())
}

/// The events of this run that come again from `start` on.
async fn read(run: &Run, start: Start) -> Result<HashSet<String>> {
    let mut kept = run.fabric.replay("quake.#").start_at(start).await?;
    let mut ids = HashSet::new();
    while let Some(event) = kept.recv().await {
        let event = event?;
        if event.source() == run.source {
            ids.insert(event.id().to_string());
        }
    }
    Ok(ids)
}
