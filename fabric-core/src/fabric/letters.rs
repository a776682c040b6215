//! The dead letters of one group: count, list, send back, purge.
//!
//! A group of its own keeps the place in the topic `dlq.<group>`: a letter that was sent back or
//! dropped is settled there, and one that was only looked at is given back.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Call, Fabric};
use crate::batch::Batch;
use crate::capabilities::Ability;
use crate::chunk::Nack;
use crate::delivery::Delivery;
use crate::event::Event;
use crate::group::Group;
use crate::position::Start;
use crate::subscription::Subscription;
use crate::topic::Topic;
use crate::{Error, ErrorKind, Result};

/// How long a call waits for the next letter that should be there.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a letter stays with a call that was killed.
const HOLD: Duration = Duration::from_secs(30);

impl Fabric {
    /// The dead letters of the group `name`.
    pub fn dead_letters(&self, name: impl AsRef<str>) -> DeadLetters {
        DeadLetters { fabric: self.clone(), group: Group::new(name) }
    }
}

/// The dead letters of one group; see [`Fabric::dead_letters`].
///
/// ```
/// # use fabric_core::{Fabric, Result};
/// # async fn example(fabric: Fabric) -> Result<()> {
/// let letters = fabric.dead_letters("planner");
/// for event in letters.list(10).await? {
///     let letter = event.dead_letter().expect("each is one");
///     println!("{} from {}: {}", event.id(), letter.topic, letter.error);
/// }
/// let sent = letters.redrive().only(|event| event.header("tenant") == Some("acme")).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct DeadLetters {
    fabric: Fabric,
    group: Result<Group>,
}

impl DeadLetters {
    /// How many there are.
    ///
    /// # Errors
    /// `Unsupported` where the stack keeps none, `InvalidTopic` for the name, `Closed`.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn count(&self) -> Result<u64> {
        let (keeper, _) = self.keeper().await?;
        let info = self.fabric.groups()?.info(&keeper).await?;
        Ok(info.undelivered() + info.pending())
    }

    /// The oldest of them, at most `limit`. They stay where they are; while the call runs other
    /// calls do not see them.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    ///
    /// # Cancel safety
    /// The letters come back when their lease ends, at once where the backend sees the call end.
    pub async fn list(&self, limit: usize) -> Result<Vec<Event>> {
        self.look(limit, |_| false).await
    }

    /// The one whose event has this id, if it is there; as [`list`](Self::list) it stays.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    ///
    /// # Cancel safety
    /// As [`list`](Self::list).
    pub fn show(&self, id: impl AsRef<str>) -> impl Future<Output = Result<Option<Event>>> + Send {
        let id = id.as_ref().to_owned();
        async move {
            let looked = self.look(usize::MAX, |event| event.id() == id.as_str()).await?;
            Ok(looked.into_iter().next_back().filter(|event| event.id() == id.as_str()))
        }
    }

    /// Looks at letters, the oldest first, until `enough` says that one is the last to look at.
    async fn look(
        &self,
        limit: usize,
        enough: impl Fn(&Event) -> bool + Send + Sync,
    ) -> Result<Vec<Event>> {
        let mut open = self.open(limit).await?;
        let (mut events, mut held) = (Vec::new(), Vec::new());
        while let Some(delivery) = open.next().await? {
            let over = enough(delivery.event());
            events.push(delivery.event().clone());
            held.push(delivery);
            if over {
                break;
            }
        }
        for delivery in held {
            give_back(delivery).await?;
        }
        open.subscription.close().await?;
        Ok(events)
    }

    /// Drops all of them. Returns how many.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    ///
    /// # Cancel safety
    /// Some may be gone.
    pub async fn purge(&self) -> Result<u64> {
        let mut open = self.open(usize::MAX).await?;
        let mut purged = 0;
        while let Some(delivery) = open.next().await? {
            delivery.ack().await?;
            purged += 1;
        }
        open.subscription.close().await?;
        Ok(purged)
    }

    /// Sends them back to the group that failed, and to no other: all, unless told otherwise.
    /// Resolves with how many were sent.
    ///
    /// A letter is settled after its copy was confirmed, so that a call that is killed midway
    /// loses none; one may be sent twice then.
    ///
    /// # Errors
    /// As [`count`](Self::count); `NotFound` where the group does not exist any more.
    ///
    /// # Cancel safety
    /// Some may have been sent; the others stay.
    pub fn redrive(&self) -> Redrive {
        Redrive(Call::new(RedriveSpec {
            fabric: self.fabric.clone(),
            group: self.group.clone(),
            only: None,
            limit: usize::MAX,
        }))
    }

    async fn open(&self, limit: usize) -> Result<Open> {
        let (keeper, topic) = self.keeper().await?;
        let info = self.fabric.groups()?.info(&keeper).await?;
        let there = usize::try_from(info.undelivered() + info.pending()).unwrap_or(usize::MAX);
        let left = there.min(limit);
        let capabilities = self.fabric.capabilities();
        let mut subscribe = self.fabric.subscribe(topic).group(&keeper);
        if capabilities.can(Ability::Prefetch) {
            subscribe = subscribe.prefetch(left.max(1));
        }
        Ok(Open { subscription: subscribe.await?, left })
    }

    /// The group that keeps the place among the letters, made if it is not there.
    async fn keeper(&self) -> Result<(Group, Topic)> {
        let describe = |error| self.fabric.describe(error, "dead_letters");
        let group = self.group.clone().map_err(describe)?;
        let topic = Topic::dead_letters(&group);
        let keeper = keeper_of(&group)?;
        let definition = crate::options::GroupDefinition::new(topic.clone().into())
            .with_start(Start::All)
            .with_ack_wait(HOLD);
        self.fabric.groups()?.define(&keeper, definition).await?;
        Ok((keeper, topic))
    }
}

