//! Y: reading what is kept as a finite stream.

use std::time::Duration;

use crate::capabilities::Ability;
use crate::conformance::actors::Publisher;
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::delivery::Delivery;
use crate::error::ErrorKind;
use crate::options::End;
use crate::position::{Cursor, Position, Start};
use crate::subscription::Replay;
use crate::time::Timestamp;
use crate::topic::Topic;

/// Y1: a replay yields everything that is kept, in order within each topic, with positions that
/// only grow, and ends; reading it settles and moves nothing.
pub async fn a_replay_is_whole_and_ends(t: &Trial) -> Verdict {
    let topics = [t.topic("replay.a"), t.topic("replay.b")];
    let mut publisher = t.publisher(t.fabric(), "p");
    for _ in 0..5 {
        for topic in &topics {
            publisher.send_many(topic, 20).await?;
        }
    }
    publisher.send(&t.topic("elsewhere")).await?;
    for _ in 0..2 {
        let replay = t.fabric().replay(t.pattern("replay.*")).await?;
        let read = read(t, replay).await?;
        ensure_eq!(read.len(), 200, "how many were replayed");
        for topic in &topics {
            let of_topic: Vec<&Delivery> =
                read.iter().filter(|delivery| delivery.topic() == topic).collect();
            ensure!(numbers(&of_topic).is_sorted(), "the order within {topic}");
            let offsets: Vec<Option<u128>> = of_topic
                .iter()
                .map(|delivery| delivery.position().map(|position| position.offset))
                .collect();
            ensure!(offsets.is_sorted_by(|a, b| a < b), "positions within {topic} do not grow");
        }
        ensure!(read.iter().all(|delivery| delivery.group().is_none()), "there is no group");
    }
    Ok(())
}

/// Y2: a replay ends where the history ended when it began; the last event that was there is in it.
pub async fn a_replay_ends_where_the_history_ended(t: &Trial) -> Verdict {
    let topic = t.topic("ends");
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topic, 150).await?;
    let mut replay = t.fabric().replay(&topic).await?;
    let first = next(t, &mut replay).await?;
    ensure!(first.is_some(), "a kept event was not replayed");
    publisher.send_many(&topic, 50).await?;
    let rest = read(t, replay).await?;
    ensure_eq!(rest.len(), 149, "how many more were replayed");
    let empty = t.fabric().replay(t.topic("nothing")).await?;
    ensure!(read(t, empty).await?.is_empty(), "an empty history");
    Ok(())
}

/// Y3: a replay begins where a subscription can begin.
pub async fn a_replay_begins_where_it_is_told(t: &Trial) -> Verdict {
    let topic = t.topic("begins");
    let mut publisher = t.publisher(t.fabric(), "p");
    let places = places(&mut publisher, &topic, 5).await?;
    t.wait(Duration::from_millis(50) + 2 * t.caps().time_granularity).await;
    let time = Timestamp::now();
    t.wait(Duration::from_millis(50)).await;
    publisher.send_many(&topic, 5).await?;
    let cursor: Cursor = [places[1].clone()].into_iter().collect();
    let starts = [
        (Ability::StartAll, Start::All, 0),
        (Ability::StartTime, Start::Time(time), 5),
        (Ability::StartPosition, Start::At(places[3].clone()), 3),
        (Ability::StartPosition, Start::After(places[3].clone()), 4),
        (Ability::StartPosition, Start::Resume(cursor), 2),
        (Ability::StartLast, Start::Last, 9),
        (Ability::StartLastPerTopic, Start::LastPerTopic, 9),
    ];
    for (ability, start, first) in starts {
        if !t.can(ability) {
            continue;
        }
        let replay = t.fabric().replay(&topic).start_at(start.clone()).await?;
        let read = read(t, replay).await?;
        let got = numbers(&read.iter().collect::<Vec<_>>());
        ensure_eq!(got, (first..10).collect::<Vec<u64>>(), "a replay from {start:?}");
    }
    refused(t.fabric().replay(&topic).start_at(Start::New).await, ErrorKind::Config).map(drop)
}

