//! P: publishing: three outcomes, and each of them means what it says.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::StreamExt as _;
use futures_util::future::join_all;

use crate::capabilities::Ability;
use crate::conformance::actors::Reader;
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::error::{ErrorKind, RetryClass};
use crate::event::{Event, EventBuilder, Priority};
use crate::position::{Position, Start};
use crate::topic::Topic;

/// P1: what was confirmed is there after the broker was killed, whenever that was.
pub async fn what_is_confirmed_survives_a_killed_broker(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("durable"), t.group("g"));
    t.fabric().subscribe(&topic).group(&group).await?.close().await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut confirms = Vec::new();
    for n in 0..1000 {
        let draft = publisher.draft(&topic);
        if let Ok(pending) = publisher.submit(draft).await {
            confirms.push(pending);
        }
        if n == 400 {
            t.broker()?.kill().await?;
            t.broker()?.start().await?;
        }
    }
    for (draft, confirm) in confirms {
        publisher.conclude(&draft, &t.within("a confirm", confirm).await?);
    }
    t.broker()?.kill().await?;
    t.broker()?.start().await?;
    let client = t.another().await?;
    let mut reader = t.reader(client.subscribe(&topic).group(&group).await?, &group, "m");
    reader.catch_up().await?;
    t.check(&group).nothing_lost()?.nothing_unexpected().map(drop)
}

/// P2a: of a hundred events with three bad ones among them, each gets its own answer, in order, and
/// the other ninety-seven are delivered in order.
pub async fn a_bad_event_harms_no_neighbour(t: &Trial) -> Verdict {
    let topic = t.topic("neighbours");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    let limit = t.caps().max_payload;
    let mut drafts = Vec::new();
    for n in 0..100 {
        let draft = publisher.draft(&topic);
        drafts.push(match (n, limit) {
            (20, _) => draft.with(|event| event.header("bad name", "v")),
            (40, Some(limit)) => draft.with(|event| event.payload(vec![0; limit + 1])),
            (40 | 60, _) => draft.with(|event| event.source("")),
            _ => draft,
        });
    }
    let events: Vec<EventBuilder> = drafts.iter().map(|draft| draft.event.clone()).collect();
    let results: Vec<_> =
        t.fabric().publish_all(futures_util::stream::iter(events)).collect().await;
    ensure_eq!(results.len(), 100, "the number of answers");
    for (n, result) in results.iter().enumerate() {
        let bad = matches!(n, 20 | 40 | 60);
        ensure_eq!(result.is_err(), bad, "whether number {n} was refused ({result:?})");
        if let Err(error) = result {
            ensure_eq!(error.retry(), RetryClass::Never, "whether number {n} may be accepted");
        }
    }
    let mut expected = drafts.iter().enumerate().filter(|(n, _)| !matches!(n, 20 | 40 | 60));
    for delivery in reader.take(97).await? {
        let Some((_, draft)) = expected.next() else { return Err(Failure::new("one too many")) };
        if t.can(Ability::OrderTopic) {
            ensure_eq!(reader.value_of(&delivery), draft.value, "the order");
        }
    }
    reader.quiet().await
}

/// P2b: a flush resolves when everything before it is confirmed; a dropped confirm abandons the
/// answer, not the event.
pub async fn a_flush_waits_for_what_went_before(t: &Trial) -> Verdict {
    let topic = t.topic("flush");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    t.within("an idle flush", t.fabric().flush()).await??;
    for _ in 0..200 {
        let draft = publisher.draft(&topic);
        let (draft, confirm) = publisher.submit(draft).await?;
        drop(confirm);
        publisher.conclude(&draft, &Ok(crate::Receipt::ACCEPTED));
    }
    t.within("a flush", t.fabric().flush()).await??;
    reader.ack_many(200).await?;
    t.check("plain").exactly().map(drop)
}

