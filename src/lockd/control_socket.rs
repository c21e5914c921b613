//! The Unix sockets of the control protocol.
//!
//! An accept loop of its own, and not `rpc::server`'s, because a run's deadline depends on whether
//! the connection that drives it is still open: each has an identity, and its end is told.
//!
//! One connection's calls run side by side ([`CALLS_PER_CONNECTION`] at most), so that a `watch`
//! does not hold up an `abort`. Their answers go out in the order in which they are ready.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::control_service::{ControlCaller, ControlService};
use super::table::ConnectionId;
use crate::wire::control::{MAX_RECORD, PROGRAM, Procedure, VERSION};
use crate::wire::record::{RecordReader, frame};
use crate::wire::rpc::{self, Answer, BadCall};

/// Connections to one socket; more are closed at once.
const CONNECTIONS_MAX: usize = 64;
/// Calls of one connection; beyond them it is not read from.
const CALLS_PER_CONNECTION: usize = 16;
/// Bytes read at a time.
const READ: usize = 64 << 10;
/// Open calls get this long to end at shutdown; a `watch` may be longer.
const DRAIN: Duration = Duration::from_secs(2);
/// A reader that takes nothing for this long is given up.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// Why a control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another process serves the control socket {0}; stop it, or give --control another path")]
    InUse(PathBuf),
    /// Something else than a socket is there, or the folder cannot be written.
    #[error("cannot make the control socket {path}: {source}; give --control another path")]
    Unusable {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A socket that is listened on; its file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    read_only: bool,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the control socket's file is left behind");
        }
    }
}

impl ControlSocket {
    /// Listens at `path`. A dead daemon's socket is replaced. The driving one is its owner's alone
    /// (0600), the read-only one everybody's (0666).
    pub async fn bind(path: &Path, read_only: bool) -> Result<Self, SocketError> {
        let unusable = |source| SocketError::Unusable { path: path.into(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(unusable)?;
        }
        let listener = match UnixListener::bind(path) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                match UnixStream::connect(path).await {
                    Ok(_) => return Err(SocketError::InUse(path.into())),
                    // Only a socket whose process is gone refuses.
                    Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
                        std::fs::remove_file(path).map_err(unusable)?;
                    }
                    Err(other) => return Err(unusable(other)),
                }
                UnixListener::bind(path).map_err(unusable)?
            }
            Err(error) => return Err(unusable(error)),
        };
        let mode = if read_only { 0o666 } else { 0o600 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(unusable)?;
        Ok(Self { listener, path: path.into(), read_only })
    }

    /// Serves until `shutdown` is true; open calls are finished.
    pub async fn serve(self, service: Arc<ControlService>, ids: Arc<AtomicU64>, mut shutdown: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                _ = shutdown.wait_for(|down| *down) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of files, say: that passes, and a loop without a pause would only burn time.
                    tracing::warn!(%error, "a control connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if connections.len() >= CONNECTIONS_MAX || !self.may_connect(&stream) {
                continue;
            }
            let connection = ConnectionId(ids.fetch_add(1, Ordering::Relaxed));
            let caller = ControlCaller { connection, read_only: self.read_only };
            let (service, shutdown) = (service.clone(), shutdown.clone());
            connections.spawn(async move {
                if let Err(error) = converse(stream, caller, &service, shutdown).await {
                    tracing::debug!(%error, "a control connection ended");
                }
                service.detached(connection).await;
            });
        }
        while connections.join_next().await.is_some() {}
    }

    fn may_connect(&self, stream: &UnixStream) -> bool {
        if self.read_only {
            return true;
        }
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() => true,
            Ok(peer) => {
                tracing::warn!(
                    uid = peer.uid(),
                    "a control connection is refused: only root and nlmd's user may drive it"
                );
                false
            }
            Err(error) => {
                tracing::warn!(%error, "a control connection without credentials is refused");
                false
            }
        }
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// One connection, until its end.
async fn converse(
    stream: UnixStream,
    caller: ControlCaller,
    service: &Arc<ControlService>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let (mut input, output) = stream.into_split();
    let output = Arc::new(tokio::sync::Mutex::new(output));
    let turns = Arc::new(Semaphore::new(CALLS_PER_CONNECTION));
    let mut records = RecordReader::new(MAX_RECORD);
    let mut calls: JoinSet<()> = JoinSet::new();
    let mut buffer = vec![0; READ];
    let ended = loop {
        let message = match records.next() {
            Ok(Some(message)) => message,
            Ok(None) => {
                let read = tokio::select! {
                    read = input.read(&mut buffer) => read,
                    Some(_) = calls.join_next(), if !calls.is_empty() => continue,
                    _ = shutdown.wait_for(|down| *down) => break Ok(()),
                };
                match read {
                    Ok(0) => break Ok(()),
                    Ok(len) => records.push(buffer.get(..len).unwrap_or_default()),
                    Err(error) => break Err(error),
                }
                continue;
            }
            Err(error) => break Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        let Ok(turn) = turns.clone().acquire_owned().await else { break Ok(()) };
        let (service, output) = (service.clone(), output.clone());
        calls.spawn(async move {
            let _turn = turn;
            let Some(reply) = reply_to(&message, caller, &service).await else { return };
            let reply = frame(&reply);
            let mut output = output.lock().await;
            let _ = tokio::time::timeout(WRITE_PATIENCE, output.write_all(&reply)).await;
        });
    };
    if *shutdown.borrow() {
        let drained = async { while calls.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN, drained).await;
    }
    ended
}

/// RFC 5531: what is no call of ours is answered as such.
async fn reply_to(message: &[u8], caller: ControlCaller, service: &ControlService) -> Option<Vec<u8>> {
    let call = match rpc::parse_call(message) {
        Ok(call) => call,
        Err(BadCall::Answer(answer)) => return Some(answer),
        Err(BadCall::Ignore) => return None,
    };
    let answer = if call.program != PROGRAM {
        Answer::ProgUnavail
    } else if call.version != VERSION {
        Answer::ProgMismatch { low: VERSION, high: VERSION }
    } else {
        match Procedure::from_number(call.procedure) {
            Some(procedure) => service.call(caller, procedure, call.args).await,
            None => Answer::ProcUnavail,
        }
    };
    Some(rpc::reply(call.xid, &answer))
}
