//! The connection URL, with several hosts and with secrets that do not print.

mod options;
mod units;

use std::fmt::{self, Write as _};
use std::net::Ipv6Addr;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

pub use self::options::{DsnOptions, OptionValue};
#[cfg(feature = "config")]
pub(crate) use self::options::{accepted, nearest};
pub use self::units::{parse_bytes, parse_duration};
use crate::secret::{HIDDEN, is_secret};
use crate::{Error, ErrorKind, Result, Secret};

/// A connection URL: which backend, over which transport, where, as whom, with which options.
///
/// ```text
/// scheme[+transport]://[user[:password]@][host[:port][,host[:port]]…][/path][?key=value[&key=value]…]
/// ```
///
/// * `memory://` names no place, `memory://orders` a fabric inside this process.
/// * `kafka://a:9092,b:9092` names several hosts. A host made of digits alone is another port of
///   the host before it: `zmq+tcp://broker:5555,5556` is `broker:5555` and `broker:5556`.
/// * `redis://[::1]:6379` holds an IPv6 address, in brackets.
/// * `zmq+ipc:///tmp/fabric` has no host and the [path](Self::path) `/tmp/fabric`.
/// * The scheme and the transport are read without regard to case; hosts, paths and options keep
///   theirs.
///
/// User, password, path and the values of options are percent-decoded. Where `@`, `#`, a space or
/// another character with a meaning of its own belongs to one of them, it is written as an escape
/// (`%40`, `%23`, `%20`); anything else is refused, since it is mostly half of a password.
/// A `+` stands for itself.
///
/// [`Display`](fmt::Display) and [`Debug`](fmt::Debug) print `***` in place of the password, of a
/// user without a password (NATS reads it as a token), of each option with a word in its name that
/// ends in `auth`, `cred`, `credential`, `jwt`, `key`, `pass`, `passphrase`, `passwd`, `password`,
/// `pwd`, `secret` or `token`, or the plural, and of an option that is itself a URL with a user in
/// it. A client library that wants the whole DSN gets it from [`reveal`](Self::reveal).
///
/// ```
/// use fabric_core::Dsn;
///
/// let dsn = Dsn::parse("nats+tls://ann:sword%40fish@a:4222,b:4222/eu?stream=orders")?;
/// assert_eq!((dsn.scheme(), dsn.transport()), ("nats", Some("tls")));
/// assert_eq!(dsn.user(), Some("ann"));
/// assert_eq!(dsn.password().map(|password| password.reveal()), Some("sword@fish"));
/// assert_eq!(dsn.hosts()[1].to_string(), "b:4222");
/// assert_eq!(dsn.path(), "/eu");
/// assert_eq!(dsn.query("stream"), Some("orders"));
/// assert_eq!(dsn.to_string(), "nats+tls://ann:***@a:4222,b:4222/eu?stream=orders");
/// # Ok::<(), fabric_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    scheme: String,
    transport: Option<String>,
    user: Option<String>,
    password: Option<Secret>,
    hosts: Vec<Host>,
    path: String,
    query: Vec<(String, String)>,
}

