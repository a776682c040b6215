//! Publish and subscribe: patterns, and a copy of each event for each subscriber.
//!
//! ```text
//! cargo run -p fabric --example pub_sub
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::time::Duration;

use fabric::{Event, Fabric, Result, Subscription};

#[tokio::main]
async fn main() -> Result<()> {
    let fabric: Fabric = fabric::connect("memory://").source("shop").await?;

    // A subscription is there once `subscribe` returns: what is published afterwards arrives.
    let mut orders = fabric.subscribe("orders.*").await?;
    let mut europe = fabric.subscribe("*.eu").await?;
    let mut everything = fabric.subscribe("#").await?;

    for (topic, text) in
        [("orders.eu", "two chairs"), ("orders.us", "a table"), ("returns.eu", "one chair")]
    {
        let event = Event::to(topic).header("tenant", "acme").text(text);
        let receipt = fabric.publish(event).timeout(Duration::from_secs(2)).await?;
        println!("published {topic:<12} {text:<12} kept: {}", receipt.routed == Some(true));
    }

    // Closing ends the subscriptions, after what is on its way.
    fabric.close(Duration::from_secs(1)).await?;
    let orders = read("orders.*", &mut orders).await?;
    let europe = read("*.eu", &mut europe).await?;
    let everything = read("#", &mut everything).await?;

    assert_eq!(orders, ["two chairs", "a table"]);
    assert_eq!(europe, ["two chairs", "one chair"]);
    assert_eq!(everything.len(), 3);
    Ok(())
}

async fn read(pattern: &str, events: &mut Subscription) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    while let Some(delivery) = events.recv().await {
        let delivery = delivery?;
        assert_eq!((delivery.source(), delivery.header("Tenant")), ("shop", Some("acme")));
        texts.push(delivery.text()?.into_owned());
    }
    println!("{pattern:<9} got {}", texts.join(", "));
    Ok(texts)
}
