//! B: deliveries that are received and settled together.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::chunk::Nack;
use crate::conformance::actors::Reader;
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::delivery::DeliveryBatch;
use crate::error::ErrorKind;
use crate::topic::Topic;

/// B1: a batch has what is there and what comes within the time it lingers, never more than asked
/// for, in order, and never waits once it is full.
pub async fn a_batch_gathers_up_to_its_bound(t: &Trial) -> Verdict {
    let topic = t.topic("gather");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topic, 150).await?;
    let hour = Duration::from_secs(3600);
    let mut sizes = Vec::new();
    for _ in 0..2 {
        // A full batch does not wait for the hour to pass.
        let batch = gather(t, &mut reader, 70, hour).await?;
        sizes.push(batch.len());
        batch.ack().await?;
    }
    ensure_eq!(sizes, [70, 70], "the sizes of full batches");
    let linger = Duration::from_millis(300);
    let since = Instant::now();
    let batch = gather(t, &mut reader, 70, linger).await?;
    ensure_eq!(batch.len(), 10, "the size of what was left");
    t.timed(since, linger, linger)?;
    batch.ack().await?;
    publisher.send_many(&topic, 3).await?;
    let batch = gather(t, &mut reader, 1, hour).await?;
    ensure_eq!(batch.len(), 1, "a batch of one");
    batch.ack().await?;
    let one = reader.next().await?;
    reader.ack(one).await?;
    gather(t, &mut reader, 70, Duration::ZERO).await?.ack().await?;
    t.check("plain").exactly()?.in_order().map(drop)
}

/// B2: a batch that is dropped while it gathers loses nothing: the next call returns it.
pub async fn a_dropped_gathering_loses_nothing(t: &Trial) -> Verdict {
    let topic = t.topic("gather");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    for round in 0..20 {
        publisher.send_many(&topic, 5).await?;
        let hour = Duration::from_secs(3600);
        let gathering = reader.subscription().recv_batch(6, hour);
        ensure!(
            timeout(Duration::from_millis(20), gathering).await.is_err(),
            "five are not six in round {round}"
        );
        if round % 2 == 0 {
            publisher.send(&topic).await?;
            gather(t, &mut reader, 6, hour).await?.ack().await?;
        } else {
            reader.ack_many(5).await?;
        }
    }
    reader.quiet().await?;
    t.check("plain").exactly()?.in_order().map(drop)
}

/// B3: an acked batch is acked as a whole.
pub async fn an_acked_batch_never_comes_again(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("ack"), t.group("g"));
    let join = || t.fabric().subscribe(&topic).group(&group).ack_wait(t.ack_wait());
    let mut reader = t.reader(join().await?, &group, "m0");
    t.publisher(t.fabric(), "p").send_many(&topic, 200).await?;
    while !t.check(&group).lost().is_empty() {
        gather(t, &mut reader, 77, t.timing().quiet).await?.ack().await?;
    }
    reader.quiet_for(2 * t.ack_wait()).await?;
    reader.close().await?;
    let mut heir = t.reader(join().await?, &group, "m1");
    heir.quiet().await?;
    t.check(&group).exactly().map(drop)
}

/// B4: a batch can be split by what its events say, and each part settled in its own way.
pub async fn the_parts_of_a_batch_settle_apart(t: &Trial) -> Verdict {
    let group = t.group("g");
    let (good, bad) = (t.topic("parts.good"), t.topic("parts.bad"));
    let subscription = t.fabric().subscribe(t.pattern("parts.*")).group(&group).await?;
    let mut reader = t.reader(subscription, &group, "m");
    let mut publisher = t.publisher(t.fabric(), "p");
    for _ in 0..10 {
        publisher.send(&good).await?;
        publisher.send(&bad).await?;
    }
    let mut batch = DeliveryBatch::default();
    let mut size = 0;
    while size < 20 {
        batch = gather(t, &mut reader, 20 - size, t.timing().quiet).await?;
        size += batch.len();
        if size < 20 {
            // Settled at once, so that the rest is of both kinds all the same.
            settle(batch, &good).await?;
            batch = DeliveryBatch::default();
        }
    }
    settle(batch, &good).await?;
    let mut again = 0;
    while again < 10 {
        let delivery = reader.next().await?;
        ensure_eq!(delivery.topic(), &bad, "what comes again");
        again += 1;
        reader.ack(delivery).await?;
    }
    reader.quiet().await?;
    let check = t.check(&group);
    check.nothing_lost()?.nothing_unexpected()?;
    ensure_eq!(check.duplicates().len(), 10, "how many came twice");
    Ok(())
}

