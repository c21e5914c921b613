//! Blocked requests: the queues in which they stand.

use std::collections::{BTreeMap, BTreeSet};

use super::api::{Caller, ClientId};
use super::index::Index;
use super::segment::{FileId, OwnerId, Segment, Want};
use crate::wire::types::Cookie;

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) want: Want,
    pub(super) cookie: Cookie,
    /// It holds the range and has not confirmed that it knows.
    pub(super) offered: bool,
    /// What its owner had in the range before the offer.
    pub(super) had: Vec<Segment>,
    /// Another lock domain had the range when it was last asked.
    pub(super) refused: bool,
}

/// The waiters, numbered in the order they came.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_id: BTreeMap<u64, Waiter>,
    by_owner: Index<OwnerId, u64>,
    by_file: Index<FileId, u64>,
    last: u64,
}

impl Waiters {
    pub(super) fn add(&mut self, waiter: Waiter) -> u64 {
        self.last += 1;
        self.by_owner.add(waiter.want.lock.owner, self.last);
        self.by_file.add(waiter.want.file, self.last);
        self.by_id.insert(self.last, waiter);
        self.last
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.by_id.remove(&id)?;
        self.by_owner.remove(&waiter.want.lock.owner, &id);
        self.by_file.remove(&waiter.want.file, &id);
        Some(waiter)
    }

    /// It is another owner's from now on, and keeps its place.
    pub(super) fn give_to(&mut self, id: u64, caller: Caller, owner: OwnerId) {
        let Some(waiter) = self.by_id.get_mut(&id) else { return };
        self.by_owner.remove(&waiter.want.lock.owner, &id);
        self.by_owner.add(owner, id);
        waiter.want.caller = caller;
        (waiter.want.lock.owner, waiter.want.lock.client) = (owner, caller.client);
    }

    pub(super) fn get(&self, id: u64) -> Option<&Waiter> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Waiter> {
        self.by_id.get_mut(&id)
    }

    /// The file's waiters may be asked for in the other lock domain again.
    pub(super) fn ask_again(&mut self, file: FileId) {
        for id in self.by_file.get(&file) {
            if let Some(waiter) = self.by_id.get_mut(id) {
                waiter.refused = false;
            }
        }
    }

    fn all<'a>(&'a self, ids: &'a [u64]) -> impl Iterator<Item = (u64, &'a Waiter)> {
        ids.iter().filter_map(|id| Some((*id, self.get(*id)?)))
    }

    pub(super) fn of_owner(&self, owner: OwnerId) -> impl Iterator<Item = (u64, &Waiter)> {
        self.all(self.by_owner.get(&owner))
    }

    pub(super) fn in_file(&self, file: FileId) -> impl Iterator<Item = (u64, &Waiter)> {
        self.all(self.by_file.get(&file))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        self.by_id.iter().map(|(id, waiter)| (*id, waiter))
    }

    pub(super) fn of_client(&self, client: ClientId) -> impl Iterator<Item = (u64, &Waiter)> {
        self.iter().filter(move |(_, waiter)| waiter.want.caller.client == client)
    }

    /// The first of the owner's in the file that the test accepts.
    pub(super) fn find(&self, owner: OwnerId, file: FileId, accept: impl Fn(&Waiter) -> bool) -> Option<u64> {
        self.of_owner(owner).find(|(_, waiter)| waiter.want.file == file && accept(waiter)).map(|(id, _)| id)
    }

    /// Files that are waited for, in the order of their numbers.
    pub(super) fn files(&self) -> BTreeSet<FileId> {
        self.by_file.keys().copied().collect()
    }

    /// Whether any queue has a waiter.
    #[cfg(test)]
    pub(super) fn are_queued(&self) -> bool {
        self.by_owner.keys().next().is_some() || self.by_file.keys().next().is_some() || !self.by_id.is_empty()
    }
}
