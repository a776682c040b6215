use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: String,
    cents: i64,
    paid: bool,
    note: Option<String>,
    items: Vec<Item>,
    tags: BTreeMap<String, f64>,
    blob: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Item {
    Free,
    Piece(u64),
    Set { name: String, pieces: Vec<u32> },
}

fn orders() -> impl Strategy<Value = Order> {
    let item = prop_oneof![
        Just(Item::Free),
        any::<u64>().prop_map(Item::Piece),
        (".{0,8}", prop::collection::vec(any::<u32>(), 0..4))
            .prop_map(|(name, pieces)| Item::Set { name, pieces }),
    ];
    let tags = prop::collection::btree_map(".{0,6}", -1e9..1e9, 0..4);
    (
        ".{0,12}",
        any::<i64>(),
        any::<bool>(),
        prop::option::of(".{0,200}"),
        prop::collection::vec(item, 0..5),
        tags,
        prop::collection::vec(any::<u8>(), 0..300),
    )
        .prop_map(|(id, cents, paid, note, items, tags, blob)| Order {
            id,
            cents,
            paid,
            note,
            items,
            tags,
            blob,
        })
}

/// What is written is read again; nothing that is cut short or goes on is read.
fn survives<C: Codec>(order: &Order) {
    let bytes = C::encode(order).unwrap();
    assert_eq!(C::decode::<Order>(&bytes).unwrap(), *order);
    assert_eq!(C::decode::<Order>(&bytes[..bytes.len() - 1]).unwrap_err().kind(), ErrorKind::Codec);
    let longer = [&bytes[..], &bytes[..]].concat();
    assert_eq!(C::decode::<Order>(&longer).unwrap_err().kind(), ErrorKind::Codec);
    let event = Event::to("a.b").encode::<C>(order).build().unwrap();
    assert_eq!(event.content_type(), C::CONTENT_TYPE);
    assert_eq!(event.read::<C, Order>().unwrap(), *order);
    assert_eq!(event.read_any::<Order>().unwrap(), *order);
}

/// Any input is read or refused, with a place.
fn refuses_or_reads<C: Codec>(input: &[u8], place: &[&str]) {
    if let Err(error) = C::decode::<Order>(input) {
        assert_eq!(error.kind(), ErrorKind::Codec);
        for key in place {
            let at: usize =
                error.context(key).unwrap_or_else(|| panic!("{error}")).parse().unwrap();
            assert!(at <= input.len() + 1, "{error}");
        }
    }
}

proptest! {
    #[test]
    fn values_survive_every_codec(order in orders()) {
        #[cfg(feature = "json")]
        survives::<Json>(&order);
        #[cfg(feature = "msgpack")]
        survives::<MessagePack>(&order);
        #[cfg(feature = "cbor")]
        survives::<Cbor>(&order);
        let _ = order;
    }

    #[test]
    fn bytes_and_text_survive_raw(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
        prop_assert_eq!(Raw::decode::<Vec<u8>>(&Raw::encode(&bytes).unwrap()).unwrap(), bytes);
        prop_assert_eq!(Raw::decode::<String>(&Raw::encode(&text).unwrap()).unwrap(), text);
    }

    #[test]
    fn bad_input_is_refused_with_its_place(
        order in orders(),
        cut in any::<prop::sample::Index>(),
        change in any::<(prop::sample::Index, u8)>(),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let spoilt = |bytes: Bytes| {
            let mut bytes = bytes[..cut.index(bytes.len() + 1)].to_vec();
            if !bytes.is_empty() {
                let at = change.0.index(bytes.len());
                bytes[at] = change.1;
            }
            bytes
        };
        #[cfg(feature = "json")]
        for input in [spoilt(Json::encode(&order).unwrap()), noise.clone()] {
            refuses_or_reads::<Json>(&input, &["line", "column"]);
        }
        #[cfg(feature = "msgpack")]
        for input in [spoilt(MessagePack::encode(&order).unwrap()), noise.clone()] {
            refuses_or_reads::<MessagePack>(&input, &["byte"]);
        }
        #[cfg(feature = "cbor")]
        for input in [spoilt(Cbor::encode(&order).unwrap()), noise.clone()] {
            refuses_or_reads::<Cbor>(&input, &["byte"]);
        }
        refuses_or_reads::<Raw>(&spoilt(Raw::encode(&noise).unwrap()), &[]);
    }
}

