//! Start and stop: a lock manager as a value, for nlmd and for a file server that embeds it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::answers::Answers;
use super::callbacks::{self, Callbacks};
use super::callers::Called;
use super::embed::Embedding;
use super::gate::Gate;
use super::monitors::{self, CallBack, Monitors};
use super::nlm_service::NlmService;
use super::nsm_service::NsmService;
use super::persist::{self, PersistError, Writer};
use super::settings::{NsmKind, Settings};
use super::sockets::{self, Ports, ProgramSockets, Sockets};
use super::statd::{Statd, StateNumberError};
use super::table::{self, Clock, Setup, StatdSetup};
use super::{recovery, registry};
use crate::host::{self, Machine, OwnNameError, StatdDir, StatdDirError};
use crate::locks::LockTable;
use crate::rpc::arrivals::Arrivals;
use crate::rpc::control::{ControlSocket, SocketError};
use crate::rpc::rpcbind::local::Registration;
use crate::rpc::server::{Guests, Limits, Service, SharedCache, serve_tcp, serve_udp, shared_cache};
use crate::wire::control::InstanceId;
use crate::wire::types::CallerName;

/// How long the last writes may take at a stop.
const FLUSH: Duration = Duration::from_secs(10);

/// Why a lock manager did not start, or stopped.
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
    Control(#[from] SocketError),
    /// This host's names.
    #[error(transparent)]
    Names(#[from] OwnNameError),
    /// rpcbind has an entry of another server.
    #[error(transparent)]
    Rpcbind(#[from] registry::RegisterError),
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
    Statd(#[from] StateNumberError),
    /// Threads, signals.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A socket failed while serving.
    #[error("a socket failed: {0}")]
    Serving(io::Error),
    /// The lock table's task or the state database's thread has panicked.
    #[error(
        "an internal error, which is in the log; locks are no longer served: start nlmd again, so that clients reclaim"
    )]
    Internal,
}

/// A lock manager that serves its clients.
///
/// ```no_run
/// # async fn serve(stop: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
/// use std::{fs::File, io, sync::Arc};
/// use nlmctl::lockd::{Server, Settings, embed::Embedding, ofd::OfdMirror};
///
/// let open = |_handle: &_| -> io::Result<File> { File::options().read(true).write(true).open("/srv/one-file") };
/// let embedding = Embedding { mirror: Some(Arc::new(OfdMirror::new(open))), ..Embedding::default() };
/// let server = Server::start(Settings::new("/var/lib/nlmd", "/run/nlmd/control.sock"), embedding).await?;
/// server.serve_until(stop).await?;
/// # Ok(())
/// # }
/// ```
/// `examples/nfs_server` is a whole file server.
///
/// Dropped, it stops without finishing open calls, and
/// leaves rpcbind's entries: end it with [`serve_until`](Self::serve_until).
#[derive(Debug)]
pub struct Server {
    ports: Ports,
    reload: Reload,
    serving: JoinSet<io::Result<()>>,
    /// Notices to the clients of the previous instance.
    notices: JoinSet<()>,
    /// Hosts that programs on this host monitor; they may have to be notified even if NSM is not served.
    programs: Monitors,
    stop: watch::Sender<bool>,
    rpcbind_port: u16,
    /// The registrations with rpcbind, which must be removed at the end.
    wanted: Vec<Registration>,
    registered: Vec<Registration>,
    owner: JoinHandle<()>,
    writer: Writer,
}

/// The part of a [`Server`]'s [`Settings`] that can be changed while it serves.
#[derive(Debug, Clone)]
pub struct Reload {
    names: watch::Sender<Vec<CallerName>>,
    gate: Arc<Gate>,
}

impl Reload {
    /// Takes over `names` (for notices and controllers from now on; a run goes on under those of its beginning) and
    /// `allow`. After an error both are as before.
    pub async fn apply(&self, names: &[CallerName], allow: Vec<IpNet>) -> Result<(), OwnNameError> {
        let names = host::own_names(names).await?;
        self.names.send_replace(names);
        self.gate.allow(allow);
        Ok(())
    }
}

impl Server {
    /// Starts, with the decisions of the embedding file server (nlmd alone: none). Once this returns,
    /// every socket is served, rpcbind knows the ports, and the clients of the previous instance are being notified
    /// of this one. Must be called in a tokio runtime.
    pub async fn start(settings: Settings, embedding: Embedding) -> Result<Self, Failure> {
        let clock = Clock { start: Instant::now() };
        let (persist, writer, mut found) = persist::open(&settings.state_dir)?;
        let names = host::own_names(&settings.names).await?;
        let (addresses, lenient) = settings.listen_addresses();
        let embedded = settings.nsm == NsmKind::Embedded;
        let nsm_port = embedded.then_some(settings.nsm_port);
        let sockets = Sockets::open(&addresses, lenient, settings.nlm_port, nsm_port)?;
        let state_file =
            if embedded { None } else { Some(statd_dir(settings.statd_dir.as_deref()).map_err(StateNumberError)?) };
        let control = ControlSocket::bind(&settings.control, false).await?;
        let control_ro = match &settings.control_ro {
            Some(path) => Some(ControlSocket::bind(path, true).await?),
            None => None,
        };
        let callbacks = Callbacks::new(settings.rpcbind_port, names.first().map_or("nlmd", |name| name.as_str()))?;
        let statd = match (state_file.clone(), names.first()) {
            (Some(state_file), Some(name)) => {
                Some(StatdSetup { statd: Statd::new(settings.rpcbind_port, name.clone())?, state_file })
            }
            (None, _) | (_, None) => None,
        };
        let call_back = CallBack::new(settings.rpcbind_port)?;
        let arrivals = Arrivals::new()?;
        // After all else that can fail but the state number, which a start that ends here must not raise.
        let wanted = if settings.register { sockets.registrations() } else { Vec::new() };
        let registered =
            if settings.register { registry::register(settings.rpcbind_port, &wanted).await? } else { Vec::new() };

        // From here on the clients of the previous instance rely on this one.
        let machine = Machine::default();
        let boot = machine.boot();
        let booted = recovery::booted(&found, &boot);
        let nsm_state = match recovery::start_state(&persist, &mut found, clock, state_file.as_ref(), &machine).await {
            Ok(state) => state,
            Err(error) => {
                registry::unregister(settings.rpcbind_port, &registered).await;
                return Err(error.into());
            }
        };
        let (records, to_tell) = (std::mem::take(&mut found.local_monitors), std::mem::take(&mut found.to_tell));
        let monitors = found.monitors.clone();
        let (names_told, names_now) = watch::channel(names.clone());
        let owes_grace = !monitors.is_empty() || found.may_lack_clients;
        let recovery_until = owes_grace.then(|| clock.now() + settings.grace);
        let called = Called::default();
        let (table, owner) = table::spawn(Setup {
            clock,
            table: LockTable::new(settings.limits, rand::random()),
            persist: persist.clone(),
            callbacks: callbacks.clone(),
            instance: InstanceId(uuid::Uuid::new_v4().into_bytes()),
            names: names_now.clone(),
            called: called.clone(),
            arrivals: arrivals.clone(),
            rpcbind_port: settings.rpcbind_port,
            nsm_state,
            found,
            statd,
            recovery_until,
            embedding,
        });
        let programs = Monitors::spawn(monitors::Setup {
            persist: persist.clone(),
            table: table.clone(),
            clock,
            names: names_now,
            rpcbind_port: settings.rpcbind_port,
            call_back,
            records,
            to_tell,
            booted,
        });

        let (stop, stopping) = watch::channel(false);
        let ports = sockets.ports();
        let rules = settings.rules();
        let gate = Arc::new(Gate::new(settings.allow, rules, called.clone()));
        let answers = Answers::new(callbacks, &sockets.nlm.udp);
        let reload = Reload { names: names_told, gate: gate.clone() };
        let nlm: Arc<dyn Service> = Arc::new(NlmService { table: table.clone(), answers, gate: gate.clone() });
        let nsm: Arc<dyn Service> = Arc::new(NsmService { table: table.clone(), monitors: programs.clone(), gate });
        let mut serving = JoinSet::new();
        let cache = shared_cache();
        let shared = (cache, Guests::default(), arrivals.clone());
        serve_program(sockets.nlm, &nlm, &shared, &stopping, &mut serving);
        serve_program(sockets.nsm, &nsm, &shared, &stopping, &mut serving);
        let states = table.nsm_states();
        let table = Arc::new(table);
        for socket in [Some(control), control_ro].into_iter().flatten() {
            serving.spawn(socket.among(&arrivals).serve(table.clone(), stopping.clone()));
        }
        tracing::info!(?ports, control = %settings.control.display(), %nsm_state, clients = monitors.len(), "nlmd is up");
        let mut notices = JoinSet::new();
        let rpcbind_port = settings.rpcbind_port;
        if !monitors.is_empty() {
            recovery::warn_of_own_mounts();
            notices.spawn(recovery::notify(monitors, names, states, rpcbind_port, clock));
        }
        Ok(Self { ports, reload, serving, notices, programs, stop, rpcbind_port, wanted, registered, owner, writer })
    }

    /// The ports in use.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The settings that can be changed while it serves.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Serves until `stop` is ready (or a socket fails), then stops in order: open calls are
    /// finished, rpcbind forgets the ports, the database is flushed.
    pub async fn serve_until(mut self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let is_registered = !self.wanted.is_empty();
        let ended = tokio::select! {
            () = stop => Ok(()),
            never = registry::keep(self.rpcbind_port, &self.wanted, &mut self.registered), if is_registered => match never {},
            Some(ended) = self.serving.join_next() => Err(match ended {
                Ok(Err(error)) => Failure::Serving(error),
                Ok(Ok(())) => Failure::Serving(io::Error::other("it ended")),
                Err(error) => Failure::Serving(io::Error::other(error)),
            }),
            // Served on without it, calls would hang for ever.
            _ = &mut self.owner => Err(Failure::Internal),
        };
        tracing::info!("stopping");
        let _ = self.stop.send(true);
        drop((self.notices, self.programs));
        while self.serving.join_next().await.is_some() {}
        registry::unregister(self.rpcbind_port, &self.registered).await;
        // The last handle of the table is gone with the services: its task ends, and with it the last
        // handle of the database.
        let (owner, writer) = (self.owner, self.writer);
        let flushed = async {
            if !owner.is_finished() {
                let _ = owner.await;
            }
            let _ = tokio::task::spawn_blocking(|| writer.join()).await;
        };
        if tokio::time::timeout(FLUSH, flushed).await.is_err() {
            tracing::error!("the state database is not closed in time; what was promised is on disk");
        }
        ended
    }
}

/// rpc.statd's folder. Without a state number in it the server does not start.
fn statd_dir(named: Option<&Path>) -> Result<StatdDir, StatdDirError> {
    let dir = StatdDir::find(&Machine::default(), named)?;
    dir.state()?;
    Ok(dir)
}

fn serve_program(
    sockets: ProgramSockets,
    service: &Arc<dyn Service>,
    (cache, guests, arrivals): &(SharedCache, Guests, Arrivals),
    stopping: &watch::Receiver<bool>,
    serving: &mut JoinSet<io::Result<()>>,
) {
    let limits = Limits { connections: sockets::connections(), ..Limits::default() };
    for endpoint in sockets.udp {
        let (service, cache, arrivals) = (service.clone(), cache.clone(), arrivals.clone());
        serving.spawn(serve_udp(endpoint, service, cache, arrivals, limits, stopping.clone()));
    }
    for listener in sockets.tcp {
        let (service, cache, guests, arrivals) = (service.clone(), cache.clone(), guests.clone(), arrivals.clone());
        serving.spawn(serve_tcp(listener, service, cache, guests, arrivals, limits, stopping.clone()));
    }
}
