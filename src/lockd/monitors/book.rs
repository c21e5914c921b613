//! The monitor records of this host's programs: which there are, and whom a notice means. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::lockd::persist::{LocalMonitor, ToTell};
use crate::wire::nsm::{MonId, MyId};
use crate::wire::types::{CallerName, NsmState};

/// Most records, with the hosts that still have to be told: what a local program can make nlmd keep.
pub(super) const MAX: usize = 8_192;

#[derive(Debug)]
struct Entry {
    monitor: LocalMonitor,
    /// The state of the last notice: the same one again is a repetition.
    last: Option<NsmState>,
}

/// All records.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: BTreeMap<MonId, Entry>,
}

impl Book {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The record of this request, if it asks for nothing new.
    pub(super) fn is_known(&self, id: &MonId, private: &[u8; 16], privileged: bool) -> bool {
        self.entries
            .get(id)
            .is_some_and(|entry| entry.monitor.private == *private && entry.monitor.privileged == privileged)
    }

    pub(super) fn has(&self, id: &MonId) -> bool {
        self.entries.contains_key(id)
    }

    pub(super) fn get(&self, id: &MonId) -> Option<&LocalMonitor> {
        self.entries.get(id).map(|entry| &entry.monitor)
    }

    pub(super) fn insert(&mut self, monitor: LocalMonitor) {
        self.entries.insert(monitor.id.clone(), Entry { monitor, last: None });
    }

    pub(super) fn remove(&mut self, id: &MonId) -> bool {
        self.entries.remove(id).is_some()
    }

    /// Removes all of one asker; how many there were.
    pub(super) fn remove_all(&mut self, asker: &MyId) -> usize {
        let before = self.entries.len();
        self.entries.retain(|id, _| id.my_id != *asker);
        before - self.entries.len()
    }

    /// Empties it: every host is one to tell.
    pub(super) fn take(&mut self) -> Vec<ToTell> {
        ToTell::all_of(std::mem::take(&mut self.entries).into_values().map(|entry| entry.monitor))
    }

    /// The records that a notice from `source` under `name` means, and that have not heard this
    /// state yet. The source must be the host's: a stranger's notice means nobody. Of several hosts
    /// there (an address that is shared) the name tells which; a name that none of them has is an
    /// alias where one host alone is there, and otherwise may be anybody's (`None`).
    pub(super) fn rebooted(&mut self, source: IpAddr, name: &CallerName, state: NsmState) -> Option<Vec<MonId>> {
        let here = |entry: &Entry| entry.monitor.addresses.contains(&source);
        let named = |entry: &Entry| {
            let mon_name = &entry.monitor.id.mon_name;
            mon_name.as_str().parse::<IpAddr>().is_ok() || mon_name.matches(name)
        };
        let any_named = self.entries.values().any(|entry| here(entry) && named(entry));
        let mut hosts = self.entries.values().filter(|entry| here(entry)).map(|entry| &entry.monitor.id.mon_name);
        let first = hosts.next();
        if !any_named && hosts.any(|other| Some(other) != first) {
            return None;
        }
        let mut meant = Vec::new();
        for (id, entry) in &mut self.entries {
            if here(entry) && (named(entry) || !any_named) && entry.last != Some(state) {
                entry.last = Some(state);
                meant.push(id.clone());
            }
        }
        Some(meant)
    }

    /// The monitored hosts that may have this name, and were not at `source` when that was asked for.
    pub(super) fn elsewhere(&self, source: IpAddr, name: &CallerName) -> BTreeSet<CallerName> {
        let moved =
            |entry: &&Entry| entry.monitor.id.mon_name.matches(name) && !entry.monitor.addresses.contains(&source);
        self.entries.values().filter(moved).map(|entry| entry.monitor.id.mon_name.clone()).collect()
    }

