//! The `_RES` answers of asynchronous procedures, to lockds that never reply to them.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nlmctl::wire::nlm::{self, Procedure, Stat, Version};
use nlmctl::wire::rpc::{self, Credential};

use super::harness::*;

/// An asynchronous client that does not wait for the void reply to its calls.
struct Async {
    socket: UdpSocket,
    client: Client,
    to: SocketAddr,
}

impl Async {
    fn new(daemon: &Nlmd, from: &str, version: Version) -> Self {
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), daemon.nlm_udp);
        let socket = UdpSocket::bind((from, 0)).unwrap();
        Self { socket, client: Client::new(Wire::udp(from, to), version, "mac"), to }
    }

    fn ask(&self, procedure: Procedure, svid: i32) {
        let args = self
            .client
            .args(procedure, &Want { svid, offset: 10 * u64::from(svid.unsigned_abs()), len: 5, ..want("file") });
        let version = self.client.version.number();
        let message = rpc::call(next_xid(), nlm::PROGRAM, version, procedure.number(), &Credential::None, &args);
        self.socket.send_to(&message, self.to).unwrap();
    }
}

const ASKED: [(Procedure, Procedure); 5] = [
    (Procedure::TestMsg, Procedure::TestRes),
    (Procedure::LockMsg, Procedure::LockRes),
    (Procedure::CancelMsg, Procedure::CancelRes),
    (Procedure::UnlockMsg, Procedure::UnlockRes),
    (Procedure::GrantedMsg, Procedure::GrantedRes),
];

#[test]
fn an_answer_leaves_from_the_socket_that_was_called_in_every_version() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    host.curt.store(true, Ordering::Relaxed);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let server = Ipv4Addr::new(127, 0, 0, 99);
    let udp = SocketAddr::from((server, daemon.nlm_udp));
    for version in Version::ALL {
        for tcp in [false, true] {
            let wire =
                if tcp { Wire::tcp("127.0.0.3", (server, daemon.nlm_tcp).into()) } else { Wire::udp("127.0.0.3", udp) };
            let mut client = Client::new(wire, version, "beta");
            for (ask, answer) in ASKED {
                println!("{version:?}, {ask:?}, TCP: {tcp}");
                assert_eq!(client.raw(next_xid(), ask, &want("file")), Ok(Vec::new()));
                let Heard::Answer { from, procedure, .. } = host.hear() else { panic!("no answer") };
                assert_eq!((procedure, from.ip()), (answer.number(), udp.ip()));
                assert!(tcp || from == udp, "{from} is not the socket that was called, {udp}");
            }
        }
    }
}

#[test]
fn a_lockd_that_never_replies_gets_the_answer_to_each_of_a_thousand_calls() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    host.curt.store(true, Ordering::Relaxed);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let clients = [Version::V3, Version::V1, Version::V4].map(|version| Async::new(&daemon, "127.0.0.3", version));
    // As many as fit the buffer of the client's socket, then as many again.
    for batch in 0..10 {
        for svid in 0..100 {
            let (ask, _) = ASKED[usize::try_from(svid).unwrap() % 4];
            clients[usize::try_from(batch).unwrap() % 3].ask(ask, 100 * batch + svid + 1);
        }
        for n in 0..100 {
            let heard = host.heard.recv_timeout(LIMIT);
            assert!(matches!(heard, Ok(Heard::Answer { .. })), "answer {n} of batch {batch}: {heard:?}");
        }
    }
    assert!(!daemon.log().contains("asynchronous calls wait"), "nothing is dropped");
}

#[test]
fn clients_that_do_not_reply_delay_no_grant_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.1"]);
    let [curt, silent, other] = ["127.0.0.3", "127.0.0.4", "127.0.0.5"].map(|address| Host::start(address, port));
    curt.curt.store(true, Ordering::Relaxed);
    silent.deaf.store(true, Ordering::Relaxed);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let (mut a, mut b) = (Client::v4(&daemon, "127.0.0.2", "alpha"), Client::v4(&daemon, "127.0.0.5", "beta"));
    assert_eq!(a.lock(&want("other")), Stat::Granted);
    assert_eq!(b.lock(&Want { block: true, ..want("other") }), Stat::Blocked);
    let flood = Async::new(&daemon, "127.0.0.3", Version::V3);
    for svid in 1..=256 {
        flood.ask(Procedure::UnlockMsg, svid);
        assert!(matches!(curt.hear(), Heard::Answer { .. }));
    }
    let flood = Async::new(&daemon, "127.0.0.4", Version::V1);
    (1..=400).for_each(|svid| flood.ask(Procedure::TestMsg, svid));
    assert_eq!(a.unlock(&want("other")), Stat::Granted);
    let unlocked = Instant::now();
    assert!(matches!(other.hear(), Heard::Granted { .. }));
    let took = unlocked.elapsed();
    assert!(took < Duration::from_secs(1), "GRANTED came after {took:?}");
}

#[test]
fn a_silent_rpcbind_is_asked_once_for_many_calls_and_others_are_answered_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.4", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    host.curt.store(true, Ordering::Relaxed);
    let silent = UdpSocket::bind(("127.0.0.4", port)).unwrap();
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let unlucky = Async::new(&daemon, "127.0.0.4", Version::V3);
    (1..=300).for_each(|svid| unlucky.ask(Procedure::UnlockMsg, svid));
    Async::new(&daemon, "127.0.0.3", Version::V3).ask(Procedure::TestMsg, 1);
    assert!(matches!(host.hear(), Heard::Answer { .. }));
    silent.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut buffer = [0; 1024];
    let questions = std::iter::from_fn(|| silent.recv(&mut buffer).ok()).take(300).count();
    assert_eq!(questions, 1);
}
