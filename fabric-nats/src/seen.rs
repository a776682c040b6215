//! Subjects that came lately, and what they are: a subscription sees few of them, over and over.

use fabric_core::{Error, ErrorKind, Patterns, Topic};

use crate::layout::{Layout, Place};

/// How many are remembered.
const REMEMBERED: usize = 16;

/// Which part of the server's names a subject belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The events.
    Events,
    /// The inbox of one group.
    Inbox,
    /// Nothing of Fabric's.
    Foreign,
}

/// What one subject is.
#[derive(Debug)]
pub(crate) struct Seen {
    subject: Box<str>,
    pub(crate) part: Part,
    /// The topic, or what stands in for it.
    pub(crate) topic: Topic,
    /// Why it is no topic.
    pub(crate) fault: Option<Error>,
    /// What tells the topic from others, as a number.
    pub(crate) number: u64,
    /// Whether the patterns match, where somebody asked.
    matches: Option<bool>,
}

/// The last few subjects; the one that came last is looked at first.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    seen: Vec<Seen>,
    last: usize,
}

impl Subjects {
    /// What `subject` is.
    pub(crate) fn get(&mut self, layout: &Layout, subject: &str) -> &mut Seen {
        let same = |seen: &Seen| *seen.subject == *subject;
        if !self.seen.get(self.last).is_some_and(same) {
            self.last = match self.seen.iter().position(same) {
                Some(at) => at,
                None => self.learn(Seen::new(layout, subject)),
            };
        }
        &mut self.seen[self.last]
    }

    fn learn(&mut self, seen: Seen) -> usize {
        if self.seen.len() < REMEMBERED {
            self.seen.push(seen);
            return self.seen.len() - 1;
        }
        let oldest = (self.last + 1) % REMEMBERED;
        self.seen[oldest] = seen;
        oldest
    }

    /// Forgets which of them match: the patterns are others now.
    pub(crate) fn forget_matches(&mut self) {
        self.seen.iter_mut().for_each(|seen| seen.matches = None);
    }
}

impl Seen {
    fn new(layout: &Layout, subject: &str) -> Self {
        let (part, text) = match layout.place(subject) {
            Place::Topic(text) => (Part::Events, text),
            Place::Inbox { topic, .. } => (Part::Inbox, topic),
            Place::Foreign => (Part::Foreign, layout.requested(subject).unwrap_or(subject)),
        };
        let (topic, fault) = match Topic::new(text) {
            Ok(topic) => (topic, None),
            Err(error) => (stand_in(text), Some(no_topic(text, &error))),
        };
        let number = numbered(topic.as_str());
        Self { subject: subject.into(), part, topic, fault, number, matches: None }
    }

    /// Whether `patterns`, which are always the same ones, match the topic.
    pub(crate) fn matches(&mut self, patterns: &Patterns) -> bool {
        *self.matches.get_or_insert_with(|| patterns.matches(&self.topic))
    }

    /// Whether what lies there has its envelope with it, whatever the profile.
    pub(crate) fn is_enveloped(&self) -> bool {
        self.part == Part::Inbox || self.topic.is_reserved()
    }
}

fn no_topic(text: &str, error: &Error) -> Error {
    Error::new(ErrorKind::Codec, format!("`{text}` is no topic: {}", error.message()))
}

/// FNV-1a: the same in each process and version.
fn numbered(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A topic for what came on a subject that is none.
fn stand_in(text: &str) -> Topic {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let mut name: String = text.chars().take(150).map(legal).collect();
    while name.contains("..") {
        name = name.replace("..", "._.");
    }
    let levels: Vec<&str> = name.trim_matches('.').split('.').take(15).collect();
    let name = levels.join(".");
    let reserved = Topic::new(&name).is_ok_and(|topic| topic.is_reserved());
    let name = if reserved { format!("x.{name}") } else { name };
    Topic::new(&name).unwrap_or_else(|_| UNREADABLE.clone())
}

static UNREADABLE: std::sync::LazyLock<Topic> = std::sync::LazyLock::new(|| {
    let topic = Topic::new("unreadable");
    topic.unwrap_or_else(|error| unreachable!("it is one level of letters: {error}"))
});

#[cfg(test)]
mod tests {
    use fabric_core::{IntoPatterns as _, Prefix};

    use super::*;
    use crate::config::NatsConfig;

    #[test]
    fn the_last_subjects_are_remembered_and_no_more() {
        let prefix = Prefix::new("p").unwrap();
        let layout = Layout::new(&NatsConfig::new(["a:1"]).with_prefix(prefix));
        let mut subjects = Subjects::default();
        for n in (0..40).chain(30..40) {
            let seen = subjects.get(&layout, &format!("p.t{n}"));
            assert_eq!((seen.topic.as_str(), seen.part), (&*format!("t{n}"), Part::Events));
        }
        assert_eq!(subjects.seen.len(), REMEMBERED);
        let first = subjects.get(&layout, "p.t39").topic.clone();
        assert!(first.same_as(&subjects.get(&layout, "p.t39").topic));
        assert_eq!(subjects.get(&layout, "q.a").part, Part::Foreign);
        let inbox = subjects.get(&layout, "_fabric.p.p.to.g.a.b");
        assert_eq!((inbox.part, inbox.topic.as_str()), (Part::Inbox, "a.b"));
        assert!(inbox.is_enveloped() && inbox.fault.is_none());
        assert!(subjects.get(&layout, "p.schön").fault.is_some());
    }

    #[test]
    fn what_matches_is_asked_again_after_the_patterns_changed() {
        let layout = Layout::new(&NatsConfig::new(["a:1"]));
        let patterns = |text: &str| text.into_patterns().unwrap();
        let mut subjects = Subjects::default();
        assert!(subjects.get(&layout, "fabric.a").matches(&patterns("a")));
        assert!(subjects.get(&layout, "fabric.a").matches(&patterns("b")), "it is remembered");
        subjects.forget_matches();
        assert!(!subjects.get(&layout, "fabric.a").matches(&patterns("b")));
    }

    #[test]
    fn any_subject_has_a_topic_to_stand_in() {
        for (subject, topic) in [
            ("a.b c", "a.b_c"),
            ("a..b", "a._.b"),
            ("ä", "_"),
            (".", "unreadable"),
            ("dlq.x", "x.dlq.x"),
        ] {
            assert_eq!(stand_in(subject).as_str(), topic, "{subject}");
        }
        let long = "a.".repeat(200);
        assert!(stand_in(&long).as_str().len() <= 200);
    }
}
