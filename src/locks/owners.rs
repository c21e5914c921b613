//! Owners, each stored once: a lock carries a number.

use std::collections::HashMap;

use slab::Slab;

use super::api::{ClientId, Process, Via};
use super::segment::OwnerId;
use super::segments::Change;

/// Whose a lock is. Equal svid and oh over another path are another process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OwnerKey {
    pub(super) client: ClientId,
    pub(super) via: Via,
    pub(super) process: Process,
}

/// The owners that something refers to, with counts of the references.
#[derive(Debug, Default)]
pub(super) struct Owners {
    slots: Slab<(OwnerKey, usize)>,
    by_key: HashMap<OwnerKey, OwnerId>,
}

impl Owners {
    /// The owner's number, with one more reference to it.
    pub(super) fn intern(&mut self, key: OwnerKey) -> OwnerId {
        if let Some(id) = self.find(&key) {
            self.acquire(id);
            return id;
        }
        let id = OwnerId(self.slots.insert((key.clone(), 1)));
        self.by_key.insert(key, id);
        id
    }

    pub(super) fn find(&self, key: &OwnerKey) -> Option<OwnerId> {
        self.by_key.get(key).copied()
    }

    pub(super) fn acquire(&mut self, id: OwnerId) {
        self.recount(id, 0, 1);
    }

    pub(super) fn release(&mut self, id: OwnerId) {
        self.recount(id, 1, 0);
    }

    /// Each segment refers to its owner.
    pub(super) fn observe(&mut self, change: &Change) {
        for (segment, before, after) in change.counts() {
            self.recount(segment.owner, before, after);
        }
    }

    fn recount(&mut self, id: OwnerId, before: usize, after: usize) {
        let Some((_, references)) = self.slots.get_mut(id.0) else { return };
        *references = *references + after - before;
        if *references == 0 {
            let (key, _) = self.slots.remove(id.0);
            self.by_key.remove(&key);
        }
    }

    pub(super) fn key(&self, id: OwnerId) -> Option<&OwnerKey> {
        self.slots.get(id.0).map(|(key, _)| key)
    }

    /// Whether both are the same process of the same client, whatever path it called by.
    pub(super) fn same_process(&self, a: OwnerId, b: OwnerId) -> bool {
        match (self.key(a), self.key(b)) {
            (Some(a), Some(b)) => a.client == b.client && a.process == b.process,
            _ => false,
        }
    }

    /// The owners and how many references there are to each.
    #[cfg(test)]
    pub(super) fn references(&self) -> impl Iterator<Item = (OwnerId, usize)> {
        self.slots.iter().map(|(n, (_, references))| (OwnerId(n), *references))
    }
}
