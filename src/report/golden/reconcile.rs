//! Rounds of `nlmctl reconcile`.

use super::*;

fn suspect(n: u8, run: Option<SuspectRun>) -> Suspect {
    Suspect {
        name: format!("host{n}.example.org"),
        address: Some(ip(&format!("192.0.2.{n}"))),
        locks: 3,
        reasons: vec!["its statd's state number is 7, its locks carried 3".into()],
        step: SuspectStep::Run,
        next_run_at: None,
        kept_if_silent: Some("it has never reclaimed after a notice under this server's names".into()),
        run,
    }
}

fn suspects_run(outcome: Outcome, exit: u8, fate: ClientFate, locks: LockTally) -> SuspectRun {
    let reason = (exit == 1).then(|| "SIGTERM in the middle of the run".to_owned());
    let id = "6f1c2a9e-0b7d-4c55-9a40-2d1f5b8c7e33".to_owned();
    SuspectRun { id, outcome: Some(outcome), exit: Some(exit), reason, fate: Some(fate), locks, paths: Vec::new() }
}

fn reconcile(dry_run: bool, suspects: Vec<Suspect>) -> Reconcile {
    Reconcile {
        manager: "nlmd 0.1.0".into(),
        dry_run,
        exit: 0,
        clients: 12,
        unreachable: 1,
        at_stake: suspects.iter().map(|suspect| suspect.locks).sum(),
        max_drop: 1_000,
        stopped: None,
        suspects,
    }
}

#[test]
fn a_round_of_looking_for_stale_locks() {
    let kept = |kept| LockTally { in_scope: 3, kept, ..LockTally::default() };
    let dropped = LockTally { in_scope: 3, reclaimed: 1, dropped: 2, ..LockTally::default() };
    let at = Some(Stamp(1_795_362_928_007));
    let settled = |exit, fate, locks| Some(suspects_run(Outcome::Settled, exit, fate, locks));
    let kept_for = |n: u8, fate, reasons: &[KeptBecause]| {
        let path = |(last, why): (u8, &KeptBecause)| PathReport {
            server_address: ip(&format!("192.0.2.10{last}")),
            silent: fate == ClientFate::Silent,
            kept_because: Some(*why),
        };
        let paths = (1..).zip(reasons).map(path).collect();
        let run = SuspectRun { paths, ..suspects_run(Outcome::Settled, 3, fate, kept(3)) };
        Suspect { next_run_at: at, ..suspect(n, Some(run)) }
    };
    let suspects = vec![
        suspect(1, settled(0, ClientFate::Acked, all_of(3))),
        Suspect { kept_if_silent: None, ..suspect(2, settled(3, ClientFate::Acked, dropped)) },
        kept_for(3, ClientFate::Silent, &[KeptBecause::Silent]),
        kept_for(4, ClientFate::NoAnswer, &[KeptBecause::Unreachable]),
        suspect(5, settled(6, ClientFate::Acked, LockTally { conflicts: 1, ..all_of(3) })),
        suspect(
            6,
            Some(suspects_run(
                Outcome::Interrupted,
                1,
                ClientFate::NotTold,
                LockTally { unverified: 3, in_scope: 3, ..LockTally::default() },
            )),
        ),
        Suspect { step: SuspectStep::Wait, next_run_at: at, ..suspect(7, None) },
        kept_for(8, ClientFate::Acked, &[KeptBecause::LateAck, KeptBecause::LateAck]),
        kept_for(9, ClientFate::Acked, &[KeptBecause::Unreachable]),
        kept_for(10, ClientFate::Acked, &[KeptBecause::OtherAddress, KeptBecause::Silent, KeptBecause::NoTime]),
        Suspect { next_run_at: at, ..suspect(11, Some(suspects_run(Outcome::Aborted, 1, ClientFate::Acked, kept(3)))) },
    ];
    is_golden("reconcile", &reconcile(false, suspects).report(None));

    let quiet = reconcile(false, vec![suspect(1, settled(0, ClientFate::Acked, all_of(3)))]).report(None);
    assert_eq!((quiet.text().as_str(), quiet.reconcile.exit), ("", 0));
    let waits = vec![
        Suspect { step: SuspectStep::LookAgain, ..suspect(1, None) },
        Suspect { step: SuspectStep::Wait, next_run_at: at, ..suspect(2, None) },
        Suspect { kept_if_silent: None, ..suspect(3, None) },
    ];
    is_golden("reconcile-dry-run", &reconcile(true, waits).report(None));
    let too_many = Refusal {
        message: "no run was made: 1 suspect holds 3 locks, more than --max-drop 2".into(),
        remedy: "raise --max-drop".into(),
    };
    let stopped = Reconcile { stopped: Some(too_many), max_drop: 2, ..reconcile(false, vec![suspect(1, None)]) };
    is_golden("reconcile-stopped", &stopped.report(Some(4)));
}

#[test]
fn a_round_exits_with_the_worst_of_its_runs() {
    let run = |outcome, exit| suspect(1, Some(suspects_run(outcome, exit, ClientFate::Acked, all_of(3))));
    let exit = |suspects, stopped| reconcile(false, suspects).report(stopped).reconcile.exit;
    let (fine, lost, failed) = (run(Outcome::Settled, 0), run(Outcome::Settled, 3), run(Outcome::Aborted, 1));
    assert_eq!(exit(vec![], None), 0);
    assert_eq!(exit(vec![fine.clone(), lost.clone()], None), 3);
    assert_eq!(exit(vec![lost.clone(), failed], None), 1);
    assert_eq!(exit(vec![lost.clone()], Some(4)), 4);
    assert_eq!(exit(vec![], Some(5)), 5);
    assert_eq!(exit(vec![lost], Some(5)), 1, "5 says that nothing was touched");
}
