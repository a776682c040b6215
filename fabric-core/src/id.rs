//! Event ids: a UUIDv7 unless given, any text where it is.

use std::cell::Cell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::text::clipped;
use crate::{Error, ErrorKind, Result, Timestamp};

/// The longest id in bytes: what fits a RabbitMQ short string.
pub const MAX_ID_LEN: usize = 255;

/// What tells an event apart within its source. Sixteen bytes, cheap to clone.
///
/// ```
/// use fabric_core::EventId;
/// assert_eq!(EventId::new("o-42")?.to_string(), "o-42");
/// assert!(EventId::new("").is_err());
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone)]
pub struct EventId(Repr);

/// A UUID's variant bits are never zero, so its second half has a niche, and both forms take 16
/// bytes. Text that is no UUID in canonical form is kept as it is.
#[derive(Clone)]
enum Repr {
    Uuid(u64, NonZeroU64),
    Text(Arc<Box<str>>),
}

impl EventId {
    /// Keeps `text` as an id.
    ///
    /// # Errors
    /// `InvalidEvent` if it is empty, longer than [`MAX_ID_LEN`] bytes or holds a control character.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        if let Some(id) = Self::from_uuid_text(text) {
            return Ok(id);
        }
        if text.is_empty() {
            return Err(Error::new(ErrorKind::InvalidEvent, "an event id is not empty"));
        }
        if text.len() > MAX_ID_LEN {
            return Err(Error::new(
                ErrorKind::InvalidEvent,
                format!("the event id has {} bytes, {MAX_ID_LEN} are allowed", text.len()),
            )
            .with("id", clipped(text, 64)));
        }
        if let Some((at, c)) = text.char_indices().find(|(_, c)| c.is_control()) {
            return Err(Error::new(
                ErrorKind::InvalidEvent,
                format!("the event id {text:?} holds the control character {c:?} at byte {at}"),
            ));
        }
        Ok(Self(Repr::Text(Arc::new(text.into()))))
    }

    /// A new UUIDv7, unique on its own and in order within a thread.
    #[must_use]
    pub fn generate() -> Self {
        Self::generate_at(Timestamp::now())
    }

    /// As [`generate`](Self::generate) for the given time: two nanoseconds, no system call.
    #[must_use]
    pub fn generate_at(time: Timestamp) -> Self {
        thread_local! {
            static LAST: Cell<(u64, u16)> = const { Cell::new((0, 0)) };
        }
        let millis = u64::try_from(time.as_millis()).unwrap_or(0) & 0xffff_ffff_ffff;
        let (last, count) = LAST.get();
        // Twelve bits count within a millisecond; when they run over, the time is borrowed ahead.
        let (millis, count) = match (millis > last, count < 0xfff) {
            (true, _) => (millis, 0),
            (false, true) => (last, count + 1),
            (false, false) => (last + 1, 0),
        };
        LAST.set((millis, count));
        let high = millis << 16 | 0x7000 | u64::from(count);
        let low = fastrand::u64(..) >> 2 | 1 << 63;
        Self(NonZeroU64::new(low).map_or_else(
            || Repr::Text(Arc::from(Box::<str>::from("0"))),
            |low| Repr::Uuid(high, low),
        ))
    }

    /// The id of what lies at the place `offset` of a stream, as a UUIDv8: the same for whoever reads
    /// it, another for each offset below 2^60 and, as far as `stream` tells streams apart, for each
    /// stream. For backends whose wire carries no ids.
    ///
    /// ```
    /// use fabric_core::EventId;
    /// assert_eq!(EventId::of_place(7, 1), EventId::of_place(7, 1));
    /// assert_ne!(EventId::of_place(7, 1), EventId::of_place(7, 2));
    /// assert_ne!(EventId::of_place(7, 1), EventId::of_place(8, 1));
    /// ```
    #[must_use]
    pub fn of_place(stream: u64, offset: u64) -> Self {
        let high = offset >> 12 << 16 | 0x8000 | offset & 0xfff;
        // The variant's bits are two; what falls out is folded in.
        let low = 1 << 63 | (stream ^ stream << 32) >> 2;
        Self(NonZeroU64::new(low).map_or_else(
            || Repr::Text(Arc::from(Box::<str>::from("0"))),
            |low| Repr::Uuid(high, low),
        ))
    }

    /// The id as a UUID, if it is one.
    #[must_use]
    pub fn as_uuid(&self) -> Option<Uuid> {
        match self.0 {
            Repr::Uuid(high, low) => Some(Uuid::from_u64_pair(high, low.get())),
            Repr::Text(_) => None,
        }
    }

    /// Bytes that it holds outside of itself, with the allocator's part.
    pub(crate) fn held_bytes(&self) -> usize {
        match &self.0 {
            Repr::Uuid(..) => 0,
            Repr::Text(text) => 32 + 16 + text.len(),
        }
    }

    pub(crate) fn from_text(text: &str) -> Self {
        Self::from_uuid_text(text).unwrap_or_else(|| Self(Repr::Text(Arc::new(text.into()))))
    }

    /// The id, if it is a UUID as it is written here.
    fn from_uuid_text(text: &str) -> Option<Self> {
        if text.len() != 36 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let (high, low) = Uuid::try_parse(text).ok()?.as_u64_pair();
        Some(Self(Repr::Uuid(high, NonZeroU64::new(low)?)))
    }

    /// What an event carries until it is stamped.
    pub(crate) const UNSET: Self = Self(Repr::Uuid(0, NonZeroU64::MIN));

    pub(crate) fn is_unset(&self) -> bool {
        matches!(self.0, Repr::Uuid(0, NonZeroU64::MIN))
    }
}

