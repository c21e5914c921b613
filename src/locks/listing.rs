//! What is held and waited for, as rows: for people, for controllers, and for a run's result.

use std::collections::HashSet;

use super::api::ClientId;
use super::clients::{Client, address_list};
use super::segment::{FileId, OwnerId, Segment};
use super::table::LockTable;
use crate::wire::control::{
    ClientPage, ClientRef, ClientRow, Fate, LockFate, LockKind, LockPage, LockRow, LockState, LocksArgs, OwnerRow, PAGE,
};
use crate::wire::types::{Address, ByteRange, FileHandle};
use crate::wire::xdr::{List, Maybe, Text};

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

    /// Locks and waiters from the cursor on, file by file. The cursor is the file's number above,
    /// and the place in the file's list below, 32 bits each. A reference without a client lists
    /// nothing.
    pub fn list_locks(&self, args: &LocksArgs) -> LockPage {
        let (clients, files) = (args.scope.clients.as_slice(), args.scope.files.as_slice());
        let whose = (!clients.is_empty()).then(|| self.meant(clients));
        let which = (!files.is_empty()).then(|| self.named_files(files));
        let first = u32::try_from(args.after >> 32).unwrap_or(u32::MAX);
        let mut skip = usize::try_from(args.after & 0xffff_ffff).unwrap_or(0);
        let mut rows = Vec::new();
        for file in self.segments().files_from(first) {
            let skip = std::mem::take(&mut skip);
            if which.as_ref().is_some_and(|which| !which.contains(&file)) {
                continue;
            }
            for (place, lock) in self.listed(file).enumerate().skip(skip) {
                if whose.as_ref().is_some_and(|whose| !whose.contains(&lock.client)) {
                    continue;
                }
                if rows.len() == PAGE {
                    return LockPage { locks: List::clipped(rows), next: (u64::from(file.0) << 32) | place as u64 };
                }
                rows.extend(self.lock_row(file, &lock));
            }
        }
        LockPage { locks: List::clipped(rows), next: 0 }
    }

    /// The file's list: what is held or pending, then what is waited for.
    pub(super) fn listed(&self, file: FileId) -> impl Iterator<Item = Listed> {
        let held = self.segments().of(file).filter(move |s| !self.is_void(file, s)).map(move |s| {
            let state = match (s.offered, self.is_pending(file, s)) {
                (_, true) => LockState::Pending,
                (true, false) => LockState::Offered,
                (false, false) => LockState::Held,
            };
            (*s, state)
        });
        let waiting = self.waiters.in_file(file).filter(|(_, w)| !w.offered);
        let waiting = waiting.map(|(_, w)| (w.want.lock, LockState::Waiting));
        held.chain(waiting).map(|(Segment { client, owner, kind, range, monitored, .. }, state)| Listed {
            client,
            owner,
            kind: kind.row(),
            range,
            state,
            monitored,
        })
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
