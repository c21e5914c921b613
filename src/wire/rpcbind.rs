//! rpcbind, which tells where a program listens (RFC 1833): version 2 by protocol number and port,
//! versions 3 and 4 by netid and universal address.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::scope;
use super::types::Transport;
use super::xdr::{CodecError, Pack, Text, Unpack, XdrCodec};

/// `PMAP_PROG`, `RPCBPROG`.
pub const PROGRAM: u32 = 100_000;
/// Its usual port.
pub const PORT: u16 = 111;
/// Most registrations that a dump may have.
pub const MAX_DUMP: usize = 4096;
/// Longest netid, universal address or owner in bytes.
pub const MAX_STRING: usize = 255;

/// The version with ports.
pub const V2: u32 = 2;
/// The first version with universal addresses.
pub const V3: u32 = 3;
/// The same, extended.
pub const V4: u32 = 4;

/// The procedures used here; their numbers up to 4 are the same in versions 2, 3 and 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Procedure {
    /// void -> void
    Null = 0,
    /// [`Mapping`] or [`Rpcb`] -> bool
    Set = 1,
    /// [`Mapping`] or [`Rpcb`] -> bool
    Unset = 2,
    /// GETPORT: [`Mapping`] -> u32 (0: not registered). GETADDR: [`Rpcb`] -> [`UniversalAddress`] (empty:
    /// not registered), for the transport by which it is asked: the netid is ignored (RFC 1833 section 2.2.1).
    Get = 3,
    /// void -> [`Chain`] of [`Mapping`] or [`Rpcb`]
    Dump = 4,
    /// GETADDRLIST, in version 4 only: [`Rpcb`] -> [`Chain`] of [`Entry`], for every transport of the
    /// family by which it is asked.
    AddressList = 11,
}

impl Procedure {
    /// The procedure of a number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Null, Self::Set, Self::Unset, Self::Get, Self::Dump, Self::AddressList]
            .into_iter()
            .find(|p| *p as u32 == number)
    }
}

/// Version 2's `mapping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, XdrCodec)]
pub struct Mapping {
    /// The program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// Over UDP or TCP (their IP protocol numbers). Ignored by UNSET.
    pub protocol: u32,
    /// The port; ignored by GETPORT and UNSET.
    pub port: u32,
}

/// Strings of versions 3 and 4.
pub type BindString = Text<MAX_STRING>;
/// A universal address; empty where there is none.
pub type UniversalAddress = BindString;

/// Versions 3 and 4's `rpcb`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct Rpcb {
    /// The program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// `udp`, `tcp`, `udp6`, `tcp6`, `local`. Empty in UNSET: all of them.
    pub netid: BindString,
    /// The universal address.
    pub address: UniversalAddress,
    /// Who registered it.
    pub owner: BindString,
}

/// Version 4's `rpcb_entry`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, XdrCodec)]
pub struct Entry {
    /// Where the program listens.
    pub address: UniversalAddress,
    /// Over what.
    pub netid: BindString,
    /// `NC_TPI_CLTS` (1), `NC_TPI_COTS` (2) or `NC_TPI_COTS_ORD` (3).
    pub semantics: u32,
    /// `inet` or `inet6`.
    pub family: BindString,
    /// `udp` or `tcp`.
    pub protocol: BindString,
}

/// The port of the entry with a netid; `None`: there is none.
pub fn port_in(entries: &Chain<Entry>, netid: &str) -> Option<u16> {
    let entry = entries.0.iter().find(|entry| entry.netid.as_str() == netid)?;
    Some(parse_universal_address(entry.address.as_str())?.port()).filter(|&port| port != 0)
}

/// The netid of IP transports (RFC 5665).
pub fn netid(transport: Transport, ip: IpAddr) -> &'static str {
    match (transport, ip) {
        (Transport::Udp, IpAddr::V4(_)) => "udp",
        (Transport::Udp, IpAddr::V6(_)) => "udp6",
        (Transport::Tcp, IpAddr::V4(_)) => "tcp",
        (Transport::Tcp, IpAddr::V6(_)) => "tcp6",
    }
}

