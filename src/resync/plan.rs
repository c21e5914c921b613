//! The plan of a run: who would be told, what is in scope, what could be lost, and what wants
//! consent.
//!
//! A plan is made from what the manager and the clients' statds say at one moment. Its
//! [`fingerprint`](Plan::fingerprint) covers what the operator agrees to: scope, mode, policy, the
//! manager's instance, its NSM state, and the unreachable clients whose locks may go. Everything
//! else changes all the time and does not make a plan stale.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::report::{self, PlanClient, PlanReport, Probe, ScopeReport};
use crate::wire::control::{
    ClientRef, ClientRow, Grace, Info, InstanceId, LockRow, LockState, Mode, Policy, Scope, Silent, Status, Unreachable,
};
use crate::wire::types::{Address, CallerName, FileHandle, NsmState};
use crate::wire::xdr::{List, Maybe, encode};

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `--client`: names or addresses.
    pub clients: Vec<String>,
    /// `--export`: paths.
    pub exports: Vec<String>,
    /// `--file`: handles in hexadecimal, or paths.
    pub files: Vec<String>,
    /// `--grace`.
    pub grace: Duration,
    /// `--grace-max`; if absent 3 minutes, or `grace` if that is longer.
    pub grace_max: Option<Duration>,
    /// `--mode`; if absent strict for everything, targeted for a narrower scope.
    pub mode: Option<Mode>,
    /// `--unreachable`.
    pub unreachable: Unreachable,
    /// `--silent`.
    pub silent: Silent,
    /// `--include-unmonitored`.
    pub include_unmonitored: bool,
    /// `--own-locks-lost`.
    pub own_locks_lost: bool,
    /// `--name`: the names that notices carry; if empty, those the manager gives.
    pub names: Vec<CallerName>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            clients: Vec::new(),
            exports: Vec::new(),
            files: Vec::new(),
            grace: Duration::from_secs(90),
            grace_max: None,
            mode: None,
            unreachable: Unreachable::Keep,
            silent: Silent::Auto,
            include_unmonitored: false,
            own_locks_lost: false,
            names: Vec::new(),
        }
    }
}

/// What a client's statd said to SM_STAT a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// It answers, with its state number if it tells one.
    Answers(Option<NsmState>),
    /// It does not, in this way.
    Silent(Probe),
}

/// A client of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedClient {
    /// Its `caller_name`.
    pub name: CallerName,
    /// Its addresses; the first one is notified first.
    pub addresses: Vec<IpAddr>,
    /// The server addresses it called: notices leave from each.
    pub server_addresses: Vec<IpAddr>,
    /// Locks in scope.
    pub locks: u64,
    /// Whether its statd answers.
    pub probe: Probe,
    /// Evidence that its locks are stale; empty when there is none.
    pub suspicions: Vec<String>,
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The manager's software and version.
    pub manager: String,
    /// The manager's life that was seen.
    pub instance: InstanceId,
    /// Its NSM state number then.
    pub nsm_state: NsmState,
    /// The names under which notices go out, in order.
    pub names: Vec<CallerName>,
    /// What it covers.
    pub scope: Scope,
    /// The scope as it was asked for.
    pub asked: ScopeReport,
    /// Strict or targeted.
    pub mode: Mode,
    /// What may be dropped.
    pub policy: Policy,
    /// Grace.
    pub grace: Duration,
    /// What grace may be extended to.
    pub grace_max: Duration,
    /// Who is told.
    pub clients: Vec<PlannedClient>,
    /// Locks in scope.
    pub in_scope: u64,
    /// Unmonitored locks: in scope only if the policy includes them.
    pub unmonitored: u64,
    /// The unreachable clients whose locks may be dropped.
    pub may_drop: Vec<ClientRef>,
    /// What the operator has to agree to, each in words.
    pub consent: Vec<String>,
    /// What this manager cannot promise, each in words.
    pub caveats: Vec<String>,
    /// SHA-256 over what is agreed to, in hexadecimal.
    pub fingerprint: String,
}

