//! The event: an envelope and its payload.

mod builder;
mod extensions;
mod read;

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use builder::check_field;
use builder::check_ttl;
pub use builder::{EventBuilder, IntoEvent};
pub(crate) use extensions::Extensions;
pub(crate) use read::{LastRead, ReadFields};

use crate::dead_letter::DeadLetter;
use crate::headers::{Headers, names};
use crate::id::EventId;
use crate::payload::Payload;
use crate::time::{Now, Timestamp};
use crate::topic::{IntoTopic, Topic};
use crate::typed::{Typed, TypedEvent};
use crate::{Error, ErrorKind, Result};

/// How urgent an event is: where a queue holds several, the more urgent comes first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// After everything else.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before the usual.
    High,
    /// Before everything else.
    Critical,
}

impl Priority {
    /// The word used on the wire: `low`, `normal`, `high`, `critical`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The priority of this word on the wire.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::Low, Self::Normal, Self::High, Self::Critical]
            .into_iter()
            .find(|priority| priority.as_str() == word)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The W3C trace context of the event's origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TraceContext {
    /// The `traceparent` value.
    pub traceparent: Arc<str>,
    /// The `tracestate` value.
    pub tracestate: Option<Arc<str>>,
}

impl TraceContext {
    /// A context from a `traceparent` value such as
    /// `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
    ///
    /// # Errors
    /// `InvalidEvent` if it is not of that form.
    /// Source: W3C Trace Context, section 3.2.
    pub fn new(traceparent: &str) -> Result<Self> {
        let lower_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let parts: Vec<&str> = traceparent.splitn(5, '-').collect();
        let valid = matches!(parts.as_slice(), [version, trace, span, flags, ..]
            if version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2
                && [version, trace, span, flags].iter().all(|part| lower_hex(part))
                && *version != "ff" && (parts.len() == 4 || *version != "00")
                && trace.bytes().any(|b| b != b'0') && span.bytes().any(|b| b != b'0'));
        if !valid {
            return Err(Error::new(
                ErrorKind::InvalidEvent,
                format!("`{traceparent}` is not a W3C traceparent: `00-<32 hex>-<16 hex>-<2 hex>`"),
            ));
        }
        Ok(Self { traceparent: traceparent.into(), tracestate: None })
    }

    /// Adds the vendors' state.
    ///
    /// # Errors
    /// `InvalidEvent` if it holds control characters or has more than 512 bytes.
    pub fn with_state(mut self, state: &str) -> Result<Self> {
        if state.len() > 512 || state.chars().any(char::is_control) {
            return Err(Error::new(
                ErrorKind::InvalidEvent,
                "a tracestate has at most 512 bytes and no control characters",
            ));
        }
        self.tracestate = Some(state.into());
        Ok(self)
    }
}

/// When a delayed event becomes visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    After(Duration),
    At(Timestamp),
}

/// An envelope and its payload: what is published and what is received.
///
/// Eighty bytes by value, cheap to clone. Everything rarer than id, time, topic and payload lies
/// behind one shared pointer that most events do not have.
#[derive(Clone)]
pub struct Event {
    id: EventId,
    time: Timestamp,
    topic: Topic,
    payload: Payload,
    extra: Option<Arc<Extra>>,
}

#[derive(Clone)]
pub(crate) struct Extra {
    source: Option<Arc<str>>,
    event_type: Option<Text>,
    version: u32,
    correlation_id: Option<EventId>,
    causation_id: Option<EventId>,
    trace: Option<TraceContext>,
    priority: Priority,
    ttl: Option<Duration>,
    due: Option<Due>,
    key: Option<Arc<str>>,
    content_type: Option<Text>,
    headers: Headers,
    extensions: Extensions,
    dead_letter: Option<Arc<DeadLetter>>,
}

