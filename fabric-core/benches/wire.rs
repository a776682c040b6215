//! An event as pairs beside its payload, there and back: what every network backend pays for each.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use fabric_core::wire::{Known, Name, Reader, Style};
use fabric_core::{Event, Topic};

/// What a backend makes of an event: names that it has already, values of their own.
type Pairs = Vec<(Known, String)>;

fn wire(c: &mut Criterion) {
    let styles = [
        ("underscored", Style::underscored()),
        ("escaped", Style::dashed().escaped().content_type_as_attribute()),
    ];
    let topic = Topic::new("orders.eu-west.created").expect("a topic");
    let event = || Event::to(&topic).source("shop").payload(Bytes::from_static(&[7; 64]));
    let plain = event().build().expect("an event");
    let rich = event().key("c-7").correlation_id("talk").header("tenant", "acme").build();
    let rich = rich.expect("an event");
    for (name, style) in styles {
        for (kind, event) in [("plain", &plain), ("rich", &rich)] {
            c.bench_function(&format!("wire/write/{name}/{kind}"), |b| {
                b.iter(|| write(style, black_box(event)));
            });
            let mut pairs = Vec::new();
            style.write(event, |name, value| {
                pairs.push((style.text(name).into_owned(), value.to_owned()));
            });
            let mut reader = Reader::new(style);
            c.bench_function(&format!("wire/read/{name}/{kind}"), |b| {
                b.iter(|| read(&mut reader, black_box(&pairs), &topic));
            });
        }
    }
}

fn write(style: Style, event: &Event) -> Pairs {
    let mut pairs = Vec::with_capacity(8);
    style.write(event, |name, value| {
        if let Name::Known(known) = name {
            pairs.push((known, value.to_owned()));
        }
    });
    pairs
}

fn read(reader: &mut Reader, pairs: &[(String, String)], topic: &Topic) -> Event {
    for (name, value) in pairs {
        reader.pair(name, value.as_bytes());
    }
    let received = reader.finish(topic, Bytes::from_static(&[7; 64]));
    assert!(received.fault.is_none());
    received.event
}

criterion_group!(benches, wire);
criterion_main!(benches);
