//! Freeing chosen locks, as the operator asks for it: all of them in one step, or none.
//!
//! What is chosen must be there exactly as it was seen, else its client is alive or somebody else's
//! plan is at work. Checking comes first and changes nothing; after it nothing can fail. Who waits
//! is served when all is free, so that no waiter sees half of it.
//!
//! A released lock leaves as by its owner's UNLOCK: what was granted since the last run began is
//! remembered against other owners' late reclaims. Its own owner's reclaim is one of an unknown lock,
//! wherever those are taken: that it comes shows that the owner lives, and it is granted only if
//! nobody had the range since.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::files::FileId;
use super::owners::{OwnerId, OwnerKey};
use super::run::How;
use super::{ClientId, Effect, LockTable, Process, Via};
use crate::wire::control::{
    ClientSeen, LockKind, LockRow, LockState, OwnerRow, PAGE, Refusal, RefusalCode, ReleaseArgs, Released,
};
use crate::wire::types::{ByteRange, CallerName};
use crate::wire::xdr::List;

/// Most locks and waiters of the clients that are freed as a whole: the table serves nobody else in
/// that step. Who has more is for a targeted run, which frees in slices.
pub(super) const MAX_OF_CLIENTS: usize = 100_000;

/// A row of the file's list, as the table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Found {
    owner: OwnerId,
    kind: LockKind,
    range: ByteRange,
    state: LockState,
    monitored: bool,
}

