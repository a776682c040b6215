//! Running a case: a runtime and a thread of its own, both arms, a watchdog.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::cases::nemesis::nemesis_time;
use super::copies;
use super::failure::{Failure, Verdict};
use super::harness::{DynHarness, Harness, Timing, Tool};
use super::history::History;
use super::refusal;
use super::trial::Trial;
use crate::capabilities::Ability;

/// How much longer than its own watchdog a case on real time may keep its thread, and how long one
/// on virtual time may take altogether.
const GRACE: Duration = Duration::from_secs(30);

/// How many lines of the history a failure shows.
const TAIL: usize = 40;

/// One case of the suite.
pub struct Case {
    /// Its id in the table of cases, such as `A1`.
    pub id: &'static str,
    /// What holds, as a sentence.
    pub name: &'static str,
    /// What has to be claimed so that it is asserted; else the refusal is.
    pub needs: &'static [Ability],
    /// What the harness has to have, else a reason why it cannot.
    pub tools: &'static [Tool],
    pub(super) run: for<'a> fn(&'a Trial) -> BoxFuture<'a, Verdict>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.name)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.name)
    }
}

/// Whose time a case runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Real time, on two worker threads.
    Real,
    /// Virtual time, on one thread: it jumps to the next timer where nothing else is to be done, so
    /// that a wait takes no time and its length is exact. For backends without any I/O.
    Paused,
}

/// Which arm of a case held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arm {
    /// What it needs is claimed, and the behaviour is as it should be.
    Held,
    /// These abilities are not claimed, and the calls that need them are refused.
    Refused(Vec<Ability>),
    /// The harness has not the tool, and this is why.
    Without(&'static str),
}

impl Case {
    /// Runs the case on a backend of its own, in a thread and a runtime of its own.
    ///
    /// # Errors
    /// What failed, where, and the end of the history.
    pub fn run<H: Harness>(
        &'static self,
        clock: Clock,
        harness: impl FnOnce() -> H + Send + 'static,
    ) -> Result<Arm, String> {
        self.run_as(None, clock, harness)
    }

    /// As [`run`](Self::run), in the test of this name.
    fn run_as<H: Harness>(
        &'static self,
        test: Option<&'static str>,
        clock: Clock,
        harness: impl FnOnce() -> H + Send + 'static,
    ) -> Result<Arm, String> {
        let (report, reports) = channel();
        let (say, limits) = channel();
        let (abandon, abandoned) = oneshot::channel();
        let spawned = thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            let guarded = catch_unwind(AssertUnwindSafe(|| {
                let mut harness = harness();
                harness.prepare(self);
                let harness: Arc<dyn DynHarness> = Arc::new(harness);
                let _ = say.send(self.watchdog(&harness.timing()));
                self.run_here(test, clock, harness, abandoned)
            }));
            let _ = report.send(guarded.unwrap_or_else(|panic| Err(said(&*panic))));
        });
        if let Err(error) = spawned {
            return Err(format!("{self}: no thread: {error}"));
        }
        // A harness that starts a broker has all the time it needs.
        let limit = match (limits.recv(), clock) {
            (Ok(watchdog), Clock::Real) => watchdog + GRACE,
            _ => GRACE,
        };
        let outcome = reports.recv_timeout(limit).unwrap_or_else(|late| match late {
            RecvTimeoutError::Timeout => {
                // A thread that still listens to its runtime ends now, with a report of its own.
                let _ = abandon.send(());
                let busy = || Err(format!("it was busy for {limit:?} without an end"));
                reports.recv_timeout(Duration::from_secs(5)).unwrap_or_else(|_| busy())
            }
            RecvTimeoutError::Disconnected => Err("its thread vanished".to_owned()),
        });
        outcome.map_err(|what| format!("{self}: {what}"))
    }

    /// How long it may take, with the time that was asked for on top.
    fn watchdog(&self, timing: &Timing) -> Duration {
        let asked = if self.id == "F10" { nemesis_time() } else { Duration::ZERO };
        timing.watchdog + 2 * asked
    }

    fn run_here(
        &'static self,
        test: Option<&'static str>,
        clock: Clock,
        harness: Arc<dyn DynHarness>,
        abandoned: oneshot::Receiver<()>,
    ) -> Result<Arm, String> {
        let runtime = runtime(clock).map_err(|error| format!("no runtime: {error}"))?;
        let history = History::new();
        let watchdog = self.watchdog(&harness.timing());
        let lines = history.clone();
        let result = runtime.block_on(async move {
            let judged = tokio::time::timeout(watchdog, self.judge(test, harness, history));
            tokio::select! {
                biased;
                Ok(()) = abandoned => Err(Failure::new("it was busy without an end")),
                judged = judged => judged.unwrap_or_else(|_| {
                    Err(Failure::new(format!("it did not end within {watchdog:?}")))
                }),
            }
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        result.map_err(|failure| {
            let tail = lines.tail(TAIL);
            lines.shorten(&format!("{failure}\n  the last lines of its history:\n{tail}"))
        })
    }

    async fn judge(
        &'static self,
        test: Option<&'static str>,
        harness: Arc<dyn DynHarness>,
        history: History,
    ) -> Verdict<Arm> {
        let trial = Trial::begin(harness, test, history).await?;
        let arm = self.arm(&trial).await;
        if arm.is_ok() {
            trial.end().await;
        }
        arm
    }

    /// Runs the arm that the claims ask for.
    async fn arm(&'static self, trial: &Trial) -> Verdict<Arm> {
        let missing: Vec<Ability> =
            self.needs.iter().copied().filter(|ability| !trial.can(*ability)).collect();
        if !missing.is_empty() {
            for ability in &missing {
                refusal::holds(trial, *ability).await.map_err(|failure| {
                    failure.after(format_args!("`{ability}` is not claimed, and not refused"))
                })?;
            }
            return Ok(Arm::Refused(missing));
        }
        if let Some(tool) = self.tools.iter().find(|tool| !trial.has(**tool)) {
            return match trial.harness().without(self) {
                Some(reason) => Ok(Arm::Without(reason)),
                None => Err(Failure::new(format!(
                    "the harness lacks {tool} and `without` gives no reason for `{}`",
                    self.id
                ))),
            };
        }
        (self.run)(trial).await.map(|()| Arm::Held)
    }
}

fn runtime(clock: Clock) -> std::io::Result<Runtime> {
    match clock {
        Clock::Real => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        Clock::Paused => Builder::new_current_thread().enable_all().start_paused(true).build(),
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_else(|| "no message".to_owned()))
}

/// Runs the case that `test`, the path of a test, ends with, and panics where it fails: the body of a
/// `#[test]`. In a copy of the program that [`Copies`](super::Copies) started, it is the child.
///
/// # Panics
/// If the case fails, or there is none of that name.
#[expect(clippy::print_stdout, reason = "a test says why it could not assert anything")]
pub fn test<H: Harness>(
    clock: Clock,
    harness: impl FnOnce() -> H + Send + 'static,
    test: &'static str,
) {
    if let Some(job) = copies::job_of(test) {
        return copies::serve(harness(), &job);
    }
    let name = test.rsplit("::").next().unwrap_or(test);
    let case = super::cases().iter().find(|case| case.name == name);
    let case = case.unwrap_or_else(|| panic!("there is no case `{name}`"));
    match case.run_as(Some(test), clock, harness) {
        Ok(Arm::Held) => {}
        Ok(Arm::Refused(abilities)) => println!("not claimed, and refused: {abilities:?}"),
        Ok(Arm::Without(reason)) => println!("not possible here: {reason}"),
        Err(what) => panic!("{what}"),
    }
}
