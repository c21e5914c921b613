//! Clients against servers, and either against one that misbehaves, over loopback.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::arrivals::Arrivals;
use super::client::{CallError, Request, Retransmit, Source, StreamClient, UdpClient};
use super::program::ProgramError;
use super::server::{
    ConnectionId, Guests, Limits, Origin, Peer, Service, serve_tcp, serve_udp, serve_unix, shared_cache,
};
use super::udp::UdpEndpoint;
use crate::shares::Bounds;
use crate::wire::record::frame;
use crate::wire::rpc::{self, Answer, Credential, IncomingCall, RpcError};
use crate::wire::types::Transport;

const SOON: Duration = Duration::from_secs(10);
const PROGRAM: u32 = 0x2000_0001;
const ECHO: u32 = 1;
const WAIT: u32 = 2;
const SILENT: u32 = 3;
const PANIC: u32 = 4;
const READ: u32 = 5;

/// Echoes; WAIT answers when it is let go.
#[derive(Default)]
struct Echo {
    executed: AtomicUsize,
    seen: Mutex<Vec<Origin>>,
    go: Notify,
    closed: Mutex<Vec<ConnectionId>>,
    changed: Notify,
}

#[async_trait]
impl Service for Echo {
    async fn call(&self, origin: &Origin, call: &IncomingCall<'_>) -> Option<Answer> {
        let IncomingCall { program, version, procedure, args, .. } = *call;
        self.executed.fetch_add(1, Ordering::SeqCst);
        self.seen.lock().unwrap().push(*origin);
        self.changed.notify_waiters();
        match (program, version, procedure) {
            (PROGRAM, 1, ECHO | READ) => Some(Answer::Success(args.to_vec())),
            (PROGRAM, 1, WAIT) => {
                self.go.notified().await;
                Some(Answer::Success(args.to_vec()))
            }
            (PROGRAM, 1, SILENT) => None,
            (PROGRAM, 1, PANIC) => panic!("asked to"),
            (PROGRAM, 1, _) => Some(Answer::ProcUnavail),
            (PROGRAM, _, _) => Some(Answer::ProgMismatch { low: 1, high: 1 }),
            _ => Some(Answer::ProgUnavail),
        }
    }
    fn is_idempotent(&self, call: &IncomingCall<'_>) -> bool {
        call.procedure == READ
    }
    fn connection_closed(&self, connection: ConnectionId) {
        self.closed.lock().unwrap().push(connection);
        self.changed.notify_waiters();
    }
}

impl Echo {
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if holds(self) {
                    return;
                }
                changed.await;
            }
        };
        timeout(SOON, waiting).await.expect("it never came to hold");
    }
    async fn until_executed(&self, count: usize) {
        self.until(|echo| echo.executed.load(Ordering::SeqCst) >= count).await;
    }
}

struct Served {
    echo: Arc<Echo>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<std::io::Result<()>>,
}

fn udp(address: &str, limits: Limits) -> Served {
    let echo = Arc::new(Echo::default());
    let endpoint = Arc::new(UdpEndpoint::bind(address.parse().unwrap()).unwrap());
    let address = endpoint.local_addr();
    let (stop, stopped) = watch::channel(false);
    let cache = shared_cache();
    let task = tokio::spawn(serve_udp(endpoint, echo.clone(), cache, Arrivals::default(), limits, stopped));
    Served { echo, address, stop, task }
}

async fn tcp(limits: Limits) -> Served {
    let echo = Arc::new(Echo::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let cache = shared_cache();
    let task =
        tokio::spawn(serve_tcp(listener, echo.clone(), cache, Guests::default(), Arrivals::default(), limits, stopped));
    Served { echo, address, stop, task }
}

fn udp_client() -> UdpClient {
    let retransmit = Retransmit { first: Duration::from_millis(20), max: Duration::from_millis(100) };
    UdpClient::new(Arc::new(UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap()), retransmit)
}

async fn tcp_client(to: SocketAddr) -> StreamClient {
    StreamClient::connect_tcp(to, Source::default(), 1 << 16, SOON).await.unwrap()
}

fn request(procedure: u32, args: &[u8]) -> Request<'_> {
    Request { program: PROGRAM, version: 1, procedure, credential: &Credential::None, args }
}

