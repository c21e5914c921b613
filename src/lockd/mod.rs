//! nlmd, the daemon: the lock table on the network, and a disk behind it.
//!
//! # Theory
//! ```text
//!  UDP, TCP --> rpc::server --> nlm_service --.                     .--> persist (one thread, SQLite)
//!               (reply cache)   nsm_service --+--> table (one task)-+--> callbacks (GRANTED to clients)
//!  Unix ------> rpc::control    table::control'                     '--> timeline (watchers)
//! ```
//! One task owns the lock table (`table`); everything else asks it. One thread owns the database
//! (`persist`). One reply cache is shared by all sockets, so that a late duplicate of a LOCK after
//! its UNLOCK, or the other way round, is answered and not executed.
//!
//! | file | what |
//! |---|---|
//! | `flags` | the command line |
//! | `settings`, `server` | the same as values: start and stop, also inside another program |
//! | `sockets` | what is listened on; the ports file |
//! | `gate`, `dispatch`, `called` | who may call what; who has called since a run began |
//! | `nlm_service`, `nsm_service` | bytes to the table and back |
//! | `table` | the owner of the lock table; start reading there |
//! | `log` | lines on stderr, bounded whatever hosts cause |
//! | `callbacks` | GRANTED to clients |
//! | `turns` | which client is called next |
//! | `answers` | `_RES` to clients that call asynchronously |
//! | `embed`, `ofd` | what an embedding file server has a say in; a mirror for local file systems |
//! | `monitors` | what programs of this host monitor (SM_MON) |
//! | `statd` | this host's rpc.statd as the status monitor |
//! | `persist` | what survives a crash |
//! | `registry` | rpcbind's entries |
//! | `resolver` | where hosts of a name are |
//! | `recovery` | what a start does about the life before |
//!
//! To stop (nlmd does on SIGTERM and SIGINT): sockets take nothing new, open calls are finished, rpcbind forgets
//! us, the database is flushed. A run that is active then is superseded at the next start.

pub mod answers;
pub mod callbacks;
pub mod called;
pub mod dispatch;
pub mod embed;
pub mod flags;
pub mod gate;
mod log;
pub mod monitors;
pub mod nlm_service;
pub mod nsm_service;
pub mod ofd;
pub mod persist;
pub mod recovery;
pub mod registry;
pub mod resolver;
mod server;
mod settings;
pub mod sockets;
pub mod statd;
pub mod table;
mod turns;

use std::ffi::OsString;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use tokio::signal::unix::{SignalKind, signal};

use crate::host::keep_capabilities;
use embed::Embedding;
use flags::Flags;
use log::Log;
use persist::PersistError;

pub use flags::NsmKind;
pub use server::{Failure, Server};
pub use settings::Settings;

/// Runs nlmd. Exit: 0 stopped by a signal, 1 failed, 2 usage, 4 state directory in use.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let flags = match Flags::parse_whole(args) {
        Ok(flags) => flags,
        Err(error) => return usage(&error),
    };
    let log = Log::to_stderr(flags.log_json);
    keep(AT_START);
    // One thread: a call is a few microseconds of work, and handing it from one thread to another and
    // back costs more than that. What blocks (disk, names) has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(Failure::System).and_then(|runtime| {
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = serve(flags) => outcome,
                () = log.sum_up() => Ok(()),
            }
        });
        // A name look-up that hangs must not hold up the exit.
        runtime.shutdown_background();
        outcome
    });
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::from(exit(&failure))
        }
    };
    log.end();
    code
}

/// 4: the state directory is another's; 1: anything else.
fn exit(failure: &Failure) -> u8 {
    match failure {
        Failure::State(PersistError::InUse(_)) => 4,
        Failure::State(_)
        | Failure::Listen(_)
        | Failure::Callbacks(_)
        | Failure::Control(_)
        | Failure::Names(_)
        | Failure::Rpcbind(_)
        | Failure::Start(_)
        | Failure::Statd(_)
        | Failure::PortsFile { .. }
        | Failure::System(_)
        | Failure::Serving(_) => 1,
    }
}

/// Clap's words: help and version are no errors and go to stdout.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is quiet.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// What starting needs: ports below 1024, large receive buffers, the files of another user's rpc.statd, and
/// to see which process has a port that is wanted.
const AT_START: CapabilitySet = OF_STATDS_FILES
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYS_PTRACE);
/// With `--nsm statd`, each run writes rpc.statd's state number, which stays its owner's.
const OF_STATDS_FILES: CapabilitySet =
    CapabilitySet::CHOWN.union(CapabilitySet::FOWNER).union(CapabilitySet::DAC_OVERRIDE);

/// What serving needs: calls to clients leave from ports below 1024.
fn while_serving(nsm: NsmKind) -> CapabilitySet {
    match nsm {
        NsmKind::Embedded => CapabilitySet::NET_BIND_SERVICE,
        NsmKind::Statd => CapabilitySet::NET_BIND_SERVICE | OF_STATDS_FILES,
    }
}

fn keep(wanted: CapabilitySet) {
    if let Err(error) = keep_capabilities(wanted) {
        tracing::warn!(%error, "capabilities that are not needed could not be given up");
    }
}

async fn serve(flags: Flags) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    raise_open_files();
    let (ports_file, nsm) = (flags.ports_file.clone(), flags.nsm);
    let server = Server::start(flags.into(), Embedding::default()).await?;
    let written = ports_file.map_or(Ok(()), |path| {
        sockets::write_ports_file(&path, server.ports()).map_err(|source| Failure::PortsFile { path, source })
    });
    // The runtime's one thread, which is the one that peers can reach.
    keep(while_serving(nsm));
    let told_to_stop = async {
        if written.is_ok() {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    };
    let served = server.serve_until(told_to_stop).await;
    written.and(served)
}

/// Raises this process' limit of open files to what it may have. A client over TCP takes one, and so
/// does a locked file of `ofd`; the usual soft limit of 1,024 is for programs that use select(2).
pub fn raise_open_files() {
    let files = Resource::RLIMIT_NOFILE;
    let raised = getrlimit(files).and_then(|(_, hard)| setrlimit(files, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
