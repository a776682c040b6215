//! Fan-out: every subscription gets a copy of its own, and every group one for all its members.
//!
//! ```text
//! cargo run -p fabric --example fan_out [URL]         memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::collections::BTreeSet;
use std::time::Duration;

use fabric::{Event, Result, Subscription};

const EVENTS: usize = 6;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;
    // Three who watch: each sees everything that is published from now on.
    let mut screens = Vec::new();
    for _ in 0..3 {
        screens.push(fabric.subscribe("sensor.*").await?);
    }
    // Two groups of two: each group gets everything, each event goes to one of its members.
    let mut archive = Vec::new();
    let mut alarms = Vec::new();
    for _ in 0..2 {
        archive.push(fabric.subscribe("sensor.*").group("archive").await?);
        alarms.push(fabric.subscribe("sensor.*").group("alarms").await?);
    }

    for n in 0..EVENTS {
        let topic = ["sensor.door", "sensor.window"][n % 2];
        fabric.publish(Event::to(topic).text(n.to_string())).await?;
    }

    for (n, screen) in screens.iter_mut().enumerate() {
        let seen = read(screen, EVENTS).await?;
        println!("screen {n}: {seen:?}");
        assert_eq!(seen.len(), EVENTS);
    }
    for (name, members) in [("archive", archive), ("alarms", alarms)] {
        let shares = shares(members).await?;
        println!("{name}: {shares:?}");
        assert_eq!(shares.iter().flatten().collect::<BTreeSet<_>>().len(), EVENTS);
        assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), EVENTS, "nothing went to both");
    }
    fabric.close(Duration::from_secs(1)).await
}

/// The next `count` events of one subscription.
async fn read(subscription: &mut Subscription, count: usize) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let delivery = subscription.recv().await.expect("the fabric is open")?;
        seen.push(delivery.text()?.into_owned());
        delivery.ack().await?;
    }
    Ok(seen)
}

/// What each member of a group of two gets of the events.
async fn shares(mut members: Vec<Subscription>) -> Result<[Vec<String>; 2]> {
    let (mut second, mut first) = (members.pop().expect("two"), members.pop().expect("two"));
    let mut shares = [Vec::new(), Vec::new()];
    while shares.iter().map(Vec::len).sum::<usize>() < EVENTS {
        let (member, delivery) = tokio::select! {
            Some(delivery) = first.recv() => (0, delivery?),
            Some(delivery) = second.recv() => (1, delivery?),
        };
        shares[member].push(delivery.text()?.into_owned());
        delivery.ack().await?;
    }
    Ok(shares)
}
