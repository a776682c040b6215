//! What settles the deliveries of a member: acks move the watermark, nacks copy or keep.

use std::sync::Arc;
use std::time::Duration;

use fabric_core::clock::far_future;
use fabric_core::{Chunk, Error, ErrorKind, Event, Nack, Result, Settled, Settler, Timestamp};
use tokio::time::Instant;

use crate::config::RetryMode;
use crate::error::NAME;
use crate::member::Member;
use crate::record::Copied;

/// Up to this long an event waits in the inbox, where it is found soonest.
const SOON: Duration = Duration::from_secs(10);
/// Up to this long it waits in the first retry topic, else in the second.
const LATER: Duration = Duration::from_secs(600);

pub(crate) struct MemberSettler(pub(crate) Arc<Member>);

impl Settler for MemberSettler {
    fn ack(&self, chunk: &Arc<Chunk>, mask: u64, _: bool) -> Settled {
        let member = &self.0;
        match member.settle(chunk.token(), mask) {
            None => Settled::Done(Err(stale())),
            Some(None) => Settled::Done(Ok(())),
            Some(Some(answer)) => {
                Settled::Pending(Box::pin(
                    async move { answer.await.unwrap_or_else(|_| Err(stale())) },
                ))
            }
        }
    }

    fn nack(&self, chunk: &Arc<Chunk>, mask: u64, nack: &Nack) -> Settled {
        let now = Instant::now();
        let delay = nack.delay.unwrap_or(Duration::ZERO);
        if self.0.retry() == RetryMode::InPlace {
            let due = now.checked_add(delay).unwrap_or_else(|| far_future(now));
            let taken = self.0.take_back(chunk.token(), mask, due);
            return Settled::Done(if taken { Ok(()) } else { Err(stale()) });
        }
        let giving =
            Giving { member: Arc::clone(&self.0), chunk: Arc::clone(chunk), mask, open: true };
        let due = (!delay.is_zero()).then(|| Timestamp::now().saturating_add(delay));
        Settled::Pending(Box::pin(giving.give_back(delay, due)))
    }

    fn progress(&self, chunk: &Arc<Chunk>, mask: u64) -> Settled {
        let held = self.0.extend(chunk.token(), mask);
        Settled::Done(if held { Ok(()) } else { Err(stale()) })
    }

    fn dropped(&self, chunk: &Arc<Chunk>, mask: u64) {
        self.0.dropped(chunk.token(), mask);
    }
}

/// Which of a group's topics an event waits in, as an index.
pub(crate) const fn bucket(delay: Duration) -> usize {
    if delay.as_nanos() <= SOON.as_nanos() {
        0
    } else if delay.as_nanos() <= LATER.as_nanos() {
        1
    } else {
        2
    }
}

/// Deliveries on their way back: first the copies are kept, then the originals are settled.
struct Giving {
    member: Arc<Member>,
    chunk: Arc<Chunk>,
    mask: u64,
    open: bool,
}

impl Giving {
    async fn give_back(mut self, delay: Duration, due: Option<Timestamp>) -> Result<()> {
        let result = self.copy(delay, due).await;
        self.open = false;
        match result {
            Ok(()) => {
                self.chunk.returned(self.mask);
                // If the partition has moved meanwhile, the copy makes a duplicate; it is kept.
                self.member.settle_copied(self.chunk.token(), self.mask);
                Ok(())
            }
            Err(error) => {
                self.member.lease_again(self.chunk.token(), self.mask);
                Err(error)
            }
        }
    }

    async fn copy(&self, delay: Duration, due: Option<Timestamp>) -> Result<()> {
        let connection = self.member.connection();
        let copies: Vec<(&Event, Copied)> = (0..self.chunk.len())
            .filter(|n| self.mask & (1 << n) != 0)
            .map(|n| {
                let info = self.chunk.info(n);
                let attempt = info.attempt.saturating_add(1);
                (&self.chunk.events()[n], Copied { attempt, due, origin: info.position })
            })
            .collect();
        let name = connection.names.waiting(self.member.group()).swap_remove(bucket(delay));
        let confirms = connection.publisher.copy(connection, &name, copies).await?;
        for outcome in confirms.await.into_vec() {
            outcome?;
        }
        Ok(())
    }
}

impl Drop for Giving {
    fn drop(&mut self) {
        if self.open {
            // Whether the copies are kept is unknown: the originals come again all the same.
            self.member.take_back(self.chunk.token(), self.mask, Instant::now());
        }
    }
}

pub(crate) fn stale() -> Error {
    Error::new(
        ErrorKind::StaleAck,
        "the partition or the lease of this delivery has moved; the event belongs to another by now",
    )
    .with_backend(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_wait_apart_by_how_long() {
        let secs = Duration::from_secs;
        let table = [(0, 0), (10, 0), (11, 1), (600, 1), (601, 2), (u64::MAX / 2, 2)];
        for (delay, expected) in table {
            assert_eq!(bucket(secs(delay)), expected, "{delay} s");
        }
    }
}
