//! A UDP socket that knows which address was called, so that it can answer from it.
//!
//! quinn-udp does the reading and writing with packet information. It is made for QUIC, so two of
//! its choices are undone here: the "don't fragment" bit (an NLM reply may be longer than the MTU),
//! and the kernel's gluing of datagrams (GRO).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg, sockopt as rustix_sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::call::xid_of;
use crate::wire::scope;

/// Longest payload that a datagram can have, rounded up.
const MAX_DATAGRAM: usize = 64 << 10;
/// Datagrams taken with one system call.
const BATCH: usize = 16;
/// Errors in a row after which the socket itself is taken for broken, and reports taken at once.
const MAX_ERRORS: usize = 64;
/// How often a datagram is offered to the socket. An error may be the report on an earlier one; then this one has not
/// been sent yet.
const OFFERS: usize = 3;
/// Ports that a privileged client may take: below 1024, above those of well-known services.
const RESERVED_PORTS: std::ops::Range<u16> = 665..1024;

/// What reading waits for. A report alone makes a socket erring, not readable.
const INCOMING: Interest = Interest::READABLE.add(Interest::ERROR);

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it, a link-local address with its interface (`wire/scope.rs`).
    pub peer: SocketAddr,
    /// The local address it was sent to: answer from it.
    pub local_ip: IpAddr,
    /// Its payload.
    pub bytes: Vec<u8>,
}

/// A socket. Share it in an `Arc`; every method takes `&self`.
#[derive(Debug)]
pub struct UdpEndpoint {
    socket: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    local: SocketAddr,
    inbox: Mutex<Inbox>,
    /// Shared by all who wait for room, and gone when nobody does: it is woken for each datagram that is sent.
    room: Mutex<Weak<AsyncFd<UdpSocket>>>,
}

/// Where datagrams arrive, and those that came with the one that was asked for.
#[derive(Debug)]
struct Inbox {
    room: Vec<u8>,
    ready: VecDeque<Datagram>,
}

/// What the network has reported (by ICMP) on a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Where the datagram was sent.
    pub to: SocketAddr,
    /// No program listens on that port.
    pub refused: bool,
    /// There is no such host, says a router, or this machine of its own network.
    pub nobody_is_there: bool,
    /// The xid that the datagram began with, if the report quotes so much of it.
    pub xid: Option<u32>,
}

/// Type and code of "host unreachable" (RFC 792) and "address unreachable" (RFC 4443).
const ICMP_NO_HOST: (u8, u8) = (3, 1);
const ICMP6_NO_HOST: (u8, u8) = (1, 3);

impl AsFd for UdpEndpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

