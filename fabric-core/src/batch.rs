//! The two stages of publishing: a batch is handed over, its confirms come later.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::event::{Event, Stamp};
use crate::position::Position;
use crate::time::Now;
use crate::topic::Topic;
use crate::{Error, ErrorKind, Result};

/// Events that are handed to a backend together, in order, with what the call asked for.
///
/// A batch of one lives inline. An empty batch is a flush: its confirms resolve when everything
/// submitted before it is confirmed or failed.
#[derive(Debug)]
pub struct Batch {
    /// The events, stamped with id and time.
    pub events: SmallVec<[Event; 1]>,
    /// What the call asked for; most ask for nothing.
    pub options: Option<Box<SubmitOptions>>,
    /// The clock, read once for the whole batch.
    pub now: Now,
}

/// What one publish call asks for, beside the events.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SubmitOptions {
    /// When the caller stops waiting for room.
    pub deadline: Option<Instant>,
    /// What the topic must end with, else nothing is stored.
    pub expect_last: Option<ExpectedLast>,
    /// Need not survive the broker's death.
    pub transient: bool,
}

/// What a topic must end with for an event to be stored.
///
/// As text its position, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedLast {
    /// No event: none is kept in the topic.
    Nothing,
    /// The event at this position.
    At(Position),
}

impl From<Position> for ExpectedLast {
    fn from(position: Position) -> Self {
        Self::At(position)
    }
}

impl fmt::Display for ExpectedLast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("none"),
            Self::At(position) => position.fmt(f),
        }
    }
}

impl Batch {
    /// A batch of `events`, stamped now.
    #[must_use]
    pub fn new(events: impl IntoIterator<Item = Event>) -> Self {
        Self::stamped(events.into_iter().collect(), &Stamp::default())
    }

    /// A batch of one event, stamped now.
    #[must_use]
    pub fn one(event: Event) -> Self {
        Self::new([event])
    }

    /// The flush.
    #[must_use]
    pub fn flush() -> Self {
        Self::new([])
    }

    #[inline]
    pub(crate) fn stamped(events: SmallVec<[Event; 1]>, stamp: &Stamp) -> Self {
        let mut batch = Self { events, options: None, now: Now::read() };
        batch.stamp(stamp);
        batch
    }

    /// Gives each event what it lacks.
    #[inline]
    pub(crate) fn stamp(&mut self, stamp: &Stamp) {
        for event in &mut self.events {
            event.stamp(self.now, stamp);
        }
    }

    /// When the caller stops waiting for room.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.options.as_ref()?.deadline
    }

    /// What the topic must end with, else nothing is stored.
    #[must_use]
    pub fn expect_last(&self) -> Option<&ExpectedLast> {
        self.options.as_ref()?.expect_last.as_ref()
    }

    /// Whether the events need not survive the broker's death.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.transient)
    }

    /// Answers at once, event by event: for backends that know the outcome immediately.
    pub fn confirm(self, outcome: impl FnMut(&Event) -> Result<Receipt>) -> Confirms {
        Confirms::ready(Outcomes::each(self.events.iter().map(outcome)))
    }

    /// Events of an earlier batch once more, with its options, at the present time.
    pub(crate) fn again(events: SmallVec<[Event; 1]>, options: Option<Box<SubmitOptions>>) -> Self {
        Self { events, options, now: Now::read() }
    }

    /// Bytes of all payloads and headers, as held in memory.
    #[must_use]
    pub fn size(&self) -> usize {
        self.events.iter().map(Event::size_in_memory).sum()
    }
}

/// What a confirmation meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Where the event was stored, if it was and the backend tells.
    pub position: Option<Position>,
    /// The event had been accepted before, under the same id; it was not stored again.
    pub duplicate: bool,
    /// Whether any group or history kept it; `None` where the broker does not tell.
    pub routed: Option<bool>,
}

impl Receipt {
    /// An accepted event of which nothing more is known.
    pub const ACCEPTED: Self = Self { position: None, duplicate: false, routed: None };

    /// Stored at `position`.
    #[must_use]
    pub const fn stored(position: Position) -> Self {
        Self { position: Some(position), duplicate: false, routed: Some(true) }
    }

    /// Accepted before.
    #[must_use]
    pub const fn duplicate_of(position: Option<Position>) -> Self {
        Self { position, duplicate: true, routed: Some(true) }
    }

    /// Accepted, but nobody keeps it.
    #[must_use]
    pub const fn unrouted() -> Self {
        Self { position: None, duplicate: false, routed: Some(false) }
    }

    /// Sets where it was stored.
    #[must_use]
    pub fn with_position(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }

    /// Sets whether anybody kept it.
    #[must_use]
    pub const fn with_routed(mut self, routed: bool) -> Self {
        self.routed = Some(routed);
        self
    }
}

/// One result per event of a batch, in order.
#[derive(Clone, Debug)]
pub struct Outcomes(Repr);

#[derive(Clone)]
enum Repr {
    One(Result<Receipt>),
    /// Neighbours in one stream: told apart by number when somebody looks.
    Run {
        topic: Topic,
        incarnation: u64,
        first: u64,
        count: usize,
        routed: bool,
    },
    Each(Vec<Result<Receipt>>),
}

impl Outcomes {
    /// The result of a batch of one.
    #[must_use]
    pub const fn one(result: Result<Receipt>) -> Self {
        Self(Repr::One(result))
    }

