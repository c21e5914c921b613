//! What a start does about the life before: a new NSM state, a superseded run, notices to clients.
//!
//! The order is that of a server's reboot. The new state number is durable first; recovery grace is
//! on before the first socket is served; notices go out once everything listens, so that a client
//! that reclaims at once finds somebody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::persist::{Change, Found, MonitorRecord, Persist, PersistError, RunRecord};
use super::table::Clock;
use crate::nsm::{self, FanoutEvent, Host, News, Notice, NotifyOptions, Target, mounts};
use crate::wire::control::{ClientResult, Counts, Delivery, FullResult, Outcome, RunClient, RunResult};
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::{List, Text};

/// As in a run (statement 7).
const NO_ANSWER_AFTER: Duration = Duration::from_secs(10);
/// Retries of notices end after this (sm-notify's own limit).
const RETRY_FOR: Duration = Duration::from_mins(15);
/// Events of the fan-out that may wait to be logged.
const EVENTS: usize = 256;

/// Makes this life's NSM state durable, and the result of a run that the restart superseded.
///
/// The very first number is taken from the clock: a server whose state directory was lost does not
/// repeat one that its clients have seen already (the same number again is ignored by them).
pub async fn start_state(persist: &Persist, found: &mut Found, clock: Clock) -> Result<NsmState, PersistError> {
    let state = match found.nsm_state {
        Some(last) => last.next_up(),
        None => NsmState(i32::try_from(clock.unix_ms() / 1000).unwrap_or(i32::MAX) | 1),
    };
    if let Some(run) = found.run.take() {
        tracing::warn!(run = %run.run, "a run was active when nlmd went down; recovery supersedes it");
        found.ended.push(run.run);
        persist.write(Change::Ended(Arc::new(superseded(run, clock.unix_ms())))).await?;
    }
    persist.write(Change::State(state)).await?;
    Ok(state)
}

/// Of a superseded run nobody knows what was reclaimed: the counts died with the process.
fn superseded(run: RunRecord, now_unix_ms: u64) -> FullResult {
    let unverified = |locks| Counts { in_scope: locks, unverified: locks, ..Counts::default() };
    let result_of = |client: RunClient| {
        let address = client.addresses.as_slice().first().copied()?;
        Some(ClientResult {
            client: client.index,
            name: client.name,
            address,
            delivery: Delivery::NotTold,
            suspect: client.suspect,
            silent: false,
            counts: unverified(client.locks),
        })
    };
    FullResult {
        result: RunResult {
            run: run.run,
            outcome: Outcome::Superseded,
            reason: Text::clipped("nlmd restarted; its recovery grace took over"),
            alone: true,
            not_understood: false,
            mode: run.mode,
            old_state: run.old_state,
            new_state: run.new_state,
            began_unix_ms: run.began_unix_ms,
            ended_unix_ms: now_unix_ms,
            counts: unverified(run.in_scope),
            late: 0,
        },
        clients: List::clipped(run.clients.into_iter().filter_map(result_of).collect()),
        locks: List::default(),
    }
}

