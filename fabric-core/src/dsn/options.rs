//! The options in a DSN's query, read in one way by every backend.

use std::num::{NonZeroU16, NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use super::{Dsn, units};
use crate::secret::shown;
use crate::{Error, ErrorKind, Result, Secret};

/// Reads the options of a [`Dsn`] by name and type, and refuses those that nobody asked for.
///
/// Every option that a backend knows is taken once, wanted or not; what
/// [`finish`](Self::finish) then finds untaken is unknown, and the error lists what is accepted.
///
/// ```
/// use std::time::Duration;
/// use fabric_core::Dsn;
///
/// #[derive(Clone, Debug, PartialEq)]
/// enum Overflow { Block, Fail }
///
/// let dsn = Dsn::parse("memory://orders?max_events=10000&max_age=1h&overflow=fail")?;
/// let mut options = dsn.options();
/// let max_events: Option<usize> = options.take("max_events")?;
/// let max_bytes = options.take_bytes("max_bytes")?;
/// let max_age = options.take_duration("max_age")?;
/// let overflow =
///     options.take_enum("overflow", &[("block", Overflow::Block), ("fail", Overflow::Fail)])?;
/// options.finish()?;
///
/// assert_eq!(max_events, Some(10_000));
/// assert_eq!(max_bytes, None);
/// assert_eq!(max_age, Some(Duration::from_secs(3600)));
/// assert_eq!(overflow, Some(Overflow::Fail));
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "unknown options are refused by `finish`"]
pub struct DsnOptions<'a> {
    dsn: &'a Dsn,
    known: Vec<&'static str>,
}

impl<'a> DsnOptions<'a> {
    pub(super) const fn new(dsn: &'a Dsn) -> Self {
        Self { dsn, known: Vec::new() }
    }

    /// Takes the option `key` as a `T`, if it is there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if its value is not what `T` accepts.
    pub fn take<T: OptionValue>(&mut self, key: &'static str) -> Result<Option<T>> {
        self.take_with(key, T::from_option)
    }

    /// Takes the option `key` as a duration such as `5s` or `1h 30m`, if it is there; see
    /// [`parse_duration`](crate::parse_duration).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if its value is no duration.
    pub fn take_duration(&mut self, key: &'static str) -> Result<Option<Duration>> {
        self.take(key)
    }

    /// Takes the option `key` as a size in bytes such as `64MiB`, if it is there; see
    /// [`parse_bytes`](crate::parse_bytes).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if its value is no size.
    pub fn take_bytes(&mut self, key: &'static str) -> Result<Option<u64>> {
        self.take_with(key, units::bytes)
    }

    /// Takes the option `key` as one of a few words, if it is there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the words that are accepted, if its value is none of them.
    pub fn take_enum<T: Clone>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>> {
        self.take_with(key, |text| {
            let known = words.iter().find(|(word, _)| *word == text);
            known.map(|(_, value)| value.clone()).ok_or_else(|| {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                format!("one of {}{}", listed(&words), did_you_mean(text, &words))
            })
        })
    }

