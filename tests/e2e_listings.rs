//! What is there: status, clients, locks, runs; and `nlmctl notify` on its own.
#![cfg(test)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use common::{Running, World, own};
use nlmctl::internals::demo::Behaviour;
use nlmctl::wire::types::CallerName;
use serde_json::Value;
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread")]
async fn status_clients_and_locks_show_what_the_lock_manager_says() {
    let world = World::locked(2, 3).await;
    let status = world.run(&["status"]).await.exits(0).json();
    assert_eq!((&status["manager"]["kind"], &status["manager"]["locks"]), (&"nlmd".into(), &6.into()));
    assert_eq!((&status["manager"]["grace"], &status["run"]), (&"open".into(), &Value::Null));
    let clients = world.run(&["clients"]).await.exits(0).json();
    let names: Vec<_> = clients["clients"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["host1.test", "host2.test"]);
    let of_one = |args: &'static [&'static str]| async {
        let listed = world.run(args).await.exits(0).json();
        let locks = listed["locks"].as_array().unwrap().clone();
        assert!(locks.iter().all(|lock| lock["owner"]["name"] == "host2.test" && lock["state"] == "held"), "{listed}");
        locks.len()
    };
    assert_eq!(of_one(&["locks", "--client", "host2.test"]).await, 3);
    assert_eq!(of_one(&["locks", "--client", "127.9.0.2"]).await, 3);
    let unknown = world.run(&["locks", "--client", "hos1.test"]).await.exits(2).json();
    assert!(unknown["error"]["remedy"].as_str().unwrap().contains("host1.test"), "{unknown}");
    assert_eq!(of_one(&["locks", "--client", "host2.test", "--waiting"]).await, 0);
    let no_paths = world.run(&["locks", "--file", "/srv/a"]).await.exits(2).json();
    assert!(no_paths["error"]["message"].as_str().unwrap().contains("does not know paths"), "{no_paths}");
    let file = hex::encode("own1");
    let listed = world.run(&["locks", "--file", &file]).await.exits(0).json();
    assert_eq!(listed["locks"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_clients_statd_is_asked_and_what_it_says_is_compared_with_what_its_locks_carried() {
    let world = World::locked(3, 1).await;
    world.farm.set_state(world.clients[1], nlmctl::wire::types::NsmState(99));
    world.farm.crash(world.clients[2]);
    let listed = world.run(&["clients"]).await.exits(0).json();
    assert!(listed["clients"][0]["probe"].is_null(), "nobody is asked without --probe: {listed}");
    let asked = world.run(&["clients", "--probe", "-v"]).await.exits(0);
    for words in ["waiting up to 2 s more for statd of host3.test\n", "statd of host2.test: state 99"] {
        assert!(asked.stderr.contains(words), "{words}: {}", asked.stderr);
    }
    let listed = asked.json();
    let said = |n: usize| (listed["clients"][n]["probe"]["statd"].clone(), listed["clients"][n]["suspicions"].clone());
    assert_eq!(said(0), ("same".into(), serde_json::json!([])), "{listed:#}");
    let (word, why) = said(1);
    assert_eq!(word, "different");
    assert!(why[0].as_str().unwrap().contains("99"), "{why}");
    assert_eq!(said(2), ("no-answer".into(), serde_json::json!([])), "no answer is no evidence");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_the_lock_manager_and_the_last_run_also_when_it_is_gone() {
    let world = World::locked(2, 3).await;
    let values = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap());
        lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<HashMap<_, _>>()
    };
    let before = world.run(&["metrics"]).await.exits(0);
    assert!(before.stdout.ends_with("# EOF\n"), "{}", before.stdout);
    let before = values(&before.stdout);
    assert_eq!(before["nlmctl_locks{manager=\"nlmd\"}"], "6");
    assert_eq!(before["nlmctl_clients{manager=\"nlmd\"}"], "2");
    assert!(!before.keys().any(|name| name.starts_with("nlmctl_last_run")), "no run yet: {before:?}");

    world.farm.forget(world.clients[0], &own(world.clients[0], 0));
    world.run(&["resync", "--yes", "--grace", "1s"]).await.exits(3);
    let file = world.server.dir().join("nlmctl.prom");
    fs::write(&file, "what was there before").unwrap();
    let ran = world.run(&["metrics", "--output", file.to_str().unwrap()]).await.exits(0);
    assert_eq!(ran.stdout, "");
    let after = values(&fs::read_to_string(&file).unwrap());
    assert_eq!(after["nlmctl_last_run_locks{fate=\"dropped\"}"], "1", "{after:?}");
    assert_eq!(after["nlmctl_last_run_locks{fate=\"reclaimed\"}"], "5");
    assert_eq!(after["nlmctl_locks{manager=\"nlmd\"}"], "5");
    let gone = world.nlmctl_with(std::path::Path::new("/nowhere"), &world.db(), &["metrics", "--manager", "nlmd"]);
    let gone = values(&Running::start(gone).end().await.exits(0).stdout);
    assert_eq!(gone["nlmctl_up{manager=\"nlmd\"}"], "0");
    assert!(gone.contains_key("nlmctl_last_run_exit_code") && !gone.contains_key("nlmctl_locks{manager=\"nlmd\"}"));
    assert_eq!((&*after["nlmctl_record_readable"], &*gone["nlmctl_record_readable"]), ("1", "1"));

    let newer = rusqlite::Connection::open(world.db()).unwrap();
    newer.pragma_update(None, "user_version", 9_999).unwrap();
    let ran = world.run(&["metrics", "--output", file.to_str().unwrap()]).await.exits(0);
    assert!(ran.stderr.contains("runs.db"), "{ran:#?}");
    let without = values(&fs::read_to_string(&file).unwrap());
    assert_eq!((&*without["nlmctl_up{manager=\"nlmd\"}"], &*without["nlmctl_record_readable"]), ("1", "0"));
    assert!(!without.keys().any(|name| name.starts_with("nlmctl_last_run")), "{without:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_found_by_its_name_as_it_is_shown_and_is_told_in_a_run() {
    let world = World::locked(1, 1).await;
    let bytes = |n: u8| [b"esc\xff\\\x1b \xe2\x80\xae".as_slice(), &[n; 200]].concat();
    let address = |n| std::net::Ipv4Addr::new(127, 9, 2, n);
    for n in [200, 201] {
        let odd = world.farm.add(address(n), CallerName::of_bytes(&bytes(n)).unwrap());
        world.take(odd, &own(odd, 0)).await;
    }
    let clients = world.run(&["clients"]).await.exits(0).json();
    let rows = clients["clients"].as_array().unwrap();
    let row = rows.iter().find(|row| row["addresses"][0] == "127.9.2.200").unwrap();
    let name = row["name"].as_str().unwrap();
    assert!(name.starts_with("esc\\xff\\x5c\\x1b\\x20\\xe2\\x80\\xae\\xc8"), "{name}");
    let found = world.run(&["locks", "--client", name]).await.exits(0).json();
    assert_eq!(found["locks"].as_array().unwrap().len(), 1);
    assert_eq!(found["locks"][0]["owner"]["name"], name);
    let ran = world.run(&["resync", "--yes", "--client", name]).await.exits(0);
    assert_eq!((ran.locks("in_scope"), ran.locks("reclaimed")), (1, 1), "{ran:#?}");
    assert_eq!(ran.json()["clients"][0]["fate"], "acked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_listed_and_shown_with_its_timeline() {
    let world = World::locked(2, 1).await;
    world.run(&["resync", "--yes", "--grace", "5s"]).await.exits(0);
    let list = world.run(&["runs", "list"]).await.exits(0).json();
    let id = list["runs"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!((&list["runs"][0]["exit"], &list["runs"][0]["clients"]), (&0.into(), &2.into()));
    let shown = world.run(&["runs", "show", &id[..8]]).await.exits(0).json();
    assert_eq!(shown["run"]["id"], id.as_str());
    let kinds: Vec<_> = shown["events"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert!(kinds.starts_with(&["planned"]) && kinds.contains(&"begun") && kinds.contains(&"settled"), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_run_with_a_row_that_cannot_be_read_nothing_but_the_error_is_printed() {
    let world = World::locked(1, 3).await;
    world.run(&["resync", "--yes", "--grace", "5s", "--record", "all"]).await.exits(0);
    let list = world.run(&["runs", "list"]).await.exits(0).json();
    let id = list["runs"][0]["id"].as_str().unwrap();
    let shown = world.run(&["runs", "show", id]).await.exits(0).json();
    assert_eq!(shown["lock_rows"].as_array().unwrap().len(), 3, "{shown:#}");
    let db = rusqlite::Connection::open(world.db()).unwrap();
    db.execute("UPDATE lock SET row = x'00' WHERE place = (SELECT max(place) FROM lock)", []).unwrap();
    for args in [&["runs", "show", id][..], &["runs", "export"]] {
        let shown = world.run(args).await.exits(1).json();
        assert!(shown["error"]["message"].as_str().unwrap().contains("cannot be understood"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_run_whose_controller_was_killed_is_fetched_by_runs() {
    let world = World::locked(2, 1).await;
    world.behave(0, Behaviour::deaf());
    let run = world.start(&["resync", "--yes", "--grace", "2s"]);
    world.all_notified().await;
    run.kill9().await;
    let unfinished = world.run(&["runs", "list"]).await.exits(0).json();
    assert_eq!(unfinished["runs"][0]["outcome"], Value::Null);
    world.until_open().await;
    let ended = world.run(&["runs", "list"]).await.exits(0).json();
    assert_eq!(ended["runs"][0]["outcome"], "settled", "{ended:#}");
}

/// A world whose hosts are in a file, and the start of a command line that tells them.
fn notify(world: &World, args: &[&str]) -> Running {
    let targets = world.server.dir().join("targets");
    let hosts: Vec<_> = (1..=world.clients.len()).map(|n| format!("127.9.0.{n}")).collect();
    fs::write(&targets, hosts.join("\n")).unwrap();
    let mut command = world.nlmctl(&["notify", "--name", common::SERVER, "--targets"]);
    command.arg(targets).args(args);
    Running::start(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_reach_every_host_under_the_given_name_and_state() {
    let world = World::with(2).await;
    let report = notify(&world, &["--state", "7", "--yes", "--grace-elsewhere"]).end().await.exits(0).json();
    assert_eq!((&report["state"], &report["names"]), (&7.into(), &[common::SERVER][..].into()));
    let fates: Vec<_> = report["hosts"].as_array().unwrap().iter().map(|h| h["fate"].as_str().unwrap()).collect();
    assert_eq!(fates, ["acked", "acked"]);
    world.all_notified().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_ack_is_exit_3_and_named() {
    let world = World::with(2).await;
    world.behave(1, Behaviour::dead());
    let ran = notify(&world, &["--state", "7", "--yes", "--grace-elsewhere", "--deadline", "1s"]).end().await.exits(3);
    let hosts = ran.json()["hosts"].clone();
    assert_eq!((&hosts[0]["fate"], &hosts[1]["fate"]), (&"acked".into(), &"no-answer".into()), "{hosts:#}");
    assert_eq!((&hosts[1]["name"], &hosts[1]["acked_ms"]), (&"127.9.0.2".into(), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_sent_a_notice_before_notify_was_stopped_may_have_been_told() {
    let world = World::with(1).await;
    world.behave(0, Behaviour::deaf());
    let told = notify(&world, &["--state", "7", "--yes", "--grace-elsewhere"]);
    world.all_notified().await;
    told.signal(nix::sys::signal::Signal::SIGINT);
    let ran = told.end().await.exits(1);
    assert_eq!(ran.json()["stopped"], "SIGINT");
    let host = ran.json()["hosts"][0].clone();
    assert_eq!((&host["fate"], &host["error"]), (&"no-answer".into(), &"stopped: SIGINT".into()), "{ran:#?}");
    assert!(host["attempts"].as_u64().unwrap() > 0, "{ran:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_run_is_the_grace_that_notices_want_and_they_stop_when_it_is_over() {
    let world = World::locked(2, 1).await;
    world.behave(0, Behaviour::dead());
    let run = world.start(&["resync", "--yes", "--grace", "3s"]);
    world.until("the run tells its clients", |farm| !farm.notices().is_empty()).await;
    let begun = Instant::now();
    let ran = notify(&world, &["--state", "7", "--yes"]).end().await.exits(1);
    assert!(begun.elapsed() < Duration::from_secs(20), "it went on after grace");
    assert_eq!(ran.json()["stopped"], "grace is over");
    assert_eq!(ran.json()["hosts"][0]["error"], "stopped: grace is over", "{ran:#?}");
    run.end().await.exits(3);
    let mut refused = notify(&world, &["--state", "9", "--yes"]).end().await;
    while refused.code == 1 {
        sleep(Duration::from_millis(50)).await;
        refused = notify(&world, &["--state", "9", "--yes"]).end().await;
    }
    refused.exits(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_after_a_restart_of_the_lock_manager_is_one_in_which_notices_may_leave() {
    let mut world = World::with_server(1, &["--grace", "8s"]).await;
    world.lock_all(1).await;
    world.behave(0, Behaviour::deaf());
    world.server.kill().await.unwrap();
    world.server.restart().await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(world.run(&["status"]).await.exits(0).json()["manager"]["grace"], "recovery");
    world.behave(0, Behaviour::silent());
    let ran = notify(&world, &["--state", "99", "--yes", "--deadline", "5s"]).end().await.exits(0);
    assert_eq!(ran.json()["hosts"][0]["fate"], "acked", "{ran:#?}");
    world.until_open().await;
    notify(&world, &["--state", "101", "--yes"]).end().await.refuses(4, "no grace period");
}
