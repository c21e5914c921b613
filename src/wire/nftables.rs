//! Packet rules by netlink: nf_tables (linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h).
//!
//! Here are the messages that `interposer/rules.rs` sends, and those that list what other programs have. What changes
//! anything is a batch: the kernel takes all of it at once or nothing. Numbers are in the network's order.
//!
//! The rules of [`install`], as nft(8) would write them; `a` and `b` have the same ports:
//!
//! ```text
//! table inet nlmctl {
//!     flags owner
//!     set a { typeof meta nfproto . meta l4proto . th dport; flags timeout; elements = { ipv4 . tcp . 4045 timeout 30s, .. } }
//!     set b { .. }
//!     chain inward  { type filter hook input priority -150;
//!                     meta nfproto . meta l4proto . th dport @a queue num 7
//!                     meta nfproto . meta l4proto . th dport @b queue num 7 }
//!     chain outward { type filter hook output priority -150;
//!                     meta nfproto . meta l4proto . th sport @a queue num 7
//!                     meta nfproto . meta l4proto . th sport @b queue num 7 }
//! }
//! ```

use std::time::Duration;

use super::netlink::{Attribute, CREATE, MessageError, listing, message, step};
use super::types::{Transport, ms};

/// The table's name.
pub const TABLE: &str = "nlmctl";
/// The two sets of ports.
pub const SETS: [&str; 2] = ["a", "b"];
/// Names of the chains.
pub const CHAINS: [&str; 2] = ["inward", "outward"];
/// A table with this flag belongs to the socket that made it.
pub const OWNER: u32 = 2;

/// Attributes of a table that are read.
pub mod table {
    /// Its name.
    pub const NAME: u16 = 1;
    /// Its flags.
    pub const FLAGS: u16 = 2;
    /// The port number of the netlink socket that owns it.
    pub const OWNER: u16 = 7;
}
/// Attributes of a rule that are read.
pub mod rule {
    /// Its table's name.
    pub const TABLE: u16 = 1;
    /// Its chain's name.
    pub const CHAIN: u16 = 2;
    /// A list of expressions, each a nest in [`LIST`].
    pub const EXPRESSIONS: u16 = 4;
    /// One of a list.
    pub const LIST: u16 = 1;
    /// An expression's name.
    pub const EXPRESSION: u16 = 1;
    /// What it has in it.
    pub const DATA: u16 = 2;
}

/// The part of netfilter that has these messages.
const SUBSYSTEM: u8 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u8 = 0;
const GET_TABLE: u8 = 1;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;
const GET_RULE: u8 = 7;
const NEW_SET: u8 = 9;
const NEW_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;
const DELETE_ELEMENTS: u8 = 14;
/// All families.
const ANY: u8 = 0;
/// IPv4 and IPv6 in one table.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Attributes of what is made in a table: the table's name, and its own.
const IN_TABLE: u16 = 1;
const NAME: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const INPUT: u32 = 1;
const OUTPUT: u32 = 3;
/// Before the rules of firewalls (0), so that what a firewall drops was told, and has no reply.
const PRIORITY: i32 = -150;
const ACCEPT: u32 = 1;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_ID: u16 = 10;
/// The elements of the set have timeouts.
const TIMEOUT: u32 = 0x10;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const DATA_VALUE: u16 = 1;
/// For nft(8), which shows the set: nf_proto (2), inet_proto (12) and inet_service (13).
const KEY_TYPE: u32 = (2 * 64 + 12) * 64 + 13;
/// Each part of a key has a register of four bytes.
const KEY_LENGTH: u32 = 12;
/// Registers of four bytes (`NFT_REG32_00` and the next ones).
const REGISTERS: [u32; 3] = [8, 9, 10];
const META_REGISTER: u16 = 1;
const META_KEY: u16 = 2;
const FAMILY: u32 = 15;
const PROTOCOL: u32 = 16;
const PAYLOAD_REGISTER: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const TRANSPORT_HEADER: u32 = 2;
const LOOKUP_SET: u16 = 1;
const LOOKUP_REGISTER: u16 = 2;
const QUEUE_NUMBER: u16 = 1;
const TARGET_NAME: u16 = 1;
const TARGET_REVISION: u16 = 2;
const TARGET_INFO: u16 = 3;
/// Attributes of expressions that are read.
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const COMPARED_DATA: u16 = 3;

