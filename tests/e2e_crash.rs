//! Somebody dies in the middle of a run.
#![cfg(test)]

mod common;

use std::time::Duration;

use common::proxy::Proxy;
use common::{Running, World};
use nix::sys::signal::Signal;
use nlmctl::internals::demo::Behaviour;
use nlmctl::wire::control::Procedure;
use nlmctl::wire::nlm::Stat;

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_after_begin_and_before_the_first_notice_loses_nothing() {
    let world = World::locked(3, 2).await;
    let proxy = Proxy::stopping_at(&world.server.control(), Procedure::Progress);
    let run = Running::start(world.nlmctl_with(proxy.path(), &world.db(), &["resync", "--yes", "--grace", "1s"]));
    proxy.holds().await;
    run.kill9().await;
    world.until_open().await;
    assert!(world.farm.notices().is_empty(), "no notice left");
    assert_eq!(world.held().await, 6);
    let ran = world.run(&["resync", "--resume"]).await.exits(1);
    assert_eq!(ran.json()["run"]["outcome"], "aborted", "{ran:#?}");
    assert_eq!((ran.locks("in_scope"), ran.locks("kept"), ran.locks("unverified")), (6, 6, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_in_the_middle_leaves_nlmd_to_settle_alone_and_resume_completes_the_record() {
    let world = World::locked(4, 2).await;
    // So that the run lasts to its deadline. Nobody told nlmd about this client: it is kept.
    world.behave(0, Behaviour::deaf());
    let run = world.start(&["resync", "--yes", "--grace", "3s"]);
    world.all_notified().await;
    world.until("the others have reclaimed", |farm| (1..4).all(|n| farm.reclaims(world.clients[n]).granted >= 2)).await;
    run.kill9().await;
    world.until_open().await;
    assert_eq!(world.held().await, 8, "nothing is dropped of a client that nlmd was not told about");
    let ran = world.run(&["resync", "--resume"]).await;
    assert_eq!(ran.json()["run"]["outcome"], "settled", "{ran:#?}");
    assert_eq!((ran.locks("in_scope"), ran.locks("reclaimed"), ran.locks("kept"), ran.locks("dropped")), (8, 6, 2, 0));
    let clients = ran.json()["clients"].as_array().unwrap().clone();
    let deaf = clients.iter().find(|client| client["locks"]["kept"] == 2).expect("the deaf client");
    assert!(["unknown", "no-answer"].contains(&deaf["fate"].as_str().unwrap()), "notices were sent to it: {deaf:#}");
    let run = ran.json()["run"]["id"].as_str().unwrap().to_owned();
    let ran = world.run(&["resync", "--resume"]).await.exits(4);
    assert!(ran.stderr.contains(&format!("{run}, has ended (settled), with exit status 3")), "{ran:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_can_be_resumed_while_it_is_still_on() {
    let world = World::locked(3, 2).await;
    world.behave(0, Behaviour::deaf());
    let run = world.start(&["resync", "--yes", "--grace", "6s"]);
    world.all_notified().await;
    let active = world.run(&["status"]).await.exits(0).json()["run"].clone();
    assert_eq!(active["controller"]["alive"], true, "{active:#}");
    let by = format!("nlmctl (pid {}) works with the record of this run", active["controller"]["pid"]);
    assert!(world.run(&["resync", "--yes"]).await.exits(4).stderr.contains(&by));
    run.kill9().await;
    let active = world.run(&["status"]).await.exits(0).json()["run"].clone();
    assert_eq!(active["controller"]["alive"], false, "{active:#}");
    assert!(world.run(&["resync", "--yes"]).await.exits(4).stderr.contains("no nlmctl works on it"));
    let ran = world.run(&["resync", "--resume"]).await.exits(3);
    assert_eq!(ran.json()["run"]["outcome"], "settled");
    assert_eq!((ran.locks("reclaimed"), ran.locks("kept"), ran.locks("dropped")), (4, 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_run_tells_the_rest_under_the_names_that_it_began_with() {
    let world = World::locked(2, 1).await;
    world.behave(0, Behaviour::deaf());
    let run = world.start(&["resync", "--yes", "--grace", "6s", "--name", "alias.test"]);
    world.all_notified().await;
    run.kill9().await;
    let refused = world.run(&["resync", "--resume", "--name", common::SERVER]).await.exits(2);
    assert!(refused.stderr.contains("alias.test") && refused.stderr.contains("--name alias.test"), "{refused:#?}");
    let told = world.farm.notices().len();
    let _ = world.run(&["resync", "--resume"]).await.json();
    let notices = world.farm.notices();
    assert!(notices.len() > told, "the one that did not ack is told again");
    assert!(notices.iter().all(|notice| notice.name.as_str() == "alias.test"), "{notices:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_acked_before_its_controller_died_keeps_its_locks_though_it_answers_the_next_one_nothing() {
    let world = World::locked(1, 1).await;
    // So the plan names it as unreachable, and consent to drop covers it.
    world.behave(0, Behaviour::dead());
    let args =
        ["resync", "--yes", "--unreachable", "drop", "--grace", "12s", "--name", common::SERVER, "--name", "b.test"];
    let proxy = Proxy::stopping_at(&world.server.control(), Procedure::Progress);
    let run = Running::start(world.nlmctl_with(proxy.path(), &world.db(), &args));
    proxy.holds().await;
    world.behave(0, Behaviour { acks_at_most: 1, ..Behaviour::silent() });
    proxy.go_on();
    let id = world.run(&["runs", "list"]).await.exits(0).json()["runs"][0]["id"].as_str().unwrap().to_owned();
    let recorded =
        async { while world.run(&["runs", "show", &id]).await.exits(0).json()["clients"][0]["acks"] != 1 {} };
    // Later it would be given up, and that is recorded in any case.
    tokio::time::timeout(Duration::from_secs(8), recorded).await.expect("its ack is not recorded");
    run.kill9().await;
    world.behave(0, Behaviour::dead());
    let ran = world.run(&["resync", "--resume"]).await.exits(3);
    assert_eq!((ran.locks("kept"), ran.locks("dropped"), world.held().await), (1, 0, 1), "{ran:#?}");
    let client = &ran.json()["clients"][0];
    assert_eq!((&client["acks"], &client["notices"]), (&1.into(), &2.into()), "{client:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nlmd_killed_in_the_middle_recovers_as_after_any_restart_and_the_run_is_superseded() {
    let mut world = World::with_server(3, &["--grace", "3s"]).await;
    world.lock_all(2).await;
    world.behave(0, Behaviour::silent());
    let run = world.start(&["resync", "--yes", "--grace", "20s"]);
    world.all_notified().await;
    world.behave(0, Behaviour::default());
    world.server.kill().await.unwrap();
    world.server.restart().await.unwrap_or_else(|e| panic!("{e}"));
    let ran = run.end().await.exits(1);
    assert_eq!(ran.json()["run"]["outcome"], "superseded", "{ran:#?}");
    world.until_open().await;
    assert_eq!(world.held().await, 6, "the clients reclaimed in ordinary recovery");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_before_the_first_notice_aborts_and_gives_everything_back() {
    let world = World::locked(2, 2).await;
    let proxy = Proxy::stopping_at(&world.server.control(), Procedure::Progress);
    let run = Running::start(world.nlmctl_with(proxy.path(), &world.db(), &["resync", "--yes", "--grace", "30s"]));
    proxy.holds().await;
    run.signal(Signal::SIGTERM);
    // Nothing outside tells that the signal was taken; until then the run would just go on.
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.go_on();
    let ran = run.end().await.exits(1);
    assert_eq!(ran.json()["run"]["outcome"], "aborted", "{ran:#?}");
    assert!(world.farm.notices().is_empty());
    assert_eq!(world.held().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_after_the_first_notice_leaves_and_tells_how_to_resume() {
    let world = World::locked(2, 2).await;
    world.behave(0, Behaviour::deaf());
    let run = world.start(&["resync", "--yes", "--grace", "5s"]);
    world.all_notified().await;
    run.signal(Signal::SIGINT);
    let ran = run.end().await.exits(1);
    assert!(ran.stderr.contains("--resume"), "{ran:#?}");
    assert_eq!(ran.locks("reclaimed") + ran.locks("unverified"), 4, "{ran:#?}");
    let clients = ran.json()["clients"].as_array().unwrap().clone();
    assert!(clients.iter().all(|client| client["locks"].is_null()), "what each has left was not asked: {clients:#?}");
    let ran = world.run(&["resync", "--resume"]).await.exits(3);
    assert_eq!((ran.locks("reclaimed"), ran.locks("kept")), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_left_after_its_nlmd_has_ended_is_not_said_to_go_on_without_it() {
    let mut world = World::locked(1, 1).await;
    world.behave(0, Behaviour::deaf());
    let run = world.start(&["resync", "--yes", "--grace", "20s"]);
    world.all_notified().await;
    world.server.kill().await.unwrap();
    run.signal(Signal::SIGINT);
    let ran = run.end().await.exits(1);
    assert!(ran.stderr.contains("as long as the lock manager runs"), "{ran:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nlmd_killed_between_runs_keeps_its_clients_and_its_state_number_moves_on() {
    let mut world = World::with_server(2, &["--grace", "2s"]).await;
    world.lock_all(2).await;
    world.server.kill().await.unwrap();
    world.server.restart().await.unwrap_or_else(|e| panic!("{e}"));
    world.until_open().await;
    assert_eq!(world.held().await, 4);
    let notices = world.farm.notices();
    let mut told: Vec<_> = notices.iter().map(|notice| notice.client).collect();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told, world.clients, "everybody was told of the restart");
    assert_eq!(
        world.farm.lock(world.clients[0], &common::own(world.clients[0], 7), false).await.unwrap(),
        Stat::Granted,
        "grace is over"
    );
}
