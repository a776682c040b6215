//! H: what a fabric tells about itself.

use futures_util::StreamExt as _;

use crate::capabilities::{Ability, Capabilities, Support};
use crate::chunk::Nack;
use crate::conformance::failure::{Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::error::ErrorKind;
use crate::health::HealthStatus;
use crate::notice::NoticeKind;

/// H1: an open fabric is up, a closed one is down and says why; others are not concerned.
pub async fn health_is_up_until_the_fabric_closes(t: &Trial) -> Verdict {
    let client = t.another().await?;
    let health = t.within("a health check", client.health()).await?;
    ensure_eq!(health.status, HealthStatus::Up, "the health of an open fabric ({health:?})");
    client.close(t.timing().patience).await?;
    let health = t.within("a health check", client.health()).await?;
    ensure_eq!(health.status, HealthStatus::Down, "the health of a closed fabric");
    ensure!(health.reason.is_some(), "a fabric that is down says why");
    ensure!(t.fabric().health().await.is_up(), "another client is down as well");
    Ok(())
}

/// H2: closing ends the notices, after `Closed`.
pub async fn notices_end_with_closed(t: &Trial) -> Verdict {
    let client = t.another().await?;
    let mut notices = client.notices();
    client.close(t.timing().patience).await?;
    let mut last = None;
    while let Some(notice) = t.within("the end of the notices", notices.next()).await? {
        last = Some(notice.kind);
    }
    ensure!(matches!(last, Some(NoticeKind::Closed)), "the last notice is {last:?}");
    Ok(())
}

/// H3: redeliveries are counted, first deliveries are not.
pub async fn redeliveries_are_counted(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("counted"), t.group("g"));
    let mut reader = t.reader(t.fabric().subscribe(&topic).group(&group).await?, &group, "m");
    let before = t.fabric().stats();
    t.publisher(t.fabric(), "p").send_many(&topic, 5).await?;
    for delivery in reader.take(5).await? {
        reader.nack(delivery, Nack::now()).await?;
    }
    reader.ack_many(5).await?;
    let stats = t.fabric().stats();
    ensure_eq!(stats.redeliveries, before.redeliveries + 5, "the count of redeliveries");
    ensure_eq!(stats.dropped_deliveries, before.dropped_deliveries, "none was dropped");
    ensure_eq!(stats.dead_letters, before.dead_letters, "none died");
    Ok(())
}

/// H4: a fabric lists its open subscriptions with what they read, and no others.
pub async fn open_subscriptions_are_listed(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("listed"), t.group("g"));
    let fabric = t.fabric();
    ensure!(fabric.subscriptions().is_empty(), "something is open already");
    let first = fabric.subscribe(&topic).await?;
    let second = if t.can(Ability::Groups) {
        Some(fabric.subscribe(&topic).group(&group).await?)
    } else {
        None
    };
    let listed = fabric.subscriptions();
    ensure_eq!(listed.len(), 1 + usize::from(second.is_some()), "how many are open");
    ensure!(listed.iter().all(|info| info.patterns.matches(&topic)), "what they read");
    if second.is_some() {
        let groups = listed.iter().filter(|info| info.group.as_ref() == Some(&group)).count();
        ensure_eq!(groups, 1, "how many are members");
    }
    let other = t.another().await?;
    ensure!(other.subscriptions().is_empty(), "another client lists them as well");
    first.close().await?;
    drop(second);
    ensure!(fabric.subscriptions().is_empty(), "some are listed after they were closed");
    Ok(())
}

/// H5: a stack says what it is, can do what it claims, and refuses to promise more.
pub async fn a_stack_can_do_what_it_claims(t: &Trial) -> Verdict {
    let (fabric, caps) = (t.fabric(), t.caps());
    let info = fabric.info();
    ensure!(!info.name.is_empty() && !info.scheme.is_empty(), "{info:?} does not say what it is");
    fabric.require(caps)?;
    fabric.require(Capabilities::NONE)?;
    for (ability, level) in caps.iter() {
        let least = Capabilities::NONE.with(ability, Support::Native);
        match level {
            Support::Native => fabric.require(least)?,
            _ => drop(refused(fabric.require(least), ErrorKind::Unsupported)?),
        }
    }
    if let Some(limit) = caps.max_payload {
        let more = Capabilities::NONE.with_max_payload(limit.checked_add(1));
        refused(fabric.require(more), ErrorKind::Unsupported)?;
    }
    Ok(())
}

/// H6: what a stack claims fits together: nothing is claimed whose base is not.
pub async fn claims_fit_together(t: &Trial) -> Verdict {
    use Ability as A;
    let based_on = [
        (A::Nack, A::Groups),
        (A::NackDelay, A::Nack),
        (A::Extend, A::Lease),
        (A::Lease, A::Groups),
        (A::Attempts, A::Groups),
        (A::DeadLetters, A::Groups),
        (A::AckConfirmed, A::Groups),
        (A::GroupDefine, A::Groups),
        (A::GroupRedefine, A::Groups),
        (A::GroupReset, A::Groups),
        (A::GroupDelete, A::Groups),
        (A::GroupSend, A::Groups),
        (A::NoResponders, A::RequestReply),
        (A::OrderKeyAcrossMembers, A::OrderKey),
        (A::Replay, A::Persist),
        (A::StartAll, A::Persist),
        (A::Durable, A::Persist),
    ];
    for (ability, base) in based_on {
        ensure!(
            !t.can(ability) || t.can(base),
            "`{ability}` is claimed, and `{base}`, which it rests on, is not"
        );
    }
    let fabric = t.fabric();
    let family = |ability, there: bool| !t.can(ability) || there;
    ensure!(family(A::Replay, fabric.backend().replay().is_some()), "there is no replay");
    ensure!(
        family(A::RequestReply, fabric.backend().request_reply().is_some()),
        "there are no requests"
    );
    for ability in [A::GroupDefine, A::GroupDelete, A::GroupInfo, A::GroupList, A::GroupSend] {
        ensure!(family(ability, fabric.groups().is_ok()), "there is no care of groups");
    }
    for ability in [A::TopicInfo, A::TopicList, A::Purge, A::Trim] {
        ensure!(family(ability, fabric.admin().is_ok()), "there is no care of topics");
    }
    Ok(())
}
