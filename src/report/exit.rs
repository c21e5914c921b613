//! Facts of a run -> exit code. Of several the first in 1, 4, 6, 3, 0 counts.

use super::{ClientReport, LockTally, Outcome, RunHead, RunReport, SCHEMA, States};

/// What the exit code of a run depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub outcome: Option<Outcome>,
    /// Whether so many clients were silent that the notices cannot have been understood.
    pub not_understood: bool,
    /// Whether the lock manager could list its locks: else the sums say nothing of those that it could not.
    pub locks_listed: bool,
    /// The fate of its locks.
    pub locks: LockTally,
}

/// | | |
/// |---|---|
/// | not ended | none |
/// | failed, superseded, interrupted, aborted | 1 |
/// | settled, notices not understood | 4 |
/// | settled, with conflicts or unverified locks, or with locks that could not be listed | 6 |
/// | settled, with dropped or kept ones | 3 |
/// | settled, all reclaimed or released (resurrected ones or not) | 0 |
pub fn exit_code(facts: &Facts) -> Option<u8> {
    let locks = facts.locks;
    Some(match facts.outcome? {
        Outcome::Failed | Outcome::Superseded | Outcome::Interrupted | Outcome::Aborted => 1,
        Outcome::Settled if facts.not_understood => 4,
        Outcome::Settled if !facts.locks_listed || locks.conflicts > 0 || locks.unverified > 0 => 6,
        Outcome::Settled if locks.dropped > 0 || locks.kept > 0 => 3,
        Outcome::Settled => 0,
    })
}

const NOT_UNDERSTOOD: &str = "most clients, overall or through one server address, acked their notices and reclaimed \
                              nothing: the notices were not understood";

/// The reason that goes with exit codes 1 and 4: what was recorded, or the plain words for it.
pub fn reason(facts: &Facts, recorded: Option<String>) -> Option<String> {
    let plain = match exit_code(facts)? {
        1 => match facts.outcome? {
            Outcome::Aborted => "the run was aborted",
            Outcome::Superseded => "the lock manager restarted in the middle of the run",
            Outcome::Interrupted => "nlmctl ended in the middle of the run",
            Outcome::Failed | Outcome::Settled => "the run failed",
        },
        // The record's word is why the run ended; that says nothing of why nothing was dropped.
        4 => return Some(NOT_UNDERSTOOD.to_owned()),
        _ => return None,
    };
    Some(recorded.filter(|words| !words.is_empty()).unwrap_or_else(|| plain.to_owned()))
}

impl RunReport {
    /// The report of a run, with exit code and reason put in from its facts.
    pub fn new(
        mut run: RunHead,
        state: States,
        locks: LockTally,
        clients: Vec<ClientReport>,
        not_understood: bool,
    ) -> Self {
        let facts = Facts { outcome: run.outcome, not_understood, locks_listed: run.locks_listed, locks };
        run.exit = exit_code(&facts);
        run.reason = reason(&facts, run.reason.take());
        Self { schema: SCHEMA, run, state, locks, clients, lost: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(locks: LockTally) -> Facts {
        Facts { outcome: Some(Outcome::Settled), not_understood: false, locks_listed: true, locks }
    }

    #[test]
    fn every_row_of_the_contract() {
        let none = LockTally::default();
        let table = [
            (settled(none), 0),
            (settled(LockTally { in_scope: 9, reclaimed: 5, released: 4, ..none }), 0),
            (settled(LockTally { resurrected: 1, ..none }), 0),
            (settled(LockTally { dropped: 1, ..none }), 3),
            (settled(LockTally { kept: 1, ..none }), 3),
            (settled(LockTally { conflicts: 1, ..none }), 6),
            (settled(LockTally { unverified: 1, ..none }), 6),
        ];
        for (facts, code) in table {
            assert_eq!(exit_code(&facts), Some(code), "{facts:?}");
        }
    }

    #[test]
    fn of_several_the_first_in_1_4_6_3_0_counts() {
        let all = LockTally { dropped: 1, kept: 1, conflicts: 1, unverified: 1, ..LockTally::default() };
        assert_eq!(exit_code(&settled(all)), Some(6));
        assert_eq!(exit_code(&Facts { not_understood: true, ..settled(all) }), Some(4));
        for outcome in [Outcome::Failed, Outcome::Superseded, Outcome::Interrupted, Outcome::Aborted] {
            let facts = Facts { outcome: Some(outcome), not_understood: true, ..settled(all) };
            assert_eq!(exit_code(&facts), Some(1), "{outcome}");
        }
    }

    #[test]
    fn where_locks_cannot_be_listed_a_settled_run_is_unverified_whatever_the_sums_say() {
        for (locks, not_understood, code) in [
            (LockTally::default(), false, 6),
            (LockTally { in_scope: 2, reclaimed: 2, ..LockTally::default() }, false, 6),
            (LockTally { dropped: 1, ..LockTally::default() }, false, 6),
            (LockTally { dropped: 1, ..LockTally::default() }, true, 4),
        ] {
            let facts = Facts { locks_listed: false, not_understood, ..settled(locks) };
            assert_eq!(exit_code(&facts), Some(code), "{facts:?}");
        }
    }

    #[test]
    fn a_run_that_has_not_ended_has_no_exit_code() {
        assert_eq!(exit_code(&Facts { outcome: None, ..settled(LockTally::default()) }), None);
    }

    #[test]
    fn a_reason_goes_with_1_and_4_only() {
        let fine = settled(LockTally::default());
        assert_eq!(reason(&fine, Some("deadline".into())), None);
        let not_understood = Facts { not_understood: true, ..fine };
        for recorded in [None, Some("deadline".to_owned())] {
            assert!(reason(&not_understood, recorded).unwrap().contains("not understood"));
        }
        let aborted = Facts { outcome: Some(Outcome::Aborted), ..fine };
        assert_eq!(reason(&aborted, Some("SIGINT".into())).as_deref(), Some("SIGINT"));
        assert_eq!(reason(&aborted, Some(String::new())).as_deref(), Some("the run was aborted"));
    }
}
