//! A clock that may be read for each event: a tenth of what the exact one costs.

use std::time::Duration;

/// How far it may be behind the exact clock, and more.
pub(crate) const LAG: Duration = Duration::from_millis(50);

/// The time since some moment, as the system's last tick had it; `None` where there is no such clock.
#[cfg(target_os = "linux")]
pub(crate) fn rough() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::MonotonicCoarse);
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// As on Linux.
#[cfg(not(target_os = "linux"))]
pub(crate) const fn rough() -> Option<Duration> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_and_never_goes_back() {
        let mut last = rough().unwrap();
        let first = last;
        while last == first {
            let now = rough().unwrap();
            assert!(now >= last);
            last = now;
        }
    }
}
