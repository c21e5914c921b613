//! Locks whose reclaim may have been refused, or passed unseen, in a run in front of lockd (`interposer/`).
//!
//! # Theory
//! A Linux client whose reclaim is refused forgets the lock, while its process still believes in it and lockd still
//! holds it. The next run would take such a lock for a stale one: its client acks, and does not reclaim it. So each
//! lock that this may have happened to is *unsure*, and recorded here. Every later run keeps it, even if the policy
//! drops, until
//! - its owner was seen to unlock it, or to lock or reclaim it with success: the client knows it again then;
//! - its client has rebooted, and told lockd so by FREE_ALL, which frees all that was locked the same way;
//! - lockd no longer holds it, for any reason (`nlmctl release` is one), or is another instance.
//!
//! A number in a LOCK that says another state proves no reboot: a client has it from whichever statd was started last.
//!
//! Which locks they are is not known when it happens: calls passed unseen, or the process that watched is dead. So *clients*
//! are written down first, before the risk begins, and the locks that they have are looked up in the next view of lockd's
//! records. That is too many rather than too few: what a client knows it reclaims in the next run, and it is struck off.
//!
//! The process in front of lockd writes the file; lists read it. There are never more locks in it than lockd has.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::owners::{HeldLock, HeldLocks, OwnerKey, View, Way};
use crate::host::{read_if_there, remove, replace};
use crate::ranges::without;
use crate::wire::control::{InstanceId, RunId};
use crate::wire::types::{Address, ByteRange, CallerName, FileHandle, NsmState, Svid, Transport};
use crate::wire::xdr::{List, Maybe, Opaque, Text, XdrCodec, decode, encode};

/// The file in the folder of the process in front of lockd.
const FILE: &str = "unsure";
/// Most rows of a file.
const MOST: usize = 16_777_216;

/// Why a reclaim may have been refused.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub(crate) struct Doubt {
    /// The run that its client was told of.
    pub(crate) run: RunId,
    /// How sure it is.
    pub(crate) kind: DoubtKind,
    /// What happened, for people.
    pub(crate) why: Text<256>,
}

/// How sure a [`Doubt`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
#[repr(u32)]
pub(crate) enum DoubtKind {
    /// A reclaim may have been refused, or answered unseen.
    Refused = 0,
    /// Nothing was heard of the client in the whole run: if it was told, a reclaim after that run is refused. Consent to
    /// drop what clients have that do not answer covers it, while its client does not answer again.
    Unheard = 1,
    /// It may still reclaim until the end of the run's drain. Only if that does not come in order there is a doubt.
    Draining = 2,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a reclaim of it may have been refused (run {}: {})", self.run, self.why.as_str())
    }
}

/// A client of which no lock is looked up yet.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub(crate) struct UnsureClient {
    pub(crate) addresses: List<Address, 16>,
    /// Its name, which may call from others too.
    pub(crate) name: CallerName,
    pub(crate) doubt: Doubt,
}

#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub(crate) struct UnsureLock {
    client: Address,
    server: Address,
    transport: Transport,
    version: u32,
    svid: Svid,
    pub(crate) name: CallerName,
    pub(crate) file: FileHandle,
    /// Its path, where it was known.
    path: Maybe<Opaque<4096>>,
    pub(crate) range: ByteRange,
    /// The number of its client's last reboot notice: with another one it is another lock.
    reboot: Maybe<NsmState>,
    pub(crate) doubt: Doubt,
}

#[derive(Debug, XdrCodec)]
struct Sheet {
    instance: InstanceId,
    clients: List<UnsureClient, MOST>,
    locks: List<UnsureLock, MOST>,
}

#[derive(Debug, Default)]
pub(crate) struct UnsureLocks {
    instance: Option<InstanceId>,
    clients: Vec<UnsureClient>,
    locks: HashMap<FileHandle, Vec<UnsureLock>>,
    /// Since it was read or written.
    changed: bool,
}

impl UnsureLock {
    fn of(lock: &HeldLock, doubt: Doubt) -> Self {
        let OwnerKey { way: Way { client, server, version, transport }, svid } = lock.owner;
        Self {
            client,
            server,
            transport,
            version,
            svid,
            name: lock.caller.clone(),
            file: lock.handle.clone(),
            path: Maybe(lock.path.as_deref().and_then(|path| Opaque::new(path).ok())),
            range: lock.range(),
            reboot: Maybe(lock.nsm_state),
            doubt,
        }
    }

