//! Requests and their answers, on NATS alone: outside of what streams keep.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, Subject, Subscriber};
use fabric_core::{
    Error, ErrorKind, Event, Replier, Request, RequestReplyBackend, Requests, RespondOptions,
    Result, RetryClass, Timestamp, remote_error,
};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;

use crate::backend::Nats;
use crate::config::Profile;
use crate::connection::{Epoch, after};
use crate::error::{self, Failure};
use crate::hub::Hub;
use crate::read::Decoder;
use crate::wire::{Asked, Writer};

/// How a responder's failure is told, as services of NATS do.
const FAILED: HeaderName = HeaderName::from_static("Nats-Service-Error");
/// Who shares requests: all responders that ask for exactly what they answer.
const QUEUE: &str = "fabric";
/// How long a responder that cannot be registered just now waits.
const AGAIN: Duration = Duration::from_millis(100);

impl RequestReplyBackend for Nats {
    async fn request(&self, request: Event, timeout: Duration) -> Result<Event> {
        let hub = self.open_hub()?;
        let deadline = after(timeout);
        let asked = hub.ask(&request);
        let answered = tokio::time::timeout_at(deadline, asked).await;
        answered
            .unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Timeout, format!("no answer within {timeout:?}")))
            })
            .map_err(|error| error.with("topic", request.topic()))
    }

    async fn respond(&self, options: RespondOptions) -> Result<Requests> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        let ears = hub.listen(&epoch, &options).await?;
        let mut closed = hub.closed.subscribe();
        Ok(Requests::new(Answering {
            hub: Arc::clone(hub),
            options: Arc::new(options),
            ears: Ears::There(ears),
            decoder: Decoder::new(hub.config.profile),
            closed: Box::pin(async move {
                let _ = closed.wait_for(|closed| *closed).await;
            }),
            ended: false,
        }))
    }
}

impl Hub {
    async fn ask(&self, request: &Event) -> Result<Event> {
        let subject = Subject::from(self.layout.request(request.topic()));
        let (headers, payload) = self.live_writer().request(request)?;
        let epoch = self.link.up().await?;
        let asked = epoch.asking(&self.late).await?.ask(subject.clone());
        let (client, reply) = (&epoch.client, asked.reply());
        let sent = match headers {
            Some(headers) => {
                client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            }
            None => client.publish_with_reply(subject, reply, payload).await,
        };
        sent.map_err(|error| error::from(&Failure::Publish(error.kind())))?;
        let answer = asked.answer().await?;
        self.read_answer(request, &answer)
    }

    fn read_answer(&self, request: &Event, answer: &Message) -> Result<Event> {
        let failed = answer.headers.as_ref().and_then(|headers| headers.get(FAILED));
        if let Some(why) = failed {
            return Err(remote_error(&unescaped(why.as_str())));
        }
        let mut decoder = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let read = decoder.read_as(request.topic(), answer);
        drop(decoder);
        let event = read.fault.map_or(Ok(read.event), Err)?;
        let told = event.causation_id().is_some() || event.correlation_id().is_some();
        if told || self.config.profile == Profile::Raw {
            return Ok(event);
        }
        // What it answers is what caused it.
        Event::of(event).caused_by(request).build()
    }

    pub(crate) fn live_writer(&self) -> Writer<'_> {
        Writer {
            layout: &self.layout,
            profile: self.config.profile,
            abilities: self.abilities(),
            kept: false,
            drafts: &self.drafts[1],
        }
    }

    /// Registers a responder; resolves once requests reach it.
    async fn listen(&self, epoch: &Epoch, options: &RespondOptions) -> Result<Vec<Subscriber>> {
        let mut ears = Vec::new();
        // Where the server hands out more than is answered, nobody else goes without.
        let wide = options.patterns.iter().any(|p| p.levels().any(|level| level == "#"));
        let queue = if wide { format!("{QUEUE}-{}", options.name) } else { QUEUE.to_owned() };
        for subject in self.layout.request_filters(&options.patterns) {
            let ear = epoch.client.queue_subscribe(subject, queue.clone()).await;
            ears.push(ear.map_err(|_| error::disconnected())?);
        }
        epoch.round_trip(&self.layout.sync()).await?;
        for subject in self.layout.request_filters(&options.patterns) {
            if epoch.denied().borrow().contains(&subject) {
                return Err(crate::connection::lacking(&subject));
            }
        }
        Ok(ears)
    }
}

/// A responder under way.
struct Answering {
    hub: Arc<Hub>,
    options: Arc<RespondOptions>,
    ears: Ears,
    decoder: Decoder,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
}

