//! Decisions of one client, round after round.

use super::*;
use crate::report::Probe;
use crate::wire::types::Address;
use crate::wire::xdr::{List, Text};

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

fn row(nsm_state: i32, suspicions: &[&str]) -> ClientRow {
    let suspicions = List::clipped(suspicions.iter().map(|why| Text::clipped(*why)).collect());
    let row = ClientRow::sample("web.example.org", "192.0.2.11");
    ClientRow { nsm_state: NsmState(nsm_state), locks: 3, suspicions, ..row }
}

fn says(state: i32) -> Probed {
    Probed::Answers(Some(NsmState(state)))
}

const DEAD: Probed = Probed::Silent(Probe::NoAnswer);

/// Rounds a minute apart, the memory carried from one to the next. A run keeps everything.
fn rounds(memory: &mut Memory, first: u64, row: &ClientRow, said: &[Probed]) -> Vec<RoundStep> {
    let mut steps = Vec::new();
    for (minute, said) in (first..).zip(said) {
        let mut look = look(row, *said, memory, minute * MINUTE);
        if look.step == RoundStep::Run {
            look.begun(minute * MINUTE);
        }
        steps.push(look.step);
        *memory = look.memory;
    }
    steps
}

fn settled(look: &mut Look, kept: u64, now_ms: u64) {
    look.begun(now_ms);
    let row = row(3, &["a grant that it never confirmed"]);
    look.ended(Some(Outcome::Settled), &LockTally { in_scope: 3, kept, ..LockTally::default() }, Some(&row), now_ms);
}

#[test]
fn a_client_is_run_in_the_second_round_in_a_row_that_finds_it_suspect() {
    let mut memory = Memory::default();
    let steps = rounds(&mut memory, 1, &row(3, &[]), &[says(3), says(7), says(7)]);
    assert_eq!(steps, [RoundStep::Nothing, RoundStep::LookAgain, RoundStep::Run]);
    let steps = rounds(&mut Memory::default(), 1, &row(3, &[]), &[says(7), says(3), says(7), says(9)]);
    assert_eq!(steps, [RoundStep::LookAgain, RoundStep::Nothing, RoundStep::LookAgain, RoundStep::Run]);
}

#[test]
fn a_round_in_which_its_statd_does_not_answer_changes_nothing() {
    let mut memory = Memory::default();
    let steps = rounds(&mut memory, 1, &row(3, &["silent for long"]), &[DEAD, says(7), DEAD, DEAD, says(7)]);
    let gone = RoundStep::Unreachable;
    assert_eq!(steps, [gone, RoundStep::LookAgain, gone, gone, RoundStep::Run]);
}

#[test]
fn an_equal_number_an_unknown_one_and_one_beside_unknown_are_no_evidence() {
    for (locked_with, said) in [(3, says(3)), (3, Probed::Answers(None)), (3, says(0)), (0, says(7))] {
        assert_eq!(look(&row(locked_with, &[]), said, &Memory::default(), 0).step, RoundStep::Nothing);
    }
}

#[test]
fn where_locks_carry_no_number_the_first_one_heard_is_the_one_to_compare_with() {
    let mut memory = Memory::default();
    let steps = rounds(&mut memory, 1, &row(0, &[]), &[says(3), says(3), says(5), says(5)]);
    assert_eq!(steps, [RoundStep::Nothing, RoundStep::Nothing, RoundStep::LookAgain, RoundStep::Run]);
    assert_eq!(memory.baseline, NsmState(3));
}

#[test]
fn what_the_lock_manager_says_against_a_client_makes_it_a_suspect_too() {
    let complaint = row(3, &["a grant that it never confirmed"]);
    let steps = rounds(&mut Memory::default(), 1, &complaint, &[says(3), says(3)]);
    assert_eq!(steps, [RoundStep::LookAgain, RoundStep::Run]);
}

#[test]
fn a_suspect_whose_locks_were_kept_waits_twice_as_long_each_time_up_to_a_day() {
    let mut memory = Memory::default();
    let steps = rounds(&mut memory, 0, &row(3, &[]), &[says(7); 80]);
    let runs: Vec<usize> = (0..).zip(&steps).filter(|(_, step)| **step == RoundStep::Run).map(|(n, _)| n).collect();
    assert_eq!(runs, [1, 11, 31, 71]);
    assert_eq!(steps[2], RoundStep::WaitUntil(11 * MINUTE));
    for runs in [20, u32::MAX] {
        assert_eq!(wait_after(runs), LONGEST_WAIT);
    }
}

#[test]
fn news_does_not_wait_and_old_numbers_are_no_news() {
    let mut memory = Memory::default();
    rounds(&mut memory, 0, &row(3, &[]), &[says(7), says(7)]);
    let steps = rounds(&mut memory, 2, &row(3, &[]), &[says(5), says(5), says(9), says(9), says(9)]);
    let waits = RoundStep::WaitUntil(11 * MINUTE);
    assert_eq!(steps, [waits, waits, waits, RoundStep::Run, RoundStep::WaitUntil(25 * MINUTE)]);
    let steps = rounds(&mut memory, 7, &row(3, &["a grant that it never confirmed"]), &[says(9), says(9)]);
    assert!(steps[0] == RoundStep::Run && matches!(steps[1], RoundStep::WaitUntil(_)), "{steps:?}");
}

