//! What is chosen, and what a release of it wants.

use std::net::IpAddr;

use super::*;
use crate::controller::release::choice::{OwnerChoice, ReleaseObservation, ReleaseRequest};
use crate::manager::Freed;
use crate::report::FailureKind;
use crate::wire::control::{Capabilities, ClientRef, Info, InstanceId, RELEASE, Released, Scope};
use crate::wire::types::{Address, ByteRange, CallerName, NsmState, Svid};
use crate::wire::xdr::{List, Text};

fn info(knows_owners: bool) -> Info {
    Info {
        software: Text::clipped("manager 1"),
        instance: InstanceId([3; 16]),
        nsm_state: NsmState(5),
        names: List::default(),
        capabilities: Capabilities {
            mark: false,
            list_locks: true,
            knows_owners,
            targeted: false,
            settle_early: false,
            late_reclaims: false,
            release: true,
            knows_reclaims: false,
            knows_paths: false,
            begin_releases: true,
        },
        domains: List::default(),
    }
}

fn name(n: u8) -> CallerName {
    CallerName::new(&format!("host{n}")).unwrap()
}

fn address(n: u8) -> Address {
    Address(IpAddr::from([192, 0, 2, n]))
}

fn client(n: u8) -> ClientRow {
    ClientRow::sample(&format!("host{n}"), &format!("192.0.2.{n}"))
}

fn row(n: u8, start: u64, state: LockState) -> LockRow {
    let mut row = LockRow { state, ..LockRow::sample(i32::from(n), start, start + 9) };
    (row.owner.name, row.owner.address) = (name(n), address(n));
    row
}

fn of_clients(clients: &[u8]) -> (ReleaseRequest, Scope) {
    let reference = |n: &u8| ClientRef::named(name(*n));
    let scope = Scope { clients: List::clipped(clients.iter().map(reference).collect()), files: List::default() };
    (
        ReleaseRequest { clients: clients.iter().map(|n| format!("host{n}")).collect(), ..ReleaseRequest::default() },
        scope,
    )
}

const SILENT: HostProbe = HostProbe { statd: run_plan::Probed::Silent(Probe::NoAnswer), lockd: LockdProbe::NoAnswer };
const NOT_ASKED: HostProbe =
    HostProbe { statd: run_plan::Probed::Silent(Probe::NotAsked), lockd: LockdProbe::NotAsked };

fn plan(
    request: &ReleaseRequest,
    scope: &Scope,
    clients: &[ClientRow],
    rows: &[LockRow],
    probes: &[HostProbe],
) -> ReleasePlan {
    let info = info(true);
    let seen = ReleaseObservation { info: &info, clients, rows: Ok(rows.to_vec()) };
    Chosen::new(request, scope, &seen).unwrap().finish("manager", rows, HashMap::new(), probes, Duration::from_secs(3))
}

#[test]
fn what_the_manager_wants_agreed_to_is_asked_with_the_rest_and_not_where_there_is_nothing() {
    let (request, scope) = of_clients(&[1]);
    let rows = [row(1, 0, LockState::Held)];
    let release = plan(&request, &scope, &[client(1)], &rows, &[SILENT]).cautioned(vec!["it may crash".to_owned()]);
    assert_eq!((release.consent().len(), release.consent()[1].as_str()), (2, "it may crash"));
    assert!(release.agreed_to().contains("it may crash"));
    let nothing = ReleaseRequest { if_held: true, ..request };
    let release = plan(&nothing, &scope, &[client(1)], &[], &[]).cautioned(vec!["it may crash".to_owned()]);
    assert!(release.is_of_nothing() && release.consent().is_empty());
}

