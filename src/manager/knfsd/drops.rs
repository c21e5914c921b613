//! The two ways to make lockd forget its locks and start grace.
//!
//! - *Signal*: SIGKILL to lockd's thread makes it drop every NLM lock and start grace, when the next
//!   call wakes it; a NULL call does, at once, before a LOCK can. NFS service goes on. Newer
//!   kernels ignore the signal.
//! - *Stop*: with nfsd's last thread lockd ends and its locks go; with the next first one it starts, in
//!   grace. NFS service stops in between, and the reply cache is lost.
//!
//! Which one works is seen by its effect: grace is on, and no client's lock is held.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::KnfsdError;
use super::guard::Guard;
use super::proc::{Lockd, Proc};
use super::saved::Saved;
use super::settings::Settings;
use super::statd::Statd;
use crate::manager::driven::Dropped;
use crate::rpc::client::{CallError, Request, Retransmit, Source, StreamClient, UdpClient};
use crate::rpc::rpcbind;
use crate::rpc::udp::UdpEndpoint;
use crate::wire::nlm;
use crate::wire::rpc::Credential;
use crate::wire::types::Transport;

/// How long the effect of a signal is waited for.
const EFFECT: Duration = Duration::from_secs(3);
/// Between two looks for it.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long one NULL call may take.
const NULL_TIMEOUT: Duration = Duration::from_millis(300);
/// How long rpcbind may take.
const RPCBIND_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer of lockd's that is taken.
const MAX_RECORD: usize = 4096;

/// What stopping and starting came to.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The locks were dropped and grace is on.
    Dropped(Dropped),
    /// Nothing could be stopped: all is as before.
    Untouched(KnfsdError),
    /// nfsd was stopped and runs again, and lockd kept its locks.
    NoEffect(Duration),
    /// Nobody knows.
    Lost(KnfsdError),
}

/// Calls to this host's lockd.
#[derive(Debug)]
pub(super) struct LockdLine {
    to: SocketAddr,
    line: Line,
}

#[derive(Debug)]
enum Line {
    Udp(UdpClient),
    Tcp,
}

impl LockdLine {
    /// Finds lockd's port. Calls leave from a port below 1024 if this process may take one: lockd
    /// believes the host's statd from there alone.
    pub(super) async fn open() -> Result<Self, KnfsdError> {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let socket = |error: std::io::Error| KnfsdError::Call { what: "a socket for lockd", error: error.into() };
        let endpoint = UdpEndpoint::bind_reserved(loopback).map_err(socket)?;
        let udp = UdpClient::new(
            Arc::new(endpoint),
            Retransmit { first: Duration::from_millis(50), ..Retransmit::default() },
        );
        let rpcbind = SocketAddr::new(loopback, crate::wire::rpcbind::PORT);
        for transport in [Transport::Udp, Transport::Tcp] {
            let (program, version) = (nlm::PROGRAM, nlm::Version::V3 as u32);
            let port = rpcbind::getport(&udp, rpcbind, None, program, version, transport, RPCBIND_TIMEOUT)
                .await
                .map_err(|error| KnfsdError::Call { what: "cannot ask rpcbind for lockd's port", error })?;
            if let Some(port) = port {
                let to = SocketAddr::new(loopback, port);
                let line = if transport == Transport::Udp { Line::Udp(udp) } else { Line::Tcp };
                return Ok(Self { to, line });
            }
        }
        Err(KnfsdError::Call { what: "lockd is not registered with rpcbind", error: CallError::NotThere })
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
        match &self.line {
            Line::Udp(udp) => udp.call(self.to, None, request, timeout).await?,
            Line::Tcp => {
                let source = Source { reserved: true, ..Source::default() };
                let stream = StreamClient::connect_tcp(self.to, source, MAX_RECORD, timeout).await?;
                stream.call(request, timeout).await?
            }
        };
        Ok(())
    }
}

