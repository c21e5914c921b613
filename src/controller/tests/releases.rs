//! Which clients a release chooses.

use super::*;
use crate::controller::release::{ReleasePlan, ReleaseRequest};

async fn plan_of(fake: &Fake, client: &str, if_held: bool) -> Result<ReleasePlan, Failure> {
    let options = Options { probe_timeout: Duration::from_millis(10), rpcbind_port: 1, ..options() };
    let request = ReleaseRequest { clients: vec![client.to_owned()], if_held, ..ReleaseRequest::default() };
    release::plan(fake, &request, &options).await.map_err(Failure::from)
}

fn fake(knows_owners: bool) -> Arc<Fake> {
    let fake = Fake::new(0);
    fake.with(|world| (world.capabilities.release, world.capabilities.knows_owners) = (true, knows_owners));
    fake
}

#[tokio::test]
async fn a_client_that_only_the_view_of_owners_has_holds_something_and_is_known() {
    let fake = fake(false);
    fake.with(|world| world.listed = vec![ClientRow { locks: 2, ..ClientRow::sample("c1", "127.9.12.1") }]);
    for if_held in [true, false] {
        let plan = plan_of(&fake, "c1", if_held).await.unwrap();
        assert!(!plan.is_of_nothing());
        assert_eq!(plan.report().release.clients[0].name, "c1");
    }
    assert!(plan_of(&fake, "c2", true).await.unwrap().is_of_nothing());
    let unknown = plan_of(&fake, "c2", false).await.unwrap_err();
    assert!(unknown.kind == FailureKind::Usage && unknown.message.contains("no client c2"), "{unknown}");
}

#[tokio::test]
async fn a_short_name_of_two_hosts_frees_neither() {
    for knows_owners in [true, false] {
        let fake = fake(knows_owners);
        let rows = [("node1.a.test", "127.9.12.1"), ("node1.b.test", "127.9.12.2")];
        fake.with(|world| world.clients = rows.map(|(name, address)| ClientRow::sample(name, address)).to_vec());
        for if_held in [true, false] {
            let refusal = plan_of(&fake, "node1", if_held).await.unwrap_err();
            assert_eq!(refusal.kind, FailureKind::Refused, "{refusal}");
        }
    }
    assert!(plan_of(&fake(true), "node1", true).await.unwrap().is_of_nothing());
}
