//! The clients: their identity, what they hold, and which client makes room for a new one.
//!
//! A client is exactly one source address (without port) and one caller_name. What one client sends frees
//! and changes nothing of another's.
//! - One name at several addresses is that many clients. That the name resolves to all of them proves nothing:
//!   containers and clones share a name, and count their processes alike.
//! - Several names at one address are that many clients. They may be hosts behind a NAT, or spellings of one
//!   host's name ([`matches`](CallerName::matches)); where that matters, the code says what it takes as proof.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ahash::RandomState;

use super::api::{self, ClientId, ClientView};
use super::file::Has;
use super::freeing::Freeing;
use super::held::{Held, Paths};
use super::index::Index;
use super::owners::Owners;
use super::segment::{FileId, OwnerId};
use super::segments::{Change, Segments};
use super::series::Series;
use crate::shares::{Bounds, Full, Holder, Shares};
use crate::spread::Spread;
use crate::wire::control::ClientRef;
use crate::wire::types::{Address, CallerName, FileHandle, NsmState, Svid};
use crate::wire::xdr::List;

/// Most suspicions kept of one client, and server addresses it called.
const MAX_SUSPICIONS: usize = 8;
const MAX_SERVER_ADDRESSES: usize = 16;
/// Most processes of a client of which it is kept that they are several. Beyond it all count so.
const MAX_APART: usize = 64;

/// Bytes of file handle and owner handle that go with one lock. NFSv3 has 64 at most of the one, and systems
/// make the other of a number and a host name.
const NAMED_BY: usize = 256;

/// As how many locks one counts that has a handle and an owner of many bytes.
pub(super) fn weight(file: Option<&FileHandle>, owners: &Owners, owner: OwnerId) -> usize {
    let oh = owners.key(owner).map_or(0, |key| key.process.oh.as_slice().len());
    let bytes = file.map_or(0, |file| file.as_slice().len()) + oh;
    bytes.div_ceil(NAMED_BY).max(1)
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: CallerName,
    pub(super) address: IpAddr,
    pub(super) server_addresses: Vec<IpAddr>,
    /// As its LOCKs carried it.
    pub(super) nsm_state: NsmState,
    /// The number before that.
    former_state: NsmState,
    /// A number came back after another one was used: two machines have this name here.
    pub(super) has_two_lives: bool,
    /// The state of its last reboot notice.
    pub(super) last_notice: Option<NsmState>,
    /// What a notice, and what FREE_ALL frees of it takes several steps.
    pub(super) freeing: [Option<Freeing>; 2],
    pub(super) monitored: bool,
    pub(super) suspicions: Vec<String>,
    /// The time of its last call.
    pub(super) heard_at: Duration,
    /// The request that has waited for its lock for long, and what that tells of it.
    pub(super) keeps_waiting: Option<(u64, String)>,
    /// Numbers of processes that several use at a time, under different spellings.
    apart: Vec<Svid>,
    /// How often something that is listed of it came, went or changed.
    changes: u64,
    held: Held,
    /// Locks and shares, by the server address that it called for them.
    paths: Paths,
    /// Files on which it holds or pends something.
    files: BTreeSet<FileId>,
    /// Waiters, by file.
    waited: BTreeMap<FileId, u32>,
    /// Its place in the queue of those that make room, while it has no lock and no waiter.
    idle_since: Option<u64>,
}

impl Client {
    pub(super) fn held(&self) -> Held {
        self.held
    }

    /// How often something that is listed of it came, went or changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Locks and shares, by the server address that it called for them.
    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Whether it holds, pends or waits for anything.
    pub(super) fn has_something(&self) -> bool {
        self.held.locks > 0 || self.held.waiters > 0
    }

    /// The files in which it holds or pends something.
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> {
        self.files.iter().copied()
    }

    /// From now on no spellings of the process of this number are taken for one.
    pub(super) fn keep_apart(&mut self, svid: Svid) {
        if !self.keeps_apart(svid) {
            self.apart.push(svid);
        }
    }

    pub(super) fn keeps_apart(&self, svid: Svid) -> bool {
        self.apart.len() >= MAX_APART || self.apart.contains(&svid)
    }

    /// The first file from that one on in which it has something.
    pub(super) fn held_from(&self, first: FileId) -> Option<FileId> {
        self.files.range(first..).next().copied()
    }

