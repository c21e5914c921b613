//! nlmd with the real rpc.statd and sm-notify: on its clients' hosts, and as its own status monitor.
#![cfg(test)]

mod netns;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use netns::client::{Client, Want, Wire, next_xid, want};
use netns::{Netns, Nlmd, Process, add_address, link, nlmctl, until};
use nlmctl::wire::nlm::{self, Message, Procedure, SmNotifyArgs, Stat, Version};
use nlmctl::wire::nsm;
use nlmctl::wire::rpc::RpcError;
use nlmctl::wire::types::{CallerName, NsmState};
use nlmctl::wire::xdr::{decode, encode};

const SERVER: &str = "10.9.0.1";
const CLIENT: &str = "10.9.0.2";
/// Another host on the client's wire: an address of its own there.
const STRANGER: &str = "10.9.0.3";
/// Below 1024, and below what bindresvport(3) takes.
const PORT: u16 = 400;

/// A server and a client with a cable between them, each with an rpcbind; each knows the other.
struct World {
    server: Netns,
    client: Netns,
    _rpcbinds: (Process, Process),
}

impl World {
    fn new() -> Self {
        let (server, client) = (Netns::new("server.test"), Netns::new("client.test"));
        link(&server, &format!("{SERVER}/24"), &client, &format!("{CLIENT}/24"));
        let cable = client.run("ip", &["-o", "-4", "address", "show", "to", CLIENT]);
        add_address(&client, cable.split_whitespace().nth(1).unwrap(), &format!("{STRANGER}/24"));
        server.knows(&[(CLIENT, "client.test client"), (STRANGER, "stranger.test")]);
        client.knows(&[(SERVER, "server.test server")]);
        let rpcbinds = (server.rpcbind(&[]), client.rpcbind(&[]));
        Self { server, client, _rpcbinds: rpcbinds }
    }

    fn nlmd(&self, flags: &[&str]) -> Nlmd {
        Nlmd::start(&self.server, &[&["--name", "server.test", "--grace", "300ms"], flags].concat())
    }

    /// A record by which the client's sm-notify tells the server.
    fn client_monitors_the_server(&self) {
        let record = format!("0100007f 000186b5 00000003 00000010 {} server.test client.test\n", "0".repeat(32));
        std::fs::write(self.client.var_lib_nfs().join("sm/server.test"), record).unwrap();
    }

    /// What a boot does on the client: sm-notify takes a new state number and tells.
    fn client_reboots(&self) {
        self.client_monitors_the_server();
        let before = number_of(&self.client);
        let mut sm_notify = self.client.sm_notify(&["-f"]);
        assert!(sm_notify.wait().success(), "{}", sm_notify.log());
        assert_ne!(number_of(&self.client), before);
    }

    fn server_file(&self, path: &str) -> String {
        std::fs::read_to_string(self.server.var_lib_nfs().join(path)).unwrap_or_default()
    }
}

fn number_of(host: &Netns) -> i32 {
    std::fs::read(host.var_lib_nfs().join("state")).map_or(0, |bytes| i32::from_ne_bytes(bytes.try_into().unwrap()))
}

fn name(text: &str) -> CallerName {
    CallerName::new(text).unwrap()
}

/// A socket there. The host's statd takes reserved ports of its own choice: one that is taken is passed over.
fn bound(host: &Netns, (address, port): (&str, u16)) -> UdpSocket {
    let mut ports = port..=port.saturating_add(if port == 0 { 0 } else { 50 });
    let bind = |port| UdpSocket::bind((address, port)).ok();
    host.inside(|| ports.find_map(bind)).expect("a free port")
}

/// One call over UDP.
fn call(
    host: &Netns,
    from: (&str, u16),
    (server, port): (&str, u16),
    (program, version, procedure): (u32, u32, u32),
    args: &[u8],
) -> Result<Vec<u8>, RpcError> {
    let to = SocketAddr::new(server.parse().unwrap(), port);
    Wire::Udp { socket: bound(host, from), to }.call(program, version, procedure, args)
}