    /// `count` events stored one behind the other from `first` on.
    #[must_use]
    pub const fn run(
        topic: Topic,
        incarnation: u64,
        first: u64,
        count: usize,
        routed: bool,
    ) -> Self {
        Self(Repr::Run { topic, incarnation, first, count, routed })
    }

    /// One result after the other.
    pub fn each(results: impl IntoIterator<Item = Result<Receipt>>) -> Self {
        let mut results = results.into_iter();
        match (results.next(), results.next()) {
            (Some(only), None) => Self::one(only),
            (first, second) => {
                Self(Repr::Each(first.into_iter().chain(second).chain(results).collect()))
            }
        }
    }

    /// The same error for each of `count` events.
    #[must_use]
    pub fn failed(count: usize, error: &Error) -> Self {
        Self::each(std::iter::repeat_n(error, count).map(|error| Err(error.clone())))
    }

    /// The events that were not confirmed: their places in the batch, and why.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &Error)> {
        let results = match &self.0 {
            Repr::One(result) => std::slice::from_ref(result),
            Repr::Run { .. } => &[],
            Repr::Each(results) => results,
        };
        let numbered = results.iter().enumerate();
        numbered.filter_map(|(index, result)| Some((index, result.as_ref().err()?)))
    }

    /// How many events the batch had.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::One(_) => 1,
            Repr::Run { count, .. } => *count,
            Repr::Each(results) => results.len(),
        }
    }

    /// Whether the batch had none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The result of the event at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Result<Receipt>> {
        match &self.0 {
            Repr::One(result) => (index == 0).then(|| result.clone()),
            Repr::Run { topic, incarnation, first, count, routed } => (index < *count).then(|| {
                let offset = u128::from(*first) + index as u128;
                let position = Position::new(topic.clone(), *incarnation, offset);
                Ok(Receipt::stored(position).with_routed(*routed))
            }),
            Repr::Each(results) => results.get(index).cloned(),
        }
    }

    /// Every result, in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Receipt>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The results one by one.
    #[must_use]
    pub fn into_vec(self) -> Vec<Result<Receipt>> {
        match self.0 {
            Repr::Each(results) => results,
            Repr::One(result) => vec![result],
            Repr::Run { .. } => self.iter().collect(),
        }
    }

    /// The answer to a batch of one; what was not answered is not known to be accepted.
    pub(crate) fn sole(self) -> Result<Receipt> {
        self.into_one().unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Backend, "the backend confirmed no event of one"))
        })
    }

    /// The only result; for a batch of one.
    #[inline]
    pub(crate) fn into_one(self) -> Option<Result<Receipt>> {
        match self.0 {
            Repr::One(result) => Some(result),
            _ => self.get(0),
        }
    }
}

impl fmt::Debug for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(result) => result.fmt(f),
            Self::Run { topic, first, count, .. } => {
                write!(f, "{count} stored in {topic} from {first}")
            }
            Self::Each(results) => results.fmt(f),
        }
    }
}

/// The answers to a batch: a future of one result per event.
///
/// Dropping it abandons the answers, not the events.
#[must_use = "a publish is confirmed by awaiting its confirms"]
pub struct Confirms(State);

enum State {
    Ready(Option<Outcomes>),
    Pending(BoxFuture<'static, Outcomes>),
}

impl Confirms {
    /// Known already; allocates nothing.
    pub const fn ready(outcomes: Outcomes) -> Self {
        Self(State::Ready(Some(outcomes)))
    }

    /// Still to come.
    pub fn pending(outcomes: impl Future<Output = Outcomes> + Send + 'static) -> Self {
        Self(State::Pending(Box::pin(outcomes)))
    }

    /// The answers, if they are known.
    ///
    /// # Errors
    /// The confirms themselves, where they are not.
    pub fn try_ready(self) -> std::result::Result<Outcomes, Self> {
        match self.0 {
            State::Ready(Some(outcomes)) => Ok(outcomes),
            state => Err(Self(state)),
        }
    }

    /// The receipt of one event that was stored, if that is the answer and known.
    ///
    /// The way of every publish on a backend that knows at once: it takes the parts out where they
    /// lie, since moving answers as a whole costs more than all else that is done with them.
    #[inline(always)]
    pub(crate) fn try_stored(self) -> std::result::Result<Receipt, Self> {
        match self.0 {
            State::Ready(Some(Outcomes(Repr::Run {
                topic,
                incarnation,
                first,
                count: 1,
                routed,
            }))) => Ok(Receipt {
                position: Some(Position::new(topic, incarnation, u128::from(first))),
                duplicate: false,
                routed: Some(routed),
            }),
            state => Err(Self(state)),
        }
    }

    /// Changes the answers when they come.
    pub fn map(self, change: impl FnOnce(Outcomes) -> Outcomes + Send + 'static) -> Self {
        match self.try_ready() {
            Ok(outcomes) => Self::ready(change(outcomes)),
            Err(pending) => Self::pending(async move { change(pending.await) }),
        }
    }
}

impl Future for Confirms {
    type Output = Outcomes;

    /// # Panics
    /// If polled again after it resolved.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcomes> {
        match &mut self.0 {
            State::Ready(outcomes) => {
                Poll::Ready(outcomes.take().expect("confirms are not polled after they resolved"))
            }
            State::Pending(pending) => pending.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for Confirms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            State::Ready(outcomes) => f.debug_tuple("Ready").field(outcomes).finish(),
            State::Pending(_) => f.write_str("Pending"),
        }
    }
}
