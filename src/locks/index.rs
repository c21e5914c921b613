//! What is found by a key that a peer has chosen. The hash is keyed, so that no peer can choose keys that meet.

use std::collections::HashMap;
use std::hash::Hash;

use ahash::RandomState;
use hashbrown::HashTable;

/// A map with several values under one key.
#[derive(Debug)]
pub(super) struct Index<K, V>(HashMap<K, Vec<V>, RandomState>);

impl<K: Eq + Hash, V: PartialEq> Index<K, V> {
    pub(super) fn new(hash: &RandomState) -> Self {
        Self(HashMap::with_hasher(hash.clone()))
    }

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

/// Numbers of what has its key with it.
///
/// A table that grows moves all that is in it, and the request that made it grow waits. So it is many tables, and
/// none of them comes to be big.
#[derive(Debug)]
pub(super) struct Numbers<N> {
    hash: RandomState,
    tables: Vec<HashTable<N>>,
}

impl<N: Copy + PartialEq> Numbers<N> {
    const TABLES: usize = 256;

    pub(super) fn new(hash: &RandomState) -> Self {
        Self { hash: hash.clone(), tables: vec![HashTable::new(); Self::TABLES] }
    }

    /// Which table, by other bits of the hash than those that the table looks at first.
    fn place(hash: u64) -> usize {
        (hash >> 48) as usize % Self::TABLES
    }

    pub(super) fn find(&self, key: &impl Hash, is_it: impl FnMut(&N) -> bool) -> Option<N> {
        let hash = self.hash.hash_one(key);
        self.tables.get(Self::place(hash))?.find(hash, is_it).copied()
    }

    /// `key_of` gives the key of each number that is in.
    pub(super) fn insert<'a, K: Hash + 'a>(&mut self, key: &K, number: N, key_of: impl Fn(&N) -> Option<&'a K>) {
        let Self { hash: state, tables } = self;
        let hash = state.hash_one(key);
        if let Some(table) = tables.get_mut(Self::place(hash)) {
            table.insert_unique(hash, number, |number| key_of(number).map_or(0, |key| state.hash_one(key)));
        }
    }

    pub(super) fn remove(&mut self, key: &impl Hash, number: N) {
        let hash = self.hash.hash_one(key);
        if let Some(table) = self.tables.get_mut(Self::place(hash))
            && let Ok(entry) = table.find_entry(hash, |other| *other == number)
        {
            entry.remove();
        }
    }
}
