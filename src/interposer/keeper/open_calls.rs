//! Calls that passed to lockd, until lockd's reply passes.
//!
//! The filter tells of a call before lockd has looked at it, so any host can have calls here, and lockd may leave them
//! without a reply. Each address has a share of the room: one that opens more calls than that spoils its own account only. And those
//! without a lock here leave half of the room to those that have some, however many they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use crate::interposer::messages::Call;

/// Most calls of all.
const ALL: usize = 100_000;
/// Most calls of addresses without a lock.
const WITHOUT_LOCK: usize = ALL / 2;
/// Most calls of one address. lockd is one thread and answers at once; a client has more only where replies are lost.
pub(super) const OF_ONE: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct OpenCalls {
    calls: BTreeMap<u64, Call>,
    by_client: HashMap<IpAddr, OpenOfOne>,
    /// Those of addresses without a lock.
    without_lock: usize,
}

#[derive(Debug)]
struct OpenOfOne {
    calls: BTreeSet<u64>,
    /// Whether it had a lock when the first of them came.
    has_lock: bool,
}

impl OpenCalls {
    /// `has_lock`: its client has one. False: there is no room for it.
    pub(super) fn add(&mut self, call: Call, has_lock: bool) -> bool {
        let client = call.way.client.0;
        let is_full = self.calls.len() >= ALL || (!has_lock && self.without_lock >= WITHOUT_LOCK);
        if is_full || self.by_client.get(&client).is_some_and(|open| open.calls.len() >= OF_ONE) {
            return false;
        }
        let open = self.by_client.entry(client).or_insert_with(|| OpenOfOne { calls: BTreeSet::new(), has_lock });
        self.without_lock += usize::from(!open.has_lock);
        open.calls.insert(call.number);
        self.calls.insert(call.number, call);
        true
    }

    /// The call that this reply answers. lockd is one thread: of a call that was sent again it has dropped, or done, all
    /// that came before.
    pub(super) fn answered(&mut self, number: u64) -> Option<Call> {
        let call = self.remove(number)?;
        let is_same = |open: &&Call| open.number < number && open.way == call.way && open.request == call.request;
        let before: Vec<u64> = self.of(call.way.client.0).filter(is_same).map(|open| open.number).collect();
        for number in before {
            self.remove(number);
        }
        Some(call)
    }

    fn remove(&mut self, number: u64) -> Option<Call> {
        let call = self.calls.remove(&number)?;
        let client = call.way.client.0;
        if let Some(open) = self.by_client.get_mut(&client) {
            open.calls.remove(&number);
            self.without_lock -= usize::from(!open.has_lock);
            if open.calls.is_empty() {
                self.by_client.remove(&client);
            }
        }
        Some(call)
    }

    /// Those of one address.
    pub(super) fn of(&self, client: IpAddr) -> impl Iterator<Item = &Call> {
        let open = self.by_client.get(&client).into_iter().flat_map(|open| &open.calls);
        open.filter_map(|number| self.calls.get(number))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Call> {
        self.calls.values()
    }

    /// The addresses that have any.
    pub(super) fn clients(&self) -> impl Iterator<Item = IpAddr> {
        self.by_client.keys().copied()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
