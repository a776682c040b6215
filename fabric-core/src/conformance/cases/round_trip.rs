//! R: what goes in comes out, whole and once.

use std::collections::HashMap;

use bytes::Bytes;

use crate::capabilities::Ability;
use crate::conformance::actors::{Crew, same_event};
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::delivery::Delivery;
use crate::error::{ErrorKind, RetryClass};
use crate::event::{Event, EventBuilder, Priority, TraceContext};
use crate::position::Start;
use crate::time::Timestamp;
use crate::topic::Topic;

/// R1a: a hundred events reach a subscription: id, topic, header and payload as they were sent, in
/// a delivery that says when it was received, and nothing else comes.
pub async fn published_events_arrive_whole(t: &Trial) -> Verdict {
    let topic = t.topic("whole");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let before = Timestamp::now();
    let sent = publish_hundred(t, &topic).await?;
    for delivery in reader.take(100).await? {
        ensure!(delivery.received_at() >= before, "it was received before it was sent");
        ensure_eq!(delivery.group(), None, "the group");
        is_one_of(&delivery, &sent)?;
        reader.ack(delivery).await?;
    }
    reader.quiet().await?;
    t.check("plain").exactly()?;
    reader.close().await
}

/// R1b: events that were published while nobody was there wait for their group, whole.
pub async fn a_group_gets_what_was_published_without_it(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("whole"), t.group("absent"));
    t.fabric().subscribe(&topic).group(&group).await?.close().await?;
    let sent = publish_hundred(t, &topic).await?;
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "reader");
    for delivery in reader.take(100).await? {
        ensure_eq!(delivery.group(), Some(&group), "the group");
        is_one_of(&delivery, &sent)?;
        reader.ack(delivery).await?;
    }
    reader.quiet().await?;
    t.check(&group).exactly()?;
    reader.close().await
}

/// R2: a payload is any bytes: none, one, all 256, no UTF-8, JSON, 64 KiB, 1 MiB or the limit.
pub async fn any_bytes_arrive_unchanged(t: &Trial) -> Verdict {
    let topic = t.topic("bytes");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let large = t.caps().max_payload.unwrap_or(usize::MAX).min(1 << 20);
    let bodies: [Vec<u8>; 8] = [
        Vec::new(),
        vec![0],
        (0..=255).collect(),
        vec![0xff, 0xfe, b'a', 0xc3],
        b"{\"a\": [1, null, \"\\u00e9\"]}".to_vec(),
        b"\r\n\0\x1a".to_vec(),
        pattern_of(65_536.min(large)),
        pattern_of(large),
    ];
    for body in bodies {
        let event = Event::to(&topic).bytes(body.clone()).build()?;
        t.fabric().publish(event.clone()).await?;
        let delivery = reader.next().await?;
        ensure_eq!(delivery.id(), event.id(), "the id");
        let arrived = delivery.payload().bytes()?;
        ensure!(arrived == body, "{} bytes arrived as {} others", body.len(), arrived.len());
        reader.ack(delivery).await?;
    }
    reader.quiet().await
}

/// R3a: fifty headers with any text in them arrive as they are; names are compared without case.
pub async fn headers_arrive_unchanged(t: &Trial) -> Verdict {
    let topic = t.topic("headers");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let long = "v".repeat(1024);
    let values = [
        "",
        " ",
        "  in  between  ",
        "plain",
        "é",
        "ünïcödé",
        "日本語",
        "\u{1f389} and \u{1f469}\u{200d}\u{1f4bb}",
        "\u{feff}mark",
        "\u{10ffff}",
        "\"quoted\" and 'single'",
        "back\\slash",
        "%20%zz%",
        "a=b; c=d, e",
        "<xml attr=\"1\"/>&amp;",
        "{\"json\": true}",
        "=?utf-8?q?encoded?=",
        "~!@#$%^&*()_+`-={}|[]:<>?,./",
        long.as_str(),
    ];
    let mut event = Event::to(&topic).text("headers");
    for n in 0..50 {
        event = event.header(format!("Name-{n}_of.many"), values[n % values.len()]);
    }
    let event = event.header("n".repeat(64), "long name").build()?;
    t.fabric().publish(event.clone()).await?;
    let delivery = reader.next().await?;
    same_event(&delivery, &event)?;
    ensure_eq!(delivery.header("NAME-8_OF.MANY"), Some("\u{feff}mark"), "a name in capitals");
    reader.ack(delivery).await
}

