//! NLM and NSM calls: every procedure, duplicates, waiters, hostile bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nlmctl::wire::nlm::{self, Message, Procedure, Stat, TestRes, Version};
use nlmctl::wire::nsm;
use nlmctl::wire::rpc::RpcError;
use nlmctl::wire::types::{CallerName, NsmState};
use nlmctl::wire::xdr::encode;

use super::harness::*;

/// Every path: UDP and TCP, IPv4 and IPv6.
fn paths(daemon: &Nlmd) -> Vec<(&'static str, Wire, Wire)> {
    let (v4, v6) = ("127.0.0.1", "::1");
    let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
    vec![
        (
            "UDP over IPv4",
            Wire::udp("127.0.0.2", at(v4, daemon.nlm_udp)),
            Wire::udp("127.0.0.3", at(v4, daemon.nlm_udp)),
        ),
        (
            "TCP over IPv4",
            Wire::tcp("127.0.0.2", at(v4, daemon.nlm_tcp)),
            Wire::tcp("127.0.0.3", at(v4, daemon.nlm_tcp)),
        ),
        ("UDP over IPv6", Wire::udp(v6, at(v6, daemon.nlm_udp)), Wire::udp(v6, at(v6, daemon.nlm_udp))),
        ("TCP over IPv6", Wire::tcp(v6, at(v6, daemon.nlm_tcp)), Wire::tcp(v6, at(v6, daemon.nlm_tcp))),
    ]
}

#[test]
fn every_procedure_works_in_every_version_on_every_path() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    for version in Version::ALL {
        for (path, a, b) in paths(&daemon) {
            let (mut a, mut b) = (Client::new(a, version, "alpha"), Client::new(b, version, "beta"));
            let file = want("file");
            println!("{version:?}, {path}");
            assert_eq!(a.wire.call(nlm::PROGRAM, version.number(), 0, &[]), Ok(Vec::new()), "NULL");
            assert_eq!(a.test(&file), Stat::Granted);
            assert_eq!(a.lock(&file), Stat::Granted);
            let results = b.raw(next_xid(), Procedure::Test, &file).unwrap();
            let nlm::TestReply::Denied(holder) = TestRes::decode(version, &results).unwrap().reply else {
                panic!("a held range must be denied")
            };
            assert_eq!((holder.svid.0, holder.offset, holder.len, holder.exclusive), (1, 0, 100, true));
            assert_eq!(b.lock(&file), Stat::Denied);
            assert_eq!(b.lock(&Want { block: true, ..file.clone() }), Stat::Blocked);
            assert_eq!(b.stat(Procedure::Cancel, &file), Stat::Granted);
            assert_eq!(a.unlock(&file), Stat::Granted);
            assert_eq!(b.lock(&file), Stat::Granted, "nothing is left of the cancelled waiter");
            assert_eq!(b.unlock(&file), Stat::Granted);
            assert_eq!(a.stat(Procedure::Granted, &file), Stat::Denied, "this server asked nobody for a lock");
            let sm_notify = a.wire.call(nlm::PROGRAM, version.number(), 16, &[]);
            assert_eq!(sm_notify, Err(RpcError::ProcUnavail), "a stranger frees nothing");
            if version == Version::V1 {
                assert_eq!(a.raw(next_xid(), Procedure::Share, &file), Err(RpcError::ProcUnavail));
                continue;
            }
            assert_eq!(a.stat(Procedure::NmLock, &file), Stat::Granted);
            assert_eq!(b.stat(Procedure::NmLock, &file), Stat::Denied);
            assert_eq!(a.stat(Procedure::Share, &want("shared")), Stat::Granted);
            assert_eq!(b.stat(Procedure::Share, &want("shared")), Stat::Denied);
            assert_eq!(a.stat(Procedure::Unshare, &want("shared")), Stat::Granted);
            assert_eq!(b.stat(Procedure::Share, &want("shared")), Stat::Granted);
            assert_eq!(b.stat(Procedure::FreeAll, &file), Stat::Granted);
            assert_eq!(a.stat(Procedure::Share, &want("shared")), Stat::Granted, "FREE_ALL freed its caller's");
            assert_eq!(b.test(&file), Stat::Denied, "and nobody else's");
            assert_eq!(a.stat(Procedure::FreeAll, &file), Stat::Granted);
        }
    }
}

