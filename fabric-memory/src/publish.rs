//! Publishing: at once where there is room, else in line for it.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use fabric_core::clock::{Now, far_future};
use fabric_core::{
    Batch, Confirms, Error, ErrorKind, Event, ExpectedLast, NoticeKind, Outcomes, Receipt, Result,
    RetryClass, Topic, WhenFull,
};
use tokio::time::{Instant, sleep_until};

use crate::broker::{Blocked, Broker, Stored, Wakers, kept_size};
use crate::bug::Bug;
use crate::client::Client;

impl Client {
    /// Stores the batch if that takes no waiting; else gives it back untouched.
    pub(crate) fn try_publish(&self, mut batch: Batch) -> Result<Confirms, Batch> {
        if self.is_closed() && !self.instance.has_bug(Bug::PublishAfterClose) {
            return Err(batch);
        }
        let limit = self.instance.config.max_payload;
        let tried = self.instance.with(|broker, wakers| {
            broker.advance(&batch.now, wakers);
            try_batch_in_place(broker, wakers, &mut batch, limit)
        });
        tried.answer(batch)
    }

    /// Stores the batch, waiting for room where the policy says so.
    pub(crate) async fn publish(self: &Arc<Self>, batch: Batch) -> Result<Confirms> {
        if !self.instance.has_bug(Bug::PublishAfterClose) {
            self.check_open()?;
        }
        let began = batch.now.instant;
        let patience = began.checked_add(self.instance.config.full_wait);
        let patience = patience.unwrap_or_else(|| far_future(began));
        let deadline = batch.deadline().map_or(patience, |deadline| deadline.min(patience));
        let mut results = Vec::with_capacity(batch.events.len());
        let Batch { events, options, now } = batch;
        let expected = options.and_then(|options| options.expect_last);
        for event in events {
            results.push(self.publish_one(event, expected.as_ref(), now, deadline).await);
        }
        Ok(Confirms::ready(Outcomes::each(results)))
    }