/// A single lock to free, found.
#[derive(Debug)]
struct Chosen {
    file: FileId,
    found: Found,
}

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
            "{} locks and {} blocked requests were released by a controller ({})",
            released.locks,
            released.waiters,
            names.join(", ")
        );
        self.effects.push(Effect::Event("release", words));
        self.effects.push(Effect::Changed);
        Ok(released)
    }

    fn refuse_too_many(&self, clients: &[ClientSeen]) -> Result<(), Refusal> {
        let ids = clients.iter().filter_map(|seen| self.find(seen.address.0, &seen.name));
        let all: usize = ids.filter_map(|id| self.clients.get(id)).map(|c| c.locks + c.waiters).sum();
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
        files.extend(args.locks.as_slice().iter().filter_map(|row| self.files.find(&row.file)));
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
                "{who} had {} locks and {} blocked requests when it was looked at, and has {} and {} now",
                seen.locks, seen.waiters, now.locks, now.waiters
            )
        };
        Err(changed(words))
    }

    /// All that the client has, as it is listed.
    fn rows_of_client(&self, client: ClientId) -> Vec<LockRow> {
        self.files_of(client)
            .into_iter()
            .filter_map(|id| Some((id, self.files.get(id)?)))
            .flat_map(|(id, file)| self.rows_of(id, file))
            .filter(|(whose, _)| *whose == client)
            .filter_map(|(_, row)| row)
            .collect()
    }

    /// The files in which the client holds something or waits.
    fn files_of(&self, client: ClientId) -> BTreeSet<FileId> {
        let held = self.clients.get(client).into_iter().flat_map(|c| c.files.keys().copied());
        let waited = self.waiters.values().filter(|w| w.want.caller.client == client).map(|w| w.want.file);
        held.chain(waited).collect()
    }

    /// Single locks, each as it stands in the table. A file is looked through once.
    fn chosen(&self, rows: &[LockRow], whole: &HashSet<ClientId>) -> Result<Vec<Chosen>, Refusal> {
        let mut listed: HashMap<FileId, HashSet<Found>> = HashMap::new();
        let mut chosen = Vec::with_capacity(rows.len());
        for row in rows {
            let gone = || changed(format!("{} is not listed like that any more", describe(row)));
            let file = self.files.find(&row.file).ok_or_else(gone)?;
            let owner = self.owner_of(&row.owner).ok_or_else(gone)?;
            if self.owners.key(owner).is_some_and(|key| whole.contains(&key.client)) {
                let words = format!("{} is chosen twice: by itself and with all of its client", describe(row));
                return Err(Refusal::new(RefusalCode::BadRequest, words));
            }
            let found = Found { owner, kind: row.kind, range: row.range, state: row.state, monitored: row.monitored };
            // What is taken out cannot be chosen a second time.
            if !listed.entry(file).or_insert_with(|| self.found_in(file)).remove(&found) {
                return Err(gone());
            }
            chosen.push(Chosen { file, found });
        }
        Ok(chosen)
    }

    fn found_in(&self, id: FileId) -> HashSet<Found> {
        let Some(file) = self.files.get(id) else { return HashSet::new() };
        let held = file.segments.iter().filter(|s| !self.is_void(id, s)).map(|s| Found {
            owner: s.owner,
            kind: s.kind.row(),
            range: s.range,
            state: if s.offered { LockState::Offered } else { LockState::Held },
            monitored: s.monitored,
        });
        let waiting = file.waiters.iter().filter_map(|id| self.waiters.get(id)).filter(|w| !w.offered);
        let waiting = waiting.map(|w| Found {
            owner: w.want.owner,
            kind: w.want.kind.row(),
            range: w.want.range,
            state: LockState::Waiting,
            monitored: w.want.monitored,
        });
        held.chain(waiting).collect()
    }

    /// The owner of a row, if anything refers to it.
    fn owner_of(&self, row: &OwnerRow) -> Option<OwnerId> {
        let client = self.find(row.address.0, &row.name)?;
        let via = Via { server_address: row.server_address.0, transport: row.transport, version: row.version };
        self.owners.find(&OwnerKey { client, via, process: Process { svid: row.svid, oh: row.oh.clone() } })
    }

    /// The one step. Gives how many blocked requests were served.
    fn release_now(&mut self, whole: &HashSet<ClientId>, locks: &[Chosen]) -> u64 {
        let mut files: BTreeSet<FileId> = locks.iter().map(|chosen| chosen.file).collect();
        for client in whole {
            files.extend(self.files_of(*client));
        }
        for client in whole {
            self.take_all_of(*client);
        }
        for chosen in locks {
            self.take(chosen);
        }
        let before = self.effects.len();
        for file in files {
            self.wake(file);
            self.files.close(file);
        }
        let woken = self.effects.get(before..).unwrap_or_default();
        woken.iter().filter(|effect| matches!(effect, Effect::Offer { .. })).count() as u64
    }

    fn take_all_of(&mut self, client: ClientId) {
        let files = self.files_of(client);
        let waiters = self.waiters.iter().filter(|(_, w)| w.want.caller.client == client).map(|(id, _)| *id);
        for id in waiters.collect::<Vec<_>>() {
            self.remove_waiter(id);
        }
        for file in files {
            self.cut(file, ByteRange::ALL, How::Released, |s| s.client == client);
        }
        // They were about locks that it does not have any more.
        if let Some(client) = self.clients.get_mut(client) {
            client.suspicions.clear();
        }
    }

    fn take(&mut self, chosen: &Chosen) {
        let Found { owner, kind, range, state, .. } = chosen.found;
        self.owners.acquire(owner);
        match state {
            LockState::Waiting => {
                let waits =
                    |w: &super::waiters::Waiter| !w.offered && w.want.range == range && w.want.kind.row() == kind;
                if let Some(id) = self.queued(owner, chosen.file, waits) {
                    self.remove_waiter(id);
                }
            }
            LockState::Held | LockState::Pending | LockState::Offered => {
                // What else was offered with it stays: nobody can tell whether the client has it.
                let offered = |w: &super::waiters::Waiter| w.offered && w.want.range.overlaps(range);
                while let Some(id) = self.queued(owner, chosen.file, offered) {
                    self.leave_with(id);
                }
                let exactly = |s: &super::files::Segment| s.owner == owner && s.kind.row() == kind;
                self.cut(chosen.file, range, How::Released, exactly);
            }
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
