//! What is covered of a file, in which mode: disjoint ranges, neighbours that are alike joined.

use std::collections::BTreeMap;

use super::ranges::{intersection, without};
use crate::wire::types::ByteRange;

/// How much a range keeps others from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Coverage {
    /// Nothing.
    Nothing,
    /// Writing: a read lock.
    Shared,
    /// Reading and writing: a write lock.
    Exclusive,
}

impl Coverage {
    /// Of a lock.
    pub fn of(exclusive: bool) -> Self {
        if exclusive { Self::Exclusive } else { Self::Shared }
    }
}

/// A range in one mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Part {
    /// The bytes.
    pub range: ByteRange,
    /// What covers them, or is to cover them.
    pub coverage: Coverage,
}

/// A file's covered ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cover {
    /// First byte to last byte and mode; never [`Coverage::Nothing`].
    parts: BTreeMap<u64, (u64, Coverage)>,
}

impl Cover {
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn overlapping(&self, range: ByteRange) -> impl Iterator<Item = Part> {
        // The parts are disjoint, so only one that starts before the range can reach into it.
        let before = self.parts.range(..range.start).next_back();
        let parts = before.into_iter().chain(self.parts.range(range.start..=range.end));
        parts
            .map(|(start, (end, coverage))| Part { range: ByteRange { start: *start, end: *end }, coverage: *coverage })
            .filter(move |part| part.range.overlaps(range))
    }

    /// All of the range, cut where the mode changes; by first byte.
    pub(super) fn pieces(&self, range: ByteRange) -> Vec<Part> {
        let mut pieces = Vec::new();
        let mut next = Some(range.start);
        for part in self.overlapping(range) {
            let part = Part { range: intersection(part.range, range), ..part };
            if let Some(start) = next.filter(|start| *start < part.range.start) {
                let range = ByteRange { start, end: part.range.start - 1 };
                pieces.push(Part { range, coverage: Coverage::Nothing });
            }
            next = part.range.end.checked_add(1);
            pieces.push(part);
        }
        if let Some(start) = next.filter(|start| *start <= range.end) {
            pieces.push(Part { range: ByteRange { start, end: range.end }, coverage: Coverage::Nothing });
        }
        pieces
    }

    /// The range gets this mode, whatever it had.
    pub(super) fn set(&mut self, part: Part) {
        let Part { mut range, coverage } = part;
        let old: Vec<Part> = self.overlapping(range).collect();
        for had in old {
            self.parts.remove(&had.range.start);
            for rest in without(had.range, range) {
                self.parts.insert(rest.start, (rest.end, had.coverage));
            }
        }
        if coverage == Coverage::Nothing {
            return;
        }
        let left = self.parts.range(..range.start).next_back().map(|(start, (end, mode))| (*start, *end, *mode));
        if let Some((start, end, mode)) = left
            && mode == coverage
            && end.checked_add(1) == Some(range.start)
        {
            self.parts.remove(&start);
            range.start = start;
        }
        if let Some(next) = range.end.checked_add(1)
            && let Some((end, mode)) = self.parts.get(&next).copied()
            && mode == coverage
        {
            self.parts.remove(&next);
            range.end = end;
        }
        self.parts.insert(range.start, (range.end, coverage));
    }

    /// The range gets at least this mode.
    pub(super) fn raise(&mut self, part: Part) {
        for piece in self.below(part) {
            self.set(piece);
        }
    }

    /// The pieces of the part's range that have less than its mode, as they are to be.
    pub(super) fn below(&self, part: Part) -> Vec<Part> {
        let mut pieces = self.pieces(part.range);
        pieces.retain(|piece| piece.coverage < part.coverage);
        pieces.into_iter().map(|piece| Part { coverage: part.coverage, ..piece }).collect()
    }

    /// The pieces of the range that have more than `needed` has, as they are to be.
    pub(super) fn above(&self, range: ByteRange, needed: &Self) -> Vec<Part> {
        let covered = self.overlapping(range).map(|part| Part { range: intersection(part.range, range), ..part });
        covered
            .flat_map(|part| needed.pieces(part.range).into_iter().filter(move |piece| piece.coverage < part.coverage))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(start: u64, end: u64, coverage: Coverage) -> Part {
        Part { range: ByteRange { start, end }, coverage }
    }

    #[test]
    fn the_last_byte_of_all_is_a_byte_like_any_other() {
        let mut cover = Cover::default();
        cover.set(part(5, u64::MAX, Coverage::Shared));
        cover.set(part(u64::MAX, u64::MAX, Coverage::Exclusive));
        cover.set(part(u64::MAX, u64::MAX, Coverage::Shared));
        assert_eq!(cover.pieces(ByteRange::ALL), [part(0, 4, Coverage::Nothing), part(5, u64::MAX, Coverage::Shared)]);
    }

    fn mode() -> impl Strategy<Value = Coverage> {
        prop_oneof![Just(Coverage::Nothing), Just(Coverage::Shared), Just(Coverage::Exclusive)]
    }

    fn some_part() -> impl Strategy<Value = Part> {
        (0_u64..12, 0_u64..12, mode()).prop_map(|(a, b, mode)| part(a.min(b), a.max(b), mode))
    }

    fn bytes_of(parts: &[Part]) -> Vec<Coverage> {
        parts.iter().flat_map(|p| (p.range.start..=p.range.end).map(|_| p.coverage)).collect()
    }

    proptest! {
        #[test]
        fn it_is_what_an_array_of_bytes_would_be(steps in prop::collection::vec((some_part(), any::<bool>()), 1..30)) {
            let (mut cover, mut array) = (Cover::default(), [Coverage::Nothing; 12]);
            let all = ByteRange { start: 0, end: 11 };
            for (step, only_raise) in steps {
                let before = cover.clone();
                if only_raise { cover.raise(step) } else { cover.set(step) }
                for n in step.range.start..=step.range.end {
                    let byte = &mut array[usize::try_from(n).unwrap()];
                    *byte = if only_raise { step.coverage.max(*byte) } else { step.coverage };
                }
                prop_assert_eq!(bytes_of(&cover.pieces(all)), array);
                let alike = cover.pieces(all).windows(2).any(|pair| pair[0].coverage == pair[1].coverage);
                prop_assert!(!alike, "neighbours that are alike are one");
                let mut lowered = before.clone();
                before.above(all, &cover).into_iter().for_each(|piece| lowered.set(piece));
                for ((was, is), needed) in
                    bytes_of(&before.pieces(all)).iter().zip(bytes_of(&lowered.pieces(all))).zip(array)
                {
                    prop_assert_eq!(is, needed.min(*was), "lowered to what is needed, never raised");
                }
            }
        }
    }
}
