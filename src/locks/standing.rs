//! The place of each offer: bytes that an owner was offered, has not answered, and has got nothing else on since.
//!
//! One offer stands on a byte of an owner, so the parts of all offers to one owner in one file are in order. Offers of
//! which nothing is left are known too, for they may have to be made anew.

use std::collections::{BTreeMap, BTreeSet};

use super::segment::{FileId, OwnerId};
use crate::ranges::uncovered;
use crate::wire::types::ByteRange;

/// An owner in a file.
type Place = (FileId, OwnerId);

#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The last byte of each part and the number of its waiter, by its first byte.
    parts: BTreeMap<(Place, u64), (u64, u64)>,
    /// Waiters of whose offers nothing stands.
    over: BTreeSet<(Place, u64)>,
}

impl Standing {
    /// The waiter is offered the range.
    pub(super) fn add(&mut self, place: Place, range: ByteRange, waiter: u64) {
        self.parts.insert((place, range.start), (range.end, waiter));
    }

    /// The parts in the range, with their offers.
    pub(super) fn parts_in(&self, place: Place, range: ByteRange) -> impl Iterator<Item = (ByteRange, u64)> {
        let before = self.parts.range((place, 0)..(place, range.start)).next_back();
        let within = self.parts.range((place, range.start)..=(place, range.end));
        let parts = before.into_iter().chain(within);
        let parts = parts.map(|((_, start), (end, waiter))| (ByteRange { start: *start, end: *end }, *waiter));
        parts.filter(move |(part, _)| part.overlaps(range))
    }

    /// The owner has got something else in the range, or has lost it: no offer stands there. `asked` gives what a
    /// waiter asked for.
    pub(super) fn end(&mut self, place: Place, range: ByteRange, asked: impl Fn(u64) -> Option<ByteRange>) {
        let ended: Vec<(ByteRange, u64)> = self.parts_in(place, range).collect();
        for (part, waiter) in ended {
            self.parts.remove(&(place, part.start));
            for left in uncovered(part, [range].into_iter()) {
                self.add(place, left, waiter);
            }
            let is_its = |(_, other): (ByteRange, u64)| other == waiter;
            if asked(waiter).is_some_and(|asked| !self.parts_in(place, asked).any(is_its)) {
                self.over.insert((place, waiter));
            }
        }
    }

    /// Forgets the waiter, which asked for that range. Gives where its offer stood.
    pub(super) fn remove(&mut self, place: Place, asked: ByteRange, waiter: u64) -> Vec<ByteRange> {
        self.over.remove(&(place, waiter));
        let its = self.parts_in(place, asked).filter(|(_, other)| *other == waiter);
        let its: Vec<ByteRange> = its.map(|(part, _)| part).collect();
        for part in &its {
            self.parts.remove(&(place, part.start));
        }
        its
    }

    /// The owner's waiters in the file of whose offers nothing stands.
    pub(super) fn over(&self, place: Place) -> impl Iterator<Item = u64> {
        self.over.range((place, 0)..=(place, u64::MAX)).map(|(_, waiter)| *waiter)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.over.is_empty()
    }
}
