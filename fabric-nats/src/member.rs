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
    left: AtomicBool,
    /// Rings when something was settled.
    pub(crate) settled: Notify,
    reader: OnceLock<Weak<Mutex<Reader>>>,
    clock: OnceLock<Task>,
    answering: OnceLock<Task>,
}

struct Book {
    leases: Leases,
    chunks: HashMap<u64, Kept>,
    next: u64,
}

/// A chunk with deliveries that are leased. It is held until they are settled or their leases end,
/// so that what nobody looked at can be given back.
struct Kept {
    chunk: Arc<Chunk>,
    mask: u64,
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
            left: AtomicBool::new(false),
            settled: Notify::new(),
            reader: OnceLock::new(),
            clock: OnceLock::new(),
            answering: OnceLock::new(),
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
        let settler = Arc::new(MemberSettler(Arc::clone(self)));
        let chunk = Arc::new(chunk.with_token(token).with_settler(self.group.clone(), settler));
        let mask = chunk.full_mask();
        book.leases.grant(token, mask, since);
        book.chunks.insert(token, Kept { chunk: Arc::clone(&chunk), mask });
        self.held.fetch_add(chunk.len(), Ordering::AcqRel);
        drop(book);
        chunk
    }

    /// Whether all of `mask` is leased.
    pub(crate) fn holds(&self, chunk: &Chunk, mask: u64, now: Instant) -> bool {
        self.lock().leases.held(chunk.token(), now) & mask == mask
    }

    /// Begins leases anew; `false` where one had ended.
    pub(crate) fn extend(&self, chunk: &Chunk, mask: u64, now: Instant) -> bool {
        self.lock().leases.extend(chunk.token(), mask, now) == mask
    }

    /// Ends leases on what was settled.
    pub(crate) fn release(&self, chunk: &Chunk, mask: u64) {
        let mut book = self.lock();
        let released = book.leases.release(chunk.token(), mask);
        self.forget(&mut book, chunk.token(), released);
        drop(book);
        self.settled.notify_waiters();
    }

    fn forget(&self, book: &mut Book, token: u64, mask: u64) {
        let count = mask.count_ones() as usize;
        if count == 0 {
            return;
        }
        if let Some(kept) = book.chunks.get_mut(&token) {
            kept.mask &= !mask;
            if kept.mask == 0 {
                book.chunks.remove(&token);
            }
        }
        self.held.fetch_sub(count, Ordering::AcqRel);
        if self.starving.swap(false, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Takes back from their holders what has ended; all of it where the clock stood still. Returns
    /// whether anything was, and when the next lease ends.
    fn tick(&self, now: Instant, late: bool) -> (bool, Option<Instant>) {
        let mut book = self.lock();
        let ended = if late { book.leases.end_all() } else { book.leases.ended(now) };
        let mut lost = Vec::new();
        for (token, mask) in ended {
            lost.extend(book.chunks.get(&token).map(|kept| (Arc::clone(&kept.chunk), mask)));
            self.forget(&mut book, token, mask);
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
            self.release(chunk, *mask);
        }
    }

    /// Leaves, also where nobody polls.
    pub(crate) async fn leave(&self) {
        let reader = self.reader.get().and_then(Weak::upgrade);
        let leaving = reader.and_then(|reader| {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.leave();
            reader.take_leaving()
        });
        self.waker.wake();
        if let Some(leaving) = leaving {
            leaving.await;
        }
    }

    /// How many deliveries are held and were handed out.
    pub(crate) fn open(&self) -> usize {
        let book = self.lock();
        let open = |kept: &Kept| (kept.mask & !kept.chunk.closed()).count_ones() as usize;
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
        if let Some(reader) = member.reader.get().and_then(Weak::upgrade) {
            reader.lock().unwrap_or_else(PoisonError::into_inner).look_after(last, lost);
        }
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
