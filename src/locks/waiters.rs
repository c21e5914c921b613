//! Blocked requests: their queues, and where each of them was last found blocked.
//!
//! A waiter waits at one byte: one of its range, on which something was in its way when it was last looked at.
//! While that is still there nothing else needs to be known of it. So a change looks only at those who wait at the
//! bytes that it freed, and each of these is offered its range, or waits at another byte from then on.
//!
//! Each waiter that is not offered anything is in one of two places:
//! - it *waits* at its byte (`waiting`). Nothing frees that byte if all that is there is its owner's own lock, pending
//!   in a run that then ends: such waiters are also *held back* (`held_back`), and are let go after the run;
//! - it is to be *looked at* (`woken`), since that byte was freed.
//!
//! Ten thousand may wait at one byte, so both are done in slices. What was freed of a file is kept (`freed`) until
//! all who waited there are gathered; only then the first of them is looked at: who came first is served first.
//! Each file has its turn.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::api::{Caller, ClientId, OfferId};
use super::segment::{FileId, OwnerId, Segment, Want};
use super::standing::Standing;
use crate::ranges::hull;
use crate::wire::types::{ByteRange, Cookie};

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) want: Want,
    pub(super) cookie: Cookie,
    /// It holds the range and has not confirmed that it knows.
    pub(super) offered: bool,
    /// So many offers to it are over.
    pub(super) renewed: u32,
    /// What its owner had in the range before the offer.
    pub(super) had: Vec<Segment>,
    /// Another lock domain had the range when it was last asked.
    pub(super) refused: bool,
    /// The byte at which it waits.
    at: Option<u64>,
}

impl Waiter {
    pub(super) fn new(want: Want, cookie: Cookie, refused: bool) -> Self {
        Self { want, cookie, offered: false, had: Vec::new(), refused, at: None, renewed: 0 }
    }

    /// The number of what it is offered. Its own is given.
    pub(super) fn offer(&self, waiter: u64) -> OfferId {
        OfferId { waiter, renewed: self.renewed }
    }
}

/// The waiters, numbered in the order they came.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_id: BTreeMap<u64, Waiter>,
    by_client: BTreeSet<(ClientId, u64)>,
    by_owner: BTreeSet<(OwnerId, FileId, u64)>,
    by_file: BTreeSet<(FileId, u64)>,
    waiting: BTreeSet<(FileId, u64, u64)>,
    held_back: BTreeSet<(FileId, u64)>,
    woken: BTreeSet<(FileId, u64)>,
    freed: BTreeMap<FileId, ByteRange>,
    standing: Standing,
    /// The file that had its turn last.
    turn: FileId,
    last: u64,
}

impl Waiters {
    /// Puts it at the end of the queues. It waits at that byte. Gives its number.
    pub(super) fn add(&mut self, waiter: Waiter, byte: u64) -> u64 {
        self.last += 1;
        let (id, Want { caller, file, lock, .. }) = (self.last, waiter.want);
        self.by_client.insert((caller.client, id));
        self.by_owner.insert((lock.owner, file, id));
        self.by_file.insert((file, id));
        self.by_id.insert(id, waiter);
        self.wait_at(id, byte);
        id
    }

    /// Gives also where its offer stood.
    pub(super) fn remove(&mut self, id: u64) -> Option<(Waiter, Vec<ByteRange>)> {
        self.rest(id);
        let waiter = self.by_id.remove(&id)?;
        let Want { caller, file, lock, .. } = waiter.want;
        let stood = self.standing.remove((file, lock.owner), lock.range, id);
        self.by_client.remove(&(caller.client, id));
        self.by_owner.remove(&(lock.owner, file, id));
        self.by_file.remove(&(file, id));
        if !self.has_any_in(file) {
            self.freed.remove(&file);
        }
        Some((waiter, stood))
    }

    /// It is another owner's from now on, and keeps its place. It is to be looked at: what was in its way may be
    /// its own.
    pub(super) fn give_to(&mut self, id: u64, caller: Caller, owner: OwnerId) {
        self.rest(id);
        let Some(waiter) = self.by_id.get_mut(&id) else { return };
        let Want { caller: before, file, lock, .. } = waiter.want;
        waiter.want.caller = caller;
        (waiter.want.lock.owner, waiter.want.lock.client) = (owner, caller.client);
        self.by_client.remove(&(before.client, id));
        self.by_owner.remove(&(lock.owner, file, id));
        self.by_client.insert((caller.client, id));
        self.by_owner.insert((owner, file, id));
        if !waiter.offered {
            self.woken.insert((file, id));
        }
    }

    /// Its offer is over: it has its old place, and is to be looked at.
    pub(super) fn queue_again(&mut self, id: u64) {
        let Some(waiter) = self.by_id.get_mut(&id) else { return };
        (waiter.offered, waiter.had) = (false, Vec::new());
        waiter.renewed = waiter.renewed.wrapping_add(1);
        let Want { file, lock, .. } = waiter.want;
        self.standing.remove((file, lock.owner), lock.range, id);
        self.woken.insert((waiter.want.file, id));
    }

