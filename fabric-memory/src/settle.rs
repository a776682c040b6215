//! What settles the deliveries of one member: an ack is a bit, the broker's lock is taken only
//! when a chunk is complete or somebody waits for it.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use fabric_core::clock::Now;
use fabric_core::{Chunk, Error, ErrorKind, Nack, Settled, Settler};

use crate::broker::{Member, MemberFlags};
use crate::client::Client;
use crate::instance::Instance;

pub(crate) struct MemberSettler {
    /// Weak: the broker holds chunks, and chunks hold this.
    pub(crate) instance: Weak<Instance>,
    pub(crate) client: Weak<Client>,
    pub(crate) member: Member,
    pub(crate) flags: Arc<MemberFlags>,
}

impl MemberSettler {
    fn instance(&self) -> Result<Arc<Instance>, Error> {
        self.instance.upgrade().ok_or_else(|| {
            Error::new(ErrorKind::Closed, "the memory instance of this delivery is gone")
        })
    }

    fn tell_client(&self) {
        if self.flags.closing.load(Ordering::SeqCst)
            && let Some(client) = self.client.upgrade()
        {
            client.settled.notify_waiters();
        }
    }
}

impl Settler for MemberSettler {
    fn ack(&self, chunk: &Arc<Chunk>, _: u64, complete: bool) -> Settled {
        // The bits are set: whoever looks from now on sees them. The broker hears of it when it
        // makes a difference.
        if complete || self.flags.is_awaited() {
            let Ok(instance) = self.instance() else { return Settled::Done(Ok(())) };
            instance.with(|broker, wakers| broker.settled(self.member, chunk, wakers));
            self.tell_client();
        }
        Settled::Done(Ok(()))
    }

    fn nack(&self, chunk: &Arc<Chunk>, mask: u64, nack: &Nack) -> Settled {
        let instance = match self.instance() {
            Ok(instance) => instance,
            Err(error) => return Settled::Done(Err(error)),
        };
        let now = Now::read();
        instance.at(now, |broker, wakers| broker.nack(self.member, chunk, mask, nack, now, wakers));
        self.tell_client();
        Settled::Done(Ok(()))
    }

    fn progress(&self, chunk: &Arc<Chunk>, mask: u64) -> Settled {
        let now = Now::read();
        let extended = self.instance().and_then(|instance| {
            match instance.at(now, |broker, _| broker.progress(self.member, chunk, mask, now)) {
                true => Ok(()),
                false => Err(Error::new(
                    ErrorKind::StaleAck,
                    "the lease on this delivery ended; the event belongs to another by now",
                )),
            }
        });
        Settled::Done(extended)
    }

    fn dropped(&self, chunk: &Arc<Chunk>, mask: u64) {
        if let Ok(instance) = self.instance() {
            let now = Now::read();
            instance.at(now, |broker, wakers| broker.dropped(self.member, chunk, mask, wakers));
            self.tell_client();
        }
    }
}

impl fmt::Debug for MemberSettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberSettler").field("member", &self.member).finish_non_exhaustive()
    }
}
