//! All that nlmctl prints, as files in `tests/golden/`. To accept a change, run
//! `UPDATE_GOLDEN=1 cargo test --lib golden` and read the difference.

#[path = "../../tests/common/document.rs"]
mod document;

use std::fs;
use std::path::Path;

use jiff::tz::{self, TimeZone};
use serde::Serialize;

use super::*;
use crate::wire::control::ClientRef;
use crate::wire::types::CallerName;
use crate::wire::xdr::Maybe;

#[track_caller]
fn is_golden<T: Text + Serialize>(name: &str, value: &T) {
    let compact = json(value).unwrap();
    assert_eq!(compact.matches('\n').count(), 1, "one line of JSON");
    let parsed = document::document(&compact);
    let zone = TimeZone::fixed(tz::offset(1));
    let shown = |width| value.show(&View { width, zone: zone.clone() });
    let mut files = vec![
        (format!("{name}.txt"), shown(200)),
        (format!("{name}.json"), format!("{}\n", serde_json::to_string_pretty(&parsed).unwrap())),
    ];
    // Where it is the same as at 200 columns there is no file of its own.
    files.extend([100, 60].into_iter().map(|width| (format!("{name}.{width}.txt"), shown(width))));
    let widest = files[0].1.clone();
    for (file, text) in files {
        if text == widest && !file.ends_with(&format!("{name}.txt")) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(&file);
            assert!(!path.exists(), "{file} is the same as {name}.txt");
            continue;
        }
        stands(&file, &text);
        assert!(!text.lines().any(|line| line.ends_with(' ')), "{file} has blanks at a line's end");
    }
}

fn stands(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == golden, "{file} has changed; it is now:\n{text}");
}

fn ip(text: &str) -> crate::wire::types::Address {
    text.parse().unwrap()
}

fn client(n: u8, fate: ClientFate, locks: LockTally) -> ClientReport {
    ClientReport {
        name: format!("host{n}.example.org"),
        address: Some(ip(&format!("192.0.2.{n}"))),
        suspect: fate == ClientFate::Silent,
        fate,
        notices: 2,
        acks: if matches!(fate, ClientFate::Acked | ClientFate::Silent) { 2 } else { 0 },
        attempts: match fate {
            ClientFate::NoAnswer => 7,
            ClientFate::NotTold => 0,
            _ => 2,
        },
        paths: Vec::new(),
        acked_ms: matches!(fate, ClientFate::Acked | ClientFate::Silent).then_some(3),
        locks: Some(locks),
        error: (fate == ClientFate::NoAnswer).then(|| "no answer from rpcbind".to_owned()),
    }
}

fn head(outcome: Option<Outcome>) -> RunHead {
    RunHead {
        id: "6f1c2a9e-0b7d-4c55-9a40-2d1f5b8c7e33".into(),
        manager: "nlmd".into(),
        mode: "strict".into(),
        scope: ScopeReport::default(),
        outcome,
        phase: if outcome.is_some() { Phase::Done } else { Phase::Notifying },
        started_at: Stamp(1_795_362_328_007),
        ended_at: outcome.map(|_| Stamp(1_795_362_333_019)),
        elapsed_ms: outcome.map(|_| 5_012),
        exit: None,
        reason: None,
    }
}

const STATES: States = States { old: Some(41), new: Some(43) };

fn all_of(locks: u64) -> LockTally {
    LockTally { in_scope: locks, reclaimed: locks, ..LockTally::default() }
}

fn settled() -> RunReport {
    let clients = vec![
        client(1, ClientFate::Acked, all_of(20)),
        client(2, ClientFate::Acked, all_of(20)),
        client(3, ClientFate::Acked, LockTally { in_scope: 20, reclaimed: 19, dropped: 1, ..LockTally::default() }),
        client(4, ClientFate::Silent, LockTally { in_scope: 20, dropped: 20, ..LockTally::default() }),
        client(5, ClientFate::NoAnswer, LockTally { in_scope: 20, kept: 20, ..LockTally::default() }),
        client(6, ClientFate::Acked, LockTally { resurrected: 1, ..all_of(19) }),
    ];
    let locks =
        LockTally { in_scope: 119, reclaimed: 78, dropped: 21, kept: 20, resurrected: 1, ..LockTally::default() };
    let lost = vec![lock("dropped"), LockReport { start: 7, end: Some(9), owner: owner(4), ..lock("dropped") }];
    RunReport { lost, ..RunReport::new(head(Some(Outcome::Settled)), STATES, locks, clients, false) }
}

