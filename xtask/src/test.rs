//! `cargo xtask test`.

use crate::backends::{self, Backend};
use crate::cargo::{self, cargo};
use crate::error::{Error, Result};
use crate::examples;
use crate::steps::Steps;
use crate::workspace::Workspace;

/// The test binary of `fabric-memory` that prints the table of seeded bugs: it runs apart
/// from the others, with its output shown.
const SEEDED_BUGS: &str = "seeded_bugs";

pub(crate) fn run(workspace: &Workspace, given: &[&'static Backend]) -> Result<()> {
    let chosen = backends::choose(workspace, given)?;
    // All URLs before the first test: a missing broker should not show after ten minutes.
    let urls = chosen.iter().map(|backend| backend.url()).collect::<Result<Vec<_>>>()?;
    let mut steps = Steps::new();
    for (backend, url) in chosen.into_iter().zip(urls) {
        if backend.is_local() {
            all_without_broker(workspace, &mut steps)?;
        } else {
            one_with_broker(workspace, backend, &url, &mut steps);
        }
    }
    steps.finish()
}

/// Always the same packages and features, so that nothing is built twice.
fn all_without_broker(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    let left_out = backends::packages_with_needs(workspace);
    let exclude: String = left_out.iter().map(|name| format!(" --exclude {name}")).collect();
    let select = format!("test --workspace{exclude} {} --no-fail-fast", features(workspace));

    let tests = test_targets(workspace, &left_out)?;
    let named: String = tests.iter().map(|name| format!(" --test {name}")).collect();
    steps.run("unit, property and conformance tests", || {
        cargo::run(&mut cargo(workspace, &format!("{select} --lib --bins{named}")))
    });
    steps.run("documentation tests", || {
        cargo::run(&mut cargo(workspace, &format!("{select} --doc")))
    });
    let memory = workspace.expect_member("fabric-memory")?.targets("tests")?;
    steps.run("seeded bugs", || {
        if !memory.iter().any(|name| name == SEEDED_BUGS) {
            return Err(Error::new(format!("fabric-memory/tests/{SEEDED_BUGS}.rs is missing")));
        }
        cargo::run(&mut cargo(workspace, &format!("{select} --test {SEEDED_BUGS} -- --nocapture")))
    });
    let fabric = workspace.expect_member("fabric")?;
    let own = backends::features_without_needs(&fabric.features).join(",");
    examples::run_all(workspace, &format!("--features {own}"), steps)
}

fn one_with_broker(workspace: &Workspace, backend: &Backend, url: &str, steps: &mut Steps) {
    let package = backend.package();
    steps.run(&format!("tests of {package}"), || {
        let line = format!("test -p {package} --all-features --no-fail-fast");
        cargo::run(&mut cargo(workspace, &line))
    });
    steps.run(&format!("quickstart on {}", backend.name), || {
        examples::run_quickstart(workspace, backend, url)
    });
}

/// Every feature of every crate, save those that bring in a broker's client.
fn features(workspace: &Workspace) -> String {
    let mut all = Vec::new();
    for member in &workspace.members {
        for feature in backends::features_without_needs(&member.features) {
            all.push(format!("{}/{feature}", member.name));
        }
    }
    format!("--features {}", all.join(","))
}

/// The test binaries by name, as cargo has no way to say "all but one".
fn test_targets(workspace: &Workspace, left_out: &[String]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for member in workspace.members.iter().filter(|member| !left_out.contains(&member.name)) {
        names.extend(member.targets("tests")?);
    }
    names.retain(|name| name != SEEDED_BUGS);
    names.sort();
    names.dedup();
    Ok(names)
}
