//! With a stand-in for lockd, in a network namespace of the test's own.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::host::ReplyRoute;
use crate::wire::nlm::{LockArgs, Message, Procedure, Res, UnlockArgs};
use crate::wire::record::{RecordReader, frame};
use crate::wire::rpc;
use crate::wire::rtnetlink::Flow;
use crate::wire::types::{ByteRange, CallerName, FileHandle, Svid};
use crate::wire::xdr::encode;

const FAMILIES: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.11"), ("fd00::1", "fd00::11")];

/// Runs this on a thread with a network of its own: the server's addresses on a cable, no client.
fn with_network(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            for line in [
                "link set lo up",
                "link add cable type veth peer name far",
                "addr add 10.0.0.1/24 dev cable",
                "addr add fd00::1/64 dev cable nodad",
                "link set cable up",
                "link set far up",
            ] {
                ip(line);
            }
            test();
        };
        if let Err(panic) = scope.spawn(inside).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(line: &str) -> String {
    let ran = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(ran.status.success(), "ip {line}: {ran:?}");
    String::from_utf8(ran.stdout).unwrap()
}

/// Rules and routes that are not there by themselves.
fn traces() -> String {
    let rules = ip("-4 rule") + &ip("-6 rule");
    let added = rules.lines().filter(|line| !["0:", "32766:", "32767:"].iter().any(|usual| line.starts_with(usual)));
    let mut found: Vec<&str> = added.collect();
    let routes = ip("-4 route show table all proto 78") + &ip("-6 route show table all proto 78");
    found.extend(routes.lines());
    found.join("\n")
}

/// Who called, and with what.
type Calls = Arc<Mutex<Vec<(SocketAddr, UnlockArgs)>>>;

/// Something in lockd's place. It answers each call, or none at all.
struct Lockd {
    port: u16,
    calls: Calls,
}

impl Lockd {
    fn start(server: &str, transport: Transport, said: Option<Stat>) -> Self {
        let (own, calls) = (SocketAddr::new(server.parse().unwrap(), 0), Calls::default());
        let heard = Arc::clone(&calls);
        let answer = move |message: &[u8], peer| {
            let call = rpc::parse_call(message).unwrap();
            let version = Version::from_number(call.version).unwrap();
            let args = if call.procedure == Procedure::NmLock.number() {
                let LockArgs { cookie, alock, .. } = LockArgs::decode(version, call.args).unwrap();
                UnlockArgs { cookie, alock }
            } else {
                UnlockArgs::decode(version, call.args).unwrap()
            };
            let res = Res { cookie: args.cookie.clone(), stat: said? };
            heard.lock().unwrap().push((peer, args));
            Some(rpc::reply(call.xid, &rpc::Answer::Success(encode(&res))))
        };
        let port = match transport {
            Transport::Tcp => {
                let listener = TcpListener::bind(own).unwrap();
                let port = listener.local_addr().unwrap().port();
                thread::spawn(move || {
                    while let Ok((mut stream, peer)) = listener.accept() {
                        let (mut records, mut buffer) = (RecordReader::new(4096), [0; 1000]);
                        while let Ok(read @ 1..) = stream.read(&mut buffer) {
                            records.push(&buffer[..read]);
                            while let Some(message) = records.next().unwrap() {
                                if let Some(reply) = answer(&message, peer) {
                                    stream.write_all(&frame(&reply)).unwrap();
                                }
                            }
                        }
                    }
                });
                port
            }
            Transport::Udp => {
                let socket = UdpSocket::bind(own).unwrap();
                let port = socket.local_addr().unwrap().port();
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok((read, peer)) = socket.recv_from(&mut buffer) {
                        if let Some(reply) = answer(&buffer[..read], peer) {
                            socket.send_to(&reply, peer).unwrap();
                        }
                    }
                });
                port
            }
        };
        Self { port, calls }
    }

    fn unlock(&self, wanted: &[(OwnerKey, Unlock)]) -> Vec<UnlockReply> {
        unlock(&Machine::default(), wanted, |_, _| Ok(self.port), None)
    }
}

fn owner(server: &str, client: &str, transport: Transport) -> OwnerKey {
    let [client, server] = [client, server].map(|address| Address(address.parse().unwrap()));
    OwnerKey { way: Way { client, server, version: 4, transport }, svid: Svid(7) }
}

