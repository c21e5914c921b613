//! Ranges cut by ranges.

use crate::wire::types::ByteRange;

/// What is left of `whole` outside of `hole`: nothing, one piece or two.
pub(crate) fn without(whole: ByteRange, hole: ByteRange) -> impl Iterator<Item = ByteRange> + Clone {
    let left = (whole.start < hole.start).then(|| ByteRange { start: whole.start, end: hole.start - 1 });
    let right = (hole.end < whole.end).then(|| ByteRange { start: hole.end + 1, end: whole.end });
    left.into_iter().chain(right)
}

/// The bytes in both; the ranges must overlap.
pub(crate) fn intersection(a: ByteRange, b: ByteRange) -> ByteRange {
    ByteRange { start: a.start.max(b.start), end: a.end.min(b.end) }
}

/// The shortest range that has both in it.
pub(crate) fn hull(a: ByteRange, b: ByteRange) -> ByteRange {
    ByteRange { start: a.start.min(b.start), end: a.end.max(b.end) }
}

/// The parts of `range` that none of `covers` covers.
pub(crate) fn uncovered(range: ByteRange, covers: impl Iterator<Item = ByteRange>) -> Vec<ByteRange> {
    let mut rest = Vec::new();
    let mut next = Some(range.start);
    let mut covers: Vec<ByteRange> = covers.filter(|c| c.overlaps(range)).collect();
    covers.sort_unstable();
    for cover in covers {
        let Some(start) = next else { break };
        if start < cover.start {
            rest.push(ByteRange { start, end: cover.start - 1 });
        }
        next = if cover.end >= range.end { None } else { Some(start.max(cover.end + 1)) };
    }
    rest.extend(next.map(|start| ByteRange { start, end: range.end }));
    rest
}
