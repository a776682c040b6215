//! An event becomes a record, a record becomes an event.

use bytes::Bytes;
use fabric_core::wire::{Known, Name, Reader, Received, Style};
use fabric_core::{Error, ErrorKind, Event, Position, Result, Timestamp, Topic};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};

use crate::error::NAME;

/// How names are spelled on Kafka.
pub(crate) const STYLE: Style = Style::underscored();

/// Where an event lay before it was copied to wait for its group: a header that only this crate reads.
const ORIGIN: &str = "fabric-origin";

/// What a record takes beside its key, its value and its headers, at most.
const OVERHEAD: usize = 128;
/// What a header takes beside its name and its value, at most.
const HEADER_OVERHEAD: usize = 10;

/// A record as it is handed to the client library.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// What orders it, and chooses its partition.
    pub(crate) key: Option<String>,
    /// The payload.
    pub(crate) value: Bytes,
    /// Everything else.
    pub(crate) headers: OwnedHeaders,
    /// How many bytes it takes at most.
    pub(crate) size: usize,
}

/// What a copy that waits for its group says beside the event.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copied {
    /// Which try it is on.
    pub(crate) attempt: u32,
    /// When it is due.
    pub(crate) due: Option<Timestamp>,
    /// Where it lay.
    pub(crate) origin: Option<Position>,
}

/// An event as a record in its topic.
///
/// # Errors
/// Whatever its codec brought.
pub(crate) fn encode(event: &Event) -> Result<Encoded> {
    encode_with(event, None)
}

/// An event as a record in another topic, for one group alone.
///
/// # Errors
/// Whatever its codec brought.
pub(crate) fn encode_copy(event: &Event, copied: &Copied) -> Result<Encoded> {
    encode_with(event, Some(copied))
}

fn encode_with(event: &Event, copied: Option<&Copied>) -> Result<Encoded> {
    let value = event.payload().bytes()?;
    let mut size = OVERHEAD + value.len() + event.key().map_or(0, str::len);
    let mut headers = Some(OwnedHeaders::new_with_capacity(8));
    let mut put = |name: &str, value: &str| {
        size += HEADER_OVERHEAD + name.len() + value.len();
        let header = Header { key: name, value: Some(value) };
        headers = headers.take().map(|headers| headers.insert(header));
    };
    STYLE.write(event, |name, value| match name {
        // A copy is due when its group wants it, not when its publisher wanted it.
        Name::Known(Known::Due) if copied.is_some() => {}
        Name::Known(known) => put(STYLE.known(known), value),
        name => put(&STYLE.text(name), value),
    });
    if let Some(copied) = copied {
        put(STYLE.known(Known::Topic), event.topic().as_str());
        put(STYLE.known(Known::Attempt), &copied.attempt.to_string());
        if let Some(due) = copied.due {
            put(STYLE.known(Known::Due), &due.to_string());
        }
        if let Some(origin) = &copied.origin {
            put(ORIGIN, &origin.to_string());
        }
    }
    let headers = headers.unwrap_or_default();
    Ok(Encoded { key: event.key().map(str::to_owned), value, headers, size })
}

/// A record that was read.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// What it says.
    pub(crate) received: Received,
    /// Where the event lay before it was copied here.
    pub(crate) origin: Option<Position>,
}

/// Reads a record of `topic`; what is no event comes with a fault.
pub(crate) fn decode(reader: &mut Reader, topic: &Topic, record: &BorrowedMessage<'_>) -> Decoded {
    let mut origin = None;
    if let Some(headers) = record.headers() {
        for header in headers.iter() {
            let value = header.value.unwrap_or_default();
            if header.key == ORIGIN {
                origin = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            } else {
                reader.pair(header.key, value);
            }
        }
    }
    let value = record.payload();
    let payload = value.map_or_else(Bytes::new, Bytes::copy_from_slice);
    let mut received = reader.finish(topic, payload);
    if value.is_none() && received.fault.is_some() {
        let text = "the record has no value: to Kafka it is a tombstone, and it is no event";
        received.fault = Some(Error::new(ErrorKind::Codec, text).with_backend(NAME));
    }
    Decoded { received, origin }
}
