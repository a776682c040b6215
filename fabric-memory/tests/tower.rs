//! Tower services as handlers, with real tower layers around them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as Task, Poll};
use std::time::Duration;

use fabric_core::{Event, Fabric, HandlerError, Incoming, Result, Retry, Topic, TypedEvent};
use fabric_memory::{Memory, MemoryConfig};
use tokio::time::sleep;
use tower::limit::ConcurrencyLimitLayer;
use tower::timeout::TimeoutLayer;
use tower::util::BoxCloneService;
use tower::{BoxError, Service, ServiceBuilder, service_fn};

const MILLI: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
struct Order(u8);

impl TypedEvent for Order {
    const TYPE: &'static str = "order";
    const VERSION: u32 = 1;
    const PATTERN: &'static str = "orders";
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn topic(&self) -> Result<Topic> {
        Topic::new("orders")
    }

    fn key(&self) -> Option<String> {
        None
    }

    fn encode(&self) -> Result<bytes::Bytes> {
        Ok(bytes::Bytes::copy_from_slice(&[self.0]))
    }

    fn decode(payload: &[u8]) -> Result<Self> {
        Ok(Self(payload[0]))
    }
}

fn fabric() -> Fabric {
    Fabric::new(Memory::new(MemoryConfig::new()).unwrap())
}

async fn settled(fabric: &Fabric) {
    loop {
        let info = fabric.groups().unwrap().info("g").await.unwrap();
        if info.undelivered() + info.pending() == 0 {
            return;
        }
        sleep(MILLI).await;
    }
}

/// Ready once for each clone, and only after a poll: who calls another clone than the one that it
/// polled, or one twice, panics.
struct Strict {
    ready: bool,
    polls: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false, polls: Arc::clone(&self.polls) }
    }
}

impl Service<Incoming<Order>> for Strict {
    type Response = Event;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Event, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        if self.polls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, incoming: Incoming<Order>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without being ready");
        let text = format!("{}@{}", incoming.0, incoming.context.attempt());
        std::future::ready(Ok(Event::to("done").text(text).build().unwrap()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_polled_ready_before_each_call_and_its_response_is_published() {
    let fabric = fabric();
    let mut done = fabric.subscribe("done").await.unwrap();
    let polls = Arc::new(AtomicUsize::new(0));
    let consumer = fabric
        .consumer("g")
        .on_service::<Order, _>(Strict { ready: false, polls: Arc::clone(&polls) })
        .start()
        .await
        .unwrap();
    for n in 0..20 {
        fabric.publish(Order(n)).await.unwrap();
        let output = done.recv().await.unwrap().unwrap();
        assert_eq!(output.text().unwrap(), format!("{n}@1"));
    }
    settled(&fabric).await;
    assert_eq!((polls.load(Ordering::Relaxed), consumer.status().handled), (40, 20));
    consumer.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_timeout_layer_fails_a_try_and_the_next_succeeds() {
    let fabric = fabric();
    let tries = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tries);
    let service = ServiceBuilder::new().layer(TimeoutLayer::new(MILLI * 50)).service(service_fn(
        move |incoming: Incoming<Order>| {
            let seen = Arc::clone(&seen);
            async move {
                seen.lock().unwrap().push(incoming.context.attempt());
                if incoming.context.attempt() == 1 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, BoxError>(())
            }
        },
    ));
    // A boxed service is `Send` and not `Sync`.
    let service = BoxCloneService::new(service);
    let consumer = fabric
        .consumer("g")
        .on_service::<Order, _>(service)
        .retry(Retry::exponential(MILLI))
        .start()
        .await
        .unwrap();
    fabric.publish(Order(1)).await.unwrap();
    settled(&fabric).await;
    assert_eq!(*tries.lock().unwrap(), [1, 2]);
    let status = consumer.status();
    assert_eq!((status.handled, status.failed), (1, 1));
    consumer.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_is_shared_by_the_tries() {
    let fabric = fabric();
    let running = Arc::new(AtomicUsize::new(0));
    let (most, now) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&running));
    let peak = Arc::clone(&most);
    let service = ServiceBuilder::new().layer(ConcurrencyLimitLayer::new(2)).service(service_fn(
        move |_: Incoming<Order>| {
            let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
            async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(MILLI * 10).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, BoxError>(())
            }
        },
    ));
    let consumer =
        fabric.consumer("g").on_service::<Order, _>(service).concurrency(8).start().await.unwrap();
    for n in 0..20 {
        fabric.publish(Order(n)).await.unwrap();
    }
    settled(&fabric).await;
    assert_eq!((most.load(Ordering::SeqCst), consumer.status().handled), (2, 20));
    consumer.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_stays_permanent_through_a_layer_that_boxes_it() {
    let fabric = fabric();
    let failed = Arc::new(AtomicBool::new(false));
    let once = Arc::clone(&failed);
    let service = ServiceBuilder::new().layer(TimeoutLayer::new(MILLI * 50)).service(service_fn(
        move |_: Incoming<Order>| {
            let again = once.swap(true, Ordering::SeqCst);
            async move {
                assert!(!again, "a permanent error was tried again");
                Err::<(), _>(HandlerError::permanent("no such plan").into_boxed())
            }
        },
    ));
    let consumer = fabric.consumer("g").on_service::<Order, _>(service).start().await.unwrap();
    fabric.publish(Order(1)).await.unwrap();
    settled(&fabric).await;
    let letters = fabric.dead_letters("g").list(10).await.unwrap();
    let letter = letters[0].dead_letter().unwrap();
    assert_eq!((letters.len(), letter.error.as_str()), (1, "no such plan"));
    assert_eq!((letter.reason.as_str(), letter.attempts), ("rejected", 1));
    consumer.drain().await.unwrap();
}
