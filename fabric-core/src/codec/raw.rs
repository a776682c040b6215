//! Bytes and text as they are.

use bytes::Bytes;
use serde::de::value::{Error as Refusal, SeqDeserializer};
use serde::de::{DeserializeOwned, Visitor};
use serde::ser::{Error as _, Impossible, SerializeSeq, SerializeTuple};
use serde::{Deserializer, Serialize, Serializer, forward_to_deserialize_any};

use super::{Codec, malformed, media, unwritable};
use crate::Result;

const FORMAT: &str = "raw bytes";

/// Bytes and text as they are, as `application/octet-stream`; it reads every `text/*` too.
///
/// It takes what serialises as bytes, as a sequence of `u8` or as text, and nothing else.
///
/// ```
/// use fabric_core::codec::{Codec, Raw};
///
/// assert_eq!(Raw::encode("plain")?, "plain");
/// assert_eq!(Raw::decode::<Vec<u8>>(&[1, 2])?, [1, 2]);
/// assert_eq!(Raw::decode::<String>(b"plain")?, "plain");
/// assert!(Raw::encode(&7_u32).is_err());
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Raw;

impl Codec for Raw {
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes> {
        let mut bytes = Vec::new();
        let written = value.serialize(Writer { out: &mut bytes, inside: false });
        written.map(|()| bytes.into()).map_err(|error| unwritable::<T>(FORMAT, error))
    }

    fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
        T::deserialize(Reader(payload)).map_err(|error| {
            let refused = malformed(FORMAT, error);
            match std::str::from_utf8(payload) {
                Err(error) => refused.with("byte", error.valid_up_to()),
                Ok(_) => refused,
            }
        })
    }

    fn reads(content_type: &str) -> bool {
        media::is_raw(content_type)
    }
}

/// Reads bytes, a sequence of `u8`, or text.
struct Reader<'a>(&'a [u8]);

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_bytes(self.0)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_str(std::str::from_utf8(self.0).map_err(serde::de::Error::custom)?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let mut bytes = SeqDeserializer::new(self.0.iter().copied());
        let value = visitor.visit_seq(&mut bytes)?;
        bytes.end()?;
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        tuple_struct map struct enum identifier ignored_any
    }
}

/// Writes bytes, a sequence of `u8`, or text.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// It writes one element of a sequence: one byte and nothing else.
    inside: bool,
}

impl Writer<'_> {
    fn write(self, bytes: &[u8]) -> Result<(), Refusal> {
        if self.inside {
            return Err(Refusal::custom("it is a sequence, but not of bytes"));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

type No = Impossible<(), Refusal>;

macro_rules! refuse {
    ($($method:ident($($arg:ty),*) -> $ok:ty, $what:literal;)+) => {
        $(fn $method(self, $(_: $arg),*) -> Result<$ok, Refusal> {
            Err(Refusal::custom(concat!($what, " is neither bytes nor text")))
        })+
    };
}

impl<'a> Serializer for Writer<'a> {
    type Ok = ();
    type Error = Refusal;
    type SerializeSeq = Sequence<'a>;
    type SerializeTuple = Sequence<'a>;
    type SerializeTupleStruct = No;
    type SerializeTupleVariant = No;
    type SerializeMap = No;
    type SerializeStruct = No;
    type SerializeStructVariant = No;

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Refusal> {
        self.write(bytes)
    }

    fn serialize_str(self, text: &str) -> Result<(), Refusal> {
        self.write(text.as_bytes())
    }

    fn serialize_u8(self, byte: u8) -> Result<(), Refusal> {
        if !self.inside {
            return Err(Refusal::custom("a number is neither bytes nor text"));
        }
        self.out.push(byte);
        Ok(())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Sequence<'a>, Refusal> {
        if self.inside {
            return Err(Refusal::custom("a sequence of sequences is neither bytes nor text"));
        }
        self.out.reserve(len.unwrap_or_default());
        Ok(Sequence(self.out))
    }

    fn serialize_tuple(self, len: usize) -> Result<Sequence<'a>, Refusal> {
        self.serialize_seq(Some(len))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refusal> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refusal> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Refusal> {
        Err(Refusal::custom("a variant is neither bytes nor text"))
    }

    refuse! {
        serialize_bool(bool) -> (), "a bool";
        serialize_i8(i8) -> (), "a number";
        serialize_i16(i16) -> (), "a number";
        serialize_i32(i32) -> (), "a number";
        serialize_i64(i64) -> (), "a number";
        serialize_u16(u16) -> (), "a number";
        serialize_u32(u32) -> (), "a number";
        serialize_u64(u64) -> (), "a number";
        serialize_f32(f32) -> (), "a number";
        serialize_f64(f64) -> (), "a number";
        serialize_char(char) -> (), "a character";
        serialize_none() -> (), "nothing";
        serialize_unit() -> (), "nothing";
        serialize_unit_struct(&'static str) -> (), "nothing";
        serialize_unit_variant(&'static str, u32, &'static str) -> (), "a variant";
        serialize_tuple_struct(&'static str, usize) -> No, "a tuple";
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> No, "a variant";
        serialize_map(Option<usize>) -> No, "a map";
        serialize_struct(&'static str, usize) -> No, "a struct";
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> No, "a variant";
    }
}

/// Bytes that come one by one.
struct Sequence<'a>(&'a mut Vec<u8>);

impl SerializeSeq for Sequence<'_> {
    type Ok = ();
    type Error = Refusal;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
        value.serialize(Writer { out: self.0, inside: true })
    }

    fn end(self) -> Result<(), Refusal> {
        Ok(())
    }
}

impl SerializeTuple for Sequence<'_> {
    type Ok = ();
    type Error = Refusal;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Refusal> {
        Ok(())
    }
}