    /// Takes the option `key` as what `read` makes of it, if it is there; `read` answers with what
    /// it expected instead.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if `read` refuses the value.
    pub fn take_with<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let Some(value) = self.dsn.query(key) else {
            return Ok(None);
        };
        read(value).map(Some).map_err(|expected| self.refuse(key, format!("expected {expected}")))
    }

    /// Sets `field` to the option `key`, if it is there; else the field stays as it is.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let dsn = fabric_core::Dsn::parse("memory://orders?prefetch=16&max_age=1h")?;
    /// let (mut prefetch, mut max_age, mut full_wait) = (256, None, Duration::from_secs(10));
    /// let mut options = dsn.options();
    /// options.set("prefetch", &mut prefetch)?;
    /// options.set("max_age", &mut max_age)?;
    /// options.set("full_wait", &mut full_wait)?;
    /// options.finish()?;
    /// assert_eq!((prefetch, max_age), (16, Some(Duration::from_secs(3600))));
    /// assert_eq!(full_wait, Duration::from_secs(10));
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub fn set<T: OptionValue>(&mut self, key: &'static str, field: &mut T) -> Result<()> {
        if let Some(value) = self.take(key)? {
            *field = value;
        }
        Ok(())
    }

    /// Sets `field` to the option `key` as a size in bytes, if it is there.
    ///
    /// # Errors
    ///
    /// As [`take_bytes`](Self::take_bytes), and where the size does not fit the field.
    pub fn set_bytes<T: TryFrom<u64>>(&mut self, key: &'static str, field: &mut T) -> Result<()> {
        if let Some(bytes) = self.take_bytes(key)? {
            *field = T::try_from(bytes).map_err(|_| self.refuse(key, "it is too large"))?;
        }
        Ok(())
    }

    /// Sets `field` to the option `key` as one of a few words, if it is there.
    ///
    /// # Errors
    ///
    /// As [`take_enum`](Self::take_enum).
    pub fn set_enum<T: Clone>(
        &mut self,
        key: &'static str,
        field: &mut T,
        words: &[(&str, T)],
    ) -> Result<()> {
        if let Some(value) = self.take_enum(key, words)? {
            *field = value;
        }
        Ok(())
    }

    /// The error that refuses the value of `key` for a rule of the backend's own.
    ///
    /// ```
    /// let dsn = fabric_core::Dsn::parse("memory://orders?max_events=0")?;
    /// let error = dsn.options().refuse("max_events", "a history of no events keeps nothing");
    /// assert_eq!(
    ///     error.to_string(),
    ///     "`max_events=0` of `memory://` is refused: a history of no events keeps nothing"
    /// );
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    #[must_use]
    pub fn refuse(&self, key: &str, why: impl std::fmt::Display) -> Error {
        let value = self.dsn.query(key).map(|value| shown(key, value)).unwrap_or_default();
        let scheme = self.dsn.full_scheme();
        Error::new(ErrorKind::Config, format!("`{key}={value}` of `{scheme}://` is refused: {why}"))
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if an option is left that was not taken; the error lists those that
    /// are accepted and suggests the one that comes nearest.
    pub fn finish(self) -> Result<()> {
        let Some((key, _)) = self.dsn.query_pairs().find(|(key, _)| !self.known.contains(key))
        else {
            return Ok(());
        };
        let scheme = self.dsn.full_scheme();
        Err(Error::new(
            ErrorKind::Config,
            format!("`{scheme}://` has no option `{key}`{}", accepted(key, &self.known)),
        ))
    }
}

/// What an option of a DSN can be read as.
///
/// Numbers, `bool` (`true`, `false`), text, [`PathBuf`], [`Secret`] and [`Duration`] are, and an
/// `Option` of each; a backend can add its own.
pub trait OptionValue: Sized {
    /// Reads the value, already percent-decoded.
    ///
    /// # Errors
    ///
    /// What is accepted instead, as it follows "expected": `a whole number from 0 to 255`. It does
    /// not repeat the value, which may be a secret.
    fn from_option(text: &str) -> Result<Self, String>;
}

macro_rules! whole_numbers {
    ($($number:ty),+) => {$(
        impl OptionValue for $number {
            fn from_option(text: &str) -> Result<Self, String> {
                let plain = !text.starts_with('+');
                text.parse().ok().filter(|_| plain).ok_or_else(|| {
                    format!("a whole number from {} to {}", Self::MIN, Self::MAX)
                })
            }
        }
    )+};
}

whole_numbers!(
    u8,
    u16,
    u32,
    u64,
    usize,
    i32,
    i64,
    NonZeroU16,
    NonZeroU32,
    NonZeroU64,
    NonZeroUsize
);

impl OptionValue for f64 {
    fn from_option(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|number: &Self| number.is_finite())
            .ok_or_else(|| "a number such as `0.5`".to_owned())
    }
}

impl OptionValue for bool {
    fn from_option(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "`true` or `false`".to_owned())
    }
}

impl OptionValue for Duration {
    fn from_option(text: &str) -> Result<Self, String> {
        units::duration(text)
    }
}

impl<T: OptionValue> OptionValue for Option<T> {
    fn from_option(text: &str) -> Result<Self, String> {
        T::from_option(text).map(Some)
    }
}

