//! An event as a message of NATS.

use std::str::FromStr as _;
use std::sync::LazyLock;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, Subject};
use bytes::Bytes;
use fabric_core::wire::{Known, Name, Style};
use fabric_core::{Error, ErrorKind, Event, EventId, Group, Result, Timestamp, Topic};

use crate::config::Profile;
use crate::draft::{Drafts, is_drafted};
use crate::layout::Layout;
use crate::streams::Abilities;

/// CloudEvents' binding for NATS.
pub(crate) const STYLE: Style = Style::dashed().escaped().content_type_as_attribute();

/// Every name with a meaning, made once.
static NAMES: LazyLock<[HeaderName; Known::COUNT]> =
    LazyLock::new(|| std::array::from_fn(|n| HeaderName::from_static(STYLE.known(Known::ALL[n]))));

const MSG_ID: HeaderName = HeaderName::from_static("Nats-Msg-Id");
const TTL: HeaderName = HeaderName::from_static("Nats-TTL");
const EXPECTED: HeaderName = HeaderName::from_static("Nats-Expected-Last-Subject-Sequence");
const SCHEDULE: HeaderName = HeaderName::from_static("Nats-Schedule");
const TARGET: HeaderName = HeaderName::from_static("Nats-Schedule-Target");
const SCHEDULE_TTL: HeaderName = HeaderName::from_static("Nats-Schedule-TTL");
const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");

/// The media type of an event as one JSON object.
const STRUCTURED: &str = "application/cloudevents+json";

/// What a publish asks for beside the event.
#[derive(Clone, Debug, Default)]
pub(crate) struct Route {
    /// The one group that it is for.
    pub(crate) to: Option<Group>,
    /// Which try it will be there.
    pub(crate) attempt: u32,
    /// Not before this.
    pub(crate) due: Option<Timestamp>,
    /// The sequence that its topic's last event must have; 0 where it must have none.
    pub(crate) expected: Option<u64>,
}

impl Route {
    /// As the event itself says.
    pub(crate) fn of(event: &Event) -> Self {
        Self { due: event.deliver_at(), ..Self::default() }
    }
}

/// A request, as far as its answer follows from it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) topic: Topic,
    pub(crate) id: EventId,
    pub(crate) conversation: EventId,
}

impl Asked {
    pub(crate) fn of(request: &Event) -> Self {
        let conversation = request.correlation_id().unwrap_or_else(|| request.id());
        Self {
            topic: request.topic().clone(),
            id: request.id().clone(),
            conversation: conversation.clone(),
        }
    }
}

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) subject: Subject,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: Bytes,
}

/// Writes events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) profile: Profile,
    pub(crate) abilities: Abilities,
    /// Whether what is written is kept by a stream.
    pub(crate) kept: bool,
    /// What events have in common.
    pub(crate) drafts: &'a Drafts,
}

