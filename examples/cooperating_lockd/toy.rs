//! The toy's locks and runs, and what of them is on disk.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nlmctl::resync::policy::{ClientFacts, Judged, PathFacts, extended_deadline, judge};
use nlmctl::rpc::control::Timeline;
use nlmctl::wire::control::{
    BeginArgs, Begun, ClientRef, ClientResult, Counts, Delivery, ExtendArgs, Fate, FullResult, InstanceId, LockFate,
    LockKind, LockRow, LockState, Mode, Outcome, OwnerRow, PathResult, ProgressArgs, Reaction, Refusal, RefusalCode,
    RunClient, RunId, RunResult, SettleArgs, SettleWhen,
};
use nlmctl::wire::types::{Address, ByteRange, CallerName, FileHandle, NsmState};
use nlmctl::wire::xdr::{List, Maybe, Text, decode, encode};

/// How long past the deadline a controller's settle is awaited.
const CONTROLLER_PATIENCE: Duration = Duration::from_millis(500);
/// The name under which clients know this server.
pub(crate) fn names() -> List<CallerName, 16> {
    List::clipped(CallerName::new("toy").into_iter().collect())
}

/// A client of the run, as its result will tell of it, and when its last notice was acked.
#[derive(Debug)]
pub(crate) struct FilterEvent {
    result: ClientResult,
    acked: Option<Instant>,
    /// The one address that this server is called by.
    server_address: IpAddr,
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) args: BeginArgs,
    pub(crate) begun: Begun,
    began: Instant,
    began_unix_ms: u64,
    deadline: Duration,
    pub(crate) notices_begun: bool,
    pub(crate) last_reclaim: Option<Duration>,
    told: Vec<FilterEvent>,
    /// Resurrected locks and conflicts.
    rows: Vec<LockFate>,
}

/// All there is.
#[derive(Debug)]
pub(crate) struct Toy {
    state_dir: PathBuf,
    pub(crate) instance: InstanceId,
    pub(crate) state: NsmState,
    /// One lock a file: all of them are exclusive.
    pub(crate) locks: BTreeMap<FileHandle, LockRow>,
    pub(crate) run: Option<Run>,
    /// Ended runs that no controller has acknowledged.
    pub(crate) results: HashMap<RunId, FullResult>,
    pub(crate) timeline: Timeline,
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn refused<T>(code: RefusalCode, words: &str) -> Result<T, Refusal> {
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

fn fate_row(fate: Fate, lock: &LockRow, other: Option<&LockRow>) -> LockFate {
    LockFate {
        fate,
        file: lock.file.clone(),
        kind: lock.kind,
        range: lock.range,
        partial: false,
        late: false,
        owner: lock.owner.clone(),
        other: Maybe(other.map(|other| Box::new(other.owner.clone()))),
        other_range: Maybe(other.map(|other| other.range)),
    }
}

impl FilterEvent {
    fn new(place: usize, owner: &OwnerRow) -> Self {
        let result = ClientResult {
            client: u32::try_from(place).unwrap_or(u32::MAX),
            name: owner.name.clone(),
            address: owner.address,
            delivery: Delivery::NotTold,
            suspect: false,
            reaction: Reaction::Unclear,
            counts: Counts::default(),
            paths: List::default(),
        };
        Self { result, acked: None, server_address: owner.server_address.0 }
    }
    fn is(&self, owner: &OwnerRow) -> bool {
        (&self.result.name, self.result.address) == (&owner.name, owner.address)
    }
    /// Its locks. A server with several addresses would keep them apart by the one that was called for them.
    fn paths(&self) -> BTreeMap<IpAddr, PathFacts> {
        let counts = &self.result.counts;
        let facts = PathFacts {
            in_scope: counts.in_scope,
            pending: counts.pending,
            reclaimed_any: counts.reclaimed > 0,
            came_back: counts.reclaimed + counts.resurrected > 0,
        };
        BTreeMap::from([(self.server_address, facts)])
    }
    fn facts<'a>(&self, paths: &'a BTreeMap<IpAddr, PathFacts>, may_drop: &[ClientRef]) -> ClientFacts<'a> {
        let ClientResult { delivery, name, address, .. } = &self.result;
        ClientFacts {
            delivery: *delivery,
            acked_ago: self.acked.map(|at| at.elapsed()),
            shared_address: false,
            suspect: false,
            named: false,
            may_drop: may_drop
                .iter()
                .any(|meant| meant.name.0.as_ref() == Some(name) || meant.address.0 == Some(*address)),
            paths,
        }
    }
}

