//! Prints which backend can do what, as a Markdown table: the one in the README.
//!
//! ```text
//! cargo run -p fabric --example capabilities
//! ```

#![expect(clippy::print_stdout, reason = "the table is the output")]

use fabric::{Ability, Capabilities, Fabric, Result, Support};

/// Where each backend that needs no broker is reached, at its defaults.
const BACKENDS: &[&str] = &["memory://"];

#[tokio::main]
async fn main() -> Result<()> {
    let mut backends = Vec::new();
    for url in BACKENDS {
        backends.push(fabric::connect(url).await?);
    }
    let names: Vec<&str> = backends.iter().map(|fabric| fabric.info().name.as_str()).collect();
    println!("| ability | {} | what it means |", names.join(" | "));
    println!("|---|{}---|", "---|".repeat(names.len()));
    let capabilities: Vec<Capabilities> = backends.iter().map(Fabric::capabilities).collect();
    for &ability in Ability::ALL {
        let levels: Vec<&str> = capabilities.iter().map(|it| mark(it.level(ability))).collect();
        println!("| {} | {} | {} |", ability.as_str(), levels.join(" | "), ability.describe());
    }
    let limit = |limit: Option<usize>| limit.map_or_else(|| "none".to_owned(), bytes);
    let row = |what: &str, cells: Vec<String>, meaning: &str| {
        println!("| {what} | {} | {meaning} |", cells.join(" | "));
    };
    let payloads = capabilities.iter().map(|it| limit(it.max_payload)).collect();
    row("largest payload", payloads, "At its defaults.");
    let headers = capabilities.iter().map(|it| limit(it.max_headers)).collect();
    row("most headers", headers, "Names and values together.");
    Ok(())
}

const fn mark(level: Support) -> &'static str {
    match level {
        Support::Native => "yes",
        Support::Emulated => "emulated",
        Support::Unknown => "unknown",
        Support::No => "no",
    }
}

fn bytes(count: usize) -> String {
    match count {
        _ if count.is_multiple_of(1 << 20) => format!("{} MiB", count >> 20),
        _ if count.is_multiple_of(1 << 10) => format!("{} KiB", count >> 10),
        _ => format!("{count} bytes"),
    }
}
