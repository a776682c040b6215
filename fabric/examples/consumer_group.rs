//! A durable group: each event to one member, and to another if that one does not settle it.
//!
//! ```text
//! cargo run -p fabric --example consumer_group [URL]  memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::collections::BTreeSet;
use std::time::Duration;

use fabric::{ErrorKind, Event, Fabric, Nack, Result, Subscription};

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;

    // The first member makes the group. From then on it keeps events, also while nobody is there.
    let mut ann = join(&fabric).await?;
    let mut bob = join(&fabric).await?;
    for n in 1..=10 {
        fabric.publish(Event::to("jobs.resize").text(n.to_string())).await?;
    }

    // Each event goes to one of them.
    let mut done = BTreeSet::new();
    let job = next(&mut ann).await?;
    println!("Ann does job {} and says so", job.text()?);
    done.insert(job.text()?.into_owned());
    job.ack().await?;

    // Who cannot do it now gives it back, here at once; others flow meanwhile.
    let job = next(&mut bob).await?;
    println!("Bob gives job {} back", job.text()?);
    job.nack(Nack::now().because("the disk is full")).await?;

    // Who goes away without a word loses the lease. Nothing is lost.
    let held = next(&mut ann).await?;
    println!("Ann takes job {} and is never seen again", held.text()?);
    drop((held, ann));

    while done.len() < 10 {
        let job = next(&mut bob).await?;
        let text = job.text()?.into_owned();
        println!("Bob does job {text}, attempt {}", job.attempt());
        job.ack().await?;
        assert!(done.insert(text), "every job is done once");
    }

    // The group outlives its members. Its name is its identity, its patterns its definition.
    bob.close().await?;
    let info = fabric.groups()?.info("resizers").await?;
    println!("the group has {} members and {} events to do", info.members, info.pending());
    assert_eq!((info.members, info.pending(), info.undelivered()), (0, 0, 0));
    let refused = fabric.subscribe("jobs.*").group("resizers").await;
    let error = refused.expect_err("the patterns differ");
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::GroupMismatch);
    fabric.close(Duration::from_secs(1)).await
}

async fn join(fabric: &Fabric) -> Result<Subscription> {
    fabric
        .subscribe("jobs.resize")
        .group("resizers")
        .ack_wait(Duration::from_millis(200))
        .prefetch(1)
        .await
}

async fn next(member: &mut Subscription) -> Result<fabric::Delivery> {
    member.recv().await.expect("the fabric is open")
}