impl From<Uuid> for EventId {
    fn from(uuid: Uuid) -> Self {
        Self::from_text(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Uuid(high, low) => {
                let uuid = Uuid::from_u64_pair(*high, low.get());
                f.write_str(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
            Repr::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for EventId {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Repr::Uuid(a, b), Repr::Uuid(c, d)) => a == c && b == d,
            (Repr::Text(a), Repr::Text(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for EventId {}

impl PartialEq<str> for EventId {
    fn eq(&self, other: &str) -> bool {
        *self == Self::from_text(other)
    }
}

impl PartialEq<&str> for EventId {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl Hash for EventId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Repr::Uuid(high, low) => (high, low).hash(state),
            Repr::Text(text) => text.hash(state),
        }
    }
}

impl PartialOrd for EventId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EventId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        match (&self.0, &other.0) {
            (Repr::Uuid(a, b), Repr::Uuid(c, d)) => (a, b).cmp(&(c, d)),
            (Repr::Text(a), Repr::Text(b)) => a.cmp(b),
            (Repr::Uuid(..), Repr::Text(_)) => std::cmp::Ordering::Less,
            (Repr::Text(_), Repr::Uuid(..)) => std::cmp::Ordering::Greater,
        }
    }
}

impl TryFrom<&str> for EventId {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for EventId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_takes_sixteen_bytes() {
        assert_eq!(size_of::<EventId>(), 16);
    }

    #[test]
    fn generated_ids_are_version_seven_unique_and_in_order() {
        let time = Timestamp::from_millis(1_700_000_000_000);
        let ids: Vec<_> = (0..10_000).map(|_| EventId::generate_at(time)).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        let uuid = ids[0].as_uuid().unwrap();
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(ids[0].to_string().parse::<Uuid>().unwrap(), uuid);
    }

    #[test]
    fn an_id_of_a_place_is_a_uuid_of_version_eight() {
        for (stream, offset) in [(0, 0), (u64::MAX, 1), (7, 0xfff), (7, 0x1000), (7, 1 << 59)] {
            let id = EventId::of_place(stream, offset);
            let uuid = id.as_uuid().unwrap();
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (8, uuid::Variant::RFC4122));
            assert_eq!(EventId::new(id.to_string()).unwrap(), id);
        }
        let ids: HashSet<_> =
            (0..4).flat_map(|s| (0..5000).map(move |n| EventId::of_place(s, n))).collect();
        assert_eq!(ids.len(), 20_000);
    }

    #[test]
    fn text_is_kept_as_written() {
        let nil = Uuid::nil().to_string();
        let upper = "0192D3C4-0000-7000-8000-00000000ABCD";
        for text in ["o-42", "évènement", &nil, upper, "0192d3c4-0000-7000-8000-00000000abcd"] {
            assert_eq!(EventId::new(text).unwrap().to_string(), text);
        }
        for bad in ["", "a\nb", "a\0", &"x".repeat(256)] {
            assert_eq!(EventId::new(bad).unwrap_err().kind(), ErrorKind::InvalidEvent);
        }
    }
}
