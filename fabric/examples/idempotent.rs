//! An idempotent consumer: an event that comes again, from the broker or from its publisher, is
//! handled once.
//!
//! ```text
//! cargo run -p fabric --example idempotent [URL]      memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use fabric::{Context, Event, HandlerError, HandlerResult, MemoryDedup, Result, Retry, Typed};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "transfers.ordered", key = "account")]
struct Transfer {
    account: String,
    number: String,
    cents: i64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "transfers.booked")]
struct Booked {
    number: String,
}

async fn book(transfer: Typed<Transfer>, cx: Context<Arc<AtomicI64>>) -> HandlerResult<Booked> {
    if transfer.cents == 300 && cx.attempt() == 1 {
        // A failure leaves no mark: the event is tried again.
        return Err(HandlerError::transient("the ledger is locked"));
    }
    let balance = cx.state().fetch_add(transfer.cents, Ordering::Relaxed) + transfer.cents;
    println!("{} of {} booked, balance {balance}", transfer.number, transfer.account);
    Ok(Booked { number: transfer.number.clone() })
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;
    let balance = Arc::new(AtomicI64::new(0));
    let mut booked = fabric.subscribe("transfers.booked").await?;
    let ledger = fabric
        .consumer("ledger")
        .state(Arc::clone(&balance))
        .on(book)
        .retry(Retry::fixed(Duration::from_millis(20)))
        // Marked once a handler has succeeded, claimed while it runs: two members never run one
        // transfer at once. By default the event's source and id tell events apart; here the number
        // that the customer gave does, so that an order sent twice is one order.
        .dedup_by(MemoryDedup::new(100_000), Duration::from_secs(86_400), |event: &Event| {
            let number = event.decode::<Transfer>().map(|transfer| transfer.number.clone());
            number.unwrap_or_else(|_| event.id().to_string())
        })
        .start()
        .await?;

    let transfer = |number: &str, cents| Transfer {
        account: "ann".to_owned(),
        number: number.to_owned(),
        cents,
    };
    for (number, cents) in [("t-1", 100), ("t-2", 200), ("t-1", 100), ("t-3", 300), ("t-2", 200)] {
        fabric.publish(transfer(number, cents)).await?;
    }
    fabric.publish(transfer("last", 0)).await?;
    let mut numbers = Vec::new();
    while numbers.last().is_none_or(|number| number != "last") {
        let event = booked.recv().await.expect("the fabric is open")?;
        numbers.push(event.decode::<Booked>()?.number.clone());
    }
    println!("booked: {numbers:?}, {} came again", ledger.status().duplicates);
    assert_eq!(numbers, ["t-1", "t-2", "t-3", "last"]);
    assert_eq!(balance.load(Ordering::Relaxed), 600);
    assert_eq!(ledger.status().duplicates, 2);
    ledger.drain().await?;
    fabric.close(Duration::from_secs(1)).await
}