/// R3b: a header that would not survive, or would speak for a broker, is refused before it is sent.
pub async fn bad_headers_are_refused_before_anything_is_sent(t: &Trial) -> Verdict {
    let topic = t.topic("headers");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let long = "n".repeat(65);
    let names = [
        "",
        "a b",
        "é",
        "a:b",
        "a\n",
        &long,
        "ce-id",
        "CE_ID",
        "cloudEvents:id",
        "nats-Msg-Id",
        "Fabric-attempt",
        "x-death",
        "X-Delivery-Count",
        "traceparent",
        "Content-Type",
        "cc",
    ];
    let bad = |name: &str, value: &str| Event::to(&topic).text("bad").header(name, value);
    let events: Vec<EventBuilder> = names
        .iter()
        .map(|name| bad(name, "v"))
        .chain(["a\r\nb: c", "nul\0", "\u{7f}", "\n"].iter().map(|value| bad("name", value)))
        .collect();
    for event in events {
        let error = refused(t.fabric().publish(event).await, ErrorKind::InvalidEvent)?;
        ensure_eq!(error.retry(), RetryClass::Never, "whether it may have been accepted");
    }
    reader.quiet().await
}

/// R3c: every field of the envelope arrives as it was sent.
pub async fn the_whole_envelope_arrives(t: &Trial) -> Verdict {
    let topic = t.topic("envelope");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut event = Event::to(&topic)
        .id("an id with spaces / and ünïcödé")
        .time(Timestamp::from_millis(1_700_000_000_123))
        .source("urn:example:söurce/1")
        .event_type("com.example.created")
        .version(7)
        .correlation_id("a conversation")
        .causation_id("018f4e5c-0000-7000-8000-000000000001")
        .trace(TraceContext::new(trace)?.with_state("vendor=1,other=2")?)
        .key("key/ä 1")
        .content_type("application/vnd.example+json; v=2")
        .header("tenant", "acme")
        .payload("{}");
    if t.can(Ability::Priority) {
        event = event.priority(Priority::High);
    }
    if t.can(Ability::Ttl) {
        event = event.time(Timestamp::now()).ttl(std::time::Duration::from_secs(3600));
    }
    let rare = event.build()?;
    let plain = Event::to(&topic).payload("{}").build()?;
    for event in [rare, plain] {
        t.fabric().publish(event.clone()).await?;
        let delivery = reader.next().await?;
        same_event(&delivery, &event)?;
        ensure!(delivery.dead_letter().is_none(), "it is no dead letter");
        reader.ack(delivery).await?;
    }
    Ok(())
}

/// R4: twenty topics with names of every shape, published and read at the same time: each
/// subscription gets its own, and one to a topic without events stays silent.
pub async fn each_subscription_gets_its_own_topics(t: &Trial) -> Verdict {
    let mut topics: Vec<Topic> = (0..16).map(|n| t.topic(&format!("t{n}.x"))).collect();
    let longest = "l".repeat(Topic::MAX_BYTES - t.root().len() - 1);
    // Not `a.b`, which some brokers cannot tell from `a_b`, and then refuse.
    topics.extend(["a-b", "a_b", "a.c", &longest].map(|name| t.topic(name)));
    let mut crew = Crew::new(t.timing());
    for (n, topic) in topics.iter().enumerate() {
        let audience = format!("plain{n}");
        crew.hire(t.reader(t.fabric().subscribe(topic).await?, &audience, &audience));
    }
    let mut silent = t.reader(t.fabric().subscribe(t.topic("silent")).await?, "silent", "silent");
    let publishers = topics.iter().enumerate().map(|(n, topic)| {
        let mut publisher = t.publisher(t.fabric(), &format!("p{n}"));
        async move { publisher.send_many(topic, 100).await }
    });
    for sent in futures_util::future::join_all(publishers).await {
        sent?;
    }
    crew.until(2000).await?;
    silent.quiet().await?;
    crew.dismiss().await?;
    for (n, topic) in topics.iter().enumerate() {
        t.check(format!("plain{n}")).of_topics(|published| published == topic).exactly()?;
    }
    Ok(())
}

