//! The other arm: what is not claimed is refused at once, and nothing happens.

use std::time::Duration;

use super::actors::Reader;
use super::failure::{Verdict, ensure, ensure_eq, refused};
use super::trial::Trial;
use crate::capabilities::Ability;
use crate::chunk::Nack;
use crate::error::{ErrorKind, RetryClass};
use crate::event::{Event, EventBuilder, Priority};
use crate::fabric::{Fabric, Publish, Subscribe};
use crate::group::Group;
use crate::info::Trim;
use crate::options::{AckMode, GroupDefinition, WhenFull};
use crate::pattern::Pattern;
use crate::patterns::Patterns;
use crate::position::{Cursor, Position, Start};
use crate::time::Timestamp;
use crate::topic::Topic;
use crate::{Error, Result};

/// Asserts that `ability`, which is not claimed, is refused promptly and without effect.
///
/// Every ability is refused by [`Fabric::require`]; those with a call of their own also there.
///
/// # Errors
/// What was accepted, took long, or had an effect.
///
/// # Cancel safety
/// Dropping the future leaves at most a subscription that ends with its client.
pub(super) async fn holds(t: &Trial, ability: Ability) -> Verdict {
    let error = t.lacks(ability)?;
    named(&error, ability)?;
    let began = tokio::time::Instant::now();
    call(t, ability).await?;
    t.timed(began, Duration::ZERO, t.timing().quiet)
}

async fn call(t: &Trial, ability: Ability) -> Verdict {
    use Ability as A;
    let topic = t.topic("refused");
    let group = t.group("refused");
    let position = Position::new(topic.clone(), 1, 0);
    match ability {
        A::FanOut => no_subscription(t, ability, |subscribe| subscribe).await,
        A::Groups => no_subscription(t, ability, |subscribe| subscribe.group(&group)).await,
        A::LiveGroups => {
            no_subscription(t, ability, |subscribe| subscribe.live_group(&group)).await
        }
        A::Lease => no_member(t, ability, |join| join.ack_wait(t.ack_wait())).await,
        A::AckConfirmed => no_member(t, ability, |join| join.ack_mode(AckMode::Confirmed)).await,
        A::GroupRedefine => {
            no_member(t, ability, Subscribe::redefine_group).await?;
            care(t, ability).await
        }
        A::Nack => no_settlement(t, ability).await,
        A::NackDelay => no_settlement(t, ability).await,
        A::Extend => no_settlement(t, ability).await,
        A::DeadLetters => {
            no_member(t, ability, |join| join.max_deliver(3)).await?;
            no_settlement(t, ability).await
        }
        A::Attempts => no_member(t, ability, |join| join.max_deliver(3)).await,
        A::Ttl => no_publish(t, ability, |event| event.ttl(Duration::from_secs(9)), |p| p).await,
        A::Delay => no_publish(t, ability, |e| e.delay(Duration::from_millis(1)), |p| p).await,
        A::Priority => no_publish(t, ability, |e| e.priority(Priority::High), |p| p).await,
        A::Transient => no_publish(t, ability, |e| e, Publish::transient).await,
        A::ExpectLast => no_publish(t, ability, |e| e, |p| p.expect_last(position)).await,
        A::StartAll => no_start(t, ability, &Start::All).await,
        A::StartLast => no_start(t, ability, &Start::Last).await,
        A::StartLastPerTopic => no_start(t, ability, &Start::LastPerTopic).await,
        A::StartTime => no_start(t, ability, &Start::Time(Timestamp::now())).await,
        A::StartPosition => {
            no_start(t, ability, &Start::At(position.clone())).await?;
            no_start(t, ability, &Start::After(position)).await?;
            no_start(t, ability, &Start::Resume(Cursor::new())).await
        }
        A::Replay => unsupported(t.fabric().replay(&topic).await, ability),
        A::RequestReply => {
            let asked = t.fabric().request(Event::to(&topic).text("?")).await;
            unsupported(asked, ability)?;
            unsupported(t.fabric().responder("refused").serve(&topic).await, ability)
        }
        A::Prefetch => no_option(t, ability, |subscribe| subscribe.prefetch(1)).await,
        A::WhenFullBlock => full(t, ability, WhenFull::Block).await,
        A::WhenFullDropOldest => full(t, ability, WhenFull::DropOldest).await,
        A::WhenFullDropNewest => full(t, ability, WhenFull::DropNewest).await,
        A::WhenFullFail => full(t, ability, WhenFull::Fail).await,
        A::GroupDefine
        | A::GroupReset
        | A::GroupDelete
        | A::GroupList
        | A::GroupInfo
        | A::GroupSend
        | A::TopicList
        | A::TopicInfo
        | A::Purge
        | A::Trim => care(t, ability).await,
        // These have no call of their own: `require` is their refusal.
        A::Persist
        | A::Durable
        | A::Confirm
        | A::OrderTopic
        | A::OrderKey
        | A::OrderKeyAcrossMembers
        | A::Dedup
        | A::NoResponders
        | A::AutoCreate => Ok(()),
    }
}

