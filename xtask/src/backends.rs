//! The seven backends: how each is called and where it is found.

use std::env;
use std::process::Command;

use fabric_brokers::BuildNeed;

use crate::error::{Error, Result};
use crate::manifest::Feature;
use crate::workspace::Workspace;

/// One row of the table of backends.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Its name: on the command line, as a feature of `fabric` and in `fabric-<name>`.
    pub(crate) name: &'static str,
    needs: Needs,
    /// What its client library is built with, beside a C compiler.
    build: &'static [BuildNeed],
}

/// What has to be there before a backend can be reached.
#[derive(Clone, Copy, Debug)]
enum Needs {
    /// Nothing: it answers at this URL within a process.
    Nothing(&'static str),
    /// A broker, which this starts.
    Broker(fn() -> fabric_brokers::Result<Running>),
    /// Something that has to be started by hand.
    Help,
}

/// Where a backend is reached, as long as this is kept.
#[derive(Debug)]
pub(crate) struct Running {
    /// With what a client needs to come in.
    pub(crate) url: String,
    _broker: Option<Box<dyn fabric_brokers::Broker>>,
}

const BACKENDS: &[Backend] = &[
    Backend { name: "memory", needs: Needs::Nothing("memory://"), build: &[] },
    Backend { name: "zmq", needs: Needs::Broker(zmq), build: LIBZMQ },
    Backend { name: "redis", needs: Needs::Help, build: &[] },
    Backend { name: "nats", needs: Needs::Broker(nats), build: &[] },
    Backend { name: "amqp", needs: Needs::Help, build: &[] },
    Backend { name: "kafka", needs: Needs::Broker(kafka), build: LIBRDKAFKA },
    Backend { name: "ucx", needs: Needs::Help, build: &[] },
];

/// Test binaries that do not hold as a whole yet, by backend: they run by its name, and a run of everything
/// says that it leaves them out.
const UNSETTLED: &[(&str, &str)] = &[("kafka", "conformance")];

/// The sources of libzmq come with the binding.
const LIBZMQ: &[BuildNeed] = &[BuildNeed::Program("c++", "g++")];

/// The sources of librdkafka come with the binding; it takes the system's OpenSSL.
const LIBRDKAFKA: &[BuildNeed] = &[
    BuildNeed::Program("c++", "g++"),
    BuildNeed::Program("make", "make"),
    BuildNeed::Library("openssl", "libssl-dev"),
];

fn nats() -> fabric_brokers::Result<Running> {
    let server = fabric_brokers::nats::Server::start(fabric_brokers::nats::Options::new())?;
    Ok(Running { url: server.url(), _broker: Some(Box::new(server)) })
}

fn kafka() -> fabric_brokers::Result<Running> {
    let server = fabric_brokers::kafka::Server::start(fabric_brokers::kafka::Options::new())?;
    Ok(Running { url: server.url(), _broker: Some(Box::new(server)) })
}

/// The broker is a program of this workspace, which lies beside this one.
fn zmq() -> fabric_brokers::Result<Running> {
    let wrong = |what: String| fabric_brokers::Error::new(what);
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "-q", "-p", "fabric", "--bin", "fabric", "--features", "cli,zmq"]);
    let built = build.status().map_err(|error| wrong(format!("cargo does not run: {error}")))?;
    if !built.success() {
        return Err(wrong("the program `fabric` was not built".to_owned()));
    }
    let own = env::current_exe().map_err(|error| wrong(format!("where am I? {error}")))?;
    let server = fabric_brokers::zmq::Server::start(own.with_file_name("fabric"))?;
    Ok(Running { url: server.url(), _broker: Some(Box::new(server)) })
}

/// Finds a backend by its name.
pub(crate) fn find(name: &str) -> Result<&'static Backend> {
    let unknown = || {
        let known = names(BACKENDS.iter());
        Error::new(format!("unknown backend `{name}`; the backends are {known}"))
    };
    BACKENDS.iter().find(|backend| backend.name == name).ok_or_else(unknown)
}

