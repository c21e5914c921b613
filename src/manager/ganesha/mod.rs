//! NFS-Ganesha, driven over the system bus.
//!
//! Theory. Ganesha holds NLM locks in its own memory and, for exports on VFS and XFS, as open file
//! description locks of its process. It knows a grace period, and its D-Bus interface can start one
//! and make it forget clients; nothing else. So a run comes in two kinds:
//!
//! - *full* ([`release`]): blocked requests are cancelled first, because they would get the released locks.
//!   Clients are released per server address, and that goes on long after the answer; a lock that
//!   is reclaimed meanwhile is lost. So no client is told until statd has no record of Ganesha's left
//!   and its process no lock. That wait has a bound; locks that are left after it are reported as left.
//! - *soft*: grace alone. Nothing is released, so nothing can be lost, and clients reclaim what the server
//!   has lost. It is the run whose policy drops nothing.
//!
//! What must hold: NFSv4 state is never touched ([`bus`] cannot say the event that expires clients).
//! Grace is seen to be on before a lock goes, its clock starts again when all are gone, and it ends
//! when Ganesha ends it, which is observed, not computed. A file in nlmctl's state directory says that a
//! release is in progress, until its run's file says that it is done. One that was interrupted is finished when
//! its run is resumed, before any notice leaves; a command that only looks leaves it as it is.
//!
//! [`cautions`] says what does not hold: among others, Ganesha 4.3 leaks a descriptor for each
//! owner and file that it releases, and crashes on NLM SHARE reservations.
//!
//! | file | what | |
//! |---|---|---|
//! | `bus` | D-Bus: grace, clients | |
//! | `process` | locks, descriptors, connections of its process, from /proc | |
//! | `clients` | statd's records and connections as clients | pure |
//! | `release` | all locks released; one client's | |
//! | `cautions` | what an operator must know | pure |

mod bus;
mod cautions;
mod clients;
mod error;
mod process;
mod release;

pub use error::GaneshaError;
pub use process::ProcessError;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use self::bus::{Bus, GraceEvent};
use self::cautions::Observed;
use self::clients::LastCount;
use self::error::ENDPOINT;
use self::process::Server;
use super::adapter::run_files::RunFiles;
use super::adapter::{Adapter, Backend, ClientReleased, Dropped, GraceEnd, Identity, Snapshot};
use super::{Caution, ManagerError};
use crate::host::{Machine, StatdDir, StatdDirError, own_names};
use crate::nsm::roster::{self, Roster};
use crate::wire::control::{Capabilities, ClientRow, Refusal, RefusalCode};
use crate::wire::rpcbind;
use crate::wire::types::{CallerName, NsmState};

/// Where runs are kept.
pub const STATE_DIR: &str = "/var/lib/nlmctl/ganesha";
/// Most paths of files that are remembered for messages.
const PATHS: usize = 100_000;

/// How to find what belongs to Ganesha.
#[derive(Debug, Clone)]
pub struct GaneshaOptions {
    /// nlmctl's state directory: the one of the runs.
    pub state_dir: PathBuf,
    /// The names by which clients know this server; if empty, this host's.
    pub names: Vec<CallerName>,
    /// The port of this host's rpcbind.
    pub rpcbind_port: u16,
    /// Whether runs are soft ones: those whose policy drops nothing, neither of clients that cannot be
    /// reached nor of silent ones.
    pub soft: bool,
}

impl GaneshaOptions {
    /// As a system has it, with nlmctl's state in this folder.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { state_dir: state_dir.into(), names: Vec::new(), rpcbind_port: rpcbind::PORT, soft: false }
    }
}

/// See the theory above.
#[derive(Debug)]
pub struct Ganesha {
    options: GaneshaOptions,
    /// The bus, once it was needed.
    bus: OnceCell<Bus>,
    /// Whether every lock could be listed when it was last looked at.
    lists_locks: AtomicBool,
    /// The names by which clients know this server, once they were looked up.
    names: OnceCell<Vec<CallerName>>,
    /// Paths of files that were seen locked.
    paths: Mutex<HashMap<String, String>>,
    count: Mutex<LastCount>,
}

