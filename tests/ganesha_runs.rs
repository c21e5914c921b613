//! Runs over the real NFS-Ganesha, on a host of its own, with simulated clients.
#![cfg(test)]

mod netns;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use netns::{Ganesha, Netns};
use nfs3_client::Nfs3ConnectionBuilder;
use nfs3_client::tokio::TokioConnector;
use nfs3_types::nfs3::{CREATE3args, Nfs3Result, createhow3, diropargs3, filename3, sattr3};
use nfs3_types::rpc::{auth_unix, opaque_auth};
use nlmctl::internals::controller::Request;
use nlmctl::internals::controller::Store;
use nlmctl::internals::controller::{self, ControllerError, Options};
use nlmctl::internals::demo::{Behaviour, ClientNo, Farm, Lock};
use nlmctl::internals::manager::{Adapter, Backend};
use nlmctl::internals::manager::{Ganesha as Manager, GaneshaOptions, ganesha};
use nlmctl::internals::manager::{LockManager, ManagerError, Weight};
use nlmctl::internals::report::{Progress, RunReport};
use nlmctl::internals::rpc::{Request as Call, Source, StreamClient};
use nlmctl::wire::control::{
    BeginArgs, ClientSeen, LocksArgs, Mode, Policy, ReleaseArgs, RunId, Scope, Silent, Unreachable,
};
use nlmctl::wire::nlm::{self, Stat};
use nlmctl::wire::rpc::Credential;
use nlmctl::wire::types::{Address, ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid};
use nlmctl::wire::xdr::{List, decode, encode};
use tokio::sync::{mpsc, watch};

/// Seconds of grace, to which Ganesha adds up to 10.
const GRACE: u32 = 5;
/// No call takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Another address of the server.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

fn name(text: &str) -> CallerName {
    CallerName::new(text).unwrap()
}

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange { start, end: start + length - 1 }
}

/// Files on the export, made over NFSv3.
async fn files(count: usize) -> Vec<FileHandle> {
    let mut mounted = Nfs3ConnectionBuilder::new(TokioConnector, SERVER.to_string(), "/run/export")
        .credential(opaque_auth::auth_unix(&auth_unix::default()))
        .mount()
        .await
        .unwrap();
    let root = mounted.root_nfs_fh3();
    let mut handles = Vec::new();
    for number in 0..count {
        let place = diropargs3 { dir: root.clone(), name: filename3::from(format!("file{number}").into_bytes()) };
        let args = CREATE3args { where_: place, how: createhow3::UNCHECKED(sattr3::default()) };
        let Nfs3Result::Ok(made) = mounted.create(&args).await.unwrap() else { panic!("a file cannot be made") };
        handles.push(FileHandle::new(&made.obj.unwrap().data.0).unwrap());
    }
    mounted.unmount().await.unwrap();
    handles
}

/// Clients that lock over UDP.
struct Clients {
    farm: Farm,
    all: Vec<ClientNo>,
}

impl Clients {
    fn new(count: u8) -> Self {
        let farm = Farm::open(&[name("nas.test"), name("nas")]).unwrap();
        farm.use_server((SERVER, Ganesha::NLM_PORT).into());
        let all = (1..=count).map(|n| farm.add(Ipv4Addr::new(127, 0, 1, n), name(&format!("c{n}")))).collect();
        Self { farm, all }
    }

    /// Each client locks 10 bytes of each file, `each` times with a process of its own.
    async fn lock_all(&self, files: &[FileHandle], each: usize) {
        for (host, &who) in self.all.iter().enumerate() {
            for file in files {
                for process in 0..each {
                    let start = u64::try_from((host * each + process) * 10).unwrap();
                    let svid = Svid(i32::try_from(process + 1).unwrap());
                    let lock = Lock { file: file.clone(), range: range(start, 10), exclusive: true, svid };
                    assert_eq!(self.farm.lock(who, &lock, false).await.unwrap(), Stat::Granted);
                }
            }
        }
    }

    fn beliefs(&self) -> usize {
        self.all.iter().map(|&who| self.farm.beliefs(who).len()).sum()
    }

    fn refused(&self) -> u64 {
        self.all.iter().map(|&who| self.farm.reclaims(who).refused + self.farm.reclaims(who).unanswered).sum()
    }
}

/// A client that locks over TCP, through one of the server's addresses, and is deaf to all notices.
struct Ghost {
    line: StreamClient,
    name: CallerName,
}