/// All that are in the workspace.
pub(crate) fn all(workspace: &Workspace) -> Vec<&'static Backend> {
    let is_here = |backend: &&Backend| workspace.member(&backend.package()).is_some();
    BACKENDS.iter().filter(is_here).collect()
}

/// The given backends; refused unless all are in the workspace.
pub(crate) fn choose(
    workspace: &Workspace,
    given: &[&'static Backend],
) -> Result<Vec<&'static Backend>> {
    let chosen = given.to_vec();
    for backend in &chosen {
        if workspace.member(&backend.package()).is_none() {
            let here = all(workspace).into_iter();
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

/// Sees to it that these can be built: what a build needs is installed where we may.
pub(crate) fn make_buildable<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> Result<()> {
    for need in backends.into_iter().flat_map(|backend| backend.build) {
        need.meet().map_err(|error| Error::new(error.to_string()))?;
    }
    Ok(())
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

    pub(crate) const fn is_local(&self) -> bool {
        matches!(self.needs, Needs::Nothing(_))
    }

    /// The test binaries that a run of everything leaves out.
    pub(crate) fn unsettled(&self) -> Vec<&'static str> {
        UNSETTLED.iter().filter(|(name, _)| *name == self.name).map(|(_, test)| *test).collect()
    }

    /// Whether it keeps nothing, so that what needs a store is refused.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.name, "zmq" | "ucx")
    }

    /// Whether this program can start its broker.
    pub(crate) const fn has_broker(&self) -> bool {
        matches!(self.needs, Needs::Broker(_))
    }

    /// The variable that names a running broker.
    pub(crate) fn variable(&self) -> String {
        format!("FABRIC_TEST_{}_URL", self.name.to_uppercase())
    }

    /// Reaches it: at its variable, by itself, or by starting its broker. Nothing where its tests
    /// do all that is needed.
    pub(crate) fn reach(&self) -> Result<Option<Running>> {
        if let Ok(url) = env::var(self.variable()) {
            return Ok(Some(Running { url, _broker: None }));
        }
        match self.needs {
            Needs::Nothing(url) => Ok(Some(Running { url: url.to_owned(), _broker: None })),
            Needs::Broker(_) => self.start().map(Some),
            Needs::Help => Err(Error::new(format!(
                "the backend `{}` needs a running broker: start one and set {} to its URL",
                self.name,
                self.variable()
            ))),
        }
    }

    /// Starts its broker, whatever is running already.
    pub(crate) fn start(&self) -> Result<Running> {
        let Needs::Broker(start) = self.needs else {
            return Err(Error::new(format!("`{}` has no broker that this could start", self.name)));
        };
        println!("starting the broker of {}", self.name);
        let running = start().map_err(|error| Error::new(error.to_string()))?;
        println!("{} is at {}", self.name, running.url);
        Ok(running)
    }
}

impl PartialEq for Backend {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Backend {}

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
        assert_eq!(find("memory").unwrap().reach().unwrap().unwrap().url, "memory://");
        assert!(find("memory").unwrap().start().is_err());
        assert!(find("kafka").unwrap().has_broker() && !find("kafka").unwrap().is_local());
    }

    #[test]
    fn memory_is_built_with_nothing_else() {
        assert!(find("memory").unwrap().build.is_empty());
        assert!(make_buildable([find("memory").unwrap()]).is_ok());
    }

    #[test]
    fn what_is_not_settled_is_a_backend() {
        assert!(UNSETTLED.iter().all(|(name, _)| find(name).is_ok()));
        assert!(find("memory").unwrap().unsettled().is_empty());
    }

    #[test]
    fn what_cannot_be_started_says_what_to_do() {
        let error = find("ucx").unwrap().reach().unwrap_err().to_string();
        assert!(error.contains("FABRIC_TEST_UCX_URL"), "{error}");
    }
}
