//! CloudEvents 1.0 in structured mode: a whole event as one JSON object.
//!
//! | member | field of the event |
//! |---|---|
//! | `specversion` | always `1.0` |
//! | `id`, `source`, `type`, `time` | `id`, `source`, `event_type`, `time` |
//! | `subject` | `topic` |
//! | `datacontenttype` | `content_type`, unless there is no payload |
//! | `data` | the payload of a JSON type, as JSON; of `text/*`, as text |
//! | `data_base64` | every other payload |
//! | `partitionkey` | `key` |
//! | `correlationid`, `causationid` | `correlation_id`, `causation_id` |
//! | `traceparent`, `tracestate` | `trace` |
//! | `priority` | `priority`: `low`, `high`, `critical`; absent: normal |
//! | `eventversion` | `version`; absent: 1 |
//! | `expirytime` | `time` and `ttl` |
//! | `fabricdue` | `deliver_at` |
//! | `fabricdelay` | the delay of an event that is not published yet, as in `PT1.5S` |
//! | `fabricheaders` | the headers, as an object from name to text |
//! | `fabricdeadletter` | what is noted with a dead letter, as an object |
//! | any other | an extension: text; numbers and bools become text |
//!
//! Events of others are read too: without a `subject` the `type` is the topic, and without a `time`
//! it is the moment of reading. A payload of JSON stands in the object as it was published, save
//! that white space around it goes and a line break in it becomes a space; JSON that cannot be read
//! travels as `data_base64`. Other members that begin with `fabric` are refused: they come from a
//! later format.
//!
//! ```
//! use fabric_core::{Event, cloudevents};
//!
//! let event = Event::to("orders.created").id("o-42").source("shop").header("tenant", "acme");
//! let json = cloudevents::to_json(&event.json(&[1, 2]).build()?)?;
//! let event = cloudevents::from_json(&json)?;
//! assert_eq!((event.topic().as_str(), event.header("tenant")), ("orders.created", Some("acme")));
//! assert_eq!(event.text()?, "[1,2]");
//! # Ok::<(), fabric_core::Error>(())
//! ```

mod read;
mod write;

use bytes::Bytes;

use crate::event::Event;
use crate::topic::Topic;
use crate::{Error, Result};

/// The media type of an event in structured mode.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// Every member with a meaning of its own; what is not among them is an extension.
const MEMBERS: [&str; 21] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "partitionkey",
    "correlationid",
    "causationid",
    "traceparent",
    "tracestate",
    "priority",
    "eventversion",
    "expirytime",
    "fabricdue",
    "fabricdelay",
    "fabricheaders",
    "fabricdeadletter",
    "data",
    "data_base64",
];

/// The event as one JSON object on one line.
///
/// An event that was never published gets its id and time here.
///
/// # Errors
/// `Codec` where a payload that nobody encoded yet cannot be encoded, `Unsupported` for a payload
/// that the host cannot read.
pub fn to_json(event: &Event) -> Result<Bytes> {
    let mut line = Vec::new();
    write_json(event, &mut line)?;
    Ok(line.into())
}

/// As [`from_json`], for an event that a transport brought on `topic`: that is its topic, whatever
/// its `subject` says.
///
/// # Errors
/// As [`from_json`], but for `InvalidTopic`.
pub fn from_json_on(topic: &Topic, json: &[u8]) -> Result<Event> {
    placed(json, read::read_on(Some(topic), json))
}

/// Appends the event to `line`; where that fails the line is as before.
pub(crate) fn write_json(event: &Event, line: &mut Vec<u8>) -> Result<()> {
    write::write(event, line)
        .map_err(|error| error.with("topic", event.topic()).with("id", event.id()))
}

/// Reads an event from a JSON object.
///
/// # Errors
/// `Codec` for what is no JSON object, `InvalidTopic`, `InvalidEvent` or `TooLarge` for a member
/// that breaks the rules. The context says at which `line` and `column`.
pub fn from_json(json: &[u8]) -> Result<Event> {
    placed(json, read_json(json))
}

fn placed(json: &[u8], read: Result<Event, Refusal>) -> Result<Event> {
    read.map_err(|refusal| {
        let before = &json[..refusal.at.min(json.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        refusal.error.with("line", line).with("column", before.len() - start + 1)
    })
}

/// As [`from_json`], with the place as an offset.
pub(crate) fn read_json(json: &[u8]) -> Result<Event, Refusal> {
    read::read_on(None, json)
}

/// What is wrong, and at which byte.
pub(crate) struct Refusal {
    pub(crate) error: Error,
    pub(crate) at: usize,
}

#[cfg(test)]
pub(crate) mod tests;
