//! Building events: errors wait until `build` or `publish`.

use std::any::type_name;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{Due, Event, Extra, Priority, Stamp, Text, TraceContext};
use crate::codec::Codec;
use crate::headers::Headers;
use crate::id::EventId;
use crate::payload::{Payload, guard};
use crate::time::{Now, Timestamp};
use crate::typed::TypedEvent;
use crate::{Error, ErrorKind, Result};

/// An event in the making.
#[derive(Clone, Debug)]
#[must_use = "an event is sent by `publish`"]
pub struct EventBuilder(Result<Event>);

impl EventBuilder {
    pub(super) fn new(event: Result<Event>) -> Self {
        Self(event)
    }

    /// Sets the id; a UUIDv7 unless given.
    pub fn id(self, id: impl AsRef<str>) -> Self {
        self.with(|event| {
            event.id = EventId::new(id)?;
            Ok(())
        })
    }

    /// Sets the time at which it happened; the moment of publishing unless given.
    pub fn time(self, time: impl Into<Timestamp>) -> Self {
        self.with(|event| {
            event.time = time.into();
            Ok(())
        })
    }

    /// Sets who published it.
    pub fn source(self, source: impl AsRef<str>) -> Self {
        let source = source.as_ref();
        self.field("source", source, |extra, text| extra.source = Some(text))
    }

    /// Sets what kind of event it is; the topic unless given.
    pub fn event_type(self, event_type: impl AsRef<str>) -> Self {
        let event_type = event_type.as_ref();
        self.field("event type", event_type, |extra, text| extra.event_type = Some(text.into()))
    }

    /// Sets the version of the payload's shape, from 1.
    pub fn version(self, version: u32) -> Self {
        self.rare(|extra| {
            if version == 0 {
                return Err(Error::new(ErrorKind::InvalidEvent, "versions count from 1"));
            }
            extra.version = version;
            Ok(())
        })
    }

    /// Sets the conversation it belongs to.
    pub fn correlation_id(self, id: impl AsRef<str>) -> Self {
        self.rare(|extra| {
            extra.correlation_id = Some(EventId::new(id)?);
            Ok(())
        })
    }

    /// Sets the event that caused it.
    pub fn causation_id(self, id: impl AsRef<str>) -> Self {
        self.rare(|extra| {
            extra.causation_id = Some(EventId::new(id)?);
            Ok(())
        })
    }

    /// Makes it an effect of `cause`: same conversation and trace, caused by its id.
    pub fn caused_by(self, cause: &Event) -> Self {
        self.rare(|extra| {
            extra.causation_id = Some(cause.id().clone());
            extra.correlation_id =
                Some(cause.correlation_id().unwrap_or_else(|| cause.id()).clone());
            if extra.trace.is_none() {
                extra.trace = cause.trace().cloned();
            }
            Ok(())
        })
    }

    /// Sets the trace context of its origin.
    pub fn trace(self, trace: TraceContext) -> Self {
        self.rare(|extra| {
            extra.trace = Some(trace);
            Ok(())
        })
    }

    /// Sets how urgent it is.
    pub fn priority(self, priority: Priority) -> Self {
        self.rare(|extra| {
            extra.priority = priority;
            Ok(())
        })
    }

