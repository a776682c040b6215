//! What is needed to connect, from a file, from the environment or from code.

mod yaml;

use std::collections::BTreeMap;
use std::env::{self, VarError};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::Path;

use self::yaml::{At, Entry, Node, Value};
use crate::dsn::{accepted, nearest};
use crate::secret::{HIDDEN, shown};
use crate::{Dsn, Error, ErrorKind, OptionValue, Result};

/// The keys of a configuration; a file may have them under [`ROOT`].
const KEYS: [&str; 4] = ["url", "source", "max_in_flight", "options"];
const ROOT: &str = "fabric";
/// What programs keep in the same file, beside it.
const PROGRAMS: [&str; 1] = ["broker"];
/// The variables that carry the same, after the prefix.
const VARIABLES: [&str; 3] = ["URL", "SOURCE", "MAX_IN_FLIGHT"];
/// What variables start with that carry an option, after the prefix.
const OPTION: &str = "OPTION_";
/// No configuration is larger; a file that is, is another one.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Returns the value of a variable of the environment.
type Lookup<'a> = &'a dyn Fn(&str) -> Result<String, VarError>;

/// What is needed to connect: the URL, and what is said beside it.
///
/// It comes from a [file](Self::from_file), from the [environment](Self::from_env) or from
/// [code](Self::new). In a file:
///
/// ```yaml
/// fabric:
///   url: redis://planner:${REDIS_PASSWORD}@localhost:6379
///   source: planner
///   max_in_flight: 1024
///   options:
///     max_events: 10000
///     max_age: 1h
/// ```
///
/// The `fabric:` may be left out, and the keys then stand at the left. `options` are those of the
/// URL's query, by the same names. Unknown keys, keys given twice, and options that are in the URL
/// as well are refused; what a backend thinks of an option it says when connecting. Of YAML it
/// takes text and mappings: no lists, aliases or tags.
///
/// In a value, `${NAME}` stands for that variable of the environment, so that secrets stay out of
/// files; `$$` stands for `$`. What the variable holds goes in as it is: in a URL, it has its special
/// characters percent-encoded, or is given as one of the options.
///
/// [`Debug`](fmt::Debug) prints secrets as `***`, by the rules of [`Dsn`].
///
/// ```
/// use fabric_core::Config;
///
/// let config = Config::from_yaml("{ url: memory://orders, options: { max_age: 1h } }")?;
/// assert_eq!(config.dsn()?.to_string(), "memory://orders?max_age=1h");
///
/// let same = Config::new("memory://orders").with_option("max_age", "1h");
/// assert_eq!(same, config);
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The connection URL, as [`Dsn`] reads it. It may hold a password: do not print it.
    pub url: String,
    /// The source that events are published as. Default: the connection's own.
    pub source: Option<String>,
    /// How many events may be unconfirmed at once; at least 1. Default: the backend's.
    pub max_in_flight: Option<usize>,
    /// Options beside those in the URL, by name. They may hold secrets. Default: none.
    pub options: BTreeMap<String, String>,
}

