//! All patterns at once: who is to get an event on this topic?

use std::fmt;
use std::num::NonZeroU32;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::Pattern;
use crate::name::{self, Levels, MAX_LEVELS};

/// A map from patterns to values that finds the values of all patterns a topic matches.
///
/// The cost of a search follows the topic's levels and the patterns that share a beginning with it,
/// not the number of patterns; no wildcards, however many and however nested, make it visit a
/// node of the trie twice. A search does not allocate.
///
/// One pattern may have many values, and the same value more than once.
///
/// ```
/// use fabric_core::{Pattern, PatternTrie};
///
/// let mut readers = PatternTrie::new();
/// readers.insert(&Pattern::new("orders.*")?, "billing");
/// readers.insert(&Pattern::new("#")?, "audit");
///
/// let mut found = Vec::new();
/// readers.for_each_match("orders.created", |reader| found.push(*reader));
/// found.sort();
/// assert_eq!(found, ["audit", "billing"]);
///
/// assert!(readers.remove(&Pattern::new("#")?, &"audit"));
/// assert_eq!(readers.len(), 1);
/// # Ok::<(), fabric_core::Error>(())
/// ```
// The nodes lie in one vector and the edges of literal levels in one table, keyed by the node
// and a number for the level's text: a search hashes each level's text once, however many nodes
// it visits. It carries, per node, the *set* of places in the topic that the pattern up to the
// node can have reached, as the bits of one word (bit n: the first n levels are taken). `#` turns
// a set into all places from its lowest on, other levels move it by one, and each node is visited
// once with all its places.
#[derive(Clone)]
pub struct PatternTrie<V> {
    /// Slot 0 is the root, which has no values; slots in `free` are empty.
    nodes: Vec<Node>,
    /// Of the node in the same slot; apart from it, since a search passes many nodes without any.
    values: Vec<SmallVec<[V; 1]>>,
    free: Vec<Child>,
    edges: HashMap<u64, Child, RandomState>,
    words: Words,
    len: usize,
}

