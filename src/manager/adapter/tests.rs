//! A manager of memory, driven: what a run says, and what is found of one whose driver died.

mod recovery;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tempfile::TempDir;

use super::backend::refused;
use super::*;
use crate::host::Lock;
use crate::manager::{Caution, Weight};
use crate::wire::control::{
    BeginArgs, ClientProgress, ClientRow, ClientSeen, Delivery, ExtendArgs, Fate, Info, LockDigest, LocksArgs, Outcome,
    ProgressArgs, ReleaseArgs, RunResult, Scope, SettleArgs, SettleWhen, Silent, WatchArgs,
};
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::List;

/// The manager's truth, shared by every process that drives it.
#[derive(Debug)]
struct World {
    locks: Vec<Lock>,
    local: Vec<LocalLock>,
    /// Of its locks, those that are seen in one reading and not in another.
    unsure: Vec<Lock>,
    clients: Vec<&'static str>,
    state: NsmState,
    life: u32,
    in_grace: bool,
    cautions: Vec<Caution>,
    /// Drop and then fail, as a process that is killed in the middle.
    dies: Option<Dies>,
    drops: usize,
    recovered: usize,
    /// A mark that the drop may have begun.
    mark: bool,
    /// Whether it leaves that mark until the drop is recorded; else recovery takes it away.
    leaves_mark: bool,
    /// How often a drop was finished.
    finished: usize,
    /// How often it cannot say who it is.
    unanswered: usize,
    /// How often it cannot be made to end its grace.
    stuck: usize,
    /// Whether its grace goes on all the same when it is ended.
    lingers: bool,
    /// Whether it can end its grace; one that cannot ends it by itself.
    ends_grace: bool,
    /// Whether beginning drops nothing.
    soft: bool,
    /// How many locks the drop misses.
    missed: usize,
    /// A client unlocks this, and another one locks that, between the last look and the drop.
    swap: Option<(Lock, Lock)>,
    /// Grace is a step of its own, and until it was taken this client took a lock.
    newcomer: Option<&'static str>,
    /// Clients whose locks were freed, outside of runs.
    released: Vec<String>,
    /// A client at whose release it is lost.
    dies_at: Option<&'static str>,
    /// A client that holds nothing any more.
    gone: Option<&'static str>,
    /// One that it cannot be told of.
    untold: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dies {
    InGrace,
    BeforeTheDrop,
    AfterTheDrop,
}

#[derive(Debug, Clone)]
struct Fake(Arc<Mutex<World>>);

impl Fake {
    fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }
}