impl Config {
    /// A configuration with this URL and nothing else; [`dsn`](Self::dsn) says whether it is one.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), source: None, max_in_flight: None, options: BTreeMap::new() }
    }

    /// Sets the source that events are published as.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Sets how many events may be unconfirmed at once; at least 1.
    #[must_use]
    pub const fn with_max_in_flight(mut self, events: usize) -> Self {
        self.max_in_flight = Some(events);
        self
    }

    /// Sets an option of the backend, in the place of the value it has here.
    #[must_use]
    pub fn with_option(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.options.insert(key.into(), value.to_string());
        self
    }

    /// Reads a YAML file; it blocks for as long as the file system takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file cannot be read or is larger than 1 MiB, and for each
    /// reason of [`from_yaml`](Self::from_yaml); the error names the file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        read(path)
            .and_then(|text| Self::from_yaml(&text))
            .map_err(|error| error.with("file", path.display()))
    }

    /// Reads the settings that a program of its own keeps in such a file, beside `fabric:`: the
    /// texts under `section`, by their keys; none if there is no such section.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file cannot be read, is no YAML, or holds a list or a mapping
    /// where a text is meant.
    pub fn section(path: impl AsRef<Path>, section: &str) -> Result<BTreeMap<String, String>> {
        let path = path.as_ref();
        let texts = read(path).and_then(|text| section_of(&text, section, &|name| env::var(name)));
        texts.map_err(|error| error.with("file", path.display()))
    }

    /// Reads YAML.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with line and column: of what is no YAML, of a key that is unknown,
    /// missing or given twice, of a value that cannot be used, of a variable that is not set.
    pub fn from_yaml(text: &str) -> Result<Self> {
        Self::from_yaml_with(text, &|name| env::var(name))
    }

    /// Reads the environment: `<PREFIX>_URL`, `<PREFIX>_SOURCE`, `<PREFIX>_MAX_IN_FLIGHT`, and
    /// `<PREFIX>_OPTION_<KEY>` for the option with that name in lower case.
    ///
    /// A variable that is empty counts as not set, save for options. Other variables may start with
    /// the prefix (`FABRIC_TEST_NATS_URL`, or what Kubernetes sets for a service of that name) and
    /// are left alone, unless their name differs by a slip from one of these.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the name of the variable that is missing, misspelt, given twice,
    /// not UTF-8, or has a value that cannot be used.
    pub fn from_env(prefix: &str) -> Result<Self> {
        Self::from_os_vars(prefix, env::vars_os())
    }

    /// Reads variables from elsewhere, such as a parsed `.env` file, as
    /// [`from_env`](Self::from_env) does.
    ///
    /// ```
    /// use fabric_core::Config;
    ///
    /// let variables = [
    ///     ("FABRIC_URL", "memory://orders"),
    ///     ("FABRIC_MAX_IN_FLIGHT", "1024"),
    ///     ("FABRIC_OPTION_MAX_AGE", "1h"),
    /// ];
    /// let config = Config::from_vars("FABRIC", variables)?;
    /// assert_eq!(config.max_in_flight, Some(1024));
    /// assert_eq!(config.dsn()?.query("max_age"), Some("1h"));
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for the reasons of [`from_env`](Self::from_env).
    pub fn from_vars<K, V>(
        prefix: &str,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self>
    where
        K: Into<String>,
        V: Into<String>,
    {
        let prefix = prefix.strip_suffix('_').unwrap_or(prefix);
        let start = format!("{prefix}_");
        let mut config = Self::new("");
        for (name, value) in variables {
            let (name, value) = (name.into(), value.into());
            if let Some(rest) = name.strip_prefix(&start) {
                config.take_variable(&name, rest, value)?;
            }
        }
        if config.url.is_empty() {
            let why =
                format!("the variable `{prefix}_URL` is not set; it holds the URL to connect to");
            return Err(Error::new(ErrorKind::Config, why));
        }
        let dsn = Dsn::parse(&config.url)
            .map_err(|error| variable_refused(&format!("{prefix}_URL"), error.message()))?;
        for (key, value) in &config.options {
            add_option(dsn.clone(), key, value).map_err(|error| {
                let name = format!("{prefix}_{OPTION}{}", key.to_ascii_uppercase());
                variable_refused(&name, error.message())
            })?;
        }
        Ok(config)
    }

    /// The URL with all options in its query.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the URL is no [`Dsn`], or an option has no valid name, has a control
    /// character, or is in the URL as well.
    pub fn dsn(&self) -> Result<Dsn> {
        let dsn = Dsn::parse(&self.url)?;
        self.options.iter().try_fold(dsn, |dsn, (key, value)| add_option(dsn, key, value))
    }

    fn from_yaml_with(text: &str, lookup: Lookup<'_>) -> Result<Self> {
        let root = yaml::parse(text)?;
        let (at, entries) = unwrap_root(root)?;
        let mut config = Self::new("");
        let mut url_at = None;
        let mut option_places = Vec::new();
        for Entry { at, key, node } in entries {
            match key.as_str() {
                "url" => {
                    url_at = Some(node.at);
                    config.url = text_of(&key, node, lookup)?;
                }
                "source" => config.source = Some(some_text_of(&key, node, lookup)?),
                "max_in_flight" => {
                    let at = node.at;
                    let text = some_text_of(&key, node, lookup)?;
                    config.max_in_flight = Some(count(&text).map_err(|expected| {
                        at.refuse(format!("`max_in_flight: {text}`: expected {expected}"))
                    })?);
                }
                "options" => (config.options, option_places) = options_of(node, lookup)?,
                unknown => {
                    let why = format!("unknown key `{unknown}`{}", accepted(unknown, &KEYS));
                    return Err(at.refuse(why));
                }
            }
        }
        let Some(url_at) = url_at else {
            return Err(at.refuse("the key `url` is missing; it holds the URL to connect to"));
        };
        let dsn = Dsn::parse(&config.url)
            .map_err(|error| url_at.refuse(format!("`url`: {}", error.message())))?;
        for (at, key) in option_places {
            add_option(dsn.clone(), &key, &config.options[&key])
                .map_err(|error| at.refuse(error.message()))?;
        }
        Ok(config)
    }

    fn from_os_vars(
        prefix: &str,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self> {
        let start = format!("{}_", prefix.strip_suffix('_').unwrap_or(prefix));
        let is_read = |rest: &str| VARIABLES.contains(&rest) || rest.starts_with(OPTION);
        let mut ours = Vec::new();
        for (name, value) in variables {
            // A name that is not UTF-8 is none of ours.
            let Some(name) = name.to_str() else { continue };
            let Some(rest) = name.strip_prefix(&start) else {
                continue;
            };
            match value.into_string() {
                Ok(value) => ours.push((name.to_owned(), value)),
                Err(_) if is_read(rest) => {
                    return Err(variable_refused(name, "its value is not UTF-8"));
                }
                Err(_) => {}
            }
        }
        Self::from_vars(prefix, ours)
    }

    /// Takes one variable with the prefix; `rest` is its name after that.
    fn take_variable(&mut self, name: &str, rest: &str, value: String) -> Result<()> {
        if let Some(key) = rest.strip_prefix(OPTION) {
            if self.options.insert(key.to_ascii_lowercase(), value).is_some() {
                return Err(variable_refused(name, "another variable sets the same option"));
            }
            return Ok(());
        }
        match rest {
            _ if value.is_empty() => {}
            "URL" => self.url = value,
            "SOURCE" => self.source = Some(value),
            "MAX_IN_FLIGHT" => {
                self.max_in_flight = Some(count(&value).map_err(|expected| {
                    variable_refused(name, format!("`{value}` is not {expected}"))
                })?);
            }
            _ => return refuse_slip(name, rest),
        }
        Ok(())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Dsn::parse(&self.url).map_or_else(|_| HIDDEN.to_owned(), |dsn| dsn.to_string());
        let options: BTreeMap<&str, &str> =
            self.options.iter().map(|(key, value)| (key.as_str(), shown(key, value))).collect();
        f.debug_struct("Config")
            .field("url", &url)
            .field("source", &self.source)
            .field("max_in_flight", &self.max_in_flight)
            .field("options", &options)
            .finish()
    }
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(|cause| {
            let why = format!("the configuration cannot be read: {cause}");
            Error::new(ErrorKind::Config, why).with_source(cause)
        })?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::new(ErrorKind::Config, "the configuration is larger than 1 MiB"));
    }
    Ok(text)
}

