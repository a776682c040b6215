//! An event becomes pairs.

use std::fmt::{self, Write as _};

use super::name::{Known, Name};
use super::style::Style;
use crate::dead_letter::DeadLetter;
use crate::event::{Event, Priority};
use crate::time::Timestamp;

impl Style {
    /// Hands every pair of `event` to `put`, each once: the name, and the value as it goes on the
    /// wire. The pairs that CloudEvents requires come first.
    ///
    /// An event that was not published yet has neither id nor time; `Fabric` gives it both before a
    /// backend sees it.
    pub fn write(&self, event: &Event, mut put: impl FnMut(Name<'_>, &str)) {
        let mut put = |name: Name<'_>, value: &str| put(name, &self.encode(name, value));
        let mut known = |name: Known, value: &str| put(Name::Known(name), value);
        known(Known::SpecVersion, "1.0");
        known(Known::Id, Short::of(event.id()).as_str());
        known(Known::Source, event.source());
        known(Known::Type, event.event_type());
        known(Known::Time, Short::of_time(event.time()).as_str());
        if event.is_plain() {
            return;
        }
        if !event.has_default_content_type() {
            known(Known::ContentType, event.content_type());
        }
        if let Some(key) = event.key() {
            known(Known::Key, key);
        }
        if let Some(id) = event.correlation_id() {
            known(Known::CorrelationId, Short::of(id).as_str());
        }
        if let Some(id) = event.causation_id() {
            known(Known::CausationId, Short::of(id).as_str());
        }
        if let Some(ttl) = event.ttl() {
            let expiry = event.time().saturating_add(ttl);
            known(Known::ExpiryTime, Short::of_time(expiry).as_str());
        }
        if event.priority() != Priority::Normal {
            known(Known::Priority, event.priority().as_str());
        }
        if event.version() != 1 {
            known(Known::EventVersion, Short::of(event.version()).as_str());
        }
        if let Some(trace) = event.trace() {
            known(Known::OriginTrace, &trace.traceparent);
            known(Known::TraceParent, &trace.traceparent);
            if let Some(state) = &trace.tracestate {
                known(Known::OriginState, state);
                known(Known::TraceState, state);
            }
        }
        if let Some(due) = event.deliver_at() {
            known(Known::Due, Short::of_time(due).as_str());
        }
        if let Some(letter) = event.dead_letter() {
            dead_letter(letter, &mut known);
        }
        for (name, value) in event.extensions() {
            put(Name::Extension(name), value);
        }
        for (name, value) in event.headers().iter() {
            put(Name::Header(name), value);
        }
    }
}

fn dead_letter(letter: &DeadLetter, known: &mut impl FnMut(Known, &str)) {
    known(Known::DeadGroup, letter.group.as_str());
    known(Known::DeadReason, letter.reason.as_str());
    known(Known::DeadError, &one_line(&letter.error));
    known(Known::DeadAttempts, Short::of(letter.attempts).as_str());
    known(Known::DeadFirst, Short::of_time(letter.first).as_str());
    known(Known::DeadLast, Short::of_time(letter.last).as_str());
    known(Known::DeadTopic, letter.topic.as_str());
    if let Some(position) = &letter.position {
        known(Known::DeadPosition, &position.to_string());
    }
    if letter.redriven != 0 {
        known(Known::DeadRedriven, Short::of(letter.redriven).as_str());
    }
}

/// An error may have several lines; a header is one.
fn one_line(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().into()
}

/// A short text without an allocation; what does not fit is allocated.
struct Short {
    held: [u8; Self::HELD],
    len: usize,
    long: Option<String>,
}

impl Short {
    const HELD: usize = 48;

    const fn new() -> Self {
        Self { held: [0; Self::HELD], len: 0, long: None }
    }

    fn of(value: impl fmt::Display) -> Self {
        let mut short = Self::new();
        // Writing to it cannot fail.
        let _ = write!(short, "{value}");
        short
    }

    fn of_time(time: Timestamp) -> Self {
        let mut short = Self::new();
        if time.write_rfc3339(&mut short).is_err() {
            return Self::of(time);
        }
        short
    }

    fn as_str(&self) -> &str {
        match &self.long {
            Some(long) => long,
            // Only whole texts were copied in.
            None => std::str::from_utf8(&self.held[..self.len]).unwrap_or_default(),
        }
    }
}

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        match (&mut self.long, self.held.get_mut(self.len..end)) {
            (Some(long), _) => long.push_str(text),
            (None, Some(free)) => {
                free.copy_from_slice(text.as_bytes());
                self.len = end;
            }
            (None, None) => self.long = Some([self.as_str(), text].concat()),
        }
        Ok(())
    }
}
