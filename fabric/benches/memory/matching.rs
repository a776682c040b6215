//! Who wants an event of a topic, among a hundred thousand patterns, against the bound.
//!
//! There is no raw side: `raw` is the most that a search may take, so that a ratio above 1 is
//! within it.

use std::hint::black_box;

use fabric_core::{Pattern, PatternTrie};

use crate::support::{Compared, Key, Metric, Options, Report, Result, Stopwatch, quantile};

const PATTERNS: usize = 100_000;

pub(crate) fn bench(options: &Options, report: &mut Report) -> Result<()> {
    let hostile = vec![["a", "b"].repeat(8).join(".")];
    let hostile_patterns = typical().chain(hostile_patterns());
    measure("default", 500.0, typical(), &typical_topics(), options, report)?;
    measure("hostile", 2000.0, hostile_patterns, &hostile, options, report)
}

fn measure(
    mode: &'static str,
    bound: f64,
    patterns: impl Iterator<Item = String>,
    topics: &[String],
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let mut trie = PatternTrie::new();
    for (n, pattern) in patterns.enumerate() {
        trie.insert(&Pattern::new(pattern)?, n);
    }
    let n = options.scaled(300_000);
    let mut rounds: Vec<f64> = (0..options.rounds())
        .map(|_| {
            let watch = Stopwatch::start();
            let mut found = 0_u64;
            for topic in topics.iter().cycle().take(n as usize) {
                trie.for_each_match(black_box(topic), |value| {
                    black_box(value);
                    found += 1;
                });
            }
            if found == 0 { f64::NAN } else { watch.stop(n).cpu_ns_per_event() }
        })
        .collect();
    let median = quantile(&mut rounds, 0.5);
    if median.is_nan() {
        return Err("no pattern matched".into());
    }
    let spread = (quantile(&mut rounds, 0.75) - quantile(&mut rounds, 0.25)) / median;
    let got = Compared { rounds: rounds.len(), spread, ..Compared::once(median, bound) };
    let size = topics.first().map_or(0, String::len) as u64;
    report.add(Key { path: "match", mode, size }, Metric::NsPerEvent, &got, Some(1.0));
    Ok(())
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

/// `#.x.#.y.#.z` and longer, over all choices of three words.
fn hostile_patterns() -> impl Iterator<Item = String> {
    const WORDS: [&str; 3] = ["a", "b", "c"];
    (0..27).flat_map(|n| {
        let [x, y, z] = [n % 3, n / 3 % 3, n / 9].map(|word| WORDS[word]);
        let short = format!("#.{x}.#.{y}.#.{z}");
        let long = format!("{short}.{short}.#.{x}.nobody");
        [short, long]
    })
}
