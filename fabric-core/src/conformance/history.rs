//! What happened during a case, as it happened: verdicts are computed from this.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::delivery::Delivery;
use crate::position::Position;
use crate::time::Timestamp;
use crate::topic::Topic;

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Published an event.
    Publish,
    /// Received a delivery.
    Receive,
    /// Settled a delivery as done.
    Ack,
    /// Gave a delivery back.
    Nack,
    /// Sent a delivery to the dead letters.
    Reject,
}

/// How far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// It was begun. Without a later record of the same it is as unknown as [`Info`](Self::Info).
    Invoke,
    /// It certainly happened.
    Ok,
    /// It certainly did not happen.
    Fail,
    /// Nobody knows.
    Info,
}

/// One line of a history.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record {
    /// When.
    pub time: Timestamp,
    /// Who did it.
    pub actor: Arc<str>,
    /// For whom an actor reads: a group, or a subscription of its own.
    pub audience: Option<Arc<str>>,
    /// What was done.
    pub op: Op,
    /// How far it got.
    pub stage: Stage,
    /// What the event carries, which tells it apart.
    pub value: Arc<str>,
    /// Its topic.
    pub topic: Topic,
    /// Its key.
    pub key: Option<Arc<str>>,
    /// Where it lies, as far as it was told.
    pub position: Option<Position>,
    /// How often it was tried, as far as it was told.
    pub attempt: u32,
}

impl Record {
    /// A line about what carries `value`.
    #[must_use]
    pub fn new(actor: &Arc<str>, op: Op, stage: Stage, value: &Arc<str>, topic: &Topic) -> Self {
        Self {
            time: Timestamp::now(),
            actor: Arc::clone(actor),
            audience: None,
            op,
            stage,
            value: Arc::clone(value),
            topic: topic.clone(),
            key: None,
            position: None,
            attempt: 0,
        }
    }

    /// A line about a delivery.
    #[must_use]
    pub fn of(
        actor: &Arc<str>,
        audience: &Arc<str>,
        op: Op,
        stage: Stage,
        value: &Arc<str>,
        delivery: &Delivery,
    ) -> Self {
        Self {
            audience: Some(Arc::clone(audience)),
            key: delivery.key().map(Arc::from),
            position: delivery.position(),
            attempt: delivery.attempt(),
            ..Self::new(actor, op, stage, value, delivery.topic())
        }
    }

    /// Whether `audience` received something here.
    #[must_use]
    pub fn is_receipt_of(&self, audience: &str) -> bool {
        self.op == Op::Receive && self.audience.as_deref() == Some(audience)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, actor, op, stage, value, topic, attempt, .. } = self;
        write!(f, "{time} {actor} {op:?} {stage:?} {value} in {topic}")?;
        if let Some(audience) = self.audience.as_ref().filter(|audience| *audience != actor) {
            write!(f, " for {audience}")?;
        }
        if let Some(position) = &self.position {
            write!(f, " at {}", position.offset)?;
        }
        if *attempt > 0 {
            write!(f, " attempt {attempt}")?;
        }
        Ok(())
    }
}

/// The lines of one case, in the order in which they were written. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    records: Mutex<Vec<Record>>,
    names: OnceLock<[Arc<str>; 2]>,
}

impl History {
    /// With no lines.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    pub fn add(&self, record: Record) {
        self.lock().push(record);
    }

    /// Every line so far.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().clone()
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing happened yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many lines `counts` says yes to.
    #[must_use]
    pub fn count(&self, counts: impl Fn(&Record) -> bool) -> usize {
        self.lock().iter().filter(|record| counts(record)).count()
    }

    /// The last lines as text, for a failure's report.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let records = self.lock();
        let skip = records.len().saturating_sub(lines);
        records.iter().skip(skip).map(|record| format!("    {record}\n")).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.0.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which names of this run are too long to be read.
    pub(super) fn know(&self, names: [Arc<str>; 2]) {
        let _ = self.0.names.set(names);
    }

    /// The text with those names cut short.
    pub(super) fn shorten(&self, text: &str) -> String {
        let [root, crowd] = self.0.names.get().cloned().unwrap_or_default();
        if root.is_empty() || crowd.is_empty() {
            return text.to_owned();
        }
        text.replace(&*root, "~").replace(&*crowd, "~")
    }
}
