//! What nlmd keeps on disk.
//!
//! # Theory
//! One SQLite database in the state directory holds the NSM state number, the monitor records, the
//! active run and the results of ended ones. One thread owns the connection ([`database`]);
//! all other tasks have a [`Persist`], which puts jobs into a bounded channel. The thread takes
//! all that is queued, writes it in one transaction, and only then answers each job: so a hundred
//! first LOCKs cost one `fsync`, and an answer means "on disk".
//!
//! The result of a run may have a million rows. It is written in pages ([`results`]). The first of them come while the run is
//! scanned, some at once, with a transaction of their own. The others come with the end of the run; a transaction ends with
//! the first page during which something else came, and what came is written next. From the run's end until its result is
//! whole, only what reads, or is about runs, waits ([`Work`]).
//!
//! What must hold:
//! - Jobs are written in the order in which they were submitted, but that those about clients overtake a result and what
//!   waits behind it. So a deletion and a later insertion of the same record cannot change places; a late reclaim and a
//!   controller's ack find the result that they are about; and no run that begins replaces the record of one whose result
//!   a crash may still cut off.
//! - A job is answered only after its transaction is committed (`synchronous=FULL`).
//! - A database that lacks what was answered is refused, and no state number repeats ([`seal`]).
//! - Two daemons never share a state directory: an OS lock on `nlmd.lock` is held for life.
//! - When the queue is full, [`Persist::submit`] fails at once; the caller denies what it was about
//!   to promise.
//!
//! Start reading at [`open`], then [`Work::run`] and [`database::Database::apply`].

mod database;
mod monitors;
mod old_results;
mod records;
mod results;
mod seal;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::thread::JoinHandle;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::host::{private_folder, try_lock};
use crate::wire::control::{ClientResult, LockFate, RunId, RunResult};

pub use records::{Change, EndedRun, Found, LocalMonitor, MonitorRecord, PersistError, RunRecord, ToTell, Watch};

use database::Database;
use results::{Page, Stage};

/// Jobs that may wait for the writer, and as many of them behind a result. Beyond that nothing more is promised.
const QUEUE: usize = 16_384;
/// Jobs of one transaction: one flush of the disk for thousands of new clients, and none waits long for the others.
const BATCH: usize = 4_096;
/// Pages of a result that are written in one transaction while nobody waits.
const PAGES_AT_ONCE: usize = 16;

enum Job {
    Write(Box<Change>, Waiting),
    Read(Read),
}

type Waiting = oneshot::Sender<Result<(), PersistError>>;
type Read = Box<dyn FnOnce(&Database) + Send>;

impl Job {
    /// Whether it waits until a result that came before it is whole.
    fn keeps_its_place(&self) -> bool {
        match self {
            Self::Write(change, _) => change.is_about_runs(),
            Self::Read(_) => true,
        }
    }

    fn has_pages(&self) -> bool {
        matches!(self, Self::Write(change, _) if matches!(**change, Change::Locks { .. }))
    }
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

    /// Waits until nothing is written any more: the thread that writes has ended before its time.
    pub async fn closed(&self) {
        self.jobs.closed().await;
    }

    /// Queues a change and waits until it is durable.
    pub async fn write(&self, change: Change) -> Result<(), PersistError> {
        durably(self.submit(change)).await
    }

