//! C: the care of topics and groups.

use std::time::Duration;

use tokio::time::Instant;

use crate::capabilities::Ability;
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::error::ErrorKind;
use crate::event::Event;
use crate::info::Trim;
use crate::position::{Position, Start};
use crate::time::Timestamp;
use crate::topic::Topic;

/// C1: topics are listed by pattern; reserved ones have to be named.
pub async fn topics_are_listed_by_pattern(t: &Trial) -> Verdict {
    let mut publisher = t.publisher(t.fabric(), "p");
    for name in ["list.a", "list.b", "list.c.d", "other"] {
        publisher.send(&t.topic(name)).await?;
    }
    let admin = t.fabric().admin()?;
    let list = async |pattern: &str| -> Verdict<Vec<String>> {
        let listed = admin.topics(t.pattern(pattern)).await?;
        let mut names: Vec<String> = listed.iter().map(|info| info.topic.to_string()).collect();
        names.sort();
        Ok(names)
    };
    let names = |list: &[&str]| list.iter().map(|n| t.topic(n).to_string()).collect::<Vec<_>>();
    ensure_eq!(list("list.*").await?, names(&["list.a", "list.b"]), "`list.*`");
    ensure_eq!(list("list.>").await?, names(&["list.a", "list.b", "list.c.d"]), "`list.>`");
    ensure_eq!(list("none.#").await?, names(&[]), "`none.#`");
    let all = admin.topics("#").await?;
    ensure!(all.iter().all(|info| !info.topic.is_reserved()), "a wildcard lists reserved topics");
    ensure!(all.len() >= 4, "only {} are listed", all.len());
    Ok(())
}

/// C2: a topic's figures are those of its events; one that is not there is `NotFound`.
pub async fn a_topics_figures_are_those_of_its_events(t: &Trial) -> Verdict {
    let topic = t.topic("figures");
    let admin = t.fabric().admin()?;
    refused(admin.topic(&topic).await, ErrorKind::NotFound)?;
    let before = Timestamp::now();
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut places = Vec::new();
    for _ in 0..30 {
        places.push(publisher.send(&topic).await?.position);
    }
    let info = admin.topic(&topic).await?;
    ensure_eq!(info.topic, topic, "the name");
    ensure_eq!(info.events, 30, "how many events are kept");
    ensure_eq!(info.published, 30, "how many were published");
    let told = info.bytes != 0;
    ensure!(!told || info.bytes >= 30, "thirty events take {} bytes", info.bytes);
    // Of several partitions none is the first.
    if places[0].is_some() && is_one_stream(&places) {
        ensure_eq!(info.first, places[0], "the oldest");
        ensure_eq!(info.last, places[29], "the newest");
    }
    if let Some(time) = info.last_time {
        let early = before.saturating_sub(t.caps().time_granularity + t.timing().slack);
        ensure!(time >= early, "the newest was stored at {time}, before {before}");
    }
    Ok(())
}

/// C3: a purged topic has nothing for anybody; what comes afterwards arrives.
pub async fn a_purged_topic_is_empty_for_everybody(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("purge"), t.group("g"));
    refused(t.fabric().admin()?.purge(&topic).await, ErrorKind::NotFound)?;
    t.fabric().subscribe(&topic).group(&group).await?.close().await?;
    let mut old = t.publisher(t.fabric(), "old");
    old.send_many(&topic, 30).await?;
    ensure_eq!(t.fabric().admin()?.purge(&topic).await?, 30, "how many were dropped");
    ensure_eq!(t.fabric().admin()?.purge(&topic).await?, 0, "how many are dropped again");
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    t.publisher(t.fabric(), "new").send_many(&topic, 5).await?;
    let missed = next_five(&mut reader).await?;
    ensure!(missed <= 30, "{missed} of thirty were missed");
    reader.quiet().await?;
    t.check(&group).of_publishes(|record| &*record.actor == "new").exactly().map(drop)
}

/// C4: a topic is trimmed to a number, before a position, before a time; the newest stay.
pub async fn a_trimmed_topic_keeps_its_newest(t: &Trial) -> Verdict {
    let topic = t.topic("trim");
    let admin = t.fabric().admin()?;
    refused(admin.trim(&topic, Trim::Keep(1)).await, ErrorKind::NotFound)?;
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut places = Vec::new();
    for _ in 0..20 {
        places.push(publisher.send(&topic).await?.position);
    }
    ensure_eq!(admin.trim(&topic, Trim::Keep(15)).await?, 5, "how many were dropped to keep 15");
    ensure_eq!(admin.trim(&topic, Trim::Keep(15)).await?, 0, "how many were dropped again");
    let mut left = 15;
    if let Some(position) = places[8].clone().filter(|_| is_one_stream(&places)) {
        ensure_eq!(admin.trim(&topic, Trim::Before(position)).await?, 3, "how many lay before it");
        left = 12;
    }
    t.wait(Duration::from_millis(20) + 2 * t.caps().time_granularity).await;
    let time = Timestamp::now();
    t.wait(Duration::from_millis(20) + 2 * t.caps().time_granularity).await;
    publisher.send_many(&topic, 4).await?;
    ensure_eq!(admin.trim(&topic, Trim::Older(time)).await?, left, "how many were older");
    if t.can(Ability::StartAll) && t.can(Ability::FanOut) {
        let subscription = t.fabric().subscribe(&topic).start_at(Start::All).await?;
        let mut reader = t.reader(subscription, "plain", "reader");
        reader.ack_many(4).await?;
        reader.quiet().await?;
        ensure_eq!(t.check("plain").lost().len(), 20, "what is gone");
    }
    Ok(())
}

