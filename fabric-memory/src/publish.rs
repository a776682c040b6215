//! Publishing: at once where there is room, else in line for it.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use fabric_core::clock::Now;
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
    pub(crate) fn try_publish(&self, mut batch: Batch) -> Result<Confirms, Batch> {
        if self.is_closed() && !self.instance.has_bug(Bug::PublishAfterClose) {
            return Err(batch);
        }
        let limit = self.instance.config.max_payload;
        let tried = self.instance.with(|broker, wakers| {
            broker.advance(&batch.now, wakers);
            match batch.events.len() {
                1 => try_one(broker, wakers, &mut batch, limit),
                0 => Tried::Answered(Outcomes::each([])),
                _ => try_many(broker, wakers, &mut batch, limit),
            }
        });
        match tried {
            Tried::Stored { topic, incarnation, first, count } => {
                Ok(Confirms::ready(Outcomes::run(topic, incarnation, first, count, true)))
            }
            Tried::Answered(outcomes) => Ok(Confirms::ready(outcomes)),
            Tried::Blocked => Err(batch),
        }
    }

    /// Stores the batch, waiting for room where the policy says so.
    pub(crate) async fn publish(self: &Arc<Self>, batch: Batch) -> Result<Confirms> {
        if !self.instance.has_bug(Bug::PublishAfterClose) {
            self.check_open()?;
        }
        let patience = batch.now.instant + self.instance.config.full_wait;
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
        let mut place = Waiting { client: Arc::clone(self), topic: None, ticket: 0 };
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
        options: &SubmitOptions,
        place: &mut Waiting,
    ) -> Poll<Result<Receipt>> {
        // The first try is at the batch's time; later ones when the room is there.
        let Some((mut waiting, stamped)) = event.take() else { return Poll::Pending };
        let now = if place.topic.is_some() { Now::read() } else { stamped };
        let limit = self.instance.config.max_payload;
        let tried = self.instance.at(now, |broker, wakers| {
            let index = broker.topic_of(&mut waiting)?;
            if !broker.is_turn(index, place.ticket) {
                if place.topic.is_none() {
                    place.ticket = broker.ticket();
                    place.topic = Some(index);
                }
                broker.wait(index, place.ticket, cx.waker());
                return Ok(Err(waiting));
            }
            let receipt = match admit_one(broker, wakers, index, &waiting, options, limit, &now)? {
                Admitted::Yes(bytes) => match broker.store(index, waiting, bytes, &now, wakers) {
                    Stored::At(number) => Receipt::stored(broker.position(index, number)),
                    Stored::Scheduled => Receipt::ACCEPTED.with_routed(true),
                },
                Admitted::Answered(receipt) => receipt,
                Admitted::Blocked => {
                    if place.topic.is_none() {
                        place.ticket = broker.ticket();
                        place.topic = Some(index);
                    }
                    broker.wait(index, place.ticket, cx.waker());
                    return Ok(Err(waiting));
                }
            };
            if let Some(topic) = place.topic.take() {
                broker.wait_no_more(topic, place.ticket, wakers);
            }
            Ok(Ok(receipt))
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

/// A place in the line of publishers; dropping it lets the next have its turn.
struct Waiting {
    client: Arc<Client>,
    topic: Option<usize>,
    ticket: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(topic) = self.topic.take() {
            let ticket = self.ticket;
            self.client.instance.with(|broker, wakers| broker.wait_no_more(topic, ticket, wakers));
        }
    }
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
    let admitted = admit_one(broker, wakers, index, event, &batch.options, limit, &batch.now);
    let answer = match admitted {
        Ok(Admitted::Yes(bytes)) => {
            let Some(event) = batch.events.pop() else { return Tried::Blocked };
            match broker.store(index, event, bytes, &batch.now, wakers) {
                Stored::At(first) => {
                    let stream = broker.stream(index);
                    let (topic, incarnation) = (stream.topic.clone(), stream.incarnation);
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
        bytes += event.size_in_memory();
    }
    if !broker.takes_batches() || batch.options.expect_last.is_some() {
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
    let stream = broker.stream(index);
    let (topic, incarnation) = (stream.topic.clone(), stream.incarnation);
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
    options: &SubmitOptions,
    limit: usize,
    now: &Now,
) -> Result<Admitted> {
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
    if let Some(position) = broker.find_duplicate(event, now) {
        return Ok(Admitted::Answered(Receipt::duplicate_of(position)));
    }
    if let Some(expected) = &options.expect_last {
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
