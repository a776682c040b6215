//! An event as a message of NATS, and back.

use std::str::FromStr as _;
use std::sync::{Arc, LazyLock};

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message};
use bytes::Bytes;
use fabric_core::wire::{Known, Name, Reader, Style};
use fabric_core::{Error, ErrorKind, Event, EventId, Group, Result, Timestamp, Topic};

use crate::config::Profile;
use crate::layout::{Layout, Place};
use crate::streams::Abilities;

/// CloudEvents' binding for NATS.
const STYLE: Style = Style::dashed().escaped().content_type_as_attribute();

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

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) subject: String,
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
}

impl Writer<'_> {
    /// The message of `event`.
    ///
    /// # Errors
    /// `Codec` where the payload cannot be encoded, `Unsupported` where the profile cannot carry it.
    pub(crate) fn write(&self, event: &Event, route: &Route) -> Result<Outgoing> {
        let target = match &route.to {
            Some(group) => self.layout.inbox(group, event.topic()),
            None => self.layout.subject(event.topic()),
        };
        let due = route.due.filter(|due| *due > Timestamp::now());
        let (headers, payload) = self.contents(event, route, due, &target)?;
        let subject = match due {
            Some(_) => self.layout.due(EventId::generate().to_string().as_str()),
            None => target,
        };
        Ok(Outgoing { subject, headers, payload })
    }

    /// Headers and payload of what no stream keeps; with the topic where no subject says it.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn contents_of(
        &self,
        event: &Event,
        topic: Option<&Topic>,
    ) -> Result<(Option<HeaderMap>, Bytes)> {
        if self.profile == Profile::Raw && topic.is_some() {
            // An answer tells by its way what it answers.
            return Ok((None, event.payload().bytes()?));
        }
        let (headers, payload) = self.contents(event, &Route::default(), None, "")?;
        let Some(topic) = topic else { return Ok((headers, payload)) };
        let mut headers = headers.unwrap_or_default();
        put(&mut headers, name(Known::Topic), topic.as_str())?;
        Ok((Some(headers), payload))
    }

    fn contents(
        &self,
        event: &Event,
        route: &Route,
        due: Option<Timestamp>,
        target: &str,
    ) -> Result<(Option<HeaderMap>, Bytes)> {
        let own = event.dead_letter().is_some() || route.to.is_some();
        let mut headers = HeaderMap::new();
        let payload = match self.profile {
            Profile::Raw if !own => {
                carried_raw(event)?;
                event.payload().bytes()?
            }
            Profile::Structured if !own => {
                put(&mut headers, CONTENT_TYPE, STRUCTURED)?;
                fabric_core::cloudevents::to_json(event)?
            }
            _ => {
                attributes(event, &mut headers)?;
                event.payload().bytes()?
            }
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

fn attributes(event: &Event, headers: &mut HeaderMap) -> Result<()> {
    let mut failure = None;
    STYLE.write(event, |field, value| {
        let done = match field {
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

/// A message as it was read.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) event: Event,
    pub(crate) fault: Option<Error>,
    /// Which try its sender said it is on.
    pub(crate) attempt: u32,
}

/// Reads messages; one per subscription.
#[derive(Debug)]
pub(crate) struct Decoder {
    profile: Profile,
    reader: Reader,
    /// Topics that came lately: most subscriptions have few.
    topics: Topics,
}

/// How many topics a reader remembers.
const REMEMBERED: usize = 16;

/// The last few topics, by their text; the one that came last is looked at first.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    known: Vec<Topic>,
    last: usize,
}

impl Topics {
    /// The topic of that text.
    ///
    /// # Errors
    /// `Codec` if it is none.
    pub(crate) fn get(&mut self, text: &str) -> Result<&Topic> {
        let at = match self.known.get(self.last) {
            Some(topic) if topic.as_str() == text => self.last,
            _ => match self.known.iter().position(|known| known.as_str() == text) {
                Some(at) => at,
                None => self.learn(text)?,
            },
        };
        self.last = at;
        Ok(&self.known[at])
    }

    fn learn(&mut self, text: &str) -> Result<usize> {
        let topic = Topic::new(text).map_err(|error| {
            Error::new(ErrorKind::Codec, format!("`{text}` is no topic: {}", error.message()))
        })?;
        if self.known.len() < REMEMBERED {
            self.known.push(topic);
            return Ok(self.known.len() - 1);
        }
        let oldest = (self.last + 1) % REMEMBERED;
        self.known[oldest] = topic;
        Ok(oldest)
    }
}

impl Decoder {
    pub(crate) fn new(profile: Profile) -> Self {
        Self { profile, reader: Reader::new(STYLE), topics: Topics::default() }
    }

    /// The event of a message.
    pub(crate) fn read(&mut self, layout: &Layout, message: &Message, stored: u64) -> Incoming {
        match layout.place(&message.subject) {
            Place::Topic(text) => self.read_on(&text, false, message, stored),
            Place::Inbox { topic, .. } => self.read_on(topic, true, message, stored),
            Place::Foreign => self.read_on(&message.subject, false, message, stored),
        }
    }

    /// The same under a topic that is told.
    pub(crate) fn read_on(
        &mut self,
        topic: &str,
        own: bool,
        message: &Message,
        stored: u64,
    ) -> Incoming {
        let (topic, fault) = match self.topics.get(topic) {
            Ok(topic) => (topic.clone(), None),
            Err(error) => (stand_in(topic), Some(error)),
        };
        if self.profile == Profile::Raw && !own && !topic.is_reserved() {
            return read_raw(&topic, fault, message, stored);
        }
        for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
            let name: &str = name.as_ref();
            if name.len() > 5 && name.as_bytes()[..5].eq_ignore_ascii_case(b"nats-") {
                continue;
            }
            if let Some(value) = values.last() {
                self.reader.pair(name, value.as_str().as_bytes());
            }
        }
        let read = self.reader.finish(&topic, message.payload.clone());
        let fault = fault.or(read.fault).map(|error| error.with("subject", &message.subject));
        Incoming { event: read.event, fault, attempt: read.attempt.unwrap_or(1) }
    }
}

/// A topic for what came on a subject that is none.
fn stand_in(text: &str) -> Topic {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let mut name: String = text.chars().take(150).map(legal).collect();
    while name.contains("..") {
        name = name.replace("..", "._.");
    }
    let levels: Vec<&str> = name.trim_matches('.').split('.').take(15).collect();
    let name = levels.join(".");
    let reserved = Topic::new(&name).is_ok_and(|topic| topic.is_reserved());
    let name = if reserved { format!("x.{name}") } else { name };
    Topic::new(&name).unwrap_or_else(|_| UNREADABLE.clone())
}

static UNREADABLE: LazyLock<Topic> = LazyLock::new(|| {
    let topic = Topic::new("unreadable");
    topic.unwrap_or_else(|error| unreachable!("it is one level of letters: {error}"))
});

/// The payload alone: its id is its place, or fresh where it has none.
fn read_raw(topic: &Topic, fault: Option<Error>, message: &Message, stored: u64) -> Incoming {
    let event = Event::to(topic).payload(message.payload.clone());
    let event = if stored == 0 { event } else { event.id(format!("{topic}:{stored}")) };
    match event.build() {
        Ok(event) => Incoming { event, fault, attempt: 1 },
        // Only an id that is too long could be refused, and a topic is short.
        Err(error) => {
            let event = Event::to(topic).build();
            let event = event.unwrap_or_else(|_| unreachable!("an empty event can be built"));
            Incoming { event, fault: Some(error), attempt: 1 }
        }
    }
}

/// What JetStream says about a delivery, in the subject that it is acked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// How often it was handed out.
    pub(crate) delivered: u32,
    /// Its place in the stream.
    pub(crate) stored: u64,
    /// Its place in the consumer.
    pub(crate) number: u64,
    /// How many events the consumer has for whoever asks next.
    pub(crate) pending: u64,
}

impl Sent {
    /// From `$JS.ACK.<stream>.<consumer>.<delivered>.<stored>.<number>.<time>.<pending>`, or the
    /// newer form with domain and account before the stream.
    pub(crate) fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?.as_bytes();
        let mut dots = [0; 12];
        let mut count = 0;
        for (at, _) in rest.iter().enumerate().filter(|(_, byte)| **byte == b'.') {
            *dots.get_mut(count)? = at;
            count += 1;
        }
        // Seven parts, or with domain and account nine and perhaps one more.
        let first = match count {
            6 => 2,
            8 | 9 => 4,
            _ => return None,
        };
        let number = |n: usize| {
            let end = if n == count { rest.len() } else { dots[n] };
            rest[dots[n - 1] + 1..end].iter().try_fold(0_u64, |all, byte| {
                let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
                all.checked_mul(10)?.checked_add(u64::from(digit))
            })
        };
        Some(Self {
            delivered: u32::try_from(number(first)?).ok()?,
            stored: number(first + 1)?,
            number: number(first + 2)?,
            // The time is between.
            pending: number(first + 4)?,
        })
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

/// Shares `messages` with the chunk that is made of them.
pub(crate) fn kept(messages: Vec<Message>) -> Arc<Messages> {
    Arc::new(Messages(messages))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(delivered: u32, stored: u64, number: u64, pending: u64) -> Option<Sent> {
        Some(Sent { delivered, stored, number, pending })
    }

    #[test]
    fn both_forms_of_an_ack_subject_are_read() {
        assert_eq!(Sent::parse("$JS.ACK.S.c.2.7.9.1700000000000000000.3"), sent(2, 7, 9, 3));
        assert_eq!(Sent::parse("$JS.ACK._.hash.S.c.2.7.9.1700000000000000000.3"), sent(2, 7, 9, 3));
        assert_eq!(Sent::parse("$JS.ACK.hub.hash.S.c.1.5.6.17.3.token"), sent(1, 5, 6, 3));
        for bad in ["", "$JS.ACK.S.c.x.7.9.1.3", "_INBOX.a.b", "$JS.ACK.S.c"] {
            assert_eq!(Sent::parse(bad), None, "{bad}");
        }
    }

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

    #[test]
    fn any_subject_has_a_topic_to_stand_in() {
        for (subject, topic) in [
            ("a.b c", "a.b_c"),
            ("a..b", "a._.b"),
            ("ä", "_"),
            (".", "unreadable"),
            ("dlq.x", "x.dlq.x"),
        ] {
            assert_eq!(stand_in(subject).as_str(), topic, "{subject}");
        }
        let long = "a.".repeat(200);
        assert!(stand_in(&long).as_str().len() <= 200);
    }
}
