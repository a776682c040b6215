//! Which backend answers which scheme: a table of those compiled in, and a value for one's own.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use fabric_core::{Backend, Dsn, Error, ErrorKind, Result, SharedBackend};
use futures_core::future::BoxFuture;

type Connected = BoxFuture<'static, Result<SharedBackend>>;

/// One row for each backend that this program was built with.
const BUILTIN: &[Builtin] = &[
    #[cfg(feature = "memory")]
    Builtin {
        schemes: fabric_memory::SCHEMES,
        connect: |dsn| shared(fabric_memory::Memory::connect(dsn)),
    },
    #[cfg(feature = "zmq")]
    Builtin { schemes: fabric_zmq::SCHEMES, connect: |dsn| shared(fabric_zmq::Zmq::connect(dsn)) },
    #[cfg(feature = "nats")]
    Builtin {
        schemes: fabric_nats::SCHEMES,
        connect: |dsn| shared(fabric_nats::Nats::connect(dsn)),
    },
    #[cfg(feature = "kafka")]
    Builtin {
        schemes: fabric_kafka::SCHEMES,
        connect: |dsn| shared(fabric_kafka::Kafka::connect(dsn)),
    },
];

struct Builtin {
    schemes: &'static [&'static str],
    connect: fn(Dsn) -> Connected,
}

/// The backends of the project: the schemes of each, the feature that brings it, and whether this
/// version has it.
const KNOWN: &[(&[&str], &str, bool)] = &[
    (&["memory"], "memory", true),
    (&["zmq"], "zmq", true),
    (&["redis", "rediss"], "redis", false),
    (&["nats", "tls"], "nats", true),
    (&["amqp", "amqps"], "amqp", false),
    (&["kafka"], "kafka", true),
    (&["ucx"], "ucx", false),
];

/// The backends that [`connect`](crate::connect) chooses from, by scheme.
///
/// It is a value: nothing is registered behind anybody's back.
///
/// ```
/// use fabric::{Backend, Dsn, Registry, Result};
///
/// async fn recorded(dsn: Dsn) -> Result<impl Backend> {
///     // … which would wrap the backend of another URL, or speak a protocol of its own.
///     fabric::memory::Memory::connect(Dsn::parse(&format!("memory://{}", dsn.hosts()[0]))?).await
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<()> {
/// let registry = Registry::builtin().with(&["recorded"], recorded);
/// let fabric = fabric::connect("recorded://orders").registry(registry).await?;
/// assert_eq!(fabric.info().name, "memory");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Registry {
    /// Later entries come before earlier ones.
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    schemes: Vec<String>,
    connect: Arc<dyn Fn(Dsn) -> Connected + Send + Sync>,
}

impl Registry {
    /// The backends that this program was built with, by the features of this crate.
    #[must_use]
    pub fn builtin() -> Self {
        let entry = |builtin: &Builtin| Entry {
            schemes: builtin.schemes.iter().map(|scheme| (*scheme).to_owned()).collect(),
            connect: Arc::new(builtin.connect),
        };
        Self { entries: BUILTIN.iter().map(entry).collect() }
    }

    /// No backends at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self { entries: Vec::new() }
    }

    /// Adds a backend. A scheme that was there already means this one from now on.
    ///
    /// `zmq` answers `zmq://…` and `zmq+tcp://…`; `zmq+tcp` answers the latter alone, and before
    /// `zmq` does. Schemes are compared without case.
    #[must_use]
    pub fn with<F, Fut, B>(mut self, schemes: &[&str], connect: F) -> Self
    where
        F: Fn(Dsn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<B>> + Send + 'static,
        B: Backend,
    {
        let schemes = schemes.iter().map(|scheme| scheme.to_ascii_lowercase()).collect();
        self.entries.push(Entry { schemes, connect: Arc::new(move |dsn| shared(connect(dsn))) });
        self
    }

    /// The schemes that are answered, sorted.
    #[must_use]
    pub fn schemes(&self) -> Vec<&str> {
        let mut schemes: Vec<&str> =
            self.entries.iter().flat_map(|entry| &entry.schemes).map(String::as_str).collect();
        schemes.sort_unstable();
        schemes.dedup();
        schemes
    }

    /// Starts connecting.
    pub(crate) fn connect(&self, dsn: Dsn) -> Result<Connected> {
        let full = dsn.full_scheme();
        let entry = self.find(&full).or_else(|| self.find(dsn.scheme()));
        match entry {
            Some(entry) => Ok((entry.connect)(dsn)),
            None => Err(self.unknown(&dsn)),
        }
    }

    fn find(&self, scheme: &str) -> Option<&Entry> {
        let mut newest_first = self.entries.iter().rev();
        newest_first.find(|entry| entry.schemes.iter().any(|known| known == scheme))
    }

    /// What is missing, and how to get it. Only the scheme is named: the rest may hold a secret.
    fn unknown(&self, dsn: &Dsn) -> Error {
        let schemes = self.schemes();
        let here = if schemes.is_empty() {
            "this program was built with none".to_owned()
        } else {
            let schemes: Vec<String> = schemes.iter().map(|it| format!("`{it}://`")).collect();
            format!("there is {}", schemes.join(", "))
        };
        let known = KNOWN.iter().find(|(schemes, ..)| schemes.contains(&dsn.scheme()));
        let way_out = match known {
            Some((_, feature, true)) => {
                format!("the feature `{feature}` of the crate `fabric` adds it")
            }
            Some((_, name, false)) => format!("the backend `{name}` is not in this version"),
            None => "a backend of your own is added by `Registry::with`".to_owned(),
        };
        let scheme = dsn.full_scheme();
        Error::new(
            ErrorKind::Config,
            format!("no backend answers `{scheme}://`: {here}; {way_out}"),
        )
        .with("scheme", scheme)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::builtin()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.schemes()).finish()
    }
}

fn shared<B: Backend>(connecting: impl Future<Output = Result<B>> + Send + 'static) -> Connected {
    Box::pin(async move { Ok(Arc::new(connecting.await?) as SharedBackend) })
}
