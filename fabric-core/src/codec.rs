//! Codecs: how a value becomes a payload and a payload a value.
//!
//! A codec is a unit type: [`Json`] (feature `json`, on unless turned off), [`MessagePack`]
//! (feature `msgpack`), [`Cbor`] (feature `cbor`), [`Raw`] for bytes and text, or one of your own.
//!
#![cfg_attr(feature = "json", doc = "```")]
#![cfg_attr(not(feature = "json"), doc = "```ignore")]
//! use fabric_core::Event;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order { cents: u32 }
//!
//! let event = Event::to("orders.created").json(&Order { cents: 700 }).build()?;
//! assert_eq!(event.json::<Order>()?.cents, 700);
//! # Ok::<(), fabric_core::Error>(())
//! ```

#[cfg(feature = "cbor")]
mod cbor;
#[cfg(feature = "json")]
pub(crate) mod json;
pub(crate) mod media;
#[cfg(feature = "msgpack")]
mod msgpack;
mod raw;

use std::any::type_name;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "cbor")]
pub use cbor::Cbor;
#[cfg(feature = "json")]
pub use json::Json;
use media::essence;
#[cfg(feature = "msgpack")]
pub use msgpack::MessagePack;
pub use raw::Raw;

use crate::event::Event;
use crate::payload::guard;
use crate::{Error, ErrorKind, Result};

/// How deeply a payload may nest: what no honest value reaches and every thread's stack holds.
#[cfg(any(feature = "cbor", feature = "msgpack"))]
const MAX_DEPTH: usize = 128;

/// A format of payloads, as a unit type.
///
/// ```
/// use bytes::Bytes;
/// use fabric_core::codec::Codec;
/// use fabric_core::{Error, ErrorKind, Event, Result};
/// use serde::{Serialize, de::DeserializeOwned};
///
/// /// Rust's own notation, for logs: it is written and never read.
/// struct Display;
///
/// impl Codec for Display {
///     const CONTENT_TYPE: &'static str = "text/x-display";
///
///     fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
///         Ok(Bytes::from(serde_json::to_string_pretty(value).unwrap_or_default()))
///     }
///
///     fn decode<T: DeserializeOwned>(_: &[u8]) -> Result<T> {
///         Err(Error::new(ErrorKind::Codec, "this format is for people"))
///     }
/// }
///
/// let event = Event::to("a.b").encode::<Display>(&7).build()?;
/// assert_eq!((event.content_type(), event.text()?.as_ref()), ("text/x-display", "7"));
/// # Ok::<(), Error>(())
/// ```
pub trait Codec {
    /// The media type of what [`encode`](Self::encode) writes.
    const CONTENT_TYPE: &'static str;

    /// Turns a value into a payload.
    ///
    /// # Errors
    /// `Codec` where the format cannot hold the value, with the encoder's own message.
    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes>;

    /// Reads a value from a payload, all of it.
    ///
    /// # Errors
    /// `Codec` with the decoder's own message, and in the context the place: `line` and `column`
    /// for text, `byte` for binary formats, counted from 1 and from 0.
    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T>;

    /// Whether a payload of this media type is for this codec: its own type, in any case and with
    /// any parameters.
    #[must_use]
    fn reads(content_type: &str) -> bool {
        essence(content_type).eq_ignore_ascii_case(essence(Self::CONTENT_TYPE))
    }
}

/// What [`Event::read_any`] chooses from: the media type, the feature that brings its codec,
/// whether that is there, and what the codec reads.
const KNOWN: [(&str, &str, bool, media::Test); 4] = [
    ("application/json", "json", cfg!(feature = "json"), media::is_json),
    ("application/vnd.msgpack", "msgpack", cfg!(feature = "msgpack"), media::is_msgpack),
    ("application/cbor", "cbor", cfg!(feature = "cbor"), media::is_cbor),
    ("application/octet-stream", "", true, media::is_raw),
];

impl Event {
    /// The payload read as JSON, whatever the content type says.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[cfg(feature = "json")]
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        self.read::<Json, T>()
    }

    /// The payload read by the codec `C`, whatever the content type says.
    ///
    /// ```
    /// use fabric_core::Event;
    /// use fabric_core::codec::Raw;
    ///
    /// let event = Event::to("camera.frame").bytes(&[1, 2, 3][..]).build()?;
    /// assert_eq!(event.read::<Raw, Vec<u8>>()?, [1, 2, 3]);
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Codec` if it is no `T`, with the decoder's own message and the place; a panic of the type's
    /// own code is such an error too. `Unsupported` for a payload that the host cannot read.
    pub fn read<C: Codec, T: DeserializeOwned>(&self) -> Result<T> {
        let read = match self.payload().as_bytes() {
            Some(bytes) => guard(type_name::<T>(), || C::decode(bytes)),
            None => {
                let bytes = self.payload().bytes();
                bytes.and_then(|bytes| guard(type_name::<T>(), || C::decode(&bytes)))
            }
        };
        read.map_err(|error| self.unreadable::<T>(error))
    }

    /// The payload read by the codec that the content type names.
    ///
    /// # Errors
    /// As [`read`](Self::read); `Codec` where no codec of this build reads that content type, with
    /// a list of those that are there and the feature that would add the one that is not.
    pub fn read_any<T: DeserializeOwned>(&self) -> Result<T> {
        let content_type = self.content_type();
        #[cfg(feature = "json")]
        if Json::reads(content_type) {
            return self.read::<Json, T>();
        }
        #[cfg(feature = "msgpack")]
        if MessagePack::reads(content_type) {
            return self.read::<MessagePack, T>();
        }
        #[cfg(feature = "cbor")]
        if Cbor::reads(content_type) {
            return self.read::<Cbor, T>();
        }
        if Raw::reads(content_type) {
            return self.read::<Raw, T>();
        }
        Err(self.unreadable::<T>(unknown(content_type)))
    }

    fn unreadable<T>(&self, error: Error) -> Error {
        error.with("type", type_name::<T>()).with("topic", self.topic()).with("id", self.id())
    }
}

fn unknown(content_type: &str) -> Error {
    let here: Vec<&str> =
        KNOWN.iter().filter(|(_, _, here, _)| *here).map(|(name, ..)| *name).collect();
    let missing = KNOWN.iter().find(|(_, _, here, reads)| !here && reads(content_type));
    let way_out = missing.map_or_else(
        || "use `read` with a codec of your own".to_owned(),
        |(_, feature, ..)| format!("the feature `{feature}` adds one"),
    );
    let list = here.join("`, `");
    Error::new(
        ErrorKind::Codec,
        format!("no codec reads `{content_type}`: this build has `{list}`; {way_out}"),
    )
}

/// The error of an encoder.
fn unwritable<T: ?Sized>(format: &str, said: impl std::fmt::Display) -> Error {
    let name = type_name::<T>();
    Error::new(ErrorKind::Codec, format!("`{name}` cannot be written as {format}: {said}"))
}

/// The error of a decoder, still without its place.
fn malformed(format: &str, said: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Codec, format!("the payload cannot be read as {format}: {said}"))
}

/// The error of a payload that goes on after its value.
#[cfg(any(feature = "cbor", feature = "msgpack"))]
fn trailing(format: &str, at: usize, len: usize) -> Error {
    malformed(format, format_args!("{} bytes follow the value", len - at)).with("byte", at)
}

#[cfg(test)]
mod tests;
