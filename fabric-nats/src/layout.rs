//! Where topics lie on the server: subjects, streams, and the filters of subscriptions.
//!
//! Pure: no I/O.

use fabric_core::{Error, ErrorKind, Group, Pattern, Patterns, Result, Topic};

use crate::config::NatsConfig;

/// More filters than this cost the server more than what they keep away.
const MOST_FILTERS: usize = 500;

/// Names on the server: all that one prefix owns.
///
/// | subject | what lies there |
/// |---|---|
/// | `<prefix>.<topic>` | events |
/// | `_fabric.p.<prefix>.to.<group>.<topic>` | events for one group alone |
/// | `_fabric.p.<prefix>.at.<id>` | events that are not due yet |
/// | `_fabric.p.<prefix>.dlq.<group>` | dead letters, in a stream without limits |
/// | `_fabric.p.<prefix>.ask.<topic>` | requests, in no stream |
/// | `_fabric.p.<prefix>.here.<group>` | the members of a group, in no stream |
/// | `_fabric.p.<prefix>.sync` | nothing: asking there is a round trip |
///
/// Without a prefix `_fabric.r.` stands for `_fabric.p.<prefix>.`, and a subject is a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// What stands before a topic: `fabric.`, or nothing.
    base: String,
    /// What stands before all that is Fabric's own.
    own: String,
    pub(crate) streams: Vec<StreamSpec>,
    /// The stream of the groups' inboxes.
    pub(crate) home: usize,
    /// The stream of the dead letters.
    pub(crate) letters: usize,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamSpec {
    pub(crate) name: String,
    pub(crate) subjects: Vec<String>,
    /// Whether it is one of the user's list, which may have been made by somebody else.
    pub(crate) listed: bool,
    /// Whether it keeps everything: the dead letters.
    pub(crate) unlimited: bool,
}

/// What one subscription reads of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) stream: usize,
    pub(crate) subjects: Vec<String>,
}

/// What a subject is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// A topic, by its text.
    Topic(&'a str),
    /// An event for one group alone.
    Inbox { group: &'a str, topic: &'a str },
    /// Nothing of Fabric's.
    Foreign,
}

impl Layout {
    pub(crate) fn new(config: &NatsConfig) -> Self {
        let prefix = match &config.prefix {
            Some(prefix) => Some(prefix.as_str()),
            None if config.streams.is_empty() => Some("fabric"),
            None => None,
        };
        let base = prefix.map(|prefix| format!("{prefix}.")).unwrap_or_default();
        let own = prefix.map_or_else(|| "_fabric.r.".to_owned(), |p| format!("_fabric.p.{p}."));
        let tag = prefix.unwrap_or("_fabric");
        let spec = |name: String, subjects, listed, unlimited| StreamSpec {
            name,
            subjects,
            listed,
            unlimited,
        };
        let inboxes = format!("{own}to.>");
        let due = format!("{own}at.>");
        let mut streams: Vec<StreamSpec> = Vec::new();
        for stream in &config.streams {
            let both = |root: &String| [format!("{base}{root}"), format!("{base}{root}.>")];
            let subjects = stream.roots.iter().flat_map(both).collect();
            streams.push(spec(stream.name.clone(), subjects, true, false));
        }
        let home = streams.len();
        if streams.is_empty() {
            let all = format!("{base}>");
            streams.push(spec(tag.to_owned(), vec![all, inboxes, due], false, false));
        } else {
            streams.push(spec(format!("{tag}~to"), vec![inboxes], false, true));
        }
        let letters = streams.len();
        streams.push(spec(format!("{tag}~dlq"), vec![format!("{own}dlq.>")], false, true));
        Self { base, own, streams, home, letters }
    }

    /// The subject of a topic.
    pub(crate) fn subject(&self, topic: &Topic) -> String {
        let topic = topic.as_str();
        if topic.starts_with("dlq.") {
            return [&self.own, topic].concat();
        }
        [&self.base, topic].concat()
    }