fn add_option(dsn: Dsn, key: &str, value: &str) -> Result<Dsn> {
    if dsn.query(key).is_some() {
        return Err(Error::new(
            ErrorKind::Config,
            format!("the option `{key}` is in the URL as well; give it once"),
        ));
    }
    dsn.with_query(key, value)
}

fn count(text: &str) -> Result<usize, String> {
    NonZeroUsize::from_option(text).map(NonZeroUsize::get)
}

fn variable_refused(name: &str, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Config, format!("the variable `{name}` is refused: {why}"))
}

/// Refuses a variable whose name is nearly one that would be read.
fn refuse_slip(name: &str, rest: &str) -> Result<()> {
    let prefix = name.strip_suffix(rest).unwrap_or_default();
    let head = rest.split('_').next().unwrap_or_default();
    let meant = nearest(rest, &VARIABLES).map(str::to_owned).or_else(|| {
        let tail = rest[head.len()..].trim_start_matches('_');
        let tail = if tail.is_empty() { "<KEY>" } else { tail };
        nearest(head, &["OPTION"]).map(|option| format!("{option}_{tail}"))
    });
    meant.map_or(Ok(()), |meant| {
        Err(variable_refused(name, format!("nothing reads it; did you mean `{prefix}{meant}`?")))
    })
}

