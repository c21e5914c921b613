//! A file's locks: segments of ranges, shares, waiters, and what was granted and given up again
//! since the last run began.
//!
//! Segments of one owner overlap only in one case: a pending write lock under the read lock that is
//! all its owner reclaimed of it. If the run spares it, the two stay so until the next LOCK or UNLOCK
//! there; the owner then has the stronger of the two.

use std::collections::HashMap;

use slab::Slab;

use super::api::ClientId;
use super::owners::OwnerId;
use crate::wire::control::LockKind;
use crate::wire::types::{ByteRange, FileHandle, NsmState};

/// A file's number while it has any state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FileId(pub(super) u32);

/// Something held or pending: a byte-range lock, or (over the whole file) a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) range: ByteRange,
    pub(super) owner: OwnerId,
    pub(super) client: ClientId,
    /// The client's NSM state number when it was granted: its life in which it was taken.
    pub(super) state: NsmState,
    /// The table's epoch when it was granted. Marking raises the table's, and so makes it pending.
    pub(super) epoch: u32,
    /// Number of the run's mark, once a pending lock was touched in part; 0 is none.
    pub(super) mark: u32,
    pub(super) kind: Kind,
    pub(super) monitored: bool,
    /// Granted to a waiter that has not confirmed it.
    pub(super) offered: bool,
}

/// What a segment is, and so what it keeps others from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Range { exclusive: bool },
    Share { access: u8, mode: u8 },
}

impl Kind {
    /// Whether two owners cannot have both on the same bytes. Ranges and shares do not meet.
    pub(super) fn excludes(self, other: Self) -> bool {
        match (self, other) {
            (Self::Range { exclusive: a }, Self::Range { exclusive: b }) => a || b,
            (Self::Share { access: a, mode: m }, Self::Share { access: b, mode: n }) => a & n != 0 || m & b != 0,
            (Self::Range { .. }, Self::Share { .. }) | (Self::Share { .. }, Self::Range { .. }) => false,
        }
    }

    /// Whether whoever has this has `other` too.
    pub(super) fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Range { exclusive: a }, Self::Range { exclusive: b }) => a || !b,
            (Self::Share { access: a, mode: m }, Self::Share { access: b, mode: n }) => a & b == b && m & n == n,
            (Self::Range { .. }, Self::Share { .. }) | (Self::Share { .. }, Self::Range { .. }) => false,
        }
    }

    /// Whether they are of one sort: ranges are compared with ranges, shares with shares.
    pub(super) fn same_sort(self, other: Self) -> bool {
        matches!((self, other), (Self::Range { .. }, Self::Range { .. }) | (Self::Share { .. }, Self::Share { .. }))
    }

    pub(super) fn row(self) -> LockKind {
        match self {
            Self::Range { exclusive: false } => LockKind::Shared,
            Self::Range { exclusive: true } => LockKind::Exclusive,
            Self::Share { .. } => LockKind::Share,
        }
    }
}

/// A range that was granted since the run began and given up again. A late reclaim of another
/// owner's must not meet it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    pub(super) range: ByteRange,
    pub(super) kind: Kind,
    pub(super) owner: OwnerId,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) handle: FileHandle,
    /// By first byte.
    pub(super) segments: Vec<Segment>,
    /// Numbers of waiters, in the order they came.
    pub(super) waiters: Vec<u64>,
    pub(super) since: Vec<Since>,
    /// Too many ranges to remember: all of the file counts as granted.
    pub(super) since_all: bool,
}

impl File {
    pub(super) fn overlapping(&self, range: ByteRange) -> impl Iterator<Item = &Segment> {
        let end = self.segments.partition_point(|s| s.range.start <= range.end);
        self.segments.iter().take(end).filter(move |s| s.range.overlaps(range))
    }

    pub(super) fn insert(&mut self, segment: Segment) {
        let at = self.segments.partition_point(|s| s.range.start <= segment.range.start);
        self.segments.insert(at, segment);
    }

