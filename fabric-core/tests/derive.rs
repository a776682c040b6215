//! What `#[derive(Event)]` gives a type, and what an event of it carries.

#![cfg(all(feature = "derive", feature = "json"))]

extern crate fabric_core as fabric;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fabric::{ErrorKind, Event, IntoEvent, Pattern, Priority, Result, TypedEvent, TypedRequest};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(topic = "plan.{plan}.step_ready", version = 2, key = "plan")]
struct StepReady {
    plan: String,
    step: u32,
}

fn step(plan: &str) -> StepReady {
    StepReady { plan: plan.to_owned(), step: 3 }
}

#[test]
fn a_field_makes_a_level_of_topic_and_pattern() {
    assert_eq!(StepReady::TYPE, "plan.step_ready");
    assert_eq!(StepReady::VERSION, 2);
    assert_eq!(StepReady::PATTERN, "plan.*.step_ready");
    assert_eq!(StepReady::CONTENT_TYPE, "application/json");
    let topic = step("p-7").topic().unwrap();
    assert_eq!(topic, "plan.p-7.step_ready");
    assert!(Pattern::new(StepReady::PATTERN).unwrap().matches(&topic));
    assert_eq!(step("p-7").key().as_deref(), Some("p-7"));
}

#[test]
fn a_field_that_makes_no_level_is_refused_by_name_and_value() {
    for (plan, why) in [
        ("a.b", "it has '.' at byte 1, and a level holds only A-Z, a-z, 0-9, `_` and `-`"),
        ("", "no level is empty"),
        ("*", "it has '*' at byte 0, and a level holds only A-Z, a-z, 0-9, `_` and `-`"),
    ] {
        let error = step(plan).topic().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTopic);
        let start = "the field `plan` of `StepReady` is";
        let text = format!("{start} {plan:?}, which is no level of a topic: {why}");
        assert_eq!(error.message(), text);
        let error = Event::typed(Arc::new(step(plan))).unwrap_err();
        assert_eq!(error.message(), text, "publishing says the same");
    }
    let error = step(&"x".repeat(200)).topic().unwrap_err();
    assert!(error.message().ends_with("has 216 bytes; a topic has 1 to 200"), "{error}");
    assert_eq!(error.context("type"), Some("StepReady"));
}

#[test]
fn the_event_carries_what_the_type_says() {
    let event = step("p-7").into_event().unwrap();
    assert_eq!(event.topic(), &"plan.p-7.step_ready");
    assert_eq!((event.event_type(), event.version()), ("plan.step_ready", 2));
    assert_eq!((event.key(), event.content_type()), (Some("p-7"), "application/json"));
    assert_eq!((event.priority(), event.ttl()), (Priority::Normal, None));
    assert_eq!(event.text().unwrap(), r#"{"plan":"p-7","step":3}"#);
    assert_eq!(*event.decode::<StepReady>().unwrap(), step("p-7"));
}

#[derive(Event, Serialize, Deserialize)]
#[event(
    topic = "arm.stop",
    event_type = "com.acme.stop",
    priority = "critical",
    ttl = "1m 30s",
    content_type = "application/vnd.acme.stop+json",
    version = 1
)]
struct Stop;

#[test]
fn priority_time_to_live_type_and_media_type_are_the_types() {
    let event = Stop.into_event().unwrap();
    assert_eq!(
        (event.priority(), event.ttl()),
        (Priority::Critical, Some(Duration::from_secs(90)))
    );
    assert_eq!((event.event_type(), event.version()), ("com.acme.stop", 1));
    assert_eq!(event.content_type(), "application/vnd.acme.stop+json");
    assert_eq!(event.text().unwrap(), "null");
    let calm = Event::of(Stop).priority(Priority::Low).ttl(Duration::from_secs(1)).build().unwrap();
    assert_eq!((calm.priority(), calm.ttl()), (Priority::Low, Some(Duration::from_secs(1))));
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "agent.heartbeat")]
struct Heartbeat {
    n: u8,
}

