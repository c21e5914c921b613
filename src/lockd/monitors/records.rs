//! The monitor records of this host's programs, and the records that a notice matches. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::lockd::persist::{LocalMonitor, ToTell};
use crate::wire::nsm::{MonId, MyId};
use crate::wire::types::{CallerName, NsmState};

/// Most records, with the hosts that still have to be told: what local programs can make nlmd keep.
pub(super) const MAX: usize = 8_192;
/// Of those, what programs without a port below 1024 may take: they must not keep root's lock manager out.
const UNPRIVILEGED: usize = MAX / 2;
/// What one of them may take, by the name that it gives itself.
const ONE_UNPRIVILEGED: usize = UNPRIVILEGED / 4;

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
    /// Whether there is room for one more record, beside `others` that are kept elsewhere.
    pub(super) fn has_room(&self, asker: &MyId, privileged: bool, others: usize) -> bool {
        let unprivileged = || self.entries.values().filter(|entry| !entry.monitor.privileged);
        let of_asker = || unprivileged().filter(|entry| entry.monitor.id.my_id == *asker);
        self.entries.len() + others < MAX
            && (privileged || (unprivileged().count() < UNPRIVILEGED && of_asker().count() < ONE_UNPRIVILEGED))
    }

    /// Whether this is a record that only a program with a port below 1024 may change: root's own.
    pub(super) fn is_reserved(&self, id: &MonId) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.monitor.privileged)
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

    pub(super) fn remove(&mut self, id: &MonId) -> Option<LocalMonitor> {
        Some(self.entries.remove(id)?.monitor)
    }

    /// Removes all of one asker that it may remove.
    pub(super) fn remove_all(&mut self, asker: &MyId, privileged: bool) -> Vec<LocalMonitor> {
        let its = |id: &MonId, entry: &mut Entry| id.my_id == *asker && (privileged || !entry.monitor.privileged);
        self.entries.extract_if(.., its).map(|(_, entry)| entry.monitor).collect()
    }

    /// Empties it: every host is one to tell.
    pub(super) fn take(&mut self) -> Vec<ToTell> {
        ToTell::all_of(std::mem::take(&mut self.entries).into_values().map(|entry| entry.monitor))
    }

    /// The records that a notice from `source` under `name` means, and that have not heard this
    /// state yet. The source must be the host's: a stranger's notice means no host. Of several hosts
    /// there (an address that is shared) the name tells which; a name that none of them has is an
    /// alias where one host alone is there, and otherwise may be any host's (`None`).
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
        assert!(book.remove(&monitor("a", 1, &[1]).id).is_some() && book.remove(&monitor("a", 1, &[1]).id).is_none());
        assert_eq!(book.remove_all(&monitor("x", 1, &[]).id.my_id, false).len(), 1);
        assert_eq!(book.take().len(), 1);
        assert!(book.take().is_empty());
    }

    #[test]
    fn what_root_asked_for_only_root_removes() {
        let mut book = book(vec![monitor("a", 1, &[1])]);
        book.insert(LocalMonitor { privileged: true, ..monitor("b", 1, &[2]) });
        let asker = monitor("x", 1, &[]).id.my_id;
        assert!(book.is_reserved(&monitor("b", 1, &[]).id) && !book.is_reserved(&monitor("a", 1, &[]).id));
        assert_eq!(book.remove_all(&asker, false).len(), 1, "its own");
        assert!(book.has(&monitor("b", 1, &[]).id));
        assert_eq!(book.remove_all(&asker, true).len(), 1);
    }

    #[test]
    fn programs_without_a_privileged_port_leave_room_for_each_other_and_for_root() {
        let mut book = Book::default();
        let fill = |book: &mut Book, program: u32, privileged: bool| {
            let asker = monitor("x", program, &[]).id.my_id;
            let mut taken = 0;
            while book.has_room(&asker, privileged, 0) {
                book.insert(LocalMonitor { privileged, ..monitor(&format!("h{taken}"), program, &[1]) });
                taken += 1;
            }
            taken
        };
        let taken: Vec<usize> = (1..=6).map(|program| fill(&mut book, program, false)).collect();
        assert_eq!(taken, [ONE_UNPRIVILEGED, ONE_UNPRIVILEGED, ONE_UNPRIVILEGED, ONE_UNPRIVILEGED, 0, 0]);
        assert!(!book.has_room(&monitor("x", 7, &[]).id.my_id, true, MAX), "hosts to tell count too");
        assert_eq!(fill(&mut book, 7, true), MAX - UNPRIVILEGED);
    }
}