impl Plan {
    /// Consent to this plan: `agreed` is what the operator said to everything in
    /// [`consent`](Self::consent). Where that is empty nobody has to be asked.
    ///
    /// # Errors
    /// Refused, where consent is wanted and was not given.
    pub fn agree(&self, agreed: bool) -> Result<Consent, PlanError> {
        if agreed || self.consent.is_empty() {
            return Ok(Consent { fingerprint: self.fingerprint.clone() });
        }
        refused(
            format!("this run wants consent, and there was none: {}", self.consent.join("; ")),
            "look at the plan (--dry-run), then agree with --yes",
        )
    }
    /// The plan as it is shown.
    pub fn report(&self) -> PlanReport {
        PlanReport::new(report::Plan {
            fingerprint: self.fingerprint.clone(),
            mode: self.mode.to_string(),
            scope: self.asked.clone(),
            in_scope: self.in_scope,
            unmonitored: self.unmonitored,
            clients: self
                .clients
                .iter()
                .map(|client| PlanClient {
                    name: client.name.to_string(),
                    address: client.addresses.first().copied(),
                    locks: client.locks,
                    probe: client.probe,
                    from: client.server_addresses.clone(),
                })
                .collect(),
            consent: self.consent.clone(),
            names: self.names.iter().map(ToString::to_string).collect(),
            caveats: self.caveats.clone(),
        })
    }
    /// The exit code of a dry run.
    pub fn dry_run_exit(&self) -> u8 {
        if self.all_reclaimable() { 0 } else { 3 }
    }
    /// Locks in scope of clients whose statd does not answer now.
    pub fn unreachable_locks(&self) -> u64 {
        self.clients.iter().filter(|client| !client.answers()).map(|client| client.locks).sum()
    }
    /// Whether every lock in scope could be reclaimed: all its clients answer, and none is without
    /// a client to tell.
    pub fn all_reclaimable(&self) -> bool {
        self.unreachable_locks() == 0 && !(self.policy.include_unmonitored && self.unmonitored > 0)
    }
}

impl PlannedClient {
    /// Whether there is a statd to take the notice.
    pub fn answers(&self) -> bool {
        match self.probe {
            Probe::Answers | Probe::Suspect => true,
            Probe::NoAnswer | Probe::NoStatd | Probe::NameUnknown | Probe::Refused | Probe::NotAsked => false,
        }
    }
    /// Whether there is evidence that its locks are stale.
    pub fn is_suspect(&self) -> bool {
        !self.suspicions.is_empty()
    }
}

/// Proof that the operator agreed to exactly one plan. A run wants it to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    fingerprint: String,
}

impl Consent {
    /// Whether it is for this plan.
    pub fn covers(&self, plan: &Plan) -> bool {
        self.fingerprint == plan.fingerprint
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// What was asked makes no sense (exit 2).
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to ask instead.
        remedy: String,
    },
    /// It would not be safe now (exit 4).
    #[error("{message}")]
    Refused {
        /// What is in the way.
        message: String,
        /// How to get it out of the way.
        remedy: String,
    },
}

fn usage<T>(message: impl Into<String>, remedy: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError::Usage { message: message.into(), remedy: remedy.into() })
}

fn refused<T>(message: impl Into<String>, remedy: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError::Refused { message: message.into(), remedy: remedy.into() })
}

/// An NFSv3 mount of this host whose locks go through NLM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalMount {
    /// Where it is mounted.
    pub at: String,
    /// What is mounted: `server:/path`.
    pub from: String,
    /// Whether this host itself is the server.
    pub from_self: bool,
}

/// What was seen of manager and host.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Who the manager is.
    pub info: &'a Info,
    /// How it is.
    pub status: &'a Status,
    /// Its clients.
    pub clients: &'a [ClientRow],
    /// The locks in scope, if the scope names files; otherwise the clients' counts say enough.
    pub locks: Option<&'a [LockRow]>,
    /// This host's NFSv3 mounts that use NLM.
    pub mounts: &'a [LocalMount],
}

