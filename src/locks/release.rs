//! Freeing chosen locks, as the operator asks for it: all of them at one instant, or none.
//!
//! The chosen locks must be there exactly as they were seen; otherwise their client is alive or another
//! plan is being carried out.
//! 1. [`release_look`](LockTable::release_look) gathers, in slices, all that the chosen clients have.
//! 2. [`Release::compare`] compares it with what was seen. That takes long, and is done where no request waits for it.
//! 3. [`release_now`](LockTable::release_now) is the instant, if none of the clients has changed since it was looked at.
//!    What they have protects nothing from here on, though it still stands in its files: [`Void`] describes it, as after
//!    a settle. Single locks are taken out at once.
//! 4. [`settle_sweep`](LockTable::settle_sweep) purges the files. Who waited is served file by file, so that
//!    none of them sees half of it; [`released`](LockTable::released) tells how many got something.
//!
//! A released lock leaves as by its owner's UNLOCK: what was granted since the last run began is
//! remembered against other owners' late reclaims. Its own owner's reclaim is one of an unknown lock,
//! wherever those are taken: that it comes shows that the owner lives, and it is granted only if
//! no other owner had the range since.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use super::api::{ClientId, Process, Via};
use super::clients::Client;
use super::covers::{Covers, Void};
use super::file::{self, Place};
use super::listing::{Entry, Listed};
use super::releasing::Releasing;
use super::run::How;
use super::segment::{FileId, OwnerId, Segment};
use super::table::{LockTable, STEP};
use super::waiters::Waiter;
use crate::units::count;
use crate::wire::control::{
    ClientSeen, LockRow, LockState, OwnerRow, PAGE, Refusal, RefusalCode, ReleaseArgs, Released,
};
use crate::wire::types::CallerName;
use crate::wire::xdr::List;

/// Most locks and waiters of the clients that are freed as a whole: their rows are in memory to be compared. A targeted
/// run has no such bound.
pub(super) const MAX_OF_CLIENTS: usize = 100_000;
/// Most locks and files that one step looks at.
const LOOKED_AT: usize = 1_024;

/// A single lock to free, found in its file.
type Chosen = (FileId, Listed);

fn changed(what: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::StalePlan, what)
}

/// A release that gathers what its clients have.
#[derive(Debug)]
pub struct Release {
    args: ReleaseArgs,
    clients: Vec<Looked>,
}

/// A chosen client, as far as it was looked at.
#[derive(Debug)]
struct Looked {
    client: ClientId,
    /// How often it had changed when it was first looked at.
    changes: u64,
    rows: Vec<LockRow>,
    files: BTreeSet<FileId>,
    /// The file to be looked at next, and what was looked at there. `None`: all is looked at.
    next: Option<(FileId, Option<Place>)>,
}

/// A release whose clients have what was seen of them.
#[derive(Debug)]
pub struct ComparedRelease {
    args: ReleaseArgs,
    /// The clients, and how often each had changed.
    clients: Vec<(ClientId, u64)>,
    /// Those in which they have something: to be swept, and to be served. A copy of many takes long.
    files: [BTreeSet<FileId>; 2],
    /// Of the clients, the first rows.
    rows: Vec<LockRow>,
    locks: u64,
    waiters: u64,
}

impl Release {
    /// One that has looked at nothing. The instance is the caller's to compare.
    pub fn new(args: ReleaseArgs) -> Self {
        Self { args, clients: Vec::new() }
    }

    /// Whether the clients have what was seen of them.
    pub fn compare(self) -> Result<ComparedRelease, Refusal> {
        let mut compared = ComparedRelease {
            clients: self.clients.iter().map(|looked| (looked.client, looked.changes)).collect(),
            args: self.args,
            files: Default::default(),
            rows: Vec::new(),
            locks: 0,
            waiters: 0,
        };
        for (seen, looked) in compared.args.clients.as_slice().iter().zip(self.clients) {
            let now = ClientSeen::new(seen.name.clone(), seen.address, &looked.rows);
            if now != *seen {
                return Err(differs(seen, &now));
            }
            compared.locks += now.locks;
            compared.waiters += now.waiters;
            compared.files.iter_mut().for_each(|files| files.extend(&looked.files));
            let room = PAGE - compared.rows.len();
            compared.rows.extend(looked.rows.into_iter().take(room));
        }
        Ok(compared)
    }
}

fn differs(seen: &ClientSeen, now: &ClientSeen) -> Refusal {
    let who = format!("{} at {}", seen.name, seen.address);
    if (now.locks, now.waiters) == (seen.locks, seen.waiters) {
        return changed(format!("the locks of {who} are not those that were seen"));
    }
    changed(format!(
        "{who} had {} and {} when it was looked at, and has {} and {} now",
        count(seen.locks, "lock"),
        count(seen.waiters, "blocked request"),
        now.locks,
        now.waiters
    ))
}