/// A port of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Of IPv6, else of IPv4.
    pub ipv6: bool,
    /// What carries its packets.
    pub transport: Transport,
    /// Its number.
    pub number: u16,
}

/// How a rule says that packets go to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queueing {
    /// By the expression for it (module `nft_queue`).
    Expression,
    /// By the target of iptables (modules `nft_compat` and `xt_NFQUEUE`), for kernels that are built without the
    /// expression.
    Target,
}

/// Several changes, of which the kernel makes all or none. The first answer tells which: the last step alone is
/// answered when all is well.
struct Batch {
    sequence: u32,
    bytes: Vec<u8>,
    last: Option<(u8, u16, Vec<Attribute>)>,
}

impl Batch {
    fn new(sequence: u32) -> Result<Self, MessageError> {
        Ok(Self { sequence, bytes: step(BATCH_BEGIN, 0, sequence, &batch_header(), &[])?, last: None })
    }
    fn step(&mut self, kind: u8, flags: u16, attributes: Vec<Attribute>) -> Result<(), MessageError> {
        if let Some((kind, flags, attributes)) = self.last.replace((kind, flags, attributes)) {
            self.bytes.extend(step(kind_of(kind), flags, self.sequence, &header(INET), &attributes)?);
        }
        Ok(())
    }
    fn end(mut self) -> Result<Vec<u8>, MessageError> {
        if let Some((kind, flags, attributes)) = self.last.take() {
            self.bytes.extend(message(kind_of(kind), flags, self.sequence, &header(INET), &attributes)?);
        }
        self.bytes.extend(step(BATCH_END, 0, self.sequence, &batch_header(), &[])?);
        Ok(self.bytes)
    }
}

fn kind_of(kind: u8) -> u16 {
    u16::from_be_bytes([SUBSYSTEM, kind])
}

/// `struct nfgenmsg`.
fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

fn batch_header() -> [u8; 4] {
    [ANY, 0, 0, SUBSYSTEM]
}

/// All of the table. Refused if there is one of this name.
pub fn install(
    sequence: u32,
    ports: &[Port],
    queue: u16,
    lapse: Duration,
    queueing: Queueing,
) -> Result<Vec<u8>, MessageError> {
    let mut batch = Batch::new(sequence)?;
    let of_table = vec![Attribute::text(table::NAME, TABLE), Attribute::network32(table::FLAGS, OWNER)];
    batch.step(NEW_TABLE, CREATE, of_table)?;
    for (set, number) in SETS.into_iter().zip(1..) {
        let of_set = vec![
            Attribute::text(IN_TABLE, TABLE),
            Attribute::text(NAME, set),
            Attribute::network32(SET_FLAGS, TIMEOUT),
            Attribute::network32(SET_KEY_TYPE, KEY_TYPE),
            Attribute::network32(SET_KEY_LENGTH, KEY_LENGTH),
            Attribute::network32(SET_ID, number),
        ];
        batch.step(NEW_SET, CREATE, of_set)?;
        batch.step(NEW_ELEMENTS, CREATE, elements(set, ports, Some(lapse))?)?;
    }
    for (chain, hook, port_at) in [(CHAINS[0], INPUT, 2), (CHAINS[1], OUTPUT, 0)] {
        let hook =
            [Attribute::network32(HOOK_NUMBER, hook), Attribute::network32(HOOK_PRIORITY, PRIORITY.cast_unsigned())];
        let of_chain = vec![
            Attribute::text(IN_TABLE, TABLE),
            Attribute::text(CHAIN_NAME, chain),
            Attribute::nest(CHAIN_HOOK, &hook)?,
            Attribute::network32(CHAIN_POLICY, ACCEPT),
            Attribute::text(CHAIN_TYPE, "filter"),
        ];
        batch.step(NEW_CHAIN, CREATE, of_chain)?;
        for set in SETS {
            let of_rule = vec![
                Attribute::text(rule::TABLE, TABLE),
                Attribute::text(rule::CHAIN, chain),
                Attribute::nest(rule::EXPRESSIONS, &expressions(port_at, set, queue, queueing)?)?,
            ];
            batch.step(NEW_RULE, CREATE, of_rule)?;
        }
    }
    batch.end()
}

