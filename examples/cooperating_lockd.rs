//! One's own lock manager, made to cooperate: a toy that serves the control protocol
//! (`src/wire/control.x`), so that `nlmctl resync` can drive it as it drives nlmd.
//!
//! ```sh
//! cargo run --example cooperating_lockd -- --control /tmp/toy.sock --state-dir /tmp/toy
//! ```
//! Its locks are whole files, asked for on stdin, one line each, answered on stdout:
//! `lock NAME ADDRESS FILE`, `reclaim NAME ADDRESS FILE`, `unlock NAME ADDRESS FILE`. A real one gets
//! them by NLM. What is worth reading is what a run asks of it:
//!
//! - `begin`: the new state number is on disk *before* every lock is marked, which is one step with
//!   grace; the same run once more is answered as the first time;
//! - in grace a pending lock still protects its file, and a reclaim is refused only for a conflict;
//! - `progress` tells whose notices were acked; a run whose controller is gone at the deadline is settled
//!   alone, one that never notified anybody is aborted;
//! - `settle`: what is dropped is the library's word ([`judge`]); the result is on disk *before*
//!   anything is dropped; it is kept until `acknowledge`.
//!
//! What it leaves out: targeted runs and scopes, late reclaims, shared addresses, the record of a run
//! that its own crash cuts short, and paging beyond one page.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use clap::Parser;
use nfs3_types::xdr_codec::Void;
use nlmctl::resync::policy::{ClientFacts, Verdict, extended_deadline, judge};
use nlmctl::rpc::server::{CallContext, Limits, Service, serve_unix};
use nlmctl::wire::control::{
    self, Answer, BeginArgs, Begun, Capabilities, ClientPage, ClientResult, ClientResultPage, ClientRow, Counts,
    Delivery, ExtendArgs, Fate, FullResult, Grace, Info, InstanceId, LockFate, LockFatePage, LockKind, LockPage,
    LockRow, LockState, Mode, Outcome, OwnerRow, Procedure, ProgressArgs, Refusal, RefusalCode, RunArgs, RunClient,
    RunClientPage, RunId, RunList, RunPageAfter, RunResult, RunStatus, SettleArgs, Status, WatchArgs, Watched,
};
use nlmctl::wire::rpc;
use nlmctl::wire::types::{Address, ByteRange, CallerName, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use nlmctl::wire::xdr::{List, Maybe, Pack, Text, Unpack, decode, encode};
use tokio::net::UnixListener;
use tokio::sync::watch;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long past the deadline a controller's settle is awaited.
const CONTROLLER_PATIENCE: Duration = Duration::from_millis(500);
/// Longest wait of `watch`.
const WATCH_MAX: Duration = Duration::from_secs(10);

/// A toy lock manager that cooperates with nlmctl.
#[derive(Debug, Parser)]
struct Flags {
    /// The Unix socket by which nlmctl drives it
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// Where it keeps its state number and its results
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
}

/// A client host, as it called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Client {
    name: CallerName,
    address: IpAddr,
}

/// A lock: whose, and whether the run waits for its reclaim.
#[derive(Debug)]
struct Lock {
    client: Client,
    pending: bool,
}

/// What is known of a client in a run.
#[derive(Debug)]
struct Tally {
    client: Client,
    counts: Counts,
    delivery: Delivery,
    acked: Option<Instant>,
    silent: bool,
}

#[derive(Debug)]
struct Run {
    args: BeginArgs,
    begun: Begun,
    began: Instant,
    began_unix_ms: u64,
    deadline: Duration,
    notices_begun: bool,
    last_reclaim: Option<Duration>,
    tallies: Vec<Tally>,
    /// Resurrected locks and conflicts.
    rows: Vec<LockFate>,
}

