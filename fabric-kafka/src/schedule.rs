//! What waits for its time; time is a parameter.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Things that are due at some time, the first due first, and in the order in which they came.
#[derive(Debug)]
pub(crate) struct Schedule<T, D> {
    heap: BinaryHeap<Waiting<T, D>>,
    count: u64,
}

#[derive(Debug)]
struct Waiting<T, D> {
    due: D,
    number: u64,
    what: T,
}

impl<T, D: Ord + Copy> Schedule<T, D> {
    /// Nothing waits.
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), count: 0 }
    }

    /// Lets `what` wait until `due`.
    pub(crate) fn push(&mut self, due: D, what: T) {
        self.count += 1;
        self.heap.push(Waiting { due, number: self.count, what });
    }

    /// The first that is due at `now`.
    pub(crate) fn pop(&mut self, now: D) -> Option<T> {
        if self.heap.peek()?.due > now {
            return None;
        }
        self.heap.pop().map(|waiting| waiting.what)
    }

    /// When the first is due.
    pub(crate) fn next(&self) -> Option<D> {
        self.heap.peek().map(|waiting| waiting.due)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Those that wait, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|waiting| &waiting.what)
    }

    /// Keeps those that `stay`.
    pub(crate) fn retain(&mut self, stay: impl Fn(&T) -> bool) {
        self.heap.retain(|waiting| stay(&waiting.what));
    }
}

impl<T, D: Ord> Ord for Waiting<T, D> {
    /// The heap's greatest is the first that is due.
    fn cmp(&self, other: &Self) -> Ordering {
        (&other.due, other.number).cmp(&(&self.due, self.number))
    }
}

impl<T, D: Ord> PartialOrd for Waiting<T, D> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T, D: Ord> PartialEq for Waiting<T, D> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T, D: Ord> Eq for Waiting<T, D> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A list that is sorted by time, and is stable, is what it means.
        #[test]
        fn what_is_due_comes_in_order(steps in prop::collection::vec((0..50u32, any::<bool>()), 0..200)) {
            let (mut schedule, mut model) = (Schedule::new(), Vec::new());
            for (n, (time, push)) in steps.into_iter().enumerate() {
                if push {
                    schedule.push(time, n);
                    model.push((time, n));
                    model.sort_by_key(|(due, _)| *due);
                } else {
                    while let Some(popped) = schedule.pop(time) {
                        let (due, expected) = model.remove(0);
                        prop_assert!(due <= time);
                        prop_assert_eq!(popped, expected);
                    }
                    prop_assert!(model.first().is_none_or(|(due, _)| *due > time));
                }
                prop_assert_eq!(schedule.next(), model.first().map(|(due, _)| *due));
                prop_assert_eq!(schedule.len(), model.len());
            }
        }
    }
}