#[test]
fn wrong_calls_are_answered_as_rfc_5531_says() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let mut client = Client::v4(&daemon, "127.0.0.2", "alpha");
    let wire = &mut client.wire;
    assert_eq!(wire.call(nlm::PROGRAM, 2, 0, &[]), Err(RpcError::ProgMismatch { low: 1, high: 4 }));
    assert_eq!(wire.call(nlm::PROGRAM, 4, 24, &[]), Err(RpcError::ProcUnavail));
    assert_eq!(wire.call(100_003, 3, 0, &[]), Err(RpcError::ProgUnavail));
    let args = client.args(Procedure::Lock, &want("file"));
    for cut in [0, 4, args.len() - 4, args.len() - 1] {
        let outcome = client.wire.call(nlm::PROGRAM, 4, 2, &args[..cut]);
        assert_eq!(outcome, Err(RpcError::GarbageArgs), "cut at {cut}");
    }
    let longer = [args.as_slice(), &[0; 4]].concat();
    assert_eq!(client.wire.call(nlm::PROGRAM, 4, 2, &longer), Err(RpcError::GarbageArgs));
    assert_eq!(client.lock(&Want { offset: u64::MAX, len: 2, ..want("file") }), Stat::Fbig);
    assert_eq!(client.test(&want("file")), Stat::Granted, "none of them left a lock");
}

#[test]
fn a_late_duplicate_after_its_inverse_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let (mut a, mut b) = (Client::v4(&daemon, "127.0.0.2", "alpha"), Client::v4(&daemon, "127.0.0.3", "beta"));
    let pairs = [
        (Procedure::Lock, Procedure::Unlock, Procedure::Test),
        (Procedure::NmLock, Procedure::Unlock, Procedure::Test),
        (Procedure::Lock, Procedure::FreeAll, Procedure::Test),
        (Procedure::Share, Procedure::Unshare, Procedure::Share),
        (Procedure::Share, Procedure::FreeAll, Procedure::Share),
    ];
    for (take, give, probe) in pairs {
        let file = want("file");
        let (first, second) = (next_xid(), next_xid());
        assert_eq!(a.stat_as(first, take, &file), Stat::Granted);
        assert_eq!(a.stat_as(second, give, &file), Stat::Granted);
        assert_eq!(a.stat_as(first, take, &file), Stat::Granted, "{take:?} again: the old answer");
        assert_eq!(b.stat(probe, &file), Stat::Granted, "{take:?} again made a ghost");
        let _ = b.raw(next_xid(), Procedure::FreeAll, &file);

        assert_eq!(a.stat(take, &file), Stat::Granted);
        assert_eq!(a.stat_as(second, give, &file), Stat::Granted, "{give:?} again: the old answer");
        assert_eq!(b.stat(probe, &file), Stat::Denied, "{give:?} again freed a new {take:?}");
        let _ = a.raw(next_xid(), Procedure::FreeAll, &file);
    }
    // A CANCEL after the same wait has begun anew.
    let (file, wait) = (want("file"), Want { block: true, ..want("file") });
    assert_eq!(a.lock(&file), Stat::Granted);
    assert_eq!(b.lock(&wait), Stat::Blocked);
    let cancel = next_xid();
    assert_eq!(b.stat_as(cancel, Procedure::Cancel, &wait), Stat::Granted);
    assert_eq!(b.lock(&wait), Stat::Blocked);
    assert_eq!(b.stat_as(cancel, Procedure::Cancel, &wait), Stat::Granted);
    assert_eq!(Control::open(&daemon).status().waiters, 1, "the second wait goes on");
}

#[test]
fn a_waiter_is_called_back_from_the_address_it_called_with_exactly_what_it_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let server = Ipv4Addr::new(127, 0, 0, 99);
    for version in Version::ALL {
        for tcp in [false, true] {
            println!("{version:?}, TCP: {tcp}");
            let mut a = Client::v4(&daemon, "127.0.0.2", "alpha");
            let wire = if tcp {
                Wire::tcp("127.0.0.3", (server, daemon.nlm_tcp).into())
            } else {
                Wire::udp("127.0.0.3", (server, daemon.nlm_udp).into())
            };
            let mut b = Client::new(wire, version, "beta");
            let wanted = Want { offset: 7, len: 0, block: true, svid: 42, ..want("file") };
            assert_eq!(a.lock(&want("file")), Stat::Granted);
            assert_eq!(b.lock(&wanted), Stat::Blocked);
            assert_eq!(a.unlock(&want("file")), Stat::Granted);
            let Heard::Granted { from, version: spoken, lock, exclusive } = host.hear() else { panic!("no GRANTED") };
            assert_eq!((from.ip(), spoken, exclusive), (server.into(), version.number(), true));
            assert_eq!(lock, b.lock_of(&wanted));
            assert_eq!(a.test(&want("file")), Stat::Denied, "the waiter has it");
            assert_eq!(b.unlock(&wanted), Stat::Granted);
        }
    }
}

