//! What nlmd does for programs of its own host (SM_MON and the rest), and what rpc.statd does for nlmd.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nlmctl::wire::nlm::{self, Message, Procedure, SmNotifyArgs, Stat, Version};
use nlmctl::wire::nsm::{self, MonArgs, MonId, MyId, NotifyArgs, ResStat, StatRes};
use nlmctl::wire::rpc::{self, RpcError};
use nlmctl::wire::rpcbind::Mapping;
use nlmctl::wire::types::{CallerName, NsmState};
use nlmctl::wire::xdr::{decode, encode};

use super::harness::*;

/// A number for local use (RFC 5531 section 13).
const PROGRAM: u32 = 0x2000_4e4d;
/// Long enough for a call that is not made.
const A_MOMENT: Duration = Duration::from_millis(300);

fn name(text: &str) -> CallerName {
    CallerName::new(text).unwrap()
}

fn udp(program: u32, version: u32, socket: &UdpSocket) -> Mapping {
    Mapping { program, version, protocol: 17, port: socket.local_addr().unwrap().port().into() }
}

fn loopback() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    socket
}

/// A program of this host that answers each call with `answer`, and tells of it.
struct Program<T> {
    heard: Receiver<(SocketAddr, T)>,
    over: Arc<AtomicBool>,
}

impl<T> Drop for Program<T> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl<T: Send + 'static> Program<T> {
    fn start(
        socket: UdpSocket,
        mut answer: impl FnMut(&rpc::IncomingCall<'_>) -> Option<(T, Vec<u8>)> + Send + 'static,
    ) -> Self {
        let (tell, heard) = channel();
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !ended.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let call = rpc::parse_call(&buffer[..len]).unwrap();
                let Some((what, results)) = answer(&call) else { continue };
                let _ = tell.send((from, what));
                let _ = socket.send_to(&rpc::reply(call.xid, &rpc::Answer::Success(results)), from);
            }
        });
        Self { heard, over }
    }

    fn hear(&self) -> T {
        self.heard.recv_timeout(LIMIT).expect("a call").1
    }
    fn hears_nothing(&self) -> bool {
        self.heard.recv_timeout(A_MOMENT).is_err()
    }
}

/// A program that monitors hosts: what it is told.
fn monitor_program(socket: UdpSocket) -> Program<SmNotifyArgs> {
    Program::start(socket, |call| {
        assert_eq!((call.program, call.version, call.procedure), (PROGRAM, 1, 7));
        Some((decode(call.args).unwrap(), Vec::new()))
    })
}

fn me() -> MyId {
    MyId { my_name: name("server"), my_prog: PROGRAM, my_vers: 1, my_proc: 7 }
}

fn mon(daemon: &Nlmd, host: &str, cookie: u8) -> StatRes {
    let args = MonArgs { mon_id: MonId { mon_name: name(host), my_id: me() }, private: [cookie; 16] };
    decode(&nsm_call(daemon, "127.0.0.1", nsm::Procedure::Mon, &encode(&args)).unwrap()).unwrap()
}

fn nsm_call(daemon: &Nlmd, from: &str, procedure: nsm::Procedure, args: &[u8]) -> Result<Vec<u8>, RpcError> {
    Wire::udp(from, (Ipv4Addr::LOCALHOST, daemon.nsm_udp).into()).call(nsm::PROGRAM, 1, procedure as u32, args)
}

fn notify(daemon: &Nlmd, from: &str, host: &str, state: i32) {
    let args = encode(&NotifyArgs { mon_name: name(host), state: NsmState(state) });
    assert_eq!(nsm_call(daemon, from, nsm::Procedure::Notify, &args), Ok(Vec::new()));
}

/// nlmd, registered with this rpcbind.
fn start(folder: &tempfile::TempDir, rpcbind: &Rpcbind, flags: &[&str]) -> Nlmd {
    let port = rpcbind.port.to_string();
    let usual = ["--listen", "127.0.0.1", "--listen", "127.0.0.99", "--rpcbind-port", &port, "--grace", "300ms"];
    Nlmd::start_with(folder, &[&usual, flags].concat())
        .unwrap_or_else(|(status, log)| panic!("nlmd did not start ({status}): {log}"))
}