#[async_trait]
impl Backend for Fake {
    fn kind(&self) -> &'static str {
        "fake"
    }
    fn endpoint(&self) -> String {
        "memory".into()
    }
    fn domains(&self) -> &'static [&'static str] {
        &["nlm"]
    }
    fn capabilities(&self) -> crate::wire::control::Capabilities {
        crate::wire::control::Capabilities {
            mark: false,
            list_locks: true,
            knows_owners: false,
            targeted: false,
            settle_early: self.with(|world| world.ends_grace),
            late_reclaims: false,
            release: false,
            knows_reclaims: true,
            knows_paths: false,
            begin_releases: self.with(|world| !world.soft),
        }
    }
    async fn identity(&self) -> Result<Identity, ManagerError> {
        let life = self.with(|world| {
            if world.unanswered > 0 {
                world.unanswered -= 1;
                return Err(ManagerError::Lost { endpoint: "memory".into(), what: "no answer".into() });
            }
            Ok(world.life.to_string())
        })?;
        Ok(Identity { software: "fake 1".into(), life, names: vec![CallerName::new("srv").unwrap()] })
    }
    async fn nsm_state(&self) -> Result<NsmState, ManagerError> {
        Ok(self.with(|world| world.state))
    }
    async fn sight(&self) -> Result<Snapshot, ManagerError> {
        Ok(self.with(|world| Snapshot {
            locks: world.locks.clone(),
            local: world.local.clone(),
            unsure: world.unsure.clone(),
            ..Snapshot::default()
        }))
    }
    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError> {
        let row = |name: &&'static str| client_row(CallerName::new(name).unwrap(), ["127.0.0.9".parse().unwrap()], []);
        Ok(self.with(|world| world.clients.iter().map(row).collect()))
    }
    async fn in_grace(&self) -> Result<bool, ManagerError> {
        Ok(self.with(|world| world.in_grace))
    }
    async fn cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        Ok(self.with(|world| world.cautions.clone()))
    }
    async fn may_have_dropped(&self) -> Result<bool, ManagerError> {
        Ok(self.with(|world| world.mark))
    }
    async fn recover(&self) -> Result<Vec<String>, ManagerError> {
        self.with(|world| {
            world.recovered += 1;
            world.mark &= world.leaves_mark;
        });
        self.identity().await.map(|_| Vec::new())
    }
    async fn finish_drop(&self) -> Result<Vec<String>, ManagerError> {
        self.with(|world| {
            if !world.mark {
                return Ok(Vec::new());
            }
            world.finished += 1;
            world.locks.clear();
            Ok(vec!["finished".into()])
        })
    }
    async fn recorded(&self) -> Result<(), ManagerError> {
        self.with(|world| world.mark = false);
        Ok(())
    }
    async fn raise_state(&self, state: NsmState) -> Result<(), ManagerError> {
        self.with(|world| world.state = state);
        Ok(())
    }
    async fn enter_grace(&self) -> Result<bool, ManagerError> {
        self.with(|world| {
            let Some(newcomer) = world.newcomer else { return Ok(false) };
            world.in_grace = true;
            world.clients.push(newcomer);
            world.locks.push(lock(newcomer, 0));
            if world.dies == Some(Dies::InGrace) {
                return Err(ManagerError::Lost { endpoint: "memory".into(), what: "killed".into() });
            }
            Ok(true)
        })
    }
    async fn begin(&self, grace: Duration) -> Result<Dropped, ManagerError> {
        self.with(|world| {
            let killed = || ManagerError::Lost { endpoint: "memory".into(), what: "killed".into() };
            if world.dies == Some(Dies::BeforeTheDrop) {
                return Err(killed());
            }
            if let Some((unlocked, locked)) = world.swap.take() {
                world.locks.retain(|held| *held != unlocked);
                world.locks.push(locked);
            }
            let before =
                Some(Snapshot { locks: world.locks.clone(), local: world.local.clone(), ..Snapshot::default() });
            world.in_grace = true;
            if !world.soft {
                world.drops += 1;
                world.mark = world.leaves_mark;
                let missed = world.missed;
                world.locks.truncate(missed);
                // Where records go with the last lock.
                if world.newcomer.is_some() {
                    world.clients.clear();
                }
                world.life += 1;
            }
            if world.dies == Some(Dies::AfterTheDrop) {
                return Err(killed());
            }
            Ok(Dropped { grace, before, notes: vec!["dropped".into()] })
        })
    }
    async fn end_grace(&self) -> Result<GraceEnd, ManagerError> {
        self.with(|world| {
            if world.stuck > 0 {
                world.stuck -= 1;
                return Err(ManagerError::Lost { endpoint: "memory".into(), what: "stuck".into() });
            }
            world.in_grace &= !world.ends_grace || world.lingers;
            Ok(if world.in_grace { GraceEnd::GoesOn("it ends by itself".into()) } else { GraceEnd::Over })
        })
    }
    async fn finish(&self) -> Result<Vec<String>, ManagerError> {
        Ok(Vec::new())
    }
    async fn release_client(&self, client: &CallerName) -> Result<ClientReleased, ManagerError> {
        self.with(|world| {
            if world.dies_at == Some(client.as_str()) {
                return Err(ManagerError::Lost { endpoint: "memory".into(), what: "killed".into() });
            }
            if world.gone == Some(client.as_str()) {
                return refused(RefusalCode::BadRequest, "it holds no lock");
            }
            if world.untold == Some(client.as_str()) {
                let note = Some("it was not told".to_owned());
                return Ok(ClientReleased { left: true, note, ..ClientReleased::default() });
            }
            world.released.push(client.as_str().to_owned());
            Ok(ClientReleased { freed: vec![lock("a", 0)], ..ClientReleased::default() })
        })
    }
    async fn paths(&self, files: &[String]) -> HashMap<String, String> {
        files.iter().map(|file| (file.clone(), format!("/srv/{file}"))).collect()
    }
}

/// A host with the manager; each `driver` is a process on it.
struct Host {
    fake: Fake,
    dir: TempDir,
}

fn lock(file: &str, start: u64) -> Lock {
    Lock { file: file.into(), exclusive: true, start, end: start + 9 }
}

