//! Runs and their plans.

use super::*;
use crate::wire::control::Delivery;

#[test]
fn a_run_with_dropped_and_kept_locks() {
    let report = settled();
    assert_eq!(report.run.exit, Some(3));
    is_golden("run-settled", &report);
    let command = format!("`nlmctl --db '/a b.db' runs show {}`", report.run.id);
    assert_eq!(report.all_dropped(Some(Path::new("/a b.db"))), command);
}

#[test]
fn a_run_whose_report_says_why_locks_were_kept() {
    let path = |address: &str, kept_because| PathReport { server_address: ip(address), silent: true, kept_because };
    let kept = |n, fate, paths| ClientReport {
        paths,
        suspect: false,
        ..client(n, fate, LockTally { in_scope: 3, reclaimed: 1, kept: 2, ..LockTally::default() })
    };
    let other = Some(KeptBecause::OtherAddress);
    let clients = vec![
        kept(1, ClientFate::Acked, vec![path("192.0.2.201", other), path("192.0.2.202", other)]),
        kept(2, ClientFate::Acked, vec![path("192.0.2.200", Some(KeptBecause::LateAck))]),
        kept(3, ClientFate::Acked, vec![path("192.0.2.200", Some(KeptBecause::Unreachable))]),
        kept(4, ClientFate::NoAnswer, vec![path("192.0.2.200", Some(KeptBecause::Unreachable))]),
        kept(5, ClientFate::Silent, vec![path("192.0.2.200", Some(KeptBecause::Silent))]),
        kept(
            6,
            ClientFate::Silent,
            ["192.0.2.200", "192.0.2.201"].map(|at| path(at, Some(KeptBecause::NotUnderstood))).to_vec(),
        ),
        kept(7, ClientFate::Acked, vec![path("192.0.2.200", None), path("192.0.2.201", other)]),
    ];
    let locks = LockTally { in_scope: 21, reclaimed: 7, kept: 14, ..LockTally::default() };
    is_golden("run-kept", &RunReport::new(head(Some(Outcome::Settled)), STATES, locks, clients, true));
}

#[test]
fn a_run_in_which_all_was_reclaimed() {
    let clients = vec![client(1, ClientFate::Acked, all_of(20)), client(2, ClientFate::Acked, all_of(1))];
    let report = RunReport::new(head(Some(Outcome::Settled)), STATES, all_of(21), clients, false);
    assert_eq!((report.run.exit, report.run.reason.clone()), (Some(0), None));
    is_golden("run-all-reclaimed", &report);
}

#[test]
fn a_run_without_a_client() {
    is_golden("run-empty", &RunReport::new(head(Some(Outcome::Settled)), STATES, all_of(0), vec![], false));
}

#[test]
fn a_run_whose_clients_were_not_recorded_does_not_say_that_there_were_none() {
    let text = RunReport::new(head(Some(Outcome::Settled)), STATES, all_of(3), vec![], false).text();
    assert!(text.contains("notices: no client is on record\n"), "{text}");
}

#[test]
fn a_client_for_which_another_address_answered_did_not_ack() {
    assert_eq!(ClientFate::of(Delivery::Elsewhere, false), ClientFate::NoAnswer);
    let kept =
        [PathReport { server_address: ip("192.0.2.200"), silent: false, kept_because: Some(KeptBecause::Unreachable) }];
    let client = ClientReport { paths: kept.to_vec(), ..client(1, ClientFate::NoAnswer, all_of(3)) };
    assert!(client.kept_words().is_empty(), "its error says it");
}

#[test]
fn a_run_over_locks_that_could_not_be_listed() {
    let head = RunHead { manager: "ganesha".into(), locks_listed: false, ..head(Some(Outcome::Settled)) };
    let client = ClientReport { locks: None, ..client(1, ClientFate::Acked, all_of(0)) };
    let report = RunReport::new(head, STATES, all_of(0), vec![client], false);
    assert_eq!(report.run.exit, Some(6));
    is_golden("run-unlisted", &report);
}

