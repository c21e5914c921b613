//! The control protocol's procedures, over the lock table and the disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nfs3_types::xdr_codec::Void;

use super::persist::{Change, Persist, PersistError};
use super::table::{ConnectionId, Table};
use crate::wire::control::{
    Answer, BeginArgs, Capabilities, ClientResultPage, ExtendArgs, FullResult, Info, InstanceId, LockFatePage,
    LocksArgs, PAGE, PageAfter, Procedure, ProgressArgs, Refusal, RefusalCode, ReleaseArgs, RunArgs, RunId, RunList,
    RunPageAfter, RunResult, SettleArgs, WatchArgs,
};
use crate::wire::rpc;
use crate::wire::types::CallerName;
use crate::wire::xdr::{List, Pack, Text, Unpack, decode, encode};

/// Longest wait of `watch`.
const WATCH_MAX: Duration = Duration::from_secs(10);

/// Who nlmd is; the rest of [`Info`] changes.
#[derive(Debug)]
pub struct Identity {
    /// This life.
    pub instance: InstanceId,
    /// The names under which clients know this server.
    pub names: Vec<CallerName>,
    /// Whether locks hold in another lock domain too.
    pub mirrored: bool,
}

/// The control service.
#[derive(Debug)]
pub struct ControlService {
    table: Table,
    persist: Persist,
    identity: Identity,
    /// The result that is being paged through; read from disk once.
    last_read: Mutex<Option<Arc<FullResult>>>,
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub struct ControlCaller {
    /// Its connection.
    pub connection: ConnectionId,
    /// Whether it came by the read-only socket.
    pub read_only: bool,
}

fn answered<T: Pack + Unpack>(outcome: Result<T, Refusal>) -> rpc::Answer {
    rpc::Answer::Success(encode(&match outcome {
        Ok(value) => Answer::Ok(value),
        Err(refusal) => Answer::Refused(refusal),
    }))
}

fn not_durable(error: &PersistError) -> Refusal {
    Refusal::new(RefusalCode::NotDurable, error.to_string())
}

fn page<T: Clone>(rows: &[T], after: u64) -> (List<T, PAGE>, u64) {
    let start = usize::try_from(after).unwrap_or(usize::MAX).min(rows.len());
    let rest = rows.get(start..).unwrap_or_default();
    let page = rest.get(..PAGE).unwrap_or(rest);
    let next = if page.len() < rest.len() { (start + page.len()) as u64 } else { 0 };
    (List::clipped(page.to_vec()), next)
}

/// Decodes the arguments, or answers GARBAGE_ARGS.
macro_rules! args {
    ($bytes:expr => $kind:ty) => {
        match decode::<$kind>($bytes) {
            Ok(args) => args,
            Err(_) => return rpc::Answer::GarbageArgs,
        }
    };
}

impl ControlService {
    /// Over the table and the disk.
    pub fn new(table: Table, persist: Persist, identity: Identity) -> Self {
        Self { table, persist, identity, last_read: Mutex::new(None) }
    }

    /// The connection is closed.
    pub async fn detached(&self, connection: ConnectionId) {
        self.table.detached(connection).await;
    }

