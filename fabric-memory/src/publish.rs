//! Publishing: at once where there is room, else in line for it.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use fabric_core::clock::{Now, far_future};
use fabric_core::{
    Batch, Confirms, Error, ErrorKind, Event, NoticeKind, Outcomes, Receipt, Result, RetryClass,
    SubmitOptions, Topic, WhenFull,
};
use tokio::time::{Instant, sleep_until};

use crate::broker::{Blocked, Broker, Stored, Wakers};
use crate::bug::Bug;
use crate::client::Client;

impl Client {
    /// Stores the batch if that takes no waiting; else gives it back untouched.
    pub(crate) fn try_publish(&self, batch: Batch) -> Result<Confirms, Batch> {
        if self.is_closed() && !self.instance.has_bug(Bug::PublishAfterClose) {
            return Err(batch);
        }
        let now = batch.now;
        let limit = self.instance.config.max_payload;
        self.instance.at(now, |broker, wakers| try_batch(broker, wakers, batch, limit))
    }

    /// Stores the batch, waiting for room where the policy says so.
    pub(crate) async fn publish(self: &Arc<Self>, batch: Batch) -> Result<Confirms> {
        if !self.instance.has_bug(Bug::PublishAfterClose) {
            self.check_open()?;
        }
        let began = batch.now.instant;
        let patience = began.checked_add(self.instance.config.full_wait);
        let patience = patience.unwrap_or_else(|| far_future(began));
        let deadline = batch.options.deadline.map_or(patience, |deadline| deadline.min(patience));
        let mut results = Vec::with_capacity(batch.events.len());
        for event in batch.events {
            results.push(self.publish_one(event, &batch.options, batch.now, deadline).await);
        }
        Ok(Confirms::ready(Outcomes::each(results)))
    }