impl Dsn {
    /// Parses a connection URL.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the byte where the rule is broken and the rule. The error never
    /// repeats text that may be part of a secret.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(end) = text.find("://") else {
            return Err(refused(
                0,
                "there is no `://`; a DSN is `scheme://host:port/path?key=value`, such as \
                 `memory://orders`",
            ));
        };
        let (scheme, transport) = parse_scheme(&text[..end])?;
        let start = end + "://".len();
        refuse_raw(text, start)?;

        let rest = &text[start..];
        let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
        let tail = &rest[authority.len()..];
        let tail_at = start + authority.len();
        if let Some(at) = tail.find('@') {
            return Err(refused(
                tail_at + at,
                "an `@` after the first `/` or `?`; if these are part of a password, write \
                 `%2F` and `%3F` there, else write the `@` as `%40`",
            ));
        }

        let (user, password, hosts) = parse_authority(authority, start)?;
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let query_at = tail_at + path.len() + 1;
        Ok(Self {
            scheme,
            transport,
            user,
            password,
            hosts,
            path: decode(path, tail_at, "path")?,
            query: parse_query(query, query_at)?,
        })
    }

    /// The scheme in lower case, without the transport: `zmq` for `zmq+tcp://…`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The transport in lower case: `tcp` for `zmq+tcp://…`.
    #[must_use]
    pub fn transport(&self) -> Option<&str> {
        self.transport.as_deref()
    }

    /// Everything before the `://`, in lower case: `zmq+tcp`.
    #[must_use]
    pub fn full_scheme(&self) -> String {
        match &self.transport {
            Some(transport) => format!("{}+{transport}", self.scheme),
            None => self.scheme.clone(),
        }
    }

    /// The user, decoded. `redis://:password@host` has none.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password, decoded.
    #[must_use]
    pub const fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// The hosts in the order given; empty for `memory://` and for `zmq+ipc:///path`.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The path, decoded, with its leading `/`, or nothing: `amqp://host` has the path ``,
    /// `amqp://host/` the path `/` and `amqp://host/%2F` the path `//`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of one option, decoded.
    #[must_use]
    pub fn query(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// All options in the order given, decoded.
    pub fn query_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.query.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Reads the options by name and type, refusing unknown ones.
    pub const fn options(&self) -> DsnOptions<'_> {
        DsnOptions::new(self)
    }

    /// Sets one option, in the place of the value it has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if `key` is not made of `A`–`Z`, `a`–`z`, `0`–`9`, `_`, `-` and `.`, or
    /// the value has control characters.
    pub fn with_query(mut self, key: &str, value: impl fmt::Display) -> Result<Self> {
        check_key(key)?;
        let value = value.to_string();
        if value.contains(char::is_control) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("the value of the option `{key}` has a control character"),
            ));
        }
        match self.query.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.query.push((key.to_owned(), value)),
        }
        Ok(self)
    }

    /// The whole DSN with its secrets in it, as [`parse`](Self::parse) reads it: hand it to the
    /// client library, and nowhere else.
    #[must_use]
    pub fn reveal(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text, true);
        text
    }

    fn write(&self, f: &mut impl fmt::Write, reveal: bool) -> fmt::Result {
        f.write_str(&self.scheme)?;
        if let Some(transport) = &self.transport {
            write!(f, "+{transport}")?;
        }
        f.write_str("://")?;
        match (&self.user, &self.password) {
            (None, None) => {}
            (Some(token), None) if reveal => write!(f, "{}@", encode(token, &USER))?,
            (Some(_), None) => write!(f, "{HIDDEN}@")?,
            (user, Some(password)) => {
                write!(f, "{}:", encode(user.as_deref().unwrap_or_default(), &USER))?;
                if reveal {
                    write!(f, "{}@", encode(password.reveal(), &USER))?;
                } else {
                    write!(f, "{HIDDEN}@")?;
                }
            }
        }
        for (n, host) in self.hosts.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{host}")?;
        }
        write!(f, "{}", encode(&self.path, &PATH))?;
        for (n, (key, value)) in self.query.iter().enumerate() {
            write!(f, "{}{key}=", if n == 0 { '?' } else { '&' })?;
            if is_secret(key, value) && !reveal {
                f.write_str(HIDDEN)?;
            } else {
                write!(f, "{}", encode(value, &VALUE))?;
            }
        }
        Ok(())
    }
}

impl FromStr for Dsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, false)
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dsn(")?;
        self.write(f, false)?;
        f.write_char(')')
    }
}

/// One host of a [`Dsn`], as `name:port` or `name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Host {
    /// A name, an IPv4 address, an IPv6 address without its brackets, or `*` for every address of
    /// this machine.
    pub name: String,
    /// The port, if there is one; 0 asks for any free one where a backend listens.
    pub port: Option<u16>,
}

impl Host {
    /// A host by name or address (IPv6 without brackets), such as a backend's default.
    pub fn new(name: impl Into<String>, port: Option<u16>) -> Self {
        Self { name: name.into(), port }
    }

    /// The port, or the backend's own where none is given.
    #[must_use]
    pub const fn port_or(&self, default: u16) -> u16 {
        match self.port {
            Some(port) => port,
            None => default,
        }
    }
}

impl fmt::Display for Host {
    /// The form that resolvers and client libraries take: `name:port`, `[::1]:port`, `name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]", self.name)?;
        } else {
            f.write_str(&self.name)?;
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// What stands for itself in a user or password.
const USER: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What stands for itself in a path.
const PATH: AsciiSet = USER.remove(b'/').remove(b':').remove(b'*').remove(b',');
/// What stands for itself in the value of an option.
const VALUE: AsciiSet = PATH.remove(b'+').remove(b'>');

fn encode<'a>(text: &'a str, escaped: &'static AsciiSet) -> impl fmt::Display + use<'a> {
    utf8_percent_encode(text, escaped)
}

fn refused(at: usize, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Config, format!("the DSN is refused at byte {at}: {why}"))
}

