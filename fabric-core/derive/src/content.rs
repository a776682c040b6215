//! Content types: the media type that travels, and the codec that it stands for.

/// The media type and what writes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) media_type: String,
    pub(crate) codec: Codec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Json,
    MessagePack,
    Cbor,
    /// The one field is the payload.
    Raw,
}

impl Default for Content {
    fn default() -> Self {
        Self { media_type: "application/json".to_owned(), codec: Codec::Json }
    }
}

impl Content {
    /// Reads a short name or a media type, or says what was expected.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (media_type, codec) = match text {
            "json" => ("application/json", Codec::Json),
            "msgpack" => ("application/vnd.msgpack", Codec::MessagePack),
            "cbor" => ("application/cbor", Codec::Cbor),
            "raw" => ("application/octet-stream", Codec::Raw),
            media_type if is_media_type(media_type) => (media_type, codec_of(media_type)),
            _ => {
                return Err(format!(
                    "{text:?} is no content type: `json`, `msgpack`, `cbor`, `raw` or a media \
                     type, such as `application/vnd.acme.order+json`, are known"
                ));
            }
        };
        Ok(Self { media_type: media_type.to_owned(), codec })
    }
}

/// `type/subtype` and perhaps parameters.
fn is_media_type(text: &str) -> bool {
    let token = |part: &str| {
        let special = |c| "!#$&-^_.+".contains(c);
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || special(c))
    };
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let fits =
        text.len() <= 256 && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    fits && essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

fn codec_of(media_type: &str) -> Codec {
    let essence = media_type.split(';').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let (_, subtype) = essence.split_once('/').unwrap_or_default();
    match subtype.rsplit('+').next().unwrap_or_default() {
        "json" => Codec::Json,
        "msgpack" | "x-msgpack" | "vnd.msgpack" => Codec::MessagePack,
        "cbor" => Codec::Cbor,
        _ => Codec::Raw,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_media_types_give_a_codec() {
        for (text, media_type, codec) in [
            ("json", "application/json", Codec::Json),
            ("msgpack", "application/vnd.msgpack", Codec::MessagePack),
            ("application/msgpack", "application/msgpack", Codec::MessagePack),
            ("cbor", "application/cbor", Codec::Cbor),
            ("raw", "application/octet-stream", Codec::Raw),
            ("text/json", "text/json", Codec::Json),
            ("application/vnd.a.b+json", "application/vnd.a.b+json", Codec::Json),
            ("application/JSON; charset=utf-8", "application/JSON; charset=utf-8", Codec::Json),
            ("application/vnd.msgpack", "application/vnd.msgpack", Codec::MessagePack),
            ("application/senml+cbor", "application/senml+cbor", Codec::Cbor),
            ("text/plain; charset=utf-8", "text/plain; charset=utf-8", Codec::Raw),
            ("image/png", "image/png", Codec::Raw),
        ] {
            let content = Content { media_type: media_type.to_owned(), codec };
            assert_eq!(Content::parse(text), Ok(content));
        }
    }

    #[test]
    fn core_reads_each_with_the_same_codec() {
        use fabric_core::codec::{Cbor, Codec as _, Json, MessagePack};
        for text in [
            "json",
            "msgpack",
            "cbor",
            "raw",
            "text/JSON",
            "text/plain",
            "image/png",
            "application/json+zip",
            "application/vnd.a+json; v=1",
            "application/x-msgpack",
            "application/MsgPack ;a=b",
            "application/vnd.a+msgpack",
            "application/senml+cbor",
        ] {
            let Content { media_type, codec } = Content::parse(text).unwrap();
            let read =
                [Json::reads, MessagePack::reads, Cbor::reads].map(|reads| reads(&media_type));
            let codecs = [Codec::Json, Codec::MessagePack, Codec::Cbor].map(|known| known == codec);
            assert_eq!(read, codecs, "{text}");
        }
        assert_eq!(Content::default().media_type, Json::CONTENT_TYPE);
        for (text, media_type) in
            [("msgpack", MessagePack::CONTENT_TYPE), ("cbor", Cbor::CONTENT_TYPE)]
        {
            assert_eq!(Content::parse(text).unwrap().media_type, media_type);
        }
    }

    #[test]
    fn the_rest_is_refused() {
        for text in ["", "xml", "JSON", "a/", "/b", "a/b/c", "a b/c", "a/b\n", "ä/b", "; a/b"] {
            let error = Content::parse(text).unwrap_err();
            assert!(error.contains("`json`, `msgpack`, `cbor`, `raw`"), "{error}");
        }
    }
}
