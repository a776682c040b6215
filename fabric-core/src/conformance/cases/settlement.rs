//! A: settlement: nack, leases, attempts, acks that stay.

use std::time::Duration;

use tokio::time::Instant;

use crate::capabilities::Ability;
use crate::chunk::Nack;
use crate::conformance::actors::{Reader, same_event};
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::harness::ChildJob;
use crate::conformance::trial::Trial;
use crate::error::ErrorKind;
use crate::fabric::Fabric;
use crate::group::Group;
use crate::options::AckMode;
use crate::topic::Topic;

/// A1: a nacked event comes again, however often, to whichever member is there; none is lost.
pub async fn a_nacked_event_comes_again(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("nack"), t.group("g"));
    let mut first = member(t, t.fabric(), &topic, &group, "m0").await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 50).await?;
    for name in ["m1", "m2", "m3"] {
        for _ in 0..100 {
            let delivery = first.next().await?;
            first.nack(delivery, Nack::now().because("not now")).await?;
        }
        first.close().await?;
        first = member(t, t.fabric(), &topic, &group, name).await?;
    }
    first.drain().await?;
    let check = t.check(&group);
    check.nothing_lost()?.nothing_unexpected()?;
    ensure!(
        check.duplicates().len() >= 300,
        "300 were given back, {} came again",
        check.duplicates().len()
    );
    Ok(())
}

/// A2: with a prefetch of one, an event that is held keeps the next away; an ack lets it come.
pub async fn an_unsettled_event_holds_back_the_next(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("hold"), t.group("g"));
    let subscription = t.fabric().subscribe(&topic).group(&group).prefetch(1).await?;
    let mut reader = t.reader(subscription, &group, "m");
    t.publisher(t.fabric(), "p").send_many(&topic, 2).await?;
    let held = reader.next().await?;
    reader.quiet().await?;
    reader.ack(held).await?;
    let second = reader.next().await?;
    reader.ack(second).await?;
    reader.quiet().await?;
    t.check(&group).exactly()?.in_order().map(drop)
}

/// A3: an event that its holder does not settle goes to another member after the lease, not before.
pub async fn an_ended_lease_gives_the_event_to_another_member(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("lease"), t.group("g"));
    let mut holder = leased(t, t.fabric(), &topic, &group, "holder").await?;
    t.publisher(t.fabric(), "p").send(&topic).await?;
    let since = Instant::now();
    let held = holder.next().await?;
    let other = t.another().await?;
    let mut heir = leased(t, &other, &topic, &group, "heir").await?;
    let again = heir.next().await?;
    t.timed(since, t.ack_wait(), t.ack_wait())?;
    ensure_eq!(again.id(), held.id(), "the id");
    heir.ack(again).await?;
    heir.quiet_for(2 * t.ack_wait()).await?;
    holder.quiet().await?;
    drop(held);
    Ok(())
}

/// A4: a delivery that is dropped is not settled: it comes again, and the fabric counts it.
pub async fn a_dropped_delivery_comes_again(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("drop"), t.group("g"));
    let mut reader = leased(t, t.fabric(), &topic, &group, "m").await?;
    t.publisher(t.fabric(), "p").send(&topic).await?;
    let before = t.fabric().stats().dropped_deliveries;
    let since = Instant::now();
    drop(reader.next().await?);
    ensure_eq!(
        t.fabric().stats().dropped_deliveries,
        before + 1,
        "the count of dropped deliveries"
    );
    let again = reader.next().await?;
    t.timed(since, Duration::ZERO, t.ack_wait())?;
    reader.ack(again).await?;
    ensure_eq!(
        t.fabric().stats().dropped_deliveries,
        before + 1,
        "an acked delivery is not dropped"
    );
    reader.quiet_for(2 * t.ack_wait()).await
}

