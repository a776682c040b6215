//! Pairs become an event.

use std::sync::Arc;

use super::name::Known;
use super::style::Style;
use crate::dead_letter::{DeadLetter, DeadLetterReason};
use crate::event::{
    DEFAULT_CONTENT_TYPE, Event, LastRead, Priority, ReadFields, TraceContext, check_field,
};
use crate::group::Group;
use crate::headers::is_reserved;
use crate::id::EventId;
use crate::payload::Payload;
use crate::position::Position;
use crate::text::clipped;
use crate::time::Timestamp;
use crate::topic::Topic;
use crate::{Error, ErrorKind, Result};

/// What was read: an event in any case, and what else came with it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received {
    /// The event, or whatever could be read of it.
    pub event: Event,
    /// Why this is not an event as it was published; for [`Chunk::with_fault`](crate::Chunk::with_fault).
    pub fault: Option<Error>,
    /// Which try it is on, where its sender counted.
    pub attempt: Option<u32>,
    /// The one group it is for.
    pub to: Option<Group>,
    /// Its publisher's sequence.
    pub sequence: Option<u64>,
}

/// Reads events from pairs, one after the other: [`pair`](Self::pair) for each, in any order, then
/// [`finish`](Self::finish).
///
/// Nothing is lost over a mistake in a pair: the event comes with a fault, whose text names the pair.
/// A header of the user's that breaks the rules for headers, or is one of the broker's own, is
/// passed over; the same name twice is the last one.
#[derive(Debug)]
pub struct Reader {
    style: Style,
    last: LastRead,
    last_source: Option<Arc<str>>,
    last_type: Option<Arc<str>>,
    draft: Draft,
}

#[derive(Debug, Default)]
struct Draft {
    fields: ReadFields,
    spec: bool,
    fault: Option<Error>,
    /// Behind a pointer, since most events have none of it and all is moved.
    rare: Option<Box<Rare>>,
}

/// What few events bring beside their fields.
#[derive(Debug, Default)]
struct Rare {
    hop: Option<TraceContext>,
    origin_state: Option<String>,
    hop_state: Option<String>,
    attempt: Option<u32>,
    to: Option<Group>,
    topic: Option<Topic>,
    sequence: Option<u64>,
    dead: Option<Dead>,
}

/// A dead letter's pairs so far.
#[derive(Debug, Default)]
struct Dead {
    group: Option<Group>,
    reason: Option<DeadLetterReason>,
    error: String,
    attempts: u32,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    topic: Option<Topic>,
    position: Option<Position>,
    redriven: u32,
}

/// The event of a payload that came alone, with nothing but what is known without pairs.
#[must_use]
pub fn payload_alone(
    topic: Topic,
    payload: impl Into<Payload>,
    id: EventId,
    time: Timestamp,
) -> Event {
    Event::alone(topic, payload.into(), id, time)
}

