//! X, and A10 and A11: what cannot be handled is kept as a dead letter, once, and leaves its group.

use crate::chunk::Nack;
use crate::conformance::actors::{Reader, same_content};
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::dead_letter::{DeadLetterReason, MAX_ERROR_LEN};
use crate::delivery::Delivery;
use crate::error::ErrorKind;
use crate::event::Event;
use crate::group::Group;
use crate::notice::NoticeKind;
use crate::position::Start;
use crate::topic::Topic;

/// A10: a rejected event never comes again to its group; it is in the dead letters, with the reason.
pub async fn a_rejected_event_never_comes_again(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("reject"), t.group("g"));
    let mut letters = letters(t, &group).await?;
    let mut reader = leased(t, &topic, &group).await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 3).await?;
    let first = reader.next().await?;
    let (original, attempt) = (first.event().clone(), first.attempt());
    reader.reject(first, "it has no amount").await?;
    reader.ack_many(2).await?;
    let letter = letters.next().await?;
    same_content(&letter, &original)?;
    let about = about(&letter)?;
    ensure_eq!(about.reason, DeadLetterReason::Rejected, "the reason");
    ensure!(about.error.contains("it has no amount"), "the text: {}", about.error);
    ensure_eq!(about.attempts, attempt, "the attempts");
    reader.quiet_for(2 * t.ack_wait()).await?;
    letters.quiet().await
}

/// A11a: after as many nacks as the group allows there is one dead letter with everything on it; the
/// group gets the event no more, and nothing else is harmed.
pub async fn an_event_tried_too_often_becomes_one_dead_letter(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("limit"), t.group("g"));
    let mut letters = letters(t, &group).await?;
    let join = t.fabric().subscribe(&topic).group(&group).max_deliver(3);
    let mut reader = t.reader(join.await?, &group, "m");
    let mut publisher = t.publisher(t.fabric(), "p");
    let draft = publisher.draft(&topic).with(|event| event.header("tenant", "acme").key("k"));
    let (draft, original) = draft.fixed()?;
    let receipt = publisher.publish(draft).await?;
    let mut tries = 0;
    while tries < 3 {
        let delivery = reader.next().await?;
        tries += 1;
        ensure_eq!(delivery.id(), original.id(), "the id");
        reader.nack(delivery, Nack::now().because(format!("failure {tries}"))).await?;
    }
    let letter = letters.next().await?;
    same_content(&letter, &original)?;
    ensure_eq!(letter.topic(), &Topic::dead_letters(&group), "where it is kept");
    let about = about(&letter)?;
    ensure_eq!(about.reason, DeadLetterReason::MaxDeliver, "the reason");
    ensure_eq!(about.attempts, 3, "the attempts");
    ensure_eq!(&about.topic, &topic, "where it had been published");
    ensure_eq!(&about.group, &group, "whose it is");
    ensure_eq!(about.redriven, 0, "how often it was sent back");
    ensure!(about.error.contains("failure 3"), "the text: {}", about.error);
    ensure!(about.last >= original.time(), "it died before it was published");
    if let Some(position) = receipt.position {
        ensure_eq!(about.position, Some(position), "where it had been stored");
    }
    publisher.send(&topic).await?;
    reader.ack_many(1).await?;
    reader.quiet().await?;
    letters.quiet().await
}

/// A11b: leases that end count as tries: the delivery after the last allowed one never reaches a
/// member.
pub async fn ended_leases_count_as_tries(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("leases"), t.group("g"));
    let mut letters = letters(t, &group).await?;
    let join = t.fabric().subscribe(&topic).group(&group).max_deliver(2).ack_wait(t.ack_wait());
    let mut reader = t.reader(join.await?, &group, "m");
    t.publisher(t.fabric(), "p").send(&topic).await?;
    let (first, second) = (reader.next().await?, reader.next().await?);
    ensure!(second.attempt() > first.attempt(), "the second attempt is {}", second.attempt());
    // The third would be one too many: the member's subscription takes care of it.
    let (quiet, letter) = tokio::join!(reader.quiet_for(3 * t.ack_wait()), letters.next());
    quiet?;
    let letter = letter?;
    ensure_eq!(about(&letter)?.reason, DeadLetterReason::MaxDeliver, "the reason");
    ensure_eq!(about(&letter)?.attempts >= 2, true, "at least two attempts");
    drop((first, second));
    reader.quiet_for(2 * t.ack_wait()).await?;
    letters.quiet().await
}

