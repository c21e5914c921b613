//! Ganesha's clients, from statd's records and its open connections. Pure.
//!
//! Ganesha monitors a client while it holds a lock: with its last lock the record goes. It gives
//! statd the client's address for its name, or with `NSM_Use_Caller_Name` its caller name. Which
//! server addresses a client has called is nowhere on record; an open connection tells.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::host;
use crate::manager::adapter::client_row;
use crate::nsm::roster::RosterEntry;
use crate::wire::control::ClientRow;
use crate::wire::nlm;
use crate::wire::scope;
use crate::wire::types::CallerName;

/// Whether Ganesha asked for this record: it takes its callback in version 4 of NLM, a kernel in
/// version 3. A record that cannot be read counts as its own: no client must be forgotten.
pub(super) fn is_ganeshas(entry: &RosterEntry) -> bool {
    !entry.overdue
        && entry.monitor.as_ref().is_none_or(|monitor| {
            let caller = &monitor.mon_id.my_id;
            caller.my_prog == nlm::PROGRAM && caller.my_vers == nlm::Version::V4.number()
        })
}

/// The names of the clients with a record, each once, and the record.
fn named(entries: &[RosterEntry]) -> impl Iterator<Item = (CallerName, &RosterEntry)> {
    let mut known = HashSet::new();
    let named = entries.iter().filter(|entry| is_ganeshas(entry)).filter_map(|entry| {
        let name = CallerName::of_bytes(entry.host.as_bytes()).ok()?;
        Some((name, entry))
    });
    named.filter(move |(name, _)| known.insert(name.clone()))
}

/// How many clients have a record.
pub(super) fn count(entries: &[RosterEntry]) -> u64 {
    named(entries).count() as u64
}

/// For how many times as long as it took a count is used again.
const REUSED: u32 = 20;

/// How many clients there were when they were last counted. Who watches a run asks many times a second, and a count reads each
/// record of statd's: of a hundred thousand that is more than there is time for.
#[derive(Debug, Default)]
pub(super) struct LastCount(Option<(u64, Instant)>);

impl LastCount {
    pub(super) fn fresh(&self, now: Instant) -> Option<u64> {
        self.0.filter(|(_, until)| now < *until).map(|(count, _)| count)
    }
    /// A count that was begun then and is here now.
    pub(super) fn take(&mut self, count: u64, began: Instant, now: Instant) {
        self.0 = Some((count, now + now.saturating_duration_since(began) * REUSED));
    }
}

/// The clients with a record. `connections`: the server address called and the client's.
pub(super) fn rows(entries: &[RosterEntry], connections: &[(SocketAddr, SocketAddr)]) -> Vec<ClientRow> {
    let calls = Calls::of(connections);
    let row = |(name, entry): (CallerName, &RosterEntry)| {
        let known_as = entry.monitor.as_ref().map(|monitor| monitor.mon_id.mon_name.as_str());
        let address = known_as.into_iter().chain([entry.host.as_str()]).find_map(|text| host::address(text).ok());
        client_row(name, address.map(|ip| ip.to_canonical()), calls.by(address))
    };
    named(entries).map(row).collect()
}

/// Which server addresses are called.
#[derive(Debug, Default)]
struct Calls {
    by_client: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
    all: BTreeSet<IpAddr>,
}

impl Calls {
    fn of(connections: &[(SocketAddr, SocketAddr)]) -> Self {
        let mut calls = Self::default();
        for (server, client) in connections {
            let server = server.ip().to_canonical();
            calls.by_client.entry(client.ip().to_canonical()).or_default().insert(server);
            calls.all.insert(server);
        }
        calls
    }