    /// Likewise, but waits where the queue is full.
    pub async fn write_when_there_is_room(&self, change: Change) -> Result<(), PersistError> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Write(Box::new(change), done)).await.map_err(|_| PersistError::Closed)?;
        durable(answer).await
    }

    /// The sums of an ended run.
    pub async fn result(&self, run: RunId) -> Result<Option<RunResult>, PersistError> {
        self.read(move |database| database.result(run)).await
    }

    /// Its clients, from one on.
    pub async fn result_clients(&self, run: RunId, after: u64) -> Result<Option<Page<ClientResult>>, PersistError> {
        self.read(move |database| database.rows(run, after)).await
    }

    /// What became of its locks, from one on; late reclaims come last.
    pub async fn result_locks(&self, run: RunId, after: u64) -> Result<Option<Page<LockFate>>, PersistError> {
        self.read(move |database| database.rows(run, after)).await
    }

    /// Ended runs that no controller has acknowledged, the oldest first.
    pub async fn unfetched(&self) -> Result<Vec<RunId>, PersistError> {
        self.read(Database::unfetched).await
    }

    /// Waits for its turn behind what was submitted before.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, PersistError> + Send + 'static,
    ) -> Result<T, PersistError> {
        let (done, answer) = oneshot::channel();
        let read = move |database: &Database| drop(done.send(read(database)));
        self.jobs.send(Job::Read(Box::new(read))).await.map_err(|_| PersistError::Closed)?;
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
                if let Job::Write(change, done) = job
                    && tell.send((*change, done)).is_err()
                {
                    break;
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

/// Waits for what [`Persist::submit`] gave.
pub async fn durably(submitted: Result<Durable, PersistError>) -> Result<(), PersistError> {
    durable(submitted?).await
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
    open_with(directory, |_| ())
}

/// The same on a disk with little room.
#[cfg(test)]
pub(in crate::lockd) fn open_nearly_full(directory: &Path) -> Result<(Persist, Writer, Found), PersistError> {
    open_with(directory, Database::nearly_fill_disk)
}

fn open_with(directory: &Path, prepare: impl FnOnce(&mut Database)) -> Result<(Persist, Writer, Found), PersistError> {
    let unusable = |error: io::Error| PersistError::Directory { path: directory.into(), reason: error.to_string() };
    private_folder(directory).map_err(unusable)?;
    let lock = take_lock(directory)?;
    let (mut database, found) = Database::open(&directory.join("nlmd.sqlite"))?;
    prepare(&mut database);
    let (persist, work) = Work::new(database);
    let thread = std::thread::Builder::new()
        .name("nlmd-state".into())
        .spawn(move || {
            // Held until the last job is written.
            let _lock = lock;
            work.run();
        })
        .map_err(unusable)?;
    Ok((persist, Writer { thread }, found))
}

fn take_lock(directory: &Path) -> Result<File, PersistError> {
    let path = directory.join("nlmd.lock");
    let unusable = |reason: io::Error| PersistError::Directory { path: path.clone(), reason: reason.to_string() };
    try_lock(&path).map_err(unusable)?.ok_or_else(|| PersistError::InUse(directory.into()))
}

/// A result that is not whole yet.
struct Writing {
    ended: EndedRun,
    next: Stage,
    done: Waiting,
}

/// What the writer's thread has to do.
struct Work {
    database: Database,
    queue: mpsc::Receiver<Job>,
    /// What comes next, before the queue: what waits until the result is whole, or what is to begin a transaction.
    behind: VecDeque<Job>,
    result: Option<Writing>,
    /// The run whose locks are written before the rest of its result.
    begun: Option<RunId>,
    /// Something else may be there that is no whole result.
    has_parts: bool,
    pages_at_once: usize,
}

impl Work {
    fn new(database: Database) -> (Persist, Self) {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (behind, pages_at_once) = (VecDeque::new(), PAGES_AT_ONCE);
        let work = Self { database, queue, behind, result: None, begun: None, has_parts: false, pages_at_once };
        (Persist { jobs }, work)
    }

    fn run(mut self) {
        while self.round() {}
    }

    /// Whether it is to go on.
    fn round(&mut self) -> bool {
        let Some(batch) = self.batch() else { return false };
        self.run_batch(batch);
        self.write_result();
        true
    }

    /// What is written together, up to a result or pages of one. Waits where there is nothing else to do; `None` at the end.
    fn batch(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        while batch.changes.len() + batch.reads.len() < BATCH {
            if self.result.is_some() && self.behind.len() == QUEUE {
                break;
            }
            let waiting = if self.result.is_none() { self.behind.pop_front() } else { None };
            let is_done = self.result.is_none() && batch.is_empty();
            let job = match waiting.map_or_else(|| self.queue.try_recv(), Ok) {
                Ok(job) => job,
                Err(TryRecvError::Disconnected) if is_done => return None,
                Err(TryRecvError::Empty) if is_done && !self.has_parts => self.queue.blocking_recv()?,
                Err(_) => break,
            };
            let has_pages = job.has_pages();
            match job {
                job if self.result.is_some() && job.keeps_its_place() => self.behind.push_back(job),
                // Pages that the disk refuses must not make what came with them be written one by one.
                job if has_pages && !batch.is_empty() => {
                    self.behind.push_front(job);
                    break;
                }
                Job::Read(read) => batch.reads.push(read),
                Job::Write(change, done) => match *change {
                    Change::Ended(ended) => {
                        self.result = Some(Writing { ended, next: Stage::default(), done });
                        break;
                    }
                    change => {
                        batch.changes.push(change);
                        batch.waiting.push(done);
                        if has_pages {
                            break;
                        }
                    }
                },
            }
        }
        Some(batch)
    }

    /// Writes first, in one transaction, then answers the reads: a reader sees what was submitted before.
    fn run_batch(&mut self, Batch { changes, waiting, reads }: Batch) {
        let together = if changes.is_empty() { Ok(()) } else { self.database.apply(&changes) };
        for (change, done) in changes.iter().zip(waiting) {
            // One bad change must not deny the others theirs.
            let alone = together.is_err() && changes.len() > 1;
            let applied = if alone { self.database.apply(std::slice::from_ref(change)) } else { together.clone() };
            if let Change::Locks { run, first, .. } = change {
                self.locks_applied(*run, *first, applied.is_ok());
            }
            let _ = done.send(applied);
        }
        for read in reads {
            read(&self.database);
        }
    }

    /// With its first locks a result begins. Where some fail there will be no result, and the others go.
    fn locks_applied(&mut self, run: RunId, first: usize, applied: bool) {
        match (applied, first) {
            (false, _) => self.begun = None,
            (true, 0) => self.begun = Some(run),
            (true, _) => {}
        }
        self.has_parts |= self.begun != Some(run);
    }

    /// Writes the next part of the result. With none to write it removes a part of what is no result.
    fn write_result(&mut self) {
        let Some(Writing { ended, next, done }) = self.result.take() else {
            self.has_parts = self.has_parts
                && self.database.sweep(self.begun).unwrap_or_else(|error| {
                    tracing::warn!(%error, "results that are kept no more take room until the next run or start");
                    false
                });
            return;
        };
        let Self { database, queue, pages_at_once, .. } = self;
        match database.write_result(&ended, next, *pages_at_once, || queue.is_empty()) {
            Ok(Some(next)) => self.result = Some(Writing { ended, next, done }),
            end => {
                let run = ended.result.run;
                // Whoever waits for the answer frees its rows.
                drop(ended);
                self.begun.take_if(|begun| *begun == run);
                self.has_parts = true;
                let _ = done.send(end.map(|_| ()));
            }
        }
    }
}

/// Jobs that are done together.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    /// Who waits for each.
    waiting: Vec<Waiting>,
    reads: Vec<Read>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.reads.is_empty()
    }
}

#[cfg(test)]
mod tests;