impl<V> PatternTrie<V> {
    /// Makes an empty trie.
    #[must_use]
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
            values: vec![SmallVec::new()],
            free: Vec::new(),
            edges: HashMap::default(),
            words: Words::default(),
            len: 0,
        }
    }

    /// Returns the number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `value` under `pattern`; a pair added twice is found twice and removed one by one.
    pub fn insert(&mut self, pattern: &Pattern, value: V) {
        let mut at = ROOT;
        for level in pattern.levels() {
            at = match self.child(at, level) {
                Some(child) => child.get(),
                None => self.add_child(at, level).get(),
            };
        }
        self.nodes[index(at)].values += 1;
        self.values[index(at)].push(value);
        self.len += 1;
    }

    /// Removes one `value` of `pattern` and says whether there was one.
    pub fn remove(&mut self, pattern: &Pattern, value: &V) -> bool
    where
        V: PartialEq,
    {
        let mut path = SmallVec::<[u32; MAX_LEVELS + 1]>::from_slice(&[ROOT]);
        let mut at = ROOT;
        for level in pattern.levels() {
            let Some(child) = self.child(at, level) else {
                return false;
            };
            at = child.get();
            path.push(at);
        }
        let values = &mut self.values[index(at)];
        let Some(found) = values.iter().position(|known| known == value) else {
            return false;
        };
        values.swap_remove(found);
        self.nodes[index(at)].values -= 1;
        self.len -= 1;
        for (level, pair) in pattern.levels().rev().zip(path.windows(2).rev()) {
            if !self.nodes[index(pair[1])].is_empty() {
                break;
            }
            self.remove_child(pair[0], level);
        }
        true
    }

    /// Calls `visit` once for every value whose pattern matches `topic`, in no order.
    ///
    /// A pattern with a wildcard in the first level does not match a reserved topic, as everywhere.
    /// The text is not checked: one that is no topic finds any values, or none.
    pub fn for_each_match<'a>(&'a self, topic: &str, mut visit: impl FnMut(&'a V)) {
        let Some(walk) = Walk::new(topic, &self.words) else {
            return;
        };
        let start = 1;
        if name::is_reserved(topic) {
            self.visit_literals(ROOT, start, &walk, &mut visit);
        } else {
            self.visit(ROOT, start, &walk, &mut visit);
        }
    }

    /// Visits what matches below `at`, whose own levels can have taken the `places` of the topic.
    fn visit<'a>(&'a self, at: u32, places: u32, walk: &Walk, visit: &mut impl FnMut(&'a V)) {
        let node = &self.nodes[index(at)];
        if node.values != 0 && places & walk.end != 0 {
            self.values[index(at)].iter().for_each(&mut *visit);
        }
        if let Some(child) = node.many {
            let lowest = places & places.wrapping_neg();
            self.visit(child.get(), (walk.end << 1) - lowest, walk, visit);
        }
        let open = places & (walk.end - 1);
        if open == 0 {
            return;
        }
        if let Some(child) = node.rest {
            self.values[index(child.get())].iter().for_each(&mut *visit);
        }
        if let Some(child) = node.one {
            self.visit(child.get(), open << 1, walk, visit);
        }
        if node.words != 0 {
            self.visit_literals(at, open, walk, visit);
        }
    }

    /// Visits what matches below the literal children of `at`.
    fn visit_literals<'a>(
        &'a self,
        at: u32,
        open: u32,
        walk: &Walk,
        visit: &mut impl FnMut(&'a V),
    ) {
        let filter = self.nodes[index(at)].filter;
        let mut found = [(ROOT, 0); MAX_LEVELS];
        let mut count = 0;
        let mut left = open & walk.known;
        while left != 0 {
            let level = left.trailing_zeros() as usize;
            let (word, places) = (walk.words[level], walk.places[level]);
            left &= !places;
            if filter & filter_bit(word) == 0 {
                continue;
            }
            if let Some(child) = self.edges.get(&edge(at, word)) {
                found[count] = (child.get(), (open & places) << 1);
                count += 1;
            }
        }
        for (child, places) in &found[..count] {
            self.visit(*child, *places, walk, visit);
        }
    }

    fn child(&self, at: u32, level: &str) -> Option<Child> {
        let node = &self.nodes[index(at)];
        match level {
            "*" => node.one,
            "#" => node.many,
            ">" => node.rest,
            _ => self.edges.get(&edge(at, self.words.get(level)?)).copied(),
        }
    }

    fn add_child(&mut self, at: u32, level: &str) -> Child {
        let child = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.nodes.len()).ok().and_then(NonZeroU32::new);
            self.nodes.push(Node::default());
            self.values.push(SmallVec::new());
            slot.expect("the root has slot 0, and four billion nodes exceed any memory")
        });
        let node = &mut self.nodes[index(at)];
        match level {
            "*" => node.one = Some(child),
            "#" => node.many = Some(child),
            ">" => node.rest = Some(child),
            _ => {
                let word = self.words.hold(level);
                node.words += 1;
                node.filter |= filter_bit(word);
                self.edges.insert(edge(at, word), child);
            }
        }
        child
    }

    fn remove_child(&mut self, at: u32, level: &str) {
        let node = &mut self.nodes[index(at)];
        let child = match level {
            "*" => node.one.take(),
            "#" => node.many.take(),
            ">" => node.rest.take(),
            _ => {
                node.words -= 1;
                if node.words == 0 {
                    node.filter = 0;
                }
                self.words.release(level).and_then(|word| self.edges.remove(&edge(at, word)))
            }
        };
        if let Some(child) = child {
            self.nodes[index(child.get())] = Node::default();
            self.values[index(child.get())] = SmallVec::new();
            self.free.push(child);
        }
    }
}

impl<V> Default for PatternTrie<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> fmt::Debug for PatternTrie<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatternTrie")
            .field("len", &self.len)
            .field("nodes", &(self.nodes.len() - self.free.len()))
            .finish_non_exhaustive()
    }
}

/// The slot of a node other than the root.
type Child = NonZeroU32;

#[derive(Clone, Default)]
struct Node {
    /// How many values it has.
    values: u32,
    /// Below `*`.
    one: Option<Child>,
    /// Below `#`.
    many: Option<Child>,
    /// Below `>`: a leaf.
    rest: Option<Child>,
    /// How many literal levels go on from here.
    words: u32,
    /// One bit for each of them, shared by some: a clear bit saves a search of the edges. Bits
    /// stay set until the last literal level goes.
    filter: u64,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.values == 0
            && self.words == 0
            && self.one.is_none()
            && self.many.is_none()
            && self.rest.is_none()
    }
}

/// A number for the text of each literal level in use.
#[derive(Clone, Default)]
struct Words {
    numbers: HashMap<Text, Word, RandomState>,
    free: Vec<u32>,
}

/// The bytes of a level, in place where they are few: a search then follows one pointer less.
type Text = SmallVec<[u8; 16]>;

#[derive(Clone, Copy)]
struct Word {
    number: u32,
    /// How many edges use it.
    edges: u32,
}

impl Words {
    fn get(&self, text: &str) -> Option<u32> {
        self.numbers.get(text.as_bytes()).map(|word| word.number)
    }

