//! Members of groups: what the user's side and the member's own thread share.

mod context;
mod hold;
mod runner;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use fabric_core::{
    AckMode, Chunk, Error, ErrorKind, Group, GroupDefinition, Result, Source, SubscribeOptions,
    Subscription,
};
use futures_core::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::config::RetryMode;
use crate::connection::{Connection, Watcher, closed, lock};
use crate::definition::Known;
use crate::error::NAME;
use crate::feed::Feed;
use crate::settle::stale;
use crate::subscribe::Open;
use hold::Hold;
use runner::Runner;

/// How long joining may take: others finish what they hold before they let go.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);

/// A member of a group, as its settler, its subscription and its thread share it.
pub(crate) struct Member {
    connection: Arc<Connection>,
    group: Group,
    confirmed: bool,
    prefetch: usize,
    feed: Feed,
    hold: Mutex<Hold>,
    known: Mutex<Arc<Known>>,
    /// The user is not reading; its partitions went to others until it does.
    away: AtomicBool,
    /// Nothing more is handed out, and the member leaves once nothing is held.
    leaving: AtomicBool,
    /// The member leaves whatever is held.
    abandoned: AtomicBool,
    /// Whether the thread has ended.
    ended: watch::Sender<bool>,
}

impl Connection {
    /// Joins a group, which is made if it is not there.
    ///
    /// # Errors
    /// `GroupMismatch`, `NotFound` for a position, `Connect`, `Timeout`, `Unauthorized`, `Closed`.
    ///
    /// # Cancel safety
    /// The group may have been made; no member stays behind.
    pub(crate) async fn join(self: &Arc<Self>, options: SubscribeOptions) -> Result<Subscription> {
        let Some(group) = options.group.clone() else { return self.subscribe(options).await };
        let known = self.admit(&group, &options).await?;
        let definition = known.definition.clone().ok_or_else(|| gone(&group))?;
        let watcher = self.watch();
        let member = Arc::new(Member {
            connection: Arc::clone(self),
            group,
            confirmed: options.ack_mode == AckMode::Confirmed,
            prefetch: options.prefetch.unwrap_or(self.config.prefetch),
            feed: Feed::default(),
            hold: Mutex::new(Hold::new(definition.ack_wait)),
            known: Mutex::new(Arc::new(known)),
            away: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        });
        // Dropped midway, this leaves.
        let source = MemberSource { member: Arc::clone(&member), ended: None, _watcher: watcher };
        let (joined, hears) = oneshot::channel();
        let (shared, runtime) = (Arc::clone(&member), Handle::current());
        self.blocking(move |_| Runner::spawn(&shared, joined, runtime)).await?;
        let open: Arc<dyn Open> = Arc::clone(&member) as Arc<dyn Open>;
        self.enlist(Arc::downgrade(&open));
        drop(open);
        let outcome = tokio::time::timeout(JOIN_PATIENCE, hears).await;
        outcome
            .unwrap_or_else(|_| {
                let text = format!("the group did not take the member in within {JOIN_PATIENCE:?}");
                Ok(Err(Error::new(ErrorKind::Timeout, text).with_backend(NAME)))
            })
            .unwrap_or_else(|_| Err(closed()))?;
        self.check_open()?;
        Ok(Subscription::from_source(source).with_definition(definition))
    }
}

