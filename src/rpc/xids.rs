//! Generates xids: no number repeats within 2^32, and a peer that has seen some cannot predict the next.
//!
//! A counter goes through a Feistel network of four rounds, which is a permutation of all 32-bit
//! numbers, a different one for each seed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Debug)]
pub(super) struct Xids {
    seed: u64,
    count: AtomicU32,
}

impl Xids {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, count: AtomicU32::new(0) }
    }

    pub(super) fn draw(&self) -> u32 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let (mut left, mut right) = (count >> 16, count & 0xffff);
        for round in 0_u8..4 {
            let mut hasher = DefaultHasher::new();
            (self.seed, round, right).hash(&mut hasher);
            (left, right) = (right, left ^ (hasher.finish() & 0xffff) as u32);
        }
        left << 16 | right
    }
}