    /// The number of `text` for one edge more.
    fn hold(&mut self, text: &str) -> u32 {
        if let Some(word) = self.numbers.get_mut(text.as_bytes()) {
            word.edges += 1;
            return word.number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            u32::try_from(self.numbers.len()).expect("four billion words exceed any memory")
        });
        self.numbers.insert(Text::from_slice(text.as_bytes()), Word { number, edges: 1 });
        number
    }

    /// The number of `text` for one edge less: the last one takes it along.
    fn release(&mut self, text: &str) -> Option<u32> {
        let word = self.numbers.get_mut(text.as_bytes())?;
        word.edges -= 1;
        let Word { number, edges } = *word;
        if edges == 0 {
            self.numbers.remove(text.as_bytes());
            self.free.push(number);
        }
        Some(number)
    }
}

/// What a search knows about its topic.
struct Walk {
    /// The number of each level's word, or [`NO_WORD`].
    words: [u32; MAX_LEVELS],
    /// For each level, all places in the topic with the same word.
    places: [u32; MAX_LEVELS],
    /// The places of levels that some pattern names.
    known: u32,
    /// The place behind the last level.
    end: u32,
}

impl Walk {
    /// Looks up the levels of `topic`; `None` if there are too many for a topic.
    fn new(topic: &str, words: &Words) -> Option<Self> {
        let (mut known, mut end) = (0, 1_u32);
        let mut numbers = [NO_WORD; MAX_LEVELS];
        for (n, text) in Levels::of(topic).enumerate() {
            let number = numbers.get_mut(n)?;
            if let Some(word) = words.get(text) {
                *number = word;
                known |= end;
            }
            end <<= 1;
        }
        let mut places = [0; MAX_LEVELS];
        let levels = end.trailing_zeros() as usize;
        for (number, places) in numbers.iter().zip(&mut places).take(levels) {
            for (n, other) in numbers.iter().enumerate() {
                *places |= u32::from(number == other) << n;
            }
        }
        Some(Self { words: numbers, places, known, end })
    }
}

/// Stands for the word of a level that no pattern names.
const NO_WORD: u32 = u32::MAX;

fn index(slot: u32) -> usize {
    slot as usize
}

fn edge(at: u32, word: u32) -> u64 {
    u64::from(at) << 32 | u64::from(word)
}

fn filter_bit(word: u32) -> u64 {
    1 << (word % u64::BITS)
}