impl Host {
    fn new() -> Self {
        let world = World {
            locks: vec![lock("a", 0), lock("a", 100), lock("b", 0)],
            local: Vec::new(),
            clients: vec!["c1", "c2"],
            state: NsmState(3),
            life: 1,
            in_grace: false,
            cautions: Vec::new(),
            dies: None,
            drops: 0,
            recovered: 0,
            mark: false,
            leaves_mark: false,
            finished: 0,
            unanswered: 0,
            stuck: 0,
            lingers: false,
            ends_grace: true,
            soft: false,
            missed: 0,
            unsure: Vec::new(),
            swap: None,
            newcomer: None,
            released: Vec::new(),
            dies_at: None,
            gone: None,
            untold: None,
        };
        Self { fake: Fake(Arc::new(Mutex::new(world))), dir: tempfile::tempdir().unwrap() }
    }
    fn driver(&self) -> Adapter<Fake> {
        Adapter::new(self.fake.clone(), RunFiles::new(self.dir.path()))
    }
    fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        self.fake.with(work)
    }
    fn comes_back(&self, locks: &[Lock]) {
        self.with(|world| world.locks.extend_from_slice(locks));
    }
}

async fn begin_args(driver: &Adapter<Fake>, run: u8) -> BeginArgs {
    let Info { instance, nsm_state, .. } = driver.info().await.unwrap();
    BeginArgs { instance, nsm_state, grace_max_ms: 90_000, ..BeginArgs::sample(RunId([run; 16])) }
}

async fn begun(driver: &Adapter<Fake>, run: u8) -> RunId {
    let args = begin_args(driver, run).await;
    driver.begin(&args).await.unwrap();
    args.run
}

async fn told(driver: &Adapter<Fake>, run: RunId) -> Status {
    acked(driver, run, 0).await
}

async fn acked(driver: &Adapter<Fake>, run: RunId, client: u32) -> Status {
    let client = ClientProgress { client, delivery: Delivery::Acked, ago_ms: 0, suspect: false };
    driver.progress(&ProgressArgs { run, notices_begun: true, clients: List::clipped(vec![client]) }).await.unwrap()
}

/// A driver with a run of which one client is told.
async fn in_a_run(host: &Host) -> (Adapter<Fake>, RunId) {
    let driver = host.driver();
    let run = begun(&driver, 1).await;
    told(&driver, run).await;
    (driver, run)
}

fn counts(status: &Status) -> (u64, u64, u64) {
    let counts = status.run.0.as_ref().unwrap().counts;
    (counts.in_scope, counts.pending, counts.reclaimed)
}

fn code<T: std::fmt::Debug>(answer: Result<T, ManagerError>) -> RefusalCode {
    answer.unwrap_err().refused().unwrap()
}

const SETTLE_EARLY: bool = true;

async fn settle(driver: &Adapter<Fake>, run: RunId, early: bool) -> Result<RunResult, ManagerError> {
    let when = if early { SettleWhen::NothingPending } else { SettleWhen::Always };
    driver.settle(&SettleArgs { run, when }).await
}

#[tokio::test]
async fn a_run_drops_once_and_settles_when_everything_is_back() {
    let host = Host::new();
    let driver = host.driver();
    let args = begin_args(&driver, 1).await;
    let answer = driver.begin(&args).await.unwrap();
    assert_eq!((answer.old_state, answer.new_state, answer.in_scope, answer.clients), (NsmState(3), NsmState(5), 3, 2));
    assert_eq!(driver.begin(&args).await.unwrap(), answer, "asked again it answers the same");
    assert_eq!(host.with(|world| (world.drops, world.state)), (1, NsmState(5)));
    assert_eq!(counts(&told(&driver, args.run).await), (3, 3, 0));

    host.comes_back(&[lock("a", 0), lock("b", 0)]);
    assert_eq!(counts(&driver.status().await.unwrap()), (3, 1, 2));
    assert_eq!(code(settle(&driver, args.run, SETTLE_EARLY).await), RefusalCode::StillPending);
    host.comes_back(&[lock("a", 100)]);
    let result = settle(&driver, args.run, SETTLE_EARLY).await.unwrap();
    assert_eq!((result.outcome, result.counts.reclaimed, result.counts.dropped), (Outcome::Settled, 3, 0));
    assert!(!host.with(|world| world.in_grace));
    assert_eq!(driver.status().await.unwrap().run, Maybe(None));
    assert_eq!(driver.unfetched().await.unwrap(), [args.run]);
    driver.acknowledge(args.run).await.unwrap();
    assert_eq!(driver.unfetched().await.unwrap(), []);
    assert_eq!(driver.result(args.run).await.unwrap(), result);
}

