//! A round of `nlmctl reconcile`: a line for each finding, and nothing where all is well.

use std::fmt::Write;

use serde::Serialize;

use super::run::{PathReport, kept_words};
use super::table::clean;
use super::text::{Render, View, line};
use super::{ClientFate, LockTally, Outcome, Refusal, SCHEMA, Stamp};
use crate::units::{count, number};
use crate::wire::types::Address;

/// The document `{"schema","reconcile"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReconcileReport {
    /// Version of this kind of document; raised only when a field is removed.
    pub schema: u32,
    pub reconcile: Reconcile,
}

/// A round of `nlmctl reconcile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reconcile {
    /// The lock manager's kind.
    pub manager: String,
    /// Whether this was a dry run.
    pub dry_run: bool,
    /// The exit code of the round.
    pub exit: u8,
    /// Clients that hold locks; the statd of each was asked.
    pub clients: u64,
    /// Clients that did not answer; their locks are kept.
    pub unreachable: u64,
    /// Locks of the suspects that are due for a run: the most that may be dropped.
    pub at_stake: u64,
    /// Most locks that the round may drop (`--max-drop`).
    pub max_drop: u64,
    /// Why suspects that were due got no run.
    pub stopped: Option<Refusal>,
    /// Clients with evidence against them, also those whose next run is not due yet.
    pub suspects: Vec<Suspect>,
}

/// A client with evidence against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Suspect {
    /// Its `caller_name`, as its locks carry it.
    pub name: String,
    /// The first of its addresses.
    pub address: Option<Address>,
    /// Its locks that a run marks.
    pub locks: u64,
    /// The evidence against it, a sentence each.
    pub reasons: Vec<String>,
    /// What this round does with it.
    pub step: SuspectStep,
    /// When its next run is due at the earliest, unless there is news; none before its first one.
    pub next_run_at: Option<Stamp>,
    /// Why its locks are kept if it acks and reclaims nothing; none if they are dropped in that case.
    pub kept_if_silent: Option<String>,
    /// What came of its run; none where there was none.
    pub run: Option<SuspectRun>,
}

/// What a round does with a suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SuspectStep {
    /// A suspect for the first time: the next round looks again.
    LookAgain,
    /// A run has examined this evidence; the next run is not due yet.
    Wait,
    /// It is due for a run.
    Run,
}

/// What came of a suspect's run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SuspectRun {
    /// The run's UUID.
    pub id: String,
    /// How it ended; none: it has not, as far as the record knows.
    pub outcome: Option<Outcome>,
    /// Its exit code, as `runs show` has it.
    pub exit: Option<u8>,
    /// Why, where the exit code is 1 or 4.
    pub reason: Option<String>,
    /// The fate of the client's notices.
    pub fate: Option<ClientFate>,
    /// The fate of its locks.
    pub locks: LockTally,
    /// Its locks that were pending when the run settled, and why they were kept.
    pub paths: Vec<PathReport>,
}

impl Reconcile {
    /// The report, with the exit code put in. `stopped_with`: that of what stopped the round.
    pub fn report(mut self, stopped_with: Option<u8>) -> ReconcileReport {
        let runs = self.suspects.iter().filter_map(|suspect| suspect.run.as_ref());
        let any_run = runs.clone().next().is_some();
        // 5 says that nothing was touched.
        let stopped_with = stopped_with.map(|exit| if exit == 5 && any_run { 1 } else { exit });
        let would = (self.dry_run && self.suspects.iter().any(|suspect| suspect.step == SuspectStep::Run)).then_some(3);
        let exits: Vec<u8> = runs.map(|run| run.exit.unwrap_or(1)).chain(stopped_with).chain(would).collect();
        self.exit = [1, 5, 4, 2, 6, 3].into_iter().find(|exit| exits.contains(exit)).unwrap_or(0);
        ReconcileReport { schema: SCHEMA, reconcile: self }
    }
}

impl Render for ReconcileReport {
    fn show(&self, view: &View) -> String {
        let round = &self.reconcile;
        let mut out = String::new();
        if round.dry_run {
            would(&mut out, round, view);
        }
        for suspect in &round.suspects {
            if let Some(run) = suspect.run.as_ref().filter(|run| run.exit != Some(0)) {
                finding(&mut out, suspect, run, view);
            }
        }
        if let Some(stopped) = &round.stopped {
            line!(out, "{}", clean(&stopped.message));
            line!(out, "  {}", clean(&stopped.remedy));
        }
        out
    }
}

