//! What was published, narrowed down step by step, and counted.

use std::collections::HashSet;
use std::fmt;
use std::slice;

use crate::typed::{Typed, TypedEvent};

/// How many of them a failed assertion shows.
const SHOWN: usize = 20;

/// Typed events that were published, in the order in which they were kept: each copy counts, also
/// where the same event was published twice.
///
/// Its assertions panic where they do not hold, and show what there is instead.
///
/// ```
/// # use fabric_core::{TypedEvent, testing::Published};
/// # fn example<StepReady: TypedEvent>(published: Published<StepReady>) where StepReady: PartialEq {
/// published.clone().with(|ready| ready.key().as_deref() == Some("p-7")).exactly(1);
/// published.distinct().at_least(3);
/// # }
/// ```
#[must_use = "this asserts nothing before `exactly`, `at_least`, `at_most` or `none`"]
pub struct Published<T> {
    events: Vec<Typed<T>>,
    /// How many of the type there were before it was narrowed down.
    of: usize,
}

impl<T: TypedEvent> Published<T> {
    pub(super) fn new(events: Vec<Typed<T>>) -> Self {
        Self { of: events.len(), events }
    }

    /// Those of which this is true.
    pub fn with(mut self, holds: impl Fn(&Typed<T>) -> bool) -> Self {
        self.events.retain(holds);
        self
    }

    /// The first copy of each, by source and id.
    pub fn distinct(mut self) -> Self {
        let mut seen = HashSet::new();
        self.events.retain(|one| {
            let event = one.event();
            seen.insert((event.source().to_owned(), event.id().clone()))
        });
        self
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.events.len()
    }

    /// One after the other.
    pub fn iter(&self) -> slice::Iter<'_, Typed<T>> {
        self.events.iter()
    }

    /// The first, if there is one.
    #[must_use]
    pub fn first(&self) -> Option<&Typed<T>> {
        self.events.first()
    }

    /// The last, if there is one.
    #[must_use]
    pub fn last(&self) -> Option<&Typed<T>> {
        self.events.last()
    }

    /// There are exactly so many.
    ///
    /// # Panics
    /// If there are not.
    #[track_caller]
    pub fn exactly(&self, count: usize) {
        assert!(self.count() == count, "{}", self.instead(&format!("exactly {count}")));
    }

    /// There are so many or more.
    ///
    /// # Panics
    /// If there are fewer.
    #[track_caller]
    pub fn at_least(&self, count: usize) {
        assert!(self.count() >= count, "{}", self.instead(&format!("at least {count}")));
    }

    /// There are so many or fewer.
    ///
    /// # Panics
    /// If there are more.
    #[track_caller]
    pub fn at_most(&self, count: usize) {
        assert!(self.count() <= count, "{}", self.instead(&format!("at most {count}")));
    }

    /// There are none.
    ///
    /// # Panics
    /// If there are some.
    #[track_caller]
    pub fn none(&self) {
        self.exactly(0);
    }

    fn instead(&self, wanted: &str) -> String {
        let (count, of) = (self.count(), self.of);
        let mut text = format!("{wanted} `{}` had to be published, and {count} were", T::TYPE);
        if of != count {
            text.push_str(&format!(", of {of} that there are"));
        }
        for event in self.events.iter().take(SHOWN).map(Typed::event) {
            let payload = event.text().unwrap_or_else(|error| error.to_string().into());
            text.push_str(&format!("\n  {} {}: {payload}", event.topic(), event.id()));
        }
        if count > SHOWN {
            text.push_str(&format!("\n  and {} more", count - SHOWN));
        }
        text
    }
}

impl<'a, T> IntoIterator for &'a Published<T> {
    type Item = &'a Typed<T>;
    type IntoIter = slice::Iter<'a, Typed<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.iter()
    }
}

impl<T> IntoIterator for Published<T> {
    type Item = Typed<T>;
    type IntoIter = std::vec::IntoIter<Typed<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.events.into_iter()
    }
}

impl<T: TypedEvent> Clone for Published<T> {
    fn clone(&self) -> Self {
        Self { events: self.events.clone(), of: self.of }
    }
}

impl<T: TypedEvent> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} `{}`", self.events.len(), self.of, T::TYPE)
    }
}
