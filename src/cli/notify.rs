//! `nlmctl notify`: the SM_NOTIFY fan-out alone.
//!
//! Clients that are told reclaim; one that is refused because no grace is on forgets its lock
//! without telling its process (statement 4). So a grace must be seen before the first notice, and
//! the fan-out stops when it is over, unless the operator says that it is elsewhere.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{iter, slice};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::args::NotifyArgs;
use super::consent::Terminal;
use super::context::{Context, blocking};
use super::signals::signals;
use crate::controller::own_mounts_let_tell;
use crate::host::{Machine, NLM_END_GRACE};
use crate::nsm::roster::{self, Roster, RosterEntry, RosterError};
use crate::nsm::{self, DriverError, FanoutEvent, Host, NO_ANSWER_AFTER, News, Notice, NotifyOptions, Target};
use crate::report::{ClientFate, Failure, NoticeReport, NotifyReport, SCHEMA};
use crate::resync::consent::Consent;
use crate::units::number;
use crate::wire::control::Grace;
use crate::wire::types::{Address, CallerName, NsmState, ms};

/// How often is looked whether grace is still on.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A manager that takes longer to say so is not seen in grace.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// Events on their way. A full channel delays events, never sends.
const EVENTS: usize = 1024;

pub(super) async fn run(context: &Context, args: NotifyArgs) -> Result<u8, Failure> {
    let state = NsmState(args.state);
    if !state.is_up() {
        return Err(Failure::refused(
            format!("--state {state} is even: it would say that this server is down"),
            "give an odd number that differs from the last number that the clients received",
        ));
    }
    if context.settings.names.is_empty() {
        return Err(Failure::usage(
            "no --name: clients would not know which server rebooted",
            "give the name, or names, under which clients mounted from this server",
        ));
    }
    let hosts = hosts(context, &args).await?;
    may_tell(context, &args, &hosts).await?;
    let need = format!(
        "{} notified that {} rebooted (state {state}): each reclaims all its locks from it",
        number(hosts.len() as u64, "host is", "hosts are"),
        context.settings.names.iter().map(CallerName::as_str).collect::<Vec<_>>().join(", "),
    );
    let consent = blocking(move || Consent::obtain(&need, slice::from_ref(&need), args.yes, &mut Terminal)).await?;
    // The operator may have taken longer to agree than grace lasts.
    may_tell(context, &args, &hosts).await?;
    let report = tell(consent, context, &hosts, state, args.deadline, !args.grace_elsewhere).await?;
    context.print(&report)?;
    Ok(report.exit_code())
}

/// The hosts of the roster, each once.
async fn hosts(context: &Context, args: &NotifyArgs) -> Result<Vec<String>, Failure> {
    let (path, file) = (args.sm_dir.clone(), args.targets.clone());
    let rosters = blocking(move || read_rosters(path.as_deref(), file.as_deref(), Path::new("/"))).await?;
    let hosts = each_once(&rosters);
    for roster in &rosters {
        let count = if rosters.len() == 1 { hosts.len() } else { each_once(slice::from_ref(roster)).len() };
        for warning in &roster.warnings {
            context.say(&format!("nlmctl: {warning}"));
        }
        context.say(&format!("nlmctl: {}", heading(roster, count)));
        if roster.state == Some(NsmState(args.state)) {
            context.say(&format!(
                "nlmctl: {} is the state number recorded there: clients that have already received this number ignore \
                 the notice",
                args.state
            ));
        }
    }
    Ok(hosts)
}

fn each_once(rosters: &[Roster]) -> Vec<String> {
    let mut hosts: Vec<String> = rosters.iter().flat_map(|r| &r.entries).map(RosterEntry::plain).collect();
    let mut seen = HashSet::new();
    hosts.retain(|host| seen.insert(host.clone()));
    hosts
}

