//! A client at the near end of the line: it does what a client of a real broker has to, save for its
//! flaw.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fabric_core::{
    Ability, Backend, Batch, Capabilities, Chunk, Confirms, Delivery, Error, ErrorKind, Event,
    Fabric, Group, Health, Nack, Notices, Outcomes, Receipt, Result, RetryClass, SettleError,
    Settled, Settler, SharedBackend, SubscribeOptions, Subscription, Support, forward,
};
use futures_core::Stream;
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::line::{Flaw, Line, State};

/// How long an answer is on its way.
const WAY: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Remote {
    inner: SharedBackend,
    line: Arc<Line>,
    closed: watch::Sender<bool>,
}

impl Remote {
    pub(crate) fn new(fabric: &Fabric, line: Arc<Line>) -> Self {
        Self { inner: Arc::clone(fabric.backend()), line, closed: watch::Sender::new(false) }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.line.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Backend for Remote {
    forward!(self.inner: info, replay, request_reply, groups, admin);

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities().with(Ability::Durable, Support::Native)
    }

    fn notices(&self) -> Notices {
        self.line.notices.listen()
    }

    fn try_submit(&self, batch: Batch) -> std::result::Result<Confirms, Batch> {
        Err(batch)
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        let line = &self.line;
        let count = batch.events.len();
        if line.has(Flaw::ConfirmsWhatIsNotSent) && !line.state.borrow().is_up() {
            return Ok(batch.confirm(|_| Ok(Receipt::unrouted())));
        }
        let mut closed = self.closed.subscribe();
        let before = tokio::select! {
            before = up(line) => before,
            _ = closed.wait_for(|closed| *closed) => {
                return Err(Error::new(ErrorKind::Closed, "the client is closed"));
            }
        };
        if line.has(Flaw::ResendsLate) && before.epoch > 0 && fastrand::u8(..20) == 0 {
            let inner = Arc::clone(&self.inner);
            return Ok(Confirms::pending(async move {
                sleep(Duration::from_millis(fastrand::u64(1..50))).await;
                match inner.submit(batch).await {
                    Ok(confirms) => confirms.await,
                    Err(error) => Outcomes::failed(count, &error),
                }
            }));
        }
        if before.forbidden {
            let hidden = line.has(Flaw::HidesRefusals);
            let kind = if hidden { ErrorKind::Backend } else { ErrorKind::Unauthorized };
            return Err(Error::new(kind, "the rights are gone").with_retry(RetryClass::Never));
        }
        if before.full {
            let full = Error::new(ErrorKind::Full, "the disk is full");
            return Err(full.with_retry(RetryClass::Safe));
        }
        let confirms = self.inner.submit(batch).await?;
        let line = Arc::clone(line);
        Ok(Confirms::pending(async move {
            sleep(WAY + before.slow).await;
            let outcomes = confirms.await;
            if line.state.borrow().epoch == before.epoch {
                up(&line).await;
                return outcomes;
            }
            // The answer was lost with the connection.
            if line.has(Flaw::WaitsForEver) {
                std::future::pending::<()>().await;
            }
            let known = line.has(Flaw::FailsWhatMayBeThere);
            let retry = if known { RetryClass::Safe } else { RetryClass::Ambiguous };
            let lost = Error::new(ErrorKind::Connect, "the answer was lost").with_retry(retry);
            Outcomes::failed(count, &lost)
        }))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        up(&self.line).await;
        let group = options.group.clone();
        let inner = self.inner.subscribe(options).await?;
        let definition = inner.definition().cloned();
        let mut closed = self.closed.subscribe();
        let closed = async move { drop(closed.wait_for(|closed| *closed).await) };
        let deliveries = deliveries(inner, Arc::clone(&self.line));
        let deliveries = deliveries.take_until(Box::pin(closed));
        let Some(group) = group else {
            return Ok(Subscription::live(
                deliveries.map(|item| item.map(|delivery| delivery.event().clone())),
            ));
        };
        Ok(as_group(deliveries, group, Arc::clone(&self.line), definition))
    }

    async fn health(&self) -> Health {
        if self.line.state.borrow().is_up() || self.line.has(Flaw::AlwaysWell) {
            return self.inner.health().await;
        }
        Health::down(Duration::ZERO, "the broker is away")
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        if self.line.has(Flaw::ClosesLate) {
            up(&self.line).await;
        }
        let _ = timeout(deadline, up(&self.line)).await;
        self.closed.send_replace(true);
        self.inner.close(deadline).await
    }
}

async fn up(line: &Line) -> State {
    let mut state = line.state.subscribe();
    let up = state.wait_for(State::is_up).await;
    up.map(|state| *state).unwrap_or_default()
}

/// What comes through the line.
fn deliveries(
    inner: Subscription,
    line: Arc<Line>,
) -> impl Stream<Item = Result<Delivery>> + Send + 'static {
    let epoch = line.state.borrow().epoch;
    unfold((inner, line, epoch, None), |(mut inner, line, epoch, fetched)| async move {
        let state = up(&line).await;
        let broke = state.epoch != epoch;
        if broke && line.has(Flaw::EndsSilently) {
            return None;
        }
        if broke && line.has(Flaw::ForgetsToResubscribe) {
            std::future::pending::<()>().await;
        }
        if broke && line.has(Flaw::RepeatsAnError) {
            let error = Error::new(ErrorKind::Connect, "the line broke");
            sleep(WAY).await;
            return Some((Err(error), (inner, line, epoch, fetched)));
        }
        if broke && line.has(Flaw::DropsWhatItFetched) {
            for _ in 0..2 {
                if let Ok(Some(Ok(lost))) = timeout(WAY, inner.recv()).await {
                    let _ = lost.ack().await;
                }
            }
        }
        let item = match fetched {
            Some(item) => item,
            None => inner.recv().await?,
        };
        sleep(WAY + state.slow).await;
        up(&line).await;
        Some((item, (inner, line, state.epoch, None)))
    })
}

