//! GRANTED that the client does not confirm: the calls go on, the lock stands, and the client is a suspect.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nlmctl::wire::control::{ClientPage, LockPage, LockState, LocksArgs, PageAfter, Procedure as Ask, Scope};
use nlmctl::wire::nlm::{self, Message, Procedure, Res, Stat, TestArgs, Version};
use nlmctl::wire::rpc::{self, Answer};
use nlmctl::wire::rpcbind;
use nlmctl::wire::xdr::encode;

use super::harness::*;

/// A client's host that answers GRANTED with what it is given, until it is `cured`. Its lockd and its
/// rpcbind share a port.
struct Odd {
    cured: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Drop for Odd {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Odd {
    /// `answer`: of a lockd that does not take grants. `lockd`: the port that rpcbind tells; none is its own.
    fn start(
        address: &str,
        port: u16,
        lockd: Option<u16>,
        answer: impl Fn(u32) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        let socket = UdpSocket::bind((address, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let [cured, over] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
        let (well, ended) = (cured.clone(), over.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ended.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let Ok(call) = rpc::parse_call(&buffer[..len]) else { continue };
                let well = well.load(Ordering::Relaxed);
                let reply = match call.program {
                    rpcbind::PROGRAM => {
                        let told = lockd.filter(|_| !well).unwrap_or(port);
                        Some(rpc::reply(call.xid, &Answer::Success(encode(&u32::from(told)))))
                    }
                    _ if well => {
                        let version = Version::from_number(call.version).unwrap();
                        let TestArgs { cookie, .. } = TestArgs::decode(version, call.args).unwrap();
                        let results = Res { cookie, stat: Stat::Granted }.encode(version).unwrap();
                        Some(rpc::reply(call.xid, &Answer::Success(results)))
                    }
                    nlm::PROGRAM => answer(call.xid),
                    _ => None,
                };
                if let Some(reply) = reply {
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Self { cured, over }
    }
}

fn state_of(daemon: &Nlmd, svid: i32) -> Option<LockState> {
    let args = LocksArgs { scope: Scope::default(), after: 0 };
    let page: LockPage = Control::open(daemon).call(Ask::Locks, &args).unwrap();
    page.locks.into_vec().into_iter().map(|row| row.lock).find(|lock| lock.owner.svid.0 == svid).map(|lock| lock.state)
}

fn suspicions(daemon: &Nlmd, name: &str) -> Vec<String> {
    let page: ClientPage = Control::open(daemon).call(Ask::Clients, &PageAfter { after: 0 }).unwrap();
    let client = page.clients.into_vec().into_iter().find(|client| client.name.to_string() == name).unwrap();
    client.suspicions.into_vec().iter().map(|why| why.as_str().to_owned()).collect()
}

#[test]
fn a_client_that_cannot_be_told_of_its_grant_is_a_suspect_keeps_the_lock_and_is_told_when_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["closed", "unregistered", "weak", "unavailable", "rubbish"];
    let addresses: Vec<String> = (3..8).map(|host| format!("127.0.0.{host}")).collect();
    let all: Vec<&str> = addresses.iter().map(String::as_str).chain(["127.0.0.1"]).collect();
    let port = shared_port(&all);
    let closed = UdpSocket::bind("127.0.0.3:0").unwrap().local_addr().unwrap().port();
    let hosts = [
        Odd::start(all[0], port, Some(closed), |_| None),
        Odd::start(all[1], port, Some(0), |_| None),
        Odd::start(all[2], port, None, |xid| Some(rpc::reply(xid, &Answer::TooWeak))),
        Odd::start(all[3], port, None, |xid| Some(rpc::reply(xid, &Answer::ProgUnavail))),
        Odd::start(all[4], port, None, |xid| Some([&xid.to_be_bytes()[..], b"what is this?"].concat())),
    ];
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let to = SocketAddr::from(([127, 0, 0, 1], daemon.nlm_udp));
    let mut holder = Client::v4(&daemon, "127.0.0.2", "holder");
    let mut waiters = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        let version = Version::ALL[number % 3];
        let mut waiter = Client::new(Wire::udp(all[number], to), version, name);
        let svid = 10 + i32::try_from(number).unwrap();
        let wanted = Want { svid, offset: 100 * u64::from(svid.unsigned_abs()), block: true, ..want("file") };
        let held = Want { svid: 1, block: false, ..wanted.clone() };
        assert_eq!(holder.lock(&held), Stat::Granted);
        assert_eq!(waiter.lock(&wanted), Stat::Blocked);
        assert_eq!(holder.unlock(&held), Stat::Granted);
        waiters.push((waiter, wanted));
    }
    for ((_, wanted), name) in waiters.iter().zip(names) {
        let told = await_some("the suspicion", || suspicions(&daemon, name).into_iter().next());
        println!("{name}: {told}");
        assert!(told.starts_with("GRANTED was not confirmed for 10 s: "), "{name}: {told}");
        assert_eq!(state_of(&daemon, wanted.svid), Some(LockState::Offered), "{name}");
        assert_eq!(holder.test(&Want { svid: 1, ..wanted.clone() }), Stat::Denied, "{name} may have it");
    }
    assert_eq!(suspicions(&daemon, "holder"), Vec::<String>::new());
    // One asks again, the others are told at the next attempt.
    let (asking, wanted) = &mut waiters[0];
    assert_eq!(asking.stat(Procedure::Lock, wanted), Stat::Granted);
    assert_eq!(state_of(&daemon, wanted.svid), Some(LockState::Held));
    for host in &hosts {
        host.cured.store(true, Ordering::Relaxed);
    }
    for (_, wanted) in &waiters[1..] {
        await_some("the confirmed lock", || (state_of(&daemon, wanted.svid) == Some(LockState::Held)).then_some(()));
    }
}

#[test]
fn a_grant_leaves_before_the_many_grants_of_a_dead_client() {
    let folder = tempfile::tempdir().unwrap();
    let [dead, lives] = ["127.0.0.13", "127.0.0.14"];
    let port = shared_port(&[dead, lives, "127.0.0.1"]);
    let silent = UdpSocket::bind((dead, port)).unwrap();
    silent.set_nonblocking(true).unwrap();
    let host = Odd::start(lives, port, None, |_| None);
    host.cured.store(true, Ordering::Relaxed);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let to = SocketAddr::from(([127, 0, 0, 1], daemon.nlm_udp));
    let mut crowd = Client::new(Wire::udp(dead, to), Version::V4, "crowd");
    let all = Want { svid: 1, ..want("theirs") };
    assert_eq!(crowd.lock(&all), Stat::Granted);
    for svid in 2..402 {
        let waiting = Want { svid, exclusive: false, block: true, ..all.clone() };
        assert_eq!(crowd.lock(&waiting), Stat::Blocked);
    }
    let mut holder = Client::v4(&daemon, "127.0.0.2", "holder");
    let mut waiter = Client::new(Wire::udp(lives, to), Version::V4, "waiter");
    let held = want("ours");
    assert_eq!(holder.lock(&held), Stat::Granted);
    assert_eq!(waiter.lock(&Want { svid: 1_000, block: true, ..held.clone() }), Stat::Blocked);
    assert_eq!(crowd.unlock(&all), Stat::Granted);
    assert_eq!(holder.unlock(&held), Stat::Granted);
    await_some("the grant", || (state_of(&daemon, 1_000) == Some(LockState::Held)).then_some(()));
    let mut buffer = [0; 512];
    let asked = std::iter::from_fn(|| silent.recv(&mut buffer).ok()).count();
    assert!(asked < 100, "{asked} calls to the dead client were under way at once");
}