#[tokio::test]
async fn what_is_missing_at_the_end_is_dropped_and_the_thief_is_named() {
    let host = Host::new();
    let (driver, run) = in_a_run(&host).await;
    host.comes_back(&[lock("a", 0), lock("c", 0)]);
    let thief = LocalLock { lock: lock("b", 5), pid: 77, process: "dd".into() };
    host.with(|world| world.local.push(thief));
    let result = settle(&driver, run, false).await.unwrap();
    let counts = result.counts;
    assert_eq!(
        (counts.in_scope, counts.reclaimed, counts.dropped, counts.resurrected, counts.conflicts),
        (3, 1, 2, 1, 1)
    );
    let rows = driver.result_locks(run, 0).await.unwrap().locks.into_vec();
    let fates: Vec<_> = rows.iter().map(|row| (row.fate, row.range.start)).collect();
    assert_eq!(fates, [(Fate::Dropped, 100), (Fate::Dropped, 0), (Fate::Conflict, 0), (Fate::Resurrected, 0)]);
    let other = rows[2].other.0.as_ref().unwrap();
    assert_eq!((other.name.as_str(), other.svid.0), ("local-process-dd-(pid-77)", 77));
    let watched = driver.watch(WatchArgs { cursor: 0, timeout_ms: 0 }).await.unwrap();
    let lines: Vec<_> = watched.events.as_slice().iter().map(|event| event.detail.as_str().to_owned()).collect();
    assert!(lines.iter().any(|l| l.contains("100-109 of a (/srv/a) was not reclaimed")), "{lines:#?}");
    assert!(lines.iter().any(|l| l.contains("local process dd (pid 77) holds")), "{lines:#?}");
}

#[tokio::test]
async fn a_lock_that_cannot_be_seen_for_sure_at_the_end_is_unverified_and_never_dropped() {
    let host = Host::new();
    let (driver, run) = in_a_run(&host).await;
    host.comes_back(&[lock("a", 0), lock("b", 0)]);
    host.with(|world| world.unsure = vec![lock("a", 0)]);
    let counts = settle(&driver, run, false).await.unwrap().counts;
    // The third was seen in no reading: it may have been passed over in each.
    assert_eq!((counts.reclaimed, counts.unverified, counts.dropped), (1, 2, 0));
}

#[tokio::test]
async fn a_run_that_has_begun_is_not_aborted() {
    let host = Host::new();
    let driver = host.driver();
    let run = begun(&driver, 1).await;
    assert_eq!(code(driver.abort(run).await), RefusalCode::Unsupported);
    assert!(driver.status().await.unwrap().run.0.is_some());
}

#[tokio::test]
async fn what_the_operator_was_not_told_of_is_in_the_way() {
    let host = Host::new();
    let driver = host.driver();
    let args = begin_args(&driver, 1).await;
    let caution = |weight| Caution { about: "nfsv4", weight, text: "disturb".into(), remedy: "wait".into() };
    host.with(|world| world.cautions = vec![caution(Weight::Consent)]);
    assert_eq!(code(driver.begin(&args).await), RefusalCode::StalePlan);
    driver.cautions().await.unwrap();
    host.with(|world| world.cautions = vec![caution(Weight::Refuse)]);
    assert_eq!(code(driver.begin(&args).await), RefusalCode::Unsupported);
    assert_eq!(host.with(|world| (world.drops, world.state)), (0, NsmState(3)), "nothing was touched");
    host.with(|world| world.cautions = vec![caution(Weight::Consent)]);
    driver.begin(&args).await.unwrap();
}

#[tokio::test]
async fn a_plan_of_another_life_or_state_and_a_grace_of_its_own_are_refused() {
    let host = Host::new();
    let driver = host.driver();
    let args = begin_args(&driver, 1).await;
    host.with(|world| world.life += 1);
    assert_eq!(code(driver.begin(&args).await), RefusalCode::StalePlan);
    let args = begin_args(&driver, 1).await;
    host.with(|world| world.state = NsmState(9));
    assert_eq!(code(driver.begin(&args).await), RefusalCode::StalePlan);
    host.with(|world| world.in_grace = true);
    assert_eq!(code(driver.begin(&begin_args(&driver, 1).await).await), RefusalCode::GraceActive);
    assert_eq!(driver.status().await.unwrap().grace, Grace::Recovery);
    assert_eq!(host.with(|world| world.drops), 0);
}

