//! The controller against a lock manager in memory: what it asks, in which order, and what the
//! record says when either of the two dies.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Instant;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

mod endings;
mod releases;
mod rounds;

use super::*;
use crate::manager::{Caution, Freed, Owners, OwnersView};
use crate::report::FailureKind;
use crate::wire::control::{
    self, Begun, Capabilities, ClientResultPage, ClientRow, Counts, ExtendArgs, Grace, Info, InstanceId, LockFatePage,
    LockPage, LocksArgs, Mode, ProgressArgs, Refusal, RefusalCode, ReleaseArgs, RunClient, RunResult, RunStatus,
    SettleArgs, SettleWhen, Status, WatchArgs, Watched,
};
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::{List, Maybe, Text};

const IN_SCOPE: u64 = 10;

#[derive(Debug)]
struct World {
    instance: InstanceId,
    state: NsmState,
    active: Option<(RunId, Instant, bool)>,
    pending: u64,
    results: Vec<RunResult>,
    acknowledged: BTreeSet<RunId>,
    refuses_begin: Option<RefusalCode>,
    refuses_clients: bool,
    clients: Vec<ClientRow>,
    /// Clients with locks that only its view of owners has.
    listed: Vec<ClientRow>,
    /// How long `begin` takes before it acts.
    slow_begin: Duration,
    /// How many `PROGRESS` calls from now on meet a run that is being settled.
    settling_for: usize,
    /// It has lost the results of its runs, and the connection breaks after each `result`.
    loses_results: bool,
    connection_broke: bool,
    asked: Vec<String>,
    cautions: Vec<Caution>,
    capabilities: Capabilities,
}

/// A lock manager without clients, whose ten locks are reclaimed by the test.
#[derive(Debug)]
pub(super) struct Fake(Mutex<World>);

impl Fake {
    pub(super) fn new(pending: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(World {
            instance: InstanceId([1; 16]),
            state: NsmState(7),
            active: None,
            pending,
            results: Vec::new(),
            acknowledged: BTreeSet::new(),
            refuses_begin: None,
            refuses_clients: false,
            clients: Vec::new(),
            listed: Vec::new(),
            slow_begin: Duration::ZERO,
            settling_for: 0,
            loses_results: false,
            connection_broke: false,
            asked: Vec::new(),
            cautions: Vec::new(),
            capabilities: Capabilities { release: false, ..Capabilities::COOPERATES },
        })))
    }
    fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }
    fn asked(&self) -> Vec<String> {
        self.with(|world| world.asked.clone())
    }
    fn note(&self, what: &str) {
        self.with(|world| world.asked.push(what.to_owned()));
    }
    /// The run ends, by whoever it is.
    fn end(&self, outcome: control::Outcome, reason: &str) -> Option<RunResult> {
        self.with(|world| {
            let (run, _, _) = world.active.take()?;
            let dropped = if outcome == control::Outcome::Settled { world.pending } else { 0 };
            let counts = Counts {
                in_scope: IN_SCOPE,
                reclaimed: IN_SCOPE - world.pending,
                dropped,
                kept: world.pending - dropped,
                ..Counts::default()
            };
            let result = RunResult {
                outcome,
                reason: Text::clipped(reason),
                alone: reason == "controller gone",
                old_state: NsmState(7),
                new_state: NsmState(9),
                counts,
                ..RunResult::sample(run)
            };
            world.results.push(result.clone());
            Some(result)
        })
    }
    /// A new life that remembers no run.
    fn restart(&self) {
        self.with(|world| {
            world.instance = InstanceId([2; 16]);
            world.active = None;
        });
    }
    fn current(&self) -> Status {
        self.with(|world| Status {
            instance: world.instance,
            nsm_state: world.state,
            grace: if world.active.is_some() { Grace::Strict } else { Grace::Open },
            grace_remaining_ms: 0,
            clients: 0,
            monitored: 0,
            locks: IN_SCOPE,
            unmonitored: 0,
            waiters: 0,
            run: Maybe(world.active.map(|(run, began, notices_begun)| RunStatus {
                run,
                mode: Mode::Strict,
                nsm_state: world.state,
                elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap(),
                remaining_ms: 60_000,
                latest_remaining_ms: 60_000,
                last_reclaim_ms: Maybe(None),
                counts: Counts {
                    in_scope: IN_SCOPE,
                    pending: world.pending,
                    reclaimed: IN_SCOPE - world.pending,
                    ..Counts::default()
                },
                notices_begun,
            })),
            cursor: 1,
        })
    }
    fn driven(&self, run: RunId) -> Result<(), ManagerError> {
        match self.with(|world| world.active) {
            Some((active, _, _)) if active == run => Ok(()),
            Some(_) | None => Err(Refusal::new(RefusalCode::UnknownRun, "no such run").into()),
        }
    }
}

