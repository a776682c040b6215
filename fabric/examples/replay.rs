//! History: what is kept can be read once more, as a whole or from a place or a time on.
//!
//! ```text
//! cargo run -p fabric --example replay [URL]          memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::time::Duration;

use fabric::{Cursor, Event, Fabric, Position, Result, Start, Timestamp};

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;
    let mut receipts = Vec::new();
    for n in 1..=6 {
        receipts.push(deposit(&fabric, n * 10).await?);
    }
    let noon = Timestamp::now();
    for n in 7..=9 {
        receipts.push(deposit(&fabric, n * 10).await?);
    }

    // An account is the sum of what happened to it.
    assert_eq!(sum("all of it", &fabric, Start::All).await?, 450);
    // From a time on, by when the events were stored.
    assert_eq!(sum("since noon", &fabric, noon.into()).await?, 240);
    // After one event, whose position its receipt told.
    assert_eq!(sum("after the fourth", &fabric, Start::After(receipts[3].clone())).await?, 350);
    // After several places at once: a cursor is what a reader keeps to go on later.
    let cursor: Cursor = receipts[..8].iter().cloned().collect();
    assert_eq!(sum("after the eighth", &fabric, cursor.into()).await?, 90);

    // A replay ends where the history ended when it began. A subscription goes on with what comes.
    let mut from_the_last = fabric.subscribe("account.*").start_at(Start::Last).await?;
    deposit(&fabric, 5).await?;
    for expected in ["90", "5"] {
        let event = from_the_last.recv().await.expect("the fabric is open")?;
        assert_eq!(event.text()?, expected);
    }
    println!("a subscription from the last event on: 90, then the new 5");
    fabric.close(Duration::from_secs(1)).await
}

async fn deposit(fabric: &Fabric, amount: u32) -> Result<Position> {
    let event = Event::to("account.42").event_type("deposit").text(amount.to_string());
    let receipt = fabric.publish(event).await?;
    Ok(receipt.position.expect("memory keeps what is published"))
}

async fn sum(what: &str, fabric: &Fabric, start: Start) -> Result<u32> {
    let mut history = fabric.replay("account.*").start_at(start).await?;
    let mut amounts = Vec::new();
    while let Some(event) = history.recv().await {
        amounts.push(event?.text()?.parse::<u32>().expect("an amount"));
    }
    let sum = amounts.iter().sum();
    println!("{what:<17} {sum:>4} = {amounts:?}");
    Ok(sum)
}
