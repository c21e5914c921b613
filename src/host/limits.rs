//! The limits of this process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises this process' limit of open files to what it may have. A client over TCP takes one, and so
/// does a locked file of `ofd`; the usual soft limit of 1,024 is for programs that use select(2).
pub fn raise_open_files() {
    let files = Resource::RLIMIT_NOFILE;
    let raised = getrlimit(files).and_then(|(_, hard)| setrlimit(files, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
