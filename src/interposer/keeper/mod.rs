//! The keeper: a lock manager that cooperates, in front of a lockd that does not.
//!
//! # Theory
//! It serves the control protocol on a Unix socket, so that a run over the kernel's lockd is driven by the same controller
//! as one over nlmd, and judged by the same code: the account of the run is a lock table that follows lockd ([`account`]).
//! One task owns all of it ([`Keeper`](state::Keeper)); calls come to it one after the other.
//!
//! ```text
//!         begin                       settle                     latest deadline
//!   idle -------> grace ------------------------------> drain ------------------> idle
//!                   |  hold, walk, UNLOCK, walk, let go   ^  none is refused, late
//!                   +------------- abort -----------------+  reclaims are granted
//!                   +------------- superseded ----------------------------------> idle
//! ```
//!
//! What must hold:
//! - Notices may leave when `begin` has answered: then the new state number is durable, every LOCK that is not a
//!   reclaim is treated as the mode says, this was tested, and the run is on disk.
//! - A lock is freed only by policy, while its client is held at the gate, has no call without a reply, and lockd's own
//!   records show it as that owner's. It counts as dropped when they no longer show it.
//! - A lock is kept if anything about it is unsure.
//! - When a keeper dies, its rules go with it. The next keeper finds the run on disk, drops nothing and reports this.
//! - A lock whose reclaim may have been refused is kept by every later run, until its client surely knows it again.
//!
//! | file | what | |
//! |---|---|---|
//! | `account` | the table that follows lockd | pure |
//! | `callers` | who calls lockd, and why its locks are kept | pure |
//! | `requests` | requests and locks, as the account's table has them | pure |
//! | `open_calls` | calls that lockd has not answered yet | pure |
//! | `queued` | requests that lockd has queued, and may grant unseen | pure |
//! | `called` | whether this host still has the addresses that a run's clients call | |
//! | `filter_link` | orders to the filter, and its events | |
//! | `start` | from the plan to grace | |
//! | `settling` | settle | |
//! | `ending` | abort, and where the run is superseded | |
//! | `draining` | late reclaims after the run | |
//! | `drops` | which locks an UNLOCK is sent for, and its result | |
//! | `doubt` | locks that a run leaves unsure, for later runs to keep | |
//! | `run_files` | runs on disk | |
//! | `owed` | a result that could not be written yet | |
//! | `service` | the control protocol | |
//! | `platform` | the interface to lockd, its clients and the gate | |
//! | `kernel` | that interface on a real host | |
//! | `state` | the keeper itself; start reading at [`Keeper::live`](state::Keeper::live) | |
//! | `mod` | its process | |

mod account;
mod called;
mod callers;
mod doubt;
mod draining;
mod drops;
mod ending;
mod filter_link;
mod kernel;
mod open_calls;
mod owed;
mod platform;
mod queued;
mod requests;
mod run_files;
mod service;
mod settling;
mod start;
mod state;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use self::kernel::{Kernel, patient};
use self::run_files::KeeperFiles;
use self::service::KeeperHandle;
use self::state::Keeper;
use crate::host::try_lock;
use crate::manager::knfsd::hidden::READY;
use crate::rpc::control::ControlSocket;

/// Calls that wait for the keeper.
const CALLS: usize = 64;
/// The file whose OS lock says that a keeper is at work.
const LOCK: &str = "keeper.lock";

/// The keeper's own life: `args` are those behind its command, its folder and its socket.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(dir), Some(socket)) = (args.next().map(PathBuf::from), args.next().map(PathBuf::from)) else {
        return ExitCode::from(2);
    };
    let served = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(serve(&dir, &socket)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Read by nlmctl, as long as it waits for the word that all is ready.
            let _ = writeln!(std::io::stdout(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// The process in front of lockd.
enum Turn {
    Ours(File),
    AnothersThatServes,
}

fn say_ready() -> Result<(), String> {
    writeln!(std::io::stdout(), "{READY}").map_err(|error| format!("nlmctl is gone already: {error}"))
}

async fn serve(dir: &Path, socket: &Path) -> Result<(), String> {
    // What a terminal sends to nlmctl's session is not for the keeper.
    nix::unistd::setsid().map_err(|error| format!("cannot leave the session: {error}"))?;
    let words = |error: std::io::Error| format!("{}: {error}", dir.display());
    let run_files = KeeperFiles::open(dir).map_err(words)?;
    // One that ends just now is waited for: no other caller is here yet that could be held up. One that was started at the
    // same time will serve in a moment.
    let turn = patient(|| match try_lock(&dir.join(LOCK)).map_err(words)? {
        Some(lock) => Ok(Some(Turn::Ours(lock))),
        None => Ok(UnixStream::connect(socket).is_ok().then_some(Turn::AnothersThatServes)),
    })?;
    let _lock = match turn.ok_or("another process stands in front of lockd, and does not answer")? {
        Turn::Ours(lock) => lock,
        Turn::AnothersThatServes => return say_ready(),
    };
    let platform = Arc::new(Kernel::new(Path::new("/proc/self/exe")));
    let keeper = Keeper::new(platform, run_files).map_err(words)?;
    let served = ControlSocket::bind(socket, false).await.map_err(|error| error.to_string())?;
    let (asks, asked) = mpsc::channel(CALLS);
    let handle = Arc::new(KeeperHandle { asks, cursor: keeper.timeline.subscribe() });
    let (stop, stopping) = watch::channel(false);
    let control = tokio::spawn(served.serve(handle, stopping));
    say_ready()?;
    Box::pin(keeper.live(asked)).await;
    stop.send_replace(true);
    let _ = control.await;
    Ok(())
}
