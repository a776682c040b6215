//! Keys: used where this libzmq can, refused at once where it cannot.
//!
//! `cargo xtask test zmq` runs this twice: over the libzmq that comes with the binding, which cannot,
//! and over the system's, which has to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::time::Duration;

use fabric_core::{Backend as _, ErrorKind, Event, Fabric, Secret};
use fabric_zmq::broker::{Broker, BrokerConfig};
use fabric_zmq::{
    BrokerAddress, ClientKeys, Key, KeyPair, Topology, Zmq, ZmqConfig, is_curve_supported,
};

const WATCHDOG: Duration = Duration::from_secs(30);

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
    if !supported() {
        return;
    }
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
    refused(client(at.clone(), stranger.public(), &known)).await;
    refused(ZmqConfig::brokers([at]).with_connect_timeout(Duration::from_secs(2))).await;
    // The loop looks at who was refused a moment later, and shows it to whoever asks twice.
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let seen = async {
        while broker.stats().refused == 0 {
            looks.tick().await;
        }
    };
    tokio::time::timeout(WATCHDOG, seen).await.unwrap();

    fabric.publish(Event::to("secret.b").text("two")).await.unwrap();
    let event = tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.text().unwrap(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_whoever_knows_the_brokers_key_gets_in() {
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
