//! `nlmctl reconcile`: which clients are suspects, which of them get a run now, and what such a run may drop.
//!
//! # Theory
//! A round asks the statd of every client that holds locks for its state number, and compares. What a round needs to
//! know of the ones before it is a [`Memory`] for each client, which the caller keeps durably. There is no other state.
//!
//! - **Evidence** is a number that is neither the one that the client's locks carried, nor the one at which a run last
//!   found nothing stale ([`Memory::baseline`]); or what the lock manager itself says against the client. Where locks
//!   carry no number (the kernel's lockd does not keep it), the first number that is seen is the baseline.
//! - A **suspect** is a client with evidence whose statd answers. It gets a run of its own in the second round in a row
//!   that finds it so: its own reboot notice may be under way, or another machine may have its address for a moment.
//! - A run is targeted and its scope is that client, so it disturbs no other client. What the client reclaims stays. If it
//!   reclaims some, the rest is dropped: it has understood the notice. If it acks and reclaims nothing, all is kept,
//!   unless [`Look::silence_counts`].
//! - After a run that kept something the next one waits ([`Memory::not_before_ms`]), twice as long each time, unless
//!   there is news: a number newer than any that a run has looked at, in two rounds, or another complaint of the lock
//!   manager.
//!
//! What must hold:
//! - A client that does not answer gets no run, and nothing is concluded from its silence.
//! - Without a suspect, no run is made, so no state number is raised.
//! - The evidence that a run examines is durable before the run begins, so that a round after a crash does not repeat
//!   it.
//! - No run begins if the suspects of the round together hold more locks than may be dropped.
//!
//! Why not more is concluded from a number: it also changes without a reboot, after `sm-notify -f`, a failover, a
//! forced resync on that host, or where several statds answer at one address; and an equal one proves nothing. A LOCK
//! with a newer number proves no reboot either, so a silent suspect's older locks are not dropped for it: Linux sends
//! `nsm_local_state`, one number for the kernel and all its containers. It becomes what a statd answers whenever one
//! more host is monitored, while older locks live on.
//!
//! Start reading at [`look`].

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::plan::Probed;
use crate::report::{Failure, LockTally, Outcome, in_command};
use crate::units::count;
use crate::wire::control::{Capabilities, ClientRow, Silent};
use crate::wire::types::{NsmState, ms};

/// Rounds in a row that must find a client suspect before it gets a run.
const ROUNDS: u32 = 2;
/// How long a suspect whose locks a run kept is left alone, the first time.
const FIRST_WAIT: Duration = Duration::from_mins(10);
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// What earlier rounds know of a client. Times are milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Its statd's number when nothing was held against it: at first sight, or after a run that kept nothing. 0: none.
    pub baseline: NsmState,
    /// The number that was evidence in the last round in which it answered; 0: none was.
    pub differed: NsmState,
    /// Rounds in a row, of those in which it answered, that found evidence.
    pub rounds: u32,
    /// The newest number that a run has looked at after two rounds heard it; 0: none.
    pub examined: NsmState,
    /// The lock manager's complaints that the last run has looked at.
    pub complaints: Vec<String>,
    /// Runs in a row after which evidence was left.
    pub runs: u32,
    /// When evidence that is no news gets its next run.
    pub not_before_ms: u64,
}

/// What a round does with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoundStep {
    /// Nothing is held against it.
    Nothing,
    /// Its statd does not answer: its locks stay.
    Unreachable,
    /// A suspect for the first time: the next round looks again.
    LookAgain,
    /// A suspect that had its run; the next one is not before this time.
    WaitUntil(u64),
    /// A suspect that gets its run now.
    Run,
}

/// What a round sees of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub step: RoundStep,
    /// The evidence, each in words.
    pub reasons: Vec<String>,
    /// What to remember of it from now on.
    pub memory: Memory,
    said: NsmState,
    /// What the lock manager says against it.
    complaints: Vec<String>,
    /// Whether this round and the one before heard the same number, and it was evidence in both.
    is_steady: bool,
    has_one_path: bool,
}

/// Refuses a lock manager that cannot do a run in which a client keeps every lock that it reclaims.
///
/// # Errors
/// It cannot.
pub fn refuse_unable(manager: &str, can: &Capabilities) -> Result<(), Failure> {
    if can.targeted && can.mark && can.knows_owners && !can.begin_releases {
        return Ok(());
    }
    Err(Failure::refused(
        format!("{manager} cannot resync one client and keep its locks until it reclaims"),
        "see `nlmctl clients --probe` for suspects, and free stuck locks with `nlmctl release`",
    ))
}

/// Locks of the client that a run marks: its monitored ones.
pub fn at_stake(row: &ClientRow) -> u64 {
    row.locks.saturating_sub(row.unmonitored)
}

