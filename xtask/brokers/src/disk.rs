//! A small disk that can be filled.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::install::on_path;
use crate::{Error, Folder, Launch, Process, Ready, Result};

/// A file system of a few megabytes in memory, seen only by programs that are started on it.
///
/// It is mounted in a name space of its own, which ends with its last process: whatever happens,
/// nothing stays mounted. That needs Linux and the right to mount, which root has.
#[derive(Debug)]
pub struct Disk {
    /// Holds the name space as long as it runs; its folder is where the disk is mounted.
    keeper: Process,
    path: PathBuf,
}

impl Disk {
    /// One of so many megabytes.
    ///
    /// # Errors
    /// If this user may not mount one, or this is no Linux.
    pub fn new(megabytes: u32) -> Result<Self> {
        for program in ["unshare", "nsenter", "mount"] {
            on_path(program).ok_or_else(|| {
                Error::new(format!("a small disk needs the program `{program}` of util-linux"))
            })?;
        }
        let folder = Folder::new("disk")?;
        let path = folder.path().join("disk");
        fs::create_dir(&path)
            .map_err(|error| Error::new(format!("cannot make {}: {error}", path.display())))?;
        let script =
            "mount -t tmpfs -o size=\"$1\"m tmpfs \"$2\" && echo mounted && exec sleep infinity";
        let launch = Launch::new("unshare", Ready::Says("mounted"))
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(megabytes.to_string())
            .arg(&path);
        let keeper = Process::new(launch, folder).map_err(|error| {
            Error::new(format!("a small disk needs the right to mount (root): {error}"))
        })?;
        Ok(Self { keeper, path })
    }

    /// Where it is for programs that are started on it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What starts a program on it: for [`Launch::through`].
    #[must_use]
    pub fn prefix(&self) -> Vec<String> {
        let keeper = self.keeper.id().unwrap_or_default();
        ["nsenter", "--mount", "--target"]
            .map(str::to_owned)
            .into_iter()
            .chain([keeper.to_string(), "--".to_owned()])
            .collect()
    }

    /// Leaves no room on it.
    ///
    /// # Errors
    /// If it cannot be written to at all.
    pub fn fill(&self) -> Result<()> {
        let path = self.seen_from_here().join("filler");
        let failed = |error| Error::new(format!("cannot fill {}: {error}", path.display()));
        let mut file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        // Smaller and smaller pieces, until not a byte more fits.
        for size in [1 << 16, 1 << 10, 1] {
            loop {
                match file.write_all(&vec![0; size]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(())
    }

    /// Makes the room again.
    ///
    /// # Errors
    /// If what filled it cannot be removed.
    pub fn free(&self) -> Result<()> {
        let path = self.seen_from_here().join("filler");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::new(format!("cannot remove {}: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Removes everything that is on it.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn empty(&self) -> Result<()> {
        let here = self.seen_from_here();
        let failed = |error| Error::new(format!("cannot empty {}: {error}", here.display()));
        for entry in fs::read_dir(&here).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(failed)?;
        }
        Ok(())
    }

    /// Where it is for us, who are not on it.
    fn seen_from_here(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.keeper.id().unwrap_or_default());
        let path = self.path.strip_prefix("/").unwrap_or(&self.path);
        Path::new(&root).join(path)
    }
}
