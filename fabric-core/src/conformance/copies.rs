//! Consumers in processes of their own: copies of the test program that runs the case.

use std::env;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::Instant;

use super::harness::{Child, ChildCtl, ChildJob, Harness};
use crate::capabilities::Ability;
use crate::fabric::Fabric;
use crate::group::Group;
use crate::pattern::Pattern;
use crate::subscription::Subscription;
use crate::{Error, ErrorKind, Result, RetryClass};

/// Tells a copy of a test program what it is to do.
const JOB: &str = "FABRIC_CONFORMANCE_CHILD";

/// What a line of a copy begins with that is not the test program's own.
const MARK: &str = "child-of-the-suite ";

/// How long a child waits before it tries again to reach the broker.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs consumers in copies of the program that runs the test: each opens the harness of its own test,
/// and consumes instead of testing.
///
/// A copy has to meet the broker of the case, so the harness tells it where that is by a variable, the
/// one by which it takes a running broker: `FABRIC_TEST_<BACKEND>_URL`.
///
/// ```no_run
/// use fabric_core::conformance::Copies;
/// let children = Copies::new().with_env("FABRIC_TEST_MINE_URL", "mine://127.0.0.1:4711");
/// ```
///
/// A copy never outlives the case: it ends when its standard input closes.
#[derive(Clone, Debug, Default)]
pub struct Copies {
    env: Vec<(String, String)>,
}

impl Copies {
    /// With the variables of this process.
    #[must_use]
    pub const fn new() -> Self {
        Self { env: Vec::new() }
    }

    /// With a variable that copies get.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    async fn copy(&self, job: &ChildJob) -> Result<Box<dyn Child>> {
        let test = job.test.as_deref().ok_or_else(|| failed("the case runs in no test"))?;
        // Test programs leave out their own name.
        let filter = test.split_once("::").map_or(test, |(_, path)| path);
        let mut process = Command::new(env::current_exe().map_err(|error| failed(&error))?)
            .args([filter, "--exact", "--nocapture", "--test-threads=1"])
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env(JOB, write(test, job))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error))?;
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let (told, mut news) = watch::channel(News::Nothing);
        let done = Arc::new(Mutex::new(Done::default()));
        let mut copy = Copy { process, _stdin: stdin, done: Arc::clone(&done), news: news.clone() };
        if let Some(stdout) = stdout {
            let reader = thread::Builder::new().name("child".to_owned());
            reader.spawn(move || listen(stdout, &done, &told)).map_err(|error| failed(&error))?;
        }
        let news = news.wait_for(|news| *news != News::Nothing).await.map(|news| news.clone());
        match news.unwrap_or(News::Over) {
            News::Ready => Ok(Box::new(copy)),
            _ => {
                copy.end();
                Err(failed("a child ended before it was ready"))
            }
        }
    }
}

impl ChildCtl for Copies {
    fn start<'a>(&'a self, job: &'a ChildJob) -> BoxFuture<'a, Result<Box<dyn Child>>> {
        Box::pin(self.copy(job))
    }
}

/// A running copy.
struct Copy {
    process: std::process::Child,
    /// It ends when this closes.
    _stdin: Option<ChildStdin>,
    done: Arc<Mutex<Done>>,
    news: watch::Receiver<News>,
}

#[derive(Debug, Default)]
struct Done {
    received: Vec<String>,
    acked: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum News {
    Nothing,
    Ready,
    Over,
}

impl Copy {
    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Child for Copy {
    fn received(&self) -> Vec<String> {
        lock(&self.done).received.clone()
    }

    fn acked(&self) -> Vec<String> {
        lock(&self.done).acked.clone()
    }

    fn kill(&mut self) -> BoxFuture<'_, Result<()>> {
        self.end();
        let mut news = self.news.clone();
        Box::pin(async move {
            // What it had written before it died is in the pipe, and is read to its end.
            let _ = news.wait_for(|news| *news == News::Over).await;
            Ok(())
        })
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copy").field("id", &self.process.id()).finish_non_exhaustive()
    }
}

/// Writes down what a copy says until it ends.
fn listen(stdout: ChildStdout, done: &Mutex<Done>, told: &watch::Sender<News>) {
    for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
        let Some(said) = line.strip_prefix(MARK) else { continue };
        match said.split_once(' ') {
            Some(("received", id)) => lock(done).received.push(id.to_owned()),
            Some(("acked", id)) => lock(done).acked.push(id.to_owned()),
            _ => {
                told.send_replace(News::Ready);
            }
        }
    }
    told.send_replace(News::Over);
}

