//! Finding programs, and installing what is missing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::{Error, Result};

/// The program `name` on the PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The program `name`, from one of Debian's packages where the PATH has none and we may install it.
pub(crate) fn from_debian(name: &str, package: &str) -> Result<PathBuf> {
    package_with(|| on_path(name), &format!("`{name}` is not on the PATH"), package)
}

/// What a build needs of the system.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum BuildNeed {
    /// A program on the PATH, and Debian's package that has it.
    Program(&'static str, &'static str),
    /// A library that `pkg-config` knows, and Debian's package that has it with its headers.
    Library(&'static str, &'static str),
}

impl BuildNeed {
    /// Installs it from Debian's package where it is missing.
    ///
    /// # Errors
    /// If it is missing and cannot be installed from here; with the name of the package.
    pub fn meet(self) -> Result<()> {
        match self {
            Self::Program(name, package) => from_debian(name, package).map(|_| ()),
            Self::Library(name, package) => {
                from_debian("pkg-config", "pkg-config")?;
                let known = || run(Command::new("pkg-config").args(["--exists", name])).ok();
                let missing = format!("`pkg-config` knows no `{name}`");
                package_with(known, &missing, package).map(|_| ())
            }
        }
    }
}

/// What `look` finds, once Debian's `package` is there.
fn package_with<T>(look: impl Fn() -> Option<T>, missing: &str, package: &str) -> Result<T> {
    if let Some(found) = look() {
        return Ok(found);
    }
    let hint = format!("{missing}: install the package `{package}`");
    if on_path("apt-get").is_none() || !rustix::process::geteuid().is_root() {
        return Err(Error::new(hint));
    }
    announce(&format!("installing the package `{package}`, since {missing}"));
    let quiet = ["-o", "Dpkg::Use-Pty=0", "-qq"];
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(quiet).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    apt(&["update"])?;
    apt(&["install", "-y", "--no-install-recommends", package])?;
    look().ok_or_else(|| Error::new(hint))
}

/// Runs to the end; what it printed is in the error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::new(format!("cannot start {name}: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!(
        "`{name} {}` failed, {}:\n{text}{complaint}",
        args.join(" "),
        output.status
    )))
}

/// Says what takes long or changes the machine.
pub(crate) fn announce(what: &str) {
    eprintln!("brokers: {what}");
}

/// The files below `folder` that `wants` says yes to.
pub(crate) fn find(folder: &Path, wants: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(find(&path, wants));
        } else if wants(&path) {
            found.push(path);
        }
    }
    found
}