#[tokio::test]
async fn a_run_is_no_new_life_of_the_manager() {
    let host = Host::new();
    let driver = host.driver();
    let before = driver.info().await.unwrap().instance;
    let run = begun(&driver, 1).await;
    assert_eq!(driver.info().await.unwrap().instance, before);
    told(&driver, run).await;
    settle(&driver, run, false).await.unwrap();
    assert_eq!(host.driver().info().await.unwrap().instance, before);
    host.with(|world| world.life += 1);
    assert_ne!(driver.info().await.unwrap().instance, before);
}

#[tokio::test]
async fn a_look_makes_no_folder_and_a_run_does() {
    let host = Host::new();
    let dir = host.dir.path().join("made/by");
    let driver = Adapter::new(host.fake.clone(), RunFiles::new(&dir));
    let page = LocksArgs { scope: Scope::default(), after: 0 };
    assert!(driver.status().await.unwrap().run.0.is_none());
    driver.locks(&page).await.unwrap();
    driver.unfetched().await.unwrap();
    assert!(!host.dir.path().join("made").exists());
    begun(&driver, 1).await;
    assert!(dir.join("driver.lock").exists());
}

#[tokio::test]
async fn a_clients_locks_are_released_only_while_no_other_process_drives() {
    let host = Host::new();
    let driver = host.driver();
    let release = async || {
        let Info { instance, .. } = driver.info().await.unwrap();
        let (name, address) = (CallerName::new("c1").unwrap(), "127.0.0.9".parse().unwrap());
        let client = ClientSeen { name, address, locks: 1, waiters: 0, digest: LockDigest([0; 32]) };
        let clients = List::clipped(vec![client]);
        driver.release(&ReleaseArgs { instance, clients, locks: List::default() }).await
    };
    let other = RunFiles::new(host.dir.path()).try_drive().unwrap().unwrap();
    assert_eq!(code(release().await), RefusalCode::RunActive);
    assert_eq!(host.with(|world| world.released.clone()), [""; 0]);
    drop(other);
    release().await.unwrap();
    assert_eq!(host.with(|world| world.released.clone()), ["c1"]);
    assert!(RunFiles::new(host.dir.path()).try_drive().unwrap().is_some(), "the right to drive was given back");
}

#[tokio::test]
async fn what_was_released_before_one_client_failed_is_told_and_the_others_count_as_left() {
    let host = Host::new();
    host.with(|world| world.dies_at = Some("c2"));
    let driver = host.driver();
    let release = async |names: &[&str]| {
        let Info { instance, .. } = driver.info().await.unwrap();
        let address = "127.0.0.9".parse().unwrap();
        let client = |name: &&str| ClientSeen::new(CallerName::new(name).unwrap(), address, &[]);
        let clients = List::clipped(names.iter().map(client).collect());
        driver.release(&ReleaseArgs { instance, clients, locks: List::default() }).await
    };
    let freed = release(&["c1", "c2", "c3"]).await.unwrap();
    assert_eq!((freed.released.locks, freed.released.left, freed.released.rows.as_slice().len()), (1, 2, 1));
    assert!(freed.unverified);
    assert!(freed.notes[0].contains("c2") && freed.notes[0].contains("killed"), "{:?}", freed.notes);
    assert!(freed.notes[1].contains("c3"), "{:?}", freed.notes);
    assert_eq!(host.with(|world| world.released.clone()), ["c1"]);
    // Nothing was freed before it: the failure is the whole answer.
    assert!(matches!(release(&["c2", "c3"]).await, Err(ManagerError::Lost { .. })));
    // One that holds nothing any more is not left, and is in nobody's way.
    host.with(|world| (world.dies_at, world.gone) = (None, Some("c2")));
    let freed = release(&["c1", "c2", "c3"]).await.unwrap();
    assert_eq!((freed.released.locks, freed.released.left, freed.unverified), (2, 0, false));
    assert!(freed.notes.len() == 1 && freed.notes[0].contains("c2"), "{:?}", freed.notes);
    assert_eq!(host.with(|world| world.released.clone()), ["c1", "c1", "c3"]);
    assert_eq!(code(release(&["c2", "c3"]).await), RefusalCode::BadRequest);
    // One that cannot be told is left, wherever it stands, and in nobody's way.
    host.with(|world| (world.gone, world.untold) = (None, Some("c2")));
    for names in [["c1", "c2", "c3"], ["c2", "c1", "c3"]] {
        let freed = release(&names).await.unwrap();
        assert_eq!((freed.released.locks, freed.released.left, freed.unverified), (2, 1, false));
        assert_eq!(freed.notes, ["c2: it was not told"]);
    }
}

