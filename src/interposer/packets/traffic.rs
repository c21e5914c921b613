//! All packets of lockd's ports, and their verdicts.

use std::net::SocketAddr;
use std::time::Duration;

use super::call::{self, Message, Path};
use super::claims::{Pending, Waiters};
use super::connection::{Connection, Segment};
use super::holds::Holds;
use super::inspector::Inspector;
use super::ip::{self, Layout, Odd, half, put};
use super::packet::{LOOPBACK, Packet, Verdict};
use super::records::{self, Next};
use super::table::{Datagrams, Flow, Key, Table};
use super::tcp::Header;
use super::treatment::Treatment;
use crate::interposer::messages::{FilterEvent, Mode, Order};
use crate::wire::scope;
use crate::wire::types::{Address, Transport};
use crate::wire::xdr::Text;

const UDP_HEADER: usize = 8;

/// What the filter knows, and what it has to say.
#[derive(Debug)]
pub struct Traffic {
    inspector: Inspector,
    table: Table,
    holds: Holds,
    superseded: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        let treatment = Treatment { mode: Mode::Off, pending: Pending::default(), waiters: Waiters::default() };
        Self {
            inspector: Inspector::new(treatment),
            table: Table::default(),
            holds: Holds::default(),
            superseded: false,
        }
    }
}

impl Traffic {
    pub fn order(&mut self, order: Order) {
        let treatment = &mut self.inspector.treatment;
        match order {
            Order::Mode(mode) => treatment.mode = mode,
            Order::Pending(claim) => treatment.pending.add(claim),
            Order::NotPending(claim) => treatment.pending.remove(&claim),
            Order::Waiter(claim) => treatment.waiters.add(claim),
            Order::Hold(client) => {
                if !self.superseded {
                    self.holds.hold(client.0);
                }
            }
            Order::LetGo(client) => {
                for packet in self.holds.let_go(client.0) {
                    self.inspector.let_go(packet.bytes.len());
                    self.look_at(packet);
                }
            }
            Order::Answer(number) => self.inspector.told.push(FilterEvent::Obeyed(number)),
        }
    }

