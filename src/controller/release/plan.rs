//! What is chosen, who waits for it, and what wants consent. Pure.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::report::{
    Failure, Heard, LockListing, LockdProbe, Probe, Release, ReleaseClient, ReleaseLock, ReleaseOutcome, ReleaseReport,
    ReleasedCounts, ScopeReport, Stamp, Waiting, number,
};
use crate::resync::consent::{Consent, Person};
use crate::resync::plan::{self as run_plan, names};
use crate::wire::control::{
    ClientRow, ClientSeen, Info, LockKind, LockRow, LockState, PAGE, RELEASE, ReleaseArgs, Released, Scope,
};
use crate::wire::types::{ByteRange, CallerName, FileHandle, OwnerHandle, Svid};
use crate::wire::xdr::List;

/// A process, as `--owner` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerChoice {
    /// Its number.
    pub svid: Svid,
    /// Its handle; any, if none was given.
    pub oh: Option<OwnerHandle>,
}

impl OwnerChoice {
    fn is(&self, row: &LockRow) -> bool {
        self.svid == row.owner.svid && self.oh.as_ref().is_none_or(|oh| *oh == row.owner.oh)
    }
}

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// `--client`: names or addresses.
    pub clients: Vec<String>,
    /// `--export`: paths.
    pub exports: Vec<String>,
    /// `--file`: handles in hexadecimal, or paths.
    pub files: Vec<String>,
    /// `--owner`: only locks of these processes.
    pub owners: Vec<OwnerChoice>,
    /// `--range`: only locks of exactly these bytes.
    pub ranges: Vec<ByteRange>,
    /// `--live`: also of clients that answer.
    pub live: bool,
}

impl Request {
    /// Clients, exports and files as those of a run.
    pub(super) fn as_run(&self) -> run_plan::Request {
        run_plan::Request {
            clients: self.clients.clone(),
            exports: self.exports.clone(),
            files: self.files.clone(),
            ..run_plan::Request::default()
        }
    }
    /// Whether it is all that some clients have.
    fn is_of_whole_clients(&self) -> bool {
        self.exports.is_empty() && self.files.is_empty() && self.owners.is_empty() && self.ranges.is_empty()
    }
    fn wants(&self, row: &LockRow) -> bool {
        (self.owners.is_empty() || self.owners.iter().any(|owner| owner.is(row)))
            && (self.ranges.is_empty() || self.ranges.contains(&row.range))
    }
    /// What narrows the scope, in words.
    fn only(&self) -> Vec<String> {
        let owners = self.owners.iter().map(|owner| match &owner.oh {
            Some(oh) => format!("owner {}:{oh}", owner.svid),
            None => format!("owner {}", owner.svid),
        });
        owners.chain(self.ranges.iter().map(|range| format!("bytes {range}"))).collect()
    }
    fn scope(&self) -> ScopeReport {
        ScopeReport { clients: self.clients.clone(), exports: self.exports.clone(), files: self.files.clone() }
    }
}

/// What was seen of the manager.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) info: &'a Info,
    pub(super) clients: &'a [ClientRow],
    /// The locks in scope; none where the manager does not know owners.
    pub(super) rows: Vec<LockRow>,
}

/// What a client's statd and lockd said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probed {
    pub(super) statd: run_plan::Probed,
    pub(super) lockd: LockdProbe,
}

/// What is chosen; it lacks who waits for it, and what the clients say.
#[derive(Debug)]
pub(super) struct Chosen {
    args: ReleaseArgs,
    scope: ScopeReport,
    only: Vec<String>,
    live: bool,
    knows_owners: bool,
    whole: bool,
    clients: Vec<ClientRow>,
    /// Of each client.
    rows: Vec<Vec<LockRow>>,
}

fn nothing(why: &str) -> Failure {
    Failure::usage(format!("no lock is selected: {why}"), "see `nlmctl locks`, with the same --client and --file")
}