#[tokio::test]
async fn only_one_process_drives_and_another_sees_the_run() {
    let host = Host::new();
    let (driver, other) = (host.driver(), host.driver());
    let run = begun(&driver, 1).await;
    let seen = other.status().await.unwrap();
    assert_eq!(seen.run.0.unwrap().run, run);
    assert_eq!(code(settle(&other, run, false).await), RefusalCode::RunActive);
    assert_eq!(code(other.begin(&begin_args(&other, 2).await).await), RefusalCode::RunActive);
    drop(driver);
    told(&other, run).await;
    settle(&other, run, false).await.unwrap();
}

#[tokio::test]
async fn what_nobody_watched_is_unverified() {
    let host = Host::new();
    let (driver, run) = in_a_run(&host).await;
    host.comes_back(&[lock("a", 0)]);
    driver.status().await.unwrap();
    drop(driver);
    host.with(|world| world.in_grace = false);
    host.comes_back(&[lock("b", 0)]);
    let result = host.driver().result(run).await.unwrap();
    assert_eq!((result.outcome, result.alone, result.counts.unverified), (Outcome::Settled, true, 3));
}

#[tokio::test]
async fn a_manager_that_restarts_in_the_middle_supersedes_the_run() {
    let host = Host::new();
    let (driver, run) = in_a_run(&host).await;
    host.with(|world| world.life += 1);
    assert_eq!(driver.status().await.unwrap().run, Maybe(None));
    assert_eq!(driver.result(run).await.unwrap().outcome, Outcome::Superseded);
}

#[tokio::test]
async fn locks_are_listed_without_owners_and_by_file() {
    let host = Host::new();
    let driver = host.driver();
    let mut args = LocksArgs { scope: Scope::default(), after: 0 };
    let page = driver.locks(&args).await.unwrap();
    assert_eq!(page.locks.as_slice().len(), 3);
    assert_eq!(page.locks.as_slice()[0].lock.owner.name.as_str(), "owner-not-known");
    args.scope.files = List::clipped(vec![page.locks.as_slice()[2].lock.file.clone()]);
    assert_eq!(driver.locks(&args).await.unwrap().locks.as_slice().len(), 1);
}

#[tokio::test]
async fn all_pages_of_a_listing_are_of_one_look() {
    let host = Host::new();
    host.with(|world| world.locks = (0..1_500).map(|n| lock("a", n * 10)).collect());
    let driver = host.driver();
    let first = driver.locks(&LocksArgs { scope: Scope::default(), after: 0 }).await.unwrap();
    // One of the first page goes, so all behind it move up.
    host.with(|world| world.locks.remove(0));
    let next = driver.locks(&LocksArgs { scope: Scope::default(), after: first.next }).await.unwrap();
    let starts = first.locks.as_slice().iter().chain(next.locks.as_slice()).map(|row| row.lock.range.start);
    assert_eq!(starts.collect::<Vec<_>>(), (0..1_500).map(|n| n * 10).collect::<Vec<_>>());
    assert_eq!(
        (next.next, code(driver.locks(&LocksArgs { scope: Scope::default(), after: 5 }).await)),
        (0, RefusalCode::BadRequest)
    );
}

#[tokio::test]
async fn a_grace_that_only_the_manager_ends_is_waited_for_and_what_came_after_it_is_not_believed() {
    let host = Host::new();
    host.with(|world| world.ends_grace = false);
    let (driver, run) = in_a_run(&host).await;
    host.comes_back(&[lock("a", 0)]);
    assert_eq!(code(settle(&driver, run, false).await), RefusalCode::StillPending);
    // Grace goes on, and so do reclaims, though the deadline was reached.
    host.comes_back(&[lock("a", 100)]);
    driver.status().await.unwrap();
    host.with(|world| {
        world.in_grace = false;
        // Anybody's, once ordinary locks are granted again.
        world.locks.push(lock("b", 0));
    });
    assert_eq!(code(settle(&driver, run, false).await), RefusalCode::WrongPhase, "it is over");
    let result = driver.result(run).await.unwrap();
    let counts = result.counts;
    assert_eq!((counts.in_scope, counts.reclaimed, counts.dropped, counts.unverified), (3, 2, 0, 1));
    assert_eq!((result.outcome, result.alone), (Outcome::Settled, false));
}