#[cfg(feature = "json")]
#[test]
fn json_says_what_it_expected_and_where() {
    let event =
        Event::to("orders.created").id("o-1").text("{\"id\": \"a\",\n  7}").build().unwrap();
    let error = event.json::<Order>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the payload cannot be read as JSON: key must be a string (line: 2, column: 3, \
         type: fabric_core::codec::tests::Order, topic: orders.created, id: o-1)"
    );
    let deep = "[".repeat(100_000);
    let error = Json::decode::<serde_json::Value>(deep.as_bytes()).unwrap_err();
    assert!(error.message().contains("recursion limit"), "{error}");
}

#[cfg(all(feature = "json", feature = "msgpack", feature = "cbor"))]
#[test]
fn binary_formats_say_at_which_byte() {
    // {"id": 7}
    let wrong = MessagePack::encode(&BTreeMap::from([("id", 7)])).unwrap();
    let error = MessagePack::decode::<Order>(&wrong).unwrap_err();
    assert_eq!(error.context("byte"), Some("5"), "{error}");
    let error = MessagePack::decode::<u8>(&[7, 7, 7]).unwrap_err();
    assert_eq!(error.context("byte"), Some("1"), "{error}");
    assert!(error.message().contains("2 bytes follow the value"), "{error}");
    let error = MessagePack::decode::<u8>(&[]).unwrap_err();
    assert_eq!(error.context("byte"), Some("0"), "{error}");

    let wrong = Cbor::encode(&BTreeMap::from([("id", 7)])).unwrap();
    let error = Cbor::decode::<Order>(&wrong).unwrap_err();
    assert_eq!(error.context("byte"), Some("5"), "{error}");
    let error = Cbor::decode::<u8>(&[7, 7, 7]).unwrap_err();
    assert_eq!(error.context("byte"), Some("1"), "{error}");
    let error = Cbor::decode::<u8>(&[0x1c]).unwrap_err();
    assert_eq!(error.context("byte"), Some("0"), "{error}");
}

#[cfg(all(feature = "json", feature = "msgpack", feature = "cbor"))]
#[test]
fn what_nests_without_end_is_refused() {
    for deep in [vec![0x91; 100_000], [vec![0x91; 129], vec![0xc0]].concat()] {
        let error = MessagePack::decode::<serde_json::Value>(&deep).unwrap_err();
        assert!(error.message().contains("depth limit"), "{error}");
    }
    for deep in [vec![0x81; 100_000], [vec![0x81; 129], vec![0xf6]].concat()] {
        let error = Cbor::decode::<serde_json::Value>(&deep).unwrap_err();
        assert!(error.message().contains("128 levels"), "{error}");
    }
    // A length that nobody has the memory for.
    for huge in [&[0xdd, 0xff, 0xff, 0xff, 0xff][..], &[0xc6, 0xff, 0xff, 0xff, 0xff]] {
        assert!(MessagePack::decode::<Vec<u8>>(huge).is_err());
    }
    for huge in [&[0x9b, 255, 255, 255, 255, 255, 255, 255, 255][..], &[0x5a, 255, 255, 255, 255]] {
        assert!(Cbor::decode::<Vec<u64>>(huge).is_err());
    }
}