impl Member {
    pub(crate) const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) const fn group(&self) -> &Group {
        &self.group
    }

    pub(crate) fn retry(&self) -> RetryMode {
        self.connection.config.retry
    }

    /// Settles deliveries; see [`Hold::settle`].
    pub(crate) fn settle(
        &self,
        token: u64,
        mask: u64,
    ) -> Option<Option<oneshot::Receiver<Result<()>>>> {
        let settled = lock(&self.hold).settle(token, mask, self.confirmed);
        self.after_settling();
        settled
    }

    /// Settles deliveries whose copies are kept.
    pub(crate) fn settle_copied(&self, token: u64, mask: u64) {
        lock(&self.hold).settle(token, mask, false);
        self.after_settling();
    }

    /// Takes nacked deliveries back, to come again from where they lie.
    pub(crate) fn take_back(&self, token: u64, mask: u64, due: Instant) -> bool {
        let taken = lock(&self.hold).take_back(token, mask, due);
        self.feed.wake_reader();
        taken
    }

    pub(crate) fn lease_again(&self, token: u64, mask: u64) {
        lock(&self.hold).lease_again(token, mask, Instant::now());
    }

    pub(crate) fn extend(&self, token: u64, mask: u64) -> bool {
        lock(&self.hold).extend(token, mask, Instant::now())
    }

    pub(crate) fn dropped(&self, token: u64, mask: u64) {
        lock(&self.hold).dropped(token, mask, Instant::now());
        if self.is_leaving() {
            self.feed.wake_reader();
        }
    }

    fn after_settling(&self) {
        // One wake-up until the thread has looked, however many settle meanwhile.
        self.feed.nourish();
    }

    fn definition(&self) -> Option<GroupDefinition> {
        self.known().definition.clone()
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&lock(&self.known))
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Hands nothing more out, and leaves once nothing is held.
    fn leave(&self) {
        if !self.leaving.swap(true, Ordering::SeqCst) {
            lock(&self.hold).revoke_unseen(None);
            self.feed.clear();
        }
        self.feed.wake_reader();
    }

    /// Leaves whatever is held; how much that was.
    fn abandon(&self) -> usize {
        let left = {
            let mut hold = lock(&self.hold);
            let left = hold.with_users(None);
            hold.revoke_all(None);
            left
        };
        self.abandoned.store(true, Ordering::SeqCst);
        self.feed.stop();
        left
    }

    async fn end(&self) {
        // An error says that the thread is gone, which is the end as well.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn is_ended(&self) -> bool {
        *self.ended.borrow()
    }
}

impl Open for Member {
    fn look(&self) {
        self.compare();
        self.feed.look();
    }

    fn is_member(&self) -> bool {
        true
    }

    fn compare(&self) {
        let now = self.connection.log.known(&self.group);
        let known = self.known();
        let lives_on = now.as_ref().is_some_and(|now| now.made == known.made);
        let next = match now {
            Some(now) if lives_on => now,
            // Where there is no log nothing is known.
            None if !self.connection.log.is_there() => return,
            _ => known.deleted(),
        };
        if next == *known {
            return;
        }
        let moved = !lives_on || next.origin != known.origin;
        *lock(&self.known) = Arc::new(next);
        if moved {
            // What is held is lost, before whoever moved the place hears that it is done.
            lock(&self.hold).revoke_all(None);
            self.feed.clear();
        }
        self.feed.look();
    }

    fn close(self: Arc<Self>, until: Instant) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            self.leave();
            // What was read cannot be handed out any more.
            self.feed.end(None);
            if tokio::time::timeout_at(until, self.end()).await.is_ok() {
                return Ok(());
            }
            let left = self.abandon();
            // To say good-bye takes a round trip; one that nobody answers is not waited for.
            let late = tokio::time::timeout(Duration::from_secs(2), self.end()).await.is_err();
            if left == 0 && !late {
                return Ok(());
            }
            let text = format!("{left} deliveries were not settled in time; they come again");
            Err(Error::new(ErrorKind::Timeout, text).with_backend(NAME).with("group", &self.group))
        })
    }
}

struct MemberSource {
    member: Arc<Member>,
    ended: Option<BoxFuture<'static, ()>>,
    _watcher: Watcher,
}

impl Source for MemberSource {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let next = self.member.feed.poll(cx);
        if self.member.away.load(Ordering::SeqCst) {
            self.member.feed.wake_reader();
        }
        next
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.member.leave();
        // What the user still holds may be settled; the member leaves after that.
        if lock(&self.member.hold).with_users(None) > 0 || self.member.is_ended() {
            return Poll::Ready(Ok(()));
        }
        let member = &self.member;
        let ended = self.ended.get_or_insert_with(|| {
            let member = Arc::clone(member);
            Box::pin(async move { member.end().await })
        });
        ended.as_mut().poll(cx).map(Ok)
    }
}

impl Drop for MemberSource {
    fn drop(&mut self) {
        self.member.leave();
    }
}

pub(crate) fn gone(group: &Group) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no group `{group}`"))
        .with_backend(NAME)
        .with("group", group)
}

fn moved() -> Error {
    stale()
}
