//! NATS alone: whoever is there gets a copy, or shares in a live group; nothing is kept.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use fabric_core::{
    Batch, Chunk, Confirms, Error, ErrorKind, Event, MAX_CHUNK, Outcomes, Patterns, Receipt,
    Result, RetryClass, Source, SubscribeOptions, Subscription,
};
use futures_core::future::BoxFuture;
use futures_util::{FutureExt as _, Stream as _};
use tokio::time::Instant;

use crate::connection::Epoch;
use crate::error::{self, Failure};
use crate::hub::{Hub, at_once};
use crate::layout::{Place, contains};
use crate::wire::{Decoder, Outgoing, Route, Topics, kept};

/// Who publishes live: those that wait come before those that do not.
#[derive(Debug, Default)]
pub(crate) struct Line {
    waiting: AtomicUsize,
    turn: tokio::sync::Mutex<()>,
}

impl Hub {
    /// Hands the batch to the connection if that takes no waiting.
    pub(crate) fn try_publish_live(&self, batch: Batch) -> Result<Confirms, Batch> {
        if self.is_closing() || batch.events.is_empty() {
            return Err(batch);
        }
        if self.line.waiting.load(Ordering::Acquire) > 0 || batch.events.len() > 1 {
            return Err(batch);
        }
        let (Some(epoch), Some(event)) = (self.link.now(), batch.events.first()) else {
            return Err(batch);
        };
        let outgoing = match self.write_live(event) {
            Ok(outgoing) => outgoing,
            Err(error) => return Ok(Confirms::ready(Outcomes::one(Err(error)))),
        };
        match at_once(send(&epoch, outgoing)) {
            Some(Ok(())) => Ok(Confirms::ready(Outcomes::one(Ok(Receipt::ACCEPTED)))),
            Some(Err(error)) if error.kind() == ErrorKind::TooLarge => {
                Ok(Confirms::ready(Outcomes::one(Err(error))))
            }
            _ => Err(batch),
        }
    }

    /// Hands the batch to the connection, waiting for one, and for room.
    pub(crate) async fn publish_live(&self, batch: Batch) -> Result<Confirms> {
        self.check_open()?;
        let patience = crate::connection::after(self.config.confirm_timeout);
        let deadline = batch.deadline().map_or(patience, |deadline| deadline.min(patience));
        let _waiting = Waiting::new(&self.line.waiting);
        let _turn = self.line.turn.lock().await;
        if batch.events.is_empty() {
            let epoch = self.link.up_soon().await?;
            epoch.round_trip(&self.layout.sync()).await?;
            return Ok(Confirms::ready(Outcomes::each([])));
        }
        let mut results = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let sent = tokio::time::timeout_at(deadline, self.send_live(event)).await;
            results.push(sent.unwrap_or_else(|_| Err(nobody(event))));
        }
        Ok(Confirms::ready(Outcomes::each(results)))
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
        self.live_writer().write(event, &Route::default())
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
            topics: Topics::default(),
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
    let sent = publish(epoch, subject, headers, payload).await;
    sent.map_err(|error| error::from(&Failure::Publish(error.kind())))
}

async fn publish(
    epoch: &Epoch,
    subject: String,
    headers: Option<HeaderMap>,
    payload: Bytes,
) -> Result<(), async_nats::PublishError> {
    match headers {
        Some(headers) => epoch.client.publish_with_headers(subject, headers, payload).await,
        None => epoch.client.publish(subject, payload).await,
    }
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
    /// Topics that came lately.
    topics: Topics,
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
        let Ears::There(ears) = &mut self.ears else { return Poll::Ready(None) };
        let mut messages: Vec<(usize, Message)> = Vec::new();
        let mut gone = false;
        for (n, ear) in ears.iter_mut().enumerate() {
            while messages.len() < MAX_CHUNK {
                match Pin::new(&mut *ear).poll_next(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(message)) => messages.push((n, message)),
                    Poll::Ready(None) => {
                        gone = true;
                        break;
                    }
                }
            }
        }
        if messages.is_empty() {
            return if gone { Poll::Ready(None) } else { Poll::Pending };
        }
        match self.chunk(messages) {
            Some(chunk) => Poll::Ready(Some(chunk)),
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn chunk(&mut self, came: Vec<(usize, Message)>) -> Option<Chunk> {
        let count = came.len();
        let (mut messages, mut events) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut faults = Vec::new();
        for (n, message) in came {
            if !self.is_wanted(n, &message) {
                continue;
            }
            let read = self.decoder.read(&self.hub.layout, &message, 0);
            if let Some(fault) = read.fault {
                faults.push((events.len(), fault));
            }
            events.push(read.event);
            messages.push(message);
        }
        if events.is_empty() {
            return None;
        }
        let len = events.len();
        let received = fabric_core::clock::wall_at(Instant::now());
        let chunk = Chunk::new(Arc::new(events), 0, len, received).with_handle(kept(messages));
        Some(faults.into_iter().fold(chunk, |chunk, (n, fault)| chunk.with_fault(n, fault)))
    }

    /// Whether the message is for this subscription, and no earlier filter brought it too.
    fn is_wanted(&mut self, filter: usize, message: &Message) -> bool {
        let Place::Topic(text) = self.hub.layout.place(&message.subject) else { return false };
        let twice = self.group.is_none()
            && self.filters[..filter].iter().any(|other| contains(other, &message.subject));
        let wanted = self.topics.get(&text).map_or(true, |topic| self.patterns.matches(topic));
        !twice && wanted
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

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("filters", &self.filters).finish_non_exhaustive()
    }
}
