//! NATS alone: whoever is there gets a copy, or shares in a live group; nothing is kept.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_nats::{Message, Subscriber};
use fabric_core::{
    Batch, Chunk, Confirms, Error, ErrorKind, Event, MAX_CHUNK, Patterns, Receipt, Result,
    RetryClass, Source, SubscribeOptions, Subscription, Timestamp,
};
use futures_core::future::BoxFuture;
use futures_util::{FutureExt as _, Stream as _};

use crate::confirm::{self, Answer};
use crate::connection::Epoch;
use crate::error::{self, Failure};
use crate::hub::{Hub, at_once};
use crate::layout::contains;
use crate::pull::CHUNK_BYTES;
use crate::read::Decoder;
use crate::seen::Part;
use crate::wire::{Messages, Outgoing, Route};

impl Hub {
    /// Hands the batch to the connection if that takes no waiting.
    pub(crate) fn try_publish_live(&self, batch: Batch) -> Result<Confirms, Batch> {
        let [event] = &batch.events[..] else { return Err(batch) };
        if self.is_closing() || !self.line.is_free() {
            return Err(batch);
        }
        let outgoing = match self.write_live(event) {
            Ok(outgoing) => outgoing,
            Err(error) => return Ok(confirm::one(Answer::Known(Err(error)))),
        };
        let sent = self.link.with(|epoch| send_now(epoch, outgoing)).flatten();
        match sent {
            Some(Ok(())) => Ok(confirm::one(Answer::Known(Ok(Receipt::ACCEPTED)))),
            Some(Err(error)) if error.kind() == ErrorKind::TooLarge => {
                Ok(confirm::one(Answer::Known(Err(error))))
            }
            _ => Err(batch),
        }
    }

    /// Hands the batch to the connection, waiting for one, and for room.
    pub(crate) async fn publish_live(&self, batch: Batch) -> Result<Confirms> {
        self.check_open()?;
        let patience = crate::connection::after(self.config.confirm_timeout);
        let deadline = batch.deadline().map_or(patience, |deadline| deadline.min(patience));
        let turn = self.line.join(Some(deadline)).await;
        if batch.events.is_empty() {
            let epoch = self.link.up_soon().await?;
            epoch.round_trip(&self.layout.sync()).await?;
            return Ok(confirm::each(Vec::new()));
        }
        let mut answers = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let sent = match &turn {
                Some(_) => tokio::time::timeout_at(deadline, self.send_live(event)).await.ok(),
                None => None,
            };
            answers.push(Answer::Known(sent.unwrap_or_else(|| Err(nobody(event)))));
        }
        Ok(confirm::each(answers))
    }

    async fn send_live(&self, event: &Event) -> Result<Receipt> {
        loop {
            let epoch = self.link.up().await?;
            match send(&epoch, self.write_live(event)?).await {
                Ok(()) => return Ok(Receipt::ACCEPTED),
                Err(error) if error.kind() == ErrorKind::TooLarge => return Err(error),
                // The connection is gone, and the event with it was never handed over.
                Err(_) => epoch.abandon(),
            }
        }
    }

    fn write_live(&self, event: &Event) -> Result<Outgoing> {
        let subject = self.targets.subject(&self.layout, event.topic());
        self.live_writer().write(event, &Route::default(), subject)
    }

    /// Opens a live subscription.
    pub(crate) async fn open_live(
        self: &Arc<Self>,
        options: &SubscribeOptions,
    ) -> Result<Subscription> {
        self.check_open()?;
        let group = options.group.as_ref().map(|group| group.as_str().to_owned());
        let filters = self.layout.live_filters(&options.patterns);
        let ears = listen(Arc::clone(self), filters.clone(), group.clone());
        let limit = self.config.request_timeout;
        let ears = tokio::time::timeout(limit, ears).await;
        let ears = ears.unwrap_or_else(|_| Err(error::disconnected()))?;
        let mut closed = self.closed.subscribe();
        Ok(Subscription::from_source(Live {
            hub: Arc::clone(self),
            patterns: options.patterns.clone(),
            filters,
            group,
            ears: Ears::There(ears),
            decoder: Decoder::new(self.config.profile),
            closed: Box::pin(async move {
                let _ = closed.wait_for(|closed| *closed).await;
            }),
            troubles: VecDeque::new(),
            over: false,
        }))
    }
}

/// Subscribes to every filter; resolves once the server has them.
async fn listen(
    hub: Arc<Hub>,
    filters: Vec<String>,
    group: Option<String>,
) -> Result<Vec<Subscriber>> {
    let epoch = hub.link.up().await?;
    let mut ears = Vec::with_capacity(filters.len());
    for filter in &filters {
        let ear = match &group {
            Some(group) => epoch.client.queue_subscribe(filter.clone(), group.clone()).await,
            None => epoch.client.subscribe(filter.clone()).await,
        };
        ears.push(ear.map_err(|_| error::disconnected())?);
    }
    epoch.round_trip(&hub.layout.sync()).await?;
    let denied = epoch.denied().borrow().clone();
    match filters.iter().find(|filter| denied.contains(filter)) {
        Some(filter) => Err(crate::connection::lacking(filter)),
        None => Ok(ears),
    }
}

