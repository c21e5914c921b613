//! Who waits for the chosen locks, and what needs consent. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::choice::{Chosen, HostProbe};
use crate::manager::Freed;
use crate::report::{
    Failure, HostAnswer, LockListing, LockdProbe, Probe, Refusal, Release, ReleaseClient, ReleaseLeft, ReleaseLock,
    ReleaseOutcome, ReleaseReport, ReleasedCounts, Stamp, Waiting, in_command,
};
use crate::resync::consent::{Consent, Person};
use crate::resync::plan as run_plan;
use crate::units::{self, millis, number};
use crate::wire::control::{ClientRow, LockKind, LockRow, LockState, ReleaseArgs};
use crate::wire::types::{FileHandle, ms};

impl Chosen {
    /// The plan; `probes` are those of [`clients`](Self::clients), in their order.
    /// The paths are those of files, as far as they are known.
    pub(super) fn finish(
        self,
        manager: &str,
        waiting: &[LockRow],
        paths: HashMap<FileHandle, String>,
        probes: &[HostProbe],
        probed_for: Duration,
    ) -> ReleasePlan {
        let not_asked = HostProbe { statd: run_plan::Probed::Silent(Probe::NotAsked), lockd: LockdProbe::NotAsked };
        let probes = probes.iter().copied().chain(std::iter::repeat(not_asked));
        let seen = self.clients.iter().zip(&self.rows).zip(probes);
        let clients: Vec<ReleaseClient> =
            seen.map(|((client, rows), probed)| self.client(client, rows, probed)).collect();
        let all: Vec<&LockRow> = self.rows.iter().flatten().collect();
        let waiters = clients.iter().map(|client| client.waiters).sum();
        let probed_for_ms = ms(probed_for);
        let consent = consent(&clients, probed_for_ms, self.live);
        let outcome = if clients.is_empty() { ReleaseOutcome::NothingHeld } else { ReleaseOutcome::Planned };
        let release = Release {
            id: None,
            manager: manager.to_owned(),
            scope: self.scope,
            only: self.only,
            outcome,
            exit: outcome.exit(),
            at: None,
            uid: None,
            chosen: self.knows_owners.then_some(all.len() as u64 - waiters),
            chosen_waiters: waiters,
            released: None,
            probed_for_ms,
            clients,
            locks: with_waiting(&all, waiting, &paths),
            left: Vec::new(),
            notes: Vec::new(),
            consent,
            refusal: None,
        };
        ReleasePlan { args: self.args, release, live: self.live, targeted: self.targeted, paths, unknown: Vec::new() }
    }

    fn client(&self, client: &ClientRow, rows: &[LockRow], probed: HostProbe) -> ReleaseClient {
        let waiters = rows.iter().filter(|row| row.state == LockState::Waiting).count();
        let mut suspicions: Vec<String> =
            client.suspicions.as_slice().iter().map(|why| why.as_str().to_owned()).collect();
        let (statd, suspicion) = probed.statd.beside(client.nsm_state);
        suspicions.extend(suspicion);
        let state = match probed.statd {
            run_plan::Probed::Answers(state) => state.filter(|state| state.is_known()).map(|state| state.0),
            run_plan::Probed::Silent(_) => None,
        };
        ReleaseClient {
            name: client.name.to_string(),
            address: client.addresses.as_slice().first().copied(),
            locks: self.knows_owners.then_some((rows.len() - waiters) as u64),
            waiters: waiters as u64,
            whole: self.whole,
            shared_address: client.shared_address,
            heard: HostAnswer::of(statd, probed.lockd),
            statd,
            lockd: probed.lockd,
            locked_with: client.nsm_state.is_known().then_some(client.nsm_state.0),
            state,
            suspicions,
        }
    }
}

