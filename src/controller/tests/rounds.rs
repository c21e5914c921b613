//! Rounds of `nlmctl reconcile` in which a run that is due does not begin.

use std::net::Ipv4Addr;

use super::*;
use crate::controller::reconcile::{RoundTerms, reconcile};
use crate::demo::clients::Farm;
use crate::report::Reconcile;
use crate::resync::reconcile::Memory;
use crate::wire::types::Address;

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 9, 11, 1);

/// A round over one client, which was a suspect in the round before, and what is remembered of it afterwards. Where
/// `begin` is slow a signal comes meanwhile.
async fn round(fake: &Arc<Fake>, books: &Books) -> (Reconcile, Option<Memory>) {
    let farm = Farm::open(&[CallerName::new("nas").unwrap()]).unwrap();
    let client = farm.add(CLIENT, CallerName::new("host1").unwrap());
    farm.set_state(client, NsmState(9));
    let row = ClientRow { locks: 3, nsm_state: NsmState(3), ..ClientRow::sample("host1", &CLIENT.to_string()) };
    fake.with(|world| world.clients = vec![row]);
    let (mut store, key) = (books.open(), ("host1".to_owned(), Address(CLIENT.into())));
    let suspect = Memory { differed: NsmState(9), rounds: 1, ..Memory::default() };
    store.remember(&fake.endpoint(), &[(key.clone(), suspect)]).unwrap();
    let terms = RoundTerms { grace: Duration::from_secs(1), max_drop: 9, names: Vec::new() };
    let options = Options { rpcbind_port: farm.rpcbind_port(), ..options() };
    let (signal, signals) = mpsc::channel(1);
    let round = reconcile(Arc::clone(fake) as _, store, terms, options, signals);
    let signalled = async {
        if fake.with(|world| world.slow_begin > Duration::ZERO) {
            until(|| fake.asked() == ["begin"]).await;
            signal.send("SIGTERM").await.unwrap();
        }
    };
    let report = tokio::join!(round, signalled).0.unwrap();
    (report.reconcile, books.open().memories(&fake.endpoint()).unwrap().remove(&key))
}

/// What is remembered of a suspect of two rounds that had no run.
fn not_run() -> Memory {
    Memory { differed: NsmState(9), rounds: 2, ..Memory::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_refused_ends_the_round_with_its_exit_code_and_is_not_remembered_as_made() {
    for (code, exit) in [(RefusalCode::Unsupported, 4), (RefusalCode::BadRequest, 2)] {
        let (fake, books) = (Fake::new(3), Books::new());
        fake.with(|world| world.refuses_begin = Some(code));
        let (round, memory) = round(&fake, &books).await;
        assert_eq!(fake.asked(), ["begin"]);
        let stopped = round.stopped.expect("the round says why");
        assert!(stopped.message.contains("not now"), "{stopped:?}");
        assert_eq!(round.exit, exit);
        assert_eq!(memory, Some(not_run()));
        assert_eq!(round.suspects.first().unwrap().next_run_at, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_a_signal_aborts_before_its_notice_is_not_remembered_as_made() {
    let (fake, books) = (Fake::new(3), Books::new());
    fake.with(|world| world.slow_begin = Duration::from_millis(100));
    let (round, memory) = round(&fake, &books).await;
    assert_eq!(round.suspects[0].run.as_ref().map(|run| run.outcome), Some(Some(Outcome::Aborted)));
    assert_eq!((round.exit, memory), (1, Some(not_run())));
}
