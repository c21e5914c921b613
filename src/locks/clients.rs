//! The clients: who they are, what they hold, which of them makes room.
//!
//! A client is exactly one source address (without port) and one caller_name. What one client sends frees
//! and changes nothing of another's.
//! - One name at several addresses: so many clients. That the name resolves to all of them proves nothing:
//!   containers and clones share a name, and count their processes alike.
//! - Several names at one address: so many clients. They may be hosts behind a NAT, or spellings of one
//!   host's name ([`matches`](CallerName::matches)); where that matters, the code says what it takes as proof.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::api::{ClientId, ClientView, Limits};
use super::index::Index;
use super::owners::Owners;
use super::segment::FileId;
use super::segments::Change;
use crate::wire::control::ClientRef;
use crate::wire::types::{Address, CallerName, NsmState};
use crate::wire::xdr::List;

/// Most suspicions kept of one client, and server addresses it called.
const MAX_SUSPICIONS: usize = 8;
const MAX_SERVER_ADDRESSES: usize = 16;

/// How much is held, pending or waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Locks and shares.
    pub(super) locks: usize,
    /// Of them, unmonitored ones.
    pub(super) unmonitored: usize,
    pub(super) waiters: usize,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: CallerName,
    pub(super) address: IpAddr,
    pub(super) server_addresses: Vec<IpAddr>,
    /// As its LOCKs carried it.
    pub(super) nsm_state: NsmState,
    /// The state of its last reboot notice.
    pub(super) last_notice: Option<NsmState>,
    pub(super) monitored: bool,
    pub(super) suspicions: Vec<String>,
    held: Held,
    /// Locks and shares, by the server address that it called for them.
    paths: BTreeMap<IpAddr, Held>,
    /// Locks and shares held or pending, by file.
    files: BTreeMap<FileId, usize>,
    /// Waiters, by file.
    waited: BTreeMap<FileId, usize>,
    /// Its place in the queue of those that make room, while it has no lock and no waiter.
    idle_since: Option<u64>,
}

impl Client {
    pub(super) fn held(&self) -> Held {
        self.held
    }

    /// Locks and shares, by the server address that it called for them.
    pub(super) fn paths(&self) -> &BTreeMap<IpAddr, Held> {
        &self.paths
    }

    /// Whether it holds, pends or waits for anything.
    pub(super) fn has_something(&self) -> bool {
        self.held.locks > 0 || self.held.waiters > 0
    }

    /// The files in which it holds or pends something.
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> {
        self.files.keys().copied()
    }

    /// The first file from that one on in which it has something or waits.
    pub(super) fn file_from(&self, first: FileId) -> Option<FileId> {
        let from = |files: &BTreeMap<FileId, usize>| files.range(first..).next().map(|(file, _)| *file);
        from(&self.files).into_iter().chain(from(&self.waited)).min()
    }

    #[cfg(test)]
    pub(super) fn waited_with_counts(&self) -> impl Iterator<Item = (FileId, usize)> {
        self.waited.iter().map(|(file, count)| (*file, *count))
    }