/// The locks, each with those who wait for it and are not chosen themselves.
fn with_waiting(chosen: &[&LockRow], waiting: &[LockRow], paths: &HashMap<FileHandle, String>) -> Vec<ReleaseLock> {
    let gone: HashSet<Vec<u8>> =
        chosen.iter().filter(|row| row.state == LockState::Waiting).map(|row| crate::wire::xdr::encode(*row)).collect();
    let mut on: HashMap<&FileHandle, Vec<&LockRow>> = HashMap::new();
    for row in waiting.iter().filter(|row| !gone.contains(&crate::wire::xdr::encode(*row))) {
        on.entry(&row.file).or_default().push(row);
    }
    let in_the_way = |lock: &LockRow, row: &LockRow| {
        row.owner != lock.owner
            && row.range.overlaps(lock.range)
            && lock.kind != LockKind::Share
            && (row.kind == LockKind::Exclusive || lock.kind == LockKind::Exclusive)
    };
    let waited_for = |lock: &LockRow| {
        let those = on.get(&lock.file).into_iter().flatten().filter(|row| in_the_way(lock, row));
        those.map(|row| Waiting { name: row.owner.name.to_string(), svid: row.owner.svid.0 }).collect()
    };
    chosen
        .iter()
        .map(|lock| ReleaseLock {
            lock: LockListing::from(*lock),
            path: paths.get(&lock.file).cloned(),
            waited_for: if lock.state == LockState::Waiting { Vec::new() } else { waited_for(lock) },
        })
        .collect()
}

/// What the operator has to agree to, in words: clients that answer are listed one by one. `live`: `--live` was given.
fn consent(clients: &[ReleaseClient], probed_for_ms: u64, live: bool) -> Vec<String> {
    const SHOWN: usize = 5;
    let also = if live { "" } else { " (also needs --live)" };
    let what = |some: &[&ReleaseClient]| {
        let waiters: u64 = some.iter().map(|client| client.waiters).sum();
        let locks = match some.iter().map(|client| client.locks).sum::<Option<u64>>() {
            Some(locks) => number(locks, "lock", "locks"),
            None => "whatever is held".to_owned(),
        };
        if waiters > 0 {
            format!("{locks} and {}", number(waiters, "blocked request", "blocked requests"))
        } else {
            locks
        }
    };
    let who = |client: &ReleaseClient| match client.address {
        Some(address) => format!("{} ({address})", client.name),
        None => client.name.clone(),
    };
    let of = |heard: HostAnswer| clients.iter().filter(move |client| client.heard == heard).collect::<Vec<_>>();
    let mut wanted = Vec::new();
    let silent = of(HostAnswer::NoAnswer);
    if !silent.is_empty() {
        wanted.push(format!(
            "release {} of {}, where nothing answered within {}; a process that still runs there continues as if \
             it held its lock",
            what(&silent),
            units::first(silent.iter().map(|client| who(client)), SHOWN),
            millis(probed_for_ms),
        ));
    }
    for client in of(HostAnswer::Answers) {
        wanted.push(format!(
            "release {} of {}, which ANSWERS (statd: {}; lockd: {}): it is not notified, and a process that runs there \
             continues as if it held its lock: two may write at once{also}",
            what(&[client]),
            who(client),
            client.statd_words(probed_for_ms),
            client.lockd_words(probed_for_ms),
        ));
    }
    for client in of(HostAnswer::NotAsked) {
        wanted.push(format!(
            "release {} of {}, which could not be asked; a process that runs there continues as if it held its lock{also}",
            what(&[client]),
            who(client),
        ));
    }
    wanted
}

/// What a release would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasePlan {
    args: ReleaseArgs,
    release: Release,
    live: bool,
    /// Whether the lock manager can run for one client alone.
    targeted: bool,
    paths: HashMap<FileHandle, String>,
    /// Why nothing is released of names that were given, each in words: the lock manager knows no such client.
    pub unknown: Vec<String>,
}

impl ReleasePlan {
    /// What the lock manager is asked.
    pub(super) fn args(&self) -> &ReleaseArgs {
        &self.args
    }
    /// What the manager itself wants to be agreed to, where there is something to release.
    pub(super) fn cautioned(mut self, agreed_to: Vec<String>) -> Self {
        if !self.is_of_nothing() {
            self.release.consent.extend(agreed_to);
        }
        self
    }
    /// Names that were given, of which no client is known; each in words.
    pub(super) fn without(mut self, unknown: Vec<String>) -> Self {
        self.unknown = unknown;
        self
    }
    /// Who asks for it.
    pub(super) fn asked_by(mut self, uid: u32) -> Self {
        self.release.uid = Some(uid);
        self
    }
    /// As it is shown.
    pub fn report(&self) -> ReleaseReport {
        ReleaseReport::new(Release { refusal: self.refuse_live().err().map(Refusal::from), ..self.release.clone() })
    }
    /// Whether there is nothing to release, and the operator allowed that.
    pub fn is_of_nothing(&self) -> bool {
        self.release.outcome == ReleaseOutcome::NothingHeld
    }
    /// What the operator has to agree to, each in words; empty only if there is nothing to release.
    pub fn consent(&self) -> &[String] {
        &self.release.consent
    }

