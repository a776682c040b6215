//! What is known of groups: a log of changes, in which the first of several at a time wins.
//!
//! A record says on which revision of its group it builds, and counts only if that is still the
//! last. So several creators make one group, and each of them sees whose it is. Where a group began
//! is part of the record: it is fixed together with the definition, before any member reads.

mod log;

use std::collections::BTreeMap;

use fabric_core::{EventId, Group, GroupDefinition, Patterns, Topic};
use serde::{Deserialize, Serialize};

pub(crate) use log::Log;

/// The format of the records.
const FORMAT: u32 = 1;

/// The ends of topics at some moment, by their names on the broker.
pub(crate) type Ends = BTreeMap<String, End>;

/// Where one topic ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// The topic's id: another topic of the same name begins at its beginning.
    pub(crate) id: u64,
    /// The next offset of each partition.
    pub(crate) offsets: Vec<i64>,
}

/// One change of one group, as it lies in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The format; a later one is not guessed at.
    pub(crate) v: u32,
    /// Which group.
    pub(crate) group: Group,
    /// The revision that it builds on; 0 if there was none.
    pub(crate) after: u64,
    /// Tells it apart from what others write at the same time.
    pub(crate) id: EventId,
    /// What changes.
    pub(crate) change: Change,
}

/// What happens to a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// It is made, and begins there.
    Define {
        /// What is stored with it.
        definition: GroupDefinition,
        /// Where it begins.
        ends: Ends,
    },
    /// It reads something else from there on.
    Redefine {
        /// What it reads now.
        patterns: Patterns,
        /// Up to where it reads what it read before.
        ends: Ends,
    },
    /// It goes on there.
    Reset {
        /// Where.
        ends: Ends,
    },
    /// It is no more.
    Delete,
}

impl Record {
    /// A change on top of what is known.
    pub(crate) fn new(group: &Group, known: Option<&Known>, change: Change) -> Self {
        let after = known.map_or(0, |known| known.revision);
        Self { v: FORMAT, group: group.clone(), after, id: EventId::generate(), change }
    }
}

/// A group, as far as the log was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// How many changes there were.
    pub(crate) revision: u64,
    /// The revision at which its place was last set.
    pub(crate) origin: u64,
    /// The revision at which it was made.
    pub(crate) made: u64,
    /// What is stored with it; none once it was deleted.
    pub(crate) definition: Option<GroupDefinition>,
    /// What it read from where on, in order.
    spans: Vec<Span>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    patterns: Patterns,
    ends: Ends,
}

/// Every group that was ever made.
#[derive(Debug, Default)]
pub(crate) struct Groups(BTreeMap<Group, Known>);

impl Groups {
    /// Takes the next record of the log in; whether it counts.
    pub(crate) fn apply(&mut self, record: Record) -> bool {
        if record.v != FORMAT {
            return false;
        }
        let known = self.0.get_mut(&record.group);
        let revision = known.as_ref().map_or(0, |known| known.revision);
        if record.after != revision {
            return false;
        }
        let revision = revision + 1;
        match (known, record.change) {
            (known, Change::Define { definition, ends }) => {
                if known.is_some_and(|known| known.definition.is_some()) {
                    return false;
                }
                let spans = vec![Span { patterns: definition.patterns.clone(), ends }];
                let (origin, made) = (revision, revision);
                let definition = Some(definition);
                let known = Known { revision, origin, made, definition, spans };
                self.0.insert(record.group, known);
                true
            }
            (Some(known), change) => known.apply(change, revision),
            (None, _) => false,
        }
    }

    /// What is known of `group`; none where it does not exist.
    pub(crate) fn living(&self, group: &Group) -> Option<&Known> {
        self.0.get(group).filter(|known| known.definition.is_some())
    }

    /// What is known of `group`, also after it was deleted.
    pub(crate) fn ever(&self, group: &Group) -> Option<&Known> {
        self.0.get(group)
    }

    /// Every group that exists.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Group, &Known)> {
        self.0.iter().filter(|(_, known)| known.definition.is_some())
    }
}

impl Known {
    fn apply(&mut self, change: Change, revision: u64) -> bool {
        let Some(definition) = &mut self.definition else { return false };
        match change {
            Change::Define { .. } => return false,
            Change::Redefine { patterns, ends } => {
                definition.patterns = patterns.clone();
                self.spans.push(Span { patterns, ends });
            }
            Change::Reset { ends } => {
                self.origin = revision;
                self.spans = vec![Span { patterns: definition.patterns.clone(), ends }];
            }
            Change::Delete => {
                self.definition = None;
                self.spans.clear();
            }
        }
        self.revision = revision;
        true
    }

    /// The same, after it was deleted.
    pub(crate) fn deleted(&self) -> Self {
        Self { definition: None, ..self.clone() }
    }

    /// Whether anything of `topic` is or was the group's since its place was last set.
    pub(crate) fn reads(&self, topic: &Topic) -> bool {
        self.spans.iter().any(|span| span.patterns.matches(topic))
    }

    /// Where the group's first event of a partition may lie.
    pub(crate) fn first(&self, topic: &Topic, place: &Place<'_>) -> i64 {
        let matching = self.spans.iter().filter(|span| span.patterns.matches(topic));
        matching.map(|span| span.from(place)).min().unwrap_or(0)
    }

    /// Where the group's events of a partition begin that are nobody's by pattern: its inbox.
    pub(crate) fn first_waiting(&self, place: &Place<'_>) -> i64 {
        // A redefinition leaves alone what waits.
        self.spans.first().map_or(0, |span| span.from(place))
    }