impl Writer<'_> {
    /// The message of `event`, which goes to `target`.
    ///
    /// # Errors
    /// `Codec` where the payload cannot be encoded, `Unsupported` where the profile cannot carry it.
    pub(crate) fn write(&self, event: &Event, route: &Route, target: Subject) -> Result<Outgoing> {
        let due = route.due.filter(|due| *due > Timestamp::now());
        let (headers, payload) = self.contents(event, route, due, &target)?;
        let subject = match due {
            Some(_) => self.layout.due(EventId::generate().to_string().as_str()).into(),
            None => target,
        };
        Ok(Outgoing { subject, headers, payload })
    }

    /// Headers and payload of a request, which no stream keeps.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn request(&self, event: &Event) -> Result<(Option<HeaderMap>, Bytes)> {
        self.contents(event, &Route::default(), None, "")
    }

    /// Headers and payload of the answer to `asked`, without what follows from that.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn answer(
        &self,
        event: &Event,
        asked: &Asked,
    ) -> Result<(Option<HeaderMap>, Bytes)> {
        if self.profile == Profile::Raw {
            // An answer tells by its way what it answers.
            return Ok((None, event.payload().bytes()?));
        }
        let (mut headers, payload) = match self.profile {
            Profile::Structured => structured(event)?,
            _ => {
                let caused = event.causation_id() == Some(&asked.id)
                    && event.correlation_id() == Some(&asked.conversation);
                let implied = [Known::CausationId, Known::CorrelationId];
                let headers = self.attributes(event, |k| !(caused && implied.contains(&k)))?;
                (headers, event.payload().bytes()?)
            }
        };
        if *event.topic() != asked.topic {
            put(&mut headers, name(Known::Topic), event.topic().as_str())?;
        }
        Ok((Some(headers), payload))
    }

    /// Headers with what an event has beside its payload, as far as it is `wanted`.
    fn attributes(&self, event: &Event, wanted: impl Fn(Known) -> bool) -> Result<HeaderMap> {
        let own = [name(Known::Id), name(Known::Time)];
        let own = own.into_iter().chain(self.kept.then_some(MSG_ID));
        let own = own.filter(|name| *name != MSG_ID || self.abilities.dedup);
        let mut headers =
            self.drafts.of(event, own, |headers| attributes(event, headers, is_drafted))?;
        attributes(event, &mut headers, |known| !is_drafted(known) && wanted(known))?;
        Ok(headers)
    }

    fn contents(
        &self,
        event: &Event,
        route: &Route,
        due: Option<Timestamp>,
        target: &str,
    ) -> Result<(Option<HeaderMap>, Bytes)> {
        let own = event.dead_letter().is_some() || route.to.is_some();
        let (mut headers, payload) = match self.profile {
            Profile::Raw if !own => {
                carried_raw(event)?;
                (HeaderMap::new(), event.payload().bytes()?)
            }
            Profile::Structured if !own => structured(event)?,
            _ => (self.attributes(event, |_| true)?, event.payload().bytes()?),
        };
        if route.attempt > 1 {
            put(&mut headers, name(Known::Attempt), &route.attempt.to_string())?;
        }
        if self.kept {
            self.instructions(event, route, due, target, &mut headers)?;
        }
        Ok(((!headers.is_empty()).then_some(headers), payload))
    }

    /// What the stream is told about the message.
    fn instructions(
        &self,
        event: &Event,
        route: &Route,
        due: Option<Timestamp>,
        target: &str,
        headers: &mut HeaderMap,
    ) -> Result<()> {
        let carries_id = self.profile != Profile::Raw || route.to.is_some();
        if self.abilities.dedup && carries_id {
            put(headers, MSG_ID, &dedup_id(event, route))?;
        }
        if let Some(sequence) = route.expected {
            put(headers, EXPECTED, &sequence.to_string())?;
        }
        if let Some(due) = due {
            put(headers, SCHEDULE, &format!("@at {due}"))?;
            put(headers, TARGET, target)?;
        }
        if self.abilities.ttl
            && let Some(end) = event.expires_at()
        {
            let start = due.unwrap_or_else(Timestamp::now);
            // Whole seconds, and at least one: the reader looks at the exact time itself.
            let seconds = end.saturating_since(start).as_secs_f64().ceil().max(1.0);
            let header = if due.is_some() { SCHEDULE_TTL } else { TTL };
            put(headers, header, &format!("{seconds}s"))?;
        }
        Ok(())
    }
}

fn structured(event: &Event) -> Result<(HeaderMap, Bytes)> {
    let mut headers = HeaderMap::new();
    put(&mut headers, CONTENT_TYPE, STRUCTURED)?;
    Ok((headers, fabric_core::cloudevents::to_json(event)?))
}

