//! The addresses of this host.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use crate::wire::scope;

/// Whether this host has the address now, loopback included.
pub fn is_own_address(ip: IpAddr) -> bool {
    // Only the kernel knows: what is assigned, and what a subnet on the loopback interface covers.
    let socket = scope::split(SocketAddr::new(ip.to_canonical(), 0));
    UdpSocket::bind(socket).err().is_none_or(|error| error.kind() != ErrorKind::AddrNotAvailable)
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