    /// Takes a packet; its verdict may come later.
    pub fn packet(&mut self, now: Duration, packet: Packet) {
        self.inspector.now = now;
        if self.superseded {
            self.inspector.pass(packet.id);
        } else {
            self.look_at(packet);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        self.inspector.now = now;
        for connection in self.table.tcp() {
            connection.tick(&mut self.inspector);
        }
    }

    /// Packets did not come here.
    pub fn lost(&mut self) {
        self.inspector.told.push(FilterEvent::Lost);
    }

    /// lockd grants reclaims itself, or is another one: all passes unchanged from here on, also what waits.
    pub fn supersede(&mut self, why: &str) {
        if std::mem::replace(&mut self.superseded, true) {
            return;
        }
        self.inspector.told.push(FilterEvent::Superseded(Text::clipped(why)));
        for connection in std::mem::take(&mut self.table).into_tcp() {
            for id in connection.into_held() {
                self.inspector.pass(id);
            }
        }
        for packet in self.holds.let_all_go() {
            self.inspector.pass(packet.id);
        }
    }

    /// What is to be told before anything passes, and what becomes of packets.
    pub fn take(&mut self) -> (Vec<FilterEvent>, Vec<(u32, Verdict)>) {
        (std::mem::take(&mut self.inspector.told), std::mem::take(&mut self.inspector.verdicts))
    }

    fn look_at(&mut self, packet: Packet) {
        let layout = match Layout::of(&packet.bytes) {
            Ok(layout) => layout,
            Err(odd) => return self.odd(&packet, odd),
        };
        let address = |ip| scope::on(ip, packet.interface);
        let (Some(source), Some(destination)) = (address(layout.source), address(layout.destination)) else {
            return self.odd(&packet, Odd::Malformed);
        };
        let (client, server) = if packet.way_in { (source, destination) } else { (destination, source) };
        if packet.way_in && !layout.is_sound(&packet.bytes) {
            if self.inspector.is_off() {
                self.inspector.blind(client, "a packet passed whose checksum is wrong");
            }
            return self.refuse(packet.id);
        }
        let loopback = packet.interface == LOOPBACK;
        let path = |transport| Path { client, server, transport, loopback };
        match layout.protocol {
            ip::TCP => self.tcp(packet, layout, path(Transport::Tcp)),
            ip::UDP => self.udp(packet, layout, path(Transport::Udp)),
            _ => self.inspector.pass(packet.id),
        }
    }

    /// What may hold a call and cannot be looked into: it passes only while the filter is off.
    fn refuse(&mut self, id: u32) {
        if self.inspector.is_off() { self.inspector.pass(id) } else { self.inspector.drop(id) }
    }

    fn odd(&mut self, packet: &Packet, odd: Odd) {
        if let Odd::Fragment(source) = odd
            && packet.way_in
        {
            let source = scope::on(source, packet.interface).unwrap_or(source);
            self.inspector.blind(source, "a datagram came in parts, and the filter sees one part at a time");
        }
        if packet.way_in { self.refuse(packet.id) } else { self.inspector.pass(packet.id) }
    }

    fn tcp(&mut self, packet: Packet, layout: Layout, path: Path) {
        let Some(header) = Header::of(&layout, &packet.bytes) else { return self.refuse(packet.id) };
        let key = key(&path, packet.way_in, header.source_port, header.destination_port);
        if packet.way_in && self.holds.holds(path.client) && !self.is_own_segment(&path, &key, &packet, &header) {
            let reclaims = may_reclaim(packet.bytes.get(header.payload.clone()).unwrap_or_default(), &path);
            return self.wait(&path, packet, reclaims);
        }
        // Its handshake or its bytes make a connection known.
        let makes_known = !header.payload.is_empty() || (!packet.way_in && header.syn);
        if !self.table.has(&key) {
            if !makes_known {
                return self.inspector.pass(packet.id);
            }
            self.add(key, Flow::Tcp(Connection::new(path)));
        }
        let Some(Flow::Tcp(connection)) = self.table.used(&key) else { return self.refuse(packet.id) };
        let segment = Segment { id: packet.id, bytes: packet.bytes, layout, header };
        if packet.way_in {
            connection.way_in(&mut self.inspector, segment);
        } else {
            connection.way_out(&mut self.inspector, &segment);
        }
    }

    fn udp(&mut self, mut packet: Packet, layout: Layout, path: Path) {
        let datagram = layout.transport(&packet.bytes);
        let (ports, len) = ((half(datagram, 0), half(datagram, 2)), half(datagram, 4).map(usize::from));
        let message = len.and_then(|len| datagram.get(UDP_HEADER..len));
        let ((Some(source), Some(destination)), Some(message)) = (ports, message) else {
            return self.refuse(packet.id);
        };
        let key = key(&path, packet.way_in, source, destination);
        if packet.way_in && self.holds.holds(path.client) && !is_own(message, &path) {
            let reclaims = is_reclaim(message, &path);
            return self.wait(&path, packet, reclaims);
        }
        if !self.table.has(&key) {
            self.add(key, Flow::Udp(Datagrams::default()));
        }
        let Some(Flow::Udp(datagrams)) = self.table.used(&key) else { return self.refuse(packet.id) };
        if !packet.way_in {
            self.inspector.reply(path.client, &datagrams.calls, message);
            return self.inspector.pass(packet.id);
        }
        let Ok(judged) = self.inspector.call(&path, &mut datagrams.calls, message) else {
            let xid = ip::word(message, 0);
            if datagrams.unread == xid {
                self.inspector.blind(path.client, "a call that cannot be read comes again and again, and is dropped");
            }
            datagrams.unread = xid;
            return self.inspector.drop(packet.id);
        };
        if judged.edits.is_empty() {
            return self.inspector.pass(packet.id);
        }
        for (offset, word) in judged.edits {
            put(&mut packet.bytes, layout.at + UDP_HEADER + offset, &word);
        }
        layout.set_checksum(&mut packet.bytes);
        self.inspector.change(packet.id, packet.bytes);
    }

    fn add(&mut self, key: Key, known: Flow) {
        match self.table.add(key, known) {
            Some(Flow::Tcp(mut gone)) => gone.end(&mut self.inspector),
            Some(Flow::Udp(gone)) => self.inspector.forget(&gone.calls),
            None => {}
        }
    }

    /// Whether a segment of a client that is held passes all the same: it is nlmctl's own, or has no bytes.
    fn is_own_segment(&mut self, path: &Path, key: &Key, packet: &Packet, header: &Header) -> bool {
        if !path.loopback {
            return false;
        }
        let payload = packet.bytes.get(header.payload.clone()).unwrap_or_default();
        let is_known = matches!(self.table.used(key), Some(Flow::Tcp(connection)) if connection.own);
        let begins = || matches!(records::next(payload), Next::Whole(record, _) if is_own(&record.message, path));
        payload.is_empty() || is_known || begins()
    }

    fn wait(&mut self, path: &Path, packet: Packet, reclaims: bool) {
        if reclaims && self.holds.reclaims(path.client) {
            self.inspector.told.push(FilterEvent::Reclaims(Address(path.client)));
        }
        if self.holds.has_room(path.client) && self.inspector.has_room(packet.bytes.len()) {
            self.inspector.hold(packet.bytes.len());
            self.holds.wait(path.client, packet);
        } else {
            self.inspector.drop(packet.id);
        }
    }
}

fn is_own(message: &[u8], path: &Path) -> bool {
    matches!(call::read(message, path), Ok(Message::Untold(untold)) if untold.own)
}

/// Whether a message is a reclaim, or may be one: it cannot be read.
fn is_reclaim(message: &[u8], path: &Path) -> bool {
    match call::read(message, path) {
        Ok(Message::Told(call)) => call.request.is_reclaim(),
        Ok(Message::Untold(_)) => false,
        Ok(Message::NoCall) | Err(_) => true,
    }
}

/// Whether these bytes of a stream have a reclaim, or may have one: they are not all whole calls.
fn may_reclaim(mut payload: &[u8], path: &Path) -> bool {
    while !payload.is_empty() {
        match records::next(payload) {
            Next::Whole(record, len) if !is_reclaim(&record.message, path) => {
                payload = payload.get(len..).unwrap_or_default();
            }
            Next::Whole(..) | Next::Part | Next::None => return true,
        }
    }
    false
}

fn key(path: &Path, way_in: bool, source: u16, destination: u16) -> Key {
    let (client, server) = if way_in { (source, destination) } else { (destination, source) };
    Key {
        client: SocketAddr::new(path.client, client),
        server: SocketAddr::new(path.server, server),
        transport: path.transport,
    }
}
