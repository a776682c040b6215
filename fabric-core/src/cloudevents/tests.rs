use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::codec::media::is_json;
use crate::dead_letter::{DeadLetter, DeadLetterReason};
use crate::event::Priority;
use crate::{ErrorKind, EventBuilder, Timestamp, TraceContext};

/// Text that a field takes.
fn field(pattern: &'static str) -> impl Strategy<Value = String> {
    pattern.prop_map(|text| text.chars().filter(|c| !c.is_control()).collect::<String>() + "x")
}

fn topic() -> impl Strategy<Value = String> {
    "[a-z0-9_-]{1,6}(\\.[A-Za-z0-9_-]{1,6}){0,3}"
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![any::<i64>(), 0..4_000_000_000_000_000_000_i64]
        .prop_map(|nanos| Timestamp::from_nanos(nanos.max(i64::MIN + 1)))
}

fn trace() -> impl Strategy<Value = TraceContext> {
    let state = prop::option::of("[a-z0-9@]{1,8}=[ -~]{0,20}");
    ("[1-9a-f][0-9a-f]{31}", "[0-9a-f]{15}[1-9a-f]", "0[01]", state).prop_map(
        |(trace, span, flags, state)| {
            let context = TraceContext::new(&format!("00-{trace}-{span}-{flags}")).unwrap();
            match state {
                Some(state) => context.with_state(&state).unwrap(),
                None => context,
            }
        },
    )
}

fn letter() -> impl Strategy<Value = DeadLetter> {
    let reason = prop_oneof![
        Just(DeadLetterReason::Rejected),
        Just(DeadLetterReason::MaxDeliver),
        Just(DeadLetterReason::Decrypt),
        Just(DeadLetterReason::Expired),
    ];
    let position = prop::option::of(("[a-z]{1,5}", any::<u64>(), any::<u128>()));
    (reason, ".{0,60}", any::<u32>(), time(), time(), topic(), position, any::<u32>()).prop_map(
        |(reason, error, attempts, first, last, topic, position, redriven)| DeadLetter {
            group: crate::Group::new("workers").unwrap(),
            reason,
            error,
            attempts,
            first,
            last,
            topic: Topic::new(topic).unwrap(),
            position: position.map(|(topic, incarnation, offset)| {
                crate::Position::new(Topic::new(topic).unwrap(), incarnation, offset)
            }),
            redriven,
        },
    )
}