    /// The first file from that one on in which it has something or waits.
    pub(super) fn file_from(&self, first: FileId) -> Option<FileId> {
        let waited = self.waited.range(first..).next().map(|(file, _)| *file);
        self.held_from(first).into_iter().chain(waited).min()
    }

    #[cfg(test)]
    pub(super) fn waited_with_counts(&self) -> impl Iterator<Item = (FileId, u32)> {
        self.waited.iter().map(|(file, count)| (*file, *count))
    }

    pub(super) fn view(&self) -> ClientView {
        ClientView {
            name: self.name.clone(),
            address: self.address,
            server_addresses: self.server_addresses.clone(),
            nsm_state: self.nsm_state,
            monitored: self.monitored,
        }
    }

    /// Why it is a suspect. Nothing: it is none.
    pub(super) fn reasons(&self) -> impl Iterator<Item = &String> {
        self.keeps_waiting.iter().map(|(_, why)| why).chain(&self.suspicions)
    }

    /// Its LOCK carries a number that is not the one before.
    pub(super) fn learn_state(&mut self, state: NsmState) {
        self.has_two_lives |= state == self.former_state;
        self.former_state = std::mem::replace(&mut self.nsm_state, state);
    }

    /// Whether that is news.
    pub(super) fn suspect(&mut self, why: &str) -> bool {
        let news = self.suspicions.len() < MAX_SUSPICIONS && !self.suspicions.iter().any(|s| s == why);
        if news {
            self.suspicions.push(why.to_owned());
        }
        news
    }
}

pub(super) fn address_list(addresses: &[IpAddr]) -> List<Address, MAX_SERVER_ADDRESSES> {
    List::clipped(addresses.iter().copied().map(Address).collect())
}

/// A file with a count of nothing is not kept.
fn recount_file(counts: &mut BTreeMap<FileId, u32>, file: FileId, before: usize, after: usize) {
    let [before, after] = [before, after].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    let count = counts.entry(file).or_default();
    *count = count.saturating_add(after).saturating_sub(before);
    if *count == 0 {
        counts.remove(&file);
    }
}

fn short_key(name: &CallerName) -> String {
    name.short().to_ascii_lowercase()
}

#[derive(Debug)]
pub(super) struct Clients {
    by_id: Series<Client>,
    by_key: Spread<((IpAddr, CallerName), ClientId), RandomState>,
    by_address: Index<IpAddr, ClientId>,
    /// By the short name in small letters: names that may be one host's stand together.
    by_short: Index<String, ClientId>,
    /// Clients without locks and waiters, the longest idle first.
    idle: BTreeSet<(u64, ClientId)>,
    held: Held,
    /// Clients, and the weight of their locks and waiters, by the address they call from.
    hosts: Shares<RandomState>,
    locks: Shares<RandomState>,
    waiters: Shares<RandomState>,
    monitored: usize,
    clock: u64,
}

impl Clients {
    pub(super) fn new(hash: &RandomState) -> Self {
        Self {
            by_id: Series::new(),
            by_key: Spread::hashed(hash.clone()),
            by_address: Index::new(hash),
            by_short: Index::new(hash),
            idle: BTreeSet::new(),
            held: Held::default(),
            hosts: Shares::hashed(hash),
            locks: Shares::hashed(hash),
            waiters: Shares::hashed(hash),
            monitored: 0,
            clock: 0,
        }
    }

    pub(super) fn get(&self, id: ClientId) -> Option<&Client> {
        self.by_id.get(id.0)
    }

    pub(super) fn get_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.by_id.get_mut(id.0)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (ClientId, &Client)> {
        self.after(0)
    }

    pub(super) fn after(&self, id: u32) -> impl Iterator<Item = (ClientId, &Client)> {
        self.by_id.from(id).map(|(id, client)| (ClientId(id), client))
    }

    pub(super) fn find(&self, address: IpAddr, name: &CallerName) -> Option<ClientId> {
        self.by_key.get(&(address, name.clone())).copied()
    }

    pub(super) fn at(&self, address: IpAddr) -> &[ClientId] {
        self.by_address.get(&address)
    }