    /// The subject of `topic` in the inbox of `group`.
    pub(crate) fn inbox(&self, group: &Group, topic: &Topic) -> String {
        [&self.own, "to.", group.as_str(), ".", topic.as_str()].concat()
    }

    /// Everything in the inbox of `group`.
    pub(crate) fn inbox_filter(&self, group: &Group) -> String {
        [&self.own, "to.", group.as_str(), ".>"].concat()
    }

    /// Where an event waits until it is due.
    pub(crate) fn due(&self, id: &str) -> String {
        [&self.own, "at.", id].concat()
    }

    /// Where the members of `group` answer.
    pub(crate) fn here(&self, group: &Group) -> String {
        [&self.own, "here.", group.as_str()].concat()
    }

    /// Where nobody answers: asking there tells that the server dealt with all before.
    pub(crate) fn sync(&self) -> String {
        [&self.own, "sync"].concat()
    }

    /// The subject of requests on `topic`.
    pub(crate) fn request(&self, topic: &Topic) -> String {
        [&self.own, "ask.", topic.as_str()].concat()
    }

    /// What a responder for `pattern` listens to.
    pub(crate) fn request_filters(&self, patterns: &Patterns) -> Vec<String> {
        let root = format!("{}ask.", self.own);
        maximal(patterns.iter().flat_map(|pattern| widened(&root, pattern)).collect())
    }

    /// The topic of a request's subject.
    pub(crate) fn requested<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&self.own)?.strip_prefix("ask.")
    }

    /// What a live subscription listens to.
    pub(crate) fn live_filters(&self, patterns: &Patterns) -> Vec<String> {
        maximal(patterns.iter().flat_map(|pattern| widened(&self.base, pattern)).collect())
    }

    /// What lies at a subject.
    pub(crate) fn place<'a>(&self, subject: &'a str) -> Place<'a> {
        if let Some(own) = subject.strip_prefix(&self.own) {
            if let Some((group, topic)) = own.strip_prefix("to.").and_then(|to| to.split_once('.'))
            {
                return Place::Inbox { group, topic };
            }
            if own.starts_with("dlq.") {
                return Place::Topic(own);
            }
            return Place::Foreign;
        }
        match subject.strip_prefix(&self.base) {
            Some(topic) => Place::Topic(topic),
            None => Place::Foreign,
        }
    }

    /// The stream that keeps a topic.
    ///
    /// # Errors
    /// `NotFound` where none of the listed streams does.
    pub(crate) fn stream_of(&self, topic: &Topic) -> Result<usize> {
        if topic.as_str().starts_with("dlq.") {
            return Ok(self.letters);
        }
        let subject = self.subject(topic);
        self.events().find(|n| self.streams[*n].takes(&subject)).ok_or_else(|| {
            let text = format!(
                "no stream keeps `{topic}`: {}; add its first level to a stream's roots",
                self.described()
            );
            Error::new(ErrorKind::NotFound, text).with("topic", topic)
        })
    }

    /// What `patterns` read, by stream; the inbox of `group` too, if there is one.
    ///
    /// # Errors
    /// `NotFound` where a pattern reaches topics that no stream keeps.
    pub(crate) fn filters(
        &self,
        patterns: &Patterns,
        group: Option<&Group>,
    ) -> Result<Vec<Filter>> {
        let mut filters: Vec<Vec<String>> = vec![Vec::new(); self.streams.len()];
        for pattern in patterns {
            let first = pattern.levels().next().unwrap_or_default();
            if first == "dlq" {
                filters[self.letters].extend(widened(&self.own, pattern));
                continue;
            }
            for wide in widened(&self.base, pattern) {
                self.spread(pattern, &wide, &mut filters)?;
            }
        }
        if let Some(group) = group {
            filters[self.home].push(self.inbox_filter(group));
        }
        let filters = filters.into_iter().enumerate().filter(|(_, subjects)| !subjects.is_empty());
        Ok(filters
            .map(|(stream, subjects)| Filter {
                stream,
                subjects: self.bounded(stream, maximal(subjects), group),
            })
            .collect())
    }

    /// Puts one filter to the streams that it reaches.
    fn spread(&self, pattern: &Pattern, wide: &str, filters: &mut [Vec<String>]) -> Result<()> {
        let mut reached = false;
        for n in self.events() {
            for subject in &self.streams[n].subjects {
                if subject.starts_with(&self.own) {
                    continue;
                }
                if contains(subject, wide) {
                    filters[n].push(wide.to_owned());
                    reached = true;
                } else if contains(wide, subject) {
                    filters[n].push(subject.clone());
                    reached = true;
                } else if let Some(both) = meet(subject, wide) {
                    filters[n].push(both);
                    reached = true;
                }
            }
        }
        if reached {
            return Ok(());
        }
        let text = format!(
            "no stream keeps topics that match `{pattern}`: {}; add their first level to a \
             stream's roots",
            self.described()
        );
        Err(Error::new(ErrorKind::NotFound, text).with("pattern", pattern))
    }

    /// One filter for everything where there are too many.
    fn bounded(&self, stream: usize, filters: Vec<String>, group: Option<&Group>) -> Vec<String> {
        if filters.len() <= MOST_FILTERS {
            return filters;
        }
        let subjects = self.streams[stream].subjects.iter();
        let mut all: Vec<String> =
            subjects.filter(|subject| !subject.starts_with(&self.own)).cloned().collect();
        if let Some(group) = group.filter(|_| stream == self.home) {
            all.push(self.inbox_filter(group));
        }
        if all.is_empty() { filters } else { maximal(all) }
    }

    /// The streams of events.
    fn events(&self) -> impl Iterator<Item = usize> + '_ {
        let own = |n: &usize| self.streams[*n].subjects.iter().any(|s| !s.starts_with(&self.own));
        (0..self.streams.len()).filter(own)
    }

    fn described(&self) -> String {
        let one = |n: usize| {
            let stream = &self.streams[n];
            format!("`{}` keeps {}", stream.name, stream.subjects.join(", "))
        };
        self.events().map(one).collect::<Vec<_>>().join("; ")
    }
}