/// The universal address of an IP address and port (RFC 5665 sections 5.2.3.3 and 5.2.3.4): the
/// address, then the port's two bytes in decimal.
pub fn universal_address(address: SocketAddr) -> UniversalAddress {
    // A peer knows no interface of ours.
    let [high, low] = address.port().to_be_bytes();
    UniversalAddress::clipped(format!("{}.{high}.{low}", scope::bare(address.ip())))
}

/// The IP address and port of a universal address; `None` if it is none of that kind (or empty).
pub fn parse_universal_address(text: &str) -> Option<SocketAddr> {
    let (rest, low) = text.rsplit_once('.')?;
    let (host, high) = rest.rsplit_once('.')?;
    let port = u16::from_be_bytes([byte(high)?, byte(low)?]);
    let ip = match host.parse::<Ipv4Addr>() {
        Ok(ip) => IpAddr::V4(ip),
        // A link-local address may carry its zone, which means something at home only.
        Err(_) => IpAddr::V6(host.split('%').next()?.parse::<Ipv6Addr>().ok()?),
    };
    // What looks like an address on an interface of ours is no host's (`wire/scope.rs`).
    Some(SocketAddr::new(scope::on(ip, 0)?, port))
}

/// Digits only: `parse` alone would also take a sign.
fn byte(text: &str) -> Option<u8> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// XDR's linked list (`pmaplist`, `rpcblist_ptr`): each item behind a "there is one more".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain<T>(pub Vec<T>);

impl<T: Pack> Pack for Chain<T> {
    fn packed_size(&self) -> usize {
        4 + self.0.iter().map(|item| 4 + item.packed_size()).sum::<usize>()
    }
    fn pack(&self, out: &mut impl Write) -> Result<usize, CodecError> {
        let mut written = 0;
        for item in &self.0 {
            written += true.pack(out)? + item.pack(out)?;
        }
        Ok(written + false.pack(out)?)
    }
}

