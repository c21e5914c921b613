//! `nlmctl reconcile` through both binaries: suspects get a run of their own, and nobody else is touched.
#![cfg(test)]

mod common;

use common::{Ran, Running, World};
use nlmctl::internals::demo::Behaviour;
use nlmctl::wire::types::NsmState;
use serde_json::Value;

/// A round whose runs are short.
const ROUND: [&str; 3] = ["reconcile", "--grace", "1s"];

async fn round(world: &World, more: &[&str]) -> Ran {
    world.run(&[&ROUND, more].concat()).await
}

/// As cron sees it: text.
async fn round_in_text(world: &World) -> Ran {
    let command = world.nlmctl(&ROUND);
    let args: Vec<_> = command.as_std().get_args().filter(|arg| *arg != "--json").map(ToOwned::to_owned).collect();
    Running::start(common::nlmctl(&args)).end().await
}

async fn state(world: &World) -> Value {
    world.run(&["status"]).await.exits(0).json()["manager"]["nsm_state"].clone()
}

fn suspects(ran: &Ran) -> Vec<Value> {
    ran.json()["reconcile"]["suspects"].as_array().unwrap().clone()
}

/// Every client has shown that it understands notices.
async fn all_have_reclaimed(world: &World) {
    world.run(&["resync", "--yes"]).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_well_a_round_is_quiet_and_raises_no_state_number() {
    let world = World::locked(3, 2).await;
    let before = state(&world).await;
    for _ in 0..2 {
        let ran = round_in_text(&world).await.exits(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    }
    let ran = round(&world, &[]).await.exits(0);
    let seen = &ran.json()["reconcile"];
    assert_eq!(
        (&seen["clients"], &seen["unreachable"], &seen["suspects"]),
        (&3.into(), &0.into(), &Value::Array(vec![]))
    );
    assert_eq!(state(&world).await, before);
    assert!(world.farm.notices().is_empty(), "no client is told anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_a_client_that_rebooted_unnoticed_go_in_the_second_round_and_are_named() {
    let world = World::locked(3, 2).await;
    all_have_reclaimed(&world).await;
    let told = world.farm.notices().len();
    world.farm.reboot_unnoticed(world.clients[0]);
    let first = round(&world, &[]).await.exits(0);
    assert_eq!(suspects(&first)[0]["step"], "look-again");
    assert_eq!(world.locks_of("host1.test").await, 2);

    let ran = round_in_text(&world).await.exits(3);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 1, "{ran:#?}");
    assert!(lines[0].starts_with("host1.test (127.9.0.1): 2 locks dropped"), "{ran:#?}");
    assert!(lines[0].contains("state number") && lines[0].contains("nlmctl runs show "), "{ran:#?}");
    assert_eq!(world.held().await, 4);
    let notices = world.farm.notices();
    assert!(notices[told..].iter().all(|notice| notice.client == world.clients[0]), "nobody else is told");
    assert!(round_in_text(&world).await.exits(0).stdout.is_empty());
    let runs = world.run(&["runs", "list"]).await.exits(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 2, "one run for one suspect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_client_whose_number_differs_keeps_all_and_is_not_run_again_for_it() {
    let world = World::locked(2, 3).await;
    world.farm.set_state(world.clients[0], NsmState(99));
    round(&world, &[]).await.exits(0);
    let ran = round(&world, &[]).await.exits(0);
    assert_eq!(
        (&suspects(&ran)[0]["run"]["exit"], &suspects(&ran)[0]["run"]["locks"]["reclaimed"]),
        (&0.into(), &3.into())
    );
    let after = state(&world).await;
    for _ in 0..3 {
        assert!(round_in_text(&world).await.exits(0).stdout.is_empty());
    }
    assert_eq!((state(&world).await, world.held().await), (after, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_client_is_left_alone() {
    let world = World::locked(2, 2).await;
    world.farm.crash(world.clients[0]);
    let before = state(&world).await;
    for _ in 0..2 {
        let ran = round(&world, &[]).await.exits(0);
        assert_eq!((&ran.json()["reconcile"]["unreachable"], suspects(&ran).len()), (&1.into(), 0));
    }
    let ran = round_in_text(&world).await.exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "cron mails whatever is printed");
    assert_eq!((state(&world).await, world.locks_of("host1.test").await), (before, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_acks_without_understanding_loses_nothing_and_waits_for_its_next_run() {
    let world = World::locked(2, 2).await;
    world.behave(0, Behaviour::silent());
    world.farm.set_state(world.clients[0], NsmState(99));
    round(&world, &[]).await.exits(0);
    let ran = round_in_text(&world).await.exits(3);
    assert!(ran.stdout.contains("2 locks kept, because it acked and reclaimed nothing, and it has never"), "{ran:#?}");
    assert!(ran.stdout.contains("next run not before "), "{ran:#?}");
    assert_eq!(world.farm.beliefs(world.clients[0]).len(), world.locks_of("host1.test").await);

    let after = state(&world).await;
    let waits = round(&world, &[]).await.exits(0);
    let seen = &suspects(&waits)[0];
    assert!(seen["step"] == "wait" && seen["next_run_at"].is_string(), "{seen:#}");
    assert_eq!(state(&world).await, after, "no run is made meanwhile");
    // A newer number is news.
    world.farm.set_state(world.clients[0], NsmState(101));
    round(&world, &[]).await.exits(0);
    round(&world, &[]).await.exits(3);
    assert_eq!(world.locks_of("host1.test").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_kept_for_the_reason_that_the_run_gave() {
    let world = World::locked(2, 2).await;
    world.behave(0, Behaviour::deaf());
    world.farm.set_state(world.clients[0], NsmState(99));
    round(&world, &[]).await.exits(0);
    let ran = round_in_text(&world).await.exits(3);
    assert!(ran.stdout.contains("2 locks kept, because its notice was not acked (no-answer);"), "{ran:#?}");
    // A newer number is news.
    for (behaviour, fate, why) in
        [(Behaviour::deaf(), "no-answer", "unreachable"), (Behaviour::silent(), "silent", "silent")]
    {
        world.behave(0, behaviour);
        let number = 101 + 2 * i32::from(fate == "silent");
        world.farm.set_state(world.clients[0], NsmState(number));
        round(&world, &[]).await.exits(0);
        let run = suspects(&round(&world, &[]).await.exits(3))[0]["run"].clone();
        assert_eq!((&run["fate"], &run["paths"][0]["kept_because"]), (&fate.into(), &why.into()), "{run:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_had_to_leave_its_run_says_how_to_go_on_and_the_next_one_records_it_and_waits() {
    let world = World::locked(2, 2).await;
    world.behave(0, Behaviour::silent());
    world.farm.set_state(world.clients[0], NsmState(99));
    round(&world, &[]).await.exits(0);
    let record = rusqlite::Connection::open(world.db()).unwrap();
    let full = "CREATE TRIGGER full BEFORE UPDATE ON run WHEN NEW.phase = 'done' BEGIN SELECT RAISE(FAIL, 'full'); END";
    record.execute_batch(full).unwrap();
    let stopped = round(&world, &[]).await.exits(1).json()["reconcile"]["stopped"].clone();
    let says = |key: &str, words: &str| stopped[key].as_str().unwrap().contains(words);
    assert!(says("message", "nlmctl has left run") && says("remedy", "nlmctl resync --resume"), "{stopped:#}");
    record.execute_batch("DROP TRIGGER full").unwrap();
    let before = state(&world).await;
    let next = round(&world, &[]).await.exits(0);
    assert_eq!(suspects(&next)[0]["step"], "wait", "its run counts");
    let runs = world.run(&["runs", "list"]).await.exits(0).json()["runs"].clone();
    assert_eq!((runs.as_array().unwrap().len(), &runs[0]["outcome"]), (1, &"settled".into()), "{runs:#}");
    assert_eq!((state(&world).await, world.held().await), (before, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_understood_before_and_is_another_machines_for_one_round_keeps_its_locks() {
    let world = World::locked(2, 2).await;
    all_have_reclaimed(&world).await;
    world.behave(0, Behaviour::silent());
    for number in [97, 99, 95] {
        world.farm.set_state(world.clients[0], NsmState(number));
        let _ = round(&world, &[]).await;
        assert_eq!(world.locks_of("host1.test").await, 2, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing_and_remembers_nothing() {
    let world = World::locked(2, 2).await;
    world.farm.set_state(world.clients[0], NsmState(99));
    let before = state(&world).await;
    for _ in 0..2 {
        let ran = round(&world, &["--dry-run"]).await.exits(0);
        assert_eq!(suspects(&ran)[0]["step"], "look-again");
    }
    assert!(!world.db().exists(), "not even a record is made");
    round(&world, &[]).await.exits(0);
    for _ in 0..2 {
        let ran = round(&world, &["-n"]).await.exits(3);
        assert_eq!((&suspects(&ran)[0]["step"], &suspects(&ran)[0]["run"]), (&"run".into(), &Value::Null));
    }
    assert_eq!((state(&world).await, world.held().await), (before, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_before_any_run_where_suspects_hold_more_than_may_be_dropped() {
    let world = World::locked(2, 3).await;
    for &client in &world.clients {
        world.farm.reboot_unnoticed(client);
    }
    let before = state(&world).await;
    round(&world, &["--max-drop", "5"]).await.exits(0);
    let ran = round(&world, &["--max-drop", "5"]).await.exits(4);
    let seen = &ran.json()["reconcile"];
    assert!(seen["stopped"]["message"].as_str().unwrap().contains("2 suspects hold 6 locks"), "{seen:#}");
    assert_eq!((&seen["at_stake"], &seen["exit"]), (&6.into(), &4.into()));
    assert_eq!((state(&world).await, world.held().await), (before, 6));
    round(&world, &["--max-drop", "6"]).await.exits(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_are_never_at_work_at_once_and_none_beside_another_run() {
    let world = World::locked(2, 1).await;
    world.behave(0, Behaviour::silent());
    world.farm.set_state(world.clients[0], NsmState(99));
    round(&world, &[]).await.exits(0);
    let first = world.start(&["reconcile", "--grace", "30s"]);
    world.until("the suspect is told", |farm| !farm.notices().is_empty()).await;
    let second = round(&world, &[]).await.exits(4).json();
    assert!(second["error"]["message"].as_str().unwrap().contains("nlmctl"), "{second:#}");
    // Of another record, it is the lock manager that is busy.
    let other = world.server.dir().join("other.db");
    let beside = Running::start(world.nlmctl_with(&world.server.control(), &other, &ROUND)).end().await.exits(4);
    assert!(beside.json()["error"]["message"].as_str().unwrap().contains("is active"), "{beside:#?}");
    world.run(&["abort"]).await.exits(0);
    let ran = first.end().await.exits(1);
    assert_eq!(suspects(&ran)[0]["run"]["outcome"], "aborted");
    assert_eq!(world.held().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_round_and_leaves_the_run_to_be_resumed() {
    let world = World::locked(2, 1).await;
    for &client in &world.clients {
        world.farm.behave(client, Behaviour::silent());
        world.farm.set_state(client, NsmState(99));
    }
    round(&world, &[]).await.exits(0);
    let running = world.start(&["reconcile", "--grace", "30s"]);
    world.until("a suspect is told", |farm| !farm.notices().is_empty()).await;
    running.signal(nix::sys::signal::Signal::SIGTERM);
    let ran = running.end().await.exits(1);
    let runs: Vec<bool> = suspects(&ran).iter().map(|suspect| suspect["run"].is_object()).collect();
    assert_eq!(runs.iter().filter(|has_run| **has_run).count(), 1, "the second one gets none: {ran:#?}");
    let stopped = ran.json()["reconcile"]["stopped"]["message"].as_str().unwrap().to_owned();
    assert!(stopped.contains("SIGTERM") && stopped.contains("1 suspect"), "{stopped}");
    world.run(&["abort"]).await.exits(0);
    assert_eq!(world.held().await, 2);
}