impl Reader {
    /// A reader of events in `style`. One per subscription: it remembers what events have in common.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self {
            style,
            last: LastRead::default(),
            last_source: None,
            last_type: None,
            draft: Draft::default(),
        }
    }

    /// Takes one pair as it came.
    pub fn pair(&mut self, name: &str, value: &[u8]) {
        if let Err(error) = self.take(name, value) {
            let error = error.with("pair", clipped(name, 80));
            self.draft.fault.get_or_insert(error);
        }
    }

    /// Ends the event: its topic as the transport says, its payload as it came. The next begins.
    #[must_use]
    pub fn finish(&mut self, topic: &Topic, payload: impl Into<Payload>) -> Received {
        let mut draft = std::mem::take(&mut self.draft);
        let mut rare = draft.rare.take();
        if let Some(rare) = &mut rare {
            draft.settle_traces(rare);
            draft.settle_letter(rare);
        }
        let rare = rare.map_or_else(Rare::default, |rare| *rare);
        let (attempt, to, sequence) = (rare.attempt, rare.to, rare.sequence);
        let topic = rare.topic.unwrap_or_else(|| topic.clone());
        let payload = payload.into();
        let (event, fault) = if draft.is_structured() {
            self.structured(draft, topic, payload)
        } else {
            let fault = draft.fault.take().or_else(|| draft.missing(self.style));
            (draft.fields.into_event(topic, payload, &mut self.last), fault)
        };
        Received { event, fault, attempt, to, sequence }
    }

    fn take(&mut self, name: &str, value: &[u8]) -> Result<()> {
        let attribute = name.len() > 3
            && name.as_bytes()[..2].eq_ignore_ascii_case(b"ce")
            && name.as_bytes()[2] == self.style.prefix().as_bytes()[2];
        let text = || {
            self.style.decode(attribute, value).ok_or_else(|| {
                Error::new(
                    ErrorKind::Codec,
                    format!("the value of `{}` is no text", clipped(name, 80)),
                )
            })
        };
        if attribute {
            let text = text()?;
            let name = &name[3..];
            if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return self.attribute(&name.to_ascii_lowercase(), &text);
            }
            return self.attribute(name, &text);
        }
        if let Some(own) = own(name) {
            let text = text()?;
            return self.draft.own(own, &text);
        }
        match name {
            _ if name.eq_ignore_ascii_case("content-type") => {
                let text = text()?;
                self.attribute("datacontenttype", &text)
            }
            _ if name.eq_ignore_ascii_case("traceparent") => {
                // Somebody else's broken trace is no reason to refuse an event.
                let hop = TraceContext::new(&text()?).ok();
                self.draft.rare().hop = hop;
                Ok(())
            }
            _ if name.eq_ignore_ascii_case("tracestate") => {
                let state = text()?.into_owned();
                self.draft.rare().hop_state = Some(state);
                Ok(())
            }
            _ if starts(name, "fabric-") => Err(later(name)),
            _ if is_reserved(name) => Ok(()),
            _ => {
                let Ok(text) = text() else { return Ok(()) };
                match self.draft.fields.rare().headers.insert(name, &text) {
                    Err(error) if error.kind() == ErrorKind::TooLarge => Err(error),
                    _ => Ok(()),
                }
            }
        }
    }

    fn attribute(&mut self, name: &str, value: &str) -> Result<()> {
        let fields = &mut self.draft.fields;
        match name {
            "specversion" if value == "1.0" => self.draft.spec = true,
            "specversion" => {
                let version = clipped(value, 40);
                let text = format!("CloudEvents {version:?} is not read here, only 1.0");
                return Err(Error::new(ErrorKind::Codec, text));
            }
            "id" => fields.id = Some(EventId::new(value)?),
            "source" => fields.source = Some(interned(&mut self.last_source, "source", value)?),
            "type" => fields.event_type = Some(interned(&mut self.last_type, "event type", value)?),
            "time" => fields.time = Some(value.parse()?),
            "subject" => {}
            "datacontenttype" if value == DEFAULT_CONTENT_TYPE => {
                if let Some(rare) = &mut fields.rare {
                    rare.content_type = None;
                }
            }
            "datacontenttype" => {
                check_field("content type", value)?;
                fields.rare().content_type = Some(value.into());
            }
            "partitionkey" => {
                check_field("key", value)?;
                fields.rare().key = Some(value.into());
            }
            "correlationid" => fields.rare().correlation_id = Some(EventId::new(value)?),
            "causationid" => fields.rare().causation_id = Some(EventId::new(value)?),
            "expirytime" => fields.rare().expires = Some(value.parse()?),
            "priority" => fields.rare().priority = priority(value)?,
            "eventversion" => {
                fields.rare().version = Some(number(value)?).filter(|version| *version != 1)
            }
            "traceparent" => fields.rare().trace = Some(TraceContext::new(value)?),
            "tracestate" => self.draft.rare().origin_state = Some(value.to_owned()),
            _ => fields.rare().extensions.insert(name, value)?,
        }
        Ok(())
    }

    /// An event that lies in the payload as a whole, as one JSON object.
    #[cfg(feature = "json")]
    fn structured(
        &mut self,
        draft: Draft,
        topic: Topic,
        payload: Payload,
    ) -> (Event, Option<Error>) {
        let read = payload.bytes().and_then(|json| crate::cloudevents::from_json_on(&topic, &json));
        match read {
            Ok(event) => (event, draft.fault),
            Err(error) => {
                let event = draft.fields.into_event(topic, payload, &mut self.last);
                (event, draft.fault.or(Some(error)))
            }
        }
    }

    #[cfg(not(feature = "json"))]
    fn structured(
        &mut self,
        draft: Draft,
        topic: Topic,
        payload: Payload,
    ) -> (Event, Option<Error>) {
        let fault = draft.fault.or_else(|| {
            let text = "this is an event in structured mode, which needs the feature `json`";
            Some(Error::new(ErrorKind::Codec, text))
        });
        (draft.fields.into_event(topic, payload, &mut self.last), fault)
    }
}

