//! What nlmd keeps on disk.
//!
//! # Theory
//! One SQLite database in the state directory holds the NSM state number, the monitor records, the
//! active run and the results of ended ones. One thread owns the connection ([`database`]);
//! everybody else has a [`Persist`], which puts jobs into a bounded channel. The thread takes
//! whatever is queued, writes it in one transaction, and only then answers each job: so a hundred
//! first LOCKs cost one `fsync`, and an answer means "on disk".
//!
//! What must hold:
//! - Jobs are written in the order in which they were submitted. A deletion and a later insertion of
//!   the same record cannot change places.
//! - A job is answered only after its transaction is committed (`synchronous=FULL`).
//! - Two daemons never share a state directory: an OS lock on `nlmd.lock` is held for life.
//! - When the queue is full, [`Persist::submit`] fails at once; the caller denies what it was about
//!   to promise.
//!
//! Start reading at [`open`], then [`database::Database::apply`].

mod database;
mod monitors;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::host::try_lock;
use crate::wire::control::{FullResult, LockFate, Mode, RunClient, RunId};
use crate::wire::nsm::{MonId, MyId};
use crate::wire::types::{CallerName, NsmState};

use database::Database;

/// Results kept, fetched or not; the oldest goes first.
pub const RESULTS_KEPT: usize = 16;
/// Jobs that may wait for the writer. Beyond that nothing more is promised.
const QUEUE: usize = 16_384;
/// Jobs of one transaction.
const BATCH: usize = 4_096;

/// Why the state directory cannot be used, or a change was not made durable.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PersistError {
    /// Another nlmd has it.
    #[error("the state directory {0} is in use by another nlmd; stop that one, or give --state-dir another folder")]
    InUse(PathBuf),
    /// A file or folder cannot be made or opened.
    #[error(
        "cannot use the state directory {path}: {reason}; create it for nlmd's user, or give --state-dir another one"
    )]
    Directory {
        /// What.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The database does not open or is damaged.
    #[error(
        "the database {path} cannot be used: {reason}; restore it, or move it away to start with no record of \
         clients (they are then not told of this restart and lose their locks)"
    )]
    Database {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// SQLite refused a change.
    #[error("the state database did not take a change: {0}")]
    Write(String),
    /// Too many changes wait.
    #[error("too many changes wait for the state database")]
    Full,
    /// The writer is gone.
    #[error("the state database is closed")]
    Closed,
}

/// A client to tell of a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorRecord {
    /// Its `caller_name`.
    pub name: CallerName,
    /// The addresses it called from; the first one is, with the name, the record's key.
    pub addresses: Vec<IpAddr>,
    /// The server addresses it called.
    pub server_addresses: Vec<IpAddr>,
    /// Its NSM state number as its LOCKs carried it.
    pub nsm_state: NsmState,
}

/// What a program of this host asked for by SM_MON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalMonitor {
    /// Whom to watch, whom to call.
    pub id: MonId,
    /// Handed back in the call.
    pub private: [u8; 16],
    /// Whether it was asked for from a port below 1024: then the call comes from one too.
    pub privileged: bool,
    /// Where the host was when it was asked for.
    pub addresses: Vec<IpAddr>,
}

/// A host to tell that this one was down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToTell {
    /// The host.
    pub mon_name: CallerName,
    /// The name of this host that the program gave which monitored it.
    pub my_name: CallerName,
    /// Where it is.
    pub addresses: Vec<IpAddr>,
}

/// An address that rpc.statd watches for nlmd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// The address.
    pub address: IpAddr,
    /// What comes back with the news.
    pub cookie: [u8; 16],
}

/// The active run as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// Which.
    pub run: RunId,
    /// Its mode.
    pub mode: Mode,
    /// The NSM state number before.
    pub old_state: NsmState,
    /// Its own.
    pub new_state: NsmState,
    /// When it began, milliseconds since 1970.
    pub began_unix_ms: u64,
    /// Locks marked; 0 until [`Change::Marked`].
    pub in_scope: u64,
    /// The clients to notify; empty until [`Change::Marked`].
    pub clients: Vec<RunClient>,
}

