//! The care of groups and topics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fabric_core::{
    AdminBackend, Batch, Confirms, Error, ErrorKind, Event, Group, GroupDefinition, GroupInfo,
    GroupsBackend, Patterns, Position, Result, Start, SubscribeOptions, Timestamp, Topic,
    TopicInfo, TopicLag, Trim,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::backend::Kafka;
use crate::connection::{Asked, Connection, LinkContext, absent};
use crate::definition::{Change, Ends, Known, Place};
use crate::discovery::TopicMeta;
use crate::error::{NAME, from_kafka};
use crate::member::gone;
use crate::places::{Offsets, ends};
use crate::progress::Progress;
use crate::record::Copied;
use crate::settle::bucket;

/// How long a commit takes on its way.
const COMMITTED: Duration = Duration::from_millis(50);

impl Connection {
    /// Lets somebody into a group, which is made if it is not there.
    ///
    /// # Errors
    /// `GroupMismatch`, `NotFound` for a position, and as asking the broker.
    ///
    /// # Cancel safety
    /// The group may have been made, or redefined.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        group: &Group,
        options: &SubscribeOptions,
    ) -> Result<Known> {
        self.check_open()?;
        let inbox = self.names.inbox(group);
        let (asked, name, refused) = (options.clone(), group.clone(), group.clone());
        // What is refused is refused before anything is made.
        self.blocking(move |connection| {
            let known = connection.log.read(connection, |g| g.living(&refused).cloned())?;
            match known.and_then(|known| known.definition) {
                Some(stored) => stored.admit(&refused, &asked),
                None => {
                    let start = asked.start.clone().unwrap_or(Start::New);
                    let catalogue = connection.refresh()?;
                    connection.resolve(&catalogue, &asked.patterns, &start).map(drop)
                }
            }
        })
        .await?;
        let options = options.clone();
        self.ensure(&inbox).await?;
        self.blocking(|connection| connection.refresh().map(drop)).await?;
        let known = self
            .change(group, move |connection, known| {
                let Some(stored) = known.and_then(|known| known.definition.as_ref()) else {
                    return connection.defining(&name, GroupDefinition::of(&options)).map(Some);
                };
                stored.admit(&name, &options)?;
                if options.redefine_group && stored.patterns != options.patterns {
                    let known = known.ok_or_else(|| gone(&name))?;
                    return connection.redefining(known, &options.patterns).map(Some);
                }
                Ok(None)
            })
            .await?;
        self.tell_members();
        known.ok_or_else(|| gone(group))
    }

    /// The change that makes a group. Blocks.
    fn defining(&self, group: &Group, definition: GroupDefinition) -> Result<Change> {
        let catalogue = self.refresh()?;
        let mut offsets = self.resolve(&catalogue, &definition.patterns, &definition.start)?;
        // What waits for a group of this name that is no more is not for this one.
        offsets.extend(self.waiting_ends(&catalogue, group)?);
        Ok(Change::Define { definition, ends: ends(&catalogue, offsets) })
    }

    /// The change that gives a group other patterns. Blocks.
    fn redefining(&self, known: &Known, patterns: &Patterns) -> Result<Change> {
        let catalogue = self.refresh()?;
        let concerned = catalogue.iter().filter(|meta| {
            let topic = meta.topic.as_ref();
            topic.is_some_and(|topic| known.reads(topic) || patterns.matches(topic))
        });
        let offsets = self.offsets(concerned, Asked::End)?;
        Ok(Change::Redefine { patterns: patterns.clone(), ends: ends(&catalogue, offsets) })
    }

    /// The change that moves a group. Blocks.
    fn resetting(&self, group: &Group, known: &Known, start: &Start) -> Result<Change> {
        let catalogue = self.refresh()?;
        let definition = known.definition.as_ref().ok_or_else(|| gone(group))?;
        let mut offsets = self.resolve(&catalogue, &definition.patterns, start)?;
        offsets.extend(self.waiting_ends(&catalogue, group)?);
        let ends: Ends = ends(&catalogue, offsets);
        Ok(Change::Reset { ends })
    }

    fn waiting_ends(
        &self,
        catalogue: &crate::discovery::Catalogue,
        group: &Group,
    ) -> Result<Offsets> {
        let names = self.names.waiting(group);
        self.offsets(names.iter().filter_map(|name| catalogue.topic(name)), Asked::End)
    }

    /// Has this client's members compare what they know.
    fn tell_members(&self) {
        for open in self.subscriptions() {
            open.compare();
        }
    }

    async fn living(self: &Arc<Self>, group: &Group) -> Result<Known> {
        self.check_open()?;
        let asked = group.clone();
        let known = self
            .blocking(move |connection| {
                connection.log.read(connection, |groups| groups.living(&asked).cloned())
            })
            .await?;
        known.ok_or_else(|| gone(group))
    }

    /// Waits until the members of a deleted group have heard of it and left, or should have. Blocks.
    fn await_leaving(&self, group: &str) -> Result<()> {
        let patience = 2 * self.config.discovery + self.config.session_timeout;
        let until = std::time::Instant::now() + patience;
        while self.members(group)? > 0 && std::time::Instant::now() < until {
            // The broker tells nobody when a member leaves.
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// How far a group is in each of its topics. Blocks.
    fn lag(&self, group: &Group, known: &Known) -> Result<Vec<TopicLag>> {
        let catalogue = self.refresh()?;
        let waiting = self.names.waiting(group);
        let mut topics: Vec<&Arc<TopicMeta>> = catalogue
            .iter()
            .filter(|meta| {
                meta.topic.as_ref().is_some_and(|topic| known.reads(topic))
                    || waiting.contains(&meta.name)
            })
            .collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        let committed = self.committed(group, &topics)?;
        let ends = self.offsets(topics.iter().copied(), Asked::End)?;
        let begins = self.offsets(topics.iter().copied(), Asked::Beginning)?;
        let mut lags = Vec::new();
        for meta in topics {
            let Some(topic) = &meta.topic else { continue };
            let waits = waiting.contains(&meta.name);
            let mut lag = TopicLag::new(topic.clone(), 0, 0);
            for partition in 0..meta.partitions {
                let at = partition as usize;
                let place = Place { name: &meta.name, id: meta.id, partition };
                let (begin, end) = (begins[&meta.name][at], ends[&meta.name][at]);
                let end = if waits { end } else { known.until(topic, &place, end) };
                let first = match waits {
                    true => known.first_waiting(&place),
                    false => known.first(topic, &place),
                };
                let found = committed.get(&(meta.name.clone(), partition));
                let progress = found.filter(|progress| progress.origin == known.origin);
                let (next, pending) = match progress {
                    Some(progress) => (progress.next.max(begin), progress.pending()),
                    None => (first.max(begin), 0),
                };
                let left = end.saturating_sub(next).max(0).unsigned_abs();
                if waits {
                    lag.pending += left + pending;
                } else {
                    lag.undelivered += left;
                    lag.pending += pending;
                }
            }
            lags.push(lag);
        }
        Ok(lags)
    }

    /// What a group has committed. Blocks.
    fn committed(
        &self,
        group: &Group,
        topics: &[&Arc<TopicMeta>],
    ) -> Result<BTreeMap<(String, i32), Progress>> {
        let mut asked = TopicPartitionList::new();
        for meta in topics {
            for partition in 0..meta.partitions {
                asked.add_partition(&meta.name, partition);
            }
        }
        if asked.count() == 0 {
            return Ok(BTreeMap::new());
        }
        let mut config = self.config.client();
        config.set("group.id", self.names.group(group)).set("enable.auto.commit", "false");
        let context = LinkContext(Arc::clone(self.link()));
        let consumer: BaseConsumer<LinkContext> =
            config.create_with_context(context).map_err(|error| from_kafka(&error))?;
        let found = consumer
            .committed_offsets(asked, self.config.connect_timeout)
            .map_err(|error| self.explain(&error))?;
        let mut committed = BTreeMap::new();
        for element in found.elements() {
            if let (Ok(()), Offset::Offset(at)) = (element.error(), element.offset())
                && let Some(progress) = Progress::decode(at, element.metadata())
            {
                committed.insert((element.topic().to_owned(), element.partition()), progress);
            }
        }
        Ok(committed)
    }
}

impl GroupsBackend for Kafka {
    async fn define(&self, group: &Group, definition: GroupDefinition) -> Result<()> {
        let connection = self.connection();
        connection.check_open()?;
        connection.ensure(&connection.names.inbox(group)).await?;
        let name = group.clone();
        let known = connection
            .change(group, move |connection, known| {
                match known.and_then(|known| known.definition.as_ref()) {
                    Some(stored) if *stored == definition => Ok(None),
                    Some(stored) => Err(differs(&name, stored, &definition)),
                    None => connection.defining(&name, definition.clone()).map(Some),
                }
            })
            .await?;
        known.map(drop).ok_or_else(|| gone(group))
    }

    async fn redefine(&self, group: &Group, patterns: Patterns) -> Result<()> {
        let connection = self.connection();
        connection.living(group).await?;
        let name = group.clone();
        connection
            .change(group, move |connection, known| {
                let known = known.ok_or_else(|| gone(&name))?;
                let stored = known.definition.as_ref().ok_or_else(|| gone(&name))?;
                if stored.patterns == patterns {
                    return Ok(None);
                }
                connection.redefining(known, &patterns).map(Some)
            })
            .await?;
        connection.tell_members();
        Ok(())
    }

    async fn reset(&self, group: &Group, start: Start) -> Result<()> {
        let connection = self.connection();
        connection.living(group).await?;
        let name = group.clone();
        connection
            .change(group, move |connection, known| {
                let known = known.ok_or_else(|| gone(&name))?;
                connection.resetting(&name, known, &start).map(Some)
            })
            .await?;
        connection.tell_members();
        Ok(())
    }

    async fn delete(&self, group: &Group) -> Result<()> {
        let connection = self.connection();
        connection.living(group).await?;
        let name = group.clone();
        connection
            .change(group, move |_, known| {
                known.map(|_| Some(Change::Delete)).ok_or_else(|| gone(&name))
            })
            .await?;
        connection.tell_members();
        let name = connection.names.group(group);
        connection.blocking(move |connection| connection.await_leaving(&name)).await?;
        connection.forget(&connection.names.group(group)).await;
        let there = connection.catalogue();
        let waiting: Vec<String> = connection
            .names
            .waiting(group)
            .into_iter()
            .filter(|name| there.topic(name).is_some())
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        connection.remove(&waiting).await
    }

    async fn list(&self) -> Result<Vec<Group>> {
        let connection = self.connection();
        connection.check_open()?;
        connection
            .blocking(|connection| {
                connection.log.read(connection, |groups| {
                    groups.iter().map(|(group, _)| group.clone()).collect()
                })
            })
            .await
    }

    async fn info(&self, group: &Group) -> Result<GroupInfo> {
        let connection = self.connection();
        let known = connection.living(group).await?;
        let definition = known.definition.clone().ok_or_else(|| gone(group))?;
        let name = group.clone();
        // What members have acked before this call is committed by then, unless they are in trouble.
        tokio::time::sleep(2 * connection.config.commit_interval + COMMITTED).await;
        connection
            .blocking(move |connection| {
                let members = connection.members(&connection.names.group(&name))?;
                let lag = connection.lag(&name, &known)?;
                Ok(GroupInfo::new(name, definition, members, lag))
            })
            .await
    }

    async fn send_to(
        &self,
        group: &Group,
        batch: Batch,
        not_before: Option<Timestamp>,
        attempt: u32,
    ) -> Result<Confirms> {
        let connection = self.connection();
        connection.living(group).await?;
        let due = not_before.filter(|due| *due > batch.now.wall);
        let delay = due.map(|due| due.saturating_since(batch.now.wall)).unwrap_or_default();
        let name = connection.names.waiting(group).swap_remove(bucket(delay));
        let copies: Vec<(&Event, Copied)> = batch
            .events
            .iter()
            .map(|event| (event, Copied { attempt, due, origin: None }))
            .collect();
        connection.publisher.copy(connection, &name, copies).await
    }
}

fn differs(group: &Group, stored: &GroupDefinition, asked: &GroupDefinition) -> Error {
    Error::new(
        ErrorKind::GroupMismatch,
        format!(
            "the group `{group}` exists with {stored:?}, not {asked:?}; redefine or delete it first"
        ),
    )
    .with_backend(NAME)
    .with("group", group)
}

impl AdminBackend for Kafka {
    async fn topics(&self, patterns: Patterns) -> Result<Vec<TopicInfo>> {
        let connection = self.connection();
        connection.check_open()?;
        connection
            .blocking(move |connection| {
                let catalogue = connection.refresh()?;
                let topics: Vec<Arc<TopicMeta>> = catalogue.matching(&patterns).cloned().collect();
                connection.figures(&topics)
            })
            .await
    }

    async fn topic(&self, topic: &Topic) -> Result<TopicInfo> {
        let connection = self.connection();
        connection.check_open()?;
        let name = connection.names.topic(topic)?;
        let figures = connection
            .blocking(move |connection| {
                let meta = connection.describe(&name)?;
                connection.figures(&[meta])
            })
            .await?;
        figures.into_iter().next().ok_or_else(|| absent(topic.as_str()))
    }

    async fn purge(&self, topic: &Topic) -> Result<u64> {
        self.drop_oldest(topic, |_, _, ends| Ok(ends.to_vec())).await
    }

    async fn trim(&self, topic: &Topic, trim: Trim) -> Result<u64> {
        self.drop_oldest(topic, move |connection, meta, ends| match &trim {
            Trim::Before(position) => {
                let catalogue = connection.refresh()?;
                let topic = meta.topic.clone().ok_or_else(|| absent(&meta.name))?;
                let start = Start::At(position.clone());
                let begins = connection.offsets([meta], Asked::Beginning)?;
                let mut found = connection.resolve(&catalogue, &topic.into(), &start)?;
                let mut until = begins[&meta.name].clone();
                let at = position.partition.unwrap_or(0) as usize;
                if let (Some(until), Some(found)) = (until.get_mut(at), found.remove(&meta.name)) {
                    *until = found[at];
                }
                Ok(until)
            }
            Trim::Older(time) => {
                let found = connection.offsets([meta], Asked::Time(time.as_millis()))?;
                let found = found[&meta.name].iter().zip(ends);
                Ok(found.map(|(at, end)| if *at < 0 { *end } else { *at }).collect())
            }
            Trim::Keep(events) => {
                let keep = i64::try_from(*events).unwrap_or(i64::MAX);
                let begins = connection.offsets([meta], Asked::Beginning)?;
                Ok(keeping(&begins[&meta.name], ends, keep))
            }
            other => Err(Error::unsupported(format_args!("a trim {other:?}"), NAME)),
        })
        .await
    }
}

/// Where partitions have to begin so that `keep` events are left, as evenly as can be.
fn keeping(begins: &[i64], ends: &[i64], keep: i64) -> Vec<i64> {
    let held = |until: &[i64]| until.iter().zip(ends).map(|(from, end)| end - from).sum::<i64>();
    let mut until = begins.to_vec();
    let mut over = held(&until).saturating_sub(keep).max(0);
    while over > 0 {
        // The fullest partition gives first.
        let fullest =
            until.iter().zip(ends).enumerate().max_by_key(|(_, (from, end))| *end - *from);
        let Some((at, (from, end))) = fullest.map(|(at, (from, end))| (at, (*from, *end))) else {
            break;
        };
        let others = until.iter().zip(ends).enumerate().filter(|(n, _)| *n != at);
        let second = others.map(|(_, (from, end))| end - from).max().unwrap_or(0);
        let give = (end - from - second).max(1).min(over);
        until[at] += give;
        over -= give;
    }
    until
}

impl Kafka {
    async fn drop_oldest(
        &self,
        topic: &Topic,
        until: impl FnOnce(&Arc<Connection>, &Arc<TopicMeta>, &[i64]) -> Result<Vec<i64>>
        + Send
        + 'static,
    ) -> Result<u64> {
        let connection = self.connection();
        connection.check_open()?;
        let name = connection.names.topic(topic)?;
        let (list, dropped) = connection
            .blocking(move |connection| {
                let meta = connection.describe(&name)?;
                let begins = connection.offsets([&meta], Asked::Beginning)?;
                let ends = connection.offsets([&meta], Asked::End)?;
                let until = until(connection, &meta, &ends[&name])?;
                let (mut list, mut dropped) = (TopicPartitionList::new(), 0);
                for (partition, (begin, until)) in begins[&name].iter().zip(until).enumerate() {
                    if until > *begin {
                        dropped += (until - begin).unsigned_abs();
                        list.add_partition_offset(&name, partition as i32, Offset::Offset(until))
                            .map_err(|error| from_kafka(&error))?;
                    }
                }
                Ok((list, dropped))
            })
            .await?;
        if list.count() > 0 {
            connection.trim(&list).await?;
        }
        Ok(dropped)
    }
}

impl Connection {
    /// The figures of topics. Blocks.
    fn figures(&self, topics: &[Arc<TopicMeta>]) -> Result<Vec<TopicInfo>> {
        let begins = self.offsets(topics, Asked::Beginning)?;
        let ends = self.offsets(topics, Asked::End)?;
        let readers: Vec<Known> = self
            .log
            .read(self, |groups| groups.iter().map(|(_, known)| known.clone()).collect())?;
        let figure = |meta: &Arc<TopicMeta>| {
            let topic = meta.topic.clone()?;
            let mut info = TopicInfo::new(topic.clone());
            let (begins, ends) = (&begins[&meta.name], &ends[&meta.name]);
            let kept = begins.iter().zip(ends).map(|(begin, end)| end - begin);
            info.events = kept.sum::<i64>().max(0).unsigned_abs();
            info.published = ends.iter().sum::<i64>().max(0).unsigned_abs();
            if let ([begin], [end]) = (begins.as_slice(), ends.as_slice())
                && begin < end
            {
                // Of several partitions none is the first.
                let at = |offset: i64| {
                    let position = Position::new(topic.clone(), meta.id, offset as u128);
                    Some(position.with_partition(0))
                };
                (info.first, info.last) = (at(*begin), at(end - 1));
            }
            info.readers = readers.iter().filter(|known| known.reads(&topic)).count() as u64;
            Some(info)
        };
        Ok(topics.iter().filter_map(figure).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_keeps_as_many_as_asked_for_and_takes_from_the_fullest() {
        assert_eq!(keeping(&[0], &[20], 15), [5]);
        assert_eq!(keeping(&[5], &[20], 15), [5]);
        assert_eq!(keeping(&[0, 10], &[10, 14], 6), [7, 11]);
        assert_eq!(keeping(&[0, 0], &[4, 4], 0), [4, 4]);
        assert_eq!(keeping(&[], &[], 3), Vec::<i64>::new());
    }
}