/// Looks at a client that holds locks: what its statd said just now, beside what is known of it.
pub fn look(row: &ClientRow, said: Probed, before: &Memory, now_ms: u64) -> Look {
    let mut look = Look {
        step: RoundStep::Unreachable,
        reasons: Vec::new(),
        memory: before.clone(),
        said: NsmState::default(),
        complaints: complaints(row),
        is_steady: false,
        has_one_path: row.server_addresses.as_slice().len() <= 1 && !row.shared_address,
    };
    let Probed::Answers(state) = said else { return look };
    look.said = state.unwrap_or_default();
    let differs = differs(look.said, row.nsm_state, before.baseline);
    if differs {
        look.reasons.push(if row.nsm_state.is_known() {
            format!("its statd's state number is {}, its locks carried {}", look.said, row.nsm_state)
        } else {
            format!("its statd's state number is {}, before it was {}", look.said, before.baseline)
        });
    }
    look.reasons.extend(look.complaints.iter().cloned());
    if look.reasons.is_empty() {
        let baseline = if row.nsm_state.is_known() { before.baseline } else { look.said };
        look.memory = Memory { baseline, ..Memory::default() };
        look.step = RoundStep::Nothing;
        return look;
    }
    look.is_steady = differs && before.differed == look.said;
    let memory = &mut look.memory;
    memory.rounds = before.rounds.saturating_add(1);
    memory.differed = if differs { look.said } else { NsmState::default() };
    let is_newer = !before.examined.is_known() || look.said.is_after(before.examined);
    let is_new_number = look.is_steady && is_newer;
    let is_news = is_new_number || look.complaints.iter().any(|why| !before.complaints.contains(why));
    // A time beyond the longest wait was written by a clock that was wrong.
    let waits = now_ms < before.not_before_ms && before.not_before_ms - now_ms <= ms(LONGEST_WAIT);
    look.step = if waits && !is_news {
        RoundStep::WaitUntil(before.not_before_ms)
    } else if memory.rounds < ROUNDS {
        RoundStep::LookAgain
    } else {
        RoundStep::Run
    };
    look
}

/// What the lock manager says against the client.
fn complaints(row: &ClientRow) -> Vec<String> {
    row.suspicions.as_slice().iter().map(|why| why.as_str().to_owned()).collect()
}

/// Whether the number that a statd answers is evidence, compared with the locks' number and the baseline.
fn differs(said: NsmState, locked_with: NsmState, baseline: NsmState) -> bool {
    let has_other = locked_with.is_known() || baseline.is_known();
    said.is_known() && has_other && said != locked_with && said != baseline
}

impl Look {
    /// Whether its statd says the same just before its run: the runs of others may have taken long.
    pub fn is_still(&self, said: Probed) -> bool {
        matches!(said, Probed::Answers(state) if state.unwrap_or_default() == self.said)
    }

    /// Whether its silence after an ack means that it holds nothing any more. `has_reclaimed`: it once reclaimed after
    /// a notice under the names that are in use, so it understands them. Its statd's number must then have been the
    /// same other one in two rounds: another machine that has its address for a moment acks too, and knows nothing.
    /// Where it called several addresses of the server, or shares its own, an ack says less.
    pub fn silence_counts(&self, has_reclaimed: bool) -> bool {
        has_reclaimed && self.is_steady && self.has_one_path
    }

    /// The policy for its silence.
    pub fn silent(&self, has_reclaimed: bool) -> Silent {
        // The scope names it, so that `auto` drops.
        if self.silence_counts(has_reclaimed) { Silent::Auto } else { Silent::Keep }
    }

    /// Why nothing is dropped if it is silent; none if it is.
    pub fn why_kept(&self, has_reclaimed: bool) -> Option<&'static str> {
        Some(match (self.is_steady, has_reclaimed, self.has_one_path) {
            (true, true, true) => return None,
            (_, false, _) => "it has never reclaimed after a notice under this server's names",
            (_, _, false) => "it called several addresses of this server, or shares its own",
            (false, ..) => "its statd did not answer the same different number in two rounds",
        })
    }

    /// What to remember before its run begins: as if the run kept all.
    pub fn begun(&mut self, now_ms: u64) {
        let memory = &mut self.memory;
        if self.is_steady {
            memory.examined = if memory.examined.is_known() { memory.examined.later(self.said) } else { self.said };
        }
        memory.complaints.clone_from(&self.complaints);
        memory.runs = memory.runs.saturating_add(1);
        memory.not_before_ms = now_ms.saturating_add(ms(wait_after(memory.runs)));
    }

    /// What to remember of its run, which [`begun`](Self::begun) came before. `after`: what the lock manager says of
    /// the client now; its reclaims alone may have brought another number.
    pub fn ended(&mut self, outcome: Option<Outcome>, locks: &LockTally, after: Option<&ClientRow>, now_ms: u64) {
        let LockTally { kept, unverified, conflicts, .. } = *locks;
        if outcome != Some(Outcome::Settled) || kept + unverified + conflicts > 0 {
            return;
        }
        let memory = &mut self.memory;
        memory.baseline = if self.said.is_known() { self.said } else { memory.baseline };
        (memory.runs, memory.rounds, memory.differed) = (0, 0, NsmState::default());
        // The lock manager's complaints stay. That they were looked into is forgotten after the longest wait.
        memory.complaints = after.map(complaints).unwrap_or_default();
        memory.not_before_ms = now_ms.saturating_add(ms(LONGEST_WAIT));
    }
}

/// How long a suspect is left alone after so many runs that kept something.
fn wait_after(runs: u32) -> Duration {
    FIRST_WAIT.saturating_mul(2_u32.saturating_pow(runs.saturating_sub(1))).min(LONGEST_WAIT)
}

/// Refuses to run if the suspects together hold too many locks.
///
/// # Errors
/// They get none.
pub fn refuse_too_many(suspects: &[&ClientRow], locks: u64, max_drop: u64) -> Result<(), Failure> {
    if locks <= max_drop {
        return Ok(());
    }
    let name = |row: &&ClientRow| in_command(row.name.as_str(), row.addresses.as_slice().first());
    Err(Failure::refused(
        format!(
            "no run was made: {} {} {}, more than --max-drop {max_drop}",
            count(suspects.len() as u64, "suspect"),
            if suspects.len() == 1 { "holds" } else { "hold" },
            count(locks, "lock")
        ),
        format!(
            "see `nlmctl reconcile --dry-run`; run one client by hand (`nlmctl resync --client {}`), or raise --max-drop",
            suspects.first().map_or_else(|| "NAME".to_owned(), name)
        ),
    ))
}
