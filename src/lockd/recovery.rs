//! Recovery from the previous instance at start: a new NSM state, a superseded run, notices to clients.
//!
//! The order is that of a server's reboot. The new state number is durable first; recovery grace is
//! on before the first socket is served; notices go out once everything listens, so that a client
//! that reclaims at once finds a server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::persist::{Change, Found, MonitorRecord, Persist, PersistError, RunRecord, ToTell};
use super::statd::StateNumberError;
use super::table::Clock;
use crate::host::{Machine, StatdDir};
use crate::nsm::{self, DriverError, FanoutEvent, Host, NO_ANSWER_AFTER, News, Notice, NotifyOptions, Target};
use crate::wire::control::FullResult;
use crate::wire::types::{CallerName, NsmState};

/// Retries of notices end after this (sm-notify's own limit).
const RETRY_FOR: Duration = Duration::from_mins(15);
/// Why a run has ended that a restart cut off.
const SUPERSEDED: &str = "nlmd restarted; its recovery grace took over";
const SUPERSEDED_ALONE: &str =
    "nlmd restarted; its recovery grace took over; the list of the run's clients could not be written";
/// Events of the fan-out that may wait to be logged.
const EVENTS: usize = 256;

/// Why this instance has no NSM state number.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// nlmd's own disk.
    #[error(transparent)]
    State(#[from] PersistError),
    /// rpc.statd's file.
    #[error(transparent)]
    Number(#[from] StateNumberError),
}

/// Whether this start is the first one of a boot.
pub fn booted(found: &Found, boot: &str) -> bool {
    found.nsm_state.is_some() && !boot.is_empty() && found.boot != boot
}

/// Makes this instance's NSM state durable, and the result of a run that the restart superseded if the disk takes it.
///
/// The same number again is ignored by clients. nlmd's own comes after the last and after the clock's, so that a state
/// directory that was lost, or is an older copy, repeats none either; see [`own_state`].
///
/// With `statd` the number is in its file. After a boot of the machine sm-notify has raised it and
/// tells statd's list; nlmd takes the same number and tells its own, and who is on both hears one
/// number twice, which is ignored. A restart of nlmd alone is no boot: sm-notify sends no notice, and
/// nlmd raises the number itself. So it does where sm-notify has not run yet, or ran by hand in this
/// boot (`-f`): then its clients have heard that number while nlmd could not take their reclaims.
///
/// After a boot, what this host's programs monitored is in `found.to_tell`.
pub async fn start_state(
    persist: &Persist,
    found: &mut Found,
    clock: Clock,
    statd: Option<&StatdDir>,
    machine: &Machine,
) -> Result<NsmState, StartError> {
    let boot = machine.boot();
    let booted = booted(found, &boot);
    let state = match (statd, found.nsm_state) {
        (None, last) => own_state(last, clock.unix_ms() / 1000, machine),
        (Some(file), last) => match (file.state().map_err(StateNumberError)?, last) {
            (raised, Some(last)) if booted && raised.is_after(last) => raised,
            (_, Some(last)) => file.raise_state(last).map_err(StateNumberError)?,
            // No client has heard of this server yet.
            (present, None) => present,
        },
    };
    if booted && !found.local_monitors.is_empty() {
        for host in ToTell::all_of(found.local_monitors.drain(..)) {
            if !found.to_tell.contains(&host) {
                found.to_tell.push(host);
            }
        }
        persist.write(Change::TellLocal).await?;
    }
    if let Some(run) = found.run.take() {
        tracing::warn!(run = %run.run, "a run was active when nlmd went down; recovery supersedes it");
        found.ended.push(run.run);
        let now = clock.unix_ms();
        let ended = |run, reason| Change::Ended(Arc::new(superseded(run, reason, now).into()));
        if let Err(error) = persist.write(ended(&run, SUPERSEDED)).await {
            // Clients need a server more than people need that list, and the next run replaces the record that it is made of.
            tracing::warn!(run = %run.run, %error, "the result of the superseded run is written without its clients");
            let alone = RunRecord { clients: Arc::default(), ..run };
            if let Err(error) = persist.write(ended(&alone, SUPERSEDED_ALONE)).await {
                let run = alone.run;
                tracing::error!(%run, %error, "the superseded run has no result on disk; it is lost when a run begins");
            }
        }
    }
    persist.write(Change::State { state, boot }).await?;
    Ok(state)
}

/// A number after each that is known to have been told. With none of nlmd's own left that is the one of this host's
/// statd or kernel, which had the clients before. A server does not start or run every other second for long, so the
/// clock's number is ahead of all others, unless the clock was set back.
fn own_state(last: Option<NsmState>, unix_seconds: u64, machine: &Machine) -> NsmState {
    let seconds = u32::try_from(unix_seconds & u64::from(u32::MAX)).unwrap_or_default();
    let statds = || StatdDir::find(machine, None).and_then(|dir| dir.state()).ok();
    let told = match last {
        Some(last) => vec![last],
        None => machine.kernels_nsm_state().into_iter().chain(statds()).collect(),
    };
    // Down, so that its next one up is itself or the one after it.
    let by_clock = NsmState(seconds.cast_signed() & !1);
    told.into_iter().fold(by_clock, NsmState::later).next_up()
}

/// What was reclaimed in a superseded run is not known: the counts died with the process.
fn superseded(run: &RunRecord, reason: &str, now_unix_ms: u64) -> FullResult {
    let reachable = run.clients.iter().filter(|client| !client.addresses.as_slice().is_empty());
    let (states, times) = ((run.old_state, run.new_state), (run.began_unix_ms, now_unix_ms));
    FullResult::cut_off((run.run, run.mode), states, times, reason, run.in_scope, reachable)
}

/// Says so where notices will cost this host's own processes their locks (statement 12).
pub fn warn_of_own_mounts() {
    match Machine::default().nlm_mounts() {
        Ok(found) => {
            for mount in found {
                tracing::warn!(
                    source = mount.source, at = %mount.mount_point.display(),
                    "this host has an NFSv3 mount that uses NLM: that server may take the notices of this restart for \
                     a reboot of this host and free the locks that processes here hold on it"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "cannot tell whether this host has NFSv3 mounts that use NLM"),
    }
}

/// What to tell each client.
fn targets(monitors: &[MonitorRecord], names: &[CallerName]) -> Vec<Target> {
    let target = |(id, record): (u32, &MonitorRecord)| Target {
        id,
        host: Host::Addresses(vec![record.address]),
        notices: Notice::each(record.server_addresses.iter().copied(), names),
    };
    (0..).zip(monitors).map(target).collect()
}

/// Notifies every client of the previous instance, until each has acked or has not answered for long.
///
/// When the NSM state changes meanwhile (mostly a run has begun), those not told yet hear the new number from then on: no
/// client may hear an older number after a newer one, and a run tells only clients of its own.
pub async fn notify(
    monitors: Vec<MonitorRecord>,
    names: Vec<CallerName>,
    mut states: watch::Receiver<NsmState>,
    rpcbind_port: u16,
    clock: Clock,
) {
    let clients = monitors.len();
    let retry_until = clock.now() + RETRY_FOR;
    let mut untold = monitors;
    while !untold.is_empty() && clock.now() < retry_until {
        let state = *states.borrow_and_update();
        tracing::info!(clients = untold.len(), nsm_state = %state, "notifying the clients of the previous instance \
                                                                    of this restart");
        let options = NotifyOptions { retry_until, ..options(state, rpcbind_port, clock) };
        let mut told = BTreeSet::new();
        let sent = fan_out(targets(&untold, &names), options, |event| {
            let client = untold.get(event.id as usize).map_or("?", |record| record.name.as_str());
            match event.news {
                News::Answered { answered, of, .. } if answered == of => _ = told.insert(event.id),
                News::Answered { .. } | News::SentAgain => {}
                News::GivenUp { failure, error, last, .. } => {
                    let error = error.unwrap_or_default();
                    tracing::info!(client, delivery = ?nsm::delivery(failure), last, error, "a client was not notified of this restart");
                }
            }
        });
        let sent = tokio::select! {
            biased;
            Ok(()) = states.changed() => None,
            sent = sent => Some(sent),
        };
        let mut ids = 0..;
        untold.retain(|_| ids.next().is_some_and(|id| !told.contains(&id)));
        match sent {
            None => {
                tracing::info!("the NSM state has changed: clients not yet notified of this restart get the new one");
            }
            Some(Ok(())) => {
                let told = clients - untold.len();
                return tracing::info!(told, clients, "notices of this restart are done");
            }
            Some(Err(error)) => {
                tracing::error!(%error, "clients are not notified of this restart, and do not reclaim; nlmd tries again");
                tokio::time::sleep(NO_ANSWER_AFTER).await;
            }
        }
    }
}

/// How long and how often hosts are told.
pub(super) fn options(state: NsmState, rpcbind_port: u16, clock: Clock) -> NotifyOptions {
    NotifyOptions {
        rpcbind_port,
        state,
        epoch: clock.start,
        retry_until: clock.now() + RETRY_FOR,
        no_answer_after: NO_ANSWER_AFTER,
    }
}

/// Tells them all, and gives what is learned to `learn`, one after the other.
pub(super) async fn fan_out(
    targets: Vec<Target>,
    options: NotifyOptions,
    mut learn: impl FnMut(FanoutEvent),
) -> Result<(), DriverError> {
    let (events, mut learned) = mpsc::channel::<FanoutEvent>(EVENTS);
    let learning = async {
        while let Some(event) = learned.recv().await {
            learn(event);
        }
    };
    let (sent, ()) = tokio::join!(nsm::notify(targets, options, events), learning);
    sent.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lockd::persist::{self, LocalMonitor};
    use crate::wire::control::{Mode, Outcome, RunClient, RunId};
    use crate::wire::nsm::{MonId, MyId};
    use std::time::Instant;

    fn clock() -> Clock {
        Clock { start: Instant::now() }
    }

    #[tokio::test]
    async fn each_start_has_a_new_odd_number_that_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut last: Option<NsmState> = None;
        for _ in 0..3 {
            let (persist, writer, mut found) = persist::open(dir.path()).unwrap();
            assert_eq!(found.nsm_state, last);
            let state = start_state(&persist, &mut found, clock(), None, &booted_at("boot").1).await.unwrap();
            assert!(state.is_up() && last.is_none_or(|last| state.is_after(last)));
            last = Some(state);
            drop(persist);
            writer.join();
        }
    }

    /// A machine in this boot.
    fn booted_at(boot: &str) -> (tempfile::TempDir, Machine) {
        Machine::fake(&[("proc/sys/kernel/random/boot_id", boot)])
    }

    fn found(nsm_state: Option<i32>, boot: &str) -> Found {
        Found { nsm_state: nsm_state.map(NsmState), boot: boot.into(), ..Found::default() }
    }

    /// The number of a start "today" with statd's file at `in_file`, and what is in the file then.
    async fn with_statd(last: Option<i32>, boot: &str, in_file: i32) -> (i32, i32) {
        let (dir, nfs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (persist, _writer, _) = persist::open(dir.path()).unwrap();
        std::fs::write(nfs.path().join("state"), in_file.to_ne_bytes()).unwrap();
        let file = StatdDir::find(&Machine::at(nfs.path()), Some(nfs.path())).unwrap();
        let (_root, machine) = booted_at("today");
        let state = start_state(&persist, &mut found(last, boot), clock(), Some(&file), &machine).await.unwrap();
        (state.0, file.state().unwrap().0)
    }

    #[tokio::test]
    async fn after_a_boot_the_number_is_sm_notifys_and_otherwise_a_new_one_in_statds_file() {
        assert_eq!(with_statd(None, "", 7).await, (7, 7), "the very first start");
        assert_eq!(with_statd(Some(7), "yesterday", 9).await, (9, 9), "sm-notify tells this one already");
        assert_eq!(with_statd(Some(7), "yesterday", 7).await, (9, 9), "sm-notify has not run");
        assert_eq!(with_statd(Some(7), "today", 7).await, (9, 9), "nlmd alone was started again");
        assert_eq!(with_statd(Some(7), "today", 9).await, (11, 11), "sm-notify -f told 9 while nlmd could not listen");
        assert_eq!(with_statd(Some(11), "today", 9).await, (13, 13), "11 was told before");
        assert_eq!(with_statd(Some(11), "yesterday", 3).await, (13, 13), "statd's file was lost, and is a new one");
    }

    #[test]
    fn a_number_of_its_own_comes_after_all_that_are_known_whatever_the_clock_says() {
        let (root, machine) = booted_at("today");
        let own = |last: Option<i32>, clock| own_state(last.map(NsmState), clock, &machine).0;
        assert_eq!((own(None, 1_000), own(None, 1_001)), (1_001, 1_001));
        assert_eq!(own(Some(7), 1_000), 1_001, "a directory restored from long ago");
        assert_eq!(own(Some(2_001), 1_000), 2_003, "the clock was set back");
        assert_eq!(own(Some(i32::MAX), 0x8000_0002), i32::MIN + 3, "the clock's number goes on in 2038");
        machine.lay("proc/sys/fs/nfs/nsm_local_state", "5001\n");
        assert_eq!(own(None, 1_000), 5_003, "the kernel's clients know its number");
        std::fs::create_dir_all(root.path().join("var/lib/nfs/sm")).unwrap();
        machine.lay("var/lib/nfs/state", 6_001_i32.to_ne_bytes());
        assert_eq!(own(None, 1_000), 6_003, "and statd's its");
    }

    #[tokio::test]
    async fn hosts_that_programs_monitor_are_told_of_a_boot_and_not_of_a_restart() {
        let host = |text| CallerName::new(text).unwrap();
        let my_id = MyId { my_name: host("me"), my_prog: 1, my_vers: 1, my_proc: 1 };
        let id = MonId { mon_name: host("peer"), my_id };
        let monitor = LocalMonitor { id, private: [0; 16], privileged: false, addresses: vec![] };
        for (boot, told) in [("today", 0), ("yesterday", 1)] {
            let dir = tempfile::tempdir().unwrap();
            let (persist, writer, _) = persist::open(dir.path()).unwrap();
            persist.write(Change::Local(monitor.clone())).await.unwrap();
            let mut found = Found { local_monitors: vec![monitor.clone()], ..found(Some(3), boot) };
            start_state(&persist, &mut found, clock(), None, &booted_at("today").1).await.unwrap();
            assert_eq!((found.to_tell.len(), found.local_monitors.len()), (told, 1 - told), "{boot}");
            drop(persist);
            writer.join();
            let on_disk = persist::open(dir.path()).unwrap().2;
            assert_eq!((on_disk.to_tell.len(), on_disk.local_monitors.len()), (told, 1 - told), "{boot}");
            assert_eq!(on_disk.boot, "today");
        }
    }

    fn run_of(clients: Vec<RunClient>) -> RunRecord {
        RunRecord {
            run: RunId([7; 16]),
            mode: Mode::Strict,
            old_state: NsmState(1),
            new_state: NsmState(3),
            began_unix_ms: 5,
            in_scope: 12,
            clients: Arc::new(clients),
        }
    }

    #[tokio::test]
    async fn a_run_cut_short_becomes_a_superseded_result() {
        let dir = tempfile::tempdir().unwrap();
        let (persist, writer, _) = persist::open(dir.path()).unwrap();
        let run = run_of(Vec::new());
        persist.write(Change::Begin(run)).await.unwrap();
        drop(persist);
        writer.join();

        let (persist, _writer, mut found) = persist::open(dir.path()).unwrap();
        let state = start_state(&persist, &mut found, clock(), None, &booted_at("boot").1).await.unwrap();
        assert!(state.is_after(NsmState(3)), "after the run's own number");
        assert_eq!(found.ended, [RunId([7; 16])]);
        let result = persist.result(RunId([7; 16])).await.unwrap().unwrap();
        assert_eq!(result.outcome, Outcome::Superseded);
        assert_eq!(result.counts.unverified, 12);
    }

    #[tokio::test]
    async fn a_disk_without_room_for_the_result_of_a_superseded_run_keeps_nothing_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let (persist, writer, _) = persist::open(dir.path()).unwrap();
        let run = run_of((0..17_000).map(RunClient::sample).collect());
        persist.write(Change::Begin(run.clone())).await.unwrap();
        drop(persist);
        writer.join();

        let (persist, writer, mut found) = persist::open_nearly_full(dir.path()).unwrap();
        let state = start_state(&persist, &mut found, clock(), None, &booted_at("boot").1).await.unwrap();
        assert!(state.is_after(NsmState(3)));
        let next = RunRecord { run: RunId([8; 16]), clients: Arc::default(), ..run.clone() };
        persist.write(Change::Begin(next.clone())).await.unwrap();
        let result = persist.result(run.run).await.unwrap().expect("the next run leaves it");
        assert_eq!((result.outcome, result.counts.unverified), (Outcome::Superseded, 12));
        assert!(result.reason.as_str().contains("could not be written"), "{:?}", result.reason);
        assert!(persist.result_clients(run.run, 0).await.unwrap().unwrap().0.as_slice().is_empty());
        drop(persist);
        writer.join();
        let (_persist, _writer, found) = persist::open(dir.path()).unwrap();
        assert_eq!((found.run, found.ended), (Some(next), vec![run.run]));
    }

    #[test]
    fn notices_leave_from_each_address_under_each_name() {
        let name = |text| CallerName::new(text).unwrap();
        let record = MonitorRecord {
            name: name("client"),
            address: "127.0.0.2".parse().unwrap(),
            server_addresses: vec!["127.0.0.1".parse().unwrap(), "127.0.0.9".parse().unwrap()],
            nsm_state: NsmState(3),
        };
        let targets = targets(&[record], &[name("server.example.org"), name("server")]);
        assert_eq!(targets[0].notices.len(), 4);
        assert_eq!(targets[0].notices[1].name.as_str(), "server");
        assert_eq!(targets[0].notices[2].from, Some("127.0.0.9".parse().unwrap()));
    }
}
