//! One lock of one owner on one file, asked for or held.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::api::{Call, Caller, ClientId, OtherDomain, Process};
use super::coverage::Coverage;
use crate::wire::control::LockKind;
use crate::wire::types::{ByteRange, FileHandle, NsmState, OwnerHandle, Svid};

/// What mostly is one or two.
pub(super) type Few<T> = SmallVec<[T; 2]>;

/// A file's number while it has any state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FileId(pub(super) u32);

impl FileId {
    pub(super) const FIRST: Self = Self(0);
    pub(super) const LAST: Self = Self(u32::MAX);

    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// An owner's number. It stays the owner's while anything refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OwnerId(pub(super) u32);

impl OwnerId {
    pub(super) const FIRST: Self = Self(0);
    pub(super) const LAST: Self = Self(u32::MAX);

    /// Of its place in a list. There are no more owners than locks and waiters, of which memory has no room for so many.
    pub(super) fn of(place: usize) -> Self {
        u32::try_from(place).map_or(Self::LAST, Self)
    }

    pub(super) fn place(self) -> usize {
        self.0 as usize
    }
}

/// Something held or pending: a byte-range lock, or (over the whole file) a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) range: ByteRange,
    pub(super) owner: OwnerId,
    pub(super) client: ClientId,
    /// The client's NSM state number when it was granted: its life in which it was taken.
    pub(super) state: NsmState,
    /// The table's epoch when it was granted. Marking raises the table's, and so makes it pending; a release makes it void.
    pub(super) epoch: u32,
    /// Number of the run's mark, once a pending lock was touched in part; 0 is none.
    pub(super) mark: u32,
    /// Since when its owner has had it, or has waited for it: seconds of the table's time. A reclaim of what was
    /// pending keeps it; segments that are joined have that of the oldest.
    pub(super) since: u32,
    pub(super) kind: Kind,
    pub(super) monitored: bool,
    /// Granted to a waiter that has not confirmed it.
    pub(super) offered: bool,
}

/// A lock that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) caller: Caller,
    pub(super) file: FileId,
    /// As it would be granted.
    pub(super) lock: Segment,
    /// The number of bytes as the call has it.
    pub(super) len: u64,
    /// What another lock domain said, if the call had to ask it.
    pub(super) outside: OtherDomain,
}

impl Want {
    /// The file, and whose segments in it.
    pub(super) fn place(&self) -> (FileId, OwnerId) {
        (self.file, self.lock.owner)
    }

    /// Whether the segment is the same owner's, and what is asked for would take its place.
    pub(super) fn owns(&self, segment: &Segment) -> bool {
        segment.owner == self.lock.owner && segment.kind.stands_for(self.lock.kind)
    }
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

    /// Whether an owner that has this has `other` too.
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

    /// Tells apart what an owner may have beginning with one byte and of one sort: its shares.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Range { .. } => 0,
            Self::Share { access, mode } => access << 2 | mode,
        }
    }

    /// Whether an owner cannot have both on the same bytes: it has one mode on a byte. Shares stand side by side, one
    /// for each access and mode: each is of one open of the file, and its close gives back just that (XNFS chapter 10).
    pub(super) fn stands_for(self, other: Self) -> bool {
        self == other || matches!((self, other), (Self::Range { .. }, Self::Range { .. }))
    }

    /// What it is in another lock domain: nothing, if it is a share.
    pub(super) fn coverage(self) -> Option<Coverage> {
        match self {
            Self::Range { exclusive } => Some(Coverage::of(exclusive)),
            Self::Share { .. } => None,
        }
    }

    pub(super) fn row(self) -> LockKind {
        match self {
            Self::Range { exclusive: false } => LockKind::Shared,
            Self::Range { exclusive: true } => LockKind::Exclusive,
            Self::Share { .. } => LockKind::Share,
        }
    }
}

/// Whose process a call is about, on which file, which range, and of what kind.
pub(super) type Subject<'a> = (Cow<'a, Process>, &'a FileHandle, ByteRange, Kind);

impl Call {
    /// The file that it is about; `None` for FREE_ALL.
    pub fn file(&self) -> Option<&FileHandle> {
        self.subject().map(|(_, file, ..)| file)
    }

    /// What it is about; `None` for FREE_ALL.
    pub(super) fn subject(&self) -> Option<Subject<'_>> {
        let share = |oh: &OwnerHandle| Cow::Owned(Process { svid: Svid(0), oh: oh.clone() });
        // The edge lets only 0 to 3 through; anything else can exclude no more than "both".
        let bits = |n: u32| u8::try_from(n & 3).unwrap_or(3);
        Some(match self {
            Self::FreeAll => return None,
            Self::Test(wanted) | Self::Lock { wanted, .. } | Self::Cancel(wanted) | Self::Unlock(wanted) => {
                let kind = Kind::Range { exclusive: wanted.exclusive };
                (Cow::Borrowed(&wanted.process), &wanted.file, wanted.range, kind)
            }
            Self::Share { file, oh, access, mode, .. } | Self::Unshare { file, oh, access, mode } => {
                (share(oh), file, ByteRange::ALL, Kind::Share { access: bits(*access), mode: bits(*mode) })
            }
        })
    }
}

#[cfg(test)]
impl Segment {
    pub(super) fn sample(owner: u32, kind: Kind, range: ByteRange) -> Self {
        Self {
            range,
            owner: OwnerId(owner),
            client: ClientId(0),
            state: NsmState(3),
            epoch: 1,
            mark: 0,
            since: 0,
            kind,
            monitored: true,
            offered: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_needs_no_more_memory_than_it_must() {
        // A million of them are held. `since` stands where there was padding.
        assert_eq!(size_of::<Segment>(), 48);
    }
}