#[test]
fn a_number_that_a_run_found_harmless_is_no_evidence_again() {
    let mut memory = Memory::default();
    rounds(&mut memory, 0, &row(3, &[]), &[says(7)]);
    let mut seen = look(&row(3, &[]), says(7), &memory, MINUTE);
    settled(&mut seen, 0, MINUTE);
    memory = seen.memory;
    assert_eq!(rounds(&mut memory, 2, &row(3, &[]), &[says(7); 5]), [RoundStep::Nothing; 5]);
    assert_eq!(rounds(&mut memory, 7, &row(3, &[]), &[says(9), says(9)]), [RoundStep::LookAgain, RoundStep::Run]);
}

#[test]
fn a_complaint_that_a_run_found_harmless_waits_for_a_day() {
    let complaint = row(3, &["a grant that it never confirmed"]);
    let mut memory = Memory::default();
    rounds(&mut memory, 0, &complaint, &[says(3)]);
    let mut seen = look(&complaint, says(3), &memory, MINUTE);
    assert_eq!(seen.step, RoundStep::Run);
    settled(&mut seen, 0, MINUTE);
    assert_eq!(look(&complaint, says(3), &seen.memory, DAY).step, RoundStep::WaitUntil(DAY + MINUTE));
    let again = rounds(&mut seen.memory, 24 * 60 + 1, &complaint, &[says(3), says(3)]);
    assert_eq!(again, [RoundStep::LookAgain, RoundStep::Run]);
}

#[test]
fn a_run_that_kept_something_or_did_not_settle_clears_nobody() {
    let mut memory = Memory::default();
    rounds(&mut memory, 0, &row(3, &[]), &[says(7)]);
    let seen = look(&row(3, &[]), says(7), &memory, MINUTE);
    let kept = LockTally { kept: 1, ..LockTally::default() };
    let conflict = LockTally { conflicts: 1, ..LockTally::default() };
    let ends = [
        (Some(Outcome::Settled), kept),
        (Some(Outcome::Settled), conflict),
        (Some(Outcome::Aborted), LockTally::default()),
        (None, LockTally::default()),
    ];
    for (outcome, locks) in ends {
        let mut seen = seen.clone();
        seen.begun(MINUTE);
        let begun = seen.memory.clone();
        seen.ended(outcome, &locks, None, 2 * MINUTE);
        assert_eq!(seen.memory, begun, "{outcome:?}");
    }
}

#[test]
fn a_wait_that_a_wrong_clock_wrote_does_not_last() {
    let mut memory = Memory::default();
    rounds(&mut memory, 1_000_000, &row(3, &[]), &[says(7), says(7)]);
    assert_eq!(rounds(&mut memory, 5, &row(3, &[]), &[says(7)]), [RoundStep::Run]);
}

#[test]
fn silence_counts_only_of_one_that_understood_before_and_whose_number_was_the_same_other_one_twice() {
    let look_after = |first: Probed, row: &ClientRow, second: Probed| {
        let before = look(row, first, &Memory::default(), 0).memory;
        look(row, second, &before, MINUTE)
    };
    let steady = look_after(says(7), &row(3, &[]), says(7));
    assert!(steady.silence_counts(true) && steady.why_kept(true).is_none());
    assert_eq!((steady.silent(true), steady.silent(false)), (Silent::Auto, Silent::Keep));
    let several = {
        let mut row = row(3, &[]);
        row.server_addresses = List::clipped(["192.0.2.1", "192.0.2.2"].map(|a| Address(a.parse().unwrap())).to_vec());
        row
    };
    let shared = ClientRow { shared_address: true, ..row(3, &[]) };
    for (what, seen, has_reclaimed) in [
        ("it never understood", steady.clone(), false),
        ("another number each time", look_after(says(7), &row(3, &[]), says(9)), true),
        ("only once", look_after(says(3), &row(3, &["complaint"]), says(7)), true),
        ("no number at all", look_after(says(3), &row(3, &["complaint"]), says(3)), true),
        ("several server addresses", look_after(says(7), &several, says(7)), true),
        ("a shared address", look_after(says(7), &shared, says(7)), true),
    ] {
        assert!(!seen.silence_counts(has_reclaimed), "{what}");
        assert!(seen.why_kept(has_reclaimed).is_some(), "{what}");
        assert_eq!(seen.silent(has_reclaimed), Silent::Keep, "{what}");
    }
}

#[test]
fn too_much_at_stake_is_refused_before_any_run() {
    let [row, odd] = ["c1.test", "$(reboot)"].map(|name| ClientRow::sample(name, "192.0.2.9"));
    assert!(refuse_too_many(&[&row, &row], 100, 100).is_ok());
    let odd = refuse_too_many(&[&odd], 101, 100).unwrap_err();
    assert!(odd.remedy.contains("`nlmctl resync --client 192.0.2.9`"), "{}", odd.remedy);
    let refusal = refuse_too_many(&[&row], 101, 100).unwrap_err();
    assert!(refusal.remedy.contains("`nlmctl resync --client c1.test`"), "{}", refusal.remedy);
    assert_eq!(refusal.kind.exit(), 4);
    assert!(refusal.message.contains("1 suspect holds 101 locks, more than --max-drop 100"), "{refusal}");
}

#[test]
fn a_lock_manager_that_frees_at_the_start_or_only_everything_is_refused() {
    let able = Capabilities::COOPERATES;
    assert!(refuse_unable("nlmd", &able).is_ok());
    for can in [
        Capabilities { targeted: false, ..able },
        Capabilities { mark: false, ..able },
        Capabilities { knows_owners: false, ..able },
        Capabilities { begin_releases: true, ..able },
    ] {
        let refusal = refuse_unable("knfsd", &can).unwrap_err();
        assert!(refusal.kind.exit() == 4 && refusal.remedy.contains("nlmctl"), "{refusal}");
    }
}
