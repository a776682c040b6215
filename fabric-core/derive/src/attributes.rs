//! What stands in `#[event(..)]`.

use std::time::Duration;

use proc_macro2::{Ident, Span, TokenTree};
use syn::meta::ParseNestedMeta;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Attribute, Error, LitInt, LitStr, Path, Result, Token, Type, parse_quote};

use crate::content::Content;
use crate::duration;
use crate::topic::Template;

/// The checked attributes of one type.
pub(crate) struct Attributes {
    /// The crate that the generated code names.
    pub(crate) krate: Path,
    pub(crate) topic: At<Template>,
    pub(crate) event_type: String,
    pub(crate) version: u32,
    pub(crate) key: Option<LitStr>,
    pub(crate) content: At<Content>,
    pub(crate) priority: Option<Ident>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) reply: Option<Type>,
}

/// A value and where it stands.
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl Attributes {
    /// Reads the attributes of the type `name`; the error holds everything that is wrong.
    pub(crate) fn read(attributes: &[Attribute], name: &Ident) -> Result<Self> {
        let mut errors = Errors::default();
        let mut given = Given::default();
        let mut last = None;
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("event")) {
            last = Some(attribute);
            let outcome = attribute.parse_nested_meta(|meta| {
                if let Err(error) = given.take(&meta) {
                    errors.add(error);
                    skip_value(meta.input)?;
                }
                Ok(())
            });
            errors.keep(outcome);
        }
        let checked = given.check(&mut errors);
        errors.finish()?;
        checked.ok_or_else(|| match last {
            Some(attribute) => Error::new_spanned(attribute, NO_TOPIC),
            None => Error::new(name.span(), NO_TOPIC),
        })
    }
}

/// The attributes as they stand there.
#[derive(Default)]
struct Given {
    topic: Option<LitStr>,
    version: Option<LitInt>,
    key: Option<LitStr>,
    content_type: Option<LitStr>,
    priority: Option<LitStr>,
    ttl: Option<LitStr>,
    event_type: Option<LitStr>,
    reply: Option<Type>,
    krate: Option<LitStr>,
}

