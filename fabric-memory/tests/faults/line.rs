//! The line between clients and memory, what it can suffer, and the flaws that clients can have.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fabric_core::conformance::{
    BrokerCtl, Child, ChildCtl, ChildJob, DiskCtl, Fault, FaultCtl, Links, RightsCtl,
};
use fabric_core::{Error, ErrorKind, Fabric, NoticeKind, NoticeSender, Result};
use fabric_memory::Memory;
use futures_core::future::BoxFuture;
use futures_util::future::ready;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::remote::Remote;

/// What a client can do wrong when its link or its broker fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// While the broker is away, publishes are confirmed and forgotten.
    ConfirmsWhatIsNotSent,
    /// A publish whose answer was lost is reported as certainly not accepted.
    FailsWhatMayBeThere,
    /// A publish whose answer was lost never resolves.
    WaitsForEver,
    /// Subscriptions are not made again after an outage.
    ForgetsToResubscribe,
    /// Subscriptions end after an outage without a word.
    EndsSilently,
    /// What a member had fetched when the link broke is settled unseen.
    DropsWhatItFetched,
    /// What comes first after an outage is cut short.
    CutsShort,
    /// Errors without an end come out of subscriptions after an outage.
    RepeatsAnError,
    /// Nobody is told of an outage.
    TellsNobody,
    /// Connects as often as it can.
    ConnectsWithoutPause,
    /// Gives up a link for being slow.
    GivesUpSlowLinks,
    /// Leaves a connection behind at each reset.
    LeaksConnections,
    /// Does not give up a link through which nothing comes.
    KeepsDeadLinks,
    /// An ack is `Ok` although nobody answered it.
    AcksWithoutAnswer,
    /// Says that it is well while the broker is away.
    AlwaysWell,
    /// Closing waits for the broker, however long it is away.
    ClosesLate,
    /// Events are resent behind their successors.
    ResendsLate,
    /// The rights' refusal is passed on as any failure.
    HidesRefusals,
}

impl Flaw {
    /// Each, and the case that is there for it.
    pub(crate) const ALL: &'static [(Self, &'static str)] = &[
        (Self::ConfirmsWhatIsNotSent, "F2"),
        (Self::FailsWhatMayBeThere, "F3a"),
        (Self::WaitsForEver, "F3a"),
        (Self::ForgetsToResubscribe, "F1b"),
        (Self::EndsSilently, "F8"),
        (Self::DropsWhatItFetched, "F4a"),
        (Self::CutsShort, "F6"),
        (Self::RepeatsAnError, "F1a"),
        (Self::TellsNobody, "F1b"),
        (Self::ConnectsWithoutPause, "F3b"),
        (Self::GivesUpSlowLinks, "F5"),
        (Self::LeaksConnections, "F3a"),
        (Self::KeepsDeadLinks, "F4a"),
        (Self::AcksWithoutAnswer, "A6c"),
        (Self::AlwaysWell, "F1a"),
        (Self::ClosesLate, "L1e"),
        (Self::ResendsLate, "O4"),
        (Self::HidesRefusals, "F9"),
    ];
}

/// How the line is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    /// How often it broke.
    pub(crate) epoch: u64,
    /// The broker is away, or hangs.
    away: bool,
    /// Nothing gets through.
    pub(crate) swallows: bool,
    /// Nobody is let in.
    refuses: bool,
    pub(crate) full: bool,
    pub(crate) forbidden: bool,
    pub(crate) slow: Duration,
}

impl State {
    pub(crate) const fn is_up(&self) -> bool {
        !self.away && !self.swallows && !self.refuses
    }
}

/// Memory, and how to get there.
#[derive(Debug)]
pub(crate) struct Line {
    memory: Memory,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) notices: NoticeSender,
    pub(crate) clients: Arc<AtomicUsize>,
    opened: AtomicU64,
    leaked: AtomicUsize,
    refused_since: Mutex<Option<Instant>>,
}

impl Line {
    pub(crate) fn new(memory: Memory, flaw: Option<Flaw>) -> Self {
        Self {
            memory,
            flaw,
            state: watch::Sender::new(State::default()),
            notices: NoticeSender::new(),
            clients: Arc::default(),
            opened: AtomicU64::new(0),
            leaked: AtomicUsize::new(0),
            refused_since: Mutex::new(None),
        }
    }

    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub(crate) async fn connect(self: &Arc<Self>) -> Result<Fabric> {
        if self.state.borrow().away {
            return Err(Error::new(ErrorKind::Connect, "the broker is away"));
        }
        self.clients.fetch_add(1, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Fabric::new(Remote::new(&Fabric::new(self.memory.another()), Arc::clone(self))))
    }

    /// Changes the line, and tells clients what they have to notice.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let before = *self.state.borrow();
        self.state.send_modify(change);
        let after = *self.state.borrow();
        let tell = |kind| {
            if !self.has(Flaw::TellsNobody) {
                self.notices.send(kind);
            }
        };
        if before.is_up() && !after.is_up() {
            tell(NoticeKind::Lost { error: Error::new(ErrorKind::Connect, "the line broke") });
        } else if !before.is_up() && after.is_up() {
            tell(NoticeKind::Restored);
        }
        let broken = after.epoch - before.epoch;
        let given_up = after.swallows && !before.swallows && !self.has(Flaw::KeepsDeadLinks);
        let slow = after.slow > before.slow && self.has(Flaw::GivesUpSlowLinks);
        if broken > 0 || given_up || slow {
            self.opened.fetch_add(self.clients.load(Ordering::Relaxed) as u64, Ordering::Relaxed);
        }
        if broken > 0 && self.has(Flaw::LeaksConnections) {
            self.leaked.fetch_add(1, Ordering::Relaxed);
        }
        *self.refused_since.lock().unwrap() = after.refuses.then(Instant::now);
    }

    fn done<'a>(&self, change: impl FnOnce(&mut State)) -> BoxFuture<'a, Result<()>> {
        self.change(change);
        Box::pin(ready(Ok(())))
    }

    /// How often clients that wait as they should have knocked in vain.
    fn tries(&self) -> u64 {
        let Some(since) = *self.refused_since.lock().unwrap() else { return 0 };
        let pause = if self.has(Flaw::ConnectsWithoutPause) { 1 } else { 300 };
        let each = since.elapsed().as_millis() as u64 / pause;
        each * self.clients.load(Ordering::Relaxed) as u64
    }
}

