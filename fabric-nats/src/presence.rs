//! Who is there: the members of a group answer whoever counts them.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use fabric_core::{Group, Result};
use futures_util::StreamExt as _;

use crate::connection::Epoch;
use crate::error;
use crate::hub::{Hub, Task};
use crate::member::Member;

/// How long nobody more has to answer before all are believed to have.
const QUIET: Duration = Duration::from_millis(150);
/// How long the first may take.
const FIRST: Duration = Duration::from_secs(2);

/// A member's ear.
struct Ear {
    epoch: Arc<Epoch>,
    asked: Subscriber,
}

impl Ear {
    async fn on(epoch: &Arc<Epoch>, subject: &str, hub: &Hub) -> Result<Self> {
        let asked = epoch.client.subscribe(subject.to_owned()).await;
        let asked = asked.map_err(|_| error::disconnected())?;
        epoch.round_trip(&hub.layout.sync()).await?;
        Ok(Self { epoch: Arc::clone(epoch), asked })
    }

    async fn answer(&self, asked: Message) {
        if let Some(reply) = asked.reply {
            // Whoever counts may have gone.
            let _ = self.epoch.client.publish(reply, Bytes::new()).await;
        }
    }
}

impl Hub {
    /// Lets a member answer whoever counts.
    ///
    /// # Errors
    /// `Closed`, `Connect`, `Timeout`.
    pub(crate) async fn announce(self: &Arc<Self>, member: &Arc<Member>) -> Result<()> {
        let subject = self.layout.here(member.group());
        let epoch = self.link.up_soon().await?;
        let mut ear = Ear::on(&epoch, &subject, self).await?;
        let (hub, alive) = (Arc::clone(self), Arc::downgrade(member));
        member.keep(Task::spawn(async move {
            loop {
                while let Some(asked) = ear.asked.next().await {
                    if alive.upgrade().is_none_or(|member| member.has_left()) {
                        return;
                    }
                    ear.answer(asked).await;
                }
                let Ok(epoch) = hub.link.up().await else { return };
                match Ear::on(&epoch, &subject, &hub).await {
                    Ok(again) => ear = again,
                    Err(_) => tokio::time::sleep(QUIET).await,
                }
            }
        }));
        Ok(())
    }

    /// How many members a group has now.
    ///
    /// # Errors
    /// `Connect`.
    pub(crate) async fn count_members(&self, epoch: &Epoch, group: &Group) -> Result<u64> {
        let inbox = epoch.client.new_inbox();
        let lost = |_| error::disconnected();
        let mut answers =
            epoch.client.subscribe(inbox.clone()).await.map_err(|_| error::disconnected())?;
        let subject = self.layout.here(group);
        epoch.client.publish_with_reply(subject, inbox, Bytes::new()).await.map_err(lost)?;
        let mut count = 0;
        let mut limit = FIRST;
        while let Ok(Some(answer)) = tokio::time::timeout(limit, answers.next()).await {
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                break;
            }
            count += 1;
            limit = QUIET;
        }
        Ok(count)
    }
}