impl UdpEndpoint {
    /// Binds; port 0 is any free one. An IPv6 socket takes IPv6 only. Wants a tokio runtime.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&SockAddr::from(scope::split(address)))?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        allow_fragments(&socket, address.ip())?;
        setsockopt(&socket, sockopt::UdpGroSegment, &false)?;
        let local = scope::joined(socket.local_addr()?).unwrap_or(address);
        let inbox = Mutex::new(Inbox { room: vec![0; BATCH * MAX_DATAGRAM], ready: VecDeque::new() });
        // Told of room for sending too, it would wake its reader for each datagram that it sent.
        let socket = watched(socket, INCOMING)?;
        Ok(Self { socket, state, local, inbox, room: Mutex::default() })
    }

    /// Binds a free port below 1024 if this process may, else any.
    pub fn bind_reserved(ip: IpAddr) -> io::Result<Self> {
        for port in reserved_ports() {
            match Self::bind(SocketAddr::new(ip, port)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                bound => return bound,
            }
        }
        Self::bind(SocketAddr::new(ip, 0))
    }

    /// Whether the port is below 1024.
    #[cfg(test)]
    fn is_reserved(&self) -> bool {
        self.local.port() < RESERVED_PORTS.end
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Wants buffers of `bytes` for receiving and for sending, beyond the system's limits if this process may; returns
    /// what the kernel says that for receiving is now (Linux counts its own overhead in, so twice what was asked).
    /// What was sent to a neighbour that does not answer ARP fills the buffer for sending for three seconds.
    pub fn raise_buffers(&self, bytes: usize) -> usize {
        let socket = SockRef::from(self.socket.get_ref());
        // Cut at the system's limit without an error; what came of it is read back.
        if rustix_sockopt::set_socket_recv_buffer_size_force(self.socket.get_ref(), bytes).is_err() {
            let _ = socket.set_recv_buffer_size(bytes);
        }
        if rustix_sockopt::set_socket_send_buffer_size_force(self.socket.get_ref(), bytes).is_err() {
            let _ = socket.set_send_buffer_size(bytes);
        }
        socket.recv_buffer_size().unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) async fn recv(&self) -> io::Result<Datagram> {
        loop {
            {
                let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
                if inbox.ready.is_empty() {
                    self.read_batch(&mut inbox, BATCH)?;
                }
                if let Some(datagram) = inbox.ready.pop_front() {
                    return Ok(datagram);
                }
            }
            self.readable().await?;
        }
    }

    /// Waits until there may be something to read, a report of the network included. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.ready(INCOMING).await.map(|mut ready| ready.retain_ready())
    }

    /// Appends what is there now, `max` datagrams at most; returns how many (0: nothing there).
    pub fn try_recv(&self, into: &mut Vec<Datagram>, max: usize) -> io::Result<usize> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = 0;
        while taken < max {
            if inbox.ready.is_empty() && self.read_batch(&mut inbox, max - taken)? == 0 {
                break;
            }
            let batch = inbox.ready.len().min(max - taken);
            into.extend(inbox.ready.drain(..batch));
            taken += batch;
        }
        Ok(taken)
    }

    /// One system call; returns how many datagrams came.
    fn read_batch(&self, inbox: &mut Inbox, max: usize) -> io::Result<usize> {
        let Inbox { room, ready } = inbox;
        let mut metas = [RecvMeta::default(); BATCH];
        let mut slices: Vec<IoSliceMut<'_>> =
            room.chunks_mut(MAX_DATAGRAM).take(max.clamp(1, BATCH)).map(IoSliceMut::new).collect();
        let mut errors = 0;
        let count = loop {
            let mut receive = |socket: &UdpSocket| self.state.recv(socket.into(), &mut slices, &mut metas);
            // One kind of readiness at a time: `try_io` takes none of two together for ready.
            let read = match self.socket.try_io(Interest::READABLE, &mut receive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket.try_io(Interest::ERROR, receive),
                read => read,
            };
            match read {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                // The network reports on some datagram sent earlier; each report comes once.
                Err(error) => {
                    errors += 1;
                    if errors == MAX_ERRORS {
                        // A flood of reports breaks no socket, and does not hold up the caller.
                        return if is_a_report(&error) { Ok(0) } else { Err(error) };
                    }
                }
            }
        };
        for (meta, slice) in metas.iter().zip(&slices).take(count) {
            let called =
                meta.dst_ip.map_or(Some(self.local.ip()), |ip| scope::on(ip, meta.interface_index.unwrap_or(0)));
            // Otherwise it comes from an address that no host can have.
            if let (Some(peer), Some(local_ip)) = (scope::joined(meta.addr), called) {
                ready.push_back(Datagram { peer, local_ip, bytes: slice.get(..meta.len).unwrap_or_default().to_vec() });
            }
        }
        Ok(count)
    }

    /// Sends, waiting for room. `from`: the local address to send from, of a wildcard socket.
    ///
    /// What the network has against this one peer is no error: the datagram counts as lost. That this host cannot send
    /// it (no route, an interface that is down, its own firewall) is one.
    pub async fn send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        let is_full = |sent: &io::Result<()>| sent.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
        let mut sent = self.try_send(bytes, to, from);
        if is_full(&sent) {
            let room = self.room()?;
            while is_full(&sent) {
                let mut ready = room.writable().await?;
                sent = self.try_send(bytes, to, from);
                if is_full(&sent) {
                    ready.clear_ready();
                }
            }
        }
        sent
    }

    fn room(&self) -> io::Result<Arc<AsyncFd<UdpSocket>>> {
        let mut shared = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = shared.upgrade() {
            return Ok(room);
        }
        let room = Arc::new(watched(self.socket.get_ref().try_clone()?, Interest::WRITABLE)?);
        *shared = Arc::downgrade(&room);
        Ok(room)
    }

    /// Sends or says `WouldBlock`; otherwise as [`Self::send`].
    pub fn try_send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        let src_ip = from.filter(|from| scope::interface(*from).is_none() || scope::reaches(*from, to.ip()));
        let (destination, src_ip) = (scope::split(to), src_ip.map(scope::bare));
        let transmit = Transmit { destination, ecn: None, contents: bytes, segment_size: None, src_ip };
        let mut offers = 1;
        loop {
            match self.state.try_send(self.socket.get_ref().into(), &transmit) {
                Err(error) if offers < OFFERS && error.kind() != io::ErrorKind::WouldBlock => offers += 1,
                Err(error) if is_about_a_peer(&error) => return Ok(()),
                sent => return sent,
            }
        }
    }

    /// Sends as many of the datagrams as the socket takes at once, the first ones; returns how many. An error is the
    /// first one's, as of [`Self::try_send`].
    pub fn try_send_many<'a>(
        &self,
        datagrams: impl Iterator<Item = (&'a [u8], SocketAddr)> + Clone,
        from: Option<IpAddr>,
    ) -> io::Result<usize> {
        let Some((first, to)) = datagrams.clone().next() else { return Ok(0) };
        // To say the source is quinn-udp's affair, and that takes one at a time.
        if from.is_none() {
            let slices: Vec<_> = datagrams.clone().map(|(bytes, _)| [IoSlice::new(bytes)]).collect();
            let addresses: Vec<_> = datagrams.map(|(_, to)| SocketAddrAny::from(scope::split(to))).collect();
            let mut controls: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
            let parts = addresses.iter().zip(&slices).zip(&mut controls);
            let mut messages: Vec<_> = parts.map(|((to, bytes), c)| MMsgHdr::new_with_addr(to, bytes, c)).collect();
            if let Ok(sent) = sendmmsg(self.socket.get_ref(), &mut messages, SendFlags::DONTWAIT) {
                return Ok(sent);
            }
        }
        self.try_send(first, to, from).map(|()| 1)
    }

    /// Asks the kernel to tell of ICMP errors, for [`Self::take_refused`]. Only for a socket on
    /// which that is called then: untaken reports fill the receive buffer.
    pub fn watch_refused(&self) -> io::Result<()> {
        if self.local.is_ipv4() {
            setsockopt(self.socket.get_ref(), sockopt::Ipv4RecvErr, &true)?;
        } else {
            setsockopt(self.socket.get_ref(), sockopt::Ipv6RecvErr, &true)?;
        }
        Ok(())
    }

    /// Destinations of which the network said "no program listens there" (ICMP port unreachable) since
    /// the last call. Any host that knows our port can forge that: it is a hint, not a proof.
    pub fn take_refused(&self) -> Vec<SocketAddr> {
        self.take_reports().into_iter().filter(|report| report.refused).map(|report| report.to).collect()
    }

    /// What the network reported since the last call, on which the same holds.
    pub fn take_reports(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        // As many as could be there at once; a flood of them does not hold up the caller.
        for _ in 0..MAX_ERRORS {
            match self.next_report() {
                Ok(report) => reports.extend(report),
                Err(_) => break,
            }
        }
        reports
    }

    /// One report from the error queue.
    fn next_report(&self) -> io::Result<Option<Report>> {
        let mut payload = [0; 4];
        let mut slices = [IoSliceMut::new(&mut payload)];
        let mut control = vec![0; 512];
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        )?;
        let Some(to) = message.address.as_ref().and_then(inet_address) else { return Ok(None) };
        let xid = message.iovs().next().and_then(xid_of);
        let mut report = Report { to, refused: false, nobody_is_there: false, xid };
        for control in message.cmsgs()? {
            let (error, nobody, by) = match control {
                ControlMessageOwned::Ipv4RecvErr(error, by) => {
                    (error, ICMP_NO_HOST, by.map(|by| IpAddr::from(u32::from_be(by.sin_addr.s_addr).to_be_bytes())))
                }
                ControlMessageOwned::Ipv6RecvErr(error, by) => {
                    (error, ICMP6_NO_HOST, by.map(|by| IpAddr::from(by.sin6_addr.s6_addr)))
                }
                _ => continue,
            };
            report.refused |= error.ee_errno == Errno::ECONNREFUSED as u32;
            // A host that says this of itself is there, behind its own firewall.
            report.nobody_is_there |= (error.ee_type, error.ee_code) == nobody && by != Some(scope::bare(to.ip()));
        }
        Ok(Some(report))
    }
}