/// Payloads with their content types: JSON as it stands, text, bytes, and what only claims to be.
fn payload() -> impl Strategy<Value = (Option<&'static str>, Vec<u8>)> {
    let json = prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        ".{0,30}".prop_map(|text| json!({ "text": text, "list": [null, true, 1.5] })),
        Just(Value::Null),
    ];
    let types = prop::sample::select(vec![
        None,
        Some("application/json"),
        Some("application/vnd.acme+json"),
        Some("text/plain; charset=utf-8"),
        Some("application/octet-stream"),
        Some("application/xml"),
    ]);
    let bytes = prop_oneof![
        json.prop_map(|value| value.to_string().into_bytes()),
        ".{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..60),
        Just(br#"{"big":123456789012345678901234567890.5e-3,"pair":"\ud83d\uDD7a"}"#.to_vec()),
        Just(br#"["half a pair: \ud83d"]"#.to_vec()),
    ];
    (types, bytes)
}

fn rare(builder: EventBuilder) -> impl Strategy<Value = EventBuilder> {
    let plain = (
        prop::option::of(field(".{0,20}")),
        prop::option::of(field(".{0,20}")),
        prop::option::of(field(".{0,20}")),
        prop::option::of(field(".{0,20}")),
        prop::option::of(trace()),
        prop::option::of(1..u32::MAX),
    );
    let other = (
        prop::sample::select(vec![Priority::Low, Priority::Normal, Priority::High]),
        prop::option::of(1..u64::MAX),
        prop::option::of(prop_oneof![
            time().prop_map(Ok),
            any::<u64>().prop_map(|nanos| Err(Duration::from_nanos(nanos))),
        ]),
        prop::collection::vec(("[A-Za-z0-9_.]{1,10}", field(".{0,20}")), 0..4),
        prop::collection::vec(("[a-e0-9]{1,20}", field(".{0,20}")), 0..4),
    );
    (plain, other).prop_map(move |(plain, other)| {
        let mut event = builder.clone();
        let (event_type, key, correlation, causation, trace, version) = plain;
        let (priority, ttl, due, headers, extensions) = other;
        let text = |event, value: Option<String>, set: fn(_, String) -> EventBuilder| match value {
            Some(value) => set(event, value),
            None => event,
        };
        event = text(event, event_type, EventBuilder::event_type);
        event = text(event, key, EventBuilder::key);
        event = text(event, correlation, EventBuilder::correlation_id);
        event = text(event, causation, EventBuilder::causation_id);
        event = trace.into_iter().fold(event, EventBuilder::trace);
        event = version.into_iter().fold(event, EventBuilder::version);
        event = ttl.into_iter().fold(event, |event, ttl| event.ttl(Duration::from_nanos(ttl)));
        event = match due {
            Some(Ok(time)) => event.deliver_at(time),
            Some(Err(delay)) => event.delay(delay),
            None => event,
        };
        for (name, value) in headers {
            let reserved = crate::header::is_reserved(&name);
            event = if reserved { event } else { event.header(name, value) };
        }
        for (name, value) in extensions {
            event = if name == "data" { event } else { event.extension(name, value) };
        }
        event.priority(priority)
    })
}

fn plain() -> impl Strategy<Value = EventBuilder> {
    (field("[a-z]{0,9}|.{0,30}"), topic(), time(), prop::option::of(field(".{0,20}"))).prop_map(
        |(id, topic, time, source)| {
            let event = Event::to(topic).id(id).time(time);
            source.into_iter().fold(event, EventBuilder::source)
        },
    )
}

/// Any event.
pub(crate) fn events() -> impl Strategy<Value = Event> {
    let event = prop_oneof![plain(), plain().prop_flat_map(rare)];
    (event, payload(), prop::option::weighted(0.2, letter())).prop_map(
        |(event, (content_type, payload), letter)| {
            let event = content_type.into_iter().fold(event, EventBuilder::content_type);
            event.build().unwrap().with_read(
                payload.into(),
                crate::event::Extensions::new(),
                letter,
            )
        },
    )
}

/// Both have the same fields.
pub(crate) fn assert_same_envelope(read: &Event, written: &Event) {
    let fields = |event: &Event| {
        let mut headers: Vec<_> = event.headers().iter().collect();
        headers.sort_unstable();
        format!(
            "{:?}",
            (
                (event.id(), event.source(), event.event_type(), event.topic(), event.time()),
                (event.content_type(), event.key(), event.correlation_id(), event.causation_id()),
                (event.trace(), event.priority(), event.version(), event.due()),
                // What lies beyond the last representable moment never expires, whatever its name.
                event.ttl().map(|ttl| event.time().saturating_add(ttl)),
                (headers, event.extensions().collect::<Vec<_>>(), event.dead_letter()),
            )
        )
    };
    assert_eq!(fields(read), fields(written));
}

/// Both have the same fields and the same payload.
pub(crate) fn assert_same(read: &Event, written: &Event) {
    assert_same_envelope(read, written);
    let (read, original) = (read.payload().bytes().unwrap(), written.payload().bytes().unwrap());
    let trimmed = original.trim_ascii();
    let json = is_json(written.content_type());
    if json && serde_json::from_slice::<Value>(&original).is_ok() {
        assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(trimmed));
    } else {
        assert_eq!(read, original);
    }
}

proptest! {
    #[test]
    fn every_field_survives(event in events()) {
        let json = to_json(&event).unwrap();
        prop_assert!(!json.contains(&b'\n') && !json.contains(&b'\r'));
        assert_same(&from_json(&json).unwrap(), &event);
        // The object is an event for everybody else, too.
        let value: Value = serde_json::from_slice(&json).unwrap();
        for member in ["specversion", "id", "source", "type"] {
            prop_assert!(value[member].as_str().is_some_and(|text| !text.is_empty()));
        }
        for (name, value) in value.as_object().unwrap() {
            prop_assert!(name == "data_base64" || name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
            let simple = value.is_string() || value.is_number();
            prop_assert!(simple || ["data", "fabricheaders", "fabricdeadletter"].contains(&name.as_str()));
        }
    }

    #[test]
    fn what_is_no_event_is_refused_at_a_place_inside_it(
        event in events(),
        cut in any::<prop::sample::Index>(),
        change in any::<(prop::sample::Index, u8)>(),
    ) {
        let json = to_json(&event).unwrap();
        let mut json = json[..cut.index(json.len() + 1)].to_vec();
        if !json.is_empty() {
            let at = change.0.index(json.len());
            json[at] = change.1;
        }
        if let Err(error) = from_json(&json) {
            let column: usize = error.context("column").unwrap().parse().unwrap();
            prop_assert!((1..=json.len() + 1).contains(&column), "{error}");
        }
    }
}

fn minimal() -> Value {
    json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "com.acme.thing" })
}