fn owner(n: u8) -> Owner {
    Owner {
        name: format!("host{n}.example.org"),
        address: Some(ip(&format!("192.0.2.{n}"))),
        server_address: Some(ip("192.0.2.200")),
        transport: Some("tcp".into()),
        version: Some(4),
        svid: Some(12),
        oh: Some("3132406131".into()),
    }
}

fn lock(fate: &str) -> LockReport {
    LockReport {
        fate: fate.into(),
        file: "01000601deadbeef".into(),
        inode: None,
        kind: "write".into(),
        start: 0,
        end: None,
        partial: false,
        late: false,
        owner: owner(3),
        other: None,
        other_start: None,
        other_end: None,
    }
}

#[test]
fn a_run_with_dropped_and_kept_locks() {
    let report = settled();
    assert_eq!(report.run.exit, Some(3));
    is_golden("run-settled", &report);
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
fn a_run_whose_notices_were_not_understood() {
    let tally = LockTally { in_scope: 20, kept: 20, ..LockTally::default() };
    let clients = vec![client(1, ClientFate::Silent, tally)];
    let report = RunReport::new(head(Some(Outcome::Settled)), STATES, tally, clients, true);
    assert_eq!(report.run.exit, Some(4));
    is_golden("run-not-understood", &report);
}

#[test]
fn a_run_that_nobody_finished() {
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
    let host3 = ClientRef { name: Maybe(Some(CallerName::new("HOST3").unwrap())), address: Maybe(None) };
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
        unmonitored: 1,
        clients: vec![planned(1, Probe::Answers), planned(2, Probe::Suspect), planned(3, Probe::NoAnswer), twice],
        consent: vec!["drop the locks of 1 client that does not answer: host3.example.org (20 locks)".into()],
        names: vec!["server.example.org".into(), "server".into()],
        caveats: vec![],
        refusal: None,
        effects: vec![
            "New locks are refused until clients have reclaimed theirs: for up to 90 s, or up to 3 m while reclaims still come."
                .into(),
            "20 locks of host3.example.org are dropped if no answer comes until the end.".into(),
        ],
    };
    is_golden("plan", &PlanReport::new(plan));
}

#[test]
fn a_failure() {
    let report =
        Failure::new(FailureKind::Unreachable, "no lock manager answers at /run/nlmd/control.sock", "start nlmd")
            .report();
    is_golden("error", &report);
}

#[test]
fn status_with_and_without_a_run() {
    use crate::wire::control::{Capabilities, Counts, Grace, Info, InstanceId, Mode, RunId, RunStatus, Status};
    use crate::wire::types::{CallerName, NsmState};
    use crate::wire::xdr::{List, Maybe, Text};

    let info = Info {
        software: Text::clipped("nlmd 0.1.0"),
        instance: InstanceId([1; 16]),
        nsm_state: NsmState(43),
        names: List::clipped(vec![CallerName::new("server.example.org").unwrap()]),
        capabilities: Capabilities { release: false, ..Capabilities::COOPERATES },
        domains: List::clipped(vec![Text::clipped("nlm")]),
    };
    let mut status = Status {
        instance: InstanceId([1; 16]),
        nsm_state: NsmState(43),
        grace: Grace::Open,
        grace_remaining_ms: 0,
        clients: 50,
        monitored: 49,
        locks: 1000,
        unmonitored: 2,
        waiters: 3,
        run: Maybe(None),
        cursor: 1,
    };
    is_golden("status", &StatusReport::new("nlmd", &info, &status, OwnersReport::told(), None));
    status.grace = Grace::Targeted;
    status.grace_remaining_ms = 61_234;
    status.run = Maybe(Some(RunStatus {
        run: RunId([2; 16]),
        mode: Mode::Targeted,
        nsm_state: NsmState(43),
        elapsed_ms: 28_766,
        remaining_ms: 61_234,
        latest_remaining_ms: 151_234,
        last_reclaim_ms: Maybe(Some(10)),
        counts: Counts { in_scope: 20, pending: 4, reclaimed: 15, released: 1, conflicts: 1, ..Counts::default() },
        notices_begun: true,
    }));
    is_golden("status-run", &StatusReport::new("nlmd", &info, &status, OwnersReport::told(), None));
}