/// This host's Ganesha as a lock manager, with nlmctl's state in the folder of the options.
pub fn manager(options: GaneshaOptions) -> Adapter<Ganesha> {
    let run_files = RunFiles::new(&options.state_dir);
    Adapter::new(Ganesha::new(options), run_files)
}

/// How long the system bus may take to say whether a Ganesha is on it.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// Whether an NFS-Ganesha is on this host's system bus.
pub async fn is_here() -> bool {
    let look = async { Bus::connect().await?.pid().await };
    tokio::time::timeout(LOOK_PATIENCE, look).await.is_ok_and(|pid| pid.is_ok())
}

/// Work with files, off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GaneshaError> + Send + 'static,
) -> Result<T, GaneshaError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| GaneshaError::Thread)?
}

impl Ganesha {
    /// The Ganesha of this host's system bus, which is looked for when it is first asked something.
    pub fn new(options: GaneshaOptions) -> Self {
        Self {
            options,
            bus: OnceCell::new(),
            lists_locks: AtomicBool::new(false),
            names: OnceCell::new(),
            paths: Mutex::default(),
            count: Mutex::default(),
        }
    }

    async fn bus(&self) -> Result<&Bus, GaneshaError> {
        Ok(self.bus.get_or_try_init(Bus::connect).await?)
    }

    fn paths(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_count(&self) -> MutexGuard<'_, LastCount> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at its process.
    async fn look<T: Send + 'static>(
        &self,
        at: impl FnOnce(&Server) -> Result<T, ProcessError> + Send + 'static,
    ) -> Result<T, GaneshaError> {
        let pid = self.bus().await?.pid().await?;
        blocking(move || Ok(at(&Server::of(pid))?)).await
    }

    async fn records(&self) -> Result<Roster, GaneshaError> {
        blocking(|| Ok(roster::read_sm_dir(&statd()?.sm())?)).await
    }

    async fn client_rows(&self) -> Result<Vec<ClientRow>, GaneshaError> {
        let connections = self.look(Server::connections).await?;
        Ok(clients::rows(&self.records().await?.entries, &connections))
    }

    async fn identify(&self) -> Result<Identity, GaneshaError> {
        let (life, unlisted) = self.look(|server| Ok((server.life()?, server.unlisted()?))).await?;
        self.lists_locks.store(unlisted.is_empty(), Ordering::Relaxed);
        Ok(Identity {
            software: format!("NFS-Ganesha {}", self.bus().await?.version().await?),
            life,
            names: self.names.get_or_try_init(|| own_names(&self.options.names)).await?.clone(),
        })
    }

    async fn seen(&self) -> Result<Observed, GaneshaError> {
        let (unlisted, descriptors, locking, shares_network) = self
            .look(|server| {
                let locking = server.held()?.descriptors;
                Ok((server.unlisted()?, server.descriptors()?, locking, server.shares_network()))
            })
            .await?;
        let bus = self.bus().await?;
        let (stats, version) = (bus.clients().await?, bus.version().await?);
        Ok(Observed { soft: self.options.soft, stats, unlisted, descriptors, locking, shares_network, version })
    }
}

fn statd() -> Result<StatdDir, StatdDirError> {
    StatdDir::find(&Machine::default(), None)
}

/// Of what has changed no lock.
fn refused(error: &GaneshaError) -> Refusal {
    Refusal::new(RefusalCode::Unsupported, format!("{error}; no lock was released"))
}

