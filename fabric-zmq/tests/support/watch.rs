//! An end to whatever hangs: also to a runtime, in which nothing would notice that.

use std::cell::RefCell;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Far more than any test takes, on however busy a machine.
const FAR_TOO_LONG: Duration = Duration::from_secs(300);

thread_local! {
    static WATCHED: RefCell<Option<Sender<()>>> = const { RefCell::new(None) };
}

/// Watches the test that runs on this thread: when the thread does not end, with its runtime and all
/// that lives in it, the whole program does, with the test's name.
pub(crate) fn this_test() {
    let (alive, ended) = mpsc::channel();
    let name = thread::current().name().unwrap_or("a test").to_owned();
    thread::spawn(move || {
        if ended.recv_timeout(FAR_TOO_LONG) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{name} hangs: it has not ended after {FAR_TOO_LONG:?}");
            std::process::abort();
        }
    });
    // Dropped with the thread, or by the next test on it.
    WATCHED.set(Some(alive));
}
