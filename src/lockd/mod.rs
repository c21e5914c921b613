//! nlmd, the daemon: the lock table on the network, and a disk behind it.
//!
//! # Theory
//! ```text
//!  UDP, TCP --> rpc::server --> nlm_service --.                     .--> persist (one thread, SQLite)
//!               (reply cache)   nsm_service --+--> table (one task)-+--> callbacks (GRANTED to clients)
//!  Unix ------> control_socket  control_service'                    '--> timeline (watchers)
//! ```
//! One task owns the lock table (`table`); everything else asks it. One thread owns the database
//! (`persist`). One reply cache is shared by all sockets, so that a late duplicate of a LOCK after
//! its UNLOCK, or the other way round, is answered and not executed.
//!
//! | file | what |
//! |---|---|
//! | `flags` | the command line |
//! | `sockets` | what is listened on; the ports file |
//! | `gate`, `dispatch` | who may call what |
//! | `nlm_service`, `nsm_service` | bytes to the table and back |
//! | `control_socket`, `control_service` | the control protocol |
//! | `table` | the owner of the lock table; start reading there |
//! | `callbacks` | calls to clients |
//! | `monitors` | what programs of this host monitor (SM_MON) |
//! | `statd` | this host's rpc.statd as the status monitor |
//! | `persist` | what survives a crash |
//! | `registry` | rpcbind's entries |
//! | `recovery` | what a start does about the life before |
//!
//! To stop (SIGTERM, SIGINT): sockets take nothing new, open calls are finished, rpcbind forgets
//! us, the database is flushed. A run that is active then is superseded at the next start.

pub mod callbacks;
pub mod control_service;
pub mod control_socket;
pub mod dispatch;
pub mod flags;
pub mod gate;
pub mod monitors;
pub mod nlm_service;
pub mod nsm_service;
pub mod persist;
pub mod recovery;
pub mod registry;
pub mod sockets;
pub mod statd;
pub mod table;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::locks::LockTable;
use crate::nsm::own_names::{self, OwnNameError};
use crate::nsm::state_file::{StateFile, StateFileError};
use crate::rpc::reply_cache::CacheLimits;
use crate::rpc::rpcbind::RegisterError;
use crate::rpc::server::{Limits, Service, SharedCache, serve_tcp, serve_udp, shared_cache};
use crate::wire::control::InstanceId;

use callbacks::Callbacks;
use control_service::{ControlService, Identity};
use control_socket::ControlSocket;
use flags::{Flags, NsmKind};
use gate::Gate;
use monitors::Monitors;
use nlm_service::NlmService;
use nsm_service::NsmService;
use persist::PersistError;
use sockets::{ProgramSockets, Sockets};
use statd::Statd;
use table::{Clock, Setup, StatdSetup};

/// How long the last writes may take at a stop.
const FLUSH: Duration = Duration::from_secs(10);