impl Ghost {
    async fn new(from: Ipv4Addr, server: Ipv4Addr) -> Self {
        let source = Source { ip: Some(from.into()), reserved: false };
        let to = (server, Ganesha::NLM_PORT).into();
        let line = StreamClient::connect_tcp(to, source, 1 << 20, PATIENCE).await.unwrap();
        Self { line, name: name("ghost") }
    }

    /// A reservation of the whole file, which Ganesha 4.3 does not survive releasing.
    async fn share(&self, file: &FileHandle) -> Stat {
        let owner = OwnerHandle::new(b"1@ghost").unwrap();
        let (mode, access) = (nlm::ShareBits::None, nlm::ShareBits::Read);
        let share = nlm::Share { caller_name: self.name.clone(), fh: file.clone(), oh: owner, mode, access };
        let args = nlm::ShareArgs { cookie: Cookie::new(b"boo").unwrap(), share, reclaim: false };
        let answer = call(&self.line, nlm::PROGRAM, 4, nlm::Procedure::Share.number(), &encode(&args)).await;
        decode::<nlm::ShareRes>(&answer).unwrap().stat
    }

    async fn lock(&self, file: &FileHandle, range: ByteRange) -> Stat {
        let owner = OwnerHandle::new(b"1@ghost").unwrap();
        let alock = nlm::Lock::new(self.name.clone(), file.clone(), owner, Svid(1), range);
        let cookie = Cookie::new(b"boo").unwrap();
        let args = nlm::LockArgs { cookie, block: false, exclusive: true, alock, reclaim: false, state: NsmState(3) };
        let answer = call(&self.line, nlm::PROGRAM, 4, nlm::Procedure::Lock.number(), &encode(&args)).await;
        decode::<nlm::Res>(&answer).unwrap().stat
    }
}

async fn call(line: &StreamClient, program: u32, version: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
    let credential = Credential::root("ghost");
    line.call(Call { program, version, procedure, credential: &credential, args }, PATIENCE).await.unwrap()
}

/// An NFSv4.0 client whose id names the server's address, as Linux' does.
struct V4 {
    line: StreamClient,
    id: Vec<u8>,
}

impl V4 {
    async fn new() -> Self {
        let source = Source { ip: Some(IpAddr::from([127, 0, 0, 9])), reserved: false };
        let line = StreamClient::connect_tcp((SERVER, 2049).into(), source, 1 << 20, PATIENCE).await.unwrap();
        // RFC 7530, 16.33: verifier, id, callback program, netid, address and ident.
        let mut set = 35_u32.to_be_bytes().to_vec();
        set.extend(b"verifier");
        for (text, then) in [
            ("Linux NFSv4.0 127.0.0.9/127.0.0.1", &0x4000_0000_u32.to_be_bytes()[..]),
            ("tcp", &[]),
            ("127.0.0.9.8.8", &1_u32.to_be_bytes()[..]),
        ] {
            set.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            set.extend(text.bytes().chain(std::iter::repeat_n(0, (4 - text.len() % 4) % 4)));
            set.extend(then);
        }
        let (status, results) = Self::compound(&line, &set).await;
        assert_eq!(status, 0, "SETCLIENTID");
        let (id, verifier) = (&results[..8], &results[8..16]);
        let confirm = [&36_u32.to_be_bytes()[..], id, verifier].concat();
        assert_eq!(Self::compound(&line, &confirm).await.0, 0, "SETCLIENTID_CONFIRM");
        let id = id.to_vec();
        Self { line, id }
    }

    /// One operation; its status, and what it answers.
    async fn compound(line: &StreamClient, operation: &[u8]) -> (u32, Vec<u8>) {
        // No tag, minor version 0, one operation.
        let head: Vec<u8> = [0_u32, 0, 1].iter().flat_map(|word| word.to_be_bytes()).collect();
        let answer = call(line, 100_003, 4, 1, &[&head[..], operation].concat()).await;
        (u32::from_be_bytes(answer[..4].try_into().unwrap()), answer.get(20..).unwrap_or_default().to_vec())
    }

    /// Whether the server still knows it.
    async fn is_known(&self) -> bool {
        Self::compound(&self.line, &[&30_u32.to_be_bytes()[..], &self.id].concat()).await.0 == 0
    }
}

