//! Percent-encoding of values.
//!
//! Sources: CloudEvents HTTP protocol binding 1.0.2, section 3.1.3.2, which the NATS binding
//! follows.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

/// Space, `"`, `%` and whatever is not printable ASCII; the library adds what is not ASCII.
const ATTRIBUTE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

pub(super) fn attribute(value: &str) -> Cow<'_, str> {
    // Nearly every value: a loop without a way out, which takes many bytes at once.
    let plain = |byte: u8| matches!(byte, b'!'..=b'~') & (byte != b'"') & (byte != b'%');
    if value.bytes().fold(true, |all, byte| all & plain(byte)) {
        return Cow::Borrowed(value);
    }
    utf8_percent_encode(value, ATTRIBUTE).into()
}

/// Text of the user's travels as it is, but for what a reader would take for an escape or a client
/// library would trim.
pub(super) fn header(value: &str) -> Cow<'_, str> {
    let inner = value.trim();
    if inner.len() == value.len() && !value.contains('%') {
        return Cow::Borrowed(value);
    }
    let start = value.len() - value.trim_start().len();
    let (before, rest) = value.split_at(start);
    let (middle, after) = rest.split_at(inner.len().min(rest.len()));
    let mut out = String::with_capacity(value.len() + 16);
    every_byte(before, &mut out);
    out.extend(middle.split_inclusive('%').flat_map(|part| match part.strip_suffix('%') {
        Some(part) => [part, "%25"],
        None => [part, ""],
    }));
    every_byte(after, &mut out);
    Cow::Owned(out)
}

fn every_byte(text: &str, out: &mut String) {
    out.extend(text.bytes().map(percent_encoding::percent_encode_byte));
}

/// Decodes once; a quoted string of the older HTTP rules loses its quotes.
pub(super) fn read_attribute(value: &[u8]) -> Option<Cow<'_, str>> {
    match value {
        [b'"', inner @ .., b'"'] => {
            let mut plain = Vec::with_capacity(inner.len());
            let mut bytes = inner.iter();
            while let Some(byte) = bytes.next() {
                plain.push(if *byte == b'\\' { *bytes.next()? } else { *byte });
            }
            let decoded = percent_decode(&plain).decode_utf8().ok()?.into_owned();
            Some(Cow::Owned(decoded))
        }
        _ => read(value),
    }
}

pub(super) fn read(value: &[u8]) -> Option<Cow<'_, str>> {
    if value.contains(&b'%') {
        return percent_decode(value).decode_utf8().ok();
    }
    std::str::from_utf8(value).ok().map(Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_attribute_is_encoded_as_the_binding_says() {
        // The binding's own example.
        assert_eq!(attribute("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(attribute("a\"b%c"), "a%22b%25c");
        assert_eq!(read_attribute(b"Euro%20%e2%82%ac").as_deref(), Some("Euro €"));
        assert_eq!(read_attribute(b"\"quoted \\\" text\"").as_deref(), Some("quoted \" text"));
        assert_eq!(read_attribute(b"%FF"), None);
    }

    #[test]
    fn a_header_is_changed_only_where_it_must() {
        for (plain, wire) in [
            ("acme", "acme"),
            ("Zürich", "Zürich"),
            (" a b ", "%20a b%20"),
            ("100 %", "100 %25"),
            ("", ""),
            ("  ", "%20%20"),
        ] {
            assert_eq!(header(plain), wire);
            assert_eq!(read(wire.as_bytes()).as_deref(), Some(plain));
        }
        assert_eq!(read(b"50%").as_deref(), Some("50%"), "others do not escape");
    }

    proptest! {
        #[test]
        fn what_was_escaped_reads_back(value in "[ %\"\\\\a-zäß😀]{0,20}|.{0,20}") {
            let (attribute, header) = (attribute(&value), header(&value));
            prop_assert!(read_attribute(attribute.as_bytes()).is_some_and(|read| read == value));
            prop_assert!(read(header.as_bytes()).is_some_and(|read| read == value));
            prop_assert_eq!(header.trim(), &*header);
        }
    }
}