#[expect(
    deprecated,
    reason = "sound for a socket that owns its descriptor; its successor is `unsafe` for others' sake"
)]
fn watched(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

fn inet_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    scope::joined(SocketAddrV6::from(*address.as_sockaddr_in6()?).into())
}

/// Undoes quinn-udp's "don't fragment".
fn allow_fragments(socket: &UdpSocket, ip: IpAddr) -> io::Result<()> {
    match ip {
        IpAddr::V4(_) => {
            rustix_sockopt::set_ip_mtu_discover(socket, rustix_sockopt::Ipv4PathMtuDiscovery::DONT)?;
        }
        IpAddr::V6(_) => {
            rustix_sockopt::set_ipv6_mtu_discover(socket, rustix_sockopt::Ipv6PathMtuDiscovery::WANT)?;
            setsockopt(socket, sockopt::Ipv6DontFrag, &false)?;
        }
    }
    Ok(())
}

/// Whether an error tells of a peer or the way to it, not of this host.
fn is_about_a_peer(error: &io::Error) -> bool {
    use Errno::{ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, ENOPROTOOPT, EPROTO};
    let about_a_peer = [ECONNREFUSED, EHOSTUNREACH, EHOSTDOWN, ENOPROTOOPT, EPROTO];
    error.raw_os_error().is_some_and(|code| about_a_peer.contains(&Errno::from_raw(code)))
}