/// Something to make durable.
#[derive(Debug)]
pub enum Change {
    /// The NSM state number, of a start.
    State {
        /// The number.
        state: NsmState,
        /// The boot of the machine that it is of.
        boot: String,
    },
    /// The NSM state number, raised by SM_SIMU_CRASH.
    Raised(NsmState),
    /// A program monitors a host; replaces what it asked for that host before.
    Local(LocalMonitor),
    /// It does not any more.
    NotLocal(MonId),
    /// It monitors nobody any more.
    NoneLocal(MyId),
    /// Every host that programs monitor is to be told, and is monitored no more.
    TellLocal,
    /// It was told.
    Told {
        /// The host.
        mon_name: CallerName,
        /// This one, as it knows it.
        my_name: CallerName,
    },
    /// rpc.statd is going to be asked to watch an address.
    Watch(Watch),
    /// It need not watch it any longer.
    Unwatch(IpAddr),
    /// A client's monitor record, new or changed.
    Monitor(MonitorRecord),
    /// A record goes away.
    Forget {
        /// The client's name.
        name: CallerName,
        /// Its first address.
        address: IpAddr,
    },
    /// A run is about to begin: its state number becomes the server's, in the same transaction.
    Begin(RunRecord),
    /// The run was not begun after all (the state number stays).
    NotBegun(RunId),
    /// What the run marked.
    Marked {
        /// The run.
        run: RunId,
        /// Locks in scope.
        in_scope: u64,
        /// Whom to notify.
        clients: Vec<RunClient>,
    },
    /// The run has ended; replaces its record.
    Ended(std::sync::Arc<FullResult>),
    /// A reclaim granted after the end. The result counts as unfetched again.
    Late(RunId, LockFate),
    /// The result was fetched.
    Acknowledge(RunId),
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Found {
    /// The last NSM state number; none at the very first start.
    pub nsm_state: Option<NsmState>,
    /// The boot of the machine that it is of; empty where that is not known.
    pub boot: String,
    /// Whom to tell.
    pub monitors: Vec<MonitorRecord>,
    /// What programs asked for.
    pub local_monitors: Vec<LocalMonitor>,
    /// Hosts that still have to be told.
    pub to_tell: Vec<ToTell>,
    /// What rpc.statd was asked to watch.
    pub watches: Vec<Watch>,
    /// A run that was active when the daemon went down.
    pub run: Option<RunRecord>,
    /// Runs with a result, the oldest first.
    pub ended: Vec<RunId>,
}

enum Job {
    Write(Box<Change>, oneshot::Sender<Result<(), PersistError>>),
    Result(RunId, oneshot::Sender<Result<Option<FullResult>, PersistError>>),
    Unfetched(oneshot::Sender<Result<Vec<RunId>, PersistError>>),
}

/// The way to the database. Cloned freely.
#[derive(Debug, Clone)]
pub struct Persist {
    jobs: mpsc::Sender<Job>,
}

/// An answer that is still on its way to the disk.
pub type Durable = oneshot::Receiver<Result<(), PersistError>>;

impl Persist {
    /// Queues a change; the order of calls is the order on disk. Await the answer for "it is durable".
    pub fn submit(&self, change: Change) -> Result<Durable, PersistError> {
        let (done, answer) = oneshot::channel();
        self.jobs.try_send(Job::Write(Box::new(change), done)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => PersistError::Full,
            mpsc::error::TrySendError::Closed(_) => PersistError::Closed,
        })?;
        Ok(answer)
    }

    /// Queues a change and waits until it is durable.
    pub async fn write(&self, change: Change) -> Result<(), PersistError> {
        durable(self.submit(change)?).await
    }

