//! Hash tables that never take long to grow.
//!
//! A table that grows moves all its entries, and the request that made it grow waits. So this is many tables, and
//! none of them becomes big. Peers choose keys, so the hash must be keyed: no peer can choose keys that all fall into
//! one table.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;

use hashbrown::HashTable;

const TABLES: usize = 256;

/// Things found by a key, which they have with them or which is kept elsewhere.
#[derive(Debug)]
pub struct Spread<T, S = RandomState> {
    hash: S,
    tables: Vec<HashTable<T>>,
}

impl<T, S: BuildHasher + Default> Default for Spread<T, S> {
    fn default() -> Self {
        Self::hashed(S::default())
    }
}

/// An address in one part, to be hashed faster.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// Which table, by other bits of the hash than those that the table looks at first.
fn place(hash: u64) -> usize {
    (hash >> 48) as usize % TABLES
}

impl<T, S: BuildHasher> Spread<T, S> {
    /// With another hash than the standard library's.
    pub fn hashed(hash: S) -> Self {
        Self { hash, tables: (0..TABLES).map(|_| HashTable::new()).collect() }
    }

    /// The one under the key that the test accepts.
    pub fn find(&self, key: &impl Hash, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        let hash = self.hash.hash_one(key);
        self.tables.get(place(hash))?.find(hash, is_it)
    }

    /// The same, to be changed.
    pub fn find_mut(&mut self, key: &impl Hash, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let hash = self.hash.hash_one(key);
        self.tables.get_mut(place(hash))?.find_mut(hash, is_it)
    }

    /// Puts it in, under a key that nothing is under. `hash_of` gives the hash of the key of this and of what is in.
    pub fn put(&mut self, thing: T, hash_of: impl Fn(&S, &T) -> u64) {
        let Self { hash: state, tables } = self;
        let hash = hash_of(state, &thing);
        if let Some(table) = tables.get_mut(place(hash)) {
            table.insert_unique(hash, thing, |thing| hash_of(state, thing));
        }
    }

    /// Takes it out.
    pub fn take(&mut self, key: &impl Hash, is_it: impl FnMut(&T) -> bool) -> Option<T> {
        let hash = self.hash.hash_one(key);
        let entry = self.tables.get_mut(place(hash))?.find_entry(hash, is_it).ok()?;
        Some(entry.remove().0)
    }

    /// How much is in it.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.tables.iter().map(HashTable::len).sum()
    }
}

/// A map.
impl<K: Eq + Hash, V, S: BuildHasher> Spread<(K, V), S> {
    /// What is under the key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(key, |(other, _)| other == key).map(|(_, value)| value)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find_mut(key, |(other, _)| other == key).map(|(_, value)| value)
    }

    /// Puts the value under the key, in place of another one.
    pub fn insert(&mut self, key: K, value: V) {
        match self.get_mut(&key) {
            Some(place) => *place = value,
            None => self.put((key, value), |hash, (key, _)| hash.hash_one(key)),
        }
    }

    /// Takes out what is under the key.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.take(key, |(other, _)| other == key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn each_thing_is_found_under_its_key_until_it_is_taken_out_and_no_table_is_big() {
        let (mut spread, mut known) = (Spread::<(u32, u32)>::default(), HashMap::new());
        for n in 0..50_000 {
            spread.insert(n % 30_000, n);
            known.insert(n % 30_000, n);
        }
        for n in (0..40_000).step_by(3) {
            assert_eq!(spread.remove(&n), known.remove(&n));
        }
        for n in 0..40_000 {
            assert_eq!(spread.get(&n), known.get(&n));
        }
        let longest = spread.tables.iter().map(HashTable::len).max();
        assert!(longest < Some(400), "20,000 in 256 tables: {longest:?}");
        assert!(known.into_keys().all(|n| spread.remove(&n).is_some()));
        assert_eq!(spread.len(), 0);
    }
}
