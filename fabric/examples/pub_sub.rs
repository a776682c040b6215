//! Publish and subscribe: patterns, and a copy of each event for each subscriber.
//!
//! ```text
//! cargo run -p fabric --example pub_sub [URL]         memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::time::Duration;

use fabric::{Event, Fabric, Result, Subscription};

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric: Fabric = fabric::connect(&url).source("shop").await?;

    // A subscription is there once `subscribe` returns: what is published afterwards arrives.
    let mut orders = fabric.subscribe("orders.*").await?;
    let mut europe = fabric.subscribe("*.eu").await?;
    let mut everything = fabric.subscribe("#").await?;

    for (topic, text) in
        [("orders.eu", "two chairs"), ("orders.us", "a table"), ("returns.eu", "one chair")]
    {
        let event = Event::to(topic).header("tenant", "acme").text(text);
        let receipt = fabric.publish(event).timeout(Duration::from_secs(2)).await?;
        // What a receipt proves depends on the transport: one that keeps nothing cannot say so.
        println!("published {topic:<12} {text:<12} {receipt:?}");
    }

    // A topic has an order; between topics there is none that holds everywhere.
    assert_eq!(read("orders.*", &mut orders, 2).await?, ["a table", "two chairs"]);
    assert_eq!(read("*.eu", &mut europe, 2).await?, ["one chair", "two chairs"]);
    assert_eq!(read("#", &mut everything, 3).await?, ["a table", "one chair", "two chairs"]);

    // Closing ends the subscriptions; there was nothing more for any of them.
    fabric.close(Duration::from_secs(1)).await?;
    for mut ended in [orders, europe, everything] {
        assert!(ended.recv().await.is_none());
    }
    Ok(())
}

/// The next texts, sorted.
async fn read(pattern: &str, events: &mut Subscription, count: usize) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let delivery = events.recv().await.expect("the fabric is open")?;
        assert_eq!((delivery.source(), delivery.header("Tenant")), ("shop", Some("acme")));
        texts.push(delivery.text()?.into_owned());
    }
    println!("{pattern:<9} got {}", texts.join(", "));
    texts.sort_unstable();
    Ok(texts)
}