/// Whether the locks are gone and ordinary requests are refused.
fn is_dropped(proc: &Proc) -> Result<bool, KnfsdError> {
    Ok(proc.nlm_in_grace()? && proc.sight()?.locks.is_empty())
}

/// The signal; none if it had no effect, and nothing has changed then.
pub(super) async fn by_signal(
    proc: &Proc,
    dir: &Path,
    statd: &Statd,
    lockd: Lockd,
    wanted: Duration,
) -> Result<Option<Dropped>, KnfsdError> {
    let line = LockdLine::open().await?;
    let saved = Saved::read(proc, None, statd.records()?)?;
    saved.keep(dir)?;
    Saved::want_grace(proc, wanted)?;
    let grace = Saved::grace(proc)?;
    let sent = kill(Pid::from_raw(lockd.pid), Signal::SIGKILL)
        .map_err(|error| KnfsdError::Stuck(format!("cannot send lockd a signal: {error}")));
    let until = Instant::now() + EFFECT;
    let mut seen = sent.map(|()| false);
    while let Ok(false) = seen {
        // Its answer counts for nothing, only that it wakes lockd.
        let _ = line.call(nlm::Procedure::Null, &[], NULL_TIMEOUT).await;
        seen = is_dropped(proc);
        if seen.as_ref().is_ok_and(|seen| !seen) {
            if Instant::now() >= until {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    let mut notes = saved.put_back(proc, dir)?;
    notes.push("lockd dropped its locks on a signal; NFS service went on".into());
    Ok(seen?.then_some(Dropped { grace, notes }))
}

/// Has lockd heed a signal that it may have got and not looked at: it does between two calls. One that
/// does not answer may still drop its locks, so the caller must not count on them.
pub(super) async fn heed_signal() {
    let Ok(line) = LockdLine::open().await else { return };
    for _ in 0..2 {
        let _ = line.call(nlm::Procedure::Null, &[], NULL_TIMEOUT).await;
    }
}

/// Stops and starts nfsd, with a guard. Blocks for as long as that takes.
pub(super) fn by_stopping(proc: &Proc, dir: &Path, program: &Path, statd: &Statd, wanted: Duration) -> Stopped {
    let prepared = || {
        let saved = Saved::read(proc, Some(Settings::read(proc)?), statd.records()?)?;
        saved.keep(dir)?;
        Ok((saved, Guard::start(program, dir)?))
    };
    let (saved, guard) = match prepared() {
        Ok(ready) => ready,
        Err(error) => {
            // Nothing differs yet from what was saved.
            if let Ok(Some(saved)) = Saved::find(dir) {
                let _ = saved.put_back(proc, dir);
            }
            return Stopped::Untouched(error);
        }
    };
    let down = Instant::now();
    let stopped = Saved::want_grace(proc, wanted).and_then(|()| {
        let grace = Saved::grace(proc)?;
        proc.write("proc/fs/nfsd/threads", "0\n")?;
        Ok((grace, proc.lockd()?.is_none() || proc.sight()?.locks.is_empty()))
    });
    let back = saved.bring_nfsd_back(proc);
    let down = down.elapsed();
    if let Err(error) = back {
        // It tries again, with the same settings.
        guard.relieve();
        return Stopped::Lost(error);
    }
    let in_grace = proc.nlm_in_grace();
    let rest = saved.put_back(proc, dir);
    guard.dismiss();
    match (stopped, in_grace, rest) {
        (Ok((grace, true)), Ok(true), Ok(mut notes)) => {
            notes.push(format!("nfsd was stopped for {} ms; its reply cache is lost", down.as_millis()));
            Stopped::Dropped(Dropped { grace, notes })
        }
        (Ok((_, false)), _, Ok(_)) => Stopped::NoEffect(down),
        (Ok((_, true)), Ok(false), Ok(_)) => {
            Stopped::Lost(KnfsdError::Stuck("nfsd was stopped and started, and lockd did not start grace".into()))
        }
        (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => Stopped::Lost(error),
    }
}
