//! nlmd with two clients that cannot be told apart but by their cables: one link-local address, one name, one owner.
#![cfg(test)]

mod netns;

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use netns::client::{Client, Want, Wire, want};
use netns::{LIMIT, Netns, Nlmd, Process, add_address, cable, link, nlmctl, until};
use nlmctl::internals::rpc::LocalRpcbind;
use nlmctl::lockd::registry::Registration;
use nlmctl::wire::nlm::{self, Message, Procedure, Res, Stat, Version};
use nlmctl::wire::nsm;
use nlmctl::wire::rpc::{self, Answer};
use nlmctl::wire::rpcbind::PORT;
use nlmctl::wire::types::{CallerName, Cookie, NsmState, Transport};
use nlmctl::wire::xdr::encode;
use serde_json::Value;

const SERVER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const NAME: &str = "twin.test";
/// One of the twins: its host, with the real rpcbind and rpc.statd, and a lockd that hears of grants.
struct Twin {
    host: Netns,
    /// Its end of the cable, and the server's.
    index: u32,
    server_cable: String,
    server_index: u32,
    lockd: UdpSocket,
    statd: Process,
    _rpcbind: Process,
}

fn index_of(host: &Netns, interface: &str) -> u32 {
    let line = host.run("ip", &["-o", "link", "show", interface]);
    line.split(':').next().unwrap().parse().unwrap()
}

impl Twin {
    fn new(server: &Netns, known: &mut Vec<String>) -> Self {
        let host = Netns::new(NAME);
        link(server, &format!("{SERVER}/64"), &host, &format!("{CLIENT}/64"));
        let name = cable(&host);
        known.push(name.clone());
        let (index, server_index) = (index_of(&host, &name), index_of(server, &name));
        host.knows(&[(&format!("{SERVER}%{name}"), "server.test")]);
        let rpcbind = host.rpcbind(&[]);
        let statd = host.statd(&[]);
        let lockd = host.inside(|| UdpSocket::bind("[::]:0").unwrap());
        let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), lockd.local_addr().unwrap().port());
        let entry = Registration { program: nlm::PROGRAM, version: 4, transport: Transport::Udp, address };
        host.block_on(async { assert!(LocalRpcbind::reach(PORT).await.unwrap().set(&entry).await.unwrap()) });
        Self { host, index, server_cable: name, server_index, lockd, statd, _rpcbind: rpcbind }
    }

    fn wire(&self, port: u16) -> Wire {
        let (here, there) =
            (SocketAddrV6::new(CLIENT, 0, 0, self.index), SocketAddrV6::new(SERVER, port, 0, self.index));
        self.host.inside(|| Wire::udp_at(here.into(), there.into()))
    }

    fn lock(&self, nlmd: &Nlmd, file: &'static str, block: bool, reclaim: bool) -> Stat {
        Client::new(self.wire(nlmd.nlm_udp), Version::V4, NAME).lock(&Want { block, reclaim, ..want(file) })
    }

    fn unlock(&self, nlmd: &Nlmd, file: &'static str) {
        Client::new(self.wire(nlmd.nlm_udp), Version::V4, NAME).unlock(&want(file));
    }

    /// What its own sm-notify would send after a boot.
    fn tells_of_its_reboot(&self, nlmd: &Nlmd) {
        let notice = encode(&nsm::NotifyArgs { mon_name: CallerName::new(NAME).unwrap(), state: NsmState(5) });
        let procedure = nsm::Procedure::Notify as u32;
        self.wire(nlmd.nsm_udp).call(nsm::PROGRAM, nsm::VERSION, procedure, &notice).unwrap();
    }

    /// Takes a GRANTED and answers it. None within the time: none came.
    fn granted(&self, within: Duration) -> Option<SocketAddr> {
        self.lockd.set_read_timeout(Some(within)).unwrap();
        let mut message = vec![0; 65_536];
        let (len, from) = self.lockd.recv_from(&mut message).ok()?;
        let call = rpc::parse_call(&message[..len]).unwrap();
        assert_eq!((call.program, call.procedure), (nlm::PROGRAM, Procedure::Granted.number()));
        let res = Res { cookie: Cookie::new(b"c").unwrap(), stat: Stat::Granted }.encode(Version::V4).unwrap();
        self.lockd.send_to(&rpc::reply(call.xid, &Answer::Success(res)), from).unwrap();
        Some(from)
    }
}

struct World {
    server: Netns,
    twins: [Twin; 2],
    _rpcbind: Process,
}

impl World {
    fn new() -> Self {
        let server = Netns::new("server.test");
        // Indexes that differ from those at the other ends.
        server.run("ip", &["link", "add", "spare", "type", "veth", "peer", "name", "spare2"]);
        let mut cables = Vec::new();
        let twins = [(); 2].map(|()| Twin::new(&server, &mut cables));
        let rpcbind = server.rpcbind(&[]);
        Self { server, twins, _rpcbind: rpcbind }
    }

    fn nlmd(&self, grace: &str) -> Nlmd {
        Nlmd::start(&self.server, &["--name", "server.test", "--grace", grace])
    }

