//! How a broker is set up.

use std::net::SocketAddr;

/// What a broker is started with. By default: one node that is broker and controller, quick to start,
/// to join and to come back.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    pub(super) advertise: Option<SocketAddr>,
    pub(super) settings: Vec<(String, String)>,
    users: Vec<(String, String)>,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { advertise: None, settings: Vec::new(), users: Vec::new() }
    }

    /// Tells clients to come here, as to a proxy, and [`Server::url`](super::Server::url) too.
    #[must_use]
    pub const fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// Listens at [`Server::secure_address`](super::Server::secure_address) too, with TLS and for
    /// these users alone, by name and password: PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
    #[cfg(feature = "security")]
    #[must_use]
    pub fn secure(mut self, certificates: &crate::Certificates, users: &[(&str, &str)]) -> Self {
        let owned = |(name, password): &(&str, &str)| ((*name).to_owned(), (*password).to_owned());
        self.users = users.iter().map(owned).collect();
        let plain: String =
            users.iter().map(|(name, password)| format!(" user_{name}=\"{password}\"")).collect();
        let module = |name: &str| format!("org.apache.kafka.common.security.{name} required");
        let scram = format!("{};", module("scram.ScramLoginModule"));
        let plain = format!("{}{plain};", module("plain.PlainLoginModule"));
        let file = |path: std::path::PathBuf| path.display().to_string();
        let all = [
            ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned()),
            ("plain.sasl.jaas.config", plain),
            ("scram-sha-256.sasl.jaas.config", scram.clone()),
            ("scram-sha-512.sasl.jaas.config", scram),
            ("ssl.keystore.type", "PEM".to_owned()),
            ("ssl.keystore.location", file(certificates.server_with_key())),
            ("ssl.truststore.type", "PEM".to_owned()),
            ("ssl.truststore.location", file(certificates.authority())),
        ];
        for (name, value) in all {
            self = self.setting(format!("listener.name.secure.{name}"), value);
        }
        self
    }

    /// With one of the broker's settings, which replaces ours of that name.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// The same unless somebody has said otherwise.
    pub(super) fn default_setting(mut self, name: &str, value: &str) -> Self {
        if !self.settings.iter().any(|(known, _)| known == name) {
            self.settings.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub(super) const fn is_secure(&self) -> bool {
        !self.users.is_empty()
    }

    /// What makes users known to SCRAM before the first start.
    pub(super) fn scram(&self) -> Vec<String> {
        let each = |(name, password): &(String, String)| {
            [256, 512].map(|bits| format!("SCRAM-SHA-{bits}=[name={name},password={password}]"))
        };
        self.users.iter().flat_map(each).collect()
    }
}