    #[cfg(test)]
    pub(super) fn files_with_counts(&self) -> impl Iterator<Item = (FileId, usize)> {
        self.files.iter().map(|(file, count)| (*file, *count))
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

fn short_key(name: &CallerName) -> String {
    name.short().to_ascii_lowercase()
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    by_id: BTreeMap<ClientId, Client>,
    by_key: HashMap<(IpAddr, CallerName), ClientId>,
    by_address: Index<IpAddr, ClientId>,
    /// By the short name in small letters: names that may be one host's stand together.
    by_short: Index<String, ClientId>,
    /// Clients without locks and waiters, the longest idle first.
    idle: BTreeSet<(u64, ClientId)>,
    held: Held,
    monitored: usize,
    next_id: u32,
    clock: u64,
}

impl Clients {
    pub(super) fn get(&self, id: ClientId) -> Option<&Client> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ClientId, &Client)> {
        self.by_id.iter().map(|(id, client)| (*id, client))
    }

    pub(super) fn after(&self, id: u32) -> impl Iterator<Item = (ClientId, &Client)> {
        self.by_id.range(ClientId(id)..).map(|(id, client)| (*id, client))
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

    /// Makes the client. The one idle the longest makes room (given back to be forgotten): of all
    /// clients when the table is full, of this address' ones when the address is. `None`: all have
    /// locks.
    pub(super) fn add(
        &mut self,
        address: IpAddr,
        name: &CallerName,
        limits: &Limits,
    ) -> Option<(ClientId, Vec<ClientId>)> {
        let mut gone = Vec::new();
        if self.at(address).len() >= limits.clients_per_address {
            let oldest = self.at(address).iter().filter_map(|id| Some((self.get(*id)?.idle_since?, *id))).min();
            gone.push(oldest?.1);
        }
        if self.by_id.len() - gone.len() >= limits.clients {
            gone.push(self.idle.iter().map(|(_, id)| *id).find(|id| !gone.contains(id))?);
        }
        for id in &gone {
            self.remove(*id);
        }
        let id = ClientId(self.next_id);
        self.next_id = self.next_id.checked_add(1)?;
        let client = Client {
            name: name.clone(),
            address,
            server_addresses: Vec::new(),
            nsm_state: NsmState(0),
            last_notice: None,
            monitored: false,
            suspicions: Vec::new(),
            held: Held::default(),
            paths: BTreeMap::new(),
            files: BTreeMap::new(),
            waited: BTreeMap::new(),
            idle_since: None,
        };
        self.by_id.insert(id, client);
        self.update(id, |_| {});
        self.by_short.add(short_key(name), id);
        self.by_key.insert((address, name.clone()), id);
        self.by_address.add(address, id);
        Some((id, gone))
    }

    pub(super) fn monitored(&self) -> usize {
        self.monitored
    }

    pub(super) fn set_monitored(&mut self, id: ClientId, monitored: bool) {
        let Some(client) = self.by_id.get_mut(&id) else { return };
        self.monitored -= usize::from(client.monitored);
        self.monitored += usize::from(monitored);
        client.monitored = monitored;
    }

    fn remove(&mut self, id: ClientId) {
        let Some(client) = self.by_id.remove(&id) else { return };
        self.monitored -= usize::from(client.monitored);
        self.by_address.remove(&client.address, &id);
        self.by_short.remove(&short_key(&client.name), &id);
        self.by_key.remove(&(client.address, client.name));
        if let Some(since) = client.idle_since {
            self.idle.remove(&(since, id));
        }
    }

    /// The client called this server address: it is the last one to make room.
    pub(super) fn called(&mut self, id: ClientId, server_address: IpAddr) {
        let Some(client) = self.by_id.get_mut(&id) else { return };
        if let Some(since) = client.idle_since.take() {
            self.idle.remove(&(since, id));
        }
        self.update(id, |client| {
            if !client.server_addresses.contains(&server_address) {
                if client.server_addresses.len() >= MAX_SERVER_ADDRESSES {
                    // One that it holds nothing through, if there is one: from the others it is to be told.
                    let idle = client.server_addresses.iter().position(|address| !client.paths.contains_key(address));
                    client.server_addresses.remove(idle.unwrap_or(0));
                }
                client.server_addresses.push(server_address);
            }
        });
    }

    /// Changes the client, and puts it in or out of the queue of those that make room, as its counts say.
    fn update(&mut self, id: ClientId, change: impl FnOnce(&mut Client)) {
        let Some(client) = self.by_id.get_mut(&id) else { return };
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

    /// Of all clients.
    pub(super) fn held(&self) -> Held {
        self.held
    }

    pub(super) fn observe(&mut self, change: &Change, owners: &Owners) {
        for (segment, before, after) in change.counts() {
            let recount = |held: &mut Held| {
                held.locks = held.locks + after - before;
                if !segment.monitored {
                    held.unmonitored = held.unmonitored + after - before;
                }
            };
            recount(&mut self.held);
            let path = owners.key(segment.owner).map(|key| key.via.server_address);
            self.update(segment.client, |client| {
                recount(&mut client.held);
                if let Some(path) = path {
                    let held = client.paths.entry(path).or_default();
                    recount(held);
                    if held.locks == 0 {
                        client.paths.remove(&path);
                    }
                }
                let count = client.files.entry(change.file()).or_default();
                *count = *count + after - before;
                if *count == 0 {
                    client.files.remove(&change.file());
                }
            });
        }
    }

    pub(super) fn waiter_added(&mut self, id: ClientId, file: FileId) {
        self.held.waiters += 1;
        self.update(id, |client| {
            client.held.waiters += 1;
            *client.waited.entry(file).or_default() += 1;
        });
    }

    pub(super) fn waiter_removed(&mut self, id: ClientId, file: FileId) {
        self.held.waiters -= 1;
        self.update(id, |client| {
            client.held.waiters -= 1;
            let count = client.waited.entry(file).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                client.waited.remove(&file);
            }
        });
    }
}