fn parse_scheme(text: &str) -> Result<(String, Option<String>)> {
    let text = text.to_ascii_lowercase();
    let (scheme, transport) = match text.split_once('+') {
        Some((scheme, transport)) => (scheme, Some(transport)),
        None => (text.as_str(), None),
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let check = |part: &str, at: usize| {
        let starts_well = part.starts_with(|c: char| c.is_ascii_lowercase());
        let wrong = if starts_well { part.find(|c| !allowed(c)) } else { Some(0) };
        wrong.map_or(Ok(()), |wrong| {
            Err(refused(
                at + wrong,
                "a scheme is a letter and then letters, digits, `-` and `.`, with at most one \
                 transport after a `+`, such as `memory` or `zmq+tcp`",
            ))
        })
    };
    check(scheme, 0)?;
    if let Some(transport) = transport {
        check(transport, scheme.len() + 1)?;
    }
    Ok((scheme.to_owned(), transport.map(str::to_owned)))
}

/// Refuses the characters that have to be escaped wherever they stand.
fn refuse_raw(text: &str, start: usize) -> Result<()> {
    let wrong = |c: char| c == '#' || c.is_whitespace() || c.is_control();
    let Some((at, found)) = text[start..].char_indices().find(|(_, c)| wrong(*c)) else {
        return Ok(());
    };
    let at = start + at;
    match found {
        '#' => Err(refused(at, "write `#` as `%23`; a DSN has no fragment")),
        ' ' => Err(refused(at, "write a space as `%20`")),
        _ => Err(refused(at, "white space and control characters are not allowed")),
    }
}

type Authority = (Option<String>, Option<Secret>, Vec<Host>);

fn parse_authority(text: &str, at: usize) -> Result<Authority> {
    let Some((userinfo, hosts)) = text.rsplit_once('@') else {
        // Without an `@` the text may be a password whose `@host` was forgotten: do not repeat it.
        return Ok((None, None, parse_hosts(text, at, false)?));
    };
    if let Some(second) = userinfo.find('@') {
        return Err(refused(
            at + second,
            "there are two `@`; write the one in the user or password as `%40`, and give one \
             user for all hosts",
        ));
    }
    let hosts = parse_hosts(hosts, at + userinfo.len() + 1, true)?;
    let (user, password) = match userinfo.split_once(':') {
        Some((user, password)) => (user, Some((password, at + user.len() + 1))),
        None => (userinfo, None),
    };
    if user.is_empty() && password.is_none() {
        return Err(refused(at, "there is no user before the `@`"));
    }
    let user = decode(user, at, "user")?;
    let password = password.map(|(password, at)| decode(password, at, "password")).transpose()?;
    Ok((Some(user).filter(|user| !user.is_empty()), password.map(Secret::from), hosts))
}

fn parse_hosts(text: &str, mut at: usize, shown: bool) -> Result<Vec<Host>> {
    let mut hosts: Vec<Host> = Vec::new();
    if text.is_empty() {
        return Ok(hosts);
    }
    for part in text.split(',') {
        let is_port = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let host = match hosts.last() {
            Some(last) if is_port => {
                Host { name: last.name.clone(), port: Some(parse_port(part, at, shown)?) }
            }
            _ => parse_host(part, at, shown)?,
        };
        hosts.push(host);
        at += part.len() + 1;
    }
    Ok(hosts)
}

fn parse_host(text: &str, at: usize, shown: bool) -> Result<Host> {
    let (name, port) = if let Some(inner) = text.strip_prefix('[') {
        let Some((name, port)) = inner.split_once(']') else {
            return Err(refused(at, "the `[` of an IPv6 address is not closed"));
        };
        if name.parse::<Ipv6Addr>().is_err() {
            return Err(refused(
                at + 1,
                "between `[` and `]` stands an IPv6 address, such as `::1`",
            ));
        }
        match port.strip_prefix(':') {
            None if !port.is_empty() => {
                let at = at + text.len() - port.len();
                return Err(refused(at, "after `]` comes `:port`, `,host`, `/path` or the end"));
            }
            port => (name, port),
        }
    } else {
        match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        }
    };
    check_host_name(name, at, text.starts_with('['))?;
    let port = match port {
        Some(port) => Some(parse_port(port, at + text.len() - port.len(), shown)?),
        None => None,
    };
    Ok(Host { name: name.to_owned(), port })
}

