//! Held locks and waiting requests as rows: for people, for controllers, and for a run's result.

use std::collections::{BTreeSet, HashSet};

use super::api::ClientId;
use super::clients::{Client, address_list};
use super::segment::{FileId, OwnerId, Segment};
use super::silence::seconds;
use super::table::LockTable;
use super::waiters::Waiter;
use crate::wire::control::{
    AgedLock, ClientPage, ClientRef, ClientRow, Fate, LockFate, LockKind, LockPage, LockRow, LockState, LocksArgs,
    OwnerRow, PAGE, Scope,
};
use crate::wire::types::{Address, ByteRange, FileHandle};
use crate::wire::xdr::{List, Maybe, Text};

/// Places, files, clients or references looked at in one step: well under a millisecond.
const LOOKED_AT: usize = 2_048;

/// A held, pending or wanted lock of a file's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Listed {
    pub(super) client: ClientId,
    pub(super) owner: OwnerId,
    pub(super) kind: LockKind,
    pub(super) range: ByteRange,
    pub(super) state: LockState,
    pub(super) monitored: bool,
}

/// A page of locks and waiters in the making, file by file: what was looked at, what is to be.
///
/// The cursor of a page is the file's number above, and the place in the file's list below, 32 bits each. What
/// else comes and goes between pages, or while one is made, a file that stays as it is is listed once. A
/// reference without a client lists nothing.
#[derive(Debug)]
pub struct Listing {
    scope: Scope,
    clients_found: usize,
    /// The last one looked at that the reference may mean.
    candidate: Option<ClientId>,
    files_found: usize,
    whose: HashSet<ClientId>,
    /// Files to look at: named ones, or the next one of each client that is meant.
    ahead: BTreeSet<(FileId, Option<ClientId>)>,
    at: (FileId, usize),
    rows: Vec<AgedLock>,
    next: Option<u64>,
    /// Rows of a page, and what is looked at in one step.
    limits: (usize, usize),
}

impl Listing {
    /// A page of which nothing is looked at.
    pub fn new(args: LocksArgs) -> Self {
        let file = FileId(u32::try_from(args.after >> 32).unwrap_or(u32::MAX));
        let place = usize::try_from(args.after & 0xffff_ffff).unwrap_or(0);
        Self {
            scope: args.scope,
            clients_found: 0,
            candidate: None,
            files_found: 0,
            whose: HashSet::new(),
            ahead: BTreeSet::new(),
            at: (file, place),
            rows: Vec::new(),
            next: None,
            limits: (PAGE, LOOKED_AT),
        }
    }

    #[cfg(test)]
    pub(super) fn with_limits(args: LocksArgs, limits: (usize, usize)) -> Self {
        Self { limits, ..Self::new(args) }
    }

    /// The page, once it is done.
    pub fn into_page(self) -> LockPage {
        LockPage { locks: List::clipped(self.rows), next: self.next.unwrap_or(0) }
    }

    fn is_about(&self, client: ClientId) -> bool {
        self.scope.clients.as_slice().is_empty() || self.whose.contains(&client)
    }

    /// Nothing more of that file.
    fn pass(&mut self, file: FileId) {
        match file.0.checked_add(1) {
            Some(next) => self.at = (FileId(next), 0),
            None => self.next = Some(0),
        }
    }
}

/// What stands at a place of a file's list.
#[derive(Clone, Copy)]
pub(super) enum Entry<'a> {
    Lock(&'a Segment),
    Waiter(&'a Waiter),
}

impl Entry<'_> {
    fn since(self) -> u32 {
        match self {
            Self::Lock(segment) => segment.since,
            Self::Waiter(waiter) => waiter.want.lock.since,
        }
    }
}

impl LockTable {
    /// Clients from the cursor on, in the order they came.
    pub fn list_clients(&self, after: u64) -> ClientPage {
        let Ok(first) = u32::try_from(after) else { return ClientPage { clients: List::default(), next: 0 } };
        let mut rows: Vec<(ClientId, &Client)> = self.clients.after(first).take(PAGE + 1).collect();
        let next = if rows.len() > PAGE { rows.pop().map_or(0, |(id, _)| u64::from(id.0)) } else { 0 };
        let clients = rows.into_iter().map(|(_, client)| self.client_row(client)).collect();
        ClientPage { clients: List::clipped(clients), next }
    }

