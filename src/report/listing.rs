//! Status and listings, as a lock manager or the record answered.

use std::fmt;

use serde::Serialize;

use super::OwnersReport;
use super::run::shown_end;
use super::{ClientFate, LockTally, Outcome, Owner, Phase, Probe, ScopeReport, Stamp};
use crate::wire::control::{Capabilities, Info};
use crate::wire::control::{ClientRow, Grace, LockRow, RunStatus, Status};
use crate::wire::types::Address;

/// What a lock manager says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StatusReport {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    /// The lock manager that says so.
    pub manager: ManagerStatus,
    /// The active run, if there is one.
    pub run: Option<ActiveRun>,
}

/// A lock manager, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ManagerStatus {
    /// Its kind: `nlmd`, `knfsd` or `ganesha`.
    pub kind: String,
    /// Its name and version: `nlmd 0.1.0`, say.
    pub software: String,
    /// Its present instance.
    pub instance: String,
    /// Its NSM state number.
    pub nsm_state: i32,
    /// The names under which clients know it.
    pub names: Vec<String>,
    /// What it can do.
    pub capabilities: Vec<&'static str>,
    /// Which promises of a run do not hold with it, a sentence each.
    pub limits: Vec<String>,
    /// The kinds of lock it arbitrates.
    pub domains: Vec<String>,
    /// `open`, `recovery`, `strict`, `targeted` or `settling`.
    pub grace: &'static str,
    /// Until that grace ends by itself; none when open, or when that is not known.
    pub grace_remaining_ms: Option<u64>,
    /// Clients that it knows, with locks or without.
    pub clients: u64,
    /// Of them, those that can be notified.
    pub monitored: u64,
    /// Locks and shares, held and pending; none where the manager cannot list them.
    pub locks: Option<u64>,
    /// Of them, unmonitored; none if that is not known.
    pub unmonitored: Option<u64>,
    /// Locks that runs keep because their reclaim may have been refused; none if this is not looked for.
    pub unsure: Option<u64>,
    /// Requests that wait for a lock.
    pub waiters: u64,
    /// Whether lists show the owners of locks.
    pub owners: OwnersReport,
}

/// The active run, as the lock manager sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ActiveRun {
    /// The run's UUID.
    pub id: String,
    /// Its mode: `strict` or `targeted`.
    pub mode: String,
    /// The state number of its notices.
    pub state: i32,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
    /// Until its present deadline.
    pub remaining_ms: u64,
    /// Until the latest deadline.
    pub latest_remaining_ms: u64,
    /// Whether notices went out, as the lock manager was told.
    pub notices_begun: bool,
    /// Locks in scope that are neither reclaimed nor released so far.
    pub pending: u64,
    /// Its counts so far (pending locks are in `pending`, not in `unverified`).
    pub locks: LockTally,
    /// Whether an nlmctl works with the record of the run; none if that is not known: the record was not read, or does not
    /// have the run.
    pub controller: Option<Controller>,
}

/// The nlmctl that works with the record of a run: on that run, or on one of another lock manager that has the same record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Controller {
    /// Whether there is one. If not, `nlmctl resync --resume` continues the run.
    pub alive: bool,
    /// Its process, in its own container; none if there is none, or its number is not known.
    pub pid: Option<u32>,
}

impl Controller {
    pub const GONE: Self = Self { alive: false, pid: None };
}

/// What is known of the nlmctl that works on a run.
impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self { alive: true, pid: Some(pid) } => write!(f, "nlmctl (pid {pid}) works with the record of this run"),
            Self { alive: true, pid: None } => f.write_str("another nlmctl works with the record of this run"),
            Self { alive: false, .. } => f.write_str("no nlmctl works on it"),
        }
    }
}

fn grace_word(grace: Grace) -> &'static str {
    match grace {
        Grace::Open => "open",
        Grace::Recovery => "recovery",
        Grace::Strict => "strict",
        Grace::Targeted => "targeted",
        Grace::Settling => "settling",
    }
}

fn capability_words(c: &Capabilities) -> Vec<&'static str> {
    [
        (c.mark, "mark"),
        (c.list_locks, "list-locks"),
        (c.knows_owners, "knows-owners"),
        (c.targeted, "targeted"),
        (c.settle_early, "settle-early"),
        (c.late_reclaims, "late-reclaims"),
        (c.release, "release"),
        (c.knows_reclaims, "knows-reclaims"),
        (c.knows_paths, "knows-paths"),
        (!c.begin_releases, "abort"),
    ]
    .into_iter()
    .filter_map(|(can, word)| can.then_some(word))
    .collect()
}

