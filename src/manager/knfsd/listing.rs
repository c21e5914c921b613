//! The locks in lockd's memory, as lists for people.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Knfsd;
use super::keeper_files;
use super::owners::{self, HeldLock, OwnerKey, Share, TO_THE_END, View, Waiter, Way};
use super::unsure::UnsureLocks;
use crate::host::ETAB;
use crate::manager::adapter::client_row;
use crate::manager::{OwnedLock, Owners, OwnersView};
use crate::wire::control::{ClientRow, LockKind, LockState};
use crate::wire::types::{Address, CallerName, Svid};
use crate::wire::xdr::List;

impl Knfsd {
    /// Reads it, or says why it cannot be read.
    pub(super) fn look_at_owners(&self) -> Owners {
        match owners::look(&self.machine) {
            Ok(view) => {
                tracing::debug!(passes = view.passes, locks = view.locks.len(), "owners were read from kernel memory");
                Owners::View(listed(&view, &self.machine.exports(ETAB), &self.unsure()))
            }
            Err(error) => Owners::Unknown { why: error.to_string(), remedy: error.remedy().to_owned() },
        }
    }

    /// What runs in front of lockd have left unsure in this life of it.
    pub(super) fn unsure(&self) -> UnsureLocks {
        let mut unsure = UnsureLocks::read(&keeper_files::folder(&self.dir)).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            UnsureLocks::default()
        });
        match self.grace_instance() {
            Ok(instance) => unsure.is_of(instance),
            Err(error) => tracing::debug!(%error, "this life of lockd is not known"),
        }
        unsure
    }
}

fn listed(view: &View, exports: &[PathBuf], unsure: &UnsureLocks) -> OwnersView {
    let held = |lock: &HeldLock| {
        let why = unsure.find_held(lock).map(|found| found.doubt.to_string());
        OwnedLock { unsure: why, ..of_lock(lock, exports) }
    };
    let mut locks: Vec<OwnedLock> = view.locks.iter().map(held).collect();
    locks.extend(view.shares.iter().map(|share| of_share(share, exports)));
    locks.extend(view.waiters.iter().map(|waiter| of_waiter(waiter, exports)));
    OwnersView { how: "read from kernel memory", clients: clients(view, &locks), locks }
}

fn of_lock(lock: &HeldLock, exports: &[PathBuf]) -> OwnedLock {
    let OwnerKey { way: Way { client, server, version, transport }, svid } = lock.owner;
    OwnedLock {
        name: lock.caller.clone(),
        address: client,
        server_address: server,
        transport,
        version,
        svid: Some(svid),
        oh: None,
        monitored: lock.monitored,
        kind: if lock.exclusive { LockKind::Exclusive } else { LockKind::Shared },
        range: lock.range(),
        state: if lock.offered { LockState::Offered } else { LockState::Held },
        file: lock.handle.clone(),
        inode: lock.inode(),
        export: lock.path.as_deref().and_then(|path| export(path, exports)),
        path: lock.path.clone(),
        deleted: lock.deleted,
        unsure: None,
    }
}

fn of_waiter(waiter: &Waiter, exports: &[PathBuf]) -> OwnedLock {
    let oh = Some(waiter.oh.clone());
    OwnedLock { state: LockState::Waiting, oh, ..of_lock(&waiter.wanted, exports) }
}

fn of_share(share: &Share, exports: &[PathBuf]) -> OwnedLock {
    let held = HeldLock {
        owner: OwnerKey { way: share.way, svid: Svid(0) },
        caller: share.caller.clone(),
        handle: share.handle.clone(),
        device: share.device,
        inode: share.inode,
        path: share.path.clone(),
        deleted: share.deleted,
        exclusive: false,
        start: 0,
        end: TO_THE_END,
        monitored: share.monitored,
        nsm_state: None,
        offered: false,
    };
    OwnedLock { kind: LockKind::Share, svid: None, oh: Some(share.oh.clone()), ..of_lock(&held, exports) }
}

