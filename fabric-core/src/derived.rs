//! What the code that `#[derive(Event)]` writes calls.

#![expect(clippy::missing_errors_doc, reason = "generated code calls this; `TypedEvent` tells")]

use std::fmt::{self, Write};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::name;
use crate::topic::Topic;
use crate::{Error, ErrorKind, Result};

/// A piece of a topic: text, or the name and value of a field that makes one level.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it holds any value that can be displayed")]
pub enum Part<'a> {
    /// Text that is the same for every value.
    Literal(&'static str),
    /// The name of a field, and its value.
    Field(&'static str, &'a dyn fmt::Display),
}

/// The topic that is the same for every value of a type, made once.
pub fn fixed_topic(made: &'static OnceLock<Topic>, text: &str) -> Result<Topic> {
    if let Some(topic) = made.get() {
        return Ok(topic.clone());
    }
    let topic = Topic::new(text)?;
    Ok(made.get_or_init(|| topic).clone())
}

/// The topic of one value of the type called `event`.
pub fn topic(event: &str, parts: &[Part<'_>]) -> Result<Topic> {
    let mut text = Text { bytes: [0; Topic::MAX_BYTES], len: 0 };
    let mut dots = 0;
    for part in parts {
        let written = match part {
            Part::Literal(literal) => {
                dots += count_dots(literal.as_bytes());
                text.write_str(literal)
            }
            Part::Field(_, value) => write!(text, "{value}"),
        };
        if written.is_err() {
            return checked_topic(event, parts);
        }
    }
    // With the dots of the literals alone and no empty level, each field has made exactly one.
    let text = &text.bytes[..text.len];
    match std::str::from_utf8(text).map(Topic::new) {
        Ok(Ok(topic)) if count_dots(text) == dots => Ok(topic),
        _ => checked_topic(event, parts),
    }
}

/// Text on the stack that is no longer than a topic.
struct Text {
    bytes: [u8; Topic::MAX_BYTES],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let free = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        free.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

fn count_dots(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'.').count()
}

/// The same, level by level, to tell what is wrong.
#[cold]
fn checked_topic(event: &str, parts: &[Part<'_>]) -> Result<Topic> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Literal(literal) => text.push_str(literal),
            Part::Field(field, value) => {
                let start = text.len();
                let shown = write!(text, "{value}");
                check_level(&text[start..], shown).map_err(|why| {
                    let text = format!("the field `{field}` of `{event}` {why}");
                    Error::new(ErrorKind::InvalidTopic, text)
                })?;
            }
        }
    }
    Topic::new(text).map_err(|error| error.with("type", event))
}

/// Whether what a field has written is one level.
fn check_level(level: &str, shown: fmt::Result) -> Result<(), String> {
    if shown.is_err() {
        return Err("cannot be displayed".to_owned());
    }
    let rule = match level.char_indices().find(|(_, c)| !name::is_word_char(*c)) {
        Some((at, c)) => {
            format!("it has {c:?} at byte {at}, and a level holds only A-Z, a-z, 0-9, `_` and `-`")
        }
        None if level.is_empty() => "no level is empty".to_owned(),
        None => return Ok(()),
    };
    Err(format!("is {}, which is no level of a topic: {rule}", name::shown(level)))
}

/// A field, asked for the bytes that it holds outside of itself.
///
/// Method resolution takes [`HeldBytes`] where the field's type is one of those below, else the
/// answer of [`HeldElsewhere`], which is one reference further away: none that can be told.
#[derive(Debug)]
pub struct Held<'a, T>(pub &'a T);

/// The bytes of types that tell.
pub trait HeldBytes {
    /// How many they are.
    fn held_bytes(&self) -> usize;
}

/// The bytes of all other types.
pub trait HeldElsewhere {
    /// None that can be told.
    fn held_bytes(&self) -> usize {
        0
    }
}

impl<T> HeldElsewhere for &Held<'_, T> {}

macro_rules! held {
    ($(<$($param:ident)?> $owner:ty, $it:ident => $bytes:expr;)+) => {$(
        impl$(<$param>)? HeldBytes for Held<'_, $owner> {
            fn held_bytes(&self) -> usize {
                let $it = self.0;
                $bytes
            }
        }

        impl$(<$param>)? HeldBytes for Held<'_, Option<$owner>> {
            fn held_bytes(&self) -> usize {
                self.0.as_ref().map_or(0, |$it| $bytes)
            }
        }
    )+};
}

