//! S: where a subscription begins, with a group and without.

use std::time::Duration;

use crate::capabilities::Ability;
use crate::conformance::actors::{Publisher, Reader};
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::error::ErrorKind;
use crate::position::{Cursor, Position, Start};
use crate::time::Timestamp;
use crate::topic::Topic;

/// S1: at new, with the very next event: nothing that was there, and nothing missed.
pub async fn new_begins_with_the_next_event(t: &Trial) -> Verdict {
    let topics = topics(t);
    let mut early = t.publisher(t.fabric(), "early");
    for topic in &topics {
        early.send_many(topic, 5).await?;
    }
    let mut readers = begin(t, Start::New).await?;
    let mut later = t.publisher(t.fabric(), "later");
    for topic in &topics {
        later.send_many(topic, 5).await?;
    }
    for reader in &mut readers {
        reader.ack_many(10).await?;
        reader.quiet().await?;
        let audience = reader.audience();
        t.check(audience).of_publishes(|record| &*record.actor == "later").exactly()?;
    }
    Ok(())
}

/// S2: at all, with the oldest event that is kept, and on into what comes.
pub async fn all_begins_with_the_oldest_event(t: &Trial) -> Verdict {
    let topics = topics(t);
    let mut publisher = t.publisher(t.fabric(), "p");
    for topic in &topics {
        publisher.send_many(topic, 100).await?;
    }
    let mut readers = begin(t, Start::All).await?;
    publisher.send_many(&topics[0], 5).await?;
    for reader in &mut readers {
        reader.ack_many(205).await?;
        reader.quiet().await?;
        t.check(reader.audience()).exactly()?.in_order()?;
    }
    Ok(())
}

/// S3: at the last event of all that match, and on into what comes.
pub async fn last_begins_with_the_newest_event(t: &Trial) -> Verdict {
    let topics = topics(t);
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topics[0], 5).await?;
    t.wait(Duration::from_millis(5)).await;
    publisher.send_many(&topics[1], 5).await?;
    let mut readers = begin(t, Start::Last).await?;
    publisher.send(&topics[0]).await?;
    expect(&mut readers, t, &[9, 10]).await
}

/// S4: at the last event of each topic, and on into what comes.
pub async fn last_per_topic_begins_with_the_newest_of_each(t: &Trial) -> Verdict {
    let topics = topics(t);
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topics[0], 5).await?;
    publisher.send_many(&topics[1], 5).await?;
    let mut readers = begin(t, Start::LastPerTopic).await?;
    publisher.send(&topics[1]).await?;
    expect(&mut readers, t, &[4, 9, 10]).await
}

/// S5: at a time, with the first event stored then or later; earlier by no more than is claimed,
/// and never later.
pub async fn a_time_begins_with_what_was_stored_then(t: &Trial) -> Verdict {
    let topic = t.topic("start.a");
    let mut publisher = t.publisher(t.fabric(), "p");
    let gap = Duration::from_millis(50) + 2 * t.caps().time_granularity;
    publisher.send_many(&topic, 5).await?;
    t.wait(gap).await;
    let time = Timestamp::now();
    t.wait(gap).await;
    publisher.send_many(&topic, 5).await?;
    let mut readers = begin(t, Start::Time(time)).await?;
    publisher.send(&topic).await?;
    expect(&mut readers, t, &[5, 6, 7, 8, 9, 10]).await?;
    let before = Timestamp::from_millis(1);
    let subscription = t.fabric().subscribe(&topic).start_at(before).await?;
    t.reader(subscription, "ancient", "ancient").ack_many(11).await?;
    let ahead = Timestamp::now().saturating_add(gap);
    let subscription = t.fabric().subscribe(&topic).start_at(ahead).await?;
    let mut future = t.reader(subscription, "future", "future");
    future.quiet().await
}

/// S6: at a position with it, after a position without it, and on into what comes.
pub async fn a_position_begins_with_its_event_or_behind_it(t: &Trial) -> Verdict {
    let topic = t.topic("start.a");
    let mut publisher = t.publisher(t.fabric(), "p");
    let places = places(&mut publisher, &topic, 10).await?;
    let mut at = begin(t, Start::At(places[6].clone())).await?;
    let mut after = begin_as(t, Start::After(places[6].clone()), "after").await?;
    let mut end = begin_as(t, Start::After(places[9].clone()), "end").await?;
    publisher.send(&topic).await?;
    expect(&mut at, t, &[6, 7, 8, 9, 10]).await?;
    expect(&mut after, t, &[7, 8, 9, 10]).await?;
    expect(&mut end, t, &[10]).await
}

/// S7: from a cursor, behind each place it names; topics that it does not name begin with their
/// oldest event.
pub async fn a_cursor_resumes_every_topic(t: &Trial) -> Verdict {
    let topics = topics(t);
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut cursor = Cursor::new();
    let first = places(&mut publisher, &topics[0], 5).await?;
    places(&mut publisher, &topics[1], 5).await?;
    first[..3].iter().for_each(|place| cursor.advance(place));
    let mut readers = begin(t, Start::Resume(cursor)).await?;
    publisher.send(&topics[0]).await?;
    expect(&mut readers, t, &[3, 4, 5, 6, 7, 8, 9, 10]).await
}

