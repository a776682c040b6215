//! A service of handlers: typed events, retries, dead letters, outputs, and a graceful end.
//!
//! ```text
//! cargo run -p fabric --example consumer [URL]        memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fabric::{
    ConsumerBuilder, Context, Event, Fabric, HandlerError, HandlerResult, Result, Retry, Typed,
    TypedEvent as _,
};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "orders.{counter}", key = "counter")]
struct Order {
    counter: u32,
    what: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "ready.{counter}", key = "counter")]
struct Ready {
    counter: u32,
    what: String,
}

/// What all handlers share: an oven that takes two tries to heat up.
#[derive(Clone, Default)]
struct Oven {
    tries: Arc<AtomicU32>,
}

impl Oven {
    fn heat(&self) -> std::io::Result<()> {
        match self.tries.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Err(std::io::Error::other("the oven is cold")),
            _ => Ok(()),
        }
    }
}

/// What a handler returns is published, and confirmed, before its order is acked.
async fn bake(order: Typed<Order>, cx: Context<Oven>) -> HandlerResult<Ready> {
    let Order { counter, what } = &*order;
    if !what.ends_with("bread") {
        // No other try will help: to the dead letters at once.
        return Err(HandlerError::permanent(format!("nobody here bakes {what}")));
    }
    // Any other error: tried again, as the service's policy says.
    cx.state().heat()?;
    println!("counter {counter}: {what} at attempt {}", cx.attempt());
    Ok(Ready { counter: *counter, what: what.clone() })
}

/// The service as a value, so that tests assemble the same.
fn bakery(fabric: &Fabric, oven: Oven) -> ConsumerBuilder<Oven> {
    fabric
        .consumer("bakery")
        .state(oven)
        .on(bake)
        .concurrency(4)
        .ordered_by_key()
        .retry(Retry::fixed(Duration::from_millis(20)).max_attempts(5))
        .timeout(Duration::from_secs(5))
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;
    let mut ready = fabric.subscribe(Ready::PATTERN).await?;

    // A program of its own would say `bakery(..).run_until(fabric::shutdown_signal()).await`.
    let service = bakery(&fabric, Oven::default()).start().await?;
    for (counter, what) in
        [(1, "rye bread"), (2, "white bread"), (1, "a cat"), (1, "corn bread"), (2, "flat bread")]
    {
        fabric.publish(Order { counter, what: what.to_owned() }).await?;
    }
    let mut counters = [Vec::new(), Vec::new()];
    for _ in 0..4 {
        let bread = ready.recv().await.expect("the fabric is open")?.decode::<Ready>()?;
        counters[bread.counter as usize - 1].push(bread.what.clone());
    }
    println!("ready: {counters:?}");
    // The order of each counter is kept, also by those that had to be tried again.
    assert_eq!(counters[0], ["rye bread", "corn bread"]);
    assert_eq!(counters[1], ["white bread", "flat bread"]);

    // Draining takes no new orders and lets running handlers finish.
    service.drain().await?;
    let letters = fabric.dead_letters("bakery").list(10).await?;
    let reasons = letters.iter().filter_map(|event| event.dead_letter());
    let reasons: Vec<&str> = reasons.map(|letter| letter.error.as_str()).collect();
    println!("dead letters: {reasons:?}");
    assert_eq!(reasons, ["nobody here bakes a cat"]);
    fabric.close(Duration::from_secs(1)).await
}
