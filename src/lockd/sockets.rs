//! The sockets that nlmd serves: NLM and NSM, over UDP and TCP, on each address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::host::{replace, replaceable};
use crate::rpc::rpcbind::local::Registration;
use crate::rpc::server::Limits;
use crate::rpc::udp::UdpEndpoint;
use crate::shares::Bounds;
use crate::wire::types::Transport;
use crate::wire::{nlm, nsm, scope};

/// Waiting TCP connections.
const BACKLOG: i32 = 1024;
/// A port that is free on one address may be taken on the next; then another is tried.
const ATTEMPTS: usize = 16;
/// Buffers of a UDP socket, in bytes: room for a burst of reclaims, and for replies that wait for ARP.
const BUFFER: usize = 4 << 20;

/// A socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {what} {address}: {source}; give another address (--listen) or port (--nlm-port, --nsm-port)"
)]
pub struct ListenError {
    what: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// One program's sockets.
#[derive(Debug, Default)]
pub struct ProgramSockets {
    /// Datagrams.
    pub udp: Vec<Arc<UdpEndpoint>>,
    /// Connections.
    pub tcp: Vec<TcpListener>,
    udp_port: u16,
    tcp_port: u16,
}

/// All of them.
#[derive(Debug)]
pub struct Sockets {
    /// NLM's.
    pub nlm: ProgramSockets,
    /// NSM's.
    pub nsm: ProgramSockets,
}

/// The ports, as `--ports-file` gets them; 0: not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ports {
    /// NLM over UDP.
    pub nlm_udp: u16,
    /// NLM over TCP.
    pub nlm_tcp: u16,
    /// NSM over UDP.
    pub nsm_udp: u16,
    /// NSM over TCP.
    pub nsm_tcp: u16,
}

impl Sockets {
    /// Opens them. `lenient`: an address family that this host lacks is left out. No `nsm_port`: NSM
    /// is another's.
    pub fn open(
        addresses: &[IpAddr],
        lenient: bool,
        nlm_port: u16,
        nsm_port: Option<u16>,
    ) -> Result<Self, ListenError> {
        let nlm = ProgramSockets::open(addresses, lenient, nlm_port)?;
        let nsm = match nsm_port {
            Some(port) => ProgramSockets::open(addresses, lenient, port)?,
            None => ProgramSockets::default(),
        };
        Ok(Self { nlm, nsm })
    }

    /// The ports chosen.
    pub fn ports(&self) -> Ports {
        Ports {
            nlm_udp: self.nlm.udp_port,
            nlm_tcp: self.nlm.tcp_port,
            nsm_udp: self.nsm.udp_port,
            nsm_tcp: self.nsm.tcp_port,
        }
    }

    /// What to tell rpcbind. Of several addresses of one family it knows one port, the same for all.
    pub fn registrations(&self) -> Vec<Registration> {
        let nlm = nlm::Version::ALL.map(|version| (nlm::PROGRAM, version.number(), &self.nlm));
        let all = nlm.into_iter().chain([(nsm::PROGRAM, nsm::VERSION, &self.nsm)]);
        let mut registrations: Vec<Registration> = Vec::new();
        for (program, version, sockets) in all {
            let udp = sockets.udp.iter().map(|socket| (Transport::Udp, socket.local_addr()));
            let tcp = sockets.tcp.iter().filter_map(|socket| Some((Transport::Tcp, socket.local_addr().ok()?)));
            for (transport, address) in udp.chain(tcp) {
                let known = |r: &Registration| {
                    (r.program, r.version, r.transport) == (program, version, transport)
                        && r.address.is_ipv4() == address.is_ipv4()
                };
                if !registrations.iter().any(known) {
                    registrations.push(Registration { program, version, transport, address });
                }
            }
        }
        registrations
    }
}

impl ProgramSockets {
    fn open(addresses: &[IpAddr], lenient: bool, port: u16) -> Result<Self, ListenError> {
        let (udp, udp_port) = open_all(addresses, lenient, port, |address| {
            let endpoint = UdpEndpoint::bind(address)?;
            endpoint.raise_buffers(BUFFER);
            let port = endpoint.local_addr().port();
            Ok((Arc::new(endpoint), port))
        })
        .map_err(|(address, source)| ListenError { what: "UDP", address, source })?;
        let (tcp, tcp_port) = open_all(addresses, lenient, port, |address| {
            let listener = tcp_listener(address)?;
            let port = listener.local_addr()?.port();
            Ok((listener, port))
        })
        .map_err(|(address, source)| ListenError { what: "TCP", address, source })?;
        Ok(Self { udp, tcp, udp_port, tcp_port })
    }
}

