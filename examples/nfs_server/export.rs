//! The exported directory: file handles that outlive a restart, and the files behind them.
//!
//! A handle is an inode number with the time the inode was born, so that a number that the file
//! system gives out again is another handle. An inode's path cannot be asked of the kernel without
//! privileges; it is remembered as names are seen. Where the memory is wrong (somebody renamed, this
//! server was restarted) the directory is walked again; what is not found then is stale.
//!
//! Nothing here follows a symbolic link, and a file that was opened is compared with its handle: a
//! local process that swaps paths gets no client out of the export.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use nfs3_server::nfs3_types::nfs3::nfsstat3;
use nfs3_server::vfs::FileHandle;
use nix::errno::Errno;
use nix::libc;

/// Goes before each handle on the wire. The crate would take the time of its start, and make every
/// handle stale at a restart.
pub(crate) const GENERATION: u64 = u64::from_be_bytes(*b"nlmctl/1");

/// An inode: its number, and when it was born (nanoseconds since 1970; 0 where nobody knows).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Handle([u8; 16]);

impl Handle {
    fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born = born.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        Self(((u128::from(metadata.ino()) << 64) | u128::from(born)).to_be_bytes())
    }
}

impl FileHandle for Handle {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Export {
    root: PathBuf,
    /// What is mounted below the root is not exported: its inode numbers are others.
    device: u64,
    paths: Mutex<HashMap<Handle, PathBuf>>,
}

impl Export {
    /// Reads the whole tree once.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        let device = root.metadata()?.dev();
        let export = Self { root, device, paths: Mutex::default() };
        export.walk();
        Ok(export)
    }

    pub(crate) fn root(&self) -> io::Result<Handle> {
        Ok(Handle::of(&self.root.symlink_metadata()?))
    }

    fn paths(&self) -> MutexGuard<'_, HashMap<Handle, PathBuf>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is at `path`, if it is exported; its path is remembered.
    pub(crate) fn at(&self, path: PathBuf) -> Result<(Handle, Metadata), nfsstat3> {
        let metadata = path.symlink_metadata().map_err(stat)?;
        if metadata.dev() != self.device {
            return Err(nfsstat3::NFS3ERR_ACCES);
        }
        let handle = Handle::of(&metadata);
        self.paths().insert(handle, path);
        Ok((handle, metadata))
    }

    fn walk(&self) {
        let mut folders = vec![self.root.clone()];
        let _ = self.at(self.root.clone());
        while let Some(folder) = folders.pop() {
            let Ok(entries) = folder.read_dir() else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                if self.at(path.clone()).is_ok_and(|(_, metadata)| metadata.is_dir()) {
                    folders.push(path);
                }
            }
        }
    }

    fn remembered(&self, handle: Handle) -> Option<(PathBuf, Metadata)> {
        let path = self.paths().get(&handle)?.clone();
        let metadata = path.symlink_metadata().ok()?;
        (metadata.dev() == self.device && Handle::of(&metadata) == handle).then_some((path, metadata))
    }

    /// Where a handle's file is now.
    pub(crate) fn find(&self, handle: Handle) -> Result<(PathBuf, Metadata), nfsstat3> {
        if let Some(found) = self.remembered(handle) {
            return Ok(found);
        }
        self.paths().remove(&handle);
        self.walk();
        self.remembered(handle).ok_or(nfsstat3::NFS3ERR_STALE)
    }

    /// Opens a handle's file; not for symbolic links.
    pub(crate) fn open(&self, handle: Handle, write: bool) -> Result<File, nfsstat3> {
        let (path, _) = self.find(handle)?;
        // A FIFO without a peer must not hang the server.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path).map_err(stat)?;
        let metadata = file.metadata().map_err(stat)?;
        if metadata.dev() != self.device || Handle::of(&metadata) != handle {
            return Err(nfsstat3::NFS3ERR_STALE);
        }
        Ok(file)
    }

    /// Opens a regular file.
    pub(crate) fn open_file(&self, handle: Handle, write: bool) -> Result<File, nfsstat3> {
        if !self.find(handle)?.1.is_file() {
            return Err(nfsstat3::NFS3ERR_INVAL);
        }
        self.open(handle, write)
    }

    pub(crate) fn folder(&self, handle: Handle) -> Result<PathBuf, nfsstat3> {
        let (path, metadata) = self.find(handle)?;
        if metadata.is_dir() { Ok(path) } else { Err(nfsstat3::NFS3ERR_NOTDIR) }
    }

    /// The path of a name in a folder. The root has no way up.
    pub(crate) fn child(&self, folder: Handle, name: &[u8]) -> Result<PathBuf, nfsstat3> {
        let path = self.folder(folder)?;
        match name {
            b"." => Ok(path),
            b".." if path == self.root => Ok(path),
            b".." => Ok(path.parent().map_or_else(|| self.root.clone(), Path::to_path_buf)),
            _ => Ok(path.join(plain(name)?)),
        }
    }

    /// The path of a name that is to be made, removed or renamed.
    pub(crate) fn own_child(&self, folder: Handle, name: &[u8]) -> Result<PathBuf, nfsstat3> {
        if [&b"."[..], b".."].contains(&name) {
            return Err(nfsstat3::NFS3ERR_INVAL);
        }
        self.child(folder, name)
    }
}

/// A name, and no more than a name.
fn plain(name: &[u8]) -> Result<&OsStr, nfsstat3> {
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return Err(nfsstat3::NFS3ERR_INVAL);
    }
    Ok(OsStr::from_bytes(name))
}

/// What went wrong, in NFS' words (RFC 1813 section 2.6).
#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
pub(crate) fn stat(error: io::Error) -> nfsstat3 {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => nfsstat3::NFS3ERR_PERM,
        Some(Errno::ENOENT) => nfsstat3::NFS3ERR_NOENT,
        Some(Errno::EACCES) => nfsstat3::NFS3ERR_ACCES,
        Some(Errno::EEXIST) => nfsstat3::NFS3ERR_EXIST,
        Some(Errno::EXDEV) => nfsstat3::NFS3ERR_XDEV,
        Some(Errno::ENOTDIR) => nfsstat3::NFS3ERR_NOTDIR,
        Some(Errno::EISDIR) => nfsstat3::NFS3ERR_ISDIR,
        Some(Errno::EINVAL | Errno::ELOOP) => nfsstat3::NFS3ERR_INVAL,
        Some(Errno::EFBIG) => nfsstat3::NFS3ERR_FBIG,
        Some(Errno::ENOSPC) => nfsstat3::NFS3ERR_NOSPC,
        Some(Errno::EROFS) => nfsstat3::NFS3ERR_ROFS,
        Some(Errno::ENAMETOOLONG) => nfsstat3::NFS3ERR_NAMETOOLONG,
        Some(Errno::ENOTEMPTY) => nfsstat3::NFS3ERR_NOTEMPTY,
        Some(Errno::EDQUOT) => nfsstat3::NFS3ERR_DQUOT,
        _ => nfsstat3::NFS3ERR_IO,
    }
}