    /// The server addresses that a client has called, as far as is known: those of its own connections,
    /// or else, since it may have let go of them, those that any client like it calls.
    fn by(&self, client: Option<IpAddr>) -> BTreeSet<IpAddr> {
        // A connection's address comes without its interface.
        let Some(client) = client.map(|ip| scope::bare(ip.to_canonical())) else { return BTreeSet::new() };
        let alike = |to: &&IpAddr| to.is_ipv4() == client.is_ipv4() && to.is_loopback() == client.is_loopback();
        let own = self.by_client.get(&client).cloned();
        own.unwrap_or_else(|| self.all.iter().filter(alike).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::nsm::{MonArgs, MonId, MyId};
    use crate::wire::types::Address;
    use crate::wire::xdr::List;

    fn record(host: &str, mon_name: &str, version: u32) -> RosterEntry {
        let my_id = MyId { my_name: name("nas"), my_prog: nlm::PROGRAM, my_vers: version, my_proc: 16 };
        let mon_id = MonId { mon_name: name(mon_name), my_id };
        RosterEntry { host: host.into(), overdue: false, monitor: Some(MonArgs { mon_id, private: [0; 16] }) }
    }

    fn name(text: &str) -> CallerName {
        CallerName::new(text).unwrap()
    }

    fn connection(server: &str, client: &str) -> (SocketAddr, SocketAddr) {
        (server.parse().unwrap(), client.parse().unwrap())
    }

    #[test]
    fn the_kernels_own_records_are_of_no_client_and_odd_ones_are_kept() {
        let odd = RosterEntry { host: "odd".into(), overdue: false, monitor: None };
        let overdue = RosterEntry { overdue: true, ..record("late", "192.0.2.4", 4) };
        let entries = [record("a", "192.0.2.1", 4), record("filer", "filer", 3), odd, overdue];
        let names: Vec<_> = rows(&entries, &[]).iter().map(|row| row.name.to_string()).collect();
        assert_eq!(names, ["a", "odd"]);
    }

    #[test]
    fn a_hundred_thousand_clients_and_connections_are_looked_up_without_a_walk_for_each() {
        let began = Instant::now();
        let address = |n: u32| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
        let entries: Vec<_> = (0..100_000).map(|n| record(&address(n), &address(n), 4)).collect();
        let connections: Vec<_> =
            (0..100_000).map(|n| connection("198.51.100.1:2049", &format!("{}:700", address(n)))).collect();
        let rows = rows(&entries, &connections);
        assert!(rows.iter().all(|row| row.server_addresses.as_slice().len() == 1));
        assert_eq!((rows.len(), count(&entries)), (100_000, 100_000));
        // A walk for each takes minutes.
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }

    #[test]
    fn the_kernels_own_records_and_a_second_line_of_one_client_do_not_count() {
        let entries = [record("a", "192.0.2.1", 4), record("a", "other", 4), record("filer", "filer", 3)];
        assert_eq!((count(&entries), rows(&entries, &[]).len()), (1, 1));
    }

    #[test]
    fn a_count_is_used_again_the_longer_the_longer_it_took() {
        let (began, ms) = (Instant::now(), std::time::Duration::from_millis);
        let mut last = LastCount::default();
        assert_eq!(last.fresh(began), None);
        last.take(7, began, began + ms(10));
        assert_eq!((last.fresh(began + ms(209)), last.fresh(began + ms(210))), (Some(7), None));
    }

    #[test]
    fn a_client_is_told_from_where_it_is_connected_to_and_else_from_where_clients_like_it_are() {
        let entries =
            [record("a", "192.0.2.1", 4), record("192.0.2.2", "192.0.2.2", 4), record("c", "c.example.org", 4)];
        let connections = [
            connection("[::ffff:198.51.100.1]:2049", "[::ffff:192.0.2.1]:700"),
            connection("198.51.100.2:2049", "192.0.2.9:700"),
            connection("127.0.0.1:2049", "127.0.0.1:700"),
        ];
        let rows = rows(&entries, &connections);
        let of = |list: &List<Address, 16>| list.as_slice().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            (of(&rows[0].addresses), of(&rows[0].server_addresses)),
            (vec!["192.0.2.1".to_owned()], vec!["198.51.100.1".to_owned()])
        );
        assert_eq!(of(&rows[1].server_addresses), ["198.51.100.1", "198.51.100.2"]);
        // A name is the resolver's to turn into addresses; which one it calls from is not known.
        assert_eq!((of(&rows[2].addresses), of(&rows[2].server_addresses)), (vec![], vec![]));
    }
}
