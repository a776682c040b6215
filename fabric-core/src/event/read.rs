//! An event from what a wire brought.

use std::sync::Arc;
use std::time::Duration;

use super::{DEFAULT_CONTENT_TYPE, Due, Event, Extensions, Extra, Priority, Text, TraceContext};
use crate::dead_letter::DeadLetter;
use crate::headers::Headers;
use crate::id::EventId;
use crate::payload::Payload;
use crate::time::Timestamp;
use crate::topic::Topic;

/// The fields that were read, each already checked.
#[derive(Debug, Default)]
pub(crate) struct ReadFields {
    pub(crate) id: Option<EventId>,
    pub(crate) time: Option<Timestamp>,
    pub(crate) source: Option<Arc<str>>,
    pub(crate) event_type: Option<Arc<str>>,
    pub(crate) version: Option<u32>,
    pub(crate) correlation_id: Option<EventId>,
    pub(crate) causation_id: Option<EventId>,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) priority: Option<Priority>,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) due: Option<Timestamp>,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) content_type: Option<Arc<str>>,
    pub(crate) headers: Headers,
    pub(crate) extensions: Extensions,
    pub(crate) dead_letter: Option<DeadLetter>,
}

/// The rare fields of the last event that had none but source and type: the next is often like it.
#[derive(Debug, Default)]
pub(crate) struct LastRead(Option<Arc<Extra>>);

impl ReadFields {
    /// The event. What is missing is made up: an id, the time of reading.
    pub(crate) fn into_event(self, topic: Topic, payload: Payload, last: &mut LastRead) -> Event {
        let time = self.time.unwrap_or_else(Timestamp::now);
        let id = self.id.clone().unwrap_or_else(|| EventId::generate_at(time));
        let extra = Some(self.into_extra(&topic, time, last));
        Event { id, time, topic, payload, extra }
    }

    fn into_extra(self, topic: &Topic, time: Timestamp, last: &mut LastRead) -> Arc<Extra> {
        let event_type = self.event_type.filter(|text| **text != *topic.as_str());
        let content_type = self.content_type.filter(|text| **text != *DEFAULT_CONTENT_TYPE);
        let usual = self.version.is_none()
            && self.correlation_id.is_none()
            && self.causation_id.is_none()
            && self.trace.is_none()
            && self.priority.is_none()
            && self.expires.is_none()
            && self.due.is_none()
            && self.key.is_none()
            && content_type.is_none()
            && self.headers.is_empty()
            && self.extensions.size() == 0
            && self.dead_letter.is_none();
        if usual
            && let Some(last) = &last.0
            && last.source == self.source
            && last.event_type.as_deref() == event_type.as_deref()
        {
            return Arc::clone(last);
        }
        let ttl = |expires: Timestamp| {
            // What had expired at birth is not refused: it is over at once.
            expires.saturating_since(time).max(Duration::from_nanos(1))
        };
        let extra = Arc::new(Extra {
            source: self.source,
            event_type: event_type.map(Text::Shared),
            version: self.version.unwrap_or(1),
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            trace: self.trace,
            priority: self.priority.unwrap_or_default(),
            ttl: self.expires.map(ttl),
            due: self.due.map(Due::At),
            key: self.key,
            content_type: content_type.map(Text::Shared),
            headers: self.headers,
            extensions: self.extensions,
            dead_letter: self.dead_letter.map(Arc::new),
        });
        if usual {
            last.0 = Some(Arc::clone(&extra));
        }
        extra
    }
}