/// The scope that a request names, before anything is known of the clients.
///
/// # Errors
/// A path or an export where the manager knows only file handles, or too many of a kind.
pub fn scope(request: &Request, info: &Info) -> Result<Scope, PlanError> {
    let paths_help = "name files by their handles, in hexadecimal as `nlmctl locks` shows them";
    if let Some(export) = request.exports.first() {
        return usage(
            format!("{} knows no exports, so --export {export} cannot be used with it", info.software.as_str()),
            paths_help,
        );
    }
    let mut files = Vec::with_capacity(request.files.len());
    for text in &request.files {
        match hex::decode(text).ok().filter(|bytes| !bytes.is_empty()).map(|bytes| FileHandle::new(&bytes)) {
            Some(Ok(handle)) => files.push(handle),
            Some(Err(e)) => return usage(format!("--file {text}: {e}"), paths_help),
            None => {
                return usage(
                    format!("--file {text} is not a file handle, and {} knows no paths", info.software.as_str()),
                    paths_help,
                );
            }
        }
    }
    let mut clients = Vec::with_capacity(request.clients.len());
    for text in &request.clients {
        clients.push(match text.parse::<IpAddr>() {
            Ok(ip) => ClientRef { name: Maybe(None), address: Maybe(Some(ip.into())) },
            Err(_) => match CallerName::new(text) {
                Ok(name) => ClientRef { name: Maybe(Some(name)), address: Maybe(None) },
                Err(e) => {
                    return usage(
                        format!("--client {text:?} is neither an address nor a name: {e}"),
                        "see `nlmctl clients`",
                    );
                }
            },
        });
    }
    let too_many = "run once for all (no --client, no --file), or several times";
    let Ok(clients) = List::new(clients) else { return usage("too many --client", too_many) };
    let Ok(files) = List::new(files) else { return usage("too many --file", too_many) };
    Ok(Scope { clients, files })
}

/// A plan that lacks only what the clients' statds say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    plan: Plan,
    states: Vec<NsmState>,
}

impl Draft {
    /// Checks the request against what was seen.
    ///
    /// # Errors
    /// Everything that forbids the run whatever the probes say.
    pub fn new(request: &Request, scope: Scope, seen: Seen<'_>) -> Result<Self, PlanError> {
        let mode = mode(request, &scope, seen.info)?;
        let (grace, grace_max) = grace(request)?;
        refuse_busy(seen.status)?;
        let chosen = chosen(request, &scope, &seen)?;
        refuse_own_mounts(request, &chosen, seen.mounts)?;

        let policy = Policy {
            unreachable: request.unreachable,
            silent: request.silent,
            include_unmonitored: request.include_unmonitored,
        };
        let unmonitored = chosen.iter().map(|(_, counts)| counts.unmonitored).sum();
        let in_scope = chosen
            .iter()
            .map(|(_, counts)| counts.monitored + if policy.include_unmonitored { counts.unmonitored } else { 0 })
            .sum();
        let told = chosen
            .iter()
            .filter(|(row, counts)| row.monitored && (counts.monitored > 0 || scope.files.as_slice().is_empty()));
        let (clients, states) = told
            .map(|(row, counts)| {
                let client = PlannedClient {
                    name: row.name.clone(),
                    addresses: row.addresses.as_slice().iter().map(|a| a.0).collect(),
                    server_addresses: row.server_addresses.as_slice().iter().map(|a| a.0).collect(),
                    locks: counts.monitored,
                    probe: Probe::NotAsked,
                    suspicions: row.suspicions.as_slice().iter().map(|s| s.as_str().to_owned()).collect(),
                };
                (client, row.nsm_state)
            })
            .unzip();
        let names = if request.names.is_empty() { seen.info.names.as_slice().to_vec() } else { request.names.clone() };
        if names.is_empty() {
            return usage(
                "the lock manager gives no name under which clients know this server",
                "give one with --name",
            );
        }
        let plan = Plan {
            manager: seen.info.software.as_str().to_owned(),
            instance: seen.info.instance,
            nsm_state: seen.info.nsm_state,
            names,
            asked: ScopeReport {
                clients: request.clients.clone(),
                exports: request.exports.clone(),
                files: request.files.clone(),
            },
            scope,
            mode,
            policy,
            grace,
            grace_max,
            clients,
            in_scope,
            unmonitored,
            may_drop: Vec::new(),
            consent: Vec::new(),
            caveats: caveats(seen.info),
            fingerprint: String::new(),
        };
        Ok(Self { plan, states })
    }