    /// Clients whose name may be this host's: equal, or one is the other's short form.
    pub(super) fn alike<'a>(&'a self, name: &'a CallerName) -> impl Iterator<Item = (ClientId, &'a Client)> {
        let ids = self.by_short.get(&short_key(name)).iter();
        ids.filter_map(|id| Some((*id, self.get(*id)?))).filter(|(_, client)| client.name.matches(name))
    }

    /// Those that the reference may mean, the oldest first.
    pub(super) fn candidates(&self, reference: &ClientRef) -> &[ClientId] {
        match (&reference.name.0, reference.address.0) {
            (_, Some(address)) => self.at(address.0),
            (Some(name), None) => self.by_short.get(&short_key(name)),
            (None, None) => &[],
        }
    }

    /// Whether the reference means this one: of that name (full or short) and at that address, as far as it
    /// gives them.
    pub(super) fn is_meant(&self, id: ClientId, reference: &ClientRef) -> bool {
        let named = |client: &Client| reference.name.0.as_ref().is_none_or(|name| client.name.matches(name));
        let at = |client: &Client| reference.address.0.is_none_or(|address| client.address == address.0);
        self.get(id).is_some_and(|client| named(client) && at(client))
    }

    /// The clients that the reference means.
    pub(super) fn meant(&self, reference: &ClientRef) -> Vec<ClientId> {
        self.candidates(reference).iter().copied().filter(|id| self.is_meant(*id, reference)).collect()
    }

    /// Whether another name calls from the client's address.
    pub(super) fn shares_address(&self, client: &Client) -> bool {
        self.at(client.address).len() > 1
    }

    /// Whether one more there goes into the table as it is.
    pub(super) fn has_room_at(&self, address: IpAddr, bounds: Bounds) -> bool {
        self.hosts.room(bounds, Holder::Host(address), 1).is_ok()
    }

    /// The client that makes room for one more there, where there is none: the one idle the longest, of the address'
    /// own; in a full table of all, if the address has none.
    pub(super) fn makes_room(&self, address: IpAddr, bounds: Bounds) -> Result<Option<ClientId>, api::Full> {
        let own = || self.at(address).iter().filter_map(|id| Some((self.get(*id)?.idle_since?, *id))).min();
        let idle = match self.hosts.room(bounds, Holder::Host(address), 1) {
            Ok(()) => return Ok(None),
            Err(Full::Share) => own(),
            Err(Full::Table) => own().or_else(|| self.idle.first().copied()),
        };
        idle.map(|(_, id)| Some(id)).ok_or(api::Full)
    }

    /// No client has this number or a higher one.
    pub(super) fn next_number(&self) -> u32 {
        self.by_id.next()
    }

    pub(super) fn add(&mut self, address: IpAddr, name: &CallerName) -> Option<ClientId> {
        let client = Client {
            name: name.clone(),
            address,
            server_addresses: Vec::new(),
            nsm_state: NsmState(0),
            former_state: NsmState(0),
            has_two_lives: false,
            last_notice: None,
            freeing: [None; 2],
            monitored: false,
            suspicions: Vec::new(),
            heard_at: Duration::ZERO,
            keeps_waiting: None,
            apart: Vec::new(),
            changes: 0,
            held: Held::default(),
            paths: Paths::default(),
            files: BTreeSet::new(),
            waited: BTreeMap::new(),
            idle_since: None,
        };
        let id = ClientId(self.by_id.add(client)?);
        self.update(id, |_| {});
        self.by_short.add(short_key(name), id);
        self.by_key.insert((address, name.clone()), id);
        self.by_address.add(address, id);
        self.hosts.take(Holder::Host(address), 1);
        Some(id)
    }

    pub(super) fn monitored(&self) -> usize {
        self.monitored
    }

    pub(super) fn set_monitored(&mut self, id: ClientId, monitored: bool) {
        let Some(client) = self.by_id.get_mut(id.0) else { return };
        self.monitored -= usize::from(client.monitored);
        self.monitored += usize::from(monitored);
        client.monitored = monitored;
    }

    pub(super) fn remove(&mut self, id: ClientId) {
        let Some(client) = self.by_id.remove(id.0) else { return };
        self.monitored -= usize::from(client.monitored);
        self.by_address.remove(&client.address, &id);
        self.hosts.give_back(Holder::Host(client.address), 1);
        self.by_short.remove(&short_key(&client.name), &id);
        self.by_key.remove(&(client.address, client.name));
        if let Some(since) = client.idle_since {
            self.idle.remove(&(since, id));
        }
    }

    /// The client called this server address: it is the last one to make room.
    pub(super) fn called(&mut self, id: ClientId, server_address: IpAddr) {
        let Some(client) = self.by_id.get_mut(id.0) else { return };
        if let Some(since) = client.idle_since.take() {
            self.idle.remove(&(since, id));
        }
        self.update(id, |client| {
            if !client.server_addresses.contains(&server_address) {
                if client.server_addresses.len() >= MAX_SERVER_ADDRESSES {
                    // One that it holds nothing through, if there is one: from the others it is to be told.
                    let idle = client.server_addresses.iter().position(|address| !client.paths.has(*address));
                    client.server_addresses.remove(idle.unwrap_or(0));
                }
                client.server_addresses.push(server_address);
            }
        });
    }

    /// Changes the client, and puts it in or out of the queue of those that make room, as its counts say.
    fn update(&mut self, id: ClientId, change: impl FnOnce(&mut Client)) {
        let Some(client) = self.by_id.get_mut(id.0) else { return };
        change(client);
        let idle = !client.has_something();
        match (client.idle_since, idle) {
            (None, true) => {
                self.clock += 1;
                client.idle_since = Some(self.clock);
                self.idle.insert((self.clock, id));
            }
            (Some(since), false) => {
                client.idle_since = None;
                self.idle.remove(&(since, id));
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Something that is listed of it has changed.
    pub(super) fn changed(&mut self, id: ClientId) {
        if let Some(client) = self.by_id.get_mut(id.0) {
            client.changes += 1;
        }
    }

    /// Of all clients.
    pub(super) fn held(&self) -> Held {
        self.held
    }

    #[cfg(test)]
    pub(super) fn hosts(&self) -> &Shares<RandomState> {
        &self.hosts
    }

    pub(super) fn locks(&self) -> &Shares<RandomState> {
        &self.locks
    }

    pub(super) fn waiters(&self) -> &Shares<RandomState> {
        &self.waiters
    }

    fn holder(&self, id: ClientId) -> Option<Holder> {
        self.get(id).map(|client| Holder::Host(client.address))
    }

    /// The segments are as the change has left them.
    pub(super) fn observe(&mut self, change: &Change, owners: &Owners, segments: &Segments) {
        let (file, handle) = (change.file(), segments.handle(change.file()));
        for (segment, before, after) in change.counts() {
            if before == after {
                self.changed(segment.client);
                continue;
            }
            let recount = |held: &mut Held| {
                held.locks = held.locks + after - before;
                if !segment.monitored {
                    held.unmonitored = held.unmonitored + after - before;
                }
            };
            recount(&mut self.held);
            let has = segments.has_of(file, segment.client);
            let path = owners.key(segment.owner).map(|key| key.via.server_address);
            let mut holder = None;
            self.update(segment.client, |client| {
                holder = Some(Holder::Host(client.address));
                client.changes += 1;
                recount(&mut client.held);
                if let Some(path) = path {
                    client.paths.recount(path, recount);
                }
                // Its set of files is far from all else that a call needs: it is looked at only if it may change.
                match has {
                    Has::None => _ = client.files.remove(&file),
                    Has::One => _ = client.files.insert(file),
                    Has::More => {}
                }
            });
            let Some(holder) = holder else { continue };
            let weight = weight(handle, owners, segment.owner);
            if after > before {
                self.locks.take(holder, weight * (after - before));
            } else {
                self.locks.give_back(holder, weight * (before - after));
            }
        }
    }

    pub(super) fn waiter_added(&mut self, id: ClientId, file: FileId, weight: usize) {
        self.held.waiters += 1;
        if let Some(holder) = self.holder(id) {
            self.waiters.take(holder, weight);
        }
        self.update(id, |client| {
            client.changes += 1;
            client.held.waiters += 1;
            recount_file(&mut client.waited, file, 0, 1);
        });
    }

    pub(super) fn waiter_removed(&mut self, id: ClientId, file: FileId, weight: usize) {
        self.held.waiters -= 1;
        if let Some(holder) = self.holder(id) {
            self.waiters.give_back(holder, weight);
        }
        self.update(id, |client| {
            client.changes += 1;
            client.held.waiters -= 1;
            recount_file(&mut client.waited, file, 1, 0);
        });
    }
}
