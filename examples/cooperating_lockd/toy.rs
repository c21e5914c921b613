//! The toy's locks and runs, and what of them is on disk.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nlmctl::resync::policy::{ClientFacts, Verdict, extended_deadline, judge};
use nlmctl::wire::control::{
    BeginArgs, Begun, ClientResult, Counts, Delivery, ExtendArgs, Fate, FullResult, InstanceId, LockFate, LockKind,
    Mode, Outcome, OwnerRow, ProgressArgs, Refusal, RefusalCode, RunClient, RunClientPage, RunId, RunResult,
    SettleArgs, Status,
};
use nlmctl::wire::types::{Address, ByteRange, CallerName, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use nlmctl::wire::xdr::{List, Maybe, Text, decode, encode};
use tokio::sync::watch;

/// How long past the deadline a controller's settle is awaited.
const CONTROLLER_PATIENCE: Duration = Duration::from_millis(500);
/// The name under which clients know this server.
pub(crate) fn names() -> List<CallerName, 16> {
    List::clipped(CallerName::new("toy").into_iter().collect())
}

/// A client host, as it called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Client {
    pub(crate) name: CallerName,
    pub(crate) address: IpAddr,
}

/// A lock: whose, and whether the run waits for its reclaim.
#[derive(Debug)]
pub(crate) struct Lock {
    pub(crate) client: Client,
    pub(crate) pending: bool,
}

/// What is known of a client in a run.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) client: Client,
    pub(crate) counts: Counts,
    pub(crate) delivery: Delivery,
    pub(crate) acked: Option<Instant>,
    pub(crate) silent: bool,
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) args: BeginArgs,
    pub(crate) begun: Begun,
    pub(crate) began: Instant,
    pub(crate) began_unix_ms: u64,
    pub(crate) deadline: Duration,
    pub(crate) notices_begun: bool,
    pub(crate) last_reclaim: Option<Duration>,
    pub(crate) tallies: Vec<Tally>,
    /// Resurrected locks and conflicts.
    pub(crate) rows: Vec<LockFate>,
}

/// All there is.
#[derive(Debug)]
pub(crate) struct Toy {
    pub(crate) state_dir: PathBuf,
    pub(crate) instance: InstanceId,
    pub(crate) state: NsmState,
    /// One lock a file: all of them are exclusive.
    pub(crate) locks: BTreeMap<FileHandle, Lock>,
    pub(crate) run: Option<Run>,
    /// Ended runs that nobody has acknowledged.
    pub(crate) results: HashMap<RunId, FullResult>,
    /// Grows with every change, for watchers.
    pub(crate) changes: watch::Sender<u64>,
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

pub(crate) fn owner_row(client: &Client) -> Option<OwnerRow> {
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
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
    pub(crate) fn total(&self) -> Counts {
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
    pub(crate) fn deadline(&self) -> Duration {
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
            changes: watch::Sender::new(1),
        })
    }

    pub(crate) fn changed(&self) {
        self.changes.send_modify(|cursor| *cursor += 1);
    }

    // --- locks

    /// What a client's line is answered with.
    pub(crate) fn command(&mut self, verb: &str, client: Client, file: FileHandle) -> &'static str {
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

    pub(crate) fn run_clients(&mut self, id: RunId) -> Result<RunClientPage, Refusal> {
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

    pub(crate) fn progress(&mut self, args: &ProgressArgs) -> Result<Status, Refusal> {
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

    pub(crate) fn extend(&mut self, args: ExtendArgs) -> Result<Status, Refusal> {
        let run = self.active(args.run)?;
        let wanted = run.elapsed() + Duration::from_millis(args.remaining_ms);
        run.deadline = run.deadline.max(wanted.min(Duration::from_millis(run.args.grace_max_ms)));
        Ok(self.status())
    }

    pub(crate) fn settle(&mut self, args: SettleArgs, alone: bool) -> Result<RunResult, Refusal> {
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

    pub(crate) fn abort(&mut self, id: RunId, reason: &str) -> Result<RunResult, Refusal> {
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
    pub(crate) fn due(&mut self) {
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