/// Why nlmd did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The state directory.
    #[error(transparent)]
    State(#[from] PersistError),
    /// A network socket.
    #[error(transparent)]
    Listen(#[from] sockets::ListenError),
    /// The socket to call clients from.
    #[error(transparent)]
    Callbacks(#[from] callbacks::NoSocket),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] control_socket::SocketError),
    /// This host's names.
    #[error(transparent)]
    Names(#[from] OwnNameError),
    /// rpcbind has another server's entry.
    #[error(transparent)]
    Rpcbind(#[from] RegisterError),
    /// The ports file.
    #[error("cannot write the ports to {path}: {source}; give --ports-file a path in a folder that nlmd may write")]
    PortsFile {
        /// Where.
        path: std::path::PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The NSM state number.
    #[error(transparent)]
    Start(#[from] recovery::StartError),
    /// rpc.statd's folder.
    #[error(transparent)]
    Statd(#[from] StateFileError),
    /// Threads, signals.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A socket failed while serving.
    #[error("a socket failed: {0}")]
    Serving(io::Error),
}

impl Failure {
    /// 4: the state directory is another's; 1: anything else.
    fn exit(&self) -> u8 {
        match self {
            Self::State(PersistError::InUse(_)) => 4,
            Self::State(_)
            | Self::Listen(_)
            | Self::Callbacks(_)
            | Self::Control(_)
            | Self::Names(_)
            | Self::Rpcbind(_)
            | Self::Start(_)
            | Self::Statd(_)
            | Self::PortsFile { .. }
            | Self::System(_)
            | Self::Serving(_) => 1,
        }
    }
}

/// Runs nlmd. Exit: 0 stopped by a signal, 1 failed, 2 usage, 4 state directory in use.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let flags = match Flags::parse_whole(args) {
        Ok(flags) => flags,
        Err(error) => return usage(&error),
    };
    log_to_stderr(flags.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(Failure::System).and_then(|runtime| {
        let outcome = runtime.block_on(serve(flags));
        // A name look-up that hangs must not hold up the exit.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::from(failure.exit())
        }
    }
}

/// Clap's words: help and version are no errors and go to stdout.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is quiet.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn log_to_stderr(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second call in one process (tests) keeps the first one's settings.
    let _ = if json { log.json().try_init() } else { log.with_ansi(false).try_init() };
}

async fn serve(flags: Flags) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    raise_open_files();
    let clock = Clock { start: Instant::now() };
    let (persist, writer, mut found) = persist::open(&flags.state_dir)?;
    let names = own_names::own_names(&flags.name).await?;
    let (addresses, lenient) = flags.listen_addresses();
    let embedded = flags.nsm == NsmKind::Embedded;
    let sockets = Sockets::open(&addresses, lenient, flags.nlm_port, embedded.then_some(flags.nsm_port))?;
    let state_file = if embedded { None } else { Some(StateFile::find(flags.statd_dir.as_deref())?) };
    let control = ControlSocket::bind(&flags.control, false).await?;
    let control_ro = match &flags.control_ro {
        Some(path) => Some(ControlSocket::bind(path, true).await?),
        None => None,
    };
    let callbacks = Callbacks::new(flags.rpcbind_port, names.first().map_or("nlmd", |name| name.as_str()))?;
    let statd = match (state_file.clone(), names.first()) {
        (Some(state_file), Some(name)) => {
            Some(StatdSetup { statd: Statd::new(flags.rpcbind_port, name.clone())?, state_file })
        }
        (None, _) | (_, None) => None,
    };
    let registered = if flags.no_rpcbind {
        Vec::new()
    } else {
        registry::register(flags.rpcbind_port, &sockets.registrations()).await?
    };

    // From here on clients of the last life count on this one.
    let nsm_state = recovery::start_state(&persist, &mut found, clock, state_file.as_ref(), &recovery::boot()).await?;
    let monitors = found.monitors.clone();
    let (records, to_tell) = (std::mem::take(&mut found.local_monitors), std::mem::take(&mut found.to_tell));
    let recovery_until = (!monitors.is_empty()).then(|| clock.now() + flags.grace);
    let identity = Identity { instance: InstanceId(uuid::Uuid::new_v4().into_bytes()), names: names.clone() };
    let (table, owner) = table::spawn(Setup {
        clock,
        table: LockTable::new(flags.limits()),
        persist: persist.clone(),
        callbacks: callbacks.clone(),
        instance: identity.instance,
        names: names.clone(),
        nsm_state,
        found,
        statd,
        recovery_until,
    });
    let local_monitors = Monitors::spawn(monitors::Setup {
        persist: persist.clone(),
        table: table.clone(),
        clock,
        names: names.clone(),
        rpcbind_port: flags.rpcbind_port,
        records,
        to_tell,
    })?;

    let (stop, stopping) = watch::channel(false);
    let ports = sockets.ports();
    let gate = Arc::new(Gate::new(flags.allow.clone(), flags.rules()));
    let cache = shared_cache(CacheLimits::default());
    let nlm: Arc<dyn Service> = Arc::new(NlmService { table: table.clone(), callbacks, gate: gate.clone() });
    let nsm: Arc<dyn Service> = Arc::new(NsmService { table: table.clone(), monitors: local_monitors.clone(), gate });
    let mut serving = JoinSet::new();
    serve_program(sockets.nlm, &nlm, &cache, &stopping, &mut serving);
    serve_program(sockets.nsm, &nsm, &cache, &stopping, &mut serving);
    let runs = (!monitors.is_empty()).then(|| table.clone());
    let control_service = Arc::new(ControlService::new(table, persist, identity));
    let ids = Arc::new(AtomicU64::new(1));
    for socket in [Some(control), control_ro].into_iter().flatten() {
        let (service, ids, stopping) = (control_service.clone(), ids.clone(), stopping.clone());
        serving.spawn(async move {
            socket.serve(service, ids, stopping).await;
            Ok(())
        });
    }
    drop((nlm, nsm, control_service));
    if let Some(path) = &flags.ports_file {
        sockets::write_ports_file(path, ports).map_err(|source| Failure::PortsFile { path: path.clone(), source })?;
    }
    tracing::info!(?ports, control = %flags.control.display(), %nsm_state, clients = monitors.len(), "nlmd is up");
    let mut notices = JoinSet::new();
    if let Some(runs) = runs {
        recovery::warn_of_own_mounts();
        notices.spawn(async move {
            // A client that was told a run's number must not hear an older one after it.
            tokio::select! {
                biased;
                () = runs.run_begun() => {
                    tracing::info!("a run has a newer NSM state: notices of this restart end");
                }
                () = recovery::notify(monitors, names, nsm_state, flags.rpcbind_port, clock) => {}
            }
        });
    }

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = serving.join_next() => Err(match ended {
            Ok(Err(error)) => Failure::Serving(error),
            Ok(Ok(())) => Failure::Serving(io::Error::other("it ended")),
            Err(error) => Failure::Serving(io::Error::other(error)),
        }),
    };
    tracing::info!("stopping");
    let _ = stop.send(true);
    drop((notices, local_monitors));
    while serving.join_next().await.is_some() {}
    registry::unregister(flags.rpcbind_port, &registered).await;
    // The last handle of the table is gone with the services: its task ends, and with it the last
    // handle of the database.
    let flushed = async {
        let _ = owner.await;
        let _ = tokio::task::spawn_blocking(|| writer.join()).await;
    };
    if tokio::time::timeout(FLUSH, flushed).await.is_err() {
        tracing::error!("the state database is not closed in time; what was promised is on disk");
    }
    ended
}

/// A client over TCP takes a file; the usual soft limit of 1,024 is for programs that use select(2).
fn raise_open_files() {
    let files = Resource::RLIMIT_NOFILE;
    let raised = getrlimit(files).and_then(|(_, hard)| setrlimit(files, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

fn serve_program(
    sockets: ProgramSockets,
    service: &Arc<dyn Service>,
    cache: &SharedCache,
    stopping: &watch::Receiver<bool>,
    serving: &mut JoinSet<io::Result<()>>,
) {
    for endpoint in sockets.udp {
        serving.spawn(serve_udp(endpoint, service.clone(), cache.clone(), Limits::default(), stopping.clone()));
    }
    for listener in sockets.tcp {
        serving.spawn(serve_tcp(listener, service.clone(), cache.clone(), Limits::default(), stopping.clone()));
    }
}
