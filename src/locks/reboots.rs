//! A client's locks end when it reboots: reboot notices (SM_NOTIFY), and FREE_ALL.
//!
//! # Theory
//! A notice says "the host of this name is up with this number". It comes from some address, and may be late,
//! repeated, another host's, or forged. It frees only locks that were taken from its source address, and of these
//! only such as were taken under an older number.
//!
//! Which machine is it? Each client at the source whose name is the notice's (case and a dot at the end do not
//! count), and each whose name matches it (short and full form) if no other client there tells against it: behind
//! a NAT, `x` may be `x.one.org` or `x.two.org`. A notice that names its own source address means the machine there,
//! if all names there are spellings of one. So a client that has nothing, under one spelling, does not take away the
//! notice that the other spelling's locks wait for.
//!
//! What does it free?
//! | the notice's number | what it frees |
//! |---|---|
//! | newer than the lock's | the lock |
//! | the lock's, or an older one | nothing of it: a repetition, a late one, or a host that forgets its number |
//! | that of the last notice | nothing |
//!
//! FREE_ALL is of the same machine, and frees all of it: no number tells its lives apart.
//!
//! Where nothing is freed although a client that may be meant has something, it is a suspect: so are other
//! names at the source if none there is meant, and clients of that name at other addresses. They may be the same
//! machine, or another one.
//!
//! Why the other addresses' statds are not asked (SM_STAT) whether it is one machine: no answer proves that the
//! locks from there are gone. A number to compare with would have to be that statd's own, since LOCK's is the
//! kernel's copy, which differs from it on hosts that never rebooted. And statd's own goes up without a reboot too
//! (`sm-notify -f`, a failover or a forced resync on that host, a statd started anew): its host has its locks then.
//! So they stay until a notice comes from there, a run finds out, or the operator releases them.

use std::net::IpAddr;

use super::api::{ClientId, Effect, Handled, Reboot, Verdict};
use super::clients::Client;
use super::freeing::Freeing;
use super::segment::Segment;
use super::table::{LockTable, STEP};
use crate::units::count;
use crate::wire::scope;
use crate::wire::types::{CallerName, NsmState};

/// Most clients that one notice makes suspects: a name that so many have tells nothing.
const MAX_SUSPECTS: usize = 64;
/// Most names at one address that are taken for spellings of one.
const MAX_SPELLINGS: usize = 16;

/// What a step freed.
#[derive(Default)]
struct Freed {
    now: u64,
    in_all: u64,
    more: bool,
}

/// Whether the name is the source's own address.
fn is_address(name: &CallerName, source: IpAddr) -> bool {
    let text = name.as_str();
    // Behind a link-local one stands the name of the client's own interface, which says nothing here.
    let address = text.split('%').next().unwrap_or(text);
    let address = address.strip_suffix('.').unwrap_or(address).parse();
    address.is_ok_and(|address: IpAddr| address.to_canonical() == scope::bare(source))
}

impl LockTable {
    /// SM_NOTIFY came from `source` and names `name`: that host has rebooted. Releases what the machine's
    /// clients took from there in earlier lives.
    pub fn reboot_notice(&mut self, source: IpAddr, name: &CallerName, state: NsmState) -> Reboot {
        let (machine, doubtful) = self.meant_by_notice(source, name);
        if machine.iter().any(|client| self.is_frozen_for(*client)) {
            return Reboot::Wait;
        }
        let mut outcome = Reboot::Unknown;
        for client in &machine {
            outcome = match (outcome, self.rebooted(*client, state)) {
                (_, Reboot::More) => return Reboot::More,
                (Reboot::Released(before), Reboot::Released(more)) => Reboot::Released(before + more),
                (Reboot::Released(before), _) => Reboot::Released(before),
                (_, last) => last,
            };
        }
        if let Reboot::Released(released) = outcome {
            self.announce(
                "reboot",
                format!("{name} at {source} has rebooted (state {state}): {} released", count(released, "lock")),
            );
        }
        let elsewhere = self.clients.alike(name).filter(|(_, client)| client.address != source);
        let may_be_meant = doubtful.into_iter().chain(elsewhere.map(|(id, _)| id));
        let has_something = |id: &ClientId| self.clients.get(*id).is_some_and(Client::has_something);
        let suspects: Vec<ClientId> = may_be_meant.filter(has_something).take(MAX_SUSPECTS).collect();
        for client in suspects {
            self.suspect(client, &format!("a reboot notice from {source} named {name}"));
        }
        outcome
    }

    /// The name by which a notice keeps its place among the machine's calls: one that names its source's address
    /// goes by the name in them.
    pub fn name_in_calls(&self, source: IpAddr, name: &CallerName) -> CallerName {
        let by_address = is_address(name, source);
        let machine = if by_address { self.meant_by_notice(source, name).0 } else { Vec::new() };
        let known = machine.first().and_then(|client| self.clients.get(*client));
        known.map_or_else(|| name.clone(), |client| client.name.clone())
    }

    /// Those at the source that the notice means, and those there that it may mean: all, if it means none.
    fn meant_by_notice(&self, source: IpAddr, name: &CallerName) -> (Vec<ClientId>, Vec<ClientId>) {
        let here = || self.clients.at(source).iter().filter_map(|id| Some((*id, self.clients.get(*id)?)));
        let by_address = is_address(name, source);
        let may_mean = |client: &Client| by_address || client.name.matches(name);
        let meant = || here().filter(|(_, client)| may_mean(client));
        let few = meant().take(MAX_SPELLINGS + 1).count() <= MAX_SPELLINGS;
        let surely = |client: &Client| {
            let alone = || here().all(|(_, other)| other.name.matches(&client.name) == may_mean(other));
            client.name.is_same_as(name) || (few && alone())
        };
        let (machine, doubtful): (Vec<_>, Vec<_>) = meant().partition(|(_, client)| surely(client));
        let ids = |clients: Vec<(ClientId, &Client)>| clients.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        let (machine, doubtful) = (ids(machine), ids(doubtful));
        if machine.is_empty() { (machine, here().map(|(id, _)| id).collect()) } else { (machine, doubtful) }
    }

