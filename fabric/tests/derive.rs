//! `#[derive(Event)]` as users of this crate write it: one import brings the struct and the macro.

#![cfg(all(feature = "memory", feature = "json", feature = "derive"))]

use std::time::Duration;

use fabric::{Context, Event, Fabric, HandlerResult, Priority, Result, Typed, TypedEvent};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "plan.{plan}.step_ready", version = 2, key = "plan")]
struct StepReady {
    plan: String,
    step: u32,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "plan.{plan}.step_done", priority = "high", ttl = "10m")]
struct StepDone {
    plan: String,
    step: u32,
}

async fn step_ready(ready: Typed<StepReady>, _: Context) -> HandlerResult<StepDone> {
    Ok(StepDone { plan: ready.plan.clone(), step: ready.step })
}

async fn memory() -> Fabric {
    fabric::connect("memory://").await.expect("memory is always there")
}

#[tokio::test(start_paused = true)]
async fn a_handler_answers_one_type_with_another() -> Result<()> {
    let fabric = memory().await;
    let mut done = fabric.subscribe(StepDone::PATTERN).await?;
    let planner = fabric.consumer("planner").on(step_ready).start().await?;
    fabric.publish(StepReady { plan: "p".to_owned(), step: 1 }).await?;
    fabric.publish(Event::of(StepReady { plan: "p".to_owned(), step: 2 }).id("second")).await?;
    for step in 1..=2 {
        let delivery = done.recv().await.unwrap()?;
        assert_eq!(delivery.topic(), &"plan.p.step_done");
        assert_eq!(delivery.priority(), Priority::High);
        assert_eq!(delivery.ttl(), Some(Duration::from_secs(600)));
        assert_eq!(delivery.decode::<StepDone>()?.step, step);
    }
    planner.drain().await
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "pricing.{symbol}", event_type = "get_quote", reply = Quote)]
struct GetQuote {
    symbol: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "pricing.quote")]
struct Quote {
    cents: u64,
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_by_its_reply() -> Result<()> {
    let fabric = memory().await;
    let pricing = fabric
        .responder("pricing")
        .on(async |ask: Typed<GetQuote>, _| Ok(Quote { cents: ask.symbol.len() as u64 }))
        .start()
        .await?;
    let quote = fabric.request(GetQuote { symbol: "ACME".to_owned() }).await?;
    assert_eq!(quote.cents, 4);
    pricing.drain(Duration::from_secs(1)).await
}
