//! A JSON object becomes an event.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use jiff::SignedDuration;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{MEMBERS, Refusal};
use crate::codec::json::said;
use crate::codec::media::is_json;
use crate::dead_letter::DeadLetter;
use crate::event::{Event, EventBuilder, Extensions, Priority, TraceContext};
use crate::headers::Headers;
use crate::text::clipped;
use crate::time::Timestamp;
use crate::topic::Topic;
use crate::{Error, ErrorKind, Result};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

type Read<T> = Result<T, Refusal>;

pub(super) fn read_on<'a>(topic: Option<&'a Topic>, json: &'a [u8]) -> Read<Event> {
    let mut draft = Draft::new(json);
    draft.topic = topic;
    let mut source = serde_json::Deserializer::from_slice(json);
    let read = (&mut source).deserialize_map(Members(&mut draft)).and_then(|()| source.end());
    match (draft.refusal.take(), read) {
        (Some(refusal), _) => Err(refusal),
        (None, Err(error)) => Err(no_json(json, &error)),
        (None, Ok(())) => draft.event(),
    }
}

fn no_json(json: &[u8], error: &serde_json::Error) -> Refusal {
    let (said, place) = said(error);
    let at = place.map_or(0, |(line, column)| offset(json, line, column));
    Refusal { error: Error::new(ErrorKind::Codec, format!("this is no event: {said}")), at }
}

/// The byte at a line and column, both counted from 1.
fn offset(json: &[u8], line: usize, column: usize) -> usize {
    let mut breaks =
        json.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let start = if line < 2 { 0 } else { breaks.nth(line - 2).unwrap_or_default() };
    start + column.saturating_sub(1)
}

/// The members of one object, before they are an event.
struct Draft<'a> {
    json: &'a [u8],
    topic: Option<&'a Topic>,
    known: [Option<&'a RawValue>; MEMBERS.len()],
    extensions: Extensions,
    refusal: Option<Refusal>,
}

/// Puts the members of an object into a draft.
struct Members<'d, 'a>(&'d mut Draft<'a>);

impl<'a> Visitor<'a> for Members<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let value: &'a RawValue = map.next_value()?;
            if let Err(refusal) = self.0.keep(&name, value) {
                self.0.refusal = Some(refusal);
                return Err(serde::de::Error::custom("the draft says what is wrong"));
            }
        }
        Ok(())
    }
}

impl<'a> Draft<'a> {
    const fn new(json: &'a [u8]) -> Self {
        Self {
            json,
            topic: None,
            known: [None; MEMBERS.len()],
            extensions: Extensions::new(),
            refusal: None,
        }
    }

    fn keep(&mut self, name: &str, value: &'a RawValue) -> Read<()> {
        let twice = || format!("the member `{name}` is there twice");
        if let Some(known) = MEMBERS.iter().position(|member| *member == name) {
            return match self.known[known].replace(value) {
                Some(_) => Err(self.refuse(value, Error::new(ErrorKind::Codec, twice()))),
                None => Ok(()),
            };
        }
        if value.get() == "null" {
            return Ok(());
        }
        if name.starts_with("fabric") {
            let text = format!("this version of Fabric knows no member `{}`", clipped(name, 80));
            return Err(self.refuse(value, Error::new(ErrorKind::Codec, text)));
        }
        if self.extensions.get(name).is_some() {
            return Err(self.refuse(value, Error::new(ErrorKind::Codec, twice())));
        }
        let text = self.scalar(name, value)?;
        self.extensions.insert(name, &text).map_err(|error| self.refuse(value, error))
    }

