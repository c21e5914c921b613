//! Clients that know the server by two addresses, or are known by two, with the real rpc.statd and sm-notify.
#![cfg(test)]

mod netns;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use netns::client::{Client, Want, Wire, want};
use netns::{Netns, Nlmd, Process, Ran, add_address, cable, link, nlmctl, until};
use nlmctl::internals::rpc::LocalRpcbind;
use nlmctl::lockd::registry::Registration;
use nlmctl::wire::nlm::{self, Message, SmNotifyArgs, Stat, Version};
use nlmctl::wire::nsm;
use nlmctl::wire::rpc::{self, Answer};
use nlmctl::wire::rpcbind::PORT;
use nlmctl::wire::types::{CallerName, Transport};
use nlmctl::wire::xdr::{decode, encode};
use serde_json::{Value, json};

/// The server's addresses, and the client's.
const ONE: &str = "10.9.0.1";
const TWO: &str = "10.9.0.11";
const CLIENT: &str = "10.9.0.2";
const CLIENT_TOO: &str = "10.9.0.12";
/// Below 1024, and below what bindresvport(3) takes.
const PRIVILEGED: u16 = 400;

fn name(text: &str) -> CallerName {
    CallerName::new(text).unwrap()
}

/// A server with two addresses, and a client whose statd watches what its lockd asks it to.
struct World {
    server: Netns,
    client: Netns,
    nlmd: Nlmd,
    _rpcbinds: (Process, Process),
}

impl World {
    /// `hosts`: what the client's resolver says of the server.
    fn new(hosts: &[(&str, &str)], flags: &[&str]) -> Self {
        let (server, client) = (Netns::new("server.test"), Netns::new("client.test"));
        link(&server, &format!("{ONE}/24"), &client, &format!("{CLIENT}/24"));
        add_address(&server, &cable(&server), &format!("{TWO}/24"));
        add_address(&client, &cable(&client), &format!("{CLIENT_TOO}/24"));
        server.knows(&[(CLIENT, "client.test client"), (CLIENT_TOO, "client.test client")]);
        client.knows(hosts);
        let rpcbinds = (server.rpcbind(&[]), client.rpcbind(&[]));
        let nlmd = Nlmd::start(&server, &[&["--name", "server.test", "--grace", "300ms"], flags].concat());
        Self { server, client, nlmd, _rpcbinds: rpcbinds }
    }

    /// A LOCK of a file by the client, from one of its addresses to one of the server's.
    fn lock(&self, from: &str, to: &str, file: &'static str, reclaim: bool) -> Stat {
        let to = SocketAddr::new(to.parse().unwrap(), self.nlmd.nlm_udp);
        let wire = self.client.inside(|| Wire::udp(from, to));
        Client::new(wire, Version::V4, "client.test").lock(&Want { reclaim, state: 1, ..want(file) })
    }

    fn is_held(&self, file: &'static str) -> bool {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.nlmd.nlm_udp));
        let wire = self.server.inside(|| Wire::udp("127.0.0.1", to));
        Client::new(wire, Version::V4, "other").test(&want(file)) == Stat::Denied
    }

    /// The client's kernel asks its statd to watch a server by the address that was mounted. The cookie says
    /// which one that is.
    fn watch(&self, server: &str) {
        let ports = self.client.run("rpcinfo", &["-p", "127.0.0.1"]);
        let of_statd = |line: &&str| line.contains("100024") && line.contains("udp");
        let line = ports.lines().find(of_statd).expect("statd is registered");
        let port = line.split_whitespace().nth(3).unwrap().parse().unwrap();
        let my_id = nsm::MyId { my_name: name("client.test"), my_prog: nlm::PROGRAM, my_vers: 3, my_proc: 16 };
        let mon_id = nsm::MonId { mon_name: name(server), my_id };
        let mon = encode(&nsm::MonArgs { mon_id, private: cookie_of(server) });
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut wire = self.client.inside(|| Wire::udp_at(at(PRIVILEGED), at(port)));
        let results = wire.call(nsm::PROGRAM, nsm::VERSION, nsm::Procedure::Mon as u32, &mon).unwrap();
        assert_eq!(decode::<nsm::StatRes>(&results).unwrap().res_stat, nsm::ResStat::Success);
    }