impl LockTable {
    /// Gathers some more of what the chosen clients have, unless something is still to be swept; true when all is gathered.
    pub fn release_look(&mut self, release: &mut Release) -> Result<bool, Refusal> {
        self.may_release()?;
        // What was dropped or released before is not there to be released.
        if self.has_more_to_sweep() {
            return Ok(false);
        }
        let all = release.args.clients.as_slice();
        if release.clients.is_empty() {
            self.refuse_too_many(all)?;
        }
        let mut left = LOOKED_AT;
        while left > 0 {
            left -= 1;
            if let Some(looked) = release.clients.last_mut().filter(|looked| looked.next.is_some()) {
                self.look_at(looked, &mut left)?;
                continue;
            }
            let Some(seen) = all.get(release.clients.len()) else { return Ok(true) };
            let looked = self.begin_to_look_at(seen, &release.clients)?;
            release.clients.push(looked);
        }
        Ok(false)
    }

    fn may_release(&self) -> Result<(), Refusal> {
        if let Some(run) = &self.run {
            let words = format!("run {} is active: its end drops or keeps stale locks", run.id);
            return Err(Refusal::new(RefusalCode::RunActive, words));
        }
        if self.recovery_until.is_some() {
            let words = "the recovery grace is not over: held locks were reclaimed a moment ago";
            return Err(Refusal::new(RefusalCode::GraceActive, words));
        }
        Ok(())
    }

    fn begin_to_look_at(&self, seen: &ClientSeen, before: &[Looked]) -> Result<Looked, Refusal> {
        let found = self.find(seen.address.0, &seen.name).and_then(|id| Some((id, self.clients.get(id)?)));
        let Some((id, client)) = found else {
            return Err(changed(format!("there is no longer a client {} at {}", seen.name, seen.address)));
        };
        if before.iter().any(|other| other.client == id) {
            let words = format!("{} at {} is chosen twice", seen.name, seen.address);
            return Err(Refusal::new(RefusalCode::BadRequest, words));
        }
        let waiters = self.waiters.of_client(id).filter(|(_, waiter)| !waiter.offered).count();
        let now = ClientSeen { locks: client.held().locks as u64, waiters: waiters as u64, ..seen.clone() };
        if now != *seen {
            return Err(differs(seen, &now));
        }
        Ok(Looked {
            client: id,
            changes: client.changes(),
            // A list that grows is moved, and a long one takes long.
            rows: Vec::with_capacity(client.held().locks + waiters),
            files: BTreeSet::new(),
            next: Some((FileId::FIRST, None)),
        })
    }

    /// Looks at some of what the client has on the next file. As long as the client does not change, that stays as it is,
    /// in its order.
    fn look_at(&self, looked: &mut Looked, left: &mut usize) -> Result<(), Refusal> {
        let client = self.unchanged(looked.client, looked.changes)?;
        let next = looked.next.and_then(|(file, after)| {
            let found = client.file_from(file)?;
            Some((found, after.filter(|_| found == file)))
        });
        let Some((file, after)) = next else {
            looked.next = None;
            return Ok(());
        };
        looked.files.insert(file);
        let row = |entry| self.lock_row(file, &self.as_listed(file, entry)?);
        let mut last = None;
        for segment in self.segments().after(file, after) {
            if *left == 0 && last.is_some() {
                looked.next = Some((file, last));
                return Ok(());
            }
            *left = left.saturating_sub(1);
            last = Some(file::place(segment));
            if segment.client == looked.client {
                looked.rows.extend(row(Entry::Lock(segment)));
            }
        }
        for (_, waiter) in self.waiters.in_file(file) {
            *left = left.saturating_sub(1);
            if waiter.want.caller.client == looked.client {
                looked.rows.extend(row(Entry::Waiter(waiter)));
            }
        }
        looked.next = Some((file.next(), None));
        Ok(())
    }

    /// The client, if it has not changed since.
    fn unchanged(&self, client: ClientId, changes: u64) -> Result<&Client, Refusal> {
        match self.clients.get(client) {
            Some(client) if client.changes() == changes => Ok(client),
            Some(client) => Err(changed(format!(
                "{} at {} took or gave back something while it was looked at",
                client.name, client.address
            ))),
            None => Err(changed("a chosen client is no longer there")),
        }
    }