/// X1: dead letters outlast their reader: a late one finds them, and a group can work through them.
pub async fn dead_letters_wait_for_whoever_cares(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("wait"), t.group("g"));
    let mut reader = leased(t, &topic, &group).await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 5).await?;
    for delivery in reader.take(5).await? {
        reader.reject(delivery, "all of them").await?;
    }
    let (dead, undertaker) = (Topic::dead_letters(&group), t.group("undertaker"));
    let join = t.fabric().subscribe(&dead).group(&undertaker).start_at(Start::All);
    let mut letters = t.reader(join.await?, &undertaker, "undertaker");
    letters.ack_many(5).await?;
    letters.quiet().await?;
    t.check(&undertaker).exactly()?.in_order().map(drop)
}

/// X2: a fabric counts its dead letters and says so.
pub async fn a_dead_letter_is_counted_and_noticed(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("noticed"), t.group("g"));
    let mut notices = t.fabric().notices();
    let mut reader = leased(t, &topic, &group).await?;
    t.publisher(t.fabric(), "p").send(&topic).await?;
    let before = t.fabric().stats().dead_letters;
    let delivery = reader.next().await?;
    reader.reject(delivery, "noticed").await?;
    ensure_eq!(t.fabric().stats().dead_letters, before + 1, "the count of dead letters");
    while let Some(notice) = notices.try_next() {
        if let NoticeKind::DeadLettered { group: whose, topic: origin } = notice.kind {
            ensure_eq!(whose, group, "whose dead letter it is");
            ensure_eq!(origin, topic, "where it had been published");
            return Ok(());
        }
    }
    Err(Failure::new("nobody was told of the dead letter"))
}

/// X3: an error of any length, in any script, is kept up to the limit and harms nothing.
pub async fn a_long_error_is_cut(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("long"), t.group("g"));
    let mut letters = letters(t, &group).await?;
    let mut reader = leased(t, &topic, &group).await?;
    t.publisher(t.fabric(), "p").send(&topic).await?;
    let delivery = reader.next().await?;
    reader.reject(delivery, &format!("x{}\r\n\0", "é".repeat(MAX_ERROR_LEN))).await?;
    let letter = letters.next().await?;
    let text = &about(&letter)?.error;
    ensure!(text.len() <= MAX_ERROR_LEN && text.starts_with("xéé"), "{} bytes", text.len());
    Ok(())
}

/// X4: a user publishes to no reserved topic, neither dead letters nor inboxes nor replies.
pub async fn reserved_topics_are_not_published_to(t: &Trial) -> Verdict {
    let group = t.group("g");
    let mut letters = letters(t, &group).await?;
    for topic in [format!("dlq.{group}"), format!("_fabric.to.{group}"), "_reply.x".to_owned()] {
        let error = t.fabric().publish(Event::to(&topic).text("forged")).await;
        refused(error, ErrorKind::InvalidTopic)?;
    }
    letters.quiet().await
}

/// A subscription without a group to the dead letters of `group`.
async fn letters(t: &Trial, group: &Group) -> Verdict<Reader> {
    let subscription = t.fabric().subscribe(Topic::dead_letters(group)).await?;
    Ok(t.reader(subscription, "letters", "letters"))
}

async fn leased(t: &Trial, topic: &Topic, group: &Group) -> Verdict<Reader> {
    let mut join = t.fabric().subscribe(topic).group(group);
    if t.can(crate::Ability::Lease) {
        join = join.ack_wait(t.ack_wait());
    }
    Ok(t.reader(join.await?, group, "m"))
}

#[track_caller]
fn about(letter: &Delivery) -> Verdict<&crate::DeadLetter> {
    letter.dead_letter().ok_or_else(|| Failure::new("it does not say that it is a dead letter"))
}
