//! The little of YAML that a configuration needs, with the place of everything.

use std::borrow::Cow;
use std::fmt;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use crate::{Error, ErrorKind, Result};

/// Deep enough to say of what is nested too deep which key it stands under.
const MAX_DEPTH: usize = 4;

/// A place in the text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    line: usize,
    column: usize,
}

impl At {
    /// The error that refuses what stands here.
    pub(super) fn refuse(self, why: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Config, format!("the configuration is refused at {self}: {why}"))
    }
}

impl From<&Marker> for At {
    fn from(marker: &Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A value and its place.
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

/// A value. Numbers and truth values stay the text they are written as: who reads one knows its
/// type.
pub(super) enum Value {
    Nothing,
    Text(String),
    List,
    Map(Vec<Entry>),
}

/// A key, its place and its value.
pub(super) struct Entry {
    pub(super) at: At,
    pub(super) key: String,
    pub(super) node: Node,
}

/// Parses one document of text and mappings; anchors, aliases, tags and keys given twice are
/// refused.
pub(super) fn parse(text: &str) -> Result<Node> {
    let mut reader = Reader { events: Parser::new_from_str(text), depth: 0 };
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            (Event::StreamEnd, at) => {
                return Ok(Node { at, value: Value::Nothing });
            }
            event => {
                let root = reader.node(event)?;
                reader.end()?;
                return Ok(root);
            }
        }
    }
}

struct Reader<E> {
    events: E,
    depth: usize,
}

impl<'a, E> Reader<E>
where
    E: Iterator<Item = Result<(Event<'a>, Span), ScanError>>,
{
    fn next(&mut self) -> Result<(Event<'a>, At)> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, At::from(&span.start))),
            // What the parser says about an error holds at most one character of the text.
            Some(Err(error)) => Err(At::from(error.marker()).refuse(error.info())),
            None => Err(Error::new(ErrorKind::Config, "the configuration ends too early")),
        }
    }

    fn node(&mut self, (event, at): (Event<'a>, At)) -> Result<Node> {
        let value = match event {
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                return Err(
                    at.refuse("aliases are not allowed; quote a value that starts with `*`")
                );
            }
            Event::Scalar(text, style, anchor, tag) => {
                refuse_properties(at, anchor, tag.is_some())?;
                scalar(text, style)
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_properties(at, anchor, tag.is_some())?;
                self.list(at)?
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_properties(at, anchor, tag.is_some())?;
                self.map(at)?
            }
            _ => return Err(at.refuse("a value is missing")),
        };
        Ok(Node { at, value })
    }

    fn list(&mut self, at: At) -> Result<Value> {
        self.enter(at)?;
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => break,
                event => drop(self.node(event)?),
            }
        }
        self.depth -= 1;
        Ok(Value::List)
    }

    fn map(&mut self, at: At) -> Result<Value> {
        self.enter(at)?;
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let Value::Text(key) = self.node((event, at))?.value else {
                return Err(at.refuse("a key is a word"));
            };
            if entries.iter().any(|entry| entry.key == key) {
                return Err(at.refuse(format!("the key `{key}` is given twice")));
            }
            let value = self.next()?;
            entries.push(Entry { at, key, node: self.node(value)? });
        }
        self.depth -= 1;
        Ok(Value::Map(entries))
    }

    fn enter(&mut self, at: At) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(at.refuse("this is nested too deep")) } else { Ok(()) }
    }

    fn end(&mut self) -> Result<()> {
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(()),
                (_, at) => return Err(at.refuse("a configuration is one document")),
            }
        }
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    match text.as_ref() {
        "" | "~" | "null" if style == ScalarStyle::Plain => Value::Nothing,
        _ => Value::Text(text.into_owned()),
    }
}

fn refuse_properties(at: At, anchor: usize, is_tagged: bool) -> Result<()> {
    if anchor != 0 {
        return Err(at.refuse("anchors are not allowed; quote a value that starts with `&`"));
    }
    if is_tagged {
        return Err(at.refuse("tags are not allowed; quote a value that starts with `!`"));
    }
    Ok(())
}
