//! An event becomes a JSON object.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::codec::media::{is_json, is_text};
use crate::event::{Due, Event, Priority};
use crate::headers::Headers;
use crate::time::Timestamp;
use crate::{Error, ErrorKind, Result};

pub(super) fn write(event: &Event, line: &mut Vec<u8>) -> Result<()> {
    let event = if event.is_stamped() {
        Cow::Borrowed(event)
    } else {
        Cow::Owned(Event::of(event.clone()).build()?)
    };
    let payload = event.payload().bytes()?;
    let data = Data::of(event.content_type(), &payload);
    let start = line.len();
    let written = members(&event, &data, &mut serde_json::Serializer::new(&mut *line));
    written.map_err(|error| {
        line.truncate(start);
        Error::new(ErrorKind::Codec, format!("the event cannot be written as JSON: {error}"))
    })
}

/// How a payload stands in the object.
enum Data<'a> {
    None,
    Json(Cow<'a, RawValue>),
    Text(&'a str),
    Base64(&'a [u8]),
}

impl<'a> Data<'a> {
    fn of(content_type: &str, payload: &'a [u8]) -> Self {
        if payload.is_empty() {
            return Self::None;
        }
        let json = is_json(content_type);
        match std::str::from_utf8(payload) {
            Ok(text) if json => one_line(text).map_or(Self::Base64(payload), Self::Json),
            Ok(text) if is_text(content_type) => Self::Text(text),
            _ => Self::Base64(payload),
        }
    }
}

/// Valid JSON without line breaks, which can only stand between its tokens.
fn one_line(text: &str) -> Option<Cow<'_, RawValue>> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    // Half a surrogate pair is well-formed and still no text: the whole line would be unreadable.
    if text.contains("\\ud") || text.contains("\\uD") {
        serde_json::from_str::<serde_json::Value>(text).ok()?;
    }
    if !raw.get().contains(['\n', '\r']) {
        return Some(Cow::Borrowed(raw));
    }
    RawValue::from_string(raw.get().replace(['\n', '\r'], " ")).ok().map(Cow::Owned)
}

fn members<S: Serializer>(event: &Event, data: &Data<'_>, json: S) -> Result<S::Ok, S::Error> {
    let mut map = json.serialize_map(None)?;
    map.serialize_entry("specversion", "1.0")?;
    map.serialize_entry("id", event.id())?;
    map.serialize_entry("source", event.source())?;
    map.serialize_entry("type", event.event_type())?;
    map.serialize_entry("subject", event.topic())?;
    map.serialize_entry("time", &event.time())?;
    if !matches!(data, Data::None) || !event.has_default_content_type() {
        map.serialize_entry("datacontenttype", event.content_type())?;
    }
    option(&mut map, "partitionkey", event.key())?;
    option(&mut map, "correlationid", event.correlation_id())?;
    option(&mut map, "causationid", event.causation_id())?;
    if let Some(trace) = event.trace() {
        map.serialize_entry("traceparent", &trace.traceparent)?;
        option(&mut map, "tracestate", trace.tracestate.as_ref())?;
    }
    let priority = Some(event.priority()).filter(|priority| *priority != Priority::Normal);
    option(&mut map, "priority", priority)?;
    option(&mut map, "eventversion", Some(event.version()).filter(|version| *version != 1))?;
    let expiry: Option<Timestamp> = event.ttl().map(|ttl| event.time().saturating_add(ttl));
    option(&mut map, "expirytime", expiry)?;
    match event.due() {
        Some(Due::At(time)) => map.serialize_entry("fabricdue", &time)?,
        Some(Due::After(delay)) => {
            let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
            map.serialize_entry("fabricdelay", &delay.to_string())?;
        }
        None => {}
    }
    for (name, value) in event.extensions() {
        map.serialize_entry(name, value)?;
    }
    if !event.headers().is_empty() {
        map.serialize_entry("fabricheaders", &Sorted(event.headers()))?;
    }
    option(&mut map, "fabricdeadletter", event.dead_letter())?;
    match data {
        Data::None => {}
        Data::Json(json) => map.serialize_entry("data", json)?,
        Data::Text(text) => map.serialize_entry("data", text)?,
        Data::Base64(bytes) => map.serialize_entry("data_base64", &STANDARD.encode(bytes))?,
    }
    map.end()
}

fn option<M: SerializeMap>(
    map: &mut M,
    name: &str,
    value: Option<impl Serialize>,
) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(name, &value))
}

/// Headers in the order of their names, so that the same event is the same line.
struct Sorted<'a>(&'a Headers);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut headers: Vec<_> = self.0.iter().collect();
        headers.sort_unstable();
        serializer.collect_map(headers)
    }
}
