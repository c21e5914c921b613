//! Clients whose packets wait until the keeper lets them go.

use std::collections::HashMap;
use std::net::IpAddr;

use super::packet::Packet;

/// Most packets of a client that wait: a hold is over within a moment, and a client has few calls on their way.
pub(super) const MAX_PACKETS: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Holds(HashMap<IpAddr, Held>);

#[derive(Debug, Default)]
struct Held {
    packets: Vec<Packet>,
    /// A reclaim of it has come.
    reclaims: bool,
}

impl Holds {
    pub(super) fn hold(&mut self, client: IpAddr) {
        self.0.entry(client).or_default();
    }

    /// Those that waited, in their order.
    pub(super) fn let_go(&mut self, client: IpAddr) -> Vec<Packet> {
        self.0.remove(&client).unwrap_or_default().packets
    }

    /// Those that waited of all clients.
    pub(super) fn let_all_go(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.0).into_values().flat_map(|held| held.packets).collect()
    }

    pub(super) fn holds(&self, client: IpAddr) -> bool {
        self.0.contains_key(&client)
    }

    /// Whether one more may wait of this client.
    pub(super) fn has_room(&self, client: IpAddr) -> bool {
        self.0.get(&client).is_some_and(|held| held.packets.len() < MAX_PACKETS)
    }

    pub(super) fn wait(&mut self, client: IpAddr, packet: Packet) {
        if let Some(held) = self.0.get_mut(&client) {
            held.packets.push(packet);
        }
    }

    /// A reclaim of it has come; whether that is news.
    pub(super) fn reclaims(&mut self, client: IpAddr) -> bool {
        self.0.get_mut(&client).is_some_and(|held| !std::mem::replace(&mut held.reclaims, true))
    }
}