#[test]
fn raw_takes_bytes_and_text_alone() {
    assert_eq!(Raw::encode(&Some("x")).unwrap(), "x");
    assert_eq!(Raw::encode(&[1_u8, 2]).unwrap(), &[1, 2][..]);
    assert_eq!(Raw::decode::<[u8; 2]>(&[1, 2]).unwrap(), [1, 2]);
    assert_eq!(Raw::decode::<Option<String>>(b"x").unwrap(), Some("x".to_owned()));
    let refused: [Result<Bytes>; 6] = [
        Raw::encode(&7_u8),
        Raw::encode(&[[1_u8]]),
        Raw::encode(&["a", "b"]),
        Raw::encode(&[1_u16]),
        Raw::encode(&Item::Free),
        Raw::encode(&BTreeMap::from([("a", 1)])),
    ];
    for refused in refused {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(error.message().contains("cannot be written as raw bytes"), "{error}");
    }
    assert!(Raw::decode::<[u8; 2]>(&[1, 2, 3]).is_err());
    assert!(Raw::decode::<u32>(b"7").is_err());
    let error = Raw::decode::<String>(b"ab\xff").unwrap_err();
    assert_eq!(error.context("byte"), Some("2"), "{error}");
}

#[test]
fn a_content_type_that_means_the_codec_is_kept_and_another_is_replaced() {
    let with = |content_type: &str| Event::to("a").content_type(content_type).encode::<Raw>("x");
    assert_eq!(with("text/csv").build().unwrap().content_type(), "text/csv");
    assert_eq!(with("image/png").build().unwrap().content_type(), "application/octet-stream");
    let later = with("text/csv").content_type("image/png").build().unwrap();
    assert_eq!(later.content_type(), "image/png");
    #[cfg(feature = "json")]
    {
        let plain = Event::to("a").json(&1).build().unwrap();
        assert_eq!(plain.content_type(), "application/json");
        let acme = Event::to("a").content_type("application/vnd.acme+json").json(&1);
        assert_eq!(acme.build().unwrap().content_type(), "application/vnd.acme+json");
        let again = Event::of(with("text/csv")).json(&1).build().unwrap();
        assert_eq!(again.content_type(), "application/json");
    }
}

#[test]
fn a_content_type_that_nobody_reads_lists_those_that_are_read() {
    let event = Event::to("a.b").content_type("image/png").bytes(&[1][..]).build().unwrap();
    let error = event.read_any::<Vec<u8>>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    let text = error.to_string();
    assert!(text.contains("no codec reads `image/png`"), "{text}");
    assert!(text.contains("`application/octet-stream`"), "{text}");
    assert!(text.contains("use `read` with a codec of your own"), "{text}");
    for (content_type, feature, here, reads) in KNOWN {
        assert!(reads(content_type));
        assert_eq!(text.contains(content_type), here, "{text}");
        if !here {
            let event = Event::to("a").content_type(content_type).bytes(&[1][..]).build().unwrap();
            let error = event.read_any::<Vec<u8>>().unwrap_err().to_string();
            assert!(error.contains(&format!("the feature `{feature}` adds one")), "{error}");
        }
    }
}

/// A type whose serde code is broken.
#[derive(Debug)]
struct Broken;

impl Serialize for Broken {
    fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        panic!("no way to write {}", "this")
    }
}

impl<'de> Deserialize<'de> for Broken {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        panic!("no way to read this")
    }
}

#[test]
fn a_panic_in_a_value_is_an_error_of_its_event_alone() {
    let error = Event::to("a.b").encode::<Raw>(&Broken).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert!(error.to_string().contains("no way to write this"), "{error}");
    assert_eq!(error.context("topic"), Some("a.b"));
    let event = Event::to("a.b").bytes(&[1][..]).build().unwrap();
    let error = event.read::<Raw, Broken>().unwrap_err();
    assert!(error.to_string().contains("no way to read this"), "{error}");
    assert_eq!(event.read::<Raw, Vec<u8>>().unwrap(), [1]);
}

#[test]
fn an_error_of_the_builder_is_the_first_one() {
    let error = Event::to("a..b").encode::<Raw>(&Broken).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidTopic);
    let _: &dyn Debug = &error;
}
