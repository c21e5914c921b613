//! Freeing chosen locks, as the operator asks for it: all of them in one step, or none.
//!
//! What is chosen must be there exactly as it was seen, else its client is alive or another
//! plan is at work. Checking comes first and changes nothing; after it nothing can fail. Waiters are
//! served when all is free, so that none of them sees half of it.
//!
//! A released lock leaves as by its owner's UNLOCK: what was granted since the last run began is
//! remembered against other owners' late reclaims. Its own owner's reclaim is one of an unknown lock,
//! wherever those are taken: that it comes shows that the owner lives, and it is granted only if
//! no other owner had the range since.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::api::{ClientId, Effect, Process, Via};
use super::clients::Client;
use super::listing::Listed;
use super::owners::OwnerKey;
use super::run::How;
use super::segment::{FileId, OwnerId, Segment};
use super::table::LockTable;
use super::waiters::Waiter;
use crate::units::count;
use crate::wire::control::{
    ClientSeen, LockRow, LockState, OwnerRow, PAGE, Refusal, RefusalCode, ReleaseArgs, Released,
};
use crate::wire::types::{ByteRange, CallerName};
use crate::wire::xdr::List;

/// Most locks and waiters of the clients that are freed as a whole: the table serves no other call in
/// that step. A targeted run frees in slices what is more.
pub(super) const MAX_OF_CLIENTS: usize = 100_000;

/// A single lock to free, found in its file's list.
type Chosen = (FileId, Listed);

fn changed(what: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::StalePlan, what)
}

impl LockTable {
    /// Frees what is chosen. The instance is the caller's to compare.
    pub fn release(&mut self, args: &ReleaseArgs) -> Result<Released, Refusal> {
        if let Some(run) = &self.run {
            let words = format!("run {} is active: what is stale is dropped or kept at its end", run.id);
            return Err(Refusal::new(RefusalCode::RunActive, words));
        }
        if self.recovery_until.is_some() {
            let words = "the recovery grace is not over: what is held was reclaimed a moment ago";
            return Err(Refusal::new(RefusalCode::GraceActive, words));
        }
        self.refuse_too_many(args.clients.as_slice())?;
        self.purge_for(args);
        let clients = args.clients.as_slice().iter().map(|seen| self.seen(seen)).collect::<Result<Vec<_>, _>>()?;
        let whole: HashSet<ClientId> = clients.iter().map(|(id, _)| *id).collect();
        let locks = self.chosen(args.locks.as_slice(), &whole)?;

        let mut rows: Vec<LockRow> = clients.into_iter().flat_map(|(_, rows)| rows).collect();
        rows.extend_from_slice(args.locks.as_slice());
        let waiters = rows.iter().filter(|row| row.state == LockState::Waiting).count() as u64;
        let released = Released {
            locks: rows.len() as u64 - waiters,
            waiters,
            offered: self.release_now(&whole, &locks),
            left: 0,
            left_rows: List::default(),
            rows: List::clipped({
                rows.truncate(PAGE);
                rows
            }),
        };
        let names: BTreeSet<&CallerName> = released.rows.as_slice().iter().map(|row| &row.owner.name).collect();
        let names: Vec<&str> = names.into_iter().take(5).map(CallerName::as_str).collect();
        let words = format!(
            "released on request: {} and {} ({})",
            count(released.locks, "lock"),
            count(released.waiters, "blocked request"),
            names.join(", ")
        );
        self.announce("release", words);
        Ok(released)
    }

    fn refuse_too_many(&self, clients: &[ClientSeen]) -> Result<(), Refusal> {
        let ids = clients.iter().filter_map(|seen| self.find(seen.address.0, &seen.name));
        let all: usize = ids.filter_map(|id| self.clients.get(id)).map(|c| c.held().locks + c.held().waiters).sum();
        if all <= MAX_OF_CLIENTS {
            return Ok(());
        }
        let words = format!(
            "{all} locks and blocked requests are more than the {MAX_OF_CLIENTS} that are released at once; name fewer \
             clients, or let a targeted run drop them (`nlmctl resync --client`)"
        );
        Err(Refusal::new(RefusalCode::BadRequest, words))
    }

    /// What the last run dropped in these files is gone before anything is looked at.
    fn purge_for(&mut self, args: &ReleaseArgs) {
        let named = args.clients.as_slice().iter().filter_map(|seen| self.find(seen.address.0, &seen.name));
        let mut files: BTreeSet<FileId> = named.flat_map(|client| self.files_of(client)).collect();
        files.extend(args.locks.as_slice().iter().filter_map(|row| self.segments().find(&row.file)));
        for file in files {
            self.purge(file);
        }
    }

