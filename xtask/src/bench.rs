//! `cargo xtask bench`.

use std::fs;
use std::path::Path;

use crate::args::BenchOptions;
use crate::backends::{self, Backend};
use crate::cargo::{self, cargo};
use crate::error::{Error, Result};
use crate::json;
use crate::steps::Steps;
use crate::workspace::{self, Workspace};

/// The crates whose benches are micro-benchmarks.
const MICRO: &[&str] = &["fabric-core", "fabric-memory"];

pub(crate) fn run(workspace: &Workspace, options: &BenchOptions) -> Result<()> {
    if options.micro {
        return micro(workspace, options.quick);
    }
    let memory = [backends::find("memory")?];
    let given = if options.backends.is_empty() { &memory[..] } else { &options.backends };
    let chosen = backends::choose(workspace, given)?;
    backends::make_buildable(chosen.iter().copied())?;
    let benches = workspace.expect_member("fabric")?.targets("benches")?;
    if let Some(missing) = chosen.iter().find(|it| !benches.iter().any(|name| name == it.name)) {
        return Err(Error::new(format!("fabric/benches/{}.rs is missing", missing.name)));
    }
    let mut steps = Steps::new();
    let mut records = Vec::new();
    let wanted = options.json.is_some();
    for backend in chosen {
        steps.run(&format!("bench {}", backend.name), || {
            records.extend(one(workspace, backend, options.quick, wanted)?);
            Ok(())
        });
    }
    if let Some(file) = &options.json {
        steps.run("write the records", || save(file, &records));
    }
    steps.finish()
}

/// Runs the bench of one backend; returns its records if they are wanted.
fn one(
    workspace: &Workspace,
    backend: &Backend,
    quick: bool,
    wanted: bool,
) -> Result<Option<String>> {
    let name = backend.name;
    let mut command = cargo(
        workspace,
        &format!("bench -p fabric --features {name},metrics,tracing --bench {name} --"),
    );
    if quick {
        command.arg("--quick");
    }
    if !wanted {
        return cargo::run(&mut command).map(|()| None);
    }
    let file = workspace.target_dir().join(format!("bench-{name}.json"));
    // What an earlier run left must not pass for this one's.
    if file.exists() {
        let failed = |error| Error::new(format!("cannot remove {}: {error}", file.display()));
        fs::remove_file(&file).map_err(failed)?;
    }
    cargo::run(command.arg("--json").arg(&file))?;
    workspace::read(&file).map(Some)
}

fn save(file: &Path, records: &[String]) -> Result<()> {
    workspace::write(file, &json::concat_arrays(records)?)?;
    println!("written to {}", file.display());
    Ok(())
}

fn micro(workspace: &Workspace, quick: bool) -> Result<()> {
    let mut steps = Steps::new();
    for name in MICRO {
        let benches = workspace.expect_member(name)?.targets("benches")?;
        if benches.is_empty() {
            steps.not_run(name, "it has no benches");
            continue;
        }
        let named: String = benches.iter().map(|bench| format!(" --bench {bench}")).collect();
        let quick = if quick { " -- --quick" } else { "" };
        let line = format!("bench -p {name} --all-features{named}{quick}");
        steps.run(&format!("micro-benchmarks of {name}"), || {
            cargo::run(&mut cargo(workspace, &line))
        });
    }
    steps.finish()
}
