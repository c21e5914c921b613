//! The clients of a run: those that are notified, and whose locks the run counts.
//!
//! The mark is one moment, however many clients there are. They are *entered* after it, in slices, and each as it was
//! at the mark: what its locks in scope are is counted before the first of them changes, and before the client's next
//! call. So whatever changes a client's segments enters it first ([`Run::enter`]); all that is counted of a client that
//! is not entered yet is as it was at the mark. A client that came later has nothing in scope and is not entered.
//!
//! A controller learns of the run, and can settle it, when all clients are entered.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::vec::IntoIter;

use super::api::ClientId;
use super::awaited::{Awaited, ByClient, held_in};
use super::clients::{Clients, address_list};
use super::held::{Held, Paths};
use super::run::Run;
use super::segment::FileId;
use super::table::LockTable;
use crate::units::count;
use crate::wire::control::{Begun, ClientRef, RunClient};

impl LockTable {
    /// What the run has in scope, and the clients that are to be entered. Costs a step for each client that the scope
    /// names, and for each lock on a file that it names.
    pub(super) fn take_scope(&self, run: &mut Run, may_drop: Vec<ClientRef>) {
        let in_files = run.covers.files.as_ref().map(|files| self.count_in_files(files));
        let named = run.covers.clients.as_ref();
        let listed: Option<Vec<ClientId>> = match &in_files {
            Some(counts) => Some(counts.keys().copied().filter(|id| named.is_none_or(|n| n.contains(id))).collect()),
            None => named.map(|named| named.iter().copied().collect()),
        };
        let held = match &listed {
            None => self.clients.held(),
            Some(listed) => {
                let held = listed.iter().filter_map(|id| held_in(&self.clients, in_files.as_ref(), *id));
                held.flat_map(Paths::iter).fold(Held::default(), |sum, (_, held)| sum.plus(held))
            }
        };
        let in_scope = run.covers.in_scope(&held);
        (run.counts.in_scope, run.counts.pending) = (in_scope, in_scope);
        run.unmonitored = held.locks as u64 - in_scope;
        let listed = listed.map(|mut listed| {
            listed.sort_unstable();
            listed.into_iter()
        });
        let (end, may_drop) = (self.clients.next_number(), may_drop.into_iter());
        run.awaited = Some(Awaited { end, listed, in_files, may_drop, ..Awaited::default() });
    }

    /// What each client holds on these files, by the server address that it called for it.
    fn count_in_files(&self, files: &HashSet<FileId>) -> ByClient {
        let mut counts = ByClient::new();
        for segment in files.iter().flat_map(|file| self.segments().of(*file)) {
            let Some(path) = self.server_address(segment.owner) else { continue };
            counts.entry(segment.client).or_default().recount(path, |held| {
                held.locks += 1;
                held.unmonitored += usize::from(!segment.monitored);
            });
        }
        counts
    }

    /// Enters some more clients into the run. Gives what has begun, once all of them are entered.
    pub fn enter_clients(&mut self, most: usize) -> Option<Begun> {
        let run = self.run.as_mut()?;
        if !run.enter_some(&self.clients, most) {
            return None;
        }
        let begun = run.begun();
        let Begun { run, in_scope, clients, new_state, .. } = begun;
        let (locks, clients) = (count(in_scope, "lock"), count(clients.into(), "client"));
        let words = format!("run {run} has begun with {locks} of {clients} pending, state {new_state}");
        self.announce("begin", words);
        Some(begun)
    }

    /// Nothing is counted as it was at the mark any more.
    pub(super) fn enter_all(&mut self) {
        if let Some(run) = &mut self.run {
            run.enter_some(&self.clients, usize::MAX);
        }
    }

    /// Something of the client is about to change, or it calls.
    pub(super) fn enter(&mut self, client: ClientId) {
        if let Some(run) = &mut self.run {
            run.enter(&self.clients, client);
        }
    }

    /// The clients to notify, as the mark fixed them; empty without a run.
    pub fn run_clients(&self) -> Arc<Vec<RunClient>> {
        self.run.as_ref().map(|run| run.clients.clone()).unwrap_or_default()
    }
}

impl Run {
    /// Enters the client as it was at the mark, if that is not done.
    pub(super) fn enter(&mut self, clients: &Clients, id: ClientId) {
        let Some(awaited) = &mut self.awaited else { return };
        if id.0 >= awaited.next && id.0 < awaited.end && awaited.looked_at.insert(id) {
            self.look_at(clients, id);
        }
    }

    /// True when all are entered.
    pub(super) fn enter_some(&mut self, clients: &Clients, most: usize) -> bool {
        if let Some(awaited) = &self.awaited {
            // Room for all of them at once: a list that grows is moved, and a long one takes long.
            let left = clients.len().saturating_sub(self.clients.len());
            self.make_room(awaited.listed.as_ref().map_or(left, IntoIter::len));
        }
        for _ in 0..most {
            let Some(awaited) = &mut self.awaited else { return true };
            let turn = match &mut awaited.listed {
                Some(listed) => listed.next(),
                None => clients.after(awaited.next).map(|(id, _)| id).next().filter(|id| id.0 < awaited.end),
            };
            if let Some(id) = turn {
                awaited.next = id.0 + 1;
                if !awaited.looked_at.remove(&id) {
                    self.look_at(clients, id);
                }
            } else if let Some(reference) = awaited.may_drop.next() {
                for id in clients.meant(&reference) {
                    self.may_drop(id);
                }
            } else {
                self.awaited = None;
            }
        }
        self.awaited.is_none()
    }

    fn look_at(&mut self, clients: &Clients, id: ClientId) {
        let in_files = self.awaited.as_ref().and_then(|awaited| awaited.in_files.as_ref());
        let is_named = self.covers.clients.as_ref().is_none_or(|named| named.contains(&id));
        let held = held_in(clients, in_files, id).filter(|_| is_named);
        let (Some(held), Some(client)) = (held, clients.get(id)) else { return };
        let in_scope = held.iter().map(|(path, held)| (*path, self.covers.in_scope(held)));
        let in_scope: Vec<(IpAddr, u64)> = in_scope.filter(|(_, locks)| *locks > 0).collect();
        let locks = in_scope.iter().map(|(_, locks)| locks).sum();
        // In a run over everything also clients with no lock known: the server may have lost it.
        if locks == 0 && !(client.monitored && in_files.is_none()) {
            return;
        }
        let row = RunClient {
            index: u32::try_from(self.clients.len()).unwrap_or(u32::MAX),
            name: client.name.clone(),
            addresses: address_list(&[client.address]),
            server_addresses: address_list(&client.server_addresses),
            nsm_state: client.nsm_state,
            locks,
            shared_address: clients.shares_address(client),
            suspect: client.reasons().next().is_some(),
        };
        self.add_client(id, client.address, row, in_scope);
    }
}