/// A5a: after the lease moved, the former holder is told so, and the event stays with the new one.
pub async fn a_stale_settlement_is_refused(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("stale"), t.group("g"));
    let mut former = leased(t, t.fabric(), &topic, &group, "former").await?;
    let other = t.another().await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 3).await?;
    let mut held = former.take(3).await?;
    let mut owner = leased(t, &other, &topic, &group, "owner").await?;
    let owned = owner.take(3).await?;
    let before = t.fabric().stats().stale_settlements;
    let (ack, nack, progress) = (held.pop(), held.pop(), held.pop());
    let (Some(ack), Some(nack), Some(progress)) = (ack, nack, progress) else {
        return Err(Failure::new("three were taken"));
    };
    let failed = ack.ack().await;
    refused(failed.map_err(|failed| failed.error), ErrorKind::StaleAck)?;
    if t.can(Ability::Nack) {
        let failed = nack.nack(Nack::now()).await;
        refused(failed.map_err(|failed| failed.error), ErrorKind::StaleAck)?;
    }
    if t.can(Ability::Extend) {
        refused(progress.progress().await, ErrorKind::StaleAck)?;
    }
    ensure!(t.fabric().stats().stale_settlements > before, "stale settlements are counted");
    for delivery in owned {
        owner.ack(delivery).await?;
    }
    owner.quiet_for(2 * t.ack_wait()).await?;
    former.quiet().await
}

/// A5b: a delivery knows whether its lease still holds, and tells when it ends.
pub async fn a_lost_lease_is_told_to_its_holder(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("lost"), t.group("g"));
    let mut holder = leased(t, t.fabric(), &topic, &group, "holder").await?;
    let other = t.another().await?;
    t.publisher(t.fabric(), "p").send(&topic).await?;
    let since = Instant::now();
    let held = holder.next().await?;
    ensure!(held.is_live(), "a fresh lease holds");
    let mut heir = leased(t, &other, &topic, &group, "heir").await?;
    let (lost, again) = tokio::join!(t.within("`lost`", held.lost()), heir.next());
    lost?;
    t.timed(since, t.ack_wait(), t.ack_wait())?;
    ensure!(!held.is_live(), "a lost lease does not hold");
    let again = again?;
    ensure!(again.is_live(), "the new lease holds");
    heir.ack(again).await
}

/// A6a: what was acked before a graceful close never comes again.
pub async fn what_was_acked_never_comes_again(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("acked"), t.group("g"));
    let client = t.another().await?;
    let mut reader = leased(t, &client, &topic, &group, "m0").await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topic, 100).await?;
    reader.ack_many(100).await?;
    reader.close().await?;
    t.within("closing", client.close(t.timing().patience)).await??;
    let client = t.another().await?;
    let mut reader = leased(t, &client, &topic, &group, "m1").await?;
    reader.quiet_for(2 * t.ack_wait()).await?;
    publisher.send(&topic).await?;
    reader.ack_many(1).await?;
    t.check(&group).exactly().map(drop)
}

/// A6b: an ack after which its lease would have ended stays an ack while the member lives on.
pub async fn an_ack_outlasts_the_lease(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("outlast"), t.group("g"));
    let mut reader = leased(t, t.fabric(), &topic, &group, "m").await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 70).await?;
    // One after the other, in another order, and one of them later than the rest.
    let mut taken = reader.take(70).await?;
    let last = taken.swap_remove(35);
    for delivery in taken.into_iter().rev() {
        reader.ack(delivery).await?;
    }
    reader.quiet_for(t.ack_wait() / 2).await?;
    reader.ack(last).await?;
    reader.quiet_for(2 * t.ack_wait()).await?;
    t.check(&group).exactly().map(drop)
}

/// A7: a consumer whose process is killed loses nothing: what it had not acked goes to another.
pub async fn a_killed_consumer_loses_nothing(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("killed"), t.group("g"));
    leased(t, t.fabric(), &topic, &group, "maker").await?.close().await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 50).await?;
    let job = ChildJob::new(topic.clone(), group.clone(), t.ack_wait(), 50, 20);
    let mut child = t.child(job).await?;
    let acked = child.acked();
    ensure_eq!(acked.len(), 20, "what the child acked");
    child.kill().await?;
    let mut reader = leased(t, t.fabric(), &topic, &group, "heir").await?;
    let mut left: Vec<String> = Vec::new();
    while left.iter().filter(|value| !acked.contains(value)).count() < 30 {
        let delivery = reader.next().await?;
        left.push(reader.value_of(&delivery).to_string());
        reader.ack(delivery).await?;
    }
    reader.drain().await?;
    t.check(&group).nothing_unexpected().map(drop)
}

