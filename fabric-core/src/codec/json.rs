//! JSON.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, malformed, media, unwritable};
use crate::{Error, Result};

/// JSON, as `application/json`; it reads every `*/json` and `*+json`.
///
/// ```
/// use fabric_core::codec::{Codec, Json};
///
/// assert_eq!(Json::encode(&[1, 2])?, "[1,2]");
/// let error = Json::decode::<Vec<u8>>(b"[1,\n x]").unwrap_err();
/// assert_eq!((error.context("line"), error.context("column")), (Some("2"), Some("2")));
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Codec for Json {
    const CONTENT_TYPE: &'static str = "application/json";

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
        serde_json::to_vec(value).map(Bytes::from).map_err(|error| unwritable::<T>("JSON", error))
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
        serde_json::from_slice(payload).map_err(|error| refused(&error))
    }

    fn reads(content_type: &str) -> bool {
        media::is_json(content_type)
    }
}

fn refused(error: &serde_json::Error) -> Error {
    let (said, place) = said(error);
    let refused = malformed("JSON", said);
    match place {
        Some((line, column)) => refused.with("line", line).with("column", column),
        None => refused,
    }
}

/// What the decoder said, and at which line and column.
pub(crate) fn said(error: &serde_json::Error) -> (String, Option<(usize, usize)>) {
    let text = error.to_string();
    let (line, column) = (error.line(), error.column());
    if line == 0 {
        return (text, None);
    }
    let place = format!(" at line {line} column {column}");
    (text.strip_suffix(&place).unwrap_or(&text).to_owned(), Some((line, column)))
}
