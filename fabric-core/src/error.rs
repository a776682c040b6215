//! The one error: what failed, where, whether the event may have been accepted, and what to do.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The result of everything in Event Fabric.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong.
///
/// A kind is what a program branches on; the message is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A DSN, file, variable or builder holds a value that cannot be used.
    Config,
    /// This stack cannot do what was asked; nothing was sent.
    Unsupported,
    /// The server could not be reached or the link broke.
    Connect,
    /// The server refused the credentials, or they lack a right.
    Unauthorized,
    /// The topic, group, stream or server object does not exist.
    NotFound,
    /// It exists already, made by somebody else or with other settings.
    AlreadyExists,
    /// The group exists with another definition than the one asked for.
    GroupMismatch,
    /// A topic, pattern, group or prefix breaks the rules for names.
    InvalidTopic,
    /// An event's field or header breaks the rules for events.
    InvalidEvent,
    /// The payload does not fit its schema.
    Schema,
    /// The event is larger than this stack takes.
    TooLarge,
    /// A bound was reached and the policy says not to wait any longer.
    Full,
    /// Events were lost to this subscription before it read them; see [`Error::missed`].
    Lagged,
    /// No answer in time.
    Timeout,
    /// Nobody answers requests on this topic.
    NoResponders,
    /// The delivery's lease had ended: the event belongs to somebody else by now.
    StaleAck,
    /// The responder failed, and said so.
    Remote,
    /// The fabric, subscription or link is closed for good.
    Closed,
    /// A payload or envelope could not be encoded or decoded.
    Codec,
    /// Encryption or decryption failed.
    Crypto,
    /// The server or its client library failed in a way none of the other kinds names.
    Backend,
}

impl ErrorKind {
    /// What a failure of this kind says about the event, unless the backend knows better.
    #[must_use]
    pub const fn default_retry(self) -> RetryClass {
        match self {
            Self::Connect | Self::Full | Self::NoResponders | Self::Lagged => RetryClass::Safe,
            Self::Timeout | Self::Backend | Self::Remote => RetryClass::Ambiguous,
            _ => RetryClass::Never,
        }
    }

    /// The kind as one lower-case word, the form used in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Unsupported => "unsupported",
            Self::Connect => "connect",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::GroupMismatch => "group_mismatch",
            Self::InvalidTopic => "invalid_topic",
            Self::InvalidEvent => "invalid_event",
            Self::Schema => "schema",
            Self::TooLarge => "too_large",
            Self::Full => "full",
            Self::Lagged => "lagged",
            Self::Timeout => "timeout",
            Self::NoResponders => "no_responders",
            Self::StaleAck => "stale_ack",
            Self::Remote => "remote",
            Self::Closed => "closed",
            Self::Codec => "codec",
            Self::Crypto => "crypto",
            Self::Backend => "backend",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether trying again can help, and whether it can harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryClass {
    /// Certainly not accepted, and the same call would fail again.
    Never,
    /// Certainly not accepted; the same call may succeed later.
    Safe,
    /// Nobody knows: it may have been accepted. Repeat only with a deduplicating id or where a
    /// duplicate does no harm.
    Ambiguous,
}

/// Everything that can go wrong, one pointer wide.
///
/// [`Display`](fmt::Display) is one line without the source; `{:#}` prints the whole chain.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    retry: RetryClass,
    operation: Option<&'static str>,
    backend: Option<Arc<str>>,
    message: String,
    context: Vec<(&'static str, String)>,
    missed: Option<u64>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a sentence for people: what failed and what to do about it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            retry: kind.default_retry(),
            operation: None,
            backend: None,
            message: message.into(),
            context: Vec::new(),
            missed: None,
            source: None,
        }))
    }

    /// The refusal of `option` by `backend`: nothing was sent.
    #[must_use]
    pub fn unsupported(option: impl fmt::Display, backend: &str) -> Self {
        Self::new(ErrorKind::Unsupported, format!("`{backend}` cannot do {option}"))
            .with_backend(backend)
    }

    /// `missed` events were lost to this subscription.
    #[must_use]
    pub fn lagged(missed: u64) -> Self {
        let mut error = Self::new(
            ErrorKind::Lagged,
            format!("{missed} events were dropped before this subscription read them"),
        );
        error.inner().missed = Some(missed);
        error
    }

    /// Says what is known about acceptance, where it differs from the kind's default.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryClass) -> Self {
        self.inner().retry = retry;
        self
    }

    /// Names the operation that failed, unless a deeper place already did.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.inner().operation.get_or_insert(operation);
        self
    }

    /// Names the backend it failed on, unless a deeper place already did.
    #[must_use]
    pub fn with_backend(mut self, backend: &str) -> Self {
        self.inner().backend.get_or_insert_with(|| Arc::from(backend));
        self
    }

    /// Adds one thing worth knowing: `("topic", "orders.created")`.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        let inner = self.inner();
        if !inner.context.iter().any(|(known, _)| *known == key) {
            inner.context.push((key, value.to_string()));
        }
        self
    }

    /// Keeps what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner().source = Some(Arc::from(source.into()));
        self
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again can help, and whether it can harm.
    #[must_use]
    pub fn retry(&self) -> RetryClass {
        self.0.retry
    }

    /// The operation that failed, such as `publish`.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The backend it failed on, such as `memory`.
    #[must_use]
    pub fn backend(&self) -> Option<&str> {
        self.0.backend.as_deref()
    }

    /// The sentence alone, without operation, backend and context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What was said about `key` (`topic`, `group`, `key`, …).
    #[must_use]
    pub fn context(&self, key: &str) -> Option<&str> {
        self.0.context.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_str())
    }

    /// How many events were missed, for [`ErrorKind::Lagged`].
    #[must_use]
    pub fn missed(&self) -> Option<u64> {
        self.0.missed
    }

    fn inner(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }
}

