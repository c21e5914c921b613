//! The segments of all files, and the only code that changes them.
//!
//! Each change gives a [`Change`], which no other file can make: what counts segments counts by
//! changes, and so cannot come to differ from them.
//!
//! Segments of one owner overlap only in two cases. Its shares stand side by side, one for each access and
//! mode. And a pending write lock may stand under the read lock that is all its owner reclaimed of it: if the
//! run spares it, the two stay so until the next LOCK or UNLOCK there; the owner then has the stronger of the
//! two.

use std::collections::HashMap;

use slab::Slab;

use super::ranges::{hull, intersection, without};
use super::segment::{FileId, Kind, Segment};
use crate::wire::types::{ByteRange, FileHandle};

/// What a change did to a file's segments.
#[derive(Debug)]
#[must_use]
pub(super) struct Change {
    file: FileId,
    /// What was cut out of each segment, and the number of pieces left of it.
    cuts: Vec<(Segment, usize)>,
    put: Option<Segment>,
}

impl Change {
    fn none(file: FileId) -> Self {
        Self { file, cuts: Vec::new(), put: None }
    }

    pub(super) fn file(&self) -> FileId {
        self.file
    }

    /// Each segment, with the number of it before and after the change. What is new comes first, so
    /// that no count is zero in between.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&Segment, usize, usize)> {
        let put = self.put.iter().map(|segment| (segment, 0, 1));
        put.chain(self.cuts.iter().map(|(segment, left)| (segment, 1, *left)))
    }

    /// The pieces that were cut out.
    pub(super) fn cut(&self) -> impl Iterator<Item = &Segment> {
        self.cuts.iter().map(|(piece, _)| piece)
    }

    pub(super) fn into_cut(self) -> Vec<Segment> {
        self.cuts.into_iter().map(|(piece, _)| piece).collect()
    }

    /// The range in which all that was cut out lies.
    pub(super) fn cut_range(&self) -> Option<ByteRange> {
        self.cut().map(|piece| piece.range).reduce(hull)
    }
}

#[derive(Debug)]
struct File {
    handle: FileHandle,
    /// By first byte.
    segments: Vec<Segment>,
}

impl File {
    fn insert(&mut self, segment: Segment) {
        let at = self.segments.partition_point(|s| s.range.start <= segment.range.start);
        self.segments.insert(at, segment);
    }

    /// Takes out the segments that overlap the range and that the test accepts.
    fn take(&mut self, range: ByteRange, accept: impl Fn(&Segment) -> bool) -> Vec<Segment> {
        let found = |s: &Segment| s.range.overlaps(range) && accept(s);
        let end = self.segments.partition_point(|s| s.range.start <= range.end);
        // Most often there is none, and to look is faster than to take.
        let Some(first) = self.segments.iter().take(end).position(found) else { return Vec::new() };
        self.segments.extract_if(first..end, |s| found(s)).collect()
    }
}

/// The files that have any state.
#[derive(Debug, Default)]
pub(super) struct Segments {
    slots: Slab<File>,
    by_handle: HashMap<FileHandle, FileId>,
}

impl Segments {
    // --- files

    pub(super) fn find(&self, handle: &FileHandle) -> Option<FileId> {
        self.by_handle.get(handle).copied()
    }

    /// No file has this number or a higher one.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.slots.capacity()).unwrap_or(u32::MAX)
    }

    /// The file, made if need be. `None`: four thousand million files have state.
    pub(super) fn open(&mut self, handle: &FileHandle) -> Option<FileId> {
        if let Some(id) = self.find(handle) {
            return Some(id);
        }
        let entry = self.slots.vacant_entry();
        let id = FileId(u32::try_from(entry.key()).ok()?);
        entry.insert(File { handle: handle.clone(), segments: Vec::new() });
        self.by_handle.insert(handle.clone(), id);
        Some(id)
    }

    /// Forgets the file if it has no segments.
    pub(super) fn close(&mut self, file: FileId) {
        if self.slots.get(file.0 as usize).is_some_and(|f| f.segments.is_empty()) {
            let file = self.slots.remove(file.0 as usize);
            self.by_handle.remove(&file.handle);
        }
    }

    pub(super) fn handle(&self, file: FileId) -> Option<&FileHandle> {
        self.slots.get(file.0 as usize).map(|f| &f.handle)
    }

    /// The files from a number on, in the order of their numbers.
    #[cfg(test)]
    pub(super) fn files_from(&self, first: u32) -> impl Iterator<Item = FileId> {
        let end = u32::try_from(self.slots.capacity()).unwrap_or(u32::MAX);
        (first..end).filter(|n| self.slots.contains(*n as usize)).map(FileId)
    }

    // --- segments

    /// All of the file, by first byte.
    pub(super) fn of(&self, file: FileId) -> &[Segment] {
        self.slots.get(file.0 as usize).map_or(&[], |f| f.segments.as_slice())
    }

    pub(super) fn overlapping(&self, file: FileId, range: ByteRange) -> impl Iterator<Item = &Segment> {
        let segments = self.of(file);
        let end = segments.partition_point(|s| s.range.start <= range.end);
        segments.iter().take(end).filter(move |s| s.range.overlaps(range))
    }

    /// Takes what lies in `range` of the segments that the test accepts, and leaves what lies
    /// outside. `rest` is told of each segment and the number of pieces left of it, and gives the
    /// mark they carry.
    pub(super) fn cut(
        &mut self,
        file: FileId,
        range: ByteRange,
        accept: impl Fn(&Segment) -> bool,
        mut rest: impl FnMut(&Segment, usize) -> u32,
    ) -> Change {
        let mut change = Change::none(file);
        let Some(f) = self.slots.get_mut(file.0 as usize) else { return change };
        for segment in f.take(range, accept) {
            let pieces = without(segment.range, range);
            let left = pieces.clone().count();
            let mark = rest(&segment, left);
            pieces.for_each(|range| f.insert(Segment { range, mark, ..segment }));
            change.cuts.push((Segment { range: intersection(segment.range, range), ..segment }, left));
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
                s.owner == segment.owner
                    && (s.kind, s.state) == (segment.kind, segment.state)
                    && (s.monitored, s.offered) == (segment.monitored, false)
            };
            for neighbour in f.take(around, |s| alike(s) && joins(s)) {
                whole.range = hull(whole.range, neighbour.range);
                change.cuts.push((neighbour, 0));
            }
        }
        f.insert(whole);
        change.put = Some(whole);
        change
    }

    /// Sets the mark of each segment of the file, and whether it is offered, as `flags` gives them.
    /// Nothing is counted by these.
    pub(super) fn set_flags(&mut self, file: FileId, mut flags: impl FnMut(&Segment) -> (u32, bool)) {
        for segment in self.slots.get_mut(file.0 as usize).into_iter().flat_map(|f| &mut f.segments) {
            (segment.mark, segment.offered) = flags(segment);
        }
    }
}
