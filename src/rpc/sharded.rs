//! An index that never grows as a whole.
//!
//! A hash table that is full moves all that it has to a larger one: with a million entries, every caller waits for
//! a tenth of a second. Here the entries are spread over many small tables, so that one call moves few of them.

use hashbrown::HashTable;

const SHARDS: usize = 256;

/// Numbers, found by the hash of what they stand for.
#[derive(Debug)]
pub(super) struct Sharded(Box<[HashTable<usize>]>);

impl Default for Sharded {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| HashTable::new()).collect())
    }
}

/// By bits that the tables themselves, which look at both ends of a hash, have no use for.
fn shard(hash: u64) -> usize {
    usize::from((hash >> 40).to_le_bytes()[0])
}

impl Sharded {
    /// The number of that hash which is the one that is looked for.
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(usize) -> bool) -> Option<usize> {
        self.0.get(shard(hash))?.find(hash, |number| is_it(*number)).copied()
    }

    /// `hash_of` tells the hash of a number that is in it.
    pub(super) fn insert(&mut self, hash: u64, number: usize, hash_of: impl Fn(usize) -> u64) {
        if let Some(shard) = self.0.get_mut(shard(hash)) {
            shard.insert_unique(hash, number, |other| hash_of(*other));
        }
    }

    pub(super) fn remove(&mut self, hash: u64, number: usize) {
        let found = self.0.get_mut(shard(hash)).and_then(|shard| shard.find_entry(hash, |other| *other == number).ok());
        if let Some(entry) = found {
            entry.remove();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(HashTable::len).sum()
    }
}
