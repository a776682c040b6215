//! Checkers: what a history says about losses, duplicates and order.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::failure::{Verdict, ensure};
use super::history::{Op, Record, Stage};
use crate::position::Position;
use crate::topic::Topic;

/// What is known of a published value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was certainly not accepted.
    Fail,
    /// Nobody knows.
    Info,
    /// It was accepted.
    Ok,
}

/// Where in the sequence of accepted values a loss lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Before everything that was received.
    Prefix,
    /// Between values that were received.
    Middle,
    /// After everything that was received.
    Postfix,
}

/// A value that was accepted and never received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The value.
    pub value: Arc<str>,
    /// Where it lies.
    pub place: Where,
}

/// Two values that changed places.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swapped {
    /// What came too early.
    pub later: Arc<str>,
    /// What had to come before it.
    pub earlier: Arc<str>,
}

/// The history of one audience: a group, or one subscription without a group.
///
/// ```
/// use fabric_core::conformance::{Check, History};
/// let history = History::new();
/// assert!(Check::new(history.records(), "billing").lost().is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct Check {
    records: Vec<Record>,
    audience: Arc<str>,
}

impl Check {
    /// What `audience` got of what `records` say was published.
    #[must_use]
    pub fn new(records: Vec<Record>, audience: &str) -> Self {
        Self { records, audience: audience.into() }
    }

    /// Looks only at what was published to these topics.
    #[must_use]
    pub fn of_topics(self, wants: impl Fn(&Topic) -> bool) -> Self {
        self.of_publishes(|record| wants(&record.topic))
    }

    /// Looks only at these publishes; what was received of the others is unexpected.
    #[must_use]
    pub fn of_publishes(mut self, wants: impl Fn(&Record) -> bool) -> Self {
        self.records.retain(|record| record.op != Op::Publish || wants(record));
        self
    }

    /// What became of each published value.
    #[must_use]
    pub fn outcomes(&self) -> HashMap<Arc<str>, Outcome> {
        let mut open: HashMap<Arc<str>, i64> = HashMap::new();
        let mut known: HashMap<Arc<str>, Outcome> = HashMap::new();
        for record in self.records.iter().filter(|record| record.op == Op::Publish) {
            let value = Arc::clone(&record.value);
            let begun = open.entry(Arc::clone(&value)).or_default();
            let outcome = match record.stage {
                Stage::Invoke => {
                    *begun += 1;
                    continue;
                }
                Stage::Ok => Outcome::Ok,
                Stage::Fail => Outcome::Fail,
                Stage::Info => Outcome::Info,
            };
            *begun -= 1;
            let best = known.entry(value).or_insert(outcome);
            *best = outcome.max(*best);
        }
        for (value, begun) in open {
            if begun > 0 {
                let best = known.entry(value).or_insert(Outcome::Info);
                *best = Outcome::Info.max(*best);
            }
        }
        known
    }

    /// Accepted and never received, in the order of publishing.
    #[must_use]
    pub fn lost(&self) -> Vec<Lost> {
        let received = self.received();
        let outcomes = self.outcomes();
        let mut seen = HashSet::new();
        let accepted: Vec<&Arc<str>> = self
            .records
            .iter()
            .filter(|record| record.op == Op::Publish)
            .map(|record| &record.value)
            .filter(|value| outcomes[*value] == Outcome::Ok && seen.insert(Arc::clone(value)))
            .collect();
        let is_here = |value: &&Arc<str>| received.contains(*value);
        let first = accepted.iter().position(is_here).unwrap_or(accepted.len());
        let last = accepted.iter().rposition(is_here).unwrap_or(0);
        accepted
            .iter()
            .enumerate()
            .filter(|(_, value)| !is_here(value))
            .map(|(n, value)| {
                let place = match n {
                    n if n < first => Where::Prefix,
                    n if n > last => Where::Postfix,
                    _ => Where::Middle,
                };
                Lost { value: Arc::clone(value), place }
            })
            .collect()
    }

    /// Received though nobody tried to publish it.
    #[must_use]
    pub fn unexpected(&self) -> Vec<Arc<str>> {
        let tried = self.outcomes();
        self.receipts().filter(|value| !tried.contains_key(*value)).map(Arc::clone).collect()
    }

    /// Received though its publish failed for certain.
    #[must_use]
    pub fn failed_seen(&self) -> Vec<Arc<str>> {
        let tried = self.outcomes();
        let failed = |value: &&Arc<str>| tried.get(*value) == Some(&Outcome::Fail);
        self.receipts().filter(failed).map(Arc::clone).collect()
    }