/// A field that a type may have given to all its events.
#[derive(Clone)]
enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Static(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl From<Arc<str>> for Text {
    fn from(text: Arc<str>) -> Self {
        Self::Shared(text)
    }
}

impl Extra {
    const NONE: Self = Self {
        source: None,
        event_type: None,
        version: 1,
        correlation_id: None,
        causation_id: None,
        trace: None,
        priority: Priority::Normal,
        ttl: None,
        due: None,
        key: None,
        content_type: None,
        headers: Headers::new(),
        extensions: Extensions::new(),
        dead_letter: None,
    };
}

impl Extra {
    /// The rare fields of a typed event.
    fn typed<T: TypedEvent>(
        topic: &Topic,
        key: Option<String>,
        priority: Priority,
        ttl: Option<Duration>,
    ) -> Result<Arc<Self>> {
        let context = |error: Error| error.with("type", T::TYPE).with("topic", topic);
        key.iter().try_for_each(|key| check_field("key", key)).map_err(context)?;
        ttl.map_or(Ok(()), check_ttl).map_err(context)?;
        let (named, typed) = (T::TYPE != topic.as_str(), T::CONTENT_TYPE != DEFAULT_CONTENT_TYPE);
        Ok(Arc::new(Self {
            event_type: named.then_some(Text::Static(T::TYPE)),
            content_type: typed.then_some(Text::Static(T::CONTENT_TYPE)),
            version: T::VERSION,
            key: key.map(Arc::from),
            priority,
            ttl,
            ..Self::NONE
        }))
    }

    /// Bytes that it takes, with those of its fields that each event has for itself.
    fn size_in_memory(&self) -> usize {
        const HEADER: usize = 2 * size_of::<Box<str>>() + 2 * allocated(0);
        let trace = self.trace.as_ref().map(|trace| &trace.traceparent);
        let texts = self.key.iter().chain(trace).map(|text| allocated(text.len())).sum::<usize>();
        let ids = [&self.correlation_id, &self.causation_id].into_iter().flatten();
        let letter = self.dead_letter.as_ref().map_or(0, |letter| allocated(letter.size()));
        allocated(size_of::<Self>())
            + self.headers.size()
            + self.headers.len() * HEADER
            + self.extensions.size()
            + self.extensions.iter().len() * HEADER
            + ids.map(EventId::held_bytes).sum::<usize>()
            + texts
            + letter
    }
}

static NONE: Extra = Extra::NONE;

/// The fields that one fabric gives to each event that lacks them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stamp {
    /// What an event with no rare field of its own gets: the source, shared.
    template: Option<Arc<Extra>>,
}

impl Stamp {
    pub(crate) fn new(source: Option<&str>) -> Self {
        let template =
            source.map(|source| Arc::new(Extra { source: Some(source.into()), ..Extra::NONE }));
        Self { template }
    }
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extra").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Event {
    /// Starts an event for `topic`. A bad topic or field surfaces at `build` or `publish`.
    ///
    /// ```
    /// use fabric_core::Event;
    /// let event = Event::to("orders.created").id("o-42").header("tenant", "acme").text("{}").build()?;
    /// assert_eq!(event.topic().as_str(), "orders.created");
    /// assert!(Event::to("orders..created").build().is_err());
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    pub fn to(topic: impl IntoTopic) -> EventBuilder {
        EventBuilder::new(topic.into_topic().map(|topic| Self::bare(topic, Payload::empty())))
    }

    /// Starts from a typed event or another event, to add envelope fields.
    pub fn of(event: impl IntoEvent) -> EventBuilder {
        EventBuilder::new(event.into_event())
    }

