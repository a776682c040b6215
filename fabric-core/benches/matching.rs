//! Names and the search for those who want an event.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use fabric_core::{Pattern, PatternTrie, Topic};

const PATTERNS: usize = 100_000;

fn names(c: &mut Criterion) {
    c.bench_function("topic/new/3_levels", |b| {
        b.iter(|| Topic::new(black_box("orders.eu-west.created")).expect("a topic"));
    });
    let longest = ["abcdefghijk"; 16].join(".");
    c.bench_function("topic/new/16_levels", |b| {
        b.iter(|| Topic::new(black_box(&longest)).expect("a topic"));
    });
    let table = [
        ("literal", "orders.eu-west.created", "orders.eu-west.created"),
        ("one", "orders.*.created", "orders.eu-west.created"),
        ("rest", "orders.>", "orders.eu-west.created"),
        ("many", "#.created", "orders.eu-west.created"),
        ("hostile", "#.a.#.b.#.a.#.b.#.a.#.b.#.c", "a.b.a.b.a.b.a.b.a.b.a.b.a.b.a.b"),
        ("hostile_run", "#.a.a.a.a.a.a.a.b", "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a"),
    ];
    for (name, pattern, topic) in table {
        let pattern = Pattern::new(pattern).expect("a pattern");
        let topic = Topic::new(topic).expect("a topic");
        c.bench_function(&format!("pattern/matches/{name}"), |b| {
            b.iter(|| black_box(&pattern).matches(black_box(&topic)));
        });
    }
}

fn trie(c: &mut Criterion) {
    search(c, "typical", typical(), &typical_topics());
    let few: Vec<_> = typical().chain(hostile(&["a", "b", "c"])).collect();
    search(c, "hostile/sixteen_levels", few, &[["a", "b"].repeat(8).join(".")]);
    let none = typical().chain(hostile(&["a", "b", "c", "d"]));
    search(c, "hostile/none_matches", none, &[["a", "b", "x", "y"].repeat(4).join(".")]);
    search(c, "hostile/only", rare_words(), &rare_topics()[..16]);
    search(c, "hostile/only_cold", rare_words(), &rare_topics());
}

/// Measures one search, over `topics` in turn, and prints how much it finds.
fn search(
    c: &mut Criterion,
    name: &str,
    patterns: impl IntoIterator<Item = String>,
    topics: &[String],
) {
    let mut trie = PatternTrie::new();
    for (n, pattern) in patterns.into_iter().enumerate() {
        trie.insert(&Pattern::new(pattern).expect("a pattern"), n);
    }
    let mut matches = 0;
    topics.iter().for_each(|topic| trie.for_each_match(topic, |_| matches += 1));
    eprintln!("{}: {} patterns, {} matches in {} topics", name, trie.len(), matches, topics.len());

    let mut next = topics.iter().cycle();
    c.bench_function(&format!("trie/100k/{name}"), |b| {
        b.iter(|| {
            let mut sum = 0;
            let topic = next.next().expect("an endless cycle");
            trie.for_each_match(black_box(topic), |value| sum ^= value);
            sum
        });
    });
}

/// Ten services with a thousand entities each: mostly whole topics, every tenth a wildcard of
/// each sort.
fn typical() -> impl Iterator<Item = String> {
    (0..PATTERNS).map(|n| {
        let (service, entity, action) = (n % 10, n / 10 % 1000, n / 10_000);
        match n / 7 % 10 {
            0 => format!("service{service}.entity{entity}.*.action{action}"),
            1 => format!("service{service}.entity{entity}.>"),
            2 => format!("service{service}.*.eu.action{action}-{entity}"),
            3 => format!("service{service}.#.action{action}-{entity}"),
            4 if n % 100 == 47 => format!("#.action{action}-{entity}"),
            _ => format!("service{service}.entity{entity}.eu.action{action}"),
        }
    })
}

fn typical_topics() -> Vec<String> {
    (0..4096)
        .map(|n| {
            let n = n * 7919 % PATTERNS;
            let (service, entity, action) = (n % 10, n / 10 % 1000, n / 10_000);
            format!("service{service}.entity{entity}.eu.action{action}")
        })
        .collect()
}

/// `#.x.#.y.#.z` and longer, over all choices of these words.
fn hostile(words: &[&str]) -> Vec<String> {
    let mut patterns = Vec::new();
    for x in words {
        for y in words {
            for z in words {
                patterns.push(format!("#.{x}.#.{y}.#.{z}"));
                patterns.push(format!("#.{x}.#.{y}.#.{z}.#.{x}.#.{y}.#.{z}.#.{x}.nobody"));
            }
        }
    }
    patterns
}

/// A hundred thousand of `#.x.#.y.#.z` over a thousand words.
fn rare_words() -> impl Iterator<Item = String> {
    (0..PATTERNS).map(|n| {
        let (x, y, z) = (n % 1000, n * 31 % 997, n * 17 % 991);
        format!("#.word{x}.#.word{y}.#.word{z}")
    })
}

fn rare_topics() -> Vec<String> {
    (0..1024)
        .map(|n| {
            let words: Vec<_> =
                (0..16).map(|level| format!("word{}", (n * 37 + level * 61) % 1000)).collect();
            words.join(".")
        })
        .collect()
}

criterion_group!(benches, names, trie);
criterion_main!(benches);