/// R5: a payload of exactly the largest size passes; one byte more is refused as `TooLarge`, and
/// the connection goes on.
pub async fn the_largest_payload_passes_and_one_byte_more_does_not(t: &Trial) -> Verdict {
    let topic = t.topic("large");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let sized = |bytes: usize| Event::to(&topic).bytes(Bytes::from(vec![7; bytes]));
    let Some(limit) = t.caps().max_payload else {
        // Nothing is claimed: then a megabyte is nothing special.
        t.fabric().publish(sized(1 << 20)).await?;
        return reader.next().await.map(drop);
    };
    t.fabric().publish(sized(limit)).await?;
    let error = refused(t.fabric().publish(sized(limit + 1)).await, ErrorKind::TooLarge)?;
    ensure_eq!(error.retry(), RetryClass::Never, "whether it may have been accepted");
    ensure_eq!(error.context("topic"), Some(topic.as_str()), "the topic in the error");
    t.fabric().publish(sized(1)).await?;
    let sizes: Vec<usize> = reader.take(2).await?.iter().filter_map(size_of_payload).collect();
    ensure_eq!(sizes, [limit, 1], "the sizes that arrived");
    reader.quiet().await
}

/// R6a: of two new groups, the one that starts at the oldest event gets all, the other what comes.
pub async fn a_group_starts_where_it_is_told(t: &Trial) -> Verdict {
    let topic = t.topic("start");
    let mut publisher = t.publisher(t.fabric(), "p");
    publisher.send_many(&topic, 10).await?;
    let (old, new) = (t.group("old"), t.group("new"));
    let join = |group| t.fabric().subscribe(&topic).group(group);
    let mut all = t.reader(join(&old).start_at(Start::All).await?, &old, "old");
    let mut late = t.reader(join(&new).start_at(Start::New).await?, &new, "new");
    publisher.send_many(&topic, 10).await?;
    all.ack_many(20).await?;
    late.ack_many(10).await?;
    all.quiet().await?;
    late.quiet().await?;
    t.check(&old).exactly()?;
    ensure!(t.check(&new).lost().len() == 10, "the first ten are none of the new group's");
    t.check(&new).nothing_unexpected()?.no_duplicates().map(drop)
}

/// R6b: a group outlives its members: what is published while it has none waits for the next.
pub async fn a_group_outlives_its_members(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("outlives"), t.group("g"));
    let mut publisher = t.publisher(t.fabric(), "p");
    for round in 0..3 {
        let client = t.another().await?;
        let name = format!("member{round}");
        let mut reader = t.reader(client.subscribe(&topic).group(&group).await?, &group, &name);
        if round > 0 {
            reader.ack_many(25).await?;
        }
        publisher.send_many(&topic, 25).await?;
        reader.ack_many(25).await?;
        reader.close().await?;
        t.within("closing", client.close(t.timing().patience)).await??;
        publisher.send_many(&topic, 25).await?;
    }
    let mut last = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "last");
    last.ack_many(25).await?;
    last.quiet().await?;
    t.check(&group).exactly().map(drop)
}

/// R6c: a late subscription without a group sees what is published after it, and nothing before.
pub async fn a_late_subscription_sees_only_what_comes_after(t: &Trial) -> Verdict {
    let topic = t.topic("late");
    let mut early = t.publisher(t.fabric(), "early");
    early.send_many(&topic, 10).await?;
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut later = t.publisher(t.fabric(), "later");
    later.send_many(&topic, 10).await?;
    reader.ack_many(10).await?;
    reader.quiet().await?;
    t.check("plain").of_publishes(|record| &*record.actor == "later").exactly().map(drop)
}

type Sent = HashMap<String, Event>;

async fn publish_hundred(t: &Trial, topic: &Topic) -> Verdict<Sent> {
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut sent = HashMap::new();
    for n in 0..100 {
        let mut draft = publisher.draft(topic).with(|event| event.header("t", n.to_string()));
        if n % 2 == 0 {
            // Every other one keeps the id that it is given by the library.
            let text = draft.value.to_string();
            draft.event = Event::to(topic).text(text).header("t", n.to_string());
        }
        let (draft, event) = draft.fixed()?;
        sent.insert(event.id().to_string(), event);
        publisher.publish(draft).await?;
    }
    Ok(sent)
}

#[track_caller]
fn is_one_of(delivery: &Delivery, sent: &Sent) -> Verdict {
    match sent.get(&delivery.id().to_string()) {
        Some(want) => same_event(delivery, want),
        None => Err(Failure::new(format!("nobody published {:?}", delivery.event()))),
    }
}

fn size_of_payload(delivery: &Delivery) -> Option<usize> {
    delivery.payload().bytes().ok().map(|bytes| bytes.len())
}

/// Bytes that tell where they lie, so that a shift or a cut shows.
fn pattern_of(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}