/// All there is.
#[derive(Debug)]
struct Toy {
    state_dir: PathBuf,
    instance: InstanceId,
    state: NsmState,
    /// One lock a file: all of them are exclusive.
    locks: BTreeMap<FileHandle, Lock>,
    run: Option<Run>,
    /// Ended runs that nobody has acknowledged.
    results: HashMap<RunId, FullResult>,
    /// Grows with every change, for watchers.
    changes: watch::Sender<u64>,
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn refused<T>(code: RefusalCode, words: &str) -> Result<T, Refusal> {
    Err(Refusal::new(code, words))
}

/// On disk when this returns.
fn write_durably(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Refusal> {
    let write = || -> io::Result<()> {
        let draft = folder.join(format!("{name}.new"));
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(draft, folder.join(name))?;
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(|error| Refusal::new(RefusalCode::NotDurable, format!("{name} is not on disk: {error}")))
}

fn owner_row(client: &Client) -> Option<OwnerRow> {
    Some(OwnerRow {
        name: client.name.clone(),
        address: Address(client.address),
        server_address: Address(Ipv4Addr::LOCALHOST.into()),
        transport: Transport::Tcp,
        version: 4,
        svid: Svid(0),
        oh: OwnerHandle::new(client.name.as_str().as_bytes()).ok()?,
    })
}

fn fate_row(fate: Fate, file: &FileHandle, client: &Client, other: Option<&Client>) -> Option<LockFate> {
    Some(LockFate {
        fate,
        file: file.clone(),
        kind: LockKind::Exclusive,
        range: ByteRange::ALL,
        partial: false,
        late: false,
        owner: owner_row(client)?,
        other: Maybe(other.and_then(owner_row)),
        other_range: Maybe(other.map(|_| ByteRange::ALL)),
    })
}

impl Run {
    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
    fn total(&self) -> Counts {
        let mut sum = Counts::default();
        for counts in self.tallies.iter().map(|tally| tally.counts) {
            sum.in_scope += counts.in_scope;
            sum.pending += counts.pending;
            sum.reclaimed += counts.reclaimed;
            sum.released += counts.released;
            sum.dropped += counts.dropped;
            sum.kept += counts.kept;
            sum.resurrected += counts.resurrected;
            sum.conflicts += counts.conflicts;
        }
        sum
    }
    fn tally(&mut self, client: &Client) -> Option<&mut Counts> {
        self.tallies.iter_mut().find(|tally| tally.client == *client).map(|tally| &mut tally.counts)
    }
    fn deadline(&self) -> Duration {
        let (grace, latest) =
            (Duration::from_millis(self.args.grace_ms), Duration::from_millis(self.args.grace_max_ms));
        let last_ack = self.tallies.iter().filter_map(|tally| tally.acked).max();
        let last_ack = last_ack.map(|at| at.saturating_duration_since(self.began));
        if self.total().pending == 0 {
            return self.deadline;
        }
        extended_deadline(self.deadline, latest, grace, self.last_reclaim, last_ack)
    }
    fn result(&self, outcome: Outcome, reason: &str, alone: bool) -> RunResult {
        RunResult {
            run: self.args.run,
            outcome,
            reason: Text::clipped(reason),
            alone,
            not_understood: false,
            mode: self.args.mode,
            old_state: self.begun.old_state,
            new_state: self.begun.new_state,
            began_unix_ms: self.began_unix_ms,
            ended_unix_ms: unix_ms(),
            counts: self.total(),
            late: 0,
        }
    }
    fn client_results(&self) -> Vec<ClientResult> {
        (0..)
            .zip(&self.tallies)
            .map(|(client, tally)| ClientResult {
                client,
                name: tally.client.name.clone(),
                address: Address(tally.client.address),
                delivery: tally.delivery,
                suspect: false,
                silent: tally.silent,
                counts: tally.counts,
            })
            .collect()
    }
}

impl Toy {
    fn changed(&self) {
        self.changes.send_modify(|cursor| *cursor += 1);
    }

    // --- locks

    /// What a client's line is answered with.
    fn command(&mut self, verb: &str, client: Client, file: FileHandle) -> &'static str {
        let answer = match verb {
            "lock" => self.lock(client, file),
            "reclaim" => self.reclaim(&client, file),
            "unlock" => self.unlock(&client, &file),
            _ => "what?",
        };
        self.changed();
        answer
    }

    fn lock(&mut self, client: Client, file: FileHandle) -> &'static str {
        if self.run.is_some() {
            return "grace";
        }
        match self.locks.get(&file) {
            Some(held) if held.client != client => "denied",
            _ => {
                self.locks.insert(file, Lock { client, pending: false });
                "granted"
            }
        }
    }

    fn reclaim(&mut self, client: &Client, file: FileHandle) -> &'static str {
        // What its owner holds is granted always; anything else only in grace.
        let Some(run) = &mut self.run else {
            let held = self.locks.get(&file).is_some_and(|lock| lock.client == *client);
            return if held { "granted" } else { "grace" };
        };
        let at = run.elapsed();
        match self.locks.get_mut(&file) {
            Some(lock) if lock.client != *client => {
                run.rows.extend(fate_row(Fate::Conflict, &file, client, Some(&lock.client)));
                if let Some(counts) = run.tally(client) {
                    counts.conflicts += 1;
                }
                return "denied";
            }
            Some(lock) if lock.pending => {
                lock.pending = false;
                if let Some(counts) = run.tally(client) {
                    counts.pending -= 1;
                    counts.reclaimed += 1;
                }
            }
            Some(_) => {}
            None => {
                run.rows.extend(fate_row(Fate::Resurrected, &file, client, None));
                if let Some(counts) = run.tally(client) {
                    counts.resurrected += 1;
                }
                self.locks.insert(file, Lock { client: client.clone(), pending: false });
            }
        }
        run.last_reclaim = Some(at);
        "granted"
    }