/// One socket per address, all on one port: clients of every address are told the same.
fn open_all<S>(
    addresses: &[IpAddr],
    lenient: bool,
    port: u16,
    open: impl Fn(SocketAddr) -> io::Result<(S, u16)>,
) -> Result<(Vec<S>, u16), (SocketAddr, io::Error)> {
    let mut attempt = 1;
    'again: loop {
        let (mut sockets, mut chosen) = (Vec::new(), port);
        for ip in addresses {
            let address = SocketAddr::new(*ip, chosen);
            match open(address) {
                Ok((socket, port)) => {
                    chosen = port;
                    sockets.push(socket);
                }
                Err(error) if lenient && is_missing_family(&error) => {
                    tracing::warn!(%address, %error, "this host does not have that address family; it is left out");
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && port == 0 && attempt < ATTEMPTS => {
                    attempt += 1;
                    continue 'again;
                }
                Err(error) => return Err((address, error)),
            }
        }
        if sockets.is_empty() {
            let ip = addresses.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
            return Err((SocketAddr::new(ip, port), io::ErrorKind::AddrNotAvailable.into()));
        }
        return Ok((sockets, chosen));
    }
}

fn is_missing_family(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}

fn tcp_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for old connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&scope::split(address).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// How many TCP connections all programs together may have: half of the files that this process may still open,
/// or 8,192. The other half is for the control sockets, the database and what an embedding server opens.
pub fn connections() -> Bounds {
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
    connections_of(most.saturating_sub(open))
}

fn connections_of(free_files: u64) -> Bounds {
    let Bounds { all, host } = Limits::default().connections;
    let all = usize::try_from(free_files / 2).map_or(all, |half| half.min(all));
    Bounds { all, host: host.min((all / 4).max(1)) }
}

/// Writes the ports so that a reader sees all of the file or none.
pub fn write_ports_file(path: &Path, ports: Ports) -> io::Result<()> {
    let mut text = serde_json::to_vec(&ports)?;
    text.push(b'\n');
    let place = replaceable(path)?.ok_or_else(|| io::Error::other("it is no regular file, and stays as it is"))?;
    replace(&place, &text, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_families_get_one_port_and_each_program_its_own() {
        let addresses = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let sockets = Sockets::open(&addresses, true, 0, Some(0)).unwrap();
        let ports = sockets.ports();
        assert!(sockets.nlm.udp.iter().all(|socket| socket.local_addr().port() == ports.nlm_udp));
        assert!(sockets.nsm.tcp.iter().all(|socket| socket.local_addr().unwrap().port() == ports.nsm_tcp));
        assert_ne!(ports.nlm_udp, ports.nsm_udp);
        let families = sockets.nlm.udp.len();
        assert_eq!(sockets.registrations().len(), (3 + 1) * 2 * families, "each version, transport and family");
    }

    #[test]
    fn connections_leave_half_of_the_files_that_may_be_opened_and_few_are_not_one_hosts_alone() {
        assert_eq!(connections_of(u64::MAX), Limits::default().connections);
        assert_eq!(connections_of(4096), Bounds { all: 2048, host: 256 });
        assert_eq!(connections_of(64), Bounds { all: 32, host: 8 });
        assert_eq!(connections_of(3), Bounds { all: 1, host: 1 });
    }

    #[test]
    fn a_device_is_not_replaced_by_the_ports() {
        let ports = Ports { nlm_udp: 1, nlm_tcp: 2, nsm_udp: 3, nsm_tcp: 4 };
        let folder = tempfile::tempdir().unwrap();
        let (pipe, file) = (folder.path().join("pipe"), folder.path().join("file"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(write_ports_file(&pipe, ports).unwrap_err().to_string().contains("no regular file"));
        write_ports_file(&file, ports).unwrap();
        assert!(file.is_file() && !pipe.is_file());
    }

    #[tokio::test]
    async fn a_taken_port_is_said() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Sockets::open(&["127.0.0.1".parse().unwrap()], false, port, Some(0)).unwrap_err();
        assert!(error.to_string().contains(&port.to_string()), "{error}");
    }
}