/// Whether an error of receiving can be what a peer or a router reported on a datagram, by ICMP.
fn is_a_report(error: &io::Error) -> bool {
    use Errno::{EACCES, EMSGSIZE, ENETUNREACH, ENONET, EOPNOTSUPP};
    let others = [ENETUNREACH, ENONET, EOPNOTSUPP, EACCES, EMSGSIZE];
    is_about_a_peer(error) || error.raw_os_error().is_some_and(|code| others.contains(&Errno::from_raw(code)))
}

/// The reserved ports, each once, from a random one on.
pub(super) fn reserved_ports() -> impl Iterator<Item = u16> {
    let start = rand::random_range(RESERVED_PORTS);
    (start..RESERVED_PORTS.end).chain(RESERVED_PORTS.start..start)
}

/// The wildcard address of an address' family.
pub(super) fn wildcard(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn loopback() -> UdpEndpoint {
        UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_wildcard_socket_tells_the_address_that_was_called_and_answers_from_it() {
        let server = UdpEndpoint::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let client = loopback();
        let called: IpAddr = "127.0.0.5".parse().unwrap();
        let target = SocketAddr::new(called, server.local_addr().port());
        client.send(b"question", target, None).await.unwrap();
        let question = timeout(SOON, server.recv()).await.unwrap().unwrap();
        assert_eq!((question.local_ip, question.peer), (called, client.local_addr()));
        server.send(b"answer", question.peer, Some(question.local_ip)).await.unwrap();
        let answer = timeout(SOON, client.recv()).await.unwrap().unwrap();
        assert_eq!(answer.peer, target);
    }

    #[tokio::test]
    async fn an_ipv6_socket_tells_the_address_that_was_called() {
        let Ok(server) = UdpEndpoint::bind("[::]:0".parse().unwrap()) else { return };
        let Ok(client) = UdpEndpoint::bind("[::1]:0".parse().unwrap()) else { return };
        let target = SocketAddr::new("::1".parse().unwrap(), server.local_addr().port());
        client.send(b"question", target, None).await.unwrap();
        let question = timeout(SOON, server.recv()).await.unwrap().unwrap();
        assert_eq!(question.local_ip, target.ip());
    }

    #[tokio::test]
    async fn an_ipv6_wildcard_leaves_the_port_free_for_ipv4() {
        let Ok(six) = UdpEndpoint::bind("[::]:0".parse().unwrap()) else { return };
        UdpEndpoint::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), six.local_addr().port())).unwrap();
    }

    #[tokio::test]
    async fn a_datagram_of_65507_bytes_arrives_whole() {
        let (server, client) = (loopback(), loopback());
        let sent: Vec<u8> = (0..65_507_u32).map(|n| n.to_le_bytes()[0]).collect();
        client.send(&sent, server.local_addr(), None).await.unwrap();
        assert_eq!(timeout(SOON, server.recv()).await.unwrap().unwrap().bytes, sent);
    }

    // The loopback interface's MTU is above any datagram, so only the options can tell.
    #[tokio::test]
    async fn fragments_are_allowed_and_datagrams_are_not_glued() {
        let v4 = loopback();
        let discover = rustix_sockopt::ip_mtu_discover(&v4.socket).unwrap();
        assert_eq!(discover, rustix_sockopt::Ipv4PathMtuDiscovery::DONT);
        assert!(!nix::sys::socket::getsockopt(&v4.socket, sockopt::UdpGroSegment).unwrap());
        let Ok(v6) = UdpEndpoint::bind("[::1]:0".parse().unwrap()) else { return };
        let discover = rustix_sockopt::ipv6_mtu_discover(&v6.socket).unwrap();
        assert_eq!(discover, rustix_sockopt::Ipv6PathMtuDiscovery::WANT);
        assert!(!nix::sys::socket::getsockopt(&v6.socket, sockopt::Ipv6DontFrag).unwrap());
    }

    #[tokio::test]
    async fn datagrams_sent_in_a_row_stay_apart() {
        let (server, client) = (loopback(), loopback());
        for n in 0..50_u8 {
            client.send(&[n; 100], server.local_addr(), None).await.unwrap();
        }
        let mut got = Vec::new();
        while got.len() < 50 {
            timeout(SOON, server.readable()).await.unwrap().unwrap();
            server.try_recv(&mut got, 7).unwrap();
        }
        assert!(got.iter().zip(0..).all(|(datagram, n)| datagram.bytes == [n; 100]));
    }

    #[tokio::test]
    async fn many_datagrams_leave_at_once_each_to_its_own_peer() {
        let (servers, client) = ([loopback(), loopback()], loopback());
        let bytes = [[0_u8], [1], [2], [3]];
        for from in [None, Some(client.local_addr().ip())] {
            let to = servers.iter().cycle().map(UdpEndpoint::local_addr);
            let datagrams: Vec<_> = bytes.iter().map(<[u8; 1]>::as_slice).zip(to).collect();
            let mut left = datagrams.as_slice();
            while !left.is_empty() {
                let sent = client.try_send_many(left.iter().copied(), from).unwrap();
                assert_eq!(sent, if from.is_none() { 4 } else { 1 });
                left = &left[sent..];
            }
            for (server, wanted) in servers.iter().zip([[[0], [2]], [[1], [3]]]) {
                for bytes in wanted {
                    let datagram = timeout(SOON, server.recv()).await.unwrap().unwrap();
                    assert_eq!((datagram.bytes, datagram.peer), (bytes.to_vec(), client.local_addr()));
                }
            }
        }
    }

    #[tokio::test]
    async fn try_recv_gives_no_more_than_was_asked_for_and_loses_nothing() {
        let (server, client) = (loopback(), loopback());
        for n in 0..5_u8 {
            client.send(&[n], server.local_addr(), None).await.unwrap();
        }
        let first = timeout(SOON, server.recv()).await.unwrap().unwrap();
        assert_eq!(first.bytes, [0]);
        let mut got = Vec::new();
        assert_eq!(server.try_recv(&mut got, 3).unwrap(), 3);
        assert_eq!(server.try_recv(&mut got, 3).unwrap(), 1);
        assert_eq!(server.try_recv(&mut got, 3).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_dead_peer_ends_neither_sending_nor_receiving_and_is_reported_once() {
        let (server, client) = (loopback(), loopback());
        client.watch_refused().unwrap();
        let dead = loopback().local_addr();
        client.send(b"anybody?", dead, None).await.unwrap();
        let refused = timeout(SOON, async {
            loop {
                client.readable().await.unwrap();
                assert_eq!(client.try_recv(&mut Vec::new(), 1).unwrap(), 0);
                let refused = client.take_refused();
                if !refused.is_empty() {
                    return refused;
                }
            }
        });
        assert_eq!(refused.await.unwrap(), [dead]);
        assert!(client.take_refused().is_empty());
        client.send(b"you?", server.local_addr(), None).await.unwrap();
        let datagram = timeout(SOON, server.recv()).await.unwrap().unwrap();
        server.send(b"yes", datagram.peer, None).await.unwrap();
        assert_eq!(timeout(SOON, client.recv()).await.unwrap().unwrap().bytes, b"yes");
    }

    #[tokio::test]
    async fn a_datagram_is_sent_although_an_earlier_one_was_refused() {
        let (server, client) = (loopback(), loopback());
        client.watch_refused().unwrap();
        let dead = loopback().local_addr();
        for n in 0..20_u8 {
            client.send(b"lost", dead, None).await.unwrap();
            client.send(&[n], server.local_addr(), None).await.unwrap();
        }
        for n in 0..20_u8 {
            assert_eq!(timeout(SOON, server.recv()).await.unwrap().unwrap().bytes, [n]);
        }
    }

    // Without SO_BROADCAST this host refuses it.
    #[tokio::test]
    async fn what_this_host_does_not_send_is_an_error_and_what_its_peer_refuses_is_none() {
        let endpoint = UdpEndpoint::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        endpoint.send(b"x", "255.255.255.255:9".parse().unwrap(), None).await.unwrap_err();
        let dead = loopback().local_addr();
        for _ in 0..3 {
            endpoint.send(b"x", dead, None).await.unwrap();
        }
        let about = |errno| [is_about_a_peer, is_a_report].map(|is| is(&io::Error::from_raw_os_error(errno as i32)));
        assert_eq!(about(Errno::ECONNREFUSED), [true, true]);
        assert_eq!(about(Errno::ENETUNREACH), [false, true]);
        for errno in [Errno::EPERM, Errno::ENOBUFS, Errno::ENETDOWN, Errno::EBADF, Errno::ENOMEM] {
            assert_eq!(about(errno), [false, false], "{errno}");
        }
    }

    #[tokio::test]
    async fn the_receive_buffer_is_what_the_kernel_reports() {
        let server = loopback();
        let before = server.raise_buffers(4096);
        assert!(server.raise_buffers(128 << 10) > before);
    }

    #[tokio::test]
    async fn a_reserved_port_is_told_from_another() {
        let endpoint = UdpEndpoint::bind_reserved("127.0.0.1".parse().unwrap()).unwrap();
        assert_eq!(endpoint.is_reserved(), endpoint.local_addr().port() < 1024);
        assert!(!loopback().is_reserved());
    }
}