    /// Received more often than once.
    #[must_use]
    pub fn duplicates(&self) -> Vec<Arc<str>> {
        let mut seen = HashSet::new();
        self.receipts().filter(|value| !seen.insert(Arc::clone(value))).map(Arc::clone).collect()
    }

    /// Received out of the order in which one publisher sent to one topic, by any one reader.
    #[must_use]
    pub fn misordered(&self) -> Vec<Swapped> {
        let sent = self.sent_order(|record| (Arc::clone(&record.actor), record.topic.to_string()));
        self.swapped(&sent, |record| record.actor.to_string())
    }

    /// Received out of the order in which one publisher sent one key, over all readers.
    #[must_use]
    pub fn keys_misordered(&self) -> Vec<Swapped> {
        let sent = self.sent_order(|record| {
            (Arc::clone(&record.actor), record.key.as_deref().unwrap_or_default().to_owned())
        });
        self.swapped(&sent, |record| record.key.as_deref().unwrap_or_default().to_owned())
    }

    /// Positions that are not behind the one that the same reader got before.
    #[must_use]
    pub fn positions_back(&self) -> Vec<Position> {
        let mut seen = HashSet::new();
        let mut last: HashMap<(Arc<str>, Topic, Option<u32>, u64), u128> = HashMap::new();
        let mut back = Vec::new();
        for record in self.receipt_records() {
            let Some(position) = &record.position else { continue };
            if !seen.insert((Arc::clone(&record.actor), Arc::clone(&record.value))) {
                continue;
            }
            let stream = (
                Arc::clone(&record.actor),
                position.topic.clone(),
                position.partition,
                position.incarnation,
            );
            match last.get(&stream) {
                Some(before) if *before >= position.offset => back.push(position.clone()),
                _ => {
                    last.insert(stream, position.offset);
                }
            }
        }
        back
    }

    /// Fails if an accepted value was never received.
    ///
    /// # Errors
    /// What was lost, and where.
    #[track_caller]
    pub fn nothing_lost(&self) -> Verdict<&Self> {
        let lost = self.lost();
        let place = |place| lost.iter().filter(|lost| lost.place == place).count();
        let (prefix, middle, postfix) =
            (place(Where::Prefix), place(Where::Middle), place(Where::Postfix));
        let values: Vec<&Arc<str>> = lost.iter().map(|lost| &lost.value).collect();
        ensure!(
            lost.is_empty(),
            "`{}` lost {} of {} accepted ({prefix} prefix, {middle} middle, {postfix} postfix): {}",
            self.audience,
            lost.len(),
            self.outcomes().values().filter(|outcome| **outcome == Outcome::Ok).count(),
            some(&values)
        );
        Ok(self)
    }

    /// Fails if something was received that nobody published or whose publish failed.
    ///
    /// # Errors
    /// What it was.
    #[track_caller]
    pub fn nothing_unexpected(&self) -> Verdict<&Self> {
        let (unexpected, failed) = (self.unexpected(), self.failed_seen());
        ensure!(
            unexpected.is_empty(),
            "`{}` received {} that nobody published to it: {}",
            self.audience,
            unexpected.len(),
            some(&unexpected)
        );
        ensure!(
            failed.is_empty(),
            "`{}` received {} whose publish had failed for certain: {}",
            self.audience,
            failed.len(),
            some(&failed)
        );
        Ok(self)
    }

    /// Fails if something was received twice.
    ///
    /// # Errors
    /// What it was.
    #[track_caller]
    pub fn no_duplicates(&self) -> Verdict<&Self> {
        let twice = self.duplicates();
        ensure!(
            twice.is_empty(),
            "`{}` received {} more than once: {}",
            self.audience,
            twice.len(),
            some(&twice)
        );
        Ok(self)
    }

    /// Fails if a reader got a publisher's events of one topic out of order, or positions went back.
    ///
    /// # Errors
    /// What changed places.
    #[track_caller]
    pub fn in_order(&self) -> Verdict<&Self> {
        let swapped = self.misordered();
        ensure!(
            swapped.is_empty(),
            "`{}` received {} out of order: {}",
            self.audience,
            swapped.len(),
            some(&swapped)
        );
        let back = self.positions_back();
        ensure!(back.is_empty(), "`{}` went back to {}", self.audience, some(&back));
        Ok(self)
    }

    /// Fails if events of one key were received out of order, by whomever.
    ///
    /// # Errors
    /// What changed places.
    #[track_caller]
    pub fn keys_in_order(&self) -> Verdict<&Self> {
        let swapped = self.keys_misordered();
        ensure!(
            swapped.is_empty(),
            "`{}` received {} out of the order of their keys: {}",
            self.audience,
            swapped.len(),
            some(&swapped)
        );
        Ok(self)
    }