    /// The client and its rows, if they are what was seen.
    fn seen(&self, seen: &ClientSeen) -> Result<(ClientId, Vec<LockRow>), Refusal> {
        let who = format!("{} at {}", seen.name, seen.address);
        let Some(id) = self.find(seen.address.0, &seen.name) else {
            return Err(changed(format!("there is no client {who} any more")));
        };
        let rows = self.rows_of_client(id);
        let now = ClientSeen::new(seen.name.clone(), seen.address, &rows);
        if now == *seen {
            return Ok((id, rows));
        }
        let words = if (now.locks, now.waiters) == (seen.locks, seen.waiters) {
            format!("the locks of {who} are not those that were seen")
        } else {
            format!(
                "{who} had {} and {} when it was looked at, and has {} and {} now",
                count(seen.locks, "lock"),
                count(seen.waiters, "blocked request"),
                now.locks,
                now.waiters
            )
        };
        Err(changed(words))
    }

    /// All that the client has, as it is listed.
    fn rows_of_client(&self, client: ClientId) -> Vec<LockRow> {
        let files = self.files_of(client).into_iter();
        let listed = files.flat_map(|file| self.listed(file).map(move |lock| (file, lock)));
        let listed = listed.filter(|(_, lock)| lock.client == client);
        listed.filter_map(|(file, lock)| self.lock_row(file, &lock)).collect()
    }

    /// The files in which the client holds something or waits.
    fn files_of(&self, client: ClientId) -> BTreeSet<FileId> {
        let held = self.clients.get(client).into_iter().flat_map(Client::files);
        let waited = self.waiters.of_client(client).map(|(_, w)| w.want.file);
        held.chain(waited).collect()
    }

    /// Single locks, each as it stands in the table. A file is looked through once.
    fn chosen(&self, rows: &[LockRow], whole: &HashSet<ClientId>) -> Result<Vec<Chosen>, Refusal> {
        let mut listed: HashMap<FileId, HashSet<Listed>> = HashMap::new();
        let mut chosen = Vec::with_capacity(rows.len());
        for row in rows {
            let gone = || changed(format!("{} is not listed like that any more", describe(row)));
            let file = self.segments().find(&row.file).ok_or_else(gone)?;
            let (client, owner) = self.owner_of(&row.owner).ok_or_else(gone)?;
            if whole.contains(&client) {
                let words = format!("{} is chosen twice: by itself and with all of its client", describe(row));
                return Err(Refusal::new(RefusalCode::BadRequest, words));
            }
            let LockRow { kind, range, state, monitored, .. } = *row;
            let lock = Listed { client, owner, kind, range, state, monitored };
            // What is taken out cannot be chosen a second time.
            if !listed.entry(file).or_insert_with(|| self.listed(file).collect()).remove(&lock) {
                return Err(gone());
            }
            chosen.push((file, lock));
        }
        Ok(chosen)
    }

    /// The owner of a row, if anything refers to it.
    pub(super) fn owner_of(&self, row: &OwnerRow) -> Option<(ClientId, OwnerId)> {
        let client = self.find(row.address.0, &row.name)?;
        let via = Via { server_address: row.server_address.0, transport: row.transport, version: row.version };
        let process = Process { svid: row.svid, oh: row.oh.clone() };
        Some((client, self.owners.find(&OwnerKey { client, process, via })?))
    }

    /// Gives how many blocked requests were served.
    fn release_now(&mut self, whole: &HashSet<ClientId>, locks: &[Chosen]) -> u64 {
        let mut files: BTreeSet<FileId> = locks.iter().map(|(file, _)| *file).collect();
        for client in whole {
            files.extend(self.take_all_of(*client));
        }
        for (file, lock) in locks {
            self.take(*file, lock);
        }
        let before = self.effects.len();
        for file in files {
            while self.waiters.any_woken_in(file) {
                self.wake(file);
            }
            self.close(file);
        }
        self.effects.iter().skip(before).filter(|effect| matches!(effect, Effect::Offer { .. })).count() as u64
    }

    /// Gives the files in which it was.
    fn take_all_of(&mut self, client: ClientId) -> BTreeSet<FileId> {
        let files = self.files_of(client);
        self.drop_waiters_of(client, usize::MAX, |_| true);
        for file in &files {
            self.cut(*file, ByteRange::ALL, How::Released, |s| s.client == client);
        }
        // They were about locks that it does not have any more.
        if let Some(client) = self.clients.get_mut(client) {
            client.suspicions.clear();
        }
        files
    }

    fn take(&mut self, file: FileId, lock: &Listed) {
        let Listed { owner, kind, range, state, .. } = *lock;
        self.owners.acquire(owner);
        if state == LockState::Waiting {
            let waits = |w: &Waiter| !w.offered && w.want.lock.range == range && w.want.lock.kind.row() == kind;
            if let Some(id) = self.waiters.find(owner, file, waits) {
                self.remove_waiter(id);
            }
        } else {
            // What else was offered with it stays: only the client knows whether it has it.
            let offered = |w: &Waiter| w.offered && w.want.lock.range.overlaps(range);
            while let Some(id) = self.waiters.find(owner, file, offered) {
                self.leave_with(id);
            }
            self.cut_owned((file, owner), range, How::Released, |s: &Segment| s.kind.row() == kind);
        }
        self.owners.release(owner);
    }
}

fn describe(row: &LockRow) -> String {
    format!(
        "the {} lock {} of file {} ({}, process {}, {})",
        row.kind, row.range, row.file, row.owner.name, row.owner.svid, row.state
    )
}