/// Ganesha as a lock manager, as nlmctl makes it.
fn manager(host: &Netns, soft: bool) -> Arc<Adapter<Manager>> {
    let dir = host.folder().join("nlmctl");
    let options = GaneshaOptions { soft, names: vec![name("nas.test"), name("nas")], ..GaneshaOptions::new(&dir) };
    Arc::new(ganesha(options))
}

async fn resync(
    host: &Netns,
    manager: &Arc<Adapter<Manager>>,
    request: &Request,
    clients: &Clients,
) -> Result<RunReport, ControllerError> {
    let options = Options {
        rpcbind_port: clients.farm.rpcbind_port(),
        probe_timeout: Duration::from_millis(500),
        ..Options::default()
    };
    let plan = controller::plan(&**manager, request, &options).await?;
    eprintln!("{:#?} {:#?}", plan.consent, plan.caveats);
    let consent = plan.agree(true, &mut ()).unwrap();
    let store = Store::open(&host.folder().join("runs.db")).unwrap();
    let (progress, _) = watch::channel(Progress::START);
    let (_signals, none) = mpsc::channel(1);
    let driven: Arc<dyn LockManager> = Arc::clone(manager) as _;
    controller::resync(driven, store, plan, consent, options, progress, none).await
}

/// A run in which this client answers only after `--grace-max`, while Ganesha's grace goes on.
async fn with_a_late_ack(
    host: &Netns,
    manager: &Arc<Adapter<Manager>>,
    clients: &Clients,
    late: ClientNo,
) -> RunReport {
    clients.farm.behave(late, Behaviour::dead());
    let short = Duration::from_secs(1);
    let request = Request { grace: short, grace_max: Some(short), ..dropping() };
    let wakes = async {
        let deadline = tokio::time::Instant::now() + 3 * PATIENCE;
        loop {
            assert!(tokio::time::Instant::now() < deadline, "no run came past its --grace-max");
            let run = manager.status().await.unwrap().run.0;
            if run.is_some_and(|run| run.notices_begun && run.elapsed_ms > 2_500) {
                break clients.farm.behave(late, Behaviour::default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (report, ()) = tokio::join!(resync(host, manager, &request, clients), wakes);
    report.unwrap()
}

/// A begin of everything, as a controller asks for it.
async fn begin_args(manager: &Adapter<Manager>) -> BeginArgs {
    manager.cautions().await.unwrap();
    let info = manager.info().await.unwrap();
    BeginArgs {
        run: RunId([7; 16]),
        instance: info.instance,
        nsm_state: info.nsm_state,
        scope: Scope::default(),
        mode: Mode::Strict,
        policy: Policy { unreachable: Unreachable::Keep, silent: Silent::Auto, include_unmonitored: false },
        may_drop: List::default(),
        grace_ms: 60_000,
        grace_max_ms: 60_000,
    }
}

/// What Ganesha holds: a line a lock.
async fn held(manager: &Adapter<Manager>) -> Vec<String> {
    let mut locks: Vec<String> =
        manager.backend().sight().await.unwrap().locks.iter().map(ToString::to_string).collect();
    locks.sort();
    locks
}

/// Drops what clients do not answer for.
fn dropping() -> Request {
    Request { unreachable: Unreachable::Drop, grace: Duration::from_mins(1), ..Request::default() }
}

#[test]
#[ignore = "needs root, nfs-ganesha and nfs-ganesha-vfs: .ci/run runs it"]
fn two_thousand_locks_come_back_a_ghost_goes_a_waiter_steals_nothing_and_a_second_run_works() {
    let host = Netns::new("nas.test");
    netns::add_address(&host, "lo", "10.9.0.1/32");
    let mut ganesha = Ganesha::start(&host, GRACE);
    host.block_on(async {
        let files = files(20).await;
        let clients = Clients::new(20);
        clients.lock_all(&files, 5).await;
        let manager = manager(&host, false);
        let before = held(&manager).await;
        assert_eq!(before.len(), 2000);

        // Ghosts: a process that is gone on a client that lives, and a client that is gone.
        let stale = clients.all[0];
        let forgotten = Lock { file: files[0].clone(), range: range(50_000, 10), exclusive: true, svid: Svid(77) };
        assert_eq!(clients.farm.lock(stale, &forgotten, false).await.unwrap(), Stat::Granted);
        clients.farm.forget(stale, &forgotten);
        let ghost = Ghost::new(Ipv4Addr::new(127, 0, 2, 1), SECOND).await;
        assert_eq!(ghost.lock(&files[1], range(60_000, 10)).await, Stat::Granted);
        // Somebody waits for what a client holds.
        let (owner, waiter) = (clients.all[1], clients.all[2]);
        let wanted = Lock { svid: Svid(99), ..clients.farm.beliefs(owner)[0].clone() };
        assert_eq!(clients.farm.lock(waiter, &wanted, true).await.unwrap(), Stat::Blocked);
        let v4 = V4::new().await;

        let cautions = manager.cautions().await.unwrap();
        let consents: Vec<_> = cautions.iter().filter(|c| c.weight > Weight::Say).map(|c| c.about).collect();
        assert_eq!(consents, ["nfsv4"]);
        let report = resync(&host, &manager, &dropping(), &clients).await.unwrap();
        assert!(ganesha.log().contains("recovery event 5"));
        ganesha.must_run();
        let locks = report.locks;
        assert_eq!((locks.in_scope, locks.reclaimed, locks.dropped, locks.unverified), (2002, 2000, 2, 0));
        assert_eq!((locks.resurrected, locks.conflicts), (0, 0));
        assert_eq!((clients.beliefs(), clients.refused()), (2000, 0));
        assert!(!clients.farm.beliefs(waiter).iter().any(|lock| lock.svid == Svid(99)), "the waiter has the range");
        assert_eq!(held(&manager).await, before);
        assert!(v4.is_known().await, "an NFSv4 client was expired");

        let state = report.state.new;
        let again = resync(&host, &manager, &Request::default(), &clients).await.unwrap();
        let locks = again.locks;
        assert_eq!((locks.in_scope, locks.reclaimed, locks.dropped, locks.unverified), (2000, 2000, 0, 0));
        assert_eq!(again.state.old, state);
        assert_eq!(clients.refused(), 0);
        assert_eq!(held(&manager).await, before);
        assert!(v4.is_known().await);
        let told = clients.farm.notices();
        assert!(
            clients.all.iter().all(|who| told.iter().any(|n| n.client == *who && Some(n.state.0) == again.state.new))
        );
    });
}

#[test]
#[ignore = "needs root, nfs-ganesha and nfs-ganesha-vfs: .ci/run runs it"]
fn a_soft_run_brings_back_what_the_server_has_lost_and_drops_nothing() {
    let host = Netns::new("nas.test");
    let _ganesha = Ganesha::start(&host, GRACE);
    host.block_on(async {
        let files = files(2).await;
        let clients = Clients::new(4);
        clients.lock_all(&files, 3).await;
        let manager = manager(&host, true);
        let before = held(&manager).await;
        let lost = clients.farm.beliefs(clients.all[0])[0].clone();
        clients.farm.unlock_behind_its_back(clients.all[0], &lost).await.unwrap();
        let stale = clients.farm.beliefs(clients.all[1])[0].clone();
        clients.farm.forget(clients.all[1], &stale);
        clients.farm.behave(clients.all[2], Behaviour::dead());
        assert_eq!(held(&manager).await.len(), 23);

        let request = Request { silent: Silent::Keep, grace: Duration::from_mins(1), ..Request::default() };
        let report = resync(&host, &manager, &request, &clients).await.unwrap();
        let locks = report.locks;
        assert_eq!((locks.in_scope, locks.kept, locks.dropped, locks.unverified), (23, 23, 0, 0));
        assert_eq!(locks.resurrected, 1);
        assert_eq!(held(&manager).await, before);
        assert_eq!(clients.refused(), 0);
    });
}

#[test]
#[ignore = "needs root, nfs-ganesha and nfs-ganesha-vfs: .ci/run runs it"]
fn a_slow_client_is_told_as_long_as_ganeshas_grace_lasts_whatever_grace_max_says() {
    let host = Netns::new("nas.test");
    let _ganesha = Ganesha::start(&host, 2 * GRACE);
    host.block_on(async {
        let clients = Clients::new(2);
        clients.lock_all(&files(2).await, 2).await;
        let manager = manager(&host, false);
        let locks = with_a_late_ack(&host, &manager, &clients, clients.all[1]).await.locks;
        assert_eq!((locks.in_scope, locks.reclaimed, locks.dropped, locks.unverified), (8, 8, 0, 0));
        assert_eq!((clients.beliefs(), clients.refused()), (8, 0));
    });
}

#[test]
#[ignore = "needs root, nfs-ganesha and nfs-ganesha-vfs: .ci/run runs it"]
fn an_ack_after_grace_max_counts_where_no_client_heeds_its_notice() {
    let host = Netns::new("nas.test");
    let _ganesha = Ganesha::start(&host, 2 * GRACE);
    host.block_on(async {
        let clients = Clients::new(1);
        clients.lock_all(&files(1).await, 1).await;
        clients.farm.forget(clients.all[0], &clients.farm.beliefs(clients.all[0])[0]);
        let manager = manager(&host, false);
        let report = with_a_late_ack(&host, &manager, &clients, clients.all[0]).await;
        assert_eq!((report.locks.in_scope, report.locks.dropped, report.run.exit), (1, 1, Some(4)));
    });
}

#[test]
#[ignore = "needs root, nfs-ganesha and nfs-ganesha-vfs: .ci/run runs it"]
fn over_locks_that_cannot_be_listed_a_run_is_refused_for_a_client_that_is_not_told_and_else_unverified() {
    let host = Netns::new("nas.test");
    let _ganesha = Ganesha::start_with_unlisted_locks(&host, GRACE);
    host.block_on(async {
        let clients = Clients::new(2);
        clients.lock_all(&files(1).await, 1).await;
        let manager = manager(&host, false);
        clients.farm.behave(clients.all[1], Behaviour::dead());
        let options = Options {
            rpcbind_port: clients.farm.rpcbind_port(),
            probe_timeout: Duration::from_millis(500),
            ..Options::default()
        };
        let plan = controller::plan(&*manager, &Request::default(), &options).await.unwrap();
        assert!(plan.refusal.is_some() && !plan.locks_listed, "{plan:?}");
        assert_eq!(held(&manager).await.len(), 2);
        clients.farm.behave(clients.all[1], Behaviour::default());
        let report = resync(&host, &manager, &Request::default(), &clients).await.unwrap();
        assert_eq!((report.locks.in_scope, report.locks.reclaimed, report.run.exit), (2, 2, Some(6)));
    });
}

#[test]
#[ignore = "needs root, nfs-ganesha and nfs-ganesha-vfs: .ci/run runs it"]
fn one_clients_release_frees_its_locks_only_and_a_waiter_gets_the_range() {
    let host = Netns::new("nas.test");
    let _ganesha = Ganesha::start(&host, GRACE);
    host.block_on(async {
        let files = files(1).await;
        let clients = Clients::new(2);
        clients.lock_all(&files, 3).await;
        let manager = manager(&host, false);
        let ghost = Ghost::new(Ipv4Addr::new(127, 0, 2, 1), SERVER).await;
        assert_eq!(ghost.lock(&files[0], range(60_000, 10)).await, Stat::Granted);
        let wanted = Lock { file: files[0].clone(), range: range(60_000, 10), exclusive: true, svid: Svid(9) };
        assert_eq!(clients.farm.lock(clients.all[0], &wanted, true).await.unwrap(), Stat::Blocked);

        let info = manager.info().await.unwrap();
        assert!(info.capabilities.release);
        let chosen = |client: &str| ReleaseArgs {
            instance: info.instance,
            clients: List::clipped(vec![ClientSeen::new(name(client), Address(SERVER.into()), &[])]),
            locks: List::default(),
        };
        assert!(manager.release(&chosen("127.0.2.2")).await.unwrap_err().refused().is_some());
        let released = manager.release(&chosen("127.0.2.1")).await.unwrap().released;
        assert_eq!((released.locks, released.offered, released.left), (1, 1, 0), "{released:?}");
        assert!(!manager.backend().in_grace().await.unwrap());
        // Everybody else's are as they were.
        let page = manager.locks(&LocksArgs { scope: Scope::default(), after: 0 }).await.unwrap();
        assert_eq!(page.locks.as_slice().len(), 7);
        assert_eq!(ghost.lock(&files[0], range(0, 10)).await, Stat::Denied);
    });
}

#[test]
#[ignore = "needs root, nfs-ganesha and nfs-ganesha-vfs: .ci/run runs it"]
fn a_release_that_crashes_ganesha_over_a_share_is_not_one_that_changed_nothing() {
    let host = Netns::new("nas.test");
    let _ganesha = Ganesha::start(&host, GRACE);
    host.block_on(async {
        let files = files(1).await;
        let clients = Clients::new(1);
        clients.lock_all(&files, 2).await;
        let ghost = Ghost::new(Ipv4Addr::new(127, 0, 2, 1), SERVER).await;
        assert_eq!(ghost.share(&files[0]).await, Stat::Granted);
        assert_eq!(ghost.lock(&files[0], range(60_000, 10)).await, Stat::Granted);
        let manager = manager(&host, false);
        let asked: Vec<_> = manager.release_cautions().await.unwrap().iter().map(|c| (c.about, c.weight)).collect();
        assert_eq!(asked, [("shares", Weight::Consent)]);
        let chosen = ReleaseArgs {
            instance: manager.info().await.unwrap().instance,
            clients: List::clipped(vec![ClientSeen::new(name("127.0.2.1"), Address(SERVER.into()), &[])]),
            locks: List::default(),
        };
        let error = manager.release(&chosen).await.unwrap_err();
        let ManagerError::Lost { what, .. } = &error else { panic!("{error:?}") };
        assert!(what.contains("SHARE") && what.contains("every client's locks"), "{what}");
    });
}

#[test]
#[ignore = "needs root, nfs-ganesha and nfs-ganesha-vfs: .ci/run runs it"]
fn a_release_that_nlmctl_did_not_live_to_see_is_finished_before_anybody_is_told() {
    let host = Netns::new("nas.test");
    let ganesha = Ganesha::start(&host, GRACE);
    // Each runtime is a process of nlmctl's, and its end that process' end.
    let mark = host.folder().join("nlmctl/ganesha.releasing");
    host.block_on(async {
        let clients = Clients::new(3);
        clients.lock_all(&files(2).await, 2).await;
        let manager = manager(&host, false);
        let args = begin_args(&manager).await;
        // Ganesha waits for statd, and so its release is not over.
        ganesha.statd.signal(nix::sys::signal::Signal::SIGSTOP);
        let beginning = tokio::time::timeout(Duration::from_secs(2), manager.begin(&args)).await;
        assert!(beginning.is_err(), "the run began while locks were being released: {beginning:?}");
        assert!(mark.exists());
    });
    ganesha.statd.signal(nix::sys::signal::Signal::SIGCONT);
    host.block_on(async {
        let manager = manager(&host, false);
        let status = manager.status().await.unwrap();
        let run = status.run.0.expect("the run is on");
        assert_eq!((run.counts.in_scope, run.notices_begun), (12, false));
        assert!(mark.exists(), "who only looks finishes no release");
    });
    host.block_on(async {
        let manager = manager(&host, false);
        manager.begin(&begin_args(&manager).await).await.unwrap();
        assert!(!mark.exists());
        let status = manager.status().await.unwrap();
        assert_eq!((status.locks, status.run.0.unwrap().counts.in_scope), (0, 12));
        assert_eq!(manager.run_clients(RunId([7; 16])).await.unwrap().len(), 3);
    });
}

#[test]
#[ignore = "needs root, nfs-ganesha and nfs-ganesha-vfs: .ci/run runs it"]
fn when_ganesha_crashes_over_a_share_the_run_says_so_and_goes_on_once_it_is_back() {
    let host = Netns::new("nas.test");
    let mut ganesha = Ganesha::start(&host, GRACE);
    host.block_on(async {
        let files = files(2).await;
        let clients = Clients::new(3);
        clients.lock_all(&files, 2).await;
        let ghost = Ghost::new(Ipv4Addr::new(127, 0, 2, 1), SERVER).await;
        assert_eq!(ghost.share(&files[0]).await, Stat::Granted);
        assert_eq!(ghost.lock(&files[0], range(60_000, 10)).await, Stat::Granted);
        let manager = manager(&host, false);
        let args = begin_args(&manager).await;
        let error = manager.begin(&args).await.unwrap_err();
        let ManagerError::Lost { what, .. } = &error else { panic!("{error:?}") };
        assert!(what.contains("SHARE") && what.contains("--resume"), "{what}");

        ganesha.start_again(&host);
        assert_eq!(manager.begin(&args).await.unwrap().in_scope, 13);
        let told = manager.run_clients(args.run).await.unwrap();
        assert_eq!(told.len(), 4, "those of before the crash");
        for &who in &clients.all {
            for lock in clients.farm.beliefs(who) {
                assert_eq!(clients.farm.reclaim(who, &lock).await.unwrap(), Stat::Granted);
            }
        }
        let counts = manager.status().await.unwrap().run.0.unwrap().counts;
        assert_eq!((counts.reclaimed, counts.pending), (12, 1));
    });
}
