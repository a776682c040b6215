//! The test kit: what it records, how it waits, and that it finds what is wrong with a service.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fabric_core::testing::{SEED_VARIABLE, What, each_seed};
use fabric_core::{
    ConsumerBuilder, Event, Fabric, HandlerError, HandlerResult, Nack, Retry, Typed,
};
use fabric_memory::testing::TestFabric;
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Event, Debug, Serialize, Deserialize)]
#[event(topic = "plan.{plan}.step_ready", key = "plan", crate = "fabric_core")]
struct StepReady {
    plan: String,
    step: u32,
}

#[derive(Event, Debug, Serialize, Deserialize)]
#[event(topic = "plan.{plan}.step_done", key = "plan", crate = "fabric_core")]
struct StepDone {
    plan: String,
    step: u32,
}

fn ready(step: u32) -> StepReady {
    StepReady { plan: "p".to_owned(), step }
}

async fn step_ready(ready: Typed<StepReady>, _: fabric_core::Context) -> HandlerResult<StepDone> {
    Ok(StepDone { plan: ready.plan.clone(), step: ready.step })
}

/// A good service: what it returns is confirmed before its input is acked.
fn planner(fabric: &Fabric) -> ConsumerBuilder {
    let retry = Retry::exponential(SECOND).forever();
    fabric.consumer("planner").on(step_ready).concurrency(4).retry(retry)
}

fn steps(fabric: &TestFabric) -> BTreeSet<u32> {
    fabric.published::<StepDone>().iter().map(|done| done.step).collect()
}

#[tokio::test(start_paused = true)]
async fn a_service_is_tested_in_a_bad_network_in_no_time() {
    let fabric = TestFabric::new();
    let bad = fabric.faults().duplicate(0.1).lose_acks(0.1).refuse(0.3).drop_deliveries(0.1);
    let service = planner(&fabric.faulty(bad)).start().await.unwrap();
    for step in 0..100 {
        fabric.publish(ready(step)).await.unwrap();
    }
    let began = Instant::now();
    fabric.settled().await;
    assert!(began.elapsed() > SECOND * 10, "leases of thirty seconds had to end");
    assert_eq!(steps(&fabric), (0..100).collect());
    fabric.published::<StepDone>().at_least(101);
    fabric.published::<StepReady>().with(|ready| ready.step == 7).exactly(1);
    fabric.published::<StepReady>().with(|ready| ready.step == 100).none();
    assert!(fabric.dead("planner").is_empty());
    service.drain().await.unwrap();
}