impl Chosen {
    pub(super) fn new(request: &Request, scope: &Scope, seen: &Seen<'_>) -> Result<Self, Failure> {
        if request.clients.is_empty() && request.exports.is_empty() && request.files.is_empty() {
            return Err(Failure::usage(
                "nothing says whose locks to release",
                "name a client (--client) or a file (--file)",
            ));
        }
        let knows_owners = seen.info.capabilities.knows_owners;
        let whole = request.is_of_whole_clients();
        if !knows_owners && !whole {
            return Err(Failure::usage(
                format!(
                    "{} does not tell whose locks are, so it frees whole clients only",
                    seen.info.software.as_str()
                ),
                "name clients (--client), and neither --export, --file, --owner nor --range",
            ));
        }
        let mut of_client: HashMap<(&CallerName, IpAddr), Vec<LockRow>> = HashMap::new();
        for row in seen.rows.iter().filter(|row| request.wants(row)) {
            of_client.entry((&row.owner.name, row.owner.address.0)).or_default().push(row.clone());
        }
        let wanted = scope.clients.as_slice();
        let (mut clients, mut rows) = (Vec::new(), Vec::new());
        for client in seen.clients {
            if !wanted.is_empty() && !wanted.iter().any(|reference| names(reference, client)) {
                continue;
            }
            let Some(first) = client.addresses.as_slice().first() else { continue };
            let its = of_client.remove(&(&client.name, first.0)).unwrap_or_default();
            if !its.is_empty() || !knows_owners {
                clients.push(client.clone());
                rows.push(its);
            }
        }
        if clients.is_empty() {
            return Err(nothing(if whole { "the client has none" } else { "none is as asked for" }));
        }
        let seen_of = |(client, rows): (&ClientRow, &Vec<LockRow>)| {
            let address = client.addresses.as_slice().first()?;
            Some(ClientSeen::new(client.name.clone(), *address, rows))
        };
        let too_many = |what: &str, max: usize| {
            Failure::usage(format!("more than {max} {what} are chosen"), "choose fewer at a time")
        };
        let (whole_clients, single) = if whole {
            (clients.iter().zip(&rows).filter_map(seen_of).collect(), Vec::new())
        } else {
            (Vec::new(), rows.iter().flatten().cloned().collect())
        };
        let args = ReleaseArgs {
            instance: seen.info.instance,
            clients: List::new(whole_clients).map_err(|_| too_many("clients", PAGE))?,
            locks: List::new(single).map_err(|_| too_many("single locks", RELEASE))?,
        };
        Ok(Self {
            args,
            scope: request.scope(),
            only: request.only(),
            live: request.live,
            knows_owners,
            whole,
            clients,
            rows,
        })
    }

    /// Whom to ask.
    pub(super) fn clients(&self) -> &[ClientRow] {
        &self.clients
    }

    /// The files with chosen locks, each once.
    pub(super) fn files(&self) -> Vec<FileHandle> {
        let files: HashSet<&FileHandle> = self.rows.iter().flatten().map(|row| &row.file).collect();
        files.into_iter().cloned().collect()
    }

    /// The plan; `probes` are those of [`clients`](Self::clients), in their order.
    pub(super) fn finish(self, manager: &str, waiting: &[LockRow], probes: &[Probed], probed_for: Duration) -> Plan {
        let not_asked = Probed { statd: run_plan::Probed::Silent(Probe::NotAsked), lockd: LockdProbe::NotAsked };
        let probes = probes.iter().copied().chain(std::iter::repeat(not_asked));
        let seen = self.clients.iter().zip(&self.rows).zip(probes);
        let clients: Vec<ReleaseClient> =
            seen.map(|((client, rows), probed)| self.client(client, rows, probed)).collect();
        let all: Vec<&LockRow> = self.rows.iter().flatten().collect();
        let waiters = clients.iter().map(|client| client.waiters).sum();
        let probed_for_ms = u64::try_from(probed_for.as_millis()).unwrap_or(u64::MAX);
        let consent = consent(&clients, probed_for_ms);
        let release = Release {
            id: None,
            manager: manager.to_owned(),
            scope: self.scope,
            only: self.only,
            outcome: ReleaseOutcome::Planned,
            exit: None,
            at: None,
            chosen: self.knows_owners.then_some(all.len() as u64 - waiters),
            chosen_waiters: waiters,
            released: None,
            probed_for_ms,
            clients,
            locks: with_waiting(&all, waiting),
            left: Vec::new(),
            consent,
        };
        Plan { args: self.args, release, live: self.live }
    }

