//! The bound on what is not confirmed yet: so many events, so many bytes, in the order of asking.

use fabric_core::Result;
use tokio::sync::Semaphore;

use crate::connection::closed;

/// Room for events and for their bytes.
pub(crate) struct Room {
    events: Semaphore,
    most_events: u32,
    /// In units of a KiB.
    bytes: Semaphore,
    most_units: u32,
}

/// What one event takes of it, to be given back when it is answered.
#[derive(Debug)]
#[must_use = "it is given back, or lost for ever"]
pub(crate) struct Share {
    units: u32,
}

impl Room {
    pub(crate) fn new(events: usize, bytes: u64) -> Self {
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize >> 1);
        let events = events.min(most);
        let units = usize::try_from(bytes.div_ceil(1024)).unwrap_or(most).clamp(1, most);
        Self {
            events: Semaphore::new(events),
            most_events: events as u32,
            bytes: Semaphore::new(units),
            most_units: units as u32,
        }
    }

    /// Takes room for an event of `size` bytes if it is there.
    pub(crate) fn try_take(&self, size: usize) -> Option<Share> {
        let units = self.units(size);
        let event = self.events.try_acquire().ok()?;
        let bytes = self.bytes.try_acquire_many(units).ok()?;
        event.forget();
        bytes.forget();
        Some(Share { units })
    }

    /// Takes room for several events if it is there for all of them.
    pub(crate) fn try_take_all(&self, sizes: impl Iterator<Item = usize>) -> Option<Vec<Share>> {
        let mut shares = Vec::new();
        for size in sizes {
            match self.try_take(size) {
                Some(share) => shares.push(share),
                None => {
                    shares.into_iter().for_each(|share| self.give_back(share));
                    return None;
                }
            }
        }
        Some(shares)
    }

    /// Waits for room.
    ///
    /// # Errors
    /// `Closed`.
    ///
    /// # Cancel safety
    /// Nothing is taken.
    pub(crate) async fn take(&self, size: usize) -> Result<Share> {
        let units = self.units(size);
        let event = self.events.acquire().await.map_err(|_| closed())?;
        let bytes = self.bytes.acquire_many(units).await.map_err(|_| closed())?;
        event.forget();
        bytes.forget();
        Ok(Share { units })
    }

    /// Gives room back.
    #[expect(clippy::needless_pass_by_value, reason = "it is spent")]
    pub(crate) fn give_back(&self, share: Share) {
        self.bytes.add_permits(share.units as usize);
        self.events.add_permits(1);
    }

    /// Resolves when everything that was taken before is given back; what comes later waits behind.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(crate) async fn emptied(&self) {
        // A room that is shut has nothing to wait for.
        let _ = self.events.acquire_many(self.most_events).await;
    }

    /// Lets nobody in any more.
    pub(crate) fn shut(&self) {
        self.events.close();
        self.bytes.close();
    }

    /// How many bytes there is room for.
    pub(crate) const fn bytes(&self) -> u64 {
        self.most_units as u64 * 1024
    }

    fn units(&self, size: usize) -> u32 {
        // One that is larger than all of it waits until it is alone.
        u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, self.most_units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_bounded_in_events_and_in_bytes() {
        let room = Room::new(2, 4096);
        let (one, two) = (room.try_take(10).unwrap(), room.try_take(10).unwrap());
        assert!(room.try_take(10).is_none(), "a third event");
        room.give_back(one);
        assert!(room.try_take(4096).is_none(), "more bytes than are left");
        room.give_back(two);
        let large = room.take(1 << 20).await.unwrap();
        assert!(room.try_take(1).is_none());
        room.give_back(large);
        room.emptied().await;
        assert!(room.try_take_all([10, 10, 10].into_iter()).is_none());
        let two = room.try_take_all([10, 10].into_iter()).unwrap();
        two.into_iter().for_each(|share| room.give_back(share));
        room.shut();
        assert!(room.take(1).await.is_err());
    }
}
