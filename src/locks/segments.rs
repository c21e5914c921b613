//! The segments of all files, and the only code that changes them.
//!
//! Each change gives a [`Change`], which no other file can make: what counts segments counts by
//! changes, and so cannot come to differ from them.
//!
//! Segments of one owner overlap only in two cases. Its shares stand side by side, one for each access and
//! mode. And a write lock may stand under the read lock that is all its owner reclaimed of it, if the write lock is
//! pending, was taken in another life of its client, or is offered and not answered. Where it is not dropped or freed, the two stay so until the next
//! LOCK or UNLOCK there; the owner then has the stronger of the two.

use ahash::RandomState;

use super::api::ClientId;
use super::file::{File, Has, Place};
use super::index::Numbers;
use super::numbered::Numbered;
use super::segment::{Few, FileId, Kind, OwnerId, Segment};
use crate::ranges::{hull, intersection, without};
use crate::wire::types::{ByteRange, FileHandle};

/// What a change did to a file's segments.
#[derive(Debug)]
#[must_use]
pub(super) struct Change {
    file: FileId,
    /// What was cut out of each segment.
    cut: Few<Segment>,
    /// The number of pieces left of each.
    left: Few<usize>,
    put: Option<Segment>,
}

impl Change {
    fn none(file: FileId) -> Self {
        Self { file, cut: Few::new(), left: Few::new(), put: None }
    }

    pub(super) fn file(&self) -> FileId {
        self.file
    }

    /// Each segment, with the number of it before and after the change. What is new comes first, so
    /// that no count is zero in between.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&Segment, usize, usize)> {
        let put = self.put.iter().map(|segment| (segment, 0, 1));
        put.chain(self.cut.iter().zip(&self.left).map(|(segment, left)| (segment, 1, *left)))
    }

    /// The pieces that were cut out.
    pub(super) fn cut(&self) -> impl Iterator<Item = &Segment> {
        self.cut.iter()
    }

    pub(super) fn into_cut(self) -> Few<Segment> {
        self.cut
    }

    /// The range in which all that was cut out lies.
    pub(super) fn cut_range(&self) -> Option<ByteRange> {
        self.cut().map(|piece| piece.range).reduce(hull)
    }
}

/// The files that have any state.
#[derive(Debug)]
pub(super) struct Segments {
    slots: Numbered<File>,
    by_handle: Numbers<FileId>,
}

impl Segments {
    pub(super) fn new(hash: &RandomState) -> Self {
        Self { slots: Numbered::new(), by_handle: Numbers::new(hash) }
    }

    // --- files

    pub(super) fn find(&self, handle: &FileHandle) -> Option<FileId> {
        self.by_handle.find(handle, |file| self.handle(*file) == Some(handle))
    }