/// All that can be done to a line.
#[derive(Debug)]
pub(crate) struct Tools(pub(crate) Arc<Line>);

impl BrokerCtl for Tools {
    fn stop(&self) -> BoxFuture<'_, Result<()>> {
        self.0.done(|state| {
            state.away = true;
            state.epoch += 1;
        })
    }

    fn kill(&self) -> BoxFuture<'_, Result<()>> {
        self.stop()
    }

    fn start(&self) -> BoxFuture<'_, Result<()>> {
        self.0.done(|state| state.away = false)
    }

    fn pause(&self) -> BoxFuture<'_, Result<()>> {
        self.0.done(|state| state.away = true)
    }

    fn resume(&self) -> BoxFuture<'_, Result<()>> {
        BrokerCtl::start(self)
    }

    fn wipe(&self) -> BoxFuture<'_, Result<()>> {
        // It forgets nothing: what clients have to do again is the same.
        self.0.change(|state| {
            state.away = true;
            state.epoch += 1;
        });
        BrokerCtl::start(self)
    }
}

impl FaultCtl for Tools {
    fn open(&self) -> BoxFuture<'_, Result<Fabric>> {
        Box::pin(self.0.connect())
    }

    fn inflict(&self, fault: Fault) -> BoxFuture<'_, Result<()>> {
        self.0.done(|state| match fault {
            Fault::Swallow(_) => state.swallows = true,
            Fault::Refuse => {
                state.refuses = true;
                state.epoch += 1;
            }
            Fault::Slow { latency, .. } => state.slow = latency,
            _ => state.epoch += 1,
        })
    }

    fn heal(&self) -> BoxFuture<'_, Result<()>> {
        self.0.done(|state| {
            state.epoch += u64::from(state.swallows);
            state.swallows = false;
            state.refuses = false;
            state.slow = Duration::ZERO;
        })
    }

    fn links(&self) -> Links {
        let open = self.0.clients.load(Ordering::Relaxed) + self.0.leaked.load(Ordering::Relaxed);
        let opened = self.0.opened.load(Ordering::Relaxed) + self.0.tries();
        Links::new(open, opened, 0)
    }
}

impl DiskCtl for Tools {
    fn fill(&self) -> BoxFuture<'_, Result<()>> {
        self.0.done(|state| state.full = true)
    }

    fn free(&self) -> BoxFuture<'_, Result<()>> {
        self.0.done(|state| state.full = false)
    }
}

impl RightsCtl for Tools {
    fn open(&self) -> BoxFuture<'_, Result<Fabric>> {
        Box::pin(self.0.connect())
    }

    fn revoke(&self) -> BoxFuture<'_, Result<()>> {
        self.0.done(|state| state.forbidden = true)
    }

    fn grant(&self) -> BoxFuture<'_, Result<()>> {
        self.0.done(|state| state.forbidden = false)
    }
}

impl ChildCtl for Tools {
    fn start<'a>(&'a self, job: &'a ChildJob) -> BoxFuture<'a, Result<Box<dyn Child>>> {
        Box::pin(async {
            // Nobody but the task has the client: when it is aborted, that is a crash.
            let fabric = self.0.connect().await?;
            let subscribe = fabric.subscribe(&job.pattern).group(&job.group).ack_wait(job.ack_wait);
            let mut subscription = subscribe.await?;
            let (done, mut told) = watch::channel(Done::default());
            let (ack, take) = (job.ack, job.take);
            let task = tokio::spawn(async move {
                let _client = fabric;
                let mut held = Vec::new();
                while let Some(item) = subscription.recv().await {
                    let Ok(delivery) = item else { continue };
                    let id = delivery.id().to_string();
                    done.send_modify(|done| done.received.push(id.clone()));
                    if done.borrow().acked.len() == ack {
                        held.push(delivery);
                    } else if delivery.ack().await.is_ok() {
                        done.send_modify(|done| done.acked.push(id));
                    }
                }
            });
            let child = Task { task, done: told.clone() };
            if !job.is_endless() {
                let ready = told.wait_for(|done| done.received.len() == take).await;
                ready.map_err(|_| Error::new(ErrorKind::Backend, "a child ended"))?;
            }
            Ok(Box::new(child) as Box<dyn Child>)
        })
    }
}

#[derive(Debug, Default)]
struct Done {
    received: Vec<String>,
    acked: Vec<String>,
}

/// A consumer in a task of its own, which is what a process is here.
struct Task {
    task: JoinHandle<()>,
    done: watch::Receiver<Done>,
}

impl Child for Task {
    fn received(&self) -> Vec<String> {
        self.done.borrow().received.clone()
    }

    fn acked(&self) -> Vec<String> {
        self.done.borrow().acked.clone()
    }

    fn kill(&mut self) -> BoxFuture<'_, Result<()>> {
        self.task.abort();
        Box::pin(async {
            let _ = (&mut self.task).await;
            Ok(())
        })
    }
}
