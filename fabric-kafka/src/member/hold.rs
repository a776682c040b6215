//! What a member holds: its partitions, the chunks that are out, their leases; time is a parameter.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fabric_core::lease::Leases;
use fabric_core::{Chunk, Error, Event, Position, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::progress::Progress;
use crate::schedule::Schedule;
use crate::watermark::Track;

/// An event that is to be handed out, again or at last.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) lane: u32,
    pub(super) offset: i64,
    pub(super) event: Event,
    pub(super) position: Option<Position>,
    pub(super) attempt: u32,
    pub(super) fault: Option<Error>,
}

/// One partition that this member has.
#[derive(Debug)]
pub(super) struct Lane {
    /// The topic's name on the broker, and which partition.
    pub(super) name: String,
    pub(super) partition: i32,
    /// Which life of the topic.
    pub(super) id: u64,
    pub(super) track: Track,
    /// Something is to be committed.
    pub(super) dirty: bool,
    /// Counts settlements, so that a commit knows which it covers.
    pub(super) settled: u64,
    /// Who waits for a commit that covers so many.
    waiters: Vec<(u64, oneshot::Sender<Result<()>>)>,
    /// It is to be given back, at this time at the latest.
    pub(super) revoked: Option<Instant>,
}

/// A chunk that is out.
#[derive(Debug)]
struct Out {
    chunk: Arc<Chunk>,
    lane: u32,
    offsets: Box<[i64]>,
    /// What of it cannot be read, and why.
    faults: Vec<(usize, Error)>,
    /// The deliveries whose leases have begun.
    leased: u64,
    /// Those that were dropped: nobody settles them any more.
    dropped: u64,
}

/// Everything that a member holds.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) lanes: HashMap<u32, Lane>,
    out: HashMap<u64, Out>,
    leases: Leases,
    /// What waits for its time: redeliveries, and events that are not due.
    pub(super) waiting: Schedule<Item, Instant>,
    /// How many events are out and unsettled.
    held: usize,
    next_lane: u32,
    next_chunk: u64,
}

impl Hold {
    pub(super) fn new(ack_wait: Duration) -> Self {
        Self {
            lanes: HashMap::new(),
            out: HashMap::new(),
            leases: Leases::new(ack_wait),
            waiting: Schedule::new(),
            held: 0,
            next_lane: 0,
            next_chunk: 0,
        }
    }

    /// How many events are out and unsettled.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Takes a partition.
    pub(super) fn take_lane(&mut self, name: String, partition: i32, id: u64, track: Track) -> u32 {
        self.next_lane += 1;
        let lane = Lane {
            name,
            partition,
            id,
            track,
            dirty: true,
            settled: 0,
            waiters: Vec::new(),
            revoked: None,
        };
        self.lanes.insert(self.next_lane, lane);
        self.next_lane
    }

    /// The partition of this name.
    pub(super) fn lane_at(&self, name: &str, partition: i32) -> Option<u32> {
        let mut found = self.lanes.iter();
        let found = found.find(|(_, lane)| lane.partition == partition && lane.name == name);
        found.map(|(id, _)| *id)
    }

    /// A number for the next chunk.
    pub(super) fn chunk_token(&mut self) -> u64 {
        self.next_chunk += 1;
        self.next_chunk
    }