impl Run {
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
    pub(crate) fn total(&self) -> Counts {
        let mut sum = Counts::default();
        for counts in self.told.iter().map(|told| told.result.counts) {
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
    fn count(&mut self, owner: &OwnerRow, count: impl FnOnce(&mut Counts)) {
        if let Some(told) = self.told.iter_mut().find(|told| told.is(owner)) {
            count(&mut told.result.counts);
        }
    }
    pub(crate) fn deadline(&self) -> Duration {
        let (grace, latest) =
            (Duration::from_millis(self.args.grace_ms), Duration::from_millis(self.args.grace_max_ms));
        let last_ack = self.told.iter().filter_map(|told| told.acked).max();
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
    fn full(&self, result: RunResult, mut rows: Vec<LockFate>) -> FullResult {
        rows.splice(0..0, self.rows.iter().cloned());
        let clients = self.told.iter().map(|told| told.result.clone()).collect();
        FullResult { result, clients: List::clipped(clients), locks: List::clipped(rows) }
    }

    /// The clients to notify.
    pub(crate) fn clients(&self) -> Vec<RunClient> {
        let row = |told: &FilterEvent| RunClient {
            index: told.result.client,
            name: told.result.name.clone(),
            addresses: List::clipped(vec![told.result.address]),
            server_addresses: List::clipped(vec![Address(Ipv4Addr::LOCALHOST.into())]),
            nsm_state: NsmState(0),
            locks: told.result.counts.in_scope,
            shared_address: false,
            suspect: false,
        };
        self.told.iter().map(row).collect()
    }

    pub(crate) fn progress(&mut self, args: &ProgressArgs) {
        self.notices_begun |= args.notices_begun;
        for seen in args.clients.as_slice() {
            let Some(told) = self.told.get_mut(seen.client as usize) else { continue };
            // Delivered once is delivered.
            if told.result.delivery != Delivery::Acked && seen.delivery != Delivery::NotTold {
                told.result.delivery = seen.delivery;
                if seen.delivery == Delivery::Acked {
                    let at = Instant::now().checked_sub(Duration::from_millis(seen.ago_ms));
                    told.acked = Some(at.map_or(self.began, |at| at.max(self.began)));
                }
            }
        }
    }

    pub(crate) fn extend(&mut self, args: ExtendArgs) {
        let wanted = self.elapsed() + Duration::from_millis(args.remaining_ms);
        self.deadline = self.deadline.max(wanted.min(Duration::from_millis(self.args.grace_max_ms)));
    }
}

impl Toy {
    /// With what is on disk.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
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
        Ok(Self {
            state_dir: state_dir.into(),
            instance: InstanceId(uuid::Uuid::new_v4().into_bytes()),
            state,
            locks: BTreeMap::new(),
            run: None,
            results,
            timeline: Timeline::default(),
        })
    }

    // --- locks

    /// What a client's line is answered with.
    pub(crate) fn command(&mut self, verb: &str, owner: OwnerRow, file: FileHandle) -> &'static str {
        let (kind, range, state) = (LockKind::Exclusive, ByteRange::ALL, LockState::Held);
        let lock = LockRow { file, kind, range, state, monitored: true, owner };
        match verb {
            "lock" => self.lock(lock),
            "reclaim" => self.reclaim(lock),
            "unlock" => self.unlock(&lock),
            _ => "what?",
        }
    }

    fn lock(&mut self, lock: LockRow) -> &'static str {
        match self.locks.get(&lock.file) {
            _ if self.run.is_some() => "grace",
            Some(held) if held.owner != lock.owner => "denied",
            _ => {
                self.locks.insert(lock.file.clone(), lock);
                "granted"
            }
        }
    }