#[test]
fn a_fixed_topic_is_made_once_and_a_plain_type_adds_nothing_to_its_event() {
    let topic = Heartbeat { n: 1 }.topic().unwrap();
    assert!(topic.same_as(&Heartbeat { n: 2 }.topic().unwrap()));
    let event = Heartbeat { n: 1 }.into_event().unwrap();
    let untyped = Event::to(topic).json(&7).into_event().unwrap();
    assert_eq!(untyped.payload().size(), size_of::<Heartbeat>());
    assert_eq!(event.size_in_memory(), untyped.size_in_memory(), "no rare fields");
    assert_eq!((event.event_type(), event.content_type()), ("agent.heartbeat", "application/json"));
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "shapes")]
enum Shape {
    Point(u8),
    Named { name: String, tags: Vec<u16>, note: Option<Box<str>> },
    Nothing,
}

#[test]
fn text_bytes_and_lists_count_for_the_bounds_of_queues() {
    let own = size_of::<Shape>();
    let note = Some("ninety".into());
    let named = Shape::Named { name: String::with_capacity(100), tags: vec![1, 2], note };
    assert_eq!(named.size_in_memory(), own + 100 + 4 + 6);
    assert_eq!((Shape::Point(1).size_in_memory(), Shape::Nothing.size_in_memory()), (own, own));
    let frame = Frame(bytes::Bytes::from(vec![0; 5000]));
    assert_eq!(frame.size_in_memory(), size_of::<Frame>() + 5000);
}

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(topic = "sensors.{0}.{1}", key = "1")]
struct Reading(Room, u8, f64);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Room {
    Hall,
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hall")
    }
}

#[test]
fn tuple_structs_name_their_fields_by_number() {
    let reading = Reading(Room::Hall, 4, 21.5);
    assert_eq!(reading.topic().unwrap(), "sensors.hall.4");
    assert_eq!(reading.key().as_deref(), Some("4"));
    assert_eq!((Reading::TYPE, Reading::PATTERN), ("sensors", "sensors.*.*"));
    assert_eq!(Reading::decode(&reading.encode().unwrap()).unwrap(), reading);
}

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(topic = "arm.stopped")]
enum Stopped {
    ByHand { who: String },
    AtLimit(u8),
    Unknown,
}

#[test]
fn enums_have_a_fixed_topic() {
    for stopped in [Stopped::ByHand { who: "me".into() }, Stopped::AtLimit(3), Stopped::Unknown] {
        assert_eq!(stopped.topic().unwrap(), "arm.stopped");
        assert_eq!(Stopped::decode(&stopped.encode().unwrap()).unwrap(), stopped);
    }
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "{type}.{type}", key = "type")]
#[event(event_type = "twice")]
struct Keyword {
    r#type: char,
}

#[test]
fn fields_may_be_keywords_stand_twice_and_take_every_level() {
    let keyword = Keyword { r#type: 'k' };
    assert_eq!(keyword.topic().unwrap(), "k.k");
    assert_eq!((Keyword::TYPE, Keyword::PATTERN), ("twice", "*.*"));
    assert_eq!(keyword.key().as_deref(), Some("k"));
}

#[derive(Event)]
#[event(topic = "camera.frame", content_type = "raw")]
struct Frame(bytes::Bytes);

#[derive(Debug, Event)]
#[event(topic = "log.line", content_type = "text/plain; charset=utf-8")]
struct Line {
    text: String,
}

#[test]
fn a_raw_payload_is_the_field_as_it_is() {
    let frame = Frame(bytes::Bytes::from_static(b"\0\xff"));
    let encoded = frame.encode().unwrap();
    assert_eq!(encoded.as_ptr(), frame.0.as_ptr(), "bytes are shared, not copied");
    assert_eq!(Frame::decode(&encoded).unwrap().0, frame.0);
    assert_eq!(Frame::CONTENT_TYPE, "application/octet-stream");

    let line = Line { text: "naïve".to_owned() };
    assert_eq!(line.into_event().unwrap().text().unwrap(), "naïve");
    let event = Event::to("log.line").bytes(&b"a\xff"[..]).build().unwrap();
    let error = event.decode::<Line>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    let why = "the payload is no `log.line`: invalid utf-8 sequence of 1 bytes from index 1";
    assert_eq!(error.message(), why);
}

#[cfg(all(feature = "msgpack", feature = "cbor"))]
#[test]
fn the_content_type_chooses_the_codec() {
    #[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
    #[event(topic = "a.packed", content_type = "msgpack")]
    struct Packed {
        n: u8,
    }

    #[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
    #[event(topic = "a.senml", content_type = "application/senml+cbor")]
    struct Senml {
        n: u8,
    }

    let packed = Packed { n: 7 }.into_event().unwrap();
    assert_eq!(packed.content_type(), "application/vnd.msgpack");
    assert_eq!(&packed.payload().bytes().unwrap()[..], b"\x81\xa1n\x07");
    assert_eq!(Packed::decode(b"\x81\xa1n\x07").unwrap(), Packed { n: 7 });

    let senml = Senml { n: 7 }.into_event().unwrap();
    assert_eq!(senml.content_type(), "application/senml+cbor");
    assert_eq!(&senml.payload().bytes().unwrap()[..], b"\xa1\x61n\x07");
    assert_eq!(Senml::decode(b"\xa1\x61n\x07").unwrap(), Senml { n: 7 });
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "quotes.{symbol}", reply = Quote)]
struct GetQuote {
    symbol: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "quotes")]
