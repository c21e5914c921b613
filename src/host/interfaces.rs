//! Network interfaces by name, as on disk and as people write them. `wire/scope.rs` has the theory.

use std::net::{IpAddr, Ipv6Addr};

use nix::net::if_::{if_indextoname, if_nametoindex};

use crate::wire::scope;

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Neither IPv4 nor IPv6, or with an interface where none belongs.
    #[error("{0:?} is not an address")]
    NoAddress(String),
    /// Its interface is not there.
    #[error("no such interface: {0:?}")]
    NoInterface(String),
}

/// The address with its interface's name: `fe80::1%eth0`. Of an interface that is gone comes its index.
pub fn text_of(ip: IpAddr) -> String {
    let name =
        scope::interface(ip).and_then(|index| if_indextoname(index).ok()).and_then(|name| name.into_string().ok());
    // Where the index has no interface, some kernels say an empty name.
    let name = name.filter(|name| !name.is_empty());
    match name {
        Some(name) => format!("{}%{name}", scope::bare(ip)),
        None => scope::Shown(ip).to_string(),
    }
}

/// The address that a user wrote, also with an interface by name or index.
pub fn address(text: &str) -> Result<IpAddr, BadAddress> {
    let no_address = || BadAddress::NoAddress(text.to_owned());
    let Some((address, zone)) = text.split_once('%') else {
        return text.parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| no_address());
    };
    let v6: Ipv6Addr = address.parse().map_err(|_| no_address())?;
    if !v6.is_unicast_link_local() {
        return Err(no_address());
    }
    let number = || zone.parse().ok().filter(|index| *index != 0);
    let index = if_nametoindex(zone).ok().or_else(number).ok_or_else(|| BadAddress::NoInterface(zone.to_owned()))?;
    scope::on(v6.into(), index).ok_or_else(no_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_read_by_name_or_index_and_written_by_name() {
        let index = if_nametoindex("lo").unwrap();
        let ip = address("fe80::7%lo").unwrap();
        assert_eq!(scope::interface(ip), Some(index));
        assert_eq!(address(&format!("FE80:0::7%{index}")), Ok(ip));
        assert_eq!(text_of(ip), "fe80::7%lo");
        assert_eq!(address("::ffff:192.0.2.1"), Ok(IpAddr::from([192, 0, 2, 1])));
    }

    #[test]
    fn an_interface_that_is_gone_is_said() {
        assert_eq!(address("fe80::7%no-such0"), Err(BadAddress::NoInterface("no-such0".to_owned())));
        assert_eq!(address("fe80::7%0"), Err(BadAddress::NoInterface("0".to_owned())));
        let gone = address("fe80::7%4000000").unwrap();
        assert_eq!(text_of(gone), "fe80::7%4000000");
        assert_eq!(address(&text_of(gone)), Ok(gone));
    }

    #[test]
    fn an_interface_belongs_to_a_link_local_address_only() {
        for bad in ["2001:db8::1%lo", "192.0.2.1%lo", "a%lo", "", "fe80:0:0:2::7%lo"] {
            assert!(matches!(address(bad), Err(BadAddress::NoAddress(_))), "{bad}");
        }
    }
}