    /// The instant: what is chosen is free. Gives what that is, without who got it, and the number of this release; or the
    /// release, to be tried again when all of what was dropped before is swept.
    pub fn release_now(
        &mut self,
        release: ComparedRelease,
    ) -> Result<ControlFlow<(Released, u64), ComparedRelease>, Refusal> {
        self.may_release()?;
        if self.has_more_to_sweep() {
            return Ok(ControlFlow::Continue(release));
        }
        for (client, changes) in &release.clients {
            self.unchanged(*client, *changes)?;
        }
        let whole: HashSet<ClientId> = release.clients.iter().map(|(id, _)| *id).collect();
        let single = release.args.locks.as_slice();
        let locks = self.chosen(single, &whole)?;

        let waiting = single.iter().filter(|row| row.state == LockState::Waiting).count();
        let room = PAGE - release.rows.len();
        let rows: Vec<LockRow> = release.rows.iter().chain(single.iter().take(room)).cloned().collect();
        let names: BTreeSet<&CallerName> = rows.iter().map(|row| &row.owner.name).collect();
        let names: Vec<&str> = names.into_iter().take(5).map(CallerName::as_str).collect();
        let released = Released {
            locks: release.locks + (single.len() - waiting) as u64,
            waiters: release.waiters + waiting as u64,
            ..Released::default()
        };
        let words = format!(
            "released on request: {} and {} ({})",
            count(released.locks, "lock"),
            count(released.waiters, "blocked request"),
            names.join(", ")
        );
        let [swept, mut served] = release.files;
        served.extend(locks.iter().map(|(file, _)| *file));
        let number = self.releasing.as_ref().map_or(0, Releasing::number) + 1;
        self.releasing = Some(Releasing::new(number, served));
        self.void_all_of(&whole, swept);
        for (file, lock) in &locks {
            self.take(*file, lock);
        }
        for (file, _) in locks {
            self.refresh(file);
        }
        self.announce("release", words);
        Ok(ControlFlow::Break((Released { rows: List::clipped(rows), ..released }, number)))
    }

    /// How many blocked requests got what this release freed, as far as is known: another release may have come since.
    /// `None`: not all of it is swept and looked at.
    pub fn released(&mut self, number: u64) -> Option<u64> {
        // While a run is on, who waits may have to wait for its end. This does not.
        let is_over = self.run.is_some();
        let waiters = &self.waiters;
        let Some(releasing) = self.releasing.as_mut().filter(|it| it.number() == number) else { return Some(0) };
        let swept = is_over || (self.void.is_none() && releasing.is_over(STEP, |file| waiters.any_woken_in(file)));
        swept.then(|| releasing.offered())
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

    /// Single locks, each as it stands in the table. Shares of one owner can have equal rows, as access and mode are
    /// not in them: those are chosen together, so that no more is freed than was seen.
    fn chosen(&self, rows: &[LockRow], whole: &HashSet<ClientId>) -> Result<Vec<Chosen>, Refusal> {
        let mut chosen = Vec::with_capacity(rows.len());
        let mut times: HashMap<Chosen, usize> = HashMap::with_capacity(rows.len());
        let gone = |row| changed(format!("{} is no longer listed like that", describe(row)));
        for row in rows {
            let file = self.segments().find(&row.file).ok_or_else(|| gone(row))?;
            let (client, owner) = self.owner_of(&row.owner).ok_or_else(|| gone(row))?;
            if whole.contains(&client) {
                let words = format!("{} is chosen twice: by itself and with all of its client", describe(row));
                return Err(Refusal::new(RefusalCode::BadRequest, words));
            }
            let LockRow { kind, range, state, monitored, .. } = *row;
            let lock = Listed { client, owner, kind, range, state, monitored };
            let times = times.entry((file, lock)).or_default();
            *times += 1;
            if *times == 1 {
                chosen.push(((file, lock), row));
            }
        }
        if let Some((_, row)) = chosen.iter().find(|(it, _)| times.get(it) != Some(&self.times_listed(it.0, &it.1))) {
            return Err(gone(row));
        }
        Ok(chosen.into_iter().map(|(it, _)| it).collect())
    }

    /// The owner of a row, if anything refers to it.
    pub(super) fn owner_of(&self, row: &OwnerRow) -> Option<(ClientId, OwnerId)> {
        let client = self.find(row.address.0, &row.name)?;
        let via = Via { server_address: row.server_address.0, transport: row.transport, version: row.version };
        let process = Process { svid: row.svid, oh: row.oh.clone() };
        Some((client, self.owners.find(client, via, &process)?))
    }

    /// What the clients have protects nothing any more, and they wait for nothing.
    fn void_all_of(&mut self, clients: &HashSet<ClientId>, files: BTreeSet<FileId>) {
        if clients.is_empty() {
            return;
        }
        self.epoch += 1;
        self.void = Some(Void {
            covers: Covers { epoch: self.epoch, include_unmonitored: true, ..Covers::default() },
            clients: clients.clone(),
            gone: clients.iter().copied().collect(),
            swept: None,
            kept: HashSet::new(),
            files,
            purged: HashMap::new(),
        });
        for id in clients {
            // They were about locks that it does not have any more.
            if let Some(client) = self.clients.get_mut(*id) {
                client.suspicions.clear();
            }
        }
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