impl From<&RunStatus> for ActiveRun {
    fn from(run: &RunStatus) -> Self {
        let mut counts = run.counts;
        counts.pending = 0;
        Self {
            id: run.run.to_string(),
            mode: run.mode.to_string(),
            state: run.nsm_state.0,
            elapsed_ms: run.elapsed_ms,
            remaining_ms: run.remaining_ms,
            latest_remaining_ms: run.latest_remaining_ms,
            notices_begun: run.notices_begun,
            pending: run.counts.pending,
            locks: LockTally::from(counts),
            controller: None,
        }
    }
}

impl StatusReport {
    /// From what the manager answered to INFO and STATUS; `unmonitored` is the number that the view of owners has.
    pub fn new(kind: &str, info: &Info, status: &Status, owners: OwnersReport, unmonitored: Option<u64>) -> Self {
        let mut capabilities = capability_words(&info.capabilities);
        if owners.how.is_some() && !info.capabilities.knows_owners {
            capabilities.extend(["lists-owners", "lists-paths"]);
        }
        Self {
            schema: super::SCHEMA,
            manager: ManagerStatus {
                kind: kind.to_owned(),
                software: info.software.as_str().to_owned(),
                instance: status.instance.to_string(),
                nsm_state: status.nsm_state.0,
                names: info.names.as_slice().iter().map(ToString::to_string).collect(),
                capabilities,
                limits: super::caveats(info),
                domains: info.domains.as_slice().iter().map(|d| d.as_str().to_owned()).collect(),
                grace: grace_word(status.grace),
                grace_remaining_ms: (status.grace_remaining_ms > 0).then_some(status.grace_remaining_ms),
                clients: status.clients,
                monitored: status.monitored,
                locks: info.capabilities.sees_locks().then_some(status.locks),
                unmonitored: if info.capabilities.knows_owners { Some(status.unmonitored) } else { unmonitored },
                unsure: None,
                waiters: status.waiters,
                owners,
            },
            run: status.run.0.as_ref().map(ActiveRun::from),
        }
    }
}

/// The clients of a lock manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClientsReport {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    /// The lock manager that says so, by its kind.
    pub manager: String,
    /// Whether the owners of locks are known.
    pub owners: OwnersReport,
    pub clients: Vec<ClientListing>,
}

/// A client of a lock manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClientListing {
    /// Its `caller_name`, as its locks carry it.
    pub name: String,
    /// The addresses it called from.
    pub addresses: Vec<Address>,
    /// The server addresses it called.
    pub server_addresses: Vec<Address>,
    /// Its NSM state number as its LOCKs carried it; none if they carried none.
    pub nsm_state: Option<i32>,
    /// Whether it can be notified.
    pub monitored: bool,
    /// Whether another name calls from one of its addresses.
    pub shared_address: bool,
    /// Locks and shares; none if the owners of locks are not known.
    pub locks: Option<u64>,
    /// Of them, unmonitored; likewise.
    pub unmonitored: Option<u64>,
    /// Its requests that wait for a lock; none if the manager does not know them.
    pub waiters: Option<u64>,
    /// Why its locks may be stale.
    pub suspicions: Vec<String>,
    /// What its statd says now; none without `--probe`.
    pub probe: Option<ClientProbe>,
}

/// What a client's statd says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ClientProbe {
    /// The meaning of its statd's answer, in a word.
    pub statd: StatdAnswer,
    /// Its state number, if it tells one.
    pub state: Option<i32>,
}

/// What a statd says of its state number, beside the one that its client's locks carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StatdAnswer {
    /// The number that its locks carried.
    Same,
    /// Another number: the client is a suspect.
    Different,
    /// It answers, but the numbers cannot be compared: it tells none, or the locks carried none.
    Answers,
    /// Nothing answered in time.
    NoAnswer,
    /// Its rpcbind says that it runs no statd.
    NoStatd,
    /// Its name has no address.
    NameUnknown,
    /// It refused the call.
    Refused,
    /// It could not be asked.
    NotAsked,
}

impl fmt::Display for StatdAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::Answers => "answers",
            Self::NoAnswer => "no answer",
            Self::NoStatd => "no statd",
            Self::NameUnknown => "name unknown",
            Self::Refused => "refused",
            Self::NotAsked => "not asked",
        })
    }
}

