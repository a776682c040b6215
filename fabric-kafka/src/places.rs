//! Where to begin: a start becomes an offset in every partition that there is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fabric_core::{Error, ErrorKind, Patterns, Position, Result, Start};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::connection::{Asked, Connection, LinkContext};
use crate::definition::{End, Ends};
use crate::discovery::{Catalogue, TopicMeta};
use crate::error::{NAME, from_kafka};

/// Offsets by the topic's name on the broker, one per partition. A topic that is not named is younger
/// than the start, and all of it is wanted.
pub(crate) type Offsets = HashMap<String, Vec<i64>>;

impl Connection {
    /// Where `start` lies in the topics that match now. Blocks.
    ///
    /// # Errors
    /// `NotFound` for a position of another stream, and as asking the broker.
    pub(crate) fn resolve(
        &self,
        catalogue: &Catalogue,
        patterns: &Patterns,
        start: &Start,
    ) -> Result<Offsets> {
        let topics: Vec<&Arc<TopicMeta>> = catalogue.matching(patterns).collect();
        let all = || topics.iter().copied();
        match start {
            Start::New => self.offsets(all(), Asked::End),
            Start::All => self.offsets(all(), Asked::Beginning),
            Start::Time(time) => {
                let mut found = self.offsets(all(), Asked::Time(time.as_millis()))?;
                let ends = self.offsets(all(), Asked::End)?;
                for (name, offsets) in &mut found {
                    for (offset, end) in offsets.iter_mut().zip(&ends[name]) {
                        if *offset < 0 {
                            *offset = *end;
                        }
                    }
                }
                Ok(found)
            }
            Start::Last | Start::LastPerTopic => self.newest(&topics, *start == Start::Last),
            Start::At(position) | Start::After(position) => {
                let mut found = self.offsets(all(), Asked::End)?;
                let behind = matches!(start, Start::After(_));
                self.set(catalogue, &mut found, position, behind)?;
                Ok(found)
            }
            Start::Resume(cursor) => {
                let ends = self.offsets(all(), Asked::End)?;
                let mut found = self.offsets(all(), Asked::Beginning)?;
                for position in cursor.iter().filter(|place| patterns.matches(&place.topic)) {
                    let mut checked = ends.clone();
                    let (name, at) = self.set(catalogue, &mut checked, position, true)?;
                    if let Some(place) = found.get_mut(&name).and_then(|all| all.get_mut(at)) {
                        *place = checked[&name][at];
                    }
                }
                Ok(found)
            }
            other => Err(Error::unsupported(format_args!("a start at {other:?}"), NAME)),
        }
    }

    /// Puts `position` into its place among the ends; says which that is.
    fn set(
        &self,
        catalogue: &Catalogue,
        ends: &mut Offsets,
        position: &Position,
        behind: bool,
    ) -> Result<(String, usize)> {
        let elsewhere = |why: &str| {
            Error::new(ErrorKind::NotFound, format!("the position `{position}` {why}"))
                .with_backend(NAME)
        };
        let name = self.names.topic(&position.topic)?;
        let meta = catalogue.topic(&name).ok_or_else(|| elsewhere("is in a topic that is gone"))?;
        if meta.id != position.incarnation {
            return Err(elsewhere("is of another life of its topic"));
        }
        let at = position.partition.unwrap_or(0) as usize;
        let end = ends.get_mut(&name).and_then(|offsets| offsets.get_mut(at));
        let end = end.ok_or_else(|| elsewhere("is in a partition that is not there"))?;
        let offset = i64::try_from(position.offset).unwrap_or(i64::MAX);
        if offset >= *end {
            return Err(elsewhere("lies beyond the end"));
        }
        *end = if behind { offset + 1 } else { offset };
        Ok((name, at))
    }