/// C5: groups are listed while they are there.
pub async fn groups_are_listed_while_they_are_there(t: &Trial) -> Verdict {
    let (topic, group, other) = (t.topic("list"), t.group("g"), t.group("other"));
    let care = t.fabric().groups()?;
    ensure!(!care.list().await?.contains(&group), "a group is listed before it was made");
    for group in [&group, &other] {
        t.fabric().subscribe(&topic).group(group).await?.close().await?;
    }
    let listed = care.list().await?;
    ensure!(listed.contains(&group) && listed.contains(&other), "{listed:?} lacks one");
    if t.can(Ability::GroupDelete) {
        care.delete(&group).await?;
        let listed = care.list().await?;
        ensure!(!listed.contains(&group) && listed.contains(&other), "{listed:?} after one went");
    }
    Ok(())
}

/// C6: a group's figures follow what its members do.
pub async fn a_groups_figures_follow_its_members(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("lag"), t.group("g"));
    let care = t.fabric().groups()?;
    refused(care.info(&group).await, ErrorKind::NotFound)?;
    let other = t.another().await?;
    let mut reader = t.reader(other.subscribe(&topic).group(&group).await?, &group, "m");
    let info = care.info(&group).await?;
    ensure_eq!(info.group, group, "the name");
    ensure_eq!(info.members, 1, "the members");
    ensure_eq!((info.undelivered(), info.pending()), (0, 0), "the lag of nothing");
    ensure_eq!(Some(&info.definition), reader.subscription().definition(), "the definition");
    t.publisher(t.fabric(), "p").send_many(&topic, 20).await?;
    let info = care.info(&group).await?;
    ensure_eq!(info.undelivered() + info.pending(), 20, "the lag of twenty events");
    let mut held = reader.take(5).await?;
    for delivery in held.drain(..3) {
        reader.ack(delivery).await?;
    }
    let info = care.info(&group).await?;
    ensure_eq!(info.undelivered() + info.pending(), 17, "the lag after three acks");
    ensure!(info.pending() >= 2, "two are held, {} are pending", info.pending());
    for delivery in held {
        reader.ack(delivery).await?;
    }
    reader.ack_many(15).await?;
    let info = care.info(&group).await?;
    ensure_eq!((info.undelivered(), info.pending()), (0, 0), "the lag after the last ack");
    reader.close().await?;
    t.publisher(t.fabric(), "q").send_many(&topic, 7).await?;
    let info = care.info(&group).await?;
    ensure_eq!(info.members, 0, "the members after the last left");
    ensure_eq!(info.undelivered(), 7, "what nobody was there for");
    Ok(())
}

/// C7: deleting a group ends its members with `NotFound`, makes what they hold stale, and forgets
/// the place: a group of that name is another one.
pub async fn a_deleted_group_ends_its_members(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("delete"), t.group("g"));
    let care = t.fabric().groups()?;
    refused(care.delete(&group).await, ErrorKind::NotFound)?;
    let other = t.another().await?;
    let mut reader = t.reader(other.subscribe(&topic).group(&group).await?, &group, "m0");
    let mut publisher = t.publisher(t.fabric(), "old");
    publisher.send_many(&topic, 10).await?;
    let mut held = vec![reader.next().await?];
    care.delete(&group).await?;
    // What had arrived before the news did may be handed out; it is stale all the same.
    let error = loop {
        match reader.next_item().await? {
            Some(Ok(delivery)) => held.push(delivery),
            Some(Err(error)) => break error,
            None => return Err(Failure::new("the subscription ended without an error")),
        }
    };
    ensure_eq!(error.kind(), ErrorKind::NotFound, "how a member's subscription ends ({error:#})");
    ensure!(reader.next_item().await?.is_none(), "the subscription goes on");
    for held in held {
        refused(held.ack().await.map_err(|failed| failed.error), ErrorKind::StaleAck)?;
    }
    refused(care.delete(&group).await, ErrorKind::NotFound)?;
    let elsewhere = t.topic("elsewhere");
    let subscription = t.fabric().subscribe([&topic, &elsewhere]).group(&group).await?;
    let mut reader = t.reader(subscription, &group, "m1");
    reader.quiet().await?;
    t.publisher(t.fabric(), "new").send_many(&topic, 3).await?;
    reader.ack_many(3).await?;
    reader.quiet().await
}

