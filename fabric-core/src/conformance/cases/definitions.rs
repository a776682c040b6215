//! D: a group's name is its identity, and its definition is stored with it.

use std::time::Duration;

use crate::capabilities::Ability;
use crate::conformance::actors::Reader;
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::error::ErrorKind;
use crate::group::Group;
use crate::options::{DEFAULT_ACK_WAIT, GroupDefinition};
use crate::pattern::Pattern;
use crate::patterns::{IntoPatterns as _, Patterns};
use crate::position::Start;

/// D1: joining with other patterns is refused, with both lists and the way out; in another order
/// they are the same, and whoever is a member already stays one.
pub async fn joining_with_other_patterns_is_refused(t: &Trial) -> Verdict {
    let group = t.group("g");
    let (a, b, c) = (t.pattern("a.*"), t.pattern("b"), t.pattern("c"));
    let fabric = t.fabric();
    let mut member = t.reader(fabric.subscribe([&a, &b]).group(&group).await?, &group, "member");
    fabric.subscribe([&b, &a]).group(&group).await?.close().await?;
    let other = t.another().await?;
    for (who, patterns) in [(fabric, vec![&a]), (&other, vec![&a, &b, &c]), (&other, vec![&c])] {
        let error =
            refused(who.subscribe(&patterns).group(&group).await, ErrorKind::GroupMismatch)?;
        let text = error.to_string();
        let asked = patterns.iter().all(|pattern| text.contains(pattern.as_str()));
        ensure!(text.contains(&a) && text.contains(&b), "what is stored is not named: {text}");
        ensure!(asked, "what was asked for is not named: {text}");
        ensure!(text.contains("redefine_group"), "the way out is not named: {text}");
        ensure_eq!(error.context("group"), Some(group.as_str()), "the group in the error");
    }
    let mut publisher = t.publisher(fabric, "p");
    publisher.send(&t.topic("a.x")).await?;
    publisher.send(&t.topic("c")).await?;
    member.ack_many(1).await?;
    member.quiet().await
}

/// D2a: another `ack_wait` than the stored one is refused, and what is left out is as stored.
pub async fn another_lease_is_refused(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("lease"), t.group("g"));
    let wait = t.ack_wait();
    let join = || t.fabric().subscribe(&topic).group(&group);
    let subscription = join().ack_wait(wait).await?;
    ensure_eq!(subscription.definition().map(|d| d.ack_wait), Some(wait), "the stored lease");
    refused(join().ack_wait(2 * wait).await, ErrorKind::GroupMismatch)?;
    join().ack_wait(wait).await?.close().await?;
    let silent = t.another().await?.subscribe(&topic).group(&group).await?;
    ensure_eq!(
        silent.definition().map(|d| d.ack_wait),
        Some(wait),
        "the lease of who asks for none"
    );
    subscription.close().await?;
    silent.close().await?;
    // Without members the definition is what it was.
    refused(join().ack_wait(2 * wait).await, ErrorKind::GroupMismatch).map(drop)
}

/// D2b: another `max_deliver` than the stored one is refused.
pub async fn another_delivery_limit_is_refused(t: &Trial) -> Verdict {
    let topic = t.topic("limit");
    let (limited, unlimited) = (t.group("limited"), t.group("unlimited"));
    let join = |group| t.fabric().subscribe(&topic).group(group);
    join(&limited).max_deliver(3).await?.close().await?;
    join(&unlimited).await?.close().await?;
    refused(join(&limited).max_deliver(4).await, ErrorKind::GroupMismatch)?;
    refused(join(&unlimited).max_deliver(3).await, ErrorKind::GroupMismatch)?;
    let stored = join(&limited).await?;
    ensure_eq!(stored.definition().and_then(|d| d.max_deliver), Some(3), "the stored limit");
    let stored = join(&unlimited).await?;
    ensure_eq!(stored.definition().and_then(|d| d.max_deliver), None, "no limit");
    Ok(())
}

/// D2c: another start than the stored one is refused; the same one does not begin anew.
pub async fn another_start_is_refused(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("start"), t.group("g"));
    let join = || t.fabric().subscribe(&topic).group(&group);
    t.publisher(t.fabric(), "p").send_many(&topic, 3).await?;
    let mut reader = t.reader(join().start_at(Start::All).await?, &group, "m0");
    reader.ack_many(3).await?;
    reader.close().await?;
    refused(join().start_at(Start::New).await, ErrorKind::GroupMismatch)?;
    let mut again = t.reader(join().start_at(Start::All).await?, &group, "m1");
    again.quiet().await?;
    again.close().await?;
    let subscription = join().await?;
    ensure_eq!(subscription.definition().map(|d| d.start.clone()), Some(Start::All), "the start");
    t.check(&group).exactly().map(drop)
}