#[async_trait]
impl LockManager for Fake {
    fn kind(&self) -> &'static str {
        "fake"
    }
    fn endpoint(&self) -> String {
        "memory".into()
    }
    async fn info(&self) -> Result<Info, ManagerError> {
        Ok(Info {
            software: Text::clipped("fake 1"),
            instance: self.with(|world| world.instance),
            nsm_state: self.with(|world| world.state),
            names: List::clipped(vec![CallerName::new("nas").unwrap()]),
            capabilities: self.with(|world| world.capabilities),
            domains: List::default(),
        })
    }
    async fn cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        Ok(self.with(|world| world.cautions.clone()))
    }
    async fn release(&self, _: &ReleaseArgs) -> Result<Freed, ManagerError> {
        Err(Refusal::new(RefusalCode::Unsupported, "it frees nothing").into())
    }
    async fn status(&self) -> Result<Status, ManagerError> {
        if self.with(|world| std::mem::take(&mut world.connection_broke)) {
            return Err(ManagerError::Lost { endpoint: self.endpoint(), what: "it broke".into() });
        }
        Ok(self.current())
    }
    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError> {
        Ok(self.with(|world| world.clients.clone()))
    }
    async fn owners(&self) -> Result<Owners, ManagerError> {
        let clients = self.with(|world| world.listed.clone());
        Ok(Owners::View(OwnersView { how: "looked at", clients, locks: Vec::new() }))
    }
    async fn locks(&self, _: &LocksArgs) -> Result<LockPage, ManagerError> {
        Ok(LockPage { locks: List::default(), next: 0 })
    }
    async fn begin(&self, args: &BeginArgs) -> Result<Begun, ManagerError> {
        self.note("begin");
        if let Some(code) = self.with(|world| world.refuses_begin) {
            return Err(Refusal::new(code, "not now").into());
        }
        tokio::time::sleep(self.with(|world| world.slow_begin)).await;
        self.with(|world| {
            world.active.get_or_insert((args.run, Instant::now(), false));
            world.state = NsmState(9);
        });
        Ok(Begun {
            run: args.run,
            old_state: NsmState(7),
            new_state: NsmState(9),
            in_scope: IN_SCOPE,
            unmonitored: 0,
            clients: 0,
            names: List::default(),
        })
    }
    async fn run_clients(&self, _: RunId) -> Result<Vec<RunClient>, ManagerError> {
        self.note("run_clients");
        if self.with(|world| world.refuses_clients) {
            return Err(Refusal::new(RefusalCode::Unsupported, "not here").into());
        }
        Ok(Vec::new())
    }
    async fn progress(&self, args: &ProgressArgs) -> Result<Status, ManagerError> {
        self.note("progress");
        self.driven(args.run)?;
        let settling = self.with(|world| {
            let left = world.settling_for;
            world.settling_for = left.saturating_sub(1);
            left > 0
        });
        if settling {
            return Err(Refusal::new(RefusalCode::WrongPhase, "the run is settling").into());
        }
        self.with(|world| {
            if let Some(active) = &mut world.active {
                active.2 |= args.notices_begun;
            }
        });
        Ok(self.current())
    }
    async fn extend(&self, _: &ExtendArgs) -> Result<Status, ManagerError> {
        Ok(self.current())
    }
    async fn settle(&self, args: &SettleArgs) -> Result<RunResult, ManagerError> {
        self.note("settle");
        self.driven(args.run)?;
        if args.when != SettleWhen::Always && self.with(|world| world.pending) > 0 {
            return Err(Refusal::new(RefusalCode::StillPending, "not yet").into());
        }
        self.end(control::Outcome::Settled, "nothing pending")
            .ok_or_else(|| Refusal::new(RefusalCode::UnknownRun, "gone").into())
    }
    async fn abort(&self, run: RunId) -> Result<RunResult, ManagerError> {
        self.note("abort");
        self.driven(run)?;
        self.end(control::Outcome::Aborted, "asked to")
            .ok_or_else(|| Refusal::new(RefusalCode::UnknownRun, "gone").into())
    }
    async fn result(&self, run: RunId) -> Result<RunResult, ManagerError> {
        self.note("result");
        self.with(|world| {
            if world.loses_results {
                world.results.clear();
                world.connection_broke = true;
            }
        });
        self.with(|world| world.results.iter().find(|result| result.run == run).cloned())
            .ok_or_else(|| Refusal::new(RefusalCode::UnknownRun, "no such run").into())
    }
    async fn result_clients(&self, _: RunId, _: u64) -> Result<ClientResultPage, ManagerError> {
        Ok(ClientResultPage { clients: List::default(), next: 0 })
    }
    async fn result_locks(&self, _: RunId, _: u64) -> Result<LockFatePage, ManagerError> {
        Ok(LockFatePage { locks: List::default(), next: 0 })
    }
    async fn acknowledge(&self, run: RunId) -> Result<(), ManagerError> {
        self.note("acknowledge");
        self.with(|world| world.acknowledged.insert(run));
        Ok(())
    }
    async fn unfetched(&self) -> Result<Vec<RunId>, ManagerError> {
        Ok(self.with(|world| {
            let ended = world.results.iter().map(|result| result.run);
            ended.filter(|run| !world.acknowledged.contains(run)).collect()
        }))
    }
    async fn watch(&self, _: WatchArgs) -> Result<Watched, ManagerError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(Watched { status: self.current(), events: List::default() })
    }
}

