//! O: order, as far as it is claimed.

use std::collections::HashMap;
use std::time::Duration;

use crate::capabilities::Ability;
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::conformance::harness::Fault;
use crate::conformance::trial::Trial;
use crate::error::RetryClass;

/// O1a: a thousand events of one publisher reach one member in order, and positions only grow.
pub async fn a_group_keeps_the_order_of_a_topic(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("order"), t.group("g"));
    let mut join = t.fabric().subscribe(&topic).group(&group);
    if t.can(Ability::Prefetch) {
        join = join.prefetch(100);
    }
    let mut reader = t.reader(join.await?, &group, "m");
    let mut publisher = t.publisher(t.fabric(), "p");
    let (sent, read) = tokio::join!(
        async {
            for _ in 0..10 {
                publisher.pipeline(&topic, 50).await?;
                publisher.send_many(&topic, 50).await?;
            }
            Ok::<_, Failure>(())
        },
        reader.ack_many(1000)
    );
    sent?;
    read?;
    t.check(&group).exactly()?.in_order().map(drop)
}

/// O1b: the same for a subscription without a group.
pub async fn a_subscription_keeps_the_order_of_a_topic(t: &Trial) -> Verdict {
    let topic = t.topic("order");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    for _ in 0..10 {
        publisher.pipeline(&topic, 50).await?;
        publisher.send_many(&topic, 50).await?;
        reader.ack_many(100).await?;
    }
    t.check("plain").exactly()?.in_order().map(drop)
}

/// O1c: each of ten publishers keeps its own order, and each topic of one publisher its own.
pub async fn each_publisher_keeps_its_own_order(t: &Trial) -> Verdict {
    let group = t.group("g");
    let topics = [t.topic("order.a"), t.topic("order.b")];
    let subscription = t.fabric().subscribe(t.pattern("order.*")).group(&group).await?;
    let mut reader = t.reader(subscription, &group, "m");
    let publishers = (0..10).map(|n| {
        let mut publisher = t.publisher(t.fabric(), &format!("p{n}"));
        let topics = &topics;
        async move {
            for round in 0..50 {
                publisher.send(&topics[round % 2]).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    });
    let sent = futures_util::future::join_all(publishers).await;
    sent.into_iter().collect::<Verdict<Vec<()>>>()?;
    reader.ack_many(500).await?;
    t.check(&group).exactly()?.in_order().map(drop)
}

/// O2b: per key, one member gets events in the order in which they were sent.
pub async fn a_member_gets_each_key_in_order(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("keys"), t.group("g"));
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    send_by_key(t, &topic).await?;
    reader.ack_many(400).await?;
    t.check(&group).exactly()?.keys_in_order().map(drop)
}

/// O2c: per key, order holds over all members of a group, while members join.
pub async fn keys_keep_their_order_across_members(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("keys"), t.group("g"));
    let mut crew = crate::conformance::actors::Crew::new(t.timing());
    for n in 0..3 {
        let subscription = t.fabric().subscribe(&topic).group(&group).await?;
        crew.hire(t.reader(subscription, &group, &format!("m{n}")));
    }
    send_by_key(t, &topic).await?;
    crew.until(400).await?;
    crew.dismiss().await?;
    t.check(&group).nothing_lost()?.nothing_unexpected()?.keys_in_order().map(drop)
}

/// O4: a publisher's order survives links that break: nothing lies behind its successor.
pub async fn order_survives_a_broken_link(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("reset"), t.group("g"));
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    let fault = t.fault()?;
    let client = fault.open().await?;
    let mut publisher = t.publisher(&client, "p");
    let mut confirms = Vec::new();
    for n in 0..2000 {
        let draft = publisher.draft(&topic);
        match publisher.submit(draft).await {
            Ok(pending) => confirms.push(pending),
            Err(error) => {
                ensure!(error.retry() != RetryClass::Never, "a cut link is no reason: {error:#}");
            }
        }
        if n % 400 == 399 {
            t.wait(Duration::from_millis(200)).await;
            fault.inflict(Fault::Reset).await?;
        }
    }
    for (draft, confirm) in confirms {
        publisher.conclude(&draft, &t.within("a confirm", confirm).await?);
    }
    reader.catch_up().await?;
    let check = t.check(&group);
    check.nothing_lost()?.nothing_unexpected()?.in_order()?;
    if t.can(Ability::Dedup) {
        check.no_duplicates()?;
    }
    t.within("closing", client.close(t.timing().patience)).await??;
    Ok(())
}

/// O5: what a batch of submitted events of several topics has is delivered topic by topic in order,
/// and each receipt names a later place than the one before.
pub async fn pipelined_events_lie_in_the_order_of_their_submits(t: &Trial) -> Verdict {
    let topics = [t.topic("lie.a"), t.topic("lie.b"), t.topic("lie.c")];
    let mut reader = t.reader(t.fabric().subscribe(t.pattern("lie.*")).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut confirms = Vec::new();
    for n in 0..300 {
        let draft = publisher.draft(&topics[n % 3]);
        confirms.push(publisher.submit(draft).await?);
    }
    let mut last = HashMap::new();
    for (draft, confirm) in confirms {
        let result = confirm.await;
        publisher.conclude(&draft, &result);
        if let Some(position) = result?.position {
            ensure_eq!(&position.topic, &draft.topic, "the topic of a position");
            let before = last.insert(position.topic.clone(), position.clone());
            let later =
                before.is_none_or(|b| b.is_comparable(&position) && b.offset < position.offset);
            ensure!(later, "{position} is not behind the one before");
        }
    }
    reader.ack_many(300).await?;
    t.check("plain").exactly()?.in_order().map(drop)
}

/// Sixteen keys, four publishers with four keys each, a hundred events per publisher.
pub(super) async fn send_by_key(t: &Trial, topic: &crate::Topic) -> Verdict {
    let publishers = (0..4).map(|p| {
        let mut publisher = t.publisher(t.fabric(), &format!("p{p}"));
        async move {
            for n in 0..100 {
                let draft = publisher.draft(topic).key(&format!("k{p}-{}", n % 4));
                publisher.publish(draft).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    });
    let sent = futures_util::future::join_all(publishers).await;
    sent.into_iter().collect::<Verdict<Vec<()>>>().map(drop)
}
