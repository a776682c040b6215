//! Retry and dead letters: what fails is tried again, what fails for good is kept, and what was
//! mended is sent back to the group that failed.
//!
//! ```text
//! cargo run -p fabric --example retry [URL]           memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fabric::{
    Context, DeadLetterReason, Event, HandlerError, HandlerResult, NoticeKind, Result, Retry, Typed,
};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "payments.due")]
struct Due {
    order: u32,
    cents: i64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "payments.made")]
struct Made {
    order: u32,
}

/// A bank that is closed until somebody opens it.
#[derive(Clone, Default)]
struct Bank(Arc<AtomicBool>);

async fn pay(due: Typed<Due>, cx: Context<Bank>) -> HandlerResult<Made> {
    let Due { order, cents } = *due;
    if cents <= 0 {
        return Err(HandlerError::permanent(format!("nobody pays {cents} cents")));
    }
    if order > 2 && !cx.state().0.load(Ordering::Relaxed) {
        println!("order {order}, try {}: the bank is closed", cx.attempt());
        return Err(HandlerError::transient("the bank is closed"));
    }
    println!("order {order}, try {}: paid", cx.attempt());
    Ok(Made { order })
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;
    let (bank, mut notices) = (Bank::default(), fabric.notices());
    let mut made = fabric.subscribe("payments.made").await?;
    let billing = fabric
        .consumer("billing")
        .state(bank.clone())
        .on(pay)
        .retry(Retry::exponential(Duration::from_millis(20)).max_attempts(3))
        .start()
        .await?;
    for (order, cents) in [(1, 500), (2, -1), (3, 700), (4, 900)] {
        fabric.publish(Due { order, cents }).await?;
    }

    // One that nobody can pay, and two that were tried three times each.
    let mut dead = 0;
    while dead < 3 {
        let notice = notices.next().await.expect("the fabric is open");
        dead += usize::from(matches!(notice.kind, NoticeKind::DeadLettered { .. }));
    }
    let letters = fabric.dead_letters("billing");
    for event in letters.list(10).await? {
        let letter = event.dead_letter().expect("there is nothing else");
        println!("dead: {} after {} tries: {}", event.text()?, letter.attempts, letter.error);
    }

    // The bank opens. What can be mended goes back, to this group and to no other.
    bank.0.store(true, Ordering::Relaxed);
    let late = |event: &Event| {
        event.dead_letter().is_some_and(|letter| letter.reason == DeadLetterReason::MaxDeliver)
    };
    println!("{} sent back", letters.redrive().only(late).await?);
    let mut paid = BTreeSet::new();
    while paid.len() < 3 {
        let event = made.recv().await.expect("the fabric is open")?;
        paid.insert(event.decode::<Made>()?.order);
    }
    println!("paid: {paid:?}");
    assert_eq!(paid, BTreeSet::from([1, 3, 4]));
    assert_eq!(letters.purge().await?, 1, "the one that nobody can pay");
    billing.drain().await?;
    fabric.close(Duration::from_secs(1)).await
}
