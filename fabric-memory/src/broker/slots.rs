//! Values that keep their index for as long as they are there.

use std::ops::{Index, IndexMut};

/// A vector with holes, which are filled again; constant time to add and to take.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    list: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self { list: Vec::new(), free: Vec::new() }
    }

    /// Adds a value and returns its index.
    pub(crate) fn add(&mut self, value: T) -> usize {
        if let Some(index) = self.free.pop() {
            self.list[index] = Some(value);
            return index;
        }
        self.list.push(Some(value));
        self.list.len() - 1
    }

    /// Takes the value at `index` away.
    pub(crate) fn take(&mut self, index: usize) -> Option<T> {
        let value = self.list.get_mut(index)?.take()?;
        self.free.push(index);
        Some(value)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.list.get_mut(index)?.as_mut()
    }

    /// The values with their indexes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.list.iter().enumerate().filter_map(|(index, value)| Some((index, value.as_ref()?)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.list.iter_mut().flatten()
    }

    /// How many indexes there are, holes among them.
    pub(crate) const fn len(&self) -> usize {
        self.list.len()
    }
}

impl<T> Index<usize> for Slots<T> {
    type Output = Option<T>;

    fn index(&self, index: usize) -> &Option<T> {
        &self.list[index]
    }
}

impl<T> IndexMut<usize> for Slots<T> {
    fn index_mut(&mut self, index: usize) -> &mut Option<T> {
        &mut self.list[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_and_nobody_else_moves() {
        let mut slots = Slots::new();
        let [a, b, c] = ["a", "b", "c"].map(|value| slots.add(value));
        assert_eq!((slots.take(b), slots.take(b), slots.take(9)), (Some("b"), None, None));
        assert_eq!(slots.add("d"), b);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(a, &"a"), (b, &"d"), (c, &"c")]);
        assert_eq!(slots.len(), 3);
    }
}