    async fn publish_one(
        self: &Arc<Self>,
        event: Event,
        expected: Option<&ExpectedLast>,
        now: Now,
        deadline: Instant,
    ) -> Result<Receipt> {
        let topic = event.topic().clone();
        let mut first = Some((event, now));
        let mut place = Waiting { client: Arc::clone(self), line: Line::default() };
        let mut timer = pin!(sleep_until(deadline));
        let mut closing = pin!(self.closing.notified());
        closing.as_mut().enable();
        let ended = poll_fn(|cx| {
            if let Poll::Ready(stored) = self.poll_store(cx, &mut first, expected, &mut place) {
                return Poll::Ready(Ended::Stored(stored));
            }
            if self.is_closed() || closing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ended::Closed);
            }
            timer.as_mut().poll(cx).map(|()| Ended::Late)
        })
        .await;
        drop(place);
        match ended {
            Ended::Stored(stored) => stored,
            Ended::Closed => Err(Error::new(
                ErrorKind::Closed,
                "the fabric was closed while this event waited for room",
            )
            .with_retry(RetryClass::Never)
            .with("topic", topic)),
            Ended::Late => Err(self.full(&topic)),
        }
    }

    /// The error of a publisher whose patience is over.
    fn full(&self, topic: &Topic) -> Error {
        let now = Now::read();
        let blocked = self.instance.with(|broker, wakers| {
            let index = broker.topic(topic)?;
            Ok::<_, Error>(broker.make_room(index, 1, 1, &now, wakers).err())
        });
        let blocked = match blocked {
            Ok(Some(blocked)) => blocked,
            Ok(None) => Blocked { policy: WhenFull::Block, topic: topic.clone(), group: None },
            Err(error) => return error,
        };
        let (topic, group) = (topic.clone(), blocked.group.clone());
        self.notices.send(NoticeKind::Full { topic, group });
        blocked.error()
    }

    fn poll_store(
        &self,
        cx: &mut Context<'_>,
        event: &mut Option<(Event, Now)>,
        expected: Option<&ExpectedLast>,
        place: &mut Waiting,
    ) -> Poll<Result<Receipt>> {
        // The first try is at the batch's time; later ones when the room is there.
        let Some((waiting, stamped)) = event.take() else { return Poll::Pending };
        let line = &mut place.line;
        let now = if line.topic.is_some() { Now::read() } else { stamped };
        let limit = self.instance.config.max_payload;
        let tried = self.instance.at(now, |broker, wakers| {
            store_in_turn(broker, wakers, waiting, expected, limit, now, line, cx.waker())
        });
        match tried {
            Ok(Ok(receipt)) => Poll::Ready(Ok(receipt)),
            Ok(Err(back)) => {
                *event = Some((back, stamped));
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// How waiting for room ended.
enum Ended {
    Stored(Result<Receipt>),
    Closed,
    Late,
}

/// A place in the line of publishers to one topic, once there is one.
#[derive(Debug, Default)]
pub(crate) struct Line {
    topic: Option<usize>,
    ticket: u64,
}

impl Line {
    /// Takes the place again, or the last one.
    fn wait(&mut self, broker: &mut Broker, index: usize, waker: &Waker) {
        if self.topic.is_none() {
            *self = Self { topic: Some(index), ticket: broker.ticket() };
        }
        broker.wait(index, self.ticket, waker);
    }

    /// Which topic's line it is in, and its number there.
    #[cfg(test)]
    pub(crate) fn ticket(&self) -> Option<(usize, u64)> {
        self.topic.map(|topic| (topic, self.ticket))
    }

    /// Lets the next have its turn.
    pub(crate) fn leave(&mut self, broker: &mut Broker, wakers: &mut Wakers) {
        if let Some(topic) = self.topic.take() {
            broker.wait_no_more(topic, self.ticket, wakers);
        }
    }
}

/// A publisher in line; dropping it lets the next have its turn.
struct Waiting {
    client: Arc<Client>,
    line: Line,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.line.topic.is_some() {
            self.client.instance.with(|broker, wakers| self.line.leave(broker, wakers));
        }
    }
}

/// Stores an event if it is its publisher's turn and there is room; else gives it back, and its
/// publisher is in line.
#[expect(clippy::too_many_arguments, reason = "one step of a publish, apart from its waiting")]
pub(crate) fn store_in_turn(
    broker: &mut Broker,
    wakers: &mut Wakers,
    mut event: Event,
    expected: Option<&ExpectedLast>,
    limit: usize,
    now: Now,
    line: &mut Line,
    waker: &Waker,
) -> Result<Result<Receipt, Event>> {
    let index = broker.topic_of(&mut event)?;
    if !broker.is_turn(index, line.ticket) {
        line.wait(broker, index, waker);
        return Ok(Err(event));
    }
    let receipt = match admit_one(broker, wakers, index, &event, expected, limit, &now)? {
        Admitted::Yes(bytes) => match broker.store(index, event, bytes, &now, wakers) {
            Stored::At(number) => Receipt::stored(broker.position(index, number)),
            Stored::Scheduled => Receipt::ACCEPTED.with_routed(true),
        },
        Admitted::Answered(receipt) => receipt,
        Admitted::Blocked => {
            line.wait(broker, index, waker);
            return Ok(Err(event));
        }
    };
    line.leave(broker, wakers);
    Ok(Ok(receipt))
}

/// What came of a batch that may not wait.
enum Tried {
    /// Kept, one behind the other.
    Stored {
        topic: Topic,
        incarnation: u64,
        first: u64,
        count: usize,
    },
    Answered(Outcomes),
    /// It lies where it was.
    Blocked,
}

impl Tried {
    #[inline]
    fn answer(self, batch: Batch) -> Result<Confirms, Batch> {
        match self {
            Self::Stored { topic, incarnation, first, count } => {
                Ok(Confirms::ready(Outcomes::run(topic, incarnation, first, count, true)))
            }
            Self::Answered(outcomes) => Ok(Confirms::ready(outcomes)),
            Self::Blocked => Err(batch),
        }
    }
}

/// Stores the batch if that takes no waiting; else gives it back untouched.
#[cfg(test)]
pub(crate) fn try_batch(
    broker: &mut Broker,
    wakers: &mut Wakers,
    mut batch: Batch,
    limit: usize,
) -> Result<Confirms, Batch> {
    try_batch_in_place(broker, wakers, &mut batch, limit).answer(batch)
}

/// Stores the batch if that takes no waiting; else leaves it where it is.
#[inline]
fn try_batch_in_place(
    broker: &mut Broker,
    wakers: &mut Wakers,
    batch: &mut Batch,
    limit: usize,
) -> Tried {
    match batch.events.len() {
        1 => try_one(broker, wakers, batch, limit),
        0 => Tried::Answered(Outcomes::each([])),
        _ => try_many(broker, wakers, batch, limit),
    }
}

/// Stores the batch's only event, or leaves it where it is.
#[inline]
fn try_one(broker: &mut Broker, wakers: &mut Wakers, batch: &mut Batch, limit: usize) -> Tried {
    let Some(event) = batch.events.first_mut() else { return Tried::Blocked };
    let index = match broker.topic_of(event) {
        Ok(index) => index,
        Err(error) => return Tried::Answered(Outcomes::one(Err(error))),
    };
    if broker.has_waiting(index) {
        return Tried::Blocked;
    }
    let expected = batch.options.as_ref().and_then(|options| options.expect_last.as_ref());
    let admitted = admit_one(broker, wakers, index, event, expected, limit, &batch.now);
    let answer = match admitted {
        Ok(Admitted::Yes(bytes)) => {
            let Some(event) = batch.events.pop() else { return Tried::Blocked };
            match broker.store(index, event, bytes, &batch.now, wakers) {
                Stored::At(first) => {
                    let (topic, incarnation) = broker.life_of(index);
                    return Tried::Stored { topic, incarnation, first, count: 1 };
                }
                Stored::Scheduled => Ok(Receipt::ACCEPTED.with_routed(true)),
            }
        }
        Ok(Admitted::Answered(receipt)) => Ok(receipt),
        Ok(Admitted::Blocked) => return Tried::Blocked,
        Err(error) => Err(error),
    };
    Tried::Answered(Outcomes::one(answer))
}

/// A batch of one topic that fits goes in whole; anything else goes the slow way.
fn try_many(broker: &mut Broker, wakers: &mut Wakers, batch: &mut Batch, limit: usize) -> Tried {
    let Some(topic) = batch.events.first().map(Event::topic) else { return Tried::Blocked };
    let mut bytes = 0;
    for event in &batch.events {
        let plain = event.topic() == topic
            && event.deliver_at().is_none()
            && event.payload().size() <= limit;
        if !plain {
            return Tried::Blocked;
        }
        bytes += kept_size(event);
    }
    if !broker.takes_batches() || batch.expect_last().is_some() {
        return Tried::Blocked;
    }
    let Ok(index) = broker.topic(topic) else { return Tried::Blocked };
    if broker.has_waiting(index)
        || broker.is_strict(index)
        || broker.make_room(index, batch.events.len(), bytes, &batch.now, wakers).is_err()
    {
        return Tried::Blocked;
    }
    let events = std::mem::take(&mut batch.events).into_vec();
    let count = events.len();
    let first = broker.store_all(index, events, bytes, &batch.now, wakers);
    let (topic, incarnation) = broker.life_of(index);
    Tried::Stored { topic, incarnation, first, count }
}

/// Whether an event may be stored.
enum Admitted {
    /// It may, and takes so many bytes.
    Yes(usize),
    /// It will not be stored, and this is the answer.
    Answered(Receipt),
    /// Not yet.
    Blocked,
}

/// Checks an event and makes room for it.
fn admit_one(
    broker: &mut Broker,
    wakers: &mut Wakers,
    index: usize,
    event: &Event,
    expected: Option<&ExpectedLast>,
    limit: usize,
    now: &Now,
) -> Result<Admitted> {
    let too_large = |what: &str, have: usize, limit: usize| {
        Error::new(ErrorKind::TooLarge, format!("{what} {have} bytes, `memory` takes {limit}"))
            .with("topic", event.topic())
    };
    let bytes = kept_size(event);
    if bytes > limit && event.payload().size() > limit {
        return Err(too_large("the payload takes", event.payload().size(), limit));
    }
    if !broker.can_ever_hold(index, bytes) {
        return Err(too_large("the event takes", bytes, broker.max_bytes()));
    }
    if let Some(position) = broker.find_duplicate(event, now) {
        return Ok(Admitted::Answered(Receipt::duplicate_of(position)));
    }
    if let Some(expected) = expected {
        broker.check_last(index, expected)?;
    }
    match broker.make_room(index, 1, bytes, now, wakers) {
        Ok(()) => Ok(Admitted::Yes(bytes)),
        Err(blocked) if blocked.policy == WhenFull::Fail => Err(blocked.error()),
        Err(blocked) if blocked.policy == WhenFull::DropNewest => {
            broker.drop_newest(index, wakers);
            Ok(Admitted::Answered(Receipt::unrouted()))
        }
        Err(_) => Ok(Admitted::Blocked),
    }
}
