//! Plans from what was seen: a table of every consent and refusal.

use super::*;
use crate::report::{Controller, FailureKind};
use crate::wire::control::{Capabilities, Counts, Grace, LockState, RunId, RunStatus};
use crate::wire::types::Address;
use crate::wire::xdr::{List, Maybe, Text};

fn name(text: &str) -> CallerName {
    CallerName::new(text).unwrap()
}

fn info() -> Info {
    Info {
        software: Text::clipped("nlmd 0.1.0"),
        instance: InstanceId([1; 16]),
        nsm_state: NsmState(7),
        names: List::clipped(vec![name("nas.example.org"), name("nas")]),
        capabilities: Capabilities { release: false, ..Capabilities::COOPERATES },
        domains: List::clipped(vec![Text::clipped("nlm")]),
    }
}

fn status() -> Status {
    Status {
        instance: InstanceId([1; 16]),
        nsm_state: NsmState(7),
        grace: Grace::Open,
        grace_remaining_ms: 0,
        clients: 3,
        monitored: 3,
        locks: 6,
        unmonitored: 0,
        waiters: 0,
        run: Maybe(None),
        cursor: 1,
    }
}

fn client(host: &str, address: &str, locks: u64, unmonitored: u64) -> ClientRow {
    let (nsm_state, monitored) = (NsmState(5), locks > unmonitored || locks == 0);
    ClientRow { nsm_state, monitored, locks, unmonitored, ..ClientRow::sample(host, address) }
}

fn three() -> Vec<ClientRow> {
    vec![
        client("web.example.org", "192.0.2.11", 3, 0),
        client("db.example.org", "192.0.2.12", 2, 0),
        client("idle.example.org", "192.0.2.13", 0, 0),
    ]
}

fn draft(request: &Request, clients: &[ClientRow], mounts: &[LocalMount]) -> Result<Draft, Failure> {
    let (info, status) = (info(), status());
    let scope = scope(request, &info)?;
    Draft::new(request, scope, Observation { info: &info, status: &status, clients, locks: None, mounts })
}

const UP: Probed = Probed::Answers(Some(NsmState(5)));
const DOWN: Probed = Probed::Silent(Probe::NoAnswer);

fn plan(request: &Request, probes: &[Probed]) -> Plan {
    draft(request, &three(), &[]).unwrap().finish(probes)
}

#[track_caller]
fn usage_of<T: std::fmt::Debug>(result: Result<T, Failure>) -> (String, String) {
    match result {
        Err(Failure { kind: FailureKind::Usage, message, remedy }) => (message, remedy),
        other => panic!("not a usage error: {other:?}"),
    }
}

/// Of a plan that is made, and shown, all the same.
#[track_caller]
fn refused(plan: &Plan) -> String {
    assert_eq!(plan.dry_run_exit(), 4);
    assert_eq!(plan.agree(true, &mut ()).unwrap_err(), plan.refusal.clone().unwrap());
    refusal_of::<()>(Err(plan.refusal.clone().unwrap()))
}