    fn client_row(&self, client: &Client) -> ClientRow {
        let held = client.held();
        ClientRow {
            name: client.name.clone(),
            addresses: address_list(&[client.address]),
            server_addresses: address_list(&client.server_addresses),
            nsm_state: client.nsm_state,
            monitored: client.monitored,
            shared_address: self.clients.shares_address(client),
            locks: held.locks as u64,
            unmonitored: held.unmonitored as u64,
            waiters: held.waiters as u64,
            suspicions: List::clipped(client.reasons().map(Text::clipped).collect()),
        }
    }

    /// Goes on with a page of locks: looks at no more than [`LOOKED_AT`] places, files, clients or references.
    /// True: the page is done.
    pub fn list_locks_on(&self, page: &mut Listing) -> bool {
        let (_, mut left) = page.limits;
        self.find_clients(page, &mut left);
        self.find_files(page, &mut left);
        while left > 0 && page.next.is_none() {
            if let Some(file) = self.file_ahead(page, &mut left) {
                self.list_file(page, file, &mut left);
            }
        }
        page.next.is_some()
    }

    /// The clients that are meant, and the first file of each.
    fn find_clients(&self, page: &mut Listing, left: &mut usize) {
        while let (Some(reference), true) = (page.scope.clients.as_slice().get(page.clients_found), *left > 0) {
            let all = self.clients.candidates(reference);
            let rest = all.get(all.partition_point(|id| Some(*id) <= page.candidate)..).unwrap_or_default();
            let some = rest.get(..*left).unwrap_or(rest);
            *left = left.saturating_sub(some.len() + 1);
            for id in some.iter().filter(|id| self.clients.is_meant(**id, reference)) {
                if page.whose.insert(*id) && page.scope.files.as_slice().is_empty() {
                    page.ahead.extend(self.file_of(*id, page.at.0));
                }
            }
            page.candidate = some.last().filter(|_| some.len() < rest.len()).copied();
            page.clients_found += usize::from(page.candidate.is_none());
        }
    }

    fn find_files(&self, page: &mut Listing, left: &mut usize) {
        while let (Some(handle), true) = (page.scope.files.as_slice().get(page.files_found), *left > 0) {
            page.ahead.extend(self.segments().find(handle).map(|file| (file, None)));
            page.files_found += 1;
            *left -= 1;
        }
    }

    /// The first file from that one on in which the client has something or waits.
    fn file_of(&self, client: ClientId, from: FileId) -> Option<(FileId, Option<ClientId>)> {
        Some((self.clients.get(client)?.file_from(from)?, Some(client)))
    }

    /// The file that is next; the page stands at it then. `None`: not found yet, or there is none.
    fn file_ahead(&self, page: &mut Listing, left: &mut usize) -> Option<FileId> {
        while *left > 0 {
            *left -= 1;
            let (file, _) = page.at;
            if page.scope.is_everything() {
                match self.segments().handle(file) {
                    Some(_) => return Some(file),
                    None if file.0 < self.segments().end() => page.pass(file),
                    None => page.next = Some(0),
                }
            } else {
                match page.ahead.first().copied() {
                    Some((ahead, client)) if ahead < file => {
                        page.ahead.pop_first();
                        page.ahead.extend(client.and_then(|client| self.file_of(client, file)));
                    }
                    Some((ahead, _)) if ahead > file => page.at = (ahead, 0),
                    Some((ahead, _)) => return Some(ahead),
                    None => page.next = Some(0),
                }
            }
            if page.next.is_some() {
                break;
            }
        }
        None
    }

