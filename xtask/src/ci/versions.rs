//! No dependency of `fabric` is there in two incompatible versions, save those listed here.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{self, Node};
use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// The dependencies allowed twice, each with the reason.
const ALLOWED: &[(&str, &str)] = &[
    ("bitflags", "zmq, the binding of libzmq, still has 1 for the events of its poll"),
    ("cpufeatures", NATS),
    ("getrandom", NATS),
    ("rand", NATS),
    ("rand_core", NATS),
    ("syn", "no program contains it: serde_derive is built with 3, other macros still with 2"),
];

const NATS: &str = "async-nats has rand 0.10, and nkeys and nuid, which it needs, have 0.8";

pub(super) fn check(workspace: &Workspace) -> Result<()> {
    let nodes = tree::ask(workspace, "-p fabric --all-features -e normal")?;
    let mut wrong = Vec::new();
    for (name, versions) in duplicates(&nodes) {
        match ALLOWED.iter().find(|(allowed, _)| *allowed == name) {
            Some((_, reason)) => println!("{name} {versions:?}: allowed, {reason}"),
            None => wrong.push(format!("{name} in incompatible versions {versions:?}")),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::new(wrong.join("\n"))) }
}

/// The packages of which there are versions that cargo cannot make one of.
fn duplicates(nodes: &[Node]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for node in nodes {
        all.entry(&node.name).or_default().insert(compatible(&node.version), &node.version);
    }
    all.into_iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| (name, versions.into_values().collect()))
        .collect()
}

/// The part of a version that must be equal for two to be compatible: up to and with the
/// first number that is not zero.
fn compatible(version: &str) -> &str {
    let mut end = 0;
    for number in version.split('.') {
        end += number.len();
        if number != "0" {
            return &version[..end];
        }
        end += 1;
    }
    version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compatibility_follows_the_first_number_that_is_not_zero() {
        assert_eq!(compatible("1.2.3"), "1");
        assert_eq!(compatible("12.0.0-rc.1"), "12");
        assert_eq!(compatible("0.12.3"), "0.12");
        assert_eq!(compatible("0.0.3"), "0.0.3");
        assert_eq!(compatible("0.0.0"), "0.0.0");
    }

    #[test]
    fn only_incompatible_versions_count() {
        let nodes = tree::sample(
            "0 fabric v0.1.0\n1 syn v1.0.1\n1 syn v2.0.1\n1 serde v1.0.1\n1 serde v1.0.2\n\
             1 rand v0.8.5\n1 rand v0.9.0\n",
        );
        let found: Vec<_> = duplicates(&nodes).into_iter().collect();
        assert_eq!(found[0], ("rand", BTreeSet::from(["0.8.5", "0.9.0"])));
        assert_eq!(found[1], ("syn", BTreeSet::from(["1.0.1", "2.0.1"])));
        assert_eq!(found.len(), 2);
    }
}
