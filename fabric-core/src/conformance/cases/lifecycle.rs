//! L: opening, reading and closing.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::capabilities::Ability;
use crate::conformance::actors::Crew;
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::error::ErrorKind;
use crate::event::Event;
use crate::options::GroupDefinition;
use crate::pattern::Pattern;
use crate::patterns::Patterns;

/// L1a: a subscription can be closed idle, unread, or beside another, which goes on; what it had
/// not read is there for the next.
pub async fn closing_a_subscription_harms_no_other(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("close"), t.group("g"));
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut other = t.reader(t.fabric().subscribe(&topic).await?, "plain", "other");
    let idle = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "idle");
    t.within("closing an idle one", idle.close()).await??;
    let unread = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "unread");
    publisher.send_many(&topic, 50).await?;
    t.within("closing one that was not read", unread.close()).await??;
    let mut half = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "half");
    half.ack_many(25).await?;
    t.within("closing one that was half read", half.close()).await??;
    publisher.send_many(&topic, 50).await?;
    other.ack_many(100).await?;
    other.quiet().await?;
    let mut heir = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "heir");
    heir.ack_many(75).await?;
    heir.quiet().await?;
    t.check("plain").exactly()?;
    t.check(&group).exactly().map(drop)
}

/// L1b: a fabric that ten close at once, with readers waiting and others blocked, ends every
/// subscription, and what was not settled comes to the next client at once.
pub async fn many_close_a_fabric_at_once(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("closers"), t.group("g"));
    let client = t.another().await?;
    let mut waiting = t.reader(client.subscribe(&topic).await?, "plain", "waiting");
    let mut busy = t.reader(client.subscribe(&topic).group(&group).await?, &group, "busy");
    t.publisher(t.fabric(), "p").send_many(&topic, 50).await?;
    waiting.ack_many(50).await?;
    let held = busy.take(10).await?;
    let closing = join_all((0..10).map(|_| client.close(t.timing().slack)));
    let (closed, ended) = tokio::join!(t.within("ten closings", closing), waiting.end());
    ended?;
    for result in closed? {
        // What was held at the deadline had to be left.
        if let Err(error) = result {
            ensure_eq!(error.kind(), ErrorKind::Timeout, "what closing answers ({error:#})");
        }
    }
    busy.end().await?;
    ensure!(held.iter().all(|delivery| !delivery.is_live()), "a closed fabric holds no lease");
    let mut heir = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "heir");
    heir.ack_many(50).await?;
    heir.quiet().await?;
    t.check(&group).nothing_lost()?.nothing_unexpected().map(drop)
}

/// L1c: closing waits for what is held to be settled, and its acks count.
pub async fn closing_waits_for_acks(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("drain"), t.group("g"));
    let client = t.another().await?;
    let mut reader = t.reader(client.subscribe(&topic).group(&group).await?, &group, "m0");
    t.publisher(t.fabric(), "p").send_many(&topic, 8).await?;
    let held = reader.take(8).await?;
    let acks: Vec<_> = held.into_iter().map(|delivery| reader.ack(delivery)).collect();
    let closing = t.within("closing", client.close(t.timing().patience));
    let (closed, acked) = tokio::join!(closing, async {
        t.wait(Duration::from_millis(200)).await;
        for ack in acks {
            ack.await?;
        }
        Ok::<_, Failure>(())
    });
    acked?;
    closed??;
    let mut heir = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m1");
    heir.quiet_for(2 * t.timing().quiet).await?;
    t.check(&group).exactly().map(drop)
}

/// L4: a receive that is dropped and begun anew, ten thousand times, neither loses nor repeats.
pub async fn a_dropped_receive_loses_nothing(t: &Trial) -> Verdict {
    let topic = t.topic("select");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    let sending = {
        let topic = topic.clone();
        tokio::spawn(async move {
            for n in 0..10_000_u32 {
                publisher.send(&topic).await?;
                if n % 64 == 63 {
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
            }
            Ok::<_, Failure>(())
        })
    };
    let mut count = 0;
    let mut timer = 0_u64;
    while count < 10_000 {
        timer = (timer + 7) % 20;
        match timeout(Duration::from_micros(100 * timer), reader.next()).await {
            Ok(delivery) => {
                reader.ack(delivery?).await?;
                count += 1;
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
    sending.await.map_err(|panic| Failure::new(format!("the publisher failed: {panic}")))??;
    reader.quiet().await?;
    t.check("plain").exactly().map(drop)
}

/// L5a: a member never holds more than its prefetch bound, and gets more as it settles.
pub async fn the_prefetch_bound_holds(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("bound"), t.group("g"));
    let join = t.fabric().subscribe(&topic).group(&group).prefetch(16);
    let mut reader = t.reader(join.await?, &group, "m");
    t.publisher(t.fabric(), "p").send_many(&topic, 200).await?;
    let mut held = reader.take(16).await?;
    reader.quiet().await?;
    for _ in 0..5 {
        reader.ack(held.remove(0)).await?;
    }
    held.extend(reader.take(5).await?);
    reader.quiet().await?;
    for delivery in held {
        reader.ack(delivery).await?;
    }
    reader.ack_many(200 - 21).await?;
    reader.quiet().await?;
    t.check(&group).exactly().map(drop)
}

/// L6: opening, reading a thousand and closing, again and again, loses nothing and repeats nothing.
pub async fn opening_and_closing_loses_nothing(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("rounds"), t.group("g"));
    t.fabric().subscribe(&topic).group(&group).await?.close().await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 5000).await?;
    for round in 0..5 {
        let client = t.another().await?;
        let subscription = client.subscribe(&topic).group(&group).await?;
        let mut reader = t.reader(subscription, &group, &format!("m{round}"));
        // Not where a batch or a fetch ends.
        reader.ack_many(if round < 4 { 993 } else { 5000 - 4 * 993 }).await?;
        reader.close().await?;
        t.within("closing", client.close(t.timing().patience)).await??;
    }
    let mut last = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "last");
    last.quiet().await?;
    t.check(&group).exactly().map(drop)
}

