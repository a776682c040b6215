//! The other arm of every case: the suite on memory behind a layer that takes one ability away.
//!
//! A case that needs the ability has to see it refused; every other case has to hold as before, so
//! that no case uses what it does not say it needs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod harness;

use std::collections::BTreeMap;

use fabric_core::conformance::{Arm, Case, Clock, Harness, Timing, cases};
use fabric_core::{Ability, Fabric, Result};
use harness::MemoryHarness;
use harness::without::without;

/// Memory behind that layer.
struct Lacking {
    inner: MemoryHarness,
    ability: Ability,
}

impl Harness for Lacking {
    async fn open(&self) -> Result<Fabric> {
        self.inner.open().await?.layer(without(vec![self.ability]))
    }

    fn timing(&self) -> Timing {
        self.inner.timing()
    }

    fn topic_bound(&self) -> Option<usize> {
        self.inner.topic_bound()
    }

    fn dedup_window(&self) -> Option<std::time::Duration> {
        self.inner.dedup_window()
    }

    fn without(&self, case: &Case) -> Option<&'static str> {
        self.inner.without(case)
    }
}

#[test]
fn each_ability_can_be_taken_away() {
    let mut failures = Vec::new();
    let mut needed: BTreeMap<Ability, usize> = BTreeMap::new();
    for &ability in Ability::ALL {
        let outcomes = run_all(ability);
        for (case, outcome) in outcomes {
            let needs = case.needs.contains(&ability);
            match outcome {
                Ok(Arm::Refused(missing)) => {
                    let counted = usize::from(missing.contains(&ability));
                    *needed.entry(ability).or_default() += counted;
                }
                Ok(_) if needs => {
                    failures.push(format!("{case} held without `{ability}`, which it needs"));
                }
                Ok(_) => {}
                Err(what) => failures.push(format!("without `{ability}`: {what}")),
            }
        }
    }
    let idle: Vec<&Ability> =
        Ability::ALL.iter().filter(|ability| !needed.contains_key(ability)).collect();
    assert!(idle.is_empty(), "no case needs {idle:?}");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    for (ability, cases) in needed {
        println!("{ability:?}: refused in {cases} cases");
    }
}

/// Every case without `ability`, on as many threads as there are cores.
fn run_all(ability: Ability) -> Vec<(&'static Case, Result<Arm, String>)> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..threads)
            .map(|lane| {
                scope.spawn(move || {
                    let mine = cases().iter().skip(lane).step_by(threads);
                    mine.map(|case| (case, run(case, ability))).collect::<Vec<_>>()
                })
            })
            .collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    })
}

fn run(case: &'static Case, ability: Ability) -> Result<Arm, String> {
    case.run(Clock::Paused, move || Lacking { inner: MemoryHarness::deduplicating(), ability })
}
