//! Settling: a message to where each delivery is acked, and no more I/O than that.
//!
//! The server takes an ack whoever sends it and whenever: one that comes late settles the delivery of
//! somebody else. So the client refuses by its own clock, before anything is sent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{RequestErrorKind, Subject};
use bytes::Bytes;
use fabric_core::{AckMode, Chunk, Error, ErrorKind, Nack, Result, RetryClass, Settled, Settler};
use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::connection::Epoch;
use crate::error::{self, Failure};
use crate::hub::{Hub, at_once};
use crate::lease::Lease;
use crate::member::Member;
use crate::wire::Messages;

/// What the server is told about a delivery.
#[derive(Clone, Debug)]
pub(crate) enum Verb {
    /// It is done.
    Ack,
    /// It comes again at once.
    Nak,
    /// It comes again later.
    NakLater(Duration),
    /// The work goes on.
    Progress,
}

impl Verb {
    fn payload(&self) -> Bytes {
        match self {
            Self::Ack => Bytes::from_static(b"+ACK"),
            Self::Nak => Bytes::from_static(b"-NAK"),
            Self::NakLater(delay) => {
                format!("-NAK {{\"delay\": {}}}", delay.as_nanos()).into_bytes().into()
            }
            Self::Progress => Bytes::from_static(b"+WPI"),
        }
    }
}

/// Where the deliveries in `mask` are settled.
fn subjects(chunk: &Chunk, mut mask: u64) -> impl Iterator<Item = (u32, Subject)> + '_ {
    let messages = chunk.handle::<Messages>().map_or(&[][..], |messages| &messages.0);
    std::iter::from_fn(move || {
        while mask != 0 {
            let n = mask.trailing_zeros();
            mask &= mask - 1;
            let reply = messages.get(n as usize).and_then(|message| message.reply.clone());
            if let Some(reply) = reply {
                return Some((n, reply));
            }
        }
        None
    })
}

/// Tells the server about the deliveries in `mask`; returns those that it could not be told about,
/// since the connection is gone or its queue full.
fn tell_on(epoch: &Epoch, chunk: &Chunk, mask: u64, payload: &Bytes) -> u64 {
    let mut left = mask;
    for (n, subject) in subjects(chunk, mask) {
        match at_once(epoch.client.publish(subject, payload.clone())) {
            Some(Ok(())) => left &= !(1 << n),
            _ => return left,
        }
    }
    left
}

impl Hub {
    /// Tells the server about deliveries, if there is a connection; returns those it does not know.
    pub(crate) fn tell(&self, chunk: &Chunk, mask: u64, verb: &Verb) -> u64 {
        let payload = verb.payload();
        self.link.with(|epoch| tell_on(epoch, chunk, mask, &payload)).unwrap_or(mask)
    }
}

/// Settles the deliveries of one chunk.
#[derive(Debug)]
pub(crate) struct MemberSettler {
    member: Arc<Member>,
    lease: Arc<Lease>,
}

impl Settler for MemberSettler {
    fn ack(&self, chunk: &Arc<Chunk>, mask: u64, _complete: bool) -> Settled {
        if !self.member.holds(&self.lease, mask) {
            return Settled::Done(Err(stale()));
        }
        match self.member.mode {
            AckMode::Confirmed => {
                let member = Arc::clone(&self.member);
                Settled::Pending(member.confirm(Arc::clone(chunk), mask).boxed())
            }
            _ => self.settle(chunk, mask, Verb::Ack),
        }
    }

    fn nack(&self, chunk: &Arc<Chunk>, mask: u64, nack: &Nack) -> Settled {
        if !self.member.holds(&self.lease, mask) {
            return Settled::Done(Err(stale()));
        }
        let verb = match nack.delay {
            Some(delay) if !delay.is_zero() => Verb::NakLater(delay),
            _ => Verb::Nak,
        };
        self.settle(chunk, mask, verb)
    }

    fn progress(&self, chunk: &Arc<Chunk>, mask: u64) -> Settled {
        if !self.member.extend(&self.lease, mask, Instant::now()) {
            return Settled::Done(Err(stale()));
        }
        let left = self.member.hub.tell(chunk, mask, &Verb::Progress);
        if left == 0 {
            return Settled::Done(Ok(()));
        }
        let (member, chunk) = (Arc::clone(&self.member), Arc::clone(chunk));
        Settled::Pending(
            async move { member.tell_later(&chunk, left, &Verb::Progress).await }.boxed(),
        )
    }

    fn dropped(&self, _: &Arc<Chunk>, _: u64) {
        // It comes again when the server's lease ends.
    }
}

impl MemberSettler {
    pub(crate) const fn new(member: Arc<Member>, lease: Arc<Lease>) -> Self {
        Self { member, lease }
    }

    fn settle(&self, chunk: &Arc<Chunk>, mask: u64, verb: Verb) -> Settled {
        let left = self.member.hub.tell(chunk, mask, &verb);
        if left == 0 {
            self.member.done(chunk, &self.lease, mask, &verb);
            return Settled::Done(Ok(()));
        }
        let (member, lease) = (Arc::clone(&self.member), Arc::clone(&self.lease));
        let chunk = Arc::clone(chunk);
        Settled::Pending(
            async move {
                member.tell_later(&chunk, left, &verb).await?;
                member.done(&chunk, &lease, mask, &verb);
                Ok(())
            }
            .boxed(),
        )
    }
}

