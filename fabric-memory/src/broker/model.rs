//! A model test: random steps against the broker and against a naive model of it, side by side.
//!
//! [`reference`](self::reference) says what a broker is to do; [`world`](self::world) drives a
//! broker with real subscriptions and deliveries on a clock of its own, and compares after each
//! step. Settlements may reach the broker late, as they do where threads race.

mod reference;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestError, TestRunner};

use self::world::World;
use crate::bug::Bug;

/// What does not change within a case.
#[derive(Clone, Debug)]
struct Setup {
    max_events: usize,
    prefetch: usize,
    when_full: usize,
    dedup: bool,
    /// Topics are bounded by their bytes as well.
    bytes: bool,
    /// Events are dropped by age.
    age: bool,
    /// Events expire; then plain subscriptions have no bounds of their own.
    ttl: bool,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug)]
enum Starts {
    New,
    All,
    Last,
    LastPerTopic,
    Ago(u16),
    At(u8, u8),
    After(u8, u8),
}

/// A step. Numbers choose among what there is, modulo how many there are.
#[derive(Clone, Debug)]
enum Op {
    Publish {
        topic: u8,
        priority: u8,
        ttl: u8,
        delay: u8,
        id: u8,
        last: u8,
        late: bool,
    },
    Batch {
        topic: u8,
        count: u8,
        mixed: bool,
        priority: u8,
    },
    /// A publisher that was woken goes on.
    Run {
        publisher: u8,
    },
    GiveUp {
        publisher: u8,
    },
    Define {
        group: u8,
        patterns: u8,
        start: Starts,
    },
    Join {
        group: u8,
        patterns: u8,
        start: Starts,
        prefetch: u8,
        policy: u8,
        client: u8,
        redefine: bool,
    },
    Mismatch {
        group: u8,
    },
    Subscribe {
        patterns: u8,
        start: Starts,
        policy: u8,
        bound: u8,
        client: u8,
    },
    Leave {
        seat: u8,
    },
    Receive {
        seat: u8,
        count: u8,
    },
    /// `late`: the broker does not hear of it yet.
    Ack {
        hand: u8,
        count: u8,
        late: bool,
    },
    Nack {
        hand: u8,
        delay: u8,
        late: bool,
    },
    Reject {
        hand: u8,
    },
    Drop {
        hand: u8,
        late: bool,
    },
    Progress {
        hand: u8,
    },
    /// The broker hears of a settlement that was late.
    Tell {
        call: u8,
    },
    Redefine {
        group: u8,
        patterns: u8,
    },
    Reset {
        group: u8,
        start: Starts,
    },
    Delete {
        group: u8,
    },
    Send {
        group: u8,
        count: u8,
        delay: u8,
        attempt: u8,
        priority: u8,
    },
    Trim {
        topic: u8,
        how: u8,
    },
    Stop {
        client: u8,
    },
    TakeBack,
    /// `lazy`: nobody looks at the broker meanwhile.
    Pass {
        time: u8,
        lazy: bool,
    },
}

fn setup() -> impl Strategy<Value = Setup> {
    let max_events = prop_oneof![3 => 3usize..24, 2 => Just(64usize), 1 => Just(1024usize)];
    let prefetch = prop_oneof![3 => Just(256usize), 2 => 1usize..8];
    let flag = prop::bool::weighted(0.15);
    let flags = (flag, flag, flag, any::<bool>());
    (max_events, prefetch, 0usize..4, flags).prop_map(
        |(max_events, prefetch, when_full, (dedup, bytes, age, ttl))| Setup {
            max_events,
            prefetch,
            when_full,
            dedup,
            bytes,
            age,
            ttl,
        },
    )
}