#[track_caller]
fn refusal_of<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result {
        Err(Failure { kind: FailureKind::Refused, message, remedy }) => {
            assert!(!remedy.is_empty());
            message
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_run_over_everything_tells_every_monitored_client_and_is_strict() {
    let plan = plan(&Request::default(), &[UP, UP, UP]);
    assert_eq!(plan.mode, Mode::Strict);
    assert_eq!(plan.clients.len(), 3, "the one without a known lock too");
    assert_eq!(plan.in_scope, 5);
    assert_eq!(plan.consent, Vec::<String>::new());
    assert_eq!(plan.dry_run_exit(), 0);
    assert_eq!(plan.names, info().names.into_vec());
    assert_eq!((plan.grace, plan.grace_max), (Duration::from_secs(90), Duration::from_mins(3)));
    assert!(plan.agree(false, &mut ()).unwrap().covers(&plan.fingerprint));
}

#[test]
fn a_client_that_does_not_answer_is_kept_by_default_and_seen_in_the_dry_run() {
    let plan = plan(&Request::default(), &[UP, DOWN, UP]);
    assert_eq!((plan.untellable_locks(), plan.dry_run_exit()), (Some(2), 3));
    let said = plan.effects.iter().find(|effect| effect.contains("are kept")).unwrap();
    assert!(said.starts_with("2 locks of db.example.org are kept"), "{said}");
    assert_eq!(plan.may_drop, []);
    assert_eq!(plan.consent, Vec::<String>::new());
}

struct AtTerminal(&'static str, String);

impl crate::resync::consent::Person for AtTerminal {
    fn is_there(&self) -> bool {
        true
    }
    fn ask(&mut self, question: &str) -> std::io::Result<String> {
        self.1 = question.to_owned();
        Ok(self.0.to_owned())
    }
}

#[test]
fn a_run_over_everything_is_asked_about_on_a_terminal_and_a_narrower_one_is_not() {
    let everything = plan(&Request::default(), &[UP; 3]);
    let mut person = AtTerminal("n\n", String::new());
    assert!(everything.agree(false, &mut person).is_err());
    assert!(person.1.contains("over everything"), "{}", person.1);
    assert!(everything.agree(true, &mut AtTerminal("", String::new())).is_ok());
    assert!(everything.agree(false, &mut ()).is_ok(), "without a terminal it goes on");
    let one = plan(&Request { clients: vec!["web".into()], ..Request::default() }, &[UP]);
    assert!(one.agree(false, &mut AtTerminal("n\n", String::new())).is_ok());
}

#[test]
fn where_begin_cannot_be_undone_yes_is_wanted_without_a_terminal() {
    let plan = of_a_manager_that_frees_at_begin(&Request::default(), 0, &[UP, UP]).unwrap();
    assert!(plan.consent.iter().any(|need| need.contains("cannot be aborted")), "{:?}", plan.consent);
    assert!(plan.agree(false, &mut ()).is_err());
    assert!(plan.agree(true, &mut ()).is_ok());
}

#[test]
fn a_client_without_locks_that_does_not_answer_costs_nothing() {
    assert_eq!(plan(&Request::default(), &[UP, UP, DOWN]).dry_run_exit(), 0);
}

#[test]
fn dropping_the_locks_of_unreachable_clients_names_them_and_wants_consent() {
    let request = Request { unreachable: Unreachable::Drop, ..Request::default() };
    let drop = plan(&request, &[UP, DOWN, DOWN]);
    assert_eq!(drop.may_drop.len(), 1, "the one without locks has nothing to drop");
    assert!(drop.consent[0].contains("db.example.org") && drop.consent[0].contains("2 locks"), "{:?}", drop.consent);
    assert!(refusal_of(drop.agree(false, &mut ())).contains("db.example.org"));
    assert!(drop.agree(true, &mut ()).is_ok());
    assert_eq!(plan(&request, &[UP, UP, UP]).consent, Vec::<String>::new(), "nobody is unreachable");
}

#[test]
fn a_client_that_could_not_be_asked_is_not_unreachable_and_never_dropped_for_it() {
    let request = Request { unreachable: Unreachable::Drop, ..Request::default() };
    let not_asked = Probed::Silent(Probe::NotAsked);
    let plan_of = |probes: &[Probed]| plan(&request, probes);
    let none = plan_of(&[not_asked, not_asked, UP]);
    assert_eq!((none.may_drop.len(), none.consent.len(), none.untellable_locks()), (0, 0, Some(0)));
    assert_eq!(none.dry_run_exit(), 3, "nor is it known to reclaim");
    let one = plan_of(&[not_asked, DOWN, UP]);
    assert_eq!(one.may_drop.len(), 1);
    assert!(one.consent[0].contains("2 locks of 1 client "), "{:?}", one.consent);
}

#[test]
fn dropping_silent_clients_and_unmonitored_locks_want_consent_each() {
    let silent = plan(&Request { silent: Silent::Drop, ..Request::default() }, &[UP, UP, UP]);
    assert!(silent.consent[0].contains("--silent drop"));
    let request = Request { include_unmonitored: true, ..Request::default() };
    let clients = [client("web", "192.0.2.11", 5, 2)];
    let unmonitored = draft(&request, &clients, &[]).unwrap().finish(&[UP]);
    assert!(unmonitored.consent[0].contains("2 unmonitored locks"), "{:?}", unmonitored.consent);
    assert_eq!((unmonitored.in_scope, unmonitored.unmonitored, unmonitored.dry_run_exit()), (5, 2, 3));
    let without = draft(&Request::default(), &clients, &[]).unwrap().finish(&[UP]);
    assert_eq!((without.in_scope, without.unmonitored, without.dry_run_exit()), (3, 2, 0));
}

#[test]
fn another_state_number_makes_a_suspect_and_an_unknown_one_does_not() {
    let probes = [Probed::Answers(Some(NsmState(9))), Probed::Answers(Some(NsmState(0))), Probed::Answers(None)];
    let plan = plan(&Request::default(), &probes);
    assert_eq!(
        plan.clients.iter().map(|client| !client.suspicions.is_empty()).collect::<Vec<_>>(),
        [true, false, false]
    );
    assert_eq!(plan.clients[0].probe, Probe::Suspect);
}

#[test]
fn a_narrower_scope_is_targeted_and_names_full_short_or_address() {
    for text in ["db.example.org", "db", "DB", "192.0.2.12"] {
        let request = Request { clients: vec![text.into()], ..Request::default() };
        let plan = draft(&request, &three(), &[]).unwrap().finish(&[UP]);
        assert_eq!(plan.mode, Mode::Targeted);
        assert_eq!(plan.clients.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["db.example.org"], "{text}");
        assert_eq!(plan.in_scope, 2);
    }
}

#[test]
fn an_unknown_client_is_a_usage_error_that_names_near_ones() {
    let request = Request { clients: vec!["dbb.example.org".into()], ..Request::default() };
    let (message, remedy) = usage_of(draft(&request, &three(), &[]));
    assert!(message.contains("dbb.example.org"));
    assert!(remedy.contains("db.example.org"), "{remedy}");
    let far = Request { clients: vec!["zzz".into()], ..Request::default() };
    assert!(usage_of(draft(&far, &three(), &[])).1.contains("nlmctl clients"));
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let with = |change: fn(&mut Request)| {
        let mut request = Request::default();
        change(&mut request);
        usage_of(draft(&request, &three(), &[])).0
    };
    assert!(with(|r| r.exports.push("/srv".into())).contains("--export /srv"));
    assert!(with(|r| r.files.push("/srv/file".into())).contains("/srv/file"));
    assert!(with(|r| r.files.push("ab".repeat(1_025))).contains("--file"));
    assert!(with(|r| r.clients.push("a\nb".into())).contains("--client"));
    assert!(with(|r| r.grace = Duration::ZERO).contains("--grace"));
    assert!(with(|r| r.grace_max = Some(Duration::from_secs(1))).contains("--grace-max"));
    assert!(
        with(|r| {
            r.mode = Some(Mode::Strict);
            r.clients.push("db".into());
        })
        .contains("strict")
    );
}

#[test]
fn a_long_grace_lengthens_the_latest_deadline() {
    let request = Request { grace: Duration::from_mins(10), ..Request::default() };
    assert_eq!(plan(&request, &[UP, UP, UP]).grace_max, Duration::from_mins(10));
}

#[test]
fn a_scope_of_files_counts_the_listed_locks_and_tells_only_their_clients() {
    let request = Request { files: vec!["66".into()], ..Request::default() };
    let (info, status, clients) = (info(), status(), three());
    let lock = |state, monitored| {
        let mut lock = LockRow { state, monitored, ..LockRow::sample(1, 0, u64::MAX) };
        lock.owner.name = name("db.example.org");
        lock.owner.address = Address("192.0.2.12".parse().unwrap());
        lock
    };
    let locks = [lock(LockState::Held, true), lock(LockState::Held, false), lock(LockState::Waiting, true)];
    let scope = scope(&request, &info).unwrap();
    let seen = Observation { info: &info, status: &status, clients: &clients, locks: Some(&locks), mounts: &[] };
    let plan = Draft::new(&request, scope, seen).unwrap().finish(&[UP]);
    assert_eq!((plan.in_scope, plan.unmonitored), (1, 1), "a waiter is no lock");
    assert_eq!(plan.clients.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["db.example.org"]);
}

#[test]
fn a_file_on_which_nobody_has_a_lock_is_refused_by_name() {
    let (info, status, clients) = (info(), status(), three());
    let held = LockRow::sample(1, 0, 9);
    let waiting = LockRow { state: LockState::Waiting, ..held.clone() };
    let draft = |files: &[&str], clients_asked: &[&str], locks: &[LockRow]| {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let request = Request { files: texts(files), clients: texts(clients_asked), ..Request::default() };
        let scope = scope(&request, &info).unwrap();
        let seen = Observation { info: &info, status: &status, clients: &clients, locks: Some(locks), mounts: &[] };
        Draft::new(&request, scope, seen)
    };
    assert!(draft(&["66"], &[], std::slice::from_ref(&held)).is_ok());
    for (files, locks) in
        [(&["deadbeef"][..], &[held.clone()][..]), (&["66", "deadbeef"], &[held]), (&["66"], &[waiting])]
    {
        let (message, remedy) = usage_of(draft(files, &[], locks));
        assert!(message.contains("nobody") && message.contains(files[files.len() - 1]), "{message}");
        assert!(remedy.contains("nlmctl locks"), "{remedy}");
    }
    let (message, _) = usage_of(draft(&["66"], &["web.example.org"], &[]));
    assert!(message.contains("none of these clients"), "{message}");
}

#[test]
fn another_run_or_a_grace_period_refuses() {
    let (info, clients) = (info(), three());
    let recovering = Status { grace: Grace::Recovery, ..status() };
    let mut busy = status();
    let request = Request::default();
    let begin = |status: &Status| {
        let seen = Observation { info: &info, status, clients: &clients, locks: None, mounts: &[] };
        refusal_of(Draft::new(&request, Scope::default(), seen))
    };
    assert!(begin(&recovering).contains("grace"));
    busy.run = Maybe(Some(RunStatus {
        run: RunId([9; 16]),
        mode: Mode::Strict,
        nsm_state: NsmState(9),
        elapsed_ms: 1,
        remaining_ms: 5,
        latest_remaining_ms: 9,
        last_reclaim_ms: Maybe(None),
        counts: Counts::default(),
        notices_begun: true,
    }));
    assert!(begin(&busy).contains(&RunId([9; 16]).to_string()));

    // Only a remedy that can work is named.
    let of = |controller| {
        let Failure { message, remedy, .. } = refuse_busy(&busy, &info.capabilities, controller).unwrap_err();
        (message, remedy)
    };
    let (message, remedy) = of(Some(Controller { alive: true, pid: Some(77) }));
    assert!(message.ends_with("; nlmctl (pid 77) works with the record of this run"), "{message}");
    // It may work on a run of another lock manager with the same record.
    let until =
        "wait until that nlmctl has ended; if the run is still active then, resume it (`nlmctl resync --resume`)";
    assert_eq!(remedy, format!("{until}, or abort it (`nlmctl abort`)"));
    let (message, remedy) = of(Some(Controller::GONE));
    assert!(message.ends_with("; no nlmctl works on it"), "{message}");
    assert_eq!(remedy, "resume it (`nlmctl resync --resume`), or abort it (`nlmctl abort`)");
}

#[test]
fn this_hosts_own_nfs_mounts_refuse_unless_agreed_to_or_all_is_loopback() {
    let mount = |from_self| LocalMount { at: "/mnt".into(), from: "other:/srv".into(), from_self };
    let refused = refusal_of(draft(&Request::default(), &three(), &[mount(false)]));
    assert!(refused.contains("other:/srv at /mnt"), "{refused}");
    let agreed = Request { own_locks_lost: true, ..Request::default() };
    assert!(draft(&agreed, &three(), &[mount(false)]).is_ok());
    let local = [client("demo", "127.0.0.9", 1, 0)];
    assert!(draft(&Request::default(), &local, &[mount(false)]).is_ok());
    refusal_of(draft(&Request::default(), &local, &[mount(true)]));
}

#[test]
fn the_fingerprint_covers_what_is_agreed_to_and_nothing_else() {
    let drop = Request { unreachable: Unreachable::Drop, ..Request::default() };
    let base = plan(&drop, &[DOWN, DOWN, UP]);
    assert_eq!(base.fingerprint.len(), 64);
    let mut clients = three();
    clients.push(client("new.example.org", "192.0.2.14", 9, 0));
    clients.reverse();
    let others = draft(&drop, &clients, &[]).unwrap().finish(&[UP, UP, DOWN, DOWN]);
    assert_eq!(others.fingerprint, base.fingerprint, "new clients, more locks, another order");
    let longer = Request { grace: Duration::from_secs(91), ..drop.clone() };
    assert_eq!(plan(&longer, &[DOWN, DOWN, UP]).fingerprint, base.fingerprint);

    let differ = [
        plan(&drop, &[UP, DOWN, UP]),
        plan(&Request::default(), &[DOWN, DOWN, UP]),
        plan(&Request { silent: Silent::Keep, ..drop.clone() }, &[DOWN, DOWN, UP]),
        plan(&Request { mode: Some(Mode::Targeted), ..drop.clone() }, &[DOWN, DOWN, UP]),
        plan(&Request { clients: vec!["web".into()], ..drop.clone() }, &[DOWN]),
    ];
    for other in differ {
        assert_ne!(other.fingerprint, base.fingerprint);
        assert!(!base.agree(true, &mut ()).unwrap().covers(&other.fingerprint));
    }
}

#[test]
fn a_manager_that_cannot_mark_says_what_does_not_hold() {
    let mut weak = info();
    weak.capabilities.mark = false;
    weak.capabilities.targeted = false;
    let (status, clients) = (status(), three());
    let seen = Observation { info: &weak, status: &status, clients: &clients, locks: None, mounts: &[] };
    let plan = Draft::new(&Request::default(), Scope::default(), seen).unwrap().finish(&[]);
    assert!(plan.caveats.iter().any(|c| c.contains("does not mark locks")), "{:?}", plan.caveats);
    assert!(!plan.caveats.iter().any(|c| c.contains("statement")), "a word of no shipped document: {:?}", plan.caveats);
    assert!(plan.clients.iter().all(|c| c.probe == Probe::NotAsked), "a probe that is missing");
    let narrow = Request { clients: vec!["db".into()], ..Request::default() };
    let scope = scope(&narrow, &weak).unwrap();
    usage_of(Draft::new(&narrow, scope, seen));
}

/// What knfsd can do: no owners, and `begin` frees everything.
fn of_a_manager_that_frees_at_begin(request: &Request, unmonitored: u64, probes: &[Probed]) -> Result<Plan, Failure> {
    frees_at_begin(request, &Status { unmonitored, ..status() }, true, probes)
}

fn frees_at_begin(request: &Request, status: &Status, list_locks: bool, probes: &[Probed]) -> Result<Plan, Failure> {
    let mut info = info();
    let capabilities = &mut info.capabilities;
    (capabilities.mark, capabilities.knows_owners, capabilities.begin_releases) = (false, false, true);
    (capabilities.release, capabilities.list_locks) = (true, list_locks);
    let clients = vec![client("web.example.org", "192.0.2.11", 0, 0), client("db.example.org", "192.0.2.12", 0, 0)];
    let seen = Observation { info: &info, status, clients: &clients, locks: None, mounts: &[] };
    Ok(Draft::new(request, scope(request, &info)?, seen)?.finish(probes))
}

#[test]
fn where_begin_frees_the_locks_nothing_that_keep_promises_can_be_lost() {
    let keep = Request::default();
    let words = refused(&of_a_manager_that_frees_at_begin(&keep, 0, &[UP, DOWN]).unwrap());
    assert!(words.contains("db.example.org") && words.contains("cannot be kept"), "{words}");
    let plan = of_a_manager_that_frees_at_begin(&keep, 0, &[UP, DOWN]).unwrap();
    assert_eq!(plan.clients.len(), 2, "the plan is made all the same");
    assert!(plan.refusal.unwrap().remedy.contains("`nlmctl release --client db.example.org`"));
    let unknown = Probed::Silent(Probe::NameUnknown);
    refused(&of_a_manager_that_frees_at_begin(&keep, 0, &[unknown, UP]).unwrap());
    let keep_silent = Request { silent: Silent::Keep, ..Request::default() };
    assert!(refused(&of_a_manager_that_frees_at_begin(&keep_silent, 0, &[UP, UP]).unwrap()).contains("--silent keep"));
    let drop = Request { unreachable: Unreachable::Drop, ..Request::default() };
    let plan = of_a_manager_that_frees_at_begin(&drop, 0, &[UP, DOWN]).unwrap();
    assert!(plan.consent[0].contains("drop all locks of 1 client"), "{:?}", plan.consent);
    assert_eq!((plan.may_drop.len(), plan.untellable_locks()), (1, None));
    assert!(plan.agree(false, &mut ()).is_err());
}

#[test]
fn where_begin_frees_the_locks_those_of_a_client_that_could_not_be_asked_cannot_be_kept_either() {
    let not_asked = Probed::Silent(Probe::NotAsked);
    let words = refused(&of_a_manager_that_frees_at_begin(&Request::default(), 0, &[UP, not_asked]).unwrap());
    assert!(words.contains("1 client that cannot be notified now (db.example.org)"), "{words}");
}

#[test]
fn where_begin_frees_the_locks_a_client_that_could_not_be_asked_is_named_before_its_are_lost() {
    let not_asked = Probed::Silent(Probe::NotAsked);
    let drop = Request { unreachable: Unreachable::Drop, ..Request::default() };
    let plan = of_a_manager_that_frees_at_begin(&drop, 0, &[DOWN, not_asked]).unwrap();
    let lost = "drop all locks of 2 clients that cannot be notified (web.example.org, db.example.org)";
    assert!(plan.consent[0].contains(lost), "{:?}", plan.consent);
    assert!(
        plan.effects.iter().any(|effect| effect.contains("All locks of web.example.org, db.example.org are dropped"))
    );
    assert!(plan.report().plan.clients.iter().all(|client| client.untellable));
    let reached = of_a_manager_that_frees_at_begin(&drop, 0, &[DOWN, UP]).unwrap();
    assert_eq!((plan.may_drop.len(), reached.may_drop.len()), (2, 1));
    assert_ne!(plan.fingerprint, reached.fingerprint, "what is agreed to is another thing");
}

#[test]
fn where_locks_cannot_be_listed_none_is_taken_for_no_lock() {
    let nothing_seen = Status { locks: 0, ..status() };
    let of = |request: &Request, probes: &[Probed]| frees_at_begin(request, &nothing_seen, false, probes).unwrap();
    for silent in [DOWN, Probed::Silent(Probe::NotAsked)] {
        assert!(refused(&of(&Request::default(), &[UP, silent])).contains("db.example.org"));
    }
    let plan = of(&Request::default(), &[UP, UP]);
    assert_eq!((plan.dry_run_exit(), plan.all_reclaimable(), plan.report().plan.locks_listed), (6, true, false));
    let words = plan.consent.concat();
    assert!(words.contains("how many is not known") && words.contains("exit code 6"), "{words}");
    assert!(!words.contains("0 locks"), "{words}");
    let drop = Request { unreachable: Unreachable::Drop, silent: Silent::Drop, ..Request::default() };
    let plan = of(&drop, &[UP, DOWN]);
    assert!(!plan.all_reclaimable() && !plan.consent.concat().contains("0 locks"), "{:?}", plan.consent);
    let some = frees_at_begin(&drop, &status(), false, &[UP, UP]).unwrap();
    assert!(some.consent.concat().contains("6 locks and those that cannot be listed"), "{:?}", some.consent);
}

#[test]
fn a_manager_that_marks_its_locks_counts_them_also_if_it_lists_none() {
    let mut info = info();
    info.capabilities.list_locks = false;
    let seen = Observation { info: &info, status: &status(), clients: &three(), locks: None, mounts: &[] };
    let plan = Draft::new(&Request::default(), Scope::default(), seen).unwrap().finish(&[UP; 3]);
    assert_eq!((plan.locks_listed, plan.dry_run_exit()), (true, 0));
}

#[test]
fn where_begin_frees_the_locks_those_that_nobody_can_be_told_of_want_consent() {
    let words = refused(&of_a_manager_that_frees_at_begin(&Request::default(), 2, &[UP, UP]).unwrap());
    assert!(words.contains("2 locks have no recorded client"), "{words}");
    let include = Request { include_unmonitored: true, ..Request::default() };
    let plan = of_a_manager_that_frees_at_begin(&include, 2, &[UP, UP]).unwrap();
    assert_eq!((plan.in_scope, plan.unmonitored, plan.consent.len()), (6, 2, 2));
}

#[test]
fn a_manager_that_knows_no_owners_counts_its_locks_for_no_client() {
    let plan = of_a_manager_that_frees_at_begin(&Request::default(), 0, &[UP, UP]).unwrap();
    assert_eq!(plan.in_scope, 6);
    assert_eq!(plan.clients.iter().map(|client| client.locks).collect::<Vec<_>>(), [None, None]);
    assert_eq!(plan.dry_run_exit(), 0);
    for words in ["cannot be aborted", "does not protect its range", "does not tell a run who owns a lock"] {
        assert!(plan.caveats.iter().any(|caveat| caveat.contains(words)), "{words}: {:?}", plan.caveats);
    }
}

#[test]
fn a_client_of_unknown_address_is_not_taken_for_this_host() {
    let mut unknown = client("gone.example.org", "127.0.0.9", 1, 0);
    let elsewhere = LocalMount { at: "/mnt".into(), from: "other:/srv".into(), from_self: false };
    assert!(draft(&Request::default(), std::slice::from_ref(&unknown), std::slice::from_ref(&elsewhere)).is_ok());
    unknown.addresses = List::default();
    refusal_of(draft(&Request::default(), &[unknown], &[elsewhere]));
}

#[test]
fn a_client_that_called_several_addresses_is_named_with_what_that_means() {
    let calls = |clients: &mut Vec<ClientRow>, n: usize| {
        let called = (1..=n).map(|host| Address(std::net::IpAddr::from([192, 0, 2, u8::try_from(host).unwrap()])));
        clients[0].server_addresses = List::clipped(called.collect());
        clients[2].server_addresses = clients[0].server_addresses.clone();
    };
    let notes = |request: &Request, n| {
        let mut clients = three();
        calls(&mut clients, n);
        let plan = draft(request, &clients, &[]).unwrap().finish(&[UP; 3]);
        plan.clients.into_iter().map(|client| client.note).collect::<Vec<_>>()
    };
    assert_eq!(notes(&Request::default(), 1), [None, None, None]);
    let named = Request { clients: vec!["web".to_owned()], ..Request::default() };
    for (request, n, said) in [
        (Request::default(), 2, "are kept"),
        (Request { silent: Silent::Keep, ..Request::default() }, 3, "are kept"),
        (Request { silent: Silent::Drop, ..Request::default() }, 2, "are dropped even so (--silent drop)"),
        (named, 2, "are dropped even so (the scope names the client)"),
    ] {
        let notes = notes(&request, n);
        let note = notes[0].as_deref().unwrap();
        assert!(note.contains("192.0.2.1, 192.0.2.2") && note.contains(said), "{note}");
        assert!(notes[1..].iter().all(Option::is_none), "it called one, or has no lock in scope: {notes:?}");
    }
}

#[test]
fn where_begin_frees_the_locks_what_is_not_reclaimed_through_an_address_is_lost() {
    let mut info = info();
    info.capabilities.begin_releases = true;
    let mut clients = three();
    let called = ["192.0.2.1", "2001:db8::1"].map(|address| Address(address.parse().unwrap()));
    clients[1].server_addresses = List::clipped(called.to_vec());
    let seen = Observation { info: &info, status: &status(), clients: &clients, locks: None, mounts: &[] };
    let plan = Draft::new(&Request::default(), Scope::default(), seen).unwrap().finish(&[UP; 3]);
    let note = plan.clients[1].note.as_deref().unwrap();
    assert!(note.contains("2001:db8::1") && note.contains("are lost"), "{note}");
}
