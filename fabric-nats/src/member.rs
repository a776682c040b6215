//! A member of a group: what it holds, until when, and how it leaves.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use fabric_core::lease::{Beat, Leases, Pulse};
use fabric_core::{AckMode, Chunk, Group};
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::hub::{Hub, Task};
use crate::lease::Lease;
use crate::settle::{Confirming, MemberSettler, Verb};
use crate::subscribe::Reader;

/// How often a member looks at its clock, at least.
const PULSE: Duration = Duration::from_secs(1);

/// What a subscription in a group shares with its settler and its clock.
pub(crate) struct Member {
    pub(crate) hub: Arc<Hub>,
    group: Group,
    pub(crate) mode: AckMode,
    pub(crate) confirming: Confirming,
    prefetch: usize,
    book: Mutex<Book>,
    /// How many deliveries are leased.
    held: AtomicUsize,
    /// Wakes the source.
    pub(crate) waker: AtomicWaker,
    /// The source waits for room.
    starving: AtomicBool,
    /// The clock stood still: what lies in the inboxes may belong to others by now.
    suspect: AtomicBool,
    /// Somebody else has the say about the group now: its members begin anew.
    renewed: AtomicBool,
    /// The server had more for the group than it handed out last.
    backlog: AtomicBool,
    left: AtomicBool,
    /// Rings when something was settled.
    pub(crate) settled: Notify,
    reader: OnceLock<Weak<Mutex<Reader>>>,
    clock: OnceLock<Task>,
    answering: OnceLock<Task>,
    watching: OnceLock<Task>,
}

struct Book {
    leases: Leases,
    chunks: HashMap<u64, Kept>,
    next: u64,
}

/// A chunk with deliveries that are leased. It is held until they are settled or their leases end,
/// so that what nobody looked at can be given back. The book may have leases on what was settled
/// meanwhile; [`Lease`] knows better.
struct Kept {
    chunk: Arc<Chunk>,
    lease: Arc<Lease>,
}

impl Member {
    pub(crate) fn new(
        hub: &Arc<Hub>,
        group: &Group,
        mode: AckMode,
        prefetch: usize,
        ack_wait: Duration,
    ) -> Arc<Self> {
        let member = Arc::new(Self {
            hub: Arc::clone(hub),
            group: group.clone(),
            mode,
            confirming: Confirming::default(),
            prefetch,
            book: Mutex::new(Book {
                leases: Leases::new(ack_wait),
                chunks: HashMap::new(),
                next: 1,
            }),
            held: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            starving: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            renewed: AtomicBool::new(false),
            backlog: AtomicBool::new(false),
            left: AtomicBool::new(false),
            settled: Notify::new(),
            reader: OnceLock::new(),
            clock: OnceLock::new(),
            answering: OnceLock::new(),
            watching: OnceLock::new(),
        });
        let clock = run_clock(Arc::downgrade(&member), ack_wait, hub.config.grace);
        let _ = member.clock.set(Task::spawn(clock));
        hub.enlist(&member);
        member
    }

    pub(crate) const fn group(&self) -> &Group {
        &self.group
    }

    /// A task that ends with the member.
    pub(crate) fn keep(&self, task: Task) {
        let _ = self.answering.set(task);
    }

    /// Lets `watch` run as long as the member is there.
    pub(crate) fn watch(&self, watch: impl Future<Output = ()> + Send + 'static) {
        let _ = self.watching.set(Task::spawn(watch));
    }

    /// Notes whether the server has more for the group than it handed out.
    pub(crate) fn note_backlog(&self, there: bool) {
        self.backlog.store(there, Ordering::Relaxed);
    }

    /// Whether events may wait for the group at the server.
    pub(crate) fn may_be_behind(&self) -> bool {
        self.backlog.load(Ordering::Relaxed) || self.room() == 0
    }

    /// The streams that it reads.
    pub(crate) fn streams(&self) -> Vec<usize> {
        self.with_reader(|reader| reader.streams()).unwrap_or_default()
    }