    /// Runs nlmctl while the client's lockd reclaims, through the address of each callback of its statd, the
    /// file that was locked there. Gives the callbacks too, as server addresses.
    fn resync(&self, files: &[(&'static str, &str)], flags: &[&str]) -> (Ran, Value, Vec<String>) {
        let socket = self.client.inside(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address: SocketAddr = socket.local_addr().unwrap();
        let lockd = Registration { program: nlm::PROGRAM, version: 3, transport: Transport::Udp, address };
        assert!(self.client.block_on(async { LocalRpcbind::reach(PORT).await.unwrap().set(&lockd).await.unwrap() }));
        let over = AtomicBool::new(false);
        let (ran, called_back) = thread::scope(|scope| {
            let lockd = scope.spawn(|| {
                let mut called_back = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    called_back.extend(self.answer_statd(&socket, files));
                }
                called_back
            });
            let ran =
                nlmctl(&self.server, &[&["resync", "--yes", "--grace", "3s", "--grace-max", "3s"], flags].concat());
            over.store(true, Ordering::Relaxed);
            (ran, lockd.join().unwrap())
        });
        assert!(self.client.block_on(async { LocalRpcbind::reach(PORT).await.unwrap().unset(&lockd).await.unwrap() }));
        let report = ran.json();
        (ran, report, called_back)
    }

    fn answer_statd(&self, socket: &UdpSocket, files: &[(&'static str, &str)]) -> Option<String> {
        let mut message = [0; 4096];
        let (len, from) = socket.recv_from(&mut message).ok()?;
        let call = rpc::parse_call(&message[..len]).unwrap();
        socket.send_to(&rpc::reply(call.xid, &Answer::Success(Vec::new())), from).unwrap();
        let args = SmNotifyArgs::decode(Version::V3, call.args).unwrap();
        let (file, server) = files.iter().find(|(_, server)| cookie_of(server) == args.private)?;
        assert_eq!(self.lock(CLIENT, server, file, true), Stat::Granted, "{file} through {server}");
        Some((*server).to_owned())
    }
}

fn cookie_of(server: &str) -> [u8; 16] {
    let mut cookie = [0; 16];
    cookie[..server.len()].copy_from_slice(server.as_bytes());
    cookie
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn what_a_statd_does_not_pass_on_of_two_addresses_with_one_name_is_kept() {
    let world = World::new(&[(ONE, "server.test server"), (TWO, "server.test server")], &["--name", "server"]);
    let _statd = world.client.statd(&[]);
    let files = [("one", ONE), ("two", TWO)];
    for (file, server) in files {
        assert_eq!(world.lock(CLIENT, server, file, false), Stat::Granted);
        world.watch(server);
    }
    let planned = nlmctl(&world.server, &["resync", "--dry-run"]);
    let plan = planned.json();
    let note = plan["plan"]["clients"][0]["note"].as_str().unwrap_or_else(|| panic!("no note: {planned:?}"));
    assert!(note.contains(ONE) && note.contains(TWO) && note.contains("kept"), "{note}");

    let (ran, report, called_back) = world.resync(&files, &[]);
    assert_eq!(called_back.len(), 1, "rpc.statd calls back once for a name: {called_back:?}");
    let ignored = files.iter().find(|(_, server)| *server != called_back[0]).unwrap().1;
    assert_eq!(ran.code, 3, "{ran:?}");
    let client = &report["clients"][0];
    assert_eq!(
        (&client["fate"], &client["notices"], &client["acks"]),
        (&json!("acked"), &json!(4), &json!(4)),
        "{ran:?}"
    );
    assert!(client["attempts"].as_u64().unwrap() >= 4, "{ran:?}");
    assert_eq!((&report["locks"]["reclaimed"], &report["locks"]["kept"]), (&json!(1), &json!(1)), "{ran:?}");
    let kept = json!([{"server_address": ignored, "silent": true, "kept_because": "other-address"}]);
    assert_eq!(client["paths"], kept, "{ran:?}");
    assert!(world.is_held("one") && world.is_held("two"));

    let (ran, report, _) = world.resync(&files, &["--silent", "drop"]);
    assert_eq!(report["locks"]["dropped"], 1, "{ran:?}");
    assert_ne!(world.is_held("one"), world.is_held("two"));
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn two_addresses_with_two_names_are_both_called_back_for() {
    let world = World::new(&[(ONE, "server.test server"), (TWO, "other.test other")], &["--name", "other.test"]);
    let _statd = world.client.statd(&[]);
    let files = [("one", ONE), ("two", TWO)];
    for (file, server) in files {
        assert_eq!(world.lock(CLIENT, server, file, false), Stat::Granted);
        world.watch(server);
    }
    let (ran, report, mut called_back) = world.resync(&files, &[]);
    called_back.sort();
    called_back.dedup();
    assert_eq!(called_back, [ONE, TWO], "{ran:?}");
    assert_eq!((ran.code, &report["locks"]["reclaimed"]), (0, &json!(2)), "{ran:?}");
    let client = &report["clients"][0];
    assert_eq!(client["notices"], client["acks"], "{ran:?}");
    assert!(world.is_held("one") && world.is_held("two"));
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn sm_notify_from_a_clients_second_address_frees_what_was_locked_from_there_and_makes_the_first_a_suspect() {
    let world = World::new(&[(ONE, "server.test server"), (CLIENT_TOO, "client.test client")], &[]);
    assert_eq!(world.lock(CLIENT, ONE, "first", false), Stat::Granted);
    assert_eq!(world.lock(CLIENT_TOO, ONE, "second", false), Stat::Granted);
    // A boot of the client. What it tells leaves from the address to which its own name resolves there.
    let record = format!("0100007f 000186b5 00000003 00000010 {} server.test client.test\n", "0".repeat(32));
    std::fs::write(world.client.var_lib_nfs().join("sm/server.test"), record).unwrap();
    let mut sm_notify = world.client.sm_notify(&["-f", "-v", "client.test"]);
    assert!(sm_notify.wait().success(), "{}", sm_notify.log());
    until("the locks of the notice's address go", || !world.is_held("second"));
    assert!(world.is_held("first"), "another machine may have that name: {}", world.nlmd.log());
    let listed = nlmctl(&world.server, &["clients"]);
    let clients = listed.json();
    let of = |address: &str| clients["clients"].as_array().unwrap().iter().find(|c| c["addresses"][0] == address);
    let suspicions = of(CLIENT).unwrap_or_else(|| panic!("{listed:?}"))["suspicions"].to_string();
    assert!(suspicions.contains(CLIENT_TOO), "{listed:?}");
}
