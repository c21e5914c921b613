//! The two ways to make lockd forget its locks and start grace.
//!
//! - *Signal*: SIGKILL to lockd's thread makes it drop every NLM lock and start grace, when the next
//!   call wakes it; a NULL call does, at once, before a LOCK can. NFS service goes on. Linux 6.6
//!   and newer ignore the signal.
//! - *Stop*: with nfsd's last thread lockd ends and its locks go; with the next first one it starts, in
//!   grace. NFS service stops in between, and the reply cache is lost.
//!
//! Which way works is seen by its effect: grace is on, and no client's lock is held.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::KnfsdError;
use super::guard::Guard;
use super::records::SavedRecords;
use super::saved::Saved;
use super::settings::Settings;
use super::snapshot;
use crate::host::{Lockd, Machine, StatdDir};
use crate::manager::adapter::{Dropped, Snapshot};
use crate::rpc::client::{CallError, Request, Retransmit, UdpClient};
use crate::rpc::program::{Host, Listener, ProgramError};
use crate::rpc::udp::UdpEndpoint;
use crate::units;
use crate::wire::nlm;
use crate::wire::rpc::Credential;
use crate::wire::types::Transport;

/// How long the effect of a signal is waited for.
const EFFECT: Duration = Duration::from_secs(3);
/// Between two looks for it.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const NULL_TIMEOUT: Duration = Duration::from_millis(300);
const RPCBIND_TIMEOUT: Duration = Duration::from_secs(2);

/// What one of the two ways came to.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The locks were dropped and grace is on.
    Dropped(Dropped),
    /// It failed before lockd or nfsd were touched.
    Untouched(KnfsdError),
    /// All is as before, after this time of waiting, or of nfsd being stopped: lockd kept its locks.
    NoEffect(Duration),
    Lost(KnfsdError),
}

/// Calls to this host's lockd.
#[derive(Debug)]
pub(super) struct LockdLine {
    udp: UdpClient,
    lockd: Listener,
}

impl LockdLine {
    /// Finds lockd's port. Calls leave from a port below 1024 if this process may take one: lockd
    /// believes the host's statd from there alone.
    pub(super) async fn open() -> Result<Self, KnfsdError> {
        let socket = |error: std::io::Error| KnfsdError::Call { what: "a socket for lockd", error: error.into() };
        let endpoint = UdpEndpoint::bind_reserved(Ipv4Addr::LOCALHOST.into()).map_err(socket)?;
        let udp = UdpClient::new(
            Arc::new(endpoint),
            Retransmit { first: Duration::from_millis(50), ..Retransmit::default() },
        );
        let transports = [Transport::Udp, Transport::Tcp];
        let lockd = host(&udp).find(nlm::PROGRAM, nlm::Version::V3 as u32, &transports).await.map_err(|error| {
            let what = match error {
                ProgramError::NotRegistered => "lockd is not registered with rpcbind",
                _ => "cannot ask rpcbind for lockd's port",
            };
            KnfsdError::Call { what, error: error.into() }
        })?;
        Ok(Self { udp, lockd })
    }

    /// Calls a procedure of NLM version 3.
    pub(super) async fn call(
        &self,
        procedure: nlm::Procedure,
        args: &[u8],
        timeout: Duration,
    ) -> Result<(), CallError> {
        let request = Request {
            program: nlm::PROGRAM,
            version: nlm::Version::V3 as u32,
            procedure: procedure as u32,
            credential: &Credential::root("localhost"),
            args,
        };
        host(&self.udp).call_at(self.lockd, request, timeout).await?;
        Ok(())
    }
}

fn host(client: &UdpClient) -> Host<'_> {
    Host::local(client, crate::wire::rpcbind::PORT, RPCBIND_TIMEOUT)
}

/// Whether the locks are gone and ordinary requests are refused.
fn is_dropped(machine: &Machine) -> Result<bool, KnfsdError> {
    Ok(machine.nlm_in_grace()? && snapshot::look(machine)?.0.locks.is_empty())
}

