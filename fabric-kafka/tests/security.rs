//! Who may come: TLS with users, by each mechanism that the backend takes, on a real listener.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use fabric_brokers::Certificates;
use fabric_brokers::kafka::{Options, Server};
use fabric_core::{Dsn, ErrorKind, Event, Fabric, Result};
use fabric_kafka::Kafka;

/// Nothing here takes as long.
const WATCHDOG: Duration = Duration::from_secs(120);

/// A broker that takes one user over TLS.
struct World {
    server: Server,
    certificates: Certificates,
}

impl World {
    fn new() -> Self {
        let certificates = Certificates::new().unwrap();
        let options = Options::new().secure(&certificates, &[("ann", "swordfish")]);
        Self { server: Server::start(options).unwrap(), certificates }
    }

    async fn connect(&self, user: &str, sasl: &str, trusted: &Certificates) -> Result<Fabric> {
        let address = self.server.secure_address();
        let authority = trusted.authority();
        let dsn = format!(
            "kafka+tls://{user}@localhost:{}?prefix={}&sasl={sasl}&ca={}",
            address.port(),
            sasl.replace('-', ""),
            authority.display(),
        );
        Ok(Fabric::new(Kafka::connect(Dsn::parse(&dsn)?).await?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_comes_in_by_each_mechanism_and_nobody_else_does() {
    let world = World::new();
    let all = async {
        for sasl in ["plain", "scram-sha-256", "scram-sha-512"] {
            let ann = "ann:swordfish";
            let fabric = world.connect(ann, sasl, &world.certificates).await.unwrap();
            let mut events = fabric.subscribe("orders.#").await.unwrap();
            fabric.publish(Event::to("orders.created").text(sasl)).await.unwrap();
            let came = events.recv().await.unwrap().unwrap();
            assert_eq!(came.text().unwrap(), sasl);
            fabric.close(Duration::from_secs(5)).await.unwrap();

            let wrong = world.connect("ann:perch", sasl, &world.certificates).await.unwrap_err();
            assert_eq!(wrong.kind(), ErrorKind::Unauthorized, "{sasl}: {wrong:#}");
            assert!(!format!("{wrong:#} {wrong:?}").contains("perch"), "{wrong:#}");
        }
        let strangers = Certificates::new().unwrap();
        let untrusted = world.connect("ann:swordfish", "plain", &strangers).await.unwrap_err();
        assert_eq!(untrusted.kind(), ErrorKind::Connect, "{untrusted:#}");
    };
    tokio::time::timeout(WATCHDOG, all).await.expect("nothing hangs");
}