async fn send(epoch: &Epoch, outgoing: Outgoing) -> Result<()> {
    let Outgoing { subject, headers, payload } = outgoing;
    let sent = match headers {
        Some(headers) => epoch.client.publish_with_headers(subject, headers, payload).await,
        None => epoch.client.publish(subject, payload).await,
    };
    sent.map_err(|error| unsent(&error))
}

/// Sends what needs no waiting; `None` where it would.
fn send_now(epoch: &Epoch, outgoing: Outgoing) -> Option<Result<()>> {
    let Outgoing { subject, headers, payload } = outgoing;
    // Each on its own, since a future that may be either is moved as the larger one.
    let sent = match headers {
        Some(headers) => at_once(epoch.client.publish_with_headers(subject, headers, payload))?,
        None => at_once(epoch.client.publish(subject, payload))?,
    };
    Some(sent.map_err(|error| unsent(&error)))
}

fn unsent(error: &async_nats::PublishError) -> Error {
    error::from(&Failure::Publish(error.kind()))
}

fn nobody(event: &Event) -> Error {
    Error::new(ErrorKind::Full, "there is no connection, or none with room for the event")
        .with_retry(RetryClass::Safe)
        .with("topic", event.topic())
}

enum Ears {
    There(Vec<Subscriber>),
    Opening(BoxFuture<'static, Result<Vec<Subscriber>>>),
}

/// The source of a live subscription.
struct Live {
    hub: Arc<Hub>,
    patterns: Patterns,
    filters: Vec<String>,
    group: Option<String>,
    ears: Ears,
    decoder: Decoder,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
    troubles: VecDeque<Error>,
    over: bool,
}

impl Live {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        loop {
            if let Some(trouble) = self.troubles.pop_front() {
                return Poll::Ready(Some(Err(trouble)));
            }
            if self.over || self.hub.is_closing() || self.closed.as_mut().poll(cx).is_ready() {
                self.over = true;
                return Poll::Ready(None);
            }
            match &mut self.ears {
                Ears::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(ears) => self.ears = Ears::There(ears),
                    Err(error) if error.retry() == RetryClass::Never => {
                        self.over = true;
                        return Poll::Ready(Some(Err(error)));
                    }
                    Err(_) => self.reopen(Duration::from_millis(100)),
                },
                Ears::There(_) => match ready!(self.poll_ears(cx)) {
                    Some(chunk) => return Poll::Ready(Some(Ok(Arc::new(chunk)))),
                    None => self.reopen(Duration::ZERO),
                },
            }
        }
    }

    fn reopen(&mut self, pause: Duration) {
        let (hub, filters, group) =
            (Arc::clone(&self.hub), self.filters.clone(), self.group.clone());
        self.ears = Ears::Opening(
            async move {
                tokio::time::sleep(pause).await;
                listen(hub, filters, group).await
            }
            .boxed(),
        );
    }

    /// What came, up to a chunk of it; `None` once the connection is gone.
    fn poll_ears(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        let Self { hub, patterns, filters, group, ears, decoder, .. } = self;
        let Ears::There(ears) = ears else { return Poll::Ready(None) };
        let mut heard = Heard::default();
        let mut gone = false;
        for (n, ear) in ears.iter_mut().enumerate() {
            while heard.events.len() < MAX_CHUNK && heard.bytes < CHUNK_BYTES {
                let message = match Pin::new(&mut *ear).poll_next(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(message)) => message,
                    Poll::Ready(None) => {
                        gone = true;
                        break;
                    }
                };
                let seen = decoder.look(&hub.layout, &message.subject);
                // What is on a subject that is no topic is an error in the stream.
                let wanted =
                    seen.part == Part::Events && (seen.fault.is_some() || seen.matches(patterns));
                let contained = |other: &String| contains(other, &message.subject);
                // A filter before this one brought it too.
                let twice = n > 0 && group.is_none() && filters[..n].iter().any(contained);
                if wanted && !twice {
                    heard.take(decoder, hub, message);
                }
            }
        }
        match heard.into_chunk() {
            Some(chunk) => Poll::Ready(Some(chunk)),
            None if gone => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// What came at once.
#[derive(Default)]
struct Heard {
    messages: Vec<Message>,
    events: Vec<Event>,
    faults: Vec<(usize, Error)>,
    bytes: usize,
    at: Option<Timestamp>,
}

impl Heard {
    fn take(&mut self, decoder: &mut Decoder, hub: &Hub, message: Message) {
        let at = *self.at.get_or_insert_with(Timestamp::now);
        let read = decoder.read(&hub.layout, &message, None, at);
        if let Some(fault) = read.fault {
            self.faults.push((self.events.len(), fault));
        }
        self.bytes += message.length;
        self.events.push(read.event);
        self.messages.push(message);
    }

    fn into_chunk(self) -> Option<Chunk> {
        let (len, at) = (self.events.len(), self.at?);
        let chunk = Chunk::new(Arc::new(self.events), 0, len, at)
            .with_handle(Arc::new(Messages(self.messages)));
        Some(self.faults.into_iter().fold(chunk, |chunk, (n, fault)| chunk.with_fault(n, fault)))
    }
}

impl Source for Live {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        self.poll_next(cx)
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.over = true;
        self.ears = Ears::There(Vec::new());
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("filters", &self.filters).finish_non_exhaustive()
    }
}
