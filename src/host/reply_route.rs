//! A route that keeps the replies to calls in a client's name on this host.
//!
//! Theory. A call that leaves from the client's address (`IP_TRANSPARENT`, ip(7)) reaches a service of this host over
//! loopback, since it is sent to an address of this host. Its reply would be sent to the client, which would reset
//! the connection. So a policy rule chooses the packets of just that conversation, by addresses, transport and ports, and
//! leads them to a table with a single route: everything in it is local. No packet of the client's own
//! conversations is chosen, and no packet filter (nftables) is needed.
//!
//! What must hold:
//! - Rule and route are there only while a [`ReplyRoute`] is; dropping it removes them.
//! - A process that is killed leaves them. They are known by their table and protocol number, and
//!   [`ReplyRoute::remove_left`] removes them all. Only one process makes any at a time, which its
//!   caller sees to.
//! - Linux chooses by transport and ports since 4.17. An older kernel ignores that and would take away all that goes to
//!   the client. Callers need the kernel's type information (BTF), which is younger.

use std::io;
use std::net::IpAddr;

use nix::libc;
use nix::net::if_::if_nametoindex;
use socket2::Socket;

use super::netlink::{exchange, open};
use crate::wire::rtnetlink::{Flow, add_route, add_rule, delete_route, delete_rule, family};

/// Most rules that are removed at a time: a process that died leaves one.
const MAX_LEFT: usize = 64;

#[derive(Debug)]
pub struct ReplyRoute {
    family: u8,
}

impl ReplyRoute {
    /// Keeps this flow here.
    ///
    /// # Errors
    /// The errors of rtnetlink: `EPERM` without CAP_NET_ADMIN.
    pub fn new(flow: &Flow) -> io::Result<Self> {
        let kernel = open(libc::NETLINK_ROUTE)?;
        let (loopback, family) = (loopback()?, family(flow.to.ip()));
        // Without a rule the route means nothing. What fails after it removes it.
        let route = Self { family };
        unless_there(exchange(&kernel, |sequence| add_route(sequence, family, loopback)))?;
        exchange(&kernel, |sequence| add_rule(sequence, flow))?;
        Ok(route)
    }

    /// Removes what a process that was killed has left; true if there was anything.
    ///
    /// # Errors
    /// The errors of rtnetlink.
    pub fn remove_left() -> io::Result<bool> {
        let families = [IpAddr::from([0; 4]), IpAddr::from([0_u16; 8])].map(family);
        let mut found = false;
        for family in families {
            found |= remove(family)?;
        }
        Ok(found)
    }
}

impl Drop for ReplyRoute {
    fn drop(&mut self) {
        if let Err(error) = remove(self.family) {
            tracing::warn!(%error, "cannot remove the route for replies; the next nlmctl tries again");
        }
    }
}

fn loopback() -> io::Result<u32> {
    if_nametoindex("lo").map_err(io::Error::from)
}

/// True if there was anything.
fn remove(family: u8) -> io::Result<bool> {
    let kernel = open(libc::NETLINK_ROUTE)?;
    let mut found = false;
    for _ in 0..MAX_LEFT {
        if !is_removed(&kernel, |sequence| delete_rule(sequence, family))? {
            break;
        }
        found = true;
    }
    let loopback = loopback()?;
    Ok(found | is_removed(&kernel, |sequence| delete_route(sequence, family, loopback))?)
}

/// False if there was nothing to remove, or no such family.
fn is_removed(
    kernel: &Socket,
    question: impl FnOnce(u32) -> Result<Vec<u8>, crate::wire::netlink::MessageError>,
) -> io::Result<bool> {
    match exchange(kernel, question) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => Ok(false),
            _ => Err(error),
        },
    }
}

/// What is to be added may be there already.
fn unless_there<T>(done: io::Result<T>) -> io::Result<()> {
    match done {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}