impl Member {
    fn done(&self, chunk: &Chunk, lease: &Lease, mask: u64, verb: &Verb) {
        if matches!(verb, Verb::Nak | Verb::NakLater(_)) {
            chunk.returned(mask);
        }
        self.release(lease, mask);
    }

    /// Tells the server once there is a connection with room, while the leases last.
    async fn tell_later(&self, chunk: &Chunk, mask: u64, verb: &Verb) -> Result<()> {
        let payload = verb.payload();
        let mut left = mask;
        loop {
            let epoch = self.connection(chunk, left).await?;
            left = tell_on(&epoch, chunk, left, &payload);
            if left == 0 {
                return Ok(());
            }
            // Either the queue has room again, or the connection is gone.
            if epoch.client.flush().await.is_err() {
                epoch.abandon();
            }
        }
    }

    /// The present connection or the next, while the leases last.
    async fn connection(&self, chunk: &Chunk, mask: u64) -> Result<Arc<Epoch>> {
        let mut look = tokio::time::interval(Duration::from_millis(100));
        let up = self.hub.link.up();
        tokio::pin!(up);
        loop {
            tokio::select! {
                biased;
                epoch = &mut up => return epoch,
                _ = look.tick() => {
                    let lease = self.lease_on(chunk);
                    if !lease.is_some_and(|lease| self.holds(&lease, mask)) {
                        return Err(stale());
                    }
                }
            }
        }
    }

    /// Acks, and waits for the server's answer, together with all who wait at the same time.
    async fn confirm(self: Arc<Self>, chunk: Arc<Chunk>, mask: u64) -> Result<()> {
        let (tell, mut told) = oneshot::channel();
        self.confirming.line.lock().unwrap_or_else(PoisonError::into_inner).push(Waiting {
            chunk: Arc::clone(&chunk),
            mask,
            tell,
        });
        let lead = self.confirming.lead.lock();
        tokio::pin!(lead);
        let result = tokio::select! {
            biased;
            told = &mut told => told.unwrap_or_else(|_| Err(unanswered())),
            _leading = &mut lead => match told.try_recv() {
                Ok(result) => result,
                Err(_) => {
                    self.confirm_all().await;
                    told.await.unwrap_or_else(|_| Err(unanswered()))
                }
            },
        };
        result
    }

    /// Acks for all who wait: the last ack of all brings the answer for all, since the server takes
    /// them in order.
    async fn confirm_all(&self) {
        let line = {
            let mut line = self.confirming.line.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *line)
        };
        let result = self.confirm_line(&line).await;
        for waiting in line {
            if let (true, Some(lease)) = (result.is_ok(), self.lease_on(&waiting.chunk)) {
                self.release(&lease, waiting.mask);
            }
            // Whoever does not wait any more need not hear of it.
            let _ = waiting.tell.send(result.clone());
        }
    }

    async fn confirm_line(&self, line: &[Waiting]) -> Result<()> {
        let Some((last, others)) = line.split_last() else { return Ok(()) };
        let epoch = self.connection(&last.chunk, last.mask).await?;
        let payload = Verb::Ack.payload();
        for waiting in others {
            let left = tell_on(&epoch, &waiting.chunk, waiting.mask, &payload);
            self.tell_rest(&epoch, &waiting.chunk, left).await?;
        }
        let end = 63 - last.mask.leading_zeros();
        let rest = last.mask & !(1 << end);
        let left = tell_on(&epoch, &last.chunk, rest, &payload);
        self.tell_rest(&epoch, &last.chunk, left).await?;
        let Some((_, subject)) = subjects(&last.chunk, 1 << end).next() else { return Ok(()) };
        let asked = epoch.client.request(subject, payload).await;
        match asked {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(stale()),
            Err(error) => Err(error::from(&Failure::Request(error.kind()))),
        }
    }

    async fn tell_rest(&self, epoch: &Epoch, chunk: &Chunk, mut left: u64) -> Result<()> {
        while left != 0 {
            if epoch.client.flush().await.is_err() || epoch.is_gone() {
                return Err(error::disconnected().with_retry(RetryClass::Ambiguous));
            }
            left = tell_on(epoch, chunk, left, &Verb::Ack.payload());
        }
        Ok(())
    }
}

/// Acks that wait for the server's answer.
#[derive(Debug, Default)]
pub(crate) struct Confirming {
    line: Mutex<Vec<Waiting>>,
    lead: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Waiting {
    chunk: Arc<Chunk>,
    mask: u64,
    tell: oneshot::Sender<Result<()>>,
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Timeout, "the server's answer to the ack did not come")
        .with_backend("nats")
}

pub(crate) fn stale() -> Error {
    Error::new(
        ErrorKind::StaleAck,
        "the lease on this delivery ended before it was settled; the event belongs to another by now",
    )
    .with_backend("nats")
}
