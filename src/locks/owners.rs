//! Owners, each stored once: a lock carries a number.

use std::collections::{BTreeSet, HashMap};

use ahash::RandomState;
use slab::Slab;

use super::api::{ClientId, Process, Via};
use super::segment::{Kind, OwnerId};
use super::segments::Change;
use crate::wire::types::Svid;

/// Whose a lock is. Equal svid and oh over another path are another process: a host numbers its processes
/// afresh for each server address, transport and version. What may be taken for the same one all the
/// same is said in [`spellings`](super::spellings).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OwnerKey {
    pub(super) client: ClientId,
    pub(super) process: Process,
    pub(super) via: Via,
}

#[derive(Debug)]
struct Slot {
    key: OwnerKey,
    references: usize,
    /// Its spellings before this one.
    former: Vec<OwnerKey>,
}

/// The client, the number of the process, the hash of its owner handle. In this order the owners of one process
/// number of a client stand together, and the few that have all of it in common differ in their path.
type Place = (ClientId, Svid, u64, OwnerId);

/// The owners that something refers to, with counts of the references.
#[derive(Debug)]
pub(super) struct Owners {
    slots: Slab<Slot>,
    places: BTreeSet<Place>,
    /// Former spellings, and the owner that has each of them, while there is that owner.
    replaced: HashMap<OwnerKey, OwnerId>,
    hash: RandomState,
}

impl Owners {
    pub(super) fn new(hash: &RandomState) -> Self {
        Self { slots: Slab::new(), places: BTreeSet::new(), replaced: HashMap::new(), hash: hash.clone() }
    }

    fn place(&self, key: &OwnerKey, id: OwnerId) -> Place {
        (key.client, key.process.svid, self.hash.hash_one(&key.process.oh), id)
    }

    /// The owner's number, with one more reference to it.
    pub(super) fn intern(&mut self, key: OwnerKey) -> OwnerId {
        if let Some(id) = self.find(&key) {
            self.acquire(id);
            return id;
        }
        let entry = self.slots.vacant_entry();
        let id = OwnerId(entry.key());
        let slot = entry.insert(Slot { key, references: 1, former: Vec::new() });
        let OwnerKey { client, process, .. } = &slot.key;
        self.places.insert((*client, process.svid, self.hash.hash_one(&process.oh), id));
        id
    }

    pub(super) fn find(&self, key: &OwnerKey) -> Option<OwnerId> {
        let (first, last) = (self.place(key, OwnerId::FIRST), self.place(key, OwnerId::LAST));
        self.places.range(first..=last).map(|(.., id)| *id).find(|id| self.key(*id) == Some(key))
    }

    /// The client's owners that number their process alike, as locks or shares of this kind do.
    pub(super) fn of_process(&self, client: ClientId, process: &Process, kind: Kind) -> impl Iterator<Item = OwnerId> {
        let hashes = match kind {
            Kind::Range { .. } => 0..=u64::MAX,
            Kind::Share { .. } => {
                let hash = self.hash.hash_one(&process.oh);
                hash..=hash
            }
        };
        let first = (client, process.svid, *hashes.start(), OwnerId::FIRST);
        let last = (client, process.svid, *hashes.end(), OwnerId::LAST);
        self.places.range(first..=last).map(|(.., id)| *id)
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
        let Some(slot) = self.slots.get_mut(id.0) else { return };
        slot.references = slot.references + after - before;
        if slot.references == 0 {
            let slot = self.slots.remove(id.0);
            self.places.remove(&self.place(&slot.key, id));
            for former in slot.former {
                self.replaced.remove(&former);
            }
        }
    }

    pub(super) fn key(&self, id: OwnerId) -> Option<&OwnerKey> {
        self.slots.get(id.0).map(|slot| &slot.key)
    }

    /// `old` is a former spelling of `new` from now on, and so are the former ones of `old`.
    pub(super) fn replace(&mut self, old: OwnerId, new: OwnerId) {
        let Some(slot) = self.slots.get_mut(old.0) else { return };
        let mut former = std::mem::take(&mut slot.former);
        former.push(slot.key.clone());
        let Some(slot) = self.slots.get_mut(new.0) else { return };
        self.replaced.extend(former.iter().map(|key| (key.clone(), new)));
        slot.former.extend(former);
    }

    /// The owner of which this is a former spelling.
    pub(super) fn replaced_by(&self, key: &OwnerKey) -> Option<OwnerId> {
        self.replaced.get(key).copied()
    }

    /// The number of its former spellings.
    pub(super) fn former(&self, id: OwnerId) -> usize {
        self.slots.get(id.0).map_or(0, |slot| slot.former.len())
    }

    /// The owners and how many references there are to each.
    #[cfg(test)]
    pub(super) fn references(&self) -> impl Iterator<Item = (OwnerId, usize)> {
        self.slots.iter().map(|(n, slot)| (OwnerId(n), slot.references))
    }
}

/// Whether two owners number their process alike. Shares have no number: their owner handle stands for it.
pub(super) fn is_same_process(a: &Process, b: &Process, kind: Kind) -> bool {
    match kind {
        Kind::Range { .. } => a.svid == b.svid,
        Kind::Share { .. } => a.oh == b.oh,
    }
}
