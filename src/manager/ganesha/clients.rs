//! Ganesha's clients, from statd's records and its open connections. Pure.
//!
//! Ganesha monitors a client while it holds a lock: with its last lock the record goes. It gives
//! statd the client's address for its name, or with `NSM_Use_Caller_Name` its caller name. Which
//! server addresses a client has called is nowhere on record; an open connection tells.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

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

/// The clients with a record. `connections`: the server address called and the client's.
pub(super) fn rows(entries: &[RosterEntry], connections: &[(SocketAddr, SocketAddr)]) -> Vec<ClientRow> {
    let calls: BTreeSet<(IpAddr, IpAddr)> =
        connections.iter().map(|(server, client)| (client.ip().to_canonical(), server.ip().to_canonical())).collect();
    let mut rows: Vec<ClientRow> = Vec::new();
    for entry in entries.iter().filter(|entry| is_ganeshas(entry)) {
        let Ok(name) = CallerName::of_bytes(entry.host.as_bytes()) else { continue };
        if rows.iter().any(|known| known.name == name) {
            continue;
        }
        let known_as = entry.monitor.as_ref().map(|monitor| monitor.mon_id.mon_name.as_str());
        let address = known_as.into_iter().chain([entry.host.as_str()]).find_map(|text| host::address(text).ok());
        rows.push(client_row(name, address.map(|ip| ip.to_canonical()), called(address, &calls)));
    }
    rows
}

/// The server addresses that a client has called, as far as is known: those of its own connections,
/// or else, since it may have let go of them, those that any client like it calls.
fn called(client: Option<IpAddr>, calls: &BTreeSet<(IpAddr, IpAddr)>) -> BTreeSet<IpAddr> {
    // A connection's address comes without its interface.
    let Some(client) = client.map(|ip| scope::bare(ip.to_canonical())) else { return BTreeSet::new() };
    let own: BTreeSet<IpAddr> = calls.iter().filter(|(from, _)| *from == client).map(|(_, to)| *to).collect();
    if !own.is_empty() {
        return own;
    }
    let alike = |to: &IpAddr| to.is_ipv4() == client.is_ipv4() && to.is_loopback() == client.is_loopback();
    calls.iter().map(|(_, to)| *to).filter(alike).collect()
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