impl StreamSpec {
    /// Whether it keeps what is sent to `subject`.
    pub(crate) fn takes(&self, subject: &str) -> bool {
        self.subjects.iter().any(|pattern| contains(pattern, subject))
    }
}

/// The subjects that a pattern reaches, or more of them where the server has no such wildcard.
fn widened(base: &str, pattern: &Pattern) -> Vec<String> {
    let text = pattern.as_str();
    let Some(at) = pattern.levels().position(|level| level == "#") else {
        return vec![[base, text].concat()];
    };
    let before: Vec<&str> = pattern.levels().take(at).collect();
    let before = before.join(".");
    let least = pattern.levels().skip(at).filter(|level| *level != "#").count();
    let dot = if before.is_empty() { "" } else { "." };
    let mut filters = vec![format!("{base}{before}{dot}>")];
    if least == 0 && !before.is_empty() {
        filters.push(format!("{base}{before}"));
    }
    filters
}

/// Those that no other contains.
pub(crate) fn maximal(mut filters: Vec<String>) -> Vec<String> {
    filters.sort_unstable();
    filters.dedup();
    if filters.len() > 4 * MOST_FILTERS {
        return filters;
    }
    let contained = |n: usize| {
        let others = filters.iter().enumerate().filter(|(m, _)| *m != n);
        others.into_iter().any(|(_, other)| contains(other, &filters[n]))
    };
    (0..filters.len()).filter(|n| !contained(*n)).map(|n| filters[n].clone()).collect()
}

