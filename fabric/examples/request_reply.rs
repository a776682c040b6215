//! Requests: one responder answers, and a failure is told from a silence.
//!
//! ```text
//! cargo run -p fabric --example request_reply [URL]   memory:// unless given
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::time::Duration;

use fabric::{Context, ErrorKind, Event, Fabric, HandlerError, HandlerResult, Result, Typed};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "quote.get", reply = Quote)]
struct GetQuote {
    symbol: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "quote.price")]
struct Quote {
    cents: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let fabric = fabric::connect(&url).await?;

    // Nobody is there yet, and the caller learns it at once instead of after the timeout.
    let error = ask(&fabric, "ACME").await.expect_err("there is no responder");
    println!("ACME: {error}");
    assert_eq!(error.kind(), ErrorKind::NoResponders);

    // Responders of one name share the requests.
    let _first = fabric.responder("pricing").on(answer).start().await?;
    let second = fabric.responder("pricing").on(answer).start().await?;
    let symbols = ["ACME", "INITECH", "HOOLI"];
    let prices = try_join_all(symbols.map(|symbol| ask(&fabric, symbol))).await?;
    for (symbol, cents) in symbols.iter().zip(&prices) {
        println!("{symbol}: {cents} cents");
    }
    assert_eq!(prices, [4, 7, 5]);

    // What the responder says went wrong reaches the caller as such.
    let error = ask(&fabric, "NOBODY").await.expect_err("the responder refuses");
    println!("NOBODY: {error}");
    assert_eq!(error.kind(), ErrorKind::Remote);

    // One may leave: it answers what it has, and the other goes on.
    second.drain(Duration::from_secs(1)).await?;
    assert_eq!(ask(&fabric, "ACME").await?, 4);
    fabric.close(Duration::from_secs(1)).await
}

async fn ask(fabric: &Fabric, symbol: &str) -> Result<usize> {
    let request = GetQuote { symbol: symbol.to_owned() };
    let quote = fabric.request(request).timeout(Duration::from_secs(1)).await?;
    Ok(quote.cents)
}

/// A symbol costs a cent a letter.
async fn answer(ask: Typed<GetQuote>, _: Context) -> HandlerResult<Quote> {
    match ask.symbol.as_str() {
        "NOBODY" => Err(HandlerError::permanent("no such symbol")),
        symbol => Ok(Quote { cents: symbol.len() }),
    }
}
