//! F: faults: the broker ends, hangs and forgets, the link breaks, swallows and crawls, the disk is
//! full, rights are taken. What was confirmed is there afterwards, and nobody needs a new handle.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::capabilities::Ability;
use crate::conformance::actors::{Publisher, Reader};
use crate::conformance::chance::chance;
use crate::conformance::failure::{Failure, Verdict, ensure};
use crate::conformance::harness::{Fault, Way};
use crate::conformance::history::{Op, Record, Stage};
use crate::conformance::load::{Load, Setup};
use crate::conformance::trial::Trial;
use crate::error::ErrorKind;
use crate::event::Event;
use crate::notice::{NoticeKind, Notices};
use crate::options::AckMode;
use crate::topic::Topic;

/// F1a: a broker that is stopped, and one that is killed, comes back with all that it confirmed;
/// publishers and members go on with the handles they have, and health says what is.
pub async fn a_restarted_broker_loses_nothing(t: &Trial) -> Verdict {
    let broker = t.broker()?;
    let load = Load::begin(t, Setup::default(), &|| t.open()).await?;
    load.confirmed(t.timing().load / 3).await?;
    broker.stop().await?;
    if broker.nodes() == 1 {
        healthy(t, false).await?;
    }
    broker.start().await?;
    load.goes_on().await?;
    healthy(t, true).await?;
    load.confirmed(t.timing().load / 2).await?;
    broker.kill().await?;
    broker.start().await?;
    load.goes_on().await?;
    load.confirmed(t.timing().load).await?;
    load.end().await.map(drop)
}

/// F1b: a subscription without a group lives on after the broker was stopped, and after it was
/// killed, and the fabric has told of both.
pub async fn a_subscription_outlives_the_broker(t: &Trial) -> Verdict {
    let mut life = Life::begin(t).await?;
    let broker = t.broker()?;
    broker.stop().await?;
    if broker.nodes() == 1 {
        life.told(t, "the loss", |kind| matches!(kind, NoticeKind::Lost { .. })).await?;
    }
    broker.start().await?;
    life.goes_on(t).await?;
    if broker.nodes() == 1 {
        life.told(t, "the return", |kind| matches!(kind, NoticeKind::Restored)).await?;
    }
    broker.kill().await?;
    broker.start().await?;
    life.goes_on(t).await?;
    t.check("plain").nothing_unexpected().map(drop)
}

/// F2: a broker that hangs for longer than a heartbeat is waited for or done without; when it goes
/// on, so does everything, and nothing is lost.
pub async fn a_paused_broker_loses_nothing(t: &Trial) -> Verdict {
    let broker = t.broker()?;
    let load = Load::begin(t, Setup::default(), &|| t.open()).await?;
    for _ in 0..2 {
        load.goes_on().await?;
        broker.pause().await?;
        t.wait(t.timing().outage).await;
        broker.resume().await?;
    }
    load.goes_on().await?;
    load.end().await.map(drop)
}

/// F3a: connections that are reset again and again lose nothing, and leave no more of them behind
/// than there were.
pub async fn a_storm_of_resets_loses_nothing(t: &Trial) -> Verdict {
    let fault = t.fault()?;
    let load = Load::begin(t, Setup::default(), &|| fault.open()).await?;
    let before = fault.links();
    let (mut chance, resets) = (chance(), 15);
    for _ in 0..resets {
        fault.inflict(Fault::Reset).await?;
        t.wait(Duration::from_millis(chance.rng.u64(50..500))).await;
    }
    let judge = async {
        load.goes_on().await?;
        eventually(t, "as many connections as before", || fault.links().open <= before.open)
            .await?;
        let more = fault.links().opened - before.opened;
        let most = 4 * (resets + 1) * before.open as u64;
        ensure!(more <= most, "{more} connections were opened for {resets} resets");
        load.end().await.map(drop)
    };
    chance.judge(judge.await)
}