held! {
    <> String, text => text.capacity();
    <> Box<str>, text => text.len();
    <> Arc<str>, text => text.len();
    <> Bytes, bytes => bytes.len();
    <T> Vec<T>, items => items.capacity() * size_of::<T>();
    <T> Box<[T]>, items => size_of_val::<[T]>(items);
    <T> Arc<[T]>, items => size_of_val::<[T]>(items);
}

pub mod raw {
    //! Payloads that one field holds as they are.

    use std::any::Any;
    use std::fmt::Display;

    use bytes::Bytes;

    use crate::typed::TypedEvent;
    use crate::{Error, ErrorKind, Result};

    /// The field's bytes: shared if it is `Bytes`, else copied.
    pub fn encode<F: AsRef<[u8]> + 'static>(field: &F) -> Result<Bytes> {
        let shared = (field as &dyn Any).downcast_ref::<Bytes>().cloned();
        Ok(shared.unwrap_or_else(|| Bytes::copy_from_slice(field.as_ref())))
    }

    /// The field of these bytes.
    pub fn decode<T: TypedEvent, F: TryFrom<Vec<u8>, Error: Display>>(payload: &[u8]) -> Result<F> {
        F::try_from(payload.to_vec()).map_err(|error| {
            Error::new(ErrorKind::Codec, format!("the payload is no `{}`: {error}", T::TYPE))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &dyn fmt::Display) -> Result<Topic> {
        topic("Step", &[Part::Literal("plan."), Part::Field("plan", value), Part::Literal(".done")])
    }

    #[test]
    fn a_field_makes_one_level() {
        assert_eq!(of(&"p-1").unwrap(), "plan.p-1.done");
        assert_eq!(of(&17).unwrap(), "plan.17.done");
        let parts = [Part::Field("a", &'x'), Part::Literal("."), Part::Field("b", &false)];
        assert_eq!(topic("T", &parts).unwrap(), "x.false");
    }

    #[test]
    fn an_error_names_the_field_and_its_value() {
        let rule = "and a level holds only A-Z, a-z, 0-9, `_` and `-`";
        for (value, why) in [
            ("p.1", format!("\"p.1\", which is no level of a topic: it has '.' at byte 1, {rule}")),
            ("é", format!("\"é\", which is no level of a topic: it has 'é' at byte 0, {rule}")),
            ("*", format!("\"*\", which is no level of a topic: it has '*' at byte 0, {rule}")),
            ("", "\"\", which is no level of a topic: no level is empty".to_owned()),
        ] {
            let error = of(&value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidTopic);
            assert_eq!(error.message(), format!("the field `plan` of `Step` is {why}"));
        }
    }

    #[test]
    fn a_topic_that_grew_too_long_is_refused_with_its_type() {
        let error = of(&"x".repeat(200)).unwrap_err();
        assert!(error.message().contains("has 210 bytes; a topic has 1 to 200"), "{error}");
        assert_eq!(error.context("type"), Some("Step"));
    }

    #[test]
    fn a_value_that_cannot_be_displayed_is_refused() {
        struct Broken;
        impl fmt::Display for Broken {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        let error = of(&Broken).unwrap_err();
        assert_eq!(error.message(), "the field `plan` of `Step` cannot be displayed");
    }

    #[test]
    #[expect(clippy::needless_borrow, reason = "the reference makes the choice, as in `Held`")]
    fn bytes_on_the_heap_are_counted_where_the_type_tells() {
        assert_eq!((&Held(&String::with_capacity(9))).held_bytes(), 9);
        assert_eq!((&Held(&vec![1_u32, 2])).held_bytes(), 8);
        assert_eq!((&Held(&Some(Bytes::from_static(b"abc")))).held_bytes(), 3);
        assert_eq!((&Held(&None::<Bytes>)).held_bytes(), 0);
        assert_eq!((&Held(&Arc::<[u16]>::from([1, 2]))).held_bytes(), 4);
        assert_eq!((&Held(&7_u8)).held_bytes(), 0);
        assert_eq!((&Held(&std::collections::BTreeMap::from([(1, 2)]))).held_bytes(), 0);
    }

    #[test]
    fn a_fixed_topic_is_made_once() {
        static MADE: OnceLock<Topic> = OnceLock::new();
        let first = fixed_topic(&MADE, "a.b").unwrap();
        assert!(first.same_as(&fixed_topic(&MADE, "a.b").unwrap()));
    }
}
