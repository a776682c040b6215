//! A program as a child process that can be stopped, killed, paused and started again, and that never
//! outlives us.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::folder::Folder;
use crate::{Error, Result};

/// Becomes the program, and leaves somebody behind who waits for our end of the pipe to close: with a
/// word, the program is over and he may go; without, we are, and it has to follow.
///
/// The death signal of Linux would not do: it follows the thread that started the child.
const GUARDED: &str = r#"
exec 3<&0
(read -r word <&3 || { kill -9 $$; rm -rf "$0"; }) >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null
"#;

/// How long a program may take until it is ready: a busy machine starts a JVM in a minute.
const READY: Duration = Duration::from_secs(180);

/// How long it may take to stop when it is asked to.
const STOPPED: Duration = Duration::from_secs(60);

/// How often a thing is looked at that nobody tells us of.
const GLANCE: Duration = Duration::from_millis(5);

/// What is started, and how it is known to be ready.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    prefix: Vec<OsString>,
    ready: Ready,
}

/// How a program is known to be ready.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Ready {
    /// At once.
    Started,
    /// When it has written this to its log.
    Says(&'static str),
    /// When it listens here and, if this is not empty, greets with this.
    Greets(SocketAddr, &'static str),
}

impl Launch {
    /// A program that is ready as `ready` says.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, ready: Ready) -> Self {
        let program = program.into();
        Self { program, args: Vec::new(), env: Vec::new(), prefix: Vec::new(), ready }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// With a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Started by another program, which becomes this one.
    #[must_use]
    pub fn through<A: Into<OsString>>(mut self, prefix: impl IntoIterator<Item = A>) -> Self {
        self.prefix.extend(prefix.into_iter().map(Into::into));
        self
    }
}

/// A program that runs, or could run again, in a folder of its own.
///
/// Its current directory is the folder, and what it prints lies in the file `log` there. Signals of a
/// terminal do not reach it.
pub struct Process {
    launch: Launch,
    folder: Folder,
    running: Mutex<Option<Running>>,
}

struct Running {
    child: Child,
    /// Whoever holds the other end kills the program when this closes without a word.
    guard: ChildStdin,
}

impl Process {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// If it cannot be started, ends, or does not get ready; with the end of its log.
    pub fn new(launch: Launch, folder: Folder) -> Result<Self> {
        let process = Self { launch, folder, running: Mutex::new(None) };
        process.start()?;
        Ok(process)
    }

    /// Starts it again, in the folder it had, and waits until it is ready. Nothing happens if it runs.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn start(&self) -> Result<()> {
        let mut running = self.lock();
        if running.as_ref().is_some_and(Running::is_alive) {
            return Ok(());
        }
        if let Some(dead) = running.take() {
            dead.bury();
        }
        let begin = fs::metadata(self.log_file()).map_or(0, |log| log.len());
        let started = running.insert(self.spawn()?);
        let since = Instant::now();
        while !self.is_ready(begin) {
            let what = if !started.is_alive() {
                "ended"
            } else if since.elapsed() > READY {
                "is not ready"
            } else {
                thread::sleep(GLANCE);
                continue;
            };
            if let Some(failed) = running.take() {
                failed.kill();
            }
            let log = tail(&self.log_since(begin), 30);
            return Err(Error::new(format!(
                "{} {what} after {:.1} s; the end of its log:\n{log}",
                self.launch.program.display(),
                since.elapsed().as_secs_f64()
            )));
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM), waits, and kills it where that takes too long.
    pub fn stop(&self) {
        let Some(running) = self.lock().take() else { return };
        running.signal(Signal::CONT);
        running.signal(Signal::TERM);
        let since = Instant::now();
        while running.is_alive() && since.elapsed() < STOPPED {
            thread::sleep(GLANCE);
        }
        running.kill();
    }

    /// Kills it without warning (SIGKILL); it is gone when this returns.
    pub fn kill(&self) {
        if let Some(running) = self.lock().take() {
            running.kill();
        }
    }

    /// Lets it hang (SIGSTOP).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Tells it to read its configuration again (SIGHUP), for programs that take this as that.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Whether it runs, be it paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.lock().as_ref().is_some_and(Running::is_alive)
    }

    /// Its number, if it was started.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.lock().as_ref().map(|running| running.child.id())
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.log_since(0)
    }

    fn signal(&self, signal: Signal) {
        if let Some(running) = &*self.lock() {
            running.signal(signal);
        }
    }

    fn spawn(&self) -> Result<Running> {
        let Launch { program, args, env, prefix, .. } = &self.launch;
        let failed = |error| Error::new(format!("cannot start {}: {error}", program.display()));
        let log =
            File::options().create(true).append(true).open(self.log_file()).map_err(failed)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", GUARDED])
            .arg(self.folder.path())
            .args(prefix)
            .arg(program)
            .args(args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let guard = child.stdin.take();
        let guard = guard.ok_or_else(|| Error::new("a child has no standard input"))?;
        Ok(Running { child, guard })
    }

    fn is_ready(&self, begin: u64) -> bool {
        match self.launch.ready {
            Ready::Started => true,
            Ready::Says(text) => self.log_since(begin).contains(text),
            Ready::Greets(address, greeting) => greets(address, greeting),
        }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn log_since(&self, begin: u64) -> String {
        let read = || {
            let mut file = File::open(self.log_file())?;
            file.seek(SeekFrom::Start(begin))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            std::io::Result::Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Not waited for: as long as nobody has, the number belongs to this child and to no other.
    fn is_alive(&self) -> bool {
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.pid()), peek), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    fn kill(self) {
        self.signal(Signal::KILL);
        self.bury();
    }

    /// The guard first: he must not kill whoever gets the number next.
    fn bury(mut self) {
        let _ = self.guard.write_all(b"over\n");
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("program", &self.launch.program)
            .field("folder", &self.folder.path())
            .field("id", &self.id())
            .finish()
    }
}

fn greets(address: SocketAddr, greeting: &str) -> bool {
    let limit = Duration::from_millis(500);
    let Ok(mut stream) = TcpStream::connect_timeout(&address, limit) else { return false };
    let mut bytes = vec![0; greeting.len()];
    stream.set_read_timeout(Some(limit)).is_ok()
        && stream.read_exact(&mut bytes).is_ok()
        && bytes == greeting.as_bytes()
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