/// Kills nlmd, and takes its entries away: another test's nlmd may get its ports before it is started again.
fn crash(daemon: Nlmd, rpcbind: &Rpcbind) {
    let ports = [daemon.nlm_udp, daemon.nlm_tcp, daemon.nsm_udp, daemon.nsm_tcp].map(u32::from);
    daemon.kill_9();
    rpcbind.entries.lock().unwrap().retain(|entry| !ports.contains(&entry.port));
}

fn told(host: &str, state: i32, cookie: u8) -> SmNotifyArgs {
    SmNotifyArgs { name: name(host), state: NsmState(state), private: [cookie; 16] }
}

#[test]
fn a_program_is_told_when_a_host_that_it_monitors_reboots_also_after_a_crash_of_nlmd() {
    let (folder, socket) = (tempfile::tempdir().unwrap(), loopback());
    let rpcbind = Rpcbind::start(vec![udp(PROGRAM, 1, &socket)]);
    let program = monitor_program(socket);
    let daemon = start(&folder, &rpcbind, &[]);
    let state = nsm_state(&daemon);
    let monitored = StatRes { res_stat: ResStat::Success, state };
    assert_eq!(mon(&daemon, "127.0.0.3", 7), monitored);
    assert_eq!(mon(&daemon, "127.0.0.3", 7), monitored, "the same again changes nothing");
    notify(&daemon, "127.0.0.4", "127.0.0.3", 9);
    assert!(program.hears_nothing(), "a stranger's notice");
    notify(&daemon, "127.0.0.3", "whatever.example.org", 9);
    assert_eq!(program.hear(), told("127.0.0.3", 9, 7));
    notify(&daemon, "127.0.0.3", "whatever.example.org", 9);
    assert!(program.hears_nothing(), "a repetition");
    assert_eq!(mon(&daemon, "127.0.0.3", 8), monitored, "another priv replaces the first");
    crash(daemon, &rpcbind);

    let daemon = start(&folder, &rpcbind, &[]);
    assert_ne!(nsm_state(&daemon), state);
    notify(&daemon, "127.0.0.3", "whatever.example.org", 11);
    assert_eq!(program.hear(), told("127.0.0.3", 11, 8));
    assert!(program.hears_nothing(), "once");
}

#[test]
fn a_program_that_monitors_no_more_is_told_nothing_more() {
    let (folder, socket) = (tempfile::tempdir().unwrap(), loopback());
    let rpcbind = Rpcbind::start(vec![udp(PROGRAM, 1, &socket)]);
    let program = monitor_program(socket);
    let daemon = start(&folder, &rpcbind, &[]);
    let state = encode(&nsm::Stat { state: nsm_state(&daemon) });
    for host in ["127.0.0.3", "127.0.0.4", "127.0.0.5"] {
        assert_eq!(mon(&daemon, host, 1).res_stat, ResStat::Success);
    }
    let unmon = encode(&MonId { mon_name: name("127.0.0.3"), my_id: me() });
    let other = encode(&MyId { my_proc: 8, ..me() });
    assert_eq!(nsm_call(&daemon, "127.0.0.1", nsm::Procedure::Unmon, &unmon), Ok(state.clone()));
    assert_eq!(nsm_call(&daemon, "127.0.0.1", nsm::Procedure::UnmonAll, &other), Ok(state.clone()));
    notify(&daemon, "127.0.0.3", "a", 9);
    notify(&daemon, "127.0.0.4", "a", 9);
    assert_eq!(program.hear(), told("127.0.0.4", 9, 1), "not the one before");
    assert_eq!(nsm_call(&daemon, "127.0.0.1", nsm::Procedure::UnmonAll, &encode(&me())), Ok(state));
    crash(daemon, &rpcbind);
    let daemon = start(&folder, &rpcbind, &[]);
    notify(&daemon, "127.0.0.5", "a", 9);
    assert!(program.hears_nothing());
}

#[test]
fn a_program_that_does_not_answer_at_once_is_called_again_and_the_latest_state_counts() {
    let (folder, socket) = (tempfile::tempdir().unwrap(), loopback());
    let rpcbind = Rpcbind::start(Vec::new());
    let daemon = start(&folder, &rpcbind, &[]);
    assert_eq!(mon(&daemon, "127.0.0.3", 1).res_stat, ResStat::Success);
    notify(&daemon, "127.0.0.3", "a", 9);
    await_some("a call that finds no program", || daemon.log().contains("call back").then_some(()));
    notify(&daemon, "127.0.0.3", "a", 11);
    rpcbind.entries.lock().unwrap().push(udp(PROGRAM, 1, &socket));
    let program = monitor_program(socket);
    let heard = std::iter::from_fn(|| Some(program.hear().state.0)).find(|state| *state == 11);
    assert_eq!(heard, Some(11));
}

