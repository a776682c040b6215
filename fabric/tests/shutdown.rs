//! The request to stop from outside. One test, since a signal goes to the whole process.

#![cfg(unix)]

use std::process::Command;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join3;

#[tokio::test]
async fn sigterm_resolves_every_clone() {
    let stop = fabric::shutdown_signal();
    // From the call on, without a poll, the signal ends the process no more.
    let (one, other) = (stop.clone(), stop.clone());

    let pid = std::process::id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(sent.success());
    let all = join3(one, other, tokio::spawn(stop.clone()));
    let watchdog = Duration::from_secs(60);
    tokio::time::timeout(watchdog, all).await.unwrap().2.unwrap();
    assert!(stop.now_or_never().is_some(), "a clone that is polled only now resolves at once");
}
