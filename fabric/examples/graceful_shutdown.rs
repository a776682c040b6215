//! Graceful shutdown: on Ctrl-C a service takes no new events, finishes what it began, and leaves the
//! rest to the others of its group.
//!
//! ```text
//! cargo run -p fabric --example graceful_shutdown [URL] [wait]
//! ```
//!
//! The URL is `memory://` unless given. With `wait` it waits for your Ctrl-C; else it sends one to
//! itself.

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fabric::{ConsumerBuilder, Context, Event, Fabric, Result};

const EVENTS: usize = 50;

/// How many handlers began and how many finished.
#[derive(Clone, Default)]
struct Counts(Arc<(AtomicUsize, AtomicUsize)>);

fn printer(fabric: &Fabric, counts: Counts) -> ConsumerBuilder<Counts> {
    fabric
        .consumer("printers")
        .state(counts)
        .on_pattern("pages.*", async |page: Event, cx: Context<Counts>| {
            cx.state().0.0.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            let late = if cx.draining() { ", after the signal" } else { "" };
            println!("printed {}{late}", page.text()?);
            cx.state().0.1.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .concurrency(4)
        // Longer than a handler takes: what is not done by then is dropped, and comes again.
        .drain_within(Duration::from_secs(10))
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "memory://".to_owned());
    let waits = arguments.next().is_some_and(|argument| argument == "wait");
    let fabric = fabric::connect(&url).await?;
    let signal = fabric::shutdown_signal();
    let counts = Counts::default();
    let service = printer(&fabric, counts.clone()).start().await?;
    for n in 0..EVENTS {
        fabric.publish(Event::to("pages.a4").text(format!("page {n}"))).await?;
    }
    if !waits {
        tokio::spawn(interrupt());
    }
    // `printer(..).run_until(signal).await` says the same in one line.
    signal.await;
    service.drain().await?;

    let (began, done) = (&counts.0.0, &counts.0.1);
    let (began, done) = (began.load(Ordering::Relaxed), done.load(Ordering::Relaxed));
    assert_eq!(began, done, "what was begun was finished");
    let info = fabric.groups()?.info("printers").await?;
    println!("{done} pages printed, {} left to the others", info.undelivered() + info.pending());
    assert_eq!(info.undelivered() + info.pending(), (EVENTS - done) as u64);
    fabric.close(Duration::from_secs(1)).await
}

/// Ctrl-C, as a person would press it after a moment.
async fn interrupt() {
    tokio::time::sleep(Duration::from_millis(120)).await;
    println!("^C");
    let process = std::process::id().to_string();
    let sent = std::process::Command::new("kill").args(["-INT", &process]).status();
    assert!(sent.is_ok_and(|status| status.success()), "there is no `kill` to press Ctrl-C with");
}
