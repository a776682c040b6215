//! Without a broker: clients that meet in a folder, or by a list.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::time::Duration;

use fabric_core::conformance::Harness as _;
use fabric_core::{Event, Fabric};
use fabric_zmq::{Topology, Zmq, ZmqConfig};
use support::Peers;

#[tokio::test]
async fn a_peer_that_left_is_not_missed() {
    support::watch::this_test();
    let peers = Peers::new();
    let stays = peers.open().await.unwrap();
    let leaves = peers.open().await.unwrap();
    assert!(stays.health().await.is_up());
    leaves.close(Duration::from_secs(1)).await.unwrap();
    let health = stays.health().await;
    assert!(health.is_up(), "{health:?}");
}

/// Three peers by a list, of which one is not there yet: the first event of each reaches all, also
/// those that come later.
#[tokio::test]
async fn peers_of_a_list_find_each_other() {
    support::watch::this_test();
    let ports: Vec<_> = (0..3).map(|_| fabric_brokers::Port::reserve().unwrap()).collect();
    let at = |n: usize| format!("tcp://{}", ports[n].address());
    let open = async |n: usize| {
        let topology = Topology::Peers { bind: at(n), peers: (0..3).map(at).collect() };
        Fabric::new(Zmq::open(ZmqConfig::of(topology)).await.unwrap())
    };
    let mut fabrics = vec![open(0).await];
    let mut readers = vec![fabrics[0].subscribe("#").await.unwrap()];
    for n in 1..3 {
        fabrics.push(open(n).await);
        fabrics[n].publish(Event::to("hello").text(n.to_string())).await.unwrap();
        for reader in &mut readers {
            let got = tokio::time::timeout(Duration::from_secs(20), reader.recv()).await;
            assert_eq!(got.unwrap().unwrap().unwrap().text().unwrap(), n.to_string());
        }
        readers.push(fabrics[n].subscribe("#").await.unwrap());
    }
}
