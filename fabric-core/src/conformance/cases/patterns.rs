//! T: patterns mean the same on every wire, and topics that come later are not missed.

use std::collections::BTreeSet;

use crate::capabilities::Ability;
use crate::chunk::Nack;
use crate::conformance::actors::Reader;
use crate::conformance::failure::{Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::error::ErrorKind;
use crate::topic::Topic;

/// The topics of the cases below; `x` is a level of its own.
const TOPICS: [&str; 12] = [
    "x", "x.a", "x.b", "x.a.b", "x.a.a", "x.a.b.c", "x.b.b.c", "x.a.x.b", "xa", "x-a", "x_a.c",
    "y.a",
];

/// T1: `*` is exactly one level, wherever it stands.
pub async fn a_star_is_exactly_one_level(t: &Trial) -> Verdict {
    matching(t, &["x.*", "x.*.b", "*.a", "x.*.*.c", "*"]).await
}

/// T2: `#` is any number of levels, none among them, also between others and more than once.
pub async fn a_hash_is_any_number_of_levels(t: &Trial) -> Verdict {
    matching(t, &["x.#", "#.b", "x.#.b", "x.#.c", "#", "x.#.b.#", "#.a.#.c"]).await
}

/// T3: `>` is one level or more: `x.>` does not match `x`.
pub async fn an_arrow_is_one_level_or_more(t: &Trial) -> Verdict {
    matching(t, &["x.>", "x.a.>", "*.>", ">", "x.#.b.>", "y.>"]).await
}

/// T4: a pattern without wildcards is that topic and no other, not even one that begins the same.
pub async fn a_literal_is_one_topic(t: &Trial) -> Verdict {
    matching(t, &["x", "x.a", "xa", "x-a", "x_a.c", "z"]).await
}

/// T5: a group's patterns mean the same.
pub async fn a_groups_patterns_mean_the_same(t: &Trial) -> Verdict {
    let patterns = ["x.*", "x.#.b", "x.>", "#.c", "x.a"];
    let mut readers = Vec::new();
    for (n, pattern) in patterns.iter().enumerate() {
        let group = t.group(&format!("g{n}"));
        let join = t.fabric().subscribe(t.pattern(pattern)).group(&group);
        readers.push((t.pattern(pattern), t.reader(join.await?, &group, group.as_str())));
    }
    publish_all(t).await?;
    for (pattern, reader) in readers {
        got_what_matches(t, &pattern, reader).await?;
    }
    Ok(())
}

/// T6: an event that several patterns of one subscription match comes once.
pub async fn overlapping_patterns_bring_one_copy(t: &Trial) -> Verdict {
    let patterns = ["x.#", "x.a", "x.*", "x.a"].map(|pattern| t.pattern(pattern));
    let mut plain = t.reader(t.fabric().subscribe(&patterns).await?, "plain", "plain");
    let group = t.group("g");
    let mut grouped = if t.can(Ability::Groups) {
        let subscription = t.fabric().subscribe(&patterns).group(&group).await?;
        Some(t.reader(subscription, &group, "m"))
    } else {
        None
    };
    publish_all(t).await?;
    let count = plain.drain().await?;
    ensure_eq!(count, 8, "how many came");
    let in_x = |topic: &Topic| {
        let rest = topic.as_str().strip_prefix(t.root()).unwrap_or_default();
        rest == ".x" || rest.starts_with(".x.")
    };
    t.check("plain").of_topics(in_x).exactly()?;
    if let Some(reader) = &mut grouped {
        reader.drain().await?;
        t.check(&group).of_topics(in_x).exactly()?;
    }
    Ok(())
}

/// T7: a wildcard in the first level matches no reserved topic; a pattern that names the first level
/// does.
pub async fn wildcards_do_not_reach_reserved_topics(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("reserved"), t.group("g"));
    let mut wild = Vec::new();
    for pattern in ["#", ">", "*.*", "#.>"] {
        let name = format!("wild {pattern}");
        wild.push(t.reader(t.fabric().subscribe(pattern).await?, &name, &name));
    }
    let mut named = t.reader(t.fabric().subscribe("dlq.*").await?, "named", "named");
    let subscription = t.fabric().subscribe(&topic).group(&group).await?;
    let mut member = t.reader(subscription, &group, "m");
    t.publisher(t.fabric(), "p").send(&topic).await?;
    let delivery = member.next().await?;
    if t.can(Ability::Nack) {
        member.nack(delivery, Nack::now()).await?;
        let delivery = member.next().await?;
        member.reject(delivery, "reserved").await?;
    } else {
        member.reject(delivery, "reserved").await?;
    }
    let letter = named.next().await?;
    ensure_eq!(letter.topic(), &Topic::dead_letters(&group), "where the dead letter lies");
    for mut reader in wild {
        let delivery = reader.next().await?;
        ensure_eq!(delivery.topic(), &topic, "what a wildcard matches");
        reader.quiet().await?;
    }
    Ok(())
}