    /// The result of an ended run, late reclaims appended.
    pub async fn result(&self, run: RunId) -> Result<Option<FullResult>, PersistError> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Result(run, done)).await.map_err(|_| PersistError::Closed)?;
        answer.await.unwrap_or(Err(PersistError::Closed))
    }

    /// Ended runs that nobody has acknowledged, the oldest first.
    pub async fn unfetched(&self) -> Result<Vec<RunId>, PersistError> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Unfetched(done)).await.map_err(|_| PersistError::Closed)?;
        answer.await.unwrap_or(Err(PersistError::Closed))
    }
}

#[cfg(test)]
impl Persist {
    /// A disk of the test's own: it gets each change and says when, and whether, it is durable.
    pub(in crate::lockd) fn scripted() -> (Self, mpsc::UnboundedReceiver<(Change, DurableSender)>) {
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(job) = queue.recv().await {
                if let Job::Write(change, done) = job {
                    let _ = tell.send((*change, done));
                }
            }
        });
        (Self { jobs }, told)
    }
}

/// How a scripted disk answers.
#[cfg(test)]
pub(in crate::lockd) type DurableSender = oneshot::Sender<Result<(), PersistError>>;

/// Waits for a submitted change.
pub async fn durable(answer: Durable) -> Result<(), PersistError> {
    answer.await.unwrap_or(Err(PersistError::Closed))
}

/// The writer's thread; it ends once every [`Persist`] is dropped and the queue is written.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
}

impl Writer {
    /// Waits for the thread's end. Every [`Persist`] must be dropped before.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the state database's thread panicked");
        }
    }
}

/// Takes the state directory (made if missing, mode 0700) for this process and reads what is there.
pub fn open(directory: &Path) -> Result<(Persist, Writer, Found), PersistError> {
    let unusable = |error: io::Error| PersistError::Directory { path: directory.into(), reason: error.to_string() };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
    let lock = take_lock(directory)?;
    let (mut database, found) = Database::open(&directory.join("nlmd.sqlite"))?;
    let (jobs, mut queue) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new()
        .name("nlmd-state".into())
        .spawn(move || {
            // Held until the last job is written.
            let _lock = lock;
            while let Some(first) = queue.blocking_recv() {
                let mut batch = VecDeque::from([first]);
                while batch.len() < BATCH {
                    let Ok(job) = queue.try_recv() else { break };
                    batch.push_back(job);
                }
                run_batch(&mut database, batch);
            }
        })
        .map_err(unusable)?;
    Ok((Persist { jobs }, Writer { thread }, found))
}

fn take_lock(directory: &Path) -> Result<File, PersistError> {
    let path = directory.join("nlmd.lock");
    let unusable = |reason: io::Error| PersistError::Directory { path: path.clone(), reason: reason.to_string() };
    try_lock(&path).map_err(unusable)?.ok_or_else(|| PersistError::InUse(directory.into()))
}

/// Writes first, in one transaction, then answers the reads: a reader sees what was submitted before.
fn run_batch(database: &mut Database, batch: VecDeque<Job>) {
    let mut changes = Vec::new();
    let mut waiting = Vec::new();
    let mut reads = Vec::new();
    for job in batch {
        match job {
            Job::Write(change, done) => {
                changes.push(*change);
                waiting.push(done);
            }
            read @ (Job::Result(..) | Job::Unfetched(_)) => reads.push(read),
        }
    }
    if !changes.is_empty() {
        match database.apply(&changes) {
            Ok(()) => {
                for done in waiting {
                    let _ = done.send(Ok(()));
                }
            }
            // One bad change must not deny the others theirs.
            Err(_) if changes.len() > 1 => {
                for (change, done) in changes.iter().zip(waiting) {
                    let _ = done.send(database.apply(std::slice::from_ref(change)));
                }
            }
            Err(error) => {
                for done in waiting {
                    let _ = done.send(Err(error.clone()));
                }
            }
        }
    }
    for read in reads {
        match read {
            Job::Result(run, done) => {
                let _ = done.send(database.result(run));
            }
            Job::Unfetched(done) => {
                let _ = done.send(database.unfetched());
            }
            Job::Write(..) => {}
        }
    }
}

#[cfg(test)]
mod tests;
