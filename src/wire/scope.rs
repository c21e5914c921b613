//! Link-local IPv6 addresses (RFC 4291, 2.5.6), which mean a machine only together with an interface.
//!
//! # Theory
//! Two cables may each have a machine at `fe80::1`. Sockets keep the interface's index beside such an address (the
//! scope id, RFC 4007); this crate keeps it inside: bytes 4 to 7 of a link-local address are 0 on every wire, and
//! hold the index in every `IpAddr` and `SocketAddr` of ours ("joined"). BSD kernels do the same. So code that tells
//! machines apart by an `IpAddr` (clients and their locks, monitors, suspects, targets, the reply cache, the
//! control protocol) tells interfaces apart too, with no second field that one of them could forget.
//!
//! What must hold:
//! - What a socket or a resolver gave goes through [`joined`] before any other code sees it, and what a socket is given
//!   through [`split`]. Only `rpc/`, `host/` and those who ask the resolver do that.
//! - An address from elsewhere that already has something in these bytes is not a host: `fe80:0:0:3::1` on interface 2
//!   must not become the machine at `fe80::1` on interface 3.
//! - What goes to another machine as text is [`bare`]: an index says nothing there.
//! - An index ends with its interface, or with a restart of this machine. On disk, names are used
//!   (`fe80::1%eth0`, `host/interfaces.rs`). An interface that was removed and created again is another one: the locks
//!   of its clients stay under the old address until a run or a release ends them.
//! - What people read is [`Shown`]: `fe80::1%2`, which `ping` and `nlmctl --client` take as well as the name.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The bits of an address that hold the index: bytes 4 to 7.
const SHIFT: u32 = 64;
const MASK: u128 = (u32::MAX as u128) << SHIFT;

fn link_local(ip: IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
        _ => None,
    }
}

fn without_index(v6: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(v6.to_bits() & !MASK)
}

/// The address with its interface, of an address that has none yet. `None`: it has something there already. Other
/// addresses mean the same on every interface and stay as they are.
pub fn on(ip: IpAddr, index: u32) -> Option<IpAddr> {
    let Some(v6) = link_local(ip) else { return Some(ip) };
    let free = v6.to_bits() & MASK == 0;
    free.then(|| Ipv6Addr::from_bits(v6.to_bits() | u128::from(index) << SHIFT).into())
}

/// The interface of a link-local address that has one.
pub fn interface(ip: IpAddr) -> Option<u32> {
    let index = u32::try_from((link_local(ip)?.to_bits() & MASK) >> SHIFT).ok()?;
    (index != 0).then_some(index)
}

/// The address as it stands on the wire.
pub fn bare(ip: IpAddr) -> IpAddr {
    link_local(ip).map_or(ip, |v6| without_index(v6).into())
}

/// What a socket or a resolver gave. `None`: no host can have that address.
pub fn joined(address: SocketAddr) -> Option<SocketAddr> {
    let index = match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    Some(SocketAddr::new(on(address.ip(), index)?, address.port()))
}

/// What a socket is given.
pub fn split(address: SocketAddr) -> SocketAddr {
    match (link_local(address.ip()), interface(address.ip())) {
        (Some(v6), Some(index)) => SocketAddrV6::new(without_index(v6), address.port(), 0, index).into(),
        _ => address,
    }
}

/// The addresses that a resolver found, in one spelling.
pub fn found(sockets: impl Iterator<Item = SocketAddr>) -> impl Iterator<Item = IpAddr> {
    sockets.filter_map(joined).map(|socket| socket.ip().to_canonical())
}

/// The address in a text, also as [`Shown`] writes it.
pub fn parse(text: &str) -> Option<IpAddr> {
    let Some((address, index)) = text.split_once('%') else { return text.parse().ok() };
    let v6: Ipv6Addr = address.parse().ok()?;
    let index = index.parse().ok().filter(|index| *index != 0)?;
    on(v6.is_unicast_link_local().then_some(v6)?.into(), index)
}