    /// An event of a typed value: topic, type, version, key, content type, priority and time to
    /// live are the type's.
    ///
    /// # Errors
    /// As [`TypedEvent::topic`]; `InvalidEvent` for a key or a time to live that
    /// [`EventBuilder`] would refuse too.
    #[inline(always)]
    pub fn typed<T: TypedEvent>(value: Arc<T>) -> Result<Self> {
        let topic = value.topic()?;
        let (key, priority, ttl) = (value.key(), value.priority(), value.ttl());
        let is_plain = T::TYPE == topic.as_str()
            && T::CONTENT_TYPE == DEFAULT_CONTENT_TYPE
            && T::VERSION == 1
            && key.is_none()
            && priority == Priority::Normal
            && ttl.is_none();
        let extra =
            if is_plain { None } else { Some(Extra::typed::<T>(&topic, key, priority, ttl)?) };
        // Made in one go at the end, so that it is written where it is to lie.
        let payload = Payload::value(value);
        Ok(Self { id: EventId::UNSET, time: Timestamp::MIN, topic, payload, extra })
    }

    /// Topic and payload, to be stamped with id and time when published.
    #[inline]
    pub(crate) fn bare(topic: Topic, payload: Payload) -> Self {
        Self { id: EventId::UNSET, time: Timestamp::MIN, topic, payload, extra: None }
    }

    /// Of a wire that carries the payload alone.
    #[inline]
    pub(crate) fn alone(topic: Topic, payload: Payload, id: EventId, time: Timestamp) -> Self {
        Self { id, time, topic, payload, extra: None }
    }

    /// What tells the event apart within its source.
    #[must_use]
    pub fn id(&self) -> &EventId {
        &self.id
    }

