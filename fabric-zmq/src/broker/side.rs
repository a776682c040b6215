//! The connections of one side of a broker, as far as libzmq tells of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fabric_core::Result;
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use zmq::{Context, Socket};

use crate::monitor::{Link, Monitor, Refusal};

/// For how long a connection that was let in is waited for, and counts until then.
const COMING: Duration = Duration::from_secs(5);

/// One side: its monitor, and what that told.
pub(super) struct Side {
    pub(super) monitor: Monitor,
    seen: Seen,
}

/// What was told of connections. Pure.
///
/// Success is told without saying whose it is, the end with the number of the connection, so that of
/// an end only this is known: it was either that of one whose failure was told as well, or of one that
/// stood.
#[derive(Debug, Default)]
struct Seen {
    present: HashSet<u32, RandomState>,
    succeeded: u64,
    failed: u64,
    ended: u64,
    coming: VecDeque<Instant>,
}

impl Side {
    pub(super) fn watch(context: &Context, socket: &Socket) -> Result<Self> {
        Ok(Self { monitor: Monitor::attach(context, socket)?, seen: Seen::default() })
    }

    /// Takes what was told; returns how many did not come about for another reason than the door's.
    pub(super) fn look(&mut self) -> u64 {
        let mut refused = 0;
        while let Some((link, endpoint)) = self.monitor.next() {
            self.seen.take(link);
            match link {
                // The door has told of these, by address and key.
                Link::Refused(Refusal::Door) => {}
                Link::Refused(why) => {
                    refused += 1;
                    tracing::warn!(endpoint, ?why, "a connection did not come about");
                }
                _ => {}
            }
        }
        refused
    }

    /// How many are connected.
    pub(super) fn connected(&self) -> u64 {
        self.seen.connected()
    }

    /// How many are connected, or were let in a moment ago.
    pub(super) fn taken(&mut self, now: Instant) -> u64 {
        self.seen.forget(now);
        self.seen.connected() + self.seen.coming.len() as u64
    }

    /// One more is let in.
    pub(super) fn let_in(&mut self, now: Instant) {
        self.seen.coming.push_back(now);
    }
}

impl Seen {
    fn take(&mut self, link: Link) {
        match link {
            Link::Accepted(number) => {
                self.present.insert(number);
            }
            Link::Up => {
                self.succeeded += 1;
                self.coming.pop_front();
            }
            Link::Refused(_) => self.failed += 1,
            Link::Down(number) => {
                self.present.remove(&number);
                self.ended += 1;
                if self.present.is_empty() {
                    (self.succeeded, self.failed, self.ended) = (0, 0, 0);
                }
            }
            Link::Retried => {}
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.coming.front().is_some_and(|since| now - *since > COMING) {
            self.coming.pop_front();
        }
    }

    fn connected(&self) -> u64 {
        let stood_and_ended = self.ended.saturating_sub(self.failed);
        self.succeeded.saturating_sub(stood_and_ended).min(self.present.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_refused_is_not_missed_when_it_leaves() {
        let mut seen = Seen::default();
        for link in [Link::Accepted(1), Link::Up] {
            seen.take(link);
        }
        for n in 2..50 {
            seen.take(Link::Accepted(n));
            seen.take(Link::Refused(Refusal::Door));
            assert_eq!(seen.connected(), 1);
            seen.take(Link::Down(n));
            assert_eq!(seen.connected(), 1);
        }
        seen.take(Link::Down(1));
        assert_eq!(seen.connected(), 0);
    }

    #[test]
    fn a_failure_that_is_told_twice_does_not_stay() {
        let mut seen = Seen::default();
        for _ in 0..3 {
            seen.take(Link::Accepted(7));
            seen.take(Link::Refused(Refusal::Door));
            seen.take(Link::Refused(Refusal::Unknown));
            seen.take(Link::Down(7));
            assert_eq!(seen.connected(), 0);
        }
    }

    #[test]
    fn one_that_was_let_in_and_never_came_is_forgotten() {
        let mut seen = Seen::default();
        let now = Instant::now();
        seen.coming.push_back(now);
        seen.forget(now + COMING / 2);
        assert_eq!(seen.coming.len(), 1);
        seen.forget(now + COMING * 2);
        assert!(seen.coming.is_empty());
    }
}