fn who(suspect: &Suspect) -> String {
    let address = suspect.address.map(|address| format!(" ({address})")).unwrap_or_default();
    format!("{}{address}", clean(&suspect.name))
}

fn finding(out: &mut String, suspect: &Suspect, run: &SuspectRun, view: &View) {
    let mut parts = Vec::new();
    let locks = &run.locks;
    if run.outcome != Some(Outcome::Settled) {
        let how = match run.outcome {
            Some(Outcome::Failed) => "failed".to_owned(),
            Some(outcome) => format!("was {outcome}"),
            None => "did not end".to_owned(),
        };
        let why = run.reason.as_ref().map(|why| format!(" ({})", clean(why))).unwrap_or_default();
        parts.push(format!("its run {how}{why}"));
    }
    if locks.dropped > 0 {
        parts.push(format!("{} dropped, which it did not reclaim", count(locks.dropped, "lock")));
    }
    if locks.kept > 0 {
        let why = why_kept(suspect, run).map(|why| format!(", because {why}")).unwrap_or_default();
        parts.push(format!("{} kept{why}", count(locks.kept, "lock")));
    }
    if locks.conflicts > 0 {
        parts.push(format!("{} refused because of another owner's lock", count(locks.conflicts, "reclaim")));
    }
    if locks.unverified > 0 {
        parts.push(format!("{} unverified", count(locks.unverified, "lock")));
    }
    parts.push(format!("suspect: {}", clean(&suspect.reasons.join("; "))));
    if locks.kept > 0
        && let Some(next) = suspect.next_run_at
    {
        parts.push(format!("next run not before {}", next.local(&view.zone)));
    }
    if run.fate == Some(ClientFate::Silent)
        && locks.kept > 0
        && let Some(address) = suspect.address
    {
        parts.push(format!("if it no longer holds any lock: `nlmctl resync --client {address}`"));
    }
    let id: String = run.id.chars().take(8).collect();
    line!(out, "{}: {}; see `nlmctl runs show {id}`", who(suspect), parts.join("; "));
}

/// None where the run says nothing of it.
fn why_kept(suspect: &Suspect, run: &SuspectRun) -> Option<String> {
    let fate = match run.fate {
        None => return Some("it was not notified".to_owned()),
        Some(fate @ (ClientFate::Acked | ClientFate::Silent)) => fate,
        Some(fate) => return Some(format!("its notice was not acked ({fate})")),
    };
    let how = if fate == ClientFate::Silent { "" } else { " through one server address" };
    let why = suspect.kept_if_silent.as_ref().map(|why| format!(", and {why}")).unwrap_or_default();
    let words = kept_words(fate, &run.paths, &format!("it acked and reclaimed nothing{how}{why}"));
    (!words.is_empty()).then(|| words.join("; "))
}

fn would(out: &mut String, round: &Reconcile, view: &View) {
    let suspects = count(round.suspects.len() as u64, "suspect");
    let gone = if round.unreachable > 0 {
        format!(
            "; {}",
            number(round.unreachable, "does not answer and is left alone", "do not answer and are left alone")
        )
    } else {
        String::new()
    };
    line!(out, "{} locks{gone}; {suspects}", number(round.clients, "client holds", "clients hold"));
    for suspect in &round.suspects {
        let next = match (suspect.step, suspect.next_run_at) {
            (SuspectStep::LookAgain, _) => "the next round looks again".to_owned(),
            (SuspectStep::Wait, Some(at)) => format!("next run not before {}", at.local(&view.zone)),
            (SuspectStep::Wait | SuspectStep::Run, _) => "due for a run".to_owned(),
        };
        let silent = match &suspect.kept_if_silent {
            Some(why) => format!("if it acks and reclaims nothing, all its locks are kept: {why}"),
            None => "locks that it does not reclaim are dropped".to_owned(),
        };
        let reasons = clean(&suspect.reasons.join("; "));
        line!(out, "  {}: {}; {reasons}; {next}; {silent}", who(suspect), count(suspect.locks, "lock"));
    }
    if !round.suspects.is_empty() {
        line!(
            out,
            "A state number also changes without a reboot: after `sm-notify -f`, after a failover, or if several \
             statds answer at one address."
        );
    }
}