#[test]
fn clients_and_locks() {
    let client = ClientListing {
        name: "host1.example.org".into(),
        addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        server_addresses: vec![ip("192.0.2.200")],
        nsm_state: Some(7),
        monitored: true,
        shared_address: false,
        locks: Some(20),
        unmonitored: Some(0),
        waiters: Some(1),
        suspicions: vec!["a reboot notice matched nobody".into()],
        probe: None,
    };
    let behind_nat = ClientListing {
        name: "host2".into(),
        nsm_state: None,
        monitored: false,
        shared_address: true,
        suspicions: vec![],
        ..client.clone()
    };
    let clients = ClientsReport {
        schema: SCHEMA,
        manager: "nlmd".into(),
        owners: OwnersReport::told(),
        clients: vec![client, behind_nat],
    };
    is_golden("clients", &clients);
    let mut asked = clients.clone();
    asked.clients[0].probed(Ok(Some(9)));
    asked.clients[1].probed(Err(Probe::NoAnswer));
    is_golden("clients-probe", &asked);
    is_golden("clients-none", &ClientsReport { clients: vec![], ..clients });
    let nobodys = ListedOwner::default();
    let held = ListedLock {
        file: "01000601deadbeef".into(),
        kind: "write".into(),
        start: 0,
        end: None,
        state: "held".into(),
        age_s: Some(3 * 24 * 3600 + 4 * 3600 + 59),
        monitored: Some(true),
        owner: ListedOwner {
            name: Some("host1.example.org".into()),
            address: Some(ip("192.0.2.1")),
            server_address: Some(ip("192.0.2.200")),
            transport: Some("tcp".into()),
            version: Some(4),
            svid: Some(1),
            oh: None,
        },
        path: Some("/srv/x/spool/a b".into()),
        export: Some("/srv/x".into()),
        path_in_export: Some("spool/a b".into()),
        deleted: true,
        inode: Some("00:1a:2".into()),
        unsure: Some(
            "a reclaim of it may have been refused (run 0001: the process in front of lockd was killed)".into(),
        ),
        behind: None,
    };
    let behind = Behind { name: Some("host1.example.org".into()), address: Some(ip("192.0.2.1")), svid: Some(1) };
    let waiting = ListedLock {
        end: Some(u64::MAX - 1),
        start: 1 << 63,
        state: "waiting".into(),
        age_s: Some(85),
        monitored: Some(false),
        path: None,
        behind: Some(vec![behind]),
        ..held.clone()
    };
    let unknown =
        ListedLock { owner: nobodys, age_s: None, monitored: None, path: None, deleted: false, ..held.clone() };
    let owners = OwnersReport::told();
    let locks = LocksReport { schema: SCHEMA, manager: "nlmd".into(), owners, locks: vec![held, waiting], wide: false };
    is_golden("locks-wide", &LocksReport { wide: true, ..locks.clone() });
    is_golden("locks", &locks);
    let owners = OwnersReport::unknown("the kernel is locked down", "boot without lockdown");
    is_golden("locks-unknown", &LocksReport { owners, locks: vec![unknown], ..locks.clone() });
    is_golden("locks-none", &LocksReport { locks: vec![], ..locks });
}

