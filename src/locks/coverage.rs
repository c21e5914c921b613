//! Which bytes of a file are covered, and in which mode.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::ops::RangeBounds;

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
    /// The mode from this byte on, where it is another than before it; nothing before the first.
    from: BTreeMap<u64, Coverage>,
}

impl Cover {
    pub(super) fn is_empty(&self) -> bool {
        self.from.is_empty()
    }

    fn last(&self, range: impl RangeBounds<u64>) -> Coverage {
        self.from.range(range).next_back().map_or(Coverage::Nothing, |(_, coverage)| *coverage)
    }

    /// All of the range, cut where the mode changes; by first byte.
    pub(super) fn pieces(&self, range: ByteRange) -> Vec<Part> {
        let mut pieces = vec![Part { range, coverage: self.last(..=range.start) }];
        for (start, coverage) in self.from.range((Excluded(range.start), Included(range.end))) {
            if let Some(before) = pieces.last_mut() {
                before.range.end = *start - 1;
            }
            pieces.push(Part { range: ByteRange { start: *start, end: range.end }, coverage: *coverage });
        }
        pieces
    }

    /// The range gets this mode in place of what it had.
    pub(super) fn set(&mut self, Part { range, coverage }: Part) {
        let after = range.end.checked_add(1).map(|next| (next, self.last(..=next)));
        let old: Vec<u64> =
            self.from.range(range.start..=range.end.saturating_add(1)).map(|(start, _)| *start).collect();
        for start in old {
            self.from.remove(&start);
        }
        for (start, coverage) in [(range.start, coverage)].into_iter().chain(after) {
            if self.last(..start) != coverage {
                self.from.insert(start, coverage);
            }
        }
    }

    /// The range gets at least this mode.
    pub(super) fn raise(&mut self, part: Part) {
        for piece in self.below(part) {
            self.set(piece);
        }
    }

    /// The pieces of the part's range that have less than its mode, as they are to be.
    pub(super) fn below(&self, part: Part) -> Vec<Part> {
        let pieces = self.pieces(part.range).into_iter().filter(|piece| piece.coverage < part.coverage);
        pieces.map(|piece| Part { coverage: part.coverage, ..piece }).collect()
    }

    /// The pieces of the range that have more than `needed` has, as they are to be.
    pub(super) fn above(&self, range: ByteRange, needed: &Self) -> Vec<Part> {
        let lower =
            |part: Part| needed.pieces(part.range).into_iter().filter(move |piece| piece.coverage < part.coverage);
        self.pieces(range).into_iter().flat_map(lower).collect()
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