enum Ears {
    There(Vec<Subscriber>),
    Opening(BoxFuture<'static, Result<Vec<Subscriber>>>),
}

impl Answering {
    /// The next one has to know of this responder too, once there is a connection again.
    fn reopen(&mut self, pause: Duration) {
        let (hub, options) = (Arc::clone(&self.hub), Arc::clone(&self.options));
        self.ears = Ears::Opening(
            async move {
                tokio::time::sleep(pause).await;
                let epoch = hub.link.up().await?;
                hub.listen(&epoch, &options).await
            }
            .boxed(),
        );
    }

    /// What is asked next; `None` once the connection is gone.
    fn poll_ears(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let Ears::There(ears) = &mut self.ears else { return Poll::Ready(None) };
        for ear in ears {
            if let Poll::Ready(asked) = Pin::new(ear).poll_next(cx) {
                return Poll::Ready(asked);
            }
        }
        Poll::Pending
    }

    fn read(&mut self, message: &Message) -> Option<Result<Request>> {
        let reply = message.reply.clone()?;
        let layout = &self.hub.layout;
        layout.requested(&message.subject)?;
        let seen = self.decoder.look(layout, &message.subject);
        if seen.fault.is_some() || !seen.matches(&self.options.patterns) {
            return None;
        }
        let read = self.decoder.read(layout, message, None, Timestamp::now());
        if let Some(fault) = read.fault {
            return Some(Err(fault));
        }
        let asked = Asked::of(&read.event);
        let answer = Answer { hub: Arc::clone(&self.hub), reply, asked };
        Some(Ok(Request::new(read.event, answer)))
    }
}

impl Stream for Answering {
    type Item = Result<Request>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.ended || self.hub.is_closing() {
                return Poll::Ready(None);
            }
            if let Ears::Opening(opening) = &mut self.ears {
                match opening.as_mut().poll(cx) {
                    Poll::Ready(Ok(ears)) => self.ears = Ears::There(ears),
                    Poll::Ready(Err(error)) if error.kind() == ErrorKind::Closed => {
                        self.ended = true;
                    }
                    Poll::Ready(Err(error)) if error.retry() == RetryClass::Never => {
                        self.ended = true;
                        return Poll::Ready(Some(Err(error)));
                    }
                    Poll::Ready(Err(_)) => self.reopen(AGAIN),
                    Poll::Pending => {
                        ready!(self.closed.as_mut().poll(cx));
                    }
                }
                continue;
            }
            match self.poll_ears(cx) {
                Poll::Ready(None) => self.reopen(Duration::ZERO),
                Poll::Ready(Some(message)) => {
                    if let Some(request) = self.read(&message) {
                        return Poll::Ready(Some(request));
                    }
                }
                Poll::Pending => {
                    ready!(self.closed.as_mut().poll(cx));
                }
            }
        }
    }
}

/// The way back of one request.
struct Answer {
    hub: Arc<Hub>,
    reply: Subject,
    asked: Asked,
}

impl Replier for Answer {
    fn reply(self: Box<Self>, answer: Result<Event, String>) -> BoxFuture<'static, Result<()>> {
        async move {
            let (headers, payload) = match &answer {
                Ok(event) => self.hub.live_writer().answer(event, &self.asked)?,
                Err(why) => {
                    let mut headers = HeaderMap::new();
                    let why = escaped(why);
                    let value = why.parse().unwrap_or_else(|_| HeaderValue::new());
                    headers.insert(FAILED, value);
                    (Some(headers), bytes::Bytes::new())
                }
            };
            let Some(epoch) = self.hub.link.now() else { return Err(error::disconnected()) };
            let sent = match headers {
                Some(headers) => {
                    epoch.client.publish_with_headers(self.reply, headers, payload).await
                }
                None => epoch.client.publish(self.reply, payload).await,
            };
            sent.map_err(|error| error::from(&Failure::Publish(error.kind())))
        }
        .boxed()
    }
}

/// A text as one line.
fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' => line.push_str("%25"),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|b| line.push_str(&format!("%{b:02X}")));
            }
            c => line.push(c),
        }
    }
    if line.is_empty() { "failed".to_owned() } else { line }
}

fn unescaped(line: &str) -> String {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_travels_on_one_line() {
        for text in ["no", "two\nlines", "100 %", "%0A", "ünïcode\r\n"] {
            let line = escaped(text);
            assert!(!line.contains(char::is_control), "{line:?}");
            assert_eq!(unescaped(&line), text);
        }
    }
}
