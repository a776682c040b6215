//! Requests and answers, by way of the broker, which knows who answers what.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use fabric_core::wire::block::Kind;
use fabric_core::{
    Error, ErrorKind, Event, Replier, Request, Requests, RespondOptions, Result, RetryClass,
};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::connection::{Client, Held};
use crate::control::{self, Registration};
use crate::error::closed;

/// The most requests that wait for one responder.
const BOUND: usize = 1024;

/// A request, as it came for one responder.
#[derive(Debug)]
pub(crate) struct Requested {
    pub(crate) caller: Uuid,
    pub(crate) number: u64,
    pub(crate) event: Result<Event>,
}

/// Takes an answer's place away when nobody waits any longer.
struct Waits<'a>(&'a Client, u64);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.receiver.forget_answer(self.1);
    }
}

impl Client {
    pub(crate) async fn ask(&self, request: Event, timeout: Duration) -> Result<Event> {
        self.check_open()?;
        let until = Instant::now() + timeout;
        let topic = request.topic().clone();
        let number = self.next_number();
        let waiting = self.receiver.await_answer(number);
        let _waits = Waits(self, number);
        let asked = async {
            let payload = request.payload().bytes()?;
            let stamp = (Kind::Request, number);
            let way = control::REQUEST;
            self.publisher.send_control_until(until, way, stamp, Some(&request), &payload).await?;
            let late = |_| Error::new(ErrorKind::Timeout, format!("no answer within {timeout:?}"));
            match tokio::time::timeout_at(until, waiting).await.map_err(late)? {
                Ok(answer) => answer,
                Err(_) => Err(closed()),
            }
        };
        asked.await.map_err(|error| error.with("topic", topic))
    }
}

impl Held {
    pub(crate) async fn answer(&self, options: RespondOptions) -> Result<Requests> {
        let client = self.client();
        client.check_open()?;
        let id = Uuid::from_u128(fastrand::u128(..));
        let (sender, requests) = mpsc::channel(BOUND);
        client.receiver.add_responder(id, sender);
        let registrations: Vec<String> = options
            .patterns
            .iter()
            .map(|pattern| Registration {
                client: client.publisher.id,
                id,
                name: options.name.clone(),
                pattern: pattern.clone(),
            })
            .map(|registration| registration.write())
            .collect();
        let responder = Responder { held: self.clone(), id, registrations };
        client.receiver.with_socket(|socket| {
            responder.registrations.iter().try_for_each(|it| socket.set_subscribe(it.as_bytes()))
        })?;
        client.barrier(None, client.config.connect_timeout).await?;
        Ok(Requests::new(Incoming { requests, responder }))
    }
}

/// What a responder has registered; it is taken back with it.
struct Responder {
    held: Held,
    id: Uuid,
    registrations: Vec<String>,
}

impl Drop for Responder {
    fn drop(&mut self) {
        let receiver = &self.held.client().receiver;
        receiver.remove_responder(self.id);
        let _ = receiver.with_socket(|socket| {
            self.registrations.iter().try_for_each(|it| socket.set_unsubscribe(it.as_bytes()))
        });
    }
}

struct Incoming {
    requests: mpsc::Receiver<Requested>,
    responder: Responder,
}

impl Stream for Incoming {
    type Item = Result<Request>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.requests.poll_recv(cx).map(|requested| {
            requested.map(|Requested { caller, number, event }| {
                let held = self.responder.held.clone();
                event.map(|event| Request::new(event, Answer { held, caller, number }))
            })
        })
    }
}

/// Sends an answer to whoever asked.
struct Answer {
    held: Held,
    caller: Uuid,
    number: u64,
}

impl Replier for Answer {
    fn reply(self: Box<Self>, answer: Result<Event, String>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let client = self.held.client();
            client.check_open()?;
            let until = Instant::now() + client.config.full_wait;
            let way = control::numbered(control::REPLY, self.caller);
            let (kind, event, payload) = match &answer {
                Ok(event) => (Kind::Reply, Some(event), event.payload().bytes()?),
                Err(why) => (Kind::Failure, None, bytes::Bytes::copy_from_slice(why.as_bytes())),
            };
            if payload.len() > client.config.max_payload {
                let text = format!("the answer has {} bytes", payload.len());
                return Err(Error::new(ErrorKind::TooLarge, text).with_retry(RetryClass::Never));
            }
            let stamp = (kind, self.number);
            client.publisher.send_control_until(until, &way, stamp, event, &payload).await
        })
    }
}
