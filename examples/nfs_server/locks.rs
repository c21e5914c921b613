//! The embedded lock manager: NLM and NSM in this process, with this server's say in who may lock
//! what, and with every lock taken in the file system too.

use std::fs::File;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use nfs3_server::nfs3_types::nfs3::nfsstat3;
use nfs3_server::vfs::FileHandle as _;
use nlmctl::lockd::embed::{Access, Admission, Embedding, Question};
use nlmctl::lockd::ofd::OfdMirror;
use nlmctl::wire::types::FileHandle;

use crate::export::{Export, GENERATION, Handle};

/// What this server has to say.
pub(crate) fn embedding(export: &Arc<Export>) -> Embedding {
    let opened = export.clone();
    Embedding {
        access: Some(Arc::new(Exported(export.clone()))),
        mirror: Some(Arc::new(OfdMirror::new(move |file| open(&opened, file)))),
    }
}

/// The handle that a client sends for a lock is the one that NFS gave it: the crate's prefix, then ours.
fn handle(file: &FileHandle) -> Option<Handle> {
    Handle::from_bytes(file.as_slice().strip_prefix(&GENERATION.to_le_bytes())?)
}

fn open(export: &Export, file: &FileHandle) -> io::Result<File> {
    let handle = handle(file).ok_or(io::ErrorKind::NotFound)?;
    let words = |stat: nfsstat3| io::Error::other(stat.to_string());
    // A file that only can be read still takes read locks.
    export.open_file(handle, true).or_else(|_| export.open_file(handle, false)).map_err(words)
}

#[derive(Debug)]
struct Exported(Arc<Export>);

#[async_trait]
impl Access for Exported {
    /// Regular files can be locked, by everybody: this server serves everybody alike. A server that
    /// knows its users would look at `question.credential`.
    async fn may_lock(&self, question: &Question) -> Admission {
        let Some(handle) = handle(&question.file) else { return Admission::Stale };
        let export = self.0.clone();
        match tokio::task::spawn_blocking(move || export.find(handle)).await {
            Ok(Ok((_, metadata))) if metadata.is_file() => Admission::Allowed,
            Ok(Ok(_)) | Err(_) => Admission::Denied,
            Ok(Err(_)) => Admission::Stale,
        }
    }
}