#[test]
fn runs() {
    let report = settled();
    let run = RunListing {
        id: report.run.id.clone(),
        manager: "nlmd".into(),
        mode: "strict".into(),
        scope: ScopeReport::default(),
        outcome: Some(Outcome::Settled),
        phase: Phase::Done,
        started_at: report.run.started_at,
        elapsed_ms: Some(5_012),
        exit: Some(3),
        clients: 6,
        locks: report.locks,
    };
    let unfinished = RunListing { outcome: None, phase: Phase::Notifying, elapsed_ms: None, exit: None, ..run.clone() };
    is_golden("runs", &RunsReport { schema: SCHEMA, runs: vec![unfinished, run], shown: None });
    is_golden("runs-none", &RunsReport { schema: SCHEMA, runs: vec![], shown: None });
}

#[test]
fn metrics_leave_out_what_is_not_known() {
    let unreached = MetricsView { manager: "knfsd", status: None, suspects: None, last_run: None }.text().unwrap();
    assert_eq!(
        unreached,
        "# HELP nlmctl_up Whether the lock manager was reached.\n# TYPE nlmctl_up gauge\n\
         nlmctl_up{manager=\"knfsd\"} 0\n# EOF\n"
    );
}

#[test]
fn notices() {
    let acked = NoticeReport {
        name: "192.0.2.1".into(),
        address: Some(ip("192.0.2.1")),
        fate: ClientFate::Acked,
        attempts: 1,
        acked_ms: Some(2),
        error: None,
    };
    let unknown = NoticeReport {
        name: "gone.example.org".into(),
        address: None,
        fate: ClientFate::NameUnknown,
        attempts: 1,
        acked_ms: None,
        error: Some("no address".into()),
    };
    let names = vec!["server.example.org".to_owned(), "server".to_owned()];
    let report = NotifyReport { schema: SCHEMA, state: 43, names, hosts: vec![acked, unknown] };
    assert_eq!(report.exit_code(), 3);
    is_golden("notify", &report);
}

#[test]
fn the_words_of_the_contract() {
    let fates: Vec<_> = ClientFate::ALL.iter().map(|f| serde_json::to_value(f).unwrap()).collect();
    assert_eq!(fates, ["acked", "silent", "no-answer", "no-statd", "name-unknown", "refused", "not-told"]);
    let outcomes: Vec<_> = Outcome::ALL.iter().map(|o| serde_json::to_value(o).unwrap()).collect();
    assert_eq!(outcomes, ["settled", "aborted", "failed", "superseded", "interrupted"]);
    for fate in ClientFate::ALL {
        assert_eq!(serde_json::to_value(fate).unwrap(), fate.as_str());
    }
    for phase in Phase::ALL {
        assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
        assert_eq!(phase.as_str().parse(), Ok(phase));
    }
    for probe in Probe::ALL {
        assert_eq!(serde_json::to_value(probe).unwrap(), probe.as_str());
        assert_eq!(probe.as_str().parse(), Ok(probe));
    }
}

fn release_client(n: u8, heard: Heard) -> ReleaseClient {
    let answers = heard == Heard::Answers;
    ReleaseClient {
        name: format!("host{n}.example.org"),
        address: Some(ip(&format!("192.0.2.{n}"))),
        locks: Some(2),
        waiters: u64::from(!answers),
        whole: true,
        shared_address: false,
        heard,
        statd: if answers { Probe::Suspect } else { Probe::NoAnswer },
        lockd: if answers { LockdProbe::NotRegistered } else { LockdProbe::NoAnswer },
        locked_with: Some(3),
        state: answers.then_some(5),
        suspicions: if answers { vec!["its statd's state number is 5, its locks carried 3".into()] } else { vec![] },
    }
}