/// S8: what one reader noted, the next resumes: nothing twice, nothing missed.
pub async fn reading_on_from_a_cursor_misses_nothing(t: &Trial) -> Verdict {
    let topics = topics(t);
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut cursor = Cursor::new();
    for round in 0..4 {
        for topic in &topics {
            publisher.send_many(topic, 20).await?;
        }
        let start = Start::Resume(cursor.clone());
        let subscription = t.fabric().subscribe(t.pattern("start.*")).start_at(start).await?;
        let mut reader = t.reader(subscription, "plain", &format!("reader{round}"));
        // One further each time, so that rounds end within a topic's events.
        for _ in 0..if round < 3 { 33 } else { 160 - 3 * 33 } {
            let delivery = reader.next().await?;
            let place = delivery.position();
            cursor.advance(&place.ok_or_else(|| Failure::new("a kept event has no position"))?);
        }
        if round == 3 {
            reader.quiet().await?;
        }
    }
    t.check("plain").exactly().map(drop)
}

/// S9: a position of another life of the stream, or beyond its end, is `NotFound`; one of a topic
/// that is not asked for is `Config`.
pub async fn a_position_of_elsewhere_is_refused(t: &Trial) -> Verdict {
    let topic = t.topic("start.a");
    let mut publisher = t.publisher(t.fabric(), "p");
    let place = places(&mut publisher, &topic, 3).await?.remove(1);
    let mut other_life = place.clone();
    other_life.incarnation = place.incarnation.wrapping_add(1);
    let unborn = Position::new(t.topic("start.unborn"), place.incarnation, 0);
    for position in [other_life, unborn] {
        for start in [Start::At(position.clone()), Start::After(position.clone())] {
            let pattern = t.pattern("start.*");
            let plain = t.fabric().subscribe(&pattern).start_at(start.clone());
            refused(plain.await, ErrorKind::NotFound)?;
            if t.can(Ability::Groups) {
                let join =
                    t.fabric().subscribe(&pattern).group(t.group("g")).start_at(start.clone());
                refused(join.await, ErrorKind::NotFound)?;
            }
            if t.can(Ability::Replay) {
                let replay = t.fabric().replay(&pattern).start_at(start);
                refused(replay.await, ErrorKind::NotFound)?;
            }
        }
        let cursor: Cursor = [position].into_iter().collect();
        let resumed = t.fabric().subscribe(t.pattern("start.*")).start_at(cursor).await;
        refused(resumed, ErrorKind::NotFound)?;
    }
    let elsewhere = t.fabric().subscribe(t.topic("start.b")).start_at(Start::At(place));
    refused(elsewhere.await, ErrorKind::Config)?;
    if t.can(Ability::GroupInfo) {
        refused(t.fabric().groups()?.info(t.group("g")).await, ErrorKind::NotFound)?;
    }
    Ok(())
}

fn topics(t: &Trial) -> [Topic; 2] {
    [t.topic("start.a"), t.topic("start.b")]
}

/// A subscription that begins there and, where there are groups, a group that does.
async fn begin(t: &Trial, start: Start) -> Verdict<Vec<Reader>> {
    begin_as(t, start, "begin").await
}

async fn begin_as(t: &Trial, start: Start, name: &str) -> Verdict<Vec<Reader>> {
    let pattern = t.pattern("start.*");
    let plain = t.fabric().subscribe(&pattern).start_at(start.clone()).await?;
    let audience = format!("plain {name}");
    let mut readers = vec![t.reader(plain, &audience, &audience)];
    if t.can(Ability::Groups) {
        let group = t.group(name);
        let joined = t.fabric().subscribe(&pattern).group(&group).start_at(start).await?;
        readers.push(t.reader(joined, &group, group.as_str()));
    }
    Ok(readers)
}

/// Each reader gets the publisher's events of these numbers, in any order over topics.
async fn expect(readers: &mut [Reader], t: &Trial, numbers: &[u64]) -> Verdict {
    for reader in readers {
        reader.ack_many(numbers.len()).await?;
        reader.quiet().await?;
        let audience = reader.audience();
        let number = |value: &str| value.rsplit('|').next().and_then(|text| text.parse().ok());
        let mut got: Vec<u64> = t
            .history()
            .records()
            .iter()
            .filter(|record| record.is_receipt_of(&audience))
            .filter_map(|record| number(&record.value))
            .collect();
        got.sort_unstable();
        ensure_eq!(got, numbers, "what `{audience}` got");
        t.check(&audience).nothing_unexpected()?.in_order()?;
    }
    Ok(())
}

async fn places(publisher: &mut Publisher, topic: &Topic, count: usize) -> Verdict<Vec<Position>> {
    let mut places = Vec::with_capacity(count);
    for _ in 0..count {
        let receipt = publisher.send(topic).await?;
        let Some(place) = receipt.position else {
            return Err(Failure::new("a stack that starts at positions tells none"));
        };
        ensure!(place.topic == *topic, "the position of another topic: {place}");
        places.push(place);
    }
    Ok(places)
}