/// A name of at most 64 bytes for the group that keeps the place among `group`'s letters.
fn keeper_of(group: &Group) -> Result<Group> {
    let name = format!("dlq-{group}");
    if name.len() <= Group::MAX_BYTES {
        return Group::new(name);
    }
    // FNV-1a: the same on every machine and in every version.
    let hash = group.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Group::new(format!("dlq-{}-{hash:016x}", &group.as_str()[..40]))
}

/// A look at the letters.
struct Open {
    subscription: Subscription,
    left: usize,
}

impl Open {
    /// The next of those that were there when the call began.
    async fn next(&mut self) -> Result<Option<Delivery>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        match tokio::time::timeout(PATIENCE, self.subscription.recv()).await {
            Ok(Some(delivery)) => delivery.map(Some),
            Ok(None) => Ok(None),
            // Somebody else looks at the rest.
            Err(_) => {
                self.left = 0;
                Ok(None)
            }
        }
    }
}

async fn give_back(delivery: Delivery) -> Result<()> {
    delivery.nack(Nack::now()).await.map_err(Error::from)
}

type Only = Arc<dyn Fn(&Event) -> bool + Send + Sync>;

struct RedriveSpec {
    fabric: Fabric,
    group: Result<Group>,
    only: Option<Only>,
    limit: usize,
}

impl RedriveSpec {
    async fn run(self) -> Result<u64> {
        let letters = DeadLetters { fabric: self.fabric, group: self.group };
        let group = letters.group.clone()?;
        letters.fabric.capabilities().demand(Ability::GroupSend, &letters.fabric.info().name)?;
        let mut open = letters.open(usize::MAX).await?;
        let (mut sent, mut kept) = (0, Vec::new());
        let mut failure = None;
        while let Some(delivery) = open.next().await? {
            if self.only.as_ref().is_some_and(|only| !only(&delivery)) {
                kept.push(delivery);
                continue;
            }
            match letters.send(&group, delivery.event()).await {
                Ok(()) => {
                    delivery.ack().await?;
                    sent += 1;
                }
                Err(error) => {
                    kept.push(delivery);
                    failure = Some(error);
                    break;
                }
            }
            if sent >= self.limit {
                break;
            }
        }
        for delivery in kept {
            give_back(delivery).await?;
        }
        open.subscription.close().await?;
        failure.map_or(Ok(sent as u64), Err)
    }
}

impl DeadLetters {
    /// Sends one letter's event to its group; `Ok` once it is confirmed.
    async fn send(&self, group: &Group, event: &Event) -> Result<()> {
        let Some(event) = event.redriven() else {
            return Err(Error::new(
                ErrorKind::InvalidEvent,
                format!("the event {} in the dead letters is none", event.id()),
            ));
        };
        let shared = &self.fabric.shared;
        let Some(groups) = shared.backend.groups() else {
            return Err(Error::unsupported("groups", &self.fabric.info().name));
        };
        let confirms = groups.send_to(group, Batch::one(event), None, 1).await?;
        confirms.await.sole().map(drop)
    }
}

/// A redrive in the making; see [`DeadLetters::redrive`].
#[must_use = "letters are sent back when this is awaited"]
pub struct Redrive(Call<RedriveSpec, Result<u64>>);

impl Redrive {
    /// Sends back only the letters that `belongs` says yes to.
    pub fn only(mut self, belongs: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        self.0.spec(|spec| spec.only = Some(Arc::new(belongs)));
        self
    }

    /// Sends back at most so many, the oldest first.
    pub fn limit(mut self, letters: usize) -> Self {
        self.0.spec(|spec| spec.limit = letters);
        self
    }
}

impl Future for Redrive {
    type Output = Result<u64>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, RedriveSpec::run)
    }
}

impl fmt::Debug for Redrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redrive")
    }
}
