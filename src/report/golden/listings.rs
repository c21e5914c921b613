//! What a lock manager and the record have: status, clients, locks, runs, metrics, notices.

use super::*;

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
    let all = Capabilities { release: true, knows_paths: true, ..Capabilities::COOPERATES };
    let able = Info { capabilities: all, ..info.clone() };
    let page = include_str!("../../../man/nlmctl-control.7");
    for word in StatusReport::new("nlmd", &able, &status, OwnersReport::told(), None).manager.capabilities {
        assert!(page.contains(&format!("\n.It Li {word}\n")), "nlmctl-control(7) does not explain {word}");
    }
    let blind =
        Info { capabilities: Capabilities { mark: false, list_locks: false, ..info.capabilities }, ..info.clone() };
    is_golden("status-unlisted", &StatusReport::new("nlmd", &blind, &status, OwnersReport::told(), None));
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
    let mut active = StatusReport::new("nlmd", &info, &status, OwnersReport::told(), None);
    is_golden("status-run", &active);
    for (name, controller) in
        [("status-run-worked-on", Controller { alive: true, pid: Some(29_101) }), ("status-run-left", Controller::GONE)]
    {
        if let Some(run) = &mut active.run {
            run.controller = Some(controller);
        }
        is_golden(name, &active);
    }
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
        behind_more: 0,
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
        behind_more: 7,
        ..held.clone()
    };
    let unknown =
        ListedLock { owner: nobodys, age_s: None, monitored: None, path: None, deleted: false, ..held.clone() };
    let owners = OwnersReport::told();
    let locks = LocksReport {
        schema: SCHEMA,
        manager: "nlmd".into(),
        owners,
        locks: vec![held, waiting],
        wide: false,
        whole: true,
    };
    is_golden("locks-wide", &LocksReport { wide: true, ..locks.clone() });
    is_golden("locks", &locks);
    let owners = OwnersReport::unknown("the kernel is locked down", "boot without lockdown");
    is_golden("locks-unknown", &LocksReport { owners, locks: vec![unknown], ..locks.clone() });
    is_golden("locks-none", &LocksReport { locks: vec![], ..locks.clone() });
    is_golden("locks-none-selected", &LocksReport { locks: vec![], whole: false, ..locks });
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
    let unreached =
        MetricsView { manager: "knfsd", status: None, suspects: None, record_readable: false, last_run: None };
    assert_eq!(
        unreached.text().unwrap(),
        "# HELP nlmctl_record_readable Whether the record of runs could be read, or there is none yet.\n\
         # TYPE nlmctl_record_readable gauge\nnlmctl_record_readable 0\n\
         # HELP nlmctl_up Whether the lock manager was reached.\n# TYPE nlmctl_up gauge\n\
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
    let report = NotifyReport { schema: SCHEMA, state: 43, names, stopped: None, hosts: vec![acked, unknown] };
    assert_eq!(report.exit_code(), 3);
    is_golden("notify", &report);
    assert_eq!(NotifyReport { stopped: Some("SIGINT".into()), ..report }.exit_code(), 1);
}