/// A8a: attempts count from one and grow with every delivery, also when another member gets it.
pub async fn attempts_are_counted(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("attempts"), t.group("g"));
    let mut reader = member(t, t.fabric(), &topic, &group, "m0").await?;
    t.publisher(t.fabric(), "p").send(&topic).await?;
    let mut attempts = Vec::new();
    for round in 0..4 {
        let delivery = reader.next().await?;
        attempts.push(delivery.attempt());
        ensure_eq!(delivery.is_redelivered(), round > 0, "whether it was handed out before");
        if round == 1 {
            reader.nack(delivery, Nack::now()).await?;
            reader.close().await?;
            let other = t.another().await?;
            reader = member(t, &other, &topic, &group, "m1").await?;
        } else if round < 3 {
            reader.nack(delivery, Nack::now()).await?;
        } else {
            reader.ack(delivery).await?;
        }
    }
    ensure_eq!(attempts[0], 1, "the first attempt");
    ensure!(attempts.is_sorted_by(|a, b| a < b), "attempts do not grow: {attempts:?}");
    Ok(())
}

/// A8b: attempts survive a restart of the broker.
pub async fn attempts_survive_a_restart(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("attempts"), t.group("g"));
    // What was on its way to the client when the broker stopped comes when its lease has ended.
    let mut reader = match t.can(Ability::Lease) {
        true => leased(t, t.fabric(), &topic, &group, "m").await?,
        false => member(t, t.fabric(), &topic, &group, "m").await?,
    };
    t.publisher(t.fabric(), "p").send(&topic).await?;
    for _ in 0..2 {
        let delivery = reader.next().await?;
        reader.nack(delivery, Nack::now()).await?;
    }
    let before = reader.next().await?;
    let attempt = before.attempt();
    reader.nack(before, Nack::now()).await?;
    t.broker()?.stop().await?;
    t.broker()?.start().await?;
    let after = reader.next().await?;
    ensure!(after.attempt() > attempt, "attempt {} after {attempt}", after.attempt());
    reader.ack(after).await
}

/// A9: a nack with a delay brings the event back after it, not before; others flow meanwhile.
pub async fn a_delayed_nack_returns_after_its_delay(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("delayed"), t.group("g"));
    let mut reader = member(t, t.fabric(), &topic, &group, "m").await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 10).await?;
    let delay = Duration::from_secs(2);
    let first = reader.next().await?;
    let id = first.id().clone();
    let since = Instant::now();
    reader.nack(first, delay).await?;
    reader.ack_many(9).await?;
    ensure!(since.elapsed() < delay, "the others waited {:?} for it", since.elapsed());
    let again = reader.next().await?;
    t.timed(since, delay, delay)?;
    ensure_eq!(again.id(), &id, "the id");
    reader.ack(again).await?;
    reader.quiet().await?;
    t.check(&group).nothing_lost()?.nothing_unexpected().map(drop)
}

/// A12: progress extends the lease for as long as it is given; without it the lease ends.
pub async fn progress_extends_the_lease(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("extend"), t.group("g"));
    let mut worker = leased(t, t.fabric(), &topic, &group, "worker").await?;
    let other = t.another().await?;
    let mut idle = leased(t, &other, &topic, &group, "idle").await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send(&topic).await?;
    // Whoever gets it works on it; the other one watches.
    let (delivery, watcher) = tokio::select! {
        delivery = worker.next() => (delivery?, &mut idle),
        delivery = idle.next() => (delivery?, &mut worker),
    };
    for _ in 0..8 {
        watcher.quiet_for(t.ack_wait() / 2).await?;
        delivery.progress().await?;
        ensure!(delivery.is_live(), "an extended lease holds");
    }
    let since = Instant::now();
    let again = watcher.next().await?;
    t.timed(since, t.ack_wait() / 2, t.ack_wait())?;
    ensure_eq!(again.id(), delivery.id(), "the id");
    refused(delivery.progress().await, ErrorKind::StaleAck)?;
    watcher.ack(again).await
}