#[test]
fn a_host_without_an_address_is_not_monitored() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(&folder, &Rpcbind::start(Vec::new()), &[]);
    assert_eq!(mon(&daemon, "no-such-host.invalid", 1).res_stat, ResStat::Fail);
}

#[test]
fn a_host_that_missed_a_notice_is_not_told_by_a_restart_and_not_at_all_once_it_is_monitored_anew() {
    let (folder, rpcbind) = (tempfile::tempdir().unwrap(), Rpcbind::start(Vec::new()));
    crash(start(&folder, &rpcbind, &[]), &rpcbind);
    let path = folder.path().join("state/nlmd.sqlite");
    let hosts = "INSERT INTO to_tell (mon_name, my_name, addresses) VALUES \
                 ('127.0.0.3', 'server', '127.0.0.3'), ('other', 'server', '127.0.0.4')";
    rusqlite::Connection::open(&path).unwrap().execute(hosts, []).unwrap();

    let mut daemon = start(&folder, &rpcbind, &[]);
    assert_eq!(mon(&daemon, "127.0.0.3", 1).res_stat, ResStat::Success);
    daemon.says("were not notified of a crash");
    assert!(!daemon.log().contains("notifying hosts that programs here monitored"), "{}", daemon.log());
    // A later write that is answered: the one before it is on disk.
    assert_eq!(mon(&daemon, "127.0.0.5", 1).res_stat, ResStat::Success);
    crash(daemon, &rpcbind);
    let database = rusqlite::Connection::open(&path).unwrap();
    let mut left = database.prepare("SELECT mon_name FROM to_tell").unwrap();
    let left: Vec<String> = left.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(left, ["other"]);
}

#[test]
fn a_host_that_is_monitored_anew_while_hosts_are_told_of_a_boot_is_not_told_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.1", "127.0.0.3", "127.0.0.4"]);
    let hosts = ["127.0.0.3", "127.0.0.4"].map(|address| Host::start(address, port));
    let flags = ["--rpcbind-port", &port.to_string(), "--grace", "300ms"];
    let daemon = Nlmd::start(&folder, &flags);
    for (host, address) in hosts.iter().zip(["127.0.0.3", "127.0.0.4"]) {
        host.deaf.store(true, Ordering::Relaxed);
        assert_eq!(mon(&daemon, address, 1).res_stat, ResStat::Success);
    }
    daemon.kill_9();
    let database = rusqlite::Connection::open(folder.path().join("state/nlmd.sqlite")).unwrap();
    database.execute("UPDATE server SET boot = 'an earlier one'", []).unwrap();
    drop(database);

    let daemon = Nlmd::start(&folder, &flags);
    let told_to = |hosts: &str| {
        let log = daemon.log();
        log.lines().any(|line| line.contains("notifying hosts that programs here monitored") && line.contains(hosts))
    };
    await_some("both are to be told", || told_to("hosts=2").then_some(()));
    assert_eq!(mon(&daemon, "127.0.0.3", 1).res_stat, ResStat::Success);
    await_some("only the other one is to be told", || told_to("hosts=1").then_some(()));
    for host in &hosts {
        host.deaf.store(false, Ordering::Relaxed);
    }
    assert!(matches!(hosts[1].hear(), Heard::Notified { .. }));
    assert!(hosts[0].heard.recv_timeout(A_MOMENT).is_err(), "a late notice would free those locks");
}

#[test]
fn a_crash_is_simulated_for_root_only() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(&folder, &Rpcbind::start(Vec::new()), &[]);
    let state = nsm_state(&daemon);
    let too_weak = RpcError::Auth(5);
    assert_eq!(nsm_call(&daemon, "127.0.0.1", nsm::Procedure::SimuCrash, &[]), Err(too_weak));
    assert_eq!(nsm_state(&daemon), state);
}

