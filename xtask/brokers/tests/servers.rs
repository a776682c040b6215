//! Real brokers start, keep their data and port over a restart, and are not mistaken for each other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use fabric_brokers::{Broker as _, Disk, Proxy, kafka, nats};

/// Speaks NATS by hand: asks, and returns everything until the answer.
fn nats_answers(server: &nats::Server, subject: &str, body: &str) -> String {
    nats_answers_as(server, "\"verbose\":false", subject, body)
}

/// As somebody who logs in with these fields.
fn nats_answers_as(server: &nats::Server, login: &str, subject: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    let ask = format!("PUB {subject} answer {}\r\n{body}\r\n", body.len());
    let all = format!("CONNECT {{{login}}}\r\nSUB answer 1\r\n{ask}");
    stream.write_all(all.as_bytes()).expect("it reads");
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    while !text.contains("MSG answer") || !text.ends_with("}\r\n") {
        let count = stream.read(&mut bytes).unwrap_or(0);
        if count == 0 {
            return format!("{text} and nothing more");
        }
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

#[test]
fn a_cluster_of_kafka_starts_and_outlives_a_broker() {
    let proxies: Vec<Proxy> = (0..3).map(|_| Proxy::new().unwrap()).collect();
    let cluster = kafka::Cluster::behind(&proxies, &kafka::Options::new()).unwrap();
    for proxy in &proxies {
        assert!(cluster.url().contains(&proxy.address().to_string()), "{}", cluster.url());
        TcpStream::connect(proxy.address()).unwrap();
    }
    cluster.processes()[1].kill();
    cluster.processes()[1].start().unwrap();
    cluster.wipe().unwrap();
    assert!(cluster.processes().iter().all(|process| process.is_running()));
}

const INFO: &str = "$JS.API.INFO";

#[test]
fn a_cluster_of_nats_has_a_leader_and_elects_another() {
    let proxies: Vec<Proxy> = (0..3).map(|_| Proxy::new().unwrap()).collect();
    let cluster = nats::Cluster::behind(&proxies, &nats::Options::new()).unwrap();
    for proxy in &proxies {
        assert!(cluster.url().contains(&proxy.address().to_string()), "{}", cluster.url());
    }
    let create = "{\"name\":\"three\",\"subjects\":[\"three.>\"],\"num_replicas\":3}";
    let said = nats_answers(&cluster.servers()[0], "$JS.API.STREAM.CREATE.three", create);
    assert!(said.contains("\"did_create\":true"), "{said}");
    assert!(cluster.stream_leader("three").is_some());
    assert_eq!(cluster.stream_leader("none"), None);
    // What a client hears of is the proxies alone.
    assert!(!said.contains(&cluster.servers()[1].address().to_string()), "{said}");
    let leader = cluster.leader().unwrap();
    cluster.servers()[leader].process().kill();
    while cluster.leader().is_none_or(|next| next == leader) {
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.servers()[leader].process().start().unwrap();
    cluster.until_ready().unwrap();
    cluster.wipe().unwrap();
    let said = nats_answers(&cluster.servers()[0], "$JS.API.STREAM.INFO.three", "");
    assert!(said.contains("stream not found"), "{said}");
}

#[test]
fn a_nats_server_lets_in_whom_it_is_told_to_and_hears_of_changes() {
    let ada = || nats::User::new("ada", "secret");
    let options = nats::Options::new().access(nats::Access::Users(vec![ada()]));
    let server = nats::Server::start(options).unwrap();
    let login = "\"user\":\"ada\",\"pass\":\"secret\"";
    let said = nats_answers_as(&server, login, INFO, "");
    assert!(said.contains("account_info_response"), "{said}");
    assert!(nats_answers(&server, INFO, "").contains("Authorization Violation"));
    let powerless = nats::Access::Users(vec![ada().powerless()]);
    server.reload(|options| options.access(powerless)).unwrap();
    let denied = || {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let all = format!("CONNECT {{{login}}}\r\nSUB answer 1\r\nPING\r\n");
        stream.write_all(all.as_bytes()).unwrap();
        let (mut text, mut bytes) = (String::new(), [0; 4096]);
        while !text.contains("PONG") {
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        text.contains("Permissions Violation")
    };
    while !denied() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let token = nats::Access::Token("swordfish".to_owned());
    server.reload(|options| options.access(token)).unwrap();
    while !nats_answers_as(&server, "\"auth_token\":\"swordfish\"", INFO, "").contains("MSG") {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_full_disk_stops_a_stream_until_there_is_room() {
    let disk = Arc::new(Disk::new(32).unwrap());
    let options = nats::Options::new().disk(Arc::clone(&disk));
    let server = nats::Server::start(options).unwrap();
    let create = "{\"name\":\"full\",\"subjects\":[\"full.>\"]}";
    let said = nats_answers(&server, "$JS.API.STREAM.CREATE.full", create);
    assert!(said.contains("did_create"), "{said}");
    let body = "x".repeat(100_000);
    assert!(nats_answers(&server, "full.a", &body).contains("\"seq\":1"));
    disk.fill().unwrap();
    let said = nats_answers(&server, "full.a", &body);
    assert!(!said.contains("\"seq\""), "{said}");
    disk.free().unwrap();
    server.process().stop();
    server.process().start().unwrap();
    assert!(nats_answers(&server, "full.a", &body).contains("\"seq\":"));
    server.wipe().unwrap();
    assert!(nats_answers(&server, "$JS.API.STREAM.INFO.full", "").contains("not found"));
}

#[cfg(feature = "security")]
mod security {
    use std::process::{Command, Stdio};

    use fabric_brokers::Certificates;

    use super::*;

    #[test]
    fn a_nats_server_takes_credentials_of_its_operator_alone() {
        let operator = nats::Operator::new().unwrap();
        let server = nats::Server::start(nats::Options::new().access(operator.access())).unwrap();
        let ours = operator.credentials(None).unwrap();
        assert!(logs_in(&server, &ours));
        assert!(!logs_in(&server, &nats::Operator::new().unwrap().credentials(None).unwrap()));
    }

    /// Answers the server's challenge.
    fn logs_in(server: &nats::Server, credentials: &str) -> bool {
        let mut parts =
            credentials.lines().filter(|line| !line.starts_with('-') && !line.is_empty());
        let (jwt, seed) = (parts.next().unwrap(), parts.next().unwrap());
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut bytes = [0; 8192];
        let count = stream.read(&mut bytes).unwrap();
        let info = String::from_utf8_lossy(&bytes[..count]).into_owned();
        let nonce = info.split_once("\"nonce\":\"").unwrap().1.split('"').next().unwrap();
        let signature = nkeys::KeyPair::from_seed(seed).unwrap().sign(nonce.as_bytes()).unwrap();
        let signature = base64(&signature);
        let connect = format!("CONNECT {{\"jwt\":\"{jwt}\",\"sig\":\"{signature}\"}}\r\nPING\r\n");
        stream.write_all(connect.as_bytes()).unwrap();
        let count = stream.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).contains("PONG")
    }

    fn base64(bytes: &[u8]) -> String {
        use std::io::Write as _;
        let mut child = Command::new("openssl")
            .args(["base64", "-A"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim_end_matches('=').replace('+', "-").replace('/', "_")
    }

    #[test]
    fn certificates_are_signed_by_their_authority_and_renewed_in_place() {
        let certificates = Certificates::new().unwrap();
        let verify = |authority: &std::path::Path, certificate: std::path::PathBuf| {
            let mut openssl = Command::new("openssl");
            openssl.args(["verify", "-x509_strict", "-CAfile"]).arg(authority).arg(certificate);
            openssl.output().unwrap().status.success()
        };
        let before = std::fs::read(certificates.server()).unwrap();
        assert!(verify(&certificates.authority(), certificates.server()));
        assert!(verify(&certificates.authority(), certificates.client()));
        certificates.renew().unwrap();
        assert_ne!(std::fs::read(certificates.server()).unwrap(), before);
        assert!(verify(&certificates.authority(), certificates.server()));
        let another = Certificates::new().unwrap();
        assert!(!verify(&another.authority(), certificates.server()));
    }

    #[test]
    fn a_nats_server_with_tls_asks_for_it() {
        let certificates = Certificates::new().unwrap();
        let options = nats::Options::new().tls(&certificates, true);
        let server = nats::Server::start(options).unwrap();
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut bytes = [0; 8192];
        let count = stream.read(&mut bytes).unwrap();
        let info = String::from_utf8_lossy(&bytes[..count]).into_owned();
        assert!(
            info.contains("\"tls_required\":true") && info.contains("\"tls_verify\":true"),
            "{info}"
        );
    }

    #[test]
    fn a_kafka_broker_listens_for_tls_too() {
        let certificates = Certificates::new().unwrap();
        let options = kafka::Options::new().secure(&certificates, &[("ada", "secret")]);
        let server = kafka::Server::start(options).unwrap();
        let greets = |authority: std::path::PathBuf| {
            let mut openssl = Command::new("openssl");
            openssl.args(["s_client", "-verify_return_error", "-connect"]);
            openssl.arg(server.secure_address().to_string()).arg("-CAfile").arg(authority);
            openssl.stdin(Stdio::null()).output().unwrap().status.success()
        };
        assert!(greets(certificates.authority()));
        assert!(!greets(Certificates::new().unwrap().authority()));
    }
}
