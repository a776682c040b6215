//! Names on the broker: with the fabric's prefix, within Kafka's rules, and unlike in Kafka's eyes.

use fabric_core::{Error, ErrorKind, Group, Prefix, Result, Topic};

use crate::error::NAME;

/// The longest name of a topic that a broker takes.
const MAX_LEN: usize = 249;

/// The delays up to which events wait in one retry topic of a group, by the topic's last level.
/// Events that are due sooner wait in the inbox, and those that are due later in the last.
pub(crate) const BUCKETS: [&str; 2] = ["10m", "long"];

/// How topics and groups are called on the broker.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: Option<Prefix>,
}

impl Names {
    pub(crate) const fn new(prefix: Option<Prefix>) -> Self {
        Self { prefix }
    }

    /// The name of a topic on the broker.
    ///
    /// # Errors
    /// `InvalidTopic` for one that is too long there, or the broker's own.
    pub(crate) fn topic(&self, topic: &Topic) -> Result<String> {
        let name = self.prefixed(topic.as_str());
        if name.len() > MAX_LEN {
            return Err(invalid(format!(
                "the topic `{topic}` has {} bytes with its prefix, Kafka takes {MAX_LEN}",
                name.len()
            )));
        }
        if name.starts_with("__") {
            return Err(invalid(format!("topics like `{topic}` are the broker's own")));
        }
        Ok(name)
    }

    /// The topic that is called `name` on the broker; none for what is not this fabric's.
    pub(crate) fn parse(&self, name: &str) -> Option<Topic> {
        if name.starts_with("__") {
            return None;
        }
        let own = match &self.prefix {
            Some(prefix) => name.strip_prefix(prefix.as_str())?.strip_prefix('.')?,
            None => name,
        };
        Topic::new(own).ok()
    }

    /// The id of a group on the broker.
    pub(crate) fn group(&self, group: &Group) -> String {
        self.prefixed(group.as_str())
    }

    /// The topic with the definitions of all groups.
    pub(crate) fn definitions(&self) -> String {
        self.prefixed("_fabric.groups")
    }

    /// The topic with what is for one group alone, at once or soon.
    pub(crate) fn inbox(&self, group: &Group) -> String {
        self.prefixed(&format!("_fabric.to.{group}"))
    }

    /// The topics in which events wait for one group, the inbox first.
    pub(crate) fn waiting(&self, group: &Group) -> Vec<String> {
        let retry = |bucket: &&str| self.prefixed(&format!("_fabric.retry.{group}.{bucket}"));
        std::iter::once(self.inbox(group)).chain(BUCKETS.iter().map(retry)).collect()
    }

    fn prefixed(&self, name: &str) -> String {
        match &self.prefix {
            Some(prefix) => format!("{prefix}.{name}"),
            None => name.to_owned(),
        }
    }
}

/// What a name looks like to the broker, which tells `.` and `_` not apart.
pub(crate) fn folded(name: &str) -> String {
    name.replace('.', "_")
}

/// The refusal of a topic that folds together with one that exists.
pub(crate) fn collision(topic: &Topic, existing: &str) -> Error {
    invalid(format!(
        "Kafka cannot tell the topic `{topic}` from `{existing}`, which exists: to it `.` and `_` are \
         the same; use another name"
    ))
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidTopic, text).with_backend(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    #[test]
    fn names_survive_the_broker_and_those_of_others_are_none() {
        for prefix in [None, Some("staging")] {
            let names = Names::new(prefix.map(|prefix| Prefix::new(prefix).unwrap()));
            for name in ["orders.created", "dlq.g", "_fabric.to.g", "a-b_c"] {
                let there = names.topic(&topic(name)).unwrap();
                assert_eq!(names.parse(&there), Some(topic(name)), "{there}");
            }
            assert_eq!(names.parse("__consumer_offsets"), None);
        }
        let staging = Names::new(Some(Prefix::new("staging").unwrap()));
        assert_eq!(staging.parse("orders.created"), None);
        assert_eq!(staging.parse("stagings.a"), None);
        assert_eq!(staging.group(&Group::new("g").unwrap()), "staging.g");
    }

    #[test]
    fn what_the_broker_does_not_take_is_refused() {
        let names = Names::new(None);
        let refused = names.topic(&topic("__consumer_offsets")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidTopic);
        assert_eq!(folded("a.b_c"), folded("a_b.c"));
        let text = collision(&topic("a.b_c"), "a_b.c").to_string();
        assert!(text.contains("a.b_c") && text.contains("a_b.c"), "{text}");
    }

    #[test]
    fn every_group_has_topics_of_its_own() {
        let names = Names::new(None);
        let group = |name: &str| Group::new(name).unwrap();
        let all: std::collections::HashSet<String> = ["x", "x_10m", "x-10m", "to"]
            .iter()
            .flat_map(|name| names.waiting(&group(name)))
            .map(|name| folded(&name))
            .collect();
        assert_eq!(all.len(), 4 * 3);
    }
}
