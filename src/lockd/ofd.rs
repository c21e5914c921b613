//! A [`Mirror`] for files of a local file system: open file description locks (fcntl(2),
//! `F_OFD_SETLK`; Linux).
//!
//! Each locked file is open once, and all that NLM clients have of it belongs to that one open file
//! description: POSIX locks of local processes, Samba and the kernel's NFSv4 server conflict with it,
//! NLM clients do not conflict with each other there. When nothing is covered any more the file is
//! closed. An exclusive lock wants a file opened for writing, a shared one a file opened for reading.
//! So the process needs a descriptor for each locked file: raise `RLIMIT_NOFILE` to what clients lock
//! (beyond it new locks are refused, and reclaims go unanswered).
//!
//! fcntl counts bytes in signed 64 bits; NLM's ranges beyond that concern no local process.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::embed::{Mirror, NotTaken};
use crate::locks::{Coverage, Holder, Part, Process};
use crate::wire::types::{ByteRange, FileHandle, OwnerHandle, Svid};

/// Opens the file of a handle, for reading and writing if that is allowed.
pub type Open = dyn Fn(&FileHandle) -> io::Result<File> + Send + Sync;

/// Mirrors into the file system's own locks.
pub struct OfdMirror {
    shared: Arc<Shared>,
}

struct Shared {
    open: Box<Open>,
    /// Files that have a lock, or are just getting one.
    files: Mutex<HashMap<FileHandle, Arc<File>>>,
}

impl fmt::Debug for OfdMirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfdMirror").field("files", &self.shared.files().len()).finish_non_exhaustive()
    }
}

impl OfdMirror {
    /// With the way from a handle to its file.
    pub fn new(open: impl Fn(&FileHandle) -> io::Result<File> + Send + Sync + 'static) -> Self {
        Self { shared: Arc::new(Shared { open: Box::new(open), files: Mutex::default() }) }
    }

    /// Opening and locking may wait for a disk.
    async fn on_disk<T: Send + 'static>(
        &self,
        file: &FileHandle,
        work: impl FnOnce(&Shared, &FileHandle) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (shared, file) = (self.shared.clone(), file.clone());
        tokio::task::spawn_blocking(move || work(&shared, &file)).await.map_err(io::Error::other)
    }
}

impl Shared {
    fn files(&self) -> MutexGuard<'_, HashMap<FileHandle, Arc<File>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, handle: &FileHandle) -> io::Result<Arc<File>> {
        if let Some(file) = self.files().get(handle) {
            return Ok(file.clone());
        }
        let file = Arc::new((self.open)(handle)?);
        Ok(self.files().entry(handle.clone()).or_insert(file).clone())
    }

    fn take(&self, handle: &FileHandle, parts: &[Part]) -> Result<(), NotTaken> {
        let file = self.opened(handle)?;
        for part in parts {
            set(&file, *part).map_err(|errno| match errno {
                Errno::EAGAIN | Errno::EACCES => NotTaken::Conflict,
                errno => NotTaken::Failed(errno.into()),
            })?;
        }
        Ok(())
    }

    fn give_up(&self, handle: &FileHandle, parts: &[Part], nothing_left: bool) {
        let known = if nothing_left { self.files().remove(handle) } else { self.files().get(handle).cloned() };
        let Some(file) = known else { return };
        for part in parts {
            if let Err(error) = set(&file, *part) {
                tracing::error!(file = %handle, range = %part.range, %error, "a lock of the file system was not given up");
            }
        }
    }

    fn holder(&self, handle: &FileHandle, part: Part) -> Option<Holder> {
        let mut lock = flock(part)?;
        // Not remembered: who only asks leaves no file open.
        let known = self.files().get(handle).cloned();
        let file = known.map_or_else(|| (self.open)(handle).map(Arc::new), Ok).ok()?;
        fcntl(&*file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
        if i32::from(lock.l_type) == libc::F_UNLCK {
            return None;
        }
        let start = u64::try_from(lock.l_start).ok()?;
        let length = u64::try_from(lock.l_len).ok()?;
        let end = if length == 0 { u64::MAX } else { start.checked_add(length - 1)? };
        Some(Holder {
            exclusive: i32::from(lock.l_type) == libc::F_WRLCK,
            // -1 for an open file description's.
            process: Process { svid: Svid(lock.l_pid), oh: OwnerHandle::new(&[]).ok()? },
            range: ByteRange { start, end },
        })
    }
}

/// What fcntl takes; `None` for a range beyond its reach.
fn flock(part: Part) -> Option<libc::flock> {
    let kind = match part.coverage {
        Coverage::Nothing => libc::F_UNLCK,
        Coverage::Shared => libc::F_RDLCK,
        Coverage::Exclusive => libc::F_WRLCK,
    };
    let start = i64::try_from(part.range.start).ok()?;
    // 0 is "to the end", which is also what lies beyond.
    let length = i64::try_from(part.range.end).ok().and_then(|end| (end - start).checked_add(1)).unwrap_or(0);
    Some(libc::flock {
        l_type: libc::c_short::try_from(kind).ok()?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).ok()?,
        l_start: start,
        l_len: length,
        l_pid: 0,
    })
}

