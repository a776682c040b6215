//! The examples of `fabric`: every one is run, so none can rot.

use std::time::Duration;

use crate::backends::{self, Backend};
use crate::cargo::{self, cargo};
use crate::error::{Error, Result};
use crate::steps::Steps;
use crate::workspace::Workspace;

/// What an example is given on its command line. Those not listed are given nothing.
const ARGUMENTS: &[(&str, &str)] = &[];

/// What has to run unchanged on every broker.
const ON_BROKERS: &[&str] = &[
    "quickstart",
    "consumer",
    "consumer_group",
    "dead_letter",
    "fan_out",
    "graceful_shutdown",
    "idempotent",
    "pub_sub",
    "retry",
    "saga",
];

/// What has to run unchanged where events are live: no groups, no history, no prefix.
const ON_LIVE: &[&str] = &["quickstart", "pub_sub", "request_reply"];

/// Far more than any example needs; one that hangs must not hang us.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs every example in `fabric/examples` on the backends that need no broker.
pub(crate) fn run_all(workspace: &Workspace, features: &str, steps: &mut Steps) -> Result<()> {
    let names = workspace.expect_member("fabric")?.targets("examples")?;
    if let Some((stale, _)) = ARGUMENTS.iter().find(|(name, _)| !names.iter().any(|n| n == name)) {
        return Err(Error::new(format!("arguments are listed for `{stale}`, which is no example")));
    }
    if names.is_empty() {
        steps.not_run("examples", "fabric/examples has none");
        return Ok(());
    }
    let built = steps.run("build the examples", || {
        cargo::run(&mut cargo(workspace, &format!("build -p fabric {features} --examples")))
    });
    if !built {
        return Ok(());
    }
    for name in names {
        let listed = ARGUMENTS.iter().find(|(listed, _)| *listed == name);
        let args = listed.map_or("", |(_, args)| args);
        steps.run(&format!("example {name}"), || run_one(workspace, features, &name, args));
    }
    Ok(())
}

/// Runs the quickstart and the examples of consumers against one backend, each below a prefix of its
/// own, so that none finds what another left; the quickstart alone unless `whole`.
pub(crate) fn run_on(
    workspace: &Workspace,
    backend: &Backend,
    url: &str,
    whole: bool,
    steps: &mut Steps,
) -> Result<()> {
    let fabric = workspace.expect_member("fabric")?;
    let names = fabric.targets("examples")?;
    let mut listed = ON_BROKERS.iter().chain(ON_LIVE);
    if let Some(stale) = listed.find(|name| !names.iter().any(|n| n == *name)) {
        return Err(Error::new(format!("`{stale}` is to run on brokers and is no example")));
    }
    let own = backends::features_without_needs(&fabric.features).join(",");
    let features = format!("--features {own},{}", backend.name);
    let chosen = match (backend.is_live(), whole) {
        (true, _) => ON_LIVE,
        (false, true) => ON_BROKERS,
        (false, false) => &ON_BROKERS[..1],
    };
    for name in chosen {
        let separator = if url.contains('?') { '&' } else { '?' };
        let prefix = format!("{separator}prefix=example-{}", name.replace('_', "-"));
        let url = if backend.is_live() { url.to_owned() } else { format!("{url}{prefix}") };
        steps.run(&format!("example {name} on {}", backend.name), || {
            run_one(workspace, &features, name, &url)
        });
    }
    Ok(())
}

fn run_one(workspace: &Workspace, features: &str, name: &str, args: &str) -> Result<()> {
    let line = format!("run -q -p fabric {features} --example {name} -- {args}");
    cargo::run_within(&mut cargo(workspace, &line), LIMIT)
}