fn message(xid: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
    rpc::call(xid, PROGRAM, 1, procedure, &Credential::None, args)
}

#[tokio::test]
async fn a_udp_call_is_answered_from_the_address_that_was_called() {
    let served = udp("0.0.0.0:0", Limits::default());
    let called: IpAddr = "127.0.0.5".parse().unwrap();
    let to = SocketAddr::new(called, served.address.port());
    assert_eq!(udp_client().call(to, None, request(ECHO, b"args"), SOON).await.unwrap(), b"args");
    let seen = served.echo.seen.lock().unwrap();
    assert_eq!((seen[0].local_ip, seen[0].transport, seen[0].connection), (called, Transport::Udp, None));
}

#[tokio::test]
async fn a_wildcard_client_calls_from_the_address_it_is_told() {
    let served = udp("127.0.0.1:0", Limits::default());
    let endpoint = Arc::new(UdpEndpoint::bind("0.0.0.0:0".parse().unwrap()).unwrap());
    let client = UdpClient::new(endpoint, Retransmit::default());
    let from: IpAddr = "127.0.0.9".parse().unwrap();
    client.call(served.address, Some(from), request(ECHO, b""), SOON).await.unwrap();
    let Peer::Inet(peer) = served.echo.seen.lock().unwrap()[0].peer else { panic!() };
    assert_eq!(peer.ip(), from);
}