fn with(members: &Value) -> Result<Event> {
    let mut event = minimal();
    event.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    from_json(event.to_string().as_bytes())
}

#[test]
fn the_object_is_written_down_for_good() {
    let event = Event::to("orders.created")
        .id("o-42")
        .source("shop")
        .time("2026-01-02T03:04:05.000000006Z".parse::<Timestamp>().unwrap())
        .event_type("order")
        .key("c-7")
        .correlation_id("o-1")
        .causation_id("o-2")
        .trace(
            TraceContext::new("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
                .and_then(|trace| trace.with_state("a=b"))
                .unwrap(),
        )
        .priority(Priority::Critical)
        .version(2)
        .ttl(Duration::from_secs(1))
        .delay(Duration::from_millis(1500))
        .header("tenant", "acme")
        .header("Command", "go")
        .extension("dataref", "s3://b/k")
        .payload("{\r\n  \"cents\": 7\n}\n")
        .build()
        .unwrap();
    assert_eq!(
        String::from_utf8(to_json(&event).unwrap().to_vec()).unwrap(),
        concat!(
            r#"{"specversion":"1.0","id":"o-42","source":"shop","type":"order","#,
            r#""subject":"orders.created","time":"2026-01-02T03:04:05.000000006Z","#,
            r#""datacontenttype":"application/json","partitionkey":"c-7","#,
            r#""correlationid":"o-1","causationid":"o-2","#,
            r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","#,
            r#""tracestate":"a=b","priority":"critical","eventversion":2,"#,
            r#""expirytime":"2026-01-02T03:04:06.000000006Z","fabricdelay":"PT1.5S","#,
            r#""dataref":"s3://b/k","fabricheaders":{"Command":"go","tenant":"acme"},"#,
            r#""data":{    "cents": 7 }}"#,
        )
    );
}

#[test]
fn events_of_others_are_read() {
    let event = with(&json!({
        "com1": 7, "flag": true, "gone": null, "ratio": 1.5, "time": null, "data": { "a": 1 },
        "dataschema": "https://acme.example/schema",
    }))
    .unwrap();
    assert_eq!((event.topic().as_str(), event.event_type()), ("com.acme.thing", "com.acme.thing"));
    assert_eq!((event.content_type(), &*event.text().unwrap()), ("application/json", "{\"a\":1}"));
    let extensions: Vec<_> = event.extensions().collect();
    let schema = ("dataschema", "https://acme.example/schema");
    assert_eq!(extensions, [("com1", "7"), schema, ("flag", "true"), ("ratio", "1.5")]);
    assert_ne!(event.time(), Timestamp::MIN);

    let text = |members| with(&members).unwrap().text().unwrap().into_owned();
    assert_eq!(text(json!({ "data": "x" })), "\"x\"");
    assert_eq!(text(json!({ "data": null })), "null");
    assert_eq!(text(json!({ "datacontenttype": "application/xml", "data": "<a/>" })), "<a/>");
    assert_eq!(text(json!({ "datacontenttype": "application/xml", "data": {} })), "{}");
    assert_eq!(text(json!({ "data_base64": "aGk" })), "hi");
    let bytes = with(&json!({ "data_base64": "aGk=" })).unwrap();
    assert_eq!(bytes.content_type(), "application/octet-stream");
    assert_eq!(with(&json!({ "eventversion": "3" })).unwrap().version(), 3);
    // Without its parent a state means nothing.
    assert_eq!(with(&json!({ "tracestate": "a=b" })).unwrap().trace(), None);
    // What expired before it was read is an event that is over.
    let late = with(&json!({ "expirytime": "2000-01-01T00:00:00Z" })).unwrap();
    assert_eq!(late.ttl(), Some(Duration::from_nanos(1)));
}

#[test]
fn what_breaks_a_rule_is_refused_with_its_member() {
    let table = [
        (json!({ "specversion": "0.3" }), ErrorKind::Codec, "\"0.3\" is not read here"),
        (json!({ "specversion": null }), ErrorKind::Codec, "no `specversion`"),
        (json!({ "id": "" }), ErrorKind::InvalidEvent, "not empty"),
        (json!({ "id": 7 }), ErrorKind::Codec, "`id` cannot be read: invalid type: integer"),
        (json!({ "source": "a\nb" }), ErrorKind::InvalidEvent, "control character"),
        (json!({ "type": null }), ErrorKind::Codec, "no `type`"),
        (json!({ "type": "no topic!" }), ErrorKind::InvalidTopic, "no topic!"),
        (json!({ "subject": "a..b" }), ErrorKind::InvalidTopic, "a..b"),
        (json!({ "time": "yesterday" }), ErrorKind::InvalidEvent, "yesterday"),
        (json!({ "expirytime": "soon" }), ErrorKind::InvalidEvent, "soon"),
        (json!({ "priority": "urgent" }), ErrorKind::InvalidEvent, "urgent"),
        (json!({ "eventversion": 0 }), ErrorKind::InvalidEvent, "count from 1"),
        (json!({ "eventversion": -1 }), ErrorKind::InvalidEvent, "no number"),
        (json!({ "traceparent": "00-1" }), ErrorKind::InvalidEvent, "traceparent"),
        (json!({ "fabricdelay": "-PT1S" }), ErrorKind::InvalidEvent, "no delay"),
        (json!({ "fabricheaders": { "ce-id": "x" } }), ErrorKind::Codec, "reserved"),
        (json!({ "fabricheaders": [] }), ErrorKind::Codec, "a map from header names"),
        (json!({ "fabricdeadletter": {} }), ErrorKind::Codec, "missing field `group`"),
        (json!({ "fabricnew": 1 }), ErrorKind::Codec, "knows no member `fabricnew`"),
        (json!({ "Upper": "x" }), ErrorKind::InvalidEvent, "Upper"),
        (json!({ "nested": { "a": 1 } }), ErrorKind::Codec, "`nested` is neither text"),
        (json!({ "data": 1, "data_base64": "" }), ErrorKind::Codec, "one payload"),
        (json!({ "data_base64": "a" }), ErrorKind::Codec, "`data_base64`"),
    ];
    for (members, kind, said) in table {
        let error = with(&members).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(said), "{said}: {error}");
    }
}