/// What was named, or what is found by looking.
fn read_rosters(path: Option<&Path>, file: Option<&Path>, root: &Path) -> Result<Vec<Roster>, Failure> {
    let read = match (path, file) {
        (Some(path), _) => roster::read(path),
        (None, Some(file)) => roster::read_targets_file(file).map(|roster| vec![roster]),
        (None, None) => roster::find(root),
    };
    let rosters = read.map_err(|e| {
        let remedy = match &e {
            RosterError::Unreadable { .. } => "check the path and its permissions",
            RosterError::BadLine { .. } => {
                "correct that line: write one address or name on each line; # begins a comment"
            }
            RosterError::TooLarge { .. } => "check that this is the right path",
            RosterError::NoRecords { .. } => {
                "name the folder that has state and sm/ in it, or the sm/ itself; for a list of hosts, use --targets"
            }
            RosterError::NoStatusFile { .. } => {
                "give the folder or the statd.status of a statd; for a list of hosts, use --targets"
            }
        };
        Failure::usage(e.to_string(), remedy)
    })?;
    if rosters.is_empty() {
        let places: Vec<_> = roster::known_places(root).iter().map(|place| place.display().to_string()).collect();
        return Err(Failure::usage(
            format!("there are no records of a statd in {}", places.join(", ")),
            "name their folder with --sm-dir, or give a list of hosts with --targets",
        ));
    }
    Ok(rosters)
}

fn heading(roster: &Roster, hosts: usize) -> String {
    let state = roster.state.map(|state| format!(", state {state}")).unwrap_or_default();
    format!("{} in {} ({}{state})", number(hosts as u64, "host", "hosts"), roster.path.display(), roster.kind)
}

/// Whether notices may leave now.
async fn may_tell(context: &Context, args: &NotifyArgs, hosts: &[String]) -> Result<(), Failure> {
    own_mounts(hosts, args.own_locks_lost).await?;
    if args.grace_elsewhere || grace_is_on(context).await {
        return Ok(());
    }
    Err(Failure::refused(
        format!(
            "no grace period is active in which clients may reclaim: neither the lock manager ({}) nor the kernel's lockd (/{NLM_END_GRACE}) is in one; clients that reclaim now lose their locks",
            context.settings.control.display()
        ),
        "start grace first (`nlmctl resync` does everything), or add --grace-elsewhere if these clients reclaim from another server that is in grace",
    ))
}

/// Notices from this host tell its peers that its own processes lost their locks: refused while it has such mounts.
async fn own_mounts(hosts: &[String], own_locks_lost: bool) -> Result<(), Failure> {
    // A name may have any address: only a literal is known to be loopback.
    let all_loopback = hosts.iter().all(|host| host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback()));
    if own_locks_lost {
        return Ok(());
    }
    blocking(move || own_mounts_let_tell(all_loopback)).await
}

async fn grace_is_on(context: &Context) -> bool {
    if blocking(|| Ok(Machine::default().nlm_in_grace().unwrap_or_default())).await.unwrap_or_default() {
        return true;
    }
    let Ok(manager) = context.manager().await else { return false };
    // No answer in time is no grace seen.
    let answer = tokio::time::timeout(LOOK_PATIENCE, manager.status()).await;
    let Ok(Ok(status)) = answer else { return false };
    may_reclaim(status.grace, status.run.0.is_some_and(|run| run.notices_begun))
}

/// Whether clients may be told to reclaim now. Until a run's own notices may leave, its drop may not be finished, and what is
/// reclaimed would go with it.
fn may_reclaim(grace: Grace, run_notifies: bool) -> bool {
    match grace {
        Grace::Recovery => true,
        Grace::Strict | Grace::Targeted => run_notifies,
        Grace::Open | Grace::Settling => false,
    }
}

