use std::borrow::Cow;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::event::Stamp;
use crate::time::{Now, Timestamp};
use crate::{ErrorKind, Event, Priority, Topic, TraceContext};

type Pairs = Vec<(String, String)>;

fn styles() -> [Style; 3] {
    let nats = Style::dashed().escaped().content_type_as_attribute();
    [Style::dashed(), Style::underscored(), nats]
}

fn pairs(style: Style, event: &Event) -> Pairs {
    let mut pairs = Vec::new();
    style.write(event, |name, value| pairs.push((style.text(name).into_owned(), value.into())));
    pairs
}

fn read(style: Style, topic: &str, pairs: &[(&str, &str)], payload: &'static str) -> Received {
    let mut reader = Reader::new(style);
    for (name, value) in pairs {
        reader.pair(name, value.as_bytes());
    }
    reader.finish(&Topic::new(topic).unwrap(), Bytes::from_static(payload.as_bytes()))
}

fn full() -> Event {
    let trace = TraceContext::new("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    Event::to("orders.created")
        .id("o 42")
        .source("shop/é")
        .event_type("order")
        .time("2026-01-01T00:00:00.5Z".parse::<Timestamp>().unwrap())
        .version(2)
        .key("c-7")
        .correlation_id("c")
        .causation_id("b")
        .priority(Priority::High)
        .ttl(std::time::Duration::from_secs(60))
        .deliver_at("2026-01-01T00:00:10Z".parse::<Timestamp>().unwrap())
        .content_type("text/plain")
        .trace(trace.unwrap().with_state("a=b").unwrap())
        .extension("dataref", "s3://b/k")
        .header("Tenant", " 100 % ")
        .text("hello")
        .build()
        .unwrap()
}

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What is on the wire today has to be read by every later version: it is written down here.
#[test]
fn the_pairs_are_written_down_for_good() {
    let [dashed, underscored, nats] = styles();
    let golden =
        |prefix: &str, content_type: &str, id: &str, source: &str, tenant: &str| -> Pairs {
            [
                (format!("{prefix}specversion"), "1.0"),
                (format!("{prefix}id"), id),
                (format!("{prefix}source"), source),
                (format!("{prefix}type"), "order"),
                (format!("{prefix}time"), "2026-01-01T00:00:00.5Z"),
                (content_type.into(), "text/plain"),
                (format!("{prefix}partitionkey"), "c-7"),
                (format!("{prefix}correlationid"), "c"),
                (format!("{prefix}causationid"), "b"),
                (format!("{prefix}expirytime"), "2026-01-01T00:01:00.5Z"),
                (format!("{prefix}priority"), "high"),
                (format!("{prefix}eventversion"), "2"),
                (format!("{prefix}traceparent"), TRACE),
                ("traceparent".into(), TRACE),
                (format!("{prefix}tracestate"), "a=b"),
                ("tracestate".into(), "a=b"),
                ("fabric-due".into(), "2026-01-01T00:00:10Z"),
                (format!("{prefix}dataref"), "s3://b/k"),
                ("Tenant".into(), tenant),
            ]
            .map(|(name, value)| (name, value.to_owned()))
            .into()
        };
    let event = full();
    assert_eq!(pairs(dashed, &event), golden("ce-", "content-type", "o 42", "shop/é", " 100 % "));
    assert_eq!(
        pairs(underscored, &event),
        golden("ce_", "content-type", "o 42", "shop/é", " 100 % ")
    );
    assert_eq!(
        pairs(nats, &event),
        golden("ce-", "ce-datacontenttype", "o%2042", "shop/%C3%A9", "%20100 %25%20")
    );
}

#[test]
fn an_event_with_nothing_rare_has_five_pairs() {
    let event = Event::to("a.b").id("1").time(Timestamp::from_millis(0)).build().unwrap();
    let written = pairs(Style::dashed(), &event);
    let names: Vec<_> = written.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"]);
    assert_eq!(written[4].1, "1970-01-01T00:00:00Z");
}

#[test]
fn what_is_no_event_has_a_fault_and_keeps_its_bytes() {
    let whole = [("ce-id", "1"), ("ce-source", "s"), ("ce-type", "t"), ("ce-specversion", "1.0")];
    assert!(read(Style::dashed(), "a.b", &whole, "x").fault.is_none());
    let without: Vec<_> = whole.into_iter().filter(|(name, _)| *name != "ce-id").collect();
    for (pairs, part) in [
        (without, "`ce-id`"),
        (vec![], "`ce-specversion`"),
        ([&whole[..3], &[("ce-specversion", "0.3")]].concat(), "\"0.3\""),
        ([&whole[..], &[("ce-time", "noon")]].concat(), "noon"),
        ([&whole[..], &[("ce-Bad_Name", "v")]].concat(), "bad_name"),
        ([&whole[..], &[("ce-priority", "urgent")]].concat(), "urgent"),
        ([&whole[..], &[("fabric-v", "2")]].concat(), "\"2\""),
        ([&whole[..], &[("fabric-teleport", "now")]].concat(), "`fabric-teleport`"),
        ([&whole[..], &[("fabric-attempt", "-1")]].concat(), "\"-1\""),
        ([&whole[..], &[("fabric-dl-group", "g")]].concat(), "half a dead letter"),
    ] {
        let got = read(Style::dashed(), "a.b", &pairs, "payload");
        let fault = got.fault.unwrap();
        assert!(format!("{fault:#}").contains(part), "{fault:#} lacks {part}");
        assert_eq!((got.event.topic().as_str(), &*got.event.text().unwrap()), ("a.b", "payload"));
        assert!(!got.event.id().to_string().is_empty());
    }
}

#[test]
fn pairs_that_are_nobodys_business_are_passed_over() {
    let event = [
        ("CE-ID", "1"),
        ("Ce-Source", "s"),
        ("ce-type", "t"),
        ("ce-specversion", "1.0"),
        ("Content-Type", "text/plain"),
        ("Nats-Msg-Id", "n"),
        ("x-death", "d"),
        ("not a name", "v"),
        ("traceparent", "broken"),
        ("tenant", "acme"),
    ];
    let got = read(Style::dashed(), "a.b", &event, "x");
    assert!(got.fault.is_none(), "{:?}", got.fault);
    assert_eq!((got.event.content_type(), got.event.headers().len()), ("text/plain", 1));
    assert_eq!((got.event.header("tenant"), got.event.trace()), (Some("acme"), None));
}

#[test]
fn what_fabric_adds_is_read_back() {
    let event = [
        ("ce-id", "1"),
        ("ce-source", "s"),
        ("ce-type", "t"),
        ("ce-specversion", "1.0"),
        ("fabric-attempt", "3"),
        ("fabric-to", "workers"),
        ("fabric-topic", "orders.created"),
        ("fabric-seq", "18446744073709551615"),
        ("fabric-v", "1"),
    ];
    let got = read(Style::dashed(), "other.name", &event, "x");
    assert!(got.fault.is_none(), "{:?}", got.fault);
    assert_eq!((got.attempt, got.sequence), (Some(3), Some(u64::MAX)));
    assert_eq!(got.to.unwrap().as_str(), "workers");
    assert_eq!(got.event.topic().as_str(), "orders.created");
}

#[cfg(feature = "json")]
#[test]
fn an_event_in_structured_mode_lies_where_it_came_from() {
    let json =
        r#"{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"/no topic","data":7}"#;
    let media = [("content-type", "application/cloudevents+json; charset=UTF-8")];
    let got = read(Style::underscored(), "a.b", &media, json);
    assert!(got.fault.is_none(), "{:?}", got.fault);
    assert_eq!((got.event.topic().as_str(), &*got.event.text().unwrap()), ("a.b", "7"));
    let got = read(Style::underscored(), "a.b", &media, "{");
    assert_eq!(got.fault.unwrap().kind(), ErrorKind::Codec);
}

#[test]
fn a_reader_shares_what_events_have_in_common() {
    let mut reader = Reader::new(Style::dashed());
    let mut next = |id: &str| {
        for (name, value) in
            [("ce-id", id), ("ce-source", "s"), ("ce-type", "a.b"), ("ce-specversion", "1.0")]
        {
            reader.pair(name, value.as_bytes());
        }
        reader.finish(&Topic::new("a.b").unwrap(), Bytes::new()).event
    };
    let (one, two) = (next("1"), next("2"));
    assert_eq!((one.id().to_string(), two.id().to_string()), ("1".into(), "2".into()));
    assert!(std::ptr::eq(one.source(), two.source()));
}

#[cfg(feature = "json")]
proptest! {
    #[test]
    fn every_field_survives(event in crate::cloudevents::tests::events()) {
        let mut event = event;
        event.stamp(Now::read(), &Stamp::new(Some("here")));
        for style in styles() {
            let mut reader = Reader::new(style);
            for (name, value) in pairs(style, &event) {
                reader.pair(&name, value.as_bytes());
            }
            let payload = event.payload().bytes().unwrap();
            let got = reader.finish(event.topic(), payload.clone());
            prop_assert_eq!(got.event.payload().bytes().unwrap(), payload);
            prop_assert!(got.fault.is_none(), "{:?}", got.fault);
            let lines = |text: &str| text.replace(char::is_control, " ");
            let letters = (got.event.dead_letter(), event.dead_letter());
            if let (Some(read), Some(written)) = letters {
                prop_assert_eq!(&read.error, &lines(&written.error));
            }
            let same = event.dead_letter().is_none_or(|letter| letter.error == lines(&letter.error));
            if same {
                crate::cloudevents::tests::assert_same_envelope(&got.event, &event);
            }
        }
    }

    #[test]
    fn any_pair_is_read_without_a_panic(
        name in "(ce-|ce_|fabric-|fabric-dl-)?[a-z%é -]{0,12}",
        value in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        for style in styles() {
            let mut reader = Reader::new(style);
            reader.pair(&name, &value);
            let got = reader.finish(&Topic::new("a.b").unwrap(), Bytes::new());
            prop_assert!(got.fault.is_some(), "one pair is no event");
        }
    }

    #[test]
    fn a_time_is_written_as_the_library_writes_it(nanos in 0..i64::MAX) {
        let time = Timestamp::from_nanos(nanos);
        let mut text = String::new();
        time.write_rfc3339(&mut text).unwrap();
        prop_assert_eq!(Cow::from(text), time.to_string());
    }
}