struct Quote {
    cents: u64,
}

#[test]
fn a_request_names_its_reply() {
    fn reply<T: TypedRequest>() -> &'static str {
        T::Reply::TYPE
    }
    assert_eq!((reply::<GetQuote>(), GetQuote::TYPE), ("quotes", "quotes"));
}

#[test]
fn what_does_not_fit_is_refused_with_the_decoders_words_and_place() {
    let event = Event::to("plan.p.step_ready").text(r#"{"plan":"p"}"#).build().unwrap();
    let error = event.decode::<StepReady>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert_eq!(error.message(), "the payload cannot be read as JSON: missing field `step`");
    assert_eq!((error.context("line"), error.context("column")), (Some("1"), Some("12")));
    assert_eq!(error.context("type"), Some("plan.step_ready"));
    assert_eq!(error.context("topic"), Some("plan.p.step_ready"));

    let newer = Event::to("plan.p.step_ready").version(3).text("{}").build().unwrap();
    let error = newer.decode::<StepReady>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert_eq!(error.message(), "version 3 is newer than 2, the one known here");
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "maps", content_type = "json")]
struct Odd {
    by_pair: std::collections::BTreeMap<(u8, u8), u8>,
}

#[test]
fn what_json_cannot_hold_is_refused() {
    let event = Odd { by_pair: [((1, 2), 3)].into() }.into_event().unwrap();
    let error = event.payload().bytes().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
    assert_eq!(error.message(), "`derive::Odd` cannot be written as JSON: key must be a string");
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "notes.{id}", key = "text")]
struct Note {
    id: u64,
    text: String,
}

#[test]
fn a_key_keeps_the_rules_of_keys() {
    let event = |text: &str| Note { id: 1, text: text.to_owned() }.into_event();
    assert_eq!(event("a key").unwrap().key(), Some("a key"));
    for (text, why) in [("", "has 0 bytes"), ("a\nb", "control character '\\n' at byte 1")] {
        let error = event(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEvent);
        assert!(error.message().contains(why), "{error}");
        assert_eq!(error.context("type"), Some("notes"));
    }
}

/// Names of the user's own do not disturb what is generated.
mod shadowed {
    #![expect(dead_code, reason = "they only stand in the way")]

    pub(crate) struct Result;
    pub(crate) struct Option;
    pub(crate) struct String;
    pub(crate) struct Topic;
    pub(crate) mod std {}
    pub(crate) mod core {}

    #[derive(fabric_core::Event)]
    #[event(topic = "own.{name}", key = "name", ttl = "5s", priority = "low")]
    #[event(content_type = "raw", crate = "fabric_core")]
    pub(crate) struct Own {
        pub(crate) name: Name,
    }

    pub(crate) struct Name(pub(crate) &'static str);

    impl ::std::fmt::Display for Name {
        fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl AsRef<[u8]> for Name {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }

    impl From<Vec<u8>> for Name {
        fn from(_: Vec<u8>) -> Self {
            Self("read")
        }
    }
}

#[test]
fn a_types_own_names_do_not_matter() -> Result<()> {
    assert_eq!(shadowed::Own { name: shadowed::Name("x") }.topic()?, "own.x");
    assert_eq!(shadowed::Own::decode(b"?")?.key().as_deref(), Some("read"));
    Ok(())
}

macro_rules! counted {
    ($name:ident, $topic:literal, $field:ident) => {
        #[derive(Event, Serialize, Deserialize)]
        #[event(topic = $topic, key = "n")]
        struct $name {
            $field: u32,
        }
    };
}

counted!(Counted, "counted.{n}", n);

#[test]
fn a_macro_may_write_the_type() {
    assert_eq!(Counted { n: 9 }.topic().unwrap(), "counted.9");
}
