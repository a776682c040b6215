//! A saga: a piece of business that goes through two services. Each reacts to the other's events;
//! where the second cannot do its part the first undoes its own.
//!
//! ```text
//! cargo run -p fabric --example saga [URL]            memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fabric::{ConsumerBuilder, Context, Event, Fabric, HandlerResult, Result, Typed};
use serde::{Deserialize, Serialize};

macro_rules! event {
    ($name:ident, $topic:literal) => {
        #[derive(Event, Serialize, Deserialize)]
        #[event(topic = $topic, key = "order")]
        struct $name {
            order: u32,
            item: String,
            cents: i64,
        }
    };
}

event!(Placed, "order.{order}.placed");
event!(Charged, "order.{order}.charged");
event!(Reserved, "order.{order}.reserved");
event!(SoldOut, "order.{order}.sold_out");
event!(Refunded, "order.{order}.refunded");

/// What the payment service has taken in.
#[derive(Clone, Default)]
struct Till(Arc<Mutex<i64>>);

impl Till {
    fn book(&self, cents: i64) {
        *self.0.lock().expect("nobody panics with it") += cents;
    }
}

/// Charges an order that was placed, and gives the money back where there is nothing to ship.
fn payments(fabric: &Fabric, till: Till) -> ConsumerBuilder<Till> {
    fabric
        .consumer("payments")
        .state(till)
        .on(async |placed: Typed<Placed>, cx: Context<Till>| {
            cx.state().book(placed.cents);
            let Placed { order, item, cents } = &*placed;
            Ok(Charged { order: *order, item: item.clone(), cents: *cents })
        })
        .on(async |sold_out: Typed<SoldOut>, cx: Context<Till>| {
            cx.state().book(-sold_out.cents);
            let SoldOut { order, item, cents } = &*sold_out;
            Ok(Refunded { order: *order, item: item.clone(), cents: *cents })
        })
        .ordered_by_key()
        .concurrency(4)
}

/// What is left of each item.
type Shelf = Arc<Mutex<BTreeMap<String, u32>>>;

async fn reserve(
    charged: Typed<Charged>,
    cx: Context<Shelf>,
) -> HandlerResult<(Option<Reserved>, Option<SoldOut>)> {
    let Charged { order, item, cents } = &*charged;
    let (order, item, cents) = (*order, item.clone(), *cents);
    let mut shelf = cx.state().lock().expect("nobody panics with it");
    match shelf.get_mut(&item).filter(|left| **left > 0) {
        Some(left) => {
            *left -= 1;
            Ok((Some(Reserved { order, item, cents }), None))
        }
        None => Ok((None, Some(SoldOut { order, item, cents }))),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;
    let till = Till::default();
    let shelf: Shelf = Arc::new(Mutex::new(BTreeMap::from([("lamp".to_owned(), 2)])));
    let mut story = fabric.subscribe("order.*.*").await?;
    let payments = payments(&fabric, till.clone()).start().await?;
    let stock = fabric.consumer("stock").state(shelf).on(reserve).start().await?;

    for (order, item) in [(1, "lamp"), (2, "chair"), (3, "lamp"), (4, "lamp")] {
        fabric.publish(Placed { order, item: item.to_owned(), cents: 1000 }).await?;
    }
    let mut ends = BTreeMap::new();
    while ends.len() < 4 {
        let event = story.recv().await.expect("the fabric is open")?;
        let step = event.topic().levels().last().unwrap_or_default().to_owned();
        println!("order {}: {step}", event.key().unwrap_or_default());
        if step == "reserved" || step == "refunded" {
            ends.insert(event.key().unwrap_or_default().to_owned(), step);
        }
    }
    payments.drain().await?;
    stock.drain().await?;
    let shipped = ends.values().filter(|end| *end == "reserved").count();
    assert_eq!((shipped, ends["2"].as_str()), (2, "refunded"));
    let taken = *till.0.lock().expect("nobody panics with it");
    println!("{shipped} orders shipped, {taken} cents kept");
    assert_eq!(taken, 2000, "what could not be shipped was given back");
    fabric.close(Duration::from_secs(1)).await
}