    /// Whose statds to ask.
    pub fn clients(&self) -> &[PlannedClient] {
        &self.plan.clients
    }

    /// The plan, with what those statds said: one probe for each of [`clients`](Self::clients), in
    /// their order. What is missing counts as not asked.
    pub fn finish(self, probes: &[Probed]) -> Plan {
        let Self { mut plan, states } = self;
        let missing = std::iter::repeat(Probed::Silent(Probe::NotAsked));
        let probes = probes.iter().copied().chain(missing);
        for ((client, locked_with), probed) in plan.clients.iter_mut().zip(states).zip(probes) {
            client.probe = match probed {
                Probed::Silent(probe) => probe,
                Probed::Answers(Some(now)) if now.is_known() && locked_with.is_known() && now != locked_with => {
                    client.suspicions.push(format!(
                        "its statd's state number is {now}, its locks carried {locked_with}: it may have restarted unnoticed"
                    ));
                    Probe::Suspect
                }
                Probed::Answers(_) => Probe::Answers,
            };
        }
        if plan.policy.unreachable == Unreachable::Drop {
            plan.may_drop = plan
                .clients
                .iter()
                .filter(|client| !client.answers() && client.locks > 0)
                .map(|client| ClientRef {
                    name: Maybe(Some(client.name.clone())),
                    address: Maybe(client.addresses.first().copied().map(Address)),
                })
                .collect();
        }
        plan.consent = consent(&plan);
        plan.fingerprint = fingerprint(&plan);
        plan
    }
}

fn mode(request: &Request, scope: &Scope, info: &Info) -> Result<Mode, PlanError> {
    let everything = scope.is_everything();
    match request.mode.unwrap_or(if everything { Mode::Strict } else { Mode::Targeted }) {
        Mode::Strict if !everything => usage(
            "--mode strict covers everything, and the scope is narrower",
            "leave out --mode strict, or leave out --client, --export and --file",
        ),
        Mode::Targeted if !info.capabilities.targeted => usage(
            format!("{} cannot do a targeted run", info.software.as_str()),
            "resync everything: leave out --mode targeted, --client, --export and --file",
        ),
        mode => Ok(mode),
    }
}

fn grace(request: &Request) -> Result<(Duration, Duration), PlanError> {
    const DAY: Duration = Duration::from_hours(24);
    let grace = request.grace;
    if grace < Duration::from_millis(1) || grace > DAY {
        return usage("--grace must be between 1ms and 24h", "90s suits most");
    }
    let max = request.grace_max.unwrap_or(grace.max(Duration::from_mins(3)));
    if max < grace || max > DAY {
        return usage("--grace-max must be between --grace and 24h", "leave it out, or make it longer than --grace");
    }
    Ok((grace, max))
}

fn refuse_busy(status: &Status) -> Result<(), PlanError> {
    if let Some(run) = &status.run.0 {
        return refused(
            format!("run {} is active, for another {} ms at least", run.run, run.remaining_ms),
            "wait for it (`nlmctl status`), go on with it (`nlmctl resync --resume`) or end it (`nlmctl abort`)",
        );
    }
    match status.grace {
        Grace::Open => Ok(()),
        Grace::Recovery | Grace::Strict | Grace::Targeted | Grace::Settling => refused(
            format!(
                "the lock manager is in a grace period of its own, for another {} ms: clients are reclaiming already",
                status.grace_remaining_ms
            ),
            "wait until it is over (`nlmctl status`)",
        ),
    }
}