#[test]
fn with_privileged_ports_only_what_changes_nothing_is_open_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(&folder, &Rpcbind::start(Vec::new()), &["--privileged-ports"]);
    let mut client = Client::v4(&daemon, "127.0.0.2", "alpha");
    assert_eq!(client.test(&want("file")), Stat::Granted);
    for procedure in [Procedure::Lock, Procedure::Unlock, Procedure::Cancel, Procedure::NmLock, Procedure::FreeAll] {
        assert_eq!(client.raw(next_xid(), procedure, &want("file")), Err(RpcError::Auth(5)), "{procedure:?}");
    }
    assert_eq!(nsm_call(&daemon, "127.0.0.1", nsm::Procedure::UnmonAll, &encode(&me())), Err(RpcError::Auth(5)));
    assert!(nsm_state(&daemon).is_up());
    assert_eq!(Control::open(&daemon).status().clients, 0);
}

/// An rpc.statd: what it is asked to watch; it says no while `fails`.
struct Statd {
    program: Program<(u32, String, [u8; 16])>,
    rpcbind: Rpcbind,
    fails: Arc<AtomicBool>,
    /// It hears, and does not answer.
    hangs: Arc<AtomicBool>,
    folder: tempfile::TempDir,
    /// What it was asked with last.
    cookie: Arc<Mutex<[u8; 16]>>,
}

impl Statd {
    fn start() -> Self {
        let (socket, fails, folder) = (loopback(), Arc::new(AtomicBool::new(false)), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("state"), 7_i32.to_ne_bytes()).unwrap();
        let rpcbind = Rpcbind::start(vec![udp(nsm::PROGRAM, 1, &socket)]);
        let hangs = Arc::new(AtomicBool::new(false));
        let hanging = hangs.clone();
        let cookie = Arc::new(Mutex::new([0; 16]));
        let (failing, last) = (fails.clone(), cookie.clone());
        let program = Program::start(socket, move |call| match call.procedure {
            _ if hanging.load(Ordering::Relaxed) => None,
            2 => {
                let MonArgs { mon_id: MonId { mon_name, my_id }, private } = decode(call.args).unwrap();
                assert_eq!((my_id.my_prog, my_id.my_vers, my_id.my_proc), (nlm::PROGRAM, 4, 16));
                *last.lock().unwrap() = private;
                let res_stat = if failing.load(Ordering::Relaxed) { ResStat::Fail } else { ResStat::Success };
                let heard = (call.procedure, mon_name.to_string(), private);
                Some((heard, encode(&StatRes { res_stat, state: NsmState(7) })))
            }
            3 => {
                let MonId { mon_name, .. } = decode(call.args).unwrap();
                Some(((call.procedure, mon_name.to_string(), [0; 16]), encode(&nsm::Stat { state: NsmState(7) })))
            }
            _ => None,
        });
        Self { program, rpcbind, fails, hangs, folder, cookie }
    }

    fn nlmd(&self, folder: &tempfile::TempDir, flags: &[&str]) -> Nlmd {
        let usual = ["--nsm", "statd", "--statd-dir", self.folder.path().to_str().unwrap()];
        start(folder, &self.rpcbind, &[&usual, flags].concat())
    }

    fn number(&self) -> i32 {
        let bytes = std::fs::read(self.folder.path().join("state")).unwrap();
        i32::from_ne_bytes(bytes.try_into().unwrap())
    }

    fn last_cookie(&self) -> [u8; 16] {
        *self.cookie.lock().unwrap()
    }
}

/// The callback of a statd.
fn call_back(daemon: &Nlmd, version: Version, host: &str, state: i32, private: [u8; 16]) {
    let args = SmNotifyArgs { name: name(host), state: NsmState(state), private }.encode(version).unwrap();
    let mut wire = Wire::udp("127.0.0.1", (Ipv4Addr::LOCALHOST, daemon.nlm_udp).into());
    assert_eq!(wire.call(nlm::PROGRAM, version.number(), 16, &args), Ok(Vec::new()));
}

fn is_held(daemon: &Nlmd) -> bool {
    Client::v4(daemon, "127.0.0.9", "other").test(&want("file")) == Stat::Denied
}