impl<T: Unpack> Unpack for Chain<T> {
    fn unpack(input: &mut impl Read) -> Result<(Self, usize), CodecError> {
        let mut items = Vec::new();
        let mut total = 0;
        loop {
            let (more, read) = bool::unpack(input)?;
            total += read;
            if !more {
                return Ok((Self(items), total));
            }
            if items.len() == MAX_DUMP {
                return Err(CodecError::InvalidLength(MAX_DUMP));
            }
            let (item, read) = T::unpack(input)?;
            total += read;
            items.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors::{comes_back, is_written};
    use crate::wire::xdr::decode;

    fn text(text: &str) -> BindString {
        BindString::new(text).unwrap()
    }

    // RFC 1833 section 3.1, "struct mapping".
    #[test]
    fn a_mapping_is_four_words() {
        is_written(
            &Mapping { program: 100_021, version: 4, protocol: Transport::Udp as u32, port: 4045 },
            "000186b5 00000004 00000011 00000fcd",
        );
        is_written(
            &Mapping { program: 100_024, version: 1, protocol: Transport::Tcp as u32, port: 0 },
            "000186b8 00000001 00000006 00000000",
        );
    }

    // RFC 1833 section 2.1, "struct rpcb".
    #[test]
    fn an_rpcb_is_two_words_and_three_strings() {
        let rpcb =
            Rpcb { program: 100_024, version: 1, netid: text("udp6"), address: text("::1.0.111"), owner: text("0") };
        is_written(
            &rpcb,
            "000186b8 00000001 00000004 75647036
             00000009 3a3a312e 302e3131 31000000 00000001 30000000",
        );
    }

    // RFC 1833 section 3.1, "struct *pmaplist".
    #[test]
    fn a_dump_is_a_chain() {
        let mapping = Mapping { program: 1, version: 2, protocol: 17, port: 3 };
        is_written(
            &Chain(vec![mapping, mapping]),
            "00000001 00000001 00000002 00000011 00000003
             00000001 00000001 00000002 00000011 00000003
             00000000",
        );
        is_written(&Chain::<Mapping>(Vec::new()), "00000000");
    }

    // RFC 1833 section 2.1, "struct rpcb_entry" and "rpcb_entry_list".
    #[test]
    fn an_entry_is_four_strings_and_a_number_and_tells_the_port_of_its_netid() {
        let entry = |netid, address| Entry {
            address: text(address),
            netid: text(netid),
            semantics: 3,
            family: text("inet6"),
            protocol: text("tcp"),
        };
        is_written(
            &entry("tcp6", "::.0.111"),
            "00000008 3a3a2e30 2e313131 00000004 74637036 00000003
             00000005 696e6574 36000000 00000003 74637000",
        );
        let list = Chain(vec![entry("udp6", "::.1.0"), entry("tcp6", "fe80::1%eth0.0.111"), entry("tcp", "odd")]);
        assert_eq!(
            ["udp6", "tcp6", "tcp", "udp"].map(|netid| port_in(&list, netid)),
            [Some(256), Some(111), None, None]
        );
    }

    #[test]
    fn an_endless_dump_is_refused() {
        let endless = Chain(vec![Mapping { program: 1, version: 2, protocol: 17, port: 3 }; MAX_DUMP + 1]);
        assert!(decode::<Chain<Mapping>>(&crate::wire::xdr::encode(&endless)).is_err());
    }

    // RFC 5665 sections 5.2.3.3 and 5.2.3.4.
    #[test]
    fn universal_addresses_end_with_the_port_in_two_bytes() {
        let v4: SocketAddr = "192.0.2.7:2049".parse().unwrap();
        assert_eq!(universal_address(v4).as_str(), "192.0.2.7.8.1");
        let v6: SocketAddr = "[2001:db8::1]:111".parse().unwrap();
        assert_eq!(universal_address(v6).as_str(), "2001:db8::1.0.111");
        assert_eq!(parse_universal_address("0.0.0.0.15.205"), Some("0.0.0.0:4045".parse().unwrap()));
        let zoned = parse_universal_address("fe80::1%eth0.0.111");
        assert_eq!(zoned, Some(SocketAddrV6::new("fe80::1".parse().unwrap(), 111, 0, 0).into()));
    }

    #[test]
    fn what_is_no_universal_address_is_refused() {
        for bad in ["", ".", "..", "1.2.3.4", "1.2.3.4.5", "1.2.3.4.256.1", "1.2.3.4.+1.1", "/run/rpcbind.sock", "::1"]
        {
            assert_eq!(parse_universal_address(bad), None, "{bad:?}");
        }
        // The second interface of ours is not what a peer means.
        assert_eq!(parse_universal_address("fe80:0:0:2::1.0.111"), None);
    }

    #[test]
    fn netids_tell_transport_and_family() {
        let (v4, v6) = ("127.0.0.1".parse().unwrap(), "::1".parse().unwrap());
        let all = [(Transport::Udp, v4), (Transport::Tcp, v4), (Transport::Udp, v6), (Transport::Tcp, v6)];
        assert_eq!(all.map(|(transport, ip)| netid(transport, ip)), ["udp", "tcp", "udp6", "tcp6"]);
    }

    proptest! {
        #[test]
        fn universal_addresses_come_back(ip: IpAddr, port: u16) {
            let written = universal_address(SocketAddr::new(ip, port));
            prop_assert_eq!(parse_universal_address(written.as_str()), Some(SocketAddr::new(scope::bare(ip), port)));
        }

        #[test]
        fn rpcbs_come_back(program: u32, version: u32, netid in ".{0,9}", address in ".{0,40}") {
            comes_back(&Rpcb { program, version, netid: text(&netid), address: text(&address), owner: text("") });
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), string in ".{0,30}") {
            let _ = decode::<Mapping>(&bytes);
            let _ = decode::<Rpcb>(&bytes);
            let _ = decode::<Chain<Mapping>>(&bytes);
            let _ = decode::<Chain<Rpcb>>(&bytes);
            let _ = decode::<Chain<Entry>>(&bytes).map(|entries| port_in(&entries, "udp"));
            let _ = parse_universal_address(&string);
        }
    }
}
