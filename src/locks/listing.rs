//! Listings in pages: what people and controllers see.

use std::collections::HashSet;

use super::files::{File, FileId};
use super::{ClientId, LockTable, clients};
use crate::wire::control::{ClientPage, ClientRow, LockPage, LockRow, LockState, LocksArgs, PAGE};
use crate::wire::types::Address;
use crate::wire::xdr::{List, Text};

impl LockTable {
    /// Clients from the cursor on, in the order they came.
    pub fn list_clients(&self, after: u64) -> ClientPage {
        let Ok(first) = u32::try_from(after) else { return ClientPage { clients: List::default(), next: 0 } };
        let mut rows: Vec<(ClientId, &clients::Client)> = self.clients.after(first).take(PAGE + 1).collect();
        let next = if rows.len() > PAGE { rows.pop().map_or(0, |(id, _)| u64::from(id.0)) } else { 0 };
        let clients = rows.into_iter().map(|(_, client)| self.client_row(client)).collect();
        ClientPage { clients: List::clipped(clients), next }
    }

    fn client_row(&self, client: &clients::Client) -> ClientRow {
        let addresses = |list: &[std::net::IpAddr]| List::clipped(list.iter().copied().map(Address).collect());
        ClientRow {
            name: client.name.clone(),
            addresses: addresses(&client.addresses),
            server_addresses: addresses(&client.server_addresses),
            nsm_state: client.nsm_state,
            monitored: client.monitored,
            shared_address: self.clients.shares_address(client),
            locks: client.locks as u64,
            unmonitored: client.unmonitored as u64,
            waiters: client.waiters as u64,
            suspicions: List::clipped(client.suspicions.iter().map(Text::clipped).collect()),
        }
    }

    /// Locks and waiters from the cursor on, file by file. The cursor is the file's number above,
    /// and the place in the file's list below, 32 bits each. A reference that means nobody lists
    /// nothing.
    pub fn list_locks(&self, args: &LocksArgs) -> LockPage {
        let whose = (!args.scope.clients.as_slice().is_empty()).then(|| self.meant(args.scope.clients.as_slice()));
        let which: Option<HashSet<FileId>> = (!args.scope.files.as_slice().is_empty())
            .then(|| args.scope.files.as_slice().iter().filter_map(|h| self.files.find(h)).collect());
        let first = u32::try_from(args.after >> 32).unwrap_or(u32::MAX);
        let mut skip = usize::try_from(args.after & 0xffff_ffff).unwrap_or(0);
        let mut rows = Vec::new();
        for (id, file) in self.files.from(first) {
            let skip = std::mem::take(&mut skip);
            if which.as_ref().is_some_and(|which| !which.contains(&id)) {
                continue;
            }
            for (place, (client, row)) in self.rows_of(id, file).enumerate().skip(skip) {
                if whose.as_ref().is_some_and(|whose| !whose.contains(&client)) {
                    continue;
                }
                if rows.len() == PAGE {
                    return LockPage { locks: List::clipped(rows), next: (u64::from(id.0) << 32) | place as u64 };
                }
                rows.extend(row);
            }
        }
        LockPage { locks: List::clipped(rows), next: 0 }
    }

    pub(super) fn rows_of<'a>(
        &'a self,
        id: FileId,
        file: &'a File,
    ) -> impl Iterator<Item = (ClientId, Option<LockRow>)> + 'a {
        let held = file.segments.iter().filter(move |s| !self.is_void(id, s)).map(move |s| {
            let state = match (s.offered, self.is_pending(id, s)) {
                (_, true) => LockState::Pending,
                (true, false) => LockState::Offered,
                (false, false) => LockState::Held,
            };
            (s.client, s.kind, s.range, s.monitored, s.owner, state)
        });
        let waiting = file.waiters.iter().filter_map(|id| self.waiters.get(id)).filter(|w| !w.offered).map(|w| {
            (w.want.caller.client, w.want.kind, w.want.range, w.want.monitored, w.want.owner, LockState::Waiting)
        });
        held.chain(waiting).map(move |(client, kind, range, monitored, owner, state)| {
            let row = self.owner_row(owner).map(|owner| LockRow {
                file: file.handle.clone(),
                kind: kind.row(),
                range,
                state,
                monitored,
                owner,
            });
            (client, row)
        })
    }
}