fn options() -> Options {
    Options { quiet_time: Duration::from_millis(20), ..Options::default() }
}

/// A record in its own folder.
struct Books(TempDir);

impl Books {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn open(&self) -> Store {
        Store::open(&self.0.path().join("runs.db")).unwrap()
    }
}

type Running = JoinHandle<Result<RunReport, ControllerError>>;

#[tokio::test]
async fn who_looks_who_works_with_a_record_keeps_nobody_from_it() {
    let books = Books::new();
    let lock = books.0.path().join("runs.db.lock");
    drop(books.open().begin_controller().unwrap());
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    let looking = std::thread::spawn(move || {
        while is_over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            drop(std::fs::File::open(&lock).unwrap().try_lock_shared());
        }
    });
    for _ in 0..100 {
        drop(take_over(books.open()).await.unwrap());
    }
    drop(over);
    looking.join().unwrap();
}

/// Plans, and starts the run; the sender brings signals.
async fn start(fake: &Arc<Fake>, books: &Books) -> (Running, mpsc::Sender<&'static str>) {
    start_as(fake, books, "nas").await
}

async fn start_as(fake: &Arc<Fake>, books: &Books, name: &str) -> (Running, mpsc::Sender<&'static str>) {
    let names = vec![CallerName::new(name).unwrap()];
    let request = Request { own_locks_lost: true, names, ..Request::default() };
    let plan = plan(&**fake, &request, &options()).await.unwrap();
    let consent = plan.agree(false, &mut ()).unwrap();
    let (signal, signals) = mpsc::channel(4);
    let manager: Arc<dyn LockManager> = Arc::clone(fake) as _;
    let run = resync(manager, books.open(), plan, consent, options(), watch::channel(Progress::START).0, signals);
    (tokio::spawn(run), signal)
}

async fn go_on(fake: &Arc<Fake>, books: &Books) -> Result<RunReport, ControllerError> {
    go_on_as(fake, books, &[]).await
}

async fn go_on_as(fake: &Arc<Fake>, books: &Books, names: &[&str]) -> Result<RunReport, ControllerError> {
    let names = names.iter().map(|name| CallerName::new(name).unwrap()).collect();
    let request = Request { own_locks_lost: true, names, ..Request::default() };
    let (_signal, signals) = mpsc::channel(4);
    let manager: Arc<dyn LockManager> = Arc::clone(fake) as _;
    let resumed = resume(manager, books.open(), &request, options(), watch::channel(Progress::START).0, signals);
    tokio::time::timeout(Duration::from_secs(20), resumed).await.expect("it hangs")
}