#[test]
fn a_client_that_is_silent_wants_consent_and_one_that_may_run_wants_live_too() {
    let answers = |state| HostProbe { statd: run_plan::Probed::Answers(state), lockd: LockdProbe::NoAnswer };
    let table = [
        (SILENT, true, "nothing answered within 3 s"),
        (answers(None), false, "ANSWERS (statd: answers; lockd: no answer within 3 s)"),
        (answers(Some(NsmState(7))), false, "statd: answers, state 7"),
        (HostProbe { lockd: LockdProbe::RpcbindOnly, ..SILENT }, false, "its rpcbind answers"),
        (NOT_ASKED, false, "could not be asked"),
    ];
    for (probed, without_live, words) in table {
        let (request, scope) = of_clients(&[1]);
        let rows = [row(1, 0, LockState::Held)];
        let without = plan(&request, &scope, &[client(1)], &rows, &[probed]);
        assert!(without.consent().iter().any(|need| need.contains(words)), "{:?}", without.consent());
        assert!(without.clone().agree(false, &mut ()).is_err(), "consent is always wanted");
        assert_eq!(without.clone().agree(true, &mut ()).is_ok(), without_live, "{probed:?}");
        let with = plan(&ReleaseRequest { live: true, ..request }, &scope, &[client(1)], &rows, &[probed]);
        assert!(with.clone().agree(true, &mut ()).is_ok());
        assert!(!with.consent().iter().any(|need| need.contains("--live")), "it was given: {:?}", with.consent());
        if let Err(Failure { remedy, .. }) = (ReleasePlan { targeted: true, ..without }).refuse_live() {
            assert!(remedy.starts_with("use `nlmctl resync --client host1`"), "{remedy}");
        }
        assert!(with.agree(false, &mut ()).is_err(), "--live alone is no consent");
    }
}

#[test]
fn a_client_that_answers_by_now_is_not_what_was_agreed_to() {
    let (request, scope) = of_clients(&[1]);
    let rows = [row(1, 0, LockState::Held)];
    let consent = plan(&request, &scope, &[client(1)], &rows, &[SILENT]).agree(true, &mut ()).unwrap();
    let back = HostProbe { statd: run_plan::Probed::Answers(None), lockd: LockdProbe::NoAnswer };
    let live = ReleaseRequest { live: true, ..request.clone() };
    assert!(plan(&request, &scope, &[client(1)], &rows, &[SILENT]).is_agreed_to(&consent).is_ok());
    for request in [request, live] {
        assert!(plan(&request, &scope, &[client(1)], &rows, &[back]).is_agreed_to(&consent).is_err());
    }
}

#[test]
fn an_unlike_state_number_is_a_suspicion_and_an_equal_one_is_none() {
    let (request, scope) = of_clients(&[1]);
    let rows = [row(1, 0, LockState::Held)];
    for (state, probe, suspicions) in [(3, Probe::Answers, 0), (0, Probe::Answers, 0), (5, Probe::Suspect, 1)] {
        let probed = HostProbe { statd: run_plan::Probed::Answers(Some(NsmState(state))), ..SILENT };
        let release = plan(&request, &scope, &[client(1)], &rows, &[probed]).release;
        assert_eq!((release.clients[0].statd, release.clients[0].suspicions.len()), (probe, suspicions));
    }
}

#[test]
fn who_waits_for_a_lock_is_named_unless_it_goes_too() {
    let rows = [row(1, 0, LockState::Held), row(1, 100, LockState::Waiting), row(2, 5, LockState::Waiting)];
    let (request, scope) = of_clients(&[1]);
    let plan = plan(&request, &scope, &[client(1), client(2)], &rows, &[SILENT]);
    let release = &plan.release;
    assert_eq!((release.chosen, release.chosen_waiters), (Some(1), 1));
    let waited: Vec<String> = release.locks.iter().flat_map(|l| &l.waited_for).map(ToString::to_string).collect();
    assert_eq!(waited, ["host2/2"]);
    let seen = plan.args().clients.as_slice();
    assert_eq!((seen.len(), seen[0].locks, seen[0].waiters), (1, 1, 1));
    assert_eq!(seen[0].digest, crate::wire::control::LockDigest::of(&rows[..2]));
}

#[test]
fn a_request_that_waits_for_a_chosen_file_is_neither_chosen_nor_is_its_client_asked() {
    let file = FileHandle::new(b"file").unwrap();
    let rows = [row(1, 0, LockState::Held), row(1, 100, LockState::Waiting), row(2, 5, LockState::Waiting)];
    let request = ReleaseRequest { files: vec![file.to_string()], ..ReleaseRequest::default() };
    let scope = Scope { clients: List::default(), files: List::clipped(vec![file]) };
    let plan = plan(&request, &scope, &[client(1), client(2)], &rows, &[SILENT]);
    assert_eq!(plan.args().locks.as_slice(), &rows[..1]);
    let release = &plan.release;
    assert_eq!((release.chosen, release.chosen_waiters, release.clients.len()), (Some(1), 0, 1));
    let waited: Vec<String> = release.locks.iter().flat_map(|l| &l.waited_for).map(ToString::to_string).collect();
    assert_eq!(waited, ["host2/2"]);
}