/// A rule's expressions; `port_at`: where in the transport's header the port is.
fn expressions(port_at: u32, set: &str, queue: u16, queueing: Queueing) -> Result<[Attribute; 5], MessageError> {
    let named = |name, data: &[Attribute]| {
        let inner = [Attribute::text(rule::EXPRESSION, name), Attribute::nest(rule::DATA, data)?];
        Attribute::nest(rule::LIST, &inner)
    };
    let [family, protocol, port] = REGISTERS;
    let meta = |register, key| {
        named("meta", &[Attribute::network32(META_REGISTER, register), Attribute::network32(META_KEY, key)])
    };
    Ok([
        meta(family, FAMILY)?,
        meta(protocol, PROTOCOL)?,
        named(
            "payload",
            &[
                Attribute::network32(PAYLOAD_REGISTER, port),
                Attribute::network32(PAYLOAD_BASE, TRANSPORT_HEADER),
                Attribute::network32(PAYLOAD_OFFSET, port_at),
                Attribute::network32(PAYLOAD_LENGTH, 2),
            ],
        )?,
        named("lookup", &[Attribute::text(LOOKUP_SET, set), Attribute::network32(LOOKUP_REGISTER, family)])?,
        match queueing {
            Queueing::Expression => named("queue", &[Attribute::network16(QUEUE_NUMBER, queue)])?,
            Queueing::Target => {
                // struct xt_NFQ_info, filled up to eight bytes.
                let info = [queue.to_ne_bytes().as_slice(), &[0; 6]].concat();
                let target = [
                    Attribute::text(TARGET_NAME, "NFQUEUE"),
                    Attribute::network32(TARGET_REVISION, 0),
                    Attribute { kind: TARGET_INFO, value: info },
                ];
                named("target", &target)?
            }
        },
    ])
}

/// The ports of a set, each with its timeout where one is given.
fn elements(set: &str, ports: &[Port], lapse: Option<Duration>) -> Result<Vec<Attribute>, MessageError> {
    let element = |port: &Port| {
        let [high, low] = port.number.to_be_bytes();
        let family = if port.ipv6 { IPV6 } else { IPV4 };
        let protocol = if port.transport == Transport::Tcp { 6 } else { 17 };
        let value = vec![family, 0, 0, 0, protocol, 0, 0, 0, high, low, 0, 0];
        let mut inner = vec![Attribute::nest(ELEMENT_KEY, &[Attribute { kind: DATA_VALUE, value }])?];
        if let Some(lapse) = lapse {
            inner.push(Attribute::network64(ELEMENT_TIMEOUT, ms(lapse)));
        }
        Attribute::nest(rule::LIST, &inner)
    };
    let all: Vec<Attribute> = ports.iter().map(element).collect::<Result<_, _>>()?;
    Ok(vec![Attribute::text(IN_TABLE, TABLE), Attribute::text(NAME, set), Attribute::nest(ELEMENTS, &all)?])
}

/// The ports of a set anew, in one step with the removal of the old ones. `ENOENT`: one of them is not there any more.
pub fn renew(sequence: u32, set: &str, ports: &[Port], lapse: Duration) -> Result<Vec<u8>, MessageError> {
    let mut batch = Batch::new(sequence)?;
    // Older kernels (before 6.12) leave the timeout of an element that is there as it is.
    batch.step(DELETE_ELEMENTS, 0, elements(set, ports, None)?)?;
    batch.step(NEW_ELEMENTS, CREATE, elements(set, ports, Some(lapse))?)?;
    batch.end()
}

/// Likewise, with all that is in the set.
pub fn refill(sequence: u32, set: &str, ports: &[Port], lapse: Duration) -> Result<Vec<u8>, MessageError> {
    let mut batch = Batch::new(sequence)?;
    // Without a list of elements it is all of them.
    batch.step(DELETE_ELEMENTS, 0, vec![Attribute::text(IN_TABLE, TABLE), Attribute::text(NAME, set)])?;
    batch.step(NEW_ELEMENTS, CREATE, elements(set, ports, Some(lapse))?)?;
    batch.end()
}

/// Asks for the ports of a set. `ENOENT`: one of them is not there, or not even the table is.
pub fn ask_for_ports(sequence: u32, set: &str, ports: &[Port]) -> Result<Vec<u8>, MessageError> {
    message(kind_of(GET_ELEMENTS), 0, sequence, &header(INET), &elements(set, ports, None)?)
}