const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pattern::tests::{any_pattern, any_topic, by_definition};

    #[test]
    fn finds_each_value_once_though_many_paths_lead_to_it() {
        let trie = trie(&["#.#.#", "#.a.#", "#.*.#.*", "a.#", "a.a.a", "*.*.*", ">", "#.>"]);
        assert_eq!(found(&trie, "a.a.a"), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(found(&trie, "a"), [0, 1, 3, 6, 7]);
        assert_eq!(found(&trie, "b"), [0, 6, 7]);
    }

    #[test]
    fn rest_needs_a_level_and_many_does_not() {
        let trie = trie(&["events.market.>", "events.market.#", "events.market.*"]);
        assert_eq!(found(&trie, "events.market"), [1]);
        assert_eq!(found(&trie, "events.market.eu"), [0, 1, 2]);
        assert_eq!(found(&trie, "events.market.eu.open"), [0, 1]);
        assert_eq!(found(&trie, "events"), NOTHING);
        assert_eq!(found(&trie, "events.market-x"), NOTHING);
    }

    #[test]
    fn wildcards_in_the_first_level_do_not_reach_reserved_topics() {
        let trie = trie(&["#", "*.x", ">", "#.dlq.x", "dlq.*", "dlq.#", "dlq.x"]);
        assert_eq!(found(&trie, "dlq.x"), [4, 5, 6]);
        assert_eq!(found(&trie, "dlq"), [5]);
        assert_eq!(found(&trie, "_reply.x"), NOTHING);
        assert_eq!(found(&trie, "_fabric"), NOTHING);
        assert_eq!(found(&trie, "dlqs.x"), [0, 1, 2]);
        assert_eq!(found(&trie, "a.dlq.x"), [0, 2, 3]);
    }

    #[test]
    fn the_longest_topic_is_walked_to_its_end() {
        let sixteen = ["a"; 16].join(".");
        let names = [&*sixteen, "#.a", &["*"; 16].join("."), &["#"; 16].join("."), "#.b"];
        let trie = trie(&names);
        assert_eq!(found(&trie, &sixteen), [0, 1, 2, 3]);
        assert_eq!(found(&trie, &format!("{sixteen}.a")), NOTHING);
    }

    #[test]
    fn hostile_patterns_end() {
        // Every way to deal sixteen levels among seven `#` is one path through the trie.
        let hostile = format!("{}a", "#.a.".repeat(7));
        let trie = trie(&[&hostile, &hostile.replace('a', "*"), &format!("{hostile}.b")]);
        assert_eq!(found(&trie, &["a"; 16].join(".")), [0, 1]);
    }

    #[test]
    fn removal_takes_one_pair_and_leaves_nothing_behind() {
        let patterns: Vec<_> = ["a.b.*.c.#", "a.b", "a.b", ">", "a.b.*.c.#.>"]
            .map(|pattern| Pattern::new(pattern).unwrap())
            .to_vec();
        let mut trie = PatternTrie::new();
        patterns.iter().for_each(|pattern| trie.insert(pattern, 7));
        assert_eq!(trie.len(), 5);
        assert!(!trie.remove(&patterns[1], &8), "another value");
        assert!(!trie.remove(&Pattern::new("a").unwrap(), &7), "a node without values");
        assert!(!trie.remove(&Pattern::new("a.x").unwrap(), &7), "no node");
        assert_eq!(trie.len(), 5);

        assert!(trie.remove(&patterns[1], &7));
        assert_eq!(found(&trie, "a.b"), [7, 7], "the twin and `>`");
        for pattern in [0, 2, 3, 4] {
            assert!(trie.remove(&patterns[pattern], &7));
            assert!(!trie.remove(&patterns[pattern], &7));
        }
        assert!(trie.is_empty());
        assert_leaves_nothing(&trie);
    }

    #[test]
    fn slots_and_words_are_used_again() {
        let mut trie = PatternTrie::new();
        for n in 0..1000 {
            let pattern = Pattern::new(format!("_reply.{n}.*")).unwrap();
            trie.insert(&pattern, n);
            assert_eq!(found(&trie, &format!("_reply.{n}.x")), [n]);
            assert!(trie.remove(&pattern, &n));
        }
        assert_eq!(trie.nodes.len(), 4);
        assert_eq!(trie.words.free.len(), 2);
    }

    const NOTHING: [usize; 0] = [];

    fn trie(patterns: &[&str]) -> PatternTrie<usize> {
        let mut trie = PatternTrie::new();
        for (n, pattern) in patterns.iter().enumerate() {
            trie.insert(&Pattern::new(pattern).unwrap(), n);
        }
        trie
    }

    fn found(trie: &PatternTrie<usize>, topic: &str) -> Vec<usize> {
        let mut found = Vec::new();
        trie.for_each_match(topic, |value| found.push(*value));
        found.sort_unstable();
        found
    }

    fn assert_leaves_nothing<V>(trie: &PatternTrie<V>) {
        assert!(trie.nodes.iter().all(Node::is_empty));
        assert!(trie.nodes.iter().all(|node| node.filter == 0));
        assert!(trie.values.iter().all(SmallVec::is_empty));
        assert_eq!(trie.free.len() + 1, trie.nodes.len());
        assert!(trie.edges.is_empty());
        assert!(trie.words.numbers.is_empty());
    }

    /// What the trie is to answer: a search through a list.
    #[derive(Default)]
    struct List(Vec<(String, usize)>);

    impl List {
        fn remove(&mut self, pattern: &str, value: usize) -> bool {
            let pair = |(p, v): &(String, usize)| p == pattern && *v == value;
            self.0.iter().position(pair).map(|at| self.0.swap_remove(at)).is_some()
        }

        fn found(&self, topic: &str) -> Vec<usize> {
            let matching = self.0.iter().filter(|(pattern, _)| by_definition(pattern, topic));
            let mut found: Vec<_> = matching.map(|(_, value)| *value).collect();
            found.sort_unstable();
            found
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn answers_like_a_list_after_any_changes(
            pool in prop::collection::vec(any_pattern(), 1..12),
            changes in prop::collection::vec((any::<bool>(), any::<usize>(), 0..3_usize), 0..60),
            topics in prop::collection::vec(any_topic(), 1..12),
        ) {
            let (mut trie, mut list) = (PatternTrie::new(), List::default());
            for (insert, n, value) in changes {
                let text = &pool[n % pool.len()];
                let pattern = Pattern::new(text).unwrap();
                if insert {
                    trie.insert(&pattern, value);
                    list.0.push((text.clone(), value));
                } else {
                    prop_assert_eq!(trie.remove(&pattern, &value), list.remove(text, value));
                }
                prop_assert_eq!(trie.len(), list.0.len());
            }
            for topic in topics {
                prop_assert_eq!(found(&trie, &topic), list.found(&topic), "{}", topic);
            }
            for (pattern, value) in list.0 {
                prop_assert!(trie.remove(&Pattern::new(pattern).unwrap(), &value));
            }
            assert_leaves_nothing(&trie);
        }
    }
}
