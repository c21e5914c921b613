//! What a run covers, which tells what is pending; and what its drop, or a release, has left in the files.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::api::ClientId;
use super::file::Place;
use super::held::Held;
use super::segment::{FileId, OwnerId, Segment};
use super::waiters::Waiter;
use crate::wire::types::ByteRange;

/// Who and what the run covers.
#[derive(Debug, Default)]
pub(super) struct Covers {
    pub(super) epoch: u32,
    pub(super) include_unmonitored: bool,
    pub(super) clients: Option<HashSet<ClientId>>,
    pub(super) files: Option<HashSet<FileId>>,
    /// Pending locks that are kept under any policy.
    pub(super) spared: HashSet<(FileId, OwnerId, ByteRange)>,
}

impl Covers {
    /// Whether the segment was granted before the run and is in its scope: not decided yet.
    pub(super) fn is_pending(&self, file: FileId, segment: &Segment) -> bool {
        segment.epoch < self.epoch
            && (segment.monitored || self.include_unmonitored)
            && self.clients.as_ref().is_none_or(|clients| clients.contains(&segment.client))
            && self.files.as_ref().is_none_or(|files| files.contains(&file))
    }

    /// How many of those held are in its scope, as far as monitoring goes.
    pub(super) fn in_scope(&self, held: &Held) -> u64 {
        (held.locks - if self.include_unmonitored { 0 } else { held.unmonitored }) as u64
    }

    pub(super) fn is_spared(&self, file: FileId, segment: &Segment) -> bool {
        self.spared.contains(&(file, segment.owner, segment.range))
    }
}

/// Dropped locks that still stand in their files.
#[derive(Debug)]
pub(super) struct Void {
    pub(super) covers: Covers,
    /// Whose.
    pub(super) clients: HashSet<ClientId>,
    /// Who is taken for gone, or was released: what they were offered goes, too, and their waiters from before.
    pub(super) gone: BTreeSet<ClientId>,
    /// The waiters of those up to this one are dropped.
    pub(super) swept: Option<ClientId>,
    /// Owners of theirs who lose nothing.
    pub(super) kept: HashSet<OwnerId>,
    /// Files not yet purged.
    pub(super) files: BTreeSet<FileId>,
    /// Up to where those of them are purged that have very many locks. None comes to be void there later: what is put
    /// into a file is newer than what was dropped.
    pub(super) purged: HashMap<FileId, Place>,
}

impl Void {
    pub(super) fn is_void(&self, file: FileId, segment: &Segment) -> bool {
        self.covers.is_pending(file, segment)
            && !self.covers.is_spared(file, segment)
            && !self.kept.contains(&segment.owner)
            && self.clients.contains(&segment.client)
            && (!segment.offered || self.gone.contains(&segment.client))
    }

    /// Whose waiters are to be dropped next.
    pub(super) fn leaving(&self) -> Option<ClientId> {
        self.gone.range((self.swept.map_or(Unbounded, Excluded), Unbounded)).next().copied()
    }

    /// Whether the waiter is to be dropped. One that asked since is not: its client is there.
    pub(super) fn is_void_waiter(&self, waiter: &Waiter) -> bool {
        waiter.want.lock.epoch < self.covers.epoch && self.gone.contains(&waiter.want.caller.client)
    }
}
