//! The log of definitions on the broker: read to its end before it is believed, written to in the
//! hope of being first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fabric_core::{Error, ErrorKind, EventId, Group, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::{Change, Groups, Known, Record};
use crate::config::KafkaConfig;
use crate::connection::{Asked, Connection, Link, LinkContext, lock};
use crate::error::{NAME, from_kafka};
use crate::names::Names;

/// How many changes that counted are remembered.
const COUNTED: usize = 1024;
/// How often a change is tried that others were faster with.
const TRIES: usize = 64;

/// The log, as far as this client has read it.
pub(crate) struct Log {
    name: String,
    config: KafkaConfig,
    link: Arc<Link>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reader: Option<Reader>,
    groups: Groups,
    /// The last changes that counted.
    counted: VecDeque<EventId>,
}

struct Reader {
    consumer: BaseConsumer<LinkContext>,
    /// Which life of the topic it reads.
    id: u64,
    next: i64,
}

impl Log {
    pub(crate) fn new(config: &KafkaConfig, names: &Names, link: Arc<Link>) -> Self {
        let name = names.definitions();
        Self { name, config: config.clone(), link, state: Mutex::default() }
    }

    /// Reads to the end, and looks at what is known then. Blocks.
    ///
    /// # Errors
    /// `Connect`, `Timeout`, `Unauthorized`.
    pub(crate) fn read<T>(
        &self,
        connection: &Connection,
        look: impl FnOnce(&Groups) -> T,
    ) -> Result<T> {
        let mut state = lock(&self.state);
        self.catch_up(connection, &mut state)?;
        Ok(look(&state.groups))
    }

    /// Whether the change `id` counted, as far as was read.
    fn has_counted(&self, id: &EventId) -> bool {
        lock(&self.state).counted.contains(id)
    }

    /// Whether there is a log, as far as this client has looked.
    pub(crate) fn is_there(&self) -> bool {
        lock(&self.state).reader.is_some()
    }

    /// What was known when it was last read.
    pub(crate) fn known(&self, group: &Group) -> Option<Known> {
        lock(&self.state).groups.living(group).cloned()
    }

    fn catch_up(&self, connection: &Connection, state: &mut State) -> Result<()> {
        let meta = match connection.describe(&self.name) {
            Ok(meta) => meta,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Nobody ever made a group, or the broker has lost all of them.
                *state = State::default();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if state.reader.as_ref().is_none_or(|reader| reader.id != meta.id) {
            *state = State { reader: Some(self.begin(meta.id)?), ..State::default() };
        }
        let State { reader: Some(reader), groups, counted } = state else { return Ok(()) };
        let within = self.config.connect_timeout;
        let failed = |error: &rdkafka::error::KafkaError| connection.explain(error);
        // Not by the reader, whose connection is busy waiting for what is new.
        let ends = connection.offsets([&meta], Asked::End)?;
        let end = ends.get(&self.name).and_then(|all| all.first().copied()).unwrap_or(0);
        let until = Instant::now() + within;
        while reader.next < end {
            let Some(read) = reader.consumer.poll(Duration::from_millis(100)) else {
                if Instant::now() >= until {
                    let text = "the definitions of groups could not be read to their end in time";
                    return Err(Error::new(ErrorKind::Timeout, text).with_backend(NAME));
                }
                continue;
            };
            match read {
                Ok(record) => {
                    reader.next = record.offset() + 1;
                    let read = record.payload().map(serde_json::from_slice::<Record>);
                    match read {
                        Some(Ok(record)) => {
                            let id = record.id.clone();
                            if groups.apply(record) {
                                if counted.len() == COUNTED {
                                    counted.pop_front();
                                }
                                counted.push_back(id);
                            }
                        }
                        // Of a later version, or somebody's who has no business there.
                        Some(Err(error)) => {
                            tracing::warn!(%error, "a record among the definitions of groups");
                        }
                        None => {}
                    }
                }
                Err(error) if Instant::now() >= until => return Err(failed(&error)),
                // The client goes on by itself.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn begin(&self, id: u64) -> Result<Reader> {
        let mut config = self.config.client();
        config
            .set(
                "group.id",
                format!("_fabric-{}", self.config.client_id.as_deref().unwrap_or("log")),
            )
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest");
        let context = LinkContext(Arc::clone(&self.link));
        let consumer: BaseConsumer<LinkContext> =
            config.create_with_context(context).map_err(|error| from_kafka(&error))?;
        let mut place = TopicPartitionList::new();
        place
            .add_partition_offset(&self.name, 0, Offset::Beginning)
            .and_then(|()| consumer.assign(&place))
            .map_err(|error| from_kafka(&error))?;
        Ok(Reader { consumer, id, next: 0 })
    }
}

impl Connection {
    /// Changes a group: `decide` sees what is known and says what to do, until a change counts or
    /// there is none to make. What is known afterwards.
    ///
    /// # Errors
    /// Whatever `decide` brought, and as publishing and reading.
    ///
    /// # Cancel safety
    /// The change may or may not have been made.
    pub(crate) async fn change(
        self: &Arc<Self>,
        group: &Group,
        decide: impl FnMut(&Arc<Self>, Option<&Known>) -> Result<Option<Change>>
        + Send
        + Clone
        + 'static,
    ) -> Result<Option<Known>> {
        let name = self.names.definitions();
        self.ensure(&name).await?;
        for _ in 0..TRIES {
            let (asked, mut deciding) = (group.clone(), decide.clone());
            let (record, living) = self
                .blocking(move |connection| {
                    let (ever, living) = connection.log.read(connection, |groups| {
                        (groups.ever(&asked).cloned(), groups.living(&asked).cloned())
                    })?;
                    let change = deciding(connection, living.as_ref())?;
                    let record = change.map(|change| Record::new(&asked, ever.as_ref(), change));
                    Ok((record, living))
                })
                .await?;
            let Some(record) = record else { return Ok(living) };
            self.publisher.write(self, &name, &record).await?;
            let (asked, id) = (group.clone(), record.id);
            let (counted, living) = self
                .blocking(move |connection| {
                    let living =
                        connection.log.read(connection, |groups| groups.living(&asked).cloned())?;
                    Ok((connection.log.has_counted(&id), living))
                })
                .await?;
            if counted {
                return Ok(living);
            }
        }
        let text = format!("others changed the group `{group}` {TRIES} times meanwhile; try again");
        Err(Error::new(ErrorKind::Backend, text).with_backend(NAME))
    }
}
