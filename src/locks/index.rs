//! An index by keys that peers choose. The hash is keyed, so that no peer can choose keys that collide.

use std::hash::Hash;

use ahash::RandomState;

use crate::spread::Spread;

/// A map with several values under one key, each greater than those that came before it.
#[derive(Debug)]
pub(super) struct Index<K, V>(Spread<(K, Vec<V>), RandomState>);

impl<K: Eq + Hash, V: Ord> Index<K, V> {
    pub(super) fn new(hash: &RandomState) -> Self {
        Self(Spread::hashed(hash.clone()))
    }

    /// The values under the key, in the order they came.
    pub(super) fn get(&self, key: &K) -> &[V] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    pub(super) fn add(&mut self, key: K, value: V) {
        match self.0.get_mut(&key) {
            Some(values) => values.push(value),
            None => self.0.insert(key, vec![value]),
        }
    }

    pub(super) fn remove(&mut self, key: &K, value: &V) {
        let Some(values) = self.0.get_mut(key) else { return };
        if let Ok(place) = values.binary_search(value) {
            values.remove(place);
        }
        if values.is_empty() {
            self.0.remove(key);
        }
    }
}

/// Numbers of what has its key with it.
#[derive(Debug)]
pub(super) struct Numbers<N>(Spread<N, RandomState>);

impl<N: Copy + PartialEq> Numbers<N> {
    pub(super) fn new(hash: &RandomState) -> Self {
        Self(Spread::hashed(hash.clone()))
    }

    pub(super) fn find(&self, key: &impl Hash, is_it: impl FnMut(&N) -> bool) -> Option<N> {
        self.0.find(key, is_it).copied()
    }

    /// `key_of` gives the key of each number that is in.
    pub(super) fn insert<'a, K: Hash + 'a>(&mut self, key: &K, number: N, key_of: impl Fn(&N) -> Option<&'a K>) {
        let hash_of = |hash: &RandomState, other: &N| {
            let key = if *other == number { Some(key) } else { key_of(other) };
            key.map_or(0, |key| hash.hash_one(key))
        };
        self.0.put(number, hash_of);
    }

    pub(super) fn remove(&mut self, key: &impl Hash, number: N) {
        self.0.take(key, |other| *other == number);
    }
}
