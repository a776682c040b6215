//! The suite against memory with a bug: each bug has to be caught by a case.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod harness;

use std::fmt::Write as _;

use fabric_core::conformance::{Arm, Case, Clock, cases};
use fabric_memory::{Bug, Memory};
use harness::{MemoryHarness, WINDOW, config};

#[test]
fn every_seeded_bug_is_caught_by_a_case() {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let caught: Vec<(Bug, Vec<&str>)> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..threads)
            .map(|lane| {
                scope.spawn(move || {
                    let mine = Bug::ALL.iter().skip(lane).step_by(threads);
                    mine.map(|bug| (*bug, caught_by(*bug))).collect::<Vec<_>>()
                })
            })
            .collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    });
    let width = caught.iter().map(|(bug, _)| format!("{bug:?}").len()).max().unwrap_or(0);
    let mut table = format!("{:width$} | caught by\n", "bug");
    for bug in Bug::ALL {
        let ids = caught.iter().find(|(known, _)| known == bug).map(|(_, ids)| ids.join(" "));
        writeln!(table, "{:width$} | {}", format!("{bug:?}"), ids.unwrap_or_default()).unwrap();
    }
    println!("{table}");
    let free: Vec<Bug> =
        caught.iter().filter(|(_, ids)| ids.is_empty()).map(|(bug, _)| *bug).collect();
    assert!(free.is_empty(), "no case catches {free:?}\n{table}");
}

/// The ids of the cases that fail: the first few, or all where `FABRIC_FULL` is set.
fn caught_by(bug: Bug) -> Vec<&'static str> {
    let most = if std::env::var_os("FABRIC_FULL").is_some() { usize::MAX } else { 3 };
    let failing = cases().iter().filter(|case| run(case, bug).is_err());
    failing.take(most).map(|case| case.id).collect()
}

fn run(case: &'static Case, bug: Bug) -> Result<Arm, String> {
    case.run(Clock::Paused, move || {
        let config = config().with_dedup_window(Some(WINDOW));
        MemoryHarness::over(Memory::with_bug(config, bug).unwrap(), Some(WINDOW))
    })
}
