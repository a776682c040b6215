//! An event in headers, written and read by hand.

use std::hint::black_box;

use bytes::Bytes;
use fabric::nats::client::header::{HeaderMap, HeaderName, NATS_MESSAGE_ID};
use jiff::Timestamp;
use uuid::Uuid;

use crate::support::Result;

/// What a NATS message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// Headers and payload of an event.
    Event,
    /// The payload alone.
    Payload,
}

const SPEC_VERSION: HeaderName = HeaderName::from_static("ce-specversion");
const ID: HeaderName = HeaderName::from_static("ce-id");
const SOURCE: HeaderName = HeaderName::from_static("ce-source");
const TYPE: HeaderName = HeaderName::from_static("ce-type");
const TIME: HeaderName = HeaderName::from_static("ce-time");

/// The headers of a new event; with `deduplicated`, the id that the stream knows it by.
pub(crate) fn write(topic: &str, deduplicated: bool) -> HeaderMap {
    let id = Uuid::now_v7().to_string();
    let mut headers = HeaderMap::new();
    headers.insert(SPEC_VERSION, "1.0");
    if deduplicated {
        // A stream knows ids of all its topics, and of all sources.
        headers.insert(NATS_MESSAGE_ID, format!("bench {id} {topic}"));
    }
    headers.insert(ID, id);
    headers.insert(SOURCE, "bench");
    headers.insert(TYPE, topic);
    headers.insert(TIME, Timestamp::now().to_string());
    headers
}

/// What a program keeps of a received event.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) kind: String,
    pub(crate) time: Timestamp,
    pub(crate) payload: Bytes,
}

/// Reads the headers of an event.
pub(crate) fn read(headers: Option<&HeaderMap>, payload: Bytes) -> Result<Received> {
    let headers = headers.ok_or("an event without headers")?;
    let text = |name| headers.get(name).map(|value| value.as_str()).ok_or("a header is missing");
    if text(SPEC_VERSION)? != "1.0" {
        return Err("another version of CloudEvents".into());
    }
    Ok(Received {
        id: text(ID)?.to_owned(),
        source: text(SOURCE)?.to_owned(),
        kind: text(TYPE)?.to_owned(),
        time: text(TIME)?.parse()?,
        payload,
    })
}

/// Reads as `carries` says and looks at what came.
pub(crate) fn look_at(
    carries: Carries,
    headers: Option<&HeaderMap>,
    payload: &Bytes,
) -> Result<()> {
    match carries {
        Carries::Event => drop(black_box(read(headers, payload.clone())?)),
        Carries::Payload => drop(black_box(payload.clone())),
    }
    Ok(())
}