/// F3b: a client that is refused tries again, ever more seldom, and lives on once it is let in.
pub async fn a_refused_client_tries_again_with_patience(t: &Trial) -> Verdict {
    let fault = t.fault()?;
    let mut life = Life::over(t, fault.open().await?).await?;
    let before = fault.links();
    fault.inflict(Fault::Refuse).await?;
    t.wait(t.timing().outage).await;
    let tries = fault.links().opened - before.opened;
    // Twenty times a second is no backoff.
    let most = before.open.max(1) as u64 * (t.timing().outage.as_millis() as u64 / 50);
    ensure!(tries >= 1, "nobody tried again");
    ensure!(tries <= most, "{tries} tries in {:?}", t.timing().outage);
    fault.heal().await?;
    life.goes_on(t).await?;
    t.check("plain").nothing_unexpected().map(drop)
}

/// F4a: a link that swallows everything, in both directions or in one, is given up and replaced;
/// nothing is lost, and no member is left behind twice.
pub async fn a_link_that_swallows_everything_loses_nothing(t: &Trial) -> Verdict {
    let fault = t.fault()?;
    let load = Load::begin(t, Setup::default(), &|| fault.open()).await?;
    for way in [Way::Both, Way::ToBroker, Way::ToClient] {
        let opened = fault.links().opened;
        fault.inflict(Fault::Swallow(way)).await?;
        t.wait(t.timing().outage).await;
        eventually(t, "another connection", || fault.links().opened > opened).await?;
        fault.heal().await?;
        load.goes_on().await?;
    }
    if t.can(Ability::GroupInfo) {
        for group in load.groups() {
            let until = Instant::now() + t.timing().patience;
            loop {
                let members = t.fabric().groups()?.info(group).await?.members;
                if members == 3 {
                    break;
                }
                ensure!(Instant::now() < until, "{members} members of three are left");
                t.wait(Duration::from_millis(50)).await;
            }
        }
    }
    load.end().await.map(drop)
}

/// F4b: a subscription without a group lives on after its link swallowed everything.
pub async fn a_subscription_outlives_a_link_that_swallows(t: &Trial) -> Verdict {
    let fault = t.fault()?;
    let mut life = Life::over(t, fault.open().await?).await?;
    for way in [Way::Both, Way::ToBroker, Way::ToClient] {
        fault.inflict(Fault::Swallow(way)).await?;
        t.wait(t.timing().outage).await;
        fault.heal().await?;
        life.goes_on(t).await?;
    }
    t.check("plain").nothing_unexpected().map(drop)
}

/// F5: a link that is slow, and one that brings everything byte by byte, is no link that is lost.
pub async fn a_slow_link_is_not_given_up(t: &Trial) -> Verdict {
    let fault = t.fault()?;
    let setup = Setup { publishers: 4, pace: Duration::from_millis(250), ..Setup::default() };
    let load = Load::begin(t, setup, &|| fault.open()).await?;
    let before = fault.links();
    let slow = |slice| Fault::Slow {
        latency: Duration::from_millis(200),
        jitter: Duration::from_millis(50),
        bytes_per_second: Some(64 * 1024),
        slice,
    };
    for slice in [None, Some(1)] {
        fault.inflict(slow(slice)).await?;
        t.wait(t.timing().outage).await;
        load.goes_on().await?;
    }
    let opened = fault.links().opened - before.opened;
    ensure!(opened == 0, "{opened} connections were given up for being slow");
    fault.heal().await?;
    load.goes_on().await?;
    load.end().await.map(drop)
}

/// F6: a link that is cut in the middle of large events brings none of them mixed up or cut short.
pub async fn a_link_cut_midway_mixes_no_events(t: &Trial) -> Verdict {
    let fault = t.fault()?;
    let size = t.caps().max_payload.map_or(256 * 1024, |most| most.min(256 * 1024));
    let pace = Duration::from_millis(50);
    let setup = Setup { publishers: 4, size, pace, ..Setup::default() };
    let load = Load::begin(t, setup, &|| fault.open()).await?;
    let mut chance = chance();
    for _ in 0..20 {
        let bytes = chance.rng.u64(1..2 * size as u64);
        fault.inflict(Fault::CutAfter(bytes)).await?;
        t.wait(Duration::from_millis(chance.rng.u64(50..200))).await;
    }
    // What was not used up would cut much later.
    fault.inflict(Fault::Reset).await?;
    let judge = async {
        load.goes_on().await?;
        load.end().await.map(drop)
    };
    chance.judge(judge.await)
}