impl Inner {
    fn begins_with_name_of(&self, backend: &str) -> bool {
        let after = self.message.strip_prefix('`').and_then(|text| text.strip_prefix(backend));
        after.is_some_and(|text| text.starts_with('`'))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A message that begins with the backend's name says it once.
        let named = |backend: &&str| !self.0.begins_with_name_of(backend);
        match (self.0.operation, self.0.backend.as_deref().filter(named)) {
            (Some(operation), Some(backend)) => write!(f, "{operation} on {backend}: ")?,
            (Some(operation), None) => write!(f, "{operation}: ")?,
            (None, Some(backend)) => write!(f, "{backend}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.0.message)?;
        if !self.0.context.is_empty() {
            f.write_str(" (")?;
            for (n, (key, value)) in self.0.context.iter().enumerate() {
                let comma = if n == 0 { "" } else { ", " };
                write!(f, "{comma}{key}: {value}")?;
            }
            f.write_str(")")?;
        }
        if f.alternate() {
            let mut source = self.source();
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("retry", &self.0.retry)
            .field("operation", &self.0.operation)
            .field("backend", &self.0.backend)
            .field("message", &self.0.message)
            .field("context", &self.0.context)
            .field("missed", &self.0.missed)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Error>>(), size_of::<usize>());
    }

    #[test]
    fn a_refusal_names_its_backend_once() {
        let error = Error::unsupported("replay", "nats").with_operation("replay");
        assert_eq!(error.to_string(), "replay: `nats` cannot do replay");
        assert_eq!(error.backend(), Some("nats"));
    }

    #[test]
    fn display_is_one_line_and_the_alternate_form_adds_the_chain() {
        let error = Error::new(ErrorKind::Connect, "the server does not answer")
            .with_operation("publish")
            .with_operation("ignored, since a deeper place spoke first")
            .with_backend("nats")
            .with("topic", "a.b")
            .with_source(std::io::Error::other("refused"));
        assert_eq!(error.to_string(), "publish on nats: the server does not answer (topic: a.b)");
        assert_eq!(
            format!("{error:#}"),
            "publish on nats: the server does not answer (topic: a.b): refused"
        );
    }
}