/// T8: a topic that comes into being after the subscription is received from its first event, for
/// every kind of pattern, by groups and by everybody else.
pub async fn a_later_topic_is_received_from_its_first_event(t: &Trial) -> Verdict {
    let patterns = ["later.*", "later.#", "*.one", "later.one"];
    let mut readers = Vec::new();
    for (n, pattern) in patterns.iter().enumerate() {
        let pattern = t.pattern(pattern);
        let plain = format!("plain{n}");
        readers.push((t.reader(t.fabric().subscribe(&pattern).await?, &plain, &plain), plain));
        if t.can(Ability::Groups) {
            let group = t.group(&format!("g{n}"));
            let join = t.fabric().subscribe(&pattern).group(&group);
            readers.push((t.reader(join.await?, &group, group.as_str()), group.to_string()));
        }
    }
    t.publisher(t.fabric(), "p").send_many(&t.topic("later.one"), 5).await?;
    // Discovery may take its time, but nothing gets lost meanwhile.
    for (reader, audience) in &mut readers {
        reader.ack_many(5).await?;
        let check = t.check(&*audience);
        check.exactly()?;
        if t.can(Ability::OrderTopic) {
            check.in_order()?;
        }
    }
    t.wait(t.timing().discovery).await;
    t.publisher(t.fabric(), "q").send_many(&t.topic("later.two"), 5).await?;
    for (n, (reader, _)) in readers.iter_mut().enumerate() {
        let per = if t.can(Ability::Groups) { 2 } else { 1 };
        let both = n / per < 2;
        if both {
            reader.ack_many(5).await?;
        }
        reader.quiet().await?;
    }
    Ok(())
}

/// T9: a pattern or a group's name that breaks the rules is refused before anything is sent.
pub async fn bad_names_are_refused(t: &Trial) -> Verdict {
    let fabric = t.fabric();
    for bad in ["", ".", "a..b", "a.b*", ">.a", "a b", "ä", "a.>.b"] {
        refused(fabric.subscribe(bad).await, ErrorKind::InvalidTopic)?;
    }
    let none: [&str; 0] = [];
    refused(fabric.subscribe(none).await, ErrorKind::InvalidTopic)?;
    for bad in ["", "a.b", "*", "a b", &"g".repeat(65)] {
        let joined = fabric.subscribe(t.pattern("#")).group(bad).await;
        refused(joined, ErrorKind::InvalidTopic)?;
    }
    ensure!(fabric.subscriptions().is_empty(), "nothing was opened");
    Ok(())
}

/// Subscribes to each pattern, publishes to every topic, and compares with what matches.
async fn matching(t: &Trial, patterns: &[&str]) -> Verdict {
    let mut readers = Vec::new();
    for pattern in patterns {
        let pattern = t.pattern(pattern);
        readers.push((
            pattern.clone(),
            t.reader(t.fabric().subscribe(&pattern).await?, &pattern, &pattern),
        ));
    }
    publish_all(t).await?;
    for (pattern, reader) in readers {
        got_what_matches(t, &pattern, reader).await?;
    }
    Ok(())
}

async fn publish_all(t: &Trial) -> Verdict {
    let mut publisher = t.publisher(t.fabric(), "p");
    for topic in TOPICS {
        publisher.send(&t.topic(topic)).await?;
    }
    Ok(())
}

async fn got_what_matches(t: &Trial, pattern: &str, mut reader: Reader) -> Verdict {
    let pattern = crate::Pattern::new(pattern)?;
    reader.drain().await?;
    let audience = reader.audience();
    let got: BTreeSet<String> = t
        .history()
        .records()
        .iter()
        .filter(|record| record.is_receipt_of(&audience))
        .map(|record| record.topic.to_string())
        .collect();
    let want: BTreeSet<String> = TOPICS
        .iter()
        .map(|topic| t.topic(topic))
        .filter(|topic| pattern.matches(topic))
        .map(|topic| topic.to_string())
        .collect();
    ensure_eq!(got, want, "what `{pattern}` matched");
    let matches = |topic: &Topic| pattern.matches(topic);
    t.check(&audience).of_topics(matches).exactly().map(drop)
}
