//! Prints which backend can do what, as Markdown: the tables in the README.
//!
//! ```text
//! cargo run -p fabric --example capabilities [URL…]      memory:// unless given
//! ```
//!
//! `cargo xtask docs` starts the brokers and runs this. ZeroMQ's broker is a part of its crate: the
//! URL `zmq://` starts one in here.

#![expect(clippy::print_stdout, reason = "the tables are the output")]

use fabric::{Ability, Capabilities, Fabric, Result, Support};

#[tokio::main]
async fn main() -> Result<()> {
    let mut urls: Vec<String> = std::env::args().skip(1).collect();
    if urls.is_empty() {
        urls.push("memory://".to_owned());
    }
    let mut backends = Vec::new();
    for url in urls {
        backends.push(connect(&url).await?);
    }
    abilities(&backends);
    meanings();
    Ok(())
}

#[cfg(feature = "zmq")]
async fn connect(url: &str) -> Result<Fabric> {
    use fabric::zmq::broker::{Broker, BrokerConfig};
    if url != "zmq://" {
        return fabric::connect(url).await;
    }
    let broker = Broker::start(&BrokerConfig::new("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"))?;
    let address = broker.address();
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
    let (backend, frontend) = (port(&address.backend), port(&address.frontend));
    let fabric = fabric::connect(format!("zmq+tcp://127.0.0.1:{backend},{frontend}")).await?;
    // What it can do was asked when it connected.
    drop(broker);
    Ok(fabric)
}

#[cfg(not(feature = "zmq"))]
async fn connect(url: &str) -> Result<Fabric> {
    fabric::connect(url).await
}

/// A row for each ability, a column for each backend.
fn abilities(backends: &[Fabric]) {
    let row = |what: &str, cells: Vec<String>| println!("| {what} | {} |", cells.join(" | "));
    row("ability", backends.iter().map(|fabric| format!("`{}`", fabric.info().name)).collect());
    println!("|---|{}", ":-:|".repeat(backends.len()));
    let capabilities: Vec<Capabilities> = backends.iter().map(Fabric::capabilities).collect();
    for &ability in Ability::ALL {
        let marks = capabilities.iter().map(|it| mark(it.level(ability)).to_owned());
        row(ability.as_str(), marks.collect());
    }
    let limit = |limit: Option<usize>| limit.map_or_else(|| "none".to_owned(), bytes);
    row("largest payload", capabilities.iter().map(|it| limit(it.max_payload)).collect());
    row(
        "names and values of headers",
        capabilities.iter().map(|it| limit(it.max_headers)).collect(),
    );
    println!(
        "\n● by the broker, ○ by the client (for as long as it lives), ? the broker does not tell."
    );
}

/// What the abilities mean, out of the way of who only looks something up.
fn meanings() {
    println!("\n<details><summary>What the abilities mean</summary>\n");
    println!("| ability | what it means |");
    println!("|---|---|");
    for &ability in Ability::ALL {
        println!("| {} | {} |", ability.as_str(), ability.describe());
    }
    println!("\n</details>");
}

const fn mark(level: Support) -> &'static str {
    match level {
        Support::Native => "●",
        Support::Emulated => "○",
        Support::Unknown => "?",
        Support::No => "",
    }
}

fn bytes(count: usize) -> String {
    match count {
        _ if count.is_multiple_of(1 << 20) => format!("{} MiB", count >> 20),
        _ if count.is_multiple_of(1 << 10) => format!("{} KiB", count >> 10),
        _ => format!("{count} bytes"),
    }
}