    fn owner(&self) -> OwnerKey {
        let Self { client, server, version, transport, svid, .. } = *self;
        OwnerKey { way: Way { client, server, version, transport }, svid }
    }

    /// Its file, for people.
    pub(crate) fn place(&self) -> String {
        let path = self.path.0.as_ref().map(|path| String::from_utf8_lossy(path.as_slice()).into_owned());
        path.unwrap_or_else(|| format!("file {}", self.file))
    }

    fn is(&self, lock: &HeldLock) -> bool {
        self.owner() == lock.owner
            && self.file == lock.handle
            && self.range.overlaps(lock.range())
            && self.reboot.0 == lock.nsm_state
    }
}

impl UnsureLocks {
    /// Reads what is written down there.
    ///
    /// # Errors
    /// It cannot be read, or makes no sense.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE);
        let Some(bytes) = read_if_there(&path)? else { return Ok(Self::default()) };
        let odd = |error| io::Error::other(format!("{} (locks that runs must keep): {error}", path.display()));
        let Sheet { instance, clients, locks } = decode(&bytes).map_err(odd)?;
        let mut read = Self { instance: Some(instance), clients: clients.into_vec(), ..Self::default() };
        for lock in locks.into_vec() {
            read.locks.entry(lock.file.clone()).or_default().push(lock);
        }
        Ok(read)
    }

    /// Writes it down, if it has changed.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&mut self, dir: &Path) -> io::Result<()> {
        let path = dir.join(FILE);
        match self.instance {
            _ if !self.changed => {}
            Some(instance) if !self.is_empty() => {
                let clients = List::new(self.clients.clone()).map_err(io::Error::other)?;
                let locks = List::new(self.all().cloned().collect()).map_err(io::Error::other)?;
                replace(&path, &encode(&Sheet { instance, clients, locks }), 0o600)?;
            }
            Some(_) | None => remove(&path)?,
        }
        self.changed = false;
        Ok(())
    }

    /// Whether there is nothing unsure.
    pub(crate) fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.locks.is_empty()
    }

    /// Whether a view is needed to know which locks they are.
    pub(crate) fn awaits_view(&self) -> bool {
        self.clients.iter().any(|client| client.doubt.kind != DoubtKind::Draining)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &UnsureLock> {
        self.locks.values().flatten()
    }

    /// Why any of these bytes is unsure.
    pub(crate) fn find(&self, owner: &OwnerKey, file: &FileHandle, range: ByteRange) -> Option<&UnsureLock> {
        let locks = self.locks.get(file)?;
        // The weightier doubt counts.
        let of = |lock: &&UnsureLock| lock.owner() == *owner && lock.range.overlaps(range);
        locks.iter().filter(of).min_by_key(|lock| lock.doubt.kind != DoubtKind::Refused)
    }

    /// The same of a lock that is held now.
    pub(crate) fn find_held(&self, lock: &HeldLock) -> Option<&UnsureLock> {
        self.find(&lock.owner, &lock.handle, lock.range()).filter(|unsure| unsure.is(lock))
    }

    /// This life of lockd. What was unsure in another one is not there any more.
    pub(crate) fn is_of(&mut self, instance: InstanceId) {
        if self.instance != Some(instance) {
            let changed = self.changed || !self.is_empty();
            *self = Self { instance: Some(instance), changed, ..Self::default() };
        }
    }

    // --- what makes unsure

    /// What these clients have, as it will be found.
    pub(crate) fn add(&mut self, clients: impl IntoIterator<Item = UnsureClient>) {
        let before = self.clients.len();
        self.clients.extend(clients);
        self.changed |= self.clients.len() != before;
    }

    /// The drain has ended as it should: no reclaim was refused.
    pub(crate) fn drained(&mut self) {
        let before = self.clients.len();
        self.clients.retain(|client| client.doubt.kind != DoubtKind::Draining);
        self.changed |= self.clients.len() != before;
    }

    /// The process that had the drain was killed in it: what came after may have been refused.
    pub(crate) fn drain_was_cut_short(&mut self) {
        for client in self.clients.iter_mut().filter(|client| client.doubt.kind == DoubtKind::Draining) {
            client.doubt.kind = DoubtKind::Refused;
            self.changed = true;
        }
    }

    /// Looks up what the clients have, and strikes off what is not there any more.
    pub(crate) fn look_up(&mut self, view: &View) {
        let there = HeldLocks::of(view);
        let before = self.all().count();
        self.locks.retain(|_, locks| {
            // Those of one owner have one number of its client's last reboot.
            locks.retain(|lock| there.meeting(&lock.owner(), &lock.file, lock.range).is_some_and(|one| lock.is(one)));
            !locks.is_empty()
        });
        self.changed |= self.all().count() != before;
        let (draining, clients) =
            std::mem::take(&mut self.clients).into_iter().partition(|client| client.doubt.kind == DoubtKind::Draining);
        self.clients = draining;
        self.changed |= !clients.is_empty();
        let doubts = Doubts::of(&clients);
        for lock in view.locks.iter().filter(|lock| !lock.offered) {
            if let Some(doubt) = doubts.about(lock) {
                self.hold(lock, doubt.clone());
            }
        }
    }

    fn hold(&mut self, lock: &HeldLock, doubt: Doubt) {
        let known = self.find(&lock.owner, &lock.handle, lock.range());
        let refused = known.filter(|known| known.doubt.kind == DoubtKind::Refused).map(|known| known.doubt.clone());
        self.sure(&lock.owner, &lock.handle, lock.range());
        let unsure = UnsureLock::of(lock, refused.unwrap_or(doubt));
        self.locks.entry(lock.handle.clone()).or_default().push(unsure);
    }

    // --- what ends it

    /// Its owner was seen to unlock these bytes, or to lock or reclaim them with success.
    pub(crate) fn sure(&mut self, owner: &OwnerKey, file: &FileHandle, range: ByteRange) {
        let Some(locks) = self.locks.get_mut(file) else { return };
        let mut changed = false;
        locks.retain_mut(|lock| {
            if lock.owner() != *owner || !lock.range.overlaps(range) {
                return true;
            }
            let left = trimmed(lock.range, range);
            changed |= left != Some(lock.range);
            lock.range = left.unwrap_or(lock.range);
            left.is_some()
        });
        if locks.is_empty() {
            self.locks.remove(file);
        }
        self.changed |= changed;
    }

    /// lockd has freed all that was locked this way.
    pub(crate) fn freed_all(&mut self, way: &Way) {
        let before = self.all().count();
        self.locks.retain(|_, locks| {
            locks.retain(|lock| lock.owner().way != *way);
            !locks.is_empty()
        });
        self.changed |= self.all().count() != before;
    }
}