/// Asks for the table. `ENOENT`: there is none.
pub fn ask_for_table(sequence: u32) -> Result<Vec<u8>, MessageError> {
    message(kind_of(GET_TABLE), 0, sequence, &header(INET), &[Attribute::text(table::NAME, TABLE)])
}

/// The table is gone, with all that is in it. `EPERM`: it belongs to another socket.
pub fn remove(sequence: u32) -> Result<Vec<u8>, MessageError> {
    let mut batch = Batch::new(sequence)?;
    batch.step(DELETE_TABLE, 0, vec![Attribute::text(table::NAME, TABLE)])?;
    batch.end()
}

/// Asks for all tables, of all families.
pub fn list_tables(sequence: u32) -> Result<Vec<u8>, MessageError> {
    listing(kind_of(GET_TABLE), sequence, &header(ANY), &[])
}

/// Asks for all rules, of all families.
pub fn list_rules(sequence: u32) -> Result<Vec<u8>, MessageError> {
    listing(kind_of(GET_RULE), sequence, &header(ANY), &[])
}

/// What a rule of any program does with a packet at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A program gets it.
    Queue,
    /// It is dropped or rejected.
    Drop,
}

/// The verdict of a rule, if it is one of those.
pub fn verdict(rule: &[Attribute]) -> Option<Verdict> {
    expressions_of(rule).into_iter().find_map(|(name, data)| match name.as_str() {
        "queue" => Some(Verdict::Queue),
        "reject" => Some(Verdict::Drop),
        "target" => match Attribute::find(&data, TARGET_NAME)?.as_text()? {
            "NFQUEUE" => Some(Verdict::Queue),
            "DROP" | "REJECT" => Some(Verdict::Drop),
            _ => None,
        },
        "immediate" => {
            let value = Attribute::find(&data, IMMEDIATE_DATA)?.as_nest().ok()?;
            let verdict = Attribute::find(&value, DATA_VERDICT)?.as_nest().ok()?;
            match Attribute::find(&verdict, VERDICT_CODE)?.as_network()? & 0xff {
                0 => Some(Verdict::Drop),
                3 => Some(Verdict::Queue),
                _ => None,
            }
        }
        _ => None,
    })
}

/// The numbers of two bytes that a rule compares something with, among them the ports that it names. Sets and ranges are
/// not looked into.
pub fn compared_ports(rule: &[Attribute]) -> impl Iterator<Item = u16> {
    expressions_of(rule).into_iter().filter_map(|(name, data)| {
        let value = Attribute::find(&data, COMPARED_DATA).filter(|_| name == "cmp")?.as_nest().ok()?;
        let number = Attribute::find(&value, DATA_VALUE)?;
        (number.value.len() == 2).then(|| number.as_network()).flatten().and_then(|port| u16::try_from(port).ok())
    })
}