    /// Refuses without `--live`, if it is needed.
    ///
    /// # Errors
    /// `--live` is needed and missing. The message names the clients.
    pub fn refuse_live(&self) -> Result<(), Failure> {
        let alive = |client: &&ReleaseClient| match client.heard {
            HostAnswer::Answers | HostAnswer::NotAsked => true,
            HostAnswer::NoAnswer => false,
        };
        let named: Vec<_> = self.release.clients.iter().filter(alive).collect();
        if self.live || named.is_empty() {
            return Ok(());
        }
        let shown = |client: &&ReleaseClient| match client.heard {
            HostAnswer::Answers => format!("{} answers", client.name),
            HostAnswer::NoAnswer | HostAnswer::NotAsked => format!("{} could not be asked", client.name),
        };
        let remedy = match named.as_slice() {
            [first, ..] if self.targeted => format!(
                "use `nlmctl resync --client {}`, which frees only the locks that the client does not reclaim; if you \
                 are sure that the locks are stale, add --live",
                in_command(&first.name, first.address)
            ),
            _ => {
                "if you are sure that the locks are stale, add --live; or use a run over everything (`nlmctl resync`), \
                  in which a running client reclaims its locks"
                    .to_owned()
            }
        };
        Err(Failure::refused(
            format!(
                "{}: its processes would continue as if they held the released locks; nothing was released",
                units::first(named.iter().map(shown), 5)
            ),
            remedy,
        ))
    }

    /// Consent to exactly this plan, which a release needs.
    ///
    /// # Errors
    /// Refused, where it is not given, or a client answers and `--live` was not given.
    pub fn agree(&self, yes: bool, person: &mut dyn Person) -> Result<Consent, Failure> {
        self.refuse_live()?;
        Consent::obtain(&self.agreed_to(), self.consent(), yes, person)
    }

    /// Whether this release is what was agreed to.
    ///
    /// # Errors
    /// It is not, or a client answers and `--live` was not given.
    pub fn is_agreed_to(&self, consent: &Consent) -> Result<(), Failure> {
        self.refuse_live()?;
        if consent.covers(&self.agreed_to()) {
            return Ok(());
        }
        Err(Failure::refused(
            "something else was agreed to than this release; nothing was released",
            "look at the plan (--dry-run) and agree to it as it is",
        ))
    }

    /// What [`agree`](Self::agree) gives consent to. It names every client and lock.
    fn agreed_to(&self) -> String {
        self.consent().join("\n")
    }

    fn over(&self, id: &str, at: Stamp, outcome: ReleaseOutcome) -> Release {
        let id = Some(id.to_owned());
        Release { id, at: Some(at), outcome, exit: outcome.exit(), ..self.release.clone() }
    }

    /// The report of what the manager did.
    pub(super) fn ended(&self, id: &str, at: Stamp, freed: &Freed) -> ReleaseReport {
        let Freed { released: done, why_left, notes, unverified } = freed;
        let why_left = why_left.iter().cloned().map(Some).chain(std::iter::repeat(None));
        let left = done.left_rows.as_slice().iter().zip(why_left);
        let outcome = match done.left {
            _ if *unverified => ReleaseOutcome::Unverified,
            0 => ReleaseOutcome::Released,
            _ => ReleaseOutcome::Partial,
        };
        ReleaseReport::new(Release {
            released: Some(ReleasedCounts {
                locks: done.locks,
                waiters: done.waiters,
                offered: done.offered,
                left: done.left,
            }),
            left: left
                .map(|(row, why)| ReleaseLeft {
                    lock: LockListing::from(row),
                    path: self.paths.get(&row.file).cloned(),
                    why,
                })
                .collect(),
            notes: notes.clone(),
            locks: match self.release.chosen {
                Some(_) => self.release.locks.clone(),
                None => with_waiting(&done.rows.as_slice().iter().collect::<Vec<_>>(), &[], &self.paths),
            },
            ..self.over(id, at, outcome)
        })
    }

    /// The report of a release that the manager did not confirm.
    pub(super) fn failed(&self, id: &str, at: Stamp, outcome: ReleaseOutcome) -> ReleaseReport {
        ReleaseReport::new(self.over(id, at, outcome))
    }
}

#[cfg(test)]
mod tests;