/// A client's locks in scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct InScope {
    monitored: u64,
    unmonitored: u64,
}

fn chosen<'a>(request: &Request, scope: &Scope, seen: &Seen<'a>) -> Result<Vec<(&'a ClientRow, InScope)>, PlanError> {
    for (wanted, text) in scope.clients.as_slice().iter().zip(&request.clients) {
        if !seen.clients.iter().any(|row| names(wanted, row)) {
            let near = near(text, seen.clients);
            let remedy = if near.is_empty() {
                "see `nlmctl clients` for those it knows".to_owned()
            } else {
                format!("did you mean {}?", near.join(" or "))
            };
            return usage(format!("the lock manager knows no client {text}"), remedy);
        }
    }
    let listed = seen.locks.map(count_by_owner);
    let counts = |row: &ClientRow| match &listed {
        None => InScope { monitored: row.locks.saturating_sub(row.unmonitored), unmonitored: row.unmonitored },
        Some(listed) => {
            row.addresses.as_slice().iter().filter_map(|address| listed.get(&(row.name.clone(), address.0))).fold(
                InScope::default(),
                |sum, one| InScope {
                    monitored: sum.monitored + one.monitored,
                    unmonitored: sum.unmonitored + one.unmonitored,
                },
            )
        }
    };
    let wanted = scope.clients.as_slice();
    Ok(seen
        .clients
        .iter()
        .filter(|row| wanted.is_empty() || wanted.iter().any(|client| names(client, row)))
        .map(|row| (row, counts(row)))
        .collect())
}

fn count_by_owner(locks: &[LockRow]) -> HashMap<(CallerName, IpAddr), InScope> {
    let mut by_owner: HashMap<_, InScope> = HashMap::new();
    for lock in locks {
        match lock.state {
            LockState::Waiting => {}
            LockState::Held | LockState::Pending | LockState::Offered => {
                let counts = by_owner.entry((lock.owner.name.clone(), lock.owner.address.0)).or_default();
                if lock.monitored {
                    counts.monitored += 1;
                } else {
                    counts.unmonitored += 1;
                }
            }
        }
    }
    by_owner
}

/// Whether a reference names this client. One without name and address names nobody.
fn names(wanted: &ClientRef, row: &ClientRow) -> bool {
    let by_name = wanted.name.0.as_ref().map(|name| name.matches(&row.name));
    let by_address = wanted.address.0.map(|address| row.addresses.as_slice().contains(&address));
    match (by_name, by_address) {
        (None, None) => false,
        (name, address) => name.unwrap_or(true) && address.unwrap_or(true),
    }
}

/// The clients whose name or address is most like what was typed, the likeliest first, three at most.
fn near(text: &str, clients: &[ClientRow]) -> Vec<String> {
    let typed = text.to_lowercase();
    let likeness = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        if candidate.contains(&typed) { 1.0 } else { strsim::jaro_winkler(&typed, &candidate) }
    };
    let mut scored: Vec<(f64, String)> = clients
        .iter()
        .flat_map(|row| {
            let addresses = row.addresses.as_slice().iter().map(ToString::to_string);
            std::iter::once(row.name.to_string()).chain(addresses)
        })
        .map(|candidate| (likeness(&candidate), candidate))
        .filter(|(score, _)| *score > 0.85)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.dedup();
    scored.truncate(3);
    scored.into_iter().map(|(_, candidate)| candidate).collect()
}

/// A notice from this host tells the peers of this host's own mounts, too, that their locks are
/// gone: their servers would free what processes here still hold.
fn refuse_own_mounts(
    request: &Request,
    chosen: &[(&ClientRow, InScope)],
    mounts: &[LocalMount],
) -> Result<(), PlanError> {
    let all_loopback = chosen
        .iter()
        .flat_map(|(row, _)| row.addresses.as_slice())
        .all(|address| address.0.to_canonical().is_loopback());
    own_mounts_allow(request.own_locks_lost, all_loopback, mounts)
}