/// The job of this process, if it is a copy that is to run `test` as a child.
pub(super) fn job_of(test: &str) -> Option<ChildJob> {
    read(&env::var(JOB).ok()?, test)
}

/// Does the job, until the process is killed or whoever started it is gone.
///
/// # Panics
/// If the broker is not reached or the subscription ends.
pub(super) fn serve<H: Harness>(harness: H, job: &ChildJob) {
    let end_with_starter = || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    };
    let watching = thread::Builder::new().spawn(end_with_starter);
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let consumed = match (watching, runtime) {
        (Ok(_), Ok(runtime)) => runtime.block_on(consume(harness, job)),
        (Err(error), _) | (_, Err(error)) => Err(failed(&error)),
    };
    consumed.unwrap_or_else(|error| panic!("a child failed: {error:#}"));
}

async fn consume<H: Harness>(harness: H, job: &ChildJob) -> Result<()> {
    let until = Instant::now() + harness.timing().patience;
    let (_fabric, mut subscription) = loop {
        match join(&harness, job).await {
            Ok(joined) => break joined,
            // It may have come in the middle of an outage.
            Err(error) if error.retry() != RetryClass::Never && Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    };
    if job.is_endless() {
        say("ready", "")?;
    }
    let (mut acked, mut held) = (0, Vec::new());
    while acked + held.len() < job.take {
        let Some(item) = subscription.recv().await else {
            return Err(failed("the subscription ended"));
        };
        // An outage is not the end: what is lost by it comes again.
        let Ok(delivery) = item else { continue };
        let id = delivery.id().to_string();
        say("received", &id)?;
        if acked == job.ack {
            held.push(delivery);
        } else if delivery.ack().await.is_ok() {
            acked += 1;
            say("acked", &id)?;
        }
    }
    say("ready", "")?;
    std::future::pending().await
}

async fn join<H: Harness>(harness: &H, job: &ChildJob) -> Result<(Fabric, Subscription)> {
    let fabric = harness.open().await?;
    let mut subscribe = fabric.subscribe(&job.pattern).group(&job.group);
    if fabric.capabilities().can(Ability::Lease) {
        subscribe = subscribe.ack_wait(job.ack_wait);
    }
    let subscription = subscribe.await?;
    Ok((fabric, subscription))
}

/// One line at a time, at once: the starter knows of all that was done before a kill.
fn say(what: &str, id: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let line = format!("\n{MARK}{what} {id}\n");
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(|error| failed(&error))
}

fn write(test: &str, job: &ChildJob) -> String {
    let ChildJob { pattern, group, ack_wait, take, ack, .. } = job;
    format!("{test} {pattern} {group} {} {take} {ack}", ack_wait.as_millis())
}

fn read(text: &str, test: &str) -> Option<ChildJob> {
    let mut words = text.split(' ');
    if words.next()? != test {
        return None;
    }
    let pattern = Pattern::new(words.next()?).ok()?;
    let group = Group::new(words.next()?).ok()?;
    let ack_wait = Duration::from_millis(words.next()?.parse().ok()?);
    let (take, ack) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let job = ChildJob::new(pattern, group, ack_wait, take, ack);
    Some(ChildJob { test: Some(test.to_owned()), ..job })
}

fn failed(what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Backend, format!("no child process: {what}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_as_it_was_written_and_only_by_its_test() {
        let pattern = Pattern::new("a.*").unwrap();
        let group = Group::new("g").unwrap();
        for job in [
            ChildJob::new(pattern.clone(), group.clone(), Duration::from_millis(1500), 50, 20),
            ChildJob::endless(pattern, group, Duration::from_secs(1)),
        ] {
            let text = write("c::m::case", &job);
            let back = read(&text, "c::m::case").unwrap();
            assert_eq!((&back.pattern, &back.group), (&job.pattern, &job.group));
            assert_eq!((back.take, back.ack, back.ack_wait), (job.take, job.ack, job.ack_wait));
            assert_eq!(back.is_endless(), job.is_endless());
            assert!(read(&text, "c::m::other").is_none());
        }
    }
}