    /// Answers a call.
    pub async fn call(&self, caller: ControlCaller, procedure: Procedure, bytes: &[u8]) -> rpc::Answer {
        if caller.read_only && !procedure.is_read_only() {
            let words = "this is the read-only socket; use the one of --control";
            return answered::<Void>(Err(Refusal::new(RefusalCode::NotAllowed, words)));
        }
        let connection = caller.connection;
        let table = &self.table;
        match procedure {
            Procedure::Null => rpc::Answer::Success(Vec::new()),
            Procedure::Info => answered(Ok(self.info())),
            Procedure::Status => answered(table.status().await),
            Procedure::Clients => {
                let PageAfter { after } = args!(bytes => PageAfter);
                answered(table.clients(after).await)
            }
            Procedure::Locks => answered(table.locks(args!(bytes => LocksArgs)).await),
            Procedure::Begin => answered(table.begin(args!(bytes => BeginArgs), connection).await),
            Procedure::RunClients => answered(table.run_clients(args!(bytes => RunPageAfter)).await),
            Procedure::Progress => answered(table.progress(args!(bytes => ProgressArgs), connection).await),
            Procedure::Extend => answered(table.extend(args!(bytes => ExtendArgs)).await),
            Procedure::Settle => answered(table.settle(args!(bytes => SettleArgs), connection).await),
            Procedure::Abort => answered(table.abort(args!(bytes => RunArgs)).await),
            Procedure::Result => answered(self.result(args!(bytes => RunArgs).run).await),
            Procedure::ResultClients => answered(self.result_clients(args!(bytes => RunPageAfter)).await),
            Procedure::ResultLocks => answered(self.result_locks(args!(bytes => RunPageAfter)).await),
            Procedure::Acknowledge => answered(self.acknowledge(args!(bytes => RunArgs).run).await),
            Procedure::Release => answered(table.release(args!(bytes => ReleaseArgs)).await),
            Procedure::Watch => {
                let WatchArgs { cursor, timeout_ms } = args!(bytes => WatchArgs);
                answered(table.watch(cursor, Duration::from_millis(timeout_ms).min(WATCH_MAX)).await)
            }
            Procedure::Unfetched => {
                let runs = self.persist.unfetched().await.map(|runs| RunList { runs: List::clipped(runs) });
                answered(runs.map_err(|error| not_durable(&error)))
            }
        }
    }

    fn info(&self) -> Info {
        let domains = ["nlm"].into_iter().chain(self.identity.mirrored.then_some("file system"));
        Info {
            software: Text::clipped(concat!("nlmd ", env!("CARGO_PKG_VERSION"))),
            instance: self.identity.instance,
            nsm_state: self.table.nsm_state(),
            names: List::clipped(self.identity.names.clone()),
            capabilities: Capabilities {
                mark: true,
                list_locks: true,
                knows_owners: true,
                targeted: true,
                settle_early: true,
                late_reclaims: true,
                release: true,
                knows_reclaims: true,
                knows_paths: false,
                begin_releases: false,
            },
            domains: List::clipped(domains.map(Text::clipped).collect()),
        }
    }

    /// The sums are read anew: they tell how many late reclaims there are by now.
    async fn result(&self, run: RunId) -> Result<RunResult, Refusal> {
        Ok(self.read(run).await?.result.clone())
    }

    async fn result_clients(&self, args: RunPageAfter) -> Result<ClientResultPage, Refusal> {
        let full = self.paged(args).await?;
        let (clients, next) = page(full.clients.as_slice(), args.after);
        Ok(ClientResultPage { clients, next })
    }

    async fn result_locks(&self, args: RunPageAfter) -> Result<LockFatePage, Refusal> {
        let full = self.paged(args).await?;
        let (locks, next) = page(full.locks.as_slice(), args.after);
        Ok(LockFatePage { locks, next })
    }

    /// The first page reads the result, the others come from the same copy.
    async fn paged(&self, args: RunPageAfter) -> Result<Arc<FullResult>, Refusal> {
        let last = self.last_read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match last {
            Some(full) if args.after != 0 && full.result.run == args.run => Ok(full),
            _ => self.read(args.run).await,
        }
    }

    async fn read(&self, run: RunId) -> Result<Arc<FullResult>, Refusal> {
        let found = self.persist.result(run).await.map_err(|error| not_durable(&error))?;
        let Some(full) = found else {
            let words = format!("no result of run {run} is kept here; it has not ended, or newer ones pushed it out");
            return Err(Refusal::new(RefusalCode::UnknownRun, words));
        };
        let full = Arc::new(full);
        *self.last_read.lock().unwrap_or_else(PoisonError::into_inner) = Some(full.clone());
        Ok(full)
    }

    async fn acknowledge(&self, run: RunId) -> Result<Void, Refusal> {
        self.persist.write(Change::Acknowledge(run)).await.map_err(|error| not_durable(&error))?;
        *self.last_read.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(Void)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_everything_once() {
        let rows: Vec<usize> = (0..PAGE * 2 + 7).collect();
        let (mut seen, mut after) = (Vec::new(), 0);
        loop {
            let (rows, next) = page(&rows, after);
            seen.extend(rows.into_vec());
            if next == 0 {
                break;
            }
            after = next;
        }
        assert_eq!(seen, rows);
        assert_eq!(page(&rows, u64::MAX).1, 0);
    }
}
