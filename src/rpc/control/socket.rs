//! The Unix sockets of the control protocol.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::service::{ControlService, LockManagerControl};
use crate::rpc::arrivals::Arrivals;
use crate::rpc::server::{Limits, serve_unix};
use crate::shares::Bounds;
use crate::wire::control::MAX_RECORD;

/// The driving socket's: root's own programs use it. A `watch` does not hold up an `abort`: one connection's
/// calls run side by side.
const DRIVING: Limits = Limits {
    connections: Bounds { all: 64, host: 64 },
    calls: 64 * 16,
    calls_per_connection: 16,
    max_record: MAX_RECORD,
    // For ever: a controller that has nothing to say is still its run's controller.
    idle: Duration::from_hours(24 * 365),
    transfer: Duration::from_secs(30),
    // A `watch` may be longer.
    drain: Duration::from_secs(2),
};

/// The read-only socket's, which every local user may have: what one user can take up is little, and others
/// find room beside that user.
const READ_ONLY: Limits = Limits {
    connections: Bounds { all: 64, host: 8 },
    // One for each connection: a `watch` keeps its own as long as it sleeps.
    calls: 64,
    calls_per_connection: 1,
    // Of a request. A filter by a thousand files fits.
    max_record: 64 << 10,
    idle: Duration::from_mins(1),
    transfer: Duration::from_secs(10),
    ..DRIVING
};

/// Why a control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A server answers there.
    #[error("another process serves the control socket {0}; stop it, or give --control another path")]
    InUse(PathBuf),
    /// Something other than a socket is there, or the folder cannot be written.
    #[error("cannot make the control socket {path}: {source}; give --control another path")]
    Unusable {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A listening socket; its file is removed with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
    arrivals: Arrivals,
    read_only: bool,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "the control socket's file is left behind");
        }
    }
}

impl ControlSocket {
    /// Listens at `path`. A dead daemon's socket is replaced. The driving one is its owner's alone
    /// (0600), the read-only one every user's (0666).
    pub async fn bind(path: &Path, read_only: bool) -> Result<Self, SocketError> {
        let unusable = |source| SocketError::Unusable { path: path.into(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(unusable)?;
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
        set_mode(path, mode).map_err(unusable)?;
        Ok(Self { listener, file: SocketFile(path.into()), arrivals: Arrivals::default(), read_only })
    }

    /// Counted with the other sockets of a lock manager, but for the read-only one: no deadline waits for what comes there, and
    /// any local user could let it wait.
    pub(crate) fn among(self, arrivals: &Arrivals) -> Self {
        if self.read_only { self } else { Self { arrivals: arrivals.clone(), ..self } }
    }

    /// Serves until `shutdown` is true; open calls are finished. An error is the socket's.
    pub async fn serve<M: LockManagerControl>(
        self,
        manager: Arc<M>,
        shutdown: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let Self { listener, file, arrivals, read_only } = self;
        let _file = file;
        let limits = if read_only { READ_ONLY } else { DRIVING };
        serve_unix(listener, Arc::new(ControlService { manager, read_only }), arrivals, limits, shutdown).await
    }
}

/// Sets the mode of a socket's file, and of nothing that the owner of its folder has put in its place.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "something else has taken its place"));
    }
    std::fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), Permissions::from_mode(mode))
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn no_deadline_waits_for_what_comes_at_the_read_only_socket() {
        let home = tempfile::tempdir().unwrap();
        for read_only in [true, false] {
            let (path, arrivals) = (home.path().join("socket"), Arrivals::new().unwrap());
            let socket = ControlSocket::bind(&path, read_only).await.unwrap().among(&arrivals);
            socket.arrivals.watch(&socket.listener).unwrap();
            let _waits = std::os::unix::net::UnixStream::connect(&path).unwrap();
            assert_eq!(arrivals.are_handled(), read_only);
        }
    }

    #[test]
    fn no_connection_waits_for_the_calls_of_others() {
        for limits in [DRIVING, READ_ONLY] {
            assert!(limits.calls >= limits.connections.all * limits.calls_per_connection);
        }
    }

    #[test]
    fn what_took_the_place_of_a_socket_keeps_its_mode() {
        let home = tempfile::tempdir().unwrap();
        let (socket, precious) = (home.path().join("socket"), home.path().join("precious"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for bits in [0o600, 0o666] {
            set_mode(&socket, bits).unwrap();
            assert_eq!(mode(&socket), bits);
        }
        fs::write(&precious, "").unwrap();
        fs::set_permissions(&precious, Permissions::from_mode(0o640)).unwrap();
        fs::remove_file(&socket).unwrap();
        symlink(&precious, &socket).unwrap();
        assert!(set_mode(&socket, 0o666).is_err());
        assert!(set_mode(&precious, 0o666).is_err());
        assert_eq!(mode(&precious), 0o640);
    }
}