#[test]
fn a_refusal_says_where() {
    let place = |json: &str| {
        let error = from_json(json.as_bytes()).unwrap_err();
        let place = (error.context("line").unwrap(), error.context("column").unwrap());
        format!("{}:{} {}", place.0, place.1, error.message())
    };
    assert_eq!(
        place(r#"{"specversion":"1.0","id":"1","source":"s","type":"t","time":"never"}"#)
            .split(" as in")
            .next()
            .unwrap(),
        "1:62 `never` is not a time"
    );
    assert_eq!(place("{\n \"id\": }"), "2:8 this is no event: expected value");
    assert_eq!(
        place("[1]"),
        "1:1 this is no event: invalid type: sequence, expected a JSON object"
    );
    assert_eq!(place("{} x"), "1:4 this is no event: trailing characters");
    assert_eq!(place("{\"id\":\"1\",\n\"id\":\"2\"}"), "2:6 the member `id` is there twice");
    assert_eq!(place(""), "1:1 this is no event: EOF while parsing a value");
}

#[test]
fn an_event_that_was_never_published_is_stamped() {
    let event = crate::IntoEvent::into_event(Event::to("a").text("x")).unwrap();
    let read = from_json(&to_json(&event).unwrap()).unwrap();
    assert!(read.id().as_uuid().is_some() && read.time() > Timestamp::from_millis(0));
}

#[test]
fn a_payload_that_cannot_be_encoded_leaves_the_line_as_it_was() {
    struct Broken;
    impl crate::TypedEvent for Broken {
        const TYPE: &'static str = "broken";
        const VERSION: u32 = 1;
        const PATTERN: &'static str = "broken";
        const CONTENT_TYPE: &'static str = "application/json";
        fn topic(&self) -> Result<Topic> {
            Topic::new("broken")
        }
        fn key(&self) -> Option<String> {
            None
        }
        fn encode(&self) -> Result<Bytes> {
            panic!("no way")
        }
        fn decode(_: &[u8]) -> Result<Self> {
            Ok(Self)
        }
    }
    let event = Event::of(Broken).build().unwrap();
    let mut line = b"before".to_vec();
    let error = write_json(&event, &mut line).unwrap_err();
    assert_eq!((error.kind(), error.context("topic")), (ErrorKind::Codec, Some("broken")));
    assert_eq!(line, b"before");
}
