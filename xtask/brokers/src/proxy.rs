//! A link that can be broken: a proxy for TCP in front of an address, inside this process.

mod link;
mod toll;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::port::Port;
use crate::{Error, Result};

use link::Link;
use toll::Toll;

/// Takes connections on an address of its own and passes them on, as well as it is allowed to.
///
/// ```no_run
/// use fabric_brokers::{Proxy, Way, nats};
///
/// let proxy = Proxy::new()?;
/// let server = nats::Server::start(nats::Options::new().advertise(proxy.address()))?;
/// proxy.lead_to(server.address());
/// proxy.swallow(Way::Both); // a black hole
/// proxy.heal();
/// proxy.reset(); // every connection, with RST
/// # Ok::<(), fabric_brokers::Error>(())
/// ```
///
/// Dropping it resets what is left.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    shared: Arc<Shared>,
}

/// In which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In both.
    Both,
    /// From the client to the broker.
    ToBroker,
    /// From the broker to the client.
    ToClient,
}

/// How slow a link is. By default, not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slowness {
    /// How much later everything arrives, each way.
    pub latency: Duration,
    /// At most so much more or less than that.
    pub jitter: Duration,
    /// How much gets through, each way and on each connection.
    pub bytes_per_second: Option<u64>,
    /// In pieces of at most so many bytes.
    pub slice: Option<usize>,
}

impl Slowness {
    /// Everything arrives so much later, give or take the jitter.
    #[must_use]
    pub const fn latency(mut self, latency: Duration, jitter: Duration) -> Self {
        (self.latency, self.jitter) = (latency, jitter);
        self
    }

    /// Only so much gets through.
    #[must_use]
    pub const fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(bytes);
        self
    }

    /// Everything arrives in pieces of at most so many bytes.
    #[must_use]
    pub const fn slice(mut self, bytes: usize) -> Self {
        self.slice = Some(bytes);
        self
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    target: Mutex<Option<SocketAddr>>,
    toll: Arc<Toll>,
    links: Mutex<Vec<Weak<Link>>>,
    opened: AtomicU64,
}

impl Proxy {
    /// One on an address of its own that leads nowhere yet: whoever connects is reset.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn new() -> Result<Self> {
        let failed = |error| Error::new(format!("a proxy cannot listen: {error}"));
        let port = Port::reserve()?;
        let listener = TcpListener::bind(port.address()).map_err(failed)?;
        let shared = Arc::new(Shared {
            target: Mutex::new(None),
            toll: Arc::default(),
            links: Mutex::default(),
            opened: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        let named = thread::Builder::new().name("proxy".to_owned());
        named.spawn(move || accepting.accept(&listener)).map_err(failed)?;
        Ok(Self { port, shared })
    }

    /// One that leads to `target`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn to(target: SocketAddr) -> Result<Self> {
        let proxy = Self::new()?;
        proxy.lead_to(target);
        Ok(proxy)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Leads new connections to `target`.
    pub fn lead_to(&self, target: SocketAddr) {
        *lock(&self.shared.target) = Some(target);
    }

    /// Lets nothing through from now on and closes nothing: what is sent waits until it heals.
    pub fn swallow(&self, way: Way) {
        self.shared.toll.swallow(way);
    }

    /// Makes everything slower.
    pub fn slow(&self, slowness: Slowness) {
        self.shared.toll.slow(slowness);
    }

    /// Resets each connection (RST), once.
    pub fn reset(&self) {
        for link in self.shared.living() {
            link.reset();
        }
    }

    /// Resets each connection, and each new one at once, until it heals.
    pub fn refuse(&self) {
        self.shared.toll.refuse();
        self.reset();
    }

    /// Resets each connection that is open now once so many more bytes have got through, both ways
    /// together.
    pub fn cut_after(&self, bytes: u64) {
        for link in self.shared.living() {
            link.cut_after(bytes);
        }
    }

    /// Undoes all of that; what waited goes on.
    pub fn heal(&self) {
        self.shared.toll.heal();
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.living().len()
    }

    /// How many connections there were, with those and with those that were refused.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// How many bytes got through.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.toll.bytes()
    }
}

impl Shared {
    /// Until the target is taken away.
    fn accept(&self, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.toll.is_closed() {
                return;
            }
            let Ok(client) = client else { continue };
            self.opened.fetch_add(1, Ordering::Relaxed);
            let target = lock(&self.target).filter(|_| !self.toll.is_refusing());
            let Some(broker) = target.and_then(|target| TcpStream::connect(target).ok()) else {
                abandon(&client);
                continue;
            };
            if let Ok(link) = Link::between(client, broker, &self.toll) {
                lock(&self.links).push(Arc::downgrade(&link));
            }
        }
    }

    /// The links that are open; the others are forgotten.
    fn living(&self) -> Vec<Arc<Link>> {
        let mut links = lock(&self.links);
        links.retain(|link| link.strong_count() > 0);
        links.iter().filter_map(Weak::upgrade).filter(|link| link.is_open()).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.toll.close();
        self.reset();
        // The thread that accepts has to look up.
        let _ = TcpStream::connect(self.address());
    }
}

/// Lets a socket be closed with RST by whoever lets go of it last.
fn abandon(socket: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
    // Sends nothing, but wakes whoever reads.
    let _ = socket.shutdown(Shutdown::Read);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