/// F7: on a full disk publishes fail in time, and once there is room everything goes on; what had
/// been confirmed is there.
pub async fn a_full_disk_fails_publishes_and_loses_nothing(t: &Trial) -> Verdict {
    let disk = t.disk()?;
    let limit = Some(t.timing().outage);
    let setup = Setup { size: 16 * 1024, limit, ..Setup::default() };
    let load = Load::begin(t, setup, &|| t.open()).await?;
    load.confirmed(100).await?;
    disk.fill().await?;
    load.fails(setup.publishers as u64).await?;
    disk.free().await?;
    load.goes_on().await?;
    load.end().await.map(drop)
}

/// F8: a broker that comes back without anything it knew gets back what its clients had declared, or
/// their subscriptions end with an error that says why; none lives on deaf.
pub async fn a_broker_that_forgot_everything_is_told_again(t: &Trial) -> Verdict {
    let topic = t.topic("forgotten.a");
    let client = t.another().await?;
    let mut readers = vec![t.reader(client.subscribe(&topic).await?, "plain", "plain")];
    if t.can(Ability::Groups) {
        let group = t.group("g");
        let member = client.subscribe(&topic).group(&group).ack_wait(t.ack_wait()).await?;
        readers.push(t.reader(member, &group, "member"));
    }
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send(&topic).await?;
    for reader in &mut readers {
        reader.ack_many(1).await?;
    }
    t.broker()?.wipe().await?;
    for reader in &mut readers {
        hears_or_ends(t, &mut publisher, &topic, reader).await?;
    }
    t.within("closing", client.close(t.timing().patience)).await??;
    Ok(())
}

/// F9: a client whose rights are taken is told so, asks for them without haste, and goes on where it
/// gets them back.
pub async fn revoked_rights_are_told_and_make_no_storm(t: &Trial) -> Verdict {
    let (rights, fault) = (t.rights()?, t.fault()?);
    let client = rights.open().await?;
    let mut notices = client.notices();
    let topic = t.topic("rights");
    let mut reader = t.reader(client.subscribe(&topic).await?, "plain", "plain");
    let mut publisher = t.publisher(&client, "p");
    publisher.send(&topic).await?;
    reader.ack_many(1).await?;
    rights.revoke().await?;
    let ended = told_of_rights(t, &mut publisher, &topic, &mut reader, &mut notices).await?;
    let before = fault.links();
    t.wait(t.timing().outage).await;
    let (opened, bytes) = {
        let after = fault.links();
        (after.opened - before.opened, after.bytes - before.bytes)
    };
    let most = t.timing().outage.as_millis() as u64 / 50;
    ensure!(
        opened <= most && bytes < 256 * 1024,
        "{opened} connections, {bytes} bytes for nothing"
    );
    rights.grant().await?;
    if ended || !hears_or_ends(t, &mut publisher, &topic, &mut reader).await? {
        let until = Instant::now() + t.timing().patience;
        let again = loop {
            match t.within("subscribing with rights", client.subscribe(&topic)).await? {
                Ok(again) => break again,
                // It has not come in again yet.
                Err(error) => ensure!(Instant::now() < until, "with rights again: {error:#}"),
            }
            t.wait(Duration::from_millis(50)).await;
        };
        reader = t.reader(again, "plain", "again");
        hears_or_ends(t, &mut publisher, &topic, &mut reader).await?;
    }
    let draft = publisher.draft(&topic);
    t.within("a publish with rights", publisher.publish(draft)).await??;
    t.check("plain").nothing_unexpected()?;
    t.within("closing", client.close(t.timing().patience)).await??;
    Ok(())
}

