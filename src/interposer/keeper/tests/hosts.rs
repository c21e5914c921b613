//! What one host does is no other one's affair, and what comes one way is about that way.

use super::*;
use crate::interposer::messages;
use crate::manager::knfsd::owners::OwnerKey;

fn other_way() -> Way {
    Way { server: Address(OTHER_SERVER.parse().unwrap()), ..way(1) }
}

#[tokio::test(start_paused = true)]
async fn open_calls_of_a_host_without_locks_make_no_client_unsure() {
    let (unlocks, sums, _stage) = spoiled(|stage| {
        for svid in 0..100_001 {
            stage.call(9, lock(9, svid, "anything", false));
        }
        stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
    })
    .await;
    assert_eq!((unlocks, sums), (1, (1, 0, 1, 0)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dropped_of_a_client_with_more_open_calls_than_are_remembered() {
    let (unlocks, sums, _stage) = spoiled(|stage| {
        let calls: Vec<u64> = (0..1_025).map(|svid| stage.call(1, lock(1, svid, "x", false))).collect();
        for call in calls {
            stage.tell(FilterEvent::Reply(Reply { call, stat: Stat::DeniedGracePeriod }));
        }
    })
    .await;
    assert_eq!((unlocks, sums), (0, (1, 0, 0, 1)));
}

#[tokio::test(start_paused = true)]
async fn free_all_is_about_the_way_that_it_comes_by() {
    let other = HeldLock { owner: OwnerKey { way: other_way(), ..held(1, 6, "b").owner }, ..held(1, 6, "b") };
    let stage = Stage::new(vec![held(1, 5, "a"), other]);
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.answered(1, Request::FreeAll(NsmState(5)), Stat::Granted);
    of(&stage.world).view.locks.retain(|lock| lock.owner.way == other_way());
    stage.acked().await;
    let counts = stage.settle().await.counts;
    assert_eq!(sums(counts), (0, 1, 1, 0), "what lockd still has is not taken for released");
    assert!(stage.done().contains(&"unlock b".to_owned()), "{:?}", stage.done());
}

#[tokio::test(start_paused = true)]
async fn a_free_all_that_lockd_rejects_frees_nothing() {
    let (unlocks, sums, _stage) = spoiled(|stage| stage.answered(1, Request::FreeAll(NsmState(5)), Stat::Failed)).await;
    assert_eq!((unlocks, sums), (1, (1, 0, 1, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_monitored_client_without_a_lock_is_told_from_each_address_that_it_called() {
    let stage = Stage::new(vec![held(1, 5, "a")]);
    let called = [SERVER, OTHER_SERVER].map(|ip| Address(ip.parse().unwrap()));
    let at = address(2).to_string();
    let row = ClientRow { server_addresses: List::clipped(called.to_vec()), ..ClientRow::sample("c2", &at) };
    of(&stage.world).monitored.push(row);
    stage.begin(control::Mode::Strict).await.unwrap();
    let clients = stage.handle.run_clients(RunPageAfter { run: RUN, after: 0 }).await.unwrap().clients.into_vec();
    let told = clients.iter().find(|client| client.name == name("c2")).unwrap();
    assert_eq!(told.server_addresses.as_slice(), called);
}

#[tokio::test(start_paused = true)]
async fn open_calls_of_many_hosts_without_locks_make_no_client_unsure() {
    let (unlocks, sums, _stage) = spoiled(|stage| {
        for n in 0..120_000_u64 {
            let way =
                Way { client: Address(IpAddr::from(std::net::Ipv6Addr::from(u128::from(n / 1000) + 1))), ..way(9) };
            let (caller, request, treated) = (name("any"), lock(9, 1, "anything", false), Treated::Refused);
            stage.tell(FilterEvent::Call(Call { number: 1_000_000 + n, way, caller, request, treated }));
        }
        stage.answered(1, lock(1, 5, "live", true), Stat::Granted);
    })
    .await;
    assert_eq!((unlocks, sums), (1, (1, 0, 1, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_asks_for_no_lock_becomes_no_client() {
    let stage = Stage::new(vec![held(1, 5, "a")]);
    stage.begin(control::Mode::Strict).await.unwrap();
    for (request, stat) in [
        (Request::Unlock(claim(2, 1, "b", WHOLE)), Stat::Granted),
        (Request::Cancel(claim(2, 1, "b", WHOLE)), Stat::Denied),
        (lock(2, 1, "b", false), Stat::DeniedGracePeriod),
        (Request::FreeAll(NsmState(5)), Stat::Granted),
    ] {
        stage.answered(2, request, stat);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.status().await.clients, 1);
    stage.answered(2, lock(2, 1, "b", true), Stat::Granted);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.status().await.clients, 2);
}

#[tokio::test(start_paused = true)]
async fn a_reclaim_of_a_share_that_lockd_refuses_is_a_conflict_of_both_owners() {
    let stage = Stage::new(vec![held(1, 5, "a"), held(2, 5, "b")]);
    let share = |client: u8, oh: &[u8]| crate::manager::knfsd::owners::Share {
        way: way(client),
        caller: name(&format!("c{client}")),
        handle: FileHandle::new(b"s").unwrap(),
        device: (8, 1),
        inode: 7,
        path: None,
        deleted: false,
        oh: OwnerHandle::new(oh).unwrap(),
        access: 1,
        mode: 2,
        monitored: true,
    };
    of(&stage.world).view.shares = vec![share(1, b"one")];
    stage.begin(control::Mode::Strict).await.unwrap();
    stage.heard_of(RUN, |_| true).await;
    let (file, oh) = (FileHandle::new(b"s").unwrap(), OwnerHandle::new(b"two").unwrap());
    let request = Request::Share(messages::ShareRequest { file, oh, access: 2, mode: 1, reclaim: true });
    stage.answered(2, request, Stat::Denied);
    tokio::time::sleep(Duration::from_secs(20)).await;
    stage.settle().await;
    let full = stage.result();
    let row = full.locks.as_slice().iter().find(|row| row.fate == control::Fate::Conflict).unwrap();
    assert_eq!((row.owner.name.as_str(), row.other.0.as_ref().unwrap().name.as_str()), ("c2", "c1"));
}
