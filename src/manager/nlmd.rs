//! nlmd, and any other lock manager that speaks the control protocol (`wire/control.x`).
//!
//! Two connections to its Unix socket, each made when it is first needed and again when it has
//! ended: one that drives runs, and one for `WATCH`, whose answers may take seconds. As long as the
//! first is open, the manager knows that the controller of its run is there, and waits a moment for
//! it at the deadline.
//!
//! A call that only reads is made once more over a new connection if the old one turns out to be
//! broken (the manager was restarted). One that changes something is not: it may have been acted on.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{CALL_TIMEOUT, Freed, LockManager, ManagerError, gather};
use crate::rpc::client::{CallError, Request, StreamClient};
use crate::wire::control::{
    BeginArgs, Begun, ClientResultPage, ClientRow, ControlCall, ExtendArgs, Info, LockFatePage, LockPage, LocksArgs,
    MAX_RECORD, PROGRAM, PageAfter, Procedure, ProgressArgs, Refusal, RefusalCode, ReleaseArgs, Response, RunArgs,
    RunClient, RunId, RunPageAfter, RunResult, SettleArgs, Status, VERSION, WatchArgs, Watched,
};
use crate::wire::rpc::{Credential, RpcError};
use crate::wire::xdr::{Pack, Unpack, Void, decode};

/// How long a connection to a local socket may take: it waits only where the manager is stopped or has too many.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// A connection, made when it is needed.
#[derive(Debug, Default)]
struct Connection(Mutex<Option<Arc<StreamClient>>>);

impl Connection {
    fn open(&self) -> Option<Arc<StreamClient>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().filter(|client| !client.is_closed()).cloned()
    }
    fn keep(&self, client: &Arc<StreamClient>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(client));
    }
    /// Lets the connection go, unless it has been replaced already.
    fn hang_up(&self, client: &Arc<StreamClient>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.take_if(|kept| Arc::ptr_eq(kept, client));
    }
}

/// The control protocol's client.
#[derive(Debug)]
pub struct Nlmd {
    path: PathBuf,
    driving: Connection,
    watching: Connection,
    patience: Duration,
}

impl Nlmd {
    /// The manager behind this control socket. Connects when it is first asked something.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            driving: Connection::default(),
            watching: Connection::default(),
            patience: CALL_TIMEOUT,
        }
    }
    /// With another time that a call may take before its manager counts as lost.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    async fn connect(&self, connection: &Connection) -> Result<Arc<StreamClient>, ManagerError> {
        if let Some(client) = connection.open() {
            return Ok(client);
        }
        let connected = StreamClient::connect_unix(&self.path, MAX_RECORD, CONNECT_TIMEOUT).await;
        let client = Arc::new(connected.map_err(|error| self.unreachable(&error))?);
        connection.keep(&client);
        Ok(client)
    }

    fn unreachable(&self, error: &CallError) -> ManagerError {
        let remedy = match error {
            CallError::NotThere => "start nlmd, or give the path of its socket with --control",
            CallError::Refused | CallError::RefusedNow if !is_socket(&self.path) => {
                "this is not a socket: give the path of nlmd's control socket (--control), /run/nlmd/control.sock for \
                 example"
            }
            CallError::Refused | CallError::RefusedNow => "nlmd has ended and left its socket behind: start it again",
            CallError::PermissionDenied => {
                "run this as root or as the user nlmd runs as, or ask its read-only socket (--control)"
            }
            CallError::TimedOut | CallError::Rejected(_) | CallError::Malformed(_) | CallError::Io(_) => {
                "see whether nlmd runs and is not stopped, and what it logged"
            }
        };
        ManagerError::Unreachable { endpoint: self.endpoint(), what: error.to_string(), remedy: remedy.into() }
    }

    async fn call<T: Pack + Unpack>(&self, call: ControlCall<T>) -> Result<T, ManagerError> {
        self.call_on(&self.driving, call, self.patience).await
    }

    async fn call_on<T: Pack + Unpack>(
        &self,
        connection: &Connection,
        call: ControlCall<T>,
        timeout: Duration,
    ) -> Result<T, ManagerError> {
        let ControlCall { procedure, args, .. } = call;
        let mut retried = !procedure.is_read_only();
        let asked_at = Instant::now();
        loop {
            let client = self.connect(connection).await?;
            let request = Request {
                program: PROGRAM,
                version: VERSION,
                procedure: procedure as u32,
                credential: &Credential::None,
                args: &args,
            };
            let error = match client.call(request, timeout).await {
                Ok(bytes) => {
                    return match decode(&bytes) {
                        Ok(Response::Ok(value)) => {
                            let after = asked_at.elapsed();
                            if procedure.is_read_only() {
                                tracing::debug!("nlmd: {procedure:?} answered after {after:?}");
                            } else {
                                tracing::info!("nlmd: {procedure:?} done after {after:?}");
                            }
                            Ok(value)
                        }
                        Ok(Response::Refused(refusal)) => {
                            tracing::info!("nlmd: {procedure:?} refused: {refusal}");
                            Err(ManagerError::Refused(refusal))
                        }
                        Err(error) => Err(self.protocol(format!("its answer to {procedure:?}: {error}"))),
                    };
                }
                Err(CallError::Rejected(error)) => return Err(self.rejected(procedure, error)),
                Err(error) => error,
            };
            connection.hang_up(&client);
            match error {
                CallError::Malformed(what) => {
                    return Err(self.protocol(format!("its answer to {procedure:?}: {what}")));
                }
                CallError::Io(_) | CallError::Refused | CallError::NotThere if !retried => retried = true,
                error if procedure.is_read_only() => return Err(self.unreachable(&error)),
                error => {
                    let what = format!("{procedure:?}: {error}");
                    return Err(ManagerError::Lost { endpoint: self.endpoint(), what });
                }
            }
        }
    }

    fn protocol(&self, what: String) -> ManagerError {
        ManagerError::Protocol { endpoint: self.endpoint(), what }
    }

    fn rejected(&self, procedure: Procedure, error: RpcError) -> ManagerError {
        match error {
            RpcError::Auth(_) => ManagerError::Refused(Refusal::new(
                RefusalCode::NotAllowed,
                format!("{procedure:?} is not allowed at {}", self.endpoint()),
            )),
            RpcError::ProgUnavail
            | RpcError::ProgMismatch { .. }
            | RpcError::ProcUnavail
            | RpcError::GarbageArgs
            | RpcError::SystemErr
            | RpcError::RpcMismatch { .. } => self.protocol(format!("{procedure:?}: {error}")),
        }
    }
}