    fn client(&self, client: &ClientRow, rows: &[LockRow], probed: Probed) -> ReleaseClient {
        let waiters = rows.iter().filter(|row| row.state == LockState::Waiting).count();
        let mut suspicions: Vec<String> =
            client.suspicions.as_slice().iter().map(|why| why.as_str().to_owned()).collect();
        let (statd, state) = match probed.statd {
            run_plan::Probed::Silent(probe) => (probe, None),
            run_plan::Probed::Answers(state) => {
                let state = state.filter(|state| state.is_known());
                let locked_with = client.nsm_state;
                if let Some(now) = state.filter(|now| locked_with.is_known() && *now != locked_with) {
                    suspicions.push(format!(
                        "its statd's state number is {now}, its locks carried {locked_with}: it may have restarted unnoticed"
                    ));
                    (Probe::Suspect, Some(now.0))
                } else {
                    (Probe::Answers, state.map(|state| state.0))
                }
            }
        };
        ReleaseClient {
            name: client.name.to_string(),
            address: client.addresses.as_slice().first().map(|a| a.0),
            locks: self.knows_owners.then_some((rows.len() - waiters) as u64),
            waiters: waiters as u64,
            whole: self.whole,
            shared_address: client.shared_address,
            heard: Heard::of(statd, probed.lockd),
            statd,
            lockd: probed.lockd,
            locked_with: client.nsm_state.is_known().then_some(client.nsm_state.0),
            state,
            suspicions,
        }
    }
}

/// The locks, each with those who wait for it and are not chosen themselves.
fn with_waiting(chosen: &[&LockRow], waiting: &[LockRow]) -> Vec<ReleaseLock> {
    let gone: HashSet<Vec<u8>> =
        chosen.iter().filter(|row| row.state == LockState::Waiting).map(|row| crate::wire::xdr::encode(*row)).collect();
    let mut on: HashMap<&FileHandle, Vec<&LockRow>> = HashMap::new();
    for row in waiting.iter().filter(|row| !gone.contains(&crate::wire::xdr::encode(*row))) {
        on.entry(&row.file).or_default().push(row);
    }
    let in_the_way = |lock: &LockRow, row: &LockRow| {
        row.owner != lock.owner
            && row.range.overlaps(lock.range)
            && lock.kind != LockKind::Share
            && (row.kind == LockKind::Exclusive || lock.kind == LockKind::Exclusive)
    };
    let waited_for = |lock: &LockRow| {
        let those = on.get(&lock.file).into_iter().flatten().filter(|row| in_the_way(lock, row));
        those.map(|row| Waiting { name: row.owner.name.to_string(), svid: row.owner.svid.0 }).collect()
    };
    chosen
        .iter()
        .map(|lock| ReleaseLock {
            lock: LockListing::from(*lock),
            waited_for: if lock.state == LockState::Waiting { Vec::new() } else { waited_for(lock) },
        })
        .collect()
}

/// What the operator has to agree to, each in words: those who answer one by one.
fn consent(clients: &[ReleaseClient], probed_for_ms: u64) -> Vec<String> {
    const SHOWN: usize = 5;
    let what = |some: &[&ReleaseClient]| {
        let waiters: u64 = some.iter().map(|client| client.waiters).sum();
        let locks = match some.iter().map(|client| client.locks).sum::<Option<u64>>() {
            Some(locks) => number(locks, "lock", "locks"),
            None => "whatever is held".to_owned(),
        };
        if waiters > 0 {
            format!("{locks} and {}", number(waiters, "blocked request", "blocked requests"))
        } else {
            locks
        }
    };
    let who = |client: &ReleaseClient| match client.address {
        Some(address) => format!("{} ({address})", client.name),
        None => client.name.clone(),
    };
    let of = |heard: Heard| clients.iter().filter(move |client| client.heard == heard).collect::<Vec<_>>();
    let mut wanted = Vec::new();
    let silent = of(Heard::NoAnswer);
    if !silent.is_empty() {
        let shown: Vec<String> = silent.iter().take(SHOWN).map(|client| who(client)).collect();
        let more = match silent.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        wanted.push(format!(
            "release {} of {}{more}, where nothing answered within {} ms; should one still run, its processes go on as \
             if they held them",
            what(&silent),
            shown.join(", "),
            probed_for_ms,
        ));
    }
    for client in of(Heard::Answers) {
        wanted.push(format!(
            "release {} of {}, which ANSWERS (statd: {}; lockd: {}): it is not told, its processes go on as if they held \
             them, and two may write at once (wants --live too)",
            what(&[client]),
            who(client),
            client.statd_words(probed_for_ms),
            client.lockd_words(probed_for_ms),
        ));
    }
    for client in of(Heard::NotAsked) {
        wanted.push(format!(
            "release {} of {}, which could not be asked whether it runs; should it, its processes go on as if they held \
             them (wants --live too)",
            what(&[client]),
            who(client),
        ));
    }
    wanted
}

/// What a release would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    args: ReleaseArgs,
    release: Release,
    live: bool,
}

impl Plan {
    /// What the lock manager is asked.
    pub(super) fn args(&self) -> &ReleaseArgs {
        &self.args
    }
    /// As it is shown.
    pub fn report(&self) -> ReleaseReport {
        ReleaseReport::new(self.release.clone())
    }
    /// What the operator has to agree to, each in words; never empty.
    pub fn consent(&self) -> &[String] {
        &self.release.consent
    }

