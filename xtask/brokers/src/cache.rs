//! Where programs are installed: one folder for all processes that use this checkout.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::{env, process};

use crate::{Error, Result};

/// The folder `brokers` in cargo's target directory.
pub(crate) fn folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    // A relative one is below the workspace, wherever the test runs.
    workspace.unwrap_or_else(|| Path::new("")).join(target).join("brokers")
}

/// The folder `name` in the cache, filled by `fill` unless it is there: by one process at a time, and
/// whole or not at all.
pub(crate) fn filled(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let (cache, path) = (folder(), folder().join(name));
    if path.exists() {
        return Ok(path);
    }
    let failed = |error| Error::new(format!("cannot write to {}: {error}", cache.display()));
    fs::create_dir_all(&cache).map_err(failed)?;
    let lock = File::create(cache.join("lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;
    if path.exists() {
        return Ok(path);
    }
    let draft = cache.join(format!("{name}.{}", process::id()));
    let _ = fs::remove_dir_all(&draft);
    fs::create_dir_all(&draft).map_err(failed)?;
    let done = fill(&draft).and_then(|()| fs::rename(&draft, &path).map_err(failed));
    let _ = fs::remove_dir_all(&draft);
    done.map(|()| path)
}
