//! A layer that a case puts in the way of publishes, to see what a consumer makes of it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::failure::Verdict;
use super::trial::Trial;
use crate::backend::{Backend, SharedBackend};
use crate::batch::{Batch, Confirms, Outcomes};
use crate::event::Event;
use crate::layer::Layer;
use crate::options::SubscribeOptions;
use crate::subscription::Subscription;
use crate::{Error, ErrorKind, Result, RetryClass};

/// What happens to the events that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// They pass.
    None,
    /// They are refused, certainly not accepted.
    Refuse,
    /// They arrive, and nobody hears of it until this ends.
    Hold,
}

/// Harms the publishes of some events. Clones share everything.
#[derive(Clone)]
pub(crate) struct Tamper(Arc<Shared>);

struct Shared {
    about: fn(&Event) -> bool,
    harm: watch::Sender<Harm>,
    hit: watch::Sender<u64>,
}

impl Tamper {
    /// Harms the publishes of events for which `about` is true.
    pub(crate) fn new(harm: Harm, about: fn(&Event) -> bool) -> Self {
        Self(Arc::new(Shared { about, harm: watch::Sender::new(harm), hit: watch::Sender::new(0) }))
    }

    /// Harms nothing from now on, and lets go what it holds.
    pub(crate) fn heal(&self) {
        self.0.harm.send_replace(Harm::None);
    }

    /// Waits until it has harmed so many publishes.
    pub(crate) async fn hits(&self, t: &Trial, count: u64) -> Verdict {
        let mut hit = self.0.hit.subscribe();
        let reached = async { hit.wait_for(|hits| *hits >= count).await.is_ok() };
        t.within("a publish that is harmed", reached).await.map(drop)
    }
}

impl Layer for Tamper {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        Ok(Arc::new(Tampered { inner, shared: Arc::clone(&self.0) }))
    }
}

struct Tampered {
    inner: SharedBackend,
    shared: Arc<Shared>,
}

impl Tampered {
    fn harm(&self, batch: &Batch) -> Harm {
        let harm = *self.shared.harm.borrow();
        if harm == Harm::None || !batch.events.iter().any(self.shared.about) {
            return Harm::None;
        }
        harm
    }

    fn hit(&self) {
        self.shared.hit.send_modify(|hits| *hits += 1);
    }
}

impl Backend for Tampered {
    crate::forward!(self.inner: info, capabilities, notices, replay, request_reply, groups, admin,
        health, close);

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if self.harm(&batch) != Harm::None {
            return Err(batch);
        }
        self.inner.try_submit(batch)
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        let count = batch.events.len();
        match self.harm(&batch) {
            Harm::None => self.inner.submit(batch).await,
            Harm::Refuse => {
                self.hit();
                let error = Error::new(ErrorKind::Connect, "refused on purpose, by the case");
                let error = error.with_retry(RetryClass::Safe);
                Ok(Confirms::ready(Outcomes::failed(count, &error)))
            }
            Harm::Hold => {
                let confirms = self.inner.submit(batch).await?;
                let mut harm = self.shared.harm.subscribe();
                let hit = Arc::clone(&self.shared);
                Ok(Confirms::pending(async move {
                    let outcomes = confirms.await;
                    hit.hit.send_modify(|hits| *hits += 1);
                    let _ = harm.wait_for(|harm| *harm == Harm::None).await;
                    outcomes
                }))
            }
        }
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        self.inner.subscribe(options).await
    }
}

impl fmt::Debug for Tampered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tampered").field("inner", &self.inner).finish_non_exhaustive()
    }
}