/// A LOCK of a file by a client of this name, in the state that the client's host was in once.
fn lock(
    world: &World,
    nlmd: &Nlmd,
    (address, client): (&str, &'static str),
    file: &'static str,
    reclaim: bool,
) -> Stat {
    let to = SocketAddr::new(SERVER.parse().unwrap(), nlmd.nlm_udp);
    let wire = Wire::Udp { socket: bound(&world.client, (address, PORT)), to };
    Client::new(wire, Version::V4, client).lock(&Want { reclaim, state: 1, ..want(file) })
}

fn is_held(world: &World, nlmd: &Nlmd, file: &'static str) -> bool {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, nlmd.nlm_udp));
    let wire = Wire::Udp { socket: bound(&world.server, ("127.0.0.1", 0)), to };
    Client::new(wire, Version::V4, "other").test(&want(file)) == Stat::Denied
}

const ALPHA: (&str, &str) = (CLIENT, "client.test");

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_client_host_that_boots_loses_its_locks_by_its_own_sm_notify() {
    let world = World::new();
    // sm-notify has a port below 1024 of its own, as Linux clients have for their locks.
    let nlmd = world.nlmd(&["--privileged-ports"]);
    let statd = world.client.statd(&[]);
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", false), Stat::Granted);
    assert_eq!(lock(&world, &nlmd, (STRANGER, "stranger.test"), "another", false), Stat::Granted);
    // statd was killed with the host; the next one starts after sm-notify.
    drop(statd);
    world.client_reboots();
    let _statd = world.client.statd(&[]);
    until("the client's locks go", || !is_held(&world, &nlmd, "file"));
    assert!(is_held(&world, &nlmd, "another"), "nobody else's do");
    assert!(nlmd.log().contains("has rebooted"), "{}", nlmd.log());
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_statd_that_starts_with_its_own_notices_tells_of_the_boot_too() {
    let world = World::new();
    let nlmd = world.nlmd(&[]);
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", false), Stat::Granted);
    world.client_monitors_the_server();
    // Without --no-notify it runs sm-notify itself, once a boot.
    let mut command = std::process::Command::new("/usr/sbin/rpc.statd");
    command.args(["-F", "-d"]);
    let _statd = world.client.start(command);
    until("the client's locks go", || !is_held(&world, &nlmd, "file"));
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_client_hosts_statd_hears_of_a_restart_of_nlmd() {
    let world = World::new();
    let _client = world.client.statd(&[]);
    let nlmd = world.nlmd(&[]);
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", false), Stat::Granted);
    nlmd.kill_9();
    let nlmd = world.nlmd(&["--grace", "2s"]);
    let state = nsm_state(&world, "127.0.0.1", nlmd.nsm_udp);
    until("the client's statd acks", || nlmd.log().contains("notices of this restart are done"));
    assert!(state.is_up());
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", true), Stat::Granted);
}

fn nsm_state(world: &World, address: &str, port: u16) -> NsmState {
    let args = encode(&nsm::SmName { mon_name: name("client.test") });
    let what = (nsm::PROGRAM, nsm::VERSION, nsm::Procedure::Stat as u32);
    decode::<nsm::StatRes>(&call(&world.server, ("127.0.0.1", 0), (address, port), what, &args).unwrap()).unwrap().state
}

/// The cookie in statd's record of the client.
fn cookie_in(record: &str) -> [u8; 16] {
    let word = record.split_whitespace().nth(4).unwrap();
    hex::decode(word).unwrap().try_into().unwrap()
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn with_nsm_statd_the_hosts_statd_watches_the_client_and_its_reboot_frees_its_locks() {
    let world = World::new();
    let statd = world.server.statd(&[]);
    let nlmd = world.nlmd(&["--nsm", "statd"]);
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", false), Stat::Granted);
    let record = world.server_file("sm/client.test");
    let fields: Vec<_> = record.split_whitespace().collect();
    assert_eq!(fields[1..4], ["000186b5", "00000004", "00000010"], "{record}");
    assert_eq!(fields[5..], [CLIENT, "server.test"], "{record}");
    let cookie = cookie_in(&record);
    assert_ne!(cookie, [0; 16]);
    assert_eq!(lock(&world, &nlmd, (STRANGER, "stranger.test"), "another", false), Stat::Granted);

    world.client_reboots();
    until("statd calls nlmd, and the locks go", || !is_held(&world, &nlmd, "file"));
    assert!(is_held(&world, &nlmd, "another"), "nobody else's do; statd: {}", statd.log());
    assert!(nlmd.log().contains("has rebooted"), "{}", nlmd.log());
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn with_nsm_statd_nothing_is_freed_by_strangers_wrong_cookies_and_other_hosts() {
    let world = World::new();
    let statd = world.server.statd(&[]);
    let nlmd = world.nlmd(&["--nsm", "statd", "--privileged-ports"]);
    let privileged = |procedure: Procedure, args: &[u8]| {
        call(&world.client, (CLIENT, 400), (SERVER, nlmd.nlm_udp), (nlm::PROGRAM, 4, procedure.number()), args)
    };
    let to = SocketAddr::new(SERVER.parse().unwrap(), nlmd.nlm_udp);
    let mut from_any_port = Client::new(world.client.inside(|| Wire::udp(CLIENT, to)), Version::V4, "client.test");
    assert_eq!(from_any_port.raw(next_xid(), Procedure::Lock, &want("file")), Err(RpcError::Auth(5)));
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", false), Stat::Granted);

    let cookie = cookie_in(&world.server_file("sm/client.test"));
    let callback = |private| SmNotifyArgs { name: name(CLIENT), state: NsmState(99), private };
    let right = callback(cookie).encode(Version::V4).unwrap();
    assert_eq!(privileged(Procedure::SmNotify, &right), Err(RpcError::ProcUnavail), "another host, with our cookie");
    let what = (nlm::PROGRAM, 4, 16);
    let local = |port, args: &[u8]| call(&world.server, ("127.0.0.1", port), ("127.0.0.1", nlmd.nlm_udp), what, args);
    assert_eq!(local(0, &right), Err(RpcError::Auth(5)), "not from a port below 1024");
    let wrong = callback([7; 16]).encode(Version::V4).unwrap();
    assert_eq!(local(401, &wrong), Ok(Vec::new()));
    until("the wrong cookie is in the log", || nlmd.log().contains("a cookie that it was not given"));
    // A notice of a host that is not monitored.
    let port: u16 = world
        .server
        .run("rpcinfo", &["-p", "127.0.0.1"])
        .lines()
        .find(|line| line.contains("100024") && line.contains("udp"))
        .and_then(|line| line.split_whitespace().nth(3)?.parse().ok())
        .expect("statd's port");
    let notice = encode(&nsm::NotifyArgs { mon_name: name("stranger.test"), state: NsmState(99) });
    let what = (nsm::PROGRAM, nsm::VERSION, nsm::Procedure::Notify as u32);
    assert_eq!(call(&world.client, (STRANGER, 0), (SERVER, port), what, &notice), Ok(Vec::new()));
    until("statd has heard it", || statd.log().contains("stranger.test"));
    assert!(is_held(&world, &nlmd, "file"));
    assert_eq!(local(402, &right), Ok(Vec::new()));
    assert!(!is_held(&world, &nlmd, "file"), "with the cookie, from here, it works");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn with_nsm_statd_a_restart_and_a_resync_take_their_numbers_in_statds_file() {
    let world = World::new();
    let client = world.client.statd(&[]);
    let _statd = world.server.statd(&[]);
    let first = number_of(&world.server);
    let nlmd = world.nlmd(&["--nsm", "statd"]);
    assert_eq!(number_of(&world.server), first, "nobody has to be told");
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", false), Stat::Granted);
    let cookie = cookie_in(&world.server_file("sm/client.test"));
    nlmd.kill_9();

    let nlmd = world.nlmd(&["--nsm", "statd", "--grace", "1s"]);
    let second = number_of(&world.server);
    assert!(second != first && second % 2 != 0);
    until("the client's statd hears it from nlmd", || client.log().contains(&format!("state: {second}")));
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", true), Stat::Granted);
    assert_eq!(cookie_in(&world.server_file("sm/client.test")), cookie, "statd knows it still");
    until("grace is over", || lock(&world, &nlmd, ALPHA, "new", false) == Stat::Granted);

    let ran = nlmctl(&world.server, &["resync", "--yes", "--grace", "2s", "--grace-max", "2s", "--silent", "keep"]);
    let third = number_of(&world.server);
    assert!(third != second && third % 2 != 0, "{ran:?}");
    let run = ran.json();
    assert_eq!(run["state"]["new"], third, "{ran:?}");
    assert_eq!(run["clients"][0]["fate"], "silent", "nobody reclaims here: {ran:?}");
    until("the client's statd hears it", || client.log().contains(&format!("state: {third}")));
    assert!(is_held(&world, &nlmd, "file"));
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn after_a_boot_of_the_server_sm_notifys_number_is_nlmds_and_statd_watches_again() {
    let world = World::new();
    let client = world.client.statd(&[]);
    let statd = world.server.statd(&[]);
    let nlmd = world.nlmd(&["--nsm", "statd"]);
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", false), Stat::Granted);
    nlmd.kill_9();
    drop(statd);
    // A boot: sm-notify, statd and nlmd, in this order.
    let mut sm_notify = world.server.sm_notify(&["-f"]);
    assert!(sm_notify.wait().success(), "{}", sm_notify.log());
    let number = number_of(&world.server);
    assert_eq!(world.server_file("sm/client.test"), "", "statd's records are moved away");
    until("the client hears it from sm-notify", || client.log().contains(&format!("state: {number}")));
    let _statd = world.server.statd(&[]);
    yesterday(&world);
    let nlmd = world.nlmd(&["--nsm", "statd", "--grace", "2s"]);
    assert_eq!(number_of(&world.server), number, "the same number, not one more");
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", true), Stat::Granted);
    until("it is watched again", || !world.server_file("sm/client.test").is_empty());
    world.client_reboots();
    until("statd calls nlmd, and the locks go", || !is_held(&world, &nlmd, "file"));
}

/// Makes nlmd's last life one of another boot of the machine.
fn yesterday(world: &World) {
    let database = rusqlite::Connection::open(world.server.folder().join("state/nlmd.sqlite")).unwrap();
    assert_eq!(database.execute("UPDATE server SET boot = 'yesterday'", []).unwrap(), 1);
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn a_crash_that_root_simulates_tells_the_hosts_that_programs_monitor_and_touches_no_lock() {
    let world = World::new();
    let client = world.client.statd(&[]);
    let nlmd = world.nlmd(&[]);
    assert_eq!(lock(&world, &nlmd, ALPHA, "file", false), Stat::Granted);
    let to_nsm = |port, procedure: nsm::Procedure, args: &[u8]| {
        let what = (nsm::PROGRAM, nsm::VERSION, procedure as u32);
        call(&world.server, ("127.0.0.1", port), ("127.0.0.1", nlmd.nsm_udp), what, args)
    };
    let my_id = nsm::MyId { my_name: name("server"), my_prog: 0x2000_4e4d, my_vers: 1, my_proc: 7 };
    let mon_id = nsm::MonId { mon_name: name("client.test"), my_id };
    let mon = encode(&nsm::MonArgs { mon_id, private: [1; 16] });
    let monitored: nsm::StatRes = decode(&to_nsm(0, nsm::Procedure::Mon, &mon).unwrap()).unwrap();
    assert_eq!(monitored.res_stat, nsm::ResStat::Success);
    let what = (nsm::PROGRAM, nsm::VERSION, nsm::Procedure::Mon as u32);
    let by_another = call(&world.client, (CLIENT, 400), (SERVER, nlmd.nsm_udp), what, &mon);
    assert_eq!(by_another, Err(RpcError::ProcUnavail));

    assert_eq!(to_nsm(0, nsm::Procedure::SimuCrash, &[]), Err(RpcError::Auth(5)));
    assert_eq!(to_nsm(400, nsm::Procedure::SimuCrash, &[]), Ok(Vec::new()));
    let raised = nsm_state(&world, "127.0.0.1", nlmd.nsm_udp);
    assert!(raised.is_up() && raised != monitored.state);
    until("the monitored host is told", || client.log().contains(&format!("state: {raised}")));
    assert!(is_held(&world, &nlmd, "file"));
    assert_eq!(lock(&world, &nlmd, ALPHA, "new", false), Stat::Granted, "no grace");
}

#[test]
#[ignore = "needs root, rpcbind and nfs-common: .ci/run runs it"]
fn hosts_that_programs_monitor_are_told_of_a_boot_and_not_of_a_restart_of_nlmd() {
    let world = World::new();
    let client = world.client.statd(&[]);
    let nlmd = world.nlmd(&[]);
    let my_id = nsm::MyId { my_name: name("server"), my_prog: 0x2000_4e4d, my_vers: 1, my_proc: 7 };
    let mon_id = nsm::MonId { mon_name: name("client.test"), my_id };
    let mon = encode(&nsm::MonArgs { mon_id, private: [1; 16] });
    let what = (nsm::PROGRAM, nsm::VERSION, nsm::Procedure::Mon as u32);
    call(&world.server, ("127.0.0.1", 0), ("127.0.0.1", nlmd.nsm_udp), what, &mon).unwrap();
    nlmd.kill_9();
    let nlmd = world.nlmd(&[]);
    let told = |nlmd: &Nlmd| nlmd.log().contains("notifying hosts that programs here monitored");
    assert!(!told(&nlmd), "{}", nlmd.log());
    nlmd.kill_9();
    yesterday(&world);
    let nlmd = world.nlmd(&[]);
    let state = nsm_state(&world, "127.0.0.1", nlmd.nsm_udp);
    until("the host is told", || client.log().contains(&format!("state: {state}")));
    assert!(told(&nlmd));
    assert!(nlmd.stop().success());
    let database = rusqlite::Connection::open(world.server.folder().join("state/nlmd.sqlite")).unwrap();
    let left = |table| database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, u32>(0));
    assert_eq!((left("to_tell"), left("local_monitor")), (Ok(0), Ok(0)), "told, and off the lists");
}
