//! One owner under another spelling.
//!
//! A machine's lock manager that restarts may send another owner handle (macOS), a machine whose name
//! changed (case, short or full, a dot at the end, another domain) sends another caller_name, and a new
//! mount may call by another path. What was locked before is then another owner's here.
//!
//! What is made of that:
//! - In a run a reclaim that only a pending lock stands against, from the same source address, with the same
//!   svid (a share: the same owner handle), exactly the same range and mode, is that lock's owner's. It
//!   adopts the lock, once: from then on the lock is held by the new spelling, and the old one is refused.
//! - From another address that is no proof: two machines may have one name. The reclaim is a conflict, and
//!   the pending lock is kept whatever the policy is, for it may be a live one of a machine that moved.
//! - Nothing is freed by another spelling: some clients tell their processes apart by owner handle alone. An
//!   UNLOCK or CANCEL that finds nothing, but a sibling with exactly that, makes the sibling's client suspect.

use std::net::IpAddr;

use super::api::{Call, ClientId, Process};
use super::clients::Client;
use super::owners::OwnerKey;
use super::segment::{FileId, Kind, OwnerId, Segment, Want};
use super::table::LockTable;
use crate::wire::types::{ByteRange, CallerName};

/// Who gives something up that it does not have. Not every one is a client.
#[derive(Debug)]
pub(super) struct GivesUp<'a> {
    pub(super) address: IpAddr,
    pub(super) name: &'a CallerName,
    pub(super) client: Option<ClientId>,
    pub(super) process: &'a Process,
}

impl LockTable {
    fn spelling(&self, owner: OwnerId) -> Option<(&OwnerKey, &Client)> {
        let key = self.owners.key(owner)?;
        Some((key, self.clients.get(key.client)?))
    }

    /// Whether both are the same process of the same client, whatever path it called by.
    fn is_same_by_another_path(&self, a: OwnerId, b: OwnerId) -> bool {
        let [a, b] = [a, b].map(|owner| self.owners.key(owner).map(|key| (key.client, &key.process)));
        a.is_some() && a == b
    }

    /// Whether another owner may be the asking one under another spelling: the same number of a process, at
    /// the same address.
    fn is_sibling(&self, other: OwnerId, want: &Want) -> bool {
        let (Some((key, client)), Some((mine, me))) = (self.spelling(other), self.spelling(want.lock.owner)) else {
            return false;
        };
        client.address == me.address && is_same_process(&key.process, &mine.process, want.lock.kind)
    }

    fn is_same_name(&self, other: ClientId, want: &Want) -> bool {
        let names = [other, want.caller.client].map(|id| self.clients.get(id).map(|client| &client.name));
        matches!(names, [Some(a), Some(b)] if a.matches(b))
    }

    /// The pending lock that a reclaim adopts: the same process' by another path, or the same machine's
    /// under another spelling. Names that have nothing in common may be two hosts behind one address: there
    /// only a lock that cannot be both theirs is adopted.
    pub(super) fn pending_elsewhere(&self, want: &Want) -> Option<Segment> {
        let alike = |s: &&Segment| s.range == want.lock.range && s.kind.same_sort(want.lock.kind);
        let exactly: Vec<&Segment> = self.segments().overlapping(want.file, want.lock.range).filter(alike).collect();
        if exactly.iter().any(|s| s.owner == want.lock.owner) {
            return None;
        }
        let of_another_path = |s: &Segment| self.is_same_by_another_path(s.owner, want.lock.owner);
        let of_another_spelling = |s: &Segment| {
            s.kind == want.lock.kind
                && self.is_sibling(s.owner, want)
                && (s.kind.excludes(want.lock.kind) || self.is_same_name(s.client, want))
        };
        let pending = || exactly.iter().copied().filter(|s| self.is_pending(want.file, s));
        pending().find(|s| of_another_path(s)).or_else(|| pending().find(|s| of_another_spelling(s))).copied()
    }

    /// A reclaim is refused for this lock. If it may be the same owner's that calls from another address by now,
    /// the lock is not dropped in this run.
    pub(super) fn spare_if_it_moved(&mut self, want: &Want, lock: &Segment) {
        let (Some((key, client)), Some((mine, me))) = (self.spelling(lock.owner), self.spelling(want.lock.owner))
        else {
            return;
        };
        let moved = client.address != me.address
            && is_same_process(&key.process, &mine.process, lock.kind)
            && client.name.matches(&me.name)
            && (lock.range, lock.kind) == (want.lock.range, want.lock.kind);
        if moved
            && self.is_pending(want.file, lock)
            && let Some(run) = &mut self.run
        {
            run.covers.spared.insert((want.file, lock.owner, lock.range));
        }
    }

    /// An UNLOCK or CANCEL found nothing of its owner.
    pub(super) fn suspect_sibling(&mut self, want: &Want) {
        let Some((OwnerKey { client, process, .. }, me)) = self.spelling(want.lock.owner) else { return };
        let (name, process) = (me.name.clone(), process.clone());
        let who = GivesUp { address: me.address, name: &name, client: Some(*client), process: &process };
        self.suspect_siblings(want.file, (want.lock.range, want.lock.kind), &who);
    }

    /// The same by a host that is no client: it is answered without having anything here.
    pub fn given_up_by_stranger(&mut self, address: IpAddr, name: &CallerName, call: &Call) {
        let (Call::Cancel(_) | Call::Unlock(_) | Call::Unshare { .. }) = call else { return };
        let Some((process, handle, range, kind)) = call.subject() else { return };
        let Some(file) = self.segments().find(handle) else { return };
        self.purge(file);
        self.suspect_siblings(file, (range, kind), &GivesUp { address, name, client: None, process: &process });
        self.close(file);
    }

    /// If a sibling has exactly what the caller gives up, the caller may be it, and its lock is stuck.
    pub(super) fn suspect_siblings(&mut self, file: FileId, (range, kind): (ByteRange, Kind), who: &GivesUp<'_>) {
        let alike = |s: &Segment| s.range == range && s.kind.same_sort(kind);
        let holds = self.segments().overlapping(file, range).filter(|s| alike(s)).map(|s| s.owner);
        let waiting = self.waiters.in_file(file).map(|(_, waiter)| &waiter.want.lock);
        let waits = waiting.filter(|lock| alike(lock)).map(|lock| lock.owner);
        let is_sibling = |(key, client): &(&OwnerKey, &Client)| {
            client.address == who.address
                && is_same_process(&key.process, who.process, kind)
                && (Some(key.client), &key.process) != (who.client, who.process)
        };
        let sibling = holds.chain(waits).filter_map(|owner| self.spelling(owner)).find(is_sibling);
        if let Some((OwnerKey { client, .. }, _)) = sibling {
            let why = format!("{} at its address gives up what it has under another owner handle or name", who.name);
            self.suspect(*client, &why);
        }
    }
}

/// Whether two owners number their process alike. Shares have no number: their owner handle stands for it.
fn is_same_process(a: &Process, b: &Process, kind: Kind) -> bool {
    match kind {
        Kind::Range { .. } => a.svid == b.svid,
        Kind::Share { .. } => a.oh == b.oh,
    }
}