    fn unlock(&mut self, client: &Client, file: &FileHandle) -> &'static str {
        if self.locks.get(file).is_some_and(|lock| lock.client == *client)
            && let Some(lock) = self.locks.remove(file)
            && lock.pending
            && let Some(counts) = self.run.as_mut().and_then(|run| run.tally(client))
        {
            counts.pending -= 1;
            counts.released += 1;
        }
        "granted"
    }

    // --- runs

    fn begin(&mut self, args: BeginArgs) -> Result<Begun, Refusal> {
        match &self.run {
            Some(run) if run.args.run == args.run => return Ok(run.begun.clone()),
            Some(_) => return refused(RefusalCode::RunActive, "another run is active"),
            None => {}
        }
        if self.results.contains_key(&args.run) {
            return refused(RefusalCode::WrongPhase, "that run has ended already; plan again");
        }
        if (args.instance, args.nsm_state) != (self.instance, self.state) {
            return refused(RefusalCode::StalePlan, "the plan was made for another life of this server; plan again");
        }
        if args.mode != Mode::Strict || !args.scope.is_everything() {
            return refused(RefusalCode::Unsupported, "this lock manager knows only strict runs over everything");
        }
        let (old_state, new_state) = (self.state, self.state.next_up());
        // Durable before anything is marked: after a crash the next number is another one.
        write_durably(&self.state_dir, "state", new_state.0.to_string().as_bytes())?;
        self.state = new_state;
        let mut counts: BTreeMap<Client, u64> = BTreeMap::new();
        for lock in self.locks.values_mut() {
            lock.pending = true;
            *counts.entry(lock.client.clone()).or_default() += 1;
        }
        let tallies: Vec<Tally> = counts
            .into_iter()
            .map(|(client, locks)| Tally {
                client,
                counts: Counts { in_scope: locks, pending: locks, ..Counts::default() },
                delivery: Delivery::NotTold,
                acked: None,
                silent: false,
            })
            .collect();
        let begun = Begun {
            run: args.run,
            old_state,
            new_state,
            in_scope: self.locks.len() as u64,
            unmonitored: 0,
            clients: u32::try_from(tallies.len()).unwrap_or(u32::MAX),
            names: names(),
        };
        self.run = Some(Run {
            deadline: Duration::from_millis(args.grace_ms),
            args,
            begun: begun.clone(),
            began: Instant::now(),
            began_unix_ms: unix_ms(),
            notices_begun: false,
            last_reclaim: None,
            tallies,
            rows: Vec::new(),
        });
        Ok(begun)
    }

    fn active(&mut self, id: RunId) -> Result<&mut Run, Refusal> {
        match self.run.as_mut().filter(|run| run.args.run == id) {
            Some(run) => Ok(run),
            None => refused(RefusalCode::UnknownRun, "no such run is active here"),
        }
    }

    fn run_clients(&mut self, id: RunId) -> Result<RunClientPage, Refusal> {
        let run = self.active(id)?;
        let clients = (0..).zip(&run.tallies).map(|(index, tally)| RunClient {
            index,
            name: tally.client.name.clone(),
            addresses: List::clipped(vec![Address(tally.client.address)]),
            server_addresses: List::clipped(vec![Address(Ipv4Addr::LOCALHOST.into())]),
            nsm_state: NsmState(0),
            locks: tally.counts.in_scope,
            shared_address: false,
            suspect: false,
        });
        Ok(RunClientPage { clients: List::clipped(clients.collect()), next: 0 })
    }

    fn progress(&mut self, args: &ProgressArgs) -> Result<Status, Refusal> {
        let run = self.active(args.run)?;
        run.notices_begun |= args.notices_begun;
        for seen in args.clients.as_slice() {
            let Some(tally) = run.tallies.get_mut(seen.client as usize) else { continue };
            // Delivered once is delivered.
            if tally.delivery != Delivery::Acked && seen.delivery != Delivery::NotTold {
                tally.delivery = seen.delivery;
                if seen.delivery == Delivery::Acked {
                    let at = Instant::now().checked_sub(Duration::from_millis(seen.ago_ms));
                    tally.acked = Some(at.map_or(run.began, |at| at.max(run.began)));
                }
            }
        }
        Ok(self.status())
    }

    fn extend(&mut self, args: ExtendArgs) -> Result<Status, Refusal> {
        let run = self.active(args.run)?;
        let wanted = run.elapsed() + Duration::from_millis(args.remaining_ms);
        run.deadline = run.deadline.max(wanted.min(Duration::from_millis(run.args.grace_max_ms)));
        Ok(self.status())
    }

    fn settle(&mut self, args: SettleArgs, alone: bool) -> Result<RunResult, Refusal> {
        if let Some(ended) = self.results.get(&args.run) {
            return Ok(ended.result.clone());
        }
        let Some(run) = self.run.as_mut().filter(|run| run.args.run == args.run) else {
            return refused(RefusalCode::UnknownRun, "no such run is active here");
        };
        if args.only_if_nothing_pending && run.total().pending > 0 {
            return refused(RefusalCode::StillPending, "locks are still pending");
        }
        let may_drop = &run.args.may_drop;
        let facts: Vec<ClientFacts<'_>> = run
            .tallies
            .iter()
            .map(|tally| ClientFacts {
                in_scope: tally.counts.in_scope,
                pending: tally.counts.pending,
                reclaimed_any: tally.counts.reclaimed > 0,
                reclaimed_anything: tally.counts.reclaimed + tally.counts.resurrected > 0,
                delivery: tally.delivery,
                acked_ago: tally.acked.map(|at| at.elapsed()),
                shared_address: false,
                suspect: false,
                named: false,
                may_drop: may_drop.as_slice().iter().any(|meant| {
                    meant.name.0.as_ref() == Some(&tally.client.name)
                        || meant.address.0 == Some(Address(tally.client.address))
                }),
                server_addresses: &[],
            })
            .collect();
        let judgement = judge(&facts, run.args.policy, Duration::from_millis(run.args.grace_ms), alone);
        let mut dropped = Vec::new();
        let mut rows = run.rows.clone();
        for ((tally, verdict), silent) in run.tallies.iter_mut().zip(&judgement.verdicts).zip(&judgement.silent) {
            tally.silent = *silent;
            let drop = *verdict == Verdict::Drop;
            let pending = self.locks.iter().filter(|(_, lock)| lock.pending && lock.client == tally.client);
            for (file, lock) in pending {
                let fate = if drop { Fate::Dropped } else { Fate::Kept };
                rows.extend(fate_row(fate, file, &lock.client, None));
                dropped.extend(drop.then(|| file.clone()));
            }
            let left = std::mem::take(&mut tally.counts.pending);
            *(if drop { &mut tally.counts.dropped } else { &mut tally.counts.kept }) += left;
        }
        let reason = if alone { "deadline, and the controller did not settle" } else { "settled" };
        let mut result = run.result(Outcome::Settled, reason, alone);
        result.not_understood = judgement.not_understood;
        let full = FullResult {
            result: result.clone(),
            clients: List::clipped(run.client_results()),
            locks: List::clipped(rows),
        };
        if let Err(refusal) = self.keep(full) {
            // Not on disk: nothing is dropped, and the next settle judges anew.
            for counts in self.run.iter_mut().flat_map(|run| &mut run.tallies).map(|tally| &mut tally.counts) {
                counts.pending = std::mem::take(&mut counts.dropped) + std::mem::take(&mut counts.kept);
            }
            return Err(refusal);
        }
        for file in dropped {
            self.locks.remove(&file);
        }
        self.end();
        Ok(result)
    }

    fn abort(&mut self, id: RunId, reason: &str) -> Result<RunResult, Refusal> {
        let run = self.active(id)?;
        for counts in run.tallies.iter_mut().map(|tally| &mut tally.counts) {
            counts.kept += std::mem::take(&mut counts.pending);
        }
        let result = run.result(Outcome::Aborted, reason, false);
        let clients = List::clipped(run.client_results());
        let locks = List::clipped(run.rows.clone());
        // An abort loses nothing, so it does not fail with the disk.
        if let Err(refusal) = self.keep(FullResult { result: result.clone(), clients, locks }) {
            tracing::error!("{refusal}");
        }
        self.end();
        Ok(result)
    }

    fn end(&mut self) {
        self.run = None;
        self.locks.values_mut().for_each(|lock| lock.pending = false);
    }

    fn keep(&mut self, full: FullResult) -> Result<(), Refusal> {
        let run = full.result.run;
        write_durably(&self.state_dir, &format!("result-{run}"), &encode(&full))?;
        self.results.insert(run, full);
        Ok(())
    }

    /// The deadline has passed and no controller settled.
    fn due(&mut self) {
        let Some(run) = &self.run else { return };
        if run.elapsed() < run.deadline() + CONTROLLER_PATIENCE {
            return;
        }
        let id = run.args.run;
        let ended = if run.notices_begun {
            self.settle(SettleArgs { run: id, only_if_nothing_pending: false }, true)
        } else {
            self.abort(id, "no notice was sent before the deadline")
        };
        if let Err(refusal) = ended {
            tracing::error!("{refusal}");
        }
        self.changed();
    }

    // --- what is shown

    fn info(&self) -> Info {
        Info {
            software: Text::clipped("cooperating_lockd"),
            instance: self.instance,
            nsm_state: self.state,
            names: names(),
            capabilities: Capabilities {
                mark: true,
                list_locks: true,
                knows_owners: true,
                targeted: false,
                settle_early: true,
                late_reclaims: false,
                release: false,
                knows_reclaims: true,
                knows_paths: false,
                begin_releases: false,
            },
            domains: List::clipped(vec![Text::clipped("toy")]),
        }
    }

    fn status(&self) -> Status {
        let run = self.run.as_ref().map(|run| RunStatus {
            run: run.args.run,
            mode: run.args.mode,
            nsm_state: run.begun.new_state,
            elapsed_ms: millis(run.elapsed()),
            remaining_ms: millis(run.deadline().saturating_sub(run.elapsed())),
            latest_remaining_ms: run.args.grace_max_ms.saturating_sub(millis(run.elapsed())),
            last_reclaim_ms: Maybe(run.last_reclaim.map(|at| millis(run.elapsed().saturating_sub(at)))),
            counts: run.total(),
            notices_begun: run.notices_begun,
        });
        let clients = self.clients().len() as u64;
        Status {
            instance: self.instance,
            nsm_state: self.state,
            grace: if run.is_some() { Grace::Strict } else { Grace::Open },
            grace_remaining_ms: run.as_ref().map_or(0, |run| run.remaining_ms),
            clients,
            monitored: clients,
            locks: self.locks.len() as u64,
            unmonitored: 0,
            waiters: 0,
            run: Maybe(run),
            cursor: *self.changes.borrow(),
        }
    }

    fn clients(&self) -> BTreeMap<&Client, u64> {
        let mut clients = BTreeMap::new();
        for lock in self.locks.values() {
            *clients.entry(&lock.client).or_default() += 1;
        }
        clients
    }

    fn client_page(&self) -> ClientPage {
        let rows = self.clients().into_iter().map(|(client, locks)| ClientRow {
            name: client.name.clone(),
            addresses: List::clipped(vec![Address(client.address)]),
            server_addresses: List::clipped(vec![Address(Ipv4Addr::LOCALHOST.into())]),
            nsm_state: NsmState(0),
            monitored: true,
            shared_address: false,
            locks,
            unmonitored: 0,
            waiters: 0,
            suspicions: List::default(),
        });
        ClientPage { clients: List::clipped(rows.collect()), next: 0 }
    }

    fn lock_page(&self) -> LockPage {
        let rows = self.locks.iter().filter_map(|(file, lock)| {
            Some(LockRow {
                file: file.clone(),
                kind: LockKind::Exclusive,
                range: ByteRange::ALL,
                state: if lock.pending { LockState::Pending } else { LockState::Held },
                owner: owner_row(&lock.client)?,
                monitored: true,
            })
        });
        LockPage { locks: List::clipped(rows.collect()), next: 0 }
    }

    fn ended(&self, id: RunId) -> Result<&FullResult, Refusal> {
        self.results.get(&id).ok_or_else(|| Refusal::new(RefusalCode::UnknownRun, "no result of that run is kept"))
    }

    fn acknowledge(&mut self, id: RunId) -> Void {
        if self.results.remove(&id).is_some() {
            // At worst it is fetched once more.
            let _ = std::fs::remove_file(self.state_dir.join(format!("result-{id}")));
        }
        Void
    }
}

