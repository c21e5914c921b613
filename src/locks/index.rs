//! A map with several values under one key.

use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug)]
pub(super) struct Index<K, V>(HashMap<K, Vec<V>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: PartialEq> Index<K, V> {
    /// The values under the key, in the order they came.
    pub(super) fn get(&self, key: &K) -> &[V] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    pub(super) fn add(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().push(value);
    }

    pub(super) fn remove(&mut self, key: &K, value: &V) {
        let Some(values) = self.0.get_mut(key) else { return };
        values.retain(|other| other != value);
        if values.is_empty() {
            self.0.remove(key);
        }
    }
}
