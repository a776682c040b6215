//! What breaks, and how much of it is told: loss counts that match the history exactly, bounds that
//! hold, input that is no event.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fabric_core::layers::Metrics;
use fabric_core::{Error, ErrorKind, Event, Fabric, RetryClass, Subscription};
use fabric_zmq::broker::{Broker, BrokerConfig};
use fabric_zmq::client::{Context, SNDMORE, SocketType};
use fabric_zmq::{BrokerAddress, Zmq, ZmqConfig};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use support::Server;

const WATCHDOG: Duration = Duration::from_secs(60);

async fn open(config: ZmqConfig) -> Fabric {
    Fabric::new(Zmq::open(config).await.unwrap())
}

/// Reads until what was received and what was told to be missing make up `all`.
async fn account(events: &mut Subscription, all: u64) -> (u64, u64) {
    let (mut received, mut missed) = (0, 0);
    let reading = async {
        while received + missed < all {
            match events.recv().await.unwrap() {
                Ok(_) => received += 1,
                Err(error) if error.kind() == ErrorKind::Lagged => {
                    missed += error.missed().unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let done = tokio::time::timeout(WATCHDOG, reading).await;
    assert!(done.is_ok(), "{received} received and {missed} missed of {all}");
    (received, missed)
}

/// Publishers go on while the broker is killed and started again; every event that was taken either
/// arrives or is told to be missing, topic by topic, to the last one, with two publishers on one topic
/// too. The metric says the same.
#[tokio::test(flavor = "multi_thread")]
async fn losses_over_a_killed_broker_match_the_history() {
    const TOPICS: [&str; 3] = ["load.0", "load.1", "load.both"];
    support::watch::this_test();
    let server = Arc::new(Server::start());
    let config =
        || ZmqConfig::brokers([server.address()]).with_heartbeat(Duration::from_millis(200));
    let recorder = DebuggingRecorder::new();
    let metrics = recorder.snapshotter();
    let reader = open(config()).await.layer(Metrics::new().with_recorder(recorder)).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let taken: Vec<_> = (0..4).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let mut subscriptions = Vec::new();
    for topic in TOPICS {
        subscriptions.push(reader.subscribe(topic).await.unwrap());
    }
    let mut publishers = Vec::new();
    for (n, taken) in taken.iter().enumerate() {
        let topic = TOPICS[n.min(2)];
        let (publisher, over, taken) = (open(config()).await, Arc::clone(&over), Arc::clone(taken));
        publishers.push(tokio::spawn(async move {
            while !over.load(Ordering::Acquire) {
                match publisher.publish(Event::to(topic).text("x")).await {
                    Ok(_) => taken.fetch_add(1, Ordering::AcqRel),
                    Err(error) => panic!("{error}"),
                };
                // A pace at which the queue holds what comes while no broker is there.
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            // It stays, so that its heartbeats tell of the tail.
            publisher
        }));
    }
    // Each publisher goes on by as many.
    let more = async |count: u64| {
        let before: Vec<_> = taken.iter().map(|it| it.load(Ordering::Acquire)).collect();
        let goes_on = async {
            for (taken, before) in taken.iter().zip(before) {
                while taken.load(Ordering::Acquire) < before + count {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        tokio::time::timeout(WATCHDOG, goes_on).await.unwrap();
    };
    for _ in 0..3 {
        more(200).await;
        server.process().kill();
        more(100).await;
        server.process().start().unwrap();
    }
    more(200).await;
    over.store(true, Ordering::Release);
    let mut stay = Vec::new();
    for publisher in publishers {
        stay.push(publisher.await.unwrap());
    }
    let taken: Vec<_> = taken.iter().map(|taken| taken.load(Ordering::Acquire)).collect();
    let mut all_missed = 0;
    for (events, taken) in subscriptions.iter_mut().zip([taken[0], taken[1], taken[2] + taken[3]]) {
        let (received, missed) = account(events, taken).await;
        assert_eq!(received + missed, taken, "{received} received, {missed} missed");
        assert!(received > 0);
        all_missed += missed;
    }
    assert!(all_missed > 0, "a killed broker lost nothing, which was no test");
    assert_eq!(reader.stats().missed, all_missed);
    assert_eq!(counter(&metrics, "fabric_missed_total"), all_missed);
}

/// What a counter has come to, all labels together.
fn counter(metrics: &Snapshotter, name: &str) -> u64 {
    let all = metrics.snapshot().into_vec().into_iter();
    let named = all.filter(|(key, ..)| key.key().name() == name);
    named.map(|(.., value)| if let DebugValue::Counter(count) = value { count } else { 0 }).sum()
}

/// A tail that was lost is told by the next heartbeat, with nothing behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tail_is_told_by_the_next_heartbeat() {
    const TAIL: u64 = 50;
    support::watch::this_test();
    let server = Server::start();
    let config = || {
        ZmqConfig::brokers([server.address()])
            .with_heartbeat(Duration::from_millis(200))
            // It hangs for as long as it takes until everything has left the publisher.
            .with_link_timeout(WATCHDOG)
    };
    let (reader, sender) = (open(config()).await, open(config()).await);
    let mut events = reader.subscribe("tail").await.unwrap();
    sender.publish(Event::to("tail").text("first")).await.unwrap();
    assert_eq!(account(&mut events, 1).await, (1, 0));
    // Sent into a broker that hangs, and dies with what it was sent.
    server.hang();
    const PAYLOAD: usize = 1000;
    for _ in 0..TAIL {
        sender.publish(Event::to("tail").bytes(vec![1; PAYLOAD])).await.unwrap();
    }
    server.unread(TAIL as usize * (PAYLOAD + 50));
    server.process().kill();
    server.process().start().unwrap();
    assert_eq!(account(&mut events, TAIL).await, (0, TAIL));
}

/// The bound on a publisher is one: it waits, then is told `Full`; and what it had been told `Ok` for
/// arrives, all of it, once the broker goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_broker_makes_publishers_wait_and_loses_nothing() {
    support::watch::this_test();
    let server = Server::start();
    let config = ZmqConfig::brokers([server.address()])
        .with_hwm(100)
        .with_link_timeout(WATCHDOG)
        .with_full_wait(Duration::from_millis(300));
    let reader = open(config.clone().with_hwm(100_000)).await;
    let sender = open(config).await;
    let mut events = reader.subscribe("bound").await.unwrap();
    server.hang();
    let mut taken = 0;
    let error = loop {
        // Large ones, so that the buffers of TCP are full soon.
        match sender.publish(Event::to("bound").bytes(vec![7; 64 << 10])).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 10_000, "{taken} events are in a queue for 100");
    };
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Full, RetryClass::Safe), "{error}");
    server.process().resume();
    assert_eq!(account(&mut events, taken).await, (taken, 0));
}

/// A subscription that is not read holds what it may hold, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_not_read_stays_within_its_bound() {
    support::watch::this_test();
    const BYTES: usize = 2 << 20;
    const EVENT: usize = 10_000;
    const ALL: u64 = 2000;
    let broker = support::broker();
    let config = ZmqConfig::brokers([broker.address()]).with_queue_bytes(BYTES);
    let (reader, sender) = (open(config.clone()).await, open(config).await);
    let mut stopped = reader.subscribe("stopped").await.unwrap();
    let mut witness = reader.subscribe("end").await.unwrap();
    for _ in 0..ALL {
        sender.publish(Event::to("stopped").bytes(vec![0; EVENT])).await.unwrap();
    }
    sender.publish(Event::to("end").text("x")).await.unwrap();
    assert_eq!(account(&mut witness, 1).await, (1, 0));
    let (received, missed) = account(&mut stopped, ALL).await;
    assert!(received as usize * EVENT <= BYTES, "{received} events were held");
    assert!(received as usize * EVENT > BYTES / 2, "only {received} events were held");
    assert_eq!(received + missed, ALL);
}

/// A subscriber of ZeroMQ that never reads costs the broker its high-water mark, and other
/// subscribers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_read_costs_the_broker_its_mark() {
    support::watch::this_test();
    const HWM: usize = 200;
    const EVENT: usize = 16 << 10;
    const ALL: u64 = 6000;
    let server = Server::with_hwm(HWM);
    let reader = open(ZmqConfig::brokers([server.address()])).await;
    let sender = open(ZmqConfig::brokers([server.address()])).await;
    let mut events = reader.subscribe("flood").await.unwrap();
    let before = server.resident();
    let context = Context::new();
    let stuck = context.socket(SocketType::SUB).unwrap();
    stuck.set_rcvhwm(10).unwrap();
    stuck.set_linger(0).unwrap();
    stuck.connect(&server.address().backend).unwrap();
    stuck.set_subscribe(b"").unwrap();
    for n in 0..ALL {
        sender.publish(Event::to("flood").bytes(vec![1; EVENT])).await.unwrap();
        if n % 50 == 49 {
            // At the pace of the one who reads: what is measured is the other.
            let (received, missed) = account(&mut events, 50).await;
            assert_eq!(missed, 0, "{received} received");
        }
    }
    let grown = server.resident().saturating_sub(before);
    // What waits for the stuck one, what is between the sockets, and libzmq's own batches.
    let bound = (2 * HWM * EVENT) as u64 + (8 << 20);
    assert!(grown < bound, "the broker grew by {grown} bytes, {bound} are the bound");
    assert!(ALL * EVENT as u64 > 2 * bound, "too little was sent to tell");
}

/// What comes from strangers: each is counted, those who subscribe to its topic are told, and what
/// follows arrives.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_counted_and_told() {
    support::watch::this_test();
    let broker = support::broker();
    let reader = open(ZmqConfig::brokers([broker.address()])).await;
    let mut events = reader.subscribe("#").await.unwrap();
    let context = Context::new();
    let stranger = context.socket(SocketType::XPUB).unwrap();
    stranger.set_linger(0).unwrap();
    stranger.connect(&broker.address().frontend).unwrap();
    assert_eq!(stranger.recv_bytes(0).unwrap(), [1], "the broker wants everything");

    let good = {
        let mut block = Vec::new();
        let event = Event::to("t").id("1").source("s").text("x");
        let event = fabric_core::Batch::one(event.build().unwrap()).events.remove(0);
        let stamp = fabric_core::wire::block::Stamp {
            kind: fabric_core::wire::block::Kind::Event,
            publisher: [9; 16],
            sequence: 1,
        };
        fabric_core::wire::block::write(&mut block, stamp, &event, 1).unwrap();
        block
    };
    let with = |at: usize, byte: u8| {
        let mut block = good.clone();
        block[at] = byte;
        block
    };
    let cut = good[..good.len() - 3].to_vec();
    let table: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("two frames", vec![b"t".to_vec(), b"payload".to_vec()]),
        ("four frames", vec![b"t".to_vec(), good.clone(), b"x".to_vec(), b"y".to_vec()]),
        ("no block", vec![b"t".to_vec(), b"hello".to_vec(), b"x".to_vec()]),
        ("an empty block", vec![b"t".to_vec(), Vec::new(), b"x".to_vec()]),
        ("a block that is cut off", vec![b"t".to_vec(), cut, b"x".to_vec()]),
        ("another version", vec![b"t".to_vec(), with(2, 9), b"x".to_vec()]),
        ("a huge length", vec![b"t".to_vec(), with(7, 0x7f), b"x".to_vec()]),
        ("a payload that is too short", vec![b"t".to_vec(), good.clone(), Vec::new()]),
        ("a payload that is too long", vec![b"t".to_vec(), good.clone(), b"xyz".to_vec()]),
        ("another kind", vec![b"t".to_vec(), with(3, 1), b"x".to_vec()]),
        ("a topic that is none", vec![b"a..b".to_vec(), good.clone(), b"x".to_vec()]),
        ("a topic that is no text", vec![vec![0xff, 0xfe], good.clone(), b"x".to_vec()]),
        ("control without sense", vec![b"_fabric.hb".to_vec(), b"?".to_vec(), b"?".to_vec()]),
        ("a request of nothing", vec![b"_fabric.req".to_vec(), b"?".to_vec(), b"?".to_vec()]),
        ("an answer of nothing", vec![b"_reply.x".to_vec(), b"?".to_vec(), b"?".to_vec()]),
    ];
    let count = table.len();
    for (_, frames) in table {
        let last = frames.len() - 1;
        for (n, frame) in frames.into_iter().enumerate() {
            stranger.send(frame, if n < last { SNDMORE } else { 0 }).unwrap();
        }
    }
    let sender = open(ZmqConfig::brokers([broker.address()])).await;
    // The stranger's come first by now, or later: the end is told by an event of its own.
    let mut errors = 0;
    let mut end = false;
    for (n, frame) in [b"t".to_vec(), with(32, 77), b"x".to_vec()].into_iter().enumerate() {
        stranger.send(frame, if n < 2 { SNDMORE } else { 0 }).unwrap();
    }
    let reading = async {
        while !end {
            match events.recv().await.unwrap() {
                Ok(event) => end = *event.id() == "1" && event.topic() == "t",
                Err(error) if error.kind() == ErrorKind::Codec => errors += 1,
                Err(error) if error.kind() == ErrorKind::Lagged => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(WATCHDOG, reading).await.unwrap();
    assert!(errors >= 7, "{errors} of {count} were told");
    let health = reader.health().await;
    let foreign: usize = health.details["foreign"].parse().unwrap();
    assert!(foreign >= errors, "{foreign} counted, {errors} told");
    assert!(health.is_up());
    sender.publish(Event::to("after").text("fine")).await.unwrap();
    let after = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(after.topic(), "after");
}

/// A frame that is larger than the broker takes ends the connection that brought it, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_harms_no_neighbour() {
    support::watch::this_test();
    let config = BrokerConfig::new("tcp://127.0.0.1:*", "tcp://127.0.0.1:*");
    let broker = Broker::start(&config.with_max_message(64 << 10)).unwrap();
    let config = ZmqConfig::brokers([broker.address()]);
    let reader = open(config.clone()).await;
    let mut events = reader.subscribe("#").await.unwrap();
    // This one was told another limit than the broker.
    let careless = open(config.clone()).await;
    careless.publish(Event::to("big").bytes(vec![0; 1 << 20])).await.unwrap();
    let careful = open(config.with_max_payload(32 << 10)).await;
    let error = careful.publish(Event::to("big").bytes(vec![0; 1 << 20])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    for n in 0..10 {
        careful.publish(Event::to("small").text(n.to_string())).await.unwrap();
        let event = loop {
            let item = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap();
            match item {
                Ok(event) => break event,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Lagged, "{error}"),
            }
        };
        assert_eq!(event.text().unwrap(), n.to_string());
    }
}

async fn fails(backend: String, frontend: String) -> Error {
    let config = ZmqConfig::brokers([BrokerAddress { backend, frontend }])
        .with_connect_timeout(Duration::from_secs(1));
    tokio::time::timeout(WATCHDOG, Zmq::open(config)).await.unwrap().unwrap_err()
}

/// Whatever is wrong with the other side, connecting ends by its timeout and says what it is.
#[tokio::test(flavor = "multi_thread")]
async fn connecting_to_what_is_no_broker_says_so() {
    support::watch::this_test();
    let at = |address: std::net::SocketAddr| format!("tcp://{address}");
    // Nobody.
    let port = fabric_brokers::Port::reserve().unwrap();
    let error = fails(at(port.address()), at(port.address())).await;
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    assert!(error.to_string().contains("nobody listens"), "{error}");

    // Something that speaks another protocol.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = at(listener.local_addr().unwrap());
    let answering = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt as _;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = fails(other.clone(), other).await;
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    answering.abort();

    // The two sides of a broker, swapped.
    let broker = support::broker();
    let BrokerAddress { backend, frontend } = broker.address();
    let error = fails(frontend, backend).await;
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    assert!(error.to_string().contains("other side"), "{error}");

    // libzmq's own proxy, which answers no subscription.
    let context = Context::new();
    let (front, back) =
        (context.socket(SocketType::XSUB).unwrap(), context.socket(SocketType::XPUB).unwrap());
    front.bind("tcp://127.0.0.1:*").unwrap();
    back.bind("tcp://127.0.0.1:*").unwrap();
    front.send(&b"\x01"[..], 0).unwrap();
    let ends = [&back, &front].map(|socket| socket.get_last_endpoint().unwrap().unwrap());
    let proxy = std::thread::spawn(move || {
        let _ = fabric_zmq::client::proxy(&front, &back);
    });
    let [backend, frontend] = ends;
    let error = fails(backend, frontend).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("profile=raw"), "{error}");
    let mut context = context;
    tokio::task::spawn_blocking(move || context.destroy()).await.unwrap().unwrap();
    tokio::task::spawn_blocking(move || proxy.join()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_told() {
    support::watch::this_test();
    let broker = support::broker();
    let taken = broker.address();
    let config = BrokerConfig::new(taken.frontend, "tcp://127.0.0.1:*");
    let error = Broker::start(&config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(error.to_string().contains("listens there already"), "{error}");
}

/// The profile for programs that know nothing of events: both ways, and what it cannot carry is
/// refused.
#[tokio::test(flavor = "multi_thread")]
async fn the_raw_profile_speaks_with_plain_programs() {
    support::watch::this_test();
    let broker = support::broker();
    let config = ZmqConfig::brokers([broker.address()]).with_raw(true);
    let fabric = open(config).await;
    let mut events = fabric.subscribe("plan.*").await.unwrap();
    let context = Context::new();
    let plain = context.socket(SocketType::XPUB).unwrap();
    plain.connect(&broker.address().frontend).unwrap();
    assert_eq!(plain.recv_bytes(0).unwrap(), [1]);
    let reader = context.socket(SocketType::SUB).unwrap();
    reader.connect(&broker.address().backend).unwrap();
    reader.set_subscribe(b"plan.").unwrap();
    // A plain program knows of no markers, but this one has to know when its subscription is in force.
    let marker = b"_fabric.sync.00000000-0000-0000-0000-000000000001";
    reader.set_subscribe(marker).unwrap();
    let reader = tokio::task::spawn_blocking(move || {
        assert_eq!(reader.recv_multipart(0).unwrap()[0], marker);
        reader
    });
    let reader = reader.await.unwrap();

    plain.send("plan.step_ready", SNDMORE).unwrap();
    plain.send("{\"seq\": 0}", 0).unwrap();
    let event = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(
        (event.topic().as_str(), &*event.text().unwrap()),
        ("plan.step_ready", "{\"seq\": 0}")
    );
    fabric.publish(Event::to("plan.done").bytes(&b"{}"[..])).await.unwrap();
    let both = tokio::task::spawn_blocking(move || [(); 2].map(|()| reader.recv_multipart(0)));
    let [first, second] = both.await.unwrap().map(Result::unwrap);
    assert_eq!(first, [b"plan.step_ready".to_vec(), b"{\"seq\": 0}".to_vec()]);
    assert_eq!(second, [b"plan.done".to_vec(), b"{}".to_vec()]);
    let error = fabric.publish(Event::to("plan.done").key("k").text("{}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// With a broker of ours the raw profile knows when a subscription is in force: nothing is missed.
#[tokio::test(flavor = "multi_thread")]
async fn raw_subscriptions_miss_nothing_at_our_broker() {
    support::watch::this_test();
    let broker = support::broker();
    let config = ZmqConfig::brokers([broker.address()]).with_raw(true);
    let mut readers = Vec::new();
    for _ in 0..8 {
        let fabric = open(config.clone()).await;
        readers.push(fabric.subscribe("raw").await.unwrap());
    }
    let sender = open(config).await;
    for n in 0..2000 {
        sender.publish(Event::to("raw").bytes(n.to_string().into_bytes())).await.unwrap();
    }
    for events in &mut readers {
        for n in 0..2000 {
            let event = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap();
            assert_eq!(event.unwrap().unwrap().text().unwrap(), n.to_string());
        }
    }
}

/// Ten thousand subscriptions share one connection.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_subscriptions_share_one_connection() {
    support::watch::this_test();
    let broker = support::broker();
    let fabric = open(ZmqConfig::brokers([broker.address()])).await;
    let mut subscriptions = Vec::new();
    for n in 0..10_000 {
        subscriptions.push(fabric.subscribe(format!("t{n}.*")).await.unwrap());
    }
    fabric.publish(Event::to("t9999.x").text("x")).await.unwrap();
    fabric.publish(Event::to("t0.x").text("y")).await.unwrap();
    let first = tokio::time::timeout(WATCHDOG, subscriptions[0].recv()).await.unwrap();
    assert_eq!(first.unwrap().unwrap().text().unwrap(), "y");
    let last = tokio::time::timeout(WATCHDOG, subscriptions[9999].recv()).await.unwrap();
    assert_eq!(last.unwrap().unwrap().text().unwrap(), "x");
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let seen = async {
        loop {
            let stats = broker.stats();
            if stats.subscribers == 1 && stats.subscriptions >= 10_000 {
                break;
            }
            looks.tick().await;
        }
    };
    tokio::time::timeout(WATCHDOG, seen).await.unwrap();
}
