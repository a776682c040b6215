//! Payloads: bytes, a value that nobody encoded yet, or memory that lies elsewhere.

use std::any::Any;
use std::fmt;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use crate::typed::TypedEvent;
use crate::{Error, ErrorKind, Result};

/// What an event carries. Thirty-two bytes; cloning copies no data.
///
/// A typed publish keeps the value itself: inside a process the subscriber gets the same
/// `Arc<T>` and no serializer runs; at the edge to a network [`bytes`](Self::bytes) encodes it once.
#[derive(Clone)]
pub struct Payload(Repr);

#[derive(Clone)]
enum Repr {
    Bytes(Bytes),
    /// A typed value or a region: one variant beside `Bytes`, which has room for no more.
    Value(Arc<dyn Value>),
}

/// Where the bytes of a [`Region`] lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryKind {
    /// Ordinary memory of the host.
    Host,
    /// Memory of an accelerator that the host cannot read directly.
    Device,
}

/// Memory owned by somebody else, such as a device buffer.
pub trait Region: Send + Sync + 'static {
    /// Its size in bytes.
    fn len(&self) -> usize;
    /// Whether it is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Where it lies.
    fn kind(&self) -> MemoryKind;
    /// Its bytes, if the host can read them.
    fn host_view(&self) -> Option<&[u8]>;
}

/// A typed event behind a pointer: what is needed to encode it or to get it back.
trait Value: Any + Send + Sync {
    fn encode(&self) -> Result<Bytes>;
    fn size(&self) -> usize;
    fn type_name(&self) -> &'static str;
    fn as_region(&self) -> Option<&Arc<dyn Region>> {
        None
    }
}

struct Foreign(Arc<dyn Region>);

impl Value for Foreign {
    fn encode(&self) -> Result<Bytes> {
        self.0.host_view().map(Bytes::copy_from_slice).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the payload lies in device memory; copy it to the host first",
            )
        })
    }

    fn size(&self) -> usize {
        self.0.len()
    }

    fn type_name(&self) -> &'static str {
        "a foreign region"
    }

    fn as_region(&self) -> Option<&Arc<dyn Region>> {
        Some(&self.0)
    }
}

impl<T: TypedEvent> Value for T {
    fn encode(&self) -> Result<Bytes> {
        TypedEvent::encode(self)
    }

    fn size(&self) -> usize {
        TypedEvent::size_in_memory(self)
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<T>()
    }
}

impl Payload {
    /// A payload of no bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Repr::Bytes(Bytes::new()))
    }

    /// A value that is encoded only where it leaves the process.
    #[must_use]
    pub fn value<T: TypedEvent>(value: Arc<T>) -> Self {
        Self(Repr::Value(value))
    }

    /// Memory that lies elsewhere.
    #[must_use]
    pub fn region(region: Arc<dyn Region>) -> Self {
        Self(Repr::Value(Arc::new(Foreign(region))))
    }

    /// The bytes, encoding a value that nobody encoded yet.
    ///
    /// # Errors
    /// `Codec` if the value's own encoder fails or panics; `Unsupported` for a region that the
    /// host cannot read.
    pub fn bytes(&self) -> Result<Bytes> {
        match &self.0 {
            Repr::Bytes(bytes) => Ok(bytes.clone()),
            Repr::Value(value) => guard(value.type_name(), || value.encode()),
        }
    }

    /// The bytes, if they are there without encoding.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Repr::Bytes(bytes) => Some(bytes),
            Repr::Value(value) => value.as_region()?.host_view(),
        }
    }

    /// The value itself, if it was published as a `T` in this process.
    #[must_use]
    pub fn as_value<T: TypedEvent>(&self) -> Option<Arc<T>> {
        let Repr::Value(value) = &self.0 else { return None };
        let any: Arc<dyn Any + Send + Sync> = Arc::<dyn Value>::clone(value);
        any.downcast().ok()
    }

    /// The value itself, if it was published as a `T` in this process; to look at, not to keep.
    #[must_use]
    pub fn peek_value<T: TypedEvent>(&self) -> Option<&T> {
        let Repr::Value(value) = &self.0 else { return None };
        let any: &(dyn Any + Send + Sync) = &**value;
        any.downcast_ref()
    }

    /// The region, if it is one.
    #[must_use]
    pub fn as_region(&self) -> Option<&Arc<dyn Region>> {
        match &self.0 {
            Repr::Bytes(_) => None,
            Repr::Value(value) => value.as_region(),
        }
    }

    /// Looks at what it carries, so that it is in the processor's cache: for who is about to drop
    /// many payloads at once that were kept for long.
    #[inline]
    pub fn touch(&self) {
        match &self.0 {
            Repr::Bytes(bytes) => _ = black_box(bytes.first().copied()),
            Repr::Value(value) => _ = black_box(Arc::strong_count(value)),
        }
    }

    /// Bytes that this payload holds in memory; for a value its own estimate.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.0 {
            Repr::Bytes(bytes) => bytes.len(),
            Repr::Value(value) => value.size(),
        }
    }

    /// The exact number of bytes, where it is known without encoding.
    #[must_use]
    pub fn known_len(&self) -> Option<usize> {
        match &self.0 {
            Repr::Bytes(bytes) => Some(bytes.len()),
            Repr::Value(value) => value.as_region().map(|region| region.len()),
        }
    }
}

/// Runs a user's codec: its panic harms this event alone.
pub(crate) fn guard<R>(what: &str, codec: impl FnOnce() -> Result<R>) -> Result<R> {
    caught(|| format!("the codec of `{what}`"), codec)
}

/// Runs a user's code for one event: its panic is an error of this event alone.
pub(crate) fn caught<R>(
    what: impl FnOnce() -> String,
    code: impl FnOnce() -> Result<R>,
) -> Result<R> {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Err(Error::new(ErrorKind::Codec, format!("{} panicked: {said}", what())))
    })
}

impl Default for Payload {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Repr::Bytes(bytes))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Bytes(bytes) => write!(f, "Payload({} bytes)", bytes.len()),
            Repr::Value(value) => write!(f, "Payload({})", value.type_name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_takes_thirty_two_bytes() {
        assert_eq!(size_of::<Payload>(), 32);
    }
}
