//! Remembered subscriptions in one JSON file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{RememberedSubscription, StateStore};
use crate::{Error, ErrorKind, Result, RetryClass};

/// The version of the file's shape.
const FORMAT: u32 = 1;

/// A store in one JSON file, which is whole at any moment, also after a crash or a power cut.
///
/// A change is written to `<file>.tmp` beside it, synced, and renamed over the file. Every change
/// reads the file first and touches one subscription, under a lock on `<file>.lock` that the
/// operating system holds: several stores on one file, in one process or several, keep each other's
/// subscriptions, and of the same one the last writer's. That lock is advisory, so editing the file
/// by hand is for when nobody runs, and it is as good as the file system's: keep the file on a local
/// disk. The folder must exist. A file that is damaged, or written by a newer version, is an error
/// that says so, and it is never overwritten.
///
/// ```
/// # use fabric_core::{Fabric, FileState, RememberedSubscription, Result};
/// # async fn example(fabric: Fabric) -> Result<()> {
/// let remembered = fabric.remembered(FileState::new("/var/lib/shop/subscriptions.json"));
/// let orders = remembered.subscribe(RememberedSubscription::new("orders", "orders.*")?).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct FileState {
    path: Arc<Path>,
    /// Keeps the changes of this store in the order in which they were asked for, also where their
    /// callers went away.
    turn: Arc<Mutex<()>>,
}

impl FileState {
    /// A store in the file at `path`, which comes into being with the first change.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: Arc::from(path.into()), turn: Arc::default() }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes the file's content, where `change` says that there is something to change.
    async fn change(
        &self,
        change: impl FnOnce(&mut Vec<RememberedSubscription>) -> bool + Send + 'static,
    ) -> Result<bool> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let path = Arc::clone(&self.path);
        run_blocking(move || {
            // It goes on where the caller is dropped, so the turn ends with it.
            let _turn = turn;
            // A link stays one: what it leads to is replaced.
            let path = fs::canonicalize(&path).unwrap_or_else(|_| path.to_path_buf());
            let lock = lock(&path).map_err(|error| refused(&path, "lock", error))?;
            let mut subscriptions = read(&path)?;
            let changed = change(&mut subscriptions);
            if changed {
                subscriptions.sort_by(|one, other| one.name.cmp(&other.name));
                write(&path, subscriptions).map_err(|error| refused(&path, "write", error))?;
            }
            drop(lock);
            Ok(changed)
        })
        .await
    }
}

impl StateStore for FileState {
    fn load(&self) -> BoxFuture<'_, Result<Vec<RememberedSubscription>>> {
        let path = Arc::clone(&self.path);
        Box::pin(run_blocking(move || read(&path)))
    }

    fn save<'a>(&'a self, subscription: &'a RememberedSubscription) -> BoxFuture<'a, Result<()>> {
        let wanted = subscription.clone();
        Box::pin(async {
            self.change(|all| match all.iter_mut().find(|known| known.name == wanted.name) {
                Some(known) if *known == wanted => false,
                Some(known) => {
                    *known = wanted;
                    true
                }
                None => {
                    all.push(wanted);
                    true
                }
            })
            .await
            .map(drop)
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        let name = name.to_owned();
        Box::pin(self.change(move |all| {
            let before = all.len();
            all.retain(|known| known.name != name);
            all.len() < before
        }))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    subscriptions: Vec<RememberedSubscription>,
}

/// What every version of the file has.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

async fn run_blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R> + Send + 'static,
) -> Result<R> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|ended| {
        Err(Error::new(ErrorKind::Closed, "the runtime ended before the file was read or written")
            .with_source(ended))
    })
}

fn read(path: &Path) -> Result<Vec<RememberedSubscription>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refused(path, "read", error)),
    };
    let refuse = |text: String| {
        Error::new(ErrorKind::Config, format!("the file `{}` {text}", path.display()))
    };
    let damaged = |what: &dyn std::fmt::Display| {
        refuse(format!(
            "is damaged: {what}; put a copy in its place, or move it away to begin with nothing \
             remembered"
        ))
    };
    let head: Head = serde_json::from_slice(&bytes).map_err(|error| damaged(&error))?;
    if head.format != FORMAT {
        return Err(refuse(format!(
            "has format {}, and this version knows {FORMAT}: use the version that wrote it or a \
             newer one, or name another file",
            head.format
        )));
    }
    let document: Document = serde_json::from_slice(&bytes).map_err(|error| damaged(&error))?;
    let mut names: Vec<_> = document.subscriptions.iter().map(|known| &known.name).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(damaged(&format_args!("`{}` is in it twice", twice[0])));
    }
    Ok(document.subscriptions)
}

/// The lock that all stores on this file share; dropping it ends it, and so does a crash.
fn lock(path: &Path) -> io::Result<File> {
    let lock =
        OpenOptions::new().write(true).create(true).truncate(false).open(beside(path, ".lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn write(path: &Path, subscriptions: Vec<RememberedSubscription>) -> io::Result<()> {
    let temporary = beside(path, ".tmp");
    let written = (|| {
        let document = Document { format: FORMAT, subscriptions };
        let mut bytes = serde_json::to_vec_pretty(&document)?;
        bytes.push(b'\n');
        // One may be left from a crash; whoever holds the lock is the only writer.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        if let Ok(known) = fs::metadata(path) {
            file.set_permissions(known.permissions())?;
        }
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // What failed is what matters.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    // The rename itself lasts once its folder is synced; elsewhere folders cannot be opened.
    #[cfg(unix)]
    File::open(folder(path))?.sync_all()?;
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(unix)]
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What the operating system refused, and what to do about it. To repeat it does no harm.
fn refused(path: &Path, verb: &str, error: io::Error) -> Error {
    let (kind, out) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::Config, "; make its folder"),
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::Config, "; the program needs the right to write there")
        }
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
            (ErrorKind::Config, "; name a file in a folder")
        }
        io::ErrorKind::Unsupported => {
            (ErrorKind::Config, "; the file system has no locks, so use a local disk")
        }
        _ => (ErrorKind::Backend, ""),
    };
    let text = format!("could not {verb} the file `{}`: {error}{out}", path.display());
    let described = Error::new(kind, text).with_source(error);
    if kind == ErrorKind::Backend { described.with_retry(RetryClass::Safe) } else { described }
}