/// The entries of the configuration, which stand at the root or under `fabric`.
fn unwrap_root(root: Node) -> Result<(At, Vec<Entry>)> {
    let (at, mut entries) = entries_of("a configuration", root)?;
    let Some(n) = entries.iter().position(|entry| entry.key == ROOT) else {
        if let Some(entry) = entries.iter().find(|entry| !KEYS.contains(&entry.key.as_str())) {
            let known = [&[ROOT], KEYS.as_slice()].concat();
            let why = format!("unknown key `{}`{}", entry.key, accepted(&entry.key, &known));
            return Err(entry.at.refuse(why));
        }
        return Ok((at, entries));
    };
    let inner = entries.swap_remove(n);
    entries.retain(|entry| !PROGRAMS.contains(&entry.key.as_str()));
    match entries.first() {
        Some(entry) => Err(entry
            .at
            .refuse(format!("unknown key `{}`; beside `{ROOT}` there is no other", entry.key))),
        None => entries_of("`fabric`", inner.node),
    }
}

fn section_of(text: &str, section: &str, lookup: Lookup<'_>) -> Result<BTreeMap<String, String>> {
    let root = yaml::parse(text)?;
    let Value::Map(entries) = root.value else {
        return Ok(BTreeMap::new());
    };
    let Some(entry) = entries.into_iter().find(|entry| entry.key == section) else {
        return Ok(BTreeMap::new());
    };
    options_of(entry.node, lookup).map(|(texts, _)| texts)
}

fn entries_of(what: &str, node: Node) -> Result<(At, Vec<Entry>)> {
    match node.value {
        Value::Map(entries) => Ok((node.at, entries)),
        _ => Err(node.at.refuse(format!(
            "{what} is a mapping with the key `url`, such as `url: memory://orders`"
        ))),
    }
}

type Options = (BTreeMap<String, String>, Vec<(At, String)>);

fn options_of(node: Node, lookup: Lookup<'_>) -> Result<Options> {
    let entries = match node.value {
        Value::Nothing => Vec::new(),
        Value::Map(entries) => entries,
        _ => {
            let why = "`options` is a mapping of options, such as `max_events: 10000`";
            return Err(node.at.refuse(why));
        }
    };
    let mut options = BTreeMap::new();
    let mut places = Vec::new();
    for Entry { at, key, node } in entries {
        options.insert(key.clone(), text_of(&key, node, lookup)?);
        places.push((at, key));
    }
    Ok((options, places))
}

/// The text of a value, which may be empty only where it is quoted or comes from variables.
fn text_of(key: &str, node: Node, lookup: Lookup<'_>) -> Result<String> {
    match node.value {
        Value::Text(text) => {
            expand(&text, lookup).map_err(|why| node.at.refuse(format!("`{key}`: {why}")))
        }
        Value::Nothing => Err(node.at.refuse(format!("`{key}` has no value"))),
        Value::List | Value::Map(_) => {
            Err(node.at.refuse(format!("`{key}` is one value, neither a list nor a mapping")))
        }
    }
}

fn some_text_of(key: &str, node: Node, lookup: Lookup<'_>) -> Result<String> {
    let at = node.at;
    let text = text_of(key, node, lookup)?;
    if text.is_empty() { Err(at.refuse(format!("`{key}` is empty"))) } else { Ok(text) }
}