#[test]
fn a_waiter_that_asked_up_to_the_last_byte_of_all_is_called_back_with_its_own_length() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let (half, narrow) = (1 << 63, u64::from(u32::MAX));
    for (version, offset, len) in [
        (Version::V4, u64::MAX, 1),
        (Version::V4, u64::MAX, 0),
        (Version::V4, half, half),
        (Version::V4, half, half - 1),
        (Version::V4, half - 1, 1),
        (Version::V4, 1, u64::MAX),
        (Version::V4, 1, u64::MAX - 1),
        (Version::V3, narrow, 1),
        (Version::V3, narrow, narrow),
        (Version::V1, 1, narrow),
        (Version::V1, narrow, 0),
    ] {
        let mut a = Client::v4(&daemon, "127.0.0.2", "alpha");
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, daemon.nlm_udp));
        let mut b = Client::new(Wire::udp("127.0.0.3", to), version, "beta");
        let (all, wanted) = (Want { len: 0, ..want("file") }, Want { offset, len, block: true, ..want("file") });
        assert_eq!(a.lock(&all), Stat::Granted);
        assert_eq!(b.lock(&wanted), Stat::Blocked);
        assert_eq!(a.unlock(&all), Stat::Granted);
        let Heard::Granted { lock, .. } = host.hear() else { panic!("no GRANTED") };
        assert_eq!(lock, b.lock_of(&wanted), "{version:?} {offset} {len}");
        assert_eq!(b.unlock(&wanted), Stat::Granted);
    }
}

#[test]
fn an_unanswered_grant_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let (mut a, mut b) = (Client::v4(&daemon, "127.0.0.2", "alpha"), Client::v4(&daemon, "127.0.0.3", "beta"));
    host.deaf.store(true, Ordering::Relaxed);
    assert_eq!(a.lock(&want("file")), Stat::Granted);
    assert_eq!(b.lock(&Want { block: true, ..want("file") }), Stat::Blocked);
    assert_eq!(a.unlock(&want("file")), Stat::Granted);
    assert_eq!(a.test(&want("file")), Stat::Denied, "offered is taken");
    assert!(host.heard.recv_timeout(Duration::from_millis(300)).is_err());
    host.deaf.store(false, Ordering::Relaxed);
    assert!(matches!(host.hear(), Heard::Granted { .. }));
}

#[test]
fn a_grant_whose_answer_is_lost_stays_with_the_client_that_took_it() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let (mut a, mut b) = (Client::v4(&daemon, "127.0.0.2", "alpha"), Client::v4(&daemon, "127.0.0.3", "beta"));
    host.mute.store(true, Ordering::Relaxed);
    assert_eq!(a.lock(&want("file")), Stat::Granted);
    assert_eq!(b.lock(&Want { block: true, ..want("file") }), Stat::Blocked);
    assert_eq!(a.unlock(&want("file")), Stat::Granted);
    assert!(matches!(host.hear(), Heard::Granted { .. }));
    host.mute.store(false, Ordering::Relaxed);
    assert!(matches!(host.hear(), Heard::Granted { .. }), "it is repeated");
    await_some("the repetition's denial", || daemon.log().contains("GRANTED was refused").then_some(()));
    await_some("the end of the offer", || (Control::open(&daemon).status().waiters == 0).then_some(()));
    assert_eq!(a.test(&want("file")), Stat::Denied, "the client has it");
    assert_eq!(b.unlock(&want("file")), Stat::Granted);
    assert_eq!(a.test(&want("file")), Stat::Granted);
}

#[test]
fn asynchronous_procedures_are_answered_by_calls() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let mut b = Client::v4(&daemon, "127.0.0.3", "beta");
    for (ask, answer) in [
        (Procedure::TestMsg, Procedure::TestRes),
        (Procedure::LockMsg, Procedure::LockRes),
        (Procedure::CancelMsg, Procedure::CancelRes),
        (Procedure::UnlockMsg, Procedure::UnlockRes),
    ] {
        assert_eq!(b.raw(next_xid(), ask, &want("file")), Ok(Vec::new()));
        let Heard::Answer { procedure, stat, .. } = host.hear() else { panic!("no answer to {ask:?}") };
        assert_eq!(procedure, answer.number());
        if ask != Procedure::CancelMsg {
            assert_eq!(stat, Stat::Granted, "{ask:?}");
        }
    }
}

#[test]
fn one_name_at_two_addresses_is_two_clients_whether_it_resolves_to_both_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    for (first, second, name) in [("127.0.0.2", "127.0.0.3", "nobody.invalid"), ("127.0.0.1", "127.0.0.2", "localhost")]
    {
        let mut one = Client::v4(&daemon, first, name);
        let mut two = Client::v4(&daemon, second, name);
        assert_eq!(one.lock(&want(name)), Stat::Granted);
        assert_eq!(two.lock(&want(name)), Stat::Denied, "same name, svid and oh, another host");
        assert_eq!(two.unlock(&want(name)), Stat::Granted);
        assert_eq!(two.test(&want(name)), Stat::Denied, "it could not unlock the other's");
    }
}

