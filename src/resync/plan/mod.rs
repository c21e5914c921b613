//! The plan of a run: who would be notified, what is in scope, what could be lost, and what needs
//! consent.
//!
//! A plan is made from what the manager and the clients' statds say at one moment. Its
//! [`fingerprint`](Plan::fingerprint) covers what the operator agrees to: scope, mode, policy, the
//! manager's instance, its NSM state, the unreachable clients whose locks may go, and what the manager
//! itself wants to be agreed to. Everything else changes all the time and does not make a plan stale.

mod checks;
mod draft;
mod summary;

#[cfg(test)]
mod tests;

pub use checks::{
    names, only_loopback, own_mounts_allow, refuse_ambiguous, refuse_busy, refuse_unknown, scope, unknown,
};
pub use draft::Draft;

use std::net::IpAddr;
use std::time::Duration;

use super::consent::{Consent, Person};
use crate::report::{self, Failure, PlanClient, PlanReport, Probe, Refusal, ScopeReport};
use crate::wire::control::{
    ClientRef, ClientRow, Info, InstanceId, LockRow, Mode, Policy, Scope, Silent, Status, Unreachable,
};
use crate::wire::types::{Address, CallerName, NsmState};

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `--client`: names or addresses.
    pub clients: Vec<String>,
    /// Paths of exports (`--export`).
    pub exports: Vec<String>,
    /// `--file`: handles in hexadecimal, or paths.
    pub files: Vec<String>,
    pub grace: Duration,
    /// `--grace-max`; if absent 3 minutes, or `grace` if that is longer.
    pub grace_max: Option<Duration>,
    /// `--mode`; if absent strict for everything, targeted for a narrower scope.
    pub mode: Option<Mode>,
    pub unreachable: Unreachable,
    pub silent: Silent,
    pub include_unmonitored: bool,
    pub own_locks_lost: bool,
    /// `--name`: the names that notices carry; if empty, those the manager gives.
    pub names: Vec<CallerName>,
}

impl Request {
    /// Whether its policy spares all clients: nothing can be dropped, also of a silent one.
    pub fn drops_nothing(&self) -> bool {
        self.unreachable == Unreachable::Keep && self.silent == Silent::Keep
    }
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
    /// It answers, with its state number if it gives one.
    Answers(Option<NsmState>),
    /// It does not answer; how it failed.
    Silent(Probe),
}

impl Probed {
    /// What it says of a client whose locks carried this state number, and why that is suspicious.
    pub fn beside(self, locked_with: NsmState) -> (Probe, Option<String>) {
        match self {
            Self::Silent(probe) => (probe, None),
            Self::Answers(Some(now)) if now.contradicts(locked_with) => {
                let why = format!(
                    "its statd's state number is {now}, its locks carried {locked_with}: it may have restarted unnoticed"
                );
                (Probe::Suspect, Some(why))
            }
            Self::Answers(_) => (Probe::Answers, None),
        }
    }
}

/// A client of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedClient {
    pub name: CallerName,
    /// Its addresses; the first one is notified first.
    pub addresses: Vec<IpAddr>,
    /// The server addresses it called: notices leave from each.
    pub server_addresses: Vec<IpAddr>,
    /// Locks in scope; none if the manager does not know who owns a lock.
    pub locks: Option<u64>,
    /// Whether its statd answers.
    pub probe: Probe,
    /// Evidence that its locks are stale; empty when there is none.
    pub suspicions: Vec<String>,
    /// What may keep it from hearing all of its notices.
    pub note: Option<String>,
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The manager's software and version.
    pub manager: String,
    /// The manager's instance that was seen.
    pub instance: InstanceId,
    /// Its NSM state number then.
    pub nsm_state: NsmState,
    /// The names under which notices go out, in order.
    pub names: Vec<CallerName>,
    /// Whether the operator agreed to lose the locks that this host's own processes hold on other servers.
    pub own_locks_lost: bool,
    pub scope: Scope,
    /// The scope as it was asked for.
    pub asked: ScopeReport,
    pub mode: Mode,
    /// What may be dropped.
    pub policy: Policy,
    pub grace: Duration,
    /// What grace may be extended to.
    pub grace_max: Duration,
    /// The clients that would be notified.
    pub clients: Vec<PlannedClient>,
    pub in_scope: u64,
    /// Whether the manager could list its locks, or marks them; if not, there may be more in scope than is counted.
    pub locks_listed: bool,
    /// Whether `begin` frees the locks: then no client keeps a lock that it does not reclaim.
    pub begin_frees: bool,
    /// Unmonitored locks: in scope only if the policy includes them.
    pub unmonitored: u64,
    /// The clients that cannot be notified and whose locks may be dropped.
    pub may_drop: Vec<ClientRef>,
    /// What the operator has to agree to, each in words.
    pub consent: Vec<String>,
    /// The effects that users notice, each in words.
    pub effects: Vec<String>,
    /// What this manager cannot promise, each in words.
    pub caveats: Vec<String>,
    /// Why such a run is refused even with consent: `begin` would lose locks that the policy keeps.
    pub refusal: Option<Failure>,
    /// SHA-256 over everything that the operator agrees to, in hexadecimal.
    pub fingerprint: String,
}

