//! What all names share: the alphabet, the limits, the sentence that refuses one, and the traits of
//! a validated string.

use crate::{Error, ErrorKind, Result};

/// The most levels that a topic or pattern has.
pub(crate) const MAX_LEVELS: usize = 16;

/// The rules of one sort of name.
#[derive(Debug)]
pub(crate) struct Rules {
    /// What it is called in errors: `topic`.
    pub(crate) noun: &'static str,
    pub(crate) max_bytes: usize,
    pub(crate) max_levels: usize,
    /// Whether a level may be `*`, `#` or, in the last place, `>`.
    pub(crate) wildcards: bool,
}

impl Rules {
    /// Says whether `name` keeps the rules, and if not, which one it breaks and where.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        if self.is_plain(name) {
            return Ok(());
        }
        if name.is_empty() || name.len() > self.max_bytes {
            return Err(self.wrong_length(name));
        }
        let mut levels = 0;
        let mut start = 0;
        for level in name.split('.') {
            levels += 1;
            if levels > self.max_levels {
                return Err(self.too_many_levels(name, start));
            }
            let last = start + level.len() == name.len();
            let good = is_word(level) || (self.wildcards && is_wildcard(level, last));
            if !good {
                return Err(self.bad_level(name, Level { text: level, number: levels, start }));
            }
            start += level.len() + 1;
        }
        Ok(())
    }

    /// Whether `name` keeps the rules and has no wildcard: one quick pass for nearly all names.
    fn is_plain(&self, name: &str) -> bool {
        let (mut dots, mut level) = (0, 0);
        for byte in name.bytes() {
            if WORD_BYTES[usize::from(byte)] {
                level += 1;
            } else if byte == b'.' && level > 0 {
                dots += 1;
                level = 0;
            } else {
                return false;
            }
        }
        level > 0 && dots < self.max_levels && name.len() <= self.max_bytes
    }

    #[cold]
    fn wrong_length(&self, name: &str) -> Error {
        let Self { noun, max_bytes, .. } = self;
        let length = name.len();
        self.refuse(name, format_args!("has {length} bytes; a {noun} has 1 to {max_bytes}"))
    }

    #[cold]
    fn too_many_levels(&self, name: &str, start: usize) -> Error {
        let Self { noun, max_levels, .. } = self;
        if *max_levels == 1 {
            let dot = start - 1;
            let rule = format_args!("has '.' at byte {dot}; a {noun} is one level, without `.`");
            return self.refuse(name, rule);
        }
        let number = max_levels + 1;
        self.refuse(
            name,
            format_args!(
                "has a level {number} at byte {start}; a {noun} has at most {max_levels} levels"
            ),
        )
    }

    #[cold]
    fn bad_level(&self, name: &str, level: Level<'_>) -> Error {
        let Level { text, number, start } = level;
        let Some((at, found)) = text.char_indices().find(|(_, c)| !is_word_char(*c)) else {
            return self.refuse(
                name,
                format_args!("has an empty level {number} at byte {start}; no level is empty"),
            );
        };
        let rule = match found {
            '*' | '#' | '>' if !self.wildcards => "a wildcard stands only in a pattern",
            '>' if text == ">" => "`>` stands last only",
            '*' | '#' | '>' => "a wildcard is a level of its own",
            _ => "a level holds only A-Z, a-z, 0-9, `_` and `-`",
        };
        let at = start + at;
        self.refuse(name, format_args!("has {found:?} at byte {at} in level {number}; {rule}"))
    }

    fn refuse(&self, name: &str, why: std::fmt::Arguments<'_>) -> Error {
        let (noun, name) = (self.noun, shown(name));
        Error::new(ErrorKind::InvalidTopic, format!("the {noun} {name} {why}"))
    }
}

/// `name` as an error repeats it: in quotes, and not all of a huge one.
pub(crate) fn shown(name: &str) -> String {
    let end = (0..=SHOWN_BYTES.min(name.len())).rfind(|at| name.is_char_boundary(*at));
    let start = &name[..end.unwrap_or(0)];
    let more = if start.len() < name.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

/// A level that breaks a rule, and where it stands.
#[derive(Clone, Copy)]
struct Level<'a> {
    text: &'a str,
    /// Counted from 1.
    number: usize,
    /// The index of its first byte in the name.
    start: usize,
}

/// The levels of a name that are left: a third of the size of `str::Split`, and faster on short
/// levels.
#[derive(Clone, Copy)]
pub(crate) struct Levels<'a>(Option<&'a str>);

impl<'a> Levels<'a> {
    pub(crate) fn of(name: &'a str) -> Self {
        Self(Some(name))
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_none()
    }
}