    /// Sets how long after its time it is worth delivering; more than zero.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.rare(|extra| {
            check_ttl(ttl)?;
            extra.ttl = Some(ttl);
            Ok(())
        })
    }

    /// Keeps it back for `delay` from the moment of publishing.
    pub fn delay(self, delay: Duration) -> Self {
        self.rare(|extra| {
            extra.due = Some(Due::After(delay));
            Ok(())
        })
    }

    /// Keeps it back until `time`.
    pub fn deliver_at(self, time: impl Into<Timestamp>) -> Self {
        self.rare(|extra| {
            extra.due = Some(Due::At(time.into()));
            Ok(())
        })
    }

    /// Sets what orders it among others.
    pub fn key(self, key: impl AsRef<str>) -> Self {
        let key = key.as_ref();
        self.field("key", key, |extra, text| extra.key = Some(text))
    }

    /// Sets the media type of the payload.
    pub fn content_type(self, content_type: impl AsRef<str>) -> Self {
        let content_type = content_type.as_ref();
        self.field("content type", content_type, |extra, text| {
            extra.content_type = Some(text.into())
        })
    }

    /// Sets one header.
    pub fn header(self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.rare(|extra| extra.headers.insert(name, value))
    }

    /// Replaces all headers.
    pub fn headers(self, headers: Headers) -> Self {
        self.rare(|extra| {
            extra.headers = headers;
            Ok(())
        })
    }

    /// Sets one CloudEvents extension, for what no field stands for: `dataref`, `sequence`, … The
    /// name has 1 to 20 lower-case letters and digits.
    pub fn extension(self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.rare(|extra| extra.extensions.insert(name.as_ref(), value.as_ref()))
    }

    /// Sets the payload: bytes, text or a region. The content type stays as it is.
    pub fn payload(self, payload: impl Into<Payload>) -> Self {
        self.with(|event| {
            event.payload = payload.into();
            Ok(())
        })
    }

    /// Sets a payload of bytes, as `application/octet-stream` unless another type is set.
    pub fn bytes(self, payload: impl Into<bytes::Bytes>) -> Self {
        self.encoded("application/octet-stream", Ok(payload.into()))
    }

    /// Sets a payload of text, as `text/plain; charset=utf-8` unless another type is set.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.encoded("text/plain; charset=utf-8", Ok(bytes::Bytes::from(text.into())))
    }

    /// Sets a payload of JSON, as `application/json` unless the type that is set means JSON too.
    ///
    /// ```
    /// use fabric_core::Event;
    ///
    /// let event = Event::to("orders.created").json(&["o-42"]).build()?;
    /// assert_eq!(event.text()?, r#"["o-42"]"#);
    /// assert_eq!(event.json::<Vec<String>>()?, ["o-42"]);
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    #[cfg(feature = "json")]
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.encode_with::<crate::codec::Json, T>(value)
    }

    /// Sets a payload of MessagePack, as `application/vnd.msgpack` unless the type that is set
    /// means MessagePack too.
    #[cfg(feature = "msgpack")]
    pub fn msgpack<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.encode_with::<crate::codec::MessagePack, T>(value)
    }

    /// Sets a payload of CBOR, as `application/cbor` unless the type that is set means CBOR too.
    #[cfg(feature = "cbor")]
    pub fn cbor<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.encode_with::<crate::codec::Cbor, T>(value)
    }

    /// Sets a payload that the codec `C` writes, with the codec's content type unless one is set
    /// that the codec reads.
    ///
    /// ```
    /// use fabric_core::Event;
    /// use fabric_core::codec::Raw;
    ///
    /// let event = Event::to("camera.frame").content_type("text/csv").encode::<Raw>("1,2").build()?;
    /// assert_eq!(event.content_type(), "text/csv");
    /// # Ok::<(), fabric_core::Error>(())
    /// ```
    pub fn encode<C: Codec>(self, value: &(impl Serialize + ?Sized)) -> Self {
        self.encode_with::<C, _>(value)
    }

    fn encode_with<C: Codec, T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.with(|event| {
            let encoded = guard(type_name::<T>(), || C::encode(value));
            event.payload = encoded.map_err(|error| error.with("topic", &event.topic))?.into();
            if !C::reads(event.content_type()) {
                let plain = C::CONTENT_TYPE == super::DEFAULT_CONTENT_TYPE;
                event.extra_mut().content_type = (!plain).then_some(Text::Static(C::CONTENT_TYPE));
            }
            Ok(())
        })
    }

    /// The event, with id and time.
    ///
    /// # Errors
    /// The first error that the topic or a field brought: `InvalidTopic`, `InvalidEvent`,
    /// `TooLarge` or `Codec`.
    pub fn build(self) -> Result<Event> {
        let mut event = self.0?;
        if event.id.is_unset() || event.time == Timestamp::MIN {
            let due = event.extra().due;
            event.stamp(Now::read(), &Stamp::default());
            // A delay counts from publishing, not from building.
            if let Some(Due::After(_)) = due {
                event.extra_mut().due = due;
            }
        }
        Ok(event)
    }

    /// The first error so far.
    #[cfg(feature = "json")]
    pub(crate) fn error(&self) -> Option<&Error> {
        self.0.as_ref().err()
    }

    /// What was built so far, to go on with.
    #[cfg(feature = "json")]
    pub(crate) fn take(&mut self) -> Self {
        let gone = Err(Error::new(ErrorKind::InvalidEvent, "the event was taken"));
        Self(std::mem::replace(&mut self.0, gone))
    }

    pub(crate) fn encoded(self, content_type: &str, payload: Result<bytes::Bytes>) -> Self {
        self.with(|event| {
            event.payload = payload?.into();
            if event.extra().content_type.is_none() && content_type != super::DEFAULT_CONTENT_TYPE {
                event.extra_mut().content_type = Some(Text::Shared(content_type.into()));
            }
            Ok(())
        })
    }

    fn with(mut self, set: impl FnOnce(&mut Event) -> Result<()>) -> Self {
        if let Ok(event) = &mut self.0
            && let Err(error) = set(event)
        {
            self.0 = Err(error);
        }
        self
    }

    fn rare(self, set: impl FnOnce(&mut Extra) -> Result<()>) -> Self {
        self.with(|event| set(event.extra_mut()).map_err(|error| error.with("topic", &event.topic)))
    }

    fn field(self, what: &str, text: &str, set: impl FnOnce(&mut Extra, Arc<str>)) -> Self {
        self.rare(|extra| {
            check_field(what, text)?;
            set(extra, text.into());
            Ok(())
        })
    }
}

