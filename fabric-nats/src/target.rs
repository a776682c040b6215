//! Where events go: the subject and the stream of the topic that was published to last.

use std::sync::{Mutex, PoisonError};

use async_nats::Subject;
use fabric_core::{Result, Topic};

use crate::layout::Layout;

/// Where the events of one topic go.
#[derive(Debug)]
struct Target {
    topic: Topic,
    subject: Subject,
    stream: Result<usize>,
}

/// The last target: whoever publishes mostly publishes to the same topic again.
#[derive(Debug, Default)]
pub(crate) struct Targets(Mutex<Option<Target>>);

impl Targets {
    /// The subject of `topic`.
    pub(crate) fn subject(&self, layout: &Layout, topic: &Topic) -> Subject {
        self.with(layout, topic, |target| target.subject.clone())
    }

    /// The stream that keeps `topic`, and its subject.
    ///
    /// # Errors
    /// `NotFound` where no stream keeps it.
    pub(crate) fn place(&self, layout: &Layout, topic: &Topic) -> Result<(usize, Subject)> {
        self.with(layout, topic, |target| match &target.stream {
            Ok(stream) => Ok((*stream, target.subject.clone())),
            Err(error) => Err(error.clone()),
        })
    }

    fn with<R>(&self, layout: &Layout, topic: &Topic, work: impl FnOnce(&Target) -> R) -> R {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = last.as_ref()
            && target.topic == *topic
        {
            return work(target);
        }
        let subject = Subject::from(layout.subject(topic));
        let stream = layout.stream_of(topic);
        work(last.insert(Target { topic: topic.clone(), subject, stream }))
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
            let (found, subject) = targets.place(&layout, &Topic::new(topic).unwrap()).unwrap();
            assert_eq!((found, subject.as_str()), (stream, topic));
        }
        let unkept = Topic::new("c").unwrap();
        assert!(targets.place(&layout, &unkept).is_err());
        assert_eq!(targets.subject(&layout, &unkept).as_str(), "c");
    }
}