/// Whether this host's own mounts allow notices to leave.
///
/// # Errors
/// They do not; the message names them.
pub fn own_mounts_allow(own_locks_lost: bool, all_loopback: bool, mounts: &[LocalMount]) -> Result<(), PlanError> {
    if own_locks_lost || mounts.is_empty() || (all_loopback && mounts.iter().all(|mount| !mount.from_self)) {
        return Ok(());
    }
    let shown: Vec<_> = mounts.iter().take(3).map(|mount| format!("{} at {}", mount.from, mount.at)).collect();
    let more = mounts.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    refused(
        format!(
            "this host has NFSv3 mounts that lock over the network ({}{more}): a notice from here also tells those \
             servers that this host's own processes have lost their locks",
            shown.join(", ")
        ),
        "unmount them, mount them with nolock or NFSv4, or agree to lose those locks with --own-locks-lost",
    )
}

fn caveats(info: &Info) -> Vec<String> {
    if info.capabilities.mark {
        return Vec::new();
    }
    let software = info.software.as_str();
    [
        "a lock whose reclaim was granted may still be dropped (statement 2)",
        "mark and grace are not one step: a client may reclaim before grace and be refused (statement 4)",
        "an unreclaimed lock does not protect its range until the end (statement 5)",
        "a late reclaim may be refused (statement 9)",
        "what is dropped goes at the start or bit by bit, not in one instant (statement 10)",
    ]
    .into_iter()
    .map(|what| format!("{software} cannot mark locks: {what}"))
    .collect()
}

fn consent(plan: &Plan) -> Vec<String> {
    let mut wanted = Vec::new();
    if !plan.may_drop.is_empty() {
        let unreachable: Vec<_> = plan.clients.iter().filter(|c| !c.answers() && c.locks > 0).collect();
        let locks: u64 = unreachable.iter().map(|client| client.locks).sum();
        let shown: Vec<_> = unreachable.iter().take(5).map(|client| client.name.to_string()).collect();
        let more = unreachable.len().saturating_sub(shown.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        wanted.push(format!(
            "drop {} of {} that {} not answer ({}{more}) if {} until the end; should one still run, its processes \
             go on as if they held them",
            counted(locks, "lock"),
            counted(unreachable.len() as u64, "client"),
            if unreachable.len() == 1 { "does" } else { "do" },
            shown.join(", "),
            if unreachable.len() == 1 { "it stays silent" } else { "they stay silent" },
        ));
    }
    if plan.policy.silent == Silent::Drop {
        wanted.push(format!(
            "drop the locks of clients that ack and reclaim nothing, however many they are (--silent drop): up to {} \
             in use would be lost if the notices are not understood",
            counted(plan.in_scope, "lock")
        ));
    }
    if plan.policy.include_unmonitored {
        wanted.push(format!(
            "drop {} whose clients cannot be told (--include-unmonitored): processes that still hold them are not warned",
            counted(plan.unmonitored, "unmonitored lock")
        ));
    }
    wanted
}

fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn fingerprint(plan: &Plan) -> String {
    fn digest_sorted<T: crate::wire::xdr::Pack>(hash: &mut Sha256, items: &[T]) {
        let mut encoded: Vec<_> = items.iter().map(encode).collect();
        encoded.sort();
        encoded.dedup();
        hash.update((encoded.len() as u64).to_be_bytes());
        // XDR of these types is self-delimiting, so the sequence is unambiguous.
        encoded.iter().for_each(|item| hash.update(item));
    }
    let mut hash = Sha256::new();
    hash.update(b"nlmctl plan 1");
    digest_sorted(&mut hash, plan.scope.clients.as_slice());
    digest_sorted(&mut hash, plan.scope.files.as_slice());
    hash.update(encode(&plan.mode));
    hash.update(encode(&plan.policy));
    hash.update(encode(&plan.instance));
    hash.update(encode(&plan.nsm_state));
    digest_sorted(&mut hash, &plan.may_drop);
    hex::encode(hash.finalize())
}
