//! Who has a port of this host: what /proc says.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use procfs::net::TcpState;
use procfs::process::{FDTarget, all_processes};

use crate::wire::types::Transport;

/// There once the kernel's lockd is loaded.
const LOCKD: &str = "/proc/fs/lockd";

/// Who has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process.
    Process {
        /// Its name.
        name: String,
        /// Its id.
        id: i32,
    },
    /// No process: the kernel itself.
    Kernel,
    /// It does not show: this user may not look, or the port is that of another network namespace.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, id } => write!(f, "{name} (process {id})"),
            Self::Kernel => f.write_str("the kernel"),
            Self::Unknown => f.write_str("another program"),
        }
    }
}

/// Who has the port. Blocks while it reads /proc.
pub(super) fn of(transport: Transport, address: SocketAddr) -> Holder {
    let inodes = inodes(transport, address);
    let look = search(&inodes);
    judge(!inodes.is_empty(), look, Path::new(LOCKD).exists())
}

/// What a look at all processes showed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Search {
    Found {
        name: String,
        id: i32,
    },
    Nobody,
    /// Some processes could not be looked into.
    Incomplete,
}

/// A socket that no process has is the kernel's. Where its lockd is not loaded, there is a process
/// that does not show, in another PID namespace.
fn judge(has_socket: bool, search: Search, lockd_is_loaded: bool) -> Holder {
    match search {
        Search::Found { name, id } => Holder::Process { name, id },
        Search::Nobody if has_socket && lockd_is_loaded => Holder::Kernel,
        Search::Nobody | Search::Incomplete => Holder::Unknown,
    }
}

/// The sockets that serve the port.
fn inodes(transport: Transport, address: SocketAddr) -> Vec<u64> {
    let port = address.port();
    match transport {
        Transport::Udp => {
            let entries = if address.is_ipv4() { procfs::net::udp() } else { procfs::net::udp6() };
            let entries = entries.unwrap_or_default().into_iter();
            entries.filter(|e| e.local_address.port() == port).map(|e| e.inode).collect()
        }
        Transport::Tcp => {
            let entries = if address.is_ipv4() { procfs::net::tcp() } else { procfs::net::tcp6() };
            let entries = entries.unwrap_or_default().into_iter();
            let serves = |e: &procfs::net::TcpNetEntry| e.local_address.port() == port && e.state == TcpState::Listen;
            entries.filter(serves).map(|e| e.inode).collect()
        }
    }
}

fn search(inodes: &[u64]) -> Search {
    let Ok(processes) = all_processes() else { return Search::Incomplete };
    let mut complete = true;
    for process in processes.flatten() {
        let descriptors = match process.fd() {
            Ok(descriptors) => descriptors,
            Err(procfs::ProcError::NotFound(_)) => continue,
            Err(_) => {
                complete = false;
                continue;
            }
        };
        let has = |target: FDTarget| matches!(target, FDTarget::Socket(inode) if inodes.contains(&inode));
        if descriptors.flatten().any(|descriptor| has(descriptor.target)) {
            let name = process.stat().map_or_else(|_| "a process".to_owned(), |stat| stat.comm);
            return Search::Found { name, id: process.pid() };
        }
    }
    if complete { Search::Nobody } else { Search::Incomplete }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_listens_is_found() {
        let own = i32::try_from(std::process::id()).unwrap();
        let is_us = |holder| matches!(holder, Holder::Process { id, .. } if id == own);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_us(of(Transport::Tcp, tcp.local_addr().unwrap())));
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        assert!(is_us(of(Transport::Udp, udp.local_addr().unwrap())));
    }

    #[test]
    fn only_a_socket_that_nobody_has_is_the_kernels_and_only_where_its_lockd_is() {
        assert_eq!(judge(true, Search::Nobody, true), Holder::Kernel);
        assert_eq!(judge(true, Search::Nobody, false), Holder::Unknown);
        assert_eq!(judge(true, Search::Incomplete, true), Holder::Unknown);
        assert_eq!(judge(false, Search::Nobody, true), Holder::Unknown, "it is not of this network namespace");
        let found = Search::Found { name: "ganesha.nfsd".into(), id: 7 };
        assert_eq!(judge(true, found, true).to_string(), "ganesha.nfsd (process 7)");
    }
}
