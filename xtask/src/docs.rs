//! `cargo xtask docs`: what README.md says about the code, taken from the code.

use std::fmt::Write as _;

use crate::backends;
use crate::cargo::{self, cargo};
use crate::error::{Error, Result};
use crate::manifest::Feature;
use crate::region;
use crate::workspace::{self, Workspace};

/// The example of `fabric` that prints the capability table.
const CAPABILITIES: &str = "capabilities";

pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<()> {
    let path = workspace.root.join("README.md");
    let old = workspace::read(&path)?;
    let capabilities = capability_table(workspace)?;
    let features = feature_table(&workspace.expect_member("fabric")?.features)?;
    let new = region::replace(&old, "capabilities", &capabilities)
        .and_then(|text| region::replace(&text, "features", &features))
        .map_err(|error| Error::new(format!("README.md: {error}")))?;
    match region::difference(&old, &new) {
        None => println!("README.md is up to date"),
        Some(difference) if check => {
            println!("{difference}");
            return Err(Error::new("README.md is out of date: run `cargo xtask docs`"));
        }
        Some(_) => {
            workspace::write(&path, &new)?;
            println!("README.md written");
        }
    }
    Ok(())
}

fn capability_table(workspace: &Workspace) -> Result<String> {
    let examples = workspace.expect_member("fabric")?.targets("examples")?;
    if !examples.iter().any(|name| name == CAPABILITIES) {
        return Err(Error::new(format!(
            "fabric/examples/{CAPABILITIES}.rs is missing: it prints the capability table"
        )));
    }
    // Brokers run until the table is there.
    let mut reached = Vec::new();
    for backend in backends::all(workspace) {
        reached.push((backend, backend.reach()?));
    }
    let names: Vec<&str> = reached.iter().map(|(backend, _)| backend.name).collect();
    let line =
        format!("run -q -p fabric --features {} --example {CAPABILITIES} --", names.join(","));
    let mut command = cargo(workspace, &line);
    for (backend, running) in &reached {
        match running {
            Some(running) => command.arg(&running.url),
            // The example brings along what such a backend needs.
            None => command.arg(format!("{}://", backend.name)),
        };
    }
    cargo::output(&mut command)
}

/// The features as a Markdown table; each needs a comment in the manifest.
fn feature_table(features: &[Feature]) -> Result<String> {
    let by_default = features.iter().find(|feature| feature.name == "default");
    let is_default = |name: &String| by_default.is_some_and(|it| it.enables.contains(name));
    let mut table = String::from("| feature | default | what it adds |\n|---|---|---|\n");
    for Feature { name, description, .. } in features.iter().filter(|it| it.name != "default") {
        if description.is_empty() {
            return Err(Error::new(format!(
                "the feature `{name}` in fabric/Cargo.toml has no comment right above it"
            )));
        }
        let default = if is_default(name) { "yes" } else { "" };
        // Writing to a `String` cannot fail.
        let _ = writeln!(table, "| `{name}` | {default} | {} |", description.replace('|', "\\|"));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    #[test]
    fn the_feature_table_says_what_each_adds() {
        let manifest = "[features]\ndefault = [\"memory\"]\n# In one process.\nmemory = []\n\
                        # JSON | codecs.\njson = []\n";
        assert_eq!(
            feature_table(&manifest::features(manifest)).unwrap(),
            "| feature | default | what it adds |\n|---|---|---|\n\
             | `memory` | yes | In one process. |\n| `json` |  | JSON \\| codecs. |\n"
        );
    }

    #[test]
    fn a_feature_without_a_comment_is_refused() {
        let error = feature_table(&manifest::features("[features]\njson = []\n")).unwrap_err();
        assert!(error.to_string().contains("`json`"), "{error}");
    }
}
