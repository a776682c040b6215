//! An event as name and value pairs beside its payload: CloudEvents in binary mode, for transports
//! whose events have headers.
//!
//! A backend writes an event with [`Style::write`] and reads one with a [`Reader`]; how pairs lie in
//! the transport's own headers, properties or frames is the backend's.
//!
//! | pair (dashed style) | what it carries | written |
//! |---|---|---|
//! | `ce-specversion` | `1.0` | always |
//! | `ce-id`, `ce-source`, `ce-type`, `ce-time` | `id`, `source`, `event_type`, `time` | always |
//! | `content-type` or `ce-datacontenttype` | `content_type` | unless it is the default |
//! | `ce-partitionkey` | `key` | if set |
//! | `ce-correlationid`, `ce-causationid` | `correlation_id`, `causation_id` | if set |
//! | `ce-expirytime` | `time` and `ttl` | if set |
//! | `ce-priority`, `ce-eventversion` | `priority`, `version` | unless normal, unless 1 |
//! | `traceparent`, `tracestate`, and the same as `ce-…` | `trace` | if set |
//! | `ce-<name>` | an extension | each |
//! | `<name>` | a header of the user's | each |
//! | `fabric-due` | when a delayed event is due | if set |
//! | `fabric-dl-…` | what is noted with a dead letter | if it is one |
//!
//! The topic is where the transport says the event lies; where that is another name, a backend adds
//! [`Known::Topic`]. Fewest pairs win: what follows from another field is not written. The format
//! version is 1, which `fabric-v` says only from the second on; what says more than this version of
//! Fabric knows is not guessed at, but read as an event with a fault.
//!
//! Sources: CloudEvents 1.0.2, its bindings for Kafka and NATS in binary mode, W3C Trace Context.
//!
//! ```
//! use fabric_core::{Event, Topic, wire};
//!
//! let event = Event::to("orders.created").id("o-42").source("shop").header("tenant", "acme");
//! let event = event.time("2026-01-01T00:00:00Z".parse::<fabric_core::Timestamp>()?).build()?;
//! let style = wire::Style::dashed();
//! let mut pairs = Vec::new();
//! style.write(&event, |name, value| pairs.push((style.text(name).into_owned(), value.to_owned())));
//! assert!(pairs.contains(&("ce-id".to_owned(), "o-42".to_owned())));
//!
//! let mut reader = wire::Reader::new(style);
//! for (name, value) in &pairs {
//!     reader.pair(name, value.as_bytes());
//! }
//! let read = reader.finish(event.topic(), bytes::Bytes::new());
//! assert!(read.fault.is_none());
//! assert_eq!((read.event.id(), read.event.header("tenant")), (event.id(), Some("acme")));
//! # Ok::<(), fabric_core::Error>(())
//! ```

pub mod block;
mod escape;
mod name;
mod read;
mod style;
mod write;

#[cfg(test)]
mod tests;

pub use name::{Known, Name};
pub use read::{Reader, Received, payload_alone};
pub use style::Style;
