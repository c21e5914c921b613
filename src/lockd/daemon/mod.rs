//! nlmd as a process: its start, its signals, and its messages to the service manager.
//!
//! SIGTERM and SIGINT stop it in order. SIGHUP makes it read its config file again: names, `--allow` and the log's level
//! change at once, other changes need a restart. A terminal that is closed sends SIGHUP too, and must not end a server.

mod config_file;
mod flags;
mod log;

use std::ffi::OsString;
use std::process::ExitCode;

use rustix::thread::CapabilitySet;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::flags::Flags;
use self::log::Log;
use super::embed::Embedding;
use super::persist::PersistError;
use super::server::{Failure, Reload, Server};
use super::settings::NsmKind;
use super::{raise_open_files, sockets};
use crate::host::keep_capabilities;

/// Runs nlmd. Exit: 0 stopped by a signal, 1 failed, 2 usage, 4 state directory in use.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let flags = match Flags::parse_whole(args.clone()) {
        Ok(flags) => flags,
        Err(error) => return usage(&error),
    };
    let log = Log::to_stderr(flags.log_level.as_deref(), flags.log_json);
    keep(AT_START);
    let nsm = flags.nsm;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        // Peers reach these threads. The first thread starts nlmd, and needs more until it has.
        .on_thread_start(move || keep(while_serving(nsm)))
        .enable_all()
        .build();
    let outcome = runtime.map_err(Failure::System).and_then(|runtime| {
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = serve(flags, &args, &log) => outcome,
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

/// Beyond these, threads would mostly wait for the lock table, which executes one call at a time.
const MOST_WORKERS: usize = 4;

/// Threads that read sockets, execute calls and write replies.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS)
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
        | Failure::Serving(_)
        | Failure::Internal => 1,
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

async fn serve(mut flags: Flags, args: &[OsString], log: &Log) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    raise_open_files();
    let server = Server::start(flags.clone().into(), Embedding::default()).await?;
    let (ports, reload) = (server.ports(), server.reload());
    let written = flags.ports_file.clone().map_or(Ok(()), |path| {
        sockets::write_ports_file(&path, ports).map_err(|source| Failure::PortsFile { path, source })
    });
    keep(while_serving(flags.nsm));
    let told_to_stop = async {
        if written.is_ok() {
            tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
            while serves_on(&mut terminate, &mut interrupt, &mut hangup).await {
                read_again(&mut flags, args, &reload, log).await;
            }
        }
        tell(&[NotifyState::Stopping, NotifyState::Status("finishing open calls")]);
    };
    let served = server.serve_until(told_to_stop).await;
    written.and(served)
}

/// The next signal: true for SIGHUP.
async fn serves_on(terminate: &mut Signal, interrupt: &mut Signal, hangup: &mut Signal) -> bool {
    tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        _ = hangup.recv() => true,
    }
}

fn listed(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Takes over what has changed and can be. A file with an error changes nothing.
async fn read_again(flags: &mut Flags, args: &[OsString], reload: &Reload, log: &Log) {
    let now = NotifyState::monotonic_usec_now().ok();
    tell(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
    match Flags::parse_whole(args.iter().cloned()) {
        Ok(new) => match reload.apply(&new.name, new.allow.clone()).await {
            Ok(()) => {
                log.set_level(new.log_level.as_deref());
                let (names, allow) = (listed(&new.name), listed(&new.allow));
                tracing::info!(names, allow, level = new.log_level, "the config file was read again");
                let later = flags.wanting_a_restart(&new);
                if !later.is_empty() {
                    tracing::warn!("other changed options take effect after a restart: {}", later.join(", "));
                }
                // What wants a restart is compared with what holds now.
                (flags.name, flags.allow, flags.log_level) = (new.name, new.allow, new.log_level);
            }
            Err(error) => tracing::error!(%error, "the config file was not applied"),
        },
        Err(error) => {
            let words = error.to_string();
            let error = words.lines().next().unwrap_or_default();
            tracing::error!("the config file was not applied: {}", error.trim_start_matches("error: "));
        }
    }
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Tells systemd, or what else started nlmd and listens (sd_notify(3)).
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager was not told");
    }
}
