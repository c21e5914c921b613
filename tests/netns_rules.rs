//! The packet rules of the interposer, on the kernel that runs this, in network namespaces.
#![cfg(test)]

mod netns;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use netns::{Netns, until};
use nix::libc;
use nlmctl::internals::host::Netfilter;
use nlmctl::internals::host::{exchange, list, open};
use nlmctl::internals::interposer::{Port, Ports, Refreshed, Rules};
use nlmctl::internals::netlink::{Attribute, MessageError, message, step};
use nlmctl::internals::nftables::{self, TABLE};
use nlmctl::wire::types::Transport;

const PORT: u16 = 4045;
const QUEUE: u16 = 11;
/// No test comes near it.
const LONG: Duration = Duration::from_mins(5);
/// How long a packet that goes through may take.
const SOON: Duration = Duration::from_millis(300);
/// Says that this process is a keeper, for the test that kills it.
const KEEPER: &str = "NLMCTL_TEST_KEEPER";

fn ports() -> Ports {
    let all = [(false, Transport::Udp), (false, Transport::Tcp), (true, Transport::Udp), (true, Transport::Tcp)];
    all.map(|(ipv6, transport)| Port { ipv6, transport, number: PORT }).into()
}

fn install(lapse: Duration) -> Rules {
    Rules::install(&ports(), QUEUE, lapse).unwrap()
}

/// The names of all tables here, with the flags of each.
fn tables() -> Vec<(String, u32)> {
    let told = list(&open(libc::NETLINK_NETFILTER).unwrap(), nftables::list_tables).unwrap();
    let value = |table: &[Attribute], kind| Attribute::find(table, kind).unwrap().clone();
    told.iter()
        .map(|table| {
            let name = value(table, nftables::table::NAME).as_text().unwrap().to_owned();
            (name, value(table, nftables::table::FLAGS).as_network().unwrap())
        })
        .collect()
}

/// A table without an owner, like those of a firewall.
fn make_table(sequence: u32, name: &str) -> Result<Vec<u8>, MessageError> {
    batch(sequence, 0, nlmctl::internals::netlink::CREATE, 1, &[Attribute::text(1, name)])
}

/// What `nft flush ruleset` sends: all tables of all families go.
fn flush_ruleset(sequence: u32) -> Result<Vec<u8>, MessageError> {
    batch(sequence, 2, 0, 0, &[])
}

fn batch(sequence: u32, kind: u16, flags: u16, family: u8, of: &[Attribute]) -> Result<Vec<u8>, MessageError> {
    let steps = [
        step(0x10, 0, sequence, &[0, 0, 0, 10], &[])?,
        message(10 << 8 | kind, flags, sequence, &[family, 0, 0, 0], of)?,
        step(0x11, 0, sequence, &[0, 0, 0, 10], &[])?,
    ];
    Ok(steps.concat())
}

/// Whether a datagram gets from one socket of this host to a port of it, and back from there.
fn passes(address: &str, port: u16) -> bool {
    let (server, client) = (UdpSocket::bind((address, port)).unwrap(), UdpSocket::bind((address, 0)).unwrap());
    client.set_read_timeout(Some(SOON)).unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 16];
    match client.send_to(b"call", (address, port)) {
        Ok(_) => {}
        // What the output hook drops, its sender is told of.
        Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
    }
    let Ok((_, from)) = server.recv_from(&mut buffer) else { return false };
    if let Err(error) = server.send_to(b"reply", from) {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
    client.recv(&mut buffer).is_ok()
}

#[test]
#[ignore = "needs root: .ci/run runs it"]
fn what_goes_to_and_from_the_ports_waits_and_all_else_passes() {
    let host = Netns::new("server.test");
    host.inside(|| {
        for address in ["127.0.0.1", "::1"] {
            assert!(passes(address, PORT));
        }
        let rules = install(LONG);
        assert!(rules.are_there().unwrap());
        for address in ["127.0.0.1", "::1"] {
            assert!(!passes(address, PORT), "{address}");
            assert!(passes(address, PORT + 1), "{address}");
        }
        // Connections of IPv4 and IPv6 are not even made.
        for address in ["127.0.0.1:4045", "[::1]:4045"] {
            let address: SocketAddr = address.parse().unwrap();
            let _listener = TcpListener::bind(address).unwrap();
            let error = TcpStream::connect_timeout(&address, SOON).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");
        }
        assert_eq!(tables(), [(TABLE.to_owned(), nftables::OWNER)]);
        drop(rules);
        assert_eq!(tables(), []);
        assert!(passes("127.0.0.1", PORT) && passes("::1", PORT));
    });
}

#[test]
#[ignore = "needs root: .ci/run runs it"]
fn what_leaves_from_the_ports_waits_too() {
    let host = Netns::new("server.test");
    host.inside(|| {
        let listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        let rules = install(LONG);
        server.write_all(b"reply").unwrap();
        let mut buffer = [0; 5];
        assert!(client.read_exact(&mut buffer).is_err());
        drop(rules);
        // TCP sends it again.
        client.set_read_timeout(Some(netns::LIMIT)).unwrap();
        client.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"reply");
    });
}

