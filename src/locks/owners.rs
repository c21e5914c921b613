//! Owners, each stored once: a lock has its owner's number.

use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use ahash::RandomState;

use super::api::{ClientId, Process, Via};
use super::index::Numbers;
use super::numbered::Numbered;
use super::segment::{Kind, OwnerId};
use super::segments::Change;
use crate::wire::types::{OwnerHandle, Svid};

/// Whose a lock is. Equal svid and oh over another path are another process: a host numbers its processes
/// afresh for each server address, transport and version. What may be taken for the same one all the
/// same is said in [`spellings`](super::spellings).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnerKey {
    pub(super) client: ClientId,
    pub(super) process: Process,
    pub(super) via: Via,
}

impl Hash for OwnerKey {
    /// As that of the parts, by which an owner is looked up.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.client, self.via, &self.process).hash(state);
    }
}

#[derive(Debug)]
struct Slot {
    key: OwnerKey,
    references: usize,
}

/// The client, the number of the process, half a hash of its owner handle. In this order the owners of one process
/// number of a client stand together.
type Place = (ClientId, Svid, u32, OwnerId);

/// The owners that something refers to, with counts of the references.
#[derive(Debug)]
pub(super) struct Owners {
    slots: Numbered<Slot>,
    by_key: Numbers<OwnerId>,
    places: BTreeSet<Place>,
    /// The former spellings of the few that have any.
    former: HashMap<OwnerId, Vec<OwnerKey>>,
    /// Former spellings, and the owner that has each of them, while there is that owner.
    replaced: HashMap<OwnerKey, OwnerId>,
    hash: RandomState,
}

impl Owners {
    pub(super) fn new(hash: &RandomState) -> Self {
        Self {
            slots: Numbered::new(),
            by_key: Numbers::new(hash),
            places: BTreeSet::new(),
            former: HashMap::new(),
            replaced: HashMap::new(),
            hash: hash.clone(),
        }
    }

    fn place(&self, key: &OwnerKey, id: OwnerId) -> Place {
        (key.client, key.process.svid, self.half_hash(&key.process.oh), id)
    }

    fn half_hash(&self, oh: &OwnerHandle) -> u32 {
        (self.hash.hash_one(oh) >> 32) as u32
    }

    /// The owner's number, with one more reference to it.
    pub(super) fn intern(&mut self, client: ClientId, via: Via, process: &Process) -> OwnerId {
        if let Some(id) = self.find(client, via, process) {
            self.acquire(id);
            return id;
        }
        let key = OwnerKey { client, process: process.clone(), via };
        let id = OwnerId::of(self.slots.next());
        self.places.insert(self.place(&key, id));
        self.by_key.insert(&key, id, |id| self.slots.get(id.place()).map(|slot| &slot.key));
        self.slots.add(Slot { key, references: 1 });
        id
    }

    pub(super) fn find(&self, client: ClientId, via: Via, process: &Process) -> Option<OwnerId> {
        let is_it = |key: &OwnerKey| (key.client, key.via) == (client, via) && key.process == *process;
        self.by_key.find(&(client, via, process), |id| self.key(*id).is_some_and(is_it))
    }

    /// The client's owners that number their process alike, as locks or shares of this kind do.
    pub(super) fn of_process(&self, client: ClientId, process: &Process, kind: Kind) -> impl Iterator<Item = OwnerId> {
        let hashes = match kind {
            Kind::Range { .. } => 0..=u32::MAX,
            Kind::Share { .. } => {
                let hash = self.half_hash(&process.oh);
                hash..=hash
            }
        };
        let first = (client, process.svid, *hashes.start(), OwnerId::FIRST);
        let last = (client, process.svid, *hashes.end(), OwnerId::LAST);
        let is_it = move |id: &OwnerId| self.key(*id).is_some_and(|key| is_same_process(&key.process, process, kind));
        self.places.range(first..=last).map(|(.., id)| *id).filter(is_it)
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
        let Some(slot) = self.slots.get_mut(id.place()) else { return };
        slot.references = slot.references + after - before;
        if slot.references == 0
            && let Some(slot) = self.slots.remove(id.place())
        {
            self.by_key.remove(&slot.key, id);
            self.places.remove(&self.place(&slot.key, id));
            for former in self.former.remove(&id).unwrap_or_default() {
                self.replaced.remove(&former);
            }
        }
    }

    pub(super) fn key(&self, id: OwnerId) -> Option<&OwnerKey> {
        self.slots.get(id.place()).map(|slot| &slot.key)
    }

    /// `old` is a former spelling of `new` from now on, and so are the former ones of `old`.
    pub(super) fn replace(&mut self, old: OwnerId, new: OwnerId) {
        let (Some(key), true) = (self.key(old).cloned(), self.key(new).is_some()) else { return };
        let mut former = self.former.remove(&old).unwrap_or_default();
        former.push(key);
        self.replaced.extend(former.iter().map(|key| (key.clone(), new)));
        self.former.entry(new).or_default().extend(former);
    }

    /// The owner of which this is a former spelling.
    pub(super) fn replaced_by(&self, key: &OwnerKey) -> Option<OwnerId> {
        self.replaced.get(key).copied()
    }

    /// The number of its former spellings.
    pub(super) fn former(&self, id: OwnerId) -> usize {
        self.former.get(&id).map_or(0, Vec::len)
    }

    /// The owners and how many references there are to each.
    #[cfg(test)]
    pub(super) fn references(&self) -> impl Iterator<Item = (OwnerId, usize)> {
        self.slots.iter().map(|(n, slot)| (OwnerId::of(n), slot.references))
    }
}

/// Whether two owners number their process alike. Shares have no number: their owner handle stands for it.
pub(super) fn is_same_process(a: &Process, b: &Process, kind: Kind) -> bool {
    match kind {
        Kind::Range { .. } => a.svid == b.svid,
        Kind::Share { .. } => a.oh == b.oh,
    }
}
