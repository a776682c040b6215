//! How names and values are spelled on one transport.

use std::borrow::Cow;

use super::escape;
use super::name::{Known, Name};

/// The spelling of names and values on one transport.
///
/// | transport | style |
/// |---|---|
/// | Kafka | [`underscored`](Self::underscored) |
/// | NATS | [`dashed`](Self::dashed), [`escaped`](Self::escaped), [`content_type_as_attribute`](Self::content_type_as_attribute) |
/// | RabbitMQ, Redis, ZeroMQ, UCX | [`dashed`](Self::dashed) |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    names: &'static [&'static str; Known::COUNT],
    prefix: &'static str,
    content_type: &'static str,
    escaped: bool,
}

impl Style {
    /// Attributes as `ce-id`, the media type as `content-type`.
    #[must_use]
    pub const fn dashed() -> Self {
        Self { names: &Known::DASHED, prefix: "ce-", content_type: "content-type", escaped: false }
    }

    /// Attributes as `ce_id`, the media type as `content-type`.
    #[must_use]
    pub const fn underscored() -> Self {
        Self { names: &Known::UNDERSCORED, prefix: "ce_", ..Self::dashed() }
    }

    /// The media type as an attribute: `ce-datacontenttype`.
    #[must_use]
    pub const fn content_type_as_attribute(mut self) -> Self {
        self.content_type = if self.prefix.as_bytes()[2] == b'_' {
            "ce_datacontenttype"
        } else {
            "ce-datacontenttype"
        };
        self
    }

    /// Values of attributes percent-encoded as CloudEvents' HTTP and NATS bindings say; those of
    /// headers only where they would not arrive as they are: `%`, and white space at an end.
    #[must_use]
    pub const fn escaped(mut self) -> Self {
        self.escaped = true;
        self
    }

    /// What stands before the name of an attribute.
    #[must_use]
    pub const fn prefix(&self) -> &'static str {
        self.prefix
    }

    /// The name of a field on the wire.
    #[must_use]
    pub const fn known(&self, known: Known) -> &'static str {
        match known {
            Known::ContentType => self.content_type,
            _ => self.names[known as usize],
        }
    }

    /// Any name on the wire.
    #[must_use]
    pub fn text<'a>(&self, name: Name<'a>) -> Cow<'a, str> {
        match name {
            Name::Known(known) => Cow::Borrowed(self.known(known)),
            Name::Extension(name) => Cow::Owned(format!("{}{name}", self.prefix)),
            Name::Header(name) => Cow::Borrowed(name),
        }
    }

    /// The value as it goes on the wire under `name`.
    #[must_use]
    pub fn encode<'a>(&self, name: Name<'_>, value: &'a str) -> Cow<'a, str> {
        match name {
            _ if !self.escaped => Cow::Borrowed(value),
            Name::Known(known) if !known.is_attribute() => escape::header(value),
            Name::Header(_) => escape::header(value),
            Name::Known(_) | Name::Extension(_) => escape::attribute(value),
        }
    }

    /// The value that came under `name`; `None` if it is no text.
    pub(super) fn decode<'a>(&self, attribute: bool, value: &'a [u8]) -> Option<Cow<'a, str>> {
        if !self.escaped {
            return std::str::from_utf8(value).ok().map(Cow::Borrowed);
        }
        if attribute { escape::read_attribute(value) } else { escape::read(value) }
    }
}
