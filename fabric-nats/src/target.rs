//! Where events go: the subject and the stream of the topic that was published to last.

use std::sync::{Mutex, PoisonError};

use async_nats::Subject;
use fabric_core::{Result, Topic};

use crate::layout::Layout;

/// Where the events of one topic go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    topic: Topic,
    pub(crate) subject: Subject,
    /// The stream that keeps them.
    pub(crate) stream: Result<usize>,
}

/// The last target: whoever publishes mostly publishes to the same topic again.
#[derive(Debug, Default)]
pub(crate) struct Targets(Mutex<Option<Target>>);

impl Targets {
    /// Where events on `topic` go.
    pub(crate) fn of(&self, layout: &Layout, topic: &Topic) -> Target {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = last.as_ref()
            && target.topic == *topic
        {
            return target.clone();
        }
        let subject = Subject::from(layout.subject(topic));
        let target = Target { topic: topic.clone(), subject, stream: layout.stream_of(topic) };
        last.insert(target).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NatsConfig;

    #[test]
    fn each_topic_has_its_own() {
        let config = NatsConfig::new(["a:1"]).with_stream("S", ["a"]).with_stream("T", ["b"]);
        let layout = Layout::new(&config);
        let targets = Targets::default();
        for (topic, stream) in [("a.x", 0), ("a.x", 0), ("b", 1), ("a.x", 0)] {
            let target = targets.of(&layout, &Topic::new(topic).unwrap());
            assert_eq!((target.subject.as_str(), target.stream.unwrap()), (topic, stream));
        }
        assert!(targets.of(&layout, &Topic::new("c").unwrap()).stream.is_err());
    }
}