#[test]
fn with_statd_a_client_is_watched_before_its_first_lock_is_granted_and_once() {
    let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
    let daemon = statd.nlmd(&folder, &[]);
    assert_eq!((daemon.nsm_udp, daemon.nsm_tcp), (0, 0), "NSM is statd's");
    let mut alpha = Client::v4(&daemon, "127.0.0.2", "alpha");
    statd.fails.store(true, Ordering::Relaxed);
    assert_eq!(alpha.lock(&want("file")), Stat::DeniedNolocks);
    assert_eq!(statd.program.hear().1, "127.0.0.2");
    assert!(!is_held(&daemon));
    statd.fails.store(false, Ordering::Relaxed);
    assert_eq!(alpha.lock(&want("file")), Stat::Granted);
    let (procedure, host, cookie) = statd.program.hear();
    assert_eq!((procedure, host.as_str(), cookie), (2, "127.0.0.2", statd.last_cookie()));
    assert_ne!(cookie, [0; 16]);
    assert_eq!(alpha.lock(&want("another")), Stat::Granted);
    assert!(statd.program.hears_nothing());
}

#[test]
fn with_statd_gone_no_lock_is_granted_and_none_is_lost() {
    let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
    let daemon = statd.nlmd(&folder, &[]);
    assert_eq!(Client::v4(&daemon, "127.0.0.2", "alpha").lock(&want("file")), Stat::Granted);
    statd.rpcbind.entries.lock().unwrap().retain(|entry| entry.program != nsm::PROGRAM);
    assert_eq!(Client::v4(&daemon, "127.0.0.3", "beta").lock(&want("another")), Stat::DeniedNolocks);
    assert!(is_held(&daemon));
    await_some("its line in the log", || daemon.log().contains("rpcbind knows no rpc.statd").then_some(()));
}

#[test]
fn a_reclaim_is_granted_though_statd_is_gone_and_the_client_is_watched_once_it_is_back() {
    let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
    let daemon = statd.nlmd(&folder, &[]);
    assert_eq!(Client::v4(&daemon, "127.0.0.2", "alpha").lock(&want("file")), Stat::Granted);
    statd.program.hear();
    crash(daemon, &statd.rpcbind);
    let is_statd = |entry: &Mapping| entry.program == nsm::PROGRAM;
    let entries = |edit: &dyn Fn(&mut Vec<Mapping>)| edit(&mut statd.rpcbind.entries.lock().unwrap());
    let entry = *statd.rpcbind.entries.lock().unwrap().iter().find(|entry| is_statd(entry)).unwrap();
    entries(&|entries| entries.retain(|entry| !is_statd(entry)));

    let daemon = statd.nlmd(&folder, &["--grace", "1s"]);
    let mut alpha = Client::v4(&daemon, "127.0.0.2", "alpha");
    let reclaim = Want { reclaim: true, ..want("file") };
    assert_eq!(alpha.lock(&reclaim), Stat::Granted, "the client would forget it");
    assert_eq!(alpha.lock(&reclaim), Stat::Granted);
    // Never called before: its record is new, and the lock was one of the server's life before all the same.
    let mut beta = Client::v4(&daemon, "127.0.0.3", "beta");
    assert_eq!(beta.lock(&Want { reclaim: true, ..want("another") }), Stat::Granted);
    entries(&|entries| entries.push(entry));
    let mut heard = [statd.program.hear().1, statd.program.hear().1];
    heard.sort();
    assert_eq!(heard, ["127.0.0.2", "127.0.0.3"]);
    assert!(statd.program.hears_nothing(), "once each");
}

