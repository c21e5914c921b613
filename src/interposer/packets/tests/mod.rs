//! Packets made by hand, and what came of them.

mod bounds;
mod calls;
mod hostile;
mod replies;
mod segments;
mod streams;

use std::net::IpAddr;
use std::time::Duration;

use super::{Packet, Traffic, Verdict};
use crate::interposer::messages::{Call, Claim, FilterEvent, Mode, Order, Treated, Way};
use crate::wire::nlm::{self, Lock, LockArgs, Message, Procedure, Version};
use crate::wire::rpc::{self, Credential};
use crate::wire::types::{Address, ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid, Transport};

const CLIENT: &str = "10.0.0.11";
const SERVER: &str = "10.0.0.1";
const CLIENT_PORT: u16 = 700;
const SERVER_PORT: u16 = 4045;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// The sum of RFC 1071, word by word.
fn internet_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    u16::try_from(sum).unwrap()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn transport_sum(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> u16 {
    let len = u16::try_from(transport.len()).unwrap().to_be_bytes();
    internet_sum(&[&octets(source), &octets(destination), &[0, protocol], &len, transport])
}

fn ip_packet(source: IpAddr, destination: IpAddr, protocol: u8, mut transport: Vec<u8>) -> Vec<u8> {
    let at = if protocol == 6 { 16 } else { 6 };
    let made = !transport_sum(source, destination, protocol, &transport);
    transport[at..at + 2].copy_from_slice(&made.to_be_bytes());
    let (from, to) = (octets(source), octets(destination));
    if source.is_ipv4() {
        let len = u16::try_from(20 + transport.len()).unwrap().to_be_bytes();
        let mut header = [&[0x45, 0, len[0], len[1], 0, 9, 0x40, 0, 64, protocol, 0, 0], &*from, &*to].concat();
        let made = !internet_sum(&[&header]);
        header[10..12].copy_from_slice(&made.to_be_bytes());
        return [header, transport].concat();
    }
    let len = u16::try_from(transport.len()).unwrap().to_be_bytes();
    [&[0x60, 0, 0, 0, len[0], len[1], protocol, 64], &*from, &*to, &transport].concat()
}

fn udp(source: (&str, u16), destination: (&str, u16), message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + message.len()).unwrap();
    let header = [source.1, destination.1, len, 0].map(u16::to_be_bytes).concat();
    ip_packet(source.0.parse().unwrap(), destination.0.parse().unwrap(), 17, [&header, message].concat())
}

