//! What `cargo tree` prints, as data.

use std::fmt;

use crate::cargo::{self, cargo};
use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// A package in the tree, with the packages that lead to it, the root first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) parents: Vec<String>,
}

/// Asks cargo for a tree. Nothing is left out as seen before: the same package may be right
/// in one place and wrong in another.
pub(super) fn ask(workspace: &Workspace, args: &str) -> Result<Vec<Node>> {
    let mut command = cargo(workspace, &format!("tree {args} --no-dedupe --prefix depth"));
    parse(&cargo::output(command.args(["--format", " {p}"]))?)
}

/// Lines of the form `2 name v1.2.3 (…)`, the number being the depth.
fn parse(text: &str) -> Result<Vec<Node>> {
    let mut path: Vec<String> = Vec::new();
    let mut nodes = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let strange = || Error::new(format!("cargo tree printed what is not understood: {line}"));
        let mut words = line.split_whitespace();
        let depth = words.next().and_then(|word| word.parse().ok()).ok_or_else(strange)?;
        let name = words.next().ok_or_else(strange)?.to_owned();
        let version = words.next().and_then(|word| word.strip_prefix('v')).ok_or_else(strange)?;
        path.truncate(depth);
        nodes.push(Node { name: name.clone(), version: version.to_owned(), parents: path.clone() });
        path.push(name);
    }
    Ok(nodes)
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for parent in &self.parents {
            write!(f, "{parent} > ")?;
        }
        write!(f, "{} {}", self.name, self.version)
    }
}

/// Nodes from the text of a tree, for the tests of what reads them.
#[cfg(test)]
pub(super) fn sample(text: &str) -> Vec<Node> {
    parse(text).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_becomes_the_path() {
        let nodes = sample(
            "0 fabric v0.1.0 (/somewhere/fabric)\n\
             1 serde v1.0.1\n\
             2 serde_derive v1.0.1 (proc-macro)\n\
             1 tokio v1.50.0\n\
             \n\
             0 xtask v0.1.0\n",
        );
        let shown: Vec<String> = nodes.iter().map(Node::to_string).collect();
        assert_eq!(
            shown,
            [
                "fabric 0.1.0",
                "fabric > serde 1.0.1",
                "fabric > serde > serde_derive 1.0.1",
                "fabric > tokio 1.50.0",
                "xtask 0.1.0"
            ]
        );
    }

    #[test]
    fn other_text_is_refused() {
        assert!(parse("fabric v0.1.0").is_err());
        assert!(parse("0 fabric").is_err());
        assert!(parse("[dev-dependencies]").is_err());
    }
}