/// The expressions of a rule, as (name, what it has in it). Odd ones are left out.
fn expressions_of(rule: &[Attribute]) -> Vec<(String, Vec<Attribute>)> {
    let all = Attribute::find(rule, rule::EXPRESSIONS).and_then(|all| all.as_nest().ok()).unwrap_or_default();
    let read = |one: &Attribute| {
        let inner = one.as_nest().ok()?;
        let data = Attribute::find(&inner, rule::DATA).and_then(|data| data.as_nest().ok()).unwrap_or_default();
        Some((Attribute::find(&inner, rule::EXPRESSION)?.as_text()?.to_owned(), data))
    };
    all.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: u16 = 4;

    /// The messages of a batch, as (kind, flags, attributes).
    fn steps(mut bytes: &[u8]) -> Vec<(u16, u16, Vec<Attribute>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (header, rest) = bytes.split_at(16);
            let length = u32::from_ne_bytes(header[..4].try_into().unwrap()) as usize;
            let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
            let body = Attribute { kind: 0, value: rest[4..length - 16].to_vec() };
            found.push((half(4), half(6), body.as_nest().unwrap()));
            bytes = &rest[length - 16..];
        }
        found
    }

    fn ports() -> [Port; 2] {
        [(false, Transport::Udp, 4045), (true, Transport::Tcp, 0x1234)].map(|(ipv6, transport, number)| Port {
            ipv6,
            transport,
            number,
        })
    }

    #[test]
    fn a_batch_is_framed_and_only_its_last_step_is_answered_when_all_is_well() {
        let lapse = Duration::from_secs(30);
        for made in [
            install(7, &ports(), 11, lapse, Queueing::Expression).unwrap(),
            renew(7, SETS[0], &ports(), lapse).unwrap(),
            refill(7, SETS[1], &ports(), lapse).unwrap(),
            remove(7).unwrap(),
        ] {
            let steps = steps(&made);
            let kinds: Vec<u16> = steps.iter().map(|(kind, ..)| *kind).collect();
            assert_eq!((kinds[0], kinds[kinds.len() - 1]), (BATCH_BEGIN, BATCH_END));
            assert!(kinds[1..kinds.len() - 1].iter().all(|kind| kind >> 8 == u16::from(SUBSYSTEM)), "{kinds:?}");
            let answered: Vec<bool> = steps.iter().map(|(_, flags, _)| flags & ACK != 0).collect();
            let last = answered.len() - 2;
            assert!(answered.iter().enumerate().all(|(at, is)| *is == (at == last)), "{answered:?}");
        }
    }

    #[test]
    fn a_port_is_found_by_its_family_and_protocol_and_lapses_after_its_milliseconds() {
        let made = renew(7, SETS[0], &ports(), Duration::from_secs(30)).unwrap();
        let steps = steps(&made);
        assert_eq!((steps[1].0 & 0xff, steps[2].0 & 0xff), (DELETE_ELEMENTS.into(), NEW_ELEMENTS.into()));
        let elements = |step: usize| Attribute::find(&steps[step].2, ELEMENTS).unwrap().as_nest().unwrap();
        let key = |element: &Attribute| {
            let inner = element.as_nest().unwrap();
            let key = Attribute::find(&inner, ELEMENT_KEY).unwrap().as_nest().unwrap();
            (key[0].value.clone(), Attribute::find(&inner, ELEMENT_TIMEOUT).map(|timeout| timeout.value.clone()))
        };
        let keys = [[2, 0, 0, 0, 17, 0, 0, 0, 0x0f, 0xcd, 0, 0], [10, 0, 0, 0, 6, 0, 0, 0, 0x12, 0x34, 0, 0]];
        for (place, wanted) in keys.into_iter().enumerate() {
            assert_eq!(key(&elements(1)[place]), (wanted.to_vec(), None));
            assert_eq!(key(&elements(2)[place]), (wanted.to_vec(), Some(30_000_u64.to_be_bytes().to_vec())));
        }
    }

    #[test]
    fn each_hook_has_a_rule_for_each_set_and_none_lets_packets_by_without_a_filter() {
        let made = install(7, &ports(), 11, Duration::from_secs(30), Queueing::Expression).unwrap();
        let mut seen = Vec::new();
        for (kind, _, attributes) in steps(&made) {
            if kind != kind_of(NEW_RULE) {
                continue;
            }
            let text = |kind| Attribute::find(&attributes, kind).unwrap().as_text().unwrap().to_owned();
            let all = Attribute::find(&attributes, rule::EXPRESSIONS).unwrap().as_nest().unwrap();
            let named: Vec<(String, Vec<Attribute>)> = all
                .iter()
                .map(|one| {
                    let inner = one.as_nest().unwrap();
                    let name = Attribute::find(&inner, rule::EXPRESSION).unwrap().as_text().unwrap().to_owned();
                    (name, Attribute::find(&inner, rule::DATA).unwrap().as_nest().unwrap())
                })
                .collect();
            let of = |name: &str| named.iter().find(|(one, _)| one == name).unwrap().1.clone();
            let port_at = Attribute::find(&of("payload"), PAYLOAD_OFFSET).unwrap().as_network().unwrap();
            let set = Attribute::find(&of("lookup"), LOOKUP_SET).unwrap().as_text().unwrap().to_owned();
            // No flags: no bypass.
            assert_eq!(of("queue"), [Attribute::network16(QUEUE_NUMBER, 11)]);
            seen.push((text(rule::CHAIN), port_at, set));
        }
        let wanted = [(CHAINS[0], 2, "a"), (CHAINS[0], 2, "b"), (CHAINS[1], 0, "a"), (CHAINS[1], 0, "b")];
        assert_eq!(seen, wanted.map(|(chain, at, set)| (chain.to_owned(), at, set.to_owned())));
    }
}