/// A13: what a consumer does to its copy of an event does not show in the next attempt.
pub async fn a_redelivery_is_the_original(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("original"), t.group("g"));
    let mut reader = member(t, t.fabric(), &topic, &group, "m").await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    let (draft, original) =
        publisher.draft(&topic).with(|event| event.header("state", "fresh").key("k")).fixed()?;
    publisher.publish(draft).await?;
    for _ in 0..3 {
        let delivery = reader.next().await?;
        same_event(&delivery, &original)?;
        let mut own = delivery.event().clone();
        own.set_header("state", "used")?;
        own.set_payload("overwritten");
        reader.nack(delivery, Nack::now()).await?;
    }
    reader.ack_many(1).await
}

/// A14: acks out of order skip nothing: the one that was held comes again after a crash.
pub async fn acks_out_of_order_skip_nothing(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("holes"), t.group("g"));
    let client = t.stray().await?;
    let mut reader = leased(t, &client, &topic, &group, "m0").await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 10).await?;
    let mut taken = reader.take(10).await?.into_iter();
    let Some(held) = taken.next() else { return Err(Failure::new("ten were taken")) };
    let id = held.id().clone();
    for delivery in taken {
        reader.ack(delivery).await?;
    }
    // A crash: nothing is closed, nothing is given back by name.
    drop((held, reader, client));
    let mut heir = leased(t, t.fabric(), &topic, &group, "m1").await?;
    let again = heir.next().await?;
    ensure_eq!(again.id(), &id, "the id of what comes again");
    heir.ack(again).await?;
    heir.quiet_for(2 * t.ack_wait()).await
}

/// A15: an ack that waits for the broker is an ack like any other, and final.
pub async fn a_confirmed_ack_is_final(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("confirmed"), t.group("g"));
    let join =
        |fabric: &Fabric| fabric.subscribe(&topic).group(&group).ack_mode(AckMode::Confirmed);
    let mut reader = t.reader(join(t.fabric()).await?, &group, "m0");
    t.publisher(t.fabric(), "p").send_many(&topic, 20).await?;
    reader.ack_many(20).await?;
    // Not even a crash brings them back: each was answered.
    drop(reader);
    let other = t.another().await?;
    let mut reader = t.reader(join(&other).await?, &group, "m1");
    reader.quiet_for(2 * t.timing().quiet).await?;
    t.check(&group).exactly().map(drop)
}

/// A16: without a group there is nothing to settle: `ack` is `Ok`, everything else `Unsupported`.
pub async fn without_a_group_there_is_nothing_to_settle(t: &Trial) -> Verdict {
    let topic = t.topic("plain");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    t.publisher(t.fabric(), "p").send_many(&topic, 4).await?;
    let mut taken = reader.take(4).await?.into_iter();
    let mut next = || taken.next().ok_or_else(|| Failure::new("four were taken"));
    next()?.ack().await?;
    let nacked = next()?.nack(Nack::now()).await;
    refused(nacked.map_err(|failed| failed.error), ErrorKind::Unsupported)?;
    let rejected = next()?.reject("no").await;
    refused(rejected.map_err(|failed| failed.error), ErrorKind::Unsupported)?;
    let last = next()?;
    refused(last.progress().await, ErrorKind::Unsupported)?;
    ensure!(last.is_live(), "nobody takes it away");
    let before = t.fabric().stats().dropped_deliveries;
    drop(last);
    ensure_eq!(t.fabric().stats().dropped_deliveries, before, "a drop without a group");
    reader.quiet().await
}

async fn member(
    t: &Trial,
    fabric: &Fabric,
    topic: &Topic,
    group: &Group,
    name: &str,
) -> Verdict<Reader> {
    Ok(t.reader(fabric.subscribe(topic).group(group).await?, group, name))
}

/// A member of a group with the harness's lease.
async fn leased(
    t: &Trial,
    fabric: &Fabric,
    topic: &Topic,
    group: &Group,
    name: &str,
) -> Verdict<Reader> {
    let join = fabric.subscribe(topic).group(group).ack_wait(t.ack_wait());
    Ok(t.reader(join.await?, group, name))
}
