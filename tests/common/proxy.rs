//! A control socket between nlmctl and nlmd that can stop at a chosen procedure, so that a controller
//! can be killed at an instant that is known.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nlmctl::wire::control::Procedure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::LIMIT;

/// Where a call stands in its record: mark, xid, type, RPC version, program, version, procedure.
const PROCEDURE_AT: usize = 4 + 5 * 4;

/// Whether calls pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Up to the chosen one.
    Open,
    /// None.
    Shut,
    /// All of them, the chosen one too.
    OpenForGood,
}

/// The proxy. Dropping it ends it.
pub struct Proxy {
    path: PathBuf,
    gate: Arc<watch::Sender<Gate>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A socket beside `control` that hands every call on up to the first one of `stop_at`, and holds
    /// back that and every later one on any connection. Answers go back as they come.
    pub fn stopping_at(control: &Path, stop_at: Procedure) -> Self {
        let path = control.with_file_name("proxy.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let control = control.to_owned();
        let gate = Arc::new(watch::channel(Gate::Open).0);
        let gate_of_all = Arc::clone(&gate);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = UnixStream::connect(&control).await.unwrap();
                let ((from_client, mut to_client), (mut from_server, to_server)) =
                    (client.into_split(), server.into_split());
                let gate = Arc::clone(&gate_of_all);
                connections.spawn(async move {
                    tokio::select! {
                        () = forward_calls(from_client, to_server, stop_at, &gate) => {}
                        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                    }
                });
            }
        });
        Self { path, gate, _tasks: tasks }
    }
    /// The socket for nlmctl.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Waits until the chosen call has come, and is held back.
    pub async fn holds(&self) {
        let mut gate = self.gate.subscribe();
        timeout(LIMIT, gate.wait_for(|gate| *gate == Gate::Shut)).await.expect("the call does not come").unwrap();
    }
    /// Hands on what was held back, and all that follows.
    pub fn go_on(&self) {
        self.gate.send_replace(Gate::OpenForGood);
    }
}

/// Whole records, so that the procedure of each is known. Ends with the client's connection.
async fn forward_calls(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    stop_at: Procedure,
    gate: &watch::Sender<Gate>,
) {
    loop {
        let mut record = vec![0; 4];
        if from.read_exact(&mut record).await.is_err() {
            return;
        }
        // nlmctl sends each call as one fragment.
        let len = u32::from_be_bytes(record[..4].try_into().unwrap()) & 0x7fff_ffff;
        record.resize(4 + len as usize, 0);
        if from.read_exact(&mut record[4..]).await.is_err() {
            return;
        }
        let procedure = u32::from_be_bytes(record[PROCEDURE_AT..][..4].try_into().unwrap());
        if procedure == stop_at as u32 {
            gate.send_if_modified(|gate| {
                let first = *gate == Gate::Open;
                if first {
                    *gate = Gate::Shut;
                }
                first
            });
        }
        if gate.subscribe().wait_for(|gate| *gate != Gate::Shut).await.is_err() || to.write_all(&record).await.is_err()
        {
            return;
        }
    }
}
