//! The seven backends: how each is called and where it is found.

use std::env;

use crate::error::{Error, Result};
use crate::manifest::Feature;
use crate::workspace::Workspace;

/// One row of the table of backends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    /// Its name: on the command line, as a feature of `fabric` and in `fabric-<name>`.
    pub(crate) name: &'static str,
    /// Where it answers without anything being started; `None` for a backend that needs
    /// a broker or a C library, which plain runs therefore leave out.
    local: Option<&'static str>,
}

const BACKENDS: &[Backend] = &[
    Backend { name: "memory", local: Some("memory://") },
    Backend { name: "zmq", local: None },
    Backend { name: "redis", local: None },
    Backend { name: "nats", local: None },
    Backend { name: "amqp", local: None },
    Backend { name: "kafka", local: None },
    Backend { name: "ucx", local: None },
];

/// Finds a backend by its name.
pub(crate) fn find(name: &str) -> Result<&'static Backend> {
    let unknown = || {
        let known = names(BACKENDS.iter());
        Error::new(format!("unknown backend `{name}`; the backends are {known}"))
    };
    BACKENDS.iter().find(|backend| backend.name == name).ok_or_else(unknown)
}

/// The given backends, memory if there are none; refused unless all are in the workspace.
pub(crate) fn choose(
    workspace: &Workspace,
    given: &[&'static Backend],
) -> Result<Vec<&'static Backend>> {
    let chosen = if given.is_empty() { vec![find("memory")?] } else { given.to_vec() };
    for backend in &chosen {
        if workspace.member(&backend.package()).is_none() {
            let here = BACKENDS.iter().filter(|known| workspace.member(&known.package()).is_some());
            return Err(Error::new(format!(
                "the backend `{}` is not in this workspace; here: {}; known: {}",
                backend.name,
                names(here),
                names(BACKENDS.iter()),
            )));
        }
    }
    Ok(chosen)
}

/// The crates in the workspace that need a broker or a C library.
pub(crate) fn packages_with_needs(workspace: &Workspace) -> Vec<String> {
    needs().filter(|package| workspace.member(package).is_some()).collect()
}

/// The features that bring in no backend that needs a broker or a C library.
pub(crate) fn features_without_needs(features: &[Feature]) -> Vec<&str> {
    let needs: Vec<String> = needs().collect();
    let free = |feature: &&Feature| {
        !needs.iter().any(|package| feature.enables_package(package, features))
    };
    features.iter().filter(free).map(|feature| feature.name.as_str()).collect()
}

impl Backend {
    pub(crate) fn package(&self) -> String {
        format!("fabric-{}", self.name)
    }

    pub(crate) fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// Where to reach it: its variable, or itself.
    pub(crate) fn url(&self) -> Result<String> {
        let variable = format!("FABRIC_TEST_{}_URL", self.name.to_uppercase());
        match (env::var(&variable), self.local) {
            (Ok(url), _) => Ok(url),
            (Err(_), Some(url)) => Ok(url.to_owned()),
            (Err(_), None) => Err(Error::new(format!(
                "the backend `{}` needs a running broker: start one and set {variable} to its URL",
                self.name
            ))),
        }
    }
}

fn needs() -> impl Iterator<Item = String> {
    BACKENDS.iter().filter(|backend| !backend.is_local()).map(Backend::package)
}

fn names<'a>(backends: impl Iterator<Item = &'a Backend>) -> String {
    backends.map(|backend| backend.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{help, manifest};

    #[test]
    fn features_that_lead_to_a_broker_are_left_out() {
        let features = manifest::features(
            "[features]\n\
             default = [\"memory\"]\n\
             memory = [\"dep:fabric-memory\"]\n\
             nats = [\"dep:fabric-nats\"]\n\
             json = [\"fabric-core/json\", \"fabric-nats?/json\"]\n\
             all-portable = [\"memory\", \"nats\"]\n",
        );
        assert_eq!(features_without_needs(&features), ["default", "memory", "json"]);
    }

    #[test]
    fn the_help_names_every_backend() {
        assert!(help::TEST.contains(&names(BACKENDS.iter())));
    }

    #[test]
    fn memory_is_reached_without_a_broker() {
        assert!(find("memory").unwrap().is_local());
        assert!(!find("kafka").unwrap().is_local());
    }
}
