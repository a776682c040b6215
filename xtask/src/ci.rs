//! `cargo xtask ci`: every check that is not a test.

mod features;
mod tls;
mod tree;
mod versions;
mod without_c;

use std::process::Stdio;

use crate::backends;
use crate::cargo::{self, cargo};
use crate::docs;
use crate::error::Result;
use crate::steps::Steps;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    backends::make_buildable(backends::all(workspace))?;
    let mut steps = Steps::new();
    let run = |line: &str| cargo::run(&mut cargo(workspace, line));
    steps.run("formatting", || run("fmt --all --check"));
    steps.run("lints", || run("clippy --workspace --all-targets --all-features -- -D warnings"));
    steps.run("each feature alone", || features::check(workspace));
    steps.run("documentation", || {
        let line = "doc --workspace --exclude xtask --lib --all-features --no-deps";
        cargo::run(cargo(workspace, line).env("RUSTDOCFLAGS", "-D warnings"))
    });
    steps.run("generated parts of README.md", || docs::run(workspace, true));
    steps.run("one TLS provider", || tls::check(workspace));
    steps.run("one version of each dependency", || versions::check(workspace));
    steps.run("memory alone needs no C", || without_c::check(workspace));
    if has_cargo_deny(workspace) {
        steps.run("licences and sources", || run("deny check licenses bans sources"));
    } else {
        steps.not_run("licences and sources", "cargo-deny is not installed");
    }
    steps.finish()
}

fn has_cargo_deny(workspace: &Workspace) -> bool {
    let mut command = cargo(workspace, "deny --version");
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