/// Puts what an event has beside its payload, as far as it is `wanted`.
fn attributes(
    event: &Event,
    headers: &mut HeaderMap,
    wanted: impl Fn(Known) -> bool,
) -> Result<()> {
    let mut failure = None;
    STYLE.write(event, |field, value| {
        let done = match field {
            Name::Known(known) if !wanted(known) => return,
            Name::Known(known) => put(headers, name(known), value),
            _ => HeaderName::from_str(&STYLE.text(field))
                .map_err(|_| unwritable(&STYLE.text(field)))
                .and_then(|name| put(headers, name, value)),
        };
        if let Err(error) = done {
            failure.get_or_insert(error);
        }
    });
    failure.map_or(Ok(()), Err)
}

fn name(known: Known) -> HeaderName {
    NAMES[known as usize].clone()
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<()> {
    let value = HeaderValue::from_str(value).map_err(|_| unwritable(name.as_ref()))?;
    headers.insert(name, value);
    Ok(())
}

fn unwritable(name: &str) -> Error {
    Error::new(ErrorKind::InvalidEvent, format!("the value of `{name}` cannot be a header"))
}

/// What makes an event the same as another: source, id and topic; for a dead letter and in a
/// group's inbox more.
///
/// One line without control characters, and no two events with the same one unless all parts are.
fn dedup_id(event: &Event, route: &Route) -> String {
    let key = event.dedup_key();
    let mut id = String::with_capacity(key.len() + 8);
    let clean = key.bytes().all(|b| (b.is_ascii_graphic() && b != b'%') || b == b'\n');
    if clean {
        id.extend(key.chars().map(|c| if c == '\n' { ' ' } else { c }));
    } else {
        for c in key.chars() {
            match c {
                '\n' => id.push(' '),
                '%' | ' ' => id.extend(escaped(c)),
                c if c.is_control() => id.extend(escaped(c)),
                c => id.push(c),
            }
        }
    }
    if let Some(group) = &route.to {
        id.push_str(" to ");
        id.push_str(group.as_str());
        // Each copy by delay is one of its own.
        id.push_str(&format!(" {}", route.attempt));
    }
    id
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let mut bytes = [0; 4];
    let text: String = c.encode_utf8(&mut bytes).bytes().map(|b| format!("%{b:02X}")).collect();
    text.chars().collect::<Vec<_>>().into_iter()
}

/// Refuses what the payload alone does not carry.
fn carried_raw(event: &Event) -> Result<()> {
    let lost = [
        ("headers", !event.headers().is_empty()),
        ("a key", event.key().is_some()),
        ("a time to live", event.ttl().is_some()),
        ("a correlation id", event.correlation_id().is_some()),
        ("extensions", event.extensions().len() > 0),
        ("a version", event.version() != 1),
        ("a type of its own", event.event_type() != event.topic().as_str()),
    ];
    match lost.iter().find(|(_, there)| *there) {
        Some((what, _)) => Err(Error::unsupported(
            format_args!("{what} with `profile=raw`, which carries the payload alone"),
            "nats",
        )),
        None => Ok(()),
    }
}

/// The raw messages of the deliveries of a chunk.
#[derive(Debug)]
pub struct Messages(pub(crate) Vec<Message>);

/// The message of NATS that a delivery came in.
///
/// `None` for a delivery of another backend.
#[must_use]
pub fn raw_message(delivery: &fabric_core::Delivery) -> Option<&Message> {
    let (messages, n) = delivery.handle::<Messages>()?;
    messages.0.get(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dedup_id_is_one_line_and_tells_events_apart() {
        let id = |source: &str, id: &str, topic: &str| {
            let event = Event::to(topic).id(id).source(source).build().unwrap();
            dedup_id(&event, &Route::default())
        };
        assert_eq!(id("s", "1", "a.b"), "s 1 a.b");
        assert_eq!(id("s t", "1%", "a"), "s%20t 1%25 a");
        assert_ne!(id("s t", "u", "a"), id("s", "t u", "a"));
        assert_ne!(id("s%20t", "u", "a"), id("s t", "u", "a"));
    }
}