fn check_host_name(name: &str, at: usize, is_ipv6: bool) -> Result<()> {
    if is_ipv6 {
        return Ok(());
    }
    if name.is_empty() {
        return Err(refused(at, "a host is missing here"));
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused(
            at,
            "digits alone are another port of the host before them, and there is none; write \
             `host:port`",
        ));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '*');
    match name.char_indices().find(|(_, c)| !allowed(*c)) {
        Some((n, wrong)) => Err(refused(
            at + n,
            format!(
                "{wrong:?} in a host; a host is a name of letters, digits, `-`, `.`, `_`, `~` and \
                 `*`, or an IPv6 address in `[` and `]`"
            ),
        )),
        None => Ok(()),
    }
}

fn parse_port(text: &str, at: usize, shown: bool) -> Result<u16> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_digits).ok_or_else(|| {
        if shown {
            refused(at, format!("the port `{text}` is not a number from 0 to 65535"))
        } else {
            refused(
                at,
                "the port is not a number from 0 to 65535; if this is `user:password`, `@host` is \
                 missing after it",
            )
        }
    })
}

fn parse_query(text: &str, mut at: usize) -> Result<Vec<(String, String)>> {
    let mut query: Vec<(String, String)> = Vec::new();
    if text.is_empty() {
        return Ok(query);
    }
    for pair in text.split('&') {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(refused(at, "an option is `key=value`, and the `=` is missing"));
        };
        let value_at = at + key.len() + 1;
        let key = decode(key, at, "name of an option")?;
        check_key(&key).map_err(|error| refused(at, error.message()))?;
        if query.iter().any(|(known, _)| *known == key) {
            return Err(refused(at, format!("the option `{key}` is given twice")));
        }
        query.push((key, decode(value, value_at, "value of an option")?));
        at += pair.len() + 1;
    }
    Ok(query)
}

fn check_key(key: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !key.is_empty() && key.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        "the name of an option is made of letters, digits, `_`, `-` and `.`",
    ))
}

