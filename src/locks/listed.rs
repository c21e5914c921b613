//! Which rows a result lists of those that peers cause: reclaims that were refused, each once, and locks that were not
//! known.
//!
//! A peer can cause any number of them. So each host has a [share](Shares), and the last tenth is for hosts that have few.

use std::collections::BTreeSet;

use super::api::ClientId;
use crate::shares::{Bounds, Holder, Shares};
use crate::wire::control::{LockFate, LockKind};
use crate::wire::types::{ByteRange, FileHandle, OwnerHandle, Svid};

/// What makes two refused reclaims the same one.
type ConflictKey = (ClientId, FileHandle, ByteRange, LockKind, Svid, OwnerHandle);

#[derive(Debug)]
pub(super) struct Listed {
    pub(super) bounds: Bounds,
    /// By address. Most runs list nothing, and what has a place for many takes time to make and to free.
    shares: Option<Shares>,
    /// A tree: a hash table that grows moves all that is in it, and peers choose how much that is.
    conflicts: BTreeSet<ConflictKey>,
}

impl Listed {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, shares: None, conflicts: BTreeSet::new() }
    }

    /// Whether there is room for the row, which is taken then.
    pub(super) fn takes(&mut self, row: &LockFate) -> bool {
        let (holder, shares) = (Holder::Host(row.owner.address.0), self.shares.get_or_insert_default());
        let has_room = shares.room(self.bounds, holder, 1).is_ok();
        if has_room {
            shares.take(holder, 1);
        }
        has_room
    }

    /// The same for a refused reclaim. `None`: it is listed already, and its client repeats it.
    pub(super) fn takes_conflict(&mut self, client: ClientId, row: &LockFate) -> Option<bool> {
        let key = (client, row.file.clone(), row.range, row.kind, row.owner.svid, row.owner.oh.clone());
        if self.conflicts.contains(&key) {
            return None;
        }
        let has_room = self.takes(row);
        if has_room {
            self.conflicts.insert(key);
        }
        Some(has_room)
    }
}
