//! Running cargo. Children stay in our process group, so Ctrl-C ends them with us.

use std::env;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// A cargo command in the root of the workspace, its arguments given as one line.
pub(crate) fn cargo(workspace: &Workspace, line: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&workspace.root).args(line.split_whitespace()).stdin(Stdio::null());
    // What cargo told this program about itself is not for its children: build scripts that
    // watch these variables would run again after every switch between `cargo` and `xtask`.
    for (name, _) in env::vars_os() {
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if name.to_str().is_some_and(|name| ours.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs to the end, the output going straight through.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    judge(command.status().map_err(|error| not_started(command, &error))?)
}

/// What this machine is called as a target.
pub(crate) fn host() -> Result<String> {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let said = output(command.arg("-vV"))?;
    let line = said.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).ok_or_else(|| Error::new("rustc does not say what this machine is"))
}

/// Runs to the end, or until `limit` is over: what hangs fails.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    announce(command);
    let mut child = command.spawn().map_err(|error| not_started(command, &error))?;
    let started = Instant::now();
    let failed = |error| Error::new(format!("cannot wait for the program: {error}"));
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return judge(status);
        }
        if started.elapsed() > limit {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            return Err(Error::new(format!("still running after {} s; killed", limit.as_secs())));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs to the end and returns what it printed; its complaints go straight through.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    announce(command);
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| not_started(command, &error))?;
    judge(output.status)?;
    String::from_utf8(output.stdout)
        .map_err(|_| Error::new("the program printed something that is not UTF-8"))
}

fn announce(command: &Command) {
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    println!("$ cargo {}", args.join(" "));
}

fn judge(status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { Err(Error::new(status.to_string())) }
}

fn not_started(command: &Command, error: &std::io::Error) -> Error {
    Error::new(format!("cannot start {}: {error}", command.get_program().display()))
}
