//! Runs that are refused: a message, what to do about it, and the exit code. And the JSON that scripts rely on.
#![cfg(test)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use common::{Running, World};
use nlmctl::internals::demo::{Behaviour, ClientNo};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_client_or_a_file_without_locks_is_refused_and_named() {
    let world = World::locked(1, 1).await;
    world.run(&["resync", "--yes", "--client", "nobody.test"]).await.refuses(2, "nobody.test");
    world.run(&["resync", "--yes", "--file", "deadbeef"]).await.refuses(2, "no lock is selected");
    assert!(world.farm.notices().is_empty());
    assert_eq!(world.held().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_kept_refuses_the_run_before_anything_is_touched() {
    let world = World::locked(1, 1).await;
    let corrupt = world.server.dir().join("corrupt.db");
    fs::write(&corrupt, b"this is no database, and it is long enough to be looked at as if it were one ".repeat(20))
        .unwrap();
    let mut nowhere = vec![corrupt, "/proc/runs.db".into(), world.server.dir().join("missing/runs.db")];
    if !nix::unistd::geteuid().is_root() {
        let read_only = world.server.dir().join("read-only.db");
        fs::write(&read_only, b"").unwrap();
        let mut permissions = fs::metadata(&read_only).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&read_only, permissions).unwrap();
        nowhere.push(read_only);
    }
    for db in nowhere {
        let name = db.file_name().unwrap().to_str().unwrap().to_owned();
        let command = world.nlmctl_with(&world.server.control(), &db, &["resync", "--yes"]);
        Running::start(command).end().await.refuses(1, &name);
    }
    assert!(world.farm.notices().is_empty());
    let status = world.run(&["status"]).await.exits(0).json();
    assert_eq!((&status["run"], &status["manager"]["grace"]), (&Value::Null, &"open".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_consent_a_run_that_may_drop_is_refused_and_a_dry_run_is_not() {
    let world = World::locked(2, 1).await;
    world.farm.crash(world.clients[0]);
    world.run(&["resync", "--unreachable", "drop", "--grace", "1s"]).await.refuses(4, "consent");
    let plan = world.run(&["resync", "--unreachable", "drop", "--grace", "1s", "--dry-run"]).await.json();
    assert!(plan["plan"]["consent"].as_array().is_some_and(|needs| !needs.is_empty()), "{plan:#}");
    assert_eq!(world.held().await, 2);
    assert!(world.farm.notices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_runs_at_a_time_the_second_is_refused() {
    let world = World::locked(2, 1).await;
    world.behave(0, Behaviour::deaf());
    let first = world.start(&["resync", "--yes", "--grace", "3s"]);
    world.all_notified().await;
    let db = world.server.dir().join("second.db");
    let second = world.nlmctl_with(&world.server.control(), &db, &["resync", "--yes"]);
    Running::start(second).end().await.refuses(4, "run");
    first.end().await.exits(3);
}

#[track_caller]
fn has_keys(value: &Value, keys: &[&str]) {
    let there: BTreeSet<&str> =
        value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect();
    let wanted: BTreeSet<&str> = keys.iter().copied().collect();
    assert!(wanted.is_subset(&there), "missing {:?} in {value}", wanted.difference(&there));
}

const LOCKS: [&str; 8] =
    ["in_scope", "reclaimed", "released", "dropped", "kept", "unverified", "resurrected", "conflicts"];

#[tokio::test(flavor = "multi_thread")]
async fn a_run_as_json_has_every_key_of_the_contract() {
    let world = World::locked(3, 2).await;
    world.behave(0, Behaviour::deaf());
    world.farm.set_state(ClientNo(1), nlmctl::wire::types::NsmState(99));
    let report = world.run(&["resync", "--yes", "--grace", "1s"]).await.exits(3).json();
    assert_eq!(report["schema"], 1);
    has_keys(&report, &["schema", "run", "state", "locks", "clients"]);
    let run = &report["run"];
    has_keys(
        run,
        &[
            "id",
            "manager",
            "mode",
            "scope",
            "outcome",
            "phase",
            "started_at",
            "ended_at",
            "elapsed_ms",
            "exit",
            "reason",
        ],
    );
    assert_eq!((&run["outcome"], &run["exit"], &run["reason"]), (&"settled".into(), &3.into(), &Value::Null));
    for time in ["started_at", "ended_at"] {
        let time = run[time].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time} is RFC 3339 with an offset");
    }
    has_keys(&report["state"], &["old", "new"]);
    has_keys(&report["locks"], &LOCKS);
    let clients = report["clients"].as_array().unwrap();
    assert_eq!(clients.len(), 3);
    for client in clients {
        has_keys(client, &["name", "address", "suspect", "fate", "attempts", "acked_ms", "locks", "error"]);
        has_keys(&client["locks"], &LOCKS);
    }
    let of = |name: &str| clients.iter().find(|client| client["name"] == name).unwrap();
    assert_eq!((&of("host1.test")["fate"], &of("host1.test")["acked_ms"]), (&"no-answer".into(), &Value::Null));
    assert_eq!(of("host3.test")["fate"], "acked");
    assert_eq!(of("host2.test")["suspect"], true, "its statd answers another state number");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_as_json_has_every_key_and_touches_nothing() {
    let world = World::locked(2, 3).await;
    let report = world.run(&["resync", "--dry-run"]).await.exits(0).json();
    assert_eq!(report["schema"], 1);
    let plan = &report["plan"];
    has_keys(plan, &["fingerprint", "mode", "scope", "in_scope", "unmonitored", "clients", "consent"]);
    assert_eq!(plan["in_scope"], 6);
    for client in plan["clients"].as_array().unwrap() {
        has_keys(client, &["name", "address", "locks", "probe"]);
        assert_eq!(client["locks"], 3);
    }
    assert!(world.farm.notices().is_empty());
    let again = world.run(&["resync", "--dry-run"]).await.exits(0).json();
    assert_eq!(plan["fingerprint"], again["plan"]["fingerprint"], "nothing changed that consent covers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_is_quiet() {
    let world = World::locked(1, 1).await;
    let mut command = world.nlmctl(&["locks"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
