//! The segments of all files, and the only code that changes them.
//!
//! Each change gives a [`Change`], which no other file can make: what counts segments counts by
//! changes, and so cannot come to differ from them.
//!
//! Segments of one owner overlap only in two cases. Its shares stand side by side, one for each access and
//! mode. And a pending write lock may stand under the read lock that is all its owner reclaimed of it: if the
//! run spares it, the two stay so until the next LOCK or UNLOCK there; the owner then has the stronger of the
//! two.
//!
//! A file has its write locks, its read locks and its shares apart ([`Sort`]), so that who wants to read need
//! not look at those who read. If it has many, it also knows where each owner's segments begin, so that what one
//! does with its own need not look at those of others.

use std::cell::Cell;
use std::collections::BTreeSet;

use ahash::RandomState;

use super::index::Numbers;
use super::intervals::{Intervals, Key, key};
use super::numbered::Numbered;
use super::ranges::{hull, intersection, without};
use super::segment::{Few, FileId, Kind, OwnerId, Segment};
use crate::wire::types::{ByteRange, FileHandle};

/// What a change did to a file's segments.
#[derive(Debug)]
#[must_use]
pub(super) struct Change {
    file: FileId,
    /// What was cut out of each segment, and the number of pieces left of it.
    cuts: Few<(Segment, usize)>,
    put: Option<Segment>,
}

impl Change {
    fn none(file: FileId) -> Self {
        Self { file, cuts: Few::new(), put: None }
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

    pub(super) fn into_cut(self) -> Few<Segment> {
        self.cuts.into_iter().map(|(piece, _)| piece).collect()
    }

    /// The range in which all that was cut out lies.
    pub(super) fn cut_range(&self) -> Option<ByteRange> {
        self.cut().map(|piece| piece.range).reduce(hull)
    }
}

/// What stands in one order: segments in it that are one owner's do not overlap, but its shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Write,
    Read,
    Share,
}

impl Sort {
    const ALL: [Self; 3] = [Self::Write, Self::Read, Self::Share];

    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Range { exclusive: true } => Self::Write,
            Kind::Range { exclusive: false } => Self::Read,
            Kind::Share { .. } => Self::Share,
        }
    }

    /// Whether some of this sort may exclude the kind.
    fn may_exclude(self, kind: Kind) -> bool {
        match self {
            Self::Write => matches!(kind, Kind::Range { .. }),
            Self::Read => kind == Kind::Range { exclusive: true },
            Self::Share => matches!(kind, Kind::Share { .. }),
        }
    }
}

/// A segment by its owner: its first byte and the number of its kind.
type Owned = (OwnerId, Sort, u64, u8);

fn owned(segment: &Segment) -> Owned {
    let (start, owner, number) = key(segment);
    (owner, Sort::of(segment.kind), start, number)
}

#[derive(Debug)]
struct File {
    handle: FileHandle,
    writes: Intervals,
    reads: Intervals,
    shares: Intervals,
    len: usize,
    /// Where each owner's segments begin, while there are more than [`FEW`].
    owned: Option<BTreeSet<Owned>>,
}

/// So many segments are looked through as fast as anything is looked up.
const FEW: usize = 32;