impl<'a> Iterator for Levels<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let left = self.0?;
        let Some(dot) = left.bytes().position(|byte| byte == b'.') else {
            return self.0.take();
        };
        self.0 = Some(&left[dot + 1..]);
        Some(&left[..dot])
    }
}

/// Whether the first level of `topic` is one that Event Fabric keeps for itself.
pub(crate) fn is_reserved(topic: &str) -> bool {
    let bytes = topic.as_bytes();
    // Nearly every topic is told by its first byte.
    matches!(bytes.first(), Some(b'd' | b'_'))
        && RESERVED.iter().any(|reserved| {
            topic
                .strip_prefix(reserved)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
}

/// Whether any byte of `name` is a wildcard.
pub(crate) fn has_wildcard(name: &str) -> bool {
    name.bytes().any(|byte| matches!(byte, b'*' | b'#' | b'>'))
}

fn is_word(level: &str) -> bool {
    !level.is_empty() && level.bytes().all(|byte| WORD_BYTES[usize::from(byte)])
}

fn is_wildcard(level: &str, last: bool) -> bool {
    matches!(level, "*" | "#") || (last && level == ">")
}

/// Whether a level may hold `c`.
pub(crate) fn is_word_char(c: char) -> bool {
    u8::try_from(c).is_ok_and(|byte| WORD_BYTES[usize::from(byte)])
}

/// The bytes that a level holds.
static WORD_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        byte += 1;
    }
    table
};

/// First levels that users cannot reach by a wildcard.
const RESERVED: [&str; 3] = ["dlq", "_reply", "_fabric"];

/// How much of a refused name an error repeats.
const SHOWN_BYTES: usize = 200;

/// The traits of a validated string that is an `Arc<str>` inside and has `new` and `as_str`.
macro_rules! impl_name {
    ($name:ident, $noun:literal) => {
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                std::sync::Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
            }
        }

        impl Eq for $name {}

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                *self.0 == *other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                *self.0 == **other
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.0.cmp(&other.0)
            }
        }

        // The hash of the text, as `Borrow<str>` demands.
        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::Error;

            fn from_str(name: &str) -> $crate::Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = $crate::Error;

            fn try_from(name: &str) -> $crate::Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::Error;

            fn try_from(name: String) -> $crate::Result<Self> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                Self::from(&*name.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($noun)
                    }

                    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<$name, E> {
                        $name::new(name).map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

pub(crate) use impl_name;

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { noun: "pattern", max_bytes: 200, max_levels: 3, wildcards: true };
    const ONE: Rules = Rules { noun: "group", max_bytes: 4, max_levels: 1, wildcards: false };

    #[test]
    fn an_error_names_the_value_the_place_and_the_rule() {
        let table = [
            (&RULES, "", r#"the pattern "" has 0 bytes; a pattern has 1 to 200"#),
            (
                &RULES,
                "a..b",
                r#"the pattern "a..b" has an empty level 2 at byte 2; no level is empty"#,
            ),
            (
                &RULES,
                "a.b.c.d",
                r#"the pattern "a.b.c.d" has a level 4 at byte 6; a pattern has at most 3 levels"#,
            ),
            (
                &RULES,
                "a.bé",
                r#"the pattern "a.bé" has 'é' at byte 3 in level 2; a level holds only A-Z, a-z, 0-9, `_` and `-`"#,
            ),
            (
                &RULES,
                "a\n",
                r#"the pattern "a\n" has '\n' at byte 1 in level 1; a level holds only A-Z, a-z, 0-9, `_` and `-`"#,
            ),
            (
                &RULES,
                "a.b*",
                r#"the pattern "a.b*" has '*' at byte 3 in level 2; a wildcard is a level of its own"#,
            ),
            (
                &RULES,
                "a.>.b",
                r#"the pattern "a.>.b" has '>' at byte 2 in level 2; `>` stands last only"#,
            ),
            (&ONE, "toolong", r#"the group "toolong" has 7 bytes; a group has 1 to 4"#),
            (
                &ONE,
                "ab.c",
                r#"the group "ab.c" has '.' at byte 2; a group is one level, without `.`"#,
            ),
            (
                &ONE,
                "a>",
                r#"the group "a>" has '>' at byte 1 in level 1; a wildcard stands only in a pattern"#,
            ),
        ];
        for (rules, name, message) in table {
            let error = rules.check(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidTopic);
            assert_eq!(error.message(), message);
        }
    }

    #[test]
    fn an_error_repeats_only_the_start_of_a_huge_value() {
        let error = RULES.check(&"é".repeat(1_000_000)).unwrap_err();
        assert_eq!(
            error.message(),
            format!("the pattern {:?}… has 2000000 bytes; a pattern has 1 to 200", "é".repeat(100))
        );
    }
}