/// The name under which clients know this server.
fn names() -> List<CallerName, 16> {
    List::clipped(CallerName::new("toy").into_iter().collect())
}

/// The control service: the toy behind a lock that is never held across an await.
struct Control(Arc<Mutex<Toy>>);

fn answered<T: Pack + Unpack>(outcome: Result<T, Refusal>) -> rpc::Answer {
    rpc::Answer::Success(encode(&match outcome {
        Ok(value) => Answer::Ok(value),
        Err(refusal) => Answer::Refused(refusal),
    }))
}

/// Calls with the decoded arguments, or answers GARBAGE_ARGS.
fn with<A: Unpack, T: Pack + Unpack>(bytes: &[u8], call: impl FnOnce(A) -> Result<T, Refusal>) -> rpc::Answer {
    decode(bytes).map_or(rpc::Answer::GarbageArgs, |args| answered(call(args)))
}

impl Control {
    fn toy(&self) -> MutexGuard<'_, Toy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn watch(&self, args: WatchArgs) -> Watched {
        let mut seen = self.toy().changes.subscribe();
        let patience = Duration::from_millis(args.timeout_ms).min(WATCH_MAX);
        let _ = tokio::time::timeout(patience, seen.wait_for(|cursor| *cursor != args.cursor)).await;
        Watched { status: self.toy().status(), events: List::default() }
    }
}