#[test]
fn a_run_whose_notices_were_not_understood() {
    let tally = LockTally { in_scope: 20, kept: 20, ..LockTally::default() };
    let clients = vec![client(1, ClientFate::Silent, tally)];
    let report = RunReport::new(head(Some(Outcome::Settled)), STATES, tally, clients, true);
    assert_eq!(report.run.exit, Some(4));
    is_golden("run-not-understood", &report);
}

#[test]
fn a_run_that_no_controller_finished() {
    let tally = LockTally { in_scope: 20, unverified: 20, ..LockTally::default() };
    let report = RunReport::new(head(None), STATES, tally, vec![client(1, ClientFate::NoAnswer, tally)], false);
    assert_eq!(report.run.exit, None);
    is_golden("run-unfinished", &report);
}

#[test]
fn an_aborted_run_before_its_first_notice() {
    let mut head = head(Some(Outcome::Aborted));
    head.reason = Some("SIGINT".into());
    head.scope.clients = vec!["host1".into(), "192.0.2.9".into()];
    head.scope.files = vec!["01ff".into()];
    head.mode = "targeted".into();
    let tally = LockTally { in_scope: 1, kept: 1, ..LockTally::default() };
    let report = RunReport::new(head, STATES, tally, vec![client(1, ClientFate::NotTold, tally)], false);
    assert_eq!(report.run.exit, Some(1));
    is_golden("run-aborted", &report);
}

#[test]
fn a_run_with_its_locks_and_timeline() {
    let conflict = LockReport {
        other: Some(owner(9)),
        other_start: Some(5),
        other_end: Some(9),
        late: true,
        end: Some(99),
        ..lock("conflict")
    };
    let event = |ms: u64, kind: &str, detail: &str| EventReport {
        at: Stamp(1_795_362_328_007 + ms),
        kind: kind.into(),
        detail: detail.into(),
    };
    let detail = RunDetail {
        report: settled(),
        lock_rows: vec![lock("dropped"), LockReport { partial: true, kind: "read".into(), ..lock("kept") }, conflict],
        events: vec![
            event(0, "planned", ""),
            event(12, "begun", "state 41 -> 43, 119 locks in scope, 6 clients"),
            event(5_012, "settled", "an odd \x1b[31m name"),
        ],
        progress: [(0, 119), (310, 80), (1_200, 12)]
            .map(|(elapsed_ms, pending)| PendingReport { elapsed_ms, pending })
            .to_vec(),
        shown: None,
    };
    is_golden("run-detail", &detail);
    let host3 = ClientRef::named(CallerName::new("HOST3").unwrap());
    is_golden("run-detail-only", &detail.clone().only(&RunFilter { clients: vec![host3], changed: true }));
    stands("run-page.html", &page(&detail).unwrap());
}

#[test]
fn a_plan() {
    let planned = |n: u8, probe| PlanClient {
        name: format!("host{n}.example.org"),
        address: Some(ip(&format!("192.0.2.{n}"))),
        locks: Some(20),
        probe,
        note: None,
        from: vec![ip("192.0.2.200")],
        untellable: probe.is_unreachable(),
    };
    let twice = PlanClient {
        note: Some("it called 192.0.2.200, 192.0.2.201; where they share a name, its statd may pass on one".into()),
        from: vec![ip("192.0.2.200"), ip("192.0.2.201")],
        ..planned(4, Probe::Answers)
    };
    let plan = Plan {
        fingerprint: "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3".into(),
        mode: "strict".into(),
        scope: ScopeReport::default(),
        in_scope: 60,
        locks_listed: true,
        unmonitored: 1,
        clients: vec![planned(1, Probe::Answers), planned(2, Probe::Suspect), planned(3, Probe::NoAnswer), twice],
        consent: vec!["drop the locks of 1 client that does not answer: host3.example.org (20 locks)".into()],
        names: vec!["server.example.org".into(), "server".into()],
        caveats: vec![],
        refusal: None,
        effects: vec![
            "New locks are refused until clients have reclaimed theirs: for up to 90 s, or up to 3 m while reclaims still come."
                .into(),
            "20 locks of host3.example.org are dropped unless an answer comes before the run ends.".into(),
        ],
    };
    is_golden("plan", &PlanReport::new(plan));
}
