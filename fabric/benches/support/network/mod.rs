//! The frame of a network backend's bench: up to four arms in turn, on the same work.
//!
//! * `fabric`: the public API, as a user has it.
//! * `raw`: the client library moving the same headers and payload, built and read by hand for each
//!   event as a good user of it would, with as many in flight and acks of the same kind.
//! * `profile`: fabric with `profile=raw`, the payload alone.
//! * `bare`: the client library moving the payload alone.
//!
//! Budgets hold `fabric` against `raw` and `profile` against `bare`; `fabric` beside `bare` is
//! printed too. CPU time is that of this process: the broker is another one.

#![allow(unused_imports, reason = "what benches share is not all used by each")]

mod arms;
mod client;
mod fabric_arm;
mod herd;
mod peak;
mod suite;

pub(crate) use arms::{Arm, Arms};
pub(crate) use client::{Begin, Client, IN_FLIGHT, PREFETCH, Reader, Serving, Work, Working};
pub(crate) use fabric_arm::{FabricArm, Style};
pub(crate) use herd::Herd;
pub(crate) use peak::{Child, peaks};
pub(crate) use suite::{SIZES, Suite};

use std::process::ExitCode;

use super::support::{Options, Report, Result, role};

/// The `main` of a bench: runs it, or plays the part of a child process.
pub(crate) fn main(
    backend: &'static str,
    run: impl FnOnce(&Options, &mut Report) -> Result<()>,
    play: impl FnOnce(&str) -> Result<()>,
) -> ExitCode {
    let done = match role() {
        Some(role) => play(&role),
        None => Options::read().and_then(|options| {
            let mut report = Report::new(backend);
            run(&options, &mut report)?;
            report.finish(options.json.as_deref())
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("the run is broken: {failure}");
            ExitCode::FAILURE
        }
    }
}
