//! Reading what is kept once more, from a moment on.

use std::collections::HashSet;

use fabric::{Ability, EventId, Result, Start};

use crate::report::{Report, section};
use crate::{HalfWay, Run};

pub(crate) async fn from(half_way: HalfWay, run: &Run, report: &mut Report) -> Result<()> {
    section("Replay from half way");
    let HalfWay { time, cursor } = half_way;
    let by_time = ("replayed from the time noted", Ability::StartTime, Start::Time(time));
    let by_place = ("replayed from the places noted", Ability::StartPosition, cursor.into());
    for (what, ability, start) in [by_time, by_place] {
        if report.can(what, &run.fabric, [Ability::Replay, ability]) {
            let second_half = run.records.len() - run.records.len() / 2;
            let seen = count(run, start).await?;
            println!("  {what}: {seen}");
            report.check(what, second_half, seen);
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