    pub(super) fn get(&self, id: u64) -> Option<&Waiter> {
        self.by_id.get(&id)
    }

    /// The waiter whose offer that is, if it still is.
    pub(super) fn offered(&self, offer: OfferId) -> Option<&Waiter> {
        self.get(offer.waiter).filter(|waiter| waiter.offered && waiter.offer(offer.waiter) == offer)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Waiter> {
        self.by_id.get_mut(&id)
    }

    // --- what they wait for

    /// It is blocked there.
    pub(super) fn wait_at(&mut self, id: u64, byte: u64) {
        self.rest(id);
        if let Some(waiter) = self.by_id.get_mut(&id) {
            waiter.at = Some(byte);
            self.waiting.insert((waiter.want.file, byte, id));
        }
    }

    /// Its owner's own lock, which is pending, is there and nothing else is in its way.
    pub(super) fn hold_back(&mut self, id: u64, byte: u64) {
        self.wait_at(id, byte);
        self.held_back.extend(self.by_id.get(&id).map(|waiter| (waiter.want.file, id)));
    }

    pub(super) fn any_held_back(&self) -> bool {
        !self.held_back.is_empty()
    }

    /// No run is on any more: so many more are to be looked at.
    pub(super) fn let_go(&mut self, most: usize) {
        for _ in 0..most {
            let Some((file, id)) = self.held_back.pop_first() else { return };
            if let Some(byte) = self.by_id.get(&id).and_then(|waiter| waiter.at) {
                self.free(file, ByteRange { start: byte, end: byte });
            }
        }
    }

    /// It neither waits nor is it to be looked at.
    pub(super) fn rest(&mut self, id: u64) {
        let Some(waiter) = self.by_id.get_mut(&id) else { return };
        self.held_back.remove(&(waiter.want.file, id));
        match waiter.at.take() {
            Some(byte) => self.waiting.remove(&(waiter.want.file, byte, id)),
            None => self.woken.remove(&(waiter.want.file, id)),
        };
    }

    fn first_in(&self, file: FileId, range: ByteRange) -> Option<u64> {
        self.waiting.range((file, range.start, 0)..=(file, range.end, u64::MAX)).next().map(|(_, _, id)| *id)
    }

    /// What was in the way there may be so no more.
    pub(super) fn free(&mut self, file: FileId, range: ByteRange) {
        if self.first_in(file, range).is_some() {
            self.freed.entry(file).and_modify(|freed| *freed = hull(*freed, range)).or_insert(range);
        }
    }

    /// Gathers those who wait where the file was freed, but no more than so many. Gives how many.
    pub(super) fn gather(&mut self, file: FileId, most: usize) -> usize {
        let Some(range) = self.freed.get(&file).copied() else { return 0 };
        for gathered in 0..most {
            let Some(id) = self.first_in(file, range) else {
                self.freed.remove(&file);
                return gathered;
            };
            self.rest(id);
            self.woken.insert((file, id));
        }
        most
    }

    /// The waiter to look at first; none before all are gathered.
    pub(super) fn next_woken(&self, file: FileId) -> Option<u64> {
        if self.freed.contains_key(&file) {
            return None;
        }
        self.woken.range((file, 0)..=(file, u64::MAX)).next().map(|(_, id)| *id)
    }

    pub(super) fn any_woken(&self) -> bool {
        !self.freed.is_empty() || !self.woken.is_empty()
    }

    pub(super) fn any_woken_in(&self, file: FileId) -> bool {
        self.freed.contains_key(&file) || self.next_woken(file).is_some()
    }

    /// The next file that has a waiter to gather or to look at.
    pub(super) fn next_file(&mut self) -> Option<FileId> {
        let after = |file: FileId| {
            let freed = self.freed.range((Excluded(file), Unbounded)).next().map(|(file, _)| *file);
            let woken = self.woken.range((Excluded((file, u64::MAX)), Unbounded)).next().map(|(file, _)| *file);
            freed.into_iter().chain(woken).min()
        };
        let first = || {
            let woken = self.woken.first().map(|(file, _)| *file);
            self.freed.keys().next().copied().into_iter().chain(woken).min()
        };
        let file = after(self.turn).or_else(first)?;
        self.turn = file;
        Some(file)
    }

    /// The file's waiters may be asked for in the other lock domain again.
    pub(super) fn ask_again(&mut self, file: FileId) {
        for (_, id) in self.by_file.range((file, 0)..=(file, u64::MAX)) {
            if let Some(waiter) = self.by_id.get_mut(id) {
                waiter.refused = false;
            }
        }
    }

    // --- what they are offered

    /// It is offered its range, on which its owner had that.
    pub(super) fn offer(&mut self, id: u64, had: Vec<Segment>) {
        self.rest(id);
        let Some(waiter) = self.by_id.get_mut(&id) else { return };
        (waiter.offered, waiter.had) = (true, had);
        self.standing.add((waiter.want.file, waiter.want.lock.owner), waiter.want.lock.range, id);
    }

    /// Where its offer stands. Elsewhere its owner has got something else since, which an answer must not change.
    pub(super) fn stands(&self, id: u64) -> impl Iterator<Item = ByteRange> {
        let want = self.get(id).map(|waiter| waiter.want);
        let parts =
            want.into_iter().flat_map(|want| self.standing.parts_in((want.file, want.lock.owner), want.lock.range));
        parts.filter(move |(_, its)| *its == id).map(|(part, _)| part)
    }

    /// What overlaps the range of what the owner was offered and has not answered.
    pub(super) fn unanswered_in(
        &self,
        owner: OwnerId,
        file: FileId,
        range: ByteRange,
    ) -> impl Iterator<Item = ByteRange> {
        self.standing.parts_in((file, owner), range).map(|(part, _)| part)
    }

    /// What the owner was offered in the range it has no more, or has got anew.
    pub(super) fn offered_no_more(&mut self, owner: OwnerId, file: FileId, range: ByteRange) {
        let Self { standing, by_id, .. } = self;
        standing.end((file, owner), range, |id| by_id.get(&id).map(|waiter| waiter.want.lock.range));
    }

    /// The owner's in the file of whose offers nothing stands.
    pub(super) fn over(&self, owner: OwnerId, file: FileId) -> impl Iterator<Item = (u64, &Waiter)> {
        self.all(self.standing.over((file, owner)))
    }

    // --- who they are

    fn all(&self, ids: impl Iterator<Item = u64>) -> impl Iterator<Item = (u64, &Waiter)> {
        ids.filter_map(|id| Some((id, self.get(id)?)))
    }

    pub(super) fn of_owner(&self, owner: OwnerId) -> impl Iterator<Item = (u64, &Waiter)> {
        let ids = self.by_owner.range((owner, FileId::FIRST, 0)..=(owner, FileId::LAST, u64::MAX));
        self.all(ids.map(|(_, _, id)| *id))
    }

    pub(super) fn of_client(&self, client: ClientId) -> impl Iterator<Item = (u64, &Waiter)> {
        self.all(self.by_client.range((client, 0)..=(client, u64::MAX)).map(|(_, id)| *id))
    }

    pub(super) fn in_file(&self, file: FileId) -> impl Iterator<Item = (u64, &Waiter)> {
        self.all(self.by_file.range((file, 0)..=(file, u64::MAX)).map(|(_, id)| *id))
    }

    pub(super) fn has_any_in(&self, file: FileId) -> bool {
        self.by_file.range((file, 0)..=(file, u64::MAX)).next().is_some()
    }

    pub(super) fn of_owner_in(&self, owner: OwnerId, file: FileId) -> impl Iterator<Item = (u64, &Waiter)> {
        self.all(self.by_owner.range((owner, file, 0)..=(owner, file, u64::MAX)).map(|(_, _, id)| *id))
    }

    /// The first of the owner's in the file that the test accepts.
    pub(super) fn find(&self, owner: OwnerId, file: FileId, accept: impl Fn(&Waiter) -> bool) -> Option<u64> {
        self.of_owner_in(owner, file).find(|(_, waiter)| accept(waiter)).map(|(id, _)| id)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        self.by_id.iter().map(|(id, waiter)| (*id, waiter))
    }

    /// Whether any queue has a waiter.
    #[cfg(test)]
    pub(super) fn are_queued(&self) -> bool {
        let Self { by_id, by_client, by_owner, by_file, waiting, held_back, woken, freed, standing, .. } = self;
        let files = by_file.len() + held_back.len() + woken.len() + freed.len();
        by_id.len() + by_client.len() + by_owner.len() + waiting.len() + files > 0 || !standing.is_empty()
    }

    /// What must hold after every step. `in_the_way`: whether something is, at that byte.
    #[cfg(test)]
    pub(super) fn check(&self, in_the_way: impl Fn(&Want, u64) -> bool) {
        for (id, waiter) in self.iter() {
            let file = waiter.want.file;
            let woken = self.woken.contains(&(file, id));
            match waiter.at {
                _ if waiter.offered => assert!(waiter.at.is_none() && !woken, "{id} has its offer"),
                None => assert!(woken, "{id} is forgotten"),
                Some(byte) => {
                    assert!(!woken && self.waiting.contains(&(file, byte, id)), "{id} is lost");
                    let freed = self.freed.get(&file).is_some_and(|r| r.start <= byte && byte <= r.end);
                    assert!(freed || in_the_way(&waiter.want, byte), "nothing is in the way of {id} at {byte}");
                }
            }
        }
        let looked_for = self.iter().filter(|(_, waiter)| !waiter.offered).count();
        assert_eq!(looked_for, self.waiting.len() + self.woken.len(), "each is in one place");
    }
}