    fn rebooted(&mut self, id: ClientId, state: NsmState) -> Reboot {
        let Some(client) = self.clients.get(id) else { return Reboot::Unknown };
        let last = client.last_notice;
        let news = last.is_none_or(|last| state.is_after(last));
        let repeated = last == Some(state) || !state.is_known();
        let mut released = 0;
        if !repeated {
            let freed = self.free_some_of(id, Some(state));
            if freed.more && freed.now > 0 {
                let words = format!("a client that rebooted has lost {} so far", count(freed.in_all, "lock"));
                self.effects.push_back(Effect::Event("reboot", words));
            }
            if freed.more {
                return Reboot::More;
            }
            released = freed.in_all;
        }
        let Some(client) = self.clients.get_mut(id) else { return Reboot::Released(released) };
        if news && !repeated {
            client.last_notice = Some(state);
        }
        let late = client.nsm_state.is_known() && client.nsm_state.is_after(state);
        let is_doubtful = client.has_something() && (released == 0 || late);
        if is_doubtful {
            self.suspect(id, &format!("a reboot notice carried NSM state {state}, not newer than its locks'"));
        } else if !repeated {
            client.suspicions.clear();
        }
        if released > 0 || (news && !is_doubtful) { Reboot::Released(released) } else { Reboot::Repeated }
    }

    /// Whether a result is being written and the client has something pending.
    fn is_frozen_for(&self, client: ClientId) -> bool {
        self.run.as_ref().is_some_and(|run| run.is_frozen_for(client))
    }

    pub(super) fn free_all_of(&mut self, client: ClientId) -> Handled {
        let Some(client) = self.clients.get(client) else { return Handled::Reply(Verdict::Granted) };
        let (source, name) = (client.address, client.name.clone());
        self.free_all(source, &name)
    }

    /// FREE_ALL came from `source` and names `name`: the machine that a notice would mean has nothing any more.
    pub fn free_all(&mut self, source: IpAddr, name: &CallerName) -> Handled {
        let (machine, _) = self.meant_by_notice(source, name);
        if machine.iter().any(|client| self.is_frozen_for(*client)) {
            return Handled::Wait;
        }
        if machine.is_empty() {
            return Handled::Reply(Verdict::Granted);
        }
        let mut released = 0;
        for client in &machine {
            let freed = self.free_some_of(*client, None);
            released += freed.now;
            if freed.more {
                break;
            }
        }
        let more = machine.iter().any(|client| self.clients.get(*client).is_some_and(Client::has_something));
        if released > 0 || !more {
            let on = if more { ", and goes on" } else { "" };
            let words = format!("FREE_ALL of {name} at {source} released {}{on}", count(released, "lock"));
            self.effects.push_back(Effect::Event("free_all", words));
        }
        if more {
            return Handled::More;
        }
        Handled::Reply(Verdict::Granted)
    }

    /// Frees some more of what a notice of that number, or FREE_ALL, frees of the client: waiters, then segments.
    fn free_some_of(&mut self, id: ClientId, by: Option<NsmState>) -> Freed {
        let Some(client) = self.clients.get_mut(id) else { return Freed::default() };
        let [by_notice, by_free_all] = &mut client.freeing;
        let left = if by.is_some() { by_notice.take() } else { by_free_all.take() };
        let goes_on = |it: &Freeing| it.changes == client.changes() && it.covers(by);
        let mut freeing = left.filter(goes_on).unwrap_or_else(|| Freeing::begun(by));
        let last = client.last_notice;
        let taken_in = |taken_in: NsmState| match freeing.by {
            Some(state) if taken_in.is_known() => state.is_after(taken_in),
            // Where a lock's own number is not known, that of the last notice stands for it.
            Some(state) => last.is_none_or(|last| state.is_after(last)),
            None => true,
        };
        self.forget_had(id, taken_in);
        let mut now = self.drop_waiters_of(id, |waiter| taken_in(waiter.want.lock.state));
        let mut looks = STEP - now;
        let mut more = true;
        while looks > 0 {
            // A file in which nothing is to be freed costs time, too.
            looks -= 1;
            let Some(file) = self.clients.get(id).and_then(|client| client.held_from(freeing.file)) else {
                more = false;
                break;
            };
            if file != freeing.file {
                (freeing.file, freeing.after) = (file, None);
            }
            if !self.purge_within(file, &mut looks) {
                break;
            }
            let his = |s: &Segment| s.client == id && taken_in(s.state);
            let (taken, next) = self.cut_after(file, freeing.after, &mut looks, his);
            now += taken.len();
            self.renew_offers_of(file, &taken);
            self.refresh(file);
            freeing.after = next;
            if next.is_none() {
                freeing.file = file.next();
            }
        }
        freeing.freed += now as u64;
        let more = more && self.clients.get(id).is_some_and(Client::has_something);
        if let Some(client) = self.clients.get_mut(id).filter(|_| more) {
            freeing.changes = client.changes();
            let [by_notice, by_free_all] = &mut client.freeing;
            *(if by.is_some() { by_notice } else { by_free_all }) = Some(freeing);
        }
        Freed { now: now as u64, in_all: freeing.freed, more: more || freeing.by != by }
    }
}