async fn until(what: impl Fn() -> bool) {
    let patience = tokio::time::timeout(Duration::from_secs(20), async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    patience.await.expect("it never came to that");
}

fn notifying(fake: &Fake) -> bool {
    fake.with(|world| world.active.is_some_and(|(_, _, begun)| begun))
}

/// The phase the record has of its only run.
fn phase(books: &Books) -> Option<Phase> {
    books.open().list(1).unwrap().first().map(|run| run.phase)
}

fn caution(weight: Weight) -> Caution {
    Caution { about: "nfsv4", weight, text: format!("{weight:?} this"), remedy: "do that".into() }
}

fn is<T>(result: &Result<T, ControllerError>, kind: FailureKind) -> bool {
    matches!(result, Err(ControllerError::Operator(failure)) if failure.kind == kind)
}

#[tokio::test]
async fn what_a_manager_warns_of_is_said_agreed_to_or_in_the_way() {
    let fake = Fake::new(0);
    let request = Request { own_locks_lost: true, ..Request::default() };
    fake.with(|world| world.cautions = vec![caution(Weight::Say), caution(Weight::Consent)]);
    let planned = plan(&*fake, &request, &options()).await.unwrap();
    assert_eq!(
        (planned.caveats.as_slice(), planned.consent.as_slice()),
        (["Say this".into()].as_slice(), ["Consent this".into()].as_slice())
    );
    assert!(planned.agree(false, &mut ()).is_err() && planned.agree(true, &mut ()).is_ok());
    fake.with(|world| world.cautions.push(caution(Weight::Refuse)));
    let refusal = Failure::from(plan(&*fake, &request, &options()).await.unwrap_err());
    assert_eq!((refusal.message.as_str(), refusal.remedy.as_str()), ("Refuse this", "do that"));
    assert_eq!(fake.asked(), Vec::<String>::new(), "nothing was touched");
}

#[tokio::test]
async fn a_run_is_begun_announced_settled_stored_and_then_acknowledged() {
    let (fake, books) = (Fake::new(0), Books::new());
    let report = start(&fake, &books).await.0.await.unwrap().unwrap();
    assert_eq!(report.run.outcome, Some(Outcome::Settled));
    assert_eq!((report.run.exit, report.run.phase), (Some(0), Phase::Done));
    assert_eq!((report.state.old, report.state.new), (Some(7), Some(9)));
    assert_eq!((report.locks.in_scope, report.locks.reclaimed), (10, 10));
    assert_eq!(fake.asked(), ["begin", "run_clients", "progress", "settle", "result", "acknowledge"]);
}

#[tokio::test]
async fn consent_to_another_plan_is_no_consent() {
    let request = Request { own_locks_lost: true, ..Request::default() };
    let other = Request { mode: Some(Mode::Targeted), ..request.clone() };
    for (agreed_to, meanwhile) in [(&other, None), (&request, Some(caution(Weight::Consent)))] {
        let (fake, books) = (Fake::new(0), Books::new());
        let agreed = plan(&*fake, agreed_to, &options()).await.unwrap().agree(true, &mut ()).unwrap();
        fake.with(|world| world.cautions.extend(meanwhile));
        let plan = plan(&*fake, &request, &options()).await.unwrap();
        let (_signal, signals) = mpsc::channel(1);
        let (manager, progress): (Arc<dyn LockManager>, _) =
            (Arc::clone(&fake) as _, watch::channel(Progress::START).0);
        let ran = resync(manager, books.open(), plan, agreed, options(), progress, signals).await;
        assert!(is(&ran, FailureKind::Refused));
        assert_eq!(fake.asked(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_plan_that_is_refused_begins_nothing_whatever_was_agreed_to_before() {
    let (fake, books) = (Fake::new(3), Books::new());
    let request = Request { own_locks_lost: true, ..Request::default() };
    let mut plan = plan(&*fake, &request, &options()).await.unwrap();
    let agreed = plan.agree(false, &mut ()).unwrap();
    plan.refusal = Some(Failure::refused("a client has fallen silent meanwhile", "wait for it"));
    let (_signal, signals) = mpsc::channel(1);
    let manager: Arc<dyn LockManager> = Arc::clone(&fake) as _;
    let ran = resync(manager, books.open(), plan, agreed, options(), watch::channel(Progress::START).0, signals).await;
    assert!(is(&ran, FailureKind::Refused));
    assert_eq!(fake.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_signal_after_the_announcement_leaves_the_run_and_a_resume_ends_it() {
    let (fake, books) = (Fake::new(3), Books::new());
    let (run, signal) = start(&fake, &books).await;
    until(|| phase(&books) >= Some(Phase::Notifying)).await;
    signal.send("SIGINT").await.unwrap();
    let left = run.await.unwrap().unwrap();
    assert_eq!((left.run.outcome, left.run.exit), (Some(Outcome::Interrupted), Some(1)));
    assert_eq!(left.locks.unverified, 3);
    assert!(!fake.asked().contains(&"abort".to_owned()));

    let request = Request { own_locks_lost: true, ..Request::default() };
    let again = plan(&*fake, &request, &options()).await;
    assert!(is(&again, FailureKind::Refused), "a second run while the first is active");

    fake.with(|world| world.pending = 0);
    let report = go_on(&fake, &books).await.unwrap();
    assert_eq!(report.run.id, left.run.id);
    assert_eq!((report.run.outcome, report.run.exit), (Some(Outcome::Settled), Some(0)));
    assert_eq!(report.state.new, Some(9));
    let Err(ControllerError::Operator(nothing)) = go_on(&fake, &books).await else {
        panic!("nothing is left to resume")
    };
    assert_eq!(nothing.kind, FailureKind::Refused);
    let named = format!("{}, has ended (settled), with exit status 0", left.run.id);
    assert!(nothing.message.contains(&named), "{nothing}");
}

#[tokio::test]
async fn a_manager_that_has_no_result_and_then_does_not_answer_was_not_seen_to_have_restarted() {
    let (fake, books) = (Fake::new(0), Books::new());
    fake.with(|world| world.loses_results = true);
    let run = start(&fake, &books).await.0;
    until(|| fake.asked().contains(&"result".to_owned())).await;
    fake.with(|world| world.loses_results = false);
    let report = tokio::time::timeout(Duration::from_secs(20), run).await.expect("it hangs").unwrap().unwrap();
    assert_ne!(report.run.outcome, Some(Outcome::Superseded), "{:?}", report.run.reason);
    assert_eq!(report.run.reason.as_deref(), Some(results::NO_RESULT));
}

#[tokio::test]
async fn a_run_is_gone_on_with_under_its_own_names_and_no_others() {
    for own in ["nas", "alias"] {
        let (fake, books) = (Fake::new(3), Books::new());
        let (run, signal) = start_as(&fake, &books, own).await;
        until(|| phase(&books) >= Some(Phase::Notifying)).await;
        signal.send("SIGINT").await.unwrap();
        run.await.unwrap().unwrap();
        let asked = fake.asked();
        for others in [&["other"][..], &["other", own], &[own, "other"]] {
            let failure = Failure::from(go_on_as(&fake, &books, others).await.unwrap_err());
            assert_eq!(failure.kind, FailureKind::Usage, "{failure}");
            assert!(
                failure.message.contains(own) && failure.remedy.ends_with(&format!(" `--name {own}`")),
                "{failure:?}"
            );
        }
        assert_eq!(fake.asked(), asked, "nothing was done");
        fake.with(|world| world.pending = 0);
        let report = go_on_as(&fake, &books, &[own]).await.unwrap();
        assert_eq!(report.run.outcome, Some(Outcome::Settled));
    }
}

#[tokio::test]
async fn an_announcement_that_meets_a_settling_manager_is_made_again_until_the_run_goes_on() {
    // The second one is longer than one call waits for it.
    for refusals in [2, 25] {
        let (fake, books) = (Fake::new(0), Books::new());
        fake.with(|world| world.settling_for = refusals);
        let run = start(&fake, &books).await.0;
        let report = tokio::time::timeout(Duration::from_secs(20), run).await.expect("it hangs");
        assert_eq!(report.unwrap().unwrap().run.outcome, Some(Outcome::Settled), "{refusals} refusals");
        let announced = fake.asked().iter().filter(|call| *call == "progress").count();
        assert!(announced > refusals, "{announced} announcements, {refusals} refused");
    }
}

#[tokio::test]
async fn an_announcement_that_meets_a_settling_manager_learns_that_the_run_is_over() {
    let (fake, books) = (Fake::new(3), Books::new());
    fake.with(|world| world.settling_for = usize::MAX);
    let run = start(&fake, &books).await.0;
    until(|| fake.asked().contains(&"progress".to_owned())).await;
    fake.end(control::Outcome::Settled, "deadline").unwrap();
    let report = tokio::time::timeout(Duration::from_secs(20), run).await.expect("it hangs").unwrap().unwrap();
    assert_eq!((report.run.outcome, report.locks.dropped), (Some(Outcome::Settled), 3));
}

#[tokio::test]
async fn a_run_whose_clients_are_refused_is_aborted_and_its_books_stay_open() {
    let (fake, books) = (Fake::new(3), Books::new());
    fake.with(|world| world.refuses_clients = true);
    let report = start(&fake, &books).await.0.await.unwrap().unwrap();
    assert_eq!(report.run.outcome, Some(Outcome::Interrupted));
    assert_eq!(fake.asked(), ["begin", "run_clients", "abort"]);
    let store = catch_up(&*fake, books.open()).await.unwrap();
    assert_eq!(store.list(1).unwrap()[0].outcome, Some(Outcome::Aborted));
}

#[tokio::test]
async fn two_signals_while_begin_is_awaited_leave_no_run_in_grace() {
    let (fake, books) = (Fake::new(3), Books::new());
    fake.with(|world| world.slow_begin = Duration::from_millis(200));
    let (run, signal) = start(&fake, &books).await;
    until(|| fake.asked() == ["begin"]).await;
    signal.send("SIGINT").await.unwrap();
    signal.send("SIGINT").await.unwrap();
    assert_eq!(run.await.unwrap().unwrap().run.outcome, Some(Outcome::Interrupted));
    assert!(fake.with(|world| world.active.is_none()), "still in grace: {:?}", fake.asked());
    let store = catch_up(&*fake, books.open()).await.unwrap();
    assert_eq!(store.list(1).unwrap()[0].outcome, Some(Outcome::Aborted));
}

#[tokio::test]
async fn a_run_that_the_hosts_own_mounts_forbid_says_so_and_what_to_do() {
    let (fake, books) = (Fake::new(0), Books::new());
    start(&fake, &books).await.0.await.unwrap().unwrap();
    let run = fake.with(|world| world.results[0].run);
    let record = Record::new(books.open());
    let why = Failure::refused("/mnt is mounted over NFSv3", "say --own-locks-lost");
    let driven = Ended { ending: Ending::Recorded, counts: None, forbidden: Some(why) };
    let error = conclude(&record, run, driven).await.unwrap_err();
    assert!(
        matches!(&error, ControllerError::Operator(why) if why.kind == FailureKind::Refused && why.remedy == "say --own-locks-lost"),
        "{error:?}"
    );
    assert!(error.to_string().contains("/mnt is mounted over NFSv3"), "{error}");
    let events = record.into_store().unwrap().detail(run).unwrap().events;
    assert!(events.iter().any(|event| event.kind == "refused" && event.detail.contains("/mnt")), "{events:?}");
}

#[tokio::test]
async fn a_refused_begin_touches_nothing_and_the_record_says_so() {
    let (fake, books) = (Fake::new(3), Books::new());
    fake.with(|world| world.refuses_begin = Some(RefusalCode::StalePlan));
    let error = start(&fake, &books).await.0.await.unwrap().unwrap_err();
    assert!(matches!(error, ControllerError::Manager(ManagerError::Refused(_))), "{error:?}");
    let runs = books.open().list(5).unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!((runs[0].outcome, runs[0].phase), (Some(Outcome::Failed), Phase::Done));
}

#[tokio::test]
async fn a_manager_that_restarted_leaves_what_was_pending_unverified() {
    let (fake, books) = (Fake::new(3), Books::new());
    let (run, _signal) = start(&fake, &books).await;
    until(|| notifying(&fake)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    fake.restart();
    let report = run.await.unwrap().unwrap();
    assert_eq!((report.run.outcome, report.run.exit), (Some(Outcome::Superseded), Some(1)));
    assert_eq!((report.locks.unverified, report.locks.reclaimed), (3, 7));
}

#[tokio::test]
async fn a_run_that_somebody_else_aborted_is_reported_as_aborted() {
    let (fake, books) = (Fake::new(3), Books::new());
    let (run, _signal) = start(&fake, &books).await;
    until(|| notifying(&fake)).await;
    fake.end(control::Outcome::Aborted, "nlmctl abort").unwrap();
    let report = run.await.unwrap().unwrap();
    assert_eq!((report.run.outcome, report.run.exit), (Some(Outcome::Aborted), Some(1)));
    assert_eq!(report.run.reason.as_deref(), Some("nlmctl abort"));
    assert_eq!(report.locks.kept, 3);
}

#[tokio::test]
async fn a_controller_killed_anywhere_leaves_books_that_the_next_command_closes_truthfully() {
    for calls in 0..7 {
        for restarted in [false, true] {
            let (fake, books) = (Fake::new(0), Books::new());
            let (run, _signal) = start(&fake, &books).await;
            until(|| fake.asked().len() >= calls || run.is_finished()).await;
            run.abort();
            let _ = run.await;
            // A write that was under way when the controller died may still end.
            tokio::time::sleep(Duration::from_millis(30)).await;
            if restarted {
                fake.restart();
            } else {
                fake.end(control::Outcome::Settled, "controller gone");
            }
            let store = catch_up(&*fake, books.open()).await.unwrap();
            assert!(
                store.unfinished(&fake.endpoint(), fake.status().await.unwrap().instance).unwrap().is_none(),
                "after {calls} calls"
            );
            let Some(closed) = store.list(1).unwrap().pop() else { continue };
            let result = fake.with(|world| world.results.first().map(|result| result.outcome.into()));
            match (result, closed.outcome) {
                (Some(told), outcome) => assert_eq!(outcome, Some(told), "after {calls} calls"),
                (None, outcome) => assert!(
                    matches!(outcome, Some(Outcome::Failed | Outcome::Superseded)),
                    "after {calls} calls: {outcome:?}"
                ),
            }
            assert_eq!(fake.unfetched().await.unwrap(), [], "after {calls} calls");
        }
    }
}

#[tokio::test]
async fn a_result_of_another_record_is_left_for_it() {
    let (fake, books, other) = (Fake::new(3), Books::new(), Books::new());
    let (run, signal) = start(&fake, &books).await;
    until(|| phase(&books) >= Some(Phase::Notifying)).await;
    signal.send("SIGTERM").await.unwrap();
    run.await.unwrap().unwrap();
    fake.end(control::Outcome::Settled, "controller gone");
    catch_up(&*fake, other.open()).await.unwrap();
    assert_eq!(fake.unfetched().await.unwrap().len(), 1);
    let store = catch_up(&*fake, books.open()).await.unwrap();
    assert_eq!(fake.unfetched().await.unwrap(), []);
    let closed = store.list(1).unwrap().remove(0);
    assert_eq!((closed.outcome, closed.exit, closed.locks.dropped), (Some(Outcome::Settled), Some(3), 3));
}

#[tokio::test]
async fn two_controllers_never_work_with_one_record() {
    let (fake, books) = (Fake::new(3), Books::new());
    let (run, signal) = start(&fake, &books).await;
    until(|| phase(&books) >= Some(Phase::Notifying)).await;
    assert!(matches!(go_on(&fake, &books).await, Err(ControllerError::Store(_))));
    signal.send("SIGTERM").await.unwrap();
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_run_of_a_manager_that_neither_marks_nor_lists_its_locks_is_unverified_also_in_the_record() {
    let (fake, books) = (Fake::new(0), Books::new());
    fake.with(|world| (world.capabilities.mark, world.capabilities.list_locks) = (false, false));
    let (running, _signal) = start(&fake, &books).await;
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.run.exit, report.run.locks_listed), (Some(6), false));
    let listed = books.open().list(1).unwrap();
    assert_eq!(listed.iter().map(|run| run.exit).collect::<Vec<_>>(), [Some(6)]);
}
