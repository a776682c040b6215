//! Layers: what happens to every event, whatever the backend.
//!
//! ```text
//! cargo run -p fabric --example custom_layer
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fabric::layers::{Hooks, hooks};
use fabric::{
    Backend, Batch, Capabilities, Confirms, DeliveryInfo, Error, ErrorKind, Event, Layer, Result,
    SharedBackend, forward,
};

/// The easy way, for a layer that looks at events: each method has a default that does nothing.
struct Tenant(&'static str);

impl Hooks for Tenant {
    /// Before an event is handed over.
    fn publish(&self, event: &mut Event) -> Result<()> {
        event.set_header("tenant", self.0)
    }

    /// Before an event is handed out. What is refused here goes to the dead letters in a group,
    /// and is an error in the stream without one.
    fn deliver(&self, event: &mut Event, _: &DeliveryInfo) -> Result<()> {
        match event.header("tenant") {
            Some(tenant) if tenant == self.0 => Ok(()),
            _ => Err(Error::new(ErrorKind::Unauthorized, "an event of another tenant")),
        }
    }
}

/// The full way, for a layer that changes what the stack can do: lets nothing larger than a bound
/// through, and counts what goes through.
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
    let memory = fabric::connect("memory://custom_layer").await?;
    let gate = Gate { largest: 64, passed: Arc::default() };
    // The layer that is added last is the outermost: a publish meets it first.
    let fabric = fabric::connect("memory://custom_layer").await?;
    let fabric = fabric.layer(gate.clone())?.layer(hooks(Tenant("acme")))?;
    let mut notes = fabric.subscribe("notes.*").await?;

    fabric.publish(Event::to("notes.short").text("bread, milk, tea")).await?;
    let long = Event::to("notes.long").text("once upon a time ".repeat(10));
    let error = fabric.publish(long).await.expect_err("it is too long");
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    // Past the layers, by a connection that has none.
    memory.publish(Event::to("notes.short").header("tenant", "evil").text("rat poison")).await?;

    let note = notes.recv().await.expect("the fabric is open")?;
    println!("{}: {}, for {:?}", note.topic(), note.text()?, note.header("tenant"));
    assert_eq!((note.text()?.as_ref(), note.header("tenant")), ("bread, milk, tea", Some("acme")));
    let error = notes.recv().await.expect("the fabric is open").expect_err("it is of another");
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(gate.passed.load(Ordering::Relaxed), 1);
    fabric.close(Duration::from_secs(1)).await
}