/// Decodes the escapes, strictly: a `%` is followed by two hexadecimal digits.
fn decode(text: &str, at: usize, what: &str) -> Result<String> {
    for (n, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(n + 1..n + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(refused(
                at + n,
                format!("a `%` in the {what} without two hexadecimal digits; write it as `%25`"),
            ));
        }
    }
    let Ok(decoded) = percent_decode_str(text).decode_utf8() else {
        return Err(refused(at, format!("the {what} is not UTF-8 once decoded")));
    };
    if decoded.contains(char::is_control) {
        return Err(refused(at, format!("the {what} has a control character once decoded")));
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(name: &str, port: impl Into<Option<u16>>) -> Host {
        Host { name: name.to_owned(), port: port.into() }
    }

    fn error(text: &str) -> String {
        let error = Dsn::parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        format!("{error:#}")
    }

    #[test]
    fn schemes_and_transports() {
        for (text, scheme, transport, full) in [
            ("memory://", "memory", None, "memory"),
            ("Memory://orders", "memory", None, "memory"),
            ("zmq+tcp://h:1", "zmq", Some("tcp"), "zmq+tcp"),
            ("ZMQ+IPC:///tmp/x", "zmq", Some("ipc"), "zmq+ipc"),
            ("a3s-x.1://h", "a3s-x.1", None, "a3s-x.1"),
        ] {
            let dsn: Dsn = text.parse().unwrap();
            assert_eq!(dsn.scheme(), scheme, "{text}");
            assert_eq!(dsn.transport(), transport, "{text}");
            assert_eq!(dsn.full_scheme(), full, "{text}");
        }
    }

    #[test]
    fn hosts_and_paths() {
        for (text, hosts, path) in [
            ("memory://", vec![], ""),
            ("memory://orders", vec![host("orders", None)], ""),
            ("memory://?a=b", vec![], ""),
            ("kafka://a:9092,b:9092", vec![host("a", 9092), host("b", 9092)], ""),
            ("kafka://a,b:9092", vec![host("a", None), host("b", 9092)], ""),
            ("zmq+tcp://h:5555,5556", vec![host("h", 5555), host("h", 5556)], ""),
            (
                "zmq+tcp://h:1,2,g,3",
                vec![host("h", 1), host("h", 2), host("g", None), host("g", 3)],
                "",
            ),
            ("zmq+tcp://*:5555", vec![host("*", 5555)], ""),
            ("zmq+tcp://127.0.0.1:0", vec![host("127.0.0.1", 0)], ""),
            ("redis://[::1]:6379/0", vec![host("::1", 6379)], "/0"),
            ("redis://[2001:db8::1],[::2]:7", vec![host("2001:db8::1", None), host("::2", 7)], ""),
            ("redis://[::1]:6379,6380", vec![host("::1", 6379), host("::1", 6380)], ""),
            ("zmq+ipc:///tmp/x", vec![], "/tmp/x"),
            ("zmq+ipc:////tmp/x", vec![], "//tmp/x"),
            ("amqp://h", vec![host("h", None)], ""),
            ("amqp://h/", vec![host("h", None)], "/"),
            ("amqp://h/%2F", vec![host("h", None)], "//"),
            ("amqp://my_host/a%20b", vec![host("my_host", None)], "/a b"),
        ] {
            let dsn = Dsn::parse(text).unwrap();
            assert_eq!(dsn.hosts(), hosts, "{text}");
            assert_eq!(dsn.path(), path, "{text}");
            assert_eq!(Dsn::parse(&dsn.to_string()).unwrap(), dsn, "{text}");
        }
    }

    #[test]
    fn users_and_passwords() {
        for (text, user, password) in [
            ("redis://h", None, None),
            ("redis://ann@h", Some("ann"), None),
            ("redis://ann:swordfish@h", Some("ann"), Some("swordfish")),
            ("redis://:swordfish@h", None, Some("swordfish")),
            ("redis://ann:@h", Some("ann"), Some("")),
            ("redis://ann:a:b@h", Some("ann"), Some("a:b")),
            ("redis://a%3Ab:c%40%2F%3F%23%25@h", Some("a:b"), Some("c@/?#%")),
            ("redis://ann:p+w@h", Some("ann"), Some("p+w")),
            ("redis+unix://ann:pw@/run/x", Some("ann"), Some("pw")),
        ] {
            let dsn = Dsn::parse(text).unwrap();
            assert_eq!(dsn.user(), user, "{text}");
            assert_eq!(dsn.password().map(Secret::reveal), password, "{text}");
            assert_eq!(Dsn::parse(&dsn.reveal()).unwrap(), dsn, "{text}");
        }
    }

    #[test]
    fn options_in_the_query() {
        let dsn = Dsn::parse("memory://x?b=1&a=&c=x%26y%3D+z&d=/tmp/a:b").unwrap();
        let pairs: Vec<_> = dsn.query_pairs().collect();
        assert_eq!(pairs, [("b", "1"), ("a", ""), ("c", "x&y=+z"), ("d", "/tmp/a:b")]);
        assert_eq!(dsn.query("c"), Some("x&y=+z"));
        assert_eq!(dsn.query("C"), None);
        assert_eq!(dsn.to_string(), "memory://x?b=1&a=&c=x%26y%3D+z&d=/tmp/a:b");
        assert_eq!(Dsn::parse("memory://x?").unwrap(), Dsn::parse("memory://x").unwrap());

        let dsn = dsn.with_query("b", 2).unwrap().with_query("e", "5 s").unwrap();
        assert_eq!(dsn.to_string(), "memory://x?b=2&a=&c=x%26y%3D+z&d=/tmp/a:b&e=5%20s");
        let error = dsn.clone().with_query("e e", 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains("letters, digits, `_`, `-` and `.`"), "{error}");
        let error = dsn.with_query("token", "a\nb").unwrap_err();
        assert_eq!(error.message(), "the value of the option `token` has a control character");
    }

    #[test]
    fn what_is_no_dsn_is_refused_with_place_and_rule() {
        for (text, at, piece) in [
            ("", 0, "there is no `://`"),
            ("localhost:6379", 0, "such as `memory://orders`"),
            ("redis:/h", 0, "there is no `://`"),
            ("://h", 0, "a scheme is a letter"),
            ("1a://h", 0, "a scheme is a letter"),
            ("a_b://h", 1, "a scheme is a letter"),
            ("zmq+://h", 4, "at most one transport after a `+`"),
            ("zmq+tcp+x://h", 7, "at most one transport after a `+`"),
            ("redis://h#1", 9, "write `#` as `%23`"),
            ("redis://h/a b", 11, "write a space as `%20`"),
            ("redis://h\n", 9, "white space and control characters"),
            ("redis://h?a=\u{a0}", 12, "white space and control characters"),
            ("redis://,h", 8, "a host is missing here"),
            ("redis://h,,g", 10, "a host is missing here"),
            ("redis://h,", 10, "a host is missing here"),
            ("redis://:6379", 8, "a host is missing here"),
            ("redis://6379", 8, "digits alone are another port"),
            ("redis://h!", 9, "'!' in a host"),
            ("redis://h%41", 9, "'%' in a host"),
            ("redis://höst", 9, "'ö' in a host"),
            ("redis://a@h:x", 12, "the port `x` is not a number from 0 to 65535"),
            ("redis://a@h:65536", 12, "the port `65536` is not a number"),
            ("redis://a@h:+1", 12, "the port `+1` is not a number"),
            ("redis://a@h:", 12, "the port `` is not a number"),
            ("redis://a@h:1:2", 12, "the port `1:2` is not a number"),
            ("redis://a@h:1,99999", 14, "the port `99999` is not a number"),
            ("redis://h:x", 10, "`@host` is missing after it"),
            ("redis://[::1", 8, "not closed"),
            ("redis://[::g]", 9, "an IPv6 address, such as `::1`"),
            ("redis://[1.2.3.4]", 9, "an IPv6 address, such as `::1`"),
            ("redis://[::1]6379", 13, "after `]` comes `:port`"),
            ("redis://@h", 8, "there is no user before the `@`"),
            ("redis://a@b@h", 9, "there are two `@`"),
            ("redis://a:b@h1,c:d@h2", 11, "one user for all hosts"),
            ("redis://h/a@b", 11, "write the `@` as `%40`"),
            ("redis://h?a=b@c", 13, "write the `@` as `%40`"),
            ("redis://h/%4", 10, "a `%` in the path without two hexadecimal digits"),
            ("redis://h/%+1", 10, "a `%` in the path without two hexadecimal digits"),
            ("redis://a%zz@h", 9, "a `%` in the user without"),
            ("redis://a:%@h", 10, "a `%` in the password without"),
            ("redis://a:%ff@h", 10, "the password is not UTF-8 once decoded"),
            ("redis://h/%00", 9, "the path has a control character once decoded"),
            ("redis://h?a", 10, "`key=value`, and the `=` is missing"),
            ("redis://h?a=1&&b=2", 14, "`key=value`, and the `=` is missing"),
            ("redis://h?=1", 10, "the name of an option is made of letters"),
            ("redis://h?a%20b=1", 10, "the name of an option is made of letters"),
            ("redis://h?a=1&b=2&a=3", 18, "the option `a` is given twice"),
            ("redis://h?a=%0", 12, "a `%` in the value of an option without"),
        ] {
            let error = error(text);
            let start = format!("the DSN is refused at byte {at}: ");
            assert!(error.starts_with(&start), "{text:?}: {error}");
            assert!(error.contains(piece), "{text:?}: {error}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        for (text, printed) in [
            ("redis://ann:swordfish@h", "redis://ann:***@h"),
            ("redis://:swordfish@h", "redis://:***@h"),
            ("nats://swordfish@h", "nats://***@h"),
            ("nats://h?token=swordfish&a=1", "nats://h?token=***&a=1"),
            ("kafka://h?sasl_password=swordfish", "kafka://h?sasl_password=***"),
            ("nats://h?nkey=swordfish", "nats://h?nkey=***"),
            ("kafka://h?registry=http://ann:swordfish%40r", "kafka://h?registry=***"),
        ] {
            let dsn = Dsn::parse(text).unwrap();
            assert_eq!(dsn.to_string(), printed);
            assert_eq!(format!("{dsn:?}"), format!("Dsn({printed})"));
            assert!(!format!("{dsn:#?} {:?}", dsn.options()).contains("swordfish"));
            assert!(dsn.reveal().contains("swordfish"));
        }
    }

    #[test]
    fn no_error_repeats_a_secret() {
        for text in [
            "redis:ann:swordfish@h",
            "redis//ann:swordfish@h",
            "re dis://ann:swordfish@h",
            "redis://ann:sword/swordfish@h",
            "redis://ann:sword?swordfish@h",
            "redis://ann:sword#swordfish@h",
            "redis://ann:sword swordfish@h",
            "redis://ann:sword@swordfish@h",
            "redis://ann:swordfish",
            "redis://ann:swordfish@h:x",
            "redis://ann:swordfish%@h",
            "redis://ann:swordfish%ff@h",
            "redis://ann:swordfish@h?a=1&a=2",
            "redis://ann:swordfish@[::1",
            "redis://h?token=swordfish&token=swordfish",
            "redis://h?token=swordfish%",
        ] {
            let error = Dsn::parse(text).unwrap_err();
            assert!(!format!("{error:#} {error:?}").contains("swordfish"), "{text}: {error}");
        }
        // Also where the password is a number.
        let error = Dsn::parse("redis://ann:987654").unwrap_err();
        assert!(!error.to_string().contains("987654"), "{error}");
    }

    #[test]
    fn a_host_has_the_port_of_its_own_or_the_default() {
        assert_eq!(host("h", 7).port_or(9), 7);
        assert_eq!(host("h", None).port_or(9), 9);
        assert_eq!(host("::1", 7).to_string(), "[::1]:7");
    }

    fn any_host() -> impl Strategy<Value = Host> {
        let name = prop_oneof![
            "[a-zA-Z_~-][a-zA-Z0-9._~-]{0,12}",
            any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<Ipv6Addr>().prop_map(|ip| ip.to_string()),
            Just("*".to_owned()),
        ];
        (name, any::<Option<u16>>()).prop_map(|(name, port)| Host { name, port })
    }

    fn any_dsn(secrets: bool) -> impl Strategy<Value = Dsn> {
        let user = proptest::option::of("\\PC{1,8}");
        let password = proptest::option::of("\\PC{0,8}".prop_map(Secret::from));
        let key = if secrets { "(token|[a-zA-Z0-9_.-]{1,6})" } else { "x[a-z0-9]{1,6}x" };
        (
            "[a-z][a-z0-9.-]{0,6}",
            proptest::option::of("[a-z][a-z0-9.-]{0,6}"),
            (user, password),
            proptest::collection::vec(any_host(), 0..4),
            "(/\\PC{0,12})?",
            proptest::collection::btree_map(key, "\\PC{0,12}", 0..4),
        )
            .prop_map(move |(scheme, transport, (user, password), hosts, path, query)| {
                Dsn {
                    scheme,
                    transport,
                    user: user.filter(|_| secrets),
                    password: password.filter(|_| secrets),
                    hosts,
                    path,
                    query: query
                        .into_iter()
                        .filter(|(key, value)| secrets || !is_secret(key, value))
                        .collect(),
                }
            })
    }

    proptest! {
        #[test]
        fn a_printed_dsn_reads_back(dsn in any_dsn(false)) {
            prop_assert_eq!(Dsn::parse(&dsn.to_string()).unwrap(), dsn);
        }

        #[test]
        fn a_revealed_dsn_reads_back(dsn in any_dsn(true)) {
            prop_assert_eq!(Dsn::parse(&dsn.reveal()).unwrap(), dsn);
        }

        #[test]
        fn a_printed_dsn_is_a_dsn(dsn in any_dsn(true)) {
            prop_assert!(Dsn::parse(&dsn.to_string()).is_ok());
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), rest in any::<String>()) {
            let _ = Dsn::parse(&text);
            let _ = Dsn::parse(&format!("memory://{rest}"));
        }

        #[test]
        fn text_close_to_a_dsn_is_read_or_refused(rest in "[a-z0-9:/?#@,&=%+.é\\[\\]]{0,24}") {
            let text = format!("zmq+tcp://{rest}");
            if let Ok(dsn) = Dsn::parse(&text) {
                prop_assert_eq!(Dsn::parse(&dsn.reveal()).unwrap(), dsn);
            }
        }

        #[test]
        fn a_password_is_in_no_output(password in "[A-Z]{6}[^@/?#%\\pC\\s]{0,8}", rest in "[a-z:/?@,&=%]{0,9}") {
            let output = match Dsn::parse(&format!("redis://ann:{password}@{rest}")) {
                Ok(dsn) => format!("{dsn} {dsn:?}"),
                Err(error) => format!("{error:#} {error:?}"),
            };
            prop_assert!(!output.contains(&password));
        }
    }
}