    /// Fails unless everything accepted was received, once, and nothing else.
    ///
    /// # Errors
    /// What was lost, unexpected or repeated.
    #[track_caller]
    pub fn exactly(&self) -> Verdict<&Self> {
        self.nothing_lost()?.nothing_unexpected()?.no_duplicates()
    }

    fn receipt_records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.is_receipt_of(&self.audience))
    }

    fn receipts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.receipt_records().map(|record| &record.value)
    }

    fn received(&self) -> HashSet<Arc<str>> {
        self.receipts().map(Arc::clone).collect()
    }

    /// The number of each value within its line, as its publisher began to send it.
    fn sent_order<L>(&self, line: impl Fn(&Record) -> L) -> HashMap<Arc<str>, (L, usize)>
    where
        L: Eq + std::hash::Hash + Clone,
    {
        let mut next: HashMap<L, usize> = HashMap::new();
        let mut order = HashMap::new();
        let begun = |record: &&Record| record.op == Op::Publish && record.stage == Stage::Invoke;
        for record in self.records.iter().filter(begun) {
            let line = line(record);
            let number = next.entry(line.clone()).or_default();
            order.entry(Arc::clone(&record.value)).or_insert((line, *number));
            *number += 1;
        }
        order
    }

    /// Values that a reader got for the first time after a later one of the same line.
    fn swapped<L>(
        &self,
        sent: &HashMap<Arc<str>, (L, usize)>,
        reader: impl Fn(&Record) -> String,
    ) -> Vec<Swapped>
    where
        L: Eq + std::hash::Hash + Clone,
    {
        let mut seen = HashSet::new();
        let mut highest: HashMap<(String, L), (usize, Arc<str>)> = HashMap::new();
        let mut swapped = Vec::new();
        for record in self.receipt_records() {
            let (reader, value) = (reader(record), &record.value);
            let Some((line, number)) = sent.get(value) else { continue };
            if !seen.insert((reader.clone(), Arc::clone(value))) {
                continue;
            }
            let high = highest
                .entry((reader, line.clone()))
                .or_insert_with(|| (*number, Arc::clone(value)));
            if high.0 > *number {
                swapped.push(Swapped { later: Arc::clone(&high.1), earlier: Arc::clone(value) });
            } else {
                *high = (*number, Arc::clone(value));
            }
        }
        swapped
    }
}

impl fmt::Display for Swapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {}", self.earlier, self.later)
    }
}