    /// Whether somebody said `--live`, where that is wanted.
    ///
    /// # Errors
    /// It is wanted, and was not said. The message names the clients.
    pub fn refuse_live(&self) -> Result<(), Failure> {
        let alive = |client: &&ReleaseClient| match client.heard {
            Heard::Answers | Heard::NotAsked => true,
            Heard::NoAnswer => false,
        };
        let named: Vec<_> = self.release.clients.iter().filter(alive).collect();
        if self.live || named.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = named
            .iter()
            .take(5)
            .map(|client| match client.heard {
                Heard::Answers => format!("{} answers", client.name),
                Heard::NoAnswer | Heard::NotAsked => format!("{} could not be asked", client.name),
            })
            .collect();
        let more = match named.len().saturating_sub(shown.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Err(Failure::refused(
            format!(
                "{}{more}: its processes would go on as if they held what is released; nothing was released",
                shown.join(", ")
            ),
            "`nlmctl resync --client NAME` frees what is stale and takes nothing from a client that runs; if you know \
             better, add --live",
        ))
    }

    /// Consent to exactly this plan. A release wants it.
    ///
    /// # Errors
    /// Refused, where it is not given, or a client answers and nobody said `--live`.
    pub fn agree(&self, yes: bool, person: &mut dyn Person) -> Result<Consent, Failure> {
        self.refuse_live()?;
        Consent::obtain(&self.agreed_to(), self.consent(), yes, person)
    }

    /// What [`agree`](Self::agree) gives consent to. It names every client and lock.
    pub(super) fn agreed_to(&self) -> String {
        self.consent().join("\n")
    }

    fn over(&self, id: &str, at: Stamp, outcome: ReleaseOutcome) -> Release {
        Release { id: Some(id.to_owned()), at: Some(at), outcome, exit: outcome.exit(), ..self.release.clone() }
    }

    /// The report of what the manager did.
    pub(super) fn ended(&self, id: &str, at: Stamp, done: &Released) -> ReleaseReport {
        let outcome = if done.left > 0 { ReleaseOutcome::Partial } else { ReleaseOutcome::Released };
        ReleaseReport::new(Release {
            released: Some(ReleasedCounts {
                locks: done.locks,
                waiters: done.waiters,
                offered: done.offered,
                left: done.left,
            }),
            left: done.left_rows.as_slice().iter().map(LockListing::from).collect(),
            locks: match self.release.chosen {
                Some(_) => self.release.locks.clone(),
                None => with_waiting(&done.rows.as_slice().iter().collect::<Vec<_>>(), &[]),
            },
            ..self.over(id, at, outcome)
        })
    }

    /// The report of a release that the manager did not say it did.
    pub(super) fn failed(&self, id: &str, at: Stamp, outcome: ReleaseOutcome) -> ReleaseReport {
        ReleaseReport::new(self.over(id, at, outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::FailureKind;
    use crate::wire::control::{Capabilities, ClientRef, InstanceId, OwnerRow};
    use crate::wire::types::{Address, NsmState, Transport};
    use crate::wire::xdr::{Maybe, Text};

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
        ClientRow {
            name: name(n),
            addresses: List::clipped(vec![address(n)]),
            server_addresses: List::default(),
            nsm_state: NsmState(3),
            monitored: true,
            shared_address: false,
            locks: 1,
            unmonitored: 0,
            waiters: 0,
            suspicions: List::default(),
        }
    }

    fn row(n: u8, start: u64, state: LockState) -> LockRow {
        LockRow {
            file: FileHandle::new(b"file").unwrap(),
            kind: LockKind::Exclusive,
            range: ByteRange { start, end: start + 9 },
            state,
            monitored: true,
            owner: OwnerRow {
                name: name(n),
                address: address(n),
                server_address: address(200),
                transport: Transport::Udp,
                version: 4,
                svid: Svid(i32::from(n)),
                oh: OwnerHandle::new(b"oh").unwrap(),
            },
        }
    }

    fn of_clients(clients: &[u8]) -> (Request, Scope) {
        let reference = |n: &u8| ClientRef { name: Maybe(Some(name(*n))), address: Maybe(None) };
        let scope = Scope { clients: List::clipped(clients.iter().map(reference).collect()), files: List::default() };
        (Request { clients: clients.iter().map(|n| format!("host{n}")).collect(), ..Request::default() }, scope)
    }

    const SILENT: Probed = Probed { statd: run_plan::Probed::Silent(Probe::NoAnswer), lockd: LockdProbe::NoAnswer };
    const NOT_ASKED: Probed = Probed { statd: run_plan::Probed::Silent(Probe::NotAsked), lockd: LockdProbe::NotAsked };

    fn plan(request: &Request, scope: &Scope, clients: &[ClientRow], rows: &[LockRow], probes: &[Probed]) -> Plan {
        let info = info(true);
        let seen = Seen { info: &info, clients, rows: rows.to_vec() };
        Chosen::new(request, scope, &seen).unwrap().finish("manager", rows, probes, Duration::from_secs(3))
    }

    #[test]
    fn a_client_that_is_silent_wants_consent_and_one_that_may_run_wants_live_too() {
        let answers = |state| Probed { statd: run_plan::Probed::Answers(state), lockd: LockdProbe::NoAnswer };
        let table = [
            (SILENT, true, "nothing answered within 3000 ms"),
            (answers(None), false, "ANSWERS (statd: answers; lockd: no answer within 3s)"),
            (answers(Some(NsmState(7))), false, "statd: answers, state 7"),
            (Probed { lockd: LockdProbe::RpcbindOnly, ..SILENT }, false, "its rpcbind answers"),
            (NOT_ASKED, false, "could not be asked"),
        ];
        for (probed, without_live, words) in table {
            let (request, scope) = of_clients(&[1]);
            let rows = [row(1, 0, LockState::Held)];
            let without = plan(&request, &scope, &[client(1)], &rows, &[probed]);
            assert!(without.consent().iter().any(|need| need.contains(words)), "{:?}", without.consent());
            assert!(without.clone().agree(false, &mut ()).is_err(), "consent is always wanted");
            assert_eq!(without.agree(true, &mut ()).is_ok(), without_live, "{probed:?}");
            let with = plan(&Request { live: true, ..request }, &scope, &[client(1)], &rows, &[probed]);
            assert!(with.clone().agree(true, &mut ()).is_ok());
            assert!(with.agree(false, &mut ()).is_err(), "--live alone is no consent");
        }
    }

    #[test]
    fn an_unlike_state_number_is_a_suspicion_and_an_equal_one_is_none() {
        let (request, scope) = of_clients(&[1]);
        let rows = [row(1, 0, LockState::Held)];
        for (state, probe, suspicions) in [(3, Probe::Answers, 0), (0, Probe::Answers, 0), (5, Probe::Suspect, 1)] {
            let probed = Probed { statd: run_plan::Probed::Answers(Some(NsmState(state))), ..SILENT };
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
    fn a_manager_that_knows_no_owners_frees_whole_clients_and_nothing_else() {
        let (request, scope) = of_clients(&[1]);
        let (info, clients) = (info(false), [client(1), client(2)]);
        let seen = || Seen { info: &info, clients: &clients, rows: Vec::new() };
        let chosen = Chosen::new(&request, &scope, &seen()).unwrap();
        assert_eq!(chosen.clients().len(), 1);
        let plan = chosen.finish("manager", &[], &[SILENT], Duration::from_secs(3));
        assert_eq!((plan.release.chosen, plan.args().clients.as_slice()[0].locks), (None, 0));
        assert!(plan.consent()[0].contains("whatever is held of host1"), "{:?}", plan.consent());
        let done = Released { locks: 1, rows: List::clipped(vec![row(1, 0, LockState::Held)]), ..Released::default() };
        let report = plan.ended("id", Stamp(0), &done);
        assert_eq!(report.release.locks.len(), 1, "what it saw go is told");
        let narrower = Request { ranges: vec![ByteRange::ALL], ..request };
        let error = Chosen::new(&narrower, &scope, &seen()).unwrap_err();
        assert_eq!(error.kind, FailureKind::Usage, "{error}");
    }

    #[test]
    fn more_than_fits_into_one_call_is_told_before_it_is_made() {
        let rows: Vec<_> = (0..=RELEASE as u64).map(|n| row(1, n * 10, LockState::Held)).collect();
        let (mut request, scope) = of_clients(&[1]);
        request.owners = vec![OwnerChoice { svid: Svid(1), oh: None }];
        let (info, clients) = (info(true), [client(1)]);
        let error = Chosen::new(&request, &scope, &Seen { info: &info, clients: &clients, rows: rows.clone() });
        assert!(error.unwrap_err().to_string().contains("4096 single locks"));
        request.owners.clear();
        assert!(Chosen::new(&request, &scope, &Seen { info: &info, clients: &clients, rows }).is_ok());
    }
}