fn starts() -> impl Strategy<Value = Starts> {
    prop_oneof![
        3 => Just(Starts::New),
        4 => Just(Starts::All),
        1 => Just(Starts::Last),
        1 => Just(Starts::LastPerTopic),
        1 => (0u16..3000).prop_map(Starts::Ago),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(topic, back)| Starts::At(topic, back)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(topic, back)| Starts::After(topic, back)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let n = any::<u8>;
    let flag = |weight| prop::bool::weighted(weight);
    prop_oneof![
        10 => (n(), n(), n(), n(), n(), n(), flag(0.1)).prop_map(
            |(topic, priority, ttl, delay, id, last, late)| Op::Publish {
                topic, priority, ttl, delay, id, last, late
            }
        ),
        4 => (n(), n(), flag(0.2), n()).prop_map(|(topic, count, mixed, priority)| Op::Batch {
            topic, count, mixed, priority
        }),
        2 => n().prop_map(|publisher| Op::Run { publisher }),
        1 => n().prop_map(|publisher| Op::GiveUp { publisher }),
        1 => (n(), n(), starts()).prop_map(|(group, patterns, start)| Op::Define {
            group, patterns, start
        }),
        5 => (n(), n(), starts(), n(), n(), n(), flag(0.1)).prop_map(
            |(group, patterns, start, prefetch, policy, client, redefine)| Op::Join {
                group, patterns, start, prefetch, policy, client, redefine
            }
        ),
        1 => n().prop_map(|group| Op::Mismatch { group }),
        3 => (n(), starts(), n(), n(), n()).prop_map(|(patterns, start, policy, bound, client)| {
            Op::Subscribe { patterns, start, policy, bound, client }
        }),
        2 => n().prop_map(|seat| Op::Leave { seat }),
        14 => (n(), n()).prop_map(|(seat, count)| Op::Receive { seat, count }),
        7 => (n(), n(), flag(0.2)).prop_map(|(hand, count, late)| Op::Ack { hand, count, late }),
        5 => (n(), n(), flag(0.2)).prop_map(|(hand, delay, late)| Op::Nack { hand, delay, late }),
        1 => n().prop_map(|hand| Op::Reject { hand }),
        2 => (n(), flag(0.2)).prop_map(|(hand, late)| Op::Drop { hand, late }),
        2 => n().prop_map(|hand| Op::Progress { hand }),
        2 => n().prop_map(|call| Op::Tell { call }),
        2 => (n(), n()).prop_map(|(group, patterns)| Op::Redefine { group, patterns }),
        2 => (n(), starts()).prop_map(|(group, start)| Op::Reset { group, start }),
        1 => n().prop_map(|group| Op::Delete { group }),
        2 => (n(), n(), n(), n(), n()).prop_map(|(group, count, delay, attempt, priority)| {
            Op::Send { group, count, delay, attempt, priority }
        }),
        2 => (n(), n()).prop_map(|(topic, how)| Op::Trim { topic, how }),
        1 => n().prop_map(|client| Op::Stop { client }),
        1 => Just(Op::TakeBack),
        8 => (n(), flag(0.2)).prop_map(|(time, lazy)| Op::Pass { time, lazy }),
    ]
}

/// Runs the steps, then lets everything be settled.
fn run(setup: &Setup, ops: &[Op], bug: Option<Bug>) -> Result<(), String> {
    let mut world = World::new(setup, bug);
    for (n, op) in ops.iter().enumerate() {
        world.step(op).map_err(|error| format!("at step {n}, {op:?}: {error}"))?;
    }
    world.drain().map_err(|error| format!("at the end: {error}"))
}

/// Looks for steps at which the broker and its model differ; returns the shortest that it found.
fn search(cases: u32, seed: u64, bug: Option<Bug>) -> Option<String> {
    let config = Config {
        cases,
        failure_persistence: None,
        // In a debug build most of the time would go into better numbers.
        rng_algorithm: RngAlgorithm::XorShift,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let steps = (setup(), prop::collection::vec(op(), 1..60));
    let found = TestRunner::new(config)
        .run(&steps, |(setup, ops)| run(&setup, &ops, bug).map_err(TestCaseError::fail));
    match found {
        Ok(()) => None,
        Err(TestError::Fail(why, (setup, ops))) => {
            let ops: String = ops.iter().map(|op| format!("\n        Op::{op:?},")).collect();
            Some(format!("{why}\n    {setup:?}, [{ops}\n    ]"))
        }
        Err(TestError::Abort(why)) => Some(why.to_string()),
    }
}

#[test]
fn the_broker_does_what_its_model_does() {
    // `PROPTEST_CASES` and `PROPTEST_RNG_SEED` repeat a run or make it longer.
    let read = |name| std::env::var(name).ok()?.parse().ok();
    let cases = read("PROPTEST_CASES").unwrap_or(10_000);
    let seed = read("PROPTEST_RNG_SEED").unwrap_or_else(|| fastrand::u64(..));
    if let Some(why) = search(cases as u32, seed, None) {
        panic!("with PROPTEST_RNG_SEED={seed}: {why}");
    }
}