#[test]
fn nothing_to_release_is_an_error_unless_that_was_said_to_be_all_right() {
    let (request, scope) = of_clients(&[1]);
    let info = info(true);
    let seen = ReleaseObservation { info: &info, clients: &[client(1)], rows: Ok(Vec::new()) };
    assert_eq!(Chosen::new(&request, &scope, &seen).unwrap_err().kind, FailureKind::Usage);
    let plan = plan(&ReleaseRequest { if_held: true, ..request }, &scope, &[client(1)], &[], &[]);
    assert!(plan.is_of_nothing() && plan.consent().is_empty());
    assert_eq!(plan.report().release.exit, Some(0));
}

#[test]
fn a_manager_that_knows_no_owners_frees_whole_clients_and_nothing_else() {
    let (request, scope) = of_clients(&[1]);
    let (info, clients) = (info(false), [client(1), client(2)]);
    let seen =
        || ReleaseObservation { info: &info, clients: &clients, rows: Err("manager 1 does not tell".to_owned()) };
    let chosen = Chosen::new(&request, &scope, &seen()).unwrap();
    assert_eq!(chosen.clients().len(), 1);
    let plan = chosen.finish("manager", &[], HashMap::new(), &[SILENT], Duration::from_secs(3));
    assert_eq!((plan.release.chosen, plan.args().clients.as_slice()[0].locks), (None, 0));
    assert!(plan.consent()[0].contains("whatever is held of host1"), "{:?}", plan.consent());
    let done = Released { locks: 1, rows: List::clipped(vec![row(1, 0, LockState::Held)]), ..Released::default() };
    let report = plan.ended("id", Stamp(0), &done.clone().into());
    assert_eq!(report.release.locks.len(), 1, "what it saw go is told");
    assert_eq!(report.release.outcome, ReleaseOutcome::Released);
    let cut_off = Freed { unverified: true, ..Released { left: 1, ..done }.into() };
    let report = plan.ended("id", Stamp(0), &cut_off);
    assert_eq!((report.release.outcome, report.release.exit), (ReleaseOutcome::Unverified, Some(1)));
    assert_eq!((report.release.locks.len(), report.release.released.unwrap().left), (1, 1));
    let narrower = ReleaseRequest { ranges: vec![ByteRange::ALL], ..request };
    let error = Chosen::new(&narrower, &scope, &seen()).unwrap_err();
    assert_eq!(error.kind, FailureKind::Usage, "{error}");
}

#[test]
fn a_client_without_an_address_is_asked_to_be_freed_by_its_name() {
    let (request, scope) = of_clients(&[1]);
    let (request, info) = (ReleaseRequest { if_held: true, ..request }, info(false));
    let clients = [ClientRow { addresses: List::default(), ..client(1) }];
    let seen = ReleaseObservation { info: &info, clients: &clients, rows: Err("manager 1 does not tell".to_owned()) };
    let chosen = Chosen::new(&request, &scope, &seen).unwrap();
    let plan = chosen.finish("manager", &[], HashMap::new(), &[NOT_ASKED], Duration::from_secs(3));
    assert!(!plan.is_of_nothing() && plan.agree(true, &mut ()).is_err(), "it could not be asked");
    let asked: Vec<_> = plan.args().clients.as_slice().iter().map(|client| client.name.clone()).collect();
    assert_eq!(asked, [name(1)]);
}

#[test]
fn more_than_fits_into_one_call_is_told_before_it_is_made() {
    let rows: Vec<_> = (0..=RELEASE as u64).map(|n| row(1, n * 10, LockState::Held)).collect();
    let (mut request, scope) = of_clients(&[1]);
    request.owners = vec![OwnerChoice { svid: Svid(1), oh: None }];
    let (info, clients) = (info(true), [client(1)]);
    let error =
        Chosen::new(&request, &scope, &ReleaseObservation { info: &info, clients: &clients, rows: Ok(rows.clone()) });
    assert!(error.unwrap_err().to_string().contains("4096 single locks"));
    request.owners.clear();
    assert!(
        Chosen::new(&request, &scope, &ReleaseObservation { info: &info, clients: &clients, rows: Ok(rows) }).is_ok()
    );
}
