//! Resident memory, measured in a child process whose heap nobody else has touched.

use std::process::Command;
use std::{env, fs};

use super::Result;

/// Says which part a child process plays.
pub(crate) const ROLE: &str = "FABRIC_BENCH_ROLE";

/// Bytes of this process that are in memory now.
pub(crate) fn resident() -> Result<u64> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages.split(' ').nth(1).ok_or("no resident pages in statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The most bytes of this process that ever were in memory at once.
pub(crate) fn peak() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.ok_or("no VmHWM in status")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// The part that this process plays, if it is a child.
pub(crate) fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// Runs this program as a child in `role`; returns what it says by [`say_peak`].
pub(crate) fn peak_of_child(role: &str) -> Result<u64> {
    let output = Command::new(env::current_exe()?).env(ROLE, role).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the child `{role}` failed: {said}").into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Tells the parent how much memory it took at the most.
pub(crate) fn say_peak(bytes: u64) {
    println!("{bytes}");
}
