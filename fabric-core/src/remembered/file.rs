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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::FutureExt as _;

    use super::*;
    use crate::position::Start;

    /// A folder of one test's own, gone afterwards.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("file-state-{}-{n}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("state.json")
        }

        fn store(&self) -> FileState {
            FileState::new(self.file())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn named(name: impl Into<String>) -> RememberedSubscription {
        RememberedSubscription::new(name, "a.*").unwrap()
    }

    async fn names(store: &FileState) -> Vec<String> {
        store.load().await.unwrap().into_iter().map(|known| known.name).collect()
    }

    #[tokio::test]
    async fn everything_survives_the_file() {
        let folder = Folder::new();
        assert!(folder.store().load().await.unwrap().is_empty());
        let cursor = ["a.b@1f:7", "a.c/3@2:340282366920938463463374607431768211455"];
        let plain = named("plain \"x\" é")
            .with_start(Start::At("a.b@1:2".parse().unwrap()))
            .with_prefetch(3)
            .with_when_full(crate::WhenFull::DropOldest)
            .with_cursor(cursor.into_iter().map(|place| place.parse().unwrap()).collect());
        let group = named("group")
            .with_live_group(crate::Group::new("g").unwrap())
            .with_ack_wait(std::time::Duration::from_millis(1500))
            .with_ack_mode(crate::AckMode::Confirmed)
            .with_max_deliver(9);
        let empty = named("empty").with_cursor(crate::Cursor::new());
        for one in [&plain, &group, &empty] {
            folder.store().save(one).await.unwrap();
        }
        assert_eq!(folder.store().load().await.unwrap(), [empty, group, plain]);
        assert!(folder.store().remove("group").await.unwrap());
        assert!(!folder.store().remove("group").await.unwrap());
        assert_eq!(names(&folder.store()).await, ["empty", "plain \"x\" é"]);
    }

    #[tokio::test]
    async fn what_a_crash_left_beside_the_file_is_no_part_of_it() {
        let folder = Folder::new();
        folder.store().save(&named("one")).await.unwrap();
        let temporary = beside(&folder.file(), ".tmp");
        fs::write(&temporary, r#"{"format": 1, "subscri"#).unwrap();
        assert_eq!(names(&folder.store()).await, ["one"]);
        folder.store().save(&named("two")).await.unwrap();
        assert_eq!(names(&folder.store()).await, ["one", "two"]);
        assert!(!temporary.exists());
    }

    #[tokio::test]
    async fn a_damaged_or_newer_file_is_named_and_never_overwritten() {
        let folder = Folder::new();
        let store = folder.store();
        store.save(&named("one")).await.unwrap();
        store.save(&named("two")).await.unwrap();
        let whole = fs::read_to_string(folder.file()).unwrap();
        let path = folder.file().display().to_string();
        let newer = r#"{"format": 2, "entries": {}}"#.to_owned();
        let mut bad = vec![
            (newer, "format 2"),
            (whole.replace("\"two\"", "\"one\""), "twice"),
            (whole.replace("\"a.*\"", "\"a.>.b\""), "line 7 column"),
            (whole.replace("\"ack_mode\"", "\"ack_mood\""), "ack_mood"),
            (String::new(), "line 1 column 0"),
            ("[]".to_owned(), "damaged"),
        ];
        // Every place at which a write without rename could have stopped.
        bad.extend((1..whole.trim_end().len()).map(|n| (whole[..n].to_owned(), "column")));
        for (text, said) in bad {
            fs::write(folder.file(), &text).unwrap();
            let errors = [
                store.load().await.unwrap_err(),
                store.save(&named("three")).await.unwrap_err(),
                store.remove("one").await.unwrap_err(),
            ];
            for error in errors {
                let shown = error.to_string();
                assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
                assert!(shown.contains(&path) && shown.contains(said), "{shown} of {text}");
            }
            assert_eq!(fs::read_to_string(folder.file()).unwrap(), text);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stores_on_one_file_keep_each_others_subscriptions() {
        let folder = Folder::new();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let store = folder.store();
            writers.spawn(async move {
                for n in 0..10 {
                    store.save(&named(format!("{writer}-{n}"))).await.unwrap();
                    if n % 2 == 1 {
                        assert!(store.remove(&format!("{writer}-{n}")).await.unwrap());
                    }
                    // A reader never meets half a file.
                    store.load().await.unwrap();
                }
            });
        }
        writers.join_all().await;
        let mut expected: Vec<_> =
            (0..4).flat_map(|writer| (0..5).map(move |n| format!("{writer}-{}", n * 2))).collect();
        expected.sort();
        assert_eq!(names(&folder.store()).await, expected);
    }

    #[tokio::test]
    async fn a_save_whose_caller_went_away_does_not_overtake_a_later_one() {
        let folder = Folder::new();
        let store = folder.store();
        for n in 1..50_usize {
            {
                let old = named("one").with_prefetch(n);
                // Polled once and dropped.
                assert!(store.save(&old).now_or_never().is_none());
            }
            let new = named("one").with_prefetch(n + 1000);
            store.save(&new).await.unwrap();
            assert_eq!(store.load().await.unwrap(), [new]);
        }
    }

    #[tokio::test]
    async fn a_missing_folder_is_named_with_the_way_out() {
        let folder = Folder::new();
        let path = folder.0.join("nowhere").join("state.json");
        let store = FileState::new(&path);
        assert!(store.load().await.unwrap().is_empty());
        let error = store.save(&named("one")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let shown = error.to_string();
        assert!(shown.contains(&path.display().to_string()) && shown.contains("make its folder"));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_link_stays_a_link_and_rights_stay() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};

        let folder = Folder::new();
        folder.store().save(&named("one")).await.unwrap();
        fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.0.join("link.json");
        symlink(folder.file(), &link).unwrap();
        FileState::new(&link).save(&named("two")).await.unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(&folder.store()).await, ["one", "two"]);
        assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