    /// No file has this number or a higher one.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.slots.end()).unwrap_or(u32::MAX)
    }

    /// The file, made if need be. `None`: four thousand million files have state.
    pub(super) fn open(&mut self, handle: &FileHandle) -> Option<FileId> {
        if let Some(id) = self.find(handle) {
            return Some(id);
        }
        let id = FileId(u32::try_from(self.slots.next()).ok()?);
        if id == FileId::LAST {
            return None;
        }
        self.slots.add(File::new(handle.clone()));
        self.by_handle.insert(handle, id, |file| self.slots.get(file.0 as usize).map(|f| &f.handle));
        Some(id)
    }

    /// Forgets the file if it has no segments.
    pub(super) fn close(&mut self, file: FileId) {
        if self.slots.get(file.0 as usize).is_some_and(File::is_empty)
            && let Some(closed) = self.slots.remove(file.0 as usize)
        {
            self.by_handle.remove(&closed.handle, file);
        }
    }

    pub(super) fn handle(&self, file: FileId) -> Option<&FileHandle> {
        self.slots.get(file.0 as usize).map(|f| &f.handle)
    }

    /// All files, in the order of their numbers.
    #[cfg(test)]
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> {
        self.slots.iter().map(|(n, _)| FileId(u32::try_from(n).unwrap()))
    }

    // --- segments

    fn file(&self, file: FileId) -> Option<&File> {
        self.slots.get(file.0 as usize)
    }

    /// Whether the file has none.
    pub(super) fn is_empty(&self, file: FileId) -> bool {
        self.file(file).is_none_or(File::is_empty)
    }

    /// All of the file: write locks, read locks, shares, each by first byte.
    pub(super) fn of(&self, file: FileId) -> impl Iterator<Item = &Segment> {
        self.but_first(file, 0)
    }

    /// How many the file has.
    pub(super) fn len(&self, file: FileId) -> usize {
        self.file(file).map_or(0, File::len)
    }

    /// What the client has on the file.
    pub(super) fn has_of(&self, file: FileId, client: ClientId) -> Has {
        self.file(file).map_or(Has::None, |f| f.has_of(client))
    }

    /// The same but the first `n`.
    pub(super) fn but_first(&self, file: FileId, n: usize) -> impl Iterator<Item = &Segment> {
        self.file(file).into_iter().flat_map(move |f| f.but_first(n))
    }

    /// The same, behind that place.
    pub(super) fn after(&self, file: FileId, after: Option<Place>) -> impl Iterator<Item = &Segment> {
        self.file(file).into_iter().flat_map(move |f| f.after(after))
    }

    /// Those of all owners, in the same order.
    pub(super) fn overlapping(&self, file: FileId, range: ByteRange) -> impl Iterator<Item = &Segment> {
        self.file(file).into_iter().flat_map(move |f| f.overlapping(range))
    }

    /// Those on which no other owner may have a lock of this kind.
    pub(super) fn excluding(&self, file: FileId, range: ByteRange, kind: Kind) -> impl Iterator<Item = &Segment> {
        self.file(file).into_iter().flat_map(move |f| f.excluding(range, kind))
    }

    /// Those of one owner, in the same order.
    pub(super) fn owned_in(&self, file: FileId, owner: OwnerId, range: ByteRange) -> impl Iterator<Item = &Segment> {
        self.file(file).into_iter().flat_map(move |f| f.owned_in(owner, range))
    }

    /// Takes what lies in `range` of the segments that `take` gives, and leaves what lies outside. `rest` is told of
    /// each segment and the number of pieces left of it, and gives what they all carry: their mark, and the epoch of
    /// those that are left.
    pub(super) fn cut(
        &mut self,
        file: FileId,
        range: ByteRange,
        take: impl FnOnce(&mut File) -> Few<Segment>,
        mut rest: impl FnMut(&Segment, usize) -> (u32, u32),
    ) -> Change {
        let mut change = Change::none(file);
        let Some(f) = self.slots.get_mut(file.0 as usize) else { return change };
        for segment in take(f) {
            let pieces = without(segment.range, range);
            let left = pieces.clone().count();
            let (mark, epoch) = rest(&segment, left);
            pieces.for_each(|range| f.insert(Segment { range, epoch, mark, ..segment }));
            change.cut.push(Segment { range: intersection(segment.range, range), mark, ..segment });
            change.left.push(left);
        }
        change
    }

    /// Puts a segment in, joined with its owner's neighbours that are alike and that the test accepts.
    pub(super) fn put(&mut self, file: FileId, segment: Segment, joins: impl Fn(&Segment) -> bool) -> Change {
        let mut change = Change::none(file);
        let Some(f) = self.slots.get_mut(file.0 as usize) else { return change };
        let mut whole = segment;
        if matches!(segment.kind, Kind::Range { .. }) && !segment.offered {
            let ByteRange { start, end } = segment.range;
            let around = ByteRange { start: start.saturating_sub(1), end: end.saturating_add(1) };
            let alike = |s: &Segment| {
                (s.kind, s.state) == (segment.kind, segment.state)
                    && (s.monitored, s.offered) == (segment.monitored, false)
            };
            for neighbour in f.take(segment.owner, around, usize::MAX, |s| alike(s) && joins(s)) {
                whole.range = hull(whole.range, neighbour.range);
                whole.since = whole.since.min(neighbour.since);
                change.cut.push(neighbour);
                change.left.push(0);
            }
        }
        f.insert(whole);
        change.put = Some(whole);
        change
    }

    /// Changes the mark, the epoch, and whether it is offered, of each segment of the owner in the range. Nothing is
    /// counted by these.
    pub(super) fn set_flags(
        &mut self,
        file: FileId,
        owner: OwnerId,
        range: ByteRange,
        mut flags: impl FnMut(&Segment) -> (u32, u32, bool),
    ) {
        let Some(f) = self.slots.get_mut(file.0 as usize) else { return };
        f.change(owner, range, |segment| (segment.mark, segment.epoch, segment.offered) = flags(segment));
    }
}
