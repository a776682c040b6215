//! W: every queue has a bound, and at the bound happens what was asked for.

use std::time::Duration;

use tokio::time::Instant;

use crate::conformance::actors::{Publisher, Reader};
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::delivery::Delivery;
use crate::error::{Error, ErrorKind, RetryClass};
use crate::notice::NoticeKind;
use crate::options::WhenFull;
use crate::topic::Topic;

/// W1: `Block`: a publisher waits for the reader, then gets `Full`, and knows that nothing was kept;
/// reading one makes room for one.
pub async fn a_full_queue_makes_publishers_wait(t: &Trial) -> Verdict {
    let topic = t.topic("block");
    let mut reader = bounded(t, &topic, WhenFull::Block).await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topic, BOUND).await?;
    let patience = Duration::from_millis(300);
    let since = Instant::now();
    let error = refused(limited(t, &mut publisher, &topic, patience).await, ErrorKind::Full)?;
    t.timed(since, patience, patience)?;
    ensure_eq!(error.retry(), RetryClass::Safe, "whether it may have been accepted");
    let draft = publisher.draft(&topic);
    let (sent, read) =
        tokio::join!(t.within("a publish with room to come", publisher.publish(draft)), async {
            t.wait(patience).await;
            reader.ack_many(1).await
        });
    read?;
    sent??;
    reader.ack_many(BOUND).await?;
    reader.quiet().await?;
    t.check("plain").exactly().map(drop)
}

/// W2: `DropOldest`: the reader gets the newest, and is told first exactly how many it missed.
pub async fn a_full_queue_drops_its_oldest_and_says_how_many(t: &Trial) -> Verdict {
    let topic = t.topic("oldest");
    let mut reader = bounded(t, &topic, WhenFull::DropOldest).await?;
    let mut witness = t.reader(t.fabric().subscribe(t.topic("end")).await?, "end", "witness");
    let mut notices = t.fabric().notices();
    let mut publisher = t.publisher(t.fabric(), "p");
    let before = t.fabric().stats().missed;
    publisher.send_many(&topic, BOUND + 15).await?;
    arrived(t, &mut publisher, &mut witness).await?;
    let (missed, got) = until(t, &mut reader, BOUND + 15).await?;
    ensure_eq!(missed, 15, "how many were reported as missed");
    ensure!(got.iter().all(|number| *number >= 15), "the newest are kept: {got:?}");
    ensure_eq!(t.fabric().stats().missed, before + 15, "the count of missed events");
    let mut told = 0;
    while let Some(notice) = notices.try_next() {
        if let NoticeKind::Lagging { missed, group: None } = notice.kind {
            told += missed;
        }
    }
    ensure_eq!(told, 15, "how many the notices tell of");
    publisher.send_many(&topic, BOUND).await?;
    reader.ack_many(BOUND).await?;
    reader.quiet().await
}

/// W3: `DropNewest`: the reader gets the oldest, and is told exactly how many it missed.
pub async fn a_full_queue_drops_the_newest_and_says_how_many(t: &Trial) -> Verdict {
    let topic = t.topic("newest");
    let mut reader = bounded(t, &topic, WhenFull::DropNewest).await?;
    let mut witness = t.reader(t.fabric().subscribe(t.topic("end")).await?, "end", "witness");
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topic, BOUND + 15).await?;
    arrived(t, &mut publisher, &mut witness).await?;
    let (missed, got) = until(t, &mut reader, BOUND + 15).await?;
    ensure_eq!(missed, 15, "how many were reported as missed");
    ensure_eq!(got, (0..BOUND as u64).collect::<Vec<_>>(), "what was kept");
    publisher.send_many(&topic, BOUND).await?;
    reader.ack_many(BOUND).await?;
    reader.quiet().await
}

/// W4: `Fail`: the publisher gets `Full` at once, and what it got `Full` for is never seen.
pub async fn a_full_queue_refuses(t: &Trial) -> Verdict {
    let topic = t.topic("fail");
    let mut reader = bounded(t, &topic, WhenFull::Fail).await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topic, BOUND).await?;
    for _ in 0..5 {
        let since = Instant::now();
        let draft = publisher.draft(&topic);
        let error = refused(publisher.publish(draft).await, ErrorKind::Full)?;
        t.timed(since, Duration::ZERO, Duration::ZERO)?;
        ensure_eq!(error.retry(), RetryClass::Safe, "whether it may have been accepted");
        ensure!(error.to_string().contains(topic.as_str()), "the topic is not named: {error}");
    }
    reader.ack_many(BOUND).await?;
    publisher.send_many(&topic, BOUND).await?;
    reader.ack_many(BOUND).await?;
    reader.quiet().await?;
    t.check("plain").exactly().map(drop)
}

/// W5: what a group has not settled is never evicted: the publisher gets `Full`, which names the
/// group, and every accepted event is delivered.
pub async fn what_is_not_settled_is_never_evicted(t: &Trial) -> Verdict {
    let (topic, group, bound) = (t.topic("kept"), t.group("g"), t.topic_bound()?);
    let mut notices = t.fabric().notices();
    t.fabric().subscribe(&topic).group(&group).await?.close().await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    let error = fill(t, &mut publisher, &topic, bound).await?;
    ensure_eq!(error.retry(), RetryClass::Safe, "whether it may have been accepted");
    ensure!(error.to_string().contains(group.as_str()), "the group is not named: {error}");
    let mut told = false;
    while let Some(notice) = notices.try_next() {
        if let NoticeKind::Full { topic: full, group: Some(by) } = notice.kind {
            told |= full == topic && by == group;
        }
    }
    ensure!(told, "no notice says that the topic is full");
    let count = t.history().count(|record| record.stage == crate::conformance::Stage::Ok);
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    reader.ack_many(count).await?;
    reader.quiet().await?;
    // Settled ones make room.
    publisher.send_many(&topic, 10).await?;
    reader.ack_many(10).await?;
    t.check(&group).exactly()?.in_order().map(drop)
}