    /// Takes what lies in `range` of the segments that the test accepts, and leaves what lies
    /// outside. `rest` is told of each segment and the number of pieces left of it, and gives the
    /// mark they carry.
    pub(super) fn cut(
        &mut self,
        range: ByteRange,
        accept: impl Fn(&Segment) -> bool,
        mut rest: impl FnMut(&Segment, u32) -> u32,
    ) -> Vec<Cut> {
        if !self.overlapping(range).any(&accept) {
            return Vec::new();
        }
        let mut cuts = Vec::new();
        let mut left = Vec::with_capacity(self.segments.len() + 1);
        for segment in self.segments.drain(..) {
            if !segment.range.overlaps(range) || !accept(&segment) {
                left.push(segment);
                continue;
            }
            let pieces: Vec<_> = outside(segment.range, range).collect();
            let mark = rest(&segment, u32::try_from(pieces.len()).unwrap_or(2));
            left.extend(pieces.iter().map(|piece| Segment { range: *piece, mark, ..segment }));
            let piece = Segment { range: intersection(segment.range, range), ..segment };
            cuts.push(Cut { piece, left: pieces.len() });
        }
        // Only a piece to the right of the hole can stand before a segment that starts earlier.
        left.sort_by_key(|s| s.range.start);
        self.segments = left;
        cuts
    }

    fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.waiters.is_empty() && self.since.is_empty() && !self.since_all
    }
}

/// What was cut out of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) piece: Segment,
    /// Pieces left of it.
    pub(super) left: usize,
}

/// What is left of `whole` outside of `hole`: nothing, one piece or two.
pub(super) fn outside(whole: ByteRange, hole: ByteRange) -> impl Iterator<Item = ByteRange> {
    let left = (whole.start < hole.start).then(|| ByteRange { start: whole.start, end: hole.start - 1 });
    let right = (hole.end < whole.end).then(|| ByteRange { start: hole.end + 1, end: whole.end });
    left.into_iter().chain(right)
}

/// The bytes in both; the ranges must overlap.
pub(super) fn intersection(a: ByteRange, b: ByteRange) -> ByteRange {
    ByteRange { start: a.start.max(b.start), end: a.end.min(b.end) }
}

/// The parts of `range` that none of `covers` covers. `covers` come by first byte.
pub(super) fn uncovered(range: ByteRange, covers: impl Iterator<Item = ByteRange>) -> Vec<ByteRange> {
    let mut rest = Vec::new();
    let mut next = Some(range.start);
    for cover in covers.filter(|c| c.overlaps(range)) {
        let Some(start) = next else { break };
        if start < cover.start {
            rest.push(ByteRange { start, end: cover.start - 1 });
        }
        next = if cover.end >= range.end { None } else { Some(start.max(cover.end + 1)) };
    }
    rest.extend(next.map(|start| ByteRange { start, end: range.end }));
    rest
}

/// The files that have any state.
#[derive(Debug, Default)]
pub(super) struct Files {
    slots: Slab<File>,
    by_handle: HashMap<FileHandle, FileId>,
}

impl Files {
    pub(super) fn find(&self, handle: &FileHandle) -> Option<FileId> {
        self.by_handle.get(handle).copied()
    }

    /// The file, made if need be. `None`: four thousand million files have state.
    pub(super) fn open(&mut self, handle: &FileHandle) -> Option<FileId> {
        if let Some(id) = self.find(handle) {
            return Some(id);
        }
        let entry = self.slots.vacant_entry();
        let id = FileId(u32::try_from(entry.key()).ok()?);
        entry.insert(File {
            handle: handle.clone(),
            segments: Vec::new(),
            waiters: Vec::new(),
            since: Vec::new(),
            since_all: false,
        });
        self.by_handle.insert(handle.clone(), id);
        Some(id)
    }

    pub(super) fn get(&self, id: FileId) -> Option<&File> {
        self.slots.get(id.0 as usize)
    }

    pub(super) fn get_mut(&mut self, id: FileId) -> Option<&mut File> {
        self.slots.get_mut(id.0 as usize)
    }

    /// Forgets the file if it has no state left.
    pub(super) fn close(&mut self, id: FileId) {
        if self.get(id).is_some_and(File::is_empty) {
            let file = self.slots.remove(id.0 as usize);
            self.by_handle.remove(&file.handle);
        }
    }

    /// The files from a number on, in the order of their numbers.
    pub(super) fn from(&self, first: u32) -> impl Iterator<Item = (FileId, &File)> {
        let end = u32::try_from(self.slots.capacity()).unwrap_or(u32::MAX);
        (first..end).filter_map(|n| Some((FileId(n), self.slots.get(n as usize)?)))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}