async fn tell(
    _consent: Consent,
    context: &Context,
    hosts: &[String],
    state: NsmState,
    deadline: Duration,
    watch_grace: bool,
) -> Result<NotifyReport, Failure> {
    let names = &context.settings.names;
    let targets = hosts.iter().zip(0..).map(|(host, id)| target(id, host, names)).collect();
    let mut rows: Vec<NoticeReport> = hosts.iter().map(|host| not_heard_of(host)).collect();
    let options = NotifyOptions {
        rpcbind_port: context.settings.rpcbind_port,
        state,
        epoch: Instant::now(),
        retry_until: deadline,
        no_answer_after: NO_ANSWER_AFTER,
    };
    let (sender, mut events) = mpsc::channel(EVENTS);
    // A task of its own: looking after grace must not hold up the notices.
    let fan_out = tokio::spawn(nsm::notify(targets, options, sender));
    let mut signals = signals()?;
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut came = Vec::with_capacity(EVENTS);
    let stopped = loop {
        tokio::select! {
            count = events.recv_many(&mut came, EVENTS) => {
                came.drain(..).for_each(|event| heard(&mut rows, event));
                if count == 0 {
                    break None;
                }
            }
            Some(name) = signals.recv() => break Some(name),
            _ = look.tick(), if watch_grace => if !grace_is_on(context).await {
                break Some("grace is over");
            },
        }
    };
    // From here on nothing is sent. How far each host was told is in what is left of the news.
    events.close();
    while let Some(event) = events.recv().await {
        heard(&mut rows, event);
    }
    ended(fan_out).await?.into_iter().for_each(|event| heard(&mut rows, event));
    if let Some(why) = stopped {
        context.say(&format!("nlmctl: stopped sending notices: {why}"));
        for row in rows.iter_mut().filter(|row| row.fate != ClientFate::Acked && row.error.is_none()) {
            row.error = Some(format!("stopped: {why}"));
        }
    }
    Ok(NotifyReport {
        schema: SCHEMA,
        state: state.0,
        names: names.iter().map(ToString::to_string).collect(),
        stopped: stopped.map(str::to_owned),
        hosts: rows,
    })
}

/// How the fan-out ended, and what it has not told yet.
async fn ended(fan_out: JoinHandle<Result<Vec<FanoutEvent>, DriverError>>) -> Result<Vec<FanoutEvent>, Failure> {
    match fan_out.await {
        Ok(Ok(left)) => Ok(left),
        Ok(Err(e)) => Err(Failure::failed(e.to_string(), "raise the limit of open files (`ulimit -n`)")),
        Err(_) => Err(Failure::failed("the sender of notices died", "please report this, with the lines above")),
    }
}

fn target(id: u32, host: &str, names: &[CallerName]) -> Target {
    Target {
        id,
        host: host.parse().map_or_else(|_| Host::Name(host.to_owned()), |ip| Host::Addresses(vec![ip])),
        notices: Notice::each(iter::empty(), names),
    }
}

fn not_heard_of(host: &str) -> NoticeReport {
    NoticeReport {
        name: host.to_owned(),
        address: host.parse().ok(),
        fate: ClientFate::NotTold,
        attempts: 0,
        acked_ms: None,
        error: None,
    }
}

