//! M6: events that expire and events that are not due yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::capabilities::Ability;
use crate::conformance::actors::same_event;
use crate::conformance::failure::{Verdict, ensure, ensure_eq};
use crate::conformance::trial::Trial;
use crate::position::Start;
use crate::time::Timestamp;

const SECOND: Duration = Duration::from_secs(1);

/// M6a: an event that nobody read within its time to live is not delivered; its neighbours are.
pub async fn an_expired_event_is_not_delivered(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("ttl"), t.group("g"));
    t.fabric().subscribe(&topic).group(&group).await?.close().await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut alive = Vec::new();
    for n in 0..9 {
        let draft = publisher.draft(&topic);
        let draft = match n % 3 {
            0 => draft.with(|event| event.ttl(SECOND)),
            1 => draft.with(|event| event.ttl(100 * SECOND)),
            _ => draft,
        };
        if n % 3 != 0 {
            alive.push(Arc::clone(&draft.value));
        }
        publisher.publish(draft).await?;
    }
    t.wait(2 * SECOND).await;
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    for value in alive {
        let delivery = reader.next().await?;
        ensure_eq!(reader.value_of(&delivery), value, "what is still alive");
        reader.ack(delivery).await?;
    }
    reader.quiet().await
}

/// M6b: an event that is read in time is delivered, with its time to live.
pub async fn an_event_read_in_time_is_delivered(t: &Trial) -> Verdict {
    let topic = t.topic("ttl");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    let (draft, event) = publisher.draft(&topic).with(|event| event.ttl(100 * SECOND)).fixed()?;
    publisher.publish(draft).await?;
    same_event(&*reader.next().await?, &event)
}

/// M6c: a delayed event comes when it is due, not before, to groups and to everybody else; what is
/// not delayed passes it.
pub async fn a_delayed_event_comes_when_it_is_due(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("delay"), t.group("g"));
    let mut plain = t.reader(t.fabric().subscribe(&topic).await?, "plain", "plain");
    let mut grouped = if t.can(Ability::Groups) {
        let subscription = t.fabric().subscribe(&topic).group(&group).await?;
        Some(t.reader(subscription, &group, "m"))
    } else {
        None
    };
    let mut publisher = t.publisher(t.fabric(), "p");
    let since = Instant::now();
    let delayed = publisher.draft(&topic).with(|event| event.delay(2 * SECOND));
    let at = Timestamp::now().saturating_add(SECOND);
    let sooner = publisher.draft(&topic).with(|event| event.deliver_at(at));
    let now = publisher.draft(&topic);
    let past = publisher.draft(&topic).with(|event| event.deliver_at(Timestamp::from_millis(1)));
    let order = [&now, &past, &sooner, &delayed].map(|draft| Arc::clone(&draft.value));
    for draft in [delayed, sooner, now, past] {
        publisher.publish(draft).await?;
    }
    for (n, value) in order.iter().enumerate() {
        let delivery = plain.next().await?;
        ensure_eq!(&plain.value_of(&delivery), value, "number {n}");
        let due = SECOND * n.saturating_sub(1) as u32;
        t.timed(since, due, due)?;
        if let Some(reader) = &mut grouped {
            let delivery = reader.next().await?;
            ensure_eq!(&reader.value_of(&delivery), value, "number {n} in the group");
            reader.ack(delivery).await?;
        }
    }
    plain.quiet().await?;
    t.check("plain").exactly().map(drop)
}

/// M6d: a delayed event survives a restart of the broker, and whoever published it.
pub async fn a_delayed_event_survives_a_restart(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("delay"), t.group("g"));
    t.fabric().subscribe(&topic).group(&group).await?.close().await?;
    let client = t.stray().await?;
    let mut publisher = t.publisher(&client, "p");
    let since = Instant::now();
    let draft = publisher.draft(&topic).with(|event| event.delay(5 * SECOND));
    publisher.publish(draft).await?;
    drop((publisher, client));
    t.broker()?.stop().await?;
    t.broker()?.start().await?;
    let other = t.another().await?;
    let mut reader = t.reader(other.subscribe(&topic).group(&group).await?, &group, "m");
    let delivery = reader.next().await?;
    t.timed(since, 5 * SECOND, 5 * SECOND)?;
    reader.ack(delivery).await
}

/// M6e: an event may have both: it is delivered when due, and not at all where it expires before.
pub async fn a_delay_beyond_the_time_to_live_delivers_nothing(t: &Trial) -> Verdict {
    let topic = t.topic("both");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    let dead = publisher.draft(&topic).with(|event| event.ttl(SECOND).delay(2 * SECOND));
    let alive = publisher.draft(&topic).with(|event| event.ttl(9 * SECOND).delay(2 * SECOND));
    publisher.publish(dead).await?;
    let value = Arc::clone(&alive.value);
    publisher.publish(alive).await?;
    let delivery = reader.next().await?;
    ensure_eq!(reader.value_of(&delivery), value, "what is alive when it is due");
    reader.quiet_for(2 * SECOND).await
}

/// M6f: history does not bring expired events back to life either.
pub async fn history_keeps_the_dead_buried(t: &Trial) -> Verdict {
    let topic = t.topic("history");
    let mut publisher = t.publisher(t.fabric(), "p");
    let short = publisher.draft(&topic).with(|event| event.ttl(SECOND));
    let long = publisher.draft(&topic).with(|event| event.ttl(100 * SECOND));
    let value = Arc::clone(&long.value);
    publisher.publish(short).await?;
    publisher.publish(long).await?;
    t.wait(2 * SECOND).await;
    let subscription = t.fabric().subscribe(&topic).start_at(Start::All).await?;
    let mut reader = t.reader(subscription, "plain", "reader");
    let delivery = reader.next().await?;
    ensure_eq!(reader.value_of(&delivery), value, "what is alive");
    reader.quiet().await?;
    if t.can(Ability::Replay) {
        let mut replay = t.fabric().replay(&topic).await?;
        let first = t.within("a replayed event", replay.recv()).await?.transpose()?;
        let text = first.as_ref().and_then(|delivery| delivery.text().ok());
        ensure_eq!(text.as_deref(), Some(&*value), "what a replay yields");
        let end = t.within("the end of a replay", replay.recv()).await?;
        ensure!(end.is_none(), "the replay goes on with {end:?}");
    }
    Ok(())
}
