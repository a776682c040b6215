//! MessagePack.

use bytes::Bytes;
use rmp_serde::Deserializer;
use rmp_serde::decode::{Error as DecodeError, ReadRefReader};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize as _, Serialize};

use super::{Codec, MAX_DEPTH, malformed, media, trailing, unwritable};
use crate::Result;

const FORMAT: &str = "MessagePack";

/// MessagePack with named fields, as `application/vnd.msgpack`; it reads `application/msgpack` and
/// `application/x-msgpack` too.
///
/// Fields travel by name, so that one may be added without breaking who does not know it.
#[derive(Clone, Copy, Debug)]
pub struct MessagePack;

impl Codec for MessagePack {
    const CONTENT_TYPE: &'static str = "application/vnd.msgpack";

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
        let bytes = rmp_serde::to_vec_named(value);
        bytes.map(Bytes::from).map_err(|error| unwritable::<T>(FORMAT, error))
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
        let mut source = Deserializer::from_read_ref(payload);
        source.set_max_depth(MAX_DEPTH);
        match T::deserialize(&mut source) {
            Ok(value) if is_at_end(&mut source) => Ok(value),
            Ok(_) => Err(trailing(FORMAT, reached::<T>(payload), payload.len())),
            Err(error) => Err(malformed(FORMAT, error).with("byte", reached::<T>(payload))),
        }
    }

    fn reads(content_type: &str) -> bool {
        media::is_msgpack(content_type)
    }
}

/// Whether nothing follows: one more value finds no first byte.
fn is_at_end(source: &mut Deserializer<ReadRefReader<'_, [u8]>>) -> bool {
    matches!(IgnoredAny::deserialize(source), Err(DecodeError::InvalidMarkerRead(_)))
}

/// How far a decoder gets. The fast one does not tell, so an error is looked for once more.
fn reached<T: DeserializeOwned>(payload: &[u8]) -> usize {
    let mut rest = payload;
    let mut source = Deserializer::new(&mut rest);
    source.set_max_depth(MAX_DEPTH);
    let _ = T::deserialize(&mut source);
    payload.len() - rest.len()
}
