//! Typed events: a Rust type that knows its topic, version and codec.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::event::{Event, Priority};
use crate::payload::guard;
use crate::topic::Topic;
use crate::{Error, ErrorKind, Result};

/// A type that is published and received as itself.
///
/// The trait owns `encode` and `decode` and demands no serde bound, so that any format fits.
///
/// ```
/// use bytes::Bytes;
/// use fabric_core::{Result, Topic, TypedEvent};
///
/// struct Beat(u8);
///
/// impl TypedEvent for Beat {
///     const TYPE: &'static str = "agent.heartbeat";
///     const VERSION: u32 = 1;
///     const PATTERN: &'static str = "agent.heartbeat";
///     const CONTENT_TYPE: &'static str = "application/octet-stream";
///
///     fn topic(&self) -> Result<Topic> { Topic::new("agent.heartbeat") }
///     fn key(&self) -> Option<String> { None }
///     fn encode(&self) -> Result<Bytes> { Ok(Bytes::copy_from_slice(&[self.0])) }
///     fn decode(payload: &[u8]) -> Result<Self> { Ok(Self(payload.first().copied().unwrap_or(0))) }
/// }
/// ```
pub trait TypedEvent: Sized + Send + Sync + 'static {
    /// The event type, the same for every value.
    const TYPE: &'static str;
    /// The version of the payload's shape, from 1.
    const VERSION: u32;
    /// The pattern that matches every topic of this type.
    const PATTERN: &'static str;
    /// The media type that `encode` produces.
    const CONTENT_TYPE: &'static str;

    /// The topic of this value.
    ///
    /// # Errors
    /// `InvalidTopic` where a field that the topic names does not make one level.
    fn topic(&self) -> Result<Topic>;

    /// The key that orders this value among others, if it has one.
    fn key(&self) -> Option<String>;

    /// Turns the value into bytes.
    ///
    /// # Errors
    /// `Codec` where the format cannot hold the value.
    fn encode(&self) -> Result<Bytes>;

    /// Reads a value from bytes.
    ///
    /// # Errors
    /// `Codec`, with the decoder's own message and position.
    fn decode(payload: &[u8]) -> Result<Self>;

    /// How urgent this value is.
    fn priority(&self) -> Priority {
        Priority::Normal
    }

    /// How long this value is worth delivering, if not for ever; more than zero.
    fn ttl(&self) -> Option<Duration> {
        None
    }

    /// Bytes that the value takes in memory, for the bounds of queues that hold it unencoded.
    ///
    /// Say so where it holds more than itself. `#[derive(Event)]` counts the text, bytes and lists
    /// in its fields, but not what the items of a list hold in turn.
    fn size_in_memory(&self) -> usize {
        size_of_val(self)
    }
}

/// A typed event that is answered with a `Reply`.
pub trait TypedRequest: TypedEvent {
    /// What a responder returns.
    type Reply: TypedEvent;
}

/// A received typed event: the value and the envelope it came in.
pub struct Typed<T> {
    value: Arc<T>,
    event: Event,
}

impl<T: TypedEvent> Typed<T> {
    /// Reads `event` as a `T`: the publisher's own value inside a process, else decoded.
    ///
    /// # Errors
    /// `Codec` if the bytes are no `T`, with what the decoder said; a panic of the codec is such
    /// an error too. `Schema` if the event has a newer version than `T` knows.
    pub fn from_event(event: &Event) -> Result<Self> {
        if let Some(value) = event.payload().as_value::<T>() {
            return Ok(Self { value, event: event.clone() });
        }
        let context = |error: Error| {
            error.with("type", T::TYPE).with("topic", event.topic()).with("id", event.id())
        };
        if event.version() > T::VERSION {
            return Err(context(Error::new(
                ErrorKind::Schema,
                format!(
                    "version {} is newer than {}, the one known here",
                    event.version(),
                    T::VERSION
                ),
            )));
        }
        let bytes = event.payload().bytes().map_err(context)?;
        let value = guard(T::TYPE, || T::decode(&bytes)).map_err(context)?;
        Ok(Self { value: Arc::new(value), event: event.clone() })
    }

    /// The envelope.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The shared value.
    #[must_use]
    pub fn into_arc(self) -> Arc<T> {
        self.value
    }

    /// The value itself, if nobody else holds it; else the shared one.
    ///
    /// # Errors
    /// The `Arc` where the publisher, the history or another subscriber holds the value too.
    pub fn into_inner(self) -> std::result::Result<T, Arc<T>> {
        let Self { value, event } = self;
        drop(event);
        Arc::try_unwrap(value)
    }
}

impl<T> Deref for Typed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), event: self.event.clone() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("value", &self.value).field("event", &self.event).finish()
    }
}
