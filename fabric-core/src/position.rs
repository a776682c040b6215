//! Places in streams: positions, cursors and where a subscription starts.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::Timestamp;
use crate::topic::Topic;
use crate::{Error, ErrorKind, Result};

/// The place of one event: in one topic, or one partition of it, and in one incarnation of its
/// stream. On any other it is refused.
///
/// As text `topic[/partition]@incarnation:offset`, for files and command lines.
///
/// ```
/// use fabric_core::Position;
/// let position: Position = "orders.created@5f3a:42".parse()?;
/// assert_eq!((position.topic.as_str(), position.offset), ("orders.created", 42));
/// assert_eq!(position.to_string(), "orders.created@5f3a:42");
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Position {
    /// The topic it belongs to.
    pub topic: Topic,
    /// The partition, where the backend has several to a topic.
    pub partition: Option<u32>,
    /// Which life of the stream it belongs to: another after the stream was made anew.
    pub incarnation: u64,
    /// The number within topic, partition and incarnation; it only grows, with or without gaps.
    pub offset: u128,
}

impl Position {
    /// A position in the only partition of `topic`.
    #[must_use]
    pub const fn new(topic: Topic, incarnation: u64, offset: u128) -> Self {
        Self { topic, partition: None, incarnation, offset }
    }

    /// The same in one partition.
    #[must_use]
    pub const fn with_partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Whether both belong to the same life of the same stream, so that offsets compare.
    #[must_use]
    pub fn is_comparable(&self, other: &Self) -> bool {
        self.topic == other.topic
            && self.partition == other.partition
            && self.incarnation == other.incarnation
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.topic.as_str())?;
        if let Some(partition) = self.partition {
            write!(f, "/{partition}")?;
        }
        write!(f, "@{:x}:{}", self.incarnation, self.offset)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::new(
                ErrorKind::Config,
                format!("`{text}` is not a position as in `orders.created@5f3a:42`"),
            )
        };
        let (place, rest) = text.rsplit_once('@').ok_or_else(refuse)?;
        let (incarnation, offset) = rest.split_once(':').ok_or_else(refuse)?;
        let (topic, partition) = match place.split_once('/') {
            Some((topic, partition)) => (topic, Some(partition.parse().map_err(|_| refuse())?)),
            None => (place, None),
        };
        Ok(Self {
            topic: Topic::new(topic)?,
            partition,
            incarnation: u64::from_str_radix(incarnation, 16).map_err(|_| refuse())?,
            offset: offset.parse().map_err(|_| refuse())?,
        })
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How far a reader came in many topics and partitions, to resume them together.
///
/// Serialises as a list of positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(BTreeMap<(Topic, Option<u32>), Position>);

impl Cursor {
    /// At no place yet: everything is still to be read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that the event at `position` was dealt with. Going back is ignored.
    pub fn advance(&mut self, position: &Position) {
        let key = (position.topic.clone(), position.partition);
        match self.0.get_mut(&key) {
            Some(known) if known.is_comparable(position) && known.offset >= position.offset => {}
            Some(known) => known.clone_from(position),
            None => {
                self.0.insert(key, position.clone());
            }
        }
    }

    /// The last place noted in `topic` and `partition`.
    #[must_use]
    pub fn get(&self, topic: &Topic, partition: Option<u32>) -> Option<&Position> {
        self.0.get(&(topic.clone(), partition))
    }

    /// Every place, by topic and partition.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Position> {
        self.0.values()
    }

    /// Whether no place was noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Position> for Cursor {
    fn from_iter<I: IntoIterator<Item = Position>>(positions: I) -> Self {
        let mut cursor = Self::new();
        for position in positions {
            cursor.advance(&position);
        }
        cursor
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Position>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Where a subscription or replay begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Start {
    /// With what is published from now on.
    New,
    /// With the oldest event that is kept.
    All,
    /// With the newest event that is kept and matches.
    Last,
    /// With the newest event of each matching topic.
    LastPerTopic,
    /// With the first event stored at this time or later; a backend may begin earlier by the
    /// granularity it claims, never later.
    Time(Timestamp),
    /// With the event at this position.
    At(Position),
    /// With the event after this position.
    After(Position),
    /// After every place in the cursor; topics that it does not name begin with their oldest event.
    Resume(Cursor),
}

impl From<Timestamp> for Start {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

impl From<SystemTime> for Start {
    fn from(time: SystemTime) -> Self {
        Self::Time(time.into())
    }
}

impl From<Cursor> for Start {
    fn from(cursor: Cursor) -> Self {
        Self::Resume(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Position {
        text.parse().unwrap()
    }

    #[test]
    fn positions_survive_text_and_bad_ones_are_named() {
        for text in ["a.b@0:0", "a/3@ffffffffffffffff:340282366920938463463374607431768211455"] {
            assert_eq!(at(text).to_string(), text);
        }
        for bad in ["", "a.b", "a.b@1", "a.b@x:1", "a.b@1:-1", "a..b@1:1", "a/x@1:1"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_never_goes_back_within_one_incarnation() {
        let mut cursor: Cursor =
            [at("a@1:5"), at("a@1:3"), at("b/0@1:1"), at("b/1@1:7")].into_iter().collect();
        assert_eq!(cursor.get(&Topic::new("a").unwrap(), None), Some(&at("a@1:5")));
        cursor.advance(&at("a@2:0"));
        assert_eq!(cursor.get(&Topic::new("a").unwrap(), None), Some(&at("a@2:0")));
        assert_eq!(cursor.iter().count(), 3);
        let json = serde_json::to_string(&cursor).unwrap();
        assert_eq!(serde_json::from_str::<Cursor>(&json).unwrap(), cursor);
    }
}