    /// How many locks nlmctl lists with these arguments.
    fn locks(&self, arguments: &[&str]) -> usize {
        let ran = nlmctl(&self.server, &[&["locks"], arguments].concat());
        assert_eq!(ran.code, 0, "{ran:#?}");
        let listed = ran.json();
        listed["locks"].as_array().unwrap().len()
    }
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn twins_on_two_cables_are_two_clients_and_each_gets_its_own_grant() {
    let world = World::new();
    let [one, other] = &world.twins;
    let nlmd = world.nlmd("300ms");
    until("grace is over", || one.lock(&nlmd, "file", false, false) == Stat::Granted);
    assert_eq!(other.lock(&nlmd, "file", false, false), Stat::Denied, "the other's owner is not this one's");
    assert_eq!(other.lock(&nlmd, "others", false, false), Stat::Granted);
    assert_eq!(other.lock(&nlmd, "file", true, false), Stat::Blocked);

    // Freed by neither, nor by a copy of the message from the other cable.
    other.unlock(&nlmd, "file");
    assert_eq!(world.locks(&["--client", &format!("{CLIENT}%{}", one.server_cable)]), 1);
    assert_eq!(other.lock(&nlmd, "file", true, false), Stat::Blocked);
    one.unlock(&nlmd, "file");
    let from = other.granted(LIMIT).expect("a GRANTED over its own cable");
    assert_eq!(from.ip(), SERVER, "from the address that was called");
    assert!(one.granted(Duration::from_millis(1)).is_none(), "none over the other");
    until("the grant is taken", || world.locks(&["--client", &format!("{CLIENT}%{}", other.server_cable)]) == 2);
    assert_eq!(world.locks(&["--client", &format!("{CLIENT}%{}", one.server_cable)]), 0);
    assert_eq!(world.locks(&["--client", &format!("{CLIENT}%{}", other.server_index)]), 2);

    let listed = nlmctl(&world.server, &["clients"]).json();
    let of = |client: &Value| (client["addresses"][0].clone(), client["server_addresses"][0].clone());
    let seen: Vec<_> = listed["clients"].as_array().unwrap().iter().map(of).collect();
    for twin in &world.twins {
        let wanted = |ip| Value::from(format!("{ip}%{}", twin.server_index));
        assert!(seen.contains(&(wanted(CLIENT), wanted(SERVER))), "{listed:#}");
    }
    let ran = nlmctl(&world.server, &["locks", "--client", &format!("{CLIENT}%no-such0")]);
    assert!(ran.code == 2 && ran.stdout.contains("no such interface"), "{ran:#?}");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_twins_reboot_frees_its_own_locks_only() {
    let world = World::new();
    let [one, other] = &world.twins;
    let nlmd = world.nlmd("300ms");
    until("grace is over", || one.lock(&nlmd, "file", false, false) == Stat::Granted);
    assert_eq!(other.lock(&nlmd, "others", false, false), Stat::Granted);
    one.tells_of_its_reboot(&nlmd);
    until("its locks go", || world.locks(&[]) == 1);
    assert_eq!(one.lock(&nlmd, "others", false, false), Stat::Denied, "the other's stay");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn both_twins_hear_of_a_restart_and_of_a_run_over_their_own_cables() {
    let world = World::new();
    let nlmd = world.nlmd("300ms");
    for (twin, file) in world.twins.iter().zip(["a", "b"]) {
        until("grace is over", || twin.lock(&nlmd, file, false, false) == Stat::Granted);
    }
    nlmd.kill_9();
    let nlmd = world.nlmd("2s");
    until("both statds ack", || nlmd.log().contains("notices of this restart are done"));
    for (twin, file) in world.twins.iter().zip(["a", "b"]) {
        until("its statd has heard", || twin.statd.log().contains("SM_NOTIFY from server.test"));
        assert_eq!(twin.lock(&nlmd, file, false, true), Stat::Granted, "{}", nlmd.log());
    }
    until("grace is over", || world.twins[0].lock(&nlmd, "new", false, false) == Stat::Granted);

    let ran = nlmctl(&world.server, &["resync", "--yes", "--grace", "1s"]);
    let run = ran.json();
    let clients = run["clients"].as_array().unwrap();
    assert_eq!(clients.len(), 2, "{run:#}");
    for twin in &world.twins {
        let wanted = format!("{CLIENT}%{}", twin.server_index);
        let row = clients.iter().find(|client| client["address"] == wanted.as_str());
        let fate = row.unwrap_or_else(|| panic!("{wanted} is not told: {run:#}"))["fate"].as_str().unwrap();
        assert!(["acked", "silent"].contains(&fate), "{run:#}");
        let heard = || twin.statd.log().matches("SM_NOTIFY from server.test").count();
        until("its statd has heard of the run", || heard() >= 2);
    }
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_client_whose_cable_is_gone_is_kept_on_disk_by_its_interfaces_name_and_told_when_it_is_back() {
    let world = World::new();
    let [one, other] = &world.twins;
    let nlmd = world.nlmd("300ms");
    until("grace is over", || one.lock(&nlmd, "file", false, false) == Stat::Granted);
    assert_eq!(other.lock(&nlmd, "others", false, false), Stat::Granted);
    nlmd.kill_9();
    world.server.run("ip", &["link", "delete", &one.server_cable]);
    let nlmd = world.nlmd("300ms");
    assert!(nlmd.log().contains(&format!("no such interface: \"{}\"", one.server_cable)), "{}", nlmd.log());
    until("the other's statd hears", || other.statd.log().contains("SM_NOTIFY from server.test"));
    nlmd.kill_9();

    // Made again it has another index, and the record means it still.
    link(&world.server, &format!("{SERVER}/64"), &one.host, &format!("{CLIENT}/64"));
    let made = cable(&one.host);
    world.server.run("ip", &["link", "set", &made, "down"]);
    world.server.run("ip", &["link", "set", &made, "name", &one.server_cable]);
    world.server.run("ip", &["link", "set", &one.server_cable, "up"]);
    add_address(&world.server, &one.server_cable, &format!("{SERVER}/64"));
    let nlmd = world.nlmd("2s");
    until("its statd hears", || one.statd.log().contains("SM_NOTIFY from server.test"));
    assert!(!nlmd.log().contains("no such interface"), "{}", nlmd.log());
}
