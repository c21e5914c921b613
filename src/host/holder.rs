//! Which process has a port of this host, from /proc.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::files::Machine;
use super::sockets::{Socket, SocketState};
use crate::wire::scope;
use crate::wire::types::Transport;

/// The process that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Process {
        name: String,
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

impl Machine {
    /// The process that has the port. Blocks while it reads /proc.
    pub fn holder(&self, transport: Transport, address: SocketAddr) -> Holder {
        let sockets = self.serving(transport, address);
        judge(!sockets.is_empty(), self.search(&sockets), self.has_lockd())
    }

    /// The sockets that serve the port, as descriptors show them.
    fn serving(&self, transport: Transport, address: SocketAddr) -> Vec<PathBuf> {
        let is_there = |local: SocketAddr| {
            let (one, other) = (scope::bare(local.ip()), scope::bare(address.ip()));
            local.port() == address.port()
                && local.is_ipv4() == address.is_ipv4()
                && (one == other || one.is_unspecified() || other.is_unspecified())
        };
        let serves = |socket: &Socket| {
            is_there(socket.local) && (transport == Transport::Udp || socket.state == SocketState::Serving)
        };
        let all = self.sockets("proc/net", &transport.to_string()).unwrap_or_default();
        all.iter().filter(|socket| serves(socket)).map(|socket| format!("socket:[{}]", socket.inode).into()).collect()
    }

    /// The process that has one of them; none if no process has.
    fn search(&self, sockets: &[PathBuf]) -> Option<Holder> {
        let Ok(processes) = self.processes() else { return Some(Holder::Unknown) };
        let mut hidden = None;
        for id in processes {
            match self.descriptors(id) {
                Ok(open) if open.iter().any(|(_, target)| sockets.contains(target)) => {
                    let name = self.process_name(id).unwrap_or_else(|| "a process".to_owned());
                    return Some(Holder::Process { name, id });
                }
                Ok(_) => {}
                // It has ended.
                Err(error) if error.is_missing() => {}
                Err(_) => hidden = Some(Holder::Unknown),
            }
        }
        hidden
    }
}

/// A socket that no process has is the kernel's. Where its lockd is not loaded, there is a process
/// that does not show, in another PID namespace.
fn judge(has_socket: bool, process: Option<Holder>, lockd_is_loaded: bool) -> Holder {
    process.unwrap_or(if has_socket && lockd_is_loaded { Holder::Kernel } else { Holder::Unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_listens_is_found() {
        let own = i32::try_from(std::process::id()).unwrap();
        let is_us = |holder| matches!(holder, Holder::Process { id, .. } if id == own);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_us(Machine::default().holder(Transport::Tcp, tcp.local_addr().unwrap())));
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        assert!(is_us(Machine::default().holder(Transport::Udp, udp.local_addr().unwrap())));
    }

    #[test]
    fn only_a_socket_that_nobody_has_is_the_kernels_and_only_where_its_lockd_is() {
        assert_eq!(judge(true, None, true), Holder::Kernel);
        assert_eq!(judge(true, None, false), Holder::Unknown);
        assert_eq!(judge(true, Some(Holder::Unknown), true), Holder::Unknown);
        assert_eq!(judge(false, None, true), Holder::Unknown, "it is not of this network namespace");
        let found = Some(Holder::Process { name: "ganesha.nfsd".into(), id: 7 });
        assert_eq!(judge(true, found, true).to_string(), "ganesha.nfsd (process 7)");
    }
}
