//! Requests inside a process: straight to one responder, and straight back.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fabric_core::{
    Error, ErrorKind, Event, Group, Patterns, Replier, Request, Requests, RespondOptions, Result,
    RetryClass, remote_error,
};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use tokio::sync::oneshot;

use crate::bug::Bug;
use crate::client::Client;

/// The most requests that wait for one responder.
const BOUND: usize = 1024;

/// Who answers what. Responders of one name share requests in turn.
#[derive(Debug, Default)]
pub(crate) struct Responders {
    list: Vec<Responder>,
    next: u64,
    turn: usize,
}

#[derive(Debug)]
struct Responder {
    id: u64,
    name: Group,
    patterns: Patterns,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Request>,
    waker: Option<Waker>,
}

impl Client {
    pub(crate) async fn ask(&self, request: Event, timeout: Duration) -> Result<Event> {
        self.check_open()?;
        let topic = request.topic().clone();
        let (answer, answered) = oneshot::channel();
        let sent = self
            .instance
            .responders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(request, answer);
        let silent = self.instance.has_bug(Bug::NoRespondersSilent);
        let ended = async {
            match sent {
                Err(error) if !(silent && error.kind() == ErrorKind::NoResponders) => Err(error),
                Err(_) => std::future::pending().await,
                Ok(()) => match answered.await {
                    Ok(Ok(reply)) => Ok(reply),
                    Ok(Err(why)) => Err(remote_error(&why)),
                    // The responder let go of it: the same as one that never answers elsewhere.
                    Err(_) => std::future::pending().await,
                },
            }
        };
        let limit = tokio::time::timeout(timeout, ended).await;
        limit
            .unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Timeout, format!("no answer within {timeout:?}")))
            })
            .map_err(|error| error.with("topic", topic))
    }

    pub(crate) fn answer(self: &Arc<Self>, options: RespondOptions) -> Result<Requests> {
        self.check_open()?;
        let queue = Arc::new(Mutex::new(Queue::default()));
        let mut responders =
            self.instance.responders.lock().unwrap_or_else(PoisonError::into_inner);
        responders.next += 1;
        let id = responders.next;
        responders.list.push(Responder {
            id,
            name: options.name,
            patterns: options.patterns,
            queue: Arc::clone(&queue),
        });
        drop(responders);
        Ok(Requests::new(Incoming { client: Arc::clone(self), id, queue }))
    }

    fn retire(&self, id: u64) {
        let mut responders =
            self.instance.responders.lock().unwrap_or_else(PoisonError::into_inner);
        responders.list.retain(|responder| responder.id != id);
    }
}

impl Responders {
    /// Gives the request to one responder that has room.
    fn send(
        &mut self,
        request: Event,
        answer: oneshot::Sender<Result<Event, String>>,
    ) -> Result<()> {
        let able: Vec<&Responder> = self
            .list
            .iter()
            .filter(|responder| responder.patterns.matches(request.topic()))
            .collect();
        if able.is_empty() {
            return Err(Error::new(
                ErrorKind::NoResponders,
                format!("nobody answers requests on `{}`", request.topic()),
            ));
        }
        self.turn = self.turn.wrapping_add(1);
        for n in 0..able.len() {
            let responder = able[(self.turn + n) % able.len()];
            let mut queue = responder.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.waiting.len() < BOUND {
                queue.waiting.push_back(Request::new(request, Answer(answer)));
                if let Some(waker) = queue.waker.take() {
                    waker.wake();
                }
                return Ok(());
            }
        }
        let names: Vec<&str> = able.iter().map(|responder| responder.name.as_str()).collect();
        Err(Error::new(
            ErrorKind::Full,
            format!("{BOUND} requests wait for each responder on `{}`", request.topic()),
        )
        .with_retry(RetryClass::Safe)
        .with("responders", names.join(", ")))
    }
}

struct Answer(oneshot::Sender<Result<Event, String>>);

impl Replier for Answer {
    fn reply(self: Box<Self>, answer: Result<Event, String>) -> BoxFuture<'static, Result<()>> {
        let sent = self.0.send(answer).map_err(|_| {
            Error::new(ErrorKind::Timeout, "the caller waits for this answer no longer")
                .with_retry(RetryClass::Never)
        });
        Box::pin(std::future::ready(sent))
    }
}

/// The requests of one responder; dropping it takes the responder away.
struct Incoming {
    client: Arc<Client>,
    id: u64,
    queue: Arc<Mutex<Queue>>,
}

impl Stream for Incoming {
    type Item = Result<Request>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(request) = queue.waiting.pop_front() {
            return Poll::Ready(Some(Ok(request)));
        }
        if self.client.is_closed() {
            return Poll::Ready(None);
        }
        queue.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.client.retire(self.id);
    }
}

impl Client {
    /// Ends the responders of this client.
    pub(crate) fn end_responders(&self) {
        let responders = self.instance.responders.lock().unwrap_or_else(PoisonError::into_inner);
        for responder in &responders.list {
            let mut queue = responder.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waker) = queue.waker.take() {
                waker.wake();
            }
        }
    }
}
