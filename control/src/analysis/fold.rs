//! Positions in a list, grouped by what they have in common.

use std::{collections::HashMap, hash::Hash, rc::Rc};

/// Positions by what they have in common, in the order in which that was first seen.
pub(super) struct Fold<K> {
    /// Every key once, and its positions as they were added.
    pub(super) groups: Vec<(Rc<K>, Vec<usize>)>,
    at: HashMap<Rc<K>, usize>,
}

impl<K> Default for Fold<K> {
    fn default() -> Self {
        Self { groups: Vec::new(), at: HashMap::new() }
    }
}

impl<K: Eq + Hash> Fold<K> {
    /// Adds positions to the group of `key`.
    pub(super) fn add(&mut self, key: K, positions: &[usize]) {
        let key = Rc::new(key);
        let at = *self.at.entry(Rc::clone(&key)).or_insert(self.groups.len());
        match self.groups.get_mut(at) {
            Some((_, group)) => group.extend(positions),
            None => self.groups.push((key, positions.to_vec())),
        }
    }
}
