//! The care of groups and topics.

use std::sync::Arc;

use fabric_core::clock::{Now, instant_at};
use fabric_core::{
    AdminBackend, Batch, Confirms, Error, ErrorKind, Group, GroupDefinition, GroupInfo,
    GroupsBackend, Outcomes, Patterns, Receipt, Result, Start, Timestamp, Topic, TopicInfo, Trim,
};

use crate::backend::Memory;
use crate::broker::kept_size;

impl GroupsBackend for Memory {
    async fn define(&self, group: &Group, definition: GroupDefinition) -> Result<()> {
        let client = self.open_client()?;
        let now = Now::read();
        client
            .instance
            .at(now, |broker, wakers| broker.define_group(group, definition, now, wakers))
    }

    async fn redefine(&self, group: &Group, patterns: Patterns) -> Result<()> {
        let client = self.open_client()?;
        client.instance.at(Now::read(), |broker, wakers| broker.redefine(group, &patterns, wakers))
    }

    async fn reset(&self, group: &Group, start: Start) -> Result<()> {
        let client = self.open_client()?;
        let now = Now::read();
        client.instance.at(now, |broker, wakers| broker.reset(group, &start, now, wakers))
    }

    async fn delete(&self, group: &Group) -> Result<()> {
        let client = self.open_client()?;
        client.instance.at(Now::read(), |broker, wakers| broker.delete(group, wakers))
    }

    async fn list(&self) -> Result<Vec<Group>> {
        let client = self.open_client()?;
        Ok(client.instance.at(Now::read(), |broker, _| broker.group_names()))
    }

    async fn info(&self, group: &Group) -> Result<GroupInfo> {
        let client = self.open_client()?;
        client.instance.at(Now::read(), |broker, _| broker.group_info(group))
    }

    async fn send_to(
        &self,
        group: &Group,
        batch: Batch,
        not_before: Option<Timestamp>,
        attempt: u32,
    ) -> Result<Confirms> {
        let client = self.open_client()?;
        let now = batch.now;
        let at = not_before.filter(|time| *time > now.wall).map(instant_at);
        let outcomes = client.instance.at(now, |broker, wakers| {
            let inbox = broker.inbox(group)?;
            Ok::<_, Error>(Outcomes::each(batch.events.into_iter().map(|event| {
                let bytes = kept_size(&event);
                if !broker.can_ever_hold(inbox, bytes) {
                    return Err(Error::new(
                        ErrorKind::TooLarge,
                        format!("the event takes {bytes} bytes, more than the inbox holds"),
                    ));
                }
                match broker.make_room(inbox, 1, bytes, &now, wakers) {
                    Ok(()) => {
                        broker.send(group, inbox, event, at, attempt, now, wakers);
                        Ok(Receipt::ACCEPTED.with_routed(true))
                    }
                    Err(blocked) => Err(blocked.error()),
                }
            })))
        })?;
        Ok(Confirms::ready(outcomes))
    }
}

impl AdminBackend for Memory {
    async fn topics(&self, patterns: Patterns) -> Result<Vec<TopicInfo>> {
        let client = self.open_client()?;
        let now = Now::read();
        Ok(client.instance.at(now, |broker, _| broker.topics(&patterns, now)))
    }

    async fn topic(&self, topic: &Topic) -> Result<TopicInfo> {
        let client = self.open_client()?;
        let now = Now::read();
        client.instance.at(now, |broker, _| broker.topic_info(topic, now))
    }

    async fn purge(&self, topic: &Topic) -> Result<u64> {
        let client = self.open_client()?;
        client.instance.at(Now::read(), |broker, wakers| broker.trim(topic, None, wakers))
    }

    async fn trim(&self, topic: &Topic, trim: Trim) -> Result<u64> {
        let client = self.open_client()?;
        client.instance.at(Now::read(), |broker, wakers| broker.trim(topic, Some(&trim), wakers))
    }
}

impl Memory {
    fn open_client(&self) -> Result<&Arc<crate::client::Client>> {
        self.client().check_open()?;
        Ok(self.client())
    }
}
