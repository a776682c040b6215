//! F10: the nemesis, which mixes the faults.

use std::fmt::Write as _;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::conformance::chance::chance;
use crate::conformance::failure::Verdict;
use crate::conformance::harness::{Child, ChildJob, Fault, Way};
use crate::conformance::load::{Load, Setup};
use crate::conformance::trial::Trial;

/// F10: a mix of all of that, drawn from a seed, with members in processes that are killed, loses
/// nothing.
pub async fn a_mix_of_faults_loses_nothing(t: &Trial) -> Verdict {
    let mut chance = chance();
    let mut script = String::new();
    let outcome = nemesis(t, &mut chance.rng, &mut script).await;
    chance.judge(outcome.map_err(|failure| failure.after(format_args!("after {script}"))))
}

/// How often a member in another process is killed.
const LIFETIME: Duration = Duration::from_secs(5);

/// The variable that says for how many seconds the faults are mixed.
const TIME_VARIABLE: &str = "FABRIC_NEMESIS_SECONDS";

/// For how long faults are mixed: as the environment says, else for some seconds.
///
/// # Panics
/// If it says something that is no number.
pub(in crate::conformance) fn nemesis_time() -> Duration {
    let Ok(text) = std::env::var(TIME_VARIABLE) else { return Duration::from_secs(6) };
    let seconds = text.trim().parse();
    Duration::from_secs(seconds.unwrap_or_else(|_| panic!("{TIME_VARIABLE} is no number: {text}")))
}

async fn nemesis(t: &Trial, rng: &mut Rng, script: &mut String) -> Verdict {
    let (broker, fault) = (t.broker()?, t.fault()?);
    let time = nemesis_time();
    // A history of ten minutes fits into memory at this pace.
    let pace = Duration::from_millis(if time > Duration::from_secs(100) { 50 } else { 10 });
    let load = Load::begin(t, Setup { pace, ..Setup::default() }, &|| fault.open()).await?;
    let (begin, mut born, mut children) = (Instant::now(), Instant::now(), Vec::new());
    for audience in 0..2 {
        children.push(hire(t, &load, audience).await?);
    }
    while begin.elapsed() < time {
        let harm = rng.u8(0..10);
        let lasts = Duration::from_millis(rng.u64(100..1500));
        // Writing to a `String` cannot fail.
        let _ = write!(script, "{harm} for {lasts:?}, ");
        match harm {
            0 => broker.stop().await?,
            1 => broker.kill().await?,
            2 => broker.pause().await?,
            3 => fault.inflict(Fault::Reset).await?,
            4 => fault.inflict(Fault::Swallow(Way::Both)).await?,
            5 => {
                let way = if rng.bool() { Way::ToBroker } else { Way::ToClient };
                fault.inflict(Fault::Swallow(way)).await?;
            }
            6 => {
                let latency = Duration::from_millis(rng.u64(1..200));
                let bytes_per_second = Some(rng.u64(32..256) * 1024);
                let slice = rng.bool().then(|| rng.usize(1..64));
                let slow = Fault::Slow { latency, jitter: latency / 4, bytes_per_second, slice };
                fault.inflict(slow).await?;
            }
            7 => fault.inflict(Fault::CutAfter(rng.u64(1..100_000))).await?,
            _ => {} // a quarter of the time all is quiet
        }
        t.wait(lasts).await;
        broker.resume().await?;
        broker.start().await?;
        fault.heal().await?;
        if born.elapsed() > LIFETIME {
            born = Instant::now();
            let audience = rng.usize(0..2);
            fire(&load, audience, &mut children[audience]).await?;
            children[audience] = hire(t, &load, audience).await?;
        }
        // Between two faults there is a moment to catch one's breath, or nothing would ever go on.
        t.wait(Duration::from_millis(rng.u64(100..800))).await;
    }
    load.goes_on().await?;
    for (audience, child) in children.iter_mut().enumerate() {
        fire(&load, audience, child).await?;
    }
    say(&load.end().await?);
    Ok(())
}

async fn hire(t: &Trial, load: &Load, audience: usize) -> Verdict<Box<dyn Child>> {
    let group = load.groups()[audience].clone();
    t.child(ChildJob::endless(load.pattern().clone(), group, t.ack_wait())).await
}

async fn fire(load: &Load, audience: usize, child: &mut Box<dyn Child>) -> Verdict {
    child.kill().await?;
    load.absorb(audience, &format!("g{audience}child"), &child.received());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a long run says what it did")]
fn say(what: &str) {
    println!("{what}");
}