/// Y4: a replay ends with a position, before a time, or after a number of events.
pub async fn a_replay_ends_where_it_is_told(t: &Trial) -> Verdict {
    let topic = t.topic("until");
    let mut publisher = t.publisher(t.fabric(), "p");
    let places = places(&mut publisher, &topic, 5).await?;
    t.wait(Duration::from_millis(50) + 2 * t.caps().time_granularity).await;
    let time = Timestamp::now();
    t.wait(Duration::from_millis(50) + 2 * t.caps().time_granularity).await;
    publisher.send_many(&topic, 5).await?;
    let all = || t.fabric().replay(&topic);
    let ends = [
        (all().end_at(places[3].clone()), 4),
        (all().end_at(time), 5),
        (all().end_at(End::Kept), 10),
        (all().limit(7), 7),
        (all().limit(0), 0),
        (all().limit(100), 10),
        (all().end_at(time).limit(2), 2),
    ];
    for (n, (replay, count)) in ends.into_iter().enumerate() {
        let read = read(t, replay.await?).await?;
        let got = numbers(&read.iter().collect::<Vec<_>>());
        ensure_eq!(got, (0..count).collect::<Vec<u64>>(), "replay number {n}");
    }
    Ok(())
}

/// Y5: what a replay yields is the event as it was published, with its place, and there is nothing
/// to settle.
pub async fn a_replayed_event_is_the_original(t: &Trial) -> Verdict {
    let topic = t.topic("original");
    let mut publisher = t.publisher(t.fabric(), "p");
    let draft = publisher.draft(&topic).with(|event| event.header("h", "v").key("k"));
    let (draft, event) = draft.fixed()?;
    let receipt = publisher.publish(draft).await?;
    let mut replay = t.fabric().replay(&topic).await?;
    let Some(delivery) = next(t, &mut replay).await? else {
        return Err(Failure::new("a kept event was not replayed"));
    };
    crate::conformance::actors::same_event(&delivery, &event)?;
    ensure!(delivery.position().is_some(), "a replayed event lies somewhere");
    if receipt.position.is_some() {
        ensure_eq!(delivery.position(), receipt.position, "where it lies");
    }
    delivery.ack().await?;
    Ok(())
}

/// Y6: a replay of a group's dead letters names their topic; wildcards do not reach them.
pub async fn dead_letters_are_replayed_by_name(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("dead"), t.group("g"));
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send(&topic).await?;
    let delivery = reader.next().await?;
    reader.reject(delivery, "no").await?;
    let dead = read(t, t.fabric().replay(Topic::dead_letters(&group)).await?).await?;
    ensure_eq!(dead.len(), 1, "the dead letters");
    ensure!(dead[0].dead_letter().is_some(), "it does not say that it is a dead letter");
    let wild = read(t, t.fabric().replay("#").await?).await?;
    let letters = wild.iter().filter(|delivery| delivery.topic().is_reserved()).count();
    ensure_eq!(letters, 0, "what a wildcard reaches of reserved topics");
    Ok(())
}

async fn next(t: &Trial, replay: &mut Replay) -> Verdict<Option<Delivery>> {
    Ok(t.within("a replayed event", replay.recv()).await?.transpose()?)
}

async fn read(t: &Trial, mut replay: Replay) -> Verdict<Vec<Delivery>> {
    let mut read = Vec::new();
    while let Some(delivery) = next(t, &mut replay).await? {
        read.push(delivery);
    }
    Ok(read)
}

fn numbers(read: &[&Delivery]) -> Vec<u64> {
    let number = |delivery: &&Delivery| {
        delivery.text().ok().and_then(|text| text.rsplit('|').next()?.parse().ok())
    };
    read.iter().filter_map(number).collect()
}

async fn places(publisher: &mut Publisher, topic: &Topic, count: usize) -> Verdict<Vec<Position>> {
    let mut places = Vec::new();
    for _ in 0..count {
        places.extend(publisher.send(topic).await?.position);
    }
    ensure_eq!(places.len(), count, "how many events have a position");
    Ok(places)
}