#[test]
fn a_reclaim_does_not_wait_for_a_statd_that_hangs() {
    let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
    let daemon = statd.nlmd(&folder, &[]);
    assert_eq!(Client::v4(&daemon, "127.0.0.2", "alpha").lock(&want("file")), Stat::Granted);
    statd.program.hear();
    crash(daemon, &statd.rpcbind);
    statd.hangs.store(true, Ordering::Relaxed);
    let daemon = statd.nlmd(&folder, &["--grace", "20s"]);
    let began = std::time::Instant::now();
    // One with a record of the life before, and one without.
    for (address, client, file) in [("127.0.0.2", "alpha", "file"), ("127.0.0.3", "beta", "another")] {
        let reclaim = Want { reclaim: true, ..want(file) };
        assert_eq!(Client::v4(&daemon, address, client).lock(&reclaim), Stat::Granted, "{client}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    statd.hangs.store(false, Ordering::Relaxed);
    let mut heard = [statd.program.hear().1, statd.program.hear().1];
    heard.sort();
    assert_eq!(heard, ["127.0.0.2", "127.0.0.3"], "watched once it answers");
}

#[test]
fn a_callback_with_our_cookie_frees_that_clients_locks_and_any_other_frees_nothing() {
    for version in Version::ALL {
        let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
        let daemon = statd.nlmd(&folder, &[]);
        assert_eq!(Client::v4(&daemon, "127.0.0.2", "alpha").lock(&want("file")), Stat::Granted);
        let beta = Client::v4(&daemon, "127.0.0.3", "beta").lock(&want("another"));
        assert_eq!(beta, Stat::Granted);
        let [of_alpha, of_beta] = [statd.program.hear().2, statd.program.hear().2];
        for (host, cookie) in
            [("127.0.0.2", [0; 16]), ("127.0.0.2", of_beta), ("alpha", of_alpha), ("127.0.0.77", of_alpha)]
        {
            call_back(&daemon, version, host, 9, cookie);
            assert!(is_held(&daemon), "{version:?}: {host} with {cookie:?} freed it");
        }
        call_back(&daemon, version, "127.0.0.2", 9, of_alpha);
        assert!(!is_held(&daemon), "{version:?}");
        assert_eq!(Control::open(&daemon).status().locks, 1, "beta's stays");
    }
}

#[test]
fn a_callback_is_no_proof_against_clients_that_share_the_address() {
    let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
    let daemon = statd.nlmd(&folder, &[]);
    assert_eq!(Client::v4(&daemon, "127.0.0.2", "alpha").lock(&want("file")), Stat::Granted);
    assert_eq!(Client::v4(&daemon, "127.0.0.2", "beta").lock(&want("another")), Stat::Granted);
    call_back(&daemon, Version::V4, "127.0.0.2", 9, statd.last_cookie());
    let mut control = Control::open(&daemon);
    assert_eq!(control.status().locks, 2);
    let page: nlmctl::wire::control::ClientPage =
        control.call(nlmctl::wire::control::Procedure::Clients, &0_u64).unwrap();
    assert!(page.clients.as_slice().iter().all(|client| !client.suspicions.as_slice().is_empty()), "{page:?}");
}

#[test]
fn a_restart_takes_a_new_number_in_statds_file_and_knows_the_old_cookies() {
    let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
    let daemon = statd.nlmd(&folder, &[]);
    assert_eq!((Control::open(&daemon).status().nsm_state.0, statd.number()), (7, 7), "statd's own");
    assert_eq!(Client::v4(&daemon, "127.0.0.2", "alpha").lock(&want("file")), Stat::Granted);
    let cookie = statd.program.hear().2;
    crash(daemon, &statd.rpcbind);

    let daemon = statd.nlmd(&folder, &["--grace", "1s"]);
    assert_eq!((Control::open(&daemon).status().nsm_state.0, statd.number()), (9, 9));
    let reclaim = Want { reclaim: true, ..want("file") };
    assert_eq!(Client::v4(&daemon, "127.0.0.2", "alpha").lock(&reclaim), Stat::Granted);
    assert_eq!(statd.program.hear(), (2, "127.0.0.2".to_owned(), cookie), "asked again: a boot may lie between");
    call_back(&daemon, Version::V4, "127.0.0.2", 9, cookie);
    assert!(!is_held(&daemon));
}

#[test]
fn a_run_takes_its_number_in_statds_file_before_anything_is_marked() {
    let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
    let daemon = statd.nlmd(&folder, &[]);
    let mut control = Control::open(&daemon);
    // sm-notify -f has raised it meanwhile.
    std::fs::write(statd.folder.path().join("state"), 9_i32.to_ne_bytes()).unwrap();
    let begun = super::control::begin(&mut control, 1).unwrap();
    assert_eq!((begun.old_state.0, begun.new_state.0, statd.number()), (7, 11, 11));
}

#[test]
fn a_run_whose_number_statds_file_does_not_take_is_not_begun() {
    let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
    let daemon = statd.nlmd(&folder, &[]);
    std::fs::remove_file(statd.folder.path().join("state")).unwrap();
    let refusal = super::control::begin(&mut Control::open(&daemon), 1).unwrap_err();
    assert!(refusal.to_string().contains("nothing was begun"), "{refusal}");
    assert_eq!(Control::open(&daemon).status().nsm_state, NsmState(7));
}

#[test]
fn a_client_that_makes_room_is_watched_no_longer() {
    let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
    let daemon = statd.nlmd(&folder, &["--max-clients", "1"]);
    let mut alpha = Client::v4(&daemon, "127.0.0.2", "alpha");
    assert_eq!(alpha.lock(&want("file")), Stat::Granted);
    assert_eq!(alpha.unlock(&want("file")), Stat::Granted);
    assert_eq!(Client::v4(&daemon, "127.0.0.3", "beta").lock(&want("file")), Stat::Granted);
    let mut heard: Vec<_> =
        (0..3).map(|_| statd.program.hear()).map(|(procedure, host, _)| (procedure, host)).collect();
    heard.sort();
    let expected = [(2, "127.0.0.2"), (2, "127.0.0.3"), (3, "127.0.0.2")];
    assert_eq!(heard, expected.map(|(procedure, host)| (procedure, host.to_owned())));
}

#[test]
fn without_statds_files_nlmd_does_not_start_and_says_what_to_do() {
    let (folder, nothing) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let flags = ["--listen", "127.0.0.1", "--nsm", "statd", "--statd-dir", nothing.path().to_str().unwrap()];
    let Err((status, log)) = Nlmd::start_with(&folder, &flags) else { panic!("it started") };
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("start rpc.statd first"), "{log}");
}

#[test]
fn a_start_that_fails_leaves_no_entry_at_rpcbind() {
    let (folder, statd) = (tempfile::tempdir().unwrap(), Statd::start());
    std::fs::write(statd.folder.path().join("state"), [7, 0]).unwrap();
    let port = statd.rpcbind.port.to_string();
    let usual = ["--listen", "127.0.0.1", "--rpcbind-port", &port, "--nsm", "statd", "--statd-dir"];
    let flags = [&usual[..], &[statd.folder.path().to_str().unwrap()]].concat();
    let Err((status, log)) = Nlmd::start_with(&folder, &flags) else { panic!("it started") };
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("it has 2 bytes"), "{log}");
    let entries = statd.rpcbind.entries.lock().unwrap();
    assert!(entries.iter().all(|entry| entry.program != nlm::PROGRAM), "{entries:?}");
}