fn heard(rows: &mut [NoticeReport], event: FanoutEvent) {
    let Some(row) = rows.get_mut(event.id as usize) else { return };
    row.attempts = event.attempts;
    match event.news {
        News::Answered { answered: acked, of, address, .. } => {
            row.address = row.address.or(address.map(Address::from));
            row.acked_ms = Some(ms(event.at));
            if acked == of {
                row.fate = ClientFate::Acked;
                row.error = None;
            } else {
                row.fate = ClientFate::NoAnswer;
                row.error = Some(format!("{acked} of {of} notices acked"));
            }
        }
        News::GivenUp { failure, error, .. } => {
            row.fate = ClientFate::of(nsm::delivery(failure), false);
            row.error = error.or(row.error.take());
        }
        News::SentAgain => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::fanout::{Failure, Heard};

    fn event(id: u32, news: News) -> FanoutEvent {
        FanoutEvent { id, at: Duration::from_millis(70), attempts: 2, news }
    }

    fn given_up(failure: Failure, error: Option<&str>) -> News {
        News::GivenUp { failure, heard: Heard::Nothing, error: error.map(str::to_owned), last: true }
    }

    #[test]
    fn a_host_is_acked_only_when_all_of_its_notices_are() {
        let mut rows = [not_heard_of("127.0.0.1"), not_heard_of("b.example.org")];
        let acked = |answered| {
            let address = Some(IpAddr::from([192, 0, 2, 7]));
            News::Answered { call: 0, results: Vec::new(), answered, of: 2, address }
        };
        heard(&mut rows, event(0, acked(1)));
        assert_eq!(rows[0].fate, ClientFate::NoAnswer);
        heard(&mut rows, event(0, given_up(Failure::Partial, None)));
        assert_eq!((rows[0].fate, rows[0].error.as_deref()), (ClientFate::NoAnswer, Some("1 of 2 notices acked")));
        heard(&mut rows, event(0, acked(2)));
        assert_eq!((rows[0].fate, rows[0].acked_ms, rows[0].error.as_ref()), (ClientFate::Acked, Some(70), None));
        assert_eq!(rows[0].address, Some(IpAddr::from([127, 0, 0, 1]).into()));
        heard(&mut rows, event(1, acked(1)));
        assert_eq!(rows[1].address, Some(IpAddr::from([192, 0, 2, 7]).into()), "of a name it is told who acked");
        heard(&mut rows, event(1, given_up(Failure::NameUnknown, Some("no such host"))));
        assert_eq!(rows[1].fate, ClientFate::NameUnknown);
        heard(&mut rows, event(9, acked(2)));
    }

    #[test]
    fn a_host_that_nothing_was_sent_to_does_not_read_as_one_that_did_not_answer() {
        let mut rows = [not_heard_of("127.0.0.1"), not_heard_of("fd00::7")];
        heard(&mut rows, event(0, given_up(Failure::NoAnswer, None)));
        assert_eq!((rows[0].fate, rows[0].attempts), (ClientFate::NoAnswer, 2));
        let no_socket = given_up(Failure::NotSent, Some("no socket"));
        heard(&mut rows, FanoutEvent { attempts: 0, ..event(1, no_socket) });
        assert_eq!((rows[1].fate, rows[1].attempts), (ClientFate::NotTold, 0));
        heard(&mut rows, event(0, given_up(Failure::NotRegistered, None)));
        heard(&mut rows, event(0, News::SentAgain));
        assert_eq!(rows[0].fate, ClientFate::NoStatd, "a repeat unsays nothing");
    }

    #[test]
    fn clients_may_reclaim_in_a_run_that_notifies_and_after_the_managers_restart() {
        assert!(may_reclaim(Grace::Recovery, false));
        for grace in [Grace::Strict, Grace::Targeted] {
            assert!(may_reclaim(grace, true) && !may_reclaim(grace, false));
        }
        assert!(!may_reclaim(Grace::Settling, true) && !may_reclaim(Grace::Open, false));
    }

    #[test]
    fn an_address_is_told_at_once_and_a_name_is_looked_up() {
        let names = [CallerName::new("server").unwrap(), CallerName::new("server.example.org").unwrap()];
        assert_eq!(target(0, "::1", &names).host, Host::Addresses(vec!["::1".parse().unwrap()]));
        let named = target(1, "a.example.org", &names);
        assert_eq!(named.host, Host::Name("a.example.org".into()));
        assert_eq!(named.notices.len(), 2);
    }

    #[test]
    fn without_a_flag_rosters_are_found_or_the_places_named() {
        let root = tempfile::tempdir().unwrap();
        let error = read_rosters(None, None, root.path()).unwrap_err();
        assert_eq!(error.kind.exit(), 2);
        assert!(error.to_string().contains("var/lib/nfs") && error.to_string().contains("statd.status"), "{error}");
        let sm = root.path().join("var/lib/nfs/sm");
        std::fs::create_dir_all(&sm).unwrap();
        std::fs::write(sm.join("a.example.org"), "").unwrap();
        std::fs::write(root.path().join("var/lib/nfs/state"), 7_i32.to_ne_bytes()).unwrap();
        let rosters = read_rosters(None, None, root.path()).unwrap();
        let wanted = format!("1 host in {}/var/lib/nfs (Linux statd, state 7)", root.path().display());
        assert_eq!(heading(&rosters[0], 1), wanted);
    }
}