/// The refusal says what was asked for and by whom it was refused.
#[track_caller]
fn named(error: &Error, ability: Ability) -> Verdict {
    let text = error.to_string();
    ensure!(text.contains(ability.as_str()), "the refusal of `{ability}` does not name it: {text}");
    ensure!(error.backend().is_some(), "the refusal does not name the backend: {text}");
    ensure_eq!(error.retry(), RetryClass::Never, "the retry class of a refusal");
    Ok(())
}

#[track_caller]
fn unsupported<T, E: Into<Error>>(result: Result<T, E>, ability: Ability) -> Verdict {
    let error = refused(result, ErrorKind::Unsupported)?;
    ensure!(
        error.backend().is_some() && error.retry() == RetryClass::Never,
        "the refusal of `{ability}` is not clear: {error:?}"
    );
    Ok(())
}

/// The care of groups and topics: the family is missing, or the call is refused.
async fn care(t: &Trial, ability: Ability) -> Verdict {
    use Ability as A;
    let topic = t.topic("refused");
    let group = t.group("refused");
    let patterns = Patterns::from(Pattern::from(topic.clone()));
    if matches!(ability, A::TopicList | A::TopicInfo | A::Purge | A::Trim) {
        let admin = match t.fabric().admin() {
            Ok(admin) => admin,
            Err(error) => return unsupported(Err::<(), _>(error), ability),
        };
        return match ability {
            A::TopicList => unsupported(admin.topics(&topic).await, ability),
            A::TopicInfo => unsupported(admin.topic(&topic).await, ability),
            A::Purge => unsupported(admin.purge(&topic).await, ability),
            _ => unsupported(admin.trim(&topic, Trim::Keep(0)).await, ability),
        };
    }
    let groups = match t.fabric().groups() {
        Ok(groups) => groups,
        Err(error) => return unsupported(Err::<(), _>(error), ability),
    };
    let definition = GroupDefinition::new(patterns.clone());
    match ability {
        A::GroupDefine => unsupported(groups.define(&group, definition).await, ability)?,
        A::GroupRedefine => unsupported(groups.redefine(&group, patterns).await, ability)?,
        A::GroupReset => unsupported(groups.reset(&group, Start::All).await, ability)?,
        A::GroupDelete => unsupported(groups.delete(&group).await, ability)?,
        A::GroupList => unsupported(groups.list().await, ability)?,
        A::GroupInfo => unsupported(groups.info(&group).await, ability)?,
        _ => {
            let event = Event::to(&topic).text("sent");
            unsupported(groups.send_to(&group, event, None, 1).await, ability)?;
        }
    }
    no_group(t.fabric(), &group).await
}

/// The group was not made.
async fn no_group(fabric: &Fabric, group: &Group) -> Verdict {
    if fabric.capabilities().can(Ability::GroupInfo) {
        refused(fabric.groups()?.info(group).await, ErrorKind::NotFound)?;
    }
    Ok(())
}

async fn no_subscription(
    t: &Trial,
    ability: Ability,
    ask: impl Fn(Subscribe) -> Subscribe + Send + Sync,
) -> Verdict {
    let open = t.fabric().subscriptions().len();
    let asked = ask(t.fabric().subscribe(t.topic("refused"))).await;
    unsupported(asked, ability)?;
    ensure_eq!(t.fabric().subscriptions().len(), open, "the number of open subscriptions");
    no_group(t.fabric(), &t.group("refused")).await
}