/// L7: a member that leaves gives back what it did not settle, and others get it at once.
pub async fn a_leaving_member_gives_back_at_once(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("leave"), t.group("g"));
    let mut one = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "one");
    let mut two = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "two");
    t.publisher(t.fabric(), "p").send_many(&topic, 200).await?;
    // Whoever has some leaves, and never looks at the rest of what it has: where a partition has one
    // owner, the other may have none.
    let (delivery, leaver, mut heir) = tokio::select! {
        delivery = one.next() => (delivery?, one, two),
        delivery = two.next() => (delivery?, two, one),
    };
    leaver.ack(delivery).await?;
    leaver.close().await?;
    heir.ack_many(199).await?;
    heir.quiet().await?;
    t.check(&group).exactly().map(drop)
}

/// L8: after it was closed a fabric answers `Closed` to everything, its subscriptions end, and its
/// notices end; other clients go on.
pub async fn a_closed_fabric_answers_closed(t: &Trial) -> Verdict {
    let topic = t.topic("closed");
    let mut other = t.reader(t.fabric().subscribe(&topic).await?, "other", "other");
    let client = t.another().await?;
    let mut reader = t.reader(client.subscribe(&topic).await?, "plain", "reader");
    t.within("closing", client.close(t.timing().patience)).await??;
    reader.end().await?;
    refused(client.publish(Event::to(&topic).text("x")).await, ErrorKind::Closed)?;
    let submitted = client.submit(Event::to(&topic).text("x")).await;
    match submitted {
        Err(error) => ensure_eq!(error.kind(), ErrorKind::Closed, "what a submit answers"),
        Ok(confirm) => drop(refused(confirm.await, ErrorKind::Closed)?),
    }
    refused(client.subscribe(&topic).await, ErrorKind::Closed)?;
    if t.can(Ability::Groups) {
        refused(client.subscribe(&topic).group(t.group("g")).await, ErrorKind::Closed)?;
    }
    if t.can(Ability::Replay) {
        refused(client.replay(&topic).await, ErrorKind::Closed)?;
    }
    if t.can(Ability::RequestReply) {
        refused(client.request(Event::to(&topic).text("?")).await, ErrorKind::Closed)?;
        refused(client.responder("r").serve(&topic).await, ErrorKind::Closed)?;
    }
    if t.can(Ability::GroupDefine) {
        let definition = GroupDefinition::new(Patterns::from(Pattern::from(topic.clone())));
        refused(client.groups()?.define(t.group("g"), definition).await, ErrorKind::Closed)?;
    }
    if t.can(Ability::TopicList) {
        refused(client.admin()?.topics(&topic).await, ErrorKind::Closed)?;
    }
    t.within("closing again", client.close(t.timing().patience)).await??;
    t.publisher(t.fabric(), "p").send(&topic).await?;
    other.ack_many(1).await
}

/// L9: twenty members of two clients that join one new group at the same time make one group.
pub async fn joins_at_the_same_time_make_one_group(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("joins"), t.group("g"));
    let second = t.another().await?;
    let joins = (0..20).map(|n| {
        let fabric = if n % 2 == 0 { t.fabric() } else { &second };
        fabric.subscribe(&topic).group(&group)
    });
    let mut crew = Crew::new(t.timing());
    for (n, subscription) in join_all(joins).await.into_iter().enumerate() {
        crew.hire(t.reader(subscription?, &group, &format!("m{n}")));
    }
    t.publisher(t.fabric(), "p").send_many(&topic, 200).await?;
    crew.until(200).await?;
    t.wait(t.timing().quiet).await;
    crew.dismiss().await?;
    t.check(&group).exactly().map(drop)
}