/// D3: what a group's first member left out has the documented defaults.
pub async fn a_definition_has_the_documented_defaults(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("defaults"), t.group("g"));
    let subscription = t.fabric().subscribe(&topic).group(&group).await?;
    let Some(stored) = subscription.definition() else {
        return Err(Failure::new("a member does not know its group's definition"));
    };
    ensure_eq!(stored.patterns, (&topic).into_patterns()?, "the patterns");
    ensure_eq!(stored.start, Start::New, "the start");
    ensure_eq!(stored.ack_wait, DEFAULT_ACK_WAIT, "the lease");
    ensure_eq!(stored.max_deliver, None, "the delivery limit");
    let plain = t.fabric().subscribe(&topic).await;
    if let Ok(plain) = plain {
        ensure!(plain.definition().is_none(), "without a group nothing is stored");
    }
    Ok(())
}

/// D4a: redefining keeps the place: what was queued under kept and removed patterns is delivered,
/// once, and what added patterns match begins with what comes.
pub async fn a_redefined_group_keeps_its_place(t: &Trial) -> Verdict {
    let group = t.group("g");
    let (kept, removed, added) = (t.topic("kept"), t.topic("removed"), t.topic("added"));
    let mut reader =
        t.reader(t.fabric().subscribe([&kept, &removed]).group(&group).await?, &group, "m0");
    let mut before = t.publisher(t.fabric(), "before");
    for topic in [&kept, &removed, &added] {
        before.send_many(topic, 10).await?;
    }
    reader.ack_many(7).await?;
    reader.close().await?;
    t.fabric().groups()?.redefine(&group, [&kept, &added]).await?;
    let mut after = t.publisher(t.fabric(), "after");
    for topic in [&kept, &removed, &added] {
        after.send_many(topic, 10).await?;
    }
    let joined = t.fabric().subscribe([&added, &kept]).group(&group).await?;
    let mut reader = t.reader(joined, &group, "m1");
    reader.ack_many(13 + 20).await?;
    reader.quiet().await?;
    let wanted = |actor: &str, topic: &crate::Topic| match actor {
        "before" => *topic != added,
        _ => *topic != removed,
    };
    t.check(&group).of_publishes(|record| wanted(&record.actor, &record.topic)).exactly()?;
    let error = t.fabric().subscribe([&kept, &removed]).group(&group).await;
    refused(error, ErrorKind::GroupMismatch).map(drop)
}

/// D4b: a member that joins with `redefine_group()` brings its patterns, under members that are
/// there.
pub async fn a_member_can_redefine_its_group(t: &Trial) -> Verdict {
    let group = t.group("g");
    let (old, new) = (t.topic("old"), t.topic("new"));
    let mut first = t.reader(t.fabric().subscribe(&old).group(&group).await?, &group, "first");
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&old, 5).await?;
    first.ack_many(5).await?;
    let join = t.fabric().subscribe([&old, &new]).group(&group).redefine_group();
    let second = t.reader(join.await?, &group, "second");
    second.close().await?;
    publisher.send_many(&new, 5).await?;
    publisher.send_many(&old, 5).await?;
    first.ack_many(10).await?;
    first.quiet().await?;
    t.check(&group).exactly().map(drop)
}

/// D4c: a pattern that was removed and is added again skips what came between.
pub async fn a_pattern_that_comes_back_begins_at_new(t: &Trial) -> Verdict {
    let group = t.group("g");
    let (stays, flips) = (t.topic("stays"), t.topic("flips"));
    let care = t.fabric().groups()?;
    t.fabric().subscribe([&stays, &flips]).group(&group).await?.close().await?;
    let mut wanted = t.publisher(t.fabric(), "wanted");
    let mut unwanted = t.publisher(t.fabric(), "unwanted");
    wanted.send_many(&flips, 3).await?;
    care.redefine(&group, &stays).await?;
    unwanted.send_many(&flips, 3).await?;
    care.redefine(&group, [&stays, &flips]).await?;
    wanted.send_many(&flips, 3).await?;
    let joined = t.fabric().subscribe([&stays, &flips]).group(&group).await?;
    let mut reader = t.reader(joined, &group, "m");
    reader.ack_many(6).await?;
    reader.quiet().await?;
    t.check(&group).of_publishes(|record| &*record.actor == "wanted").exactly().map(drop)
}

