//! Event sourcing: an account is what happened to it. Its state is rebuilt by a replay, saved as a
//! snapshot with its place, and brought up to date from there.
//!
//! ```text
//! cargo run -p fabric --example event_sourcing [URL]  memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::collections::BTreeMap;
use std::time::Duration;

use fabric::{Cursor, Event, Fabric, Result, Start};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "account.{account}", key = "account")]
struct Entry {
    account: String,
    what: What,
}

/// What has happened, in cents.
#[derive(Serialize, Deserialize)]
enum What {
    Deposited(i64),
    Withdrawn(i64),
}

/// What the history amounts to, and how much of it went in.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Balances {
    cents: BTreeMap<String, i64>,
    read: Cursor,
}

impl Balances {
    /// The only place where state changes: by what has happened.
    fn apply(&mut self, entry: &Entry) {
        let balance = self.cents.entry(entry.account.clone()).or_default();
        match entry.what {
            What::Deposited(cents) => *balance += cents,
            What::Withdrawn(cents) => *balance -= cents,
        }
    }

    /// Reads on from where it stopped, up to now; returns how many entries there were.
    async fn catch_up(&mut self, fabric: &Fabric) -> Result<usize> {
        let start = match self.read.is_empty() {
            true => Start::All,
            false => Start::Resume(self.read.clone()),
        };
        let mut history = fabric.replay("account.*").start_at(start).await?;
        let mut count = 0;
        while let Some(event) = history.recv().await {
            let event = event?;
            self.apply(&*event.decode::<Entry>()?);
            if let Some(position) = event.position() {
                self.read.advance(&position);
            }
            count += 1;
        }
        Ok(count)
    }
}

async fn happen(fabric: &Fabric, account: &str, what: What) -> Result<()> {
    fabric.publish(Entry { account: account.to_owned(), what }).await.map(drop)
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;
    happen(&fabric, "ann", What::Deposited(500)).await?;
    happen(&fabric, "bob", What::Deposited(340)).await?;
    happen(&fabric, "ann", What::Withdrawn(120)).await?;

    // Rebuilt from the whole history.
    let mut balances = Balances::default();
    let read = balances.catch_up(&fabric).await?;
    println!("after {read} entries: {:?}", balances.cents);
    assert_eq!((balances.cents["ann"], balances.cents["bob"]), (380, 340));

    // Saved, with the place that it has reached.
    let snapshot = serde_json::to_string(&balances).expect("text and numbers");
    println!("snapshot: {snapshot}");

    // Later, perhaps in another process: only what is new is read.
    happen(&fabric, "ann", What::Withdrawn(80)).await?;
    happen(&fabric, "eve", What::Deposited(10)).await?;
    let mut restored: Balances = serde_json::from_str(&snapshot).expect("it was just written");
    let read = restored.catch_up(&fabric).await?;
    println!("{read} more entries: {:?}", restored.cents);
    assert_eq!((restored.cents["ann"], restored.cents["eve"]), (300, 10));

    // It is the same as from the beginning.
    let mut rebuilt = Balances::default();
    rebuilt.catch_up(&fabric).await?;
    assert_eq!(rebuilt.cents, restored.cents);
    fabric.close(Duration::from_secs(1)).await
}