    /// Up to where the events of a partition that ends at `end` are the group's.
    pub(crate) fn until(&self, topic: &Topic, place: &Place<'_>, end: i64) -> i64 {
        let mut until = end;
        for span in self.spans.iter().rev() {
            if span.patterns.matches(topic) {
                break;
            }
            until = span.from(place).min(until);
        }
        until
    }

    /// Whether the event at `offset` is the group's: what it read then matches.
    pub(crate) fn wants(&self, topic: &Topic, place: &Place<'_>, offset: i64) -> bool {
        match self.spans.as_slice() {
            [only] => offset >= only.from(place),
            spans => {
                let then = spans.iter().rev().find(|span| span.from(place) <= offset);
                then.is_some_and(|span| span.patterns.matches(topic))
            }
        }
    }
}

impl Span {
    fn from(&self, place: &Place<'_>) -> i64 {
        let end = self.ends.get(place.name).filter(|end| end.id == place.id);
        let offsets = end.map_or(&[][..], |end| &end.offsets);
        offsets.get(place.partition as usize).copied().unwrap_or(0)
    }
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The topic's name on the broker.
    pub(crate) name: &'a str,
    /// The topic's id.
    pub(crate) id: u64,
    /// Which partition.
    pub(crate) partition: i32,
}

#[cfg(test)]
mod tests {
    use fabric_core::{IntoPatterns as _, Topic};

    use super::*;

    fn group() -> Group {
        Group::new("g").unwrap()
    }

    fn patterns(list: &[&str]) -> Patterns {
        list.into_patterns().unwrap()
    }

    fn ends(list: &[(&str, i64)]) -> Ends {
        let end =
            |(name, at): &(&str, i64)| ((*name).to_owned(), End { id: 1, offsets: vec![*at] });
        list.iter().map(end).collect()
    }

    fn define(after: u64, list: &[&str], at: &[(&str, i64)]) -> Record {
        let definition = GroupDefinition::new(patterns(list));
        let change = Change::Define { definition, ends: ends(at) };
        Record { v: FORMAT, group: group(), after, id: EventId::new("i").unwrap(), change }
    }

    fn change(after: u64, change: Change) -> Record {
        Record { v: FORMAT, group: group(), after, id: EventId::new("i").unwrap(), change }
    }

    #[test]
    fn of_several_creators_the_first_wins() {
        let mut groups = Groups::default();
        assert!(groups.apply(define(0, &["a"], &[("a", 3)])));
        assert!(!groups.apply(define(0, &["b"], &[])), "it came second");
        assert!(!groups.apply(define(1, &["b"], &[])), "it exists");
        let known = groups.living(&group()).unwrap();
        assert_eq!(known.definition.as_ref().unwrap().patterns, patterns(&["a"]));
        assert!(groups.apply(change(1, Change::Delete)));
        assert!(!groups.apply(change(1, Change::Delete)));
        assert!(groups.living(&group()).is_none());
        assert!(groups.apply(define(2, &["b"], &[])));
        assert_eq!(groups.living(&group()).unwrap().origin, 3);
    }

    #[test]
    fn records_of_a_later_format_change_nothing() {
        let mut groups = Groups::default();
        assert!(!groups.apply(Record { v: 2, ..define(0, &["a"], &[]) }));
        assert!(!groups.apply(change(0, Change::Delete)));
    }

    #[test]
    fn what_a_group_reads_changes_where_it_was_redefined() {
        let mut groups = Groups::default();
        groups.apply(define(0, &["stays", "flips"], &[("flips", 10)]));
        let redefine = |list: &[&str], at: i64| Change::Redefine {
            patterns: patterns(list),
            ends: ends(&[("flips", at), ("stays", at)]),
        };
        assert!(groups.apply(change(1, redefine(&["stays"], 20))));
        assert!(groups.apply(change(2, redefine(&["stays", "flips"], 30))));
        let known = groups.living(&group()).unwrap();
        let topic = Topic::new("flips").unwrap();
        let place = Place { name: "flips", id: 1, partition: 0 };
        assert_eq!((known.first(&topic, &place), known.origin), (10, 1));
        let wanted = |offset| known.wants(&topic, &place, offset);
        assert_eq!([9, 10, 19, 20, 29, 30].map(wanted), [false, true, true, false, false, true]);
        let stays = Topic::new("stays").unwrap();
        let place = Place { name: "stays", id: 1, partition: 0 };
        assert_eq!(known.first(&stays, &place), 0);
        assert!([0, 20, 30].iter().all(|offset| known.wants(&stays, &place, *offset)));
        // A topic that was made anew, or later, is read from its beginning.
        let place = Place { name: "flips", id: 2, partition: 0 };
        assert!(known.wants(&topic, &place, 0));
        assert!(groups.apply(change(3, Change::Reset { ends: ends(&[("flips", 5)]) })));
        let known = groups.living(&group()).unwrap();
        let place = Place { name: "flips", id: 1, partition: 0 };
        assert_eq!((known.first(&topic, &place), known.origin), (5, 4));
        assert!(known.wants(&topic, &place, 25) && !known.wants(&topic, &place, 4));
    }

    #[test]
    fn records_are_written_down_for_good() {
        let record = define(4, &["a.*"], &[("a.b", 7)]);
        let json = "{\"v\":1,\"group\":\"g\",\"after\":4,\"id\":\"i\",\"change\":{\"define\":{\"definition\":\
                    {\"patterns\":[\"a.*\"],\"start\":\"new\",\"ack_wait\":{\"secs\":30,\"nanos\":0},\
                    \"max_deliver\":null},\"ends\":{\"a.b\":{\"id\":1,\"offsets\":[7]}}}}}";
        assert_eq!(serde_json::to_string(&record).unwrap(), json);
        assert_eq!(serde_json::from_str::<Record>(json).unwrap(), record);
    }
}