    /// The host that programs gave as `mon_name` is at these addresses now.
    pub(super) fn found_at(&mut self, mon_name: &CallerName, addresses: &[IpAddr]) {
        for entry in self.entries.values_mut().filter(|entry| entry.monitor.id.mon_name == *mon_name) {
            entry.monitor.addresses = addresses.to_vec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> CallerName {
        CallerName::new(text).unwrap()
    }

    fn ip(last: u8) -> IpAddr {
        std::net::Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn monitor(host: &str, program: u32, at: &[u8]) -> LocalMonitor {
        let my_id = MyId { my_name: name("me"), my_prog: program, my_vers: 1, my_proc: 7 };
        let id = MonId { mon_name: name(host), my_id };
        let addresses = at.iter().map(|last| ip(*last)).collect();
        LocalMonitor { id, private: [1; 16], privileged: false, addresses }
    }

    fn book(monitors: Vec<LocalMonitor>) -> Book {
        let mut book = Book::default();
        for monitor in monitors {
            book.insert(monitor);
        }
        book
    }

    fn meant(book: &mut Book, source: u8, notice: &str, state: i32) -> Vec<String> {
        let meant = book.rebooted(ip(source), &name(notice), NsmState(state)).unwrap_or_default();
        meant.into_iter().map(|id| format!("{} {}", id.mon_name, id.my_id.my_prog)).collect()
    }

    #[test]
    fn a_notice_means_the_host_at_its_source_and_each_program_that_asked() {
        let mut book = book(vec![monitor("a.example.org", 1, &[1]), monitor("a.example.org", 2, &[1])]);
        assert_eq!(meant(&mut book, 2, "a", 3), [""; 0], "from a stranger");
        assert_eq!(meant(&mut book, 1, "a", 3), ["a.example.org 1", "a.example.org 2"]);
        assert_eq!(meant(&mut book, 1, "a", 3), [""; 0], "a repetition");
        assert_eq!(meant(&mut book, 1, "a", 1).len(), 2, "any other number is news, a lower one too");
    }

    #[test]
    fn the_name_tells_hosts_behind_one_address_apart_and_an_alias_means_a_host_alone_there() {
        let mut book = book(vec![monitor("a", 1, &[1]), monitor("b", 1, &[1, 2])]);
        assert_eq!(meant(&mut book, 1, "a", 3), ["a 1"]);
        assert_eq!(meant(&mut book, 1, "b.example.org", 3), ["b 1"]);
        assert_eq!(book.rebooted(ip(1), &name("alias"), NsmState(5)), None, "whose?");
        assert_eq!(meant(&mut book, 2, "alias", 5), ["b 1"]);
    }

    #[test]
    fn a_host_given_by_its_address_is_meant_whatever_it_calls_itself() {
        let mut book = book(vec![monitor("192.0.2.1", 1, &[1])]);
        assert_eq!(meant(&mut book, 1, "whoever", 3), ["192.0.2.1 1"]);
    }

    #[test]
    fn a_host_that_has_moved_is_meant_after_a_new_look_at_its_name() {
        let mut book = book(vec![monitor("a", 1, &[1]), monitor("a.example.net", 1, &[2])]);
        let elsewhere = |book: &Book, host: &str| Vec::from_iter(book.elsewhere(ip(9), &name(host)));
        assert_eq!(elsewhere(&book, "a.example.org"), [name("a")]);
        assert_eq!(elsewhere(&book, "b"), []);
        book.found_at(&name("a"), &[ip(9)]);
        assert_eq!(meant(&mut book, 9, "a", 3), ["a 1"]);
        assert_eq!(elsewhere(&book, "a"), [name("a.example.net")], "another host: it has not moved with this one");
    }

    #[test]
    fn what_one_program_asked_for_is_removed_without_another_ones() {
        let mut book = book(vec![monitor("a", 1, &[1]), monitor("b", 1, &[2]), monitor("a", 2, &[1])]);
        assert!(book.remove(&monitor("a", 1, &[1]).id) && !book.remove(&monitor("a", 1, &[1]).id));
        assert_eq!(book.remove_all(&monitor("x", 1, &[]).id.my_id), 1);
        assert_eq!(book.len(), 1);
        assert_eq!(book.take().len(), 1);
        assert_eq!(book.len(), 0);
    }
}
