//! IP packets: where their TCP segment or datagram is, and its checksum (RFC 791, RFC 8200, RFC 1071).
//!
//! The kernel hands out packets whose checksums are finished: a queue without `NFQA_CFG_F_GSO` cuts large packets into
//! segments and completes what a network card was to complete (`skb_checksum_help` in nfnetlink_queue.c). A packet that
//! comes back changed is checked like one from the wire (`CHECKSUM_NONE`), so a changed packet gets a whole new checksum.
//! That would make a damaged packet look sound, so a checksum is looked at before a packet is changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// Most extension headers of IPv6 that are walked: real packets have one or two.
const MAX_EXTENSIONS: usize = 8;
/// Where UDP and TCP headers have their checksums.
const UDP_CHECKSUM: usize = 6;
const TCP_CHECKSUM: usize = 16;

/// Where things are in a packet, and between whom it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// [`TCP`] or [`UDP`], or another.
    pub(super) protocol: u8,
    /// Where the transport's header begins.
    pub(super) at: usize,
    /// Where the packet ends, by its own length.
    pub(super) end: usize,
}

/// A packet that is not looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Odd {
    /// A part of a datagram, from this address: the rest of a call may be in another part.
    Fragment(IpAddr),
    Malformed,
}

pub(super) fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(super) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes bytes where there is room for them; elsewhere nothing.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(value);
    }
}

impl Layout {
    pub(super) fn of(bytes: &[u8]) -> Result<Self, Odd> {
        match byte(bytes, 0).map(|first| first >> 4) {
            Some(4) => of_ipv4(bytes),
            Some(6) => of_ipv6(bytes),
            _ => Err(Odd::Malformed),
        }
    }

    /// What follows the IP headers.
    pub(super) fn transport<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.at..self.end).unwrap_or_default()
    }

    /// Whether the checksum of the segment or datagram is right, or there is none.
    pub(super) fn is_sound(&self, bytes: &[u8]) -> bool {
        let transport = self.transport(bytes);
        let none = self.protocol == UDP && half(transport, UDP_CHECKSUM) == Some(0) && self.source.is_ipv4();
        none || fold(self.pseudo_header(transport.len()) + sum(transport)) == u16::MAX
    }

    /// Makes the checksum of the segment or datagram right; one that has none gets none.
    pub(super) fn set_checksum(&self, bytes: &mut [u8]) {
        let at = if self.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
        if self.protocol == UDP && half(self.transport(bytes), at) == Some(0) {
            return;
        }
        put(bytes, self.at + at, &[0, 0]);
        let transport = self.transport(bytes);
        let made = !fold(self.pseudo_header(transport.len()) + sum(transport));
        // 0 would say that there is none (RFC 768).
        let made = if made == 0 && self.protocol == UDP { u16::MAX } else { made };
        put(bytes, self.at + at, &made.to_be_bytes());
    }

    /// Cuts the packet at `end`: its length and the checksum of an IPv4 header become right, the transport's does not.
    pub(super) fn cut(&mut self, bytes: &mut Vec<u8>, end: usize) {
        bytes.truncate(end);
        self.end = bytes.len();
        let len = |len: usize| u16::try_from(len).unwrap_or_default().to_be_bytes();
        if self.source.is_ipv4() {
            let header = usize::from(byte(bytes, 0).unwrap_or_default() & 15) * 4;
            put(bytes, 2, &len(self.end));
            put(bytes, 10, &[0, 0]);
            let made = !fold(sum(bytes.get(..header).unwrap_or_default()));
            put(bytes, 10, &made.to_be_bytes());
        } else {
            put(bytes, 4, &len(self.end.saturating_sub(40)));
        }
    }

    fn pseudo_header(&self, len: usize) -> u64 {
        let addresses = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => sum(&source.octets()) + sum(&destination.octets()),
            (source, destination) => sum(&octets(source)) + sum(&octets(destination)),
        };
        addresses + u64::from(self.protocol) + len as u64
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The sum of 32-bit words: folded it is that of 16-bit words.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    put(&mut last, 0, rest);
    words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum::<u64>() + u64::from(u32::from_be_bytes(last))
}

