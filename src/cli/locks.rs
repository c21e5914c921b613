//! `nlmctl locks`: the locks that the lock manager holds, pends or queues.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::args::LocksArgs as Wanted;
use super::context::Context;
use crate::host::{self, BadAddress};
use crate::manager::{OwnedLock, Owners, OwnersView};
use crate::report::{Failure, Known, LockList, LocksReport, OwnersReport, SCHEMA};
use crate::resync::plan::{refuse_ambiguous, refuse_unknown};
use crate::wire::control::{AgedLock, ClientRef, LockState, Scope};
use crate::wire::scope;
use crate::wire::types::{Address, FileHandle};
use crate::wire::xdr::{List, TooLong};

pub(super) async fn run(context: &Context, wanted: &Wanted) -> Result<u8, Failure> {
    let (paths, handles): (Vec<&String>, Vec<&String>) = wanted.files.iter().partition(|file| file.starts_with('/'));
    let scope = scope(&wanted.clients, &handles)?;
    let manager = context.manager().await?;
    let owners = manager.owners().await?;
    if let Some(path) = paths.first()
        && !matches!(owners, Owners::View(_))
    {
        return Err(Failure::usage(
            format!("{} does not know paths, so it cannot look for --file {path}", manager.kind()),
            "name the file by its handle, in hexadecimal as `nlmctl locks` shows it",
        ));
    }
    if !matches!(owners, Owners::Unknown { .. }) {
        let mut known = manager.clients().await?;
        if let Owners::View(view) = &owners {
            known.extend(view.clients.iter().cloned());
        }
        refuse_unknown(&scope, &wanted.clients, &known)?;
        refuse_ambiguous(&scope, &wanted.clients, &known)?;
    }
    let mut choice = Choice::new(wanted);
    let mut locks = match &owners {
        Owners::View(view) => in_scope(view, &scope, &paths, &mut choice),
        Owners::Unknown { why, remedy } if !scope.clients.as_slice().is_empty() => {
            let words = format!("lock owners are not known, so locks cannot be listed by client: {why}");
            let or = if remedy.is_empty() { "leave out --client" } else { remedy };
            return Err(Failure::refused(words, or));
        }
        Owners::Rows | Owners::Unknown { .. } => {
            let known = matches!(owners, Owners::Rows);
            let mut locks = if known { LockList::default() } else { LockList::without_owners() };
            manager.each_lock(&scope, &mut |lock| locks.push(&lock, None, choice.wants(&lock))).await?;
            locks
        }
    };
    choice.refuse_ageless(manager.kind())?;
    locks.sort();
    // Else the locks that are in the way may not be in the list.
    if matches!(owners, Owners::View(_)) || (matches!(owners, Owners::Rows) && scope.clients.as_slice().is_empty()) {
        locks.find_behind();
    }
    let (owners, manager) = (owners_report(&owners), manager.kind().to_owned());
    let whole = scope.is_everything() && paths.is_empty() && choice.is_of_all();
    context.print(&LocksReport { schema: SCHEMA, manager, owners, locks, wide: wanted.wide, whole })?;
    Ok(0)
}

/// Which of the locks in scope are shown.
struct Choice {
    states: Vec<LockState>,
    older_than: Option<Duration>,
    /// Whether there was one whose age counts and is not known.
    is_ageless: bool,
}

impl Choice {
    fn new(wanted: &Wanted) -> Self {
        let pending = wanted.pending.then_some(LockState::Pending);
        let waiting = wanted.waiting.then_some(LockState::Waiting);
        let states = pending.into_iter().chain(waiting).collect();
        Self { states, older_than: wanted.older_than, is_ageless: false }
    }

    fn is_of_all(&self) -> bool {
        self.states.is_empty() && self.older_than.is_none()
    }

    fn wants(&mut self, lock: &AgedLock) -> bool {
        if !self.states.is_empty() && !self.states.contains(&lock.lock.state) {
            return false;
        }
        let Some(least) = self.older_than else { return true };
        self.is_ageless |= lock.age_s.0.is_none();
        lock.age_s.0.is_some_and(|age| Duration::from_secs(age.into()) > least)
    }