/// Waits until a publish or a notice says that the rights are gone, or the subscription does, which
/// may be its end (true).
async fn told_of_rights(
    t: &Trial,
    publisher: &mut Publisher,
    topic: &Topic,
    reader: &mut Reader,
    notices: &mut Notices,
) -> Verdict<bool> {
    let until = Instant::now() + t.timing().patience;
    let mut last = None;
    while Instant::now() < until {
        let draft = publisher.draft(topic);
        match timeout(t.timing().quiet, publisher.publish(draft)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::Unauthorized => return Ok(false),
            other => last = Some(format!("{other:?}")),
        }
        while let Some(notice) = notices.try_next() {
            match notice.kind {
                NoticeKind::Lost { error } if error.kind() == ErrorKind::Unauthorized => {
                    return Ok(false);
                }
                _ => {}
            }
        }
        match reader.soon().await {
            Some(Some(Err(error))) if error.kind() == ErrorKind::Unauthorized => return Ok(true),
            Some(None) => return Err(Failure::new("a subscription ended and did not say why")),
            _ => {}
        }
    }
    Err(Failure::new(format!("nobody told that the rights are gone; the last answer: {last:?}")))
}

/// One publisher and one subscription without a group, and what their client tells.
struct Life {
    publisher: Publisher,
    reader: Reader,
    topic: Topic,
    notices: Notices,
}

impl Life {
    async fn begin(t: &Trial) -> Verdict<Self> {
        let client = t.another().await?;
        Self::over(t, client).await
    }

    async fn over(t: &Trial, client: crate::Fabric) -> Verdict<Self> {
        let topic = t.topic("life");
        let notices = client.notices();
        let reader = t.reader(client.subscribe(&topic).await?, "plain", "plain");
        let mut life = Self { publisher: t.publisher(&client, "p"), reader, topic, notices };
        life.publisher.send(&life.topic).await?;
        life.reader.ack_many(1).await?;
        Ok(life)
    }

    /// What is published from now on arrives, sooner or later.
    async fn goes_on(&mut self, t: &Trial) -> Verdict {
        let Self { publisher, reader, topic, .. } = self;
        match hears_or_ends(t, publisher, topic, reader).await? {
            true => Ok(()),
            false => Err(Failure::new("the subscription ended")),
        }
    }

