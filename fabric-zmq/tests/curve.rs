//! Keys: used where this libzmq can, refused at once where it cannot.
//!
//! `cargo xtask test zmq` runs this twice: over the libzmq that comes with the binding, which cannot,
//! and over the system's, which has to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::sync::{Mutex, Once};
use std::time::Duration;

use fabric_core::{Backend as _, ErrorKind, Event, Fabric, Secret};
use fabric_zmq::broker::{Broker, BrokerConfig};
use fabric_zmq::{
    BrokerAddress, ClientKeys, Key, KeyPair, Topology, Zmq, ZmqConfig, is_curve_supported,
};

const WATCHDOG: Duration = Duration::from_secs(30);

/// Everything that was logged in this program, a line each.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Writes what is logged to [`LOG`].
struct Logged;

impl tracing::Subscriber for Logged {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write as _;
                write!(self.0, " {field}={value:?}").unwrap();
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        LOG.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Waits for a line with all of these.
async fn logged(words: &[&str]) {
    let found = async {
        while !LOG.lock().unwrap().iter().any(|line| words.iter().all(|word| line.contains(word))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(WATCHDOG, found).await;
    assert!(found.is_ok(), "no line has {words:?}: {:#?}", LOG.lock().unwrap());
}

fn log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Logged).unwrap());
}

fn supported() -> bool {
    let supported = is_curve_supported();
    if std::env::var_os("FABRIC_TEST_ZMQ_CURVE").is_some() {
        assert!(supported, "this libzmq was to have CURVE");
    }
    supported
}

fn on_free_ports() -> BrokerConfig {
    BrokerConfig::new("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
}

fn client(at: BrokerAddress, server: Key, own: &KeyPair) -> ZmqConfig {
    let keys = ClientKeys::new(server, own.public(), own.secret().clone()).unwrap();
    ZmqConfig::brokers([at]).with_curve(Some(keys)).with_connect_timeout(Duration::from_secs(2))
}

async fn refused(config: ZmqConfig) {
    let opened = tokio::time::timeout(WATCHDOG, Zmq::open(config)).await.unwrap();
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
}

#[tokio::test]
async fn without_curve_keys_are_refused_before_anything_is_sent() {
    support::watch::this_test();
    if supported() {
        return;
    }
    let key = Key::from_bytes([7; 32]);
    let secret = Secret::new("07".repeat(32));
    let keys = ClientKeys::new(key, key, secret.clone()).unwrap();
    // Nobody listens there: it is refused for the keys, and not for that.
    let nowhere = BrokerAddress {
        backend: "tcp://127.0.0.1:1".to_owned(),
        frontend: "tcp://127.0.0.1:2".to_owned(),
    };
    let config = ZmqConfig::brokers([nowhere]).with_curve(Some(keys));
    let error = Zmq::open(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let pair = KeyPair::new(key, secret).unwrap();
    let error = Broker::start(&on_free_ports().with_keys(Some(pair))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(KeyPair::generate().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_in_the_list_get_in_and_nobody_else() {
    support::watch::this_test();
    if !supported() {
        return;
    }
    log();
    let pair = || KeyPair::generate().unwrap();
    let (server, known, stranger) = (pair(), pair(), pair());
    let config = on_free_ports().with_keys(Some(server.clone())).with_allow(vec![known.public()]);
    let broker = Broker::start(&config).unwrap();
    let at = broker.address();

    let fabric = Fabric::new(Zmq::open(client(at.clone(), server.public(), &known)).await.unwrap());
    let mut events = fabric.subscribe("secret.*").await.unwrap();
    fabric.publish(Event::to("secret.a").text("one")).await.unwrap();
    let event = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.text().unwrap(), "one");

    // A key that is not in the list; the wrong key of the broker; no keys at all.
    refused(client(at.clone(), server.public(), &stranger)).await;
    // The operator sees whose key it was, and not the key.
    let fingerprint = stranger.public().fingerprint();
    logged(&["WARN", "a connection is refused", &fingerprint, "127.0.0.1", "not in the list"])
        .await;
    let whole = stranger.public().to_string();
    assert!(LOG.lock().unwrap().iter().all(|line| !line.contains(&whole)));
    refused(client(at.clone(), stranger.public(), &known)).await;
    refused(ZmqConfig::brokers([at]).with_connect_timeout(Duration::from_secs(2))).await;
    // The loop looks at who was refused a moment later, and shows it to whoever asks twice. Those who
    // were refused are not taken for others that have left.
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let seen = async {
        loop {
            let stats = broker.stats();
            if stats.refused > 0 && (stats.publishers, stats.subscribers) == (1, 1) {
                break;
            }
            looks.tick().await;
        }
    };
    let seen = tokio::time::timeout(WATCHDOG, seen).await;
    assert!(seen.is_ok(), "{:?}", broker.stats());

    fabric.publish(Event::to("secret.b").text("two")).await.unwrap();
    let event = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.text().unwrap(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_whoever_knows_the_brokers_key_gets_in() {
    support::watch::this_test();
    if !supported() {
        return;
    }
    let (server, anybody) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let broker = Broker::start(&on_free_ports().with_keys(Some(server.clone()))).unwrap();
    let zmq = Zmq::open(client(broker.address(), server.public(), &anybody)).await.unwrap();
    assert!(zmq.health().await.is_up());
}

/// A broker without keys is no broker for a client that expects them.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_keys_does_not_talk_to_a_broker_without() {
    support::watch::this_test();
    if !supported() {
        return;
    }
    let broker = support::broker();
    let keys = KeyPair::generate().unwrap();
    refused(client(broker.address(), keys.public(), &keys)).await;
}

/// Among peers the key of the "server" is that of whoever listens, and all share one pair.
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_share_a_pair_meet() {
    support::watch::this_test();
    if !supported() {
        return;
    }
    let pair = KeyPair::generate().unwrap();
    let folder = support::Folder::new();
    let open = async || {
        let keys = ClientKeys::new(pair.public(), pair.public(), pair.secret().clone()).unwrap();
        let topology = Topology::Folder { folder: folder.0.clone() };
        Fabric::new(Zmq::open(ZmqConfig::of(topology).with_curve(Some(keys))).await.unwrap())
    };
    let (one, other) = (open().await, open().await);
    let mut events = one.subscribe("a").await.unwrap();
    other.publish(Event::to("a").text("x")).await.unwrap();
    let event = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.text().unwrap(), "x");
}