    /// When it happened, by its source.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Where it was published.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// What it carries.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// What kind of event it is: the topic, unless set.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.extra().event_type.as_deref().unwrap_or_else(|| self.topic.as_str())
    }

    /// Whether its type says no more than its topic: nobody gave it one.
    pub(crate) fn is_of_no_type(&self) -> bool {
        self.extra().event_type.as_deref().is_none_or(|of| of == self.topic.as_str())
    }

    /// Who published it: the fabric's `source`, unless set.
    #[must_use]
    pub fn source(&self) -> &str {
        self.extra().source.as_deref().unwrap_or_else(|| default_source())
    }

    /// The version of the payload's shape, 1 unless set.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.extra().version
    }

    /// The conversation it belongs to.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&EventId> {
        self.extra().correlation_id.as_ref()
    }

    /// The event that caused it.
    #[must_use]
    pub fn causation_id(&self) -> Option<&EventId> {
        self.extra().causation_id.as_ref()
    }

    /// The trace context of its origin.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceContext> {
        self.extra().trace.as_ref()
    }

    /// How urgent it is.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.extra().priority
    }

    /// How long after [`time`](Self::time) it is worth delivering.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.extra().ttl
    }

    /// The moment after which it is not delivered any more. A dead letter is kept until somebody
    /// looks after it, however late that is.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        let ttl = self.extra.as_ref()?.ttl?;
        (!self.is_kept_letter()).then(|| self.time.saturating_add(ttl))
    }

    /// The moment before which it is not delivered; set once it is published.
    #[must_use]
    pub fn deliver_at(&self) -> Option<Timestamp> {
        match self.extra.as_ref()?.due? {
            Due::At(time) => Some(time),
            Due::After(_) => None,
        }
    }

    /// What orders it among others: events of one key keep their order.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.extra().key.as_deref()
    }

    /// The media type of the payload, `application/json` unless set.
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.extra().content_type.as_deref().unwrap_or(DEFAULT_CONTENT_TYPE)
    }

    /// Everything else that travels with it.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.extra().headers
    }

    /// The value of one header, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)
    }

    /// The CloudEvents extensions that no field stands for, in the order of their names.
    pub fn extensions(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.extra().extensions.iter()
    }

    /// The value of one CloudEvents extension that no field stands for.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extra().extensions.get(name)
    }

    /// Why and when it became a dead letter, if it is one.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&DeadLetter> {
        self.extra().dead_letter.as_deref()
    }

    /// The header `execution_id`.
    #[must_use]
    pub fn execution_id(&self) -> Option<&str> {
        self.header(names::EXECUTION_ID)
    }

    /// The header `agent_id`.
    #[must_use]
    pub fn agent_id(&self) -> Option<&str> {
        self.header(names::AGENT_ID)
    }

    /// The header `category`, or the topic's first level.
    #[must_use]
    pub fn category(&self) -> &str {
        let first = || self.topic.levels().next().unwrap_or_default();
        self.header(names::CATEGORY).unwrap_or_else(first)
    }

    /// The header `summary`.
    #[must_use]
    pub fn summary(&self) -> Option<&str> {
        self.header(names::SUMMARY)
    }

    /// The header `platform`.
    #[must_use]
    pub fn platform(&self) -> Option<&str> {
        self.header(names::PLATFORM)
    }

    /// The header `command`.
    #[must_use]
    pub fn command(&self) -> Option<&str> {
        self.header(names::COMMAND)
    }

    /// The header `max_retries`, if it is a number.
    #[must_use]
    pub fn max_retries(&self) -> Option<u32> {
        self.header(names::MAX_RETRIES)?.parse().ok()
    }

    /// The payload as text.
    ///
    /// # Errors
    /// `Codec` if it is not UTF-8, with the position, or as [`Payload::bytes`].
    pub fn text(&self) -> Result<Cow<'_, str>> {
        let refuse = |error: std::str::Utf8Error| {
            Error::new(ErrorKind::Codec, format!("the payload is not UTF-8: {error}"))
                .with("topic", &self.topic)
                .with("id", &self.id)
        };
        match self.payload.as_bytes() {
            Some(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(refuse),
            None => {
                let bytes = self.payload.bytes()?;
                std::str::from_utf8(&bytes).map(|text| Cow::Owned(text.to_owned())).map_err(refuse)
            }
        }
    }

    /// The event as a `T`: the publisher's own value inside a process, else decoded.
    ///
    /// # Errors
    /// As [`Typed::from_event`].
    pub fn decode<T: TypedEvent>(&self) -> Result<Typed<T>> {
        Typed::from_event(self)
    }

    /// Sets one header.
    ///
    /// # Errors
    /// As [`Headers::insert`].
    pub fn set_header(&mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Result<()> {
        self.extra_mut().headers.insert(name, value)
    }

    /// Takes one header out.
    pub fn remove_header(&mut self, name: &str) -> Option<String> {
        self.header(name)?;
        self.extra_mut().headers.remove(name)
    }

    /// Sets one CloudEvents extension.
    ///
    /// # Errors
    /// `InvalidEvent` unless the name has 1 to 20 lower-case letters and digits, is no field of the
    /// event and does not begin with `fabric`, or for a value with a control character; `TooLarge`
    /// beyond 64 KiB together. The event is then unchanged.
    pub fn set_extension(&mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Result<()> {
        self.extra_mut().extensions.insert(name.as_ref(), value.as_ref())
    }

    /// Takes one CloudEvents extension out.
    pub fn remove_extension(&mut self, name: &str) -> Option<String> {
        self.extension(name)?;
        self.extra_mut().extensions.remove(name)
    }

    /// Replaces the payload.
    pub fn set_payload(&mut self, payload: impl Into<Payload>) {
        self.payload = payload.into();
    }

    /// Replaces the media type.
    pub fn set_content_type(&mut self, content_type: &str) {
        self.extra_mut().content_type = Some(Text::Shared(content_type.into()));
    }

    /// Replaces the trace context.
    pub fn set_trace(&mut self, trace: TraceContext) {
        self.extra_mut().trace = Some(trace);
    }

    /// Shares `topic`, which equals the event's own, and returns its own: for a store that keeps
    /// many events of a topic whose publishers each brought the name along.
    ///
    /// # Panics
    /// In debug builds, if the topics differ.
    pub fn share_topic(&mut self, topic: Topic) -> Topic {
        debug_assert_eq!(self.topic, topic, "a topic is replaced by its equal");
        std::mem::replace(&mut self.topic, topic)
    }

    /// Drops the event but for its handle on its topic: for a store that counts no handle up where
    /// another is let go.
    #[inline]
    #[must_use]
    pub fn into_topic(self) -> Topic {
        self.topic
    }

    /// Bytes that the event takes in a queue: itself, payload, rare fields, and what an allocator
    /// adds to each of them. The topic is shared with others of its kind.
    #[must_use]
    pub fn size_in_memory(&self) -> usize {
        let rare = self.extra.as_ref().map_or(0, |extra| extra.size_in_memory());
        let payload = match self.payload.size() {
            0 => 0,
            size => allocated(size),
        };
        size_of::<Self>() + self.id.held_bytes() + payload + rare
    }

    /// What a backend keys its deduplication window by: source, id and topic; for a dead letter
    /// also its position and how often it was redriven.
    #[must_use]
    pub fn dedup_key(&self) -> String {
        let letter = self.dead_letter().map(DeadLetter::dedup_suffix).unwrap_or_default();
        format!("{}\n{}\n{}{letter}", self.source(), self.id, self.topic)
    }

    /// The same event as a dead letter: envelope and payload untouched, under the group's topic.
    pub(crate) fn into_dead_letter(mut self, topic: Topic, letter: DeadLetter) -> Self {
        // The type is the topic unless given: it stays what it was.
        if self.extra().event_type.is_none() {
            let event_type = Text::Shared(Arc::from(self.topic.as_str()));
            self.extra_mut().event_type = Some(event_type);
        }
        self.topic = topic;
        self.extra_mut().dead_letter = Some(Arc::new(letter));
        self
    }

    /// Whether it is a dead letter where dead letters are kept, and not one on its way back.
    pub(crate) fn is_kept_letter(&self) -> bool {
        self.dead_letter().is_some() && self.topic.is_reserved()
    }

    /// A dead letter as it goes back to its group: under its own topic, once more redriven.
    pub(crate) fn redriven(&self) -> Option<Self> {
        let letter = self.dead_letter()?;
        let mut event = self.clone();
        event.topic = letter.topic.clone();
        let letter = DeadLetter { redriven: letter.redriven + 1, ..letter.clone() };
        event.extra_mut().dead_letter = Some(Arc::new(letter));
        Some(event)
    }

    /// Makes this an effect of `cause`, where it does not say otherwise.
    pub(crate) fn inherit(&mut self, cause: &Self) {
        let known = self.extra();
        if known.causation_id.is_some() && known.correlation_id.is_some() {
            return;
        }
        let extra = self.extra_mut();
        extra.causation_id.get_or_insert_with(|| cause.id.clone());
        let conversation = || cause.correlation_id().unwrap_or(&cause.id).clone();
        extra.correlation_id.get_or_insert_with(conversation);
        if extra.trace.is_none() {
            extra.trace = cause.trace().cloned();
        }
    }

    /// Gives id, time and source to an event that has none, and fixes when it is due.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Now, stamp: &Stamp) {
        if self.id.is_unset() {
            self.id = EventId::generate_at(now.wall);
        }
        if self.time == Timestamp::MIN {
            self.time = now.wall;
        }
        match (&mut self.extra, &stamp.template) {
            (extra @ None, template) => extra.clone_from(template),
            (Some(extra), template) => {
                let source = template.as_ref().and_then(|template| template.source.as_ref());
                let lacks_source = extra.source.is_none() && source.is_some();
                let relative = matches!(extra.due, Some(Due::After(_)));
                if lacks_source || relative {
                    let extra = Arc::make_mut(extra);
                    if lacks_source {
                        extra.source = source.cloned();
                    }
                    if let Some(Due::After(delay)) = extra.due {
                        extra.due = Some(Due::At(now.wall.saturating_add(delay)));
                    }
                }
            }
        }
    }

    /// Bytes of what travels as headers: names and values of headers and extensions.
    pub(crate) fn headers_size(&self) -> usize {
        self.extra().headers.size() + self.extra().extensions.size()
    }

    /// Whether it has an id and a time.
    #[cfg(feature = "json")]
    pub(crate) fn is_stamped(&self) -> bool {
        !self.id.is_unset() && self.time != Timestamp::MIN
    }

    pub(crate) fn has_default_content_type(&self) -> bool {
        self.content_type() == DEFAULT_CONTENT_TYPE
    }

    #[cfg(feature = "json")]
    pub(crate) fn due(&self) -> Option<Due> {
        self.extra().due
    }

    /// The same with what was read beside the fields.
    #[cfg(feature = "json")]
    pub(crate) fn with_read(
        mut self,
        payload: bytes::Bytes,
        extensions: Extensions,
        letter: Option<DeadLetter>,
    ) -> Self {
        self.payload = payload.into();
        if extensions.size() > 0 {
            self.extra_mut().extensions = extensions;
        }
        if let Some(letter) = letter {
            self.extra_mut().dead_letter = Some(Arc::new(letter));
        }
        self
    }

    /// Whether any rare field is set, so that options need a look.
    pub(crate) fn is_plain(&self) -> bool {
        self.extra.is_none()
    }

    pub(crate) fn has_due(&self) -> bool {
        self.extra().due.is_some()
    }

    fn extra(&self) -> &Extra {
        self.extra.as_deref().unwrap_or(&NONE)
    }

    fn extra_mut(&mut self) -> &mut Extra {
        Arc::make_mut(self.extra.get_or_insert_with(|| Arc::new(Extra::NONE)))
    }
}

