//! Several brokers: clients go to another without a restart, brokers that are linked, and finding
//! them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use fabric_core::{Dsn, ErrorKind, Event, Fabric, Subscription};
use fabric_zmq::broker::{Broker, BrokerConfig};
use fabric_zmq::{BrokerAddress, Zmq, ZmqConfig};
use support::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const WATCHDOG: Duration = Duration::from_secs(60);

async fn open(brokers: impl IntoIterator<Item = BrokerAddress>) -> Fabric {
    let config = ZmqConfig::brokers(brokers).with_discover_interval(Duration::from_millis(200));
    Fabric::new(Zmq::open(config).await.unwrap())
}

/// Waits until both brokers are connected.
async fn both_are_up(fabric: &Fabric) {
    let both = async {
        while fabric.health().await.details["connected"] != "2 of 2" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WATCHDOG, both).await.unwrap();
}

/// The text of the next event; losses on the way are passed over.
async fn next(events: &mut Subscription) -> String {
    loop {
        match tokio::time::timeout(WATCHDOG, events.recv()).await.unwrap().unwrap() {
            Ok(event) => return event.text().unwrap().into_owned(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Lagged, "{error}"),
        }
    }
}

/// Publishes until something new arrives.
async fn goes_on(publisher: &Fabric, events: &mut Subscription, word: &str) {
    let arrives = async {
        loop {
            let _ = publisher.publish(Event::to("ha").text(word)).await;
            let heard = tokio::time::timeout(Duration::from_millis(100), next(events)).await;
            if heard.is_ok_and(|heard| heard == word) {
                break;
            }
        }
    };
    tokio::time::timeout(WATCHDOG, arrives).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_to_another_broker_when_theirs_dies() {
    support::watch::this_test();
    let servers = [Server::start(), Server::start()];
    let all = || servers.iter().map(Server::address);
    let (reader, publisher) = (open(all()).await, open(all()).await);
    let mut events = reader.subscribe("ha").await.unwrap();
    goes_on(&publisher, &mut events, "before").await;
    servers[0].process().kill();
    goes_on(&publisher, &mut events, "without the first").await;
    servers[0].process().start().unwrap();
    servers[1].process().kill();
    goes_on(&publisher, &mut events, "without the second").await;
    // A subscription that is made now needs only the broker that stands.
    let mut late = reader.subscribe("ha").await.unwrap();
    goes_on(&publisher, &mut late, "late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_comes_up_while_the_first_broker_of_its_list_is_down() {
    support::watch::this_test();
    let servers = [Server::start(), Server::start()];
    servers[0].process().kill();
    let fabric = open(servers.iter().map(Server::address)).await;
    let mut events = fabric.subscribe("ha").await.unwrap();
    goes_on(&fabric, &mut events, "x").await;
}

/// Two brokers, each linked with the other.
fn linked() -> [Broker; 2] {
    let ports = [0, 1].map(|_| fabric_brokers::Port::reserve().unwrap());
    let links = ports.each_ref().map(|port| format!("tcp://{}", port.address()));
    [0, 1].map(|n| {
        let config = BrokerConfig::new("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
            .with_link_bind(Some(links[n].clone()))
            .with_links(vec![links[1 - n].clone()]);
        Broker::start(&config).unwrap()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_linked_brokers_meet_and_nothing_comes_twice() {
    support::watch::this_test();
    let brokers = linked();
    let [one, other] = [open([brokers[0].address()]).await, open([brokers[1].address()]).await];
    let mut here = other.subscribe("ha").await.unwrap();
    let mut there = one.subscribe("ha").await.unwrap();
    goes_on(&one, &mut here, "over").await;
    goes_on(&other, &mut there, "and back").await;
    // One that hears both brokers gets each event by two ways, and hands it out once.
    let both = open(brokers.iter().map(Broker::address)).await;
    // One broker is enough to connect; a subscription is in force at those that are connected.
    both_are_up(&both).await;
    let mut events = both.subscribe("once.*").await.unwrap();
    for n in 0..200 {
        one.publish(Event::to("once.a").text(format!("a{n}"))).await.unwrap();
        other.publish(Event::to("once.b").text(format!("b{n}"))).await.unwrap();
    }
    let mut seen = HashSet::new();
    while seen.len() < 400 {
        let text = next(&mut events).await;
        assert!(seen.insert(text.clone()), "{text} came twice");
    }
    let duplicates = async {
        while both.health().await.details["duplicates"].parse::<u64>().unwrap() < 400 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WATCHDOG, duplicates).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), events.recv()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_finds_its_responder_at_a_linked_broker() {
    support::watch::this_test();
    let brokers = linked();
    let [one, other] = [open([brokers[0].address()]).await, open([brokers[1].address()]).await];
    let mut requests = other.responder("answers").serve("ask.*").await.unwrap();
    let answering = tokio::spawn(async move {
        while let Some(Ok(request)) = requests.recv().await {
            let text = format!("re: {}", request.text().unwrap());
            request.reply(Event::to("ask.x").text(text)).await.unwrap();
        }
    });
    // The brokers tell each other who answers what within a second.
    let asked = async {
        loop {
            let asking = one.request(Event::to("ask.x").text("?")).timeout(WATCHDOG);
            match asking.await {
                Ok(reply) => break reply.text().unwrap().into_owned(),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NoResponders, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(tokio::time::timeout(WATCHDOG, asked).await.unwrap(), "re: ?");
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_found_by_name() {
    support::watch::this_test();
    let broker = support::broker();
    let address = broker.address();
    let port = |endpoint: &str| endpoint.rsplit(':').next().unwrap().to_owned();
    let (backend, frontend) = (port(&address.backend), port(&address.frontend));
    let url = format!("zmq+tcp://localhost:{backend},{frontend}?discover=dns");
    let fabric = Fabric::new(Zmq::connect(Dsn::parse(&url).unwrap()).await.unwrap());
    assert!(fabric.health().await.is_up());
    let nowhere = "zmq+tcp://no-such-host.invalid:1,2?discover=dns";
    let error = Zmq::connect(Dsn::parse(nowhere).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
}

/// Consul's health endpoint, as its documentation has it: instances come and go.
#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_found_by_consul_as_they_come_and_go() {
    support::watch::this_test();
    let brokers = [support::broker(), support::broker()];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let consul = listener.local_addr().unwrap();
    let (list, current) = tokio::sync::watch::channel(vec![brokers[0].address()]);
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let len = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..len]).into_owned();
            let (status, body) = if request
                .starts_with("GET /v1/health/service/fabric?passing=true ")
            {
                let port = |at: &str| at.rsplit(':').next().unwrap().to_owned();
                let instances: Vec<String> = current
                    .borrow()
                    .iter()
                    .map(|it| {
                        format!(
                            r#"{{"Node":{{"Node":"n","Address":"127.0.0.1"}},"Service":{{"ID":"f","Service":"fabric","Address":"","Port":{},"Meta":{{"frontend":"{}"}}}},"Checks":[{{"Status":"passing"}}]}}"#,
                            port(&it.backend),
                            port(&it.frontend)
                        )
                    })
                    .collect();
                ("200 OK", format!("[{}]", instances.join(",")))
            } else {
                ("200 OK", "[]".to_owned())
            };
            let answer = format!(
                "HTTP/1.0 {status}\r\nContent-Type: application/json\r\nX-Consul-Index: 7\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let url = |service: &str| {
        let text = format!("zmq+tcp://{consul}/{service}?discover=consul&discover_interval=100ms");
        Dsn::parse(&text).unwrap()
    };
    let fabric = Fabric::new(Zmq::connect(url("fabric")).await.unwrap());
    let mut events = fabric.subscribe("ha").await.unwrap();
    goes_on(&fabric, &mut events, "first").await;
    // Another instance comes, and the first one goes.
    list.send(brokers.iter().map(Broker::address).collect()).unwrap();
    both_are_up(&fabric).await;
    list.send(vec![brokers[1].address()]).unwrap();
    brokers[0].stop(Duration::from_secs(1)).unwrap();
    goes_on(&fabric, &mut events, "second").await;

    let error = Zmq::connect(url("other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    serving.abort();
}