#[test]
#[ignore = "needs root: .ci/run runs it"]
fn the_ports_lapse_unless_they_are_refreshed_and_are_put_back_by_the_next_refresh_which_says_so() {
    let host = Netns::new("server.test");
    host.inside(|| {
        let lapse = Duration::from_secs(2);
        let rules = install(lapse);
        let since = Instant::now();
        while since.elapsed() < lapse * 2 {
            assert_eq!(rules.refresh().unwrap(), Refreshed::InTime);
            assert!(rules.are_there().unwrap());
            std::thread::sleep(lapse / 20);
        }
        assert!(!passes("127.0.0.1", PORT));
        let since = Instant::now();
        until("the ports lapse", || !rules.are_there().unwrap());
        assert!(since.elapsed() + SOON < lapse * 2, "{:?}", since.elapsed());
        assert!(passes("127.0.0.1", PORT) && passes("::1", PORT));
        assert_eq!(tables().len(), 1, "the table itself stays");
        assert_eq!(rules.refresh().unwrap(), Refreshed::Lapsed);
        assert!(rules.are_there().unwrap() && !passes("127.0.0.1", PORT));
        assert_eq!(rules.refresh().unwrap(), Refreshed::InTime);
    });
}

#[test]
#[ignore = "needs root: .ci/run runs it"]
fn no_packet_gets_by_while_the_ports_are_refreshed_as_fast_as_can_be() {
    let host = Netns::new("server.test");
    host.inside(|| {
        let rules = install(LONG);
        let server = UdpSocket::bind(("127.0.0.1", PORT)).unwrap();
        server.set_nonblocking(true).unwrap();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
                let until = Instant::now() + Duration::from_secs(2);
                let mut sent = 0_u32;
                while Instant::now() < until {
                    client.send_to(b"call", ("127.0.0.1", PORT)).unwrap();
                    sent += 1;
                }
                sent
            });
            let mut refreshed = 0;
            while !sender.is_finished() {
                assert_eq!(rules.refresh().unwrap(), Refreshed::InTime);
                refreshed += 1;
            }
            let sent = sender.join().unwrap();
            assert!(sent > 1000 && refreshed > 100, "{sent} sent, {refreshed} refreshed");
            assert_eq!(server.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        });
    });
}

#[test]
#[ignore = "needs root: .ci/run runs it"]
fn a_firewall_that_is_loaded_anew_leaves_the_rules_and_no_other_socket_can_change_them() {
    let host = Netns::new("server.test");
    host.inside(|| {
        let firewall = open(libc::NETLINK_NETFILTER).unwrap();
        exchange(&firewall, |sequence| make_table(sequence, "firewall")).unwrap();
        let rules = install(LONG);
        assert_eq!(tables().len(), 2);
        exchange(&firewall, flush_ruleset).unwrap();
        assert_eq!(tables(), [(TABLE.to_owned(), nftables::OWNER)], "the flush works, and not on ours");
        let error = exchange(&firewall, nftables::remove).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(rules.are_there().unwrap() && !passes("127.0.0.1", PORT));
    });
}

#[test]
#[ignore = "needs root: .ci/run runs it"]
fn the_rules_of_this_kernel_are_read_as_what_they_do_and_tables_of_others_are_named() {
    let host = Netns::new("server.test");
    host.inside(|| {
        let kernel = open(libc::NETLINK_NETFILTER).unwrap();
        exchange(&kernel, |sequence| make_table(sequence, "firewall")).unwrap();
        let _rules = install(LONG);
        let rules = list(&kernel, nftables::list_rules).unwrap();
        let verdicts: Vec<_> = rules.iter().map(|rule| nftables::verdict(rule)).collect();
        assert_eq!(verdicts, [Some(nftables::Verdict::Queue); 4]);
        let ports: Vec<Port> = ports().into_iter().collect();
        let wanted = Netfilter { tables: ["firewall".to_owned()].into(), ..Netfilter::default() };
        assert_eq!(Netfilter::look(&ports).unwrap(), wanted);
    });
}

#[test]
#[ignore = "needs root: .ci/run runs it"]
fn a_second_keeper_is_refused_and_neither_it_nor_a_clean_up_takes_the_rules_of_one_that_is_at_work() {
    let host = Netns::new("server.test");
    host.inside(|| {
        assert!(!Rules::remove_left().unwrap());
        let rules = install(LONG);
        for error in [Rules::install(&ports(), QUEUE + 1, LONG).unwrap_err(), Rules::remove_left().unwrap_err()] {
            assert!(error.to_string().contains("another nlmctl are at work (table inet nlmctl; it belongs"), "{error}");
        }
        assert!(rules.are_there().unwrap() && !passes("127.0.0.1", PORT));
        drop(rules);
        install(LONG);
    });
}

#[test]
#[ignore = "needs root: .ci/run runs it"]
fn a_table_of_the_name_without_an_owner_is_in_the_way_until_it_is_removed() {
    let host = Netns::new("server.test");
    host.inside(|| {
        exchange(&open(libc::NETLINK_NETFILTER).unwrap(), |sequence| make_table(sequence, TABLE)).unwrap();
        assert!(Rules::install(&ports(), QUEUE, LONG).is_err());
        assert!(Rules::remove_left().unwrap() && !Rules::remove_left().unwrap());
        assert!(install(LONG).are_there().unwrap());
    });
}

#[test]
#[ignore = "needs root: .ci/run runs it"]
fn the_rules_go_with_the_process_that_installed_them_also_when_it_is_killed() {
    let host = Netns::new("server.test");
    let mut keeper = Command::new(std::env::current_exe().unwrap());
    keeper.args(["--ignored", "--exact", "a_keeper_that_another_test_kills"]).env(KEEPER, "1");
    let keeper = host.start(keeper);
    host.inside(|| {
        until("the keeper has installed its rules", || tables().len() == 1);
        assert!(!passes("127.0.0.1", PORT));
    });
    drop(keeper);
    host.inside(|| {
        until("the rules are gone", || tables().is_empty());
        assert!(passes("127.0.0.1", PORT));
    });
}

#[test]
#[ignore = "is a process of another test: does nothing by itself"]
fn a_keeper_that_another_test_kills() {
    if std::env::var_os(KEEPER).is_some() {
        let _rules = install(LONG);
        loop {
            std::thread::park();
        }
    }
}