/// Puts variables in the place of `${NAME}` and `$` in that of `$$`.
fn expand(text: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let Some((name, after)) = after.strip_prefix('{').and_then(|after| after.split_once('}'))
        else {
            return Err("a `$` starts a variable, `${NAME}`; write `$$` for a `$`".to_owned());
        };
        if !is_variable_name(name) {
            return Err(
                "between `${` and `}` stands the name of a variable and nothing else, made \
                        of letters, digits and `_`"
                    .to_owned(),
            );
        }
        match lookup(name) {
            Ok(value) => expanded.push_str(&value),
            Err(VarError::NotPresent) => return Err(format!("the variable `{name}` is not set")),
            Err(VarError::NotUnicode(_)) => {
                return Err(format!("the variable `{name}` is not UTF-8"));
            }
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn is_variable_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| !c.is_ascii_digit()) && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FULL: &str = "\
fabric:
  url: memory://orders
  source: planner # who publishes
  max_in_flight: 1024
  options:
    max_events: 10000
    max_age: 1h 30m
    ratio: 1.10
    durable: true
";

    fn full() -> Config {
        Config::new("memory://orders")
            .with_source("planner")
            .with_max_in_flight(1024)
            .with_option("max_events", 10_000)
            .with_option("max_age", "1h 30m")
            .with_option("ratio", "1.10")
            .with_option("durable", true)
    }

    fn yaml(text: &str) -> Result<Config> {
        Config::from_yaml_with(text, &|name| match name {
            "PASSWORD" => Ok("swordfish".to_owned()),
            "EMPTY" => Ok(String::new()),
            "NESTED" => Ok("${PASSWORD}: [".to_owned()),
            "BYTES" => Err(VarError::NotUnicode("swordfish".into())),
            _ => Err(VarError::NotPresent),
        })
    }

    fn refused<T: fmt::Debug>(result: Result<T>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        format!("{error:#}")
    }

    #[test]
    fn a_file_has_the_keys_under_a_root_or_at_the_left() {
        assert_eq!(yaml(FULL).unwrap(), full());
        let flat = FULL.replace("fabric:\n", "").replace("\n  ", "\n").replacen("  ", "", 1);
        assert_eq!(yaml(&flat).unwrap(), full());
        assert_eq!(yaml("url: memory://").unwrap(), Config::new("memory://"));
        assert_eq!(yaml("\u{feff}---\nurl: memory://\noptions:\n...\n").unwrap().options.len(), 0);
        assert_eq!(
            full().dsn().unwrap().to_string(),
            "memory://orders?durable=true&max_age=1h%2030m&max_events=10000&ratio=1.10"
        );
    }

    #[test]
    fn variables_are_put_into_values() {
        let config = yaml(
            "url: redis://ann:${PASSWORD}@h\nsource: a$$b$${PASSWORD}\noptions: {n: '${NESTED}', \
             e: '${EMPTY}', 'two': \"${PASSWORD}-${PASSWORD}\"}",
        )
        .unwrap();
        assert_eq!(config.dsn().unwrap().password().unwrap().reveal(), "swordfish");
        assert_eq!(config.source.as_deref(), Some("a$b${PASSWORD}"));
        assert_eq!(config.options["n"], "${PASSWORD}: [");
        assert_eq!(config.options["e"], "");
        assert_eq!(config.options["two"], "swordfish-swordfish");
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_its_place() {
        for (text, place, piece) in [
            ("", "line 1, column 1", "a configuration is a mapping with the key `url`"),
            ("# nothing", "line 1", "a configuration is a mapping"),
            ("~", "line 1, column 1", "such as `url: memory://orders`"),
            ("memory://orders", "line 1, column 1", "a configuration is a mapping"),
            ("- url: memory://", "line 1, column 1", "a configuration is a mapping"),
            ("fabric:", "line 1", "`fabric` is a mapping with the key `url`"),
            ("fabric: memory://", "line 1, column 9", "`fabric` is a mapping"),
            ("source: a", "line 1, column 1", "the key `url` is missing"),
            ("fabric:\n  source: a", "line 2, column 3", "the key `url` is missing"),
            (
                "url: memory://\nsorce: a",
                "line 2, column 1",
                "unknown key `sorce` (did you mean `source`?); accepted: `fabric`, `url`, \
                 `source`, `max_in_flight`, `options`",
            ),
            (
                "fabric:\n  url: memory://\n  max-in-flight: 3",
                "line 3, column 3",
                "unknown key `max-in-flight` (did you mean `max_in_flight`?); accepted: `url`, \
                 `source`, `max_in_flight`, `options`",
            ),
            (
                "fabric:\n  url: memory://\nurl: memory://",
                "line 3, column 1",
                "unknown key `url`; beside `fabric` there is no other",
            ),
            ("url: a\nurl: b", "line 2, column 1", "the key `url` is given twice"),
            ("url:", "line 1", "`url` has no value"),
            ("url: [memory://]", "line 1, column 6", "`url` is one value"),
            (
                "url: redis:h",
                "line 1, column 6",
                "`url`: the DSN is refused at byte 0: there is no `://`",
            ),
            (
                "url: redis://h:x",
                "line 1, column 6",
                "`url`: the DSN is refused at byte 10: the port is not a number",
            ),
            ("url: memory://\nsource: ''", "line 2, column 9", "`source` is empty"),
            ("url: memory://\nsource: ${EMPTY}", "line 2, column 9", "`source` is empty"),
            (
                "url: memory://\nmax_in_flight: 0",
                "line 2, column 16",
                "`max_in_flight: 0`: expected a whole number from 1 to",
            ),
            (
                "url: memory://\nmax_in_flight: 1e3",
                "line 2, column 16",
                "`max_in_flight: 1e3`: expected a whole number from 1 to",
            ),
            (
                "url: memory://\noptions: 7",
                "line 2, column 10",
                "`options` is a mapping of options",
            ),
            ("url: memory://\noptions: [a]", "line 2, column 10", "`options` is a mapping"),
            ("url: memory://\noptions: {a: }", "line 2", "`a` has no value"),
            (
                "url: memory://\noptions:\n  a: {b: c}",
                "line 3, column 6",
                "`a` is one value, neither a list nor a mapping",
            ),
            (
                "url: memory://?a=1\noptions:\n  b: 1\n  a: 1",
                "line 4, column 3",
                "the option `a` is in the URL as well; give it once",
            ),
            (
                "url: memory://\noptions:\n  a b: 1",
                "line 3, column 3",
                "the name of an option is made of letters",
            ),
            (
                "url: memory://\noptions:\n  a: |\n    b\n",
                "line 3, column 3",
                "the value of the option `a` has a control character",
            ),
            ("url: ${NO_SUCH}", "line 1, column 6", "`url`: the variable `NO_SUCH` is not set"),
            ("url: ${BYTES}", "line 1, column 6", "`url`: the variable `BYTES` is not UTF-8"),
            ("url: a$b", "line 1, column 6", "`url`: a `$` starts a variable, `${NAME}`"),
            ("url: a$", "line 1, column 6", "write `$$` for a `$`"),
            ("url: ${A", "line 1, column 6", "write `$$` for a `$`"),
            ("url: ${A:-b}", "line 1, column 6", "the name of a variable and nothing else"),
            ("url: ${}", "line 1, column 6", "the name of a variable and nothing else"),
            ("url: ${1A}", "line 1, column 6", "the name of a variable and nothing else"),
            ("url: &a memory://", "line 1", "anchors are not allowed"),
            ("url: !b memory://", "line 1", "tags are not allowed"),
            ("url: *a", "line 1, column 6", "anchor"),
            ("[a]: b", "line 1, column 1", "a key is a word"),
            ("~: b", "line 1, column 1", "a key is a word"),
            ("url: memory://\n---\nurl: memory://", "line 2, column 1", "one document"),
            ("a: {b: {c: {d: {e: f}}}}", "line 1, column 16", "nested too deep"),
            ("url: 'memory://", "line 1", "the configuration is refused at"),
            ("url: memory://\n\tsource: a", "line 1", "found a tab"),
        ] {
            let error = refused(yaml(text));
            let start = format!("the configuration is refused at {place}");
            assert!(error.starts_with(&start), "{text:?}: {error}");
            assert!(error.contains(piece), "{text:?}: {error}");
        }
    }

    #[test]
    fn aliases_cannot_grow_a_configuration() {
        let mut text = "a: &a [x, x]\n".to_owned();
        for n in 1..40 {
            text.push_str(&format!("b{n}: &b{n} [*a, *a]\n"));
        }
        assert!(refused(yaml(&text)).contains("anchors are not allowed"));
        assert!(refused(yaml(&"[".repeat(100_000))).contains("is refused at line 1"));
        assert!(refused(yaml(&"{a: ".repeat(100))).contains("is refused at line 1"));
    }

    #[test]
    fn a_file_is_read_and_named_in_errors() {
        let path = env::temp_dir().join(format!("fabric-config-{}.yaml", std::process::id()));
        std::fs::write(&path, FULL).unwrap();
        assert_eq!(Config::from_file(&path).unwrap(), full());

        let named = format!("(file: {})", path.display());
        std::fs::write(&path, "url: [").unwrap();
        let error = refused(Config::from_file(&path));
        assert!(error.starts_with("the configuration is refused at line 1"), "{error}");
        assert!(error.ends_with(&named), "{error}");

        std::fs::write(&path, "#".repeat(1024 * 1024 + 1)).unwrap();
        let error = refused(Config::from_file(&path));
        assert_eq!(error, format!("the configuration is larger than 1 MiB {named}"));

        std::fs::remove_file(&path).unwrap();
        let error = refused(Config::from_file(&path));
        assert!(error.starts_with("the configuration cannot be read: "), "{error}");
        assert!(error.contains(&named), "{error}");
    }

    #[test]
    fn the_environment_says_the_same() {
        let variables = [
            ("FABRIC_URL", "memory://orders"),
            ("FABRIC_SOURCE", "planner"),
            ("FABRIC_MAX_IN_FLIGHT", "1024"),
            ("FABRIC_OPTION_MAX_EVENTS", "10000"),
            ("FABRIC_OPTION_MAX_AGE", "1h 30m"),
            ("FABRIC_OPTION_RATIO", "1.10"),
            ("FABRIC_OPTION_DURABLE", "true"),
            // Others that happen to start alike.
            ("FABRIC_TEST_NATS_URL", "nats://h"),
            ("FABRIC_SERVICE_HOST", "10.0.0.1"),
            ("FABRIC_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
            ("FABRICATE_URL", "x"),
            ("URL", "x"),
        ];
        assert_eq!(Config::from_vars("FABRIC", variables).unwrap(), full());
        assert_eq!(Config::from_vars("FABRIC_", variables).unwrap(), full());

        let unset = [("A_URL", "memory://"), ("A_SOURCE", ""), ("A_MAX_IN_FLIGHT", "")];
        assert_eq!(Config::from_vars("A", unset).unwrap(), Config::new("memory://"));
    }

    #[test]
    fn variables_are_refused_by_name() {
        for (variables, text) in [
            (vec![], "the variable `A_URL` is not set; it holds the URL to connect to"),
            (
                vec![("A_URL", "")],
                "the variable `A_URL` is not set; it holds the URL to connect to",
            ),
            (
                vec![("A_URL", "memory://\n")],
                "the variable `A_URL` is refused: the DSN is refused at byte 9: white space and \
                 control characters are not allowed",
            ),
            (
                vec![("A_URL", "memory://"), ("A_SORCE", "x")],
                "the variable `A_SORCE` is refused: nothing reads it; did you mean `A_SOURCE`?",
            ),
            (
                vec![("A_MAX_INFLIGHT", "7")],
                "the variable `A_MAX_INFLIGHT` is refused: nothing reads it; did you mean \
                 `A_MAX_IN_FLIGHT`?",
            ),
            (
                vec![("A_OPTIONS_MAX_AGE", "7")],
                "the variable `A_OPTIONS_MAX_AGE` is refused: nothing reads it; did you mean \
                 `A_OPTION_MAX_AGE`?",
            ),
            (
                vec![("A_OPTION", "7")],
                "the variable `A_OPTION` is refused: nothing reads it; did you mean \
                 `A_OPTION_<KEY>`?",
            ),
            (
                vec![("A_OPTION_X", "7"), ("A_OPTION_x", "7")],
                "the variable `A_OPTION_x` is refused: another variable sets the same option",
            ),
            (
                vec![("A_URL", "memory://?x=1"), ("A_OPTION_X", "7")],
                "the variable `A_OPTION_X` is refused: the option `x` is in the URL as well; give \
                 it once",
            ),
            (
                vec![("A_URL", "memory://"), ("A_OPTION_", "7")],
                "the variable `A_OPTION_` is refused: the name of an option is made of letters, \
                 digits, `_`, `-` and `.`",
            ),
        ] {
            assert_eq!(refused(Config::from_vars("A", variables)), text);
        }
        let error = refused(Config::from_vars("A", [("A_MAX_IN_FLIGHT", "-1")]));
        let start =
            "the variable `A_MAX_IN_FLIGHT` is refused: `-1` is not a whole number from 1 to";
        assert!(error.starts_with(start), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn variables_that_are_not_utf8_matter_only_where_they_are_read() {
        use std::os::unix::ffi::OsStringExt as _;

        let wrong = || OsString::from_vec(vec![b's', 0xff]);
        let url = || ("A_URL".into(), "memory://".into());
        let others =
            [url(), ("B_URL".into(), wrong()), ("A_OTHER".into(), wrong()), (wrong(), wrong())];
        assert_eq!(
            Config::from_os_vars("A", others.into_iter()).unwrap(),
            Config::new("memory://")
        );
        let ours = [url(), ("A_OPTION_X".into(), wrong())];
        assert_eq!(
            refused(Config::from_os_vars("A", ours.into_iter())),
            "the variable `A_OPTION_X` is refused: its value is not UTF-8"
        );
    }

    #[test]
    fn an_option_is_set_in_one_place() {
        let config = Config::new("memory://x?a=1").with_option("b", 2);
        assert_eq!(config.dsn().unwrap().to_string(), "memory://x?a=1&b=2");
        assert_eq!(
            refused(config.with_option("a", 2).dsn()),
            "the option `a` is in the URL as well; give it once"
        );
        assert!(refused(Config::new("memory:/").dsn()).contains("there is no `://`"));
    }

    #[test]
    fn secrets_do_not_print() {
        let config = yaml(
            "{ url: 'redis://ann:${PASSWORD}@h?token=${PASSWORD}', options: { api_key: \
             '${PASSWORD}', registry: 'http://ann:${PASSWORD}@r', a: b } }",
        )
        .unwrap();
        assert_eq!(
            format!("{config:?}"),
            r#"Config { url: "redis://ann:***@h?token=***", source: None, max_in_flight: None, options: {"a": "b", "api_key": "***", "registry": "***"} }"#
        );
        assert!(format!("{:?}", config.dsn().unwrap().query("api_key")).contains("swordfish"));
        assert!(
            !format!("{:?} {}", config.dsn().unwrap(), config.dsn().unwrap()).contains("sword")
        );
        let broken = Config::new("redis://ann:swordfish@h:x");
        assert!(!format!("{broken:#?} {:?}", broken.dsn().unwrap_err()).contains("swordfish"));
    }

    #[test]
    fn no_error_repeats_a_secret() {
        for text in [
            "url: redis://ann:swordfish@h:x",
            "url: redis:ann:swordfish@h",
            "url: redis://ann:${PASSWORD}@:",
            "url: redis://ann:${PASSWORD}",
            "url: ${PASSWORD}",
            "url: *swordfish",
            "url: !swordfish",
            "url: !swordfish!x y",
            "url: &swordfish x",
            "url: @swordfish",
            "url: `swordfish",
            "url: 'swordfish",
            "url: \"swordfish\\q\"",
            "url: {swordfish}",
            "url: swordfish: x",
            "url: %swordfish",
            "url: memory://\noptions: {password: [swordfish]}",
            "url: memory://\noptions: {password: \"swordfish\\n\"}",
            "url: memory://?password=swordfish\noptions: {password: swordfish}",
            "url: memory://\noptions: {password: $swordfish}",
            "url: memory://\noptions: {password: 'a${swordfish fish}'}",
        ] {
            let Err(error) = yaml(text) else { panic!("{text}") };
            assert!(!format!("{error:#} {error:?}").contains("swordfish"), "{text}: {error}");
        }
        for variables in [
            vec![("A_URL", "redis://ann:swordfish")],
            vec![("A_URL", "memory://?token=swordfish"), ("A_OPTION_TOKEN", "swordfish")],
            vec![("A_URL", "memory://"), ("A_OPTION_TOKEN", "swordfish\n")],
            vec![("A_URL", "memory://"), ("A_SURCE", "swordfish")],
        ] {
            let error = Config::from_vars("A", variables).unwrap_err();
            assert!(!format!("{error:#} {error:?}").contains("swordfish"), "{error}");
        }
    }

    #[test]
    fn a_program_keeps_its_settings_beside_the_connection() {
        let text = "fabric:\n  url: memory://\nbroker:\n  hwm: 500\n  frontend: tcp://*:5556\n";
        let config = Config::from_yaml_with(text, &|_| Err(VarError::NotPresent)).unwrap();
        assert_eq!(config.url, "memory://");
        let read = |section| section_of(text, section, &|_| Err(VarError::NotPresent)).unwrap();
        assert_eq!(read("broker")["hwm"], "500");
        assert_eq!(read("broker").len(), 2);
        assert!(read("relay").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), rest in any::<String>()) {
            let _ = yaml(&text);
            let _ = yaml(&format!("url: memory://\n{rest}"));
            let _ = Config::from_vars("A", [("A_URL".to_owned(), text), (format!("A_{rest}"), rest)]);
        }

        #[test]
        fn text_close_to_yaml_is_read_or_refused(
            text in "((fabric|url|options|a)?[:{}\\[\\],&*!|>'\"%@`#$~ \n-]{1,3}){0,12}",
        ) {
            let _ = yaml(&text);
        }

        #[test]
        fn text_without_variables_stays_as_it_is(text in "[^$]*") {
            let doubled = format!("{text}$${text}");
            let once = format!("{text}${text}");
            let lookup: Lookup<'_> = &|_| Err(VarError::NotPresent);
            prop_assert_eq!(expand(&text, lookup).unwrap(), text);
            prop_assert_eq!(expand(&doubled, lookup).unwrap(), once);
        }

        #[test]
        fn a_quoted_value_reads_back(source in "[^$\\pC]{1,20}") {
            let quoted = serde_json::to_string(&source).unwrap();
            let config = yaml(&format!("url: memory://\nsource: {quoted}")).unwrap();
            prop_assert_eq!(config.source, Some(source));
        }
    }
}