#[tokio::test]
async fn an_ack_counts_as_long_as_the_managers_grace_lasts_and_its_client_is_not_owed_a_notice() {
    let host = Host::new();
    host.with(|world| world.ends_grace = false);
    let (driver, run) = in_a_run(&host).await;
    assert_eq!(code(settle(&driver, run, false).await), RefusalCode::StillPending);
    acked(&driver, run, 1).await;
    host.with(|world| world.in_grace = false);
    let result = driver.result(run).await.unwrap();
    assert_eq!((result.counts.dropped, result.not_understood), (3, true), "all acked, and none heeded it");
    assert_eq!(driver.owed().await.unwrap(), []);
}

#[tokio::test]
async fn progress_that_tells_nothing_writes_nothing() {
    let host = Host::new();
    let (driver, run) = in_a_run(&host).await;
    let tell = async |clients| {
        driver.state().saved = None;
        let args = ProgressArgs { run, notices_begun: true, clients: List::clipped(clients) };
        driver.progress(&args).await.unwrap();
        driver.state().saved.is_some()
    };
    let news = ClientProgress { client: 1, delivery: Delivery::NoAnswer, ago_ms: 0, suspect: false };
    assert_eq!((tell(vec![]).await, tell(vec![news]).await), (false, true));
}

#[tokio::test]
async fn a_lock_that_is_missing_when_a_watched_grace_ends_by_itself_is_dropped() {
    let host = Host::new();
    host.with(|world| world.ends_grace = false);
    let (driver, run) = in_a_run(&host).await;
    host.comes_back(&[lock("a", 0), lock("b", 0)]);
    driver.status().await.unwrap();
    host.with(|world| world.in_grace = false);
    assert_eq!(driver.status().await.unwrap().run, Maybe(None));
    let counts = driver.result(run).await.unwrap().counts;
    assert_eq!((counts.reclaimed, counts.dropped, counts.unverified), (2, 1, 0));
}

#[tokio::test]
async fn a_soft_run_keeps_what_nobody_reclaims_and_brings_back_what_was_lost() {
    let host = Host::new();
    host.with(|world| (world.ends_grace, world.soft) = (false, true));
    let driver = host.driver();
    let run = begun(&driver, 1).await;
    assert_eq!(counts(&told(&driver, run).await), (3, 3, 0), "a reclaim of a lock that is held leaves no trace");
    assert!(!driver.info().await.unwrap().capabilities.begin_releases);
    host.comes_back(&[lock("lost", 0)]);
    host.with(|world| world.locks.retain(|held| *held != lock("b", 0)));
    driver.status().await.unwrap();
    host.with(|world| world.in_grace = false);
    let result = settle(&driver, run, false).await;
    assert_eq!(code(result), RefusalCode::WrongPhase, "it is over");
    let counts = driver.result(run).await.unwrap().counts;
    assert_eq!((counts.kept, counts.released, counts.resurrected, counts.dropped), (2, 1, 1, 0));
    assert_eq!(host.with(|world| world.drops), 0);
    let rows = driver.result_locks(run, 0).await.unwrap().locks.into_vec();
    let fates: Vec<_> = rows.iter().map(|row| row.fate).collect();
    assert_eq!(fates, [Fate::Kept, Fate::Kept, Fate::Resurrected]);
}

#[tokio::test]
async fn a_soft_run_can_be_aborted_by_any_driver_and_everything_stays() {
    let host = Host::new();
    host.with(|world| world.soft = true);
    let run = begun(&host.driver(), 1).await;
    // Whatever the next process would do itself, this run has dropped nothing.
    host.with(|world| world.soft = false);
    let other = host.driver();
    assert!(!other.info().await.unwrap().capabilities.begin_releases);
    let result = other.abort(run).await.unwrap();
    assert_eq!((result.outcome, result.counts.kept, result.counts.in_scope), (Outcome::Aborted, 3, 3));
    assert!(other.info().await.unwrap().capabilities.begin_releases);
}