#[async_trait]
impl Service for Control {
    async fn call(
        &self,
        _: &CallContext,
        program: u32,
        version: u32,
        number: u32,
        args: Vec<u8>,
    ) -> Option<rpc::Answer> {
        if program != control::PROGRAM {
            return Some(rpc::Answer::ProgUnavail);
        }
        if version != control::VERSION {
            return Some(rpc::Answer::ProgMismatch { low: control::VERSION, high: control::VERSION });
        }
        let Some(procedure) = Procedure::from_number(number) else { return Some(rpc::Answer::ProcUnavail) };
        if procedure == Procedure::Watch {
            let Ok(args) = decode(&args) else { return Some(rpc::Answer::GarbageArgs) };
            return Some(answered(Ok(self.watch(args).await)));
        }
        let mut toy = self.toy();
        let answer = match procedure {
            Procedure::Null => rpc::Answer::Success(Vec::new()),
            Procedure::Info => answered(Ok(toy.info())),
            Procedure::Status => answered(Ok(toy.status())),
            Procedure::Clients => answered(Ok(toy.client_page())),
            Procedure::Locks => answered(Ok(toy.lock_page())),
            Procedure::Begin => with(&args, |args| toy.begin(args)),
            Procedure::RunClients => with(&args, |args: RunPageAfter| toy.run_clients(args.run)),
            Procedure::Progress => with(&args, |args| toy.progress(&args)),
            Procedure::Extend => with(&args, |args| toy.extend(args)),
            Procedure::Settle => with(&args, |args| toy.settle(args, false)),
            Procedure::Abort => with(&args, |args: RunArgs| toy.abort(args.run, "aborted by a controller")),
            Procedure::Result => with(&args, |args: RunArgs| Ok(toy.ended(args.run)?.result.clone())),
            Procedure::ResultClients => with(&args, |args: RunPageAfter| {
                let clients = List::clipped(toy.ended(args.run)?.clients.as_slice().to_vec());
                Ok(ClientResultPage { clients, next: 0 })
            }),
            Procedure::ResultLocks => with(&args, |args: RunPageAfter| {
                let locks = List::clipped(toy.ended(args.run)?.locks.as_slice().to_vec());
                Ok(LockFatePage { locks, next: 0 })
            }),
            Procedure::Acknowledge => with(&args, |args: RunArgs| Ok(toy.acknowledge(args.run))),
            Procedure::Unfetched => {
                answered(Ok(RunList { runs: List::clipped(toy.results.keys().copied().collect()) }))
            }
            Procedure::Release => {
                answered::<Void>(refused(RefusalCode::Unsupported, "single locks are not freed here"))
            }
            Procedure::Watch => rpc::Answer::ProcUnavail,
        };
        if !procedure.is_read_only() {
            toy.changed();
        }
        Some(answer)
    }
}