/// Clients by what tells them.
struct Doubts<'a> {
    addresses: HashMap<IpAddr, &'a Doubt>,
    names: HashMap<&'a CallerName, &'a Doubt>,
}

impl<'a> Doubts<'a> {
    /// The weightier one counts.
    fn of(clients: &'a [UnsureClient]) -> Self {
        let mut found = Self { addresses: HashMap::new(), names: HashMap::new() };
        let is_refused = |client: &&UnsureClient| client.doubt.kind == DoubtKind::Refused;
        let (first, then): (Vec<_>, Vec<_>) = clients.iter().partition(is_refused);
        for client in first.into_iter().chain(then) {
            for address in client.addresses.as_slice() {
                found.addresses.entry(address.0).or_insert(&client.doubt);
            }
            found.names.entry(&client.name).or_insert(&client.doubt);
        }
        found
    }

    fn about(&self, lock: &HeldLock) -> Option<&'a Doubt> {
        self.addresses.get(&lock.owner.way.client.0).or_else(|| self.names.get(&lock.caller)).copied()
    }
}

/// What is left of the first range. One that would be cut in two stays whole, so that their number is bounded.
fn trimmed(range: ByteRange, gone: ByteRange) -> Option<ByteRange> {
    let mut left = without(range, gone);
    match (left.next(), left.next()) {
        (Some(_), Some(_)) => Some(range),
        (one, _) => one,
    }
}
