//! Each feature of each library compiles alone, with no dev-dependency to help it.

use crate::cargo::{self, cargo};
use crate::error::{Error, Result};
use crate::workspace::Workspace;

pub(super) fn check(workspace: &Workspace) -> Result<()> {
    let mut failed = Vec::new();
    for member in workspace.members.iter().filter(|member| !member.features.is_empty()) {
        let named = member.features.iter().map(|feature| feature.name.as_str());
        for feature in [""].into_iter().chain(named) {
            let name = &member.name;
            let line = format!(
                "clippy -q -p {name} --lib --no-deps --no-default-features --features={feature} \
                 -- -D warnings"
            );
            if cargo::run(&mut cargo(workspace, &line)).is_err() {
                failed.push(format!("{name} with features [{feature}]"));
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::new(failed.join(", "))) }
}
