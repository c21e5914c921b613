//! A conversation with lockd in a client's name: from the client's address and a port below 1024, with the server
//! address that the client had called, over its transport.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::message::answer;
use crate::host::{self, Machine, ReplyRoute};
use crate::wire::nlm::Stat;
use crate::wire::record::{RecordReader, append_framed};
use crate::wire::rpc::RpcError;
use crate::wire::rtnetlink::Flow;
use crate::wire::types::Transport;

/// Ports to call from. An export may take calls from ports below 1024 only. Linux, BSD and macOS take ports of 600 and
/// more for their own calls, so none of these is likely to be in use by the client.
const PORTS: Range<u16> = 400..600;
/// How long lockd may be silent: an UNLOCK is answered at once. After that nothing more is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Most calls without an answer: what lockd's buffers take in any case. When half of them are answered as many are sent at
/// once, since both sides would else wake up for each call.
const WINDOW: usize = 16;
/// One read takes a whole reply: its cookie and its holder's handle have 1,024 bytes each at most.
const MAX_ANSWER: usize = 4096;

/// Why nothing could be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// The routing rule or the route cannot be made.
    #[error("cannot keep lockd's answers on this host (CAP_NET_ADMIN is needed): {0}")]
    Route(#[source] io::Error),
    /// No socket with the client's address.
    #[error("cannot call lockd from the client's address: {0}")]
    Socket(#[source] io::Error),
    /// The sockets of this host cannot be listed.
    #[error(transparent)]
    Sockets(#[from] host::FileError),
    /// All ports are in use.
    #[error("no port from {} to {} is free", PORTS.start, PORTS.end - 1)]
    NoPort,
}

/// Whether nothing may leave any more.
pub(super) fn is_over(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}

/// See above. The socket is closed before the route goes: its last packets must not reach the client.
#[derive(Debug)]
pub(super) struct LockdSocket {
    socket: Socket,
    transport: Transport,
    records: RecordReader,
    _route: ReplyRoute,
}

impl LockdSocket {
    /// From the client's address to lockd's.
    pub(super) fn open(
        used: &UsedPorts,
        client: IpAddr,
        lockd: SocketAddr,
        transport: Transport,
    ) -> Result<Self, LineError> {
        let (socket, own) = bind(client, transport, used.of(client, transport))?;
        let route = ReplyRoute::new(&Flow { from: lockd, to: own, transport }).map_err(LineError::Route)?;
        let ready = || {
            if transport == Transport::Tcp {
                // Closed by a reset, it leaves nothing of the client's name behind (TIME_WAIT).
                socket.set_linger(Some(Duration::ZERO))?;
                socket.set_tcp_nodelay(true)?;
            }
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.connect_timeout(&SockAddr::from(lockd), PATIENCE)
        };
        ready().map_err(LineError::Socket)?;
        Ok(Self { socket, transport, records: RecordReader::new(MAX_ANSWER), _route: route })
    }

    /// Sends the calls, several at a time, and collects what is answered, by xid, until all are or lockd is silent for
    /// [`PATIENCE`]. None is sent after `until`. `leaves` is told each call, by its place, before it is sent.
    pub(super) fn exchange(
        &mut self,
        calls: &[(u32, Vec<u8>)],
        until: Option<Instant>,
        leaves: impl FnMut(usize),
    ) -> Exchange {
        let mut done = Exchange::default();
        done.broken = self.run(calls, until, leaves, &mut done.answers, &mut done.sent).err();
        done
    }

    fn run(
        &mut self,
        calls: &[(u32, Vec<u8>)],
        until: Option<Instant>,
        mut leaves: impl FnMut(usize),
        answers: &mut HashMap<u32, Result<Stat, RpcError>>,
        sent: &mut usize,
    ) -> io::Result<()> {
        let mut open = HashSet::new();
        let mut unsent = calls.iter();
        loop {
            if open.len() <= WINDOW / 2 && !is_over(until) {
                let mut batch = Vec::new();
                while open.len() < WINDOW {
                    let Some((xid, call)) = unsent.next() else { break };
                    leaves(*sent);
                    // Also if it fails, it may have left.
                    *sent += 1;
                    open.insert(*xid);
                    match self.transport {
                        Transport::Tcp => append_framed(&mut batch, call),
                        Transport::Udp => self.socket.send(call).map(|_| ())?,
                    }
                }
                self.socket.write_all(&batch)?;
            }
            if open.is_empty() {
                return Ok(());
            }
            let (xid, said) = self.receive()?;
            if open.remove(&xid) {
                answers.insert(xid, said);
            }
        }
    }

    fn receive(&mut self) -> io::Result<(u32, Result<Stat, RpcError>)> {
        let odd = |what: String| io::Error::new(ErrorKind::InvalidData, what);
        let mut buffer = [0; MAX_ANSWER];
        loop {
            let message = match self.transport {
                Transport::Tcp => self.records.next().map_err(|error| odd(error.to_string()))?,
                Transport::Udp => None,
            };
            if let Some(message) = message {
                return answer(&message).ok_or_else(|| odd("its answer is not understood".into()));
            }
            let read = self.socket.read(&mut buffer)?;
            let bytes = buffer.get(..read).unwrap_or_default();
            match self.transport {
                Transport::Tcp if read == 0 => return Err(ErrorKind::UnexpectedEof.into()),
                Transport::Tcp => self.records.push(bytes),
                Transport::Udp => return answer(bytes).ok_or_else(|| odd("its answer is not understood".into())),
            }
        }
    }
}

/// What came of calls.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// How many may have left, from the first one on.
    pub(super) sent: usize,
    /// What was answered, by xid.
    pub(super) answers: HashMap<u32, Result<Stat, RpcError>>,
    /// Why there is no more of it.
    pub(super) broken: Option<io::Error>,
}

/// Those of [`PORTS`] from which this host has, or had a moment ago, a conversation, by address and transport.
#[derive(Debug, Default)]
pub(super) struct UsedPorts(HashMap<(IpAddr, Transport), Vec<u16>>);

impl UsedPorts {
    /// Reads the lists of this host's sockets.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn read(machine: &Machine) -> Result<Self, LineError> {
        let mut used = Self::default();
        for (name, transport) in [("tcp", Transport::Tcp), ("udp", Transport::Udp)] {
            let sockets = machine.sockets("proc/thread-self/net", name)?;
            let ends = sockets.iter().flat_map(|socket| [socket.local, socket.remote]);
            for end in ends.filter(|end| PORTS.contains(&end.port())) {
                used.0.entry((end.ip().to_canonical(), transport)).or_default().push(end.port());
            }
        }
        Ok(used)
    }

    fn of(&self, client: IpAddr, transport: Transport) -> &[u16] {
        self.0.get(&(client, transport)).map_or(&[], Vec::as_slice)
    }
}