impl OptionValue for String {
    fn from_option(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl OptionValue for Secret {
    fn from_option(text: &str) -> Result<Self, String> {
        Ok(Self::from(text))
    }
}

impl OptionValue for PathBuf {
    fn from_option(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a path".to_owned()) } else { Ok(Self::from(text)) }
    }
}

/// What follows a refused word: the nearest of those that are accepted, and all of them.
pub(crate) fn accepted(word: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return "; it takes none".to_owned();
    }
    format!("{}; accepted: {}", did_you_mean(word, known), listed(known))
}

fn did_you_mean(word: &str, known: &[&str]) -> String {
    nearest(word, known).map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default()
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The word nearest to `word`, if it is near enough to be what was meant: a third of it may differ.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    let budget = (word.chars().count() / 3).clamp(1, 4);
    known
        .iter()
        .map(|known| (strsim::osa_distance(&word, &known.to_lowercase()), *known))
        .filter(|(distance, _)| *distance <= budget)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dsn(query: &str) -> Dsn {
        Dsn::parse(&format!("memory://orders?{query}")).unwrap()
    }

    #[test]
    fn values_are_read_by_type() {
        let dsn = dsn("a=7&b=true&c=x%20y&d=250ms&e=1KiB&f=-3&g=0.5&h=swordfish&i=/tmp/x");
        let mut options = dsn.options();
        assert_eq!(options.take::<u8>("a").unwrap(), Some(7));
        assert_eq!(options.take::<NonZeroUsize>("a").unwrap(), NonZeroUsize::new(7));
        assert_eq!(options.take::<bool>("b").unwrap(), Some(true));
        assert_eq!(options.take::<String>("c").unwrap().as_deref(), Some("x y"));
        assert_eq!(options.take_duration("d").unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(options.take_bytes("e").unwrap(), Some(1024));
        assert_eq!(options.take::<i64>("f").unwrap(), Some(-3));
        assert_eq!(options.take::<f64>("g").unwrap(), Some(0.5));
        assert_eq!(options.take::<Secret>("h").unwrap(), Some(Secret::from("swordfish")));
        assert_eq!(options.take::<PathBuf>("i").unwrap(), Some(PathBuf::from("/tmp/x")));
        assert_eq!(options.take::<u64>("absent").unwrap(), None);
        options.finish().unwrap();
    }

    #[test]
    fn values_are_refused_with_what_is_accepted() {
        fn check<T: std::fmt::Debug>(
            query: &str,
            take: impl FnOnce(&mut DsnOptions<'_>) -> Result<Option<T>>,
            text: &str,
        ) {
            let dsn = dsn(query);
            let error = take(&mut dsn.options()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert_eq!(error.to_string(), text);
        }
        check(
            "n=300",
            |options| options.take::<u8>("n"),
            "`n=300` of `memory://` is refused: expected a whole number from 0 to 255",
        );
        check(
            "n=+3",
            |options| options.take::<u16>("n"),
            "`n=+3` of `memory://` is refused: expected a whole number from 0 to 65535",
        );
        check(
            "n=0",
            |options| options.take::<NonZeroU16>("n"),
            "`n=0` of `memory://` is refused: expected a whole number from 1 to 65535",
        );
        check(
            "f=inf",
            |options| options.take::<f64>("f"),
            "`f=inf` of `memory://` is refused: expected a number such as `0.5`",
        );
        check(
            "b=yes",
            |options| options.take::<bool>("b"),
            "`b=yes` of `memory://` is refused: expected `true` or `false`",
        );
        check(
            "p=",
            |options| options.take::<PathBuf>("p"),
            "`p=` of `memory://` is refused: expected a path",
        );
        check(
            "d=5",
            |options| options.take_duration("d"),
            "`d=5` of `memory://` is refused: expected a duration with its unit, such as `250ms`, \
             `5s`, `1h 30m`, `7d` or `PT1H30M`",
        );
        check(
            "s=99999999999999999999",
            |options| options.take_bytes("s"),
            "`s=99999999999999999999` of `memory://` is refused: expected a size in bytes, such as \
             `1048576`, `64MiB` or `1kB`, of at most 18446744073709551615 bytes",
        );
        check(
            "overflow=blok",
            |options| options.take_enum("overflow", &[("block", 1), ("fail", 2)]),
            "`overflow=blok` of `memory://` is refused: expected one of `block`, `fail` (did \
             you mean `block`?)",
        );
        check(
            "api_key=swordfish",
            |options| options.take::<u8>("api_key"),
            "`api_key=***` of `memory://` is refused: expected a whole number from 0 to 255",
        );
    }

    #[test]
    fn unknown_options_are_refused_with_those_accepted() {
        let refused = |query: &str, known: &[&'static str]| {
            let dsn = dsn(query);
            let mut options = dsn.options();
            for key in known {
                options.take::<String>(key).unwrap();
            }
            options.finish().unwrap_err().to_string()
        };
        assert_eq!(
            refused("max_age=1h&max_event=3", &["max_age", "max_events"]),
            "`memory://` has no option `max_event` (did you mean `max_events`?); accepted: \
             `max_age`, `max_events`"
        );
        assert_eq!(
            refused("Max-Events=3", &["max_age", "max_events"]),
            "`memory://` has no option `Max-Events` (did you mean `max_events`?); accepted: \
             `max_age`, `max_events`"
        );
        assert_eq!(
            refused("durable=true", &["max_age", "max_events"]),
            "`memory://` has no option `durable`; accepted: `max_age`, `max_events`"
        );
        assert_eq!(
            refused("durable=true", &[]),
            "`memory://` has no option `durable`; it takes none"
        );
    }
}
