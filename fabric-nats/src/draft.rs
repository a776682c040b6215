//! Headers that the next event has in common with the last: written once, then copied, which costs
//! half of what writing them does.

use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use fabric_core::Event;
use fabric_core::wire::Known;

/// What events of one source and type have in common.
#[derive(Debug)]
struct Draft {
    source: Box<str>,
    event_type: Box<str>,
    /// With room for what each event has of its own.
    headers: HeaderMap,
}

/// The last draft: whoever publishes mostly publishes the same kind of event again.
#[derive(Debug, Default)]
pub(crate) struct Drafts(Mutex<Option<Arc<Draft>>>);

/// Which attributes a draft has for good.
pub(crate) const fn is_drafted(known: Known) -> bool {
    matches!(known, Known::SpecVersion | Known::Source | Known::Type)
}

impl Drafts {
    /// The headers of an event without its own; `fresh` writes those that it has in common with
    /// others, and `own` are the names of those that each has and that take a place beside them.
    pub(crate) fn of<E>(
        &self,
        event: &Event,
        own: impl IntoIterator<Item = HeaderName>,
        fresh: impl FnOnce(&mut HeaderMap) -> Result<(), E>,
    ) -> Result<HeaderMap, E> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_ref().filter(|draft| draft.fits(event)).cloned();
        let draft = match known {
            Some(draft) => draft,
            None => {
                let mut headers = HeaderMap::new();
                fresh(&mut headers)?;
                own.into_iter().for_each(|name| headers.insert(name, HeaderValue::new()));
                let (source, event_type) = (event.source().into(), event.event_type().into());
                Arc::clone(last.insert(Arc::new(Draft { source, event_type, headers })))
            }
        };
        drop(last);
        Ok(draft.headers.clone())
    }
}

impl Draft {
    fn fits(&self, event: &Event) -> bool {
        *self.source == *event.source() && *self.event_type == *event.event_type()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_written_once_for_each_source_and_type() {
        let drafts = Drafts::default();
        let event = |source: &str, kind: &str| {
            Event::to("a").source(source).event_type(kind).build().unwrap()
        };
        let id = HeaderName::from_static("ce-id");
        for (source, kind, fresh) in
            [("s", "t", true), ("s", "t", false), ("s", "u", true), ("r", "u", true)]
        {
            let event = event(source, kind);
            let mut written = false;
            let headers = drafts.of(&event, [id.clone()], |headers| {
                written = true;
                headers.insert("ce-type", event.event_type());
                Ok::<_, ()>(())
            });
            let mut headers = headers.unwrap();
            assert_eq!(written, fresh, "{source} {kind}");
            assert_eq!(headers.get("ce-type").unwrap().as_str(), kind);
            headers.insert(id.clone(), "1");
            assert_eq!(headers.len(), 2, "its own have a place already");
        }
        let failed = drafts.of(&event("x", "y"), [], |_| Err("no"));
        assert_eq!(failed.unwrap_err(), "no");
    }
}