#[test]
fn only_the_client_itself_can_say_that_it_rebooted() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let (mut a, mut b) = (Client::v4(&daemon, "127.0.0.2", "alpha"), Client::v4(&daemon, "127.0.0.3", "beta"));
    assert_eq!(a.lock(&want("file")), Stat::Granted);
    let notify = |from: &str, name: &str, state| {
        let mut wire = Wire::udp(from, (Ipv4Addr::LOCALHOST, daemon.nsm_udp).into());
        let args = encode(&nsm::NotifyArgs { mon_name: CallerName::new(name).unwrap(), state: NsmState(state) });
        wire.call(nsm::PROGRAM, nsm::VERSION, nsm::Procedure::Notify as u32, &args)
    };
    assert_eq!(notify("127.0.0.3", "alpha", 5), Ok(Vec::new()), "the answer is void whatever it did");
    assert_eq!(notify("127.0.0.2", "other", 5), Ok(Vec::new()));
    assert_eq!(b.test(&want("file")), Stat::Denied);
    assert_eq!(notify("127.0.0.2", "alpha", 5), Ok(Vec::new()));
    assert_eq!(b.test(&want("file")), Stat::Granted);
}

#[test]
fn the_status_monitor_tells_its_state_and_knows_its_procedures() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let state = nsm_state(&daemon);
    assert!(state.is_up());
    let mut wire = Wire::tcp("127.0.0.1", (Ipv4Addr::LOCALHOST, daemon.nsm_tcp).into());
    assert_eq!(wire.call(nsm::PROGRAM, 1, 7, &[]), Err(RpcError::ProcUnavail));
    assert_eq!(wire.call(nsm::PROGRAM, 2, 0, &[]), Err(RpcError::ProgMismatch { low: 1, high: 1 }));
    for procedure in [1, 2, 3, 4, 6] {
        assert_eq!(wire.call(nsm::PROGRAM, 1, procedure, &[1]), Err(RpcError::GarbageArgs), "{procedure}");
    }
    assert_eq!(nsm_state(&daemon), state, "it did not crash");
}

#[test]
fn hostile_bytes_do_not_bring_it_down() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    let client = Client::v4(&daemon, "127.0.0.2", "alpha");
    let args = client.args(Procedure::Lock, &want("file"));
    let call = nlmctl::wire::rpc::call(1, nlm::PROGRAM, 4, 2, &nlmctl::wire::rpc::Credential::None, &args);
    // A linear congruential generator: the same bytes in every run.
    let mut seed = 0x5eed_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed >> 8
    };
    let Wire::Udp { socket, to } = &client.wire else { panic!() };
    for port in [daemon.nlm_udp, daemon.nsm_udp] {
        let to = SocketAddr::new(to.ip(), port);
        for _ in 0..500 {
            let mut bytes = call.clone();
            for _ in 0..=next() % 8 {
                let place = next() as usize % bytes.len();
                bytes[place] = next().to_be_bytes()[3];
            }
            bytes.truncate(1 + next() as usize % bytes.len());
            socket.send_to(&bytes, to).unwrap();
        }
    }
    for port in [daemon.nlm_tcp, daemon.nsm_tcp] {
        for bytes in [&[0xff; 64][..], &[0x80, 0, 0, 0], &[0; 64], &[0x7f, 0xff, 0xff, 0xff, 1]] {
            let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            std::io::Write::write_all(&mut stream, bytes).unwrap();
        }
    }
    for byte in [0xff, 0x80, 0x00] {
        let mut stream = std::os::unix::net::UnixStream::connect(&daemon.control).unwrap();
        std::io::Write::write_all(&mut stream, &[byte; 64]).unwrap();
    }
    let mut after = Client::v4(&daemon, "127.0.0.9", "after");
    assert_eq!(after.lock(&want("another file")), Stat::Granted);
    assert!(!daemon.log().contains("panicked"));
}

#[test]
fn callers_outside_the_allowed_networks_get_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &["--allow", "127.0.0.2"]);
    let null = nlmctl::wire::rpc::call(9, nlm::PROGRAM, 4, 0, &nlmctl::wire::rpc::Credential::None, &[]);
    // RPC version 3, which no program answers, but RPC itself.
    let mut mismatch = null.clone();
    mismatch[11] = 3;
    for call in [&null, &mismatch] {
        for port in [daemon.nlm_udp, daemon.nsm_udp] {
            let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
            assert!(Wire::udp("127.0.0.3", to).exchange(call, Duration::from_millis(200)).is_none());
            assert!(Wire::udp("127.0.0.2", to).exchange(call, LIMIT).is_some());
        }
    }
    // This host's other addresses are outside too: the end comes at once, not when the connection is idle.
    let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, daemon.nlm_tcp)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap(), 0);
}