impl Given {
    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match name.as_str() {
            "topic" => set(&mut self.topic, meta, r#"text: `topic = "orders.created"`"#),
            "version" => set(&mut self.version, meta, "a number: `version = 2`"),
            "key" => set(&mut self.key, meta, r#"the name of a field: `key = "order"`"#),
            "content_type" => set(&mut self.content_type, meta, r#"text: `content_type = "cbor"`"#),
            "priority" => set(&mut self.priority, meta, r#"text: `priority = "high"`"#),
            "ttl" => set(&mut self.ttl, meta, r#"text: `ttl = "10m"`"#),
            "event_type" => set(&mut self.event_type, meta, r#"text: `event_type = "order"`"#),
            "reply" => set(&mut self.reply, meta, "a type: `reply = Quote`"),
            "crate" => set(&mut self.krate, meta, r#"a path as text: `crate = "fabric_core"`"#),
            _ => {
                let known = KNOWN.map(|name| format!("`{name}`")).join(", ");
                let text = format!("an event has no such attribute; there are {known}");
                Err(Error::new_spanned(&meta.path, text))
            }
        }
    }

    /// Checks each value by itself. `None` where there is no topic, or a bad one.
    fn check(self, errors: &mut Errors) -> Option<Attributes> {
        let krate = self.krate.map(|text| errors.or(krate(&text), parse_quote!(::fabric)));
        let version = self.version.map(|number| errors.or(version(&number), 1));
        let event_type = self.event_type.map(|text| errors.or(event_type(&text), String::new()));
        let priority = self.priority.and_then(|text| errors.keep(priority(&text)));
        let ttl = self.ttl.and_then(|text| errors.keep(ttl(&text)));
        let content = match self.content_type {
            Some(text) => errors.keep(at(&text, Content::parse)),
            None => Some(At { value: Content::default(), span: Span::call_site() }),
        };
        let given = self.topic?;
        let topic = errors.keep(at(&given, Template::parse))?;
        let event_type = event_type.unwrap_or_else(|| topic.value.event_type());
        if event_type.is_empty() && errors.is_empty() {
            errors.add(Error::new(
                topic.span,
                "all levels of the topic are fields, so that the event's type needs a name: \
                 `event_type = \"order\"`",
            ));
        }
        Some(Attributes {
            krate: krate.unwrap_or_else(|| parse_quote!(::fabric)),
            topic,
            event_type,
            version: version.unwrap_or(1),
            key: self.key,
            content: content?,
            priority,
            ttl,
            reply: self.reply,
        })
    }
}

/// Everything that is wrong, to be told at once.
#[derive(Default)]
pub(crate) struct Errors(Option<Error>);

impl Errors {
    pub(crate) fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            none => *none = Some(error),
        }
    }

    pub(crate) fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }

    fn or<T>(&mut self, result: Result<T>, otherwise: T) -> T {
        self.keep(result).unwrap_or(otherwise)
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

fn set<T: Parse>(slot: &mut Option<T>, meta: &ParseNestedMeta<'_>, wants: &str) -> Result<()> {
    let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
    let refuse = |span| Error::new(span, format!("`{name}` takes {wants}"));
    if slot.is_some() {
        return Err(Error::new_spanned(&meta.path, format!("`{name}` is given twice")));
    }
    if !meta.input.peek(Token![=]) {
        return Err(refuse(meta.path.span()));
    }
    let value = meta.value()?;
    *slot = Some(value.parse().map_err(|error: Error| refuse(error.span()))?);
    Ok(())
}

/// Passes over what is left of one attribute, so that the next can be read.
fn skip_value(input: ParseStream<'_>) -> Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<TokenTree>()?;
    }
    Ok(())
}

fn at<T>(text: &LitStr, parse: fn(&str) -> std::result::Result<T, String>) -> Result<At<T>> {
    let value = parse(&text.value()).map_err(|why| Error::new(text.span(), why))?;
    Ok(At { value, span: text.span() })
}

fn krate(text: &LitStr) -> Result<Path> {
    let why = "no path to Event Fabric, such as `::fabric` or `fabric_core`";
    text.parse().map_err(|_| Error::new(text.span(), format!("{:?} is {why}", text.value())))
}

fn version(number: &LitInt) -> Result<u32> {
    match number.base10_parse()? {
        0 => Err(Error::new(number.span(), "versions count from 1")),
        version => Ok(version),
    }
}

/// As `EventBuilder::event_type` checks it.
fn event_type(text: &LitStr) -> Result<String> {
    let event_type = text.value();
    let fits = (1..=1024).contains(&event_type.len()) && !event_type.chars().any(char::is_control);
    if fits {
        return Ok(event_type);
    }
    Err(Error::new(text.span(), "an event type has 1 to 1024 bytes and no control characters"))
}

fn priority(text: &LitStr) -> Result<Ident> {
    let variant = match text.value().as_str() {
        "low" => "Low",
        "normal" => "Normal",
        "high" => "High",
        "critical" => "Critical",
        other => {
            let why = "is no priority: `low`, `normal`, `high` and `critical` are known";
            return Err(Error::new(text.span(), format!("{other:?} {why}")));
        }
    };
    Ok(Ident::new(variant, text.span()))
}

fn ttl(text: &LitStr) -> Result<Duration> {
    let given = text.value();
    match duration::parse(&given) {
        Some(ttl) if !ttl.is_zero() => Ok(ttl),
        Some(_) => Err(Error::new(text.span(), "a time to live is more than zero")),
        None => {
            let expected = duration::EXPECTED;
            Err(Error::new(text.span(), format!("{given:?} is refused: expected {expected}")))
        }
    }
}

const KNOWN: [&str; 9] =
    ["topic", "version", "key", "content_type", "priority", "ttl", "event_type", "reply", "crate"];

const NO_TOPIC: &str = "an event needs a topic: `#[event(topic = \"orders.created\")]`";