fn fold(mut sum: u64) -> u16 {
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

fn of_ipv4(bytes: &[u8]) -> Result<Layout, Odd> {
    let read = || {
        let header = usize::from(byte(bytes, 0)? & 15) * 4;
        let end = usize::from(half(bytes, 2)?);
        let whole = header >= 20 && header <= end && end <= bytes.len() && fold(sum(bytes.get(..header)?)) == u16::MAX;
        let source = IpAddr::from(Ipv4Addr::from(word(bytes, 12)?));
        let destination = IpAddr::from(Ipv4Addr::from(word(bytes, 16)?));
        // More fragments follow, or this is not the first one.
        let fragment = half(bytes, 6)? & 0x3fff != 0;
        let layout = Layout { source, destination, protocol: byte(bytes, 9)?, at: header, end };
        whole.then_some((layout, fragment))
    };
    match read() {
        Some((layout, true)) => Err(Odd::Fragment(layout.source)),
        Some((layout, false)) => Ok(layout),
        None => Err(Odd::Malformed),
    }
}

fn of_ipv6(bytes: &[u8]) -> Result<Layout, Odd> {
    const HEADER: usize = 40;
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const OPTIONS: u8 = 60;
    let address = |at: usize| Some(IpAddr::from(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?)));
    let fixed = || Some((half(bytes, 4)?, byte(bytes, 6)?, address(8)?, address(24)?));
    let (len, mut next, source, destination) = fixed().ok_or(Odd::Malformed)?;
    let end = HEADER + usize::from(len);
    if end > bytes.len() {
        return Err(Odd::Malformed);
    }
    let mut at = HEADER;
    for _ in 0..MAX_EXTENSIONS {
        let header = bytes.get(at..end).unwrap_or_default();
        let size = || byte(header, 1).map(usize::from).ok_or(Odd::Malformed);
        let skip = match next {
            HOP_BY_HOP | ROUTING | OPTIONS => (size()? + 1) * 8,
            AUTHENTICATION => (size()? + 2) * 4,
            // A fragment that is all of its datagram is none (RFC 6946).
            FRAGMENT if half(header, 2).is_some_and(|place| place & 0xfff9 == 0) => 8,
            FRAGMENT => return Err(Odd::Fragment(source)),
            protocol => return Ok(Layout { source, destination, protocol, at, end }),
        };
        next = byte(header, 0).ok_or(Odd::Malformed)?;
        at += skip;
        if at > end {
            return Err(Odd::Malformed);
        }
    }
    Err(Odd::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors::bytes;

    // A UDP datagram of 10.0.0.1:1000 to 10.0.0.2:2000 with "hi!": sums made by hand.
    const IPV4: &str = "4500001f 00000000 401166cc 0a000001 0a000002 03e807d0 000b0000 686921";

    #[test]
    fn the_checksum_of_a_datagram_is_that_of_its_pseudo_header_its_header_and_its_bytes() {
        let mut packet = bytes(IPV4);
        let layout = Layout::of(&packet).unwrap();
        assert_eq!((layout.at, layout.end, layout.protocol), (20, 31, UDP));
        assert!(layout.is_sound(&packet), "a datagram without a checksum");
        layout.set_checksum(&mut packet);
        assert_eq!(packet, bytes(IPV4), "none is made where there was none");
        packet[26..28].copy_from_slice(&[1, 1]);
        assert!(!layout.is_sound(&packet));
        layout.set_checksum(&mut packet);
        // 0a00+0001+0a00+0002+0011+000b + 03e8+07d0+000b + 6869+2100 = a94b, inverted.
        assert_eq!(packet[26..28], [0x56, 0xb4]);
        assert!(layout.is_sound(&packet));
    }

    #[test]
    fn parts_of_an_ipv4_datagram_are_told_from_whole_ones() {
        let source = Ipv4Addr::new(10, 0, 0, 1).into();
        for (flags, sum, odd) in [
            ("4000", "26cc", None),
            ("2000", "46cc", Some(Odd::Fragment(source))),
            ("0001", "66cb", Some(Odd::Fragment(source))),
            ("4000", "26cd", Some(Odd::Malformed)),
        ] {
            let packet = bytes(&IPV4.replace("00000000 401166cc", &format!("0000{flags} 4011{sum}")));
            assert_eq!(Layout::of(&packet).err(), odd, "{flags} {sum}");
        }
    }

    fn ipv6(extensions: &[(u8, &str)], last: u8) -> Vec<u8> {
        let nexts = extensions.iter().map(|(kind, _)| *kind).chain([last]).collect::<Vec<_>>();
        let mut body = Vec::new();
        for ((_, text), next) in extensions.iter().zip(&nexts[1..]) {
            body.extend([&[*next], bytes(text).as_slice()].concat());
        }
        body.extend(bytes("03e807d0 000b0000 686921"));
        let len = u8::try_from(body.len()).unwrap();
        let addresses = bytes("fd000000000000000000000000000001 fd000000000000000000000000000002");
        [&[0x60, 0, 0, 0, 0, len, nexts[0], 64], addresses.as_slice(), &body].concat()
    }

    #[test]
    fn extension_headers_are_walked_and_a_part_of_a_datagram_is_found_behind_them() {
        let (options, authentication) = ("00 010400000000", "01 0000 00000000 00000000");
        for (extensions, at) in [
            (vec![], 40),
            (vec![(0, options)], 48),
            (vec![(60, options), (43, options), (51, authentication)], 68),
            (vec![(44, "00 0000 00000007")], 48),
        ] {
            let mut packet = ipv6(&extensions, UDP);
            let mut layout = Layout::of(&packet).unwrap();
            assert_eq!((layout.at, layout.protocol, layout.end), (at, UDP, packet.len()), "{extensions:?}");
            assert!(!layout.is_sound(&packet), "IPv6 has no datagrams without a checksum");
            layout.protocol = TCP;
            layout.set_checksum(&mut packet);
        }
        let source = IpAddr::from("fd00::1".parse::<Ipv6Addr>().unwrap());
        for place in ["0001", "0008"] {
            let packet = ipv6(&[(0, options), (44, &format!("00 {place} 00000007"))], UDP);
            assert_eq!(Layout::of(&packet), Err(Odd::Fragment(source)));
        }
        let endless = vec![(0, options); MAX_EXTENSIONS + 1];
        assert_eq!(Layout::of(&ipv6(&endless, UDP)), Err(Odd::Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 0_u8..16) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = (*first & 15) | (version << 4);
            }
            if let Ok(mut layout) = Layout::of(&bytes) {
                prop_assert!(layout.at <= layout.end && layout.end <= bytes.len());
                let _ = layout.is_sound(&bytes);
                layout.set_checksum(&mut bytes);
                let end = layout.at;
                layout.cut(&mut bytes, end);
            }
        }
    }
}