/// A call from a port below 1024, which only root has.
fn privileged_call(daemon: &Nlmd, procedure: nsm::Procedure, args: &[u8]) -> Vec<u8> {
    let bound = (600..1024).find_map(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok());
    let to = (Ipv4Addr::LOCALHOST, daemon.nsm_udp).into();
    let mut wire = Wire::Udp { socket: bound.expect("a free port below 1024, as root"), to };
    wire.call(nsm::PROGRAM, 1, procedure as u32, args).unwrap()
}

#[test]
#[ignore = "needs root: binds a port below 1024"]
fn what_was_monitored_from_a_privileged_port_is_neither_removed_nor_replaced_from_another() {
    let (folder, socket) = (tempfile::tempdir().unwrap(), loopback());
    let rpcbind = Rpcbind::start(vec![udp(PROGRAM, 1, &socket)]);
    let program = monitor_program(socket);
    let daemon = start(&folder, &rpcbind, &[]);
    let id = MonId { mon_name: name("127.0.0.3"), my_id: me() };
    let made =
        privileged_call(&daemon, nsm::Procedure::Mon, &encode(&MonArgs { mon_id: id.clone(), private: [1; 16] }));
    assert_eq!(nlmctl::wire::xdr::decode::<StatRes>(&made).unwrap().res_stat, ResStat::Success);
    assert_eq!(mon(&daemon, "127.0.0.3", 2).res_stat, ResStat::Fail, "not replaced");
    nsm_call(&daemon, "127.0.0.1", nsm::Procedure::Unmon, &encode(&id)).unwrap();
    nsm_call(&daemon, "127.0.0.1", nsm::Procedure::UnmonAll, &encode(&me())).unwrap();
    crash(daemon, &rpcbind);
    let daemon = start(&folder, &rpcbind, &[]);
    notify(&daemon, "127.0.0.3", "a", 9);
    assert_eq!(program.hear(), told("127.0.0.3", 9, 1));
    privileged_call(&daemon, nsm::Procedure::UnmonAll, &encode(&me()));
    notify(&daemon, "127.0.0.3", "a", 11);
    assert!(program.hears_nothing());
}