#[tokio::test]
async fn refusals_come_back_by_their_names() {
    let served = udp("127.0.0.1:0", Limits::default());
    let client = udp_client();
    let call = async |program, version, procedure| {
        let request = Request { program, version, procedure, credential: &Credential::None, args: b"" };
        match client.call(served.address, None, request, SOON).await {
            Err(CallError::Rejected(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(call(1, 1, 1).await, RpcError::ProgUnavail);
    assert_eq!(call(PROGRAM, 9, 1).await, RpcError::ProgMismatch { low: 1, high: 1 });
    assert_eq!(call(PROGRAM, 1, 99).await, RpcError::ProcUnavail);
}

#[tokio::test]
async fn a_datagram_that_comes_twice_is_executed_once_and_answered_twice() {
    let served = udp("127.0.0.1:0", Limits::default());
    let client = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut replies = Vec::new();
    for _ in 0..2 {
        client.send(&message(7, ECHO, b"once"), served.address, None).await.unwrap();
        replies.push(timeout(SOON, client.recv()).await.unwrap().unwrap().bytes);
    }
    assert_eq!(replies[0], replies[1]);
    assert_eq!(served.echo.executed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn one_xid_to_two_local_addresses_is_two_calls() {
    let served = udp("0.0.0.0:0", Limits::default());
    let client = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    for called in ["127.0.0.5", "127.0.0.6"] {
        let to = SocketAddr::new(called.parse().unwrap(), served.address.port());
        client.send(&message(7, ECHO, b"reboot"), to, None).await.unwrap();
        assert_eq!(timeout(SOON, client.recv()).await.unwrap().unwrap().peer, to);
    }
    assert_eq!(served.echo.executed.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_only_reads_or_was_refused_is_not_remembered_and_a_repetition_is_executed() {
    let served = udp("127.0.0.1:0", Limits::default());
    let client = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let unknown = 99;
    for procedure in [READ, unknown, READ, unknown] {
        client.send(&message(procedure, procedure, b""), served.address, None).await.unwrap();
        timeout(SOON, client.recv()).await.unwrap().unwrap();
    }
    assert_eq!(served.echo.executed.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_retransmitted_call_in_progress_is_executed_once() {
    let served = udp("127.0.0.1:0", Limits::default());
    let client = udp_client();
    let call = client.call(served.address, None, request(WAIT, b"slow"), SOON);
    let release = async {
        served.echo.until_executed(1).await;
        // Long enough for several repetitions, of which none may be executed.
        tokio::time::sleep(Duration::from_millis(200)).await;
        served.echo.go.notify_waiters();
    };
    let (answer, ()) = tokio::join!(call, release);
    assert_eq!(answer.unwrap(), b"slow");
    assert_eq!(served.echo.executed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_call_that_is_not_answered_is_executed_again_when_it_is_repeated() {
    let served = udp("127.0.0.1:0", Limits::default());
    let client = udp_client();
    let outcome = client.call(served.address, None, request(SILENT, b""), Duration::from_millis(300)).await;
    assert!(matches!(outcome, Err(CallError::TimedOut)));
    assert!(served.echo.executed.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn udp_calls_beyond_the_bound_are_dropped_and_their_repetition_is_taken() {
    let served = udp("127.0.0.1:0", Limits { calls: 1, ..Limits::default() });
    let client = udp_client();
    let slow = client.call(served.address, None, request(WAIT, b"slow"), SOON);
    let other = async {
        served.echo.until_executed(1).await;
        let dropped = client.call(served.address, None, request(ECHO, b""), Duration::from_millis(100)).await;
        assert!(matches!(dropped, Err(CallError::TimedOut)));
        assert_eq!(served.echo.executed.load(Ordering::SeqCst), 1);
        served.echo.go.notify_waiters();
        client.call(served.address, None, request(ECHO, b"fast"), SOON).await.unwrap()
    };
    let (slow, other) = tokio::join!(slow, other);
    assert_eq!((slow.unwrap().as_slice(), other.as_slice()), (&b"slow"[..], &b"fast"[..]));
}

#[tokio::test]
async fn noise_and_replies_do_not_stop_a_udp_server() {
    let served = udp("127.0.0.1:0", Limits::default());
    let client = udp_client();
    for noise in [&b""[..], b"x", &vec![0xff; 60_000], &rpc::reply(1, &Answer::SystemErr)] {
        client.endpoint().send(noise, served.address, None).await.unwrap();
    }
    client.call(served.address, None, request(ECHO, b""), SOON).await.unwrap();
    assert_eq!(served.echo.executed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_reply_from_another_address_or_port_is_not_believed() {
    let server = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let forger = UdpEndpoint::bind(SocketAddr::new("127.0.0.2".parse().unwrap(), server.local_addr().port())).unwrap();
    let other_port = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = udp_client();
    let call = client.call(server.local_addr(), None, request(ECHO, b""), SOON);
    let answering = async {
        let datagram = server.recv().await.unwrap();
        let xid = rpc::parse_call(&datagram.bytes).unwrap().xid;
        let reply = |text: &[u8]| rpc::reply(xid, &Answer::Success(text.to_vec()));
        forger.send(&reply(b"address"), datagram.peer, None).await.unwrap();
        other_port.send(&reply(b"port"), datagram.peer, None).await.unwrap();
        let wrong_xid = rpc::reply(xid.wrapping_add(1), &Answer::Success(b"xid".to_vec()));
        server.send(&wrong_xid, datagram.peer, None).await.unwrap();
        server.send(&reply(b"right"), datagram.peer, None).await.unwrap();
    };
    let (answer, ()) = tokio::join!(call, answering);
    assert_eq!(answer.unwrap(), b"right");
}

#[tokio::test]
async fn a_call_to_a_closed_port_is_refused_at_once() {
    let dead = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap().local_addr();
    let outcome = timeout(SOON, udp_client().call(dead, None, request(ECHO, b""), SOON * 6)).await.unwrap();
    assert!(matches!(outcome, Err(CallError::Refused)), "{outcome:?}");
}

#[tokio::test]
async fn only_a_report_on_its_one_datagram_proves_that_a_call_was_not_executed() {
    let maybe_executed = |went: Result<Vec<u8>, _>| ProgramError::Called(went.unwrap_err()).maybe_executed();
    let endpoint = || UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = UdpClient::new(Arc::new(endpoint()), Retransmit { first: SOON, max: SOON });
    let server = endpoint();
    let at = server.local_addr();
    let taken = client.call(at, None, request(ECHO, b""), SOON);
    let refused = async {
        server.recv().await.unwrap();
        drop(server);
        client.call(at, None, request(ECHO, b""), SOON).await
    };
    let (taken, refused) = tokio::join!(taken, refused);
    assert_eq!((maybe_executed(taken), maybe_executed(refused)), (true, false));
    // Of one that is sent again the first datagram may have been taken.
    let (client, server) = (udp_client(), UdpEndpoint::bind(at).unwrap());
    let taken = async {
        server.recv().await.unwrap();
        drop(server);
    };
    let (again, ()) = tokio::join!(client.call(at, None, request(ECHO, b""), SOON), taken);
    assert!(maybe_executed(again));
}

#[tokio::test]
async fn many_calls_share_one_socket() {
    let served = udp("127.0.0.1:0", Limits::default());
    let client = Arc::new(udp_client());
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..100_u8 {
        let (client, address) = (Arc::clone(&client), served.address);
        calls.spawn(async move {
            let args = [n];
            assert_eq!(client.call(address, None, request(ECHO, &args), SOON).await.unwrap(), args);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

#[tokio::test]
async fn shutdown_ends_what_was_begun_and_answers_it() {
    let served = udp("127.0.0.1:0", Limits::default());
    let client = udp_client();
    let call = client.call(served.address, None, request(WAIT, b"last"), SOON);
    let stopping = async {
        served.echo.until_executed(1).await;
        served.stop.send(true).unwrap();
        served.echo.go.notify_one();
    };
    let (answer, ()) = tokio::join!(call, stopping);
    assert_eq!(answer.unwrap(), b"last");
    timeout(SOON, served.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let limits = Limits { drain: Duration::from_millis(50), ..Limits::default() };
    let served = tcp(limits).await;
    let client = tcp_client(served.address).await;
    let call = client.call(request(WAIT, b""), SOON);
    let stopping = async {
        served.echo.until_executed(1).await;
        served.stop.send(true).unwrap();
    };
    let (outcome, ()) = tokio::join!(call, stopping);
    assert!(matches!(outcome, Err(CallError::Io(_))));
    timeout(SOON, served.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn tcp_calls_are_answered_several_at_a_time() {
    let served = tcp(Limits::default()).await;
    let client = tcp_client(served.address).await;
    let slow = client.call(request(WAIT, b"slow"), SOON);
    let fast = async {
        served.echo.until_executed(1).await;
        let fast = client.call(request(ECHO, b"fast"), SOON).await.unwrap();
        served.echo.go.notify_one();
        fast
    };
    let (slow, fast) = tokio::join!(slow, fast);
    assert_eq!((slow.unwrap().as_slice(), fast.as_slice()), (&b"slow"[..], &b"fast"[..]));
    let seen = served.echo.seen.lock().unwrap();
    assert!(seen[0].connection.is_some() && seen[0].connection == seen[1].connection);
}

#[tokio::test]
async fn a_call_in_fragments_of_one_byte_is_answered() {
    let served = tcp(Limits::default()).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let call = message(7, ECHO, b"bits");
    for (n, byte) in call.iter().enumerate() {
        let last = if n + 1 == call.len() { 0x80 } else { 0 };
        stream.write_all(&[last, 0, 0, 1]).await.unwrap();
        stream.write_all(&[*byte]).await.unwrap();
    }
    let expected = frame(&rpc::reply(7, &Answer::Success(b"bits".to_vec())));
    let mut reply = vec![0; expected.len()];
    timeout(SOON, stream.read_exact(&mut reply)).await.unwrap().unwrap();
    assert_eq!(reply, expected);
}

/// Reads until the server closes; what came.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is a close too: the server had not read everything.
    let _ = timeout(SOON, stream.read_to_end(&mut all)).await.expect("the server did not close");
    all
}

#[tokio::test]
async fn a_record_over_the_bound_closes_the_connection() {
    let served = tcp(Limits { max_record: 100, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(&[0x80, 0, 0, 101]).await.unwrap();
    assert_eq!(until_closed(&mut stream).await, b"");
}

#[tokio::test]
async fn a_record_that_does_not_end_in_time_closes_the_connection() {
    let served = tcp(Limits { transfer: Duration::from_millis(50), ..Limits::default() }).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(&[0x80, 0, 0]).await.unwrap();
    assert_eq!(until_closed(&mut stream).await, b"");
}

#[tokio::test]
async fn calls_that_end_meanwhile_give_a_record_that_has_begun_no_more_time() {
    let served = tcp(Limits { transfer: Duration::from_millis(100), ..Limits::default() }).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let waiting: Vec<u8> = (0..50).flat_map(|xid| frame(&message(xid, WAIT, b""))).collect();
    stream.write_all(&[waiting, vec![0x80, 0, 0]].concat()).await.unwrap();
    served.echo.until_executed(50).await;
    let ended = async {
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            served.echo.go.notify_one();
        }
    };
    tokio::select! {
        () = ended => panic!("it is still read from"),
        () = served.echo.until(|echo| !echo.closed.lock().unwrap().is_empty()) => {}
    }
}

#[tokio::test]
async fn what_came_before_a_record_that_is_not_taken_is_answered() {
    let served = tcp(Limits { max_record: 100, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let calls = [frame(&message(1, ECHO, b"")), frame(&[0; 101]), frame(&message(2, ECHO, b""))];
    stream.write_all(&calls.concat()).await.unwrap();
    assert_eq!(until_closed(&mut stream).await, frame(&rpc::reply(1, &Answer::Success(Vec::new()))));
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let served = tcp(Limits { idle: Duration::from_millis(50), ..Limits::default() }).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(until_closed(&mut stream).await, b"");
}

#[tokio::test]
async fn connections_beyond_an_address_share_are_closed_and_a_free_place_is_taken_again() {
    let served = tcp(Limits { connections: Bounds { all: 100, host: 1 }, ..Limits::default() }).await;
    let first = tcp_client(served.address).await;
    first.call(request(ECHO, b""), SOON).await.unwrap();
    let mut second = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(until_closed(&mut second).await, b"");
    // Another address has its own share.
    let source = Source { ip: Some("127.0.0.2".parse().unwrap()), reserved: false };
    let other = StreamClient::connect_tcp(served.address, source, 1 << 16, SOON).await.unwrap();
    other.call(request(ECHO, b""), SOON).await.unwrap();
    drop(first);
    served.echo.until(|echo| !echo.closed.lock().unwrap().is_empty()).await;
    let again = async {
        loop {
            let client = tcp_client(served.address).await;
            if client.call(request(ECHO, b""), SOON).await.is_ok() {
                return;
            }
        }
    };
    timeout(SOON, again).await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_total_are_closed_whatever_their_address() {
    let served = tcp(Limits { connections: Bounds { all: 1, host: 1 }, ..Limits::default() }).await;
    let first = tcp_client(served.address).await;
    first.call(request(ECHO, b""), SOON).await.unwrap();
    let source = Source { ip: Some("127.0.0.2".parse().unwrap()), reserved: false };
    let second = StreamClient::connect_tcp(served.address, source, 1 << 16, SOON).await.unwrap();
    assert!(matches!(second.call(request(ECHO, b""), SOON).await, Err(CallError::Io(_))));
    first.call(request(ECHO, b""), SOON).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_never_reads_its_replies_is_closed() {
    let served = tcp(Limits { transfer: Duration::from_millis(50), ..Limits::default() }).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let writing = async {
        let mut xid = 0;
        while stream.write_all(&frame(&message(xid, ECHO, &vec![0; 60_000]))).await.is_ok() {
            xid += 1;
        }
    };
    timeout(SOON, writing).await.expect("the server did not close");
    served.echo.until(|echo| !echo.closed.lock().unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_tcp_call_beyond_the_total_waits_for_its_turn() {
    let served = tcp(Limits { calls: 1, ..Limits::default() }).await;
    let (one, two) = (tcp_client(served.address).await, tcp_client(served.address).await);
    let slow = one.call(request(WAIT, b"slow"), SOON);
    let other = async {
        served.echo.until_executed(1).await;
        let call = two.call(request(ECHO, b"fast"), SOON);
        let release = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(served.echo.executed.load(Ordering::SeqCst), 1);
            served.echo.go.notify_one();
        };
        tokio::join!(call, release).0
    };
    let (slow, fast) = tokio::join!(slow, other);
    assert_eq!((slow.unwrap().as_slice(), fast.unwrap().as_slice()), (&b"slow"[..], &b"fast"[..]));
}

#[tokio::test]
async fn what_is_answered_leaves_although_the_next_call_has_to_wait() {
    for limits in [Limits { calls_per_connection: 1, ..Limits::default() }, Limits { calls: 1, ..Limits::default() }] {
        let served = tcp(limits).await;
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let calls = [(1, ECHO), (2, WAIT), (3, ECHO)].map(|(xid, procedure)| frame(&message(xid, procedure, b"")));
        stream.write_all(&calls.concat()).await.unwrap();
        let answer = frame(&rpc::reply(1, &Answer::Success(Vec::new())));
        let mut first = vec![0; answer.len()];
        timeout(SOON, stream.read_exact(&mut first)).await.expect("the first reply").unwrap();
        assert_eq!(first, answer);
    }
}

#[tokio::test]
async fn a_connection_with_too_many_calls_is_not_read_from_and_others_are() {
    let served = tcp(Limits { calls_per_connection: 2, ..Limits::default() }).await;
    let greedy = tcp_client(served.address).await;
    let waiting = async {
        let call = || greedy.call(request(WAIT, b""), SOON);
        tokio::join!(call(), call(), call())
    };
    let others = async {
        served.echo.until_executed(2).await;
        tcp_client(served.address).await.call(request(ECHO, b""), SOON).await.unwrap();
        assert_eq!(served.echo.executed.load(Ordering::SeqCst), 3);
        for _ in 0..3 {
            served.echo.go.notify_one();
            tokio::task::yield_now().await;
        }
        served.echo.until_executed(4).await;
        served.echo.go.notify_waiters();
        served.echo.go.notify_one();
    };
    let ((a, b, c), ()) = tokio::join!(waiting, others);
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
}

#[tokio::test]
async fn a_unix_peer_is_known_by_its_user_and_its_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sock");
    let echo = Arc::new(Echo::default());
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(serve_unix(
        UnixListener::bind(&path).unwrap(),
        echo.clone(),
        Arrivals::default(),
        Limits::default(),
        stopped,
    ));
    let client = StreamClient::connect_unix(&path, 1 << 16, SOON).await.unwrap();
    assert_eq!(client.call(request(ECHO, b"hi"), SOON).await.unwrap(), b"hi");
    let origin = echo.seen.lock().unwrap()[0];
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    assert_eq!(origin.peer, Peer::Unix { uid, gid, pid: std::process::id().cast_signed() });
    drop(client);
    echo.until(|echo| !echo.closed.lock().unwrap().is_empty()).await;
    assert_eq!(*echo.closed.lock().unwrap(), [origin.connection.unwrap()]);
}

#[tokio::test]
async fn a_missing_socket_and_one_that_nobody_serves_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sock");
    let connect = || StreamClient::connect_unix(&path, 1 << 16, SOON);
    assert!(matches!(connect().await, Err(CallError::NotThere)));
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(connect().await, Err(CallError::Refused)));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let outcome = StreamClient::connect_tcp(closed, Source::default(), 1 << 16, SOON).await;
    assert!(matches!(outcome, Err(CallError::Refused)));
}

#[tokio::test]
async fn a_stream_that_ends_ends_its_open_calls_and_every_later_one() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let client = StreamClient::over(near, 1 << 16);
    let call = client.call(request(ECHO, b""), SOON);
    let (outcome, ()) = tokio::join!(call, async { drop(far) });
    assert!(matches!(outcome, Err(CallError::Io(_))), "{outcome:?}");
    assert!(client.is_closed());
    assert!(matches!(client.call(request(ECHO, b""), SOON).await, Err(CallError::Io(_))));
}

#[tokio::test]
async fn a_stream_with_a_record_too_long_is_malformed() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let client = StreamClient::over(near, 100);
    far.write_all(&[0x80, 0, 0, 101]).await.unwrap();
    assert!(matches!(client.call(request(ECHO, b""), SOON).await, Err(CallError::Malformed(_))));
}

#[tokio::test]
async fn after_a_time_out_the_late_reply_is_thrown_away_and_the_stream_goes_on() {
    let served = tcp(Limits::default()).await;
    let client = tcp_client(served.address).await;
    let outcome = client.call(request(WAIT, b"late"), Duration::from_millis(50)).await;
    assert!(matches!(outcome, Err(CallError::TimedOut)));
    served.echo.go.notify_one();
    assert_eq!(client.call(request(ECHO, b"next"), SOON).await.unwrap(), b"next");
}

/// Hands its arguments on by a channel, as calls go to the lock table, and answers later.
struct Queue(mpsc::Sender<Vec<u8>>);

#[async_trait]
impl Service for Queue {
    async fn call(&self, _: &Origin, call: &IncomingCall<'_>) -> Option<Answer> {
        self.0.send(call.args.to_vec()).await.unwrap();
        tokio::task::yield_now().await;
        Some(Answer::Success(Vec::new()))
    }
}

/// The calls' numbers as they reached the service.
async fn arrivals(mut queue: mpsc::Receiver<Vec<u8>>, count: usize) -> Vec<u32> {
    let mut arrived = Vec::new();
    while arrived.len() < count {
        let args = timeout(SOON, queue.recv()).await.unwrap().unwrap();
        arrived.push(u32::from_be_bytes(args.try_into().unwrap()));
    }
    arrived
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pipelined_calls_of_a_connection_reach_the_service_in_their_order() {
    let (sender, queue) = mpsc::channel(10_000);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = watch::channel(false);
    let cache = shared_cache();
    // More at a time than a task may do before it has to let others run.
    let limits = Limits { calls_per_connection: 1_000, ..Limits::default() };
    tokio::spawn(serve_tcp(
        listener,
        Arc::new(Queue(sender)),
        cache,
        Guests::default(),
        Arrivals::default(),
        limits,
        stopped,
    ));
    let (mut input, mut output) = TcpStream::connect(address).await.unwrap().into_split();
    tokio::spawn(async move { tokio::io::copy(&mut input, &mut tokio::io::sink()).await });
    let calls: Vec<u8> = (0..10_000_u32).flat_map(|n| frame(&message(n, ECHO, &n.to_be_bytes()))).collect();
    output.write_all(&calls).await.unwrap();
    assert!(arrivals(queue, 10_000).await.into_iter().eq(0..10_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn datagrams_reach_the_service_in_their_order() {
    let (sender, queue) = mpsc::channel(2_000);
    let endpoint = Arc::new(UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap());
    let address = endpoint.local_addr();
    let (_stop, stopped) = watch::channel(false);
    let cache = shared_cache();
    tokio::spawn(serve_udp(endpoint, Arc::new(Queue(sender)), cache, Arrivals::default(), Limits::default(), stopped));
    let client = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    for burst in 0..100_u32 {
        // Few enough that no buffer overflows.
        for n in burst * 20..(burst + 1) * 20 {
            client.send(&message(n, ECHO, &n.to_be_bytes()), address, None).await.unwrap();
        }
        for _ in 0..20 {
            timeout(SOON, client.recv()).await.unwrap().unwrap();
        }
    }
    assert!(arrivals(queue, 2_000).await.into_iter().eq(0..2_000));
}

#[tokio::test]
async fn a_call_that_panics_is_not_answered_and_the_others_are() {
    let served = udp("127.0.0.1:0", Limits::default());
    let client = udp_client();
    let outcome = client.call(served.address, None, request(PANIC, b""), Duration::from_millis(50)).await;
    assert!(matches!(outcome, Err(CallError::TimedOut)));
    client.call(served.address, None, request(ECHO, b""), SOON).await.unwrap();
    let served = tcp(Limits::default()).await;
    let client = tcp_client(served.address).await;
    let outcome = client.call(request(PANIC, b""), Duration::from_millis(50)).await;
    assert!(matches!(outcome, Err(CallError::TimedOut)));
    client.call(request(ECHO, b""), SOON).await.unwrap();
}
