//! What all parts of one client share.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use fabric_core::{Capabilities, Group, Result};
use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use tokio::task::{AbortHandle, JoinSet};

use crate::config::NatsConfig;
use crate::connection::Link;
use crate::draft::Drafts;
use crate::error;
use crate::layout::Layout;
use crate::line::Line;
use crate::member::Member;
use crate::publish::Window;
use crate::purged::Purged;
use crate::read::Decoder;
use crate::streams::Abilities;
use crate::target::Targets;

/// How long a member that left may still give back.
const FINISH: Duration = Duration::from_secs(2);

/// What the server and its streams can do, and what follows from that for each publish.
struct Able {
    abilities: Abilities,
    claims: Capabilities,
}

/// One client: its link, its streams, what it publishes, and who reads.
pub(crate) struct Hub {
    pub(crate) config: Arc<NatsConfig>,
    pub(crate) layout: Layout,
    pub(crate) link: Link,
    pub(crate) window: Window,
    /// Who waits to publish.
    pub(crate) line: Line,
    pub(crate) targets: Targets,
    /// Headers that events have in common: of those that streams keep, and of the others.
    pub(crate) drafts: [Drafts; 2],
    /// Which life of each stream it is.
    lives: Vec<AtomicU64>,
    able: RwLock<Able>,
    members: Mutex<Vec<Weak<Member>>>,
    /// What members that left still give back.
    stragglers: Mutex<JoinSet<()>>,
    pub(crate) purged: Mutex<Purged>,
    /// Reads answers to requests.
    pub(crate) answers: Mutex<Decoder>,
    /// How many of them came late.
    pub(crate) late: Arc<AtomicU64>,
    closing: AtomicBool,
    /// Rings when the client closes.
    pub(crate) closed: tokio::sync::watch::Sender<bool>,
}

impl Hub {
    pub(crate) fn new(config: NatsConfig) -> Self {
        let config = Arc::new(config);
        let layout = Layout::new(&config);
        Self {
            lives: layout.streams.iter().map(|_| AtomicU64::new(0)).collect(),
            layout,
            link: Link::new(Arc::clone(&config)),
            window: Window::new(&config),
            line: Line::default(),
            targets: Targets::default(),
            drafts: Default::default(),
            able: RwLock::new(Able { abilities: Abilities::default(), claims: Capabilities::NONE }),
            members: Mutex::default(),
            stragglers: Mutex::default(),
            purged: Mutex::default(),
            answers: Mutex::new(Decoder::new(config.profile)),
            late: Arc::default(),
            closing: AtomicBool::new(false),
            closed: tokio::sync::watch::Sender::new(false),
            config,
        }
    }

    /// Which life of a stream it is, as far as is known.
    pub(crate) fn life(&self, stream: usize) -> u64 {
        self.lives[stream].load(Ordering::Acquire)
    }

    /// Notes which life it is; returns the one before, if it is another.
    pub(crate) fn set_life(&self, stream: usize, life: u64) -> Option<u64> {
        let before = self.lives[stream].swap(life, Ordering::AcqRel);
        (before != 0 && before != life).then_some(before)
    }

    pub(crate) fn abilities(&self) -> Abilities {
        self.able.read().unwrap_or_else(PoisonError::into_inner).abilities
    }

    /// What this client can do.
    pub(crate) fn claims(&self) -> Capabilities {
        self.able.read().unwrap_or_else(PoisonError::into_inner).claims
    }

    /// Notes what the server and its streams can do.
    pub(crate) fn set_abilities(&self, abilities: Abilities) {
        let claims = self.capabilities(&abilities);
        *self.able.write().unwrap_or_else(PoisonError::into_inner) = Able { abilities, claims };
    }

    /// # Errors
    /// `Closed`.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closing() { Err(error::closed()) } else { Ok(()) }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Stops intake; `false` if it was stopped already.
    pub(crate) fn begin_close(&self) -> bool {
        let first = !self.closing.swap(true, Ordering::SeqCst);
        if first {
            self.closed.send_replace(true);
        }
        first
    }

    pub(crate) fn enlist(&self, member: &Arc<Member>) {
        let mut members = self.lock_members();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(member));
    }

    /// The members of groups that this client has.
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.lock_members().iter().filter_map(Weak::upgrade).collect()
    }

    /// Its members of one group.
    pub(crate) fn members_of(&self, group: &Group) -> Vec<Arc<Member>> {
        let mut members = self.members();
        members.retain(|member| member.group() == group);
        members
    }

    /// Lets what a member still gives back come to its end; it ends with the client.
    pub(crate) fn finish(&self, work: BoxFuture<'static, ()>) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let mut stragglers = self.stragglers.lock().unwrap_or_else(PoisonError::into_inner);
        while stragglers.try_join_next().is_some() {}
        stragglers.spawn(async move {
            let _ = tokio::time::timeout(FINISH, work).await;
        });
    }

    fn lock_members(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("link", &self.link).finish_non_exhaustive()
    }
}

/// What a future brings that needs no waiting. The task's budget, which makes it wait now and then so
/// that others have their turn, is left out of it: `None` means that it would really have to wait.
pub(crate) fn at_once<F: Future>(work: F) -> Option<F::Output> {
    tokio::task::coop::unconstrained(work).now_or_never()
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