    async fn publish_one(
        self: &Arc<Self>,
        event: Event,
        options: &SubmitOptions,
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
            if let Poll::Ready(stored) = self.poll_store(cx, &mut first, options, &mut place) {
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
            Ok::<_, Error>(broker.make_room(index, 1, 1, now, wakers).err())
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
        options: &SubmitOptions,
        place: &mut Waiting,
    ) -> Poll<Result<Receipt>> {
        // The first try is at the batch's time; later ones when the room is there.
        let Some((waiting, stamped)) = event.take() else { return Poll::Pending };
        let line = &mut place.line;
        let now = if line.topic.is_some() { Now::read() } else { stamped };
        let limit = self.instance.config.max_payload;
        let tried = self.instance.at(now, |broker, wakers| {
            store_in_turn(broker, wakers, waiting, options, limit, now, line, cx.waker())
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
#[expect(clippy::result_large_err, reason = "the event goes back to its publisher")]
pub(crate) fn store_in_turn(
    broker: &mut Broker,
    wakers: &mut Wakers,
    event: Event,
    options: &SubmitOptions,
    limit: usize,
    now: Now,
    line: &mut Line,
    waker: &Waker,
) -> Result<Result<Receipt, Event>> {
    let index = broker.topic(event.topic())?;
    if !broker.is_turn(index, line.ticket) {
        line.wait(broker, index, waker);
        return Ok(Err(event));
    }
    match store_one(broker, wakers, index, event, options, limit, now)? {
        Ok(receipt) => {
            line.leave(broker, wakers);
            Ok(Ok(receipt))
        }
        Err((event, _)) => {
            line.wait(broker, index, waker);
            Ok(Err(event))
        }
    }
}

/// Stores the batch if that takes no waiting; else gives it back untouched.
#[expect(clippy::result_large_err, reason = "the batch goes back to its publisher")]
pub(crate) fn try_batch(
    broker: &mut Broker,
    wakers: &mut Wakers,
    batch: Batch,
    limit: usize,
) -> Result<Confirms, Batch> {
    match batch.events.len() {
        0 => Ok(Confirms::ready(Outcomes::each([]))),
        1 => try_one(broker, wakers, batch, limit),
        _ => try_many(broker, wakers, batch, limit),
    }
}

fn try_one(
    broker: &mut Broker,
    wakers: &mut Wakers,
    mut batch: Batch,
    limit: usize,
) -> Result<Confirms, Batch> {
    let Some(event) = batch.events.pop() else { return Err(batch) };
    let index = match broker.topic(event.topic()) {
        Ok(index) => index,
        Err(error) => return Ok(Confirms::ready(Outcomes::one(Err(error)))),
    };
    if broker.has_waiting(index) {
        batch.events.push(event);
        return Err(batch);
    }
    match store_one(broker, wakers, index, event, &batch.options, limit, batch.now) {
        Ok(Ok(receipt)) => Ok(Confirms::ready(Outcomes::one(Ok(receipt)))),
        Ok(Err((event, _))) => {
            batch.events.push(event);
            Err(batch)
        }
        Err(error) => Ok(Confirms::ready(Outcomes::one(Err(error)))),
    }
}

/// A batch of one topic that fits goes in whole; anything else goes the slow way.
fn try_many(
    broker: &mut Broker,
    wakers: &mut Wakers,
    batch: Batch,
    limit: usize,
) -> Result<Confirms, Batch> {
    let Some(topic) = batch.events.first().map(|event| event.topic().clone()) else {
        return Err(batch);
    };
    let mut bytes = 0;
    for event in &batch.events {
        let plain = event.topic() == &topic
            && event.deliver_at().is_none()
            && event.payload().size() <= limit;
        if !plain {
            return Err(batch);
        }
        bytes += event.size_in_memory();
    }
    if !broker.takes_batches() || batch.options.expect_last.is_some() {
        return Err(batch);
    }
    let Ok(index) = broker.topic(&topic) else { return Err(batch) };
    if broker.has_waiting(index)
        || broker.is_strict(index)
        || broker.make_room(index, batch.events.len(), bytes, batch.now, wakers).is_err()
    {
        return Err(batch);
    }
    let count = batch.events.len();
    let (first, incarnation) =
        broker.store_all(index, batch.events.into_vec(), bytes, batch.now, wakers);
    Ok(Confirms::ready(Outcomes::run(topic, incarnation, first, count, true)))
}

/// The event's receipt, or the event back and what stands in the way.
#[expect(clippy::result_large_err, reason = "the event goes back to its publisher")]
fn store_one(
    broker: &mut Broker,
    wakers: &mut Wakers,
    index: usize,
    event: Event,
    options: &SubmitOptions,
    limit: usize,
    now: Now,
) -> Result<Result<Receipt, (Event, Blocked)>> {
    let too_large = |what: &str, have: usize, limit: usize| {
        Error::new(ErrorKind::TooLarge, format!("{what} {have} bytes, `memory` takes {limit}"))
            .with("topic", event.topic())
    };
    let size = event.payload().size();
    if size > limit {
        return Err(too_large("the payload takes", size, limit));
    }
    let bytes = event.size_in_memory();
    if !broker.can_ever_hold(index, bytes) {
        return Err(too_large("the event takes", bytes, broker.max_bytes()));
    }
    if let Some(position) = broker.find_duplicate(&event, now) {
        return Ok(Ok(Receipt::duplicate_of(position)));
    }
    if let Some(expected) = &options.expect_last {
        broker.check_last(index, expected)?;
    }
    if let Err(blocked) = broker.make_room(index, 1, bytes, now, wakers) {
        return match blocked.policy {
            WhenFull::Fail => Err(blocked.error()),
            WhenFull::DropNewest => {
                broker.drop_newest(index, wakers);
                Ok(Ok(Receipt::unrouted()))
            }
            _ => Ok(Err((event, blocked))),
        };
    }
    Ok(Ok(match broker.store(index, event, now, wakers) {
        Stored::At(number) => Receipt::stored(broker.position(index, number)),
        Stored::Scheduled => Receipt::ACCEPTED.with_routed(true),
    }))
}
