//! Owners, each stored once: a lock carries a number.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use slab::Slab;

use super::api::{ClientId, Process, Via};
use super::segment::{Kind, OwnerId};
use super::segments::Change;
use crate::wire::types::{OwnerHandle, Transport};

/// Whose a lock is. Equal svid and oh over another path are another process: a host numbers its processes
/// afresh for each server address, transport and version. What may be taken for the same one all the
/// same is said in [`spellings`](super::spellings).
///
/// In their order the owners of one process number of a client stand together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OwnerKey {
    pub(super) client: ClientId,
    pub(super) process: Process,
    pub(super) via: Via,
}

/// No path comes before this one.
const FIRST: Via = Via { server_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), transport: Transport::Udp, version: 0 };

#[derive(Debug)]
struct Slot {
    key: OwnerKey,
    references: usize,
    /// Its spellings before this one.
    former: Vec<OwnerKey>,
}

/// The owners that something refers to, with counts of the references.
#[derive(Debug, Default)]
pub(super) struct Owners {
    slots: Slab<Slot>,
    by_key: BTreeMap<OwnerKey, OwnerId>,
    /// Former spellings, and the owner that has each of them, while there is that owner.
    replaced: HashMap<OwnerKey, OwnerId>,
}

impl Owners {
    /// The owner's number, with one more reference to it.
    pub(super) fn intern(&mut self, key: OwnerKey) -> OwnerId {
        if let Some(id) = self.find(&key) {
            self.acquire(id);
            return id;
        }
        let id = OwnerId(self.slots.insert(Slot { key: key.clone(), references: 1, former: Vec::new() }));
        self.by_key.insert(key, id);
        id
    }

    pub(super) fn find(&self, key: &OwnerKey) -> Option<OwnerId> {
        self.by_key.get(key).copied()
    }

    /// The client's owners that number their process alike, as locks or shares of this kind do.
    pub(super) fn of_process(&self, client: ClientId, process: &Process, kind: Kind) -> impl Iterator<Item = OwnerId> {
        let Process { svid, oh } = process.clone();
        let oh = if matches!(kind, Kind::Share { .. }) { oh } else { OwnerHandle::default() };
        let first = OwnerKey { client, process: Process { svid, oh }, via: FIRST };
        let owners = self.by_key.range(first..).take_while(move |(key, _)| key.client == client);
        owners.take_while(move |(key, _)| is_same_process(&key.process, process, kind)).map(|(_, id)| *id)
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
            self.by_key.remove(&slot.key);
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