    fn list_file(&self, page: &mut Listing, file: FileId, left: &mut usize) {
        let first = page.at.1;
        for (place, entry) in (first..).zip(self.entries_but_first(file, first)) {
            page.at.1 = place;
            if *left == 0 {
                return;
            }
            *left -= 1;
            let lock = self.as_listed(file, entry);
            let Some(lock) = lock.filter(|lock| page.is_about(lock.client)) else { continue };
            if page.rows.len() == page.limits.0 {
                page.next = Some((u64::from(file.0) << 32) | place as u64);
                return;
            }
            let age_s = Maybe(Some(seconds(self.now).saturating_sub(entry.since())));
            page.rows.extend(self.lock_row(file, &lock).map(|lock| AgedLock { lock, age_s }));
        }
        page.pass(file);
    }

    /// The entries of the file's list but the first `n`, also those of which nothing is listed.
    fn entries_but_first(&self, file: FileId, n: usize) -> impl Iterator<Item = Entry<'_>> {
        let held = self.segments().but_first(file, n).map(Entry::Lock);
        let before = n.saturating_sub(self.segments().len(file));
        held.chain(self.waiters.in_file(file).skip(before).map(|(_, waiter)| Entry::Waiter(waiter)))
    }

    pub(super) fn as_listed(&self, file: FileId, entry: Entry<'_>) -> Option<Listed> {
        let (segment, state) = match entry {
            Entry::Lock(s) if self.is_void(file, s) => return None,
            Entry::Lock(s) if self.is_pending(file, s) => (s, LockState::Pending),
            Entry::Lock(s) if s.offered => (s, LockState::Offered),
            Entry::Lock(s) => (s, LockState::Held),
            Entry::Waiter(w) if w.offered || self.is_void_waiter(w) => return None,
            Entry::Waiter(w) => (&w.want.lock, LockState::Waiting),
        };
        let Segment { client, owner, kind, range, monitored, .. } = *segment;
        Some(Listed { client, owner, kind: kind.row(), range, state, monitored })
    }

    /// How often the file's list has exactly this.
    pub(super) fn times_listed(&self, file: FileId, lock: &Listed) -> usize {
        let is_it = |entry| self.as_listed(file, entry).as_ref() == Some(lock);
        if lock.state == LockState::Waiting {
            let waiters = self.waiters.of_owner_in(lock.owner, file);
            return waiters.filter(|(_, waiter)| is_it(Entry::Waiter(waiter))).count();
        }
        self.segments().owned_in(file, lock.owner, lock.range).filter(|segment| is_it(Entry::Lock(segment))).count()
    }

    /// The file's list: what is held or pending, then what is waited for.
    #[cfg(test)]
    pub(super) fn listed(&self, file: FileId) -> impl Iterator<Item = Listed> {
        self.entries_but_first(file, 0).filter_map(move |entry| self.as_listed(file, entry))
    }

    pub(super) fn lock_row(&self, file: FileId, lock: &Listed) -> Option<LockRow> {
        Some(LockRow {
            file: self.segments().handle(file)?.clone(),
            kind: lock.kind,
            range: lock.range,
            state: lock.state,
            monitored: lock.monitored,
            owner: self.owner_row(lock.owner)?,
        })
    }

    pub(super) fn fate_row(&self, file: FileId, segment: &Segment, fate: Fate) -> Option<LockFate> {
        Some(LockFate {
            fate,
            file: self.segments().handle(file)?.clone(),
            kind: segment.kind.row(),
            range: segment.range,
            partial: false,
            late: false,
            owner: self.owner_row(segment.owner)?,
            other: Maybe(None),
            other_range: Maybe(None),
        })
    }

    pub(super) fn owner_row(&self, owner: OwnerId) -> Option<OwnerRow> {
        let key = self.owners.key(owner)?;
        let client = self.clients.get(key.client)?;
        Some(OwnerRow {
            name: client.name.clone(),
            address: Address(client.address),
            server_address: Address(key.via.server_address),
            transport: key.via.transport,
            version: key.via.version,
            svid: key.process.svid,
            oh: key.process.oh.clone(),
        })
    }

    pub(super) fn meant(&self, references: &[ClientRef]) -> HashSet<ClientId> {
        references.iter().flat_map(|reference| self.clients.meant(reference)).collect()
    }

    /// Those of the files that have any state.
    pub(super) fn named_files(&self, handles: &[FileHandle]) -> HashSet<FileId> {
        handles.iter().filter_map(|handle| self.segments().find(handle)).collect()
    }
}
