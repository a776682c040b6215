//! An event in the headers of a record, written and read by hand.

use std::hint::black_box;

use bytes::Bytes;
use fabric::kafka::client::Message as _;
use fabric::kafka::client::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};
use jiff::Timestamp;
use uuid::Uuid;

use crate::support::Result;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// Headers and payload of an event.
    Event,
    /// The payload alone.
    Payload,
}

/// The headers of a new event.
pub(crate) fn write(topic: &str) -> OwnedHeaders {
    let id = Uuid::now_v7().to_string();
    let time = Timestamp::now().to_string();
    OwnedHeaders::new_with_capacity(5)
        .insert(Header { key: "ce_specversion", value: Some("1.0") })
        .insert(Header { key: "ce_id", value: Some(&id) })
        .insert(Header { key: "ce_source", value: Some("bench") })
        .insert(Header { key: "ce_type", value: Some(topic) })
        .insert(Header { key: "ce_time", value: Some(&time) })
}

/// What a program keeps of a received event.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) kind: String,
    pub(crate) time: Timestamp,
    pub(crate) payload: Bytes,
}

/// Reads the headers of an event.
pub(crate) fn read(record: &BorrowedMessage<'_>) -> Result<Received> {
    let headers = record.headers().ok_or("an event without headers")?;
    let mut received = Received::default();
    for header in headers.iter() {
        let text = std::str::from_utf8(header.value.unwrap_or_default())?;
        match header.key {
            "ce_specversion" if text == "1.0" => {}
            "ce_specversion" => return Err("another version of CloudEvents".into()),
            "ce_id" => received.id = text.to_owned(),
            "ce_source" => received.source = text.to_owned(),
            "ce_type" => received.kind = text.to_owned(),
            "ce_time" => received.time = text.parse()?,
            _ => {}
        }
    }
    if received.id.is_empty() || received.source.is_empty() || received.kind.is_empty() {
        return Err("a header is missing".into());
    }
    received.payload = Bytes::copy_from_slice(record.payload().unwrap_or_default());
    Ok(received)
}

/// Reads as `carries` says and looks at what came.
pub(crate) fn look_at(carries: Carries, record: &BorrowedMessage<'_>) -> Result<()> {
    match carries {
        Carries::Event => drop(black_box(read(record)?)),
        Carries::Payload => {
            black_box(record.payload().and_then(|payload| payload.first()));
        }
    }
    Ok(())
}