fn release(outcome: ReleaseOutcome) -> Release {
    let lock = |n, state: &str| LockListing {
        file: "01000601deadbeef".into(),
        kind: "write".into(),
        start: 0,
        end: Some(99),
        state: state.into(),
        monitored: true,
        owner: owner(n),
    };
    let planned = outcome == ReleaseOutcome::Planned;
    let waited_for = vec![Waiting { name: "host9.example.org".into(), svid: 7 }];
    Release {
        id: (!planned).then(|| "0d9f1f6e-5c3b-4e0f-8f5a-93f6a1c1b8de".into()),
        manager: "nlmd".into(),
        scope: ScopeReport { clients: vec!["host7.example.org".into(), "192.0.2.8".into()], ..ScopeReport::default() },
        only: vec!["owner 12".into(), "bytes 0-99".into()],
        outcome,
        exit: outcome.exit(),
        at: (!planned).then_some(Stamp(1_795_362_328_007)),
        chosen: Some(4),
        chosen_waiters: 1,
        released: (!planned).then_some(ReleasedCounts { locks: 3, waiters: 1, offered: 1, left: 1 }),
        probed_for_ms: 3000,
        clients: vec![release_client(7, Heard::NoAnswer), release_client(8, Heard::Answers)],
        locks: vec![
            ReleaseLock { lock: lock(7, "held"), path: Some("/srv/a".into()), waited_for },
            ReleaseLock { lock: lock(7, "waiting"), path: None, waited_for: vec![] },
        ],
        left: if planned {
            vec![]
        } else {
            vec![ReleaseLeft { lock: lock(8, "held"), path: None, why: Some("the server is in grace".into()) }]
        },
        uid: (!planned).then_some(1000),
        notes: if planned { vec![] } else { vec!["a client that waits asks again".into()] },
        consent: vec!["release 2 locks of host7.example.org (192.0.2.7), where nothing answered within 3000 ms".into()],
    }
}

#[test]
fn a_release_before_and_after() {
    is_golden("release-plan", &ReleaseReport::new(release(ReleaseOutcome::Planned)));
    is_golden("release-partial", &ReleaseReport::new(release(ReleaseOutcome::Partial)));
}

/// A lock on /srv/x/a as the kernel's lockd has it.
fn on_a(client: u8, end: u64, behind: Option<Vec<Behind>>) -> ListedLock {
    ListedLock {
        file: "0100078109000000".into(),
        kind: "write".into(),
        start: 0,
        end: Some(end),
        state: if behind.is_some() { "waiting" } else { "held" }.into(),
        age_s: None,
        monitored: Some(true),
        owner: ListedOwner {
            name: Some(format!("c{client}")),
            address: Some(ip(&format!("10.0.0.1{client}"))),
            server_address: Some(ip("10.0.0.1")),
            transport: Some("tcp".into()),
            version: Some(4),
            svid: Some(i32::from(client)),
            oh: None,
        },
        path: Some("/srv/x/a".into()),
        export: Some("/srv/x".into()),
        path_in_export: Some("a".into()),
        deleted: false,
        inode: Some("08:01:9".into()),
        unsure: None,
        behind,
    }
}

/// What docs/release.svg shows.
#[test]
fn a_stuck_lock_and_its_release() {
    let list = |locks| LocksReport {
        schema: SCHEMA,
        manager: "knfsd".into(),
        owners: OwnersReport::told(),
        locks,
        wide: false,
    };
    let in_the_way = Behind { name: Some("c1".into()), address: Some(ip("10.0.0.11")), svid: Some(1) };
    is_golden("locks-stuck", &list(vec![on_a(1, 9, None), on_a(2, 4, Some(vec![in_the_way]))]));
    is_golden("locks-freed", &list(vec![on_a(2, 4, None)]));
    let held = LockListing {
        file: "0100078109000000".into(),
        kind: "write".into(),
        start: 0,
        end: Some(9),
        state: "held".into(),
        monitored: true,
        owner: Owner { name: "c1".into(), address: Some(ip("10.0.0.11")), svid: Some(1), ..owner(1) },
    };
    let waited_for = vec![Waiting { name: "c2".into(), svid: 2 }];
    let dead = ReleaseClient {
        name: "c1".into(),
        address: Some(ip("10.0.0.11")),
        locks: Some(1),
        waiters: 0,
        whole: false,
        ..release_client(1, Heard::NoAnswer)
    };
    let release = Release {
        manager: "knfsd".into(),
        scope: ScopeReport { clients: vec!["c1".into()], files: vec!["/srv/x/a".into()], ..ScopeReport::default() },
        only: vec!["bytes 0-9".into()],
        exit: ReleaseOutcome::Released.exit(),
        chosen: Some(1),
        chosen_waiters: 0,
        released: Some(ReleasedCounts { locks: 1, waiters: 0, offered: 1, left: 0 }),
        clients: vec![dead],
        locks: vec![ReleaseLock { lock: held, path: Some("/srv/x/a".into()), waited_for }],
        left: vec![],
        uid: Some(0),
        notes: vec![],
        consent: vec![],
        ..release(ReleaseOutcome::Released)
    };
    is_golden("release-stuck", &ReleaseReport::new(release));
}