/// A socket with the client's address, which is none of this host's, and where it is bound.
fn bind(client: IpAddr, transport: Transport, used: &[u16]) -> Result<(Socket, SocketAddr), LineError> {
    let mut ports: Vec<u16> = PORTS.filter(|port| !used.contains(port)).collect();
    ports.shuffle(&mut rand::rng());
    for port in ports {
        let own = SocketAddr::new(client, port);
        match bind_to(own, transport) {
            Ok(socket) => return Ok((socket, own)),
            // A service of this host listens there, on all addresses.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(LineError::Socket(error)),
        }
    }
    Err(LineError::NoPort)
}

fn bind_to(own: SocketAddr, transport: Transport) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(own), kind, Some(protocol))?;
    match own {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    socket.bind(&own.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn ports_of_the_clients_conversations_are_in_use_and_those_of_others_are_not() {
        let root = tempfile::tempdir().unwrap();
        let net = root.path().join("proc/thread-self/net");
        fs::create_dir_all(&net).unwrap();
        let word = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let mapped = |ip| [[0; 4], [0; 4], [0, 0, 0xff, 0xff], ip].map(word).concat();
        let (server, client, other) = ([10, 0, 0, 1], [10, 0, 0, 11], [10, 0, 0, 12]);
        let line = |from: String, to: String, port: u16| {
            format!("0: {from}:0FCD {to}:{port:04X} 01 00000000:00000000 00:00000000 00000000 0 0 7 1 0 100 0 0 10 0\n")
        };
        let four = line(word(server), word(client), 444) + &line(word(server), word(other), 445);
        fs::write(net.join("tcp"), format!("  sl  local_address\n{four}")).unwrap();
        // A listener of IPv6 takes calls of IPv4 too.
        fs::write(net.join("tcp6"), format!("  sl\n{}", line(mapped(server), mapped(client), 446))).unwrap();
        fs::write(net.join("udp"), format!("  sl\n{}", line(word(server), word(client), 447))).unwrap();
        let used = UsedPorts::read(&Machine::at(root.path())).unwrap();
        assert_eq!(used.of(client.into(), Transport::Tcp), [444, 446]);
        assert_eq!(
            (used.of(client.into(), Transport::Udp), used.of(other.into(), Transport::Tcp)),
            (&[447][..], &[445][..])
        );
    }
}