fn open(state_dir: &Path) -> io::Result<Toy> {
    std::fs::create_dir_all(state_dir)?;
    let state = match std::fs::read_to_string(state_dir.join("state")) {
        Ok(text) => NsmState(text.trim().parse().map_err(io::Error::other)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => NsmState(1),
        Err(error) => return Err(error),
    };
    let mut results = HashMap::new();
    for entry in state_dir.read_dir()?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("result-")
            && let Ok(full) = decode::<FullResult>(&std::fs::read(entry.path())?)
        {
            results.insert(full.result.run, full);
        }
    }
    Ok(Toy {
        state_dir: state_dir.into(),
        instance: InstanceId(uuid::Uuid::new_v4().into_bytes()),
        state,
        locks: BTreeMap::new(),
        run: None,
        results,
        changes: watch::Sender::new(1),
    })
}

/// `VERB NAME ADDRESS FILE`
fn parse(line: &str) -> Option<(&str, Client, FileHandle)> {
    let mut words = line.split_whitespace();
    let (verb, name, address, file) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let client = Client { name: CallerName::new(name).ok()?, address: address.parse().ok()? };
    Some((verb, client, FileHandle::new(file.as_bytes()).ok()?))
}

/// Clients' lines, until the end of input.
fn converse(toy: &Mutex<Toy>) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = parse(&line).map_or("what?", |(verb, client, file)| {
            toy.lock().unwrap_or_else(PoisonError::into_inner).command(verb, client, file)
        });
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

async fn serve(flags: Flags) -> io::Result<()> {
    let toy = Arc::new(Mutex::new(open(&flags.state_dir)?));
    let listener = UnixListener::bind(&flags.control)?;
    // Who can open it can drop locks.
    std::fs::set_permissions(&flags.control, std::fs::Permissions::from_mode(0o600))?;
    let (_stop, stopping) = watch::channel(false);
    let limits = Limits { max_record: control::MAX_RECORD, ..Limits::default() };
    let control = serve_unix(listener, Arc::new(Control(toy.clone())), limits, stopping);
    let (lines, timed) = (toy.clone(), toy);
    let clients = tokio::task::spawn_blocking(move || converse(&lines));
    let deadlines = async {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            timed.lock().unwrap_or_else(PoisonError::into_inner).due();
        }
    };
    let ended = tokio::select! {
        ended = control => ended,
        ended = clients => ended.map_err(io::Error::other).flatten(),
        () = deadlines => Ok(()),
    };
    std::fs::remove_file(&flags.control)?;
    ended
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    match serve(Flags::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