/// The first few, and how many more.
fn some<T: fmt::Display>(values: &[T]) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<String> = values.iter().take(SHOWN).map(ToString::to_string).collect();
    if values.len() > SHOWN {
        text.push(format!("and {} more", values.len() - SHOWN));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `>a` publishes and is confirmed, `?a` never answers, `!a` fails, `<a` is received by `r`.
    fn history(text: &str) -> Vec<Record> {
        history_of(&[("p", "r", text)])
    }

    fn history_of(parts: &[(&str, &str, &str)]) -> Vec<Record> {
        let mut records = Vec::new();
        for (publisher, reader, text) in parts {
            for word in text.split_whitespace() {
                let (kind, value) = word.split_at(1);
                let (value, offset) = value.split_once('@').unwrap_or((value, ""));
                let key = value.split_once('/').map_or("k", |(key, _)| key);
                let topic = Topic::new("a.b").unwrap();
                let actor = |name: &str| Arc::<str>::from(name);
                let line = |actor: &Arc<str>, op, stage| {
                    let record = Record::new(actor, op, stage, &value.into(), &topic);
                    Record { key: Some(key.into()), ..record }
                };
                let (p, r) = (actor(publisher), actor(reader));
                match kind {
                    ">" => {
                        records.push(line(&p, Op::Publish, Stage::Invoke));
                        records.push(line(&p, Op::Publish, Stage::Ok));
                    }
                    "?" => records.push(line(&p, Op::Publish, Stage::Invoke)),
                    "~" => {
                        records.push(line(&p, Op::Publish, Stage::Invoke));
                        records.push(line(&p, Op::Publish, Stage::Info));
                    }
                    "!" => {
                        records.push(line(&p, Op::Publish, Stage::Invoke));
                        records.push(line(&p, Op::Publish, Stage::Fail));
                    }
                    _ => {
                        let mut record = line(&r, Op::Receive, Stage::Ok);
                        record.audience = Some("g".into());
                        record.position = offset.parse().ok().map(|offset: u128| {
                            Position::new(Topic::new("a.b").unwrap(), 1, offset)
                        });
                        records.push(record);
                    }
                }
            }
        }
        records
    }

    fn check(text: &str) -> Check {
        Check::new(history(text), "g")
    }

    #[test]
    fn a_good_history_passes_every_checker() {
        let good = check(">a >b ?c ~d !e >f <a@1 <b@2 <c@3 <f@7");
        good.exactly().unwrap().in_order().unwrap().keys_in_order().unwrap();
        assert_eq!(good.outcomes()["c"], Outcome::Info);
        assert_eq!(good.outcomes()["d"], Outcome::Info);
        assert_eq!(good.outcomes()["e"], Outcome::Fail);
    }

    #[test]
    fn losses_are_found_and_placed() {
        let check = check(">a >b >c >d >e <b <d");
        let lost: Vec<(String, Where)> =
            check.lost().iter().map(|lost| (lost.value.to_string(), lost.place)).collect();
        let expected = [("a", Where::Prefix), ("c", Where::Middle), ("e", Where::Postfix)];
        assert_eq!(lost, expected.map(|(value, place)| (value.to_owned(), place)));
        let text = check.nothing_lost().unwrap_err().to_string();
        assert!(text.contains("lost 3 of 5"), "{text}");
        assert!(text.contains("1 prefix, 1 middle, 1 postfix"), "{text}");
    }

    #[test]
    fn everything_lost_is_a_prefix() {
        assert!(check(">a >b").lost().iter().all(|lost| lost.place == Where::Prefix));
    }

    #[test]
    fn another_audience_does_not_count() {
        let check = Check::new(history(">a <a"), "other");
        assert_eq!(check.lost().len(), 1);
    }

    #[test]
    fn an_unknown_publish_may_be_missing_or_seen_but_a_failed_one_may_not() {
        assert!(check("?a ~b").exactly().is_ok());
        assert!(check("?a ~b <a <b").exactly().is_ok());
        assert_eq!(check("!a <a").failed_seen().len(), 1);
        assert!(check("!a <a").nothing_unexpected().is_err());
    }

    #[test]
    fn a_value_that_failed_once_and_was_accepted_later_counts_as_accepted() {
        assert_eq!(check("!a >a").lost().len(), 1);
        assert!(check("!a >a <a").exactly().is_ok());
        assert_eq!(check("!a ?a").outcomes()["a"], Outcome::Info);
    }

    #[test]
    fn what_nobody_published_is_unexpected() {
        let check = check(">a <a <x");
        assert_eq!(check.unexpected(), ["x".into()]);
        assert!(check.nothing_unexpected().unwrap_err().to_string().contains('x'));
        let other = Check::new(history(">a <a"), "g").of_topics(|topic| topic == "c");
        assert!(other.nothing_unexpected().is_err());
    }

    #[test]
    fn duplicates_are_found() {
        assert_eq!(check(">a >b <a <b <a").duplicates(), ["a".into()]);
        assert!(check(">a <a <a").no_duplicates().is_err());
    }

    #[test]
    fn order_is_that_of_one_publisher_at_one_reader() {
        let swapped = check(">a >b >c <b <a <c").misordered();
        assert_eq!(swapped, [Swapped { later: "b".into(), earlier: "a".into() }]);
        // Two publishers owe nothing to each other, nor do two readers.
        let two = [("p", "r", ">a"), ("q", "r", ">b <b"), ("p", "r", "<a")];
        assert!(Check::new(history_of(&two), "g").in_order().is_ok());
        let readers = [("p", "r", ">a >b <b"), ("p", "s", "<a")];
        assert!(Check::new(history_of(&readers), "g").in_order().is_ok());
        // A redelivery is no step back.
        assert!(check(">a >b <a@1 <b@2 <a@1").in_order().is_ok());
    }

    #[test]
    fn keys_are_ordered_over_all_readers() {
        let bad = [("p", "r", ">k/1 >l/1 >k/2 <k/2"), ("p", "s", "<l/1 <k/1")];
        let swapped = Check::new(history_of(&bad), "g").keys_misordered();
        assert_eq!(swapped, [Swapped { later: "k/2".into(), earlier: "k/1".into() }]);
        let good = [("p", "r", ">k/1 >l/1 >k/2 <l/1"), ("p", "s", "<k/1 <k/2")];
        assert!(Check::new(history_of(&good), "g").keys_in_order().is_ok());
    }

    #[test]
    fn positions_only_grow() {
        assert!(check(">a >b <a@4 <b@5").positions_back().is_empty());
        assert_eq!(check(">a >b <a@4 <b@4").positions_back().len(), 1);
        assert_eq!(check(">a >b <a@4 <b@3").positions_back().len(), 1);
        assert!(check(">a >b <a@4 <b@3").in_order().is_err());
    }
}