/// W6: a publisher that waits for a group is let through when the group settles, and nobody
/// overtakes it.
pub async fn waiting_publishers_keep_their_order(t: &Trial) -> Verdict {
    let (topic, group, bound) = (t.topic("wait"), t.group("g"), t.topic_bound()?);
    t.fabric().subscribe(&topic).group(&group).await?.close().await?;
    let mut filler = t.publisher(t.fabric(), "filler");
    fill(t, &mut filler, &topic, bound).await?;
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    let mut publisher = t.publisher(t.fabric(), "p");
    let sending = {
        let topic = topic.clone();
        tokio::spawn(async move { publisher.send_many(&topic, 300).await })
    };
    let count = t.history().count(|record| record.stage == crate::conformance::Stage::Ok);
    reader.ack_many(count + 300).await?;
    sending.await.map_err(|panic| Failure::new(format!("the publisher failed: {panic}")))??;
    reader.quiet().await?;
    t.check(&group).exactly()?.in_order().map(drop)
}

/// W7: a group that asked for it loses its oldest, and is told exactly how many.
pub async fn a_group_that_asks_for_it_loses_its_oldest(t: &Trial) -> Verdict {
    let (topic, group, bound) = (t.topic("lossy"), t.group("g"), t.topic_bound()?);
    let join = || t.fabric().subscribe(&topic).group(&group).when_full(WhenFull::DropOldest);
    join().await?.close().await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    let count = bound + bound / 4;
    publisher.send_many(&topic, count).await?;
    let mut reader = t.reader(join().await?, &group, "m");
    let (missed, got) = until(t, &mut reader, count).await?;
    ensure!(missed > 0, "more than {bound} were kept");
    ensure!(got.is_sorted_by(|a, b| a < b), "the order of what was kept");
    ensure_eq!(got.first().copied(), Some(missed), "the oldest that was kept");
    reader.quiet().await
}

/// W8: a slow subscription without a group is told exactly what retention took from it.
pub async fn a_slow_reader_is_told_what_it_missed(t: &Trial) -> Verdict {
    let (topic, bound) = (t.topic("slow"), t.topic_bound()?);
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    let count = bound + bound / 4;
    publisher.send_many(&topic, count).await?;
    let (missed, got) = until(t, &mut reader, count).await?;
    ensure!(missed > 0, "more than {bound} were kept");
    ensure!(got.is_sorted_by(|a, b| a < b), "the order of what was kept");
    publisher.send_many(&topic, 10).await?;
    reader.ack_many(10).await?;
    reader.quiet().await
}

/// How many events the bounded subscriptions take unread.
const BOUND: usize = 10;

async fn bounded(t: &Trial, topic: &Topic, policy: WhenFull) -> Verdict<Reader> {
    let subscribe = t.fabric().subscribe(topic).prefetch(BOUND).when_full(policy);
    Ok(t.reader(subscribe.await?, "plain", "reader"))
}

/// Resolves when everything that was sent before has arrived: on a transport that keeps nothing, a
/// publish may be answered before the event is where it goes.
async fn arrived(t: &Trial, publisher: &mut Publisher, witness: &mut Reader) -> Verdict {
    publisher.send(&t.topic("end")).await?;
    witness.ack_many(1).await
}

/// Reads until what was received and what was reported as missed make up `count`.
async fn until(t: &Trial, reader: &mut Reader, count: usize) -> Verdict<(u64, Vec<u64>)> {
    let mut missed = 0;
    let mut got = Vec::new();
    while missed + (got.len() as u64) < count as u64 {
        match reader.next_item().await? {
            Some(Ok(delivery)) => {
                got.push(number(reader, &delivery));
                reader.ack(delivery).await?;
            }
            Some(Err(error)) if error.kind() == ErrorKind::Lagged => {
                ensure!(error.missed().is_some_and(|missed| missed > 0), "a lag of nothing");
                missed += error.missed().unwrap_or(0);
            }
            other => return Err(Failure::new(format!("{other:?} while reading"))),
        }
    }
    let total = missed + got.len() as u64;
    ensure_eq!(total, count as u64, "what was received and what was missed");
    reader.quiet().await?;
    t.check(reader.audience()).nothing_unexpected()?.no_duplicates()?;
    Ok((missed, got))
}

fn number(reader: &Reader, delivery: &Delivery) -> u64 {
    let value = reader.value_of(delivery);
    value.rsplit('|').next().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

async fn limited(
    t: &Trial,
    publisher: &mut Publisher,
    topic: &Topic,
    patience: Duration,
) -> crate::Result<crate::Receipt> {
    let draft = publisher.draft(topic);
    publisher.begin(&draft);
    let result = t.fabric().publish(draft.event.clone()).timeout(patience).await;
    publisher.conclude(&draft, &result);
    result
}

/// Publishes until the topic takes no more, which has to be after `bound` events.
async fn fill(t: &Trial, publisher: &mut Publisher, topic: &Topic, bound: usize) -> Verdict<Error> {
    for _ in 0..bound {
        publisher.send(topic).await?;
    }
    // A broker may take a few more than it says; not for ever.
    for _ in 0..bound {
        if let Err(error) = limited(t, publisher, topic, Duration::from_millis(200)).await {
            return refused(Err::<(), _>(error), ErrorKind::Full);
        }
    }
    Err(Failure::new(format!("{} events fit into a topic of {bound}", 2 * bound)))
}
