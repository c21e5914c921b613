//! rpcbind, which tells where a program listens (RFC 1833): version 2 by protocol number and port,
//! versions 3 and 4 by netid and universal address.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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

/// The procedures used here; their numbers are the same in versions 2, 3 and 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Procedure {
    /// void -> void
    Null = 0,
    /// [`Mapping`] or [`Rpcb`] -> bool
    Set = 1,
    /// [`Mapping`] or [`Rpcb`] -> bool
    Unset = 2,
    /// GETPORT: [`Mapping`] -> u32 (0: nobody). GETADDR: [`Rpcb`] -> [`UniversalAddress`] (empty: nobody).
    Get = 3,
    /// void -> [`Chain`] of [`Mapping`] or [`Rpcb`]
    Dump = 4,
}

impl Procedure {
    /// The procedure of a number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Null, Self::Set, Self::Unset, Self::Get, Self::Dump].into_iter().find(|p| *p as u32 == number)
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

/// The netid of IP transports (RFC 5665).
pub fn netid(transport: Transport, ip: IpAddr) -> &'static str {
    match (transport, ip) {
        (Transport::Udp, IpAddr::V4(_)) => "udp",
        (Transport::Udp, IpAddr::V6(_)) => "udp6",
        (Transport::Tcp, IpAddr::V4(_)) => "tcp",
        (Transport::Tcp, IpAddr::V6(_)) => "tcp6",
    }
}

/// The netid of Unix sockets.
pub const NETID_LOCAL: &str = "local";

/// The universal address of an IP address and port (RFC 5665 sections 5.2.3.3 and 5.2.3.4): the
/// address, then the port's two bytes in decimal.
pub fn universal_address(address: SocketAddr) -> UniversalAddress {
    let [high, low] = address.port().to_be_bytes();
    UniversalAddress::clipped(format!("{}.{high}.{low}", address.ip()))
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
    Some(SocketAddr::new(ip, port))
}

/// Digits only: `parse` alone would also take a sign.
fn byte(text: &str) -> Option<u8> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// XDR's linked list (`pmaplist`, `rpcblist_ptr`): each item behind a "there is one more".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