    /// A list without the locks whose age is not known would say that they are young.
    fn refuse_ageless(&self, manager: &str) -> Result<(), Failure> {
        if !self.is_ageless {
            return Ok(());
        }
        Err(Failure::refused(
            format!("{manager} does not know how old locks are, so --older-than cannot be used"),
            "leave out --older-than",
        ))
    }
}

/// Whether owners are known, for a report.
pub(super) fn owners_report(owners: &Owners) -> OwnersReport {
    match owners {
        Owners::Rows => OwnersReport::told(),
        Owners::View(view) => OwnersReport::known(view.how),
        Owners::Unknown { why, remedy } => OwnersReport::unknown(why, remedy),
    }
}

/// All locks, of which those in scope are shown: who waits behind whom is told of all.
fn in_scope(view: &OwnersView, scope: &Scope, paths: &[&String], choice: &mut Choice) -> LockList {
    let (clients, files) = (scope.clients.as_slice(), scope.files.as_slice());
    let is_of = |lock: &OwnedLock, client: &ClientRef| {
        client.name.0.as_ref().is_none_or(|name| name.matches(&lock.name))
            && client.address.0.is_none_or(|address| address == lock.address)
    };
    let is_in_scope = |lock: &OwnedLock| {
        (clients.is_empty() || clients.iter().any(|client| is_of(lock, client)))
            && ((files.is_empty() && paths.is_empty())
                || files.contains(&lock.file)
                || lock.path.as_deref().is_some_and(|path| paths.iter().any(|wanted| is_at(path, wanted))))
    };
    let mut locks = LockList::default();
    for lock in &view.locks {
        let (row, known) = listed(lock);
        let is_shown = is_in_scope(lock) && choice.wants(&row);
        locks.push(&row, Some(known), is_shown);
    }
    locks
}

