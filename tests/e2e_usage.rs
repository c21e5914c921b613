//! Bad input and bad places: a message, what to do about it, and the exit code. And the JSON that
//! scripts rely on.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use common::{Ran, Running, World, nlmctl};
use nlmctl::internals::demo::{Behaviour, ClientNo};
use serde_json::Value;
use tokio::process::Command;

/// It failed with this code, said so as JSON on stdout and in words on stderr, and said what to do.
#[track_caller]
fn refuses(ran: &Ran, code: i32, about: &str) {
    assert_eq!(ran.code, code, "{ran:#?}");
    let report = ran.json();
    let error = &report["error"];
    assert_eq!((&report["schema"], &error["exit"]), (&1.into(), &code.into()), "{ran:#?}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(about), "`{about}` is not in: {message}");
    assert!(error["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "no remedy: {ran:#?}");
    assert!(ran.stderr.contains(about), "stderr does not say it: {ran:#?}");
}

async fn run(args: &[&str]) -> Ran {
    Running::start(nlmctl(args)).end().await
}

#[tokio::test]
async fn nonsense_on_the_command_line_is_a_usage_error() {
    for (args, about) in [
        (&["--json", "resync", "--grace", "soon"][..], "--grace"),
        (&["--json", "resync", "--grace", "0s"], "--grace"),
        (&["--json", "resync", "--grace", "10s", "--grace-max", "5s"], "--grace-max"),
        (&["--json", "resync", "--mode", "brutal"], "--mode"),
        (&["--json", "resync", "--mode", "strict", "--client", "a"], "--mode"),
        (&["--json", "resync", "--unreachable", "maybe"], "--unreachable"),
        (&["--json", "--rpcbind-port", "0", "status"], "--rpcbind-port"),
        (&["--json", "--rpcbind-port", "65536", "status"], "--rpcbind-port"),
        (&["--json", "demo", "--clients", "-1"], "-1"),
        (&["--json", "demo", "--clients", "0"], "client"),
        (&["--json", "demo", "--clients", "4000000000"], "--clients"),
        (&["--json", "explode"], "explode"),
        (&["--json", "runs", "list", "--limit", "0"], "1 or more"),
        (&["--json", "runs", "prune"], "--keep"),
    ] {
        let ran = run(args).await;
        refuses(&ran, 2, about);
    }
}

#[tokio::test]
async fn what_a_message_quotes_moves_no_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("runs.db");
    let ran = run(&["runs", "show", "\u{1b}[31mred", "--db", db.to_str().unwrap()]).await;
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert!(ran.stderr.contains("[31mred") && !ran.stderr.contains('\u{1b}'), "{ran:#?}");
}

#[tokio::test]
async fn a_lock_manager_that_is_not_there_is_exit_5() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nobody.sock");
    let db = dir.path().join("runs.db");
    let at = |args: &[&str]| {
        let mut command = nlmctl(&["--json"]);
        command.arg("--control").arg(&missing).arg("--db").arg(&db).args(args);
        Running::start(command)
    };
    for args in [&["resync", "--yes"][..], &["status"], &["locks"], &["clients"], &["abort"]] {
        refuses(&at(args).end().await, 5, "nobody.sock");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_client_is_refused_and_named() {
    let world = World::locked(1, 1).await;
    refuses(&world.run(&["resync", "--yes", "--client", "nobody.test"]).await, 2, "nobody.test");
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
        let ran = Running::start(command).end().await;
        refuses(&ran, 1, &name);
    }
    assert!(world.farm.notices().is_empty());
    let status = world.run(&["status"]).await.exits(0).json();
    assert_eq!((&status["run"], &status["manager"]["grace"]), (&Value::Null, &"open".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_in_use_is_exit_4_of_nlmd() {
    let world = World::with(0).await;
    let mut second = Command::new(env!("CARGO_BIN_EXE_nlmd"));
    second.arg("--state-dir").arg(world.server.state_dir());
    second.arg("--control").arg(world.server.dir().join("second.sock"));
    second.args(["--listen", "127.0.0.1", "--nlm-port", "0", "--nsm-port", "0", "--no-rpcbind"]);
    let ran = Running::start(second).end().await;
    assert_eq!(ran.code, 4, "{ran:#?}");
    assert!(ran.stderr.contains(world.server.state_dir().to_str().unwrap()), "{ran:#?}");
    world.run(&["status"]).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_consent_a_run_that_may_drop_is_refused_and_a_dry_run_is_not() {
    let world = World::locked(2, 1).await;
    world.farm.crash(world.clients[0]);
    let ran = world.run(&["resync", "--unreachable", "drop", "--grace", "1s"]).await;
    refuses(&ran, 4, "consent");
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
    refuses(&Running::start(second).end().await, 4, "run");
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