/// Says so where notices will cost this host's own processes their locks (statement 12).
pub fn warn_of_own_mounts() {
    match mounts::read_nlm_mounts(std::path::Path::new(mounts::MOUNTINFO)) {
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

/// What to tell each client: from every server address it called, under every name.
fn targets(monitors: &[MonitorRecord], names: &[CallerName]) -> Vec<Target> {
    let notices = |record: &MonitorRecord| {
        let from: Vec<Option<std::net::IpAddr>> = match record.server_addresses.as_slice() {
            [] => vec![None],
            addresses => addresses.iter().copied().map(Some).collect(),
        };
        let each = |from| names.iter().map(move |name| Notice { from, name: name.clone() });
        from.into_iter().flat_map(each).collect()
    };
    let target = |(id, record): (u32, &MonitorRecord)| Target {
        id,
        host: Host::Addresses(record.addresses.clone()),
        notices: notices(record),
    };
    (0..).zip(monitors).map(target).collect()
}

/// Tells every client of the last life about this one, until each has acked or gave no answer for long.
pub async fn notify(
    monitors: Vec<MonitorRecord>,
    names: Vec<CallerName>,
    state: NsmState,
    rpcbind_port: u16,
    clock: Clock,
) {
    let (events, mut learned) = mpsc::channel::<FanoutEvent>(EVENTS);
    let options = NotifyOptions {
        rpcbind_port,
        state,
        epoch: clock.start,
        retry_until: clock.now() + RETRY_FOR,
        no_answer_after: NO_ANSWER_AFTER,
    };
    tracing::info!(clients = monitors.len(), nsm_state = %state, "telling the clients of the last life of this restart");
    let fan_out = nsm::notify(targets(&monitors, &names), options, events);
    let log = async {
        let mut told = 0_usize;
        while let Some(event) = learned.recv().await {
            let client = monitors.get(event.id as usize).map_or("?", |record| record.name.as_str());
            match event.news {
                News::Acked { acked, of, .. } if acked == of => told += 1,
                News::Acked { .. } | News::SentAgain | News::State(_) => {}
                News::GivenUp { delivery, error, last } => {
                    let error = error.unwrap_or_default();
                    tracing::info!(client, ?delivery, last, error, "a client was not told of this restart");
                }
            }
        }
        tracing::info!(told, clients = monitors.len(), "notices of this restart are done");
    };
    let (sent, ()) = tokio::join!(fan_out, log);
    if let Err(error) = sent {
        tracing::error!(%error, "clients are not told of this restart: they will not reclaim their locks");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lockd::persist;
    use crate::wire::control::{Mode, RunId};
    use std::time::Instant;

    fn clock() -> Clock {
        Clock { start: Instant::now() }
    }

    #[tokio::test]
    async fn each_start_has_a_new_odd_number_that_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = None;
        for _ in 0..3 {
            let (persist, writer, mut found) = persist::open(dir.path()).unwrap();
            assert_eq!(found.nsm_state, last);
            let state = start_state(&persist, &mut found, clock()).await.unwrap();
            assert!(state.is_up() && Some(state) != last);
            last = Some(state);
            drop(persist);
            writer.join();
        }
    }

    #[tokio::test]
    async fn a_run_cut_short_becomes_a_superseded_result() {
        let dir = tempfile::tempdir().unwrap();
        let (persist, writer, _) = persist::open(dir.path()).unwrap();
        let run = RunRecord {
            run: RunId([7; 16]),
            mode: Mode::Strict,
            old_state: NsmState(1),
            new_state: NsmState(3),
            began_unix_ms: 5,
            in_scope: 12,
            clients: Vec::new(),
        };
        persist.write(Change::Begin(run)).await.unwrap();
        drop(persist);
        writer.join();

        let (persist, _writer, mut found) = persist::open(dir.path()).unwrap();
        let state = start_state(&persist, &mut found, clock()).await.unwrap();
        assert_eq!(state, NsmState(5), "after the run's own number");
        assert_eq!(found.ended, [RunId([7; 16])]);
        let full = persist.result(RunId([7; 16])).await.unwrap().unwrap();
        assert_eq!(full.result.outcome, Outcome::Superseded);
        assert_eq!(full.result.counts.unverified, 12);
    }

    #[test]
    fn notices_leave_from_each_address_under_each_name() {
        let name = |text| CallerName::new(text).unwrap();
        let record = MonitorRecord {
            name: name("client"),
            addresses: vec!["127.0.0.2".parse().unwrap()],
            server_addresses: vec!["127.0.0.1".parse().unwrap(), "127.0.0.9".parse().unwrap()],
            nsm_state: NsmState(3),
        };
        let targets = targets(&[record], &[name("server.example.org"), name("server")]);
        assert_eq!(targets[0].notices.len(), 4);
        assert_eq!(targets[0].notices[1].name.as_str(), "server");
        assert_eq!(targets[0].notices[2].from, Some("127.0.0.9".parse().unwrap()));
    }
}
