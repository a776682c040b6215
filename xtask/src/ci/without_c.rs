//! With `memory` alone, `fabric` builds on a machine that has no C compiler.

use super::tree::{self, Node};
use crate::cargo::{self, cargo};
use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// What compiles C, or reads its headers, during a build.
const BUILDERS: &[&str] = &["bindgen", "cc", "cmake"];

const SELECT: &str = "-p fabric --no-default-features --features memory";

pub(super) fn check(workspace: &Workspace) -> Result<()> {
    let found = builders(&tree::ask(workspace, &format!("{SELECT} -e normal,build"))?);
    if !found.is_empty() {
        return Err(Error::new(found.join("\n")));
    }
    // A folder of its own: what was built elsewhere with a compiler proves nothing.
    let mut command = cargo(workspace, &format!("build -q {SELECT} --lib"));
    command.env("CC", "/bin/false").env("CXX", "/bin/false");
    cargo::run(command.arg("--target-dir").arg(workspace.target_dir().join("without-c")))
}

fn builders(nodes: &[Node]) -> Vec<String> {
    let found = nodes.iter().filter(|node| BUILDERS.contains(&node.name.as_str()));
    found.map(Node::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compiles_c_is_found_with_its_path() {
        let nodes = tree::sample("0 fabric v0.1.0\n1 ring v0.17.0\n2 cc v1.2.0\n1 ccx v1.0.0\n");
        assert_eq!(builders(&nodes), ["fabric > ring > cc 1.2.0"]);
    }
}
