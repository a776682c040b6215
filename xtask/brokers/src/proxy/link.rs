//! One connection: for each way somebody who reads, and somebody who writes when it is time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::toll::Toll;
use super::{Way, abandon};

/// What is read at once, and how much of that waits at most, as in the buffers of a long line.
const CHUNK: usize = 16 * 1024;
const CHUNKS: usize = 64;

/// How long a write may block before it is looked at whether the connection is still open.
const GLANCE: Duration = Duration::from_millis(50);

/// No cut is planned.
const NEVER: u64 = u64::MAX;

/// Two sockets, and whether bytes still go between them. Only its threads own it: they close the
/// sockets by letting go of it.
#[derive(Debug)]
pub(super) struct Link {
    client: TcpStream,
    broker: TcpStream,
    open: AtomicBool,
    /// How many ways have come to their end.
    ended: AtomicU8,
    /// How many more bytes get through.
    left: AtomicU64,
    toll: Arc<Toll>,
}

/// What was read, and when it arrives; empty is the end.
type Parcel = (Instant, Vec<u8>);

impl Link {
    pub(super) fn between(
        client: TcpStream,
        broker: TcpStream,
        toll: &Arc<Toll>,
    ) -> std::io::Result<Arc<Self>> {
        for socket in [&client, &broker] {
            socket.set_nodelay(true)?;
            socket.set_write_timeout(Some(GLANCE))?;
        }
        let link = Arc::new(Self {
            client,
            broker,
            open: AtomicBool::new(true),
            ended: AtomicU8::new(0),
            left: AtomicU64::new(NEVER),
            toll: Arc::clone(toll),
        });
        for way in [Way::ToBroker, Way::ToClient] {
            let (send, receive) = sync_channel(CHUNKS);
            let (reading, writing) = (Arc::clone(&link), Arc::clone(&link));
            let named = || thread::Builder::new().name("link".to_owned());
            named().spawn(move || reading.read(way, &send))?;
            named().spawn(move || writing.write(way, &receive))?;
        }
        Ok(link)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn cut_after(&self, bytes: u64) {
        self.left.store(bytes, Ordering::Release);
    }

    /// Closes both sockets with RST, as soon as the threads have let go of them.
    pub(super) fn reset(&self) {
        self.open.store(false, Ordering::Release);
        abandon(&self.client);
        abandon(&self.broker);
        self.toll.wake();
    }

    const fn ends(&self, way: Way) -> (&TcpStream, &TcpStream) {
        match way {
            Way::ToClient => (&self.broker, &self.client),
            Way::ToBroker | Way::Both => (&self.client, &self.broker),
        }
    }

    fn read(&self, way: Way, parcels: &SyncSender<Parcel>) {
        let (mut from, _) = self.ends(way);
        let mut chance = Chance::new();
        let mut last = Instant::now();
        loop {
            let mut bytes = vec![0; CHUNK];
            let count = match from.read(&mut bytes) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.reset(),
            };
            if !self.is_open() {
                return;
            }
            bytes.truncate(count);
            // What was sent later does not arrive earlier.
            last = last.max(Instant::now() + self.toll.slowness().delay(chance.next()));
            if parcels.send((last, bytes)).is_err() || count == 0 {
                return;
            }
        }
    }

    fn write(&self, way: Way, parcels: &Receiver<Parcel>) {
        let (_, to) = self.ends(way);
        let is_open = || self.is_open();
        for (due, bytes) in parcels {
            if !self.toll.wait(way, due, is_open) {
                return self.reset();
            }
            if bytes.is_empty() {
                let _ = to.shutdown(Shutdown::Write);
                if self.ended.fetch_add(1, Ordering::AcqRel) == 1 {
                    self.open.store(false, Ordering::Release);
                }
                return;
            }
            let slice = self.toll.slowness().slice.unwrap_or(CHUNK).max(1);
            for part in bytes.chunks(slice) {
                let free = Instant::now() + self.toll.slowness().busy(part.len());
                if !self.pass(to, part) || !self.toll.wait(way, free, is_open) {
                    return self.reset();
                }
            }
        }
    }

    /// Writes as much as gets through; false where that is not all of it.
    fn pass(&self, mut to: &TcpStream, part: &[u8]) -> bool {
        let take = |left: u64| (left != NEVER).then(|| left.saturating_sub(part.len() as u64));
        let before = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        let left = usize::try_from(before.unwrap_or(NEVER)).unwrap_or(usize::MAX);
        let mut rest = &part[..part.len().min(left)];
        let whole = rest.len() == part.len();
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(count) => {
                    self.toll.count(count);
                    rest = &rest[count..];
                }
                Err(error) if is_patient(error.kind()) && self.is_open() => {}
                Err(_) => return false,
            }
        }
        whole
    }
}

const fn is_patient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Numbers of 0 to 1 without a pattern that matters (xorshift).
struct Chance(u64);

impl Chance {
    const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_stays_between_zero_and_one_and_moves() {
        let mut chance = Chance::new();
        let all: Vec<f64> = (0..1000).map(|_| chance.next()).collect();
        assert!(all.iter().all(|number| (0.0..1.0).contains(number)));
        let mean = all.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