    fn reclaim(&mut self, lock: LockRow) -> &'static str {
        // What its owner holds is granted always; anything else only in grace.
        let Some(run) = &mut self.run else {
            let held = self.locks.get(&lock.file).is_some_and(|held| held.owner == lock.owner);
            return if held { "granted" } else { "grace" };
        };
        match self.locks.get_mut(&lock.file) {
            Some(held) if held.owner != lock.owner => {
                run.rows.push(fate_row(Fate::Conflict, &lock, Some(held)));
                run.count(&lock.owner, |counts| counts.conflicts += 1);
                return "denied";
            }
            Some(held) if held.state == LockState::Pending => {
                held.state = LockState::Held;
                run.count(&lock.owner, |counts| {
                    counts.pending -= 1;
                    counts.reclaimed += 1;
                });
            }
            Some(_) => {}
            None => {
                run.rows.push(fate_row(Fate::Resurrected, &lock, None));
                run.count(&lock.owner, |counts| counts.resurrected += 1);
                self.locks.insert(lock.file.clone(), lock);
            }
        }
        run.last_reclaim = Some(run.elapsed());
        "granted"
    }

    fn unlock(&mut self, lock: &LockRow) -> &'static str {
        if self.locks.get(&lock.file).is_some_and(|held| held.owner == lock.owner)
            && let Some(held) = self.locks.remove(&lock.file)
            && held.state == LockState::Pending
            && let Some(run) = &mut self.run
        {
            run.count(&lock.owner, |counts| {
                counts.pending -= 1;
                counts.released += 1;
            });
        }
        "granted"
    }

    // --- runs

    pub(crate) fn begin(&mut self, args: BeginArgs) -> Result<Begun, Refusal> {
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
        let mut told: Vec<FilterEvent> = Vec::new();
        for lock in self.locks.values_mut() {
            lock.state = LockState::Pending;
            let place = told.iter().position(|told| told.is(&lock.owner)).unwrap_or_else(|| {
                told.push(FilterEvent::new(told.len(), &lock.owner));
                told.len() - 1
            });
            if let Some(told) = told.get_mut(place) {
                told.result.counts.in_scope += 1;
                told.result.counts.pending += 1;
            }
        }
        let begun = Begun {
            run: args.run,
            old_state,
            new_state,
            in_scope: self.locks.len() as u64,
            unmonitored: 0,
            clients: u32::try_from(told.len()).unwrap_or(u32::MAX),
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
            told,
            rows: Vec::new(),
        });
        Ok(begun)
    }

    pub(crate) fn active(&mut self, id: RunId) -> Result<&mut Run, Refusal> {
        match self.run.as_mut().filter(|run| run.args.run == id) {
            Some(run) => Ok(run),
            None => refused(RefusalCode::UnknownRun, "no such run is active here"),
        }
    }

    pub(crate) fn settle(&mut self, args: SettleArgs, alone: bool) -> Result<RunResult, Refusal> {
        if let Some(ended) = self.results.get(&args.run) {
            return Ok(ended.result.clone());
        }
        let Some(run) = self.run.as_mut().filter(|run| run.args.run == args.run) else {
            return refused(RefusalCode::UnknownRun, "no such run is active here");
        };
        if args.when != SettleWhen::Always && run.total().pending > 0 {
            return refused(RefusalCode::StillPending, "locks are still pending");
        }
        let may_drop = run.args.may_drop.as_slice();
        let paths: Vec<_> = run.told.iter().map(FilterEvent::paths).collect();
        let told = run.told.iter().zip(&paths);
        let facts: Vec<ClientFacts<'_>> = told.map(|(told, paths)| told.facts(paths, may_drop)).collect();
        let all_judged = judge(&facts, run.args.policy, Duration::from_millis(run.args.grace_ms), alone);
        let (mut dropped, mut rows) = (Vec::new(), Vec::new());
        for ((told, paths), judged) in run.told.iter_mut().zip(&paths).zip(&all_judged) {
            let drop = judged.drops_any();
            let fate = if drop { Fate::Dropped } else { Fate::Kept };
            for lock in self.locks.values().filter(|lock| lock.state == LockState::Pending && told.is(&lock.owner)) {
                rows.push(fate_row(fate, lock, None));
                dropped.extend(drop.then(|| lock.file.clone()));
            }
            told.result.reaction = if judged.silent {
                Reaction::Silent
            } else if paths.values().any(PathFacts::is_reclaimed) {
                Reaction::Understood
            } else {
                Reaction::Unclear
            };
            told.result.paths = List::clipped(judged.paths.iter().map(PathResult::from).collect());
            let counts = &mut told.result.counts;
            let left = std::mem::take(&mut counts.pending);
            *(if drop { &mut counts.dropped } else { &mut counts.kept }) += left;
        }
        let reason = if alone { "deadline, and the controller did not settle" } else { "settled" };
        let not_understood = all_judged.iter().any(Judged::is_not_understood);
        let result = RunResult { not_understood, ..run.result(Outcome::Settled, reason, alone) };
        let full = run.full(result.clone(), rows);
        if let Err(refusal) = self.keep(full) {
            // Not on disk: nothing is dropped, and the next settle judges anew.
            for counts in self.run.iter_mut().flat_map(|run| &mut run.told).map(|told| &mut told.result.counts) {
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

    pub(crate) fn abort(&mut self, id: RunId, reason: &str) -> Result<RunResult, Refusal> {
        let run = self.active(id)?;
        for counts in run.told.iter_mut().map(|told| &mut told.result.counts) {
            counts.kept += std::mem::take(&mut counts.pending);
        }
        let result = run.result(Outcome::Aborted, reason, false);
        let full = run.full(result.clone(), Vec::new());
        // An abort loses nothing, so it does not fail with the disk.
        if let Err(refusal) = self.keep(full) {
            tracing::error!("{refusal}");
        }
        self.end();
        Ok(result)
    }

    fn end(&mut self) {
        self.run = None;
        self.locks.values_mut().for_each(|lock| lock.state = LockState::Held);
    }

    fn keep(&mut self, full: FullResult) -> Result<(), Refusal> {
        let run = full.result.run;
        write_durably(&self.state_dir, &format!("result-{run}"), &encode(&full))?;
        self.results.insert(run, full);
        Ok(())
    }

    /// The deadline has passed and no controller settled.
    pub(crate) fn due(&mut self) {
        let Some(run) = &self.run else { return };
        if run.elapsed() < run.deadline() + CONTROLLER_PATIENCE {
            return;
        }
        let id = run.args.run;
        let ended = if run.notices_begun {
            self.settle(SettleArgs { run: id, when: SettleWhen::Always }, true)
        } else {
            self.abort(id, "no notice was sent before the deadline")
        };
        if let Err(refusal) = ended {
            tracing::error!("{refusal}");
        }
        self.timeline.changed();
    }

    // --- results

    pub(crate) fn ended(&self, id: RunId) -> Result<&FullResult, Refusal> {
        self.results.get(&id).ok_or_else(|| Refusal::new(RefusalCode::UnknownRun, "no result of that run is kept"))
    }

    pub(crate) fn acknowledge(&mut self, id: RunId) {
        if self.results.remove(&id).is_some() {
            // At worst it is fetched once more.
            let _ = std::fs::remove_file(self.state_dir.join(format!("result-{id}")));
        }
    }
}
