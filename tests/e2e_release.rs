//! `nlmctl release` through both binaries: a ghost's locks go, and nobody else's.
#![cfg(test)]

mod common;

use common::proxy::Proxy;
use common::{Running, World, common as shared, own};
use nlmctl::wire::control::Procedure;
use nlmctl::wire::nlm::Stat;
use serde_json::Value;

/// A world whose first client is dead and holds two locks of its own and one that the second waits
/// for.
async fn with_a_ghost() -> World {
    let world = World::locked(3, 2).await;
    world.take(world.clients[0], &shared(0)).await;
    assert_eq!(world.farm.lock(world.clients[1], &shared(0), true).await.unwrap(), Stat::Blocked);
    world.farm.crash(world.clients[0]);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ghosts_locks_go_and_who_waited_gets_the_range() {
    let world = with_a_ghost().await;
    let plan = world.run(&["release", "--client", "host1.test", "--dry-run"]).await.exits(0).json();
    let release = &plan["release"];
    assert_eq!((&plan["schema"], &release["outcome"], &release["exit"]), (&1.into(), &"planned".into(), &Value::Null));
    assert_eq!((&release["chosen"], release["locks"].as_array().unwrap().len()), (&3.into(), 3));
    let client = &release["clients"][0];
    assert_eq!((&client["name"], &client["heard"]), (&"host1.test".into(), &"no-answer".into()));
    assert_eq!((&client["statd"], &client["lockd"]), (&"no-answer".into(), &"no-answer".into()));
    assert!(release["consent"][0].as_str().unwrap().contains("3 locks of host1.test"), "{release:#}");
    let waited: Vec<_> =
        release["locks"].as_array().unwrap().iter().flat_map(|l| l["waited_for"].as_array().unwrap()).collect();
    assert_eq!((waited.len(), &waited[0]["name"]), (1, &"host2.test".into()));
    assert_eq!(world.held().await, 8, "a dry run changes nothing");

    world.run(&["release", "--client", "host1.test"]).await.refuses(4, "consent");
    let ran = world.run(&["release", "--client", "host1.test", "--yes"]).await.exits(0);
    assert!(ran.stderr.contains("no answer within 3 s"), "the plan is shown before: {}", ran.stderr);
    let done = ran.json()["release"].clone();
    assert_eq!((&done["outcome"], &done["exit"]), (&"released".into(), &0.into()));
    assert_eq!(
        (&done["released"]["locks"], &done["released"]["offered"], &done["released"]["left"]),
        (&3.into(), &1.into(), &0.into())
    );
    world.until("the waiter is granted", |farm| farm.beliefs(world.clients[1]).contains(&shared(0))).await;
    assert_eq!(world.locks_of("host1.test").await, 0);
    assert_eq!((world.locks_of("host2.test").await, world.locks_of("host3.test").await), (3, 2));

    world.run(&["release", "--client", "host1.test", "--yes"]).await.refuses(2, "no lock is selected");
    let listed = world.run(&["runs", "releases"]).await.exits(0).json();
    let rows = listed["releases"].as_array().unwrap();
    assert_eq!(
        (rows.len(), &rows[0]["id"], &rows[0]["outcome"], &rows[0]["locks"]),
        (1, &done["id"], &"released".into(), &3.into())
    );
    // By the first characters of its id, as it was printed then.
    let shown = world.run(&["runs", "show", &done["id"].as_str().unwrap()[..13]]).await.exits(0).json();
    assert_eq!(shown["release"], done);
    assert!(done["uid"].is_u64(), "{done:#}");
    world.run(&["runs", "report", done["id"].as_str().unwrap()]).await.refuses(2, "is a release");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_keeps_its_locks_unless_that_is_said() {
    let world = World::locked(2, 2).await;
    world.farm.set_state(world.clients[0], nlmctl::wire::types::NsmState(99));
    world.run(&["release", "--client", "host1.test", "--yes"]).await.refuses(4, "host1.test answers");
    assert_eq!(world.held().await, 4);
    let ran = world.run(&["release", "--client", "host1.test", "--dry-run"]).await.exits(4);
    let plan = ran.json();
    let refusal = &plan["release"]["refusal"];
    assert!(refusal["message"].as_str().unwrap().starts_with("host1.test answers"), "{plan:#}");
    assert!(refusal["remedy"].as_str().unwrap().contains("--live"), "{plan:#}");
    let client = &plan["release"]["clients"][0];
    assert_eq!(
        (&client["statd"], &client["state"], &client["heard"]),
        (&"suspect".into(), &99.into(), &"answers".into())
    );
    assert_eq!(client["lockd"], "answers");
    world.run(&["release", "--client", "host1.test", "--live"]).await.refuses(4, "ANSWERS");
    assert_eq!(world.held().await, 4);
    world.run(&["release", "--client", "host1.test", "--live", "--dry-run"]).await.exits(0);
    world.run(&["release", "--client", "host1.test", "--live", "--yes"]).await.exits(0);
    assert_eq!((world.locks_of("host1.test").await, world.locks_of("host2.test").await), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn single_locks_are_chosen_by_file_owner_and_range() {
    let world = World::locked(2, 3).await;
    world.farm.crash(world.clients[0]);
    let file = hex::encode("own0");
    let of = |narrower: &'static [&'static str]| {
        let mut args = vec!["release", "--client", "host1.test", "--file", &file, "--yes"];
        args.extend(narrower);
        Running::start(world.nlmctl(&args)).end()
    };
    of(&["--owner", "9"]).await.refuses(2, "no lock is selected");
    of(&["--range", "100:9"]).await.refuses(2, "no lock is selected");
    let done = of(&["--owner", "2", "--range", "100:10"]).await.exits(0).json()["release"].clone();
    assert_eq!(
        (&done["released"]["locks"], &done["only"]),
        (&1.into(), &serde_json::json!(["owner 2", "bytes 100-109"]))
    );
    assert_eq!(world.locks_of("host1.test").await, 2);
    of(&[]).await.exits(0);
    assert_eq!((world.locks_of("host1.test").await, world.locks_of("host2.test").await), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_files_locks_go_and_the_request_that_waits_for_one_gets_it() {
    let world = with_a_ghost().await;
    let file = shared(0).file.to_string();
    let plan = world.run(&["release", "--file", &file, "--dry-run"]).await.exits(0).json()["release"].clone();
    let clients: Vec<_> = plan["clients"].as_array().unwrap().iter().map(|client| &client["name"]).collect();
    assert_eq!((clients, &plan["chosen_waiters"]), (vec![&"host1.test".into()], &0.into()), "{plan:#}");
    // The client that waits answers, and is not asked: nobody wants --live.
    let done = world.run(&["release", "--file", &file, "--yes"]).await.exits(0).json()["release"].clone();
    assert_eq!((&done["released"]["locks"], &done["released"]["offered"]), (&1.into(), &1.into()), "{done:#}");
    world.until("the waiter is granted", |farm| farm.beliefs(world.clients[1]).contains(&shared(0))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_release_is_as_wanted_where_that_was_said() {
    let world = World::locked(1, 1).await;
    let nobodys = hex::encode("nobody's");
    let unknown = ["--client", "gone.test", "--client", "lost.test"];
    for chosen in [&unknown[..], &["--file", &nobodys]] {
        let args = [&["release", "--yes"], chosen].concat();
        world.run(&args).await.refuses(2, if chosen[0] == "--client" { "gone.test" } else { "no lock is selected" });
        let ran = world.run(&[&args[..], &["--if-held", "--quiet"]].concat()).await.exits(0);
        let done = ran.json()["release"].clone();
        assert_eq!((&done["outcome"], &done["exit"]), (&"nothing-held".into(), &0.into()), "{done:#}");
        for name in ["gone.test", "lost.test"] {
            let line = format!("the lock manager knows no client {name}");
            let said = ran.stderr.lines().filter(|said| said.contains(&line)).count();
            assert_eq!(said, usize::from(chosen[0] == "--client"), "{ran:#?}");
        }
    }
    assert_eq!(world.held().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_released_of_a_client_whose_locks_changed_after_the_plan() {
    let world = World::locked(1, 1).await;
    let proxy = Proxy::stopping_at(&world.server.control(), Procedure::Release);
    let args = ["release", "--client", "host1.test", "--live", "--yes"];
    let run = Running::start(world.nlmctl_with(proxy.path(), &world.db(), &args));
    proxy.holds().await;
    let listed = world.run(&["runs", "releases"]).await.exits(0).json();
    assert_eq!(listed["releases"][0]["outcome"], "unverified", "it is in the record before it is asked for");
    world.take(world.clients[0], &own(world.clients[0], 7)).await;
    proxy.go_on();
    run.end().await.refuses(4, "had 1 lock and 0 blocked requests");
    assert_eq!(world.held().await, 2);
    let listed = world.run(&["runs", "releases"]).await.exits(0).json();
    assert_eq!(listed["releases"][0]["outcome"], "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_released_without_a_known_client_or_while_a_run_is_active() {
    let world = World::locked(2, 1).await;
    world.run(&["release", "--yes"]).await.refuses(2, "--client");
    world.run(&["release", "--client", "nobody.test", "--yes"]).await.refuses(2, "nobody.test");
    world.run(&["release", "--export", "/srv", "--yes"]).await.refuses(2, "selects files by their handles only");
    world.farm.crash(world.clients[0]);
    let run = world.start(&["resync", "--yes", "--grace", "3s"]);
    world.until("the run tells its clients", |farm| !farm.notices().is_empty()).await;
    world.run(&["release", "--client", "host1.test", "--yes"]).await.refuses(4, "is active");
    run.end().await.exits(3);
    assert_eq!(world.held().await, 2);
}