/// Whether a datagram to `to` can leave from `from`: both are of one family, and a link-local address is of use
/// only on its own link.
pub fn reaches(from: IpAddr, to: IpAddr) -> bool {
    from.is_ipv6() == to.is_ipv6() && (interface(from).is_none() || interface(from) == interface(to))
}

/// An address as people read it: `fe80::1%2` is the one on the interface with index 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown(pub IpAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match interface(self.0) {
            Some(index) => write!(f, "{}%{index}", bare(self.0)),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_link_local_address_on_two_interfaces_is_two_addresses_and_a_socket_gets_back_what_it_gave() {
        let (one, other) = (socket("[fe80::1%2]:700"), socket("[fe80::1%3]:700"));
        let (in_one, in_other) = (joined(one).unwrap(), joined(other).unwrap());
        assert_ne!(in_one.ip(), in_other.ip());
        assert_eq!((split(in_one), split(in_other)), (one, other));
        assert_eq!((interface(in_one.ip()), interface(in_other.ip())), (Some(2), Some(3)));
        assert_eq!(bare(in_one.ip()), bare(in_other.ip()));
        let largest = socket("[febf::ffff:1%4294967295]:1");
        assert_eq!(split(joined(largest).unwrap()), largest);
    }

    #[test]
    fn other_addresses_mean_the_same_on_every_interface() {
        for text in ["192.0.2.1:1", "[2001:db8:3:4:5::1]:1", "[::1]:1", "[fd00:0:1:2::1]:1", "[fe80::1]:1"] {
            let address = socket(text);
            assert_eq!(joined(address), Some(address));
            assert_eq!(split(address), address);
            assert_eq!((interface(address.ip()), bare(address.ip())), (None, address.ip()));
        }
        // A scope id beside a global address says nothing.
        assert_eq!(joined(socket("[2001:db8::1%3]:1")), Some(socket("[2001:db8::1]:1")));
    }

    #[test]
    fn an_address_that_already_looks_like_one_on_another_interface_is_nobodys() {
        for text in ["[fe80:0:0:3::1%2]:1", "[fe80:0:1::1%2]:1", "[fe80:0:0:3::1]:1"] {
            assert_eq!(joined(socket(text)), None, "{text}");
        }
    }

    #[test]
    fn a_link_local_address_is_of_use_on_its_own_link_only() {
        let at = |text| joined(socket(text)).unwrap().ip();
        let (here, there, global) = (at("[fe80::1%2]:1"), at("[fe80::1%3]:1"), at("[2001:db8::1]:1"));
        assert!(reaches(here, here) && reaches(global, here) && reaches(global, global));
        assert!(!reaches(here, there) && !reaches(here, global));
        assert!(!reaches(at("192.0.2.1:1"), here) && reaches(at("192.0.2.1:1"), at("192.0.2.2:1")));
    }

    #[test]
    fn an_interface_in_a_text_belongs_to_a_link_local_address() {
        let ip = joined(socket("[fe80::1%2]:1")).unwrap().ip();
        assert_eq!(parse(&Shown(ip).to_string()), Some(ip));
        assert_eq!(parse("192.0.2.1"), Some(IpAddr::from([192, 0, 2, 1])));
        for bad in ["fe80::1%eth0", "fe80::1%0", "fe80::1%", "2001:db8::1%2", "192.0.2.1%2", "fe80:0:0:3::1%2", "a%2"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn people_read_the_interface_behind_the_address() {
        assert_eq!(Shown(joined(socket("[fe80::1%2]:1")).unwrap().ip()).to_string(), "fe80::1%2");
        assert_eq!(Shown("fe80::1".parse().unwrap()).to_string(), "fe80::1");
        assert_eq!(Shown("192.0.2.1".parse().unwrap()).to_string(), "192.0.2.1");
    }
}