/// Whether everything that `inner` matches is matched by `outer`; subjects with `*` and `>`.
pub(crate) fn contains(outer: &str, inner: &str) -> bool {
    let (mut outer, mut inner) = (outer.split('.'), inner.split('.'));
    loop {
        match (outer.next(), inner.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some("*"), Some(level)) if level != ">" => {}
            (Some(wanted), Some(level)) if wanted == level && level != ">" => {}
            _ => return false,
        }
    }
}

/// What both match, where neither contains the other.
fn meet(a: &str, b: &str) -> Option<String> {
    let (mut a, mut b) = (a.split('.').peekable(), b.split('.').peekable());
    let mut both = Vec::new();
    loop {
        match (a.peek().copied(), b.peek().copied()) {
            (None, None) => return Some(both.join(".")),
            (Some(">"), Some(_)) => {
                both.extend(b);
                return Some(both.join("."));
            }
            (Some(_), Some(">")) => {
                both.extend(a);
                return Some(both.join("."));
            }
            (Some("*"), Some(level)) | (Some(level), Some("*")) => both.push(level),
            (Some(level), Some(same)) if level == same => both.push(level),
            _ => return None,
        }
        a.next();
        b.next();
    }
}

#[cfg(test)]
mod tests {
    use fabric_core::{IntoPatterns as _, Prefix};
    use proptest::prelude::*;

    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::new(text).unwrap()
    }

    fn listed() -> Layout {
        let config = NatsConfig::new(["a:1"]).with_stream("S", ["a", "b"]).with_stream("T", ["c"]);
        Layout::new(&config)
    }

    fn read(layout: &Layout, patterns: &[&str]) -> Vec<(usize, String)> {
        let filters = layout.filters(&patterns.into_patterns().unwrap(), None).unwrap();
        filters.iter().map(|filter| (filter.stream, filter.subjects.join(" "))).collect()
    }

    #[test]
    fn topics_lie_under_the_prefix_and_dead_letters_elsewhere() {
        let config = NatsConfig::new(["a:1"]).with_prefix(Prefix::new("p").unwrap());
        let layout = Layout::new(&config);
        let group = Group::new("g").unwrap();
        assert_eq!(layout.subject(&topic("a.b")), "p.a.b");
        assert_eq!(layout.subject(&topic("dlq.g")), "_fabric.p.p.dlq.g");
        assert_eq!(layout.place("p.a.b"), Place::Topic("a.b"));
        assert_eq!(layout.place("_fabric.p.p.dlq.g"), Place::Topic("dlq.g"));
        let inbox = layout.inbox(&group, &topic("a.b"));
        assert_eq!(layout.place(&inbox), Place::Inbox { group: "g", topic: "a.b" });
        assert!(contains(&layout.inbox_filter(&group), &inbox));
        for foreign in ["q.a", "p", "_fabric.p.p.at.x", "_fabric.p.q.dlq.g"] {
            assert_eq!(layout.place(foreign), Place::Foreign, "{foreign}");
        }
        assert_eq!(layout.stream_of(&topic("a")).unwrap(), layout.home);
        assert_eq!(layout.stream_of(&topic("dlq.g")).unwrap(), layout.letters);
        assert_eq!(layout.requested(&layout.request(&topic("a.b"))), Some("a.b"));
    }

    #[test]
    fn no_two_streams_of_a_layout_overlap() {
        let one = Layout::new(&NatsConfig::new(["a:1"]));
        for layout in [one, listed()] {
            let subjects: Vec<_> = layout.streams.iter().flat_map(|s| &s.subjects).collect();
            for (n, a) in subjects.iter().enumerate() {
                for b in &subjects[n + 1..] {
                    let apart = !contains(a, b) && !contains(b, a) && meet(a, b).is_none();
                    assert!(apart, "{a} and {b}");
                }
                let ask = layout.request(&topic("a.b"));
                assert!(!contains(a, &ask), "{a} keeps requests");
            }
        }
    }

    #[test]
    fn patterns_become_filters_of_streams() {
        let layout = Layout::new(&NatsConfig::new(["a:1"]));
        let table: &[(&[&str], &str)] = &[
            (&["a.b"], "fabric.a.b"),
            (&["a.*", "a.b"], "fabric.a.*"),
            (&["a.>"], "fabric.a.>"),
            (&["a.#"], "fabric.a fabric.a.>"),
            (&["#"], "fabric.>"),
            (&["#.b"], "fabric.>"),
            (&["a.#.b"], "fabric.a.>"),
            (&["*.#"], "fabric.* fabric.*.>"),
            (&["a.#.#"], "fabric.a fabric.a.>"),
            (&["*.b", "a.*"], "fabric.*.b fabric.a.*"),
        ];
        for (patterns, expected) in table {
            assert_eq!(read(&layout, patterns), [(0, (*expected).to_owned())], "{patterns:?}");
        }
        let dead = read(&layout, &["dlq.g", "a"]);
        assert_eq!(dead, [(0, "fabric.a".to_owned()), (1, "_fabric.p.fabric.dlq.g".to_owned())]);
    }

    #[test]
    fn a_pattern_is_spread_over_the_streams_that_it_reaches() {
        let layout = listed();
        assert_eq!(read(&layout, &["a.x"]), [(0, "a.x".to_owned())]);
        let all = read(&layout, &["#"]);
        assert_eq!(all, [(0, "a a.> b b.>".to_owned()), (1, "c c.>".to_owned())]);
        let half = read(&layout, &["*.x"]);
        assert_eq!(half, [(0, "a.x b.x".to_owned()), (1, "c.x".to_owned())]);
        let error = layout.filters(&"d.x".into_patterns().unwrap(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("`T` keeps c, c.>"), "{error}");
        assert!(layout.stream_of(&topic("d")).is_err());
    }

    #[test]
    fn too_many_filters_become_one() {
        let layout = Layout::new(&NatsConfig::new(["a:1"]));
        let many: Vec<String> = (0..=MOST_FILTERS).map(|n| format!("t{n}.*")).collect();
        let group = Group::new("g").unwrap();
        let filters = layout.filters(&many.into_patterns().unwrap(), Some(&group)).unwrap();
        assert_eq!(filters[0].subjects, ["_fabric.p.fabric.to.g.>", "fabric.>"]);
    }

    fn subject() -> impl Strategy<Value = String> {
        let level = prop::sample::select(&["a", "b", "*"]);
        let end = prop::sample::select(&["a", "*", ">", ""]);
        (prop::collection::vec(level, 0..4), end).prop_map(|(mut levels, end)| {
            if !end.is_empty() || levels.is_empty() {
                levels.push(if end.is_empty() { "a" } else { end });
            }
            levels.join(".")
        })
    }

    fn levels() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(&["a", "b", "c"]), 1..5)
            .prop_map(|levels| levels.join("."))
    }

    proptest! {
        #[test]
        fn what_is_contained_is_matched(a in subject(), b in subject(), literal in levels()) {
            let (in_a, in_b) = (contains(&a, &literal), contains(&b, &literal));
            prop_assert!(!contains(&a, &b) || !in_b || in_a);
            let both = meet(&a, &b).is_some_and(|both| contains(&both, &literal));
            prop_assert_eq!(both, in_a && in_b, "{} and {} on {}", a, b, literal);
        }

        #[test]
        fn filters_reach_all_that_a_pattern_matches(
            pattern in "((a|b|\\*|#)\\.){0,4}(a|b|\\*|#|>)",
            literal in levels(),
        ) {
            let pattern = Pattern::new(&pattern).unwrap();
            let topic = Topic::new(&literal).unwrap();
            let wide = widened("p.", &pattern);
            let reached = wide.iter().any(|filter| contains(filter, &format!("p.{literal}")));
            prop_assert!(!pattern.matches(&topic) || reached, "{:?}", wide);
            let exact = pattern.levels().rev().skip(1).all(|level| level != "#");
            prop_assert!(!exact || reached == pattern.matches(&topic), "{:?}", wide);
        }
    }
}
