//! Media types: which codec one is for.

/// Whether a media type is of one kind.
pub(crate) type Test = fn(&str) -> bool;

/// The media type without its parameters.
pub(crate) fn essence(content_type: &str) -> &str {
    content_type.split_once(';').map_or(content_type, |(essence, _)| essence).trim()
}

/// `application/json`, `*/json` or `*+json`.
pub(crate) fn is_json(content_type: &str) -> bool {
    is(content_type, "json", &[])
}

/// `application/cbor` or `*+cbor`.
pub(crate) fn is_cbor(content_type: &str) -> bool {
    is(content_type, "cbor", &[])
}

/// `application/vnd.msgpack`, the names it had before it was registered, or `*+msgpack`.
pub(crate) fn is_msgpack(content_type: &str) -> bool {
    is(content_type, "msgpack", &["vnd.msgpack", "x-msgpack"])
}

/// Bytes of no known shape, or text.
pub(crate) fn is_raw(content_type: &str) -> bool {
    essence(content_type).eq_ignore_ascii_case("application/octet-stream") || is_text(content_type)
}

/// `text/*`, save what is JSON.
pub(crate) fn is_text(content_type: &str) -> bool {
    let kind = essence(content_type).split_once('/').map(|(kind, _)| kind);
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("text")) && !is_json(content_type)
}

fn is(content_type: &str, name: &str, aliases: &[&str]) -> bool {
    let Some((_, subtype)) = essence(content_type).split_once('/') else { return false };
    let suffix = subtype.rsplit_once('+').map(|(_, suffix)| suffix);
    suffix.unwrap_or(subtype).eq_ignore_ascii_case(name)
        || aliases.iter().any(|alias| subtype.eq_ignore_ascii_case(alias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_is_for_one_codec() {
        let table: [(&str, Test); 12] = [
            ("application/json", is_json),
            ("Application/JSON; charset=utf-8", is_json),
            ("application/vnd.acme.order+json;v=2", is_json),
            ("text/json", is_json),
            ("application/cbor", is_cbor),
            ("application/senml+CBOR", is_cbor),
            ("application/vnd.msgpack", is_msgpack),
            ("application/x-msgpack ", is_msgpack),
            ("application/msgpack", is_msgpack),
            ("application/octet-stream", is_raw),
            ("text/plain; charset=utf-8", is_raw),
            ("TEXT/csv", is_raw),
        ];
        let all: [Test; 4] = [is_json, is_cbor, is_msgpack, is_raw];
        for (content_type, reads) in table {
            assert!(reads(content_type), "{content_type}");
            assert_eq!(all.iter().filter(|reads| reads(content_type)).count(), 1, "{content_type}");
        }
        for none in ["", "json", "application/jsonp", "image/png", "application/json+xml", "/"] {
            assert!(all.iter().all(|reads| !reads(none)), "{none}");
        }
    }
}