/// Woken by calls until the effect of a signal is seen; false if there is none.
async fn wake(machine: &Machine, line: &LockdLine) -> Result<bool, KnfsdError> {
    let until = Instant::now() + EFFECT;
    loop {
        // Its answer counts for nothing, only that it wakes lockd.
        let _ = line.call(nlm::Procedure::Null, &[], NULL_TIMEOUT).await;
        if is_dropped(machine)? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Lets lockd take a signal that an earlier nlmctl may have sent it and not lived to wake it for: the
/// next client's call would, and drop what looked held until then.
pub(super) async fn let_it_take_a_signal(machine: &Machine) -> Result<(), KnfsdError> {
    let line = LockdLine::open().await?;
    if wake(machine, &line).await? {
        tracing::warn!("lockd has dropped its locks on a signal of an earlier nlmctl");
    }
    Ok(())
}

/// All that can be changed back; the next grace lasts this long then.
fn prepare(
    machine: &Machine,
    dir: &Path,
    statd: &StatdDir,
    settings: Option<Settings>,
    wanted: Duration,
) -> Result<(Saved, Duration), KnfsdError> {
    let saved = Saved::read(machine, settings, SavedRecords::read(statd)?)?;
    saved.keep(dir)?;
    saved.want_grace(machine, wanted)?;
    Ok((saved, Saved::grace(machine)?))
}

/// What goes with the locks, seen as late as can be. The records come last: who has none is not told.
fn last_look(machine: &Machine, dir: &Path, statd: &StatdDir, saved: &mut Saved) -> Result<Snapshot, KnfsdError> {
    let before = snapshot::look(machine)?.0;
    saved.renew_records(dir, || SavedRecords::read(statd))?;
    Ok(before)
}

/// After a failure before anything was dropped. What cannot be changed back now stays on disk for the next
/// nlmctl.
fn untouched(machine: &Machine, dir: &Path, error: KnfsdError) -> Attempt {
    if let Ok(Some(saved)) = Saved::find(dir) {
        let _ = saved.put_back(machine, dir);
    }
    Attempt::Untouched(error)
}

pub(super) async fn by_signal(
    machine: &Machine,
    dir: &Path,
    statd: &StatdDir,
    lockd: Lockd,
    wanted: Duration,
) -> Attempt {
    let line = match LockdLine::open().await {
        Ok(line) => line,
        Err(error) => return Attempt::Untouched(error),
    };
    let sent = prepare(machine, dir, statd, None, wanted).and_then(|(mut saved, grace)| {
        let before = last_look(machine, dir, statd, &mut saved)?;
        kill(Pid::from_raw(lockd.pid), Signal::SIGKILL)
            .map_err(|error| KnfsdError::Stuck(format!("cannot send lockd a signal: {error}")))?;
        Ok((saved, grace, before))
    });
    let (saved, grace, before) = match sent {
        Ok(sent) => sent,
        Err(error) => return untouched(machine, dir, error),
    };
    let since = Instant::now();
    let seen = wake(machine, &line).await;
    match (seen, saved.put_back(machine, dir)) {
        (Ok(true), Ok(mut notes)) => {
            notes.push("lockd dropped its locks on a signal; NFS service went on".into());
            Attempt::Dropped(Dropped { grace, before: Some(before), notes })
        }
        (Ok(false), Ok(_)) => Attempt::NoEffect(since.elapsed()),
        (Err(error), _) | (_, Err(error)) => Attempt::Lost(error),
    }
}

/// Stops and starts nfsd, with a guard. Blocks for as long as that takes.
pub(super) fn by_stopping(
    machine: &Machine,
    dir: &Path,
    program: &Path,
    statd: &StatdDir,
    wanted: Duration,
) -> Attempt {
    let prepared = || {
        let (mut saved, grace) = prepare(machine, dir, statd, Some(Settings::read(machine)?), wanted)?;
        let guard = Guard::start(program, dir)?;
        match last_look(machine, dir, statd, &mut saved) {
            Ok(before) => Ok((saved, guard, grace, before)),
            Err(error) => {
                guard.dismiss();
                Err(error)
            }
        }
    };
    let (saved, guard, grace, before) = match prepared() {
        Ok(ready) => ready,
        Err(error) => return untouched(machine, dir, error),
    };
    let down = Instant::now();
    let stopped = machine
        .write("proc/fs/nfsd/threads", "0\n")
        .and_then(|()| Ok(machine.lockd()?.is_none() || snapshot::look(machine)?.0.locks.is_empty()));
    let back = saved.bring_nfsd_back(machine);
    let down = down.elapsed();
    if let Err(error) = back {
        // It tries again, with the same settings.
        let then = if guard.relieve() { "the guard brought it back" } else { "the guard goes on trying for minutes" };
        return Attempt::Lost(KnfsdError::Stuck(format!("nfsd did not come back at once: {error}; {then}")));
    }
    let in_grace = machine.nlm_in_grace();
    let rest = saved.put_back(machine, dir);
    guard.dismiss();
    match (stopped, in_grace, rest) {
        (Ok(true), Ok(true), Ok(mut notes)) => {
            notes.push(format!("nfsd was stopped for {}; its reply cache is lost", units::duration(down)));
            Attempt::Dropped(Dropped { grace, before: Some(before), notes })
        }
        (Ok(false), _, Ok(_)) => Attempt::NoEffect(down),
        (Ok(true), Ok(false), Ok(_)) => {
            Attempt::Lost(KnfsdError::Stuck("nfsd was stopped and started, and lockd did not start grace".into()))
        }
        (Err(error), ..) | (_, Err(error), _) => Attempt::Lost(error.into()),
        (.., Err(error)) => Attempt::Lost(error),
    }
}
