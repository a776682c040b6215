use std::time::Duration;

use super::*;
use crate::wire::Reader;
use crate::{Priority, Timestamp, TraceContext};

const STAMP: Stamp = Stamp {
    kind: Kind::Event,
    publisher: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    sequence: 258,
};

fn plain() -> Event {
    let time: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    Event::to("orders.created").id("o-42").source("shop").time(time).text("{}").build().unwrap()
}

fn full() -> Event {
    let trace =
        TraceContext::new("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
    Event::of(plain())
        .event_type("order")
        .key("c-7")
        .priority(Priority::High)
        .version(3)
        .ttl(Duration::from_secs(60))
        .correlation_id("talk")
        .causation_id("cause")
        .trace(trace.with_state("a=b").unwrap())
        .content_type("text/plain")
        .header("Tenant", "acme \u{e9}")
        .header("empty", "")
        .extension("sampledrate", "5")
        .build()
        .unwrap()
}

fn written(event: &Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, STAMP, event, event.payload().size()).unwrap();
    bytes
}

fn read(bytes: &[u8], event: &Event) -> Received {
    let (block, rest) = Block::parse(bytes).unwrap();
    assert!(rest.is_empty());
    block.event(&mut Reader::new(STYLE), event.topic(), event.payload().clone())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_vectors_are_those_of_the_documentation() {
    let docs = include_str!("../../../../docs/wire.md");
    let joined: String = docs.split_whitespace().collect();
    for event in [plain(), full()] {
        let vector = hex(&written(&event));
        assert!(joined.contains(&vector), "docs/wire.md lacks the vector {vector}");
    }
}

#[test]
fn an_event_comes_back_whole() {
    for event in [plain(), full()] {
        let received = read(&written(&event), &event);
        assert!(received.fault.is_none(), "{:?}", received.fault);
        let back = received.event;
        assert_eq!(hex(&written(&back)), hex(&written(&event)));
        assert_eq!(back.event_type(), event.event_type());
        assert_eq!(back.expires_at(), event.expires_at());
        assert_eq!(back.trace(), event.trace());
        assert_eq!(back.header("tenant"), event.header("tenant"));
        assert_eq!(back.header("empty"), event.header("empty"));
        assert_eq!(back.extension("sampledrate"), event.extension("sampledrate"));
    }
}

#[test]
fn an_event_that_travels_under_another_topic_keeps_its_own() {
    let event = plain();
    let mut bytes = Vec::new();
    write_elsewhere(&mut bytes, STAMP, &event, 2).unwrap();
    let (block, _) = Block::parse(&bytes).unwrap();
    assert_eq!(block.find(Known::Topic), Some(&b"orders.created"[..]));
    assert_eq!(block.find(Known::Id), Some(&b"o-42"[..]));
    assert_eq!(block.find(Known::Key), None);
    let way = Topic::new("way").unwrap();
    let received = block.event(&mut Reader::new(STYLE), &way, event.payload().clone());
    assert!(received.fault.is_none());
    assert_eq!(received.event.topic(), event.topic());
    assert_eq!(received.event.event_type(), "orders.created");
}

#[test]
fn blocks_lie_one_behind_the_other() {
    let mut bytes = written(&plain());
    let first = bytes.len();
    write(&mut bytes, Stamp { sequence: 259, ..STAMP }, &full(), 7).unwrap();
    write_bare(&mut bytes, Stamp { kind: Kind::Marker, ..STAMP }, 0).unwrap();
    let (one, rest) = Block::parse(&bytes).unwrap();
    assert_eq!((one.stamp(), rest.len()), (STAMP, bytes.len() - first));
    let (two, rest) = Block::parse(rest).unwrap();
    assert_eq!((two.stamp().sequence, two.payload_len()), (259, 7));
    let (three, rest) = Block::parse(rest).unwrap();
    assert_eq!((three.stamp().kind, rest.len()), (Kind::Marker, 0));
}

#[test]
fn what_is_no_block_is_refused_with_the_reason() {
    let good = written(&plain());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Block::parse(&bytes).map(|_| ()).unwrap_err()
    };
    let refused = [
        (with(0, b'X'), "no header block"),
        (with(2, 2), "version 2"),
        (with(3, 99), "kind 99"),
        (with(4, 3), "3 bytes"),
        (with(7, 0xff), "is not read"),
        (Block::parse(b"").map(|_| ()).unwrap_err(), "cut off"),
        (Block::parse(&good[..good.len() - 1]).map(|_| ()).unwrap_err(), "cut off"),
    ];
    for (error, expected) in refused {
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(error.to_string().contains(expected), "{error} does not say {expected}");
    }
}

#[test]
fn a_pair_of_a_later_version_is_a_fault_and_not_a_loss() {
    let event = plain();
    let mut bytes = written(&event);
    bytes[PREAMBLE] = 200;
    let received = read(&bytes, &event);
    assert!(received.fault.unwrap().to_string().contains("no pair 200"));
    assert_eq!(received.event.payload().as_bytes(), Some(&b"{}"[..]));

    // A pair more than the count says.
    let mut bytes = written(&event);
    bytes[12] -= 1;
    assert!(read(&bytes, &event).fault.unwrap().to_string().contains("behind the last pair"));
    // A pair fewer.
    let mut bytes = written(&event);
    bytes[12] += 1;
    assert!(read(&bytes, &event).fault.unwrap().to_string().contains("cut off"));
}

#[test]
fn every_name_has_one_number() {
    for (n, known) in Known::ALL.iter().enumerate() {
        assert_eq!(code::of(*known) as usize, n + 2, "numbers never change");
        assert_eq!(code::read(code::of(*known)), Some(*known));
    }
    assert_eq!(code::read(Known::COUNT as u8 + 2), None);
}

#[test]
fn a_block_that_is_too_long_leaves_nothing_behind() {
    let mut out = vec![1, 2, 3];
    let error = write(&mut out, STAMP, &plain(), usize::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(out, [1, 2, 3]);
}

/// A million inputs: random ones, and good ones with bytes changed, cut off or put in. None panics,
/// and what is read as a block lies within the input.
#[test]
fn no_input_panics() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let good = [written(&plain()), written(&full())];
    let topic = plain().topic().clone();
    let mut reader = Reader::new(STYLE);
    let mut parsed = 0_u32;
    for n in 0..1_000_000_u32 {
        let mut bytes = if n % 4 == 0 {
            let len = random.usize(0..120);
            (0..len).map(|_| random.u8(..)).collect()
        } else {
            good[random.usize(0..2)].clone()
        };
        for _ in 0..random.usize(0..4) {
            let at = random.usize(0..=bytes.len());
            match random.u8(0..4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, random.u8(..)),
                _ if at < bytes.len() => bytes[at] = random.u8(..),
                _ => {}
            }
        }
        if let Ok((block, rest)) = Block::parse(&bytes) {
            assert!(PREAMBLE + rest.len() <= bytes.len());
            let received = block.event(&mut reader, &topic, &b"body"[..]);
            assert_eq!(received.event.payload().as_bytes(), Some(&b"body"[..]));
            parsed += 1;
        }
    }
    assert!(parsed > 100_000, "only {parsed} were blocks at all");
}
