//! A service of handlers: retries, dead letters, outputs, and a graceful end.
//!
//! ```text
//! cargo run -p fabric --example consumer
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fabric::{
    ConsumerBuilder, Context, Event, EventBuilder, Fabric, HandlerError, HandlerResult, Result,
    Retry,
};

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
async fn bake(order: Event, cx: Context<Oven>) -> HandlerResult<EventBuilder> {
    let what = order.text()?;
    if !what.ends_with("bread") {
        // No other try will help: to the dead letters at once.
        return Err(HandlerError::permanent(format!("nobody here bakes {what}")));
    }
    // Any other error: tried again, as the service's policy says.
    cx.state().heat()?;
    println!("baked {what} at attempt {}", cx.attempt());
    Ok(Event::to("ready.bread").caused_by(&order).text(what))
}

/// The service as a value, so that tests assemble the same.
fn bakery(fabric: &Fabric, oven: Oven) -> ConsumerBuilder<Oven> {
    fabric
        .consumer("bakery")
        .state(oven)
        .on_pattern("orders.*", bake)
        .concurrency(4)
        .retry(Retry::fixed(Duration::from_millis(20)).max_attempts(5))
        .timeout(Duration::from_secs(5))
}

#[tokio::main]
async fn main() -> Result<()> {
    let fabric = fabric::connect("memory://").await?;
    let mut ready = fabric.subscribe("ready.*").await?;

    // A program of its own would say `bakery(..).run_until(fabric::shutdown_signal()).await`.
    let service = bakery(&fabric, Oven::default()).start().await?;
    for what in ["rye bread", "white bread", "a cat", "corn bread"] {
        fabric.publish(Event::to("orders.counter").text(what)).await?;
    }
    let mut breads = Vec::new();
    while breads.len() < 3 {
        let bread = ready.recv().await.expect("the fabric is open")?;
        assert!(bread.causation_id().is_some(), "an output knows what caused it");
        breads.push(bread.text()?.into_owned());
    }
    breads.sort();
    println!("ready: {}", breads.join(", "));
    assert_eq!(breads, ["corn bread", "rye bread", "white bread"]);

    // Draining takes no new orders and lets running handlers finish.
    service.drain().await?;
    for event in fabric.dead_letters("bakery").list(10).await? {
        let letter = event.dead_letter().expect("there is nothing else");
        println!("dead letter: {}", letter.error);
        assert_eq!(letter.error, "nobody here bakes a cat");
    }
    assert_eq!(fabric.dead_letters("bakery").count().await?, 1);
    fabric.close(Duration::from_secs(1)).await
}