/// As many locks, one after the other in a file.
fn locks(owner: OwnerKey, count: u64) -> Vec<(OwnerKey, Unlock)> {
    let one = |number: u64| Unlock {
        caller: CallerName::new("c1").unwrap(),
        file: FileHandle::new(b"file").unwrap(),
        svid: Svid(7),
        range: ByteRange { start: number * 10, end: number * 10 + 4 },
        user: (1000, 1000),
    };
    (0..count).map(|number| (owner, one(number))).collect()
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn lockd_hears_a_client_that_is_not_there_and_nothing_is_sent_to_it() {
    with_network(|| {
        for (server, client) in FAMILIES {
            for transport in [Transport::Tcp, Transport::Udp] {
                let lockd = Lockd::start(server, transport, Some(Stat::Granted));
                let wanted = locks(owner(server, client, transport), 100);
                let said = lockd.unlock(&wanted);
                assert!(
                    said.iter().all(|said| *said == UnlockReply::Said(Stat::Granted)),
                    "{client} {transport}: {said:?}"
                );
                let calls = lockd.calls.lock().unwrap();
                let heard = |(peer, args): &(SocketAddr, UnlockArgs)| {
                    assert!(peer.ip().to_string() == client && peer.port() < 1024, "{peer}");
                    args.alock.range().unwrap()
                };
                let heard: Vec<ByteRange> = calls.iter().map(heard).collect();
                assert_eq!(heard, wanted.iter().map(|(_, unlock)| unlock.range).collect::<Vec<_>>());
                assert_eq!(traces(), "", "{client} {transport}");
            }
            let asked_for = ip(&format!("neigh show {client}"));
            assert_eq!(asked_for, "", "a packet was to be sent to the client");
        }
    });
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn a_lockd_that_is_silent_is_asked_once_and_leaves_no_rule() {
    with_network(|| {
        let (server, client) = FAMILIES[0];
        let lockd = Lockd::start(server, Transport::Tcp, None);
        let mut wanted = locks(owner(server, client, Transport::Tcp), 20);
        wanted.extend(locks(owner(server, "10.0.0.12", Transport::Tcp), 1));
        let began = Instant::now();
        let said = lockd.unlock(&wanted);
        assert!(began.elapsed() < PATIENCE + Duration::from_secs(4), "{:?}", began.elapsed());
        let silent = said.iter().filter(|said| matches!(said, UnlockReply::Silent(_))).count();
        assert!((1..20).contains(&silent), "{said:?}");
        assert!(said[silent..].iter().all(|said| matches!(said, UnlockReply::NotSent(_))), "{said:?}");
        assert!(matches!(&said[20], UnlockReply::NotSent(why) if why.contains("another call")), "{said:?}");
        assert_eq!(traces(), "");
    });
}

#[test]
fn what_there_is_no_time_for_is_not_asked() {
    let wanted = locks(owner("10.0.0.1", "10.0.0.11", Transport::Tcp), 2);
    let said = unlock(&Machine::default(), &wanted, |_, _| Ok(1), Some(Instant::now()));
    assert_eq!(said, [UnlockReply::NotSent(TOO_LATE.to_owned()), UnlockReply::NotSent(TOO_LATE.to_owned())]);
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn a_trial_asks_twice_in_the_clients_name_and_frees_what_is_granted_at_once() {
    with_network(|| {
        for (server, client) in FAMILIES {
            for (transport, said) in [(Transport::Tcp, Stat::Granted), (Transport::Udp, Stat::Denied)] {
                let lockd = Lockd::start(server, transport, Some(said));
                let (owner, wanted) = locks(owner(server, client, transport), 1).remove(0);
                let told = trial(&Machine::default(), owner, &wanted, true, |_, _| Ok(lockd.port)).unwrap();
                assert_eq!(told, Trial { ordinary: said, reclaim: said });
                let heard = lockd.calls.lock().unwrap();
                let ours: Vec<bool> = heard
                    .iter()
                    .map(|(_, args)| args.cookie.as_slice().starts_with(message::MARK.as_bytes()))
                    .collect();
                let granted = [false, true, false, true];
                assert_eq!(ours, if said == Stat::Granted { granted.as_slice() } else { &[false, false] });
                for (peer, args) in heard.iter() {
                    assert_eq!((peer.ip().to_string().as_str(), args.alock.range()), (client, Some(wanted.range)));
                }
                assert_eq!(traces(), "");
            }
        }
    });
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn what_a_killed_process_left_is_removed_and_rules_of_others_stay() {
    with_network(|| {
        let others = "rule add pref 7 to 10.0.0.11 lookup 100";
        ip(others);
        let before = traces();
        for (server, client) in FAMILIES {
            let end = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
            let flow = Flow { from: end(server, 4045), to: end(client, 555), transport: Transport::Tcp };
            std::mem::forget(ReplyRoute::new(&flow).unwrap());
            assert!(traces().contains("dport 555"), "{}", traces());
        }
        // A new one does not mind what is left.
        let (server, client) = FAMILIES[0];
        let lockd = Lockd::start(server, Transport::Tcp, Some(Stat::Granted));
        assert_eq!(lockd.unlock(&locks(owner(server, client, Transport::Tcp), 1)), [UnlockReply::Said(Stat::Granted)]);
        assert!(ReplyRoute::remove_left().unwrap());
        assert_eq!(traces(), before);
        assert!(!ReplyRoute::remove_left().unwrap());
    });
}

#[test]
#[ignore = "needs root and iproute2: .ci/run runs it"]
fn nobody_is_called_by_an_address_that_is_not_this_hosts_nor_in_the_name_of_this_host() {
    with_network(|| {
        let lockd = Lockd::start("10.0.0.1", Transport::Tcp, Some(Stat::Granted));
        for (server, client, why) in [
            ("10.0.0.2", "10.0.0.11", "no longer has the address 10.0.0.2"),
            ("10.0.0.1", "10.0.0.1", "this host itself"),
            ("10.0.0.1", "127.0.0.1", "this host itself"),
            ("fd00::1", "fe80:0:0:2::9", "link-local"),
        ] {
            let said = lockd.unlock(&locks(owner(server, client, Transport::Tcp), 1));
            assert!(matches!(&said[..], [UnlockReply::NotSent(told)] if told.contains(why)), "{said:?}");
        }
        assert!(lockd.calls.lock().unwrap().is_empty());
    });
}
