//! G: groups share, everybody else gets a copy.

use std::time::Duration;

use tokio::time::timeout;

use crate::capabilities::Ability;
use crate::chunk::Nack;
use crate::conformance::actors::Crew;
use crate::conformance::check::Check;
use crate::conformance::failure::{Verdict, ensure, ensure_eq};
use crate::conformance::trial::Trial;
use crate::position::Start;

/// G1: every group gets every event, and what one of them gives back is none of the other's
/// business.
pub async fn every_group_gets_every_event(t: &Trial) -> Verdict {
    let topic = t.topic("fanout");
    let (g1, g2) = (t.group("g1"), t.group("g2"));
    let mut one = t.reader(t.fabric().subscribe(&topic).group(&g1).await?, &g1, "one");
    let mut two = t.reader(t.fabric().subscribe(&topic).group(&g2).await?, &g2, "two");
    t.publisher(t.fabric(), "p").send_many(&topic, 50).await?;
    for delivery in one.take(50).await? {
        if t.can(Ability::Nack) {
            one.nack(delivery, Nack::now()).await?;
        } else {
            one.ack(delivery).await?;
        }
    }
    two.ack_many(50).await?;
    two.quiet().await?;
    one.drain().await?;
    t.check(&g2).exactly()?;
    t.check(&g1).nothing_lost()?.nothing_unexpected().map(drop)
}

/// G2: of ten members each event goes to exactly one, whoever of fifty published it.
pub async fn each_event_goes_to_one_member(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("compete"), t.group("g"));
    let mut crew = Crew::new(t.timing());
    let second = t.another().await?;
    for n in 0..10 {
        let fabric = if n % 2 == 0 { t.fabric() } else { &second };
        let subscription = fabric.subscribe(&topic).group(&group).await?;
        crew.hire(t.reader(subscription, &group, &format!("m{n}")));
    }
    let publishers = (0..50).map(|n| {
        let mut publisher = t.publisher(t.fabric(), &format!("p{n}"));
        let topic = topic.clone();
        async move {
            for _ in 0..100 {
                publisher.send(&topic).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    });
    let sent = futures_util::future::join_all(publishers).await;
    sent.into_iter().collect::<Verdict<Vec<()>>>()?;
    crew.until(5000).await?;
    t.wait(t.timing().quiet).await;
    crew.dismiss().await?;
    t.check(&group).exactly().map(drop)
}

/// G3: members come, go and crash under load: nothing is lost, and what a leaving member acked does
/// not come again.
pub async fn members_come_and_go_without_loss(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("join"), t.group("g"));
    let join = || t.fabric().subscribe(&topic).group(&group).ack_wait(t.ack_wait());
    let mut crew = Crew::new(t.timing());
    crew.hire(t.reader(join().await?, &group, "m0"));
    let leaver = crew.hire(t.reader(join().await?, &group, "m1"));
    let mut publisher = t.publisher(t.fabric(), "p");
    let doomed = t.stray().await?;
    let crashing = doomed.subscribe(&topic).group(&group).ack_wait(t.ack_wait()).await?;
    let mut crashing = Some((t.reader(crashing, &group, "m2"), doomed));
    let mut held = Vec::new();
    for n in 0..600 {
        publisher.send(&topic).await?;
        t.wait(Duration::from_millis(5)).await;
        match n {
            150 => drop(crew.hire(t.reader(join().await?, &group, "m3"))),
            300 => crew.recall(leaver).await?.close().await?,
            // A member that holds some and vanishes.
            449 => {
                held.clear();
                crashing = None;
            }
            _ => {}
        }
        if let Some((reader, _)) = &mut crashing
            && n >= 400
            && let Ok(delivery) = timeout(Duration::from_millis(1), reader.next()).await
        {
            held.push(delivery?);
        }
    }
    crew.until(600).await?;
    crew.dismiss().await?;
    let check = t.check(&group);
    check.nothing_lost()?.nothing_unexpected()?;
    // What came twice had been held by the one that crashed.
    let records = t.history().records();
    let own =
        Check::new(records.into_iter().filter(|r| &*r.actor != "m2").collect(), group.as_str());
    own.no_duplicates().map(drop)
}

/// G4: each further subscription that starts at the oldest event reads everything, each older one
/// what it lacks.
pub async fn each_subscription_reads_what_it_lacks(t: &Trial) -> Verdict {
    let topic = t.topic("rounds");
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send(&topic).await?;
    let mut readers = Vec::new();
    for round in 0..4 {
        publisher.send(&topic).await?;
        let subscription = t.fabric().subscribe(&topic).start_at(Start::All).await?;
        let name = format!("reader{round}");
        let mut reader = t.reader(subscription, &name, &name);
        reader.ack_many(round + 1).await?;
        readers.push(reader);
        for reader in &mut readers {
            reader.ack_many(1).await?;
        }
    }
    for (round, mut reader) in readers.into_iter().enumerate() {
        reader.quiet().await?;
        t.check(format!("reader{round}")).exactly()?.in_order()?;
    }
    Ok(())
}

/// G5: a live group shares what comes while members are there, at most once, with nothing to settle.
pub async fn a_live_group_shares_at_most_once(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("live"), t.group("g"));
    let mut members = Vec::new();
    for n in 0..3 {
        let subscription = t.fabric().subscribe(&topic).live_group(&group).await?;
        members.push(t.reader(subscription, &group, &format!("m{n}")));
    }
    t.publisher(t.fabric(), "p").send_many(&topic, 60).await?;
    let mut count = 0;
    for member in &mut members {
        count += member.drain().await?;
    }
    ensure_eq!(count, 60, "how many were received altogether");
    t.check(&group).exactly().map(drop)
}

/// G6: subscriptions without a group get a copy each, beside a group, and of one client as of two.
pub async fn every_subscription_gets_a_copy(t: &Trial) -> Verdict {
    let topic = t.topic("copies");
    let second = t.another().await?;
    let mut readers = Vec::new();
    for (n, fabric) in [t.fabric(), t.fabric(), &second].into_iter().enumerate() {
        let name = format!("reader{n}");
        readers.push(t.reader(fabric.subscribe(&topic).await?, &name, &name));
    }
    t.publisher(t.fabric(), "p").send_many(&topic, 40).await?;
    t.publisher(&second, "q").send_many(&topic, 40).await?;
    for (n, mut reader) in readers.into_iter().enumerate() {
        reader.ack_many(80).await?;
        reader.quiet().await?;
        t.check(format!("reader{n}")).exactly()?;
        ensure!(reader.foreign() == 0, "nothing of another case came");
    }
    Ok(())
}
