//! The connections that are known, bounded for each transport and each client; the one that was quiet longest makes room.
//! Datagrams can have any sender's address: however many come, they take no room from connections by TCP.
//!
//! Forgetting a connection never lets a reclaim pass: its next bytes must begin with a whole call, and are then decided
//! again. Replies to the calls that were forgotten with it are unknown.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::connection::Connection;
use super::reply::Calls;
use crate::wire::types::Transport;

/// Most connections of one transport: with the calls that are remembered of each, some hundred MiB under attack.
pub(super) const MAX_CONNECTIONS: usize = 8192;
/// Most of one client: a Linux client has one for each server address, version and transport.
pub(super) const MAX_OF_CLIENT: usize = 256;

/// What tells connections apart; for UDP it is who asks whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) transport: Transport,
}

/// What is known of one.
#[derive(Debug)]
pub(super) enum Flow {
    Tcp(Connection),
    Udp(Datagrams),
}

/// The calls of a client's UDP port.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    pub(super) calls: Calls,
    /// The first words of the last one that could not be read.
    pub(super) unread: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    known: HashMap<Key, (u64, Flow)>,
    /// By when they were used last.
    by_use: [BTreeMap<u64, Key>; 2],
    of_client: HashMap<IpAddr, BTreeMap<u64, Key>>,
    uses: u64,
}

impl Table {
    pub(super) fn has(&self, key: &Key) -> bool {
        self.known.contains_key(key)
    }

    /// One that is known.
    pub(super) fn used(&mut self, key: &Key) -> Option<&mut Flow> {
        let before = self.known.get(key)?.0;
        self.uses += 1;
        self.unlist(key, before);
        self.list(key, self.uses);
        let (used, known) = self.known.get_mut(key)?;
        *used = self.uses;
        Some(known)
    }

    /// One more; what had to make room is given back.
    pub(super) fn add(&mut self, key: Key, known: Flow) -> Option<Flow> {
        let of_client = self.of_client.get(&key.client.ip());
        let oldest = if of_client.is_some_and(|keys| keys.len() >= MAX_OF_CLIENT) {
            of_client.and_then(|keys| keys.values().next().copied())
        } else {
            let by_use = self.by_use(key.transport);
            by_use.values().next().filter(|_| by_use.len() >= MAX_CONNECTIONS).copied()
        };
        let gone = oldest.and_then(|oldest| {
            let (used, gone) = self.known.remove(&oldest)?;
            self.unlist(&oldest, used);
            Some(gone)
        });
        self.uses += 1;
        self.list(&key, self.uses);
        self.known.insert(key, (self.uses, known));
        gone
    }

    pub(super) fn tcp(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.known.values_mut().filter_map(|(_, known)| match known {
            Flow::Tcp(connection) => Some(connection),
            Flow::Udp(_) => None,
        })
    }

    pub(super) fn into_tcp(self) -> impl Iterator<Item = Connection> {
        self.known.into_values().filter_map(|(_, known)| match known {
            Flow::Tcp(connection) => Some(connection),
            Flow::Udp(_) => None,
        })
    }

    fn by_use(&mut self, transport: Transport) -> &mut BTreeMap<u64, Key> {
        let [udp, tcp] = &mut self.by_use;
        match transport {
            Transport::Udp => udp,
            Transport::Tcp => tcp,
        }
    }

    fn list(&mut self, key: &Key, used: u64) {
        self.by_use(key.transport).insert(used, *key);
        self.of_client.entry(key.client.ip()).or_default().insert(used, *key);
    }

    fn unlist(&mut self, key: &Key, used: u64) {
        self.by_use(key.transport).remove(&used);
        if let Some(keys) = self.of_client.get_mut(&key.client.ip()) {
            keys.remove(&used);
            if keys.is_empty() {
                self.of_client.remove(&key.client.ip());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn key(client: u32, port: u16) -> Key {
        let server = SocketAddr::from(([10, 0, 0, 1], 4045));
        Key { client: SocketAddr::new(Ipv4Addr::from(client).into(), port), server, transport: Transport::Udp }
    }

    #[test]
    fn a_client_with_many_connections_makes_room_with_its_own_quietest_one() {
        let mut table = Table::default();
        let add = |table: &mut Table, key| table.add(key, Flow::Udp(Datagrams::default()));
        add(&mut table, key(7, 1));
        let most = u16::try_from(MAX_OF_CLIENT).unwrap();
        for port in 0..most {
            assert!(add(&mut table, key(8, port)).is_none());
        }
        assert!(table.used(&key(8, 0)).is_some());
        assert!(add(&mut table, key(8, most)).is_some());
        assert!(table.has(&key(8, 0)) && !table.has(&key(8, 1)) && table.has(&key(7, 1)));
    }

    #[test]
    fn the_table_is_bounded_whatever_the_number_of_clients() {
        let mut table = Table::default();
        for client in 0..u32::try_from(MAX_CONNECTIONS).unwrap() + 10 {
            table.add(key(client, 1), Flow::Udp(Datagrams::default()));
        }
        let by_use = table.by_use.each_ref().map(BTreeMap::len);
        assert_eq!((table.known.len(), by_use, table.of_client.len()), (8192, [8192, 0], 8192));
        assert!(!table.has(&key(9, 1)) && table.has(&key(10, 1)));
    }

    #[test]
    fn datagrams_take_no_room_from_connections_by_tcp() {
        let mut table = Table::default();
        let stream = Key { transport: Transport::Tcp, ..key(7, 1) };
        table.add(stream, Flow::Udp(Datagrams::default()));
        for client in 0..u32::try_from(MAX_CONNECTIONS).unwrap() + 10 {
            table.add(key(client, 1), Flow::Udp(Datagrams::default()));
        }
        assert!(table.has(&stream));
    }
}
