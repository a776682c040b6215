//! One TLS provider in the whole tree: with two, rustls panics when it has to choose.

use std::collections::BTreeSet;

use super::tree::{self, Node};
use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// The provider that the workspace has chosen.
const CHOSEN: &str = "ring";

const OTHERS: &[&str] = &[
    "aws-lc-fips-sys",
    "aws-lc-rs",
    "aws-lc-sys",
    "boring",
    "boring-sys",
    "native-tls",
    "openssl",
    "openssl-sys",
];

/// librdkafka brings its own TLS, which never meets rustls.
const EXEMPT: &[&str] = &["rdkafka", "rdkafka-sys"];

pub(super) fn check(workspace: &Workspace) -> Result<()> {
    let wrong = violations(&tree::ask(workspace, "--workspace --all-features")?);
    if wrong.is_empty() { Ok(()) } else { Err(Error::new(wrong.join("\n"))) }
}

fn violations(nodes: &[Node]) -> Vec<String> {
    let exempt = |node: &Node| node.parents.iter().any(|name| EXEMPT.contains(&name.as_str()));
    let mut wrong: Vec<String> = nodes
        .iter()
        .filter(|node| OTHERS.contains(&node.name.as_str()) && !exempt(node))
        .map(|node| format!("only {CHOSEN} may be in the tree: {node}"))
        .collect();
    let chosen = nodes.iter().filter(|node| node.name == CHOSEN);
    let versions: BTreeSet<&str> = chosen.map(|node| node.version.as_str()).collect();
    if versions.len() > 1 {
        wrong.push(format!("more than one version of {CHOSEN}: {versions:?}"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_and_what_librdkafka_brings_are_fine() {
        let nodes = tree::sample(
            "0 fabric v0.1.0\n1 rustls v0.23.1\n2 ring v0.17.1\n1 other v1.0.0\n2 ring v0.17.1\n\
             1 rdkafka v0.38.0\n2 rdkafka-sys v4.9.0\n3 openssl-sys v0.9.1\n",
        );
        assert_eq!(violations(&nodes), [""; 0]);
    }

    #[test]
    fn another_provider_is_shown_with_its_path() {
        let nodes = tree::sample(
            "0 fabric v0.1.0\n1 rdkafka v0.38.0\n1 lapin v4.0.0\n2 aws-lc-rs v1.2.3\n\
             1 a v1.0.0\n2 ring v0.16.0\n1 b v1.0.0\n2 ring v0.17.0\n",
        );
        let wrong = violations(&nodes);
        assert_eq!(wrong.len(), 2);
        assert!(wrong[0].ends_with("fabric > lapin > aws-lc-rs 1.2.3"), "{wrong:?}");
        assert!(wrong[1].contains("0.16.0"), "{wrong:?}");
    }
}
