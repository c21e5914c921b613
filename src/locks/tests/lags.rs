//! A process that did not run for a while: its time does not count against clients.

use super::*;
use crate::locks::spellings::MAX_LOOKED_AT;

const R: ByteRange = ByteRange { start: 0, end: 9 };

/// Two clients that acked, one of which has forgotten a lock.
fn run() -> World {
    let mut w = World::new();
    for (client, file) in [("a", "a"), ("b", "b"), ("b", "stale")] {
        assert_eq!(w.write(P(client, 1), file, R), Verdict::Granted);
    }
    w.begin(Mode::Strict);
    for client in ["a", "b"] {
        w.tell(client, Delivery::Acked);
        w.reclaim(P(client, 1), client, R);
    }
    w
}

impl World {
    fn lag(&mut self, seconds: u64, long: bool) {
        self.pass(seconds);
        self.table.lagged(self.now, Duration::from_secs(seconds), long);
        self.check();
    }

    fn remaining(&self) -> Duration {
        self.table.grace_remaining(self.now)
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_runs_deadline_is_as_far_away_after_a_lag_as_before_it() {
    let mut w = run();
    w.pass(30);
    w.lag(50, true);
    assert_eq!(w.remaining(), at(60));
    assert!(w.table.owes_time(w.now));
    w.pass(60);
    assert!(!w.table.owes_time(w.now));
    assert_eq!(w.settle().result.counts.dropped, 1, "everybody had the time");
}

#[test]
fn after_a_long_lag_a_client_has_the_time_to_repeat_a_call() {
    for (long, remaining) in [(true, 15_000), (false, 2_000)] {
        let mut w = run();
        w.pass(88);
        w.lag(3, long);
        assert_eq!(w.remaining(), Duration::from_millis(remaining), "{long}");
    }
}

#[test]
fn a_run_ends_at_its_latest_deadline_and_keeps_what_clients_had_no_time_for() {
    for (lag, alone) in [(100, false), (200, true)] {
        let mut w = run();
        w.pass(20);
        w.lag(lag, true);
        let end = w.remaining();
        assert!(w.now + end <= at(1000 + 20 + 200).max(at(1000 + 180)), "{lag}");
        w.now += end;
        let result = w.settle_alone(alone).result;
        assert_eq!((result.counts.dropped, result.counts.kept), (0, 1));
        assert!(result.reason.as_str().contains(&format!("did not run for {lag}.0 s")), "{:?}", result.reason);
    }
}

#[test]
fn notices_that_could_not_be_answered_in_time_were_not_misunderstood() {
    let mut w = World::new();
    for client in ["a", "b"] {
        w.write(P(client, 1), client, R);
    }
    w.begin(Mode::Strict);
    for client in ["a", "b"] {
        w.tell(client, Delivery::Acked);
    }
    w.lag(181, true);
    let result = w.settle().result;
    assert!(!result.not_understood);
    assert_eq!(result.counts.kept, 2);
}

#[test]
fn an_ack_is_as_recent_after_a_lag_as_before_it() {
    let mut w = run();
    w.pass(87);
    w.tell("b", Delivery::Acked);
    w.lag(40, true);
    w.pass(13);
    w.lag(20, false);
    w.pass(3);
    assert_eq!(w.settle().result.counts.dropped, 1, "acked long before");

    let mut w = World::new();
    for client in ["a", "b"] {
        w.write(P(client, 1), client, R);
    }
    w.begin(Mode::Strict);
    w.tell("a", Delivery::Acked);
    w.reclaim(P("a", 1), "a", R);
    w.pass(86);
    w.lag(80, true);
    // Told late, and heard while the process did not run.
    let run = w.table.run_status(w.now).unwrap().run;
    let seen = ClientProgress { client: 1, delivery: Delivery::Acked, ago_ms: 60_000, suspect: false };
    let args = ProgressArgs { run, notices_begun: true, clients: List::clipped(vec![seen]) };
    w.table.progress(w.now, &args).unwrap();
    w.pass(14);
    assert_eq!(w.settle().result.counts.kept, 1);
}

#[test]
fn a_recovery_grace_gets_its_time_back_and_does_not_last_for_ever() {
    let mut w = World::new();
    w.table.start_recovery(w.now + at(90));
    w.pass(30);
    w.lag(200, true);
    assert_eq!(w.remaining(), at(60));
    w.pass(55);
    w.lag(2, true);
    assert_eq!(w.remaining(), at(15));
    let mut more = Duration::ZERO;
    for _ in 0..100 {
        w.pass(14);
        let before = w.remaining();
        w.lag(2, true);
        more += w.remaining().saturating_sub(before);
    }
    assert!(more <= at(180), "{more:?}");
    assert_eq!(w.remaining(), Duration::ZERO);
}

#[test]
fn only_a_run_or_a_recovery_decides_by_time() {
    let mut w = World::new();
    assert!(!w.table.has_deadline());
    w.lag(60, true);
    w.begin(Mode::Targeted);
    assert!(w.table.has_deadline() && !w.table.owes_time(w.now));
    w.settle();
    w.table.start_recovery(w.now + at(1));
    assert!(w.table.has_deadline());
}

#[test]
fn a_reclaim_that_came_before_the_end_saves_its_lock_and_what_its_client_has_still_to_claim() {
    let mut w = run();
    w.table.settle_start(w.now + at(60), SettleWhen::Always, false, "test").unwrap();
    while !w.table.settle_scan(1) {}
    w.table.settle_result(0).unwrap();
    let reclaim = World::lock_call(P("b", 1), "stale", bytes(2, 3), true, false, true);
    assert_eq!(w.call(P("b", 1), &reclaim), Handled::Wait);
    let elsewhere = World::lock_call(P("b", 1), "another", R, true, false, true);
    assert!(!w.table.came_in_time([(World::address("b"), &elsewhere)]), "nothing of it is about to be dropped");
    assert!(!w.table.came_in_time([(World::address("c"), &reclaim)]), "another host's");
    assert!(w.table.came_in_time([(World::address("b"), &reclaim)]));
    w.table.settle_cancel();
    assert_eq!(w.verdict(P("b", 1), &reclaim), Verdict::Granted);
    w.pass(60);
    let result = w.settle();
    let Counts { reclaimed, dropped, kept, .. } = result.result.counts;
    assert_eq!((reclaimed, dropped, kept), (2, 0, 1), "of the third only a part was claimed");
    assert_eq!(w.picture("stale").len(), 3, "the claimed bytes and those on both sides: {:?}", w.picture("stale"));
}

#[test]
fn a_host_whose_reclaim_meets_more_locks_than_can_be_looked_at_counts_as_one_that_reclaims_if_it_is_to_lose_any() {
    let mut w = World::new();
    w.write(P("b", 1), "other", R);
    w.write(P("d", 1), "stale", R);
    // To check all of it after each would take minutes.
    for n in 0..=u64::try_from(MAX_LOOKED_AT).unwrap() {
        let call = World::lock_call(P("e", 1), "crowded", bytes(2 * n, 2 * n), true, false, false);
        let caller = w.caller("e");
        w.table.handle(w.now, caller, &call);
    }
    let mut args = w.begin_args(Mode::Strict);
    args.policy.silent = Silent::Drop;
    w.begin_with(&args);
    for client in ["b", "d"] {
        w.tell(client, Delivery::Acked);
    }
    w.pass(60);
    let settle = |w: &mut World| {
        w.table.settle_start(w.now, SettleWhen::Always, false, "test").unwrap();
        while !w.table.settle_scan(1_000) {}
        w.table.settle_result(0).unwrap().result.counts
    };
    assert_eq!(settle(&mut w).dropped, 2);
    let all = World::lock_call(P("b", 1), "crowded", ByteRange::ALL, true, false, true);
    assert!(!w.table.came_in_time([(World::address("c"), &all)]), "it has nothing to lose");
    assert!(w.table.came_in_time([(World::address("b"), &all)]));
    assert!(!w.table.came_in_time([(World::address("b"), &all)]), "each host once");
    w.table.settle_cancel();
    let Counts { dropped, kept, .. } = settle(&mut w);
    assert_eq!((dropped, kept), (1, u64::try_from(MAX_LOOKED_AT).unwrap() + 2));
}
