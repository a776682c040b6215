//! `cargo xtask test`.

use crate::backends::{self, Backend, Running};
use crate::cargo::{self, cargo};
use crate::error::{Error, Result};
use crate::examples;
use crate::steps::Steps;
use crate::workspace::Workspace;

/// The test binary of `fabric-memory` that prints the table of seeded bugs: it runs apart
/// from the others, with its output shown.
const SEEDED_BUGS: &str = "seeded_bugs";

/// The test binary of `fabric-brokers` that starts real brokers.
const SERVERS: &str = "servers";

/// The test binary of `fabric` that runs the program as an operator would: with its backend.
const BROKER_ZMQ: &str = "broker_zmq";

pub(crate) fn run(workspace: &Workspace, given: &[&'static Backend]) -> Result<()> {
    let everything = given.is_empty();
    let chosen =
        if everything { backends::all(workspace) } else { backends::choose(workspace, given)? };
    backends::make_buildable(chosen.iter().copied())?;
    // All brokers before the first test: one that is missing should not show after ten minutes. They
    // end with this program, however it ends.
    let mut reached = Vec::new();
    for backend in chosen {
        reached.push((backend, backend.reach()?));
    }
    let mut steps = Steps::new();
    for (backend, running) in &reached {
        if backend.is_local() {
            all_without_broker(workspace, &mut steps)?;
        } else {
            let left_out = if everything { backend.unsettled() } else { Vec::new() };
            one_with_broker(workspace, backend, running.as_ref(), &left_out, &mut steps)?;
        }
    }
    if everything && reached.iter().any(|(backend, _)| backend.has_broker()) {
        steps.run("tests of the brokers for tests", || {
            let line = format!("test -p fabric-brokers --all-features --test {SERVERS}");
            cargo::run(&mut cargo(workspace, &line))
        });
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

fn one_with_broker(
    workspace: &Workspace,
    backend: &Backend,
    running: Option<&Running>,
    left_out: &[&str],
    steps: &mut Steps,
) -> Result<()> {
    let package = backend.package();
    let targets = if left_out.is_empty() {
        String::new()
    } else {
        let name = backend.name;
        let why = format!("it does not hold as a whole yet; `cargo xtask test {name}` runs it");
        steps.not_run(&format!("tests of {name}: {}", left_out.join(", ")), &why);
        let mut tests = workspace.expect_member(&package)?.targets("tests")?;
        tests.retain(|test| !left_out.contains(&test.as_str()));
        let named: String = tests.iter().map(|test| format!(" --test {test}")).collect();
        format!(" --lib{named}")
    };
    steps.run(&format!("tests of {package}"), || {
        let line = format!("test -p {package} --all-features --no-fail-fast{targets}");
        let mut command = cargo(workspace, &line);
        if let Some(running) = running {
            command.env(backend.variable(), &running.url);
        }
        cargo::run(&mut command)
    });
    if backend.name == "zmq" {
        more_of_zmq(workspace, steps);
    }
    match running {
        Some(running) => {
            examples::run_on(workspace, backend, &running.url, left_out.is_empty(), steps)
        }
        None => {
            let variable = backend.variable();
            let why = format!("no broker is running; {variable} names one that is");
            steps.not_run(&format!("examples on {}", backend.name), &why);
            Ok(())
        }
    }
}

/// The program, and keys, which the libzmq that comes with the binding cannot use: the system's can.
fn more_of_zmq(workspace: &Workspace, steps: &mut Steps) {
    steps.run("the program `fabric` as the broker of zmq", || {
        let line = format!("test -p fabric --features cli,zmq --bin fabric --test {BROKER_ZMQ}");
        cargo::run(&mut cargo(workspace, &line))
    });
    steps.run("keys of CURVE, over the system's libzmq", || {
        let need = fabric_brokers::BuildNeed::Library("libzmq", "libzmq3-dev");
        need.meet().map_err(|error| Error::new(error.to_string()))?;
        let host = cargo::host()?;
        // A folder of its own, else either build would undo the other.
        let mut command = cargo(workspace, "test -p fabric-zmq --test curve");
        command.arg("--config").arg(format!("target.{host}.zmq.rustc-link-lib=['zmq']"));
        command.arg("--target-dir").arg(workspace.root.join("target/with-system-libzmq"));
        cargo::run(command.env("FABRIC_TEST_ZMQ_CURVE", "1"))
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
    names.retain(|name| ![SEEDED_BUGS, SERVERS, BROKER_ZMQ].contains(&name.as_str()));
    names.sort();
    names.dedup();
    Ok(names)
}
