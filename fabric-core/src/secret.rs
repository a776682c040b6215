//! Text that never shows up in a log.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// What is printed in the place of a secret.
pub(crate) const HIDDEN: &str = "***";

/// A password, token or key: it prints as `***` and is read with [`reveal`](Self::reveal).
///
/// [`Debug`](fmt::Debug), [`Display`](fmt::Display) and [`Serialize`] all give `***`, so that a
/// configuration can be logged or dumped as it is. The length is not shown either.
///
/// ```
/// use fabric_core::Secret;
///
/// let password = Secret::from("swordfish");
/// assert_eq!(format!("{password} {password:?}"), "*** ***");
/// assert_eq!(password.reveal(), "swordfish");
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: hand it to the client library, and nowhere else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The secret itself, taken out.
    #[must_use]
    pub fn into_revealed(self) -> String {
        self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// The words that make the name of an option the name of a secret, wherever one ends a word of it.
const SECRET_WORDS: [&str; 12] = [
    "auth",
    "cred",
    "credential",
    "jwt",
    "key",
    "pass",
    "passphrase",
    "passwd",
    "password",
    "pwd",
    "secret",
    "token",
];

/// Whether an option of this name holds a secret, as far as its name tells.
///
/// The name is split at `_`, `-` and `.`; a word ending in one of [`SECRET_WORDS`], or in its
/// plural, decides: `sasl_password`, `ApiKey` and `tls.keys` are secrets, `keyspace` is none.
fn is_secret_name(name: &str) -> bool {
    let is_secret = |word: &str| SECRET_WORDS.iter().any(|secret| word.ends_with(secret));
    name.to_ascii_lowercase()
        .split(['_', '-', '.'])
        .any(|word| is_secret(word) || word.strip_suffix('s').is_some_and(is_secret))
}

/// Whether this option holds a secret: its name says so, or it is a URL with a user in it.
pub(crate) fn is_secret(name: &str, value: &str) -> bool {
    is_secret_name(name) || (value.contains("://") && value.contains('@'))
}

/// `value` as it may be shown: itself, or `***` where it holds a secret.
pub(crate) fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    if is_secret(name, value) { HIDDEN } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prints_a_secret() {
        let secret = Secret::new("swordfish");
        assert_eq!(format!("{secret}|{secret:?}|{secret:#?}"), "***|***|***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(***)");
    }

    #[test]
    fn a_secret_is_read_from_text_and_compared_by_it() {
        let read: Secret = serde_json::from_str("\"swordfish\"").unwrap();
        assert_eq!(read, Secret::from("swordfish"));
        assert_ne!(read, Secret::from("Swordfish".to_owned()));
        assert_eq!(read.into_revealed(), "swordfish");
    }

    #[test]
    fn names_of_secrets_are_known() {
        for name in
            ["password", "sasl_password", "TOKEN", "auth-token", "api.key", "apikey", "creds"]
        {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["max_events", "keyspace", "passive", "path", "author", ""] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
