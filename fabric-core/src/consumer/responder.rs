//! Responders written like consumers: a handler's return value is the reply.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::handler::{Context, HandlerResult, Shared, panic_text};
use super::routes::{Takes, route};
use crate::event::{Event, IntoEvent as _};
use crate::fabric::{Fabric, ResponderBuilder};
use crate::group::Group;
use crate::pattern::Pattern;
use crate::patterns::Patterns;
use crate::request::{Request, Requests};
use crate::typed::{Typed, TypedRequest};
use crate::{Error, ErrorKind, Result};

/// How many requests of one responder are worked on at once unless told otherwise.
const CONCURRENCY: usize = 16;

type Answer = BoxFuture<'static, Result<Event, String>>;

type Call = Arc<dyn Fn(&Event, Context) -> Result<Answer> + Send + Sync>;

/// A handler of one type of request.
pub(crate) struct Answerer {
    takes: Takes,
    call: Call,
}

impl ResponderBuilder {
    /// Answers requests of type `T`: what the handler returns is the reply, and its error reaches
    /// the caller as `Remote`.
    pub fn on<T, F, Fut>(self, handler: F) -> ResponderService
    where
        T: TypedRequest,
        F: FnOnce(Typed<T>, Context) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult<T::Reply>> + Send + 'static,
    {
        let (fabric, name) = self.into_parts();
        ResponderService {
            fabric,
            name,
            answerers: Vec::new(),
            concurrency: CONCURRENCY,
            error: None,
        }
        .on(handler)
    }
}

/// A responder in the making; see [`Fabric::responder`].
#[must_use = "a responder answers once it has been started"]
pub struct ResponderService {
    fabric: Fabric,
    name: Result<Group>,
    answerers: Vec<Answerer>,
    concurrency: usize,
    error: Option<Error>,
}

impl ResponderService {
    /// Answers requests of type `T` too.
    pub fn on<T, F, Fut>(mut self, handler: F) -> Self
    where
        T: TypedRequest,
        F: FnOnce(Typed<T>, Context) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult<T::Reply>> + Send + 'static,
    {
        let call = move |event: &Event, context: Context| -> Result<Answer> {
            let request = event.decode::<T>()?;
            let answer = (handler.clone())(request, context);
            Ok(Box::pin(async move {
                let reply = answer.await.map_err(|error| error.chain())?;
                reply.into_event().map_err(|error| format!("{error:#}"))
            }))
        };
        match Pattern::new(T::PATTERN) {
            Ok(pattern) => {
                let call = Arc::new(call);
                let takes = Takes::typed(pattern, T::TYPE);
                self.answerers.push(Answerer { takes, call });
            }
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
        self
    }

    /// Works on at most so many requests at once; 16 unless told otherwise.
    pub const fn concurrency(mut self, requests: usize) -> Self {
        self.concurrency = requests;
        self
    }

    /// Registers and begins to answer.
    ///
    /// # Errors
    /// `Config` for a concurrency of zero, and as [`ResponderBuilder::serve`].
    ///
    /// # Cancel safety
    /// No responder stays behind.
    pub async fn start(self) -> Result<Responder> {
        if let Some(error) = self.error {
            return Err(error.with_operation("respond"));
        }
        if self.concurrency == 0 {
            let text = "a responder of `concurrency` 0 would never answer";
            return Err(Error::new(ErrorKind::Config, text).with_operation("respond"));
        }
        let name = self.name?;
        let patterns =
            Patterns::new(self.answerers.iter().map(|answerer| answerer.takes.pattern().clone()))?;
        let requests = self.fabric.responder(&name).serve(patterns).await?;
        let shared = Arc::new(Shared {
            state: (),
            fabric: self.fabric,
            group: name.clone(),
            draining: AtomicBool::new(false),
        });
        let (stop, stopped) = watch::channel(false);
        let task =
            tokio::spawn(answer_all(requests, self.answerers, shared, self.concurrency, stopped));
        Ok(Responder { name, stop, task })
    }
}

impl fmt::Debug for ResponderService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponderService").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A responder at work. Dropping it takes it away; [`drain`](Self::drain) lets it finish.
#[derive(Debug)]
pub struct Responder {
    name: Group,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Responder {
    /// The name under which it shares requests.
    #[must_use]
    pub fn name(&self) -> &Group {
        &self.name
    }

    /// Takes no more requests, and answers those it has, `within` that time.
    ///
    /// # Errors
    /// `Timeout` where requests stay unanswered.
    ///
    /// # Cancel safety
    /// Those that are not answered yet stay unanswered.
    pub async fn drain(mut self, within: Duration) -> Result<()> {
        self.stop.send_replace(true);
        match tokio::time::timeout(within, &mut self.task).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("the responder `{}` did not finish within {within:?}", self.name),
            )),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_all(
    mut requests: Requests,
    answerers: Vec<Answerer>,
    shared: Arc<Shared<()>>,
    concurrency: usize,
    mut stopped: watch::Receiver<bool>,
) {
    let mut running: JoinSet<()> = JoinSet::new();
    loop {
        while running.len() >= concurrency {
            running.join_next().await;
        }
        let stop = pin!(stopped.wait_for(|stopped| *stopped));
        let next = pin!(requests.recv());
        match select(stop, next).await {
            Either::Right((Some(Ok(request)), _)) => {
                let context = Context::new(Arc::clone(&shared), None, 1);
                let takers = answerers.iter().map(|answerer| &answerer.takes);
                let index = route(takers, request.event());
                let call = index.map(|index| Arc::clone(&answerers[index].call));
                running.spawn(answer(request, call, context));
                while running.try_join_next().is_some() {}
            }
            Either::Right((Some(Err(error)), _)) => {
                tracing::warn!(%error, "a request could not be received");
            }
            Either::Right((None, _)) | Either::Left(_) => break,
        }
    }
    shared.draining.store(true, Ordering::Release);
    drop(requests);
    while running.join_next().await.is_some() {}
}

async fn answer(request: Request, call: Option<Call>, context: Context) {
    let event = request.event().clone();
    let answered = async {
        let Some(call) = call else {
            return Err(format!("no handler takes requests of type `{}`", event.event_type()));
        };
        call(&event, context).map_err(|error| format!("{error:#}"))?.await
    };
    let answer = AssertUnwindSafe(answered).catch_unwind().await;
    let sent = match answer {
        Ok(Ok(reply)) => request.reply(reply).await,
        Ok(Err(why)) => request.fail(why).await,
        Err(panic) => request.fail(panic_text(&*panic)).await,
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "an answer came too late");
    }
}