impl Draft {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn own(&mut self, name: Known, value: &str) -> Result<()> {
        match name {
            Known::Version if value == "1" => {}
            Known::Version => {
                let version = clipped(value, 40);
                let text = format!(
                    "format {version:?} is not known to this version of Fabric, which reads 1"
                );
                return Err(Error::new(ErrorKind::Codec, text));
            }
            Known::Attempt => self.rare().attempt = Some(number(value)?),
            Known::Due => self.fields.rare().due = Some(value.parse()?),
            Known::To => self.rare().to = Some(Group::new(value)?),
            Known::Topic => self.rare().topic = Some(Topic::new(value)?),
            Known::Sequence => self.rare().sequence = Some(number(value)?),
            Known::DeadGroup => self.dead().group = Some(Group::new(value)?),
            Known::DeadReason => {
                let reason = DeadLetterReason::from_word(value);
                self.dead().reason = Some(reason.ok_or_else(|| {
                    let word = clipped(value, 40);
                    Error::new(ErrorKind::Codec, format!("{word:?} is no reason of a dead letter"))
                })?);
            }
            Known::DeadError => value.clone_into(&mut self.dead().error),
            Known::DeadAttempts => self.dead().attempts = number(value)?,
            Known::DeadFirst => self.dead().first = Some(value.parse()?),
            Known::DeadLast => self.dead().last = Some(value.parse()?),
            Known::DeadTopic => self.dead().topic = Some(Topic::new(value)?),
            Known::DeadPosition => self.dead().position = Some(value.parse()?),
            Known::DeadRedriven => self.dead().redriven = number(value)?,
            // The others are no names of Fabric's own.
            _ => {}
        }
        Ok(())
    }

    fn dead(&mut self) -> &mut Dead {
        self.rare().dead.get_or_insert_default()
    }

    fn settle_letter(&mut self, rare: &mut Rare) {
        let Some(dead) = rare.dead.take() else { return };
        let letter = dead.letter();
        if letter.is_none() {
            let text = "this is half a dead letter: its group, reason, topic or time is missing";
            self.fault.get_or_insert_with(|| Error::new(ErrorKind::Codec, text));
        }
        self.fields.rare().dead_letter = letter;
    }

    /// The origin's trace where it is told, else that of this hop.
    fn settle_traces(&mut self, rare: &mut Rare) {
        let origin = self.fields.rare.as_mut().and_then(|fields| fields.trace.take());
        let (trace, state) = match origin {
            Some(origin) => (origin, rare.origin_state.take()),
            None => match rare.hop.take() {
                Some(hop) => (hop, rare.hop_state.take()),
                None => return,
            },
        };
        self.fields.rare().trace = Some(match state {
            Some(state) => trace.clone().with_state(&state).unwrap_or(trace),
            None => trace,
        });
    }

    fn is_structured(&self) -> bool {
        let rare = self.fields.rare.as_ref();
        let content_type = rare.and_then(|rare| rare.content_type.as_deref()).unwrap_or_default();
        starts(content_type, "application/cloudevents")
    }

    fn missing(&self, style: Style) -> Option<Error> {
        let there = [
            (self.spec, Known::SpecVersion),
            (self.fields.id.is_some(), Known::Id),
            (self.fields.source.is_some(), Known::Source),
            (self.fields.event_type.is_some(), Known::Type),
        ];
        let (_, name) = there.into_iter().find(|(there, _)| !there)?;
        let name = style.known(name);
        Some(Error::new(ErrorKind::Codec, format!("this is no event: it has no `{name}`")))
    }
}

impl Dead {
    fn letter(self) -> Option<DeadLetter> {
        let last = self.last.or(self.first)?;
        Some(DeadLetter {
            group: self.group?,
            reason: self.reason?,
            error: self.error,
            attempts: self.attempts,
            first: self.first.unwrap_or(last),
            last,
            topic: self.topic?,
            position: self.position,
            redriven: self.redriven,
        })
    }
}

/// A name of Fabric's own.
fn own(name: &str) -> Option<Known> {
    if !starts(name, "fabric-") {
        return None;
    }
    let own = &Known::ALL[Known::Version as usize..];
    own.iter().copied().find(|known| Known::DASHED[*known as usize].eq_ignore_ascii_case(name))
}

fn later(name: &str) -> Error {
    let name = clipped(name, 80);
    let text = format!("this version of Fabric knows no `{name}`; it may come from a later one");
    Error::new(ErrorKind::Codec, text)
}

fn starts(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T> {
    value.parse().map_err(|_| {
        let shown = clipped(value, 40);
        Error::new(ErrorKind::Codec, format!("{shown:?} is no number as it is wanted here"))
    })
}

fn priority(word: &str) -> Result<Option<Priority>> {
    match Priority::from_word(word) {
        Some(Priority::Normal) => Ok(None),
        Some(priority) => Ok(Some(priority)),
        None => {
            let shown = clipped(word, 40);
            let text = format!("{shown:?} is none of `low`, `normal`, `high` and `critical`");
            Err(Error::new(ErrorKind::InvalidEvent, text))
        }
    }
}

/// The same text as last time is the same allocation.
fn interned(last: &mut Option<Arc<str>>, what: &str, value: &str) -> Result<Arc<str>> {
    if let Some(last) = last
        && **last == *value
    {
        return Ok(Arc::clone(last));
    }
    check_field(what, value)?;
    let text: Arc<str> = value.into();
    *last = Some(Arc::clone(&text));
    Ok(text)
}
