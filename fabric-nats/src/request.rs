//! Requests and their answers, on NATS alone: outside of what streams keep.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, RequestErrorKind, Subscriber};
use fabric_core::{
    Error, ErrorKind, Event, Replier, Request, RequestReplyBackend, Requests, RespondOptions,
    Result, RetryClass, remote_error,
};
use futures_core::future::BoxFuture;
use futures_util::stream::{SelectAll, select_all, unfold};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use crate::backend::Nats;
use crate::connection::{Epoch, after};
use crate::error::{self, Failure};
use crate::hub::Hub;
use crate::wire::{Decoder, Writer};

/// How a responder's failure is told, as services of NATS do.
const FAILED: HeaderName = HeaderName::from_static("Nats-Service-Error");
/// Who shares requests: all responders that ask for exactly what they answer.
const QUEUE: &str = "fabric";

impl RequestReplyBackend for Nats {
    async fn request(&self, request: Event, timeout: Duration) -> Result<Event> {
        let hub = self.open_hub()?;
        let deadline = after(timeout);
        let asked = hub.ask(&request, deadline);
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
        let answering = Answering {
            hub: Arc::clone(hub),
            epoch,
            options,
            ears,
            decoder: Decoder::new(hub.config.profile),
            ended: false,
        };
        Ok(Requests::new(unfold(answering, Answering::next)))
    }
}

impl Hub {
    async fn ask(&self, request: &Event, deadline: Instant) -> Result<Event> {
        let subject = self.layout.request(request.topic());
        let (headers, payload) = self.live_writer().contents_of(request, None)?;
        let epoch = self.link.up().await?;
        let limit = deadline.saturating_duration_since(Instant::now());
        let asked = async_nats::Request::new().payload(payload).timeout(Some(limit));
        let asked = match headers {
            Some(headers) => asked.headers(headers),
            None => asked,
        };
        let answered = async {
            match epoch.client.send_request(subject.clone(), asked).await {
                Ok(answer) => Ok(answer),
                Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(Error::new(
                    ErrorKind::NoResponders,
                    format!("nobody answers requests on `{}`", request.topic()),
                )
                .with_retry(RetryClass::Safe)),
                Err(error) => Err(error::from(&Failure::Request(error.kind()))),
            }
        };
        let answer = epoch.allowed(&subject, answered).await?;
        self.read_answer(request, &answer)
    }

    fn read_answer(&self, request: &Event, answer: &Message) -> Result<Event> {
        let failed = answer.headers.as_ref().and_then(|headers| headers.get(FAILED));
        if let Some(why) = failed {
            return Err(remote_error(&unescaped(why.as_str())));
        }
        let mut decoder = Decoder::new(self.config.profile);
        let read = decoder.read_on(request.topic().as_str(), false, answer, 0);
        read.fault.map_or(Ok(read.event), Err)
    }

    pub(crate) fn live_writer(&self) -> Writer<'_> {
        Writer {
            layout: &self.layout,
            profile: self.config.profile,
            abilities: self.abilities(),
            kept: false,
        }
    }

    /// Registers a responder; resolves once requests reach it.
    async fn listen(
        &self,
        epoch: &Epoch,
        options: &RespondOptions,
    ) -> Result<SelectAll<Subscriber>> {
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
        Ok(select_all(ears))
    }
}

/// A responder under way.
struct Answering {
    hub: Arc<Hub>,
    epoch: Arc<Epoch>,
    options: RespondOptions,
    ears: SelectAll<Subscriber>,
    decoder: Decoder,
    ended: bool,
}

impl Answering {
    async fn next(mut self) -> Option<(Result<Request>, Self)> {
        if self.ended {
            return None;
        }
        let mut closed = self.hub.closed.subscribe();
        loop {
            let asked = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return None,
                asked = self.ears.next() => asked,
            };
            let Some(message) = asked else {
                // The connection is gone: the next one has to know of this responder too.
                self.epoch = self.hub.link.up().await.ok()?;
                match self.hub.listen(&self.epoch, &self.options).await {
                    Ok(ears) => self.ears = ears,
                    Err(error) if error.retry() == RetryClass::Never => {
                        self.ended = true;
                        return Some((Err(error), self));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
                continue;
            };
            if let Some(request) = self.read(&message) {
                return Some((request, self));
            }
        }
    }

    fn read(&mut self, message: &Message) -> Option<Result<Request>> {
        let reply = message.reply.clone()?;
        let topic = self.hub.layout.requested(&message.subject)?;
        let known = fabric_core::Topic::new(topic).ok()?;
        if !self.options.patterns.matches(&known) {
            return None;
        }
        let read = self.decoder.read_on(topic, false, message, 0);
        if let Some(fault) = read.fault {
            return Some(Err(fault));
        }
        let answer = Answer { hub: Arc::clone(&self.hub), reply };
        Some(Ok(Request::new(read.event, answer)))
    }
}

/// The way back of one request.
struct Answer {
    hub: Arc<Hub>,
    reply: async_nats::Subject,
}

impl Replier for Answer {
    fn reply(self: Box<Self>, answer: Result<Event, String>) -> BoxFuture<'static, Result<()>> {
        async move {
            let (headers, payload) = match &answer {
                Ok(event) => self.hub.live_writer().contents_of(event, Some(event.topic()))?,
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
