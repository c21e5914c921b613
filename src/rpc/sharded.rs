//! A map that never grows as a whole.
//!
//! A hash table that is full moves all that it has to a larger one: with a million entries, every caller waits for
//! a tenth of a second. Here the entries are spread over many small tables, so that one call moves few of them.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

const SHARDS: usize = 256;

#[derive(Debug)]
pub(super) struct Sharded<K, V> {
    hasher: RandomState,
    shards: Box<[HashMap<K, V>]>,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| HashMap::new()).collect() }
    }
}

impl<K: Eq + Hash, V> Sharded<K, V> {
    fn shard(&self, key: &K) -> usize {
        // The shards' own tables hash with keys of their own.
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.shards.get(self.shard(key))?.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.shards.get_mut(self.shard(key))?.get_mut(key)
    }

    pub(super) fn get_or_default(&mut self, key: K) -> Option<&mut V>
    where
        V: Default,
    {
        Some(self.shards.get_mut(self.shard(&key))?.entry(key).or_default())
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if let Some(shard) = self.shards.get_mut(self.shard(&key)) {
            shard.insert(key, value);
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.shards.get_mut(self.shard(key))?.remove(key)
    }

    #[cfg(test)]
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(HashMap::values)
    }
}