fn set(file: &File, part: Part) -> nix::Result<()> {
    let Some(lock) = flock(part) else { return Ok(()) };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(drop)
}

#[async_trait]
impl Mirror for OfdMirror {
    async fn take(&self, file: &FileHandle, parts: &[Part]) -> Result<(), NotTaken> {
        let parts = parts.to_vec();
        self.on_disk(file, move |shared, file| shared.take(file, &parts)).await?
    }

    async fn give_up(&self, file: &FileHandle, parts: &[Part], nothing_left: bool) {
        let parts = parts.to_vec();
        let done = self.on_disk(file, move |shared, file| shared.give_up(file, &parts, nothing_left)).await;
        if let Err(error) = done {
            tracing::error!(%file, %error, "a lock of the file system was not given up");
        }
    }

    async fn holder(&self, file: &FileHandle, part: Part) -> Option<Holder> {
        self.on_disk(file, move |shared, file| shared.holder(file, part)).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file, its mirror, and a local process with locks of its own.
    struct World {
        _folder: tempfile::TempDir,
        mirror: OfdMirror,
        local: File,
    }

    fn part(start: u64, end: u64, coverage: Coverage) -> Part {
        Part { range: ByteRange { start, end }, coverage }
    }

    fn handle() -> FileHandle {
        FileHandle::new(b"file").unwrap()
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            std::fs::write(&path, "").unwrap();
            let open = |path: &std::path::Path| File::options().read(true).write(true).open(path);
            let local = open(&path).unwrap();
            let mirror = OfdMirror::new(move |handle| {
                if *handle == self::handle() { open(&path) } else { Err(io::ErrorKind::NotFound.into()) }
            });
            Self { _folder: folder, mirror, local }
        }
        fn local(&self, start: u64, end: u64, coverage: Coverage) -> bool {
            set(&self.local, part(start, end, coverage)).is_ok()
        }
        async fn take(&self, start: u64, end: u64, coverage: Coverage) -> Result<(), NotTaken> {
            self.mirror.take(&handle(), &[part(start, end, coverage)]).await
        }
    }

    #[tokio::test]
    async fn what_is_taken_excludes_local_users_and_the_other_way_round() {
        let w = World::new();
        w.take(0, 9, Coverage::Exclusive).await.unwrap();
        w.take(20, u64::MAX, Coverage::Shared).await.unwrap();
        assert!(!w.local(9, 9, Coverage::Shared));
        assert!(w.local(1 << 40, u64::MAX, Coverage::Shared));
        assert!(!w.local(1 << 40, u64::MAX, Coverage::Exclusive), "to the end of all files");
        assert!(w.local(10, 19, Coverage::Exclusive));
        let refused = w.mirror.take(&handle(), &[part(15, 30, Coverage::Shared)]).await;
        assert!(matches!(refused, Err(NotTaken::Conflict)), "{refused:?}");
        let holder = w.mirror.holder(&handle(), part(0, 30, Coverage::Exclusive)).await.unwrap();
        assert_eq!((holder.exclusive, holder.range), (true, ByteRange { start: 10, end: 19 }));
        assert_eq!(
            w.mirror.holder(&handle(), part(0, 9, Coverage::Exclusive)).await,
            None,
            "its own is not in its way"
        );
    }

    #[tokio::test]
    async fn lowering_a_part_lets_others_in_just_there_and_the_last_one_closes_the_file() {
        let w = World::new();
        w.take(0, 9, Coverage::Exclusive).await.unwrap();
        let parts = [part(0, 2, Coverage::Nothing), part(3, 5, Coverage::Shared)];
        w.mirror.give_up(&handle(), &parts, false).await;
        assert!(w.local(0, 2, Coverage::Exclusive) && w.local(3, 5, Coverage::Shared));
        assert!(!w.local(3, 3, Coverage::Exclusive) && !w.local(6, 6, Coverage::Shared));
        w.mirror.give_up(&handle(), &[part(3, 9, Coverage::Nothing)], true).await;
        assert!(w.local(0, u64::MAX, Coverage::Exclusive));
        assert!(format!("{:?}", w.mirror).contains("files: 0"));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_is_no_conflict() {
        let w = World::new();
        let other = FileHandle::new(b"other").unwrap();
        let refused = w.mirror.take(&other, &[part(0, 9, Coverage::Shared)]).await;
        assert!(matches!(refused, Err(NotTaken::Failed(_))), "{refused:?}");
        w.mirror.give_up(&other, &[part(0, 9, Coverage::Nothing)], true).await;
    }

    #[tokio::test]
    async fn ranges_beyond_fcntl_are_taken_from_nobody() {
        let w = World::new();
        w.take(1 << 63, u64::MAX, Coverage::Exclusive).await.unwrap();
        assert!(w.local(0, u64::MAX, Coverage::Exclusive));
    }
}