fn tcp(source: (&str, u16), destination: (&str, u16), place: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [source.1, destination.1].map(u16::to_be_bytes).concat();
    header.extend([place, ack].map(u32::to_be_bytes).concat());
    // With a timestamp option, as real ones have.
    header.extend([0x80, flags, 0x20, 0, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
    ip_packet(source.0.parse().unwrap(), destination.0.parse().unwrap(), 6, [&header, payload].concat())
}

/// Where the payload of a packet made here begins.
fn payload_at(packet: &[u8]) -> usize {
    let ip = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let protocol = if ip == 20 { packet[9] } else { packet[6] };
    ip + if protocol == 6 { 32 } else { 8 }
}

/// The checksums are right, by another sum than the one under test.
fn assert_sound(packet: &[u8]) {
    let (ip, protocol) = if packet[0] >> 4 == 4 { (20, packet[9]) } else { (40, packet[6]) };
    let (addresses, half) = if ip == 20 { (12, 4) } else { (8, 16) };
    let [from, to] = [addresses, addresses + half].map(|at| &packet[at..at + half]);
    let len = u16::try_from(packet.len() - ip).unwrap().to_be_bytes();
    assert_eq!(internet_sum(&[from, to, &[0, protocol], &len, &packet[ip..]]), 0xffff, "{packet:02x?}");
    if ip == 20 {
        assert_eq!(internet_sum(&[&packet[..20]]), 0xffff);
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
    } else {
        assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40, packet.len());
    }
}

/// The filter with what it was given and what it said.
#[derive(Debug, Default)]
struct Filter {
    traffic: Traffic,
    now: Duration,
    packets: u32,
    told: Vec<FilterEvent>,
    verdicts: Vec<(u32, Verdict)>,
}

impl Filter {
    fn in_mode(mode: Mode) -> Self {
        let mut filter = Self::default();
        filter.order(Order::Mode(mode));
        filter
    }
    fn order(&mut self, order: Order) {
        self.traffic.order(order);
        self.collect();
    }
    fn give(&mut self, way_in: bool, interface: u32, bytes: Vec<u8>) -> u32 {
        self.packets += 1;
        self.traffic.packet(self.now, Packet { id: self.packets, way_in, interface, bytes });
        self.collect();
        self.packets
    }
    fn collect(&mut self) {
        let (told, verdicts) = self.traffic.take();
        self.told.extend(told);
        self.verdicts.extend(verdicts);
    }
    /// A packet on its way in, and what became of it; `None`: it waits.
    fn take(&mut self, bytes: Vec<u8>) -> Option<Verdict> {
        let id = self.give(true, 2, bytes);
        self.verdict(id)
    }
    fn take_out(&mut self, bytes: Vec<u8>) -> Option<Verdict> {
        let id = self.give(false, 2, bytes);
        self.verdict(id)
    }
    fn verdict(&self, id: u32) -> Option<Verdict> {
        let mut found = self.verdicts.iter().filter(|(of, _)| *of == id).map(|(_, verdict)| verdict.clone());
        let first = found.next();
        assert_eq!(found.next(), None, "two verdicts for {id}");
        first
    }
    fn pass_time(&mut self, time: Duration) {
        self.now += time;
        self.traffic.tick(self.now);
        self.collect();
    }
    fn calls(&self) -> Vec<&Call> {
        fn call(told: &FilterEvent) -> Option<&Call> {
            if let FilterEvent::Call(call) = told { Some(call) } else { None }
        }
        self.told.iter().filter_map(call).collect()
    }
    fn treated(&self) -> Vec<Treated> {
        self.calls().iter().map(|call| call.treated).collect()
    }
    fn blinds(&self) -> Vec<&str> {
        fn why(told: &FilterEvent) -> Option<&str> {
            if let FilterEvent::Blind(blind) = told { Some(blind.why.as_str()) } else { None }
        }
        self.told.iter().filter_map(why).collect()
    }
}

/// A client's TCP connection with lockd, as packets.
#[derive(Debug)]
struct ClientConnection {
    /// Where the streams of the client and of lockd begin.
    start: u32,
    back: u32,
}

impl ClientConnection {
    fn send(&self, offset: usize, payload: &[u8]) -> Vec<u8> {
        let place = self.start.wrapping_add(u32::try_from(offset).unwrap());
        tcp((CLIENT, CLIENT_PORT), (SERVER, SERVER_PORT), place, self.back, ACK, payload)
    }
    /// lockd's, with what it has of the client's stream.
    fn answer(&self, has: usize, offset: usize, payload: &[u8]) -> Vec<u8> {
        let place = self.back.wrapping_add(u32::try_from(offset).unwrap());
        let ack = self.start.wrapping_add(u32::try_from(has).unwrap());
        tcp((SERVER, SERVER_PORT), (CLIENT, CLIENT_PORT), place, ack, ACK, payload)
    }
    /// A connection that was made while the filter looked.
    fn open(filter: &mut Filter) -> Self {
        let line = Self { start: 5000, back: 90_000 };
        line.shake(filter);
        line
    }
    fn shake(&self, filter: &mut Filter) {
        let (client, server) = ((CLIENT, CLIENT_PORT), (SERVER, SERVER_PORT));
        let syn = tcp(client, server, self.start.wrapping_sub(1), 0, SYN, &[]);
        assert_eq!(filter.take(syn), Some(Verdict::Pass));
        let answer = tcp(server, client, self.back.wrapping_sub(1), self.start, SYN | ACK, &[]);
        assert_eq!(filter.take_out(answer), Some(Verdict::Pass));
        assert_eq!(filter.take(self.send(0, &[])), Some(Verdict::Pass));
    }
}

fn args() -> LockArgs {
    LockArgs {
        cookie: Cookie::new(&[0, 0, 0, 1]).unwrap(),
        block: true,
        exclusive: true,
        alock: Lock::new(
            CallerName::new("c1").unwrap(),
            FileHandle::new(b"a file's handle, of 32 bytes: .....").unwrap(),
            OwnerHandle::new(b"7@c1").unwrap(),
            Svid(7),
            ByteRange { start: 10, end: 19 },
        ),
        reclaim: false,
        state: NsmState(3),
    }
}

fn reclaim() -> LockArgs {
    LockArgs { reclaim: true, ..args() }
}

/// A call of root at `c1`.
fn message(xid: u32, version: Version, procedure: Procedure, args: &impl Message) -> Vec<u8> {
    let args = args.encode(version).unwrap();
    rpc::call(xid, nlm::PROGRAM, version.number(), procedure.number(), &Credential::root("c1"), &args)
}

fn lock(xid: u32, args: &LockArgs) -> Vec<u8> {
    message(xid, Version::V4, Procedure::Lock, args)
}

fn way(version: Version, transport: Transport) -> Way {
    let address = |text: &str| Address(text.parse().unwrap());
    Way { client: address(CLIENT), server: address(SERVER), version: version.number(), transport }
}

/// What `args` ask for.
fn claim(version: Version, transport: Transport) -> Claim {
    let LockArgs { exclusive, alock, .. } = args();
    Claim { way: way(version, transport), svid: alock.svid, range: alock.range().unwrap(), file: alock.fh, exclusive }
}