/// C8: a reset group reads again from where it is told; what its members held is lost to them.
pub async fn a_reset_group_reads_from_where_it_is_told(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("reset"), t.group("g"));
    let care = t.fabric().groups()?;
    refused(care.reset(&group, Start::New).await, ErrorKind::NotFound)?;
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut places = Vec::new();
    for _ in 0..10 {
        places.push(publisher.send(&topic).await?.position);
    }
    reader.ack_many(6).await?;
    if t.can(Ability::StartAll) {
        let held = reader.next().await?;
        care.reset(&group, Start::All).await?;
        ensure!(!held.is_live(), "what was held before a reset is still leased");
        refused(held.ack().await.map_err(|failed| failed.error), ErrorKind::StaleAck)?;
        reader.ack_many(10).await?;
        reader.quiet().await?;
    }
    if t.can(Ability::StartPosition)
        && let Some(place) = places[7].clone().filter(|_| is_one_stream(&places))
    {
        care.reset(&group, Start::At(place)).await?;
        reader.ack_many(3).await?;
        reader.quiet().await?;
    }
    publisher.send_many(&topic, 5).await?;
    care.reset(&group, Start::New).await?;
    reader.quiet().await?;
    t.publisher(t.fabric(), "after").send(&topic).await?;
    let delivery = reader.next().await?;
    ensure!(reader.value_of(&delivery).contains("after"), "new is what comes after the reset");
    reader.ack(delivery).await
}

/// C9: an event that is sent to one group reaches that group alone, under its own topic, at its
/// time, with its attempt counted on.
pub async fn an_event_sent_to_a_group_reaches_it_alone(t: &Trial) -> Verdict {
    let (topic, group, other) = (t.topic("inbox"), t.group("g"), t.group("other"));
    let care = t.fabric().groups()?;
    let event = |text: &str| Event::to(&topic).text(text).header("h", "v").key("k");
    refused(care.send_to(&group, event("x"), None, 1).await, ErrorKind::NotFound)?;
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    let mut wrong = t.reader(t.fabric().subscribe(&topic).group(&other).await?, &other, "wrong");
    care.send_to(&group, event("at once"), None, 3).await?.await.into_vec().remove(0)?;
    let delivery = reader.next().await?;
    ensure_eq!(delivery.text()?, "at once", "the payload");
    ensure_eq!(delivery.topic(), &topic, "the topic");
    ensure_eq!((delivery.header("h"), delivery.key()), (Some("v"), Some("k")), "the envelope");
    if t.can(Ability::Attempts) {
        ensure_eq!(delivery.attempt(), 3, "the attempt");
    }
    reader.ack(delivery).await?;
    let later = Duration::from_secs(1);
    let since = Instant::now();
    let at = Timestamp::now().saturating_add(later);
    care.send_to(&group, event("later"), Some(at), 1).await?.await.into_vec().remove(0)?;
    t.publisher(t.fabric(), "p").send(&topic).await?;
    reader.ack_many(1).await?;
    let delivery = reader.next().await?;
    t.timed(since, later, later)?;
    ensure_eq!(delivery.text()?, "later", "the payload");
    reader.ack(delivery).await?;
    reader.quiet().await?;
    wrong.ack_many(1).await?;
    wrong.quiet().await?;
    let reserved = Event::to(Topic::dead_letters(&group)).text("x");
    refused(care.send_to(&group, reserved, None, 1).await, ErrorKind::InvalidTopic).map(drop)
}

/// C10: an event in a group's inbox is settled like any other: it comes again, and its members may
/// change.
pub async fn an_event_in_an_inbox_is_settled_like_any_other(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("inbox"), t.group("g"));
    let care = t.fabric().groups()?;
    t.fabric().subscribe(&topic).group(&group).await?.close().await?;
    for n in 0..5 {
        let event = Event::to(&topic).text(n.to_string());
        care.send_to(&group, event, None, 1).await?.await.into_vec().remove(0)?;
    }
    let join = || t.fabric().subscribe(&topic).group(&group);
    let mut reader = t.reader(join().await?, &group, "m0");
    for delivery in reader.take(5).await? {
        reader.nack(delivery, crate::Nack::now()).await?;
    }
    reader.close().await?;
    let mut reader = t.reader(join().await?, &group, "m1");
    for delivery in reader.take(5).await? {
        ensure!(!t.can(Ability::Attempts) || delivery.attempt() > 1, "the attempt");
        reader.ack(delivery).await?;
    }
    reader.quiet().await
}

/// Whether all lie in one stream, and not in several partitions of a topic.
fn is_one_stream(places: &[Option<Position>]) -> bool {
    places.windows(2).all(|pair| match (&pair[0], &pair[1]) {
        (Some(one), Some(next)) => one.is_comparable(next),
        _ => true,
    })
}

/// Acks the next five deliveries; returns how many were reported as missed before.
async fn next_five(reader: &mut crate::conformance::Reader) -> Verdict<u64> {
    let (mut missed, mut got) = (0, 0);
    while got < 5 {
        match reader.next_item().await? {
            Some(Ok(delivery)) => {
                got += 1;
                reader.ack(delivery).await?;
            }
            Some(Err(error)) if error.kind() == ErrorKind::Lagged => {
                missed += error.missed().unwrap_or(0);
            }
            other => return Err(Failure::new(format!("{other:?} after a purge"))),
        }
    }
    Ok(missed)
}