    /// The ends of everything but the newest event of all, or of each topic.
    fn newest(&self, topics: &[&Arc<TopicMeta>], of_all: bool) -> Result<Offsets> {
        let mut ends = self.offsets(topics.iter().copied(), Asked::End)?;
        let begins = self.offsets(topics.iter().copied(), Asked::Beginning)?;
        let mut newest: Vec<(i64, String, usize, i64)> = Vec::new();
        for meta in topics {
            let mut last = None;
            for (at, (begin, end)) in begins[&meta.name].iter().zip(&ends[&meta.name]).enumerate() {
                if let Some((offset, time)) = self.last(&meta.name, at as i32, *begin, *end)? {
                    let this = (time, meta.name.clone(), at, offset);
                    last = last.max(Some(this));
                }
            }
            newest.extend(last);
        }
        if of_all {
            newest = newest.into_iter().max().into_iter().collect();
        }
        for (_, name, at, offset) in newest {
            if let Some(place) = ends.get_mut(&name).and_then(|offsets| offsets.get_mut(at)) {
                *place = offset;
            }
        }
        Ok(ends)
    }

    /// The last event of a partition, and when it was stored. The offsets before the end may be
    /// those of a transaction's marks, or of what was compacted away.
    fn last(&self, name: &str, partition: i32, begin: i64, end: i64) -> Result<Option<(i64, i64)>> {
        if end <= begin {
            return Ok(None);
        }
        let mut back = 1;
        loop {
            let from = begin.max(end - back);
            let mut last = None;
            self.scan(name, partition, from, end, |offset, time| last = Some((offset, time)))?;
            if last.is_some() || from == begin {
                return Ok(last);
            }
            back *= 16;
        }
    }

    /// Shows every event of a partition from `from` to `end`. Blocks.
    fn scan(
        &self,
        name: &str,
        partition: i32,
        from: i64,
        end: i64,
        mut show: impl FnMut(i64, i64),
    ) -> Result<()> {
        let consumer = self.finite_reader(name, partition, from)?;
        let until = Instant::now() + self.config.connect_timeout;
        loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) if record.offset() >= end => return Ok(()),
                Some(Ok(record)) => {
                    show(record.offset(), record.timestamp().to_millis().unwrap_or(0));
                    if record.offset() + 1 >= end {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if Instant::now() >= until => return Err(self.explain(&error)),
                None if Instant::now() >= until => {
                    let text = format!("the end of `{name}` could not be read in time");
                    return Err(Error::new(ErrorKind::Timeout, text).with_backend(NAME));
                }
                Some(Err(_)) | None => {}
            }
        }
    }

    /// What reads one partition from `from` on, and says when it is at the end.
    pub(crate) fn finite_reader(
        &self,
        name: &str,
        partition: i32,
        from: i64,
    ) -> Result<BaseConsumer<LinkContext>> {
        let mut config = self.reader_config();
        config.set("enable.partition.eof", "true");
        let consumer: BaseConsumer<LinkContext> = config
            .create_with_context(LinkContext(Arc::clone(self.link())))
            .map_err(|error| from_kafka(&error))?;
        let mut place = TopicPartitionList::new();
        place
            .add_partition_offset(name, partition, Offset::Offset(from))
            .and_then(|()| consumer.assign(&place))
            .map_err(|error| from_kafka(&error))?;
        Ok(consumer)
    }

    /// What a reader without a group is made with.
    pub(crate) fn reader_config(&self) -> rdkafka::ClientConfig {
        let mut config = self.config.client();
        let client_id = &self.info.client_id;
        config
            // The library wants one; nothing is ever committed under it.
            .set("group.id", format!("_fabric-{client_id}"))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("partition.assignment.strategy", "cooperative-sticky")
            // Whoever lost events is told, and not moved.
            .set("auto.offset.reset", "error")
            .set("fetch.error.backoff.ms", "50")
            // Partitions that join wait for the request that is under way.
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", "16384");
        config
    }
}

/// Offsets with the ids of their topics, to be stored.
pub(crate) fn ends(catalogue: &Catalogue, offsets: Offsets) -> Ends {
    let with_id = |(name, offsets): (String, Vec<i64>)| {
        let id = catalogue.topic(&name)?.id;
        Some((name, End { id, offsets }))
    };
    offsets.into_iter().filter_map(with_id).collect()
}
