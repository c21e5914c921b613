//! The addresses of this host.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use crate::wire::scope;

/// Addresses for documentation (RFC 5737, RFC 3849), which no host has.
const OF_NOBODY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 254)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xfffe)),
];

/// Whether this host has the address now, loopback included.
pub fn is_own_address(ip: IpAddr) -> bool {
    // Only the kernel knows: what is assigned, and what a subnet on the loopback interface covers.
    let ip = ip.to_canonical();
    if !can_bind(ip) || ip.is_loopback() {
        return can_bind(ip);
    }
    // With `net.ipv4.ip_nonlocal_bind` it lets each address be bound. Then those of interfaces are this host's.
    let lies = OF_NOBODY.into_iter().any(|nobodys| nobodys.is_ipv4() == ip.is_ipv4() && can_bind(nobodys));
    !lies || addresses().ok().is_none_or(|own| own.contains(&scope::split(SocketAddr::new(ip, 0)).ip()))
}

fn can_bind(ip: IpAddr) -> bool {
    let bound = UdpSocket::bind(scope::split(SocketAddr::new(ip, 0)));
    bound.err().is_none_or(|error| error.kind() != ErrorKind::AddrNotAvailable)
}

/// The addresses of all interfaces. A link-local one comes without its interface.
pub fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    Ok(getifaddrs()?.filter_map(|interface| ip_of(&interface)).collect())
}

/// Those from which clients elsewhere may have mounted: of interfaces that are up. A link-local one is
/// left out, since its zone is not in a notice.
pub fn serving_addresses() -> io::Result<Vec<IpAddr>> {
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let serves = |interface: &InterfaceAddress| {
        interface.flags.contains(wanted) && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let mut found: Vec<IpAddr> = getifaddrs()?.filter(serves).filter_map(|interface| ip_of(&interface)).collect();
    found.retain(|ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()));
    found.dedup();
    Ok(found)
}

fn ip_of(interface: &InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
    v4.or_else(|| Some(address.as_sockaddr_in6()?.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_its_loopback_address() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert!(addresses().unwrap().contains(&loopback) && is_own_address(loopback));
        assert!(!serving_addresses().unwrap().contains(&loopback));
    }
}