    async fn told(
        &mut self,
        t: &Trial,
        what: &'static str,
        is_it: impl Fn(&NoticeKind) -> bool + Send,
    ) -> Verdict {
        let until = Instant::now() + t.timing().patience;
        loop {
            match self.notices.try_next() {
                Some(notice) if is_it(&notice.kind) => return Ok(()),
                Some(_) => {}
                None => {
                    ensure!(Instant::now() < until, "nobody told of {what}");
                    t.wait(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

/// Publishes until the reader gets something that was published from now on (true), or its stream
/// ends after an error (false).
async fn hears_or_ends(
    t: &Trial,
    publisher: &mut Publisher,
    topic: &Topic,
    reader: &mut Reader,
) -> Verdict<bool> {
    let until = Instant::now() + 2 * t.timing().patience;
    let mut fresh: Vec<Arc<str>> = Vec::new();
    let mut said = None;
    while Instant::now() < until {
        let draft = publisher.draft(topic);
        fresh.push(Arc::clone(&draft.value));
        // As long as the broker is away, nobody knows: that is no loss.
        let _ = timeout(t.timing().quiet, publisher.publish(draft)).await;
        while let Some(item) = reader.soon().await {
            match item {
                Some(Ok(delivery)) => {
                    let value = reader.value_of(&delivery);
                    // An ack that meets an outage is refused, and the event comes again.
                    let _ = reader.ack(delivery).await;
                    if fresh.contains(&value) {
                        return Ok(true);
                    }
                }
                Some(Err(error)) => said = Some(error),
                None => {
                    ensure!(said.is_some(), "a subscription ended and did not say why");
                    return Ok(false);
                }
            }
        }
    }
    let said = said.map_or_else(|| "nothing".to_owned(), |error| format!("{error:#}"));
    Err(Failure::new(format!("a subscription lives on deaf; the last it said was {said}")))
}

/// L1e: with the broker gone, closing keeps its deadline and answers every publish.
pub async fn closing_without_a_broker_keeps_its_deadline(t: &Trial) -> Verdict {
    let topic = t.topic("gone");
    let client = t.another().await?;
    let mut reader = t.reader(client.subscribe(&topic).await?, "plain", "plain");
    let mut publisher = t.publisher(&client, "p");
    publisher.send(&topic).await?;
    reader.ack_many(1).await?;
    t.broker()?.kill().await?;
    let mut confirms = Vec::new();
    for _ in 0..10 {
        let draft = publisher.draft(&topic);
        if let Ok(Ok(pending)) = timeout(t.timing().quiet, publisher.submit(draft)).await {
            confirms.push(pending);
        }
    }
    let (began, deadline) = (Instant::now(), Duration::from_secs(1));
    // It may say that it had to leave something behind.
    let _ = t.within("closing", client.close(deadline)).await?;
    t.timed(began, Duration::ZERO, deadline)?;
    for (draft, confirm) in confirms {
        publisher.conclude(&draft, &t.within("a confirm", confirm).await?);
    }
    t.within("the end of the subscription", reader.end()).await??;
    let after = t.within("a publish", client.publish(Event::to(&topic).text("x"))).await?;
    ensure!(after.is_err(), "a closed client publishes");
    t.broker()?.start().await?;
    Ok(())
}

/// A6c: an ack that waits for the broker's answer is not `Ok` where none comes, and what it was for
/// comes again.
pub async fn an_ack_without_an_answer_is_not_ok(t: &Trial) -> Verdict {
    let (topic, group, fault) = (t.topic("acks"), t.group("g"), t.fault()?);
    let client = fault.open().await?;
    let join = client.subscribe(&topic).group(&group).ack_wait(t.ack_wait());
    let mut reader = t.reader(join.ack_mode(AckMode::Confirmed).await?, &group, "cut");
    t.publisher(t.fabric(), "p").send_many(&topic, 40).await?;
    let mut taken = reader.take(40).await?;
    let late = taken.split_off(20);
    for delivery in taken {
        reader.ack(delivery).await?;
    }
    fault.inflict(Fault::Swallow(Way::ToBroker)).await?;
    let acks = join_all(late.into_iter().map(|delivery| reader.ack(delivery)));
    let cut = async {
        t.wait(t.timing().outage).await;
        let answered = acked(t, "cut").len();
        ensure!(answered == 20, "{} acks were answered by nobody", answered - 20);
        fault.inflict(Fault::Reset).await?;
        Ok(fault.heal().await?)
    };
    let (_, cut) = t.within("acks", async { tokio::join!(acks, cut) }).await?;
    cut?;
    reader.close().await?;
    let join = t.fabric().subscribe(&topic).group(&group).ack_wait(t.ack_wait()).await?;
    let mut heir = t.reader(join, &group, "heir");
    let until = Instant::now() + 3 * t.ack_wait();
    while Instant::now() < until {
        let Some(item) = heir.soon().await else { continue };
        let delivery = item.ok_or_else(|| Failure::new("the subscription ended"))??;
        let value = heir.value_of(&delivery);
        ensure!(!acked(t, "cut").contains(&value), "{value} was acked for good and came again");
        heir.ack(delivery).await?;
    }
    let settled = acked(t, "cut").len() + acked(t, "heir").len();
    ensure!(settled == 40, "{settled} of 40 were settled");
    t.within("closing", client.close(t.timing().patience)).await??;
    t.check(&group).nothing_lost()?.nothing_unexpected().map(drop)
}

/// What this reader has acked for certain.
fn acked(t: &Trial, actor: &str) -> HashSet<Arc<str>> {
    let records = t.history().records();
    let acked = |record: &&Record| {
        record.op == Op::Ack && record.stage == Stage::Ok && *record.actor == *actor
    };
    records.iter().filter(acked).map(|record| Arc::clone(&record.value)).collect()
}

async fn healthy(t: &Trial, up: bool) -> Verdict {
    let until = Instant::now() + t.timing().patience;
    loop {
        let health = t.within("a health check", t.fabric().health()).await?;
        if health.is_up() == up {
            return Ok(());
        }
        ensure!(Instant::now() < until, "health says {health:?}");
        t.wait(Duration::from_millis(50)).await;
    }
}

async fn eventually(t: &Trial, what: &str, holds: impl Fn() -> bool + Send) -> Verdict {
    let until = Instant::now() + t.timing().patience;
    while !holds() {
        ensure!(Instant::now() < until, "waited for {what}");
        t.wait(Duration::from_millis(20)).await;
    }
    Ok(())
}