    /// Notes that a chunk goes out.
    pub(super) fn hand_out(
        &mut self,
        chunk: &Arc<Chunk>,
        lane: u32,
        offsets: Box<[i64]>,
        faults: Vec<(usize, Error)>,
    ) {
        self.held += offsets.len();
        // How far was read is worth knowing too.
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.dirty = true;
        }
        let chunk = Arc::clone(chunk);
        let out = Out { lane, offsets, faults, leased: 0, dropped: 0, chunk };
        self.out.insert(out.chunk.token(), out);
    }

    /// Settles deliveries; how many, and none if the member does not have them any more. With
    /// `confirm` there is something to wait for besides.
    pub(super) fn settle(
        &mut self,
        token: u64,
        mask: u64,
        confirm: bool,
    ) -> Option<Option<oneshot::Receiver<Result<()>>>> {
        let out = self.out.get(&token)?;
        let lane = self.lanes.get_mut(&out.lane)?;
        for n in bits(mask) {
            if lane.track.settle(out.offsets[n]) {
                lane.settled += 1;
            }
        }
        lane.dirty = true;
        let waiter = confirm.then(|| {
            let (sender, receiver) = oneshot::channel();
            lane.waiters.push((lane.settled, sender));
            receiver
        });
        self.release(token, mask);
        Some(waiter)
    }

    /// Deliveries are not out any more.
    fn release(&mut self, token: u64, mask: u64) {
        let Some(out) = self.out.get(&token) else { return };
        self.held = self.held.saturating_sub(mask.count_ones() as usize);
        self.leases.release(token, mask);
        if out.chunk.settled() == out.chunk.full_mask() {
            self.out.remove(&token);
        }
    }

    /// Takes nacked deliveries back, to come again from here at `due`.
    pub(super) fn take_back(&mut self, token: u64, mask: u64, due: Instant) -> bool {
        let Some(out) = self.out.get(&token) else { return false };
        let (chunk, lane) = (Arc::clone(&out.chunk), out.lane);
        if !self.lanes.contains_key(&lane) {
            return false;
        }
        chunk.returned(mask);
        self.again(token, mask, due);
        true
    }

    /// Deliveries that nobody holds come again.
    fn again(&mut self, token: u64, mask: u64, due: Instant) {
        let Some(out) = self.out.get(&token) else { return };
        let Some(lane) = self.lanes.get_mut(&out.lane) else { return };
        for n in bits(mask) {
            let offset = out.offsets[n];
            lane.track.tried(offset);
            lane.dirty = true;
            let info = out.chunk.info(n);
            self.waiting.push(
                due,
                Item {
                    lane: out.lane,
                    offset,
                    event: out.chunk.events()[n].clone(),
                    position: info.position,
                    attempt: info.attempt.saturating_add(1),
                    fault: out
                        .faults
                        .iter()
                        .find(|(at, _)| *at == n)
                        .map(|(_, fault)| fault.clone()),
                },
            );
        }
        self.release(token, mask);
    }

    /// Begins the leases of what was handed to the user since the last time.
    pub(super) fn begin_leases(&mut self, now: Instant) {
        for (token, out) in &mut self.out {
            let handed = out.chunk.handed();
            let handed = if handed >= 64 { u64::MAX } else { (1 << handed) - 1 };
            let fresh = handed & out.chunk.full_mask() & !out.leased & !out.chunk.closed();
            if fresh != 0 {
                out.leased |= fresh;
                self.leases.grant(*token, fresh, now);
            }
        }
    }

    /// Ends the leases whose time has come; whether there were any.
    pub(super) fn end_leases(&mut self, now: Instant) -> bool {
        let mut any = false;
        for (token, mask) in self.leases.ended(now) {
            let Some(out) = self.out.get(&token) else { continue };
            let revoked = out.chunk.revoke(mask);
            if revoked != 0 {
                any = true;
                self.again(token, revoked, now);
            }
        }
        any
    }

    /// Begins leases anew; whether all of them still held.
    pub(super) fn extend(&mut self, token: u64, mask: u64, now: Instant) -> bool {
        let Some(out) = self.out.get_mut(&token) else { return false };
        let fresh = mask & !out.leased;
        if fresh != 0 {
            out.leased |= fresh;
            self.leases.grant(token, fresh, now);
        }
        self.leases.extend(token, mask, now) == mask
    }

    /// Leases that a failed settlement had let go begin anew.
    pub(super) fn lease_again(&mut self, token: u64, mask: u64, now: Instant) {
        if self.out.contains_key(&token) {
            let missing = mask & !self.leases.held(token, now);
            self.leases.grant(token, missing, now);
        }
    }

    /// Deliveries were dropped: they come again when their leases end.
    pub(super) fn dropped(&mut self, token: u64, mask: u64, now: Instant) {
        if let Some(out) = self.out.get_mut(&token) {
            out.dropped |= mask;
            let fresh = mask & !out.leased;
            out.leased |= fresh;
            self.leases.grant(token, fresh, now);
        }
    }

    /// When the next lease may end.
    pub(super) fn next_lease(&self) -> Option<Instant> {
        self.leases.next()
    }

    /// How many deliveries users hold, of one lane or of all.
    pub(super) fn with_users(&self, lane: Option<u32>) -> usize {
        let of_it = self.out.values().filter(|out| lane.is_none_or(|lane| out.lane == lane));
        of_it.map(|out| out.with_user().count_ones() as usize).sum()
    }

    /// Takes back what users have not seen yet, of one lane or of all.
    pub(super) fn revoke_unseen(&mut self, lane: Option<u32>) {
        self.revoke(lane, |out| !out.seen());
        self.waiting.retain(|item| lane.is_some_and(|lane| item.lane != lane));
    }

    /// Takes everything back, of one lane or of all.
    pub(super) fn revoke_all(&mut self, lane: Option<u32>) {
        self.revoke(lane, |_| u64::MAX);
        self.waiting.retain(|item| lane.is_some_and(|lane| item.lane != lane));
    }

    fn revoke(&mut self, lane: Option<u32>, which: impl Fn(&Out) -> u64) {
        let of_it = self.out.iter().filter(|(_, out)| lane.is_none_or(|lane| out.lane == lane));
        let tokens: Vec<u64> = of_it.map(|(token, _)| *token).collect();
        for token in tokens {
            let Some(out) = self.out.get(&token) else { continue };
            let mask = out.chunk.revoke(which(out) & out.chunk.full_mask());
            self.release(token, mask);
        }
    }

    /// Gives a partition up; its waiters hear why.
    pub(super) fn drop_lane(&mut self, lane: u32, why: impl Fn() -> Error) {
        self.revoke_all(Some(lane));
        self.out.retain(|_, out| out.lane != lane);
        if let Some(lane) = self.lanes.remove(&lane) {
            for (_, waiter) in lane.waiters {
                let _ = waiter.send(Err(why()));
            }
        }
    }

    /// Gives everything up.
    pub(super) fn clear(&mut self, why: impl Fn() -> Error) {
        let lanes: Vec<u32> = self.lanes.keys().copied().collect();
        for lane in lanes {
            self.drop_lane(lane, &why);
        }
        self.revoke_all(None);
        self.out.clear();
        self.held = 0;
    }

    /// Whether anything is to be committed.
    pub(super) fn is_dirty(&self) -> bool {
        self.lanes.values().any(|lane| lane.dirty)
    }

    /// Takes what is to be committed: lanes, how many settlements that covers, and how far they are.
    pub(super) fn take_dirty(&mut self, origin: u64) -> Vec<(u32, u64, Progress)> {
        let dirty = self.lanes.iter_mut().filter(|(_, lane)| lane.dirty);
        dirty
            .map(|(id, lane)| {
                lane.dirty = false;
                (*id, lane.settled, lane.track.progress(origin))
            })
            .collect()
    }

    /// Takes what is to be committed of `lanes`, dirty or not.
    pub(super) fn take(&mut self, lanes: &[u32], origin: u64) -> Vec<(u32, u64, Progress)> {
        let mut taken = Vec::new();
        for id in lanes {
            if let Some(lane) = self.lanes.get_mut(id) {
                lane.dirty = false;
                taken.push((*id, lane.settled, lane.track.progress(origin)));
            }
        }
        taken
    }

    /// A commit was answered.
    pub(super) fn committed(&mut self, lanes: &[(u32, u64)], answer: Result<(), &Error>) {
        for (id, settled) in lanes {
            let Some(lane) = self.lanes.get_mut(id) else { continue };
            match answer {
                Err(_) => lane.dirty = true,
                Ok(()) => {
                    let (done, rest) = std::mem::take(&mut lane.waiters)
                        .into_iter()
                        .partition(|w| w.0 <= *settled);
                    lane.waiters = rest;
                    let done: Vec<(u64, oneshot::Sender<Result<()>>)> = done;
                    for (_, waiter) in done {
                        let _ = waiter.send(Ok(()));
                    }
                }
            }
        }
    }
}

impl Out {
    /// The deliveries that the user has seen.
    fn seen(&self) -> u64 {
        let handed = self.chunk.handed();
        if handed >= 64 { u64::MAX } else { (1 << handed) - 1 }
    }

    /// The deliveries that the user may still settle.
    fn with_user(&self) -> u64 {
        self.seen() & self.chunk.full_mask() & !self.chunk.settled() & !self.dropped
    }
}

/// The numbers of the bits in a mask.
pub(super) fn bits(mask: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |n| mask & (1 << n) != 0)
}