    /// Tells whoever reads that events were lost to retention.
    pub(crate) fn lag(&self, missed: u64) {
        self.with_reader(|reader| reader.lag(missed));
        self.waker.wake();
    }

    fn with_reader<R>(&self, work: impl FnOnce(&mut Reader) -> R) -> Option<R> {
        let reader = self.reader.get().and_then(Weak::upgrade)?;
        let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        Some(work(&mut reader))
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more deliveries it may hold.
    pub(crate) fn room(&self) -> usize {
        self.prefetch.saturating_sub(self.held.load(Ordering::Acquire))
    }

    pub(crate) const fn prefetch(&self) -> usize {
        self.prefetch
    }

    /// Says that the source waits for room.
    pub(crate) fn starve(&self) {
        self.starving.store(true, Ordering::Release);
    }

    /// What reads for the member, which its clock looks after while nobody polls it.
    pub(crate) fn read_by(&self, reader: &Arc<Mutex<Reader>>) {
        let _ = self.reader.set(Arc::downgrade(reader));
    }

    /// Leases a chunk's deliveries, which arrived at `since` or a little later.
    pub(crate) fn take_in(self: &Arc<Self>, chunk: Chunk, since: Instant) -> Arc<Chunk> {
        let mut book = self.lock();
        let token = book.next;
        book.next += 1;
        let mask = chunk.full_mask();
        let lease = Arc::new(Lease::new(token, mask, since, book.leases.wait()));
        let settler = MemberSettler::new(Arc::clone(self), Arc::clone(&lease));
        let chunk = chunk.with_token(token).with_settler(self.group.clone(), Arc::new(settler));
        let chunk = Arc::new(chunk);
        book.leases.grant(token, mask, since);
        book.chunks.insert(token, Kept { chunk: Arc::clone(&chunk), lease });
        self.held.fetch_add(chunk.len(), Ordering::AcqRel);
        drop(book);
        chunk
    }

    /// Whether all of `mask` is leased.
    pub(crate) fn holds(&self, lease: &Lease, mask: u64) -> bool {
        let extended = lease.extended(mask);
        if !lease.is_open(mask) || (extended != mask && !lease.lasts()) {
            return false;
        }
        extended == 0 || self.lock().leases.held(lease.token, Instant::now()) & extended == extended
    }

    /// The leases on a chunk, unless all of them ended.
    pub(crate) fn lease_on(&self, chunk: &Chunk) -> Option<Arc<Lease>> {
        self.lock().chunks.get(&chunk.token()).map(|kept| Arc::clone(&kept.lease))
    }

    /// Begins leases anew; `false` where one had ended.
    pub(crate) fn extend(&self, lease: &Lease, mask: u64, now: Instant) -> bool {
        let mut book = self.lock();
        let held = lease.is_open(mask) && book.leases.extend(lease.token, mask, now) == mask;
        if held {
            lease.extend(mask);
        }
        held
    }

    /// Ends leases on what was settled.
    pub(crate) fn release(&self, lease: &Lease, mask: u64) {
        self.forget(lease, mask);
        if lease.open() == 0 {
            let mut book = self.lock();
            book.leases.release(lease.token, u64::MAX);
            book.chunks.remove(&lease.token);
        }
        if self.hub.is_closing() {
            self.settled.notify_waiters();
        }
    }

    /// Counts leases as ended; returns those that there were.
    fn forget(&self, lease: &Lease, mask: u64) -> u64 {
        let taken = lease.take(mask);
        if taken != 0 {
            self.held.fetch_sub(taken.count_ones() as usize, Ordering::AcqRel);
            if self.starving.load(Ordering::Acquire) && self.starving.swap(false, Ordering::AcqRel)
            {
                self.waker.wake();
            }
        }
        taken
    }

    /// Takes back from their holders what has ended; all of it where the clock stood still. Returns
    /// whether anything was, and when the next lease ends.
    fn tick(&self, now: Instant, late: bool) -> (bool, Option<Instant>) {
        let mut book = self.lock();
        let ended = if late { book.leases.end_all() } else { book.leases.ended(now) };
        let mut lost = Vec::new();
        for (token, mask) in ended {
            let Some(kept) = book.chunks.get(&token) else { continue };
            let taken = self.forget(&kept.lease, mask);
            if taken != 0 {
                lost.push((Arc::clone(&kept.chunk), taken));
            }
            if kept.lease.open() == 0 {
                book.chunks.remove(&token);
            }
        }
        let next = book.leases.next();
        drop(book);
        let mut any = false;
        for (chunk, mask) in lost {
            any |= chunk.revoke(mask) != 0;
        }
        if late {
            self.suspect.store(true, Ordering::Release);
            self.waker.wake();
        }
        self.settled.notify_waiters();
        (any, next)
    }

    /// Takes everything back from its holders: the group begins anew elsewhere.
    pub(crate) fn revoke_all(&self) {
        self.tick(Instant::now(), true);
    }

    /// Whether the inboxes have to be given up; asked once.
    pub(crate) fn take_suspect(&self) -> bool {
        self.suspect.swap(false, Ordering::AcqRel)
    }

    /// Tells the source that its group was made anew.
    pub(crate) fn renew(&self) {
        self.renewed.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn take_renewed(&self) -> bool {
        self.renewed.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Leaves: takes back what was not handed out, for [`give_back`](Self::give_back).
    pub(crate) fn withdraw(&self) -> Vec<(Arc<Chunk>, u64)> {
        self.left.store(true, Ordering::Release);
        self.take_back(false)
    }

    /// Takes deliveries back from their holders: those that nobody has, or all.
    pub(crate) fn take_back(&self, handed_out_too: bool) -> Vec<(Arc<Chunk>, u64)> {
        let chunks: Vec<Arc<Chunk>> =
            self.lock().chunks.values().map(|kept| Arc::clone(&kept.chunk)).collect();
        let taken = chunks.into_iter().map(|chunk| {
            let handed = if handed_out_too { 0 } else { chunk.handed() };
            let mask = chunk.full_mask() & u64::MAX.checked_shl(handed).unwrap_or(0);
            let open = chunk.revoke(mask);
            (chunk, open)
        });
        taken.filter(|(_, open)| *open != 0).collect()
    }

    /// Lets the server hand deliveries out again at once.
    pub(crate) fn give_back(&self, taken: &[(Arc<Chunk>, u64)]) {
        for (chunk, mask) in taken {
            self.hub.tell(chunk, *mask, &Verb::Nak);
            if let Some(lease) = self.lease_on(chunk) {
                self.release(&lease, *mask);
            }
        }
    }

    /// Leaves, also where nobody polls.
    pub(crate) async fn leave(&self) {
        let leaving = self.with_reader(|reader| {
            reader.leave();
            reader.take_leaving()
        });
        let leaving = leaving.flatten();
        self.waker.wake();
        if let Some(leaving) = leaving {
            leaving.await;
        }
    }

    /// How many deliveries are held and were handed out.
    pub(crate) fn open(&self) -> usize {
        let book = self.lock();
        let open = |kept: &Kept| (kept.lease.open() & !kept.chunk.closed()).count_ones() as usize;
        book.chunks.values().map(open).sum()
    }
}

/// Watches the leases, and what arrives while nobody looks, until the member is gone.
async fn run_clock(member: Weak<Member>, ack_wait: Duration, grace: Duration) {
    let period = (ack_wait / 4).clamp(Duration::from_millis(10), PULSE);
    let mut last = Instant::now();
    let mut pulse = Pulse::new(period, grace, last, SystemTime::now());
    let mut next: Option<Instant> = None;
    loop {
        let at = next.map_or_else(|| pulse.next(), |next| next.min(pulse.next()));
        tokio::time::sleep_until(at).await;
        let Some(member) = member.upgrade() else { return };
        let now = Instant::now();
        let late = matches!(pulse.beat(now, SystemTime::now()), Beat::Late(_));
        if late {
            tracing::warn!(group = %member.group, "the clock stood still: deliveries are given up");
        }
        let (lost, end) = member.tick(now, late);
        next = end;
        member.with_reader(|reader| reader.look_after(last, lost));
        last = now;
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("group", &self.group)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}