/// What `size` bytes of their own take, with the allocator's part.
const fn allocated(size: usize) -> usize {
    size + 16
}

impl AsRef<Self> for Event {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// The media type of an event that names none.
pub const DEFAULT_CONTENT_TYPE: &str = "application/json";

/// The source of events for which nobody named one: this process.
#[must_use]
pub fn default_source() -> &'static str {
    static SOURCE: OnceLock<String> = OnceLock::new();
    SOURCE.get_or_init(|| format!("urn:fabric:process:{}", EventId::generate()))
}

impl fmt::Debug for Event {
    /// Envelope fields that are set; the payload by size.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Event");
        out.field("id", &self.id).field("topic", &self.topic).field("time", &self.time);
        out.field("payload", &self.payload);
        let extra = self.extra();
        if let Some(key) = &extra.key {
            out.field("key", key);
        }
        if extra.priority != Priority::Normal {
            out.field("priority", &extra.priority);
        }
        if !extra.headers.is_empty() {
            out.field("headers", &extra.headers);
        }
        if let Some(letter) = &extra.dead_letter {
            out.field("dead_letter", letter);
        }
        out.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_takes_eighty_bytes() {
        assert_eq!(size_of::<Event>(), 80);
    }

    #[test]
    fn stamping_fills_what_is_missing_and_nothing_else() {
        let now = Now::read();
        let stamp = Stamp::new(Some("planner"));
        let mut plain = Event::bare(Topic::new("a.b").unwrap(), Payload::empty());
        plain.stamp(now, &stamp);
        assert_eq!((plain.time(), plain.source()), (now.wall, "planner"));
        assert!(plain.id().as_uuid().is_some());

        let mut full = Event::to("a.b").id("x").source("me").delay(Duration::from_secs(1));
        full = full.time(Timestamp::from_millis(5));
        let mut full = full.into_event().unwrap();
        full.stamp(now, &stamp);
        assert_eq!((full.id().to_string().as_str(), full.source()), ("x", "me"));
        assert_eq!(full.time(), Timestamp::from_millis(5));
        assert_eq!(full.deliver_at(), Some(now.wall.saturating_add(Duration::from_secs(1))));
    }

    #[test]
    fn a_traceparent_is_checked() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(TraceContext::new(good).is_ok());
        for bad in
            ["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", &good.to_uppercase()]
        {
            assert_eq!(TraceContext::new(bad).unwrap_err().kind(), ErrorKind::InvalidEvent);
        }
    }
}