/// Whether a file is this one, or in this folder.
fn is_at(path: &[u8], wanted: &str) -> bool {
    let wanted = wanted.trim_end_matches('/').as_bytes();
    path.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn listed(lock: &OwnedLock) -> (AgedLock, Known) {
    let known = Known {
        path: lock.path.as_deref().map(path_text),
        export: lock.export.as_ref().map(|export| path_text(export.as_os_str().as_bytes())),
        deleted: lock.deleted,
        inode: lock.inode.clone(),
        unsure: lock.unsure.clone(),
        has_svid: lock.svid.is_some(),
        has_oh: lock.oh.is_some(),
    };
    (lock.row().into(), known)
}

/// A path; of bytes that are no UTF-8 come `\xNN`.
fn path_text(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

fn scope(clients: &[String], handles: &[&String]) -> Result<Scope, Failure> {
    let clients = clients.iter().map(|text| client(text)).collect::<Result<Vec<_>, _>>()?;
    let files = handles.iter().map(|text| file(text)).collect::<Result<Vec<_>, _>>()?;
    let too_many = |e: TooLong| Failure::usage(format!("too many clients or files: {e}"), "name fewer of them");
    Ok(Scope { clients: List::new(clients).map_err(too_many)?, files: List::new(files).map_err(too_many)? })
}

/// Reads what `--client` is given: an address, else a name.
pub(super) fn client(text: &str) -> Result<ClientRef, Failure> {
    let text = &with_index(text)?;
    text.parse::<ClientRef>()
        .map_err(|e| Failure::usage(format!("--client {text:?}: {e}"), "give a client's name or address"))
}

/// What `--client` says, a link-local address by its interface's index: only this host knows the names.
pub(super) fn with_index(text: &str) -> Result<String, Failure> {
    match host::address(text) {
        Ok(ip) if scope::interface(ip).is_some() => Ok(Address(ip).to_string()),
        Ok(_) | Err(BadAddress::NoAddress(_)) => Ok(text.to_owned()),
        Err(error @ BadAddress::NoInterface(_)) => Err(Failure::usage(
            format!("--client {text}: {error}"),
            "see `nlmctl clients`, and `ip link` for interfaces",
        )),
    }
}

fn file(text: &str) -> Result<FileHandle, Failure> {
    let remedy = "give a file handle in hexadecimal, as `nlmctl locks` prints it";
    let bad = |why: String| Failure::usage(format!("--file {text:?}: {why}"), remedy);
    let bytes = hex::decode(text).map_err(|e| bad(e.to_string()))?;
    if bytes.is_empty() {
        return Err(bad("no handle".to_owned()));
    }
    FileHandle::new(&bytes).map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Rows;
    use crate::wire::control::LockKind;
    use crate::wire::types::{ByteRange, CallerName, Svid, Transport};

    fn of(clients: &[&str], files: &[&str]) -> Result<Scope, Failure> {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        scope(&owned(clients), &owned(files).iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_client_is_named_by_address_or_name_and_a_file_by_its_handle() {
        let scope = of(&["127.0.0.9", "::1", "a.example.org"], &["00ff"]).unwrap();
        let clients = scope.clients.as_slice();
        assert!(clients[0].address.0.is_some() && clients[0].name.0.is_none());
        assert!(clients[1].address.0.is_some());
        assert_eq!(clients[2].name.0.as_ref().unwrap().as_str(), "a.example.org");
        assert_eq!(scope.files.as_slice()[0].as_slice(), [0, 255]);
        assert!(of(&[], &[]).unwrap().is_everything());
    }

    #[test]
    fn what_is_neither_is_bad_usage() {
        for (clients, files) in [(&[""][..], &[][..]), (&[], &["xyz"]), (&[], &["0"]), (&[], &[""])] {
            assert_eq!(of(clients, files).unwrap_err().kind.exit(), 2, "{clients:?} {files:?}");
        }
    }

    #[test]
    fn one_clients_waiters_are_shown_behind_others_whose_locks_are_not() {
        let lock = |name: &str, svid, state| OwnedLock {
            name: CallerName::new(name).unwrap(),
            address: "192.0.2.1".parse().unwrap(),
            server_address: "192.0.2.200".parse().unwrap(),
            transport: Transport::Tcp,
            version: 4,
            svid: Some(Svid(svid)),
            oh: None,
            monitored: true,
            kind: LockKind::Exclusive,
            range: ByteRange::ALL,
            state,
            file: FileHandle::new(name.as_bytes()).unwrap(),
            inode: "00:1a:2".into(),
            path: Some(b"/srv/x/a\xff b".to_vec()),
            deleted: false,
            export: Some("/srv/x".into()),
            unsure: None,
        };
        let locks = vec![lock("c1", 1, LockState::Held), lock("c2.lab", 2, LockState::Waiting)];
        let view = OwnersView { how: "seen", clients: vec![], locks };
        let shown = |scope: Scope, paths: &[&String]| {
            let mut choice = Choice { states: Vec::new(), older_than: None, is_ageless: false };
            let mut locks = in_scope(&view, &scope, paths, &mut choice);
            locks.sort();
            locks.find_behind();
            let mut shown = Vec::new();
            let mut take = |lock| {
                shown.push(lock);
                Ok(())
            };
            locks.each(&mut take).unwrap();
            shown
        };
        let of_c2 = shown(of(&["c2"], &[]).unwrap(), &[]);
        let [waiting] = of_c2.as_slice() else { panic!("{of_c2:?}") };
        let behind = waiting.behind.as_ref().unwrap();
        assert_eq!(
            behind.iter().map(|one| (one.name.as_deref(), one.svid)).collect::<Vec<_>>(),
            [(Some("c1"), Some(1))]
        );
        assert_eq!(waiting.path.as_deref(), Some("/srv/x/a\\xff b"));
        assert_eq!((waiting.path_in_export.as_deref(), waiting.end), (Some("a\\xff b"), None));
        assert_eq!(shown(of(&[], &["6331"]).unwrap(), &[]).len(), 1);
        assert_eq!(shown(of(&["192.0.2.9"], &[]).unwrap(), &[]).len(), 0);
        let at = |path: &str| shown(of(&[], &[]).unwrap(), &[&path.to_owned()]).len();
        assert_eq!((at("/srv/x/"), at("/srv/x/a"), at("/srv"), at("/sr"), at("/srv/y")), (2, 0, 2, 0, 0));
    }
}
