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
    if let Some(program) = on_path(name) {
        return Ok(program);
    }
    let hint = format!("`{name}` is not on the PATH: install the package `{package}`");
    if on_path("apt-get").is_none() || !rustix::process::geteuid().is_root() {
        return Err(Error::new(hint));
    }
    announce(&format!("installing the package `{package}`, since `{name}` is not on the PATH"));
    let quiet = ["-o", "Dpkg::Use-Pty=0", "-qq"];
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(quiet).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command)
    };
    apt(&["update"])?;
    apt(&["install", "-y", "--no-install-recommends", package])?;
    on_path(name).ok_or_else(|| Error::new(hint))
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