impl Plan {
    /// Consent to exactly this plan, which a run needs to begin.
    ///
    /// # Errors
    /// Refused, if consent is needed and not given, or if no consent would help.
    pub fn agree(&self, yes: bool, person: &mut dyn Person) -> Result<Consent, Failure> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        Consent::obtain(&self.fingerprint, &self.asks(person), yes, person)
    }
    /// What this person is asked: what needs consent, and on a terminal whether a run over everything is intended.
    pub fn asks(&self, person: &dyn Person) -> Vec<String> {
        if self.consent.is_empty() && self.scope.is_everything() && person.is_there() {
            return vec!["run a resync over everything".to_owned()];
        }
        self.consent.clone()
    }
    /// The plan as it is shown.
    pub fn report(&self) -> PlanReport {
        PlanReport::new(report::Plan {
            fingerprint: self.fingerprint.clone(),
            mode: self.mode.to_string(),
            scope: self.asked.clone(),
            in_scope: self.in_scope,
            locks_listed: self.locks_listed,
            unmonitored: self.unmonitored,
            clients: self
                .clients
                .iter()
                .map(|client| PlanClient {
                    name: client.name.to_string(),
                    address: client.addresses.first().copied().map(Address),
                    locks: client.locks,
                    probe: client.probe,
                    note: client.note.clone(),
                    from: client.server_addresses.iter().copied().map(Address).collect(),
                    untellable: self.is_untellable(client),
                })
                .collect(),
            consent: self.consent.clone(),
            names: self.names.iter().map(ToString::to_string).collect(),
            caveats: self.caveats.clone(),
            effects: self.effects.clone(),
            refusal: self.refusal.clone().map(Refusal::from),
        })
    }
    /// The exit code of a dry run.
    pub fn dry_run_exit(&self) -> u8 {
        match &self.refusal {
            Some(refusal) => refusal.kind.exit(),
            // As for the run itself: locks that nobody can see are unverified.
            None if !self.locks_listed => 6,
            None if self.all_reclaimable() => 0,
            None => 3,
        }
    }
    /// Whether the client counts as one that cannot be notified now: its statd does not answer. A client that could
    /// not even be asked, for lack of a suitable socket, is not known to be silent, and keeps its locks, unless
    /// `begin` frees them: no notice reaches it either.
    fn is_untellable(&self, client: &PlannedClient) -> bool {
        if self.begin_frees { !client.answers() } else { client.probe.is_unreachable() }
    }
    /// Clients that cannot be notified now and that hold locks in scope, or may hold some.
    pub fn untellable(&self) -> Vec<&PlannedClient> {
        self.clients.iter().filter(|client| self.is_untellable(client) && client.may_hold()).collect()
    }
    /// Why they cannot be notified, in words: they ...
    pub fn why_untellable(&self) -> &'static str {
        match self.untellable().as_slice() {
            clients if !clients.iter().all(|client| client.probe.is_unreachable()) => "cannot be notified",
            [_] => "does not answer",
            _ => "do not answer",
        }
    }
    /// Their locks in scope; `None` if the number is not known.
    pub fn untellable_locks(&self) -> Option<u64> {
        self.untellable().into_iter().map(|client| client.locks).sum()
    }
    /// Whether every lock in scope could be reclaimed: all clients answer, and no lock is without
    /// a client to tell.
    pub fn all_reclaimable(&self) -> bool {
        (self.in_scope == 0 && self.locks_listed)
            || self.clients.iter().all(|client| client.answers() || !client.may_hold())
                && !(self.policy.include_unmonitored && self.unmonitored > 0)
    }
}

impl PlannedClient {
    /// Whether there is a statd to receive the notice.
    pub fn answers(&self) -> bool {
        match self.probe {
            Probe::Answers | Probe::Suspect => true,
            Probe::NoAnswer | Probe::NoStatd | Probe::NameUnknown | Probe::Refused | Probe::NotAsked => false,
        }
    }
    /// Whether it holds locks in scope, as far as is known.
    pub fn may_hold(&self) -> bool {
        self.locks != Some(0)
    }
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
pub struct Observation<'a> {
    /// The manager's identity.
    pub info: &'a Info,
    pub status: &'a Status,
    pub clients: &'a [ClientRow],
    /// The locks in scope, if the scope names files; otherwise the clients' counts say enough.
    pub locks: Option<&'a [LockRow]>,
    /// This host's NFSv3 mounts that use NLM.
    pub mounts: &'a [LocalMount],
}