/// As a member of a group, whose settlements go through the line too.
fn as_group(
    deliveries: impl Stream<Item = Result<Delivery>> + Send + 'static,
    group: Group,
    line: Arc<Line>,
    definition: Option<fabric_core::GroupDefinition>,
) -> Subscription {
    let shortened = Arc::clone(&line);
    let mut epoch = line.state.borrow().epoch;
    let chunks = deliveries.map(move |item| {
        let delivery = item?;
        let now = shortened.state.borrow().epoch;
        let cut = shortened.has(Flaw::CutsShort) && now != epoch;
        epoch = now;
        let event = if cut { cut_short(delivery.event())? } else { delivery.event().clone() };
        let attempt = delivery.attempt();
        let held = Arc::new(Mutex::new(Some(delivery)));
        Ok(Chunk::one(event).with_attempt(attempt).with_handle(held))
    });
    let subscription = Subscription::group(chunks, group, Arc::new(Far(line)));
    match definition {
        Some(definition) => subscription.with_definition(definition),
        None => subscription,
    }
}

fn cut_short(event: &Event) -> Result<Event> {
    let bytes = event.payload().bytes()?;
    let half = bytes.slice(..bytes.len() / 2);
    Event::of(event.clone()).bytes(half).build()
}

/// Settles at the far end of the line.
struct Far(Arc<Line>);

type Held = Mutex<Option<Delivery>>;

impl Far {
    fn settle<F>(
        &self,
        chunk: &Arc<Chunk>,
        act: impl FnOnce(Delivery) -> F + Send + 'static,
    ) -> Settled
    where
        F: Future<Output = std::result::Result<(), SettleError>> + Send + 'static,
    {
        let (line, chunk) = (Arc::clone(&self.0), Arc::clone(chunk));
        if line.has(Flaw::AcksWithoutAnswer) && !line.state.borrow().is_up() {
            return Settled::Done(Ok(()));
        }
        Settled::Pending(Box::pin(async move {
            let before = *line.state.borrow();
            sleep(WAY).await;
            let after = up(&line).await;
            if after.epoch != before.epoch {
                let lost = Error::new(ErrorKind::Connect, "the ack was lost with the connection");
                return Err(lost.with_retry(RetryClass::Ambiguous));
            }
            let held = chunk.handle::<Held>().expect("each chunk has its delivery");
            let Some(delivery) = held.lock().expect("nobody panics").take() else {
                return Err(Error::new(ErrorKind::StaleAck, "it was settled before"));
            };
            act(delivery).await.map_err(|failed| {
                *held.lock().expect("nobody panics") = Some(failed.delivery);
                failed.error
            })
        }))
    }
}

impl Settler for Far {
    fn ack(&self, chunk: &Arc<Chunk>, _: u64, _: bool) -> Settled {
        self.settle(chunk, |delivery| async { delivery.ack().await })
    }

    fn nack(&self, chunk: &Arc<Chunk>, _: u64, nack: &Nack) -> Settled {
        let nack = nack.clone();
        self.settle(chunk, move |delivery| async { delivery.nack(nack).await })
    }

    fn progress(&self, _: &Arc<Chunk>, _: u64) -> Settled {
        Settled::Done(Ok(()))
    }

    fn dropped(&self, chunk: &Arc<Chunk>, _: u64) {
        if let Some(held) = chunk.handle::<Held>() {
            drop(held.lock().expect("nobody panics").take());
        }
    }
}
