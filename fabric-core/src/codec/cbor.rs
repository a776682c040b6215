//! CBOR.

use bytes::Bytes;
use ciborium::de::Error as DecodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, MAX_DEPTH, malformed, media, trailing, unwritable};
use crate::Result;

const FORMAT: &str = "CBOR";

/// CBOR, as `application/cbor`; it reads every `*+cbor`.
#[derive(Clone, Copy, Debug)]
pub struct Cbor;

impl Codec for Cbor {
    const CONTENT_TYPE: &'static str = "application/cbor";

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
        let mut bytes = Vec::new();
        match ciborium::into_writer(value, &mut bytes) {
            Ok(()) => Ok(bytes.into()),
            Err(ciborium::ser::Error::Value(said)) => Err(unwritable::<T>(FORMAT, said)),
            Err(ciborium::ser::Error::Io(error)) => Err(unwritable::<T>(FORMAT, error)),
        }
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
        let mut rest = payload;
        let read = ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH);
        let reached = payload.len() - rest.len();
        let (said, at) = match read {
            Ok(value) if rest.is_empty() => return Ok(value),
            Ok(_) => return Err(trailing(FORMAT, reached, payload.len())),
            Err(DecodeError::Io(error)) => (error.to_string(), None),
            Err(DecodeError::Syntax(at)) => ("this is no CBOR".to_owned(), Some(at)),
            Err(DecodeError::Semantic(at, said)) => (said, at),
            Err(DecodeError::RecursionLimitExceeded) => {
                (format!("it nests more than {MAX_DEPTH} levels"), None)
            }
        };
        Err(malformed(FORMAT, said).with("byte", at.unwrap_or(reached)))
    }

    fn reads(content_type: &str) -> bool {
        media::is_cbor(content_type)
    }
}
