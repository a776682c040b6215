//! Dead letters: what was rejected or tried too often is kept, with the reason.
//!
//! ```text
//! cargo run -p fabric --example dead_letter [URL]     memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::time::Duration;

use fabric::{DeadLetterReason, Event, Nack, NoticeKind, Result};
use futures_util::StreamExt as _;

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;
    let mut notices = fabric.notices();
    let mut payments = fabric.subscribe("payments.*").group("billing").max_deliver(3).await?;
    for (id, text) in [("p-1", "20 EUR"), ("p-2", "minus two"), ("p-3", "30 EUR")] {
        fabric.publish(Event::to("payments.card").id(id).text(text)).await?;
    }

    let mut letters = 0;
    while letters < 2 {
        tokio::select! {
            Some(delivery) = payments.recv() => {
                let payment = delivery?;
                let text = payment.text()?.into_owned();
                println!("{} {text:<10} attempt {}", payment.id(), payment.attempt());
                match text.as_str() {
                    // No attempt will ever help: straight to the dead letters.
                    "minus two" => payment.reject("an amount is a number").await?,
                    // Perhaps later. The third time is the last.
                    "30 EUR" => payment.nack(Nack::now().because("the bank is closed")).await?,
                    _ => payment.ack().await?,
                }
            }
            Some(notice) = notices.next() => {
                if let NoticeKind::DeadLettered { group, topic } = notice.kind {
                    println!("notice: {group} has a dead letter of {topic}");
                    letters += 1;
                }
            }
        }
    }

    // Envelope and payload are the original's; the reason lies beside them.
    let letters = fabric.dead_letters("billing");
    let mut found = Vec::new();
    for event in letters.list(10).await? {
        let letter = event.dead_letter().expect("there is nothing else");
        println!(
            "{} {:?} of {}: {} at attempt {}, {}",
            event.id(),
            event.text()?,
            letter.topic,
            letter.reason,
            letter.attempts,
            letter.error
        );
        found.push((event.id().to_string(), letter.reason, letter.attempts, letter.error.clone()));
    }
    found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    assert_eq!(
        found,
        [
            ("p-2".into(), DeadLetterReason::Rejected, 1, "an amount is a number".into()),
            ("p-3".into(), DeadLetterReason::MaxDeliver, 3, "the bank is closed".into()),
        ]
    );

    // The bank has opened: back to this group, and to no other.
    let is_late = |event: &Event| {
        event.dead_letter().is_some_and(|letter| letter.reason == DeadLetterReason::MaxDeliver)
    };
    let sent = letters.redrive().only(is_late).await?;
    let payment = payments.recv().await.expect("the fabric is open")?;
    println!("{} is back, under {}", payment.id(), payment.topic());
    assert_eq!((sent, payment.id().to_string().as_str()), (1, "p-3"));
    assert_eq!(payment.topic(), "payments.card");
    payment.ack().await?;
    assert_eq!(letters.count().await?, 1, "the other one stays until it is purged");
    fabric.close(Duration::from_secs(1)).await
}
