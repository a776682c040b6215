//! Finding brokers: by a list, by DNS, by Consul; and peers by a folder.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fabric_core::{Error, ErrorKind, Host, Result};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::{BrokerAddress, Discovery, Topology, ZmqConfig};

/// How long Consul may take.
const CONSUL_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes that are read of an answer of Consul's.
const MAX_ANSWER: u64 = 4 << 20;

/// Whether the list of those on the other side may change.
pub(crate) fn goes_on(config: &ZmqConfig) -> bool {
    match &config.topology {
        Topology::Brokers { brokers, discovery } => {
            *discovery != Discovery::List || brokers.len() > 1
        }
        Topology::Peers { .. } => false,
        Topology::Folder { .. } => true,
    }
}

/// The brokers that there are now.
pub(crate) async fn brokers(
    list: &[BrokerAddress],
    discovery: &Discovery,
) -> Result<Vec<BrokerAddress>> {
    match discovery {
        // libzmq asks for the one name itself, each time it connects.
        Discovery::List if list.len() == 1 => Ok(list.to_vec()),
        Discovery::List => resolve(list, 1).await,
        Discovery::Dns => resolve(list, usize::MAX).await,
        Discovery::Consul { address, service } => consul(address, service).await,
    }
}

/// The addresses behind the names, at most `most` for each: those that cannot be found are left
/// out, unless none can.
async fn resolve(list: &[BrokerAddress], most: usize) -> Result<Vec<BrokerAddress>> {
    let mut found = Vec::new();
    let mut failed = None;
    for broker in list {
        let Some((backend, frontend)) = ports(broker) else {
            found.push(broker.clone());
            continue;
        };
        match tokio::net::lookup_host((backend.name.as_str(), backend.port_or(5555))).await {
            Ok(addresses) => {
                let addresses: Vec<SocketAddr> = addresses.filter(SocketAddr::is_ipv4).collect();
                if addresses.is_empty() {
                    failed = Some(unknown(&backend.name, "it has no address of IPv4"));
                }
                for address in addresses.into_iter().take(most) {
                    let at = |port: u16| format!("tcp://{}:{port}", address.ip());
                    let broker =
                        BrokerAddress { backend: at(address.port()), frontend: at(frontend) };
                    if !found.contains(&broker) {
                        found.push(broker);
                    }
                }
            }
            Err(error) => failed = Some(unknown(&backend.name, error)),
        }
    }
    match (found.is_empty(), failed) {
        (true, Some(error)) => Err(error),
        (_, failed) => {
            if let Some(error) = failed {
                tracing::warn!(%error, "a broker of the list is left out");
            }
            Ok(found)
        }
    }
}

fn unknown(name: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Connect, format!("the name `{name}` is not found: {why}"))
        .with_backend("zmq")
}

/// The host and the second port of a broker that is reached by TCP.
fn ports(broker: &BrokerAddress) -> Option<(Host, u16)> {
    let host = |text: &str| {
        let (name, port) = text.strip_prefix("tcp://")?.rsplit_once(':')?;
        Some((name.trim_matches(['[', ']']).to_owned(), port.parse::<u16>().ok()?))
    };
    let (name, backend) = host(&broker.backend)?;
    let (_, frontend) = host(&broker.frontend)?;
    Some((Host::new(name, Some(backend)), frontend))
}

/// One healthy instance, as Consul's `/v1/health/service` tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    meta: Option<std::collections::HashMap<String, String>>,
}

async fn consul(address: &str, service: &str) -> Result<Vec<BrokerAddress>> {
    let path = format!("/v1/health/service/{service}?passing=true");
    let wrap = |why: String| {
        Error::new(ErrorKind::Connect, format!("Consul at {address} does not tell: {why}"))
            .with_backend("zmq")
            .with("service", service)
    };
    let answer = tokio::time::timeout(CONSUL_TIMEOUT, fetch(address, &path))
        .await
        .map_err(|_| wrap(format!("no answer within {CONSUL_TIMEOUT:?}")))?
        .map_err(|error| wrap(error.to_string()))?;
    let body = body(&answer).map_err(wrap)?;
    let instances: Vec<Instance> =
        serde_json::from_slice(body).map_err(|error| wrap(error.to_string()))?;
    if instances.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("Consul at {address} knows no healthy instance of `{service}`"),
        )
        .with_backend("zmq"));
    }
    Ok(instances.iter().map(Instance::broker).collect())
}

impl Instance {
    fn broker(&self) -> BrokerAddress {
        let Service { address, port, meta } = &self.service;
        let host = if address.is_empty() { &self.node.address } else { address };
        let frontend = meta.as_ref().and_then(|meta| meta.get("frontend")?.parse().ok());
        let at = |port: u16| format!("tcp://{host}:{port}");
        BrokerAddress {
            backend: at(*port),
            frontend: at(frontend.unwrap_or_else(|| port.wrapping_add(1))),
        }
    }
}

/// One request of HTTP/1.0, whose answer ends with the connection: all that Consul's API needs.
async fn fetch(address: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The body of an answer, if it is a good one.
fn body(answer: &[u8]) -> Result<&[u8], String> {
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n");
    let end = end.ok_or_else(|| "the answer is not one of HTTP".to_owned())?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    match line.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(&answer[end + 4..]),
        _ => Err(format!("it answers `{line}`")),
    }
}

/// The sockets of peers in a folder; those of peers that died are removed.
pub(crate) fn folder(folder: &Path) -> Result<Vec<String>> {
    let wrap = |error: std::io::Error| {
        let text = format!("the folder `{}` cannot be used: {error}", folder.display());
        Error::new(ErrorKind::Config, text).with_backend("zmq")
    };
    std::fs::create_dir_all(folder).map_err(wrap)?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrap)? {
        let path = entry.map_err(wrap)?.path();
        if path.extension().is_none_or(|it| it != "ipc") {
            continue;
        }
        match std::os::unix::net::UnixStream::connect(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(&path);
            }
            _ => found.push(format!("ipc://{}", path.display())),
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_of_consul_is_a_broker() {
        let json = r#"[
            {"Node": {"Node": "n1", "Address": "10.0.0.1"},
             "Service": {"ID": "f1", "Address": "", "Port": 5555, "Meta": {"frontend": "7000"}},
             "Checks": []},
            {"Node": {"Address": "10.0.0.2"}, "Service": {"Address": "10.0.1.2", "Port": 6000}}
        ]"#;
        let instances: Vec<Instance> = serde_json::from_str(json).unwrap();
        let found: Vec<_> = instances.iter().map(Instance::broker).collect();
        let at = |text: &str| format!("tcp://{text}");
        let expected = [
            BrokerAddress { backend: at("10.0.0.1:5555"), frontend: at("10.0.0.1:7000") },
            BrokerAddress { backend: at("10.0.1.2:6000"), frontend: at("10.0.1.2:6001") },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn only_a_good_answer_has_a_body() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n[]"), Ok(&b"[]"[..]));
        assert!(body(b"HTTP/1.1 500 Oops\r\n\r\n[]").unwrap_err().contains("500"));
        assert!(body(b"SSH-2.0").is_err());
    }

    #[tokio::test]
    async fn names_become_addresses() {
        let broker = BrokerAddress {
            backend: "tcp://localhost:5555".to_owned(),
            frontend: "tcp://localhost:5556".to_owned(),
        };
        let found = brokers(&[broker], &Discovery::Dns).await.unwrap();
        assert_eq!(found[0].backend, "tcp://127.0.0.1:5555");
        assert_eq!(found[0].frontend, "tcp://127.0.0.1:5556");
    }
}
