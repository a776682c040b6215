//! What the benches of all backends share: options, rounds in turn, records and the table.

#![allow(unused_imports, reason = "what benches share is not all used by each")]

mod measure;
mod options;
mod report;
mod resident;

pub(crate) use measure::{Compared, Pairs, Span, Stopwatch, cpu_of, in_turn, quantile};
pub(crate) use options::Options;
pub(crate) use report::{Key, Metric, Report};
pub(crate) use resident::{ROLE, peak, peak_of_child, resident, role, say_peak};

/// What ends a bench: a broken run, never a missed budget.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Fails a run whose counts do not add up.
pub(crate) fn expect_count(what: &str, expected: u64, found: u64) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what}: {found} events arrived, {expected} were published").into())
}