/// D5: redefining a group that is not there is `NotFound`; joining with it makes the group.
pub async fn redefining_nothing_is_not_found(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("nothing"), t.group("g"));
    let redefined = t.fabric().groups()?.redefine(&group, &topic).await;
    refused(redefined, ErrorKind::NotFound)?;
    let join = t.fabric().subscribe(&topic).group(&group).redefine_group();
    let mut reader = t.reader(join.await?, &group, "m");
    t.publisher(t.fabric(), "p").send(&topic).await?;
    reader.ack_many(1).await
}

/// D6: a group that is defined without a member keeps what is published from then on.
pub async fn a_defined_group_keeps_events_without_a_member(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("defined"), t.group("g"));
    let care = t.fabric().groups()?;
    t.publisher(t.fabric(), "early").send_many(&topic, 5).await?;
    let definition = definition(&topic).with_ack_wait(t.ack_wait());
    care.define(&group, definition.clone()).await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topic, 20).await?;
    care.define(&group, definition.clone()).await?;
    let other = t.another().await?;
    let mut reader = t.reader(other.subscribe(&topic).group(&group).await?, &group, "m");
    ensure_eq!(reader.subscription().definition(), Some(&definition), "what is stored");
    reader.ack_many(20).await?;
    reader.quiet().await?;
    t.check(&group).of_publishes(|record| &*record.actor == "p").exactly().map(drop)
}

/// D7: defining a group anew in another way is refused.
pub async fn defining_a_group_differently_is_refused(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("differs"), t.group("g"));
    let care = t.fabric().groups()?;
    let stored = definition(&topic).with_ack_wait(Duration::from_secs(7));
    care.define(&group, stored.clone()).await?;
    for other in [
        definition(&t.topic("elsewhere")).with_ack_wait(Duration::from_secs(7)),
        stored.clone().with_ack_wait(Duration::from_secs(8)),
        definition(&topic),
    ] {
        refused(care.define(&group, other).await, ErrorKind::GroupMismatch)?;
    }
    refused(
        t.fabric().subscribe(t.topic("elsewhere")).group(&group).await,
        ErrorKind::GroupMismatch,
    )?;
    let subscription = t.fabric().subscribe(&topic).group(&group).await?;
    ensure_eq!(subscription.definition(), Some(&stored), "what is stored");
    Ok(())
}

/// D8: options that contradict each other are refused as `Config`.
pub async fn options_that_contradict_each_other_are_refused(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("options"), t.group("g"));
    let plain = || t.fabric().subscribe(&topic);
    let join = || plain().group(&group);
    let zero = Duration::ZERO;
    let asked = [
        plain().ack_wait(Duration::from_secs(1)),
        plain().max_deliver(3),
        plain().redefine_group(),
        join().ack_wait(zero),
        join().max_deliver(0),
        join().prefetch(0),
    ];
    for subscribe in asked {
        refused(subscribe.await, ErrorKind::Config)?;
    }
    ensure!(t.fabric().subscriptions().is_empty(), "nothing was opened");
    if t.can(Ability::GroupInfo) {
        refused(t.fabric().groups()?.info(&group).await, ErrorKind::NotFound)?;
    }
    Ok(())
}

/// D9: a group lives on while its clients come and go, and two groups of one pattern are two.
pub async fn groups_with_the_same_patterns_are_apart(t: &Trial) -> Verdict {
    let topic = t.topic("apart");
    let groups: Vec<Group> = (0..3).map(|n| t.group(&format!("g{n}"))).collect();
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut readers: Vec<(Group, Reader)> = Vec::new();
    for group in groups {
        let subscription = t.fabric().subscribe(&topic).group(&group).await?;
        readers.push((group.clone(), t.reader(subscription, &group, group.as_str())));
    }
    publisher.send_many(&topic, 30).await?;
    for (n, (_, reader)) in readers.iter_mut().enumerate() {
        reader.ack_many(10 * (n + 1)).await?;
    }
    for (group, reader) in readers {
        reader.close().await?;
        let subscription = t.fabric().subscribe(&topic).group(&group).await?;
        let mut reader = t.reader(subscription, &group, "again");
        reader.drain().await?;
        t.check(&group).exactly()?;
    }
    Ok(())
}

fn definition(topic: &crate::Topic) -> GroupDefinition {
    GroupDefinition::new(Patterns::from(Pattern::from(topic.clone())))
}
