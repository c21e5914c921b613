//! Releases.

use super::*;

fn release_client(n: u8, heard: HostAnswer) -> ReleaseClient {
    let answers = heard == HostAnswer::Answers;
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
        clients: vec![release_client(7, HostAnswer::NoAnswer), release_client(8, HostAnswer::Answers)],
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
        refusal: planned.then(|| Refusal {
            message: "host8.example.org answers".into(),
            remedy: "use `nlmctl resync --client host8.example.org`, or add --live".into(),
        }),
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
        behind_more: 0,
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
        whole: true,
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
        ..release_client(1, HostAnswer::NoAnswer)
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