#[async_trait]
impl LockManager for Nlmd {
    fn kind(&self) -> &'static str {
        "nlmd"
    }
    fn endpoint(&self) -> String {
        self.path.display().to_string()
    }
    async fn info(&self) -> Result<Info, ManagerError> {
        self.call(ControlCall::info()).await
    }
    async fn status(&self) -> Result<Status, ManagerError> {
        self.call(ControlCall::status()).await
    }
    async fn clients(&self) -> Result<Vec<ClientRow>, ManagerError> {
        gather(self, async |after| {
            let page = self.call(ControlCall::clients(&PageAfter { after })).await?;
            Ok((page.clients, page.next))
        })
        .await
    }
    async fn locks(&self, args: &LocksArgs) -> Result<LockPage, ManagerError> {
        self.call(ControlCall::locks(args)).await
    }
    async fn begin(&self, args: &BeginArgs) -> Result<Begun, ManagerError> {
        self.call(ControlCall::begin(args)).await
    }
    async fn run_clients(&self, run: RunId) -> Result<Vec<RunClient>, ManagerError> {
        let clients = gather(self, async |after| {
            let page = self.call(ControlCall::run_clients(&RunPageAfter { run, after })).await?;
            Ok((page.clients, page.next))
        })
        .await?;
        if (0..).zip(&clients).any(|(place, client): (u32, &RunClient)| client.index != place) {
            return Err(self.protocol("a run's clients are not numbered from 0 on".into()));
        }
        Ok(clients)
    }
    async fn progress(&self, args: &ProgressArgs) -> Result<Status, ManagerError> {
        self.call(ControlCall::progress(args)).await
    }
    async fn extend(&self, args: &ExtendArgs) -> Result<Status, ManagerError> {
        self.call(ControlCall::extend(args)).await
    }
    async fn settle(&self, args: &SettleArgs) -> Result<RunResult, ManagerError> {
        self.call(ControlCall::settle(args)).await
    }
    async fn abort(&self, run: RunId) -> Result<RunResult, ManagerError> {
        self.call(ControlCall::abort(&RunArgs { run })).await
    }
    async fn result(&self, run: RunId) -> Result<RunResult, ManagerError> {
        self.call(ControlCall::result(&RunArgs { run })).await
    }
    async fn result_clients(&self, run: RunId, after: u64) -> Result<ClientResultPage, ManagerError> {
        self.call(ControlCall::result_clients(&RunPageAfter { run, after })).await
    }
    async fn result_locks(&self, run: RunId, after: u64) -> Result<LockFatePage, ManagerError> {
        self.call(ControlCall::result_locks(&RunPageAfter { run, after })).await
    }
    async fn acknowledge(&self, run: RunId) -> Result<(), ManagerError> {
        self.call(ControlCall::acknowledge(&RunArgs { run })).await.map(|Void| ())
    }
    async fn unfetched(&self) -> Result<Vec<RunId>, ManagerError> {
        Ok(self.call(ControlCall::unfetched()).await?.runs.into_vec())
    }
    async fn release(&self, args: &ReleaseArgs) -> Result<Freed, ManagerError> {
        Ok(self.call(ControlCall::release(args)).await?.into())
    }
    async fn watch(&self, args: WatchArgs) -> Result<Watched, ManagerError> {
        let timeout = Duration::from_millis(args.timeout_ms) + self.patience;
        self.call_on(&self.watching, ControlCall::watch(&args), timeout).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_or_a_file_is_told_from_a_socket_that_nobody_listens_at() {
        let folder = tempfile::tempdir().unwrap();
        let (file, left) = (folder.path().join("runs.db"), folder.path().join("control.sock"));
        std::fs::write(&file, "").unwrap();
        drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
        for (path, is_one) in [(folder.path(), false), (&file, false), (&left, true)] {
            let error = Nlmd::new(path).status().await.unwrap_err();
            let ManagerError::Unreachable { remedy, .. } = error else { panic!("{path:?}: {error}") };
            assert_eq!(remedy.contains("this is not a socket"), !is_one, "{path:?}: {remedy}");
            assert_eq!(remedy.contains("left its socket behind"), is_one, "{path:?}: {remedy}");
        }
    }
}
