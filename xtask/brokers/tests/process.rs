//! A child does what it is told, and never outlives whoever started it.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fabric_brokers::{Folder, Launch, Process, Ready};

/// Set for the copy of this program that starts a child and is killed.
const STARTER: &str = "FABRIC_BROKERS_TEST_STARTER";

fn sleeper() -> Process {
    let says = "echo ready; while :; do sleep 0.05; done";
    let launch = Launch::new("sh", Ready::Says("ready")).args(["-c", says]);
    let folder = Folder::new("sleeper").expect("a folder");
    Process::new(launch, folder).expect("a shell")
}

/// The state letter of a process, unless there is none or only its name is left.
fn state(id: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    (state != 'Z').then_some(state)
}

#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(20), "{what} never came about");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_runs_until_it_is_stopped_and_starts_again() {
    let process = sleeper();
    let first = process.id().unwrap();
    assert!(process.is_running());
    process.stop();
    assert_eq!((process.is_running(), state(first)), (false, None));
    process.start().unwrap();
    let second = process.id().unwrap();
    assert!(state(second).is_some());
    process.kill();
    assert_eq!(state(second), None);
    assert_eq!(process.log(), "ready\nready\n");
}

#[test]
fn a_paused_one_hangs_until_it_is_resumed() {
    let process = sleeper();
    let id = process.id().unwrap();
    process.pause();
    eventually("a pause", || state(id) == Some('T'));
    assert!(process.is_running());
    process.resume();
    eventually("going on", || state(id) != Some('T'));
    process.pause();
    process.stop();
    assert_eq!(state(id), None);
}

#[test]
fn dropping_it_ends_it_and_removes_its_folder() {
    let process = sleeper();
    let (id, folder) = (process.id().unwrap(), process.folder().to_owned());
    assert!(folder.exists());
    drop(process);
    assert_eq!((state(id), folder.exists()), (None, false));
}

#[test]
fn one_that_ends_at_once_fails_with_its_log() {
    let launch = Launch::new("sh", Ready::Says("ready")).args(["-c", "echo no room; exit 3"]);
    let error = Process::new(launch, Folder::new("failing").unwrap()).unwrap_err().to_string();
    assert!(error.contains("ended") && error.contains("no room"), "{error}");
}

#[test]
fn it_does_not_outlive_a_starter_that_is_killed() {
    if env::var_os(STARTER).is_some() {
        // From a thread that ends, as a test's does.
        let process = thread::spawn(sleeper).join().unwrap();
        println!("\nstarted {} {}", process.id().unwrap(), process.folder().display());
        loop {
            thread::park();
        }
    }
    let mut starter = Command::new(env::current_exe().unwrap())
        .args(["it_does_not_outlive_a_starter_that_is_killed", "--exact", "--nocapture"])
        .env(STARTER, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(starter.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told = lines.filter_map(|line| line.strip_prefix("started ").map(str::to_owned)).next();
    let told = told.expect("the starter says what it started");
    let (id, folder) = told.split_once(' ').unwrap();
    let id = id.parse().unwrap();
    assert!(state(id).is_some());
    starter.kill().unwrap();
    starter.wait().unwrap();
    eventually("its end", || state(id).is_none() && !Path::new(folder).exists());
}