/// B5: a batch of which some leases moved acks the others and hands those back.
pub async fn a_batch_says_what_it_could_not_settle(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("stale"), t.group("g"));
    let join = || t.fabric().subscribe(&topic).group(&group).ack_wait(t.ack_wait());
    let mut reader = t.reader(join().await?, &group, "m");
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topic, 5).await?;
    let old = gather(t, &mut reader, 5, t.timing().quiet).await?;
    ensure_eq!(old.len(), 5, "how many were gathered");
    let again = reader.take(5).await?;
    let failed = old.ack().await;
    let Err(failed) = failed else { return Err(Failure::new("five moved leases were acked")) };
    ensure_eq!(failed.error.kind(), ErrorKind::StaleAck, "what the ack answers");
    ensure_eq!(failed.delivery.len(), 5, "how many are handed back");
    for delivery in again {
        reader.ack(delivery).await?;
    }
    drop(failed);
    reader.quiet_for(2 * t.ack_wait()).await
}

/// B6: a rejected batch is as many dead letters.
pub async fn a_rejected_batch_is_as_many_dead_letters(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("reject"), t.group("g"));
    let dead = Topic::dead_letters(&group);
    let mut letters = t.reader(t.fabric().subscribe(&dead).await?, "letters", "letters");
    let subscription = t.fabric().subscribe(&topic).group(&group).await?;
    let mut reader = t.reader(subscription, &group, "m");
    t.publisher(t.fabric(), "p").send_many(&topic, 12).await?;
    let mut count = 0;
    while count < 12 {
        let batch = gather(t, &mut reader, 12, t.timing().quiet).await?;
        count += batch.len();
        batch.reject("the whole batch").await?;
    }
    letters.ack_many(12).await?;
    letters.quiet().await?;
    reader.quiet().await?;
    t.check("letters").exactly().map(drop)
}

/// B7: without a group a batch acks as `Ok`, and nothing else.
pub async fn a_batch_without_a_group_has_nothing_to_settle(t: &Trial) -> Verdict {
    let topic = t.topic("plain");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    for round in 0..3 {
        publisher.send_many(&topic, 4).await?;
        let batch = gather(t, &mut reader, 4, t.timing().quiet).await?;
        match round {
            0 => batch.ack().await?,
            1 => {
                let result = batch.nack(Nack::now()).await;
                refused(result.map_err(|failed| failed.error), ErrorKind::Unsupported)?;
            }
            _ => {
                let result = batch.reject("no").await;
                refused(result.map_err(|failed| failed.error), ErrorKind::Unsupported)?;
            }
        }
    }
    reader.quiet().await
}

async fn settle(batch: DeliveryBatch, good: &Topic) -> Verdict {
    let (yes, no) = batch.partition(|event| event.topic() == good);
    yes.ack().await?;
    no.nack(Nack::now()).await?;
    Ok(())
}

/// A batch, written down.
async fn gather(
    t: &Trial,
    reader: &mut Reader,
    max: usize,
    linger: Duration,
) -> Verdict<DeliveryBatch> {
    let gathering = reader.subscription().recv_batch(max, linger);
    let Some(batch) = t.within("a batch", gathering).await? else {
        return Err(Failure::new("the subscription ended"));
    };
    let batch = batch?;
    ensure!(!batch.is_empty() && batch.len() <= max, "{} of at most {max}", batch.len());
    ensure_eq!(batch.iter().count(), batch.len(), "the events of a batch");
    for (event, info) in batch.iter().zip(batch.infos()) {
        reader.note(event, &info);
    }
    Ok(batch)
}
