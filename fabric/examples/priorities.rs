//! Priorities: where a queue holds several events, the more urgent comes first.
//!
//! ```text
//! cargo run -p fabric --example priorities [URL]      memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::time::Duration;

use fabric::{Event, GroupDefinition, IntoPatterns as _, Priority, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;
    // The group keeps what comes before its first member does.
    let definition = GroupDefinition::new("alarms.*".into_patterns()?);
    fabric.groups()?.define("guards", definition).await?;

    let urgent = [
        ("a bulb is broken", Priority::Low),
        ("the door is open", Priority::Normal),
        ("smoke in room 12", Priority::Critical),
        ("a window is open", Priority::Normal),
        ("water in the cellar", Priority::High),
    ];
    for (text, priority) in urgent {
        println!("published {:<8} {text}", priority.as_str());
        fabric.publish(Event::to("alarms.house").priority(priority).text(text)).await?;
    }

    let mut alarms = fabric.subscribe("alarms.*").group("guards").await?;
    let mut order = Vec::new();
    while order.len() < urgent.len() {
        let alarm = alarms.recv().await.expect("the fabric is open")?;
        println!("handled   {:<8} {}", alarm.priority().as_str(), alarm.text()?);
        order.push(alarm.text()?.into_owned());
        alarm.ack().await?;
    }
    // Among equals it is first come, first served.
    assert_eq!(
        order,
        [
            "smoke in room 12",
            "water in the cellar",
            "the door is open",
            "a window is open",
            "a bulb is broken",
        ]
    );
    fabric.close(Duration::from_secs(1)).await
}
