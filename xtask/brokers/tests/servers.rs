//! Real brokers start, keep their data and port over a restart, and are not mistaken for each other.

use std::io::{Read, Write};
use std::net::TcpStream;

use fabric_brokers::{kafka, nats};

/// Speaks NATS by hand: asks, and returns everything until the answer.
fn nats_answers(server: &nats::Server, subject: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).expect("it listens");
    let ask = format!("PUB {subject} answer {}\r\n{body}\r\n", body.len());
    let all = format!("CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\n{ask}");
    stream.write_all(all.as_bytes()).expect("it reads");
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    while !text.contains("MSG answer") || !text.ends_with("}\r\n") {
        let count = stream.read(&mut bytes).expect("it answers");
        assert!(count > 0, "closed after {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    text
}

#[test]
fn a_nats_server_keeps_its_port_and_its_streams() {
    let server = nats::Server::start(nats::Options::new()).unwrap();
    let create = "{\"name\":\"kept\",\"subjects\":[\"kept.>\"]}";
    nats_answers(&server, "$JS.API.STREAM.CREATE.kept", create);
    let address = server.address();
    server.process().kill();
    assert!(TcpStream::connect(address).is_err());
    server.process().start().unwrap();
    let said = nats_answers(&server, "$JS.API.STREAM.INFO.kept", "");
    assert!(said.contains("\"name\":\"kept\""), "{said}");
    assert_eq!(server.url(), format!("nats://{address}"));
}

#[test]
fn a_nats_server_that_cannot_read_its_settings_says_so() {
    let options = nats::Options::new().setting("no_such_setting: 1");
    let error = nats::Server::start(options).unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}

#[test]
fn a_kafka_broker_starts_and_starts_again() {
    let server = kafka::Server::start(kafka::Options::new()).unwrap();
    let address = server.address();
    TcpStream::connect(address).unwrap();
    server.process().kill();
    assert!(TcpStream::connect(address).is_err());
    server.process().start().unwrap();
    TcpStream::connect(address).unwrap();
    server.process().stop();
}
