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
    /// Behind a pointer, since most events have none of them and all are moved.
    pub(crate) rare: Option<Box<RareFields>>,
}

/// The fields that few events have.
#[derive(Debug, Default)]
pub(crate) struct RareFields {
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
    /// The fields that few events have; from now on this one has them.
    pub(crate) fn rare(&mut self) -> &mut RareFields {
        self.rare.get_or_insert_default()
    }

    /// The event. What is missing is made up: an id, the time of reading.
    pub(crate) fn into_event(self, topic: Topic, payload: Payload, last: &mut LastRead) -> Event {
        let Self { id, time, source, event_type, rare } = self;
        let time = time.unwrap_or_else(Timestamp::now);
        let id = id.unwrap_or_else(|| EventId::generate_at(time));
        let event_type = event_type.filter(|text| **text != *topic.as_str());
        let extra = match rare {
            None => last.like(source, event_type),
            Some(rare) => Arc::new(rare.into_extra(source, event_type, time)),
        };
        Event { id, time, topic, payload, extra: Some(extra) }
    }
}

impl LastRead {
    /// What an event has that has nothing but these.
    fn like(&mut self, source: Option<Arc<str>>, event_type: Option<Arc<str>>) -> Arc<Extra> {
        if let Some(last) = &self.0
            && last.source == source
            && last.event_type.as_deref() == event_type.as_deref()
        {
            return Arc::clone(last);
        }
        let extra = RareFields::default().into_extra(source, event_type, Timestamp::MIN);
        Arc::clone(self.0.insert(Arc::new(extra)))
    }
}

impl RareFields {
    fn into_extra(
        self,
        source: Option<Arc<str>>,
        event_type: Option<Arc<str>>,
        time: Timestamp,
    ) -> Extra {
        let content_type = self.content_type.filter(|text| **text != *DEFAULT_CONTENT_TYPE);
        let ttl = |expires: Timestamp| {
            // What had expired at birth is not refused: it is over at once.
            expires.saturating_since(time).max(Duration::from_nanos(1))
        };
        Extra {
            source,
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
        }
    }
}