impl ClientListing {
    /// With what its statd said: the state number it tells, or in which way there is none.
    pub fn probed(&mut self, said: Result<Option<i32>, Probe>) {
        let now = said.ok().flatten().filter(|state| *state != 0);
        let statd = match (said, now, self.nsm_state) {
            (Ok(_), Some(now), Some(locked_with)) if now == locked_with => StatdAnswer::Same,
            (Ok(_), Some(_), Some(_)) => StatdAnswer::Different,
            (Ok(_), None, _) | (Ok(_), _, None) | (Err(Probe::Answers | Probe::Suspect), ..) => StatdAnswer::Answers,
            (Err(Probe::NoAnswer), ..) => StatdAnswer::NoAnswer,
            (Err(Probe::NoStatd), ..) => StatdAnswer::NoStatd,
            (Err(Probe::NameUnknown), ..) => StatdAnswer::NameUnknown,
            (Err(Probe::Refused), ..) => StatdAnswer::Refused,
            (Err(Probe::NotAsked), ..) => StatdAnswer::NotAsked,
        };
        if let (StatdAnswer::Different, Some(now), Some(locked_with)) = (statd, now, self.nsm_state) {
            self.suspicions.push(format!("its statd's state number is {now}, its locks carried {locked_with}"));
        }
        self.probe = Some(ClientProbe { statd, state: now });
    }
}

impl From<&ClientRow> for ClientListing {
    fn from(row: &ClientRow) -> Self {
        Self {
            name: row.name.to_string(),
            addresses: row.addresses.as_slice().to_vec(),
            server_addresses: row.server_addresses.as_slice().to_vec(),
            nsm_state: row.nsm_state.is_known().then_some(row.nsm_state.0),
            monitored: row.monitored,
            shared_address: row.shared_address,
            locks: Some(row.locks),
            unmonitored: Some(row.unmonitored),
            waiters: Some(row.waiters),
            suspicions: row.suspicions.as_slice().iter().map(|s| s.as_str().to_owned()).collect(),
            probe: None,
        }
    }
}

/// A lock with its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LockListing {
    /// The file handle, in hex.
    pub file: String,
    /// `read`, `write` or `share`.
    pub kind: String,
    /// First byte, from 0.
    pub start: u64,
    /// Last byte; none means "to end of file".
    pub end: Option<u64>,
    /// `held`, `pending`, `waiting` or `offered`.
    pub state: String,
    /// Whether its client can be notified.
    pub monitored: bool,
    /// The owner of the lock.
    pub owner: Owner,
}

impl From<&LockRow> for LockListing {
    fn from(row: &LockRow) -> Self {
        Self {
            file: row.file.to_string(),
            kind: row.kind.to_string(),
            start: row.range.start,
            end: shown_end(row.range.end),
            state: row.state.to_string(),
            monitored: row.monitored,
            owner: Owner::from(&row.owner),
        }
    }
}

/// Runs of the record, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunsReport {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    /// The newest first.
    pub runs: Vec<RunListing>,
    /// Which runs are here; none: all. For the text only.
    #[serde(skip)]
    pub shown: Option<String>,
}

/// A run of the record, in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunListing {
    /// The run's UUID.
    pub id: String,
    /// The lock manager's kind.
    pub manager: String,
    /// Its mode: `strict` or `targeted`.
    pub mode: String,
    /// What it covered, as it was asked for.
    pub scope: ScopeReport,
    /// How it ended; none: it has not, as far as the record knows.
    pub outcome: Option<Outcome>,
    /// How far it got.
    pub phase: Phase,
    /// When it began; until then, when it was asked for.
    pub started_at: Stamp,
    /// From start to end.
    pub elapsed_ms: Option<u64>,
    /// The exit code of `resync`; none: it has not ended.
    pub exit: Option<u8>,
    /// Clients that were to be notified.
    pub clients: u64,
    /// The fate of its locks.
    pub locks: LockTally,
}

/// What came of `nlmctl notify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NotifyReport {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    /// The state number of the notices.
    pub state: i32,
    /// The names in them.
    pub names: Vec<String>,
    /// What stopped it early; none: nothing did.
    pub stopped: Option<String>,
    /// Every host that was to be notified.
    pub hosts: Vec<NoticeReport>,
}

/// A host, and the fate of its notices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NoticeReport {
    /// The host as the list named it.
    pub name: String,
    /// The address to which its notices went; none if its name has no address.
    pub address: Option<Address>,
    /// The fate of its notices.
    pub fate: ClientFate,
    /// Notices sent, repeats included, and port look-ups that went unanswered.
    pub attempts: u32,
    /// From the start to its last ack.
    pub acked_ms: Option<u64>,
    /// What went wrong, for people.
    pub error: Option<String>,
}

impl NotifyReport {
    /// 0 when every host acked, 1 when it was stopped before, 3 when some did not.
    pub fn exit_code(&self) -> u8 {
        match &self.stopped {
            _ if self.hosts.iter().all(|h| h.fate == ClientFate::Acked) => 0,
            Some(_) => 1,
            None => 3,
        }
    }
}