#[async_trait]
impl Backend for Ganesha {
    fn kind(&self) -> &'static str {
        "ganesha"
    }
    fn endpoint(&self) -> String {
        ENDPOINT.into()
    }
    fn domains(&self) -> &'static [&'static str] {
        &["nlm", "nfsv4"]
    }

    fn capabilities(&self) -> Capabilities {
        let lists_locks = self.lists_locks.load(Ordering::Relaxed);
        Capabilities {
            mark: false,
            list_locks: lists_locks,
            knows_owners: false,
            targeted: false,
            settle_early: false,
            late_reclaims: false,
            release: true,
            // A reclaim of a lock that was not released leaves no trace.
            knows_reclaims: lists_locks && !self.options.soft,
            knows_paths: false,
            begin_releases: !self.options.soft,
        }
    }

    async fn identity(&self) -> Result<Identity, ManagerError> {
        Ok(self.identify().await?)
    }
    async fn nsm_state(&self) -> Result<NsmState, ManagerError> {
        Ok(blocking(|| Ok(statd()?.state()?)).await?)
    }
    async fn sight(&self) -> Result<Snapshot, ManagerError> {
        let (sight, held) = self.look(Server::sight).await?;
        let mut paths = self.paths();
        if paths.len() > PATHS {
            paths.clear();
        }
        paths.extend(held.paths);
        Ok(sight)
    }
    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError> {
        Ok(self.client_rows().await?)
    }
    async fn client_count(&self) -> Result<u64, ManagerError> {
        let began = Instant::now();
        if let Some(count) = self.last_count().fresh(began) {
            return Ok(count);
        }
        let count = clients::count(&self.records().await?.entries);
        self.last_count().take(count, began, Instant::now());
        Ok(count)
    }
    async fn in_grace(&self) -> Result<bool, ManagerError> {
        Ok(self.bus().await?.in_grace().await.map_err(GaneshaError::from)?)
    }
    async fn cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        Ok(self.seen().await?.cautions())
    }
    async fn release_cautions(&self) -> Result<Vec<Caution>, ManagerError> {
        let shares_network = self.look(|server| Ok(server.shares_network())).await?;
        Ok(cautions::of_a_release(shares_network))
    }

    async fn may_have_dropped(&self) -> Result<bool, ManagerError> {
        Ok(self.marked().await?.is_some())
    }
    async fn raise_state(&self, state: NsmState) -> Result<(), ManagerError> {
        blocking(move || Ok(statd()?.write_state(state)?)).await.map_err(|error| {
            ManagerError::Refused(Refusal::new(RefusalCode::NotDurable, format!("{error}; nothing was changed")))
        })
    }
    async fn enter_grace(&self) -> Result<bool, ManagerError> {
        let event = if self.options.soft { GraceEvent::Start } else { GraceEvent::CancelWaiters };
        self.start_grace(event).await.map_err(|error| refused(&error))?;
        Ok(true)
    }
    async fn begin(&self, grace: Duration) -> Result<Dropped, ManagerError> {
        // How long its grace lasts it does not tell: until it is seen to be over.
        if self.options.soft {
            return Ok(Dropped { grace, before: None, notes: vec!["no lock was released: a soft run".into()] });
        }
        Ok(Dropped { grace, before: None, notes: self.release_all().await? })
    }
    async fn finish_drop(&self) -> Result<Vec<String>, ManagerError> {
        self.finish_release().await
    }
    async fn recorded(&self) -> Result<(), ManagerError> {
        Ok(self.unmark().await?)
    }
    async fn end_grace(&self) -> Result<GraceEnd, ManagerError> {
        if self.in_grace().await? {
            return Ok(GraceEnd::GoesOn("Ganesha ends its grace by itself, after its Grace_Period".into()));
        }
        Ok(GraceEnd::Over)
    }
    async fn finish(&self) -> Result<Vec<String>, ManagerError> {
        let descriptors = self.look(Server::descriptors).await?;
        Ok(vec![format!("Ganesha has {} of {} descriptors open", descriptors.open, descriptors.limit)])
    }
    async fn release_client(&self, client: &CallerName) -> Result<ClientReleased, ManagerError> {
        self.free_client(client).await
    }
    async fn paths(&self, files: &[String]) -> HashMap<String, String> {
        let known = self.paths();
        files.iter().filter_map(|file| Some((file.clone(), known.get(file)?.clone()))).collect()
    }
}