impl File {
    fn new(handle: FileHandle) -> Self {
        let [writes, reads, shares] = [(); 3].map(|()| Intervals::default());
        Self { handle, writes, reads, shares, len: 0, owned: None }
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn of(&self, sort: Sort) -> &Intervals {
        match sort {
            Sort::Write => &self.writes,
            Sort::Read => &self.reads,
            Sort::Share => &self.shares,
        }
    }

    fn of_mut(&mut self, sort: Sort) -> &mut Intervals {
        match sort {
            Sort::Write => &mut self.writes,
            Sort::Read => &mut self.reads,
            Sort::Share => &mut self.shares,
        }
    }

    /// The owner's of the sort that overlap the range, by first byte.
    fn owned_in(&self, owner: OwnerId, sort: Sort, range: ByteRange) -> impl Iterator<Item = &Segment> {
        let tree = self.of(sort);
        let owned = self.owned.iter().filter(|_| !tree.is_empty());
        // Of those that begin before the range one may reach into it: the last. Shares all begin with the first byte.
        let start = if sort == Sort::Share { 0 } else { range.start };
        let keys = owned.flat_map(move |owned| {
            let before = owned.range((owner, sort, 0, 0)..(owner, sort, start, 0)).next_back();
            before.into_iter().chain(owned.range((owner, sort, start, 0)..=(owner, sort, range.end, u8::MAX)))
        });
        let found = keys.filter_map(move |(_, _, start, number)| tree.get((*start, owner, *number)));
        let found = found.filter(move |s| s.range.overlaps(range));
        let all = self.owned.is_none().then(|| tree.overlapping(range)).into_iter().flatten();
        found.chain(all.filter(move |s| s.owner == owner))
    }

    fn keys_in(
        &self,
        owner: OwnerId,
        sort: Sort,
        range: ByteRange,
        most: usize,
        accept: impl Fn(&Segment) -> bool,
    ) -> Few<Key> {
        self.owned_in(owner, sort, range).filter(|s| accept(s)).map(key).take(most).collect()
    }

    fn insert(&mut self, segment: Segment) {
        let sort = Sort::of(segment.kind);
        self.of_mut(sort).insert(segment);
        self.len += 1;
        match &mut self.owned {
            Some(index) => {
                index.insert(owned(&segment));
            }
            None if self.len > FEW => {
                let all = Sort::ALL.into_iter().flat_map(|sort| self.of(sort).overlapping(ByteRange::ALL));
                self.owned = Some(all.map(owned).collect());
            }
            None => {}
        }
    }

    /// Takes out the owner's that overlap the range and that the test accepts.
    fn take_owned(
        &mut self,
        owner: OwnerId,
        range: ByteRange,
        most: usize,
        accept: impl Fn(&Segment) -> bool,
    ) -> Few<Segment> {
        if self.owned.is_none() {
            return self.take(range, most, |s| s.owner == owner && accept(s));
        }
        let mut taken = Few::new();
        for sort in Sort::ALL {
            let keys = self.keys_in(owner, sort, range, most - taken.len(), &accept);
            taken.extend(keys.into_iter().filter_map(|key| self.of_mut(sort).remove(key)));
        }
        self.disown(&taken);
        taken
    }

    /// Takes out what overlaps the range and the test accepts, of any owner.
    fn take(&mut self, range: ByteRange, most: usize, accept: impl Fn(&Segment) -> bool) -> Few<Segment> {
        let (mut taken, left) = (Few::new(), Cell::new(most));
        let accept = |s: &Segment| {
            let accepted = left.get() > 0 && accept(s);
            left.set(left.get() - usize::from(accepted));
            accepted
        };
        for sort in Sort::ALL {
            self.of_mut(sort).extract(range, &accept, &mut taken);
        }
        self.disown(&taken);
        taken
    }

    fn disown(&mut self, taken: &[Segment]) {
        self.len -= taken.len();
        if self.len < FEW / 2 {
            self.owned = None;
        }
        let Some(index) = &mut self.owned else { return };
        for segment in taken {
            index.remove(&owned(segment));
        }
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

    /// The files from a number on, in the order of their numbers.
    #[cfg(test)]
    pub(super) fn files_from(&self, first: u32) -> impl Iterator<Item = FileId> {
        (first..self.end()).filter(|n| self.slots.get(*n as usize).is_some()).map(FileId)
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
        self.overlapping(file, ByteRange::ALL)
    }

    /// Those of all owners, in the same order.
    pub(super) fn overlapping(&self, file: FileId, range: ByteRange) -> impl Iterator<Item = &Segment> {
        let sorts = self.file(file).into_iter().flat_map(|f| Sort::ALL.map(|sort| f.of(sort)));
        sorts.flat_map(move |sort| sort.overlapping(range))
    }

    /// Those on which no other owner may have a lock of this kind.
    pub(super) fn excluding(&self, file: FileId, range: ByteRange, kind: Kind) -> impl Iterator<Item = &Segment> {
        let sorts = Sort::ALL.into_iter().filter(move |sort| sort.may_exclude(kind));
        let sorts = self.file(file).into_iter().flat_map(move |f| sorts.clone().map(|sort| f.of(sort)));
        sorts.flat_map(move |sort| sort.overlapping(range)).filter(move |s| s.kind.excludes(kind))
    }

    /// Those of one owner, in the same order.
    pub(super) fn owned_in(&self, file: FileId, owner: OwnerId, range: ByteRange) -> impl Iterator<Item = &Segment> {
        let file = self.file(file).into_iter();
        file.flat_map(move |f| Sort::ALL.into_iter().flat_map(move |sort| f.owned_in(owner, sort, range)))
    }

    /// Takes what lies in `range` of `most` segments that the test accepts, of `owner` or of any, and leaves
    /// what lies outside. `rest` is told of each segment and the number of pieces left of it, and gives the
    /// mark they carry.
    pub(super) fn cut(
        &mut self,
        file: FileId,
        owner: Option<OwnerId>,
        range: ByteRange,
        most: usize,
        accept: impl Fn(&Segment) -> bool,
        mut rest: impl FnMut(&Segment, usize) -> u32,
    ) -> Change {
        let mut change = Change::none(file);
        let Some(f) = self.slots.get_mut(file.0 as usize) else { return change };
        let taken = match owner {
            Some(owner) => f.take_owned(owner, range, most, accept),
            None => f.take(range, most, accept),
        };
        for segment in taken {
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
                (s.kind, s.state) == (segment.kind, segment.state)
                    && (s.monitored, s.offered) == (segment.monitored, false)
            };
            for neighbour in f.take_owned(segment.owner, around, usize::MAX, |s| alike(s) && joins(s)) {
                whole.range = hull(whole.range, neighbour.range);
                whole.since = whole.since.min(neighbour.since);
                change.cuts.push((neighbour, 0));
            }
        }
        f.insert(whole);
        change.put = Some(whole);
        change
    }

    /// Sets the mark of each segment of the owner in the range, and whether it is offered, as `flags` gives
    /// them. Nothing is counted by these.
    pub(super) fn set_flags(
        &mut self,
        file: FileId,
        owner: OwnerId,
        range: ByteRange,
        mut flags: impl FnMut(&Segment) -> (u32, bool),
    ) {
        let Some(f) = self.slots.get_mut(file.0 as usize) else { return };
        for sort in Sort::ALL {
            for key in f.keys_in(owner, sort, range, usize::MAX, |_| true) {
                if let Some(segment) = f.of_mut(sort).get_mut(key) {
                    (segment.mark, segment.offered) = flags(segment);
                }
            }
        }
    }
}
