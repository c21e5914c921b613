//! Routing by netlink: policy rules (linux/fib_rules.h) and routes (linux/rtnetlink.h).
//!
//! Here are the four messages that [`host::ReplyRoute`](crate::host::ReplyRoute) sends. What it makes is known by its
//! number as a routing protocol and by its table, so that it can be removed without knowing for whom it was made.

use std::net::{IpAddr, SocketAddr};

use super::netlink::{Attribute, CREATE, MessageError, message};
use super::types::Transport;

/// The table of such a route: "NLM" in ASCII, which no list of tables in `/etc/iproute2` has.
pub const TABLE: u32 = 0x4e_4c_4d;
/// The number of who made a rule or route, "N" in ASCII: none of those in `/etc/iproute2/rt_protos`.
pub const PROTOCOL: u8 = 0x4e;
/// Right after the rule for this host's own addresses, before any other.
const PRIORITY: u32 = 1;

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;

const RULE_TO: u16 = 1;
const RULE_FROM: u16 = 2;
const RULE_INTERFACE_IN: u16 = 3;
const RULE_PRIORITY: u16 = 6;
const RULE_TABLE: u16 = 15;
const RULE_PROTOCOL: u16 = 21;
const RULE_TRANSPORT: u16 = 22;
const RULE_FROM_PORTS: u16 = 23;
const RULE_TO_PORTS: u16 = 24;
/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;

const ROUTE_INTERFACE: u16 = 4;
const ROUTE_TABLE: u16 = 15;
/// `RT_SCOPE_HOST`.
const SCOPE_HOST: u8 = 254;
/// `RTN_LOCAL`: what is sent there has arrived.
const LOCAL: u8 = 2;

const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The family of an address, by its number in routing messages.
pub fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { IPV4 } else { IPV6 }
}

/// Packets of one conversation, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Who sends them.
    pub from: SocketAddr,
    /// The receiver; of the same family.
    pub to: SocketAddr,
    /// What carries them.
    pub transport: Transport,
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// `struct fib_rule_hdr`: how many bits of the two addresses count, and what is done.
fn rule_header(family: u8, bits: u8) -> [u8; 12] {
    [family, bits, bits, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0]
}

/// `struct rtmsg` of the route to every address, in a table that the attributes name.
fn route_header(family: u8) -> [u8; 12] {
    [family, 0, 0, 0, 0, PROTOCOL, SCOPE_HOST, LOCAL, 0, 0, 0, 0]
}

/// From now on what this host itself sends of this flow is routed by the table.
pub fn add_rule(sequence: u32, flow: &Flow) -> Result<Vec<u8>, MessageError> {
    let port = |kind, port: u16| Attribute { kind, value: [port.to_ne_bytes(), port.to_ne_bytes()].concat() };
    let (from, to) = (octets(flow.from.ip()), octets(flow.to.ip()));
    let bits = u8::try_from(to.len() * 8).map_err(|_| MessageError::Long)?;
    let attributes = [
        Attribute { kind: RULE_FROM, value: from },
        Attribute { kind: RULE_TO, value: to },
        // That is how rules name what this host sends itself.
        Attribute::text(RULE_INTERFACE_IN, "lo"),
        Attribute::byte(RULE_TRANSPORT, if flow.transport == Transport::Tcp { 6 } else { 17 }),
        port(RULE_FROM_PORTS, flow.from.port()),
        port(RULE_TO_PORTS, flow.to.port()),
        Attribute::number(RULE_PRIORITY, PRIORITY),
        Attribute::number(RULE_TABLE, TABLE),
        Attribute::byte(RULE_PROTOCOL, PROTOCOL),
    ];
    message(NEW_RULE, CREATE, sequence, &rule_header(family(flow.to.ip()), bits), &attributes)
}

/// One rule that leads to the table is gone, of any flow. `ENOENT`: there is none.
pub fn delete_rule(sequence: u32, family: u8) -> Result<Vec<u8>, MessageError> {
    let attributes = [
        Attribute::number(RULE_PRIORITY, PRIORITY),
        Attribute::number(RULE_TABLE, TABLE),
        Attribute::byte(RULE_PROTOCOL, PROTOCOL),
    ];
    message(DELETE_RULE, 0, sequence, &rule_header(family, 0), &attributes)
}

/// What is routed by the table stays on this host; `loopback` is the number of that interface.
pub fn add_route(sequence: u32, family: u8, loopback: u32) -> Result<Vec<u8>, MessageError> {
    message(NEW_ROUTE, CREATE, sequence, &route_header(family), &route_attributes(loopback))
}

/// The opposite. `ESRCH`: there is none.
pub fn delete_route(sequence: u32, family: u8, loopback: u32) -> Result<Vec<u8>, MessageError> {
    message(DELETE_ROUTE, 0, sequence, &route_header(family), &route_attributes(loopback))
}

fn route_attributes(loopback: u32) -> [Attribute; 2] {
    [Attribute::number(ROUTE_TABLE, TABLE), Attribute::number(ROUTE_INTERFACE, loopback)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attributes of a message, as (kind, value).
    fn attributes(message: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let (mut rest, mut found) = (&message[16 + 12..], Vec::new());
        while let [a, b, c, d, ..] = *rest {
            let len = usize::from(u16::from_ne_bytes([a, b]));
            found.push((u16::from_ne_bytes([c, d]), rest[4..len].to_vec()));
            rest = &rest[len.next_multiple_of(4).min(rest.len())..];
        }
        found
    }

    #[test]
    fn a_rule_chooses_one_conversation_and_nothing_else_of_the_client() {
        for (from, to) in [("192.0.2.1:4045", "192.0.2.9:555"), ("[fd00::1]:4045", "[fd00::9]:555")] {
            let flow = Flow { from: from.parse().unwrap(), to: to.parse().unwrap(), transport: Transport::Udp };
            let made = add_rule(7, &flow).unwrap();
            let bits = if flow.to.is_ipv4() { 32 } else { 128 };
            assert_eq!(made[16..20], [family(flow.to.ip()), bits, bits, 0]);
            let found = attributes(&made);
            let has = |kind, value: &[u8]| found.contains(&(kind, value.to_vec()));
            assert!(has(RULE_FROM, &octets(flow.from.ip())) && has(RULE_TO, &octets(flow.to.ip())), "{found:?}");
            let (lockd, ours) = (4045_u16.to_ne_bytes(), 555_u16.to_ne_bytes());
            assert!(has(RULE_FROM_PORTS, &[lockd, lockd].concat()) && has(RULE_TO_PORTS, &[ours, ours].concat()));
            assert!(has(RULE_TRANSPORT, &[17]) && has(RULE_INTERFACE_IN, b"lo\0"), "{found:?}");
        }
    }

    #[test]
    fn what_is_removed_is_known_by_its_mark_alone() {
        let gone = attributes(&delete_rule(7, IPV4).unwrap());
        let mark = [(RULE_TABLE, TABLE.to_ne_bytes().to_vec()), (RULE_PROTOCOL, vec![PROTOCOL])];
        assert!(mark.iter().all(|one| gone.contains(one)), "{gone:?}");
        assert!(gone.iter().all(|(kind, _)| ![RULE_TO, RULE_FROM].contains(kind)), "{gone:?}");
    }
}