/// The innermost export that a path is in.
fn export(path: &[u8], exports: &[PathBuf]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let within = exports.iter().filter(|export| path.starts_with(export));
    within.max_by_key(|export| export.components().count()).cloned()
}

/// A client for each name and address, with what it holds and waits for.
fn clients(view: &View, locks: &[OwnedLock]) -> Vec<ClientRow> {
    let mut rows: BTreeMap<(CallerName, Address), ClientRow> = BTreeMap::new();
    for host in &view.hosts {
        let Way { client: address, server: called, .. } = host.way;
        let row = rows
            .entry((host.caller.clone(), address))
            .or_insert_with(|| ClientRow { monitored: false, ..client_row(host.caller.clone(), [address.0], []) });
        row.monitored |= host.monitored;
        let mut all = row.server_addresses.as_slice().to_vec();
        if !all.contains(&called) {
            all.push(called);
            row.server_addresses = List::clipped(all);
        }
    }
    for lock in locks {
        let Some(row) = rows.get_mut(&(lock.name.clone(), lock.address)) else { continue };
        if lock.state == LockState::Waiting {
            row.waiters += 1;
        } else {
            row.locks += 1;
            row.unmonitored += u64::from(!lock.monitored);
        }
    }
    rows.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::super::owners::ClientHost;
    use super::*;
    use crate::wire::types::{ByteRange, Cookie, OwnerHandle};

    #[test]
    fn a_path_is_in_the_innermost_export_that_has_it() {
        let exports = ["/", "/srv", "/srv/x", "/srv/xy"].map(PathBuf::from);
        let of = |path: &str| export(path.as_bytes(), &exports).unwrap();
        assert_eq!(of("/srv/x/a"), Path::new("/srv/x"));
        assert_eq!(of("/srv/xz/a"), Path::new("/srv"));
        assert_eq!(of("/etc/a"), Path::new("/"));
        assert_eq!(export(b"/etc/a", &exports[1..]), None);
    }

    #[test]
    fn each_client_has_the_number_of_its_locks_of_those_without_a_monitor_and_of_its_waiters() {
        let called = |server: &str| Way { server: server.parse().unwrap(), ..Way::sample(1) };
        let (one, two) = (called("192.0.2.200"), called("192.0.2.201"));
        let host = |way, monitored| ClientHost {
            way,
            caller: CallerName::new("c1").unwrap(),
            mon_name: None,
            monitored,
            nsm_state: None,
        };
        let held = |way, monitored| HeldLock {
            owner: OwnerKey { way, svid: Svid(1) },
            path: Some(b"/srv/x/a".to_vec()),
            monitored,
            ..HeldLock::sample(1, 1)
        };
        let waiter = Waiter { wanted: held(two, true), oh: OwnerHandle::default(), cookie: Cookie::default() };
        let view = View {
            hosts: vec![host(one, true), host(two, true), host(Way::sample(2), false)],
            locks: vec![held(one, true), held(two, false)],
            waiters: vec![waiter],
            shares: vec![],
            passes: 1,
        };
        let listed = listed(&view, &["/srv/x".into()], &UnsureLocks::default());
        let counts: Vec<_> = listed.clients.iter().map(|row| (row.locks, row.unmonitored, row.waiters)).collect();
        assert_eq!(counts, [(2, 1, 1), (0, 0, 0)]);
        assert_eq!(listed.clients[0].server_addresses.as_slice().len(), 2);
        let [first, _, waiting] = listed.locks.as_slice() else { panic!("{listed:?}") };
        assert_eq!((first.inode.as_str(), first.range), ("08:11:42", ByteRange::ALL));
        assert_eq!((first.oh.clone(), first.export.as_deref()), (None, Some(Path::new("/srv/x"))));
        assert_eq!((waiting.state, waiting.oh.clone()), (LockState::Waiting, Some(OwnerHandle::default())));
    }
}