/// Whether `text` can be the envelope's field `what`.
pub(crate) fn check_field(what: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.len() > 1024 {
        return Err(Error::new(
            ErrorKind::InvalidEvent,
            format!("the {what} has {} bytes; 1 to 1024 are allowed", text.len()),
        ));
    }
    if let Some((at, c)) = text.char_indices().find(|(_, c)| c.is_control()) {
        return Err(Error::new(
            ErrorKind::InvalidEvent,
            format!("the {what} {text:?} holds the control character {c:?} at byte {at}"),
        ));
    }
    Ok(())
}

pub(super) fn check_ttl(ttl: Duration) -> Result<()> {
    if ttl.is_zero() {
        return Err(Error::new(ErrorKind::InvalidEvent, "a time to live is more than zero"));
    }
    Ok(())
}

/// What can be published: an event, a builder, or a typed event by value or as an `Arc`.
///
/// Never `&T`: a borrow cannot become the subscriber's `Arc<T>`.
pub trait IntoEvent {
    /// The event, perhaps still without id and time.
    ///
    /// # Errors
    /// Whatever building it brought.
    fn into_event(self) -> Result<Event>;
}

impl IntoEvent for Event {
    fn into_event(self) -> Result<Event> {
        Ok(self)
    }
}

impl IntoEvent for EventBuilder {
    fn into_event(self) -> Result<Event> {
        self.0
    }
}

impl<T: TypedEvent> IntoEvent for T {
    #[inline(always)]
    fn into_event(self) -> Result<Event> {
        Event::typed(Arc::new(self))
    }
}

impl<T: TypedEvent> IntoEvent for Arc<T> {
    #[inline(always)]
    fn into_event(self) -> Result<Event> {
        Event::typed(self)
    }
}

impl<E: IntoEvent> IntoEvent for Result<E> {
    fn into_event(self) -> Result<Event> {
        self.and_then(IntoEvent::into_event)
    }
}
