//! `nlmctl demo`: its figures are the contract's, and its witness agrees.
#![cfg(test)]

mod common;

use common::document::documents;
use common::{LIMIT, Ran, Running, nlmctl};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

async fn demo(args: &str) -> Ran {
    let mut command = nlmctl(&["demo", "--json"]);
    command.args(args.split_whitespace());
    Running::start(command).end().await
}

/// The run's sums in the order of `wanted`.
#[track_caller]
fn figures(ran: &Ran, wanted: &[(&str, u64)]) {
    for (key, number) in wanted {
        assert_eq!(ran.locks(key), *number, "{key} of {}", ran.json()["locks"]);
    }
}

#[track_caller]
fn agrees(ran: &Ran) {
    assert_eq!(ran.json()["check"]["lost"], 0, "{ran:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contracts_example_comes_out_to_the_lock() {
    let ran = demo("--clients 50 --locks 20 --dead 3 --stale 4 --rebooted 2 --lost 5 --grace 2s").await.exits(3);
    figures(
        &ran,
        &[
            ("in_scope", 995),
            ("reclaimed", 891),
            ("released", 0),
            ("dropped", 104),
            ("kept", 0),
            ("unverified", 0),
            ("resurrected", 5),
            ("conflicts", 0),
        ],
    );
    let check = &ran.json()["check"];
    assert_eq!(
        (&check["clients_disagreeing"], &check["believed"], &check["held"]),
        (&0.into(), &896.into(), &896.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_up_for_this_machines_nlmd_or_its_record_is_not_taken_for_the_demos() {
    let mut command = nlmctl(&["demo", "--json", "--clients", "2", "--locks", "1"]);
    command.env("NLMD_ALLOW", "192.0.2.1").env("NLMD_GRACE", "rubbish").env("NLMCTL_DB", "/nonexistent/runs.db");
    agrees(&Running::start(command).end().await.exits(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_broken_all_is_reclaimed_long_before_grace_ends() {
    let ran = demo("--grace 60s").await.exits(0);
    figures(&ran, &[("in_scope", 1000), ("reclaimed", 1000), ("dropped", 0), ("kept", 0), ("conflicts", 0)]);
    agrees(&ran);
    let elapsed = ran.json()["run"]["elapsed_ms"].as_u64().unwrap();
    assert!(elapsed < 15_000, "{elapsed} ms of 60 s of grace");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_clients_came_back_empty_the_notices_were_not_understood_and_nothing_is_dropped() {
    let ran = demo("--clients 6 --locks 3 --rebooted 6 --grace 1s").await.exits(4);
    figures(&ran, &[("in_scope", 18), ("reclaimed", 0), ("dropped", 0), ("kept", 18)]);
    assert!(ran.json()["run"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{ran:#?}");
    agrees(&ran);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_locks_of_dead_clients_go_or_stay_as_policy_says() {
    let ran = demo("--clients 8 --locks 3 --dead 2 --grace 1s --unreachable drop").await.exits(3);
    figures(&ran, &[("in_scope", 24), ("reclaimed", 18), ("dropped", 6), ("kept", 0)]);
    agrees(&ran);
    let ran = demo("--clients 8 --locks 3 --dead 2 --grace 1s --unreachable keep").await.exits(3);
    figures(&ran, &[("in_scope", 24), ("reclaimed", 18), ("dropped", 0), ("kept", 6)]);
    agrees(&ran);
    assert_eq!(ran.json()["check"]["stuck"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_had_lost_is_resurrected_every_time() {
    for seed in 0..5 {
        let ran = demo(&format!("--clients 10 --locks 4 --lost 5 --seed {seed}")).await.exits(0);
        figures(&ran, &[("in_scope", 35), ("reclaimed", 35), ("resurrected", 5), ("conflicts", 0)]);
        agrees(&ran);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targeted_grace_cures_the_same() {
    let ran = demo("--clients 10 --locks 4 --dead 1 --stale 2 --rebooted 1 --lost 2 --mode targeted --grace 1s").await;
    let ran = ran.exits(3);
    figures(&ran, &[("in_scope", 38), ("reclaimed", 28), ("dropped", 10), ("resurrected", 2), ("conflicts", 0)]);
    agrees(&ran);
    assert_eq!(ran.json()["run"]["mode"], "targeted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_breaks_the_same_clients() {
    let broken = |ran: &Ran| -> Vec<Value> {
        let clients = ran.json()["clients"].as_array().unwrap().clone();
        clients
            .into_iter()
            .filter(|client| client["locks"]["dropped"] != 0)
            .map(|client| client["name"].clone())
            .collect()
    };
    let args = "--clients 12 --locks 2 --stale 3 --rebooted 1 --grace 1s --seed 7";
    let (first, again) = (demo(args).await.exits(3), demo(args).await.exits(3));
    let mut names = (broken(&first), broken(&again));
    names.0.sort_by_key(Value::to_string);
    names.1.sort_by_key(Value::to_string);
    assert_eq!(names.0.len(), 4);
    assert_eq!(names.0, names.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_clients_of_five_locks_fit_into_4096_open_files() {
    let mut command = Command::new("bash");
    let line = format!(
        "ulimit -S -n 256 && ulimit -H -n 4096 && exec {} --config /dev/null demo --clients 2000 --locks 5 --json",
        env!("CARGO_BIN_EXE_nlmctl")
    );
    command.args(["-c", &line]);
    let ran = Running::start(command).end().await.exits(0);
    figures(&ran, &[("in_scope", 10_000), ("reclaimed", 10_000), ("dropped", 0)]);
    agrees(&ran);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_broken_than_there_are_clients_is_a_usage_error() {
    let ran = demo("--clients 3 --dead 2 --stale 2").await.exits(2);
    let error = &ran.json()["error"];
    assert_eq!(error["exit"], 2);
    assert!(error["message"].as_str().is_some_and(|m| m.contains('4')) && error["remedy"].is_string(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_interrupted_leaves_no_process_and_no_file() {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = nlmctl(&["demo", "--clients", "5", "--locks", "2", "--dead", "1", "--grace", "60s"]);
    command.env("TMPDIR", scratch.path());
    let demo = Running::start(command);
    let limit = Instant::now() + LIMIT;
    let control = loop {
        let control = std::fs::read_dir(scratch.path())
            .unwrap()
            .map(|e| e.unwrap().path().join("control.sock"))
            .find(|p| p.exists());
        if let Some(control) = control {
            break control;
        }
        assert!(Instant::now() < limit, "no nlmd appears");
        sleep(std::time::Duration::from_millis(10)).await;
    };
    assert!(std::os::unix::net::UnixStream::connect(&control).is_ok(), "its nlmd answers");
    demo.signal(nix::sys::signal::Signal::SIGINT);
    demo.end().await.exits(1);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "files are left");
    assert!(processes_with(scratch.path().to_str().unwrap()).is_empty(), "a process is left");
}

/// Process ids whose command line has `text` in it.
fn processes_with(text: &str) -> Vec<String> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|id| id.bytes().all(|b| b.is_ascii_digit()))
        .filter(|id| {
            std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_record_can_be_read_as_a_page_exported_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (record, file) = (folder.path().join("runs.db"), folder.path().join("run.html"));
    let demo = nlmctl(&["demo", "--clients", "5", "--locks", "4", "--dead", "1", "--grace", "1s", "--json", "--db"]);
    let mut demo = demo;
    demo.arg(&record);
    let id = Running::start(demo).end().await.exits(3).json()["run"]["id"].as_str().unwrap().to_owned();
    let runs = async |args: &[&str], exit: i32| {
        let mut command = nlmctl(&["--control", "/nonexistent/socket", "--db"]);
        command.arg(&record).arg("runs").args(args);
        Running::start(command).end().await.exits(exit)
    };

    runs(&["report", "--output", file.to_str().unwrap()], 0).await;
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.contains(&id) && page.contains("<svg") && page.contains("no-answer"), "{page}");
    assert_eq!(runs(&["report", id.get(..8).unwrap()], 0).await.stdout, page, "the newest run is the default");
    runs(&["report", "ffffffff"], 2).await;

    let exported = runs(&["export"], 0).await.stdout;
    let [line] = documents(&exported).try_into().unwrap();
    assert_eq!((&line["run"]["id"], &line["locks"]["dropped"]), (&id.as_str().into(), &4.into()));
    let course = line["progress"].as_array().unwrap();
    assert_eq!(course[0]["pending"], 20, "{course:?}");
    assert_eq!(course.last().unwrap()["pending"], 4, "the dead client's: {course:?}");

    let dead = line["clients"].as_array().unwrap().iter().find(|client| client["fate"] == "no-answer").unwrap();
    let dead = dead["name"].as_str().unwrap();
    let shown = async |args: &[&str]| runs(&[args, &["--json"]].concat(), 0).await.json();
    let count = |value: &Value| value.as_array().unwrap().len();
    assert_eq!(count(&shown(&["list", "--client", dead, "--changed"]).await["runs"]), 1);
    assert_eq!(count(&shown(&["list", "--client", "192.0.2.1"]).await["runs"]), 0);
    for only in [&["--changed"][..], &["--client", dead]] {
        let part = shown(&[&["show", &id], only].concat()).await;
        assert_eq!((count(&part["clients"]), &part["clients"][0]["name"]), (1, &dead.into()), "{part:#}");
        assert_eq!((count(&part["lock_rows"]), &part["locks"]["in_scope"]), (4, &20.into()), "{part:#}");
    }
    assert!(runs(&["show", &id, "--client", "nowhere"], 2).await.stderr.contains("no client nowhere"));

    runs(&["prune"], 2).await;
    runs(&["prune", "--older-than", "1day"], 0).await;
    assert!(!runs(&["export"], 0).await.stdout.is_empty(), "it is not that old");
    let pruned = runs(&["prune", "--keep", "0", "--json"], 0).await.json();
    assert_eq!((&pruned["runs"], &pruned["releases"]), (&1.into(), &0.into()));
    assert!(runs(&["export"], 0).await.stdout.is_empty());
    runs(&["report"], 2).await;
}