#[tokio::test]
async fn a_soft_run_that_another_driver_watches_is_aborted_by_that_one() {
    let host = Host::new();
    host.with(|world| world.soft = true);
    let (driver, other) = (host.driver(), host.driver());
    let run = begun(&driver, 1).await;
    told(&driver, run).await;
    let watch = async {
        while driver.status().await.unwrap().run.0.is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let (result, ()) = tokio::join!(other.abort(run), watch);
    assert_eq!(result.unwrap().outcome, Outcome::Aborted);
    assert_eq!(code(other.abort(run).await), RefusalCode::WrongPhase);
    // One that has dropped its locks goes on.
    host.with(|world| (world.soft, world.in_grace) = (false, false));
    let run = begun(&driver, 2).await;
    assert_eq!(code(other.abort(run).await), RefusalCode::Unsupported);
    assert!(driver.status().await.unwrap().run.0.is_some());
}

#[tokio::test]
async fn silent_clients_cannot_be_spared_where_beginning_drops() {
    let host = Host::new();
    let driver = host.driver();
    let mut args = begin_args(&driver, 1).await;
    args.policy.silent = Silent::Keep;
    assert_eq!(code(driver.begin(&args).await), RefusalCode::Unsupported);
    assert_eq!(host.with(|world| world.drops), 0);
    host.with(|world| world.soft = true);
    driver.begin(&args).await.unwrap();
}

#[test]
fn a_hundred_thousand_owed_clients_are_joined_with_as_many_known_ones_without_a_walk_for_each() {
    let began = Instant::now();
    let row = |n: u32| client_row(CallerName::new(&format!("c{n}")).unwrap(), ["127.0.0.9".parse().unwrap()], []);
    let owed = Adapter::<Fake>::to_notify((50_000..150_000).map(row).collect(), &[]);
    let all = Adapter::<Fake>::to_notify((0..100_000).map(row).collect(), &owed);
    assert_eq!((all.len(), all.last().unwrap().index), (150_000, 149_999));
    // A walk for each takes minutes.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_came_until_grace_was_on_is_told_too() {
    let host = Host::new();
    host.with(|world| world.newcomer = Some("late"));
    let driver = host.driver();
    let args = begin_args(&driver, 1).await;
    let answer = driver.begin(&args).await.unwrap();
    assert_eq!((answer.in_scope, answer.clients), (4, 3));
    let told = driver.run_clients(args.run).await.unwrap();
    assert_eq!(told.last().unwrap().name.as_str(), "late");
}

#[tokio::test]
async fn a_lock_that_the_drop_missed_is_kept_and_never_counts_as_reclaimed() {
    let host = Host::new();
    host.with(|world| world.missed = 1);
    let driver = host.driver();
    let run = begun(&driver, 1).await;
    assert_eq!(counts(&told(&driver, run).await), (3, 2, 0));
    host.comes_back(&[lock("a", 100), lock("b", 0)]);
    let counts = settle(&driver, run, SETTLE_EARLY).await.unwrap().counts;
    assert_eq!((counts.reclaimed, counts.kept, counts.dropped), (2, 1, 0));
}

#[tokio::test]
async fn what_counts_is_what_was_locked_when_it_was_dropped() {
    let host = Host::new();
    let (unlocked, locked) = (lock("b", 0), lock("c", 0));
    host.with(|world| world.swap = Some((unlocked, locked.clone())));
    let driver = host.driver();
    let run = begun(&driver, 1).await;
    assert_eq!(counts(&told(&driver, run).await), (3, 3, 0));
    host.comes_back(&[lock("a", 0), lock("a", 100), locked]);
    // Another process finds the same on disk.
    drop(driver);
    let counts = settle(&host.driver(), run, SETTLE_EARLY).await.unwrap().counts;
    assert_eq!((counts.reclaimed, counts.resurrected, counts.dropped), (3, 0, 0));
}

#[tokio::test]
async fn notices_that_every_client_acked_and_none_heeded_were_not_understood() {
    let host = Host::new();
    let (driver, run) = in_a_run(&host).await;
    acked(&driver, run, 1).await;
    let result = settle(&driver, run, false).await.unwrap();
    assert_eq!((result.counts.dropped, result.not_understood), (3, true));
}

#[tokio::test]
async fn what_is_missing_while_grace_goes_on_is_unverified() {
    let host = Host::new();
    host.with(|world| world.lingers = true);
    let (driver, run) = in_a_run(&host).await;
    host.comes_back(&[lock("a", 0)]);
    let counts = settle(&driver, run, false).await.unwrap().counts;
    assert_eq!((counts.in_scope, counts.reclaimed, counts.dropped, counts.unverified), (3, 1, 0, 2));
    let rows = driver.result_locks(run, 0).await.unwrap().locks.into_vec();
    assert!(rows.iter().all(|row| row.fate != Fate::Dropped), "{rows:?}");
}