#[test]
fn releases_of_the_record() {
    let listing = ReleaseListing {
        id: "0d9f1f6e-5c3b-4e0f-8f5a-93f6a1c1b8de".into(),
        manager: "nlmd".into(),
        at: Stamp(1_795_362_328_007),
        outcome: ReleaseOutcome::Released,
        scope: ScopeReport { clients: vec!["host7.example.org".into()], ..ScopeReport::default() },
        locks: 3,
        waiters: 1,
        left: 0,
    };
    is_golden("releases", &ReleasesReport { schema: SCHEMA, releases: vec![listing] });
    is_golden("releases-none", &ReleasesReport { schema: SCHEMA, releases: vec![] });
}

#[test]
fn what_stands_in_the_way_of_a_run() {
    let many: Vec<String> = (1..=7).map(|n| format!("host{n} (192.0.2.{n}): no answer")).collect();
    let findings = vec![
        Finding::ok("manager", "nlmd 0.1.0 answers at /run/nlmd/control.sock, NSM state 41"),
        Finding::new("domains", Severity::Note, "nlmd 0.1.0 arbitrates NLM locks and nothing else", "use NFSv3 only"),
        Finding::new("clients", Severity::Warning, "7 clients cannot be told", "start statd there").of(many),
        Finding::new("mounts", Severity::Problem, "this host has NFSv3 mounts", "unmount them").of(["nas:/a at /mnt"]),
    ];
    is_golden("check", &CheckReport::new("nlmd", "/run/nlmd/control.sock", true, findings));
    let unreached = vec![Finding::new("manager", Severity::Problem, "no lock manager answers", "start nlmd")];
    is_golden("check-unreached", &CheckReport::new("nlmd", "/run/nlmd/control.sock", false, unreached));
}

#[test]
fn a_document_with_a_field_that_no_schema_names_or_without_one_that_it_requires_fails_a_test() {
    let good = serde_json::json!({ "schema": 1, "error": { "exit": 1, "message": "what", "remedy": "do" } });
    assert_eq!(document::document(good.to_string()), good);
    let fails = |change: fn(&mut serde_json::Value)| {
        let mut changed = good.clone();
        change(&mut changed);
        std::panic::catch_unwind(|| document::document(changed.to_string())).is_err()
    };
    assert!(fails(|document| document["error"]["new"] = 1.into()));
    assert!(fails(|document| document["new"] = 1.into()));
    assert!(fails(|document| _ = document["error"].as_object_mut().unwrap().remove("remedy")));
    assert!(fails(|document| document["error"]["exit"] = "1".into()));
}

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
    SuspectRun { id, outcome: Some(outcome), exit: Some(exit), reason, fate: Some(fate), locks }
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
    let suspects = vec![
        suspect(1, settled(0, ClientFate::Acked, all_of(3))),
        Suspect { kept_if_silent: None, ..suspect(2, settled(3, ClientFate::Acked, dropped)) },
        Suspect { next_run_at: at, ..suspect(3, settled(3, ClientFate::Silent, kept(3))) },
        Suspect { next_run_at: at, ..suspect(4, settled(3, ClientFate::NoAnswer, kept(3))) },
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
