//! All that nlmctl prints, as files in `tests/golden/`. To accept a change, run
//! `UPDATE_GOLDEN=1 cargo test --lib golden` and read the difference.

#[path = "../../../tests/common/document.rs"]
mod document;
mod listings;
mod reconcile;
mod releases;
mod runs;

use std::fs;
use std::path::Path;

use jiff::tz::{self, TimeZone};
use serde::Serialize;

use super::*;
use crate::wire::control::ClientRef;
use crate::wire::types::CallerName;

#[track_caller]
fn is_golden<T: Render + Serialize>(name: &str, value: &T) {
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
        locks_listed: true,
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
fn a_failure() {
    let report =
        Failure::new(FailureKind::Unreachable, "no lock manager answers at /run/nlmd/control.sock", "start nlmd")
            .report();
    is_golden("error", &report);
}

#[test]
fn the_words_of_the_contract() {
    let fates: Vec<_> = ClientFate::ALL.iter().map(|f| serde_json::to_value(f).unwrap()).collect();
    assert_eq!(fates, ["acked", "silent", "no-answer", "no-statd", "name-unknown", "refused", "not-told", "unknown"]);
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

#[test]
fn what_stands_in_the_way_of_a_run() {
    let many: Vec<String> = (1..=7).map(|n| format!("host{n} (192.0.2.{n}): no answer")).collect();
    let findings = vec![
        Finding::ok("manager", "nlmd 0.1.0 answers at /run/nlmd/control.sock, NSM state 41"),
        Finding::new("domains", Severity::Note, "nlmd 0.1.0 arbitrates NLM locks and nothing else", "use NFSv3 only"),
        Finding::new("clients", Severity::Warning, "7 clients cannot be notified", "start statd there").of(many),
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
