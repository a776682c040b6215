//! Layers: what happens to every event, whatever the backend.
//!
//! ```text
//! cargo run -p fabric --example custom_layer
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fabric::{
    Backend, Batch, Capabilities, Confirms, ErrorKind, Event, Layer, Result, SharedBackend, forward,
};

/// Lets nothing larger than a bound through, and counts what goes through.
#[derive(Clone, Debug)]
struct Gate {
    largest: usize,
    /// The state of a layer belongs to the layer: every fabric that it was added to counts here.
    passed: Arc<AtomicU64>,
}

impl Layer for Gate {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        Ok(Arc::new(Gated { inner, gate: self.clone() }))
    }
}

/// A backend behind the gate.
#[derive(Debug)]
struct Gated {
    inner: SharedBackend,
    gate: Gate,
}

impl Gated {
    fn count(&self, events: usize) {
        self.gate.passed.fetch_add(events as u64, Ordering::Relaxed);
    }
}

impl Backend for Gated {
    /// There is one set of capabilities, that of the whole stack. The bound stands in it, and the
    /// fabric refuses what is larger before anything is sent.
    fn capabilities(&self) -> Capabilities {
        let capabilities = self.inner.capabilities();
        let largest = capabilities
            .max_payload
            .map_or(self.gate.largest, |limit| limit.min(self.gate.largest));
        capabilities.with_max_payload(Some(largest))
    }

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        let events = batch.events.len();
        let confirms = self.inner.try_submit(batch)?;
        self.count(events);
        Ok(confirms)
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        let events = batch.events.len();
        let confirms = self.inner.submit(batch).await?;
        self.count(events);
        Ok(confirms)
    }

    // There are no default methods, so that none is forgotten: the others are named.
    forward!(self.inner: info, notices, subscribe, replay, request_reply, groups, admin, health, close);
}

#[tokio::main]
async fn main() -> Result<()> {
    let gate = Gate { largest: 64, passed: Arc::default() };
    let fabric = fabric::connect("memory://").await?.layer(gate.clone())?;
    let mut notes = fabric.subscribe("notes.*").await?;

    fabric.publish(Event::to("notes.short").text("bread, milk, tea")).await?;
    let long = Event::to("notes.long").text("once upon a time ".repeat(10));
    let error = fabric.publish(long).await.expect_err("it is too long");
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::TooLarge);

    let note = notes.recv().await.expect("the fabric is open")?;
    println!("{}: {}", note.topic(), note.text()?);
    assert_eq!(note.text()?, "bread, milk, tea");
    assert_eq!(gate.passed.load(Ordering::Relaxed), 1);
    fabric.close(Duration::from_secs(1)).await
}