    fn event(self) -> Read<Event> {
        let version = self.required("specversion")?;
        if version != "1.0" {
            let text = format!("CloudEvents {version:?} is not read here, only 1.0");
            return Err(self.refuse_member("specversion", Error::new(ErrorKind::Codec, text)));
        }
        let event_type = self.required("type")?;
        let topic = self.topic(&event_type)?;
        let mut draft = Event::to(&topic);
        self.set(&mut draft, "id", self.required("id")?, EventBuilder::id)?;
        self.set(&mut draft, "source", self.required("source")?, EventBuilder::source)?;
        if event_type != topic.as_str() {
            self.set(&mut draft, "type", event_type, EventBuilder::event_type)?;
        }
        self.set_text(&mut draft, "partitionkey", EventBuilder::key)?;
        self.set_text(&mut draft, "correlationid", EventBuilder::correlation_id)?;
        self.set_text(&mut draft, "causationid", EventBuilder::causation_id)?;
        self.set_text(&mut draft, "datacontenttype", EventBuilder::content_type)?;
        if self.raw("data_base64").is_some() && self.present("datacontenttype").is_none() {
            draft = draft.content_type("application/octet-stream");
        }
        if let Some(trace) = self.trace()? {
            self.set(&mut draft, "traceparent", trace, EventBuilder::trace)?;
        }
        self.set_value(&mut draft, "priority", EventBuilder::priority, |text| {
            Priority::from_word(text).ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidEvent,
                    format!("{text:?} is none of `low`, `normal`, `high` and `critical`"),
                )
            })
        })?;
        self.set_value(&mut draft, "eventversion", EventBuilder::version, |text| {
            text.parse().map_err(|_| {
                Error::new(ErrorKind::InvalidEvent, format!("{text:?} is no number from 1"))
            })
        })?;
        self.set_times(&mut draft)?;
        if let Some(headers) = self.object::<Headers>("fabricheaders")? {
            self.set(&mut draft, "fabricheaders", headers, EventBuilder::headers)?;
        }
        let payload = self.payload()?;
        let letter = self.object::<DeadLetter>("fabricdeadletter")?;
        let event = draft.build().map_err(|error| Refusal { error, at: 0 })?;
        Ok(event.with_read(payload, self.extensions, letter))
    }

    /// Subject, or the type of events whose subject is missing.
    fn topic(&self, event_type: &str) -> Read<Topic> {
        if let Some(topic) = self.topic {
            return Ok(topic.clone());
        }
        let (member, name) = match self.text("subject")? {
            Some(subject) => ("subject", subject),
            None => ("type", event_type.to_owned()),
        };
        Topic::new(&name).map_err(|error| self.refuse_member(member, error))
    }

    fn trace(&self) -> Read<Option<TraceContext>> {
        let Some(parent) = self.text("traceparent")? else { return Ok(None) };
        let trace =
            TraceContext::new(&parent).map_err(|error| self.refuse_member("traceparent", error))?;
        match self.text("tracestate")? {
            Some(state) => trace
                .with_state(&state)
                .map(Some)
                .map_err(|error| self.refuse_member("tracestate", error)),
            None => Ok(Some(trace)),
        }
    }

    fn set_times(&self, draft: &mut EventBuilder) -> Read<()> {
        let time = self.value("time", str::parse)?;
        let expiry: Option<Timestamp> = self.value("expirytime", str::parse)?;
        // An event that expires needs a time to count from.
        let time = time.or_else(|| expiry.map(|_| Timestamp::now()));
        if let Some(time) = time {
            self.set(draft, "time", time, EventBuilder::time)?;
            if let Some(expiry) = expiry {
                // What had expired at birth is not refused: it is over at once.
                let ttl = expiry.saturating_since(time).max(Duration::from_nanos(1));
                self.set(draft, "expirytime", ttl, EventBuilder::ttl)?;
            }
        }
        let due = |draft: EventBuilder, time: Timestamp| draft.deliver_at(time);
        self.set_value(draft, "fabricdue", due, str::parse)?;
        self.set_value(draft, "fabricdelay", EventBuilder::delay, |text| {
            let delay = text.parse::<SignedDuration>().ok().and_then(|d| d.try_into().ok());
            delay.ok_or_else(|| {
                Error::new(ErrorKind::InvalidEvent, format!("{text:?} is no delay as in `PT1.5S`"))
            })
        })
    }

    fn payload(&self) -> Read<Bytes> {
        let content_type = self.text("datacontenttype")?;
        match (self.raw("data"), self.raw("data_base64")) {
            (Some(_), Some(both)) => {
                let text = "there are `data` and `data_base64`, and an event has one payload";
                Err(self.refuse(both, Error::new(ErrorKind::Codec, text)))
            }
            (Some(data), None) => {
                let json = content_type.as_deref().is_none_or(is_json);
                if json || !data.get().starts_with('"') {
                    return Ok(Bytes::copy_from_slice(data.get().as_bytes()));
                }
                self.parse::<String>("data", data).map(Bytes::from)
            }
            (None, Some(data)) => {
                let text: String = self.parse("data_base64", data)?;
                let bytes = BASE64.decode(&text).map_err(|error| {
                    let text = format!("`data_base64` cannot be read: {error}");
                    self.refuse(data, Error::new(ErrorKind::Codec, text))
                })?;
                Ok(bytes.into())
            }
            (None, None) => Ok(Bytes::new()),
        }
    }

    /// Sets one field of the event; what the builder says is the member's fault.
    fn set<T>(
        &self,
        draft: &mut EventBuilder,
        member: &str,
        value: T,
        set: impl FnOnce(EventBuilder, T) -> EventBuilder,
    ) -> Read<()> {
        *draft = set(draft.take(), value);
        draft.error().map_or(Ok(()), |error| Err(self.refuse_member(member, error.clone())))
    }

    fn set_text(
        &self,
        draft: &mut EventBuilder,
        member: &str,
        set: impl FnOnce(EventBuilder, String) -> EventBuilder,
    ) -> Read<()> {
        self.text(member)?.map_or(Ok(()), |text| self.set(draft, member, text, set))
    }

    fn set_value<T>(
        &self,
        draft: &mut EventBuilder,
        member: &str,
        set: impl FnOnce(EventBuilder, T) -> EventBuilder,
        parse: impl FnOnce(&str) -> Result<T>,
    ) -> Read<()> {
        self.value(member, parse)?.map_or(Ok(()), |value| self.set(draft, member, value, set))
    }

    fn value<T>(&self, member: &str, parse: impl FnOnce(&str) -> Result<T>) -> Read<Option<T>> {
        let Some(raw) = self.present(member) else { return Ok(None) };
        let text = self.scalar(member, raw)?;
        parse(&text).map(Some).map_err(|error| self.refuse_member(member, error))
    }

    fn required(&self, member: &str) -> Read<String> {
        self.text(member)?.ok_or_else(|| Refusal {
            error: Error::new(ErrorKind::Codec, format!("the event has no `{member}`")),
            at: 0,
        })
    }

    fn text(&self, member: &str) -> Read<Option<String>> {
        self.present(member).map(|raw| self.parse(member, raw)).transpose()
    }

    fn object<T: DeserializeOwned>(&self, member: &str) -> Read<Option<T>> {
        self.present(member).map(|raw| self.parse(member, raw)).transpose()
    }

    /// Text, or a number or bool as text.
    fn scalar(&self, member: &str, raw: &RawValue) -> Read<String> {
        match raw.get().as_bytes().first() {
            Some(b'"') => self.parse(member, raw),
            Some(b'{' | b'[') => {
                let member = clipped(member, 80);
                let text = format!("the member `{member}` is neither text nor number nor bool");
                Err(self.refuse(raw, Error::new(ErrorKind::Codec, text)))
            }
            _ => Ok(raw.get().to_owned()),
        }
    }

    fn parse<'r, T: Deserialize<'r>>(&self, member: &str, raw: &'r RawValue) -> Read<T> {
        serde_json::from_str(raw.get()).map_err(|error| {
            let (said, place) = said(&error);
            let within =
                place.map_or(0, |(line, column)| offset(raw.get().as_bytes(), line, column));
            let text = format!("the member `{}` cannot be read: {said}", clipped(member, 80));
            Refusal { error: Error::new(ErrorKind::Codec, text), at: self.at(raw) + within }
        })
    }

    fn raw(&self, member: &str) -> Option<&'a RawValue> {
        let known = MEMBERS.iter().position(|known| *known == member)?;
        self.known[known]
    }

    /// As [`raw`](Self::raw); `null` is as good as absent.
    fn present(&self, member: &str) -> Option<&'a RawValue> {
        self.raw(member).filter(|raw| raw.get() != "null")
    }

    fn refuse(&self, raw: &RawValue, error: Error) -> Refusal {
        Refusal { error, at: self.at(raw) }
    }

    fn refuse_member(&self, member: &str, error: Error) -> Refusal {
        let at = self.raw(member).map_or(0, |raw| self.at(raw));
        Refusal { error: error.with("member", member), at }
    }

    /// Where a value that was borrowed from the input stands in it.
    fn at(&self, raw: &RawValue) -> usize {
        (raw.get().as_ptr() as usize).saturating_sub(self.json.as_ptr() as usize)
    }
}