/// P3: twenty publishers submit ten thousand events, and the fabric is closed at once: each gets an
/// answer, what was accepted is delivered, and afterwards everything is `Closed`.
pub async fn closing_answers_every_publish(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("closing"), t.group("g"));
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    let client = t.another().await?;
    let tasks = (0..20).map(|n| {
        let mut publisher = t.publisher(&client, &format!("p{n}"));
        let topic = topic.clone();
        tokio::spawn(async move {
            let mut confirms = Vec::new();
            for _ in 0..500 {
                let draft = publisher.draft(&topic);
                if let Ok(pending) = publisher.submit(draft).await {
                    confirms.push(pending);
                }
                tokio::task::yield_now().await;
            }
            for (draft, confirm) in confirms {
                let result = confirm.await;
                publisher.conclude(&draft, &result);
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    tokio::task::yield_now().await;
    t.within("closing", client.close(t.timing().patience)).await??;
    for task in t.within("every answer", join_all(tasks)).await? {
        task.map_err(|panic| Failure::new(format!("a publisher failed: {panic}")))?;
    }
    let late = client.publish(Event::to(&topic).text("late")).await;
    let error = refused(late, ErrorKind::Closed)?;
    ensure!(error.retry() != RetryClass::Ambiguous, "a closed fabric accepts nothing for certain");
    t.within("closing again", client.close(t.timing().patience)).await??;
    reader.drain().await?;
    t.check(&group).exactly().map(drop)
}

/// P4: a publish whose future is dropped at any point arrives once or not at all, and what follows
/// is not harmed.
pub async fn a_cancelled_publish_arrives_at_most_once(t: &Trial) -> Verdict {
    let topic = t.topic("cancel");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    for n in 0..1000 {
        let draft = publisher.draft(&topic);
        let polls = n % 4;
        AtMost { polls, future: pin!(publisher.publish(draft)) }.await;
        if n % 10 == 9 {
            publisher.send(&topic).await?;
        }
        if n % 100 == 99 {
            reader.drain().await?;
        }
    }
    publisher.send(&topic).await?;
    reader.drain().await?;
    t.check("plain").exactly().map(drop)
}

/// P5a: a topic comes into being with its first event, once, however many publish it at once.
pub async fn a_topic_comes_into_being_once(t: &Trial) -> Verdict {
    let topic = t.topic("born");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let other = t.another().await?;
    let tasks = (0..20).map(|n| {
        let fabric = if n % 2 == 0 { t.fabric() } else { &other };
        let mut publisher = t.publisher(fabric, &format!("p{n}"));
        let topic = topic.clone();
        tokio::spawn(async move { publisher.send(&topic).await.map(drop) })
    });
    for task in join_all(tasks.collect::<Vec<_>>()).await {
        task.map_err(|panic| Failure::new(format!("a publisher failed: {panic}")))??;
    }
    reader.ack_many(20).await?;
    reader.quiet().await?;
    t.check("plain").exactly()?;
    if t.can(Ability::TopicList) {
        let listed = t.fabric().admin()?.topics(&topic).await?;
        ensure_eq!(listed.len(), 1, "how often the topic is listed");
    }
    Ok(())
}

/// P5b: a client that finds no broker says so in time; subscriptions live again once it is there.
pub async fn a_broker_that_comes_late_is_waited_for(t: &Trial) -> Verdict {
    let topic = t.topic("late");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let broker = t.broker()?;
    broker.stop().await?;
    let absent = t.within("connecting to nobody", t.stray()).await?;
    ensure!(absent.is_err(), "there is nobody to connect to");
    let publish = t.fabric().publish(Event::to(&topic).text("x")).timeout(t.timing().quiet);
    let failed = t.within("a publish to nobody", publish).await?;
    ensure!(failed.is_err(), "nobody can have confirmed this");
    broker.start().await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    let draft = publisher.draft(&topic);
    t.within("a publish after all", publisher.publish(draft)).await??;
    reader.ack_many(1).await
}

/// P6a: the same id from two clients is stored once, and the second receipt says so; another topic
/// or source is another event.
pub async fn the_same_id_twice_is_stored_once(t: &Trial) -> Verdict {
    let (topic, elsewhere) = (t.topic("twice.a"), t.topic("twice.b"));
    let mut reader = t.reader(t.fabric().subscribe(t.pattern("twice.*")).await?, "plain", "reader");
    let other = t.another().await?;
    let event = |topic: &Topic, source: &str| Event::to(topic).id("once").source(source).text("x");
    let first = t.fabric().publish(event(&topic, "s")).await?;
    let second = other.publish(event(&topic, "s")).await?;
    ensure!(!first.duplicate, "the first is no duplicate");
    ensure!(second.duplicate, "the second receipt does not say that it is a duplicate");
    if let (Some(first), Some(second)) = (&first.position, &second.position) {
        ensure_eq!(second, first, "where the duplicate lies");
    }
    for differing in [event(&elsewhere, "s"), event(&topic, "another")] {
        ensure!(!t.fabric().publish(differing).await?.duplicate, "this is another event");
    }
    let arrived = reader.take(3).await?;
    ensure!(arrived.iter().all(|delivery| *delivery.id() == *"once"), "the ids");
    reader.quiet().await
}

/// P6b: after the window the same id is another event.
pub async fn after_the_window_the_same_id_is_another_event(t: &Trial) -> Verdict {
    let (topic, window) = (t.topic("window"), t.dedup_window()?);
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let event = || Event::to(&topic).id("once").source("s").text("x");
    t.fabric().publish(event()).await?;
    t.wait(window / 2).await;
    ensure!(t.fabric().publish(event()).await?.duplicate, "the window is not over");
    t.wait(window + t.timing().slack).await;
    ensure!(!t.fabric().publish(event()).await?.duplicate, "the window is over");
    reader.take(2).await?;
    reader.quiet().await
}

/// P7: a broker that hangs makes publishers wait or fail, within the bound on what is pending; what
/// was accepted arrives once it goes on.
pub async fn a_hanging_broker_makes_publishers_wait(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("hang"), t.group("g"));
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    let broker = t.broker()?;
    broker.pause().await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut pending = Vec::new();
    let mut waited = false;
    for _ in 0..100_000 {
        let draft = publisher.draft(&topic).with(|event| event.bytes(vec![0; 1024]));
        let submit = tokio::time::timeout(t.timing().quiet, publisher.submit(draft));
        match submit.await {
            Ok(Ok(confirm)) => pending.push(confirm),
            Ok(Err(_)) | Err(_) => {
                waited = true;
                break;
            }
        }
    }
    broker.resume().await?;
    ensure!(waited, "a hundred megabytes were taken with nobody to take them");
    for (draft, confirm) in pending {
        publisher.conclude(&draft, &t.within("a confirm", confirm).await?);
    }
    publisher.send(&topic).await?;
    reader.catch_up().await?;
    t.check(&group).nothing_lost()?.nothing_unexpected().map(drop)
}

/// P8: what certainly failed is never seen, among events that did not fail.
pub async fn what_failed_is_never_seen(t: &Trial) -> Verdict {
    let topic = t.topic("failed");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let mut publisher = t.publisher(t.fabric(), "p");
    let limit = t.caps().max_payload;
    for n in 0..60 {
        let mut draft = publisher.draft(&topic);
        draft = match (n % 6, limit) {
            (1, _) => draft.with(|event| event.header("fabric-attempt", "9")),
            (2, Some(limit)) => draft.with(|event| event.payload(vec![0; limit + 1])),
            (3, _) => draft.with(|event| event.version(0)),
            (4, _) if !t.can(Ability::Priority) => draft.with(|e| e.priority(Priority::High)),
            (5, _) => draft.with(|event| event.id("")),
            _ => draft,
        };
        let good = draft.event.clone().build().is_ok();
        let result = publisher.publish(draft).await;
        if let Err(error) = &result {
            ensure!(error.retry() != RetryClass::Ambiguous, "it is known: {error:#}");
        }
        ensure!(good || result.is_err(), "a bad event was accepted");
    }
    for bad in ["", "a..b", "a b", "a.*", "#", "ä", &"l".repeat(201)] {
        refused(t.fabric().publish(Event::to(bad).text("x")).await, ErrorKind::InvalidTopic)?;
    }
    reader.drain().await?;
    t.check("plain").exactly().map(drop)
}

/// P9: a receipt's position is where the event lies: deliveries name the same, and a subscription
/// can begin there.
pub async fn a_receipt_says_where_the_event_lies(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("place"), t.group("g"));
    let mut grouped = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    let mut publisher = t.publisher(t.fabric(), "p");
    let mut places = Vec::new();
    for _ in 0..20 {
        let receipt = publisher.send(&topic).await?;
        ensure!(!receipt.duplicate, "nobody sent this before");
        ensure!(receipt.routed != Some(false), "a group keeps it");
        places.extend(receipt.position);
    }
    ensure!(places.is_empty() || places.len() == 20, "only {} have a position", places.len());
    for (n, delivery) in grouped.take(20).await?.into_iter().enumerate() {
        if let (Some(place), Some(position)) = (places.get(n), delivery.position()) {
            ensure_eq!(&position, place, "the position of delivery {n}");
        }
        grouped.ack(delivery).await?;
    }
    if let Some(place) = places.get(7)
        && t.can(Ability::StartPosition)
        && t.can(Ability::FanOut)
    {
        let join = t.fabric().subscribe(&topic).start_at(Start::At(place.clone()));
        let mut reader: Reader = t.reader(join.await?, "plain", "reader");
        let delivery = reader.next().await?;
        ensure_eq!(delivery.position().as_ref(), Some(place), "where it began");
    }
    Ok(())
}

/// P10: an event is stored only if the topic ends where its publisher believes.
pub async fn an_expected_last_position_is_checked(t: &Trial) -> Verdict {
    let topic = t.topic("expect");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let fabric = t.fabric();
    let event = |text: &str| Event::to(&topic).text(text);
    let place = |receipt: crate::Receipt| {
        receipt.position.ok_or_else(|| Failure::new("an accepted event has no position"))
    };
    // Of many who begin a topic one does.
    let founders = (0..10).map(|_| fabric.publish(event("first")).expect_empty());
    let mut founded = join_all(founders).await.into_iter().filter_map(Result::ok);
    let (first, None) = (founded.next(), founded.next()) else {
        return Err(Failure::new("not one of ten began the topic"));
    };
    let first = place(first.ok_or_else(|| Failure::new("nobody began the topic"))?)?;
    let late = fabric.publish(event("late")).expect_empty().await;
    let error = refused(late, ErrorKind::AlreadyExists)?;
    ensure_eq!(error.retry(), RetryClass::Never, "whether it may have been accepted");
    let second = place(fabric.publish(event("second")).expect_last(first.clone()).await?)?;
    let stale = fabric.publish(event("stale")).expect_last(first.clone()).await;
    let error = refused(stale, ErrorKind::AlreadyExists)?;
    ensure_eq!(error.retry(), RetryClass::Never, "whether it may have been accepted");
    let elsewhere = Position::new(t.topic("other"), first.incarnation, first.offset);
    ensure!(
        fabric.publish(event("elsewhere")).expect_last(elsewhere).await.is_err(),
        "the position of another topic is not this topic's last"
    );
    // Of many who decide on the same state one wins.
    let rivals = (0..10).map(|_| fabric.publish(event("rival")).expect_last(second.clone()));
    let won = join_all(rivals).await.iter().filter(|result| result.is_ok()).count();
    ensure_eq!(won, 1, "how many of ten rivals won");
    let texts: Vec<String> = reader
        .take(3)
        .await?
        .iter()
        .filter_map(|delivery| delivery.text().ok().map(String::from))
        .collect();
    ensure_eq!(texts, ["first", "second", "rival"], "what was stored");
    reader.quiet().await
}

/// P11: where several wait, the more urgent come first; within one priority order holds.
pub async fn urgent_events_come_first(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("urgent"), t.group("g"));
    t.fabric().subscribe(&topic).group(&group).await?.close().await?;
    let order = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
    for n in 0..20 {
        let event = Event::to(&topic).text(n.to_string()).priority(order[n % 4]);
        t.fabric().publish(event).await?;
    }
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    let mut got = Vec::new();
    for delivery in reader.take(20).await? {
        let number: usize = delivery.text()?.parse().unwrap_or(usize::MAX);
        got.push((std::cmp::Reverse(delivery.priority()), number));
        reader.ack(delivery).await?;
    }
    ensure!(got.is_sorted(), "urgent ones did not come first: {got:?}");
    Ok(())
}

/// P12: a transient event is delivered like any other while the broker lives.
pub async fn a_transient_event_is_delivered(t: &Trial) -> Verdict {
    let topic = t.topic("transient");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let publisher = &mut t.publisher(t.fabric(), "p");
    let draft = publisher.draft(&topic);
    t.fabric().publish(draft.event.clone()).transient().await?;
    let delivery = reader.next().await?;
    ensure_eq!(reader.value_of(&delivery), draft.value, "what arrived");
    reader.quiet().await
}

/// P13: events without an id get one each, unlike any other, from every client.
pub async fn ids_are_unique(t: &Trial) -> Verdict {
    let topic = t.topic("ids");
    let mut reader = t.reader(t.fabric().subscribe(&topic).await?, "plain", "reader");
    let other = t.another().await?;
    for _ in 0..250 {
        t.fabric().publish(Event::to(&topic).text("same")).await?;
        other.publish(Event::to(&topic).text("same")).await?;
    }
    let mut ids: Vec<String> =
        reader.take(500).await?.iter().map(|delivery| delivery.id().to_string()).collect();
    ids.sort();
    ids.dedup();
    ensure_eq!(ids.len(), 500, "the number of different ids");
    Ok(())
}

/// A future that is polled a number of times and no more.
struct AtMost<F> {
    polls: u32,
    future: F,
}

impl<F: Future + Unpin> Future for AtMost<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(left) = self.polls.checked_sub(1) else { return Poll::Ready(None) };
        self.polls = left;
        match Pin::new(&mut self.future).poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
