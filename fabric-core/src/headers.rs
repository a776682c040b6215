//! Headers: unique names without regard to case, text values, one list of reserved names.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::clipped;
use crate::{Error, ErrorKind, Result};

/// The longest header name in bytes.
pub const MAX_NAME_LEN: usize = 64;
/// The most bytes that all names and values of one event may take together.
pub const MAX_TOTAL_LEN: usize = 64 * 1024;

/// Names under which the systems that Fabric replaces carry their own fields.
pub mod names {
    /// The run of a workflow to which an event belongs.
    pub const EXECUTION_ID: &str = "execution_id";
    /// The agent that sent an event.
    pub const AGENT_ID: &str = "agent_id";
    /// A coarse class, where it is not the topic's first level.
    pub const CATEGORY: &str = "category";
    /// A line for people.
    pub const SUMMARY: &str = "summary";
    /// The chat platform or device that an event came from.
    pub const PLATFORM: &str = "platform";
    /// The command that a command event carries.
    pub const COMMAND: &str = "command";
    /// How often the sender wants an event tried.
    pub const MAX_RETRIES: &str = "max_retries";
}

/// Prefixes and whole names that carry meaning for brokers or for Fabric itself.
const RESERVED_PREFIXES: [&str; 8] =
    ["ce-", "ce_", "cloudevents", "fabric-", "nats-", "x-death", "x-first-death", "x-delivery"];
const RESERVED_NAMES: [&str; 6] =
    ["cc", "bcc", "content-type", "traceparent", "tracestate", "baggage"];

/// A map from header name to value.
///
/// Names match `[A-Za-z0-9_.-]{1,64}` and are compared without case; values are any text without
/// control characters. There is no order: half of the brokers keep none.
///
/// ```
/// use fabric_core::Headers;
/// let mut headers = Headers::new();
/// headers.insert("Tenant", "acme")?;
/// assert_eq!(headers.get("tenant"), Some("acme"));
/// assert!(headers.insert("ce-id", "spoofed").is_err());
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Headers(Vec<(Box<str>, Box<str>)>);

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets `name` to `value`, replacing what stood there.
    ///
    /// # Errors
    /// `InvalidEvent` if the name breaks the rules or is reserved, or the value holds a control
    /// character; `TooLarge` beyond [`MAX_TOTAL_LEN`]. The headers are then unchanged.
    pub fn insert(&mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Result<()> {
        let (name, value) = (name.as_ref(), value.as_ref());
        check_name(name)?;
        check_value(name, value)?;
        let replaced = self.get(name).map_or(0, |old| name.len() + old.len());
        let total = self.size() - replaced + name.len() + value.len();
        if total > MAX_TOTAL_LEN {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the headers take {total} bytes together, {MAX_TOTAL_LEN} are allowed"),
            )
            .with("header", name));
        }
        match self.0.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some(entry) => *entry = (name.into(), value.into()),
            None => self.0.push((name.into(), value.into())),
        }
        Ok(())
    }

    /// The value of `name`, in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Takes `name` out and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(self.0.swap_remove(at).1.into())
    }

    /// Every name with its value.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all names and values together.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

fn check_name(name: &str) -> Result<()> {
    let refuse = |rule: String| {
        let shown = clipped(name, 80);
        Error::new(ErrorKind::InvalidEvent, format!("the header name {shown:?} {rule}"))
    };
    if name.is_empty() {
        return Err(refuse("is empty".to_owned()));
    }
    if name.len() > MAX_NAME_LEN {
        return Err(refuse(format!("has {} bytes, {MAX_NAME_LEN} are allowed", name.len())));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if let Some((at, c)) = name.char_indices().find(|(_, c)| !legal(*c)) {
        return Err(refuse(format!(
            "holds {c:?} at byte {at}; letters, digits, `_`, `.` and `-` are allowed"
        )));
    }
    if is_reserved(name) {
        return Err(refuse("is reserved for brokers and for Fabric itself".to_owned()));
    }
    Ok(())
}

fn check_value(name: &str, value: &str) -> Result<()> {
    if let Some((at, c)) = value.char_indices().find(|(_, c)| c.is_control()) {
        return Err(Error::new(
            ErrorKind::InvalidEvent,
            format!("the value of header `{name}` holds the control character {c:?} at byte {at}"),
        ));
    }
    Ok(())
}

/// Whether users may not set `name`.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    let starts = |prefix: &&str| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    RESERVED_PREFIXES.iter().any(starts)
        || RESERVED_NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

impl PartialEq for Headers {
    /// Equal maps: same names without regard to case, same values.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from header names to text")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Headers::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    headers.insert(name, value).map_err(serde::de::Error::custom)?;
                }
                Ok(headers)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bad_names_and_values_are_refused_and_named() {
        let mut headers = Headers::new();
        let long = "n".repeat(65);
        for name in
            ["", "a b", "ä", "a:b", &long, "CE-id", "ce_id", "Nats-Msg-Id", "fabric-v", "BCC"]
        {
            let error = headers.insert(name, "v").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{name}");
        }
        for value in ["a\r\nb", "a\0b", "\u{7f}", "tab\there"] {
            let error = headers.insert("name", value).unwrap_err();
            assert!(error.to_string().contains("`name`"), "{error}");
        }
        let error = headers.insert("name", "x".repeat(MAX_TOTAL_LEN)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(headers.is_empty());
        headers.insert("ccc", "not reserved").unwrap();
        headers.insert("traceparents", "not reserved").unwrap();
    }

    #[test]
    fn a_name_in_another_case_replaces() {
        let mut headers = Headers::new();
        headers.insert("Tenant", "a").unwrap();
        headers.insert("TENANT", "b").unwrap();
        assert_eq!((headers.len(), headers.get("tenant")), (1, Some("b")));
        assert_eq!(headers.remove("tenanT").as_deref(), Some("b"));
    }

    proptest! {
        #[test]
        fn any_text_is_kept_or_refused(name in ".{0,70}", value in ".{0,40}") {
            let mut headers = Headers::new();
            match headers.insert(&name, &value) {
                Ok(()) => prop_assert_eq!(headers.get(&name), Some(value.as_str())),
                Err(_) => prop_assert!(headers.is_empty()),
            }
        }
    }
}
