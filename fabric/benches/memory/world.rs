//! What all arms share: topics, payloads, a typed event, runtimes, and tasks that end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use fabric_core::{Event, EventBuilder, Fabric, StatsSnapshot, Subscription, Topic, TypedEvent};
use fabric_memory::{Memory, MemoryConfig};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::support::Result;

/// How many events the bare channels take before their senders wait.
pub(crate) const CHANNEL: usize = 1024;

/// Longer than any round takes.
const WATCHDOG: Duration = Duration::from_secs(120);

pub(crate) static TOPIC: LazyLock<Topic> =
    LazyLock::new(|| Topic::new("bench.events.moved").expect("a topic"));

/// A typed event of 64 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Beat(pub(crate) [u8; 64]);

impl TypedEvent for Beat {
    const TYPE: &'static str = "bench.events.moved";
    const VERSION: u32 = 1;
    const PATTERN: &'static str = "bench.events.moved";
    const CONTENT_TYPE: &'static str = fabric_core::DEFAULT_CONTENT_TYPE;

    fn topic(&self) -> fabric_core::Result<Topic> {
        Ok(TOPIC.clone())
    }

    fn key(&self) -> Option<String> {
        None
    }

    fn encode(&self) -> fabric_core::Result<Bytes> {
        unreachable!("inside a process nothing is encoded")
    }

    fn decode(_: &[u8]) -> fabric_core::Result<Self> {
        unreachable!("inside a process nothing is decoded")
    }
}

/// Where payloads come from: small ones are clones of one, large ones copied as from a socket.
#[derive(Clone, Debug)]
pub(crate) struct Payloads(Bytes);

impl Payloads {
    pub(crate) fn of(size: u64) -> Self {
        Self(vec![7; size as usize].into())
    }

    pub(crate) fn next(&self) -> Bytes {
        if self.0.len() > 64 { Bytes::copy_from_slice(&self.0) } else { self.0.clone() }
    }

    /// What makes events for another topic.
    pub(crate) fn event_to(&self, topic: &str) -> Result<impl Fn() -> EventBuilder + Send + use<>> {
        let (payloads, topic) = (self.clone(), Topic::new(topic)?);
        Ok(move || Event::to(&topic).payload(payloads.next()))
    }

    /// The next event, without id and time.
    pub(crate) fn event(&self) -> EventBuilder {
        Event::to(&*TOPIC).payload(self.next())
    }
}

/// What a consumer looks at.
pub(crate) fn look_at(event: &Event) {
    std::hint::black_box(event.payload().as_bytes().and_then(|bytes| bytes.first()));
}

pub(crate) fn runtime(workers: usize) -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(workers).enable_all().build()?)
}

/// A fabric over a private memory instance.
pub(crate) fn memory(config: MemoryConfig) -> Result<Fabric> {
    Ok(Fabric::new(Memory::new(config)?))
}

/// Runs `round` on the runtime's workers.
pub(crate) fn on<T: Send + 'static>(
    runtime: &Runtime,
    round: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    runtime.block_on(finished(runtime.spawn(round)))
}

/// The result of a task, which may not hang.
pub(crate) async fn finished<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    tokio::time::timeout(WATCHDOG, task).await.map_err(|_| "a task hangs: events were lost")??
}

/// Fails where anything came twice, late or never.
pub(crate) fn expect_clean(fabric: &Fabric) -> Result<()> {
    let stats = fabric.stats();
    if stats == StatsSnapshot::default() {
        return Ok(());
    }
    Err(format!("what arrived is not what was published: {stats:?}").into())
}

/// Fails where a subscription has something left to deliver.
pub(crate) async fn expect_empty(subscription: &mut Subscription) -> Result<()> {
    let next = poll_fn(|cx| Poll::Ready(pin!(subscription.recv()).poll(cx))).await;
    if next.is_pending() { Ok(()) } else { Err("more events arrived than were published".into()) }
}

/// Counts what several consumers take together, without an atomic operation per event.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    seen: AtomicU64,
    changed: Notify,
}

impl Tally {
    /// Waits for `next` and counts it in `own`, which is added to the sum before anybody sleeps.
    pub(crate) async fn count<F: Future>(&self, own: &mut u64, next: F) -> F::Output {
        let mut next = pin!(next);
        poll_fn(|cx| {
            let polled = next.as_mut().poll(cx);
            match polled {
                Poll::Ready(_) => *own += 1,
                Poll::Pending => self.add(std::mem::take(own)),
            }
            polled
        })
        .await
    }

    pub(crate) fn add(&self, count: u64) {
        if count > 0 {
            self.seen.fetch_add(count, Ordering::AcqRel);
            self.changed.notify_one();
        }
    }

    /// Resolves with the sum once it is at least `total`.
    pub(crate) async fn reached(&self, total: u64) -> u64 {
        loop {
            let seen = self.seen.load(Ordering::Acquire);
            if seen >= total {
                return seen;
            }
            self.changed.notified().await;
        }
    }
}
