//! `nlmctl check`: what is seen before a run, and how much it weighs.
#![cfg(test)]

mod common;

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use common::{Running, World, nlmctl, own};
use nlmctl::internals::demo::Behaviour;
use nlmctl::wire::types::CallerName;
use serde_json::Value;

/// What was found of a topic: its weights and items.
fn of<'a>(report: &'a Value, about: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let findings = report["check"]["findings"].as_array().unwrap_or_else(|| panic!("no findings: {report:#}"));
    findings
        .iter()
        .filter(|finding| finding["about"] == about)
        .map(|finding| {
            let items = finding["items"].as_array().unwrap().iter().map(|item| item.as_str().unwrap());
            (finding["severity"].as_str().unwrap(), items.collect())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clients_answer_is_fit_for_a_run_and_nothing_is_touched() {
    let world = World::locked(3, 2).await;
    let report = world.run(&["check"]).await.exits(0).json();
    assert_eq!(
        (&report["schema"], &report["check"]["exit"], &report["check"]["manager"]),
        (&1.into(), &0.into(), &"nlmd".into())
    );
    for topic in ["manager", "grace", "nsm-state", "clients", "mounts", "record-room"] {
        assert_eq!(of(&report, topic), [("ok", vec![])], "{topic}: {report:#}");
    }
    assert_eq!(of(&report, "domains")[0].0, "note", "nlmd arbitrates NLM only");
    assert_eq!(of(&report, "names")[0].1.len(), 1, "server.test does not resolve");
    for finding in report["check"]["findings"].as_array().unwrap() {
        assert!(finding["severity"] == "ok" || finding["remedy"].is_string(), "no remedy: {finding:#}");
    }
    assert!(world.farm.notices().is_empty());
    assert_eq!(world.held().await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_answer_and_one_that_restarted_unnoticed_are_named() {
    let world = World::locked(3, 1).await;
    world.behave(0, Behaviour::dead());
    world.behave(1, Behaviour { has_statd: false, ..Behaviour::default() });
    world.farm.set_state(world.clients[2], nlmctl::wire::types::NsmState(99));
    let report = world.run(&["check"]).await.exits(0).json();
    let clients = of(&report, "clients");
    assert_eq!(clients[0], ("ok", vec![]));
    assert_eq!(clients[1].0, "warning");
    assert_eq!(
        clients[1].1,
        ["host1.test (127.9.0.1): no answer", "host2.test (127.9.0.2): its rpcbind knows no statd"]
    );
    let suspects = of(&report, "suspects");
    assert!(suspects[0].1[0].starts_with("host3.test (127.9.0.3) (state 99"), "{suspects:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_under_way_is_a_problem_and_exit_4() {
    let world = World::locked(2, 1).await;
    world.behave(0, Behaviour::deaf());
    let run = world.start(&["resync", "--yes", "--grace", "8s"]);
    world.all_notified().await;
    let report = world.run(&["check"]).await.exits(4).json();
    assert_eq!(of(&report, "grace")[0].0, "problem");
    run.end().await.exits(3);
}

#[tokio::test]
async fn without_a_lock_manager_the_rest_is_looked_at_and_the_exit_code_is_5() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = nlmctl(&["--json"]);
    command.arg("--control").arg(dir.path().join("nobody.sock")).arg("--db").arg(dir.path().join("runs.db"));
    command.args(["--rpcbind-port", "9", "check"]);
    let report = Running::start(command).end().await.exits(5).json();
    assert_eq!(of(&report, "manager")[0].0, "problem");
    assert!(report["check"]["findings"][0]["seen"].as_str().unwrap().contains("nobody.sock"));
    assert_eq!(of(&report, "record-room").len(), 1);
    assert!(!dir.path().join("runs.db").exists(), "no record is made for looking");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_no_run_can_use_is_a_problem_and_stays_as_it_is() {
    let world = World::locked(1, 1).await;
    let dir = tempfile::tempdir().unwrap();
    let [damaged, newer, missing, shared] =
        ["damaged.db", "newer.db", "missing/runs.db", "shared/runs.db"].map(|name| dir.path().join(name));
    std::fs::write(&damaged, "not a database").unwrap();
    let database = rusqlite::Connection::open(&newer).unwrap();
    database.execute_batch("PRAGMA user_version = 9999").unwrap();
    drop(database);
    let folder = shared.parent().unwrap();
    std::fs::create_dir(folder).unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o1777)).unwrap();
    for record in [damaged, newer, missing, shared] {
        let before = std::fs::read(&record).ok();
        let run = |args: &[&str]| Running::start(world.nlmctl_with(&world.server.control(), &record, args)).end();
        let report = run(&["check"]).await.exits(4).json();
        assert_eq!(of(&report, "record-room")[0].0, "problem", "{record:?}");
        let planned = run(&["resync", "--dry-run"]).await.exits(0);
        assert!(planned.stderr.contains("the run itself would fail"), "{planned:?}");
        assert!(std::fs::read(&record).ok() == before, "{record:?} is another one now");
        run(&["resync", "--yes"]).await.exits(1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_that_do_not_answer_take_no_longer_than_one() {
    let world = World::with(0).await;
    for n in 0..300_u16 {
        let [high, low] = (n + 1).to_be_bytes();
        let name = CallerName::new(&format!("many{n}.test")).unwrap();
        let who = world.farm.add(Ipv4Addr::new(127, 10, high, low), name);
        world.take(who, &own(who, 0)).await;
        if n % 2 == 0 {
            world.farm.crash(who);
        }
    }
    let begun = Instant::now();
    let report = world.run(&["check"]).await.exits(0).json();
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    assert_eq!(of(&report, "clients")[1].1.len(), 150);
}