/// Acks first and publishes afterwards, without a look at the answer.
async fn careless(fabric: Fabric, events: usize) {
    let mut ready = fabric.subscribe("plan.*.step_ready").group("careless").await.unwrap();
    for _ in 0..events {
        let delivery = ready.recv().await.unwrap().unwrap();
        let step = delivery.decode::<StepReady>().unwrap().step;
        delivery.ack().await.unwrap();
        let _ = fabric.publish(StepDone { plan: "p".to_owned(), step }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_a_careless_service_loses_is_found() {
    let fabric = TestFabric::seeded(1);
    let faulty = fabric.faulty(fabric.faults().lose_publishes(0.1));
    let service = tokio::spawn(careless(faulty, 100));
    tokio::task::yield_now().await;
    for step in 0..100 {
        fabric.publish(ready(step)).await.unwrap();
    }
    service.await.unwrap();
    fabric.settled().await;
    assert!(steps(&fabric).len() < 100, "with this seed something is lost");
    let lost = (0..100).find(|step| !steps(&fabric).contains(step)).unwrap();
    let asserted = catch_unwind(AssertUnwindSafe(|| {
        fabric.published::<StepDone>().with(|done| done.step == lost).exactly(1);
    }));
    let said = *asserted.unwrap_err().downcast::<String>().unwrap();
    assert!(said.starts_with("exactly 1 `plan.step_done` had to be published, and 0 were"));
}

/// Bills once per delivery: a duplicate bills twice.
#[tokio::test(start_paused = true)]
async fn an_event_that_a_careless_service_repeats_is_found() {
    let fabric = TestFabric::seeded(1);
    let faulty = fabric.faulty(fabric.faults().duplicate(0.1));
    let _service = planner(&faulty).start().await.unwrap();
    for step in 0..100 {
        fabric.publish(ready(step)).await.unwrap();
    }
    fabric.settled().await;
    let done = fabric.published::<StepDone>();
    let twice = (0..100).find(|step| done.iter().filter(|done| done.step == *step).count() > 1);
    let twice = twice.expect("with this seed something is repeated");
    let asserted = catch_unwind(AssertUnwindSafe(|| {
        fabric.published::<StepDone>().with(|done| done.step == twice).exactly(1);
    }));
    let said = *asserted.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("and 2 were, of 1"), "{said}");
    assert!(said.contains(&format!(r#"{{"plan":"p","step":{twice}}}"#)), "{said}");
}

/// The run of one seed, as text without the ids and times that are new in each.
async fn run(seed: u64) -> Vec<String> {
    let fabric = TestFabric::seeded(seed);
    let faults = fabric.faults().duplicate(0.2).lose_acks(0.2).refuse(0.2).reorder(0.2);
    let service = planner(&fabric.faulty(faults)).start().await.unwrap();
    for step in 0..50 {
        fabric.publish(Event::of(ready(step)).id(format!("in-{step}"))).await.unwrap();
    }
    fabric.settled().await;
    drop(service);
    let line = |step: &fabric_core::testing::Step| {
        let text = step.event.text().unwrap().into_owned();
        format!("{:?} {} {} {} {text}", step.at, step.event.topic(), step.what, step.attempt)
    };
    fabric.history().iter().map(line).collect()
}

#[test]
fn the_same_seed_repeats_a_run_and_another_does_not() {
    let runs = std::sync::Mutex::new(Vec::new());
    each_seed([7, 7, 8], async |seed| {
        let run = run(seed).await;
        runs.lock().unwrap().push(run);
    });
    let runs = runs.into_inner().unwrap();
    assert!(runs[0].len() > 200, "{}", runs[0].len());
    for (n, (one, other)) in runs[0].iter().zip(&runs[1]).enumerate() {
        assert_eq!(one, other, "line {n}");
    }
    assert_eq!(runs[0].len(), runs[1].len());
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test(start_paused = true)]
async fn tries_deaths_and_the_history_are_known() {
    let fabric = TestFabric::new();
    let _service = fabric
        .consumer("g")
        .on_pattern("a.*", async |event: Event, cx: fabric_core::Context| {
            match event.id().to_string().as_str() {
                "poison" => Err(HandlerError::permanent("no good")),
                "slow" if cx.attempt() < 4 => Err(HandlerError::transient("not yet")),
                _ => Ok(()),
            }
        })
        .retry(Retry::list([SECOND / 2, SECOND * 60, SECOND * 3600]))
        .start()
        .await
        .unwrap();
    for id in ["good", "poison", "slow"] {
        fabric.publish(Event::to("a.b").id(id).text(id)).await.unwrap();
    }
    let began = Instant::now();
    fabric.settled().await;
    assert_eq!(began.elapsed(), SECOND / 2 + SECOND * 3660, "exactly as long as the waits");
    assert_eq!(fabric.attempts("good", "g"), 1);
    assert_eq!(fabric.attempts("poison", "g"), 1);
    assert_eq!(fabric.attempts("slow", "g"), 4, "in place and by nack");
    assert_eq!(fabric.attempts("slow", "other"), 0);
    let dead = fabric.dead("g");
    assert_eq!((dead.len(), dead[0].dead_letter().unwrap().error.as_str()), (1, "no good"));
    assert_eq!(fabric.published_on("a.*").len(), 3);
    let of_slow = fabric.history().into_iter().filter(|step| step.event.id() == "slow");
    let said: Vec<String> = of_slow.map(|step| step.what.to_string()).collect();
    let expected = [
        "published",
        "delivered",
        "tried",
        "failed: not yet",
        "tried",
        "failed: not yet",
        "nacked: not yet",
        "delivered",
        "tried",
        "failed: not yet",
        "nacked: not yet",
        "delivered",
        "tried",
        "acked",
    ];
    assert_eq!(said, expected);
    // What was sent back to the group counts as no publish.
    assert_eq!(fabric.dead_letters("g").redrive().await.unwrap(), 1);
    fabric.settled().await;
    assert_eq!((fabric.dead("g").len(), fabric.published_on("a.*").len()), (2, 3));
    assert!(fabric.history().iter().any(|step| matches!(step.what, What::Sent)));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_nobody_serves_is_named() {
    let fabric = TestFabric::new();
    let mut member = fabric.subscribe("a.*").group("lonely").await.unwrap();
    fabric.publish(Event::to("a.b").text("x")).await.unwrap();
    fabric.publish(Event::to("a.b").text("y")).await.unwrap();
    let held = member.recv().await.unwrap().unwrap();
    held.nack(Nack::after(SECOND * 3600)).await.unwrap();
    drop(member);
    let waited = AssertUnwindSafe(fabric.settled()).catch_unwind().await;
    let said = *waited.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("`lonely`, 0 members"), "{said}");
}

/// A run that fails says which seed it had; with that seed it fails again.
#[test]
fn a_failing_run_names_its_seed() {
    let seen = std::sync::Mutex::new(Vec::new());
    let ran = catch_unwind(AssertUnwindSafe(|| {
        each_seed(0..10, async |seed| {
            let fabric = TestFabric::seeded(seed);
            seen.lock().unwrap().push(fabric.seed());
            assert_ne!(seed, 3, "the third fails");
        });
    }));
    assert!(ran.is_err());
    assert_eq!(*seen.lock().unwrap(), [0, 1, 2, 3]);
}

const CHILD: &str = "FABRIC_TEST_CHILD";

/// Fails by chance, more often than not, where the next test asks for it.
#[tokio::test(start_paused = true)]
async fn fails_where_it_is_told_to() {
    let fabric = TestFabric::new();
    let faults = fabric.faults().refuse(0.5);
    let faulty = fabric.faulty(faults);
    let mut refused = String::new();
    for n in 0..20 {
        let result = faulty.publish(Event::to("a.b").text(n.to_string())).await;
        refused.push(if result.is_err() { 'x' } else { '.' });
    }
    assert!(std::env::var_os(CHILD).is_none(), "faults {refused} drawn {}", fastrand::u32(..));
}

/// What a test process says: what was drawn, and the seed it names.
fn said(seed: Option<&str>) -> (String, String) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "fails_where_it_is_told_to"]).env(CHILD, "1");
    child.env_remove(SEED_VARIABLE).envs(seed.map(|seed| (SEED_VARIABLE, seed)));
    let output = child.output().unwrap();
    assert!(!output.status.success());
    let all = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = |what: &str| {
        let (_, rest) = all.split_once(what).unwrap_or_else(|| panic!("no `{what}` in {all}"));
        rest.lines().next().unwrap().to_owned()
    };
    assert!(all.contains("what happened last:") && all.contains("a.b"), "{all}");
    let seed = after(&format!("{SEED_VARIABLE}="));
    (after("faults "), seed.split_whitespace().next().unwrap().to_owned())
}

#[test]
fn a_failing_test_prints_its_seed_and_the_variable_repeats_it() {
    let (drawn, seed) = said(None);
    assert_eq!(said(Some(&seed)), (drawn.clone(), seed.clone()));
    let other = if seed == "1" { "2" } else { "1" };
    assert_ne!(said(Some(other)).0, drawn);
}
