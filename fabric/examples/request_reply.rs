//! Requests: one responder answers, and a failure is told from a silence.
//!
//! ```text
//! cargo run -p fabric --example request_reply
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::time::Duration;

use fabric::{ErrorKind, Event, Fabric, Requests, Result};
use futures_util::future::try_join_all;

#[tokio::main]
async fn main() -> Result<()> {
    let fabric = fabric::connect("memory://").await?;

    // Nobody is there yet, and the caller learns it at once instead of after the timeout.
    let error = ask(&fabric, "ACME").await.expect_err("there is no responder");
    println!("ACME: {error}");
    assert_eq!(error.kind(), ErrorKind::NoResponders);

    // Responders of one name share the requests.
    for _ in 0..2 {
        tokio::spawn(answer(fabric.responder("pricing").serve("quote.*").await?));
    }
    let symbols = ["ACME", "INITECH", "HOOLI"];
    let prices = try_join_all(symbols.map(|symbol| ask(&fabric, symbol))).await?;
    for (symbol, price) in symbols.iter().zip(&prices) {
        println!("{symbol}: {price}");
    }
    assert_eq!(prices, ["4 cents", "7 cents", "5 cents"]);

    // What the responder says went wrong reaches the caller as such.
    let error = ask(&fabric, "NOBODY").await.expect_err("the responder refuses");
    println!("NOBODY: {error}");
    assert_eq!(error.kind(), ErrorKind::Remote);
    fabric.close(Duration::from_secs(1)).await
}

async fn ask(fabric: &Fabric, symbol: &str) -> Result<String> {
    let request = Event::to("quote.get").text(symbol);
    let reply = fabric.request(request).timeout(Duration::from_secs(1)).await?;
    Ok(reply.text()?.into_owned())
}

/// Answers until the fabric closes; a symbol costs a cent a letter.
async fn answer(mut requests: Requests) -> Result<()> {
    while let Some(request) = requests.recv().await {
        let request = request?;
        let symbol = request.text()?.into_owned();
        if symbol == "NOBODY" {
            request.fail("no such symbol").await?;
        } else {
            let price = format!("{} cents", symbol.len());
            request.reply(Event::to("quote.price").text(price)).await?;
        }
    }
    Ok(())
}
