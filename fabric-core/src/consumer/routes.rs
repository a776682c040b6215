//! Which handler takes an event: by its type and topic.

use crate::event::Event;
use crate::pattern::Pattern;

/// The events that a handler takes.
#[derive(Clone, Debug)]
pub(crate) struct Takes {
    pattern: Pattern,
    /// None for any type.
    event_type: Option<&'static str>,
}

/// How well a handler fits an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// The event is of its type, or it takes any.
    Whole,
    /// The event says no type, and its topic is one of the handler's.
    ByTopic,
}

impl Takes {
    /// Events of one type.
    pub(crate) const fn typed(pattern: Pattern, event_type: &'static str) -> Self {
        Self { pattern, event_type: Some(event_type) }
    }

    /// Events of any type.
    pub(crate) const fn any(pattern: Pattern) -> Self {
        Self { pattern, event_type: None }
    }

    /// The topics.
    pub(crate) const fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Whether it takes `event` where nobody else does.
    pub(crate) fn fits(&self, event: &Event) -> bool {
        self.fit(event).is_some()
    }

    fn fit(&self, event: &Event) -> Option<Fit> {
        let fit = match self.event_type {
            None => Fit::Whole,
            Some(event_type) if event_type == event.event_type() => Fit::Whole,
            Some(_) if event.is_of_no_type() => Fit::ByTopic,
            Some(_) => return None,
        };
        self.pattern.matches(event.topic()).then_some(fit)
    }
}

/// The first that fits `event` whole, else the first that its topic fits.
pub(crate) fn route<'a>(takers: impl Iterator<Item = &'a Takes>, event: &Event) -> Option<usize> {
    let mut by_topic = None;
    for (index, takes) in takers.enumerate() {
        match takes.fit(event) {
            Some(Fit::Whole) => return Some(index),
            Some(Fit::ByTopic) => by_topic = by_topic.or(Some(index)),
            None => {}
        }
    }
    by_topic
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pattern: &str, event_type: &'static str) -> Takes {
        Takes::typed(Pattern::new(pattern).unwrap(), event_type)
    }

    fn event(topic: &str, event_type: Option<&str>) -> Event {
        let event = Event::to(topic).text("x");
        let event = match event_type {
            Some(event_type) => event.event_type(event_type),
            None => event,
        };
        event.build().unwrap()
    }

    #[test]
    fn a_type_decides_and_without_one_the_topic_does() {
        let takers = [
            typed("plan.*.step", "plan.step"),
            typed("plan.*.*", "plan.any"),
            typed("plan.a.done", "plan.a.done"),
            Takes::any(Pattern::new("other.#").unwrap()),
        ];
        let routed = |topic, event_type| route(takers.iter(), &event(topic, event_type));
        assert_eq!(routed("plan.a.step", Some("plan.step")), Some(0));
        assert_eq!(routed("plan.a.step", Some("plan.any")), Some(1));
        assert_eq!(routed("plan.a.step", Some("strange")), None);
        assert_eq!(routed("elsewhere.a.step", Some("plan.step")), None);
        assert_eq!(routed("plan.a.step", None), Some(0));
        assert_eq!(routed("plan.a.begun", None), Some(1));
        // Its type is its topic: the handler of that type, though another's pattern fits too.
        assert_eq!(routed("plan.a.done", None), Some(2));
        assert_eq!(routed("other.x", Some("strange")), Some(3));
        assert_eq!(routed("x", None), None);
    }
}
