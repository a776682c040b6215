//! The memory backend beside bare channels, in the same run: `cargo xtask bench memory`.
//!
//! The gate is a runtime with one worker thread. With two, both tasks mostly share one of them and
//! a bare channel's own speed doubles and halves between runs; those lines are printed aside.
#![expect(clippy::print_stdout, reason = "a bench prints its results")]
#![allow(dead_code, unreachable_pub, reason = "what benches share is not all used by each")]

mod consumer;
mod fan_out;
mod full_history;
mod group;
mod latency;
mod layer;
mod matching;
mod one_to_one;
mod stalled;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::process::ExitCode;

use crate::support::{Options, Report, Result, role};

fn main() -> ExitCode {
    match role().map_or_else(run, |role| stalled::play(&role)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("the run is broken: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::read()?;
    let mut report = Report::new("memory");
    type Bench = fn(&Options, &mut Report) -> Result<()>;
    let benches: [(&str, Bench); 9] = [
        ("1to1", one_to_one::bench),
        ("1to1 latency", latency::bench),
        ("1to8", fan_out::bench),
        ("group8", group::bench),
        ("match", matching::bench),
        ("full_history", full_history::bench),
        ("stalled", stalled::bench),
        ("consumer", consumer::bench),
        ("layer", layer::bench),
    ];
    for (_, bench) in benches.iter().filter(|(path, _)| options.wants(path)) {
        bench(&options, &mut report)?;
    }
    report.finish(options.json.as_deref())
}
