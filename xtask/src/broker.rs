//! `cargo xtask broker`: brokers that run in the background, each held by a copy of this program.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, process};

use rustix::process::{Pid, Signal, kill_process};

use crate::args::BrokerAction;
use crate::backends::{self, Backend};
use crate::error::{Error, Result};
use crate::workspace::{self, Workspace};

/// How long a broker may take to start, its installation included, and to end.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn run(
    workspace: &Workspace,
    action: BrokerAction,
    named: &[&'static Backend],
) -> Result<()> {
    let folder = workspace.target_dir().join("brokers").join("up");
    fs::create_dir_all(&folder)
        .map_err(|error| Error::new(format!("cannot make {}: {error}", folder.display())))?;
    let chosen = if named.is_empty() {
        let all = backends::all(workspace).into_iter();
        all.filter(|backend| backend.has_broker()).collect()
    } else {
        backends::choose(workspace, named)?
    };
    if chosen.is_empty() {
        println!("no backend in this workspace has a broker of its own");
    }
    for backend in chosen {
        let held = Held { backend, folder: &folder };
        match action {
            BrokerAction::Up => held.up()?,
            BrokerAction::Down => held.down()?,
            BrokerAction::Status => match held.state() {
                Some(state) => println!("{}: running at {}", backend.name, state.url),
                None => println!("{}: not running", backend.name),
            },
            BrokerAction::Hold => held.hold()?,
        }
    }
    Ok(())
}

/// A broker in the background.
struct Held<'a> {
    backend: &'static Backend,
    folder: &'a Path,
}

/// What its holder wrote down.
#[derive(Debug, PartialEq, Eq)]
struct State {
    holder: i32,
    url: String,
}

impl Held<'_> {
    fn up(&self) -> Result<()> {
        let Backend { name, .. } = self.backend;
        if let Some(state) = self.state() {
            println!("{name}: runs already at {}", state.url);
            return Ok(());
        }
        let _ = fs::remove_file(self.file());
        let log = self.folder.join(format!("{name}.log"));
        let failed = |error| Error::new(format!("cannot start the holder of {name}: {error}"));
        let out = File::create(&log).map_err(failed)?;
        let mut holder = Command::new(env::current_exe().map_err(failed)?)
            .args(["broker", "hold", name])
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(failed)?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let since = Instant::now();
        loop {
            if let Some(state) = self.state() {
                println!("{name}: {}", state.url);
                println!("  export {}={}", self.backend.variable(), state.url);
                return Ok(());
            }
            if holder.try_wait().map_err(failed)?.is_some() || since.elapsed() > LIMIT {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(Error::new(format!("the broker of {name} did not start:\n{said}")));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn down(&self) -> Result<()> {
        let Backend { name, .. } = self.backend;
        let Some(state) = self.state() else {
            println!("{name}: not running");
            return Ok(());
        };
        // Whatever ends the holder ends its broker.
        if let Some(holder) = Pid::from_raw(state.holder) {
            kill_process(holder, Signal::TERM).map_err(|error| {
                Error::new(format!("cannot stop the broker of {name}: {error}"))
            })?;
        }
        let since = Instant::now();
        while self.state().is_some() {
            if since.elapsed() > LIMIT {
                return Err(Error::new(format!("the broker of {name} does not end")));
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = fs::remove_file(self.file());
        println!("{name}: stopped");
        Ok(())
    }

    /// Starts the broker, says where it is, and keeps it until a signal comes.
    fn hold(&self) -> Result<()> {
        let running = self.backend.start()?;
        let draft = self.folder.join(format!("{}.draft", self.backend.name));
        workspace::write(&draft, &format!("{}\n{}\n", process::id(), running.url))?;
        fs::rename(&draft, self.file())
            .map_err(|error| Error::new(format!("cannot write {}: {error}", draft.display())))?;
        loop {
            thread::park();
        }
    }

    /// What the holder wrote, if it is still there.
    fn state(&self) -> Option<State> {
        let state = read(&fs::read_to_string(self.file()).ok()?)?;
        let line = fs::read(format!("/proc/{}/cmdline", state.holder)).ok()?;
        let holds = line.split(|byte| *byte == 0).any(|word| word == b"hold");
        holds.then_some(state)
    }

    fn file(&self) -> PathBuf {
        self.folder.join(self.backend.name)
    }
}

fn read(text: &str) -> Option<State> {
    let (holder, url) = text.trim().split_once('\n')?;
    Some(State { holder: holder.parse().ok()?, url: url.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_holder_wrote_is_read_back() {
        let url = "nats://127.0.0.1:1".to_owned();
        assert_eq!(read("17\nnats://127.0.0.1:1\n"), Some(State { holder: 17, url }));
        assert_eq!(read("17"), None);
        assert_eq!(read(""), None);
    }
}