/// A member with this option; a stack without groups refuses the group already.
async fn no_member(
    t: &Trial,
    ability: Ability,
    ask: impl Fn(Subscribe) -> Subscribe + Send + Sync,
) -> Verdict {
    let group = t.group("refused");
    no_subscription(t, ability, |subscribe| ask(subscribe.group(&group))).await
}

/// An option that plain subscriptions and members have, whichever there are.
async fn no_option(
    t: &Trial,
    ability: Ability,
    ask: impl Fn(Subscribe) -> Subscribe + Send + Sync + Copy,
) -> Verdict {
    no_subscription(t, ability, ask).await?;
    no_member(t, ability, ask).await
}

async fn full(t: &Trial, ability: Ability, policy: WhenFull) -> Verdict {
    no_option(t, ability, |subscribe| subscribe.when_full(policy)).await
}

async fn no_start(t: &Trial, ability: Ability, start: &Start) -> Verdict {
    no_option(t, ability, |subscribe| subscribe.start_at(start.clone())).await?;
    // A replay of all that is kept is what replay is.
    if t.can(Ability::Replay) && *start != Start::All {
        let replay = t.fabric().replay(t.topic("refused")).start_at(start.clone());
        unsupported(replay.await, ability)?;
    }
    Ok(())
}

/// The event is refused whether it is awaited or pipelined, and nobody sees it.
async fn no_publish(
    t: &Trial,
    ability: Ability,
    event: impl Fn(EventBuilder) -> EventBuilder + Send + Sync,
    publish: impl FnOnce(Publish) -> Publish + Send,
) -> Verdict {
    let topic = t.topic("refused");
    let mut watcher = watcher(t, &topic).await?;
    let fabric = t.fabric();
    let refused = publish(fabric.publish(event(Event::to(&topic).text("refused")))).await;
    unsupported(refused, ability)?;
    if let Some(watcher) = &mut watcher {
        watcher.quiet().await?;
    }
    if fabric.capabilities().can(Ability::TopicInfo) && watcher.is_none() {
        self::refused(fabric.admin()?.topic(&topic).await, ErrorKind::NotFound)?;
    }
    Ok(())
}

/// Somebody who would see an event that should not be there, if there is a way to be.
async fn watcher(t: &Trial, topic: &Topic) -> Verdict<Option<Reader>> {
    let fabric = t.fabric();
    if t.can(Ability::FanOut) {
        let subscription = fabric.subscribe(topic).await?;
        return Ok(Some(t.reader(subscription, "watcher", "watcher")));
    }
    Ok(None)
}

/// The settlement is refused, and the delivery can still be settled another way.
async fn no_settlement(t: &Trial, ability: Ability) -> Verdict {
    if !t.can(Ability::Groups) {
        return no_subscription(t, ability, |subscribe| subscribe.group(t.group("refused"))).await;
    }
    let (topic, group) = (t.topic("settled"), t.group("settled"));
    let subscription = t.fabric().subscribe(&topic).group(&group).await?;
    let mut reader = t.reader(subscription, &group, "member");
    t.publisher(t.fabric(), &format!("{ability:?}")).send(&topic).await?;
    let delivery = reader.next().await?;
    let began = tokio::time::Instant::now();
    let delivery = match ability {
        Ability::Nack => given_back(delivery.nack(Nack::now()).await, ability)?,
        Ability::NackDelay => given_back(delivery.nack(Duration::from_millis(1)).await, ability)?,
        Ability::DeadLetters => given_back(delivery.reject("no").await, ability)?,
        _ => {
            unsupported(delivery.progress().await, ability)?;
            delivery
        }
    };
    t.timed(began, Duration::ZERO, t.timing().quiet)?;
    reader.ack(delivery).await?;
    reader.quiet().await
}

/// A refused settlement hands the delivery back.
#[track_caller]
fn given_back(
    result: Result<(), crate::SettleError>,
    ability: Ability,
) -> Verdict<crate::Delivery> {
    match result {
        Err(failed) => {
            unsupported(Err::<(), _>(failed.error), ability)?;
            Ok(failed.delivery)
        }
        Ok(()) => Err(super::failure::Failure::new(format!("`{ability}` was accepted"))),
    }
}
